//! What all processes of a database know of its mirror file: how far it is written, and what waits to be.
//!
//! Writers copy their lines into a ring under a short lock; one of them, the leader, writes and syncs what all of them
//! have put there. Offsets in the ring and in the file differ by a constant that changes only while the ring is empty.

use crate::postgres::shared::{DatabaseSlot, LockGuard, Shared};
use pgrx::pg_sys;
use std::cell::UnsafeCell;

/// Bytes that can wait for the leader. A few hundred commits of one entry; more only makes the groups larger.
pub const RING_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Attachment {
    /// The worker has not opened the file yet.
    Detached = 0,
    /// The worker holds the file open and locked; lines can be written.
    Attached = 1,
    /// The file cannot be written; the cause says why.
    Failed = 2,
    /// The worker brings the file up to date; only it may write.
    Repairing = 3,
}

impl Attachment {
    pub fn name(self) -> &'static str {
        match self {
            Attachment::Detached => "detached",
            Attachment::Attached => "attached",
            Attachment::Failed => "failed",
            Attachment::Repairing => "repairing",
        }
    }
}

/// Text in shared memory, cut off at `N` bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FixedText<const N: usize> {
    length: usize,
    bytes: [u8; N],
}

impl<const N: usize> FixedText<N> {
    pub const CAPACITY: usize = N;

    pub fn set(&mut self, text: &str) {
        let mut length = text.len().min(N);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        self.bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length = length;
    }

    pub fn get(&self) -> String {
        String::from_utf8_lossy(&self.bytes[..self.length]).into_owned()
    }
}

/// The file a process must have open to write: the worker has checked this one.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FileIdentity {
    pub device: u64,
    pub inode: u64,
    /// Counts attachments, so that a process notices that its descriptor is of an earlier one.
    pub generation: u64,
}

/// Guarded by the slot's mirror lock.
#[repr(C)]
pub struct MirrorFields {
    pub attachment: Attachment,
    /// Attempts to attach that have ended, well or not; a writer that asked for one waits for the next.
    pub attempts: u64,
    pub identity: FileIdentity,
    pub path: FixedText<1024>,
    pub cause: FixedText<512>,
    /// A leader is writing.
    pub leading: bool,
    /// Ring positions: what has been copied in, and what has been written out.
    pub head: u64,
    pub tail: u64,
    /// File offset of ring position `p` is `p + shift`.
    pub shift: u64,
    /// File offset up to which everything is on disk.
    pub durable: u64,
    /// Writes that failed. Each cuts the file back to `durable` and discards everything after it.
    pub failures: u64,
    /// The value of `durable` at the last failure.
    pub kept_at_failure: u64,
    /// Part of the file in which lines of aborted transactions may stand; empty if both are equal.
    pub void_from: u64,
    pub void_to: u64,
    /// The worker is voiding a part that it has taken.
    pub voiding: bool,
    /// The last block whose line is in the file.
    pub last_block: i64,
    /// Syncs since the file was attached, for the view.
    pub syncs: u64,
}

impl MirrorFields {
    /// Offset of the end of everything written or waiting.
    pub fn end(&self) -> u64 {
        self.head + self.shift
    }

    /// Offset of the end of what has been written, synced or not.
    pub fn written(&self) -> u64 {
        self.tail + self.shift
    }

    pub fn room(&self) -> usize {
        RING_BYTES - (self.head - self.tail) as usize
    }

    /// Discards everything that is not on disk: the file has been cut back there.
    pub fn fail(&mut self, cause: &str) {
        self.failures += 1;
        self.kept_at_failure = self.durable;
        self.cause.set(cause);
        self.head = self.tail;
        self.shift = self.durable.wrapping_sub(self.tail);
    }

    /// Notes that lines between these offsets belong to an aborted transaction.
    pub fn add_void(&mut self, from: u64, to: u64) {
        if self.void_from == self.void_to {
            (self.void_from, self.void_to) = (from, to);
        } else {
            self.void_from = self.void_from.min(from);
            self.void_to = self.void_to.max(to);
        }
    }
}

/// The mirror's part of a database's slot.
#[repr(C)]
pub struct MirrorState {
    /// Broadcast whenever a leader or an attempt to attach has finished.
    changed: UnsafeCell<pg_sys::ConditionVariable>,
    fields: UnsafeCell<MirrorFields>,
    ring: UnsafeCell<[u8; RING_BYTES]>,
}

/// The fields, with the lock that guards them.
pub struct LockedMirror<'a> {
    fields: &'a mut MirrorFields,
    _lock: LockGuard,
}

impl std::ops::Deref for LockedMirror<'_> {
    type Target = MirrorFields;
    fn deref(&self) -> &MirrorFields {
        self.fields
    }
}

impl std::ops::DerefMut for LockedMirror<'_> {
    fn deref_mut(&mut self) -> &mut MirrorFields {
        self.fields
    }
}

impl MirrorState {
    pub fn init(&self) {
        // SAFETY: called once, by the process that creates the shared memory, before any other can see it.
        unsafe { pg_sys::ConditionVariableInit(self.changed.get()) }
    }

    pub fn lock<'a>(&'a self, shared: &Shared, slot: &DatabaseSlot) -> LockedMirror<'a> {
        let lock = shared.lock_mirror(slot);
        // SAFETY: the lock just taken is the one that guards these fields, and it lives as long as the reference.
        LockedMirror { fields: unsafe { &mut *self.fields.get() }, _lock: lock }
    }

    /// Copies whole lines into the ring; the caller has made sure of the room.
    pub fn put(&self, fields: &mut LockedMirror<'_>, lines: &[u8]) {
        let at = (fields.head % RING_BYTES as u64) as usize;
        let first = lines.len().min(RING_BYTES - at);
        let ring = self.ring.get().cast::<u8>();
        // SAFETY: both copies stay inside the ring, and outside tail..head, which is all that a leader reads; other
        // writers are kept out by the lock in `fields`.
        unsafe {
            std::ptr::copy_nonoverlapping(lines.as_ptr(), ring.add(at), first);
            std::ptr::copy_nonoverlapping(lines.as_ptr().add(first), ring, lines.len() - first);
        }
        fields.head += lines.len() as u64;
    }

    /// The one or two pieces of the ring between two positions, read without the lock.
    ///
    /// # Safety
    /// Only the leader may call this, for positions between tail and head as it saw them: nobody writes there until
    /// the leader moves the tail.
    pub unsafe fn pieces(&self, from: u64, to: u64) -> [&[u8]; 2] {
        let length = (to - from) as usize;
        let at = (from % RING_BYTES as u64) as usize;
        let first = length.min(RING_BYTES - at);
        let ring = self.ring.get().cast::<u8>();
        [std::slice::from_raw_parts(ring.add(at), first), std::slice::from_raw_parts(ring, length - first)]
    }

    /// Keeps writers out until a worker has attached the file again.
    pub fn close(&self, shared: &Shared, slot: &DatabaseSlot) {
        self.lock(shared, slot).attachment = Attachment::Detached;
    }

    /// Forgets everything about the file; for a slot that nobody uses.
    pub fn detach(&self, shared: &Shared, slot: &DatabaseSlot) {
        let mut fields = self.lock(shared, slot);
        fields.attachment = Attachment::Detached;
        (fields.head, fields.tail, fields.shift, fields.durable) = (0, 0, 0, 0);
        (fields.void_from, fields.void_to, fields.last_block) = (0, 0, 0);
        fields.failures += 1;
        fields.kept_at_failure = 0;
        fields.cause.set("The mirror file was closed.");
    }

    /// Wakes everyone who waits for this mirror. Never called with the lock held.
    pub fn broadcast(&self) {
        // SAFETY: initialised in init(); lives in shared memory.
        unsafe { pg_sys::ConditionVariableBroadcast(self.changed.get()) }
    }

    /// Sleeps until a broadcast or for `timeout_ms`; true if time ran out. Can be cancelled: raises the ERROR then.
    pub fn sleep(&self, timeout_ms: i64, wait_event: u32) -> bool {
        // SAFETY: as in broadcast().
        unsafe { pg_sys::ConditionVariableTimedSleep(self.changed.get(), timeout_ms as _, wait_event) }
    }

    pub fn stop_sleeping() {
        // SAFETY: harmless when this process does not sleep on any.
        unsafe {
            pg_sys::ConditionVariableCancelSleep();
        }
    }
}
