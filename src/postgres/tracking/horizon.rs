//! Tells which row versions are older than the triggers of their table, from the transaction that wrote them.

use crate::ledger::record::Timestamp;
use crate::postgres::entry_clock;
use crate::postgres::tables::RegisteredSnapshot;
use pgrx::pg_sys;

/// When the triggers were made. Transactions are numbered with 64 bits: the 32 bits of a row version repeat after four
/// billion transactions, and an old transaction would look like a new one.
#[derive(Clone, Copy)]
pub struct Horizon {
    /// Row versions of this transaction and later ones have entries.
    pub xid: u64,
    /// Row versions of transactions before this one have none. Those in between may have some: their transactions were
    /// running.
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
    /// Only the row's entries tell.
    Perhaps,
}

impl Horizon {
    pub fn now() -> Horizon {
        // SAFETY: inside a transaction that may write, and so may be given a number.
        let by = unsafe { pg_sys::GetTopFullTransactionId().value };
        let next = next_transaction();
        // SAFETY: the snapshot stays registered until the end of the statement that reads it.
        let oldest_running = unsafe { (*RegisteredSnapshot::latest().as_ptr()).xmin };
        Horizon { xid: next, oldest_running: in_full(oldest_running, next), by, at: entry_clock::now() }
    }

    /// The horizon of a table that was rewritten since. Its row versions do not tell any more when their rows were
    /// written, so the entries of every row are looked for.
    pub fn erased(self) -> Horizon {
        Horizon { xid: i64::MAX as u64, oldest_running: 0, ..self }
    }

    /// `next` is a transaction that had not begun when the row version was read.
    ///
    /// # Safety
    /// `header` points to the header of a row version.
    pub unsafe fn has_entry(&self, header: pg_sys::HeapTupleHeader, next: u64) -> HasEntry {
        // A frozen row version was written by this transaction or an earlier one: its number may have been used several
        // times.
        let xid = in_full((*header).t_choice.t_heap.t_xmin, next);
        if xid < self.oldest_running {
            HasEntry::No
        } else if is_frozen(header) || xid < self.xid {
            HasEntry::Perhaps
        } else {
            HasEntry::Yes
        }
    }
}

/// # Safety
/// `header` points to the header of a row version.
unsafe fn is_frozen(header: pg_sys::HeapTupleHeader) -> bool {
    let frozen = pg_sys::HEAP_XMIN_FROZEN as u16;
    (*header).t_infomask & frozen == frozen
}

/// Whether a row version may have been written by a transaction before `xid`. True of every row version if `xid` comes
/// from another cluster and is higher than any number here, and of every frozen one whose number has been used before.
///
/// # Safety
/// `header` points to the header of a row version.
pub unsafe fn is_from_before(header: pg_sys::HeapTupleHeader, xid: u64) -> bool {
    let by = in_full((*header).t_choice.t_heap.t_xmin, next_transaction());
    by < xid || (is_frozen(header) && by > u64::from(u32::MAX))
}

/// The transaction that begins next.
pub fn next_transaction() -> u64 {
    // SAFETY: reads a counter in shared memory, under its lock.
    unsafe { pg_sys::ReadNextFullTransactionId().value }
}

/// The latest transaction before `next` whose lower 32 bits are `xid`; 0 for the special numbers that belong to no
/// transaction.
fn in_full(xid: pg_sys::TransactionId, next: u64) -> u64 {
    let xid = xid.into_inner();
    if xid < pg_sys::FirstNormalTransactionId.into_inner() {
        return 0;
    }
    // `xid` is the lower half of a number, so it is compared with the lower half of `next`.
    let distance = (next as u32).wrapping_sub(xid);
    next.saturating_sub(distance.into())
}
