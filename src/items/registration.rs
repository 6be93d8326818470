//! What the ledger records of an item: the data of entries of type `item_signed`, `item_moved` and `item_revoked`.
//!
//! | member | what it is |
//! |---|---|
//! | `item_type`, `item_id`, `version` | the item |
//! | `location_path` | its path below the base of its type |
//! | `integrity_hash` | what its signature line says |
//! | `text_hash` | SHA-256 of the whole text without signature lines: also what the integrity hash leaves out |
//! | `language` | the language whose comments hold its signature line, if given: under another one, other lines would pass for it |
//! | `depends_on` | the items that it calls, each pinned by its integrity hash |
//! | `moved_from` | where it was before; of `item_moved` alone |
//! | `reason` | why it was revoked; of `item_revoked` alone |
//!
//! The entry's metadata repeats the data as `item`, so that it can be read back and proved by the entry's data hash,
//! and names the item as `row_id`, by which the entries about it are found.

use super::item::{check_id, check_version};
use super::item_type::ItemType;
use crate::ledger::canonical_json::{canonical, member};
use crate::ledger::row_change::{row_id, ITEM_MOVED, ITEM_REVOKED, ITEM_SIGNED};
use crate::ledger::{parse_hash, sha256_hex};
use serde_json::{json, Map, Value};
use std::fmt;
use uuid::Uuid;

/// The most items that one item can call by itself.
pub const MAX_DEPENDENCIES: usize = 10_000;

/// Stands in place of a table's id in the ids of items.
const REGISTRY: &str = "item";

/// What was done with an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Signed,
    Moved { from: String },
    Revoked { reason: String },
}

impl Event {
    pub fn entry_type(&self) -> &'static str {
        match self {
            Event::Signed => ITEM_SIGNED,
            Event::Moved { .. } => ITEM_MOVED,
            Event::Revoked { .. } => ITEM_REVOKED,
        }
    }
}

/// Which item: type, id and version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemName {
    pub item_type: ItemType,
    pub id: String,
    pub version: String,
}

impl ItemName {
    /// The id by which the entries about the item are found.
    pub fn row_id(&self) -> Uuid {
        let names = json!([self.item_type.as_str(), self.id, self.version]).to_string();
        // Infallible: what serde_json has written.
        row_id(REGISTRY, &canonical(&names).unwrap_or(names))
    }
}

/// `ID@VERSION`, as the errors have it.
impl fmt::Display for ItemName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.version)
    }
}

/// An item that another calls, as it was when the other was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    pub name: ItemName,
    pub integrity: String,
}

/// What an entry says of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    pub name: ItemName,
    pub event: Event,
    pub location: String,
    pub integrity: String,
    pub text_hash: String,
    pub language: Option<String>,
    pub depends_on: Vec<Pin>,
}

impl Registration {
    /// The entry's data, canonical JSON.
    pub fn data(&self) -> String {
        let mut data = name_json(&self.name);
        data.insert("location_path".into(), json!(self.location));
        data.insert("integrity_hash".into(), json!(self.integrity));
        data.insert("text_hash".into(), json!(self.text_hash));
        data.extend(self.language.iter().map(|language| ("language".to_owned(), json!(language))));
        data.insert("depends_on".into(), pins_json(&self.depends_on));
        match &self.event {
            Event::Signed => None,
            Event::Moved { from } => data.insert("moved_from".into(), json!(from)),
            Event::Revoked { reason } => data.insert("reason".into(), json!(reason)),
        };
        let text = Value::Object(data).to_string();
        // Infallible: what serde_json has written.
        canonical(&text).unwrap_or(text)
    }

    /// The entry's data hash.
    pub fn data_hash(&self) -> String {
        sha256_hex(self.data().as_bytes())
    }

    /// What the metadata, canonical JSON, of an entry with this type and data hash says. `None` if that is not what was
    /// recorded: the hash covers all of it.
    pub fn parse(entry_type: &str, data_hash: &str, metadata: &str) -> Option<Registration> {
        let data = member(metadata, "item")?;
        if sha256_hex(data.as_bytes()) != data_hash {
            return None;
        }
        let data: Value = serde_json::from_str(data).ok()?;
        let text = |name: &str| data.get(name)?.as_str().map(str::to_owned);
        let hash = |name: &str| text(name).filter(|hash| parse_hash(hash).is_some());
        let event = match entry_type {
            ITEM_SIGNED => Event::Signed,
            ITEM_MOVED => Event::Moved { from: text("moved_from")? },
            ITEM_REVOKED => Event::Revoked { reason: text("reason")? },
            _ => return None,
        };
        let registration = Registration {
            name: parse_name(&data)?,
            event,
            location: text("location_path")?,
            integrity: hash("integrity_hash")?,
            text_hash: hash("text_hash")?,
            language: text("language"),
            depends_on: parse_pins(data.get("depends_on")?)?,
        };
        // An entry of another type that holds the same data says something else.
        (registration.data_hash() == data_hash).then_some(registration)
    }
}

/// Items that are called, as a JSON array of `{item_type, item_id, version, integrity_hash}`.
pub fn pins_json(pins: &[Pin]) -> Value {
    let pin_json = |pin: &Pin| {
        let mut object = name_json(&pin.name);
        object.insert("integrity_hash".into(), json!(pin.integrity));
        Value::Object(object)
    };
    pins.iter().map(pin_json).collect()
}

/// Reads what [`pins_json`] makes.
pub fn parse_pins(pins: &Value) -> Option<Vec<Pin>> {
    let parse = |pin: &Value| {
        let integrity = pin.get("integrity_hash")?.as_str()?.to_owned();
        parse_hash(&integrity)?;
        Some(Pin { name: parse_name(pin)?, integrity })
    };
    pins.as_array()?.iter().map(parse).collect()
}

fn name_json(name: &ItemName) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("item_type".into(), json!(name.item_type.as_str()));
    object.insert("item_id".into(), json!(name.id));
    object.insert("version".into(), json!(name.version));
    object
}

/// Reads the members `item_type`, `item_id` and `version`.
fn parse_name(object: &Value) -> Option<ItemName> {
    let text = |name: &str| object.get(name)?.as_str();
    let name = ItemName {
        item_type: text("item_type")?.parse().ok()?,
        id: text("item_id")?.to_owned(),
        version: text("version")?.to_owned(),
    };
    (check_id(&name.id).is_ok() && check_version(&name.version).is_ok()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::row_change::row_ids;

    fn name(id: &str) -> ItemName {
        ItemName { item_type: ItemType::Tool, id: id.to_owned(), version: "1.0.0".to_owned() }
    }

    fn registration(event: Event) -> Registration {
        Registration {
            name: name("é"),
            event,
            location: "a/é.py".to_owned(),
            integrity: "a".repeat(64),
            text_hash: "b".repeat(64),
            language: None,
            depends_on: vec![Pin { name: name("x"), integrity: "c".repeat(64) }],
        }
    }

    fn metadata(registration: &Registration) -> String {
        let id = registration.name.row_id().simple().to_string();
        format!("{{\"item\": {}, \"row_id\": \"{id}\"}}", registration.data())
    }

    #[test]
    fn what_was_recorded_is_read_back() {
        let moved = Event::Moved { from: "b.py".to_owned() };
        let revoked = Event::Revoked { reason: "leaks \"keys\"".to_owned() };
        let events = [Event::Signed, moved, revoked].into_iter();
        for (event, language) in events.flat_map(|event| [(event.clone(), None), (event, Some("//".to_owned()))]) {
            let recorded = Registration { language, ..registration(event) };
            let entry_type = recorded.event.entry_type();
            let metadata = metadata(&recorded);
            assert_eq!(Registration::parse(entry_type, &recorded.data_hash(), &metadata), Some(recorded.clone()));
            assert_eq!(row_ids(entry_type, &metadata), [Some(recorded.name.row_id()), None]);
        }
    }

    #[test]
    fn an_entry_whose_metadata_or_type_was_changed_is_not_read() {
        let recorded = registration(Event::Revoked { reason: "bad".to_owned() });
        let (hash, metadata) = (recorded.data_hash(), metadata(&recorded));
        assert_eq!(Registration::parse("item_revoked", &hash, &metadata.replace("a/", "b/")), None);
        assert_eq!(Registration::parse("item_revoked", &"0".repeat(64), &metadata), None);
        assert_eq!(Registration::parse("item_signed", &hash, &metadata), None);
        assert_eq!(Registration::parse("payment", &hash, &metadata), None);
        assert_eq!(Registration::parse("item_revoked", &hash, "{}"), None);
    }

    #[test]
    fn the_data_is_canonical_and_names_every_part() {
        let data = registration(Event::Signed).data();
        let expected = format!(
            r#"{{"depends_on": [{{"integrity_hash": "{}", "item_id": "x", "item_type": "tool", "version": "1.0.0"}}], "integrity_hash": "{}", "item_id": "\u00e9", "item_type": "tool", "location_path": "a/\u00e9.py", "text_hash": "{}", "version": "1.0.0"}}"#,
            "c".repeat(64),
            "a".repeat(64),
            "b".repeat(64)
        );
        assert_eq!(data, expected);
        let with_language = Registration { language: Some("lua".to_owned()), ..registration(Event::Signed) }.data();
        assert_eq!(with_language, expected.replace("\"location_path\"", "\"language\": \"lua\", \"location_path\""));
    }

    #[test]
    fn items_of_different_types_ids_and_versions_have_different_row_ids() {
        let mut other = name("x");
        other.version = "1.0.1".to_owned();
        assert_ne!(other.row_id(), name("x").row_id());
        assert_ne!(name("y").row_id(), name("x").row_id());
        other = name("x");
        other.item_type = ItemType::Directive;
        assert_ne!(other.row_id(), name("x").row_id());
    }
}
