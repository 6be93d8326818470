//! From the list of nodes to text: sorts the keys, drops repeated ones, and prints doubles.

use super::parser::{Node, Parsed};
use super::strings::{code_points, inside_quotes, write_token};
use super::{JsonError, Style};
use crate::ledger::pauses::Pauses;
use std::cmp::Ordering;
use std::io::Write;

/// What is still to be written of the containers that are open.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Members of the open objects, sorted; the innermost object's are last.
    members: Vec<Member>,
    frames: Vec<Frame>,
}

/// Indexes of a key's node and of its value's.
#[derive(Debug, Clone, Copy)]
struct Member {
    key: u32,
    value: u32,
}

#[derive(Debug)]
enum Frame {
    /// Nodes from `next` up to `end`.
    Array { next: u32, end: u32 },
    /// Members from `next` on; those before it, down to `first`, are written.
    Object { first: usize, next: usize },
}

/// Appends the value in `parsed`, whose nodes refer to `text`.
pub(super) fn write(
    text: &str,
    parsed: &Parsed,
    style: Style,
    pending: &mut Pending,
    out: &mut Vec<u8>,
    pauses: &mut Pauses<'_>,
) {
    pending.members.clear();
    pending.frames.clear();
    pending.members.reserve(16);
    pending.frames.reserve(8);
    let (comma, colon) = match style {
        Style::Canonical => (&b", "[..], &b": "[..]),
        Style::Compact => (&b","[..], &b":"[..]),
    };
    let mut writer = Writer { text, nodes: &parsed.nodes, comma, colon, pending, out, pauses };
    writer.begin(0);
    while let Some(value) = writer.next_value() {
        writer.begin(value);
    }
}

struct Writer<'a, 'p> {
    text: &'a str,
    nodes: &'a [Node],
    comma: &'static [u8],
    colon: &'static [u8],
    pending: &'a mut Pending,
    out: &'a mut Vec<u8>,
    pauses: &'a mut Pauses<'p>,
}

impl Writer<'_, '_> {
    /// Writes a scalar, or opens a container.
    fn begin(&mut self, index: u32) {
        self.pauses.step();
        match self.nodes[index as usize] {
            Node::Verbatim { start, end } => {
                let text = &self.text.as_bytes()[start as usize..end as usize];
                self.out.extend_from_slice(text);
            }
            Node::Escaped { start, end } => {
                write_token(self.out, &self.text[start as usize..end as usize]);
            }
            Node::Float(value) => write_double(self.out, value),
            Node::Array { end } => {
                self.out.push(b'[');
                let next = index + 1;
                self.pending.frames.push(Frame::Array { next, end });
            }
            Node::Object { end } => {
                self.out.push(b'{');
                let first = self.pending.members.len();
                self.collect_members(index, end);
                let next = first;
                self.pending.frames.push(Frame::Object { first, next });
            }
        }
    }

    /// Writes what stands before the next value, closing what is finished; `None` when all is.
    fn next_value(&mut self) -> Option<u32> {
        loop {
            let opened = matches!(self.out.last(), Some(b'{' | b'['));
            match self.pending.frames.last_mut()? {
                Frame::Array { next, end } if *next < *end => {
                    let value = *next;
                    *next = after(self.nodes, value);
                    self.separate(opened);
                    return Some(value);
                }
                Frame::Object { next, .. } if *next < self.pending.members.len() => {
                    let member = self.pending.members[*next];
                    *next += 1;
                    self.separate(opened);
                    self.begin(member.key);
                    self.out.extend_from_slice(self.colon);
                    return Some(member.value);
                }
                Frame::Array { .. } => self.out.push(b']'),
                Frame::Object { first, .. } => {
                    self.out.push(b'}');
                    self.pending.members.truncate(*first);
                }
            }
            self.pending.frames.pop();
        }
    }

    fn separate(&mut self, opened: bool) {
        if !opened {
            self.out.extend_from_slice(self.comma);
        }
    }

    /// Pushes the members of the object at `index`, in key order, only the last of equal keys.
    fn collect_members(&mut self, index: u32, end: u32) {
        let first = self.pending.members.len();
        let mut key = index + 1;
        let mut ascending = true;
        while key < end {
            self.pauses.step();
            let value = key + 1;
            if let Some(previous) = self.pending.members[first..].last() {
                ascending &= self.compare_keys(previous.key, key).is_lt();
            }
            self.pending.members.push(Member { key, value });
            key = after(self.nodes, value);
        }
        if !ascending {
            self.sort_members(first);
        }
    }

    fn sort_members(&mut self, first: usize) {
        let mut members = std::mem::take(&mut self.pending.members);
        // Stable, so that of equal keys the last in the text comes last.
        members[first..].sort_by(|a, b| self.compare_keys(a.key, b.key));
        let mut kept = first;
        for at in first..members.len() {
            let repeated = members.get(at + 1).is_some_and(|next| self.compare_keys(members[at].key, next.key).is_eq());
            if !repeated {
                members[kept] = members[at];
                kept += 1;
            }
        }
        members.truncate(kept);
        self.pending.members = members;
    }

    /// By code point. For strings without escapes that is the order of their bytes.
    fn compare_keys(&self, a: u32, b: u32) -> Ordering {
        let (a, a_verbatim) = self.key(a);
        let (b, b_verbatim) = self.key(b);
        if a_verbatim && b_verbatim {
            return inside_quotes(a).cmp(inside_quotes(b));
        }
        code_points(a).cmp(code_points(b))
    }

    fn key(&self, index: u32) -> (&str, bool) {
        match self.nodes[index as usize] {
            Node::Verbatim { start, end } => (&self.text[start as usize..end as usize], true),
            Node::Escaped { start, end } => (&self.text[start as usize..end as usize], false),
            // The parser puts a string at every key.
            _ => ("\"\"", true),
        }
    }
}

/// The index of the node after the value at `index`.
fn after(nodes: &[Node], index: u32) -> u32 {
    match nodes[index as usize] {
        Node::Array { end } | Node::Object { end } => end,
        _ => index + 1,
    }
}

/// Appends a number token the canonical way.
///
/// # Errors
/// If it overflows a double.
pub fn write_number(out: &mut Vec<u8>, token: &str) -> Result<(), JsonError> {
    if !token.contains(['.', 'e', 'E']) {
        out.extend_from_slice(if token == "-0" { b"0" } else { token.as_bytes() });
        return Ok(());
    }
    write_double(out, double(token).map_err(|reason| JsonError { offset: 0, reason })?);
    Ok(())
}

/// With more characters, a number with an exponent is refused: the standard library stops reading an exponent at five
/// digits, which changes what is left only of numbers that have as many digits before it.
const LONGEST_WITH_EXPONENT: usize = 60_000;

/// The double that a number token stands for.
///
/// # Errors
/// Why there is none.
pub(super) fn double(token: &str) -> Result<f64, &'static str> {
    if token.len() > LONGEST_WITH_EXPONENT && token.contains(['e', 'E']) {
        return Err("a number with an exponent that is longer than 60,000 characters");
    }
    let value = token.parse::<f64>().ok().filter(|value| value.is_finite());
    value.ok_or("a number too large for a double")
}

/// Appends a finite double as Python's `repr` prints it: the shortest digits that read back as the same double, of
/// those the nearest, with an exponent (signed, at least two digits) when the decimal point would be more than 16
/// places right or 4 left of the first digit.
///
/// The digits are `zmij`'s, not the standard library's: of two that are equally near, that takes the even one as Python
/// does, where the standard library rounds up.
fn write_double(out: &mut Vec<u8>, value: f64) {
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let mut buffer = zmij::Buffer::new();
    let shortest = buffer.format_finite(value.abs());
    let (decimal, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    // At most 17 digits, and zeros before and after them.
    let mut buffer = [0; 64];
    let digits = &mut buffer[..whole.len() + fraction.len()];
    digits[..whole.len()].copy_from_slice(whole.as_bytes());
    digits[whole.len()..].copy_from_slice(fraction.as_bytes());
    // Always a number, as zmij wrote it.
    let exponent: i32 = exponent.parse().unwrap_or(0);
    write_decimal(out, digits, exponent + whole.len() as i32);
}

/// Appends the double 0.`digits` × 10^`point`, of which these are the shortest digits, and zeros at both ends perhaps.
pub(crate) fn write_decimal(out: &mut Vec<u8>, digits: &[u8], point: i32) {
    let Some(first) = digits.iter().position(|digit| *digit != b'0') else {
        out.extend_from_slice(b"0.0");
        return;
    };
    let last = digits.iter().rposition(|digit| *digit != b'0').unwrap_or(first);
    write_digits(out, &digits[first..=last], point - first as i32);
}

/// The same without zeros at the ends.
fn write_digits(out: &mut Vec<u8>, digits: &[u8], point: i32) {
    let zeros = |out: &mut Vec<u8>, count: usize| out.resize(out.len() + count, b'0');
    match point {
        -3..=0 => {
            out.extend_from_slice(b"0.");
            zeros(out, point.unsigned_abs() as usize);
            out.extend_from_slice(digits);
        }
        1..=16 if point as usize >= digits.len() => {
            out.extend_from_slice(digits);
            zeros(out, point as usize - digits.len());
            out.extend_from_slice(b".0");
        }
        1..=16 => {
            let (whole, fraction) = digits.split_at(point as usize);
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
        _ => write_exponential(out, digits, point - 1),
    }
}

fn write_exponential(out: &mut Vec<u8>, digits: &[u8], exponent: i32) {
    out.push(digits[0]);
    if digits.len() > 1 {
        out.push(b'.');
        out.extend_from_slice(&digits[1..]);
    }
    out.push(b'e');
    out.push(if exponent < 0 { b'-' } else { b'+' });
    // Infallible: a vector takes any bytes.
    let _ = write!(out, "{:02}", exponent.unsigned_abs());
}
