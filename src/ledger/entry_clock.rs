//! The times of the entries that a ledger makes by itself. They do not go back where the clock does, because times tell
//! which of two entries about a row is the newer one.

use std::sync::atomic::{AtomicI64, Ordering};

/// A clock that was set back by up to this much is not followed: time synchronisation steps it by less, and a server
/// that takes over is not further behind. If it is further behind, it is taken for right. Otherwise entries would have
/// tomorrow's times for a day.
pub const LIMIT_SECONDS: i64 = 60;
const LIMIT: i64 = LIMIT_SECONDS * 1_000_000;

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
    /// How often it was forgotten.
    forgotten: AtomicI64,
}

/// It is not known which times the ledger has given: not since the start, or not since it was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown(i64);

/// A time for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    pub at: i64,
    /// The newest time before this one, if the clock is so far behind it that it was given up.
    pub given_up: Option<i64>,
}

impl EntryClock {
    /// A time for an entry: the clock's, or, where that is not later than the newest time given, `apart` microseconds
    /// after that. An error while the newest time is not known.
    pub fn next(&self, clock: i64, apart: i64) -> Result<Given, Unknown> {
        let follow = |newest| (newest > 0).then(|| time_after(newest, clock, apart));
        let newest = self.newest.fetch_update(Ordering::AcqRel, Ordering::Acquire, follow).map_err(Unknown)?;
        let given_up = is_given_up(newest, clock).then_some(newest);
        Ok(Given { at: time_after(newest, clock, apart), given_up })
    }

    /// Notes that the ledger has given this time, or, if `None`, no time at all: what was read since the newest time was
    /// found to be `unknown`. If it was forgotten meanwhile, what was read may be of the ledger before, and does not
    /// count. Any number of processes may do so at once, and the first one counts: until then, no time is given.
    pub fn learn(&self, unknown: Unknown, newest: Option<i64>) {
        let newest = newest.unwrap_or(0).max(1);
        self.newest.compare_exchange(unknown.0, newest, Ordering::AcqRel, Ordering::Acquire).ok();
    }

    /// Forgets the newest time, because the ledger is another one, or was rebuilt. Cannot fail, so it may be called at
    /// COMMIT.
    pub fn forget(&self) {
        let before = self.forgotten.fetch_add(1, Ordering::AcqRel);
        self.newest.store(-before - 1, Ordering::Release);
    }
}

fn time_after(newest: i64, clock: i64, apart: i64) -> i64 {
    match is_given_up(newest, clock) {
        true => clock,
        false => clock.max(newest.saturating_add(apart)),
    }
}

fn is_given_up(newest: i64, clock: i64) -> bool {
    newest.saturating_sub(clock) > LIMIT
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
        clock.next(NOW, 1).unwrap_err()
    }

    fn given(at: i64) -> Result<Given, Unknown> {
        Ok(Given { at, given_up: None })
    }

    #[test]
    fn a_clock_that_goes_forward_is_followed() {
        let clock = clock_at(NOW);
        assert_eq!(clock.next(NOW + 5, 1), given(NOW + 5));
        assert_eq!(clock.next(NOW + 9, 1), given(NOW + 9));
    }

    #[test]
    fn times_go_on_from_the_newest_while_the_clock_is_a_little_behind() {
        let clock = clock_at(NOW);
        assert_eq!(clock.next(NOW - LIMIT, 1), given(NOW + 1));
        assert_eq!(clock.next(NOW - 20, 7), given(NOW + 8));
        assert_eq!(clock.next(NOW + 8, 1), given(NOW + 9));
        assert_eq!(clock.next(NOW + 20, 1), given(NOW + 20));
    }

    #[test]
    fn a_clock_that_is_far_behind_is_followed_and_one_process_is_told() {
        let clock = clock_at(NOW);
        let back = NOW - LIMIT - 1;
        assert_eq!(clock.next(back, 1), Ok(Given { at: back, given_up: Some(NOW) }));
        assert_eq!(clock.next(back, 1), given(back + 1));
        assert_eq!(clock.next(back + 5, 1), given(back + 5));
    }

    #[test]
    fn no_time_is_given_before_the_newest_is_known() {
        let clock = EntryClock::default();
        clock.learn(unknown(&clock), None);
        assert_eq!(clock.next(NOW, 1), given(NOW));
        clock.forget();
        let (first, second) = (unknown(&clock), unknown(&clock));
        clock.learn(first, Some(NOW + 3));
        clock.learn(second, Some(NOW + 2));
        assert_eq!(clock.next(NOW, 1), given(NOW + 4));
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
        assert_eq!(clock.next(NOW, 1), given(NOW + 1));
    }

    #[test]
    fn processes_that_ask_at_once_are_given_different_times() {
        let clock = clock_at(NOW);
        let ask = |behind: i64| (0..10_000).map(|n| clock.next(NOW - behind + n, 1).unwrap().at).collect::<Vec<_>>();
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
                let Given { at, given_up } = clock.next(shown, apart).unwrap();
                prop_assert!(at >= newest + apart && at >= shown && given_up.is_none());
                newest = at;
            }
        }
    }
}
