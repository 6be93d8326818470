//! Hints for transactions that could not record, and for an administrator's requests: what to do next.

use super::cause::CauseKind;

/// How to repair a cause of this kind. The texts of most causes say that themselves.
fn repair_of(kind: CauseKind) -> &'static str {
    match kind {
        CauseKind::NoSpace => "Make room on the file system of the mirror file",
        CauseKind::NotPermitted => "Look at the attributes of the mirror file with lsattr, and remove the one that is in the way (chattr -i, chattr -a)",
        CauseKind::SymbolicLink => "Symbolic links are not followed: put the file itself there, or set ledger.mirror_directory to the directory that holds it",
        CauseKind::Locked => "If another server or database writes the file, give one of them another ledger.mirror_directory",
        CauseKind::NotRegular => "Remove what now has the name of the mirror file, and put the mirror file back",
        CauseKind::WritableByOthers => "Remove this permission (chmod go-w)",
        // The directory below a mount is best left to root: given to the server's user, it would take a new file.
        CauseKind::OtherOwner => "If a file system is to be mounted there, mount it; if the file or directory itself was put there by another user, give it to the server's user (chown)",
        CauseKind::LockedOut => "End the transaction that holds the lock: pg_terminate_backend() ends its session, and ROLLBACK PREPARED a prepared one",
        CauseKind::TooManyPrepared => "Commit or roll back those transactions in view pg_prepared_xacts that are left over",
        CauseKind::NotFound => "If the file system that ledger.mirror_directory is on is not mounted, mount it; otherwise correct that setting",
        CauseKind::FileMissing
        | CauseKind::Changed
        | CauseKind::Diverged
        | CauseKind::NoWorker
        | CauseKind::Passing
        | CauseKind::Other => "Repair the cause",
    }
}

/// What to do about a request of an administrator that failed with a cause of this kind.
pub fn call_again(kind: CauseKind) -> String {
    format!("{}, then call the function again.", repair_of(kind))
}

/// As [`call_again`], for a file that could not be caught up.
pub fn after_catch_up(kind: CauseKind) -> String {
    match kind {
        CauseKind::FileMissing | CauseKind::NotFound => "Check that its file system is mounted, and put the file or a copy of it in its place. If no copy is left, ledger.mirror_restart() begins a new file.".to_owned(),
        CauseKind::Diverged => "Find out whether the file or the database is right. Put the right file back, or bring the database forward, or keep the file as evidence and begin a new one with ledger.mirror_restart().".to_owned(),
        _ => call_again(kind),
    }
}

/// The hint beside the worker's own failure. What it appends is committed, but for the rows of a new table's baseline.
pub fn for_worker(kind: CauseKind) -> String {
    let repair = repair_of(kind);
    format!("What is committed is in the database, and the worker appends it once the file can take it. {repair}; view ledger.mirror_status shows the state of the file.")
}

/// The hint for a transaction that failed with a cause of this kind.
pub fn after(kind: CauseKind) -> String {
    format!("Nothing of this transaction was recorded{}", next(kind))
}

fn next(kind: CauseKind) -> String {
    let next = match kind {
        // Trying again does not repair that.
        CauseKind::Diverged => ", and nothing can be recorded until the mirror file and the database agree. SELECT * FROM ledger.find_tampering() shows how they differ. If it shows nothing, only the state file may be old: see view ledger.mirror_status, then call ledger.mirror_catch_up(). ledger.mirror_restart() begins a new file and keeps the old one.",
        // Whether the file still agrees is not known until the worker has read it.
        CauseKind::Changed => ". Try again. If the whole file agrees with the database, recording continues; if not, view ledger.mirror_status says why.",
        CauseKind::FileMissing => ", and nothing can be recorded until the mirror file is there again. Mount its file system, put the file back with its .state file, or set ledger.mirror_directory to the directory that holds it; recording then continues by itself. If the file was deleted, do not restart the server before you have copied it from /proc/PID/fd of the process \"pg_notary writer\". If no copy is left, ledger.mirror_restart() begins a new file.",
        CauseKind::NoWorker => ". If the server's log says that no worker could be registered, raise max_worker_processes and restart the server. A template database has no worker, because a worker would keep it from being copied: ALTER DATABASE ... IS_TEMPLATE false.",
        CauseKind::Passing => ". Try again; view ledger.mirror_status shows the state of the file.",
        CauseKind::NoSpace
        | CauseKind::NotPermitted
        | CauseKind::SymbolicLink
        | CauseKind::NotFound
        | CauseKind::Locked
        | CauseKind::NotRegular
        | CauseKind::WritableByOthers
        | CauseKind::OtherOwner
        | CauseKind::LockedOut
        | CauseKind::TooManyPrepared
        | CauseKind::Other => {
            return format!(". {}, then try again; view ledger.mirror_status shows the state of the file.", repair_of(kind));
        }
    };
    next.to_owned()
}
