//! Opening the file at its place: creating it with its header, or renaming it after its database.

use super::cause::CauseKind;
use super::file::{self, Trouble};
use super::remembered::{self, MirrorPath, Remembered};
use super::state_file::{self, State};
use super::unsynced;
use crate::postgres::errors::cause;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Opens and locks the file; creates it if the database remembers none.
pub fn open(place: &MirrorPath, remembered: &Remembered) -> Result<File, Trouble> {
    file::prepare_directory(&place.directory, place.is_default)?;
    let is_first = remembered.acknowledged == 0;
    if !is_first && !place.path.exists() {
        rename_with_database(place, remembered)?;
    }
    let opened = file::open(&place.path, is_first)?;
    file::lock(&opened, &place.path)?;
    let header = remembered.header_line();
    if is_first && is_without_header(&opened, &place.path, &header)? {
        // An empty file may only be appended to (chattr +a), not cut.
        if file::size(&opened, &place.path)? > 0 {
            file::cut(&opened, &place.path, 0)?;
        }
        let written = file::write(&opened, &place.path, &header).and_then(|()| file::sync(&opened, &place.path));
        // The header may not be on disk, so the next attempt must write it again.
        written.inspect_err(|_| drop(opened.set_len(0)))?;
        unsynced::note_new(&opened, &place.path)?;
    }
    if is_first {
        sync_names(place)?;
    }
    Ok(opened)
}

/// Makes the names of a new file durable, and of the directory if the server has made that. An earlier attempt may have
/// made them and failed before they were.
fn sync_names(place: &MirrorPath) -> Result<(), Trouble> {
    if let Some(parent) = place.directory.parent().filter(|_| place.is_default) {
        file::sync_directory(parent)?;
    }
    file::sync_directory(&place.directory)
}

/// Whether the file is empty, or a crash has kept its header from getting there: the header is written in part, or
/// reads as zeros.
fn is_without_header(file: &File, path: &Path, header: &[u8]) -> Result<bool, Trouble> {
    let size = file::size(file, path)? as usize;
    if size > header.len() {
        return Ok(false);
    }
    let mut found = vec![0; size];
    file.read_exact_at(&mut found, 0).map_err(|error| Trouble::passing("read", path, error))?;
    let is_begun = size < header.len() && header.starts_with(&found);
    Ok(is_begun || found.iter().all(|byte| *byte == 0))
}

/// Renames the file after its database was renamed: the file's name begins with the database's.
fn rename_with_database(place: &MirrorPath, remembered: &Remembered) -> Result<(), Trouble> {
    let Some(old) = remembered::under_other_name(place, remembered.ledger_id) else {
        return Ok(());
    };
    check_own(&old, place, remembered)?;
    let locked = file::open(&old, false)?;
    file::lock(&locked, &old)?;
    let renamed = std::fs::rename(state_file::path_of(&old), state_file::path_of(&place.path));
    // The mirror works without its state file, so a failure is ignored.
    renamed.ok();
    rename(&old, &place.path)?;
    pgrx::log!("pg_notary renamed mirror file \"{}\" to \"{}\"", old.display(), place.path.display());
    file::sync_directory(&place.directory)
}

/// Renames a mirror file.
pub fn rename(from: &Path, to: &Path) -> Result<(), Trouble> {
    std::fs::rename(from, to).map_err(|error| {
        let (old, new) = (from.display(), to.display());
        let text = format!("could not rename mirror file \"{old}\" to \"{new}\": {}", cause(&error));
        Trouble::lasting(CauseKind::of(&error), text)
    })
}

/// Two databases have the same ledger if one was filled from a dump or an export of the other. The other database's
/// file must not be taken for this database's own file under its old name.
fn check_own(old: &Path, place: &MirrorPath, remembered: &Remembered) -> Result<(), Trouble> {
    let state = State::read(old).filter(|state| state.ledger_id == remembered.ledger_id);
    let other = match state {
        Some(state) if remembered.attachment.is_none_or(|own| state.is_written_by(own)) => return Ok(()),
        Some(_) => "its state file says that another database has written it",
        None if remembered::is_of_other_database(old, place, remembered.ledger_id) => {
            "there is a database of that name"
        }
        None => return Ok(()),
    };
    let text = format!(
        "mirror file \"{}\" does not exist, and \"{}\", which belongs to the same ledger, is not used in its place: {other}",
        place.path.display(),
        old.display()
    );
    Err(Trouble::lasting(CauseKind::Other, text))
}
