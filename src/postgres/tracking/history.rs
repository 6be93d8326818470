//! The SQL functions about one table or one row: verify_table(), verify_row(), history() and verified().

use super::baseline_table;
use super::columns::{Column, Columns};
use super::compare_rows::RowProblem;
use super::options::Options;
use super::plan::{self, Plan};
use super::readers::{check_reader, check_selects, sees_whole_table};
use super::row_key::RowKey;
use super::rows;
use super::targets::not_tracked;
use super::verify_row::{check_signature, presence, signature_of, ByLedger, Comparer, Finding, Problem};
use super::verify_tables;
use super::versions::{self, text_member, Version};
use crate::ledger::canonical_json::member;
use crate::ledger::row_change::row_id;
use crate::ledger::verifier::SignatureCheck;
use crate::postgres::errorless;
use crate::postgres::errors::{or_raise, required, sentence, Failure};
use crate::postgres::jsonb::{Jsonb, JsonbText};
use crate::postgres::jsonb_record::{self, Member};
use crate::postgres::relation::{self, literal, Regclass, TableColumn};
use crate::postgres::roles::{as_ledger_owner, as_owner_of};
use crate::postgres::secrets;
use crate::postgres::tables::{self, RegisteredSnapshot, Row, Table};
use pgrx::prelude::*;
use pgrx::PgSqlErrorCode;
use serde_json::{json, Value};
use std::rc::Rc;

/// How many problems verify_table() keeps in memory. Further ones are counted in a last row.
const MAX_ROWS: usize = 100_000;

type ProblemRow = (Option<JsonbText>, String, Option<pgrx::Uuid>, Option<i64>, String);

#[pg_extern(volatile, parallel_unsafe, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "one column for each part of a problem")]
fn verify_table(
    target: Option<Regclass>,
) -> TableIterator<
    'static,
    (
        name!(row_key, Option<JsonbText>),
        name!(problem, String),
        name!(entry_id, Option<pgrx::Uuid>),
        name!(block_number, Option<i64>),
        name!(detail, String),
    ),
> {
    let target = relation::target(target);
    or_raise(check_reader(target, errorless::user()));
    let mut rows = Vec::new();
    let mut more = 0_u64;
    as_ledger_owner(|| {
        or_raise(require_baseline(target));
        let verified = verify_tables::verify_one(target, &mut |problem| match rows.len() < MAX_ROWS {
            true => rows.push(problem_row(problem)),
            false => more += 1,
        });
        let counts = or_raise(verified);
        if counts.signed > 0 {
            secrets::note_unchecked_signatures();
        }
        secrets::warn_of_wrong_keys(&counts.by_key);
    });
    if more > 0 {
        let detail = format!("{more} further problems are not listed");
        rows.push((None, "more_problems".to_owned(), None, None, detail));
    }
    TableIterator::new(rows)
}

fn problem_row(problem: RowProblem) -> ProblemRow {
    (
        (!problem.row_key.is_empty()).then_some(JsonbText(problem.row_key)),
        problem.problem.name().to_owned(),
        problem.entry_id.map(|id| pgrx::Uuid::from_bytes(*id.as_bytes())),
        problem.block_number,
        problem.detail,
    )
}

#[pg_extern(volatile, parallel_unsafe, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
fn verify_row(target: Option<Regclass>, row_key: Option<Jsonb>) -> JsonbText {
    let target = relation::target(target);
    let key = required(row_key, "row_key");
    or_raise(check_reader(target, errorless::user()));
    or_raise(require_baseline(target));
    // The latest snapshot: TRUNCATE and rewrites of the table show in older snapshots as well, but the entries about
    // them do not.
    let row = or_raise(OneRow::of_key(target, key, RegisteredSnapshot::latest));
    let (version, finding) = or_raise(row.check());
    if version.as_ref().is_some_and(|version| version.signature.is_some()) {
        secrets::note_unchecked_signatures();
    }
    if let (Some(version), Some((Problem::Signature, _))) = (&version, &finding) {
        if matches!(or_raise(signature_of(version)), SignatureCheck::Invalid { .. }) {
            secrets::note_invalid_signature();
        }
    }
    JsonbText::from(json!({
        "verified": finding.is_none() && version.is_some(),
        "problem": finding.as_ref().map(|(problem, _)| problem.name()),
        "entry_id": version.as_ref().map(|version| version.entry_id.to_string()),
        "block_number": version.as_ref().and_then(|version| version.block_number),
        "detail": finding.map(|(_, detail)| detail),
    }))
}

#[pg_extern(volatile, parallel_unsafe, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns of a history")]
fn history(
    target: Option<Regclass>,
    row_key: Option<Jsonb>,
) -> TableIterator<
    'static,
    (
        name!(version, i64),
        name!(operation, String),
        name!(recorded_at, TimestampWithTimeZone),
        name!(block_number, Option<i64>),
        name!(entry_id, pgrx::Uuid),
        name!(transaction_id, Option<i64>),
        name!(session_user, Option<String>),
        name!(current_user, Option<String>),
        name!(application_name, Option<String>),
        name!(client_address, Option<String>),
        name!(before, Option<JsonbText>),
        name!(after, Option<JsonbText>),
        name!(data_hash, String),
    ),
> {
    let target = relation::target(target);
    or_raise(check_reader(target, errorless::user()));
    let row = or_raise(OneRow::of_key(target, required(row_key, "row_key"), RegisteredSnapshot::of_query));
    // SAFETY: the snapshot is registered.
    let versions = or_raise(unsafe { versions::all(row.row_id, row.snapshot.as_ptr()) });
    let rows: Vec<_> = versions
        .into_iter()
        .zip(1_i64..)
        .map(|(version, number)| {
            let text = |name: &str| text_member(&version.metadata, name);
            let json = |name: &str| member(&version.metadata, name).map(|json| JsonbText(json.to_owned()));
            let recorded_at = tables::timestamp_to_postgres(version.created_at);
            (
                number,
                operation_name(&version),
                TimestampWithTimeZone::try_from(recorded_at).expect("a recorded time is a valid one"),
                version.block_number,
                pgrx::Uuid::from_bytes(*version.entry_id.as_bytes()),
                version.change().and_then(|change| change.transaction_id.parse().ok()),
                text("session_user"),
                text("current_user"),
                text("application_name"),
                text("client_address"),
                json("before"),
                json("after"),
                version.data_hash.clone(),
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// `insert`, `update`, `delete`, or `baseline` for a row that was there before the table was tracked.
fn operation_name(version: &Version) -> String {
    if version.change().is_some_and(|change| change.is_baseline) {
        return "baseline".to_owned();
    }
    version.operation.entry_type().trim_start_matches("table_").to_owned()
}

/// Returns the row that it is called with, or refuses it: `SELECT (ledger.verified(t)).* FROM t WHERE id = 42`.
#[pg_extern(volatile, parallel_unsafe, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
fn verified(row: pgrx::AnyElement) -> pgrx::AnyElement {
    or_raise(require_verified(&row));
    row
}

fn require_verified(row: &pgrx::AnyElement) -> Result<(), Failure> {
    // SAFETY: a catalog look-up inside a transaction; the type is that of a value that Postgres passed.
    let target = unsafe { pg_sys::typeidTypeRelid(row.oid()) };
    if target == pg_sys::InvalidOid {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            "ledger.verified() takes a whole row of a tracked table",
        )
        .hint("Name the table or its alias: SELECT (ledger.verified(t)).* FROM my_table AS t WHERE id = 42. If a column has the same name, write t.* for the row."));
    }
    let user = errorless::user();
    check_selects(target, user)?;
    let table = Table::open_oid(target, pg_sys::AccessShareLock);
    let plan = plan_of(&table)?;
    // SAFETY: a composite value of this table's row type. It may be from before columns were added: these read as null.
    let values = unsafe { rows::composite_row(row.datum(), &table) };
    let key = RowKey::of(&plan, &values)?;
    // A row that was locked (FOR UPDATE) may be newer than the query's snapshot, and so may the entries about it.
    let found = match finding_about(&table, &plan, &values, key.row_id, &RegisteredSnapshot::of_query()) {
        Ok(None) => return Ok(()),
        _ => finding_about(&table, &plan, &values, key.row_id, &RegisteredSnapshot::latest()),
    };
    let (refusal, is_unrecorded) = match found {
        Ok(None) => return Ok(()),
        Ok(Some(finding)) => {
            let is_unrecorded = finding.0 == Problem::Unrecorded;
            (refused(&plan, &key.json, finding), is_unrecorded)
        }
        Err(failure) => (failure, false),
    };
    // Any caller can make up such a value, and details of what is wrong with it would tell about rows that the caller
    // may not see.
    let sees_all = sees_whole_table(&table, user);
    if is_unrecorded || !sees_all {
        require_baseline(target)?;
    }
    if sees_all {
        return Err(refusal);
    }
    let message = format!("a row of table {} does not verify", plan.table);
    Err(Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message).log_beside(refusal.text()))
}

/// What is wrong with a row that has these values, going by the entries about it that the snapshot sees.
fn finding_about(
    table: &Table,
    plan: &Rc<Plan>,
    values: &Row,
    row_id: uuid::Uuid,
    snapshot: &RegisteredSnapshot,
) -> Result<Option<Finding>, Failure> {
    // SAFETY: the snapshot is registered.
    let newest = unsafe { versions::newest(row_id, snapshot.as_ptr()) }?;
    let by_ledger = by_ledger(&newest, row_id, plan, snapshot)?;
    let Some(version) = newest.as_ref().filter(|_| by_ledger == ByLedger::Exists) else {
        return Ok(presence(newest.as_ref(), by_ledger, true));
    };
    match check_signature(version)? {
        Some(finding) => Ok(Some(finding)),
        None => {
            Comparer::new(Table::open_oid(relation::oid(table), pg_sys::NoLock), plan.clone()).compare(values, version)
        }
    }
}

fn refused(plan: &Plan, key: &str, (problem, detail): Finding) -> Failure {
    let name = &plan.table;
    let hint = match problem {
        Problem::Unrecorded => format!(
            "The row was written without the table's triggers, so the ledger does not know what it should be. SELECT \
             * FROM ledger.verify_table({}) lists all such rows.",
            literal(name)
        ),
        Problem::Signature => {
            "If other rows are refused for this too, the secret of this key_id is probably missing or \
             wrong: another one, or one that begins or ends with a space or line end that does not belong to it. See \
             ledger.hmac_secret_file."
                .to_owned()
        }
        _ => format!(
            "SELECT * FROM ledger.history({}, {}) shows what was recorded about the row.",
            literal(name),
            literal(key)
        ),
    };
    Failure::new(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("row {key} of table {name} does not verify: {}", problem.name()),
    )
    .detail(sentence(&detail))
    .hint(hint)
}

/// What the newest entry about a row, and a `TRUNCATE` since, say of it.
fn by_ledger(
    newest: &Option<Version>,
    id: uuid::Uuid,
    plan: &Plan,
    snapshot: &RegisteredSnapshot,
) -> Result<ByLedger, Failure> {
    let Some(version) = newest.as_ref().filter(|version| version.leaves_row(id)) else { return Ok(ByLedger::Gone) };
    // SAFETY: the snapshot is registered.
    let truncate = unsafe { versions::newest(row_id(&plan.options.table_id, ""), snapshot.as_ptr()) }?;
    let is_newer =
        |truncate: Version| (truncate.created_at, truncate.entry_id) > (version.created_at, version.entry_id);
    Ok(if truncate.is_some_and(is_newer) { ByLedger::Truncated } else { ByLedger::Exists })
}

fn plan_of(table: &Table) -> Result<Rc<Plan>, Failure> {
    // SAFETY: the relation is open.
    let options = unsafe { Options::of_relation(table.relation()) };
    let options = options.ok_or_else(|| not_tracked(table))?;
    plan::of(table, || Ok(options))
}

/// Refuses a table whose rows are still being recorded: rows without an entry would be reported as unrecorded.
pub fn require_baseline(target: pg_sys::Oid) -> Result<(), Failure> {
    let table = Table::open_oid(target, pg_sys::AccessShareLock);
    // SAFETY: the relation is open.
    let options = unsafe { Options::of_relation(table.relation()) };
    let options = options.ok_or_else(|| not_tracked(&table))?;
    baseline_table::progress().get(&options.table_id).map_or(Ok(()), |progress| Err(still_recorded(&table, progress)))
}

pub fn still_recorded(table: &Table, progress: &baseline_table::Progress) -> Failure {
    let message = format!("the rows of table {} are still being recorded", relation::qualified_name(table));
    Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .detail(format!("{} of {} pages are done.", progress.pages_done, progress.pages))
        .hint("View ledger.tracked_tables shows the progress; verify again when its state is \"tracked\". If there is no progress, see ledger.workers, and the server's log for the reason.")
}

/// A row, found by the key that the caller gave.
struct OneRow {
    row_id: uuid::Uuid,
    plan: Rc<Plan>,
    snapshot: RegisteredSnapshot,
    /// Where the row is stored, if it exists.
    place: Option<RowPlace>,
}

type RowPlace = (pg_sys::Oid, pg_sys::ItemPointerData);

impl OneRow {
    /// `take` takes the snapshot, after the locks: no session can truncate or rewrite the table any more.
    fn of_key(target: pg_sys::Oid, key: Jsonb, take: fn() -> RegisteredSnapshot) -> Result<OneRow, Failure> {
        let table = Table::open_oid(target, pg_sys::AccessShareLock);
        let plan = plan_of(&table)?;
        let given = check_key(&plan, key)?;
        // In the columns' own types, so that '42' and 42 are the same key.
        let key_columns = key_columns(&table, &plan);
        let memory = Rc::default();
        let encode = |(column, at): (&TableColumn, usize)| Column::new(&column.name, at, column.type_oid, &memory);
        let encoders = key_columns.iter().zip(0..).map(encode);
        let encoders = Columns::new(encoders.collect::<Result<_, _>>()?);
        let values = typed_key(&table, &key_columns, key, &given);
        let row_id = RowKey::id_of(&plan.options.table_id, &encoders, &values)?;
        lock_partitions(&table, &plan);
        let mut row = OneRow { row_id, plan, snapshot: take(), place: None };
        row.place = row.find(table, &key_columns, &values);
        // Entries say which table a row is in, not which partition of it: the row may be in another one.
        if row.place.is_none() && row.plan.is_partition {
            let whole = Table::open_oid(row.plan.root, pg_sys::AccessShareLock);
            row.place = row.find(whole, &key_columns, &values);
        }
        row.row_id = row.recorded_id()?;
        Ok(row)
    }

    /// The id under which the row is recorded, which is that of the stored key. Equal values can be written in several
    /// ways (intervals, say, and texts under some collations), and so have different ids.
    fn recorded_id(&self) -> Result<uuid::Uuid, Failure> {
        let Some((oid, tid)) = self.place else { return Ok(self.row_id) };
        let table = Table::open_oid(oid, pg_sys::AccessShareLock);
        let plan = plan_of(&table)?;
        let id_of = |row: &Row| RowKey::id_of(&plan.options.table_id, &plan.key, row);
        // SAFETY: the snapshot is registered.
        unsafe { rows::fetch(&table, tid, self.snapshot.as_ptr(), id_of) }.unwrap_or(Ok(self.row_id))
    }

    fn find(&self, table: Table, key_columns: &[TableColumn], values: &Row) -> Option<RowPlace> {
        let value_of = |name: &str| values.datum(key_columns.iter().position(|column| column.name == name)?);
        relation::leaves(table).iter().find_map(|leaf| {
            // SAFETY: the snapshot is registered, and the values were made for these columns.
            let tid = unsafe { rows::find_by_key(leaf, value_of, self.snapshot.as_ptr()) };
            tid.map(|tid| (relation::oid(leaf), tid))
        })
    }

    /// The newest entry about the row, and what is wrong with it.
    fn check(&self) -> Result<(Option<Version>, Option<Finding>), Failure> {
        // SAFETY: the snapshot is registered.
        let newest = unsafe { versions::newest(self.row_id, self.snapshot.as_ptr()) }?;
        let by_ledger = by_ledger(&newest, self.row_id, &self.plan, &self.snapshot)?;
        let (Some(version), Some((oid, tid)), ByLedger::Exists) = (&newest, self.place, by_ledger) else {
            let finding = presence(newest.as_ref(), by_ledger, self.place.is_some());
            return Ok((newest, finding));
        };
        if let Some(finding) = check_signature(version)? {
            return Ok((newest, Some(finding)));
        }
        let table = Table::open_oid(oid, pg_sys::AccessShareLock);
        let plan = plan_of(&table)?;
        let mut comparer = Comparer::new(Table::open_oid(oid, pg_sys::NoLock), plan);
        let compare = |row: &Row| comparer.compare(row, version);
        // SAFETY: the snapshot is registered.
        let finding = unsafe { rows::fetch(&table, tid, self.snapshot.as_ptr(), compare) };
        let finding = finding.unwrap_or(Ok(None))?;
        Ok((newest, finding))
    }
}

/// Locks all partitions of the tracked table, if this table is one of them or has partitions.
fn lock_partitions(table: &Table, plan: &Plan) {
    if plan.is_partition || table.is_partitioned() {
        relation::tree(&Table::open_oid(plan.root, pg_sys::AccessShareLock), pg_sys::AccessShareLock);
    }
}

/// The columns of the key, in the plan's order.
fn key_columns(table: &Table, plan: &Plan) -> Vec<TableColumn> {
    let mut live = relation::live_columns(table);
    let mut take = |key: &Column| Some(live.swap_remove(live.iter().position(|column| column.name == key.name)?));
    plan.key.iter().filter_map(&mut take).collect()
}

/// The values of a key, in the types of its columns. Does not build a whole row: a column outside the key may be of a
/// domain that refuses null.
///
/// The CHECK of a domain is code of the table's owner. Where a column's own type is a domain, it does not run. For
/// elements of an array, fields of a composite type and bounds of a range it does, with the owner's rights.
fn typed_key(table: &Table, columns: &[TableColumn], key: Jsonb, given: &Value) -> Row {
    let typed = |column: &TableColumn| match (column.base_type(), &given[&column.name]) {
        // Money is recorded as the number that it is stored as. Postgres would take such a number for whole dollars.
        ((pg_sys::MONEYOID, _), Value::Number(_)) => (pg_sys::INT8OID, -1),
        (base, _) => base,
    };
    let members: Vec<Member> = columns.iter().map(|column| (column.name.as_str(), typed(column))).collect();
    // SAFETY: the relation is open.
    unsafe { as_owner_of(table.relation(), || jsonb_record::values(key, &members)) }
}

fn check_key(plan: &Plan, key: Jsonb) -> Result<Value, Failure> {
    let text = key.text();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let names: Vec<&str> = plan.key.iter().map(|column| column.name.as_str()).collect();
    let is_whole = value.as_object().is_some_and(|object| {
        object.len() == names.len() && names.iter().all(|name| object.get(*name).is_some_and(|value| !value.is_null()))
    });
    if is_whole {
        return Ok(value);
    }
    let example: Vec<String> = names.iter().map(|name| format!("\"{name}\": ...")).collect();
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "row_key must hold the columns of the primary key",
    )
    .detail(format!("The primary key of table {} is ({}).", plan.table, names.join(", ")))
    .hint(format!("Pass an object such as {{{}}}.", example.join(", "))))
}
