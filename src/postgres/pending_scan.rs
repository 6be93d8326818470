//! Reads all of `ledger.entries_pending`.
//!
//! A large transaction leaves the table with far more pages than entries. A process that read all pages each time would
//! do little else. So the entries are then found by the primary key: scans mark the dead entries of the index that they
//! meet, and later scans skip these. They cannot do so while an old snapshot is held. Then new rows come behind all
//! others, and the pages before the [floor](pending_floor) are not read.

use super::pending_floor;
use super::tables::{KeyScan, RegisteredSnapshot, Row, Table, TableScan};
use pgrx::{check_for_interrupts, pg_sys};

/// So many pages are read so fast that a choice is not worth it.
const FEW_PAGES: u32 = 1024;

/// Whether a table with this many pages has few entries, by a count that may be slightly wrong. If it is not positive,
/// nobody has counted them yet.
pub fn is_sparse(pages: u32, entries: i64) -> bool {
    pages > FEW_PAGES && (1..i64::from(pages) / 2).contains(&entries)
}

/// A scan of all pending entries, in no order.
pub enum PendingScan<'a> {
    Pages(TableScan<&'a Table, &'a RegisteredSnapshot>),
    Key(KeyScan<'a>),
}

impl<'a> PendingScan<'a> {
    /// `entries` is how many there are, as far as is known.
    pub fn start(table: &'a Table, snapshot: &'a RegisteredSnapshot, entries: i64) -> Self {
        let from = pending_floor::first_page(table, snapshot);
        match is_sparse(table.pages().saturating_sub(from), entries) {
            true => PendingScan::Key(KeyScan::start(table, snapshot)),
            false => PendingScan::Pages(TableScan::start(table, snapshot, from)),
        }
    }

    /// The next tuple, valid until the one after it is fetched.
    pub fn next(&mut self) -> Option<pg_sys::HeapTuple> {
        match self {
            PendingScan::Pages(scan) => scan.next(),
            PendingScan::Key(scan) => scan.next(),
        }
    }
}

/// Gives `each` every entry of `ledger.entries_pending`, in no particular order, until it returns false.
///
/// Reads them through the index on the id, not page by page, unless few pages are left behind the floor. The table
/// holds many rows that were sealed and not yet vacuumed. The first session that meets them marks their index entries
/// dead, and then they cost the next one nearly nothing.
pub fn each(table: &Table, snapshot: &RegisteredSnapshot, each: impl FnMut(pg_sys::HeapTuple, &Row) -> bool) {
    let from = pending_floor::first_page(table, snapshot);
    if from > 0 && table.pages() - from <= FEW_PAGES {
        let mut scan = TableScan::start(table, snapshot, from);
        each_of(table, || scan.next(), each);
    } else {
        let mut scan = KeyScan::start(table, snapshot);
        each_of(table, || scan.next(), each);
    }
}

fn each_of(
    table: &Table,
    mut next: impl FnMut() -> Option<pg_sys::HeapTuple>,
    mut each: impl FnMut(pg_sys::HeapTuple, &Row) -> bool,
) {
    let mut row = Row::default();
    while let Some(tuple) = next() {
        check_for_interrupts!();
        table.deform_into(tuple, &mut row);
        if !each(tuple, &row) {
            break;
        }
    }
}
