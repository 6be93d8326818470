//! What was done and found, for people and for programs.

use crate::output::{printable, short_name, short_path};
use crate::{INVALID, UNREADABLE, VALID};
use pg_notary::items::signature_line::to_seconds;
use pg_notary::items::verifier::{Status, Verification};
use pg_notary::items::ItemType;
use pg_notary::ledger::shortened;
use serde_json::{json, Map, Value};
use std::path::PathBuf;

/// What became of a file. Their names are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Signed,
    Valid,
    Unsigned,
    Modified,
    Moved,
    /// Its text or name is not that of an item.
    Invalid,
    /// A symbolic link to an item or directory that is not examined, or out of the base.
    Refused,
    /// It cannot be read or written.
    Failed,
    /// Not an item.
    Skipped,
}

impl State {
    const ALL: [State; 9] = [
        State::Signed,
        State::Valid,
        State::Unsigned,
        State::Modified,
        State::Moved,
        State::Invalid,
        State::Refused,
        State::Failed,
        State::Skipped,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            State::Signed => "signed",
            State::Valid => "valid",
            State::Unsigned => "unsigned",
            State::Modified => "modified",
            State::Moved => "moved",
            State::Invalid => "invalid",
            State::Refused => "refused",
            State::Failed => "failed",
            State::Skipped => "skipped",
        }
    }

    pub fn exit_status(self) -> u8 {
        match self {
            State::Signed | State::Valid | State::Skipped => VALID,
            State::Unsigned | State::Modified | State::Moved | State::Invalid | State::Refused => INVALID,
            State::Failed => UNREADABLE,
        }
    }
}

/// How much of what is wrong a line shows. It may name what the file states, of any length.
const SHOWN_OF_ERROR: usize = 500;

/// `ID@VERSION`, as far as a line shows it.
pub fn short_id(id: &str, version: &str) -> String {
    format!("{}@{}", short_name(id), short_name(version))
}

/// What is wrong, as far as a line shows it.
pub fn short_error(error: &str) -> String {
    shortened(error, SHOWN_OF_ERROR)
}

/// What became of one file.
pub struct Record {
    pub path: PathBuf,
    pub item_type: ItemType,
    /// `None` if it could not be read.
    pub id_and_version: Option<(String, String)>,
    pub state: State,
    verification: Option<Verification>,
    /// Why it is in this state, where verification does not say.
    reason: Option<String>,
}

impl Record {
    pub fn new(path: PathBuf, item_type: ItemType) -> Self {
        Record { path, item_type, id_and_version: None, state: State::Skipped, verification: None, reason: None }
    }

    #[must_use]
    pub fn in_state(mut self, state: State, reason: String) -> Self {
        self.state = state;
        self.reason = Some(reason);
        self
    }

    pub fn name(&mut self, id: &str, version: &str) {
        self.id_and_version = Some((id.to_owned(), version.to_owned()));
    }

    pub fn verified(&mut self, verification: Verification) {
        self.state = match verification.status {
            Status::Valid => State::Valid,
            Status::Unsigned => State::Unsigned,
            Status::Moved => State::Moved,
            Status::Invalid => State::Invalid,
            // All but the first are about a registry, which a file alone knows nothing of.
            Status::Modified
            | Status::Mismatch
            | Status::Unknown
            | Status::Revoked
            | Status::Unproven
            | Status::Dependency => State::Modified,
        };
        self.verification = Some(verification);
    }

    pub fn error(&self) -> Option<&str> {
        let error = self.verification.as_ref().and_then(|verification| verification.error.as_deref());
        self.reason.as_deref().or(error)
    }

    /// What to do about it with this program. What verification says is for items in the registry.
    fn solution(&self) -> Option<&'static str> {
        match self.state {
            State::Unsigned | State::Modified => Some("Review its text, then run pg_notary items sign on it"),
            State::Moved => Some("Move it back, or run pg_notary items sign on it to sign it for this place"),
            State::Signed | State::Valid | State::Invalid | State::Refused | State::Failed | State::Skipped => None,
        }
    }

    /// `STATE PATH ID@VERSION: ERROR (DETAIL)`, as far as there is; what is very long, in part.
    fn line(&self) -> String {
        let mut line = format!("{:<9} {}", self.state.as_str(), short_path(&self.path));
        if let Some((id, version)) = &self.id_and_version {
            line += &format!("  {}", short_id(id, version));
        }
        if let Some(error) = self.error() {
            line += &format!(": {}", short_error(error));
        }
        if let Some(detail) = self.verification.as_ref().and_then(|verification| verification.detail.as_deref()) {
            line += &format!(" ({})", short_error(detail));
        }
        printable(&line) + "\n"
    }

    fn to_json(&self) -> Value {
        let verification = self.verification.as_ref();
        let signature = verification.and_then(|verification| verification.signature.as_ref());
        json!({
            "path": self.path.to_string_lossy(),
            "item_type": self.item_type.as_str(),
            "item_id": self.id_and_version.as_ref().map(|(id, _)| id),
            "version": self.id_and_version.as_ref().map(|(_, version)| version),
            "state": self.state.as_str(),
            "error": self.error(),
            "solution": self.solution(),
            "detail": verification.and_then(|verification| verification.detail.as_ref()),
            "location_path": verification.and_then(|verification| verification.location.as_ref()),
            "integrity": verification.and_then(|verification| verification.computed.as_ref()),
            "signed_at": signature.map(|signature| to_seconds(signature.timestamp)),
        })
    }
}

/// What became of all files.
pub struct Report(Vec<Record>);

impl Report {
    pub fn new(records: Vec<Record>) -> Self {
        Report(records)
    }

    /// The worst of what was found.
    pub fn exit_status(&self) -> u8 {
        self.0.iter().map(|record| record.state.exit_status()).max().unwrap_or(VALID)
    }

    fn count(&self, state: State) -> usize {
        self.0.iter().filter(|record| record.state == state).count()
    }

    fn item_count(&self) -> usize {
        self.0.len() - self.count(State::Skipped)
    }

    /// The report for people: what was signed and what is wrong, or with `list_all` everything, and the counts.
    pub fn describe(&self, list_all: bool) -> String {
        let shown = |record: &&Record| list_all || !matches!(record.state, State::Valid | State::Skipped);
        let mut text: String = self.0.iter().filter(shown).map(Record::line).collect();
        let items = self.item_count();
        text +=
            &format!("{}{items} item{}", if text.is_empty() { "" } else { "\n" }, if items == 1 { "" } else { "s" });
        for (at, state) in State::ALL.into_iter().filter(|state| self.count(*state) > 0).enumerate() {
            text += &format!("{} {} {}", if at == 0 { ":" } else { "," }, self.count(state), state.as_str());
        }
        text + if self.exit_status() == VALID { "\n\nVALID\n" } else { "\n\nNOT VALID\n" }
    }

    /// `{valid, item_count, counts: {STATE: n}, items: [...], skipped: [{path, reason}]}`.
    pub fn to_json(&self) -> Value {
        let counts: Map<String, Value> =
            State::ALL.into_iter().map(|state| (state.as_str().to_owned(), self.count(state).into())).collect();
        let (skipped, items): (Vec<&Record>, Vec<&Record>) =
            self.0.iter().partition(|record| record.state == State::Skipped);
        let skipped: Vec<Value> = skipped
            .into_iter()
            .map(|record| json!({"path": record.path.to_string_lossy(), "reason": record.reason}))
            .collect();
        json!({
            "valid": self.exit_status() == VALID,
            "item_count": items.len(),
            "counts": counts,
            "items": items.into_iter().map(Record::to_json).collect::<Vec<_>>(),
            "skipped": skipped,
        })
    }
}
