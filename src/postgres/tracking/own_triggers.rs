//! Decides which roles may create a trigger with one of the ledger's functions. Otherwise the owner of a table could
//! create one by hand, and record arbitrary changes of other tables.
//!
//! Postgres checks the right to call the function. It checks it again for any role that creates or attaches a
//! partition, because the partition gets copies of its table's triggers. So every role has that right, and this module
//! refuses a trigger that is no such copy.

use super::options::{is_function, ROW_FUNCTION, TRUNCATE_FUNCTION};
use crate::postgres::errors::Failure;
use crate::postgres::relation;
use pgrx::{pg_sys, PgSqlErrorCode};

/// A trigger has been created, or replaced.
///
/// # Safety
/// Called by the object access hook, with the Oid of a trigger that this command put into the catalog.
pub unsafe fn check_created(trigger: pg_sys::Oid) {
    let Some(Created { function, relation, is_clone }) = find(trigger) else { return };
    let is_ours = || is_function(function, ROW_FUNCTION) || is_function(function, TRUNCATE_FUNCTION);
    if is_clone || pg_sys::superuser() || !is_ours() {
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
        .hint(format!("To record the rows of the table: SELECT ledger.track({}).", relation::literal(&table)))
        .raise();
}

struct Created {
    function: pg_sys::Oid,
    relation: pg_sys::Oid,
    /// It is a partition's copy of its table's trigger.
    is_clone: bool,
}

/// Reads the trigger with SnapshotSelf: a new snapshot does not see it, because the command that creates it has not
/// ended.
///
/// # Safety
/// Inside a transaction; any Oid may be given.
unsafe fn find(trigger: pg_sys::Oid) -> Option<Created> {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    let catalog = pg_sys::table_open(pg_sys::TriggerRelationId, lock);
    let mut key = pg_sys::ScanKeyData::default();
    pg_sys::ScanKeyInit(
        &mut key,
        pg_sys::Anum_pg_trigger_oid as pg_sys::AttrNumber,
        pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
        pg_sys::Oid::from(pg_sys::F_OIDEQ),
        trigger.into(),
    );
    let as_of_now = &raw mut pg_sys::SnapshotSelfData;
    let index = pg_sys::Oid::from(pg_sys::TriggerOidIndexId);
    let scan = pg_sys::systable_beginscan(catalog, index, true, as_of_now, 1, &mut key);
    let tuple = pg_sys::systable_getnext(scan);
    let created = (!tuple.is_null()).then(|| {
        let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_trigger>();
        let is_clone = form.tgparentid != pg_sys::InvalidOid;
        Created { function: form.tgfoid, relation: form.tgrelid, is_clone }
    });
    pg_sys::systable_endscan(scan);
    pg_sys::table_close(catalog, lock);
    created
}
