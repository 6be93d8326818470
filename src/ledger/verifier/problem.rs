//! What verification finds.

use std::fmt;
use uuid::Uuid;

/// At most this many problems are listed; all are counted.
pub const MAX_LISTED: usize = 100;

/// The first problems of each kind that have a place in a full list, in place of the last ones of the kind that has
/// most; fewer where there are more kinds than fit so. One missing key makes a problem of each entry that it signed,
/// and must not keep another problem from being listed.
const SURE_OF_KIND: usize = 20;

/// Where a problem shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Postgres,
    File,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Postgres => "postgres",
            Source::File => "file",
        }
    }
}

/// The kinds of problem. Their names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// The first line is not the header.
    HeaderMissing,
    /// A header that is not the first line.
    HeaderRepeated,
    /// Not a line that a ledger writes.
    LineMalformed,
    /// JSON with the right content, perhaps, but not in its one canonical form.
    LineNotCanonical,
    LineTooLong,
    /// A number is skipped.
    BlockMissing,
    /// A number that was already there, or comes too late.
    BlockOutOfOrder,
    /// The block does not name its predecessor's hash.
    PreviousHashMismatch,
    /// The block does not hold as many entries as it says.
    DataCountMismatch,
    /// The log tree does not have as many leaves as the block says.
    TreeSizeMismatch,
    /// The entries' data hashes do not give the block's Merkle root.
    MerkleRootMismatch,
    /// The entries up to here do not give the block's log tree root.
    TreeRootMismatch,
    /// The block's other fields do not give its hash.
    BlockHashMismatch,
    /// An entry that the block holds is not there.
    EntryMissing,
    /// An entry is there more than once.
    EntryRepeated,
    /// An entry is not where its leaf_index says.
    LeafIndexMismatch,
    /// An entry names another block than the one that holds it.
    BlockNumberMismatch,
    /// A signature that the named key did not make of this data hash.
    SignatureInvalid,
    /// A signature without a key_id, or a key_id without a signature.
    SignatureIncomplete,
    /// Signed with a key that is not in the keyring.
    UnknownKey,
    /// A void line names an entry that is not pending.
    VoidUnknown,
    /// The block is not the same in the database and in the file.
    BlockDiffers,
    /// The entry is not the same in the database and in the file.
    EntryDiffers,
    BlockNotInFile,
    BlockNotInDatabase,
    EntryNotInFile,
    EntryNotInDatabase,
    /// The file is shorter than the database has seen it.
    FileTruncated,
    /// The file cannot be read.
    FileUnreadable,
    /// The file is another ledger's.
    OtherLedger,
    /// A block does not have the hash that was noted of it elsewhere, or is not there.
    NotedHashMismatch,
    /// A stored node of the log tree is not what the entries give.
    TreeNodeMismatch,
    /// What finds the entries about a row does not lead to those that there are.
    RowVersionsMismatch,
    /// A row holds a value that the ledger never writes.
    RowMalformed,
    /// What a query shows is not the table that the ledger writes.
    TableReplaced,
}

impl ProblemKind {
    pub fn as_str(self) -> &'static str {
        use ProblemKind::*;
        match self {
            HeaderMissing => "header_missing",
            HeaderRepeated => "header_repeated",
            LineMalformed => "line_malformed",
            LineNotCanonical => "line_not_canonical",
            LineTooLong => "line_too_long",
            BlockMissing => "block_missing",
            BlockOutOfOrder => "block_out_of_order",
            PreviousHashMismatch => "previous_hash_mismatch",
            DataCountMismatch => "data_count_mismatch",
            TreeSizeMismatch => "tree_size_mismatch",
            MerkleRootMismatch => "merkle_root_mismatch",
            TreeRootMismatch => "tree_root_mismatch",
            BlockHashMismatch => "block_hash_mismatch",
            EntryMissing => "entry_missing",
            EntryRepeated => "entry_repeated",
            LeafIndexMismatch => "leaf_index_mismatch",
            BlockNumberMismatch => "block_number_mismatch",
            SignatureInvalid => "signature_invalid",
            SignatureIncomplete => "signature_incomplete",
            UnknownKey => "unknown_key",
            VoidUnknown => "void_unknown",
            BlockDiffers => "block_differs",
            EntryDiffers => "entry_differs",
            BlockNotInFile => "block_not_in_file",
            BlockNotInDatabase => "block_not_in_database",
            EntryNotInFile => "entry_not_in_file",
            EntryNotInDatabase => "entry_not_in_database",
            FileTruncated => "file_truncated",
            FileUnreadable => "file_unreadable",
            OtherLedger => "other_ledger",
            NotedHashMismatch => "noted_hash_mismatch",
            TreeNodeMismatch => "tree_node_mismatch",
            RowVersionsMismatch => "row_versions_mismatch",
            RowMalformed => "row_malformed",
            TableReplaced => "table_replaced",
        }
    }
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong, and the first place where it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub source: Source,
    pub block_number: Option<i64>,
    pub leaf_index: Option<i64>,
    pub entry_id: Option<Uuid>,
    pub problem: ProblemKind,
    /// For a reader; names the line where there is one.
    pub detail: String,
    /// 1-based line of the file.
    pub line_number: Option<u64>,
}

impl Problem {
    /// A problem whose place is still to be said.
    pub fn new(source: Source, problem: ProblemKind, detail: impl Into<String>) -> Self {
        Problem {
            source,
            block_number: None,
            leaf_index: None,
            entry_id: None,
            problem,
            detail: detail.into(),
            line_number: None,
        }
    }

    /// No block has the numbers from `first` to `last`.
    pub fn missing_blocks(source: Source, first: i64, last: i64) -> Self {
        let detail = match first == last {
            true => format!("block {first} is missing"),
            false => format!("blocks {first} to {last} are missing"),
        };
        Problem::new(source, ProblemKind::BlockMissing, detail).in_block(first)
    }

    #[must_use]
    pub fn in_block(mut self, block_number: i64) -> Self {
        self.block_number = Some(block_number);
        self
    }

    #[must_use]
    pub fn at_leaf(mut self, leaf_index: i64) -> Self {
        self.leaf_index = Some(leaf_index);
        self
    }

    #[must_use]
    pub fn of_entry(mut self, entry_id: Uuid) -> Self {
        self.entry_id = Some(entry_id);
        self
    }

    /// Also puts the line's number, if there is one, before the detail.
    #[must_use]
    pub fn on_line(mut self, line_number: impl Into<Option<u64>>) -> Self {
        self.line_number = line_number.into();
        if let Some(line_number) = self.line_number {
            self.detail.insert_str(0, &format!("line {line_number}: "));
        }
        self
    }

    /// `{source, block_number, leaf_index, entry_id, problem, detail}`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "source": self.source.as_str(),
            "block_number": self.block_number,
            "leaf_index": self.leaf_index,
            "entry_id": self.entry_id.map(|id| id.to_string()),
            "problem": self.problem.as_str(),
            "detail": self.detail,
        })
    }
}

/// The problems that are listed: the first [`MAX_LISTED`], and the first 20 of each kind.
#[derive(Debug, Default)]
pub(super) struct List {
    problems: Vec<Problem>,
    /// How many there are of each kind that there is.
    kinds: Vec<(ProblemKind, usize)>,
}

impl List {
    pub fn add(&mut self, problem: Problem) {
        let kind = problem.problem;
        if self.problems.len() < MAX_LISTED || self.make_room(kind) {
            self.problems.push(problem);
            *self.count_of(kind) += 1;
        }
    }

    fn count_of(&mut self, kind: ProblemKind) -> &mut usize {
        let place = self.kinds.iter().position(|(other, _)| *other == kind).unwrap_or_else(|| {
            self.kinds.push((kind, 0));
            self.kinds.len() - 1
        });
        &mut self.kinds[place].1
    }

    /// Takes one problem off a full list, if a problem of this kind should be on it instead.
    fn make_room(&mut self, kind: ProblemKind) -> bool {
        let count = *self.count_of(kind);
        let most = self.kinds.iter().copied().max_by_key(|(_, count)| *count);
        let Some((crowded, most)) = most.filter(|_| count < SURE_OF_KIND) else { return false };
        let last = self.problems.iter().rposition(|listed| listed.problem == crowded);
        // Between kinds that have as many, none would have more for it.
        let Some(last) = last.filter(|_| most > count + 1) else { return false };
        self.problems.remove(last);
        *self.count_of(crowded) -= 1;
        true
    }

    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

/// All problems, counted; the first [`MAX_LISTED`], and the first 20 of each kind, listed; each, given to a sink if
/// there is one.
#[derive(Default)]
pub struct Findings<'a> {
    count: u64,
    list: List,
    sink: Option<Sink<'a>>,
}

type Sink<'a> = Box<dyn FnMut(&Problem) + 'a>;

impl fmt::Debug for Findings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Findings").field("count", &self.count).field("list", &self.list).finish_non_exhaustive()
    }
}

impl<'a> Findings<'a> {
    pub fn new() -> Self {
        Findings::default()
    }

    /// Also gives each problem to `sink`.
    pub fn with_sink(sink: impl FnMut(&Problem) + 'a) -> Self {
        Findings { sink: Some(Box::new(sink)), ..Findings::default() }
    }

    pub fn report(&mut self, problem: Problem) {
        self.count += 1;
        if let Some(sink) = &mut self.sink {
            sink(&problem);
        }
        self.list.add(problem);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn into_listed(self) -> Vec<Problem> {
        self.list.into_problems()
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kinds: &[(ProblemKind, usize)]) -> Findings<'static> {
        let mut findings = Findings::new();
        for (kind, count) in kinds {
            (0..*count).for_each(|_| findings.report(Problem::new(Source::File, *kind, "")));
        }
        findings
    }

    fn of_kind(problems: &[Problem], kind: ProblemKind) -> usize {
        problems.iter().filter(|problem| problem.problem == kind).count()
    }

    #[test]
    fn every_kind_is_listed_however_many_there_are() {
        use ProblemKind::*;
        let kinds = [UnknownKey, SignatureInvalid, EntryMissing, EntryRepeated, VoidUnknown, HeaderRepeated];
        let mut floods: Vec<(ProblemKind, usize)> = kinds.map(|kind| (kind, 50)).to_vec();
        floods.push((TreeRootMismatch, 1));
        let findings = found(&floods);
        assert_eq!(findings.count(), 301);
        let listed = findings.into_listed();
        assert_eq!(listed.len(), MAX_LISTED);
        let of = |kind| of_kind(&listed, kind);
        assert_eq!(of(TreeRootMismatch), 1);
        assert!(kinds.iter().all(|kind| of(*kind) >= 16), "{:?}", kinds.map(of));
    }

    #[test]
    fn a_flood_of_one_kind_keeps_no_other_off_the_list() {
        use ProblemKind::*;
        let findings =
            found(&[(UnknownKey, 1000), (TreeRootMismatch, 1), (SignatureInvalid, 1000), (EntryMissing, 30)]);
        assert_eq!(findings.count(), 2031);
        let listed = findings.into_listed();
        assert_eq!(listed.len(), MAX_LISTED);
        let of = |kind| of_kind(&listed, kind);
        assert_eq!(of(TreeRootMismatch), 1);
        assert_eq!((of(SignatureInvalid), of(EntryMissing)), (SURE_OF_KIND, SURE_OF_KIND));
        assert_eq!(of(UnknownKey), MAX_LISTED - 1 - 2 * SURE_OF_KIND);
        assert_eq!(found(&[(EntryMissing, 1000)]).into_listed().len(), MAX_LISTED);
    }
}
