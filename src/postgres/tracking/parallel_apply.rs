//! Keeps warnings from the leader of a parallel apply worker (subscriptions with `streaming = parallel`, Postgres 16
//! and later).
//!
//! An apply worker opens the partition that a row is routed to once more for its row triggers, and never closes it:
//! ExecGetTriggerResultRel() does not take the one that the routing has opened, and finish_edata() does not close what
//! it opens. So each row becomes a WARNING at commit, that a relation was not closed. A parallel apply worker sends its
//! warnings to its leader, which takes none while it waits for the end of the commit. Some 60 fill the queue, and both
//! would wait for ever. Seen with 15.18, which has no parallel apply workers, and 18.6, with any AFTER ROW trigger.

use crate::postgres::tables::Table;
use pgrx::{pg_sys, PgLogLevel};
use std::cell::Cell;
use std::ffi::CStr;
use std::sync::OnceLock;

thread_local! {
    /// There will be such warnings in this process.
    static WARNS: Cell<bool> = const { Cell::new(false) };
}

/// A row of the table has fired its trigger. What is set now does not last until the commit: if the table is that of
/// another role, settings are put back after each row.
pub fn note_row(table: &Table) {
    static IS_PARALLEL_APPLY_WORKER: OnceLock<bool> = OnceLock::new();
    if *IS_PARALLEL_APPLY_WORKER.get_or_init(is_parallel_apply_worker) && table.pg_class().relispartition {
        WARNS.set(true);
    }
}

/// Leaves the warnings about partitions to the server's log, until the transaction ends.
///
/// # Safety
/// A transaction or a subtransaction is about to commit.
pub unsafe fn keep_warnings_from_leader() {
    if WARNS.get() && pg_sys::client_min_messages < PgLogLevel::ERROR as i32 {
        pg_sys::set_config_option(
            c"client_min_messages".as_ptr(),
            c"error".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

fn is_parallel_apply_worker() -> bool {
    // SAFETY: null, or what the postmaster has registered, with a NUL-terminated name.
    let worker = unsafe { pg_sys::MyBgworkerEntry.as_ref() };
    worker.is_some_and(|worker| {
        // SAFETY: as above.
        unsafe { CStr::from_ptr(worker.bgw_function_name.as_ptr()) == c"ParallelApplyWorkerMain" }
    })
}
