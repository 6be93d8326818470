//! Compares the rows of one table with the entries about them. Both come from the [sorter](super::sorter): the entries
//! about one row stand together, in the order in which it was changed, and the row itself comes last.

use super::columns;
use super::compare_shapes::ShapeChanges;
use super::finding::{Finding, RowProblemKind};
use super::older_shape::OlderShape;
use super::options::Options;
use super::plan;
use super::row_hashes::unverifiable_row;
use super::row_key;
use super::sorter::{Kind, Record, Sorter};
use super::verify_row::{check_signature, presence, ByLedger, Comparer};
use super::versions::Version;
use crate::ledger::sha256;
use crate::postgres::errors::Failure;
use crate::postgres::partitions;
use crate::postgres::subtransaction::attempt;
use crate::postgres::tables::{self, look_up, RegisteredSnapshot, Table};
use pgrx::{check_for_interrupts, pg_sys, PgMemoryContexts};
use std::collections::HashMap;
use uuid::Uuid;

/// A problem with a row.
pub struct RowProblem {
    /// Canonical JSON; empty where the key is not known.
    pub row_key: String,
    pub problem: RowProblemKind,
    pub entry_id: Option<Uuid>,
    pub block_number: Option<i64>,
    pub detail: String,
}

/// Goes through rows and entries, one row after the other.
pub struct Comparison<'a> {
    root: Table,
    options: &'a Options,
    snapshot: &'a RegisteredSnapshot,
    /// The TRUNCATEs of the table, as time and entry id, in ascending order.
    truncates: &'a [(i64, Uuid)],
    comparers: Comparers<'a>,
    shapes: ShapeChanges,
    /// For what is read of one row: reset after it. To make one for each row would leave its name behind each time.
    context: PgMemoryContexts,
    each: &'a mut dyn FnMut(RowProblem),
    problem_count: u64,
}

impl<'a> Comparison<'a> {
    /// Gives `each` every problem of the table.
    pub fn new(
        root: Table,
        options: &'a Options,
        snapshot: &'a RegisteredSnapshot,
        truncates: &'a [(i64, Uuid)],
        each: &'a mut dyn FnMut(RowProblem),
    ) -> Self {
        let shapes = ShapeChanges::new(options.table_since(&root));
        let comparers = Comparers { options, known: HashMap::new() };
        let context = PgMemoryContexts::new("pg_notary comparison of rows");
        Comparison { root, options, snapshot, truncates, comparers, shapes, context, each, problem_count: 0 }
    }

    /// Takes the table's records from the sorter, in which they come next. Returns the number of problems.
    pub fn run(mut self, sorter: &mut Sorter, table: u32) -> Result<u64, Failure> {
        let mut group = Group::default();
        while let Some(record) = sorter.next_of(table) {
            check_for_interrupts!();
            if group.row_id != Some(record.row_id) {
                self.judge(&group)?;
                group = Group { row_id: Some(record.row_id), ..Group::default() };
            }
            match record.kind {
                Kind::Live => {
                    if let Some(other) = group.add_live(record) {
                        let finding = (RowProblemKind::Unrecorded, "another row has this key".to_owned());
                        self.report_live(&other, group.newest.as_ref(), finding)?;
                    }
                }
                _ => {
                    self.check_link(group.newest.as_ref(), &record)?;
                    group.newest = Some(record);
                }
            }
        }
        self.judge(&group)?;
        Ok(self.problem_count)
    }

    /// Checks that an entry found what the entry before it left: the same row, or no row.
    fn check_link(&mut self, before: Option<&Record>, entry: &Record) -> Result<(), Failure> {
        // The transaction that tracks a table may write to it before the baseline is taken.
        let is_of_tracking = before.is_some_and(|before| before.is_baseline && before.transaction == entry.transaction);
        if is_of_tracking && !entry.is_baseline {
            return Ok(());
        }
        // A baseline says what was there. It comes before all other entries about the row, or says what they say:
        // otherwise a superuser could have the worker record a change as what was there.
        let found = if entry.is_baseline { Some(entry.data_hash) } else { entry.previous };
        let left = before.filter(|before| before.kind == Kind::Exists && !self.is_truncated_between(before, entry));
        let finding = match (left, found) {
            (Some(left), Some(found)) if left.shape != entry.shape => {
                let snapshot = self.snapshot;
                self.shapes.compare(left, entry, found, |record| version_of(record, snapshot))
            }
            (Some(left), Some(found)) if left.data_hash != found => Some((
                RowProblemKind::Modified,
                format!("the row was changed without a record after this entry, and before entry {}", entry.entry_id),
            )),
            (Some(_), None) => Some((
                RowProblemKind::Missing,
                format!("the row was removed without a record after this entry, and before entry {}", entry.entry_id),
            )),
            (None, Some(_)) if before.is_some() => Some((
                RowProblemKind::Resurrected,
                format!("the row was put back without a record after this entry, and before entry {}", entry.entry_id),
            )),
            (None, Some(_)) if !entry.precedes_baseline && !entry.is_baseline => Some((
                RowProblemKind::Unrecorded,
                "this entry found the row, but no earlier entry is about it".to_owned(),
            )),
            _ => None,
        };
        finding.map_or(Ok(()), |finding| self.report(before.unwrap_or(entry), finding))
    }

    fn is_truncated_between(&self, before: &Record, after: &Record) -> bool {
        let next = self.truncates.partition_point(|at| *at < (before.at, before.entry_id));
        self.truncates.get(next).is_some_and(|at| *at < (after.at, after.entry_id))
    }

    /// Compares what the newest entry says of a row with the row.
    fn judge(&mut self, group: &Group) -> Result<(), Failure> {
        let Some(newest) = &group.newest else {
            let finding = presence(None, ByLedger::Gone, true);
            return group
                .live
                .as_ref()
                .zip(finding)
                .map_or(Ok(()), |(live, finding)| self.report_live(live, None, finding));
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
            let finding =
                finding.unwrap_or((RowProblemKind::Signature, "the signature of the entry is not valid".to_owned()));
            self.report(newest, finding)?;
        }
        let Some(live) = group.live.as_ref().filter(|_| exists) else {
            if !exists && group.live.is_none() {
                return Ok(());
            }
            let version = self.version(newest);
            let finding = presence(version.as_ref(), by_ledger, group.live.is_some());
            return finding.map_or(Ok(()), |finding| self.report(newest, finding));
        };
        if live.shape == newest.shape && live.data_hash == newest.data_hash {
            return Ok(());
        }
        let finding = self.compare_again(newest, live)?;
        finding.map_or(Ok(()), |finding| self.report(newest, finding))
    }

    /// Reads the row again, and compares it with the entry under the entry's shape. After the table's columns have
    /// changed, this is done for every row that has not changed since.
    fn compare_again(&mut self, newest: &Record, live: &Record) -> Result<Option<Finding>, Failure> {
        let snapshot = self.snapshot;
        let comparer = self.comparers.of(live.location.relation)?;
        // Before the context, because it is kept.
        let older = comparer.older_shape(newest.shape)?;
        // SAFETY: nothing is left that was in the context. The older shape, which is allocated when it is first asked
        // for, has just been; and what is returned is not in the context.
        unsafe {
            self.context.reset();
            self.context.switch_to(|_| {
                match older.is_some_and(|older| is_under(&older, comparer, newest, live, snapshot)) {
                    true => Ok(None),
                    false => compare_fully(comparer, newest, live, snapshot),
                }
            })
        }
    }

    fn version(&self, record: &Record) -> Option<Version> {
        version_of(record, self.snapshot)
    }

    fn report(&mut self, entry: &Record, finding: Finding) -> Result<(), Failure> {
        let (root, options, snapshot) = (&self.root, self.options, self.snapshot);
        // SAFETY: nothing is left that was in the context. A key is text of its own, not in it.
        let key = unsafe {
            self.context.reset();
            self.context.switch_to(|_| key_in(entry, root, options, snapshot))
        };
        self.found(RowProblem {
            row_key: key?,
            problem: finding.0,
            entry_id: Some(entry.entry_id),
            block_number: (entry.block != 0).then_some(entry.block),
            detail: finding.1,
        });
        Ok(())
    }

    /// Reports a row that is in no entry, beside the newest one about its key, if there is one.
    fn report_live(
        &mut self,
        live: &Record,
        newest: Option<&Record>,
        (problem, detail): Finding,
    ) -> Result<(), Failure> {
        let snapshot = self.snapshot;
        let comparer = self.comparers.of(live.location.relation)?;
        let key = |row: &tables::Row| columns::object(&comparer.plan.key, row);
        // SAFETY: as in report().
        let key = unsafe {
            self.context.reset();
            self.context.switch_to(|_| comparer.table().fetch(live.location.tid, snapshot, key))
        };
        let row_key = key.transpose()?.unwrap_or_default();
        let entry_id = newest.map(|newest| newest.entry_id);
        let block_number = newest.map(|newest| newest.block).filter(|block| *block != 0);
        self.found(RowProblem { row_key, problem, entry_id, block_number, detail });
        Ok(())
    }

    fn found(&mut self, problem: RowProblem) {
        self.problem_count += 1;
        (self.each)(problem);
    }
}

/// Comparers by relation, for those in which a row had to be read again.
struct Comparers<'a> {
    options: &'a Options,
    known: HashMap<pg_sys::Oid, Comparer>,
}

impl Comparers<'_> {
    fn of(&mut self, relation: pg_sys::Oid) -> Result<&mut Comparer, Failure> {
        if !self.known.contains_key(&relation) {
            let leaf = Table::open_oid(relation, pg_sys::AccessShareLock);
            let plan = plan::of(&leaf, || Ok(self.options.clone()))?;
            self.known.insert(relation, Comparer::new(leaf, plan));
        }
        Ok(self.known.get_mut(&relation).expect("it has just been put there"))
    }
}

/// Whether the row is what the entry says, under the older shape that the entry has. Without reading the entry: its
/// record has the hash.
fn is_under(
    older: &OlderShape,
    comparer: &Comparer,
    newest: &Record,
    live: &Record,
    snapshot: &RegisteredSnapshot,
) -> bool {
    let image = |row: &tables::Row| columns::object(&older.columns, row);
    let image = attempt(|| comparer.table().fetch(live.location.tid, snapshot, image));
    // Where there is none, the full comparison says why.
    matches!(image, Ok(Some(Ok(image))) if sha256(image.as_bytes()) == newest.data_hash)
}

/// Reads the entry too, so that the finding names columns.
fn compare_fully(
    comparer: &Comparer,
    newest: &Record,
    live: &Record,
    snapshot: &RegisteredSnapshot,
) -> Result<Option<Finding>, Failure> {
    let Some(version) = version_of(newest, snapshot) else { return Ok(None) };
    let compare = |row: &tables::Row| comparer.compare(row, &version);
    // The entry may cover a column that is not covered any more, and whose value cannot be printed.
    let compared = attempt(|| comparer.table().fetch(live.location.tid, snapshot, compare));
    match compared {
        Ok(compared) => compared.unwrap_or(Ok(None)),
        Err(cause) => {
            let key = version.change().map(|change| change.key).unwrap_or_default();
            Err(unverifiable_row(&format!("row {key}"), &comparer.plan, &cause))
        }
    }
}

/// The key of the row that the entry is about, by the names that its columns have now.
fn key_in(entry: &Record, root: &Table, options: &Options, snapshot: &RegisteredSnapshot) -> Result<String, Failure> {
    let version = version_of(entry, snapshot);
    let key = version.as_ref().and_then(Version::change).map(|change| {
        let key = if change.row_id == entry.row_id { change.key } else { change.old_key.unwrap_or_default() };
        row_key::renamed(key, change.shape, root, options)
    });
    Ok(key.transpose()?.unwrap_or_default())
}

/// The entry behind a record.
fn version_of(record: &Record, snapshot: &RegisteredSnapshot) -> Option<Version> {
    let read = |row: &tables::Row| Version::from_row(row);
    let found = match record.block {
        0 => {
            let table = Table::open("entries_pending", pg_sys::AccessShareLock);
            look_up::find_entry(&table, record.entry_id, snapshot, read)
        }
        block => partitions::find_in_block(block, record.entry_id, snapshot, read),
    };
    found.flatten()
}

/// What is known of one row as its entries go by.
#[derive(Default)]
struct Group {
    row_id: Option<Uuid>,
    newest: Option<Record>,
    live: Option<Record>,
}

impl Group {
    /// Takes the row, or another one with the same key, which an index that was switched off has let in. Of two, the
    /// one is kept that is as recorded. Returns the other.
    fn add_live(&mut self, live: Record) -> Option<Record> {
        let Some(known) = &self.live else {
            self.live = Some(live);
            return None;
        };
        let newest = self.newest.as_ref();
        let is_as_recorded = |row: &Record| newest.is_some_and(|newest| newest.data_hash == row.data_hash);
        match is_as_recorded(&live) && !is_as_recorded(known) {
            true => self.live.replace(live),
            false => Some(live),
        }
    }
}
