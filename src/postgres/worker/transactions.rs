//! The transactions of a worker, which has no client to send errors to.

use crate::postgres::background_process::CancellableWork;
use crate::postgres::database;
use crate::postgres::errorless;
use crate::postgres::errors::Failure;
use crate::postgres::lock_holders;
use crate::postgres::lock_limit::LockLimit;
use crate::postgres::mirror::remembered::database_name;
use crate::postgres::sealing_lock;
use pgrx::{check_for_interrupts, pg_sys, PgSqlErrorCode, PgTryBuilder};
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// How long the worker waits for the sealing lock before it looks for other work. A session that calls commit_block()
/// in a transaction block keeps the lock until the block ends, and lines of transactions that abort meanwhile must be
/// voided.
pub(super) const SEALING_PATIENCE: Duration = Duration::from_millis(500);

/// As [`SEALING_PATIENCE`], if sessions wait for the file that the worker is to open. They fail once it gives up. So
/// long it also waits for each lock on the ledger's tables, without which it cannot open the file.
pub(super) const OPENING_PATIENCE: Duration = Duration::from_secs(5);

/// How long the worker waits for each lock on the ledger's tables, when it seals or voids lines. A session that builds
/// an index on sealed entries, or rewrites a table, holds such a lock for as long as that takes, and other work of the
/// worker would wait too.
pub(super) const TABLE_PATIENCE: Duration = Duration::from_secs(2);

/// Runs `work` in a transaction of its own. An error aborts it and is returned, not logged. So is a cancel, which
/// stops nothing but such work.
pub(super) fn in_transaction<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    let _cancellable = CancellableWork::begin();
    // SAFETY: no transaction is open here. The commit pops the snapshot, or the abort drops it.
    PgTryBuilder::new(AssertUnwindSafe(|| unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        commit_to_disk();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        Ok(result)
    }))
    .catch_others(|error| {
        // SAFETY: a transaction is open and has failed, which is the state that this function ends.
        unsafe { pg_sys::AbortCurrentTransaction() };
        Err(Failure::caught(&error))
    })
    .execute()
}

/// With synchronous_commit off, too, the transaction is on disk when it has committed: what the file says of it must
/// not be undone by a crash. Which standbys it waits for is as the administrator has configured it for all sessions: if
/// none answers, those that may go on without would otherwise wait for the worker.
///
/// # Safety
/// A transaction is open.
unsafe fn commit_to_disk() {
    if pg_sys::synchronous_commit == pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32 {
        errorless::force_sync_commit();
    }
}

/// As [`in_transaction`], holding the sealing lock. `None` if another process has kept the lock for
/// [`SEALING_PATIENCE`].
pub(super) fn in_sealing<T>(work: impl FnOnce() -> T) -> Result<Option<T>, Failure> {
    let outcome = holding_sealing_lock(SEALING_PATIENCE, || {
        let _patience = LockLimit::set(TABLE_PATIENCE);
        work()
    });
    outcome.map_err(|error| if is_timeout(&error) { tables_are_locked() } else { error })
}

/// As [`in_transaction`], holding the sealing lock. `None` if another process has kept the lock for so long.
pub(super) fn holding_sealing_lock<T>(patience: Duration, work: impl FnOnce() -> T) -> Result<Option<T>, Failure> {
    let is_locked = Cell::new(false);
    let outcome = in_transaction(|| {
        let limit = LockLimit::set(patience);
        sealing_lock::take();
        drop(limit);
        // The timeout may have fired when the lock was granted.
        check_for_interrupts!();
        is_locked.set(true);
        work()
    });
    match outcome {
        Err(error) if is_timeout(&error) && !is_locked.get() => Ok(None),
        outcome => outcome.map(Some),
    }
}

pub(super) fn is_timeout(error: &Failure) -> bool {
    error.code() == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
}

/// What to do about a transaction that is left open, which may have any command as its last.
const END_IT: &str = "End that transaction: pg_terminate_backend() ends its session, and ROLLBACK PREPARED a prepared one. View pg_locks shows the lock; pg_blocking_pids() shows for whom a session waits.";

/// Why the worker does not get the sealing lock.
pub(super) fn sealing_is_locked() -> Failure {
    let found = in_transaction(lock_holders::of_extension).ok().flatten();
    let found = found.unwrap_or_else(|| "another session holds the lock on extension pg_notary".to_owned());
    in_the_way(found)
        .detail("Its transaction has called ledger.commit_block(), rebuilt the ledger, or run a command on the extension, and has not ended. The worker needs the lock to open the mirror file and to seal.")
        .hint(END_IT)
}

/// Why the worker cannot open the file, where it has waited in vain for a lock on a table.
pub(super) fn opening_is_locked() -> Failure {
    table_in_the_way()
        .detail("The worker needs that table to open the mirror file, and waits for it only for a short time.")
        .hint(END_IT)
}

/// Why the worker cannot say of lines whether they are to be voided.
pub(super) fn voiding_is_locked() -> Failure {
    table_in_the_way()
        .detail(format!("Lines of transactions that were rolled back cannot be voided until the lock is released; the worker waited {} seconds for it. Their ids cannot be used again meanwhile.", TABLE_PATIENCE.as_secs()))
        .hint("REINDEX, VACUUM FULL and CLUSTER hold such a lock until their transaction ends. View pg_locks shows the lock, and pg_stat_activity what its session does.")
}

/// Why the worker cannot seal, although it has the sealing lock.
fn tables_are_locked() -> Failure {
    // Whoever builds an index holds it for long: if the worker tried again as soon as for other locks, it would hold
    // the sealing lock most of the time.
    Failure::new(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, holder_of_table())
        .detail(format!("Nothing can be sealed until the lock is released; the worker waited {} seconds for it.", TABLE_PATIENCE.as_secs()))
        .hint("CREATE INDEX without CONCURRENTLY, REINDEX and VACUUM FULL hold such a lock until their transaction ends. View pg_locks shows the lock, and pg_stat_activity what its session does.")
}

/// Names whose lock on a table of the ledger it is, as far as it can be found.
fn table_in_the_way() -> Failure {
    in_the_way(holder_of_table())
}

fn holder_of_table() -> String {
    let found = in_transaction(lock_holders::of_table).ok().flatten();
    found.unwrap_or_else(|| "another session holds a lock on a table of the ledger".to_owned())
}

/// The lock of another transaction, which is passing. Who ends it wakes no process: see Worker::account.
fn in_the_way(found: String) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_IN_USE, found)
}

/// How the log names this database. The prefix of its lines does not, because no client is connected.
pub(super) fn own_name() -> String {
    match in_transaction(database_name) {
        Ok(name) => format!("database \"{name}\""),
        Err(_) => format!("database {}", database::own_oid().to_u32()),
    }
}
