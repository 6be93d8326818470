//! What the current transaction has recorded, and what happens when it ends.
//!
//! Everything that can fail happens at PRE_COMMIT. At COMMIT and ABORT only counters move and a latch is set: an error
//! there would take the server down. The callbacks are registered once a process; pgrx's own register_xact_callback
//! lasts one transaction and leaks over PREPARE TRANSACTION.

use super::database;
use super::errors::{or_raise, Failure};
use super::faults;
use super::mirror::append::{self, FileRange, Goal, Mirror};
use super::mirror::lines::LineBuffer;
use super::mirror::prepared;
use super::queue;
use super::settings::{self, MirrorMode};
use super::tracking;
use crate::ledger::record::Entry;
use pgrx::{pg_guard, pg_sys, PgSqlErrorCode};
use std::cell::RefCell;
use std::ffi::c_void;
use std::sync::atomic::Ordering;

/// Where a subtransaction's part begins: what was so before.
struct Mark {
    level: i32,
    line_bytes: u64,
    entries: i64,
    holds_sealing_lock: bool,
    sealed: Option<i64>,
}

/// What a commit does about the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// They are in the file, at least handed to the operating system.
    Appended,
    /// The worker appends them later (modes async and off).
    Owed,
}

/// What to do for the launcher and the workers once the transaction has ended.
#[derive(Default)]
struct AtEnd {
    extension_created: bool,
    extension_dropped: bool,
    databases_changed: bool,
    paused: Option<pg_sys::Oid>,
    /// This is COMMIT PREPARED or ROLLBACK PREPARED.
    prepared_decided: bool,
    /// The worker is to record rows that were there before their table was tracked.
    baseline_begun: bool,
}

struct Transaction {
    lines: LineBuffer,
    /// Those included that are not made here.
    line_bytes: u64,
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
    /// The level of the subtransaction that rebuilds the ledger, if one does.
    import: Option<i32>,
    /// Counted, in this epoch, among those that have begun to commit and whose fate is open.
    undecided: Option<usize>,
    /// Where the lines stand in the file, among those of others, from PRE_COMMIT on.
    range: Option<FileRange>,
    /// What was done about the file, from PRE_COMMIT on.
    outcome: Option<Lines>,
    /// This transaction has put itself among those that are prepared.
    is_preparing: bool,
    at_end: AtEnd,
}

thread_local! {
    static CURRENT: RefCell<Transaction> = const {
        RefCell::new(Transaction {
            lines: LineBuffer::new(),
            line_bytes: 0,
            entries: 0,
            may_repeat: false,
            marks: Vec::new(),
            mode: None,
            holds_sealing_lock: false,
            sealed: None,
            import: None,
            undecided: None,
            range: None,
            outcome: None,
            is_preparing: false,
            at_end: AtEnd {
                extension_created: false,
                extension_dropped: false,
                databases_changed: false,
                paused: None,
                prepared_decided: false,
                baseline_begun: false,
            },
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

/// Refuses to record or seal in the transaction that rebuilds the ledger: until it has committed, the mirror file is that
/// of the ledger before.
pub fn require_no_import() -> Result<(), Failure> {
    if CURRENT.with_borrow(|current| current.import.is_none()) {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "cannot record or seal in the transaction that rebuilds the ledger",
    )
    .hint("Commit the COPY first."))
}

/// Refuses to rebuild the ledger where this transaction has a part in the one before.
pub fn require_no_part() -> Result<(), Failure> {
    let (recorded, created) = CURRENT.with_borrow(|current| (current.entries > 0, current.at_end.extension_created));
    let refuse = |message| Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message);
    if recorded {
        return Err(refuse("cannot rebuild the ledger in a transaction that has recorded entries"));
    }
    if created {
        return Err(refuse("cannot rebuild the ledger in a transaction that creates an extension")
            .hint("Commit CREATE EXTENSION first."));
    }
    Ok(())
}

/// Notes that this transaction rebuilds the ledger.
pub fn note_import() {
    // SAFETY: only reads the state of this backend's transaction.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    CURRENT.with_borrow_mut(|current| current.import = current.import.or(Some(level)));
}

/// Queues the line of an entry that has just been inserted. `may_repeat`: its id is the caller's, who may have used it in
/// a transaction that has aborted.
pub fn add_entry(entry: &Entry, may_repeat: bool) {
    let mode = mirror_mode();
    CURRENT.with_borrow_mut(|current| {
        current.mark_level();
        current.entries += 1;
        current.may_repeat |= may_repeat;
        if mode != MirrorMode::Off {
            current.add_line(entry, mode);
        }
    });
}

/// Whether this transaction has taken the lock that the worker needs too, to seal and to open the file.
pub fn holds_sealing_lock() -> bool {
    CURRENT.with_borrow(|current| current.holds_sealing_lock)
}

pub fn note_sealing_lock() {
    CURRENT.with_borrow_mut(|current| {
        current.mark_level();
        current.holds_sealing_lock = true;
    });
}

/// Whether this transaction has recorded or sealed entries, and so keeps the worker from some of its work.
pub fn has_part() -> bool {
    CURRENT.with_borrow(|current| current.entries > 0 || current.holds_sealing_lock)
}

/// Whether this transaction has sealed blocks, which are then visible to it but not committed.
pub fn has_sealed() -> bool {
    CURRENT.with_borrow(|current| current.sealed.is_some())
}

/// Notes that this transaction has sealed that many entries.
pub fn note_sealed(entries: i64) {
    CURRENT.with_borrow_mut(|current| {
        current.mark_level();
        current.sealed = Some(current.sealed.unwrap_or(0) + entries);
    });
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

pub fn at_end_baseline_begun() {
    CURRENT.with_borrow_mut(|current| current.at_end.baseline_begun = true);
}

pub fn at_end_prepared_decided() {
    CURRENT.with_borrow_mut(|current| current.at_end.prepared_decided = true);
}

/// Notes where lines of this transaction stand in the file. Called with the mirror's lock held.
pub fn note_lines(range: FileRange) {
    CURRENT.with_borrow_mut(|current| {
        let so_far = current.range.unwrap_or(range);
        current.range = Some(FileRange { from: so_far.from.min(range.from), to: so_far.to.max(range.to) });
    });
}

pub fn at_end_resume_worker(database: pg_sys::Oid) {
    CURRENT.with_borrow_mut(|current| current.at_end.paused = Some(database));
}

impl Transaction {
    /// In mode async the worker makes the line, unless the transaction is prepared; here it is only counted.
    fn add_line(&mut self, entry: &Entry, mode: MirrorMode) {
        if mode == MirrorMode::Async && !prepared::may_prepare() {
            self.line_bytes += entry.as_line().line_length() as u64 + 1;
        } else {
            self.lines.push(|out| entry.write_line(out));
            self.line_bytes = self.lines.len();
        }
    }

    /// Notes where the current subtransaction begins, before it first changes what a rollback of it restores.
    fn mark_level(&mut self) {
        // SAFETY: only reads the state of this backend's transaction.
        let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
        if level > 1 && self.marks.last().is_none_or(|mark| mark.level < level) {
            self.marks.push(Mark {
                level,
                line_bytes: self.line_bytes,
                entries: self.entries,
                holds_sealing_lock: self.holds_sealing_lock,
                sealed: self.sealed,
            });
        }
    }

    fn subtransaction_aborted(&mut self, level: i32) {
        self.import = self.import.filter(|of| *of < level);
        while self.marks.last().is_some_and(|mark| mark.level >= level) {
            let Some(mark) = self.marks.pop() else { return };
            self.lines.truncate(mark.line_bytes);
            self.line_bytes = mark.line_bytes;
            self.entries = mark.entries;
            // The lock is released, and the blocks are gone.
            self.holds_sealing_lock = mark.holds_sealing_lock;
            self.sealed = mark.sealed;
        }
    }

    /// Hands the subtransaction's part to its parent: at most one mark has its level.
    fn subtransaction_committed(&mut self, level: i32) {
        self.import = self.import.map(|of| of.min(level - 1));
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

    /// The mirror, if this transaction has recorded, sealed or imported. Nobody else is to take a slot in shared memory.
    fn mirror(&self) -> Option<Mirror> {
        let has_recorded = self.entries > 0 || self.undecided.is_some() || self.range.is_some();
        let has_part = has_recorded || self.sealed.is_some() || self.import.is_some();
        (has_part || self.at_end.prepared_decided).then(|| database::mirror().ok()).flatten()
    }

    /// The transaction has ended: its lines are those of committed entries, to be voided, or a prepared transaction's.
    fn decide(&mut self, mirror: &Mirror) {
        if let Some(epoch) = self.undecided.take() {
            mirror.slot.end_commit(epoch);
        }
    }

    /// The entries are committed, or prepared, and the file lacks their lines.
    fn owe_lines(&mut self, mirror: &Mirror) {
        if self.outcome == Some(Lines::Owed) {
            let was_behind = mirror.slot.behind.swap(true, Ordering::SeqCst);
            mirror.slot.committing_behind.fetch_sub(1, Ordering::SeqCst);
            if !was_behind {
                mirror.slot.worker.wake();
            }
        }
    }

    /// Counts what is committed and not on disk in the file. Cannot fail.
    fn count_lag(&self, mirror: &Mirror) {
        // SAFETY: reads a variable that the commit has set.
        let now = unsafe { pg_sys::GetCurrentTransactionStopTimestamp() };
        let add = || mirror.slot.lag.add(self.entries, self.line_bytes, now);
        match self.mode {
            Some(MirrorMode::Async) => add(),
            Some(MirrorMode::Write) => {
                // Held while it is added: the writer, which has synced the last lines, takes all off under the same lock.
                let fields = mirror.lock();
                if self.range.is_none_or(|range| range.to > fields.durable) {
                    add();
                }
            }
            _ => {}
        }
    }

    fn clear(&mut self) {
        self.lines.clear();
        self.line_bytes = 0;
        self.entries = 0;
        self.may_repeat = false;
        self.marks.clear();
        self.mode = None;
        self.holds_sealing_lock = false;
        self.sealed = None;
        self.import = None;
        self.range = None;
        self.outcome = None;
        self.is_preparing = false;
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
        XACT_EVENT_PREPARE => after_prepare(),
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
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
            current.subtransaction_committed(level);
            queue::subtransaction_committed(level);
        }
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            current.subtransaction_aborted(level);
            queue::subtransaction_aborted(level);
            tracking::after_rollback();
        }
        _ => {}
    });
}

/// Appends the lines and waits until they are on disk; an error here aborts the transaction.
fn before_commit() {
    queue::flush_before_commit();
    if CURRENT.with_borrow(|current| current.at_end.extension_created) {
        // Any extension: only now can it be looked up whether it is this one.
        // SAFETY: a catalog look-up inside a transaction.
        let is_here = unsafe { pg_sys::get_extension_oid(c"pg_notary".as_ptr(), true) != pg_sys::InvalidOid };
        CURRENT.with_borrow_mut(|current| current.at_end.extension_created = is_here);
    }
    if CURRENT.with_borrow(|current| current.entries > 0) {
        append_lines(&or_raise(database::mirror()), false);
        faults::at("before_commit");
    }
    // Entries that a rolled-back savepoint took away may have left an empty temporary file.
    CURRENT.with_borrow_mut(|current| current.lines.close_spill());
}

/// Has the lines in the file as far as the mode promises it, and notes what is owed to it otherwise.
fn append_lines(mirror: &Mirror, prepare: bool) {
    let (mode, may_repeat) = CURRENT.with_borrow_mut(|current| {
        current.undecided = Some(mirror.slot.begin_commit());
        (current.mode.unwrap_or(MirrorMode::Off), current.may_repeat)
    });
    let goal = match mode {
        MirrorMode::Sync => Some(Goal::Synced),
        MirrorMode::Write => Some(Goal::Written),
        // What is prepared may stay so for long, and recovery must find its lines. But nobody waits for a broken file.
        MirrorMode::Async if prepare && mirror.is_attached() => Some(Goal::Written),
        MirrorMode::Async | MirrorMode::Off => None,
    };
    let appended = match goal {
        Some(goal) => append_to_file(mirror, goal, may_repeat).or_else(|failure| match mode {
            MirrorMode::Async => Ok(false),
            _ => Err(failure),
        }),
        None => Ok(false),
    };
    let outcome = if or_raise(appended) { Lines::Appended } else { Lines::Owed };
    if outcome == Lines::Owed {
        // Before the entries are visible to whoever seals: see blocks::seal_batch.
        mirror.slot.committing_behind.fetch_add(1, Ordering::SeqCst);
    }
    CURRENT.with_borrow_mut(|current| current.outcome = Some(outcome));
}

fn append_to_file(mirror: &Mirror, goal: Goal, may_repeat: bool) -> Result<bool, Failure> {
    if CURRENT.with_borrow(|current| current.lines.is_empty()) {
        return Ok(true);
    }
    if may_repeat {
        mirror.wait_until_voided()?;
    }
    // Taken out while waiting: a cancelled wait unwinds through here, and ABORT must be able to borrow.
    let mut lines = CURRENT.with_borrow_mut(|current| std::mem::replace(&mut current.lines, LineBuffer::new()));
    let outcome = mirror.append(&mut lines, goal);
    lines.close_spill();
    CURRENT.with_borrow_mut(|current| current.lines = lines);
    outcome
}

/// As before a commit; then whoever decides about the transaction is told where its lines are.
fn before_prepare() {
    queue::flush_before_commit();
    let (entries, sealed) = CURRENT.with_borrow(|current| (current.entries, current.sealed));
    if sealed.is_some() {
        Failure::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot PREPARE a transaction that has called ledger.commit_block()",
        )
        .detail("It would keep everyone else from sealing until it is decided.")
        .hint("Call ledger.commit_block() in a transaction of its own.")
        .raise();
    }
    if CURRENT.with_borrow(|current| current.import.is_some()) {
        Failure::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot PREPARE a transaction that has rebuilt the ledger",
        )
        .hint("Commit the transaction in one step.")
        .raise();
    }
    if entries > 0 {
        let mirror = or_raise(database::mirror());
        append_lines(&mirror, true);
        let (range, outcome) = CURRENT.with_borrow(|current| (current.range, current.outcome));
        if let (Some(range), Some(Lines::Appended)) = (range, outcome) {
            CURRENT.with_borrow_mut(|current| current.is_preparing = true);
            or_raise(prepared::note(&mirror, range));
        }
    }
    CURRENT.with_borrow_mut(|current| current.lines.close_spill());
}

/// The entries are not pending yet; what is known of their lines stands in shared memory.
fn after_prepare() {
    CURRENT.with_borrow_mut(|current| {
        if let Some(mirror) = current.mirror() {
            current.owe_lines(&mirror);
            current.decide(&mirror);
        }
        end(current, false);
    });
}

/// The ledger is another one now. Before anybody can record in it the file of the one before is closed, as this
/// transaction still holds its locks.
fn import_committed(mirror: &Mirror) {
    mirror.slot.mirror.close(mirror.shared, mirror.slot);
    mirror.slot.recount.store(true, Ordering::Release);
    mirror.slot.worker.wake();
}

fn after_commit() {
    CURRENT.with_borrow_mut(|current| {
        if let Some(mirror) = current.mirror() {
            // Counted as pending before it counts as decided: see Mark in mirror/settled.rs.
            if current.entries > 0 {
                faults::at("after_commit");
                mirror.slot.add_pending(current.entries, settings::block_size() as i64);
                current.count_lag(&mirror);
            }
            current.owe_lines(&mirror);
            current.decide(&mirror);
            if let Some(sealed) = current.sealed {
                mirror.slot.pending.fetch_sub(sealed, Ordering::AcqRel);
                // The lines of the blocks are the worker's to write, now that the blocks are committed.
                mirror.slot.worker.wake();
            }
            if current.import.is_some() {
                import_committed(&mirror);
            }
        }
        end(current, true);
    });
}

/// Leaves the lines to the worker, which voids those that reached the file.
fn after_abort() {
    if append::is_under_way() {
        if let Ok(mirror) = database::mirror() {
            mirror.abandon();
        }
    }
    CURRENT.with_borrow_mut(|current| {
        if let Some(mirror) = current.mirror() {
            if let Some(range) = current.range {
                let mut fields = mirror.lock();
                if current.is_preparing {
                    fields.forget_prepared(prepared::own_xid());
                }
                fields.add_void(range.from, range.to);
                drop(fields);
                mirror.slot.worker.wake();
            }
            if current.outcome == Some(Lines::Owed) {
                mirror.slot.committing_behind.fetch_sub(1, Ordering::SeqCst);
            }
            current.decide(&mirror);
        }
        end(current, false);
    });
}

fn end(current: &mut Transaction, committed: bool) {
    let at_end = std::mem::take(&mut current.at_end);
    if at_end.baseline_begun {
        database::baseline_begun();
    }
    if !committed {
        tracking::after_rollback();
    }
    tracking::at_end();
    queue::clear();
    current.clear();
    if at_end.prepared_decided {
        prepared::after_decision();
    }
    database::at_transaction_end(
        committed && at_end.extension_created,
        committed && at_end.extension_dropped,
        committed && at_end.databases_changed,
        at_end.paused,
    );
}
