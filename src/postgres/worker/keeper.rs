//! The worker's part in the mirror: it holds the file open and locked, repairs it, and appends the ledger's own lines.

use super::pace::Pace;
use super::transactions::{
    holding_sealing_lock, in_sealing, in_transaction, is_timeout, opening_is_locked, sealing_is_locked,
    voiding_is_locked, OPENING_PATIENCE, SEALING_PATIENCE, TABLE_PATIENCE,
};
use crate::postgres::background_process::rounded_up_ms;
use crate::postgres::database_slot::DatabaseSlot;
use crate::postgres::errorless;
use crate::postgres::errors::{or_raise, Failure};
use crate::postgres::lock_limit::LockLimit;
use crate::postgres::log_state::Settled;
use crate::postgres::mirror::attach::{self, Attached, How};
use crate::postgres::mirror::block_lines::SealedBlocks;
use crate::postgres::mirror::cause::CauseKind;
use crate::postgres::mirror::handle::Mirror;
use crate::postgres::mirror::refused::Refused;
use crate::postgres::mirror::remembered;
use crate::postgres::mirror::set_aside::set_aside;
use crate::postgres::mirror::settled_mark::{self, Mark};
use crate::postgres::mirror::shared::{Attachment, Request};
use crate::postgres::mirror::{block_lines, catch_up, prepared, requests, voiding};
use crate::postgres::relation;
use crate::postgres::settings::{self, MirrorMode};
use crate::postgres::tables;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often to check whether transactions that commit without lines have ended: one that fails wakes no process.
const COMMIT_WAIT_MS: i64 = 100;

/// How long sealing goes on before it looks again whether the lock is gone that keeps lines from being voided.
const VOID_AGAIN: Duration = Duration::from_secs(30);

/// Keeps the mirror file of one database.
pub struct Keeper {
    mirror: Mirror,
    attached: Option<Attached>,
    /// A file that was given up while another process hangs in a system call on it. Closing it would hang too.
    hanging: Option<Attached>,
    /// Whether the file was attached in mode async. A change into or out of that mode attaches it anew.
    attached_async: bool,
    /// The place in the file that will be settled next.
    mark: Option<Mark>,
    /// The reload of the settings after which the attached file was last found to be the configured one.
    configured_at: pg_sys::TimestampTz,
    /// The work has waited for locks or for the file. Such a wait consumes the latch that wakes this process.
    has_waited: bool,
    /// The last block whose line is acknowledged: by what is committed, and by what this transaction will commit.
    remembered_block: i64,
    remembering: Option<i64>,
    /// The pace of appending the lines that the file lacks.
    pace: Pace,
    /// When a lock was in the way of voiding, if it was the last time.
    locked_at: Option<Instant>,
}

impl Keeper {
    pub fn new(mirror: Mirror) -> Self {
        Keeper {
            mirror,
            attached: None,
            hanging: None,
            attached_async: false,
            mark: None,
            configured_at: 0,
            has_waited: false,
            remembered_block: 0,
            remembering: None,
            pace: Pace::default(),
            locked_at: None,
        }
    }

    fn slot(&self) -> &'static DatabaseSlot {
        self.mirror.slot
    }

    fn has_new_blocks(&self) -> bool {
        self.slot().has_new_blocks.load(Ordering::SeqCst)
    }

    pub fn has_file(&self) -> bool {
        self.attached.is_some()
    }

    /// Whether the file follows the commits, instead of commits waiting for it.
    pub fn is_async(&self) -> bool {
        self.attached_async
    }

    /// Whether transactions that began in another mode are committing without lines. Until they have ended, nothing may
    /// be sealed: their entries could get into a block without having lines.
    pub fn awaits_commits(&self) -> bool {
        !self.attached_async && self.slot().committing_behind.load(Ordering::SeqCst) > 0
    }

    /// Whether the work has waited since this was last asked. If so, look again before going to sleep.
    pub fn take_has_waited(&mut self) -> bool {
        std::mem::take(&mut self.has_waited)
    }

    /// Attaches the file if there must be one, and lets it go if there is to be none.
    pub fn see_to(&mut self, mode: MirrorMode) -> Result<(), Failure> {
        if self.hanging.is_some() && !self.mirror.lock().writing {
            self.hanging = None;
        }
        if mode == MirrorMode::Off {
            return self.let_go();
        }
        match requests::begin(&self.mirror) {
            Request::None => {}
            request => return self.do_request(request),
        }
        let is_in_mode = self.attached_async == (mode == MirrorMode::Async);
        // In mode async the file is always behind, which does not need a new attachment.
        let is_current = mode == MirrorMode::Async || !self.slot().behind.load(Ordering::SeqCst);
        if self.is_usable() && is_in_mode && is_current && self.is_where_configured() {
            return Ok(());
        }
        self.attach(How::Usual).map_err(|refused| refused.failure)
    }

    fn let_go(&mut self) -> Result<(), Failure> {
        if requests::pending(&self.mirror) != Request::None {
            let code = PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
            requests::answer(&self.mirror, &Err(Failure::new(code, "The mirror is off.").into()));
        }
        if self.note_off_settings() {
            return Ok(());
        }
        // While the file is still there. Lines that are left are found when it is attached again.
        let voided = self.void_aborted();
        // A file that hangs is let go, too.
        let silenced = self.mirror.silence();
        {
            let mut fields = self.mirror.lock();
            (fields.attachment, fields.off_as_of) = (Attachment::Off, settings::read_at());
        }
        self.slot().mirror.broadcast();
        self.release(silenced.is_ok());
        voided
    }

    /// Keeps all processes from writing the file, and closes it.
    fn close(&mut self) -> Result<(), Failure> {
        let silenced = self.mirror.silence();
        self.release(silenced.is_ok());
        silenced
    }

    /// Closes the file, if it answers. To close a file on a network mount is to write what the system still has of it.
    /// So one that does not answer stays open until it does: this process has other work.
    fn release(&mut self, answers: bool) {
        self.mark = None;
        match answers {
            true => (self.attached, self.hanging) = (None, None),
            false => self.hanging = self.attached.take().or(self.hanging.take()),
        }
    }

    /// Notes the settings that the answer follows from; returns whether the file is let go.
    fn note_off_settings(&self) -> bool {
        let mut fields = self.mirror.lock();
        fields.off_as_of = settings::read_at();
        fields.attachment == Attachment::Off
    }

    fn attach(&mut self, how: How) -> Result<(), Refused> {
        self.has_waited = true;
        let mirror = self.mirror;
        let (attached, last_block) = self.in_attaching(Self::close_or_give_up, || {
            let attached = attach::attach(&mirror, how)?;
            Ok((attached, mirror.lock().last_block))
        })?;
        attach::note_remembered(&mirror);
        (self.remembered_block, self.remembering) = (last_block, None);
        self.attached_async = settings::mirror_mode() == MirrorMode::Async;
        let attached = self.attached.insert(attached);
        if !self.attached_async {
            attached.in_file = HashSet::new();
        }
        Ok(())
    }

    /// Does `work` on the ledger that comes before its file is opened. If it fails, nothing can be done for an
    /// administrator either.
    pub fn before_attaching(&mut self, work: impl FnOnce()) -> Result<(), Failure> {
        // It has no file yet, and a process that hangs at the file holds up nothing of this.
        let outcome = self.in_attaching(
            |_| Ok(()),
            || {
                work();
                Ok(String::new())
            },
        );
        if outcome.is_err() && requests::pending(&self.mirror) != Request::None {
            requests::answer(&self.mirror, &outcome);
        }
        outcome.map(|_| ()).map_err(|refused| refused.failure)
    }

    fn close_or_give_up(&mut self) -> Result<(), Refused> {
        self.close().or_else(|failure| attach::give_up(&self.mirror, failure.into()))
    }

    /// As [`in_transaction`], holding the sealing lock, for work that may be refused the file. Only an ERROR aborts the
    /// transaction, and it keeps no more than the failure. `first` comes as soon as the locks are there.
    fn in_attaching<T>(
        &mut self,
        first: impl FnOnce(&mut Self) -> Result<(), Refused>,
        work: impl FnOnce() -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        let refused_for = Cell::new(None);
        // Sessions fail at once where the last attempt has failed.
        let has_failed = self.mirror.lock().attachment == Attachment::Failed;
        let table_patience = if has_failed { SEALING_PATIENCE } else { OPENING_PATIENCE };
        // They do not wait either where they can go on until the lock is there.
        let patience = if self.is_usable() { SEALING_PATIENCE } else { table_patience };
        let outcome = holding_sealing_lock(patience, || {
            lock_log_state(patience);
            let begun = first(self);
            let _patience = LockLimit::set(table_patience);
            begun.and_then(|()| work()).unwrap_or_else(|refused| {
                refused_for.set(Some((refused.kind, refused.has_kept)));
                refused.failure.raise()
            })
        });
        match (outcome, refused_for.get()) {
            (Ok(Some(done)), _) => Ok(done),
            (Ok(None), _) => self.give_up(Refused::new(CauseKind::LockedOut, sealing_is_locked())),
            (Err(failure), Some((kind, has_kept))) => Err(Refused { failure, kind, has_kept }),
            (Err(failure), None) if is_timeout(&failure) => {
                self.give_up(Refused::new(CauseKind::LockedOut, opening_is_locked()))
            }
            // An ERROR has stopped the work, which has noted nothing itself.
            (Err(failure), None) => self.give_up(failure.into()),
        }
    }

    /// What lies before the file keeps it from being opened. It may do so for long, so sessions must not wait for the
    /// file. If there is one that is only to be opened anew, they go on with it.
    fn give_up<T>(&mut self, refused: Refused) -> Result<T, Refused> {
        if self.is_usable() || settings::mirror_mode() == MirrorMode::Off {
            return Err(refused);
        }
        let refused = self.close().err().map_or(refused, Refused::from);
        attach::give_up(&self.mirror, refused)
    }

    /// Whether sessions can append to the file.
    fn is_usable(&self) -> bool {
        self.attached.is_some() && self.mirror.is_attached()
    }

    /// Does what an administrator has asked for, and answers.
    fn do_request(&mut self, request: Request) -> Result<(), Failure> {
        let mirror = self.mirror;
        let outcome = match request {
            Request::None => return Ok(()),
            Request::CatchUp => self.attach(How::CatchUp).map(|()| format!("{} bytes", mirror.lock().durable)),
            Request::Restart => self.in_attaching(Self::close_or_give_up, || set_aside(&mirror)).and_then(|kept| {
                self.attach(How::Usual).map_err(|refused| match &kept {
                    Some(kept) => refused.having_kept(kept),
                    None => refused,
                })?;
                Ok(kept.map_or_else(String::new, |kept| kept.display().to_string()))
            }),
        };
        requests::answer(&mirror, &outcome);
        outcome.map(|_| ()).map_err(|refused| refused.failure)
    }

    /// Whether the attached file is still the one the settings name.
    fn is_where_configured(&mut self) -> bool {
        let reloaded_at = settings::read_at();
        if self.configured_at == reloaded_at {
            return true;
        }
        let attached = self.mirror.lock().path.get();
        let configured = in_transaction(remembered::own_file);
        let same = configured.is_ok_and(|configured| configured.to_string_lossy() == attached);
        if same {
            self.configured_at = reloaded_at;
        }
        same
    }

    pub fn void_aborted(&mut self) -> Result<(), Failure> {
        if self.attached.is_none() || !self.has_something_to_void() {
            return Ok(());
        }
        self.has_waited = true;
        let mirror = self.mirror;
        // Whether an entry is sealed is looked up in all partitions, any of which a session may have locked for long.
        let outcome = in_transaction(|| {
            let _patience = LockLimit::set(TABLE_PATIENCE);
            or_raise(voiding::void_aborted(&mirror))
        });
        self.locked_at = outcome.as_ref().is_err_and(is_timeout).then(Instant::now);
        let voided = outcome.map_err(|failure| if is_timeout(&failure) { voiding_is_locked() } else { failure })?;
        if let Some(attached) = &mut self.attached {
            // Their ids may be used again.
            voided.iter().for_each(|id| {
                attached.in_file.remove(id);
            });
        }
        Ok(())
    }

    /// As [`Keeper::void_aborted`], between batches of sealing, which a lock does not hold up.
    pub fn void_between_batches(&mut self) -> Result<(), Failure> {
        match self.locked_at.is_some_and(|at| at.elapsed() < VOID_AGAIN) {
            true => Ok(()),
            false => self.void_aborted(),
        }
    }

    fn has_something_to_void(&self) -> bool {
        let fields = self.mirror.lock();
        !fields.void.is_empty()
    }

    /// Writes the lines of committed blocks, and notes how far the file is acknowledged. The blocks in `sealed` need
    /// not be read.
    pub fn append_block_lines(&mut self, sealed: Option<&SealedBlocks>) -> Result<(), Failure> {
        if self.attached.is_none() || !(self.is_unremembered() || self.has_new_blocks()) {
            return Ok(());
        }
        self.has_waited = true;
        // If another process keeps sealing, this waits until the next time.
        if in_sealing(|| self.append_in_sealing(sealed))?.is_some() {
            self.note_remembered();
        }
        Ok(())
    }

    /// As [`Keeper::append_block_lines`], at the start of a transaction that may go on to seal. Fails with what is
    /// wrong with the file.
    pub fn append_in_sealing(&mut self, sealed: Option<&SealedBlocks>) {
        self.remembering = None;
        // The blocks may hold entries without lines. Attaching the file anew appends all that it lacks. Under settings
        // that have changed since the file was attached, nothing would be appended, and nothing may be remembered.
        let is_kept = self.attached.is_some() && !self.attached_async && settings::mirror_mode().waits_for_file();
        if !is_kept || self.mirror.slot.is_behind() {
            return;
        }
        let new_blocks = NewBlocks::take(self.slot());
        or_raise(block_lines::append_missing(sealed));
        new_blocks.are_appended();
        if let (Some(mark), Some(sealed)) = (&mut self.mark, sealed) {
            mark.note_sealed(&sealed.entry_ids);
        }
        if self.is_unremembered() {
            self.remembering = Some(self.mirror.lock().last_block);
            remembered::remember(&self.mirror, settle_more(&mut self.mark, &self.mirror), None);
            // SAFETY: inside a transaction. Makes the change visible to sealing, which changes the same row.
            unsafe { pg_sys::CommandCounterIncrement() };
        }
    }

    /// Whether another process has sealed, and so appended lines of blocks that the database does not remember yet.
    pub fn is_unremembered(&self) -> bool {
        let is_kept = self.attached.is_some() && !self.attached_async;
        is_kept && self.mirror.lock().last_block != self.remembered_block
    }

    /// The transaction has committed.
    pub fn note_remembered(&mut self) {
        self.remembered_block = self.remembering.take().unwrap_or(self.remembered_block);
    }

    /// Appends lines for what is committed and has none yet (mode async).
    pub fn append_owed(&mut self) -> Result<(), Failure> {
        let slot = self.slot();
        let Some(attached) = self.attached.as_mut() else {
            // Nothing is put off any more.
            self.pace = Pace::default();
            return Ok(());
        };
        if self.pace.put_off_if_resting() {
            return Ok(());
        }
        if !slot.behind.load(Ordering::SeqCst) && !slot.has_new_blocks.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.has_waited = true;
        let (mirror, mark, pace) = (self.mirror, &mut self.mark, &mut self.pace);
        let outcome = in_sealing(|| {
            // While this process waited, the ledger may have become another one, which has another file.
            if !mirror.is_attached() {
                return;
            }
            pace.begin(slot);
            // Before anything is read, and under the sealing lock, so that no other process seals and takes the file
            // for complete.
            slot.behind.store(false, Ordering::SeqCst);
            slot.has_new_blocks.store(false, Ordering::SeqCst);
            let lag = slot.lag.seen(errorless::clock());
            or_raise(catch_up::void_first(&mirror, &mut attached.in_file));
            // Prepared transactions first, for the reason that attach() gives.
            let noted = || prepared::noted(&mirror).iter().map(|lines| lines.xid).collect();
            or_raise(catch_up::append_prepared(&mirror, &HashMap::new(), &mut attached.in_file, noted));
            or_raise(catch_up::append_missing(&mirror, &mut attached.in_file));
            remembered::remember(&mirror, settle_more(mark, &mirror), None);
            slot.lag.take_off(lag);
        });
        if outcome.is_err() {
            slot.behind.store(true, Ordering::SeqCst);
            slot.has_new_blocks.store(true, Ordering::SeqCst);
        }
        self.pace.end(slot);
        outcome.map(|_| ())
    }

    /// Milliseconds until there is something to do for which no process wakes the worker.
    pub fn until_next(&self) -> Option<i64> {
        if self.awaits_commits() {
            return Some(COMMIT_WAIT_MS);
        }
        let rest = self.pace.until_rested().filter(|_| self.attached_async)?;
        Some(rounded_up_ms(rest))
    }
}

/// What is done to the file is noted in this table at the end. By then nobody must be in the way: the file may have
/// another name, and sessions may be using it.
fn lock_log_state(patience: Duration) {
    let _patience = LockLimit::set(patience);
    relation::lock(tables::oid_of("log_state"), pg_sys::RowExclusiveLock);
}

/// The blocks that this process has been told of. Dropped, also by an error, before their lines are appended, it notes
/// them again.
struct NewBlocks(&'static DatabaseSlot);

impl NewBlocks {
    /// To be called before the blocks are read: another process may commit some meanwhile.
    fn take(slot: &'static DatabaseSlot) -> NewBlocks {
        slot.has_new_blocks.store(false, Ordering::SeqCst);
        NewBlocks(slot)
    }

    fn are_appended(self) {
        std::mem::forget(self);
    }
}

impl Drop for NewBlocks {
    fn drop(&mut self) {
        self.0.has_new_blocks.store(true, Ordering::SeqCst);
    }
}

/// Moves the settled place past the mark that was set. If nothing is open at all, moves it past a new mark, too.
fn settle_more(mark: &mut Option<Mark>, mirror: &Mirror) -> Option<Settled> {
    let settled = settled_mark::advance(mark, mirror)?;
    settled_mark::advance(mark, mirror).or(Some(settled))
}
