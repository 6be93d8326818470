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
use crate::postgres::quoting::literal;
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
    // Of each table only the newest: whoever has tables tracked and untracked all the time takes no more memory for it.
    let mut newest: BTreeMap<String, Note> = BTreeMap::new();
    let read = |row: &Row| {
        if let Some((table_id, note)) = note_of(row) {
            let is_newer = |known: &Note| (note.at, note.is_tracked()) >= (known.at, known.is_tracked());
            if newest.get(&table_id).is_none_or(is_newer) {
                newest.insert(table_id, note);
            }
        }
        Ok(())
    };
    or_raise(all_entries::for_each(snapshot, read));
    newest.into_iter().filter_map(|(table_id, note)| Some((table_id, note.tracked?))).collect()
}

/// An entry that says that tracking began, changed or ended.
struct Note {
    at: i64,
    /// `None` if it ended.
    tracked: Option<Noted>,
}

impl Note {
    fn is_tracked(&self) -> bool {
        self.tracked.is_some()
    }
}

/// What the entry says, and of which table; `None` if it is about something else.
fn note_of(row: &Row) -> Option<(String, Note)> {
    let is_tracked = match row.text(entry_column::ENTRY_TYPE)? {
        TABLE_TRACKED => true,
        TABLE_UNTRACKED => false,
        _ => return None,
    };
    let entry = tables::entry_from_row(row);
    let text = |name| text_member(&entry.metadata, name);
    let (table_id, name) = (text("table_id")?, text("table")?);
    let options = || member(&entry.metadata, "options").and_then(Options::parse);
    let tracked = is_tracked.then(|| Noted { name, options: options() });
    Some((table_id, Note { at: entry.created_at.micros(), tracked }))
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
        .hint(format!("To end its tracking: SELECT ledger.untrack({}).", literal(&name))));
    }
    manage::note_untracked(&noted.name, table_id, true)
}
