//! A leading session: a commit that does a round itself while no other process does one. It writes and syncs its own
//! lines together with those that others have in the ring. That saves two switches between processes, each as long as a
//! write; Postgres writes its WAL in the same way.
//!
//! Only for a file on a local file system. A system call on a network mount that hangs cannot be cancelled, so there
//! the writer does every round. The writer also does what is rare: going on after a failure, cutting off a line that
//! has not become whole, and syncing what no session waits for.

use super::file::{self, Trouble};
use super::file_identity::FileIdentity;
use super::handle::Mirror;
use super::round::{Done, Failed, Round};
use super::shared::{Attachment, LockedMirror};
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::path::PathBuf;

thread_local! {
    /// The file, kept open since an earlier commit: opening it for each commit takes longer than writing a line.
    static KEPT: RefCell<Option<OpenFile>> = const { RefCell::new(None) };
    /// Whether Postgres leaves one descriptor free for this file.
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

struct OpenFile {
    file: File,
    path: PathBuf,
    identity: FileIdentity,
    /// The failure count when it was opened. A descriptor from before a failure would report that failure once more.
    failures: u64,
}

/// Has Postgres leave a descriptor free for the file. Postgres may have to close files of its own for that, which may
/// raise or log an error, so this must not happen once a round has begun.
pub fn prepare() {
    if !IS_COUNTED.get() {
        // SAFETY: changes a counter of this process, and at most closes files that Postgres opens again by itself.
        IS_COUNTED.set(unsafe { pg_sys::AcquireExternalFD() });
    }
}

/// A round that this process has begun.
#[derive(Clone, Copy)]
pub struct LedRound {
    round: Round,
    identity: FileIdentity,
    failures: u64,
}

impl LedRound {
    /// Begins a round with what is in the ring, if this process may lead and no other process does a round.
    pub fn begin(mirror: &Mirror, fields: &mut LockedMirror<'_>) -> Option<LedRound> {
        let is_simple = fields.cut_to == 0 && fields.unfinished == 0 && fields.long_line_to <= fields.written();
        let is_free = fields.attachment == Attachment::Attached && !fields.writing && !fields.is_troubled;
        // The worker never leads: in mode async, sealing must not wait for the file.
        let may_wait = fields.is_local && !mirror.slot.worker.is_me() && mirror.shared.writer.pid() != 0;
        let may = may_wait && IS_COUNTED.get();
        if !(is_simple && is_free && may && fields.has_work()) {
            return None;
        }
        let mut round = Round::begin(fields, mirror.slot, false);
        round.is_led = true;
        Some(LedRound { round, identity: fields.identity, failures: fields.failures })
    }

    /// Does the round. One of the sessions that have come meanwhile does the next.
    pub fn work(self, mirror: &Mirror) {
        let (outcome, file) = match self.write(mirror) {
            Ok((done, file)) => (Ok(done), Some(file)),
            Err(failed) => (Err(failed), None),
        };
        let left = self.round.end(mirror.shared, mirror.slot, outcome);
        let is_passed_on = left.for_next && mirror.state().ended.call_one(self.round.next());
        if left.for_writer || (left.for_next && !is_passed_on) {
            mirror.shared.writer.wake();
        }
        KEPT.set(file);
    }

    fn write(&self, mirror: &Mirror) -> Result<(Done, OpenFile), Failed> {
        let untouched = Failed::keeping(self.round.safe());
        let open = self.open(mirror).map_err(&untouched)?;
        self.round.check(&open.path, self.identity).map_err(&untouched)?;
        let done = self.round.work(mirror.slot, &open.file, &open.path)?;
        Ok((done, open))
    }

    fn open(&self, mirror: &Mirror) -> Result<OpenFile, Trouble> {
        let (identity, failures) = (self.identity, self.failures);
        let kept = KEPT.take().filter(|kept| (kept.identity, kept.failures) == (identity, failures));
        if let Some(kept) = kept {
            return Ok(kept);
        }
        // If this is the path of a newer attachment by now, the check of the file's identity fails.
        let path = mirror.lock().path;
        let path = PathBuf::from(path.get());
        Ok(OpenFile { file: file::open_attached(&path, identity)?, path, identity, failures })
    }
}
