//! The extension in the catalogs of this database.

use pgrx::pg_sys;
use std::ffi::CStr;

pub const NAME: &CStr = c"pg_notary";

/// Its oid, or InvalidOid if this database does not have it.
pub fn oid() -> pg_sys::Oid {
    // SAFETY: a catalog look-up inside a transaction; the name is NUL-terminated.
    unsafe { pg_sys::get_extension_oid(NAME.as_ptr(), true) }
}

pub fn exists() -> bool {
    oid() != pg_sys::InvalidOid
}

/// As [`oid`]; an ERROR if there is none.
pub fn require() -> pg_sys::Oid {
    // SAFETY: as in oid().
    unsafe { pg_sys::get_extension_oid(NAME.as_ptr(), false) }
}

/// Whether the relation is a member of it.
pub fn has(relation: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside a transaction; any oid may be asked for.
    let owner = unsafe { pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, relation) };
    owner != pg_sys::InvalidOid && owner == oid()
}
