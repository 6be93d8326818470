//! How much of its time the worker spends on sealing. It shares the machine with the sessions whose entries it seals.
//! Each pass has a fixed cost, so a few large passes use less of the machine than many small ones.

use crate::ledger::sealing_pace;
use crate::postgres::database_slot::DatabaseSlot;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Work that is repeated while sessions write.
#[derive(Default)]
pub struct Pace {
    work: Option<Work>,
    rest_until: Option<Instant>,
    /// There was work to do during the rest.
    has_put_off: bool,
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
        let rest = shared.map(|work| sealing_pace::rest_after(work.since.elapsed(), pending));
        self.rest_until = rest.filter(|rest| !rest.is_zero()).map(|rest| Instant::now() + rest);
        self.rest_until.is_some()
    }

    /// Puts work off while it rests; returns whether it does.
    pub fn put_off_if_resting(&mut self) -> bool {
        self.has_put_off = self.rest().is_some();
        self.has_put_off
    }

    /// How long until work can go on. Zero if work was put off and the rest has ended since: no process wakes the
    /// worker for it.
    pub fn until_rested(&self) -> Option<Duration> {
        self.rest().or_else(|| self.has_put_off.then_some(Duration::ZERO))
    }

    fn rest(&self) -> Option<Duration> {
        self.rest_until?.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero())
    }
}

/// Whether sealing comes before other work of the worker that makes more entries pending.
pub fn has_fallen_behind(slot: &DatabaseSlot) -> bool {
    sealing_pace::has_fallen_behind(slot.pending.load(Ordering::Acquire))
}
