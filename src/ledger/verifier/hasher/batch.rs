//! Some entries as tables have them, and the work on them.

use crate::ledger::jsonb;
use crate::ledger::log_tree::leaf_hash;
use crate::ledger::record::{EntryLine, Timestamp};
use crate::ledger::row_change;
use crate::ledger::signature::Keyring;
use crate::ledger::verifier::sealed::{DataHash, SealedEntry};
use crate::ledger::verifier::signatures::{SignatureCheck, SignatureClaim};
use std::borrow::Cow;
use std::sync::Arc;
use uuid::Uuid;

/// A batch is worked on when it has so many entries, or so many bytes.
const BATCH_ENTRIES: usize = 256;
const BATCH_BYTES: usize = 1 << 18;

/// An entry as a table has it.
#[derive(Debug, Clone, Copy)]
pub struct StoredEntry<'a> {
    pub entry_id: Uuid,
    pub entry_type: &'a str,
    pub data_hash: &'a str,
    pub metadata: StoredMetadata<'a>,
    pub signature: Option<&'a str>,
    pub key_id: Option<&'a str>,
    pub created_at: Timestamp,
    pub leaf_index: i64,
    pub block_number: i64,
}

#[derive(Debug, Clone, Copy)]
pub enum StoredMetadata<'a> {
    /// As it stands in the line.
    Text(&'a str),
    /// The bytes of a jsonb in UTF-8, without its varlena header.
    Jsonb(&'a [u8]),
}

/// An entry whose line is hashed, and whose signature may still have to be checked.
#[derive(Debug)]
pub struct HashedEntry {
    entry: SealedEntry,
    claim: SignatureClaim,
}

impl HashedEntry {
    pub fn leaf_index(&self) -> i64 {
        self.entry.leaf_index
    }

    pub fn block_number(&self) -> i64 {
        self.entry.block_number
    }

    /// Checks the signature. `other` may be the same entry in another place, where it was checked with the same keys:
    /// entries with the same line have the same signature of the same data_hash.
    pub fn checked(mut self, other: Option<&SealedEntry>, keyring: Option<&Keyring>) -> SealedEntry {
        self.entry.signature = match other.filter(|other| other.leaf_hash == self.entry.leaf_hash) {
            Some(same) => same.signature,
            None => self.claim.check(keyring, &self.entry.data_hash.text()),
        };
        self.entry
    }
}

/// Renders a jsonb that [`jsonb::write_canonical`] does not.
pub type Render = fn(&[u8]) -> String;

/// What is done with each entry.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) keyring: Option<Arc<Keyring>>,
    /// Whether signatures are checked at once.
    pub(super) checks_signatures: bool,
}

/// Some entries, and what was made of the first of them.
#[derive(Default)]
pub(super) struct Batch {
    texts: String,
    jsonb: Vec<u8>,
    items: Vec<Item>,
    pub(super) made: Vec<HashedEntry>,
    next: Position,
}

/// Where the bytes of an entry begin.
#[derive(Default, Clone, Copy)]
struct Position {
    text: usize,
    jsonb: usize,
}

/// An entry; of what lies in the batch's buffers, the length.
struct Item {
    entry_id: Uuid,
    entry_type: usize,
    data_hash: usize,
    metadata: Length,
    signature: Option<usize>,
    key_id: Option<usize>,
    created_at: Timestamp,
    leaf_index: i64,
    block_number: i64,
}

enum Length {
    Text(usize),
    Jsonb(usize),
}

impl Batch {
    pub(super) fn push(&mut self, entry: &StoredEntry<'_>) {
        let item = Item {
            entry_id: entry.entry_id,
            entry_type: self.push_text(entry.entry_type),
            data_hash: self.push_text(entry.data_hash),
            metadata: match entry.metadata {
                StoredMetadata::Text(text) => Length::Text(self.push_text(text)),
                StoredMetadata::Jsonb(bytes) => {
                    self.jsonb.extend_from_slice(bytes);
                    Length::Jsonb(bytes.len())
                }
            },
            signature: entry.signature.map(|text| self.push_text(text)),
            key_id: entry.key_id.map(|text| self.push_text(text)),
            created_at: entry.created_at,
            leaf_index: entry.leaf_index,
            block_number: entry.block_number,
        };
        self.items.push(item);
    }

    fn push_text(&mut self, text: &str) -> usize {
        self.texts.push_str(text);
        text.len()
    }

    /// Works on what is not done yet, up to an entry that only `render` can render where that is not given.
    pub(super) fn work(&mut self, work: &Work, render: Option<Render>) {
        let mut line = Vec::new();
        while let Some(item) = self.items.get(self.made.len()) {
            let mut next = self.next;
            let entry = item.read(&self.texts, &self.jsonb, &mut next);
            line.clear();
            if !write_line(&entry, render, &mut line) {
                return;
            }
            self.next = next;
            self.made.push(work.hashed(&entry, &line));
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.made.len() == self.items.len()
    }

    fn bytes(&self) -> usize {
        self.texts.len() + self.jsonb.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= BATCH_ENTRIES || self.bytes() >= BATCH_BYTES
    }

    /// A long line takes much memory: no other is made while there is one.
    pub(super) fn is_large(&self) -> bool {
        self.bytes() > 4 * BATCH_BYTES
    }

    pub(super) fn clear(&mut self) {
        self.texts.clear();
        self.jsonb.clear();
        self.items.clear();
        self.made.clear();
        self.next = Position::default();
    }
}

impl Item {
    /// The entry at this position, which is moved behind it.
    fn read<'b>(&self, texts: &'b str, jsonb: &'b [u8], position: &mut Position) -> StoredEntry<'b> {
        let Position { text, jsonb: start } = position;
        let mut take = |length: usize| {
            *text += length;
            &texts[*text - length..*text]
        };
        StoredEntry {
            entry_id: self.entry_id,
            entry_type: take(self.entry_type),
            data_hash: take(self.data_hash),
            metadata: match self.metadata {
                Length::Text(length) => StoredMetadata::Text(take(length)),
                Length::Jsonb(length) => {
                    *start += length;
                    StoredMetadata::Jsonb(&jsonb[*start - length..*start])
                }
            },
            signature: self.signature.map(&mut take),
            key_id: self.key_id.map(&mut take),
            created_at: self.created_at,
            leaf_index: self.leaf_index,
            block_number: self.block_number,
        }
    }
}

impl<'a> StoredEntry<'a> {
    /// The ids of the rows, or of the item, that the entry is about. `render` is called for few entries that are about
    /// any.
    pub fn row_ids(&self, render: Render) -> [Option<Uuid>; 2] {
        if !row_change::has_row_ids(self.entry_type) {
            return [None, None];
        }
        match self.metadata {
            StoredMetadata::Text(text) => row_change::row_ids(self.entry_type, text),
            StoredMetadata::Jsonb(bytes) => row_change::row_ids_of_jsonb(self.entry_type, bytes)
                .unwrap_or_else(|| row_change::row_ids(self.entry_type, &render(bytes))),
        }
    }

    fn line(&self, metadata: &'a str) -> EntryLine<'a> {
        EntryLine {
            entry_id: self.entry_id,
            entry_type: Cow::Borrowed(self.entry_type),
            data_hash: self.data_hash,
            metadata,
            signature: self.signature.map(Cow::Borrowed),
            key_id: self.key_id.map(Cow::Borrowed),
            created_at: self.created_at,
        }
    }
}

/// Appends the entry's line; false, with an unspecified part appended, if that needs `render` and it is not given.
fn write_line(entry: &StoredEntry<'_>, render: Option<Render>, line: &mut Vec<u8>) -> bool {
    let bytes = match entry.metadata {
        StoredMetadata::Text(text) => {
            entry.line(text).write_line(line);
            return true;
        }
        StoredMetadata::Jsonb(bytes) => bytes,
    };
    if entry.line("").write_line_with(line, |out| jsonb::write_canonical(out, bytes)).is_some() {
        return true;
    }
    let Some(render) = render else { return false };
    line.clear();
    entry.line(&render(bytes)).write_line(line);
    true
}

impl Work {
    fn hashed(&self, entry: &StoredEntry<'_>, line: &[u8]) -> HashedEntry {
        let keyring = self.keyring.as_deref();
        let mut claim = SignatureClaim::of(keyring, &entry.line(""));
        if self.checks_signatures {
            claim = SignatureClaim::Settled(claim.check(keyring, entry.data_hash));
        }
        let entry = SealedEntry {
            entry_id: entry.entry_id,
            leaf_index: entry.leaf_index,
            block_number: entry.block_number,
            data_hash: DataHash::of(entry.data_hash),
            leaf_hash: leaf_hash(line),
            line_number: None,
            signature: SignatureCheck::NotChecked,
        };
        HashedEntry { entry, claim }
    }
}
