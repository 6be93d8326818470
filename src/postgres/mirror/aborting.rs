//! Waiting for transactions that have aborted and have not said yet which of their lines are to be voided.
//!
//! Other sessions see an abort before our abort callback runs; until it has run, no process knows that the
//! transaction's lines must be voided. Yet other sessions can already reuse its ids. Until then the transaction stays
//! among the owners of lines. So before an id is reused, a session looks first for an owner that no longer runs and has
//! not committed, and then for lines that are to be voided.

use super::bounded_wait::{BoundedWait, DEADLINE};
use super::cause::CauseKind;
use super::handle::Mirror;
use super::id_reuse::IdReuse;
use super::prepared;
use crate::postgres::errorless::own_xid;
use crate::postgres::errors::Failure;
use crate::postgres::tables::RegisteredSnapshot;
use crate::postgres::timeout::Timeout;
use crate::postgres::wait_events;
use pgrx::pg_sys;
use std::time::Duration;

/// How long the worker waits for an aborting transaction. That takes no time, unless the session was stopped.
const LEAVING_DEADLINE: Duration = Duration::from_secs(5);

impl Mirror {
    /// Waits until the lines of aborted transactions are voided, if they may hold ids of this one: an id may be reused,
    /// but the file must not hold it twice.
    pub fn wait_until_voided(&self, repeats: IdReuse) -> Result<(), Failure> {
        if !repeats.may_be(self.slot) || !self.wait_for_file()? {
            return Ok(());
        }
        // Also a prepared transaction that was just rolled back: its rows are gone before the worker knows.
        prepared::settle_decided(self);
        // These ids are this transaction's by now, so no other that aborts from here on has had one. Where the lines of
        // all end that may have had one; `None` while one of these may still say which lines it leaves, which it does
        // before it ceases to be an owner.
        let mut end = None;
        self.wait_while(DEADLINE, || {
            if end.is_none() && !self.is_anyone_leaving() {
                end = Some(self.lock().end());
            }
            end.is_none_or(|end| repeats.may_be_left(self.slot) && self.lock().has_aborted_before(end))
        })
    }

    /// Waits until all transactions that have aborted have said which lines they leave.
    pub fn wait_for_leaving(&self) -> Result<(), Failure> {
        self.wait_while(LEAVING_DEADLINE, || self.is_anyone_leaving())
    }

    fn wait_while(&self, limit: Duration, mut is_so: impl FnMut() -> bool) -> Result<(), Failure> {
        let mut timeout = Timeout::after(limit);
        let mut patience = BoundedWait::new();
        while is_so() {
            if timeout.is_over() {
                let cause = "The lines of an aborted transaction have not been voided.";
                return Err(self.failure(CauseKind::Passing, cause));
            }
            self.slot.worker.wake();
            patience.sleep_for_anyone(self, wait_events::mirror_sync())?;
        }
        Ok(())
    }

    /// Whether a transaction has aborted, so that its rows are gone, and has not said yet which lines are to be voided.
    fn is_anyone_leaving(&self) -> bool {
        let owners = &self.slot.mirror.owners;
        let own = own_xid();
        let named: Vec<u32> = owners.named().filter(|xid| *xid != own).collect();
        // Nothing is known of owners that are counted but not named.
        owners.has_unnamed() || (!named.is_empty() && is_one_aborted(&named))
    }
}

/// Whether one of these transactions, which ran a moment ago, has ended without committing.
fn is_one_aborted(xids: &[u32]) -> bool {
    let snapshot = RegisteredSnapshot::latest();
    let is_aborted = |xid: &u32| {
        let xid = pg_sys::TransactionId::from_inner(*xid);
        // SAFETY: the snapshot is registered. The transactions ran a moment ago, so their commit status is still there.
        unsafe { !pg_sys::XidInMVCCSnapshot(xid, snapshot.as_ptr()) && !pg_sys::TransactionIdDidCommit(xid) }
    };
    xids.iter().any(is_aborted)
}
