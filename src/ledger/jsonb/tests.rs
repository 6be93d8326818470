//! The two ways, there and back. What `jsonb_in` itself makes is compared in pg_regress.

use super::canonical::{decimals, write_up_to};
use super::encode;
use super::layout::{varlena_header, CONTAINER, HAS_OFFSET, NULL, NUMERIC, OFFSET_STRIDE, VARLENA_HEADER};
use super::{is_sound, members, write_canonical as write, Found, Written};
use crate::ledger::canonical_json::{canonical, keeps_numbers};
use proptest::prelude::*;

fn back(jsonb: &[u8]) -> Option<(String, Written)> {
    let mut out = Vec::new();
    let written = write(&mut out, &jsonb[VARLENA_HEADER..])?;
    Some((String::from_utf8(out).unwrap(), written))
}

#[test]
fn what_was_encoded_reads_as_the_same_text() {
    let long_key = "k".repeat(300);
    let many: Vec<String> = (0..100).map(|number| format!("\"m{number}\": [{number}, null, \"\\u00e9\"]")).collect();
    for json in [
        "{}",
        "[]",
        r#"{"b": 1, "aa": -20000, "c": {"d": [true, false, null, 0.75, -0.0001, 123456789.5]}, "": "x"}"#,
        r#"{"a": 1, "a\u0001": 2, "abcdefgh": 3, "abcdefghi": 4, "abcdefgh\u00e9": 5, "abcdefga": 6, "\u00e9": 7, "zzzzzzzzz": 8}"#,
        r#"["\ud83d\ude00", "a\"b\\c\n", {"\u00e9": [[], {}]}]"#,
        r#"[0, -1, 10000, 99999999, 10000000000000000000000000, 0.5, 100.0, 0.0, 1200.0034]"#,
        &format!("{{\"{long_key}\": [1, [2, [3]]]}}"),
        &format!("{{{}}}", many.join(", ")),
    ] {
        let json = canonical(json).unwrap();
        let (text, written) = back(&encode(&json).unwrap()).unwrap();
        assert_eq!(text, json);
        assert!(written.keeps_numbers);
    }
}

#[test]
fn what_is_left_to_postgres_is_told() {
    for json in ["1", "\"a\"", "[1e+16]", "[1e-07]", "[\"\\ud800\"]", "{\"a\": ", "[1] ", ""] {
        assert_eq!(encode(json), None, "{json}");
    }
    for json in ["[\"\\u0000\"]", "{\"a\": \"b\\u0000\"}", "{\"a\\u0000\": 1}"] {
        assert_eq!(encode(json), None, "{json}");
    }
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert_eq!(encode(&deep), None);
}

#[test]
fn a_number_that_a_double_may_not_keep_is_told() {
    let jsonb = encode("[0.12345678901234567]").unwrap();
    let (text, written) = back(&jsonb).unwrap();
    assert_eq!(text, canonical("[0.12345678901234567]").unwrap());
    assert!(!written.keeps_numbers);
}

/// An array of elements given by their types and bytes, without padding: each of them is a multiple of four bytes long.
fn array_of(elements: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = (0x4000_0000 | elements.len() as u32).to_ne_bytes().to_vec();
    let mut length = 0;
    for (index, (kind, data)) in elements.iter().enumerate() {
        length += data.len() as u32;
        let is_offset = index.is_multiple_of(OFFSET_STRIDE);
        let entry = if is_offset { HAS_OFFSET | length } else { data.len() as u32 };
        bytes.extend_from_slice(&(kind | entry).to_ne_bytes());
    }
    elements.iter().for_each(|(_, data)| bytes.extend_from_slice(data));
    bytes
}

/// A numeric of these halves: header (with a longer one: and weight), digits.
fn number_of(halves: &[u16]) -> Vec<u8> {
    let mut number = varlena_header(VARLENA_HEADER + 2 * halves.len()).to_ne_bytes().to_vec();
    halves.iter().for_each(|half| number.extend_from_slice(&half.to_ne_bytes()));
    number
}

#[test]
fn a_small_value_whose_text_is_long_is_given_up_on_at_the_limit() {
    // Twelve bytes, and a digit of weight 32767.
    let number = number_of(&[0, 32_767, 1000, 1]);
    let element = (NUMERIC, &number[..]);
    let number = format!("10000001{}", "0".repeat(131_064));
    let text = format!("[{number}, {number}]");
    let mut out = b"before".to_vec();
    assert!(write_up_to(text.len(), &mut out, &array_of(&[element; 2])).is_some());
    assert_eq!(out, format!("before{text}").into_bytes());
    assert!(write_up_to(text.len() - 1, &mut Vec::new(), &array_of(&[element; 2])).is_none());
    // A million of them, and nested: it ends soon after the limit.
    let many = array_of(&vec![element; 1000]);
    let many = array_of(&vec![(CONTAINER, &many[..]); 1000]);
    let mut out = Vec::new();
    assert!(write_up_to(1 << 20, &mut out, &many).is_none());
    assert!(out.len() < (1 << 20) + 2 * number.len(), "{} bytes", out.len());
}

#[test]
fn containers_that_share_their_bytes_are_none() {
    let mut jsonb = array_of(&[]);
    for _ in 0..3 {
        // A null that ends where the first element begins: the third one has the bytes of the first.
        let length = jsonb.len() as u32;
        let entries = [CONTAINER | length, NULL | HAS_OFFSET, CONTAINER | HAS_OFFSET | length];
        let mut outer = 0x4000_0003_u32.to_ne_bytes().to_vec();
        entries.iter().for_each(|entry| outer.extend_from_slice(&entry.to_ne_bytes()));
        outer.extend_from_slice(&jsonb);
        jsonb = outer;
    }
    assert_eq!(write(&mut Vec::new(), &jsonb), None);
    let object = [0x2000_0001, HAS_OFFSET | 1, HAS_OFFSET, u32::from_ne_bytes(*b"aaaa")];
    let object: Vec<u8> = object.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    assert_eq!(members(&object, ["a"]), None);
}

/// The bytes of a jsonb without its varlena header.
fn stored(json: &str) -> Vec<u8> {
    encode(&canonical(json).unwrap()).unwrap().split_off(VARLENA_HEADER)
}

/// The same, overwritten at some places.
fn edited(json: &str, edits: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = stored(json);
    edits.iter().for_each(|(at, new)| bytes[*at..at + new.len()].copy_from_slice(new));
    bytes
}

/// An array of one numeric.
fn numeric_of(halves: &[u16]) -> Vec<u8> {
    let number = number_of(halves);
    let entry = NUMERIC | HAS_OFFSET | number.len() as u32;
    let head = [0x4000_0001, entry].into_iter().flat_map(u32::to_ne_bytes);
    head.chain(number).collect()
}

fn is_taken(jsonb: &[u8]) -> bool {
    let is_written = write(&mut Vec::new(), jsonb).is_some();
    assert_eq!(is_written, is_sound(jsonb), "{jsonb:x?}");
    is_written
}

/// In `{"aa": "one", "bb": "two"}`: a header, entries of aa, bb, one and two from 4 on, and their bytes from 20 on.
const TWO_MEMBERS: &str = r#"{"aa": "one", "bb": "two"}"#;

#[test]
fn a_container_that_postgres_would_not_have_stored_so_is_not_taken() {
    let word = |word: u32| word.to_ne_bytes();
    let two = |edits: &[(usize, &[u8])]| edited(TWO_MEMBERS, edits);
    let longer = |json: &str, tail: &[u8]| [&stored(json), tail].concat();
    let scalar = |json: &str, header: u32| edited(json, &[(0, &word(header))]);
    assert!(is_taken(&stored(TWO_MEMBERS)));
    for (what, jsonb) in [
        (
            "a container with more children than it has bytes",
            two(&[(12, &word(0x5000_0004)), (24, b"\xff\xff\xff\x4f")]),
        ),
        ("members in another order", two(&[(20, b"bbaatwoone")])),
        ("the same key twice", two(&[(20, b"aaaa")])),
        ("a longer key first", two(&[(4, &word(HAS_OFFSET | 3)), (8, &word(1))])),
        ("a key that is no string", two(&[(4, &word(HAS_OFFSET | NULL | 2))])),
        ("a count too small", two(&[(0, &word(0x2000_0001))])),
        ("a count too large", two(&[(0, &word(0x2fff_ffff))])),
        ("no kind", two(&[(0, &word(2))])),
        ("two kinds", two(&[(0, &word(0x6000_0002))])),
        ("an unknown bit", two(&[(0, &word(0xa000_0002))])),
        ("a scalar object", two(&[(0, &word(0x3000_0002))])),
        ("a length where an offset stands", two(&[(4, &word(2))])),
        ("an offset where a length stands", two(&[(8, &word(HAS_OFFSET | 4))])),
        ("an unknown kind of child", two(&[(12, &word(0x6000_0003))])),
        ("bytes behind the last child", longer(TWO_MEMBERS, b"\0")),
        ("bytes behind the last child of a child", array_of(&[(CONTAINER, &longer("[]", &[0; 4]))])),
        ("bytes in an empty array", longer("[]", b"\0\0\0\0")),
        ("a null with bytes", edited(r#"["a"]"#, &[(4, &word(NULL | HAS_OFFSET | 1))])),
        ("a true with bytes", edited(r#"["a"]"#, &[(4, &word(0x3000_0000 | HAS_OFFSET | 1))])),
        ("padding that is not zero", edited(r#"["a", 5]"#, &[(13, b"x")])),
        ("text that is not UTF-8", edited(r#"["a"]"#, &[(8, b"\xff")])),
        ("a key that is not UTF-8", two(&[(22, b"b\xff")])),
        ("a string with a NUL", edited(r#"["a"]"#, &[(8, b"\0")])),
        ("a scalar of two", scalar("[1, 2]", 0x5000_0002)),
        ("a scalar of none", scalar("[]", 0x5000_0000)),
        ("a scalar inside", edited("[[1]]", &[(8, &word(0x5000_0001))])),
        ("a scalar that is a container", scalar("[[1]]", 0x5000_0001)),
        ("no bytes", Vec::new()),
    ] {
        assert!(!is_taken(&jsonb), "{what}");
    }
    assert!(is_taken(&scalar("[1]", 0x5000_0001)));
    assert!(is_taken(&scalar(r#"["a"]"#, 0x5000_0001)));
}

#[test]
fn a_number_that_postgres_would_not_have_stored_so_is_not_taken() {
    // Short headers: a bit, a sign, six bits of scale, seven of weight.
    const PLAIN: u16 = 0x8000;
    const NEGATIVE: u16 = 0x2000;
    let scale = |scale: u16| scale << 7;
    for (what, halves) in [
        ("a digit of 10000", &[PLAIN, 10_000][..]),
        ("a digit that prints as another", &[PLAIN, 10_005]),
        ("a digit of 65535", &[PLAIN | 1, 1, 65_535]),
        ("decimals behind the scale", &[PLAIN | scale(1), 1, 5_100]),
        ("a whole digit behind the scale", &[PLAIN | scale(1), 1, 5_000, 1]),
        ("a fraction with no scale", &[PLAIN, 1, 5_000]),
        ("a zero in front", &[PLAIN | 1, 0, 5]),
        ("a zero at the end", &[PLAIN | scale(1), 1, 5_000, 0]),
        ("a zero that is written", &[PLAIN, 0]),
        ("minus zero", &[PLAIN | NEGATIVE]),
        ("a zero with a weight", &[PLAIN | 1]),
        ("NaN", &[0xc000]),
        ("infinity", &[0xd000]),
        ("minus infinity", &[0xf000]),
        ("NaN with a digit", &[0xc000, 5]),
        ("no header", &[]),
        ("a longer header without a weight", &[0]),
    ] {
        assert!(!is_taken(&numeric_of(halves)), "{what}");
    }
    let five = numeric_of(&[PLAIN, 5]);
    assert!(is_taken(&five));
    assert!(!is_taken(&[&five[..], &[0, 0]].concat()), "bytes behind the number");
    let mut longer = numeric_of(&[PLAIN, 5]);
    longer[8..12].copy_from_slice(&varlena_header(VARLENA_HEADER + 2).to_ne_bytes());
    assert!(!is_taken(&longer), "a digit behind the number");
    let mut packed = numeric_of(&[PLAIN, 5]);
    packed[8] |= 1;
    assert!(!is_taken(&packed), "another kind of varlena");
}

#[test]
fn numbers_as_postgres_stores_them_are_taken() {
    const PLAIN: u16 = 0x8000;
    let minus_two = (-2_i16).cast_unsigned();
    for (text, halves) in [
        ("0", &[PLAIN][..]),
        ("0.0", &[PLAIN | 3 << 7]),
        ("1.5", &[PLAIN | 2 << 7, 1, 5_000]),
        ("1.5", &[1, 0, 1, 5_000]),
        ("-1.0", &[0x4000 | 100, 0, 1]),
        ("1.0001", &[PLAIN | 4 << 7, 1, 1]),
        ("1.00012", &[PLAIN | 5 << 7, 1, 1, 2_000]),
        ("1e-05", &[PLAIN | 5 << 7 | 0x7e, 1_000]),
        ("1e-05", &[100, minus_two, 1_000]),
        ("120000", &[PLAIN | 1, 12]),
    ] {
        let mut out = Vec::new();
        assert!(write(&mut out, &numeric_of(halves)).is_some(), "{text}");
        assert_eq!(String::from_utf8(out).unwrap(), format!("[{text}]"));
        assert!(is_taken(&numeric_of(halves)));
    }
}

#[test]
fn every_digit_has_its_four_decimals() {
    for digit in 0..10_000 {
        assert_eq!(decimals(digit), format!("{digit:04}").as_bytes());
    }
}

#[test]
fn keys_are_in_the_order_of_their_lengths_and_then_of_their_bytes() {
    let keys =
        ["", "a", "b", "ab", "abcdefg", "abcdefh", "abcdefga", "abcdefgb", "abcdefgha", "abcdefghb", "abcdefgi\u{e9}"];
    for (index, key) in keys.iter().enumerate() {
        for (other_index, other) in keys.iter().enumerate() {
            let data = [key.as_bytes(), other.as_bytes()].concat();
            let entries = [0x2000_0002, HAS_OFFSET | key.len() as u32, other.len() as u32, NULL, NULL];
            let head: Vec<u8> = entries.into_iter().flat_map(u32::to_ne_bytes).collect();
            assert_eq!(is_taken(&[head, data].concat()), index < other_index, "{key} {other}");
        }
    }
}

#[test]
fn padding_is_zeros_wherever_it_stands() {
    for length in 0..5 {
        let json = format!("[\"{}\", 5]", "a".repeat(length));
        let padded = stored(&json);
        assert!(is_taken(&padded));
        let start = 12 + length;
        for at in start..start.next_multiple_of(4) {
            assert!(!is_taken(&edited(&json, &[(at, &[1])])), "{at} after {length}");
        }
    }
}

#[test]
fn what_cannot_be_written_may_be_sound() {
    // 1e400 with a fraction.
    let large = numeric_of(&[1, 100, 1]);
    assert!(is_sound(&large));
    assert_eq!(write(&mut Vec::new(), &large), None);
    let mut deep = array_of(&[]);
    let mut damaged = array_of(&[(NUMERIC, &number_of(&[0x8000, 10_000]))]);
    for _ in 0..200 {
        (deep, damaged) = (array_of(&[(CONTAINER, &deep)]), array_of(&[(CONTAINER, &damaged)]));
    }
    for (jsonb, is_undamaged) in [(deep, true), (damaged, false)] {
        assert_eq!(write(&mut Vec::new(), &jsonb), None);
        assert_eq!(is_sound(&jsonb), is_undamaged);
    }
}

#[test]
fn members_are_found_by_name() {
    let many: Vec<String> = (0..100).map(|number| format!("\"m{number}\": \"v{number}\"")).collect();
    let jsonb = encode(
        &canonical(&format!("{{{}, \"a\": 1, \"b\": {{\"c\": \"d\"}}, \"é\": \"\"}}", many.join(", "))).unwrap(),
    );
    let jsonb = &jsonb.unwrap()[VARLENA_HEADER..];
    let found = members(jsonb, ["m0", "m99", "m63", "a", "b", "c", "é", "m100"]);
    let text = |text: &'static str| Found::Text(text.as_bytes());
    let (other, absent) = (Found::Other, Found::Absent);
    assert_eq!(found, Some([text("v0"), text("v99"), text("v63"), other, other, absent, text(""), absent]));
    assert_eq!(members(&encode("{}").unwrap()[VARLENA_HEADER..], ["a"]), Some([absent]));
    assert_eq!(members(&encode("[\"a\"]").unwrap()[VARLENA_HEADER..], ["a"]), None);
    assert_eq!(members(&jsonb[..jsonb.len() / 2], ["m99"]), None);
}

fn values() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        (-1_000_000_i64..1_000_000).prop_map(|number| serde_json::Value::from(number as f64 / 64.0)),
        "[a-zé\"\\\\\n😀]{0,12}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 64, 40, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..40).prop_map(serde_json::Value::from),
            prop::collection::btree_map("[a-cé😀]{0,3}", inner, 0..40)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_comes_back(value in values()) {
        let json = canonical(&serde_json::json!([value]).to_string()).unwrap();
        let jsonb = encode(&json).unwrap();
        prop_assert_eq!(back(&jsonb).unwrap().0, json);
    }

    #[test]
    fn any_decimal_is_written_as_its_text_is(digits in 0_u64..=u64::MAX, shift in 0_u32..64, scale in 0_usize..24, is_negative: bool) {
        let digits = format!("{:0width$}", digits >> shift, width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let is_zero = digits.bytes().all(|digit| digit == b'0');
        let sign = if is_negative && !is_zero { "-" } else { "" };
        let point = if scale > 0 { "." } else { "" };
        let json = format!("[{sign}{whole}{point}{fraction}]");
        let (text, written) = back(&encode(&json).unwrap()).unwrap();
        prop_assert_eq!(text, canonical(&json).unwrap());
        prop_assert_eq!(written.keeps_numbers, keeps_numbers(&json));
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        write(&mut Vec::new(), &bytes);
    }

    #[test]
    fn a_damaged_value_is_read_without_harm(at in 0_usize..60, byte in any::<u8>()) {
        let mut jsonb = encode(r#"{"a": [1, 2.5, {"b": "text"}], "c": null, "dd": -70000}"#).unwrap();
        let at = at % jsonb.len();
        jsonb[at] = byte;
        write(&mut Vec::new(), &jsonb[VARLENA_HEADER..]);
    }
}
