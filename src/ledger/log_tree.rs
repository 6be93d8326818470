//! The log tree: the RFC 6962 Merkle tree over all sealed entries, in leaf order.
//!
//! A leaf is SHA-256(0x00 ‖ entry line), a node SHA-256(0x01 ‖ left ‖ right). The tree grows from its frontier, the
//! roots of its perfect subtrees, so appending needs nothing else of it. Proofs are made and checked by `tlog_tiles`,
//! which asks for perfect nodes by level and index and so fits a table of them; growing is ours, because that crate
//! grows a tree by reading back nodes that the frontier already holds.
//!
//! Proofs are lists of hashes in the order of RFC 6962, sections 2.1.1 and 2.1.2, so any Certificate Transparency tool
//! can check them.

use super::{sha256, Hash};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::fmt;
use tlog_tiles::tlog;

/// Perfect nodes of this level and above are stored, one per 256 leaves and up, so that a proof reads at most 255 leaves
/// to compute what is below.
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

/// A frontier has one node for each set bit of the tree's size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontierError {
    pub size: u64,
    pub nodes: usize,
}

impl fmt::Display for FrontierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FrontierError { size, nodes } = self;
        let expected = size.count_ones();
        write!(f, "a log tree of {size} leaves has a frontier of {expected} nodes, not {nodes}")
    }
}

impl std::error::Error for FrontierError {}

impl LogTree {
    /// The tree without leaves.
    pub fn new() -> Self {
        LogTree::default()
    }

    /// The tree of `size` leaves whose perfect subtrees have these roots, largest first.
    ///
    /// # Errors
    /// If there is not one node for each set bit of `size`.
    pub fn from_frontier(size: u64, frontier: Vec<Hash>) -> Result<Self, FrontierError> {
        if frontier.len() != size.count_ones() as usize {
            let nodes = frontier.len();
            return Err(FrontierError { size, nodes });
        }
        Ok(LogTree { size, frontier })
    }

    /// The roots of the perfect subtrees, largest first.
    pub fn frontier(&self) -> &[Hash] {
        &self.frontier
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf, and reports each perfect node this completes as level, index within the level, and hash. The leaf
    /// itself is level 0.
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

/// Why there is no proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProofError<E> {
    /// The tree does not have the leaf, or the older tree is not a part of the newer.
    OutOfRange,
    /// A node could not be read.
    Node(E),
}

impl<E: fmt::Display> fmt::Display for ProofError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProofError::OutOfRange => f.write_str("outside the log tree"),
            ProofError::Node(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for ProofError<E> {}

/// Proves that leaf `index` is in the tree of the first `size` leaves.
///
/// # Errors
/// If it is not, or a node cannot be read.
pub fn inclusion_proof<N: Nodes>(index: u64, size: u64, nodes: &N) -> Result<Vec<Hash>, ProofError<N::Error>> {
    if index >= size || !is_proper_size(size) {
        return Err(ProofError::OutOfRange);
    }
    prove(nodes, |reader| tlog::prove_record(size, index, reader))
}

/// Proves that the tree of the first `new` leaves extends that of the first `old`. The proof that it extends the empty
/// tree is empty.
///
/// # Errors
/// If `old` is larger than `new`, or a node cannot be read.
pub fn consistency_proof<N: Nodes>(old: u64, new: u64, nodes: &N) -> Result<Vec<Hash>, ProofError<N::Error>> {
    if old > new || !is_proper_size(new) {
        return Err(ProofError::OutOfRange);
    }
    if old == 0 {
        return Ok(Vec::new());
    }
    prove(nodes, |reader| tlog::prove_tree(new, old, reader))
}

/// Whether `proof` shows that the tree of `size` leaves with this `root` has `leaf` at `index`.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    let proof = to_tlog(proof);
    is_proper_size(size) && tlog::check_record(&proof, size, tlog::Hash(*root), index, tlog::Hash(*leaf)).is_ok()
}

/// Whether `proof` shows that the tree of `new` leaves with `new_root` extends that of `old` leaves with `old_root`.
pub fn verify_consistency(old: u64, new: u64, old_root: &Hash, new_root: &Hash, proof: &[Hash]) -> bool {
    if old == 0 {
        return proof.is_empty() && *old_root == sha256(b"") && (new > 0 || new_root == old_root);
    }
    let proof = to_tlog(proof);
    let (old_root, new_root) = (tlog::Hash(*old_root), tlog::Hash(*new_root));
    is_proper_size(new) && tlog::check_tree(&proof, new, new_root, old, old_root).is_ok()
}

/// Sizes are counted in signed 64 bits everywhere else; larger ones would overflow the node numbers of `tlog_tiles`.
fn is_proper_size(size: u64) -> bool {
    i64::try_from(size).is_ok()
}

fn to_tlog(proof: &[Hash]) -> Vec<tlog::Hash> {
    proof.iter().map(|hash| tlog::Hash(*hash)).collect()
}

fn prove<N: Nodes>(
    nodes: &N,
    make: impl FnOnce(&Reader<'_, N>) -> Result<Vec<tlog::Hash>, tlog::Error>,
) -> Result<Vec<Hash>, ProofError<N::Error>> {
    let reader = Reader { nodes, error: RefCell::new(None) };
    match make(&reader) {
        Ok(proof) => Ok(proof.into_iter().map(|hash| hash.0).collect()),
        Err(_) => Err(reader.error.into_inner().map_or(ProofError::OutOfRange, ProofError::Node)),
    }
}

/// Reads nodes for `tlog_tiles`, and keeps the error that its own error type cannot carry.
struct Reader<'a, N: Nodes> {
    nodes: &'a N,
    error: RefCell<Option<N::Error>>,
}

impl<N: Nodes> tlog::HashReader for Reader<'_, N> {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog::Hash>, tlog::Error> {
        let read = |index: &u64| {
            let (level, index) = tlog::split_stored_hash_index(*index);
            self.nodes.node(level, index).map(tlog::Hash)
        };
        let hashes: Result<Vec<_>, N::Error> = indexes.iter().map(read).collect();
        hashes.map_err(|error| {
            *self.error.borrow_mut() = Some(error);
            tlog::Error::IndexesNotInTree
        })
    }
}

#[cfg(test)]
mod tests;
