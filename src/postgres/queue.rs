//! Entries that triggers have recorded, and that are not in `entries_pending` yet: those of one statement are inserted
//! together.
//!
//! They are inserted when their statement ends, so other triggers of that statement do not see them; at the latest
//! before the transaction commits. An entry belongs to the subtransaction that recorded it. So it is inserted while
//! that one is current, handed to the parent when that one commits, or forgotten when it aborts.

use super::errorless;
use super::memory::at_end_of_transaction;
use super::queued_entry::{self, QueuedEntry};
use pgrx::{pg_guard, pg_sys};
use std::cell::RefCell;

/// How many entries to insert together. The memory of more would go back to the system after each batch, and be
/// requested and zeroed again.
const BATCH: usize = 128;

/// An entry with longer metadata does not wait: a batch of images of large rows would take gigabytes. That of others is
/// at most 8 MB.
const LARGE: usize = 64 << 10;

struct Waiting {
    /// Nesting level of its subtransaction.
    level: i32,
    entry: QueuedEntry,
}

thread_local! {
    /// Levels never descend.
    static WAITING: RefCell<Vec<Waiting>> = const { RefCell::new(Vec::new()) };
}

/// Adds an entry. If it is large, or [`BATCH`] entries wait, inserts them.
pub fn add(entry: QueuedEntry) {
    let level = errorless::nest_level();
    let is_large = entry.metadata.length() > LARGE;
    let count = WAITING.with_borrow_mut(|waiting| {
        waiting.push(Waiting { level, entry });
        waiting.len()
    });
    if is_large || count >= BATCH {
        flush();
    }
}

/// Inserts the entries of the current subtransaction that wait.
pub fn flush() {
    let level = errorless::nest_level();
    // Taken out first: if an error unwinds through here, they are dropped, and the rollback removes what was inserted.
    let own = WAITING.with_borrow_mut(|waiting| {
        let first = waiting.partition_point(|waiting| waiting.level < level);
        waiting.split_off(first)
    });
    queued_entry::insert_all(own.iter().map(|waiting| &waiting.entry));
}

/// For hooks, in which an error must leave by Postgres' own means.
#[pg_guard]
pub extern "C-unwind" fn flush_guarded() {
    flush();
}

pub fn is_empty() -> bool {
    WAITING.with_borrow(Vec::is_empty)
}

/// Inserts what is left before the transaction commits, when no statement is under way.
pub fn flush_before_commit() {
    if is_empty() {
        return;
    }
    // SAFETY: inside a transaction. The snapshot is popped below, or at the rollback with everything else.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    flush();
    // SAFETY: pops the snapshot that was pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
}

/// Forgets the entries of the subtransaction at this level. Cannot fail.
pub fn subtransaction_aborted(level: i32) {
    at_end_of_transaction(&WAITING, |waiting| {
        waiting.truncate(waiting.partition_point(|waiting| waiting.level < level));
    });
}

/// Hands the entries of the subtransaction at this level to its parent. Cannot fail.
pub fn subtransaction_committed(level: i32) {
    at_end_of_transaction(&WAITING, |waiting| {
        waiting.iter_mut().for_each(|waiting| waiting.level = waiting.level.min(level - 1));
    });
}

/// Forgets all entries, as the transaction has ended. Cannot fail.
pub fn forget() {
    at_end_of_transaction(&WAITING, Vec::clear);
}
