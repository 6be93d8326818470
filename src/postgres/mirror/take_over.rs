//! Putting a file that was examined in the place of the one that was written before, at first for the worker alone.

use super::cause::CauseKind;
use super::file::{self, Trouble};
use super::file_identity::{self, FileIdentity};
use super::fixed_text::FixedText;
use super::handle::Mirror;
use super::last_change::{FileStamp, LastChange};
use super::remembered::Remembered;
use super::shared::{Attachment, LockedMirror, MirrorState, Ownership};
use super::state_file::{self, Known, StateFile};
use super::tail::Tail;
use crate::ledger::wal::WalPosition;
use crate::postgres::errors::{cause, Failure};
use crate::postgres::settings::{self, MirrorMode};
use crate::postgres::timeout::Timeout;
use crate::postgres::wait_events;
use pgrx::PgSqlErrorCode;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;
use uuid::Uuid;

/// How long to wait for committing transactions whose lines the file may lack.
const COMMIT_DEADLINE: Duration = Duration::from_secs(5);

/// Makes this file the one that is written, at first by the worker alone.
pub fn take_over(
    mirror: &Mirror,
    file: &File,
    path: &Path,
    tail: &Tail,
    remembered: &Remembered,
    attachment: Uuid,
) -> Result<(), Trouble> {
    // Read before the file's metadata: the file may then hold lines of later WAL, but the state never claims WAL that
    // is newer than the file.
    let wal = state_file::flushed_wal();
    let metadata = file.metadata().map_err(|error| Trouble::lasting(CauseKind::of(&error), cause(&error)))?;
    let text = path.to_string_lossy();
    if text.len() > FixedText::<1024>::CAPACITY {
        let cause = format!("the path of mirror file \"{text}\" is too long");
        return Err(Trouble::lasting(CauseKind::Other, cause));
    }
    let ownership = Ownership {
        ledger_id: *remembered.ledger_id.as_bytes(),
        attachment: *attachment.as_bytes(),
        previous: *remembered.attachment.unwrap_or_default().as_bytes(),
        is_remembered: false,
    };
    let is_local = file::is_local(file);
    switch_to(&mut mirror.lock(), &metadata, &text, is_local, tail.last_block, ownership);
    // A state file that is made in a place that the file has left would be missed where the file is now.
    file::require_there(path, &metadata)?;
    // Only now, or the writer could overwrite it with the state of the previous attachment.
    write_state(path, &metadata, &ownership, wal)
}

/// Has all processes write this file from now on. Its offsets are others than those of the file before.
fn switch_to(
    fields: &mut LockedMirror<'_>,
    metadata: &Metadata,
    path: &str,
    is_local: bool,
    last_block: i64,
    ownership: Ownership,
) {
    let (generation, reopening) = (fields.identity.generation + 1, fields.reopening.taken_over());
    let is_other = !fields.identity.is_of(metadata);
    fields.is_refused &= !is_other;
    fields.identity = FileIdentity::of(metadata, generation);
    fields.path.set(path);
    (fields.is_local, fields.is_attended, fields.is_sync_attended) = (is_local, false, false);
    fail_those_who_wait(fields, metadata.len());
    fields.failures += 1;
    (fields.head, fields.tail, fields.shift, fields.durable) = (0, 0, metadata.len(), metadata.len());
    (fields.sync_wanted, fields.promised, fields.suspect, fields.is_troubled) = (0, 0, false, false);
    (fields.must_be_read, fields.reopening) = (false, reopening);
    fields.last_change = LastChange::At(FileStamp::of(metadata));
    fields.last_block = last_block;
    fields.was_attached = true;
    fields.is_followed = settings::mirror_mode() == MirrorMode::Async;
    (fields.others_from, fields.others_to) = (0, 0);
    fields.ownership = ownership;
    fields.attachment = Attachment::Repairing;
}

/// Says in the state file whose the file is. This must be on disk before the database remembers the attachment.
/// Otherwise a loss of power could leave the state of an earlier one, as if another database had been put in place of
/// this one.
fn write_state(path: &Path, metadata: &Metadata, ownership: &Ownership, wal: WalPosition) -> Result<(), Trouble> {
    let state = StateFile::open(path)?;
    let known = Known {
        size: metadata.len(),
        synced: metadata.len(),
        inode: metadata.ino(),
        born: file_identity::born(metadata),
        stamp: FileStamp::of(metadata),
    };
    state_file::write(&state, ownership, &known, wal, false)
        .and_then(|()| state.sync())
        .map_err(|error| Trouble::passing("write the state file of", path, error))
}

/// Waits until all transactions that have appended lines have ended. Appends that are under way fail. The entries of
/// the others are then committed or gone, so the search for what the file lacks finds them.
pub fn wait_for_committing(mirror: &Mirror) -> Result<(), Failure> {
    {
        let mut fields = mirror.lock();
        let keep = fields.durable;
        fail_those_who_wait(&mut fields, keep);
    }
    mirror.state().broadcast();
    let mut timeout = Timeout::after(COMMIT_DEADLINE);
    loop {
        // Lines of the ledger itself have no owner, so their appends are counted separately.
        let is_appending = mirror.lock().appending > 0;
        if !is_appending && mirror.state().owners.is_empty() {
            break;
        }
        if timeout.is_over() {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
                "cannot begin the mirror file: transactions that recorded entries are still committing",
            )
            .detail("The file must contain the lines of those that commit, and their outcome is not known yet.")
            .hint("The transactions are waiting for a synchronous standby or for the disk: see wait_event in pg_stat_activity. The worker tries again by itself."));
        }
        mirror.state().sleep(100, wait_events::mirror_attach());
    }
    MirrorState::stop_sleeping();
    Ok(())
}

/// Fails all appends that wait for an earlier attachment: their offsets may be those of another file. If that
/// attachment failed, they report why.
fn fail_those_who_wait(fields: &mut LockedMirror<'_>, keep: u64) {
    let (kind, cause) = match fields.attachment {
        Attachment::Failed => (fields.cause.kind(), fields.cause.text()),
        _ => (CauseKind::Passing, "The mirror file was opened again.".to_owned()),
    };
    fields.fail(kind, &cause, keep);
}
