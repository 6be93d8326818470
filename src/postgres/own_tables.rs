//! Refuses ALTER TABLE of the ledger's own tables if it concerns columns, or would leave the table empty after a crash.
//! Rows of these tables are read and written by position: with a column more or less, or of another type, nothing could
//! be recorded any more. Other changes are the administrator's business.
//!
//! # Safety
//!
//! The unsafe functions here run inside a transaction, within the hook. They take parts of the statement that
//! ProcessUtility was called with, or what a catalog look-up has returned.

use super::errors::{or_raise, Failure};
use super::extension;
use super::lists;
use super::ownership::Object;
use super::relation;
use pgrx::{pg_guard, pg_sys, PgSqlErrorCode};

/// What a command would do to a table that no table of the extension can bear.
#[derive(Clone, Copy)]
enum Change {
    Columns,
    Unlogged,
}

/// Refuses it for a table that belongs to the extension.
///
/// # Safety
/// A statement that ProcessUtility was called with.
#[pg_guard]
pub unsafe extern "C-unwind" fn before_utility(statement: *mut pg_sys::Node) {
    let change = match (*statement).type_ {
        pg_sys::NodeTag::T_AlterTableStmt => {
            let alter = &*statement.cast::<pg_sys::AlterTableStmt>();
            first_change(alter.cmds).map(|change| (change, alter.relation))
        }
        pg_sys::NodeTag::T_RenameStmt => {
            let rename = &*statement.cast::<pg_sys::RenameStmt>();
            let is_of_column = rename.renameType == pg_sys::ObjectType::OBJECT_COLUMN;
            is_of_column.then_some((Change::Columns, rename.relation))
        }
        _ => None,
    };
    // The extension's own scripts may do it.
    if let Some((change, name)) = change.filter(|_| !pg_sys::creating_extension) {
        or_raise(check(change, name));
    }
}

unsafe fn first_change(commands: *mut pg_sys::List) -> Option<Change> {
    use pg_sys::AlterTableType as Kind;
    lists::pointers(commands).find_map(|command| match (*command.cast::<pg_sys::AlterTableCmd>()).subtype {
        Kind::AT_AddColumn | Kind::AT_DropColumn | Kind::AT_AlterColumnType => Some(Change::Columns),
        Kind::AT_SetUnLogged => Some(Change::Unlogged),
        _ => None,
    })
}

unsafe fn check(change: Change, name: *mut pg_sys::RangeVar) -> Result<(), Failure> {
    let oid = relation::named(name);
    // If the table does not exist, or is not the caller's, the command itself says so.
    if oid == pg_sys::InvalidOid || !Object::Relation(oid).is_own() || !extension::has(oid) {
        return Ok(());
    }
    Err(refusal(change, &format!("\"{}\"", relation::shown_name(oid))))
}

fn refusal(change: Change, table: &str) -> Failure {
    let refuse = |message: String| Failure::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message);
    match change {
        Change::Columns => refuse(format!("cannot change the columns of table {table}"))
            .detail(
                "It belongs to extension pg_notary, whose formats are fixed: with other columns, nothing could be \
                 recorded.",
            )
            .hint("Put additional columns in a table of your own that refers to the rows of this table by their key."),
        Change::Unlogged => refuse(format!("cannot make table {table} unlogged"))
            .detail("It belongs to extension pg_notary. After a crash it would be empty, and the ledger lost."),
    }
}
