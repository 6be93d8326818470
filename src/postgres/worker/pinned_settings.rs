//! Shields the worker from settings that a database or the superuser's role has for the sake of clients.

use super::transactions::in_transaction;
use crate::postgres::errors::Failure;
use pgrx::pg_sys;
use std::ffi::CStr;

const PINNED: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"row_security", c"off"),
    (c"statement_timeout", c"0"),
    (c"lock_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    // An error that the worker catches must end only what it was doing.
    (c"exit_on_error", c"off"),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"transaction_timeout", c"0"),
];

/// Pins all of them, once the worker is connected.
///
/// # Errors
/// If the name of the worker's own user cannot be looked up.
pub fn pin() -> Result<(), Failure> {
    for (name, value) in PINNED {
        set(name, value);
    }
    pin_user()
}

/// `ALTER DATABASE ... SET role` makes the sessions of a database those of another user, and the worker's too; the
/// owner of the database may run it.
fn pin_user() -> Result<(), Failure> {
    in_transaction(|| {
        // SAFETY: inside a transaction, for the look-up of the name. The copy of it lives until the transaction ends.
        let own = unsafe { CStr::from_ptr(pg_sys::GetUserNameFromId(pg_sys::GetAuthenticatedUserId(), false)) };
        set(c"session_authorization", own);
        set(c"role", c"none");
    })
}

fn set(name: &CStr, value: &CStr) {
    // SAFETY: NUL-terminated names and values of Postgres' own settings; Postgres copies both.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}
