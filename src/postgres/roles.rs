//! Work that is done with the rights of another role than the caller's.
//!
//! All of it is a security-restricted operation, like Postgres' own work that runs code of a table's owner. Such code
//! cannot become the caller by SET ROLE, and cannot leave anything behind that the caller would run later.

use super::errors::or_raise;
use super::local_settings::with_catalog_path;
use super::privileges::has_privilege;
use super::schema;
use pgrx::pg_sys;
use std::ffi::CStr;

/// Does work as the owner of the ledger: DDL, and whatever reads or writes the ledger's own tables. DDL, because a user
/// who may have a table tracked must not need the right to create such triggers by hand: with it, the user could record
/// anything about other tables.
pub fn as_ledger_owner<T>(work: impl FnOnce() -> T) -> T {
    or_raise(schema::require());
    as_role(pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID), work)
}

/// Does work that may run code of a table's owner, as that owner.
///
/// # Safety
/// The relation is open.
pub unsafe fn as_owner_of<T>(relation: pg_sys::Relation, work: impl FnOnce() -> T) -> T {
    as_role((*(*relation).rd_rel).relowner, work)
}

fn as_role<T>(role: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    struct Restore(pg_sys::Oid, i32);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: sets back what as_role() read before it changed them. This runs on return, and also when an error
            // unwinds.
            unsafe { pg_sys::SetUserIdAndSecContext(self.0, self.1) }
        }
    }
    let restricted = (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as i32;
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: both pointers are to local variables. `_restore` sets the role back when this returns or unwinds, and
    // nothing in between can fail.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(role, context | restricted);
    }
    let _restore = Restore(user, context);
    with_catalog_path(work)
}

/// A role of the ledger. It may have been renamed or dropped, and a role with CREATEROLE can then make another one of its
/// name. What tells the two apart is a privilege that CREATE EXTENSION has given to the role and to nobody else.
pub struct LedgerRole {
    name: &'static CStr,
    relation: &'static CStr,
    right: u32,
}

pub const ADMIN: LedgerRole = LedgerRole { name: c"ledger_admin", relation: c"import", right: pg_sys::ACL_INSERT };
pub const AUDITOR: LedgerRole = LedgerRole { name: c"ledger_auditor", relation: c"blocks", right: pg_sys::ACL_SELECT };

/// Whether the user has the privileges of the role.
pub fn is_member(user: pg_sys::Oid, role: &LedgerRole) -> bool {
    // SAFETY: catalog look-ups inside a transaction; the names are NUL-terminated.
    let (oid, is_member) = unsafe {
        let oid = pg_sys::get_role_oid(role.name.as_ptr(), true);
        (oid, oid != pg_sys::InvalidOid && pg_sys::has_privs_of_role(user, oid))
    };
    is_member && has_its_privilege(role, oid)
}

fn has_its_privilege(role: &LedgerRole, oid: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside a transaction; the name is NUL-terminated.
    let relation = schema::find().map(|schema| unsafe { pg_sys::get_relname_relid(role.relation.as_ptr(), schema) });
    relation.is_some_and(|relation| relation != pg_sys::InvalidOid && has_privilege(relation, oid, role.right))
}

/// Whether the user may read files of the server.
pub fn reads_server_files(user: pg_sys::Oid) -> bool {
    let role = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_SERVER_FILES);
    // SAFETY: catalog look-ups inside a transaction.
    unsafe { pg_sys::has_privs_of_role(user, role) }
}

/// Whether the session's role may, even if a function that runs as another role asks.
pub fn caller_reads_server_files() -> bool {
    // SAFETY: reads a global of this process.
    reads_server_files(unsafe { pg_sys::GetOuterUserId() })
}
