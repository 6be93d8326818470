//! An entry of a block, as much of it as verification needs.

use super::signatures::SignatureCheck;
use crate::ledger::{parse_hash, to_hex, Hash};
use std::borrow::Cow;
use uuid::Uuid;

/// What verification needs to know of an entry in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedEntry {
    pub entry_id: Uuid,
    /// The 0-based position in the log tree.
    pub leaf_index: i64,
    /// The block that the entry itself names.
    pub block_number: i64,
    /// As recorded.
    pub data_hash: DataHash,
    /// Of the entry's line.
    pub leaf_hash: Hash,
    /// 1-based line of the file, if that is where the entry is from.
    pub line_number: Option<u64>,
    pub signature: SignatureCheck,
}

/// A data hash as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataHash {
    Hash(Hash),
    /// Not 64 lower-case hex digits: only an attacker who changed a table can have put it there.
    Other(Box<str>),
}

impl DataHash {
    pub fn of(text: &str) -> Self {
        parse_hash(text).map_or_else(|| DataHash::Other(text.into()), DataHash::Hash)
    }

    /// The text that this is made of.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            DataHash::Hash(hash) => Cow::Owned(to_hex(hash)),
            DataHash::Other(text) => Cow::Borrowed(text),
        }
    }

    pub(super) fn hash(&self) -> Option<&Hash> {
        match self {
            DataHash::Hash(hash) => Some(hash),
            DataHash::Other(_) => None,
        }
    }
}
