//! Functions of Postgres that raise no error, called directly. pgrx calls each as if it could raise one, which takes
//! several times as long as most of these functions.

use pgrx::pg_sys;

mod postgres {
    use pgrx::pg_sys;

    extern "C-unwind" {
        pub fn GetUserId() -> pg_sys::Oid;
        pub fn GetSessionUserId() -> pg_sys::Oid;
        pub fn GetCurrentTransactionNestLevel() -> i32;
        pub fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
        pub fn GetCurrentTimestamp() -> pg_sys::TimestampTz;
        pub fn GetDatabaseEncoding() -> i32;
        pub fn IsLogicalWorker() -> bool;
        pub fn ForceSyncCommit();
        pub fn LWLockConditionalAcquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
        pub fn LWLockAcquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
        pub fn LWLockRelease(lock: *mut pg_sys::LWLock);
        pub fn ConditionVariableBroadcast(variable: *mut pg_sys::ConditionVariable);
        pub fn HeapTupleHeaderGetCmin(header: pg_sys::HeapTupleHeader) -> pg_sys::CommandId;
        pub fn heap_deform_tuple(
            tuple: pg_sys::HeapTuple,
            descriptor: pg_sys::TupleDesc,
            values: *mut pg_sys::Datum,
            nulls: *mut bool,
        );
    }
}

/// The current user.
pub fn user() -> pg_sys::Oid {
    // SAFETY: reads a global of this process, with no preconditions.
    unsafe { postgres::GetUserId() }
}

pub fn session_user() -> pg_sys::Oid {
    // SAFETY: reads a global of this process, with no preconditions.
    unsafe { postgres::GetSessionUserId() }
}

/// The level of the current subtransaction: 1 is the transaction itself.
pub fn nest_level() -> i32 {
    // SAFETY: reads the state of this session's transaction, with no preconditions.
    unsafe { postgres::GetCurrentTransactionNestLevel() }
}

/// The id of the current top-level transaction; 0 if it has none.
pub fn own_xid() -> u32 {
    // SAFETY: reads the state of this session's transaction, with no preconditions.
    unsafe { postgres::GetTopTransactionIdIfAny() }.into_inner()
}

/// What the clock shows.
pub fn clock() -> pg_sys::TimestampTz {
    // SAFETY: reads the clock, with no preconditions.
    unsafe { postgres::GetCurrentTimestamp() }
}

/// Whether this process applies a subscription.
pub fn is_logical_worker() -> bool {
    // SAFETY: reads a global of this process, with no preconditions.
    unsafe { postgres::IsLogicalWorker() }
}

/// The commit of this transaction waits until it is on disk, whatever `synchronous_commit` is.
pub fn force_sync_commit() {
    // SAFETY: sets a flag of this session's transaction, with no preconditions.
    unsafe { postgres::ForceSyncCommit() }
}

/// How often to try a lock before this process sleeps until it is free, and how long to pause in between: about a
/// microsecond in all.
const TRIES: u32 = 8;
const PAUSES: u32 = 3;

/// Takes a lock for this process alone, which others hold for less than a microsecond. To sleep and be woken takes many
/// times as long, so it is tried some times first. It would be an error to hold hundreds.
///
/// # Safety
/// The lock lies in shared memory, was initialised, and is not held by this process.
pub unsafe fn lock(lock: *mut pg_sys::LWLock) {
    for _ in 0..TRIES {
        if postgres::LWLockConditionalAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE) {
            return;
        }
        (0..PAUSES).for_each(|_| std::hint::spin_loop());
    }
    postgres::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
}

/// # Safety
/// This process holds the lock.
pub unsafe fn unlock(lock: *mut pg_sys::LWLock) {
    postgres::LWLockRelease(lock)
}

/// Wakes all processes that wait for the condition variable.
///
/// # Safety
/// It lies in shared memory, and was initialised.
pub unsafe fn broadcast(variable: *mut pg_sys::ConditionVariable) {
    postgres::ConditionVariableBroadcast(variable)
}

pub fn database_encoding() -> i32 {
    // SAFETY: reads a global of this process, with no preconditions.
    unsafe { postgres::GetDatabaseEncoding() }
}

/// The command that created a row version.
///
/// # Safety
/// `header` belongs to a row version that this transaction has created.
pub unsafe fn inserting_command(header: pg_sys::HeapTupleHeader) -> pg_sys::CommandId {
    postgres::HeapTupleHeaderGetCmin(header)
}

/// Splits a tuple into its columns. If columns were added after the tuple was made, finding their values may need
/// memory and fail, so that case is guarded.
///
/// # Safety
/// The tuple has the shape of the descriptor, and there is room for as many values and null flags as it has columns.
pub unsafe fn deform(
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
    values: *mut pg_sys::Datum,
    nulls: *mut bool,
) {
    let constraints = (*descriptor).constr;
    if constraints.is_null() || (*constraints).missing.is_null() {
        postgres::heap_deform_tuple(tuple, descriptor, values, nulls);
    } else {
        pg_sys::heap_deform_tuple(tuple, descriptor, values, nulls);
    }
}
