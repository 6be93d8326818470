//! Values of a row as canonical JSON, where a type's own text is not it: floats, decimals, and JSON itself. A row is
//! hashed as the canonical JSON of its values, so what is decided here decides hashes, and never changes.
//!
//! | value | JSON |
//! |---|---|
//! | float | number; an integer has all its digits, and no exponent |
//! | decimal | number; a string where it has a fraction and more than 15 digits, as a double would not keep them |
//! | either | `"NaN"`, `"Infinity"`, `"-Infinity"`, and `"-0"`, which jsonb does not tell from 0, are strings |
//! | "char" | string; a byte that is not ASCII as a backslash and three octal digits |
//! | JSON | as such; a string with its text where canonical JSON, or jsonb, would not keep it |
//!
//! `docs/tracking.md` has the JSON of every type of Postgres. Values of the others are what their text says, in quotes
//! where that is no number or literal.

use super::canonical_json::{
    canonical, is_jsonb, keeps_members, keeps_number, keeps_numbers, write_number, write_string,
};
use std::borrow::Cow;

/// Appends a float. `digits` are the shortest that are this number and no other, as Postgres prints them, of which
/// there may be one more than elsewhere.
#[inline]
pub fn write_float(out: &mut Vec<u8>, digits: &str) {
    // In jsonb, and so in an image, a zero has no sign.
    match is_finite(digits) && digits != "-0" {
        true => write_token(out, &without_exponent(digits)),
        false => write_string(out, digits),
    }
}

/// Appends a decimal number of any length, or what stands for none or an infinite one.
#[inline]
pub fn write_numeric(out: &mut Vec<u8>, text: &str) {
    match is_finite(text) && keeps_number(text) {
        true => write_token(out, text),
        false => write_string(out, text),
    }
}

/// A value of type "char" as Postgres 15 and later print it. Earlier versions print a byte that is not ASCII as it is,
/// which is no text.
pub fn char_text(byte: u8) -> String {
    match byte {
        0 => String::new(),
        0x80.. => format!("\\{byte:03o}"),
        _ => char::from(byte).into(),
    }
}

/// An array of such values as Postgres 15 and later print it, from what this version prints. A byte that is not ASCII
/// is an element by itself, without quotes; the backslash of its text needs them.
pub fn char_array_text(printed: &[u8]) -> String {
    let text = |byte: &u8| match byte {
        0x80.. => format!("\"\\{}\"", char_text(*byte)),
        _ => char::from(*byte).into(),
    };
    printed.iter().map(text).collect()
}

/// Appends a JSON value. One that the canonical form would not keep becomes a string with its text. A string that could
/// be taken for such a text becomes one too, so that no two values look the same.
#[inline]
pub fn write_json(out: &mut Vec<u8>, text: &str) {
    match kept_json(text) {
        Some(json) if is_like_text_of_json(&json) => write_string(out, &json),
        Some(json) => out.extend_from_slice(json.as_bytes()),
        None => write_string(out, text),
    }
}

/// Not `NaN`, and neither infinity.
fn is_finite(text: &str) -> bool {
    text.ends_with(|last: char| last.is_ascii_digit())
}

/// `token` is a number that a double holds.
fn write_token(out: &mut Vec<u8>, token: &str) {
    if write_number(out, token).is_err() {
        write_string(out, token);
    }
}

/// A decimal number as jsonb states it: `1.5e+03` as `1500`.
fn without_exponent(text: &str) -> Cow<'_, str> {
    let Some((mantissa, exponent)) = text.split_once('e') else { return text.into() };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |digits| ("-", digits));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let point = whole.len() as i64 + exponent.parse::<i64>().unwrap_or(0);
    let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
    match usize::try_from(point) {
        Ok(at @ 1..) if at < digits.len() => format!("{sign}{}.{}", &digits[..at], &digits[at..]),
        Ok(1..) => format!("{sign}{digits}{}", zeros(point - digits.len() as i64)),
        _ => format!("{sign}0.{}{digits}", zeros(-point)),
    }
    .into()
}

/// The canonical form, if it states the value exactly.
fn kept_json(text: &str) -> Option<String> {
    canonical(text).ok().filter(|json| keeps_numbers(text) && keeps_members(text, json) && is_jsonb(json))
}

fn is_like_text_of_json(json: &str) -> bool {
    if !json.starts_with('"') {
        return false;
    }
    let content = serde_json::from_str::<String>(json).unwrap_or_default();
    match content.trim_start().chars().next() {
        Some('"') => true,
        Some('[' | '{' | '-' | '0'..='9') => kept_json(&content).is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn written(write: fn(&mut Vec<u8>, &str), text: &str) -> String {
        let mut out = Vec::new();
        write(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[track_caller]
    fn assert_written(write: fn(&mut Vec<u8>, &str), cases: &[(&str, &str)]) {
        for (text, expected) in cases {
            let json = written(write, text);
            assert_eq!(json, *expected, "{text}");
            assert_eq!(canonical(&json).as_ref(), Ok(&json), "{text}");
        }
    }

    #[test]
    fn an_exponent_becomes_zeros_wherever_the_point_comes_to_stand() {
        for (text, expected) in [
            ("1.5e+03", "1500"),
            ("1.2345e+03", "1234.5"),
            ("1.2345e+04", "12345"),
            ("1e+00", "1"),
            ("-1e+22", "-10000000000000000000000"),
            ("12.5e-01", "1.25"),
            ("1.5e-01", "0.15"),
            ("-1.5e-03", "-0.0015"),
            ("1e-07", "0.0000001"),
            ("0", "0"),
            ("-12.25", "-12.25"),
        ] {
            assert_eq!(without_exponent(text), expected, "{text}");
        }
    }

    #[test]
    fn a_float_is_a_number_as_jsonb_has_it() {
        let cases = [
            ("0", "0"),
            ("1", "1"),
            ("-0.1", "-0.1"),
            ("123456.789", "123456.789"),
            // More than 15 digits: a double keeps all that were printed of it.
            ("0.30000000000000004", "0.30000000000000004"),
            ("1e+15", "1000000000000000"),
            ("-1.5e+22", "-15000000000000000000000"),
            ("1e-05", "1e-05"),
            ("5e-324", "5e-324"),
        ];
        assert_written(write_float, &cases);
        let largest = written(write_float, "1.7976931348623157e+308");
        assert_eq!(largest, format!("17976931348623157{}", "0".repeat(292)));
    }

    #[test]
    fn what_is_no_number_in_json_is_a_string() {
        let cases = [("NaN", "\"NaN\""), ("Infinity", "\"Infinity\""), ("-Infinity", "\"-Infinity\"")];
        assert_written(write_float, &cases);
        assert_written(write_numeric, &cases);
        assert_written(write_float, &[("-0", "\"-0\"")]);
    }

    #[test]
    fn a_decimal_is_a_number_as_far_as_a_double_keeps_it() {
        let cases = [
            ("0", "0"),
            ("-12", "-12"),
            ("12345678901234567890123", "12345678901234567890123"),
            // The scale is not a part of the value.
            ("1.50", "1.5"),
            ("1.00", "1.0"),
            ("0.00", "0.0"),
            ("0.00001", "1e-05"),
            ("0.12345678901234", "0.12345678901234"),
            ("0.123456789012345", "\"0.123456789012345\""),
            ("12345678901234.50", "\"12345678901234.50\""),
            ("-0.00", "\"-0.00\""),
        ];
        assert_written(write_numeric, &cases);
    }

    #[test]
    fn a_char_is_text_whatever_its_byte() {
        for (byte, text) in [(0, ""), (b'a', "a"), (0x7f, "\x7f"), (0x80, r"\200"), (0xc3, r"\303"), (0xff, r"\377")] {
            assert_eq!(char_text(byte), text);
        }
        assert_eq!(char_array_text(b"{\xc3,a,\"\\\\\",NULL,\"\"}"), r#"{"\\303",a,"\\",NULL,""}"#);
        assert_eq!(char_array_text(br#"[0:0]={"\\303"}"#), r#"[0:0]={"\\303"}"#);
    }

    #[test]
    fn json_that_the_canonical_form_keeps_is_written_as_such() {
        let cases = [
            ("null", "null"),
            (" [1,2.50 ,\"x\"]\n", "[1, 2.5, \"x\"]"),
            (r#"{"b": 12345678901234567890, "a": {}}"#, r#"{"a": {}, "b": 12345678901234567890}"#),
            (r#"{"é": "\/\t\"\\"}"#, r#"{"\u00e9": "/\t\"\\"}"#),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""plain""#, r#""plain""#),
            (r#""12""#, r#""12""#),
            (r#""[1, 2]""#, r#""[1, 2]""#),
            (r#""""#, r#""""#),
        ];
        assert_written(write_json, &cases);
    }

    #[test]
    fn json_that_would_not_be_kept_is_a_string_with_its_text() {
        let cases = [
            ("1e2", r#""1e2""#),
            ("-0.0", r#""-0.0""#),
            ("[0.1234567890123456]", r#""[0.1234567890123456]""#),
            (r#"{"a": 1, "a": 2}"#, r#""{\"a\": 1, \"a\": 2}""#),
            (r#""\u0000""#, r#""\"\\u0000\"""#),
            (r#"["\ud800"]"#, r#""[\"\\ud800\"]""#),
        ];
        assert_written(write_json, &cases);
    }

    #[test]
    fn a_string_that_could_be_taken_for_such_a_text_is_one_too() {
        let cases = [
            (r#""1e2""#, r#""\"1e2\"""#),
            (r#"" -0.0""#, r#""\" -0.0\"""#),
            (r#""{\"a\":1,\"a\":2}""#, r#""\"{\\\"a\\\":1,\\\"a\\\":2}\"""#),
            (r#""[1""#, r#""\"[1\"""#),
            (r#""\"x\"""#, r#""\"\\\"x\\\"\"""#),
        ];
        assert_written(write_json, &cases);
    }

    #[test]
    fn no_two_json_values_look_the_same() {
        let texts = ["1e2", "100", "1E2", "-0.0", "0.0", "[1e2]", r#""\u0000""#, r#"{"a": 1, "a": 1}"#];
        let mut values: Vec<String> = texts.map(str::to_owned).into();
        // The text of each as a JSON string, twice over.
        for at in 0..2 * values.len() {
            values.push(serde_json::to_string(&values[at]).unwrap());
        }
        let looks: HashSet<String> = values.iter().map(|value| written(write_json, value)).collect();
        assert_eq!(looks.len(), values.len());
    }

    proptest! {
        #[test]
        fn a_float_stays_the_number_that_it_is(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            let digits = format!("{value:e}");
            let plain = without_exponent(&digits);
            prop_assert!(!plain.contains('e'));
            prop_assert_eq!(plain.parse::<f64>(), Ok(value));
            prop_assert_eq!(written(write_float, &digits).parse::<f64>(), Ok(value));
        }

        #[test]
        fn every_decimal_becomes_canonical_json(text in r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?") {
            let json = written(write_numeric, &text);
            prop_assert_eq!(canonical(&json), Ok(json.clone()));
        }

        #[test]
        fn every_text_becomes_canonical_json(text in r#"[ \[\]{}":,\\0-9eE.a-]{0,12}"#) {
            let json = written(write_json, &text);
            prop_assert_eq!(canonical(&json), Ok(json.clone()));
        }
    }
}
