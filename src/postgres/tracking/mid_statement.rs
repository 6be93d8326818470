//! Verification in the midst of a statement that changes the table. What the statement changes is recorded by its
//! triggers when all rows are changed, and inserted into the ledger when it ends. Until then its rows look as if they
//! had been changed without a record, which is no reason to raise the alarm. Rows that go with a partition, or by
//! TRUNCATE, are recorded before they go.

use crate::postgres::errorless;
use crate::postgres::errors::Failure;
use crate::postgres::queue;
use crate::postgres::relation;
use crate::postgres::tables::Table;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::cell::Cell;

thread_local! {
    /// The level of the subtransaction in which rows were recorded as gone that the command under way has not removed
    /// yet.
    static AHEAD_AT: Cell<Option<i32>> = const { Cell::new(None) };
}

/// Rows are recorded as gone that the command under way has not removed yet.
pub fn note_ahead() {
    AHEAD_AT.set(AHEAD_AT.get().or(Some(errorless::nest_level())));
}

/// Whether rows are recorded ahead, as [`command_ended`] takes it.
pub fn ahead() -> Option<i32> {
    AHEAD_AT.get()
}

/// A command has ended, before which it was so. Cannot fail.
pub fn command_ended(before: Option<i32>) {
    AHEAD_AT.set(before);
}

/// A subtransaction of this level has been rolled back, and the commands that had begun in it. Cannot fail.
pub fn after_rollback(level: i32) {
    AHEAD_AT.set(AHEAD_AT.get().filter(|at| *at < level));
}

/// Inserts what triggers have recorded so far, for snapshots that are taken from now on; returns whether there was
/// anything. What waits outside of a block with an EXCEPTION clause cannot be inserted within it.
pub fn insert_recorded() -> bool {
    if queue::is_empty() || ahead().is_some() {
        return false;
    }
    queue::flush();
    // SAFETY: inside a transaction that has written, and so not in a parallel one.
    unsafe { pg_sys::CommandCounterIncrement() };
    true
}

/// To be asked before a problem is reported of a table. Fails if a change of it, or of one of its partitions, may not
/// be recorded yet.
pub fn require_none(target: pg_sys::Oid) -> Result<(), Failure> {
    let table = Table::open_oid(target, pg_sys::AccessShareLock);
    // SAFETY: looks through the events of this process.
    let is_pending = |oid: &pg_sys::Oid| unsafe { pg_sys::AfterTriggerPendingOnRel(*oid) };
    if queue::is_empty() && ahead().is_none() && !relation::tree(&table, pg_sys::AccessShareLock).iter().any(is_pending)
    {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        format!("cannot verify table {} because it has pending trigger events", table.qualified_name()),
    )
    .detail("It differs from what is recorded, but what a statement changes may be recorded only when the statement ends.")
    .hint("Verify after the statement: what differs then was changed past the triggers. In a RETURNING clause, or in a trigger of the same table, it may be too early."))
}
