//! Entries that no block holds yet.

use super::signatures::SignatureCheck;
use crate::ledger::Hash;
use std::collections::hash_map::{Entry, HashMap};
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
/// A transaction can have millions of them. So the table that is searched holds only where each is: it is small, grows at
/// little cost, and entries of one block lie beside each other.
#[derive(Debug, Default)]
pub struct PendingEntries {
    places: HashMap<Uuid, usize>,
    entries: Vec<Option<PendingEntry>>,
    /// Places that can be used again; the last is used first.
    free: Vec<usize>,
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
        self.entries.get(*self.places.get(entry_id)?)?.as_ref()
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Uuid, &PendingEntry)> {
        self.places.iter().filter_map(|(entry_id, place)| Some((*entry_id, self.entries.get(*place)?.as_ref()?)))
    }

    /// Adds an entry, unless it is there already; gives that one then.
    pub(super) fn insert(&mut self, entry_id: Uuid, entry: PendingEntry) -> Option<&PendingEntry> {
        let vacant = match self.places.entry(entry_id) {
            Entry::Occupied(place) => return self.entries.get(*place.get())?.as_ref(),
            Entry::Vacant(vacant) => vacant,
        };
        let place = self.free.pop().unwrap_or(self.entries.len());
        vacant.insert(place);
        match self.entries.get_mut(place) {
            Some(unused) => *unused = Some(entry),
            None => self.entries.push(Some(entry)),
        }
        None
    }

    pub(super) fn remove(&mut self, entry_id: &Uuid) -> Option<PendingEntry> {
        let place = self.places.remove(entry_id)?;
        let entry = self.entries.get_mut(place)?.take();
        if self.places.is_empty() {
            self.entries.clear();
            self.free.clear();
        } else {
            self.free.push(place);
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::test_support::Numbers;

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
