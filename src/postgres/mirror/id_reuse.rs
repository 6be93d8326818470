//! Whether another transaction may already have used an id. If that has aborted, the file may hold the id in its line,
//! and the id must not be appended again before that line is voided. If it has committed, its entry may be sealed.
//!
//! An application may reuse an id from a transaction that failed. An id that the ledger makes is new, so no earlier
//! line holds it. Another session may learn such an id, but then gives it like any id that is not the ledger's. So
//! transactions that have given ids are counted when they begin to commit, whatever the mode of the mirror, and when
//! they abort or are prepared: while none has, a new id stays new. The ids of a transaction are fixed when it begins to
//! commit, so it cannot have one that is made later.

use crate::postgres::database_slot::DatabaseSlot;
use std::sync::atomic::Ordering;

/// Which other transactions may have used an id: aborted ones have left lines that hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdReuse {
    /// Any: the application gave the id.
    Any,
    /// Those that these counters do not include yet: of transactions with given ids that begin to commit, and that
    /// leave lines.
    After { givers: u64, left: u64 },
    /// None: no other transaction has seen the id.
    None,
}

impl IdReuse {
    /// For an id that is made after this call.
    pub fn after(slot: &DatabaseSlot) -> IdReuse {
        IdReuse::After { givers: slot.mirror.owners.all_givers(), left: left_ids(slot) }
    }

    /// Whether there may be such a line by now, or a transaction that is about to leave one.
    pub fn may_be(self, slot: &DatabaseSlot) -> bool {
        let owners = &slot.mirror.owners;
        let may_come = match self {
            IdReuse::After { givers, .. } => owners.all_givers() != givers && owners.has_givers(),
            IdReuse::Any | IdReuse::None => false,
        };
        // In this order: a transaction counts what it leaves before it ceases to be an owner.
        may_come || self.may_be_left(slot)
    }

    /// Whether transactions that are already counted may have left such a line.
    pub fn may_be_left(self, slot: &DatabaseSlot) -> bool {
        match self {
            IdReuse::Any => true,
            IdReuse::After { left, .. } => left_ids(slot) != left,
            IdReuse::None => false,
        }
    }

    /// Whether no other transaction can have committed an entry with the id. One that commits it later waits for the
    /// caller's, which has inserted it.
    pub fn is_unused(self, slot: &DatabaseSlot) -> bool {
        matches!(self, IdReuse::After { givers, .. } if slot.mirror.owners.all_givers() == givers)
    }

    /// Counts a transaction with given ids that begins to commit. It must be counted before others can see its entries.
    pub fn give(self, slot: &DatabaseSlot) {
        if self == IdReuse::Any {
            slot.mirror.owners.note_giver();
        }
    }

    /// Counts a transaction with given ids that has aborted or is prepared. Cannot fail.
    pub fn leave(self, slot: &DatabaseSlot) {
        if self == IdReuse::Any {
            slot.mirror.left_ids.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn left_ids(slot: &DatabaseSlot) -> u64 {
    slot.mirror.left_ids.load(Ordering::SeqCst)
}
