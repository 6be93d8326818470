//! The settings under the prefix `ledger.`. They decide what is proved, so an ordinary user cannot change any of them.

use crate::ledger::block::MAX_ENTRIES;
use pgrx::{pg_sys, GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::{CStr, CString};

/// How many entries fill a block.
static BLOCK_SIZE: GucSetting<i32> = GucSetting::<i32>::new(100);
/// How long, in seconds, an entry may wait for its block to fill.
static BLOCK_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(300);
/// Whether a commit waits for its lines to be in the mirror file.
static MIRROR_MODE: GucSetting<MirrorMode> = GucSetting::<MirrorMode>::new(MirrorMode::Sync);
/// Where the mirror files live; relative to the data directory.
static MIRROR_DIRECTORY: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(DEFAULT_MIRROR_DIRECTORY));
/// The file with the HMAC secrets, one `key_id:secret` a line.
static HMAC_SECRET_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// The one directory that the server makes itself.
const DEFAULT_MIRROR_DIRECTORY: &CStr = c"pg_notary";

/// What a commit promises about the mirror file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum MirrorMode {
    /// The lines are on disk before the transaction commits.
    #[name = c"sync"]
    Sync,
    /// The lines are handed to the operating system before the transaction commits, and on disk within a second.
    #[name = c"write"]
    Write,
    /// The worker appends the lines of what is committed.
    #[name = c"async"]
    Async,
    /// There is no file.
    #[name = c"off"]
    Off,
}

impl MirrorMode {
    pub fn as_str(self) -> &'static str {
        match self {
            MirrorMode::Sync => "sync",
            MirrorMode::Write => "write",
            MirrorMode::Async => "async",
            MirrorMode::Off => "off",
        }
    }

    /// Whether commits wait for the file, and what is sealed does.
    pub fn waits_for_file(self) -> bool {
        matches!(self, MirrorMode::Sync | MirrorMode::Write)
    }
}

/// When this process last read the settings.
pub fn read_at() -> pg_sys::TimestampTz {
    // SAFETY: a global of this process, which only its one thread writes.
    unsafe { pg_sys::PgReloadTime }
}

pub fn init() {
    define_sealing();
    define_mirror();
    define_secrets();
    reserve_prefix();
}

fn define_sealing() {
    GucRegistry::define_int_guc(
        c"ledger.block_size",
        c"Number of pending entries that fill a block.",
        c"A block is sealed as soon as this many entries are pending; under load, within about a second.",
        &BLOCK_SIZE,
        1,
        MAX_ENTRIES as i32,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"ledger.block_interval",
        c"Longest time an entry waits for its block to fill.",
        c"Pending entries are sealed once the oldest of them is this old.",
        &BLOCK_INTERVAL,
        1,
        i32::MAX / 1000,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
}

fn define_mirror() {
    GucRegistry::define_enum_guc(
        c"ledger.mirror_mode",
        c"How far the mirror file must be written before a transaction that records can commit.",
        c"sync: on disk. write: handed to the operating system. async: the worker follows. off: there is no file.",
        &MIRROR_MODE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"ledger.mirror_directory",
        c"Directory of the mirror files; a relative path is relative to the data directory.",
        c"It must belong to the server's user, and no other user may be able to write to it.",
        &MIRROR_DIRECTORY,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
}

fn define_secrets() {
    GucRegistry::define_string_guc(
        c"ledger.hmac_secret_file",
        c"File with the HMAC secrets, one key_id:secret a line; the first signs, all verify.",
        c"Its mode must be 0600. It is read again when the configuration is reloaded.",
        &HMAC_SECRET_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
}

#[cfg(not(feature = "pg14"))]
fn reserve_prefix() {
    // SAFETY: a NUL-terminated string, copied by Postgres; called from _PG_init as it must be.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"ledger".as_ptr()) }
}

#[cfg(feature = "pg14")]
fn reserve_prefix() {
    // SAFETY: a NUL-terminated string, copied by Postgres; called from _PG_init as it must be. Before Postgres 15 the
    // function has this name.
    unsafe { pg_sys::EmitWarningsOnPlaceholders(c"ledger".as_ptr()) }
}

/// Entries in a full block, 1 to 10000.
pub fn block_size() -> usize {
    BLOCK_SIZE.get() as usize
}

/// The longest wait for a block, in microseconds.
pub fn block_interval_micros() -> i64 {
    i64::from(BLOCK_INTERVAL.get()) * 1_000_000
}

pub fn mirror_mode() -> MirrorMode {
    MIRROR_MODE.get()
}

/// The mirror directory as configured; empty counts as the default.
pub fn mirror_directory() -> MirrorDirectory {
    let default = DEFAULT_MIRROR_DIRECTORY.to_string_lossy();
    let path = text(&MIRROR_DIRECTORY).unwrap_or_else(|| default.to_string());
    MirrorDirectory { is_default: path == default, path }
}

pub struct MirrorDirectory {
    /// Relative to the data directory.
    pub path: String,
    pub is_default: bool,
}

/// The secret file as configured, if any.
pub fn hmac_secret_file() -> Option<String> {
    text(&HMAC_SECRET_FILE)
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    let value = setting.get()?.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(value)
}

extern "C" {
    /// The setting max_prepared_transactions (access/twophase.h), which is not in pgrx's bindings.
    static max_prepared_xacts: std::ffi::c_int;
}

/// How many transactions can be prepared at the same time.
pub fn max_prepared() -> usize {
    // SAFETY: a global that is set before any transaction begins, and never changes.
    unsafe { max_prepared_xacts as usize }
}

/// Whether this server can prepare transactions.
pub fn may_prepare() -> bool {
    max_prepared() > 0
}
