//! Canonical JSON: one text for one value, so that a value can be hashed.
//!
//! [`canonical`] is byte for byte what Python's `json.dumps(value, sort_keys=True)` prints, and [`compact`] the same
//! with `separators=(",", ":")`. Keys are sorted by code point; the output is ASCII. A number token without `.`, `e` or
//! `E` is an integer of any size and kept digit for digit (`-0` is `0`); any other is an IEEE double, printed as
//! Python's `repr` does. The last of duplicate keys wins. Lone surrogates, which only an escape can spell, are kept as
//! they are.
//!
//! The input is RFC 8259; in particular `NaN`, `Infinity` and numbers that overflow a double are errors.
//! Nothing here recurses; values are nested [`MAX_DEPTH`] deep at most, which is far more than `jsonb_in` accepts with
//! the stack that it has by default.
//!
//! Memory: a value or key takes 16 bytes, and in an object each pair another 8. The shortest value, with what separates
//! it, is two bytes of text ("0,"). Buffers double, and the printed text is at most six times the text. So it is about
//! 20 times the text at worst (20 GiB for a line of 1 GiB, which only a hostile file has), and next to nothing for a
//! text that is canonical already and not nested deep.
//!
//! The parser is our own because general ones lose what must be kept here: digits of integers, lone surrogates, and
//! keys whose order and repetition matter.

mod decimals;
mod member;
mod nodes;
mod numbers;
mod parser;
mod plain;
mod quick;
mod strings;
mod writer;

#[cfg(test)]
mod tests;

use super::pauses::Pauses;
use std::fmt;

/// How deep values may be nested.
pub const MAX_DEPTH: usize = 100_000;

/// A [`Workspace`] does not keep its buffers after a text that is longer than this.
const LARGE: usize = 1 << 20;

pub use decimals::for_decimals;
pub use member::{is_jsonb, keeps_members, keeps_number, keeps_numbers, member, members, plain, plain_member};
pub(crate) use member::{value_end, KEPT_DECIMALS};
pub(crate) use numbers::write_decimal;
pub use numbers::write_number;
pub(crate) use parser::string_end;
pub(crate) use plain::is_plain_text;
pub(crate) use strings::decode;
pub use strings::{key, string, write_string};

/// Why a text is not JSON, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// Byte offset in the text.
    pub offset: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.reason, self.offset)
    }
}

impl std::error::Error for JsonError {}

/// The separators between items and between a key and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Canonical,
    Compact,
}

/// The canonical text of a JSON value: `json.dumps(value, sort_keys=True)`.
///
/// # Errors
/// If `json` is not one JSON value, a number overflows a double, values are nested deeper than [`MAX_DEPTH`], or the
/// text is over 4 GiB.
pub fn canonical(json: &str) -> Result<String, JsonError> {
    canonical_pausing(json, &mut || ())
}

/// As [`canonical`]; calls `pause` now and then, which may end it by unwinding.
///
/// # Errors
/// As [`canonical`].
pub fn canonical_pausing(json: &str, pause: &mut dyn FnMut()) -> Result<String, JsonError> {
    print(json, Style::Canonical, &mut Pauses::new(pause))
}

/// The canonical text without spaces: `json.dumps(value, sort_keys=True, separators=(",", ":"))`.
///
/// # Errors
/// As [`canonical`].
pub fn compact(json: &str) -> Result<String, JsonError> {
    print(json, Style::Compact, &mut Pauses::new(&mut || ()))
}

/// Whether `json` is an object, not another kind of value. Looks no further than the first character.
pub fn starts_object(json: &str) -> bool {
    json.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{')
}

fn print(json: &str, style: Style, pauses: &mut Pauses<'_>) -> Result<String, JsonError> {
    let mut workspace = Workspace::default();
    parser::parse_document(json, &mut workspace.parsed, pauses)?;
    let mut out = Vec::with_capacity(json.len() + json.len() / 8);
    writer::write(json, &workspace.parsed, style, &mut workspace.pending, &mut out, pauses);
    Ok(crate::ledger::ascii_text(out))
}

/// Buffers kept from one value to the next, for callers that look at millions of small ones.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    parsed: nodes::Parsed,
    pending: writer::Pending,
    out: Vec<u8>,
    quick: quick::Quick,
}

impl Workspace {
    /// Reads the value that starts at byte `start` of `text`, and gives the offset just after it, if the value's own
    /// text is canonical already; `None` if it is not, or if it is no JSON.
    pub(crate) fn canonical_value_end(&mut self, text: &str, start: usize) -> Option<usize> {
        let end = match self.quick.canonical_value_end(text, start) {
            Ok(end) => Some(end),
            Err(quick::Otherwise::NotCanonical) => None,
            Err(quick::Otherwise::Unknown) => self.rendered_value_end(text, start).ok().flatten(),
        };
        if text.len() > LARGE {
            *self = Workspace::default();
        }
        end
    }

    /// The same by printing the value.
    fn rendered_value_end(&mut self, text: &str, start: usize) -> Result<Option<usize>, JsonError> {
        let mut nothing = || ();
        let mut pauses = Pauses::new(&mut nothing);
        let end = parser::parse_value(text, start, &mut self.parsed, &mut pauses)?;
        self.out.clear();
        writer::write(text, &self.parsed, Style::Canonical, &mut self.pending, &mut self.out, &mut pauses);
        let same = text.as_bytes()[start..end] == self.out[..];
        Ok(same.then_some(end))
    }

    #[cfg(test)]
    fn is_small(&self) -> bool {
        self.out.capacity() == 0 && self.parsed.nodes.capacity() == 0 && self.quick.is_small()
    }
}
