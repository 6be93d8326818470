//! Makes the space of sealed entries in `entries_pending` usable again at once, without waiting for autovacuum.
//!
//! Every entry leaves this table within moments. Autovacuum comes once a minute: with it alone, the table grows by all
//! that is recorded in between, and a scan reads mostly dead rows. So the worker does for the pages that it has emptied
//! what an UPDATE does for the page that it needs (heap pruning), and tells the free space map.

use super::tables::Table;
use pgrx::{check_for_interrupts, pg_sys};
use std::collections::VecDeque;

/// How many batches to remember. Behind an old snapshot batches pile up; further ones are left to autovacuum.
const MAX_BATCHES: usize = 4096;
/// About how many pages to clean at a time. When an old snapshot ends, there can be a million of them, and nothing is
/// sealed meanwhile.
const PAGES_AT_ONCE: usize = 2048;
/// A page with this much room is worth finding for an insert.
const ROOM: usize = pg_sys::BLCKSZ as usize / 4;

/// Pages from which entries were moved into blocks, until their space is usable.
#[derive(Default)]
pub struct EmptiedPages(VecDeque<Moved>);

/// The pages that one transaction has moved entries from.
#[derive(Default)]
pub struct Moved {
    /// With 64 bits: of 32 it could not be told, two billion transactions later, that it is over.
    pub transaction: pg_sys::FullTransactionId,
    /// Ascending.
    pub pages: Vec<u32>,
}

impl EmptiedPages {
    /// Adds what a transaction has moved, once it has committed.
    pub fn add(&mut self, moved: Moved) {
        if !moved.pages.is_empty() && self.0.len() < MAX_BATCHES {
            self.0.push_back(moved);
        }
    }

    /// Cleans pages of batches that no snapshot can see any more. Runs in a transaction.
    pub fn reclaim(&mut self, pending: &Table) {
        let mut cleaned = 0;
        while let Some(moved) = self.0.front().filter(|_| cleaned < PAGES_AT_ONCE) {
            // SAFETY: the table is open, and the transaction has ended.
            if !unsafe { pg_sys::GlobalVisCheckRemovableFullXid(pending.relation(), moved.transaction) } {
                return;
            }
            reclaim_pages(pending, &moved.pages);
            cleaned += moved.pages.len();
            self.0.pop_front();
        }
    }
}

fn reclaim_pages(pending: &Table, pages: &[u32]) {
    let count = pending.pages();
    let pages = || pages.iter().copied().filter(|page| *page < count);
    for page in pages() {
        check_for_interrupts!();
        // SAFETY: a page of this table, which is open and locked. The page is pinned until its space is known.
        unsafe {
            let buffer = pg_sys::ReadBuffer(pending.relation(), page);
            pg_sys::heap_page_prune_opt(pending.relation(), buffer);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            let room = pg_sys::PageGetHeapFreeSpace(pg_sys::BufferGetPage(buffer).cast());
            pg_sys::UnlockReleaseBuffer(buffer);
            if room >= ROOM {
                pg_sys::RecordPageWithFreeSpace(pending.relation(), page, room);
            }
        }
    }
    if let (Some(first), Some(last)) = (pages().next(), pages().next_back()) {
        // SAFETY: the table is open and locked, and the pages are its own. A search for room begins at the map's upper
        // pages, so these must be updated.
        unsafe { pg_sys::FreeSpaceMapVacuumRange(pending.relation(), first, last + 1) }
    }
}
