//! Changes planted in blocks and entries, as they come from tables.

use super::*;
use crate::ledger::block::MAX_ENTRIES;
use crate::ledger::log_tree::STORED_LEVEL;
use crate::ledger::parse_hash;

/// Blocks of the same size, with their entries.
fn blocks(count: usize, size: usize) -> Vec<(BlockHeader, Vec<SealedEntry>)> {
    let keyring = keyring();
    let mut tree = LogTree::new();
    let mut made: Vec<(BlockHeader, Vec<SealedEntry>)> = Vec::new();
    for number in 0..count {
        let entries: Vec<Entry> = (0..size).map(|place| entry((number * size + place) as u64, &keyring)).collect();
        let leaves: Vec<_> = entries.iter().map(|entry| (leaf_hash(&entry.line()), entry.data_hash.as_str())).collect();
        let previous = made.last().map(|(header, _)| header);
        let header = seal(previous, &mut tree, &leaves, timestamp(number as i64), |_, _, _| {});
        let sealed = entries.iter().enumerate().map(|(place, entry)| SealedEntry {
            entry_id: entry.entry_id,
            leaf_index: (number * size + place) as i64,
            block_number: header.block_number,
            data_hash: DataHash::of(&entry.data_hash),
            leaf_hash: leaf_hash(&entry.line()),
            line_number: None,
            signature: check_signature(Some(&keyring), &entry.as_line()),
        });
        let sealed = sealed.collect();
        made.push((header, sealed));
    }
    made
}

fn check(blocks: &[(BlockHeader, Vec<SealedEntry>)]) -> Vec<Problem> {
    let mut findings = Findings::new();
    let mut chain = ChainVerifier::new(Source::Postgres);
    for (header, entries) in blocks {
        chain.block(header, entries, &mut findings);
    }
    findings.into_listed()
}

/// Kind, block and leaf of each problem.
fn places(problems: &[Problem]) -> Vec<(ProblemKind, i64, Option<i64>)> {
    problems.iter().map(|problem| (problem.problem, problem.block_number.unwrap(), problem.leaf_index)).collect()
}

fn found(change: impl FnOnce(&mut Vec<(BlockHeader, Vec<SealedEntry>)>)) -> Vec<(ProblemKind, i64, Option<i64>)> {
    let mut blocks = blocks(12, 5);
    change(&mut blocks);
    places(&check(&blocks))
}

fn other_hash() -> String {
    sha256_hex(b"other")
}

#[test]
fn a_sealed_chain_is_valid() {
    for size in [1, 4, 5] {
        assert_eq!(check(&blocks(12, size)), []);
    }
}

#[test]
fn a_block_of_more_entries_than_a_server_makes_is_found_though_all_hashes_are_right() {
    for (entries, problems) in [(MAX_ENTRIES, &[][..]), (MAX_ENTRIES + 1, &[(ProblemKind::DataCountMismatch, 1, None)])]
    {
        assert_eq!(places(&check(&blocks(1, entries as usize))), problems);
    }
}

#[test]
fn a_deleted_entry_is_one_problem_with_its_leaf() {
    for place in 0..5 {
        let problems = found(|blocks| {
            blocks[3].1.remove(place);
        });
        assert_eq!(problems, [(ProblemKind::EntryMissing, 4, Some(15 + place as i64))]);
    }
}

#[test]
fn an_added_entry_is_found_in_its_block() {
    let problems = found(|blocks| {
        let mut added = blocks[3].1[2].clone();
        added.entry_id = Uuid::from_u128(1);
        blocks[3].1.insert(2, added);
    });
    assert_eq!(problems, [(ProblemKind::LeafIndexMismatch, 4, Some(17)), (ProblemKind::DataCountMismatch, 4, None),]);
}

#[test]
fn two_exchanged_entries_are_found() {
    let problems = found(|blocks| {
        let entries = &mut blocks[3].1;
        (entries[1].leaf_index, entries[2].leaf_index) = (17, 16);
        entries.swap(1, 2);
    });
    assert_eq!(problems, [(ProblemKind::MerkleRootMismatch, 4, None)]);
}

#[test]
fn a_changed_field_of_an_entry_is_one_problem() {
    let problems = found(|blocks| blocks[3].1[2].leaf_hash = [7; 32]);
    assert_eq!(problems, [(ProblemKind::TreeRootMismatch, 4, None)]);
    let problems = found(|blocks| {
        blocks[3].1[2].leaf_hash = [7; 32];
        blocks[3].1[2].data_hash = DataHash::of(&other_hash());
    });
    assert_eq!(problems, [(ProblemKind::MerkleRootMismatch, 4, None)]);
}

#[test]
fn a_bad_signature_names_its_entry() {
    for (signature, kind) in [
        (SignatureCheck::Invalid { key: 0 }, ProblemKind::SignatureInvalid),
        (SignatureCheck::UnknownKey, ProblemKind::UnknownKey),
        (SignatureCheck::Incomplete, ProblemKind::SignatureIncomplete),
    ] {
        let problems = found(|blocks| blocks[3].1[2].signature = signature);
        assert_eq!(problems, [(kind, 4, Some(17))]);
    }
}

#[test]
fn an_entry_that_names_another_block_is_found() {
    let problems = found(|blocks| blocks[3].1[2].block_number = 9);
    assert_eq!(problems, [(ProblemKind::BlockNumberMismatch, 4, Some(17))]);
}

#[test]
fn a_changed_header_is_found_in_its_block_and_not_in_the_next() {
    use ProblemKind::*;
    let hash = (BlockHashMismatch, 4, None);
    assert_eq!(found(|blocks| blocks[3].0.block_hash = other_hash()), [hash]);
    assert_eq!(found(|blocks| blocks[3].0.timestamp = timestamp(99)), [hash]);
    let link = (PreviousHashMismatch, 4, None);
    assert_eq!(found(|blocks| blocks[3].0.previous_hash = other_hash()), [link, hash]);
    let merkle = (MerkleRootMismatch, 4, None);
    assert_eq!(found(|blocks| blocks[3].0.merkle_root = other_hash()), [merkle, hash]);
    let root = (TreeRootMismatch, 4, None);
    assert_eq!(found(|blocks| blocks[3].0.tree_root = other_hash()), [root, hash]);
    let count = (DataCountMismatch, 4, None);
    assert_eq!(found(|blocks| blocks[3].0.data_count = 6), [count, hash]);
    assert_eq!(found(|blocks| blocks[3].0.data_count = 4), [count, hash]);
    let size = (TreeSizeMismatch, 4, None);
    assert_eq!(found(|blocks| blocks[3].0.tree_size = 21), [size, hash]);
    assert_eq!(found(|blocks| blocks[3].0.merkle_root = "x".to_owned()), [merkle, hash]);
}

#[test]
fn a_rewritten_block_breaks_the_link_of_the_next() {
    let problems = found(|blocks| {
        blocks[3].0.timestamp = timestamp(99);
        blocks[3].0.block_hash = blocks[3].0.compute_hash();
    });
    assert_eq!(problems, [(ProblemKind::PreviousHashMismatch, 5, None)]);
}

#[test]
fn missing_blocks_are_one_problem_and_the_rest_is_still_checked() {
    let problems = found(|blocks| {
        blocks.drain(3..5);
        blocks[6].1[0].data_hash = DataHash::of(&other_hash());
        blocks[7].0.timestamp = timestamp(99);
    });
    assert_eq!(
        problems,
        [
            (ProblemKind::BlockMissing, 4, None),
            (ProblemKind::MerkleRootMismatch, 9, None),
            (ProblemKind::BlockHashMismatch, 10, None),
        ]
    );
    let problems = found(|blocks| {
        blocks.remove(0);
    });
    assert_eq!(problems, [(ProblemKind::BlockMissing, 1, None)]);
}

#[test]
fn a_repeated_block_is_found_and_does_not_disturb_the_rest() {
    let problems = found(|blocks| {
        let repeated = blocks[3].clone();
        blocks.insert(6, repeated);
    });
    assert_eq!(problems, [(ProblemKind::BlockOutOfOrder, 4, None)]);
}

#[test]
fn a_tree_that_was_lost_is_found_again_at_a_power_of_two() {
    let mut blocks = blocks(12, 4);
    for place in [1, 2, 4, 9] {
        blocks[place].1[0].leaf_hash = [7; 32];
    }
    // 8, 16 and 32 leaves are after blocks 2, 4 and 8; block 3 is in doubt as long as nothing else tells its tree.
    let root = |block| (ProblemKind::TreeRootMismatch, block, None);
    assert_eq!(places(&check(&blocks)), [root(2), root(3), root(5), root(10)]);
    let mut blocks = super::chain::blocks(12, 5);
    blocks[0].1[0].leaf_hash = [7; 32];
    blocks[6].1[0].leaf_hash = [7; 32];
    assert_eq!(places(&check(&blocks)), [root(1)]);
}

#[test]
fn a_tree_told_from_elsewhere_lets_roots_be_checked_again() {
    let mut blocks = blocks(12, 5);
    let mut tree = LogTree::new();
    for (_, entries) in &blocks[..6] {
        entries.iter().for_each(|entry| tree.push(entry.leaf_hash, |_, _, _| {}));
    }
    blocks[0].1[0].leaf_hash = [7; 32];
    blocks[6].1[0].leaf_hash = [7; 32];
    let mut findings = Findings::new();
    let mut chain = ChainVerifier::new(Source::Postgres);
    for (number, (header, entries)) in blocks.iter().enumerate() {
        if number == 6 {
            assert_eq!(chain.tree(), None);
            chain.set_tree(tree.clone());
        }
        chain.block(header, entries, &mut findings);
    }
    let root = |block| (ProblemKind::TreeRootMismatch, block, None);
    assert_eq!(places(&findings.into_listed()), [root(1), root(7)]);
}

#[test]
fn the_nodes_that_a_chain_collects_are_those_that_sealing_stored() {
    let blocks = blocks(13, 97);
    let mut stored = Vec::new();
    let mut tree = LogTree::new();
    for entry in blocks.iter().flat_map(|(_, entries)| entries) {
        tree.push(entry.leaf_hash, |level, index, hash| {
            if level >= STORED_LEVEL {
                stored.push((level, index, hash));
            }
        });
    }
    let mut chain = ChainVerifier::new(Source::Postgres);
    chain.collect_nodes();
    let mut collected = Vec::new();
    for (header, entries) in &blocks {
        chain.block(header, entries, &mut Findings::new());
        collected.extend(chain.take_nodes());
    }
    assert!(stored.len() > 4);
    assert_eq!(collected, stored);
}

#[test]
fn a_chain_is_verified_from_any_block_on() {
    let blocks = blocks(12, 5);
    for from in 1..blocks.len() {
        let mut tree = LogTree::new();
        for (_, entries) in &blocks[..from] {
            entries.iter().for_each(|entry| tree.push(entry.leaf_hash, |_, _, _| {}));
        }
        let previous = &blocks[from - 1].0;
        assert_eq!(parse_hash(&previous.tree_root), Some(tree.root()));
        let mut findings = Findings::new();
        let mut chain = ChainVerifier::resume(Source::Postgres, Some(tree), previous);
        for (header, entries) in &blocks[from..] {
            chain.block(header, entries, &mut findings);
        }
        assert_eq!(findings.into_listed(), []);
        assert_eq!(chain.last_number(), 12);
    }
}

#[test]
fn extreme_numbers_are_found_and_stop_nothing() {
    for number in [i64::MIN, -1, 0, i64::MAX] {
        let problems = found(|blocks| {
            blocks[2].0.block_number = number;
            blocks[4].0.tree_size = number;
            blocks[6].0.data_count = number;
            blocks[8].1[0].leaf_index = number;
            blocks[8].1[4].leaf_index = number;
        });
        assert!(!problems.is_empty());
    }
}

fn file_block(block: &(BlockHeader, Vec<SealedEntry>)) -> FileBlock {
    let (header, mut entries) = block.clone();
    for (place, entry) in entries.iter_mut().enumerate() {
        entry.line_number = Some(10 + place as u64);
    }
    FileBlock { header, entries, line_number: 20, computed: Computed::default() }
}

fn differences(change: impl FnOnce(&mut FileBlock)) -> Vec<Problem> {
    let block = &blocks(2, 5)[1];
    let mut file = file_block(block);
    change(&mut file);
    let mut findings = Findings::new();
    compare_blocks((&block.0, &block.1), &file, &mut findings);
    findings.into_listed()
}

#[test]
fn equal_blocks_do_not_differ() {
    assert_eq!(differences(|_| {}), []);
}

#[test]
fn every_differing_entry_is_one_problem() {
    use ProblemKind::*;
    let problems = differences(|file| {
        file.entries[1].leaf_hash = [7; 32];
        file.entries[3].entry_id = Uuid::from_u128(1);
    });
    assert_eq!(places(&problems), [(EntryDiffers, 2, Some(6)), (EntryDiffers, 2, Some(8))]);
    assert_eq!(problems[0].line_number, Some(11));
    let problems = differences(|file| {
        file.entries.remove(1);
    });
    assert_eq!(places(&problems), [(EntryNotInFile, 2, Some(6))]);
    let problems = differences(|file| {
        let mut added = file.entries[4].clone();
        added.leaf_index += 1;
        file.entries.push(added);
    });
    assert_eq!(places(&problems), [(EntryNotInDatabase, 2, Some(10))]);
}

#[test]
fn differing_fields_of_a_block_are_one_problem_that_names_them() {
    let problems = differences(|file| {
        file.header.timestamp = timestamp(99);
        file.header.merkle_root = other_hash();
    });
    assert_eq!(places(&problems), [(ProblemKind::BlockDiffers, 2, None)]);
    let detail = &problems[0].detail;
    assert!(detail.starts_with("line 20: "), "{detail}");
    assert!(detail.contains("timestamp 2026") && detail.contains("merkle_root "), "{detail}");
    assert!(!detail.contains("block_hash"), "{detail}");
}
