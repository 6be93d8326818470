//! Shared memory: one slot for each database that has a ledger, and the progress of running verifications.
//!
//! Everything here is valid when zeroed, so the area is initialised in place: a value built on the stack first would
//! overflow the stack.

use super::faults;
use super::ids;
use super::locks::{self, LockGuard};
use super::mirror::shared::{LockedMirror, MirrorState};
use crate::ledger::entry_clock::EntryClock;
use crate::ledger::lag::Lag;
use pgrx::{pg_guard, pg_sys};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use uuid::Uuid;

/// Databases of one cluster that can have a ledger at the same time. A slot is mostly its mirror's ring, which takes
/// memory only once it is used.
const MAX_DATABASES: usize = 64;
/// Verifications whose progress is shown at the same time; one more runs unseen.
pub const MAX_VERIFICATIONS: usize = 64;

const AREA: &std::ffi::CStr = c"pg_notary";
/// One lock for the registry of slots, then one for each slot's mirror.
const LOCKS: usize = 1 + MAX_DATABASES;

/// How many databases can have a ledger.
pub fn most_databases() -> usize {
    faults::most_databases(MAX_DATABASES)
}

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
    /// Kept away while commands need the database for themselves. This is never stored, because those commands are
    /// counted.
    Paused = 4,
}

impl WorkerState {
    pub fn name(self) -> &'static str {
        match self {
            WorkerState::Wanted => "wanted",
            WorkerState::Starting => "starting",
            WorkerState::Running => "running",
            WorkerState::Failing => "failing",
            WorkerState::Paused => "paused",
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
    /// Commands that keep the worker away. Each takes back what it has added, even if the slot is another database's by
    /// then.
    pauses: AtomicU32,
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
    pub mirror: MirrorState,
}

impl DatabaseSlot {
    pub fn database(&self) -> pg_sys::Oid {
        pg_sys::Oid::from(self.database.load(Ordering::Acquire))
    }

    pub fn worker_state(&self) -> WorkerState {
        if self.pauses.load(Ordering::SeqCst) > 0 {
            return WorkerState::Paused;
        }
        match self.worker_state.load(Ordering::Acquire) {
            1 => WorkerState::Starting,
            2 => WorkerState::Running,
            3 => WorkerState::Failing,
            _ => WorkerState::Wanted,
        }
    }

    /// What the worker is doing, or would be doing without a pause. Only [`DatabaseSlot::pause`] pauses it.
    pub fn set_worker_state(&self, state: WorkerState) {
        self.worker_state.store(state as u32, Ordering::Release);
    }

    /// Keeps the worker away until [`DatabaseSlot::resume`] has been called as often.
    pub fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends one pause; returns whether it was the last. Cannot fail.
    pub fn resume(&self) -> bool {
        let is_last = self.pauses.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last && self.worker.pid() == 0 {
            // Also if the worker was about to start and was turned away.
            self.set_worker_state(WorkerState::Wanted);
        }
        is_last
    }

    /// Notes that a transaction begins to commit entries; returns the epoch to end it with.
    pub fn begin_commit(&self) -> usize {
        self.begun.fetch_add(1, Ordering::SeqCst);
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

    /// Whether the count includes every entry that has become visible until now.
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

/// One running verification. Zeroed when free.
#[repr(C)]
pub struct ProgressSlot {
    pub pid: AtomicI32,
    pub database: AtomicU32,
    pub phase: AtomicU32,
    pub started_at: AtomicI64,
    pub blocks_done: AtomicI64,
    pub blocks_total: AtomicI64,
    pub entries_done: AtomicI64,
    pub bytes_done: AtomicI64,
    pub bytes_total: AtomicI64,
    pub rows_done: AtomicI64,
}

#[repr(C)]
pub struct Shared {
    pub launcher: Wakeable,
    /// Writes the mirror files of all databases.
    pub writer: Wakeable,
    /// Where the WAL ended when this server started; 0 until a process asks.
    recovered_to: AtomicU64,
    /// A random number for the time from one start of the server, or crash of a process, to the next.
    run: AtomicU64,
    /// Databases came or went: the launcher is to look at pg_database again.
    pub rescan: AtomicBool,
    /// A database with a ledger has found no slot: the launcher is to look for such when one comes free.
    is_short: AtomicBool,
    databases: [DatabaseSlot; MAX_DATABASES],
    pub verifications: [ProgressSlot; MAX_VERIFICATIONS],
}

// Postgres aligns shared memory to multiples of this.
const _: () = assert!(std::mem::align_of::<Shared>() <= pg_sys::PG_CACHE_LINE_SIZE as usize);

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
/// How often this postmaster has created the area: once more after each crash of one of its processes.
static TIMES_MADE: AtomicU32 = AtomicU32::new(0);

/// The shared area, or `None` where the library was not preloaded.
pub fn shared() -> Option<&'static Shared> {
    // SAFETY: once set it points to the area in shared memory, which lives as long as the server; all access to its
    // plain fields is through atomics or under the locks below.
    unsafe { SHARED.load(Ordering::Acquire).as_ref() }
}

/// Ends pauses of workers. Cannot fail.
pub fn resume_workers(paused: impl IntoIterator<Item = &'static DatabaseSlot>) {
    let mut has_resumed = false;
    for slot in paused {
        has_resumed |= slot.resume();
    }
    if let Some(shared) = shared().filter(|_| has_resumed) {
        shared.launcher.wake();
    }
}

/// Whether this server has started anew after a crash of one of its processes.
pub fn has_crashed() -> bool {
    TIMES_MADE.load(Ordering::Acquire) > 1
}

static mut PREVIOUS_STARTUP_HOOK: pg_sys::shmem_startup_hook_type = None;

#[cfg(not(feature = "pg14"))]
static mut PREVIOUS_REQUEST_HOOK: pg_sys::shmem_request_hook_type = None;

/// Asks for the area; only while the server is preloading libraries.
pub fn init() {
    // SAFETY: _PG_init runs in the postmaster's only thread; both hooks are chained.
    unsafe {
        #[cfg(not(feature = "pg14"))]
        {
            PREVIOUS_REQUEST_HOOK = pg_sys::shmem_request_hook;
            pg_sys::shmem_request_hook = Some(request);
        }
        #[cfg(feature = "pg14")]
        request_memory();
        PREVIOUS_STARTUP_HOOK = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

#[cfg(not(feature = "pg14"))]
#[pg_guard]
unsafe extern "C-unwind" fn request() {
    if let Some(previous) = PREVIOUS_REQUEST_HOOK {
        pg_sys::ffi::pg_guard_ffi_boundary(|| previous());
    }
    request_memory();
}

/// # Safety
/// As for [`locks::request`]: called by the postmaster while it asks libraries how much shared memory they need.
unsafe fn request_memory() {
    pg_sys::RequestAddinShmemSpace(std::mem::size_of::<Shared>());
    locks::request(LOCKS);
}

#[pg_guard]
unsafe extern "C-unwind" fn startup() {
    if let Some(previous) = PREVIOUS_STARTUP_HOOK {
        pg_sys::ffi::pg_guard_ffi_boundary(|| previous());
    }
    let mut found = false;
    // Without AddinShmemInitLock: the postmaster runs this before it has child processes.
    let area = pg_sys::ShmemInitStruct(AREA.as_ptr(), std::mem::size_of::<Shared>(), &mut found) as *mut Shared;
    if !found {
        TIMES_MADE.fetch_add(1, Ordering::AcqRel);
        std::ptr::write_bytes(area, 0, 1);
        (*area).run.store(ids::random().as_u64_pair().0, Ordering::Release);
        for slot in &(*area).databases {
            slot.mirror.init();
        }
    }
    locks::attach();
    SHARED.store(area, Ordering::Release);
}

impl Shared {
    fn lock_registry(&self) -> LockGuard {
        // SAFETY: lock 0 is the registry's. The locks are found before this area is handed out.
        unsafe { LockGuard::acquire(0) }
    }

    /// The mirror's state of `slot`, locked.
    pub fn lock_mirror<'a>(&self, slot: &'a DatabaseSlot) -> LockedMirror<'a> {
        // SAFETY: slot is an element of the array, so both pointers lie in the same allocation. Each slot has a lock of
        // its own, which was found before this area is handed out, and nothing else takes the lock of that number.
        unsafe {
            let index = std::ptr::from_ref(slot).offset_from(self.databases.as_ptr());
            slot.mirror.locked_by(LockGuard::acquire(1 + index as usize))
        }
    }

    /// A new id for one more time that a mirror file is opened for writing.
    pub fn new_attachment(&self) -> Uuid {
        Uuid::from_u64_pair(self.run.load(Ordering::Acquire), ids::random().as_u64_pair().1)
    }

    /// Whether this server has opened the file under this id since it started.
    pub fn is_of_this_run(&self, attachment: Uuid) -> bool {
        attachment.as_u64_pair().0 == self.run.load(Ordering::Acquire)
    }

    /// Where the WAL ended when this server started: its first checkpoint begins there, be it that of a clean shutdown
    /// or of the end of recovery. It is first asked for when background workers start, before there can be another
    /// checkpoint. After a promotion, which begins a timeline of its own, this does not hold.
    pub fn recovered_to(&self) -> u64 {
        // SAFETY: reads shared memory.
        let redo = unsafe { pg_sys::GetRedoRecPtr() };
        match self.recovered_to.compare_exchange(0, redo, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => redo,
            Err(known) => known,
        }
    }

    /// The slots in use.
    pub fn slots(&self) -> impl Iterator<Item = &DatabaseSlot> {
        self.databases.iter().filter(|slot| slot.database.load(Ordering::Acquire) != 0)
    }

    pub fn find(&self, database: pg_sys::Oid) -> Option<&DatabaseSlot> {
        self.slots().find(|slot| slot.database() == database)
    }

    /// The slot of `database`, taken now if it has none; `None` when all are taken.
    pub fn find_or_take(&self, database: pg_sys::Oid) -> Option<&DatabaseSlot> {
        if let Some(slot) = self.find(database) {
            return Some(slot);
        }
        let registry = self.lock_registry();
        self.take(database, &registry)
    }

    /// The slot of a database whose ledger has just been created. If a worker has found no ledger before and is about
    /// to give the slot back, this tells it.
    pub fn take_created(&self, database: pg_sys::Oid) -> Option<&DatabaseSlot> {
        let registry = self.lock_registry();
        let slot = self.take(database, &registry)?;
        // The slot may have belonged to an earlier ledger, with times of its own.
        slot.entry_clock.forget();
        slot.check_extension.store(true, Ordering::Release);
        Some(slot)
    }

    fn take(&self, database: pg_sys::Oid, _registry: &LockGuard) -> Option<&DatabaseSlot> {
        if let Some(slot) = self.find(database) {
            return Some(slot);
        }
        let Some(slot) = self.free_slot() else {
            self.is_short.store(true, Ordering::Release);
            return None;
        };
        slot.pending.store(0, Ordering::Release);
        slot.undecided.iter().for_each(|count| count.store(0, Ordering::Release));
        slot.committing_behind.store(0, Ordering::Release);
        slot.behind.store(false, Ordering::Release);
        slot.prepared_decided.store(false, Ordering::Release);
        // The worker that takes the slot must look for rows to record.
        slot.baselines.store(true, Ordering::Release);
        slot.lag.clear();
        slot.entry_clock.forget();
        slot.blocks_sealed.store(0, Ordering::Release);
        slot.check_extension.store(false, Ordering::Release);
        slot.recount.store(false, Ordering::Release);
        slot.set_worker_state(WorkerState::Wanted);
        slot.mirror.detach(self.lock_mirror(slot));
        slot.database.store(database.to_u32(), Ordering::Release);
        Some(slot)
    }

    fn free_slot(&self) -> Option<&DatabaseSlot> {
        self.databases.iter().take(most_databases()).find(|slot| slot.database.load(Ordering::Acquire) == 0)
    }

    /// Whether a database can have a ledger, by the number of those that have one.
    pub fn has_room_for(&self, database: pg_sys::Oid) -> bool {
        self.find(database).is_some() || self.free_slot().is_some()
    }

    /// Whether databases that have found no slot are to be looked for, because there is one now.
    pub fn take_room(&self) -> bool {
        self.free_slot().is_some() && self.is_short.swap(false, Ordering::AcqRel)
    }

    /// Makes the calling process the worker of the slot. Returns false if there is one already, which may have started
    /// at the same time, or if the slot has been given back meanwhile.
    pub fn enlist_worker(&self, slot: &DatabaseSlot, database: pg_sys::Oid) -> bool {
        let _registry = self.lock_registry();
        let is_vacant = slot.database() == database && slot.worker.pid() == 0;
        if is_vacant {
            slot.worker.enlist();
        }
        is_vacant
    }

    /// Gives back the slot of a database that is gone, unless another database has taken it meanwhile.
    pub fn release(&self, slot: &DatabaseSlot, gone: pg_sys::Oid) {
        {
            let _registry = self.lock_registry();
            if slot.database() != gone || slot.worker.pid() != 0 {
                return;
            }
            slot.mirror.detach(self.lock_mirror(slot));
            slot.worker.retire();
            slot.database.store(0, Ordering::Release);
        }
        self.note_released();
    }

    /// Gives back the slot of a database in which no ledger was found, unless one was created since `check_extension`
    /// was last cleared, which was before the search; or unless the slot has another process as its worker by now.
    pub fn release_without_ledger(&self, slot: &DatabaseSlot) {
        {
            let _registry = self.lock_registry();
            let is_others = slot.worker.pid() != 0 && !slot.worker.is_me();
            if is_others || slot.check_extension.load(Ordering::Acquire) {
                return;
            }
            slot.mirror.detach(self.lock_mirror(slot));
            slot.worker.retire();
            slot.database.store(0, Ordering::Release);
        }
        self.note_released();
    }

    fn note_released(&self) {
        // The writer may have the file open, and the space of a deleted file is free only once it has closed it.
        self.writer.wake();
        if self.is_short.load(Ordering::Acquire) {
            self.rescan.store(true, Ordering::Release);
            self.launcher.wake();
        }
    }
}
