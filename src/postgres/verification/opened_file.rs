//! The ledger's own file as one verification has opened it. Makes sure that what is acknowledged was said of this very
//! file, and tells whether it is still the ledger's file: `mirror_restart()` puts another one in its place.

use crate::postgres::database;
use crate::postgres::mirror::remembered::{self, Remembered};
use crate::postgres::mirror::shared::Attachment;
use crate::postgres::settings::{self, MirrorMode};
use crate::postgres::timeout::Timeout;
use crate::regular_file;
use pgrx::check_for_interrupts;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a verification waits for a worker. One that starts with the server is there by then.
const WORKER_DEADLINE: Duration = Duration::from_secs(2);
/// How long to try to open a file that is not being replaced.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);

/// What the file must hold: all blocks up to this one, and at least that many bytes.
pub struct Acknowledged {
    pub block: i64,
    pub bytes: u64,
    pub remembered: Remembered,
}

impl Acknowledged {
    /// What the database remembers, combined with what this server has seen since it started.
    pub fn now() -> Self {
        let remembered = Remembered::read();
        let (mut block, mut bytes) = (remembered.acknowledged_block, remembered.acknowledged);
        if let Ok(mirror) = database::mirror() {
            let own_file = remembered::own_file();
            let fields = mirror.lock();
            // Shared memory may still be about the file of a ledger that was dropped.
            if Path::new(&fields.path.get()) == own_file {
                (block, bytes) = (block.max(fields.last_block), bytes.max(fields.durable));
            }
        }
        Acknowledged { block, bytes, remembered }
    }
}

pub struct OpenedFile {
    pub path: PathBuf,
    /// Device and inode, if it was there.
    identity: Option<(u64, u64)>,
    /// The number of the attachment at that time.
    generation: Option<u64>,
    /// How many writes and syncs of the file had failed by then.
    failures: Option<u64>,
}

impl OpenedFile {
    /// Opens the file, together with what is acknowledged of this very file.
    pub fn open(path: PathBuf) -> (OpenedFile, io::Result<File>, Acknowledged) {
        let mut timeout = Timeout::after(OPEN_DEADLINE);
        loop {
            check_for_interrupts!();
            let is_awaited = wait_for_repair();
            let before = attachment();
            let failures = failures();
            let file = regular_file::open_own(&path);
            let acknowledged = Acknowledged::now();
            let is_the_same = before == attachment() && !before.is_some_and(|(state, _)| is_under_way(state));
            if is_the_same || !is_awaited || timeout.is_over() {
                let metadata = file.as_ref().ok().and_then(|file| file.metadata().ok());
                let identity = metadata.map(|metadata| (metadata.dev(), metadata.ino()));
                let generation = before.map(|(_, generation)| generation);
                return (OpenedFile { path, identity, generation, failures }, file, acknowledged);
            }
        }
    }

    /// Whether a write or a sync of the server's file has failed since, so that lines may have been cut off.
    pub fn has_failed_since(&self) -> bool {
        self.failures != failures()
    }

    /// Whether the server has another file since, to which the lines of new commits go. If only this one was put in
    /// place of the server's, as an editor does, it must have all lines all the same.
    pub fn is_replaced(&self) -> bool {
        database::mirror().is_ok_and(|mirror| {
            let fields = mirror.lock();
            // Shared memory may be about an earlier time, or about the file of a ledger that was dropped.
            let is_known = fields.attachment == Attachment::Attached && Path::new(&fields.path.get()) == self.path;
            let attached = (fields.identity.device, fields.identity.inode);
            let is_new = self.generation != Some(fields.identity.generation);
            is_known && is_new && self.identity.is_some_and(|own| own != attached)
        })
    }
}

/// The state of the file, and the number of its attachment.
fn attachment() -> Option<(Attachment, u64)> {
    let mirror = database::mirror().ok()?;
    let fields = mirror.lock();
    Some((fields.attachment, fields.identity.generation))
}

fn failures() -> Option<u64> {
    Some(database::mirror().ok()?.lock().failures)
}

fn is_under_way(state: Attachment) -> bool {
    matches!(state, Attachment::Detached | Attachment::Repairing)
}

/// Gives the worker time to bring the file up to date: the ledger may just have been rebuilt and have no file yet. The
/// verification shows what came of it. False if there is no worker to wait for.
fn wait_for_repair() -> bool {
    let Ok(mirror) = database::mirror() else { return false };
    let standby = database::is_in_recovery();
    if standby || settings::mirror_mode() == MirrorMode::Off {
        return false;
    }
    let state = mirror.lock().attachment;
    // The mode has been changed from off, and the worker has not noticed yet.
    let is_to_be_opened = state == Attachment::Off;
    if !is_under_way(state) && !is_to_be_opened {
        return true;
    }
    // A template has no worker, and neither has a database for which no process was left. The file can be read all the
    // same.
    let has_worker = mirror.wait_for_worker(WORKER_DEADLINE).is_ok_and(|has_worker| has_worker);
    has_worker && mirror.wait_for_file().is_ok()
}
