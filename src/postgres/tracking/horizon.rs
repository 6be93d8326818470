//! Which row versions were there before the triggers of their table: told by the transaction that wrote them.

use crate::ledger::record::Timestamp;
use crate::postgres::entry_clock;
use crate::postgres::tables::RegisteredSnapshot;
use pgrx::pg_sys;

/// When the triggers were made. Transactions are numbered in full, so that four billion later none looks like another.
#[derive(Clone, Copy)]
pub struct Horizon {
    /// Row versions of transactions from this one on have entries.
    pub xid: u64,
    /// Those of transactions before this one have none. In between, they may have some: it was running.
    pub oldest_running: u64,
    /// The transaction that made the triggers.
    pub by: u64,
    pub at: Timestamp,
}

/// Whether an entry is about a row version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HasEntry {
    No,
    Yes,
    /// Its row's entries tell.
    Perhaps,
}

impl Horizon {
    pub fn now() -> Horizon {
        // SAFETY: inside a transaction that may write.
        let by = unsafe { pg_sys::GetTopFullTransactionId().value };
        let next = next_transaction();
        // SAFETY: the snapshot is registered while it is looked at.
        let oldest_running = unsafe { (*RegisteredSnapshot::latest().as_ptr()).xmin };
        Horizon { xid: next, oldest_running: in_full(oldest_running, next), by, at: entry_clock::now() }
    }

    /// Of a table that was written anew since, whose row versions do not tell any more when their rows were written.
    pub fn erased(self) -> Horizon {
        Horizon { xid: i64::MAX as u64, oldest_running: 0, ..self }
    }

    /// `next` is a transaction that had not begun when the row version was looked for.
    ///
    /// # Safety
    /// The header of a row version.
    pub unsafe fn has_entry(&self, header: pg_sys::HeapTupleHeader, next: u64) -> HasEntry {
        let frozen = pg_sys::HEAP_XMIN_FROZEN as u16;
        let is_frozen = (*header).t_infomask & frozen == frozen;
        // Of a row version that is frozen, this is the last transaction that can have written it.
        let xid = in_full((*header).t_choice.t_heap.t_xmin, next);
        if xid < self.oldest_running {
            HasEntry::No
        } else if is_frozen || xid < self.xid {
            HasEntry::Perhaps
        } else {
            HasEntry::Yes
        }
    }
}

/// Whether a row version may have been written by a transaction before this one. So it is, of all, where the number is not of this
/// cluster.
///
/// # Safety
/// The header of a row version.
pub unsafe fn is_from_before(header: pg_sys::HeapTupleHeader, xid: u64) -> bool {
    in_full((*header).t_choice.t_heap.t_xmin, next_transaction()) < xid
}

/// The transaction that begins next.
pub fn next_transaction() -> u64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::ReadNextFullTransactionId().value }
}

/// The last transaction before `next` whose number ends like this; 0 for the numbers that stand for none.
fn in_full(xid: pg_sys::TransactionId, next: u64) -> u64 {
    let xid = xid.into_inner();
    if xid < pg_sys::FirstNormalTransactionId.into_inner() {
        return 0;
    }
    // The lower half is the number.
    let distance = (next as u32).wrapping_sub(xid);
    next.saturating_sub(distance.into())
}
