//! The log tree: the RFC 6962 Merkle tree over all sealed entries, in leaf order.
//!
//! A leaf is SHA-256(0x00 ‖ entry line), a node SHA-256(0x01 ‖ left ‖ right). The tree grows from its frontier, the
//! roots of its perfect subtrees, so appending needs nothing else of it. Proofs are made and checked by `tlog_tiles`,
//! which asks for perfect nodes by level and index and so fits a table of them; growing is ours, because that crate
//! grows a tree by reading back nodes that the frontier already holds.
//!
//! Proofs are lists of hashes in the order of RFC 6962, section 2.1.1, so any Certificate Transparency tool can check
//! them.

use super::{sha256, Hash};
use sha2::{Digest, Sha256};
use tlog_tiles::tlog;

/// Perfect nodes of this level and above are stored, one per 256 leaves and up, so that a proof reads at most 255
/// leaves to compute what is below.
pub const STORED_LEVEL: u8 = 8;

/// The hash of the leaf for an entry line (without its newline).
pub fn leaf_hash(line: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(line).finalize().into()
}

/// The hash of the node over two others.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [0; 65];
    bytes[0] = 1;
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    sha256(&bytes)
}

/// A tree that can grow, without its inner nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogTree {
    size: u64,
    /// The roots of the perfect subtrees, one for each set bit of `size`, largest first.
    frontier: Vec<Hash>,
}

impl LogTree {
    /// The tree without leaves.
    pub fn new() -> Self {
        LogTree::default()
    }

    /// The tree of `size` leaves whose perfect subtrees have these roots, largest first. `None` if there is not one
    /// node for each set bit of `size`.
    pub fn from_frontier(size: u64, frontier: Vec<Hash>) -> Option<Self> {
        (frontier.len() == size.count_ones() as usize).then_some(LogTree { size, frontier })
    }

    /// The roots of the perfect subtrees, largest first.
    pub fn frontier(&self) -> &[Hash] {
        &self.frontier
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf, and reports each perfect node this completes as level, index within the level, and hash. The
    /// leaf itself is level 0.
    pub fn push(&mut self, leaf: Hash, mut completed: impl FnMut(u8, u64, Hash)) {
        let index = self.size;
        let mut hash = leaf;
        completed(0, index, hash);
        for level in 1..=index.trailing_ones() as u8 {
            let Some(left) = self.frontier.pop() else {
                break;
            };
            hash = node_hash(&left, &hash);
            completed(level, index >> level, hash);
        }
        self.frontier.push(hash);
        self.size += 1;
    }

    /// The root; of the empty tree, the SHA-256 of no bytes.
    pub fn root(&self) -> Hash {
        let right_to_left = self.frontier.iter().rev().copied();
        right_to_left.reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(|| sha256(b""))
    }
}

/// The level and index of each node of the frontier of a tree of `size` leaves, largest subtree first.
pub fn frontier_nodes(size: u64) -> impl Iterator<Item = (u8, u64)> {
    (0..64u8).rev().filter(move |level| size >> level & 1 == 1).map(move |level| (level, (size >> level) - 1))
}

/// Where the perfect nodes of a tree are read from.
pub trait Nodes {
    type Error;

    /// The hash of node `index` of `level`, the root over leaves `index << level .. (index + 1) << level`, all of which
    /// are in the tree that a proof is asked for.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// Proves that leaf `index` is in the tree of the first `size` leaves. `None` if it is not, or a node cannot be read.
pub fn inclusion_proof<N: Nodes>(index: u64, size: u64, nodes: &N) -> Option<Vec<Hash>> {
    if index >= size || !is_proper_size(size) {
        return None;
    }
    tlog::prove_record(size, index, &Reader(nodes)).ok().map(from_tlog)
}

/// Whether `proof` shows that the tree of `size` leaves with this `root` has `leaf` at `index`.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    let proof = to_tlog(proof);
    is_proper_size(size) && tlog::check_record(&proof, size, tlog::Hash(*root), index, tlog::Hash(*leaf)).is_ok()
}

/// Sizes are counted in signed 64 bits everywhere else; larger ones would overflow the node numbers of `tlog_tiles`.
fn is_proper_size(size: u64) -> bool {
    i64::try_from(size).is_ok()
}

fn to_tlog(proof: &[Hash]) -> Vec<tlog::Hash> {
    proof.iter().map(|hash| tlog::Hash(*hash)).collect()
}

fn from_tlog(proof: Vec<tlog::Hash>) -> Vec<Hash> {
    proof.into_iter().map(|hash| hash.0).collect()
}

/// Reads nodes for `tlog_tiles`, whose error has no room for why a node cannot be read.
struct Reader<'a, N: Nodes>(&'a N);

impl<N: Nodes> tlog::HashReader for Reader<'_, N> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog::Hash>, tlog::Error> {
        let read = |index: &u64| {
            let (level, index) = tlog::split_stored_hash_index(*index);
            self.0.node(level, index).map(tlog::Hash).map_err(|_| tlog::Error::IndexesNotInTree)
        };
        indexes.iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests;
