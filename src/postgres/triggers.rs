//! The triggers on the ledger's own tables, as plain trigger functions: they work on the tuple Postgres hands them.

use super::entries;
use super::entries_pending;
use super::errors::{or_raise, Failure};
use super::tables::{entry_column, tid_of, Row, Table};
use pgrx::{pg_guard, pg_sys, PgSqlErrorCode};
use std::mem::ManuallyDrop;

/// Declares a function of call convention version 1, for `LANGUAGE c` in the install script.
macro_rules! version_1_function {
    ($info:ident) => {
        #[no_mangle]
        #[doc(hidden)]
        pub extern "C" fn $info() -> *const pg_sys::Pg_finfo_record {
            const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &RECORD
        }
    };
}

pub(super) use version_1_function;

version_1_function!(pg_finfo_ledger_complete_entry);
version_1_function!(pg_finfo_ledger_queue_entry);
version_1_function!(pg_finfo_ledger_refuse_change);

/// How a trigger that calls the function must be declared: BEFORE or AFTER, for each row or statement, and which events
/// it may have.
pub(super) struct Declared {
    pub is_before: bool,
    pub is_for_each_row: bool,
    pub events: &'static [u32],
}

const BEFORE_ROW: Declared =
    Declared { is_before: true, is_for_each_row: true, events: &[pg_sys::TRIGGER_EVENT_INSERT] };
const AFTER_ROW: Declared = Declared { is_before: false, ..BEFORE_ROW };

/// The trigger data of a call, which must come from a trigger that is declared like this. A statement trigger has no
/// row, and for another event the row is not the expected one.
///
/// # Safety
/// `fcinfo` is what Postgres passed.
pub(super) unsafe fn trigger_data<'a>(
    fcinfo: pg_sys::FunctionCallInfo,
    declared: &Declared,
) -> &'a pg_sys::TriggerData {
    let data = any_trigger_data(fcinfo);
    let is_before = data.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE;
    let is_for_each_row = data.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0;
    let is_wanted = declared.events.contains(&(data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK));
    if (is_before, is_for_each_row, is_wanted) != (declared.is_before, declared.is_for_each_row, true) {
        not_for_this_trigger().raise();
    }
    data
}

/// As [`trigger_data`], however the trigger is declared.
///
/// # Safety
/// `fcinfo` is what Postgres passed.
unsafe fn any_trigger_data<'a>(fcinfo: pg_sys::FunctionCallInfo) -> &'a pg_sys::TriggerData {
    if !pgrx::trigger_support::called_as_trigger(fcinfo) {
        Failure::new(
            PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            "this function can only be called as a trigger",
        )
        .raise();
    }
    &*((*fcinfo).context as *const pg_sys::TriggerData)
}

fn not_for_this_trigger() -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        "this function cannot be used by this trigger",
    )
    .detail("It is only for the triggers that pg_notary creates itself.")
    .hint("Drop the trigger.")
}

/// The row that an INSERT trigger was called for, and its table. The table's first columns must have these types.
///
/// # Safety
/// As for [`trigger_data`], which has found a row trigger.
pub(super) unsafe fn inserted_row(data: &pg_sys::TriggerData, types: &[pg_sys::Oid]) -> (ManuallyDrop<Table>, Row) {
    let table = Table::of_trigger(data);
    let type_at = |position| table.attribute(position).atttypid;
    if table.column_count() < types.len() || !(0..types.len()).map(type_at).eq(types.iter().copied()) {
        not_for_this_trigger().raise();
    }
    let row = table.deform(data.tg_trigtuple);
    (table, row)
}

/// BEFORE INSERT: checks the row and signs it.
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_complete_entry(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let (table, row) = inserted_row(trigger_data(fcinfo, &BEFORE_ROW), &entry_column::TYPES);
    let columns = or_raise(entries::complete_row(&row));
    pg_sys::Datum::from(table.form(&columns))
}

/// AFTER INSERT: the row is in the table as it is; its line goes to the mirror.
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_queue_entry(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let data = trigger_data(fcinfo, &AFTER_ROW);
    let (_table, row) = inserted_row(data, &entry_column::TYPES);
    entries_pending::note(tid_of(data.tg_trigtuple).0);
    or_raise(entries::queue_row(&row));
    pg_sys::Datum::null()
}

/// BEFORE every statement that would change or remove what is recorded.
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_refuse_change(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    use pg_sys::{TRIGGER_EVENT_DELETE, TRIGGER_EVENT_INSERT, TRIGGER_EVENT_OPMASK, TRIGGER_EVENT_UPDATE};
    let data = any_trigger_data(fcinfo);
    let event = data.tg_event & TRIGGER_EVENT_OPMASK;
    let verb = match event {
        TRIGGER_EVENT_INSERT => "INSERT into",
        TRIGGER_EVENT_UPDATE => "UPDATE",
        TRIGGER_EVENT_DELETE => "DELETE from",
        _ => "TRUNCATE",
    };
    let name =
        std::ffi::CStr::from_ptr((*(*data.tg_relation).rd_rel).relname.data.as_ptr()).to_string_lossy().into_owned();
    refusal(verb, &format!("ledger.{name}"), event == TRIGGER_EVENT_INSERT).raise()
}

/// The refusal of a statement that would change or remove what is recorded. `table` is the name to show.
pub fn refusal(verb: &str, table: &str, is_insert: bool) -> Failure {
    let failure = Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("cannot {verb} \"{table}\""));
    with_reason(failure, table.strip_prefix("ledger.").unwrap_or(table), is_insert)
}

/// Why a table of the ledger is not to be changed by statements, and what to do instead.
fn with_reason(failure: Failure, table: &str, is_insert: bool) -> Failure {
    const KEPT: &str = "No role can change or remove what the ledger has recorded.";
    let is_own = ["log_nodes", "log_state", "row_versions", "table_shapes", "baselines"].contains(&table);
    match (is_own, table == "blocks", is_insert) {
        (true, ..) => failure.detail("Only the ledger itself writes this table."),
        (_, true, true) => failure
            .detail("Only sealing creates blocks.")
            .hint("SELECT * FROM ledger.commit_block() seals what is pending."),
        (_, true, false) => failure.detail(KEPT),
        (.., true) => failure
            .detail("Only sealing adds rows to this table.")
            .hint("Insert into ledger.entries; SELECT * FROM ledger.commit_block() seals what is pending."),
        (.., false) => failure.detail(KEPT).hint("Record a new entry that corrects the old one."),
    }
}
