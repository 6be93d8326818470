//! `ledger.baselines`: which relations the worker has still to record, and how far it has come. This module stores
//! that; [`baseline`](super::baseline) records the rows.
//!
//! The worker trusts these rows, and signs what it records by them, so no session may change them: they are written
//! below the executor, and triggers refuse every statement (see [`tables`]).

use super::horizon::Horizon;
use crate::postgres::relation;
use crate::postgres::single_row;
use crate::postgres::tables::{self, RegisteredSnapshot, Row, Table, TableScan};
use pgrx::{pg_sys, IntoDatum};
use std::collections::HashMap;

/// A relation that has rows left to record.
pub struct Baseline {
    pub table_id: String,
    pub relation: pg_sys::Oid,
    pub horizon: Horizon,
    pub next_page: u32,
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
                oldest_running: number(9) as u64,
            },
            next_page: number(5) as u32,
            page_count: number(6) as u32,
            row_count: number(7),
            file_node: row.get(8).unwrap_or(pg_sys::InvalidOid),
        }
    }

    fn columns(&self) -> [Option<pg_sys::Datum>; 10] {
        [
            self.table_id.as_str().into_datum(),
            self.relation.into_datum(),
            (self.horizon.xid as i64).into_datum(),
            (self.horizon.by as i64).into_datum(),
            tables::timestamp_to_postgres(self.horizon.at).into_datum(),
            i64::from(self.next_page).into_datum(),
            i64::from(self.page_count).into_datum(),
            self.row_count.into_datum(),
            self.file_node.into_datum(),
            (self.horizon.oldest_running as i64).into_datum(),
        ]
    }

    fn is_of(&self, table_id: &str, relation: pg_sys::Oid) -> bool {
        self.table_id == table_id && self.relation == relation
    }

    pub fn add(&self) {
        single_row::insert(&Table::open("baselines", pg_sys::RowExclusiveLock), &self.columns());
    }

    /// Replaces the stored row about the relation.
    pub fn store(&self) {
        let table = Table::open("baselines", pg_sys::RowExclusiveLock);
        for (mut tid, _) in select(&table, |other| other.is_of(&self.table_id, self.relation)) {
            single_row::update(&table, &mut tid, &self.columns());
        }
    }

    /// Deletes the stored row: nothing is left to record.
    pub fn remove(&self) {
        delete(|other| other.is_of(&self.table_id, self.relation));
        forget_plans(self.relation);
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
    let mut all = of(|_| true);
    all.sort_by_key(|baseline| (baseline.horizon.at, baseline.relation.to_u32()));
    all
}

/// The baseline of a relation; `None` if it is complete.
pub fn find(table_id: &str, relation: pg_sys::Oid) -> Option<Baseline> {
    of(|baseline| baseline.is_of(table_id, relation)).pop()
}

/// How much of a table's baseline is recorded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    pub pages_done: i64,
    pub pages: i64,
}

/// The progress of each table that has a baseline under way, by its table id.
pub fn progress() -> HashMap<String, Progress> {
    let mut by_table: HashMap<String, Progress> = HashMap::new();
    for baseline in of(|_| true) {
        let progress = by_table.entry(baseline.table_id).or_default();
        progress.pages_done += i64::from(baseline.next_page);
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
    delete(|baseline| baseline.table_id == table_id);
}

fn of(is_wanted: impl Fn(&Baseline) -> bool) -> Vec<Baseline> {
    let table = Table::open("baselines", pg_sys::AccessShareLock);
    select(&table, is_wanted).into_iter().map(|(_, baseline)| baseline).collect()
}

fn delete(is_wanted: impl Fn(&Baseline) -> bool) {
    let table = Table::open("baselines", pg_sys::RowExclusiveLock);
    for (mut tid, _) in select(&table, is_wanted) {
        table.delete(&mut tid);
    }
}

fn select(table: &Table, is_wanted: impl Fn(&Baseline) -> bool) -> Vec<(pg_sys::ItemPointerData, Baseline)> {
    let snapshot = RegisteredSnapshot::latest();
    let mut scan = TableScan::start(table, &snapshot, 0);
    let mut found = Vec::new();
    while let Some(tuple) = scan.next() {
        let baseline = Baseline::from_row(&table.deform(tuple));
        if is_wanted(&baseline) {
            // SAFETY: the tuple is valid until the scan's next one is asked for.
            found.push((unsafe { (*tuple).t_self }, baseline));
        }
    }
    found
}
