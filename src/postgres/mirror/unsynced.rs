//! What can be read in the file, but may not be on disk. The kernel reports a failed sync once. It may then take the
//! data for written: the next sync succeeds, and reads return the data from memory until that memory is reused. See
//! <https://wiki.postgresql.org/wiki/Fsync_Errors>.

use super::cause::CauseKind;
use super::file::{self, Trouble};
use super::file_identity::FileIdentity;
use super::handle::Mirror;
use super::remembered::Remembered;
use super::state_file::State;
use crate::postgres::faults;
use pgrx::check_for_interrupts;
use std::cell::Cell;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// How many bytes to write again at a time.
const PIECE: usize = 1 << 20;

thread_local! {
    /// The file that this process has written again, as far as it needs that: a file that cannot be attached is opened
    /// again and again.
    static WRITTEN: Cell<Option<FileIdentity>> = const { Cell::new(None) };
}

/// After a failed sync, cuts the file back to what is certainly on disk. The database also has what is cut off, and it
/// is appended again, or it was rolled back.
pub fn cut_off(mirror: &Mirror, file: &File, path: &Path) -> Result<(), Trouble> {
    let metadata = examine(file, path)?;
    let unsynced = mirror.lock().reopening.unsynced;
    let Some(from) = unsynced.from(&metadata) else { return Ok(()) };
    mirror.lock().reopening.note_cut_off();
    file::cut(file, path, from)?;
    pgrx::log!(
        "pg_notary has cut mirror file \"{}\" back to {from} bytes and appends the rest again: a sync has failed, \
         and the rest may not be on disk",
        path.display()
    );
    Ok(())
}

/// Notes that all of this file is on disk: this process has just made it.
pub fn note_new(file: &File, path: &Path) -> Result<(), Trouble> {
    WRITTEN.set(Some(FileIdentity::of(&examine(file, path)?, 0)));
    Ok(())
}

/// Writes again, in place, what is not known to be on disk, unless this server itself has last had this very file. The
/// server before it may have met with a failed sync and stopped, and who has copied the file here may not have synced
/// it: no process knows. What the kernel has given up by then does not read as lines of this ledger, and shows like any
/// damage.
pub fn write_again(
    mirror: &Mirror,
    file: &File,
    path: &Path,
    state: Option<&State>,
    remembered: &Remembered,
) -> Result<(), Trouble> {
    let metadata = examine(file, path)?;
    let Some(from) = first_to_write(mirror, &metadata, state, remembered) else { return Ok(()) };
    let failed = |error| Trouble::passing("write again what is in", path, error);
    let Some(in_place) = open_in_place(file, path)? else {
        // Of this file it is known that a sync has failed.
        let must = mirror.lock().reopening.unsynced.is_all_of(&metadata);
        return if must { Err(failed(Error::from_raw_os_error(libc::EPERM))) } else { Ok(()) };
    };
    copy(file, &in_place, from..metadata.len()).map_err(failed)?;
    WRITTEN.set(Some(FileIdentity::of(&metadata, 0)));
    pgrx::log!(
        "pg_notary has written the last {} bytes of mirror file \"{}\" again: they may not have been on disk",
        metadata.len() - from,
        path.display()
    );
    Ok(())
}

/// Where that begins which is to be written again, if anything is.
fn first_to_write(mirror: &Mirror, file: &Metadata, state: Option<&State>, remembered: &Remembered) -> Option<u64> {
    if WRITTEN.get().is_some_and(|written| written.is_of(file)) {
        return None;
    }
    let (is_all, is_known) = {
        let fields = mirror.lock();
        (fields.reopening.unsynced.is_all_of(file), fields.has_attached(file))
    };
    match (is_all, is_known) {
        (true, _) => Some(0),
        // What a failed sync may have left off the disk was cut off.
        (false, true) => None,
        (false, false) => Some(on_disk_of(mirror, file, state, remembered)).filter(|from| *from < file.len()),
    }
}

/// Opens the file for writing in place: Linux always appends to a file that was opened for appending, whatever the
/// offset. `None` if the attribute `chattr +a` forbids that.
fn open_in_place(file: &File, path: &Path) -> Result<Option<File>, Trouble> {
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let opened = match opened {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(None),
        opened => opened.map_err(|error| Trouble::passing("open", path, error))?,
    };
    match FileIdentity::of(&examine(&opened, path)?, 0).is_of(&examine(file, path)?) {
        true => Ok(Some(opened)),
        false => {
            let cause = format!("mirror file \"{}\" was replaced by another file", path.display());
            Err(Trouble::lasting(CauseKind::Changed, cause))
        }
    }
}

fn examine(file: &File, path: &Path) -> Result<Metadata, Trouble> {
    file.metadata().map_err(|error| Trouble::passing("examine", path, error))
}

fn copy(from: &File, to: &File, range: Range<u64>) -> Result<(), Error> {
    let mut piece = vec![0; PIECE.min((range.end - range.start) as usize)];
    for offset in range.clone().step_by(PIECE) {
        // All of a large file may have to be written again.
        check_for_interrupts!();
        let length = PIECE.min((range.end - offset) as usize);
        from.read_exact_at(&mut piece[..length], offset)?;
        to.write_all_at(&piece[..length], offset)?;
    }
    Ok(())
}

/// Syncs what an earlier attachment wrote and did not sync.
pub fn sync_found(mirror: &Mirror, file: &File, path: &Path, remembered: &Remembered) -> Result<(), Trouble> {
    faults::at("take_over");
    let synced = faults::error_at("take_over").map_err(|error| Trouble::passing("sync", path, error));
    let synced = synced.and_then(|()| file::sync(file, path));
    synced.or_else(|trouble| note_found(mirror, file, path, remembered).and(Err(trouble)))
}

/// Cuts off a torn last line, which also syncs what stands before it.
pub fn cut_torn(mirror: &Mirror, file: &File, path: &Path, end: u64, remembered: &Remembered) -> Result<(), Trouble> {
    let cut = file::cut(file, path, end);
    cut.or_else(|trouble| note_found(mirror, file, path, remembered).and(Err(trouble)))
}

/// Notes that what was found in the file could not be synced: what is not known to be on disk is to be cut off. If
/// nothing can be cut off, all of a file that others may have written is to be written again, even if this process has
/// done so.
fn note_found(mirror: &Mirror, file: &File, path: &Path, remembered: &Remembered) -> Result<(), Trouble> {
    WRITTEN.set(None);
    let metadata = examine(file, path)?;
    let on_disk = on_disk_of(mirror, &metadata, State::read(path).as_ref(), remembered);
    let has_more = on_disk < metadata.len();
    let can_be_cut = has_more && ends_line(file, on_disk);
    let mut fields = mirror.lock();
    // All that is there was synced before.
    let is_on_disk = on_disk == metadata.len() && fields.has_attached(&metadata) && !fields.suspect;
    match can_be_cut {
        true => fields.note_unsynced(metadata.dev(), metadata.ino(), on_disk),
        false if is_on_disk => {}
        false => fields.note_all_unsynced(&metadata),
    }
    Ok(())
}

/// Whether a line ends before this offset.
fn ends_line(file: &File, offset: u64) -> bool {
    let mut last = [0];
    let is_read = offset > 0 && file.read_exact_at(&mut last, offset - 1).is_ok();
    is_read && last == *b"\n"
}

/// How much of the ledger's file has been on disk, as far as is known: no file with less is that.
pub fn on_disk(mirror: &Mirror, state: Option<&State>, remembered: &Remembered) -> u64 {
    let synced = own(state, remembered).map_or(0, |state| state.synced);
    remembered.acknowledged.max(synced).max(durable_before(mirror, remembered))
}

/// How much of this very file has been on disk, as far as is known. A copy may have nothing there, whatever is known of
/// the file that it was made from.
fn on_disk_of(mirror: &Mirror, file: &Metadata, state: Option<&State>, remembered: &Remembered) -> u64 {
    let synced = own(state, remembered).filter(|state| state.is_about(file)).map(|state| state.synced);
    let is_known = mirror.lock().has_attached(file);
    let durable = is_known.then(|| durable_before(mirror, remembered));
    synced.max(durable).map_or(0, |known| known.max(remembered.acknowledged))
}

/// The state, if this database has written it.
fn own<'a>(state: Option<&'a State>, remembered: &Remembered) -> Option<&'a State> {
    state.filter(|state| {
        state.ledger_id == remembered.ledger_id && remembered.attachment.is_some_and(|own| state.is_written_by(own))
    })
}

/// How much of the file this server itself has had on disk. Lines of transactions that failed later count too: they are
/// voided, so a file without them has been cut.
fn durable_before(mirror: &Mirror, remembered: &Remembered) -> u64 {
    let fields = mirror.lock();
    let is_own = remembered.attachment.is_some_and(|own| fields.ownership.is_of(own));
    if is_own && fields.was_attached {
        fields.durable
    } else {
        0
    }
}
