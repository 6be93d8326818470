//! The lines of a ledger file.
//!
//! A line is the canonical JSON of an object with a fixed set of keys, so a record has one text and no other:
//!
//! | record | keys |
//! |---|---|
//! | header | `database, format, ledger_id, record_type ("ledger"), timestamp` |
//! | entry | `data_hash, entry_id, entry_type, key_id, metadata, record_type ("entry"), signature, timestamp` |
//! | block | `block_hash, block_number, data_count, entry_ids, merkle_root, previous_hash, record_type ("block"), timestamp, tree_root, tree_size` |
//! | void | `entry_ids, reason, record_type ("void"), timestamp` |
//!
//! Lines are rendered here without their newline, and read back by [`Record::parse`], which takes only what rendering
//! would have made.

mod parse;

#[cfg(test)]
mod tests;

use super::block::{write_uuid, write_uuids, BlockHeader};
use super::canonical_json::{canonical, member, plain_member, starts_object, write_string};
use super::timestamp::write_timestamp;
use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Seek};
use uuid::Uuid;

pub use super::timestamp::{Timestamp, TimestampError};
pub use parse::{LineError, LineErrorKind, LineParser};

/// The version of the format that the header line states.
pub const FORMAT: u32 = 1;

/// No header line is longer than this, in bytes: the name of a database has 63, each of which may be escaped.
pub const MAX_HEADER: u64 = 4096;

/// The longest entry_type, in characters: the width of its column.
pub const MAX_ENTRY_TYPE: usize = 100;

/// The longest metadata, in bytes: with the longest of everything else, a line is still no longer than
/// [`MAX_LINE`](super::verifier::MAX_LINE).
pub const MAX_METADATA: usize = super::verifier::MAX_LINE - (1 << 16);

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub entry_id: Uuid,
    /// 1 to 100 characters.
    pub entry_type: String,
    /// 64 lower-case hex digits.
    pub data_hash: String,
    /// Canonical JSON text of an object.
    pub metadata: String,
    /// Null together with `key_id`.
    pub signature: Option<String>,
    pub key_id: Option<String>,
    pub created_at: Timestamp,
}

impl Entry {
    /// The entry's line, without its newline.
    pub fn line(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(400 + self.metadata.len());
        self.write_line(&mut out);
        out
    }

    /// Appends the entry's line, without its newline.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        self.as_line().write_line(out);
    }

    /// The same entry, borrowed.
    pub fn as_line(&self) -> EntryLine<'_> {
        EntryLine {
            entry_id: self.entry_id,
            entry_type: Cow::Borrowed(&self.entry_type),
            data_hash: &self.data_hash,
            metadata: &self.metadata,
            signature: self.signature.as_deref().map(Cow::Borrowed),
            key_id: self.key_id.as_deref().map(Cow::Borrowed),
            created_at: self.created_at,
        }
    }
}

/// An [`Entry`] that borrows its texts, from a line or from a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryLine<'a> {
    pub entry_id: Uuid,
    pub entry_type: Cow<'a, str>,
    pub data_hash: &'a str,
    /// Canonical JSON text of an object.
    pub metadata: &'a str,
    pub signature: Option<Cow<'a, str>>,
    pub key_id: Option<Cow<'a, str>>,
    pub created_at: Timestamp,
}

impl EntryLine<'_> {
    /// Appends the entry's line, without its newline.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        self.write_line_with(out, |out| out.extend_from_slice(self.metadata.as_bytes()));
    }

    /// As [`EntryLine::write_line`], with what `metadata` appends in the place of the metadata. Gives what that gives.
    pub fn write_line_with<T>(&self, out: &mut Vec<u8>, metadata: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        out.extend_from_slice(br#"{"data_hash": "#);
        write_string(out, self.data_hash);
        out.extend_from_slice(br#", "entry_id": "#);
        write_uuid(out, self.entry_id);
        out.extend_from_slice(br#", "entry_type": "#);
        write_string(out, &self.entry_type);
        out.extend_from_slice(br#", "key_id": "#);
        write_nullable(out, self.key_id.as_deref());
        out.extend_from_slice(br#", "metadata": "#);
        let written = metadata(out);
        out.extend_from_slice(br#", "record_type": "entry", "signature": "#);
        write_nullable(out, self.signature.as_deref());
        write_timestamp_and_end(out, self.created_at);
        written
    }

    /// The length of the entry's line, without its newline.
    pub fn line_length(&self) -> usize {
        let mut rest = Vec::with_capacity(512);
        self.write_line_with(&mut rest, |_| ());
        rest.len() + self.metadata.len()
    }

    /// The same entry, owned.
    pub fn to_entry(&self) -> Entry {
        Entry {
            entry_id: self.entry_id,
            entry_type: self.entry_type.to_string(),
            data_hash: self.data_hash.to_owned(),
            metadata: self.metadata.to_owned(),
            signature: self.signature.as_ref().map(Cow::to_string),
            key_id: self.key_id.as_ref().map(Cow::to_string),
            created_at: self.created_at,
        }
    }
}

/// The first line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name of the database when the file was started.
    pub database: String,
    pub ledger_id: Uuid,
    pub timestamp: Timestamp,
}

impl Header {
    /// The header's line, without its newline.
    pub fn line(&self) -> Vec<u8> {
        let mut out = br#"{"database": "#.to_vec();
        write_string(&mut out, &self.database);
        out.extend_from_slice(format!(r#", "format": {FORMAT}, "ledger_id": "#).as_bytes());
        write_uuid(&mut out, self.ledger_id);
        out.extend_from_slice(br#", "record_type": "ledger""#);
        write_timestamp_and_end(&mut out, self.timestamp);
        out
    }

    /// The format of a file, if it is one that only a later version knows. Leaves the file at its beginning.
    pub fn later_format<F: Read + Seek>(mut file: F) -> io::Result<Option<u64>> {
        let mut line = Vec::new();
        BufReader::new(file.by_ref().take(MAX_HEADER)).read_until(b'\n', &mut line)?;
        file.rewind()?;
        Ok(Header::stated_format(&line).filter(|format| *format > FORMAT.into()))
    }

    /// The format that a line states if it is a header, perhaps one of a later version with other keys.
    pub fn stated_format(line: &[u8]) -> Option<u64> {
        let header = canonical(std::str::from_utf8(line).ok()?).ok().filter(|json| starts_object(json))?;
        let is_header = plain_member(&header, "record_type") == Some("ledger");
        member(&header, "format").filter(|_| is_header)?.parse().ok()
    }
}

/// Entry lines whose transaction did not commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Void {
    /// At least one.
    pub entry_ids: Vec<Uuid>,
    pub reason: String,
    pub timestamp: Timestamp,
}

impl Void {
    /// The void's line, without its newline.
    pub fn line(&self) -> Vec<u8> {
        let mut out = br#"{"entry_ids": "#.to_vec();
        write_uuids(&mut out, &self.entry_ids);
        out.extend_from_slice(br#", "reason": "#);
        write_string(&mut out, &self.reason);
        out.extend_from_slice(br#", "record_type": "void""#);
        write_timestamp_and_end(&mut out, self.timestamp);
        out
    }
}

/// A block and what it holds, as its line states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLine {
    pub header: BlockHeader,
    /// In leaf order.
    pub entry_ids: Vec<Uuid>,
}

/// What one line of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    Ledger(Header),
    Entry(EntryLine<'a>),
    Block(BlockLine),
    Void(Void),
}

impl<'a> Record<'a> {
    /// Reads one line, without its newline. [`LineParser`] does the same faster for many lines.
    ///
    /// # Errors
    /// If rendering the record would not give the same bytes: the line is not canonical JSON, does not have exactly the
    /// keys of its record type, or a value is not of the right kind.
    pub fn parse(line: &'a [u8]) -> Result<Self, LineError> {
        LineParser::default().parse(line)
    }
}

/// A value that an entry cannot have. The message is fit for a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidValue(pub &'static str);

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidValue {}

/// Whether `text` is 64 lower-case hex digits.
///
/// # Errors
/// If not.
pub fn check_data_hash(text: &str) -> Result<(), InvalidValue> {
    let lower_hex = |byte: &u8| byte.is_ascii_digit() | (b'a'..=b'f').contains(byte);
    // Without a branch for each, which the compiler turns into vector instructions.
    let digits = |text: &[u8; 64]| text.iter().fold(true, |all, byte| all & lower_hex(byte));
    if text.as_bytes().try_into().is_ok_and(digits) {
        return Ok(());
    }
    Err(InvalidValue("data_hash must be 64 lower-case hex digits"))
}

/// Whether `text` has 1 to 100 characters.
///
/// # Errors
/// If not.
pub fn check_entry_type(text: &str) -> Result<(), InvalidValue> {
    if text.is_empty() {
        return Err(InvalidValue("entry_type must not be empty"));
    }
    if text.len() > MAX_ENTRY_TYPE && text.chars().count() > MAX_ENTRY_TYPE {
        return Err(InvalidValue("entry_type must not be longer than 100 characters"));
    }
    Ok(())
}

/// Whether the JSON text is that of an object. That it is JSON at all is not checked.
///
/// # Errors
/// If not.
pub fn check_metadata(json: &str) -> Result<(), InvalidValue> {
    if starts_object(json) {
        return Ok(());
    }
    Err(InvalidValue("metadata must be a JSON object"))
}

fn write_nullable(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => write_string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

fn write_timestamp_and_end(out: &mut Vec<u8>, timestamp: Timestamp) {
    out.extend_from_slice(br#", "timestamp": "#);
    write_timestamp(out, timestamp);
    out.push(b'}');
}
