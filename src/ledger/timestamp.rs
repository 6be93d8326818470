//! Points in time as a ledger writes them: UTC, to the microsecond, always in the same 27 characters.

use std::fmt;
use time::{Date, Month};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// 0001-01-01T00:00:00.000000Z.
const FIRST: i64 = -62_135_596_800 * MICROS_PER_SECOND;
/// 9999-12-31T23:59:59.999999Z.
const LAST: i64 = 253_402_300_800 * MICROS_PER_SECOND - 1;
/// The Julian day of 1970-01-01.
const EPOCH_DAY: i32 = 2_440_588;

/// A point in time within the years 0001 to 9999 UTC. Shown and parsed as `YYYY-MM-DDTHH:MM:SS.ffffffZ`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Not a point in time that a ledger can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampError {
    /// Outside the years 0001 to 9999; also the infinities.
    OutOfRange,
    /// Not of the form `YYYY-MM-DDTHH:MM:SS.ffffffZ`, or no such day or time of day.
    Malformed,
}

impl fmt::Display for TimestampError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TimestampError::OutOfRange => "timestamp outside the years 0001 to 9999",
            TimestampError::Malformed => "not a timestamp of the form YYYY-MM-DDTHH:MM:SS.ffffffZ",
        })
    }
}

impl std::error::Error for TimestampError {}

impl Timestamp {
    /// The point in time that many microseconds after 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    /// If it is outside the years 0001 to 9999.
    pub fn from_micros(micros: i64) -> Result<Self, TimestampError> {
        match micros {
            FIRST..=LAST => Ok(Timestamp(micros)),
            _ => Err(TimestampError::OutOfRange),
        }
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Parses exactly what [`Timestamp::to_text`] makes.
    ///
    /// # Errors
    /// If `text` has another form, or there is no such time.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        parse(text.as_bytes()).ok_or(TimestampError::Malformed)
    }

    /// The 27 characters `YYYY-MM-DDTHH:MM:SS.ffffffZ`.
    pub fn to_text(self) -> [u8; 27] {
        let days = self.0.div_euclid(MICROS_PER_DAY) as i32;
        let micros = self.0.rem_euclid(MICROS_PER_DAY);
        // Never the fallback: the range was checked when this was made.
        let date = Date::from_julian_day(EPOCH_DAY + days).unwrap_or(Date::MIN);
        let (year, month, day) = date.to_calendar_date();
        let seconds = micros / MICROS_PER_SECOND;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        put(&mut text[0..4], i64::from(year));
        put(&mut text[5..7], i64::from(u8::from(month)));
        put(&mut text[8..10], i64::from(day));
        put(&mut text[11..13], seconds / 3600);
        put(&mut text[14..16], seconds / 60 % 60);
        put(&mut text[17..19], seconds % 60);
        put(&mut text[20..26], micros % MICROS_PER_SECOND);
        text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_text()))
    }
}

fn put(digits: &mut [u8], mut number: i64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'.'), (26, b'Z')];
    if text.len() != 27 || separators.iter().any(|(at, byte)| text[*at] != *byte) {
        return None;
    }
    let year = number(&text[0..4])?;
    let month = Month::try_from(number(&text[5..7])? as u8).ok()?;
    let day = number(&text[8..10])? as u8;
    let hour = number(&text[11..13])?;
    let minute = number(&text[14..16])?;
    let second = number(&text[17..19])?;
    let micros = number(&text[20..26])?;
    if year == 0 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let date = Date::from_calendar_date(year, month, day).ok()?;
    let days = i64::from(date.to_julian_day() - EPOCH_DAY);
    let seconds = i64::from(hour * 3600 + minute * 60 + second);
    Some(Timestamp(days * MICROS_PER_DAY + seconds * MICROS_PER_SECOND + i64::from(micros)))
}

fn number(digits: &[u8]) -> Option<i32> {
    digits.iter().try_fold(0, |sum, digit| {
        let digit = digit.is_ascii_digit().then(|| i32::from(digit - b'0'))?;
        Some(sum * 10 + digit)
    })
}

pub(super) fn write_timestamp(out: &mut Vec<u8>, timestamp: Timestamp) {
    out.push(b'"');
    out.extend_from_slice(&timestamp.to_text());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_timestamp_is_always_utc_with_six_digits() {
        let text = |micros| Timestamp::from_micros(micros).unwrap().to_string();
        assert_eq!(text(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(text(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(text(951_782_400_000_001), "2000-02-29T00:00:00.000001Z");
        assert_eq!(text(FIRST), "0001-01-01T00:00:00.000000Z");
        assert_eq!(text(LAST), "9999-12-31T23:59:59.999999Z");
    }

    #[test]
    fn years_outside_0001_to_9999_are_refused() {
        for micros in [FIRST - 1, LAST + 1, i64::MIN, i64::MAX] {
            assert_eq!(Timestamp::from_micros(micros), Err(TimestampError::OutOfRange));
        }
        assert!(Timestamp::parse("0000-01-01T00:00:00.000000Z").is_err());
    }

    #[test]
    fn only_the_one_form_is_parsed() {
        for text in [
            "",
            "2026-02-04T12:00:00Z",
            "2026-02-04T12:00:00.00000Z",
            "2026-02-04 12:00:00.000000Z",
            "2026-02-04T12:00:00.000000z",
            "2026-02-04T12:00:00.000000+",
            "2026-02-29T12:00:00.000000Z",
            "2026-13-04T12:00:00.000000Z",
            "2026-00-04T12:00:00.000000Z",
            "2026-02-00T12:00:00.000000Z",
            "2026-02-04T24:00:00.000000Z",
            "2026-02-04T12:60:00.000000Z",
            "2026-02-04T12:00:60.000000Z",
            "+026-02-04T12:00:00.000000Z",
            "2026-02-04T12:00:00.0000é0Z",
        ] {
            assert_eq!(Timestamp::parse(text), Err(TimestampError::Malformed), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_timestamp_reads_back_as_itself(micros in FIRST..=LAST) {
            let timestamp = Timestamp::from_micros(micros).unwrap();
            prop_assert_eq!(Timestamp::parse(&timestamp.to_string()), Ok(timestamp));
        }
    }
}
