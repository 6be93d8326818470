//! Finds the primary key of a table, by which the ledger names its rows, and says what to do where there is none that
//! can be used. [`row_key`](super::row_key) makes the key of a row.

use super::options::{tracked_root, Options};
use crate::postgres::errors::Failure;
use crate::postgres::lists;
use crate::postgres::quoting::literal;
use crate::postgres::relation::text;
use crate::postgres::tables::Table;
use pgrx::{pg_sys, PgSqlErrorCode};

/// The names of the columns of the primary key.
pub fn key_of(table: &Table) -> Result<Vec<String>, Failure> {
    let index = table.primary_key();
    if index == pg_sys::InvalidOid {
        return Err(no_key(table, has_deferrable_key(table)));
    }
    // SAFETY: an index of the open relation; its key columns are plain ones, as a primary key's are.
    unsafe {
        let index = pg_sys::index_open(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let form = &*(*index).rd_index;
        let numbers = form.indkey.values.as_slice(form.indnkeyatts as usize);
        let names = numbers.iter().map(|number| text(&table.attribute(*number as usize - 1).attname)).collect();
        // Two rows can have a deferrable key at the same time. Before Postgres 17 such a key is not found above.
        let is_immediate = form.indimmediate;
        pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        if is_immediate {
            Ok(names)
        } else {
            Err(no_key(table, true))
        }
    }
}

/// Whether the table has a deferrable primary key. Before Postgres 17, Table::primary_key() does not find it.
fn has_deferrable_key(table: &Table) -> bool {
    // SAFETY: the relation is open; the list is a copy, and each index is closed again.
    unsafe {
        let list = pg_sys::RelationGetIndexList(table.relation());
        let indexes: Vec<pg_sys::Oid> = lists::oids(list).collect();
        pg_sys::list_free(list);
        indexes.into_iter().any(|oid| {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let index = pg_sys::index_open(oid, lock);
            let is_it = (*(*index).rd_index).indisprimary && !(*(*index).rd_index).indimmediate;
            pg_sys::index_close(index, lock);
            is_it
        })
    }
}

fn no_key(table: &Table, is_deferrable: bool) -> Failure {
    let name = table.qualified_name();
    let (message, detail, hint) = match is_deferrable {
        true => (
            format!("the primary key of table {name} is deferrable"),
            "The ledger names a row by its primary key, and two rows can temporarily have the same deferrable key.",
            "Create the primary key anew without DEFERRABLE.",
        ),
        false => (
            format!("table {name} has no primary key"),
            "The ledger names a row by its primary key.",
            "Add a primary key that is not deferrable.",
        ),
    };
    let failure = Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message).detail(detail);
    match tracked_name(table) {
        Some(tracked) => failure
            .hint(format!("{hint} To stop tracking the table instead: SELECT ledger.untrack({}).", literal(&tracked))),
        None => failure.hint(hint),
    }
}

/// The name of the tracked table that this table is, or is a partition of.
pub(super) fn tracked_name(table: &Table) -> Option<String> {
    let options = Options::of(table)?;
    let root = tracked_root(table, &options);
    Some(root.as_ref().unwrap_or(table).qualified_name())
}
