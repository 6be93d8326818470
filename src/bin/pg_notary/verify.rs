//! `pg_notary verify`: verifies a ledger file without the server that wrote it.

use crate::noted_blocks::{NotedBlock, NotedBlocks};
use crate::progress;
use crate::{INVALID, UNREADABLE, VALID};
use indicatif::ProgressBar;
use pg_notary::ledger::signature::{Keyring, MAX_KEYRING};
use pg_notary::ledger::verifier::{
    verify_file, FileBlock, FileOptions, FileReport, Helpers, Observer, Problem, ProblemKind,
};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The most helper threads: more would only wait for the one thread that puts the lines together.
const MOST_HELPERS: usize = 4;

/// How many problems the verdict for people names.
const SHOWN: usize = 20;

#[derive(clap::Args)]
pub struct VerifyArguments {
    /// The ledger file (JSON lines).
    file: PathBuf,
    /// Print the verdict as one JSON object.
    #[arg(long)]
    json: bool,
    /// Check signatures with the secrets in this file: lines of key_id:secret, mode 0600.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The hash of a block that was noted elsewhere: the file must have that block. Can be given several times.
    #[arg(long = "noted-block", value_name = "NUMBER:HASH")]
    noted_blocks: Vec<NotedBlock>,
}

/// Runs the command, and gives its exit status.
pub fn run(arguments: &VerifyArguments) -> u8 {
    let VerifyArguments { file, json, secret_file, noted_blocks } = arguments;
    match verify(file, secret_file.as_deref(), NotedBlocks::new(noted_blocks)) {
        Ok(report) => {
            let text = if *json { format!("{}\n", report.to_json()) } else { describe(file, &report) };
            // A reader that has gone away does not change the verdict.
            let _ = io::stdout().write_all(text.as_bytes());
            if report.valid() {
                VALID
            } else {
                INVALID
            }
        }
        Err(message) => {
            eprintln!("pg_notary: {message}");
            UNREADABLE
        }
    }
}

fn verify(path: &Path, secret_file: Option<&Path>, noted: NotedBlocks) -> Result<FileReport, String> {
    let keyring = secret_file.map(read_keyring).transpose()?;
    let unreadable = |error: io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_file() && metadata.len() == 0 {
        return Err(format!("{}: the file is empty", path.display()));
    }
    let bar = progress::bar(metadata.len(), "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let mut watcher = Watcher { bar, noted };
    let options = FileOptions { keyring: keyring.as_ref(), helpers: Helpers::up_to(MOST_HELPERS) };
    let report = verify_file(file, options, &mut watcher);
    watcher.bar.finish_and_clear();
    let mut report = report.map_err(unreadable)?;
    if report.record_count == 0 {
        return Err(format!("{}: not a ledger file", path.display()));
    }
    report.add(watcher.noted.finish());
    Ok(report)
}

/// Reads the secrets; refuses a file that other users can read.
fn read_keyring(path: &Path) -> Result<Keyring, String> {
    let unreadable = |error: io::Error| format!("secret file {}: {error}", path.display());
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "secret file {} has mode {mode:04o} and can be used by others: make it 0600",
            path.display()
        ));
    }
    let mut text = Vec::new();
    file.take(MAX_KEYRING as u64 + 1).read_to_end(&mut text).map_err(unreadable)?;
    Keyring::parse(text).map_err(|error| format!("secret file {}: {error}", path.display()))
}

struct Watcher {
    bar: ProgressBar,
    noted: NotedBlocks,
}

impl Observer for Watcher {
    fn progress(&mut self, bytes: u64) -> ControlFlow<()> {
        self.bar.set_position(bytes);
        ControlFlow::Continue(())
    }

    fn block(&mut self, block: FileBlock) {
        self.noted.see(&block);
    }
}

/// The verdict for people.
fn describe(path: &Path, report: &FileReport) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Infallible: a string takes any text.
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("file", path.display().to_string());
    if let Some(header) = &report.header {
        line("ledger", header.ledger_id.to_string());
        line("database", header.database.escape_debug().to_string());
    }
    line("blocks", report.block_count.to_string());
    line("entries", report.entry_count.to_string());
    line("pending", report.pending.len().to_string());
    line("voided", report.void_count.to_string());
    if let Some(block) = &report.last_block {
        line("last block", format!("{} {}", block.block_number, block.block_hash));
    }
    let signatures = match report.signatures_checked {
        true => "checked",
        false => "not checked (--secret-file FILE checks them)",
    };
    line("signatures", signatures.to_owned());
    for warning in &report.warnings {
        line("warning", warning.clone());
    }
    text + &verdict(report)
}

fn verdict(report: &FileReport) -> String {
    if report.valid() {
        return "\nVALID\n".to_owned();
    }
    let count = report.error_count;
    let mut text = format!("\n{}: {count} problem{}\n", headline(report), if count == 1 { "" } else { "s" });
    for problem in report.errors.iter().take(SHOWN) {
        text += &format!("  {}\n", sentence(problem));
    }
    if count > SHOWN as u64 {
        text += &format!("  and {} more\n", count - SHOWN as u64);
    }
    if report.errors.iter().any(|problem| problem.problem == ProblemKind::UnknownKey) {
        text += "Signatures made with an unknown key cannot be checked: add the keys of these entries to the secret file, and verify again.\n";
    }
    text
}

/// If only keys are missing, nothing points to tampering.
fn headline(report: &FileReport) -> &'static str {
    let are_all_listed = report.errors.len() as u64 == report.error_count;
    let lacks_keys = are_all_listed && report.errors.iter().all(|problem| problem.problem == ProblemKind::UnknownKey);
    if lacks_keys {
        "NOT VERIFIED"
    } else {
        "TAMPERED"
    }
}

fn sentence(problem: &Problem) -> String {
    let mut place = String::new();
    if let Some(number) = problem.block_number {
        place += &format!(" block {number}");
    }
    if let Some(index) = problem.leaf_index {
        place += &format!(" leaf {index}");
    }
    if let Some(id) = problem.entry_id {
        place += &format!(" entry {id}");
    }
    format!("{}{place}: {}", problem.problem, problem.detail)
}
