//! Entries about the rows of tracked tables: what they say, and how they (and entries about items) name what they are
//! about.
//!
//! The entry_type says what happened; `data` is the row, and `metadata` tells which one:
//!
//! | member | what it is |
//! |---|---|
//! | `table_id` | the tracked table, whatever its name is now |
//! | `key` | the columns of the primary key, as an object, by the names that they had |
//! | `row_id` | the row, whatever the columns of its key are called later: [`row_id`] |
//! | `old_key`, `old_row_id` | the key and the row_id before an update that changed the key |
//! | `previous_hash` | the data hash of the row that was updated, as it was found |
//! | `shape` | the columns that `data` covers: hash of an entry of type `table_shape` |
//! | `baseline` | true: the row was there before the table was tracked |
//! | `before`, `after` | the row before and after the change |
//! | `precedes_baseline` | true: the row that was found was there before, too, and may not have been recorded yet |

use super::canonical_json::{members, plain};
use super::jsonb::{self, Found};
use super::sha256;
use uuid::Uuid;

pub const TABLE_INSERT: &str = "table_insert";
pub const TABLE_UPDATE: &str = "table_update";
pub const TABLE_DELETE: &str = "table_delete";
pub const TABLE_TRUNCATE: &str = "table_truncate";
/// Says which columns an entry with its hash as `shape` covers.
pub const TABLE_SHAPE: &str = "table_shape";
pub const TABLE_TRACKED: &str = "table_tracked";
pub const TABLE_UNTRACKED: &str = "table_untracked";

/// The entry_types that only the recording of tables makes.
pub const ENTRY_TYPES: [&str; 7] =
    [TABLE_INSERT, TABLE_UPDATE, TABLE_DELETE, TABLE_TRUNCATE, TABLE_SHAPE, TABLE_TRACKED, TABLE_UNTRACKED];

pub const ITEM_SIGNED: &str = "item_signed";
pub const ITEM_MOVED: &str = "item_moved";
pub const ITEM_REVOKED: &str = "item_revoked";

/// The entry_types about items. An item is named as a row is, by `row_id` in the metadata; the rest of it is the
/// concern of `items::registration`.
pub const ITEM_ENTRY_TYPES: [&str; 3] = [ITEM_SIGNED, ITEM_MOVED, ITEM_REVOKED];

/// Whether only the ledger itself records entries of this type.
pub fn is_reserved(entry_type: &str) -> bool {
    ENTRY_TYPES.contains(&entry_type) || ITEM_ENTRY_TYPES.contains(&entry_type)
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Insert,
    Update,
    Delete,
    /// All rows of the table are gone.
    Truncate,
}

impl Operation {
    pub const ALL: [Operation; 4] = [Operation::Insert, Operation::Update, Operation::Delete, Operation::Truncate];

    pub fn entry_type(self) -> &'static str {
        match self {
            Operation::Insert => TABLE_INSERT,
            Operation::Update => TABLE_UPDATE,
            Operation::Delete => TABLE_DELETE,
            Operation::Truncate => TABLE_TRUNCATE,
        }
    }

    /// Whether the row exists afterwards, under its new key if that was changed.
    pub fn leaves_row(self) -> bool {
        matches!(self, Operation::Insert | Operation::Update)
    }

    pub fn from_entry_type(entry_type: &str) -> Option<Operation> {
        Self::ALL.into_iter().find(|operation| operation.entry_type() == entry_type)
    }
}

/// An entry about a row, borrowed from its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowChange<'a> {
    pub operation: Operation,
    pub table_id: &'a str,
    /// Canonical JSON object; empty for a truncate.
    pub key: &'a str,
    /// The row after the change, or the row that was deleted.
    pub row_id: Uuid,
    pub old_key: Option<&'a str>,
    /// The row under its old key, if the key was changed.
    pub old_row_id: Option<Uuid>,
    pub previous_hash: Option<&'a str>,
    pub shape: &'a str,
    pub transaction_id: &'a str,
    pub is_baseline: bool,
    pub precedes_baseline: bool,
    /// The row before and after the change, where images are kept.
    pub before: Option<&'a str>,
    pub after: Option<&'a str>,
}

impl<'a> RowChange<'a> {
    /// What the metadata, canonical JSON, says; `None` if the entry is not about a row.
    pub fn parse(entry_type: &str, metadata: &'a str) -> Option<RowChange<'a>> {
        let operation = Operation::from_entry_type(entry_type)?;
        let (mut table_id, mut key, mut row, mut old_key, mut old_row) = (None, None, None, None, None);
        let (mut previous_hash, mut shape, mut transaction_id) = (None, "", "");
        let (mut is_baseline, mut precedes_baseline) = (false, false);
        let (mut before, mut after) = (None, None);
        for (name, value) in members(metadata) {
            match name {
                "table_id" => table_id = plain(value),
                "key" => key = Some(value),
                "row_id" => row = uuid(value),
                "old_key" => old_key = Some(value),
                "old_row_id" => old_row = uuid(value),
                "previous_hash" => previous_hash = plain(value),
                "shape" => shape = plain(value).unwrap_or_default(),
                "transaction_id" => transaction_id = value,
                "baseline" => is_baseline = value == "true",
                "precedes_baseline" => precedes_baseline = value == "true",
                "before" => before = Some(value),
                "after" => after = Some(value),
                _ => {}
            }
        }
        let table_id = table_id?;
        let (key, row_id) = match operation {
            Operation::Truncate => ("", row_id(table_id, "")),
            _ => (key?, row?),
        };
        Some(RowChange {
            operation,
            table_id,
            key,
            row_id,
            old_key,
            old_row_id: old_row,
            previous_hash,
            shape,
            transaction_id,
            is_baseline,
            precedes_baseline,
            before,
            after,
        })
    }
}

/// Whether [`row_ids`] of an entry of this type gives any, if its metadata is of the form that recording gives it.
pub fn has_row_ids(entry_type: &str) -> bool {
    ITEM_ENTRY_TYPES.contains(&entry_type) || Operation::from_entry_type(entry_type).is_some()
}

/// The ids of the rows, or of the item, that the entry is about. None for entries of other kinds.
pub fn row_ids(entry_type: &str, metadata: &str) -> [Option<Uuid>; 2] {
    if ITEM_ENTRY_TYPES.contains(&entry_type) {
        let item = members(metadata).find(|(name, _)| *name == "row_id");
        return [item.and_then(|(_, value)| uuid(value)), None];
    }
    let change = RowChange::parse(entry_type, metadata);
    [change.map(|change| change.row_id), change.and_then(|change| change.old_row_id)]
}

/// The same for a change of a row, or for an item, from its metadata as a jsonb; `None` for what only [`row_ids`] can
/// tell.
pub fn row_ids_of_jsonb(entry_type: &str, metadata: &[u8]) -> Option<[Option<Uuid>; 2]> {
    use Found::{Absent, Text};
    if ITEM_ENTRY_TYPES.contains(&entry_type) {
        let [Text(item)] = jsonb::members(metadata, ["row_id"])? else { return None };
        return Some([Some(Uuid::try_parse_ascii(item).ok()?), None]);
    }
    Operation::from_entry_type(entry_type).filter(|operation| *operation != Operation::Truncate)?;
    let text = |id: &[u8]| Uuid::try_parse_ascii(id).ok();
    match jsonb::members(metadata, ["table_id", "key", "row_id", "old_row_id"])? {
        [_, Absent, ..] => None,
        [Text(_), _, Text(row), Absent] => Some([Some(text(row)?), None]),
        [Text(_), _, Text(row), Text(old)] => Some([Some(text(row)?), text(old)]),
        _ => None,
    }
}

fn uuid(value: &str) -> Option<Uuid> {
    plain(value).and_then(|id| Uuid::try_parse(id).ok())
}

/// A name of fixed length for a row: the first 16 bytes of SHA-256 over the table's id, a zero byte and the values of
/// the key, a canonical JSON array. The values stand in the order of the columns' numbers, which stays when columns are
/// renamed. With no values, it names the table as a whole.
pub fn row_id(table_id: &str, key_values: &str) -> Uuid {
    let mut text = Vec::with_capacity(table_id.len() + 1 + key_values.len());
    text.extend_from_slice(table_id.as_bytes());
    text.push(0);
    text.extend_from_slice(key_values.as_bytes());
    let hash = sha256(&text);
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    Uuid::from_bytes(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = r#"{"key": {"id": 2}, "old_key": {"id": 1}, "old_row_id": "e8ffc7c0393ffc4e7bd8d97dad792e8d", "previous_hash": "ab", "row_id": "c91d97377d444a246f5e902b8cd0d423", "shape": "cd", "table_id": "t", "transaction_id": 7}"#;

    #[test]
    fn an_update_of_the_key_is_about_two_rows() {
        let change = RowChange::parse("table_update", METADATA).unwrap();
        assert_eq!((change.table_id, change.key, change.previous_hash), ("t", r#"{"id": 2}"#, Some("ab")));
        assert_eq!((change.shape, change.transaction_id), ("cd", "7"));
        assert_eq!((change.is_baseline, change.precedes_baseline), (false, false));
        assert_eq!(row_ids("table_update", METADATA), [Some(row_id("t", "[2]")), Some(row_id("t", "[1]"))]);
    }

    #[test]
    fn entries_of_other_kinds_are_about_no_row() {
        assert_eq!(row_ids("payment", METADATA), [None, None]);
        assert_eq!(row_ids("table_shape", METADATA), [None, None]);
        assert_eq!(row_ids("table_insert", r#"{"key": {"id": 2}}"#), [None, None]);
        assert_eq!(row_ids("table_insert", r#"{"key": {"id": 2}, "row_id": "x", "table_id": "t"}"#), [None, None]);
        assert_eq!(row_ids("table_insert", "{}"), [None, None]);
    }

    #[test]
    fn what_is_said_of_the_baseline_counts_only_where_it_is_true() {
        let of = |said: &str| {
            let metadata = METADATA.replacen('{', &format!("{{{said}, "), 1);
            let change = RowChange::parse("table_insert", &metadata).unwrap();
            (change.is_baseline, change.precedes_baseline)
        };
        assert_eq!(of(r#""baseline": true"#), (true, false));
        assert_eq!(of(r#""precedes_baseline": true"#), (false, true));
        assert_eq!(of(r#""baseline": false, "precedes_baseline": "true""#), (false, false));
    }

    #[test]
    fn a_jsonb_tells_the_same_rows() {
        let of_jsonb = |entry_type, metadata: &str| {
            let jsonb = jsonb::encode(metadata).unwrap();
            row_ids_of_jsonb(entry_type, &jsonb[4..])
        };
        let others = [
            METADATA.replace("c91d", "C91D"),
            METADATA.replace("e8ff", "x"),
            METADATA.replace("old_row_id", "row_id_old"),
            METADATA.replace("\"c91d97377d444a246f5e902b8cd0d423\"", "\"c91d9737-7d44-4a24-6f5e-902b8cd0d423\""),
        ];
        for metadata in others.iter().map(String::as_str).chain([METADATA]) {
            for entry_type in ["table_insert", "table_update", "table_delete"] {
                assert_eq!(of_jsonb(entry_type, metadata), Some(row_ids(entry_type, metadata)), "{metadata}");
            }
            assert_eq!(of_jsonb("table_truncate", metadata), None);
            for entry_type in ITEM_ENTRY_TYPES {
                assert_eq!(of_jsonb(entry_type, metadata), Some(row_ids(entry_type, metadata)), "{metadata}");
            }
        }
        for metadata in
            ["{}", r#"{"key": {"id": 2}, "row_id": "x", "table_id": "t"}"#, r#"{"row_id": 1, "table_id": "t"}"#]
        {
            assert_eq!(of_jsonb("table_insert", metadata), None);
            assert_eq!(of_jsonb("item_signed", metadata), None);
        }
    }

    #[test]
    fn a_truncate_is_about_the_table() {
        assert_eq!(row_ids("table_truncate", r#"{"table_id": "t"}"#), [Some(row_id("t", "")), None]);
    }

    #[test]
    fn rows_of_different_tables_and_keys_have_different_ids() {
        assert_ne!(row_id("t", "a"), row_id("u", "a"));
        assert_ne!(row_id("t", "a"), row_id("t", "b"));
        assert_ne!(row_id("ta", ""), row_id("t", "a"));
    }
}
