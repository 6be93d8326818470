//! New ids.
//!
//! Their random bits come from a generator of this process: to ask the kernel for those of each entry takes longer than to hash
//! the entry. A forked process would go on with the numbers of its parent, and the postmaster makes ids too; so each process
//! seeds its generator before it makes the first one.

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

/// A UUIDv7: those that a process makes ascend.
pub fn time_ordered() -> Uuid {
    seed_once();
    Uuid::now_v7()
}

fn seed_once() {
    // SAFETY: a plain global of this process, set right after the fork.
    let process = unsafe { pg_sys::MyProcPid };
    if SEEDED_BY.get() != process {
        rand::rng().reseed().expect("the kernel has random bytes");
        SEEDED_BY.set(process);
    }
}
