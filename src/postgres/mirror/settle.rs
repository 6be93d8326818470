//! Which lines belong to committed entries, and voiding those that do not.
//!
//! The database decides. An entry line is good if its row is there: pending, sealed, or inserted by a transaction that
//! still runs. Rows only ever move from pending to sealed, so looking in that order misses none.

use super::append::Mirror;
use super::lines::LineBuffer;
use crate::ledger::log_tree::leaf_hash;
use crate::ledger::record::{Record, Timestamp, Void};
use crate::ledger::Hash;
use crate::postgres::errors::{cause, Failure};
use crate::postgres::partitions;
use crate::postgres::tables::{self, Row, Table};
use pgrx::{check_for_interrupts, pg_sys, PgSqlErrorCode};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use uuid::Uuid;

/// Ids in one void line, so that a line stays short enough to read at a glance and to copy through the ring.
const IDS_PER_LINE: usize = 500;

/// Voids the lines of transactions that have aborted since the last call.
pub fn void_aborted(mirror: &Mirror) -> Result<(), Failure> {
    let Some((from, to)) = take_range(mirror) else { return Ok(()) };
    let taken = TakenRange { mirror, from, to };
    void_between(mirror, from, to)?;
    taken.done();
    Ok(())
}

/// A range that is being voided; dropped before it is done, by an error or a cancel, it goes back.
struct TakenRange<'a> {
    mirror: &'a Mirror,
    from: u64,
    to: u64,
}

impl TakenRange<'_> {
    fn done(self) {
        self.mirror.slot.mirror.lock(self.mirror.shared, self.mirror.slot).voiding = false;
        self.mirror.slot.mirror.broadcast();
        std::mem::forget(self);
    }
}

impl Drop for TakenRange<'_> {
    fn drop(&mut self) {
        let mut fields = self.mirror.slot.mirror.lock(self.mirror.shared, self.mirror.slot);
        fields.voiding = false;
        fields.add_void(self.from, self.to);
    }
}

fn take_range(mirror: &Mirror) -> Option<(u64, u64)> {
    let mut fields = mirror.slot.mirror.lock(mirror.shared, mirror.slot);
    let range = (fields.void_from, fields.void_to);
    (fields.void_from, fields.void_to) = (0, 0);
    fields.voiding = range.0 < range.1;
    fields.voiding.then_some(range)
}

fn void_between(mirror: &Mirror, from: u64, to: u64) -> Result<(), Failure> {
    let end = mirror.flush()?;
    let path = mirror.slot.mirror.lock(mirror.shared, mirror.slot).path.get();
    let candidates = entries_between(Path::new(&path), from, to, end).map_err(|error| unreadable(&path, &error))?;
    let uncommitted: Vec<Uuid> =
        candidates.iter().filter(|(id, leaf)| recorded_leaf(*id) != Some(*leaf)).map(|(id, _)| *id).collect();
    append_void(mirror, &uncommitted, "rolled back")
}

fn unreadable(path: &str, error: &std::io::Error) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_IO_ERROR, format!("could not read mirror file \"{path}\""))
        .detail(cause(error))
}

/// Entries whose lines start in `from..to` and that no void line before `end` names, in file order, with the leaf hashes
/// of their lines.
///
/// `from` may stand inside a line: where a failed write was cut off, others have written since.
fn entries_between(path: &Path, from: u64, to: u64, end: u64) -> std::io::Result<Vec<(Uuid, Hash)>> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut at = from.saturating_sub(1);
    reader.seek(SeekFrom::Start(at))?;
    let mut line = Vec::new();
    if from > 0 {
        at += reader.read_until(b'\n', &mut line)? as u64;
    }
    let (mut entries, mut voided) = (Vec::new(), HashSet::new());
    while at < end {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if length == 0 {
            break;
        }
        let text = line.trim_ascii_end();
        match Record::parse(text) {
            Ok(Record::Entry(entry)) if at < to => entries.push((entry.entry_id, leaf_hash(text))),
            Ok(Record::Void(void)) => voided.extend(void.entry_ids),
            _ => {}
        }
        at += length as u64;
    }
    entries.retain(|(id, _)| !voided.contains(id));
    Ok(entries)
}

/// Whether the entry is in the table, or a running transaction has put it there.
pub fn is_recorded(entry_id: Uuid) -> bool {
    recorded_leaf(entry_id).is_some()
}

/// The leaf hash of the entry in the table, or of the one that a running transaction has put there. Where an id is
/// recorded again after a transaction that used it has aborted, it is not the leaf hash of the aborted line.
fn recorded_leaf(entry_id: Uuid) -> Option<Hash> {
    check_for_interrupts!();
    // A dirty snapshot needs nothing but its kind.
    let mut dirty = pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() };
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    let leaf = |row: &Row| leaf_hash(&tables::entry_from_row(row).line());
    partitions::find(&table, entry_id, &mut dirty, leaf).or_else(|| partitions::find_sealed(entry_id, leaf))
}

/// Appends void lines for these entries.
pub fn append_void(mirror: &Mirror, entry_ids: &[Uuid], reason: &str) -> Result<(), Failure> {
    if entry_ids.is_empty() {
        return Ok(());
    }
    let mut lines = LineBuffer::new();
    for entry_ids in entry_ids.chunks(IDS_PER_LINE) {
        let void = Void { entry_ids: entry_ids.to_vec(), reason: reason.to_owned(), timestamp: now() };
        lines.push(|out| out.extend_from_slice(&void.line()));
    }
    let appended = mirror.append(&mut lines, &mut Vec::new());
    lines.close_spill();
    appended
}

pub fn now() -> Timestamp {
    // SAFETY: reads the clock.
    tables::timestamp_from_postgres(unsafe { pg_sys::GetCurrentTimestamp() })
}
