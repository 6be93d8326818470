//! The triggers of tracked tables: each change of a row becomes an entry.

use super::columns;
use super::command_order;
use super::options::{Coverage, Options};
use super::partitions;
use super::plan::{self, Plan};
use super::row_key::RowKey;
use crate::ledger::canonical_json::write_string;
use crate::ledger::record::Timestamp;
use crate::ledger::row_change::Operation;
use crate::ledger::sha256_hex;
use crate::postgres::entries::{self, RowEntry};
use crate::postgres::errors::{or_raise, Failure};
use crate::postgres::hashing;
use crate::postgres::tables::{self, Row, Table};
use crate::postgres::triggers::{trigger_data, version_1_function};
use pgrx::{direct_function_call, pg_guard, pg_sys, Inet, PgSqlErrorCode};
use std::cell::OnceCell;
use std::ffi::CStr;

version_1_function!(pg_finfo_ledger_record_change);
version_1_function!(pg_finfo_ledger_record_truncate);

/// AFTER INSERT OR UPDATE OR DELETE, for each row.
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_record_change(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    use pg_sys::{TRIGGER_EVENT_DELETE, TRIGGER_EVENT_INSERT, TRIGGER_EVENT_OPMASK, TRIGGER_EVENT_UPDATE};
    let data = trigger_data(fcinfo);
    let table = Table::open_oid((*data.tg_relation).rd_id, pg_sys::NoLock);
    let plan = or_raise(plan::of(&table, || Options::of_trigger(&*data.tg_trigger)));
    let row = table.deform(data.tg_trigtuple);
    let header = (*data.tg_trigtuple).t_data;
    or_raise(match data.tg_event & TRIGGER_EVENT_OPMASK {
        TRIGGER_EVENT_INSERT => record_insert(&plan, &row, command_order::time_of(inserting_command(header))),
        TRIGGER_EVENT_UPDATE => record_update(&plan, &row, &table.deform(data.tg_newtuple), header),
        TRIGGER_EVENT_DELETE => {
            let at = command_order::time_of(deleting_command(header));
            record_delete(&plan, &row, at, plan.precedes_baseline(header))
        }
        _ => Ok(()),
    });
    pg_sys::Datum::null()
}

/// # Safety
/// A row version that this transaction has made.
unsafe fn inserting_command(header: pg_sys::HeapTupleHeader) -> pg_sys::CommandId {
    pg_sys::HeapTupleHeaderGetCmin(header)
}

/// # Safety
/// A row version that this transaction has updated or deleted.
unsafe fn deleting_command(header: pg_sys::HeapTupleHeader) -> pg_sys::CommandId {
    pg_sys::HeapTupleHeaderGetCmax(header)
}

/// BEFORE TRUNCATE, once a statement: the rows are still there.
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_record_truncate(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let data = trigger_data(fcinfo);
    let table = Table::open_oid((*data.tg_relation).rd_id, pg_sys::NoLock);
    let plan = or_raise(plan::of(&table, || Options::of_trigger(&*data.tg_trigger)));
    or_raise(match plan.is_partition {
        true => partitions::record_truncate(&plan, table),
        false => record_truncate(&plan),
    });
    pg_sys::Datum::null()
}

/// A row that comes or goes with its partition does so now.
pub fn record_arrival(plan: &Plan, row: &Row) -> Result<(), Failure> {
    record_insert(plan, row, tables::now())
}

pub fn record_departure(plan: &Plan, tuple: &Row, precedes_baseline: bool) -> Result<(), Failure> {
    record_delete(plan, tuple, tables::now(), precedes_baseline)
}

fn record_insert(plan: &Plan, row: &Row, at: Timestamp) -> Result<(), Failure> {
    let image = columns::object(&plan.columns, row)?;
    let metadata = Metadata::of(plan)?.image("after", &image).row_key(&RowKey::of(plan, row)?);
    plan.record(Operation::Insert, &image, metadata, at)
}

/// # Safety
/// `header` is that of the old row version, which this transaction has updated.
unsafe fn record_update(plan: &Plan, old: &Row, new: &Row, header: pg_sys::HeapTupleHeader) -> Result<(), Failure> {
    let (before, after) = (columns::object(&plan.columns, old)?, columns::object(&plan.columns, new)?);
    let (old_key, key) = (RowKey::of(plan, old)?, RowKey::of(plan, new)?);
    // Only columns that are not covered have changed.
    if before == after && !plan.covers_all() {
        return Ok(());
    }
    let mut metadata = Metadata::of(plan)?
        .image("before", &before)
        .image("after", &after)
        .row_key(&key)
        .text("previous_hash", &sha256_hex(before.as_bytes()))
        .precedes_baseline(plan.precedes_baseline(header));
    if old_key != key {
        metadata = metadata.key("old_key", &old_key.json).text("old_row_id", &digits(&old_key));
    }
    plan.record(Operation::Update, &after, metadata, command_order::time_of(deleting_command(header)))
}

fn record_delete(plan: &Plan, row: &Row, at: Timestamp, precedes_baseline: bool) -> Result<(), Failure> {
    let image = columns::object(&plan.columns, row)?;
    let metadata = Metadata::of(plan)?
        .image("before", &image)
        .row_key(&RowKey::of(plan, row)?)
        .precedes_baseline(precedes_baseline);
    plan.record(Operation::Delete, &image, metadata, at)
}

fn record_truncate(plan: &Plan) -> Result<(), Failure> {
    let mut data = Vec::new();
    write_string(&mut data, &plan.table);
    let data = format!("{{\"table\": {}}}", String::from_utf8_lossy(&data));
    partitions::note_truncated(plan);
    plan.record(Operation::Truncate, &data, Metadata::of(plan)?, tables::now())
}

impl Plan {
    /// The shape must be in the ledger before an entry names it.
    pub fn ensure_shape(&self) -> Result<(), Failure> {
        self.check_columns()?;
        self.shape.ensure_recorded(&self.table, &self.options.table_id)
    }

    /// A column that was renamed must not silently drop out of the record, nor one that was left out get into it.
    fn check_columns(&self) -> Result<(), Failure> {
        let Some(column) = &self.unknown_column else { return Ok(()) };
        Err(Failure::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!(
                "table {} is tracked with a list of columns that names \"{column}\", which it does not have",
                self.table
            ),
        )
        .detail("The column was renamed or dropped.")
        .hint("Call ledger.track() again, with a list of columns as they are now."))
    }

    fn covers_all(&self) -> bool {
        self.options.coverage == Coverage::All
    }

    /// Whether the row version was there before the table was tracked, and may not have been recorded yet.
    ///
    /// # Safety
    /// The header of a row version of this relation.
    pub unsafe fn precedes_baseline(&self, header: pg_sys::HeapTupleHeader) -> bool {
        let xmin = (*header).t_choice.t_heap.t_xmin;
        self.baseline_horizon.is_some_and(|horizon| pg_sys::TransactionIdPrecedes(xmin, horizon))
    }

    fn record(&self, operation: Operation, data: &str, metadata: Metadata, at: Timestamp) -> Result<(), Failure> {
        entries::record_row(RowEntry {
            entry_type: operation.entry_type(),
            data_hash: sha256_hex(data.as_bytes()),
            metadata: metadata.finish()?,
            with_signature: self.options.with_signature,
            created_at: at,
        })
        .map(|_| ())
    }
}

/// The metadata of an entry about a row, being put together.
pub struct Metadata {
    json: Vec<u8>,
    keep_image: bool,
}

impl Metadata {
    /// Who does it, and to which table.
    fn of(plan: &Plan) -> Result<Metadata, Failure> {
        plan.ensure_shape()?;
        Ok(Metadata::of_table(plan).actor())
    }

    pub fn of_table(plan: &Plan) -> Metadata {
        let metadata = Metadata { json: vec![b'{'], keep_image: plan.options.keep_image };
        let metadata = metadata.text("table", &plan.table).text("table_id", &plan.options.table_id);
        metadata.text("shape", &plan.shape.id)
    }

    pub fn empty() -> Metadata {
        Metadata { json: vec![b'{'], keep_image: false }
    }

    pub fn actor(mut self) -> Metadata {
        // SAFETY: plain globals of this process; the names are palloc'd copies.
        unsafe {
            self = self.text("session_user", &user_name(pg_sys::GetSessionUserId()));
            self = self.text("current_user", &user_name(pg_sys::GetUserId()));
            if !pg_sys::application_name.is_null() && *pg_sys::application_name != 0 {
                self = self.text("application_name", &CStr::from_ptr(pg_sys::application_name).to_string_lossy());
            }
            if let Some(address) = client_address() {
                self = self.text("client_address", &address);
            }
            let transaction_id = pg_sys::GetTopFullTransactionId().value;
            self.key("transaction_id", &transaction_id.to_string())
        }
    }

    /// A member that is JSON already.
    pub fn key(mut self, name: &str, json: &str) -> Metadata {
        self.begin(name);
        self.json.extend_from_slice(json.as_bytes());
        self
    }

    pub fn text(mut self, name: &str, value: &str) -> Metadata {
        self.begin(name);
        write_string(&mut self.json, value);
        self
    }

    /// Which row it is about.
    pub fn row_key(self, key: &RowKey) -> Metadata {
        self.key("key", &key.json).text("row_id", &digits(key))
    }

    fn precedes_baseline(self, precedes: bool) -> Metadata {
        match precedes {
            true => self.key("precedes_baseline", "true"),
            false => self,
        }
    }

    pub fn image(self, name: &str, json: &str) -> Metadata {
        match self.keep_image {
            true => self.key(name, json),
            false => self,
        }
    }

    fn begin(&mut self, name: &str) {
        if self.json.len() > 1 {
            self.json.extend_from_slice(b", ");
        }
        write_string(&mut self.json, name);
        self.json.extend_from_slice(b": ");
    }

    /// As canonical JSON.
    pub fn finish(mut self) -> Result<String, Failure> {
        self.json.push(b'}');
        hashing::canonical(&String::from_utf8_lossy(&self.json))
    }
}

fn digits(key: &RowKey) -> String {
    key.row_id.simple().to_string()
}

/// Empty for a role that was dropped meanwhile.
fn user_name(user: pg_sys::Oid) -> String {
    // SAFETY: a catalog look-up; the result is a palloc'd copy, or null.
    unsafe {
        let name = pg_sys::GetUserNameFromId(user, true);
        if name.is_null() {
            String::new()
        } else {
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}

thread_local! {
    /// Where the client is, unless it is on this machine and came by a socket. It stays the same for the session.
    static CLIENT_ADDRESS: OnceCell<Option<String>> = const { OnceCell::new() };
}

fn client_address() -> Option<String> {
    // SAFETY: what inet_client_addr() calls; null in background workers and on sockets.
    let look_up = || unsafe { direct_function_call::<Inet>(pg_sys::inet_client_addr, &[]) }.map(|address| address.0);
    CLIENT_ADDRESS.with(|address| address.get_or_init(look_up).clone())
}
