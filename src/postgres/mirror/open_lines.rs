//! Reading a part of the file: finds the entry lines there that no later line has decided, by sealing or voiding them.
//!
//! An id may be reused once its line is voided. So of several lines of one entry only the last is open, and a void line
//! says nothing about lines behind it.

use crate::ledger::file_ranges::FileRange;
use crate::ledger::log_tree::leaf_hash;
use crate::ledger::record::Record;
use crate::ledger::Hash;
use crate::regular_file;
use pgrx::check_for_interrupts;
use std::collections::{hash_map, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Result, Seek, SeekFrom};
use std::path::Path;
use uuid::Uuid;

const BUFFER_BYTES: usize = 1 << 20;
/// How a line begins that decides entries, a void line or a block line, and no other.
const VOID_BEGINS: &[u8] = br#"{"entry_ids": "#;
const BLOCK_BEGINS: &[u8] = br#"{"block_hash": "#;

/// An entry line with no block and no void line behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenLine {
    pub entry_id: Uuid,
    pub leaf: Hash,
    pub range: FileRange,
}

impl OpenLine {
    pub fn new(entry_id: Uuid, text: &[u8], at: u64) -> Self {
        OpenLine { entry_id, leaf: leaf_hash(text), range: FileRange { from: at, to: at + text.len() as u64 + 1 } }
    }
}

/// Open lines by the ids of their entries.
#[derive(Default)]
pub struct OpenLines(HashMap<Uuid, OpenLine>);

impl OpenLines {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> hash_map::Values<'_, Uuid, OpenLine> {
        self.0.values()
    }

    /// Lines may come in any order; the one that is last in the file stays.
    pub fn add(&mut self, line: OpenLine) {
        let known = self.0.entry(line.entry_id).or_insert(line);
        if known.range.from < line.range.from {
            *known = line;
        }
    }

    /// A line that begins at `at` decides these entries: their earlier lines are no longer open.
    pub fn decide(&mut self, entry_ids: &[Uuid], at: u64) {
        for entry_id in entry_ids {
            if self.0.get(entry_id).is_some_and(|line| line.range.from < at) {
                self.0.remove(entry_id);
            }
        }
    }

    /// In file order.
    pub fn into_sorted(self) -> Vec<OpenLine> {
        let mut lines: Vec<OpenLine> = self.0.into_values().collect();
        lines.sort_unstable_by_key(|line| line.range.from);
        lines
    }
}

/// Reads line by line, and can be cancelled between two.
struct Lines {
    reader: BufReader<File>,
    text: Vec<u8>,
    /// Where the line in `text` begins, and where it ends.
    at: u64,
    next: u64,
}

impl Lines {
    /// Begins with the first line that starts at or behind this offset. The offset may lie inside a line, where a
    /// failed write was cut off and other lines were written since.
    fn open(path: &Path, from: u64) -> Result<Lines> {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, regular_file::open_own(path)?);
        let mut next = from.saturating_sub(1);
        reader.seek(SeekFrom::Start(next))?;
        if from > 0 {
            next += reader.skip_until(b'\n')? as u64;
        }
        Ok(Lines { reader, text: Vec::new(), at: next, next })
    }

    /// False at the end of the file.
    fn advance(&mut self) -> Result<bool> {
        check_for_interrupts!();
        self.text.clear();
        let length = self.reader.read_until(b'\n', &mut self.text)?;
        self.moved_by(length)
    }

    /// As [`Lines::advance`], but keeps only the first bytes of a line that decides nothing.
    fn advance_over_undeciding(&mut self) -> Result<bool> {
        check_for_interrupts!();
        self.text.clear();
        let beginning = VOID_BEGINS.len().max(BLOCK_BEGINS.len()) as u64;
        let mut length = self.reader.by_ref().take(beginning).read_until(b'\n', &mut self.text)?;
        if self.text.last() == Some(&b'\n') {
            return self.moved_by(length);
        }
        length += match self.decides() {
            true => self.reader.read_until(b'\n', &mut self.text)?,
            false => self.reader.skip_until(b'\n')?,
        };
        self.moved_by(length)
    }

    fn decides(&self) -> bool {
        self.text.starts_with(VOID_BEGINS) || self.text.starts_with(BLOCK_BEGINS)
    }

    fn moved_by(&mut self, length: usize) -> Result<bool> {
        (self.at, self.next) = (self.next, self.next + length as u64);
        Ok(length > 0)
    }

    fn text(&self) -> &[u8] {
        self.text.trim_ascii_end()
    }
}

/// Reads the entry lines that start in a part of the file.
pub struct RangeReader {
    lines: Lines,
    to: u64,
}

impl RangeReader {
    pub fn open(path: &Path, range: FileRange) -> Result<RangeReader> {
        Ok(RangeReader { lines: Lines::open(path, range.from)?, to: range.to })
    }

    /// The next lines, about `most` of them, without those that a line read meanwhile decides. Empty at the end.
    pub fn next_lines(&mut self, most: usize) -> Result<OpenLines> {
        let mut open = OpenLines::default();
        while open.len() < most && self.lines.next < self.to && self.lines.advance()? {
            let (text, at) = (self.lines.text(), self.lines.at);
            match Record::parse(text) {
                Ok(Record::Entry(entry)) => open.add(OpenLine::new(entry.entry_id, text, at)),
                Ok(Record::Block(block)) => open.decide(&block.entry_ids, at),
                Ok(Record::Void(void)) => open.decide(&void.entry_ids, at),
                _ => {}
            }
        }
        Ok(open)
    }
}

/// Entry lines that start in `range`, without those that a line before `end` decides.
pub fn in_range(path: &Path, range: FileRange, end: u64) -> Result<OpenLines> {
    let mut open = RangeReader::open(path, range)?.next_lines(usize::MAX)?;
    drop_decided(path, FileRange { from: range.to, to: end }, &mut open)?;
    Ok(open)
}

/// Takes out the entries that void lines and block lines in `range` name.
pub fn drop_decided(path: &Path, range: FileRange, open: &mut OpenLines) -> Result<()> {
    if range.is_empty() || open.is_empty() {
        return Ok(());
    }
    let mut lines = Lines::open(path, range.from)?;
    while !open.is_empty() && lines.next < range.to && lines.advance_over_undeciding()? {
        if !lines.decides() {
            continue;
        }
        match Record::parse(lines.text()) {
            Ok(Record::Void(void)) => open.decide(&void.entry_ids, lines.at),
            Ok(Record::Block(block)) => open.decide(&block.entry_ids, lines.at),
            _ => {}
        }
    }
    Ok(())
}
