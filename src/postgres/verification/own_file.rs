//! The mirror file that is verified: which one it is, what it must hold, and how to verify a file by itself.

use super::opened_file::{Acknowledged, OpenedFile};
use super::progress::{Phase, Progress};
use crate::ledger::record::{Header, FORMAT};
use crate::ledger::verifier::{
    verify_file, FileBlock, FileOptions, FileReport, Findings, Observer, Problem, ProblemKind, Source,
};
use crate::postgres::database;
use crate::postgres::errors::{cause, Failure};
use crate::postgres::helper_threads::helpers;
use crate::postgres::memory;
use crate::postgres::mirror::remembered::{self, Remembered};
use crate::postgres::secrets;
use crate::postgres::settings::{self, MirrorMode};
use crate::regular_file;
use pgrx::{check_for_interrupts, PgSqlErrorCode};
use std::fs::File;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The mirror file, or why there is none to look at.
pub fn file_to_check() -> Result<PathBuf, String> {
    if settings::mirror_mode() == MirrorMode::Off {
        return Err("the mirror is off".to_owned());
    }
    if !database::is_preloaded() {
        return Err("pg_notary is not in shared_preload_libraries, so there is no mirror".to_owned());
    }
    file_to_read()
}

/// As [`file_to_check`], whether or not the file is being written now.
pub fn file_to_read() -> Result<PathBuf, String> {
    let path = remembered::own_file();
    let standby = database::is_in_recovery();
    match regular_file::open_own(&path).and_then(|file| file.metadata()) {
        Err(error) if error.kind() == ErrorKind::NotFound && settings::mirror_mode() == MirrorMode::Off => {
            Err("the mirror is off, and there is no file of an earlier time".to_owned())
        }
        Err(error) if standby => Err(format!("the mirror file cannot be read from this standby: {}", cause(&error))),
        Ok(file) if standby && (is_in_data_directory(&path) || file.len() < Remembered::read().acknowledged) => {
            Err("the mirror file beside this standby is an older copy, not the primary's file".to_owned())
        }
        _ => Ok(path),
    }
}

/// Whether the file is in the data directory. On a standby it is then a copy from the base backup, to which no process
/// appends.
fn is_in_data_directory(path: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(path).zip(real(&remembered::data_directory())).is_some_and(|(file, data)| file.starts_with(data))
}

/// On the primary, a file that cannot be read is a problem of the file.
pub fn unreadable(path: &Path, error: &std::io::Error, sink: &dyn Fn(&Problem)) -> FileReport {
    let detail = format!("mirror file \"{}\" cannot be read: {}", path.display(), cause(error));
    let mut findings = Findings::with_sink(sink);
    findings.report(Problem::new(Source::File, ProblemKind::FileUnreadable, detail));
    let mut report = FileReport::default();
    report.add(findings);
    report
}

/// Only a later version can say whether a file of its format is valid.
pub fn refuse_later_format(file: &File) -> std::io::Result<()> {
    match Header::later_format(file)? {
        Some(format) => Err(std::io::Error::new(
            ErrorKind::Unsupported,
            format!("it has format {format}, and this server knows only format {FORMAT}"),
        )),
        None => Ok(()),
    }
}

/// What the ledger's own file must be: it has this ledger's header, and is no shorter than what was acknowledged.
pub fn check_own_file(acknowledged: &Acknowledged, report: &FileReport, length: u64, findings: &mut Findings<'_>) {
    let own = &acknowledged.remembered;
    if let Some(header) = report.header.as_ref() {
        if header.ledger_id != own.ledger_id || header.timestamp != own.started_at {
            let detail = format!(
                "line 1: the header states ledger {} from {}, but this is ledger {} from {}",
                header.ledger_id, header.timestamp, own.ledger_id, own.started_at
            );
            findings.report(Problem::new(Source::File, ProblemKind::OtherLedger, detail));
        }
    }
    if length < acknowledged.bytes {
        let detail = format!("the file has {length} bytes, and had at least {} on disk", acknowledged.bytes);
        findings.report(Problem::new(Source::File, ProblemKind::FileTruncated, detail));
    }
}

/// Verifies a file by itself.
pub fn verify_file_alone(path: &Path, is_own: bool) -> Result<FileReport, Failure> {
    let progress = Progress::start();
    let keyring = secrets::verifying_keyring()?;
    let unreadable = |error: std::io::Error| {
        let code = match error.kind() {
            ErrorKind::NotFound => PgSqlErrorCode::ERRCODE_UNDEFINED_FILE,
            ErrorKind::Unsupported => PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            _ => PgSqlErrorCode::ERRCODE_IO_ERROR,
        };
        Failure::new(code, format!("could not read file \"{}\": {}", path.display(), cause(&error)))
    };
    let (file, acknowledged) = match is_own {
        true => {
            let (_, file, acknowledged) = OpenedFile::open(path.to_owned());
            (file, Some(acknowledged))
        }
        false => (regular_file::open(path), None),
    };
    let file = file.map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    refuse_later_format(&file).map_err(unreadable)?;
    progress.totals(0, length);
    progress.phase(Phase::Blocks);
    let mut watcher = Watcher { progress: &progress, blocks: 0, entries: 0 };
    let options = FileOptions { keyring: keyring.as_deref(), helpers: helpers() };
    let mut report = verify_file(file, options, &mut watcher).map_err(unreadable)?;
    if let Some(acknowledged) = acknowledged {
        let mut findings = Findings::new();
        check_own_file(&acknowledged, &report, length, &mut findings);
        report.add(findings);
    }
    Ok(report)
}

/// Shows the progress of a file that is verified by itself.
struct Watcher<'a> {
    progress: &'a Progress,
    blocks: u64,
    entries: u64,
}

impl Observer for Watcher<'_> {
    fn progress(&mut self, bytes: u64) -> ControlFlow<()> {
        check_for_interrupts!();
        memory::check_helpers();
        self.progress.bytes(bytes);
        ControlFlow::Continue(())
    }

    fn block(&mut self, block: FileBlock) {
        self.blocks += 1;
        self.entries += block.entries.len() as u64;
        self.progress.blocks(self.blocks, self.entries);
    }
}
