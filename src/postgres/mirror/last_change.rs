//! When this server last changed the file, as far as it knows. By that it notices before the next write that another
//! program has changed the file.
//!
//! On a local file system a file's times come from this machine's clock. So the server notes the clock when it has
//! written, and does not ask for the file's times after each write. That saves a system call. It also avoids a cost
//! from Linux 6.13 on: asking for a file's times makes its next write take a time finer than a tick of the clock, and
//! every file written afterwards takes that time or a later one (multigrain timestamps). The WAL segment then got
//! another time after each commit, instead of one each tick, and ext4 without a journal writes the inode of such a file
//! with each fdatasync.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// For how long after a write the times are not asked for, in nanoseconds: one tick. Most kernels give the same time to
/// everything that is written within a tick.
const TICK: i64 = 4_000_000;

/// The times of a file, in nanoseconds since the epoch. No program can edit the file and restore both.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileStamp {
    pub modified: i64,
    pub changed: i64,
}

/// What is known about when this server last changed the file. Zeroes are a valid value: the first variant.
#[repr(C, u64)]
#[derive(Debug, Clone, Copy)]
pub enum LastChange {
    /// The file's times were these.
    At(FileStamp),
    /// It was done by this time of this machine's clock, in nanoseconds since the epoch. The file's times come from the
    /// same clock.
    NotAfter(i64),
}

/// The time before a change of the file.
#[derive(Clone, Copy)]
pub struct ChangeBegun(i64);

impl ChangeBegun {
    pub fn now() -> ChangeBegun {
        ChangeBegun(kernel::now())
    }

    /// To be called after this process has changed the file, before another process may change it.
    pub fn last_change(self, file: &File, is_local: bool) -> io::Result<LastChange> {
        let now = kernel::now();
        // If the clock was set back meanwhile, the file may have a later time than it shows now.
        match is_local && now >= self.0 {
            true => Ok(LastChange::NotAfter(now)),
            false => Ok(LastChange::At(FileStamp::of(&file.metadata()?))),
        }
    }
}

impl LastChange {
    /// Whether the file's times can show a change.
    pub fn is_to_be_checked(self) -> bool {
        match self {
            LastChange::At(_) => true,
            // The clock may have been set back.
            LastChange::NotAfter(time) => !(0..TICK).contains(&(kernel::now() - time)),
        }
    }

    /// The times of the file, if it was as the server left it when they were `found`; otherwise the default, which no
    /// file has.
    pub fn stamp(self, found: Option<FileStamp>) -> FileStamp {
        match self {
            LastChange::At(stamp) => stamp,
            LastChange::NotAfter(_) => found.filter(|found| self.admits(*found)).unwrap_or_default(),
        }
    }

    /// Whether a file that has these times now cannot have been changed since. A change of its content, its name or its
    /// permissions sets `changed`; any program can set `modified`.
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

/// What the server checks before each write.
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
    /// Looks at what has that name, and does not follow a symbolic link.
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

    /// The clock that files take their times from, in nanoseconds since the epoch. This calls the kernel directly: a
    /// library that is preloaded to give programs another time does not give it to files.
    #[allow(clippy::unnecessary_cast, reason = "the types of these numbers differ from one machine to another")]
    pub fn now() -> i64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is valid for the kernel to fill in. The call cannot fail, as every system has this clock.
        unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_REALTIME, &mut time) };
        time.tv_sec as i64 * 1_000_000_000 + time.tv_nsec as i64
    }

    pub fn look_without_times(path: &Path) -> io::Result<Look> {
        let wanted = libc::STATX_TYPE | libc::STATX_MODE | libc::STATX_INO | libc::STATX_UID | libc::STATX_SIZE;
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: a zeroed statx is valid. The kernel reads the NUL-terminated path and fills in `found`.
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

/// On other systems no file counts as local.
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
