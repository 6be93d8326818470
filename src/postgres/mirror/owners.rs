//! Which running transactions have lines in the file, or on their way there. A row of any other is younger than each line that
//! the file has of its entry: that line is of a transaction that has aborted, and whose id is used again.
//!
//! Postgres lets others use the ids of a transaction that aborts before it tells us that it has: see [`super::repeats`]. So it
//! stays an owner until it has said which lines it leaves.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// More at the same time are counted and not named. Then the row of any running transaction may own a line.
const PLACES: usize = 512;

/// Their top-level transactions' numbers, in no order; 0 is a free place.
#[repr(C)]
pub struct Owners {
    places: [AtomicU32; PLACES],
    others: AtomicU32,
    /// How many of all of them use ids that the application gave, and how many such there have ever been.
    givers: AtomicU32,
    all_givers: AtomicU64,
}

/// A place among them.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    at: Option<usize>,
    xid: u32,
    gives_ids: bool,
}

impl Owners {
    pub fn enter(&self, xid: u32, gives_ids: bool) -> Place {
        if gives_ids {
            self.all_givers.fetch_add(1, Ordering::SeqCst);
            self.givers.fetch_add(1, Ordering::SeqCst);
        }
        // Neighbours in time look for a place in different parts.
        let start = xid as usize;
        let free = (0..PLACES)
            .map(|at| (start + at) % PLACES)
            .find(|at| self.places[*at].compare_exchange(0, xid, Ordering::SeqCst, Ordering::SeqCst).is_ok());
        if free.is_none() {
            self.others.fetch_add(1, Ordering::SeqCst);
        }
        Place { at: free, xid, gives_ids }
    }

    pub fn leave(&self, place: Place) {
        match place.at {
            // Where all were cleared meanwhile, it may be somebody else's.
            Some(at) => {
                self.places[at].compare_exchange(place.xid, 0, Ordering::SeqCst, Ordering::SeqCst).ok();
            }
            None => one_less(&self.others),
        }
        if place.gives_ids {
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

    /// Whether it may be one of them.
    pub fn may_have(&self, xid: u32) -> bool {
        self.has_unnamed() || self.named().any(|named| named == xid)
    }

    /// Those that are named.
    pub fn named(&self) -> impl Iterator<Item = u32> + '_ {
        self.places.iter().map(|place| place.load(Ordering::SeqCst)).filter(|xid| *xid != 0)
    }

    /// Whether there are others.
    pub fn has_unnamed(&self) -> bool {
        self.others.load(Ordering::SeqCst) > 0
    }

    /// Whether some of them use ids that the application gave.
    pub fn has_givers(&self) -> bool {
        self.givers.load(Ordering::SeqCst) > 0
    }

    /// How many such there have been so far. What they use is known by the time they are counted.
    pub fn all_givers(&self) -> u64 {
        self.all_givers.load(Ordering::SeqCst)
    }
}

/// Where all were cleared meanwhile, there is none to be taken off.
fn one_less(count: &AtomicU32) {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| Some(count.saturating_sub(1))).ok();
}
