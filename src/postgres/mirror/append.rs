//! Appending lines to the file. Sessions copy their lines into the ring in shared memory. One of them, or the writer,
//! then writes everything in the ring to the file and syncs it.
//!
//! Postgres writes its WAL in the same way: copy under a short lock, then make your own part durable together with that
//! of others, or wait until another process has done so. The wait can be cancelled, and shows as a wait event.

use super::bounded_wait::{BoundedWait, DEADLINE};
use super::cause::{Cause, CauseKind, NO_WORKER};
use super::handle::Mirror;
use super::line_buffer::LineBuffer;
use super::round_leader::{self, LedRound};
use super::shared::{Attachment, LockedMirror, MirrorState, RING_BYTES};
use super::under_way::{self, Begun};
use crate::ledger::file_ranges::FileRange;
use crate::postgres::errors::Failure;
use crate::postgres::settings::{self, MirrorMode};
use crate::postgres::timeout::Timeout;
use crate::postgres::transaction;
use crate::postgres::wait_events;
use pgrx::check_for_interrupts;
use std::time::Duration;

/// A larger append goes through the ring in pieces of this size, so that it leaves room for lines of other sessions.
const PIECE_BYTES: usize = RING_BYTES / 4;
/// How long the worker lets running appends finish before it opens the file anew.
const FINISH_DEADLINE: Duration = Duration::from_secs(5);

const SWITCHED_OFF: &str = "The mirror has been switched off.";
const CLOSED: &str = "The worker has closed the file, and opens it again by itself.";

/// How far lines must be before an append returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Handed to the operating system.
    Written,
    /// On disk.
    Synced,
}

/// Where an append stands.
struct Position {
    end: u64,
    /// The mirror's failure count up to which the lines are known to have survived.
    failures: u64,
    /// Some of the lines are in the ring.
    is_begun: bool,
    /// The ledger itself appends these lines (block lines, void lines, lines that the file lacked), not a transaction
    /// its own.
    is_own: bool,
    goal: Goal,
    /// All lines enter the ring at once, so the round that takes them can sync them. A larger append asks for a sync
    /// only at its end.
    is_small: bool,
    /// The round that takes the last of the lines.
    round: u64,
}

impl Position {
    /// The end of all whole lines that are in the ring.
    fn now(fields: &LockedMirror<'_>, goal: Goal) -> Position {
        Position {
            // A line that is not whole yet may still be cut off.
            end: if fields.unfinished == 0 { fields.end() } else { fields.unfinished },
            failures: fields.failures,
            is_begun: false,
            is_own: false,
            goal,
            is_small: false,
            round: fields.rounds + 1,
        }
    }

    /// Why the lines may be lost, if the file has failed since. After one failure it is known what was kept. After more
    /// it is not, and failing is the safe answer: the transaction aborts, and its lines are voided.
    fn lost(&mut self, fields: &LockedMirror<'_>) -> Option<Cause> {
        if fields.failures == self.failures {
            return None;
        }
        if fields.failures != self.failures + 1 || self.end > fields.kept_at_failure {
            return Some(fields.cause);
        }
        self.failures = fields.failures;
        None
    }

    fn has_reached_goal(&self, fields: &LockedMirror<'_>) -> bool {
        match self.goal {
            Goal::Written => fields.written().max(fields.durable) >= self.end,
            Goal::Synced => fields.durable >= self.end,
        }
    }
}

impl Mirror {
    /// Appends the lines of the committing transaction, and returns when they have reached `goal`. The transaction
    /// learns where its lines stand before anything can fail: if it is cancelled while it waits, it must know what to
    /// void. Returns false, and appends nothing, if there is to be no file.
    pub fn append(&self, lines: &mut LineBuffer, goal: Goal) -> Result<bool, Failure> {
        self.append_as(lines, goal, false).map(|end| end.is_some())
    }

    /// Appends, and returns where the lines end; `None` if there is to be no file.
    fn append_as(&self, lines: &mut LineBuffer, goal: Goal, is_own: bool) -> Result<Option<u64>, Failure> {
        let mut at = match self.wait_until_attached(goal)? {
            Some(at) => at,
            None => return Ok(None),
        };
        at.is_small = lines.len() <= PIECE_BYTES as u64;
        at.is_own = is_own;
        let outcome = self.append_at(&mut at, lines);
        if outcome.is_err() {
            self.abandon();
        }
        match outcome {
            // The mode was set to off while this append waited for room. None of its lines is in the ring.
            Err(_) if !at.is_begun && self.lock().attachment == Attachment::Off => Ok(None),
            outcome => outcome.map(|()| Some(at.end)),
        }
    }

    fn append_at(&self, at: &mut Position, lines: &mut LineBuffer) -> Result<(), Failure> {
        let mut pieces = lines.pieces();
        while let Some(piece) = pieces.next() {
            self.enqueue(piece, at)?;
        }
        self.wait_until(at)
    }

    /// Appends lines of the ledger itself, and waits until they are on disk. The caller is the worker or a session that
    /// seals.
    pub fn append_now(&self, lines: LineBuffer) -> Result<(), Failure> {
        if lines.is_empty() {
            return Ok(());
        }
        self.append_own(lines).map(|_| ())
    }

    /// As [`Mirror::append_now`]; returns where the lines end, or `None`, and appends nothing, if there is to be no
    /// file.
    pub fn append_own(&self, mut lines: LineBuffer) -> Result<Option<u64>, Failure> {
        let outcome = self.append_as(&mut lines, Goal::Synced, true);
        lines.close_spill();
        outcome
    }

    /// Waits until the worker has the file open. If the worker's last attempt failed, asks for another one. Returns
    /// false if there is to be no file.
    pub fn wait_for_file(&self) -> Result<bool, Failure> {
        self.wait_until_attached(Goal::Written).map(|at| at.is_some())
    }

    /// As [`Mirror::wait_for_file`]; returns the end of the file and of what waits to be written to it.
    fn wait_until_attached(&self, goal: Goal) -> Result<Option<Position>, Failure> {
        // Both may raise an error, which must not happen once a round has begun.
        wait_events::register();
        round_leader::prepare();
        let mut timeout = Timeout::after(DEADLINE);
        let mut patience = BoundedWait::new();
        let mut attempts = None;
        loop {
            let (attachment, ended, cause) = {
                let fields = self.lock();
                if fields.attachment == Attachment::Off && !worker_is_to_attach(&fields) {
                    return Ok(None);
                }
                if self.may_append(&fields) {
                    return Ok(Some(Position::now(&fields, goal)));
                }
                (fields.attachment, fields.attempts, fields.cause)
            };
            let first_seen = *attempts.get_or_insert(ended);
            if attachment == Attachment::Failed && ended > first_seen {
                return Err(self.failure_by(&cause));
            }
            // The worker cannot wait for itself. A session that seals cannot wait for the worker, which needs the
            // session's lock.
            let in_vain = self.slot.worker.is_me() || transaction::holds_sealing_lock();
            if in_vain && attachment == Attachment::Failed {
                return Err(self.failure_by(&cause));
            }
            if in_vain || timeout.is_over() {
                let (kind, cause) = match attachment {
                    Attachment::Repairing => (CauseKind::Passing, "The worker is still bringing the file up to date."),
                    _ if self.slot.worker.pid() == 0 => (CauseKind::NoWorker, NO_WORKER),
                    _ => (CauseKind::Passing, "The worker is still looking at the file."),
                };
                return Err(self.failure(kind, cause));
            }
            self.slot.worker.wake();
            self.shared.launcher.wake();
            patience.sleep_for_anyone(self, wait_events::mirror_attach())?;
        }
    }

    fn may_append(&self, fields: &LockedMirror<'_>) -> bool {
        match fields.attachment {
            Attachment::Attached => !fields.must_be_read,
            Attachment::Repairing => self.slot.worker.is_me(),
            Attachment::Detached | Attachment::Failed | Attachment::Off => false,
        }
    }

    /// Copies whole lines into the ring, in pieces that leave room for other sessions between them.
    fn enqueue(&self, lines: &[u8], at: &mut Position) -> Result<(), Failure> {
        let mut rest = lines;
        while !rest.is_empty() {
            check_for_interrupts!();
            let length = match rest[..rest.len().min(PIECE_BYTES)].iter().rposition(|byte| *byte == b'\n') {
                Some(newline) => newline + 1,
                None => rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |newline| newline + 1),
            };
            let (piece, others) = rest.split_at(length);
            if length <= PIECE_BYTES {
                self.wait_for_room(length, at)?.put(self, piece, at);
            } else {
                self.stream(piece, at)?;
            }
            rest = others;
        }
        Ok(())
    }

    /// Puts one line through the ring that is longer than a piece. Other sessions wait meanwhile, or their lines would
    /// end up inside this one.
    fn stream(&self, line: &[u8], at: &mut Position) -> Result<(), Failure> {
        let mut chunks = line.chunks(PIECE_BYTES);
        // Shared memory holds the place of only one long line, so the previous one must have been written.
        let mut room = self.wait_in_line(at, |fields| {
            fields.unfinished == 0 && fields.written() >= fields.long_line_to && fields.room() >= PIECE_BYTES
        })?;
        let from = room.fields.end();
        under_way::begin_line(&mut room.fields, from, line.len() as u64);
        room.put(self, chunks.next().unwrap_or_default(), at);
        for chunk in chunks {
            self.wait_for_own_room(chunk.len(), at)?.put(self, chunk, at);
        }
        self.end_line();
        Ok(())
    }

    /// Waits until `bytes` fit into the ring and no long line of another process is in the way.
    fn wait_for_room(&self, bytes: usize, at: &mut Position) -> Result<Room, Failure> {
        self.wait_in_line(at, |fields| fields.unfinished == 0 && fields.room() >= bytes)
    }

    fn wait_for_own_room(&self, bytes: usize, at: &mut Position) -> Result<Room, Failure> {
        self.wait_in_line(at, |fields| fields.room() >= bytes)
    }

    fn wait_in_line(&self, at: &mut Position, is_free: impl Fn(&LockedMirror<'_>) -> bool) -> Result<Room, Failure> {
        let mut patience = BoundedWait::new();
        loop {
            let fields = self.lock();
            let hindrance = match fields.failures == at.failures {
                true => at.is_begun.then(|| self.hindrance(&fields)).flatten(),
                false => Some(fields.cause),
            };
            if let Some(cause) = hindrance {
                drop(fields);
                return Err(self.failure_by(&cause));
            }
            // The worker has begun to examine the file since, so no append may begin.
            if !at.is_begun && !self.may_append(&fields) {
                drop(fields);
                MirrorState::stop_sleeping();
                match self.wait_until_attached(at.goal)? {
                    Some(now) => *at = Position { is_small: at.is_small, is_own: at.is_own, ..now },
                    None => return Err(self.failure(CauseKind::Passing, SWITCHED_OFF)),
                }
                continue;
            }
            if is_free(&fields) {
                drop(patience);
                return Ok(Room { fields });
            }
            drop(fields);
            patience.sleep(self, wait_events::mirror_write())?;
        }
    }

    /// Waits until the lines up to `at` have reached their goal.
    fn wait_until(&self, at: &mut Position) -> Result<(), Failure> {
        let event = match at.goal {
            Goal::Written => wait_events::mirror_write(),
            Goal::Synced => wait_events::mirror_sync(),
        };
        let mut patience = BoundedWait::new();
        loop {
            let mut fields = self.lock();
            let lost = at.lost(&fields);
            if lost.is_none() && at.has_reached_goal(&fields) {
                // No commit relies on what others have put into the ring.
                if at.goal == Goal::Written && at.is_begun {
                    fields.promised = fields.promised.max(at.end);
                }
                self.end_append(fields);
                return Ok(());
            }
            if let Some(cause) = lost.or_else(|| self.hindrance(&fields)) {
                drop(fields);
                return Err(self.failure_by(&cause));
            }
            if at.goal == Goal::Synced {
                fields.sync_wanted = fields.sync_wanted.max(at.end);
            }
            let led = LedRound::begin(self, &mut fields);
            if !fields.writing {
                self.shared.writer.wake();
            }
            let (rounds, count) = (fields.rounds_for(at.round), self.state().ended.count());
            drop(fields);
            if let Some(led) = led {
                led.work(self);
                continue;
            }
            patience.sleep_for(self, rounds, count, event)?;
        }
    }

    /// Why lines in the ring cannot reach their goal any more, if so. No process begins a round on a file that is not
    /// open, and once it is opened again, all waiting appends fail. The worker must not wait for that, as it opens the
    /// file itself. Nor may a session that seals, because the worker takes its lock first. Neither may wait even for
    /// the end of a running round, which may hang.
    fn hindrance(&self, fields: &LockedMirror<'_>) -> Option<Cause> {
        let opens_it = || self.slot.worker.is_me() || transaction::holds_sealing_lock();
        match fields.attachment {
            Attachment::Attached | Attachment::Repairing => None,
            Attachment::Detached if fields.writing && !opens_it() => None,
            Attachment::Detached => Some(Cause::new(CauseKind::Passing, CLOSED)),
            Attachment::Failed => Some(fields.cause),
            Attachment::Off => Some(Cause::new(CauseKind::Passing, SWITCHED_OFF)),
        }
    }

    /// Waits until everything that is in the ring now is on disk or discarded; returns the offset of its end. Fails if
    /// it cannot be written until this process or another has opened the file again.
    pub fn flush(&self) -> Result<u64, Failure> {
        wait_events::register();
        let mut at = Position { is_begun: true, ..Position::now(&self.lock(), Goal::Synced) };
        self.wait_until(&mut at)?;
        Ok(at.end)
    }

    /// Keeps all processes from writing the file. Running appends finish first, if that does not take long. Fails if a
    /// round does not end, because its system call hangs.
    pub fn silence(&self) -> Result<(), Failure> {
        self.let_finish();
        let is_writing = {
            let mut fields = self.lock();
            if fields.attachment != Attachment::Failed {
                fields.attachment = Attachment::Detached;
            }
            fields.writing
        };
        match is_writing {
            true => Err(self.give_up()),
            false => Ok(()),
        }
    }

    /// Lets running appends finish. A worker whose predecessor was terminated waits only for the round that is under
    /// way.
    fn let_finish(&self) {
        let was_attached = {
            let mut fields = self.lock();
            let was_attached = fields.attachment == Attachment::Attached;
            if was_attached {
                fields.attachment = Attachment::Repairing;
            }
            was_attached
        };
        let mut timeout = Timeout::after(FINISH_DEADLINE);
        loop {
            {
                let mut fields = self.lock();
                let is_done = match was_attached {
                    true => !fields.has_work() && !fields.writing && fields.appending == 0,
                    false => !fields.writing,
                };
                let is_taken = was_attached && fields.attachment != Attachment::Repairing;
                if is_done || is_taken || timeout.is_over() {
                    if was_attached {
                        // Under the same lock, so that no append begins in between.
                        fields.attachment = Attachment::Detached;
                    }
                    break;
                }
            }
            self.state().sleep(100, wait_events::mirror_write());
        }
        MirrorState::stop_sleeping();
    }
}

/// Whether the mode has been changed from off and the worker has not noticed yet: its settings are older than those of
/// this process.
fn worker_is_to_attach(fields: &LockedMirror<'_>) -> bool {
    settings::mirror_mode() != MirrorMode::Off && fields.off_as_of < settings::read_at()
}

/// The lock, held while there is room in the ring.
struct Room {
    fields: LockedMirror<'static>,
}

impl Room {
    /// Copies the lines into the ring, and makes sure that a process writes them.
    fn put(mut self, mirror: &Mirror, lines: &[u8], at: &mut Position) {
        let from = self.fields.end();
        at.end = from + lines.len() as u64;
        at.round = self.fields.rounds + 1;
        if at.goal == Goal::Synced && at.is_small {
            self.fields.sync_wanted = self.fields.sync_wanted.max(at.end);
        }
        if !std::mem::replace(&mut at.is_begun, true) {
            let begun = Begun { from, failures: at.failures, is_own: at.is_own };
            under_way::begin(mirror.state(), &mut self.fields, begun);
        }
        transaction::note_lines(FileRange { from, to: at.end });
        if self.fields.is_followed && !mirror.slot.worker.is_me() {
            // A line that comes in pieces is noted from its beginning: nothing can be read from its middle on.
            let from = if self.fields.unfinished == 0 { from } else { self.fields.unfinished };
            self.fields.note_others(from, at.end);
        }
        mirror.state().put(&mut self.fields, lines);
        let led = at.is_small.then(|| LedRound::begin(mirror, &mut self.fields)).flatten();
        // The process that does the current round looks for more work when it ends.
        let is_cared_for = self.fields.writing;
        drop(self.fields);
        match led {
            Some(led) => led.work(mirror),
            None if is_cared_for => {}
            None => mirror.shared.writer.wake(),
        }
    }
}
