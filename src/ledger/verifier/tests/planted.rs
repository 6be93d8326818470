//! Changes planted in files: each is found, and where it is.

use super::*;
use crate::ledger::record::{EntryLine, Record};
use crate::ledger::test_support::vector_text;
use proptest::prelude::*;
use std::collections::HashMap;

/// What a line is in the file it belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Role {
    Header,
    /// An entry in the block of this number, whose line has this index.
    Sealed {
        block: i64,
        line: usize,
    },
    /// An entry voided by the line with this index.
    Voided {
        line: usize,
    },
    Pending,
    Block {
        block: i64,
    },
    Void,
}

/// A valid file and what its lines are.
pub(super) struct Valid {
    pub(super) lines: Vec<Vec<u8>>,
    roles: Vec<Role>,
}

impl Valid {
    fn new(lines: Vec<Vec<u8>>) -> Self {
        let mut roles = Vec::new();
        let mut entries = HashMap::new();
        for (line, raw) in lines.iter().enumerate() {
            let role = match Record::parse(raw).unwrap() {
                Record::Ledger(_) => Role::Header,
                Record::Entry(entry) => {
                    entries.insert(entry.entry_id, line);
                    Role::Pending
                }
                Record::Block(block) => {
                    let number = block.header.block_number;
                    for id in &block.entry_ids {
                        roles[entries[id]] = Role::Sealed { block: number, line };
                    }
                    Role::Block { block: number }
                }
                Record::Void(void) => {
                    for id in &void.entry_ids {
                        roles[entries[id]] = Role::Voided { line };
                    }
                    Role::Void
                }
            };
            roles.push(role);
        }
        let valid = Valid { lines, roles };
        let report = verify_lines(&valid.lines);
        assert_eq!(report.errors, []);
        assert_eq!(report.entry_count, valid.count(|role| matches!(role, Role::Sealed { .. })));
        assert_eq!(report.block_count, valid.count(|role| matches!(role, Role::Block { .. })));
        assert_eq!(report.void_count, valid.count(|role| matches!(role, Role::Voided { .. })));
        assert_eq!(report.pending.len() as u64, valid.count(|role| role == Role::Pending));
        valid
    }

    pub(super) fn generated(seed: u64) -> Self {
        Valid::new(ledger(seed, 6, 5))
    }

    fn vectors() -> Self {
        let text = vector_text("ledger.jsonl");
        Valid::new(text.lines().map(|line| line.as_bytes().to_vec()).collect())
    }

    fn count(&self, is: impl Fn(Role) -> bool) -> u64 {
        self.roles.iter().filter(|role| is(**role)).count() as u64
    }

    fn last_block(&self) -> i64 {
        let blocks = self.roles.iter().filter_map(|role| match role {
            Role::Block { block } => Some(*block),
            _ => None,
        });
        blocks.max().unwrap()
    }

    /// Whether the first problem names one of these lines (by index), or the block or void line that they belong to.
    fn assert_located(&self, report: &FileReport, planted: &[usize], lines: &[usize]) {
        let first = report.errors.first().expect("the change is found");
        let named = planted.iter().any(|at| match self.roles[*at] {
            Role::Sealed { block, .. } | Role::Block { block } => first.block_number == Some(block),
            _ => false,
        });
        let on_line = lines.iter().any(|line| first.line_number == Some(*line as u64 + 1));
        assert!(named || on_line, "planted at {planted:?}, found at {first:?}");
        assert!(!report.valid());
    }

    /// Whether a changed line could have been written so as far as a file alone can tell: see the documentation of the
    /// verifier.
    fn is_free(&self, at: usize, changed: &[u8]) -> bool {
        let before = Record::parse(&self.lines[at]).unwrap();
        let Ok(after) = Record::parse(changed) else {
            return false;
        };
        match (self.roles[at], before, after) {
            (Role::Header, _, Record::Ledger(_)) => true,
            (Role::Pending, _, Record::Entry(entry)) => is_signed_well(&entry),
            (Role::Voided { .. }, Record::Entry(before), Record::Entry(after)) => {
                before.entry_id == after.entry_id && is_signed_well(&after)
            }
            (Role::Void, Record::Void(before), Record::Void(after)) => before.entry_ids == after.entry_ids,
            _ => false,
        }
    }

    fn assert_change_found(&self, at: usize, changed: Vec<u8>) {
        if changed == self.lines[at] {
            return;
        }
        let free = self.is_free(at, &changed);
        let mut lines = self.lines.clone();
        lines[at] = changed;
        let report = verify_lines(&lines);
        if free {
            assert_eq!(report.errors, []);
            return;
        }
        let mut places = vec![at];
        if let Role::Voided { line } = self.roles[at] {
            places.push(line);
        }
        self.assert_located(&report, &[at], &places);
    }

    fn assert_drop_found(&self, at: usize) {
        let mut lines = self.lines.clone();
        lines.remove(at);
        let report = verify_lines(&lines);
        match self.roles[at] {
            Role::Pending | Role::Void => assert_eq!(report.errors, []),
            Role::Block { block } if block == self.last_block() => assert_eq!(report.errors, []),
            // The void's line has moved up by one.
            Role::Voided { line } => self.assert_located(&report, &[at], &[line - 1]),
            Role::Header => self.assert_located(&report, &[at], &[0]),
            Role::Sealed { .. } | Role::Block { .. } => self.assert_located(&report, &[at], &[]),
        }
    }

    fn assert_swap_found(&self, a: usize, b: usize) {
        let mut lines = self.lines.clone();
        lines.swap(a, b);
        let report = verify_lines(&lines);
        let place = |line: usize| match line {
            line if line == a => b,
            line if line == b => a,
            line => line,
        };
        // The place of every line in the new order is checked against what it must come before.
        let mut blocks: Vec<(usize, i64)> = Vec::new();
        let mut free = place(0) == 0;
        for (line, role) in self.roles.iter().enumerate() {
            match role {
                Role::Sealed { line: holder, .. } | Role::Voided { line: holder } => {
                    free &= place(line) < place(*holder);
                }
                Role::Block { block } => blocks.push((place(line), *block)),
                Role::Header | Role::Pending | Role::Void => {}
            }
        }
        blocks.sort_unstable();
        free &= blocks.is_sorted_by_key(|(_, block)| *block);
        if free {
            assert_eq!(report.errors, []);
            return;
        }
        let mut places = vec![a, b];
        for at in [a, b] {
            if let Role::Voided { line } = self.roles[at] {
                places.push(place(line));
            }
        }
        self.assert_located(&report, &[a, b], &places);
    }

    fn assert_repeat_found(&self, at: usize, to: usize) {
        let mut lines = self.lines.clone();
        lines.insert(to, self.lines[at].clone());
        let report = verify_lines(&lines);
        if matches!(self.roles[at], Role::Voided { line } if to > line) {
            // A transaction that failed may be tried again with the same id.
            assert_eq!(report.errors, []);
            return;
        }
        let original = if to <= at { at + 1 } else { at };
        self.assert_located(&report, &[at], &[to, original]);
    }

    fn assert_insertion_found(&self, to: usize, inserted: Vec<u8>) {
        let mut lines = self.lines.clone();
        lines.insert(to, inserted);
        let report = verify_lines(&lines);
        self.assert_located(&report, &[], &[to]);
    }
}

fn is_signed_well(entry: &EntryLine) -> bool {
    check_signature(Some(&keyring()), entry).problem().is_none()
}

/// Another byte than `byte`, often one that keeps the line well formed.
fn other_byte(byte: u8, numbers: &mut Numbers) -> u8 {
    let choices = match byte {
        b'0'..=b'9' => &b"0123456789ab"[..],
        b'a'..=b'f' => &b"0123456789abcdef"[..],
        b'g'..=b'z' => &b"ghijklmnopqrstuvwxyz"[..],
        _ => &b" \",:{}[]\\\n\r\0\x7f\xffaA1"[..],
    };
    let others: Vec<u8> = choices.iter().copied().filter(|choice| *choice != byte).collect();
    others[numbers.below(others.len())]
}

#[test]
fn every_byte_of_a_file_is_covered() {
    let valid = Valid::new(ledger(3, 3, 3));
    let mut numbers = Numbers(7);
    for at in 0..valid.lines.len() {
        for byte in 0..valid.lines[at].len() {
            let mut changed = valid.lines[at].clone();
            changed[byte] = other_byte(changed[byte], &mut numbers);
            assert_ne!(changed, valid.lines[at]);
            valid.assert_change_found(at, changed);
        }
    }
}

#[test]
fn every_removed_inserted_or_missing_byte_is_found() {
    let valid = Valid::generated(5);
    let mut numbers = Numbers(9);
    for at in 0..valid.lines.len() {
        for _ in 0..10 {
            let mut changed = valid.lines[at].clone();
            let byte = numbers.below(changed.len());
            match numbers.below(3) {
                0 => changed.truncate(byte),
                1 => changed.insert(byte, numbers.one_of(&["a", "0", " ", "é"]).as_bytes()[0]),
                _ => {
                    changed.remove(byte);
                }
            }
            valid.assert_change_found(at, changed);
        }
    }
}

#[test]
fn every_removed_newline_is_found() {
    let valid = Valid::generated(6);
    for at in 0..valid.lines.len() - 1 {
        let mut lines = valid.lines.clone();
        let next = lines.remove(at + 1);
        lines[at].extend_from_slice(&next);
        let report = verify_lines(&lines);
        valid.assert_located(&report, &[], &[at]);
    }
}

#[test]
fn every_dropped_line_is_found() {
    for valid in [Valid::vectors(), Valid::generated(1), Valid::generated(2)] {
        for at in 0..valid.lines.len() {
            valid.assert_drop_found(at);
        }
    }
}

#[test]
fn every_two_swapped_lines_are_found() {
    let valid = Valid::new(ledger(8, 4, 4));
    for a in 0..valid.lines.len() {
        for b in a + 1..valid.lines.len() {
            valid.assert_swap_found(a, b);
        }
    }
}

#[test]
fn every_repeated_line_is_found_wherever_it_is() {
    let valid = Valid::new(ledger(9, 4, 4));
    for at in 0..valid.lines.len() {
        for to in 0..=valid.lines.len() {
            valid.assert_repeat_found(at, to);
        }
    }
}

#[test]
fn an_inserted_line_is_found_wherever_it_is() {
    let valid = Valid::generated(10);
    let other = Header { database: "other".to_owned(), ledger_id: Uuid::from_u128(1), timestamp: timestamp(1) };
    let void = Void { entry_ids: vec![Uuid::from_u128(1)], reason: String::new(), timestamp: timestamp(1) };
    let lines = [&b""[..], b"{}", b"garbage", b"\xff\xfe", &other.line(), &void.line()];
    for to in 1..=valid.lines.len() {
        for line in lines {
            valid.assert_insertion_found(to, line.to_vec());
        }
    }
}

#[test]
fn a_forged_block_is_found_wherever_it_is() {
    let valid = Valid::generated(11);
    let mut last = None;
    for to in 1..=valid.lines.len() {
        if let Record::Block(block) = Record::parse(&valid.lines[to - 1]).unwrap() {
            last = Some(block);
        }
        let Some(block) = &last else { continue };
        let mut forged = block.header.clone();
        forged.block_number += 1;
        forged.previous_hash = block.header.block_hash.clone();
        forged.tree_size += forged.data_count;
        forged.block_hash = forged.compute_hash();
        valid.assert_insertion_found(to, forged.line(&block.entry_ids));
    }
}

#[test]
fn an_entry_added_to_a_file_is_pending() {
    let valid = Valid::generated(12);
    let added = entry(u64::MAX, &keyring());
    for to in 1..=valid.lines.len() {
        let mut lines = valid.lines.clone();
        lines.insert(to, added.line());
        let report = verify_lines(&lines);
        assert_eq!(report.errors, []);
        assert_eq!(report.pending.get(&added.entry_id).unwrap().line_number, to as u64 + 1);
    }
}

#[test]
fn a_changed_entry_is_one_problem_that_names_its_block() {
    let valid = Valid::vectors();
    for (at, role) in valid.roles.iter().enumerate() {
        let Role::Sealed { block, .. } = role else {
            continue;
        };
        let text = String::from_utf8(valid.lines[at].clone()).unwrap();
        let mut lines = valid.lines.clone();
        lines[at] = text.replace("\"scope\": ", "\"scope\": [1], \"t\": ").into_bytes();
        assert_ne!(lines[at], valid.lines[at]);
        let report = verify_lines(&lines);
        assert_eq!(report.error_count, 1);
        assert_eq!(report.errors[0].problem, ProblemKind::TreeRootMismatch);
        assert_eq!(report.errors[0].block_number, Some(*block));
    }
}

#[test]
fn a_changed_data_hash_of_a_signed_entry_names_the_entry() {
    let valid = Valid::vectors();
    let at = valid.lines.iter().position(|line| line.windows(9).any(|part| part == b"\"default\"")).unwrap();
    let mut lines = valid.lines.clone();
    lines[at][16] ^= 1;
    let report = verify_lines(&lines);
    let kinds: Vec<_> = report.errors.iter().map(|error| error.problem).collect();
    assert_eq!(kinds, [ProblemKind::SignatureInvalid, ProblemKind::MerkleRootMismatch]);
    let first = &report.errors[0];
    assert_eq!((first.block_number, first.leaf_index, first.line_number), (Some(1), Some(0), Some(2)));
    assert!(first.detail.starts_with("line 2: "));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_change_planted_anywhere_in_any_file_is_found_and_located(
        seed in 100u64..100_000, at: prop::sample::Index, to: prop::sample::Index, byte: prop::sample::Index,
    ) {
        let valid = Valid::generated(seed);
        let mut numbers = Numbers(seed);
        let (at, to) = (at.index(valid.lines.len()), to.index(valid.lines.len()));
        let mut changed = valid.lines[at].clone();
        let byte = byte.index(changed.len());
        changed[byte] = other_byte(changed[byte], &mut numbers);
        valid.assert_change_found(at, changed);
        valid.assert_drop_found(at);
        valid.assert_repeat_found(at, to);
        if at != to {
            valid.assert_swap_found(at.min(to), at.max(to));
        }
    }
}
