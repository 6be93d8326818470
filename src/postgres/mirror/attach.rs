//! Opening the file, and making file and database agree before anything new is written.
//!
//! The worker does this when it starts, after a change of settings, when entries were recorded without the file, and
//! whenever a write finds that the file is not what it was. Everything before the settled place is known to agree, so
//! the worker reads only the tail behind it, unless another program may have changed the file. In the tail
//!
//! * a torn last line is cut off, and what a loss of power has left behind a hole, but nothing else;
//! * entry lines whose transaction did not commit are voided;
//! * entries and blocks that the database has and the file lacks are appended.
//!
//! The worker leaves the file as it is if it is shorter than what was acknowledged, belongs to another ledger, holds
//! what the database does not, or was last written by another database.

use super::catch_up::{self, InFile};
use super::differing;
use super::file::{self, Trouble};
use super::handle::Mirror;
use super::hole;
use super::last_change::FileStamp;
use super::lost::Lost;
use super::lost_commits;
use super::open_lines::OpenLine;
use super::opening;
use super::prepared;
use super::refused::Refused;
use super::remembered::{self, Remembered};
use super::shared::{Attachment, LockedMirror, Ownership};
use super::state_file::{self, State};
use super::tail::{self, diverged, Judged, Tail};
use super::take_over::{take_over, wait_for_committing};
use super::unexpected;
use super::unsynced;
use super::voiding::{self, Judge, Knowledge, Standing};
use crate::postgres::errorless;
use crate::postgres::errors::Failure;
use crate::postgres::faults;
use std::cell::Cell;
use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use uuid::Uuid;

/// A file up to this size is verified as a whole if it may have been edited while no server watched it. That takes
/// about a second. After a crash, only the tail of a larger file is read.
const WHOLE_CHECK_BYTES: u64 = 256 << 20;

thread_local! {
    /// The change that the log already names as the reason for reading all of the file. Each attempt reads it again.
    static LAST_SUSPECT: Cell<Option<FileStamp>> = const { Cell::new(None) };
    /// The same for the file whose lines are voided.
    static LAST_VOIDED: Cell<Option<FileStamp>> = const { Cell::new(None) };
    /// The same for the file of which only the end is read.
    static LAST_READ_IN_PART: Cell<Option<FileStamp>> = const { Cell::new(None) };
}

/// How to treat the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Usual,
    /// Accept a file that is behind, however far, if what it holds is good.
    CatchUp,
}

/// The file, open and locked for as long as this value lives. The worker holds it.
pub struct Attached {
    _file: File,
    pub in_file: InFile,
}

impl Drop for Attached {
    fn drop(&mut self) {
        faults::at("close");
    }
}

/// Opens, checks and repairs the file, then lets sessions append. The caller is the worker, in a transaction, and holds
/// the sealing lock. It has silenced the mirror.
pub fn attach(mirror: &Mirror, how: How) -> Result<Attached, Refused> {
    note_attempt(mirror, try_attach(mirror, how))
}

/// Gives up the file for a reason that lies before it. Sessions then fail, and do not wait for the next attempt. The
/// caller has silenced the mirror, or tried to.
pub fn give_up<T>(mirror: &Mirror, refused: Refused) -> Result<T, Refused> {
    note_attempt(mirror, Err(refused))
}

/// Notes how an attempt has ended, and tells the sessions that wait for that.
fn note_attempt<T>(mirror: &Mirror, mut outcome: Result<T, Refused>) -> Result<T, Refused> {
    let text = outcome.as_ref().err().map(|refused| refused.failure.text());
    let mut fields = mirror.lock();
    fields.attempts += 1;
    if let (Err(refused), Some(text)) = (&mut outcome, &text) {
        note_refused(&mut fields, refused, text);
    }
    // Attaching has only read the file, so a cause like a full disk may still be there.
    fields.is_troubled = outcome.is_ok() && fields.is_refused;
    drop(fields);
    mirror.slot.mirror.broadcast();
    outcome
}

/// Notes why the file is not attached. If an append has failed, that is noted already, and its text contains what is
/// noted.
fn note_refused(fields: &mut LockedMirror<'_>, refused: &mut Refused, text: &str) {
    let is_known = fields.is_troubled || fields.attachment == Attachment::Failed;
    let is_noted = text.contains(&fields.cause.text());
    if is_noted {
        refused.kind = refused.kind.or(fields.cause.kind());
    }
    if !(is_known && is_noted) {
        fields.cause.set(refused.kind, text);
    }
    fields.attachment = Attachment::Failed;
}

fn try_attach(mirror: &Mirror, how: How) -> Result<Attached, Refused> {
    unexpected::take_behind(mirror);
    let lag = mirror.slot.lag.seen(errorless::clock());
    let remembered = Remembered::read();
    let place = remembered::configured_path(remembered.ledger_id);
    let path = &place.path;
    let opened = opening::open(&place, &remembered)?;
    let make_it_agree = || make_it_agree(mirror, how, &opened, path, &remembered);
    let in_file = match how {
        How::Usual => differing::read_unless_refused(&opened, path, make_it_agree)?,
        How::CatchUp => make_it_agree()?,
    };
    mirror.slot.lag.take_off(lag);
    Ok(Attached { _file: opened, in_file })
}

/// Brings the opened file and the database into agreement, and lets sessions append. Returns which entries the file
/// has.
fn make_it_agree(
    mirror: &Mirror,
    how: How,
    opened: &File,
    path: &Path,
    remembered: &Remembered,
) -> Result<InFile, Refused> {
    let mut found = examine(mirror, how, opened, path, remembered)?;
    let attachment = mirror.shared.new_attachment();
    {
        let mut fields = mirror.lock();
        fields.reopening.knows_aborted &= found.knowledge.of_aborted;
        fields.reopening.lost = found.lost;
    }
    take_over(mirror, opened, path, &found.tail, remembered, attachment)?;
    let settled = found.tail.settled.take();
    let in_file = complete(mirror, path, found)?;
    // If it was moved meanwhile, the state file that was moved with it may be the one of before: the database must not
    // remember an attachment that this does not know.
    file::require_there(path, &opened.metadata().map_err(|error| Trouble::passing("examine", path, error))?)?;
    {
        let mut fields = mirror.lock();
        fields.attachment = Attachment::Attached;
        fields.reopening.end();
    }
    // The settled place may have been that of another file, or of one with another layout.
    remembered::remember(mirror, settled, Some(attachment));
    Ok(in_file)
}

/// What the file has, and what is known about it.
struct Found {
    tail: Tail,
    judged: Judged,
    knowledge: Knowledge,
    lost: Lost,
}

/// Reads the file, and cuts off what is behind its last line. Refuses a file that is not to be written.
fn examine(mirror: &Mirror, how: How, opened: &File, path: &Path, remembered: &Remembered) -> Result<Found, Refused> {
    let is_as_before = is_as_before(mirror, opened);
    unexpected::note_lost(mirror, is_as_before && how == How::Usual && remembered.attachment.is_some());
    if may_have_lost(mirror, is_as_before) {
        wait_for_committing(mirror)?;
    }
    unsynced::cut_off(mirror, opened, path)?;
    let lost = lost_commits::of(mirror, path, own_state(path, remembered).as_ref());
    let tail = read(mirror, opened, path, remembered, lost, how)?;
    let knowledge = Knowledge {
        of_aborted: is_as_before && remembered.attachment.is_some(),
        of_committed: !is_short(mirror, opened, path, remembered)?
            && lost_commits::keeps_transactions(mirror, path, remembered),
    };
    let judged = tail::judge(mirror, path, &tail.open, knowledge)?;
    check_taken_over(path, remembered, judged.uncommitted.len())?;
    if how == How::CatchUp && !judged.uncommitted.is_empty() {
        check_only_behind(mirror, opened, path, remembered)?;
    }
    // Before they are voided, or nothing would be left to say it of; but not again each time that the file is tried.
    let stamp = opened.metadata().ok().map(|metadata| FileStamp::of(&metadata));
    if !judged.uncommitted.is_empty() && LAST_VOIDED.replace(stamp) != stamp {
        lost.tell_of_voiding(path, judged.uncommitted.len());
    }
    if tail.torn > 0 {
        unsynced::cut_torn(mirror, opened, path, tail.end, remembered)?;
    }
    unsynced::sync_found(mirror, opened, path, remembered)?;
    Ok(Found { tail, judged, knowledge, lost })
}

/// Voids the lines of what did not commit, and appends what the database has and the file lacks. Returns which entries
/// the file has.
fn complete(mirror: &Mirror, path: &Path, found: Found) -> Result<InFile, Refused> {
    let Found { tail, judged, knowledge, lost } = found;
    voiding::append_void(mirror, &judged.uncommitted, lost.reason())?;
    let mut in_file = judged.recorded;
    // Of what has aborted since it was judged, the ids may be those of prepared transactions by now.
    let mut voided: HashSet<Uuid> = catch_up::void_first(mirror, &mut in_file)?.into_iter().collect();
    voided.extend(judged.uncommitted);
    let standing = || tail.open.iter().filter(|line| !voided.contains(&line.entry_id));
    // Prepared transactions first: if one commits meanwhile, the search of the pending entries finds it, or it has its
    // lines.
    let known = standing().map(|line| (line.entry_id, *line)).collect();
    catch_up::append_prepared(mirror, &known, &mut in_file, HashSet::new)
        .map_err(|failure| Refused::new(prepared::cause_of(&failure), failure))?;
    let appended = catch_up::append_missing(mirror, &mut in_file)?;
    unexpected::warn_of(mirror, path, &appended);
    void_undone(mirror, &Judge::new(mirror, path, knowledge), standing())?;
    Ok(in_file)
}

/// Whether transactions that have not ended may rely on lines that this file lacks: their lines were appended to
/// another file than this one, or were cut off.
fn may_have_lost(mirror: &Mirror, is_as_before: bool) -> bool {
    let fields = mirror.lock();
    fields.was_attached && (fields.reopening.has_lost || !is_as_before)
}

/// Whether this is the file that this server has had open before, and no shorter than then.
fn is_as_before(mirror: &Mirror, file: &File) -> bool {
    let Ok(found) = file.metadata() else { return false };
    let fields = mirror.lock();
    fields.has_attached(&found) && found.len() >= fields.written()
}

/// Whether the file lacks something that was on disk, as an older copy does: void lines may be missing, too.
fn is_short(mirror: &Mirror, file: &File, path: &Path, remembered: &Remembered) -> Result<bool, Trouble> {
    let had = unsynced::on_disk(mirror, own_state(path, remembered).as_ref(), remembered);
    Ok(file::size(file, path)? < had)
}

/// A prepared transaction from before this server started may be rolled back after its lines were judged good, and
/// before they were noted as its own. Nothing else would void them then. Its ids may be those of other rows by now.
fn void_undone<'a>(
    mirror: &Mirror,
    judge: &Judge,
    mut standing: impl Iterator<Item = &'a OpenLine>,
) -> Result<(), Failure> {
    standing.try_for_each(|line| {
        if judge.standing(line)? == Standing::Stale {
            mirror.lock().add_void(line.range);
        }
        Ok(())
    })
}

/// What the state file says, if it belongs to this ledger.
fn own_state(path: &Path, remembered: &Remembered) -> Option<State> {
    State::read(path).filter(|state| state.ledger_id == remembered.ledger_id)
}

fn read(
    mirror: &Mirror,
    file: &File,
    path: &Path,
    remembered: &Remembered,
    lost: Lost,
    how: How,
) -> Result<Tail, Refused> {
    let metadata = file.metadata().map_err(|error| Trouble::passing("examine", path, error))?;
    tail::check_header(file, path, remembered)?;
    let size = metadata.len();
    let state = own_state(path, remembered);
    if let (Some(state), How::Usual) = (&state, how) {
        check_state(mirror, state, &metadata, path, remembered)?;
    }
    let had = unsynced::on_disk(mirror, state.as_ref(), remembered);
    if size < had && how == How::Usual {
        let what = format!("it has {size} bytes, and had at least {had}");
        return Err(diverged(path, &what));
    }
    // In a file that another server has written, zeros are damage. Where this database may lack what the file has,
    // nothing of that may be lost.
    let is_own = remembered.attachment.is_some() && lost == Lost::Nothing;
    if how == How::Usual && is_own {
        hole::cut_off(mirror, file, path, had)?;
    }
    // What is read must be on disk, and not only in the kernel's memory.
    unsynced::write_again(mirror, file, path, state.as_ref(), remembered)?;
    if how == How::CatchUp || must_read_all(mirror, &metadata, path, state.as_ref()) {
        return tail::read_whole(file, path, remembered, how == How::CatchUp);
    }
    tail::read(file, path, remembered)
}

/// An administrator may catch up an older copy of the file, with the state file of that time. But if it has lines that
/// the database lacks, they are voided: so it must then be the file that this database wrote last.
fn check_only_behind(mirror: &Mirror, file: &File, path: &Path, remembered: &Remembered) -> Result<(), Refused> {
    let Some(state) = own_state(path, remembered) else { return Ok(()) };
    let metadata = file.metadata().map_err(|error| Trouble::passing("examine", path, error))?;
    check_state(mirror, &state, &metadata, path, remembered)
}

/// The file must have been written last by this database, and this database must not have been put back since.
fn check_state(
    mirror: &Mirror,
    state: &State,
    metadata: &Metadata,
    path: &Path,
    remembered: &Remembered,
) -> Result<(), Refused> {
    // A new file, or one that a rebuilt ledger takes over.
    let Some(own) = remembered.attachment else { return Ok(()) };
    if !state.is_written_by(own) && !is_left_behind(mirror, state, metadata, own) {
        let what = format!(
            "its state file \"{}\" says that another copy of this database has written it, or the database, the file \
             or the state file was put back to an older state",
            state_file::path_of(path).display()
        );
        return Err(diverged(path, &what));
    }
    let start = || remembered.started_with(mirror.shared, state.attachment);
    let missing = || state.missing_wal(start(), &remembered::data_directory());
    // If this server wrote the file itself, that was after its start, and the comparison with its start would fail.
    match (!mirror.shared.is_of_this_run(state.attachment)).then(missing).flatten() {
        None => Ok(()),
        Some(what) => {
            let what = format!("this database was put back to an older state, or lost what it had committed: {what}");
            Err(diverged(path, &what))
        }
    }
}

/// Whether the state is only that of this server's previous attachment to this very file: the file was moved while it
/// was being opened, and the state file that was written then stayed behind.
fn is_left_behind(mirror: &Mirror, state: &State, metadata: &Metadata, own: Uuid) -> bool {
    let fields = mirror.lock();
    let Ownership { attachment, previous, .. } = fields.remembered;
    fields.has_attached(metadata) && attachment == *own.as_bytes() && previous == *state.attachment.as_bytes()
}

/// A rebuilt ledger goes on in a file that another database has written. Lines there that the ledger lacks are of
/// entries that the other database had committed, so they must not be voided.
fn check_taken_over(path: &Path, remembered: &Remembered, lacking: usize) -> Result<(), Refused> {
    // The file was begun here, and the server died before the database remembered it.
    let is_own = || own_state(path, remembered).is_some_and(|state| state.is_begun_here());
    if lacking == 0 || remembered.attachment.is_some() || is_own() {
        return Ok(());
    }
    let what = format!(
        "{lacking} of its entries are not in this ledger, which has not written the file: the ledger was rebuilt \
         from an older export or file"
    );
    Err(diverged(path, &what))
}

/// Whether another program may have changed a part of the file that recovery does not read.
fn must_read_all(mirror: &Mirror, metadata: &Metadata, path: &Path, state: Option<&State>) -> bool {
    let (suspect, is_as_left) = {
        let fields = mirror.lock();
        let is_same = fields.identity.is_of(metadata);
        // The size counts too: a file system that was put back to an older state also has older times.
        let is_as_long = fields.written() == metadata.len();
        (fields.suspect, is_same && is_as_long && fields.last_change.admits(FileStamp::of(metadata)))
    };
    if suspect {
        let stamp = FileStamp::of(metadata);
        if LAST_SUSPECT.replace(Some(stamp)) != Some(stamp) {
            pgrx::log!("pg_notary reads all of mirror file \"{}\": another program has changed it", path.display());
        }
        return true;
    }
    if is_as_left || state.is_some_and(|state| state.is_unchanged(metadata)) {
        return false;
    }
    // A crash can make the file longer than its state file says. It cannot put another file in its place.
    let may_be_crash = state.is_none_or(|state| state.inode == metadata.ino() && state.size <= metadata.len());
    let read_all = metadata.len() <= WHOLE_CHECK_BYTES || !may_be_crash;
    let stamp = Some(FileStamp::of(metadata));
    if !read_all && LAST_READ_IN_PART.replace(stamp) != stamp {
        pgrx::log!(
            "pg_notary reads only the end of mirror file \"{}\" after a crash; SELECT ledger.verify_file_integrity() reads all of it",
            path.display()
        );
    }
    read_all
}

/// The attachment is committed: from now on, a state file with another one was written by another server.
pub fn note_remembered(mirror: &Mirror) {
    {
        let mut fields = mirror.lock();
        fields.ownership.is_remembered = true;
        fields.remembered = fields.ownership;
        // The writer opens the file, and so keeps the state file current even if nobody records before the stop.
        fields.is_attended = true;
    }
    mirror.shared.writer.wake();
}
