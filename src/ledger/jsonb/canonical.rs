//! Makes the canonical text of a jsonb from its bytes, and finds single members in it. Every entry's metadata goes this
//! way when it is sealed and when it is verified. By way of jsonb's own text it would be printed, parsed and printed
//! again.

use super::layout::{DECIMALS, MAX_DEPTH};
use super::read::{decimal_count, text, Child, Container, Key, Kind, Number, Value};
use crate::ledger::canonical_json::{is_plain_text, write_decimal, write_number, write_string, KEPT_DECIMALS};

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The text states every number exactly (see [`keeps_number`](crate::ledger::canonical_json::keeps_number)).
    pub keeps_numbers: bool,
}

/// The longest text that is made, in bytes: no value of Postgres is longer (its `MaxAllocSize`). A numeric of a few
/// bytes has up to 131,072 digits, so the text of a small jsonb has no other bound.
const MAX_TEXT: usize = 0x3fff_ffff;

/// Appends the canonical text of a jsonb, given without its varlena header. `None`, with an unspecified part appended,
/// where it cannot: Postgres would not have stored it so (see [`is_sound`](super::is_sound)), or a number overflows a
/// double, values are nested too deep, or the text is longer than a value of Postgres.
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
            Kind::Scalar => self.value(container.next().filter(|child| !child.is_container())?, depth)?,
        }
        container.end()
    }

    fn array(&mut self, container: &mut Container<'b>, depth: usize) -> Option<()> {
        self.out.push(b'[');
        for index in 0..container.count {
            self.separate(index);
            self.value(container.next()?, depth)?;
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
        self.members[first..].sort_unstable_by_key(|(key, _)| *key);
        self.out.push(b'{');
        for index in 0..container.count {
            let (key, value) = self.members[first + index];
            self.separate(index);
            self.string(key.bytes)?;
            self.out.extend_from_slice(b": ");
            self.value(value, depth)?;
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

    /// Most of the metadata of an entry are short strings, for which a call takes as long as what it does: hence
    /// inlined, as [`Writer::string`] and [`Child::value`] are.
    #[inline(always)]
    fn value(&mut self, child: Child<'b>, depth: usize) -> Option<()> {
        match child.value()? {
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

    #[inline(always)]
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
            print_whole(number, self.out);
            return Some(());
        }
        if number.decimals() <= KEPT_DECIMALS {
            write_kept(number, self.out);
            return Some(());
        }
        self.keeps_numbers = false;
        self.number.clear();
        print(number, &mut self.number);
        write_number(self.out, std::str::from_utf8(&self.number).ok()?).ok()
    }
}

/// Appends a numeric that a double keeps. No two numerics with so few decimals are the same double. So no shorter text
/// reads back as this one, and it is printed with the decimals that it has.
fn write_kept(number: &Number, out: &mut Vec<u8>) {
    if number.is_negative {
        out.push(b'-');
    }
    // Fifteen decimals are in five digits at most.
    let mut buffer = [[0; DECIMALS]; 5];
    let count = number.digits().len();
    buffer.iter_mut().zip(number.digits()).for_each(|(group, digit)| *group = decimals(digit));
    write_decimal(out, &buffer.as_flattened()[..DECIMALS * count], DECIMALS as i32 * (number.weight + 1));
}

/// Appends the decimal text of a numeric as `numeric_out` prints it.
fn print(number: &Number, out: &mut Vec<u8>) {
    print_whole(number, out);
    out.push(b'.');
    let end = out.len() + number.scale;
    let mut index = number.weight + 1;
    while out.len() < end {
        out.extend_from_slice(&decimals(number.digit(index)));
        index += 1;
    }
    out.truncate(end);
}

/// The same up to the point.
fn print_whole(number: &Number, out: &mut Vec<u8>) {
    if number.is_negative {
        out.push(b'-');
    }
    if number.weight < 0 {
        out.push(b'0');
        return;
    }
    let first = number.digit(0);
    let zeros = DECIMALS - decimal_count(first);
    // Moves the others to the front: a move of four bytes is cheaper than one of a variable number.
    let shown = u32::from_le_bytes(decimals(first)) >> (8 * zeros);
    out.extend_from_slice(&shown.to_le_bytes());
    out.truncate(out.len() - zeros);
    (1..=number.weight).for_each(|index| out.extend_from_slice(&decimals(number.digit(index))));
}

/// The four decimals of a digit.
pub(super) fn decimals(digit: u16) -> [u8; DECIMALS] {
    // Both pairs at once: times 103 and by 1024 is by ten, for what is below a hundred.
    let pairs = u32::from(digit / 100) | u32::from(digit % 100) << 16;
    let tens = ((pairs * 103) >> 10) & 0x000f_000f;
    let ones = pairs - 10 * tens;
    (u32::from_le_bytes([b'0'; 4]) + tens + (ones << 8)).to_le_bytes()
}
