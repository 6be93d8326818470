//! The worker of one database: its main loop. It keeps the mirror file ([`super::keeper`]), seals pending entries
//! ([`super::sealing`]), records baselines ([`super::baseline_work`]), and otherwise sleeps.
//!
//! (`postgres/database.rs` is about the database of the current process in shared memory.)

use super::baseline_work::Baselines;
use super::keeper::Keeper;
use super::pace;
use super::pinned_settings;
use super::sealing::Sealing;
use super::signing_keys;
use super::transactions::{in_transaction, own_name};
use crate::postgres::background_process;
use crate::postgres::database::{self, too_many};
use crate::postgres::database_slot::{DatabaseSlot, WorkerState};
use crate::postgres::errors::Failure;
use crate::postgres::extension;
use crate::postgres::faults;
use crate::postgres::ids;
use crate::postgres::lock_limit::LockLimit;
use crate::postgres::log_state;
use crate::postgres::mirror::file;
use crate::postgres::mirror::handle::Mirror;
use crate::postgres::mirror::prepared;
use crate::postgres::mirror::remembered::{self, Remembered};
use crate::postgres::secrets::Watch;
use crate::postgres::settings;
use crate::postgres::shared::{shared, Shared};
use crate::postgres::wait_events;
use pgrx::{pg_guard, pg_sys, FromDatum, PgSqlErrorCode};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// After a failure: first and longest wait before the next try.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// Sessions that find the mirror failed wake the worker for another try, but it tries no more often than this.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);

#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn pg_notary_worker_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from_datum(arg, false).expect("the launcher passes a database");
    background_process::set_up_signals();
    background_process::keep_memory();
    pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
    let shared = shared().expect("background workers have shared memory");
    if let Err(failure) = pinned_settings::pin() {
        return ask_for_another(shared, database, &failure);
    }
    let idle_slot = || shared.find(database).filter(|slot| slot.worker.pid() == 0);
    // Before the look: a session that creates a ledger afterwards sets the flag again.
    idle_slot().inspect(|slot| slot.check_extension.store(false, Ordering::Release));
    let look = || {
        faults::raise_at("look_for_ledger");
        extension::exists()
    };
    match in_transaction(look) {
        Ok(true) => {}
        Ok(false) => {
            faults::at("no_ledger");
            idle_slot().inspect(|slot| shared.release_without_ledger(slot));
            return;
        }
        Err(failure) => return ask_for_another(shared, database, &failure),
    }
    let Some(slot) = shared.find_or_take(database) else {
        too_many(&own_name()).warn();
        return;
    };
    if database::is_paused() {
        return;
    }
    // Registered before the worker has anything to clean up: if it dies, its entry in shared memory must not stay.
    pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(std::ptr::from_ref(slot) as usize));
    if !shared.enlist_worker(slot, database) {
        return;
    }
    slot.set_worker_state(WorkerState::Running);
    Worker::new(shared, slot).run();
}

/// This process could not find out whether the database has a ledger. As one that may have, the launcher sends another.
fn ask_for_another(shared: &Shared, database: pg_sys::Oid, failure: &Failure) {
    let Some(slot) = shared.find_or_take(database) else { return };
    if slot.take_due_complaint() {
        failure.log_retried(&format!("pg_notary could not look for a ledger in {}", own_name()));
    }
}

/// Runs whenever the worker exits.
#[pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, slot: pg_sys::Datum) {
    let slot = &*(slot.value() as *const DatabaseSlot);
    let Some(shared) = shared() else { return };
    // The worker may exit for want of memory while it holds a lock, which Postgres releases only after this.
    pg_sys::LWLockReleaseAll();
    if !slot.worker.is_me() {
        // The slot was given back, and another database has taken it since.
        return;
    }
    shared.lock_mirror(slot).close();
    file::unlock_at_exit();
    slot.worker.retire();
    slot.become_vacant();
    shared.launcher.wake();
}

/// Whether the extension exists, once a transaction that has just dropped it is over. It wakes the worker before others
/// are told that the cached row of the catalog is not valid any more (Postgres 18 has such a cache), and nothing would
/// wake the worker again. That takes an instant. A transaction that holds the lock for longer is only about to drop it,
/// and may be waiting for sessions that wait for this worker: the caller looks again later.
fn extension_is_left() -> bool {
    let extension = extension::oid();
    if extension == pg_sys::InvalidOid {
        return false;
    }
    let _patience = LockLimit::set(SHORTEST_RETRY);
    // SAFETY: inside a transaction, whose end releases the lock.
    unsafe { pg_sys::LockDatabaseObject(pg_sys::ExtensionRelationId, extension, 0, pg_sys::AccessShareLock as _) };
    extension::exists()
}

struct Worker {
    mirror: Mirror,
    secrets: Watch,
    keeper: Keeper,
    sealing: Sealing,
    baselines: Baselines,
    /// The worker has made sure that the ledger is this database's own.
    is_own: bool,
    /// It has not tried to seal yet.
    is_new: bool,
    /// Something is left to do that no process wakes this one for: it must look again before it sleeps.
    look_again: bool,
    /// What the log already says.
    logged: Option<String>,
    backoff: Duration,
}

impl Worker {
    fn new(shared: &'static Shared, slot: &'static DatabaseSlot) -> Self {
        let mirror = Mirror { shared, slot };
        Worker {
            mirror,
            secrets: Watch::default(),
            keeper: Keeper::new(mirror),
            sealing: Sealing::new(mirror),
            baselines: Baselines::new(slot),
            is_own: false,
            is_new: true,
            look_again: false,
            logged: None,
            backoff: FIRST_BACKOFF,
        }
    }

    fn slot(&self) -> &'static DatabaseSlot {
        self.mirror.slot
    }

    fn run(&mut self) {
        loop {
            if self.must_leave() {
                return;
            }
            let news = self.secrets.look().unwrap_or_else(|unusable| {
                unusable.warn();
                None
            });
            let outcome = self.work();
            // After the work, because sessions that record wait for the work.
            if let Some(secrets) = news {
                signing_keys::check(secrets.as_deref());
                self.look_again = true;
            }
            let wait = self.account(outcome);
            let wait = if self.is_called() { Some(0) } else { wait };
            self.report_idle();
            background_process::sleep(wait, wait_events::worker_main());
        }
    }

    fn must_leave(&mut self) -> bool {
        if database::is_paused() {
            return true;
        }
        if !self.slot().check_extension.swap(false, Ordering::AcqRel) {
            return false;
        }
        let exists = in_transaction(|| {
            faults::raise_at("look_for_extension");
            extension_is_left()
        });
        match exists {
            Ok(true) => {}
            Ok(false) => self.mirror.shared.release_without_ledger(self.slot()),
            // It was cancelled, or a transaction keeps the lock. Look again, even if no process wakes this one.
            Err(_) => {
                self.slot().check_extension.store(true, Ordering::Release);
                self.look_again = true;
                std::thread::sleep(SHORTEST_RETRY);
            }
        }
        // Also leave if the ledger was dropped and created again: that is another ledger, with another file.
        matches!(exists, Ok(false)) || self.keeper.has_file()
    }

    /// Whether another process wants this one to leave, or to look whether it must. It may have been woken for that
    /// while it waited for something else.
    fn is_called(&self) -> bool {
        database::is_paused() || self.slot().check_extension.load(Ordering::Acquire)
    }

    /// Notes success or failure; returns how long to sleep.
    fn account(&mut self, outcome: Result<(), Failure>) -> Option<i64> {
        match outcome {
            Ok(()) => {
                if self.logged.take().is_some() {
                    pgrx::log!("pg_notary worker of {} works again", own_name());
                }
                self.backoff = FIRST_BACKOFF;
                let is_failing = self.baselines.is_failing();
                let state = if is_failing { WorkerState::Failing } else { WorkerState::Running };
                self.slot().set_worker_state(state);
                let has_waited = self.keeper.take_has_waited() | self.sealing.take_has_waited();
                if std::mem::take(&mut self.look_again) | has_waited {
                    return Some(0);
                }
                self.until_next()
            }
            Err(failure) => {
                if self.logged.as_ref() != Some(&failure.text()) {
                    failure.log_retried(&format!("pg_notary worker of {} cannot go on", own_name()));
                    self.logged = Some(failure.text());
                }
                self.slot().set_worker_state(WorkerState::Failing);
                std::thread::sleep(SHORTEST_RETRY);
                let (wait, next) = match failure.code() {
                    // Another transaction is in the way. When it ends, no process wakes this one.
                    PgSqlErrorCode::ERRCODE_OBJECT_IN_USE => (FIRST_BACKOFF, FIRST_BACKOFF),
                    _ => (self.backoff, (self.backoff * 2).min(LONGEST_BACKOFF)),
                };
                self.backoff = next;
                Some(wait.as_millis() as i64)
            }
        }
    }

    /// Milliseconds until there is something to do for which no process wakes this one.
    fn until_next(&self) -> Option<i64> {
        let baselines = self.baselines.until_next().filter(|_| !pace::has_fallen_behind(self.slot()));
        // As in work(): until these have ended, sealing has no turn.
        let is_sealing_held = settings::mirror_mode().waits_for_file() && self.keeper.awaits_commits();
        let sealing = self.sealing.until_next().filter(|_| !is_sealing_held);
        let next = [sealing, self.keeper.until_next(), baselines];
        next.into_iter().flatten().min()
    }

    fn report_idle(&self) {
        // SAFETY: reports to this process's own entry in pg_stat_activity.
        unsafe {
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
            pg_sys::pgstat_report_stat(true);
        }
    }

    fn work(&mut self) -> Result<(), Failure> {
        if self.slot().recount.swap(false, Ordering::AcqRel) {
            self.sealing.recount();
        }
        self.own_the_ledger()?;
        self.settle_prepared()?;
        let mode = settings::mirror_mode();
        let seen_to = self.keeper.see_to(mode);
        // If the file cannot be opened anew yet, sessions go on with it, and some wait for void lines.
        let voided = self.keeper.void_aborted();
        if mode.waits_for_file() {
            seen_to?;
            // A lock on one partition does not hold up sealing, so it is returned last.
            let voided = match voided {
                Err(failure) if failure.code() != PgSqlErrorCode::ERRCODE_OBJECT_IN_USE => return Err(failure),
                voided => voided,
            };
            // A table that cannot be recorded does not hold up sealing, so its failure is returned last.
            let recorded = self.record_baseline();
            if self.keeper.awaits_commits() {
                return recorded;
            }
            let sealed = self.seal();
            if sealed.is_err() && !self.keeper.is_unremembered() {
                return sealed;
            }
            let unwritten = self.sealing.take_unwritten();
            return sealed.and(self.keeper.append_block_lines(unwritten.as_ref())).and(recorded).and(voided);
        }
        let recorded = self.record_baseline();
        // No session waits for the file, so sealing does not either.
        let mirrored = seen_to.and(voided).and_then(|()| self.keeper.append_owed());
        self.seal()?;
        mirrored.and_then(|()| self.keeper.append_owed()).and(recorded)
    }

    fn seal(&mut self) -> Result<(), Failure> {
        let sealed = self.sealing.seal(&mut self.keeper);
        // Baselines have their turn from now on.
        self.look_again |= std::mem::take(&mut self.is_new);
        sealed
    }

    /// Records some rows that were in a table before it was tracked. They wait while sealing is behind: their table may
    /// be large, and nobody waits for them.
    fn record_baseline(&mut self) -> Result<(), Failure> {
        if self.is_new {
            // If the worker before ended over a row that takes too much memory, so will this one: after it has sealed.
            return Ok(());
        }
        if pace::has_fallen_behind(self.slot()) {
            return Ok(());
        }
        self.look_again |= self.baselines.work()?;
        Ok(())
    }

    /// A database that CREATE DATABASE ... TEMPLATE has copied holds the ledger of its original. From here on the two
    /// are different ledgers, with different files. For a ledger that goes on, this notes where the WAL ended when this
    /// server started.
    fn own_the_ledger(&mut self) -> Result<(), Failure> {
        if self.is_own {
            return Ok(());
        }
        let shared = self.mirror.shared;
        self.keeper.before_attaching(|| {
            let remembered = Remembered::read();
            if remembered.database != database::own_oid() {
                let ledger_id = ids::random();
                log_state::become_own_ledger(ledger_id);
                pgrx::log!(
                    "pg_notary: this database is a copy; its ledger {} continues as ledger {ledger_id} with a file of its own",
                    remembered.ledger_id
                );
            }
            remembered::note_start(shared);
        })?;
        self.is_own = true;
        Ok(())
    }

    /// Looks up what became of prepared transactions, if a command has decided some.
    fn settle_prepared(&mut self) -> Result<(), Failure> {
        if !self.slot().prepared_decided.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        // Until now their entries were not counted as pending, and the tables that they track were not seen.
        self.sealing.recount();
        self.slot().baselines.store(true, Ordering::Release);
        let mirror = self.mirror;
        let settled = in_transaction(|| {
            faults::raise_at("settle_prepared");
            prepared::settle_decided(&mirror);
        });
        if settled.is_err() {
            self.slot().prepared_decided.store(true, Ordering::SeqCst);
        }
        settled
    }
}
