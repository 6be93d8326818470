//! The lock that one sealer at a time holds: one on the extension itself, so that DROP EXTENSION and a batch wait for
//! each other. VACUUM and sessions that record do not take it.

use super::errors::Failure;
use super::extension;
use super::lists;
use super::ownership::Object;
use super::schema;
use super::transaction;
use pgrx::{pg_guard, pg_sys, PgSqlErrorCode};
use std::ffi::c_void;

/// DROP EXTENSION takes a stronger one.
const MODE: pg_sys::LOCKMODE = pg_sys::ShareUpdateExclusiveLock as _;

/// Waits until this transaction is the one that may seal.
pub fn take() {
    loop {
        let extension = extension::require();
        // SAFETY: inside a transaction, whose end releases the lock.
        unsafe { pg_sys::LockDatabaseObject(pg_sys::ExtensionRelationId, extension, 0, MODE) };
        // If the extension was dropped and created again during the wait, this is the lock of a ledger that is gone,
        // and others may hold that of the new one.
        if extension == extension::require() {
            break;
        }
        // SAFETY: the lock taken above.
        unsafe { pg_sys::UnlockDatabaseObject(pg_sys::ExtensionRelationId, extension, 0, MODE) };
    }
    transaction::note_sealing_lock();
}

/// Refuses the commands by which a role without any right in the ledger could hold up all who seal, and the worker at
/// its start. ALTER ... DEPENDS ON EXTENSION locks the extension until its transaction ends, and asks only for the
/// ownership of the object that is to depend on it. DROP asks for a lock on the extension, or on its schema, before it
/// looks whose it is; while it waits for it, all others wait behind it: who seals locks the schema where a new
/// partition is due.
///
/// # Safety
/// A statement that ProcessUtility was called with.
#[pg_guard]
pub unsafe extern "C-unwind" fn before_utility(statement: *mut pg_sys::Node) {
    let (locked, purpose) = match (*statement).type_ {
        pg_sys::NodeTag::T_AlterObjectDependsStmt => {
            let depends = &*statement.cast::<pg_sys::AlterObjectDependsStmt>();
            (own_extension(depends.extname.cast()), " to make an object depend on it")
        }
        pg_sys::NodeTag::T_DropStmt => (dropped(&*statement.cast()), ""),
        _ => return,
    };
    if let Some(object) = locked.filter(|object| !object.is_own()) {
        not_owner(object, purpose).raise();
    }
}

/// What of the extension is to be dropped.
///
/// # Safety
/// As for [`before_utility`].
unsafe fn dropped(drop: &pg_sys::DropStmt) -> Option<Object> {
    let find = match drop.removeType {
        pg_sys::ObjectType::OBJECT_EXTENSION => own_extension,
        pg_sys::ObjectType::OBJECT_SCHEMA => own_schema,
        _ => return None,
    };
    lists::pointers(drop.objects).find_map(|name| find(name))
}

/// The extension, if that is its name. Where there is none, the command itself says so.
///
/// # Safety
/// `name` is a node of type String.
unsafe fn own_extension(name: *mut c_void) -> Option<Object> {
    let is_there = lists::string(name) == extension::NAME && extension::exists();
    is_there.then(|| Object::Extension(extension::oid()))
}

/// The extension's schema, if that is its name.
///
/// # Safety
/// As for [`own_extension`].
unsafe fn own_schema(name: *mut c_void) -> Option<Object> {
    schema::find().filter(|_| lists::string(name) == schema::NAME).map(Object::Schema)
}

fn not_owner(object: Object, purpose: &str) -> Failure {
    let what = if matches!(object, Object::Schema(_)) { "schema ledger" } else { "extension pg_notary" };
    Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be owner of {what}{purpose}"))
        .detail("The command locks it, and nothing could be sealed meanwhile.")
        .hint("Ask the owner of the extension to run the command.")
}
