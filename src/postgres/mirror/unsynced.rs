//! What can be read in the file and may not be on disk all the same. The kernel tells of a sync that has failed once, and may
//! take what it could not write for written from then on: the next sync says nothing of it, and it is read from memory until
//! that is used for something else. See <https://wiki.postgresql.org/wiki/Fsync_Errors>.

use super::file::{self, Trouble};
use super::handle::Mirror;
use super::remembered::Remembered;
use super::state_file::State;
use crate::postgres::faults;
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// What is written again at a time.
const PIECE: usize = 1 << 20;

thread_local! {
    /// The file of which this process has written the end itself: one that cannot be attached is opened again and again.
    static WRITTEN: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// Cuts the file back to what is on disk for sure, where a sync has failed. What that takes off the database has too, and it is
/// appended again, or it was rolled back.
pub fn cut_off(mirror: &Mirror, file: &File, path: &Path) -> Result<(), Trouble> {
    let metadata = file.metadata().map_err(|error| Trouble::passing("examine", path, error))?;
    let unsynced = mirror.lock().unsynced;
    let Some(from) = unsynced.from(&metadata) else { return Ok(()) };
    file::cut(file, path, from)?;
    pgrx::log!(
        "pg_notary has cut mirror file \"{}\" back to {from} bytes, and appends what follows again: a sync has failed, and it may not be on disk",
        path.display()
    );
    Ok(())
}

/// All of this file is on disk: this process has made it.
pub fn note_new(file: &File, path: &Path) -> Result<(), Trouble> {
    WRITTEN.set(Some(number(file, path)?));
    Ok(())
}

/// Where this server has not opened the file before, the one before it may have met with such a sync and stopped, and nobody
/// knows. So what follows the first `on_disk` bytes is written again as it is read, in its place. What the kernel has given up
/// by then does not read as lines of this ledger, and is seen as any damage is.
pub fn write_again(mirror: &Mirror, file: &File, path: &Path, on_disk: u64) -> Result<(), Trouble> {
    let (size, number) = (file::size(file, path)?, number(file, path)?);
    if mirror.lock().was_attached || on_disk >= size || WRITTEN.get() == Some(number) {
        return Ok(());
    }
    let Some(in_place) = open_in_place(file, path)? else { return Ok(()) };
    copy(file, &in_place, on_disk..size).map_err(|error| Trouble::passing("write again what is in", path, error))?;
    WRITTEN.set(Some(number));
    pgrx::log!(
        "pg_notary has written the last {} bytes of mirror file \"{}\" again: it is not known that they were on disk",
        size - on_disk,
        path.display()
    );
    Ok(())
}

/// Opens the file so that what is there can be written: to one that was opened for appending, Linux appends whatever the offset.
/// `None` with the attribute `chattr +a`, which keeps the server from doing that.
fn open_in_place(file: &File, path: &Path) -> Result<Option<File>, Trouble> {
    let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let opened = match opened {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(None),
        opened => opened.map_err(|error| Trouble::passing("open", path, error))?,
    };
    match number(&opened, path)? == number(file, path)? {
        true => Ok(Some(opened)),
        false => Err(Trouble::lasting(format!("mirror file \"{}\" was replaced by another file", path.display()))),
    }
}

/// No other open file has it.
fn number(file: &File, path: &Path) -> Result<(u64, u64), Trouble> {
    let metadata = file.metadata().map_err(|error| Trouble::passing("examine", path, error))?;
    Ok((metadata.dev(), metadata.ino()))
}

fn copy(from: &File, to: &File, range: Range<u64>) -> Result<(), Error> {
    let mut piece = vec![0; PIECE.min((range.end - range.start) as usize)];
    for offset in range.clone().step_by(PIECE) {
        let length = PIECE.min((range.end - offset) as usize);
        from.read_exact_at(&mut piece[..length], offset)?;
        to.write_all_at(&piece[..length], offset)?;
    }
    Ok(())
}

/// Syncs what an earlier attachment wrote and did not sync.
pub fn sync_found(mirror: &Mirror, file: &File, path: &Path, remembered: &Remembered) -> Result<(), Trouble> {
    let metadata = file.metadata().map_err(|error| Trouble::passing("examine", path, error))?;
    let synced = faults::error_at("take_over").map_err(|error| Trouble::passing("sync", path, error));
    synced.and_then(|()| file::sync(file, path)).inspect_err(|_| {
        let on_disk = on_disk(mirror, State::read(path).as_ref(), remembered);
        // It may be another file of this ledger, of which that is not known.
        if ends_line(file, on_disk) {
            mirror.lock().note_unsynced(metadata.dev(), metadata.ino(), on_disk);
        }
    })
}

/// Whether a line ends before this offset.
fn ends_line(file: &File, offset: u64) -> bool {
    let mut last = [0];
    let is_read = offset > 0 && file.read_exact_at(&mut last, offset - 1).is_ok();
    is_read && last == *b"\n"
}

/// How much of the file has been on disk, as far as anybody knows.
pub fn on_disk(mirror: &Mirror, state: Option<&State>, remembered: &Remembered) -> u64 {
    let is_own =
        |state: &&State| state.ledger_id == remembered.ledger_id && Some(state.attachment) == remembered.attachment;
    let synced = state.filter(is_own).map_or(0, |state| state.synced);
    remembered.acknowledged.max(synced).max(durable_before(mirror, remembered))
}

/// How much of the file this server itself has had on disk. Lines of transactions that failed later count too: whoever cut
/// those off has cut the file.
fn durable_before(mirror: &Mirror, remembered: &Remembered) -> u64 {
    let fields = mirror.lock();
    let is_same = Some(fields.ownership.attachment) == remembered.attachment.map(|id| *id.as_bytes());
    if is_same && fields.was_attached {
        fields.durable
    } else {
        0
    }
}
