//! Who owns an object.

use super::errorless;
use pgrx::pg_sys;

/// An object by its oid.
#[derive(Clone, Copy)]
pub enum Object {
    Database(pg_sys::Oid),
    Extension(pg_sys::Oid),
    Relation(pg_sys::Oid),
    Schema(pg_sys::Oid),
}

impl Object {
    /// Whether the role owns the object: as its owner, as a member of that role, or as a superuser. Raises an ERROR if
    /// there is no such object.
    pub fn is_owned_by(self, role: pg_sys::Oid) -> bool {
        // SAFETY: catalog look-ups inside a transaction.
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        unsafe {
            match self {
                Object::Database(oid) => pg_sys::pg_database_ownercheck(oid, role),
                Object::Extension(oid) => pg_sys::pg_extension_ownercheck(oid, role),
                Object::Relation(oid) => pg_sys::pg_class_ownercheck(oid, role),
                Object::Schema(oid) => pg_sys::pg_namespace_ownercheck(oid, role),
            }
        }
        // SAFETY: as above.
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        unsafe {
            let (catalog, oid) = match self {
                Object::Database(oid) => (pg_sys::DatabaseRelationId, oid),
                Object::Extension(oid) => (pg_sys::ExtensionRelationId, oid),
                Object::Relation(oid) => (pg_sys::RelationRelationId, oid),
                Object::Schema(oid) => (pg_sys::NamespaceRelationId, oid),
            };
            pg_sys::object_ownercheck(catalog, oid, role)
        }
    }

    /// Whether the present user does.
    pub fn is_own(self) -> bool {
        self.is_owned_by(errorless::user())
    }
}
