//! The end of a transaction that has recorded, sealed or imported. Its lines reach the file before it commits, or the
//! worker is told to append them later or to void them.
//!
//! Everything that can fail happens at PRE_COMMIT and PRE_PREPARE. At COMMIT and ABORT only counters move and a latch
//! is set: an error there would take the server down.
//!
//! The callbacks are registered once a process. pgrx's own register_xact_callback lasts one transaction, and leaks over
//! PREPARE TRANSACTION.

use super::database;
use super::errorless::{self, own_xid};
use super::errors::{or_raise, Failure};
use super::extension;
use super::faults;
use super::items::pending;
use super::mirror::append::Goal;
use super::mirror::handle::Mirror;
use super::mirror::id_reuse::IdReuse;
use super::mirror::{lost_commits, prepared, requests, round, under_way};
use super::new_ids;
use super::queue;
use super::settings::{self, MirrorMode};
use super::shared::{resume_workers, shared};
use super::tracking;
use super::transaction::{at_its_end, creates_ledger, Lines, TakenLines, Transaction, CURRENT};
use pgrx::{pg_guard, pg_sys, PgSqlErrorCode};
use std::ffi::c_void;
use std::sync::atomic::Ordering;

pub fn init() {
    // SAFETY: called once from _PG_init; the callbacks live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_transaction_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subtransaction_event), std::ptr::null_mut());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_event(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    if matches!(event, XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE) {
        tracking::parallel_apply::keep_warnings_from_leader();
    }
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
    let level = errorless::nest_level();
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_PRE_COMMIT_SUB {
        tracking::parallel_apply::keep_warnings_from_leader();
    }
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        // An append of block lines may be under way. When lines of entries are appended, there is no subtransaction any
        // more.
        abandon_waits();
        // The command that needed the pauses has failed, or was rolled back.
        at_its_end(|current| current.at_end.resume_from(level));
    }
    at_its_end(|current| match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
            current.subtransaction_committed(level);
            current.at_end.hand_up_pauses(level);
            queue::subtransaction_committed(level);
            pending::subtransaction_committed(level);
        }
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            current.subtransaction_aborted(level);
            queue::subtransaction_aborted(level);
            pending::subtransaction_aborted(level);
            tracking::after_rollback(level);
        }
        _ => {}
    });
}

/// Appends the lines and waits until they are on disk; an error here aborts the transaction.
fn before_commit() {
    lost_commits::note_recovery_alone();
    queue::flush_before_commit();
    let (ledger_created, ledger_dropped) = (creates_ledger(), has_dropped_ledger());
    if ledger_created {
        database::warn_if_too_many();
    }
    CURRENT.with_borrow_mut(|current| {
        (current.at_end.ledger_created, current.at_end.ledger_dropped) = (ledger_created, ledger_dropped);
    });
    if CURRENT.with_borrow(|current| current.entries > 0) {
        append_lines(&or_raise(database::mirror()), false);
        faults::at("before_commit");
    }
    if CURRENT.with_borrow(|current| current.import.is_some()) {
        // A file gives the ids of all its entries.
        IdReuse::Any.give(or_raise(database::mirror()).slot);
    }
    // A savepoint that was rolled back may have left an empty temporary file.
    TakenLines::take().close_spill();
    CURRENT.with_borrow_mut(|current| current.is_closed = true);
}

/// Puts the lines into the file as far as the mode promises, and notes what the file still lacks.
fn append_lines(mirror: &Mirror, prepare: bool) {
    let (mode, repeats) = CURRENT.with_borrow_mut(|current| {
        current.undecided = Some(mirror.slot.begin_commit());
        (current.mode.unwrap_or(MirrorMode::Off), current.repeats)
    });
    repeats.give(mirror.slot);
    let goal = match mode {
        MirrorMode::Sync => Some(Goal::Synced),
        MirrorMode::Write => Some(Goal::Written),
        // A transaction may stay prepared for long, and recovery must find its lines. But PREPARE does not wait for a
        // broken file.
        MirrorMode::Async if prepare && mirror.is_attached() => Some(Goal::Written),
        MirrorMode::Async | MirrorMode::Off => None,
    };
    let appended = match goal {
        Some(goal) => append_to_file(mirror, goal, repeats).or_else(|failure| match mode {
            // Lines that may reach the file nevertheless must be noted or voided: so the transaction cannot be
            // prepared.
            MirrorMode::Async if CURRENT.with_borrow(|current| current.range.is_none()) => Ok(false),
            _ => Err(failure),
        }),
        None => Ok(false),
    };
    let outcome = if or_raise(appended) { Lines::Appended } else { Lines::Owed };
    match outcome {
        // Otherwise, with synchronous_commit off, a crash could undo the transaction after it was acknowledged,
        // although the file says that it was recorded.
        Lines::Appended => errorless::force_sync_commit(),
        // Before the entries are visible to a session that seals: see blocks::seal_batch.
        Lines::Owed => {
            mirror.slot.committing_behind.fetch_add(1, Ordering::SeqCst);
        }
    }
    CURRENT.with_borrow_mut(|current| current.outcome = Some(outcome));
}

fn append_to_file(mirror: &Mirror, goal: Goal, repeats: IdReuse) -> Result<bool, Failure> {
    if CURRENT.with_borrow(|current| current.lines.is_empty()) {
        return Ok(true);
    }
    mirror.wait_until_voided(repeats)?;
    let mut lines = TakenLines::take();
    let outcome = mirror.append(&mut lines, goal);
    lines.close_spill();
    outcome
}

/// As before a commit. Then notes where the lines stand, for the session that will decide about the transaction.
fn before_prepare() {
    queue::flush_before_commit();
    refuse_to_prepare();
    if CURRENT.with_borrow(|current| current.entries > 0) {
        let mirror = or_raise(database::mirror());
        append_lines(&mirror, true);
        let (range, outcome) = CURRENT.with_borrow(|current| {
            // The lines that it may leave are counted while no other transaction can insert its ids.
            current.repeats.leave(mirror.slot);
            (current.range, current.outcome)
        });
        if let (Some(range), Some(Lines::Appended)) = (range, outcome) {
            CURRENT.with_borrow_mut(|current| current.is_preparing = true);
            or_raise(prepared::note(&mirror, range));
        }
    }
    TakenLines::take().close_spill();
    CURRENT.with_borrow_mut(|current| current.is_closed = true);
}

/// Refuses what a prepared transaction would withhold from others until it is decided.
fn refuse_to_prepare() {
    let refuse = |message: &str| Failure::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message);
    let in_one_step = "Commit the transaction in one step.";
    let (imports, holds_lock) = CURRENT.with_borrow(|current| (current.import.is_some(), current.holds_sealing_lock));
    if imports {
        refuse("cannot PREPARE a transaction that has rebuilt the ledger").hint(in_one_step).raise();
    }
    // Even if there was nothing to seal, the lock would be kept.
    if holds_lock {
        refuse("cannot PREPARE a transaction that has called ledger.commit_block()")
            .detail("No other transaction could seal until the prepared transaction is committed or rolled back.")
            .hint("Call ledger.commit_block() in a transaction of its own.")
            .raise();
    }
    if has_dropped_ledger() {
        refuse("cannot PREPARE a transaction that has dropped the extension pg_notary")
            .detail("Its commit must also end the worker of the ledger and close the mirror file.")
            .hint(in_one_step)
            .raise();
    }
    if creates_ledger() {
        refuse("cannot PREPARE a transaction that has created the extension pg_notary")
            .detail("Its commit must also start the worker of the ledger.")
            .hint(in_one_step)
            .raise();
    }
}

/// Whether the extension was dropped, and no rollback to a savepoint has brought it back.
fn has_dropped_ledger() -> bool {
    let dropped = CURRENT.with_borrow(|current| current.at_end.extension_dropped);
    dropped.is_some_and(|dropped| extension::oid() != dropped)
}

/// The entries are not pending yet. Shared memory holds what is known of their lines.
fn after_prepare() {
    at_its_end(|current| {
        if let Some(mirror) = current.mirror() {
            current.owe_lines(&mirror);
            current.decide(&mirror);
        }
        end(current, false);
    });
}

/// The ledger is another one now. This closes the file of the old one before any session can record: this transaction
/// still holds its locks.
fn import_committed(mirror: &Mirror) {
    mirror.lock().close();
    mirror.slot.recount.store(true, Ordering::Release);
    mirror.slot.entry_clock.forget();
    mirror.slot.worker.wake();
}

fn after_commit() {
    at_its_end(|current| {
        current.at_end.prepared_decided |= prepared::may_have_decided();
        if let Some(mirror) = current.mirror() {
            // Counted as pending before it counts as decided: see Mark in mirror/settled_mark.rs.
            if current.entries > 0 {
                faults::at("after_commit");
                mirror.slot.add_pending(current.entries, settings::block_size() as i64);
                current.count_lag(&mirror);
            }
            current.owe_lines(&mirror);
            current.decide(&mirror);
            if let Some(sealed) = current.sealed {
                mirror.slot.pending.fetch_sub(sealed, Ordering::AcqRel);
                // The worker writes the lines of the blocks, now that the blocks are committed.
                mirror.slot.has_new_blocks.store(true, Ordering::SeqCst);
                mirror.slot.worker.wake();
            }
            if current.import.is_some() {
                import_committed(&mirror);
            }
        }
        end(current, true);
    });
}

/// Ends an append that an error has interrupted, and other waits.
fn abandon_waits() {
    requests::give_up();
    if let Some(shared) = shared() {
        round::end_broken_off(shared);
    }
    if under_way::is_appending() {
        if let Ok(mirror) = database::mirror() {
            mirror.abandon();
        }
    }
}

/// Leaves the lines to the worker, which voids those that reached the file. Other sessions can use the ids already, but
/// wait until this transaction is no longer an owner of lines. It stays one until everything else is said.
fn after_abort() {
    abandon_waits();
    at_its_end(|current| {
        if let Some(mirror) = current.mirror() {
            if let Some(range) = current.range {
                faults::at("after_abort");
                current.repeats.leave(mirror.slot);
                let mut fields = mirror.lock();
                if current.is_preparing {
                    fields.forget_prepared(own_xid());
                }
                fields.add_void(range);
            }
            if current.outcome == Some(Lines::Owed) {
                mirror.slot.committing_behind.fetch_sub(1, Ordering::SeqCst);
            }
            current.decide(&mirror);
            if current.range.is_some() {
                mirror.slot.worker.wake();
                mirror.slot.mirror.broadcast();
            }
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
        tracking::after_rollback(1);
    }
    tracking::forget();
    queue::forget();
    pending::forget();
    new_ids::forget();
    under_way::forget();
    current.clear();
    if at_end.prepared_decided {
        prepared::after_decision();
    }
    database::at_transaction_end(
        committed && at_end.ledger_created,
        committed && at_end.ledger_dropped,
        committed && at_end.databases_changed,
    );
    resume_workers(at_end.pauses.into_iter().map(|(_, pause)| pause));
}

impl Transaction {
    /// The mirror, if this transaction has recorded, sealed or imported. Other transactions must not take a slot in
    /// shared memory.
    fn mirror(&self) -> Option<Mirror> {
        let has_recorded = self.entries > 0 || self.undecided.is_some() || self.range.is_some();
        let has_part = has_recorded || self.sealed.is_some() || self.import.is_some();
        has_part.then(|| database::mirror().ok()).flatten()
    }

    /// The transaction has ended: its lines are those of committed entries, are to be voided, or are those of a
    /// prepared transaction.
    fn decide(&mut self, mirror: &Mirror) {
        mirror.note_decided();
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

    /// Counts what is committed, but not on disk in the file. Cannot fail.
    fn count_lag(&self, mirror: &Mirror) {
        // SAFETY: reads a variable that the commit has set.
        let now = || unsafe { pg_sys::GetCurrentTransactionStopTimestamp() };
        let add = || mirror.slot.lag.add(self.entries, self.line_bytes, now());
        match self.mode {
            Some(MirrorMode::Async) => add(),
            Some(MirrorMode::Write) => {
                // The lock is held meanwhile: the process that has synced the last lines takes everything off under the
                // same lock.
                let fields = mirror.lock();
                if self.range.is_none_or(|range| range.to > fields.durable) {
                    add();
                }
            }
            _ => {}
        }
    }
}
