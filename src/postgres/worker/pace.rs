//! How much of its time the worker spends on sealing. It shares the machine with the sessions whose entries it seals.
//! Each pass has a fixed cost, so a few large passes use less of the machine than many small ones.

use crate::ledger::sealing_pace;
use crate::postgres::shared::DatabaseSlot;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Work that is repeated while sessions write.
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
    /// To be called once nothing is waited for any more: while the worker waits for a lock, it takes nothing from the
    /// sessions.
    pub fn begin(&mut self, slot: &DatabaseSlot) {
        self.work = Some(Work { begun: slot.begun.load(Ordering::Acquire), since: Instant::now() });
    }

    /// Begins to rest, if a session has written since the work began; returns whether it does. If no work was begun, no
    /// rest is needed.
    pub fn end(&mut self, slot: &DatabaseSlot) -> bool {
        let begun = slot.begun.load(Ordering::Acquire);
        let shared = self.work.take().filter(|work| work.begun != begun);
        let pending = slot.pending.load(Ordering::Acquire);
        self.rest_until = shared.map(|work| Instant::now() + sealing_pace::rest_after(work.since.elapsed(), pending));
        self.rest_until.is_some()
    }

    /// How long to rest from now.
    pub fn rest(&self) -> Option<Duration> {
        self.rest_until?.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero())
    }
}

/// Whether sealing comes before other work of the worker that makes more entries pending.
pub fn is_behind(slot: &DatabaseSlot) -> bool {
    sealing_pace::is_behind(slot.pending.load(Ordering::Acquire))
}
