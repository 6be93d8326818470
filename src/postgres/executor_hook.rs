//! The ExecutorFinish hook. It runs when the AFTER triggers of a query have fired, and inserts the entries that they
//! have queued.

use super::queue;
use pgrx::pg_sys;

static mut PREVIOUS: pg_sys::ExecutorFinish_hook_type = None;

pub fn init() {
    // SAFETY: _PG_init runs in the postmaster's only thread; the hook is chained.
    unsafe {
        PREVIOUS = pg_sys::ExecutorFinish_hook;
        pg_sys::ExecutorFinish_hook = Some(executor_finish);
    }
}

extern "C-unwind" {
    /// Postgres' own function, not pgrx's wrapper: see utility_hook.
    fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
}

/// Not guarded as a whole: see utility_hook.
unsafe extern "C-unwind" fn executor_finish(query: *mut pg_sys::QueryDesc) {
    PREVIOUS.unwrap_or(standard_ExecutorFinish)(query);
    if !queue::is_empty() {
        queue::flush_guarded();
    }
}
