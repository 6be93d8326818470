//! How sessions sleep until the round that puts their lines on disk has ended, and how they are woken. The round itself
//! is in [`super::round`].
//!
//! A condition variable would wake every sleeper after every round, each by a signal and half of them in vain. Under
//! load that is most of what a commit costs. Here a wait is one system call, and so is waking all sessions of a round:
//! a futex whose waiters state by a bit which rounds they wait for (futex(2), FUTEX_WAIT_BITSET). Postgres' own code
//! handles all else that ends a wait, interrupts and the death of the postmaster, between short waits.

use pgrx::{check_for_interrupts, pg_sys};
use std::sync::atomic::{AtomicU32, Ordering};

/// How long one wait lasts before interrupts are handled. An interrupt during the wait ends it, but one right before it
/// does not.
const WAIT_MS: i64 = 100;

/// The rounds that a session waits for, as bits: the lowest 5 bits of a round's number choose its bit.
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

/// Counts what has ended: rounds, and other events that sessions wait for.
#[repr(C)]
pub struct Ended {
    count: AtomicU32,
    /// Processes that wait, or are about to. Mostly there are none when a round ends, and no system call is needed.
    waiting: AtomicU32,
}

impl Ended {
    /// To be read while the condition is checked, and passed to [`Ended::sleep`]: an event in between then ends the
    /// wait.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }

    /// Wakes the sessions that wait for one of these rounds. To be called once the outcome can be seen.
    pub fn wake(&self, rounds: Rounds) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.wake_at_most(rounds, i32::MAX);
    }

    /// Wakes one session that waits for one of these rounds; false if there is none.
    pub fn call_one(&self, rounds: Rounds) -> bool {
        self.wake_at_most(rounds, 1) > 0
    }

    /// A process that is not counted as waiting yet finds the count changed, and does not sleep.
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

    /// Sleeps until one of these rounds has ended since `count` was read, or for that long. A cancel raises an ERROR.
    #[cfg(target_os = "linux")]
    pub fn sleep(&self, rounds: Rounds, count: u32, timeout_ms: i64, event: u32) -> bool {
        if !self.wait(rounds, count, timeout_ms.min(WAIT_MS), event) {
            obey_interrupts(event);
        }
        true
    }

    /// Without futexes it does not sleep and returns false: the caller uses a condition variable, which is broadcast as
    /// well.
    #[cfg(not(target_os = "linux"))]
    pub fn sleep(&self, _rounds: Rounds, _count: u32, _timeout_ms: i64, _event: u32) -> bool {
        false
    }

    /// Returns false if time ran out or a signal came. Raises nothing, so that the count of waiting processes stays
    /// right.
    #[cfg(target_os = "linux")]
    fn wait(&self, rounds: Rounds, count: u32, timeout_ms: i64, event: u32) -> bool {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let is_woken = futex::wait(&self.count, count, rounds.0, timeout_ms, event);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        is_woken
    }
}

/// Does what Postgres' own waits do: ends this process if the postmaster is gone, and handles interrupts.
#[cfg(target_os = "linux")]
fn obey_interrupts(event: u32) {
    let events = (pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32;
    // SAFETY: it is given no latch, and a timeout of 0, so it does not wait.
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
        // SAFETY: the timespec is valid. The word lies in shared memory, is aligned, and is only read by the kernel.
        let outcome = unsafe {
            libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut until);
            let nanoseconds = until.tv_nsec + timeout_ms * 1_000_000;
            until.tv_sec += (nanoseconds / 1_000_000_000) as libc::time_t;
            until.tv_nsec = (nanoseconds % 1_000_000_000) as _;
            let until: *const libc::timespec = &until;
            let unused = std::ptr::null::<u32>();
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT_BITSET, value, until, unused, bits)
        };
        // EAGAIN: the value has already changed, which counts as being woken.
        outcome == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
    }

    /// Wakes at most `most` waiters; returns how many.
    pub fn wake(word: &AtomicU32, bits: u32, most: i32) -> i64 {
        let unused = std::ptr::null::<u32>();
        // SAFETY: the kernel takes the address only to find its waiters, and does not access the word.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE_BITSET, most, unused, unused, bits) }
    }
}
