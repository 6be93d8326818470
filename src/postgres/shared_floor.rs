//! The floor of the pending entries in shared memory: see [`pending_floor`](super::pending_floor).

use crate::ledger::pending_floor::PendingFloor;
use std::sync::atomic::{AtomicU32, Ordering};

/// The floor of one database's ledger. Recording reads it and seldom writes it. It has a cache line of its own, so that
/// what is written beside it does not slow this down.
#[repr(C, align(64))]
#[derive(Default)]
pub struct SharedFloor {
    pub page: PendingFloor,
    /// The transaction in which the worker has raised the floor; 0 if it has not since the server started.
    pub raiser: AtomicU32,
    /// The file of the table. In another one, rows stand elsewhere.
    pub file: AtomicU32,
}

impl SharedFloor {
    /// Notes that a row was inserted on this page. To be called before its transaction reads the table or commits.
    pub fn note(&self, page: u32) {
        self.page.note(page);
    }

    /// The slot is another database's.
    pub fn forget(&self) {
        self.page.reset();
        self.file.store(0, Ordering::SeqCst);
        self.raiser.store(0, Ordering::SeqCst);
    }

    /// The floor is that of this file. Its page is reset before, because
    /// [`first_page`](super::pending_floor::first_page) asks for the file first.
    pub fn begin_file(&self, file: u32) {
        self.page.reset();
        self.file.store(file, Ordering::SeqCst);
    }
}
