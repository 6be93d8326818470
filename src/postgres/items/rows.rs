//! Reads and writes the rows of `ledger.items`.

use super::input::{GivenItem, Stored};
use crate::items::registration::{pins_json, ItemName, Registration};
use crate::items::signer::SignedItem;
use crate::ledger::record::Timestamp;
use crate::postgres::jsonb::JsonbText;
use crate::postgres::spi::{self, Access, Argument};
use crate::postgres::tables::{self, Row};
use pgrx::{pg_sys, IntoDatum};
use serde_json::Value;
use uuid::Uuid;

/// Reads a row by the item's name: `$1` to `$3`.
macro_rules! select {
    ($($locking:literal)?) => {
        concat!(
            "SELECT content, location_path, metadata::text, language, integrity_hash::text, \
             revoked_at IS NOT NULL, revoked_reason FROM ONLY ledger.items \
             WHERE item_type = $1 AND item_id = $2 AND version = $3"
            $(, $locking)?
        )
    };
}

/// What the registry has under this name, as the active snapshot sees it.
pub fn find(name: &ItemName) -> Option<GivenItem> {
    select(select!(), name, Access::Read)
}

/// The same as it is now, locked: no other session changes it until this transaction ends.
pub fn lock(name: &ItemName) -> Option<GivenItem> {
    select(select!(" FOR UPDATE"), name, Access::Write)
}

fn select(statement: &'static str, name: &ItemName, access: Access) -> Option<GivenItem> {
    let mut found = None;
    spi::run(statement, &name_arguments(name), access, |row| found = Some(read(name, row)));
    found
}

fn read(name: &ItemName, row: &Row) -> GivenItem {
    let is_revoked = row.get::<bool>(5) == Some(true);
    let text = |column| row.text(column).map(str::to_owned);
    GivenItem {
        item_type: name.item_type.as_str().to_owned(),
        id: name.id.clone(),
        version: name.version.clone(),
        content: text(0).unwrap_or_default(),
        file_path: None,
        metadata: text(2),
        language: text(3),
        stored: Stored::Elsewhere(text(4)),
        registered_at: Some(text(1).unwrap_or_default()),
        revoked: is_revoked.then(|| text(6).unwrap_or_default()),
    }
}

/// The columns of a row that repeat what the ledger's entries say, and that its text does not prove.
pub struct Repeated {
    pub location: Option<String>,
    pub language: Option<String>,
    pub entry_id: Option<Uuid>,
    pub signed_at: Option<pg_sys::TimestampTz>,
    pub depends_on: Value,
    pub revoked_at: Option<pg_sys::TimestampTz>,
    pub revoked_reason: Option<String>,
}

pub fn repeated(name: &ItemName) -> Option<Repeated> {
    let statement = "SELECT entry_id, signed_at, depends_on::text, revoked_at, revoked_reason, \
         location_path, language FROM ONLY ledger.items WHERE item_type = $1 AND item_id = $2 AND version = $3";
    let mut found = None;
    spi::run(statement, &name_arguments(name), Access::Read, |row| {
        found = Some(Repeated {
            entry_id: row.uuid(0),
            signed_at: row.get(1),
            depends_on: row.text(2).and_then(|pins| serde_json::from_str(pins).ok()).unwrap_or_default(),
            revoked_at: row.get(3),
            revoked_reason: row.text(4).map(str::to_owned),
            location: row.text(5).map(str::to_owned),
            language: row.text(6).map(str::to_owned),
        });
    });
    found
}

/// The names of all items, in order.
pub fn all_names() -> Vec<ItemName> {
    let mut names = Vec::new();
    let statement = "SELECT item_type, item_id, version FROM ONLY ledger.items \
         ORDER BY item_type COLLATE \"C\", item_id COLLATE \"C\", version COLLATE \"C\"";
    spi::run(statement, &[], Access::Read, |row| {
        let item_type = row.text(0).and_then(|item_type| item_type.parse().ok());
        let name = item_type.zip(row.text(1)).zip(row.text(2));
        let owned = |((item_type, id), version): ((_, &str), &str)| ItemName {
            item_type,
            id: id.to_owned(),
            version: version.to_owned(),
        };
        names.extend(name.map(owned));
    });
    names
}

/// The row of an item that was signed.
pub struct SignedRow<'a> {
    pub registration: &'a Registration,
    pub signed: &'a SignedItem,
    /// JSON text.
    pub metadata: &'a str,
    pub language: Option<&'a str>,
    pub entry_id: Uuid,
}

impl SignedRow<'_> {
    /// Inserts the row; false if there is one already.
    pub fn insert(&self) -> bool {
        self.write(
            "INSERT INTO ledger.items (item_type, item_id, version, location_path, content, metadata, language, \
             integrity_hash, signed_at, entry_id, depends_on) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
             ON CONFLICT DO NOTHING RETURNING true",
        )
    }

    /// Replaces the row that there is.
    pub fn update(&self) {
        self.write(
            "UPDATE ONLY ledger.items SET location_path = $4, content = $5, metadata = $6, language = $7, \
             integrity_hash = $8, signed_at = $9, entry_id = $10, depends_on = $11, revoked_at = NULL, \
             revoked_reason = NULL WHERE item_type = $1 AND item_id = $2 AND version = $3 RETURNING true",
        );
    }

    fn write(&self, statement: &'static str) -> bool {
        let SignedRow { registration, signed, .. } = self;
        let mut arguments = name_arguments(&registration.name).to_vec();
        let signed_at = tables::timestamp_to_postgres(signed.signature.timestamp);
        arguments.extend([
            Argument::text(Some(&registration.location)),
            Argument::text(Some(&signed.content)),
            jsonb(self.metadata.to_owned()),
            Argument::text(self.language),
            Argument::text(Some(&registration.integrity)),
            Argument::new(pg_sys::TIMESTAMPTZOID, signed_at.into_datum()),
            Argument::new(pg_sys::UUIDOID, Some(tables::uuid_datum(&self.entry_id))),
            jsonb(pins_json(&registration.depends_on).to_string()),
        ]);
        let mut is_written = false;
        spi::run(statement, &arguments, Access::Write, |_| is_written = true);
        is_written
    }
}

/// Notes that the item was revoked.
pub fn revoke(name: &ItemName, entry_id: Uuid, at: Timestamp, reason: &str) {
    let mut arguments = name_arguments(name).to_vec();
    arguments.extend([
        Argument::new(pg_sys::UUIDOID, Some(tables::uuid_datum(&entry_id))),
        Argument::new(pg_sys::TIMESTAMPTZOID, tables::timestamp_to_postgres(at).into_datum()),
        Argument::text(Some(reason)),
    ]);
    let statement = "UPDATE ONLY ledger.items SET entry_id = $4, revoked_at = $5, revoked_reason = $6 \
         WHERE item_type = $1 AND item_id = $2 AND version = $3";
    spi::run(statement, &arguments, Access::Write, |_| {});
}

fn name_arguments(name: &ItemName) -> [Argument; 3] {
    [Argument::text(Some(name.item_type.as_str())), Argument::text(Some(&name.id)), Argument::text(Some(&name.version))]
}

fn jsonb(text: String) -> Argument {
    Argument::new(pg_sys::JSONBOID, JsonbText(text).into_datum())
}
