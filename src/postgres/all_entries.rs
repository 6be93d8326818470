//! Going through all entries there are, pending or sealed.

use super::errors::Failure;
use super::partitions;
use super::tables::{RegisteredSnapshot, Row, Table};
use pgrx::{check_for_interrupts, pg_sys, PgMemoryContexts};
use std::marker::PhantomData;

/// Calls `each` with the row of every entry that the snapshot sees, in no order, until it fails. What Postgres
/// allocates for one entry is freed before the next.
pub fn for_each(
    snapshot: &RegisteredSnapshot,
    mut each: impl FnMut(&Row) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for_each_in(&Table::open("entries_pending", pg_sys::AccessShareLock), snapshot, &mut each)?;
    partitions::sealed().iter().try_for_each(|partition| for_each_in(&partition.open(), snapshot, &mut each))
}

fn for_each_in(
    table: &Table,
    snapshot: &RegisteredSnapshot,
    each: &mut impl FnMut(&Row) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut context, mut row) = (PgMemoryContexts::new("pg_notary entries"), Row::default());
    let scan = Scan::begin(table, snapshot);
    let mut outcome = Ok(());
    while outcome.is_ok() && scan.next() {
        check_for_interrupts!();
        let read = |_: &mut _| {
            table.deform_into(scan.tuple(), &mut row);
            each(&row)
        };
        // SAFETY: what is allocated in the context is not used after this. The context that was current still exists.
        unsafe {
            outcome = context.switch_to(read);
            context.reset();
        }
    }
    scan.end();
    outcome
}

/// A scan that works with any access method: a partition need not be a heap. `systable_getnext()` would copy each row
/// of another access method, and free none before its end.
///
/// Postgres' own functions for such scans are inline C functions that only call the ones used here.
struct Scan<'a> {
    method: &'static pg_sys::TableAmRoutine,
    scan: pg_sys::TableScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    /// Table and snapshot outlive the scan.
    lends: PhantomData<(&'a Table, &'a RegisteredSnapshot)>,
}

/// Postgres makes sure that every access method has these functions.
const HAS_ALL: &str = "an access method can scan";

impl<'a> Scan<'a> {
    fn begin(table: &'a Table, snapshot: &'a RegisteredSnapshot) -> Scan<'a> {
        use pg_sys::ScanOptions::*;
        let (relation, snapshot) = (table.relation(), snapshot.as_ptr());
        let flags = SO_TYPE_SEQSCAN | SO_ALLOW_STRAT | SO_ALLOW_SYNC | SO_ALLOW_PAGEMODE;
        // SAFETY: the relation is open and has an access method, as a table that holds rows does; the snapshot is
        // registered.
        unsafe {
            let method = &*(*relation).rd_tableam;
            let begin = method.scan_begin.expect(HAS_ALL);
            let scan = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                begin(relation, snapshot, 0, std::ptr::null_mut(), std::ptr::null_mut(), flags)
            });
            Scan { method, scan, slot: pg_sys::table_slot_create(relation, std::ptr::null_mut()), lends: PhantomData }
        }
    }

    /// Puts the next row into the slot; false at the end.
    fn next(&self) -> bool {
        let next = self.method.scan_getnextslot.expect(HAS_ALL);
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        // SAFETY: the scan is open, and the slot is one for rows of its table.
        unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| next(self.scan, forward, self.slot)) }
    }

    /// The row in the slot. If the access method stores rows in another form than a heap, this is a copy, in the
    /// current context.
    fn tuple(&self) -> pg_sys::HeapTuple {
        let mut is_copy = false;
        // SAFETY: the slot has a row, as next() has returned true.
        unsafe { pg_sys::ExecFetchSlotHeapTuple(self.slot, false, &mut is_copy) }
    }

    fn end(self) {
        let end = self.method.scan_end.expect(HAS_ALL);
        // SAFETY: the table is still open, and nothing uses the slot or the scan after this.
        unsafe {
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::ffi::pg_guard_ffi_boundary(|| end(self.scan));
        }
    }
}
