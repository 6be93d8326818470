//! Tables that the ledger knows to be tracked, and that are not any more, though nobody has said so: their triggers were
//! dropped, or the table was, past the commands that record it.

use super::manage;
use super::relation;
use super::versions::text_member;
use crate::postgres::all_entries;
use crate::postgres::errors::{or_raise, required, Failure};
use crate::postgres::tables::{self, entry_column, RegisteredSnapshot, Row};
use pgrx::prelude::*;
use pgrx::PgSqlErrorCode;
use std::collections::BTreeMap;

/// The tables that are tracked by what was recorded, as they were called then, by their ids. Reads all entries.
pub fn tracked_by_ledger(snapshot: &RegisteredSnapshot) -> BTreeMap<String, String> {
    let mut notes = Vec::new();
    let read = |row: &Row| {
        notes.extend(note_of(row));
        Ok(())
    };
    // SAFETY: the snapshot is registered.
    or_raise(unsafe { all_entries::for_each(snapshot.as_ptr(), read) });
    notes.sort_unstable();
    let mut tracked = BTreeMap::new();
    for (_, is_tracked, table_id, name) in notes {
        match is_tracked {
            true => drop(tracked.insert(table_id, name)),
            false => drop(tracked.remove(&table_id)),
        }
    }
    tracked
}

/// When, whether tracking began, and of which table.
type Note = (i64, bool, String, String);

fn note_of(row: &Row) -> Option<Note> {
    let is_tracked = match row.text(entry_column::ENTRY_TYPE)? {
        "table_tracked" => true,
        "table_untracked" => false,
        _ => return None,
    };
    let entry = tables::entry_from_row(row);
    let text = |name| text_member(&entry.metadata, name);
    Some((entry.created_at.micros(), is_tracked, text("table_id")?, text("table")?))
}

/// Records that a table which is lost is not tracked any more.
#[pg_extern(volatile, parallel_unsafe, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
fn untrack_lost(table_id: Option<&str>) {
    let table_id = required(table_id, "table_id");
    or_raise(manage::prepare("untrack_lost()"));
    or_raise(record_lost(table_id));
}

fn record_lost(table_id: &str) -> Result<(), Failure> {
    let Some(name) = tracked_by_ledger(&RegisteredSnapshot::latest()).remove(table_id) else {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("no table with the id \"{table_id}\" is tracked"),
        )
        .hint("SELECT ledger.verify_all() names the tables that were tracked and are lost, with their ids."));
    };
    if let Some(name) = manage::tracked_as(table_id) {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("table {name} is not lost"),
        )
        .hint(format!("To end its tracking: SELECT ledger.untrack({}).", relation::literal(&name))));
    }
    manage::note_untracked(&name, table_id, true)
}
