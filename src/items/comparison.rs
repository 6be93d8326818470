//! Files outside the database, compared with what its ledger says of their items: what `pg_notary items sync` asks, and
//! what the SQL function `registry_sync` answers.
//!
//! Each file is an object of strings:
//!
//! | member | what it is |
//! |---|---|
//! | `item_type`, `item_id`, `version` | the item |
//! | `location_path` | its path below the base of its type |
//! | `integrity_hash` | what its signature line would say if it were signed now |
//! | `text_hash` | SHA-256 of the whole text without signature lines |

use super::item::{check_id, check_version};
use super::item_type::ItemType;
use super::lists::ListError;
use super::location::check_location;
use super::registration::{ItemName, Registration};
use crate::ledger::parse_hash;
use serde_json::{json, Value};
use std::collections::HashSet;

/// The item in a file, as the registry is asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalItem {
    pub name: ItemName,
    pub location: String,
    pub integrity: String,
    pub text_hash: String,
}

impl LocalItem {
    pub fn to_json(&self) -> Value {
        json!({
            "item_type": self.name.item_type.as_str(),
            "item_id": self.name.id,
            "version": self.name.version,
            "location_path": self.location,
            "integrity_hash": self.integrity,
            "text_hash": self.text_hash,
        })
    }

    /// Reads the file that stands at `index` in the list.
    fn read(index: usize, file: &Value) -> Result<Self, ListError> {
        let text = |name: &str| {
            let value = file.get(name).and_then(Value::as_str);
            value.ok_or_else(|| ListError::new(format!("local[{index}] has no string {name}")))
        };
        let hash = |name: &str| {
            let value = text(name)?;
            let not_a_hash = || ListError::new(format!("{name} of local[{index}] is not a SHA-256 hash"));
            parse_hash(value).ok_or_else(not_a_hash).map(|_| value.to_owned())
        };
        let item_type: ItemType = text("item_type")?.parse()?;
        let id = text("item_id")?;
        check_id(id)?;
        let version = text("version")?;
        check_version(version)?;
        let location = text("location_path")?;
        check_location(item_type, location)?;
        Ok(LocalItem {
            name: ItemName { item_type, id: id.to_owned(), version: version.to_owned() },
            location: location.to_owned(),
            integrity: hash("integrity_hash")?,
            text_hash: hash("text_hash")?,
        })
    }
}

/// Reads the files in a JSON array, each item once.
pub fn read_local_items(local: &str) -> Result<Vec<LocalItem>, ListError> {
    let local: Value = serde_json::from_str(local).unwrap_or_default();
    let files = local.as_array().ok_or_else(|| ListError::new("local must be a JSON array".to_owned()))?;
    let mut seen = HashSet::new();
    let mut read = Vec::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        let file = LocalItem::read(index, file)?;
        if !seen.insert(file.name.clone()) {
            return Err(ListError::new(format!("{} {} is given twice", file.name.item_type, file.name)));
        }
        read.push(file);
    }
    Ok(read)
}

/// How a file and the registry differ. Their names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncStatus {
    Match,
    Differs,
    Moved,
    Revoked,
    /// Only the registry has it.
    MissingLocally,
    /// Only the files have it.
    MissingHere,
}

impl SyncStatus {
    pub const ALL: [SyncStatus; 6] = [
        SyncStatus::Match,
        SyncStatus::Differs,
        SyncStatus::Moved,
        SyncStatus::Revoked,
        SyncStatus::MissingLocally,
        SyncStatus::MissingHere,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            SyncStatus::Match => "match",
            SyncStatus::Differs => "differs",
            SyncStatus::Moved => "moved",
            SyncStatus::Revoked => "revoked",
            SyncStatus::MissingLocally => "missing_locally",
            SyncStatus::MissingHere => "missing_here",
        }
    }

    /// Reads what [`as_str`](SyncStatus::as_str) gives.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

/// How the file of an item differs from what is registered and not revoked, and what to say of it.
pub fn difference(registered: &Registration, local: &LocalItem) -> (SyncStatus, Option<String>) {
    let is_same_text = registered.text_hash == local.text_hash;
    if registered.location != local.location && is_same_text {
        let detail = format!("signed at {}, found at {}", registered.location, local.location);
        return (SyncStatus::Moved, Some(detail));
    }
    if !is_same_text {
        return (SyncStatus::Differs, Some("the text differs from the text that was signed".to_owned()));
    }
    if registered.integrity != local.integrity {
        return (SyncStatus::Differs, Some("the text is the same, but its metadata differs".to_owned()));
    }
    (SyncStatus::Match, None)
}

#[cfg(test)]
mod tests {
    use super::super::registration::Event;
    use super::*;
    use crate::items::ItemError;

    fn local(id: &str) -> LocalItem {
        LocalItem {
            name: ItemName { item_type: ItemType::Tool, id: id.to_owned(), version: "1.0.0".to_owned() },
            location: "core/a.py".to_owned(),
            integrity: "1".repeat(64),
            text_hash: "2".repeat(64),
        }
    }

    fn registered() -> Registration {
        let LocalItem { name, location, integrity, text_hash } = local("a");
        Registration { name, event: Event::Signed, location, integrity, text_hash, language: None, depends_on: vec![] }
    }

    /// What is wrong with a list of one file, of which one member is `value`.
    fn error_with(member: &str, value: Value) -> ListError {
        let mut file = local("a").to_json();
        file[member] = value;
        read_local_items(&json!([file]).to_string()).unwrap_err()
    }

    fn bad(message: &str) -> ListError {
        ListError::Bad { message: message.to_owned(), detail: None }
    }

    #[test]
    fn a_file_is_an_object_of_strings() {
        let expected = json!({
            "item_type": "tool", "item_id": "a", "version": "1.0.0", "location_path": "core/a.py",
            "integrity_hash": "1".repeat(64), "text_hash": "2".repeat(64),
        });
        assert_eq!(local("a").to_json(), expected);
    }

    #[test]
    fn the_files_that_are_sent_are_those_that_are_read() {
        for files in [vec![], vec![local("é \"x\""), local("b")]] {
            let sent: Value = files.iter().map(LocalItem::to_json).collect();
            assert_eq!(read_local_items(&sent.to_string()), Ok(files));
        }
    }

    #[test]
    fn what_is_no_list_of_files_is_refused() {
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        for list in ["{}", "null", "1", "", &deep] {
            assert_eq!(read_local_items(list), Err(bad("local must be a JSON array")));
        }
        assert_eq!(read_local_items("[1]"), Err(bad("local[0] has no string item_type")));
    }

    #[test]
    fn a_member_that_is_no_string_is_named_with_its_place() {
        for member in ["item_type", "item_id", "version", "location_path", "integrity_hash", "text_hash"] {
            for value in [Value::Null, json!(1), json!([""])] {
                assert_eq!(error_with(member, value), bad(&format!("local[0] has no string {member}")));
            }
        }
        let second = json!([local("a").to_json(), {}]).to_string();
        assert_eq!(read_local_items(&second), Err(bad("local[1] has no string item_type")));
    }

    #[test]
    fn what_cannot_be_of_an_item_is_refused() {
        let of_item = |member: &str, value: &str| match error_with(member, json!(value)) {
            ListError::Item(error) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(of_item("item_type", "script"), ItemError::UnknownType("script".to_owned()));
        assert_eq!(of_item("item_id", ""), ItemError::BadId(String::new()));
        assert!(matches!(of_item("version", "1"), ItemError::BadVersion { .. }));
        assert!(matches!(of_item("location_path", "../a.py"), ItemError::NoLocation { .. }));
        for member in ["integrity_hash", "text_hash"] {
            for hash in ["", &"A".repeat(64), &"1".repeat(63)] {
                let expected = bad(&format!("{member} of local[0] is not a SHA-256 hash"));
                assert_eq!(error_with(member, json!(hash)), expected);
            }
        }
    }

    #[test]
    fn an_item_is_given_once() {
        let mut elsewhere = local("a");
        elsewhere.location = "b.py".to_owned();
        let twice = json!([local("a").to_json(), local("b").to_json(), elsewhere.to_json()]).to_string();
        assert_eq!(read_local_items(&twice), Err(bad("tool a@1.0.0 is given twice")));
    }

    #[test]
    fn every_status_is_read_back_and_no_other_word() {
        for status in SyncStatus::ALL {
            assert_eq!(SyncStatus::parse(status.as_str()), Some(status));
        }
        for other in ["", "matches", "Match", "superseded"] {
            assert_eq!(SyncStatus::parse(other), None);
        }
    }

    #[test]
    fn every_difference_is_told() {
        let change = |change: fn(&mut LocalItem)| {
            let mut local = local("a");
            change(&mut local);
            difference(&registered(), &local)
        };
        let told = |status, detail: &str| (status, Some(detail.to_owned()));
        assert_eq!(change(|_| ()), (SyncStatus::Match, None));
        let other_text = told(SyncStatus::Differs, "the text differs from the text that was signed");
        assert_eq!(change(|local| local.text_hash = "3".repeat(64)), other_text);
        let other_metadata = told(SyncStatus::Differs, "the text is the same, but its metadata differs");
        assert_eq!(change(|local| local.integrity = "3".repeat(64)), other_metadata);
        // The integrity hash covers the place.
        let moved = told(SyncStatus::Moved, "signed at core/a.py, found at b.py");
        let move_it = |local: &mut LocalItem| {
            local.location = "b.py".to_owned();
            local.integrity = "3".repeat(64);
        };
        assert_eq!(change(move_it), moved);
        let replace_it = |local: &mut LocalItem| {
            local.location = "b.py".to_owned();
            local.text_hash = "3".repeat(64);
        };
        assert_eq!(change(replace_it), other_text);
    }
}
