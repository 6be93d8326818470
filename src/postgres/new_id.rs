//! Ids of entries: UUIDs of version 7, of which a process makes each greater than the one before. `Uuid::now_v7` makes the same, but asks
//! the system for random bytes twice for each; here they are fetched for many.

use super::errors::Failure;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::{Builder, Uuid};

const FETCHED: usize = 256;
/// Of the 42 bits of the counter, as many are random when it begins anew: there is room above them.
const FIRST_COUNTER: u64 = (1 << 41) - 1;
const LAST_COUNTER: u64 = (1 << 42) - 1;

/// A new id.
pub fn next() -> Uuid {
    SOURCE.with_borrow_mut(Source::next)
}

thread_local! {
    static SOURCE: RefCell<Source> =
        const { RefCell::new(Source { process: 0, random: [0; FETCHED], used: FETCHED, millis: 0, counter: 0 }) };
}

struct Source {
    /// Whose they are: a child does not go on with what its parent has.
    process: i32,
    random: [u8; FETCHED],
    used: usize,
    /// Of the last id.
    millis: u64,
    counter: u64,
}

impl Source {
    fn next(&mut self) -> Uuid {
        // SAFETY: a plain global of this process.
        let process = unsafe { pg_sys::MyProcPid };
        if self.process != process {
            *self = Source { process, random: [0; FETCHED], used: FETCHED, millis: 0, counter: 0 };
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs() * 1000 + u64::from(since.subsec_millis()));
        // A clock that was set back does not make ids smaller.
        if now > self.millis || self.counter == LAST_COUNTER {
            self.millis = now.max(self.millis + 1);
            self.counter = u64::from_ne_bytes(self.take()) & FIRST_COUNTER;
        } else {
            self.counter += 1;
        }
        let (high, low) = (self.counter >> 30, self.counter & ((1 << 30) - 1));
        let mut rest = [0; 10];
        rest[..2].copy_from_slice(&(high as u16).to_be_bytes());
        rest[2..6].copy_from_slice(&(low as u32).to_be_bytes());
        rest[6..].copy_from_slice(&self.take::<4>());
        Builder::from_unix_timestamp_millis(self.millis, &rest).into_uuid()
    }

    /// Random bytes that nobody has taken.
    fn take<const COUNT: usize>(&mut self) -> [u8; COUNT] {
        if self.used + COUNT > FETCHED {
            self.fetch();
        }
        let mut taken = [0; COUNT];
        taken.copy_from_slice(&self.random[self.used..self.used + COUNT]);
        self.used += COUNT;
        taken
    }

    fn fetch(&mut self) {
        // SAFETY: a buffer of this length.
        if !unsafe { pg_sys::pg_strong_random(self.random.as_mut_ptr().cast(), FETCHED) } {
            Failure::new(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, "could not generate random values").raise();
        }
        self.used = 0;
    }
}
