//! Why an item cannot be hashed, signed or verified.

use super::item_type::{ItemType, MAX_CONTENT, MAX_ID, MAX_METADATA};
use crate::ledger::shortened;
use std::fmt;

/// How much of an id, a version or another name an error shows.
pub(super) const SHOWN: usize = 80;

/// Why an item cannot be hashed. Shown as what is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemError {
    /// Not one of the three types.
    UnknownType(String),
    /// Too many bytes of content.
    ContentTooLong(u64),
    /// Too many bytes of metadata.
    MetadataTooLong(usize),
    /// Empty, too long, or with control characters.
    BadId(String),
    /// Not a semantic version, or 0.0.0.
    BadVersion { version: String, reason: String },
    /// Not a JSON object.
    BadMetadata(String),
    /// Not a path below the base of the type.
    BadLocation { item_type: ItemType, path: String, reason: &'static str },
    /// Stored as a location, and no path leads to such a one.
    NoLocation { item_type: ItemType, location: String, reason: &'static str },
    /// A language whose comments are not known.
    UnknownLanguage(String),
    /// Files with this extension have no comments.
    NoComments(String),
    /// With its new signature line, the text does not verify: the error that it gives.
    Unverifiable(String),
    /// The text itself is not that of an item.
    Content(ContentError),
}

impl ItemError {
    /// What to do about it.
    pub fn solution(&self) -> String {
        match self {
            ItemError::UnknownType(_) => "Give tool, directive or knowledge as the item's type".to_owned(),
            ItemError::ContentTooLong(_) => format!("Keep the content below {MAX_CONTENT} bytes"),
            ItemError::MetadataTooLong(_) => format!("Keep the metadata below {MAX_METADATA} bytes"),
            ItemError::BadId(_) => "Give the id that the item is registered with, or is to be".to_owned(),
            ItemError::BadVersion { .. } => "Give a semantic version, such as 1.0.0".to_owned(),
            ItemError::BadMetadata(_) => "Give an object as the metadata, or none".to_owned(),
            ItemError::BadLocation { item_type, .. } => {
                format!("Give a path below {}, or one that is relative to it", item_type.base())
            }
            ItemError::NoLocation { item_type, .. } => {
                format!("Make location_path the path below {}, such as core/NAME", item_type.base())
            }
            ItemError::UnknownLanguage(_) | ItemError::NoComments(_) => {
                "Give a language that has comments, or the path of a file that has".to_owned()
            }
            ItemError::Unverifiable(_) => "Take the old signature lines out of the text, and sign it again".to_owned(),
            ItemError::Content(_) => "Repair the text where it says, and sign it again".to_owned(),
        }
    }
}

impl fmt::Display for ItemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ItemError::UnknownType(name) => {
                let name = shortened(name, SHOWN);
                write!(f, "unknown item type {name:?}: it must be tool, directive or knowledge")
            }
            ItemError::ContentTooLong(bytes) => {
                write!(f, "the content has {bytes} bytes: at most {MAX_CONTENT} are allowed")
            }
            ItemError::MetadataTooLong(bytes) => {
                write!(f, "the metadata has {bytes} bytes: at most {MAX_METADATA} are allowed")
            }
            ItemError::BadId(id) => {
                write!(
                    f,
                    "{id:?} cannot be an item's id: it must have 1 to {MAX_ID} characters, none a control character"
                )
            }
            ItemError::BadVersion { version, reason } => {
                write!(f, "{version:?} is not a semantic version ({reason}): write one such as 1.0.0")
            }
            ItemError::BadMetadata(reason) => write!(f, "the metadata must be a JSON object: {reason}"),
            ItemError::BadLocation { item_type, path, reason } => {
                let base = item_type.base();
                write!(f, "{path:?} is not the path of a {item_type} below {base}: {reason}")
            }
            ItemError::NoLocation { item_type, location, reason } => {
                let base = item_type.base();
                write!(f, "{location:?} is not the location of a {item_type}, its path below {base}: {reason}")
            }
            ItemError::UnknownLanguage(name) => {
                let name = shortened(name, SHOWN);
                write!(f, "unknown language {name:?}: give a file extension such as py, or a comment prefix such as //")
            }
            ItemError::NoComments(extension) => {
                write!(f, "a .{extension} file has no comments and cannot carry a signature line")
            }
            ItemError::Unverifiable(error) => write!(f, "the text does not verify after it is signed: {error}"),
            ItemError::Content(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ItemError {}

impl From<ContentError> for ItemError {
    fn from(error: ContentError) -> Self {
        ItemError::Content(error)
    }
}

/// What is wrong with an item's text, and on which line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentError {
    /// 1-based; `None` if it is not about one line.
    pub line: Option<usize>,
    /// What is wrong there, and what to do.
    pub reason: String,
}

impl ContentError {
    /// About the text as a whole.
    pub fn new(reason: impl Into<String>) -> Self {
        ContentError { line: None, reason: reason.into() }
    }

    /// About the 1-based line `line`.
    pub fn on_line(line: usize, reason: impl Into<String>) -> Self {
        ContentError { line: Some(line), reason: reason.into() }
    }

    /// The same error, for a text with so many more lines before it.
    #[must_use]
    pub(super) fn below(mut self, lines: usize) -> Self {
        self.line = self.line.map(|line| line + lines);
        self
    }
}

impl fmt::Display for ContentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

impl std::error::Error for ContentError {}

/// The 1-based line of the byte at `offset`.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + memchr::memchr_iter(b'\n', before).count()
}

/// How many more lines `content` has than `unsigned`, which is the same without its signature lines.
pub(super) fn lines_removed(content: &str, unsigned: &str) -> usize {
    line_of(content, content.len()) - line_of(unsigned, unsigned.len())
}
