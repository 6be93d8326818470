//! What shared memory has of one database with a ledger: its worker, the counts that tell the worker when to work, and
//! its mirror.

use super::errorless;
use super::mirror::shared::MirrorState;
use super::shared_floor::SharedFloor;
use crate::ledger::entry_clock::EntryClock;
use crate::ledger::lag::Lag;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

/// A database that has no worker for longer than this is reported. One whose worker ends is started again after a
/// second.
const LONGEST_VACANCY_MICROS: i64 = 5_000_000;
/// How often the log says that workers end before their work.
const COMPLAINT_INTERVAL_MICROS: i64 = 600_000_000;

/// A process that can be woken: its pid (0 when there is none) and its latch.
#[repr(C)]
pub struct Wakeable {
    pid: AtomicI32,
    latch: AtomicPtr<pg_sys::Latch>,
}

impl Wakeable {
    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::Acquire)
    }

    pub fn is_me(&self) -> bool {
        // SAFETY: reads a global of this process, which only its one thread writes.
        self.pid() == unsafe { pg_sys::MyProcPid }
    }

    /// Makes the calling process the one to be woken.
    pub fn enlist(&self) {
        // SAFETY: both are set up by Postgres before a background worker's main function runs.
        let (latch, pid) = unsafe { (&raw mut (*pg_sys::MyProc).procLatch, pg_sys::MyProcPid) };
        self.latch.store(latch, Ordering::Release);
        self.pid.store(pid, Ordering::Release);
    }

    /// The latch goes first: once there is no pid, another process may enlist, and set its own.
    pub fn retire(&self) {
        self.latch.store(std::ptr::null_mut(), Ordering::Release);
        self.pid.store(0, Ordering::Release);
    }

    /// Sets the latch. Cannot fail, so it may be called at COMMIT and ABORT.
    pub fn wake(&self) {
        let latch = self.latch.load(Ordering::Acquire);
        if !latch.is_null() {
            // SAFETY: a PGPROC's latch lives in shared memory as long as the server; setting one that has passed to
            // another process only wakes that process once in vain.
            unsafe { pg_sys::SetLatch(latch) }
        }
    }
}

/// What a database's worker is doing, for the view and for the launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum WorkerState {
    /// There is none; the launcher starts one.
    Wanted = 0,
    Starting = 1,
    Running = 2,
    /// Sealing or the mirror failed; it tries again.
    Failing = 3,
}

impl WorkerState {
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerState::Wanted => "wanted",
            WorkerState::Starting => "starting",
            WorkerState::Running => "running",
            WorkerState::Failing => "failing",
        }
    }
}

/// One database with a ledger.
#[repr(C)]
pub struct DatabaseSlot {
    /// Oid of the database; 0 marks a free slot.
    database: AtomicU32,
    pub worker: Wakeable,
    worker_state: AtomicU32,
    /// When the log last said that a worker has ended before it could find out whether there is a ledger.
    complained_at: AtomicI64,
    /// When the slot was taken, or its last worker left.
    vacant_since: AtomicI64,
    /// Committed entries that wait for a block. May run a little ahead of the table, never behind it: it decides when
    /// the worker looks, and the worker counts what it finds.
    pub pending: AtomicI64,
    /// Transactions that have begun to commit entries and have neither committed nor aborted yet, by the epoch in which
    /// they began. Their lines may be in the file, and their entries are not in the count.
    undecided: [AtomicI64; 2],
    /// Parity chooses the counter above. See [`DatabaseSlot::next_epoch`].
    epoch: AtomicUsize,
    /// How many transactions have ever begun to commit entries.
    pub begun: AtomicI64,
    /// The extension was dropped: the worker is to look and leave.
    pub check_extension: AtomicBool,
    /// The ledger was rebuilt: the worker is to count what is pending.
    pub recount: AtomicBool,
    /// Blocks the worker sealed since it started.
    pub blocks_sealed: AtomicI64,
    /// Blocks were committed whose lines may not be in the file yet: the worker is to append them.
    pub has_new_blocks: AtomicBool,
    /// Prepared transactions have been decided: the worker is to look at their lines, and to count what is pending.
    pub prepared_decided: AtomicBool,
    /// Rows of tables that were tracked are still to be recorded.
    pub baselines: AtomicBool,
    /// Entries were committed whose lines are not in the file (modes async and off): the worker is to append them.
    pub behind: AtomicBool,
    /// Transactions that are about to commit such entries.
    pub committing_behind: AtomicI64,
    pub lag: Lag,
    pub entry_clock: EntryClock,
    pub pending_floor: SharedFloor,
    pub mirror: MirrorState,
}

impl DatabaseSlot {
    pub fn database(&self) -> pg_sys::Oid {
        pg_sys::Oid::from(self.database.load(Ordering::Acquire))
    }

    pub fn is_free(&self) -> bool {
        self.database() == pg_sys::InvalidOid
    }

    /// Makes the slot that of a database, or with `InvalidOid` a free one. Only for who holds the lock of the registry.
    pub fn give_to(&self, database: pg_sys::Oid) {
        self.database.store(database.to_u32(), Ordering::Release);
    }

    /// Forgets all that belongs to the database that had the slot before, except its mirror.
    pub fn begin_anew(&self) {
        self.pending.store(0, Ordering::Release);
        self.undecided.iter().for_each(|count| count.store(0, Ordering::Release));
        self.committing_behind.store(0, Ordering::Release);
        self.behind.store(false, Ordering::Release);
        self.prepared_decided.store(false, Ordering::Release);
        // The worker that takes the slot must look for rows to record.
        self.baselines.store(true, Ordering::Release);
        self.lag.clear();
        self.entry_clock.forget();
        self.pending_floor.forget();
        self.blocks_sealed.store(0, Ordering::Release);
        self.has_new_blocks.store(false, Ordering::Release);
        self.check_extension.store(false, Ordering::Release);
        self.recount.store(false, Ordering::Release);
        self.complained_at.store(0, Ordering::Release);
        self.become_vacant();
    }

    /// Notes that there is no worker, or that it leaves. Cannot fail.
    pub fn become_vacant(&self) {
        self.vacant_since.store(errorless::clock(), Ordering::Release);
        self.set_worker_state(WorkerState::Wanted);
    }

    /// Whether the log is to say that a worker has ended before its work. If so, notes that it does.
    pub fn take_due_complaint(&self) -> bool {
        let now = errorless::clock();
        let is_due = |last: &i64| now - last >= COMPLAINT_INTERVAL_MICROS;
        let noted = |last: i64| is_due(&last).then_some(now);
        self.complained_at.fetch_update(Ordering::AcqRel, Ordering::Acquire, noted).is_ok()
    }

    /// Whether there has been no worker for so long that none is on its way.
    pub fn lacks_worker(&self) -> bool {
        let vacancy = || errorless::clock() - self.vacant_since.load(Ordering::Acquire);
        self.worker.pid() == 0 && vacancy() >= LONGEST_VACANCY_MICROS
    }

    /// What the worker is doing, or would be doing if no command kept it away.
    pub fn worker_state(&self) -> WorkerState {
        match self.worker_state.load(Ordering::Acquire) {
            1 => WorkerState::Starting,
            2 => WorkerState::Running,
            3 => WorkerState::Failing,
            _ => WorkerState::Wanted,
        }
    }

    pub fn set_worker_state(&self, state: WorkerState) {
        self.worker_state.store(state as u32, Ordering::Release);
    }

    /// Notes that a transaction begins to commit entries; returns the epoch to end it with.
    pub fn begin_commit(&self) -> usize {
        let epoch = self.enter_epoch();
        // Only now: whoever finds it among those that have begun finds it undecided, too, until it ends.
        self.begun.fetch_add(1, Ordering::SeqCst);
        epoch
    }

    fn enter_epoch(&self) -> usize {
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            self.undecided[epoch % 2].fetch_add(1, Ordering::SeqCst);
            // If the epoch ended in between, it may have been taken for drained.
            if self.epoch.load(Ordering::SeqCst) == epoch {
                return epoch;
            }
            self.undecided[epoch % 2].fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Notes that a transaction has committed, aborted or been prepared. Cannot fail, so it may be called at COMMIT.
    pub fn end_commit(&self, epoch: usize) {
        self.undecided[epoch % 2].fetch_sub(1, Ordering::SeqCst);
    }

    /// Transactions that have begun to commit entries and have not ended.
    pub fn undecided(&self) -> i64 {
        self.undecided.iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }

    /// Ends an epoch and returns it, unless the one before is not drained yet. Sessions that begin to commit from now
    /// on do so in the next epoch. So once the epoch is drained, everything that was in the file before this call is
    /// decided, however many commits overlap. The scheme is that of RCU's grace periods.
    pub fn next_epoch(&self) -> Option<usize> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        self.is_drained(epoch + 1).then(|| self.epoch.fetch_add(1, Ordering::SeqCst))
    }

    pub fn is_drained(&self, epoch: usize) -> bool {
        self.undecided[epoch % 2].load(Ordering::SeqCst) == 0
    }

    /// Whether transactions count themselves in here, which have to count themselves out again.
    pub fn has_committing(&self) -> bool {
        self.undecided() != 0 || self.committing_behind.load(Ordering::SeqCst) != 0
    }

    /// Whether entries may be committed whose lines are not in the file.
    pub fn is_behind(&self) -> bool {
        self.committing_behind.load(Ordering::SeqCst) > 0 || self.behind.load(Ordering::SeqCst)
    }

    /// The count of pending entries, and a mark that tells later whether it matched what a scan has seen.
    pub fn count_pending(&self) -> PendingCount {
        // In this order: a transaction that has begun before the first line and is not undecided at the second is in
        // the count of the third.
        let begun = self.begun.load(Ordering::Acquire);
        let is_quiet = self.undecided() == 0;
        PendingCount { entries: self.pending.load(Ordering::Acquire), begun: is_quiet.then_some(begun) }
    }

    /// Whether the count includes every entry that has become visible until now, except for those of transactions that
    /// were prepared: these become visible unnoticed.
    pub fn is_exact(&self, count: PendingCount) -> bool {
        count.begun == Some(self.begun.load(Ordering::Acquire))
    }

    /// Counts committed entries, and wakes the worker if that gives it something to do: a first entry starts the clock,
    /// a full block can be sealed. Cannot fail, so it may be called at COMMIT.
    pub fn add_pending(&self, entries: i64, block_size: i64) {
        let before = self.pending.fetch_add(entries, Ordering::AcqRel);
        if before <= 0 || (before < block_size && before + entries >= block_size) {
            self.worker.wake();
        }
    }
}

/// The count of pending entries at one time.
#[derive(Debug, Clone, Copy)]
pub struct PendingCount {
    pub entries: i64,
    /// How many transactions had begun to commit by then; `None` if some of them had not ended.
    begun: Option<i64>,
}
