//! Renders and hashes the lines of entries that do not come from a file, beside the thread that reads them.

mod batch;
#[cfg(test)]
mod tests;

use super::parallel::{prepare_to_wait, Helpers};
use crate::ledger::signature::Keyring;
use batch::{Batch, Work};
use std::collections::VecDeque;
use std::sync::mpsc::{channel, sync_channel, Receiver, SyncSender};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

pub use batch::{HashedEntry, Render, StoredEntry, StoredMetadata};

/// Batches that wait to be worked on.
const QUEUED: usize = 32;

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
        // Keeps the number of batches small, even if the caller does not ask for entries for a long time.
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

/// A thread that works on batches until the sender is gone.
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
        prepare_to_wait();
        let mut run = Some(move || {
            prepare_to_wait();
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
            // If the thread panicked, that was noticed when its results were missing.
            let _ = handle.join();
        }
    }
}
