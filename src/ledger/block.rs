//! Blocks: how one is made, hashed and written.
//!
//! A block names its predecessor by hash, so a chain of blocks has one beginning. The hash covers every field of the
//! block, and through `tree_root` every field of every entry up to it.

use super::canonical_json::write_string;
use super::log_tree::LogTree;
use super::merkle::Text;
use super::timestamp::{write_timestamp, Timestamp};
use super::{merkle, sha256_hex, to_hex, Hash};
use uuid::Uuid;

/// What the first block states as the hash of its predecessor.
pub const GENESIS_PREVIOUS_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The most entries that a block can have. A header that claims more was changed.
pub const MAX_ENTRIES: i64 = 10_000;

/// Everything that a block states except the ids of its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockHeader {
    /// From 1, without gaps.
    pub block_number: i64,
    /// The predecessor's `block_hash`.
    pub previous_hash: String,
    /// See [`BlockHeader::compute_hash`].
    pub block_hash: String,
    /// The [Merkle root](merkle::root) over the entries' data hashes, in leaf order.
    pub merkle_root: String,
    pub timestamp: Timestamp,
    /// The number of entries, 1 to [`MAX_ENTRIES`].
    pub data_count: i64,
    /// The number of leaves of the log tree after this block.
    pub tree_size: i64,
    /// The root of the log tree after this block.
    pub tree_root: String,
}

impl BlockHeader {
    /// The hash that the other fields give: SHA-256 of the canonical JSON of
    /// `{block_number, data_count, merkle_root, previous_hash, timestamp, tree_root, tree_size}`.
    pub fn compute_hash(&self) -> String {
        let mut out = Vec::with_capacity(400);
        out.push(b'{');
        self.write_counts(&mut out);
        self.write_roots(&mut out);
        out.extend_from_slice(br#", "timestamp": "#);
        write_timestamp(&mut out, self.timestamp);
        self.write_tree(&mut out);
        sha256_hex(&out)
    }

    /// The block's line in a ledger file, without its newline. `entry_ids` are in leaf order.
    pub fn line(&self, entry_ids: &[Uuid]) -> Vec<u8> {
        let mut out = Vec::with_capacity(600 + 40 * entry_ids.len());
        out.extend_from_slice(br#"{"block_hash": "#);
        write_string(&mut out, &self.block_hash);
        out.extend_from_slice(b", ");
        self.write_counts(&mut out);
        out.extend_from_slice(br#", "entry_ids": "#);
        write_uuids(&mut out, entry_ids);
        self.write_roots(&mut out);
        out.extend_from_slice(br#", "record_type": "block", "timestamp": "#);
        write_timestamp(&mut out, self.timestamp);
        self.write_tree(&mut out);
        out
    }

    fn write_counts(&self, out: &mut Vec<u8>) {
        let (number, count) = (self.block_number, self.data_count);
        out.extend_from_slice(format!(r#""block_number": {number}, "data_count": {count}"#).as_bytes());
    }

    fn write_roots(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#", "merkle_root": "#);
        write_string(out, &self.merkle_root);
        out.extend_from_slice(br#", "previous_hash": "#);
        write_string(out, &self.previous_hash);
    }

    fn write_tree(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#", "tree_root": "#);
        write_string(out, &self.tree_root);
        out.extend_from_slice(format!(r#", "tree_size": {}}}"#, self.tree_size).as_bytes());
    }
}

/// Makes the next block. Blocks are made nowhere else.
///
/// `previous` is the last block, `None` for the first; `tree` is the log tree after it, to which the entries' leaves
/// are appended. `entries` are leaf hash and data hash, in leaf order. `completed` gets each perfect node of the tree
/// that this completes, as [`LogTree::push`] reports them.
pub fn seal<T: Text + Copy>(
    previous: Option<&BlockHeader>,
    tree: &mut LogTree,
    entries: &[(Hash, T)],
    timestamp: Timestamp,
    mut completed: impl FnMut(u8, u64, Hash),
) -> BlockHeader {
    for (leaf, _) in entries {
        tree.push(*leaf, &mut completed);
    }
    let data_hashes: Vec<T> = entries.iter().map(|(_, hash)| *hash).collect();
    let mut block = BlockHeader {
        block_number: previous.map_or(1, |block| block.block_number + 1),
        previous_hash: previous.map_or(GENESIS_PREVIOUS_HASH, |block| &block.block_hash).to_owned(),
        block_hash: String::new(),
        merkle_root: merkle::root(&data_hashes),
        timestamp,
        data_count: entries.len() as i64,
        tree_size: tree.size() as i64,
        tree_root: to_hex(&tree.root()),
    };
    block.block_hash = block.compute_hash();
    block
}

pub(super) fn write_uuid(out: &mut Vec<u8>, id: Uuid) {
    out.push(b'"');
    out.extend_from_slice(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
    out.push(b'"');
}

pub(super) fn write_uuids(out: &mut Vec<u8>, ids: &[Uuid]) {
    out.push(b'[');
    for (index, id) in ids.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        write_uuid(out, *id);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::log_tree::leaf_hash;
    use crate::ledger::record::{EntryLine, Record};
    use crate::ledger::test_support::vector_text;
    use std::collections::HashMap;

    /// Seals what the lines of the vector file say was sealed, and compares with what they say came out.
    #[test]
    fn the_vector_file_is_sealed_to_the_same_lines() {
        let text = vector_text("ledger.jsonl");
        let mut entries: HashMap<Uuid, (Hash, EntryLine)> = HashMap::new();
        let mut tree = LogTree::new();
        let mut previous: Option<BlockHeader> = None;
        let mut blocks = 0;
        for line in text.lines() {
            match Record::parse(line.as_bytes()).unwrap() {
                Record::Entry(entry) => {
                    entries.insert(entry.entry_id, (leaf_hash(line.as_bytes()), entry));
                }
                Record::Block(block) => {
                    let sealed: Vec<(Hash, &str)> =
                        block.entry_ids.iter().map(|id| (entries[id].0, entries[id].1.data_hash)).collect();
                    let timestamp = block.header.timestamp;
                    let made = seal(previous.as_ref(), &mut tree, &sealed, timestamp, |_, _, _| {});
                    assert_eq!(made, block.header);
                    assert_eq!(made.line(&block.entry_ids), line.as_bytes());
                    previous = Some(made);
                    blocks += 1;
                }
                Record::Ledger(_) | Record::Void(_) => {}
            }
        }
        assert_eq!(blocks, 4);
    }
}
