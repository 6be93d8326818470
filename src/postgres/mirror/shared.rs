//! What all processes of a database know of its mirror file, in shared memory: how far it is written, and the ring of
//! lines that wait to be.
//!
//! Sessions copy their lines into the ring under a short lock. One process at a time writes and syncs what all of them
//! have put there. Offsets in the ring and in the file differ by a constant that changes only while the ring is empty.

use super::cause::{Cause, CauseKind};
use super::file_identity::FileIdentity;
use super::fixed_text::FixedText;
use super::last_change::LastChange;
use super::owners::Owners;
use super::reopening::{Reopening, Unsynced};
use super::round_waiters::{Ended, Rounds};
use crate::ledger::file_ranges::{FileRange, FileRanges};
use crate::postgres::errorless;
use crate::postgres::locks::LockGuard;
use pgrx::pg_sys;
use std::cell::UnsafeCell;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicU64;
use uuid::Uuid;

/// Bytes that can wait for the next round: a few hundred commits of one entry. More would only make the rounds larger.
pub const RING_BYTES: usize = 256 * 1024;
/// Room for the worker's answer to a request: a path, or why it could not be done.
pub const ANSWER_BYTES: usize = 1280;
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
    pub fn as_str(self) -> &'static str {
        match self {
            Attachment::Detached => "detached",
            Attachment::Attached => "attached",
            Attachment::Failed => "failed",
            Attachment::Repairing => "repairing",
            Attachment::Off => "off",
        }
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
    /// Made anew at each attachment. The database remembers it.
    pub attachment: [u8; 16],
    /// The attachment that the database remembered before.
    pub previous: [u8; 16],
    /// The database remembers this attachment.
    pub is_remembered: bool,
}

impl Ownership {
    /// Whether the database that remembers `own` has made this attachment. If the attempt to open the file has failed,
    /// it does not remember this one.
    pub fn is_of(&self, own: Uuid) -> bool {
        let is_to_be_remembered = self.previous == *own.as_bytes() && !self.is_remembered;
        self.attachment == *own.as_bytes() || is_to_be_remembered
    }
}

/// Guarded by the slot's mirror lock.
#[repr(C)]
pub struct MirrorFields {
    pub attachment: Attachment,
    /// Attempts to attach that have ended, with or without success. A session that asked for one waits until there is
    /// one more.
    pub attempts: u64,
    pub identity: FileIdentity,
    pub path: FixedText<1024>,
    pub cause: Cause,
    /// The file has been attached since the server started. Until then, the database may be one that was put back to an
    /// older state.
    pub was_attached: bool,
    /// Another program has changed the file: all of it is to be verified before it is written again.
    pub suspect: bool,
    /// Rounds of work that have begun.
    pub rounds: u64,
    /// A round is under way, since that time.
    pub writing: bool,
    pub writing_since: pg_sys::TimestampTz,
    /// The writer has not logged the last failure yet.
    pub is_failure_unnamed: bool,
    /// The file is on a file system of this machine, not on a network mount.
    pub is_local: bool,
    /// The writer knows that since it last looked the file was opened, or sessions have written to it, and that they
    /// have left something to sync.
    pub is_attended: bool,
    pub is_sync_attended: bool,
    /// When the settings that say there is to be no file were read.
    pub off_as_of: pg_sys::TimestampTz,
    /// Processes that have put lines into the ring and wait for more room or for the file.
    pub appending: u32,
    /// The file must be opened anew before anything more is appended: it may hold lines that the process which appended
    /// them does not know of.
    pub must_be_read: bool,
    pub reopening: Reopening,
    /// The last sync, or the write before it, has failed, and none has succeeded since. `cause` says why.
    pub is_troubled: bool,
    /// A write or sync has failed, and what was written could not be cut off either. Opening the file again does not
    /// repair that by itself.
    pub is_refused: bool,
    /// Where a line begins that is going through the ring piece by piece: no other process may put lines there. 0:
    /// none.
    pub unfinished: u64,
    /// Where the last such line stands, even once it is whole in the ring: a part of it alone must not stay in the
    /// file.
    pub long_line_from: u64,
    pub long_line_to: u64,
    /// Where such a line begins that will never become whole: the file is to be cut back there. 0: none.
    pub cut_to: u64,
    /// Ring positions: what has been copied in, and what has been written out.
    pub head: u64,
    pub tail: u64,
    /// File offset of ring position `p` is `p + shift`, wrapping: a failed write uses up positions, but no offsets.
    pub shift: u64,
    /// File offset up to which everything is on disk.
    pub durable: u64,
    /// File offset up to which a session waits for everything to be on disk.
    pub sync_wanted: u64,
    /// File offset up to which commits rely on lines that were written and need not be synced (mode write).
    pub promised: u64,
    /// When the file was last written.
    pub last_change: LastChange,
    /// When the directory was last found to be safe from other users.
    pub directory_seen: pg_sys::TimestampTz,
    /// Writes that failed. Each cuts the file back and discards everything that waits.
    pub failures: u64,
    /// How much of the file the last failure left.
    pub kept_at_failure: u64,
    /// The worker keeps account of which entries have lines (mode async), and must be told what others append.
    pub is_followed: bool,
    /// The part of the file in which others have appended since the worker last looked; empty if both are equal.
    pub others_from: u64,
    pub others_to: u64,
    /// Parts of the file in which lines of aborted transactions may stand.
    pub void: FileRanges,
    /// Those that the worker has taken and is voiding.
    pub voiding: FileRanges,
    /// The last block whose line is in the file.
    pub last_block: i64,
    pub prepared: [PreparedLines; MAX_PREPARED],
    pub request: Request,
    /// The worker has begun the request, and finishes it even if its session has stopped waiting.
    pub request_begun: bool,
    pub request_given_up: bool,
    /// Requests that have been answered, and the last answer.
    pub requests_done: u64,
    pub request_failed: bool,
    pub request_answer: FixedText<ANSWER_BYTES>,
    /// If it has failed: the kind of the cause, and whether the old file has been put aside nevertheless.
    pub request_cause: CauseKind,
    pub request_has_kept: bool,
    pub ownership: Ownership,
    /// That of the last attachment which the database remembers. Attempts that failed since have changed `ownership`.
    pub remembered: Ownership,
    /// Syncs since the server started, for the view.
    pub syncs: u64,
}

impl MirrorFields {
    /// Offset of the end of everything written or waiting.
    pub fn end(&self) -> u64 {
        self.head.wrapping_add(self.shift)
    }

    /// The rounds that may put the lines of round `number` on disk: that round, or if it has begun, the one under way
    /// and the next.
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

    /// The end of the last whole line before this offset.
    pub fn lines_before(&self, offset: u64) -> u64 {
        match self.long_line_from < offset && offset < self.long_line_to {
            true => self.long_line_from,
            false => offset,
        }
    }

    /// Whether a round has something to do: lines to write, lines to sync, or a cut.
    pub fn has_work(&self) -> bool {
        self.head != self.tail || self.sync_wanted > self.durable || self.cut_to != 0
    }

    /// Discards everything behind the offset `keep`. The file may still hold some of it.
    pub fn fail(&mut self, kind: CauseKind, cause: &str, keep: u64) {
        self.reopening.note_uncut(keep);
        self.failures += 1;
        self.kept_at_failure = keep;
        self.cause.set(kind, cause);
        self.head = self.tail;
        self.shift = keep.wrapping_sub(self.tail);
        self.durable = self.durable.min(keep);
        self.sync_wanted = self.sync_wanted.min(keep);
        (self.unfinished, self.cut_to) = (0, 0);
        (self.long_line_from, self.long_line_to) = (0, 0);
    }

    /// Forgets the lines of all prepared transactions.
    pub fn forget_all_prepared(&mut self) {
        self.prepared.iter_mut().for_each(|lines| lines.xid = 0);
    }

    /// Lets no lines in until a worker has attached the file again.
    pub fn close(&mut self) {
        self.attachment = Attachment::Detached;
    }

    /// Ends the request, if there is one: its ledger is gone, and no worker answers.
    fn refuse_request(&mut self) {
        if self.request != Request::None {
            self.requests_done += 1;
            self.request_failed = true;
            self.request_answer.set("The ledger was dropped.");
            (self.request_cause, self.request_has_kept) = (CauseKind::Other, false);
        }
        self.end_request();
    }

    /// Ends the request.
    pub fn end_request(&mut self) {
        (self.request, self.request_begun, self.request_given_up) = (Request::None, false, false);
    }

    /// Notes that a sync has failed for what stands behind `from`, and that it still stands there.
    pub fn note_unsynced(&mut self, device: u64, inode: u64, from: u64) {
        self.reopening.unsynced = Unsynced::behind(from, device, inode);
        self.reopening.has_lost |= from < self.promised;
    }

    /// Notes that a sync of this file has failed, and that nothing of it is known to be on disk.
    pub fn note_all_unsynced(&mut self, file: &Metadata) {
        self.reopening.unsynced = Unsynced::behind(0, file.dev(), file.ino());
    }

    /// Whether this server has had this very file attached last.
    pub fn has_attached(&self, file: &Metadata) -> bool {
        self.was_attached && self.identity.is_of(file)
    }

    /// Notes what a session appends. To be called before the commit, so that a process that sees the entry can know of
    /// its line.
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

    /// Whether the file may hold lines of aborted transactions that are not voided.
    pub fn has_aborted(&self) -> bool {
        !(self.void.is_empty() && self.voiding.is_empty())
    }

    /// The same, for lines before this offset.
    pub fn has_aborted_before(&self, offset: u64) -> bool {
        self.void.begins_before(offset) || self.voiding.begins_before(offset)
    }

    /// Whether the line at this offset may be such a line.
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
    /// A transaction enters before its first line is in the ring. It leaves, without the lock, once it has ended.
    pub owners: Owners,
    /// Counts the transactions with ids from the application that have aborted or were prepared.
    pub left_ids: AtomicU64,
    fields: UnsafeCell<MirrorFields>,
    ring: UnsafeCell<[u8; RING_BYTES]>,
}

/// The fields, together with the held lock that guards them.
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
    /// The lock is the one that guards these fields: every user of them takes the same one.
    pub unsafe fn locked_by(&self, lock: LockGuard) -> LockedMirror<'_> {
        LockedMirror { fields: &mut *self.fields.get(), _lock: lock }
    }

    /// Copies lines into the ring. The caller has made sure that there is room.
    pub fn put(&self, fields: &mut LockedMirror<'_>, lines: &[u8]) {
        let at = (fields.head % RING_BYTES as u64) as usize;
        let first = lines.len().min(RING_BYTES - at);
        let ring = self.ring.get().cast::<u8>();
        // SAFETY: both copies stay inside the ring and outside tail..head, which is all that a round reads. The lock in
        // `fields` keeps other sessions out.
        unsafe {
            std::ptr::copy_nonoverlapping(lines.as_ptr(), ring.add(at), first);
            std::ptr::copy_nonoverlapping(lines.as_ptr().add(first), ring, lines.len() - first);
        }
        fields.head += lines.len() as u64;
    }

    /// The one or two pieces of the ring between two positions, read without the lock.
    ///
    /// # Safety
    /// Only the process that has begun a round may call this, for positions between tail and head as it saw them: no
    /// process writes there until it moves the tail.
    pub unsafe fn pieces(&self, from: u64, to: u64) -> [&[u8]; 2] {
        let length = (to - from) as usize;
        let at = (from % RING_BYTES as u64) as usize;
        let first = length.min(RING_BYTES - at);
        let ring = self.ring.get().cast::<u8>();
        [std::slice::from_raw_parts(ring.add(at), first), std::slice::from_raw_parts(ring, length - first)]
    }

    /// Forgets everything about the file, for a slot that is no longer used.
    pub fn detach(&self, mut fields: LockedMirror<'_>) {
        fields.fail(CauseKind::Passing, "The mirror file was closed.", 0);
        fields.attachment = Attachment::Detached;
        // A round that is under way now ends without effect.
        fields.identity.generation += 1;
        (fields.head, fields.tail, fields.shift, fields.durable, fields.promised) = (0, 0, 0, 0, 0);
        (fields.void, fields.voiding, fields.last_block) = (FileRanges::NONE, FileRanges::NONE, 0);
        (fields.suspect, fields.ownership) = (false, Ownership::default());
        fields.refuse_request();
        (fields.appending, fields.is_troubled, fields.is_refused) = (0, false, false);
        self.owners.clear();
        (fields.must_be_read, fields.reopening) = (false, Reopening::NOTHING_KNOWN);
        fields.forget_all_prepared();
        fields.was_attached = false;
    }

    /// Wakes all processes that wait for this mirror. Must not be called with the lock held.
    pub fn broadcast(&self) {
        self.wake(Rounds::ALL);
    }

    /// Wakes the processes that wait for one of these rounds, and all that wait for anything else.
    pub fn wake(&self, rounds: Rounds) {
        self.ended.wake(rounds);
        // SAFETY: init() has initialised the condition variable, which lives in shared memory as long as the server.
        unsafe { errorless::broadcast(self.changed.get()) }
    }

    /// Sleeps until a broadcast or for `timeout_ms`; true if time ran out. A cancel raises an ERROR.
    pub fn sleep(&self, timeout_ms: i64, wait_event: u32) -> bool {
        // SAFETY: init() has initialised the condition variable, which lives in shared memory as long as the server.
        unsafe { pg_sys::ConditionVariableTimedSleep(self.changed.get(), timeout_ms as _, wait_event) }
    }

    /// Sleeps until one of these rounds has ended since `count` was read, or for that long. A cancel raises an ERROR.
    pub fn sleep_until_ended(&self, rounds: Rounds, count: u32, timeout_ms: i64, event: u32) {
        if !self.ended.sleep(rounds, count, timeout_ms, event) {
            self.sleep(timeout_ms, event);
        }
    }

    pub fn stop_sleeping() {
        // SAFETY: does nothing if this process does not sleep on a condition variable.
        unsafe {
            pg_sys::ConditionVariableCancelSleep();
        }
    }
}
