//! SQL functions that verify what was recorded.
//!
//! | module | concern |
//! |---|---|
//! | [`chain`] | tables and file side by side, block by block |
//! | [`opened_file`] | whether the file is the same one from beginning to end |
//! | [`own_file`] | which file is verified, and a file by itself |
//! | [`pending`] | what is not sealed yet |
//! | [`row_versions`] | whether the entries about a row are found |
//! | [`shown_tables`] | whether queries show the same tables that are verified |
//! | [`paged`] | queries that may find any number of problems |
//! | [`strays`] | rows that reading in order does not reach |
//! | [`table_blocks`], [`leaves`], [`in_order`], [`stored_tree`] | the chain and the log tree as the tables have them |
//! | [`entry`] | one entry |
//! | [`progress`], [`progress_slot`] | what running verifications have done |

mod chain;
pub mod entry;
mod in_order;
mod leaves;
mod opened_file;
mod own_file;
mod paged;
mod pending;
pub mod progress;
pub mod progress_slot;
mod row_versions;
mod shown_tables;
pub mod stored_tree;
mod strays;
pub mod table_blocks;

use super::database;
use super::errorless;
use super::errors::{or_raise, Failure};
use super::helper_threads::FreedMemory;
use super::ids;
use super::items::audit::verify_registry;
use super::jsonb::JsonbText;
use super::mirror::remembered;
use super::roles::{as_ledger_owner, reads_server_files};
use super::secrets;
use super::tables::{self, RegisteredSnapshot};
use super::tracking::{mid_statement, verify_all};
use crate::ledger::verifier::{FileReport, Problem, WrongKey};
use chain::{BlockRange, ChainReport, FileOutcome, TableReport, Thoroughness};
use pgrx::prelude::*;
use pgrx::PgSqlErrorCode;
use serde_json::{json, Value};

/// Rows of find_tampering() that are kept in memory; more are counted in a last row.
const MAX_ROWS: usize = 100_000;

#[pg_extern(volatile, parallel_unsafe, security_definer, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
fn verify_chain(from_block: default!(Option<i64>, "NULL"), to_block: default!(Option<i64>, "NULL")) -> JsonbText {
    let range = or_raise(range(from_block, to_block));
    note_end(from_block.max(to_block));
    JsonbText::from(chain_verdict(range, Thoroughness::Chain))
}

/// Tells the caller if the last block that they asked for is behind the end of the ledger.
fn note_end(last_asked_for: Option<i64>) {
    let Some(number) = last_asked_for else { return };
    match tables::newest_block(&RegisteredSnapshot::latest()) {
        None => pgrx::notice!("the ledger has no block yet"),
        Some(head) if head.block_number < number => pgrx::notice!("the ledger ends with block {}", head.block_number),
        Some(_) => {}
    }
}

fn chain_verdict(range: BlockRange, thoroughness: Thoroughness) -> Value {
    let _freed = FreedMemory;
    secrets::note_unchecked_signatures();
    let ChainReport { tables, file, wrong_keys } = chain::verify(range, thoroughness, &mut |_| {});
    wrong_keys.iter().for_each(secrets::warn_of_wrong_key);
    let tables_valid = tables.error_count == 0;
    let file_valid = match &file {
        FileOutcome::Checked(report) => report.valid(),
        FileOutcome::NotChecked(_) => true,
    };
    let file_chain = match file {
        FileOutcome::Checked(report) => file_json(&report),
        FileOutcome::NotChecked(message) => json!({"valid": null, "message": message}),
    };
    json!({
        "postgres_chain": tables_json(&tables, &wrong_keys),
        "file_chain": file_chain,
        "overall_valid": tables_valid && file_valid,
    })
}

/// Everything there is to verify: the chain, the file, every tracked table, and every registered item.
#[pg_extern(volatile, parallel_unsafe, security_definer, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
fn verify_all() -> JsonbText {
    mid_statement::insert_recorded();
    let mut verdict = chain_verdict(BlockRange::WHOLE, Thoroughness::RowVersions);
    let (tables_valid, tables) = verify_all::verify_all_tables();
    verdict["tables"] = tables;
    let (items_valid, items) = verify_registry();
    verdict["items"] = items;
    verdict["overall_valid"] = json!(verdict["overall_valid"] == json!(true) && tables_valid && items_valid);
    JsonbText::from(verdict)
}

fn range(from: Option<i64>, to: Option<i64>) -> Result<BlockRange, Failure> {
    let range = BlockRange { from: from.unwrap_or(1), to: to.unwrap_or(i64::MAX) };
    if range.from < 1 || range.to < range.from {
        return Err(Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "invalid range of blocks")
            .detail("Blocks are numbered from 1, and the range must not end before it begins."));
    }
    Ok(range)
}

fn tables_json(report: &TableReport, wrong_keys: &[WrongKey]) -> Value {
    let object = json!({
        "valid": report.error_count == 0,
        "block_count": report.block_count,
        "entry_count": report.entry_count,
        "pending_count": report.pending_count,
        "error_count": report.error_count,
        "errors": errors_json(&report.errors),
    });
    with_warnings(object, wrong_keys.iter().map(WrongKey::to_string).collect())
}

fn file_json(report: &FileReport) -> Value {
    let object = json!({
        "valid": report.valid(),
        "block_count": report.block_count,
        "entry_count": report.entry_count,
        "error_count": report.error_count,
        "errors": errors_json(&report.errors),
    });
    with_warnings(object, report.all_warnings())
}

fn with_warnings(mut object: Value, warnings: Vec<String>) -> Value {
    if !warnings.is_empty() {
        object["warnings"] = json!(warnings);
    }
    object
}

fn errors_json(errors: &[Problem]) -> Value {
    errors.iter().map(Problem::to_json).collect()
}

#[pg_extern(volatile, parallel_unsafe, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
fn verify_file_integrity(path: default!(Option<String>, "NULL")) -> JsonbText {
    let own = as_ledger_owner(remembered::own_file);
    let path = path.map_or_else(|| own.clone(), |path| remembered::data_directory().join(path));
    let is_own = path == own;
    if !is_own {
        or_raise(require_file_privilege(&path));
    }
    as_ledger_owner(|| {
        if is_own {
            or_raise(database::require_preloaded());
        }
        if let (true, Err(message)) = (is_own, own_file::file_to_read()) {
            return JsonbText::from(json!({"valid": null, "message": message}));
        }
        let _freed = FreedMemory;
        secrets::note_unchecked_signatures();
        let report = or_raise(own_file::verify_file_alone(&path, is_own));
        report.wrong_keys.iter().for_each(secrets::warn_of_wrong_key);
        JsonbText::from(file_json(&report))
    })
}

/// Reading any file of the server needs more privileges than reading the ledger.
fn require_file_privilege(path: &std::path::Path) -> Result<(), Failure> {
    if reads_server_files(errorless::user()) {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("permission denied to read file \"{}\"", path.display()),
    )
    .detail(
        "Only roles with privileges of the \"pg_read_server_files\" role may name a file other than the ledger's own.",
    ))
}

#[pg_extern(volatile, parallel_unsafe, security_definer, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "one column for each part of a problem")]
fn find_tampering() -> TableIterator<
    'static,
    (
        name!(source, String),
        name!(block_number, Option<i64>),
        name!(leaf_index, Option<i64>),
        name!(entry_id, Option<pgrx::Uuid>),
        name!(problem, String),
        name!(detail, String),
    ),
> {
    let _freed = FreedMemory;
    let mut rows = Vec::new();
    let mut more = 0u64;
    secrets::note_unchecked_signatures();
    let ChainReport { wrong_keys, .. } = chain::verify(BlockRange::WHOLE, Thoroughness::RowVersions, &mut |problem| {
        if rows.len() < MAX_ROWS {
            rows.push(problem_row(problem));
        } else {
            more += 1;
        }
    });
    wrong_keys.iter().for_each(secrets::warn_of_wrong_key);
    if more > 0 {
        let detail = format!("{more} further problems are not listed");
        rows.push(("postgres".to_owned(), None, None, None, "more_problems".to_owned(), detail));
    }
    TableIterator::new(rows)
}

type ProblemRow = (String, Option<i64>, Option<i64>, Option<pgrx::Uuid>, String, String);

fn problem_row(problem: &Problem) -> ProblemRow {
    (
        problem.source.as_str().to_owned(),
        problem.block_number,
        problem.leaf_index,
        problem.entry_id.map(ids::to_sql),
        problem.problem.as_str().to_owned(),
        problem.detail.clone(),
    )
}
