//! Lists of Postgres.

use pgrx::pg_sys;
use std::ffi::c_void;

/// The pointers in a list; none if it is null.
///
/// # Safety
/// `list` is null, or a list of pointers that stays as it is while they are taken.
pub unsafe fn pointers(list: *mut pg_sys::List) -> impl Iterator<Item = *mut c_void> {
    (0..length(list)).map(move |at| (*(*list).elements.add(at)).ptr_value)
}

/// The oids in a list; none if it is null.
///
/// # Safety
/// `list` is null, or a list of oids that stays as it is while they are taken.
pub unsafe fn oids(list: *mut pg_sys::List) -> impl Iterator<Item = pg_sys::Oid> {
    (0..length(list)).map(move |at| (*(*list).elements.add(at)).oid_value)
}

unsafe fn length(list: *mut pg_sys::List) -> usize {
    if list.is_null() {
        0
    } else {
        (*list).length as usize
    }
}
