//! The transactions of a worker, which has no client to send errors to.

use crate::postgres::background_process::CancellableWork;
use crate::postgres::database;
use crate::postgres::errorless;
use crate::postgres::errors::Failure;
use crate::postgres::lock_limit::LockLimit;
use crate::postgres::mirror::remembered::database_name;
use crate::postgres::sealing_lock;
use crate::postgres::spi;
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

/// How long the worker waits for each lock on the ledger's tables, when it seals or voids lines. A session that builds an
/// index on sealed entries, or rewrites a table, holds such a lock for as long as that takes, and other work of the
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

/// With synchronous_commit off, too, the transaction is on disk when it has committed: what the file says of it must not
/// be undone by a crash. Which standbys it waits for is as the administrator has configured it for all sessions: if none
/// answers, those that may go on without would otherwise wait for the worker.
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

/// Why the worker does not get the sealing lock.
pub(super) fn sealing_is_locked() -> Failure {
    let holder = in_transaction(sealing_lock::holder).ok().flatten();
    let holder = holder.as_deref().unwrap_or("another session holds");
    // It is passing, and who ends it wakes no process: see Worker::account.
    Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_IN_USE, format!("{holder} the lock on extension pg_notary"))
        .detail("Its transaction has called ledger.commit_block(), rebuilt the ledger, or run a command on the extension, and has not ended. The worker needs the lock to open the mirror file and to seal.")
        .hint("End that transaction: pg_terminate_backend() ends its session, and ROLLBACK PREPARED a prepared one. View pg_locks shows the lock; pg_blocking_pids() shows for whom a session waits.")
}

/// Why the worker cannot open the file, where it has waited in vain for a lock on a table.
pub(super) fn opening_is_locked() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_IN_USE, lock_in_the_way())
        .detail("The worker needs that table to open the mirror file, and waits for it only for a short time.")
        .hint("End that transaction: pg_terminate_backend() ends its session, and ROLLBACK PREPARED a prepared one. View pg_locks shows the lock; pg_blocking_pids() shows for whom a session waits.")
}

/// Why the worker cannot say of lines whether they are to be voided.
pub(super) fn voiding_is_locked() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_IN_USE, lock_in_the_way())
        .detail(format!("Lines of transactions that were rolled back cannot be voided until the lock is released; the worker waited {} seconds for it. Their ids cannot be used again meanwhile.", TABLE_PATIENCE.as_secs()))
        .hint("REINDEX, VACUUM FULL and CLUSTER hold such a lock until their transaction ends. View pg_locks shows the lock, and pg_stat_activity what its session does.")
}

/// Whose lock on a table of the ledger is in the way, as far as it can be found.
fn lock_in_the_way() -> String {
    let holder = in_transaction(table_holder).ok().flatten();
    holder.unwrap_or_else(|| "another session holds a lock on a table of the ledger".to_owned())
}

/// Who holds a lock on a table of the ledger against those who read or write it, or else who waits for one: all others
/// wait behind that. Who has locked `ledger.blocks` to write to it keeps a new partition from being attached.
fn table_holder() -> Option<String> {
    let mut holder = None;
    spi::for_each_in_catalogs(
        "SELECT pg_catalog.concat( \
         CASE WHEN l.pid IS NULL THEN 'a prepared transaction' ELSE pg_catalog.concat('session ', l.pid) END, \
         CASE WHEN l.granted THEN ' holds' ELSE ' waits for' END, ' a lock on ledger.', c.relname) \
         FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_class AS c ON c.oid = l.relation \
         WHERE l.locktype = 'relation' \
         AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
         AND c.relnamespace = (SELECT extnamespace FROM pg_catalog.pg_extension WHERE extname = 'pg_notary') \
         AND (l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') \
         OR l.mode = 'RowExclusiveLock' AND c.relname = 'blocks') \
         ORDER BY l.mode = 'RowExclusiveLock', l.granted DESC, l.mode = 'AccessExclusiveLock' DESC, c.relkind = 'i', l.waitstart LIMIT 1",
        &[],
        |row| holder = row.get::<String>(0),
    );
    holder
}

fn tables_are_locked() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, lock_in_the_way())
        .detail(format!("Nothing can be sealed until the lock is released; the worker waited {} seconds for it.", TABLE_PATIENCE.as_secs()))
        .hint("CREATE INDEX without CONCURRENTLY, REINDEX and VACUUM FULL hold such a lock until their transaction ends. View pg_locks shows the lock, and pg_stat_activity what its session does.")
}

/// How the log names this database. The prefix of its lines does not, because no client is connected.
pub(super) fn own_name() -> String {
    match in_transaction(database_name) {
        Ok(name) => format!("database \"{name}\""),
        Err(_) => format!("database {}", database::own_oid().to_u32()),
    }
}
