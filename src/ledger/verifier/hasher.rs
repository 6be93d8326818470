//! Hashing the lines of entries that come from elsewhere than a file, beside the thread that reads them.

use super::chain::{SealedEntry, SignatureCheck, SignatureClaim};
use super::parallel::Helpers;
use crate::ledger::log_tree::leaf_hash;
use crate::ledger::record::EntryLine;
use crate::ledger::signature::Keyring;
use crate::ledger::Hash;
use std::collections::VecDeque;
use std::sync::mpsc::{channel, sync_channel, Receiver, SyncSender};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

/// A batch is worked on when it has so many entries, or so many bytes of lines.
const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES: usize = 1 << 19;

/// Batches that wait to be worked on.
const QUEUED: usize = 2;

/// Makes [`SealedEntry`]s of entries, in order: renders and hashes their lines, and checks their signatures.
pub struct EntryHasher {
    keyring: Option<Arc<Keyring>>,
    helpers: Helpers,
    batch: Batch,
    /// Started for the first full batch.
    thread: Option<HashingThread>,
    finished: VecDeque<SealedEntry>,
    unused: Vec<Batch>,
}

/// Some entries, whose hashes and signatures are still to be looked at or have been.
#[derive(Default)]
struct Batch {
    lines: Vec<u8>,
    items: Vec<Item>,
}

struct Item {
    /// Where the line ends.
    end: usize,
    claim: SignatureClaim,
    entry: SealedEntry,
}

impl Batch {
    fn work(&mut self, keyring: Option<&Keyring>) {
        let mut start = 0;
        for Item { end, claim, entry } in &mut self.items {
            entry.leaf_hash = leaf_hash(&self.lines[start..*end]);
            entry.signature = claim.check(keyring, &entry.data_hash);
            start = *end;
        }
    }

    fn is_full(&self) -> bool {
        self.items.len() >= BATCH_ENTRIES || self.lines.len() >= BATCH_BYTES
    }

    /// A long line takes much memory: no other is made while there is one.
    fn is_large(&self) -> bool {
        self.lines.len() > 4 * BATCH_BYTES
    }
}

impl EntryHasher {
    /// Without a keyring, signatures are not checked.
    pub fn new(keyring: Option<Keyring>, helpers: Helpers) -> Self {
        EntryHasher {
            keyring: keyring.map(Arc::new),
            helpers,
            batch: Batch::default(),
            thread: None,
            finished: VecDeque::new(),
            unused: Vec::new(),
        }
    }

    /// Takes an entry as it is recorded.
    pub fn push(&mut self, entry: &EntryLine<'_>, leaf_index: i64, block_number: i64) {
        entry.write_line(&mut self.batch.lines);
        let claim = SignatureClaim::of(self.keyring.as_deref(), entry);
        let entry = SealedEntry {
            entry_id: entry.entry_id,
            leaf_index,
            block_number,
            data_hash: entry.data_hash.to_owned(),
            leaf_hash: Hash::default(),
            line_number: None,
            signature: SignatureCheck::NotChecked,
        };
        self.batch.items.push(Item { end: self.batch.lines.len(), claim, entry });
        if self.batch.is_full() {
            self.send();
        }
    }

    /// There is nothing more to wait for before the next entries are asked for.
    pub fn flush(&mut self) {
        if self.batch.items.is_empty() {
            return;
        }
        match self.thread {
            Some(_) => self.send(),
            // Too few to start a thread for.
            None => self.work_here(),
        }
    }

    /// Appends the next finished entries; false if there are none, and none to wait for.
    pub fn receive(&mut self, into: &mut VecDeque<SealedEntry>) -> bool {
        if self.finished.is_empty() {
            let under_way = self.thread.as_mut().and_then(HashingThread::receive);
            under_way.into_iter().for_each(|batch| self.take(batch));
        }
        let has_any = !self.finished.is_empty();
        into.append(&mut self.finished);
        has_any
    }

    fn send(&mut self) {
        if self.thread.is_none() && self.helpers.count > 0 {
            self.thread = HashingThread::start(self.keyring.clone(), self.helpers);
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
        let mut batch = std::mem::replace(&mut self.batch, self.unused.pop().unwrap_or_default());
        batch.work(self.keyring.as_deref());
        self.take(batch);
    }

    fn take(&mut self, mut batch: Batch) {
        self.finished.extend(batch.items.drain(..).map(|item| item.entry));
        if !batch.is_large() {
            batch.lines.clear();
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
    fn start(keyring: Option<Arc<Keyring>>, helpers: Helpers) -> Option<Self> {
        let (batches, queue) = sync_channel::<Batch>(QUEUED);
        let (finished, results) = channel();
        let mut work = Some(move || {
            for mut batch in queue {
                batch.work(keyring.as_deref());
                if finished.send(batch).is_err() {
                    return;
                }
            }
        });
        let mut handle = None;
        let builder = || Builder::new().name("pg_notary hasher".to_owned());
        (helpers.start)(&mut || handle = work.take().and_then(|work| builder().spawn(work).ok()));
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
    use crate::ledger::record::Entry;
    use crate::ledger::verifier::check_signature;
    use crate::ledger::verifier::tests::{entry, keyring};

    fn hashed(entries: &[Entry], ring: Option<Keyring>, helpers: Helpers, receive_every: usize) -> Vec<SealedEntry> {
        let mut hasher = EntryHasher::new(ring, helpers);
        let mut sealed = VecDeque::new();
        for (index, entry) in entries.iter().enumerate() {
            hasher.push(&entry.as_line(), index as i64, 1);
            if index % receive_every == 0 {
                hasher.receive(&mut sealed);
            }
        }
        hasher.flush();
        while hasher.receive(&mut sealed) {}
        sealed.into()
    }

    #[test]
    fn a_thread_makes_of_entries_what_the_caller_would_and_in_their_order() {
        let mut entries: Vec<Entry> = (0..5000).map(|number| entry(number, &keyring())).collect();
        entries[1000].metadata = format!(r#"{{"text": "{}"}}"#, "long ".repeat(1 << 20));
        entries[2000].signature = Some("0".repeat(64));
        entries[2001].signature = Some("not hex".to_owned());
        entries[2002].key_id = Some("other".to_owned());
        entries[2003].signature = None;
        entries[2003].key_id = Some("default".to_owned());
        entries[2004].data_hash = String::new();
        for ring in [None, Some(keyring())] {
            let expected: Vec<SealedEntry> = (0..)
                .zip(&entries)
                .map(|(leaf_index, entry)| SealedEntry {
                    entry_id: entry.entry_id,
                    leaf_index,
                    block_number: 1,
                    data_hash: entry.data_hash.clone(),
                    leaf_hash: leaf_hash(&entry.line()),
                    line_number: None,
                    signature: check_signature(ring.as_ref(), &entry.as_line()),
                })
                .collect();
            let one = Helpers { count: 1, ..Helpers::none() };
            for helpers in [Helpers::none(), one, Helpers { start: |_| (), ..one }] {
                for receive_every in [100, 700, usize::MAX] {
                    assert!(hashed(&entries, ring.clone(), helpers, receive_every) == expected);
                }
                assert!(hashed(&entries[..3], ring.clone(), helpers, 1) == expected[..3]);
            }
        }
    }
}
