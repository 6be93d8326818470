//! Inserting many rows at once: one WAL record a page instead of one a row, and one index after the other.

use super::errors::Failure;
use super::relation;
use super::roles::as_owner_of;
use super::tables::{tid, Table};
use pgrx::{pg_sys, PgSqlErrorCode};
use std::cell::Cell;

// Declared here because pgrx wraps each call in error handling, which is a good part of the time of these short calls.
// Here one such wrapper surrounds many calls.
extern "C-unwind" {
    fn ExecStoreHeapTuple(
        tuple: pg_sys::HeapTuple,
        slot: *mut pg_sys::TupleTableSlot,
        should_free: bool,
    ) -> *mut pg_sys::TupleTableSlot;
    fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, attribute: i32);
    pub fn index_insert(
        index: pg_sys::Relation,
        values: *mut pg_sys::Datum,
        nulls: *mut bool,
        tid: pg_sys::ItemPointer,
        table: pg_sys::Relation,
        uniqueness: pg_sys::IndexUniqueCheck::Type,
        is_unchanged: bool,
        info: *mut pg_sys::IndexInfo,
    ) -> bool;
}

/// After this many bytes of rows the WAL writer is asked to write.
const WAL_BYTES: usize = 256 << 10;

thread_local! {
    /// How many bytes of rows this process has inserted since it last asked: a statement inserts its rows in many
    /// batches.
    static LOGGED: Cell<usize> = const { Cell::new(0) };
}

/// Rows that wait to be inserted together.
pub struct BulkInsert<'a> {
    table: &'a Table,
    /// A copy of the table's descriptor, because each slot would note that it uses the table's own.
    descriptor: pg_sys::TupleDesc,
    indexes: pg_sys::CatalogIndexState,
    filling: Filling,
    placement: Placement,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    /// The rows that wait, and their bytes.
    tuples: Vec<pg_sys::HeapTuple>,
    bytes: usize,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    /// The lowest page that a row was put on.
    lowest_page: u32,
}

/// How the indexes are filled.
enum Filling {
    Columns(Vec<IndexColumns>),
    /// An index is on an expression or on some of the rows, or belongs to an exclusion constraint: the owner of the
    /// table can have created it. Postgres' executor can fill it; the functions for catalogs cannot, and crash. It
    /// evaluates the owner's functions, with the owner's rights: the worker has those of a superuser, which the owner
    /// may not be any more.
    Executor(*mut pg_sys::EState),
}

struct IndexColumns {
    index: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
    shape: IndexShape,
}

/// The shape of an index that is on columns of all rows.
pub struct IndexShape {
    /// Places of the columns, from 0.
    pub attributes: Vec<usize>,
    pub uniqueness: pg_sys::IndexUniqueCheck::Type,
}

impl IndexShape {
    /// `None` if the index is anything else.
    ///
    /// # Safety
    /// `index` is open, and `info` was built from it.
    pub unsafe fn of(index: pg_sys::Relation, info: *mut pg_sys::IndexInfo) -> Option<IndexShape> {
        let built = &*info;
        let is_whole = built.ii_Predicate.is_null() && built.ii_ExclusionOps.is_null();
        let is_immediate = (*(*index).rd_index).indimmediate;
        let numbers = &built.ii_IndexAttrNumbers[..built.ii_NumIndexAttrs as usize];
        let attributes: Option<Vec<usize>> =
            numbers.iter().map(|number| usize::try_from(*number).ok()?.checked_sub(1)).collect();
        let uniqueness = match (*(*index).rd_index).indisunique {
            true => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES,
            false => pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO,
        };
        let usable = is_whole && is_immediate && built.ii_ReadyForInserts;
        usable.then_some(IndexShape { attributes: attributes?, uniqueness })
    }
}

/// Where the rows go.
enum Placement {
    /// Where there is room.
    Anywhere,
    /// Behind all rows that the table has, and in the order in which they come. Otherwise a short row would fill what a
    /// longer one has left of an earlier page, and whoever reads the table from its start would not find this order.
    AtEnd(Box<BulkState>),
}

/// The state of a bulk insert as Postgres keeps it (access/hio.h). Pages that a table grew by are found by way of it,
/// so that they need not be in the free space map. This one has no ring of buffers: a ring would make this process
/// write to the disk what it inserts, and sync the WAL for it.
#[repr(C)]
#[allow(dead_code, reason = "what is not read here is read by Postgres")]
struct BulkState {
    strategy: pg_sys::BufferAccessStrategy,
    current_buffer: pg_sys::Buffer,
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    next_free: pg_sys::BlockNumber,
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    last_free: pg_sys::BlockNumber,
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    already_extended_by: u32,
}

impl BulkState {
    fn new() -> Self {
        BulkState {
            strategy: std::ptr::null_mut(),
            current_buffer: pg_sys::InvalidBuffer as pg_sys::Buffer,
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            next_free: pg_sys::InvalidBlockNumber,
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            last_free: pg_sys::InvalidBlockNumber,
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            already_extended_by: 0,
        }
    }
}

impl Placement {
    /// What the functions of a heap are told: options, and the state of a bulk insert.
    fn arguments(&mut self) -> (i32, pg_sys::BulkInsertState) {
        match self {
            Placement::Anywhere => (0, std::ptr::null_mut()),
            Placement::AtEnd(state) => {
                // Each time Postgres would grow the table by at least as many pages as before. What is not filled would
                // stay empty for ever, as nothing else inserts here.
                #[cfg(not(any(feature = "pg14", feature = "pg15")))]
                {
                    state.already_extended_by = 0;
                }
                (pg_sys::HEAP_INSERT_SKIP_FSM as i32, (&raw mut **state).cast())
            }
        }
    }

    /// Lets go of the page that was filled last. After an error, the end of the transaction does so.
    fn release(&mut self) {
        if let Placement::AtEnd(state) = self {
            if state.current_buffer != pg_sys::InvalidBuffer as pg_sys::Buffer {
                // SAFETY: the functions of a heap have left a pin on it, for whoever has this state.
                unsafe { pg_sys::ReleaseBuffer(state.current_buffer) };
            }
            **state = BulkState::new();
        }
    }
}

impl<'a> BulkInsert<'a> {
    /// Rows that go in at once, and their bytes: at most 64 pages, by which Postgres lets a table grow in one step. If
    /// a second step were needed, it would be as large as the first, and some of it could stay empty. (Where there are
    /// fewer buffers for each connection, steps are smaller, and so is what can stay empty.)
    const ROWS: usize = 512;
    const BYTES: usize = 256 << 10;

    /// Puts rows where there is room.
    pub fn new(table: &'a Table) -> Self {
        Self::with(table, Placement::Anywhere)
    }

    /// Puts rows at the end of the table, which must be a heap, in the order in which they come.
    pub fn at_end(table: &'a Table) -> Self {
        // SAFETY: the table is open. Postgres would go on where this process has last put a row; another may have put
        // some behind it since.
        unsafe {
            if let Some(storage) = (*table.relation()).rd_smgr.as_mut() {
                storage.smgr_targblock = pg_sys::InvalidBlockNumber;
            }
        }
        Self::with(table, Placement::AtEnd(Box::new(BulkState::new())))
    }

    fn with(table: &'a Table, placement: Placement) -> Self {
        // SAFETY: the table is open, and stays open while this value borrows it. CatalogOpenIndexes says how many
        // indexes there are, and keeps them open until finish().
        unsafe {
            let indexes = pg_sys::CatalogOpenIndexes(table.relation());
            let descriptor = pg_sys::CreateTupleDescCopy(table.descriptor());
            let count = (*indexes).ri_NumIndices as usize;
            let of = |at| {
                let index = *(*indexes).ri_IndexRelationDescs.add(at);
                let info = *(*indexes).ri_IndexRelationInfo.add(at);
                Some(IndexColumns { index, info, shape: IndexShape::of(index, info)? })
            };
            let columns: Option<Vec<IndexColumns>> = (0..count).map(of).collect();
            BulkInsert {
                table,
                descriptor,
                indexes,
                filling: columns.map_or_else(|| Filling::Executor(pg_sys::CreateExecutorState()), Filling::Columns),
                placement,
                slots: Vec::new(),
                tuples: Vec::new(),
                bytes: 0,
                values: Vec::new(),
                nulls: Vec::new(),
                lowest_page: u32::MAX,
            }
        }
    }

    pub fn insert(&mut self, row: &[Option<pg_sys::Datum>]) {
        let tuple = self.form(row);
        // SAFETY: nobody else has seen the tuple.
        unsafe { self.insert_tuple(tuple) };
    }

    /// Inserts a tuple, and frees it: of one that it may not free, Postgres would make a copy.
    ///
    /// # Safety
    /// The tuple has this table's shape, and was allocated by itself. The caller does not use it any more.
    pub unsafe fn insert_tuple(&mut self, tuple: pg_sys::HeapTuple) {
        if may_be_toasted(tuple) {
            self.insert_alone(tuple);
            return;
        }
        self.tuples.push(tuple);
        self.bytes += (*tuple).t_len as usize;
        if self.tuples.len() == Self::ROWS || self.bytes >= Self::BYTES {
            self.flush();
        }
    }

    /// As [`Table::form`], in buffers that are reused.
    fn form(&mut self, row: &[Option<pg_sys::Datum>]) -> pg_sys::HeapTuple {
        assert_eq!(row.len(), self.table.column_count());
        self.values.clear();
        self.values.extend(row.iter().map(|value| value.unwrap_or(pg_sys::Datum::null())));
        self.nulls.clear();
        self.nulls.extend(row.iter().map(Option::is_none));
        // SAFETY: `row` has one value or null for each column, as asserted, of the types of the ledger's own table.
        unsafe { pg_sys::heap_form_tuple(self.descriptor, self.values.as_mut_ptr(), self.nulls.as_mut_ptr()) }
    }

    /// Inserts a tuple that TOAST will rewrite, after the tuples before it. The multi-insert is made for catalogs
    /// without TOAST: its index entries would point to nowhere.
    ///
    /// # Safety
    /// As for [`Self::insert_tuple`].
    unsafe fn insert_alone(&mut self, tuple: pg_sys::HeapTuple) {
        self.flush();
        let (options, state) = self.placement.arguments();
        let command = pg_sys::GetCurrentCommandId(true);
        pg_sys::heap_insert(self.table.relation(), tuple, command, options, state);
        self.tuples.push(tuple);
        self.fill_slots();
        self.end_rows();
        // It may be large, and no other row may come.
        let slot = self.slots[0];
        (*(*slot).tts_ops).clear.expect("all kinds of slots have this function")(slot);
    }

    fn flush(&mut self) {
        if self.tuples.is_empty() {
            return;
        }
        self.fill_slots();
        let (relation, slots, filled) = (self.table.relation(), self.slots.as_mut_ptr(), self.tuples.len() as i32);
        let (options, state) = self.placement.arguments();
        // SAFETY: the first `filled` slots hold tuples of this table, which is open. The state outlives the call.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            pg_sys::heap_multi_insert(relation, slots, filled, command, options, state);
            self.end_rows();
        }
    }

    /// Fills the indexes.
    ///
    /// # Safety
    /// The rows that wait have been inserted, and the first slots hold them.
    unsafe fn end_rows(&mut self) {
        let slots = &self.slots[..self.tuples.len()];
        self.lowest_page = slots.iter().map(|slot| tid((**slot).tts_tid).0).fold(self.lowest_page, u32::min);
        match &self.filling {
            Filling::Columns(columns) => columns.iter().for_each(|index| self.insert_into(index)),
            Filling::Executor(executor) => as_owner_of(self.table.relation(), || {
                slots.iter().for_each(|slot| self.insert_by(*executor, *slot));
            }),
        }
        self.bytes = 0;
        // A slot keeps its tuple until it is used again or dropped.
        let bytes: usize = self.tuples.drain(..).map(|tuple| (*tuple).t_len as usize).sum();
        LOGGED.set(LOGGED.get() + bytes);
        self.write_wal_meanwhile();
    }

    /// Makes Postgres' WAL writer write and sync the WAL so far, while this process goes on. Otherwise all of it is
    /// left to the commit, which then waits for the disk.
    fn write_wal_meanwhile(&self) {
        if LOGGED.get() < WAL_BYTES {
            return;
        }
        LOGGED.set(0);
        // SAFETY: only passes on where this process's newest record ends, as an asynchronous commit does.
        unsafe { pg_sys::XLogSetAsyncXactLSN(pg_sys::XactLastRecEnd) };
    }

    /// Puts the tuples into slots of this table's shape. The slots are reused, and dropped in finish().
    fn fill_slots(&mut self) {
        while self.slots.len() < self.tuples.len() {
            // SAFETY: the descriptor is this value's own copy, and is freed after the slots.
            let slot = unsafe { pg_sys::MakeSingleTupleTableSlot(self.descriptor, &raw const pg_sys::TTSOpsHeapTuple) };
            self.slots.push(slot);
        }
        let slots = self.slots.iter().zip(&self.tuples);
        // SAFETY: the tuples have the slots' shape, and only the slots free them. An error may jump out of the closure:
        // nothing in it has a destructor or can panic.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                slots.for_each(|(slot, tuple)| {
                    ExecStoreHeapTuple(*tuple, *slot, true);
                });
            });
        }
    }

    /// Inserts the entries of all rows into one index. Filling one index after the other keeps the pages that the
    /// entries go to, and the way there, in the processor's caches.
    ///
    /// # Safety
    /// The rows in the slots have been inserted.
    unsafe fn insert_into(&self, index: &IndexColumns) {
        let (mut values, mut nulls) = ([pg_sys::Datum::null(); MAX_KEYS], [false; MAX_KEYS]);
        let needed = index.shape.attributes.iter().max().map_or(0, |last| last + 1) as i32;
        let (slots, table) = (&self.slots[..self.tuples.len()], self.table.relation());
        // Nothing in the closure has a destructor or can panic.
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            for slot in slots {
                if i32::from((**slot).tts_nvalid) < needed {
                    slot_getsomeattrs_int(*slot, needed);
                }
                let keys = values.iter_mut().zip(&mut nulls).zip(&index.shape.attributes);
                keys.for_each(|((value, is_null), attribute)| {
                    *value = *(**slot).tts_values.add(*attribute);
                    *is_null = *(**slot).tts_isnull.add(*attribute);
                });
                let (values, nulls, tid) = (values.as_mut_ptr(), nulls.as_mut_ptr(), &raw mut (**slot).tts_tid);
                index_insert(index.index, values, nulls, tid, table, index.shape.uniqueness, false, index.info);
            }
        });
    }

    /// Inserts the entries of one row. Called as the owner of the table.
    ///
    /// # Safety
    /// The row has been inserted, and the slot knows where.
    unsafe fn insert_by(&self, executor: *mut pg_sys::EState, slot: *mut pg_sys::TupleTableSlot) {
        insert_index_entries(self.indexes, executor, slot, false);
        let context = (*executor).es_per_tuple_exprcontext;
        if !context.is_null() {
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
        }
    }

    /// Returns the lowest page that a row was put on.
    pub fn finish(mut self) -> u32 {
        self.flush();
        self.placement.release();
        // SAFETY: this value made all of these, and does not use them any more.
        unsafe {
            for slot in &self.slots {
                pg_sys::ExecDropSingleTupleTableSlot(*slot);
            }
            pg_sys::FreeTupleDesc(self.descriptor);
            pg_sys::CatalogCloseIndexes(self.indexes);
            if let Filling::Executor(executor) = self.filling {
                pg_sys::FreeExecutorState(executor);
            }
        }
        self.lowest_page
    }
}

/// Inserts the index entries of one row version, as Postgres' executor does: into indexes of any kind.
///
/// # Safety
/// The row version has been inserted, and the slot knows where. The indexes are those of its table. With
/// `only_summarizing`, only those indexes get an entry that an update has to tell even though the new version is found
/// by way of the old one.
pub unsafe fn insert_index_entries(
    indexes: pg_sys::CatalogIndexState,
    executor: *mut pg_sys::EState,
    slot: *mut pg_sys::TupleTableSlot,
    #[allow(unused_variables, reason = "before Postgres 16 there is no such choice")] only_summarizing: bool,
) {
    let none = std::ptr::null_mut();
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    let in_doubt = pg_sys::ExecInsertIndexTuples(indexes, slot, executor, false, false, none, std::ptr::null_mut());
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    let in_doubt = pg_sys::ExecInsertIndexTuples(
        indexes,
        slot,
        executor,
        false,
        false,
        none,
        std::ptr::null_mut(),
        only_summarizing,
    );
    if !in_doubt.is_null() {
        refuse_doubt((*(*in_doubt).elements).oid_value);
    }
}

/// Raises the error of a deferrable constraint, which Postgres would check again by a trigger: no row of the ledger has
/// one.
fn refuse_doubt(index: pg_sys::Oid) -> ! {
    let name = relation::bare_name(index);
    Failure::new(
        PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
        format!("a new row violates deferrable constraint \"{name}\""),
    )
    .detail("Tables of the ledger check such a constraint immediately.")
    .hint("Only a superuser can have added the constraint. Drop it if it is not wanted.")
    .raise()
}

/// Columns of an index.
pub const MAX_KEYS: usize = pg_sys::INDEX_MAX_KEYS as usize;

/// Whether storing the tuple may store another one, with large values moved out or compressed: it already has such
/// values, or is longer than a bit less than TOAST_TUPLE_THRESHOLD.
///
/// # Safety
/// The tuple is in place and whole.
unsafe fn may_be_toasted(tuple: pg_sys::HeapTuple) -> bool {
    let threshold = pg_sys::BLCKSZ / 4 - 64;
    u32::from((*(*tuple).t_data).t_infomask) & pg_sys::HEAP_HASEXTERNAL != 0 || (*tuple).t_len > threshold
}
