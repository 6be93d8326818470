//! The bytes of a jsonb, from canonical text. Recording writes the metadata of each entry as a jsonb; `jsonb_in` takes
//! about as long for that as everything else about the entry.

use super::layout::*;
use crate::ledger::canonical_json::{decode, string_end, value_end};
use memchr::memchr;
use std::borrow::Cow;
use std::ops::Range;

/// A jsonb with its varlena header, byte for byte what `jsonb_in` makes of the text. The caller has made sure that it
/// is canonical. `None` where it is left to `jsonb_in`: the text is no object or array, a number has an exponent or is
/// a negative zero, a string has a NUL, which `jsonb_in` refuses, or values are nested too deep or are too large.
pub fn encode(canonical: &str) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(VARLENA_HEADER + canonical.len());
    encoder.text = canonical;
    let end = encoder.container(0, 0)?;
    (end == canonical.len()).then(|| encoder.finish()).flatten()
}

/// The same for an object whose members are at hand: their names, which need no escapes, in the order of a jsonb, and
/// where in `values` the canonical text of each value stands.
pub fn encode_object(values: &str, members: &[(&str, Range<usize>)]) -> Option<Vec<u8>> {
    // An entry for each name and each value.
    let names = members.iter().map(|(name, _)| 8 + name.len()).sum::<usize>();
    let mut encoder = Encoder::new(8 + names + values.len());
    encoder.text = values;
    let mut entries = encoder.begin(IS_OBJECT, members.len(), 2 * members.len());
    for (name, _) in members {
        encoder.string(name, &mut entries)?;
    }
    let is_verbatim = memchr(b'\\', values.as_bytes()).is_none();
    for (_, Range { start, end }) in members {
        encoder.value(Token { start: *start, end: *end, is_verbatim }, &mut entries, 0)?;
    }
    encoder.finish()
}

struct Encoder<'a> {
    text: &'a str,
    out: Vec<u8>,
}

/// A key and its value.
type Member<'a> = (Cow<'a, str>, Token);

/// Where a value stands in the text. Looked for once: strings are most of it.
#[derive(Clone, Copy)]
struct Token {
    start: usize,
    end: usize,
    /// A string that is known to have no escapes.
    is_verbatim: bool,
}

/// The entries of a container, while its children are written.
struct Entries {
    /// Where the next one stands in the output.
    next: usize,
    count: usize,
    /// Bytes of the children so far.
    length: usize,
}

impl<'a> Encoder<'a> {
    fn new(capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.extend_from_slice(&[0; VARLENA_HEADER]);
        Encoder { text: "", out }
    }

    fn finish(mut self) -> Option<Vec<u8>> {
        let length = self.out.len();
        if length > LENGTH_MASK as usize {
            return None;
        }
        self.put(0, varlena_header(length));
        Some(self.out)
    }

    /// Writes the container that begins at `at`, without padding before it; returns where its text ends.
    fn container(&mut self, at: usize, depth: usize) -> Option<usize> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.text.as_bytes().get(at)? {
            b'{' => self.object(at, depth),
            b'[' => self.array(at, depth),
            _ => None,
        }
    }

    fn array(&mut self, at: usize, depth: usize) -> Option<usize> {
        let (values, end) = self.values(at)?;
        let mut entries = self.begin(IS_ARRAY, values.len(), values.len());
        for value in values {
            self.value(value, &mut entries, depth)?;
        }
        Some(end)
    }

    /// Keys first, in the order of their lengths, then their values.
    fn object(&mut self, at: usize, depth: usize) -> Option<usize> {
        let (mut members, end) = self.members(at)?;
        members.sort_unstable_by(|(a, _), (b, _)| (a.len(), a.as_bytes()).cmp(&(b.len(), b.as_bytes())));
        let mut entries = self.begin(IS_OBJECT, members.len(), 2 * members.len());
        for (key, _) in &members {
            self.string(key, &mut entries)?;
        }
        for (_, value) in &members {
            self.value(*value, &mut entries, depth)?;
        }
        Some(end)
    }

    /// The values of an array, and where it ends.
    fn values(&self, at: usize) -> Option<(Vec<Token>, usize)> {
        let mut values = Vec::new();
        let mut at = at + 1;
        while *self.text.as_bytes().get(at)? != b']' {
            let value = self.token(at)?;
            values.push(value);
            at = self.after(value.end)?;
        }
        Some((values, at + 1))
    }

    /// The members of an object, and where it ends.
    fn members(&self, at: usize) -> Option<(Vec<Member<'a>>, usize)> {
        let bytes = self.text.as_bytes();
        let mut members = Vec::with_capacity(16);
        let mut at = at + 1;
        while *bytes.get(at)? != b'}' {
            let (key_end, is_verbatim) = string_end(bytes, at).ok()?;
            let key = decode(self.text.get(at..key_end)?, is_verbatim)?;
            // A colon and a space.
            let value = self.token(key_end + 2)?;
            members.push((key, value));
            at = self.after(value.end)?;
        }
        Some((members, at + 1))
    }

    /// The value that begins at `start`.
    fn token(&self, start: usize) -> Option<Token> {
        let bytes = self.text.as_bytes();
        let (end, is_verbatim) = match bytes.get(start)? {
            b'"' => string_end(bytes, start).ok()?,
            _ => (value_end(bytes, start)?, false),
        };
        Some(Token { start, end, is_verbatim })
    }

    /// Past the comma and the space behind a value, if it is not the last.
    fn after(&self, at: usize) -> Option<usize> {
        Some(if *self.text.as_bytes().get(at)? == b',' { at + 2 } else { at })
    }

    fn begin(&mut self, kind: u32, count: usize, children: usize) -> Entries {
        self.out.extend_from_slice(&(kind | count as u32).to_ne_bytes());
        let next = self.out.len();
        self.out.resize(next + 4 * children, 0);
        Entries { next, count: 0, length: 0 }
    }

    fn value(&mut self, token: Token, entries: &mut Entries, depth: usize) -> Option<()> {
        let before = self.out.len();
        let text = self.text.get(token.start..token.end)?;
        let kind = match *text.as_bytes().first()? {
            b'"' => {
                let text = decode(text, token.is_verbatim)?;
                return self.string(&text, entries);
            }
            b'{' | b'[' => {
                self.align();
                if self.container(token.start, depth + 1)? != token.end {
                    return None;
                }
                CONTAINER
            }
            b't' => TRUE,
            b'f' => FALSE,
            b'n' => NULL,
            _ => {
                self.align();
                self.numeric(text)?;
                NUMERIC
            }
        };
        self.end_child(kind, before, entries)
    }

    /// A NUL has no place in a text of Postgres.
    fn string(&mut self, text: &str, entries: &mut Entries) -> Option<()> {
        if memchr::memchr(0, text.as_bytes()).is_some() {
            return None;
        }
        let before = self.out.len();
        self.out.extend_from_slice(text.as_bytes());
        self.end_child(STRING, before, entries)
    }

    /// Writes the entry of a child whose bytes, padding included, stand from `before` to the end.
    fn end_child(&mut self, kind: u32, before: usize, entries: &mut Entries) -> Option<()> {
        let length = self.out.len() - before;
        entries.length += length;
        if entries.length > LENGTH_MASK as usize {
            return None;
        }
        let is_offset = entries.count.is_multiple_of(OFFSET_STRIDE);
        let entry = if is_offset { entries.length as u32 | HAS_OFFSET } else { length as u32 };
        self.put(entries.next, kind | entry);
        entries.next += 4;
        entries.count += 1;
        Some(())
    }

    fn align(&mut self) {
        self.out.resize(aligned(self.out.len()), 0);
    }

    fn put(&mut self, at: usize, word: u32) {
        self.out[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }

    /// Writes a decimal number as `numeric_in` stores it: groups of four digits counted from the point, zeros at both
    /// ends left out.
    fn numeric(&mut self, token: &str) -> Option<()> {
        let unsigned = token.strip_prefix('-').unwrap_or(token);
        let is_negative = unsigned.len() < token.len();
        let digits = unsigned.as_bytes();
        let point = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
        let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or_default());
        if whole.is_empty() {
            return None;
        }
        let start = self.out.len();
        self.out.extend_from_slice(&[0; VARLENA_HEADER + 2]);
        let weight = self.groups(whole, fraction)?;
        let size = self.out.len() - start;
        let is_zero = size == VARLENA_HEADER + 2;
        if is_zero && is_negative {
            // There is no negative zero.
            return None;
        }
        let header = short_header(is_negative, fraction.len(), if is_zero { 0 } else { weight })?;
        self.put(start, varlena_header(size));
        self.out[start + VARLENA_HEADER..][..2].copy_from_slice(&header.to_ne_bytes());
        Some(())
    }

    /// Writes the groups of a number; returns the weight of the first that is not zero.
    fn groups(&mut self, whole: &[u8], fraction: &[u8]) -> Option<i32> {
        let start = self.out.len();
        let (first, rest) = whole.split_at(whole.len() % DECIMALS);
        let mut weight = whole.len().div_ceil(DECIMALS) as i32 - 1;
        let mut push = |group: u16| match group == 0 && self.out.len() == start {
            true => weight -= 1,
            false => self.out.extend_from_slice(&group.to_ne_bytes()),
        };
        if !first.is_empty() {
            push(group(first)?);
        }
        for digits in rest.chunks(DECIMALS).chain(fraction.chunks(DECIMALS)) {
            push(group(digits)? * [1, 10, 100, 1000][DECIMALS - digits.len()]);
        }
        while self.out.len() > start && self.out.ends_with(&[0; 2]) {
            self.out.truncate(self.out.len() - 2);
        }
        Some(weight)
    }
}

/// The value of up to four decimal digits.
fn group(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u16::from(digit - b'0')))
}

/// `None` for a number that needs the longer header.
fn short_header(is_negative: bool, scale: usize, weight: i32) -> Option<u16> {
    const LARGEST_SCALE: usize = (NUMERIC_SHORT_SCALE_MASK >> NUMERIC_SHORT_SCALE_SHIFT) as usize;
    if scale > LARGEST_SCALE || !(-64..64).contains(&weight) {
        return None;
    }
    let sign = if is_negative { NUMERIC_SHORT_NEGATIVE } else { 0 };
    // The lowest seven bits of the weight, of which the highest is its sign.
    let weight = weight as u16 & (NUMERIC_SHORT_WEIGHT_SIGN | NUMERIC_SHORT_WEIGHT_MASK);
    Some(NUMERIC_SHORT | sign | (scale as u16) << NUMERIC_SHORT_SCALE_SHIFT | weight)
}
