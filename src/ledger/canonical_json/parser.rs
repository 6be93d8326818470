//! From text to a flat list of nodes in the order of the text.
//!
//! A node refers to the text by offsets, so strings and integers are never copied before they are written.

use super::nodes::{Node, Parsed};
use super::numbers::double;
use super::plain::plain_end;
use super::{JsonError, MAX_DEPTH};
use crate::ledger::pauses::Pauses;

/// Parses a text that is one value and white space.
pub(super) fn parse_document(text: &str, into: &mut Parsed, pauses: &mut Pauses<'_>) -> Result<(), JsonError> {
    let end = parse_value(text, 0, into, pauses)?;
    let rest = &text.as_bytes()[end..];
    match rest.iter().position(|byte| !is_space(*byte)) {
        None => Ok(()),
        Some(at) => Err(error(end + at, "unexpected text after the value")),
    }
}

/// Parses the one value that starts at byte `start`, and gives the offset just after it.
pub(super) fn parse_value(
    text: &str,
    start: usize,
    into: &mut Parsed,
    pauses: &mut Pauses<'_>,
) -> Result<usize, JsonError> {
    if u32::try_from(text.len()).is_err() {
        return Err(error(0, "text over 4 GiB"));
    }
    into.nodes.clear();
    into.open.clear();
    // Enough for a small document, so that the usual one does not grow its buffers step by step.
    into.nodes.reserve((text.len() / 8).clamp(8, 128));
    into.open.reserve(8);
    let mut parser = Parser { text, bytes: text.as_bytes(), at: start, nodes: &mut into.nodes, open: &mut into.open };
    parser.value()?;
    while parser.after_value()? {
        pauses.step();
        parser.value()?;
    }
    Ok(parser.at)
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    nodes: &'a mut Vec<Node>,
    open: &'a mut Vec<u32>,
}

impl Parser<'_> {
    /// Reads up to the end of a scalar or an empty container, opening containers on the way.
    fn value(&mut self) -> Result<(), JsonError> {
        loop {
            self.skip_space();
            match self.peek() {
                Some(b'{') => {
                    self.open(Node::Object { end: 0 })?;
                    if self.closes(b'}') {
                        return Ok(());
                    }
                    self.key()?;
                }
                Some(b'[') => {
                    self.open(Node::Array { end: 0 })?;
                    if self.closes(b']') {
                        return Ok(());
                    }
                }
                Some(b'"') => return self.string(),
                Some(b'-' | b'0'..=b'9') => return self.number(),
                Some(b't') => return self.literal("true"),
                Some(b'f') => return self.literal("false"),
                Some(b'n') => return self.literal("null"),
                Some(_) => return Err(self.error("expected a value")),
                None => return Err(self.error("unexpected end of the text")),
            }
        }
    }

    /// Closes what ends here. True if another value follows.
    fn after_value(&mut self) -> Result<bool, JsonError> {
        while let Some(&container) = self.open.last() {
            let is_object = matches!(self.nodes[container as usize], Node::Object { .. });
            self.skip_space();
            match (self.peek(), is_object) {
                (Some(b','), true) => {
                    self.at += 1;
                    self.skip_space();
                    self.key()?;
                    return Ok(true);
                }
                (Some(b','), false) => {
                    self.at += 1;
                    return Ok(true);
                }
                (Some(b'}'), true) | (Some(b']'), false) => self.close(),
                (Some(_), true) => return Err(self.error("expected ',' or '}'")),
                (Some(_), false) => return Err(self.error("expected ',' or ']'")),
                (None, _) => return Err(self.error("unexpected end of the text")),
            }
        }
        Ok(false)
    }

    fn open(&mut self, node: Node) -> Result<(), JsonError> {
        if self.open.len() == MAX_DEPTH {
            return Err(self.error("values nested more than 100000 deep"));
        }
        self.open.push(self.nodes.len() as u32);
        self.nodes.push(node);
        self.at += 1;
        Ok(())
    }

    /// Closes the container just opened if it is empty.
    fn closes(&mut self, bracket: u8) -> bool {
        self.skip_space();
        let empty = self.peek() == Some(bracket);
        if empty {
            self.close();
        }
        empty
    }

    fn close(&mut self) {
        self.at += 1;
        let after = self.nodes.len() as u32;
        let Some(container) = self.open.pop() else {
            return;
        };
        match &mut self.nodes[container as usize] {
            Node::Array { end } | Node::Object { end } => *end = after,
            _ => {}
        }
    }

    fn key(&mut self) -> Result<(), JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.error("expected a key in double quotes"));
        }
        self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.error("expected ':'"));
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), JsonError> {
        let start = self.at as u32;
        let (after, verbatim) = string_end(self.bytes, self.at)?;
        self.at = after;
        let end = after as u32;
        self.nodes.push(if verbatim { Node::Verbatim { start, end } } else { Node::Escaped { start, end } });
        Ok(())
    }

    fn literal(&mut self, literal: &str) -> Result<(), JsonError> {
        if !self.bytes[self.at..].starts_with(literal.as_bytes()) {
            return Err(self.error("expected a value"));
        }
        self.push_verbatim(self.at, self.at + literal.len());
        Ok(())
    }

    fn push_verbatim(&mut self, start: usize, end: usize) {
        self.at = end;
        self.nodes.push(Node::Verbatim { start: start as u32, end: end as u32 });
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        let mut end = start + usize::from(self.bytes[start] == b'-');
        let leading_zero = self.bytes.get(end) == Some(&b'0');
        end = self.digits(end)?;
        if leading_zero && end > start + 1 + usize::from(self.bytes[start] == b'-') {
            return Err(error(start, "a number with a leading zero"));
        }
        let integer_end = end;
        if self.bytes.get(end) == Some(&b'.') {
            end = self.digits(end + 1)?;
        }
        if matches!(self.bytes.get(end), Some(b'e' | b'E')) {
            let signed = matches!(self.bytes.get(end + 1), Some(b'+' | b'-'));
            end = self.digits(end + 1 + usize::from(signed))?;
        }
        if end == integer_end {
            // "-0" is the integer 0: its last digit.
            let minus_zero = &self.bytes[start..end] == b"-0";
            self.push_verbatim(start + usize::from(minus_zero), end);
            return Ok(());
        }
        self.at = end;
        self.nodes.push(Node::Float(self.double(start, end)?));
        Ok(())
    }

    /// Skips at least one digit.
    fn digits(&self, from: usize) -> Result<usize, JsonError> {
        let rest = self.bytes.get(from..).unwrap_or_default();
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if count == 0 {
            return Err(error(from, "expected a digit"));
        }
        Ok(from + count)
    }

    fn double(&self, start: usize, end: usize) -> Result<f64, JsonError> {
        double(&self.text[start..end]).map_err(|reason| error(start, reason))
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn error(&self, reason: &'static str) -> JsonError {
        error(self.at, reason)
    }
}

/// The offset after the string whose opening quote is at `start`, and whether it is canonical as it stands: printable
/// ASCII without any escape.
pub(crate) fn string_end(bytes: &[u8], start: usize) -> Result<(usize, bool), JsonError> {
    let mut at = start + 1;
    let mut verbatim = true;
    loop {
        at = plain_end(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return Ok((at + 1, verbatim)),
            Some(b'\\') => {
                verbatim = false;
                at = escape_end(bytes, at)?;
            }
            Some(0x7f..) => {
                verbatim = false;
                at += bytes[at..].iter().take_while(|byte| **byte >= 0x7f).count();
            }
            Some(_) => return Err(error(at, "a control character in a string")),
            None => return Err(error(at, "a string without an end")),
        }
    }
}

/// The offset after the escape that starts at `at`.
fn escape_end(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => match bytes.get(at + 2..at + 6) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => Ok(at + 6),
            _ => Err(error(at, "\\u without four hex digits")),
        },
        _ => Err(error(at, "an unknown escape")),
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn error(offset: usize, reason: &'static str) -> JsonError {
    JsonError { offset, reason }
}
