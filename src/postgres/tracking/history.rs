//! The SQL functions about one table or one row: verify_table(), verify_row(), history() and verified().

use super::baseline_table;
use super::compare_rows::RowProblem;
use super::finding::{Finding, RowProblemKind};
use super::mid_statement;
use super::one_row::{by_ledger, plan_of, OneRow};
use super::options::Options;
use super::plan::Plan;
use super::readers::{check_reader, check_selects, sees_whole_table};
use super::row_key::RowKey;
use super::rows;
use super::targets::not_tracked;
use super::verify_row::{check_signature, presence, signature_of, ByLedger, Comparer};
use super::verify_tables;
use super::versions::{text_member, Version};
use crate::ledger::canonical_json::member;
use crate::ledger::verifier::SignatureCheck;
use crate::postgres::errorless;
use crate::postgres::errors::{or_raise, required, sentence, Failure};
use crate::postgres::ids;
use crate::postgres::jsonb::{Jsonb, JsonbText};
use crate::postgres::quoting::literal;
use crate::postgres::relation::{self, Regclass};
use crate::postgres::roles::as_ledger_owner;
use crate::postgres::secrets;
use crate::postgres::tables::{self, RegisteredSnapshot, Row, Table};
use pgrx::prelude::*;
use pgrx::PgSqlErrorCode;
use serde_json::json;
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
    mid_statement::insert_recorded();
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
        problem.problem.as_str().to_owned(),
        problem.entry_id.map(ids::to_sql),
        problem.block_number,
        problem.detail,
    )
}

#[pg_extern(volatile, parallel_unsafe, cost = 1000, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
fn verify_row(target: Option<Regclass>, row_key: Option<Jsonb>) -> JsonbText {
    let target = relation::target(target);
    let key = required(row_key, "row_key");
    or_raise(check_reader(target, errorless::user()));
    mid_statement::insert_recorded();
    or_raise(require_baseline(target));
    // The latest snapshot: TRUNCATE and rewrites of the table show in older snapshots as well, but the entries about
    // them do not.
    let row = or_raise(OneRow::of_key(target, key, RegisteredSnapshot::latest));
    let (version, finding) = or_raise(row.check());
    if let Some((problem, detail)) = &finding {
        let found = format!("The row is {}: {}", problem.as_str(), sentence(detail));
        or_raise(mid_statement::require_none(target).map_err(|failure| failure.and_detail(&found)));
    }
    if version.as_ref().is_some_and(|version| version.signature.is_some()) {
        secrets::note_unchecked_signatures();
    }
    if let (Some(version), Some((RowProblemKind::Signature, _))) = (&version, &finding) {
        if matches!(or_raise(signature_of(version)), SignatureCheck::Invalid { .. }) {
            secrets::note_invalid_signature();
        }
    }
    JsonbText::from(json!({
        "verified": finding.is_none() && version.is_some(),
        "problem": finding.as_ref().map(|(problem, _)| problem.as_str()),
        "entry_id": version.as_ref().map(|version| version.entry_id.to_string()),
        "block_number": version.as_ref().and_then(|version| version.block_number),
        "detail": finding.map(|(_, detail)| detail),
    }))
}

#[pg_extern(volatile, parallel_unsafe, cost = 1000, requires = ["tables"])]
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
        // Not `session_user`: without quotes that names who asks.
        name!(session_user_name, Option<String>),
        name!(current_user_name, Option<String>),
        name!(application_name, Option<String>),
        name!(client_address, Option<String>),
        name!(before, Option<JsonbText>),
        name!(after, Option<JsonbText>),
        name!(data_hash, String),
    ),
> {
    let target = relation::target(target);
    or_raise(check_reader(target, errorless::user()));
    let snapshot = match mid_statement::insert_recorded() {
        true => RegisteredSnapshot::latest,
        false => RegisteredSnapshot::of_query,
    };
    let row = or_raise(OneRow::of_key(target, required(row_key, "row_key"), snapshot));
    let rows: Vec<_> = or_raise(row.versions()).iter().zip(1..).map(history_row).collect();
    TableIterator::new(rows)
}

/// One version of a row, in the columns of history().
type HistoryRow = (
    i64,
    String,
    TimestampWithTimeZone,
    Option<i64>,
    pgrx::Uuid,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<JsonbText>,
    Option<JsonbText>,
    String,
);

fn history_row((version, number): (&Version, i64)) -> HistoryRow {
    let text = |name: &str| text_member(&version.metadata, name);
    let json = |name: &str| member(&version.metadata, name).map(|json| JsonbText(json.to_owned()));
    let recorded_at = tables::timestamp_to_postgres(version.created_at);
    (
        number,
        operation_name(version),
        TimestampWithTimeZone::try_from(recorded_at).expect("a recorded time is a valid one"),
        version.block_number,
        ids::to_sql(version.entry_id),
        version.change().and_then(|change| change.transaction_id.parse().ok()),
        text("session_user"),
        text("current_user"),
        text("application_name"),
        text("client_address"),
        json("before"),
        json("after"),
        version.data_hash.clone(),
    )
}

/// `insert`, `update`, `delete`, or `baseline` for a row that was there before the table was tracked.
fn operation_name(version: &Version) -> String {
    if version.change().is_some_and(|change| change.is_baseline) {
        return "baseline".to_owned();
    }
    version.operation.entry_type().trim_start_matches("table_").to_owned()
}

/// Returns the row that it is called with, or refuses it: `SELECT (ledger.verified(t)).* FROM t WHERE id = 42`.
// Costly, so that a query applies other conditions first: it then refuses no rows that it would not return.
#[pg_extern(volatile, parallel_unsafe, cost = 1000, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
fn verified(row: pgrx::AnyElement) -> pgrx::AnyElement {
    or_raise(require_verified(&row));
    row
}

fn require_verified(row: &pgrx::AnyElement) -> Result<(), Failure> {
    let target = table_of(row)?;
    let user = errorless::user();
    check_selects(target, user)?;
    let table = Table::open_oid(target, pg_sys::AccessShareLock);
    let plan = plan_of(&table)?;
    // SAFETY: a composite value of this table's row type. It may be from before columns were added: these read as null.
    let values = unsafe { rows::composite_row(row.datum(), &table) };
    let key = RowKey::of(&plan, &values)?;
    let (refusal, is_unrecorded) = match finding_twice(&table, &plan, &values, key.row_id) {
        Ok(None) => return Ok(()),
        Ok(Some(finding)) => {
            let is_unrecorded = finding.0 == RowProblemKind::Unrecorded;
            (refused(&plan, &key.json, finding), is_unrecorded)
        }
        Err(failure) => (failure, false),
    };
    let sees_all = sees_whole_table(&table, user);
    mid_statement::require_none(target).map_err(|failure| match sees_all {
        true => failure.and_detail(&sentence(&refusal.text())),
        false => failure.log_beside(refusal.text()),
    })?;
    if is_unrecorded || !sees_all {
        require_baseline(target)?;
    }
    Err(told(refusal, sees_all, &plan))
}

/// The table that the value is a row of.
fn table_of(row: &pgrx::AnyElement) -> Result<pg_sys::Oid, Failure> {
    // SAFETY: a catalog look-up inside a transaction; the type is that of a value that Postgres passed.
    match unsafe { pg_sys::typeidTypeRelid(row.oid()) } {
        pg_sys::InvalidOid => Err(Failure::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            "ledger.verified() takes a whole row of a tracked table",
        )
        .hint("Name the table or its alias: SELECT (ledger.verified(t)).* FROM my_table AS t WHERE id = 42. If a column has the same name, write t.* for the row.")),
        table => Ok(table),
    }
}

/// What is wrong with the row for the query's snapshot, and if anything is, for the latest one: a row that was locked
/// (FOR UPDATE) may be newer than the query's snapshot, and so may the entries about it.
fn finding_twice(table: &Table, plan: &Rc<Plan>, values: &Row, row_id: uuid::Uuid) -> Result<Option<Finding>, Failure> {
    if let Ok(None) = finding_about(table, plan, values, row_id, &RegisteredSnapshot::of_query()) {
        return Ok(None);
    }
    mid_statement::insert_recorded();
    finding_about(table, plan, values, row_id, &RegisteredSnapshot::latest())
}

/// What the caller is told. Any caller can make up such a value, and details of what is wrong with it would tell about
/// rows that the caller may not see.
fn told(refusal: Failure, sees_all: bool, plan: &Plan) -> Failure {
    if sees_all {
        return refusal;
    }
    let message = format!("a row of table {} does not verify", plan.table);
    Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message)
        .hint("The server's log says what is wrong with the row.")
        .log_beside(refusal.text())
}

/// What is wrong with a row that has these values, going by the entries about it that the snapshot sees.
fn finding_about(
    table: &Table,
    plan: &Rc<Plan>,
    values: &Row,
    row_id: uuid::Uuid,
    snapshot: &RegisteredSnapshot,
) -> Result<Option<Finding>, Failure> {
    let (newest, by_ledger) = by_ledger(row_id, plan, snapshot)?;
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
        RowProblemKind::Unrecorded => format!(
            "The row was written without the table's triggers, so the ledger does not know what it should be. SELECT \
             * FROM ledger.verify_table({}) lists all such rows.",
            literal(name)
        ),
        RowProblemKind::Signature => {
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
        format!("row {key} of table {name} does not verify: {}", problem.as_str()),
    )
    .detail(sentence(&detail))
    .hint(hint)
}

/// Refuses a table whose rows are still being recorded: rows without an entry would be reported as unrecorded.
pub fn require_baseline(target: pg_sys::Oid) -> Result<(), Failure> {
    let table = Table::open_oid(target, pg_sys::AccessShareLock);
    let options = Options::of(&table).ok_or_else(|| not_tracked(&table))?;
    baseline_table::progress_of(&options.table_id).map_or(Ok(()), |progress| Err(still_recorded(&table, &progress)))
}

pub fn still_recorded(table: &Table, progress: &baseline_table::Progress) -> Failure {
    let message = format!("the rows of table {} are still being recorded", table.qualified_name());
    Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .detail(format!("{} of {} pages are done.", progress.pages_done, progress.pages))
        .hint("View ledger.tracked_tables shows the progress; verify again when its state is \"tracked\". If there is no progress, see ledger.workers, and the server's log for the reason.")
}
