//! Canonical JSON for readers whose numbers are decimals, such as Postgres' jsonb.
//!
//! To them `1e+16` is an integer, and would come back as `10000000000000000`. With a fraction it stays a double.

use super::parser::string_end;
use std::borrow::Cow;

/// The same value, with doubles of 1e16 and above written out and with a fraction, so that a reader that keeps decimals
/// exactly gives back a text with the same canonical form. `json` is canonical.
pub fn with_fractions(json: &str) -> Cow<'_, str> {
    if !json.contains("e+") {
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
        assert_eq!(with_fractions("1e+16"), "10000000000000000.0");
        assert_eq!(with_fractions("-1.5e+17"), "-150000000000000000.0");
        assert_eq!(
            with_fractions(r#"{"a": [1.2345678901234567e+16, 1e-07], "1e+16": "\"2e+20"}"#),
            r#"{"a": [12345678901234567.0, 1e-07], "1e+16": "\"2e+20"}"#
        );
    }

    #[test]
    fn everything_else_stays() {
        for json in ["{}", "100000000000000000000", "1e-07", "1.5", r#"{"a": "e+"}"#] {
            assert_eq!(with_fractions(json), json);
        }
    }

    #[test]
    fn the_canonical_form_is_the_same_again() {
        let mut numbers = Numbers(7);
        for _ in 0..2000 {
            let double = f64::from_bits(numbers.next());
            if double.is_finite() {
                let json = canonical(&format!("[{double:e}]")).unwrap();
                assert_eq!(canonical(&with_fractions(&json)).unwrap(), json);
            }
        }
    }
}
