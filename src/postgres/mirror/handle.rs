//! [`Mirror`]: how a process reaches the mirror of its database. It pairs the shared area with the database's slot.
//!
//! The state itself is in [`super::shared`]. The neighbouring files add what can be done with it, such as appending.

use super::advice;
use super::cause::{Cause, CauseKind};
use super::shared::{Attachment, LockedMirror, MirrorState};
use crate::postgres::database_slot::DatabaseSlot;
use crate::postgres::errors::Failure;
use crate::postgres::shared::Shared;

/// The mirror of one database.
#[derive(Clone, Copy)]
pub struct Mirror {
    pub shared: &'static Shared,
    pub slot: &'static DatabaseSlot,
}

impl Mirror {
    pub(super) fn state(&self) -> &'static MirrorState {
        &self.slot.mirror
    }

    pub fn lock(&self) -> LockedMirror<'static> {
        self.shared.lock_mirror(self.slot)
    }

    pub fn is_attached(&self) -> bool {
        let fields = self.lock();
        fields.attachment == Attachment::Attached && !fields.must_be_read
    }

    pub(super) fn failure(&self, kind: CauseKind, cause: &str) -> Failure {
        let hint = if self.slot.worker.is_me() { advice::for_worker(kind) } else { advice::after(kind) };
        Failure::new(kind.sqlstate(), "could not record in the mirror file").detail(cause).hint(hint)
    }

    /// The failure of an append that met the cause which is noted in shared memory.
    pub(super) fn failure_by(&self, noted: &Cause) -> Failure {
        self.failure(noted.kind(), &noted.text())
    }
}
