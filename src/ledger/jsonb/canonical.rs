//! The canonical text of a jsonb, from its bytes. Every entry's metadata goes this way when it is sealed and when it is
//! verified; by way of jsonb's own text it would be printed, parsed and printed again. And single members of it.

use super::layout::MAX_DEPTH;
use super::read::{text, Child, Container, Key, Kind, Number, Value};
use crate::ledger::canonical_json::{is_plain_text, keeps_number, write_number, write_string};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The text states every number exactly (see [`keeps_number`]).
    pub keeps_numbers: bool,
}

/// The longest text that is made, in bytes: no value of Postgres is longer (its `MaxAllocSize`). A numeric of a few bytes has
/// up to 131,072 digits, so the text of a small jsonb has no other bound.
const MAX_TEXT: usize = 0x3fff_ffff;

/// Appends the canonical text of a jsonb, given without its varlena header. `None`, with something or other appended, where it
/// cannot: Postgres would not have stored it so (see [`is_sound`](super::is_sound)), or a number overflows a double, values are
/// nested too deep, or the text is longer than a value of Postgres.
pub fn write_canonical(out: &mut Vec<u8>, jsonb: &[u8]) -> Option<Written> {
    write_up_to(MAX_TEXT, out, jsonb)
}

/// The same for a text of at most `limit` bytes.
pub(super) fn write_up_to(limit: usize, out: &mut Vec<u8>, jsonb: &[u8]) -> Option<Written> {
    let end = out.len() + limit;
    let mut writer = Writer { out, end, members: Vec::with_capacity(16), number: Vec::new(), keeps_numbers: true };
    writer.container(Container::open(jsonb, true)?, 0)?;
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
    let mut object = Container::open(jsonb, true).filter(|container| container.kind == Kind::Object)?;
    let mut places = [object.count; N];
    for index in 0..object.count {
        let key = object.next_key()?;
        if let Some(name) = names.iter().position(|name| name.as_bytes() == key.bytes) {
            places[name] = index;
        }
    }
    let mut found = [Found::Absent; N];
    for index in 0..object.count {
        let value = object.next_place()?;
        if let Some(name) = places.iter().position(|place| *place == index) {
            found[name] = if value.is_of_string() { Found::Text(object.child(value)?.bytes) } else { Found::Other };
        }
    }
    Some(found)
}

struct Writer<'a, 'b> {
    out: &'a mut Vec<u8>,
    /// The longest that `out` may be.
    end: usize,
    /// Members of the objects that are being written; the innermost object's are last.
    members: Vec<(Key<'b>, Child<'b>)>,
    number: Vec<u8>,
    keeps_numbers: bool,
}

impl<'b> Writer<'_, 'b> {
    fn container(&mut self, mut container: Container<'b>, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match container.kind {
            Kind::Object => self.object(&mut container, depth)?,
            Kind::Array => self.array(&mut container, depth)?,
            Kind::Scalar => match container.next()?.value()? {
                Value::Container(_) => return None,
                scalar => self.value(scalar, depth)?,
            },
        }
        container.end()
    }

    fn array(&mut self, container: &mut Container<'b>, depth: usize) -> Option<()> {
        self.out.push(b'[');
        for index in 0..container.count {
            self.separate(index);
            self.value(container.next()?.value()?, depth)?;
        }
        self.out.push(b']');
        Some(())
    }

    fn object(&mut self, container: &mut Container<'b>, depth: usize) -> Option<()> {
        let first = self.members.len();
        let mut last = None;
        for _ in 0..container.count {
            let key = container.next_key_after(last)?;
            self.members.push((key, Child::default()));
            last = Some(key);
        }
        for (_, value) in &mut self.members[first..] {
            *value = container.next()?;
        }
        self.members[first..].sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.out.push(b'{');
        for index in 0..container.count {
            let (key, value) = self.members[first + index];
            self.separate(index);
            self.string(key.bytes)?;
            self.out.extend_from_slice(b": ");
            self.value(value.value()?, depth)?;
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

    fn value(&mut self, value: Value<'b>, depth: usize) -> Option<()> {
        match value {
            Value::String(text) => self.string(text)?,
            Value::Number(number) => self.number(&number)?,
            Value::Container(bytes) => self.container(Container::open(bytes, false)?, depth + 1)?,
            Value::True => self.out.extend_from_slice(b"true"),
            Value::False => self.out.extend_from_slice(b"false"),
            Value::Null => self.out.extend_from_slice(b"null"),
        }
        self.check_length()
    }

    fn check_length(&self) -> Option<()> {
        (self.out.len() <= self.end).then_some(())
    }

    fn string(&mut self, bytes: &[u8]) -> Option<()> {
        if !is_plain_text(bytes) {
            write_string(self.out, text(bytes)?);
            return Some(());
        }
        self.out.push(b'"');
        self.out.extend_from_slice(bytes);
        self.out.push(b'"');
        Some(())
    }

    fn number(&mut self, number: &Number) -> Option<()> {
        if number.scale == 0 {
            print(number, self.out);
            return Some(());
        }
        self.number.clear();
        print(number, &mut self.number);
        let text = std::str::from_utf8(&self.number).ok()?;
        self.keeps_numbers &= keeps_number(text);
        write_number(self.out, text).ok()
    }
}

/// Appends the decimal text of a numeric as `numeric_out` prints it.
fn print(number: &Number, out: &mut Vec<u8>) {
    if number.is_negative {
        out.push(b'-');
    }
    let whole = out.len();
    for index in 0..=number.weight {
        push_decimals(out, number.digit(index));
    }
    let zeros = out[whole..].iter().take_while(|decimal| **decimal == b'0').count();
    out.drain(whole..whole + zeros);
    if out.len() == whole {
        out.push(b'0');
    }
    if number.scale > 0 {
        out.push(b'.');
        let end = out.len() + number.scale;
        let mut index = number.weight + 1;
        while out.len() < end {
            push_decimals(out, number.digit(index));
            index += 1;
        }
        out.truncate(end);
    }
}

fn push_decimals(out: &mut Vec<u8>, digit: u16) {
    let decimal = |value: u16| b'0' + (value % 10) as u8;
    out.extend_from_slice(&[decimal(digit / 1000), decimal(digit / 100), decimal(digit / 10), decimal(digit)]);
}
