//! A temporary file of Postgres that belongs to the transaction, read and written at places that its user knows.
//!
//! A BufFile knows its place itself. After an ERROR in it, when the disk was full, that is wrong: it has counted a
//! block as written of which only the first half was. A transaction that goes on from a savepoint would then read other
//! bytes than it wrote. Here nothing is remembered of a write that failed.

use super::errors::{cause, Failure};
use pgrx::{pg_sys, PgSqlErrorCode};
use std::io::{Error, ErrorKind};

/// How much is read or written by one call. Before Postgres 16, these count in an int.
const CALL_BYTES: usize = 1 << 26;

/// Postgres closes and removes it at the end of the transaction, if nobody has before.
pub struct TemporaryFile(pg_sys::File);

impl TemporaryFile {
    pub fn create() -> TemporaryFile {
        let _owned = OwnedByTransaction::begin();
        // SAFETY: inside a transaction, whose resource owner the file gets.
        unsafe {
            pg_sys::PrepareTempTablespaces();
            TemporaryFile(pg_sys::OpenTemporaryFile(false))
        }
    }

    pub fn write(&self, mut bytes: &[u8], mut at: u64) {
        while !bytes.is_empty() {
            let written = by_version::write(self.0, &bytes[..bytes.len().min(CALL_BYTES)], at);
            // After a part, the next call says why there was no more.
            if written <= 0 {
                unwritten(&Error::last_os_error()).raise();
            }
            bytes = &bytes[written as usize..];
            at += written as u64;
        }
    }

    pub fn read(&self, mut into: &mut [u8], mut at: u64) {
        while !into.is_empty() {
            let length = into.len().min(CALL_BYTES);
            let read = match by_version::read(self.0, &mut into[..length], at) {
                ..0 => unread(&cause(&Error::last_os_error())).raise(),
                0 => unread("it is shorter than what was written").raise(),
                read => read as usize,
            };
            into = &mut into[read..];
            at += read as u64;
        }
    }

    /// At COMMIT Postgres would take an open file for a leak.
    pub fn close(self) {
        // SAFETY: it was opened in this transaction, which still runs, and has not been closed since.
        unsafe { pg_sys::FileClose(self.0) }
    }
}

const DETAIL: &str = "It holds what a large transaction has recorded, until that commits.";

fn unwritten(error: &Error) -> Failure {
    let code = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            PgSqlErrorCode::ERRCODE_DISK_FULL
        }
        _ => PgSqlErrorCode::ERRCODE_IO_ERROR,
    };
    Failure::new(code, format!("could not write a temporary file: {}", cause(error)))
        .detail(DETAIL)
        .hint("Make room where temp_tablespaces points to, by default in base/pgsql_tmp of the data directory.")
}

fn unread(cause: &str) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_IO_ERROR, format!("could not read a temporary file: {cause}"))
        .detail(DETAIL)
        .hint("Run the transaction again. If that fails too, check the disk that temp_tablespaces points to, by default that of base/pgsql_tmp in the data directory, and that no other program changes files there.")
}

/// Both return how many bytes were written or read, or a negative number.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
mod by_version {
    use pgrx::pg_sys::WaitEventIO::{WAIT_EVENT_BUFFILE_READ, WAIT_EVENT_BUFFILE_WRITE};
    use pgrx::pg_sys::{File, FileRead, FileWrite};

    pub fn write(file: File, bytes: &[u8], at: u64) -> isize {
        let start = bytes.as_ptr().cast_mut().cast();
        // SAFETY: the file is open. The bytes stay in place during the call, which only reads them.
        unsafe { FileWrite(file, start, bytes.len() as _, at as _, WAIT_EVENT_BUFFILE_WRITE) as isize }
    }

    pub fn read(file: File, into: &mut [u8], at: u64) -> isize {
        // SAFETY: the file is open, and there is room for that many bytes.
        unsafe { FileRead(file, into.as_mut_ptr().cast(), into.len() as _, at as _, WAIT_EVENT_BUFFILE_READ) as isize }
    }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
mod by_version {
    use pgrx::pg_sys::WaitEventIO::{WAIT_EVENT_BUFFILE_READ, WAIT_EVENT_BUFFILE_WRITE};
    use pgrx::pg_sys::{iovec, File, FileReadV, FileWriteV};

    pub fn write(file: File, bytes: &[u8], at: u64) -> isize {
        let part = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() as _ };
        // SAFETY: the file is open. The bytes stay in place during the call, which only reads them.
        unsafe { FileWriteV(file, &part, 1, at as _, WAIT_EVENT_BUFFILE_WRITE) }
    }

    pub fn read(file: File, into: &mut [u8], at: u64) -> isize {
        let part = iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() as _ };
        // SAFETY: the file is open, and there is room for that many bytes.
        unsafe { FileReadV(file, &part, 1, at as _, WAIT_EVENT_BUFFILE_READ) }
    }
}

/// While this value lives, what Postgres opens belongs to the whole transaction: it outlives subtransactions and
/// portals, and goes when the transaction aborts.
///
/// An ERROR drops this value too, and so restores the previous owner. Postgres leaves it in place then, as none of its
/// code runs before the abort. But here destructors run, and one that releases a buffer of another owner would raise a
/// second ERROR.
struct OwnedByTransaction(pg_sys::ResourceOwner);

impl OwnedByTransaction {
    fn begin() -> OwnedByTransaction {
        // SAFETY: globals of this process. Inside a transaction its own owner exists.
        unsafe {
            let before = OwnedByTransaction(pg_sys::CurrentResourceOwner);
            pg_sys::CurrentResourceOwner = pg_sys::TopTransactionResourceOwner;
            before
        }
    }
}

impl Drop for OwnedByTransaction {
    fn drop(&mut self) {
        // SAFETY: restores what was current when this value was made, which outlives the call that made it.
        unsafe { pg_sys::CurrentResourceOwner = self.0 }
    }
}
