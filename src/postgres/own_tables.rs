//! Refuses ALTER TABLE of the ledger's own tables if it concerns columns, or would leave the table empty after a crash.
//! Rows of these tables are read and written by position: with a column more or less, or of another type, nothing could
//! be recorded any more. Also refuses TRUNCATE of partitions that an administrator has attached, because a partition
//! gets the row triggers of its parent, but not those for statements; that such a partition is unlogged; and the
//! trigger of pg_repack. Other changes are the administrator's business.
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
use std::ffi::CStr;

/// The function of pg_repack's trigger.
const REPACK_FUNCTION: [&CStr; 2] = [c"repack", c"repack_trigger"];

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
    // The extension's own scripts may alter its tables.
    let is_checked = !pg_sys::creating_extension;
    match (*statement).type_ {
        pg_sys::NodeTag::T_TruncateStmt => {
            let truncate = &*statement.cast::<pg_sys::TruncateStmt>();
            lists::pointers(truncate.relations).for_each(|name| or_raise(check_truncate(name.cast())));
        }
        pg_sys::NodeTag::T_CreateStmt => or_raise(check_created(&*statement.cast())),
        pg_sys::NodeTag::T_CreateTrigStmt => or_raise(check_trigger(&*statement.cast())),
        pg_sys::NodeTag::T_AlterTableStmt if is_checked => {
            let alter = &*statement.cast::<pg_sys::AlterTableStmt>();
            or_raise(check_attached(alter));
            changes(alter.cmds).for_each(|change| or_raise(check(change, alter.relation)));
        }
        pg_sys::NodeTag::T_RenameStmt if is_checked => {
            let rename = &*statement.cast::<pg_sys::RenameStmt>();
            if rename.renameType == pg_sys::ObjectType::OBJECT_COLUMN {
                or_raise(check(Change::Columns, rename.relation));
            }
        }
        _ => {}
    }
}

/// Refuses the trigger by which pg_repack learns of what is written to a table while it copies it: the ledger writes past
/// triggers, so that all of that would be missing from the copy that pg_repack puts in the table's place.
unsafe fn check_trigger(create: &pg_sys::CreateTrigStmt) -> Result<(), Failure> {
    let is_of_repack = lists::pointers(create.funcname).map(|name| lists::string(name)).eq(REPACK_FUNCTION);
    let table = relation::named(create.relation);
    if !is_of_repack || !is_of_ledger(table) {
        return Ok(());
    }
    let message = format!("pg_repack cannot process table \"{}\"", relation::shown_name(table));
    Err(Failure::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message)
        .detail("The ledger writes to its tables without firing triggers. Entries that come while pg_repack runs would be lost.")
        .hint("Run pg_repack with --exclude-extension=pg_notary. VACUUM FULL can rewrite a table of the ledger."))
}

unsafe fn changes(commands: *mut pg_sys::List) -> impl Iterator<Item = Change> {
    use pg_sys::AlterTableType as Kind;
    lists::pointers(commands).filter_map(|command| match (*command.cast::<pg_sys::AlterTableCmd>()).subtype {
        Kind::AT_AddColumn | Kind::AT_DropColumn | Kind::AT_AlterColumnType => Some(Change::Columns),
        Kind::AT_SetUnLogged => Some(Change::Unlogged),
        _ => None,
    })
}

/// Refuses to attach an unlogged table to one of the extension, or one with such a partition.
unsafe fn check_attached(alter: &pg_sys::AlterTableStmt) -> Result<(), Failure> {
    let attached = lists::pointers(alter.cmds).filter_map(|command| {
        let command = &*command.cast::<pg_sys::AlterTableCmd>();
        let is_attached = command.subtype == pg_sys::AlterTableType::AT_AttachPartition;
        is_attached.then(|| (*command.def.cast::<pg_sys::PartitionCmd>()).name)
    });
    for name in attached {
        let (table, parent) = (relation::named(name), relation::named(alter.relation));
        let is_to_be_checked = table != pg_sys::InvalidOid && is_of_ledger(parent);
        if let Some(unlogged) = is_to_be_checked.then(|| unlogged_in(table)).flatten() {
            let name = relation::shown_name(unlogged);
            let hint = format!("Run ALTER TABLE {name} SET LOGGED first.");
            return Err(unlogged_partition("attach", &name, parent).hint(hint));
        }
    }
    Ok(())
}

/// The table itself, or a partition of it at any depth, if one is unlogged.
fn unlogged_in(table: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let query = "SELECT oid FROM pg_class WHERE relpersistence = 'u' \
                 AND (oid = $1::oid OR oid = ANY (ARRAY(SELECT relid::oid FROM pg_partition_tree($1::oid::regclass))))";
    let mut unlogged = None;
    spi::for_each_in_catalogs(query, &[i64::from(table.to_u32()).into()], |row| unlogged = row.get(0));
    unlogged
}

/// Refuses to create an unlogged table as a partition of one of the extension.
unsafe fn check_created(create: &pg_sys::CreateStmt) -> Result<(), Failure> {
    let is_unlogged = (*create.relation).relpersistence as u8 == pg_sys::RELPERSISTENCE_UNLOGGED;
    if create.partbound.is_null() || !is_unlogged {
        return Ok(());
    }
    let parents = lists::pointers(create.inhRelations).map(|parent| relation::named(parent.cast()));
    match parents.filter(|parent| is_of_ledger(*parent)).last() {
        None => Ok(()),
        Some(parent) => {
            let name = CStr::from_ptr((*create.relation).relname).to_string_lossy();
            Err(unlogged_partition("create", &name, parent).hint("Leave out UNLOGGED."))
        }
    }
}

fn unlogged_partition(verb: &str, table: &str, parent: pg_sys::Oid) -> Failure {
    let parent = relation::shown_name(parent);
    let message = format!("cannot {verb} unlogged table \"{table}\" as a partition of \"{parent}\"");
    Failure::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message)
        .detail("After a crash it would be empty, and the entries in it lost.")
}

/// Whether it is a table of the ledger. A partition that a DBA has attached need not be a member of the extension.
pub fn is_of_ledger(table: pg_sys::Oid) -> bool {
    table != pg_sys::InvalidOid && (extension::has(table) || is_partition(table))
}

unsafe fn check(change: Change, name: *mut pg_sys::RangeVar) -> Result<(), Failure> {
    let oid = relation::named(name);
    // A partition that an administrator has attached has all its columns from its parent.
    let is_partition = || matches!(change, Change::Unlogged) && is_partition(oid);
    // If the table does not exist, or is not the caller's, the command itself says so.
    if oid == pg_sys::InvalidOid || !Object::Relation(oid).is_own() || !(extension::has(oid) || is_partition()) {
        return Ok(());
    }
    Err(refusal(change, &format!("\"{}\"", relation::shown_name(oid))))
}

/// Refuses it for a partition without a trigger of its own that would. One that a superuser has disabled is left to do
/// as it is told.
unsafe fn check_truncate(name: *mut pg_sys::RangeVar) -> Result<(), Failure> {
    let oid = relation::named(name);
    if oid == pg_sys::InvalidOid || !is_partition(oid) || has_own_trigger(oid) {
        return Ok(());
    }
    Err(triggers::refusal("TRUNCATE", &relation::shown_name(oid), false))
}

/// Whether it is a partition of a table of the ledger.
fn is_partition(table: pg_sys::Oid) -> bool {
    relation::ancestors_of(table).into_iter().any(extension::has)
}

/// Whether the table has a trigger for TRUNCATE that refuses it.
fn has_own_trigger(table: pg_sys::Oid) -> bool {
    let query = "SELECT 1 FROM pg_trigger WHERE tgrelid = $1::oid \
                 AND tgfoid = 'ledger.refuse_change'::regproc AND (tgtype & $2::int2) <> 0";
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
