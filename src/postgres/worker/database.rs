//! The worker of one database: attaches the mirror, seals, voids, and otherwise sleeps.

use crate::postgres::blocks::{self, Batch, Extent};
use crate::postgres::errors::or_raise;
use crate::postgres::mirror::append::Mirror;
use crate::postgres::mirror::attach::{self, Attached};
use crate::postgres::mirror::shared::Attachment;
use crate::postgres::mirror::{block_lines, settle};
use crate::postgres::settings::{self, MirrorMode};
use crate::postgres::shared::{shared, DatabaseSlot, PendingCount, Shared, WorkerState};
use crate::postgres::tables;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{pg_guard, pg_sys, FromDatum, PgTryBuilder};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// After a failure: first and longest wait before the next try.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// Writers that find the mirror failed wake the worker for another try; not more often than this.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);
/// How soon entries are counted again whose commit was under way while they were counted.
const RECOUNT_INTERVAL: Duration = Duration::from_millis(500);
/// Where the last scan of the pending table ended, new rows come; those of slower sessions some pages before.
const RESUME_MARGIN_PAGES: u32 = 64;

#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn pg_notary_worker_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from_datum(arg, false).expect("the launcher passes a database");
    super::set_up_signals();
    pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
    pin_settings();
    let shared = shared().expect("background workers have shared memory");
    if !in_transaction(extension_exists).unwrap_or(false) {
        if let Some(slot) = shared.find(database) {
            shared.release(slot);
        }
        return;
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
    slot.mirror.close(shared, slot);
    slot.worker.retire();
    if slot.worker_state() != WorkerState::Paused {
        slot.set_worker_state(WorkerState::Wanted);
    }
    shared.launcher.wake();
}

fn extension_exists() -> bool {
    // SAFETY: a catalog look-up inside a transaction.
    unsafe { pg_sys::get_extension_oid(c"pg_notary".as_ptr(), true) != pg_sys::InvalidOid }
}

/// Runs `work` in a transaction of its own. An error aborts it and is returned, not logged.
fn in_transaction<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // SAFETY: no transaction is open here; the snapshot is popped by the commit or dropped by the abort.
    PgTryBuilder::new(AssertUnwindSafe(|| unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        Ok(result)
    }))
    .catch_others(|error| {
        // SAFETY: a transaction is open, in an error state.
        unsafe { pg_sys::AbortCurrentTransaction() };
        Err(describe(&error))
    })
    .execute()
}

fn describe(error: &CaughtError) -> String {
    let report = match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        CaughtError::RustPanic { ereport, .. } => ereport,
    };
    match report.detail() {
        Some(detail) => format!("{}: {detail}", report.message()),
        None => report.message().to_owned(),
    }
}

struct Worker {
    mirror: Mirror,
    attached: Option<Attached>,
    /// The reload after which it was last made sure that the attached file is the configured one.
    configured_at: pg_sys::TimestampTz,
    /// Where to start looking for pending entries; behind it there is most likely nothing.
    resume_page: u32,
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
            attached: None,
            configured_at: 0,
            resume_page: 0,
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
            let outcome = self.work();
            let wait = self.account(outcome);
            self.report_idle();
            super::sleep(wait);
        }
    }

    fn must_leave(&self) -> bool {
        if self.slot().worker_state() == WorkerState::Paused {
            return true;
        }
        if !self.slot().check_extension.swap(false, Ordering::AcqRel) {
            return false;
        }
        let gone = !in_transaction(extension_exists).unwrap_or(true);
        if gone {
            let database = self.slot().database();
            self.mirror.shared.release(self.slot());
            // Created again between the look and the release, it has lost its slot.
            if in_transaction(extension_exists).unwrap_or(false) {
                self.mirror.shared.find_or_take(database);
                self.mirror.shared.launcher.wake();
            }
        }
        // Also where it was dropped and created again: another ledger, another file.
        gone || self.attached.is_some()
    }

    /// Notes success or failure; returns how long to sleep.
    fn account(&mut self, outcome: Result<(), String>) -> Option<i64> {
        match outcome {
            Ok(()) => {
                if self.logged.take().is_some() {
                    pgrx::log!("pg_notary worker goes on");
                }
                self.backoff = FIRST_BACKOFF;
                self.set_state(WorkerState::Running);
                if std::mem::take(&mut self.look_again) {
                    return Some(0);
                }
                let due = self.due().map(|due| ((due - settle::now().micros()) / 1000 + 1).max(0));
                let recount =
                    self.recount_at.map(|at| at.saturating_duration_since(Instant::now()).as_millis() as i64 + 1);
                due.into_iter().chain(recount).min()
            }
            Err(cause) => {
                if self.logged.as_ref() != Some(&cause) {
                    pgrx::log!("pg_notary worker cannot go on: {cause}; it tries again by itself");
                    self.logged = Some(cause);
                }
                self.set_state(WorkerState::Failing);
                std::thread::sleep(SHORTEST_RETRY);
                let wait = self.backoff;
                self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
                Some(wait.as_millis() as i64)
            }
        }
    }

    /// Sets the state, unless a command has paused this worker meanwhile.
    fn set_state(&self, state: WorkerState) {
        if self.slot().worker_state() != WorkerState::Paused {
            self.slot().set_worker_state(state);
        }
    }

    fn report_idle(&self) {
        // SAFETY: reports to this process's own entry in pg_stat_activity.
        unsafe {
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
            pg_sys::pgstat_report_stat(true);
        }
    }

    fn work(&mut self) -> Result<(), String> {
        self.see_to_the_mirror()?;
        self.void_aborted()?;
        self.seal()?;
        self.append_block_lines()
    }

    /// Attaches the file where it must be, and lets it go where there is to be none.
    fn see_to_the_mirror(&mut self) -> Result<(), String> {
        if settings::mirror_mode() == MirrorMode::Off {
            self.slot().mirror.close(self.mirror.shared, self.slot());
            self.attached = None;
            return Ok(());
        }
        let attachment = self.slot().mirror.lock(self.mirror.shared, self.slot()).attachment;
        if self.attached.is_some() && attachment == Attachment::Attached && self.is_where_configured() {
            return Ok(());
        }
        self.attached = None;
        self.look_again = true;
        let mirror = self.mirror;
        let attached = in_transaction(|| {
            blocks::lock_sealing();
            or_raise(attach::attach(&mirror))
        })?;
        self.attached = Some(attached);
        Ok(())
    }

    /// Whether the attached file is still the one the settings name.
    fn is_where_configured(&mut self) -> bool {
        // SAFETY: a plain global of this process.
        let reloaded_at = unsafe { pg_sys::PgReloadTime };
        if self.configured_at == reloaded_at {
            return true;
        }
        let attached = self.slot().mirror.lock(self.mirror.shared, self.slot()).path.get();
        let configured = in_transaction(|| attach::configured_path(attach::Remembered::read().ledger_id).1);
        let same = configured.is_ok_and(|configured| configured.to_string_lossy() == attached);
        if same {
            self.configured_at = reloaded_at;
        }
        same
    }

    fn void_aborted(&mut self) -> Result<(), String> {
        if self.attached.is_none() || !self.has_something_to_void() {
            return Ok(());
        }
        self.look_again = true;
        let mirror = self.mirror;
        in_transaction(|| or_raise(settle::void_aborted(&mirror)))
    }

    fn has_something_to_void(&self) -> bool {
        let fields = self.slot().mirror.lock(self.mirror.shared, self.slot());
        fields.void_from != fields.void_to
    }

    /// Seals what is due, batch by batch, each in its own transaction.
    fn seal(&mut self) -> Result<(), String> {
        if !self.has_something_to_seal() {
            return Ok(());
        }
        let mut page = if self.must_recount() || self.is_due() { 0 } else { self.resume_page };
        loop {
            // A backlog takes many batches, and whoever uses an id again waits for the void line.
            self.void_aborted()?;
            let looked_at = settle::now().micros();
            let (batch, count) = self.seal_batch(page)?;
            self.note_left(&batch);
            if batch.next_page != 0 {
                page = batch.next_page;
                continue;
            }
            self.resume_page = batch.pages.saturating_sub(RESUME_MARGIN_PAGES);
            let whole_table = page == 0;
            if whole_table {
                self.correct_count(count, &batch);
            }
            let pending = self.slot().pending.load(Ordering::Acquire);
            let unseen = pending > batch.left;
            if unseen && !whole_table || self.is_due() {
                page = 0;
            } else if unseen && pending >= settings::block_size() as i64 {
                page = self.resume_page;
            } else {
                if unseen {
                    self.wait_since(looked_at);
                }
                return Ok(());
            }
        }
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
        self.must_recount() || self.waiting_since.is_none() || self.is_due() || pending >= settings::block_size() as i64
    }

    /// Also gives the count of pending entries as it was before. It is read under the lock that every sealer holds until
    /// its entries are off the count: read earlier, it would take them off once more.
    fn seal_batch(&mut self, page: u32) -> Result<(Batch, PendingCount), String> {
        let extent = if self.is_due() { Extent::Everything } else { Extent::FullBlocks };
        self.look_again = true;
        let slot = self.slot();
        let (batch, count) = in_transaction(|| {
            blocks::lock_sealing();
            let count = slot.count_pending();
            (or_raise(blocks::seal_batch(extent, page)), count)
        })?;
        if !batch.blocks.is_empty() {
            self.slot().blocks_sealed.fetch_add(batch.blocks.len() as i64, Ordering::AcqRel);
            self.append_block_lines()?;
        }
        Ok((batch, count))
    }

    /// Notes since when the entries that were left wait. One may claim any created_at; it waits no longer than since it
    /// was first seen.
    fn note_left(&mut self, batch: &Batch) {
        let now = settle::now().micros();
        self.waiting_since = batch.oldest_left.map(|oldest| oldest.micros().min(now));
    }

    /// When the oldest pending entry is due, by the setting as it is now.
    fn due(&self) -> Option<i64> {
        self.waiting_since.map(|since| since + settings::block_interval_micros())
    }

    /// Whether the oldest pending entry has waited long enough.
    fn is_due(&self) -> bool {
        self.due().is_some_and(|due| due <= settle::now().micros())
    }

    /// Sets the count of pending entries right by what a scan of the whole table has seen. Entries whose commit was under
    /// way are perhaps counted twice then, which at worst wakes the worker once too often; they are counted again soon.
    fn correct_count(&mut self, count: PendingCount, batch: &Batch) {
        let sealed: i64 = batch.blocks.iter().map(|block| block.data_count).sum();
        self.slot().pending.fetch_add(batch.left + sealed - count.entries, Ordering::AcqRel);
        let is_exact = self.slot().is_exact(count);
        self.recount_at = (!is_exact).then(|| Instant::now() + RECOUNT_INTERVAL);
    }

    fn must_recount(&self) -> bool {
        self.recount_at.is_some_and(|at| at <= Instant::now())
    }

    /// Writes the lines of committed blocks, and notes how far the file is acknowledged.
    fn append_block_lines(&mut self) -> Result<(), String> {
        if self.attached.is_none() || !self.has_new_blocks()? {
            return Ok(());
        }
        self.look_again = true;
        let mirror = self.mirror;
        in_transaction(|| {
            blocks::lock_sealing();
            or_raise(block_lines::append_missing());
            attach::remember(&mirror);
        })
    }

    fn has_new_blocks(&self) -> Result<bool, String> {
        let last = self.slot().mirror.lock(self.mirror.shared, self.slot()).last_block;
        let head = in_transaction(|| blocks::head(&tables::LatestSnapshot::take()))?;
        Ok(head.is_some_and(|head| head.block_number > last))
    }
}
