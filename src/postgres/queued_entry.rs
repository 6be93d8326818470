//! [`QueuedEntry`]: an entry that the ledger makes by itself, signed and with its line queued, before its row is in
//! `ledger.entries_pending`. Turns such entries into rows and inserts them.
//!
//! [`super::queue`] holds those that wait for the end of their statement.

use super::bulk_insert::BulkInsert;
use super::entries_pending;
use super::jsonb;
use super::tables::{self, entry_column, ShortValues};
use crate::ledger::metadata::Metadata;
use crate::ledger::record::{EntryLine, Timestamp};
use crate::ledger::signature::Keyring;
use pgrx::pg_sys;
use std::rc::Rc;
use uuid::Uuid;

/// An entry whose line is queued for the mirror, and whose row is still to be inserted.
pub struct QueuedEntry {
    pub entry_id: Uuid,
    pub entry_type: &'static str,
    pub data_hash: String,
    pub metadata: Metadata,
    /// The keyring whose first key made the signature, and the signature.
    pub signature: Option<(Rc<Keyring>, String)>,
    pub created_at: Timestamp,
}

impl QueuedEntry {
    pub fn as_line(&self) -> EntryLine<'_> {
        let signature = self.signature.as_ref();
        EntryLine {
            entry_id: self.entry_id,
            entry_type: self.entry_type.into(),
            data_hash: &self.data_hash,
            metadata: &self.metadata.text,
            signature: signature.map(|(_, signature)| signature.into()),
            key_id: signature.map(|(keyring, _)| keyring.signing_key().0.into()),
            created_at: self.created_at,
        }
    }

    /// The row for `entries_pending`. It borrows from this entry and from `values`.
    fn columns(&self, values: &mut ShortValues) -> [Option<pg_sys::Datum>; entry_column::COUNT] {
        let metadata = match &self.metadata.jsonb {
            Some(jsonb) => jsonb::datum_of_bytes(jsonb),
            None => jsonb::datum_of_canonical(&self.metadata.text),
        };
        columns_of(&self.as_line(), metadata, values)
    }
}

/// Inserts entries of the ledger's own.
pub fn insert_all<'a>(mut entries: impl ExactSizeIterator<Item = &'a QueuedEntry>) {
    let Some(first) = entries.next() else { return };
    let table = entries_pending::open();
    if entries.len() == 0 {
        return entries_pending::insert(&table, &first.columns(&mut ShortValues::new()));
    }
    let mut bulk = BulkInsert::new(&table);
    for entry in std::iter::once(first).chain(entries) {
        bulk.insert(&entry.columns(&mut ShortValues::new()));
    }
    entries_pending::note(bulk.finish());
}

/// The row of a pending entry. It borrows from `values`.
pub fn columns_of(
    entry: &EntryLine,
    metadata: pg_sys::Datum,
    values: &mut ShortValues,
) -> [Option<pg_sys::Datum>; entry_column::COUNT] {
    [
        values.uuid(&entry.entry_id),
        None,
        values.text(&entry.entry_type),
        values.text(entry.data_hash),
        Some(metadata),
        entry.signature.as_deref().and_then(|signature| values.text(signature)),
        entry.key_id.as_deref().and_then(|key_id| values.text(key_id)),
        Some(tables::timestamp_to_postgres(entry.created_at).into()),
        None,
    ]
}
