//! Refuses ALTER TABLE of the ledger's own tables if it concerns columns, or would leave the table empty after a crash.
//! Rows of these tables are read and written by position: with a column more or less, or of another type, nothing could
//! be recorded any more. Also refuses TRUNCATE of partitions that an administrator has attached: a partition gets the
//! row triggers of its parent, but not those for statements. Other changes are the administrator's business.
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
use super::spi;
use super::triggers;
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
    if let pg_sys::NodeTag::T_TruncateStmt = (*statement).type_ {
        let truncate = &*statement.cast::<pg_sys::TruncateStmt>();
        lists::pointers(truncate.relations).for_each(|name| or_raise(check_truncate(name.cast())));
    }
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

/// Refuses it for a partition without a trigger of its own that would. One that a superuser has disabled is left to do as
/// it is told.
unsafe fn check_truncate(name: *mut pg_sys::RangeVar) -> Result<(), Failure> {
    let oid = relation::named(name);
    let is_partition = oid != pg_sys::InvalidOid && relation::ancestors_of(oid).into_iter().any(extension::has);
    if !is_partition || has_own_trigger(oid) {
        return Ok(());
    }
    Err(triggers::refusal("TRUNCATE", &relation::shown_name(oid), false))
}

/// Whether the table has a trigger for TRUNCATE that refuses it.
fn has_own_trigger(table: pg_sys::Oid) -> bool {
    let query = "SELECT 1 FROM pg_catalog.pg_trigger WHERE tgrelid OPERATOR(pg_catalog.=) $1::pg_catalog.oid \
                 AND tgfoid OPERATOR(pg_catalog.=) 'ledger.refuse_change'::pg_catalog.regproc \
                 AND (tgtype OPERATOR(pg_catalog.&) $2::pg_catalog.int2) OPERATOR(pg_catalog.<>) 0";
    let mut has_trigger = false;
    let of_truncate = i64::from(pg_sys::TRIGGER_TYPE_TRUNCATE);
    spi::for_each_in_catalogs(query, &[i64::from(table.to_u32()).into(), of_truncate.into()], |_| has_trigger = true);
    has_trigger
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
