//! The worker of one database: its main loop. It seals pending entries, keeps the mirror file with the help of
//! [`super::keeper`], records baselines, and otherwise sleeps.
//!
//! (`postgres/database.rs` is about the database of the current process in shared memory.)

use super::baseline_work::Baselines;
use super::keeper::Keeper;
use super::pace::Pace;
use super::signing_keys;
use super::transactions::{in_sealing, in_transaction, own_name};
use crate::postgres::background_process;
use crate::postgres::blocks::{self, Batch, Extent};
use crate::postgres::emptied_pages::EmptiedPages;
use crate::postgres::errors::{or_raise, Failure};
use crate::postgres::faults;
use crate::postgres::ids;
use crate::postgres::log_state;
use crate::postgres::mirror::block_lines::SealedBlocks;
use crate::postgres::mirror::file;
use crate::postgres::mirror::handle::Mirror;
use crate::postgres::mirror::prepared;
use crate::postgres::mirror::remembered::{self, Remembered};
use crate::postgres::mirror::requests;
use crate::postgres::mirror::shared::Request;
use crate::postgres::secrets::Watch;
use crate::postgres::settings::{self, MirrorMode};
use crate::postgres::shared::{shared, DatabaseSlot, PendingCount, Shared, WorkerState};
use crate::postgres::tables::{self, Table};
use crate::postgres::wait_events;
use pgrx::{pg_guard, pg_sys, FromDatum};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// After a failure: first and longest wait before the next try.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// Sessions that find the mirror failed wake the worker for another try, but it tries no more often than this.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);
/// How soon to count entries again if transactions were committing during the count.
const RECOUNT_INTERVAL: Duration = Duration::from_millis(500);
/// In mode async: how long sealing may go on before the worker turns to the file again.
const LONGEST_SEALING: Duration = Duration::from_secs(1);
/// New rows come where the last scan of the pending table ended. Rows of slower sessions may come some pages before.
const RESUME_MARGIN_PAGES: u32 = 64;

#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn pg_notary_worker_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from_datum(arg, false).expect("the launcher passes a database");
    background_process::set_up_signals();
    background_process::keep_memory();
    pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
    pin_settings();
    let shared = shared().expect("background workers have shared memory");
    let idle_slot = || shared.find(database).filter(|slot| slot.worker.pid() == 0);
    // Before the look: a session that creates a ledger afterwards sets the flag again.
    idle_slot().inspect(|slot| slot.check_extension.store(false, Ordering::Release));
    match in_transaction(extension_exists) {
        Ok(true) => {}
        Ok(false) => {
            faults::at("no_ledger");
            idle_slot().inspect(|slot| shared.release_without_ledger(slot));
            return;
        }
        // The launcher starts another worker.
        Err(_) => return,
    }
    let Some(slot) = shared.find_or_take(database) else {
        pgrx::warning!("pg_notary cannot seal database {}: too many databases have a ledger", database.to_u32());
        return;
    };
    if slot.worker.pid() != 0 || slot.worker_state() == WorkerState::Paused {
        return;
    }
    // Registered before the worker has anything to clean up: if it dies, its entry in shared memory must not stay.
    pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(std::ptr::from_ref(slot) as usize));
    slot.worker.enlist();
    slot.set_worker_state(WorkerState::Running);
    Worker::new(shared, slot).run();
}

/// Shields the worker from settings that a database or the superuser's role has for the sake of clients.
fn pin_settings() {
    let settings = [
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"default_tablespace", c""),
        (c"row_security", c"off"),
        (c"statement_timeout", c"0"),
        (c"lock_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        // An error that the worker catches must end only what it was doing.
        (c"exit_on_error", c"off"),
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        (c"transaction_timeout", c"0"),
        // A backup or a standby must be able to have the block before the file says that it was sealed.
        (c"synchronous_commit", c"on"),
    ];
    for (name, value) in settings {
        // SAFETY: NUL-terminated names and values of Postgres' own settings; Postgres copies both.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}

/// Runs whenever the worker exits.
#[pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, slot: pg_sys::Datum) {
    let slot = &*(slot.value() as *const DatabaseSlot);
    let Some(shared) = shared() else { return };
    if !slot.worker.is_me() {
        // The slot was given back, and another database has taken it since.
        return;
    }
    shared.lock_mirror(slot).close();
    file::unlock_at_exit();
    slot.worker.retire();
    slot.set_worker_state(WorkerState::Wanted);
    shared.launcher.wake();
}

fn extension_exists() -> bool {
    // SAFETY: a catalog look-up inside a transaction; the name is NUL-terminated.
    unsafe { pg_sys::get_extension_oid(c"pg_notary".as_ptr(), true) != pg_sys::InvalidOid }
}

struct Worker {
    mirror: Mirror,
    secrets: Watch,
    keeper: Keeper,
    baselines: Baselines,
    /// The worker has made sure that the ledger is this database's own.
    is_own: bool,
    /// Where to start looking for pending entries: there is most likely nothing before this page.
    resume_page: u32,
    vacated: EmptiedPages,
    /// The blocks of the last batch. The next batch writes their lines before it seals, or the worker does if there is
    /// none.
    unwritten: Option<SealedBlocks>,
    pace: Pace,
    /// When to read the whole pending table, because the count of its entries is not exact.
    recount_at: Option<Instant>,
    /// The pending entries were counted once since this worker started.
    is_counted: bool,
    /// How long the oldest entry that was left has been waiting: since this time.
    waiting_since: Option<i64>,
    /// The work has waited for locks or for the file. Such a wait consumes the latch that wakes this process, so it
    /// must look again before it sleeps.
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
            baselines: Baselines::new(slot),
            is_own: false,
            resume_page: 0,
            vacated: EmptiedPages::default(),
            unwritten: None,
            pace: Pace::default(),
            is_counted: false,
            recount_at: Some(Instant::now()),
            waiting_since: None,
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
            if let Some(keyring) = news {
                signing_keys::check(&keyring);
                self.look_again = true;
            }
            let wait = self.account(outcome);
            self.report_idle();
            background_process::sleep(wait, wait_events::worker_main());
        }
    }

    fn must_leave(&mut self) -> bool {
        if self.slot().worker_state() == WorkerState::Paused {
            return true;
        }
        if !self.slot().check_extension.swap(false, Ordering::AcqRel) {
            return false;
        }
        let exists = in_transaction(|| {
            faults::raise_at("look_for_extension");
            extension_exists()
        });
        match exists {
            Ok(true) => {}
            Ok(false) => self.mirror.shared.release_without_ledger(self.slot()),
            // For example, it was cancelled. Look again, even if no process wakes this one.
            Err(_) => {
                self.slot().check_extension.store(true, Ordering::Release);
                self.look_again = true;
                std::thread::sleep(SHORTEST_RETRY);
            }
        }
        // Also leave if the ledger was dropped and created again: that is another ledger, with another file.
        matches!(exists, Ok(false)) || self.keeper.has_file()
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
                if std::mem::take(&mut self.look_again) | self.keeper.take_has_waited() {
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
                let wait = self.backoff;
                self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
                Some(wait.as_millis() as i64)
            }
        }
    }

    /// Milliseconds until there is something to do for which no process wakes this one.
    fn until_next(&self) -> Option<i64> {
        let milliseconds = |time: Duration| time.as_millis() as i64 + 1;
        let rest = self.pace.rest().map(milliseconds);
        let due = self.due().map(|due| ((due - tables::now().micros()) / 1000 + 1).max(0));
        let recount = self.recount_at.map(|at| milliseconds(at.saturating_duration_since(Instant::now())));
        let next = due.into_iter().chain(recount).chain(rest.filter(|_| self.has_full_block())).min();
        // Nothing is sealed before the rest is over.
        let next = next.map(|next| next.max(rest.unwrap_or(0)));
        next.into_iter().chain(self.keeper.until_next()).chain(self.baselines.until_next()).min()
    }

    fn has_full_block(&self) -> bool {
        self.slot().pending.load(Ordering::Acquire) >= settings::block_size() as i64
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
            self.recount_at = Some(Instant::now());
        }
        self.own_the_ledger()?;
        self.settle_prepared()?;
        let mode = settings::mirror_mode();
        let mirrored = self.keeper.see_to(mode).and_then(|()| self.keeper.void_aborted());
        if matches!(mode, MirrorMode::Sync | MirrorMode::Write) {
            mirrored?;
            // A table that cannot be recorded does not hold up sealing, so its failure is returned last.
            let recorded = self.record_baseline();
            if self.keeper.awaits_commits() {
                return recorded;
            }
            let sealed = self.seal();
            if sealed.is_err() && !self.keeper.is_unremembered() {
                return sealed;
            }
            let unwritten = self.unwritten.take();
            return sealed.and(self.keeper.append_block_lines(unwritten.as_ref())).and(recorded);
        }
        let recorded = self.record_baseline();
        // No session waits for the file, so sealing does not either.
        let mirrored = mirrored.and_then(|()| self.keeper.append_owed());
        self.seal()?;
        mirrored.and_then(|()| self.keeper.append_owed()).and(recorded)
    }

    /// Records some rows that were in a table before it was tracked.
    fn record_baseline(&mut self) -> Result<(), Failure> {
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
        in_transaction(|| {
            blocks::lock_sealing();
            let remembered = Remembered::read();
            // SAFETY: reads a global of this process, set before its main function connects.
            if remembered.database != unsafe { pg_sys::MyDatabaseId } {
                let ledger_id = ids::random();
                log_state::become_own_ledger(ledger_id);
                pgrx::log!(
                    "pg_notary: this database is a copy; its ledger {} continues as ledger {ledger_id} with a file of its own",
                    remembered.ledger_id
                );
            }
            remembered::note_start(self.mirror.shared);
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
        self.recount_at = Some(Instant::now());
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

    /// Seals what is due, batch by batch, each in its own transaction.
    fn seal(&mut self) -> Result<(), Failure> {
        if !self.has_something_to_seal() {
            return Ok(());
        }
        let since = Instant::now();
        let mut page = if self.must_recount() || self.is_due() { 0 } else { self.resume_page };
        loop {
            // A backlog takes many batches, and sessions that reuse an id wait for the void line.
            self.keeper.void_aborted()?;
            if self.is_called_away() || (self.keeper.is_async() && since.elapsed() > LONGEST_SEALING) {
                return Ok(());
            }
            let next = self.seal_from(page)?;
            let is_resting = self.pace.end(self.slot());
            match next {
                Some(next) if is_resting => {
                    self.resume_page = next;
                    return Ok(());
                }
                Some(next) => page = next,
                None => return Ok(()),
            }
        }
    }

    /// Seals one batch; returns the page to go on from, if there is more to seal.
    fn seal_from(&mut self, page: u32) -> Result<Option<u32>, Failure> {
        let looked_at = tables::now().micros();
        let Some((batch, count)) = self.seal_batch(page)? else { return Ok(None) };
        self.note_left(&batch);
        if batch.next_page != 0 {
            return Ok(Some(batch.next_page));
        }
        self.resume_page = batch.pages.saturating_sub(RESUME_MARGIN_PAGES);
        if batch.is_whole {
            self.correct_count(count, &batch);
        }
        // The scan could see every entry that was counted before it, so a missing one is on an earlier page.
        let was_missed = count.entries > batch.seen() && !batch.is_whole;
        let is_unseen = self.slot().pending.load(Ordering::Acquire) > batch.left;
        if is_unseen {
            self.wait_since(looked_at);
        }
        let next = match was_missed || self.is_due() {
            true => Some(0),
            false => (is_unseen && self.has_full_block()).then_some(self.resume_page),
        };
        Ok(next)
    }

    /// Runs between batches, whose end may never come while entries arrive faster than they are sealed. Obeys signals,
    /// reads the settings, and returns whether something else must be done first.
    fn is_called_away(&mut self) -> bool {
        let mode = settings::mirror_mode();
        background_process::sleep(Some(0), wait_events::worker_main());
        // This takes what woke the process, so it must look again after the last batch at the latest.
        self.look_again = true;
        let slot = self.slot();
        let must_catch_up = matches!(mode, MirrorMode::Sync | MirrorMode::Write) && slot.is_behind();
        must_catch_up
            || mode != settings::mirror_mode()
            || slot.worker_state() == WorkerState::Paused
            || slot.check_extension.load(Ordering::Acquire)
            || slot.prepared_decided.load(Ordering::SeqCst)
            || requests::pending(&self.mirror) != Request::None
    }

    /// Notes that entries came while a batch was sealed. Their sessions may have woken no process: to them it looked as
    /// if the entries of the batch were still waiting.
    fn wait_since(&mut self, time: i64) {
        self.waiting_since = Some(self.waiting_since.map_or(time, |since| since.min(time)));
    }

    /// Whether the pending table may have a full block, an entry that is due, or entries whose age is not known yet.
    fn has_something_to_seal(&mut self) -> bool {
        let pending = self.slot().pending.load(Ordering::Acquire);
        if pending <= 0 && !self.must_recount() {
            self.waiting_since = None;
            return false;
        }
        let may_find = self.must_recount() || self.waiting_since.is_none() || self.is_due() || self.has_full_block();
        may_find && self.pace.rest().is_none()
    }

    /// Also returns the count of pending entries before the batch. It is read under the lock that every sealer holds
    /// until its entries are off the count: read earlier, the worker would subtract them once more. `None` if another
    /// process keeps sealing.
    fn seal_batch(&mut self, page: u32) -> Result<Option<(Batch, PendingCount)>, Failure> {
        let extent = if self.is_due() { Extent::Everything } else { Extent::FullBlocks };
        self.look_again = true;
        let slot = self.slot();
        let (unwritten, is_counted) = (self.unwritten.take(), self.is_counted);
        let (vacated, keeper, pace) = (&mut self.vacated, &mut self.keeper, &mut self.pace);
        let sealed = in_sealing(|| {
            pace.begin(slot);
            // Otherwise sealing itself makes sure that no lines are missing.
            if unwritten.is_some() || keeper.is_unremembered() {
                keeper.append_in_sealing(unwritten.as_ref());
            }
            vacated.reclaim(&Table::open("entries_pending", pg_sys::RowExclusiveLock));
            let count = slot.count_pending();
            // For example, after a start it is not known how many there are.
            let known = if is_counted { count.entries } else { i64::MAX };
            (or_raise(blocks::seal_batch(extent, page, known)), count)
        })?;
        let Some((mut batch, count)) = sealed else { return Ok(None) };
        self.keeper.note_remembered();
        self.vacated.add(std::mem::take(&mut batch.moved));
        self.slot().blocks_sealed.fetch_add(batch.blocks.len() as i64, Ordering::AcqRel);
        if !batch.blocks.is_empty() && !self.keeper.is_async() {
            let entry_ids = std::mem::take(&mut batch.entry_ids);
            self.unwritten = Some(SealedBlocks { headers: batch.blocks.clone(), entry_ids });
        }
        Ok(Some((batch, count)))
    }

    /// Notes since when the oldest entry that was left has been waiting. An entry may claim any created_at, but counts
    /// as waiting only since it was first seen.
    fn note_left(&mut self, batch: &Batch) {
        let now = tables::now().micros();
        self.waiting_since = batch.oldest_left.map(|oldest| oldest.micros().min(now));
    }

    /// When the oldest pending entry is due, by the setting as it is now.
    fn due(&self) -> Option<i64> {
        self.waiting_since.map(|since| since + settings::block_interval_micros())
    }

    /// Whether the oldest pending entry has waited long enough.
    fn is_due(&self) -> bool {
        self.due().is_some_and(|due| due <= tables::now().micros())
    }

    /// Corrects the count of pending entries by what a scan of the whole table has seen. Entries that were being
    /// committed may be counted twice then. At worst that wakes the worker once too often, and they are counted again
    /// soon.
    fn correct_count(&mut self, count: PendingCount, batch: &Batch) {
        self.slot().pending.fetch_add(batch.seen() - count.entries, Ordering::AcqRel);
        self.is_counted = true;
        let is_exact = self.slot().is_exact(count);
        self.recount_at = (!is_exact).then(|| Instant::now() + RECOUNT_INTERVAL);
    }

    fn must_recount(&self) -> bool {
        self.recount_at.is_some_and(|at| at <= Instant::now())
    }
}
