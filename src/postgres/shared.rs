//! Shared memory: its area, and who has which of its slots.
//!
//! Everything here is valid when zeroed, so the area is initialised in place: a value built on the stack first would
//! overflow the stack.

use super::database_slot::{DatabaseSlot, Wakeable, WorkerState};
use super::faults;
use super::ids;
use super::locks::{self, LockGuard};
use super::mirror::shared::LockedMirror;
use super::pauses::{Pause, Pauses};
use super::verification::progress_slot::{ProgressSlot, MAX_VERIFICATIONS};
use pgrx::{pg_guard, pg_sys};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use uuid::Uuid;

/// Databases of one cluster that can have a ledger at the same time. A slot is mostly its mirror's ring, which takes
/// memory only once it is used.
const MAX_DATABASES: usize = 64;

const AREA: &std::ffi::CStr = c"pg_notary";
/// One lock for the registry of slots, then one for each slot's mirror.
const LOCKS: usize = 1 + MAX_DATABASES;

/// How many databases can have a ledger.
pub fn most_databases() -> usize {
    faults::most_databases(MAX_DATABASES)
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
    /// That the server has recovered from a crash is noted.
    pub is_recovery_noted: AtomicBool,
    /// Databases came or went: the launcher is to look at pg_database again.
    pub rescan: AtomicBool,
    /// A database with a ledger has found no slot: the launcher is to look for such when one comes free.
    is_short: AtomicBool,
    pub pauses: Pauses,
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
pub fn resume_workers(pauses: impl IntoIterator<Item = &'static Pause>) {
    let Some(shared) = shared() else { return };
    for pause in pauses {
        shared.resume_worker(pause.end());
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
        self.databases.iter().filter(|slot| !slot.is_free())
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

    /// A pause of its worker has ended.
    fn resume_worker(&self, database: pg_sys::Oid) {
        if self.pauses.has(database) {
            return;
        }
        // Also if the worker was about to start and was turned away.
        if let Some(slot) = self.find(database).filter(|slot| slot.worker.pid() == 0) {
            slot.set_worker_state(WorkerState::Wanted);
        }
        self.launcher.wake();
    }

    fn take(&self, database: pg_sys::Oid, _registry: &LockGuard) -> Option<&DatabaseSlot> {
        if let Some(slot) = self.find(database) {
            return Some(slot);
        }
        let Some(slot) = self.free_slot() else {
            self.is_short.store(true, Ordering::Release);
            return None;
        };
        slot.begin_anew();
        slot.mirror.detach(self.lock_mirror(slot));
        slot.give_to(database);
        Some(slot)
    }

    fn free_slot(&self) -> Option<&DatabaseSlot> {
        self.databases.iter().take(most_databases()).find(|slot| slot.is_free())
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
        self.give_back(slot, || slot.database() != gone || slot.worker.pid() != 0);
    }

    /// Gives back the slot of a database in which no ledger was found, unless one was created since `check_extension`
    /// was last cleared, which was before the search; or unless the slot has another process as its worker by now.
    pub fn release_without_ledger(&self, slot: &DatabaseSlot) {
        let is_others = || slot.worker.pid() != 0 && !slot.worker.is_me();
        self.give_back(slot, || is_others() || slot.check_extension.load(Ordering::Acquire));
    }

    /// Gives back the slot, unless it `must_stay`, which is asked under the lock.
    fn give_back(&self, slot: &DatabaseSlot, must_stay: impl FnOnce() -> bool) {
        {
            let _registry = self.lock_registry();
            if must_stay() || slot.has_committing() {
                return;
            }
            slot.mirror.detach(self.lock_mirror(slot));
            slot.worker.retire();
            slot.give_to(pg_sys::InvalidOid);
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
