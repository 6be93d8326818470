//! The log tree as it is stored: upper nodes come from `ledger.log_nodes`, the lowest levels are recomputed from
//! entries.

use super::leaves::Leaves;
use super::table_blocks::{sealed_entry, Buffers};
use crate::ledger::log_tree::{self, LogTree, Nodes, STORED_LEVEL};
use crate::ledger::{parse_hash, Hash};
use crate::postgres::spi;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};

/// Leaves under one stored node of the lowest stored level.
const GROUP: u64 = 1 << STORED_LEVEL;

/// A node that should be stored and is not, or whose entries are not all there.
#[derive(Debug, PartialEq, Eq)]
pub struct MissingNode;

/// How many groups of leaves to keep: that takes two megabytes.
const MAX_GROUPS: usize = 256;

/// Reads perfect nodes of the log tree.
#[derive(Default)]
pub struct StoredNodes {
    /// The leaves of groups that were read. A proof asks for several nodes of one group, and so do proofs of
    /// neighbouring entries.
    groups: RefCell<HashMap<u64, Vec<Hash>>>,
}

impl Nodes for StoredNodes {
    type Error = MissingNode;

    fn node(&self, level: u8, index: u64) -> Result<Hash, MissingNode> {
        if level >= STORED_LEVEL {
            return stored_node(level, index);
        }
        let first = index << level;
        let count = 1usize << level;
        let number = first / GROUP;
        let mut groups = self.groups.borrow_mut();
        if groups.len() >= MAX_GROUPS && !groups.contains_key(&number) {
            groups.clear();
        }
        let leaves = groups.entry(number).or_insert_with(|| leaf_hashes(number * GROUP, (number + 1) * GROUP));
        let from = (first % GROUP) as usize;
        let leaves = leaves.get(from..from + count).ok_or(MissingNode)?;
        let mut tree = LogTree::new();
        leaves.iter().for_each(|leaf| tree.push(*leaf, |_, _, _| {}));
        Ok(tree.root())
    }
}

/// Read as of now, as leaves are. A node never changes.
fn stored_node(level: u8, index: u64) -> Result<Hash, MissingNode> {
    let mut hash = None;
    spi::for_each_as_of_now(
        "SELECT encode(hash, 'hex') FROM ledger.log_nodes WHERE level = $1::smallint AND node_index = $2",
        &[i64::from(level).into(), (index as i64).into()],
        |row| hash = row.get::<String>(0).and_then(|hash| parse_hash(&hash)),
    );
    hash.ok_or(MissingNode)
}

/// Nodes read at once.
const NODES_AHEAD: usize = 500;

/// Reads stored nodes many at once, for a caller that asks for the nodes of a level in order.
#[derive(Default)]
pub struct NodesInOrder {
    /// By level: nodes that were read, but not asked for yet.
    levels: HashMap<u8, VecDeque<(i64, Option<Hash>)>>,
}

impl NodesInOrder {
    pub fn node(&mut self, level: u8, index: u64) -> Result<Hash, MissingNode> {
        let index = i64::try_from(index).map_err(|_| MissingNode)?;
        let nodes = self.levels.entry(level).or_default();
        let passed = nodes.iter().take_while(|(number, _)| *number < index).count();
        nodes.drain(..passed);
        if nodes.front().is_none_or(|(number, _)| *number != index) {
            // The node may have been stored since.
            *nodes = nodes_from(level, index);
        }
        let node = nodes.front().filter(|(number, _)| *number == index);
        node.and_then(|(_, hash)| *hash).ok_or(MissingNode)
    }
}

fn nodes_from(level: u8, index: i64) -> VecDeque<(i64, Option<Hash>)> {
    let mut nodes = VecDeque::with_capacity(NODES_AHEAD);
    spi::for_each(
        "SELECT node_index, encode(hash, 'hex') FROM ledger.log_nodes \
         WHERE level = $1::smallint AND node_index >= $2 ORDER BY node_index LIMIT $3",
        &[i64::from(level).into(), index.into(), (NODES_AHEAD as i64).into()],
        |row| {
            let hash = row.get::<String>(1).and_then(|hash| parse_hash(&hash));
            nodes.extend(row.get::<i64>(0).map(|number| (number, hash)));
        },
    );
    nodes
}

/// The leaf hashes of the entries with `from <= leaf_index < to`, as far as they exist.
fn leaf_hashes(from: u64, to: u64) -> Vec<Hash> {
    let mut hashes = Vec::with_capacity((to - from) as usize);
    let mut buffers = Buffers::default();
    Leaves::new().each(from as i64, to as i64, |row| hashes.push(sealed_entry(row, None, &mut buffers).leaf_hash));
    hashes
}

/// The log tree of `size` leaves; `None` if a part of it is missing.
pub fn tree_of_size(size: i64) -> Option<LogTree> {
    let size = u64::try_from(size).ok()?;
    let nodes = StoredNodes::default();
    let frontier: Result<Vec<Hash>, MissingNode> =
        log_tree::frontier_nodes(size).map(|(level, index)| nodes.node(level, index)).collect();
    LogTree::from_frontier(size, frontier.ok()?)
}
