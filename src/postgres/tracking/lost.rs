//! Lost tables: the ledger has them as tracked, but they are not any more, and no entry says so. Their triggers, or the
//! tables themselves, were dropped in a way that bypassed the commands that record it.

use super::manage;
use super::options::Options;
use super::versions::text_member;
use crate::ledger::canonical_json::member;
use crate::ledger::row_change::{TABLE_TRACKED, TABLE_UNTRACKED};
use crate::postgres::all_entries;
use crate::postgres::database;
use crate::postgres::errors::{or_raise, required, Failure};
use crate::postgres::relation;
use crate::postgres::tables::{self, entry_column, RegisteredSnapshot, Row};
use pgrx::prelude::*;
use pgrx::PgSqlErrorCode;
use std::collections::BTreeMap;

/// What the newest entry about the tracking of a table says.
pub struct Noted {
    /// The name that the table had then.
    pub name: String,
    /// The options that the entry states.
    pub options: Option<Options>,
}

/// The tables that are tracked according to the ledger, by their table ids. Reads all entries.
pub fn tracked_by_ledger(snapshot: &RegisteredSnapshot) -> BTreeMap<String, Noted> {
    let mut notes = Vec::new();
    let read = |row: &Row| {
        notes.extend(note_of(row));
        Ok(())
    };
    or_raise(all_entries::for_each(snapshot, read));
    notes.sort_by_key(|note| (note.at, note.is_tracked));
    let mut tracked = BTreeMap::new();
    for note in notes {
        match note.is_tracked {
            true => drop(tracked.insert(note.table_id, note.noted)),
            false => drop(tracked.remove(&note.table_id)),
        }
    }
    tracked
}

/// An entry that says that tracking began, changed or ended.
struct Note {
    at: i64,
    is_tracked: bool,
    table_id: String,
    noted: Noted,
}

fn note_of(row: &Row) -> Option<Note> {
    let is_tracked = match row.text(entry_column::ENTRY_TYPE)? {
        TABLE_TRACKED => true,
        TABLE_UNTRACKED => false,
        _ => return None,
    };
    let entry = tables::entry_from_row(row);
    let text = |name| text_member(&entry.metadata, name);
    let options = member(&entry.metadata, "options").and_then(Options::parse);
    let noted = Noted { name: text("table")?, options };
    Some(Note { at: entry.created_at.micros(), is_tracked, table_id: text("table_id")?, noted })
}

/// Records that a lost table is not tracked any more.
#[pg_extern(volatile, parallel_unsafe, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
fn untrack_lost(table_id: Option<&str>) {
    let table_id = required(table_id, "table_id");
    or_raise(database::require_preloaded());
    database::require_writable(c"untrack_lost()");
    or_raise(record_lost(table_id));
}

fn record_lost(table_id: &str) -> Result<(), Failure> {
    let Some(noted) = tracked_by_ledger(&RegisteredSnapshot::latest()).remove(table_id) else {
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
    manage::note_untracked(&noted.name, table_id, true)
}
