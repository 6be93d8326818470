//! The chain of blocks and the log tree, checked block by block.

use super::problem::{Findings, Problem, ProblemKind, Source};
use super::sealed::SealedEntry;
use crate::ledger::block::{BlockHeader, GENESIS_PREVIOUS_HASH, MAX_ENTRIES};
use crate::ledger::log_tree::{LogTree, STORED_LEVEL};
use crate::ledger::merkle::Digits;
use crate::ledger::{merkle, parse_hash, to_hex, Hash};

/// What was computed of a block's entries, for another copy of the block that has the same entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Computed {
    merkle_root: Option<String>,
    growth: Option<Growth>,
}

/// What a block's leaves have made of a log tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Growth {
    before: LogTree,
    after: LogTree,
    root: String,
    /// Those of level [`STORED_LEVEL`] and up that were completed.
    nodes: Vec<(u8, u64, Hash)>,
}

impl Growth {
    fn of(before: LogTree, entries: &[SealedEntry]) -> Self {
        let (mut after, mut nodes) = (before.clone(), Vec::new());
        for entry in entries {
            after.push(entry.leaf_hash, |level, index, hash| {
                if level >= STORED_LEVEL {
                    nodes.push((level, index, hash));
                }
            });
        }
        let root = to_hex(&after.root());
        Growth { before, after, root, nodes }
    }
}

/// Checks blocks one after the other. Its memory does not grow.
#[derive(Debug)]
pub struct ChainVerifier {
    source: Source,
    previous: Previous,
    /// The log tree up to the previous block, while it is known.
    tree: Option<LogTree>,
    /// Stored nodes that blocks have completed, if they are asked for.
    completed: Option<Vec<(u8, u64, Hash)>>,
}

/// What the next block is checked against.
#[derive(Debug)]
struct Previous {
    number: i64,
    /// What the next block may state as `previous_hash`: the hash as recorded and as computed, so that one wrong hash
    /// is not found twice. Empty if the previous block is not known.
    hashes: Vec<String>,
    /// Unknown after a block whose own tree_size was wrong.
    tree_size: Option<i64>,
}

impl Previous {
    fn of(header: &BlockHeader) -> Self {
        Previous {
            number: header.block_number,
            hashes: vec![header.block_hash.clone(), header.compute_hash()],
            tree_size: Some(header.tree_size),
        }
    }
}

/// What a block's entries are, as far as they are there.
pub(super) struct Contents<'e> {
    pub(super) entries: &'e [SealedEntry],
    /// How many entries the source lists for the block, found or not.
    pub(super) listed: usize,
    /// Whether missing entries were already reported, by id.
    pub(super) missing_reported: bool,
    /// The line of the block.
    pub(super) line_number: Option<u64>,
    /// What is known already of these same entries.
    pub(super) computed: Option<&'e Computed>,
}

impl<'e> Contents<'e> {
    /// Entries that need not be looked for.
    fn found(entries: &'e [SealedEntry]) -> Self {
        Contents { entries, listed: entries.len(), missing_reported: false, line_number: None, computed: None }
    }

    fn merkle_root(&self) -> String {
        match self.computed.and_then(|computed| computed.merkle_root.clone()) {
            Some(root) => root,
            None => merkle_root(self.entries),
        }
    }

    fn growth(&self, before: LogTree) -> Growth {
        let known = self.computed.and_then(|computed| computed.growth.as_ref());
        match known.filter(|growth| growth.before == before) {
            Some(growth) => growth.clone(),
            None => Growth::of(before, self.entries),
        }
    }
}

fn merkle_root(entries: &[SealedEntry]) -> String {
    let digits: Option<Vec<Digits>> = entries.iter().map(|entry| entry.data_hash.hash().map(Digits::of)).collect();
    match digits {
        Some(digits) => merkle::root(&digits),
        None => merkle::root(&entries.iter().map(|entry| entry.data_hash.text()).collect::<Vec<_>>()),
    }
}

impl ChainVerifier {
    /// Starts before the first block.
    pub fn new(source: Source) -> Self {
        ChainVerifier {
            source,
            previous: Previous { number: 0, hashes: vec![GENESIS_PREVIOUS_HASH.to_owned()], tree_size: Some(0) },
            tree: Some(LogTree::new()),
            completed: None,
        }
    }

    /// Starts after `previous`, with the log tree as it was then, if that is known. Both are taken as true; a tree that
    /// does not belong to the block shows as a wrong root in the next one.
    pub fn resume(source: Source, tree: Option<LogTree>, previous: &BlockHeader) -> Self {
        ChainVerifier { source, previous: Previous::of(previous), tree, completed: None }
    }

    /// Starts after block `number`, of which nothing is known.
    pub fn after_unknown(source: Source, number: i64) -> Self {
        let previous = Previous { number, hashes: Vec::new(), tree_size: None };
        ChainVerifier { source, previous, tree: None, completed: None }
    }

    /// Keeps the nodes of level [`STORED_LEVEL`] and up that blocks complete, until they are taken.
    pub fn collect_nodes(&mut self) {
        self.completed = Some(Vec::new());
    }

    /// The nodes completed since the last call, as (level, index, hash).
    pub fn take_nodes(&mut self) -> Vec<(u8, u64, Hash)> {
        self.completed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The log tree after the last block; `None` while it is not known.
    pub fn tree(&self) -> Option<&LogTree> {
        self.tree.as_ref()
    }

    /// Tells the log tree after the last block, from where else it is known, so that roots are checked again.
    pub fn set_tree(&mut self, tree: LogTree) {
        self.tree = Some(tree);
    }

    /// The number of the last block.
    pub fn last_number(&self) -> i64 {
        self.previous.number
    }

    /// Checks the next block. `entries` are in leaf order.
    pub fn block(&mut self, header: &BlockHeader, entries: &[SealedEntry], findings: &mut Findings<'_>) {
        self.block_with(header, &Contents::found(entries), findings);
    }

    /// As [`ChainVerifier::block`], for a block of which another copy was checked before: what was computed of that
    /// copy's entries is not computed again where these are the same.
    pub fn block_beside(
        &mut self,
        header: &BlockHeader,
        entries: &[SealedEntry],
        computed: Option<&Computed>,
        findings: &mut Findings<'_>,
    ) {
        self.block_with(header, &Contents { computed, ..Contents::found(entries) }, findings);
    }

    /// Gives what was computed, as far as it was.
    pub(super) fn block_with(
        &mut self,
        header: &BlockHeader,
        contents: &Contents<'_>,
        findings: &mut Findings<'_>,
    ) -> Computed {
        let mut check = Check { source: self.source, header, contents, findings };
        if header.block_number <= self.previous.number {
            check.out_of_order(self.previous.number);
            if self.source == Source::File {
                check.by_itself();
            }
            return Computed::default();
        }
        self.skip_missing(&mut check);
        check.link(&self.previous.hashes);
        check.entries();
        let start = self.first_leaf(header);
        let complete = check.leaf_indexes(start);
        let size_right = check.tree_size(start);
        let merkle_root = complete.then(|| contents.merkle_root());
        let merkle_right = merkle_root.as_deref().is_none_or(|computed| check.merkle_root(computed));
        let growth = self.grow_tree(&mut check, start, complete, merkle_right);
        let computed = header.compute_hash();
        let hash_right = check.block_hash(&computed);
        if self.tree.is_none() && size_right && hash_right {
            self.tree = tree_of_root(header);
        }
        self.previous = Previous {
            number: header.block_number,
            hashes: vec![header.block_hash.clone(), computed],
            tree_size: size_right.then_some(header.tree_size),
        };
        Computed { merkle_root, growth }
    }

    /// Reports a gap in the numbers, and goes on as if the blocks in it had been seen and nothing of them were known.
    fn skip_missing(&mut self, check: &mut Check<'_, '_, '_>) {
        // The number is above the previous one, so neither overflows.
        let (first, last) = (self.previous.number + 1, check.header.block_number - 1);
        if first > last {
            return;
        }
        check.missing_blocks(first, last);
        self.previous = Previous { number: last, hashes: Vec::new(), tree_size: None };
        self.tree = None;
    }

    /// The index that the first leaf of this next block should have.
    pub(super) fn first_leaf_of(&self, header: &BlockHeader) -> i64 {
        if header.block_number == self.previous.number.saturating_add(1) {
            self.first_leaf(header)
        } else {
            header.tree_size.saturating_sub(header.data_count)
        }
    }

    /// Where the tree ends, or else what the blocks say.
    fn first_leaf(&self, header: &BlockHeader) -> i64 {
        let known = self.tree.as_ref().map(|tree| tree.size() as i64);
        known.or(self.previous.tree_size).unwrap_or_else(|| header.tree_size.saturating_sub(header.data_count))
    }

    /// Appends the block's leaves. The tree stays known only if all are there and give the block's root.
    fn grow_tree(
        &mut self,
        check: &mut Check<'_, '_, '_>,
        start: i64,
        complete: bool,
        merkle_right: bool,
    ) -> Option<Growth> {
        let before = self.tree.take().filter(|tree| complete && tree.size() as i64 == start)?;
        let growth = check.contents.growth(before);
        // A changed data hash changes both roots, and is one problem.
        if check.tree_root(&growth.root, merkle_right) {
            self.tree = Some(growth.after.clone());
            if let Some(completed) = &mut self.completed {
                completed.extend_from_slice(&growth.nodes);
            }
        }
        Some(growth)
    }
}

/// A tree with a power of two of leaves is its own frontier, so it is known by its root.
fn tree_of_root(header: &BlockHeader) -> Option<LogTree> {
    let size = u64::try_from(header.tree_size).ok()?;
    let root = parse_hash(&header.tree_root)?;
    LogTree::from_frontier(size, vec![root])
}

/// The checks of one block that need nothing but it.
struct Check<'c, 'e, 'f> {
    source: Source,
    header: &'c BlockHeader,
    contents: &'c Contents<'e>,
    findings: &'c mut Findings<'f>,
}

impl Check<'_, '_, '_> {
    fn report(&mut self, kind: ProblemKind, detail: String) {
        let problem = self.problem(kind, detail);
        self.findings.report(problem);
    }

    fn problem(&self, kind: ProblemKind, detail: impl Into<String>) -> Problem {
        Problem::new(self.source, kind, detail).in_block(self.header.block_number).on_line(self.contents.line_number)
    }

    fn entry_problem(&self, entry: &SealedEntry, kind: ProblemKind, detail: &str) -> Problem {
        Problem::new(self.source, kind, detail)
            .in_block(self.header.block_number)
            .at_leaf(entry.leaf_index)
            .of_entry(entry.entry_id)
            .on_line(entry.line_number)
    }

    fn out_of_order(&mut self, last: i64) {
        let number = self.header.block_number;
        let detail = match last {
            0 => format!("block {number}, but numbers begin with 1"),
            _ => format!("block {number} comes after block {last}"),
        };
        self.report(ProblemKind::BlockOutOfOrder, detail);
    }

    /// What a block out of order shows without those around it. In a file, a forged block in front of all others, with
    /// a high number, puts them all out of order: that must not hide what was done to them.
    fn by_itself(&mut self) {
        self.entries();
        let is_complete = self.contents.entries.len() == self.contents.listed;
        if is_complete && self.contents.listed > 0 {
            self.merkle_root(&self.contents.merkle_root());
        }
        self.block_hash(&self.header.compute_hash());
    }

    fn missing_blocks(&mut self, first: i64, last: i64) {
        let problem = Problem::missing_blocks(self.source, first, last);
        self.findings.report(problem.on_line(self.contents.line_number));
    }

    fn link(&mut self, allowed: &[String]) {
        let stated = &self.header.previous_hash;
        if allowed.is_empty() || allowed.contains(stated) {
            return;
        }
        let detail = format!("previous_hash is {stated}, but the hash of the block before is {}", allowed[0]);
        self.report(ProblemKind::PreviousHashMismatch, detail);
    }

    fn entries(&mut self) {
        for entry in self.contents.entries {
            if entry.block_number != self.header.block_number {
                let detail = format!("the entry names block {}", entry.block_number);
                let problem = self.entry_problem(entry, ProblemKind::BlockNumberMismatch, &detail);
                self.findings.report(problem);
            }
            if let Some((kind, detail)) = entry.signature.problem() {
                let problem = self.entry_problem(entry, kind, detail);
                self.findings.report(problem);
            }
        }
    }

    /// Whether the entries fill the block's leaves one by one. Also checks their count, as missing ones explain it.
    fn leaf_indexes(&mut self, start: i64) -> bool {
        let (header, contents) = (self.header, self.contents);
        let mut expected = start;
        let mut missing = 0_i64;
        let mut misplaced = false;
        for entry in contents.entries {
            if entry.leaf_index > expected {
                missing = self.missing_leaves(expected, entry.leaf_index).saturating_add(missing);
            }
            if entry.leaf_index < expected {
                let detail = format!("leaf_index is {}, expected {expected}", entry.leaf_index);
                let kind = ProblemKind::LeafIndexMismatch;
                let problem = self.entry_problem(entry, kind, &detail);
                self.findings.report(problem);
                misplaced = true;
            }
            expected = entry.leaf_index.saturating_add(1);
        }
        let count = contents.entries.len() as i64;
        let end = start.saturating_add(header.data_count);
        let listed = contents.listed as i64;
        if expected < end && header.tree_size == end && listed <= header.data_count {
            missing = self.missing_leaves(expected, end).saturating_add(missing);
        }
        let accounted = match contents.missing_reported {
            true => listed,
            false => count.saturating_add(missing),
        };
        if accounted != header.data_count || !(1..=MAX_ENTRIES).contains(&header.data_count) {
            let detail = match header.data_count {
                many if many > MAX_ENTRIES => {
                    format!("data_count is {many}, but a block holds at most {MAX_ENTRIES} entries")
                }
                1.. => format!("data_count is {}, but there are {listed} entries", header.data_count),
                empty => format!("data_count is {empty}, but a block holds at least one entry"),
            };
            self.report(ProblemKind::DataCountMismatch, detail);
        }
        missing == 0 && !misplaced && listed == count
    }

    /// Reports that the leaves from `first` up to `end` are not there, and gives their number.
    fn missing_leaves(&mut self, first: i64, end: i64) -> i64 {
        let count = end.saturating_sub(first);
        if !self.contents.missing_reported {
            let detail = match count {
                1 => format!("the entry with leaf_index {first} is missing"),
                _ => format!("the entries with leaf_index {first} to {} are missing", end - 1),
            };
            let problem = self.problem(ProblemKind::EntryMissing, detail);
            self.findings.report(problem.at_leaf(first));
        }
        count
    }

    fn tree_size(&mut self, start: i64) -> bool {
        let header = self.header;
        let by_count = start.saturating_add(header.data_count);
        let by_entries = start.saturating_add(self.contents.listed as i64);
        // A wrong data_count is reported as such.
        if header.tree_size == by_count || header.tree_size == by_entries {
            return true;
        }
        let detail = format!("tree_size is {}, expected {by_entries}", header.tree_size);
        self.report(ProblemKind::TreeSizeMismatch, detail);
        false
    }

    fn merkle_root(&mut self, computed: &str) -> bool {
        let stated = &self.header.merkle_root;
        if computed == stated {
            return true;
        }
        let detail = format!("merkle_root is {stated}, but the entries' data hashes give {computed}");
        self.report(ProblemKind::MerkleRootMismatch, detail);
        false
    }

    fn tree_root(&mut self, computed: &str, report: bool) -> bool {
        let stated = &self.header.tree_root;
        if computed == stated {
            return true;
        }
        if report {
            let detail = format!("tree_root is {stated}, but the entries up to here give {computed}");
            self.report(ProblemKind::TreeRootMismatch, detail);
        }
        false
    }

    fn block_hash(&mut self, computed: &str) -> bool {
        let stated = &self.header.block_hash;
        if computed == stated {
            return true;
        }
        let detail = format!("block_hash is {stated}, but the block's fields give {computed}");
        self.report(ProblemKind::BlockHashMismatch, detail);
        false
    }
}
