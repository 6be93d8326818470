//! Which running transactions have lines in the file, or on their way there: the owners. A row that any other running
//! transaction inserted is younger than each line that the file has of its entry. Such a line belongs to an aborted
//! transaction whose id was reused.
//!
//! Postgres lets others use the ids of an aborting transaction before our abort callback runs: see [`super::aborting`].
//! So a transaction stays an owner until it has said which lines it leaves.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Further owners are counted, but not named. The row of any running transaction may own a line then.
const PLACES: usize = 512;

/// The top-level transaction ids of the owners, in no order; 0 marks a free place.
#[repr(C)]
pub struct Owners {
    places: [AtomicU32; PLACES],
    others: AtomicU32,
    /// How many of all owners use ids that the application gave.
    givers: AtomicU32,
    /// How many transactions with such ids have ever begun to commit, owners or not.
    all_givers: AtomicU64,
}

/// The place of one transaction among the owners.
#[derive(Debug, Clone, Copy)]
pub struct OwnerSlot {
    at: Option<usize>,
    xid: u32,
    gives_ids: bool,
}

impl Owners {
    /// Counts a transaction with ids that the application gave, before it enters. It cannot have any further ids.
    pub fn note_giver(&self) {
        self.all_givers.fetch_add(1, Ordering::SeqCst);
    }

    pub fn enter(&self, xid: u32, gives_ids: bool) -> OwnerSlot {
        if gives_ids {
            self.givers.fetch_add(1, Ordering::SeqCst);
        }
        // The search starts at the transaction's own number, so that concurrent transactions do not compete for one
        // place.
        let start = xid as usize;
        let free = (0..PLACES)
            .map(|at| (start + at) % PLACES)
            .find(|at| self.places[*at].compare_exchange(0, xid, Ordering::SeqCst, Ordering::SeqCst).is_ok());
        if free.is_none() {
            self.others.fetch_add(1, Ordering::SeqCst);
        }
        OwnerSlot { at: free, xid, gives_ids }
    }

    pub fn leave(&self, slot: OwnerSlot) {
        match slot.at {
            // If all places were cleared meanwhile, another transaction may have this one.
            Some(at) => {
                self.places[at].compare_exchange(slot.xid, 0, Ordering::SeqCst, Ordering::SeqCst).ok();
            }
            None => one_less(&self.others),
        }
        if slot.gives_ids {
            one_less(&self.givers);
        }
    }

    pub fn clear(&self) {
        self.places.iter().for_each(|place| place.store(0, Ordering::SeqCst));
        self.others.store(0, Ordering::SeqCst);
        self.givers.store(0, Ordering::SeqCst);
    }

    pub fn is_empty(&self) -> bool {
        !self.has_unnamed() && self.named().next().is_none()
    }

    /// Whether this transaction may be an owner.
    pub fn may_have(&self, xid: u32) -> bool {
        self.has_unnamed() || self.named().any(|named| named == xid)
    }

    /// The owners that have a place.
    pub fn named(&self) -> impl Iterator<Item = u32> + '_ {
        self.places.iter().map(|place| place.load(Ordering::SeqCst)).filter(|xid| *xid != 0)
    }

    /// Whether there are owners that are only counted.
    pub fn has_unnamed(&self) -> bool {
        self.others.load(Ordering::SeqCst) > 0
    }

    /// Whether some owners use ids that the application gave.
    pub fn has_givers(&self) -> bool {
        self.givers.load(Ordering::SeqCst) > 0
    }

    /// How many transactions with such ids have begun to commit so far. The ids of each are known by the time it is
    /// counted.
    pub fn all_givers(&self) -> u64 {
        self.all_givers.load(Ordering::SeqCst)
    }
}

/// Stays at zero if all counts were cleared meanwhile.
fn one_less(count: &AtomicU32) {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| Some(count.saturating_sub(1))).ok();
}
