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
#[derive(Default)]
pub struct Pace {
    work: Option<Work>,
    rest_until: Option<Instant>,
}

struct Work {
    /// How many transactions had begun to commit entries when it began.
    begun: i64,
    since: Instant,
}

impl Pace {
    /// Called as soon as nothing else is waited for: who waits for a lock takes nothing from who writes.
    pub fn begin(&mut self, slot: &DatabaseSlot) {
        self.work = Some(Work { begun: slot.begun.load(Ordering::Acquire), since: Instant::now() });
    }

    /// Rests, if somebody has written since the work began; returns whether it does. Work that has not begun needs no rest.
    pub fn end(&mut self, slot: &DatabaseSlot) -> bool {
        let begun = slot.begun.load(Ordering::Acquire);
        let shared = self.work.take().filter(|work| work.begun != begun);
        self.rest_until = shared.map(|work| Instant::now() + (work.since.elapsed() * REST).min(LONGEST_REST));
        self.rest_until.is_some()
    }

    /// How long there is to rest.
    pub fn rest(&self) -> Option<Duration> {
        self.rest_until?.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero())
    }
}
