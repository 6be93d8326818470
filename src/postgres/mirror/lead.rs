//! A commit that writes and syncs the file itself, with what others have in the ring, when nobody else is at it: what is
//! saved is two switches between processes, each as long as a write. Postgres' own WAL is written so.
//!
//! Only where the file is on a local file system. On a network mount that hangs a system call cannot be cancelled, and there
//! all of it is left to the writer. What happens seldom is left to it as well: to go on after a failure, to cut off a line
//! that has not become whole, and to sync what nobody waits for.

use super::append::Mirror;
use super::file;
use super::round::{Done, Failed, Round};
use super::shared::{Attachment, FileIdentity, FixedText, LockedMirror};
use std::path::PathBuf;

/// A round that this process has begun.
pub struct Led {
    round: Round,
    identity: FileIdentity,
    path: FixedText<1024>,
}

impl Led {
    /// Begins a round with what is in the ring, if this process may and nobody else is at it.
    pub fn begin(mirror: &Mirror, fields: &mut LockedMirror<'_>) -> Option<Led> {
        let is_simple = fields.cut_to == 0 && fields.unfinished == 0 && fields.long_line_to <= fields.written();
        let is_free = fields.attachment == Attachment::Attached && !fields.writing && !fields.is_troubled;
        // In mode async nobody may be held up by the file, and sealing least of all.
        let may = fields.is_local && !mirror.slot.worker.is_me() && mirror.shared.writer.pid() != 0;
        if !(is_simple && is_free && may && fields.has_work()) {
            return None;
        }
        let mut round = Round::begin(fields, mirror.slot, false);
        round.is_led = true;
        Some(Led { round, identity: fields.identity, path: fields.path })
    }

    /// Does the round; one of those who have come meanwhile does the next.
    pub fn work(self, mirror: &Mirror) {
        let outcome = self.write(mirror);
        let left = self.round.end(mirror.shared, mirror.slot, outcome);
        let is_passed_on = left.for_next && mirror.state().ended.call_one(self.round.next());
        if left.for_writer || (left.for_next && !is_passed_on) {
            mirror.shared.writer.wake();
        }
    }

    /// The file is not kept open: nobody could unmount its file system while a session idles.
    fn write(&self, mirror: &Mirror) -> Result<Done, Failed> {
        let path = PathBuf::from(self.path.get());
        let file = file::open_unchanged(&path, self.identity, self.round.written, self.round.stamp)
            .map_err(Failed::keeping(self.round.safe()))?;
        self.round.work(mirror.slot, &file, &path)
    }
}
