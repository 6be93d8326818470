//! Compares all rows of tracked tables with all entries about them.
//!
//! Entries and rows are read once each, under one snapshot, however many tables there are. An external sort brings them
//! together: Postgres's own, which takes `maintenance_work_mem` and then disk. It sorts 150 bytes for each entry and
//! each row, so the size of a ledger does not matter. Then one table is compared after the other. Of a table whose turn
//! is over, only its counts and its truncates are kept.
//!
//! Nothing is taken from `ledger.row_versions`: an attacker who could change entries could change that table as well.

use super::compare_rows::{Comparison, RowProblem};
use super::mid_statement;
use super::options::Options;
use super::plan;
use super::row_hashes::{RowHash, RowHashes};
use super::rows::RowLocation;
use super::sorter::{shape_number, Kind, Record, Sorter};
use super::targets::{self, not_tracked, Target};
use super::verify_row::signature_of;
use super::versions::Version;
use crate::ledger::parse_hash;
use crate::ledger::row_change::{Operation, RowChange};
use crate::ledger::verifier::KeyCounts;
use crate::postgres::all_entries;
use crate::postgres::errors::Failure;
use crate::postgres::relation;
use crate::postgres::subtransaction::attempt;
use crate::postgres::tables::{self, entry_column, RegisteredSnapshot, Table};
use crate::postgres::verification::progress::{Phase, Progress};
use pgrx::{check_for_interrupts, pg_sys, PgSqlErrorCode};
use std::collections::HashMap;
use std::rc::Rc;
use uuid::Uuid;

/// What a verification has seen of a table.
#[derive(Default)]
pub struct Counts {
    pub rows: u64,
    pub entries: u64,
    /// The entries that have a signature.
    pub signed: u64,
    /// What the signatures of entries about rows are worth.
    pub by_key: KeyCounts,
    pub problems: u64,
}

/// Verifies one table; gives `each` every problem.
pub fn verify_one(target: pg_sys::Oid, each: &mut dyn FnMut(RowProblem)) -> Result<Counts, Failure> {
    let table = Table::open_oid(target, pg_sys::AccessShareLock);
    let options = Options::of(&table).ok_or_else(|| not_tracked(&table))?;
    let targets = vec![Target::lock(&table, options)?];
    let mut outcomes = verify(targets, &mut |_, problem| each(problem));
    outcomes.pop().expect("one for each table")
}

/// Verifies the tables; gives `each` every problem, with the number of its table. Returns for each table what was seen
/// of it, or why it cannot be verified, which does not keep the others from being verified.
pub fn verify(targets: Vec<Target>, each: &mut dyn FnMut(usize, RowProblem)) -> Vec<Result<Counts, Failure>> {
    let mut verification = Verification::of(targets);
    verification.read_entries();
    verification.warn_of_missing_entries();
    verification.read_rows();
    verification.compare(each);
    verification.tables.into_iter().map(Verified::outcome).collect()
}

struct Verification {
    tables: Vec<Verified>,
    /// The numbers of the tables with an id. It is one: a copy, which has the same id, gets no plan (see
    /// [`original_of`](super::copies::original_of)), unless it had one before the original was there.
    by_id: HashMap<String, Vec<usize>>,
    /// How many sealed entries were read.
    sealed: i64,
    reading: Reading,
}

/// A table while it is being verified.
struct Verified {
    number: u32,
    target: Target,
    /// The TRUNCATEs of the table, as time and entry id.
    truncates: Vec<(i64, Uuid)>,
    counts: Counts,
    /// Why it cannot be verified.
    failure: Option<Failure>,
}

impl Verified {
    fn outcome(self) -> Result<Counts, Failure> {
        match self.failure {
            Some(failure) => Err(failure),
            None if self.counts.problems > 0 => mid_statement::require_none(self.target.oid()).map(|()| self.counts),
            None => Ok(self.counts),
        }
    }
}

/// What all tables share.
struct Reading {
    snapshot: Rc<RegisteredSnapshot>,
    progress: Progress,
    sorter: Sorter,
    entry_count: u64,
    row_count: u64,
}

impl Verification {
    fn of(mut targets: Vec<Target>) -> Verification {
        // Taken under the locks: no session can truncate or rewrite a table any more, which would show in older
        // snapshots as well.
        let snapshot = Rc::new(targets::snapshot_of(&mut targets));
        let mut by_id: HashMap<String, Vec<usize>> = HashMap::new();
        for (number, target) in targets.iter().enumerate() {
            by_id.entry(target.options.table_id.clone()).or_default().push(number);
        }
        let verified = |(number, target)| Verified {
            number,
            target,
            truncates: Vec::new(),
            counts: Counts::default(),
            failure: None,
        };
        let (progress, sorter) = (Progress::start(), Sorter::new());
        Verification {
            tables: (0..).zip(targets).map(verified).collect(),
            by_id,
            sealed: 0,
            reading: Reading { snapshot, progress, sorter, entry_count: 0, row_count: 0 },
        }
    }

    fn read_entries(&mut self) {
        self.reading.progress.phase(Phase::RowEntries);
        // Reading fails only once no table is left that can be verified. Each table then has its own reason, so this
        // error is dropped.
        let snapshot = self.reading.snapshot.clone();
        all_entries::for_each(&snapshot, |row| self.take_entry(row)).ok();
        self.tables.iter_mut().for_each(|table| table.truncates.sort_unstable());
    }

    fn take_entry(&mut self, row: &tables::Row) -> Result<(), Failure> {
        self.sealed += i64::from(!row.is_null(entry_column::BLOCK_NUMBER));
        if !tables::is_about_rows(row) {
            return Ok(());
        }
        let Some(version) = Version::from_row(row) else { return Ok(()) };
        let Some(change) = version.change() else { return Ok(()) };
        let Some(numbers) = self.by_id.get(change.table_id) else { return Ok(()) };
        self.reading.entry_count += 1;
        self.reading.progress.blocks(0, self.reading.entry_count);
        for number in numbers {
            let table = &mut self.tables[*number];
            let Some(failure) = table.take_step(|table| table.take_entry(&version, &change, &mut self.reading)) else {
                continue;
            };
            if self.tables.iter().all(Verified::has_failed) {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Warns of sealed entries that are gone: rows that they are about look as if they had never been recorded, or were
    /// not as recorded.
    fn warn_of_missing_entries(&self) {
        let recorded = tables::newest_block(&self.reading.snapshot).map_or(0, |head| head.tree_size);
        // Where no table can be verified, reading ended early, and not all entries were counted.
        if self.sealed >= recorded || self.tables.iter().all(Verified::has_failed) {
            return;
        }
        let of_table = match self.tables.as_slice() {
            [table] => format!(" of table {}", table.target.open().qualified_name()),
            _ => String::new(),
        };
        let message = format!("{} of {recorded} sealed entries are gone from the ledger", recorded - self.sealed);
        Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message)
            .detail(format!("The rows{of_table} that these entries are about are reported as unrecorded, or compared with older entries."))
            .hint("If a partition of ledger.entries_sealed was detached, attach it again. SELECT * FROM ledger.find_tampering() shows what is missing.")
            .warn();
    }

    fn read_rows(&mut self) {
        self.reading.progress.phase(Phase::Rows);
        for table in &mut self.tables {
            table.take_step(|table| table.read_rows(&mut self.reading));
        }
    }

    fn compare(&mut self, each: &mut dyn FnMut(usize, RowProblem)) {
        self.reading.progress.phase(Phase::Comparing);
        self.reading.sorter.sort();
        for (number, table) in self.tables.iter_mut().enumerate() {
            table.take_step(|table| table.compare(&mut self.reading, &mut |problem| each(number, problem)));
            table.pass_over(&mut self.reading.sorter);
        }
    }
}

impl Verified {
    fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Takes a step with the table, unless it has failed before. Returns why it fails now.
    fn take_step(&mut self, step: impl FnOnce(&mut Self) -> Result<(), Failure>) -> Option<Failure> {
        if self.has_failed() {
            return None;
        }
        self.failure = step(self).err();
        self.failure.clone()
    }

    fn take_entry(&mut self, version: &Version, change: &RowChange, reading: &mut Reading) -> Result<(), Failure> {
        self.counts.entries += 1;
        self.counts.signed += u64::from(version.signature.is_some());
        if version.operation == Operation::Truncate {
            self.truncates.push((version.created_at.micros(), version.entry_id));
            return Ok(());
        }
        let signature = signature_of(version)?;
        self.counts.by_key.note(signature);
        let mut record = Record {
            table: self.number,
            row_id: change.row_id,
            at: version.created_at.micros(),
            entry_id: version.entry_id,
            kind: if version.operation.leaves_row() { Kind::Exists } else { Kind::Gone },
            data_hash: parse_hash(&version.data_hash).unwrap_or_default(),
            // A delete has the hash of the row as it was found.
            previous: match version.operation {
                Operation::Delete => parse_hash(&version.data_hash),
                _ => change.previous_hash.and_then(parse_hash),
            },
            shape: shape_number(change.shape),
            block: version.block_number.unwrap_or(0),
            transaction: change.transaction_id.parse().unwrap_or(0),
            is_baseline: change.is_baseline,
            precedes_baseline: change.precedes_baseline,
            has_bad_signature: signature.problem().is_some(),
            has_image: change.before.or(change.after).is_some(),
            location: RowLocation::default(),
        };
        if let Some(old) = change.old_row_id {
            // The same entry also ends the row under its old key. Under the new key it finds no row.
            reading.sorter.put(&Record { row_id: old, kind: Kind::Gone, ..record });
            record.previous = None;
        }
        reading.sorter.put(&record);
        Ok(())
    }

    fn read_rows(&mut self, reading: &mut Reading) -> Result<(), Failure> {
        for leaf in self.target.leaves() {
            self.counts.rows += self.read_rows_of(&leaf, reading)?;
        }
        Ok(())
    }

    fn read_rows_of(&self, leaf: &Table, reading: &mut Reading) -> Result<u64, Failure> {
        let options = &self.target.options;
        let plan = attempt(|| plan::of(leaf, || Ok(options.clone())))??;
        let shape = shape_number(&plan.shape.id);
        let relation = relation::oid(leaf);
        let before = reading.row_count;
        let mut hashes = RowHashes::of(leaf, plan, &reading.snapshot);
        while let Some(batch) = hashes.next_batch()? {
            reading.row_count += batch.len() as u64;
            for RowHash { row_id, data_hash, tid } in batch {
                reading.sorter.put(&Record::live(self.number, row_id, data_hash, shape, RowLocation { relation, tid }));
            }
            reading.progress.rows(reading.row_count);
        }
        Ok(reading.row_count - before)
    }

    fn compare(&mut self, reading: &mut Reading, each: &mut dyn FnMut(RowProblem)) -> Result<(), Failure> {
        let Reading { snapshot, sorter, .. } = reading;
        let comparison = Comparison::new(self.target.open(), &self.target.options, snapshot, &self.truncates, each);
        self.counts.problems = comparison.run(sorter, self.number)?;
        Ok(())
    }

    /// Skips what the sorter still has of the table, if that has failed.
    fn pass_over(&self, sorter: &mut Sorter) {
        while sorter.next_of(self.number).is_some() {
            check_for_interrupts!();
        }
    }
}
