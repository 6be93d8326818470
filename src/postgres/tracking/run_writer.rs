//! Writes the [runs](crate::ledger::row_runs) of `ledger.row_versions`: the run of a sealing pass, and the pass's share
//! of merging.
//!
//! All of it happens in the transaction that seals, so a pass that fails undoes what it has merged. Only one session
//! seals at a time, so no other changes runs meanwhile.

use super::version_runs::{filters_of, Chunks, VersionTable};
use crate::ledger::row_filter;
use crate::ledger::row_index::{self, LogPosition};
use crate::ledger::row_runs::{self, Merge, Run, Sizes, Taken};
use crate::postgres::bulk_insert::BulkInsert;
use crate::postgres::faults;
use crate::postgres::tables::{self, RegisteredSnapshot};
use pgrx::{check_for_interrupts, pg_sys, IntoDatum};
use uuid::Uuid;

/// The places of a full chunk. With the other columns it takes a bit less than a page.
const CHUNK_PLACES: usize = 200;
/// The bytes of a varlena's length, which stands before its data.
const HEADER: usize = pg_sys::VARHDRSZ;

/// Writes the places of a sealing pass, in any order, as a run, and merges the runs that are due into it. Then carries
/// on with merges that are under way.
///
/// The snapshot sees what this transaction has done before. It sees nothing that is written here, so nothing is read
/// twice.
pub fn write(places: Vec<LogPosition>, runs: &mut Vec<Run>, snapshot: &RegisteredSnapshot) {
    if places.is_empty() {
        return;
    }
    let sizes = faults::run_sizes();
    let merges = row_runs::under_way(runs);
    let mut budget = sizes.places_to_move(runs, places.len() as i64);
    let versions = VersionTable::open(pg_sys::RowExclusiveLock);
    let pass = Pass { versions: &versions, sizes, snapshot };
    pass.write_run(places, runs);
    for merge in merges {
        if budget > 0 {
            budget -= pass.step(&merge, budget, runs);
        }
    }
    sizes.begin_merges(runs);
}

struct Pass<'a> {
    versions: &'a VersionTable,
    sizes: Sizes,
    snapshot: &'a RegisteredSnapshot,
}

impl<'a> Pass<'a> {
    fn write_run(&self, mut places: Vec<LogPosition>, runs: &mut Vec<Run>) {
        row_index::sort(&mut places);
        let number = row_runs::next_number(runs);
        let due = self.sizes.take_due(runs, places.len() as i64);
        let length = places.len() as i64 + due.iter().map(|run| run.length).sum::<i64>();
        let mut out = self.writer(&Run::new(number, 0), length);
        if due.is_empty() {
            places.iter().for_each(|place| out.push(place));
        } else {
            let sources = due.iter().map(|run| Source::Run(self.reader(run)));
            let mut sources: Vec<Source> = sources.chain([Source::Pass(places.into_iter())]).collect();
            row_index::merge(&mut sources, i64::MAX, |place| out.push(place));
        }
        out.finish();
        runs.push(Run::new(number, length));
    }

    /// Moves up to `limit` places to the target, and returns how many. Where a source is left in the middle of a chunk,
    /// a chunk with the rest takes the place of that chunk.
    fn step(&self, merge: &Merge, limit: i64, runs: &mut Vec<Run>) -> i64 {
        let mut sources: Vec<RunReader> = merge.sources.iter().map(|run| self.reader(run)).collect();
        let mut out = self.writer(&merge.target, self.sizes.long);
        let mut moved = 0;
        let not_moved = row_index::merge(&mut sources, limit, |place| {
            out.push(place);
            moved += 1;
        });
        let mut taken: Vec<Taken> = sources.iter().zip(&merge.sources).map(|(source, run)| source.taken(run)).collect();
        for (at, place) in not_moved {
            taken[at].places -= 1;
            taken[at].rest = Some(place.row);
            sources[at].put_back(&place, taken[at].source, &mut out);
        }
        drop(sources);
        out.finish();
        taken.iter().zip(&merge.sources).for_each(|(taken, run)| self.delete_filters(run, taken.rest));
        row_runs::note_step(runs, merge.target.number, &taken);
        moved
    }

    /// Deletes the filters of a source that begin at `rest` or before it: they are also about places that were moved. A
    /// look-up that finds no filter reads the run.
    fn delete_filters(&self, run: &Run, rest: Option<u128>) {
        let rows = run.first_row()..=rest.unwrap_or(u128::MAX);
        let mut filters = Chunks::up(self.versions, filters_of(run.number), rows, self.snapshot);
        while let Some(mut tid) = filters.next(|filter| filter.tid) {
            self.versions.table.delete(&mut tid);
        }
    }

    fn reader(&self, run: &Run) -> RunReader<'a> {
        let chunks = Chunks::up(self.versions, run.number, run.first_row()..=u128::MAX, self.snapshot);
        RunReader { chunks, chunk: Vec::new(), position: 0, at: 0, given: 0 }
    }

    /// A writer that goes on with a run, which will have `length` places.
    fn writer(&self, run: &Run, length: i64) -> RunWriter<'a> {
        let filter_rows = if self.sizes.has_filter(length) { self.sizes.filter_rows } else { 0 };
        RunWriter::new(self.versions, run, filter_rows)
    }
}

/// A source of sorted places for a merge.
enum Source<'a> {
    Pass(std::vec::IntoIter<LogPosition>),
    Run(RunReader<'a>),
}

impl Iterator for Source<'_> {
    type Item = LogPosition;

    fn next(&mut self) -> Option<LogPosition> {
        match self {
            Source::Pass(places) => places.next(),
            Source::Run(run) => run.next(),
        }
    }
}

/// Reads what is left of a run, and deletes the chunks that it has read.
struct RunReader<'a> {
    chunks: Chunks<'a>,
    /// A copy of the chunk that is being read.
    chunk: Vec<u8>,
    position: i64,
    /// How many places have been given: of this chunk (`at`), and of all chunks (`given`).
    at: usize,
    given: i64,
}

impl Iterator for RunReader<'_> {
    type Item = LogPosition;

    fn next(&mut self) -> Option<LogPosition> {
        loop {
            if let Some(place) = row_index::place_at(&self.chunk, self.at) {
                self.at += 1;
                self.given += 1;
                return Some(place);
            }
            self.next_chunk()?;
        }
    }
}

impl RunReader<'_> {
    fn next_chunk(&mut self) -> Option<()> {
        check_for_interrupts!();
        let (copy, position) = (&mut self.chunk, &mut self.position);
        let mut tid = self.chunks.next(|chunk| {
            copy.clear();
            copy.extend_from_slice(chunk.bytes);
            *position = chunk.position;
            chunk.tid
        })?;
        self.at = 0;
        self.chunks.versions.table.delete(&mut tid);
        Some(())
    }

    /// All places that the reader has given.
    fn taken(&self, run: &Run) -> Taken {
        Taken { source: run.number, places: self.given, rest: None }
    }

    /// Writes what is left of the chunk, including `place`, which was given last.
    fn put_back(&self, place: &LogPosition, run: i64, out: &mut RunWriter) {
        let first = self.at - 1;
        let mut rest = varlena(&self.chunk[first * LogPosition::BYTES..]);
        out.put(run, place.row, self.position + first as i64, &mut rest);
    }
}

fn varlena(bytes: &[u8]) -> Vec<u8> {
    [&[0; HEADER], bytes].concat()
}

/// Writes a run, or what a step adds to one.
struct RunWriter<'a> {
    bulk: BulkInsert<'a>,
    run: i64,
    /// The places of the run that are written, and those in the unfinished chunk.
    length: i64,
    /// The unfinished chunk, as a varlena, and its first row.
    chunk: Vec<u8>,
    first_row: u128,
    /// The rows per filter; 0 if the run has no filters.
    filter_rows: usize,
    /// The rows that the next filter is for.
    rows: Vec<u128>,
    /// How many places the run has before the first of these rows.
    filter_position: i64,
}

impl<'a> RunWriter<'a> {
    fn new(versions: &'a VersionTable, run: &Run, filter_rows: usize) -> Self {
        let mut chunk = Vec::with_capacity(HEADER + CHUNK_PLACES * LogPosition::BYTES);
        chunk.resize(HEADER, 0);
        RunWriter {
            bulk: BulkInsert::new(&versions.table),
            run: run.number,
            length: run.length,
            chunk,
            first_row: 0,
            filter_rows,
            rows: Vec::with_capacity(filter_rows),
            filter_position: 0,
        }
    }

    fn push(&mut self, place: &LogPosition) {
        if self.filter_rows > 0 && self.rows.last() != Some(&place.row) {
            self.push_row(place.row);
        }
        if self.chunk.len() == HEADER {
            self.first_row = place.row;
        }
        place.write(&mut self.chunk);
        self.length += 1;
        if self.chunk.len() == HEADER + CHUNK_PLACES * LogPosition::BYTES {
            self.end_chunk();
        }
    }

    fn push_row(&mut self, row: u128) {
        if self.rows.len() == self.filter_rows {
            self.end_filter();
        }
        if self.rows.is_empty() {
            self.filter_position = self.length;
        }
        self.rows.push(row);
    }

    fn end_chunk(&mut self) {
        if self.chunk.len() == HEADER {
            return;
        }
        check_for_interrupts!();
        let mut chunk = std::mem::take(&mut self.chunk);
        let places = (chunk.len() - HEADER) / LogPosition::BYTES;
        self.put(self.run, self.first_row, self.length - places as i64, &mut chunk);
        chunk.truncate(HEADER);
        self.chunk = chunk;
    }

    fn end_filter(&mut self) {
        let Some(first_row) = self.rows.first() else { return };
        let mut filter = varlena(&row_filter::of(&self.rows));
        self.put(filters_of(self.run), *first_row, self.filter_position, &mut filter);
        self.rows.clear();
    }

    /// Writes a chunk or a filter. `bytes` is a varlena whose header is set here.
    fn put(&mut self, run: i64, first_row: u128, position: i64, bytes: &mut [u8]) {
        // SAFETY: the bytes begin with room for the header, and an allocation of this size is aligned for it.
        unsafe { pgrx::set_varsize_4b(bytes.as_mut_ptr().cast(), bytes.len() as i32) };
        self.bulk.insert(&[
            run.into_datum(),
            Some(tables::uuid_datum(&Uuid::from_u128(first_row))),
            position.into_datum(),
            Some(pg_sys::Datum::from(bytes.as_ptr())),
        ]);
    }

    fn finish(mut self) {
        self.end_chunk();
        self.end_filter();
        self.bulk.finish();
    }
}
