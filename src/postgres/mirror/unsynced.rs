//! What can be read in the file, but may not be on disk. The kernel reports a failed sync once. It may then take the
//! data for written: the next sync succeeds, and reads return the data from memory until that memory is reused. See
//! <https://wiki.postgresql.org/wiki/Fsync_Errors>.

use super::cause::CauseKind;
use super::file::{self, Trouble};
use super::handle::Mirror;
use super::remembered::Remembered;
use super::state_file::State;
use crate::postgres::faults;
use pgrx::check_for_interrupts;
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// How many bytes to write again at a time.
const PIECE: usize = 1 << 20;

thread_local! {
    /// The file whose end this process has written again: a file that cannot be attached is opened again and again.
    static WRITTEN: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// After a failed sync, cuts the file back to what is certainly on disk. The database also has what is cut off, and it
/// is appended again, or it was rolled back.
pub fn cut_off(mirror: &Mirror, file: &File, path: &Path) -> Result<(), Trouble> {
    let metadata = file.metadata().map_err(|error| Trouble::passing("examine", path, error))?;
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
    WRITTEN.set(Some(number(file, path)?));
    Ok(())
}

/// Writes what follows the first `on_disk` bytes again, in place, if this server has not opened the file before. The
/// server before it may have met with a failed sync and stopped, and no process knows. What the kernel has given up by
/// then does not read as lines of this ledger, and shows like any damage.
pub fn write_again(mirror: &Mirror, file: &File, path: &Path, on_disk: u64) -> Result<(), Trouble> {
    let (size, number) = (file::size(file, path)?, number(file, path)?);
    if mirror.lock().was_attached || on_disk >= size || WRITTEN.get() == Some(number) {
        return Ok(());
    }
    let Some(in_place) = open_in_place(file, path)? else { return Ok(()) };
    copy(file, &in_place, on_disk..size).map_err(|error| Trouble::passing("write again what is in", path, error))?;
    WRITTEN.set(Some(number));
    pgrx::log!(
        "pg_notary has written the last {} bytes of mirror file \"{}\" again: they may not have been on disk",
        size - on_disk,
        path.display()
    );
    Ok(())
}

/// Opens the file for writing in place: Linux always appends to a file that was opened for appending, whatever the
/// offset. `None` if the attribute `chattr +a` forbids that.
fn open_in_place(file: &File, path: &Path) -> Result<Option<File>, Trouble> {
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let opened = match opened {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(None),
        opened => opened.map_err(|error| Trouble::passing("open", path, error))?,
    };
    match number(&opened, path)? == number(file, path)? {
        true => Ok(Some(opened)),
        false => {
            let cause = format!("mirror file \"{}\" was replaced by another file", path.display());
            Err(Trouble::lasting(CauseKind::Changed, cause))
        }
    }
}

/// Device and inode, which no other open file has.
fn number(file: &File, path: &Path) -> Result<(u64, u64), Trouble> {
    let metadata = file.metadata().map_err(|error| Trouble::passing("examine", path, error))?;
    Ok((metadata.dev(), metadata.ino()))
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
    let synced = faults::error_at("take_over").map_err(|error| Trouble::passing("sync", path, error));
    let synced = synced.and_then(|()| file::sync(file, path));
    synced.or_else(|trouble| note_found(mirror, file, path, remembered).and(Err(trouble)))
}

/// Cuts off a torn last line, which also syncs what stands before it.
pub fn cut_torn(mirror: &Mirror, file: &File, path: &Path, end: u64, remembered: &Remembered) -> Result<(), Trouble> {
    let cut = file::cut(file, path, end);
    cut.or_else(|trouble| note_found(mirror, file, path, remembered).and(Err(trouble)))
}

/// Notes that what was found in the file could not be synced.
fn note_found(mirror: &Mirror, file: &File, path: &Path, remembered: &Remembered) -> Result<(), Trouble> {
    let (device, inode) = number(file, path)?;
    let on_disk = on_disk(mirror, State::read(path).as_ref(), remembered);
    // It may be another file of this ledger, about which that is not known.
    if ends_line(file, on_disk) {
        mirror.lock().note_unsynced(device, inode, on_disk);
    }
    Ok(())
}

/// Whether a line ends before this offset.
fn ends_line(file: &File, offset: u64) -> bool {
    let mut last = [0];
    let is_read = offset > 0 && file.read_exact_at(&mut last, offset - 1).is_ok();
    is_read && last == *b"\n"
}

/// How much of the file has been on disk, as far as is known.
pub fn on_disk(mirror: &Mirror, state: Option<&State>, remembered: &Remembered) -> u64 {
    let is_own = |state: &&State| {
        state.ledger_id == remembered.ledger_id && remembered.attachment.is_some_and(|own| state.is_written_by(own))
    };
    let synced = state.filter(is_own).map_or(0, |state| state.synced);
    remembered.acknowledged.max(synced).max(durable_before(mirror, remembered))
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
