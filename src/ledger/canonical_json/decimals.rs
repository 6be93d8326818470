//! Canonical JSON for readers whose numbers are decimals, such as Postgres' jsonb.
//!
//! To them `1e+16` is an integer, and would come back as `10000000000000000`. With a fraction it stays a double. And
//! they have no negative zero; but a negative number that is too small for a double has the same canonical form.

use super::parser::string_end;
use std::borrow::Cow;

const MINUS_ZERO: &str = "-0.0";

/// A negative number that every reader of doubles takes for a negative zero, and that a numeric of Postgres can be.
const TOO_SMALL: &str = "-1e-400";

/// The same value, with doubles of 1e16 and above written out and with a fraction, and with a tiny number for each
/// negative zero, so that a reader that keeps decimals exactly gives back a text with the same canonical form. `json`
/// is canonical.
pub fn for_decimals(json: &str) -> Cow<'_, str> {
    if !json.contains("e+") && !json.contains(MINUS_ZERO) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 32);
    let mut at = 0;
    while let Some(byte) = json.as_bytes().get(at) {
        let end = match byte {
            b'"' => string_end(json.as_bytes(), at).map_or(json.len(), |(end, _)| end),
            b'-' | b'0'..=b'9' => number_end(json, at),
            _ => at + 1,
        };
        let token = &json[at..end];
        match exponential(token) {
            Some((digits, exponent)) if *byte != b'"' => push_written_out(&mut out, digits, exponent),
            None if token == MINUS_ZERO => out.push_str(TOO_SMALL),
            _ => out.push_str(token),
        }
        at = end;
    }
    Cow::Owned(out)
}

fn number_end(json: &str, start: usize) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'0'..=b'9');
    start + json.as_bytes()[start..].iter().take_while(|byte| is_part(byte)).count()
}

/// The digits of a number with a positive exponent, and the exponent.
fn exponential(token: &str) -> Option<(&str, usize)> {
    let (digits, exponent) = token.split_once("e+")?;
    Some((digits, exponent.parse().ok()?))
}

fn push_written_out(out: &mut String, digits: &str, exponent: usize) {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    out.push_str(whole);
    out.push_str(fraction);
    // A double has at most 17 digits, and an exponent is written from 16 on.
    out.extend(std::iter::repeat_n('0', exponent.saturating_sub(fraction.len())));
    out.push_str(".0");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::canonical_json::canonical;
    use crate::ledger::test_support::Numbers;

    #[test]
    fn large_doubles_are_written_out() {
        assert_eq!(for_decimals("1e+16"), "10000000000000000.0");
        assert_eq!(for_decimals("-1.5e+17"), "-150000000000000000.0");
        assert_eq!(
            for_decimals(r#"{"a": [1.2345678901234567e+16, 1e-07], "1e+16": "\"2e+20"}"#),
            r#"{"a": [12345678901234567.0, 1e-07], "1e+16": "\"2e+20"}"#
        );
    }

    #[test]
    fn everything_else_stays() {
        for json in ["{}", "100000000000000000000", "1e-07", "1.5", "-0.05", r#"{"a": "e+"}"#, r#"["-0.0", -0.01]"#] {
            assert_eq!(for_decimals(json), json);
        }
    }

    #[test]
    fn a_negative_zero_is_a_number_that_decimals_have() {
        assert_eq!(
            for_decimals(r#"{"-0.0": [-0.0, -0.05, 1e+16]}"#),
            r#"{"-0.0": [-1e-400, -0.05, 10000000000000000.0]}"#
        );
        assert_eq!(canonical(&for_decimals("-0.0")).unwrap(), "-0.0");
        // As a numeric prints it.
        assert_eq!(canonical(&format!("-0.{}1", "0".repeat(399))).unwrap(), "-0.0");
    }

    #[test]
    fn the_canonical_form_is_the_same_again() {
        let mut numbers = Numbers(7);
        for _ in 0..2000 {
            let double = f64::from_bits(numbers.next());
            if double.is_finite() {
                let json = canonical(&format!("[{double:e}]")).unwrap();
                assert_eq!(canonical(&for_decimals(&json)).unwrap(), json);
            }
        }
    }
}
