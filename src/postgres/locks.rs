//! The lightweight locks of this library.

use super::errorless;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicPtr, Ordering};

const TRANCHE: &std::ffi::CStr = c"pg_notary";

static LOCK_ARRAY: AtomicPtr<pg_sys::LWLockPadded> = AtomicPtr::new(std::ptr::null_mut());

/// Asks Postgres for this many locks.
///
/// # Safety
/// Called by the postmaster while it asks libraries how much shared memory they need.
pub unsafe fn request(count: usize) {
    pg_sys::RequestNamedLWLockTranche(TRANCHE.as_ptr(), count as i32);
}

/// Finds the locks.
///
/// # Safety
/// [`request`] was called, and shared memory has been created.
pub unsafe fn attach() {
    LOCK_ARRAY.store(pg_sys::GetNamedLWLockTranche(TRANCHE.as_ptr()), Ordering::Release);
}

/// A lock of this library, held until dropped. Nothing that can raise an error may run meanwhile: pgrx would unwind,
/// and the drop would release a lock that Postgres' own error handling has already released.
pub struct LockGuard(*mut pg_sys::LWLock);

impl LockGuard {
    /// Takes one of the locks, by its number from 0.
    ///
    /// # Safety
    /// More locks than `index` were requested, and [`attach`] has found them.
    pub unsafe fn acquire(index: usize) -> Self {
        let lock = &raw mut (*LOCK_ARRAY.load(Ordering::Acquire).add(index)).lock;
        errorless::lock(lock);
        LockGuard(lock)
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // SAFETY: acquire() took the lock, and only this releases it.
        unsafe { errorless::unlock(self.0) }
    }
}
