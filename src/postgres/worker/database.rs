//! The worker of one database: seals, sees to the mirror, and otherwise sleeps.

use super::baselines::Baselines;
use super::keeper::Keeper;
use super::pace::Pace;
use super::signing_keys;
use super::transactions::{in_sealing, in_transaction, own_name};
use crate::postgres::background_process;
use crate::postgres::blocks::{self, Batch, Extent};
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
use crate::postgres::vacated::Vacated;
use crate::postgres::wait_events;
use pgrx::{pg_guard, pg_sys, FromDatum};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// After a failure: first and longest wait before the next try.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// Writers that find the mirror failed wake the worker for another try; not more often than this.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);
/// How soon entries are counted again whose commit was under way while they were counted.
const RECOUNT_INTERVAL: Duration = Duration::from_millis(500);
/// How long the file is left behind in mode async while there is something to seal.
const LONGEST_SEALING: Duration = Duration::from_secs(1);
/// Where the last scan of the pending table ended, new rows come; those of slower sessions some pages before.
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
    // Before the look: who creates a ledger after it puts the flag up again.
    idle_slot().inspect(|slot| slot.check_extension.store(false, Ordering::Release));
    match in_transaction(extension_exists) {
        Ok(true) => {}
        Ok(false) => {
            faults::at("no_ledger");
            idle_slot().inspect(|slot| shared.release_without_ledger(slot));
            return;
        }
        // The launcher sends another one.
        Err(_) => return,
    }
    let Some(slot) = shared.find_or_take(database) else {
        pgrx::warning!("pg_notary cannot seal database {}: too many databases have a ledger", database.to_u32());
        return;
    };
    if slot.worker.pid() != 0 || slot.worker_state() == WorkerState::Paused {
        return;
    }
    // Set up before anything it cleans up: a worker that dies must not leave its name behind.
    pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(std::ptr::from_ref(slot) as usize));
    slot.worker.enlist();
    slot.set_worker_state(WorkerState::Running);
    Worker::new(shared, slot).run();
}

/// Keeps out of the worker what a database or the superuser's role may be set to for the sake of clients.
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
        // An error that the worker catches is to end what it was at, and not the worker.
        (c"exit_on_error", c"off"),
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        (c"transaction_timeout", c"0"),
        // What a backup or a standby needs of a block must be there before its line says so in the file.
        (c"synchronous_commit", c"on"),
    ];
    for (name, value) in settings {
        // SAFETY: NUL-terminated names of Postgres' own settings; both are copied.
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

/// Runs when the worker exits, whatever way.
#[pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, slot: pg_sys::Datum) {
    let slot = &*(slot.value() as *const DatabaseSlot);
    let Some(shared) = shared() else { return };
    if !slot.worker.is_me() {
        // Given back, and taken by another database since.
        return;
    }
    shared.lock_mirror(slot).close();
    file::unlock_at_exit();
    slot.worker.retire();
    slot.set_worker_state(WorkerState::Wanted);
    shared.launcher.wake();
}

fn extension_exists() -> bool {
    // SAFETY: a catalog look-up inside a transaction.
    unsafe { pg_sys::get_extension_oid(c"pg_notary".as_ptr(), true) != pg_sys::InvalidOid }
}

struct Worker {
    mirror: Mirror,
    secrets: Watch,
    keeper: Keeper,
    baselines: Baselines,
    /// It was made sure that the ledger is this database's own.
    is_own: bool,
    /// Where to start looking for pending entries; behind it there is most likely nothing.
    resume_page: u32,
    vacated: Vacated,
    /// What the last batch has sealed: its lines are written by the next one, before it seals, or when there is none.
    unwritten: Option<SealedBlocks>,
    pace: Pace,
    /// When the pending table must be read as a whole, because nobody knows exactly how many entries are in it.
    recount_at: Option<Instant>,
    /// Since when the oldest entry that was left waits.
    waiting_since: Option<i64>,
    /// The work has waited for locks or for the file, and such a wait takes what wakes this process: look again before
    /// going to sleep.
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
            vacated: Vacated::default(),
            unwritten: None,
            pace: Pace::default(),
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
            // Who records waits for the work, and not for this.
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
            // Cancelled, say: look again, though nobody wakes this process for it.
            Err(_) => {
                self.slot().check_extension.store(true, Ordering::Release);
                self.look_again = true;
                std::thread::sleep(SHORTEST_RETRY);
            }
        }
        // Also where it was dropped and created again: another ledger, another file.
        matches!(exists, Ok(false)) || self.keeper.has_file()
    }

    /// Notes success or failure; returns how long to sleep.
    fn account(&mut self, outcome: Result<(), Failure>) -> Option<i64> {
        match outcome {
            Ok(()) => {
                if self.logged.take().is_some() {
                    pgrx::log!("pg_notary worker of {} goes on", own_name());
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

    /// Milliseconds until there is something to do that nobody wakes this process for.
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
            // A table that cannot be recorded is in nobody else's way.
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
        // Nobody waits for the file, so sealing does not either.
        let mirrored = mirrored.and_then(|()| self.keeper.append_owed());
        self.seal()?;
        mirrored.and_then(|()| self.keeper.append_owed()).and(recorded)
    }

    /// Records some rows of a table that has been tracked since they were written.
    fn record_baseline(&mut self) -> Result<(), Failure> {
        self.look_again |= self.baselines.work()?;
        Ok(())
    }

    /// A database that was copied by CREATE DATABASE ... TEMPLATE has its original's ledger in it. From here on the two are
    /// different ledgers, with different files. Of one that goes on, it is noted where this server has found it.
    fn own_the_ledger(&mut self) -> Result<(), Failure> {
        if self.is_own {
            return Ok(());
        }
        in_transaction(|| {
            blocks::lock_sealing();
            let remembered = Remembered::read();
            // SAFETY: a plain global of this process.
            if remembered.database != unsafe { pg_sys::MyDatabaseId } {
                let ledger_id = ids::random();
                log_state::become_own_ledger(ledger_id);
                pgrx::log!(
                    "pg_notary: this database is a copy; its ledger {} goes on as ledger {ledger_id} with a file of its own",
                    remembered.ledger_id
                );
            }
            remembered::note_start(self.mirror.shared);
        })?;
        self.is_own = true;
        Ok(())
    }

    /// Looks what became of prepared transactions, where a command has decided some.
    fn settle_prepared(&mut self) -> Result<(), Failure> {
        if !self.slot().prepared_decided.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        // Nobody has counted their entries as pending, nor seen the tables that they track.
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
            // A backlog takes many batches, and whoever uses an id again waits for the void line.
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

    /// Seals one batch; returns the page to go on from, if there is more to be sealed.
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
        // What was counted before the scan, the scan could see: it stands on a page before.
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

    /// Between batches, which may never end while entries come faster than they are sealed: obeys signals, reads the
    /// settings, and tells whether there is something else to be done first.
    fn is_called_away(&mut self) -> bool {
        let mode = settings::mirror_mode();
        background_process::sleep(Some(0), wait_events::worker_main());
        // What woke this process is looked at after the last batch at the latest.
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

    /// Notes entries that came while a batch was sealed. Their writers may have woken nobody: to them it looked as if
    /// those of the batch were still waiting.
    fn wait_since(&mut self, time: i64) {
        self.waiting_since = Some(self.waiting_since.map_or(time, |since| since.min(time)));
    }

    /// Whether a look at the pending table can find a full block, or something due, or what nobody has timed yet.
    fn has_something_to_seal(&mut self) -> bool {
        let pending = self.slot().pending.load(Ordering::Acquire);
        if pending <= 0 && !self.must_recount() {
            self.waiting_since = None;
            return false;
        }
        let may_find = self.must_recount() || self.waiting_since.is_none() || self.is_due() || self.has_full_block();
        may_find && self.pace.rest().is_none()
    }

    /// Also gives the count of pending entries as it was before. It is read under the lock that every sealer holds until
    /// its entries are off the count: read earlier, it would take them off once more. `None` if somebody else keeps sealing.
    fn seal_batch(&mut self, page: u32) -> Result<Option<(Batch, PendingCount)>, Failure> {
        let extent = if self.is_due() { Extent::Everything } else { Extent::FullBlocks };
        self.look_again = true;
        let slot = self.slot();
        let (vacated, keeper, pace) = (&mut self.vacated, &mut self.keeper, &mut self.pace);
        let (unwritten, must_recount) = (self.unwritten.take(), self.must_recount());
        let sealed = in_sealing(|| {
            pace.begin(slot);
            // Else sealing itself makes sure that nothing is missing.
            if unwritten.is_some() || keeper.is_unremembered() {
                keeper.append_in_sealing(unwritten.as_ref());
            }
            vacated.reclaim(&Table::open("entries_pending", pg_sys::RowExclusiveLock));
            let count = slot.count_pending();
            // After a start, say, nobody knows how many there are.
            let known = if must_recount { i64::MAX } else { count.entries };
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

    /// Notes since when the entries that were left wait. One may claim any created_at; it waits no longer than since it
    /// was first seen.
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

    /// Sets the count of pending entries right by what a scan of the whole table has seen. Entries whose commit was under
    /// way are perhaps counted twice then, which at worst wakes the worker once too often; they are counted again soon.
    fn correct_count(&mut self, count: PendingCount, batch: &Batch) {
        self.slot().pending.fetch_add(batch.seen() - count.entries, Ordering::AcqRel);
        let is_exact = self.slot().is_exact(count);
        self.recount_at = (!is_exact).then(|| Instant::now() + RECOUNT_INTERVAL);
    }

    fn must_recount(&self) -> bool {
        self.recount_at.is_some_and(|at| at <= Instant::now())
    }
}
