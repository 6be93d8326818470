use super::*;
use crate::ledger::test_support::vectors;
use crate::ledger::{parse_hash, sha256};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::HashMap;

/// RFC 6962, section 2.1, word for word.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha256(b""),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

/// RFC 6962, section 2.1.1, word for word.
fn naive_inclusion(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut path, sibling) = if index < left.len() {
        (naive_inclusion(index, left), right)
    } else {
        (naive_inclusion(index - left.len(), right), left)
    };
    path.push(naive_root(sibling));
    path
}

fn leaves(count: usize) -> Vec<Hash> {
    (0..count).map(|n| leaf_hash(format!("entry {n}").as_bytes())).collect()
}

#[derive(Default)]
struct Table(HashMap<(u8, u64), Hash>);

impl Nodes for Table {
    type Error = (u8, u64);

    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        self.0.get(&(level, index)).copied().ok_or((level, index))
    }
}

/// Proves that the tree of the first `new` leaves extends that of the first `old`: RFC 6962, section 2.1.2. The proof
/// that it extends the empty tree is empty. No caller has two trees to compare; but the stored nodes must be those of
/// which any tool makes such a proof.
fn consistency_proof(old: u64, new: u64, nodes: &Table) -> Option<Vec<Hash>> {
    match old {
        0 => Some(Vec::new()),
        _ => tlog::prove_tree(new, old, &Reader(nodes)).ok().map(from_tlog),
    }
}

/// Whether `proof` shows that the tree of `new` leaves with `new_root` extends that of `old` leaves with `old_root`.
fn verify_consistency(old: u64, new: u64, old_root: &Hash, new_root: &Hash, proof: &[Hash]) -> bool {
    if old == 0 {
        return proof.is_empty() && *old_root == sha256(b"") && (new > 0 || new_root == old_root);
    }
    let (old_root, new_root) = (tlog::Hash(*old_root), tlog::Hash(*new_root));
    is_proper_size(new) && tlog::check_tree(&to_tlog(proof), new, new_root, old, old_root).is_ok()
}

fn grown(leaves: &[Hash]) -> (LogTree, Table) {
    let (mut tree, mut table) = (LogTree::new(), Table::default());
    for leaf in leaves {
        tree.push(*leaf, |level, index, hash| {
            let repeated = table.0.insert((level, index), hash);
            assert!(repeated.is_none(), "a node is reported once");
        });
    }
    (tree, table)
}

fn hashes(list: &Value) -> Vec<Hash> {
    let list = list.as_array().unwrap();
    list.iter().map(|hash| parse_hash(hash.as_str().unwrap()).unwrap()).collect()
}

#[test]
fn the_vectors_have_their_roots_and_proofs() {
    let vectors = vectors("log_tree.json");
    let lines = vectors["lines"].as_array().unwrap();
    let leaves: Vec<Hash> = lines.iter().map(|line| leaf_hash(line.as_str().unwrap().as_bytes())).collect();
    let roots = hashes(&vectors["roots"]);
    assert_eq!(roots.len(), leaves.len() + 1);
    for (size, root) in roots.iter().enumerate() {
        assert_eq!(grown(&leaves[..size]).0.root(), *root);
    }
    let (_, table) = grown(&leaves);
    let number = |value: &Value| value.as_u64().unwrap();
    for vector in vectors["inclusion"].as_array().unwrap() {
        let (index, size) = (number(&vector["index"]), number(&vector["size"]));
        let proof = hashes(&vector["proof"]);
        assert_eq!(inclusion_proof(index, size, &table).as_ref(), Some(&proof));
        let (leaf, root) = (&leaves[index as usize], &roots[size as usize]);
        assert!(verify_inclusion(leaf, index, size, &proof, root));
    }
    for vector in vectors["consistency"].as_array().unwrap() {
        let (old, new) = (number(&vector["old"]), number(&vector["new"]));
        let proof = hashes(&vector["proof"]);
        assert_eq!(consistency_proof(old, new, &table).as_ref(), Some(&proof));
        let (old_root, new_root) = (&roots[old as usize], &roots[new as usize]);
        assert!(verify_consistency(old, new, old_root, new_root, &proof));
    }
}

#[test]
fn trees_of_every_size_have_the_roots_and_nodes_of_the_rfc() {
    let leaves = leaves(321);
    let (_, table) = grown(&leaves);
    for ((level, index), hash) in &table.0 {
        let first = (index << level) as usize;
        assert_eq!(*hash, naive_root(&leaves[first..first + (1 << level)]));
    }
    let mut tree = LogTree::new();
    for size in 0..=leaves.len() {
        assert_eq!(tree.root(), naive_root(&leaves[..size]), "size {size}");
        assert_eq!(tree.size(), size as u64);
        let nodes = frontier_nodes(size as u64);
        let frontier: Vec<Hash> = nodes.map(|(level, index)| table.0[&(level, index)]).collect();
        assert_eq!(tree.frontier(), frontier);
        if let Some(leaf) = leaves.get(size) {
            tree.push(*leaf, |_, _, _| {});
        }
    }
}

#[test]
fn a_tree_resumed_at_any_size_grows_to_the_same_tree() {
    let leaves = leaves(300);
    let (whole, table) = grown(&leaves);
    for size in 0..=leaves.len() {
        let (part, _) = grown(&leaves[..size]);
        let mut resumed = LogTree::from_frontier(size as u64, part.frontier().to_vec()).unwrap();
        for leaf in &leaves[size..] {
            resumed.push(*leaf, |level, index, hash| assert_eq!(table.0[&(level, index)], hash));
        }
        assert_eq!(resumed, whole);
    }
    assert_eq!(LogTree::from_frontier(5, vec![sha256(b"")]), None);
}

#[test]
fn every_leaf_of_every_tree_is_proved_and_no_other_is() {
    let leaves = leaves(302);
    let (_, table) = grown(&leaves);
    let sizes = (1..80).chain([127, 128, 129, 255, 256, 257, 300, 302]);
    for size in sizes {
        let root = naive_root(&leaves[..size]);
        for index in 0..size {
            let proof = inclusion_proof(index as u64, size as u64, &table).unwrap();
            assert_eq!(proof, naive_inclusion(index, &leaves[..size]));
            let verify =
                |leaf: usize, index: usize| verify_inclusion(&leaves[leaf], index as u64, size as u64, &proof, &root);
            assert!(verify(index, index));
            assert!(!verify((index + 1) % leaves.len(), index));
            assert!(!verify(index, size));
            assert!(size == 1 || !verify(index, (index + 1) % size));
        }
    }
}

#[test]
fn a_tree_extends_each_of_its_beginnings_and_no_other_tree() {
    let leaves = leaves(140);
    let (_, table) = grown(&leaves);
    for new in [0, 1, 2, 3, 7, 8, 64, 65, 127, 140] {
        let new_root = naive_root(&leaves[..new]);
        for old in 0..=new {
            let old_root = naive_root(&leaves[..old]);
            let proof = consistency_proof(old as u64, new as u64, &table).unwrap();
            let verify = |old_root, new_root| verify_consistency(old as u64, new as u64, old_root, new_root, &proof);
            assert!(verify(&old_root, &new_root), "{old} to {new}");
            let other = sha256(b"other");
            assert!(!verify(&other, &new_root));
            assert!(old == 0 && new > 0 || !verify(&old_root, &other));
        }
    }
    assert_eq!(consistency_proof(3, 2, &table), None);
}

#[test]
fn a_changed_proof_proves_nothing() {
    let leaves = leaves(100);
    let (tree, table) = grown(&leaves);
    let proof = inclusion_proof(37, 100, &table).unwrap();
    let verify = |proof: &[Hash]| verify_inclusion(&leaves[37], 37, 100, proof, &tree.root());
    assert!(verify(&proof));
    for at in 0..proof.len() {
        let mut changed = proof.clone();
        changed[at][0] ^= 1;
        assert!(!verify(&changed));
        changed.remove(at);
        assert!(!verify(&changed));
    }
    let longer = [&proof[..], &[sha256(b"")]].concat();
    assert!(!verify(&longer));
    assert!(!verify(&[]));
}

#[test]
fn what_is_outside_the_tree_or_under_an_unread_node_has_no_proof() {
    let (_, mut table) = grown(&leaves(8));
    table.0.remove(&(2, 1));
    assert_eq!(inclusion_proof(0, 8, &table), None);
    assert!(inclusion_proof(4, 8, &table).is_some());
    assert_eq!(inclusion_proof(8, 8, &table), None);
    assert_eq!(inclusion_proof(0, u64::MAX, &table), None);
}

proptest! {
    #[test]
    fn no_proof_however_odd_makes_verification_fail_to_answer(
        index: u64, old: u64, size: u64,
        proof in prop::collection::vec(any::<Hash>(), 0..70), hash: Hash, root: Hash,
    ) {
        prop_assert!(!verify_inclusion(&hash, index, size, &proof, &root));
        prop_assert!(!verify_consistency(old.max(1), size, &hash, &root, &proof));
    }
}
