//! Reads an item's file, and replaces it in one step.
//!
//! A file is opened from its directory, and the directory from the root down, without following symbolic links. What
//! somebody puts in place of a directory after the tree was examined is neither read nor written to. The same is true
//! of what was put in place of a file. Opening never waits, as opening a FIFO would for its other end.

use pg_notary::items::item::check_content_length;
use pg_notary::items::{ContentError, ItemError};
use pg_notary::regular_file;
use rustix::fs::{openat, renameat, unlinkat, AtFlags, Mode, OFlags, CWD};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{fchown, MetadataExt, PermissionsExt};
use std::path::{Component, Path};

/// Flags for a directory that is only passed through: it need not be readable.
#[cfg(target_os = "linux")]
const THROUGH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const THROUGH: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);
const READ: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
const CREATE: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(READ);

/// Why a file has no text.
pub enum ReadError {
    /// It cannot be read.
    Io(io::Error),
    /// What was read is no item.
    Item(ItemError),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        ReadError::Io(error)
    }
}

/// A file that was read.
pub struct ItemFile {
    directory: OwnedFd,
    name: OsString,
    metadata: Metadata,
}

impl ItemFile {
    /// Reads a file of UTF-8 text. `path` is absolute, and has no symbolic link in it.
    pub fn read(path: &Path) -> Result<(Self, String), ReadError> {
        let directory = open_directory(path.parent().unwrap_or(path))?;
        let name = path.file_name().unwrap_or_default().to_owned();
        let file = open(&directory, &name)?;
        let metadata = file.metadata()?;
        check_content_length(metadata.len()).map_err(ReadError::Item)?;
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        // A file that grows meanwhile is noticed when it is replaced, and is not read for ever.
        file.take(metadata.len()).read_to_end(&mut bytes)?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok((ItemFile { directory, name, metadata }, text)),
            Err(error) => {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
                Err(ReadError::Item(ContentError::on_line(line, "not UTF-8 text: save it as UTF-8").into()))
            }
        }
    }

    /// Replaces the file: a reader, or a crash, sees the old file or the new one, whole. Its mode and owner stay.
    ///
    /// # Errors
    /// If the new file cannot be written, or the old one has changed since it was read. Then the old one stays.
    pub fn replace(&self, text: &str) -> io::Result<()> {
        let (temporary, mut file) = Temporary::create(&self.directory)?;
        file.write_all(text.as_bytes())?;
        keep_owner_and_mode(&file, &self.metadata)?;
        file.sync_all()?;
        if !is_same(&open(&self.directory, &self.name)?.metadata()?, &self.metadata) {
            return Err(io::Error::other("the file was changed while it was being processed: try again"));
        }
        temporary.rename(&self.name)?;
        File::from(openat(&self.directory, ".", OFlags::DIRECTORY | READ, Mode::empty())?).sync_all()
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let mut directory = openat(CWD, "/", THROUGH, Mode::empty())?;
    for part in path.components() {
        match part {
            Component::RootDir => {}
            Component::Normal(name) => directory = openat(&directory, name, THROUGH | READ, Mode::empty())?,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(directory)
}

fn open(directory: &OwnedFd, name: &OsStr) -> io::Result<File> {
    regular_file::checked(openat(directory, name, READ, Mode::empty())?.into())
}

/// A new file in a directory, removed when dropped unless it was given another name.
struct Temporary<'a> {
    directory: &'a OwnedFd,
    name: Option<String>,
}

impl<'a> Temporary<'a> {
    #[allow(clippy::disallowed_methods, reason = "this program forks no other")]
    fn create(directory: &'a OwnedFd) -> io::Result<(Self, File)> {
        let name = format!(".pg_notary-{}", uuid::Uuid::new_v4().simple());
        let file = openat(directory, &name, CREATE, Mode::RUSR | Mode::WUSR)?;
        Ok((Temporary { directory, name: Some(name) }, file.into()))
    }

    fn rename(mut self, to: &OsStr) -> io::Result<()> {
        if let Some(name) = &self.name {
            renameat(self.directory, name, self.directory, to)?;
        }
        self.name = None;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // A file that cannot be removed stays: the error that led here is reported.
            let _ = unlinkat(self.directory, name, AtFlags::empty());
        }
    }
}

fn keep_owner_and_mode(new: &File, old: &Metadata) -> io::Result<()> {
    let now = new.metadata()?;
    if (now.uid(), now.gid()) != (old.uid(), old.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid()))?;
    }
    // After the owner, since a change of owner may clear bits of the mode.
    new.set_permissions(Permissions::from_mode(old.mode() & 0o7777))
}

fn is_same(now: &Metadata, old: &Metadata) -> bool {
    let identity = |file: &Metadata| (file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec());
    identity(now) == identity(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::mpsc;
    use std::time::Duration;

    /// When the tree was examined, a regular file was there.
    #[test]
    fn a_fifo_in_the_place_of_a_file_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("tool.py");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let (done, outcome) = mpsc::channel();
        std::thread::spawn(move || done.send(ItemFile::read(&path).map(|(_, text)| text)));
        match outcome.recv_timeout(Duration::from_secs(10)).expect("reading it ends") {
            Err(ReadError::Io(error)) => assert_eq!(error.to_string(), "it is not a regular file"),
            Err(ReadError::Item(error)) => panic!("{error}"),
            Ok(text) => panic!("it was read: {text:?}"),
        }
    }
}
