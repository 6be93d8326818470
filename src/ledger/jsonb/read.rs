//! Reads a jsonb strictly: it is accepted only if Postgres itself would have stored the value so. The functions of
//! Postgres check nothing of what they read, and damaged bytes lead them out of the value. And if one value could be
//! stored in several ways, two readers could see two values in the same bytes.

use super::layout::*;
use crate::ledger::canonical_json::is_plain_text;

/// Whether Postgres itself can have stored these bytes, which have no varlena header: then its functions read them, as
/// the value that they are.
pub fn is_sound(jsonb: &[u8]) -> bool {
    let mut inner = Vec::new();
    let mut next = Container::open(jsonb, true);
    while let Some(container) = next {
        if look_through(container, &mut inner).is_none() {
            return false;
        }
        match inner.pop() {
            None => return true,
            Some(bytes) => next = Container::open(bytes, false),
        }
    }
    false
}

/// Pushes the containers inside.
fn look_through<'a>(mut container: Container<'a>, inner: &mut Vec<&'a [u8]>) -> Option<()> {
    let is_scalar = container.kind == Kind::Scalar;
    if container.kind == Kind::Object {
        let mut last = None;
        for _ in 0..container.count {
            let key = container.next_key_after(last)?;
            is_text(key.bytes).then_some(())?;
            last = Some(key);
        }
    }
    for _ in 0..container.count {
        match container.next()?.value()? {
            Value::Container(_) if is_scalar => return None,
            Value::Container(bytes) => inner.push(bytes),
            Value::String(bytes) if !is_text(bytes) => return None,
            _ => {}
        }
    }
    container.end()
}

fn is_text(bytes: &[u8]) -> bool {
    is_plain_text(bytes) || text(bytes).is_some()
}

/// Text in UTF-8. A text of Postgres holds no NUL.
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Array,
    Object,
    /// An array of one that stands for the value in it, which is no container.
    Scalar,
}

/// A container, whose children are read one after another.
pub(super) struct Container<'a> {
    pub kind: Kind,
    /// Elements or pairs.
    pub count: usize,
    /// The bytes of the children.
    data: &'a [u8],
    entries: &'a [[u8; 4]],
    /// How many children were read, and where the next begins.
    index: usize,
    at: usize,
}

impl<'a> Container<'a> {
    pub fn open(bytes: &'a [u8], is_outermost: bool) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<4>()?;
        let header = u32::from_ne_bytes(*header);
        let count = (header & COUNT_MASK) as usize;
        let (kind, children) = match header & !COUNT_MASK {
            IS_ARRAY => (Kind::Array, count),
            IS_OBJECT => (Kind::Object, 2 * count),
            IS_SCALAR_ARRAY if is_outermost && count == 1 => (Kind::Scalar, count),
            _ => return None,
        };
        let (entries, data) = rest.split_at_checked(4 * children)?;
        Some(Container { kind, count, data, entries: entries.as_chunks().0, index: 0, at: 0 })
    }

    /// The next child: of an object all keys, then their values.
    #[inline]
    pub fn next(&mut self) -> Option<Child<'a>> {
        let place = self.next_place()?;
        self.child(place)
    }

    /// Where the next child is. No child may end before it begins: the next one would share bytes with it, and
    /// containers that share their bytes at every depth would hold 2^64 values.
    #[inline]
    pub fn next_place(&mut self) -> Option<Place> {
        let entry = u32::from_ne_bytes(*self.entries.get(self.index)?);
        let has_offset = self.index.is_multiple_of(OFFSET_STRIDE);
        let length = (entry & LENGTH_MASK) as usize;
        let start = self.at;
        self.at = if has_offset { length } else { start + length };
        self.index += 1;
        let is_place = has_offset == (entry & HAS_OFFSET != 0) && self.at >= start;
        is_place.then_some(Place { kind: entry & TYPE_MASK, start, end: self.at })
    }

    #[inline]
    pub fn child(&self, place: Place) -> Option<Child<'a>> {
        let Place { kind, start, end } = place;
        Some(Child { kind, padding: (aligned(start) - start) as u32, bytes: self.data.get(start..end)? })
    }

    #[inline]
    pub fn next_key(&mut self) -> Option<Key<'a>> {
        let child = self.next().filter(|child| child.kind == STRING)?;
        Some(Key { prefix: prefix(child.bytes), bytes: child.bytes })
    }

    /// The next key, if it may come after the last one.
    #[inline]
    pub fn next_key_after(&mut self, last: Option<Key<'a>>) -> Option<Key<'a>> {
        self.next_key().filter(|key| last.is_none_or(|last| last.is_before(*key)))
    }

    /// After the last child there is nothing.
    pub fn end(&self) -> Option<()> {
        (self.at == self.data.len()).then_some(())
    }
}

/// The key of a member. They are ordered as their bytes are; in UTF-8, that is the order of code points.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key<'a> {
    /// See [`prefix`]; it nearly always tells the order.
    prefix: u64,
    pub bytes: &'a [u8],
}

impl Key<'_> {
    /// The order of keys in a jsonb: by length, then by bytes. No two are the same.
    fn is_before(self, next: Self) -> bool {
        match self.bytes.len() == next.bytes.len() {
            true => self < next,
            false => self.bytes.len() < next.bytes.len(),
        }
    }
}

/// The first eight bytes as a number that is ordered as they are, with zeros where there are none.
fn prefix(bytes: &[u8]) -> u64 {
    if let Some(first) = bytes.first_chunk() {
        return u64::from_be_bytes(*first);
    }
    let missing = 8 * (8 - bytes.len());
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        // They overlap, with the same bits.
        return u64::from(u32::from_be_bytes(*first)) << 32 | u64::from(u32::from_be_bytes(*last)) << missing;
    }
    bytes.iter().rev().fold(0, |number, byte| number >> 8 | u64::from(*byte) << 56)
}

/// Where the bytes of a child are among those of all children.
#[derive(Clone, Copy)]
pub(super) struct Place {
    kind: u32,
    start: usize,
    end: usize,
}

impl Place {
    pub fn is_of_string(self) -> bool {
        self.kind == STRING
    }
}

/// A child: of what type it is, and its bytes, with the padding before what has to be aligned.
#[derive(Clone, Copy, Default)]
pub(super) struct Child<'a> {
    kind: u32,
    padding: u32,
    pub bytes: &'a [u8],
}

pub(super) enum Value<'a> {
    String(&'a [u8]),
    Number(Number<'a>),
    Container(&'a [u8]),
    True,
    False,
    Null,
}

impl<'a> Child<'a> {
    pub fn is_container(self) -> bool {
        self.kind == CONTAINER
    }

    #[inline(always)]
    pub fn value(self) -> Option<Value<'a>> {
        match self.kind {
            STRING => Some(Value::String(self.bytes)),
            NUMERIC => Some(Value::Number(Number::read(self.aligned()?)?)),
            CONTAINER => Some(Value::Container(self.aligned()?)),
            TRUE if self.bytes.is_empty() => Some(Value::True),
            FALSE if self.bytes.is_empty() => Some(Value::False),
            NULL if self.bytes.is_empty() => Some(Value::Null),
            _ => None,
        }
    }

    /// The bytes without the padding before them, which is zeros. What is aligned has four bytes at least.
    fn aligned(self) -> Option<&'a [u8]> {
        let first = u32::from_le_bytes(*self.bytes.first_chunk()?);
        let is_zero = first & ((1 << (8 * self.padding)) - 1) == 0;
        is_zero.then(|| self.bytes.get(self.padding as usize..))?
    }
}

/// A numeric: its digits, of which the first counts 10000^`weight`, and how many decimals are shown.
pub(super) struct Number<'a> {
    pub is_negative: bool,
    pub weight: i32,
    pub scale: usize,
    digits: &'a [[u8; 2]],
}

impl<'a> Number<'a> {
    fn read(varlena: &'a [u8]) -> Option<Self> {
        let (length, bytes) = varlena.split_first_chunk()?;
        let (header, rest) = bytes.split_first_chunk()?;
        let header = u16::from_ne_bytes(*header);
        // NaN and the infinities have no place in JSON.
        let is_number = header & NUMERIC_SIGN_MASK != NUMERIC_SIGN_MASK;
        (is_number && u32::from_ne_bytes(*length) == varlena_header(varlena.len())).then_some(())?;
        let number = if header & NUMERIC_SHORT != 0 {
            let weight = i32::from(header & NUMERIC_SHORT_WEIGHT_MASK);
            Number {
                is_negative: header & NUMERIC_SHORT_NEGATIVE != 0,
                weight: if header & NUMERIC_SHORT_WEIGHT_SIGN != 0 { weight - 64 } else { weight },
                scale: usize::from((header & NUMERIC_SHORT_SCALE_MASK) >> NUMERIC_SHORT_SCALE_SHIFT),
                digits: halves(rest)?,
            }
        } else {
            // Accepted even where the short form would do. Postgres before 9.1 had no short form; pg_upgrade has kept
            // what tables have from then, and to_jsonb() copies it.
            let (weight, rest) = rest.split_first_chunk()?;
            Number {
                is_negative: header & NUMERIC_SIGN_MASK == NUMERIC_NEGATIVE,
                weight: i32::from(i16::from_ne_bytes(*weight)),
                scale: usize::from(header & NUMERIC_SCALE_MASK),
                digits: halves(rest)?,
            }
        };
        number.is_normal().then_some(number)
    }

    /// Whether the digits are digits, without zeros at either end, and none of them is hidden behind the scale.
    fn is_normal(&self) -> bool {
        let ([first, ..], [.., last]) = (self.digits, self.digits) else {
            return self.weight == 0 && !self.is_negative;
        };
        let (first, last) = (u16::from_ne_bytes(*first), u16::from_ne_bytes(*last));
        let decimals = DECIMALS as i32 * (self.digits.len() as i32 - 1 - self.weight);
        let hidden = decimals - self.scale as i32;
        first != 0
            && last != 0
            && self.digits().all(|digit| digit < DIGIT_BASE)
            && (hidden <= 0 || hidden < DECIMALS as i32 && last.is_multiple_of(10_u16.pow(hidden as u32)))
    }

    /// How many decimals its text has.
    pub fn decimals(&self) -> usize {
        let behind_first = DECIMALS * usize::try_from(self.weight).unwrap_or(0);
        let first = if self.weight < 0 { 1 } else { decimal_count(self.digit(0)) };
        first + behind_first + self.scale
    }

    /// The digits that are stored. Zeros may stand behind them.
    pub fn digits(&self) -> impl ExactSizeIterator<Item = u16> + '_ {
        self.digits.iter().map(|digit| u16::from_ne_bytes(*digit))
    }

    /// The digit with this index, zero where none is stored.
    pub fn digit(&self, index: i32) -> u16 {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.digits.get(index))
            .map_or(0, |digit| u16::from_ne_bytes(*digit))
    }
}

/// How many decimals a digit has without zeros before them.
pub(super) fn decimal_count(digit: u16) -> usize {
    match digit {
        1000.. => 4,
        100.. => 3,
        10.. => 2,
        _ => 1,
    }
}

fn halves(bytes: &[u8]) -> Option<&[[u8; 2]]> {
    let (halves, rest) = bytes.as_chunks();
    rest.is_empty().then_some(halves)
}
