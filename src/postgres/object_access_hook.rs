//! The object access hook: runs whenever an object is created or dropped in the catalogs.

use super::tracking::{dropped, own_triggers};
use super::worker::commands;
use pgrx::{pg_guard, pg_sys};
use std::ffi::c_void;

static mut PREVIOUS: pg_sys::object_access_hook_type = None;

pub fn init() {
    // SAFETY: _PG_init runs in the postmaster's only thread; the hook is chained.
    unsafe {
        PREVIOUS = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(object_access);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: i32,
    argument: *mut c_void,
) {
    if let Some(previous) = PREVIOUS {
        pg_sys::ffi::pg_guard_ffi_boundary(|| previous(access, class, object, part, argument));
    }
    match (class, access) {
        (pg_sys::ExtensionRelationId, pg_sys::ObjectAccessType::OAT_POST_CREATE) => commands::extension_created(object),
        (pg_sys::ExtensionRelationId, pg_sys::ObjectAccessType::OAT_DROP) => commands::extension_dropped(object),
        (pg_sys::TriggerRelationId, pg_sys::ObjectAccessType::OAT_POST_CREATE) => own_triggers::check_created(object),
        (pg_sys::TriggerRelationId, pg_sys::ObjectAccessType::OAT_DROP) => dropped::trigger_dropped(object),
        // With a part it is one of its columns.
        (pg_sys::RelationRelationId, pg_sys::ObjectAccessType::OAT_DROP) if part == 0 => {
            dropped::relation_dropped(object)
        }
        _ => {}
    }
}
