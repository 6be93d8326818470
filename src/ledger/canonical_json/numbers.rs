//! Numbers, as canonical JSON has them.

use super::JsonError;
use std::io::Write;

/// Appends a number token the canonical way.
///
/// # Errors
/// If it overflows a double.
pub fn write_number(out: &mut Vec<u8>, token: &str) -> Result<(), JsonError> {
    if !token.contains(['.', 'e', 'E']) {
        out.extend_from_slice(if token == "-0" { b"0" } else { token.as_bytes() });
        return Ok(());
    }
    write_double(out, double(token).map_err(|reason| JsonError { offset: 0, reason })?);
    Ok(())
}

/// With more characters, a number with an exponent is refused: the standard library stops reading an exponent at five
/// digits, which changes what is left only of numbers that have as many digits before it.
const LONGEST_WITH_EXPONENT: usize = 60_000;

/// The double that a number token stands for.
///
/// # Errors
/// Why there is none.
pub(super) fn double(token: &str) -> Result<f64, &'static str> {
    if token.len() > LONGEST_WITH_EXPONENT && token.contains(['e', 'E']) {
        return Err("a number with an exponent that is longer than 60,000 characters");
    }
    let value = token.parse::<f64>().ok().filter(|value| value.is_finite());
    value.ok_or("a number too large for a double")
}

/// Appends a finite double as Python's `repr` prints it: the shortest digits that read back as the same double, of
/// those the nearest, with an exponent (signed, at least two digits) when the decimal point would be more than 16
/// places right or 4 left of the first digit.
///
/// The digits are `zmij`'s, not the standard library's: of two that are equally near, that takes the even one as Python
/// does, where the standard library rounds up.
pub(super) fn write_double(out: &mut Vec<u8>, value: f64) {
    if value.is_sign_negative() {
        out.push(b'-');
    }
    let mut buffer = zmij::Buffer::new();
    let shortest = buffer.format_finite(value.abs());
    let (decimal, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    // At most 17 digits, and zeros before and after them.
    let mut buffer = [0; 64];
    let digits = &mut buffer[..whole.len() + fraction.len()];
    digits[..whole.len()].copy_from_slice(whole.as_bytes());
    digits[whole.len()..].copy_from_slice(fraction.as_bytes());
    // Always a number, as zmij wrote it.
    let exponent: i32 = exponent.parse().unwrap_or(0);
    write_decimal(out, digits, exponent + whole.len() as i32);
}

/// Appends the double 0.`digits` × 10^`point`, of which these are the shortest digits, and zeros at both ends perhaps.
pub(crate) fn write_decimal(out: &mut Vec<u8>, digits: &[u8], point: i32) {
    let Some(first) = digits.iter().position(|digit| *digit != b'0') else {
        out.extend_from_slice(b"0.0");
        return;
    };
    let last = digits.iter().rposition(|digit| *digit != b'0').unwrap_or(first);
    write_digits(out, &digits[first..=last], point - first as i32);
}

/// The same without zeros at the ends.
fn write_digits(out: &mut Vec<u8>, digits: &[u8], point: i32) {
    let zeros = |out: &mut Vec<u8>, count: usize| out.resize(out.len() + count, b'0');
    match point {
        -3..=0 => {
            out.extend_from_slice(b"0.");
            zeros(out, point.unsigned_abs() as usize);
            out.extend_from_slice(digits);
        }
        1..=16 if point as usize >= digits.len() => {
            out.extend_from_slice(digits);
            zeros(out, point as usize - digits.len());
            out.extend_from_slice(b".0");
        }
        1..=16 => {
            let (whole, fraction) = digits.split_at(point as usize);
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
        _ => write_exponential(out, digits, point - 1),
    }
}

fn write_exponential(out: &mut Vec<u8>, digits: &[u8], exponent: i32) {
    out.push(digits[0]);
    if digits.len() > 1 {
        out.push(b'.');
        out.extend_from_slice(&digits[1..]);
    }
    out.push(b'e');
    out.push(if exponent < 0 { b'-' } else { b'+' });
    // Infallible: a vector takes any bytes.
    let _ = write!(out, "{:02}", exponent.unsigned_abs());
}
