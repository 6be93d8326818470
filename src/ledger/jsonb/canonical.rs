//! The canonical text of a jsonb, from its bytes. Every entry's metadata goes this way when it is sealed and when it is
//! verified; by way of jsonb's own text it would be printed, parsed and printed again. And single members of it.

use super::layout::*;
use crate::ledger::canonical_json::{keeps_number, plain_end, write_number, write_string};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The text states every number exactly (see [`keeps_number`]).
    pub keeps_numbers: bool,
}

/// The longest text that is made, in bytes: no value of Postgres is longer (its `MaxAllocSize`). A numeric of a few bytes has
/// up to 131,072 digits, so the text of a small jsonb has no other bound.
const MAX_TEXT: usize = 0x3fff_ffff;

/// Appends the canonical text of a jsonb, given without its varlena header, in a database whose encoding is UTF-8. `None`,
/// with something or other appended, where it cannot: a number overflows a double, values are nested too deep, or the text
/// is longer than a value of Postgres.
pub fn write_canonical(out: &mut Vec<u8>, jsonb: &[u8]) -> Option<Written> {
    write_up_to(MAX_TEXT, out, jsonb)
}

/// The same for a text of at most `limit` bytes.
pub(super) fn write_up_to(limit: usize, out: &mut Vec<u8>, jsonb: &[u8]) -> Option<Written> {
    let end = out.len() + limit;
    let mut writer = Writer { out, end, members: Vec::with_capacity(16), number: Vec::new(), keeps_numbers: true };
    writer.container(jsonb, 0)?;
    writer.check_length()?;
    Some(Written { keeps_numbers: writer.keeps_numbers })
}

/// A member of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    Absent,
    Text(&'a [u8]),
    Other,
}

/// The members of these names of a jsonb, given without its varlena header; `None` if it is no object.
pub fn members<'a, const N: usize>(jsonb: &'a [u8], names: [&str; N]) -> Option<[Found<'a>; N]> {
    let header = word(jsonb, 0)?;
    if header & IS_OBJECT == 0 {
        return None;
    }
    let count = (header & COUNT_MASK) as usize;
    let (entries, data) = jsonb.get(4..)?.split_at_checked(8 * count)?;
    let mut children = Children { entries, at: 0 };
    let mut places = [count; N];
    for index in 0..count {
        let key = children.next()?;
        let key = data.get(key.start..key.end)?;
        if let Some(name) = names.iter().position(|name| name.as_bytes() == key) {
            places[name] = index;
        }
    }
    let mut found = [Found::Absent; N];
    for index in 0..count {
        let value = children.next()?;
        if let Some(name) = places.iter().position(|place| *place == index) {
            let is_text = value.entry & TYPE_MASK == STRING;
            found[name] = if is_text { Found::Text(data.get(value.start..value.end)?) } else { Found::Other };
        }
    }
    Some(found)
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// The longest that `out` may be.
    end: usize,
    /// Members of the objects that are being written; the innermost object's are last.
    members: Vec<Member>,
    number: Vec<u8>,
    keeps_numbers: bool,
}

/// A child: its entry, and where its bytes are, from the beginning of those of all children.
#[derive(Clone, Copy, Default)]
struct Child {
    entry: u32,
    start: usize,
    end: usize,
}

#[derive(Clone, Copy)]
struct Member {
    key: Child,
    /// The beginning of the key, which nearly always tells the order.
    prefix: u64,
    value: Child,
}

/// Reads the entries of a container one after another.
struct Children<'a> {
    entries: &'a [u8],
    at: usize,
}

impl Children<'_> {
    /// `None` also for a child that ends before it starts: the next one would have bytes of it as well, and containers that
    /// share their bytes at every depth would print 2^64 values.
    fn next(&mut self) -> Option<Child> {
        let entry = word(self.entries, 0)?;
        self.entries = self.entries.get(4..)?;
        let length = (entry & LENGTH_MASK) as usize;
        let start = self.at;
        self.at = if entry & HAS_OFFSET != 0 { length } else { start + length };
        (self.at >= start).then_some(Child { entry, start, end: self.at })
    }
}

impl Writer<'_> {
    fn container(&mut self, bytes: &[u8], depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let header = word(bytes, 0)?;
        let count = (header & COUNT_MASK) as usize;
        let children = if header & IS_OBJECT != 0 { 2 * count } else { count };
        let (entries, data) = bytes.get(4..)?.split_at_checked(4 * children)?;
        let children = Children { entries, at: 0 };
        if header & IS_OBJECT != 0 {
            self.object(children, count, data, depth)
        } else {
            self.array(children, count, data, depth, header & IS_SCALAR != 0)
        }
    }

    fn array(
        &mut self,
        mut children: Children,
        count: usize,
        data: &[u8],
        depth: usize,
        is_scalar: bool,
    ) -> Option<()> {
        if is_scalar {
            return self.value(children.next()?, data, depth);
        }
        self.out.push(b'[');
        for index in 0..count {
            self.separate(index);
            self.value(children.next()?, data, depth)?;
        }
        self.out.push(b']');
        Some(())
    }

    /// In jsonb, keys stand in the order of their lengths.
    fn object(&mut self, mut children: Children, count: usize, data: &[u8], depth: usize) -> Option<()> {
        let first = self.members.len();
        let text = |key: &Child| data.get(key.start..key.end).unwrap_or_default();
        for _ in 0..count {
            let key = children.next()?;
            self.members.push(Member { key, prefix: prefix(text(&key)), value: Child::default() });
        }
        for index in first..first + count {
            self.members[index].value = children.next()?;
        }
        // The order of code points is that of bytes in UTF-8.
        self.members[first..]
            .sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| text(&a.key).cmp(text(&b.key))));
        self.out.push(b'{');
        for index in 0..count {
            let member = self.members[first + index];
            self.separate(index);
            self.string(data.get(member.key.start..member.key.end)?)?;
            self.out.extend_from_slice(b": ");
            self.value(member.value, data, depth)?;
        }
        self.out.push(b'}');
        self.members.truncate(first);
        Some(())
    }

    fn separate(&mut self, index: usize) {
        if index > 0 {
            self.out.extend_from_slice(b", ");
        }
    }

    fn value(&mut self, child: Child, data: &[u8], depth: usize) -> Option<()> {
        match child.entry & TYPE_MASK {
            STRING => self.string(data.get(child.start..child.end)?)?,
            NUMERIC => self.numeric(data.get(aligned(child.start)..child.end)?)?,
            CONTAINER => self.container(data.get(aligned(child.start)..child.end)?, depth + 1)?,
            TRUE => self.out.extend_from_slice(b"true"),
            FALSE => self.out.extend_from_slice(b"false"),
            NULL => self.out.extend_from_slice(b"null"),
            _ => return None,
        }
        self.check_length()
    }

    fn check_length(&self) -> Option<()> {
        (self.out.len() <= self.end).then_some(())
    }

    fn string(&mut self, bytes: &[u8]) -> Option<()> {
        if plain_end(bytes, 0) < bytes.len() {
            write_string(self.out, std::str::from_utf8(bytes).ok()?);
            return Some(());
        }
        self.out.push(b'"');
        self.out.extend_from_slice(bytes);
        self.out.push(b'"');
        Some(())
    }

    fn numeric(&mut self, varlena: &[u8]) -> Option<()> {
        let length = varlena_length(word(varlena, 0)?);
        self.number.clear();
        print_numeric(varlena.get(VARLENA_HEADER..length)?, &mut self.number)?;
        let text = std::str::from_utf8(&self.number).ok()?;
        self.keeps_numbers &= keeps_number(text);
        write_number(self.out, text).ok()
    }
}

/// Appends the decimal text of a numeric, without its varlena header, as `numeric_out` prints it.
fn print_numeric(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let header = half(bytes, 0)?;
    let (is_negative, scale, weight, digits) = if header & NUMERIC_SHORT != 0 {
        // NaN and the infinities have both upper bits and no place in JSON.
        let weight = i32::from(header & NUMERIC_SHORT_WEIGHT_MASK);
        let weight = if header & NUMERIC_SHORT_WEIGHT_SIGN != 0 { weight - 64 } else { weight };
        let scale = (header & NUMERIC_SHORT_SCALE_MASK) >> NUMERIC_SHORT_SCALE_SHIFT;
        (header & NUMERIC_SHORT_NEGATIVE != 0, scale, weight, bytes.get(2..)?)
    } else {
        let is_negative = header & NUMERIC_SIGN_MASK == NUMERIC_NEGATIVE;
        (is_negative, header & NUMERIC_SCALE_MASK, i32::from(half(bytes, 2)? as i16), bytes.get(4..)?)
    };
    if header & NUMERIC_SIGN_MASK == NUMERIC_SIGN_MASK {
        return None;
    }
    let digit = |index: i32| usize::try_from(index).ok().and_then(|index| half(digits, 2 * index)).unwrap_or(0);
    if is_negative {
        out.push(b'-');
    }
    let whole = out.len();
    for index in 0..=weight {
        push_decimals(out, digit(index));
    }
    let zeros = out[whole..].iter().take_while(|decimal| **decimal == b'0').count();
    out.drain(whole..whole + zeros);
    if out.len() == whole {
        out.push(b'0');
    }
    if scale > 0 {
        out.push(b'.');
        let end = out.len() + usize::from(scale);
        let mut index = weight + 1;
        while out.len() < end {
            push_decimals(out, digit(index));
            index += 1;
        }
        out.truncate(end);
    }
    Some(())
}

fn push_decimals(out: &mut Vec<u8>, digit: u16) {
    let decimal = |value: u16| b'0' + (value % 10) as u8;
    out.extend_from_slice(&[decimal(digit / 1000), decimal(digit / 100), decimal(digit / 10), decimal(digit)]);
}

/// The first eight bytes as a number that is ordered as they are, with zeros where there are none.
fn prefix(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(first) => u64::from_be_bytes(*first),
        None => bytes.iter().rev().fold(0, |number, byte| number >> 8 | u64::from(*byte) << 56),
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
