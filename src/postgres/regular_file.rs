//! Opens files for reading that others may have put there.
//!
//! Opening a FIFO waits for its other end, and neither a cancel nor the end of the session would end that wait: Rust
//! tries again whenever a signal comes. So this waits for nothing, and only a regular file is read.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens the regular file at `path`, following a symbolic link there.
pub fn open(path: impl AsRef<Path>) -> Result<File> {
    open_with(path.as_ref(), 0)
}

/// Opens the regular file at `path`, but follows no symbolic link there. For the ledger's own files.
pub fn open_own(path: impl AsRef<Path>) -> Result<File> {
    open_with(path.as_ref(), libc::O_NOFOLLOW)
}

fn open_with(path: &Path, flags: libc::c_int) -> Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file")),
    }
}
