//! `ledger.baselines`: which relations the worker has still to record, and how far it has come. This module stores
//! that; [`baseline`](super::baseline) records the rows.
//!
//! The worker trusts these rows, and signs what it records by them, so no session may change them: they are written
//! below the executor, and triggers refuse every statement (see [`tables`]).

use super::horizon::Horizon;
use crate::postgres::relation;
use crate::postgres::single_row;
use crate::postgres::tables::{self, KeyScan, RegisteredSnapshot, Row, Table, Tid};
use pgrx::{pg_sys, IntoDatum};
use std::collections::HashMap;

/// A relation that has rows left to record.
pub struct Baseline {
    pub table_id: String,
    pub relation: pg_sys::Oid,
    pub horizon: Horizon,
    /// Where to go on.
    pub next: Tid,
    pub page_count: u32,
    pub row_count: i64,
    /// The file that the pages are in. After a rewrite the relation has another file, in which the rows stand
    /// elsewhere.
    pub file_node: pg_sys::Oid,
}

impl Baseline {
    fn from_row(row: &Row) -> Baseline {
        let number = |column| row.get::<i64>(column).unwrap_or_default();
        Baseline {
            table_id: row.get(0).unwrap_or_default(),
            relation: row.get(1).unwrap_or(pg_sys::InvalidOid),
            horizon: Horizon {
                xid: number(2) as u64,
                by: number(3) as u64,
                at: row.timestamp(4).unwrap_or_default(),
                oldest_running: number(10) as u64,
            },
            next: (number(5) as u32, number(6) as u16),
            page_count: number(7) as u32,
            row_count: number(8),
            file_node: row.get(9).unwrap_or(pg_sys::InvalidOid),
        }
    }

    fn columns(&self) -> [Option<pg_sys::Datum>; 11] {
        [
            self.table_id.as_str().into_datum(),
            self.relation.into_datum(),
            (self.horizon.xid as i64).into_datum(),
            (self.horizon.by as i64).into_datum(),
            tables::timestamp_to_postgres(self.horizon.at).into_datum(),
            i64::from(self.next.0).into_datum(),
            i64::from(self.next.1).into_datum(),
            i64::from(self.page_count).into_datum(),
            self.row_count.into_datum(),
            self.file_node.into_datum(),
            (self.horizon.oldest_running as i64).into_datum(),
        ]
    }

    /// The stored row about the relation.
    fn stored(&self) -> Which<'_> {
        Which::OfRelation(&self.table_id, self.relation)
    }

    pub fn add(&self) {
        single_row::insert(&Table::open("baselines", pg_sys::RowExclusiveLock), &self.columns());
    }

    /// Replaces the stored row about the relation.
    pub fn store(&self) {
        let table = Table::open("baselines", pg_sys::RowExclusiveLock);
        for (mut tid, _) in select(&table, self.stored()) {
            single_row::update(&table, &mut tid, &self.columns());
        }
    }

    /// Deletes the stored row: nothing is left to record.
    pub fn remove(&self) {
        forget_relation(&self.table_id, self.relation);
    }
}

/// Makes every session drop its plan of the relation. A plan holds the horizon, and would treat rows as not yet
/// recorded.
fn forget_plans(relation: pg_sys::Oid) {
    // SAFETY: inside a transaction. The invalidation, which needs a catalog row, is sent only if the relation exists;
    // if it does not, no session uses a plan of it.
    unsafe {
        if pg_sys::get_rel_relkind(relation) != 0 {
            pg_sys::CacheInvalidateRelcacheByRelid(relation);
        }
    }
}

/// All baselines. Those of the table that was tracked first come first.
pub fn all() -> Vec<Baseline> {
    let mut all = of(Which::All);
    all.sort_by_key(|baseline| (baseline.horizon.at, baseline.relation.to_u32()));
    all
}

/// The baseline of a relation; `None` if it is complete.
pub fn find(table_id: &str, relation: pg_sys::Oid) -> Option<Baseline> {
    of(Which::OfRelation(table_id, relation)).pop()
}

/// How much of a table's baseline is recorded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    pub pages_done: i64,
    pub pages: i64,
}

/// The progress of each table that has a baseline under way, by its table id.
pub fn progress() -> HashMap<String, Progress> {
    progress_in(of(Which::All))
}

/// Whether nothing is left to record of the baseline of the table with this id.
pub fn is_complete(table_id: &str) -> bool {
    of(Which::OfTable(table_id)).is_empty()
}

/// The progress of a table; `None` if its baseline is complete.
pub fn progress_of(table_id: &str) -> Option<Progress> {
    progress_in(of(Which::OfTable(table_id))).remove(table_id)
}

fn progress_in(baselines: Vec<Baseline>) -> HashMap<String, Progress> {
    let mut by_table: HashMap<String, Progress> = HashMap::new();
    for baseline in baselines {
        let progress = by_table.entry(baseline.table_id).or_default();
        progress.pages_done += i64::from(baseline.next.0);
        progress.pages += i64::from(baseline.page_count);
    }
    by_table
}

/// While the worker has rows of the relation left to record: row versions from before this horizon may have no entries.
pub fn pending_horizon(table: &Table, table_id: &str) -> Option<Horizon> {
    let baseline = find(table_id, relation::oid(table))?;
    let is_where_it_was = baseline.file_node == relation::file_node(table);
    Some(if is_where_it_was { baseline.horizon } else { baseline.horizon.erased() })
}

pub fn forget(table_id: &str) {
    delete(Which::OfTable(table_id));
}

/// Nothing is left to record of the relation, if there was anything.
pub fn forget_relation(table_id: &str, relation: pg_sys::Oid) {
    if delete(Which::OfRelation(table_id, relation)) > 0 {
        forget_plans(relation);
    }
}

/// Which rows are read. A table may have thousands of partitions, each with a row, and those of one are looked up again
/// and again: so all are read only where all are wanted.
#[derive(Clone, Copy)]
enum Which<'a> {
    All,
    OfTable(&'a str),
    OfRelation(&'a str, pg_sys::Oid),
}

fn of(which: Which) -> Vec<Baseline> {
    let table = Table::open("baselines", pg_sys::AccessShareLock);
    select(&table, which).into_iter().map(|(_, baseline)| baseline).collect()
}

/// Returns how many rows were deleted.
fn delete(which: Which) -> usize {
    let table = Table::open("baselines", pg_sys::RowExclusiveLock);
    let found = select(&table, which);
    found.into_iter().map(|(mut tid, _)| table.delete(&mut tid)).count()
}

fn select(table: &Table, which: Which) -> Vec<(pg_sys::ItemPointerData, Baseline)> {
    let of_table = |table_id: &str| (tables::text_datum(table_id).expect("a text is not null"), pg_sys::F_TEXTEQ);
    let values = match which {
        Which::All => vec![],
        Which::OfTable(table_id) => vec![of_table(table_id)],
        Which::OfRelation(table_id, relation) => vec![of_table(table_id), (relation.into(), pg_sys::F_OIDEQ)],
    };
    let snapshot = RegisteredSnapshot::latest();
    // SAFETY: the first columns are a text and an oid. The text is in the current memory context, which outlives the
    // scan.
    let mut scan = unsafe { KeyScan::start_at(table, &snapshot, &values) };
    let mut found = Vec::new();
    while let Some(tuple) = scan.next() {
        // SAFETY: the tuple is valid until the scan's next one is asked for.
        found.push((unsafe { (*tuple).t_self }, Baseline::from_row(&table.deform(tuple))));
    }
    found
}
