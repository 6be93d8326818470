//! What this process has begun at the file and not ended. It must be ended even if the process is told to end, and a
//! worker that opens the file anew must know of it.

use super::handle::Mirror;
use super::owners::OwnerSlot;
use super::shared::{Attachment, LockedMirror, MirrorState};
use crate::postgres::errorless::own_xid;
use crate::postgres::transaction;
use std::cell::Cell;

/// Lines that are on their way.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// Where the first of them stands.
    pub from: u64,
    /// The count of failures at that time.
    pub failures: u64,
    /// The lines are the ledger's own, so they are never voided.
    pub is_own: bool,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Nothing,
    /// Counted among those that append.
    Appending(Begun),
    /// The lines have reached their goal. Whether the transaction commits is open, so it stays among the owners.
    Committing,
}

/// A line on its way through the ring.
#[derive(Debug, Clone, Copy)]
struct UnfinishedLine {
    from: u64,
    failures: u64,
}

// Not guards on the stack: a process that is told to end exits without unwinding the stack.
thread_local! {
    static STAGE: Cell<Stage> = const { Cell::new(Stage::Nothing) };
    static UNFINISHED_LINE: Cell<Option<UnfinishedLine>> = const { Cell::new(None) };
    static PLACE: Cell<Option<OwnerSlot>> = const { Cell::new(None) };
}

/// Whether this process has begun to append and has not come to the end.
pub fn is_appending() -> bool {
    matches!(STAGE.get(), Stage::Appending(_)) || UNFINISHED_LINE.get().is_some()
}

/// Forgets what is under way, even if the ledger has been dropped meanwhile.
pub fn forget() {
    STAGE.set(Stage::Nothing);
    UNFINISHED_LINE.set(None);
    PLACE.set(None);
}

/// Notes that lines are put into the ring.
pub fn begin(state: &MirrorState, fields: &mut LockedMirror<'_>, begun: Begun) {
    if matches!(STAGE.get(), Stage::Nothing) {
        STAGE.set(Stage::Appending(begun));
        fields.appending += 1;
        if !begun.is_own && PLACE.get().is_none() {
            // Before any of its lines can be in the file.
            PLACE.set(Some(state.owners.enter(own_xid(), transaction::gives_ids())));
        }
    }
}

/// Cannot fail.
fn leave_owners(state: &MirrorState) {
    if let Some(place) = PLACE.take() {
        state.owners.leave(place);
    }
}

/// Notes that a line begins at `from` that goes through the ring piece by piece.
pub fn begin_line(fields: &mut LockedMirror<'_>, from: u64, length: u64) {
    fields.unfinished = from;
    (fields.long_line_from, fields.long_line_to) = (from, from + length);
    UNFINISHED_LINE.set(Some(UnfinishedLine { from, failures: fields.failures }));
}

impl Mirror {
    /// The long line is whole in the ring.
    pub(super) fn end_line(&self) {
        self.end_line_with(|fields, _| fields.unfinished = 0);
    }

    fn end_line_with(&self, how: impl FnOnce(&mut LockedMirror<'_>, u64)) {
        let Some(line) = UNFINISHED_LINE.take() else { return };
        let mut fields = self.lock();
        // After a failure the line is cut off already, and another process may have one on its way now.
        if fields.failures == line.failures && fields.unfinished == line.from {
            how(&mut fields, line.from);
        }
        drop(fields);
        self.state().broadcast();
    }

    /// Ends an append whose lines have reached their goal.
    pub(super) fn end_append(&self, fields: LockedMirror<'_>) {
        let Stage::Appending(begun) = STAGE.get() else { return };
        if begun.is_own {
            STAGE.set(Stage::Nothing);
        } else {
            STAGE.set(Stage::Committing);
        }
        self.stop_appending(fields);
    }

    /// Ends an append that did not reach its goal, and has a long line that is not whole cut off the file. The
    /// transaction stays among the owners until it has said which lines it leaves. Cannot fail: it runs when a
    /// transaction aborts, also when its process is told to end and nothing else of it runs.
    pub fn abandon(&self) {
        if let Stage::Appending(begun) = STAGE.get() {
            STAGE.set(Stage::Nothing);
            let mut fields = self.lock();
            // The lines may still get into the file. They must not be appended again before the file is read.
            let is_gone = fields.failures == begun.failures + 1 && fields.kept_at_failure <= begun.from;
            fields.must_be_read |= begun.is_own && !is_gone;
            self.stop_appending(fields);
        }
        self.end_line_with(|fields, from| fields.cut_to = from);
        self.shared.writer.wake();
        self.slot.worker.wake();
    }

    fn stop_appending(&self, mut fields: LockedMirror<'_>) {
        fields.appending = fields.appending.saturating_sub(1);
        let is_awaited = fields.appending == 0 && fields.attachment == Attachment::Repairing;
        drop(fields);
        if is_awaited {
            self.state().broadcast();
        }
    }

    /// The transaction that appended lines has ended or is prepared, and has said which lines are to be voided. Cannot
    /// fail.
    pub fn note_decided(&self) {
        if matches!(STAGE.get(), Stage::Committing) {
            STAGE.set(Stage::Nothing);
        }
        leave_owners(self.state());
    }
}
