//! Why the mirror file cannot be used: a kind, from which [`super::advice`] chooses what to do next, and a text for
//! people to read. The text cannot tell the kind: a part of it comes from the operating system, in the language of the
//! server's lc_messages.

use super::fixed_text::FixedText;
use pgrx::PgSqlErrorCode;
use std::io::Error;

/// The text of [`CauseKind::NoWorker`].
pub const NO_WORKER: &str = "The worker of this database does not run: usually max_worker_processes is too small, or \
                             the database is a template; see ledger.workers and the server's log.";

/// What a cause is, as far as there is advice about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CauseKind {
    /// Only the text says what it is.
    Other = 0,
    /// The file system has no room, or not for this user.
    NoSpace = 1,
    /// The operating system does not permit it even to the owner of the file, which has attributes that forbid it.
    NotPermitted = 2,
    /// There is a symbolic link in place of the file.
    SymbolicLink = 3,
    /// The mirror file itself is not there.
    FileMissing = 4,
    /// Something else is not there, such as the directory.
    NotFound = 5,
    /// The file cannot be locked: usually another server or database writes it.
    Locked = 6,
    /// There is something else than a regular file in its place.
    NotRegular = 7,
    /// Other users may write the file or the directory.
    WritableByOthers = 8,
    /// The file or the directory belongs to another user.
    OtherOwner = 9,
    /// Another program has changed the file or put another one in its place.
    Changed = 10,
    /// File and database differ.
    Diverged = 11,
    /// The database has no worker.
    NoWorker = 12,
    /// It is a passing state of the ledger's processes, not of the file: nothing needs repair.
    Passing = 13,
    /// Another transaction holds the lock under which the worker opens the file.
    LockedOut = 14,
    /// More transactions are prepared than can be noted.
    TooManyPrepared = 15,
}

impl CauseKind {
    /// The kind of a system error that is not about the mirror file alone.
    pub fn of(error: &Error) -> CauseKind {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => CauseKind::NoSpace,
            Some(libc::EPERM) => CauseKind::NotPermitted,
            Some(libc::ELOOP) => CauseKind::SymbolicLink,
            Some(libc::ENOENT) => CauseKind::NotFound,
            _ => CauseKind::Other,
        }
    }

    /// The kind of a system error that the mirror file itself has met.
    pub fn of_file(error: &Error) -> CauseKind {
        match CauseKind::of(error) {
            CauseKind::NotFound => CauseKind::FileMissing,
            kind => kind,
        }
    }

    /// The SQLSTATE of what fails for it: what watches for full disks knows them by their own.
    pub fn sqlstate(self) -> PgSqlErrorCode {
        match self {
            CauseKind::NoSpace => PgSqlErrorCode::ERRCODE_DISK_FULL,
            _ => PgSqlErrorCode::ERRCODE_IO_ERROR,
        }
    }

    /// This kind, or if nothing is known of it, that one.
    pub fn or(self, other: CauseKind) -> CauseKind {
        match self {
            CauseKind::Other => other,
            kind => kind,
        }
    }
}

/// A cause in shared memory: one process has met it, and others report it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Cause {
    kind: CauseKind,
    text: FixedText<512>,
}

impl Cause {
    pub fn new(kind: CauseKind, text: &str) -> Cause {
        let mut cause = Cause { kind, text: FixedText::EMPTY };
        cause.text.set(text);
        cause
    }

    pub fn set(&mut self, kind: CauseKind, text: &str) {
        self.kind = kind;
        self.text.set(text);
    }

    pub fn kind(&self) -> CauseKind {
        self.kind
    }

    pub fn text(&self) -> String {
        self.text.get()
    }
}
