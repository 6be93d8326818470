//! The ledger's tables as the storage layer sees them: rows in, rows out, without SQL.
//!
//! Entries and blocks are written below the executor. That is what makes "only sealing may" true: the triggers refuse
//! every statement that claims a row is sealed, and no statement could set a flag to get past them. The functions are
//! those with which Postgres writes its own catalogs, so TOAST, indexes and WAL are kept in order.

mod blocks;
mod entries;
pub mod look_up;
mod scan;
mod short_values;
mod snapshot;

use super::encoding::{self, NOT_TEXT};
use super::errorless;
use super::errors::{is_unwinding, or_raise, Failure};
use super::jsonb;
use super::quoting::identifier;
use super::schema;
use crate::ledger::record::Timestamp;
use pgrx::{pg_sys, FromDatum, IntoDatum};
use std::ffi::{CStr, CString};
use std::mem::ManuallyDrop;
use uuid::Uuid;

pub use blocks::{block, block_column, block_malformation, head_number, header_from_row, newest_block, BLOCKS_FROM};
pub use entries::{
    block_number, detoasted_metadata, entry_column, entry_from_row, entry_line, entry_line_with, fault_of,
    is_about_rows, leaf_index, leaf_of, malformation, metadata_text, new_entry_from_row, row_ids, sealed_where,
    stored_entry, SealedTuple,
};
pub use scan::{prefetch_next, tid, tid_of, KeyScan, TableScan, Tid};
pub use short_values::ShortValues;
pub use snapshot::{dirty_snapshot, RegisteredSnapshot, SnapshotContent};

/// Microseconds from the Unix epoch to Postgres' (2000-01-01).
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A time that no line can state reads as the epoch. Only a superuser can have put it there; [`malformation`] reports
/// it.
pub fn timestamp_from_postgres(timestamp: pg_sys::TimestampTz) -> Timestamp {
    checked_timestamp(timestamp).unwrap_or_default()
}

/// `None` if it is infinite or outside the years a line can state.
pub fn checked_timestamp(timestamp: pg_sys::TimestampTz) -> Option<Timestamp> {
    Timestamp::from_micros(timestamp.checked_add(POSTGRES_EPOCH_MICROS)?).ok()
}

pub fn now() -> Timestamp {
    timestamp_from_postgres(errorless::clock())
}

pub fn timestamp_to_postgres(timestamp: Timestamp) -> pg_sys::TimestampTz {
    timestamp.micros() - POSTGRES_EPOCH_MICROS
}

// Declared here because pgrx wraps each call in error handling, which takes a tenth of the time of a deletion. Here one
// such wrapper surrounds many calls.
extern "C-unwind" {
    fn simple_heap_delete(relation: pg_sys::Relation, tid: pg_sys::ItemPointer);
}

/// The oid of a table or index of the schema `ledger`; an ERROR if it is gone, or if the database's texts are not
/// UTF-8.
pub fn oid_of(name: &str) -> pg_sys::Oid {
    or_raise(encoding::require_utf8());
    // SAFETY: catalog look-ups inside a transaction.
    let oid = unsafe {
        let schema = or_raise(schema::require());
        let name = CString::new(name).expect("our own names hold no NUL");
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    if oid == pg_sys::InvalidOid {
        Failure::new(
            pgrx::PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            format!("relation \"ledger.{name}\" does not exist"),
        )
        .detail("It belongs to extension pg_notary, and was dropped, renamed or moved to another schema.")
        .hint("If it still exists under another name or in another schema, rename or move it back. Otherwise rebuild the ledger from its file.")
        .raise();
    }
    oid
}

/// An open table, closed when dropped; its lock is kept until the transaction ends.
pub struct Table {
    relation: pg_sys::Relation,
    /// Where the columns stand by which rows are read, if they are not in the ledger's order.
    order: Option<Box<[usize]>>,
}

impl Table {
    pub fn open(name: &str, lock: u32) -> Table {
        Table::open_oid(oid_of(name), lock)
    }

    pub fn open_oid(oid: pg_sys::Oid, lock: u32) -> Table {
        // SAFETY: null if there is no such table.
        let relation = unsafe { pg_sys::try_table_open(oid, lock as pg_sys::LOCKMODE) };
        if relation.is_null() {
            // It existed when it was looked up.
            Failure::new(
                pgrx::PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                format!("relation with OID {} does not exist any more", oid.to_u32()),
            )
            .detail("It was dropped by another transaction meanwhile.")
            .raise();
        }
        Table { relation, order: None }
    }

    /// The table of a trigger. It is open as long as the trigger runs, so it is not closed here.
    pub fn of_trigger(data: &pg_sys::TriggerData) -> ManuallyDrop<Table> {
        ManuallyDrop::new(Table { relation: data.tg_relation, order: None })
    }

    /// A table with rows of `ledger.entries`, whoever created it: its rows are read by the columns of `ledger.entries`.
    pub fn open_entries(oid: pg_sys::Oid, lock: u32) -> Table {
        let mut table = Table::open_oid(oid, lock);
        table.order = entries::column_order(&table);
        table
    }

    /// Whether the table has its columns in the ledger's order, so that rows can be written.
    pub fn has_own_order(&self) -> bool {
        self.order.is_none()
    }

    /// The number in pg_attribute of a column by which rows are read.
    pub fn attribute_number(&self, column: usize) -> pg_sys::AttrNumber {
        let position = self.order.as_ref().map_or(column, |order| order[column]);
        (position + 1) as pg_sys::AttrNumber
    }

    pub fn relation(&self) -> pg_sys::Relation {
        self.relation
    }

    /// What `pg_class` says of the table.
    pub fn pg_class(&self) -> &pg_sys::FormData_pg_class {
        // SAFETY: a `Table` keeps its relation open as long as it lives. Postgres updates this copy of the row in
        // place.
        unsafe { &*(*self.relation).rd_rel }
    }

    pub fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: a `Table` keeps its relation open as long as it lives.
        unsafe { (*self.relation).rd_att }
    }

    pub fn column_count(&self) -> usize {
        // SAFETY: a `Table` keeps its relation open as long as it lives.
        unsafe { (*self.descriptor()).natts as usize }
    }

    /// What the catalog says of the column at this position, from 0, dropped or not.
    pub fn attribute(&self, position: usize) -> &pg_sys::FormData_pg_attribute {
        assert!(position < self.column_count());
        // SAFETY: the relation is open as long as this is borrowed, and has that many attributes, as asserted.
        unsafe { attribute(self.descriptor(), position) }
    }

    /// Where the column of this name stands in a row, from 0.
    pub fn position_of(&self, name: &str) -> Option<usize> {
        let is_named = |attribute: &pg_sys::FormData_pg_attribute| {
            // SAFETY: a name ends with a zero byte.
            !attribute.attisdropped
                && unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) }.to_bytes() == name.as_bytes()
        };
        (0..self.column_count()).find(|position| is_named(self.attribute(*position)))
    }

    /// Makes the tuple of one row; `None` is null.
    pub fn form(&self, row: &[Option<pg_sys::Datum>]) -> pg_sys::HeapTuple {
        assert_eq!(row.len(), self.column_count());
        let mut nulls: Vec<bool> = row.iter().map(Option::is_none).collect();
        let mut values: Vec<pg_sys::Datum> = row.iter().map(|value| value.unwrap_or(pg_sys::Datum::null())).collect();
        // SAFETY: there is one value and one null flag for each column, as asserted, of the types of the ledger's own
        // table.
        unsafe { pg_sys::heap_form_tuple(self.descriptor(), values.as_mut_ptr(), nulls.as_mut_ptr()) }
    }

    /// Deletes the row at `tid`; an ERROR if another transaction changed it meanwhile.
    pub fn delete(&self, tid: &mut pg_sys::ItemPointerData) {
        // SAFETY: the table is locked for writing and tid came from a scan of it.
        unsafe { pg_sys::simple_heap_delete(self.relation, tid) }
    }

    /// As [`Table::delete`], for many rows.
    pub fn delete_all(&self, tids: &mut [pg_sys::ItemPointerData]) {
        let relation = self.relation;
        // SAFETY: the table is locked for writing, and the places came from a scan of it. An error may jump out of the
        // closure: nothing in it has a destructor or can panic.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| tids.iter_mut().for_each(|tid| simple_heap_delete(relation, tid)));
        }
    }

    /// One column of a tuple of this table that is a bigint.
    pub fn bigint(&self, tuple: pg_sys::HeapTuple, column: usize) -> Option<i64> {
        let mut is_null = false;
        // SAFETY: the tuple comes from this table; the value is in the datum itself.
        let value = unsafe {
            pg_sys::heap_getattr(tuple, self.attribute_number(column).into(), self.descriptor(), &mut is_null)
        };
        (!is_null).then_some(value.value() as i64)
    }

    /// Splits a tuple of this table into its columns.
    pub fn deform(&self, tuple: pg_sys::HeapTuple) -> Row {
        let mut row = Row::default();
        self.deform_into(tuple, &mut row);
        row
    }

    /// As [`Table::deform`], into a row that is reused.
    pub fn deform_into(&self, tuple: pg_sys::HeapTuple, row: &mut Row) {
        // SAFETY: the tuple comes from this table.
        unsafe { row.take(tuple, self.descriptor()) }
        if let Some(order) = &self.order {
            row.reorder(order);
        }
    }

    /// Whether the table holds its rows itself, and not in partitions or elsewhere.
    pub fn is_plain(&self) -> bool {
        self.pg_class().relkind as u8 == pg_sys::RELKIND_RELATION
    }

    /// Its name with its schema, quoted where needed.
    pub fn qualified_name(&self) -> String {
        // SAFETY: the look-up gives a copy, or null where the schema is gone; a name ends with a zero byte.
        unsafe {
            let class = self.pg_class();
            let schema = pg_sys::get_namespace_name(class.relnamespace);
            let schema = if schema.is_null() { String::new() } else { identifier(CStr::from_ptr(schema)) };
            format!("{schema}.{}", identifier(CStr::from_ptr(class.relname.data.as_ptr())))
        }
    }

    /// Whether the table holds its rows in partitions.
    pub fn is_partitioned(&self) -> bool {
        self.pg_class().relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE
    }

    /// Whether a [`TableScan`] can read its rows.
    pub fn is_heap(&self) -> bool {
        self.is_plain() && self.pg_class().relam == pg_sys::HEAP_TABLE_AM_OID
    }

    /// Refuses a table whose rows would be misread. Code that can report this better does so before.
    pub fn require_heap(&self) {
        if !self.is_heap() {
            let name = self.qualified_name();
            let message = format!("cannot read the rows of {name}: it is not a table with access method heap");
            Failure::new(pgrx::PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, message)
                .hint(format!(
                    "ALTER TABLE {name} SET ACCESS METHOD heap rewrites a table as one (Postgres 15 and later)."
                ))
                .raise()
        }
    }

    /// How many pages the table has now.
    pub fn pages(&self) -> u32 {
        // SAFETY: a `Table` keeps its relation open as long as it lives.
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(self.relation, pg_sys::ForkNumber::MAIN_FORKNUM) }
    }

    /// How many pages the table and its TOAST table, which has the long values, have now.
    pub fn pages_with_long_values(&self) -> u64 {
        let of_values = match self.pg_class().reltoastrelid {
            pg_sys::InvalidOid => 0,
            toast => {
                let pages = Table::open_oid(toast, pg_sys::AccessShareLock).pages();
                // A table can have more partitions than a transaction can lock.
                // SAFETY: inside a transaction, which has got the lock above.
                unsafe { pg_sys::UnlockRelationOid(toast, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
                pages
            }
        };
        u64::from(self.pages()) + u64::from(of_values)
    }

    /// The index behind the table's primary key.
    pub fn primary_key(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open; the list is a copy, and computing it fills in rd_pkindex.
        unsafe {
            let indexes = pg_sys::RelationGetIndexList(self.relation);
            pg_sys::list_free(indexes);
            (*self.relation).rd_pkindex
        }
    }
}

/// # Safety
/// The descriptor has that attribute, and outlives the result.
pub unsafe fn attribute<'a>(descriptor: pg_sys::TupleDesc, position: usize) -> &'a pg_sys::FormData_pg_attribute {
    // From Postgres 18 the attributes stand behind their compact forms (TupleDescAttr() in access/tupdesc.h).
    #[cfg(feature = "pg18")]
    return &*(*descriptor)
        .compact_attrs
        .as_ptr()
        .add((*descriptor).natts as usize)
        .cast::<pg_sys::FormData_pg_attribute>()
        .add(position);
    #[cfg(not(feature = "pg18"))]
    return &(*descriptor).attrs.as_slice((*descriptor).natts as usize)[position];
}

impl Drop for Table {
    fn drop(&mut self) {
        // The current resource owner may be another one than the table was opened with, and to take it from that one
        // would raise a second ERROR. The end of the transaction or subtransaction closes it.
        if is_unwinding() {
            return;
        }
        // SAFETY: the table was opened when this value was made, and only this closes it.
        unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}

/// The columns of one tuple. Values point into the tuple, and are good as long as it is.
#[derive(Default)]
pub struct Row {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Row {
    /// Splits a tuple into its columns.
    ///
    /// # Safety
    /// The tuple has the shape of the descriptor.
    pub unsafe fn deform(tuple: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc) -> Row {
        let columns = (*descriptor).natts as usize;
        let mut row = Row { values: vec![pg_sys::Datum::null(); columns], nulls: vec![false; columns] };
        row.take(tuple, descriptor);
        row
    }

    /// Replaces the columns of this row by those of another tuple.
    ///
    /// # Safety
    /// The tuple has the shape of the descriptor.
    unsafe fn take(&mut self, tuple: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc) {
        let columns = (*descriptor).natts as usize;
        self.values.resize(columns, pg_sys::Datum::null());
        self.nulls.resize(columns, false);
        errorless::deform(tuple, descriptor, self.values.as_mut_ptr(), self.nulls.as_mut_ptr());
    }

    fn reorder(&mut self, order: &[usize]) {
        self.values = order.iter().map(|at| self.values[*at]).collect();
        self.nulls = order.iter().map(|at| self.nulls[*at]).collect();
    }

    pub fn datum(&self, column: usize) -> Option<pg_sys::Datum> {
        (!self.nulls[column]).then_some(self.values[column])
    }

    pub fn is_null(&self, column: usize) -> bool {
        self.nulls[column]
    }

    /// Gives a column another value, of its type and valid as long as the row.
    pub fn put(&mut self, column: usize, value: pg_sys::Datum) {
        (self.values[column], self.nulls[column]) = (value, false);
    }

    /// The value of a column whose SQL type `T` stands for.
    pub fn get<T: FromDatum>(&self, column: usize) -> Option<T> {
        // SAFETY: callers name the type of a column of the ledger's own table. from_datum detoasts a varlena.
        unsafe { T::from_datum(self.values[column], self.nulls[column]) }
    }

    pub fn uuid(&self, column: usize) -> Option<Uuid> {
        self.datum(column).map(uuid_from_datum)
    }

    /// A text, valid as long as the row; [`NOT_TEXT`] if its bytes are not valid text.
    pub fn text(&self, column: usize) -> Option<&str> {
        let bytes = self.bytes(column)?;
        // A superuser or a failing disk may have put any bytes there.
        let text = std::str::from_utf8(bytes).ok().filter(|text| memchr::memchr(0, text.as_bytes()).is_none());
        Some(text.unwrap_or(NOT_TEXT))
    }

    /// The bytes of a varlena, valid as long as the row.
    pub fn bytes(&self, column: usize) -> Option<&[u8]> {
        // SAFETY: a non-null varlena of this row. If it must be detoasted, its bytes are in the current memory context.
        self.datum(column).map(|value| unsafe { jsonb::bytes_of(value) })
    }

    pub fn timestamp(&self, column: usize) -> Option<Timestamp> {
        self.get::<i64>(column).map(timestamp_from_postgres)
    }

    pub fn columns(&self) -> Vec<Option<pg_sys::Datum>> {
        (0..self.values.len()).map(|column| self.datum(column)).collect()
    }
}

pub fn uuid_from_datum(datum: pg_sys::Datum) -> Uuid {
    // SAFETY: a non-null uuid datum points to 16 bytes.
    Uuid::from_bytes(unsafe { *datum.cast_mut_ptr::<[u8; 16]>() })
}

/// A datum that points to `uuid`, and is valid as long as it.
pub fn uuid_datum(uuid: &Uuid) -> pg_sys::Datum {
    pg_sys::Datum::from(uuid.as_bytes().as_ptr())
}

pub fn text_datum(text: &str) -> Option<pg_sys::Datum> {
    text.into_datum()
}
