//! Recognises canonical text in one pass, without parsing and printing it. Where it fails to, the text is parsed and
//! printed.

use super::numbers::write_number;
use super::parser::string_end;
use super::strings::write_token;

/// More containers than are ever open in real metadata. A line of brackets alone must not take much memory.
const MAX_OPEN: usize = 128;

/// A container that is open.
#[derive(Debug)]
enum Frame {
    Array,
    /// Where its last key stands, without quotes.
    Object {
        key: (usize, usize),
    },
}

/// Why a text was not recognised as canonical.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Otherwise {
    /// It is not canonical, or no JSON.
    NotCanonical,
    /// Only parsing and printing it can tell.
    Unknown,
}

use Otherwise::{NotCanonical, Unknown};

type Answer<T> = Result<T, Otherwise>;

/// Buffers kept from one value to the next.
#[derive(Debug, Default)]
pub(super) struct Quick {
    open: Vec<Frame>,
    rendered: Vec<u8>,
}

impl Quick {
    /// The offset after the value that starts at `start`, if its text is canonical.
    pub(super) fn canonical_value_end(&mut self, text: &str, start: usize) -> Answer<usize> {
        self.open.clear();
        let mut scan = Scan { text, bytes: text.as_bytes(), at: start, quick: self };
        scan.value()?;
        while scan.after_value()? {
            scan.value()?;
        }
        Ok(scan.at)
    }

    #[cfg(test)]
    pub(super) fn is_small(&self) -> bool {
        self.rendered.capacity() == 0
    }
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    quick: &'a mut Quick,
}

impl Scan<'_> {
    /// Up to the end of a scalar or an empty container, opening containers on the way.
    fn value(&mut self) -> Answer<()> {
        loop {
            match self.bytes.get(self.at).ok_or(NotCanonical)? {
                b'{' if self.accept(b"{}") => return Ok(()),
                b'{' => {
                    self.at += 1;
                    let key = self.key()?;
                    self.open(Frame::Object { key })?;
                }
                b'[' if self.accept(b"[]") => return Ok(()),
                b'[' => {
                    self.at += 1;
                    self.open(Frame::Array)?;
                }
                b'"' => return self.string(),
                b'-' | b'0'..=b'9' => return self.number(),
                _ => {
                    let literal = self.accept(b"true") || self.accept(b"false") || self.accept(b"null");
                    return literal.then_some(()).ok_or(NotCanonical);
                }
            }
        }
    }

    fn open(&mut self, frame: Frame) -> Answer<()> {
        self.quick.open.push(frame);
        (self.quick.open.len() <= MAX_OPEN).then_some(()).ok_or(Unknown)
    }

    /// Closes what ends here. True if another value follows.
    fn after_value(&mut self) -> Answer<bool> {
        loop {
            let last_key = match self.quick.open.last() {
                None => return Ok(false),
                Some(Frame::Array) => None,
                Some(Frame::Object { key }) => Some(*key),
            };
            if self.accept(b", ") {
                if let Some((start, end)) = last_key {
                    let key = self.key()?;
                    // Keys without escapes: the order of code points is that of bytes.
                    if self.bytes[start..end] >= self.bytes[key.0..key.1] {
                        return Err(NotCanonical);
                    }
                    self.quick.open.pop();
                    self.quick.open.push(Frame::Object { key });
                }
                return Ok(true);
            }
            let bracket: &[u8] = if last_key.is_some() { b"}" } else { b"]" };
            self.accept(bracket).then_some(()).ok_or(NotCanonical)?;
            self.quick.open.pop();
        }
    }

    /// A key that needs no escape, and what stands behind it.
    fn key(&mut self) -> Answer<(usize, usize)> {
        let start = self.at;
        let (end, verbatim) = self.token()?;
        if !verbatim {
            return Err(Unknown);
        }
        self.at = end;
        self.accept(b": ").then_some((start + 1, end - 1)).ok_or(NotCanonical)
    }

    fn token(&self) -> Answer<(usize, bool)> {
        let token = (self.bytes.get(self.at) == Some(&b'"')).then(|| string_end(self.bytes, self.at).ok());
        token.flatten().ok_or(NotCanonical)
    }

    fn string(&mut self) -> Answer<()> {
        let (end, verbatim) = self.token()?;
        let token = &self.text[self.at..end];
        self.at = end;
        match verbatim {
            true => Ok(()),
            false => self.is_rendered(token, |out| write_token(out, token)),
        }
    }

    fn number(&mut self) -> Answer<()> {
        let is_part = |byte: &&u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
        let length = self.bytes[self.at..].iter().take_while(is_part).count();
        let token = &self.text[self.at..self.at + length];
        self.at += length;
        if is_canonical_integer(token.as_bytes()) {
            return Ok(());
        }
        if !token.contains('.') && !token.contains('e') {
            return Err(NotCanonical);
        }
        self.is_rendered(token, |out| drop(write_number(out, token)))
    }

    fn is_rendered(&mut self, token: &str, render: impl FnOnce(&mut Vec<u8>)) -> Answer<()> {
        self.quick.rendered.clear();
        render(&mut self.quick.rendered);
        (self.quick.rendered == token.as_bytes()).then_some(()).ok_or(NotCanonical)
    }

    fn accept(&mut self, literal: &[u8]) -> bool {
        let found = self.bytes[self.at..].starts_with(literal);
        if found {
            self.at += literal.len();
        }
        found
    }
}

/// Whether it is an integer as it is written canonically: no leading zero, no minus zero.
fn is_canonical_integer(token: &[u8]) -> bool {
    let digits = token.strip_prefix(b"-").unwrap_or(token);
    match digits {
        [b'0'] => token.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::canonical_json::{canonical, Workspace};
    use proptest::prelude::*;

    fn quick(text: &str) -> Option<usize> {
        Quick::default().canonical_value_end(text, 0).ok()
    }

    fn slow(text: &str) -> Option<usize> {
        Workspace::default().rendered_value_end(text, 0).ok().flatten()
    }

    #[test]
    fn usual_metadata_is_recognised() {
        for json in [
            "{}",
            "[]",
            r#"{"a": [1, -2, 0, true, false, null, {}], "b": {"c": "d", "e": []}, "f": 1250.5}"#,
            r#"{"text": "\u00e9 \" \\ \n \ud83d\ude00", "x": [1e-07, -0.0, 1e+16, 123456789012345678901234567890]}"#,
        ] {
            assert_eq!(canonical(json).unwrap(), json);
            assert_eq!(quick(json), Some(json.len()), "{json}");
            assert_eq!(quick(&format!("{json}, \"more\"")), Some(json.len()), "{json}");
        }
    }

    #[test]
    fn a_text_of_brackets_takes_no_memory() {
        let nested = |depth| "[".repeat(depth) + "0" + &"]".repeat(depth);
        assert_eq!(quick(&nested(MAX_OPEN)), Some(2 * MAX_OPEN + 1));
        let mut hostile = Quick::default();
        for text in [nested(MAX_OPEN + 1), "[".repeat(1 << 20), "{\"\": ".repeat(1 << 18)] {
            assert!(hostile.canonical_value_end(&text, 0).is_err());
        }
        assert!(hostile.open.capacity() <= 2 * MAX_OPEN);
    }

    #[test]
    fn other_text_is_not() {
        for json in [
            "",
            "{",
            "[1",
            "[1,2]",
            "[1 ]",
            "[,]",
            "{\"a\":1}",
            "{\"b\": 1, \"a\": 2}",
            "{\"a\": 1, \"a\": 1}",
            "-0",
            "01",
            "1.50",
            "1E5",
            "1.",
            ".5",
            "-",
            "\"\\/\"",
            "\"\\u00E9\"",
            "\"é\"",
            "\"\x7f\"",
            "nul",
            "{\"a\": 1]",
            "[1}",
            "{\"a\"}",
            "{1: 2}",
            "1e400",
            "{\"a\": 1, }",
            "[1, ]",
            "--1",
            "1-2",
            "\"\\u0041\"",
        ] {
            assert_ne!(quick(json), Some(json.len()), "{json}");
            assert_ne!(slow(json), Some(json.len()), "{json}");
        }
    }

    fn is_of_number(character: char) -> bool {
        matches!(character, '-' | '+' | '.' | 'e' | 'E' | '0'..='9')
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("true".to_owned()),
            Just("null".to_owned()),
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| serde_json::json!(number).to_string()),
            "[ -~éß\u{7f}\u{1f600}\"\\\\]{0,8}".prop_map(|text| serde_json::json!(text).to_string()),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
                prop::collection::vec(("[a-dé]{0,3}", inner), 0..4).prop_map(|members| {
                    let member = |(key, value): &(String, String)| format!("{}: {value}", serde_json::json!(key));
                    format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_recognised_is_what_printing_gives(json in json(), at in any::<prop::sample::Index>(), byte in 0x20_u8..0x7f) {
            let text = canonical(&json).unwrap();
            if text.is_ascii() && !text.contains('\\') {
                prop_assert_eq!(quick(&text), Some(text.len()));
            }
            let mut changed = text.clone().into_bytes();
            let at = at.index(changed.len());
            changed[at] = byte;
            for text in [json, text, String::from_utf8(changed).unwrap()] {
                match Quick::default().canonical_value_end(&text, 0) {
                    Ok(end) => prop_assert_eq!(slow(&text[..end]), Some(end)),
                    // The parser ends a number where what follows belongs to no number, as in 1-0.
                    Err(NotCanonical) => prop_assert!(slow(&text).is_none_or(|end| text[end..].starts_with(is_of_number))),
                    Err(Unknown) => {}
                }
            }
        }
    }
}
