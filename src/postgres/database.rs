//! The database of the current process, as it is in shared memory: its slot, its mirror, and what other processes are
//! told when a ledger is created or dropped.
//!
//! (The worker that seals for one database is in `worker/main_loop.rs`.)

use super::database_slot::DatabaseSlot;
use super::encoding;
use super::errors::Failure;
use super::mirror::handle::Mirror;
use super::shared::{most_databases, shared, Shared};
use pgrx::{pg_sys, PgSqlErrorCode};
use std::cell::Cell;
use std::ffi::CStr;
use std::sync::atomic::Ordering;

thread_local! {
    /// The slot, once found. A process stays in its database, and a slot stays with a database that has a ledger.
    static OWN_SLOT: Cell<Option<&'static DatabaseSlot>> = const { Cell::new(None) };
}

/// Whether the library was preloaded. Only then there are the worker, the mirror and the secret of the environment.
pub fn is_preloaded() -> bool {
    shared().is_some()
}

/// The error of everything that needs the library preloaded.
pub fn require_preloaded() -> Result<&'static Shared, Failure> {
    shared().ok_or_else(|| {
        // SAFETY: reads a global that is set when the server starts, and never changes.
        if unsafe { pg_sys::IsBinaryUpgrade } {
            return Failure::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "the ledger cannot be used while pg_upgrade runs the server",
            );
        }
        Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "pg_notary must be loaded via shared_preload_libraries",
        )
        .detail("This operation needs the worker, the mirror or the secret of the environment, which exist only if the server has preloaded the library.")
        .hint("Add pg_notary to shared_preload_libraries in postgresql.conf and restart the server.")
    })
}

/// Raises an ERROR where the transaction must not write, before anything is written. `command` is what the error names.
pub fn require_writable(command: &CStr) {
    // SAFETY: a NUL-terminated string, inside a transaction.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(command.as_ptr());
        pg_sys::PreventCommandIfParallelMode(command.as_ptr());
    }
}

/// The oid of this process's database.
pub fn own_oid() -> pg_sys::Oid {
    // SAFETY: a plain global of this process, set before any SQL runs.
    unsafe { pg_sys::MyDatabaseId }
}

/// The slot of this process's database, if it has one, as a database with a ledger has. Takes none. Cannot fail.
pub fn slot_if_taken() -> Option<&'static DatabaseSlot> {
    shared()?.find(own_oid())
}

/// The slot of this process's database.
pub fn slot() -> Result<(&'static Shared, &'static DatabaseSlot), Failure> {
    slot_if_left()?.ok_or_else(|| too_many("this database"))
}

/// The same; `None` if other databases have taken all.
fn slot_if_left() -> Result<Option<(&'static Shared, &'static DatabaseSlot)>, Failure> {
    let shared = require_preloaded()?;
    encoding::require_utf8()?;
    let own = own_oid();
    if let Some(slot) = OWN_SLOT.get().filter(|slot| slot.database() == own) {
        return Ok(Some((shared, slot)));
    }
    let slot = shared.find_or_take(own);
    OWN_SLOT.set(slot);
    Ok(slot.map(|slot| (shared, slot)))
}

/// There is no slot for a database that has a ledger.
pub fn too_many(database: &str) -> Failure {
    let message = format!("too many databases with a ledger: at most {} in one cluster", most_databases());
    Failure::new(PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, message)
        .detail(format!("Nothing can be recorded or sealed in {database} until another database has no ledger any more."))
        .hint("View ledger.workers lists the others. Run DROP EXTENSION pg_notary or DROP DATABASE for one that is not needed: this ledger then works by itself.")
}

/// Says so to whoever has just created the ledger.
pub fn warn_if_too_many() {
    if shared().is_some_and(|shared| !shared.has_room_for(own_oid())) {
        too_many("this database").warn();
    }
}

/// Whether this server replays WAL, as a standby does.
pub fn is_in_recovery() -> bool {
    // SAFETY: reads a flag of shared memory. On Postgres 14 its first call after a promotion takes memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether a command needs this database for itself, so that its worker must leave.
pub fn is_paused() -> bool {
    shared().is_some_and(|shared| shared.pauses.has(own_oid()))
}

pub fn mirror() -> Result<Mirror, Failure> {
    slot().map(|(shared, slot)| Mirror { shared, slot })
}

/// The same; `None` if other databases have taken all slots.
pub fn mirror_if_left() -> Result<Option<Mirror>, Failure> {
    Ok(slot_if_left()?.map(|(shared, slot)| Mirror { shared, slot }))
}

/// Tells the worker to look for tables whose rows it must record. Cannot fail.
pub fn baseline_begun() {
    if let Some(slot) = slot_if_taken() {
        slot.baselines.store(true, Ordering::Release);
        slot.worker.wake();
    }
}

/// Tells the launcher and the workers what a transaction has changed. Runs at COMMIT and ABORT, so it cannot fail.
pub fn at_transaction_end(created: bool, dropped: bool, databases_changed: bool) {
    let Some(shared) = shared() else { return };
    if dropped {
        if let Some(slot) = shared.find(own_oid()) {
            // Before a session can record in a ledger that is created next: its lines do not belong in this file.
            shared.lock_mirror(slot).close();
            slot.check_extension.store(true, Ordering::Release);
            slot.worker.wake();
        }
    }
    if databases_changed {
        shared.rescan.store(true, Ordering::Release);
    }
    if created {
        // A worker may run already, if the ledger was dropped and created again in one transaction. It must look again.
        if let Some(slot) = shared.take_created(own_oid()) {
            slot.worker.wake();
        }
    }
    if created || databases_changed {
        shared.launcher.wake();
    }
}
