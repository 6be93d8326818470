//! The session's cache: results of items that it has verified.
//!
//! A result is stored under all that it depends on: the text, the place, the stored hash, and the newest entry about
//! the item, which is looked up each time. So it is never used after the item was signed anew, moved or revoked, in
//! whichever session. The results of other items that it calls are stored by themselves.

use super::entries::ItemEntry;
use super::input::{GivenItem, Stored};
use crate::items::verifier::Verification;
use crate::ledger::Hash;
use pgrx::prelude::*;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use uuid::Uuid;

/// How many results are kept; the oldest go first.
const CAPACITY: usize = 10_000;

/// What a result depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(Hash);

impl Key {
    pub fn of(given: &GivenItem, entry: Option<&ItemEntry>) -> Key {
        let (kind, stored) = match &given.stored {
            Stored::InContent => ("content", None),
            Stored::Elsewhere(hash) => ("elsewhere", hash.as_deref()),
        };
        let mut hasher = Sha256::new();
        let parts = [
            Some(given.item_type.as_str()),
            Some(&given.id),
            Some(&given.version),
            Some(&given.content),
            given.file_path.as_deref(),
            given.metadata.as_deref(),
            given.language.as_deref(),
            given.registered_at.as_deref(),
            Some(kind),
            stored,
        ];
        for part in parts {
            // The length first, so that no two lists of parts are the same bytes.
            hasher.update(part.map_or(-1, |part| part.len() as i64).to_le_bytes());
            hasher.update(part.unwrap_or_default());
        }
        // Of an entry that was overwritten with an older one about the item, only the place differs from that.
        let (place, leaf) = entry.and_then(ItemEntry::place_and_leaf).unwrap_or_default();
        hasher.update(place.unwrap_or(-1).to_le_bytes());
        hasher.update(leaf);
        Key(hasher.finalize().into())
    }
}

#[derive(Default)]
struct Cache {
    results: HashMap<Key, (Uuid, Verification)>,
    /// The keys in the order in which they came, also those of results that were dropped since.
    order: VecDeque<Key>,
    /// Bad results, by the item.
    bad: HashMap<Uuid, Vec<Key>>,
    hits: i64,
    misses: i64,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

pub fn find(key: &Key) -> Option<Verification> {
    CACHE.with_borrow_mut(|cache| {
        let found = cache.results.get(key).map(|(_, verification)| verification.clone());
        match found {
            Some(_) => cache.hits += 1,
            None => cache.misses += 1,
        }
        found
    })
}

/// Stores a result for the item. A good one drops its bad ones: it has been repaired.
pub fn remember(key: Key, item: Uuid, verification: &Verification) {
    CACHE.with_borrow_mut(|cache| {
        if verification.success() {
            for key in cache.bad.remove(&item).unwrap_or_default() {
                cache.results.remove(&key);
            }
        } else {
            cache.bad.entry(item).or_default().push(key);
        }
        cache.results.insert(key, (item, verification.clone()));
        cache.order.push_back(key);
        while cache.order.len() > CAPACITY {
            cache.drop_oldest();
        }
    });
}

impl Cache {
    fn drop_oldest(&mut self) {
        let Some(key) = self.order.pop_front() else { return };
        let Some((item, _)) = self.results.remove(&key) else { return };
        if let Some(bad) = self.bad.get_mut(&item) {
            bad.retain(|other| *other != key);
            if bad.is_empty() {
                self.bad.remove(&item);
            }
        }
    }
}

#[pg_extern(volatile, parallel_unsafe)]
fn verifier_cache_state() -> TableIterator<
    'static,
    (
        name!(entries, i64),
        name!(valid, i64),
        name!(invalid, i64),
        name!(capacity, i64),
        name!(hits, i64),
        name!(misses, i64),
    ),
> {
    CACHE.with_borrow(|cache| {
        let entries = cache.results.len() as i64;
        let valid = cache.results.values().filter(|(_, verification)| verification.success()).count() as i64;
        TableIterator::once((entries, valid, entries - valid, CAPACITY as i64, cache.hits, cache.misses))
    })
}

/// Forgets everything; returns how many results that were.
#[pg_extern(volatile, parallel_unsafe)]
fn invalidate_verifier_cache() -> i64 {
    CACHE.with_borrow_mut(|cache| std::mem::take(cache).results.len() as i64)
}
