//! Signing or verifying one file.

use super::file::{self, ReadError};
use super::report::{Record, State};
use super::tree::{Directories, Found, Kind};
use pg_notary::items::attributes::{self, Attributes};
use pg_notary::items::signature_line::LineFormat;
use pg_notary::items::signer::sign;
use pg_notary::items::verifier::{verify, Status, Verification};
use pg_notary::items::{Item, ItemError};
use pg_notary::ledger::record::Timestamp;
use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Sign,
    Verify,
}

pub struct Processor<'a> {
    action: Action,
    default_version: &'a str,
    /// One time for all files that are signed.
    now: Timestamp,
    /// Where items that are no longer where they were signed may have been.
    directories: Directories,
}

/// Why a file was neither signed nor verified.
enum Failure {
    Io(io::Error),
    Item(ItemError),
    Path(&'static str),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Failure::Io(error),
            ReadError::Item(error) => Failure::Item(error),
        }
    }
}

impl From<ItemError> for Failure {
    fn from(error: ItemError) -> Self {
        Failure::Item(error)
    }
}

impl<'a> Processor<'a> {
    pub fn new(action: Action, default_version: &'a str, directories: Directories) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp::from_micros(since_epoch.as_micros() as i64).unwrap_or_default();
        Processor { action, default_version, now, directories }
    }

    pub fn process(&self, found: Found) -> Record {
        let mut record = Record::new(found.shown, found.item_type);
        if let Kind::Other(state, reason) = found.kind {
            return record.in_state(state, reason);
        }
        match self.process_file(&found.path, &mut record) {
            Ok(()) => record,
            Err(Failure::Io(error)) => record.in_state(State::Failed, error.to_string()),
            Err(Failure::Item(error)) => record.in_state(State::Invalid, error.to_string()),
            Err(Failure::Path(reason)) => record.in_state(State::Invalid, reason.to_owned()),
        }
    }

    fn process_file(&self, path: &Path, record: &mut Record) -> Result<(), Failure> {
        let file_path = path.to_str().ok_or(Failure::Path("its path is not UTF-8: rename it"))?;
        if file_path.contains('\\') {
            return Err(Failure::Path("there is a backslash in its path, which stands for / in a location: rename it"));
        }
        let (content, metadata) = file::read(path)?;
        let mut item = Item {
            item_type: record.item_type,
            id: "",
            version: self.default_version,
            content: &content,
            file_path: Some(file_path),
            metadata: None,
            language: None,
        };
        let attributes = own_attributes(&item)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        item.id = attributes.id.as_deref().unwrap_or(&stem);
        item.version = attributes.version.as_deref().unwrap_or(item.version);
        record.name(item.id, item.version);
        let outcome = self.verify(&item, path)?;
        match self.action {
            Action::Verify => record.verified(outcome),
            Action::Sign => self.sign_file(path, &metadata, &item, &outcome, record)?,
        }
        Ok(())
    }

    /// Verifies an item. If it is not as it was signed, it may have been moved from any directory of the tree.
    fn verify(&self, item: &Item<'_>, path: &Path) -> Result<Verification, ItemError> {
        let outcome = verify(item, &[])?;
        if outcome.status != Status::Modified {
            return Ok(outcome);
        }
        let places = self.directories.places_before(item.item_type, path);
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        verify(item, &places)
    }

    /// Signs a file, unless that changes nothing but the time.
    fn sign_file(
        &self,
        path: &Path,
        metadata: &Metadata,
        item: &Item<'_>,
        outcome: &Verification,
        record: &mut Record,
    ) -> Result<(), Failure> {
        let valid_since = outcome.signature.as_ref().filter(|_| outcome.success());
        let timestamp = valid_since.map_or(self.now, |signature| signature.timestamp);
        let signed = sign(item, timestamp)?;
        let changed = signed.content != item.content;
        if changed {
            file::replace(path, metadata, &signed.content).map_err(Failure::Io)?;
        }
        let signed_item = Item { content: &signed.content, ..*item };
        record.verified(verify(&signed_item, &[])?);
        if changed {
            record.state = State::Signed;
        }
        Ok(())
    }
}

/// What the item says of itself. A signed text that cannot be read says nothing: verification calls it modified.
fn own_attributes(item: &Item<'_>) -> Result<Attributes, ItemError> {
    match attributes::read(item.item_type, item.content, item.file_path, item.language) {
        Err(ItemError::Content(_)) if LineFormat::of(item)?.extract(item.content).is_some() => {
            Ok(Attributes::default())
        }
        attributes => attributes,
    }
}
