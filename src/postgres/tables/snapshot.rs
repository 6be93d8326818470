//! A registered snapshot, which stays valid for as long as this value.

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
