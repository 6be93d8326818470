//! What to do next, for who could not record: the cause comes as text from another process.

/// How the cause reads that [`super::tail::diverged`] gives.
const DIVERGED: &str = "does not agree with the database";

/// Whether file and database differ, which no other attempt repairs.
pub fn is_divergence(cause: &str) -> bool {
    cause.contains(DIVERGED)
}

/// The hint beside this cause of a transaction's failure.
pub fn after(cause: &str) -> &'static str {
    if is_divergence(cause) {
        return "Nothing of this transaction was recorded, and nothing is before the two agree. SELECT * FROM ledger.find_tampering() shows in what they differ; the server's log says how to go on.";
    }
    // The worker has not read it yet.
    if cause.contains("was replaced by another file") || cause.contains("was changed by another program") {
        return "Nothing of this transaction was recorded. Try again: if all of the file agrees with the database, recording goes on; if not, view ledger.mirror_status says why.";
    }
    let is_looked_for =
        ["could not open mirror file", "could not examine mirror file"].iter().any(|text| cause.contains(text));
    if is_looked_for && cause.contains("No such file or directory") {
        return "Nothing of this transaction was recorded, and nothing is before the file is there again. Mount its file system, put it back with its .state file, or set ledger.mirror_directory to where it is; recording then goes on by itself. If it was deleted, do not restart the server before you have copied it from /proc/PID/fd of the process \"pg_notary writer\".";
    }
    if cause.contains("max_worker_processes") {
        return "Nothing of this transaction was recorded. If the server's log says that no worker could be registered, raise max_worker_processes and restart the server.";
    }
    // Said of the ledger's processes, and not of the file: nothing is to be repaired.
    if cause.starts_with("The ") && !cause.contains("does not run") {
        return "Nothing of this transaction was recorded. Try again; view ledger.mirror_status shows the state of the file.";
    }
    "Nothing of this transaction was recorded. Repair the cause, then try again; view ledger.mirror_status shows the state of the file."
}
