//! Which privileges a role has. For ownership, which includes them, see [`ownership`](super::ownership).

use pgrx::pg_sys;

/// Whether the user has the privilege on the whole relation; an ERROR if the relation is gone.
pub fn has_privilege(relation: pg_sys::Oid, user: pg_sys::Oid, right: u32) -> bool {
    // SAFETY: catalog look-ups inside a transaction; any oid may be asked for.
    let checked = unsafe { pg_sys::pg_class_aclcheck(relation, user, right as pg_sys::AclMode) };
    checked == pg_sys::AclResult::ACLCHECK_OK
}

/// Whether the user has the privilege on at least one column.
pub fn has_on_a_column(relation: pg_sys::Oid, user: pg_sys::Oid, right: u32) -> bool {
    has_on_columns(relation, user, right, pg_sys::AclMaskHow::ACLMASK_ANY)
}

/// Whether the user has the privilege on each column.
pub fn has_on_all_columns(relation: pg_sys::Oid, user: pg_sys::Oid, right: u32) -> bool {
    has_on_columns(relation, user, right, pg_sys::AclMaskHow::ACLMASK_ALL)
}

fn has_on_columns(relation: pg_sys::Oid, user: pg_sys::Oid, right: u32, how: pg_sys::AclMaskHow::Type) -> bool {
    // SAFETY: as in has_privilege().
    let checked = unsafe { pg_sys::pg_attribute_aclcheck_all(relation, user, right as pg_sys::AclMode, how) };
    checked == pg_sys::AclResult::ACLCHECK_OK
}

/// Whether the user may name what is in the schema.
pub fn has_usage(schema: pg_sys::Oid, user: pg_sys::Oid) -> bool {
    let usage = pg_sys::ACL_USAGE as pg_sys::AclMode;
    // SAFETY: as in has_privilege().
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    let checked = unsafe { pg_sys::pg_namespace_aclcheck(schema, user, usage) };
    // SAFETY: as above.
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    let checked = unsafe { pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, user, usage) };
    checked == pg_sys::AclResult::ACLCHECK_OK
}
