//! Reads the file when it is opened: the part that the database does not know to be settled, or all of it. Judges by
//! the tables what stands there.

use super::cause::CauseKind;
use super::file;
use super::handle::Mirror;
use super::open_lines::{self, OpenLine, OpenLines};
use super::refused::Refused;
use super::remembered::Remembered;
use super::voiding::{self, Judge, Knowledge, Standing};
use crate::ledger::file_ranges::FileRange;
use crate::ledger::record::{Header, LineError, Record, FORMAT};
use crate::ledger::verifier::{verify_file, FileBlock, FileOptions, FileReport, Observer};
use crate::postgres::errors::Failure;
use crate::postgres::log_state::Settled;
use crate::postgres::spi;
use pgrx::{check_for_interrupts, PgSqlErrorCode};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use uuid::Uuid;

/// The longest unfinished line at the end that is taken for torn. A longer one is not the ledger's.
const MAX_TORN_BYTES: u64 = 1 << 30;

/// What the file says.
pub struct Tail {
    /// Where the last whole line ends.
    pub end: u64,
    /// Bytes of an unfinished line behind it.
    pub torn: u64,
    /// In file order.
    pub open: Vec<OpenLine>,
    pub last_block: i64,
    /// What is settled in this file, if all of it was read.
    pub settled: Option<Settled>,
}

pub fn diverged(path: &Path, what: &str) -> Refused {
    let failure = Failure::new(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("mirror file \"{}\" does not agree with the database: {what}", path.display()),
    )
    .hint("Nothing is written to the file. SELECT * FROM ledger.find_tampering() compares it with the database. Find out which of them is right, and put the right file back or bring the database forward. ledger.mirror_catch_up() repairs a file that is only behind; ledger.mirror_restart() begins a new file and keeps the old one.");
    Refused::new(CauseKind::Diverged, failure)
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> Refused + '_ {
    move |error| Refused::new(CauseKind::of(&error), file::unreadable(path, &error))
}

/// Reads what is behind the settled place, and the lines of prepared transactions before it.
pub fn read(file: &File, path: &Path, remembered: &Remembered) -> Result<Tail, Refused> {
    let error = unreadable(path);
    let settled = &remembered.settled;
    let mut at = check_header(file, path, remembered)?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    let mut tail = Tail { end: 0, torn: 0, open: Vec::new(), last_block: 0, settled: None };
    let mut open = OpenLines::default();
    if settled.bytes > at {
        for range in &settled.open {
            let lines = open_lines::in_range(path, *range, range.to).map_err(&error)?;
            lines.iter().for_each(|line| open.add(*line));
        }
        (at, tail.last_block) = (settled.bytes, settled.block);
    }
    reader.seek(SeekFrom::Start(at)).map_err(&error)?;
    loop {
        check_for_interrupts!();
        line.clear();
        // A longer line is refused, so no more of it is kept.
        let length = reader.by_ref().take(MAX_TORN_BYTES).read_until(b'\n', &mut line).map_err(&error)? as u64;
        if line.last() != Some(&b'\n') {
            (tail.end, tail.torn) = (at, length);
            break;
        }
        tail.last_block = take_line(path, &line[..line.len() - 1], at, &mut open)?.unwrap_or(tail.last_block);
        at += length;
    }
    drop_decided_before(path, settled.bytes, &mut open).map_err(&error)?;
    tail.open = open.into_sorted();
    check_torn(path, &tail, remembered)?;
    Ok(tail)
}

/// Takes one line; returns the block number if it is a block line.
fn take_line(path: &Path, text: &[u8], at: u64, open: &mut OpenLines) -> Result<Option<i64>, Refused> {
    match Record::parse(text) {
        Ok(Record::Entry(entry)) => open.add(OpenLine::new(entry.entry_id, text, at)),
        Ok(Record::Void(void)) => open.decide(&void.entry_ids, at),
        Ok(Record::Block(block)) => {
            open.decide(&block.entry_ids, at);
            check_block(path, block.header.block_number, &block.header.block_hash)?;
            return Ok(Some(block.header.block_number));
        }
        Ok(Record::Ledger(_)) => return Err(diverged(path, &format!("it has a second header at byte {at}"))),
        Err(error) => {
            return Err(diverged(
                path,
                &format!("the line that begins at byte {at} was not written by pg_notary: {error} of that line"),
            ))
        }
    }
    Ok(None)
}

/// The ranges of prepared transactions also hold lines of others, which may have been voided before the tail begins.
/// That is worth searching for only if a line does not match the tables: it has no row, or the id was reused.
fn drop_decided_before(path: &Path, settled: u64, open: &mut OpenLines) -> std::io::Result<()> {
    let is_doubtful = |line: &&OpenLine| voiding::recorded_leaf(line.entry_id) != Some(line.leaf);
    let doubtful = open.iter().filter(|line| line.range.from < settled).filter(is_doubtful);
    match doubtful.map(|line| line.range.from).min() {
        Some(from) => open_lines::drop_decided(path, FileRange { from, to: settled }, open),
        None => Ok(()),
    }
}

/// The file must be this ledger's. Returns the length of its first line.
pub fn check_header(file: &File, path: &Path, remembered: &Remembered) -> Result<u64, Refused> {
    let error = unreadable(path);
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    reader.seek(SeekFrom::Start(0)).map_err(&error)?;
    // A header is much shorter: without a newline by then, this is not one.
    reader.take(1 << 16).read_until(b'\n', &mut line).map_err(&error)?;
    let text = line.trim_ascii_end();
    match Record::parse(text) {
        _ if line.is_empty() => Err(diverged(path, "it is empty")),
        Ok(Record::Ledger(header)) if header.ledger_id == remembered.ledger_id => Ok(line.len() as u64),
        Ok(Record::Ledger(header)) => Err(diverged(
            path,
            &format!("it belongs to ledger {}, this is ledger {}", header.ledger_id, remembered.ledger_id),
        )),
        Ok(_) => Err(diverged(path, NO_HEADER)),
        Err(error) => Err(diverged(path, &no_header(text, &error))),
    }
}

const NO_HEADER: &str = "its first line is not the header of a ledger";

/// What a line is that cannot be read as the header.
fn no_header(line: &[u8], error: &LineError) -> String {
    match Header::stated_format(line) {
        Some(format) if format > FORMAT.into() => {
            format!("it has format {format}, and this server knows only format {FORMAT}")
        }
        _ => format!("{NO_HEADER} ({error})"),
    }
}

/// Only what a crash can leave counts as torn: one unfinished line behind everything that was acknowledged.
fn check_torn(path: &Path, tail: &Tail, remembered: &Remembered) -> Result<(), Refused> {
    if tail.torn == 0 || (tail.end >= remembered.acknowledged && tail.torn < MAX_TORN_BYTES) {
        return Ok(());
    }
    Err(diverged(path, &format!("the line at byte {} was acknowledged, but is not complete", tail.end)))
}

/// A block in the file must be the database's.
fn check_block(path: &Path, number: i64, block_hash: &str) -> Result<(), Refused> {
    let mut stored: Option<String> = None;
    spi::for_each("SELECT block_hash FROM ledger.blocks WHERE block_number = $1", &[number.into()], |row| {
        stored = row.get(0);
    });
    match stored {
        Some(stored) if stored == block_hash => Ok(()),
        Some(_) => Err(diverged(path, &format!("its block {number} differs from the one in the database"))),
        None => Err(diverged(path, &format!("it holds block {number}, which the database does not have"))),
    }
}

/// Verifies all of the file, and that its blocks are the database's. With `may_be_short` its end may lack lines that
/// were acknowledged.
pub fn read_whole(file: &File, path: &Path, remembered: &Remembered, may_be_short: bool) -> Result<Tail, Refused> {
    let error = unreadable(path);
    let size = file.metadata().map_err(&error)?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    reader.seek(SeekFrom::Start(0)).map_err(&error)?;
    let mut blocks = Blocks { path, diverged: None };
    let report = verify_file(reader, FileOptions::default(), &mut blocks).map_err(&error)?;
    if let Some(problem) = report.errors.first() {
        return Err(diverged(path, &format!("it is inconsistent in itself: {}", problem.detail)));
    }
    if let Some(refused) = blocks.diverged {
        return Err(refused);
    }
    let tail = tail_of(&report, size);
    if !may_be_short {
        check_torn(path, &tail, remembered)?;
    }
    Ok(tail)
}

fn tail_of(report: &FileReport, size: u64) -> Tail {
    let open = report.pending.iter().map(|(entry_id, line)| {
        // The end of the line is not known, and not needed: a reader of a range takes the lines that start in it.
        let range = FileRange { from: line.offset, to: line.offset + 1 };
        OpenLine { entry_id, leaf: line.leaf_hash, range }
    });
    let mut open: Vec<OpenLine> = open.collect();
    open.sort_unstable_by_key(|line| line.range.from);
    let last_block = report.last_block.as_ref().map_or(0, |block| block.block_number);
    let settled = open.first().map_or(report.bytes, |line| line.range.from);
    Tail {
        end: report.bytes,
        torn: size.saturating_sub(report.bytes),
        open,
        last_block,
        settled: Some(Settled { bytes: settled, block: last_block, open: Vec::new() }),
    }
}

struct Blocks<'a> {
    path: &'a Path,
    diverged: Option<Refused>,
}

impl Observer for Blocks<'_> {
    fn progress(&mut self, _bytes: u64) -> ControlFlow<()> {
        check_for_interrupts!();
        ControlFlow::Continue(())
    }

    fn block(&mut self, block: FileBlock) {
        if self.diverged.is_none() {
            self.diverged = check_block(self.path, block.header.block_number, &block.header.block_hash).err();
        }
    }
}

/// How the database judges the open lines.
pub struct Judged {
    /// Their rows are there, committed or not yet decided.
    pub recorded: HashSet<Uuid>,
    /// Their transactions did not commit.
    pub uncommitted: Vec<Uuid>,
}

pub fn judge(mirror: &Mirror, path: &Path, open: &[OpenLine], knowledge: Knowledge) -> Result<Judged, Refused> {
    let judge = Judge::new(mirror, path, knowledge);
    let mut judged = Judged { recorded: HashSet::with_capacity(open.len()), uncommitted: Vec::new() };
    for line in open {
        match judge.standing(line)? {
            Standing::Recorded => {
                judged.recorded.insert(line.entry_id);
            }
            Standing::Differs => {
                let what =
                    format!("entry {} at byte {} differs from the one in the database", line.entry_id, line.range.from);
                return Err(diverged(path, &what));
            }
            Standing::Vanished => {
                let what = format!(
                    "entry {} at byte {} is not in the database, although its transaction was not rolled back",
                    line.entry_id, line.range.from
                );
                return Err(diverged(path, &what));
            }
            Standing::Stale => judged.uncommitted.push(line.entry_id),
        }
    }
    Ok(judged)
}
