//! The times of the entries that a ledger makes by itself. They do not go back where the clock does, because times tell
//! which of two entries about a row is the newer one.

use std::sync::atomic::{AtomicI64, Ordering};

/// A clock that was set back by up to this much is not followed: time synchronisation steps it by less, and a server
/// that takes over is not further behind. If it is further behind, it is taken for right. Otherwise entries would have
/// tomorrow's times for a day.
pub const LIMIT_SECONDS: i64 = 60;
const LIMIT: i64 = LIMIT_SECONDS * 1_000_000;

/// How far ahead of the clock times may get because callers ask for time between them: well below the limit, beyond
/// which a server that starts takes its clock for right. Each microsecond that is asked for weighs as so many here, so
/// that who asks for few goes on where others ask for thousands.
const MOST_AHEAD: i64 = 20_000_000;
const WEIGHT: i64 = 1_000;

/// The newest time that a ledger has given, in microseconds since 1970. It lies in shared memory, and is all zeros at
/// first.
///
/// Recording a row writes it. It has a cache line of its own, so that this takes nothing else away from other
/// processors.
#[repr(C, align(64))]
#[derive(Default)]
pub struct EntryClock {
    /// If it is not known, it is zero or negative, and another number after each [`EntryClock::forget`].
    newest: AtomicI64,
    /// What it would be had nobody asked for time in between. That it is ahead of the clock shows that the clock went
    /// back.
    plain: AtomicI64,
    /// How often it was forgotten.
    forgotten: AtomicI64,
}

/// It is not known which times the ledger has given: not since the start, or not since it was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown(i64);

/// Why no time is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotYet {
    Unknown(Unknown),
    /// Times are far ahead of the clock because of what callers ask for: to be asked again a little later.
    Ahead,
}

/// A time for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    pub at: i64,
    /// The newest time before this one, if the clock is so far behind it that it was given up.
    pub given_up: Option<i64>,
}

impl EntryClock {
    /// A time for an entry: the clock's, or, where that is not later than the newest time given, `apart` microseconds
    /// after that. An error while the newest time is not known, or is too far ahead; never for the latter if `apart` is
    /// 1. Who has been refused for that so many times gets what is asked for before others who have not.
    pub fn next(&self, clock: i64, apart: i64, refused: i64) -> Result<Given, NotYet> {
        let newest = self.newest.load(Ordering::Acquire);
        if newest <= 0 {
            return Err(NotYet::Unknown(Unknown(newest)));
        }
        let ahead = newest.saturating_sub(self.plain.load(Ordering::Relaxed).max(clock));
        let weight = (WEIGHT / (refused + 1)).max(1);
        if apart > 1 && ahead.saturating_add((apart - 1).saturating_mul(weight)) > MOST_AHEAD {
            return Err(NotYet::Ahead);
        }
        let follow = |plain| Some(if is_given_up(plain, clock) { clock } else { clock.max(plain + 1) });
        let plain = self.plain.fetch_update(Ordering::Relaxed, Ordering::Relaxed, follow).unwrap_or_default();
        let gives_up = is_given_up(plain, clock);
        let after = |newest: i64| if gives_up { clock } else { clock.max(newest.saturating_add(apart)) };
        let follow = |newest| (newest > 0).then(|| after(newest));
        let newest = self.newest.fetch_update(Ordering::AcqRel, Ordering::Acquire, follow);
        let newest = newest.map_err(|unknown| NotYet::Unknown(Unknown(unknown)))?;
        Ok(Given { at: after(newest), given_up: gives_up.then_some(newest) })
    }

    /// Notes that the ledger has given this time, or, if `None`, no time at all: what was read since the newest time
    /// was found to be `unknown`. If it was forgotten meanwhile, what was read may be of the ledger before, and does
    /// not count. Any number of processes may do so at once, and the first one counts: until then, no time is given.
    pub fn learn(&self, unknown: Unknown, newest: Option<i64>) {
        let newest = newest.unwrap_or(0).max(1);
        if self.newest.compare_exchange(unknown.0, newest, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            // Whoever asks before this may be given a time by a clock that should have been given up.
            self.plain.fetch_max(newest, Ordering::Relaxed);
        }
    }

    /// Forgets the newest time, because the ledger is another one, or was rebuilt. Cannot fail, so it may be called at
    /// COMMIT.
    pub fn forget(&self) {
        let before = self.forgotten.fetch_add(1, Ordering::AcqRel);
        self.plain.store(0, Ordering::Relaxed);
        self.newest.store(-before - 1, Ordering::Release);
    }
}

fn is_given_up(plain: i64, clock: i64) -> bool {
    plain.saturating_sub(clock) > LIMIT
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::thread;

    const NOW: i64 = 1_800_000_000_000_000;

    fn clock_at(newest: i64) -> EntryClock {
        let clock = EntryClock::default();
        clock.learn(unknown(&clock), Some(newest));
        clock
    }

    fn unknown(clock: &EntryClock) -> Unknown {
        match clock.next(NOW, 1, 0) {
            Err(NotYet::Unknown(unknown)) => unknown,
            known => panic!("{known:?}"),
        }
    }

    fn given(at: i64) -> Result<Given, NotYet> {
        Ok(Given { at, given_up: None })
    }

    #[test]
    fn a_clock_that_goes_forward_is_followed() {
        let clock = clock_at(NOW);
        assert_eq!(clock.next(NOW + 5, 1, 0), given(NOW + 5));
        assert_eq!(clock.next(NOW + 9, 1, 0), given(NOW + 9));
    }

    #[test]
    fn times_go_on_from_the_newest_while_the_clock_is_a_little_behind() {
        let clock = clock_at(NOW);
        assert_eq!(clock.next(NOW - LIMIT, 1, 0), given(NOW + 1));
        assert_eq!(clock.next(NOW - 20, 7, 0), given(NOW + 8));
        assert_eq!(clock.next(NOW + 8, 1, 0), given(NOW + 9));
        assert_eq!(clock.next(NOW + 20, 1, 0), given(NOW + 20));
    }

    #[test]
    fn a_clock_that_is_far_behind_is_followed_and_one_process_is_told() {
        let clock = clock_at(NOW);
        let back = NOW - LIMIT - 1;
        assert_eq!(clock.next(back, 1, 0), Ok(Given { at: back, given_up: Some(NOW) }));
        assert_eq!(clock.next(back, 1, 0), given(back + 1));
        assert_eq!(clock.next(back + 5, 1, 0), given(back + 5));
    }

    /// Asks for so much time in between until it is refused. Returns how far ahead of the clock times are then.
    fn push(clock: &EntryClock, shown: i64, apart: i64) -> i64 {
        let last = (0..100_000).map_while(|_| clock.next(shown, apart, 0).ok()).last().unwrap();
        assert_eq!((clock.next(shown, apart, 0), last.given_up), (Err(NotYet::Ahead), None));
        last.at - shown
    }

    #[test]
    fn who_asks_for_time_in_between_waits_where_times_would_run_far_ahead_of_the_clock() {
        let clock = clock_at(NOW);
        let ahead = push(&clock, NOW, 10_001);
        assert!(ahead <= MOST_AHEAD / 2 + 20_000, "{ahead}");
        // Who has waited long goes first.
        let waited = EntryClock::default();
        waited.learn(unknown(&waited), Some(NOW));
        push(&waited, NOW, 10_001);
        assert!(waited.next(NOW, 10_001, 1_000).is_ok());
        // Others do not wait, and it goes on once the clock does.
        assert_eq!(clock.next(NOW, 1, 0), given(NOW + ahead + 1));
        assert_eq!(clock.next(NOW, 5, 0), given(NOW + ahead + 6));
        assert_eq!(clock.next(NOW + 20_000, 10_001, 0), given(NOW + ahead + 10_007));
        assert_eq!(clock.next(NOW + ahead + 20_000, 10_001, 0), given(NOW + ahead + 20_008));
        assert!(push(&clock, NOW + ahead + 30_000, 1_001) <= MOST_AHEAD);
    }

    #[test]
    fn a_clock_is_not_given_up_for_times_that_were_asked_for() {
        let clock = clock_at(NOW);
        let ahead = push(&clock, NOW, 1_001);
        let back = NOW - LIMIT + 1_000_000;
        assert!(NOW + ahead - back > LIMIT);
        assert_eq!(clock.next(back, 1, 0), given(NOW + ahead + 1));
    }

    #[test]
    fn no_time_is_given_before_the_newest_is_known() {
        let clock = EntryClock::default();
        clock.learn(unknown(&clock), None);
        assert_eq!(clock.next(NOW, 1, 0), given(NOW));
        clock.forget();
        clock.learn(unknown(&clock), None);
        // The clock before was far ahead, and was of another ledger.
        assert_eq!(clock.next(NOW - 2 * LIMIT, 1, 0), given(NOW - 2 * LIMIT));
        clock.forget();
        let (first, second) = (unknown(&clock), unknown(&clock));
        clock.learn(first, Some(NOW + 3));
        clock.learn(second, Some(NOW + 2));
        assert_eq!(clock.next(NOW, 1, 0), given(NOW + 4));
    }

    #[test]
    fn what_was_read_before_the_newest_time_was_forgotten_does_not_count() {
        let clock = EntryClock::default();
        let mut read = Vec::new();
        for _ in 0..3 {
            read.push(unknown(&clock));
            clock.forget();
        }
        read.into_iter().for_each(|unknown| clock.learn(unknown, Some(NOW + 7)));
        clock.learn(unknown(&clock), Some(NOW));
        assert_eq!(clock.next(NOW, 1, 0), given(NOW + 1));
    }

    #[test]
    fn processes_that_ask_at_once_are_given_different_times() {
        let clock = clock_at(NOW);
        let ask = |behind: i64| (0..10_000).map(|n| clock.next(NOW - behind + n, 1, 0).unwrap().at).collect::<Vec<_>>();
        let mut times = thread::scope(|scope| {
            let asking: Vec<_> = [0, 1, 5_000, 20_000_000].map(|behind| scope.spawn(move || ask(behind))).into();
            asking.into_iter().flat_map(|asked| asked.join().unwrap()).collect::<Vec<_>>()
        });
        let count = times.len();
        times.sort_unstable();
        times.dedup();
        assert_eq!(times.len(), count);
    }

    proptest! {
        #[test]
        fn times_ascend_by_what_is_asked_however_the_clock_steps(
            steps in prop::collection::vec((-LIMIT / 20..LIMIT / 20, 1..100i64), 1..20)
        ) {
            let (clock, mut shown, mut newest) = (clock_at(NOW), NOW, NOW);
            for (step, apart) in steps {
                shown += step;
                let Given { at, given_up } = clock.next(shown, apart, 0).unwrap();
                prop_assert!(at >= newest + apart && at >= shown && given_up.is_none());
                newest = at;
            }
        }
    }
}
