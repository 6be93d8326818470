//! Opens files for reading that others may have put there.
//!
//! Opening a FIFO waits for its other end, and in the server neither a cancel nor the end of the session would end that
//! wait: Rust tries again whenever a signal comes. So this waits for nothing. What was opened is then looked at, and
//! not what had its name before.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens the regular file at `path`, following a symbolic link there.
///
/// # Errors
/// If it cannot be opened, or is none.
pub fn open(path: impl AsRef<Path>) -> Result<File> {
    checked(open_any(path)?)
}

/// Opens the regular file at `path`, but follows no symbolic link there. For the ledger's own files.
///
/// # Errors
/// If it cannot be opened, or is none.
pub fn open_own(path: impl AsRef<Path>) -> Result<File> {
    checked(open_with(path.as_ref(), libc::O_NOFOLLOW)?)
}

/// Opens what is at `path`, whatever it is, following a symbolic link there.
///
/// # Errors
/// If it cannot be opened.
pub fn open_any(path: impl AsRef<Path>) -> Result<File> {
    open_with(path.as_ref(), 0)
}

fn open_with(path: &Path, flags: libc::c_int) -> Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | flags).open(path)
}

/// The file, which was opened without waiting.
///
/// # Errors
/// If it is no regular one.
pub fn checked(file: File) -> Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file")),
    }
}
