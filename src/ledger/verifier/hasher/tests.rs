//! What is made of entries, by a thread and by the caller.

use super::*;
use crate::ledger::jsonb::{encode, VARLENA_HEADER};
use crate::ledger::log_tree::leaf_hash;
use crate::ledger::record::Entry;
use crate::ledger::verifier::tests::{entry, keyring};
use crate::ledger::verifier::{check_signature, DataHash, SealedEntry, SignatureCheck};

/// What the tables hold for these entries: every third with its metadata as text.
fn stored(entries: &[Entry]) -> Vec<(Entry, Option<Vec<u8>>)> {
    let jsonb = |(place, entry): (usize, &Entry)| {
        let bytes = (place % 3 > 0).then(|| encode(&entry.metadata)).flatten();
        (entry.clone(), bytes.map(|bytes| bytes[VARLENA_HEADER..].to_vec()))
    };
    entries.iter().enumerate().map(jsonb).collect()
}

fn as_stored<'a>(entry: &'a Entry, jsonb: Option<&'a [u8]>, leaf_index: i64) -> StoredEntry<'a> {
    StoredEntry {
        entry_id: entry.entry_id,
        entry_type: &entry.entry_type,
        data_hash: &entry.data_hash,
        metadata: jsonb.map_or(StoredMetadata::Text(&entry.metadata), StoredMetadata::Jsonb),
        signature: entry.signature.as_deref(),
        key_id: entry.key_id.as_deref(),
        created_at: entry.created_at,
        leaf_index,
        block_number: 1,
    }
}

fn sealed(entry: &Entry, leaf_index: i64, ring: Option<&Keyring>) -> SealedEntry {
    SealedEntry {
        entry_id: entry.entry_id,
        leaf_index,
        block_number: 1,
        data_hash: DataHash::of(&entry.data_hash),
        leaf_hash: leaf_hash(&entry.line()),
        line_number: None,
        signature: check_signature(ring, &entry.as_line()),
    }
}

fn hashed(entries: &[(Entry, Option<Vec<u8>>)], mut hasher: EntryHasher, receive_every: usize) -> Vec<HashedEntry> {
    let mut hashed = VecDeque::new();
    for (index, (entry, jsonb)) in entries.iter().enumerate() {
        hasher.push(&as_stored(entry, jsonb.as_deref(), index as i64));
        if index % receive_every == 0 {
            hasher.receive(&mut hashed);
        }
    }
    while hasher.receive(&mut hashed) {}
    hashed.into()
}

fn no_render(_: &[u8]) -> String {
    panic!("everything here can be rendered")
}

fn entries(count: u64) -> Vec<Entry> {
    let mut entries: Vec<Entry> = (0..count).map(|number| entry(number, &keyring())).collect();
    let long = format!(r#"{{"text": "{}"}}"#, "long ".repeat(1 << 18));
    entries[1000].metadata = long.clone();
    entries[1001].metadata = long;
    entries[2000].signature = Some("0".repeat(64));
    entries[2001].signature = Some("not hex".to_owned());
    entries[2002].key_id = Some("other".to_owned());
    entries[2003].signature = None;
    entries[2003].key_id = Some("default".to_owned());
    entries[2004].data_hash = String::new();
    entries[2005].data_hash = entries[2005].data_hash.to_uppercase();
    entries[2006].entry_type = "\"é\"".to_owned();
    entries
}

const ONE: Helpers = Helpers { count: 1, start: |start| start() };

#[test]
fn a_thread_makes_of_entries_what_the_caller_would_and_in_their_order() {
    let entries = entries(5000);
    let stored = stored(&entries);
    for ring in [None, Some(keyring())] {
        let all = (0..).zip(&entries).map(|(leaf_index, entry)| sealed(entry, leaf_index, ring.as_ref()));
        let expected: Vec<SealedEntry> = all.collect();
        for helpers in [Helpers::none(), ONE, Helpers { start: |_| (), ..ONE }] {
            for receive_every in [100, 700, usize::MAX] {
                for few in [5000, 3] {
                    let hasher = EntryHasher::new(ring.clone(), helpers, no_render);
                    let made = hashed(&stored[..few], hasher, receive_every);
                    // No keyring is needed any more.
                    let checked = made.into_iter().map(|entry| entry.checked(None, None));
                    assert!(checked.eq(expected[..few].iter().cloned()));
                }
            }
        }
    }
}

#[test]
fn a_signature_left_for_later_is_taken_only_from_an_entry_with_the_same_line() {
    let entries = entries(5000);
    let ring = keyring();
    let hasher = EntryHasher::new(Some(ring.clone()), ONE, no_render).without_signatures();
    let made = hashed(&stored(&entries), hasher, 100);
    for (index, hashed) in made.into_iter().enumerate() {
        let expected = sealed(&entries[index], index as i64, Some(&ring));
        let mut other = expected.clone();
        // Not its own, to see where it comes from.
        other.signature = SignatureCheck::NotChecked;
        let is_same = index % 3 > 0;
        if !is_same {
            other.leaf_hash[31] ^= 1;
        }
        let other = (index % 5 > 0).then_some(&other);
        let checked = hashed.checked(other, Some(&ring));
        match other.filter(|_| is_same) {
            Some(other) => assert_eq!(checked, *other),
            None => assert_eq!(checked, expected),
        }
    }
}

#[test]
fn what_only_the_caller_can_render_is_rendered_there_in_its_place() {
    let nested = |depth: usize| format!(r#"{{"a": {}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let mut entries: Vec<Entry> = (0..2000).map(|number| entry(number, &keyring())).collect();
    let mut stored = stored(&entries);
    for place in [0, 1, 700, 1500, 1999] {
        // Bytes of no jsonb, as other values lie too deep for any that is made here.
        entries[place].metadata = nested(place);
        stored[place].1 = Some((place as u32).to_le_bytes()[..2].to_vec());
    }
    let render: Render = |bytes| {
        assert!(std::thread::current().name().is_none_or(|name| name != "pg_notary hasher"));
        let place = usize::from(u16::from_le_bytes(bytes.try_into().unwrap()));
        format!(r#"{{"a": {}{}}}"#, "[".repeat(place), "]".repeat(place))
    };
    for helpers in [Helpers::none(), ONE] {
        let made = hashed(&stored, EntryHasher::new(Some(keyring()), helpers, render), 100);
        let checked = made.into_iter().map(|entry| entry.checked(None, None));
        let expected = (0..).zip(&entries).map(|(leaf_index, entry)| sealed(entry, leaf_index, Some(&keyring())));
        assert!(checked.eq(expected));
    }
}

#[test]
fn whoever_leaves_while_there_is_work_ends_the_thread() {
    let stored = stored(&entries(5000));
    let push_all = |render: Render| {
        let mut hasher = EntryHasher::new(Some(keyring()), ONE, render);
        for (index, (entry, jsonb)) in (0..).zip(&stored) {
            let jsonb = jsonb.as_deref().map(|bytes| if index == 3001 { &bytes[..1] } else { bytes });
            hasher.push(&as_stored(entry, jsonb, index));
        }
        assert!(hasher.thread.as_ref().is_some_and(|thread| thread.under_way > 0));
        while hasher.receive(&mut VecDeque::new()) {}
    };
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| push_all(no_render))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"everything here can be rendered"));
    let mut hasher = EntryHasher::new(None, ONE, no_render);
    (0..)
        .zip(&stored[1200..])
        .for_each(|(index, (entry, jsonb))| hasher.push(&as_stored(entry, jsonb.as_deref(), index)));
    drop(hasher);
}
