//! The state file beside the mirror, `<database>.<first 8 of ledger_id>.state`. It says which database wrote the mirror
//! last, what the file was like then, and how far the database was. So the server can tell a crash from a database that
//! was put back to an older state, and an untouched file from one that was edited while the server was down.
//!
//! It holds one JSON object. It is an aid, not a part of the record: if it is lost or torn, the server notices less and
//! refuses nothing.

use super::cause::CauseKind;
use super::file::Trouble;
use super::file_identity;
use super::last_change::FileStamp;
use super::shared::Ownership;
use crate::ledger::wal::{self, WalPosition};
use crate::postgres::errors::cause;
use crate::postgres::shared::Shared;
use crate::postgres::tables;
use crate::regular_file;
use pgrx::pg_sys;
use serde_json::{json, Value};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A longer file is not a state file of the ledger.
const MAX_BYTES: u64 = 4096;

pub struct StateFile(File);

pub fn path_of(mirror: &Path) -> PathBuf {
    mirror.with_extension("state")
}

impl StateFile {
    /// Opens the state file of this mirror for writing; creates it if there is none.
    pub fn open(mirror: &Path) -> Result<StateFile, Trouble> {
        let path = path_of(mirror);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .map(StateFile)
            .map_err(|error| {
                let text = format!("could not open state file \"{}\": {}", path.display(), cause(&error));
                Trouble::lasting(CauseKind::of(&error), text)
            })
    }

    /// Returns once what was written is on disk.
    pub fn sync(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }

    /// Whether the state file beside this mirror is this one. It is not if it was deleted, or another was put in its
    /// place.
    pub fn is_beside(&self, mirror: &Path) -> bool {
        let (Ok(own), Ok(found)) = (self.0.metadata(), path_of(mirror).symlink_metadata()) else { return false };
        (own.dev(), own.ino()) == (found.dev(), found.ino())
    }
}

/// How far the WAL is on disk now. A crash can lose only what lies behind it.
pub fn flushed_wal() -> WalPosition {
    // SAFETY: reads shared memory. Postgres does not allow this during recovery, when no caller runs.
    unsafe {
        #[cfg(feature = "pg14")]
        return WalPosition { timeline: pg_sys::ThisTimeLineID, location: pg_sys::GetFlushRecPtr() };
        #[cfg(not(feature = "pg14"))]
        {
            let mut timeline = 0;
            let location = pg_sys::GetFlushRecPtr(&mut timeline);
            WalPosition { timeline, location }
        }
    }
}

/// Where the WAL ended when this server started.
pub fn start_of_this_server(shared: &Shared) -> WalPosition {
    WalPosition { timeline: flushed_wal().timeline, location: shared.recovered_to() }
}

fn system_identifier() -> u64 {
    // SAFETY: reads a value that is in shared memory before any backend starts.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// What a state file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub ledger_id: Uuid,
    pub attachment: Uuid,
    pub previous: Uuid,
    pub is_remembered: bool,
    pub size: u64,
    /// How much of it was certainly on disk.
    pub synced: u64,
    pub inode: u64,
    /// See [`file_identity::born`].
    pub born: i64,
    pub stamp: FileStamp,
    /// It was written at a regular stop, and nothing was written to the file after it.
    pub is_closed: bool,
    system_identifier: u64,
    wal: WalPosition,
}

impl State {
    /// The state beside this mirror, if it can be read and understood.
    pub fn read(mirror: &Path) -> Option<State> {
        let file = regular_file::open_own(path_of(mirror)).ok()?;
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
        State::parse(&serde_json::from_str(&text).ok()?)
    }

    /// Whether the database with this attachment was the last to write the file.
    pub fn is_written_by(&self, own: Uuid) -> bool {
        // The database does not know this attachment yet: the server died before it was remembered.
        let died_between = self.previous == own && !self.is_remembered;
        self.attachment == own || died_between
    }

    fn parse(value: &Value) -> Option<State> {
        let uuid = |name: &str| Uuid::parse_str(value[name].as_str()?).ok();
        Some(State {
            ledger_id: uuid("ledger_id")?,
            attachment: uuid("attachment")?,
            previous: uuid("previous_attachment")?,
            is_remembered: value["is_remembered"].as_bool()?,
            size: value["size"].as_u64()?,
            synced: value["synced"].as_u64()?,
            inode: value["inode"].as_u64()?,
            born: value["born"].as_i64().unwrap_or_default(),
            stamp: FileStamp { modified: value["modified"].as_i64()?, changed: value["changed"].as_i64()? },
            is_closed: value["is_closed"].as_bool()?,
            system_identifier: value["system_identifier"].as_u64()?,
            wal: WalPosition {
                timeline: value["timeline"].as_u64()?.try_into().ok()?,
                location: value["wal_location"].as_u64()?,
            },
        })
    }

    /// Whether the file is exactly what it was when the state was written.
    pub fn is_unchanged(&self, metadata: &std::fs::Metadata) -> bool {
        (self.size, self.inode, self.stamp) == (metadata.len(), metadata.ino(), FileStamp::of(metadata))
    }

    /// Whether it was written about this very file, and not about one that this is a copy of.
    pub fn is_about(&self, metadata: &std::fs::Metadata) -> bool {
        self.inode == metadata.ino() && file_identity::may_be_one(self.born, file_identity::born(metadata))
    }

    /// Whether the file was new when it was attached here, by an attachment that the database does not know of yet.
    pub fn is_begun_here(&self) -> bool {
        self.is_of_this_cluster() && self.previous.is_nil() && !self.is_remembered
    }

    pub fn is_of_this_cluster(&self) -> bool {
        self.system_identifier == system_identifier()
    }

    /// The timeline of the server that wrote the file.
    pub fn timeline(&self) -> u32 {
        self.wal.timeline
    }

    /// Why the database cannot be the one that wrote the file last, judged by where its WAL ended when it started.
    pub fn missing_wal(&self, start: WalPosition, data_directory: &Path) -> Option<String> {
        // pg_upgrade makes a new WAL, which cannot be compared.
        if !self.is_of_this_cluster() {
            return None;
        }
        let name = data_directory.join("pg_wal").join(format!("{:08X}.history", start.timeline));
        let history = std::fs::read_to_string(name).ok();
        let is_there = wal::contains(start, history.as_deref(), self.wal)?;
        (!is_there).then(|| {
            format!("it started at WAL location {}, the file was last written at {}", start.text(), self.wal.text())
        })
    }
}

/// What the server knows of the file, even without having looked at it.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    pub size: u64,
    /// How much of it is on disk.
    pub synced: u64,
    pub inode: u64,
    pub born: i64,
    pub stamp: FileStamp,
}

/// Writes the state. It is shorter than a page, so only a failing file system can tear it. `wal` was read before
/// `known`. `is_closed` says that this is the last write.
pub fn write(
    state: &StateFile,
    ownership: &Ownership,
    known: &Known,
    wal: WalPosition,
    is_closed: bool,
) -> std::io::Result<()> {
    let mut text = json!({
        "ledger_id": Uuid::from_bytes(ownership.ledger_id).to_string(),
        "attachment": Uuid::from_bytes(ownership.attachment).to_string(),
        "previous_attachment": Uuid::from_bytes(ownership.previous).to_string(),
        "is_remembered": ownership.is_remembered,
        "size": known.size,
        "synced": known.synced,
        "inode": known.inode,
        "born": known.born,
        "modified": known.stamp.modified,
        "changed": known.stamp.changed,
        "system_identifier": system_identifier(),
        "timeline": wal.timeline,
        "wal_location": wal.location,
        "is_closed": is_closed,
        "written_at": tables::now().to_string(),
    })
    .to_string();
    text.push('\n');
    state.0.write_all_at(text.as_bytes(), 0)?;
    state.0.set_len(text.len() as u64)
}
