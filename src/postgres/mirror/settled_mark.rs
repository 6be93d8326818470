//! Moves the settled place forward: the place in the file behind which recovery has to read. Single lines are judged in
//! [`super::voiding`].
//!
//! Under load there is never a moment at which nothing is pending and no transaction commits. So the worker sets a mark
//! at what is on disk. It waits until every transaction has ended that may have lines before the mark, and notes which
//! entries are pending then. Once those are sealed, everything before the mark is settled.

use super::handle::Mirror;
use crate::ledger::file_ranges::FileRange;
use crate::postgres::log_state::Settled;
use crate::postgres::pending_scan::PendingScan;
use crate::postgres::tables::{entry_column, look_up, RegisteredSnapshot, Row, Table};
use pgrx::{check_for_interrupts, pg_sys};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// More pending entries than this are not noted: a backlog is sealed first, without reading it again for each batch.
const MAX_NOTED: usize = 50_000;

/// A place in the file on its way to be settled.
pub struct Mark {
    bytes: u64,
    /// Transactions of this epoch may have undecided lines before the mark.
    epoch: usize,
    before: Option<Before>,
}

/// What was still open before the mark once every transaction that may have lines there had ended.
struct Before {
    pending: HashSet<Uuid>,
    prepared: Vec<FileRange>,
}

impl Mark {
    fn set(mirror: &Mirror) -> Option<Mark> {
        // In this order: a transaction that begins to commit in the next epoch puts its lines behind what is on disk
        // now.
        let bytes = mirror.lock().durable;
        mirror.slot.next_epoch().map(|epoch| Mark { bytes, epoch, before: None })
    }

    fn look(&mut self, mirror: &Mirror) {
        if self.before.is_some() || !mirror.slot.is_drained(self.epoch) {
            return;
        }
        // In this order, too: before a transaction counts as ended, it says that its lines are to be voided or are
        // those of a prepared transaction. What is committed by then, the scan sees.
        let prepared = {
            let fields = mirror.lock();
            if fields.has_aborted() {
                return;
            }
            fields.prepared
        };
        // Recovery reads everything behind the mark anyway.
        let open = prepared.iter().filter(|lines| lines.xid != 0 && lines.from < self.bytes);
        let prepared = open.map(|lines| FileRange { from: lines.from, to: lines.to.min(self.bytes) }).collect();
        let is_backlog = mirror.slot.pending.load(Ordering::Acquire) > MAX_NOTED as i64;
        let pending = if is_backlog { None } else { pending_entries(mirror) };
        self.before = pending.map(|pending| Before { pending, prepared });
    }

    /// Strikes out entries of committed blocks. Others are looked up one by one.
    pub fn note_sealed(&mut self, entry_ids: &[Uuid]) {
        if let Some(before) = self.before.as_mut().filter(|before| !before.pending.is_empty()) {
            entry_ids.iter().for_each(|entry_id| {
                before.pending.remove(entry_id);
            });
        }
    }

    fn is_settled(&mut self) -> bool {
        let Some(before) = &mut self.before else { return false };
        if before.pending.is_empty() {
            return true;
        }
        let table = Table::open("entries_pending", pg_sys::AccessShareLock);
        let snapshot = RegisteredSnapshot::latest();
        while let Some(entry_id) = before.pending.iter().next().copied() {
            check_for_interrupts!();
            if look_up::find_entry(&table, entry_id, &snapshot, |_| ()).is_some() {
                return false;
            }
            before.pending.remove(&entry_id);
        }
        true
    }
}

/// Moves the mark as far as possible. Returns what is newly settled. The caller is in a transaction, holds the sealing
/// lock, and has appended the lines of all blocks.
pub fn advance(mark: &mut Option<Mark>, mirror: &Mirror) -> Option<Settled> {
    if mark.is_none() {
        *mark = Mark::set(mirror);
    }
    let current = mark.as_mut()?;
    current.look(mirror);
    if !current.is_settled() {
        return None;
    }
    let Mark { bytes, before, .. } = mark.take()?;
    let block = mirror.lock().last_block;
    Some(Settled { bytes, block, open: before.map(|before| before.prepared).unwrap_or_default() })
}

/// The ids of pending entries, if they are few enough to be noted.
fn pending_entries(mirror: &Mirror) -> Option<HashSet<Uuid>> {
    let snapshot = RegisteredSnapshot::latest();
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    let mut scan = PendingScan::start(&table, &snapshot, mirror.slot.pending.load(Ordering::Acquire));
    let (mut pending, mut row) = (HashSet::new(), Row::default());
    while let Some(tuple) = scan.next() {
        check_for_interrupts!();
        table.deform_into(tuple, &mut row);
        pending.extend(row.uuid(entry_column::ID));
        if pending.len() > MAX_NOTED {
            return None;
        }
    }
    Some(pending)
}
