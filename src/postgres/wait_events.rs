//! The names under which waits show in pg_stat_activity. Before Postgres 17 extensions cannot name theirs.

use pgrx::pg_sys;

#[cfg(not(any(feature = "pg17", feature = "pg18")))]
mod by_version {
    use pgrx::pg_sys;

    pub fn event(_name: &'static std::ffi::CStr) -> u32 {
        pg_sys::PG_WAIT_EXTENSION
    }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
mod by_version {
    use pgrx::pg_sys;
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::ffi::CStr;

    thread_local! {
        static NUMBERS: RefCell<HashMap<&'static CStr, u32>> = RefCell::new(HashMap::new());
    }

    pub fn event(name: &'static CStr) -> u32 {
        NUMBERS.with_borrow_mut(|numbers| {
            // SAFETY: a NUL-terminated name, which Postgres copies; called by a process that has shared memory.
            *numbers.entry(name).or_insert_with(|| unsafe { pg_sys::WaitEventExtensionNew(name.as_ptr()) })
        })
    }
}

/// Makes Postgres register the events of a round. The first use of each in a process may raise an ERROR, and that must
/// not happen once a round has begun.
pub fn register() {
    mirror_sync();
    mirror_write();
}

/// A commit waits until its lines are on disk; the writer waits for the disk.
pub fn mirror_sync() -> u32 {
    by_version::event(c"PgNotaryMirrorSync")
}

/// A commit waits until its lines are written (mode write); the writer hands lines to the operating system.
pub fn mirror_write() -> u32 {
    by_version::event(c"PgNotaryMirrorWrite")
}

/// The writer has nothing to do.
pub fn writer_main() -> u32 {
    by_version::event(c"PgNotaryWriterMain")
}

/// An administrator waits for the worker to see to the mirror file.
pub fn mirror_request() -> u32 {
    by_version::event(c"PgNotaryMirrorRequest")
}

/// A commit waits until the worker has opened the mirror file.
pub fn mirror_attach() -> u32 {
    by_version::event(c"PgNotaryMirrorAttach")
}

/// A worker or the launcher has nothing to do.
pub fn worker_main() -> u32 {
    by_version::event(c"PgNotaryWorkerMain")
}

/// A command waits until the worker has left its database.
pub fn worker_stop() -> u32 {
    by_version::event(c"PgNotaryWorkerStop")
}

/// Shows this process as waiting until dropped: around system calls that may take long.
pub struct Shown;

impl Shown {
    pub fn as_waiting_for(event: u32) -> Shown {
        // SAFETY: points to this process's entry in shared memory or, before there is one, to a variable of the
        // process.
        unsafe { *pg_sys::my_wait_event_info = event }
        Shown
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // SAFETY: points to this process's entry in shared memory or, before there is one, to a variable of the
        // process.
        unsafe { *pg_sys::my_wait_event_info = 0 }
    }
}
