//! Reading an item's file, and replacing it in one step.

use pg_notary::items::item::check_content_length;
use pg_notary::items::{ContentError, ItemError};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{fchown, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

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

/// Reads a file of UTF-8 text, without following a link.
pub fn read(path: &Path) -> Result<(String, Metadata), ReadError> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let metadata = file.metadata()?;
    check_content_length(metadata.len()).map_err(ReadError::Item)?;
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    // A file that grows meanwhile is noticed when it is replaced, and is not read for ever.
    file.take(metadata.len()).read_to_end(&mut bytes)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok((text, metadata)),
        Err(error) => {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
            Err(ReadError::Item(ContentError::on_line(line, "not UTF-8 text: save it as UTF-8").into()))
        }
    }
}

/// Replaces the file that `old` was read of: a reader, or a crash, sees the old file or the new one, whole. Its mode and owner
/// stay.
///
/// # Errors
/// If the new file cannot be written, or the old one has changed since it was read. Then the old one stays.
pub fn replace(path: &Path, old: &Metadata, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut new = tempfile::Builder::new().prefix(".pg_notary-").tempfile_in(directory)?;
    new.write_all(text.as_bytes())?;
    keep_owner_and_mode(new.as_file(), old)?;
    new.as_file().sync_all()?;
    if !is_same(&fs::symlink_metadata(path)?, old) {
        return Err(io::Error::other("the file was changed meanwhile: try again"));
    }
    new.persist(path)?;
    File::open(directory)?.sync_all()
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
