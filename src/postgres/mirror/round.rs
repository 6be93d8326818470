//! [`Round`]: one process writes what waits in the ring to the file, and syncs it if a session waits for that.
//! [`super::writer`] and [`super::round_leader`] decide which process does a round; [`super::round_waiters`] is how
//! others wait for its end.
//!
//! Only the process that has begun the round touches the file. Nothing in a round may raise an error or handle
//! interrupts: the others would wait for its end for ever.

use super::cause::CauseKind;
use super::file::{self, Trouble};
use super::file_identity::FileIdentity;
use super::last_change::ChangeBegun;
use super::last_change::LastChange;
use super::round_waiters::Rounds;
use super::shared::{Attachment, LockedMirror, MirrorFields};
use crate::ledger::lag::SeenLag;
use crate::postgres::database_slot::DatabaseSlot;
use crate::postgres::errorless;
use crate::postgres::faults;
use crate::postgres::settings::{self, MirrorMode};
use crate::postgres::shared::Shared;
use crate::postgres::wait_events;
use pgrx::pg_sys;
use std::cell::Cell;
use std::fs::File;
use std::path::Path;

/// How long a check of the directory and of the file's times holds good, in microseconds. More checks would not help: a
/// user who opens the directory to others can do so right after a check as well.
const DIRECTORY_INTERVAL: i64 = 10_000;

thread_local! {
    /// The round that this process is doing, and of which database.
    static UNDER_WAY: Cell<Option<(Round, &'static DatabaseSlot)>> = const { Cell::new(None) };
}

/// A round that has begun.
#[derive(Clone, Copy)]
pub struct Round {
    number: u64,
    pub identity: FileIdentity,
    tail: u64,
    head: u64,
    written: u64,
    last_change: LastChange,
    is_local: bool,
    /// When it began, and whether it is to look at the directory.
    began: pg_sys::TimestampTz,
    looks_at_directory: bool,
    /// How much of the file is on disk now, and how much will be when this round has written and synced: whole lines.
    pub durable: u64,
    durable_then: u64,
    /// How much of the file stays if the write fails: an incomplete line does not.
    keep: u64,
    cut_to: u64,
    pub sync: bool,
    /// The lag (entries not on disk) when the round began.
    lag: SeenLag,
    /// A committing session does it, not the writer.
    pub is_led: bool,
}

/// What a round leaves to be done.
pub struct Left {
    /// Work for the next round.
    pub for_next: bool,
    /// Work for the writer, which does not know yet that sessions have written to the file.
    pub for_writer: bool,
}

/// What a round has achieved.
pub struct Done {
    durable: u64,
    last_change: LastChange,
}

/// What went wrong, how much of the file stays, and when this process last changed the file, if it did.
pub struct Failed {
    trouble: Trouble,
    keep: u64,
    last_change: Option<LastChange>,
    /// The round has failed, and what it left could not be cut off either.
    is_refused: bool,
}

impl Failed {
    pub fn keeping(keep: u64) -> impl Fn(Trouble) -> Failed {
        move |trouble| Failed { trouble, keep, last_change: None, is_refused: false }
    }
}

impl Round {
    /// Begins a round. The file is attached, and no other round is under way.
    pub fn begin(fields: &mut LockedMirror<'_>, slot: &'static DatabaseSlot, sync_due: bool) -> Round {
        let end = fields.end();
        Round::begin_up_to(end, fields, slot, sync_due)
    }

    /// Begins a round that syncs what is written, and leaves alone what waits in the ring: nobody has the file attached
    /// any more. No other round is under way, and no line is to be cut off.
    pub fn begin_last_sync(fields: &mut LockedMirror<'_>, slot: &'static DatabaseSlot) -> Round {
        let written = fields.written();
        Round::begin_up_to(written, fields, slot, true)
    }

    fn begin_up_to(end: u64, fields: &mut LockedMirror<'_>, slot: &'static DatabaseSlot, sync_due: bool) -> Round {
        let now = errorless::clock();
        fields.writing = true;
        fields.rounds += 1;
        fields.writing_since = now;
        let written = fields.written();
        // Lines of other sessions may stand before the line that is to be cut off. They are written first.
        let (end, cut_to) = match fields.cut_to > written {
            true => (fields.cut_to, 0),
            false => (end, fields.cut_to),
        };
        let round = Round {
            number: fields.rounds,
            identity: fields.identity,
            tail: fields.tail,
            head: fields.tail + (end - written),
            written,
            last_change: fields.last_change,
            is_local: fields.is_local,
            began: now,
            looks_at_directory: !(0..DIRECTORY_INTERVAL).contains(&(now - fields.directory_seen)),
            durable: fields.durable,
            durable_then: fields.durable.max(fields.lines_before(end)),
            keep: fields.lines_before(written),
            cut_to,
            sync: sync_due || fields.sync_wanted > fields.durable,
            lag: slot.lag.seen(now),
            is_led: false,
        };
        UNDER_WAY.set(Some((round, slot)));
        round
    }

    /// Whether the file is where it was, and as the last round left it.
    pub fn check(&self, path: &Path, identity: FileIdentity) -> Result<(), Trouble> {
        let with_times = self.looks_at_directory || self.last_change.is_to_be_checked();
        file::check_unchanged(path, identity, self.written, self.last_change, with_times)?;
        match self.looks_at_directory {
            true => file::check_directory(path),
            false => Ok(()),
        }
    }

    /// Does what the round has begun for. The file has been checked.
    pub fn work(&self, slot: &DatabaseSlot, file: &File, path: &Path) -> Result<Done, Failed> {
        // How much of the file counts if it cannot be synced, or must not be touched.
        let safe = self.safe();
        let begun = ChangeBegun::now();
        if self.cut_to != 0 {
            file::cut(file, path, self.cut_to).map_err(Failed::keeping(safe))?;
        } else {
            self.write(slot, file, path).map_err(|trouble| self.cut_after(file, path, trouble, self.keep))?;
        }
        let mut durable = self.durable;
        if self.sync {
            sync(file, path).map_err(|trouble| self.cut_after(file, path, trouble, safe))?;
            durable = self.durable_then;
        }
        let last_change = file::last_change(begun, file, path, self.is_local).map_err(Failed::keeping(safe))?;
        Ok(Done { durable, last_change })
    }

    /// The sessions that wait for the round after this one.
    pub fn next(&self) -> Rounds {
        Rounds::one(self.number + 1)
    }

    /// How much of the file counts if it must not be touched.
    pub fn safe(&self) -> u64 {
        self.durable.min(self.keep)
    }

    fn write(&self, slot: &DatabaseSlot, file: &File, path: &Path) -> Result<(), Trouble> {
        let _waiting = wait_events::Shown::as_waiting_for(wait_events::mirror_write());
        // SAFETY: this process has begun the round, and both positions were read under the lock.
        for piece in unsafe { slot.mirror.pieces(self.tail, self.head) } {
            faults::at_write(file, piece).map_err(|error| Trouble::passing("write to", path, error))?;
            file::write(file, path, piece)?;
        }
        Ok(())
    }

    /// Cuts off what a failed write or sync left. If a sync has failed and the cut fails too, only the safe part of the
    /// file counts.
    fn cut_after(&self, file: &File, path: &Path, trouble: Trouble, keep: u64) -> Failed {
        // A file that another program has changed is not touched.
        if trouble.reattach {
            return Failed::keeping(keep)(trouble);
        }
        let begun = ChangeBegun::now();
        match file::cut(file, path, keep).and_then(|()| file::last_change(begun, file, path, self.is_local)) {
            Ok(change) => {
                let trouble = Trouble { unsynced: false, ..trouble };
                Failed { last_change: Some(change), ..Failed::keeping(keep)(trouble) }
            }
            Err(worse) => {
                let cause = format!("{}; then {}", trouble.cause, worse.cause);
                let kind = trouble.kind.or(worse.kind);
                let unsynced = trouble.unsynced || worse.unsynced;
                let keep = if unsynced { self.safe() } else { keep };
                let trouble = Trouble { kind, cause, reattach: true, unsynced, ..trouble };
                Failed { is_refused: true, ..Failed::keeping(keep)(trouble) }
            }
        }
    }

    /// Ends the round, and tells all who wait for it how it ended.
    pub fn end(self, shared: &Shared, slot: &DatabaseSlot, outcome: Result<Done, Failed>) -> Left {
        UNDER_WAY.set(None);
        let mut call_worker = false;
        let mut woken = Rounds::ALL;
        let left;
        {
            let mut fields = shared.lock_mirror(slot);
            fields.writing = false;
            match outcome {
                // The attachment is not this round's any more: the ledger was dropped, perhaps with another in its
                // place, or the worker gave up the file because it hung. The worker can open it again now.
                _ if fields.identity.generation != self.identity.generation => {
                    call_worker = true;
                    fields.reopening.note_uncut(self.safe());
                    if let Err(failed) = outcome {
                        // Before it is opened again, which waits for the end of this round.
                        fields.reopening.has_lost |= failed.keep < fields.promised;
                        self.note_unsynced(&mut fields, &failed);
                    }
                }
                Ok(done) => {
                    let is_synced = self.note_done(&mut fields, &done);
                    woken = Rounds::one(self.number);
                    // In mode async the worker knows how far the file is behind, and counts the lag down.
                    if is_synced && settings::mirror_mode() != MirrorMode::Async {
                        take_off_lag(&fields, slot, self.lag);
                    }
                }
                Err(failed) => {
                    self.note_unsynced(&mut fields, &failed);
                    call_worker = note_failed(&mut fields, &failed);
                }
            }
            // Only now: an earlier note to the writer could not be about this round.
            let for_writer = self.is_led && tell_writer(&mut fields);
            left = Left { for_next: fields.has_work(), for_writer: for_writer || fields.is_failure_unnamed };
        }
        slot.mirror.wake(woken);
        if call_worker {
            slot.worker.wake();
        }
        left
    }

    fn note_unsynced(&self, fields: &mut MirrorFields, failed: &Failed) {
        if failed.trouble.unsynced {
            fields.note_unsynced(self.identity.device, self.identity.inode, failed.keep);
        }
    }

    /// Returns whether what was written is on disk.
    fn note_done(&self, fields: &mut MirrorFields, done: &Done) -> bool {
        fields.last_change = done.last_change;
        if self.looks_at_directory {
            fields.directory_seen = self.began;
        }
        if self.cut_to != 0 {
            // Everything before it is written, and only the process that left the line unfinished could put anything
            // behind it.
            fields.tail = fields.head;
            fields.shift = self.cut_to.wrapping_sub(fields.tail);
            fields.durable = fields.durable.min(self.cut_to);
            fields.sync_wanted = fields.sync_wanted.min(self.cut_to);
            (fields.cut_to, fields.unfinished) = (0, 0);
            (fields.long_line_from, fields.long_line_to) = (0, 0);
            return false;
        }
        fields.tail = self.head;
        if !self.sync {
            return false;
        }
        fields.durable = fields.durable.max(done.durable);
        fields.syncs += 1;
        (fields.is_troubled, fields.is_refused) = (false, false);
        true
    }
}

/// Ends the round of a process that exits in the middle of it: after an error where none may occur, or because a
/// background worker of another extension exits in its signal handler. Others would wait for its end for ever. What it
/// has written is unknown, so the worker examines the file. Cannot fail.
pub fn end_broken_off(shared: &Shared) {
    let Some((round, slot)) = UNDER_WAY.take() else { return };
    let cause = "a process was terminated while it wrote the mirror file".to_owned();
    let trouble = Trouble::lasting(CauseKind::Other, cause);
    round.end(shared, slot, Err(Failed::keeping(round.safe())(trouble)));
}

/// Returns whether the writer must be woken: it does not know yet what a session has left to it.
fn tell_writer(fields: &mut MirrorFields) -> bool {
    let is_news = !std::mem::replace(&mut fields.is_attended, true);
    let is_to_sync = fields.written() > fields.durable;
    let was_to_sync = std::mem::replace(&mut fields.is_sync_attended, is_to_sync);
    is_news || (is_to_sync && !was_to_sync)
}

/// A commit may be counted only after its lines were synced, so the count seen before may be too low. But when
/// everything is on disk, nothing lags.
fn take_off_lag(fields: &MirrorFields, slot: &DatabaseSlot, seen: SeenLag) {
    match fields.durable >= fields.end() {
        true => slot.lag.clear(),
        false => slot.lag.take_off(seen),
    }
}

/// Returns whether the worker must examine the file.
fn note_failed(fields: &mut MirrorFields, failed: &Failed) -> bool {
    // A failed sync may lose lines of commits that did not wait for the disk (mode write). The database has their
    // entries.
    let has_lost = failed.keep < fields.promised;
    let reattach = failed.trouble.reattach || has_lost;
    fields.reopening.has_lost |= has_lost;
    fields.suspect |= failed.trouble.suspect;
    let uncut_from = fields.reopening.uncut_from;
    fields.fail(failed.trouble.kind, &failed.trouble.cause, failed.keep);
    if let Some(change) = failed.last_change {
        // What has failed was cut off.
        (fields.last_change, fields.reopening.uncut_from) = (change, uncut_from);
    }
    fields.is_failure_unnamed = true;
    fields.is_troubled = !reattach;
    fields.is_refused |= failed.is_refused;
    if reattach {
        fields.attachment = Attachment::Failed;
    }
    reattach
}

fn sync(file: &File, path: &Path) -> Result<(), Trouble> {
    let _waiting = wait_events::Shown::as_waiting_for(wait_events::mirror_sync());
    faults::at("before_sync");
    let synced = faults::error_at("sync").map_err(|error| Trouble::passing("sync", path, error));
    synced.and_then(|()| file::sync(file, path)).map_err(|trouble| Trouble { unsynced: true, ..trouble })?;
    faults::at("after_sync");
    Ok(())
}
