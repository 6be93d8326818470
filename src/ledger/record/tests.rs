use super::*;
use crate::ledger::test_support::vector_text;
use proptest::prelude::*;

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn entry() -> Entry {
    Entry {
        entry_id: uuid(7),
        entry_type: "memory \"write\" é".to_owned(),
        data_hash: "ab".repeat(32),
        metadata: r#"{"a": [1, 2.5], "b": "\u00e9"}"#.to_owned(),
        signature: Some("cd".repeat(32)),
        key_id: Some("default".to_owned()),
        created_at: Timestamp::from_micros(1).unwrap(),
    }
}

fn render(record: &Record) -> Vec<u8> {
    match record {
        Record::Ledger(header) => header.line(),
        Record::Entry(entry) => entry.to_entry().line(),
        Record::Block(block) => block.header.line(&block.entry_ids),
        Record::Void(void) => void.line(),
    }
}

#[test]
fn every_line_of_the_vector_file_reads_and_renders_as_itself() {
    let mut kinds = [0; 4];
    for line in vector_text("ledger.jsonl").lines() {
        let record = Record::parse(line.as_bytes()).unwrap();
        assert_eq!(render(&record), line.as_bytes());
        kinds[match record {
            Record::Ledger(_) => 0,
            Record::Entry(_) => 1,
            Record::Block(_) => 2,
            Record::Void(_) => 3,
        }] += 1;
    }
    assert_eq!(kinds, [1, 116, 4, 6]);
}

#[test]
fn an_entry_line_has_exactly_these_bytes() {
    let signed = String::from_utf8(entry().line()).unwrap();
    let expected = format!(
        concat!(
            r#"{{"data_hash": "{}", "entry_id": "00000000-0000-0000-0000-000000000007", "#,
            r#""entry_type": "memory \"write\" \u00e9", "key_id": "default", "#,
            r#""metadata": {{"a": [1, 2.5], "b": "\u00e9"}}, "record_type": "entry", "#,
            r#""signature": "{}", "timestamp": "1970-01-01T00:00:00.000001Z"}}"#,
        ),
        "ab".repeat(32),
        "cd".repeat(32)
    );
    assert_eq!(signed, expected);
    let unsigned = Entry { signature: None, key_id: None, ..entry() };
    let unsigned = String::from_utf8(unsigned.line()).unwrap();
    assert!(unsigned.contains(r#""key_id": null, "#) && unsigned.contains(r#""signature": null, "#));
}

#[test]
fn a_line_that_is_not_a_record_is_refused_with_its_reason_and_place() {
    use LineErrorKind::*;
    let line = String::from_utf8(entry().line()).unwrap();
    let hash = "ab".repeat(32);
    let reason_of = |line: &str| Record::parse(line.as_bytes()).unwrap_err();
    let changed = |from: &str, to: &str| {
        assert!(line.contains(from));
        reason_of(&line.replacen(from, to, 1))
    };
    assert_eq!(reason_of("").kind, NotJson("unexpected end of the text"));
    assert_eq!(reason_of("[]").kind, NotAnObject);
    assert_eq!(reason_of("{}").kind, UnknownRecordType("(none)".to_owned()));
    assert_eq!(reason_of(&format!("{line}\r")).kind, NotCanonical);
    assert_eq!(reason_of(&format!(" {line}")).kind, NotCanonical);
    assert_eq!(changed(", ", ",").kind, NotCanonical);
    assert_eq!(changed("[1, 2.5]", "[1, 2.50]").kind, NotCanonical);
    assert_eq!(changed("\\u00e9\", \"key", "\\u00E9\", \"key").kind, NotCanonical);
    assert_eq!(changed("\\u00e9\", \"key", "é\", \"key").kind, NotCanonical);
    let extra = changed("\"record_type\"", "\"more\": 1, \"record_type\"");
    assert_eq!(extra.kind, UnknownKey("more".to_owned()));
    assert_eq!(changed("\"key_id\": \"default\", ", "").kind, MissingKey("key_id"));
    let unknown = changed("\"record_type\": \"entry\"", "\"record_type\": \"note\"");
    assert_eq!(unknown.kind, UnknownRecordType("\"note\"".to_owned()));
    let invalid = |error: LineError, expected: &str| match error.kind {
        InvalidValue { key, .. } => assert_eq!(key, expected),
        other => panic!("{expected}: {other:?}"),
    };
    invalid(changed(&hash, &hash[1..]), "data_hash");
    invalid(changed(&hash, &hash.to_uppercase()), "data_hash");
    invalid(changed("0000-0000-0000-000000000007", "0000-0000-0000-00000000000A"), "entry_id");
    invalid(changed("\"memory \\\"write\\\" \\u00e9\"", "\"\""), "entry_type");
    invalid(changed("\"memory \\\"write\\\" \\u00e9\"", "\"\\ud800\""), "entry_type");
    invalid(changed("\"default\"", "7"), "key_id");
    invalid(changed("{\"a\": [1, 2.5], \"b\": \"\\u00e9\"}", "[1]"), "metadata");
    invalid(changed("1970-01-01T", "1970-02-30T"), "timestamp");
    let error = changed("1970-01-01T", "1970-02-30T");
    assert_eq!(error.offset, line.find("\"1970").unwrap());
}

#[test]
fn a_line_that_is_not_utf8_or_too_deep_is_refused() {
    let mut line = entry().line();
    line[3] = 0xff;
    let error = Record::parse(&line).unwrap_err();
    assert_eq!((error.offset, error.kind), (3, LineErrorKind::NotUtf8));
    let nested = |depth| format!("{{\"a\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
    let error = Record::parse(nested(100_000).as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "not JSON: values nested more than 100000 deep at byte 100005");
    let error = Record::parse(nested(99_999).as_bytes()).unwrap_err();
    assert_eq!(error.kind, LineErrorKind::UnknownRecordType("(none)".to_owned()));
}

#[test]
fn a_line_that_begins_with_a_byte_order_mark_is_refused_as_such() {
    let line = format!("\u{feff}{}", String::from_utf8(entry().line()).unwrap());
    let error = Record::parse(line.as_bytes()).unwrap_err();
    assert_eq!(error, LineError { offset: 0, kind: LineErrorKind::ByteOrderMark });
}

#[test]
fn the_format_of_a_header_is_read_whatever_else_it_states() {
    let timestamp = Timestamp::from_micros(0).unwrap();
    let header = Header { database: "format".to_owned(), ledger_id: uuid(7), timestamp };
    assert_eq!(Header::stated_format(&header.line()), Some(u64::from(FORMAT)));
    for (line, format) in [
        (r#"{"format": 2, "more": {"format": 3}, "record_type": "ledger"}"#, Some(2)),
        (r#"{"record_type":"ledger","format":18}"#, Some(18)),
        (r#"{"format": 2, "record_type": "entry"}"#, None),
        (r#"{"format": 2}"#, None),
        (r#"{"format": "2", "record_type": "ledger"}"#, None),
        (r#"{"format": -2, "record_type": "ledger"}"#, None),
        (r#"{"record_type": "ledger"}"#, None),
        (r#""format""#, None),
        (r#"{"format": 2, "record_type": "ledger""#, None),
        ("", None),
    ] {
        assert_eq!(Header::stated_format(line.as_bytes()), format, "{line}");
    }
}

#[test]
fn numbers_of_a_block_line_have_one_spelling() {
    let text = vector_text("ledger.jsonl");
    let line = text.lines().find(|line| line.starts_with("{\"block_hash\"")).unwrap();
    for other in ["01", "-0", "1.0", "1e0", "+1", "99999999999999999999", "\"1\"", "null"] {
        let changed = line.replace("\"block_number\": 1,", &format!("\"block_number\": {other},"));
        assert_ne!(changed, line);
        assert!(Record::parse(changed.as_bytes()).is_err(), "{other}");
    }
}

#[test]
fn values_of_an_entry_are_checked_with_messages_for_a_user() {
    assert!(check_data_hash(&"0f".repeat(32)).is_ok());
    for bad in ["", &"0F".repeat(32), &"0f".repeat(31), &"0g".repeat(32), &"é".repeat(32)] {
        assert!(check_data_hash(bad).is_err(), "{bad}");
    }
    assert!(check_entry_type("a").is_ok());
    assert!(check_entry_type(&"é".repeat(100)).is_ok());
    assert!(check_entry_type("").is_err());
    assert!(check_entry_type(&"a".repeat(101)).is_err());
    assert!(check_metadata("{}").is_ok());
    assert!(check_metadata("[]").is_err());
    let message = check_metadata("1").unwrap_err().to_string();
    assert_eq!(message, "metadata must be a JSON object");
}

fn entries() -> impl Strategy<Value = Entry> {
    let metadata = prop::collection::btree_map(any::<String>(), any::<(i64, String)>(), 0..4)
        .prop_map(|map| crate::ledger::canonical_json::canonical(&serde_json::json!(map).to_string()))
        .prop_map(Result::unwrap);
    let micros = -60_000_000_000_000_000i64..250_000_000_000_000_000;
    (any::<u128>(), ".{1,100}", any::<[u8; 32]>(), metadata, any::<Option<(String, String)>>(), micros).prop_map(
        |(id, entry_type, hash, metadata, signed, micros)| Entry {
            entry_id: uuid(id),
            entry_type,
            data_hash: crate::ledger::to_hex(&hash),
            metadata,
            signature: signed.clone().map(|signed| signed.0),
            key_id: signed.map(|signed| signed.1),
            created_at: Timestamp::from_micros(micros).unwrap(),
        },
    )
}

proptest! {
    #[test]
    fn an_entry_line_is_canonical_and_reads_back_as_the_entry(entry in entries()) {
        prop_assert_eq!(entry.as_line().line_length(), entry.line().len());
        let line = entry.line();
        let text = std::str::from_utf8(&line).unwrap();
        prop_assert_eq!(&crate::ledger::canonical_json::canonical(text).unwrap(), text);
        match Record::parse(&line).unwrap() {
            Record::Entry(read) => prop_assert_eq!(read.to_entry(), entry),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn header_and_void_lines_read_back_as_themselves(
        id: u128, ids in prop::collection::vec(any::<u128>(), 1..4), text: String,
    ) {
        let timestamp = Timestamp::from_micros(0).unwrap();
        let header = Header { database: text.clone(), ledger_id: uuid(id), timestamp };
        let void = Void { entry_ids: ids.into_iter().map(uuid).collect(), reason: text, timestamp };
        let (header_line, void_line) = (header.line(), void.line());
        prop_assert_eq!(Record::parse(&header_line).unwrap(), Record::Ledger(header));
        prop_assert_eq!(Record::parse(&void_line).unwrap(), Record::Void(void));
    }

    #[test]
    fn any_changed_byte_gives_another_record_or_none(at in 0usize..400, byte: u8) {
        let line = entry().line();
        let mut changed = line.clone();
        let at = at % line.len();
        changed[at] = byte;
        if let Ok(record) = Record::parse(&changed) {
            prop_assert_eq!(render(&record), changed);
        }
    }
}
