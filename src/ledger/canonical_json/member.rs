//! Looking into a canonical text without making values of it.

use super::parser::string_end;

/// The text of the member `name` of an object; `name` needs no escape. `object` is canonical JSON.
pub fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    members(object).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The members of an object, canonical JSON: keys as they stand between their quotes, and the texts of the values.
pub fn members(object: &str) -> impl Iterator<Item = (&str, &str)> {
    let bytes = object.as_bytes();
    let mut at = 1;
    std::iter::from_fn(move || {
        if bytes.get(at) != Some(&b'"') {
            return None;
        }
        let (key_end, _) = string_end(bytes, at).ok()?;
        // A colon and a space stand between key and value, a comma and a space between members.
        let start = key_end + 2;
        let end = value_end(bytes, start)?;
        let key = object.get(at + 1..key_end - 1)?;
        at = end + 2;
        Some((key, object.get(start..end)?))
    })
}

/// The same for a member that is a string without escapes.
pub fn plain_member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    plain(member(object, name)?)
}

/// The content of a string without escapes.
pub fn plain(value: &str) -> Option<&str> {
    value.strip_prefix('"')?.strip_suffix('"')
}

/// The offset after the value that begins at `start`.
pub(crate) fn value_end(bytes: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut depth) = (start, 0_usize);
    loop {
        match bytes.get(at)? {
            b'"' => at = string_end(bytes, at).ok()?.0,
            b'{' | b'[' => (at, depth) = (at + 1, depth + 1),
            b'}' | b']' => (at, depth) = (at + 1, depth.checked_sub(1)?),
            _ => at += scalar_length(&bytes[at..]),
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The length of a number or literal, or of what separates values.
fn scalar_length(bytes: &[u8]) -> usize {
    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
    bytes.iter().take_while(is_part).count().max(1)
}

/// Whether the canonical form states every number of this JSON text exactly. A number with an exponent, or with a
/// fraction and more digits than a double surely keeps, may come out as a neighbour.
pub fn keeps_numbers(json: &str) -> bool {
    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => match string_end(bytes, at) {
                Ok((end, _)) => at = end,
                Err(_) => return false,
            },
            b'-' | b'0'..=b'9' => {
                let length = scalar_length(&bytes[at..]);
                if !keeps_number(&json[at..at + length]) {
                    return false;
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    true
}

/// Whether the canonical form of this JSON text has all of its members: of several with one key, it has the last.
pub fn keeps_members(json: &str, canonical: &str) -> bool {
    member_count(json) == member_count(canonical)
}

/// How many members the objects in a JSON text have, whatever their depth. Outside of strings, each has one colon.
fn member_count(json: &str) -> usize {
    let bytes = json.as_bytes();
    let (mut at, mut count) = (0, 0);
    while let Some(found) = memchr::memchr2(b'"', b':', &bytes[at..]) {
        at += found;
        if bytes[at] == b':' {
            count += 1;
            at += 1;
        } else {
            at = string_end(bytes, at).map_or(bytes.len(), |(end, _)| end);
        }
    }
    count
}

/// So many decimal digits survive the way to a double and back (IEEE 754, `DBL_DIG`).
pub(crate) const KEPT_DECIMALS: usize = 15;

/// The same for one number. The sign of a zero does not survive the way to a numeric and back.
pub fn keeps_number(token: &str) -> bool {
    let has_exponent = token.contains(['e', 'E']);
    !has_exponent && (!token.contains('.') || keeps_fraction(token))
}

fn keeps_fraction(token: &str) -> bool {
    let is_minus_zero =
        token.strip_prefix('-').is_some_and(|digits| digits.bytes().all(|byte| matches!(byte, b'0' | b'.')));
    !is_minus_zero && token.bytes().filter(u8::is_ascii_digit).count() <= KEPT_DECIMALS
}

/// Digits before the decimal point that a numeric of Postgres has, at most.
const MAX_DIGITS: usize = 131_072;

/// Whether a canonical text can be stored as jsonb, which has no character 0, no half of a surrogate pair, and no
/// number that is too large for a numeric.
pub fn is_jsonb(canonical: &str) -> bool {
    let mut rest = canonical;
    while let Some(at) = rest.find('\\') {
        let unit = |from: usize| code_unit(rest.get(from..)?);
        let length = match unit(at) {
            None => 2,
            Some(0 | 0xdc00..=0xdfff) => return false,
            Some(0xd800..=0xdbff) if !unit(at + 6).is_some_and(|low| (0xdc00..=0xdfff).contains(&low)) => return false,
            Some(0xd800..=0xdbff) => 12,
            Some(_) => 6,
        };
        rest = rest.get(at + length..).unwrap_or_default();
    }
    let is_digit = |character: char| character.is_ascii_digit();
    canonical.len() <= MAX_DIGITS
        || canonical.split(|character| !is_digit(character)).all(|run| run.len() <= MAX_DIGITS)
}

/// The number of an escape `\uXXXX` at the beginning.
fn code_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::canonical_json::canonical;
    use proptest::prelude::*;

    #[test]
    fn a_member_is_found_by_its_name_at_the_top_level_only() {
        let object = r#"{"a": {"key": [1, "}"]}, "key": {"b": "\"x"}, "n": -1.5e-07, "t": true, "z": "plain"}"#;
        assert_eq!(canonical(object).unwrap(), object);
        assert_eq!(member(object, "a"), Some(r#"{"key": [1, "}"]}"#));
        assert_eq!(member(object, "key"), Some(r#"{"b": "\"x"}"#));
        assert_eq!(member(object, "n"), Some("-1.5e-07"));
        assert_eq!(member(object, "t"), Some("true"));
        assert_eq!(plain_member(object, "z"), Some("plain"));
        assert_eq!(member(object, "b"), None);
        assert_eq!(member("{}", "b"), None);
        assert_eq!(member("", "b"), None);
    }

    #[test]
    fn numbers_that_a_double_may_not_keep_are_told() {
        for json in ["1", "-12345678901234567890", "0.1", "[1.50, \"1.2345678901234567\"]", "123456789012.345"] {
            assert!(keeps_numbers(json), "{json}");
        }
        for json in ["1e2", "1E400", "[0, 0.1234567890123456]", "12345678901234567.89"] {
            assert!(!keeps_numbers(json), "{json}");
        }
    }

    #[test]
    fn a_minus_zero_that_jsonb_would_not_keep_is_told() {
        // Without a fraction it is the integer 0.
        for json in ["0.0", "-0", "[-0.01, 0.000]", "\"-0.0\"", "-10.0"] {
            assert!(keeps_numbers(json), "{json}");
        }
        for json in ["-0.0", "[-0.0]", "{\"t\": -0.000}", "-0.0e1"] {
            assert!(!keeps_numbers(json), "{json}");
        }
    }

    #[test]
    fn what_jsonb_cannot_hold_is_told() {
        for json in [r#""\ud83d\ude00""#, r#""\\ud800""#, r#"{"\u00e9": "\n\\"}"#, "1", r#""\\\\u0000""#] {
            assert!(is_jsonb(&canonical(json).unwrap()), "{json}");
        }
        for json in [r#""\u0000""#, r#"["\ud800"]"#, r#""\ud800\ud800\udc00""#, r#"{"\udc00": 1}"#, r#""\\\ud800""#] {
            assert!(!is_jsonb(&canonical(json).unwrap()), "{json}");
        }
        assert!(!is_jsonb(&"9".repeat(MAX_DIGITS + 1)));
    }

    proptest! {
        #[test]
        fn looking_into_any_text_ends(text in ".{0,60}") {
            member(&text, "a");
            keeps_numbers(&text);
            is_jsonb(&text);
        }

        #[test]
        fn different_decimals_of_15_digits_stay_different(a in 0_u64..1_000_000_000_000_000, b in 0_u64..1_000_000_000_000_000) {
            let text = |digits: u64| format!("{}.{:02}", digits / 100, digits % 100);
            prop_assert!(keeps_number(&text(a)));
            prop_assert_eq!(a == b, canonical(&text(a)).unwrap() == canonical(&text(b)).unwrap());
        }
    }
}
