//! The progress of a verification in shared memory.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32};

/// Verifications whose progress is shown at the same time; one more runs unseen.
pub const MAX_VERIFICATIONS: usize = 64;

/// One running verification. Zeroed when free.
#[repr(C)]
pub struct ProgressSlot {
    pub pid: AtomicI32,
    pub database: AtomicU32,
    pub phase: AtomicU32,
    pub started_at: AtomicI64,
    pub blocks_done: AtomicI64,
    pub blocks_total: AtomicI64,
    pub entries_done: AtomicI64,
    pub bytes_done: AtomicI64,
    pub bytes_total: AtomicI64,
    pub rows_done: AtomicI64,
}
