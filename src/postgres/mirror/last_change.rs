//! When the file was last changed, as far as the server knows: how a change by another program is noticed before the next
//! write.
//!
//! On a local file system that time comes from the clock of this machine, so the server notes by the clock when it has
//! written, and does not ask for the file's times after each write. Not only because that saves a system call: from Linux
//! 6.13 on, who asks for times has the next write take one that is finer than a tick of the clock, and every file that is
//! written afterwards takes that one or a later one (multigrain timestamps). So the WAL's segment had another time after each
//! commit, where it has a new one each tick else; and ext4 without a journal writes the inode of such a file with each
//! fdatasync.

use super::shared::{FileStamp, LastChange};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// For how long after a write the times are not asked for, in nanoseconds: a tick, within which most kernels give the same
/// time to all that is written.
const TICK: i64 = 4_000_000;

impl LastChange {
    /// After this process has changed the file, and before anybody else may.
    pub fn now(file: &File, is_local: bool) -> io::Result<LastChange> {
        match is_local {
            true => Ok(LastChange::NotAfter(kernel::now())),
            false => Ok(LastChange::At(FileStamp::of(&file.metadata()?))),
        }
    }

    /// Whether it says something to ask for the times.
    pub fn is_to_be_checked(self) -> bool {
        match self {
            LastChange::At(_) => true,
            // The clock may have been put back.
            LastChange::NotAfter(time) => !(0..TICK).contains(&(kernel::now() - time)),
        }
    }

    /// The times of a file that was as the server has left it when they were `found`. Else some that no file has.
    pub fn stamp(self, found: Option<FileStamp>) -> FileStamp {
        match self {
            LastChange::At(stamp) => stamp,
            LastChange::NotAfter(_) => found.filter(|found| self.admits(*found)).unwrap_or_default(),
        }
    }

    /// Whether nobody can have changed a file since that has these times now. Whoever changes its content, its name or who may
    /// write it changes its `changed`; its `modified` anybody can set.
    pub fn admits(self, found: FileStamp) -> bool {
        match self {
            LastChange::At(stamp) => stamp == found,
            LastChange::NotAfter(time) => found.changed <= time,
        }
    }
}

impl FileStamp {
    pub fn of(metadata: &Metadata) -> FileStamp {
        FileStamp {
            modified: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            changed: metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
        }
    }
}

/// What is looked at before each write.
pub struct Look {
    pub device: u64,
    pub inode: u64,
    pub is_file: bool,
    pub mode: u32,
    pub owner: u32,
    pub size: u64,
    pub stamp: Option<FileStamp>,
}

impl Look {
    /// At what has that name, not at what a symbolic link of that name leads to.
    pub fn at(path: &Path, with_times: bool) -> io::Result<Look> {
        match with_times {
            true => Ok(Look::of(&path.symlink_metadata()?)),
            false => kernel::look_without_times(path),
        }
    }

    pub fn of(metadata: &Metadata) -> Look {
        Look {
            device: metadata.dev(),
            inode: metadata.ino(),
            is_file: metadata.is_file(),
            mode: metadata.mode(),
            owner: metadata.uid(),
            size: metadata.len(),
            stamp: Some(FileStamp::of(metadata)),
        }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod kernel {
    use super::Look;
    use std::ffi::CString;
    use std::io;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    /// The clock that files take their times from, in nanoseconds since the epoch. The kernel is asked itself: a library that
    /// is loaded before libc to give programs another time does not give it to files.
    #[allow(clippy::unnecessary_cast, reason = "the types of these numbers differ from one machine to another")]
    pub fn now() -> i64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel fills in what it is given, and cannot fail for a clock that every system has.
        unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_REALTIME, &mut time) };
        time.tv_sec as i64 * 1_000_000_000 + time.tv_nsec as i64
    }

    pub fn look_without_times(path: &Path) -> io::Result<Look> {
        let wanted = libc::STATX_TYPE | libc::STATX_MODE | libc::STATX_INO | libc::STATX_UID | libc::STATX_SIZE;
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: valid when zeroed; the kernel reads the one and fills in the other.
        let found = unsafe {
            let mut found: libc::statx = std::mem::zeroed();
            match libc::statx(libc::AT_FDCWD, path.as_ptr(), libc::AT_SYMLINK_NOFOLLOW, wanted, &mut found) {
                0 => found,
                _ => return Err(io::Error::last_os_error()),
            }
        };
        Ok(Look {
            device: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            is_file: u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFREG,
            mode: found.stx_mode.into(),
            owner: found.stx_uid,
            size: found.stx_size,
            stamp: None,
        })
    }
}

/// No file counts as local there.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod kernel {
    use super::Look;
    use std::path::Path;

    pub fn now() -> i64 {
        0
    }

    pub fn look_without_times(path: &Path) -> std::io::Result<Look> {
        Ok(Look::of(&path.symlink_metadata()?))
    }
}
