//! How much of the time goes to sealing. The worker shares the machine with the writers whose entries it seals: each of its
//! passes has a fixed cost, so a few large ones take less of the machine than many small ones.

use crate::postgres::shared::DatabaseSlot;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Work is followed by a rest this many times as long, as long as somebody writes: a tenth of the time, at most, goes to it.
const REST: u32 = 9;
/// A full block does not wait longer for its turn, however long the work before took.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Work that is done again and again while others write.
pub struct Pace {
    /// How many transactions had begun to commit entries when the work began.
    begun: i64,
    since: Instant,
    rest_until: Option<Instant>,
}

impl Pace {
    pub fn new() -> Pace {
        Pace { begun: 0, since: Instant::now(), rest_until: None }
    }

    pub fn begin(&mut self, slot: &DatabaseSlot) {
        self.begun = slot.begun.load(Ordering::Acquire);
        self.since = Instant::now();
    }

    /// Rests, if somebody has written meanwhile; returns whether it does.
    pub fn end(&mut self, slot: &DatabaseSlot) -> bool {
        let is_shared = slot.begun.load(Ordering::Acquire) != self.begun;
        let rest = (self.since.elapsed() * REST).min(LONGEST_REST);
        self.rest_until = is_shared.then(|| Instant::now() + rest);
        is_shared
    }

    /// How long there is to rest.
    pub fn rest(&self) -> Option<Duration> {
        self.rest_until?.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero())
    }
}
