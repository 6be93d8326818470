//! The transactions of a worker, which has no client that an error could be sent to.

use crate::postgres::blocks;
use crate::postgres::errors::Failure;
use crate::postgres::mirror::remembered::database_name;
use pgrx::{check_for_interrupts, pg_sys, PgSqlErrorCode, PgTryBuilder};
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// How long the worker waits for the sealing lock before it looks what else there is to be done. Whoever calls commit_block()
/// in a transaction block keeps it until that ends, and lines of transactions that abort meanwhile are to be voided.
const SEALING_PATIENCE: Duration = Duration::from_millis(500);

/// And so long it waits for each lock on the ledger's tables, once it has that one: who makes an index of sealed entries, or has a table
/// written anew, keeps sealing from them for as long as that takes.
const TABLE_PATIENCE: Duration = Duration::from_secs(2);

/// How long this process waits for locks, until dropped.
struct LockLimit {
    before: std::ffi::c_int,
}

impl LockLimit {
    fn set(limit: Duration) -> LockLimit {
        // SAFETY: the setting lock_timeout of this process, read when it waits for a lock.
        LockLimit { before: unsafe { (&raw mut pg_sys::LockTimeout).replace(limit.as_millis() as _) } }
    }
}

impl Drop for LockLimit {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { pg_sys::LockTimeout = self.before };
    }
}

/// Runs `work` in a transaction of its own. An error aborts it and is returned, not logged.
pub(super) fn in_transaction<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    // SAFETY: no transaction is open here; the snapshot is popped by the commit or dropped by the abort.
    PgTryBuilder::new(AssertUnwindSafe(|| unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        Ok(result)
    }))
    .catch_others(|error| {
        // SAFETY: a transaction is open, in an error state.
        unsafe { pg_sys::AbortCurrentTransaction() };
        Err(Failure::caught(&error))
    })
    .execute()
}

/// The same, holding the sealing lock. `None` if somebody else has kept it for [`SEALING_PATIENCE`].
pub(super) fn in_sealing<T>(work: impl FnOnce() -> T) -> Result<Option<T>, Failure> {
    let is_locked = Cell::new(false);
    let outcome = in_transaction(|| {
        let patience = LockLimit::set(SEALING_PATIENCE);
        blocks::lock_sealing();
        drop(patience);
        // The time may have run out as the lock was given.
        check_for_interrupts!();
        is_locked.set(true);
        let _patience = LockLimit::set(TABLE_PATIENCE);
        work()
    });
    match outcome {
        Ok(result) => Ok(Some(result)),
        Err(error) if error.code() != PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => Err(error),
        Err(_) if !is_locked.get() => Ok(None),
        Err(_) => Err(tables_are_locked()),
    }
}

fn tables_are_locked() -> Failure {
    let message = "a lock on a table of the ledger is held by somebody else";
    Failure::new(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, message)
        .detail(format!("Nothing is sealed before it is given back; {} seconds were waited for it.", TABLE_PATIENCE.as_secs()))
        .hint("Look in pg_locks who has it: CREATE INDEX without CONCURRENTLY, REINDEX and VACUUM FULL keep it while they work, and a transaction until it ends.")
}

/// How the log names this database: the prefix of its lines does not, as it is no client that has connected.
pub(super) fn own_name() -> String {
    match in_transaction(database_name) {
        Ok(name) => format!("database \"{name}\""),
        // SAFETY: a plain global of this process.
        Err(_) => format!("database {}", unsafe { pg_sys::MyDatabaseId }.to_u32()),
    }
}
