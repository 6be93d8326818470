//! Finds rows that reading in order does not reach.
//!
//! Blocks and entries are read by their indexes, in the order of the chain. A row outside that order is not read. Nor
//! is a row that no index leads to, because a user switched the index off when inserting it; every other query still
//! sees it.
//!
//! So all rows are counted as they stand in the tables, except those that were read in that order anyway. Only if there
//! are more than were read does a second look tell which, by asking the index for each. A row in a table that queries
//! show but verification does not read is always named, whatever is missing elsewhere.

use super::in_order::Stretch;
use super::paged;
use crate::ledger::verifier::{Findings, Problem, ProblemKind, Source};
use crate::postgres::partitions;
use crate::postgres::relation;
use crate::postgres::spi;
use crate::postgres::tables::{
    self, block_column, entry_column, look_up, tid_of, RegisteredSnapshot, Row, Table, TableScan, Tid,
};
use pgrx::{check_for_interrupts, pg_sys};

/// What was read in order.
pub struct ReadInOrder {
    pub last_block: i64,
    pub tree_size: i64,
    pub blocks: u64,
    pub entries: u64,
    /// Entries that were read in the order of their table, with no unread row between them.
    pub stretches: Vec<Stretch>,
}

/// Reports the rows that were not read and should have been.
pub fn check(read: &ReadInOrder, findings: &mut Findings<'_>) {
    outside_the_log(read, findings);
    let snapshot = RegisteredSnapshot::latest();
    let head = tables::head_number(&snapshot);
    let counted = Counted { last_block: read.last_block, head, snapshot };
    let blocks = Part::blocks();
    if counted.count(&blocks, &[]) != read.blocks {
        name_unread(&counted, &[blocks], findings);
    }
    for part in Part::not_sealed() {
        name_foreign(&counted, &part, findings);
    }
    let entries = Part::sealed();
    let count = |stretches: &[Stretch]| entries.iter().map(|part| counted.count(part, stretches)).sum::<u64>();
    // If a sealing batch was rolled back, later rows fill its place, perhaps within a stretch after that was read. So a
    // difference is checked again by counting all rows.
    if count(&read.stretches) != read.entries && count(&[]) != read.entries {
        name_unread(&counted, &entries, findings);
    }
}

/// Entries whose leaf_index lies outside the log, and that are not in a block sealed since.
fn outside_the_log(read: &ReadInOrder, findings: &mut Findings<'_>) {
    paged::for_each(
        "SELECT id, block_number, leaf_index FROM ledger.entries_sealed AS e \
         WHERE (leaf_index < 0 OR leaf_index >= $1 OR leaf_index IS NULL) AND NOT EXISTS \
         (SELECT FROM ledger.blocks AS b WHERE b.block_number > $2 AND b.block_number = e.block_number \
         AND e.leaf_index >= b.tree_size::numeric - b.data_count AND e.leaf_index < b.tree_size) \
         ORDER BY leaf_index, id LIMIT $3 OFFSET $4",
        &[read.tree_size.into(), read.last_block.into()],
        |row| {
            let mut problem = problem_of_entry("a sealed entry that is in no block");
            problem.entry_id = row.uuid(0);
            problem.block_number = row.get(1);
            problem.leaf_index = row.get(2);
            findings.report(problem);
        },
    );
}

fn problem_of_entry(detail: &str) -> Problem {
    Problem::new(Source::Postgres, ProblemKind::LeafIndexMismatch, detail)
}

/// Which rows to count.
struct Counted {
    last_block: i64,
    /// The newest block when they are counted.
    head: i64,
    snapshot: RegisteredSnapshot,
}

impl Counted {
    /// Whether a row that names this block should have been read, or should not exist. Rows that were sealed since need
    /// not have been read.
    fn has(&self, block_number: Option<i64>) -> bool {
        block_number.is_none_or(|number| number <= self.last_block || number > self.head)
    }

    /// Counts the rows of this table. Rows in `stretches` need not be read again.
    fn count(&self, part: &Part, stretches: &[Stretch]) -> u64 {
        if !part.table.is_heap() {
            return self.count_by_query(part);
        }
        let oid = relation::oid(&part.table);
        // All rows of a stretch count only if none can be in a later block.
        let is_known = |stretch: &&Stretch| stretch.partition == oid && stretch.highest_block <= self.last_block;
        let mut known: Vec<&Stretch> = stretches.iter().filter(is_known).collect();
        known.sort_unstable_by_key(|stretch| stretch.first);
        let rows: u64 = known.iter().map(|stretch| stretch.rows).sum();
        let mut counted = 0;
        let mut before = None;
        for stretch in known {
            counted += self.count_between(part, before, Some(stretch.first));
            before = before.max(Some(stretch.last));
        }
        rows + counted + self.count_between(part, before, None)
    }

    /// Counts the rows after one place and before another.
    fn count_between(&self, part: &Part, after: Option<Tid>, before: Option<Tid>) -> u64 {
        let pages = part.table.pages();
        let from = after.map_or(0, |(page, _)| page);
        let end = before.map_or(pages, |(page, _)| pages.min(page + 1));
        if from >= end {
            return 0;
        }
        let mut count = 0;
        let mut scan = TableScan::start_pages(&part.table, &self.snapshot, from, end - from);
        while let Some(tuple) = scan.next() {
            check_for_interrupts!();
            let tid = tid_of(tuple);
            let is_between = after.is_none_or(|after| tid > after) && before.is_none_or(|before| tid < before);
            count += u64::from(is_between && self.has(part.table.bigint(tuple, part.block_number)));
        }
        count
    }

    /// For a partition that was moved to a place where only a query finds its rows.
    fn count_by_query(&self, part: &Part) -> u64 {
        let query = format!(
            "SELECT count(*) FROM {} WHERE block_number <= $1[1] OR block_number > $1[2] OR block_number IS NULL",
            part.table.qualified_name()
        );
        let bounds = pgrx::IntoDatum::into_datum(vec![self.last_block, self.head]);
        let counted = bounds.and_then(|bounds| spi::first_row(&query, pg_sys::INT8ARRAYOID, bounds));
        counted.and_then(|row| row.get::<i64>(0)).unwrap_or_default() as u64
    }
}

/// A table of blocks, or of entries, and how its rows are read in order.
struct Part {
    table: Table,
    block_number: usize,
    /// The column that the index is on.
    key: usize,
    read: ReadBy,
    report: fn(&Row) -> Problem,
}

/// How rows are read in order.
#[derive(Clone, Copy)]
enum ReadBy {
    Index(pg_sys::Oid),
    /// By a query, which finds everything that any query finds.
    Query,
}

impl Part {
    fn blocks() -> Part {
        let table = Table::open("blocks", pg_sys::AccessShareLock);
        let index = table.primary_key();
        Part {
            read: if index == pg_sys::InvalidOid { ReadBy::Query } else { ReadBy::Index(index) },
            table,
            block_number: block_column::BLOCK_NUMBER,
            key: block_column::BLOCK_NUMBER,
            report: unread_block,
        }
    }

    /// All tables in which verification looks for sealed entries.
    fn sealed() -> Vec<Part> {
        partitions::sealed().iter().map(|partition| Part::entries(partition.oid)).collect()
    }

    /// Other tables in which a query on `ledger.entries` finds rows.
    fn not_sealed() -> Vec<Part> {
        let entries = Table::open("entries", pg_sys::AccessShareLock);
        if !entries.is_partitioned() {
            // This was reported before.
            return Vec::new();
        }
        let mut own: Vec<pg_sys::Oid> = partitions::sealed().iter().map(|partition| partition.oid).collect();
        own.push(relation::oid(&Table::open("entries_pending", pg_sys::AccessShareLock)));
        let leaves = relation::leaves(entries);
        let others = leaves.iter().map(relation::oid).filter(|oid| !own.contains(oid));
        others.map(Part::entries).collect()
    }

    fn entries(oid: pg_sys::Oid) -> Part {
        let table = Table::open_entries(oid, pg_sys::AccessShareLock);
        let read = match look_up::leaf_index_of(&table) {
            Some(index) if table.is_heap() => ReadBy::Index(index),
            _ => ReadBy::Query,
        };
        let (block_number, key) = (entry_column::BLOCK_NUMBER, entry_column::LEAF_INDEX);
        Part { table, block_number, key, read, report: unread_entry }
    }
}

fn unread_block(row: &Row) -> Problem {
    let detail = "a block that no index leads to";
    let mut problem = Problem::new(Source::Postgres, ProblemKind::BlockOutOfOrder, detail);
    problem.block_number = row.get(block_column::BLOCK_NUMBER);
    problem
}

fn unread_entry(row: &Row) -> Problem {
    let mut problem = problem_of_entry("a sealed entry that no index leads to");
    problem.entry_id = row.uuid(entry_column::ID);
    problem.block_number = row.get(entry_column::BLOCK_NUMBER);
    problem.leaf_index = row.get(entry_column::LEAF_INDEX);
    problem
}

/// Names the rows of a table that verification does not read. If it is not an ordinary table, says how many there are.
fn name_foreign(counted: &Counted, part: &Part, findings: &mut Findings<'_>) {
    let table = &part.table;
    let name = table.qualified_name();
    if !table.is_heap() {
        let count = counted.count_by_query(part);
        if count > 0 {
            findings.report(problem_of_entry(&format!("{count} entries that the ledger does not read, in {name}")));
        }
        return;
    }
    let mut scan = TableScan::start(table, &counted.snapshot, 0);
    let tuples =
        std::iter::from_fn(|| scan.next()).filter(|tuple| counted.has(table.bigint(*tuple, part.block_number)));
    for tuple in tuples {
        check_for_interrupts!();
        let detail = format!("an entry that the ledger does not read, in {name}");
        findings.report(Problem { detail, ..unread_entry(&table.deform(tuple)) });
    }
}

/// Names the rows that no index leads to. If there are none, the numbers differ because of what was already reported.
fn name_unread(counted: &Counted, parts: &[Part], findings: &mut Findings<'_>) {
    let unread: usize = parts.iter().map(|part| name_unread_of(counted, part, findings)).sum();
    if unread == 0 && findings.is_empty() {
        let detail = "the tables do not hold the same rows as their indexes";
        findings.report(Problem::new(Source::Postgres, ProblemKind::RowMalformed, detail));
    }
}

fn name_unread_of(counted: &Counted, part: &Part, findings: &mut Findings<'_>) -> usize {
    let table = &part.table;
    if matches!(part.read, ReadBy::Query) || !table.is_heap() {
        return 0;
    }
    let mut found = 0;
    let mut scan = TableScan::start(table, &counted.snapshot, 0);
    while let Some(tuple) = scan.next() {
        check_for_interrupts!();
        if !counted.has(table.bigint(tuple, part.block_number)) || is_read(counted, part, tuple) {
            continue;
        }
        findings.report((part.report)(&table.deform(tuple)));
        found += 1;
    }
    found
}

/// Whether reading in order reaches this row. A row without a key is reported elsewhere.
fn is_read(counted: &Counted, part: &Part, tuple: pg_sys::HeapTuple) -> bool {
    let ReadBy::Index(index) = part.read else { return true };
    let Some(key) = part.table.bigint(tuple, part.key) else { return true };
    // SAFETY: the scan's tuple is valid until the next one is fetched.
    let tid = unsafe { (*tuple).t_self };
    look_up::index_leads_to(&part.table, index, part.key, key, tid, &counted.snapshot)
}
