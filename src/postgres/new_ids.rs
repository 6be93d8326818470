//! Ids that the ledger makes for the rows that come by INSERT or COPY, as the default of column `id`. Such an id is
//! new, and neither the file nor the sealed entries need be searched for it, as long as nobody else can have used it.
//!
//! BEFORE INSERT runs right after the default was evaluated, and finds out whether the id is the one that was just
//! made. AFTER INSERT runs when the statement has ended, and gets the rows in the same order. It has to tell those rows
//! from rows that BEFORE INSERT has not seen, or not with this id: see
//! [`entries::queue_row`](super::entries::queue_row). So the ids are remembered in between.

use super::database;
use super::database_slot::DatabaseSlot;
use super::ids;
use super::memory::at_end_of_transaction;
use super::mirror::id_reuse::IdReuse;
use super::transaction;
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use uuid::Uuid;

/// How many ids are remembered at once: 16 MB. Those of further rows of the statement are searched for.
const MOST: usize = 1 << 20;

thread_local! {
    /// The last id that was made here, for which database, and who else may have used it by now.
    static LAST: Cell<Option<(Uuid, &'static DatabaseSlot, IdReuse)>> = const { Cell::new(None) };
    /// Ids that were new in BEFORE INSERT, of rows of this transaction that AFTER INSERT has not seen yet. They ascend,
    /// as those that one process makes do.
    static ANNOUNCED: RefCell<VecDeque<Uuid>> = const { RefCell::new(VecDeque::new()) };
}

/// A new time-ordered id; the default of column `id`.
#[pg_extern(volatile, parallel_safe)]
fn uuid_v7() -> pgrx::Uuid {
    ids::to_sql(make())
}

fn make() -> Uuid {
    // First read who has used ids so far: they cannot have used one that is made afterwards. A standby does not learn
    // who uses ids on the primary.
    let slot = database::slot().ok().filter(|_| !database::is_in_recovery());
    let so_far = slot.map(|(_, slot)| (slot, IdReuse::after(slot)));
    let id = ids::time_ordered();
    LAST.set(so_far.map(|(slot, reuse)| (id, slot, reuse)));
    id
}

/// Notes the id of a row that is about to be inserted. If the application has asked for the id itself, others may have
/// seen it, but the id counts as new only once.
pub fn announce(id: Uuid) {
    let slot = database::slot().ok().map(|(_, slot)| slot);
    let is_last =
        |(last, of, _): &(Uuid, &DatabaseSlot, _)| *last == id && slot.is_some_and(|own| std::ptr::eq(own, *of));
    let Some((_, _, reuse)) = LAST.take().filter(is_last) else {
        transaction::note_id(IdReuse::Any);
        return;
    };
    transaction::note_id(reuse);
    ANNOUNCED.with_borrow_mut(|announced| {
        if announced.len() < MOST {
            announced.push_back(id);
        }
    });
}

/// Whether no entry can be sealed that has the id of this row, which was just inserted. An id that was not announced
/// counts as given by the application.
pub fn is_unused(id: Uuid) -> bool {
    if !take_announced(id) {
        transaction::note_id(IdReuse::Any);
        return false;
    }
    // This transaction may also have sealed its own entry.
    !transaction::has_sealed() && database::slot().is_ok_and(|(_, slot)| transaction::repeats().is_unused(slot))
}

/// Takes the id out of those that were announced, together with older ones: their rows were not inserted after all, or
/// come too late to profit.
fn take_announced(id: Uuid) -> bool {
    ANNOUNCED.with_borrow_mut(|announced| {
        while announced.front().is_some_and(|first| *first < id) {
            announced.pop_front();
        }
        announced.pop_front_if(|first| *first == id).is_some()
    })
}

/// Forgets what was announced, as the transaction has ended. Cannot fail.
pub fn forget() {
    at_end_of_transaction(&ANNOUNCED, |announced| *announced = VecDeque::new());
}
