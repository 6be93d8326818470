//! Which lines belong to committed entries, and voiding those that do not.
//!
//! The database decides. An entry line is good if its row is there: pending, sealed, or inserted by a transaction that
//! still runs and has appended its lines. Rows only ever move from pending to sealed, so looking in that order misses none.

use super::append::{FileRange, Mirror};
use super::lines::LineBuffer;
use super::prepared;
use super::tail::OpenLine;
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
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use uuid::Uuid;

/// Ids in one void line, so that a line stays short enough to read at a glance and to copy through the ring.
const IDS_PER_LINE: usize = 500;

/// Voids the lines of transactions that have aborted since the last call; returns whose lines they were.
pub fn void_aborted(mirror: &Mirror) -> Result<Vec<Uuid>, Failure> {
    let Some(range) = take_range(mirror) else { return Ok(Vec::new()) };
    let taken = TakenRange { mirror, range };
    let voided = void_in(mirror, range)?;
    taken.done();
    Ok(voided)
}

/// A range that is being voided; dropped before it is done, by an error or a cancel, it goes back. Where the worker is
/// terminated, the next one takes it with its own.
struct TakenRange<'a> {
    mirror: &'a Mirror,
    range: FileRange,
}

impl TakenRange<'_> {
    fn done(self) {
        self.mirror.lock().voiding = FileRange::NONE;
        self.mirror.slot.mirror.broadcast();
        std::mem::forget(self);
    }
}

impl Drop for TakenRange<'_> {
    fn drop(&mut self) {
        let mut fields = self.mirror.lock();
        fields.voiding = FileRange::NONE;
        fields.add_void(self.range);
    }
}

fn take_range(mirror: &Mirror) -> Option<FileRange> {
    let mut fields = mirror.lock();
    fields.voiding = fields.voiding.and(fields.void);
    fields.void = FileRange::NONE;
    Some(fields.voiding).filter(|range| !range.is_empty())
}

fn void_in(mirror: &Mirror, range: FileRange) -> Result<Vec<Uuid>, Failure> {
    let end = mirror.flush()?;
    let path = mirror.lock().path.get();
    let mut candidates = lines_between(Path::new(&path), range, end).map_err(|error| unreadable(&path, &error))?;
    let judge = Judge::new(mirror, Path::new(&path));
    candidates.retain(|line| judge.standing(line) == Standing::Stale);
    let uncommitted: Vec<Uuid> = candidates.iter().map(|line| line.entry_id).collect();
    append_void(mirror, &uncommitted, "rolled back")?;
    Ok(uncommitted)
}

pub fn unreadable(path: &str, error: &std::io::Error) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_IO_ERROR, format!("could not read mirror file \"{path}\""))
        .detail(cause(error))
}

/// Entry lines that start in `range` and that no void line before `end` names, in file order.
///
/// The range may begin inside a line: where a failed write was cut off, others have written since.
pub fn lines_between(path: &Path, range: FileRange, end: u64) -> std::io::Result<Vec<OpenLine>> {
    let mut reader = BufReader::with_capacity(1 << 20, regular_file::open_own(path)?);
    let mut at = range.from.saturating_sub(1);
    reader.seek(SeekFrom::Start(at))?;
    let mut line = Vec::new();
    if range.from > 0 {
        at += reader.read_until(b'\n', &mut line)? as u64;
    }
    let mut open: HashMap<Uuid, OpenLine> = HashMap::new();
    while at < end {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if length == 0 {
            break;
        }
        let text = line.trim_ascii_end();
        match Record::parse(text) {
            Ok(Record::Entry(entry)) if at < range.to => {
                open.insert(entry.entry_id, OpenLine::new(entry.entry_id, text, at));
            }
            // Not those behind it: an id may be used again.
            Ok(Record::Void(void)) => void.entry_ids.iter().for_each(|id| {
                open.remove(id);
            }),
            _ => {}
        }
        at += length as u64;
    }
    Ok(in_order(open))
}

/// The type of the entry whose line starts there.
fn entry_type_at(path: &Path, offset: u64) -> std::io::Result<Option<String>> {
    let mut reader = BufReader::new(regular_file::open_own(path)?);
    reader.seek(SeekFrom::Start(offset))?;
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    match Record::parse(line.trim_ascii_end()) {
        Ok(Record::Entry(entry)) => Ok(Some(entry.entry_type.into_owned())),
        _ => Ok(None),
    }
}

pub fn in_order(open: HashMap<Uuid, OpenLine>) -> Vec<OpenLine> {
    let mut open: Vec<OpenLine> = open.into_values().collect();
    open.sort_by_key(|line| line.range.from);
    open
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
    /// Those from before this server started are noted nowhere else.
    prepared: OnceCell<HashSet<u32>>,
}

impl Judge<'_> {
    /// `path` is where the lines were read.
    pub fn new<'a>(mirror: &'a Mirror, path: &'a Path) -> Judge<'a> {
        Judge { mirror, path, prepared: OnceCell::new() }
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
        prepared::settle_decided(self.mirror);
        let may_be_aborted = self.mirror.lock().may_be_aborted(line.range.from);
        match may_be_aborted && !self.has_id_of_the_ledger(line) {
            true => Standing::Stale,
            false => Standing::Differs,
        }
    }

    /// Whether the ledger itself made the line's id, so that no other entry has it: those of its own types have no id that an
    /// application gives. A line that cannot be read any more is none that may be voided.
    fn has_id_of_the_ledger(&self, line: &OpenLine) -> bool {
        match entry_type_at(self.path, line.range.from) {
            Ok(Some(entry_type)) => row_change::is_reserved(&entry_type),
            Ok(None) | Err(_) => true,
        }
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
