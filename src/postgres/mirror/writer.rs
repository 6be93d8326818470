//! The writer: one process of the cluster that writes and syncs the mirror files of all databases, except where a
//! committing session does so itself (see [`super::round_leader`]).
//!
//! It is a process of its own so that a commit can be cancelled while it waits for the file: a system call on a network
//! mount that hangs cannot be. It also does what no session waits for: delayed syncs, the state file, the log.

use super::cause::CauseKind;
use super::file::{self, Trouble};
use super::file_identity::FileIdentity;
use super::last_change::FileStamp;
use super::reopening::Unsynced;
use super::round::{self, Done, Failed, Round};
use super::shared::Attachment;
use super::state_file::{self, Known, StateFile};
use crate::postgres::background_process;
use crate::postgres::database_slot::DatabaseSlot;
use crate::postgres::errors::Failure;
use crate::postgres::faults;
use crate::postgres::shared::{shared, Shared};
use crate::postgres::wait_events;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::{pg_guard, pg_sys, PgSqlErrorCode};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long lines may be written but not synced if no session waits for the sync (mode write). With the time of the
/// sync itself this stays below the second that is promised.
const SYNC_DELAY: Duration = Duration::from_millis(500);
/// How soon the state file is brought up to date after the mirror was written.
const STATE_DELAY: Duration = Duration::from_secs(1);

/// How long, when it exits, the writer waits for others who are at the file before it syncs: that many turns.
const LAST_ROUND_TURN: Duration = Duration::from_millis(5);
const LAST_ROUND_TURNS: usize = 200;

/// The process title tells it from the workers, for those who look for it or kill it.
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
    background_process::set_up_signals();
    // No database: this is only for the entry in pg_stat_activity.
    pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
    pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(0_usize));
    let shared = shared().expect("background workers have shared memory");
    shared.recovered_to();
    wait_events::register();
    shared.writer.enlist();
    loop {
        // Also while sessions keep it busy, it must obey signals: DROP DATABASE waits until each process of the server
        // has.
        let wait = match serve(shared) {
            true => Some(0),
            false => OPEN_FILES.with_borrow_mut(|files| {
                files.close_abandoned(shared);
                files.until_next()
            }),
        };
        background_process::sleep(wait, wait_events::writer_main());
    }
}

/// Does what is due for all databases; returns whether there was anything. Logs only while the files are not borrowed:
/// if this process was told to end, it does so when it logs, and [`leave`] needs the files.
fn serve(shared: &'static Shared) -> bool {
    let mut has_worked = false;
    for slot in shared.slots() {
        // Also before, because a file of this database may hang.
        log_change(shared, slot);
        has_worked |= OPEN_FILES.with_borrow_mut(|files| files.serve_database(shared, slot));
        log_change(shared, slot);
        log_state_trouble(slot);
    }
    has_worked
}

thread_local! {
    static OPEN_FILES: RefCell<OpenFiles> = RefCell::new(OpenFiles(HashMap::new()));
    /// The failures that the log already names, by database. The same failure is not logged again until a sync has
    /// succeeded.
    static NAMED: RefCell<HashMap<pg_sys::Oid, Named>> = RefCell::new(HashMap::new());
    /// The same for the state files.
    static NAMED_STATES: RefCell<HashMap<pg_sys::Oid, String>> = RefCell::new(HashMap::new());
}

#[derive(Clone)]
struct Named {
    cause: String,
    /// Syncs that had succeeded by then.
    syncs: u64,
}

/// Runs whenever the writer exits: at a shutdown it syncs what was written in mode write. If it exits because of an
/// error in the middle of a round, the files are borrowed still, and the worker examines that database's.
#[pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, _arg: pg_sys::Datum) {
    let Some(shared) = shared() else { return };
    if shared.writer.is_me() {
        shared.writer.retire();
    }
    round::end_broken_off(shared);
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
    /// The failure count when it was opened. A descriptor from before a failure would report that failure once more.
    failures: u64,
    path: PathBuf,
    file: File,
    state: Option<StateFile>,
    /// Why the state file cannot be written, if so.
    state_trouble: Option<String>,
    /// When to sync lines that no session waits for.
    sync_at: Option<Instant>,
    /// When to write the state file.
    state_at: Option<Instant>,
}

impl OpenFiles {
    /// Milliseconds until there is something to do for which no process wakes this one.
    fn until_next(&self) -> Option<i64> {
        let due = self.0.values().flat_map(|open| [open.sync_at, open.state_at]).flatten().min();
        due.map(|due| background_process::rounded_up_ms(due.saturating_duration_since(Instant::now())))
    }

    /// Closes the files of databases that have no ledger any more: the space of a deleted file is free only once no
    /// process has it open. The file of a ledger stays open in every mode: if somebody has deleted it by mistake, it
    /// can be copied from here.
    fn close_abandoned(&mut self, shared: &'static Shared) {
        let databases: Vec<_> = shared.slots().map(DatabaseSlot::database).collect();
        self.0.retain(|database, _| databases.contains(database));
    }

    fn serve_database(&mut self, shared: &Shared, slot: &'static DatabaseSlot) -> bool {
        let now = Instant::now();
        let open = self.0.get_mut(&slot.database());
        let sync_due = open.as_ref().is_some_and(|open| open.sync_at.is_some_and(|at| at <= now));
        let state_due = open.is_some_and(|open| open.state_at.is_some_and(|at| at <= now));
        let round = begin_round(shared, slot, sync_due);
        let has_worked = round.is_some();
        match round {
            Some(round) => {
                let outcome = self.do_round(shared, slot, round);
                round.end(shared, slot, outcome);
            }
            None => self.attend(shared, slot),
        }
        if let Some(open) = self.0.get_mut(&slot.database()) {
            if !has_worked {
                // Nothing is left to sync, or the process that does the current round has been told.
                open.sync_at = open.sync_at.filter(|_| !sync_due);
            }
            if state_due {
                open.write_state(shared, slot, false);
            }
        }
        has_worked
    }

    /// Takes care of what sessions have written themselves: it must be synced, and the state file brought up to date.
    fn attend(&mut self, shared: &Shared, slot: &DatabaseSlot) {
        let (is_attended, is_written, generation) = {
            let fields = shared.lock_mirror(slot);
            let is_open = matches!(fields.attachment, Attachment::Attached | Attachment::Repairing);
            (fields.is_attended && is_open, fields.written() > fields.durable, fields.identity.generation)
        };
        if !is_attended {
            return;
        }
        match self.open(shared, slot, generation) {
            Ok(open) => open.note_written(is_written),
            // The next commit finds out, or else tells this process again that there is something to sync.
            Err(_) => {
                let mut fields = shared.lock_mirror(slot);
                if fields.identity.generation == generation {
                    (fields.is_attended, fields.is_sync_attended) = (false, false);
                }
            }
        }
    }

    fn do_round(&mut self, shared: &Shared, slot: &DatabaseSlot, round: Round) -> Result<Done, Failed> {
        let keep_durable = Failed::keeping(round.durable);
        self.open(shared, slot, round.identity.generation).map_err(keep_durable)?.do_round(slot, round)
    }

    /// The open file of that attachment.
    fn open(&mut self, shared: &Shared, slot: &DatabaseSlot, generation: u64) -> Result<&mut OpenFile, Trouble> {
        let (identity, failures, path) = {
            let fields = shared.lock_mirror(slot);
            (fields.identity, fields.failures, fields.path)
        };
        if identity.generation != generation {
            // The worker has given the file up meanwhile, so the outcome of this round is ignored.
            return Err(Trouble::lasting(CauseKind::Passing, "The mirror file was opened again.".to_owned()));
        }
        let database = slot.database();
        let is_same = |open: &OpenFile| (open.identity, open.failures) == (identity, failures);
        if !self.0.get(&database).is_some_and(is_same) {
            let mut open = OpenFile::open(identity, failures, PathBuf::from(path.get()))?;
            // That it can be opened does not say that it can be written.
            let before = self.0.remove(&database).and_then(|open| open.state_trouble);
            open.state_trouble = open.state_trouble.or(before);
            self.0.insert(database, open);
        }
        Ok(self.0.get_mut(&database).expect("it was there, or was opened above"))
    }

    fn close(&mut self, shared: &'static Shared) {
        for slot in shared.slots() {
            if let Some(open) = self.0.get_mut(&slot.database()) {
                open.sync_last(shared, slot);
                // A session that is still at the file changes it.
                let is_last = !shared.lock_mirror(slot).writing;
                open.write_state(shared, slot, is_last);
            }
        }
        self.0.clear();
    }
}

/// Begins a round, if there is something to do and the file may be written.
fn begin_round(shared: &Shared, slot: &'static DatabaseSlot, sync_due: bool) -> Option<Round> {
    let mut fields = shared.lock_mirror(slot);
    let may_write = matches!(fields.attachment, Attachment::Attached | Attachment::Repairing) && !fields.writing;
    let sync_due = sync_due && fields.written() > fields.durable;
    if sync_due && fields.writing {
        // A session does a round. At its end it sees that there is more to do.
        fields.sync_wanted = fields.sync_wanted.max(fields.lines_before(fields.written()));
    }
    if !may_write || !(fields.has_work() || sync_due) {
        return None;
    }
    (fields.is_attended, fields.is_sync_attended) = (false, false);
    Some(Round::begin(&mut fields, slot, sync_due))
}

/// Logs that the state file of a database cannot be written, and that it can again.
fn log_state_trouble(slot: &DatabaseSlot) {
    let database = slot.database();
    let changed = OPEN_FILES.with_borrow(|files| {
        let open = files.0.get(&database)?;
        let is_named = NAMED_STATES.with_borrow(|named| named.get(&database) == open.state_trouble.as_ref());
        (!is_named).then(|| (open.path.clone(), open.state_trouble.clone()))
    });
    match changed {
        None => {}
        Some((_, Some(trouble))) => {
            NAMED_STATES.with_borrow_mut(|named| named.insert(database, trouble.clone()));
            Failure::new(PgSqlErrorCode::ERRCODE_IO_ERROR, trouble)
                .detail("Recording goes on until the server opens the mirror file again, at the latest at its next start.")
                .hint("Let the server write the state file, or remove what is in its place while the server runs: it is made anew.")
                .warn();
        }
        Some((path, None)) => {
            NAMED_STATES.with_borrow_mut(|named| named.remove(&database));
            pgrx::log!("pg_notary writes the state file of mirror file \"{}\" again", path.display());
        }
    }
}

/// Logs a failure, whichever process met it, and its end.
fn log_change(shared: &Shared, slot: &DatabaseSlot) {
    let (database, mut cause) = (slot.database(), None);
    let (syncs, path) = {
        let mut fields = shared.lock_mirror(slot);
        if std::mem::take(&mut fields.is_failure_unnamed) {
            cause = Some(fields.cause);
        }
        (fields.syncs, fields.path)
    };
    let named = NAMED.with_borrow(|named| named.get(&database).cloned());
    if let Some(cause) = cause.map(|cause| cause.text()) {
        if named.is_none_or(|named| named.cause != cause) {
            faults::at("writer_log");
            pgrx::log!("pg_notary cannot record in a mirror file: {cause}");
        }
        NAMED.with_borrow_mut(|all| all.insert(database, Named { cause, syncs }));
    } else if named.is_some_and(|named| syncs != named.syncs) {
        NAMED.with_borrow_mut(|all| all.remove(&database));
        faults::at("writer_log");
        pgrx::log!("pg_notary writes mirror file \"{}\" again", path.get());
    }
}

impl OpenFile {
    fn open(identity: FileIdentity, failures: u64, path: PathBuf) -> Result<OpenFile, Trouble> {
        let file = file::open_attached(&path, identity)?;
        let state_at = Some(Instant::now());
        let mut open =
            OpenFile { identity, failures, path, file, state: None, state_trouble: None, sync_at: None, state_at };
        open.open_state_file();
        Ok(open)
    }

    fn open_state_file(&mut self) {
        match StateFile::open(&self.path) {
            Ok(state) => self.state = Some(state),
            Err(trouble) => (self.state, self.state_trouble) = (None, Some(trouble.cause)),
        }
    }

    fn do_round(&mut self, slot: &DatabaseSlot, round: Round) -> Result<Done, Failed> {
        let unchanged = round.check(&self.path, self.identity);
        unchanged.map_err(Failed::keeping(round.safe()))?;
        let done = round.work(slot, &self.file, &self.path)?;
        if round.sync {
            self.sync_at = None;
        }
        self.note_written(!round.sync);
        Ok(done)
    }

    /// Syncs everything written, whichever process wrote it. If that fails, it is cut off as after any other sync: the
    /// database has the entries, and nothing would remember that their lines may be missing after a crash.
    fn sync_last(&mut self, shared: &Shared, slot: &'static DatabaseSlot) {
        if let Some(round) = self.begin_last_round(shared, slot) {
            let outcome = self.do_round(slot, round);
            round.end(shared, slot, outcome);
        } else {
            file::sync(&self.file, &self.path).ok();
        }
    }

    fn begin_last_round(&self, shared: &Shared, slot: &'static DatabaseSlot) -> Option<Round> {
        for _ in 0..LAST_ROUND_TURNS {
            let mut fields = shared.lock_mirror(slot);
            // A session ends its round and begins no other: there is no writer. The worker is leaving, or reads the
            // file.
            let is_worker_at_it = fields.attachment == Attachment::Detached && slot.worker.pid() != 0;
            if !fields.writing && !is_worker_at_it {
                let is_same = (fields.identity, fields.failures) == (self.identity, self.failures);
                // A sync says nothing about lines that another sync has failed on.
                let is_sound = !fields.is_troubled && fields.reopening.unsynced == Unsynced::NONE && fields.cut_to == 0;
                let is_open = matches!(fields.attachment, Attachment::Attached | Attachment::Detached);
                let may = is_same && is_sound && is_open && fields.written() > fields.durable;
                return may.then(|| Round::begin_last_sync(&mut fields, slot));
            }
            drop(fields);
            std::thread::sleep(LAST_ROUND_TURN);
        }
        None
    }

    /// Notes that something new is in the file, and whether it has to be synced.
    fn note_written(&mut self, is_to_sync: bool) {
        let now = Instant::now();
        if is_to_sync {
            self.sync_at.get_or_insert(now + SYNC_DELAY);
        }
        self.state_at.get_or_insert(now + STATE_DELAY);
    }

    /// Writes to the state file what the mirror file is, and how far the database was when it was written. At a
    /// shutdown the worker may have left the file before.
    fn write_state(&mut self, shared: &Shared, slot: &DatabaseSlot, is_last: bool) {
        self.state_at = None;
        let wal = state_file::flushed_wal();
        // Not with the lock held, or every session would wait for a file that hangs. If another program has changed the
        // file, its times do not match the stated ones.
        let found = self.times(shared, slot);
        let (ownership, known, attachment, is_local) = {
            let mut fields = shared.lock_mirror(slot);
            (fields.is_attended, fields.is_sync_attended) = (false, false);
            let is_same = fields.identity.generation == self.identity.generation;
            let (size, synced) = (fields.written(), fields.durable);
            let FileIdentity { inode, born, .. } = fields.identity;
            let known = Known { size, synced, inode, born, stamp: fields.last_change.stamp(found) };
            (fields.ownership, known, is_same.then_some(fields.attachment), fields.is_local)
        };
        // Sessions do not report again what they have written since this process last looked.
        if known.size > known.synced {
            self.sync_at.get_or_insert(Instant::now() + SYNC_DELAY);
        }
        // The worker is still writing, and may be the last to write for a long time.
        let is_behind_sync = !is_local && known.size > known.synced;
        if attachment == Some(Attachment::Repairing) || is_behind_sync {
            self.state_at = Some(Instant::now() + STATE_DELAY);
        }
        let is_due = match attachment {
            Some(Attachment::Attached) => true,
            Some(Attachment::Detached) => is_last,
            _ => false,
        };
        if is_due {
            self.follow_state_file();
        }
        if let (Some(state), true) = (&self.state, is_due) {
            // The state file only helps to notice what must not happen: if it cannot be written, recording still goes
            // on.
            let mut written = state_file::write(state, &ownership, &known, wal, is_last);
            // Another host that takes over must not find one of half a minute before, as this host's memory may go with
            // it. It must not say there that the file has more than is on disk.
            if is_last || !(is_local || is_behind_sync) {
                written = written.and_then(|()| state.sync());
            }
            let trouble = written.map_err(|error| Trouble::passing("write the state file of", &self.path, error));
            self.state_trouble = trouble.err().map(|trouble| trouble.cause);
        }
    }

    /// Opens the state file again if it is not the one beside the mirror any more. Files are moved while the server
    /// runs: if the mirror comes first, the one that was made beside it is replaced. Makes none beside a file that is
    /// not ours, such as another server's in the same place. The state file moves along with a directory that is
    /// renamed.
    fn follow_state_file(&mut self) {
        let is_current = self.state.as_ref().is_some_and(|state| state.is_beside(&self.path));
        if !is_current && file::is_there(&self.path, self.identity) {
            self.open_state_file();
        }
    }

    /// The file's times, if the server does not ask for them when it writes.
    fn times(&self, shared: &Shared, slot: &DatabaseSlot) -> Option<FileStamp> {
        let is_local = shared.lock_mirror(slot).is_local;
        let metadata = is_local.then(|| self.file.metadata().ok()).flatten()?;
        Some(FileStamp::of(&metadata))
    }
}
