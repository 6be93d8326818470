//! How Postgres stores the [runs](crate::ledger::row_runs) in which entries about a row are found: the table
//! `ledger.row_versions`. A row holds one chunk of a run, or (with the run number negated) one filter. Both nearly fill
//! a page.
//!
//! A filter is for all places from its first row on, up to the first row of the next filter. So a row is not in the run
//! if it is not in the last filter that begins at the row or before it. When steps of a merge have moved places that a
//! filter is for, that filter is deleted, and all before it. A look-up that finds no filter reads the run.

use crate::ledger::row_filter;
use crate::ledger::row_index::{self, LogPosition};
use crate::ledger::row_runs::Run;
use crate::postgres::errors::is_unwinding;
use crate::postgres::faults;
use crate::postgres::tables::{self, RegisteredSnapshot, Table};
use pgrx::{check_for_interrupts, pg_sys};
use std::ops::RangeInclusive;
use uuid::Uuid;

/// Columns of `ledger.row_versions`.
mod column {
    pub const RUN: usize = 0;
    pub const FIRST_ROW: usize = 1;
    pub const CHUNK: usize = 2;
    pub const PLACES: usize = 3;
}

/// The table and its primary key, (run, first_row, chunk).
pub struct VersionTable {
    pub table: Table,
    index: pg_sys::Relation,
}

impl VersionTable {
    pub fn open(lock: u32) -> VersionTable {
        let table = Table::open("row_versions", lock);
        // SAFETY: raises an ERROR if there is no such index.
        let index = unsafe { pg_sys::index_open(table.primary_key(), lock as pg_sys::LOCKMODE) };
        VersionTable { table, index }
    }
}

impl Drop for VersionTable {
    fn drop(&mut self) {
        // As for the table itself.
        if is_unwinding() {
            return;
        }
        // SAFETY: opened in open() and closed only here; the lock is kept, as the table's is.
        unsafe { pg_sys::index_close(self.index, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}

/// The value of column `run` in the filters of a run.
pub fn filters_of(run: i64) -> i64 {
    // The number may be any that a superuser has put into ledger.log_state.
    run.wrapping_neg()
}

/// The chunks of one run, or its filters.
pub struct Chunks<'a> {
    pub versions: &'a VersionTable,
    scan: pg_sys::SysScanDesc,
    direction: pg_sys::ScanDirection::Type,
    /// The bounds of the scan, to which its keys point.
    _rows: Box<[Uuid; 2]>,
    /// Outlives the scan.
    _snapshot: &'a RegisteredSnapshot,
}

/// A chunk.
pub struct Chunk<'a> {
    pub bytes: &'a [u8],
    /// The row that it is stored under.
    pub first_row: u128,
    /// How many places of its run stand before it.
    pub position: i64,
    pub tid: pg_sys::ItemPointerData,
}

impl<'a> Chunks<'a> {
    /// The chunks that begin with one of the rows, in order.
    pub fn up(
        versions: &'a VersionTable,
        run: i64,
        rows: RangeInclusive<u128>,
        snapshot: &'a RegisteredSnapshot,
    ) -> Self {
        Self::scan(versions, run, rows, snapshot, pg_sys::ScanDirection::ForwardScanDirection)
    }

    /// The same, from the last to the first. Places of the last of the rows are in the first chunk that this gives, and
    /// in further ones up to a chunk that begins with a smaller row.
    fn down(
        versions: &'a VersionTable,
        run: i64,
        rows: RangeInclusive<u128>,
        snapshot: &'a RegisteredSnapshot,
    ) -> Self {
        Self::scan(versions, run, rows, snapshot, pg_sys::ScanDirection::BackwardScanDirection)
    }

    fn scan(
        versions: &'a VersionTable,
        run: i64,
        rows: RangeInclusive<u128>,
        snapshot: &'a RegisteredSnapshot,
        direction: pg_sys::ScanDirection::Type,
    ) -> Self {
        let rows = Box::new([*rows.start(), *rows.end()].map(Uuid::from_u128));
        let [first, last] = [&rows[0], &rows[1]].map(tables::uuid_datum);
        let table = versions.table.relation();
        // SAFETY: the values are of the columns' types, and what they point to, the table and the snapshot outlive the
        // scan.
        let scan = unsafe {
            let keys = &mut [
                key(column::RUN, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT8EQ, run.into()),
                key(column::FIRST_ROW, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_UUID_GE, first),
                key(column::FIRST_ROW, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_UUID_LE, last),
            ];
            let (count, first) = (keys.len() as i32, keys.as_mut_ptr());
            pg_sys::systable_beginscan_ordered(table, versions.index, snapshot.as_ptr(), count, first)
        };
        Chunks { versions, scan, direction, _rows: rows, _snapshot: snapshot }
    }

    /// What `read` makes of the next chunk.
    pub fn next<T>(&mut self, read: impl FnOnce(Chunk) -> T) -> Option<T> {
        // SAFETY: the scan is open, and the tuple is valid until the next is asked for.
        unsafe {
            let tuple = pg_sys::systable_getnext_ordered(self.scan, self.direction);
            if tuple.is_null() {
                return None;
            }
            let row = self.versions.table.deform(tuple);
            let (bytes, position) = (row.get(column::PLACES), row.get(column::CHUNK));
            let (first_row, tid) = (row.uuid(column::FIRST_ROW).unwrap_or_default().as_u128(), (*tuple).t_self);
            let (bytes, position) = (bytes.unwrap_or_default(), position.unwrap_or_default());
            Some(read(Chunk { bytes, first_row, position, tid }))
        }
    }
}

impl Drop for Chunks<'_> {
    fn drop(&mut self) {
        if is_unwinding() {
            return;
        }
        // SAFETY: begun in scan() and ended only here.
        unsafe { pg_sys::systable_endscan_ordered(self.scan) }
    }
}

/// # Safety
/// What the datum points to lives until the scan has ended, and is of the column's type.
unsafe fn key(column: usize, strategy: u32, function: u32, value: pg_sys::Datum) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    let (attribute, strategy) = ((column + 1) as pg_sys::AttrNumber, strategy as pg_sys::StrategyNumber);
    pg_sys::ScanKeyInit(&mut key, attribute, strategy, pg_sys::Oid::from(function), value);
    key
}

/// The places for one row in all runs, the newest first.
pub struct RowPlaces<'a>(Vec<RowCursor<'a>>);

/// The places for one row in one run.
struct RowCursor<'a> {
    chunks: Chunks<'a>,
    row: u128,
    /// The places in the chunk that was read last. The one to give next is at the end.
    places: Vec<LogPosition>,
    /// Whether the chunk before it may hold more.
    may_have_more: bool,
}

impl<'a> RowPlaces<'a> {
    pub fn of(row_id: &Uuid, runs: &[Run], versions: &'a VersionTable, snapshot: &'a RegisteredSnapshot) -> Self {
        let row = row_id.as_u128();
        let mut cursors = Vec::new();
        for run in runs.iter().filter(|run| row >= run.first_row()) {
            if !may_hold(run, row, versions, snapshot) {
                continue;
            }
            let chunks = Chunks::down(versions, run.number, run.first_row()..=row, snapshot);
            let mut cursor = RowCursor { chunks, row, places: Vec::new(), may_have_more: true };
            if cursor.peek().is_some() {
                cursors.push(cursor);
            }
        }
        RowPlaces(cursors)
    }
}

/// Whether look-ups ask the filters of the run, if it has any. A source of a merge was long enough for filters, however
/// little is left of it.
pub fn asks_filters(run: &Run) -> bool {
    run.target.is_some() || faults::run_sizes().has_filter(run.length)
}

/// Whether the run may have places for the row. False only if a filter says so.
fn may_hold(run: &Run, row: u128, versions: &VersionTable, snapshot: &RegisteredSnapshot) -> bool {
    if !asks_filters(run) {
        return true;
    }
    let mut filters = Chunks::down(versions, filters_of(run.number), run.first_row()..=row, snapshot);
    filters.next(|filter| row_filter::may_contain(filter.bytes, row)).unwrap_or(true)
}

impl Iterator for RowPlaces<'_> {
    type Item = LogPosition;

    fn next(&mut self) -> Option<LogPosition> {
        check_for_interrupts!();
        let newest = self.0.iter_mut().zip(0..).filter_map(|(cursor, at)| Some((cursor.peek()?, at))).max();
        newest.and_then(|(_, at): (LogPosition, usize)| self.0[at].places.pop())
    }
}

impl RowCursor<'_> {
    fn peek(&mut self) -> Option<LogPosition> {
        while self.places.is_empty() && self.may_have_more {
            self.read_chunk();
        }
        self.places.last().copied()
    }

    fn read_chunk(&mut self) {
        let (row, places) = (self.row, &mut self.places);
        let read = |chunk: Chunk| {
            let positions = row_index::positions_of(chunk.bytes, row);
            places.extend(positions.clone().filter_map(|at| row_index::place_at(chunk.bytes, at)));
            positions.start == 0
        };
        self.may_have_more = self.chunks.next(read).unwrap_or(false);
    }
}
