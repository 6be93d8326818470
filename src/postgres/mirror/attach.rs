//! Opening the file, and making file and database agree before anything new is written.
//!
//! The worker does this at start, after a change of settings, and whenever a write found the file not to be what it was.
//! Everything before `settled` bytes is known to agree, so only the tail behind it is read. In the tail
//!
//! * a torn last line is cut off, and only that;
//! * entry lines whose transaction did not commit are voided;
//! * entries and blocks that the database has and the file lacks are appended.
//!
//! A file that is shorter than what was acknowledged, belongs to another ledger, or holds blocks that the database does
//! not, is left as it is.

use super::append::Mirror;
use super::block_lines;
use super::file::{self, Trouble};
use super::lines::LineBuffer;
use super::settle;
use super::shared::{Attachment, FixedText};
use crate::ledger::record::{Header, Record, Timestamp};
use crate::postgres::blocks;
use crate::postgres::errors::{cause, Failure};
use crate::postgres::partitions;
use crate::postgres::settings;
use crate::postgres::spi;
use crate::postgres::tables::{self, entry_column, LatestSnapshot, Table, TableScan};
use pgrx::{check_for_interrupts, pg_sys, PgSqlErrorCode};
use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// Lines of the tail that are taken for torn must not be longer than this: more is no line of ours.
const MAX_TORN_BYTES: u64 = 1 << 30;

/// What the database remembers of its file.
pub struct Remembered {
    pub ledger_id: Uuid,
    pub started_at: Timestamp,
    /// Bytes that were in the file when this was written; 0 if there has been no file yet.
    pub acknowledged: u64,
    /// Bytes before which every entry line is sealed in a block before them, or voided.
    pub settled: u64,
    /// The last block whose line is before `settled`.
    pub settled_block: i64,
    /// The last block whose line was in the file when this was written.
    pub acknowledged_block: i64,
}

impl Remembered {
    pub fn read() -> Remembered {
        let mut remembered = None;
        spi::for_each(
            "SELECT ledger_id, started_at, mirror_bytes, settled_bytes, settled_block, mirror_block \
             FROM ledger.log_state",
            &[],
            |row| {
                remembered = Some(Remembered {
                    ledger_id: row.uuid(0).unwrap_or_default(),
                    started_at: row.timestamp(1).unwrap_or_default(),
                    acknowledged: row.get::<i64>(2).unwrap_or_default().max(0) as u64,
                    settled: row.get::<i64>(3).unwrap_or_default().max(0) as u64,
                    settled_block: row.get(4).unwrap_or_default(),
                    acknowledged_block: row.get(5).unwrap_or_default(),
                });
            },
        );
        remembered.unwrap_or_else(|| pgrx::error!("ledger.log_state has no row"))
    }

    /// The first line of this ledger's file.
    pub fn header_line(&self) -> Vec<u8> {
        let header = Header { database: database_name(), ledger_id: self.ledger_id, timestamp: self.started_at };
        let mut line = header.line();
        line.push(b'\n');
        line
    }
}

/// The name of this process's database.
pub fn database_name() -> String {
    // SAFETY: a catalog look-up inside a transaction; the result is a palloc'd string, or null if the row is gone.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        if name.is_null() {
            return String::new();
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

/// Where the mirror file of this database is, and whether its directory is the default one.
pub fn configured_path(ledger_id: Uuid) -> (PathBuf, PathBuf, bool) {
    let setting = settings::mirror_directory();
    // SAFETY: set by the postmaster before any backend starts.
    let data = PathBuf::from(unsafe { CStr::from_ptr(pg_sys::DataDir) }.to_string_lossy().into_owned());
    let directory = data.join(&setting);
    let path = file::path_of(&directory, &database_name(), ledger_id);
    (directory, path, setting == "pg_notary")
}

/// The file, open and locked for as long as this lives: it is the worker's.
pub struct Attached {
    _file: File,
}

/// Opens, checks and repairs the file, and lets writers at it. The caller is the worker, in a transaction, and holds the
/// sealing lock.
pub fn attach(mirror: &Mirror) -> Result<Attached, Failure> {
    let outcome = try_attach(mirror);
    let mut fields = mirror.slot.mirror.lock(mirror.shared, mirror.slot);
    fields.attempts += 1;
    if let Err(failure) = &outcome {
        fields.attachment = Attachment::Failed;
        fields.cause.set(failure.message());
    }
    drop(fields);
    mirror.slot.mirror.broadcast();
    outcome
}

fn try_attach(mirror: &Mirror) -> Result<Attached, Failure> {
    let remembered = Remembered::read();
    let (directory, path, default_directory) = configured_path(remembered.ledger_id);
    let opened = open(&directory, &path, default_directory, &remembered).map_err(|trouble| failure(&trouble))?;
    let tail = read_tail(&opened, &path, &remembered)?;
    if tail.torn > 0 {
        file::cut(&opened, &path, tail.end).map_err(|trouble| failure(&trouble))?;
    }
    take_over(mirror, &opened, &path, &tail).map_err(|trouble| failure(&trouble))?;
    bring_up_to_date(mirror, &tail)?;
    mirror.slot.mirror.lock(mirror.shared, mirror.slot).attachment = Attachment::Attached;
    remember(mirror);
    Ok(Attached { _file: opened })
}

fn failure(trouble: &Trouble) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_IO_ERROR, trouble.cause.clone())
        .hint("Recording is refused until this is repaired; the worker tries again by itself, and with every write.")
}

fn diverged(path: &Path, what: String) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("mirror file \"{}\" does not agree with the database: {what}", path.display()),
    )
    .hint("Nothing is written to it. Compare both with SELECT * FROM ledger.find_tampering(), and put back the one that is wrong.")
}

fn open(directory: &Path, path: &Path, default_directory: bool, remembered: &Remembered) -> Result<File, Trouble> {
    file::prepare_directory(directory, default_directory)?;
    let is_first = remembered.acknowledged == 0;
    let opened = file::open(path, is_first)?;
    file::lock(&opened, path)?;
    let size = file::size(&opened, path)?;
    if is_first && size == 0 {
        file::write(&opened, path, &remembered.header_line())?;
        file::sync(&opened, path)?;
        file::sync_directory(directory)?;
    }
    Ok(opened)
}

/// What the tail of the file says.
struct Tail {
    /// Where the last whole line ends.
    end: u64,
    /// Bytes behind it.
    torn: u64,
    /// Entries with a line but no block and no void line, in file order.
    open: Vec<Uuid>,
    last_block: i64,
}

fn read_tail(file: &File, path: &Path, remembered: &Remembered) -> Result<Tail, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(PgSqlErrorCode::ERRCODE_IO_ERROR, format!("could not read mirror file \"{}\"", path.display()))
            .detail(cause(&error))
    };
    let size = file.metadata().map_err(unreadable)?.len();
    if size < remembered.acknowledged {
        return Err(diverged(path, format!("it has {size} bytes, and had at least {}", remembered.acknowledged)));
    }
    let mut reader = BufReader::with_capacity(1 << 20, file);
    reader.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).map_err(unreadable)?;
    check_header(path, &line, remembered)?;
    let mut at = line.len() as u64;
    let mut last_block = 0;
    if remembered.settled > at {
        (at, last_block) = (remembered.settled, remembered.settled_block);
        reader.seek(SeekFrom::Start(at)).map_err(unreadable)?;
    }
    let mut open: Vec<Uuid> = Vec::new();
    let mut closed: HashSet<Uuid> = HashSet::new();
    loop {
        check_for_interrupts!();
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(unreadable)? as u64;
        if line.last() != Some(&b'\n') {
            check_torn(path, at, length, remembered)?;
            open.retain(|id| !closed.contains(id));
            return Ok(Tail { end: at, torn: length, open, last_block });
        }
        match Record::parse(&line[..line.len() - 1]) {
            Ok(Record::Entry(entry)) => open.push(entry.entry_id),
            Ok(Record::Void(void)) => closed.extend(void.entry_ids),
            Ok(Record::Block(block)) => {
                closed.extend(block.entry_ids);
                last_block = block.header.block_number;
                check_block(path, last_block, &block.header.block_hash)?;
            }
            Ok(Record::Ledger(_)) => return Err(diverged(path, format!("a second header stands at byte {at}"))),
            Err(error) => return Err(diverged(path, format!("the line at byte {at} is none of ours: {error}"))),
        }
        at += length;
    }
}

fn check_header(path: &Path, line: &[u8], remembered: &Remembered) -> Result<(), Failure> {
    match Record::parse(line.trim_ascii_end()) {
        Ok(Record::Ledger(header)) if header.ledger_id == remembered.ledger_id => Ok(()),
        Ok(Record::Ledger(header)) => Err(diverged(
            path,
            format!("it belongs to ledger {}, this is ledger {}", header.ledger_id, remembered.ledger_id),
        )),
        _ => Err(diverged(path, "its first line is not the header of a ledger".to_owned())),
    }
}

/// Only what a crash can leave is taken for torn: one unfinished line behind everything that was acknowledged.
fn check_torn(path: &Path, at: u64, length: u64, remembered: &Remembered) -> Result<(), Failure> {
    if length == 0 || (at >= remembered.acknowledged && length < MAX_TORN_BYTES) {
        return Ok(());
    }
    Err(diverged(path, format!("the line at byte {at} was acknowledged, and is not whole")))
}

/// A block in the file must be the database's.
fn check_block(path: &Path, number: i64, block_hash: &str) -> Result<(), Failure> {
    let mut stored: Option<String> = None;
    spi::for_each("SELECT block_hash FROM ledger.blocks WHERE block_number = $1", &[number.into()], |row| {
        stored = row.get(0);
    });
    match stored {
        Some(stored) if stored == block_hash => Ok(()),
        Some(_) => Err(diverged(path, format!("its block {number} is not the database's"))),
        None => Err(diverged(path, format!("it holds block {number}, which the database does not have"))),
    }
}

/// Makes this file the one that is written, for now by the worker alone.
fn take_over(mirror: &Mirror, file: &File, path: &Path, tail: &Tail) -> Result<(), Trouble> {
    // What an earlier attachment wrote but did not sync is taken over here.
    file::sync(file, path)?;
    let metadata = file.metadata().map_err(|error| Trouble::lasting(cause(&error)))?;
    let text = path.to_string_lossy();
    if text.len() > FixedText::<1024>::CAPACITY {
        return Err(Trouble::lasting(format!("the path of mirror file \"{text}\" is too long")));
    }
    mirror.wait_until_quiet();
    let mut fields = mirror.slot.mirror.lock(mirror.shared, mirror.slot);
    let generation = fields.identity.generation + 1;
    fields.identity = file::identity(&metadata, generation);
    fields.path.set(&text);
    // Whoever still waits for an earlier attachment fails; recovery sees to what of theirs is in the file.
    fields.fail("The mirror file was opened again.");
    (fields.head, fields.tail, fields.shift, fields.durable) = (0, 0, metadata.len(), metadata.len());
    fields.last_block = tail.last_block;
    fields.leading = false;
    fields.attachment = Attachment::Repairing;
    Ok(())
}

/// Voids what did not commit and appends what the file lacks.
fn bring_up_to_date(mirror: &Mirror, tail: &Tail) -> Result<(), Failure> {
    let uncommitted: Vec<Uuid> = tail.open.iter().copied().filter(|id| !settle::is_recorded(*id)).collect();
    settle::append_void(mirror, &uncommitted, "not committed")?;
    let in_file: HashSet<Uuid> = tail.open.iter().copied().collect();
    block_lines::append_after(mirror, tail.last_block, |ids| {
        let missing: Vec<Uuid> = ids.iter().copied().filter(|id| !in_file.contains(id)).collect();
        append_sealed_entries(mirror, &missing)
    })?;
    append_pending_entries(mirror, &in_file)
}

fn append_sealed_entries(mirror: &Mirror, entry_ids: &[Uuid]) -> Result<(), Failure> {
    if entry_ids.is_empty() {
        return Ok(());
    }
    let snapshot = LatestSnapshot::take();
    let mut lines = LineBuffer::new();
    let partitions = partitions::sealed();
    for entry_id in entry_ids {
        let entry = partitions.iter().rev().find_map(|partition| {
            let table = Table::open_oid(partition.oid, pg_sys::AccessShareLock);
            partitions::find(&table, *entry_id, snapshot.as_ptr(), tables::entry_from_row)
        });
        if let Some(entry) = entry {
            lines.push(|out| entry.write_line(out));
        }
    }
    append(mirror, lines)
}

fn append_pending_entries(mirror: &Mirror, in_file: &HashSet<Uuid>) -> Result<(), Failure> {
    let snapshot = LatestSnapshot::take();
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    let mut scan = TableScan::start(&table, &snapshot, 0);
    let mut lines = LineBuffer::new();
    while let Some(tuple) = scan.next() {
        check_for_interrupts!();
        let row = table.deform(tuple);
        if row.uuid(entry_column::ID).is_some_and(|id| !in_file.contains(&id)) {
            let entry = tables::entry_from_row(&row);
            lines.push(|out| entry.write_line(out));
        }
    }
    append(mirror, lines)
}

fn append(mirror: &Mirror, mut lines: LineBuffer) -> Result<(), Failure> {
    if lines.is_empty() {
        return Ok(());
    }
    let appended = mirror.append(&mut lines, &mut Vec::new());
    lines.close_spill();
    appended
}

/// Notes in the database how far the file is acknowledged and, when nothing is open, that it is settled that far. The
/// caller is in a transaction, holds the sealing lock, and has appended the lines of all blocks.
pub fn remember(mirror: &Mirror) {
    let lock = || mirror.slot.mirror.lock(mirror.shared, mirror.slot);
    // The order matters: what is before `durable` is decided when nothing is undecided after it was read; a transaction
    // says that its lines are to be voided before it counts as decided; and what is committed by then, the scan sees.
    let (durable, last_block) = {
        let fields = lock();
        (fields.durable, fields.last_block)
    };
    let nothing_undecided = mirror.slot.undecided.load(Ordering::Acquire) == 0;
    let nothing_to_void = {
        let fields = lock();
        !fields.voiding && fields.void_from == fields.void_to
    };
    // The count only saves the look at the table: it may be wrong, and then entries would be taken for settled.
    let may_be_settled = nothing_undecided && nothing_to_void && mirror.slot.pending.load(Ordering::Acquire) <= 0;
    let settled = (may_be_settled && nothing_is_pending()).then_some((durable, last_block));
    blocks::remember_mirror((durable, last_block), settled);
}

fn nothing_is_pending() -> bool {
    let snapshot = LatestSnapshot::take();
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    let is_empty = TableScan::start(&table, &snapshot, 0).next().is_none();
    is_empty
}
