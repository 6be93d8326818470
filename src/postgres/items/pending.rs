//! Finds the newest pending entry about each item.
//!
//! To find it, all that is pending has to be read. A verification reads it once, however many items it verifies. But
//! each item is signed by a function call of its own, and what its transaction has recorded cannot be sealed before
//! that ends: to read it all in each call would take n² for n items. So the result is kept until the transaction ends.
//!
//! What is kept must lack no entry that a later call can see, as that may be a revocation:
//!
//! - What this transaction records is noted.
//! - If another transaction may have committed entries since, all is read again. See [`AsOf`].
//! - A rollback to a savepoint makes pending again what was sealed after the savepoint. So what was read after it goes.
//!
//! It may have entries that are not pending any more: they were sealed, or this transaction has taken them back. If the
//! one that is looked up is not there, all is read again, because an older one may be pending.

use crate::ledger::record::Timestamp;
use crate::ledger::row_change;
use crate::postgres::database;
use crate::postgres::database_slot::{DatabaseSlot, PendingCount};
use crate::postgres::entries_pending;
use crate::postgres::errorless;
use crate::postgres::memory::at_end_of_transaction;
use crate::postgres::prepared_transactions::{self, is_running};
use crate::postgres::tables::{self, entry_column, RegisteredSnapshot, Row};
use crate::postgres::tracking::versions;
use crate::postgres::transaction;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use uuid::Uuid;

/// Of two entries about an item, the later one is greater.
type At = (Timestamp, Uuid);

/// The newest pending entry about each item, by the item's id.
struct Newest {
    entries: HashMap<Uuid, At>,
    /// `None` if it is not to be kept.
    as_of: Option<AsOf>,
    /// The level of the subtransaction that has read it, or of the one to which that has passed its part.
    level: i32,
}

impl Newest {
    /// Reads all that is pending. The snapshot was taken after `as_of`.
    fn read(snapshot: &RegisteredSnapshot, as_of: Option<AsOf>) -> Newest {
        let as_of = as_of.map(|as_of| as_of.seen_by(snapshot));
        let mut newest = Newest { entries: HashMap::new(), as_of, level: errorless::nest_level() };
        versions::each_pending(snapshot, is_about_an_item, read_row, |(row_id, at)| newest.note(row_id, at));
        newest
    }

    fn about(&self, row_id: Uuid) -> Option<Uuid> {
        self.entries.get(&row_id).map(|(_, entry_id)| *entry_id)
    }

    fn note(&mut self, row_id: Uuid, at: At) {
        let newest = self.entries.entry(row_id).or_insert(at);
        *newest = at.max(*newest);
    }

    fn holds_for(&self, snapshot: &RegisteredSnapshot) -> bool {
        self.as_of.as_ref().is_some_and(|as_of| as_of.holds_for(snapshot))
    }
}

pub fn is_about_an_item(row: &Row) -> bool {
    row.text(entry_column::ENTRY_TYPE).is_some_and(|entry_type| row_change::ITEM_ENTRY_TYPES.contains(&entry_type))
}

fn read_row(row: &Row) -> Option<(Uuid, At)> {
    let [row_id, _] = tables::row_ids(row);
    let created_at = row.timestamp(entry_column::CREATED_AT).unwrap_or_default();
    Some((row_id?, (created_at, row.uuid(entry_column::ID)?)))
}

/// When a snapshot was taken, by the transactions that commit entries of this ledger.
///
/// A transaction notes that it begins before its entries can be seen, and that it has ended after that. So if all that
/// had begun before a snapshot had also ended before it, and none has begun when a later snapshot has been taken, then
/// both see the same entries of others. Prepared transactions are an exception: they count as ended once they are
/// prepared, and can be seen later without a note. So each must be prepared still, as the later snapshot sees it.
#[derive(Clone)]
pub struct AsOf {
    slot: &'static DatabaseSlot,
    count: PendingCount,
    prepared: Vec<pg_sys::TransactionId>,
}

impl AsOf {
    /// To be called before the snapshot is taken. `None` if nothing can be recorded.
    pub fn now() -> Option<AsOf> {
        let (_, slot) = database::slot().ok()?;
        // Locks the table, as recording does: transactions that rebuild the ledger note nothing, but wait for that
        // lock.
        drop(entries_pending::open());
        // In this order: a transaction that has ended by the first line because it was prepared is found by the second,
        // unless it has been decided, and then the snapshot sees that.
        let count = slot.count_pending();
        let prepared = prepared_transactions::of_database();
        Some(AsOf { slot, count, prepared })
    }

    /// Forgets prepared transactions that the snapshot sees as decided.
    fn seen_by(mut self, snapshot: &RegisteredSnapshot) -> AsOf {
        self.prepared.retain(|xid| is_running(*xid, snapshot));
        self
    }

    /// Whether this snapshot sees no entries of others that the earlier one did not see.
    fn holds_for(&self, snapshot: &RegisteredSnapshot) -> bool {
        self.slot.is_exact(self.count) && self.prepared.iter().all(|xid| is_running(*xid, snapshot))
    }
}

thread_local! {
    static KEPT: RefCell<Option<Newest>> = const { RefCell::new(None) };
}

/// The newest pending entries about items, for a snapshot. They are read when they are first asked for.
pub struct PendingItems<'a> {
    snapshot: &'a RegisteredSnapshot,
    /// When the snapshot was taken, if what is read is to be kept for the next call.
    as_of: Option<AsOf>,
    newest: RefCell<Option<Newest>>,
    /// An earlier call has kept `newest`.
    is_kept: Cell<bool>,
    /// How many entries this transaction had recorded.
    own_entries: i64,
}

impl<'a> PendingItems<'a> {
    /// The snapshot was taken after `as_of`.
    pub fn of_snapshot(snapshot: &'a RegisteredSnapshot, as_of: Option<AsOf>) -> PendingItems<'a> {
        let kept = as_of.as_ref().and_then(|_| KEPT.take()).filter(|kept| kept.holds_for(snapshot));
        PendingItems {
            snapshot,
            as_of,
            is_kept: Cell::new(kept.is_some()),
            newest: RefCell::new(kept),
            own_entries: transaction::entries(),
        }
    }

    /// The newest entry about the item. `look_up` finds an entry that is pending.
    pub fn find<T>(&self, row_id: Uuid, look_up: impl Fn(Uuid) -> Option<T>) -> Option<T> {
        let found = look_up(self.about(row_id)?);
        if found.is_some() || !self.is_kept.replace(false) {
            return found;
        }
        self.newest.take();
        look_up(self.about(row_id)?)
    }

    fn about(&self, row_id: Uuid) -> Option<Uuid> {
        let mut newest = self.newest.borrow_mut();
        newest.get_or_insert_with(|| Newest::read(self.snapshot, self.as_of.clone())).about(row_id)
    }
}

impl Drop for PendingItems<'_> {
    /// Keeps what was read. But not if this transaction has recorded meanwhile: that could not be noted.
    fn drop(&mut self) {
        if self.as_of.is_some() && transaction::entries() == self.own_entries {
            KEPT.set(self.newest.take());
        }
    }
}

/// Notes that this transaction has recorded an entry about the item.
pub fn note(row_id: Uuid, created_at: Timestamp, entry_id: Uuid) {
    KEPT.with_borrow_mut(|kept| {
        if let Some(newest) = kept {
            newest.note(row_id, (created_at, entry_id));
        }
    });
}

/// Hands what the subtransaction at this level has read to its parent. Cannot fail.
pub fn subtransaction_committed(level: i32) {
    at_end_of_transaction(&KEPT, |kept| {
        if let Some(newest) = kept {
            newest.level = newest.level.min(level - 1);
        }
    });
}

/// Forgets what the subtransaction at this level has read. Cannot fail.
pub fn subtransaction_aborted(level: i32) {
    at_end_of_transaction(&KEPT, |kept| *kept = kept.take().filter(|newest| newest.level < level));
}

/// The transaction has ended. Cannot fail.
pub fn forget() {
    at_end_of_transaction(&KEPT, |kept| *kept = None);
}
