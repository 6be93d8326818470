//! A commit that writes and syncs the file itself, with what others have in the ring, when nobody else is at it: what is
//! saved is two switches between processes, each as long as a write. Postgres' own WAL is written so.
//!
//! Only where the file is on a local file system. On a network mount that hangs a system call cannot be cancelled, and there
//! all of it is left to the writer. What happens seldom is left to it as well: to go on after a failure, to cut off a line
//! that has not become whole, and to sync what nobody waits for.

use super::file::{self, Trouble};
use super::handle::Mirror;
use super::round::{Done, Failed, Round};
use super::shared::{Attachment, FileIdentity, LockedMirror};
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::path::PathBuf;

thread_local! {
    /// The file as this process has it open since an earlier commit: to open it for each takes longer than to write a line.
    static KEPT: RefCell<Option<OpenFile>> = const { RefCell::new(None) };
    /// Postgres counts one descriptor more among those that it may not use itself.
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
    /// The round that this process is at.
    static UNDER_WAY: Cell<Option<Led>> = const { Cell::new(None) };
}

struct OpenFile {
    file: File,
    path: PathBuf,
    identity: FileIdentity,
    /// A descriptor from before a failure would report it once more.
    failures: u64,
}

/// Has Postgres leave a descriptor free for the file. It may have to close files of its own for that, with what that may
/// raise or log, and so not once a round has begun.
pub fn prepare() {
    if !IS_COUNTED.get() {
        // SAFETY: changes a count of this process, and at most closes files that Postgres opens again by itself.
        IS_COUNTED.set(unsafe { pg_sys::AcquireExternalFD() });
    }
}

/// A round that this process has begun.
#[derive(Clone, Copy)]
pub struct Led {
    round: Round,
    identity: FileIdentity,
    failures: u64,
}

impl Led {
    /// Begins a round with what is in the ring, if this process may and nobody else is at it.
    pub fn begin(mirror: &Mirror, fields: &mut LockedMirror<'_>) -> Option<Led> {
        let is_simple = fields.cut_to == 0 && fields.unfinished == 0 && fields.long_line_to <= fields.written();
        let is_free = fields.attachment == Attachment::Attached && !fields.writing && !fields.is_troubled;
        // In mode async nobody may be held up by the file, and sealing least of all.
        let may_wait = fields.is_local && !mirror.slot.worker.is_me() && mirror.shared.writer.pid() != 0;
        let may = may_wait && IS_COUNTED.get();
        if !(is_simple && is_free && may && fields.has_work()) {
            return None;
        }
        let mut round = Round::begin(fields, mirror.slot, false);
        round.is_led = true;
        let led = Led { round, identity: fields.identity, failures: fields.failures };
        UNDER_WAY.set(Some(led));
        Some(led)
    }

    /// Does the round; one of those who have come meanwhile does the next.
    pub fn work(self, mirror: &Mirror) {
        let (outcome, file) = match self.write(mirror) {
            Ok((done, file)) => (Ok(done), Some(file)),
            Err(failed) => (Err(failed), None),
        };
        UNDER_WAY.set(None);
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
        // If it is that of another file by now, that file is not the one that is expected.
        let path = mirror.lock().path;
        let path = PathBuf::from(path.get());
        Ok(OpenFile { file: file::open_attached(&path, identity)?, path, identity, failures })
    }
}

/// Ends the round of a process that is told to end in the middle of it: a session looks at that afterwards, but a background
/// worker of somebody else's may end in the signal's handler. What it has written nobody knows; the worker looks at the file.
/// Cannot fail.
pub fn end_broken_off(mirror: &Mirror) {
    let Some(led) = UNDER_WAY.take() else { return };
    let trouble = Trouble::lasting("a process was terminated while it wrote the mirror file".to_owned());
    led.round.end(mirror.shared, mirror.slot, Err(Failed::keeping(led.round.safe())(trouble)));
}
