use super::plain::plain_end;
use super::*;
use crate::ledger::sha256_hex;
use crate::ledger::test_support::{vectors, Numbers};
use proptest::prelude::*;
use serde_json::Value;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

#[test]
fn the_vectors_have_their_texts_and_hashes() {
    let vectors = vectors("canonical_json.json");
    for vector in vectors.as_array().unwrap() {
        let field = |name: &str| vector[name].as_str().unwrap();
        let text = canonical(field("json")).unwrap();
        assert_eq!(text, field("canonical"));
        assert_eq!(sha256_hex(text.as_bytes()), field("sha256"));
        assert_eq!(compact(field("json")).unwrap(), field("compact"));
    }
}

#[test]
fn every_byte_that_is_not_copied_as_it_is_ends_what_is_plain_wherever_it_stands() {
    let is_plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    // Words, chunks of words, and what is left of either.
    for length in (1..=40).chain([63, 64, 65, 127, 128, 129]) {
        for at in 0..length {
            for byte in 0..=255 {
                let mut bytes = vec![b'~'; length];
                // What follows does not matter.
                bytes[at + 1..].fill(byte ^ 0x80);
                bytes[at] = byte;
                let expected = bytes.iter().position(|byte| !is_plain(*byte)).unwrap_or(length);
                assert_eq!(plain_end(&bytes, 0), expected);
                assert_eq!(plain_end(&bytes, at.min(3)), expected);
                assert_eq!(is_plain_text(&bytes), expected == length);
            }
        }
    }
}

#[test]
fn a_text_becomes_a_string_and_a_name_a_key_that_is_found() {
    assert_eq!(string(""), "\"\"");
    assert_eq!(string("a \"é\"\\\n\u{1}😀"), r#""a \"\u00e9\"\\\n\u0001\ud83d\ude00""#);
    for name in ["a", "é \"x\"", "\\", ""] {
        let object = format!("{{{}: 1}}", string(name));
        assert_eq!(canonical(&object).as_ref(), Ok(&object));
        assert_eq!(member(&object, &key(name)), Some("1"));
    }
}

/// Makes JSON texts that use all that the grammar allows.
struct Texts {
    numbers: Numbers,
    out: String,
}

impl Texts {
    fn make(&mut self) -> String {
        self.value(5);
        std::mem::take(&mut self.out)
    }

    fn value(&mut self, depth: usize) {
        self.space();
        match self.numbers.below(if depth == 0 { 5 } else { 9 }) {
            0 => self.out += self.numbers.one_of(&["null", "true", "false"]),
            1 => self.string(),
            2 => self.integer(),
            3 => self.double(),
            4 => self.decimal(),
            5 | 6 => self.items("[", "]", |texts| texts.value(depth - 1)),
            _ => self.items("{", "}", |texts| texts.member(depth - 1)),
        }
        self.space();
    }

    fn items(&mut self, open: &str, close: &str, item: impl Fn(&mut Self)) {
        self.out += open;
        for index in 0..self.numbers.below(6) {
            if index > 0 {
                self.out += ",";
            }
            item(self);
        }
        self.space();
        self.out += close;
    }

    fn member(&mut self, depth: usize) {
        self.space();
        self.string();
        self.space();
        self.out += ":";
        self.value(depth);
    }

    fn space(&mut self) {
        self.out += self.numbers.one_of(&["", "", "", "", " ", "\n", "\r\n\t "]);
    }

    /// Often short, so that keys repeat, and with code points around every boundary.
    fn string(&mut self) {
        self.out += "\"";
        for _ in 0..self.numbers.below(5) {
            let length = self.numbers.below(40);
            match self.numbers.below(8) {
                0 => self.out += "a",
                1 => self.out += &"plain text, with no end "[..length.min(23)],
                2 => self.out += self.numbers.one_of(&["é", "\u{7f}", "\u{80}", "日", "\u{d7ff}"]),
                3 => self.out += self.numbers.one_of(&["\u{e000}", "\u{ffff}", "😀", "\u{10ffff}"]),
                4 => self.out += self.numbers.one_of(&["\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n"]),
                5 => self.out += self.numbers.one_of(&["\\t", "\\r", "\\u0061", "\\u000A"]),
                6 => self.out += self.numbers.one_of(&["\\ud83d", "\\uDE00", "\\ud83d\\ude00"]),
                _ => self.out += &format!("\\u{:04x}", self.numbers.below(0x10000)),
            }
        }
        self.out += "\"";
    }

    fn integer(&mut self) {
        self.out += self.numbers.one_of(&["", "-"]);
        match self.numbers.below(4) {
            0 => self.out += "0",
            1 => self.out += &self.numbers.below(1000).to_string(),
            _ => {
                self.out += "7";
                for _ in 0..self.numbers.below(60) {
                    self.out += &self.numbers.below(10).to_string();
                }
            }
        }
    }

    /// A double of any bit pattern, with all its digits, so that it is read back as the same.
    fn double(&mut self) {
        let value = f64::from_bits(self.numbers.next());
        let value = if value.is_finite() { value } else { 0.5 };
        self.out += &format!("{value:e}").replace('e', self.numbers.one_of(&["e", "E"]));
    }

    fn decimal(&mut self) {
        self.integer();
        self.out += &format!(".{:0>9}", self.numbers.below(1_000_000_000));
        if self.numbers.below(2) == 0 {
            let exponent = self.numbers.below(30) as i64 - 15;
            self.out += &format!("{}{exponent}", self.numbers.one_of(&["e", "E"]));
        }
    }
}

/// What Python makes of each text: canonical and compact.
fn python(texts: &[String]) -> Vec<(String, String)> {
    const PROGRAM: &str = "
import json, sys
if hasattr(sys, 'set_int_max_str_digits'):
    sys.set_int_max_str_digits(0)
for line in sys.stdin.buffer:
    value = json.loads(bytes.fromhex(line.decode()).decode())
    print(json.dumps(value, sort_keys=True))
    print(json.dumps(value, sort_keys=True, separators=(',', ':')))
";
    let mut process = Command::new("python3")
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test compares with python3");
    let mut input = process.stdin.take().unwrap();
    let lines: String = texts.iter().map(|text| hex::encode(text) + "\n").collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let mut output = String::new();
    process.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    writer.join().unwrap().unwrap();
    assert!(process.wait().unwrap().success());
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 2 * texts.len());
    let pairs = lines.chunks(2);
    pairs.map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
}

fn assert_same_as_python(texts: &[String]) {
    for (text, (canonical_text, compact_text)) in texts.iter().zip(python(texts)) {
        assert_eq!(canonical(text).as_ref(), Ok(&canonical_text), "{text}");
        assert_eq!(compact(text).as_ref(), Ok(&compact_text), "{text}");
    }
}

#[test]
fn values_of_every_kind_are_printed_as_python_prints_them() {
    let mut texts = Texts { numbers: Numbers(1), out: String::new() };
    let texts: Vec<String> = (0..20_000).map(|_| texts.make()).collect();
    assert_same_as_python(&texts);
}

#[test]
fn doubles_of_every_magnitude_are_printed_as_python_prints_them() {
    let mut numbers = Numbers(2);
    let mut texts = Vec::new();
    for exponent in -330..=308 {
        for digits in ["1", "9.999999999999999", "1.7976931348623157", "5", "4.35", "-2.5"] {
            texts.push(format!("{digits}e{exponent}"));
        }
    }
    // Powers of two, whose neighbours below are nearer than those above, and the doubles beside them.
    for exponent in 0..0x7ff_u64 {
        for bits in [exponent << 52, (exponent << 52) + 1, (exponent << 52).saturating_sub(1)] {
            texts.push(format!("{:e}", f64::from_bits(bits)));
        }
    }
    for _ in 0..20_000 {
        let value = f64::from_bits(numbers.next());
        texts.extend(value.is_finite().then(|| format!("{value:e}")));
        let bits = (numbers.next() % (1 << 58)) | (0x3c << 56);
        texts.push(format!("{:e}", f64::from_bits(bits)));
    }
    // "1.7976931348623157e308" is the largest; a text that Python reads as infinity is an error here.
    texts.retain(|text| text.parse::<f64>().unwrap().is_finite());
    assert_same_as_python(&texts);
}

#[test]
fn lone_surrogates_are_kept_and_sorted_by_code_point() {
    let text = r#"{"\ue000":1,"\ud800":2,"\ud83d\ude00":3,"\udfff":4,"\ud7ff":5,"\ud83d\ud83d\ude00":6}"#;
    assert_eq!(
        compact(text).unwrap(),
        r#"{"\ud7ff":5,"\ud800":2,"\ud83d\ud83d\ude00":6,"\udfff":4,"\ue000":1,"\ud83d\ude00":3}"#
    );
    assert_same_as_python(&[text.to_owned()]);
}

#[test]
fn the_last_of_equal_keys_wins_however_they_are_spelled() {
    let text = r#"{"b":0,"a":1,"\u0061":{"x":1},"b":2,"a":3}"#;
    assert_eq!(canonical(text).unwrap(), r#"{"a": 3, "b": 2}"#);
}

#[test]
fn integers_keep_all_their_digits() {
    let digits = "123456789".repeat(1000);
    assert_eq!(canonical(&digits).unwrap(), digits);
    assert_eq!(canonical("-0").unwrap(), "0");
    assert_eq!(canonical("[-0,-0.0,0e9,-0E-1]").unwrap(), "[0, -0.0, 0.0, -0.0]");
}

/// Both are 1.0 to Python. Read wrongly, they would have the hash of another number.
#[test]
fn a_number_whose_exponent_would_be_misread_is_refused() {
    let zeros = "0".repeat(655_360);
    for token in [format!("0.{zeros}1e655361"), format!("1{zeros}e-655360")] {
        let refused = canonical(&format!("[{token}]")).unwrap_err();
        assert_eq!(refused.offset, 1);
        assert!(refused.reason.contains("longer than 60,000 characters"), "{}", refused.reason);
        write_number(&mut Vec::new(), &token).unwrap_err();
    }
    // The longest that is taken, and those without an exponent.
    let zeros = "0".repeat(59_990);
    assert_eq!(canonical(&format!("0.{zeros}1e59991")).unwrap(), "1.0");
    assert_eq!(canonical(&format!("1{zeros}e-59990")).unwrap(), "1.0");
    assert_eq!(canonical(&format!("1.{}", "0".repeat(100_000))).unwrap(), "1.0");
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    let cases = [
        ("", 0),
        (" ", 1),
        ("nul", 0),
        ("nulll", 4),
        ("NaN", 0),
        ("Infinity", 0),
        ("-Infinity", 1),
        ("01", 0),
        ("-01", 0),
        ("00", 0),
        ("+1", 0),
        (".5", 0),
        ("1.", 2),
        ("1.e5", 2),
        ("1e", 2),
        ("1e+", 3),
        ("-", 1),
        ("0x1", 1),
        ("1e309", 0),
        ("[1, -1e400]", 4),
        ("[", 1),
        ("[1", 2),
        ("[1,", 3),
        ("[1,]", 3),
        ("[,1]", 1),
        ("[1 2]", 3),
        ("[1}", 2),
        ("{", 1),
        ("{\"a\"", 4),
        ("{\"a\":", 5),
        ("{\"a\":1", 6),
        ("{\"a\":1,", 7),
        ("{\"a\":1,}", 7),
        ("{\"a\" 1}", 5),
        ("{a:1}", 1),
        ("{1:1}", 1),
        ("{\"a\":1]", 6),
        ("1 2", 2),
        ("]", 0),
        ("\"", 1),
        ("\"a", 2),
        ("\"\\\"", 3),
        ("\"\\x\"", 1),
        ("\"\\u12g4\"", 1),
        ("\"\\u12", 1),
        ("\"a\nb\"", 2),
        ("\"a\u{1f}\"", 2),
        ("'a'", 0),
        ("\u{feff}1", 0),
        ("\u{a0}1", 0),
        ("/**/1", 0),
    ];
    for (text, offset) in cases {
        let error = canonical(text).unwrap_err();
        assert_eq!(error.offset, offset, "{text:?}: {error}");
        assert!(serde_json::from_str::<Value>(text).is_err(), "{text:?}");
    }
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let depth = MAX_DEPTH;
    let arrays = "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(compact(&arrays).unwrap(), arrays);
    let objects = "{\"b\":0,\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
    let sorted = "{\"a\":".repeat(depth) + "1" + &",\"b\":0}".repeat(depth);
    assert_eq!(compact(&objects).unwrap(), sorted);
    assert_eq!(canonical(&"[".repeat(depth)).unwrap_err().offset, depth);
}

#[test]
fn a_text_that_is_nested_too_deep_is_refused_and_says_so() {
    let error = canonical(&"[".repeat(10 * MAX_DEPTH)).unwrap_err();
    assert_eq!(error.offset, MAX_DEPTH);
    assert!(error.to_string().contains(&format!("nested more than {MAX_DEPTH} deep")), "{error}");
    assert!(canonical(&"{\"a\":".repeat(MAX_DEPTH + 1)).is_err());
}

#[test]
fn a_workspace_does_not_keep_the_buffers_of_a_large_text() {
    let mut workspace = Workspace::default();
    let strings = "\"\u{7f}\", ".repeat(LARGE / 4);
    for text in [format!("[{strings}1]"), format!("[{}", "1,".repeat(LARGE)), format!("[\"{}\"]", "\\n".repeat(LARGE))]
    {
        let _ = workspace.canonical_value_end(&text, 0);
        assert!(workspace.is_small());
    }
}

#[test]
fn an_object_is_told_from_other_values() {
    assert!(starts_object(" \n{}"));
    for text in ["[]", "null", "\"{\"", "", "1"] {
        assert!(!starts_object(text));
    }
}

fn values() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    scalar.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_canonical_text_is_the_same_value_and_its_own_canonical_text(value in values()) {
        let text = canonical(&value.to_string()).unwrap();
        prop_assert!(text.is_ascii());
        prop_assert_eq!(&canonical(&text).unwrap(), &text);
        prop_assert_eq!(&canonical(&compact(&text).unwrap()).unwrap(), &text);
        let same: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&same, &value);
        let end = Workspace::default().canonical_value_end(&text, 0);
        prop_assert_eq!(end, Some(text.len()));
    }

    #[test]
    fn exactly_the_texts_that_serde_json_takes_are_taken(text in "[\\[\\]{}:, \"\\\\ua0-9eE+.-]{0,12}") {
        let taken = canonical(&text).is_ok();
        let overflows = text.to_lowercase().contains('e');
        // A lone surrogate or an overflow is where the two differ on purpose.
        if !text.contains("\\u") && !overflows {
            prop_assert_eq!(taken, serde_json::from_str::<Value>(&text).is_ok());
        }
    }

    #[test]
    fn a_string_is_written_as_its_json_is(text: String) {
        let mut out = Vec::new();
        write_string(&mut out, &text);
        prop_assert_eq!(String::from_utf8(out).unwrap(), canonical(&Value::from(text).to_string()).unwrap());
    }

    #[test]
    fn a_string_token_decodes_to_its_text(text: String) {
        let mut out = Vec::new();
        write_string(&mut out, &text);
        let (end, verbatim) = string_end(&out, 0).unwrap();
        prop_assert_eq!(end, out.len());
        let token = String::from_utf8(out).unwrap();
        prop_assert_eq!(decode(&token, verbatim).unwrap(), text);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text: String) {
        let _ = canonical(&text);
    }
}

#[test]
fn an_object_with_a_key_twice_loses_a_member_and_no_other_text_does() {
    for (json, is_kept) in [
        (r#"{}"#, true),
        (r#"[":", {"a:": 1, "b": [{"a": ":\":"}]}]"#, true),
        (r#"{"role": "admin", "role": "user"}"#, false),
        (r#"[{"x": {"a": 1, "\u0061": 1}}]"#, false),
        (r#"{"a": {"b": 1}, "a": {}}"#, false),
    ] {
        assert_eq!(keeps_members(json, &canonical(json).unwrap()), is_kept, "{json}");
    }
    let mut texts = Texts { numbers: Numbers(77), out: String::new() };
    let mut lost = 0;
    for _ in 0..2000 {
        let json = texts.make();
        let is_kept = keeps_members(&json, &canonical(&json).unwrap());
        lost += usize::from(!is_kept);
        // Once that is all, a canonical text has all of it.
        let canonical_text = canonical(&json).unwrap();
        assert!(keeps_members(&canonical_text, &canonical(&canonical_text).unwrap()));
    }
    assert!((1..2000).contains(&lost), "{lost}");
}

#[test]
fn the_caller_is_let_in_while_a_long_text_is_read_and_while_it_is_written() {
    for (value, count) in [("1", 20_000), ("\"\\u00e9\"", 20_000), ("[]", 20_000), ("{\"a\": 1}", 10_000)] {
        let text = format!("[{}{value}]", format!("{value}, ").repeat(count));
        let mut pauses = 0;
        assert_eq!(canonical_pausing(&text, &mut || pauses += 1), canonical(&text));
        // Once in 4096 values, and that twice.
        assert!(pauses >= 2 * (count / 4096), "{value}: {pauses}");
    }
}
