//! The baseline: rows that were there before their table was tracked are recorded as they are.
//!
//! Of a small table at once, of a larger one by the worker, in batches, while the application goes on writing. Which rows
//! still need it is told by who wrote them: when the triggers were made, nobody else was writing to the table, so a row
//! version of a transaction from before has no entry, and one of a later transaction has. Of a transaction that was running
//! then, and had written elsewhere, a row may have been written later: there its entries are looked for. Entries of the
//! baseline carry the time at which the triggers were made, and so come before all that the triggers record.

use super::columns;
use super::metadata::Metadata;
use super::options::Options;
use super::plan::{self, Plan};
use super::relation;
use super::row_key::RowKey;
use super::versions;
use crate::ledger::record::Timestamp;
use crate::ledger::row_change::Operation;
use crate::ledger::sha256_hex;
use crate::postgres::entries::{self, RowEntry};
use crate::postgres::errors::{or_raise, Failure};
use crate::postgres::queue;
use crate::postgres::spi;
use crate::postgres::tables::{self, LatestSnapshot, Table, TableScan};
use crate::postgres::transaction;
use pgrx::{check_for_interrupts, pg_sys, IntoDatum, PgMemoryContexts, Spi};
use std::collections::HashSet;
use uuid::Uuid;

/// Tables up to so many pages are recorded at once: the triggers' lock is held anyway for a few milliseconds.
const AT_ONCE_PAGES: u32 = 64;
/// The worker records so many pages in one transaction.
const BATCH_PAGES: u32 = 256;

/// When the triggers were made.
#[derive(Clone, Copy)]
struct Horizon {
    /// Row versions of transactions before this one have no entries.
    xid: pg_sys::TransactionId,
    /// Those of transactions from this one on may have some all the same: it was running.
    oldest_running: pg_sys::TransactionId,
    /// The transaction that made the triggers.
    by: u64,
    at: Timestamp,
}

impl Horizon {
    fn now() -> Horizon {
        // SAFETY: inside a transaction that may write.
        unsafe {
            let by = pg_sys::GetTopFullTransactionId().value;
            // The lower half is the transaction id.
            let next = pg_sys::ReadNextFullTransactionId().value as u32;
            let oldest_running = (*LatestSnapshot::take().as_ptr()).xmin;
            Horizon { xid: pg_sys::TransactionId::from(next), oldest_running, by, at: tables::now() }
        }
    }
}

/// Records the rows of a table that has just been given its triggers, or leaves them to the worker. The caller keeps
/// writers out until its transaction ends.
pub fn begin(table: Table, options: &Options) -> Result<(), Failure> {
    let horizon = Horizon::now();
    let leaves = relation::leaves(table);
    let at_once = leaves.iter().map(Table::pages).sum::<u32>() <= AT_ONCE_PAGES;
    for leaf in leaves {
        if at_once {
            let plan = plan::of(&leaf, || Ok(options.clone()))?;
            record_pages(&plan, &leaf, 0, leaf.pages(), horizon)?;
        } else {
            leave_to_worker(&leaf, options, horizon);
            transaction::at_end_baseline_begun();
        }
    }
    Ok(())
}

fn leave_to_worker(leaf: &Table, options: &Options, horizon: Horizon) {
    let baselines = Table::open("baselines", pg_sys::RowExclusiveLock);
    baselines.insert(&[
        options.table_id.as_str().into_datum(),
        relation::oid(leaf).into_datum(),
        i64::from(horizon.xid.into_inner()).into_datum(),
        (horizon.by as i64).into_datum(),
        tables::timestamp_to_postgres(horizon.at).into_datum(),
        0_i64.into_datum(),
        i64::from(leaf.pages()).into_datum(),
        0_i64.into_datum(),
        file_node(leaf).into_datum(),
        i64::from(horizon.oldest_running.into_inner()).into_datum(),
    ]);
}

/// Row versions of transactions before this one may have no entries, as the worker has still to record some.
pub fn pending_horizon(table: &Table, table_id: &str) -> Option<pg_sys::TransactionId> {
    let baselines = Table::open("baselines", pg_sys::AccessShareLock);
    let snapshot = LatestSnapshot::take();
    let mut scan = TableScan::start(&baselines, &snapshot, 0);
    while let Some(tuple) = scan.next() {
        let row = baselines.deform(tuple);
        let is_own = row.get::<String>(0).is_some_and(|id| id == table_id) && row.get(1) == Some(relation::oid(table));
        if is_own {
            return row.get::<i64>(2).map(|horizon| pg_sys::TransactionId::from(horizon as u32));
        }
    }
    None
}

/// How many pages of a table have had their turn, and of how many; `None` if all rows are recorded.
pub fn progress(table_id: &str) -> Option<(i64, i64)> {
    let baselines = Table::open("baselines", pg_sys::AccessShareLock);
    let snapshot = LatestSnapshot::take();
    let mut scan = TableScan::start(&baselines, &snapshot, 0);
    let mut pages = None;
    while let Some(tuple) = scan.next() {
        let row = baselines.deform(tuple);
        if row.get::<String>(0).is_some_and(|id| id == table_id) {
            let (done, all) = pages.unwrap_or((0, 0));
            pages = Some((done + row.get::<i64>(5).unwrap_or(0), all + row.get::<i64>(6).unwrap_or(0)));
        }
    }
    pages
}

/// Another one means that the rows of the table stand elsewhere.
fn file_node(table: &Table) -> pg_sys::Oid {
    // SAFETY: the relation is open.
    unsafe { (*(*table.relation()).rd_rel).relfilenode }
}

pub fn forget(table_id: &str) {
    let forgotten = Spi::run_with_args("DELETE FROM ledger.baselines WHERE table_id = $1", &[table_id.into()]);
    forgotten.unwrap_or_else(|error| pgrx::error!("could not forget a baseline: {error}"));
}

/// Records the rows of these pages that have no entry; returns how many.
fn record_pages(plan: &Plan, table: &Table, from: u32, count: u32, horizon: Horizon) -> Result<i64, Failure> {
    let mut context = PgMemoryContexts::new("pg_notary baseline");
    let snapshot = LatestSnapshot::take();
    let mut scan = TableScan::start_pages(table, &snapshot, from, count);
    let mut recorded = RecordedRows::new(&snapshot);
    let mut rows = 0;
    while let Some(tuple) = scan.next() {
        check_for_interrupts!();
        // SAFETY: the scan's tuple is good until the next. Nothing allocated for a row is used after it.
        unsafe {
            let xmin = (*(*tuple).t_data).t_choice.t_heap.t_xmin;
            if pg_sys::TransactionIdPrecedes(xmin, horizon.xid) {
                let may_have_entry = !pg_sys::TransactionIdPrecedes(xmin, horizon.oldest_running);
                let mut record = || -> Result<i64, Failure> {
                    let row = table.deform(tuple);
                    if may_have_entry && recorded.has(plan, &row)? {
                        return Ok(0);
                    }
                    record_row(plan, &row, horizon).map(|()| 1)
                };
                rows += context.switch_to(|_| record())?;
            }
            context.reset();
        }
    }
    queue::flush();
    Ok(rows)
}

/// Which rows have an entry, as a snapshot sees it.
struct RecordedRows<'a> {
    snapshot: &'a LatestSnapshot,
    /// Read when it is first needed, and once: looking for one row takes as long as for all.
    pending: Option<HashSet<Uuid>>,
}

impl RecordedRows<'_> {
    fn new(snapshot: &LatestSnapshot) -> RecordedRows<'_> {
        RecordedRows { snapshot, pending: None }
    }

    fn has(&mut self, plan: &Plan, row: &tables::Row) -> Result<bool, Failure> {
        let row_id = RowKey::id_of(&plan.options.table_id, &plan.key, row)?;
        let snapshot = self.snapshot.as_ptr();
        // SAFETY: the snapshot is registered as long as this value.
        let pending = self.pending.get_or_insert_with(|| unsafe { versions::pending_rows(snapshot) });
        // SAFETY: as above.
        Ok(pending.contains(&row_id) || unsafe { versions::has_sealed(row_id, snapshot) })
    }
}

fn record_row(plan: &Plan, row: &tables::Row, horizon: Horizon) -> Result<(), Failure> {
    plan.ensure_shape()?;
    let image = columns::object(&plan.columns, row)?;
    let metadata = Metadata::of_table(plan)
        .image("after", &image)
        .row_key(&RowKey::of(plan, row)?)
        .key("baseline", "true")
        .key("transaction_id", &horizon.by.to_string());
    entries::record_row_of_many(RowEntry {
        entry_type: Operation::Insert.entry_type(),
        data_hash: sha256_hex(image.as_bytes()),
        metadata: metadata.finish(),
        with_signature: plan.options.with_signature,
        created_at: horizon.at,
    })
}

/// One batch of the worker's, in its own transaction. Returns whether there is more to do.
pub fn record_batch() -> bool {
    let mut next = None;
    spi::for_each(
        "SELECT table_id, relation, horizon, tracked_by, tracked_at, next_page, page_count, file_node, \
         oldest_running FROM ledger.baselines \
         ORDER BY tracked_at, relation LIMIT 1",
        &[],
        |row| {
            let number = |column| row.get::<i64>(column).unwrap_or_default();
            next = Some(Pending {
                table_id: row.get(0).unwrap_or_default(),
                relation: row.get(1).unwrap_or(pg_sys::InvalidOid),
                horizon: Horizon {
                    xid: pg_sys::TransactionId::from(number(2) as u32),
                    oldest_running: pg_sys::TransactionId::from(number(8) as u32),
                    by: number(3) as u64,
                    at: row.timestamp(4).unwrap_or_default(),
                },
                next_page: number(5) as u32,
                page_count: number(6) as u32,
                file_node: row.get(7).unwrap_or(pg_sys::InvalidOid),
            });
        },
    );
    next.is_some_and(|pending| pending.go_on())
}

/// A relation whose baseline is not complete.
struct Pending {
    table_id: String,
    relation: pg_sys::Oid,
    horizon: Horizon,
    next_page: u32,
    page_count: u32,
    file_node: pg_sys::Oid,
}

impl Pending {
    fn go_on(self) -> bool {
        // Whoever holds a stronger lock may itself wait for this process, also for one on a table that it is a partition of.
        if !relation::try_lock(self.relation) {
            return true;
        }
        // SAFETY: null if there is no such relation any more.
        let relation = unsafe { pg_sys::try_relation_open(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) };
        if relation.is_null() {
            self.finish();
            return true;
        }
        // SAFETY: just opened.
        unsafe { pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE) };
        let table = Table::open_oid(self.relation, pg_sys::AccessShareLock);
        // SAFETY: the relation is open.
        let options = unsafe { Options::of_relation(table.relation()) };
        match options.filter(|options| options.table_id == self.table_id) {
            None => self.finish(),
            Some(options) => self.record(&table, options),
        }
        true
    }

    fn record(mut self, table: &Table, options: Options) {
        let plan = or_raise(plan::of(table, || Ok(options)));
        if file_node(table) != self.file_node {
            // Written anew, by VACUUM FULL say: rows stand elsewhere. Those that have an entry get a second one like it.
            (self.next_page, self.page_count) = (0, table.pages());
        }
        // In a table that has become shorter it ends early. Rows in pages that were added have entries.
        let end = self.page_count.min(table.pages());
        let count = BATCH_PAGES.min(end.saturating_sub(self.next_page));
        if count == 0 {
            return self.finish();
        }
        let rows = or_raise(record_pages(&plan, table, self.next_page, count, self.horizon));
        self.advance(table, count, rows);
    }

    fn advance(&self, table: &Table, pages: u32, rows: i64) {
        let done = Spi::run_with_args(
            "UPDATE ledger.baselines SET next_page = $3, row_count = row_count + $4, page_count = $5, file_node = $6 \
             WHERE table_id = $1 AND relation = $2",
            &[
                self.table_id.as_str().into(),
                self.relation.into(),
                i64::from(self.next_page + pages).into(),
                rows.into(),
                i64::from(self.page_count).into(),
                file_node(table).into(),
            ],
        );
        done.unwrap_or_else(|error| pgrx::error!("could not note the progress of a baseline: {error}"));
    }

    fn finish(&self) {
        let done = Spi::run_with_args(
            "DELETE FROM ledger.baselines WHERE table_id = $1 AND relation = $2",
            &[self.table_id.as_str().into(), self.relation.into()],
        );
        done.unwrap_or_else(|error| pgrx::error!("could not note the end of a baseline: {error}"));
    }
}
