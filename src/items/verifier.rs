//! Verification: telling an intact item from one that was changed, moved, or never signed.
//!
//! [`verify`] compares an item with its own signature line, [`verify_integrity`] with a hash stored elsewhere, and
//! [`verify_registered`] also with the ledger. The texts of the errors are fixed; programs match on them.

use super::error::ItemError;
use super::item::Item;
use super::location::Place;
use super::payload::{text_hash, Payload};
use super::registration::{Event, Registration};
use super::signature_line::{to_seconds, LineFormat, SignatureLine};
use serde_json::json;
use std::fmt;

/// What to do about an item that is not valid.
pub const SOLUTION: &str = "Run ledger.sign_item(...) to re-validate";

/// What to do about an item whose signature was revoked.
const REVOKED_SOLUTION: &str = "It was revoked on purpose; only members of ledger_admin may sign it again.";

/// What to do where the ledger's entry is not good. If another secret has the name of an old key, no entry is good.
const UNPROVEN_SOLUTION: &str =
    "Run ledger.sign_item(...) to re-validate. If this concerns every item, check the server's secrets \
    (ledger.hmac_secret_file) first.";

/// What to do about an item that is registered for another place, or whose signature line is for another place.
const MOVED_SOLUTION: &str = "Run ledger.move_item(...) to sign it for another place";

/// What to do about an item that is not registered.
const UNKNOWN_SOLUTION: &str = "Run ledger.create_item(...) to sign and register it";

/// The error of an item that is not what was signed.
const MODIFIED: &str = "Content has been modified since last validation";

/// The error of an item that is not where it was signed.
const MOVED: &str = "Not signed for this location";

/// How many digits of a hash an error shows.
const SHOWN: usize = 12;

/// What verification found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Signed, and unchanged since.
    Valid,
    /// There is no signature line, or none that holds a timestamp and a hash.
    Unsigned,
    /// Something that the hash covers was changed: the text, the id, the version or the metadata.
    Modified,
    /// Unchanged, but the signature is for another place.
    Moved,
    /// The hash is not the one stored elsewhere.
    Mismatch,
    /// No hash is stored elsewhere.
    Unknown,
    /// The signature was revoked.
    Revoked,
    /// The ledger's entry about the item is not what was recorded.
    Unproven,
    /// An item that this one calls is not valid, or not the one it was signed with.
    Dependency,
    /// What is given is no item.
    Invalid,
}

impl Status {
    /// A stable name: `valid`, `unsigned`, `modified`, `moved`, `mismatch`, `unknown`, `revoked`, `unproven`,
    /// `dependency`, `invalid`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Valid => "valid",
            Status::Unsigned => "unsigned",
            Status::Modified => "modified",
            Status::Moved => "moved",
            Status::Mismatch => "mismatch",
            Status::Unknown => "unknown",
            Status::Revoked => "revoked",
            Status::Unproven => "unproven",
            Status::Dependency => "dependency",
            Status::Invalid => "invalid",
        }
    }

    /// `None` where it depends on more than the status.
    fn solution(self) -> Option<&'static str> {
        match self {
            Status::Valid | Status::Invalid => None,
            Status::Unsigned | Status::Modified | Status::Mismatch | Status::Dependency => Some(SOLUTION),
            Status::Moved => Some(MOVED_SOLUTION),
            Status::Unknown => Some(UNKNOWN_SOLUTION),
            Status::Revoked => Some(REVOKED_SOLUTION),
            Status::Unproven => Some(UNPROVEN_SOLUTION),
        }
    }
}

/// The outcome of verifying an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    pub status: Status,
    /// What is wrong; `None` if nothing is.
    pub error: Option<String>,
    /// What to do about it.
    pub solution: Option<String>,
    /// More about the error, for a reader.
    pub detail: Option<String>,
    /// The hash of the item as it is; `None` if its text is no longer that of an item.
    pub computed: Option<String>,
    /// The hash it was compared with, if there is one.
    pub stored: Option<String>,
    /// The item's signature line, if there is one.
    pub signature: Option<SignatureLine>,
    /// The item's path below the base of its type.
    pub location: Option<String>,
}

impl Verification {
    /// Whether the item is what was signed.
    pub fn success(&self) -> bool {
        self.status == Status::Valid
    }

    /// `{success, status, error, solution, detail, computed, stored, signed_at, location_path}`; null for what is
    /// absent.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "success": self.success(),
            "status": self.status.as_str(),
            "error": self.error,
            "solution": self.solution,
            "detail": self.detail,
            "computed": self.computed,
            "stored": self.stored,
            "signed_at": self.signature.as_ref().map(|signature| to_seconds(signature.timestamp)),
            "location_path": self.location,
        })
    }

    /// A good outcome. The payload of the item is known if its text can be read.
    fn valid(signature: Option<SignatureLine>, payload: Option<&Payload<'_>>) -> Self {
        Verification {
            status: Status::Valid,
            error: None,
            solution: None,
            detail: None,
            computed: payload.map(Payload::integrity),
            stored: None,
            signature,
            location: payload.and_then(Payload::location).map(str::to_owned),
        }
    }

    /// A bad outcome that has nothing to do with the text of the item.
    pub fn failed(status: Status, error: String, detail: Option<String>) -> Self {
        Verification::valid(None, None).fails(status, error, detail)
    }

    /// The outcome for a text that is not an item.
    pub fn invalid(error: &ItemError) -> Self {
        Verification::failed(Status::Invalid, error.to_string(), None).with_solution(error.solution())
    }

    /// The outcome for an item whose signature was revoked, for this reason.
    pub fn revoked(reason: &str) -> Self {
        Verification::failed(Status::Revoked, "Signature revoked".to_owned(), Some(format!("reason: {reason}")))
    }

    /// Something that no hash covers is not what was recorded.
    pub fn modified(detail: String) -> Self {
        Verification::failed(Status::Modified, MODIFIED.to_owned(), Some(detail))
    }

    /// The item is unchanged, but it is not where it was recorded.
    pub fn moved(detail: String) -> Self {
        Verification::failed(Status::Moved, MOVED.to_owned(), Some(detail))
    }

    /// The same, with another solution than that of its status.
    #[must_use]
    pub fn with_solution(self, solution: String) -> Self {
        Verification { solution: Some(solution), ..self }
    }

    fn fails(mut self, status: Status, error: String, detail: Option<String>) -> Self {
        self.status = status;
        self.error = Some(error);
        self.solution = status.solution().map(str::to_owned);
        self.detail = detail;
        self
    }
}

/// Verifies `item` against its own signature line. If it was signed without a path, or at one of `previous_locations`,
/// where it may have been before, it is reported as moved instead of modified or unsigned. These may be mere guesses:
/// one that is no location is no error.
///
/// Signing refuses a text that is not an item's. So a signed text that is not an item's was modified: that is an
/// outcome, not an error.
///
/// # Errors
/// If the id, version, metadata, path or language given is not one, or the content is over 1 GB.
pub fn verify(item: &Item<'_>, previous_locations: &[&str]) -> Result<Verification, ItemError> {
    let format = LineFormat::of(item)?;
    let signature = format.extract(item.content);
    let payload = match Payload::of(item) {
        Err(ItemError::Content(error)) => Err(error),
        payload => Ok(payload?),
    };
    let outcome = Verification::valid(signature, payload.as_ref().ok());
    let Some(stored) = outcome.signature.as_ref().map(|signature| signature.integrity.clone()) else {
        if let Some(detail) = moved_from_other_comments(item, format, previous_locations) {
            return Ok(outcome.fails(Status::Moved, MOVED.to_owned(), Some(detail)));
        }
        let error = format!("{} has no signature", item.item_type.title());
        return Ok(outcome.fails(Status::Unsigned, error, None));
    };
    let error = MODIFIED.to_owned();
    let outcome = Verification { stored: Some(stored.clone()), ..outcome };
    if let Some(fault) = format.find_fault(item.content) {
        return Ok(outcome.fails(Status::Modified, error, Some(fault.to_owned())));
    }
    match payload {
        Err(unreadable) => Ok(outcome.fails(Status::Modified, error, Some(unreadable.to_string()))),
        Ok(payload) if payload.integrity() == stored => Ok(outcome),
        Ok(payload) => Ok(match moved(&payload, &stored, previous_locations) {
            Some(detail) => outcome.fails(Status::Moved, MOVED.to_owned(), Some(detail)),
            None => outcome.fails(Status::Modified, error, None),
        }),
    }
}

/// Verifies `item` against a hash stored elsewhere, such as a registry's. `previous_locations` are as in [`verify`].
///
/// # Errors
/// As [`verify`]; also if the text is not that of an item.
pub fn verify_integrity(
    item: &Item<'_>,
    stored: Option<&str>,
    previous_locations: &[&str],
) -> Result<Verification, ItemError> {
    let signature = LineFormat::of(item)?.extract(item.content);
    let payload = Payload::of(item)?;
    let outcome = Verification::valid(signature, Some(&payload));
    let name = format!("{}@{}", item.id, item.version);
    let Some(stored) = stored else {
        return Ok(outcome.fails(Status::Unknown, no_hash(&name), None));
    };
    let outcome = Verification { stored: Some(stored.to_owned()), ..outcome };
    let computed = payload.integrity();
    if computed == stored {
        return Ok(outcome);
    }
    if let Some(detail) = moved(&payload, stored, previous_locations) {
        return Ok(outcome.fails(Status::Moved, MOVED.to_owned(), Some(detail)));
    }
    Ok(outcome.fails(Status::Mismatch, mismatch(&name, &computed, stored), None))
}

/// The error of an item that nothing is known of to compare it with.
pub fn no_hash(name: &impl fmt::Display) -> String {
    format!("No integrity hash found for {name} - cannot verify integrity")
}

/// The error of an item whose hash is not the one that was stored elsewhere.
pub fn mismatch(name: &impl fmt::Display, computed: &str, stored: &str) -> String {
    format!("Integrity mismatch for {name}: computed={}, stored={}", start(computed), start(stored))
}

/// Verifies `item` against its own signature line, against `stored` if a hash is stored elsewhere, and against what the
/// ledger has of it: `None` if it has nothing.
///
/// # Errors
/// As [`verify`].
pub fn verify_registered(
    item: &Item<'_>,
    stored: Option<&str>,
    registration: Option<&Registration>,
) -> Result<Verification, ItemError> {
    if let Some(Registration { event: Event::Revoked { reason }, .. }) = registration {
        return Ok(Verification::revoked(reason));
    }
    let previous: Vec<&str> = registration.iter().map(|registration| registration.location.as_str()).collect();
    let mut outcome = verify(item, &previous)?;
    if let (true, Some(stored)) = (outcome.success(), stored) {
        outcome = verify_integrity(item, Some(stored), &previous)?;
    }
    let Some(registration) = registration.filter(|_| outcome.success()) else {
        return Ok(outcome);
    };
    outcome = verify_integrity(item, Some(&registration.integrity), &previous)?;
    if outcome.success() && text_hash(item)? != registration.text_hash {
        let detail = "text that the integrity hash does not cover was changed".to_owned();
        return Ok(outcome.fails(Status::Modified, MODIFIED.to_owned(), Some(detail)));
    }
    Ok(outcome)
}

/// From where to where the item was moved, if `stored` is its hash without a place or for one of `previous_locations`.
fn moved(payload: &Payload<'_>, stored: &str, previous_locations: &[&str]) -> Option<String> {
    let previous = previous_locations.iter().map(|location| Some(*location));
    let from = [None].into_iter().chain(previous).find(|from| payload.integrity_at(*from) == stored)?;
    Some(format!("{}, {}", place("signed", from), place("found", payload.location())))
}

/// The same where the item has no signature line in its place. It may have one in the comments of files at one of
/// `previous_locations`, if those are not the comments of files where it is now.
fn moved_from_other_comments(item: &Item<'_>, format: LineFormat, previous_locations: &[&str]) -> Option<String> {
    let is_signed_at = |location: &str| {
        let before = Item { file_path: Some(Place::Location(location)), ..*item };
        LineFormat::of(&before).is_ok_and(|before| before != format)
            && verify(&before, &[]).is_ok_and(|outcome| outcome.success())
    };
    let from = *previous_locations.iter().find(|location| is_signed_at(location))?;
    let found = item.file_path.and_then(|found| found.location(item.item_type).ok());
    Some(format!("{}, {}", place("signed", Some(from)), place("found", found.as_deref())))
}

fn place(verb: &str, location: Option<&str>) -> String {
    match location {
        Some(location) => format!("{verb} at {location}"),
        None => format!("{verb} without a location"),
    }
}

fn start(hash: &str) -> String {
    hash.chars().take(SHOWN).collect()
}
