//! Decides which roles may create a trigger with one of the ledger's functions. Otherwise the owner of a table could
//! create one by hand, and record arbitrary changes of other tables.
//!
//! Postgres checks the right to call the function. It checks it again for any role that creates or attaches a
//! partition, because the partition gets copies of its table's triggers. So every role has that right, and this module
//! refuses a trigger that is no such copy.

use super::catalog_triggers::CatalogTrigger;
use super::options::{is_function, ROW_FUNCTION, TRUNCATE_FUNCTION};
use crate::postgres::errorless;
use crate::postgres::errors::Failure;
use crate::postgres::privileges::has_privilege;
use crate::postgres::quoting::literal;
use crate::postgres::relation;
use pgrx::{pg_sys, PgSqlErrorCode};

/// A trigger is about to be created. Whoever may create triggers may also replace any, and could so end the recording
/// of a table that is not its own.
///
/// # Safety
/// `create` is the statement that ProcessUtility was called with.
pub unsafe fn check_replaced(create: &pg_sys::CreateTrigStmt) -> Result<(), Failure> {
    if !create.replace {
        return Ok(());
    }
    let Some(table) = lock_table(create.relation) else { return Ok(()) };
    // Of a row trigger, partitions get one of the same name each.
    let is_partitioned = pg_sys::get_rel_relkind(table) as u8 == pg_sys::RELKIND_PARTITIONED_TABLE;
    let tables = match create.row && is_partitioned {
        true => relation::with_heirs(table, pg_sys::ShareRowExclusiveLock as pg_sys::LOCKMODE),
        false => vec![table],
    };
    tables.into_iter().try_for_each(|table| check_kept(table, create))
}

/// The table of that name, locked as the command locks it, if the caller may create triggers on it.
unsafe fn lock_table(name: *mut pg_sys::RangeVar) -> Option<pg_sys::Oid> {
    let may_create = |table: &pg_sys::Oid| has_privilege(*table, errorless::user(), pg_sys::ACL_TRIGGER);
    let lock = |table: &pg_sys::Oid| relation::lock(*table, pg_sys::ShareRowExclusiveLock);
    relation::lock_by_name(|| relation::find_named(name), may_create, lock)
}

unsafe fn check_kept(table: pg_sys::Oid, create: &pg_sys::CreateTrigStmt) -> Result<(), Failure> {
    let existing = CatalogTrigger::find(pg_sys::get_trigger_oid(table, create.trigname, true));
    if !existing.is_some_and(|existing| is_ours(existing.function)) {
        return Ok(());
    }
    let (name, trigger) = (relation::shown_name(table), std::ffi::CStr::from_ptr(create.trigname).to_string_lossy());
    let message = format!("cannot replace trigger \"{trigger}\" of tracked table {name}");
    Err(Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .detail("It records what is done to the table.")
        .hint(format!("To stop tracking the table: SELECT ledger.untrack({}).", literal(&name))))
}

/// # Safety
/// Inside a transaction; any Oid may be given.
unsafe fn is_ours(function: pg_sys::Oid) -> bool {
    is_function(function, ROW_FUNCTION) || is_function(function, TRUNCATE_FUNCTION)
}

/// A trigger has been created, or replaced.
///
/// # Safety
/// Called by the object access hook, with the Oid of a trigger that this command put into the catalog.
pub unsafe fn check_created(trigger: pg_sys::Oid) {
    let Some(CatalogTrigger { function, relation, parent, .. }) = CatalogTrigger::find(trigger) else { return };
    if parent.is_some() || pg_sys::superuser() || !is_ours(function) {
        return;
    }
    let name = pg_sys::get_func_name(function);
    let name = std::ffi::CStr::from_ptr(name).to_string_lossy();
    let message = format!("permission denied for function ledger.{name}");
    let table = relation::shown_name(relation);
    Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
        .detail(format!(
            "Only ledger.track() and superusers may create triggers with it; this trigger is for table {table}."
        ))
        .hint(format!("To record the rows of the table: SELECT ledger.track({}).", literal(&table)))
        .raise();
}
