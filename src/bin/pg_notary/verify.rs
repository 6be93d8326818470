//! `pg_notary verify`: verifies a ledger file without the server that wrote it.

use crate::ledger_file;
use crate::noted_blocks::{NotedBlock, NotedBlocks};
use crate::output::{complain, print, printable, short_name};
use crate::progress;
use crate::{INVALID, UNREADABLE, VALID};
use indicatif::ProgressBar;
use pg_notary::ledger::signature::{Keyring, MAX_KEYRING};
use pg_notary::ledger::verifier::{
    verify_file, FileBlock, FileOptions, FileReport, Helpers, Observer, Problem, ProblemKind, SignatureCounts,
};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
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
            print(&text, if report.valid() { VALID } else { INVALID })
        }
        Err(message) => {
            complain(&message);
            UNREADABLE
        }
    }
}

fn verify(path: &Path, secret_file: Option<&Path>, noted: NotedBlocks) -> Result<FileReport, String> {
    let keyring = secret_file.map(read_keyring).transpose()?;
    let unusable = |what: String| format!("{}: {what}", path.display());
    let unreadable = |error: io::Error| unusable(error.to_string());
    let file = ledger_file::open(path).map_err(unusable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let bar = progress::bar(length, "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let mut watcher = Watcher { bar, noted };
    let options = FileOptions { keyring: keyring.as_ref(), helpers: Helpers::up_to(MOST_HELPERS) };
    let report = verify_file(&file, options, &mut watcher);
    watcher.bar.finish_and_clear();
    let mut report = report.map_err(unreadable)?;
    if report.record_count == 0 {
        let found = report.errors.first().map_or("it has no complete line", |problem| &problem.detail);
        return Err(unusable(ledger_file::describe(&file, found)));
    }
    report.add(watcher.noted.finish());
    Ok(report)
}

/// Reads the secrets; refuses a file that other users can read.
fn read_keyring(path: &Path) -> Result<Keyring, String> {
    let unreadable = |error: io::Error| format!("secret file {}: {error}", path.display());
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(format!("secret file {}: is a directory: name the file in it", path.display()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
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
    line("file", printable(&path.display().to_string()));
    if let Some(header) = &report.header {
        line("ledger", header.ledger_id.to_string());
        line("database", short_name(&header.database).escape_debug().to_string());
    }
    line("blocks", report.block_count.to_string());
    line("entries", report.entry_count.to_string());
    line("pending", report.pending.len().to_string());
    line("voided", report.void_count.to_string());
    if let Some(block) = &report.last_block {
        line("last block", format!("{}:{}", block.block_number, block.block_hash));
    }
    line("signatures", signatures(report.signatures.as_ref()));
    for warning in &report.warnings {
        line("warning", warning.clone());
    }
    text + &verdict(report)
}

fn signatures(counts: Option<&SignatureCounts>) -> String {
    let Some(counts) = counts else { return "not checked (--secret-file FILE checks them)".to_owned() };
    let SignatureCounts { valid, invalid, unknown_key, unsigned, .. } = *counts;
    if valid + invalid + unknown_key == 0 && unsigned > 0 {
        return "NONE: no entry is signed, so the secret shows nothing".to_owned();
    }
    let all = [(valid, "valid"), (invalid, "invalid"), (unknown_key, "with an unknown key"), (unsigned, "unsigned")];
    let found = all.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    format!("checked: {}", found.collect::<Vec<_>>().join(", "))
}

fn verdict(report: &FileReport) -> String {
    if report.valid() {
        return "\nVALID\n".to_owned();
    }
    let count = report.error_count;
    let mut text = format!("\n{}: {count} problem{}\n", headline(report), if count == 1 { "" } else { "s" });
    // One wrong key makes a problem of each entry, and must not hide the others.
    let (of_keys, others): (Vec<_>, Vec<_>) = report.errors.iter().partition(|problem| is_of_key(problem));
    for problem in others.into_iter().chain(of_keys).take(SHOWN) {
        text += &format!("  {}\n", sentence(problem));
    }
    let shown = report.errors.len().min(SHOWN) as u64;
    if count > shown {
        text += &format!("  and {} more\n", count - shown);
    }
    text + &about_keys(report)
}

fn is_of_key(problem: &Problem) -> bool {
    matches!(problem.problem, ProblemKind::UnknownKey | ProblemKind::SignatureInvalid)
}

/// What to do about keys that are missing, or seem to be wrong.
fn about_keys(report: &FileReport) -> String {
    let mut text = String::new();
    let missing_keys = report.signatures.as_ref().map(|counts| &counts.missing_keys[..]).unwrap_or_default();
    if !missing_keys.is_empty() {
        text += "Signatures made with an unknown key cannot be checked. Add these keys to the secret file, and verify again:\n";
        for missing in missing_keys {
            let (key_id, plural) =
                (printable(&short_name(&missing.key_id)), if missing.entries == 1 { "y" } else { "ies" });
            text +=
                &format!("  {key_id} ({} entr{plural}, the first on line {})\n", missing.entries, missing.first_line);
        }
    }
    for wrong in &report.wrong_keys {
        text += &format!("{}.\n", printable(&wrong.to_string()));
    }
    text
}

/// If only keys are missing, nothing points to tampering. No kind of problem keeps others out of the list.
fn headline(report: &FileReport) -> &'static str {
    match report.errors.iter().all(|problem| problem.problem == ProblemKind::UnknownKey) {
        true => "NOT VERIFIED",
        false => "TAMPERED",
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
