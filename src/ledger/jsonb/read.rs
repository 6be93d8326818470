//! Reading a jsonb strictly: it is taken only if Postgres itself would have stored the value so. Core functions check nothing
//! of what they read, and go elsewhere or to nowhere in bytes that are damaged; and where one value could be stored in several
//! ways, two readers could see two values in the same bytes.

use super::layout::*;

/// Whether Postgres itself can have stored these bytes, which have no varlena header: then its functions read them, as the
/// value that they are.
pub fn is_sound(jsonb: &[u8]) -> bool {
    let mut keys = Vec::new();
    let mut inner = Vec::new();
    let mut next = Container::open(jsonb, true);
    while let Some(container) = next {
        if look_through(container, &mut keys, &mut inner).is_none() {
            return false;
        }
        match inner.pop() {
            None => return true,
            Some(bytes) => next = Container::open(bytes, false),
        }
    }
    false
}

/// Pushes the containers inside. `keys` is a buffer.
fn look_through<'a>(mut container: Container<'a>, keys: &mut Vec<&'a [u8]>, inner: &mut Vec<&'a [u8]>) -> Option<()> {
    let is_scalar = container.kind == Kind::Scalar;
    if container.kind == Kind::Object {
        keys.clear();
        for _ in 0..container.count {
            keys.push(container.next_key()?.bytes(container.data)?);
        }
        let are_texts = keys.iter().all(|key| is_text(key));
        let are_in_order = keys.windows(2).all(|pair| is_before(pair[0], pair[1]));
        (are_texts && are_in_order).then_some(())?;
    }
    for _ in 0..container.count {
        match container.next()?.value(container.data)? {
            Value::Container(_) if is_scalar => return None,
            Value::Container(bytes) => inner.push(bytes),
            Value::String(text) if !is_text(text) => return None,
            _ => {}
        }
    }
    container.end()
}

fn is_text(bytes: &[u8]) -> bool {
    text(bytes).is_some()
}

/// Text in UTF-8. A text of Postgres holds no NUL.
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// The order of keys in a jsonb: by length, then by bytes. No two are the same.
pub(super) fn is_before(key: &[u8], next: &[u8]) -> bool {
    (key.len(), key) < (next.len(), next)
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
    pub data: &'a [u8],
    entries: &'a [u8],
    /// How many children were read, and where the next begins.
    index: usize,
    at: usize,
}

impl<'a> Container<'a> {
    pub fn open(bytes: &'a [u8], is_outermost: bool) -> Option<Self> {
        let header = word(bytes, 0)?;
        let count = (header & COUNT_MASK) as usize;
        let (kind, children) = match header & !COUNT_MASK {
            IS_ARRAY => (Kind::Array, count),
            IS_OBJECT => (Kind::Object, 2 * count),
            IS_SCALAR_ARRAY if is_outermost && count == 1 => (Kind::Scalar, count),
            _ => return None,
        };
        let (entries, data) = bytes.get(4..)?.split_at_checked(4 * children)?;
        Some(Container { kind, count, data, entries, index: 0, at: 0 })
    }

    /// The next child: of an object all keys, then their values. None ends before it begins: the one after it would have
    /// bytes of it as well, and containers that share their bytes at every depth would hold 2^64 values.
    pub fn next(&mut self) -> Option<Child> {
        let entry = word(self.entries, 4 * self.index)?;
        let has_offset = self.index.is_multiple_of(OFFSET_STRIDE);
        let length = (entry & LENGTH_MASK) as usize;
        let start = self.at;
        self.at = if has_offset { length } else { start + length };
        self.index += 1;
        let is_child = has_offset == (entry & HAS_OFFSET != 0) && self.at >= start;
        is_child.then_some(Child { entry, start, end: self.at })
    }

    pub fn next_key(&mut self) -> Option<Child> {
        self.next().filter(|key| key.entry & TYPE_MASK == STRING)
    }

    /// After the last child there is nothing.
    pub fn end(&self) -> Option<()> {
        (self.at == self.data.len()).then_some(())
    }
}

/// A child: its entry, and where its bytes are, from the beginning of those of all children.
#[derive(Clone, Copy, Default)]
pub(super) struct Child {
    entry: u32,
    start: usize,
    end: usize,
}

pub(super) enum Value<'a> {
    String(&'a [u8]),
    Number(Number<'a>),
    Container(&'a [u8]),
    True,
    False,
    Null,
}

impl Child {
    pub fn bytes(self, data: &[u8]) -> Option<&[u8]> {
        data.get(self.start..self.end)
    }

    pub fn is_string(self) -> bool {
        self.entry & TYPE_MASK == STRING
    }

    pub fn value(self, data: &[u8]) -> Option<Value<'_>> {
        let bytes = self.bytes(data)?;
        match self.entry & TYPE_MASK {
            STRING => Some(Value::String(bytes)),
            NUMERIC => Some(Value::Number(Number::read(self.aligned(bytes)?)?)),
            CONTAINER => Some(Value::Container(self.aligned(bytes)?)),
            TRUE if bytes.is_empty() => Some(Value::True),
            FALSE if bytes.is_empty() => Some(Value::False),
            NULL if bytes.is_empty() => Some(Value::Null),
            _ => None,
        }
    }

    /// The bytes without the padding before them.
    fn aligned(self, bytes: &[u8]) -> Option<&[u8]> {
        let (padding, bytes) = bytes.split_at_checked(aligned(self.start) - self.start)?;
        padding.iter().all(|byte| *byte == 0).then_some(bytes)
    }
}

/// A numeric: its digits, of which the first counts 10000^`weight`, and how many decimals are shown.
pub(super) struct Number<'a> {
    pub is_negative: bool,
    pub weight: i32,
    pub scale: usize,
    digits: &'a [u8],
}

impl<'a> Number<'a> {
    fn read(varlena: &'a [u8]) -> Option<Self> {
        if word(varlena, 0)? != varlena_header(varlena.len()) {
            return None;
        }
        let bytes = &varlena[VARLENA_HEADER..];
        let header = half(bytes, 0)?;
        let number = if header & NUMERIC_SIGN_MASK == NUMERIC_SIGN_MASK {
            // NaN and the infinities have no place in JSON.
            return None;
        } else if header & NUMERIC_SHORT != 0 {
            let weight = i32::from(header & NUMERIC_SHORT_WEIGHT_MASK);
            Number {
                is_negative: header & NUMERIC_SHORT_NEGATIVE != 0,
                weight: if header & NUMERIC_SHORT_WEIGHT_SIGN != 0 { weight - 64 } else { weight },
                scale: usize::from((header & NUMERIC_SHORT_SCALE_MASK) >> NUMERIC_SHORT_SCALE_SHIFT),
                digits: &bytes[2..],
            }
        } else {
            Number {
                is_negative: header & NUMERIC_SIGN_MASK == NUMERIC_NEGATIVE,
                weight: i32::from(half(bytes, 2)? as i16),
                scale: usize::from(header & NUMERIC_SCALE_MASK),
                digits: &bytes[4..],
            }
        };
        number.is_normal().then_some(number)
    }

    /// Whether the digits are digits, without zeros at either end, and none of them is hidden behind the scale.
    fn is_normal(&self) -> bool {
        let count = self.digits.len() / 2;
        let Some(last) = count.checked_sub(1).map(|last| self.digit(last as i32)) else {
            return self.digits.is_empty() && self.weight == 0 && !self.is_negative;
        };
        let decimals = DECIMALS as i32 * (count as i32 - 1 - self.weight);
        let hidden = decimals - self.scale as i32;
        self.digits.len().is_multiple_of(2)
            && (0..count as i32).all(|index| self.digit(index) < DIGIT_BASE)
            && self.digit(0) != 0
            && last != 0
            && (hidden <= 0 || hidden < DECIMALS as i32 && last.is_multiple_of(10_u16.pow(hidden as u32)))
    }

    /// The digit with this index, zero where none is stored.
    pub fn digit(&self, index: i32) -> u16 {
        usize::try_from(index).ok().and_then(|index| half(self.digits, 2 * index)).unwrap_or(0)
    }
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}
