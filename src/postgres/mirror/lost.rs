//! What a database may have lost of its commits, and how that is told.

use crate::postgres::errors::Failure;
use pgrx::PgSqlErrorCode;
use std::path::Path;

/// What the database may have lost of the commits that it acknowledged. Zeroes in shared memory are a valid value: the
/// first variant.
#[repr(C, u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    Nothing,
    /// The last commits of the primary, at the promotion that lies between these timelines.
    AtPromotion {
        then: u32,
        now: u32,
    },
    /// What was only in the WAL: the server has crashed, and has not recovered from that.
    WithWal,
}

impl Lost {
    /// The reason that the void lines state.
    pub fn reason(self) -> &'static str {
        match self {
            Lost::Nothing => "not committed",
            Lost::AtPromotion { .. } => "not in the database that was promoted",
            Lost::WithWal => "not in the database, which has not recovered from the crash",
        }
    }

    /// Says in the log that lines are about to be voided.
    pub fn tell_of_voiding(self, path: &Path, lines: usize) {
        let path = path.display();
        let Some(why) = self.why() else {
            pgrx::log!("pg_notary voids {lines} lines of mirror file \"{path}\": the database has no such entries");
            return;
        };
        let reason = self.reason();
        let message =
            format!("pg_notary voids {lines} lines of mirror file \"{path}\" that this database does not have");
        Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message)
            .detail(format!(
                "{why} Acknowledged transactions may be among them. In that case the database has lost them, and \
                 only these lines are left of them."
            ))
            .hint(format!("The void lines with the reason \"{reason}\" name these entries. Look for them in the old server or in the application, before either is gone."))
            .warn();
    }

    fn why(self) -> Option<String> {
        match self {
            Lost::Nothing => None,
            Lost::AtPromotion { then, now } => Some(format!("The file was last written on timeline {then}, and this server is on timeline {now}: it was promoted since.")),
            Lost::WithWal => Some("The file was not closed, and this server has started as after a regular stop: its WAL was reset (pg_resetwal), it ran without pg_notary meanwhile, or it could not use the file when it was stopped.".to_owned()),
        }
    }
}
