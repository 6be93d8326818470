//! Rendering and hashing the lines of entries that come from elsewhere than a file, beside the thread that reads them.

use super::parallel::Helpers;
use super::sealed::{DataHash, SealedEntry};
use super::signatures::{SignatureCheck, SignatureClaim};
use crate::ledger::jsonb;
use crate::ledger::log_tree::leaf_hash;
use crate::ledger::record::{EntryLine, Timestamp};
use crate::ledger::signature::Keyring;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::mpsc::{channel, sync_channel, Receiver, SyncSender};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use uuid::Uuid;

/// A batch is worked on when it has so many entries, or so many bytes.
const BATCH_ENTRIES: usize = 256;
const BATCH_BYTES: usize = 1 << 18;

/// Batches that wait to be worked on.
const QUEUED: usize = 32;

/// An entry as a table has it.
#[derive(Debug, Clone, Copy)]
pub struct StoredEntry<'a> {
    pub entry_id: Uuid,
    pub entry_type: &'a str,
    pub data_hash: &'a str,
    pub metadata: Metadata<'a>,
    pub signature: Option<&'a str>,
    pub key_id: Option<&'a str>,
    pub created_at: Timestamp,
    pub leaf_index: i64,
    pub block_number: i64,
}

#[derive(Debug, Clone, Copy)]
pub enum Metadata<'a> {
    /// As it stands in the line.
    Text(&'a str),
    /// The bytes of a jsonb in UTF-8, without its varlena header.
    Jsonb(&'a [u8]),
}

/// An entry whose line is hashed, and whose signature may still have to be checked.
#[derive(Debug)]
pub struct HashedEntry {
    entry: SealedEntry,
    claim: SignatureClaim,
}

impl HashedEntry {
    pub fn leaf_index(&self) -> i64 {
        self.entry.leaf_index
    }

    pub fn block_number(&self) -> i64 {
        self.entry.block_number
    }

    /// Checks the signature. `other` may be the same entry in another place, where it was checked with the same keys:
    /// entries with the same line have the same signature of the same data_hash.
    pub fn checked(mut self, other: Option<&SealedEntry>, keyring: Option<&Keyring>) -> SealedEntry {
        self.entry.signature = match other.filter(|other| other.leaf_hash == self.entry.leaf_hash) {
            Some(same) => same.signature,
            None => self.claim.check(keyring, &self.entry.data_hash.text()),
        };
        self.entry
    }
}

/// Renders a jsonb that [`jsonb::write_canonical`] does not.
pub type Render = fn(&[u8]) -> String;

/// Makes [`HashedEntry`]s of entries, in order.
pub struct EntryHasher {
    work: Work,
    helpers: Helpers,
    render: Render,
    batch: Batch,
    /// Started for the first full batch.
    thread: Option<HashingThread>,
    finished: VecDeque<HashedEntry>,
    unused: Vec<Batch>,
}

/// What is done with each entry.
#[derive(Clone)]
struct Work {
    keyring: Option<Arc<Keyring>>,
    /// Whether signatures are checked at once.
    checks_signatures: bool,
}

/// Some entries, and what was made of the first of them.
#[derive(Default)]
struct Batch {
    texts: String,
    jsonb: Vec<u8>,
    items: Vec<Item>,
    made: Vec<HashedEntry>,
    next: Position,
}

/// Where the bytes of an entry begin.
#[derive(Default, Clone, Copy)]
struct Position {
    text: usize,
    jsonb: usize,
}

/// An entry; of what lies in the batch's buffers, the length.
struct Item {
    entry_id: Uuid,
    entry_type: usize,
    data_hash: usize,
    metadata: Length,
    signature: Option<usize>,
    key_id: Option<usize>,
    created_at: Timestamp,
    leaf_index: i64,
    block_number: i64,
}

enum Length {
    Text(usize),
    Jsonb(usize),
}

impl Batch {
    fn push(&mut self, entry: &StoredEntry<'_>) {
        let item = Item {
            entry_id: entry.entry_id,
            entry_type: self.push_text(entry.entry_type),
            data_hash: self.push_text(entry.data_hash),
            metadata: match entry.metadata {
                Metadata::Text(text) => Length::Text(self.push_text(text)),
                Metadata::Jsonb(bytes) => {
                    self.jsonb.extend_from_slice(bytes);
                    Length::Jsonb(bytes.len())
                }
            },
            signature: entry.signature.map(|text| self.push_text(text)),
            key_id: entry.key_id.map(|text| self.push_text(text)),
            created_at: entry.created_at,
            leaf_index: entry.leaf_index,
            block_number: entry.block_number,
        };
        self.items.push(item);
    }

    fn push_text(&mut self, text: &str) -> usize {
        self.texts.push_str(text);
        text.len()
    }

    /// Works on what is not done yet, up to an entry that only `render` can render where that is not given.
    fn work(&mut self, work: &Work, render: Option<Render>) {
        let mut line = Vec::new();
        while let Some(item) = self.items.get(self.made.len()) {
            let mut next = self.next;
            let entry = item.read(&self.texts, &self.jsonb, &mut next);
            line.clear();
            if !write_line(&entry, render, &mut line) {
                return;
            }
            self.next = next;
            self.made.push(work.hashed(&entry, &line));
        }
    }

    fn is_done(&self) -> bool {
        self.made.len() == self.items.len()
    }

    fn bytes(&self) -> usize {
        self.texts.len() + self.jsonb.len()
    }

    fn is_full(&self) -> bool {
        self.items.len() >= BATCH_ENTRIES || self.bytes() >= BATCH_BYTES
    }

    /// A long line takes much memory: no other is made while there is one.
    fn is_large(&self) -> bool {
        self.bytes() > 4 * BATCH_BYTES
    }

    fn clear(&mut self) {
        self.texts.clear();
        self.jsonb.clear();
        self.items.clear();
        self.made.clear();
        self.next = Position::default();
    }
}

impl Item {
    /// The entry at this position, which is moved behind it.
    fn read<'b>(&self, texts: &'b str, jsonb: &'b [u8], position: &mut Position) -> StoredEntry<'b> {
        let Position { text, jsonb: start } = position;
        let mut take = |length: usize| {
            *text += length;
            &texts[*text - length..*text]
        };
        StoredEntry {
            entry_id: self.entry_id,
            entry_type: take(self.entry_type),
            data_hash: take(self.data_hash),
            metadata: match self.metadata {
                Length::Text(length) => Metadata::Text(take(length)),
                Length::Jsonb(length) => {
                    *start += length;
                    Metadata::Jsonb(&jsonb[*start - length..*start])
                }
            },
            signature: self.signature.map(&mut take),
            key_id: self.key_id.map(&mut take),
            created_at: self.created_at,
            leaf_index: self.leaf_index,
            block_number: self.block_number,
        }
    }
}

impl<'a> StoredEntry<'a> {
    fn line(&self, metadata: &'a str) -> EntryLine<'a> {
        EntryLine {
            entry_id: self.entry_id,
            entry_type: Cow::Borrowed(self.entry_type),
            data_hash: self.data_hash,
            metadata,
            signature: self.signature.map(Cow::Borrowed),
            key_id: self.key_id.map(Cow::Borrowed),
            created_at: self.created_at,
        }
    }
}

/// Appends the entry's line; false, with something or other appended, if that needs `render` and it is not given.
fn write_line(entry: &StoredEntry<'_>, render: Option<Render>, line: &mut Vec<u8>) -> bool {
    let bytes = match entry.metadata {
        Metadata::Text(text) => {
            entry.line(text).write_line(line);
            return true;
        }
        Metadata::Jsonb(bytes) => bytes,
    };
    if entry.line("").write_line_with(line, |out| jsonb::write_canonical(out, bytes)).is_some() {
        return true;
    }
    let Some(render) = render else { return false };
    line.clear();
    entry.line(&render(bytes)).write_line(line);
    true
}

impl Work {
    fn hashed(&self, entry: &StoredEntry<'_>, line: &[u8]) -> HashedEntry {
        let keyring = self.keyring.as_deref();
        let mut claim = SignatureClaim::of(keyring, &entry.line(""));
        if self.checks_signatures {
            claim = SignatureClaim::Settled(claim.check(keyring, entry.data_hash));
        }
        let entry = SealedEntry {
            entry_id: entry.entry_id,
            leaf_index: entry.leaf_index,
            block_number: entry.block_number,
            data_hash: DataHash::of(entry.data_hash),
            leaf_hash: leaf_hash(line),
            line_number: None,
            signature: SignatureCheck::NotChecked,
        };
        HashedEntry { entry, claim }
    }
}

impl EntryHasher {
    /// Without a keyring, signatures are not checked. `render` is called by the caller's thread only.
    pub fn new(keyring: Option<Keyring>, helpers: Helpers, render: Render) -> Self {
        EntryHasher {
            work: Work { keyring: keyring.map(Arc::new), checks_signatures: true },
            helpers,
            render,
            batch: Batch::default(),
            thread: None,
            finished: VecDeque::new(),
            unused: Vec::new(),
        }
    }

    /// Leaves signatures to [`HashedEntry::checked`], where most will be known from elsewhere.
    pub fn without_signatures(mut self) -> Self {
        self.work.checks_signatures = false;
        self
    }

    /// Takes an entry as it is recorded.
    pub fn push(&mut self, entry: &StoredEntry<'_>) {
        self.batch.push(entry);
        if self.batch.is_full() {
            self.send();
        }
    }

    /// Appends the next finished entries; false if there are none, and none to wait for.
    pub fn receive(&mut self, into: &mut VecDeque<HashedEntry>) -> bool {
        if self.finished.is_empty() {
            match self.thread.as_mut().and_then(HashingThread::receive) {
                Some(batch) => self.take(batch),
                // Too few to start a thread for, or to wait for.
                None => self.work_here(),
            }
        }
        let has_any = !self.finished.is_empty();
        into.append(&mut self.finished);
        has_any
    }

    fn send(&mut self) {
        if self.thread.is_none() && self.helpers.count > 0 {
            self.thread = HashingThread::start(self.work.clone(), self.helpers);
        }
        // So that few batches are there, however long nobody asks for entries.
        while let Some(batch) = self.thread.as_mut().and_then(HashingThread::receive_finished) {
            self.take(batch);
        }
        match &mut self.thread {
            Some(thread) if !self.batch.is_large() => {
                thread.send(std::mem::replace(&mut self.batch, self.unused.pop().unwrap_or_default()));
            }
            _ => self.work_here(),
        }
    }

    fn work_here(&mut self) {
        while let Some(batch) = self.thread.as_mut().and_then(HashingThread::receive) {
            self.take(batch);
        }
        let batch = std::mem::replace(&mut self.batch, self.unused.pop().unwrap_or_default());
        self.take(batch);
    }

    /// Finishes a batch, most often one that is finished.
    fn take(&mut self, mut batch: Batch) {
        if !batch.is_done() {
            batch.work(&self.work, Some(self.render));
        }
        self.finished.extend(batch.made.drain(..));
        if !batch.is_large() {
            batch.clear();
            self.unused.push(batch);
        }
    }
}

/// A thread that works on batches until nobody sends any more.
struct HashingThread {
    batches: Option<SyncSender<Batch>>,
    results: Receiver<Batch>,
    under_way: usize,
    handle: Option<JoinHandle<()>>,
}

impl HashingThread {
    /// `None` if it could not be started.
    fn start(work: Work, helpers: Helpers) -> Option<Self> {
        let (batches, queue) = sync_channel::<Batch>(QUEUED);
        let (finished, results) = channel();
        let mut run = Some(move || {
            for mut batch in queue {
                batch.work(&work, None);
                if finished.send(batch).is_err() {
                    return;
                }
            }
        });
        let mut handle = None;
        let builder = || Builder::new().name("pg_notary hasher".to_owned());
        (helpers.start)(&mut || handle = run.take().and_then(|run| builder().spawn(run).ok()));
        handle.map(|handle| HashingThread { batches: Some(batches), results, under_way: 0, handle: Some(handle) })
    }

    fn send(&mut self, batch: Batch) {
        let sent = self.batches.as_ref().is_some_and(|batches| batches.send(batch).is_ok());
        assert!(sent, "the thread that hashes entries has ended");
        self.under_way += 1;
    }

    /// The next result, if it is there.
    fn receive_finished(&mut self) -> Option<Batch> {
        let batch = self.results.try_recv().ok()?;
        self.under_way -= 1;
        Some(batch)
    }

    /// Waits for the next result; `None` if there is none to come.
    fn receive(&mut self) -> Option<Batch> {
        self.under_way = self.under_way.checked_sub(1)?;
        Some(self.results.recv().expect("the thread that hashes entries has ended"))
    }
}

impl Drop for HashingThread {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(handle) = self.handle.take() {
            // What it may have panicked with was found where its results were missed.
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::jsonb::{encode, VARLENA_HEADER};
    use crate::ledger::record::Entry;
    use crate::ledger::verifier::check_signature;
    use crate::ledger::verifier::tests::{entry, keyring};

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
            metadata: jsonb.map_or(Metadata::Text(&entry.metadata), Metadata::Jsonb),
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
}
