//! What the database remembers of its file, in `ledger.log_state`, and where that file is.

use super::file;
use super::handle::Mirror;
use super::state_file;
use crate::ledger::record::{Header, Record, Timestamp};
use crate::ledger::wal::WalPosition;
use crate::postgres::database;
use crate::postgres::errors::Failure;
use crate::postgres::log_state::{self, ranges_from, Settled};
use crate::postgres::settings::{self, MirrorDirectory};
use crate::postgres::shared::Shared;
use crate::postgres::spi;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::ffi::CStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use uuid::Uuid;

pub struct Remembered {
    pub ledger_id: Uuid,
    pub started_at: Timestamp,
    /// Bytes that were in the file when this was written; 0 if there has been no file yet.
    pub acknowledged: u64,
    /// The last block whose line was in the file when this was written.
    pub acknowledged_block: i64,
    pub settled: Settled,
    /// The database this ledger was made in, or has come to with its worker's knowledge.
    pub database: pg_sys::Oid,
    /// The last attachment of the file: a new id each time that a worker opens it.
    pub attachment: Option<Uuid>,
    /// Where the WAL ended when a server first started after that attachment.
    pub start: Option<WalPosition>,
}

impl Remembered {
    pub fn read() -> Remembered {
        let mut remembered = None;
        spi::for_each(
            "SELECT ledger_id, started_at, mirror_bytes, mirror_block, settled_bytes, settled_block, open_ranges, \
             database_oid, mirror_attachment, start_timeline, start_location FROM ledger.log_state",
            &[],
            |row| {
                let bytes = |column| row.get::<i64>(column).unwrap_or_default().max(0) as u64;
                // A superuser may have put anything there.
                let open: Vec<Option<i64>> = row.get(6).unwrap_or_default();
                let open: Vec<i64> = open.into_iter().map(Option::unwrap_or_default).collect();
                remembered = Some(Remembered {
                    ledger_id: row.uuid(0).unwrap_or_default(),
                    started_at: row.timestamp(1).unwrap_or_default(),
                    acknowledged: bytes(2),
                    acknowledged_block: row.get(3).unwrap_or_default(),
                    settled: Settled {
                        bytes: bytes(4),
                        block: row.get(5).unwrap_or_default(),
                        open: ranges_from(&open),
                    },
                    database: row.get(7).unwrap_or(pg_sys::InvalidOid),
                    attachment: row.uuid(8),
                    start: start_from(row.get(9), row.get(10)),
                });
            },
        );
        remembered.unwrap_or_else(|| no_row().raise())
    }

    /// Where the WAL ended when the database was first started after this attachment, as far as is known. WAL that a
    /// server writes after its start says nothing about that, and neither do later starts. If the database does not
    /// know the attachment yet, the start of this server is the first.
    pub fn started_with(&self, shared: &Shared, attachment: Uuid) -> WalPosition {
        let noted = self.start.filter(|_| self.attachment == Some(attachment));
        noted.unwrap_or_else(|| state_file::start_of_this_server(shared))
    }

    /// The first line of this ledger's file.
    pub fn header_line(&self) -> Vec<u8> {
        let header = Header { database: database_name(), ledger_id: self.ledger_id, timestamp: self.started_at };
        let mut line = header.line();
        line.push(b'\n');
        line
    }
}

/// find_tampering() could say no more: it reads the row, too.
fn no_row() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, "ledger.log_state has no row")
        .detail("It was deleted outside of the ledger. It says which ledger this is, and what is known of its file.")
        .hint("Restore that row from a backup, or rebuild the ledger from its file.")
}

fn start_from(timeline: Option<i64>, location: Option<i64>) -> Option<WalPosition> {
    let timeline = u32::try_from(timeline?).ok()?;
    Some(WalPosition { timeline, location: location? as u64 })
}

/// Notes where the WAL ended when this server started, if this is the first start since the file was attached. It is
/// noted even if the file is out of reach or refused: the next start would be too late, because a server that lacks
/// what the file has writes WAL of its own. The caller is in a transaction and holds the sealing lock.
pub fn note_start(shared: &Shared) {
    let remembered = Remembered::read();
    let is_of_another_run = remembered.attachment.is_some_and(|own| !shared.is_of_this_run(own));
    if is_of_another_run && remembered.start.is_none() {
        log_state::remember_start(state_file::start_of_this_server(shared));
    }
}

/// Notes in the database how far the file is acknowledged, and how far it is settled if that is new. The caller is in a
/// transaction and holds the sealing lock.
pub fn remember(mirror: &Mirror, settled: Option<Settled>, attachment: Option<Uuid>) {
    let (durable, last_block) = {
        let fields = mirror.lock();
        (fields.durable, fields.last_block)
    };
    log_state::remember_mirror((durable, last_block), settled.as_ref(), attachment);
}

/// The name of this process's database.
pub fn database_name() -> String {
    // SAFETY: a catalog look-up inside a transaction. The result is a palloc'd string, or null if the row is gone.
    unsafe {
        let name = pg_sys::get_database_name(database::own_oid());
        if name.is_null() {
            return String::new();
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    }
}

pub fn data_directory() -> PathBuf {
    // SAFETY: the postmaster sets this NUL-terminated string before any backend starts, and it never changes.
    unsafe { CStr::from_ptr(pg_sys::DataDir) }.to_string_lossy().into_owned().into()
}

/// Where a mirror file belongs.
pub struct MirrorPath {
    pub directory: PathBuf,
    pub path: PathBuf,
    /// The directory is the default one, which the server makes.
    pub is_default: bool,
}

/// Where the mirror file of this database belongs.
pub fn configured_path(ledger_id: Uuid) -> MirrorPath {
    let MirrorDirectory { path, is_default } = settings::mirror_directory();
    let directory = data_directory().join(path);
    let path = file::path_of(&directory, &database_name(), ledger_id);
    MirrorPath { directory, path, is_default }
}

/// Where this ledger's own file is.
pub fn own_file() -> PathBuf {
    configured_path(Remembered::read().ledger_id).path
}

/// The only file of this ledger in the directory that has another database's name: the database was renamed.
pub fn under_other_name(place: &MirrorPath, ledger_id: Uuid) -> Option<PathBuf> {
    let suffix = format!(".{}.jsonl", &ledger_id.simple().to_string()[..8]);
    let files = std::fs::read_dir(&place.directory).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        files.filter(|path| path.to_string_lossy().ends_with(&suffix) && is_of(path, ledger_id)).collect();
    let only = found.pop();
    only.filter(|_| found.is_empty())
}

/// Whether the file has the name that the mirror file of another database of this server would have.
pub fn is_of_other_database(path: &Path, place: &MirrorPath, ledger_id: Uuid) -> bool {
    let mut is_of_other = false;
    spi::for_each_in_catalogs(
        "SELECT datname::text FROM pg_database WHERE datname <> current_database()",
        &[],
        |row| {
            // The name may be in another encoding than this database's.
            let name = String::from_utf8_lossy(row.bytes(0).unwrap_or_default());
            is_of_other |= file::path_of(&place.directory, &name, ledger_id) == path;
        },
    );
    is_of_other
}

/// Whether the file's header names this ledger.
fn is_of(path: &Path, ledger_id: Uuid) -> bool {
    let Ok(file) = file::open(path, false) else { return false };
    let mut line = Vec::new();
    // A header is short: a name has at most 63 bytes, each at most six characters when escaped.
    let read = BufReader::new(file.take(4096)).read_until(b'\n', &mut line);
    let record = Record::parse(line.trim_ascii_end());
    read.is_ok() && matches!(record, Ok(Record::Ledger(header)) if header.ledger_id == ledger_id)
}
