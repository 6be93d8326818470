//! Waiting for transactions that have aborted and whose lines are still in the file.
//!
//! Postgres says that a transaction has aborted only when others see it already. Before that they find its rows dead, and use its
//! ids, while nobody knows that its lines are to be voided. But it counts among the owners of lines then: so whoever may use an id
//! again looks first for an owner that runs no more and has not committed, and then for lines to be voided.

use super::handle::Mirror;
use super::patience::{Patience, DEADLINE};
use super::prepared;
use super::repeats::Repeats;
use crate::postgres::errorless::own_xid;
use crate::postgres::errors::Failure;
use crate::postgres::tables::RegisteredSnapshot;
use crate::postgres::wait_events;
use pgrx::pg_sys;
use std::time::{Duration, Instant};

/// How long the worker waits for a transaction that aborts: that takes it no time, unless it was stopped.
const LEAVING_DEADLINE: Duration = Duration::from_secs(5);

impl Mirror {
    /// Waits until the lines of transactions that have aborted are voided, if some of them may hold ids of this one: an id may
    /// be used again, but the file must not hold it twice.
    pub fn wait_until_voided(&self, repeats: Repeats) -> Result<(), Failure> {
        if !repeats.may_be(self.slot) || !self.wait_for_file()? {
            return Ok(());
        }
        // One that was prepared and has just been rolled back, too: its rows are gone before the worker knows.
        prepared::settle_decided(self);
        self.wait_while(DEADLINE, || {
            // In this order: whoever says what it leaves does so before it is no owner any more.
            self.is_anyone_leaving() || (repeats.may_be_left(self.slot) && self.lock().has_aborted())
        })
    }

    /// Waits until all transactions that have aborted have said which lines they leave.
    pub fn wait_for_leaving(&self) -> Result<(), Failure> {
        self.wait_while(LEAVING_DEADLINE, || self.is_anyone_leaving())
    }

    fn wait_while(&self, limit: Duration, is_so: impl Fn() -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        let mut patience = Patience::new();
        while is_so() {
            if Instant::now() > deadline {
                return Err(self.failure("The lines of an aborted transaction have not been voided."));
            }
            self.slot.worker.wake();
            patience.sleep_for_anyone(self, wait_events::mirror_sync())?;
        }
        Ok(())
    }

    /// Whether a transaction has aborted, so that nobody sees its rows, and has not said yet that its lines are to be voided.
    fn is_anyone_leaving(&self) -> bool {
        let owners = &self.slot.mirror.owners;
        let own = own_xid();
        let named: Vec<u32> = owners.named().filter(|xid| *xid != own).collect();
        // What those do that have no name is not known.
        owners.has_unnamed() || (!named.is_empty() && is_one_aborted(&named))
    }
}

/// Whether one of these transactions, which ran a moment ago, runs no more and has not committed.
fn is_one_aborted(xids: &[u32]) -> bool {
    let snapshot = RegisteredSnapshot::latest();
    let is_aborted = |xid: &u32| {
        let xid = pg_sys::TransactionId::from_inner(*xid);
        // SAFETY: look-ups of a transaction that is so young that its fate is known; the snapshot is registered.
        unsafe { !pg_sys::XidInMVCCSnapshot(xid, snapshot.as_ptr()) && !pg_sys::TransactionIdDidCommit(xid) }
    };
    xids.iter().any(is_aborted)
}
