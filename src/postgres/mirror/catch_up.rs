//! Appends what the database has and the file lacks: after a crash, after a time without the file, and all the time in
//! mode `async`.

use super::block_lines;
use super::cause::CauseKind;
use super::file;
use super::handle::Mirror;
use super::line_buffer::LineBuffer;
use super::open_lines::{self, OpenLine};
use super::prepared;
use super::voiding::{self, Judge, Knowledge, Standing};
use crate::ledger::block::BlockHeader;
use crate::ledger::file_ranges::FileRange;
use crate::ledger::record::Entry;
use crate::postgres::errors::Failure;
use crate::postgres::pending_scan::PendingScan;
use crate::postgres::tables::{self, entry_column, look_up, RegisteredSnapshot, Row, Table, TableScan};
use pgrx::{check_for_interrupts, pg_sys, PgSqlErrorCode};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// Ids of entries that have a line in the file, but no block there yet.
pub type InFile = HashSet<Uuid>;

/// Pending entries that were given a line.
#[derive(Default)]
pub struct Appended {
    pub count: usize,
    /// The first of them.
    pub named: Vec<Uuid>,
}

impl Appended {
    const MOST_NAMED: usize = 20;

    fn add(&mut self, id: Uuid) {
        self.count += 1;
        if self.named.len() < Self::MOST_NAMED {
            self.named.push(id);
        }
    }
}

/// Appends the lines that the file lacks, in the order of the ledger: what is sealed, block by block, then what is
/// pending. The caller is the worker, in a transaction, and holds the sealing lock.
pub fn append_missing(mirror: &Mirror, in_file: &mut InFile) -> Result<Appended, Failure> {
    void_first(mirror, in_file)?;
    let last = mirror.lock().last_block;
    // Should the lines of these blocks not reach the file, those of their entries are there nevertheless.
    let mut of_last_blocks: Vec<Uuid> = Vec::new();
    block_lines::append_after(mirror, last, |headers, ids| {
        forget(in_file, &of_last_blocks);
        void_first(mirror, in_file)?;
        note_others(mirror, in_file)?;
        append_sealed(mirror, headers, ids, in_file)?;
        in_file.extend(ids);
        of_last_blocks = ids.to_vec();
        Ok(())
    })?;
    forget(in_file, &of_last_blocks);
    append_pending(mirror, in_file)
}

fn forget(in_file: &mut InFile, ids: &[Uuid]) {
    ids.iter().for_each(|id| {
        in_file.remove(id);
    });
}

/// Voids the lines that must be voided, so that an entry which reuses an id gets its line behind the void line. If
/// called after the committed entries are known, it misses no line whose id one of them reuses. Returns the ids of the
/// entries whose lines it voided.
pub fn void_first(mirror: &Mirror, in_file: &mut InFile) -> Result<Vec<Uuid>, Failure> {
    mirror.wait_for_leaving()?;
    prepared::settle_decided(mirror);
    let voided = voiding::void_aborted(mirror)?;
    forget(in_file, &voided);
    Ok(voided)
}

/// Notes entries whose lines sessions have appended: those of transactions that began in another mode, and of prepared
/// ones. If called after the committed entries are known, it misses none of them.
fn note_others(mirror: &Mirror, in_file: &mut InFile) -> Result<(), Failure> {
    let (taken, path) = OthersRange::take(mirror);
    if taken.range.from == taken.range.to {
        return Ok(());
    }
    let end = mirror.flush()?;
    let path = Path::new(&path);
    let lines = open_lines::in_range(path, taken.range, end).map_err(|error| file::unreadable(path, &error))?;
    // Without lines of transactions that have aborted since: other entries may reuse their ids.
    let judge = Judge::new(mirror, path, Knowledge::NONE);
    for line in lines.iter() {
        if judge.standing(line)? == Standing::Recorded {
            in_file.insert(line.entry_id);
        }
    }
    taken.done();
    Ok(())
}

/// The part of the file in which sessions have appended. If an error or a cancel drops this before it is done, the part
/// is given back: its lines would be appended again.
struct OthersRange<'a> {
    mirror: &'a Mirror,
    range: FileRange,
}

impl OthersRange<'_> {
    /// Also returns the path of the file.
    fn take(mirror: &Mirror) -> (OthersRange<'_>, String) {
        let mut fields = mirror.lock();
        let range = FileRange { from: fields.others_from, to: fields.others_to };
        (fields.others_from, fields.others_to) = (0, 0);
        (OthersRange { mirror, range }, fields.path.get())
    }

    fn done(self) {
        std::mem::forget(self);
    }
}

impl Drop for OthersRange<'_> {
    fn drop(&mut self) {
        if self.range.from != self.range.to {
            self.mirror.lock().note_others(self.range.from, self.range.to);
        }
    }
}

fn append_sealed(mirror: &Mirror, headers: &[BlockHeader], ids: &[Uuid], in_file: &InFile) -> Result<(), Failure> {
    if ids.iter().all(|id| in_file.contains(id)) {
        return Ok(());
    }
    let (mut lines, mut outcome) = (LineBuffer::new(), Ok(()));
    block_lines::for_each_entry(headers, |row| {
        if outcome.is_ok() && row.uuid(entry_column::ID).is_some_and(|id| !in_file.contains(&id)) {
            let (entry, fault) = entry_and_fault(row);
            outcome = check(entry.entry_id, fault);
            lines.push(|out| entry.write_line(out));
        }
    });
    outcome?;
    mirror.append_now(lines)
}

/// A malformed line would stay in the file for good. The row may still be restored.
fn check(entry_id: Uuid, fault: Option<&str>) -> Result<(), Failure> {
    let Some(fault) = fault else { return Ok(()) };
    let code = PgSqlErrorCode::ERRCODE_DATA_CORRUPTED;
    Err(Failure::new(code, format!("cannot write the line of entry {entry_id}: {fault}"))
        .hint("Run SELECT * FROM ledger.find_tampering() to see what is wrong, and restore that row from a backup."))
}

fn entry_and_fault(row: &Row) -> (Entry, Option<&'static str>) {
    let entry = tables::entry_from_row(row);
    let fault = tables::fault_of(row, &entry.as_line());
    (entry, fault)
}

fn append_pending(mirror: &Mirror, in_file: &mut InFile) -> Result<Appended, Failure> {
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    let (snapshot, missing) = loop {
        let snapshot = RegisteredSnapshot::latest();
        let scan = PendingScan::start(&table, &snapshot, mirror.slot.pending.load(Ordering::Acquire));
        let missing = Missing::find(&table, scan, in_file)?;
        // A line that seemed to be in the file was voided, so its id may be another entry's by now: search again.
        if void_first(mirror, in_file)?.is_empty() {
            break (snapshot, missing);
        }
    };
    note_others(mirror, in_file)?;
    let (mut lines, mut appended) = (LineBuffer::new(), Appended::default());
    for (id, line) in missing.entries.iter().filter(|(id, _)| !in_file.contains(id)) {
        check_for_interrupts!();
        appended.add(*id);
        if let Some(line) = line {
            lines.push(|out| out.extend_from_slice(&missing.lines[line.clone()]));
        } else if let Some((entry, fault)) = look_up::find_entry(&table, *id, &snapshot, entry_and_fault) {
            check(*id, fault)?;
            lines.push(|out| entry.write_line(out));
        }
    }
    mirror.append_now(lines)?;
    in_file.extend(missing.entries.iter().map(|(id, _)| id));
    give_back_room(in_file);
    Ok(appended)
}

/// Frees what a large transaction has needed: the worker would otherwise keep it as long as it lives.
fn give_back_room(in_file: &mut InFile) {
    if in_file.len() < in_file.capacity() / 8 {
        in_file.shrink_to(2 * in_file.len());
    }
}

/// Entries that were not in the file when the table was read. Sessions may have appended some of them since.
#[derive(Default)]
struct Missing {
    /// Each id with the place of its line in `lines`, if the line is kept.
    entries: Vec<(Uuid, Option<Range<usize>>)>,
    lines: Vec<u8>,
    /// A buffer, reused for each line.
    metadata: String,
}

impl Missing {
    /// Lines beyond this size are not kept, but made from their rows when needed: a file may lack any number of them.
    const KEPT_BYTES: usize = 4 << 20;

    fn find(table: &Table, mut scan: PendingScan<'_>, in_file: &InFile) -> Result<Missing, Failure> {
        let (mut row, mut missing) = (Row::default(), Missing::default());
        while let Some(tuple) = scan.next() {
            check_for_interrupts!();
            table.deform_into(tuple, &mut row);
            if let Some(id) = row.uuid(entry_column::ID).filter(|id| !in_file.contains(id)) {
                missing.add(id, &row)?;
            }
        }
        Ok(missing)
    }

    fn add(&mut self, id: Uuid, row: &Row) -> Result<(), Failure> {
        let start = self.lines.len();
        let is_kept = start < Self::KEPT_BYTES;
        if is_kept {
            let entry = tables::entry_line(row, &mut self.metadata);
            check(id, tables::fault_of(row, &entry))?;
            entry.write_line(&mut self.lines);
        }
        self.entries.push((id, is_kept.then_some(start..self.lines.len())));
        Ok(())
    }
}

/// Makes sure that the lines of prepared transactions are in the file, and notes where they stand. `known` are lines
/// that are there already. This concerns transactions that were prepared while there was no file, or before this server
/// started; it leaves out those that `noted` returns. `noted` is called after the open transactions have been read,
/// because each of them noted its lines before it was open.
pub fn append_prepared(
    mirror: &Mirror,
    known: &HashMap<Uuid, OpenLine>,
    in_file: &mut InFile,
    noted: impl FnOnce() -> HashSet<u32>,
) -> Result<(), Failure> {
    let mut open = prepared::open_transactions();
    let noted = noted();
    open.retain(|xid| !noted.contains(xid));
    if open.is_empty() {
        return Ok(());
    }
    let mut lines = LineBuffer::new();
    let (mut placed, mut appended) = (Vec::new(), HashSet::new());
    for_each_prepared_entry(&open, |xid, row| {
        let Some(entry_id) = row.uuid(entry_column::ID) else { return Ok(()) };
        placed.push(entry_id);
        if let Some(line) = known.get(&entry_id).filter(|line| line.leaf == tables::leaf_of(row)) {
            return prepared::note_for(mirror, xid, line.range);
        }
        let (entry, fault) = entry_and_fault(row);
        check(entry_id, fault)?;
        lines.push(|out| entry.write_line(out));
        appended.insert(xid);
        Ok(())
    })?;
    append_prepared_lines(mirror, lines, &appended)?;
    // Once the transactions are decided, their lines must not be appended again.
    in_file.extend(placed);
    Ok(())
}

/// Appends lines of these transactions, and notes the range in which they stand; lines of others may stand between
/// them. Before the append the range is noted without an end: a transaction that is rolled back meanwhile must be known
/// to have lines.
fn append_prepared_lines(mirror: &Mirror, lines: LineBuffer, xids: &HashSet<u32>) -> Result<(), Failure> {
    if lines.is_empty() {
        return Ok(());
    }
    let to_come = FileRange { from: mirror.lock().end(), to: u64::MAX };
    xids.iter().try_for_each(|xid| prepared::note_for(mirror, *xid, to_come))?;
    let Some(end) = mirror.append_own(lines)? else {
        return Err(mirror.failure(CauseKind::Passing, "The mirror has been switched off."));
    };
    xids.iter().for_each(|xid| prepared::note_end(mirror, *xid, end));
    Ok(())
}

/// Calls `each` with each row of a prepared transaction, and the transaction. Only a dirty snapshot sees these rows.
/// One at a time, because such a transaction can have any number of them.
fn for_each_prepared_entry(
    open: &HashSet<u32>,
    mut each: impl FnMut(u32, &Row) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut dirty = Box::new(tables::dirty_snapshot());
    let dirty: *mut pg_sys::SnapshotData = &mut *dirty;
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    // SAFETY: the snapshot is declared before the scan, so it outlives it.
    let mut scan = unsafe { TableScan::start_with(&table, dirty, 0) };
    let mut row = Row::default();
    while let Some(tuple) = scan.next() {
        check_for_interrupts!();
        // SAFETY: `dirty` points into the box above. The scan has just set xmin, to the transaction that inserted the
        // tuple if that has not ended.
        let writer = unsafe { (*dirty).xmin };
        if let Some(xid) = prepared::owner(writer, open) {
            table.deform_into(tuple, &mut row);
            each(xid, &row)?;
        }
    }
    Ok(())
}
