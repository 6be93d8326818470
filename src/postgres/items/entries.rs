//! What the ledger has of items: the newest entry about each.

use crate::items::registration::{ItemName, Registration};
use crate::ledger::record::{Entry, Timestamp};
use crate::ledger::row_change::{row_ids, ITEM_ENTRY_TYPES};
use crate::ledger::verifier::SealedEntry;
use crate::ledger::Hash;
use crate::postgres::entries::{self, RowEntry};
use crate::postgres::errors::Failure;
use crate::postgres::secrets;
use crate::postgres::tables::{self, entry_column, Row};
use crate::postgres::tracking::metadata::Metadata;
use crate::postgres::tracking::versions;
use crate::postgres::verification::entry::is_included;
use crate::postgres::verification::stored_tree::StoredNodes;
use crate::postgres::verification::table_blocks::{sealed_entry, Buffers};
use pgrx::pg_sys;
use std::cell::OnceCell;
use std::collections::hash_map::{Entry as Slot, HashMap};
use uuid::Uuid;

/// An entry about an item.
#[derive(Debug, Clone)]
pub struct ItemEntry {
    entry: Entry,
    /// Its place in the log tree, and what all of it hashes to; the place is negative as long as it is pending.
    in_tree: SealedEntry,
}

impl ItemEntry {
    fn from_row(row: &Row) -> Option<ItemEntry> {
        is_about_an_item(row).then(|| ItemEntry {
            entry: tables::entry_from_row(row),
            in_tree: sealed_entry(row, None, &mut Buffers::default()),
        })
    }

    pub fn id(&self) -> Uuid {
        self.entry.entry_id
    }

    /// Another one if anything of the entry is another.
    pub fn leaf_hash(&self) -> Hash {
        self.in_tree.leaf_hash
    }

    pub fn is_revocation(&self) -> bool {
        self.entry.entry_type == ITEM_ENTRY_TYPES[2]
    }

    fn row_id(&self) -> Option<Uuid> {
        let [row_id, _] = row_ids(&self.entry.entry_type, &self.entry.metadata);
        row_id
    }

    /// Of two entries about an item, the later one is greater.
    fn order(&self) -> (Timestamp, Uuid) {
        (self.entry.created_at, self.entry.entry_id)
    }

    /// What it says of the item, if it is what was recorded; else what is wrong with it.
    pub fn registration(&self, name: &ItemName) -> Result<Registration, String> {
        let Entry { entry_type, data_hash, metadata, .. } = &self.entry;
        let registration = Registration::parse(entry_type, data_hash, metadata).filter(|found| found.name == *name);
        let registration = registration.ok_or("its metadata is not what its data hash covers")?;
        self.check_signature()?;
        Ok(registration)
    }

    fn check_signature(&self) -> Result<(), String> {
        let keyring = secrets::keyring().map_err(|failure| failure.text())?;
        let Some(keyring) = keyring else { return Ok(()) };
        // Recording signs where there is a secret. One that is not was made without it, or by somebody who lacks it.
        let signature = self.entry.signature.as_deref().ok_or("it is not signed, and the server has a secret")?;
        let key_id = self.entry.key_id.as_deref().unwrap_or_default();
        match keyring.verify(key_id, &self.entry.data_hash, signature) {
            Some(true) => Ok(()),
            Some(false) => Err(format!("its signature is not that of key \"{key_id}\"")),
            None => Err(format!("it is signed with key \"{key_id}\", which is not known")),
        }
    }
}

fn is_about_an_item(row: &Row) -> bool {
    row.text(entry_column::ENTRY_TYPE).is_some_and(|entry_type| ITEM_ENTRY_TYPES.contains(&entry_type))
}

/// The entries that a snapshot sees.
pub struct ItemEntries {
    snapshot: pg_sys::Snapshot,
    /// The newest pending entry about each item: read once, for however many items are looked up.
    pending: OnceCell<HashMap<Uuid, ItemEntry>>,
    tree: StoredNodes,
}

impl ItemEntries {
    /// # Safety
    /// The snapshot stays registered or active for as long as this value is there.
    pub unsafe fn of_snapshot(snapshot: pg_sys::Snapshot) -> ItemEntries {
        ItemEntries { snapshot, pending: OnceCell::new(), tree: StoredNodes::default() }
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

    /// Whether the log tree includes the entry as it is now, if it is sealed: who rewrites an entry can make all of it agree,
    /// but not with the tree.
    pub fn is_in_tree(&self, entry: &ItemEntry) -> bool {
        entry.in_tree.leaf_index < 0 || is_included(&entry.in_tree, &self.tree)
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
    if let Some(previous) = previous.filter(|previous| previous.entry.created_at >= entry.created_at) {
        entry.created_at = Timestamp::from_micros(previous.entry.created_at.micros() + 1).unwrap_or(entry.created_at);
    }
    entries::record_item(entry)
}
