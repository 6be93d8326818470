//! One verification of the tables and the file side by side.
//!
//! The file is read once, from start to end. Each of its blocks draws the same block from the tables. So only the
//! current block and what is not sealed yet are kept in memory.

use super::opened_file::{Acknowledged, OpenedFile};
use super::own_file::{check_own_file, file_to_check, refuse_later_format, unreadable};
use super::paged;
use super::pending::PendingComparison;
use super::progress::{Phase, Progress};
use super::row_versions::RowVersions;
use super::shown_tables;
use super::stored_tree::{self, NodesInOrder};
use super::strays::{self, ReadInOrder};
use super::table_blocks::{self, TableBlocks};
use crate::ledger::block::BlockHeader;
use crate::ledger::signature::Keyring;
use crate::ledger::verifier::{
    compare_blocks, verify_file, ChainVerifier, FileBlock, FileOptions, FileReport, Findings, KeyCounts, Observer,
    Problem, ProblemKind, SealedEntry, Source, WrongKey,
};
use crate::ledger::{parse_hash, to_hex};
use crate::postgres::database;
use crate::postgres::errors::or_raise;
use crate::postgres::helper_threads::helpers;
use crate::postgres::memory;
use crate::postgres::secrets;
use crate::postgres::spi;
use crate::postgres::tables::{self, RegisteredSnapshot};
use pgrx::check_for_interrupts;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::rc::Rc;

/// Which blocks to verify.
#[derive(Debug, Clone, Copy)]
pub struct BlockRange {
    pub from: i64,
    pub to: i64,
}

impl BlockRange {
    pub const WHOLE: BlockRange = BlockRange { from: 1, to: i64::MAX };

    fn is_whole(self) -> bool {
        self.from <= 1 && self.to == i64::MAX
    }

    /// How many blocks that is if `head` is the last one. Stored numbers may be any, so the arithmetic saturates.
    fn blocks_up_to(self, head: i64) -> i64 {
        head.min(self.to).saturating_sub(self.from).saturating_add(1)
    }
}

/// What to verify of these blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoroughness {
    Chain,
    /// Also whether `ledger.row_versions` leads to their entries. For the whole ledger.
    RowVersions,
}

/// What was found in the tables.
pub struct TableReport {
    pub block_count: u64,
    pub entry_count: u64,
    pub pending_count: u64,
    pub error_count: u64,
    pub errors: Vec<Problem>,
}

/// What was found in the file, or why it was not looked at.
pub enum FileOutcome {
    Checked(Box<FileReport>),
    NotChecked(String),
}

pub struct ChainReport {
    pub tables: TableReport,
    pub file: FileOutcome,
    /// Keys whose secret seems to be wrong, going by tables and file.
    pub wrong_keys: Vec<WrongKey>,
}

/// Verifies the tables and, unless the mirror is off, the file. `sink` gets each problem as soon as it is found.
pub fn verify(range: BlockRange, thoroughness: Thoroughness, sink: &mut dyn FnMut(&Problem)) -> ChainReport {
    let progress = Progress::start();
    let keyring = or_raise(secrets::verifying_keyring());
    let sink = std::cell::RefCell::new(sink);
    let pass_on = |problem: &Problem| (sink.borrow_mut())(problem);
    // Opened before the pending rows are read: what is committed then is in this file when it is read.
    let (opened, acknowledged) = match file_to_check() {
        Ok(path) => {
            let (opened, file, acknowledged) = OpenedFile::open(path);
            (Ok((opened, file)), acknowledged)
        }
        Err(message) => (Err(message), Acknowledged::now()),
    };
    let mut both = SideBySide::start(range, keyring.clone(), opened.is_ok(), acknowledged, &progress, &pass_on);
    if thoroughness == Thoroughness::RowVersions {
        both.tables.compare_with(RowVersions::start());
    }
    let file = match opened {
        Ok((opened, file)) => match both.verify_with_file(&opened, file, keyring.as_deref()) {
            Ok(report) => FileOutcome::Checked(Box::new(report)),
            Err(error) => FileOutcome::Checked(Box::new(unreadable(&opened.path, &error, &pass_on))),
        },
        Err(message) => FileOutcome::NotChecked(message),
    };
    let (tables, mut by_key) = both.finish_tables();
    if let FileOutcome::Checked(report) = &file {
        report.signatures.iter().for_each(|counts| by_key.add(&counts.by_key));
    }
    let wrong_keys = keyring.map(|keyring| by_key.wrong_keys(&keyring)).unwrap_or_default();
    ChainReport { tables, file, wrong_keys }
}

/// The verification of the tables, driven by the blocks of the file while there are any.
struct SideBySide<'a> {
    range: BlockRange,
    tables: TableBlocks,
    stored_nodes: NodesInOrder,
    chain: ChainVerifier,
    /// What is wrong with the tables.
    findings: Findings<'a>,
    /// What is wrong with the file when compared. What is wrong with the file by itself is in its report.
    file_findings: Findings<'a>,
    /// Problems of the file by itself.
    file_problems: u64,
    sink: &'a dyn Fn(&Problem),
    acknowledged: Acknowledged,
    pending: PendingComparison,
    progress: &'a Progress,
    /// What the signatures of sealed entries in the tables are worth.
    by_key: KeyCounts,
    /// The newest block when the verification began.
    head: i64,
    last_table_block: i64,
    tree_size: i64,
    block_count: u64,
    entry_count: u64,
}

impl<'a> SideBySide<'a> {
    fn start(
        range: BlockRange,
        keyring: Option<Rc<Keyring>>,
        with_file: bool,
        acknowledged: Acknowledged,
        progress: &'a Progress,
        sink: &'a dyn Fn(&Problem),
    ) -> SideBySide<'a> {
        let mut findings = Findings::with_sink(sink);
        shown_tables::check(&mut findings);
        // Before the pending rows are read: none of them is in a block up to this one.
        let head = tables::head_number(&RegisteredSnapshot::latest());
        // Before the file is read: what is committed now must be in the file by then.
        let pending = PendingComparison::read(keyring.as_deref(), &mut findings);
        progress.totals(range.blocks_up_to(head), 0);
        progress.phase(Phase::Blocks);
        let (mut chain, tables) = start_chain(range, keyring, &mut findings);
        chain.collect_nodes();
        SideBySide {
            range,
            stored_nodes: NodesInOrder::default(),
            tables: if with_file { tables.beside_file() } else { tables },
            chain,
            findings,
            file_findings: Findings::with_sink(sink),
            file_problems: 0,
            sink,
            acknowledged,
            pending,
            progress,
            by_key: KeyCounts::default(),
            head,
            last_table_block: 0,
            tree_size: 0,
            block_count: 0,
            entry_count: 0,
        }
    }

    /// Verifies the file, and each block of the tables beside the same block of the file.
    fn verify_with_file(
        &mut self,
        opened: &OpenedFile,
        file: std::io::Result<File>,
        keyring: Option<&Keyring>,
    ) -> std::io::Result<FileReport> {
        let head = tables::head_number(&RegisteredSnapshot::latest());
        let (mut report, length) = match file {
            // The first entry creates the file. Before that, a missing file is no problem.
            Err(error) if error.kind() == ErrorKind::NotFound && self.acknowledged.bytes == 0 => (not_begun(head), 0),
            file => {
                let file = file?;
                refuse_later_format(&file)?;
                let length = file.metadata()?.len();
                self.progress.totals(self.range.blocks_up_to(head), length);
                (verify_file(file, FileOptions { keyring, helpers: helpers() }, self)?, length)
            }
        };
        check_own_file(&self.acknowledged, &report, length, &mut self.file_findings);
        self.verify_tables_to_end(Some(&report));
        self.progress.phase(Phase::Pending);
        if self.range.is_whole() {
            let last_block = report.last_block.as_ref().map_or(0, |block| block.block_number);
            self.pending.compare(opened, &report, last_block, &mut self.findings, &mut self.file_findings);
        }
        report.add(std::mem::replace(&mut self.file_findings, Findings::with_sink(self.sink)));
        Ok(report)
    }

    /// Verifies the table blocks before `number`: the file does not have them.
    fn verify_tables_before(&mut self, number: i64) {
        while self.tables.next_number().is_some_and(|next| next < number && next <= self.range.to) {
            if let Some((header, entries)) = self.tables.next(None) {
                self.verify_table_block(&header, &entries, None);
                self.not_in_file(&header);
            }
        }
    }

    /// Verifies the rest of the tables.
    fn verify_tables_to_end(&mut self, file: Option<&FileReport>) {
        while self.tables.next_number().is_some_and(|next| next <= self.range.to) {
            let Some((header, entries)) = self.tables.next(None) else { break };
            self.verify_table_block(&header, &entries, None);
            let Some(report) = file else { continue };
            self.not_in_file(&header);
            if (self.acknowledged.block.saturating_add(1)..=self.head).contains(&header.block_number) {
                self.pending.sealed_without_line(report, &entries, &mut self.file_findings);
            }
        }
    }

    /// The file lacks a block. That is an error, unless its line may still be on its way.
    fn not_in_file(&mut self, header: &BlockHeader) {
        if header.block_number > self.acknowledged.block {
            return;
        }
        let problem = Problem::new(Source::File, ProblemKind::BlockNotInFile, "the file has no line of this block");
        self.file_findings.report(problem.in_block(header.block_number));
    }

    fn verify_table_block(&mut self, header: &BlockHeader, entries: &[SealedEntry], file: Option<&FileBlock>) {
        check_for_interrupts!();
        self.tables.report_malformed(self.range.to, &mut self.findings);
        match file {
            Some(file) => self.chain.block_beside(header, entries, file.computed_for(entries), &mut self.findings),
            None => self.chain.block(header, entries, &mut self.findings),
        }
        entries.iter().for_each(|entry| self.by_key.note(entry.signature));
        match header.block_number > self.head {
            true => self.pending.note_sealed(entries),
            false => self.pending.check_sealed_before(entries, &mut self.findings),
        }
        self.check_nodes(header);
        if self.chain.tree().is_none() {
            self.find_tree_again(header);
        }
        self.last_table_block = header.block_number;
        self.tree_size = self.tree_size.max(header.tree_size);
        self.block_count += 1;
        self.entry_count += entries.len() as u64;
        self.progress.blocks(self.block_count, self.entry_count);
    }

    /// The stored upper nodes must be what the entries give, or proofs would fail.
    fn check_nodes(&mut self, header: &BlockHeader) {
        for (level, index, hash) in self.chain.take_nodes() {
            if self.stored_nodes.node(level, index) != Ok(hash) {
                let detail = format!("node {index} of level {level} in ledger.log_nodes is not what the entries give");
                let problem = Problem::new(Source::Postgres, ProblemKind::TreeNodeMismatch, detail);
                self.findings.report(problem.in_block(header.block_number));
            }
        }
    }

    /// After a wrong root, goes on with the tree that the stored upper nodes give. So a later change, from the next 256
    /// leaves on, is found too, and is not hidden behind the first one.
    fn find_tree_again(&mut self, header: &BlockHeader) {
        let stored = stored_tree::tree_of_size(header.tree_size);
        if let Some(tree) = stored.filter(|tree| parse_hash(&header.tree_root) == Some(tree.root())) {
            self.chain.set_tree(tree);
        }
    }

    fn compare(&mut self, header: &BlockHeader, entries: &[SealedEntry], file: &FileBlock) {
        let mut differences = Vec::new();
        compare_blocks((header, entries), file, &mut Findings::with_sink(|problem| differences.push(problem.clone())));
        // If the tables have problems and the file has none, the tables are what was changed.
        let tables_are_wrong = !self.findings.is_empty() && self.file_problems == 0;
        for mut problem in differences {
            if tables_are_wrong {
                problem.source = Source::Postgres;
                self.findings.report(problem);
            } else {
                self.file_findings.report(problem);
            }
        }
    }

    /// The file has a block that the tables lack. If a later block is in the tables, the gap in their numbers is
    /// reported instead, so this stays silent. It also stays silent about a block that this transaction does not see
    /// yet.
    fn not_in_tables(&mut self, block: &FileBlock) {
        let number = block.header.block_number;
        let head = tables::head_number(&RegisteredSnapshot::latest());
        let standby = database::is_in_recovery();
        let leaves_gap = number <= head && number > self.last_table_block;
        // A standby has in its tables what it knows to be in the file.
        let lags = standby && number > self.acknowledged.block;
        if leaves_gap || lags {
            return;
        }
        let detail = "the database does not have this block, which the file has";
        let problem = |source| {
            Problem::new(source, ProblemKind::BlockNotInDatabase, detail).in_block(number).on_line(block.line_number)
        };
        // The database had every block that it has acknowledged.
        if number <= self.acknowledged.block && self.file_problems == 0 {
            self.findings.report(problem(Source::Postgres));
        } else {
            self.file_findings.report(problem(Source::File));
        }
    }

    /// Also gives what the signatures in the tables are worth.
    fn finish_tables(mut self) -> (TableReport, KeyCounts) {
        self.verify_tables_to_end(None);
        self.pending.check_sealed_since(&mut self.findings);
        self.check_end();
        if self.range.is_whole() {
            let read = ReadInOrder {
                last_block: self.last_table_block,
                tree_size: self.tree_size,
                blocks: self.block_count,
                entries: self.entry_count,
                stretches: self.tables.stretches(),
            };
            strays::check(&read, &mut self.findings);
            self.check_log_state();
            self.progress.phase(Phase::RowVersions);
            self.tables.finish_row_versions(&mut self.findings);
        }
        self.by_key.add(self.pending.by_key());
        let report = TableReport {
            block_count: self.block_count,
            entry_count: self.entry_count,
            pending_count: self.pending.count(),
            error_count: self.findings.count(),
            errors: self.findings.into_listed(),
        };
        (report, self.by_key)
    }

    /// A gap in the numbers shows at the block after it. A gap that reaches to the end of the range shows only here.
    fn check_end(&mut self) {
        let end = match self.tables.next_number() {
            Some(next) => next.saturating_sub(1),
            // The newest block may be newer than what the transaction sees.
            None if spi::is_isolated() => return,
            None => self.head,
        };
        let last = self.last_table_block.max(self.range.from - 1);
        let (Some(first), end) = (last.checked_add(1), end.min(self.range.to)) else { return };
        if first <= end {
            self.findings.report(Problem::missing_blocks(Source::Postgres, first, end));
        }
    }

    /// The stored frontier must be the tree's, or sealing could not go on. If there are later blocks it is theirs, and
    /// is not checked.
    fn check_log_state(&mut self) {
        let Some(tree) = self.chain.tree() else { return };
        let expected = to_hex(&tree.frontier().concat());
        let size = tree.size() as i64;
        let findings = &mut self.findings;
        let mut rows = 0;
        let query = "SELECT encode(frontier, 'hex') FROM ledger.log_state \
                     WHERE NOT EXISTS (SELECT FROM ledger.blocks WHERE block_number > $1)";
        spi::for_each(query, &[self.last_table_block.into()], |row| {
            rows += 1;
            if rows > 1 {
                let detail = "ledger.log_state has more than one row";
                findings.report(Problem::new(Source::Postgres, ProblemKind::RowMalformed, detail));
            }
            if row.get::<String>(0).as_deref() != Some(&expected) {
                let detail = "the frontier in ledger.log_state is not that of the log tree";
                findings.report(Problem::new(Source::Postgres, ProblemKind::RowMalformed, detail));
            }
        });
        // A stored node ahead of the tree would be in the way of sealing.
        let query = "SELECT level, node_index FROM ledger.log_nodes \
                     WHERE (level NOT BETWEEN 8 AND 62 OR node_index < 0 OR node_index >= $2 >> level::integer) \
                       AND NOT EXISTS (SELECT FROM ledger.blocks WHERE block_number > $1) \
                     ORDER BY 1, 2 LIMIT $3 OFFSET $4";
        paged::for_each(query, &[self.last_table_block.into(), size.into()], |row| {
            let (level, index) = (row.get::<i16>(0).unwrap_or_default(), row.get::<i64>(1).unwrap_or_default());
            let detail =
                format!("the node of level {level} and index {index} in ledger.log_nodes is not part of the log tree");
            findings.report(Problem::new(Source::Postgres, ProblemKind::TreeNodeMismatch, detail));
        });
    }
}

/// Where blocks have come from an import, and no worker has opened the file since.
fn not_begun(head: i64) -> FileReport {
    let warning = "there is no mirror file yet, so the tables were compared with nothing";
    FileReport { warnings: (head > 0).then(|| warning.to_owned()).into_iter().collect(), ..FileReport::default() }
}

impl Observer for SideBySide<'_> {
    fn progress(&mut self, bytes: u64) -> ControlFlow<()> {
        check_for_interrupts!();
        memory::check_helpers();
        self.progress.bytes(bytes);
        ControlFlow::Continue(())
    }

    fn block(&mut self, block: FileBlock) {
        let number = block.header.block_number;
        if number < self.range.from || number > self.range.to {
            return;
        }
        self.verify_tables_before(number);
        if self.tables.next_number() != Some(number) {
            self.not_in_tables(&block);
            return;
        }
        if let Some((header, entries)) = self.tables.next(Some(&block)) {
            self.verify_table_block(&header, &entries, Some(&block));
            self.compare(&header, &entries, &block);
        }
    }

    fn problem(&mut self, problem: &Problem) {
        self.file_problems += 1;
        (self.sink)(problem);
    }
}

/// The verifier and the reader, set up before the first block of the range.
fn start_chain(
    range: BlockRange,
    keyring: Option<Rc<Keyring>>,
    findings: &mut Findings<'_>,
) -> (ChainVerifier, TableBlocks) {
    if range.from <= 1 {
        return (ChainVerifier::new(Source::Postgres), TableBlocks::new(keyring, i64::MIN, 0));
    }
    let number = range.from - 1;
    let Some(previous) = table_blocks::header_from(number) else {
        return (ChainVerifier::after_unknown(Source::Postgres, number), TableBlocks::new(keyring, range.from, 0));
    };
    if previous.block_number != number {
        findings.report(Problem::missing_blocks(Source::Postgres, number, number));
        // This block is in the range or after it. It is trusted about where its leaves begin, as nothing earlier is
        // known.
        let first_leaf = previous.tree_size.saturating_sub(previous.data_count);
        let reader = TableBlocks::new(keyring, range.from, first_leaf);
        return (ChainVerifier::after_unknown(Source::Postgres, number), reader);
    }
    let start = previous.tree_size;
    let tree = stored_tree::tree_of_size(start).filter(|tree| parse_hash(&previous.tree_root) == Some(tree.root()));
    if tree.is_none() {
        let detail = "the stored log tree does not have this block's tree_root";
        let problem = Problem::new(Source::Postgres, ProblemKind::TreeRootMismatch, detail);
        findings.report(problem.in_block(previous.block_number));
    }
    let reader = TableBlocks::new(keyring, range.from, start);
    (ChainVerifier::resume(Source::Postgres, tree, &previous), reader)
}
