//! What all processes of a database know of its mirror file: how far it is written, and what waits to be.
//!
//! Backends copy their lines into a ring under a short lock; one process at a time writes and syncs what all of them have
//! put there. Offsets in the ring and in the file differ by a constant that changes only while the ring is empty.

use super::owners::Owners;
use super::rounds::{Ended, Rounds};
use crate::ledger::file_ranges::{FileRange, FileRanges};
use crate::postgres::locks::LockGuard;
use crate::postgres::tables;
use pgrx::pg_sys;
use std::cell::UnsafeCell;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Bytes that can wait for the next round. A few hundred commits of one entry; more only makes the groups larger.
pub const RING_BYTES: usize = 256 * 1024;
/// A write or sync that takes longer is a problem to be named.
const SLOW_SECONDS: i64 = 5;
/// Prepared transactions of one database whose lines can be undecided at the same time.
pub const MAX_PREPARED: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Attachment {
    /// The worker has not opened the file yet.
    Detached = 0,
    /// The worker holds the file open and locked; lines can be written.
    Attached = 1,
    /// The file cannot be written; the cause says why.
    Failed = 2,
    /// The worker brings the file up to date; only it may append.
    Repairing = 3,
    /// There is to be no file.
    Off = 4,
}

impl Attachment {
    pub fn name(self) -> &'static str {
        match self {
            Attachment::Detached => "detached",
            Attachment::Attached => "attached",
            Attachment::Failed => "failed",
            Attachment::Repairing => "repairing",
            Attachment::Off => "off",
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
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    pub device: u64,
    pub inode: u64,
    /// Counts attachments, so that whoever has the file open notices that it is of an earlier one.
    pub generation: u64,
}

/// The times of a file, in nanoseconds since the epoch. Nobody can edit it and put both back.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileStamp {
    pub modified: i64,
    pub changed: i64,
}

/// What is known of when this server has changed the file last. Zeroes are the first of them.
#[repr(C, u64)]
#[derive(Debug, Clone, Copy)]
pub enum LastChange {
    /// The file's times were these.
    At(FileStamp),
    /// It was done by then, by this machine's clock, in nanoseconds since the epoch; so is the clock of the file's times.
    NotAfter(i64),
}

/// A part of a file that may not be on disk, as a sync has failed: everything behind `from`. The kernel tells of that once, and of
/// the next sync that it went well.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsynced {
    device: u64,
    inode: u64,
    from: u64,
}

impl Unsynced {
    pub const NONE: Unsynced = Unsynced { device: 0, inode: 0, from: u64::MAX };

    /// Where it begins in this file.
    pub fn from(&self, file: &Metadata) -> Option<u64> {
        let is_of_it = (self.device, self.inode) == (file.dev(), file.ino());
        (is_of_it && self.from < file.len()).then_some(self.from)
    }
}

/// Lines of a transaction that is prepared, and whose fate is open.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreparedLines {
    /// Top-level transaction id; 0 marks a free place.
    pub xid: u32,
    pub from: u64,
    pub to: u64,
}

/// What an administrator asks of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Request {
    None = 0,
    /// Append to a file that is merely behind, however far.
    CatchUp = 1,
    /// Put the file aside and begin a new one.
    Restart = 2,
}

/// What the state file beside the mirror says about who writes it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Ownership {
    pub ledger_id: [u8; 16],
    /// Made anew at each attachment, and remembered by the database.
    pub attachment: [u8; 16],
    /// What the database remembered before.
    pub previous: [u8; 16],
    /// The database remembers this attachment.
    pub is_remembered: bool,
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
    /// The file has been attached since the server started: until then, the database may be an older one.
    pub was_attached: bool,
    /// The file was changed behind the server's back: all of it is to be verified before it is written again.
    pub suspect: bool,
    /// Rounds of work that have begun.
    pub rounds: u64,
    /// Some process is at the file, since then.
    pub writing: bool,
    pub writing_since: pg_sys::TimestampTz,
    /// The last failure is one that the writer has not named in the log yet.
    pub is_failure_unnamed: bool,
    /// The file is on a file system of this machine, not on a network mount.
    pub is_local: bool,
    /// The writer has been told that commits have written to the file since it last looked, and that they have left
    /// something to sync.
    pub is_attended: bool,
    pub is_sync_attended: bool,
    /// When the settings were read by which there is to be no file.
    pub off_as_of: pg_sys::TimestampTz,
    /// Processes that have put lines into the ring and wait for more room or for the file.
    pub appending: u32,
    /// The file must be opened anew before anything more is appended: it may hold lines that whoever appended them does not
    /// know of.
    pub must_be_read: bool,
    /// Lines that commits rely on may be gone from the file.
    pub has_lost: bool,
    /// What is to be cut off before the file is read.
    pub unsynced: Unsynced,
    /// The last sync, or the write before it, has failed and none has gone well since; the cause says why.
    pub is_troubled: bool,
    /// So it was, and what had been written could not be cut off either: the file is opened again, which alone does not make it better.
    pub is_refused: bool,
    /// Where a line begins that is on its way through the ring piece by piece; nobody else may put lines there. 0: none.
    pub unfinished: u64,
    /// Where the last such line stands, also once it is whole in the ring: a part of it alone must not stay in the file.
    pub long_line_from: u64,
    pub long_line_to: u64,
    /// Where such a line begins that will never be whole: the file is to be cut back there. 0: none.
    pub cut_to: u64,
    /// Ring positions: what has been copied in, and what has been written out.
    pub head: u64,
    pub tail: u64,
    /// File offset of ring position `p` is `p + shift`, wrapping: failed writes use up positions, not offsets.
    pub shift: u64,
    /// File offset up to which everything is on disk.
    pub durable: u64,
    /// File offset up to which somebody waits for everything to be on disk.
    pub sync_wanted: u64,
    /// File offset up to which commits have relied on lines that were only written (mode write).
    pub promised: u64,
    /// The last write.
    pub last_change: LastChange,
    /// When nobody else could write the directory.
    pub directory_seen: pg_sys::TimestampTz,
    /// Writes that failed. Each cuts the file back, and discards everything that waits.
    pub failures: u64,
    /// How much of the file the last failure has left.
    pub kept_at_failure: u64,
    /// The worker keeps account of which entries have lines (mode async), and is to be told what others append.
    pub is_followed: bool,
    /// Part of the file in which others have appended since the worker last looked; empty if both are equal.
    pub others_from: u64,
    pub others_to: u64,
    /// Parts of the file in which lines of aborted transactions may stand.
    pub void: FileRanges,
    /// Those that the worker has taken, and voids.
    pub voiding: FileRanges,
    /// The last block whose line is in the file.
    pub last_block: i64,
    pub prepared: [PreparedLines; MAX_PREPARED],
    pub request: Request,
    /// The worker is at it, and does it though nobody may wait for the answer any more.
    pub request_begun: bool,
    pub request_given_up: bool,
    /// Requests that have been answered, and the last answer.
    pub requests_done: u64,
    pub request_failed: bool,
    pub request_answer: FixedText<1280>,
    pub ownership: Ownership,
    /// Syncs since the server started, for the view.
    pub syncs: u64,
}

impl MirrorFields {
    /// Offset of the end of everything written or waiting.
    pub fn end(&self) -> u64 {
        self.head.wrapping_add(self.shift)
    }

    /// The rounds that may put lines on disk which were put into the ring for round `number`: that one, or if it has
    /// begun, the one under way and the next.
    pub fn rounds_for(&self, number: u64) -> Rounds {
        match number > self.rounds {
            true => Rounds::one(number),
            false => Rounds::one(self.rounds).and(Rounds::one(self.rounds + 1)),
        }
    }

    /// Offset of the end of what has been written, synced or not.
    pub fn written(&self) -> u64 {
        self.tail.wrapping_add(self.shift)
    }

    pub fn room(&self) -> usize {
        RING_BYTES - (self.head - self.tail) as usize
    }

    /// How long whoever is at the file has been there.
    pub fn writes_for(&self) -> Duration {
        let now = tables::timestamp_to_postgres(tables::now());
        Duration::from_micros((now - self.writing_since).max(0) as u64)
    }

    /// What is to be said of the file now, if there is something.
    pub fn problem(&self, now: pg_sys::TimestampTz) -> Option<String> {
        if self.attachment == Attachment::Failed || self.is_troubled {
            return Some(self.cause.get());
        }
        let seconds = (now - self.writing_since) / 1_000_000;
        let is_slow = self.writing && seconds >= SLOW_SECONDS;
        is_slow.then(|| {
            format!(
                "mirror file \"{}\" does not answer: it has been written or synced for {seconds} seconds",
                self.path.get()
            )
        })
    }

    /// The end of the last whole line before this offset.
    pub fn lines_before(&self, offset: u64) -> u64 {
        match self.long_line_from < offset && offset < self.long_line_to {
            true => self.long_line_from,
            false => offset,
        }
    }

    /// Whether the lines between `durable` and `end` are to be on disk, or lines wait to be written.
    pub fn has_work(&self) -> bool {
        self.head != self.tail || self.sync_wanted > self.durable || self.cut_to != 0
    }

    /// Discards everything behind the offset `keep`: the file has been cut back there.
    pub fn fail(&mut self, cause: &str, keep: u64) {
        self.failures += 1;
        self.kept_at_failure = keep;
        self.cause.set(cause);
        self.head = self.tail;
        self.shift = keep.wrapping_sub(self.tail);
        self.durable = self.durable.min(keep);
        self.sync_wanted = self.sync_wanted.min(keep);
        (self.unfinished, self.cut_to) = (0, 0);
        (self.long_line_from, self.long_line_to) = (0, 0);
    }

    /// Keeps lines out until a worker has attached the file again.
    pub fn close(&mut self) {
        self.attachment = Attachment::Detached;
    }

    /// There is no request any more.
    pub fn end_request(&mut self) {
        (self.request, self.request_begun, self.request_given_up) = (Request::None, false, false);
    }

    /// Notes that a sync has failed of what stands behind `from`, and that it stands there still.
    pub fn note_unsynced(&mut self, device: u64, inode: u64, from: u64) {
        self.unsynced = Unsynced { device, inode, from };
        self.has_lost |= from < self.promised;
    }

    /// Notes what somebody appends. Before that is committed, so that whoever sees the entry can know of its line.
    pub fn note_others(&mut self, from: u64, to: u64) {
        if self.others_from == self.others_to {
            (self.others_from, self.others_to) = (from, to);
        } else {
            (self.others_from, self.others_to) = (self.others_from.min(from), self.others_to.max(to));
        }
    }

    /// The place of a prepared transaction, or a free one for it.
    pub fn prepared_place(&mut self, xid: u32) -> Option<&mut PreparedLines> {
        let at = self.prepared.iter().position(|lines| lines.xid == xid);
        let at = at.or_else(|| self.prepared.iter().position(|lines| lines.xid == 0))?;
        Some(&mut self.prepared[at])
    }

    pub fn forget_prepared(&mut self, xid: u32) {
        self.prepared.iter_mut().filter(|lines| lines.xid == xid).for_each(|lines| lines.xid = 0);
    }

    /// Notes that lines in this range belong to an aborted transaction.
    pub fn add_void(&mut self, range: FileRange) {
        self.void.add(range);
    }

    /// Whether lines of aborted transactions may stand in the file that are not voided.
    pub fn has_aborted(&self) -> bool {
        !(self.void.is_empty() && self.voiding.is_empty())
    }

    /// Whether the line at this offset may be one of them.
    pub fn may_be_aborted(&self, offset: u64) -> bool {
        self.void.has(offset) || self.voiding.has(offset)
    }
}

/// The mirror's part of a database's slot.
#[repr(C)]
pub struct MirrorState {
    /// Broadcast whenever a round, an attempt to attach or a request has finished.
    changed: UnsafeCell<pg_sys::ConditionVariable>,
    pub ended: Ended,
    /// Transactions enter it before the first of their lines is in the ring, and leave it without the lock once they have ended.
    pub owners: Owners,
    /// Transactions that have aborted or were prepared, with ids that the application gave.
    pub left_ids: AtomicU64,
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

    /// # Safety
    /// The lock is the one that guards these fields: whoever uses them has taken the same.
    pub unsafe fn locked_by(&self, lock: LockGuard) -> LockedMirror<'_> {
        LockedMirror { fields: &mut *self.fields.get(), _lock: lock }
    }

    /// Copies lines into the ring; the caller has made sure of the room.
    pub fn put(&self, fields: &mut LockedMirror<'_>, lines: &[u8]) {
        let at = (fields.head % RING_BYTES as u64) as usize;
        let first = lines.len().min(RING_BYTES - at);
        let ring = self.ring.get().cast::<u8>();
        // SAFETY: both copies stay inside the ring, and outside tail..head, which is all that a round reads; other
        // backends are kept out by the lock in `fields`.
        unsafe {
            std::ptr::copy_nonoverlapping(lines.as_ptr(), ring.add(at), first);
            std::ptr::copy_nonoverlapping(lines.as_ptr().add(first), ring, lines.len() - first);
        }
        fields.head += lines.len() as u64;
    }

    /// The one or two pieces of the ring between two positions, read without the lock.
    ///
    /// # Safety
    /// Only the process that has begun a round may call this, for positions between tail and head as it saw them: nobody
    /// writes there until it moves the tail.
    pub unsafe fn pieces(&self, from: u64, to: u64) -> [&[u8]; 2] {
        let length = (to - from) as usize;
        let at = (from % RING_BYTES as u64) as usize;
        let first = length.min(RING_BYTES - at);
        let ring = self.ring.get().cast::<u8>();
        [std::slice::from_raw_parts(ring.add(at), first), std::slice::from_raw_parts(ring, length - first)]
    }

    /// Forgets everything about the file; for a slot that nobody uses.
    pub fn detach(&self, mut fields: LockedMirror<'_>) {
        fields.fail("The mirror file was closed.", 0);
        fields.attachment = Attachment::Detached;
        // A round that is under way now ends without a trace.
        fields.identity.generation += 1;
        (fields.head, fields.tail, fields.shift, fields.durable, fields.promised) = (0, 0, 0, 0, 0);
        (fields.void, fields.voiding, fields.last_block) = (FileRanges::NONE, FileRanges::NONE, 0);
        (fields.suspect, fields.ownership) = (false, Ownership::default());
        fields.end_request();
        (fields.appending, fields.is_troubled, fields.is_refused) = (0, false, false);
        self.owners.clear();
        (fields.must_be_read, fields.has_lost, fields.unsynced) = (false, false, Unsynced::NONE);
        fields.prepared.iter_mut().for_each(|lines| lines.xid = 0);
        fields.was_attached = false;
    }

    /// Wakes everyone who waits for this mirror. Never called with the lock held.
    pub fn broadcast(&self) {
        self.wake(Rounds::ALL);
    }

    /// Wakes those who wait for one of these rounds, and those who wait for anything else.
    pub fn wake(&self, rounds: Rounds) {
        self.ended.wake(rounds);
        // SAFETY: initialised in init(); lives in shared memory.
        unsafe { pg_sys::ConditionVariableBroadcast(self.changed.get()) }
    }

    /// Sleeps until a broadcast or for `timeout_ms`; true if time ran out. Can be cancelled: raises the ERROR then.
    pub fn sleep(&self, timeout_ms: i64, wait_event: u32) -> bool {
        // SAFETY: as in broadcast().
        unsafe { pg_sys::ConditionVariableTimedSleep(self.changed.get(), timeout_ms as _, wait_event) }
    }

    /// Sleeps until one of these rounds has ended since `count` was read, or for that long. Can be cancelled: raises the
    /// ERROR then.
    pub fn sleep_until_ended(&self, rounds: Rounds, count: u32, timeout_ms: i64, event: u32) {
        if !self.ended.sleep(rounds, count, timeout_ms, event) {
            self.sleep(timeout_ms, event);
        }
    }

    pub fn stop_sleeping() {
        // SAFETY: harmless when this process does not sleep on any.
        unsafe {
            pg_sys::ConditionVariableCancelSleep();
        }
    }
}
