//! Which file it is, and not only which path.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::UNIX_EPOCH;

/// The file that a process must have open to write: the one that the worker has checked.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    pub device: u64,
    pub inode: u64,
    /// See [`born`].
    pub born: i64,
    /// Counts attachments, so that a process notices that its open file is of an earlier one.
    pub generation: u64,
}

impl FileIdentity {
    pub fn of(file: &Metadata, generation: u64) -> FileIdentity {
        FileIdentity { device: file.dev(), inode: file.ino(), born: born(file), generation }
    }

    /// Whether this is that very file, and no copy of it.
    pub fn is_of(&self, file: &Metadata) -> bool {
        (self.device, self.inode) == (file.dev(), file.ino()) && may_be_one(self.born, born(file))
    }
}

/// When the file was made, in nanoseconds since the epoch; 0 where the file system does not say. A copy on another file
/// system, or a file that is made when this one is gone, may have its inode number.
pub fn born(metadata: &Metadata) -> i64 {
    let since = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_nanos() as i64)
}

/// Whether two files that were made at these times can be one.
pub fn may_be_one(one: i64, other: i64) -> bool {
    one == other || one == 0 || other == 0
}
