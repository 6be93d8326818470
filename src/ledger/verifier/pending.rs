//! Entries that no block holds yet.

use super::signatures::SignatureCheck;
use crate::ledger::Hash;
use hashbrown::HashTable;
use std::collections::VecDeque;
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
/// A transaction can have millions of them, and whatever looks for one of millions by its id waits for memory. But the
/// ids that a server makes grow with time, a transaction's lines stand in that order, and so do its entries in blocks.
/// So ids that go on growing are kept in a list, where the next one to be removed is most often the one after the last.
#[derive(Debug, Default)]
pub struct PendingEntries {
    growing: GrowingIds,
    others: OtherIds,
}

impl PendingEntries {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.growing.count + self.others.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry of this id, if it is pending.
    pub fn get(&self, entry_id: &Uuid) -> Option<&PendingEntry> {
        self.growing.get(entry_id).or_else(|| self.others.get(entry_id))
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Uuid, &PendingEntry)> {
        let growing = self.growing.entries.iter().filter_map(|(entry_id, entry)| Some((*entry_id, entry.as_ref()?)));
        growing.chain(self.others.entries.iter().flatten().map(|(entry_id, entry)| (*entry_id, entry)))
    }

    /// Adds an entry, unless it is there already; gives that one then.
    pub(super) fn insert(&mut self, entry_id: Uuid, entry: PendingEntry) -> Option<&PendingEntry> {
        if self.growing.goes_on_with(&entry_id) && self.others.get(&entry_id).is_none() {
            self.growing.push(entry_id, entry);
            return None;
        }
        match self.growing.get(&entry_id) {
            Some(first) => Some(first),
            None => self.others.insert(entry_id, entry),
        }
    }

    pub(super) fn remove(&mut self, entry_id: &Uuid) -> Option<PendingEntry> {
        self.growing.remove(entry_id).or_else(|| self.others.remove(entry_id))
    }
}

/// A list is closed up when it has more holes than this and its entries together.
const MAX_HOLES: usize = 1024;

/// Entries in the order of their ids.
#[derive(Debug, Default)]
struct GrowingIds {
    /// `None` is one that is gone. The first is not.
    entries: VecDeque<(Uuid, Option<PendingEntry>)>,
    /// How many are not gone.
    count: usize,
    /// The place after that of the last one removed.
    next: usize,
}

impl GrowingIds {
    fn goes_on_with(&self, entry_id: &Uuid) -> bool {
        self.entries.back().is_none_or(|(last, _)| last < entry_id)
    }

    fn push(&mut self, entry_id: Uuid, entry: PendingEntry) {
        self.entries.push_back((entry_id, Some(entry)));
        self.count += 1;
    }

    fn place(&self, entry_id: &Uuid) -> Option<usize> {
        if self.entries.get(self.next).is_some_and(|(next, _)| next == entry_id) {
            return Some(self.next);
        }
        self.entries.binary_search_by(|(id, _)| id.cmp(entry_id)).ok()
    }

    fn get(&self, entry_id: &Uuid) -> Option<&PendingEntry> {
        self.entries.get(self.place(entry_id)?)?.1.as_ref()
    }

    fn remove(&mut self, entry_id: &Uuid) -> Option<PendingEntry> {
        let place = self.place(entry_id)?;
        let removed = self.entries.get_mut(place)?.1.take()?;
        self.count -= 1;
        self.next = place + 1;
        self.close_up();
        Some(removed)
    }

    fn close_up(&mut self) {
        if self.count == 0 {
            self.entries.clear();
            self.next = 0;
        }
        while self.entries.front().is_some_and(|(_, entry)| entry.is_none()) {
            self.entries.pop_front();
            self.next = self.next.saturating_sub(1);
        }
        if self.entries.len() - self.count > self.count + MAX_HOLES {
            self.entries.retain(|(_, entry)| entry.is_some());
            self.next = 0;
        }
    }
}

/// Entries in no order. The table that is searched holds only where each is: it is as small as can be, and grows at
/// little cost.
#[derive(Debug, Default)]
struct OtherIds {
    places: HashTable<u32>,
    /// Keyed at random, so that an attacker cannot choose ids that collide.
    hashing: RandomState,
    entries: Vec<Option<(Uuid, PendingEntry)>>,
    /// Places that can be used again; the last is used first.
    free: Vec<u32>,
}

impl OtherIds {
    fn get(&self, entry_id: &Uuid) -> Option<&PendingEntry> {
        if self.places.is_empty() {
            return None;
        }
        let place = self.places.find(self.hash(entry_id), |place| self.is_at(*place, entry_id))?;
        self.at(*place).map(|(_, entry)| entry)
    }

    fn insert(&mut self, entry_id: Uuid, entry: PendingEntry) -> Option<&PendingEntry> {
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

    fn remove(&mut self, entry_id: &Uuid) -> Option<PendingEntry> {
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

    /// The entries, and beside them what must be in them.
    #[derive(Default)]
    struct Both {
        pending: PendingEntries,
        expected: HashMap<Uuid, PendingEntry>,
    }

    impl Both {
        fn insert(&mut self, id: u64, number: u64) {
            let id = Uuid::from_u128(id.into());
            assert_eq!(self.pending.insert(id, entry(number)), self.expected.get(&id));
            self.expected.entry(id).or_insert_with(|| entry(number));
            self.check(id);
        }

        fn remove(&mut self, id: u64) {
            let id = Uuid::from_u128(id.into());
            assert_eq!(self.pending.remove(&id), self.expected.remove(&id));
            self.check(id);
        }

        fn check(&self, id: Uuid) {
            let Both { pending, expected } = self;
            assert_eq!(pending.get(&id), expected.get(&id));
            assert_eq!((pending.len(), pending.is_empty()), (expected.len(), expected.is_empty()));
            assert!(pending.growing.entries.len() <= 2 * expected.len() + MAX_HOLES);
        }

        fn check_all(&self) {
            let all: HashMap<Uuid, PendingEntry> = self.pending.iter().map(|(id, entry)| (id, entry.clone())).collect();
            assert_eq!(all, self.expected);
        }
    }

    #[test]
    fn entries_are_found_until_they_are_removed_and_their_places_are_used_again() {
        let (mut both, mut numbers) = (Both::default(), Numbers(3));
        for number in 0..20_000_u64 {
            let id = numbers.below(300) as u64;
            match numbers.below(2) {
                0 => both.remove(id),
                _ => both.insert(id, number),
            }
        }
        both.check_all();
        assert!(both.pending.others.entries.len() <= 300);
    }

    #[test]
    fn entries_of_growing_ids_are_found_in_whatever_order_they_are_removed() {
        let mut numbers = Numbers(4);
        for jitter in [1, 2, 50] {
            let mut both = Both::default();
            for number in 0..20_000_u64 {
                both.insert(number + numbers.below(jitter) as u64, number);
                // Most go in the order in which they came, some early, some late, some never, and some that are gone
                // already.
                for _ in 0..numbers.below(3) {
                    both.remove(number.saturating_sub(500) + numbers.below(jitter) as u64);
                }
                match numbers.below(100) {
                    0 => both.remove(numbers.below(number as usize + 1) as u64),
                    1 => both.insert(numbers.below(number as usize + 1) as u64, number),
                    _ => {}
                }
            }
            both.check_all();
            let mut left: Vec<u64> = both.expected.keys().map(|id| id.as_u128() as u64).collect();
            left.sort_unstable();
            left.into_iter().rev().for_each(|id| both.remove(id));
            assert!(both.pending.is_empty());
        }
    }

    #[test]
    fn one_that_stays_does_not_keep_the_memory_of_those_that_go() {
        let mut both = Both::default();
        both.insert(0, 0);
        for number in 1..20_000 {
            both.insert(number, number);
            both.remove(number);
        }
        both.check_all();
    }
}
