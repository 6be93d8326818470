//! How long this process waits for locks during a piece of work.

use pgrx::pg_sys;
use std::ffi::c_int;
use std::time::Duration;

/// Holds until it is dropped, also by an error. Not done by a setting of the transaction: the abort of that would come
/// after an outer limit was dropped, and put the outer one back for good.
pub struct LockLimit {
    before: c_int,
}

impl LockLimit {
    /// Waits so long, whatever `lock_timeout` is.
    pub fn set(limit: Duration) -> LockLimit {
        // SAFETY: lock_timeout is a global of this process, read only when it waits for a lock.
        LockLimit { before: unsafe { (&raw mut pg_sys::LockTimeout).replace(limit.as_millis() as _) } }
    }

    /// Waits no longer than that, or than `lock_timeout` allows.
    pub fn at_most(limit: Duration) -> LockLimit {
        // SAFETY: reads a global of this process.
        let own = unsafe { pg_sys::LockTimeout };
        let own = u64::try_from(own).ok().filter(|own| *own > 0).map(Duration::from_millis);
        LockLimit::set(own.map_or(limit, |own| own.min(limit)))
    }
}

impl Drop for LockLimit {
    fn drop(&mut self) {
        // SAFETY: restores lock_timeout, a global of this process that only it reads.
        unsafe { pg_sys::LockTimeout = self.before };
    }
}
