//! What all background processes of the ledger have in common: launcher, workers and the mirror's writer.

#[cfg(not(feature = "pg18"))]
use pgrx::pg_sys::pqsignal;
#[cfg(feature = "pg18")]
use pgrx::pg_sys::pqsignal_be as pqsignal;
use pgrx::{check_for_interrupts, pg_sys};
use std::sync::atomic::{compiler_fence, AtomicBool, Ordering};
use std::time::Duration;

/// How much free memory, and how large a piece of it, the worker keeps. A batch needs some 20 MB.
#[cfg(target_env = "gnu")]
const KEPT_MEMORY: libc::c_int = 32 << 20;

// Declared here because pgrx wraps functions in error handling, which has no place in a signal handler.
extern "C-unwind" {
    fn SignalHandlerForConfigReload(signal: i32);
    fn StatementCancelHandler(signal: i32);
    fn die(signal: i32);
}

/// Whether this process does something now that can be cancelled.
static IS_CANCELLABLE: AtomicBool = AtomicBool::new(false);

/// Work that a cancel stops, until dropped. Elsewhere the ERROR of a cancel would end the process.
pub struct CancellableWork;

impl CancellableWork {
    pub fn begin() -> CancellableWork {
        IS_CANCELLABLE.store(true, Ordering::Relaxed);
        CancellableWork
    }
}

impl Drop for CancellableWork {
    fn drop(&mut self) {
        IS_CANCELLABLE.store(false, Ordering::Relaxed);
        // For the handler, which runs in this thread: it must not find the other order.
        compiler_fence(Ordering::SeqCst);
        // SAFETY: a flag of this process. No signal sets it from here on.
        unsafe { pg_sys::QueryCancelPending = 0 };
    }
}

/// What pg_cancel_backend() sends, and lock_timeout.
unsafe extern "C-unwind" fn cancel_work(signal: i32) {
    if IS_CANCELLABLE.load(Ordering::Relaxed) {
        StatementCancelHandler(signal);
    }
}

/// Sets up signals as in Postgres' own long-lived processes: SIGHUP reloads, SIGTERM ends the process at the next point
/// where it may be interrupted, and SIGINT stops what it works at, if anything. Then reads the settings once more.
///
/// # Safety
/// Called once, at the start of a background worker's main function.
pub unsafe fn set_up_signals() {
    pqsignal(libc::SIGHUP, Some(SignalHandlerForConfigReload));
    pqsignal(libc::SIGTERM, Some(die));
    pqsignal(libc::SIGINT, Some(cancel_work));
    pg_sys::BackgroundWorkerUnblockSignals();
    // This process began with the settings that the postmaster had. If the postmaster has read others since, the signal
    // that says so may be lost: Postgres has background workers ignore SIGHUP at first, which drops one that waits. The
    // settings are read here, and not as after a signal, so that what looks at them does so once.
    pg_sys::ConfigReloadPending = 1;
    reload_if_asked();
}

/// Makes this process keep the memory of one batch for the next. Otherwise each page would go back to the system, and
/// cost a page fault and zeroing when it is taken again.
pub fn keep_memory() {
    // SAFETY: mallopt only sets how the C library's allocator behaves from here on.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_MEMORY);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_MEMORY);
    }
}

/// How many milliseconds to sleep until the time is over. A process that wakes earlier would only sleep once more.
pub fn rounded_up_ms(time: Duration) -> i64 {
    time.as_millis() as i64 + 1
}

/// Sleeps until the latch is set or the time is over. Then does what every loop must: resets the latch, obeys signals,
/// and reloads the configuration.
pub fn sleep(timeout_ms: Option<i64>, wait_event: u32) {
    let timeout_event = if timeout_ms.is_some() { pg_sys::WL_TIMEOUT } else { 0 };
    let events = (pg_sys::WL_LATCH_SET | timeout_event | pg_sys::WL_EXIT_ON_PM_DEATH) as i32;
    // SAFETY: waits on the process's own latch. The handlers above set the pending flags.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events, timeout_ms.unwrap_or(-1) as _, wait_event);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        // The process was told to end while it has nothing to do, as by each stop of the server. That is no FATAL
        // error, which the check below would make of it. The code must be 1: with another one Postgres would not
        // restart a process that alone was told to end.
        if pg_sys::ProcDiePending != 0 {
            pg_sys::proc_exit(1);
        }
        check_for_interrupts!();
    }
    reload_if_asked();
}

/// Reads the configuration again if that was asked for. Only for the ledger's background processes; works inside a
/// transaction, too.
pub fn reload_if_asked() {
    // SAFETY: the handler above sets the flag. No lightweight lock is held, so an error may be raised.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}
