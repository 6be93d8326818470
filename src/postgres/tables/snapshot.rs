//! A registered snapshot, which stays valid for as long as this value, and what a snapshot sees.

use crate::postgres::errors::is_unwinding;
use pgrx::pg_sys;

/// Unregistered when dropped.
pub struct RegisteredSnapshot(pg_sys::Snapshot);

impl RegisteredSnapshot {
    /// What is committed now and what this transaction has done, whatever its isolation level: the chain continues from
    /// its newest block, not from the newest that the transaction's own snapshot sees.
    pub fn latest() -> Self {
        // SAFETY: inside a transaction.
        RegisteredSnapshot(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()) })
    }

    /// What the running query sees.
    pub fn of_query() -> Self {
        // SAFETY: a query is running, so there is an active snapshot.
        RegisteredSnapshot(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetActiveSnapshot()) })
    }

    /// Runs `work` with this as the active snapshot. After an ERROR the end of the transaction takes it off the stack.
    pub fn while_active<T>(&self, work: impl FnOnce() -> T) -> T {
        // SAFETY: the snapshot is registered. It is popped below, or at the end of the transaction after an ERROR.
        unsafe { pg_sys::PushActiveSnapshot(self.0) };
        let done = work();
        // SAFETY: the snapshot that was pushed above is on top: `work` pops what it pushes.
        unsafe { pg_sys::PopActiveSnapshot() };
        done
    }

    pub fn as_ptr(&self) -> pg_sys::Snapshot {
        self.0
    }
}

impl Drop for RegisteredSnapshot {
    fn drop(&mut self) {
        // The current resource owner may be another one than the snapshot was registered with, and to take it from that
        // one would raise a second ERROR. The end of the transaction or subtransaction releases it.
        if is_unwinding() {
            return;
        }
        // SAFETY: registered when this value was made, with the resource owner that is current here: a value is dropped
        // by the call that made it, and what runs meanwhile puts back the owner that it found.
        unsafe { pg_sys::UnregisterSnapshot(self.0) }
    }
}

/// A snapshot that also sees the rows of running and prepared transactions. It is not registered.
pub fn dirty_snapshot() -> pg_sys::SnapshotData {
    // It needs only its type.
    pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() }
}

/// All that decides which rows a snapshot sees. Snapshots of queries are copies, which have no other identity: each
/// query of a transaction has its own, and most are equal.
///
/// Snapshots of equal content see the same until this session's transaction ends or rolls back a subtransaction:
/// - What another transaction did, they see if it had ended when they were taken, and if it committed. The content says
///   the former; the latter does not change any more.
/// - What this transaction did, they see if the number of the command is less than theirs. The ledger writes with the
///   number that is current at the time, which no snapshot taken before exceeds. So nothing is added to what they see.
///   A rollback to a savepoint takes something away from it, and gives back no number of a command.
///
/// A row that one of them sees is not removed from the table before the other one looks, though no snapshot may be held
/// in between. To be removed, a transaction that deleted it has to end. If one ends that has a transaction number, what
/// is taken afterwards has another content: either that one was among the running ones, or it is not below `end`. And
/// if the other one was taken before, it has been held since. On a standby, replay ends transactions in the same way.
#[derive(Debug, PartialEq, Eq)]
pub struct SnapshotContent {
    begin: pg_sys::TransactionId,
    end: pg_sys::TransactionId,
    running: Vec<pg_sys::TransactionId>,
    running_subtransactions: Vec<pg_sys::TransactionId>,
    lacks_subtransactions: bool,
    is_of_recovery: bool,
    command: pg_sys::CommandId,
}

impl SnapshotContent {
    /// `None` of a snapshot that sees by other rules.
    pub fn of(snapshot: &RegisteredSnapshot) -> Option<SnapshotContent> {
        // SAFETY: it stays as it is while it is registered.
        let data = unsafe { &*snapshot.as_ptr() };
        (data.snapshot_type == pg_sys::SnapshotType::SNAPSHOT_MVCC).then(|| SnapshotContent {
            begin: data.xmin,
            end: data.xmax,
            // SAFETY: Postgres keeps so many numbers in each list, or, in a copy, none.
            running: unsafe { numbers(data.xip, data.xcnt as usize) },
            // SAFETY: as above.
            running_subtransactions: unsafe { numbers(data.subxip, data.subxcnt as usize) },
            lacks_subtransactions: data.suboverflowed,
            is_of_recovery: data.takenDuringRecovery,
            command: data.curcid,
        })
    }
}

/// # Safety
/// There are that many numbers, or the pointer is null: a copy leaves out those that do not count.
unsafe fn numbers(first: *const pg_sys::TransactionId, count: usize) -> Vec<pg_sys::TransactionId> {
    if first.is_null() {
        return Vec::new();
    }
    std::slice::from_raw_parts(first, count).to_vec()
}
