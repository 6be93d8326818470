//! What utility commands are made of: lists, names of relations, locks.

use pgrx::pg_sys;

pub unsafe fn list_of(list: *mut pg_sys::List) -> impl Iterator<Item = *mut std::ffi::c_void> {
    let length = if list.is_null() { 0 } else { (*list).length as usize };
    (0..length).map(move |at| (*(*list).elements.add(at)).ptr_value)
}

/// The relation with this name now, without a lock, or InvalidOid.
pub unsafe fn named(name: *mut pg_sys::RangeVar) -> pg_sys::Oid {
    let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    pg_sys::RangeVarGetRelidExtended(name, lock, pg_sys::RVROption::RVR_MISSING_OK, None, std::ptr::null_mut())
}

pub unsafe fn lock(relation: pg_sys::Oid, mode: u32) {
    pg_sys::LockRelationOid(relation, mode as pg_sys::LOCKMODE);
}
