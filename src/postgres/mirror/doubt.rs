//! Whether lines that are about to be voided may be of transactions that somebody was told had committed. After a crash of this server
//! they are not: what it had acknowledged it has. A server that has been promoted may lack the last that its primary had, and one whose
//! WAL was reset all that was not in the tables yet. By then the file alone tells of it, and voiding must not pass for nothing.

use super::handle::Mirror;
use super::state_file::{self, State};
use crate::postgres::errors::Failure;
use crate::postgres::shared::has_crashed;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where `global/pg_control` has the state of the server.
const STATE_AT: u64 = std::mem::offset_of!(pg_sys::ControlFileData, state) as u64;

/// Whether the server was shut down before the postmaster started it.
static WAS_SHUT_DOWN: AtomicBool = AtomicBool::new(false);

/// In the data directory: written anew whenever the server starts after a crash, and recovers. A later start, after a regular stop, knows
/// by it that a file which was not closed before then need not have lost anything, also where nobody has opened it in between.
const RECOVERED: &str = "pg_notary.recovered";

/// The postmaster asks before it begins, and later nobody can tell.
pub fn init() {
    let mut state = [0; 4];
    // The postmaster is in the data directory.
    let control = std::fs::File::open("global/pg_control");
    let is_read = control.and_then(|control| control.read_exact_at(&mut state, STATE_AT)).is_ok();
    let was_shut_down = is_read && u32::from_ne_bytes(state) == pg_sys::DBState::DB_SHUTDOWNED;
    WAS_SHUT_DOWN.store(was_shut_down, Ordering::Release);
    if !was_shut_down {
        note_recovery();
    }
}

/// Without the note there may be a warning that is not warranted, and no worse.
fn note_recovery() {
    std::fs::write(RECOVERED, "The server has started here after a crash.\n").ok();
}

/// Whether the server has recovered from a crash since the state file was written.
fn has_recovered_since(mirror: &Path) -> bool {
    let written = |path: &Path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    // All processes of the server are in the data directory.
    written(Path::new(RECOVERED)).zip(written(&state_file::path_of(mirror))).is_some_and(|(note, state)| note > state)
}

/// Why it is not sure that such lines were never acknowledged.
pub struct Doubt {
    /// As it stands in the void lines.
    pub reason: &'static str,
    why: String,
}

/// `state` is what the state file said before this server has written it. `None` once this server has had the file open.
pub fn of(mirror: &Mirror, path: &Path, state: Option<&State>) -> Option<Doubt> {
    let state = state.filter(|state| state.is_of_this_cluster())?;
    if mirror.lock().was_attached {
        return None;
    }
    let (then, now) = (state.timeline(), state_file::flushed_wal().timeline);
    if then != now {
        let why = format!("The file was last written on timeline {then}, and this server is on timeline {now}: it was promoted since.");
        return Some(Doubt { reason: "not in the database that was promoted", why });
    }
    if state.is_closed || !WAS_SHUT_DOWN.load(Ordering::Acquire) || has_crashed() || has_recovered_since(path) {
        return None;
    }
    let why = "The file was not closed, and this server has started as after a regular stop: its WAL was reset (pg_resetwal), or it ran without pg_notary meanwhile.";
    Some(Doubt { reason: "not in the database, which has not recovered from the crash", why: why.to_owned() })
}

impl Doubt {
    pub fn warn(&self, path: &Path, lines: usize) {
        let Doubt { reason, why } = self;
        let message = format!(
            "pg_notary voids {lines} lines of mirror file \"{}\" that this database does not have",
            path.display()
        );
        Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message)
            .detail(format!(
                "{why} Transactions that were acknowledged before may be among them: then the database has lost them, and these lines \
                 are what is left."
            ))
            .hint(format!("The void lines with the reason \"{reason}\" name them. Ask the old server, or the application, before either is gone."))
            .warn();
    }
}
