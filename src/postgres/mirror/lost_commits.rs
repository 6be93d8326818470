//! Decides whether lines that are about to be voided may belong to acknowledged commits, so voiding them must be logged
//! as a warning.
//!
//! After a crash of this server they cannot: the database has everything that it acknowledged. A promoted server,
//! though, may lack the last commits of its primary, and a server whose WAL was reset may lack all that was not in its
//! tables yet. Only the file still tells of these commits then.

use super::handle::Mirror;
use super::lost::Lost;
use super::remembered::Remembered;
use super::state_file::{self, State};
use crate::postgres::shared::{has_crashed, shared};
use pgrx::pg_sys;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The offset of the server's state in `global/pg_control`.
const STATE_AT: u64 = std::mem::offset_of!(pg_sys::ControlFileData, state) as u64;

/// Whether the server was shut down before the postmaster started it.
static WAS_SHUT_DOWN: AtomicBool = AtomicBool::new(false);

/// A file in the data directory, written anew whenever the server has recovered from a crash, be it under the same
/// postmaster. A later start after a regular stop learns from it that a mirror file which was not closed before then
/// need not have lost anything, even if no process has opened that file in between.
const RECOVERED: &str = "pg_notary.recovered";

/// Runs in the postmaster before recovery begins. Afterwards pg_control no longer has this state.
pub fn init() {
    let mut state = [0; 4];
    // The postmaster is in the data directory.
    let control = std::fs::File::open("global/pg_control");
    let is_read = control.and_then(|control| control.read_exact_at(&mut state, STATE_AT)).is_ok();
    let was_shut_down = is_read && u32::from_ne_bytes(state) == pg_sys::DBState::DB_SHUTDOWNED;
    WAS_SHUT_DOWN.store(was_shut_down, Ordering::Release);
}

/// Whether this server has begun by recovering from a crash.
fn has_recovered() -> bool {
    !WAS_SHUT_DOWN.load(Ordering::Acquire) || has_crashed()
}

/// Runs in the launcher, which starts when recovery has ended, and before any process that opens a mirror file; in
/// single-user mode, at the first commit: see [`note_recovery_alone`]. Not earlier: if recovery fails, and the WAL is
/// reset then, what was only in the WAL is lost. Once for each recovery: a later note would be newer than state files
/// that were written since.
///
/// If the note is missing, there may be an unwarranted warning. Or, if the crash came in the moment between the
/// writer's exit and its next write of the state file, a transaction is taken for one that the crash has undone.
pub fn note_recovery(is_noted: &AtomicBool) {
    if has_recovered() && !is_noted.swap(true, Ordering::AcqRel) {
        std::fs::write(RECOVERED, "The server has recovered here from a crash.\n").ok();
    }
}

/// A server in single-user mode has no launcher. It has recovered when its first transaction commits.
pub fn note_recovery_alone() {
    // SAFETY: reads a global of this process.
    let is_alone = unsafe { !pg_sys::IsUnderPostmaster };
    if let Some(shared) = shared().filter(|_| is_alone) {
        note_recovery(&shared.is_recovery_noted);
    }
}

/// Whether the server has recovered from a crash since the state file was written.
fn has_recovered_since(mirror: &Path) -> bool {
    let written = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    // All processes of the server are in the data directory.
    written(Path::new(RECOVERED)).zip(written(&state_file::path_of(mirror))).is_some_and(|(note, state)| note > state)
}

/// `state` is what the state file said before this server wrote it. Once an attempt has taken the file over, what it
/// has noted counts.
pub fn of(mirror: &Mirror, path: &Path, state: Option<&State>) -> Lost {
    {
        let fields = mirror.lock();
        if fields.was_attached {
            return fields.reopening.lost;
        }
    }
    let Some(state) = state.filter(|state| state.is_of_this_cluster()) else { return Lost::Nothing };
    let (then, now) = (state.timeline(), state_file::flushed_wal().timeline);
    if then != now {
        return Lost::AtPromotion { then, now };
    }
    match state.is_closed || has_recovered() || has_recovered_since(path) {
        true => Lost::Nothing,
        false => Lost::WithWal,
    }
}

/// Whether no transaction since the file was written can have lost its number: the server that wrote it was stopped in
/// the regular way, and none has crashed since. After a crash, another transaction may get the number of one that the
/// crash has undone.
pub fn keeps_transactions(mirror: &Mirror, path: &Path, remembered: &Remembered) -> bool {
    let state = State::read(path).filter(|state| state.is_of_this_cluster() && state.is_closed);
    let is_own = |state: State| Some(state.attachment) == remembered.attachment;
    let is_left_by_own = state.is_some_and(|state| {
        let is_of_this_timeline = state.timeline() == state_file::flushed_wal().timeline;
        is_of_this_timeline && is_own(state)
    });
    let was_stopped = || !has_recovered() && !has_recovered_since(path);
    is_left_by_own && was_stopped() && !mirror.lock().was_attached
}
