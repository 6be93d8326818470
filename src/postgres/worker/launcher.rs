//! The launcher: finds the databases that have a ledger and sees that each has a worker.

use crate::postgres::background_process;
use crate::postgres::database_slot::{DatabaseSlot, WorkerState};
use crate::postgres::errors::Failure;
use crate::postgres::mirror::hang::Hang;
use crate::postgres::mirror::lost_commits;
use crate::postgres::secrets;
use crate::postgres::shared::{shared, Shared};
use crate::postgres::timeout::Timeout;
use crate::postgres::wait_events;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker};
use pgrx::{pg_guard, pg_sys, IntoDatum, PgSqlErrorCode};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A worker that ended by itself is not started again sooner than this.
const RESTART_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait for a new worker to say whether there is work for it.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);
/// How soon to look again at a worker that was started.
const LOOK_AGAIN_MS: i64 = 5_000;
/// After no worker could be registered: first and longest wait before the next try.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// How often to look at all databases: no event tells that one now allows connections or is no longer a template.
const RESCAN_INTERVAL: Duration = Duration::from_secs(30);
/// How often the log repeats that a database has no worker: users are sent to the log, and may look days later.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(600);

/// A mirror file that has not been seen hanging for so long answers again.
const CALM: Duration = Duration::from_secs(10);

const RAISE_LIMIT: &str =
    "Raise max_worker_processes and restart the server: pg_notary needs two processes, and one more for each \
    database with a ledger.";

pub fn init() {
    BackgroundWorkerBuilder::new("pg_notary launcher")
        .set_type("pg_notary launcher")
        .set_library("pg_notary")
        .set_function("pg_notary_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn pg_notary_launcher_main(_arg: pg_sys::Datum) {
    background_process::set_up_signals();
    // No database: the shared catalogs are enough.
    pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
    let shared = shared().expect("background workers have shared memory");
    lost_commits::note_recovery(&shared.is_recovery_noted);
    shared.launcher.enlist();
    shared.rescan.store(true, Ordering::Release);
    let mut launcher = Launcher {
        shared,
        last_start: HashMap::new(),
        processes: HashMap::new(),
        looked_at: Vec::new(),
        complained: HashMap::new(),
        complained_of_unknown: None,
        without_worker: Vec::new(),
        was_refused: false,
        backoff: FIRST_BACKOFF,
        retry_at: None,
        hanging: HashMap::new(),
    };
    let mut secrets = secrets::Watch::default();
    let mut rescanned = Instant::now();
    loop {
        // Workers report a secret that cannot be used.
        if let Ok(Some(Some(keyring))) = secrets.look() {
            secrets::warn_if_short(&keyring);
        }
        let wait = shortest(launcher.run_once(), launcher.log_hanging());
        background_process::sleep(shortest(wait, Some(RESCAN_INTERVAL.as_millis() as i64)), wait_events::worker_main());
        if rescanned.elapsed() >= RESCAN_INTERVAL {
            rescanned = Instant::now();
            shared.rescan.store(true, Ordering::Release);
        }
    }
}

struct Launcher {
    shared: &'static Shared,
    last_start: HashMap<pg_sys::Oid, Instant>,
    /// The process that was last started for each database. It may be waiting for a lock before it can come to work.
    processes: HashMap<pg_sys::Oid, DynamicBackgroundWorker>,
    /// Databases to which a worker has been sent since this launcher started. Those without the extension are not
    /// looked at again until they ask for it, or there is room for one that had found none.
    looked_at: Vec<pg_sys::Oid>,
    /// When the log last said that no worker could be registered for each of these databases.
    complained: HashMap<pg_sys::Oid, Instant>,
    /// The same for databases that are not known to have a ledger.
    complained_of_unknown: Option<Instant>,
    /// Databases that can have no worker, and the log has said so.
    without_worker: Vec<pg_sys::Oid>,
    /// A worker could not be registered in this pass, so there is no room for others either.
    was_refused: bool,
    backoff: Duration,
    /// When to try again after that.
    retry_at: Option<Instant>,
    /// The mirror files that the log says do not answer, by database.
    hanging: HashMap<pg_sys::Oid, Noted>,
}

/// A mirror file that does not answer, as the log says.
struct Noted {
    hang: Hang,
    /// When that was last seen.
    seen: Instant,
    logged: Instant,
}

impl Noted {
    /// Logs what is new, and returns what to remember. A file that is only slow hangs again and again: that is logged
    /// now and then.
    fn now(hang: Option<Hang>, before: Option<Noted>) -> Option<Noted> {
        let seen = Instant::now();
        match (hang.filter(|hang| hang.is_waited_for), before) {
            (Some(hang), Some(before)) if before.logged.elapsed() < COMPLAINT_INTERVAL => {
                Some(Noted { hang, seen, logged: before.logged })
            }
            (Some(hang), _) => {
                hang.failure().warn();
                Some(Noted { hang, seen, logged: seen })
            }
            (None, Some(before)) if before.seen.elapsed() < CALM => Some(before),
            (None, Some(before)) => {
                pgrx::log!("pg_notary: mirror file \"{}\" answers again", before.hang.path());
                None
            }
            (None, None) => None,
        }
    }
}

impl Launcher {
    /// Starts what is to be started; returns how long to sleep at most. Where there was no room for a worker, that can
    /// wait, however often sessions wake this process.
    fn run_once(&mut self) -> Option<i64> {
        if self.forget_ended() {
            self.retry_at = None;
        }
        if let Some(left) = self.retry_at.and_then(|at| at.checked_duration_since(Instant::now())) {
            return Some(background_process::rounded_up_ms(left));
        }
        self.was_refused = false;
        let wait = self.start_missing();
        shortest(wait, self.back_off())
    }

    /// Logs which mirror files do not answer, and which answer again; returns how soon to look again. The processes
    /// that know of it wait for the file themselves, some in the system call.
    fn log_hanging(&mut self) -> Option<i64> {
        let mut hanging = HashMap::new();
        for slot in self.shared.slots() {
            let hang = Hang::of(&self.shared.lock_mirror(slot));
            let before = self.hanging.remove(&slot.database());
            if let Some(noted) = Noted::now(hang, before) {
                hanging.insert(slot.database(), noted);
            }
        }
        self.hanging = hanging;
        (!self.hanging.is_empty()).then_some(LOOK_AGAIN_MS)
    }

    fn start_missing(&mut self) -> Option<i64> {
        let mut wait = self.restart_wanted();
        // After the databases that are known to have a ledger: there may be too few processes for the rest.
        if self.shared.rescan.swap(false, Ordering::AcqRel) {
            wait = shortest(wait, self.look_for_ledgers());
        }
        wait
    }

    /// Forgets the workers that have ended; returns whether there were any, and so room for others.
    fn forget_ended(&mut self) -> bool {
        let before = self.processes.len();
        self.processes.retain(|_, process| !has_ended(process));
        self.processes.len() < before
    }

    /// Notes when to try again, if there was no room for a worker; returns how long that is.
    fn back_off(&mut self) -> Option<i64> {
        let backoff = self.backoff;
        let next = if self.was_refused { (backoff * 2).min(LONGEST_BACKOFF) } else { FIRST_BACKOFF };
        self.backoff = next;
        self.retry_at = self.was_refused.then(|| Instant::now() + backoff);
        self.was_refused.then_some(background_process::rounded_up_ms(backoff))
    }

    /// Starts the workers of databases that are known to have a ledger. Returns when to look again at those for which
    /// it was too early.
    fn restart_wanted(&mut self) -> Option<i64> {
        let wanted: Vec<&DatabaseSlot> = self.shared.slots().filter(|slot| self.is_wanted(slot)).collect();
        wanted.into_iter().fold(None, |wait, slot| shortest(wait, self.restart(slot)))
    }

    /// Sends a worker to each database that none has been sent to. Returns when to look again at databases that are
    /// known to have a ledger.
    fn look_for_ledgers(&mut self) -> Option<i64> {
        // Before the databases are read: one that is created afterwards may take a slot and is not among them.
        let slots: Vec<_> = self.shared.slots().map(|slot| (slot, slot.database())).collect();
        let (databases, others) = databases();
        self.drop_gone(&slots, &databases, &others);
        self.forget_gone(&databases, &others);
        if self.shared.take_room() {
            self.looked_at.retain(|database| self.shared.find(*database).is_some());
        }
        let (mut unknown, mut wait) = (Vec::new(), None);
        for database in databases {
            if self.looked_at.contains(&database) || self.has_process(database) {
                continue;
            }
            // There can be thousands of databases to look at, and commits wait for the workers of those with a ledger.
            if !self.was_refused {
                wait = shortest(wait, self.restart_wanted());
            }
            match self.start(database) {
                true => self.looked_at.push(database),
                false => unknown.push(database),
            }
        }
        if !self.was_refused {
            // Workers that have ended before they could find out whether there is a ledger have asked for others.
            wait = shortest(wait, self.restart_wanted());
        }
        if unknown.is_empty() {
            return wait;
        }
        self.complain_of_unknown(&unknown);
        self.shared.rescan.store(true, Ordering::Release);
        wait
    }

    fn forget_gone(&mut self, databases: &[pg_sys::Oid], others: &[pg_sys::Oid]) {
        let is_there = |database: &pg_sys::Oid| databases.contains(database) || others.contains(database);
        self.looked_at.retain(|database| databases.contains(database));
        self.last_start.retain(|database, _| is_there(database));
        self.processes.retain(|database, _| is_there(database));
        self.complained.retain(|database, _| is_there(database));
        self.without_worker.retain(is_there);
    }

    /// Whether to start the slot's worker: it has ended, or has left without having come to work. One that is on its
    /// way is left alone, however long that takes: when it ends, the postmaster wakes this process.
    fn is_wanted(&self, slot: &DatabaseSlot) -> bool {
        let started = self.last_start.get(&slot.database()).map(Instant::elapsed);
        let failed_to_start = || started.is_none_or(|since| since >= SETTLE_DEADLINE);
        slot.worker.pid() == 0
            && !self.has_process(slot.database())
            && !self.shared.pauses.has(slot.database())
            && match slot.worker_state() {
                WorkerState::Wanted => true,
                WorkerState::Starting => failed_to_start(),
                WorkerState::Running | WorkerState::Failing => false,
            }
    }

    /// Whether the process that was last started for the database still runs.
    fn has_process(&self, database: pg_sys::Oid) -> bool {
        self.processes.get(&database).is_some_and(|process| !has_ended(process))
    }

    /// Starts the worker of a slot again. Returns when to look again, if it is too early, or for how it has started.
    fn restart(&mut self, slot: &DatabaseSlot) -> Option<i64> {
        let database = slot.database();
        if let Some(since) = self.last_start.get(&database).map(Instant::elapsed) {
            if since < RESTART_INTERVAL {
                return Some(background_process::rounded_up_ms(RESTART_INTERVAL - since));
            }
        }
        let (connectable, others) = databases();
        if !connectable.contains(&database) {
            match others.contains(&database) {
                // Sessions in the database may be recording, so the slot stays theirs.
                true => self.say_without_worker(database),
                false => self.shared.release(slot, database),
            }
            return None;
        }
        self.without_worker.retain(|known| *known != database);
        slot.set_worker_state(WorkerState::Starting);
        if !self.start(database) {
            slot.set_worker_state(WorkerState::Wanted);
            self.complain(database);
            return None;
        }
        Some(LOOK_AGAIN_MS)
    }

    fn say_without_worker(&mut self, database: pg_sys::Oid) {
        if !self.without_worker.contains(&database) {
            self.without_worker.push(database);
            let number = database.to_u32();
            pgrx::log!("pg_notary has no worker for database {number}: it is a template, does not allow connections, or was partly dropped");
        }
    }

    /// Returns false if there is no room for another process.
    fn start(&mut self, database: pg_sys::Oid) -> bool {
        if self.was_refused {
            return false;
        }
        let registered = BackgroundWorkerBuilder::new(&format!("pg_notary worker {}", database.to_u32()))
            .set_type("pg_notary worker")
            .set_library("pg_notary")
            .set_function("pg_notary_worker_main")
            .enable_spi_access()
            .set_start_time(BgWorkerStartTime::RecoveryFinished)
            .set_restart_time(None)
            .set_argument(database.into_datum())
            // SAFETY: reads a global of this process, which never changes.
            .set_notify_pid(unsafe { pg_sys::MyProcPid })
            .load_dynamic();
        match registered {
            // One after the other, so that a cluster with many databases does not use up max_worker_processes at once.
            Ok(worker) => {
                self.last_start.insert(database, Instant::now());
                self.wait_until_settled(&worker, database);
                self.processes.insert(database, worker);
                self.complained.remove(&database);
                true
            }
            Err(_) => {
                self.was_refused = true;
                false
            }
        }
    }

    /// Waits until a worker that was just started is working, or has left because there is nothing to do.
    fn wait_until_settled(&self, worker: &DynamicBackgroundWorker, database: pg_sys::Oid) {
        let mut timeout = Timeout::after(SETTLE_DEADLINE);
        while !timeout.is_over() {
            let ended = has_ended(worker);
            let at_work = self.shared.find(database).is_some_and(|slot| slot.worker.pid() != 0);
            if ended && !at_work {
                // If the database has a ledger after all, another worker is started.
                let slot = self.shared.find(database).filter(|slot| slot.worker_state() == WorkerState::Starting);
                slot.inspect(|slot| slot.set_worker_state(WorkerState::Wanted));
            }
            if ended || at_work {
                return;
            }
            background_process::sleep(Some(10), wait_events::worker_main());
        }
    }

    fn complain_of_unknown(&mut self, databases: &[pg_sys::Oid]) {
        if self.complained_of_unknown.is_some_and(|last| last.elapsed() <= COMPLAINT_INTERVAL) {
            return;
        }
        self.complained_of_unknown = Some(Instant::now());
        let numbers: Vec<String> = databases.iter().map(|database| database.to_u32().to_string()).collect();
        Failure::new(
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "could not look for a ledger in all databases: out of background worker slots",
        )
        .detail(format!(
            "The databases that are left have the OIDs {}. If one of them has a ledger, nothing is sealed there, and \
             nothing is recorded in the modes sync and write.",
            numbers.join(", ")
        ))
        .hint(RAISE_LIMIT)
        .warn();
    }

    fn complain(&mut self, database: pg_sys::Oid) {
        if self.complained.get(&database).is_none_or(|last| last.elapsed() > COMPLAINT_INTERVAL) {
            self.complained.insert(database, Instant::now());
            let number = database.to_u32();
            Failure::new(
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!("could not register a pg_notary worker for database {number}: out of background worker slots"),
            )
            .detail(
                "Until there is a worker, nothing is sealed there, and nothing is recorded in the modes sync and write.",
            )
            .hint(RAISE_LIMIT)
            .warn();
        }
    }

    /// Gives the slots of dropped databases back.
    fn drop_gone(&self, slots: &[(&DatabaseSlot, pg_sys::Oid)], databases: &[pg_sys::Oid], others: &[pg_sys::Oid]) {
        for (slot, database) in slots {
            if !databases.contains(database) && !others.contains(database) {
                self.shared.release(slot, *database);
            }
        }
    }
}

fn has_ended(process: &DynamicBackgroundWorker) -> bool {
    matches!(process.pid(), Err(BackgroundWorkerStatus::Stopped | BackgroundWorkerStatus::PostmasterDied))
}

/// The connection limit of such a database: `DATCONNLIMIT_INVALID_DB` of catalog/pg_database.h, which releases before
/// 15.4 do not have.
const INVALID_DATABASE: i32 = -2;

fn shortest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The databases that can have a worker, and the others, from the shared catalog. A template must have none, or it
/// could not be copied.
fn databases() -> (Vec<pg_sys::Oid>, Vec<pg_sys::Oid>) {
    let (mut databases, mut others) = (Vec::new(), Vec::new());
    // SAFETY: a catalog scan in a transaction of its own, as in the autovacuum launcher; no other transaction is open.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let database = &*(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_database);
            // An interrupted DROP DATABASE has left one that nobody can connect to.
            let is_valid = database.datconnlimit != INVALID_DATABASE;
            match database.datallowconn && !database.datistemplate && is_valid {
                true => databases.push(database.oid),
                false => others.push(database.oid),
            }
        }
        pg_sys::heap_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        pg_sys::CommitTransactionCommand();
    }
    (databases, others)
}
