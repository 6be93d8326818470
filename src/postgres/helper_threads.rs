//! Threads beside the one that Postgres runs in. They do domain work that needs nothing of Postgres, and must never run
//! its code, which knows nothing of threads.

use crate::ledger::verifier::Helpers;
use std::mem::MaybeUninit;
use std::ptr;

/// A limit, so that one verification leaves processors to others. Reading the tables takes longer than the work of two
/// helpers.
const MOST_HELPERS: usize = 2;

/// Threads that read and hash lines of a file.
pub fn helpers() -> Helpers {
    Helpers { start: without_signals, ..Helpers::up_to(MOST_HELPERS) }
}

/// When dropped, gives back to the system what a verification and its helpers have freed by then. The C library keeps
/// it, some 50 MB in the pools of all threads, as long as the session lives. The sessions of a connection pool live for
/// days.
pub struct FreedMemory;

impl Drop for FreedMemory {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn drop(&mut self) {
        // SAFETY: the call has no preconditions.
        unsafe { libc::malloc_trim(0) };
    }

    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    fn drop(&mut self) {}
}

/// Threads inherit the blocked signals. With all of them blocked in helpers, Postgres' handlers always run in the main
/// thread.
fn without_signals(start: &mut dyn FnMut()) {
    let _blocked = BlockedSignals::all();
    start();
}

/// The signals that were blocked before; restored when dropped.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn all() -> Self {
        let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: both sets are filled in before they are read; the call cannot fail with these arguments.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            BlockedSignals(before.assume_init())
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set that this thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
    }
}
