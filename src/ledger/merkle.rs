//! The Merkle root over the data hashes of one block.
//!
//! The hashes are used as text: a parent is the hex SHA-256 of its children's hex digits joined. The last of an odd
//! level is paired with itself. The root of no hash is the SHA-256 of the five bytes `empty`; of one hash it is that
//! hash.
//!
//! Pairing a hash with itself gives some different lists the same root, for example `[a, b, c]` and `[a, b, c, c]`, so
//! a root proves a list only together with its length. A block states its length, and the [log tree](super::log_tree)
//! does not have this weakness.

use super::pauses::Pauses;
use super::Hash;
use sha2::{Digest, Sha256};

/// Which side of its sibling a hash is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

impl Side {
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Left => "left",
            Side::Right => "right",
        }
    }

    /// `left` or `right`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "left" => Some(Side::Left),
            "right" => Some(Side::Right),
            _ => None,
        }
    }
}

/// One sibling on the way from a leaf to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofStep {
    /// The sibling's hash.
    pub hash: String,
    /// The side the sibling is on.
    pub side: Side,
}

/// The hex digits of a hash.
pub struct Digits([u8; 64]);

impl Digits {
    pub fn of(hash: &Hash) -> Self {
        let mut digits = [0; 64];
        // Infallible: 32 bytes are 64 digits.
        let _ = hex::encode_to_slice(hash, &mut digits);
        Digits(digits)
    }

    /// The text of a hash; `None` if it is of another length.
    pub fn copy(text: &str) -> Option<Self> {
        text.as_bytes().try_into().ok().map(Digits)
    }
}

/// The Merkle root of `hashes`.
pub fn root<T: Text>(hashes: &[T]) -> String {
    root_pausing(hashes, &mut || ())
}

/// As [`root`]; calls `pause` now and then, which may end it by unwinding.
pub fn root_pausing<T: Text>(hashes: &[T], pause: &mut dyn FnMut()) -> String {
    let mut pauses = Pauses::new(pause);
    match hashes {
        [] => super::sha256_hex(b"empty"),
        [only] => super::ascii_text(only.bytes().to_vec()),
        _ => {
            let mut level = parents(hashes, &mut pauses);
            while level.len() > 1 {
                level = parents(&level, &mut pauses);
            }
            text(&level[0])
        }
    }
}

/// The siblings from leaf `index` up to the root, leaf's sibling first. `None` if there is no hash with that index.
/// Calls `pause` now and then, which may end it by unwinding.
pub fn proof_pausing<S: AsRef<str>>(hashes: &[S], index: usize, pause: &mut dyn FnMut()) -> Option<Vec<ProofStep>> {
    let mut pauses = Pauses::new(pause);
    let count = hashes.len();
    if index >= count {
        return None;
    }
    let mut steps = Vec::new();
    if count > 1 {
        steps.push(sibling(hashes, index, |hash| hash.as_ref().to_owned()));
    }
    let mut level = parents(hashes, &mut pauses);
    let mut at = index / 2;
    while level.len() > 1 {
        steps.push(sibling(&level, at, text));
        level = parents(&level, &mut pauses);
        at /= 2;
    }
    Some(steps)
}

/// Whether `steps` lead from `leaf_hash` to `root`.
pub fn verify_proof(leaf_hash: &str, steps: &[ProofStep], root: &str) -> bool {
    let computed = steps.iter().fold(leaf_hash.to_owned(), |hash, step| {
        let digits = match step.side {
            Side::Left => parent(step.hash.as_bytes(), hash.as_bytes()),
            Side::Right => parent(hash.as_bytes(), step.hash.as_bytes()),
        };
        text(&digits)
    });
    computed == root
}

fn sibling<T>(level: &[T], index: usize, text: impl Fn(&T) -> String) -> ProofStep {
    let is_right = index % 2 == 1;
    let (at, side) = if is_right { (index - 1, Side::Left) } else { ((index + 1).min(level.len() - 1), Side::Right) };
    let hash = text(&level[at]);
    ProofStep { hash, side }
}

/// The level above.
fn parents<T: Text>(level: &[T], pauses: &mut Pauses<'_>) -> Vec<Digits> {
    let parent_of = |pair: &[T]| {
        pauses.step();
        parent(pair[0].bytes(), pair[pair.len() - 1].bytes())
    };
    level.chunks(2).map(parent_of).collect()
}

fn parent(left: &[u8], right: &[u8]) -> Digits {
    Digits::of(&Sha256::new().chain_update(left).chain_update(right).finalize().into())
}

fn text(digits: &Digits) -> String {
    super::ascii_text(digits.0.to_vec())
}

/// The text of a hash: the caller's at the bottom, digits above.
pub trait Text {
    fn bytes(&self) -> &[u8];
}

impl<S: AsRef<str>> Text for S {
    fn bytes(&self) -> &[u8] {
        self.as_ref().as_bytes()
    }
}

impl Text for Digits {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Text for &Digits {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::sha256_hex;

    fn hashes(count: usize) -> Vec<String> {
        (0..count).map(|n| sha256_hex(n.to_string().as_bytes())).collect()
    }

    fn proof<S: AsRef<str>>(hashes: &[S], index: usize) -> Option<Vec<ProofStep>> {
        proof_pausing(hashes, index, &mut || ())
    }

    #[test]
    fn the_caller_is_let_in_while_a_long_list_is_hashed() {
        let list = vec![sha256_hex(b"one"); 50_000];
        let mut pauses = 0;
        let expected = root(&list);
        assert_eq!(root_pausing(&list, &mut || pauses += 1), expected);
        assert!(pauses >= 10, "{pauses}");
        let mut pauses = 0;
        let steps = proof_pausing(&list, 7, &mut || pauses += 1).unwrap();
        assert!(verify_proof(&list[7], &steps, &expected) && pauses >= 10, "{pauses}");
    }

    #[test]
    fn the_vectors_have_their_roots() {
        let vectors = crate::ledger::test_support::vectors("merkle.json");
        for vector in vectors.as_array().unwrap() {
            let list = vector["hashes"].as_array().unwrap();
            let list: Vec<&str> = list.iter().map(|hash| hash.as_str().unwrap()).collect();
            assert_eq!(root(&list), vector["root"].as_str().unwrap());
        }
    }

    #[test]
    fn every_hash_of_every_list_is_proved() {
        for count in 1..70 {
            let list = hashes(count);
            let root = root(&list);
            for (index, hash) in list.iter().enumerate() {
                let steps = proof(&list, index).unwrap();
                assert!(verify_proof(hash, &steps, &root), "{index} of {count}");
                assert!(!verify_proof(&sha256_hex(b"other"), &steps, &root));
            }
        }
    }

    #[test]
    fn a_changed_proof_proves_nothing() {
        let list = hashes(13);
        let root = root(&list);
        let steps = proof(&list, 4).unwrap();
        for at in 0..steps.len() {
            let mut changed = steps.clone();
            changed[at].hash = sha256_hex(b"other");
            assert!(!verify_proof(&list[4], &changed, &root));
            changed.remove(at);
            assert!(!verify_proof(&list[4], &changed, &root));
        }
        assert!(!verify_proof(&list[4], &steps[1..], &root));
    }

    #[test]
    fn a_hash_outside_the_list_has_no_proof() {
        assert_eq!(proof(&hashes(3), 3), None);
        assert_eq!(proof::<String>(&[], 0), None);
        assert_eq!(proof(&hashes(1), 0), Some(vec![]));
    }
}
