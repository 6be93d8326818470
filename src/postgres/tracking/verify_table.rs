//! All rows of a tracked table against all entries about them.
//!
//! Entries and rows are read once each, under one snapshot, and brought together by an external sort: Postgres' own, which
//! takes `maintenance_work_mem` and then disk. What is sorted is 150 bytes for each entry and each row, so size does not
//! matter. Nothing is taken from `ledger.row_versions`: who could change the one could change the other.

use super::columns;
use super::options::Options;
use super::plan;
use super::row_key::{self, RowKey};
use super::rows;
use super::sorter::{shape_number, Kind, Place, Record, Sorter};
use super::verify_row::{check_signature, presence, ByLedger, Comparer, Finding, Problem};
use super::versions::{self, Version};
use crate::ledger::row_change::Operation;
use crate::ledger::{parse_hash, sha256, Hash};
use crate::postgres::all_entries;
use crate::postgres::errors::Failure;
use crate::postgres::partitions;
use crate::postgres::relation;
use crate::postgres::tables::{self, entry_column, RegisteredSnapshot, Table, TableScan};
use crate::postgres::verification::progress::{Phase, Progress};
use pgrx::{check_for_interrupts, pg_sys, PgMemoryContexts, PgSqlErrorCode};
use std::collections::HashMap;
use uuid::Uuid;

/// A row with which something is wrong.
pub struct RowProblem {
    /// Canonical JSON; empty where nobody can tell.
    pub row_key: String,
    pub problem: Problem,
    pub entry_id: Option<Uuid>,
    pub block_number: Option<i64>,
    pub detail: String,
}

/// What a verification has seen.
#[derive(Default)]
pub struct Counts {
    pub rows: u64,
    pub entries: u64,
    /// Of the entries, those that have a signature.
    pub signed: u64,
    pub problems: u64,
}

/// Verifies the table; gives `each` every problem.
pub fn verify(target: pg_sys::Oid, each: &mut dyn FnMut(RowProblem)) -> Result<Counts, Failure> {
    let root = Table::open_oid(target, pg_sys::AccessShareLock);
    // SAFETY: the relation is open.
    let options = unsafe { Options::of_relation(root.relation()) }.ok_or_else(|| not_tracked(&root))?;
    check_whole(&root, &options)?;
    relation::tree(&root, pg_sys::AccessShareLock);
    // As of now, when nobody can truncate the table any more, or write it anew: that shows to older snapshots as well.
    let snapshot = RegisteredSnapshot::latest();
    let progress = Progress::start();
    let mut verification = Verification {
        root,
        table_id: options.table_id.clone(),
        snapshot,
        progress,
        sorter: Sorter::new(),
        truncates: Vec::new(),
        sealed: 0,
        comparers: HashMap::new(),
        counts: Counts::default(),
    };
    verification.read_entries()?;
    verification.warn_of_missing_entries();
    verification.read_rows(target, &options)?;
    verification.compare(each)?;
    Ok(verification.counts)
}

/// The entries tell in which table a row is, not in which partition of it.
fn check_whole(table: &Table, options: &Options) -> Result<(), Failure> {
    let plan = plan::of(table, || Ok(options.clone()))?;
    if !plan.is_partition {
        return Ok(());
    }
    let (name, whole) = (relation::qualified_name(table), &plan.table);
    Err(Failure::new(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, format!("cannot verify table {name} alone"))
        .detail(format!("It is a partition of {whole}, which is tracked, and its rows with it."))
        .hint(format!("Call the function for {whole}.")))
}

pub fn not_tracked(table: &Table) -> Failure {
    let message = format!("table {} is not tracked", relation::qualified_name(table));
    let track = format!("SELECT ledger.track({})", relation::name_literal(table));
    Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .hint(format!("{track} has its rows recorded; view ledger.tracked_tables lists the tables that are."))
}

struct Verification {
    root: Table,
    table_id: String,
    snapshot: RegisteredSnapshot,
    progress: Progress,
    sorter: Sorter,
    /// When all rows were removed, and by which entry.
    truncates: Vec<(i64, Uuid)>,
    /// Of all entries, those that are sealed.
    sealed: i64,
    /// By relation.
    comparers: HashMap<pg_sys::Oid, Comparer>,
    counts: Counts,
}

impl Verification {
    fn read_entries(&mut self) -> Result<(), Failure> {
        self.progress.phase(Phase::RowEntries);
        // SAFETY: the snapshot is registered as long as this verification.
        unsafe { all_entries::for_each(self.snapshot.as_ptr(), |row| self.take_entry(row))? };
        self.truncates.sort_unstable();
        Ok(())
    }

    /// Their rows look as if they had never been recorded, or not as they are.
    fn warn_of_missing_entries(&self) {
        let recorded = tables::newest_block(&self.snapshot).map_or(0, |head| head.tree_size);
        if self.sealed >= recorded {
            return;
        }
        let (missing, table) = (recorded - self.sealed, relation::qualified_name(&self.root));
        let message = format!("{missing} of {recorded} sealed entries are gone from the ledger");
        Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message)
            .detail(format!("Rows of table {table} that they are about are reported as unrecorded, or compared with older entries."))
            .hint("If a partition of ledger.entries_sealed was detached, attach it again. SELECT * FROM ledger.find_tampering() shows what is missing.")
            .warn();
    }

    fn take_entry(&mut self, row: &tables::Row) -> Result<(), Failure> {
        self.sealed += i64::from(!row.is_null(entry_column::BLOCK_NUMBER));
        if !versions::is_about_rows(row) {
            return Ok(());
        }
        let Some(version) = Version::from_row(row) else { return Ok(()) };
        let Some(change) = version.change().filter(|change| change.table_id == self.table_id) else { return Ok(()) };
        self.counts.entries += 1;
        self.counts.signed += u64::from(version.signature.is_some());
        self.progress.blocks(0, self.counts.entries);
        if version.operation == Operation::Truncate {
            self.truncates.push((version.created_at.micros(), version.entry_id));
            return Ok(());
        }
        let mut record = Record {
            row_id: change.row_id,
            at: version.created_at.micros(),
            entry_id: version.entry_id,
            kind: if version.leaves_row(change.row_id) { Kind::Exists } else { Kind::Gone },
            data_hash: parse_hash(&version.data_hash).unwrap_or_default(),
            // A delete states the row as it was found.
            previous: match version.operation {
                Operation::Delete => parse_hash(&version.data_hash),
                _ => change.previous_hash.and_then(parse_hash),
            },
            shape: shape_number(change.shape),
            block: version.block_number.unwrap_or(0),
            transaction: change.transaction_id.parse().unwrap_or(0),
            is_baseline: change.is_baseline,
            precedes_baseline: change.precedes_baseline,
            has_bad_signature: check_signature(&version)?.is_some(),
            place: Place::default(),
        };
        if let Some(old) = change.old_row_id {
            // The same entry, as the end of the row under its old key. Under the new one it finds none.
            self.sorter.put(&Record { row_id: old, kind: Kind::Gone, ..record });
            record.previous = None;
        }
        self.sorter.put(&record);
        Ok(())
    }

    fn read_rows(&mut self, target: pg_sys::Oid, options: &Options) -> Result<(), Failure> {
        self.progress.phase(Phase::Rows);
        for leaf in relation::leaves(Table::open_oid(target, pg_sys::AccessShareLock)) {
            let plan = plan::of(&leaf, || Ok(options.clone()))?;
            let oid = relation::oid(&leaf);
            let comparer = Comparer::new(leaf, plan);
            self.read_rows_of(&comparer)?;
            self.comparers.insert(oid, comparer);
        }
        Ok(())
    }

    fn read_rows_of(&mut self, comparer: &Comparer) -> Result<(), Failure> {
        let mut context = PgMemoryContexts::new("pg_notary verification");
        let (table, plan) = (comparer.table(), &comparer.plan);
        let shape = shape_number(&plan.shape.id);
        let oid = relation::oid(table);
        let mut scan = TableScan::start(table, &self.snapshot, 0);
        while let Some(tuple) = scan.next() {
            check_for_interrupts!();
            let row = table.deform(tuple);
            let hash = || -> Result<(Uuid, Hash), Failure> {
                let image = plan.image(&row)?;
                Ok((RowKey::id_of(&self.table_id, &plan.key, &row)?, sha256(image.as_bytes())))
            };
            // SAFETY: nothing allocated for one row is used after it.
            let (row_id, data_hash) = unsafe { context.switch_to(|_| hash())? };
            // SAFETY: as above.
            unsafe { context.reset() };
            // SAFETY: the scan's tuple is good until the next.
            let tid = unsafe { (*tuple).t_self };
            self.sorter.put(&Record::live(row_id, data_hash, shape, Place { relation: oid, tid }));
            self.counts.rows += 1;
            self.progress.rows(self.counts.rows);
        }
        Ok(())
    }

    /// Goes through rows and entries, one row after the other.
    fn compare(&mut self, each: &mut dyn FnMut(RowProblem)) -> Result<(), Failure> {
        self.progress.phase(Phase::Comparing);
        self.sorter.sort();
        let mut group = Group::default();
        while let Some(record) = self.sorter.next() {
            check_for_interrupts!();
            if group.row_id != Some(record.row_id) {
                self.judge(&group, each)?;
                group = Group { row_id: Some(record.row_id), ..Group::default() };
            }
            match record.kind {
                Kind::Live => group.live = Some(record),
                _ => {
                    self.check_link(group.newest.as_ref(), &record, each)?;
                    group.newest = Some(record);
                }
            }
        }
        self.judge(&group, each)
    }

    /// What an entry found must be what the entry before left: the same row, or none.
    fn check_link(
        &mut self,
        before: Option<&Record>,
        entry: &Record,
        each: &mut dyn FnMut(RowProblem),
    ) -> Result<(), Failure> {
        // A baseline may have been taken after its own transaction went on writing, and be taken twice.
        let is_of_tracking = before.is_some_and(|before| before.is_baseline && before.transaction == entry.transaction);
        if entry.is_baseline || is_of_tracking {
            return Ok(());
        }
        let left = before.filter(|before| before.kind == Kind::Exists && !self.is_truncated_between(before, entry));
        let finding = match (left, entry.previous) {
            (Some(left), Some(found)) if left.shape == entry.shape && left.data_hash != found => Some((
                Problem::Modified,
                format!("the row was changed without a record after this entry, and before entry {}", entry.entry_id),
            )),
            (Some(_), None) => Some((
                Problem::Missing,
                format!("the row was removed without a record after this entry, and before entry {}", entry.entry_id),
            )),
            (None, Some(_)) if before.is_some() => Some((
                Problem::Resurrected,
                format!("the row was put back without a record after this entry, and before entry {}", entry.entry_id),
            )),
            (None, Some(_)) if !entry.precedes_baseline => {
                Some((Problem::Unrecorded, "this entry found the row, and none before is about it".to_owned()))
            }
            _ => None,
        };
        finding.map_or(Ok(()), |finding| self.report(before.unwrap_or(entry), finding, each))
    }

    fn is_truncated_between(&self, before: &Record, after: &Record) -> bool {
        let next = self.truncates.partition_point(|at| *at < (before.at, before.entry_id));
        self.truncates.get(next).is_some_and(|at| *at < (after.at, after.entry_id))
    }

    /// Compares what the newest entry says of a row with the row.
    fn judge(&mut self, group: &Group, each: &mut dyn FnMut(RowProblem)) -> Result<(), Failure> {
        let Some(newest) = &group.newest else {
            return match &group.live {
                Some(live) => self.report_live(live, each),
                None => Ok(()),
            };
        };
        let last_truncate = self.truncates.last();
        let is_truncated = last_truncate.is_some_and(|at| *at > (newest.at, newest.entry_id));
        let by_ledger = match newest.kind {
            _ if is_truncated => ByLedger::Truncated,
            Kind::Exists => ByLedger::Exists,
            _ => ByLedger::Gone,
        };
        let exists = by_ledger == ByLedger::Exists;
        if newest.has_bad_signature {
            let version = self.version(newest);
            let finding = version.map(|version| check_signature(&version)).transpose()?.flatten();
            let finding = finding.unwrap_or((Problem::Signature, "the signature of the entry is not good".to_owned()));
            self.report(newest, finding, each)?;
        }
        let Some(live) = group.live.as_ref().filter(|_| exists) else {
            if !exists && group.live.is_none() {
                return Ok(());
            }
            let version = self.version(newest);
            let finding = presence(version.as_ref(), by_ledger, group.live.is_some());
            return finding.map_or(Ok(()), |finding| self.report(newest, finding, each));
        };
        if live.shape == newest.shape && live.data_hash == newest.data_hash {
            return Ok(());
        }
        let finding = self.compare_fully(newest, live)?;
        finding.map_or(Ok(()), |finding| self.report(newest, finding, each))
    }

    /// With the row and the entry in hand: under the shape of the entry, and with the names of columns.
    fn compare_fully(&mut self, newest: &Record, live: &Record) -> Result<Option<Finding>, Failure> {
        let Some(version) = self.version(newest) else { return Ok(None) };
        let snapshot = self.snapshot.as_ptr();
        let Some(comparer) = self.comparers.get_mut(&live.place.relation) else { return Ok(None) };
        let table = Table::open_oid(live.place.relation, pg_sys::AccessShareLock);
        // SAFETY: the snapshot is registered.
        let compared = unsafe { rows::fetch(&table, live.place.tid, snapshot, |row| comparer.compare(row, &version)) };
        compared.unwrap_or(Ok(None))
    }

    /// The entry behind a record.
    fn version(&self, record: &Record) -> Option<Version> {
        let snapshot = self.snapshot.as_ptr();
        let read = |row: &tables::Row| Version::from_row(row);
        let found = match record.block {
            0 => {
                let table = Table::open("entries_pending", pg_sys::AccessShareLock);
                partitions::find(&table, record.entry_id, snapshot, read)
            }
            block => partitions::find_in_block(block, record.entry_id, snapshot, read),
        };
        found.flatten()
    }

    fn report(&mut self, entry: &Record, finding: Finding, each: &mut dyn FnMut(RowProblem)) -> Result<(), Failure> {
        let version = self.version(entry);
        let key = version.as_ref().and_then(Version::change).map(|change| {
            let key = if change.row_id == entry.row_id { change.key } else { change.old_key.unwrap_or_default() };
            row_key::renamed(key, change.shape, &self.root)
        });
        self.counts.problems += 1;
        each(RowProblem {
            row_key: key.transpose()?.unwrap_or_default(),
            problem: finding.0,
            entry_id: Some(entry.entry_id),
            block_number: (entry.block != 0).then_some(entry.block),
            detail: finding.1,
        });
        Ok(())
    }

    fn report_live(&mut self, live: &Record, each: &mut dyn FnMut(RowProblem)) -> Result<(), Failure> {
        let Some(comparer) = self.comparers.get(&live.place.relation) else { return Ok(()) };
        let key = |row: &tables::Row| columns::object(&comparer.plan.key, row);
        // SAFETY: the snapshot is registered.
        let key = unsafe { rows::fetch(comparer.table(), live.place.tid, self.snapshot.as_ptr(), key) };
        let Some((problem, detail)) = presence(None, ByLedger::Gone, true) else { return Ok(()) };
        self.counts.problems += 1;
        each(RowProblem {
            row_key: key.transpose()?.unwrap_or_default(),
            problem,
            entry_id: None,
            block_number: None,
            detail,
        });
        Ok(())
    }
}

/// What is known of one row while its entries go by.
#[derive(Default)]
struct Group {
    row_id: Option<Uuid>,
    newest: Option<Record>,
    live: Option<Record>,
}
