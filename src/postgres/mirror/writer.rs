//! The writer: one process of the cluster that writes and syncs the mirror files of all databases.
//!
//! It is a process of its own so that whoever commits waits for the file in a way that can be cancelled: on a mount that
//! hangs, a system call cannot be. And while it syncs, lines gather for the next round, so that commits share syncs.

use super::file::{self, Trouble};
use super::rounds::Rounds;
use super::shared::{Attachment, FileIdentity, FileStamp, MirrorFields};
use super::state_file::{self, StateFile};
use crate::postgres::faults;
use crate::postgres::settings::{self, MirrorMode};
use crate::postgres::shared::{shared, DatabaseSlot, SeenLag, Shared};
use crate::postgres::tables;
use crate::postgres::wait_events;
use crate::postgres::worker;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::{pg_guard, pg_sys};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long lines that nobody waits for may be written and not synced (mode write). With the sync itself it stays below
/// the second that is promised.
const SYNC_DELAY: Duration = Duration::from_millis(500);
/// How soon the state file is brought up to date after the mirror was written.
const STATE_DELAY: Duration = Duration::from_secs(1);

/// The process title tells it from the workers; it is killed and found by it.
const NAME: &str = "pg_notary writer";

pub fn init() {
    BackgroundWorkerBuilder::new(NAME)
        .set_type(NAME)
        .set_library("pg_notary")
        .set_function("pg_notary_writer_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn pg_notary_writer_main(_arg: pg_sys::Datum) {
    worker::set_up_signals();
    // No database: it is for the entry in pg_stat_activity.
    pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
    pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(0_usize));
    let shared = shared().expect("background workers have shared memory");
    shared.recovered_to();
    shared.writer.enlist();
    loop {
        let wait = OPEN_FILES.with_borrow_mut(|files| files.serve(shared));
        worker::sleep_as(wait, wait_events::writer_main());
    }
}

thread_local! {
    static OPEN_FILES: RefCell<OpenFiles> = RefCell::new(OpenFiles(HashMap::new()));
    /// The failures that the log already names, by database. Until a sync goes well the same one is not named again.
    static NAMED: RefCell<HashMap<pg_sys::Oid, String>> = RefCell::new(HashMap::new());
}

/// Runs when the writer exits, whatever way: at a shutdown, what was written in mode write is not left to chance.
#[pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, _arg: pg_sys::Datum) {
    let Some(shared) = shared() else { return };
    if shared.writer.is_me() {
        shared.writer.retire();
    }
    OPEN_FILES.with(|files| {
        if let Ok(mut files) = files.try_borrow_mut() {
            files.close(shared);
        }
    });
}

/// The files that are attached, by database.
struct OpenFiles(HashMap<pg_sys::Oid, OpenFile>);

struct OpenFile {
    identity: FileIdentity,
    path: PathBuf,
    file: File,
    state: Option<StateFile>,
    /// When lines that nobody waits for are to be synced.
    sync_at: Option<Instant>,
    /// When the state file is to be written.
    state_at: Option<Instant>,
}

/// One round of work on one file.
#[derive(Clone, Copy)]
struct Round {
    number: u64,
    generation: u64,
    tail: u64,
    head: u64,
    written: u64,
    stamp: FileStamp,
    /// How much of the file stays if it cannot be written: a line that is not whole does not.
    keep: u64,
    cut_to: u64,
    sync: bool,
}

/// What went wrong, how much of the file stays, and its times, where this process has changed them.
struct Failed {
    trouble: Trouble,
    keep: u64,
    stamp: Option<FileStamp>,
}

impl Failed {
    fn keeping(keep: u64) -> impl Fn(Trouble) -> Failed {
        move |trouble| Failed { trouble, keep, stamp: None }
    }
}

impl OpenFiles {
    /// Does what is to be done for all databases; returns how long there is nothing to do.
    fn serve(&mut self, shared: &'static Shared) -> Option<i64> {
        loop {
            let mut worked = false;
            for slot in shared.slots() {
                worked |= self.serve_database(shared, slot);
            }
            if !worked {
                break;
            }
        }
        let databases: Vec<_> = shared.slots().map(DatabaseSlot::database).collect();
        self.0.retain(|database, _| databases.contains(database));
        let due = self.0.values().flat_map(|open| [open.sync_at, open.state_at]).flatten().min();
        due.map(|due| due.saturating_duration_since(Instant::now()).as_millis() as i64 + 1)
    }

    fn serve_database(&mut self, shared: &Shared, slot: &DatabaseSlot) -> bool {
        let now = Instant::now();
        let open = self.0.get_mut(&slot.database());
        let sync_due = open.as_ref().is_some_and(|open| open.sync_at.is_some_and(|at| at <= now));
        let state_due = open.is_some_and(|open| open.state_at.is_some_and(|at| at <= now));
        if let Some(round) = begin_round(shared, slot, sync_due) {
            let lag = slot.lag.seen(tables::timestamp_to_postgres(tables::now()));
            let outcome = self.do_round(shared, slot, round);
            end_round(shared, slot, round, outcome, lag);
            return true;
        }
        if let Some(open) = self.0.get_mut(&slot.database()) {
            // Nothing is left to sync: a commit that waited has had it done.
            open.sync_at = open.sync_at.filter(|_| !sync_due);
            if state_due {
                open.write_state(shared, slot, &[Attachment::Attached]);
            }
        }
        false
    }

    fn do_round(&mut self, shared: &Shared, slot: &DatabaseSlot, round: Round) -> Result<Done, Failed> {
        let (identity, path, durable) = {
            let fields = slot.mirror.lock(shared, slot);
            (fields.identity, fields.path, fields.durable)
        };
        if identity.generation != round.generation {
            // The worker has given the file up meanwhile; what comes of this round counts for nothing.
            return Err(Failed::keeping(durable)(Trouble::lasting("The mirror file was opened again.".to_owned())));
        }
        let known = self.0.get(&slot.database()).map(|open| open.identity.generation);
        if known != Some(identity.generation) {
            let opened = OpenFile::open(identity, PathBuf::from(path.get()));
            let opened = opened.map_err(Failed::keeping(durable))?;
            self.0.insert(slot.database(), opened);
        }
        let open = self.0.get_mut(&slot.database()).expect("it was there, or was opened above");
        open.do_round(slot, round, durable)
    }

    fn close(&mut self, shared: &Shared) {
        for slot in shared.slots() {
            if let Some(open) = self.0.get_mut(&slot.database()) {
                // The worker may have left before.
                if file::sync(&open.file, &open.path).is_ok() {
                    open.write_state(shared, slot, &[Attachment::Attached, Attachment::Detached]);
                }
            }
        }
        self.0.clear();
    }
}

/// What a round has achieved.
struct Done {
    durable: u64,
    stamp: FileStamp,
}

/// Takes what is there to be done, if it may be.
fn begin_round(shared: &Shared, slot: &DatabaseSlot, sync_due: bool) -> Option<Round> {
    let mut fields = slot.mirror.lock(shared, slot);
    let may_write = matches!(fields.attachment, Attachment::Attached | Attachment::Repairing);
    let sync_due = sync_due && fields.written() > fields.durable;
    if !may_write || !(fields.has_work() || sync_due) {
        return None;
    }
    fields.writing = true;
    fields.rounds += 1;
    // SAFETY: reads the clock.
    fields.writing_since = unsafe { pg_sys::GetCurrentTimestamp() };
    Some(Round {
        number: fields.rounds,
        generation: fields.identity.generation,
        tail: fields.tail,
        head: fields.head,
        written: fields.written(),
        stamp: fields.stamp,
        keep: fields.written_lines(),
        cut_to: fields.cut_to,
        sync: sync_due || fields.sync_wanted > fields.durable,
    })
}

/// Lets everyone who waits know how the round has ended.
/// `lag` is what was counted when the round began.
fn end_round(shared: &Shared, slot: &DatabaseSlot, round: Round, outcome: Result<Done, Failed>, lag: SeenLag) {
    let mut call_worker = false;
    let mut failure = None;
    let mut is_synced = false;
    let mut woken = Rounds::ALL;
    {
        let mut fields = slot.mirror.lock(shared, slot);
        fields.writing = false;
        match outcome {
            // The ledger was dropped meanwhile, and perhaps there is another in its place; or the worker has not waited
            // for a file that hangs, and can open it again now.
            _ if fields.identity.generation != round.generation => call_worker = true,
            Ok(done) => {
                is_synced = note_done(&mut fields, round, &done);
                woken = Rounds::one(round.number);
                // In mode async it is the worker who knows how far behind the file is.
                if is_synced && settings::mirror_mode() == MirrorMode::Write {
                    take_off_lag(&fields, slot, lag);
                }
            }
            Err(failed) => {
                call_worker = note_failed(&mut fields, &failed);
                failure = Some(failed.trouble.cause);
            }
        }
    }
    slot.mirror.wake(woken);
    log_change(shared, slot, failure, is_synced);
    if call_worker {
        slot.worker.wake();
    }
}

/// A commit may be counted only after its lines were synced. When everything is on disk, nothing lags.
fn take_off_lag(fields: &MirrorFields, slot: &DatabaseSlot, seen: SeenLag) {
    match fields.durable >= fields.end() {
        true => slot.lag.clear(),
        false => slot.lag.take_off(seen),
    }
}

fn log_change(shared: &Shared, slot: &DatabaseSlot, failure: Option<String>, is_synced: bool) {
    let database = slot.database();
    if let Some(cause) = failure {
        let named = NAMED.with_borrow_mut(|named| named.insert(database, cause.clone()));
        if named.as_ref() != Some(&cause) {
            pgrx::log!("pg_notary cannot record in a mirror file: {cause}");
        }
    } else if is_synced && NAMED.with_borrow_mut(|named| named.remove(&database)).is_some() {
        let path = slot.mirror.lock(shared, slot).path;
        pgrx::log!("pg_notary writes mirror file \"{}\" again", path.get());
    }
}

/// Returns whether what was written is on disk.
fn note_done(fields: &mut MirrorFields, round: Round, done: &Done) -> bool {
    fields.stamp = done.stamp;
    if round.cut_to != 0 {
        // Nobody but whoever left the line unfinished could put anything behind it.
        fields.tail = fields.head;
        fields.shift = round.cut_to.wrapping_sub(fields.tail);
        fields.durable = fields.durable.min(round.cut_to);
        fields.sync_wanted = fields.sync_wanted.min(round.cut_to);
        (fields.cut_to, fields.unfinished) = (0, 0);
        (fields.long_line_from, fields.long_line_to) = (0, 0);
        return false;
    }
    fields.tail = round.head;
    if !round.sync {
        return false;
    }
    fields.durable = fields.durable.max(done.durable);
    fields.syncs += 1;
    fields.is_troubled = false;
    true
}

/// Returns whether the worker is to look at the file.
fn note_failed(fields: &mut MirrorFields, failed: &Failed) -> bool {
    // Lines of commits that did not wait for the disk are lost with a failed sync; the database has them.
    let reattach = failed.trouble.reattach || failed.keep < fields.promised;
    fields.suspect |= failed.trouble.suspect;
    fields.stamp = failed.stamp.unwrap_or(fields.stamp);
    fields.fail(&failed.trouble.cause, failed.keep);
    fields.is_troubled = !reattach;
    if reattach {
        fields.attachment = Attachment::Failed;
    }
    reattach
}

impl OpenFile {
    fn open(identity: FileIdentity, path: PathBuf) -> Result<OpenFile, Trouble> {
        let file = file::open(&path, false)?;
        let state = StateFile::open(&path).ok();
        Ok(OpenFile { identity, path, file, state, sync_at: None, state_at: Some(Instant::now()) })
    }

    fn do_round(&mut self, slot: &DatabaseSlot, round: Round, durable: u64) -> Result<Done, Failed> {
        // What is left of the file if it cannot be synced, or must not be touched.
        let safe = durable.min(round.keep);
        let changed = file::check_unchanged(&self.file, &self.path, self.identity, round.written, round.stamp);
        changed.map_err(Failed::keeping(safe))?;
        if round.cut_to != 0 {
            self.cut(round.cut_to).map_err(Failed::keeping(safe))?;
        } else {
            self.write(slot, round).map_err(|trouble| self.cut_after(trouble, round.keep))?;
        }
        let mut reached = durable;
        if round.sync {
            self.sync().map_err(|trouble| self.cut_after(trouble, safe))?;
            reached = round.written + (round.head - round.tail);
            self.sync_at = None;
        } else if self.sync_at.is_none() {
            self.sync_at = Some(Instant::now() + SYNC_DELAY);
        }
        self.state_at.get_or_insert_with(|| Instant::now() + STATE_DELAY);
        let stamp = file::stamp(&self.file, &self.path).map_err(Failed::keeping(safe))?;
        Ok(Done { durable: reached, stamp })
    }

    fn write(&self, slot: &DatabaseSlot, round: Round) -> Result<(), Trouble> {
        let _waiting = wait_events::Shown::as_waiting_for(wait_events::mirror_write());
        // SAFETY: this process is the writer, and both positions were read under the lock.
        for piece in unsafe { slot.mirror.pieces(round.tail, round.head) } {
            faults::at_write(&self.file, &self.path, piece)?;
            file::write(&self.file, &self.path, piece)?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Trouble> {
        let _waiting = wait_events::Shown::as_waiting_for(wait_events::mirror_sync());
        faults::at("before_sync");
        faults::error_at("sync").map_err(|error| Trouble::passing("sync", &self.path, error))?;
        file::sync(&self.file, &self.path)?;
        faults::at("after_sync");
        Ok(())
    }

    fn cut(&self, size: u64) -> Result<(), Trouble> {
        file::cut(&self.file, &self.path, size)
    }

    /// Cuts off what a failed write or sync has left.
    fn cut_after(&self, trouble: Trouble, keep: u64) -> Failed {
        // A file that somebody else has changed is not touched.
        if trouble.reattach {
            return Failed { trouble, keep, stamp: None };
        }
        match self.cut(keep).and_then(|()| file::stamp(&self.file, &self.path)) {
            Ok(stamp) => Failed { trouble, keep, stamp: Some(stamp) },
            Err(worse) => {
                let cause = format!("{}; then {}", trouble.cause, worse.cause);
                Failed { trouble: Trouble { cause, reattach: true, ..trouble }, keep, stamp: None }
            }
        }
    }

    /// Notes beside the file what it is and how far the database was when it was written.
    fn write_state(&mut self, shared: &Shared, slot: &DatabaseSlot, when: &[Attachment]) {
        self.state_at = None;
        let (ownership, synced, is_ours) = {
            let fields = slot.mirror.lock(shared, slot);
            let is_same = fields.identity.generation == self.identity.generation;
            // A file that somebody else has been at is not stated to be as we left it.
            let is_known = file::stamp(&self.file, &self.path).is_ok_and(|stamp| stamp == fields.stamp);
            (fields.ownership, fields.durable, is_same && is_known && when.contains(&fields.attachment))
        };
        if let (Some(state), true) = (&self.state, is_ours) {
            // It only helps to notice what must not be; a file that cannot take it is not in the way of recording.
            state_file::write(state, &self.file, &ownership, synced, tables::now()).ok();
        }
    }
}
