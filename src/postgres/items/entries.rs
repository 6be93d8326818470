//! Finds, checks and records the ledger's entries about items. Only the newest one about an item counts.

use super::pending::{self, is_about_an_item, AsOf, PendingItems};
use crate::items::registration::{ItemName, Registration};
use crate::ledger::metadata::Member;
use crate::ledger::record::{Entry, Timestamp};
use crate::ledger::row_change::ITEM_REVOKED;
use crate::ledger::row_index::LogPosition;
use crate::ledger::verifier::{KeyCounts, SealedEntry, SignatureCheck};
use crate::ledger::Hash;
use crate::postgres::entries::{self, OwnEntry};
use crate::postgres::entry_clock;
use crate::postgres::errors::Failure;
use crate::postgres::secrets;
use crate::postgres::tables::{self, look_up, RegisteredSnapshot, Row, Table};
use crate::postgres::tracking::metadata::MetadataBuilder;
use crate::postgres::tracking::versions;
use crate::postgres::verification::entry::is_included;
use crate::postgres::verification::stored_tree::StoredNodes;
use crate::postgres::verification::table_blocks::{sealed_entry, Buffers};
use pgrx::pg_sys;
use uuid::Uuid;

/// The newest entry about an item.
#[derive(Debug, Clone)]
pub enum ItemEntry {
    Stored {
        entry: Box<Entry>,
        /// Its leaf index in the log tree (none while it is pending), and its leaf hash.
        in_tree: SealedEntry,
        /// By the table that it was found in: what the row says of itself proves nothing.
        is_sealed: bool,
    },
    /// It was sealed, and is gone, for example with a partition that was detached. What it said of the item is not
    /// known, and an older entry must not be taken for it.
    Gone { block_number: i64, leaf_index: i64, created_at: Timestamp },
}

impl ItemEntry {
    fn pending(row: &Row) -> Option<ItemEntry> {
        ItemEntry::from_row(row, false)
    }

    fn sealed(row: &Row) -> Option<ItemEntry> {
        ItemEntry::from_row(row, true)
    }

    fn from_row(row: &Row, is_sealed: bool) -> Option<ItemEntry> {
        is_about_an_item(row).then(|| ItemEntry::Stored {
            entry: Box::new(tables::entry_from_row(row)),
            in_tree: sealed_entry(row, None, &mut Buffers::default()),
            is_sealed,
        })
    }

    fn gone(position: LogPosition) -> ItemEntry {
        let LogPosition { block_number, leaf_index, created_at, .. } = position;
        ItemEntry::Gone { block_number, leaf_index, created_at }
    }

    /// `None` if the entry is gone.
    pub fn id(&self) -> Option<Uuid> {
        match self {
            ItemEntry::Stored { entry, .. } => Some(entry.entry_id),
            ItemEntry::Gone { .. } => None,
        }
    }

    /// Differs if anything in the entry differs, or it has another place in the log; `None` if the entry is gone.
    pub fn place_and_leaf(&self) -> Option<(Option<i64>, Hash)> {
        match self {
            ItemEntry::Stored { in_tree, is_sealed, .. } => {
                Some((is_sealed.then_some(in_tree.leaf_index), in_tree.leaf_hash))
            }
            ItemEntry::Gone { .. } => None,
        }
    }

    pub fn is_gone(&self) -> bool {
        matches!(self, ItemEntry::Gone { .. })
    }

    pub fn is_revocation(&self) -> bool {
        matches!(self, ItemEntry::Stored { entry, .. } if entry.entry_type == ITEM_REVOKED)
    }

    /// Of two entries about an item, the later one is greater. Of two with one time, the one that is gone counts as the
    /// later.
    fn order(&self) -> (Timestamp, Uuid) {
        match self {
            ItemEntry::Stored { entry, .. } => (entry.created_at, entry.entry_id),
            ItemEntry::Gone { created_at, .. } => (*created_at, Uuid::max()),
        }
    }

    /// What the entry says of the item, if its hash and signature are right; otherwise what is wrong with it. Whether
    /// the log tree includes it is asked for [separately](ItemEntries::check_tree).
    pub fn registration(&self, name: &ItemName) -> Result<Registration, String> {
        self.registration_counted(name, &mut KeyCounts::default())
    }

    /// As [`Self::registration`]; counts what the signature is worth.
    pub fn registration_counted(&self, name: &ItemName, by_key: &mut KeyCounts) -> Result<Registration, String> {
        let entry: &Entry = match self {
            ItemEntry::Stored { entry, .. } => entry,
            ItemEntry::Gone { block_number, leaf_index, .. } => {
                return Err(format!(
                    "its newest entry is gone from the ledger: the entry was sealed in block {block_number}, with leaf_index \
                     {leaf_index}; if a partition of ledger.entries_sealed was detached, attach it again"
                ))
            }
        };
        let Entry { entry_type, data_hash, metadata, .. } = entry;
        let registration = Registration::parse(entry_type, data_hash, metadata).filter(|found| found.name == *name);
        let registration = registration.ok_or("its metadata is not what its data hash covers")?;
        check_signature(entry, by_key)?;
        Ok(registration)
    }
}

fn check_signature(entry: &Entry, by_key: &mut KeyCounts) -> Result<(), String> {
    let keyring = secrets::verifying_keyring().map_err(|failure| failure.text())?;
    let Some(keyring) = keyring else { return Ok(()) };
    // Recording signs wherever there is a secret. So an unsigned entry was made without the secret, or by somebody who
    // lacks it.
    let signature = entry.signature.as_deref().ok_or("it is not signed, and the server has a secret")?;
    let key_id = entry.key_id.as_deref().unwrap_or_default();
    let check = SignatureCheck::of(&keyring, key_id, &entry.data_hash, signature);
    by_key.note(check);
    match check {
        SignatureCheck::Valid { .. } => Ok(()),
        SignatureCheck::UnknownKey => Err(format!("it is signed with key \"{key_id}\", which is not known")),
        _ => Err(format!("its signature is not that of key \"{key_id}\"")),
    }
}

/// The entries that a snapshot sees.
pub struct ItemEntries<'a> {
    snapshot: &'a RegisteredSnapshot,
    pending: PendingItems<'a>,
    tree: StoredNodes,
}

impl<'a> ItemEntries<'a> {
    /// With `as_of`, after which the snapshot was taken, uses what an earlier call has read of pending entries, and
    /// keeps it for the next.
    pub fn of_snapshot(snapshot: &'a RegisteredSnapshot, as_of: Option<AsOf>) -> ItemEntries<'a> {
        ItemEntries { snapshot, pending: PendingItems::of_snapshot(snapshot, as_of), tree: StoredNodes::default() }
    }

    pub fn snapshot(&self) -> &RegisteredSnapshot {
        self.snapshot
    }

    /// The entry that was recorded last about the item, if there is one.
    pub fn newest(&self, name: &ItemName) -> Option<ItemEntry> {
        let row_id = name.row_id();
        let pending = self.newest_pending(row_id);
        pending.into_iter().chain(self.newest_sealed(row_id)).max_by_key(ItemEntry::order)
    }

    fn newest_pending(&self, row_id: Uuid) -> Option<ItemEntry> {
        self.pending.find(row_id, |entry_id| {
            let table = Table::open("entries_pending", pg_sys::AccessShareLock);
            look_up::find_entry(&table, entry_id, self.snapshot, ItemEntry::pending).flatten()
        })
    }

    /// The newest sealed entry about the item.
    fn newest_sealed(&self, row_id: Uuid) -> Option<ItemEntry> {
        let (newest, lost) = versions::newest_sealed(row_id, self.snapshot, ItemEntry::sealed, ItemEntry::order);
        lost.map(ItemEntry::gone).or(newest)
    }

    /// What the entry says of the item, if it is what was recorded; otherwise what is wrong with it.
    pub fn proved(&self, entry: &ItemEntry, name: &ItemName) -> Result<Registration, String> {
        let registration = entry.registration(name)?;
        self.check_tree(entry).map(|()| registration)
    }

    /// If the entry is sealed, the log tree must include it as it is now. An attacker who rewrites an entry, or puts an
    /// older one in its place, can make everything in it agree, but not with the tree.
    pub fn check_tree(&self, entry: &ItemEntry) -> Result<(), String> {
        let is_proved = match entry {
            ItemEntry::Stored { in_tree, is_sealed, .. } => !is_sealed || is_included(in_tree, &self.tree),
            ItemEntry::Gone { .. } => false,
        };
        is_proved.then_some(()).ok_or_else(|| "the log tree does not include it".to_owned())
    }
}

/// The current time, or, if the clock is not past the item's previous entry, a time after that.
pub fn time_after(previous: Option<&ItemEntry>) -> Timestamp {
    let now = entry_clock::now();
    let previous = previous.map(|entry| entry.order().0).filter(|previous| *previous >= now);
    previous.and_then(|previous| Timestamp::from_micros(previous.micros() + 1).ok()).unwrap_or(now)
}

/// Records what `user` did with an item at `time`, which is later than its previous entry. Returns the entry's id.
pub fn record(registration: &Registration, time: Timestamp, user: pg_sys::Oid) -> Result<Uuid, Failure> {
    let metadata = MetadataBuilder::default().actor_as(user).json(Member::Item, &registration.data());
    let row_id = registration.name.row_id();
    let metadata = metadata.text(Member::RowId, &row_id.simple().to_string());
    let with_signature = secrets::keyring()?.is_some();
    let entry_id = entries::record_own(OwnEntry {
        entry_type: registration.event.entry_type(),
        data_hash: registration.data_hash(),
        metadata: metadata.finish(),
        with_signature,
        created_at: time,
    })?;
    pending::note(row_id, time, entry_id);
    Ok(entry_id)
}
