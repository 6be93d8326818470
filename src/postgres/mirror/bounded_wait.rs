//! How long processes wait for the writer, the worker or the file, and when they give up.

use super::cause::CauseKind;
use super::handle::Mirror;
use super::hang::SLOW;
use super::round_waiters::Rounds;
use super::shared::{Attachment, MirrorState};
use crate::postgres::background_process;
use crate::postgres::errorless;
use crate::postgres::errors::Failure;
use crate::postgres::settings;
use crate::postgres::timeout::Timeout;
use crate::postgres::wait_events;
use pgrx::{check_for_interrupts, pg_sys, PgSqlErrorCode};
use std::time::{Duration, Instant};

/// How long a commit waits for the worker to open the file, and for the writer to run, before it gives up.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How long the file may accept nothing before the worker stops waiting for it, in a mode in which no session waits for
/// it.
pub const HANG_DEADLINE: Duration = Duration::from_secs(5);
/// Sleepers look again this often: the process that owed them a broadcast may have died.
const SLEEP_MS: i64 = 1000;
/// How often to look where no broadcast comes.
const POLL_MS: i64 = 20;

/// Sleeps until something has changed, but not for ever: fails if the writer does not run, or when statement_timeout is
/// over. Stops sleeping when dropped.
pub struct BoundedWait {
    /// As long as the writer does not run.
    missing: Option<Timeout>,
    statement_end: Option<i64>,
    /// How far the writer had come when it was last seen to make progress, and how long it may take for more.
    progress: Option<(Timeout, (u64, u64))>,
    /// When this process first slept.
    slept_since: Option<Instant>,
}

impl BoundedWait {
    pub fn new() -> Self {
        BoundedWait { missing: None, statement_end: statement_end(), progress: None, slept_since: None }
    }

    /// Sleeps while this process waits for the writer.
    pub fn sleep(&mut self, mirror: &Mirror, event: u32) -> Result<(), Failure> {
        self.check_writer(mirror)?;
        self.sleep_for_anyone(mirror, event)
    }

    /// Sleeps until one of these rounds has ended.
    pub fn sleep_for(&mut self, mirror: &Mirror, rounds: Rounds, count: u32, event: u32) -> Result<(), Failure> {
        check_for_interrupts!();
        self.check_writer(mirror)?;
        self.note_sleep(mirror);
        mirror.state().sleep_until_ended(rounds, count, self.longest_sleep()?, event);
        Ok(())
    }

    fn check_writer(&mut self, mirror: &Mirror) -> Result<(), Failure> {
        if self.has_waited_in_vain(mirror) {
            return Err(mirror.give_up());
        }
        if mirror.shared.writer.pid() != 0 {
            self.missing = None;
        } else if self.missing.get_or_insert_with(|| Timeout::after(DEADLINE)).is_over() {
            let cause = "The process pg_notary writer does not run; the server's log says why.";
            return Err(mirror.failure(CauseKind::Other, cause));
        }
        Ok(())
    }

    /// Whether the worker has waited long enough. It has to seal, so it must not wait for ever in mode async, or once
    /// the mode no longer makes sessions wait for the file.
    fn has_waited_in_vain(&mut self, mirror: &Mirror) -> bool {
        if !mirror.slot.worker.is_me() {
            return false;
        }
        let (is_followed, done) = {
            let fields = mirror.lock();
            (fields.is_followed, (fields.tail, fields.durable))
        };
        let is_stuck = match &mut self.progress {
            Some((timeout, before)) if *before == done => timeout.is_over(),
            _ => {
                self.progress = Some((Timeout::after(HANG_DEADLINE), done));
                false
            }
        };
        is_stuck && (is_followed || is_released())
    }

    pub fn sleep_for_anyone(&mut self, mirror: &Mirror, event: u32) -> Result<(), Failure> {
        self.sleep_at_most(mirror, SLEEP_MS, event)
    }

    fn sleep_at_most(&mut self, mirror: &Mirror, most_ms: i64, event: u32) -> Result<(), Failure> {
        let sleep_ms = self.longest_sleep()?.min(most_ms);
        self.note_sleep(mirror);
        mirror.state().sleep(sleep_ms, event);
        Ok(())
    }

    fn note_sleep(&mut self, mirror: &Mirror) {
        if self.slept_since.get_or_insert_with(Instant::now).elapsed() > SLOW {
            // It logs that the file does not answer: no other process need be free to do so.
            mirror.shared.launcher.wake();
        }
    }

    fn longest_sleep(&self) -> Result<i64, Failure> {
        let mut sleep_ms = SLEEP_MS;
        if let Some(end) = self.statement_end {
            let left_ms = (end - errorless::clock()) / 1000;
            if left_ms < 0 {
                let message = "canceling statement due to statement timeout";
                return Err(Failure::new(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, message)
                    .detail("Its commit was waiting for the mirror file."));
            }
            sleep_ms = sleep_ms.min(left_ms + 1);
        }
        Ok(sleep_ms)
    }
}

impl Mirror {
    /// Waits until this database has a worker; false if there is none after `limit`.
    pub fn wait_for_worker(&self, limit: Duration) -> Result<bool, Failure> {
        let mut timeout = Timeout::after(limit);
        let mut patience = BoundedWait::new();
        while self.slot.worker.pid() == 0 {
            if timeout.is_over() {
                return Ok(false);
            }
            self.shared.launcher.wake();
            patience.sleep_at_most(self, POLL_MS, wait_events::mirror_attach())?;
        }
        Ok(true)
    }

    /// Goes on without a file that hangs. When the process in the hanging round comes back, its outcome is ignored, and
    /// the file is read again.
    pub(super) fn give_up(&self) -> Failure {
        let mut fields = self.lock();
        let cause = format!(
            "mirror file \"{}\" does not answer: nothing could be written to it for {} seconds",
            fields.path.get(),
            HANG_DEADLINE.as_secs()
        );
        if fields.attachment != Attachment::Failed {
            let keep = fields.durable;
            fields.identity.generation += 1;
            fields.fail(CauseKind::Other, &cause, keep);
            fields.attachment = Attachment::Failed;
        }
        drop(fields);
        self.state().broadcast();
        Failure::new(PgSqlErrorCode::ERRCODE_IO_ERROR, cause)
            .hint("The worker opens the file again when the file system answers. If the file is on a network mount, check the mount.")
    }
}

/// Whether the mode has been changed to one in which no session waits for the file. Only a worker that is stuck asks:
/// otherwise it finishes its work in the mode in which it began.
fn is_released() -> bool {
    background_process::reload_if_asked();
    !settings::mirror_mode().waits_for_file()
}

impl Drop for BoundedWait {
    fn drop(&mut self) {
        if self.slept_since.is_some() {
            MirrorState::stop_sleeping();
        }
    }
}

/// When statement_timeout ends the client's current statement. Postgres stops its own timer before it commits, because
/// nothing of its own takes long then.
fn statement_end() -> Option<i64> {
    // SAFETY: reads settings and state of this process, with no preconditions.
    unsafe {
        let limit = i64::from(pg_sys::StatementTimeout);
        let is_client = pg_sys::MyBackendType == pg_sys::BackendType::B_BACKEND;
        (limit > 0 && is_client).then(|| pg_sys::GetCurrentStatementStartTimestamp() + limit * 1000)
    }
}
