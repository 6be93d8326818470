//! The tables part of verify_all(): each tracked table's rows, and whether it is tracked as the ledger says.

use super::baseline_table::{self, Progress};
use super::compare_rows::RowProblem;
use super::finding::RowProblemKind;
use super::history::still_recorded;
use super::lost::{self, Noted};
use super::options::{Coverage, Options};
use super::renamed_trigger::RenamedTrigger;
use super::targets::Target;
use super::verify_tables::{self, Counts};
use crate::postgres::errors::Failure;
use crate::postgres::jsonb::Jsonb;
use crate::postgres::quoting::literal;
use crate::postgres::relation;
use crate::postgres::spi;
use crate::postgres::tables::{RegisteredSnapshot, Row, Table};
use pgrx::{check_for_interrupts, pg_sys, PgSqlErrorCode};
use serde_json::{json, Value};
use std::collections::{BTreeMap, HashMap, HashSet};

/// How many problems of a table are listed.
const MAX_LISTED: usize = 100;

/// A tracked table, as the catalogs have it.
struct Tracked {
    oid: pg_sys::Oid,
    name: String,
    state: String,
    options: Options,
}

/// One object for each tracked table.
pub fn verify_all_tables() -> (bool, Value) {
    let (mut tracked, mut by_ledger) = tracked_tables();
    let is_there = locked(&tracked);
    let mut faults = Vec::new();
    tracked.retain(|table| {
        let noted = by_ledger.remove(&table.options.table_id);
        let is_there = is_there.contains(&table.oid);
        faults.extend(is_there.then(|| fault_of_tracking(table, noted.as_ref())).flatten());
        is_there
    });
    let mut verdicts = Vec::new();
    for (table_id, noted) in by_ledger {
        let detail = format!(
            "the table was tracked; its triggers, or the table, were dropped without a record (table_id {table_id}); \
             once that is explained, SELECT ledger.untrack_lost('{table_id}') records that its tracking has ended"
        );
        verdicts.push(table_problem(&noted.name, "lost", &detail));
    }
    verdicts.extend(faults);
    let mut all_valid = verdicts.is_empty();
    let mut of_rows = verify_rows(&tracked);
    for verdict in tracked.iter().filter_map(|table| of_rows.remove(&table.oid)) {
        all_valid &= verdict["valid"] != json!(false);
        verdicts.push(verdict);
    }
    (all_valid, Value::from(verdicts))
}

/// The tables in the order in which they are locked, that of their Oids. Each once: a table with two triggers is in
/// `tracked` twice.
fn in_order_of_oids(tracked: &[Tracked]) -> Vec<&Tracked> {
    let mut in_order: Vec<&Tracked> = tracked.iter().collect();
    in_order.sort_by_key(|table| table.oid.to_u32());
    in_order.dedup_by_key(|table| table.oid);
    in_order
}

/// Locks the tables, so that they stay. Returns those that have not been dropped since.
fn locked(tracked: &[Tracked]) -> HashSet<pg_sys::Oid> {
    let in_order = in_order_of_oids(tracked).into_iter().map(|table| table.oid);
    in_order.filter(|oid| relation::lock_if_there(*oid)).collect()
}

/// The verdicts on the rows of the tables, which are locked, by oid.
fn verify_rows(tracked: &[Tracked]) -> HashMap<pg_sys::Oid, Value> {
    let under_way = baseline_table::progress();
    let (mut verdicts, mut tables, mut targets) = (HashMap::new(), Vec::new(), Vec::new());
    for table in in_order_of_oids(tracked) {
        check_for_interrupts!();
        match target_of(table) {
            Ok(Some(target)) => {
                tables.push(Judged::new(table, under_way.get(&target.options.table_id)));
                targets.push(target);
            }
            Ok(None) => {}
            Err(verdict) => drop(verdicts.insert(table.oid, verdict)),
        }
    }
    if targets.is_empty() {
        return verdicts;
    }
    let outcomes = verify_tables::verify(targets, &mut |number, problem| tables[number].note(&problem));
    verdicts.extend(tables.into_iter().zip(outcomes).map(|(table, outcome)| (table.table.oid, table.verdict(outcome))));
    verdicts
}

/// A table whose rows are verified, and what was found of it.
struct Judged<'a> {
    table: &'a Tracked,
    /// While its baseline is recorded, a row that no entry is about is no problem. All others are judged: otherwise who
    /// keeps a baseline from ending would keep the table from being verified.
    under_way: Option<Progress>,
    problems: Vec<Value>,
    problem_count: u64,
}

impl<'a> Judged<'a> {
    fn new(table: &'a Tracked, under_way: Option<&Progress>) -> Judged<'a> {
        Judged { table, under_way: under_way.copied(), problems: Vec::new(), problem_count: 0 }
    }

    fn note(&mut self, problem: &RowProblem) {
        if self.under_way.is_some() && problem.problem == RowProblemKind::Unrecorded && problem.entry_id.is_none() {
            return;
        }
        self.problem_count += 1;
        if self.problems.len() < MAX_LISTED {
            self.problems.push(problem_json(problem));
        }
    }

    fn verdict(self, outcome: Result<Counts, Failure>) -> Value {
        let counts = match outcome {
            Ok(counts) => counts,
            Err(failure) => return message(self.table, Some(false), &failure),
        };
        match self.under_way {
            Some(progress) if self.problem_count == 0 => {
                let table = Table::open_oid(self.table.oid, pg_sys::AccessShareLock);
                message(self.table, None, &still_recorded(&table, &progress))
            }
            _ => json!({"table": self.table.name, "valid": self.problem_count == 0, "row_count": counts.rows,
                        "entry_count": counts.entries, "error_count": self.problem_count, "errors": self.problems}),
        }
    }
}

/// What there is to verify of a table: `None` if it has been untracked since, while this session waited for its lock.
/// The error is the verdict on a table whose rows cannot be verified.
fn target_of(table: &Tracked) -> Result<Option<Target>, Value> {
    let open = Table::open_oid(table.oid, pg_sys::AccessShareLock);
    let Some(options) = Options::of(&open) else {
        return match is_in_view(table.oid) {
            true => Err(message(table, Some(false), &without_trigger(&open))),
            false => Ok(None),
        };
    };
    // The table has lost its primary key, for example: what was done to its rows cannot be told, so it is not valid.
    Target::lock(&open, options).map(Some).map_err(|failure| message(table, Some(false), &failure))
}

/// Whether `ledger.tracked_tables`, which goes by pg_trigger alone, has the table now.
fn is_in_view(table: pg_sys::Oid) -> bool {
    let query = "SELECT 1 FROM ledger.tracked_tables WHERE table_name = $1::oid";
    let mut is_in_view = false;
    spi::for_each_as_of_now(query, &[i64::from(table.to_u32()).into()], |_| is_in_view = true);
    is_in_view
}

fn without_trigger(table: &Table) -> Failure {
    let message = format!("the rows of table {} are not recorded", table.qualified_name());
    Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message).detail(
        "pg_trigger has the trigger that records them, but Postgres does not fire it, or its argument was changed.",
    )
}

/// The verdict on a table whose rows cannot be verified.
fn message(table: &Tracked, valid: Option<bool>, failure: &Failure) -> Value {
    json!({"table": table.name, "valid": valid, "message": failure.text()})
}

/// What is wrong with the triggers of a table, or with what they are to record.
fn fault_of_tracking(table: &Tracked, noted: Option<&Noted>) -> Option<Value> {
    let recorded = noted.and_then(|noted| noted.options.as_ref());
    let call = recorded.unwrap_or(&table.options).call(&table.name);
    let (problem, detail) = match table.state.as_str() {
        "altered" => ("altered", alteration(table, &call)),
        "disabled" => ("disabled", format!("the triggers that record its rows are disabled; {call} enables them")),
        "not always" => {
            ("disabled", format!("its triggers do not fire for replicated changes; {call} makes them fire always"))
        }
        _ if recorded.is_some_and(|recorded| recorded.settings() != table.options.settings()) => (
            "altered",
            format!(
                "it is tracked with other options than those recorded in the ledger; {call} restores the recorded \
                 options; the present options are those of {}",
                table.options.call(&table.name)
            ),
        ),
        _ => return None,
    };
    Some(table_problem(&table.name, problem, &detail))
}

/// How the triggers of a table are not as track() makes them, and the call that does.
fn alteration(table: &Tracked, call: &str) -> String {
    let open = Table::open_oid(table.oid, pg_sys::AccessShareLock);
    if let Some(name) = without_triggers(table.oid).and_then(relation::name_of) {
        return format!(
            "no trigger of table {name} is fired, because relhastriggers is false in its row of pg_class; UPDATE \
             pg_catalog.pg_class SET relhastriggers = true WHERE oid = {}::pg_catalog.regclass puts that right",
            literal(&name)
        );
    }
    if let Some(renamed) = RenamedTrigger::of(&open) {
        return format!("{}, and changes of its rows are refused; {}", renamed.what(), renamed.remedy(call));
    }
    format!(
        "the triggers that record its rows are not as ledger.track() makes them, on the table or on a partition: one was \
         dropped, renamed, or given a condition or another argument; {call} makes them anew"
    )
}

/// The table, or a partition of it, whose triggers Postgres does not look for. Asks the catalogs: partitions are not
/// locked yet.
fn without_triggers(table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let query = "WITH RECURSIVE tree AS ( \
                     SELECT $1::oid AS oid UNION ALL SELECT i.inhrelid FROM tree \
                     JOIN pg_inherits AS i ON i.inhparent = tree.oid \
                 ) SELECT c.oid FROM tree JOIN pg_class AS c ON c.oid = tree.oid \
                 WHERE NOT c.relhastriggers AND (c.relispartition OR c.oid = $1::oid)";
    let mut found = None;
    spi::for_each_in_catalogs_as_of_now(query, &[i64::from(table.to_u32()).into()], |row| found = row.get(0));
    found
}

/// All tracked tables, and those that the ledger has as tracked. Both are read with one snapshot: otherwise a table
/// that is tracked or untracked meanwhile would look lost.
fn tracked_tables() -> (Vec<Tracked>, BTreeMap<String, Noted>) {
    let snapshot = RegisteredSnapshot::latest();
    snapshot.while_active(|| {
        let mut tracked = Vec::new();
        spi::run(
            "SELECT table_name::oid, table_name::text, state, table_id, keep_image, with_signature, \
                    columns, excluded FROM ledger.tracked_tables ORDER BY 2",
            &[],
            spi::Access::Read,
            |row| tracked.extend(tracked_table(row)),
        );
        (tracked, lost::tracked_by_ledger(&snapshot))
    })
}

fn tracked_table(row: &Row) -> Option<Tracked> {
    let names = |column| row.get::<Jsonb>(column).and_then(|names| serde_json::from_str(&names.text()).ok());
    let coverage = match (names(6), names(7)) {
        (Some(columns), None) => Coverage::Only(columns),
        (None, Some(columns)) => Coverage::Except(columns),
        _ => Coverage::All,
    };
    let options = Options {
        table_id: row.get(3)?,
        keep_image: row.get(4)?,
        with_signature: row.get(5)?,
        coverage,
        coverage_since: None,
        made_for: None,
    };
    Some(Tracked { oid: row.get(0)?, name: row.get(1)?, state: row.get(2)?, options })
}

/// The verdict on a table with which something is wrong as a whole.
fn table_problem(name: &str, problem: &str, detail: &str) -> Value {
    json!({"table": name, "valid": false, "error_count": 1, "errors": [{"problem": problem, "detail": detail}]})
}

fn problem_json(problem: &RowProblem) -> Value {
    json!({
        "row_key": serde_json::from_str::<Value>(&problem.row_key).unwrap_or_default(),
        "problem": problem.problem.as_str(),
        "entry_id": problem.entry_id.map(|id| id.to_string()),
        "block_number": problem.block_number,
        "detail": problem.detail,
    })
}
