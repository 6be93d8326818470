//! What signing and verifying promise together.

use super::attributes;
use super::payload::text_hash;
use super::payload::Payload;
use super::signature_line::{LineFormat, SignatureLine};
use super::signer::sign;
use super::verifier::{verify, verify_integrity, Status, Verification, SOLUTION};
use super::{Item, ItemError, ItemType, Place};
use crate::ledger::record::Timestamp;
use crate::ledger::sha256_hex;
use proptest::prelude::*;

const DIRECTIVE: &str =
    "# Title\n\n```xml\n<directive name=\"test\" version=\"1.0.0\">\n  <a>b</a>\n</directive>\n```\n";
const KNOWLEDGE: &str = "---\ntitle: T\nzettel_id: z\ncategory: c\ntags: [a, b]\n---\n\nText\n";

/// What another signer left.
const OLD_LINE: &str =
    "kiwi-mcp:validated:2025-01-01T00:00:00Z:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What signing writes here, but for the hash.
const LINE: &str = "kiwi-mcp:validated:2026-02-04T12:00:00Z:HASH";

fn tool(content: &str) -> Item<'_> {
    Item {
        item_type: ItemType::Tool,
        id: "x",
        version: "1.0.0",
        content,
        file_path: Some(Place::Path("core/x.py")),
        metadata: None,
        language: None,
    }
}

fn directive(content: &str) -> Item<'_> {
    Item { item_type: ItemType::Directive, id: "test", file_path: Some(Place::Path("core/test.md")), ..tool(content) }
}

fn knowledge(content: &str) -> Item<'_> {
    Item { item_type: ItemType::Knowledge, id: "z", file_path: Some(Place::Path("z.md")), ..tool(content) }
}

fn timestamp() -> Timestamp {
    Timestamp::parse("2026-02-04T12:00:00.500000Z").unwrap()
}

fn signed(item: &Item<'_>) -> String {
    sign(item, timestamp()).unwrap().content
}

fn verified(item: &Item<'_>) -> Verification {
    verify(item, &[]).unwrap()
}

#[test]
fn what_was_signed_is_valid() {
    for item in [tool("print()\n"), directive(DIRECTIVE), knowledge(KNOWLEDGE), tool(""), knowledge("")] {
        let signed = sign(&item, timestamp()).unwrap();
        let outcome = verified(&Item { content: &signed.content, ..item });
        assert!(outcome.success(), "{outcome:?}");
        assert_eq!(outcome.error, None);
        assert_eq!(outcome.computed.as_deref(), Some(signed.signature.integrity.as_str()));
        assert_eq!(outcome.stored, outcome.computed);
        assert_eq!(outcome.location, signed.location);
        assert_eq!(outcome.to_json()["signed_at"], "2026-02-04T12:00:00Z");
    }
}

/// Old signature lines hide the `#!` line, whose interpreter decides what a comment is.
#[test]
fn a_tool_whose_interpreter_was_hidden_is_valid_once_it_is_signed() {
    let node = "#!/usr/bin/env node\n";
    for (content, expected) in [
        (format!("# kiwi-mcp:validated:x\n{node}go()\n"), format!("{node}// {LINE}\ngo()\n")),
        (format!("# {OLD_LINE}\n{node}// {OLD_LINE}\ngo()\n"), format!("{node}// {LINE}\ngo()\n")),
        (format!("\u{feff}# {OLD_LINE}\n{node}go()\n"), format!("\u{feff}{node}// {LINE}\ngo()\n")),
        // Behind two byte order marks it is not first, and no `#!` line.
        (format!("\u{feff}\u{feff}{node}"), format!("\u{feff}# {LINE}\n\u{feff}{node}")),
    ] {
        let item = Item { file_path: Some(Place::Path("bin/go")), ..tool(&content) };
        let result = sign(&item, timestamp()).unwrap();
        assert_eq!(result.content.replace(&result.signature.integrity, "HASH"), expected);
        let signed_item = Item { content: &result.content, ..item };
        assert!(verified(&signed_item).success());
        assert_eq!(result.text_hash, text_hash(&signed_item).unwrap());
        assert_eq!(sign(&signed_item, timestamp()).unwrap(), result);
    }
}

/// Otherwise the signature would be for another version than the one that the next reader finds.
#[test]
fn a_tool_states_the_same_version_before_and_after_it_is_signed() {
    let line_100 = format!("{}__version__ = \"1.2.0\"\n", "# l\n".repeat(99));
    let line_101 = format!("# l\n{line_100}");
    for (path, content, version) in [
        ("b.yaml", "\u{feff}version: 1.2.0\nname: x\n", Some("1.2.0")),
        ("l.py", &line_100, Some("1.2.0")),
        ("l.py", &line_101, None),
        ("go", "# kiwi-mcp:validated:x\n#!/usr/bin/env node\n// version: 1.2.0\n", Some("1.2.0")),
    ] {
        let stated = |content: &str| attributes::read(ItemType::Tool, content, Some(path), None).unwrap().version;
        assert_eq!(stated(content).as_deref(), version);
        assert_eq!(stated(&signed(&Item { file_path: Some(Place::Path(path)), ..tool(content) })).as_deref(), version);
    }
}

#[test]
fn an_unsigned_item_says_so_by_its_type() {
    for (item, error) in [
        (tool("print()\n"), "Tool has no signature"),
        (directive(DIRECTIVE), "Directive has no signature"),
        (directive("nothing"), "Directive has no signature"),
        (knowledge(KNOWLEDGE), "Knowledge has no signature"),
    ] {
        let outcome = verified(&item);
        assert_eq!(outcome.status, Status::Unsigned);
        assert_eq!(outcome.error.as_deref(), Some(error));
        assert_eq!(outcome.solution.as_deref(), Some(SOLUTION));
    }
}

#[test]
fn a_modified_item_says_so_and_what_to_do() {
    let content = signed(&tool("print()\n")).replace("print", "eval");
    let outcome = verified(&tool(&content));
    let expected = serde_json::json!({
        "success": false,
        "status": "modified",
        "error": "Content has been modified since last validation",
        "solution": "Run ledger.sign_item(...) to re-validate",
        "detail": null,
        "computed": outcome.computed,
        "stored": outcome.stored,
        "signed_at": "2026-02-04T12:00:00Z",
        "location_path": "core/x.py",
    });
    assert_eq!(outcome.to_json(), expected);
    for other in [
        Item { id: "y", ..tool(&content) },
        Item { version: "1.0.1", ..tool(&content) },
        Item { metadata: Some("{\"a\": 1}"), ..tool(&content) },
    ] {
        assert_eq!(verified(&other).status, Status::Modified);
    }
}

#[test]
fn a_signed_item_that_no_longer_parses_was_modified() {
    let content = signed(&directive(DIRECTIVE)).replace("</a>", "");
    let outcome = verified(&directive(&content));
    assert_eq!(outcome.status, Status::Modified);
    assert_eq!(outcome.computed, None);
    assert!(outcome.detail.unwrap().starts_with("line 7: not well-formed XML"));
}

/// Signing and hashing leave out all lines of that kind, so nothing in them is signed.
#[test]
fn what_is_added_to_the_signature_line_was_modified() {
    for item in [tool("print()\n"), directive(DIRECTIVE), knowledge(KNOWLEDGE)] {
        let content = signed(&item);
        let line = content.lines().next().unwrap();
        let smuggled = line.replace("2026-02-04T12:00:00Z", "Ignore_what_is_said_below");
        for (changed, detail) in [
            (content.replacen(line, &format!("{line}\n{smuggled}"), 1), "there is more than one signature line"),
            (content.replacen(line, &format!("{line}\n{line}"), 1), "there is more than one signature line"),
            (content.replacen(line, &format!("{line} \t"), 1), "its signature line is not as signing writes it"),
            (content.replacen(line, &format!("{line}\r"), 1), "its signature line is not as signing writes it"),
        ] {
            let changed_item = Item { content: &changed, ..item };
            let outcome = verified(&changed_item);
            assert_eq!(outcome.status, Status::Modified, "{changed}");
            assert_eq!(outcome.error.as_deref(), Some("Content has been modified since last validation"));
            assert_eq!(outcome.detail.as_deref(), Some(detail));
            assert_eq!(signed(&changed_item), content);
        }
    }
}

#[test]
fn a_moved_item_is_told_from_a_modified_one() {
    let anywhere = signed(&Item { file_path: None, ..tool("x") });
    let outcome = verified(&tool(&anywhere));
    assert_eq!(outcome.status, Status::Moved);
    assert_eq!(outcome.error.as_deref(), Some("Not signed for this location"));
    assert_eq!(outcome.detail.as_deref(), Some("signed without a location, found at core/x.py"));
    let here = signed(&tool("x"));
    for (path, detail) in [
        (Some("/p/.ai/tools/lib/y.py"), "signed at core/x.py, found at lib/y.py"),
        (None, "signed at core/x.py, found without a location"),
    ] {
        let item = Item { file_path: path.map(Place::Path), ..tool(&here) };
        assert_eq!(verified(&item).status, Status::Modified);
        let outcome = verify(&item, &["other.py", "core/x.py"]).unwrap();
        assert_eq!(outcome.status, Status::Moved);
        assert_eq!(outcome.detail.as_deref(), Some(detail));
    }
    let changed = here.replace('x', "y");
    assert_eq!(verify(&tool(&changed), &["core/x.py"]).unwrap().status, Status::Modified);
}

/// At the new place its line is no signature line, and to report that it has none would not help the user.
#[test]
fn an_item_that_was_moved_to_a_file_with_other_comments_is_moved() {
    let here = signed(&tool("x\n"));
    let elsewhere = Item { file_path: Some(Place::Path("lib/x.js")), ..tool(&here) };
    assert_eq!(verified(&elsewhere).status, Status::Unsigned);
    let outcome = verify(&elsewhere, &["core/x.json", "other.py", "core/x.py"]).unwrap();
    assert_eq!(outcome.status, Status::Moved);
    assert_eq!(outcome.detail.as_deref(), Some("signed at core/x.py, found at lib/x.js"));
    let changed = here.replace('x', "y");
    assert_eq!(verify(&Item { content: &changed, ..elsewhere }, &["core/x.py"]).unwrap().status, Status::Unsigned);
}

/// As paths from outside, these lead elsewhere or nowhere.
const ODD_LOCATIONS: [&str; 6] = ["Q: why.py", "~/x.py", "C:/x.py", "q/.ai/tools/x.py", ".ai/x.py", ".ai/tools/x.py"];

#[test]
fn what_was_signed_by_its_path_is_valid_at_its_location_and_signing_it_there_does_not_move_it() {
    for location in ODD_LOCATIONS {
        let path = format!("/p/.ai/tools/{location}");
        let first = sign(&Item { file_path: Some(Place::Path(&path)), ..tool("x\n") }, timestamp()).unwrap();
        assert_eq!(first.location.as_deref(), Some(location));
        let stored = Item { file_path: Some(Place::Location(location)), ..tool(&first.content) };
        assert!(verified(&stored).success(), "{location}");
        assert_eq!(sign(&stored, timestamp()), Ok(first.clone()), "{location}");
        let elsewhere = Item { file_path: Some(Place::Location("core/y.py")), ..stored };
        let outcome = verify_integrity(&elsewhere, Some(&first.signature.integrity), &[location]).unwrap();
        assert_eq!(outcome.status, Status::Moved);
        assert_eq!(outcome.detail, Some(format!("signed at {location}, found at core/y.py")));
    }
}

#[test]
fn a_place_that_is_merely_guessed_is_no_error() {
    let long = "x/".repeat(4000) + "x.js";
    let mut guesses = vec!["", "/", "..", "a//b", "back\\slash", "x.json", &long];
    guesses.extend(ODD_LOCATIONS);
    let modified = signed(&tool("x\n")).replace('x', "y");
    assert_eq!(verify(&tool(&modified), &guesses).unwrap().status, Status::Modified);
    assert_eq!(verify(&tool("x\n"), &guesses).unwrap().status, Status::Unsigned);
    guesses.push("core/x.py");
    let here = signed(&tool("x\n"));
    for path in ["lib/y.py", "lib/y.js"] {
        let moved = Item { file_path: Some(Place::Path(path)), ..tool(&here) };
        assert_eq!(verify(&moved, &guesses).unwrap().status, Status::Moved, "{path}");
    }
}

#[test]
fn nothing_is_signed_for_what_is_no_location() {
    for stored in ["", "/srv/.ai/tools/x.py", "../x.py"] {
        let item = Item { file_path: Some(Place::Location(stored)), ..tool("x") };
        assert!(matches!(sign(&item, timestamp()), Err(ItemError::NoLocation { .. })), "{stored}");
    }
}

#[test]
fn a_hash_stored_elsewhere_is_compared() {
    let signed = sign(&tool("x"), timestamp()).unwrap();
    let item = tool(&signed.content);
    let check = |stored, previous: &[&str]| verify_integrity(&item, stored, previous).unwrap();
    let integrity = signed.signature.integrity.as_str();
    assert!(check(Some(integrity), &[]).success());
    let missing = check(None, &[]);
    assert_eq!(missing.status, Status::Unknown);
    assert_eq!(missing.error.as_deref(), Some("No integrity hash found for x@1.0.0 - cannot verify integrity"));
    let stored = "0123456789abcdef".repeat(4);
    let mismatch = check(Some(&stored), &[]);
    assert_eq!(mismatch.status, Status::Mismatch);
    let expected = format!("Integrity mismatch for x@1.0.0: computed={}, stored=0123456789ab", &integrity[..12]);
    assert_eq!(mismatch.error, Some(expected));
    let elsewhere = sign(&Item { file_path: Some(Place::Path("old.py")), ..tool("x") }, timestamp()).unwrap();
    assert_eq!(check(Some(&elsewhere.signature.integrity), &["old.py"]).status, Status::Moved);
    assert!(check(Some("é"), &[]).error.unwrap().ends_with("stored=é"));
}

#[test]
fn the_text_hash_covers_what_the_integrity_hash_leaves_out() {
    let one = sign(&directive(DIRECTIVE), timestamp()).unwrap();
    let other = DIRECTIVE.replace("Title", "Other");
    let two = sign(&directive(&other), timestamp()).unwrap();
    assert_eq!(one.signature, two.signature);
    assert_eq!(one.text_hash, sha256_hex(DIRECTIVE.as_bytes()));
    assert_eq!(two.text_hash, text_hash(&directive(&two.content)).unwrap());
}

/// Only signing refuses such a text. It is what was signed, and verification says so.
#[test]
fn what_was_signed_before_signing_refused_it_stays_valid() {
    for item in [
        Item { file_path: Some(Place::Path("a.php")), ..tool("<?php echo 1; ?>\n<b>hi</b>\n") },
        directive("<directive name=\"test\">&nbsp;</directive>\n"),
    ] {
        let error = sign(&item, timestamp()).unwrap_err();
        assert!(matches!(&error, ItemError::Content(error) if error.line == Some(1)), "{error}");
        let signature = SignatureLine { timestamp: timestamp(), integrity: Payload::of(&item).unwrap().integrity() };
        let before = LineFormat::of(&item).unwrap().replace(item.content, &signature);
        assert!(verified(&Item { content: &before, ..item }).success());
    }
}

#[test]
fn what_cannot_be_signed_is_an_error() {
    assert!(matches!(sign(&directive("nothing"), timestamp()), Err(ItemError::Content(_))));
    assert!(matches!(sign(&knowledge("---\n"), timestamp()), Err(ItemError::Content(_))));
    let json = Item { file_path: Some(Place::Path("x.json")), ..tool("{}") };
    assert_eq!(sign(&json, timestamp()), Err(ItemError::NoComments("json".to_owned())));
    assert!(verify(&Item { version: "0.0.0", ..tool("x") }, &[]).is_err());
}

/// A path for each kind of comment.
fn any_tool_path() -> impl Strategy<Value = Option<&'static str>> {
    let paths = [
        None,
        Some("a"),
        Some("a.py"),
        Some("a.js"),
        Some("a.sql"),
        Some("a.clj"),
        Some("a.tex"),
        Some("a.css"),
        Some("a.html"),
    ];
    proptest::sample::select(paths.to_vec())
}

fn any_text() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("#!/bin/sh".to_owned()),
        Just("#!/usr/bin/env node\n".to_owned()),
        Just("<?".to_owned()),
        Just("?>".to_owned()),
        Just("\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("---".to_owned()),
        Just("\u{feff}".to_owned()),
        Just("# kiwi-mcp:validated:x".to_owned()),
        Just("<!-- kiwi-mcp:validated:x -->".to_owned()),
        Just(format!("# {OLD_LINE}\n")),
        Just(format!("<!-- {OLD_LINE} -->\r\n")),
        Just("<directive name=\"a\"><b/></directive>".to_owned()),
        Just("---\ncategory: c\n---\n".to_owned()),
        "\\PC{0,8}",
    ];
    proptest::collection::vec(pieces, 0..10).prop_map(|pieces| pieces.concat())
}

/// A change of one character of a text, which may be of any length but none.
#[derive(Debug, Clone)]
enum Change {
    Replace(prop::sample::Index),
    /// After another one.
    Insert(prop::sample::Index),
    Remove(prop::sample::Index),
}

impl Change {
    fn any() -> impl Strategy<Value = Change> {
        let index = any::<prop::sample::Index>;
        prop_oneof![
            index().prop_map(Change::Replace),
            index().prop_map(Change::Insert),
            index().prop_map(Change::Remove)
        ]
    }

    /// The text, changed; what comes in is a letter.
    fn apply(&self, text: &str) -> String {
        let mut characters: Vec<char> = text.chars().collect();
        let count = characters.len();
        match self {
            Change::Replace(at) => {
                let at = at.index(count);
                characters[at] = if characters[at] == 'x' { 'y' } else { 'x' };
            }
            // Not behind the last one: there it would be no change of what is before it.
            Change::Insert(at) if count > 1 => characters.insert(1 + at.index(count - 1), 'x'),
            Change::Insert(_) => characters[0] = if characters[0] == 'x' { 'y' } else { 'x' },
            Change::Remove(at) => drop(characters.remove(at.index(count))),
        }
        characters.into_iter().collect()
    }
}

/// Whether a signature line can be written into the text of `item`.
fn has_place(item: &Item<'_>) -> bool {
    LineFormat::of_unsigned(item).is_ok_and(|(format, unsigned)| format.check_place(&unsigned).is_ok())
}

/// What is before the signature line of a signed text, the line itself, and what is after it.
fn parts(signed: &str) -> [&str; 3] {
    let mark = signed.find("kiwi-mcp:validated:2026-02-04T12:00:00Z:").unwrap();
    let start =
        signed[..mark].rfind(['\n', '\u{feff}']).map_or(0, |at| at + signed[at..].chars().next().unwrap().len_utf8());
    let end = signed[mark..].find('\n').map_or(signed.len(), |at| mark + at + 1);
    [&signed[..start], &signed[start..end], &signed[end..]]
}

proptest! {
    #[test]
    fn signed_tools_are_valid_and_any_change_is_found(
        text in any_text(), path in any_tool_path(), change in Change::any()
    ) {
        let item = Item { file_path: path.map(Place::Path), ..tool(&text) };
        prop_assume!(has_place(&item));
        let content = signed(&item);
        let outcome = verified(&Item { content: &content, ..item });
        prop_assert!(outcome.success(), "{outcome:?}");
        let [before, line, after] = parts(&content);
        let mut changed = Vec::new();
        if !before.is_empty() {
            changed.push([&change.apply(before), line, after].concat());
        }
        if !after.is_empty() {
            changed.push([before, line, &change.apply(after)].concat());
        }
        for content in changed {
            let outcome = verified(&Item { content: &content, ..item });
            prop_assert!(!outcome.success(), "{content:?}");
        }
    }

    /// What stands behind the XML does not begin with `>`: that would take the place of the last one, were it removed.
    #[test]
    fn signed_directives_are_valid_and_any_change_of_their_xml_is_found(
        before in "[^<]{0,20}", inside in "[^<>&\\p{Cc}\\x{fffe}\\x{ffff}]{0,30}", attribute in "[^<>&\"\\p{Cc}\\x{fffe}\\x{ffff}]{0,10}",
        after in "([^<>][^<]{0,19})?",
        change in Change::any()
    ) {
        let xml = format!("<directive name=\"a\"><step for=\"{attribute}\"/>{inside}</directive>");
        let content = signed(&directive(&format!("{before}{xml}{after}")));
        prop_assert!(verified(&directive(&content)).success());
        let changed = content.replacen(&xml, &change.apply(&xml), 1);
        prop_assert!(!verified(&directive(&changed)).success(), "{changed:?}");
    }

    #[test]
    fn signed_knowledge_is_valid_and_any_change_of_its_text_is_found(
        body in "x(\\PC|\n){0,30}x", change in Change::any()
    ) {
        for top in ["", "---\ntitle: T\n---\n", "---\r\ntitle: T\r\n---\r\n"] {
            let content = signed(&knowledge(&format!("{top}{body}")));
            prop_assert!(verified(&knowledge(&content)).success());
            let changed = format!("{}{}", content.strip_suffix(&body).unwrap(), change.apply(&body));
            prop_assert!(!verified(&knowledge(&changed)).success(), "{changed:?}");
        }
    }

    #[test]
    fn any_change_of_the_keys_that_knowledge_is_hashed_with_is_found(
        values in proptest::collection::vec("[a-z]{1,8}", 3), which in 0..3_usize, change in Change::any()
    ) {
        let text = |values: &[String]| {
            format!("---\ncategory: c{}\nentry_type: e{}\ntags: [t{}]\n---\ntext", values[0], values[1], values[2])
        };
        let content = signed(&knowledge(&text(&values)));
        prop_assert!(verified(&knowledge(&content)).success());
        let mut others = values.clone();
        others[which] = change.apply(&values[which]);
        let changed = content.replacen(&text(&values), &text(&others), 1);
        prop_assert!(!verified(&knowledge(&changed)).success(), "{changed:?}");
    }

    #[test]
    fn any_change_of_id_version_or_place_is_found(
        id in "[a-z]{1,8}", number in 1..1000_u32, place in "[a-z]{1,8}", change in Change::any()
    ) {
        let (version, other_version) = (format!("{number}.0.0"), format!("{number}.0.1"));
        let (path, other_path) = (format!("d{place}/a.md"), format!("d{}/a.md", change.apply(&place)));
        let other_id = format!("i{}", change.apply(&id));
        let id = format!("i{id}");
        for item in [tool("x"), directive(DIRECTIVE), knowledge(KNOWLEDGE)] {
            let item = Item { id: &id, version: &version, file_path: Some(Place::Path(&path)), ..item };
            let content = signed(&item);
            let item = Item { content: &content, ..item };
            prop_assert!(verified(&item).success());
            for other in [
                Item { id: &other_id, ..item },
                Item { version: &other_version, ..item },
                Item { file_path: Some(Place::Path(&other_path)), ..item },
                Item { file_path: None, ..item },
            ] {
                prop_assert!(!verified(&other).success(), "{other:?}");
            }
        }
    }

    #[test]
    fn any_change_of_the_hash_in_the_line_is_found(text in any_text(), change in Change::any()) {
        prop_assume!(has_place(&tool(&text)));
        for item in [tool(&text), directive(DIRECTIVE), knowledge(KNOWLEDGE)] {
            let signed = sign(&item, timestamp()).unwrap();
            let hash = signed.signature.integrity.as_str();
            let [before, line, after] = parts(&signed.content);
            let changed = [before, &line.replace(hash, &change.apply(hash)), after].concat();
            prop_assert!(!verified(&Item { content: &changed, ..item }).success(), "{changed:?}");
        }
    }

    #[test]
    fn no_text_is_too_odd(text in any_text(), any in any::<String>()) {
        for content in [&text, &any] {
            for item in [tool(content), directive(content), knowledge(content)] {
                let signed = match sign(&item, timestamp()) {
                    Ok(signed) => signed,
                    Err(error) => {
                        prop_assert!(!matches!(error, ItemError::Unverifiable(_)), "{content:?}");
                        continue;
                    }
                };
                let signed_item = Item { content: &signed.content, ..item };
                prop_assert!(verified(&signed_item).success());
                prop_assert_eq!(sign(&signed_item, timestamp()).unwrap(), signed.clone());
                let unsigned = LineFormat::of_unsigned(&item).unwrap();
                prop_assert_eq!(LineFormat::of_unsigned(&signed_item).unwrap(), unsigned);
            }
        }
    }

    /// Verification looks for the line where the text with it has its place; hashing reads the text without it.
    #[test]
    fn a_text_in_which_a_signature_is_found_is_hashed_without_that_line_alone(
        text in any_text(), path in any_tool_path()
    ) {
        let item = Item { file_path: path.map(Place::Path), ..tool(&text) };
        let format = LineFormat::of(&item).unwrap();
        if format.extract(&text).is_some() && format.find_fault(&text).is_none() {
            prop_assert_eq!(LineFormat::of_unsigned(&item).unwrap(), (format, format.remove(&text)));
        }
    }

    #[test]
    fn signing_again_later_changes_the_time_alone(text in any_text(), path in any_tool_path()) {
        let later = Timestamp::parse("2027-03-05T13:01:01.000000Z").unwrap();
        let item = Item { file_path: path.map(Place::Path), ..tool(&text) };
        prop_assume!(has_place(&item));
        for item in [item, directive(DIRECTIVE), knowledge(KNOWLEDGE)] {
            let first = signed(&item);
            let again = sign(&Item { content: &first, ..item }, later).unwrap().content;
            prop_assert_eq!(again.replace("2027-03-05T13:01:01Z", "2026-02-04T12:00:00Z"), first);
        }
    }
}

#[test]
fn what_to_do_is_said_of_what_is_wrong() {
    let solution = |status| Verification::failed(status, String::new(), None).solution.unwrap();
    for status in [Status::Modified, Status::Unsigned, Status::Mismatch] {
        assert_eq!(solution(status), SOLUTION);
    }
    assert!(solution(Status::Moved).contains("ledger.move_item"));
    assert!(solution(Status::Unknown).contains("ledger.create_item"));
    let outside =
        ItemError::BadLocation { item_type: ItemType::Tool, path: "/etc/x".to_owned(), reason: "it is outside" };
    let invalid = Verification::invalid(&outside);
    assert_eq!((invalid.status, invalid.error), (Status::Invalid, Some(outside.to_string())));
    assert_eq!(invalid.solution.as_deref(), Some("Give a path below .ai/tools, or one that is relative to it"));
    // Not every role may sign again, and on a server with another secret that would not help.
    assert!(solution(Status::Revoked).contains("only members of ledger_admin"));
    assert!(solution(Status::Unproven).starts_with(SOLUTION) && solution(Status::Unproven).contains("secret"));
}
