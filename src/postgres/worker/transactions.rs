//! The transactions of a worker, which has no client that an error could be sent to.

use crate::postgres::blocks;
use crate::postgres::errors::Failure;
use crate::postgres::mirror::remembered::database_name;
use pgrx::{pg_sys, PgSqlErrorCode, PgTryBuilder};
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// How long the worker waits for the sealing lock before it looks what else there is to be done. Whoever calls commit_block()
/// in a transaction block keeps it until that ends, and lines of transactions that abort meanwhile are to be voided.
const SEALING_PATIENCE: Duration = Duration::from_millis(500);

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
        blocks::lock_sealing_within(SEALING_PATIENCE);
        is_locked.set(true);
        work()
    });
    match outcome {
        Ok(result) => Ok(Some(result)),
        Err(error) if !is_locked.get() && error.code() == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => Ok(None),
        Err(error) => Err(error),
    }
}

/// How the log names this database: the prefix of its lines does not, as it is no client that has connected.
pub(super) fn own_name() -> String {
    match in_transaction(database_name) {
        Ok(name) => format!("database \"{name}\""),
        // SAFETY: a plain global of this process.
        Err(_) => format!("database {}", unsafe { pg_sys::MyDatabaseId }.to_u32()),
    }
}
