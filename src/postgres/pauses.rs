//! Which databases commands need for themselves, in shared memory: their workers stay away meanwhile.
//!
//! A database is noted here by its oid, and not in its slot, which it may not have yet: its worker may be on its way,
//! already connected, and take the slot only after the command has looked for it.

use pgrx::pg_sys;
use std::sync::atomic::{fence, AtomicU64, Ordering};

/// Databases that can be paused at the same time. A command that finds no room goes on without, and Postgres itself
/// refuses it if the worker is still connected after some seconds.
const MAX_PAUSED: usize = 64;

#[repr(C)]
pub struct Pauses([Pause; MAX_PAUSED]);

/// The oid of a database in the upper half, and in the lower half how many commands need it. Free if these are none.
#[repr(C)]
pub struct Pause(AtomicU64);

impl Pauses {
    /// Keeps the worker of the database away until the pause is ended. A worker that is noted in shared memory before
    /// this is found there afterwards; one that comes later finds the pause.
    pub fn begin(&self, database: pg_sys::Oid) -> Option<&Pause> {
        let begun = self.0.iter().find(|pause| pause.begin(database));
        fence(Ordering::SeqCst);
        begun
    }

    pub fn has(&self, database: pg_sys::Oid) -> bool {
        self.0.iter().any(|pause| matches!(pause.load(), (of, 1..) if of == database))
    }
}

impl Pause {
    fn load(&self) -> (pg_sys::Oid, u32) {
        parts(self.0.load(Ordering::SeqCst))
    }

    fn begin(&self, database: pg_sys::Oid) -> bool {
        let one_more = |word| match parts(word) {
            (_, 0) => Some(u64::from(database.to_u32()) << 32 | 1),
            (of, _) => (of == database).then_some(word + 1),
        };
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    /// Ends what one command has begun; returns the database. Cannot fail.
    pub fn end(&self) -> pg_sys::Oid {
        parts(self.0.fetch_sub(1, Ordering::SeqCst)).0
    }
}

fn parts(word: u64) -> (pg_sys::Oid, u32) {
    (pg_sys::Oid::from((word >> 32) as u32), word as u32)
}
