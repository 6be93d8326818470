//! Settings of Postgres that hold for a piece of work, whatever the caller has set.

use pgrx::pg_sys;
use std::ffi::CStr;

/// What stands without a schema is Postgres' own, whatever the session's search_path is: a table, a function, an
/// operator.
const CATALOG_PATH: (&CStr, &CStr) = (c"search_path", c"pg_catalog, pg_temp");

/// Does work in which what stands without a schema is Postgres' own.
pub fn with_catalog_path<T>(work: impl FnOnce() -> T) -> T {
    with_settings(&[CATALOG_PATH], work)
}

/// Runs a statement of the ledger's own. Postgres would compile the list of thousands of tracked tables to machine code,
/// which takes longer than reading it: it expects partitions in each.
pub fn with_settings_of_statements<T>(run: impl FnOnce() -> T) -> T {
    with_settings(&[CATALOG_PATH, (c"jit", c"off")], run)
}

/// Does work with this setting, which may be one that only superusers set.
pub fn with_setting<T>(name: &CStr, value: &CStr, work: impl FnOnce() -> T) -> T {
    with_settings(&[(name, value)], work)
}

/// Settings that the work itself changes are restored as well.
fn with_settings<T>(settings: &[(&CStr, &CStr)], work: impl FnOnce() -> T) -> T {
    // SAFETY: the level ends below, or when the transaction or subtransaction aborts. Names and values are
    // NUL-terminated.
    let level = unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        level
    };
    let result = work();
    // SAFETY: ends the level that was begun above.
    unsafe { pg_sys::AtEOXact_GUC(false, level) };
    result
}
