//! A block of the tables beside the same block of the file.

use super::file::FileBlock;
use super::problem::{Findings, Problem, ProblemKind, Source};
use super::sealed::SealedEntry;
use crate::ledger::block::BlockHeader;
use std::borrow::Cow;
use std::cmp::Ordering;

/// Reports what differs between a block in the database and the block of the same number in the file: one problem for
/// the block's own fields, naming them, and one for each entry. `postgres` is the header and the entries in leaf order.
pub fn compare_blocks(postgres: (&BlockHeader, &[SealedEntry]), file: &FileBlock, findings: &mut Findings<'_>) {
    let (header, entries) = postgres;
    let fields = differing_fields(header, &file.header);
    if !fields.is_empty() {
        let detail = format!("the database and the file differ: {}", fields.join("; "));
        let problem = Problem::new(Source::File, ProblemKind::BlockDiffers, detail);
        findings.report(problem.in_block(header.block_number).on_line(file.line_number));
    }
    compare_entries(header.block_number, entries, &file.entries, findings);
}

fn differing_fields(postgres: &BlockHeader, file: &BlockHeader) -> Vec<String> {
    let fields = |block: &BlockHeader| {
        [
            ("block_number", block.block_number.to_string()),
            ("previous_hash", block.previous_hash.clone()),
            ("block_hash", block.block_hash.clone()),
            ("merkle_root", block.merkle_root.clone()),
            ("timestamp", block.timestamp.to_string()),
            ("data_count", block.data_count.to_string()),
            ("tree_size", block.tree_size.to_string()),
            ("tree_root", block.tree_root.clone()),
        ]
    };
    if postgres == file {
        return Vec::new();
    }
    let pairs = fields(postgres).into_iter().zip(fields(file));
    pairs
        .filter(|((_, ours), (_, theirs))| ours != theirs)
        .map(|((name, ours), (_, theirs))| format!("{name} {ours} and {theirs}"))
        .collect()
}

/// Walks both lists by leaf index.
fn compare_entries(
    block_number: i64,
    mut postgres: &[SealedEntry],
    mut file: &[SealedEntry],
    findings: &mut Findings<'_>,
) {
    let mut report = |kind, entry: &SealedEntry, line_number: Option<u64>, detail: &str| {
        let problem = Problem::new(Source::File, kind, detail)
            .in_block(block_number)
            .at_leaf(entry.leaf_index)
            .of_entry(entry.entry_id)
            .on_line(line_number);
        findings.report(problem);
    };
    while let Some(order) = order_of_next(postgres, file) {
        match order {
            Ordering::Less => {
                let detail = "the entry is in the database and not in the file";
                report(ProblemKind::EntryNotInFile, &postgres[0], None, detail);
                postgres = &postgres[1..];
            }
            Ordering::Greater => {
                let detail = "the entry is in the file and not in the database";
                let line_number = file[0].line_number;
                report(ProblemKind::EntryNotInDatabase, &file[0], line_number, detail);
                file = &file[1..];
            }
            Ordering::Equal => {
                let (ours, theirs) = (&postgres[0], &file[0]);
                if let Some(detail) = difference(ours, theirs) {
                    report(ProblemKind::EntryDiffers, ours, theirs.line_number, &detail);
                }
                (postgres, file) = (&postgres[1..], &file[1..]);
            }
        }
    }
}

/// Which list has the next leaf: less if the database alone has it, equal if both do. `None` at the end of both.
fn order_of_next(postgres: &[SealedEntry], file: &[SealedEntry]) -> Option<Ordering> {
    match (postgres.first(), file.first()) {
        (None, None) => None,
        (Some(_), None) => Some(Ordering::Less),
        (None, Some(_)) => Some(Ordering::Greater),
        (Some(ours), Some(theirs)) => Some(ours.leaf_index.cmp(&theirs.leaf_index)),
    }
}

/// How two entries at the same leaf differ.
fn difference(ours: &SealedEntry, theirs: &SealedEntry) -> Option<Cow<'static, str>> {
    if ours.entry_id != theirs.entry_id {
        return Some(format!("the file has entry {} here", theirs.entry_id).into());
    }
    let is_other = ours.leaf_hash != theirs.leaf_hash;
    is_other.then(|| "the entry is not the same in the database and in the file".into())
}
