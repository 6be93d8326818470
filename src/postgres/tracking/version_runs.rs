//! `ledger.row_versions`: the [runs](crate::ledger::row_index) in which entries about a row are found, as Postgres stores them. A
//! row of it is a chunk, which nearly fills a page.

use crate::ledger::row_index::{self, Place, Run};
use crate::postgres::bulk_insert::BulkInsert;
use crate::postgres::tables::{self, Table};
use pgrx::{check_for_interrupts, pg_sys, IntoDatum};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use uuid::Uuid;

/// With the other columns a bit less than a page.
const CHUNK_PLACES: usize = 200;
/// A varlena's length stands before its bytes.
const HEADER: usize = pg_sys::VARHDRSZ;

/// Columns of `ledger.row_versions`.
mod column {
    pub const RUN: usize = 0;
    pub const FIRST_ROW: usize = 1;
    pub const PLACES: usize = 3;
}

/// The table and its primary key, (run, first_row, chunk).
pub struct VersionTable {
    table: Table,
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
        // SAFETY: opened in open() and closed only here; the lock is kept, as the table's is.
        unsafe { pg_sys::index_close(self.index, pg_sys::NoLock as pg_sys::LOCKMODE) }
    }
}

/// The chunks of one run.
struct Chunks<'a> {
    versions: &'a VersionTable,
    scan: pg_sys::SysScanDesc,
    direction: pg_sys::ScanDirection::Type,
}

impl<'a> Chunks<'a> {
    /// All of them, in order.
    ///
    /// # Safety
    /// The snapshot outlives the scan.
    unsafe fn all(versions: &'a VersionTable, run: i64, snapshot: pg_sys::Snapshot) -> Self {
        let keys = &mut [key(column::RUN, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT8EQ, run.into())];
        Self::scan(versions, keys, snapshot, pg_sys::ScanDirection::ForwardScanDirection)
    }

    /// Those that may hold the row, the last one first. They end where one begins with a smaller row.
    ///
    /// # Safety
    /// The snapshot outlives the scan.
    unsafe fn down_from(versions: &'a VersionTable, run: i64, row: &Uuid, snapshot: pg_sys::Snapshot) -> Self {
        let row = tables::uuid_datum(row);
        let keys = &mut [
            key(column::RUN, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT8EQ, run.into()),
            key(column::FIRST_ROW, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_UUID_LE, row),
        ];
        Self::scan(versions, keys, snapshot, pg_sys::ScanDirection::BackwardScanDirection)
    }

    unsafe fn scan(
        versions: &'a VersionTable,
        keys: &mut [pg_sys::ScanKeyData],
        snapshot: pg_sys::Snapshot,
        direction: pg_sys::ScanDirection::Type,
    ) -> Self {
        let (table, count) = (versions.table.relation(), keys.len() as i32);
        let scan = pg_sys::systable_beginscan_ordered(table, versions.index, snapshot, count, keys.as_mut_ptr());
        Chunks { versions, scan, direction }
    }

    /// What `read` makes of the next chunk and its place in the table.
    fn next<T>(&mut self, read: impl FnOnce(&[u8], pg_sys::ItemPointerData) -> T) -> Option<T> {
        // SAFETY: the scan is open, and the tuple good until the next is asked for.
        unsafe {
            let tuple = pg_sys::systable_getnext_ordered(self.scan, self.direction);
            if tuple.is_null() {
                return None;
            }
            let row = self.versions.table.deform(tuple);
            Some(read(row.get(column::PLACES).unwrap_or_default(), (*tuple).t_self))
        }
    }
}

impl Drop for Chunks<'_> {
    fn drop(&mut self) {
        // SAFETY: begun in scan() and ended only here.
        unsafe { pg_sys::systable_endscan_ordered(self.scan) }
    }
}

/// # Safety
/// What the datum points to lives until the scan has begun, and is of the column's type.
unsafe fn key(column: usize, strategy: u32, function: u32, value: pg_sys::Datum) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    let (attribute, strategy) = ((column + 1) as pg_sys::AttrNumber, strategy as pg_sys::StrategyNumber);
    pg_sys::ScanKeyInit(&mut key, attribute, strategy, pg_sys::Oid::from(function), value);
    key
}

// ---- reading ----------------------------------------------------------------------------------------------------------------

/// The places for one row in all runs, the newest first.
pub struct RowPlaces<'a>(Vec<RowCursor<'a>>);

/// Those in one run.
struct RowCursor<'a> {
    chunks: Chunks<'a>,
    row: u128,
    /// Of the chunk that was read last; the next one is the last.
    places: Vec<Place>,
    /// Whether the chunk before may hold more.
    may_have_more: bool,
}

impl<'a> RowPlaces<'a> {
    /// # Safety
    /// The snapshot, the row's id and the table outlive it.
    pub unsafe fn of(row_id: &Uuid, runs: &[Run], versions: &'a VersionTable, snapshot: pg_sys::Snapshot) -> Self {
        let mut cursors = Vec::new();
        for run in runs {
            let chunks = Chunks::down_from(versions, run.number, row_id, snapshot);
            let mut cursor = RowCursor { chunks, row: row_id.as_u128(), places: Vec::new(), may_have_more: true };
            if cursor.peek().is_some() {
                cursors.push(cursor);
            }
        }
        RowPlaces(cursors)
    }
}

impl Iterator for RowPlaces<'_> {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        check_for_interrupts!();
        let newest = self.0.iter_mut().zip(0..).filter_map(|(cursor, at)| Some((cursor.peek()?, at))).max();
        newest.and_then(|(_, at): (Place, usize)| self.0[at].places.pop())
    }
}

impl RowCursor<'_> {
    fn peek(&mut self) -> Option<Place> {
        while self.places.is_empty() && self.may_have_more {
            self.read_chunk();
        }
        self.places.last().copied()
    }

    fn read_chunk(&mut self) {
        let (row, places) = (self.row, &mut self.places);
        let read = |chunk: &[u8], _| {
            let positions = row_index::positions_of(chunk, row);
            places.extend(positions.clone().filter_map(|at| row_index::place_at(chunk, at)));
            positions.start == 0
        };
        self.may_have_more = self.chunks.next(read).unwrap_or(false);
    }
}

// ---- writing ----------------------------------------------------------------------------------------------------------------

/// Writes the places of a sealing pass, in any order, as a run, merged with those of `runs` that are due. Sealing is
/// serialised, so nobody else changes runs meanwhile.
///
/// # Safety
/// The snapshot is registered or active, and sees what this transaction has done.
pub unsafe fn write(mut places: Vec<Place>, runs: &mut Vec<Run>, snapshot: pg_sys::Snapshot) {
    // The leaf that comes next when this pass has ended: no run before has that number.
    let Some(number) = places.iter().map(|place| place.leaf_index + 1).max() else { return };
    row_index::sort(&mut places);
    let mut length = places.len() as i64;
    let due = runs.split_off(runs.len() - row_index::runs_to_merge(runs, length));
    let versions = VersionTable::open(pg_sys::RowExclusiveLock);
    let mut out = ChunkWriter::new(&versions.table, number);
    if due.is_empty() {
        places.iter().for_each(|place| out.push(place));
    } else {
        length += due.iter().map(|run| run.length).sum::<i64>();
        let runs = due.iter().map(|run| Source::Run(RunReader::new(Chunks::all(&versions, run.number, snapshot))));
        merge(runs.chain([Source::Pass(places.into_iter())]).collect(), |place| out.push(place));
    }
    out.finish();
    runs.push(Run { number, length });
}

/// Sorted places that are merged.
enum Source<'a> {
    Pass(std::vec::IntoIter<Place>),
    Run(RunReader<'a>),
}

impl Source<'_> {
    fn next(&mut self) -> Option<Place> {
        match self {
            Source::Pass(places) => places.next(),
            Source::Run(run) => run.next(),
        }
    }
}

fn merge(mut sources: Vec<Source>, mut each: impl FnMut(&Place)) {
    let firsts = sources.iter_mut().enumerate().filter_map(|(source, places)| Some(Reverse((places.next()?, source))));
    let mut heads: BinaryHeap<_> = firsts.collect();
    while let Some(mut head) = heads.peek_mut() {
        let Reverse((place, source)) = *head;
        each(&place);
        match sources[source].next() {
            Some(next) => *head = Reverse((next, source)),
            None => drop(std::collections::binary_heap::PeekMut::pop(head)),
        }
    }
}

/// Reads a run and deletes what it has read.
struct RunReader<'a> {
    chunks: Chunks<'a>,
    /// A copy of the chunk.
    chunk: Vec<u8>,
    at: usize,
}

impl<'a> RunReader<'a> {
    fn new(chunks: Chunks<'a>) -> Self {
        RunReader { chunks, chunk: Vec::new(), at: 0 }
    }

    fn next(&mut self) -> Option<Place> {
        loop {
            if let Some(place) = row_index::place_at(&self.chunk, self.at) {
                self.at += 1;
                return Some(place);
            }
            self.next_chunk()?;
        }
    }

    fn next_chunk(&mut self) -> Option<()> {
        check_for_interrupts!();
        self.at = 0;
        let chunk = &mut self.chunk;
        let mut tid = self.chunks.next(|bytes, tid| {
            chunk.clear();
            chunk.extend_from_slice(bytes);
            tid
        })?;
        self.chunks.versions.table.delete(&mut tid);
        Some(())
    }
}

/// Writes a run.
struct ChunkWriter<'a> {
    bulk: BulkInsert<'a>,
    run: i64,
    first_row: Uuid,
    chunk: i32,
    /// A varlena.
    places: Vec<u8>,
}

impl<'a> ChunkWriter<'a> {
    fn new(table: &'a Table, run: i64) -> Self {
        let mut places = Vec::with_capacity(HEADER + CHUNK_PLACES * Place::BYTES);
        places.resize(HEADER, 0);
        ChunkWriter { bulk: BulkInsert::new(table), run, first_row: Uuid::nil(), chunk: 0, places }
    }

    fn push(&mut self, place: &Place) {
        if self.places.len() == HEADER {
            self.first_row = Uuid::from_u128(place.row);
        }
        place.write(&mut self.places);
        if self.places.len() == HEADER + CHUNK_PLACES * Place::BYTES {
            self.end_chunk();
        }
    }

    fn end_chunk(&mut self) {
        if self.places.len() == HEADER {
            return;
        }
        check_for_interrupts!();
        // SAFETY: room for the header was left. A vector of bytes this large is aligned for it.
        unsafe { pgrx::set_varsize_4b(self.places.as_mut_ptr().cast(), self.places.len() as i32) };
        self.bulk.insert(&[
            self.run.into_datum(),
            Some(tables::uuid_datum(&self.first_row)),
            self.chunk.into_datum(),
            Some(pg_sys::Datum::from(self.places.as_ptr())),
        ]);
        self.chunk += 1;
        self.places.truncate(HEADER);
    }

    fn finish(mut self) {
        self.end_chunk();
        self.bulk.finish();
    }
}
