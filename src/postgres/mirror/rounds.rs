//! Waiting for the round that puts one's lines on disk, and waking those whose lines it was.
//!
//! A condition variable would wake everyone after every round, each by a signal, and half of them in vain: under load that
//! is most of what a commit costs. Here a wait is one system call, and so is waking all of a round: a futex whose waiters
//! say by a bit which rounds they wait for (futex(2), FUTEX_WAIT_BITSET). All else that ends a wait, an interrupt or the
//! death of the postmaster, is Postgres' own business, and looked after between short waits.

use pgrx::{check_for_interrupts, pg_sys};
use std::sync::atomic::{AtomicU32, Ordering};

/// How long a wait lasts before interrupts are looked at: one may come just before it begins. One that comes while it
/// lasts ends it.
const WAIT_MS: i64 = 100;

/// The rounds somebody waits for, as bits: the lowest 5 bits of a round's number choose its bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounds(u32);

impl Rounds {
    pub const ALL: Rounds = Rounds(u32::MAX);

    pub fn one(number: u64) -> Rounds {
        Rounds(1 << (number % 32))
    }

    pub fn and(self, other: Rounds) -> Rounds {
        Rounds(self.0 | other.0)
    }
}

/// Counts rounds, and anything else that a waiter may want to know, that have ended.
#[repr(C)]
pub struct Ended {
    count: AtomicU32,
    /// Processes that wait, or are about to. Most rounds end with nobody waiting, and need no system call then.
    waiting: AtomicU32,
}

impl Ended {
    /// Read while the condition is looked at, and given to [`Ended::sleep`]: what ends in between, ends
    /// the wait.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }

    /// Wakes those who wait for one of these rounds. Called once the outcome can be seen.
    pub fn wake(&self, rounds: Rounds) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.wake_at_most(rounds, i32::MAX);
    }

    /// Wakes one of those who wait for one of these rounds; false if nobody does.
    pub fn call_one(&self, rounds: Rounds) -> bool {
        self.wake_at_most(rounds, 1) > 0
    }

    /// Whoever is not counted as waiting yet finds the count changed, and does not sleep.
    #[cfg(target_os = "linux")]
    fn wake_at_most(&self, rounds: Rounds, most: i32) -> i64 {
        match self.waiting.load(Ordering::SeqCst) {
            0 => 0,
            _ => futex::wake(&self.count, rounds.0, most),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn wake_at_most(&self, _rounds: Rounds, _most: i32) -> i64 {
        0
    }

    /// Sleeps until one of these rounds has ended since `count` was read, or for that long. Can be cancelled: raises the
    /// ERROR then.
    #[cfg(target_os = "linux")]
    pub fn sleep(&self, rounds: Rounds, count: u32, timeout_ms: i64, event: u32) -> bool {
        if !self.wait(rounds, count, timeout_ms.min(WAIT_MS), event) {
            obey_interrupts(event);
        }
        true
    }

    /// Elsewhere nobody can sleep here: a condition variable, which is broadcast as well, has to do.
    #[cfg(not(target_os = "linux"))]
    pub fn sleep(&self, _rounds: Rounds, _count: u32, _timeout_ms: i64, _event: u32) -> bool {
        false
    }

    /// False if time ran out, or a signal came. Does not raise anything, so that the count of those who wait is right.
    #[cfg(target_os = "linux")]
    fn wait(&self, rounds: Rounds, count: u32, timeout_ms: i64, event: u32) -> bool {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let is_woken = futex::wait(&self.count, count, rounds.0, timeout_ms, event);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        is_woken
    }
}

/// Ends this process if the postmaster is gone, and whatever else Postgres' own waits do.
#[cfg(target_os = "linux")]
fn obey_interrupts(event: u32) {
    let events = (pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32;
    // SAFETY: does not wait, and looks at no latch.
    unsafe { pg_sys::WaitLatch(std::ptr::null_mut(), events, 0, event) };
    check_for_interrupts!();
}

#[cfg(target_os = "linux")]
mod futex {
    use crate::postgres::wait_events::Shown;
    use std::sync::atomic::AtomicU32;

    /// False if time ran out, or a signal came.
    pub fn wait(word: &AtomicU32, value: u32, bits: u32, timeout_ms: i64, event: u32) -> bool {
        let _waiting = Shown::as_waiting_for(event);
        let mut until = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a valid timespec; the word lies in shared memory and is aligned. The kernel only reads both.
        let outcome = unsafe {
            libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut until);
            let nanoseconds = until.tv_nsec + timeout_ms * 1_000_000;
            until.tv_sec += (nanoseconds / 1_000_000_000) as libc::time_t;
            until.tv_nsec = (nanoseconds % 1_000_000_000) as _;
            let until: *const libc::timespec = &until;
            let unused = std::ptr::null::<u32>();
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT_BITSET, value, until, unused, bits)
        };
        // That the value is another one by now is a wake-up, too.
        outcome == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
    }

    /// Wakes at most that many; returns how many.
    pub fn wake(word: &AtomicU32, bits: u32, most: i32) -> i64 {
        let unused = std::ptr::null::<u32>();
        // SAFETY: the kernel only looks for those who wait at this address.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE_BITSET, most, unused, unused, bits) }
    }
}
