//! Renaming the file, so that a new one is begun.

use super::file;
use super::handle::Mirror;
use super::lost::Lost;
use super::opening;
use super::refused::Refused;
use super::remembered::{self, MirrorPath, Remembered};
use super::state_file;
use crate::ledger::file_ranges::FileRanges;
use crate::postgres::log_state;
use crate::postgres::tables;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Renames the file and forgets it; the next attachment begins a new one. Returns the new name of the old file, if
/// there was one. The caller is the worker, in a transaction, and holds the sealing lock. It has silenced the mirror.
pub fn set_aside(mirror: &Mirror) -> Result<Option<PathBuf>, Refused> {
    let remembered = Remembered::read();
    let place = remembered::configured_path(remembered.ledger_id);
    let kept = rename_aside(&place)?;
    log_state::forget_mirror();
    let mut fields = mirror.lock();
    fields.suspect = false;
    // These are offsets in the old file. Where each transaction's lines stand is found anew.
    fields.forget_all_prepared();
    (fields.void, fields.voiding) = (FileRanges::NONE, FileRanges::NONE);
    (fields.reopening.knows_aborted, fields.reopening.lost) = (false, Lost::Nothing);
    drop(fields);
    Ok(kept)
}

fn rename_aside(place: &MirrorPath) -> Result<Option<PathBuf>, Refused> {
    file::prepare_directory(&place.directory, place.is_default)?;
    if std::fs::symlink_metadata(&place.path).is_err() {
        return Ok(None);
    }
    // Another server that uses the same directory may own the file: the lock tells. A file that cannot be opened is not
    // being written.
    let mut options = OpenOptions::new();
    // NFS grants an exclusive lock only on a descriptor that is open for writing.
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let opened = options.open(&place.path).ok();
    opened.as_ref().map_or(Ok(()), |file| file::lock(file, &place.path))?;
    // 2026-11-24T03:15:25.123456Z: to the microsecond, and sorted by age.
    let now: String = tables::now().to_string().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let kept = PathBuf::from(format!("{}.{now}", place.path.display()));
    opening::rename(&place.path, &kept)?;
    std::fs::remove_file(state_file::path_of(&place.path)).ok();
    file::sync_directory(&place.directory).map_err(|trouble| Refused::from(trouble).having_kept(&kept))?;
    Ok(Some(kept))
}
