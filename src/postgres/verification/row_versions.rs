//! Whether `ledger.row_versions` leads to the sealed entries about rows and items: to each, once, and to nothing else.
//!
//! Runs hold the places of the entries of all blocks that are sealed, so blocks and runs are read with one snapshot.
//! Entries come from a verification of the chain, which reads on while more is sealed and runs are merged; those of
//! later blocks are left out.

use crate::ledger::row_check::PlaceCheck;
use crate::ledger::row_filter;
use crate::ledger::row_index::LogPosition;
use crate::ledger::row_runs::Run;
use crate::ledger::verifier::{Findings, Problem, ProblemKind, Source, StoredEntry};
use crate::postgres::log_state;
use crate::postgres::spi;
use crate::postgres::tables::{self, RegisteredSnapshot};
use crate::postgres::tracking::version_runs::{asks_filters, filters_of, Chunk, Chunks, VersionTable};
use pgrx::{check_for_interrupts, pg_sys};

/// The check, while entries are being read.
pub struct RowVersions {
    snapshot: RegisteredSnapshot,
    /// The newest block that the snapshot sees.
    head: i64,
    check: PlaceCheck,
}

impl RowVersions {
    /// For a verification that reads all entries from now on.
    pub fn start() -> Self {
        // An isolated transaction does not read blocks that were sealed since it began.
        let snapshot = if spi::is_isolated() { RegisteredSnapshot::of_query() } else { RegisteredSnapshot::latest() };
        let head = tables::head_number(&snapshot);
        RowVersions { snapshot, head, check: PlaceCheck::default() }
    }

    /// Takes the next entry.
    pub fn entry(&mut self, entry: &StoredEntry) {
        if entry.block_number > self.head {
            return;
        }
        for row_id in entry.row_ids(tables::metadata_text).into_iter().flatten() {
            self.check.entry(&LogPosition {
                row: row_id.as_u128(),
                created_at: entry.created_at,
                leaf_index: entry.leaf_index,
                block_number: entry.block_number,
            });
        }
    }

    /// Compares what was taken with the runs.
    pub fn finish(mut self, findings: &mut Findings<'_>) {
        let versions = VersionTable::open(pg_sys::AccessShareLock);
        let runs = log_state::version_runs(&self.snapshot);
        let mut report = |what: String| {
            let detail = format!("ledger.row_versions: {what}; history(), verify_row() and load_item() may go wrong");
            findings.report(Problem::new(Source::Postgres, ProblemKind::RowVersionsMismatch, detail));
        };
        for run in &runs {
            self.check_run(run, &versions).into_iter().for_each(&mut report);
        }
        self.check.difference().into_iter().for_each(report);
    }

    /// What is wrong with a run, if anything is.
    fn check_run(&mut self, run: &Run, versions: &VersionTable) -> Option<String> {
        let snapshot = &self.snapshot;
        let rows = || run.first_row()..=u128::MAX;
        let mut check = self.check.run(run);
        let filters = asks_filters(run).then(|| Chunks::up(versions, filters_of(run.number), rows(), snapshot));
        let mut filters = Filters { scan: filters, current: None, next: None };
        filters.read();
        let mut chunks = Chunks::up(versions, run.number, rows(), snapshot);
        while chunks.next(|chunk| check.chunk(chunk.first_row, chunk.bytes, |row| filters.may_hold(row))).is_some() {
            check_for_interrupts!();
        }
        check.finish()
    }
}

/// The filters of a run, read along with it.
struct Filters<'a> {
    /// `None` where look-ups ask no filter.
    scan: Option<Chunks<'a>>,
    /// The filter for the rows that are being read, if there is one.
    current: Option<Filter>,
    next: Option<Filter>,
}

struct Filter {
    first_row: u128,
    bytes: Vec<u8>,
}

impl Filters<'_> {
    fn read(&mut self) {
        let filter = |chunk: Chunk| Filter { first_row: chunk.first_row, bytes: chunk.bytes.to_vec() };
        self.next = self.scan.as_mut().and_then(|scan| scan.next(filter));
    }

    /// What a look-up of the row, which is not before the rows asked for so far, takes from the filters.
    fn may_hold(&mut self, row: u128) -> bool {
        while self.next.as_ref().is_some_and(|next| next.first_row <= row) {
            self.current = self.next.take();
            self.read();
        }
        self.current.as_ref().is_none_or(|filter| row_filter::may_contain(&filter.bytes, row))
    }
}
