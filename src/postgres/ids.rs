//! New ids, and ids as arguments and results of SQL functions.
//!
//! The random bits of a new one come from a generator of this process, because asking the kernel for each entry takes
//! longer than hashing the entry. A forked process would continue with its parent's numbers, and the postmaster makes
//! ids too. So each process seeds its generator before it makes its first id.

#![allow(clippy::disallowed_methods, reason = "the generator is seeded here")]

use pgrx::pg_sys;
use std::cell::Cell;
use uuid::Uuid;

thread_local! {
    /// The process that has seeded the generator.
    static SEEDED_BY: Cell<i32> = const { Cell::new(0) };
}

/// A UUIDv4.
pub fn random() -> Uuid {
    seed_once();
    Uuid::new_v4()
}

/// A UUIDv7. Those that one process makes ascend.
pub fn time_ordered() -> Uuid {
    seed_once();
    Uuid::now_v7()
}

/// An id as SQL functions return it.
pub fn to_sql(id: Uuid) -> pgrx::Uuid {
    pgrx::Uuid::from_bytes(id.into_bytes())
}

/// An id as SQL functions get it.
pub fn from_sql(id: pgrx::Uuid) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

fn seed_once() {
    // SAFETY: a plain global of this process, set right after the fork.
    let process = unsafe { pg_sys::MyProcPid };
    if SEEDED_BY.get() != process {
        rand::rng().reseed().expect("the kernel has random bytes");
        SEEDED_BY.set(process);
    }
}
