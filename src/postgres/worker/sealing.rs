//! When the worker seals, how much at a time, and what it knows of the entries that are still pending.

use super::keeper::Keeper;
use super::pace::Pace;
use super::transactions::in_sealing;
use crate::postgres::background_process::{self, rounded_up_ms};
use crate::postgres::blocks::{self, Batch, Extent};
use crate::postgres::database;
use crate::postgres::database_slot::{DatabaseSlot, PendingCount};
use crate::postgres::emptied_pages::EmptiedPages;
use crate::postgres::errors::{or_raise, Failure};
use crate::postgres::mirror::block_lines::SealedBlocks;
use crate::postgres::mirror::handle::Mirror;
use crate::postgres::mirror::requests;
use crate::postgres::mirror::shared::Request;
use crate::postgres::pending_floor::FloorRaiser;
use crate::postgres::settings::{self, MirrorMode};
use crate::postgres::tables::{self, Table};
use crate::postgres::wait_events;
use pgrx::pg_sys;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How soon to count entries again if transactions were committing during the count.
const RECOUNT_INTERVAL: Duration = Duration::from_millis(500);
/// In mode async: how long sealing may go on before the worker turns to the file again.
const LONGEST_SEALING: Duration = Duration::from_secs(1);
/// New rows come where the last scan of the pending table ended. Rows of slower sessions may come some pages before.
const RESUME_MARGIN_PAGES: u32 = 64;

/// The worker's sealing.
pub struct Sealing {
    mirror: Mirror,
    /// Where to start looking for pending entries: there is most likely nothing before this page.
    resume_page: u32,
    /// Pages that the pending table had when the last batch was sealed.
    pages: u32,
    emptied: EmptiedPages,
    floor: FloorRaiser,
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
    /// A batch has waited for locks. Such a wait consumes the latch that wakes this process.
    has_waited: bool,
}

impl Sealing {
    pub fn new(mirror: Mirror) -> Self {
        Sealing {
            mirror,
            resume_page: 0,
            pages: 0,
            emptied: EmptiedPages::default(),
            floor: FloorRaiser::default(),
            unwritten: None,
            pace: Pace::default(),
            recount_at: Some(Instant::now()),
            is_counted: false,
            waiting_since: None,
            has_waited: false,
        }
    }

    fn slot(&self) -> &'static DatabaseSlot {
        self.mirror.slot
    }

    /// The count of pending entries is not exact any more.
    pub fn recount(&mut self) {
        self.recount_at = Some(Instant::now());
    }

    /// The blocks whose lines the next batch would have written.
    pub fn take_unwritten(&mut self) -> Option<SealedBlocks> {
        self.unwritten.take()
    }

    /// Whether sealing has waited since this was last asked. If so, look again before going to sleep.
    pub fn take_has_waited(&mut self) -> bool {
        std::mem::take(&mut self.has_waited)
    }

    /// Milliseconds until there is something to seal for which no process wakes the worker.
    pub fn until_next(&self) -> Option<i64> {
        let rest = self.pace.until_rested().map(rounded_up_ms);
        let due = self.due().map(|due| ((due - tables::now().micros()) / 1000 + 1).max(0));
        let recount = self.recount_at.map(|at| rounded_up_ms(at.saturating_duration_since(Instant::now())));
        let next = due.into_iter().chain(recount).chain(rest.filter(|_| self.waits_for_no_time())).min();
        // Nothing is sealed before the rest is over.
        next.map(|next| next.max(rest.unwrap_or(0)))
    }

    /// Whether the pending table may have what is sealed at any time: a full block, or entries whose age is not known.
    fn waits_for_no_time(&self) -> bool {
        self.has_full_block() || self.is_age_unknown()
    }

    /// Whether entries are pending, and it is not known since when. Their sessions woke the worker while it rested, and
    /// no process does so again before they fill a block.
    fn is_age_unknown(&self) -> bool {
        self.waiting_since.is_none() && self.slot().pending.load(Ordering::Acquire) > 0
    }

    fn has_full_block(&self) -> bool {
        self.slot().pending.load(Ordering::Acquire) >= settings::block_size() as i64
    }

    /// Seals what is due, batch by batch, each in its own transaction.
    pub fn seal(&mut self, keeper: &mut Keeper) -> Result<(), Failure> {
        if !self.has_something_to_seal() {
            return Ok(());
        }
        self.seal_batches(keeper)?;
        self.raise_floor()
    }

    fn seal_batches(&mut self, keeper: &mut Keeper) -> Result<(), Failure> {
        let since = Instant::now();
        let mut batches = 0;
        let mut page = if self.must_recount() || self.is_due() { 0 } else { self.resume_page };
        loop {
            // A backlog takes many batches, and sessions that reuse an id wait for the void line.
            keeper.void_between_batches()?;
            let mode = settings::mirror_mode();
            self.obey_signals();
            if self.is_called_away(mode, batches) || (keeper.is_async() && since.elapsed() > LONGEST_SEALING) {
                return Ok(());
            }
            let next = self.seal_from(keeper, page)?;
            batches += 1;
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

    /// Where nothing can remove what was sealed, has others skip it.
    fn raise_floor(&mut self) -> Result<(), Failure> {
        let (slot, floor) = (self.slot(), &mut self.floor);
        if !floor.is_due(self.pages, slot) {
            return Ok(());
        }
        self.has_waited = true;
        in_sealing(|| floor.raise(&Table::open("entries_pending", pg_sys::AccessShareLock), slot)).map(|_| ())
    }

    /// Seals one batch; returns the page to go on from, if there is more to seal.
    fn seal_from(&mut self, keeper: &mut Keeper, page: u32) -> Result<Option<u32>, Failure> {
        let looked_at = tables::now().micros();
        let Some((batch, count)) = self.seal_batch(keeper, page)? else { return Ok(None) };
        self.note_left(&batch);
        self.pages = batch.pages;
        if batch.next_page.is_some() {
            return Ok(batch.next_page);
        }
        self.resume_page = batch.pages.saturating_sub(RESUME_MARGIN_PAGES);
        if batch.is_whole {
            self.correct_count(count, &batch);
        }
        // The scan could see every entry that was counted before it, so a missing one is on an earlier page.
        let was_missed = count.entries > batch.seen && !batch.is_whole;
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

    /// Obeys signals and reads the settings between batches, whose end may never come while entries arrive faster than
    /// they are sealed.
    fn obey_signals(&mut self) {
        background_process::sleep(Some(0), wait_events::worker_main());
        // This takes what woke the process, so it must look again after the last batch at the latest.
        self.has_waited = true;
    }

    /// Whether something else must be done before the next batch; `mode` is the one before the settings were read.
    /// Prepared transactions that are decided all the time do not keep it from the first batch.
    fn is_called_away(&self, mode: MirrorMode, batches: usize) -> bool {
        let slot = self.slot();
        let must_catch_up = mode.waits_for_file() && slot.is_behind();
        must_catch_up
            || mode != settings::mirror_mode()
            || database::is_paused()
            || slot.check_extension.load(Ordering::Acquire)
            || (batches > 0 && slot.prepared_decided.load(Ordering::SeqCst))
            || requests::pending(&self.mirror) != Request::None
    }

    /// Notes that entries came while a batch was sealed. Their sessions may have woken no process: to them it looked as
    /// if the entries of the batch were still waiting.
    fn wait_since(&mut self, time: i64) {
        self.waiting_since = Some(self.waiting_since.map_or(time, |since| since.min(time)));
    }

    /// Whether something may be found in the pending table, and this is no time to rest.
    fn has_something_to_seal(&mut self) -> bool {
        let pending = self.slot().pending.load(Ordering::Acquire);
        if pending <= 0 && !self.must_recount() {
            self.waiting_since = None;
            return false;
        }
        // The clock may have been set back since: no entry waits longer for that than once more the interval.
        let now = tables::now().micros();
        self.waiting_since = self.waiting_since.map(|since| since.min(now));
        let may_find = self.must_recount() || self.is_due() || self.waits_for_no_time();
        may_find && !self.pace.put_off_if_resting()
    }

    /// Also returns the count of pending entries before the batch. It is read under the lock that every sealer holds
    /// until its entries are off the count: read earlier, the worker would subtract them once more. `None` if another
    /// process keeps sealing.
    fn seal_batch(&mut self, keeper: &mut Keeper, page: u32) -> Result<Option<(Batch, PendingCount)>, Failure> {
        let extent = if self.is_due() { Extent::Everything } else { Extent::FullBlocks };
        self.has_waited = true;
        let slot = self.slot();
        let (unwritten, is_counted) = (self.unwritten.take(), self.is_counted);
        let (emptied, pace) = (&mut self.emptied, &mut self.pace);
        let sealed = in_sealing(|| {
            pace.begin(slot);
            // Otherwise sealing itself makes sure that no lines are missing.
            if unwritten.is_some() || keeper.is_unremembered() {
                keeper.append_in_sealing(unwritten.as_ref());
            }
            emptied.reclaim(&Table::open("entries_pending", pg_sys::RowExclusiveLock));
            let count = slot.count_pending();
            // For example, after a start it is not known how many there are.
            let known = if is_counted { count.entries } else { i64::MAX };
            (or_raise(blocks::seal_batch(extent, page, known)), count)
        })?;
        let Some((mut batch, count)) = sealed else { return Ok(None) };
        keeper.note_remembered();
        self.emptied.add(std::mem::take(&mut batch.moved));
        self.slot().blocks_sealed.fetch_add(batch.sealed.headers.len() as i64, Ordering::AcqRel);
        if !batch.sealed.headers.is_empty() && !keeper.is_async() {
            self.unwritten = Some(std::mem::take(&mut batch.sealed));
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
        self.slot().pending.fetch_add(batch.seen - count.entries, Ordering::AcqRel);
        self.is_counted = true;
        let is_exact = self.slot().is_exact(count);
        self.recount_at = (!is_exact).then(|| Instant::now() + RECOUNT_INTERVAL);
    }

    fn must_recount(&self) -> bool {
        self.recount_at.is_some_and(|at| at <= Instant::now())
    }
}
