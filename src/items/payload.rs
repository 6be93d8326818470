//! What is hashed: the compact canonical JSON of an object, made of
//!
//! | type | keys |
//! |---|---|
//! | tool | `tool_id, version, manifest, files: [{path, sha256}]`: the file's name and the hash of its text |
//! | directive | `directive_name, version, xml_hash, metadata` |
//! | knowledge | `zettel_id, version, content_hash, metadata: {category, entry_type, tags}` |
//!
//! and `location_path`, if the item has a place. The text is hashed without its signature line: all of a tool, the XML
//! of a directive, and of knowledge what follows the front matter. A key of knowledge's metadata that neither the
//! caller nor the front matter gives is null, or `[]` for tags.

use super::directive;
use super::error::{lines_removed, ItemError};
use super::front_matter::{self, FrontMatter};
use super::item::Item;
use super::item_type::ItemType;
use super::location::file_name;
use super::signature_line::LineFormat;
use crate::ledger::canonical_json::{compact, starts_object, string};
use crate::ledger::sha256_hex;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// An item made ready to be hashed, for its own place or for another.
#[derive(Debug, Clone)]
pub struct Payload<'a> {
    item: Item<'a>,
    location: Option<String>,
    /// Hash of the part of the text that the item's type covers.
    content_hash: String,
    /// Compact canonical JSON.
    metadata: String,
}

impl<'a> Payload<'a> {
    /// Reads and hashes the text of `item`.
    ///
    /// # Errors
    /// If the item is not one: see [`ItemError`].
    pub fn of(item: &Item<'a>) -> Result<Self, ItemError> {
        item.check()?;
        let location = item.file_path.map(|place| place.location(item.item_type)).transpose()?.map(Cow::into_owned);
        let metadata = metadata_object(item.metadata)?;
        let (_, unsigned) = LineFormat::of_unsigned(item)?;
        let (covered, metadata) = match item.item_type {
            ItemType::Tool => (unsigned.as_ref(), metadata),
            // No signature line is in the XML; so it is read with them, for the lines of errors.
            ItemType::Directive => (directive::read(item.content)?.xml, metadata),
            ItemType::Knowledge => {
                let read = front_matter::read(&unsigned);
                let (front_matter, text) = read.map_err(|error| error.below(lines_removed(item.content, &unsigned)))?;
                (text, knowledge_metadata(&metadata, &front_matter)?)
            }
        };
        Ok(Payload { item: *item, location, content_hash: sha256_hex(covered.as_bytes()), metadata })
    }

    /// The item's own place.
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// The payload, with `location` in place of the item's own.
    pub fn text(&self, location: Option<&str>) -> String {
        let Item { item_type, id, version, .. } = self.item;
        let (id, version, content_hash) = (string(id), string(version), string(&self.content_hash));
        let metadata = self.metadata.clone();
        let mut members = match item_type {
            ItemType::Tool => {
                let path = string(file_name(location.unwrap_or_default()));
                let files = format!("[{{\"path\":{path},\"sha256\":{content_hash}}}]");
                vec![("files", files), ("manifest", metadata), ("tool_id", id), ("version", version)]
            }
            ItemType::Directive => {
                vec![("directive_name", id), ("metadata", metadata), ("version", version), ("xml_hash", content_hash)]
            }
            ItemType::Knowledge => {
                vec![("content_hash", content_hash), ("metadata", metadata), ("version", version), ("zettel_id", id)]
            }
        };
        members.extend(location.map(|location| ("location_path", string(location))));
        object(members)
    }

    /// The integrity hash for `location`: SHA-256 of the payload, 64 lower-case hex digits.
    pub fn integrity_at(&self, location: Option<&str>) -> String {
        sha256_hex(self.text(location).as_bytes())
    }

    /// The item's integrity hash: that for its own place.
    pub fn integrity(&self) -> String {
        self.integrity_at(self.location())
    }
}

/// Compact canonical JSON of the metadata given.
fn metadata_object(metadata: Option<&str>) -> Result<String, ItemError> {
    let Some(metadata) = metadata else {
        return Ok("{}".to_owned());
    };
    let metadata = compact(metadata).map_err(|error| ItemError::BadMetadata(error.to_string()))?;
    match metadata.as_str() {
        "null" => Ok("{}".to_owned()),
        object if starts_object(object) => Ok(metadata),
        _ => Err(ItemError::BadMetadata("it is another kind of value".to_owned())),
    }
}

/// Knowledge's metadata: each of its keys as given, else as the front matter has it.
fn knowledge_metadata(given: &str, front_matter: &FrontMatter) -> Result<String, ItemError> {
    // Raw, because the digits of a number are kept.
    let given: BTreeMap<String, &RawValue> =
        serde_json::from_str(given).map_err(|error| ItemError::BadMetadata(error.to_string()))?;
    let own = [
        ("category", text_or_null(front_matter.category.as_deref())),
        ("entry_type", text_or_null(front_matter.entry_type.as_deref())),
        ("tags", list(&front_matter.tags)),
    ];
    let members = own.into_iter().map(|(key, own)| {
        let given = given.get(key).map(|value| value.get().to_owned());
        (key, given.unwrap_or(own))
    });
    Ok(object(members.collect()))
}

fn text_or_null(text: Option<&str>) -> String {
    text.map_or("null".to_owned(), string)
}

fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| string(text)).collect();
    format!("[{}]", texts.join(","))
}

/// Compact canonical JSON of an object whose values are that already.
fn object(mut members: Vec<(&str, String)>) -> String {
    members.sort_unstable();
    let members: Vec<String> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

/// SHA-256 of the whole text of `item` without signature lines, 64 lower-case hex digits. It covers what an integrity
/// hash leaves out, such as the text around a directive.
///
/// # Errors
/// If the language of a tool is not known or has no comments.
pub fn text_hash(item: &Item<'_>) -> Result<String, ItemError> {
    let (_, unsigned) = LineFormat::of_unsigned(item)?;
    Ok(sha256_hex(unsigned.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::super::location::Place;
    use super::*;
    use crate::ledger::test_support::vectors;
    use serde_json::Value;

    const KNOWLEDGE: &str = "---\ncategory: own\ntags: [a, é]\n---\n\nText\n";

    fn item<'a>(item_type: ItemType, content: &'a str, metadata: Option<&'a str>) -> Item<'a> {
        Item { item_type, id: "x", version: "1.0.0", content, file_path: None, metadata, language: None }
    }

    fn payload(item: &Item<'_>) -> String {
        Payload::of(item).unwrap().text(None)
    }

    #[test]
    fn the_vectors_are_reproduced() {
        let vectors = vectors("items.json");
        let vectors = vectors.as_array().unwrap();
        assert_eq!(vectors.len(), 21);
        for vector in vectors {
            let field = |name: &str| vector[name].as_str().unwrap();
            let metadata = vector["metadata"].to_string();
            let item = Item {
                item_type: field("item_type").parse().unwrap(),
                id: field("item_id"),
                version: field("version"),
                content: field("content"),
                file_path: vector["file_path"].as_str().map(Place::Path),
                metadata: Some(&metadata),
                language: None,
            };
            let payload = Payload::of(&item).unwrap();
            assert_eq!(payload.text(payload.location()), field("payload"));
            assert_eq!(payload.integrity(), field("integrity"));
        }
    }

    #[test]
    fn a_payload_is_compact_canonical_json() {
        let metadata = "{\"z\": 12345678901234567890123, \"a\\u00e9\": {\"b\": 1.50, \"a\": \"\\ud83d\\ude00\"}}";
        for item_type in ItemType::ALL {
            let content = format!("{KNOWLEDGE}<directive></directive>");
            let item = Item { id: "\"é\\", ..item(item_type, &content, Some(metadata)) };
            let text = Payload::of(&item).unwrap().text(Some("a/\"é"));
            assert_eq!(compact(&text).unwrap(), text);
        }
    }

    #[test]
    fn metadata_of_knowledge_is_as_given_else_as_the_front_matter_has_it() {
        let metadata = |given| {
            let text = payload(&item(ItemType::Knowledge, KNOWLEDGE, given));
            let (_, metadata) = text.split_once("\"metadata\":").unwrap();
            metadata.split_once(",\"version\"").unwrap().0.to_owned()
        };
        let own = r#"{"category":"own","entry_type":null,"tags":["a","\u00e9"]}"#;
        assert_eq!(metadata(None), own);
        assert_eq!(metadata(Some("{}")), own);
        assert_eq!(metadata(Some(r#"{"title": "not covered"}"#)), own);
        let given = r#"{"tags": [12345678901234567890], "category": null, "entry_type": "e"}"#;
        assert_eq!(metadata(Some(given)), r#"{"category":null,"entry_type":"e","tags":[12345678901234567890]}"#);
        let bare = payload(&item(ItemType::Knowledge, "", None));
        assert!(bare.contains(r#""metadata":{"category":null,"entry_type":null,"tags":[]}"#), "{bare}");
    }

    #[test]
    fn metadata_that_is_no_object_is_refused() {
        for metadata in ["", "1", "[]", "\"{}\"", "{", "{} {}", "{\"a\": NaN}", "true"] {
            for item_type in ItemType::ALL {
                let content = "<directive></directive>";
                let error = Payload::of(&item(item_type, content, Some(metadata))).unwrap_err();
                assert!(matches!(error, ItemError::BadMetadata(_)), "{metadata}: {error}");
            }
        }
        let huge = format!("{{\"a\": \"{}\"}}", "x".repeat(16 << 20));
        let error = Payload::of(&item(ItemType::Tool, "", Some(&huge))).unwrap_err();
        assert!(matches!(error, ItemError::MetadataTooLong(_)), "{error}");
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(99_999), "]".repeat(99_999));
        for item_type in ItemType::ALL {
            Payload::of(&item(item_type, "<directive></directive>", Some(&deep))).unwrap();
        }
    }

    #[test]
    fn only_what_the_type_covers_is_hashed() {
        let integrity = |item_type, content: &str| Payload::of(&item(item_type, content, None)).unwrap().integrity();
        let directive = |content: &str| integrity(ItemType::Directive, content);
        assert_eq!(directive("a <directive></directive> b"), directive("<directive></directive>"));
        assert_ne!(directive("<directive></directive>"), directive("<directive> </directive>"));
        let knowledge = |content: &str| integrity(ItemType::Knowledge, content);
        assert_eq!(knowledge("---\ntitle: a\n---\n\nText"), knowledge("\n Text\n"));
        assert_ne!(knowledge("---\ncategory: a\n---\nText"), knowledge("Text"));
        let tool = |content: &str| integrity(ItemType::Tool, content);
        assert_ne!(tool("x"), tool("x\n"));
        assert_ne!(tool(""), tool("\n"));
    }

    #[test]
    fn what_is_no_item_is_refused() {
        let good = item(ItemType::Tool, "x", None);
        let refused = |item: Item<'_>| Payload::of(&item).unwrap_err().to_string();
        assert!(refused(Item { id: "", ..good }).contains("cannot be an item's id"));
        assert!(refused(Item { version: "0.0.0", ..good }).contains("is not a semantic version"));
        assert!(refused(Item { file_path: Some(Place::Path("../x")), ..good }).contains("below .ai/tools"));
        assert!(refused(Item { language: Some("?"), ..good }).contains("unknown language"));
        assert!(refused(Item { item_type: ItemType::Directive, ..good }).contains("there is no <directive>"));
        let text: Value = serde_json::from_str(&payload(&good)).unwrap();
        assert_eq!(text["files"][0]["path"], "");
    }
}
