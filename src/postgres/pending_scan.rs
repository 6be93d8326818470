//! Reads all of `ledger.entries_pending`.
//!
//! A large transaction, or an old snapshot, leaves the table with far more pages than entries. A process that read all
//! pages each time would do little else. So the entries are then found by the primary key: scans mark the dead entries
//! of the index that they meet, and later scans skip these.

use super::tables::{KeyScan, RegisteredSnapshot, Table, TableScan};
use pgrx::pg_sys;

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
        match is_sparse(table.pages(), entries) {
            true => PendingScan::Key(KeyScan::start(table, snapshot)),
            false => PendingScan::Pages(TableScan::start(table, snapshot, 0)),
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
