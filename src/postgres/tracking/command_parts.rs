//! Helpers for the hooks on utility commands: reading lists and names of relations in a parse tree, and taking locks.

use pgrx::pg_sys;

/// The pointers in a list; none if it is null.
///
/// # Safety
/// `list` is null, or a list of pointers in a parse tree that Postgres passed to the hook.
pub unsafe fn list_of(list: *mut pg_sys::List) -> impl Iterator<Item = *mut std::ffi::c_void> {
    let length = if list.is_null() { 0 } else { (*list).length as usize };
    (0..length).map(move |at| (*(*list).elements.add(at)).ptr_value)
}

/// The relation with this name now, without a lock, or InvalidOid.
///
/// # Safety
/// `name` is part of a parse tree that Postgres passed to the hook; inside a transaction.
pub unsafe fn named(name: *mut pg_sys::RangeVar) -> pg_sys::Oid {
    let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    pg_sys::RangeVarGetRelidExtended(name, lock, pg_sys::RVROption::RVR_MISSING_OK, None, std::ptr::null_mut())
}

/// Locks a relation until the transaction ends.
///
/// # Safety
/// Inside a transaction. Any Oid may be locked, whether or not a relation has it.
pub unsafe fn lock(relation: pg_sys::Oid, mode: u32) {
    pg_sys::LockRelationOid(relation, mode as pg_sys::LOCKMODE);
}
