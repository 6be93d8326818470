//! Hints for transactions that could not record: what to do next. The cause is known only as text, because another
//! process met it.

/// How [`super::tail::diverged`] words the cause.
const DIVERGED: &str = "does not agree with the database";

/// Causes whose system error text does not say how to repair them, each with its repair.
const REPAIRS: [(&str, &str); 7] = [
    ("No space left on device", "Make room on the file system of the mirror file"),
    (
        "Operation not permitted",
        "Look at the attributes of the mirror file with lsattr, and remove the one that is in the way (chattr -i, chattr -a)",
    ),
    (
        "Too many levels of symbolic links",
        "Symbolic links are not followed: put the file itself there, or set ledger.mirror_directory to the directory that holds it",
    ),
    ("could not lock", "If another server or database writes the file, give one of them another ledger.mirror_directory"),
    ("is not a regular file", "Remove what now has the name of the mirror file, and put the mirror file back"),
    ("lets others write it", "Remove this permission (chmod go-w)"),
    // The directory below a mount is best left to root: given to the server's user, it would take a new file.
    (
        "it belongs to user",
        "If a file system is to be mounted there, mount it; if the file or directory itself was put there by another user, give it \
         to the server's user (chown)",
    ),
];

/// Whether file and database differ. Trying again does not repair that.
pub fn is_divergence(cause: &str) -> bool {
    cause.contains(DIVERGED)
}

/// How to repair this cause.
pub fn repair_of(cause: &str) -> &'static str {
    let known = REPAIRS.iter().find(|(text, _)| cause.contains(text));
    known.map_or("Repair the cause", |(_, repair)| repair)
}

/// The hint for a transaction that failed with this cause.
pub fn after(cause: &str) -> String {
    format!("Nothing of this transaction was recorded{}", next(cause))
}

fn next(cause: &str) -> String {
    if is_divergence(cause) {
        return ", and nothing can be recorded until the mirror file and the database agree. SELECT * FROM ledger.find_tampering() shows how they differ; the server's log says what to do.".to_owned();
    }
    // Whether the file still agrees is not known until the worker has read it.
    if cause.contains("was replaced by another file") || cause.contains("was changed by another program") {
        return ". Try again. If the whole file agrees with the database, recording continues; if not, view ledger.mirror_status says why.".to_owned();
    }
    let is_looked_for =
        ["could not open mirror file", "could not examine mirror file"].iter().any(|text| cause.contains(text));
    if is_looked_for && cause.contains("No such file or directory") {
        return ", and nothing can be recorded until the mirror file is there again. Mount its file system, put the file back with its .state file, or set ledger.mirror_directory to the directory that holds it; recording then continues by itself. If the file was deleted, do not restart the server before you have copied it from /proc/PID/fd of the process \"pg_notary writer\".".to_owned();
    }
    if cause.contains("max_worker_processes") {
        return ". If the server's log says that no worker could be registered, raise max_worker_processes and restart the server. A template database has no worker, because a worker would keep it from being copied: ALTER DATABASE ... IS_TEMPLATE false.".to_owned();
    }
    // These causes concern the ledger's processes, not the file: nothing needs repair.
    if cause.starts_with("The ") && !cause.contains("does not run") {
        return ". Try again; view ledger.mirror_status shows the state of the file.".to_owned();
    }
    format!(". {}, then try again; view ledger.mirror_status shows the state of the file.", repair_of(cause))
}
