//! What a line says by itself: the part of verification that needs nothing but the line, and so can be done for many
//! lines at once. It is the larger part: parsing, hashing, and checking the signature.

use super::lines::Line;
use super::signatures::{check_signature, SignatureCheck};
use crate::ledger::log_tree::leaf_hash;
use crate::ledger::record::{BlockLine, EntryLine, Header, LineError, LineParser, Record, Void};
use crate::ledger::signature::Keyring;
use crate::ledger::{parse_hash, Hash};
use uuid::Uuid;

/// One line, read.
pub(super) struct ReadLine {
    /// In bytes, without the newline.
    pub(super) length: u64,
    pub(super) content: Content,
}

pub(super) enum Content {
    Ledger(Box<Header>),
    Entry(ReadEntry),
    Block(Box<BlockLine>),
    Void(Box<Void>),
    /// Not a record.
    Malformed(Box<LineError>),
    TooLong,
}

pub(super) struct ReadEntry {
    pub(super) entry_id: Uuid,
    pub(super) leaf_hash: Hash,
    pub(super) data_hash: Hash,
    pub(super) signature: SignatureCheck,
    /// The key that the keyring lacks.
    pub(super) missing_key: Option<Box<str>>,
}

impl ReadLine {
    /// Reads one line of a file.
    pub(super) fn new(line: Line<'_>, parser: &mut LineParser, keyring: Option<&Keyring>) -> Self {
        match line {
            Line::TooLong => ReadLine { length: 0, content: Content::TooLong },
            Line::Whole(raw) => ReadLine::of(raw, parser.parse(raw), keyring),
        }
    }

    /// What the parser has made of `raw`.
    pub(super) fn of(raw: &[u8], record: Result<Record<'_>, LineError>, keyring: Option<&Keyring>) -> Self {
        let content = match record {
            Ok(Record::Ledger(header)) => Content::Ledger(Box::new(header)),
            Ok(Record::Entry(entry)) => Content::Entry(ReadEntry::new(raw, &entry, keyring)),
            Ok(Record::Block(block)) => Content::Block(Box::new(block)),
            Ok(Record::Void(void)) => Content::Void(Box::new(void)),
            Err(error) => Content::Malformed(Box::new(error)),
        };
        ReadLine { length: raw.len() as u64, content }
    }
}

impl ReadEntry {
    fn new(raw: &[u8], entry: &EntryLine<'_>, keyring: Option<&Keyring>) -> Self {
        let signature = check_signature(keyring, entry);
        let lacks_key = signature == SignatureCheck::UnknownKey;
        ReadEntry {
            entry_id: entry.entry_id,
            leaf_hash: leaf_hash(raw),
            // Always a hash, as the parser checked it.
            data_hash: parse_hash(entry.data_hash).unwrap_or_default(),
            signature,
            missing_key: entry.key_id.as_deref().filter(|_| lacks_key).map(Box::from),
        }
    }
}

/// The block that a line is, if it is one. Of other lines nearly nothing is read.
pub(super) fn block_line(line: Line<'_>, parser: &mut LineParser) -> Option<Box<BlockLine>> {
    let Line::Whole(raw) = line else { return None };
    if !raw.starts_with(b"{\"block_hash\"") {
        return None;
    }
    match parser.parse(raw) {
        Ok(Record::Block(block)) => Some(Box::new(block)),
        _ => None,
    }
}
