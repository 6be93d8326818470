//! How a jsonb lies in memory: a container, which is a count, an entry for each child, and the children's bytes.
//!
//! The layout is that of Postgres' `utils/jsonb.h`, and of `numeric.c` for numbers. It has not changed since 9.4, as it
//! is what tables hold and pg_upgrade leaves as it is.

/// Container header: how many elements or pairs, and of what kind it is.
pub const COUNT_MASK: u32 = 0x0fff_ffff;
pub const IS_OBJECT: u32 = 0x2000_0000;
pub const IS_ARRAY: u32 = 0x4000_0000;
/// An array of one that stands for the value in it.
pub const IS_SCALAR_ARRAY: u32 = 0x5000_0000;

/// Entry of a child: its length, or where it ends; and its type.
pub const LENGTH_MASK: u32 = 0x0fff_ffff;
pub const TYPE_MASK: u32 = 0x7000_0000;
pub const HAS_OFFSET: u32 = 0x8000_0000;
pub const STRING: u32 = 0x0000_0000;
pub const NUMERIC: u32 = 0x1000_0000;
pub const FALSE: u32 = 0x2000_0000;
pub const TRUE: u32 = 0x3000_0000;
pub const NULL: u32 = 0x4000_0000;
pub const CONTAINER: u32 = 0x5000_0000;
/// Every so many children an entry says where the child ends, not how long it is.
pub const OFFSET_STRIDE: usize = 32;

/// Numbers and containers begin at multiples of this.
pub const ALIGNMENT: usize = 4;
/// The bytes of the header of a varlena, and of the numerics inside.
pub const VARLENA_HEADER: usize = 4;

/// Values that are nested deeper are converted by way of text, so that nothing here runs out of stack.
pub const MAX_DEPTH: usize = 64;

/// Header of a numeric whose scale and weight are small.
pub const NUMERIC_SHORT: u16 = 0x8000;
pub const NUMERIC_SHORT_NEGATIVE: u16 = 0x2000;
pub const NUMERIC_SHORT_SCALE_SHIFT: u16 = 7;
pub const NUMERIC_SHORT_SCALE_MASK: u16 = 0x1f80;
pub const NUMERIC_SHORT_WEIGHT_SIGN: u16 = 0x0040;
pub const NUMERIC_SHORT_WEIGHT_MASK: u16 = 0x003f;
/// Header of any other.
pub const NUMERIC_SIGN_MASK: u16 = 0xc000;
pub const NUMERIC_NEGATIVE: u16 = 0x4000;
pub const NUMERIC_SCALE_MASK: u16 = 0x3fff;
/// A digit of a numeric is four decimal ones.
pub const DECIMALS: usize = 4;
pub const DIGIT_BASE: u16 = 10_000;

/// The length word of a varlena with a header of four bytes.
pub fn varlena_header(length: usize) -> u32 {
    match cfg!(target_endian = "little") {
        true => (length as u32) << 2,
        false => length as u32,
    }
}

pub fn aligned(offset: usize) -> usize {
    offset.next_multiple_of(ALIGNMENT)
}
