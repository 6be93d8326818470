//! Finds the newest pending entry about each item.
//!
//! To find it, all that is pending has to be read. A verification reads it once, however many items it verifies. But
//! each item is signed by a function call of its own, and what its transaction has recorded cannot be sealed before
//! that ends: to read it all in each call would take n² for n items. So the result is kept until the transaction ends.
//! It is used in calls between which no other transaction has ended: then only this one can have recorded anything, and
//! that is noted.

use crate::ledger::record::Timestamp;
use crate::ledger::row_change;
use crate::postgres::memory::at_end_of_transaction;
use crate::postgres::tables::{self, entry_column, Row};
use crate::postgres::tracking::versions;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use uuid::Uuid;

/// Of two entries about an item, the later one is greater.
type At = (Timestamp, Uuid);

/// The newest pending entry about each item, by the item's id.
#[derive(Default)]
pub struct Newest(HashMap<Uuid, At>);

impl Newest {
    /// Reads all that is pending.
    ///
    /// # Safety
    /// The snapshot is registered or active.
    pub unsafe fn read(snapshot: pg_sys::Snapshot) -> Newest {
        let mut newest = Newest::default();
        versions::each_pending(snapshot, is_about_an_item, read_row, |(row_id, at)| newest.note(row_id, at));
        newest
    }

    pub fn about(&self, row_id: Uuid) -> Option<Uuid> {
        self.0.get(&row_id).map(|(_, entry_id)| *entry_id)
    }

    fn note(&mut self, row_id: Uuid, at: At) {
        let newest = self.0.entry(row_id).or_insert(at);
        *newest = at.max(*newest);
    }
}

pub fn is_about_an_item(row: &Row) -> bool {
    row.text(entry_column::ENTRY_TYPE).is_some_and(|entry_type| row_change::ITEM_ENTRY_TYPES.contains(&entry_type))
}

fn read_row(row: &Row) -> Option<(Uuid, At)> {
    let entry_type = row.text(entry_column::ENTRY_TYPE)?;
    let quick = tables::detoasted_metadata(row).and_then(|metadata| metadata.row_ids(entry_type));
    let [row_id, _] = quick.unwrap_or_else(|| row_change::row_ids(entry_type, &tables::entry_from_row(row).metadata));
    let created_at = row.timestamp(entry_column::CREATED_AT).unwrap_or_default();
    Some((row_id?, (created_at, row.uuid(entry_column::ID)?)))
}

/// What a snapshot sees, except for the changes of its own transaction: two with the same number see the same. The
/// number counts transactions that have ended, and subtransactions that were rolled back. Postgres itself goes by it
/// when it uses a snapshot again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsOf(u64);

impl AsOf {
    /// # Safety
    /// The snapshot is valid. It is no copy: a copy does not have the number.
    pub unsafe fn snapshot(snapshot: pg_sys::Snapshot) -> Option<AsOf> {
        let ended = (*snapshot).snapXactCompletionCount;
        (ended != 0).then_some(AsOf(ended))
    }
}

thread_local! {
    static KEPT: RefCell<Option<(AsOf, Newest)>> = const { RefCell::new(None) };
}

/// The newest pending entry about the item. Uses what was kept, if that is as of the same time.
///
/// # Safety
/// The snapshot is registered or active.
pub unsafe fn find_kept(row_id: Uuid, snapshot: pg_sys::Snapshot, as_of: AsOf) -> Option<Uuid> {
    let is_kept = KEPT.with_borrow(|kept| kept.as_ref().is_some_and(|(kept, _)| *kept == as_of));
    if !is_kept {
        KEPT.set(Some((as_of, Newest::read(snapshot))));
    }
    KEPT.with_borrow(|kept| kept.as_ref()?.1.about(row_id))
}

/// Notes that this transaction has recorded an entry about the item.
pub fn note(row_id: Uuid, created_at: Timestamp, entry_id: Uuid) {
    KEPT.with_borrow_mut(|kept| {
        if let Some((_, newest)) = kept {
            newest.note(row_id, (created_at, entry_id));
        }
    });
}

/// The transaction has ended. Cannot fail.
pub fn forget() {
    at_end_of_transaction(&KEPT, |kept| *kept = None);
}
