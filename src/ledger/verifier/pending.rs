//! Entries that no block holds yet.

use super::signatures::SignatureCheck;
use crate::ledger::Hash;
use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};
use uuid::Uuid;

/// An entry line that no block holds yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingEntry {
    pub leaf_hash: Hash,
    pub data_hash: Hash,
    /// 1-based.
    pub line_number: u64,
    /// Where the line starts in the file, in bytes; as if lines too long to be read were empty.
    pub offset: u64,
    pub signature: SignatureCheck,
}

/// Entry lines that no block holds yet, by entry id.
///
/// A transaction can have millions of them. So the table that is searched holds only where each is: it is as small as can
/// be, grows at little cost, and entries of one block lie beside each other.
#[derive(Debug, Default)]
pub struct PendingEntries {
    places: HashTable<u32>,
    /// Keyed by chance: ids are not to be chosen so that they collide.
    hashing: RandomState,
    entries: Vec<Option<(Uuid, PendingEntry)>>,
    /// Places that can be used again; the last is used first.
    free: Vec<u32>,
}

impl PendingEntries {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The entry of this id, if it is pending.
    pub fn get(&self, entry_id: &Uuid) -> Option<&PendingEntry> {
        let place = self.places.find(self.hash(entry_id), |place| self.is_at(*place, entry_id))?;
        self.at(*place).map(|(_, entry)| entry)
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Uuid, &PendingEntry)> {
        self.entries.iter().flatten().map(|(entry_id, entry)| (*entry_id, entry))
    }

    /// Adds an entry, unless it is there already; gives that one then.
    pub(super) fn insert(&mut self, entry_id: Uuid, entry: PendingEntry) -> Option<&PendingEntry> {
        let hash = self.hash(&entry_id);
        if let Some(place) = self.places.find(hash, |place| self.is_at(*place, &entry_id)) {
            return self.at(*place).map(|(_, entry)| entry);
        }
        let place = self.place(entry_id, entry);
        let (entries, hashing) = (&self.entries, &self.hashing);
        let rehash =
            |place: &u32| entries[*place as usize].as_ref().map_or(0, |(id, _)| hashing.hash_one(id.as_u128()));
        self.places.insert_unique(hash, place, rehash);
        None
    }

    pub(super) fn remove(&mut self, entry_id: &Uuid) -> Option<PendingEntry> {
        let hash = self.hash(entry_id);
        let entries = &self.entries;
        let is_here = |place: &u32| matches!(&entries[*place as usize], Some((id, _)) if id == entry_id);
        let (place, _) = self.places.find_entry(hash, is_here).ok()?.remove();
        let entry = self.entries[place as usize].take();
        if self.places.is_empty() {
            self.entries.clear();
            self.free.clear();
        } else {
            self.free.push(place);
        }
        entry.map(|(_, entry)| entry)
    }

    fn hash(&self, entry_id: &Uuid) -> u64 {
        self.hashing.hash_one(entry_id.as_u128())
    }

    fn at(&self, place: u32) -> Option<&(Uuid, PendingEntry)> {
        self.entries.get(place as usize)?.as_ref()
    }

    fn is_at(&self, place: u32, entry_id: &Uuid) -> bool {
        self.at(place).is_some_and(|(id, _)| id == entry_id)
    }

    /// Puts an entry into a place that is not used.
    fn place(&mut self, entry_id: Uuid, entry: PendingEntry) -> u32 {
        let entry = Some((entry_id, entry));
        if let Some(place) = self.free.pop() {
            self.entries[place as usize] = entry;
            return place;
        }
        self.entries.push(entry);
        u32::try_from(self.entries.len() - 1).expect("so many entries take 400 GB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::test_support::Numbers;
    use std::collections::HashMap;

    fn entry(number: u64) -> PendingEntry {
        let (leaf_hash, data_hash) = (crate::ledger::sha256(&number.to_be_bytes()), Hash::default());
        PendingEntry { leaf_hash, data_hash, line_number: number, offset: 0, signature: SignatureCheck::Unsigned }
    }

    #[test]
    fn entries_are_found_until_they_are_removed_and_their_places_are_used_again() {
        let (mut pending, mut expected, mut numbers) = (PendingEntries::default(), HashMap::new(), Numbers(3));
        for number in 0..20_000_u64 {
            let id = Uuid::from_u128(numbers.below(300) as u128);
            if numbers.below(2) == 0 {
                assert_eq!(pending.remove(&id), expected.remove(&id));
            } else {
                assert_eq!(pending.insert(id, entry(number)), expected.get(&id));
                expected.entry(id).or_insert_with(|| entry(number));
            }
            assert_eq!(pending.get(&id), expected.get(&id));
            assert_eq!((pending.len(), pending.is_empty()), (expected.len(), expected.is_empty()));
        }
        let all: HashMap<Uuid, PendingEntry> = pending.iter().map(|(id, entry)| (id, entry.clone())).collect();
        assert_eq!(all, expected);
        assert!(pending.entries.len() <= 300);
    }
}
