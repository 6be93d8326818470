//! Going through all entries there are, pending or sealed.

use super::errors::Failure;
use super::partitions;
use super::tables::{Row, Table};
use pgrx::{check_for_interrupts, pg_sys, PgMemoryContexts};

/// Gives `each` the row of every entry that the snapshot sees, in no order, until it fails. What Postgres allocates for one
/// entry is gone before the next.
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

/// By a scan that any access method has: a partition need not be a heap.
unsafe fn for_each_in(
    table: &Table,
    snapshot: pg_sys::Snapshot,
    each: &mut impl FnMut(&Row) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut context, mut row) = (PgMemoryContexts::new("pg_notary entries"), Row::default());
    let scan =
        pg_sys::systable_beginscan(table.relation(), pg_sys::InvalidOid, false, snapshot, 0, std::ptr::null_mut());
    let mut outcome = Ok(());
    while outcome.is_ok() {
        check_for_interrupts!();
        let tuple = pg_sys::systable_getnext(scan);
        if tuple.is_null() {
            break;
        }
        table.deform_into(tuple, &mut row);
        outcome = context.switch_to(|_| each(&row));
        context.reset();
    }
    pg_sys::systable_endscan(scan);
    outcome
}
