//! Decides for single entry lines whether they count, and voids those that do not. How far recovery can rely on that is
//! in [`super::settled_mark`].
//!
//! The database decides. An entry line counts if its row is there: pending, sealed, or inserted by a transaction that
//! still runs and has appended its lines. Rows only move from pending to sealed, so a search in that order misses none.
//!
//! A line without a row is voided only if its transaction can have been rolled back. Otherwise somebody has removed the
//! row past the triggers, and a void line would hide that.

use super::file;
use super::handle::Mirror;
use super::line_buffer::LineBuffer;
use super::open_lines::{self, OpenLine, OpenLines, RangeReader};
use super::prepared;
use crate::ledger::file_ranges::{FileRange, FileRanges};
use crate::ledger::log_tree::leaf_hash;
use crate::ledger::record::{Record, Void};
use crate::ledger::row_change::{self, RowChange};
use crate::ledger::Hash;
use crate::postgres::errors::Failure;
use crate::postgres::partitions;
use crate::postgres::spi;
use crate::postgres::tables::{self, look_up, Table};
use crate::postgres::tracking::baseline_table;
use crate::regular_file;
use pgrx::{check_for_interrupts, pg_sys};
use std::cell::{Cell, OnceCell};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use uuid::Uuid;

/// Ids in one void line, so that a line stays short enough to read at a glance and to copy through the ring.
const IDS_PER_LINE: usize = 500;

/// How many lines to look up or to void at once. So many take some ten megabytes.
const MOST_LINES: usize = 200_000;

/// Voids the lines of transactions that have aborted since the last call; returns the ids of their entries.
pub fn void_aborted(mirror: &Mirror) -> Result<Vec<Uuid>, Failure> {
    let Some(ranges) = take_ranges(mirror) else { return Ok(Vec::new()) };
    let taken = TakenRanges { mirror, ranges };
    let voided = void_in(mirror, &ranges)?;
    taken.done();
    Ok(voided)
}

/// Parts of the file that are being voided. If an error or a cancel drops this before it is done, they go back. A
/// worker that is terminated drops nothing: its parts stay in shared memory, in `voiding`, and its successor takes them
/// too.
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

/// The lines of a file that are to be voided.
struct Voiding<'a> {
    mirror: &'a Mirror,
    path: &'a Path,
    /// Where the file ended at first. Void lines behind it come from this run itself.
    end: u64,
    /// Lines without a row. Some may be voided already.
    stale: OpenLines,
    voided: Vec<Uuid>,
}

impl Voiding<'_> {
    fn read(&mut self, range: FileRange) -> Result<(), Failure> {
        let unreadable = |error: std::io::Error| file::unreadable(self.path, &error);
        let judge = Judge::new(self.mirror, self.path, Knowledge::NONE);
        let range = FileRange { to: range.to.min(self.end), ..range };
        let mut reader = RangeReader::open(self.path, range).map_err(unreadable)?;
        loop {
            let lines = reader.next_lines(MOST_LINES).map_err(unreadable)?;
            if lines.is_empty() {
                return Ok(());
            }
            for line in lines.iter() {
                if judge.standing(line)? == Standing::Stale {
                    self.stale.add(*line);
                }
            }
            if self.stale.len() >= MOST_LINES {
                self.append()?;
            }
        }
    }

    /// Appends void lines for the stale lines that nothing decides yet: not those of entries that a block holds, whose
    /// row is in a partition that was detached. This reads all that follows in the file, and keeps nothing of it in
    /// memory.
    fn append(&mut self) -> Result<(), Failure> {
        let mut stale = std::mem::take(&mut self.stale);
        if let Some(from) = stale.iter().map(|line| line.range.from).min() {
            let behind = FileRange { from, to: self.end };
            open_lines::drop_decided(self.path, behind, &mut stale)
                .map_err(|error| file::unreadable(self.path, &error))?;
        }
        let uncommitted: Vec<Uuid> = stale.into_sorted().iter().map(|line| line.entry_id).collect();
        append_void(self.mirror, &uncommitted, "rolled back")?;
        self.voided.extend(uncommitted);
        Ok(())
    }
}

/// The leaf hash of the line that starts at this offset of the file, if there is one.
pub fn leaf_at(path: &Path, offset: u64) -> Option<Hash> {
    let line = line_at(&regular_file::open_own(path).ok()?, offset)?;
    Some(leaf_hash(&line))
}

/// The entry whose line starts at this offset, without its line break.
fn line_at(mut file: &File, offset: u64) -> Option<Vec<u8>> {
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut line = Vec::new();
    BufReader::new(file).read_until(b'\n', &mut line).ok()?;
    line.truncate(line.trim_ascii_end().len());
    Some(line)
}

/// What the tables say about a line that is in no block and not voided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is the line of the row.
    Recorded,
    /// A row has its id, but other contents.
    Differs,
    /// Its transaction did not commit. The id may have been reused by a row whose transaction has not appended lines
    /// yet, or has committed while there was no file.
    Stale,
    /// There is no row, although its transaction has committed.
    Vanished,
}

/// What can be told of the transaction of a line that has no row.
#[derive(Debug, Clone, Copy)]
pub struct Knowledge {
    /// All lines of transactions that have aborted are noted, as in a file that this server has had open since they
    /// were written.
    pub of_aborted: bool,
    /// A transaction that an entry about a row names has not lost its number to another one, as it may in a crash or a
    /// promotion.
    pub of_committed: bool,
}

impl Knowledge {
    pub const NONE: Knowledge = Knowledge { of_aborted: false, of_committed: false };
}

/// Judges each line by its row and by the owners of lines in the file.
pub struct Judge<'a> {
    mirror: &'a Mirror,
    path: &'a Path,
    knowledge: Knowledge,
    /// The transaction that was looked up last, and whether it has committed.
    last: Cell<Option<(u64, bool)>>,
    file: OnceCell<Option<File>>,
    /// The open prepared transactions. Those from before this server started are noted nowhere else.
    prepared: OnceCell<HashSet<u32>>,
}

impl Judge<'_> {
    /// `path` is the file that the lines were read from.
    pub fn new<'a>(mirror: &'a Mirror, path: &'a Path, knowledge: Knowledge) -> Judge<'a> {
        Judge { mirror, path, knowledge, last: Cell::new(None), file: OnceCell::new(), prepared: OnceCell::new() }
    }

    pub fn standing(&self, line: &OpenLine) -> Result<Standing, Failure> {
        loop {
            let Some(Recorded { leaf, writer }) = recorded(line.entry_id) else {
                return self.standing_without_row(line);
            };
            if writer.is_none_or(|writer| self.may_own_lines(writer)) {
                return if leaf == line.leaf { Ok(Standing::Recorded) } else { self.standing_of_other(line) };
            }
            // A transaction stays among the owners until it has ended. If this one has ended, its row now says how.
            if writer.is_some_and(is_in_progress) {
                return Ok(Standing::Stale);
            }
        }
    }

    fn standing_without_row(&self, line: &OpenLine) -> Result<Standing, Failure> {
        let is_known = || self.knowledge.of_aborted && self.mirror.lock().reopening.knows_aborted_at(line.range.from);
        let has_committed = self.knowledge.of_committed && self.has_committed(line);
        match has_committed || (is_known() && !self.may_be_aborted(line)?) {
            true => Ok(Standing::Vanished),
            false => Ok(Standing::Stale),
        }
    }

    /// Judges a line that is not the row's.
    fn standing_of_other(&self, line: &OpenLine) -> Result<Standing, Failure> {
        match self.may_be_aborted(line)? && !self.has_id_of_the_ledger(line) {
            true => Ok(Standing::Stale),
            false => Ok(Standing::Differs),
        }
    }

    /// Whether this may be a line of an aborted transaction. Fails if a transaction that has aborted does not say which
    /// lines it leaves: the next attempt to open the file looks again.
    fn may_be_aborted(&self, line: &OpenLine) -> Result<bool, Failure> {
        let is_noted = || {
            prepared::settle_decided(self.mirror);
            self.mirror.lock().may_be_aborted(line.range.from)
        };
        if is_noted() {
            return Ok(true);
        }
        self.mirror.wait_for_leaving()?;
        Ok(is_noted())
    }

    /// Whether the line is of an entry that names its transaction, as those about rows do, and that has committed. An
    /// entry of a baseline names the one that has tracked the table; while the worker records that, it may be of a
    /// later one.
    fn has_committed(&self, line: &OpenLine) -> bool {
        let text = self.text(line).unwrap_or_default();
        let Ok(Record::Entry(entry)) = Record::parse(&text) else { return false };
        let change = RowChange::parse(&entry.entry_type, entry.metadata);
        let change = change.filter(|change| !change.is_baseline || baseline_table::is_complete(change.table_id));
        let Some(transaction) = change.and_then(|change| change.transaction_id.parse().ok()) else { return false };
        let known = self.last.get().filter(|(last, _)| *last == transaction);
        known
            .unwrap_or_else(|| {
                let found = (transaction, has_committed(transaction));
                self.last.set(Some(found));
                found
            })
            .1
    }

    fn text(&self, line: &OpenLine) -> Option<Vec<u8>> {
        let file = self.file.get_or_init(|| regular_file::open_own(self.path).ok());
        line_at(file.as_ref()?, line.range.from)
    }

    /// Whether the ledger itself made the line's id, so that no other entry can have it: an application cannot give an
    /// id to an entry of the ledger's own types. A line that cannot be read any more must not be voided, and counts as
    /// such.
    fn has_id_of_the_ledger(&self, line: &OpenLine) -> bool {
        match self.text(line).as_deref().map(Record::parse) {
            Some(Ok(Record::Entry(entry))) => row_change::is_reserved(&entry.entry_type),
            _ => true,
        }
    }

    fn may_own_lines(&self, xid: u32) -> bool {
        let is_noted = || self.mirror.lock().prepared.iter().any(|noted| noted.xid == xid);
        let is_prepared = || self.prepared.get_or_init(prepared::open_transactions).contains(&xid);
        self.mirror.slot.mirror.owners.may_have(xid) || is_noted() || is_prepared()
    }
}

/// Whether the transaction with this full id has committed, as far as the server still knows.
fn has_committed(transaction: u64) -> bool {
    // SAFETY: reads a counter in shared memory.
    let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
    // pg_xact_status() raises an error for one that is still to come. It is null for one that is too old.
    let status = "SELECT pg_xact_status($1::text::xid8)";
    let mut has_committed = false;
    if let Some(transaction) = i64::try_from(transaction).ok().filter(|_| transaction < next) {
        spi::for_each(status, &[transaction.into()], |row| has_committed = row.text(0) == Some("committed"));
    }
    has_committed
}

fn is_in_progress(xid: u32) -> bool {
    // SAFETY: searches the running transactions in shared memory, for any number.
    unsafe { pg_sys::TransactionIdIsInProgress(pg_sys::TransactionId::from_inner(xid)) }
}

/// The leaf hash of the entry in its table, committed or inserted by a running transaction.
pub fn recorded_leaf(entry_id: Uuid) -> Option<Hash> {
    recorded(entry_id).map(|recorded| recorded.leaf)
}

struct Recorded {
    leaf: Hash,
    /// The top-level transaction that inserted the row, if it still runs or is prepared.
    writer: Option<u32>,
}

fn recorded(entry_id: Uuid) -> Option<Recorded> {
    check_for_interrupts!();
    let mut dirty = tables::dirty_snapshot();
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    // SAFETY: the snapshot outlives the search.
    let pending = unsafe { look_up::find_entry_with(&table, entry_id, &mut dirty, tables::leaf_of) };
    if let Some(leaf) = pending {
        // The search has set it for the row that it found.
        let writer = Some(dirty.xmin).filter(|xmin| *xmin != pg_sys::InvalidTransactionId);
        // SAFETY: the transaction ran a moment ago, so its parents are still known.
        let top = |xid| unsafe { pg_sys::SubTransGetTopmostTransaction(xid) }.into_inner();
        return Some(Recorded { leaf, writer: writer.map(top) });
    }
    partitions::find_sealed(entry_id, tables::leaf_of).map(|leaf| Recorded { leaf, writer: None })
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
