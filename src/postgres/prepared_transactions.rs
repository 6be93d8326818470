//! Which transactions are prepared, as snapshots see them. To be asked often: without a lock, and without a query of
//! `pg_prepared_xacts`.

use super::database;
use super::settings::max_prepared;
use super::tables::RegisteredSnapshot;
use pgrx::pg_sys;

/// The prepared transactions of this database, and perhaps some that are being prepared or have been decided.
pub fn of_database() -> Vec<pg_sys::TransactionId> {
    let database = database::own_oid();
    let of_place = |place| {
        // SAFETY: Postgres has an array of so many processes in shared memory, where a prepared transaction has one in
        // place of its session's. Its fields are read one by one as another process may write them. Those of a
        // transaction are written before it is prepared, and stay as they are until it has been decided.
        unsafe {
            let process = pg_sys::PreparedXactProcs.add(place);
            ((&raw const (*process).databaseId).read_volatile(), (&raw const (*process).xid).read_volatile())
        }
    };
    let all = (0..max_prepared()).map(of_place);
    all.filter(|(of, xid)| *of == database && *xid != pg_sys::InvalidTransactionId).map(|(_, xid)| xid).collect()
}

/// Whether the snapshot, an MVCC snapshot, sees a top-level transaction as one that has neither committed nor aborted.
pub fn is_running(xid: pg_sys::TransactionId, snapshot: &RegisteredSnapshot) -> bool {
    // SAFETY: the snapshot is registered. Postgres searches its lists of transactions, for any number.
    unsafe { pg_sys::XidInMVCCSnapshot(xid, snapshot.as_ptr()) }
}
