//! The mirror file itself: its name, how it is opened, and what is checked before each write.

use super::cause::CauseKind;
use super::file_identity::FileIdentity;
use super::last_change::{ChangeBegun, LastChange, Look};
use crate::postgres::errors::{cause, Failure};
use crate::postgres::faults;
use pgrx::PgSqlErrorCode;
use std::cell::Cell;
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The error of a file that cannot be read.
pub fn unreadable(path: &Path, error: &Error) -> Failure {
    let message = format!("could not read mirror file \"{}\"", path.display());
    Failure::new(PgSqlErrorCode::ERRCODE_IO_ERROR, message).detail(cause(error))
}

/// Why the file cannot be used.
#[derive(Debug)]
pub struct Trouble {
    pub kind: CauseKind,
    pub cause: String,
    /// The file is not what it was: nothing may be written until the worker has examined it again.
    pub reattach: bool,
    /// Another program has changed the file: the worker must read all of it.
    pub suspect: bool,
    /// A sync has failed. Its data may be missing on disk even if a later sync succeeds: the kernel reports a failure
    /// once.
    pub unsynced: bool,
}

impl Trouble {
    pub fn passing(what: &str, path: &Path, error: std::io::Error) -> Self {
        Trouble {
            kind: CauseKind::of_file(&error),
            cause: format!("could not {what} mirror file \"{}\": {}", path.display(), cause(&error)),
            reattach: false,
            suspect: false,
            unsynced: false,
        }
    }

    pub fn lasting(kind: CauseKind, cause: String) -> Self {
        Trouble { kind, cause, reattach: true, suspect: false, unsynced: false }
    }

    fn suspicious(cause: String) -> Self {
        Trouble { suspect: true, ..Trouble::lasting(CauseKind::Changed, cause) }
    }
}

/// `<directory>/<database>.<first 8 of ledger_id>.jsonl`. A database's name may hold any byte, so those that mean
/// something in a path are written `%xx`.
pub fn path_of(directory: &Path, database: &str, ledger_id: Uuid) -> PathBuf {
    let mut name = String::with_capacity(database.len() + 16);
    for (position, character) in database.chars().enumerate() {
        let special = matches!(character, '/' | '%') || character.is_control() || (position == 0 && character == '.');
        if special {
            name.push_str(&format!("%{:02x}", character as u32));
        } else {
            name.push(character);
        }
    }
    let id = ledger_id.simple().to_string();
    directory.join(format!("{name}.{}.jsonl", &id[..8]))
}

/// Checks the directory. Creates it only if it is the default one: any other that is missing may be a lost mount.
pub fn prepare_directory(directory: &Path, may_create: bool) -> Result<(), Trouble> {
    let unusable = |kind, why| Trouble::lasting(kind, format!("mirror directory \"{}\" {why}", directory.display()));
    let failed = |what: &str, error: &Error| unusable(CauseKind::of(error), format!("{what}: {}", cause(error)));
    if may_create {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed("cannot be created", &error)),
            _ => {}
        }
    }
    let metadata = std::fs::metadata(directory).map_err(|error| failed("cannot be used", &error))?;
    if !metadata.is_dir() {
        return Err(unusable(CauseKind::Other, "is not a directory".to_owned()));
    }
    check_owner_and_mode(metadata.uid(), metadata.mode())
        .map_err(|(kind, why)| unusable(kind, format!("is not safe: {why}")))
}

/// Opens the file for reading and appending. Creates it only if `create` says that there has been none before.
pub fn open(path: &Path, create: bool) -> Result<File, Trouble> {
    let file = open_to_append(path, create)?;
    let metadata = file.metadata().map_err(|error| Trouble::passing("examine", path, error))?;
    check_look(path, &Look::of(&metadata))?;
    Ok(file)
}

fn open_to_append(path: &Path, create: bool) -> Result<File, Trouble> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(create)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| Trouble { reattach: true, ..Trouble::passing("open", path, error) })
}

/// Whether the file is on a file system that is known to be one of this machine's own disks or memory.
pub fn is_local(file: &File) -> bool {
    !faults::is_network_mount() && file_system::is_local(file)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod file_system {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    /// Not in libc's list: OpenZFS has it in include/sys/fs/zfs.h.
    const ZFS_SUPER_MAGIC: i64 = 0x2fc1_2fc1;

    #[allow(clippy::unnecessary_cast, reason = "the types of these numbers differ from one machine to another")]
    pub fn is_local(file: &File) -> bool {
        // SAFETY: a zeroed statfs is valid. The kernel fills it in, for a descriptor that `file` keeps open.
        let magic = unsafe {
            let mut found: libc::statfs = std::mem::zeroed();
            match libc::fstatfs(file.as_raw_fd(), &mut found) {
                0 => found.f_type as i64,
                _ => return false,
            }
        };
        let local = [
            libc::EXT4_SUPER_MAGIC as i64,
            libc::XFS_SUPER_MAGIC as i64,
            libc::BTRFS_SUPER_MAGIC as i64,
            libc::F2FS_SUPER_MAGIC as i64,
            libc::TMPFS_MAGIC as i64,
            libc::OVERLAYFS_SUPER_MAGIC as i64,
            ZFS_SUPER_MAGIC,
        ];
        local.contains(&magic)
    }
}

/// On other systems no file counts as local, so the writer does all rounds.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod file_system {
    pub fn is_local(_file: &std::fs::File) -> bool {
        false
    }
}

thread_local! {
    /// The file that this process has locked last.
    static LOCKED: Cell<Option<RawFd>> = const { Cell::new(None) };
}

/// Takes the lock that keeps a second server away. It lasts as long as the file stays open.
pub fn lock(file: &File, path: &Path) -> Result<(), Trouble> {
    // SAFETY: flock takes no pointer, and `file` keeps the descriptor open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        LOCKED.set(Some(file.as_raw_fd()));
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    let why = match error.kind() {
        ErrorKind::WouldBlock => "another server, or another database of this one, writes it".to_owned(),
        // For example, a file system without locks.
        _ => cause(&error),
    };
    Err(Trouble::lasting(CauseKind::Locked, format!("could not lock mirror file \"{}\": {why}", path.display())))
}

/// Releases the lock as this process ends: the next worker may start before the kernel has closed the file.
pub fn unlock_at_exit() {
    if let Some(locked) = LOCKED.take() {
        // SAFETY: flock takes no pointer. If the descriptor number belongs to something else by now, unlocking does
        // nothing to it.
        unsafe { libc::flock(locked, libc::LOCK_UN) };
    }
}

/// Call this after changing the file, before another process may change it.
pub fn last_change(begun: ChangeBegun, file: &File, path: &Path, is_local: bool) -> Result<LastChange, Trouble> {
    begun.last_change(file, is_local).map_err(|error| Trouble::passing("examine", path, error))
}

/// Opens the file that the worker has attached, to keep it open.
pub fn open_attached(path: &Path, expected: FileIdentity) -> Result<File, Trouble> {
    let file = open_to_append(path, false)?;
    let metadata = file.metadata().map_err(|error| cannot_examine(path, error))?;
    check_same(path, &Look::of(&metadata), expected)?;
    Ok(file)
}

/// What must hold before every write to a file that was opened as `expected`: the path still leads to it, its size and
/// (where checked) its times are as this server left them, and no other user can write it. While it is open, no other
/// file can have its inode number.
pub fn check_unchanged(
    path: &Path,
    expected: FileIdentity,
    size: u64,
    last_change: LastChange,
    with_times: bool,
) -> Result<(), Trouble> {
    let look = Look::at(path, with_times).map_err(|error| cannot_examine(path, error))?;
    check_same(path, &look, expected)?;
    check_look(path, &look)?;
    check_as_left(path, &look, size, last_change)
}

/// A user who can write the directory can put another file in place of this one.
pub fn check_directory(path: &Path) -> Result<(), Trouble> {
    prepare_directory(path.parent().unwrap_or(path), false)
}

fn cannot_examine(path: &Path, error: std::io::Error) -> Trouble {
    Trouble { reattach: true, ..Trouble::passing("examine", path, error) }
}

/// Whether the path still leads to the file that was opened as `expected`.
pub fn is_there(path: &Path, expected: FileIdentity) -> bool {
    Look::at(path, false).is_ok_and(|look| is_same(&look, expected))
}

/// Refuses to go on with a file that was moved away, renamed or deleted since it was opened.
pub fn require_there(path: &Path, opened: &Metadata) -> Result<(), Trouble> {
    match Look::at(path, false) {
        Ok(look) if is_same(&look, FileIdentity::of(opened, 0)) => Ok(()),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(cannot_examine(path, error)),
        _ => {
            let cause = format!("mirror file \"{}\" was moved while it was being opened", path.display());
            Err(Trouble::lasting(CauseKind::FileMissing, cause))
        }
    }
}

fn is_same(look: &Look, expected: FileIdentity) -> bool {
    (look.device, look.inode) == (expected.device, expected.inode)
}

fn check_same(path: &Path, look: &Look, expected: FileIdentity) -> Result<(), Trouble> {
    match is_same(look, expected) {
        true => Ok(()),
        false => Err(Trouble::suspicious(format!("mirror file \"{}\" was replaced by another file", path.display()))),
    }
}

fn check_as_left(path: &Path, look: &Look, size: u64, last_change: LastChange) -> Result<(), Trouble> {
    if look.size != size {
        return Err(Trouble::suspicious(format!(
            "mirror file \"{}\" was changed by another program: it has {} bytes, but {size} were written",
            path.display(),
            look.size
        )));
    }
    if look.stamp.is_some_and(|stamp| !last_change.admits(stamp)) {
        return Err(Trouble::suspicious(format!(
            "mirror file \"{}\" was changed by another program since it was last written",
            path.display()
        )));
    }
    Ok(())
}

fn check_look(path: &Path, look: &Look) -> Result<(), Trouble> {
    let unsafe_file =
        |(kind, why)| Trouble::lasting(kind, format!("mirror file \"{}\" is not safe: {why}", path.display()));
    if !look.is_file {
        return Err(unsafe_file((CauseKind::NotRegular, "it is not a regular file".to_owned())));
    }
    check_owner_and_mode(look.owner, look.mode).map_err(unsafe_file)
}

fn check_owner_and_mode(owner: u32, mode: u32) -> Result<(), (CauseKind, String)> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let own = unsafe { libc::geteuid() };
    if owner != own {
        let why = format!("it belongs to user {owner}, not to the server's user {own}");
        return Err((CauseKind::OtherOwner, why));
    }
    if mode & 0o022 != 0 {
        return Err((CauseKind::WritableByOthers, format!("its mode {:04o} lets others write it", mode & 0o7777)));
    }
    Ok(())
}

/// Appends whole lines.
pub fn write(mut file: &File, path: &Path, lines: &[u8]) -> Result<(), Trouble> {
    file.write_all(lines).map_err(|error| Trouble::passing("write to", path, error))
}

/// Makes everything written so far durable.
pub fn sync(file: &File, path: &Path) -> Result<(), Trouble> {
    file.sync_data().map_err(|error| Trouble::passing("sync", path, error))
}

pub fn size(file: &File, path: &Path) -> Result<u64, Trouble> {
    file.metadata().map(|metadata| metadata.len()).map_err(|error| Trouble::passing("examine", path, error))
}

/// Makes the names in a directory durable.
pub fn sync_directory(directory: &Path) -> Result<(), Trouble> {
    let synced = faults::error_at("sync_directory").and_then(|()| File::open(directory)?.sync_all());
    // As in Postgres: not all file systems can sync a directory.
    let synced = synced.or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::EBADF) => Ok(()),
        _ => Err(error),
    });
    synced.map_err(|error| {
        let text = format!("could not sync directory \"{}\": {}", directory.display(), cause(&error));
        Trouble::lasting(CauseKind::of(&error), text)
    })
}

/// Cuts off what a failed write has left.
pub fn cut(file: &File, path: &Path, size: u64) -> Result<(), Trouble> {
    let trouble = |error| Trouble { reattach: true, ..Trouble::passing("truncate", path, error) };
    faults::error_at("cut").and_then(|()| file.set_len(size)).map_err(trouble)?;
    let synced = faults::error_at("cut_sync").and_then(|()| file.sync_data());
    synced.map_err(|error| Trouble { unsynced: true, ..trouble(error) })
}
