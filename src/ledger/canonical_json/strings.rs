//! The characters of a string: decoding escapes, and writing them the canonical way.

use super::plain::plain_end;
use crate::ledger::ascii_text;
use std::borrow::Cow;

/// Appends `text` as a canonical JSON string, quotes included: ASCII, with Python's short escapes and `\uXXXX`
/// otherwise.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut at = 0;
    loop {
        let end = plain_end(text.as_bytes(), at);
        out.extend_from_slice(&text.as_bytes()[at..end]);
        let Some(character) = text[end..].chars().next() else {
            break;
        };
        write_code_point(out, character.into());
        at = end + character.len_utf8();
    }
    out.push(b'"');
}

/// `text` as a canonical JSON string, quotes included.
pub fn string(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_string(&mut out, text);
    ascii_text(out)
}

/// `name` as the key of a member stands between its quotes in canonical JSON: see [`members`](super::members).
pub fn key(name: &str) -> String {
    inside_quotes(&string(name)).to_owned()
}

/// Appends a string token (quotes included, escapes checked by the parser) the canonical way.
pub(super) fn write_token(out: &mut Vec<u8>, token: &str) {
    let inner = inside_quotes(token);
    out.push(b'"');
    let mut at = 0;
    loop {
        let end = plain_end(inner.as_bytes(), at);
        out.extend_from_slice(&inner.as_bytes()[at..end]);
        let Some((code_point, after)) = code_point_at(inner, end) else {
            break;
        };
        write_code_point(out, code_point);
        at = after;
    }
    out.push(b'"');
}

/// The text of a string token; `None` if a lone surrogate keeps it from being one.
pub(crate) fn decode(token: &str, verbatim: bool) -> Option<Cow<'_, str>> {
    if verbatim {
        return Some(Cow::Borrowed(inside_quotes(token)));
    }
    code_points(token).map(char::from_u32).collect::<Option<String>>().map(Cow::Owned)
}

/// The code points of a string token. A pair of surrogate escapes is one, a lone surrogate is itself, as in Python.
pub(super) fn code_points(token: &str) -> impl Iterator<Item = u32> + '_ {
    let inner = inside_quotes(token);
    let mut at = 0;
    std::iter::from_fn(move || {
        let (code_point, after) = code_point_at(inner, at)?;
        at = after;
        Some(code_point)
    })
}

pub(super) fn inside_quotes(token: &str) -> &str {
    &token[1..token.len() - 1]
}

/// The code point at `at`, and the offset after it; `None` at the end.
fn code_point_at(text: &str, at: usize) -> Option<(u32, usize)> {
    let character = text[at..].chars().next()?;
    if character != '\\' {
        return Some((character.into(), at + character.len_utf8()));
    }
    let escape = text.as_bytes()[at + 1];
    let short = match escape {
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => 0x0a,
        b'r' => 0x0d,
        b't' => 0x09,
        b'u' => return unicode_escape_at(text, at),
        other => u32::from(other),
    };
    Some((short, at + 2))
}

fn unicode_escape_at(text: &str, at: usize) -> Option<(u32, usize)> {
    let high = code_unit_at(text, at)?;
    let low = match high {
        0xd800..0xdc00 => code_unit_at(text, at + 6),
        _ => None,
    };
    match low {
        Some(low @ 0xdc00..0xe000) => {
            let code_point = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            Some((code_point, at + 12))
        }
        _ => Some((high, at + 6)),
    }
}

/// The code unit that a `\uXXXX` escape at `at` spells, if there is one.
fn code_unit_at(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    u32::from_str_radix(digits, 16).ok()
}

fn write_code_point(out: &mut Vec<u8>, code_point: u32) {
    match code_point {
        0x22 => out.extend_from_slice(b"\\\""),
        0x5c => out.extend_from_slice(b"\\\\"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x09 => out.extend_from_slice(b"\\t"),
        0x0a => out.extend_from_slice(b"\\n"),
        0x0c => out.extend_from_slice(b"\\f"),
        0x0d => out.extend_from_slice(b"\\r"),
        0x20..0x7f => out.push(code_point as u8),
        0x10000.. => {
            let offset = code_point - 0x10000;
            write_code_unit(out, 0xd800 + (offset >> 10));
            write_code_unit(out, 0xdc00 + (offset & 0x3ff));
        }
        _ => write_code_unit(out, code_point),
    }
}

fn write_code_unit(out: &mut Vec<u8>, unit: u32) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |shift: u32| DIGITS[(unit >> shift & 0xf) as usize];
    out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
}
