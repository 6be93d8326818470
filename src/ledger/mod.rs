//! The domain: what a ledger is, byte for byte. Pure: no Postgres, no unsafe code, and no I/O except through `std::io`
//! traits.
//!
//! | module | what it is |
//! |---|---|
//! | [`canonical_json`] | the one text of a JSON value, so that equal values have equal hashes |
//! | [`jsonb`] | the bytes of a Postgres jsonb, and its canonical text |
//! | [`signature`] | HMAC-SHA256 over a data hash, and the ring of secrets |
//! | [`merkle`] | the Merkle root over one block's data hashes |
//! | [`log_tree`] | the RFC 6962 tree over all sealed entries, and its proofs |
//! | [`timestamp`] | the times that lines state |
//! | [`entry_clock`] | the times of entries that a ledger makes by itself, which do not go back where the clock does |
//! | [`record`] | the lines of a ledger file: header, entry, block, void |
//! | [`block`] | how a block is made and hashed |
//! | [`metadata`] | the metadata of an entry that the ledger makes by itself |
//! | [`row_change`] | what an entry says about a row of a tracked table |
//! | [`row_shape`] | the columns that such an entry covers, and what becomes of them |
//! | [`row_value`] | how a value of a row is stated, where that is not plain |
//! | [`row_index`], [`row_runs`], [`row_filter`] | how the sealed entries about one row are found |
//! | [`row_check`] | whether all of them are found so |
//! | [`file_ranges`], [`file_hole`] | parts of a ledger file; zeros that a loss of power leaves in it |
//! | [`pending_floor`] | before which page of a table nothing is pending |
//! | [`pauses`] | lets the caller in during long work |
//! | [`lag`] | how far a ledger file is behind its database |
//! | [`sealing_pace`] | how much of its time the process that seals spends on it |
//! | [`wal`] | places in the WAL of a Postgres server |
//! | [`verifier`] | streaming verification of tables and files |
#![forbid(unsafe_code)]

pub mod block;
pub mod canonical_json;
pub mod entry_clock;
pub mod file_hole;
pub mod file_ranges;
pub mod jsonb;
pub mod lag;
pub mod log_tree;
pub mod merkle;
pub mod metadata;
pub mod pauses;
pub mod pending_floor;
pub mod record;
pub mod row_change;
pub mod row_check;
pub mod row_filter;
pub mod row_index;
pub mod row_runs;
pub mod row_shape;
pub mod row_value;
pub mod sealing_pace;
pub mod signature;
pub mod timestamp;
pub mod verifier;
pub mod wal;

#[cfg(test)]
pub(crate) mod test_support;

use sha2::{Digest, Sha256};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// The SHA-256 digest of `bytes`.
pub fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// The SHA-256 digest of `bytes` as 64 lower-case hex digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    to_hex(&sha256(bytes))
}

/// `bytes` in lower-case hex, two digits a byte.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut digits = vec![0; 2 * bytes.len()];
    let (pairs, _) = digits.as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(bytes) {
        *pair = DIGITS[*byte as usize];
    }
    ascii_text(digits)
}

/// The two digits of each byte. A table, because hashes are written for every row that is recorded: the `hex` crate
/// goes digit by digit, and takes four times as long.
const DIGITS: [[u8; 2]; 256] = {
    let digit = *b"0123456789abcdef";
    let mut digits = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        digits[byte] = [digit[byte >> 4], digit[byte & 0xf]];
        byte += 1;
    }
    digits
};

/// Bytes that are ASCII by construction, so that none is ever replaced, as text.
pub(crate) fn ascii_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// The beginning of a text, enough to recognise it in a message: at most `most` characters, and an ellipsis for the
/// rest.
pub fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The value of each lower-case hex digit, and `NO_DIGIT` for other bytes. A table because every hash of every line
/// goes through it, and because the `hex` crate also takes upper case.
const DIGIT_VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};
const NO_DIGIT: u8 = 0xff;

/// The digest that 64 lower-case hex digits stand for; `None` for anything else, upper case included.
pub fn parse_hash(text: &str) -> Option<Hash> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let (pairs, _) = digits.as_chunks::<2>();
    let mut hash = Hash::default();
    let mut seen = 0;
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        let (high, low) = (DIGIT_VALUES[*high as usize], DIGIT_VALUES[*low as usize]);
        *byte = high << 4 | low & 0xf;
        seen |= high | low;
    }
    (seen < 16).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_has_two_lower_case_digits_a_byte() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(to_hex(&bytes), hex::encode(&bytes));
        assert_eq!(to_hex(&[]), "");
    }

    #[test]
    fn a_hash_is_64_lower_case_hex_digits_and_nothing_else() {
        let text = sha256_hex(b"empty");
        assert_eq!(parse_hash(&text), Some(sha256(b"empty")));
        assert_eq!(parse_hash(&text.to_uppercase()), None);
        assert_eq!(parse_hash(&text[1..]), None);
        assert_eq!(parse_hash(&format!("{text}0")), None);
        assert_eq!(parse_hash(&text.replace(&text[..1], "g")), None);
        assert_eq!(parse_hash(""), None);
    }

    #[test]
    fn only_a_text_that_is_too_long_is_shortened_and_says_so() {
        assert_eq!(shortened("", 3), "");
        assert_eq!(shortened("né ", 3), "né ");
        assert_eq!(shortened("né x", 3), "né …");
        assert_eq!(shortened(&"日".repeat(1000), 80), "日".repeat(80) + "…");
    }
}
