//! What the current transaction has recorded, and what that forbids it. What happens when it ends is in
//! [`transaction_end`].
//!
//! [`transaction_end`]: super::transaction_end

use super::errorless;
use super::errors::Failure;
use super::extension;
use super::mirror::id_reuse::IdReuse;
use super::mirror::line_buffer::LineBuffer;
use super::pauses::Pause;
use super::settings::{self, may_prepare, MirrorMode};
use super::shared::resume_workers;
use crate::ledger::file_ranges::FileRange;
use crate::ledger::record::EntryLine;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::cell::RefCell;

/// The state before a subtransaction's part, which its rollback restores.
struct Mark {
    level: i32,
    line_bytes: u64,
    entries: i64,
    holds_sealing_lock: bool,
    sealed: Option<i64>,
}

/// What a commit has done about its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    /// They are in the file, at least handed to the operating system.
    Appended,
    /// The worker appends them later (modes async and off).
    Owed,
}

/// What to do for the launcher and the workers once the transaction has ended.
#[derive(Default)]
pub(super) struct AtEnd {
    /// Extensions of any kind that were created.
    pub created: Vec<pg_sys::Oid>,
    /// The ledger's extension is among them and still there. Found out before the commit, as nothing can be looked up
    /// after it.
    pub ledger_created: bool,
    /// The oid of the ledger's extension, if it was dropped at some time in this transaction.
    pub extension_dropped: Option<pg_sys::Oid>,
    /// No rollback to a savepoint has undone the drop.
    pub ledger_dropped: bool,
    pub databases_changed: bool,
    /// What keeps workers away from databases that commands need, each with the level of the subtransaction that has
    /// begun it.
    pub pauses: Vec<(i32, &'static Pause)>,
    /// This is COMMIT PREPARED or ROLLBACK PREPARED.
    pub prepared_decided: bool,
    /// The worker is to record rows that were there before their table was tracked.
    pub baseline_begun: bool,
}

impl AtEnd {
    /// Gives back the pauses of subtransactions at this level and below. Cannot fail.
    pub fn resume_from(&mut self, level: i32) {
        // Pauses were added in this order, so those of the innermost subtransaction come last.
        while let Some((_, pause)) = self.pauses.pop_if(|(of, _)| *of >= level) {
            resume_workers([pause]);
        }
    }

    /// Hands the pauses of a subtransaction to its parent.
    pub fn hand_up_pauses(&mut self, level: i32) {
        self.pauses.iter_mut().for_each(|(of, _)| *of = (*of).min(level - 1));
    }
}

pub(super) struct Transaction {
    pub lines: LineBuffer,
    /// The length of its lines, including those that are not made here.
    pub line_bytes: u64,
    pub entries: i64,
    /// Which lines may already hold its ids.
    pub repeats: IdReuse,
    marks: Vec<Mark>,
    /// The mode when the first entry was recorded. It holds for the whole transaction, so that what hash_and_record
    /// answered stays true if the setting is reloaded in between.
    pub mode: Option<MirrorMode>,
    /// Whether this transaction keeps others from sealing.
    pub holds_sealing_lock: bool,
    /// Entries this transaction has sealed, if it has.
    pub sealed: Option<i64>,
    /// The level of the subtransaction that rebuilds the ledger, if one does.
    pub import: Option<i32>,
    /// The epoch in which it counts among the transactions that have begun to commit and are not decided.
    pub undecided: Option<usize>,
    /// The part of the file that holds its lines, with lines of others between them, from PRE_COMMIT on.
    pub range: Option<FileRange>,
    /// What was done about the file, from PRE_COMMIT on.
    pub outcome: Option<Lines>,
    /// Its lines have been appended: what is recorded now would have none.
    pub is_closed: bool,
    /// This transaction has entered the prepared ones.
    pub is_preparing: bool,
    pub at_end: AtEnd,
}

thread_local! {
    pub(super) static CURRENT: RefCell<Transaction> = const { RefCell::new(Transaction::new()) };
}

/// The mirror mode that holds for this transaction.
pub fn mirror_mode() -> MirrorMode {
    CURRENT.with_borrow_mut(|current| *current.mode.get_or_insert_with(settings::mirror_mode))
}

/// Whether this transaction has created the ledger's extension. At the time of its creation an extension cannot be
/// looked up.
pub fn creates_ledger() -> bool {
    let created = CURRENT.with_borrow(|current| current.at_end.created.clone());
    !created.is_empty() && created.contains(&extension::oid())
}

/// Refuses to record or seal in the transaction that rebuilds the ledger: until it has committed, the mirror file is
/// that of the old ledger.
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

/// Refuses to record once the lines of this transaction have been appended.
pub fn require_open() -> Result<(), Failure> {
    if CURRENT.with_borrow(|current| !current.is_closed) {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "cannot record any more: the transaction has begun to commit",
    )
    .detail("Another library writes to a tracked table, or to the ledger, when a transaction commits.")
    .hint(
        "Name pg_notary before that library in shared_preload_libraries: what was loaded last comes first at a commit.",
    ))
}

/// Refuses to rebuild the ledger if this transaction has a part in the old one.
pub fn require_no_part() -> Result<(), Failure> {
    let recorded = CURRENT.with_borrow(|current| current.entries > 0);
    let refuse = |message| Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message);
    if recorded {
        return Err(refuse("cannot rebuild the ledger in a transaction that has recorded entries"));
    }
    if creates_ledger() {
        return Err(refuse("cannot rebuild the ledger in a transaction that creates an extension")
            .hint("Commit CREATE EXTENSION first."));
    }
    Ok(())
}

/// Notes that this transaction rebuilds the ledger.
pub fn note_import() {
    let level = errorless::nest_level();
    CURRENT.with_borrow_mut(|current| current.import = current.import.or(Some(level)));
}

/// Notes which lines may already hold an id of this transaction.
pub fn note_id(repeats: IdReuse) {
    CURRENT.with_borrow_mut(|current| current.repeats = current.repeats.min(repeats));
}

/// How many entries this transaction has recorded.
pub fn entries() -> i64 {
    CURRENT.with_borrow(|current| current.entries)
}

/// Who may already have used an id of this transaction.
pub fn repeats() -> IdReuse {
    CURRENT.with_borrow(|current| current.repeats)
}

/// Whether the application has given ids of this transaction.
pub fn gives_ids() -> bool {
    repeats() == IdReuse::Any
}

/// Queues the line of an entry that has just been inserted.
pub fn add_entry(entry: &EntryLine) {
    let mode = mirror_mode();
    CURRENT.with_borrow_mut(|current| {
        current.mark_level();
        current.entries += 1;
    });
    if mode != MirrorMode::Off {
        add_line(entry, mode);
    }
}

/// In mode async the worker makes the line, and here it is only counted. But if this server can prepare transactions,
/// this one may be prepared, and needs its lines.
fn add_line(entry: &EntryLine, mode: MirrorMode) {
    let is_only_counted = mode == MirrorMode::Async && !may_prepare();
    let bytes = match is_only_counted {
        true => CURRENT.with_borrow(|current| current.line_bytes) + entry.line_length() as u64 + 1,
        false => {
            let mut lines = TakenLines::take();
            lines.push(|out| entry.write_line(out));
            lines.len()
        }
    };
    CURRENT.with_borrow_mut(|current| current.line_bytes = bytes);
}

/// The lines, taken out of the transaction while Postgres is called with them. An ERROR there unwinds, and gives them
/// back. A FATAL ends the process without unwinding, and the abort that comes first must not find the transaction
/// borrowed: it would end half way, and leave locks and pins behind that hold up all others.
pub(super) struct TakenLines(LineBuffer);

impl TakenLines {
    pub fn take() -> TakenLines {
        TakenLines(CURRENT.with_borrow_mut(|current| std::mem::replace(&mut current.lines, LineBuffer::new())))
    }
}

impl std::ops::Deref for TakenLines {
    type Target = LineBuffer;
    fn deref(&self) -> &LineBuffer {
        &self.0
    }
}

impl std::ops::DerefMut for TakenLines {
    fn deref_mut(&mut self) -> &mut LineBuffer {
        &mut self.0
    }
}

impl Drop for TakenLines {
    fn drop(&mut self) {
        let lines = std::mem::replace(&mut self.0, LineBuffer::new());
        CURRENT.with_borrow_mut(|current| current.lines = lines);
    }
}

/// Calls `work` with the current transaction, for the callbacks at its end. If the process is ending, a borrow is never
/// given back.
pub(super) fn at_its_end<R>(work: impl FnOnce(&mut Transaction) -> R) -> R {
    CURRENT.with(|current| match current.try_borrow_mut() {
        Ok(mut current) => work(&mut current),
        // SAFETY: the flag is a global of this process. The frames that hold the borrow lie below proc_exit(), which
        // does not return to them, so nothing else uses the transaction any more.
        Err(_) if unsafe { pg_sys::proc_exit_inprogress } => work(unsafe { &mut *current.as_ptr() }),
        Err(_) => unreachable!("the transaction is borrowed at its end"),
    })
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

pub fn at_end_extension_created(extension: pg_sys::Oid) {
    CURRENT.with_borrow_mut(|current| current.at_end.created.push(extension));
}

/// The first one counts: if there was a ledger when the transaction began, it is that one. Others were created in the
/// transaction.
pub fn at_end_extension_dropped(extension: pg_sys::Oid) {
    CURRENT.with_borrow_mut(|current| {
        current.at_end.extension_dropped.get_or_insert(extension);
    });
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
        current.range = Some(current.range.unwrap_or(FileRange::NONE).and(range));
    });
}

/// Makes the pause of a worker that was just begun end together with the transaction, or with the subtransaction if
/// that is rolled back.
pub fn at_end_resume_worker(pause: &'static Pause) {
    let level = errorless::nest_level();
    CURRENT.with_borrow_mut(|current| current.at_end.pauses.push((level, pause)));
}

impl Transaction {
    const fn new() -> Transaction {
        Transaction {
            lines: LineBuffer::new(),
            line_bytes: 0,
            entries: 0,
            repeats: IdReuse::None,
            marks: Vec::new(),
            mode: None,
            holds_sealing_lock: false,
            sealed: None,
            import: None,
            undecided: None,
            range: None,
            outcome: None,
            is_closed: false,
            is_preparing: false,
            at_end: AtEnd {
                created: Vec::new(),
                ledger_created: false,
                extension_dropped: None,
                ledger_dropped: false,
                databases_changed: false,
                pauses: Vec::new(),
                prepared_decided: false,
                baseline_begun: false,
            },
        }
    }

    /// Notes where the current subtransaction begins, before it first changes what a rollback of it restores.
    fn mark_level(&mut self) {
        let level = errorless::nest_level();
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

    pub fn subtransaction_aborted(&mut self, level: i32) {
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
    pub fn subtransaction_committed(&mut self, level: i32) {
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

    /// Forgets all but the epoch in which it is not decided, and keeps memory for the next transaction. Cannot fail.
    pub fn clear(&mut self) {
        self.lines.clear();
        self.marks.clear();
        *self = Transaction {
            lines: std::mem::replace(&mut self.lines, LineBuffer::new()),
            marks: std::mem::take(&mut self.marks),
            undecided: self.undecided,
            ..Transaction::new()
        };
    }
}
