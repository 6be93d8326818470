//! Lines of prepared transactions: they are in the file, and it is not decided yet whether they count.
//!
//! No transaction callback runs when a prepared transaction is decided: COMMIT PREPARED and ROLLBACK PREPARED are
//! commands of some other session. So PREPARE notes in shared memory where the lines stand, the deciding command wakes
//! the worker, and the worker looks up which transactions have been decided. The process that applies a subscription
//! decides without a command: it wakes the worker after each transaction that may have been one of that kind. After a
//! restart, the rows tell which lines belong to which transaction.

use super::cause::CauseKind;
use super::handle::Mirror;
use super::shared::{PreparedLines, MAX_PREPARED};
use crate::ledger::file_ranges::FileRange;
use crate::postgres::database;
use crate::postgres::errorless::{self, own_xid};
use crate::postgres::errors::Failure;
use crate::postgres::spi;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::collections::HashSet;
use std::sync::atomic::Ordering;

/// Notes where the lines of the transaction that is being prepared stand.
pub fn note(mirror: &Mirror, range: FileRange) -> Result<(), Failure> {
    note_for(mirror, own_xid(), range).or_else(|_| {
        // The worker may not have had the time to look which of them have been decided.
        settle_decided(mirror);
        note_for(mirror, own_xid(), range)
    })
}

/// Notes where lines of a prepared transaction stand, in addition to those that are known.
pub fn note_for(mirror: &Mirror, xid: u32, range: FileRange) -> Result<(), Failure> {
    let mut fields = mirror.lock();
    let Some(place) = fields.prepared_place(xid) else {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            "too many prepared transactions with ledger entries",
        )
        .detail(format!("At most {MAX_PREPARED} of one database can be open at the same time."))
        .hint("Commit or roll back those in view pg_prepared_xacts that are left over."));
    };
    let known = if place.xid == xid { *place } else { PreparedLines { xid, from: range.from, to: range.to } };
    *place = PreparedLines { xid, from: known.from.min(range.from), to: known.to.max(range.to) };
    Ok(())
}

/// Why the lines of prepared transactions could not be appended.
pub fn cause_of(failure: &Failure) -> CauseKind {
    match failure.code() {
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED => CauseKind::TooManyPrepared,
        _ => CauseKind::Other,
    }
}

/// Notes that no line of this transaction stands behind `end`.
pub fn note_end(mirror: &Mirror, xid: u32, end: u64) {
    let mut fields = mirror.lock();
    fields.prepared.iter_mut().filter(|lines| lines.xid == xid).for_each(|lines| lines.to = lines.to.min(end));
}

/// Whether the transaction that commits may be one in which this process, which applies a subscription, has decided a
/// prepared transaction. Such a one writes nothing itself. Cannot fail.
pub fn may_have_decided() -> bool {
    errorless::is_logical_worker() && own_xid() == 0
}

/// COMMIT PREPARED or ROLLBACK PREPARED has ended, with or without an error. Cannot fail: it runs at the end of that
/// transaction. A database without a ledger gets no slot by this.
pub fn after_decision() {
    if let Some(slot) = database::slot_if_taken() {
        slot.prepared_decided.store(true, Ordering::SeqCst);
        slot.worker.wake();
    }
}

/// Lines of all prepared transactions, as far as is known.
pub fn noted(mirror: &Mirror) -> Vec<PreparedLines> {
    let all = mirror.lock().prepared;
    all.into_iter().filter(|lines| lines.xid != 0).collect()
}

/// Looks up which prepared transactions have been decided. Lines of those that were rolled back are to be voided; lines
/// of committed ones are like any others from now on. Any process may call this; the worker is not needed.
pub fn settle_decided(mirror: &Mirror) {
    for lines in noted(mirror) {
        let xid = pg_sys::TransactionId::from_inner(lines.xid);
        // SAFETY: the transaction ran when it was noted, so its status can be looked up. The mirror's lock is not held,
        // so an error may be raised.
        let (is_open, is_committed) = unsafe {
            let is_open = pg_sys::TransactionIdIsInProgress(xid);
            (is_open, !is_open && pg_sys::TransactionIdDidCommit(xid))
        };
        if is_open {
            continue;
        }
        // Both under one lock: a process that asks what is open finds the lines either prepared or to be voided.
        let mut fields = mirror.lock();
        let is_noted = fields.prepared.iter().any(|noted| noted.xid == lines.xid);
        fields.forget_prepared(lines.xid);
        if is_noted && !is_committed {
            fields.add_void(FileRange { from: lines.from, to: lines.to });
        }
    }
}

/// The prepared transactions of this database.
pub fn open_transactions() -> HashSet<u32> {
    let mut xids = HashSet::new();
    spi::for_each_in_catalogs(
        "SELECT transaction::text::bigint FROM pg_prepared_xacts WHERE database = current_database()",
        &[],
        |row| xids.extend(row.get::<i64>(0).map(|xid| xid as u32)),
    );
    xids
}

/// The prepared transaction that has written a row, if one of `open` has.
pub fn owner(writer: pg_sys::TransactionId, open: &HashSet<u32>) -> Option<u32> {
    if open.is_empty() || writer == pg_sys::InvalidTransactionId {
        return None;
    }
    // SAFETY: the transaction runs or is prepared, so its parents are still known.
    let top = unsafe { pg_sys::SubTransGetTopmostTransaction(writer) }.into_inner();
    open.contains(&top).then_some(top)
}
