//! What signing and verifying promise together.

use super::signer::{sign, text_hash};
use super::verifier::{verify, verify_integrity, Status, Verification, SOLUTION};
use super::{Item, ItemError, ItemType};
use crate::ledger::record::Timestamp;
use crate::ledger::sha256_hex;
use proptest::prelude::*;

const DIRECTIVE: &str =
    "# Title\n\n```xml\n<directive name=\"test\" version=\"1.0.0\">\n  <a>b</a>\n</directive>\n```\n";
const KNOWLEDGE: &str = "---\ntitle: T\nzettel_id: z\ncategory: c\ntags: [a, b]\n---\n\nText\n";

fn tool(content: &str) -> Item<'_> {
    Item {
        item_type: ItemType::Tool,
        id: "x",
        version: "1.0.0",
        content,
        file_path: Some("core/x.py"),
        metadata: None,
        language: None,
    }
}

fn directive(content: &str) -> Item<'_> {
    Item { item_type: ItemType::Directive, id: "test", file_path: Some("core/test.md"), ..tool(content) }
}

fn knowledge(content: &str) -> Item<'_> {
    Item { item_type: ItemType::Knowledge, id: "z", file_path: Some("z.md"), ..tool(content) }
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
        let item = Item { file_path: path, ..tool(&here) };
        assert_eq!(verified(&item).status, Status::Modified);
        let outcome = verify(&item, &["other.py", "/old/.ai/tools/core/x.py"]).unwrap();
        assert_eq!(outcome.status, Status::Moved);
        assert_eq!(outcome.detail.as_deref(), Some(detail));
    }
    let changed = here.replace('x', "y");
    assert_eq!(verify(&tool(&changed), &["core/x.py"]).unwrap().status, Status::Modified);
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
    let elsewhere = sign(&Item { file_path: Some("old.py"), ..tool("x") }, timestamp()).unwrap();
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

#[test]
fn what_cannot_be_signed_is_an_error() {
    assert!(matches!(sign(&directive("nothing"), timestamp()), Err(ItemError::Content(_))));
    assert!(matches!(sign(&knowledge("---\n"), timestamp()), Err(ItemError::Content(_))));
    let json = Item { file_path: Some("x.json"), ..tool("{}") };
    assert_eq!(sign(&json, timestamp()), Err(ItemError::NoComments("json".to_owned())));
    assert!(verify(&Item { version: "0.0.0", ..tool("x") }, &[]).is_err());
}

/// A path for each kind of comment.
fn any_tool_path() -> impl Strategy<Value = Option<&'static str>> {
    let paths =
        [None, Some("a.py"), Some("a.js"), Some("a.sql"), Some("a.clj"), Some("a.tex"), Some("a.css"), Some("a.html")];
    proptest::sample::select(paths.to_vec())
}

fn any_text() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("#!/bin/sh".to_owned()),
        Just("<?xml?>".to_owned()),
        Just("\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("---".to_owned()),
        Just("\u{feff}".to_owned()),
        Just("# kiwi-mcp:validated:x".to_owned()),
        Just("<!-- kiwi-mcp:validated:x -->".to_owned()),
        "\\PC{0,8}",
    ];
    proptest::collection::vec(pieces, 0..10).prop_map(|pieces| pieces.concat())
}

/// `text` with one of its characters replaced by another.
fn with_change(text: &str, at: prop::sample::Index) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    let at = at.index(characters.len());
    characters[at] = if characters[at] == 'x' { 'y' } else { 'x' };
    characters.into_iter().collect()
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
        text in any_text(), path in any_tool_path(), at in any::<prop::sample::Index>()
    ) {
        let item = Item { file_path: path, ..tool(&text) };
        let content = signed(&item);
        let outcome = verified(&Item { content: &content, ..item });
        prop_assert!(outcome.success(), "{outcome:?}");
        let [before, line, after] = parts(&content);
        let mut changed = Vec::new();
        if !before.is_empty() {
            changed.push([&with_change(before, at), line, after].concat());
        }
        if !after.is_empty() {
            changed.push([before, line, &with_change(after, at)].concat());
        }
        for content in changed {
            let outcome = verified(&Item { content: &content, ..item });
            prop_assert!(!outcome.success(), "{content:?}");
        }
    }

    #[test]
    fn signed_directives_are_valid_and_any_change_is_found(
        before in "[^<]{0,20}", inside in "[^<>&]{1,30}", after in "[^<]{0,20}", at in any::<prop::sample::Index>()
    ) {
        let xml = |inside: &str| format!("{before}<directive name=\"a\">{inside}</directive>{after}");
        let content = signed(&directive(&xml(&inside)));
        prop_assert!(verified(&directive(&content)).success());
        let changed = content.replace(&format!(">{inside}</"), &format!(">{}</", with_change(&inside, at)));
        prop_assert!(!verified(&directive(&changed)).success());
    }

    #[test]
    fn signed_knowledge_is_valid_and_any_change_is_found(body in "x[^-]{0,30}x", at in any::<prop::sample::Index>()) {
        for top in ["", "---\ntitle: T\n---\n"] {
            let content = signed(&knowledge(&format!("{top}{body}")));
            prop_assert!(verified(&knowledge(&content)).success());
            let changed = format!("{}{}", content.strip_suffix(&body).unwrap(), with_change(&body, at));
            prop_assert!(!verified(&knowledge(&changed)).success());
        }
    }

    #[test]
    fn no_text_is_too_odd(text in any_text(), any in any::<String>()) {
        for content in [&text, &any] {
            for item in [tool(content), directive(content), knowledge(content)] {
                let Ok(signed) = sign(&item, timestamp()) else { continue };
                let item = Item { content: &signed.content, ..item };
                prop_assert!(verified(&item).success());
                prop_assert_eq!(sign(&item, timestamp()).unwrap(), signed.clone());
            }
        }
    }
}
