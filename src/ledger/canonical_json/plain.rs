//! Plain bytes: those that stand in a canonical string as they are.

/// The offset of the first byte from `from` on that cannot be copied as it is within a canonical string.
pub(super) fn plain_end(bytes: &[u8], from: usize) -> usize {
    // Sixteen at a time without a branch, which the compiler turns into vector instructions. Names and values are
    // short, so what is left over counts as well.
    let (chunks, _) = bytes[from..].as_chunks::<16>();
    let whole = chunks.iter().take_while(|chunk| are_plain(chunk)).count();
    let mut at = from + whole * 16;
    let (words, rest) = bytes[at..].as_chunks::<8>();
    for word in words.iter().take(2) {
        let plain = plain_bytes(u64::from_le_bytes(*word));
        at += plain;
        if plain < 8 {
            return at;
        }
    }
    at + rest.iter().take_while(|byte| IS_PLAIN[usize::from(**byte)]).count()
}

/// Whether all bytes can be copied as they are within a canonical string.
pub(crate) fn is_plain_text(bytes: &[u8]) -> bool {
    // The last sixteen may overlap what was looked at before.
    let Some(last) = bytes.last_chunk::<16>() else { return is_plain_short_text(bytes) };
    let (chunks, rest) = bytes.as_chunks::<64>();
    let (rest, _) = rest.as_chunks::<16>();
    chunks.iter().all(are_plain) && rest.iter().all(are_plain) && are_plain(last)
}

/// The same for fewer than sixteen bytes.
fn is_plain_short_text(bytes: &[u8]) -> bool {
    let (first, last) = match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (Some(first), Some(last)) => {
                let word = u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last));
                return special(word) == 0;
            }
            _ => return bytes.iter().all(|byte| IS_PLAIN[usize::from(*byte)]),
        },
    };
    special(first) | special(last) == 0
}

/// Without a branch, which the compiler turns into vector instructions.
fn are_plain<const N: usize>(bytes: &[u8; N]) -> bool {
    bytes.iter().fold(0, |special, byte| special | u8::from(!is_plain(*byte))) == 0
}

/// How many bytes at the beginning of a little-endian word are plain.
fn plain_bytes(word: u64) -> usize {
    (special(word).trailing_zeros() / 8) as usize
}

/// Has the high bit of each byte that is not plain; also of others, but only above one that is not.
fn special(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // The high bit of a byte that is below `limit`, which is at most 0x80.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (word | word.wrapping_add(ONES) | below(word, 0x20) | is(b'"') | is(b'\\')) & HIGH
}

const IS_PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = is_plain(byte as u8);
        byte += 1;
    }
    table
};

const fn is_plain(byte: u8) -> bool {
    (byte >= 0x20) & (byte < 0x7f) & (byte != b'"') & (byte != b'\\')
}
