//! A file that does not answer: a write or a sync of it takes long, and commits wait.

use super::fixed_text::FixedText;
use super::shared::{Attachment, MirrorFields};
use crate::postgres::errorless;
use crate::postgres::errors::Failure;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::time::Duration;

/// A write or sync that takes longer is reported as a problem.
pub const SLOW: Duration = Duration::from_secs(5);

/// A write or sync that is under way. Copied while the fields are locked: text is made of it without the lock.
pub struct Hang {
    path: FixedText<1024>,
    /// When it began.
    since: pg_sys::TimestampTz,
    /// Transactions wait for it. In mode async none do, and once the worker has given the file up, they fail instead.
    pub is_waited_for: bool,
}

impl Hang {
    /// What is under way; `None` if it has not taken long yet.
    pub fn of(fields: &MirrorFields) -> Option<Hang> {
        let is_slow = fields.writing && errorless::clock() - fields.writing_since >= SLOW.as_micros() as i64;
        let is_waited_for = !fields.is_followed && fields.attachment != Attachment::Failed;
        is_slow.then_some(Hang { path: fields.path, since: fields.writing_since, is_waited_for })
    }

    pub fn path(&self) -> String {
        self.path.get()
    }

    pub fn text(&self) -> String {
        let seconds = (errorless::clock() - self.since) / 1_000_000;
        let path = self.path();
        format!("mirror file \"{path}\" does not answer: it has been written or synced for {seconds} seconds")
    }

    pub fn failure(&self) -> Failure {
        Failure::new(PgSqlErrorCode::ERRCODE_IO_ERROR, self.text())
            .detail("Transactions that record in the modes sync and write wait for it.")
            .hint("Check the disk, or the mount. To let them go on without the file: set ledger.mirror_mode to async, and reload.")
    }
}
