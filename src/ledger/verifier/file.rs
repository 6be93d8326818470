//! A ledger file, line by line.

use super::chain::{ChainVerifier, Computed, Contents};
use super::line::{Content, ReadEntry, ReadLine};
use super::pending::{PendingEntries, PendingEntry};
use super::problem::{Findings, List, Problem, ProblemKind, Source};
use super::sealed::{DataHash, SealedEntry};
use super::signatures::{SignatureCounts, WrongKey};
use crate::ledger::block::BlockHeader;
use crate::ledger::log_tree::LogTree;
use crate::ledger::record::{BlockLine, Header, LineError, LineErrorKind, LineParser, Record, Void};
use crate::ledger::signature::Keyring;
use crate::ledger::Hash;
use serde_json::json;
use std::borrow::Cow;
use std::collections::HashSet;
use uuid::Uuid;

/// A block of the file with its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBlock {
    pub header: BlockHeader,
    /// In leaf order, those whose lines are there.
    pub entries: Vec<SealedEntry>,
    /// 1-based line of the block.
    pub line_number: u64,
    pub computed: Computed,
}

impl FileBlock {
    /// What was computed of this block's entries, if these are the same.
    pub fn computed_for(&self, entries: &[SealedEntry]) -> Option<&Computed> {
        let same = |(ours, theirs): (&SealedEntry, &SealedEntry)| {
            ours.leaf_hash == theirs.leaf_hash && ours.data_hash == theirs.data_hash
        };
        let all_same = self.entries.len() == entries.len() && self.entries.iter().zip(entries).all(same);
        all_same.then_some(&self.computed)
    }
}

/// What a file holds, and what is wrong with it.
#[derive(Debug, Default)]
pub struct FileReport {
    /// None if there is no header line.
    pub header: Option<Header>,
    pub block_count: u64,
    /// Entries in blocks.
    pub entry_count: u64,
    /// Entry lines that no block and no void names.
    pub pending: PendingEntries,
    /// Entries that voids name.
    pub void_count: u64,
    /// Lines that are records.
    pub record_count: u64,
    pub error_count: u64,
    /// The first problems of each kind, at most [`MAX_LISTED`](super::MAX_LISTED).
    pub errors: Vec<Problem>,
    /// What is worth knowing, but is no error.
    pub warnings: Vec<String>,
    pub last_block: Option<BlockHeader>,
    /// `None` if there was no keyring to check signatures with.
    pub signatures: Option<SignatureCounts>,
    /// Keys of the keyring whose secret seems to be wrong.
    pub wrong_keys: Vec<WrongKey>,
    /// The length of the file up to the end of its last whole line.
    pub bytes: u64,
}

impl FileReport {
    /// Adds what was found in comparison with something else.
    pub fn add(&mut self, findings: Findings<'_>) {
        self.error_count += findings.count();
        let mut list = List::default();
        let errors = std::mem::take(&mut self.errors);
        errors.into_iter().chain(findings.into_listed()).for_each(|problem| list.add(problem));
        self.errors = list.into_problems();
    }

    /// Whether nothing is wrong.
    pub fn valid(&self) -> bool {
        self.error_count == 0
    }

    /// What is worth knowing, with what may explain invalid signatures.
    pub fn all_warnings(&self) -> Vec<String> {
        self.warnings.iter().cloned().chain(self.wrong_keys.iter().map(WrongKey::to_string)).collect()
    }

    /// The report as an object: `valid, block_count, entry_count, pending_count, void_count, error_count, errors,
    /// warnings, ledger_id, database, last_block {block_number, block_hash}, signatures_checked, signatures {valid,
    /// invalid, unknown_key, unsigned, missing_keys}`.
    pub fn to_json(&self) -> serde_json::Value {
        let errors: Vec<_> = self.errors.iter().map(Problem::to_json).collect();
        let last_block = self
            .last_block
            .as_ref()
            .map(|block| json!({ "block_number": block.block_number, "block_hash": block.block_hash }));
        json!({
            "valid": self.valid(),
            "block_count": self.block_count,
            "entry_count": self.entry_count,
            "pending_count": self.pending.len(),
            "void_count": self.void_count,
            "error_count": self.error_count,
            "errors": errors,
            "warnings": self.all_warnings(),
            "ledger_id": self.header.as_ref().map(|header| header.ledger_id.to_string()),
            "database": self.header.as_ref().map(|header| &header.database),
            "last_block": last_block,
            "signatures_checked": self.signatures.is_some(),
            "signatures": self.signatures.as_ref().map(SignatureCounts::to_json),
        })
    }
}

/// Verifies a file that is given to it line by line. Holds only entries that no block holds yet.
pub struct FileVerifier<'a> {
    keyring: Option<Cow<'a, Keyring>>,
    findings: Findings<'a>,
    parser: LineParser,
    chain: ChainVerifier,
    pending: PendingEntries,
    line_number: u64,
    /// Where the next line starts.
    offset: u64,
    header: Option<Header>,
    last_block: Option<BlockHeader>,
    warnings: Vec<String>,
    record_count: u64,
    block_count: u64,
    entry_count: u64,
    void_count: u64,
    signatures: SignatureCounts,
}

impl<'a> FileVerifier<'a> {
    /// Without a keyring, signatures are not checked. Problems go to `findings`.
    pub fn new(keyring: Option<Cow<'a, Keyring>>, findings: Findings<'a>) -> Self {
        FileVerifier {
            keyring,
            findings,
            parser: LineParser::default(),
            chain: ChainVerifier::new(Source::File),
            pending: PendingEntries::default(),
            line_number: 0,
            offset: 0,
            header: None,
            last_block: None,
            warnings: Vec::new(),
            record_count: 0,
            block_count: 0,
            entry_count: 0,
            void_count: 0,
            signatures: SignatureCounts::default(),
        }
    }

    /// Keeps the nodes of the log tree that are stored, until they are taken.
    pub fn collect_nodes(&mut self) {
        self.chain.collect_nodes();
    }

    /// The nodes completed since the last call, as (level, index, hash).
    pub fn take_nodes(&mut self) -> Vec<(u8, u64, Hash)> {
        self.chain.take_nodes()
    }

    /// The log tree after the last block; `None` if a problem was found after which it is not known.
    pub fn tree(&self) -> Option<&LogTree> {
        self.chain.tree()
    }

    /// The number of lines taken.
    pub fn line_number(&self) -> u64 {
        self.line_number
    }

    /// Takes the next line, without its newline. Gives the block that it completes.
    pub fn line(&mut self, raw: &[u8]) -> Option<FileBlock> {
        self.line_seen(raw, |_| ())
    }

    /// As [`FileVerifier::line`]; `see` is shown the line's record before it is checked against what came before.
    pub fn line_seen(&mut self, raw: &[u8], see: impl FnOnce(&Record<'_>)) -> Option<FileBlock> {
        let record = self.parser.parse(raw);
        if let Ok(record) = &record {
            see(record);
        }
        let line = ReadLine::of(raw, record, self.keyring.as_deref());
        self.read_line(line)
    }

    /// Takes the next line, which was read by itself already, perhaps beside others.
    pub(super) fn read_line(&mut self, line: ReadLine) -> Option<FileBlock> {
        self.line_number += 1;
        let ReadLine { length, content } = line;
        if matches!(content, Content::TooLong) {
            self.report(self.problem(ProblemKind::LineTooLong, "longer than any line of a ledger"));
            return None;
        }
        let offset = self.offset;
        self.offset += length + 1;
        let error = match &content {
            Content::Malformed(error) => Some(&**error),
            _ => None,
        };
        self.record_count += u64::from(error.is_none());
        if self.line_number == 1 && !matches!(content, Content::Ledger(_)) {
            self.report(self.header_missing(error));
            if error.is_some() {
                return None;
            }
        }
        match content {
            Content::Ledger(header) => self.header(*header),
            Content::Entry(entry) => self.entry(offset, entry),
            Content::Void(void) => self.void(&void),
            Content::Block(block) => return self.block(*block),
            Content::Malformed(error) => self.malformed(&error),
            Content::TooLong => {}
        }
        None
    }

    /// Takes a last line without a newline. A file that is being written to can end so.
    pub fn unterminated_line(&mut self, length: u64) {
        self.warnings.push(format!(
            "line {}: the last line has no newline yet and was not checked ({length} bytes)",
            self.line_number + 1
        ));
    }

    /// Whether a second look at the blocks is needed: an entry line that repeats one already in a block looks pending.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes all block lines again, after the last line, if there are pending entries.
    pub(super) fn look_again(&mut self, line_number: u64, block: &BlockLine) {
        for entry_id in &block.entry_ids {
            let Some(entry) = self.pending.remove(entry_id) else {
                continue;
            };
            let number = block.header.block_number;
            let detail = format!("entry {entry_id} is also held by block {number} on line {line_number}");
            let problem =
                Problem::new(Source::File, ProblemKind::EntryRepeated, detail).in_block(number).of_entry(*entry_id);
            self.report(problem.on_line(entry.line_number));
        }
    }

    /// Ends the file. `bytes` is its length up to the end of its last whole line.
    pub fn finish(mut self, bytes: u64) -> FileReport {
        if self.line_number == 0 {
            self.report(Problem::new(Source::File, ProblemKind::HeaderMissing, "the file has no line"));
        }
        let is_bad = |(_, entry): &(Uuid, &PendingEntry)| entry.signature.problem().is_some();
        let bad = self.pending.iter().filter(is_bad);
        let mut pending: Vec<_> = bad.map(|(entry_id, entry)| (entry_id, entry.clone())).collect();
        pending.sort_by_key(|(_, entry)| entry.line_number);
        for (entry_id, entry) in pending {
            self.signature(entry_id, &entry);
        }
        let wrong_keys = self.keyring.as_deref().map(|keyring| self.signatures.by_key.wrong_keys(keyring));
        FileReport {
            header: self.header,
            block_count: self.block_count,
            entry_count: self.entry_count,
            pending: self.pending,
            void_count: self.void_count,
            record_count: self.record_count,
            error_count: self.findings.count(),
            errors: self.findings.into_listed(),
            warnings: self.warnings,
            last_block: self.last_block,
            signatures: self.keyring.is_some().then_some(self.signatures),
            wrong_keys: wrong_keys.unwrap_or_default(),
            bytes,
        }
    }

    fn header(&mut self, header: Header) {
        if self.header.is_some() {
            self.report(self.problem(ProblemKind::HeaderRepeated, "a second header"));
        } else {
            self.header = Some(header);
        }
    }

    fn entry(&mut self, offset: u64, entry: ReadEntry) {
        let ReadEntry { entry_id, leaf_hash, data_hash, signature, missing_key } = entry;
        let line_number = self.line_number;
        self.signatures.note(signature);
        if let Some(key_id) = missing_key {
            self.signatures.note_missing(key_id, line_number);
        }
        let entry = PendingEntry { leaf_hash, data_hash, line_number, offset, signature };
        if let Some(first) = self.pending.insert(entry_id, entry) {
            let detail = format!("repeats the entry of line {}", first.line_number);
            let problem = self.problem(ProblemKind::EntryRepeated, &detail);
            self.report(problem.of_entry(entry_id));
        }
    }

    fn void(&mut self, void: &Void) {
        for entry_id in &void.entry_ids {
            match self.pending.remove(entry_id) {
                Some(entry) => {
                    self.void_count += 1;
                    self.signature(*entry_id, &entry);
                }
                None => {
                    let detail = "voids an entry that is not pending";
                    let problem = self.problem(ProblemKind::VoidUnknown, detail);
                    self.report(problem.of_entry(*entry_id));
                }
            }
        }
    }

    fn block(&mut self, block: BlockLine) -> Option<FileBlock> {
        let BlockLine { header, entry_ids } = block;
        let in_order = header.block_number > self.chain.last_number();
        let entries = self.take_entries(&header, &entry_ids, in_order);
        let contents = Contents {
            entries: &entries,
            listed: entry_ids.len(),
            missing_reported: true,
            line_number: Some(self.line_number),
            computed: None,
        };
        let computed = self.chain.block_with(&header, &contents, &mut self.findings);
        if !in_order {
            return None;
        }
        self.block_count += 1;
        self.entry_count += entries.len() as u64;
        self.last_block = Some(header.clone());
        Some(FileBlock { header, entries, line_number: self.line_number, computed })
    }

    /// Takes the block's entries out of those that are pending. A block that is out of order may be the copy of
    /// another, which has taken them.
    fn take_entries(&mut self, header: &BlockHeader, ids: &[Uuid], in_order: bool) -> Vec<SealedEntry> {
        let start = self.chain.first_leaf_of(header);
        let mut entries = Vec::with_capacity(ids.len());
        let mut missing = Vec::new();
        for (position, entry_id) in ids.iter().enumerate() {
            let leaf_index = start.saturating_add(position as i64);
            match self.pending.remove(entry_id) {
                Some(entry) => entries.push(SealedEntry {
                    entry_id: *entry_id,
                    leaf_index,
                    block_number: header.block_number,
                    data_hash: DataHash::Hash(entry.data_hash),
                    leaf_hash: entry.leaf_hash,
                    line_number: Some(entry.line_number),
                    signature: entry.signature,
                }),
                None => missing.push((leaf_index, *entry_id)),
            }
        }
        if in_order && !missing.is_empty() {
            self.missing_entries(header, &entries, &missing);
        }
        entries
    }

    fn missing_entries(&mut self, header: &BlockHeader, found: &[SealedEntry], missing: &[(i64, Uuid)]) {
        let mut seen: HashSet<Uuid> = found.iter().map(|entry| entry.entry_id).collect();
        for (leaf_index, entry_id) in missing {
            let (kind, detail) = if seen.insert(*entry_id) {
                (ProblemKind::EntryMissing, "no line before it has an entry that the block holds")
            } else {
                (ProblemKind::EntryRepeated, "the block holds an entry twice")
            };
            let problem = self.problem(kind, detail).in_block(header.block_number);
            self.report(problem.at_leaf(*leaf_index).of_entry(*entry_id));
        }
    }

    /// Reports a bad signature of an entry that is in no block; a block's are reported with the block.
    fn signature(&mut self, entry_id: Uuid, entry: &PendingEntry) {
        if let Some((kind, detail)) = entry.signature.problem() {
            let problem = Problem::new(Source::File, kind, detail).of_entry(entry_id);
            self.report(problem.on_line(entry.line_number));
        }
    }

    fn malformed(&mut self, error: &LineError) {
        let kind = match error.kind {
            LineErrorKind::NotCanonical => ProblemKind::LineNotCanonical,
            _ => ProblemKind::LineMalformed,
        };
        self.report(self.problem(kind, &error.to_string()));
    }

    fn header_missing(&self, error: Option<&LineError>) -> Problem {
        let detail = match error {
            Some(LineError { kind: LineErrorKind::ByteOrderMark, .. }) => {
                "begins with a byte order mark: an editor or another program has saved the file".to_owned()
            }
            Some(error) => format!("not the header of a ledger: {error}"),
            None => "not the header of a ledger".to_owned(),
        };
        self.problem(ProblemKind::HeaderMissing, &detail)
    }

    fn problem(&self, kind: ProblemKind, detail: &str) -> Problem {
        Problem::new(Source::File, kind, detail).on_line(self.line_number)
    }

    fn report(&mut self, problem: Problem) {
        self.findings.report(problem);
    }
}
