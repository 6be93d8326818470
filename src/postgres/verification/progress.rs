//! What running verifications have done, for the view `ledger.progress`.

use super::progress_slot::ProgressSlot;
use crate::postgres::database;
use crate::postgres::errorless;
use crate::postgres::shared::shared;
use pgrx::{pg_guard, pg_sys};
use std::sync::atomic::Ordering;
use std::sync::Once;

/// What a verification is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    Starting = 0,
    /// Reading blocks from the tables, and from the file if there is one.
    Blocks = 1,
    /// Comparing what is not sealed yet.
    Pending = 2,
    /// Reading the entries about the rows of a tracked table.
    RowEntries = 3,
    /// Reading the rows themselves.
    Rows = 4,
    /// Comparing rows and entries.
    Comparing = 5,
    /// Comparing what finds the entries about a row with all entries.
    RowVersions = 6,
}

impl Phase {
    fn name(number: u32) -> &'static str {
        match number {
            1 => "verifying blocks",
            2 => "comparing pending entries",
            3 => "reading entries about rows",
            4 => "reading rows",
            5 => "comparing rows and entries",
            6 => "comparing row versions",
            _ => "starting",
        }
    }
}

/// Shows the progress of this verification until dropped. If all slots are taken, it shows nothing.
pub struct Progress(Option<&'static ProgressSlot>);

impl Progress {
    pub fn start() -> Self {
        // SAFETY: reads a global of this process, set before any SQL runs.
        let pid = unsafe { pg_sys::MyProcPid };
        let free = shared().and_then(|shared| {
            shared
                .verifications
                .iter()
                .find(|slot| slot.pid.compare_exchange(0, pid, Ordering::AcqRel, Ordering::Acquire).is_ok())
        });
        if let Some(slot) = free {
            free_at_exit();
            slot.database.store(database::own_oid().to_u32(), Ordering::Relaxed);
            slot.phase.store(Phase::Starting as u32, Ordering::Relaxed);
            slot.started_at.store(errorless::clock(), Ordering::Relaxed);
            for counter in [
                &slot.blocks_done,
                &slot.blocks_total,
                &slot.entries_done,
                &slot.bytes_done,
                &slot.bytes_total,
                &slot.rows_done,
            ] {
                counter.store(0, Ordering::Relaxed);
            }
        }
        Progress(free)
    }

    pub fn phase(&self, phase: Phase) {
        if let Some(slot) = self.0 {
            slot.phase.store(phase as u32, Ordering::Relaxed);
        }
    }

    pub fn totals(&self, blocks: i64, bytes: u64) {
        if let Some(slot) = self.0 {
            slot.blocks_total.store(blocks, Ordering::Relaxed);
            slot.bytes_total.store(bytes as i64, Ordering::Relaxed);
        }
    }

    pub fn blocks(&self, blocks: u64, entries: u64) {
        if let Some(slot) = self.0 {
            slot.blocks_done.store(blocks as i64, Ordering::Relaxed);
            slot.entries_done.store(entries as i64, Ordering::Relaxed);
        }
    }

    pub fn rows(&self, rows: u64) {
        if let Some(slot) = self.0 {
            slot.rows_done.store(rows as i64, Ordering::Relaxed);
        }
    }

    pub fn bytes(&self, bytes: u64) {
        if let Some(slot) = self.0 {
            slot.bytes_done.store(bytes as i64, Ordering::Relaxed);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(slot) = self.0 {
            slot.pid.store(0, Ordering::Release);
        }
    }
}

/// Makes this process free its slots when it ends: a process that is terminated drops nothing.
fn free_at_exit() {
    static IS_REGISTERED: Once = Once::new();
    // SAFETY: registered once a process; the callback ignores its argument.
    IS_REGISTERED.call_once(|| unsafe { pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::null()) });
}

/// Runs whenever a process that has verified ends.
#[pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, _arg: pg_sys::Datum) {
    for slot in shared().iter().flat_map(|shared| &shared.verifications) {
        slot.pid.compare_exchange(pg_sys::MyProcPid, 0, Ordering::AcqRel, Ordering::Acquire).ok();
    }
}

/// A row of the view.
pub struct ProgressRow {
    pub pid: i32,
    pub database: pg_sys::Oid,
    pub phase: &'static str,
    pub started_at: pg_sys::TimestampTz,
    pub blocks_done: i64,
    pub blocks_total: i64,
    pub entries_done: i64,
    pub bytes_done: i64,
    pub bytes_total: i64,
    pub rows_done: i64,
}

/// All running verifications of the cluster.
pub fn rows() -> Vec<ProgressRow> {
    let Some(shared) = shared() else {
        return Vec::new();
    };
    let running = shared.verifications.iter().filter(|slot| slot.pid.load(Ordering::Acquire) != 0);
    running
        .map(|slot| ProgressRow {
            pid: slot.pid.load(Ordering::Acquire),
            database: pg_sys::Oid::from(slot.database.load(Ordering::Relaxed)),
            phase: Phase::name(slot.phase.load(Ordering::Relaxed)),
            started_at: slot.started_at.load(Ordering::Relaxed),
            blocks_done: slot.blocks_done.load(Ordering::Relaxed),
            blocks_total: slot.blocks_total.load(Ordering::Relaxed),
            entries_done: slot.entries_done.load(Ordering::Relaxed),
            bytes_done: slot.bytes_done.load(Ordering::Relaxed),
            bytes_total: slot.bytes_total.load(Ordering::Relaxed),
            rows_done: slot.rows_done.load(Ordering::Relaxed),
        })
        .collect()
}
