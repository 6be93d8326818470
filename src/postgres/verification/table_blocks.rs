//! Reads blocks and their entries from the tables, in the order of the chain, in chunks.

use super::in_order::Stretch;
use super::leaves::Leaves;
use super::row_versions::RowVersions;
use crate::ledger::block::{BlockHeader, MAX_ENTRIES};
use crate::ledger::log_tree::leaf_hash;
use crate::ledger::record::EntryLine;
use crate::ledger::signature::Keyring;
use crate::ledger::verifier::{
    check_signature, DataHash, EntryHasher, FileBlock, Findings, HashedEntry, Problem, ProblemKind, SealedEntry, Source,
};
use crate::postgres::helper_threads::helpers;
use crate::postgres::spi;
use crate::postgres::tables::{self, entry_column, Row, BLOCKS_FROM};
use pgrx::check_for_interrupts;
use std::collections::VecDeque;
use std::rc::Rc;

/// Leaves read at once.
const CHUNK_LEAVES: i64 = 2_000;
/// How far to read ahead of what is asked for, so that the hashing threads always have something to do.
const AHEAD: i64 = 6_000;
const HEADERS_AT_ONCE: i64 = 1_000;
/// How much memory of an entry's text to keep for the next entry.
const MAX_BUFFER: usize = 1 << 20;

/// Reads the chain from the tables.
pub struct TableBlocks {
    keyring: Option<Rc<Keyring>>,
    headers: VecDeque<BlockHeader>,
    entries: VecDeque<HashedEntry>,
    /// The lowest number that the next block can have; `None` behind the highest possible one.
    lowest: Option<i64>,
    /// Where the next block's leaves begin.
    next_leaf: i64,
    /// Where the next chunk of entries begins.
    read_to: i64,
    leaves: Leaves,
    hasher: EntryHasher,
    /// Is told of each entry.
    row_versions: Option<RowVersions>,
    /// Rows that were read, but hold what no line can state.
    malformed: Vec<Problem>,
}

impl TableBlocks {
    /// Reads the blocks from number `from` on, whose leaves begin at `first_leaf`.
    pub fn new(keyring: Option<Rc<Keyring>>, from: i64, first_leaf: i64) -> Self {
        let hasher = EntryHasher::new(keyring.as_deref().cloned(), helpers(), tables::metadata_text);
        TableBlocks {
            keyring,
            headers: VecDeque::new(),
            entries: VecDeque::new(),
            lowest: Some(from),
            next_leaf: first_leaf,
            read_to: first_leaf,
            leaves: Leaves::new(),
            hasher,
            row_versions: None,
            malformed: Vec::new(),
        }
    }

    /// For a reading in which most blocks are given with their block of the file: signatures are not checked in
    /// advance.
    pub fn beside_file(mut self) -> Self {
        self.hasher = self.hasher.without_signatures();
        self
    }

    /// Has all entries that are read from now on compared with `ledger.row_versions`.
    pub fn compare_with(&mut self, row_versions: RowVersions) {
        self.row_versions = Some(row_versions);
    }

    /// What this comparison has found, once all entries were read.
    pub fn finish_row_versions(&mut self, findings: &mut Findings<'_>) {
        self.row_versions.take().into_iter().for_each(|row_versions| row_versions.finish(findings));
    }

    /// The number of the next block, if there is one now.
    pub fn next_number(&mut self) -> Option<i64> {
        if self.headers.is_empty() {
            self.read_headers();
        }
        self.headers.front().map(|header| header.block_number)
    }

    /// The next block, and its entries in leaf order. `file` may be the same block of the file, checked with the same
    /// keys.
    pub fn next(&mut self, file: Option<&FileBlock>) -> Option<(BlockHeader, Vec<SealedEntry>)> {
        check_for_interrupts!();
        self.next_number()?;
        let header = self.headers.pop_front()?;
        let follows = Some(header.block_number) == self.lowest || header.block_number <= 1;
        self.lowest = header.block_number.checked_add(1);
        let count = match self.is_next_size(header.tree_size) {
            true => self.leaves_below(header.tree_size),
            // The block's own size cannot be trusted, so its entries are those that name it.
            false => self.entries_of(header.block_number),
        };
        let mut others = file.map(|block| &block.entries[..]).unwrap_or_default().iter();
        let mut checked = Vec::with_capacity(count);
        // Entries of missing blocks before this one are removed together with it.
        let is_its_own = |entry: &HashedEntry| follows || entry.block_number() >= header.block_number;
        for entry in self.entries.drain(..count).filter(is_its_own) {
            checked.push(entry.checked(others.next(), self.keyring.as_deref()));
        }
        if let Some(last) = checked.last() {
            self.next_leaf = last.leaf_index.saturating_add(1);
        }
        if self.is_next_size(header.tree_size) {
            self.next_leaf = header.tree_size;
        }
        Some((header, checked))
    }

    /// Whether the log can have this many leaves after the next block. The tables may state any number.
    fn is_next_size(&self, tree_size: i64) -> bool {
        (0..=MAX_ENTRIES).contains(&tree_size.saturating_sub(self.next_leaf))
    }

    fn read_headers(&mut self) {
        let Some(lowest) = self.lowest else { return };
        let TableBlocks { headers, malformed, .. } = self;
        spi::for_each(BLOCKS_FROM, &[lowest.into(), HEADERS_AT_ONCE.into()], |row| {
            malformed.extend(tables::block_malformation(row).map(|what| malformed_block(row, what)));
            headers.push_back(tables::header_from_row(row));
        });
    }

    /// How many of the next entries have smaller leaves than `end`.
    fn leaves_below(&mut self, end: i64) -> usize {
        while self.read_to < end {
            self.read_entries(end);
        }
        if self.read_to < end.saturating_add(AHEAD) {
            self.read_entries(end);
        }
        while self.entries.back().is_none_or(|entry| entry.leaf_index() < end) && self.receive() {}
        self.entries.iter().take_while(|entry| entry.leaf_index() < end).count()
    }

    /// How many of the next entries name this block.
    fn entries_of(&mut self, block_number: i64) -> usize {
        let end = self.next_leaf.saturating_add(MAX_ENTRIES);
        while self.read_to < end {
            self.read_entries(end);
        }
        while self.receive() {}
        self.entries.iter().take_while(|entry| entry.block_number() == block_number).count()
    }

    fn receive(&mut self) -> bool {
        self.hasher.receive(&mut self.entries)
    }

    /// Reads a chunk, up to `needed` or further, but not beyond the blocks whose headers were read before. Otherwise
    /// entries that are sealed between the two queries would seem to lack their block.
    fn read_entries(&mut self, needed: i64) {
        let from = self.read_to;
        let known = self.headers.back().map_or(needed, |header| header.tree_size.max(needed));
        if known <= from {
            return;
        }
        let to = from.saturating_add(CHUNK_LEAVES).min(known);
        self.read_to = to;
        let TableBlocks { leaves, hasher, row_versions, malformed, .. } = self;
        leaves.each_next(from, to, |row| {
            // Entries leave the queue in the order of their leaves: one that claims a later leaf would hold up all
            // others.
            if !(from..to).contains(&tables::leaf_index(row)) {
                malformed.push(malformed_entry(row, "the row has another leaf_index than the index that leads to it"));
                return;
            }
            malformed.extend(tables::malformation(row).map(|what| malformed_entry(row, what)));
            let entry = tables::stored_entry(row);
            row_versions.iter_mut().for_each(|row_versions| row_versions.entry(&entry));
            hasher.push(&entry);
        });
    }

    /// Rows that were read in the order of their table.
    pub fn stretches(&self) -> Vec<Stretch> {
        self.leaves.stretches()
    }

    /// Reports rows up to block `to` that hold what no line can state. Reading is ahead of the blocks, so later ones
    /// may be among them.
    pub fn report_malformed(&mut self, to: i64, findings: &mut Findings<'_>) {
        let is_wanted = |problem: &Problem| problem.block_number.is_none_or(|number| number <= to);
        self.malformed.drain(..).filter(is_wanted).for_each(|problem| findings.report(problem));
    }
}

fn malformed_block(row: &Row, what: &str) -> Problem {
    let mut problem = Problem::new(Source::Postgres, ProblemKind::RowMalformed, what);
    problem.block_number = row.get(tables::block_column::BLOCK_NUMBER);
    problem
}

fn malformed_entry(row: &Row, what: &str) -> Problem {
    let mut problem = Problem::new(Source::Postgres, ProblemKind::RowMalformed, what);
    problem.entry_id = row.uuid(entry_column::ID);
    problem.block_number = row.get(entry_column::BLOCK_NUMBER);
    problem.leaf_index = row.get(entry_column::LEAF_INDEX);
    problem
}

/// The first block from number `from` on, as of now. Entries are read in this way too: the block may have been sealed
/// after an isolated transaction began.
pub fn header_from(from: i64) -> Option<BlockHeader> {
    let mut header = None;
    spi::for_each_as_of_now(BLOCKS_FROM, &[from.into(), 1.into()], |row| header = Some(tables::header_from_row(row)));
    header
}

/// Buffers for turning rows into lines, reused for each row.
#[derive(Default)]
pub struct Buffers {
    metadata: String,
    line: Vec<u8>,
}

impl Buffers {
    /// Gives back the memory that a large entry has needed.
    fn trim(&mut self) {
        self.metadata.shrink_to(MAX_BUFFER);
        self.line.clear();
        self.line.shrink_to(MAX_BUFFER);
    }
}

/// A row of `ledger.entries`, as verification needs it.
pub fn sealed_entry(row: &Row, keyring: Option<&Keyring>, buffers: &mut Buffers) -> SealedEntry {
    buffers.trim();
    let Buffers { metadata, line } = buffers;
    sealed_entry_of(row, &tables::entry_line(row, metadata), keyring, line)
}

/// As [`sealed_entry`]; also returns why the row has no valid line, if it has none.
pub fn entry_and_fault(
    row: &Row,
    keyring: Option<&Keyring>,
    buffers: &mut Buffers,
) -> (SealedEntry, Option<&'static str>) {
    buffers.trim();
    let Buffers { metadata, line } = buffers;
    let entry = tables::entry_line(row, metadata);
    (sealed_entry_of(row, &entry, keyring, line), tables::fault_of(row, &entry))
}

/// `line` is an empty buffer.
fn sealed_entry_of(row: &Row, entry: &EntryLine, keyring: Option<&Keyring>, line: &mut Vec<u8>) -> SealedEntry {
    entry.write_line(line);
    SealedEntry {
        entry_id: entry.entry_id,
        leaf_index: tables::leaf_index(row),
        block_number: tables::block_number(row),
        leaf_hash: leaf_hash(line),
        line_number: None,
        signature: check_signature(keyring, entry),
        data_hash: DataHash::of(entry.data_hash),
    }
}
