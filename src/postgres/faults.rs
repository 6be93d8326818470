//! Faults on purpose: places at which a test can have the server killed, a process hang, or the file fail. Release
//! builds have none of it: without the feature `fault-injection` every function here is empty, or returns its usual
//! value.
//!
//! The file `pg_notary.fault` in the data directory names a place and what happens there, as `PLACE:ACTION`, one or
//! more of them, one a line. `kill`, `exit` and `error` happen once: the file is removed first. `hang`, `errors`,
//! `read_only` and `no_space` last as long as the file is there.
//!
//! The places, in the order in which a commit reaches them: `before_write`, `write`, `mid_write`, `before_sync`,
//! `sync`, `after_sync`, `before_commit`, `after_commit`. Also `cut` and `cut_sync`, when the file is cut back, before
//! and after it is shorter; `sync_directory`, when names in a directory are put on disk; `after_abort`, before an
//! aborted transaction says which lines it leaves; and `before_block_line`, between the commit of a block and its line.
//!
//! The places of the worker: `no_ledger`, when it has found none in its database; `take_over`, when it syncs the file
//! that it opens; `close`, when it closes that; `look_for_extension`, `look_for_ledger` and `settle_prepared`, in the
//! transactions that do so; `baseline_row`, before it records a row that was there before. That of the writer:
//! `writer_log`, before it logs that a file fails, or works again.
//!
//! As long as there is a line `clock:SECONDS`, the clock that gives entries about rows their times is set forward by
//! that much, or back.

#[cfg(feature = "fault-injection")]
pub use injected::*;
#[cfg(not(feature = "fault-injection"))]
pub use none::*;

#[cfg(not(feature = "fault-injection"))]
mod none {
    use crate::ledger::row_runs::Sizes;
    use std::fs::File;

    pub fn run_sizes() -> Sizes {
        Sizes::STANDARD
    }
    pub fn most_databases(usual: usize) -> usize {
        usual
    }
    pub fn is_network_mount() -> bool {
        false
    }
    pub fn clock_offset() -> i64 {
        0
    }
    pub fn at(_place: &str) {}
    pub fn raise_at(_place: &str) {}
    pub fn error_at(_place: &str) -> std::io::Result<()> {
        Ok(())
    }
    pub fn at_write(_file: &File, _lines: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "fault-injection")]
mod injected {
    use crate::ledger::row_runs::Sizes;
    use std::fs::File;
    use std::io::{Error, Result, Write};
    use std::time::Duration;

    /// Every process of the server has the data directory as its working directory.
    const FAULT_FILE: &str = "pg_notary.fault";

    /// Whether a small ledger has the runs of places that a large one has: set by the server's environment.
    pub fn run_sizes() -> Sizes {
        match std::env::var_os("PG_NOTARY_FAULT_SMALL_RUNS") {
            Some(_) => Sizes::SMALL,
            None => Sizes::STANDARD,
        }
    }

    /// How many databases can have a ledger: set by the server's environment, to less than usual.
    pub fn most_databases(usual: usize) -> usize {
        let set = std::env::var("PG_NOTARY_FAULT_DATABASES").ok().and_then(|number| number.parse().ok());
        set.unwrap_or(usual)
    }

    /// Whether to treat the mirror's directory as a network mount: set by the server's environment.
    pub fn is_network_mount() -> bool {
        std::env::var_os("PG_NOTARY_FAULT_NETWORK_MOUNT").is_some()
    }

    /// By how many microseconds to set the clock wrong: a line `clock:SECONDS` in the fault file says it.
    pub fn clock_offset() -> i64 {
        let faults = std::fs::read_to_string(FAULT_FILE).unwrap_or_default();
        let seconds = faults.lines().find_map(|line| line.strip_prefix("clock:")?.trim().parse::<i64>().ok());
        seconds.unwrap_or(0) * 1_000_000
    }

    fn is_set(place: &str, action: &str) -> bool {
        let fault = format!("{place}:{action}");
        std::fs::read_to_string(FAULT_FILE).is_ok_and(|faults| faults.lines().any(|line| line.trim() == fault))
    }

    /// Whether it happens now, for the only time: it removes the file.
    fn happens_once(place: &str, action: &str) -> bool {
        is_set(place, action) && std::fs::remove_file(FAULT_FILE).is_ok()
    }

    /// Kills this process, ends it as a signal handler may, or hangs like a system call on a dead mount.
    pub fn at(place: &str) {
        if happens_once(place, "exit") {
            // SAFETY: runs what Postgres runs when a process ends, at any point of its work.
            unsafe { pgrx::pg_sys::proc_exit(1) };
        }
        if happens_once(place, "kill") {
            // SAFETY: a system call without pointers.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        while is_set(place, "hang") {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// As [`at`]; or raises an ERROR, like a cancel, or a catalog that cannot be read.
    pub fn raise_at(place: &str) {
        at(place);
        if happens_once(place, "error") {
            pgrx::error!("fault at {place}");
        }
    }

    /// An I/O error, or the error of a file system that has become read-only, or is full.
    pub fn error_at(place: &str) -> Result<()> {
        for (action, error) in [("read_only", libc::EROFS), ("no_space", libc::ENOSPC)] {
            if is_set(place, action) {
                return Err(Error::from_raw_os_error(error));
            }
        }
        match is_set(place, "errors") || happens_once(place, "error") {
            true => Err(Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    }

    /// Before lines are written, or in the midst of them.
    pub fn at_write(mut file: &File, lines: &[u8]) -> Result<()> {
        at("before_write");
        error_at("write")?;
        if !lines.is_empty() && (is_set("mid_write", "kill") || is_set("mid_write", "error")) {
            file.write_all(&lines[..lines.len() / 2])?;
            at("mid_write");
            error_at("mid_write")?;
        }
        Ok(())
    }
}
