//! The extension's schema. A superuser can rename it. Another schema with the name `ledger` must not be taken for it: a
//! user who may create schemas could have put something there that would then run with the rights of the ledger's
//! owner.

use super::errors::Failure;
use super::tables::look_up::equality_key;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::cell::Cell;
use std::ffi::CStr;

pub const NAME: &CStr = c"ledger";

thread_local! {
    /// A schema that was found to be the extension's, with its table `entries`, which goes when the extension does.
    static KNOWN: Cell<Option<(pg_sys::Oid, pg_sys::Oid)>> = const { Cell::new(None) };
}

/// The schema `ledger`, if it is that of the extension.
pub fn find() -> Option<pg_sys::Oid> {
    // SAFETY: catalog look-ups inside a transaction.
    let named = unsafe {
        let schema = pg_sys::get_namespace_oid(NAME.as_ptr(), true);
        if schema == pg_sys::InvalidOid {
            return None;
        }
        (schema, pg_sys::get_relname_relid(c"entries".as_ptr(), schema))
    };
    if KNOWN.get() == Some(named) {
        return Some(named.0);
    }
    // SAFETY: inside a transaction, as of_extension() requires.
    let is_own = unsafe { of_extension() } == Some(named.0);
    // Not without the table, as while the extension is being created: nothing would tell later that the extension is
    // gone.
    KNOWN.set(Some(named).filter(|(_, entries)| is_own && *entries != pg_sys::InvalidOid));
    is_own.then_some(named.0)
}

/// As [`find`], or an error.
pub fn require() -> Result<pg_sys::Oid, Failure> {
    find().ok_or_else(|| {
        Failure::new(
            PgSqlErrorCode::ERRCODE_INVALID_SCHEMA_NAME,
            "schema \"ledger\" of extension pg_notary does not exist",
        )
        .detail("The extension uses only the schema that it was created in, and only under this name.")
        .hint("Run CREATE EXTENSION pg_notary, or rename the schema back to \"ledger\".")
    })
}

/// The extension's schema, by the catalog. Before Postgres 16 there is no function for it.
///
/// # Safety
/// Inside a transaction.
unsafe fn of_extension() -> Option<pg_sys::Oid> {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    let attribute = pg_sys::Anum_pg_extension_extname as pg_sys::AttrNumber;
    let mut key = equality_key(attribute, pg_sys::F_NAMEEQ, c"pg_notary".as_ptr().into());
    let catalog = pg_sys::table_open(pg_sys::ExtensionRelationId, lock);
    let index = pg_sys::Oid::from(pg_sys::ExtensionNameIndexId);
    let scan = pg_sys::systable_beginscan(catalog, index, true, std::ptr::null_mut(), 1, &mut key);
    let tuple = pg_sys::systable_getnext(scan);
    let row = (!tuple.is_null()).then(|| &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_extension>());
    let schema = row.map(|row| row.extnamespace);
    pg_sys::systable_endscan(scan);
    pg_sys::table_close(catalog, lock);
    schema
}
