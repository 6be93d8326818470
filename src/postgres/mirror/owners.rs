//! Which running transactions have lines in the file, or on their way there. A row of any other is younger than each line that
//! the file has of its entry: that line is of a transaction that has aborted, and whose id is used again.

use std::sync::atomic::{AtomicU32, Ordering};

/// More at the same time are counted and not named. Then the row of any running transaction may own a line.
const PLACES: usize = 256;

/// Their top-level transactions' numbers, in no order; 0 is a free place.
#[repr(C)]
pub struct Owners {
    places: [AtomicU32; PLACES],
    others: AtomicU32,
}

/// A place among them.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    at: Option<usize>,
    xid: u32,
}

impl Owners {
    pub fn enter(&self, xid: u32) -> Place {
        // Neighbours in time look for a place in different parts.
        let start = xid as usize;
        let free = (0..PLACES)
            .map(|at| (start + at) % PLACES)
            .find(|at| self.places[*at].compare_exchange(0, xid, Ordering::SeqCst, Ordering::SeqCst).is_ok());
        if free.is_none() {
            self.others.fetch_add(1, Ordering::SeqCst);
        }
        Place { at: free, xid }
    }

    pub fn leave(&self, place: Place) {
        match place.at {
            // Where all were cleared meanwhile, it may be somebody else's.
            Some(at) => {
                self.places[at].compare_exchange(place.xid, 0, Ordering::SeqCst, Ordering::SeqCst).ok();
            }
            None => {
                let one_less = |count: u32| Some(count.saturating_sub(1));
                self.others.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).ok();
            }
        }
    }

    pub fn clear(&self) {
        self.places.iter().for_each(|place| place.store(0, Ordering::SeqCst));
        self.others.store(0, Ordering::SeqCst);
    }

    pub fn is_empty(&self) -> bool {
        self.others.load(Ordering::SeqCst) == 0 && self.places.iter().all(|place| place.load(Ordering::SeqCst) == 0)
    }

    /// Whether it may be one of them.
    pub fn may_have(&self, xid: u32) -> bool {
        self.others.load(Ordering::SeqCst) > 0 || self.places.iter().any(|place| place.load(Ordering::SeqCst) == xid)
    }
}
