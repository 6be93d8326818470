//! Going through all entries there are, pending or sealed.

use super::errors::Failure;
use super::partitions;
use super::tables::{Row, Table};
use pgrx::{check_for_interrupts, pg_sys, PgMemoryContexts};

/// Calls `each` with the row of every entry that the snapshot sees, in no order, until it fails. What Postgres
/// allocates for one entry is freed before the next.
///
/// # Safety
/// The snapshot is registered or active.
pub unsafe fn for_each(
    snapshot: pg_sys::Snapshot,
    mut each: impl FnMut(&Row) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for_each_in(&Table::open("entries_pending", pg_sys::AccessShareLock), snapshot, &mut each)?;
    partitions::sealed().iter().try_for_each(|partition| for_each_in(&partition.open(), snapshot, &mut each))
}

/// # Safety
/// The snapshot is registered or active, as in [`for_each`].
unsafe fn for_each_in(
    table: &Table,
    snapshot: pg_sys::Snapshot,
    each: &mut impl FnMut(&Row) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut context, mut row) = (PgMemoryContexts::new("pg_notary entries"), Row::default());
    let scan = Scan::begin(table, snapshot);
    let mut outcome = Ok(());
    while outcome.is_ok() && scan.next() {
        check_for_interrupts!();
        outcome = context.switch_to(|_| {
            // If the access method stores rows in another form than a heap, this is a copy, in this context.
            let mut is_copy = false;
            table.deform_into(pg_sys::ExecFetchSlotHeapTuple(scan.slot, false, &mut is_copy), &mut row);
            each(&row)
        });
        context.reset();
    }
    scan.end();
    outcome
}

/// A scan that works with any access method: a partition need not be a heap. `systable_getnext()` would copy each row
/// of another access method, and free none before its end.
///
/// Postgres' own functions for such scans are inline C functions that only call the ones used here.
struct Scan {
    method: &'static pg_sys::TableAmRoutine,
    scan: pg_sys::TableScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
}

/// Postgres makes sure that every access method has these functions.
const HAS_ALL: &str = "an access method can scan";

impl Scan {
    /// # Safety
    /// The snapshot is registered or active, and the table outlives the scan.
    unsafe fn begin(table: &Table, snapshot: pg_sys::Snapshot) -> Scan {
        use pg_sys::ScanOptions::*;
        let relation = table.relation();
        let method = &*(*relation).rd_tableam;
        let begin = method.scan_begin.expect(HAS_ALL);
        let flags = SO_TYPE_SEQSCAN | SO_ALLOW_STRAT | SO_ALLOW_SYNC | SO_ALLOW_PAGEMODE;
        let scan = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            begin(relation, snapshot, 0, std::ptr::null_mut(), std::ptr::null_mut(), flags)
        });
        Scan { method, scan, slot: pg_sys::table_slot_create(relation, std::ptr::null_mut()) }
    }

    /// Puts the next row into the slot; false at the end.
    ///
    /// # Safety
    /// Table and snapshot are still as [`Scan::begin`] requires.
    unsafe fn next(&self) -> bool {
        let next = self.method.scan_getnextslot.expect(HAS_ALL);
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        pg_sys::ffi::pg_guard_ffi_boundary(|| next(self.scan, forward, self.slot))
    }

    /// # Safety
    /// The table is still open.
    unsafe fn end(self) {
        let end = self.method.scan_end.expect(HAS_ALL);
        pg_sys::ExecDropSingleTupleTableSlot(self.slot);
        pg_sys::ffi::pg_guard_ffi_boundary(|| end(self.scan));
    }
}
