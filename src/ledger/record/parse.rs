//! Reading a line back.
//!
//! A record has one text only, so a line is compared with that text from left to right, and values are taken where the
//! layout has them. Nothing is built but the record, and texts without escapes are borrowed. Only when a line does not
//! fit is it looked at as JSON in general, to say what is wrong with it.

use super::{check_entry_type, BlockLine, EntryLine, Header, Record, Timestamp, Void, FORMAT};
use crate::ledger::block::BlockHeader;
use crate::ledger::canonical_json::{self, canonical, string_end, Workspace};
use crate::ledger::record::check_data_hash;
use crate::ledger::shortened;
use std::borrow::Cow;
use std::fmt;
use uuid::Uuid;

/// Why a line is not a record, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// Byte offset in the line.
    pub offset: usize,
    pub kind: LineErrorKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineErrorKind {
    NotUtf8,
    /// As some editors put it before a text.
    ByteOrderMark,
    /// Not JSON; why not.
    NotJson(&'static str),
    /// A JSON value, but not the one text that it has in a ledger.
    NotCanonical,
    NotAnObject,
    /// No `record_type`, or one that is not known; its beginning.
    UnknownRecordType(String),
    /// A key that this record type does not have; its beginning.
    UnknownKey(String),
    MissingKey(&'static str),
    /// A value that its key cannot have.
    InvalidValue {
        key: &'static str,
        reason: &'static str,
    },
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use LineErrorKind::*;
        match &self.kind {
            NotUtf8 => f.write_str("not UTF-8"),
            ByteOrderMark => f.write_str("begins with a byte order mark"),
            NotJson(reason) => write!(f, "not JSON: {reason}"),
            NotCanonical => f.write_str("not in canonical form"),
            NotAnObject => f.write_str("not a JSON object"),
            UnknownRecordType(name) => write!(f, "unknown record_type {name}"),
            UnknownKey(key) => write!(f, "unknown key {key:?}"),
            MissingKey(key) => write!(f, "no key {key:?}"),
            InvalidValue { key, reason } => write!(f, "invalid {key}: {reason}"),
        }?;
        write!(f, " at byte {}", self.offset)
    }
}

impl std::error::Error for LineError {}

/// Reads many lines, reusing its buffers.
#[derive(Debug, Default)]
pub struct LineParser {
    workspace: Workspace,
}

impl LineParser {
    /// As [`Record::parse`].
    ///
    /// # Errors
    /// As [`Record::parse`].
    pub fn parse<'a>(&mut self, line: &'a [u8]) -> Result<Record<'a>, LineError> {
        let text = std::str::from_utf8(line)
            .map_err(|error| LineError { offset: error.valid_up_to(), kind: LineErrorKind::NotUtf8 })?;
        let mut scanner = Scanner { text, at: 0, workspace: &mut self.workspace };
        scanner.record().map_err(|mismatch| match mismatch {
            Mismatch::Layout => diagnose(text, scanner.at),
            Mismatch::Value { offset, key, reason } => {
                LineError { offset, kind: LineErrorKind::InvalidValue { key, reason } }
            }
        })
    }
}

/// Why the scanner stopped.
enum Mismatch {
    /// The text at the scanner's position is not what the layout has there.
    Layout,
    Value {
        offset: usize,
        key: &'static str,
        reason: &'static str,
    },
}

type Scan<T> = Result<T, Mismatch>;

struct Scanner<'a, 'w> {
    text: &'a str,
    at: usize,
    workspace: &'w mut Workspace,
}

impl<'a> Scanner<'a, '_> {
    /// The first key tells the kinds of record apart.
    fn record(&mut self) -> Scan<Record<'a>> {
        let record = if self.accept(r#"{"data_hash": "#) {
            Record::Entry(self.entry()?)
        } else if self.accept(r#"{"block_hash": "#) {
            Record::Block(self.block()?)
        } else if self.accept(r#"{"entry_ids": "#) {
            Record::Void(self.void()?)
        } else if self.accept(r#"{"database": "#) {
            Record::Ledger(self.header()?)
        } else {
            return Err(Mismatch::Layout);
        };
        self.expect("}")?;
        if self.at == self.text.len() {
            Ok(record)
        } else {
            Err(Mismatch::Layout)
        }
    }

    fn entry(&mut self) -> Scan<EntryLine<'a>> {
        let data_hash = self.hash("data_hash")?;
        self.expect(r#", "entry_id": "#)?;
        let entry_id = self.uuid("entry_id")?;
        self.expect(r#", "entry_type": "#)?;
        let start = self.at;
        let entry_type = self.string("entry_type")?;
        if let Err(invalid) = check_entry_type(&entry_type) {
            return invalid_value(start, "entry_type", invalid.0);
        }
        self.expect(r#", "key_id": "#)?;
        let key_id = self.nullable_string("key_id")?;
        self.expect(r#", "metadata": "#)?;
        let metadata = self.object()?;
        self.expect(r#", "record_type": "entry", "signature": "#)?;
        let signature = self.nullable_string("signature")?;
        self.expect(r#", "timestamp": "#)?;
        let created_at = self.timestamp()?;
        Ok(EntryLine { entry_id, entry_type, data_hash, metadata, signature, key_id, created_at })
    }

    fn block(&mut self) -> Scan<BlockLine> {
        let block_hash = self.hash("block_hash")?.to_owned();
        self.expect(r#", "block_number": "#)?;
        let block_number = self.integer("block_number")?;
        self.expect(r#", "data_count": "#)?;
        let data_count = self.integer("data_count")?;
        self.expect(r#", "entry_ids": "#)?;
        let entry_ids = self.uuids()?;
        self.expect(r#", "merkle_root": "#)?;
        let merkle_root = self.hash("merkle_root")?.to_owned();
        self.expect(r#", "previous_hash": "#)?;
        let previous_hash = self.hash("previous_hash")?.to_owned();
        self.expect(r#", "record_type": "block", "timestamp": "#)?;
        let timestamp = self.timestamp()?;
        self.expect(r#", "tree_root": "#)?;
        let tree_root = self.hash("tree_root")?.to_owned();
        self.expect(r#", "tree_size": "#)?;
        let tree_size = self.integer("tree_size")?;
        let header = BlockHeader {
            block_number,
            previous_hash,
            block_hash,
            merkle_root,
            timestamp,
            data_count,
            tree_size,
            tree_root,
        };
        Ok(BlockLine { header, entry_ids })
    }

    fn void(&mut self) -> Scan<Void> {
        let start = self.at;
        let entry_ids = self.uuids()?;
        if entry_ids.is_empty() {
            return invalid_value(start, "entry_ids", "the void line names no entry");
        }
        self.expect(r#", "reason": "#)?;
        let reason = self.string("reason")?.into_owned();
        self.expect(r#", "record_type": "void", "timestamp": "#)?;
        let timestamp = self.timestamp()?;
        Ok(Void { entry_ids, reason, timestamp })
    }

    fn header(&mut self) -> Scan<Header> {
        let database = self.string("database")?.into_owned();
        self.expect(r#", "format": "#)?;
        let start = self.at;
        if self.integer("format")? != i64::from(FORMAT) {
            return invalid_value(start, "format", "only format 1 is known");
        }
        self.expect(r#", "ledger_id": "#)?;
        let ledger_id = self.uuid("ledger_id")?;
        self.expect(r#", "record_type": "ledger", "timestamp": "#)?;
        let timestamp = self.timestamp()?;
        Ok(Header { database, ledger_id, timestamp })
    }

    fn accept(&mut self, literal: &str) -> bool {
        let found = self.text.as_bytes()[self.at..].starts_with(literal.as_bytes());
        if found {
            self.at += literal.len();
        }
        found
    }

    fn expect(&mut self, literal: &str) -> Scan<()> {
        if self.accept(literal) {
            Ok(())
        } else {
            Err(Mismatch::Layout)
        }
    }

    /// A string token, quotes included, and whether it has nothing to decode.
    fn token(&mut self) -> Scan<(&'a str, bool)> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&b'"') {
            return Err(Mismatch::Layout);
        }
        let (end, verbatim) = string_end(bytes, self.at).map_err(|_| Mismatch::Layout)?;
        let token = &self.text[self.at..end];
        self.at = end;
        Ok((token, verbatim))
    }

    fn string(&mut self, key: &'static str) -> Scan<Cow<'a, str>> {
        let start = self.at;
        let (token, verbatim) = self.token()?;
        let Some(text) = canonical_json::decode(token, verbatim) else {
            return invalid_value(start, key, "a lone surrogate");
        };
        if !verbatim {
            let mut rendered = Vec::with_capacity(token.len());
            canonical_json::write_string(&mut rendered, &text);
            if rendered != token.as_bytes() {
                self.at = start;
                return Err(Mismatch::Layout);
            }
        }
        Ok(text)
    }

    fn nullable_string(&mut self, key: &'static str) -> Scan<Option<Cow<'a, str>>> {
        if self.accept("null") {
            return Ok(None);
        }
        self.string(key).map(Some)
    }

    /// The inside of a string that has nothing to decode.
    fn plain(&mut self, key: &'static str, reason: &'static str) -> Scan<(usize, &'a str)> {
        let start = self.at;
        match self.token()? {
            (token, true) => Ok((start, &token[1..token.len() - 1])),
            (_, false) => invalid_value(start, key, reason),
        }
    }

    fn hash(&mut self, key: &'static str) -> Scan<&'a str> {
        let reason = "not 64 lower-case hex digits";
        let (start, text) = self.plain(key, reason)?;
        match check_data_hash(text) {
            Ok(()) => Ok(text),
            Err(_) => invalid_value(start, key, reason),
        }
    }

    fn uuid(&mut self, key: &'static str) -> Scan<Uuid> {
        let reason = "not a UUID of 36 lower-case characters";
        let (start, text) = self.plain(key, reason)?;
        let lower = text.len() == 36 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
        match Uuid::try_parse(text) {
            Ok(id) if lower => Ok(id),
            _ => invalid_value(start, key, reason),
        }
    }

    fn uuids(&mut self) -> Scan<Vec<Uuid>> {
        self.expect("[")?;
        let mut ids = Vec::new();
        if self.accept("]") {
            return Ok(ids);
        }
        loop {
            ids.push(self.uuid("entry_ids")?);
            if !self.accept(", ") {
                break;
            }
        }
        self.expect("]")?;
        Ok(ids)
    }

    fn integer(&mut self, key: &'static str) -> Scan<i64> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = rest.iter().take_while(|byte| matches!(byte, b'-' | b'0'..=b'9')).count();
        let start = self.at;
        let token = &self.text[start..start + length];
        match token.parse::<i64>() {
            // Only the shortest spelling is canonical: no leading zero, no minus zero.
            Ok(number) if number.to_string() == token => {
                self.at += length;
                Ok(number)
            }
            Err(_) if length > 18 => invalid_value(start, key, "too large"),
            _ => Err(Mismatch::Layout),
        }
    }

    fn timestamp(&mut self) -> Scan<Timestamp> {
        let reason = "not of the form YYYY-MM-DDTHH:MM:SS.ffffffZ";
        let (start, text) = self.plain("timestamp", reason)?;
        match Timestamp::parse(text) {
            Ok(timestamp) => Ok(timestamp),
            Err(_) => invalid_value(start, "timestamp", reason),
        }
    }

    /// A canonical object, as text.
    fn object(&mut self) -> Scan<&'a str> {
        let start = self.at;
        if self.text.as_bytes().get(start) != Some(&b'{') {
            return Err(Mismatch::Layout);
        }
        match self.workspace.canonical_value_end(self.text, start) {
            Some(end) => {
                self.at = end;
                Ok(&self.text[start..end])
            }
            None => Err(Mismatch::Layout),
        }
    }
}

fn invalid_value<T>(offset: usize, key: &'static str, reason: &'static str) -> Scan<T> {
    Err(Mismatch::Value { offset, key, reason })
}

const BYTE_ORDER_MARK: char = '\u{feff}';

/// Of a longer line, only the place is said: what is wrong there is not worth the time and the memory that parsing and
/// printing all of it takes, some ten times its length.
const LONGEST_DIAGNOSED: usize = 16 << 20;

/// Says what is wrong with a line whose layout differs at `at` from the one it should have.
fn diagnose(text: &str, at: usize) -> LineError {
    let error = |offset, kind| LineError { offset, kind };
    if text.starts_with(BYTE_ORDER_MARK) {
        return error(0, LineErrorKind::ByteOrderMark);
    }
    if text.len() > LONGEST_DIAGNOSED {
        return error(at, LineErrorKind::NotCanonical);
    }
    let rendered = match canonical(text) {
        Ok(rendered) => rendered,
        Err(json) => return error(json.offset, LineErrorKind::NotJson(json.reason)),
    };
    if rendered != text {
        let same = rendered.bytes().zip(text.bytes()).take_while(|(a, b)| a == b);
        return error(same.count(), LineErrorKind::NotCanonical);
    }
    if !text.starts_with('{') {
        return error(0, LineErrorKind::NotAnObject);
    }
    // By its text: values made of it would take up to a hundred times as much memory.
    let record_type = canonical_json::member(text, "record_type");
    let keys: &[&'static str] = match record_type.and_then(canonical_json::plain) {
        Some("ledger") => &["database", "format", "ledger_id", "timestamp"],
        Some("entry") => &ENTRY_KEYS,
        Some("block") => &BLOCK_KEYS,
        Some("void") => &["entry_ids", "reason", "timestamp"],
        _ => return error(at, LineErrorKind::UnknownRecordType(shorten(record_type.unwrap_or("(none)")))),
    };
    let mut members = canonical_json::members(text).map(|(key, _)| key);
    if let Some(key) = members.find(|key| *key != "record_type" && !keys.contains(key)) {
        return error(at, LineErrorKind::UnknownKey(shorten(key)));
    }
    if let Some(key) = keys.iter().find(|key| canonical_json::member(text, key).is_none()) {
        return error(at, LineErrorKind::MissingKey(key));
    }
    let key = keys.iter().rev().find(|key| key_offset(text, key) <= at);
    let key = key.copied().unwrap_or("record_type");
    let reason = "a value of the wrong kind";
    error(at, LineErrorKind::InvalidValue { key, reason })
}

/// Enough of a text to recognise it in a message, without characters that a terminal would act on.
fn shorten(text: &str) -> String {
    shortened(text, 60).replace(char::is_control, "\u{fffd}")
}

const ENTRY_KEYS: [&str; 7] = ["data_hash", "entry_id", "entry_type", "key_id", "metadata", "signature", "timestamp"];

const BLOCK_KEYS: [&str; 9] = [
    "block_hash",
    "block_number",
    "data_count",
    "entry_ids",
    "merkle_root",
    "previous_hash",
    "timestamp",
    "tree_root",
    "tree_size",
];

/// Where a key first stands in the text; good enough to name the value that the scanner stopped at.
fn key_offset(text: &str, key: &str) -> usize {
    text.find(&format!("\"{key}\": ")).unwrap_or(usize::MAX)
}
