//! Entries that triggers have recorded and that are not in `entries_pending` yet: those of one statement are inserted together.
//!
//! They get there when their statement ends, and so do not show to other triggers of it; at the latest before the transaction commits. An
//! entry belongs to the subtransaction that recorded it, so it is inserted while that is the current one, is handed to the
//! parent with it, or forgotten.

use super::errorless;
use super::recorded::{self, Recorded};
use pgrx::{pg_guard, pg_sys};
use std::cell::RefCell;

/// So many are inserted together. The memory of more would be given back to the system after each batch, and be asked for and
/// zeroed again.
const BATCH: usize = 128;

struct Waiting {
    /// Nesting level of its subtransaction.
    level: i32,
    entry: Recorded,
}

thread_local! {
    /// Levels never descend.
    static WAITING: RefCell<Vec<Waiting>> = const { RefCell::new(Vec::new()) };
}

/// Adds an entry; inserts those that wait when they are [`BATCH`].
pub fn add(entry: Recorded) {
    let level = errorless::nest_level();
    let count = WAITING.with_borrow_mut(|waiting| {
        waiting.push(Waiting { level, entry });
        waiting.len()
    });
    if count >= BATCH {
        flush();
    }
}

/// Inserts what waits and is of the current subtransaction.
pub fn flush() {
    let level = errorless::nest_level();
    // Taken out first: an error unwinds through here, and leaves them to the rollback.
    let own = WAITING.with_borrow_mut(|waiting| {
        let first = waiting.partition_point(|waiting| waiting.level < level);
        waiting.split_off(first)
    });
    recorded::insert_all(own.iter().map(|waiting| &waiting.entry));
}

/// For hooks, where nothing may unwind but by Postgres' own means.
#[pg_guard]
pub extern "C-unwind" fn flush_guarded() {
    flush();
}

pub fn is_empty() -> bool {
    WAITING.with_borrow(Vec::is_empty)
}

/// Before the transaction commits, when no statement is under way.
pub fn flush_before_commit() {
    if is_empty() {
        return;
    }
    // SAFETY: inside a transaction; popped below, or with everything else at the rollback.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    flush();
    // SAFETY: pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
}

/// Cannot fail.
pub fn subtransaction_aborted(level: i32) {
    WAITING.with_borrow_mut(|waiting| waiting.truncate(waiting.partition_point(|waiting| waiting.level < level)));
}

/// Cannot fail.
pub fn subtransaction_committed(level: i32) {
    WAITING.with_borrow_mut(|waiting| {
        waiting.iter_mut().for_each(|waiting| waiting.level = waiting.level.min(level - 1));
    });
}

/// The transaction has ended. Cannot fail.
pub fn clear() {
    WAITING.with_borrow_mut(Vec::clear);
}
