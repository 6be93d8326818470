//! Lists of Postgres, and the names that stand in them.

use pgrx::pg_sys;
use std::ffi::{c_void, CStr};

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

/// The text of a node of type String, as names in a parse tree are.
///
/// # Safety
/// `node` is such a node, and outlives the result.
pub unsafe fn string<'a>(node: *mut c_void) -> &'a CStr {
    #[cfg(feature = "pg14")]
    let text = (*node.cast::<pg_sys::Value>()).val.str_;
    #[cfg(not(feature = "pg14"))]
    let text = (*node.cast::<pg_sys::String>()).sval;
    CStr::from_ptr(text)
}

unsafe fn length(list: *mut pg_sys::List) -> usize {
    if list.is_null() {
        0
    } else {
        (*list).length as usize
    }
}
