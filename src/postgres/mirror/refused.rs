//! [`Refused`]: why the worker could not open the file, or begin another one.

use super::cause::CauseKind;
use super::file::Trouble;
use crate::postgres::errors::Failure;
use std::path::Path;

/// The failure to report, and what the advice about it depends on. An ERROR keeps only the failure.
#[derive(Debug, Clone)]
pub struct Refused {
    pub failure: Failure,
    pub kind: CauseKind,
    /// The old file has been put aside already. The failure says where it is.
    pub has_kept: bool,
}

impl Refused {
    pub fn new(kind: CauseKind, failure: Failure) -> Self {
        Refused { failure, kind, has_kept: false }
    }

    /// The same, where the old file has been put aside as `kept`.
    pub fn having_kept(self, kept: &Path) -> Self {
        let text = format!("the old file is kept as \"{}\", but {}", kept.display(), self.failure.text());
        Refused { failure: self.failure.restated(text), has_kept: true, ..self }
    }
}

impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Self {
        let failure = Failure::new(trouble.kind.sqlstate(), trouble.cause)
            .hint("In the modes sync and write, nothing is recorded until this is repaired. The worker tries again by itself, and whenever a transaction records.");
        Refused::new(trouble.kind, failure)
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Refused::new(CauseKind::Other, failure)
    }
}
