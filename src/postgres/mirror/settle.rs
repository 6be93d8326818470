//! Which lines belong to committed entries, and voiding those that do not.
//!
//! The database decides. An entry line is good if its row is there: pending, sealed, or inserted by a transaction that
//! still runs and has appended its lines. Rows only ever move from pending to sealed, so looking in that order misses none.

use super::handle::Mirror;
use super::lines::LineBuffer;
use super::open_lines::{self, OpenLine, OpenLines, RangeReader};
use super::prepared;
use crate::ledger::file_ranges::{FileRange, FileRanges};
use crate::ledger::log_tree::leaf_hash;
use crate::ledger::record::{Record, Void};
use crate::ledger::row_change;
use crate::ledger::Hash;
use crate::postgres::errors::{cause, Failure};
use crate::postgres::partitions;
use crate::postgres::regular_file;
use crate::postgres::tables::{self, Row, Table};
use pgrx::{check_for_interrupts, pg_sys, PgSqlErrorCode};
use std::cell::OnceCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use uuid::Uuid;

/// Ids in one void line, so that a line stays short enough to read at a glance and to copy through the ring.
const IDS_PER_LINE: usize = 500;

/// Lines that are looked up, or are to be voided, at once: what is kept of so many takes some ten megabytes.
const MOST_LINES: usize = 200_000;

/// Voids the lines of transactions that have aborted since the last call; returns whose lines they were.
pub fn void_aborted(mirror: &Mirror) -> Result<Vec<Uuid>, Failure> {
    let Some(ranges) = take_ranges(mirror) else { return Ok(Vec::new()) };
    let taken = TakenRanges { mirror, ranges };
    let voided = void_in(mirror, &ranges)?;
    taken.done();
    Ok(voided)
}

/// Parts of the file that are being voided; dropped before it is done, by an error or a cancel, they go back. A worker that is
/// terminated drops nothing: what it had taken stays in shared memory, in `voiding`, and the next one takes it with its own.
struct TakenRanges<'a> {
    mirror: &'a Mirror,
    ranges: FileRanges,
}

impl TakenRanges<'_> {
    fn done(self) {
        self.mirror.lock().voiding = FileRanges::NONE;
        self.mirror.slot.mirror.broadcast();
        std::mem::forget(self);
    }
}

impl Drop for TakenRanges<'_> {
    fn drop(&mut self) {
        let mut fields = self.mirror.lock();
        fields.voiding = FileRanges::NONE;
        fields.void.add_all(&self.ranges);
    }
}

fn take_ranges(mirror: &Mirror) -> Option<FileRanges> {
    let mut fields = mirror.lock();
    let taken = std::mem::replace(&mut fields.void, FileRanges::NONE);
    fields.voiding.add_all(&taken);
    Some(fields.voiding).filter(|ranges| !ranges.is_empty())
}

fn void_in(mirror: &Mirror, ranges: &FileRanges) -> Result<Vec<Uuid>, Failure> {
    let end = mirror.flush()?;
    let path = mirror.lock().path.get();
    let path = Path::new(&path);
    let mut voiding = Voiding { mirror, path, end, stale: OpenLines::default(), voided: Vec::new() };
    ranges.as_slice().iter().try_for_each(|range| voiding.read(*range))?;
    voiding.append()?;
    Ok(voiding.voided)
}

/// What is to be voided in a file.
struct Voiding<'a> {
    mirror: &'a Mirror,
    path: &'a Path,
    /// Void lines behind it are this one's own.
    end: u64,
    /// Lines that no row has, and that may be voided already.
    stale: OpenLines,
    voided: Vec<Uuid>,
}

impl Voiding<'_> {
    fn read(&mut self, range: FileRange) -> Result<(), Failure> {
        let unreadable = |error: std::io::Error| unreadable(&self.path.to_string_lossy(), &error);
        let judge = Judge::new(self.mirror, self.path);
        let range = FileRange { to: range.to.min(self.end), ..range };
        let mut reader = RangeReader::open(self.path, range).map_err(unreadable)?;
        loop {
            let lines = reader.next_lines(MOST_LINES).map_err(unreadable)?;
            if lines.is_empty() {
                return Ok(());
            }
            let stale = lines.iter().filter(|line| judge.standing(line) == Standing::Stale);
            stale.for_each(|line| self.stale.add(*line));
            if self.stale.len() >= MOST_LINES {
                self.append()?;
            }
        }
    }

    /// Appends void lines for what has none yet. All that follows in the file is read for that, but no line of it as a whole that
    /// is not a void line.
    fn append(&mut self) -> Result<(), Failure> {
        let mut stale = std::mem::take(&mut self.stale);
        if let Some(from) = stale.iter().map(|line| line.range.from).min() {
            let behind = FileRange { from, to: self.end };
            open_lines::drop_voided(self.path, behind, &mut stale)
                .map_err(|error| unreadable(&self.path.to_string_lossy(), &error))?;
        }
        let uncommitted: Vec<Uuid> = stale.into_sorted().iter().map(|line| line.entry_id).collect();
        append_void(self.mirror, &uncommitted, "rolled back")?;
        self.voided.extend(uncommitted);
        Ok(())
    }
}

pub fn unreadable(path: &str, error: &std::io::Error) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_IO_ERROR, format!("could not read mirror file \"{path}\""))
        .detail(cause(error))
}

/// The type of the entry whose line starts there.
fn entry_type_at(mut file: &File, offset: u64) -> Option<String> {
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut line = Vec::new();
    BufReader::new(file).read_until(b'\n', &mut line).ok()?;
    match Record::parse(line.trim_ascii_end()) {
        Ok(Record::Entry(entry)) => Some(entry.entry_type.into_owned()),
        _ => None,
    }
}

/// What the tables say of a line that is in no block and not voided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is that of the row.
    Recorded,
    /// A row has its id, and is another one.
    Differs,
    /// Its transaction did not commit. There may be a row of another that uses the id again, and has appended nothing yet, or
    /// has committed while there was no file.
    Stale,
}

/// Judges lines, each by its row and by who has lines in the file.
pub struct Judge<'a> {
    mirror: &'a Mirror,
    path: &'a Path,
    file: OnceCell<Option<File>>,
    /// Those from before this server started are noted nowhere else.
    prepared: OnceCell<HashSet<u32>>,
}

impl Judge<'_> {
    /// `path` is where the lines were read.
    pub fn new<'a>(mirror: &'a Mirror, path: &'a Path) -> Judge<'a> {
        Judge { mirror, path, file: OnceCell::new(), prepared: OnceCell::new() }
    }

    pub fn standing(&self, line: &OpenLine) -> Standing {
        loop {
            let Some(Recorded { leaf, writer }) = recorded(line.entry_id) else { return Standing::Stale };
            if writer.is_none_or(|writer| self.may_own_lines(writer)) {
                return if leaf == line.leaf { Standing::Recorded } else { self.standing_of_other(line) };
            }
            // It counted among the owners until it had ended, if it was one. If it has, its row says how.
            if writer.is_some_and(is_in_progress) {
                return Standing::Stale;
            }
        }
    }

    /// Of a line that is not the row's.
    fn standing_of_other(&self, line: &OpenLine) -> Standing {
        if !self.may_be_aborted(line) {
            // One that stays on its way is taken for none; whoever opens the file tries again.
            self.mirror.wait_for_leaving().ok();
        }
        match self.may_be_aborted(line) && !self.has_id_of_the_ledger(line) {
            true => Standing::Stale,
            false => Standing::Differs,
        }
    }

    fn may_be_aborted(&self, line: &OpenLine) -> bool {
        prepared::settle_decided(self.mirror);
        self.mirror.lock().may_be_aborted(line.range.from)
    }

    /// Whether the ledger itself made the line's id, so that no other entry has it: those of its own types have no id that an
    /// application gives. A line that cannot be read any more is none that may be voided.
    fn has_id_of_the_ledger(&self, line: &OpenLine) -> bool {
        let file = self.file.get_or_init(|| regular_file::open_own(self.path).ok());
        let entry_type = file.as_ref().and_then(|file| entry_type_at(file, line.range.from));
        entry_type.is_none_or(|entry_type| row_change::is_reserved(&entry_type))
    }

    fn may_own_lines(&self, xid: u32) -> bool {
        let is_noted = || self.mirror.lock().prepared.iter().any(|noted| noted.xid == xid);
        let is_prepared = || self.prepared.get_or_init(prepared::open_transactions).contains(&xid);
        self.mirror.slot.mirror.owners.may_have(xid) || is_noted() || is_prepared()
    }
}

fn is_in_progress(xid: u32) -> bool {
    // SAFETY: looks at the transactions that run.
    unsafe { pg_sys::TransactionIdIsInProgress(pg_sys::TransactionId::from_inner(xid)) }
}

/// Whether the entry is in the table, or a running transaction has put it there.
pub fn is_recorded(entry_id: Uuid) -> bool {
    recorded_leaf(entry_id).is_some()
}

/// The leaf hash of the entry in the table, or of the one that a running transaction has put there.
pub fn recorded_leaf(entry_id: Uuid) -> Option<Hash> {
    recorded(entry_id).map(|recorded| recorded.leaf)
}

struct Recorded {
    leaf: Hash,
    /// The top-level transaction that has put the row there, if it still runs or is prepared.
    writer: Option<u32>,
}

fn recorded(entry_id: Uuid) -> Option<Recorded> {
    check_for_interrupts!();
    // A dirty snapshot needs nothing but its kind.
    let mut dirty = pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() };
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    let leaf_of = |row: &Row| leaf_hash(&tables::entry_from_row(row).line());
    if let Some(leaf) = partitions::find(&table, entry_id, &mut dirty, leaf_of) {
        // Set for the row that was found.
        let writer = Some(dirty.xmin).filter(|xmin| *xmin != pg_sys::InvalidTransactionId);
        // SAFETY: a transaction that ran a moment ago, and whose parents are known.
        let top = |xid| unsafe { pg_sys::SubTransGetTopmostTransaction(xid) }.into_inner();
        return Some(Recorded { leaf, writer: writer.map(top) });
    }
    partitions::find_sealed(entry_id, leaf_of).map(|leaf| Recorded { leaf, writer: None })
}

/// Appends void lines for these entries.
pub fn append_void(mirror: &Mirror, entry_ids: &[Uuid], reason: &str) -> Result<(), Failure> {
    if entry_ids.is_empty() {
        return Ok(());
    }
    let mut lines = LineBuffer::new();
    for entry_ids in entry_ids.chunks(IDS_PER_LINE) {
        let void = Void { entry_ids: entry_ids.to_vec(), reason: reason.to_owned(), timestamp: tables::now() };
        lines.push(|out| out.extend_from_slice(&void.line()));
    }
    mirror.append_now(lines)
}
