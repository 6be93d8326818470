//! Signs, verifies or surveys one file.

use super::file::{ItemFile, ReadError};
use super::report::{Record, State};
use super::tree::{Directories, Found, Kind, MOST_PLACES};
use pg_notary::items::attributes::{self, Attributes};
use pg_notary::items::comparison::LocalItem;
use pg_notary::items::payload::text_hash;
use pg_notary::items::payload::Payload;
use pg_notary::items::registration::ItemName;
use pg_notary::items::signature_line::LineFormat;
use pg_notary::items::signer::sign;
use pg_notary::items::verifier::{verify, Status, Verification};
use pg_notary::items::{ContentError, Item, ItemError, Place};
use pg_notary::ledger::record::Timestamp;
use std::io;
use std::path::{Path, PathBuf};
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
    /// The directories in which items that were moved may have been when they were signed.
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

impl Failure {
    fn into_record(self, record: Record) -> Record {
        match self {
            Failure::Io(error) => record.in_state(State::Failed, error.to_string()),
            Failure::Item(error) => record.in_state(State::Invalid, error.to_string()),
            Failure::Path(reason) => record.in_state(State::Invalid, reason.to_owned()),
        }
    }
}

/// A file that the registry is asked about.
pub struct Local {
    /// As the user would name it.
    pub shown: PathBuf,
    pub item: LocalItem,
}

impl Local {
    /// Signature lines are not compared. So a file in which they hold anything that signing would not have written is
    /// refused.
    fn of(item: &Item<'_>, shown: PathBuf) -> Result<Self, Failure> {
        if let Some(fault) = LineFormat::of(item)?.find_fault(item.content) {
            return Err(Failure::Item(ContentError::new(format!("{fault}: sign it again")).into()));
        }
        let payload = Payload::of(item)?;
        let name = ItemName { item_type: item.item_type, id: item.id.to_owned(), version: item.version.to_owned() };
        let location = payload.location().unwrap_or_default().to_owned();
        let item = LocalItem { name, location, integrity: payload.integrity(), text_hash: text_hash(item)? };
        Ok(Local { shown, item })
    }
}

impl<'a> Processor<'a> {
    pub fn new(action: Action, default_version: &'a str, directories: Directories) -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp::from_micros(since_epoch.as_micros() as i64).unwrap_or_default();
        Processor { action, default_version, now, directories }
    }

    pub fn process(&self, found: Found) -> Record {
        let mut record = Record::new(found.shown.clone(), found.item_type);
        if let Kind::Other(state, reason) = found.kind {
            return record.in_state(state, reason);
        }
        let processed = self.with_item(&found, &mut record, |item, file, record| {
            let outcome = self.verify(item, &found.path)?;
            match self.action {
                Action::Verify => record.verified(outcome),
                Action::Sign if outcome.success() => record.verified(outcome),
                Action::Sign => self.sign_file(file, item, record)?,
            }
            Ok(())
        });
        match processed {
            Ok(()) => record,
            Err(failure) => failure.into_record(record),
        }
    }

    /// What is to be compared with the registry; or why nothing is.
    pub fn survey(&self, found: Found) -> Result<Local, Box<Record>> {
        let mut record = Record::new(found.shown.clone(), found.item_type);
        if let Kind::Other(state, reason) = found.kind {
            return Err(Box::new(record.in_state(state, reason)));
        }
        let shown = found.shown.clone();
        let surveyed = self.with_item(&found, &mut record, |item, _, _| Local::of(item, shown));
        surveyed.map_err(|failure| Box::new(failure.into_record(record)))
    }

    /// Does something with the item in a file, and names it in `record`.
    fn with_item<T>(
        &self,
        found: &Found,
        record: &mut Record,
        process: impl FnOnce(&Item<'_>, &ItemFile, &mut Record) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let path = &found.path;
        let file_path = path.to_str().ok_or(Failure::Path("its path is not UTF-8: rename it"))?;
        if file_path.contains('\\') {
            return Err(Failure::Path("its path contains a backslash, which stands for / in a location: rename it"));
        }
        let (file, content) = ItemFile::read(&found.real_path)?;
        let mut item = Item {
            item_type: record.item_type,
            id: "",
            version: self.default_version,
            content: &content,
            file_path: Some(Place::Path(file_path)),
            metadata: None,
            language: None,
        };
        let attributes = own_attributes(&item)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        item.id = attributes.id.as_deref().unwrap_or(&stem);
        item.version = attributes.version.as_deref().unwrap_or(item.version);
        record.name(item.id, item.version);
        process(&item, &file, record)
    }

    /// Verifies an item. If it is not as it was signed, it may have been moved from any directory of the tree.
    fn verify(&self, item: &Item<'_>, path: &Path) -> Result<Verification, ItemError> {
        let outcome = verify(item, &[])?;
        if outcome.status != Status::Modified {
            return Ok(outcome);
        }
        let places = self.directories.places_before(item.item_type, path);
        let first: Vec<&str> = places.first.iter().map(String::as_str).collect();
        let mut outcome = verify(item, &first)?;
        if outcome.status == Status::Modified && !places.are_all {
            let perhaps = || format!("or moved: of the places where it may have been, {MOST_PLACES} were tried");
            outcome.detail = outcome.detail.or_else(|| Some(perhaps()));
        }
        Ok(outcome)
    }

    /// Signs a file whose signature is not valid.
    fn sign_file(&self, file: &ItemFile, item: &Item<'_>, record: &mut Record) -> Result<(), Failure> {
        let signed = sign(item, self.now)?;
        file.replace(&signed.content).map_err(Failure::Io)?;
        record.verified(verify(&Item { content: &signed.content, ..*item }, &[])?);
        if record.state == State::Valid {
            record.state = State::Signed;
        }
        Ok(())
    }
}

/// What the item says of itself. A signed text that cannot be read says nothing: verification calls it modified.
fn own_attributes(item: &Item<'_>) -> Result<Attributes, ItemError> {
    let file_path = item.file_path.map(Place::text);
    match attributes::read(item.item_type, item.content, file_path, item.language) {
        Err(ItemError::Content(_)) if LineFormat::of(item)?.extract(item.content).is_some() => {
            Ok(Attributes::default())
        }
        attributes => attributes,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_signed_is_valid_for_whoever_looks_next() {
        let project = tempfile::TempDir::new().unwrap();
        let tools = project.path().join(".ai/tools");
        fs::create_dir_all(&tools).unwrap();
        let line_100 = format!("{}__version__ = \"1.2.0\"\n", "# l\n".repeat(99));
        for (name, text) in [
            ("b.yaml", "\u{feff}version: 1.2.0\nname: x\n"),
            ("l100.py", &line_100),
            ("prog.sh", "# kiwi-mcp:validated:x\n#!/bin/sh\n# version: 1.2.0\n"),
        ] {
            fs::write(tools.join(name), text).unwrap();
        }
        for (action, state) in [(Action::Sign, State::Signed), (Action::Verify, State::Valid)] {
            let Tree { found, directories } = Tree::read(&[project.path().to_owned()]).unwrap();
            let processor = Processor::new(action, "1.0.0", directories);
            let records: Vec<Record> = found.into_iter().map(|found| processor.process(found)).collect();
            assert_eq!(records.len(), 3);
            for record in records {
                assert_eq!(record.state, state, "{:?}: {:?}", record.path, record.error());
                assert_eq!(record.id_and_version.unwrap().1, "1.2.0");
            }
        }
    }

    /// After the tree was examined, the owner of a directory may put a link in its place before a file is processed.
    #[test]
    fn a_directory_that_becomes_a_link_leads_nowhere_else() {
        let project = tempfile::TempDir::new().unwrap();
        let (tools, outside) = (project.path().join(".ai/tools/a"), project.path().join("outside"));
        fs::create_dir_all(tools.join("b")).unwrap();
        fs::create_dir_all(outside.join("b")).unwrap();
        for file in [tools.join("b/x.py"), outside.join("b/x.py")] {
            fs::write(file, "print(1)\n").unwrap();
        }
        let Tree { mut found, directories } = Tree::read(&[project.path().to_owned()]).unwrap();
        fs::rename(&tools, project.path().join("away")).unwrap();
        symlink(&outside, &tools).unwrap();
        let record = Processor::new(Action::Sign, "1.0.0", directories).process(found.remove(0));
        assert_eq!(record.state, State::Failed, "{:?}", record.error());
        assert_eq!(fs::read_to_string(outside.join("b/x.py")).unwrap(), "print(1)\n");
        assert_eq!(fs::read_dir(outside.join("b")).unwrap().count(), 1);
    }
}
