//! Putting lines into the file: many writers, one leader at a time who writes and syncs for all.
//!
//! The scheme is that of Postgres' own WAL flush: copy under a short lock, then either find that somebody has made your
//! part durable, or do it yourself for everyone who is waiting. Waiting is on a condition variable, so it can be
//! cancelled and shows as a wait event.

use super::file::{self, Trouble};
use super::lines::LineBuffer;
use super::shared::{Attachment, FileIdentity, MirrorState, RING_BYTES};
use crate::postgres::errors::Failure;
use crate::postgres::shared::{DatabaseSlot, Shared};
use crate::postgres::transaction;
use crate::postgres::wait_events;
use pgrx::{check_for_interrupts, PgSqlErrorCode};
use std::cell::RefCell;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Larger appends go around the ring, in pieces, so that they do not push everyone else's lines out of it.
const RING_APPEND_BYTES: usize = RING_BYTES / 4;
/// How long a writer waits for the worker to open the file before it gives up.
const ATTACH_DEADLINE: Duration = Duration::from_secs(30);
/// Sleepers look again this often, should a broadcast have been lost with the process that owed it.
const SLEEP_MS: i64 = 1000;

/// A part of the file, as offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRange {
    pub from: u64,
    pub to: u64,
}

struct OpenFile {
    identity: FileIdentity,
    path: PathBuf,
    file: File,
}

thread_local! {
    /// This process's own descriptor, kept from one commit to the next.
    static OPEN_FILE: RefCell<Option<OpenFile>> = const { RefCell::new(None) };
}

/// The mirror of one database, as a writer uses it.
#[derive(Clone, Copy)]
pub struct Mirror {
    pub shared: &'static Shared,
    pub slot: &'static DatabaseSlot,
}

impl Mirror {
    fn state(&self) -> &'static MirrorState {
        &self.slot.mirror
    }

    fn lock(&self) -> super::shared::LockedMirror<'static> {
        self.state().lock(self.shared, self.slot)
    }

    /// Appends the lines and returns when they are on disk. `ranges` learns where the lines stand *before* anything can
    /// fail, so that a transaction that is cancelled while it waits knows what to void.
    pub fn append(&self, lines: &mut LineBuffer, ranges: &mut Vec<FileRange>) -> Result<(), Failure> {
        self.wait_until_attached()?;
        let failures = self.lock().failures;
        let end = match lines.in_memory() {
            Some(bytes) if bytes.len() <= RING_APPEND_BYTES => self.enqueue(bytes, failures, ranges)?,
            _ => self.write_in_pieces(lines, failures, ranges)?,
        };
        self.wait_until_durable(end, failures)
    }

    /// Waits until the worker has the file open; asks it to try again where its last attempt failed.
    pub fn wait_until_attached(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + ATTACH_DEADLINE;
        let mut attempts = None;
        loop {
            let (attachment, ended, cause) = {
                let fields = self.lock();
                let may_write = match fields.attachment {
                    Attachment::Attached => true,
                    Attachment::Repairing => self.slot.worker.is_me(),
                    Attachment::Detached | Attachment::Failed => false,
                };
                if may_write {
                    return Ok(());
                }
                (fields.attachment, fields.attempts, fields.cause)
            };
            let first_seen = *attempts.get_or_insert(ended);
            if attachment == Attachment::Failed && ended > first_seen {
                return Err(self.failure(&cause.get()));
            }
            // The worker waits neither for itself nor for the lock that whoever seals holds.
            let in_vain = self.slot.worker.is_me() || transaction::holds_sealing_lock();
            if in_vain && attachment == Attachment::Failed {
                return Err(self.failure(&cause.get()));
            }
            if in_vain || Instant::now() > deadline {
                return Err(self.failure("The worker has not opened the file."));
            }
            self.slot.worker.wake();
            self.shared.launcher.wake();
            self.state().sleep(SLEEP_MS, wait_events::mirror_attach());
        }
    }

    /// Copies the lines into the ring; returns the offset at which they will end in the file.
    fn enqueue(&self, lines: &[u8], failures: u64, ranges: &mut Vec<FileRange>) -> Result<u64, Failure> {
        loop {
            let mut fields = self.lock();
            if fields.failures != failures {
                return Err(self.failure(&fields.cause.get()));
            }
            if fields.room() >= lines.len() {
                let from = fields.end();
                let to = from + lines.len() as u64;
                ranges.push(FileRange { from, to });
                self.state().put(&mut fields, lines);
                return Ok(to);
            }
            let full_until = fields.end();
            drop(fields);
            self.wait_until_durable(full_until, failures)?;
        }
    }

    /// Writes a large amount in pieces of whole lines, letting others go between them.
    fn write_in_pieces(
        &self,
        lines: &mut LineBuffer,
        failures: u64,
        ranges: &mut Vec<FileRange>,
    ) -> Result<u64, Failure> {
        let mut end = 0;
        let mut pieces = lines.pieces();
        while let Some(piece) = pieces.next() {
            check_for_interrupts!();
            end = self.write_piece(piece, failures, ranges)?;
        }
        Ok(end)
    }

    fn write_piece(&self, piece: &[u8], failures: u64, ranges: &mut Vec<FileRange>) -> Result<u64, Failure> {
        let leadership = self.lead_when_free(failures)?;
        let outcome = leadership.write_behind_ring(piece);
        match outcome {
            Ok(range) => {
                match ranges.last_mut() {
                    Some(last) if last.to == range.from => last.to = range.to,
                    _ => ranges.push(range),
                }
                leadership.resign();
                Ok(range.to)
            }
            Err(trouble) => Err(self.failure(&leadership.fail(trouble))),
        }
    }

    fn lead_when_free(&self, failures: u64) -> Result<Leadership, Failure> {
        loop {
            {
                let mut fields = self.lock();
                if fields.failures != failures {
                    return Err(self.failure(&fields.cause.get()));
                }
                if !fields.leading {
                    fields.leading = true;
                    return Ok(Leadership { mirror: *self, ended: false });
                }
            }
            self.state().sleep(SLEEP_MS, wait_events::mirror_sync());
        }
    }

    /// Waits until the file is on disk up to `end`, or makes it so for everyone.
    pub fn wait_until_durable(&self, end: u64, failures: u64) -> Result<(), Failure> {
        let outcome = loop {
            {
                let mut fields = self.lock();
                if fields.failures != failures {
                    // After one failure it is known what was kept; after more, being wrong towards failure is safe:
                    // the transaction aborts and what it wrote is voided.
                    let kept = fields.failures == failures + 1 && end <= fields.kept_at_failure;
                    break if kept { Ok(()) } else { Err(self.failure(&fields.cause.get())) };
                }
                if fields.durable >= end {
                    break Ok(());
                }
                if !fields.leading {
                    fields.leading = true;
                    drop(fields);
                    Leadership { mirror: *self, ended: false }.flush();
                    continue;
                }
            }
            self.state().sleep(SLEEP_MS, wait_events::mirror_sync());
        };
        MirrorState::stop_sleeping();
        outcome
    }

    /// Waits until everything that is in the ring now is on disk or discarded.
    pub fn flush(&self) -> Result<u64, Failure> {
        let (end, failures) = {
            let fields = self.lock();
            (fields.end(), fields.failures)
        };
        self.wait_until_durable(end, failures)?;
        Ok(end)
    }

    /// Waits until the lines of all transactions that have aborted are voided: an id may be used again, but the file must
    /// not hold it twice.
    pub fn wait_until_voided(&self) -> Result<(), Failure> {
        self.wait_until_attached()?;
        let deadline = Instant::now() + ATTACH_DEADLINE;
        loop {
            {
                let fields = self.lock();
                if !fields.voiding && fields.void_from == fields.void_to {
                    break;
                }
            }
            if Instant::now() > deadline {
                return Err(self.failure("The lines of an aborted transaction have not been voided."));
            }
            self.slot.worker.wake();
            self.state().sleep(SLEEP_MS, wait_events::mirror_sync());
        }
        MirrorState::stop_sleeping();
        Ok(())
    }

    /// Waits until no leader is writing, and keeps others from leading; the caller ends that under the lock.
    pub fn wait_until_quiet(&self) {
        loop {
            {
                let mut fields = self.lock();
                if !fields.leading {
                    fields.leading = true;
                    break;
                }
            }
            self.state().sleep(SLEEP_MS, wait_events::mirror_sync());
        }
        MirrorState::stop_sleeping();
    }

    fn failure(&self, cause: &str) -> Failure {
        Failure::new(PgSqlErrorCode::ERRCODE_IO_ERROR, "could not record in the mirror file")
            .detail(cause)
            .hint("Nothing of this transaction was recorded. Repair the cause, then try again; view ledger.mirror_status shows the state of the file.")
    }
}

/// The right to write the file; given back when dropped, as a failure unless it was ended properly.
struct Leadership {
    mirror: Mirror,
    ended: bool,
}

impl Leadership {
    /// Writes and syncs everything that is in the ring.
    fn flush(self) {
        match self.write_ring().and_then(|()| self.sync()) {
            Ok(durable) => {
                let mut fields = self.mirror.lock();
                fields.durable = durable;
                fields.syncs += 1;
                drop(fields);
                self.resign();
            }
            Err(trouble) => {
                self.fail(trouble);
            }
        }
    }

    /// Writes what is in the ring, without syncing it.
    fn write_ring(&self) -> Result<(), Trouble> {
        let (tail, head, written) = {
            let fields = self.mirror.lock();
            (fields.tail, fields.head, fields.written())
        };
        with_open_file(self.mirror, |open| {
            file::check_unchanged(&open.file, &open.path, open.identity, written)?;
            // SAFETY: this process leads, and both positions were read under the lock.
            for piece in unsafe { self.mirror.state().pieces(tail, head) } {
                file::write(&open.file, &open.path, piece)?;
            }
            Ok(())
        })?;
        self.mirror.lock().tail = head;
        Ok(())
    }

    /// Makes all that is written durable; returns up to where.
    fn sync(&self) -> Result<u64, Trouble> {
        let written = self.mirror.lock().written();
        with_open_file(self.mirror, |open| file::sync(&open.file, &open.path))?;
        Ok(written)
    }

    /// Writes a piece straight to the file, after everything that has been put in the ring before.
    fn write_behind_ring(&self, piece: &[u8]) -> Result<FileRange, Trouble> {
        let range = loop {
            self.write_ring()?;
            let mut fields = self.mirror.lock();
            if fields.head == fields.tail {
                let from = fields.end();
                fields.shift = fields.shift.wrapping_add(piece.len() as u64);
                break FileRange { from, to: fields.end() };
            }
        };
        with_open_file(self.mirror, |open| file::write(&open.file, &open.path, piece))?;
        Ok(range)
    }

    fn resign(mut self) {
        self.ended = true;
        self.mirror.lock().leading = false;
        self.mirror.state().broadcast();
    }

    /// Cuts the file back to what is durable and lets everyone who waits know; returns the cause.
    fn fail(mut self, trouble: Trouble) -> String {
        self.ended = true;
        let durable = self.mirror.lock().durable;
        let mut cause = trouble.cause;
        let mut reattach = trouble.reattach;
        // A file that somebody else has changed is not touched.
        if !reattach {
            if let Err(worse) = with_open_file(self.mirror, |open| file::cut(&open.file, &open.path, durable)) {
                cause = format!("{cause}; then {}", worse.cause);
                reattach = true;
            }
        }
        {
            let mut fields = self.mirror.lock();
            fields.fail(&cause);
            fields.leading = false;
            if reattach {
                fields.attachment = Attachment::Failed;
            }
        }
        self.mirror.state().broadcast();
        if reattach {
            self.mirror.slot.worker.wake();
        }
        cause
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        if !self.ended {
            let mut fields = self.mirror.lock();
            fields.fail("The writer was interrupted.");
            fields.attachment = Attachment::Failed;
            fields.leading = false;
            drop(fields);
            self.mirror.state().broadcast();
            self.mirror.slot.worker.wake();
        }
    }
}

/// Runs `action` with this process's descriptor of the attached file, opening it where it has none or an older one.
fn with_open_file<T>(mirror: Mirror, action: impl FnOnce(&OpenFile) -> Result<T, Trouble>) -> Result<T, Trouble> {
    let (identity, path) = {
        let fields = mirror.lock();
        (fields.identity, fields.path)
    };
    OPEN_FILE.with_borrow_mut(|open| {
        if open.as_ref().map(|open| open.identity.generation) != Some(identity.generation) {
            let path = PathBuf::from(path.get());
            let file = file::open(&path, false)?;
            *open = Some(OpenFile { identity, path, file });
        }
        action(open.as_ref().expect("opened above"))
    })
}
