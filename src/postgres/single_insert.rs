//! Inserts one row into a table of the ledger. It does what Postgres does for its catalogs, but does not find out for
//! each row which triggers the table has and what its indexes are on.

use super::bulk_insert::{index_insert, IndexShape, MAX_KEYS};
use super::tables::{self, Table};
use pgrx::pg_sys::{self, ffi::pg_guard_ffi_boundary, Datum};

/// The indexes of a table. Valid as long as the table does not change.
pub struct Indexes(Vec<Index>);

struct Index {
    oid: pg_sys::Oid,
    shape: IndexShape,
    info: pg_sys::IndexInfo,
}

/// Postgres' own functions, not pgrx's wrappers, because one error boundary surrounds all of them.
mod postgres {
    use pgrx::pg_sys::{self, Datum};

    extern "C-unwind" {
        pub fn heap_form_tuple(
            descriptor: pg_sys::TupleDesc,
            values: *const Datum,
            nulls: *const bool,
        ) -> pg_sys::HeapTuple;
        pub fn heap_freetuple(tuple: pg_sys::HeapTuple);
        pub fn GetCurrentCommandId(used: bool) -> pg_sys::CommandId;
        pub fn heap_insert(
            relation: pg_sys::Relation,
            tuple: pg_sys::HeapTuple,
            command: pg_sys::CommandId,
            options: i32,
            bulk: pg_sys::BulkInsertState,
        );
        pub fn index_open(index: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> pg_sys::Relation;
        pub fn index_close(index: pg_sys::Relation, lock: pg_sys::LOCKMODE);
    }
}

const LOCK: pg_sys::LOCKMODE = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;

impl Indexes {
    /// `None` if one of them is more than a B-tree on columns.
    pub fn of(table: &Table) -> Option<Indexes> {
        // SAFETY: the table is open. The state says how many indexes there are, and they are open until they are closed
        // below.
        unsafe {
            let state = pg_sys::CatalogOpenIndexes(table.relation());
            let index = |at: usize| {
                let (index, info) = (*(*state).ri_IndexRelationDescs.add(at), *(*state).ri_IndexRelationInfo.add(at));
                Index::of(index, info)
            };
            let indexes = (0..(*state).ri_NumIndices as usize).map(index).collect();
            pg_sys::CatalogCloseIndexes(state);
            Option::map(indexes, Indexes)
        }
    }

    /// Inserts one row and its index entries, into the table that these are the indexes of. Returns the page of the
    /// row.
    pub fn insert<const COLUMNS: usize>(&self, table: &Table, row: &[Option<Datum>; COLUMNS]) -> u32 {
        assert_eq!(COLUMNS, table.column_count());
        let (relation, descriptor) = (table.relation(), table.descriptor());
        let (values, nulls) = (row.map(|value| value.unwrap_or(Datum::null())), row.map(|value| value.is_none()));
        // SAFETY: the table is open and locked for writing, and there is one value and one null flag for each column,
        // of the right type. An error may jump out of the closure, which has nothing with a destructor.
        unsafe {
            pg_guard_ffi_boundary(|| {
                let tuple = postgres::heap_form_tuple(descriptor, values.as_ptr(), nulls.as_ptr());
                let command = postgres::GetCurrentCommandId(true);
                postgres::heap_insert(relation, tuple, command, 0, std::ptr::null_mut());
                for index in &self.0 {
                    index.insert(relation, &raw mut (*tuple).t_self, &values, &nulls);
                }
                let tid = (*tuple).t_self;
                postgres::heap_freetuple(tuple);
                tables::tid(tid).0
            })
        }
    }
}

impl Index {
    /// # Safety
    /// `index` is open, and `info` was built from it.
    unsafe fn of(index: pg_sys::Relation, info: *mut pg_sys::IndexInfo) -> Option<Index> {
        let is_btree = (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID;
        let shape = IndexShape::of(index, info).filter(|_| is_btree)?;
        // For a B-tree on columns, Postgres looks at nothing that the copied struct points to.
        Some(Index { oid: (*index).rd_id, shape, info: *info })
    }

    /// # Safety
    /// Within [`pg_guard_ffi_boundary`]. The row has just been inserted into the table that this is an index of.
    unsafe fn insert(&self, table: pg_sys::Relation, tid: pg_sys::ItemPointer, row: &[Datum], row_nulls: &[bool]) {
        let (mut values, mut nulls) = ([Datum::null(); MAX_KEYS], [false; MAX_KEYS]);
        for (key, attribute) in self.shape.attributes.iter().enumerate() {
            (values[key], nulls[key]) = (row[*attribute], row_nulls[*attribute]);
        }
        let index = postgres::index_open(self.oid, LOCK);
        index_insert(
            index,
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
            tid,
            table,
            self.shape.uniqueness,
            false,
            (&raw const self.info).cast_mut(),
        );
        postgres::index_close(index, LOCK);
    }
}
