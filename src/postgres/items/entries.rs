//! What the ledger has of items: the newest entry about each.

use crate::items::registration::{ItemName, Registration};
use crate::ledger::record::{Entry, Timestamp};
use crate::ledger::row_change::{row_ids, ITEM_ENTRY_TYPES};
use crate::postgres::entries::{self, RowEntry};
use crate::postgres::errors::Failure;
use crate::postgres::secrets;
use crate::postgres::tables::{self, entry_column, Row};
use crate::postgres::tracking::metadata::Metadata;
use crate::postgres::tracking::versions;
use pgrx::pg_sys;
use std::cell::OnceCell;
use std::collections::hash_map::{Entry as Slot, HashMap};
use uuid::Uuid;

/// An entry about an item.
#[derive(Debug, Clone)]
pub struct ItemEntry(Entry);

impl ItemEntry {
    fn from_row(row: &Row) -> Option<ItemEntry> {
        is_about_an_item(row).then(|| ItemEntry(tables::entry_from_row(row)))
    }

    pub fn id(&self) -> Uuid {
        self.0.entry_id
    }

    pub fn is_revocation(&self) -> bool {
        self.0.entry_type == ITEM_ENTRY_TYPES[2]
    }

    fn row_id(&self) -> Option<Uuid> {
        row_ids(&self.0.entry_type, &self.0.metadata).next()
    }

    /// Of two entries about an item, the later one is greater.
    fn order(&self) -> (Timestamp, Uuid) {
        (self.0.created_at, self.0.entry_id)
    }

    /// What it says of the item, if it is what was recorded; else what is wrong with it.
    pub fn registration(&self, name: &ItemName) -> Result<Registration, String> {
        let Entry { entry_type, data_hash, metadata, .. } = &self.0;
        let registration = Registration::parse(entry_type, data_hash, metadata).filter(|found| found.name == *name);
        let registration = registration.ok_or("its metadata is not what its data hash covers")?;
        self.check_signature()?;
        Ok(registration)
    }

    fn check_signature(&self) -> Result<(), String> {
        let keyring = secrets::keyring().map_err(|failure| failure.text())?;
        let (Some(signature), Some(keyring)) = (&self.0.signature, keyring) else { return Ok(()) };
        let key_id = self.0.key_id.as_deref().unwrap_or_default();
        match keyring.verify(key_id, &self.0.data_hash, signature) {
            Some(true) => Ok(()),
            Some(false) => Err(format!("its signature is not that of key \"{key_id}\"")),
            None => Err(format!("it is signed with key \"{key_id}\", which is not known")),
        }
    }
}

fn is_about_an_item(row: &Row) -> bool {
    let entry_type: Option<&str> = row.get(entry_column::ENTRY_TYPE);
    entry_type.is_some_and(|entry_type| ITEM_ENTRY_TYPES.contains(&entry_type))
}

/// The entries that a snapshot sees.
pub struct ItemEntries {
    snapshot: pg_sys::Snapshot,
    /// The newest pending entry about each item: read once, for however many items are looked up.
    pending: OnceCell<HashMap<Uuid, ItemEntry>>,
}

impl ItemEntries {
    /// # Safety
    /// The snapshot stays registered or active for as long as this value is there.
    pub unsafe fn of_snapshot(snapshot: pg_sys::Snapshot) -> ItemEntries {
        ItemEntries { snapshot, pending: OnceCell::new() }
    }

    /// The entry that was recorded last about the item, if there is one.
    pub fn newest(&self, name: &ItemName) -> Option<ItemEntry> {
        let row_id = name.row_id();
        let pending = self.pending.get_or_init(|| self.read_pending()).get(&row_id).cloned();
        pending.into_iter().chain(self.newest_sealed(row_id)).max_by_key(ItemEntry::order)
    }

    /// The same, of sealed entries alone.
    pub fn newest_sealed(&self, row_id: Uuid) -> Option<ItemEntry> {
        let mut newest = None;
        // SAFETY: as promised to of_snapshot().
        unsafe {
            versions::scan_sealed(row_id, self.snapshot, ItemEntry::from_row, |entry| {
                newest = Some(entry);
                false
            });
        }
        newest
    }

    fn read_pending(&self) -> HashMap<Uuid, ItemEntry> {
        let mut newest: HashMap<Uuid, ItemEntry> = HashMap::new();
        // SAFETY: as promised to of_snapshot().
        unsafe {
            versions::each_pending(self.snapshot, is_about_an_item, ItemEntry::from_row, |entry| {
                let Some(row_id) = entry.row_id() else { return };
                match newest.entry(row_id) {
                    Slot::Vacant(slot) => drop(slot.insert(entry)),
                    Slot::Occupied(mut slot) if slot.get().order() < entry.order() => drop(slot.insert(entry)),
                    Slot::Occupied(_) => {}
                }
            });
        }
        newest
    }
}

/// Records what was done with an item, as an entry that is newer than `previous`, whatever the clock shows. Returns its id.
pub fn record(registration: &Registration, previous: Option<&ItemEntry>) -> Result<Uuid, Failure> {
    let metadata = Metadata::empty().actor().key("item", &registration.data());
    let metadata = metadata.text("row_id", &registration.name.row_id().simple().to_string());
    let with_signature = secrets::keyring()?.is_some();
    let entry_type = registration.event.entry_type();
    let mut entry = RowEntry::now(entry_type, registration.data_hash(), metadata.finish(), with_signature);
    if let Some(previous) = previous.filter(|previous| previous.0.created_at >= entry.created_at) {
        entry.created_at = Timestamp::from_micros(previous.0.created_at.micros() + 1).unwrap_or(entry.created_at);
    }
    entries::record_item(entry)
}
