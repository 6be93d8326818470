//! What the current transaction has recorded, and what happens when it ends.
//!
//! Everything that can fail happens at PRE_COMMIT. At COMMIT and ABORT only counters move and a latch is set: an error
//! there would take the server down. The callbacks are registered once a process; pgrx's own register_xact_callback
//! lasts one transaction and leaks over PREPARE TRANSACTION.

use super::database;
use super::errors::{or_raise, Failure};
use super::mirror::append::{FileRange, Mirror};
use super::mirror::lines::LineBuffer;
use super::settings::{self, MirrorMode};
use crate::ledger::record::Entry;
use pgrx::{pg_guard, pg_sys, PgSqlErrorCode};
use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::atomic::Ordering;

/// Where a subtransaction's part begins.
struct Mark {
    level: i32,
    lines: u64,
    entries: i64,
}

/// What to do for the launcher and the workers once the transaction has ended.
#[derive(Default)]
struct AtEnd {
    extension_created: bool,
    extension_dropped: bool,
    databases_changed: bool,
    paused: Option<pg_sys::Oid>,
}

struct Transaction {
    lines: LineBuffer,
    entries: i64,
    /// An id may stand in the file already, in the line of a transaction that has aborted.
    may_repeat: bool,
    marks: Vec<Mark>,
    /// The mode when the first entry was recorded. It holds for the whole transaction, so that what hash_and_record
    /// answered stays true if the setting is reloaded in between.
    mode: Option<MirrorMode>,
    /// Whether this transaction keeps others from sealing.
    holds_sealing_lock: bool,
    /// Entries this transaction has sealed, if it has.
    sealed: Option<i64>,
    /// Counted among those that have begun to commit and whose fate is open.
    undecided: bool,
    /// Where the lines stand in the file, from PRE_COMMIT on.
    ranges: Vec<FileRange>,
    at_end: AtEnd,
}

thread_local! {
    static CURRENT: RefCell<Transaction> = const {
        RefCell::new(Transaction {
            lines: LineBuffer::new(),
            entries: 0,
            may_repeat: false,
            marks: Vec::new(),
            mode: None,
            holds_sealing_lock: false,
            sealed: None,
            undecided: false,
            ranges: Vec::new(),
            at_end: AtEnd { extension_created: false, extension_dropped: false, databases_changed: false, paused: None },
        })
    };
}

pub fn init() {
    // SAFETY: called once from _PG_init; the callbacks live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_transaction_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subtransaction_event), std::ptr::null_mut());
    }
}

/// The mirror mode that holds for this transaction.
pub fn mirror_mode() -> MirrorMode {
    CURRENT.with_borrow_mut(|current| *current.mode.get_or_insert_with(settings::mirror_mode))
}

/// Refuses to record in the transaction that creates the extension: the worker, which opens the mirror file, cannot see
/// the ledger before that transaction has committed, and it could not commit without the file.
pub fn require_committed_extension() -> Result<(), Failure> {
    let created_here = CURRENT.with_borrow(|current| current.at_end.extension_created);
    if !created_here || mirror_mode() == MirrorMode::Off || database::slot()?.1.worker.pid() != 0 {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "cannot record in the transaction that creates the extension",
    )
    .hint("Commit CREATE EXTENSION pg_notary first."))
}

/// Queues the line of an entry that has just been inserted. `may_repeat`: its id is the caller's, who may have used it in
/// a transaction that has aborted.
pub fn add_entry(entry: &Entry, may_repeat: bool) {
    let mode = mirror_mode();
    CURRENT.with_borrow_mut(|current| {
        current.mark_level();
        current.entries += 1;
        current.may_repeat |= may_repeat;
        if mode == MirrorMode::Sync {
            current.lines.push(|out| entry.write_line(out));
        }
    });
}

/// Whether this transaction has taken the lock that the worker needs too, to seal and to open the file.
pub fn holds_sealing_lock() -> bool {
    CURRENT.with_borrow(|current| current.holds_sealing_lock)
}

pub fn note_sealing_lock() {
    CURRENT.with_borrow_mut(|current| current.holds_sealing_lock = true);
}

/// Whether this transaction has sealed blocks, which are then visible to it but not committed.
pub fn has_sealed() -> bool {
    CURRENT.with_borrow(|current| current.sealed.is_some())
}

/// Notes that this transaction has sealed that many entries.
pub fn note_sealed(entries: i64) {
    CURRENT.with_borrow_mut(|current| current.sealed = Some(current.sealed.unwrap_or(0) + entries));
}

pub fn at_end_extension_created() {
    CURRENT.with_borrow_mut(|current| current.at_end.extension_created = true);
}

pub fn at_end_extension_dropped() {
    CURRENT.with_borrow_mut(|current| current.at_end.extension_dropped = true);
}

pub fn at_end_databases_changed() {
    CURRENT.with_borrow_mut(|current| current.at_end.databases_changed = true);
}

pub fn at_end_resume_worker(database: pg_sys::Oid) {
    CURRENT.with_borrow_mut(|current| current.at_end.paused = Some(database));
}

impl Transaction {
    /// Notes where the current subtransaction begins, when it records its first entry.
    fn mark_level(&mut self) {
        // SAFETY: only reads the state of this backend's transaction.
        let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
        if level > 1 && self.marks.last().is_none_or(|mark| mark.level < level) {
            self.marks.push(Mark { level, lines: self.lines.len(), entries: self.entries });
        }
    }

    fn subtransaction_aborted(&mut self, level: i32) {
        while self.marks.last().is_some_and(|mark| mark.level >= level) {
            let Some(mark) = self.marks.pop() else { return };
            self.lines.truncate(mark.lines);
            self.entries = mark.entries;
        }
    }

    /// Hands the subtransaction's part to its parent: at most one mark has its level.
    fn subtransaction_committed(&mut self, level: i32) {
        let parent_has_mark = self.marks.iter().rev().nth(1).is_some_and(|mark| mark.level >= level - 1);
        let Some(mark) = self.marks.last_mut().filter(|mark| mark.level >= level) else {
            return;
        };
        if level <= 2 || parent_has_mark {
            self.marks.pop();
        } else {
            mark.level = level - 1;
        }
    }

    /// The mirror, if this transaction has recorded or sealed. Nobody else is to take a slot in shared memory.
    fn mirror(&self) -> Option<Mirror> {
        let has_part = self.entries > 0 || self.undecided || self.sealed.is_some();
        has_part.then(|| database::mirror().ok()).flatten()
    }

    /// The transaction has ended: its lines are those of committed entries, or to be voided.
    fn decide(&mut self, mirror: &Mirror) {
        if std::mem::take(&mut self.undecided) {
            mirror.slot.undecided.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn clear(&mut self) {
        self.lines.clear();
        self.entries = 0;
        self.may_repeat = false;
        self.marks.clear();
        self.mode = None;
        self.holds_sealing_lock = false;
        self.sealed = None;
        self.ranges.clear();
        self.at_end = AtEnd::default();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_event(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_PRE_COMMIT => before_commit(),
        XACT_EVENT_PRE_PREPARE => before_prepare(),
        XACT_EVENT_COMMIT => after_commit(),
        XACT_EVENT_ABORT => after_abort(),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_subtransaction_event(
    event: pg_sys::SubXactEvent::Type,
    _subtransaction: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut c_void,
) {
    let level = pg_sys::GetCurrentTransactionNestLevel();
    CURRENT.with_borrow_mut(|current| match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => current.subtransaction_committed(level),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => current.subtransaction_aborted(level),
        _ => {}
    });
}

/// Appends the lines and waits until they are on disk; an error here aborts the transaction.
fn before_commit() {
    if CURRENT.with_borrow(|current| current.at_end.extension_created) {
        // Any extension: only now can it be looked up whether it is this one.
        // SAFETY: a catalog look-up inside a transaction.
        let is_here = unsafe { pg_sys::get_extension_oid(c"pg_notary".as_ptr(), true) != pg_sys::InvalidOid };
        CURRENT.with_borrow_mut(|current| current.at_end.extension_created = is_here);
    }
    if CURRENT.with_borrow(|current| current.entries > 0) {
        let mirror = or_raise(database::mirror());
        CURRENT.with_borrow_mut(|current| current.undecided = true);
        mirror.slot.begin_commit();
        append_lines(&mirror);
    }
    // Entries that a rolled-back savepoint took away may have left an empty temporary file.
    CURRENT.with_borrow_mut(|current| current.lines.close_spill());
}

fn append_lines(mirror: &Mirror) {
    let has_lines = CURRENT.with_borrow(|current| !current.lines.is_empty());
    if has_lines {
        if CURRENT.with_borrow(|current| current.may_repeat) {
            or_raise(mirror.wait_until_voided());
        }
        // Taken out while waiting: a cancelled wait unwinds through here, and ABORT must find the ranges.
        let mut lines = CURRENT.with_borrow_mut(|current| std::mem::replace(&mut current.lines, LineBuffer::new()));
        let outcome = append(mirror, &mut lines);
        lines.close_spill();
        CURRENT.with_borrow_mut(|current| current.lines = lines);
        or_raise(outcome);
    }
}

fn append(mirror: &Mirror, lines: &mut LineBuffer) -> Result<(), Failure> {
    let mut ranges = Ranges(Vec::new());
    mirror.append(lines, &mut ranges.0)
}

/// Where the lines of a running append stand; whatever way the append ends, the transaction learns it.
struct Ranges(Vec<FileRange>);

impl Drop for Ranges {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| current.ranges.append(&mut self.0));
    }
}

fn before_prepare() {
    if CURRENT.with_borrow(|current| current.entries > 0) {
        Failure::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot PREPARE a transaction that has recorded ledger entries",
        )
        .hint("Commit the transaction in one step, or record the entries in a transaction of their own.")
        .raise();
    }
}

fn after_commit() {
    CURRENT.with_borrow_mut(|current| {
        if let Some(mirror) = current.mirror() {
            // Counted as pending before it counts as decided: see attach::remember.
            if current.entries > 0 {
                mirror.slot.add_pending(current.entries, settings::block_size() as i64);
            }
            current.decide(&mirror);
            if let Some(sealed) = current.sealed {
                mirror.slot.pending.fetch_sub(sealed, Ordering::AcqRel);
                // The lines of the blocks are the worker's to write, now that the blocks are committed.
                mirror.slot.worker.wake();
            }
        }
        end(current, true);
    });
}

/// Leaves the lines to the worker, which voids those that reached the file.
fn after_abort() {
    CURRENT.with_borrow_mut(|current| {
        if let Some(mirror) = current.mirror() {
            if let (Some(first), Some(last)) = (current.ranges.first(), current.ranges.last()) {
                mirror.slot.mirror.lock(mirror.shared, mirror.slot).add_void(first.from, last.to);
                mirror.slot.worker.wake();
            }
            current.decide(&mirror);
        }
        end(current, false);
    });
}

fn end(current: &mut Transaction, committed: bool) {
    let at_end = std::mem::take(&mut current.at_end);
    current.clear();
    database::at_transaction_end(
        committed && at_end.extension_created,
        committed && at_end.extension_dropped,
        committed && at_end.databases_changed,
        at_end.paused,
    );
}
