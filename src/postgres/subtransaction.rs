//! Work whose failure must not end the transaction.

use super::errors::{is_about_lock, is_about_work, Failure};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{pg_sys, PgTryBuilder};
use std::panic::AssertUnwindSafe;

/// Runs `work` in a subtransaction of its own. An ERROR rolls that back and is returned. It needs no transaction
/// number, so it works on a standby too.
///
/// An ERROR that is not about the work is raised again: the statement was cancelled, the process is to end, or another
/// transaction is in the way.
///
/// What `work` opens it must also close: a table, a scan, a snapshot.
pub fn attempt<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    attempt_but_for(work, is_about_work)
}

/// As [`attempt`], for work that can be put off: an ERROR because of a lock that another transaction holds is returned
/// too.
pub fn attempt_unlocked<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    attempt_but_for(work, |error| is_about_work(error) || is_about_lock(error))
}

fn attempt_but_for<T>(work: impl FnOnce() -> T, is_returned: fn(&CaughtError) -> bool) -> Result<T, Failure> {
    // SAFETY: inside a transaction. Every way out of here ends the subtransaction and restores both globals.
    unsafe {
        let (context, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        let restore = || {
            pg_sys::CurrentMemoryContext = context;
            pg_sys::CurrentResourceOwner = owner;
        };
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        // What `work` returns may be allocated there.
        pg_sys::CurrentMemoryContext = context;
        PgTryBuilder::new(AssertUnwindSafe(|| {
            let done = work();
            pg_sys::ReleaseCurrentSubTransaction();
            restore();
            Ok(done)
        }))
        .catch_others(|error| {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            restore();
            match is_returned(&error) {
                true => Err(Failure::caught(&error)),
                false => error.rethrow(),
            }
        })
        .execute()
    }
}
