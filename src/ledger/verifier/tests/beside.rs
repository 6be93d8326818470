//! A block of the tables that is checked beside its block of the file has the problems that it has by itself.

use super::*;
use crate::ledger::record::{BlockLine, Record};
use crate::ledger::Hash;
use std::collections::{HashMap, VecDeque};

/// A block as the tables have it: each entry with its leaf_index and the block it names.
type TableBlock = (BlockHeader, Vec<(Entry, i64, i64)>);

/// What the tables hold where this is the file.
fn tables(lines: &[Vec<u8>]) -> Vec<TableBlock> {
    let mut entries: HashMap<Uuid, Entry> = HashMap::new();
    let mut blocks = Vec::new();
    let mut leaf = 0..;
    for line in lines {
        match Record::parse(line).unwrap() {
            Record::Entry(entry) => drop(entries.insert(entry.entry_id, entry.to_entry())),
            Record::Block(BlockLine { header, entry_ids }) => {
                let sealed =
                    entry_ids.iter().map(|id| (entries[id].clone(), leaf.next().unwrap(), header.block_number));
                blocks.push((header.clone(), sealed.collect()));
            }
            Record::Ledger(_) | Record::Void(_) => {}
        }
    }
    blocks
}

/// The entries of a block, with the signatures of those of the file where they are the same, or with their own.
fn sealed(block: &TableBlock, file: Option<&FileBlock>) -> Vec<SealedEntry> {
    let no_render = |_: &[u8]| unreachable!("there is no jsonb");
    let mut hasher = EntryHasher::new(Some(keyring()), Helpers::none(), no_render);
    if file.is_some() {
        hasher = hasher.without_signatures();
    }
    for (entry, leaf_index, block_number) in &block.1 {
        hasher.push(&StoredEntry {
            entry_id: entry.entry_id,
            entry_type: &entry.entry_type,
            data_hash: &entry.data_hash,
            metadata: StoredMetadata::Text(&entry.metadata),
            signature: entry.signature.as_deref(),
            key_id: entry.key_id.as_deref(),
            created_at: entry.created_at,
            leaf_index: *leaf_index,
            block_number: *block_number,
        });
    }
    let mut hashed = VecDeque::new();
    while hasher.receive(&mut hashed) {}
    let others = file.map(|file| &file.entries[..]).unwrap_or_default();
    let ring = keyring();
    hashed.into_iter().enumerate().map(|(place, entry)| entry.checked(others.get(place), Some(&ring))).collect()
}

/// All that is found, in order, and the tree and its nodes after each block.
#[derive(Debug, Default, PartialEq)]
struct Found {
    problems: Vec<Problem>,
    trees: Vec<Option<LogTree>>,
    nodes: Vec<(u8, u64, Hash)>,
}

/// Gives each block of the file, and the block of the tables that is drawn by it.
struct Beside<'t> {
    tables: &'t [TableBlock],
    chain: ChainVerifier,
    shares: bool,
    /// Blocks that took something from the file.
    shared: usize,
    found: Found,
}

impl Observer for Beside<'_> {
    fn block(&mut self, block: FileBlock) {
        let Some((next, rest)) = self.tables.split_first() else { return };
        self.tables = rest;
        let mut findings = Findings::new();
        if self.shares {
            let entries = sealed(next, Some(&block));
            self.shared += usize::from(block.computed_for(&entries).is_some());
            self.chain.block_beside(&next.0, &entries, block.computed_for(&entries), &mut findings);
        } else {
            self.chain.block(&next.0, &sealed(next, None), &mut findings);
        }
        compare_blocks((&next.0, &sealed(next, None)), &block, &mut findings);
        self.found.problems.extend(findings.into_listed());
        self.found.trees.push(self.chain.tree().cloned());
        self.found.nodes.extend(self.chain.take_nodes());
    }
}

fn found(tables: &[TableBlock], lines: &[Vec<u8>], shares: bool) -> (Found, usize) {
    let mut chain = ChainVerifier::new(Source::Postgres);
    chain.collect_nodes();
    let mut beside = Beside { tables, chain, shares, shared: 0, found: Found::default() };
    let keyring = keyring();
    let options = FileOptions { keyring: Some(&keyring), ..FileOptions::default() };
    verify_file(Cursor::new(join(lines)), options, &mut beside).unwrap();
    (beside.found, beside.shared)
}

fn assert_same(tables: &[TableBlock], lines: &[Vec<u8>]) -> (Vec<Problem>, usize) {
    let (apart, _) = found(tables, lines, false);
    let (beside, shared) = found(tables, lines, true);
    assert_eq!(beside, apart);
    (apart.problems, shared)
}

/// Replaces a part of the first line that has it.
fn replace(line: &mut Vec<u8>, from: &str, to: &str) -> bool {
    let text = String::from_utf8(line.clone()).unwrap();
    *line = text.replacen(from, to, 1).into_bytes();
    text.contains(from)
}

#[test]
fn the_same_blocks_are_computed_once_and_valid() {
    let lines = ledger(31, 60, 40);
    let (problems, shared) = assert_same(&tables(&lines), &lines);
    assert_eq!((problems, shared), (vec![], 60));
}

#[test]
fn one_difference_in_one_copy_is_found_as_if_each_was_checked_by_itself() {
    use ProblemKind::*;
    let lines = ledger(32, 30, 9);
    let original = tables(&lines);
    let place = original.iter().position(|(_, entries)| entries.len() > 4 && entries[2].0.signature.is_some()).unwrap();
    type Change = fn(&mut Entry);
    let changes: [(Change, &[ProblemKind]); 6] = [
        (|entry| entry.metadata = "{}".to_owned(), &[TreeRootMismatch, EntryDiffers]),
        (|entry| entry.data_hash = sha256_hex(b"x"), &[SignatureInvalid, MerkleRootMismatch, EntryDiffers]),
        (|entry| entry.data_hash = "x".to_owned(), &[SignatureInvalid, MerkleRootMismatch, EntryDiffers]),
        (|entry| entry.signature = Some("0".repeat(64)), &[SignatureInvalid, TreeRootMismatch, EntryDiffers]),
        (|entry| entry.key_id = Some("none".to_owned()), &[UnknownKey, TreeRootMismatch, EntryDiffers]),
        (|entry| entry.signature = None, &[SignatureIncomplete, TreeRootMismatch, EntryDiffers]),
    ];
    for (change, expected) in changes {
        let mut tables = original.clone();
        change(&mut tables[place].1[2].0);
        let (problems, shared) = assert_same(&tables, &lines);
        let number = place as i64 + 1;
        let of_block = problems.iter().filter(|problem| problem.block_number == Some(number));
        assert_eq!(of_block.map(|problem| problem.problem).collect::<Vec<_>>(), expected);
        assert_eq!(shared, 29);
        // The other way round: what the file has wrong is not taken for the tables.
        let mut lines = lines.clone();
        let (right, wrong) = (original[place].1[2].0.line(), tables[place].1[2].0.line());
        let at = lines.iter().position(|line| *line == right).unwrap();
        lines[at] = wrong;
        let (problems, _) = assert_same(&original, &lines);
        assert!(!problems.is_empty() && problems.iter().all(|problem| problem.source == Source::File), "{problems:?}");
    }
}

#[test]
fn the_same_wrong_signature_in_both_copies_is_found_in_both() {
    let mut lines = ledger(33, 20, 9);
    let at = lines.iter().position(|line| String::from_utf8_lossy(line).contains(r#""key_id": "default""#)).unwrap();
    assert!(replace(&mut lines[at], r#""signature": ""#, r#""signature": "0"#));
    let length = lines[at].len();
    let mut line = String::from_utf8(lines[at].clone()).unwrap();
    let end = line.find(r#"", "timestamp""#).unwrap();
    line.remove(end - 1);
    lines[at] = line.into_bytes();
    assert_eq!(lines[at].len(), length - 1);
    let tables = tables(&lines);
    let report = verify_lines(&lines);
    let (problems, _) = assert_same(&tables, &lines);
    let kind = ProblemKind::SignatureInvalid;
    assert!(report.errors.iter().any(|problem| problem.problem == kind));
    assert!(problems.iter().any(|problem| problem.problem == kind && problem.source == Source::Postgres));
}

#[test]
fn any_changes_in_both_copies_are_found_as_if_each_was_checked_by_itself() {
    let mut numbers = Numbers(34);
    let (mut all_shared, mut with_problems) = (0, 0);
    for _ in 0..150 {
        let mut lines = ledger(numbers.below(50) as u64, 4 + numbers.below(12), 1 + numbers.below(9));
        let mut tables = tables(&lines);
        for _ in 0..numbers.below(4) {
            let at = numbers.below(tables.len());
            change_block(&mut tables, at, &mut numbers);
        }
        for _ in 0..numbers.below(3) {
            change_line(&mut lines, &mut numbers);
        }
        let (problems, shared) = assert_same(&tables, &lines);
        all_shared += shared;
        with_problems += usize::from(!problems.is_empty());
    }
    assert!(all_shared > 400 && with_problems > 40, "{all_shared} {with_problems}");
}

fn change_block(tables: &mut Vec<TableBlock>, at: usize, numbers: &mut Numbers) {
    let (header, entries) = &mut tables[at];
    let place = numbers.below(entries.len().max(1));
    let Some((entry, leaf_index, block_number)) = entries.get_mut(place) else { return };
    match numbers.below(14) {
        0 => entry.metadata = "{}".to_owned(),
        1 => entry.data_hash = sha256_hex(b"x"),
        2 => entry.data_hash = entry.data_hash.to_uppercase(),
        3 => entry.signature = Some(sha256_hex(b"x")),
        4 => entry.key_id = None,
        5 => *leaf_index += 1,
        6 => *block_number += 1,
        7 => drop(entries.remove(place)),
        8 => {
            let last = entries.len() - 1;
            entries.swap(place, last);
        }
        9 => entries.push(entries[place].clone()),
        10 => header.merkle_root = sha256_hex(b"x"),
        11 => header.tree_root = sha256_hex(b"x"),
        12 => header.tree_size += 1,
        _ => drop(tables.remove(at)),
    }
    if tables.is_empty() {
        tables.push((seal(None, &mut LogTree::new(), &[([0; 32], "")], timestamp(0), |_, _, _| {}), Vec::new()));
    }
}

fn change_line(lines: &mut Vec<Vec<u8>>, numbers: &mut Numbers) {
    let at = numbers.below(lines.len());
    match numbers.below(5) {
        0 => drop(lines.remove(at)),
        1 => drop(replace(&mut lines[at], "type", "kind")),
        2 => drop(replace(&mut lines[at], r#""tree_size": 1"#, r#""tree_size": 2"#)),
        3 => drop(replace(&mut lines[at], r#""note": "#, r#""nota": "#)),
        _ => {
            let digit = format!("{}", numbers.below(10));
            replace(&mut lines[at], &digit, "0");
        }
    }
}
