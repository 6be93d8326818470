//! Where in `ledger.entries_pending` the pending entries begin: see
//! [`PendingFloor`](crate::ledger::pending_floor::PendingFloor).
//!
//! What stands before the floor is gone: all transactions that have deleted it had ended when the worker raised the
//! floor. An older snapshot may still see it as pending, and must find it there. So only a snapshot that sees the
//! transaction as ended in which the worker has raised the floor begins there.

use super::database;
use super::database_slot::DatabaseSlot;
use super::prepared_transactions::is_running;
use super::relation;
use super::tables::{self, tid_of, RegisteredSnapshot, Table, TableScan};
use pgrx::pg_sys;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A smaller table is read as a whole.
const FEW_PAGES: u32 = 1024;
/// With fewer pages behind the floor, it is not worth raising.
const STEP_PAGES: u32 = 64;
/// After raising the floor, the worker leaves it alone for so many times the time that this took. Where there is room
/// on pages far below, sessions insert rows there again and again, and each time all pages from there on have to be
/// read.
const REST: u32 = 50;
/// At least so long if the floor could not be raised: rows that stay low in the table keep it where it is.
const LEAST_REST: Duration = Duration::from_secs(1);

/// The page of `ledger.entries_pending` before which the snapshot sees no entry: 0 if that is not known.
pub fn first_page(table: &Table, snapshot: &RegisteredSnapshot) -> u32 {
    let Ok((_, slot)) = database::slot() else { return 0 };
    let floor = &slot.pending_floor;
    // In this order: the worker, which raises the floor, sets file and raiser so that they fit whatever page is read.
    let is_of_file = floor.file.load(Ordering::SeqCst) == relation::file_node(table).to_u32();
    let page = floor.page.page();
    let raiser = pg_sys::TransactionId::from_inner(floor.raiser.load(Ordering::SeqCst));
    let is_known = page > 0 && is_of_file && sees_end_of(raiser, snapshot);
    // VACUUM may have cut off the pages behind.
    if is_known {
        page.min(table.pages().saturating_sub(1))
    } else {
        0
    }
}

/// Whether the snapshot was taken after this transaction of the worker has ended.
fn sees_end_of(raiser: pg_sys::TransactionId, snapshot: &RegisteredSnapshot) -> bool {
    // SAFETY: it stays as it is while it is registered.
    let data = unsafe { &*snapshot.as_ptr() };
    let is_mvcc = data.snapshot_type == pg_sys::SnapshotType::SNAPSHOT_MVCC;
    // Transactions of the primary are not known here. A session may hold a snapshot from before the promotion.
    is_mvcc && !data.takenDuringRecovery && !is_running(raiser, snapshot)
}

/// When the worker raises the floor.
#[derive(Default)]
pub struct FloorRaiser {
    rests_until: Option<Instant>,
}

impl FloorRaiser {
    /// Whether to raise the floor, in a table with so many pages.
    pub fn is_due(&self, pages: u32, slot: &DatabaseSlot) -> bool {
        let is_resting = self.rests_until.is_some_and(|until| Instant::now() < until);
        pages > FEW_PAGES && slot.pending_floor.page.page().saturating_add(STEP_PAGES) <= pages && !is_resting
    }

    /// Raises the floor as far as possible. The caller holds the sealing lock, in a transaction that does nothing else.
    pub fn raise(&mut self, table: &Table, slot: &DatabaseSlot) {
        let (floor, file, since) = (&slot.pending_floor, relation::file_node(table).to_u32(), Instant::now());
        if floor.file.load(Ordering::SeqCst) != file {
            floor.begin_file(file);
        }
        let pages = table.pages();
        floor.page.begin();
        let found = first_with_row(table, floor.page.page(), pages);
        // The commit of a transaction with an id waits for the disk, under the sealing lock.
        if found <= floor.page.page() {
            self.rests_until = Some(Instant::now() + (since.elapsed() * REST).max(LEAST_REST));
            return;
        }
        // SAFETY: inside a transaction of the worker.
        let raiser = unsafe { pg_sys::GetTopTransactionId() };
        // Before the floor: whoever finds the new one must find this transaction, or a later one.
        floor.raiser.store(raiser.into_inner(), Ordering::SeqCst);
        floor.page.raise(found);
        self.rests_until = Some(Instant::now() + since.elapsed() * REST);
    }
}

/// The first of these pages with a row that is not gone, or `end`. Rows of running transactions count too.
fn first_with_row(table: &Table, from: u32, end: u32) -> u32 {
    if from >= end {
        return end;
    }
    let mut dirty = tables::dirty_snapshot();
    // SAFETY: the snapshot outlives the scan, which is declared after it.
    let mut scan = unsafe { TableScan::start_with(table, &mut dirty, from) };
    scan.next().map_or(end, |tuple| tid_of(tuple).0.min(end))
}
