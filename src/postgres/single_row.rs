//! Writes one row of a table of the ledger, whatever indexes it has.

use super::bulk_insert::{insert_index_entries, BulkInsert};
use super::roles::as_owner_of;
use super::tables::Table;
use pgrx::pg_sys;

/// Inserts one row and its index entries. Returns the page of the row.
pub fn insert(table: &Table, row: &[Option<pg_sys::Datum>]) -> u32 {
    let mut rows = BulkInsert::new(table);
    rows.insert(row);
    rows.finish()
}

/// Puts `row` in the place of the row at `tid`; an ERROR if another transaction has changed that row meanwhile.
pub fn update(table: &Table, tid: &mut pg_sys::ItemPointerData, row: &[Option<pg_sys::Datum>]) {
    let tuple = table.form(row);
    // SAFETY: a tuple of this table's shape, which the slot frees.
    unsafe {
        let slot = pg_sys::MakeSingleTupleTableSlot(table.descriptor(), &raw const pg_sys::TTSOpsHeapTuple);
        pg_sys::ExecStoreHeapTuple(tuple, slot, true);
        let mut indexes = Default::default();
        let none = indexes;
        // A heap does not use the snapshot.
        pg_sys::simple_table_tuple_update(table.relation(), tid, slot, std::ptr::null_mut(), &mut indexes);
        if indexes != none {
            #[cfg(any(feature = "pg14", feature = "pg15"))]
            let only_summarizing = false;
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            let only_summarizing = indexes == pg_sys::TU_UpdateIndexes::TU_Summarizing;
            index(table, slot, only_summarizing);
        }
        pg_sys::ExecDropSingleTupleTableSlot(slot);
    }
}

/// Inserts the index entries of a new row version.
///
/// # Safety
/// As for [`insert_index_entries`].
unsafe fn index(table: &Table, slot: *mut pg_sys::TupleTableSlot, only_summarizing: bool) {
    let (indexes, executor) = (pg_sys::CatalogOpenIndexes(table.relation()), pg_sys::CreateExecutorState());
    // For indexes on expressions of the owner: see `Filling::Executor`.
    as_owner_of(table.relation(), || insert_index_entries(indexes, executor, slot, only_summarizing));
    pg_sys::FreeExecutorState(executor);
    pg_sys::CatalogCloseIndexes(indexes);
}
