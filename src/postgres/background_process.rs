//! What all background processes of the ledger have in common: launcher, workers and the mirror's writer.

#[cfg(not(feature = "pg18"))]
use pgrx::pg_sys::pqsignal;
#[cfg(feature = "pg18")]
use pgrx::pg_sys::pqsignal_be as pqsignal;
use pgrx::{check_for_interrupts, pg_sys};

/// The most free memory, and the largest piece of it, that the worker keeps. A batch needs some 20 MB.
#[cfg(target_env = "gnu")]
const KEPT_MEMORY: libc::c_int = 32 << 20;

// Declared here because pgrx wraps functions in error handling, which has no place in a signal handler.
extern "C-unwind" {
    fn SignalHandlerForConfigReload(signal: i32);
    fn die(signal: i32);
}

/// Sets up signals as Postgres' own long-lived processes have them: SIGHUP reloads, SIGTERM ends the process at the next
/// point where it may be interrupted.
///
/// # Safety
/// Called once, at the start of a background worker's main function.
pub unsafe fn set_up_signals() {
    pqsignal(libc::SIGHUP, Some(SignalHandlerForConfigReload));
    pqsignal(libc::SIGTERM, Some(die));
    pg_sys::BackgroundWorkerUnblockSignals();
}

/// Has this process keep what memory a batch needs for the next one. Given back to the system and taken again, each page of it
/// would be a page fault, and filled with zeros first.
pub fn keep_memory() {
    // SAFETY: sets what the C library's allocator does from here on.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_MEMORY);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_MEMORY);
    }
}

/// Sleeps until the latch is set or for that long, then does what every loop must: reset the latch, obey signals, reload
/// the configuration.
pub fn sleep(timeout_ms: Option<i64>, wait_event: u32) {
    let timeout_event = if timeout_ms.is_some() { pg_sys::WL_TIMEOUT } else { 0 };
    let events = (pg_sys::WL_LATCH_SET | timeout_event | pg_sys::WL_EXIT_ON_PM_DEATH) as i32;
    // SAFETY: the process's own latch; the pending flags are set by the handlers above.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events, timeout_ms.unwrap_or(-1) as _, wait_event);
        pg_sys::ResetLatch(pg_sys::MyLatch);
        // Told to end while it has nothing to do, as by each stop of the server: that is no FATAL error, as it would be below. With
        // another code than 1 Postgres would not start it again where only this process was told.
        if pg_sys::ProcDiePending != 0 {
            pg_sys::proc_exit(1);
        }
        check_for_interrupts!();
    }
    reload_if_asked();
}

/// Reads the configuration again if that was asked for, in one of these processes; inside a transaction, too.
pub fn reload_if_asked() {
    // SAFETY: the flag is set by the handler above; no lock of shared memory is held.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}
