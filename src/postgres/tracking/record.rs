//! The row trigger of tracked tables: makes an entry of each change of a row. [`row_key`](super::row_key) names the row
//! in the entry, and [`rows`](super::rows) finds rows in the table again.

use super::command_order;
use super::horizon::{self, HasEntry, Horizon};
use super::metadata::MetadataBuilder;
use super::mid_statement;
use super::options::{Coverage, Options};
use super::parallel_apply;
use super::plan::{self, Plan, UnknownColumn};
use super::renamed_trigger::require_own_name;
use super::row_key::RowKey;
use crate::ledger::canonical_json;
use crate::ledger::metadata::Member;
use crate::ledger::record::Timestamp;
use crate::ledger::row_change::Operation;
use crate::ledger::sha256_hex;
use crate::postgres::entries::{self, OwnEntry};
use crate::postgres::entry_clock;
use crate::postgres::errorless;
use crate::postgres::errors::{or_raise, Failure};
use crate::postgres::tables::{Row, Table};
use crate::postgres::triggers::{trigger_data, version_1_function, Declared};
use pgrx::{pg_guard, pg_sys, PgSqlErrorCode};

version_1_function!(pg_finfo_ledger_record_change);

const ROW_CHANGE: Declared = Declared {
    is_before: false,
    is_for_each_row: true,
    events: &[pg_sys::TRIGGER_EVENT_INSERT, pg_sys::TRIGGER_EVENT_UPDATE, pg_sys::TRIGGER_EVENT_DELETE],
};

/// AFTER INSERT OR UPDATE OR DELETE, for each row.
///
/// # Safety
/// Called by Postgres, as the function of a trigger.
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_record_change(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    use pg_sys::{TRIGGER_EVENT_DELETE, TRIGGER_EVENT_INSERT, TRIGGER_EVENT_OPMASK, TRIGGER_EVENT_UPDATE};
    let data = trigger_data(fcinfo, &ROW_CHANGE);
    let table = Table::of_trigger(data);
    parallel_apply::note_row(&table);
    or_raise(require_own_name(&*data.tg_trigger, &table));
    let plan = or_raise(plan::of(&table, || Options::of_trigger(&*data.tg_trigger)));
    let row = table.deform(data.tg_trigtuple);
    let header = (*data.tg_trigtuple).t_data;
    or_raise(match data.tg_event & TRIGGER_EVENT_OPMASK {
        TRIGGER_EVENT_INSERT => {
            let at = command_order::time_of(errorless::inserting_command(header), command_order::ended_by(header));
            record_insert(&plan, &row, at)
        }
        TRIGGER_EVENT_UPDATE => record_update(&plan, &table, &row, data),
        TRIGGER_EVENT_DELETE => {
            let command = deleting_command(header);
            let at = command_order::time_of(command, command_order::put_back_by(&table, &row, command));
            record_delete(&plan, &row, at, plan.precedes_baseline(header))
        }
        _ => Ok(()),
    });
    pg_sys::Datum::null()
}

/// # Safety
/// `header` points to the header of a row version that this transaction updated or deleted: only then does it have a
/// cmax.
unsafe fn deleting_command(header: pg_sys::HeapTupleHeader) -> pg_sys::CommandId {
    pg_sys::HeapTupleHeaderGetCmax(header)
}

/// Records a row that comes with its partition. Its time is now: no command has changed the row itself.
pub fn record_arrival(plan: &Plan, row: &Row) -> Result<(), Failure> {
    record_insert(plan, row, entry_clock::now())
}

/// Records a row that goes with its partition, now.
pub fn record_departure(plan: &Plan, tuple: &Row, precedes_baseline: bool) -> Result<(), Failure> {
    record_delete(plan, tuple, entry_clock::now(), precedes_baseline)
}

fn record_insert(plan: &Plan, row: &Row, at: Timestamp) -> Result<(), Failure> {
    let image = plan.image(row)?;
    let metadata = MetadataBuilder::of(plan)?.image(Member::After, &image).row_key(&RowKey::of(plan, row)?);
    plan.record(Operation::Insert, &image, metadata, at)
}

/// # Safety
/// `data` is of an UPDATE trigger of the table, `old` the row that it has changed.
unsafe fn record_update(plan: &Plan, table: &Table, old: &Row, data: &pg_sys::TriggerData) -> Result<(), Failure> {
    let new = table.deform(data.tg_newtuple);
    let (before, after) = (plan.image(old)?, plan.image(&new)?);
    let (old_key, key) = (RowKey::of(plan, old)?, RowKey::of(plan, &new)?);
    let header = (*data.tg_trigtuple).t_data;
    let precedes_baseline = plan.precedes_baseline(header);
    // A row that may lack an entry is recorded even then: the worker goes by the transaction that wrote a row version,
    // and the new one would look as if it had an entry.
    if before == after && !plan.covers_all() && !precedes_baseline && !plan.may_have_covered_others(header) {
        // Only columns that are not covered have changed, or a covered column was renamed, whose values are not in the
        // images: check_columns() refuses that.
        return plan.check_columns();
    }
    let command = deleting_command(header);
    let mut next = command_order::ended_by((*data.tg_newtuple).t_data);
    let mut metadata = MetadataBuilder::of(plan)?
        .image(Member::Before, &before)
        .image(Member::After, &after)
        .row_key(&key)
        .text(Member::PreviousHash, &sha256_hex(before.as_bytes()))
        .precedes_baseline(precedes_baseline);
    if old_key != key {
        metadata = metadata.old_row_key(&old_key);
        let put_back = command_order::put_back_by(table, old, command);
        next = next.into_iter().chain(put_back).min();
    }
    plan.record(Operation::Update, &after, metadata, command_order::time_of(command, next))
}

fn record_delete(plan: &Plan, row: &Row, at: Timestamp, precedes_baseline: bool) -> Result<(), Failure> {
    let image = plan.image(row)?;
    let metadata = MetadataBuilder::of(plan)?
        .image(Member::Before, &image)
        .row_key(&RowKey::of(plan, row)?)
        .precedes_baseline(precedes_baseline);
    plan.record(Operation::Delete, &image, metadata, at)
}

pub fn record_truncate(plan: &Plan) -> Result<(), Failure> {
    mid_statement::note_ahead();
    let data = format!("{{\"table\": {}}}", canonical_json::string(&plan.table));
    plan.record(Operation::Truncate, &data, MetadataBuilder::of(plan)?, entry_clock::now())
}

impl Plan {
    /// Makes sure that the shape is in the ledger before an entry names it.
    pub fn ensure_shape(&self) -> Result<(), Failure> {
        self.check_columns()?;
        self.shape.ensure_recorded(&self.table, &self.options.table_id)
    }

    /// Refuses a list of columns that does not fit the table any more: a renamed column must not silently drop out of
    /// the record, nor one that was left out get into it.
    fn check_columns(&self) -> Result<(), Failure> {
        let Some(UnknownColumn { name, is_another }) = &self.unknown_column else { return Ok(()) };
        let (what, why) = match is_another {
            true => ("which is now another column", "Columns were renamed, or one was dropped and added again."),
            false => ("which it does not have", "The column was renamed or dropped."),
        };
        Err(Failure::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!("table {} is tracked with a list of columns that names \"{name}\", {what}", self.table),
        )
        .detail(why)
        .hint(format!(
            "Call ledger.track() again with the present names of the columns. The previous call: {}.",
            self.options.call(&self.table)
        )))
    }

    fn covers_all(&self) -> bool {
        self.options.coverage == Coverage::All
    }

    /// Whether the row version was there before the table was tracked, and may not be recorded yet.
    ///
    /// # Safety
    /// `header` points to the header of a row version of this relation.
    pub unsafe fn precedes_baseline(&self, header: pg_sys::HeapTupleHeader) -> bool {
        let has_entry = |horizon: Horizon| horizon.has_entry(header, horizon::next_transaction());
        self.baseline_horizon.is_some_and(|horizon| has_entry(horizon) != HasEntry::Yes)
    }

    /// Whether the newest entry about the row version may cover columns that are not covered any more.
    ///
    /// # Safety
    /// `header` points to the header of a row version of this relation.
    unsafe fn may_have_covered_others(&self, header: pg_sys::HeapTupleHeader) -> bool {
        self.options.coverage_since.is_some_and(|since| horizon::is_from_before(header, since))
    }

    fn record(
        &self,
        operation: Operation,
        data: &str,
        metadata: MetadataBuilder,
        at: Timestamp,
    ) -> Result<(), Failure> {
        entries::record_own_later(OwnEntry {
            entry_type: operation.entry_type(),
            data_hash: sha256_hex(data.as_bytes()),
            metadata: metadata.finish(),
            with_signature: self.options.with_signature,
            created_at: at,
        })
        .map_err(|failure| failure.and_detail(&format!("Table {} is tracked.", self.table)))
    }
}
