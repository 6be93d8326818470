//! How far a ledger file is behind its database.

use std::sync::atomic::{AtomicI64, Ordering};

/// What is committed and not on disk in the file. It lies in shared memory, and is all zeros at first.
///
/// Both counters only grow. So any number of processes may say, any number of times, that the same entries are on disk.
/// In a single counter, what was subtracted twice would be missing later.
#[repr(C)]
#[derive(Default)]
pub struct Lag {
    counted: Counted,
    on_disk: Counted,
    /// When the oldest of what is not on disk was committed; 0 if there is none.
    since: AtomicI64,
}

#[repr(C)]
#[derive(Default)]
struct Counted {
    entries: AtomicI64,
    bytes: AtomicI64,
}

/// What was counted at some time, and when that was.
#[derive(Debug, Clone, Copy)]
pub struct SeenLag {
    entries: i64,
    bytes: i64,
    at: i64,
}

/// What is not on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    pub entries: i64,
    pub bytes: i64,
    /// When the oldest of it was committed, 0 if that is not known.
    pub since: i64,
}

impl Lag {
    /// Counts entries committed now. Cannot fail, so it may be called at COMMIT.
    pub fn add(&self, entries: i64, bytes: u64, now: i64) {
        self.counted.entries.fetch_add(entries, Ordering::AcqRel);
        self.counted.bytes.fetch_add(bytes as i64, Ordering::AcqRel);
        self.since.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire).ok();
    }

    /// What is counted so far; given to [`Lag::take_off`] once it is on disk.
    pub fn seen(&self, now: i64) -> SeenLag {
        let (entries, bytes) = (&self.counted.entries, &self.counted.bytes);
        SeenLag { entries: entries.load(Ordering::Acquire), bytes: bytes.load(Ordering::Acquire), at: now }
    }

    /// Notes that everything that was seen is on disk.
    pub fn take_off(&self, seen: SeenLag) {
        self.on_disk.entries.fetch_max(seen.entries, Ordering::AcqRel);
        self.on_disk.bytes.fetch_max(seen.bytes, Ordering::AcqRel);
        self.since.store(if self.behind().entries > 0 { seen.at } else { 0 }, Ordering::Release);
    }

    /// Notes that everything that is counted is on disk.
    pub fn clear(&self) {
        self.take_off(self.seen(0));
    }

    pub fn behind(&self) -> Behind {
        // In this order, so that what is counted in between cannot make the difference negative.
        let on_disk = [&self.on_disk.entries, &self.on_disk.bytes].map(|count| count.load(Ordering::Acquire));
        let counted = [&self.counted.entries, &self.counted.bytes].map(|count| count.load(Ordering::Acquire));
        let since = self.since.load(Ordering::Acquire);
        Behind { entries: counted[0] - on_disk[0], bytes: counted[1] - on_disk[1], since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Behind = Behind { entries: 0, bytes: 0, since: 0 };

    #[test]
    fn what_is_on_disk_twice_is_taken_off_once() {
        let lag = Lag::default();
        lag.add(3, 300, 7);
        let seen = lag.seen(8);
        lag.clear();
        lag.take_off(seen);
        assert_eq!(lag.behind(), NONE);
        lag.add(1, 100, 9);
        assert_eq!(lag.behind(), Behind { entries: 1, bytes: 100, since: 9 });
    }

    #[test]
    fn what_was_seen_before_takes_off_nothing_that_came_later() {
        let lag = Lag::default();
        lag.add(1, 100, 5);
        let before = lag.seen(6);
        lag.add(2, 250, 7);
        let after = lag.seen(8);
        lag.take_off(before);
        assert_eq!(lag.behind(), Behind { entries: 2, bytes: 250, since: 6 });
        lag.take_off(after);
        lag.take_off(before);
        assert_eq!(lag.behind(), NONE);
    }
}
