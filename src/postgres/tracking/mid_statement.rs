//! Verification in the midst of a statement that changes the table. What the statement changes is recorded by its triggers
//! when all rows are changed, and inserted into the ledger when it ends. Until then its rows look as if they had been
//! changed without a record, which is no reason to raise the alarm. Rows that go with a partition, or by TRUNCATE, are
//! recorded before they go.

use crate::postgres::errors::Failure;
use crate::postgres::queue;
use crate::postgres::relation;
use crate::postgres::tables::Table;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::cell::Cell;

thread_local! {
    static IS_AHEAD: Cell<bool> = const { Cell::new(false) };
}

/// Rows have been recorded as gone that the command under way has not removed yet.
pub fn note_ahead() {
    IS_AHEAD.set(true);
}

/// Whether that is so.
pub fn is_ahead() -> bool {
    IS_AHEAD.get()
}

/// A command has ended; its outer one was at that. Cannot fail.
pub fn command_ended(was_ahead: bool) {
    IS_AHEAD.set(was_ahead);
}

/// Inserts what triggers have recorded so far, for snapshots that are taken from now on; returns whether there was anything.
/// What waits outside of a block with an EXCEPTION clause cannot be inserted within it.
pub fn insert_recorded() -> bool {
    if queue::is_empty() || is_ahead() {
        return false;
    }
    queue::flush();
    // SAFETY: inside a transaction that has written, and so not in a parallel one.
    unsafe { pg_sys::CommandCounterIncrement() };
    true
}

/// To be asked before a problem is reported of a table. Fails if a change of it, or of one of its partitions, may not be
/// recorded yet.
pub fn require_none(target: pg_sys::Oid) -> Result<(), Failure> {
    let table = Table::open_oid(target, pg_sys::AccessShareLock);
    // SAFETY: looks through the events of this process.
    let is_pending = |oid: &pg_sys::Oid| unsafe { pg_sys::AfterTriggerPendingOnRel(*oid) };
    if queue::is_empty() && !is_ahead() && !relation::tree(&table, pg_sys::AccessShareLock).iter().any(is_pending) {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        format!("cannot verify table {} because it has pending trigger events", relation::qualified_name(&table)),
    )
    .detail("It differs from what is recorded, but what a statement changes may be recorded only when the statement ends.")
    .hint("Verify after the statement: what differs then was changed past the triggers. In a RETURNING clause, or in a trigger of the same table, it may be too early."))
}
