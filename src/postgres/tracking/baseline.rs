//! The baseline: records the rows that were in a table before it was tracked. [`baseline_table`] stores what is left to
//! do.
//!
//! A small table is recorded at once. A larger one is left to the worker, which records it in batches while the
//! application goes on writing. The transaction that wrote a row version tells whether its row still needs an entry
//! (see [`horizon`]):
//! - When the triggers were made, no other transaction was writing to the table. So a row version of an earlier
//!   transaction has no entry, and one of a later transaction has one.
//! - A transaction that was running then, but had not written to this table, may have written a row afterwards. For its
//!   row versions the worker looks for the row's entries.
//! - It does the same where a row version does not show any more which transaction wrote it: when it is frozen, or the
//!   table was rewritten.
//!
//! Entries of the baseline carry the time at which the triggers were made, so they come before all that the triggers
//! record.

use super::baseline_table::{self, Baseline};
use super::horizon::{self, HasEntry, Horizon};
use super::metadata::MetadataBuilder;
use super::options::Options;
use super::plan::{self, Plan};
use super::row_key::RowKey;
use super::versions;
use crate::ledger::metadata::Member;
use crate::ledger::row_change::Operation;
use crate::ledger::sha256_hex;
use crate::postgres::entries::{self, OwnEntry};
use crate::postgres::errors::{or_raise, with_place, Failure};
use crate::postgres::faults;
use crate::postgres::queue;
use crate::postgres::relation;
use crate::postgres::tables::{self, RegisteredSnapshot, Table, TableScan, Tid};
use crate::postgres::transaction;
use pgrx::{check_for_interrupts, pg_sys, PgMemoryContexts};
use std::cell::Cell;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Tables of up to this many pages, with those of long values, are recorded at once: making the triggers holds their
/// lock for a few milliseconds anyway.
const AT_ONCE_PAGES: u64 = 64;
/// The worker records this many pages in one transaction, but begins no row after this time: a row that takes little
/// room on its page can be a long text, and everything else that the worker does waits meanwhile.
const BATCH_PAGES: u32 = 256;
const BATCH_TIME: Duration = Duration::from_secs(1);

/// Records the rows of a table that has just been given its triggers, or leaves them to the worker. The caller holds a
/// lock that keeps other sessions from writing to the table until its transaction ends.
pub fn begin(table: Table, options: &Options) -> Result<(), Failure> {
    let horizon = Horizon::now();
    let leaves = relation::leaves(table);
    // Partitions may have more pages together than one table can have.
    let at_once = leaves.iter().map(Table::pages_with_long_values).sum::<u64>() <= AT_ONCE_PAGES;
    for leaf in leaves {
        if at_once {
            let plan = plan::of(&leaf, || Ok(options.clone()))?;
            record_rows(&plan, &leaf, Rows { from: BEGINNING, end: leaf.pages() }, horizon, None);
        } else {
            leave_to_worker(&leaf, options, horizon);
            transaction::at_end_baseline_begun();
        }
    }
    Ok(())
}

fn leave_to_worker(leaf: &Table, options: &Options, horizon: Horizon) {
    let baseline = Baseline {
        table_id: options.table_id.clone(),
        relation: relation::oid(leaf),
        horizon,
        next: BEGINNING,
        page_count: leaf.pages(),
        row_count: 0,
        file_node: relation::file_node(leaf),
    };
    baseline.add();
}

/// Where a table begins.
const BEGINNING: Tid = (0, 0);

/// Rows of a table: from a place to the end of the page before `end`. A row version keeps its place until its table is
/// rewritten. At places before this one, only versions can be added that have entries.
struct Rows {
    from: Tid,
    end: u32,
}

/// What was recorded of a table.
struct Part {
    rows: i64,
    /// Where to go on.
    next: Tid,
}

/// Records those of the rows that have no entry. Begins none but the first after `deadline`. An error says at which
/// row.
fn record_rows(plan: &Plan, table: &Table, rows: Rows, horizon: Horizon, deadline: Option<Instant>) -> Part {
    let at = Cell::new(None);
    let name = table.qualified_name();
    let place = || {
        let (page, number) = at.get()?;
        Some(format!("The row has ctid ({page},{number}) in table {name}."))
    };
    with_place(|| record_each(plan, table, rows, horizon, deadline, &at), place)
}

/// `at` says which row is being recorded.
fn record_each(
    plan: &Plan,
    table: &Table,
    rows: Rows,
    horizon: Horizon,
    deadline: Option<Instant>,
    at: &Cell<Option<Tid>>,
) -> Result<Part, Failure> {
    let mut context = PgMemoryContexts::new("pg_notary baseline");
    let snapshot = RegisteredSnapshot::latest();
    let next = horizon::next_transaction();
    let mut scan = TableScan::start_pages(table, &snapshot, rows.from.0, rows.end - rows.from.0);
    let mut recorded = RecordedRows::new(&snapshot);
    let mut part = Part { rows: 0, next: (rows.end, 0) };
    let mut is_first = true;
    while let Some(tuple) = scan.next() {
        check_for_interrupts!();
        let tid = tables::tid_of(tuple);
        if tid < rows.from {
            continue;
        }
        if !is_first && deadline.is_some_and(|deadline| Instant::now() >= deadline + recorded.reading) {
            part.next = tid;
            break;
        }
        is_first = false;
        faults::at("baseline_row");
        at.set(Some(tid));
        // SAFETY: the tuple is valid until the scan's next one is asked for. Nothing that is allocated for a row is
        // used after the context is reset.
        unsafe {
            let has_entry = horizon.has_entry((*tuple).t_data, next);
            if has_entry != HasEntry::Yes {
                let mut record = || -> Result<i64, Failure> {
                    let row = table.deform(tuple);
                    if has_entry == HasEntry::Perhaps && recorded.has(plan, &row)? {
                        return Ok(0);
                    }
                    record_row(plan, &row, horizon).map(|()| 1)
                };
                part.rows += context.switch_to(|_| record())?;
            }
            context.reset();
        }
        at.set(None);
    }
    queue::flush();
    Ok(part)
}

/// Which rows have an entry that the snapshot sees.
struct RecordedRows<'a> {
    snapshot: &'a RegisteredSnapshot,
    /// Read once, when first needed: to look for one row takes as long as to read them all.
    pending: Option<HashSet<Uuid>>,
    /// How long reading them took: where that takes longer than a turn, each turn would record a single row.
    reading: Duration,
}

impl RecordedRows<'_> {
    fn new(snapshot: &RegisteredSnapshot) -> RecordedRows<'_> {
        RecordedRows { snapshot, pending: None, reading: Duration::ZERO }
    }

    fn has(&mut self, plan: &Plan, row: &tables::Row) -> Result<bool, Failure> {
        let row_id = RowKey::id_of(&plan.options.table_id, &plan.key, row)?;
        let pending = self.pending.get_or_insert_with(|| {
            let begun = Instant::now();
            let pending = versions::pending_rows(self.snapshot);
            self.reading = begun.elapsed();
            pending
        });
        Ok(pending.contains(&row_id) || versions::has_sealed(row_id, self.snapshot))
    }
}

fn record_row(plan: &Plan, row: &tables::Row, horizon: Horizon) -> Result<(), Failure> {
    plan.ensure_shape()?;
    let image = plan.image(row)?;
    let metadata = MetadataBuilder::of_table(plan)
        .image(Member::After, &image)
        .row_key(&RowKey::of(plan, row)?)
        .json(Member::Baseline, "true")
        .json(Member::TransactionId, &horizon.by.to_string());
    entries::record_own_later(OwnEntry {
        entry_type: Operation::Insert.entry_type(),
        data_hash: sha256_hex(image.as_bytes()),
        metadata: metadata.finish(),
        with_signature: plan.options.with_signature,
        created_at: horizon.at,
    })
}

/// What the worker's turn at a relation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Some rows were recorded, and others are left.
    Taken,
    /// Nothing is left to record.
    Done,
    /// There was nothing to record: since the worker looked, the table was untracked.
    Gone,
    /// Another session has locked the relation.
    Locked,
}

/// Records one batch, in a transaction of its own. Waits for no lock: the session that holds it may itself wait for the
/// worker, and neither would go on.
pub fn record_batch(table_id: &str, relation: pg_sys::Oid) -> Turn {
    // The lock that an INSERT takes: meanwhile no session can untrack the table, or build an index on it.
    if !relation::lock_if_free(relation, pg_sys::RowExclusiveLock) {
        return Turn::Locked;
    }
    // Read only now: under the lock no other session can end the baseline.
    let Some(baseline) = baseline_table::find(table_id, relation) else { return Turn::Gone };
    // SAFETY: inside a transaction; any Oid may be given. The result is null if no such relation exists any more.
    let opened = unsafe { pg_sys::try_relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE) };
    if opened.is_null() {
        return baseline.end();
    }
    // SAFETY: `opened` is not null, was opened above, and is not used again.
    unsafe { pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE) };
    let table = Table::open_oid(relation, pg_sys::NoLock);
    // A table without a primary key cannot be recorded: go_on() raises that error.
    let key = Some(table.primary_key()).filter(|key| *key != pg_sys::InvalidOid);
    let mut needed = relation::ancestors(&table).into_iter().chain(key);
    if !needed.all(|oid| relation::lock_if_free(oid, pg_sys::AccessShareLock)) {
        return Turn::Locked;
    }
    match Options::of(&table).filter(|options| options.table_id == table_id) {
        None => baseline.end(),
        Some(options) => baseline.go_on(&table, options),
    }
}

impl Baseline {
    fn go_on(mut self, table: &Table, options: Options) -> Turn {
        let plan = or_raise(plan::of(table, || Ok(options)));
        let file_node = relation::file_node(table);
        if file_node != self.file_node {
            // The table was rewritten, for example by ALTER TABLE: its rows stand elsewhere, and all look as if that
            // transaction had written them.
            self.horizon = self.horizon.erased();
            (self.file_node, self.next, self.page_count) = (file_node, BEGINNING, table.pages());
        }
        // A table that has become shorter is done earlier. Rows in pages that were added have entries.
        let end = self.page_count.min(table.pages());
        let rows = Rows { from: self.next, end: end.min(self.next.0.saturating_add(BATCH_PAGES)) };
        if rows.from.0 < rows.end {
            let part = record_rows(&plan, table, rows, self.horizon, Some(Instant::now() + BATCH_TIME));
            self.row_count += part.rows;
            self.next = part.next;
        }
        if self.next.0 >= end {
            return self.end();
        }
        self.store();
        Turn::Taken
    }

    fn end(&self) -> Turn {
        self.remove();
        Turn::Done
    }
}
