//! The two ways, there and back. What `jsonb_in` itself makes is compared in pg_regress.

use super::canonical::write_up_to;
use super::encode;
use super::layout::{aligned, varlena_header, CONTAINER, HAS_OFFSET, NULL, NUMERIC, VARLENA_HEADER};
use super::{members, write_canonical as write, Found, Written};
use crate::ledger::canonical_json::canonical;
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
    elements.iter().for_each(|(kind, data)| bytes.extend_from_slice(&(kind | data.len() as u32).to_ne_bytes()));
    elements.iter().for_each(|(_, data)| bytes.extend_from_slice(data));
    bytes
}

/// 1e131071: a numeric of twelve bytes with a digit of weight 32767.
fn long_number() -> Vec<u8> {
    let halves: [u16; 3] = [0, 32_767, 1000];
    let digits = halves.iter().flat_map(|half| half.to_ne_bytes());
    let mut bytes = varlena_header(VARLENA_HEADER + 6).to_ne_bytes().to_vec();
    bytes.extend(digits);
    bytes.resize(aligned(bytes.len()), 0);
    bytes
}

#[test]
fn a_small_value_whose_text_is_long_is_given_up_on_at_the_limit() {
    let number = long_number();
    let element = (NUMERIC, &number[..]);
    let number = format!("1{}", "0".repeat(131_071));
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
