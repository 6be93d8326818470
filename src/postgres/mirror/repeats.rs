//! Whether an id may stand in the file already, in the line of a transaction that has aborted. Then it must not be appended
//! again before that line is voided.
//!
//! An application may use an id again that it has used in a transaction that failed. An id that the ledger gives is new, and cannot
//! stand in a line from before. Another session may have come by it since, but has given it then, as any id that is not its own.
//! So transactions that have given ids are counted as they abort or are prepared: while none has, an id stays new. What they use is
//! known as they begin to append: an id that is made later they do not have.

use crate::postgres::shared::DatabaseSlot;
use std::sync::atomic::Ordering;

/// Of which aborted transactions the lines may hold an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repeats {
    /// Of any: the id is one that the application gives.
    Any,
    /// Of those that are counted after so many: as they begin to append, and as they leave lines.
    After { givers: u64, left: u64 },
    /// Of none: nobody but this transaction has seen the id.
    None,
}

impl Repeats {
    /// For an id that is made after this.
    pub fn after(slot: &DatabaseSlot) -> Repeats {
        Repeats::After { givers: slot.mirror.owners.all_givers(), left: left_ids(slot) }
    }

    /// Whether there may be such a line by now, or one of a transaction that is about to say so.
    pub fn may_be(self, slot: &DatabaseSlot) -> bool {
        let owners = &slot.mirror.owners;
        let may_come = match self {
            Repeats::After { givers, .. } => owners.all_givers() != givers && owners.has_givers(),
            Repeats::Any | Repeats::None => false,
        };
        // In this order: what it leaves is counted before it is no owner any more.
        may_come || self.may_be_left(slot)
    }

    /// Whether transactions that have said so may have left such a line.
    pub fn may_be_left(self, slot: &DatabaseSlot) -> bool {
        match self {
            Repeats::Any => true,
            Repeats::After { left, .. } => left_ids(slot) != left,
            Repeats::None => false,
        }
    }

    /// A transaction with such ids has aborted, or is prepared. Cannot fail.
    pub fn leave(self, slot: &DatabaseSlot) {
        if self == Repeats::Any {
            slot.mirror.left_ids.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn left_ids(slot: &DatabaseSlot) -> u64 {
    slot.mirror.left_ids.load(Ordering::SeqCst)
}
