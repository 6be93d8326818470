//! `pg_notary items`: signs and verifies the items in a tree of files, and compares them with a registry.

mod file;
mod process;
mod report;
mod sync;
mod sync_report;
mod tree;

use crate::output::{complain, print};
use crate::progress;
use crate::UNREADABLE;
use pg_notary::items::item::check_version;
use process::{Action, Processor};
use rayon::prelude::*;
use report::{Record, Report};
use std::path::PathBuf;
use tree::{Found, Tree};

#[derive(clap::Subcommand)]
pub enum ItemsCommand {
    /// Sign all items that have no valid signature: puts a signature line into each of their files.
    ///
    /// Items whose signature is valid are left alone. Exits with 0 if all items are signed now, 1 if some cannot be, 2
    /// if something cannot be read or written.
    Sign(ItemsArguments),
    /// Verify the signature lines, and name the items that are not valid.
    ///
    /// Exits with 0 if all items are valid, 1 if some are modified, moved, unsigned or not items, 2 if something cannot
    /// be read. Anyone can sign a file: only a ledger knows who did.
    Verify(ItemsArguments),
    /// Do the same as verify, and list every item.
    Status(ItemsArguments),
    /// Compare the items with the registry in a database, and name those that differ.
    ///
    /// Exits with 0 if all match, 1 if there are differences, 2 if something cannot be read or the database cannot be
    /// asked. Two kinds of items that no file has are counted, but are no differences: versions older than one that a
    /// file has, and revoked ones. Nothing is changed, here or there.
    Sync(sync::SyncArguments),
}

#[derive(clap::Args)]
pub struct ItemsArguments {
    /// A project (a directory with .ai in it), its .ai directory, or a directory or file in .ai/tools, .ai/directives
    /// or .ai/knowledge.
    ///
    /// Items are Markdown files in directives and knowledge; in tools, files with the extension of a known language and
    /// programs that start with #!. Hidden files, __pycache__ and node_modules are skipped, and so are symbolic links
    /// to an item or directory that is examined under its own name. A link to an item or directory that is not, or to
    /// anything outside the base, is refused.
    ///
    /// An item's id is a directive's attribute name, knowledge's zettel_id, or else the file's name without extension;
    /// its version is the attribute or key version, or in a tool a line `__version__ = "1.0.0"` or a comment
    /// `version: 1.0.0`.
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// The version of items that do not state one.
    #[arg(long, value_name = "VERSION", default_value = "1.0.0", value_parser = parse_version)]
    default_version: String,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

fn parse_version(text: &str) -> Result<String, String> {
    check_version(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// Runs the command, and gives its exit status.
pub fn run(command: &ItemsCommand) -> u8 {
    let (action, list_all, arguments) = match command {
        ItemsCommand::Sign(arguments) => (Action::Sign, false, arguments),
        ItemsCommand::Verify(arguments) => (Action::Verify, false, arguments),
        ItemsCommand::Status(arguments) => (Action::Verify, true, arguments),
        ItemsCommand::Sync(arguments) => return sync::run(arguments),
    };
    match Tree::read(&arguments.directories) {
        Ok(Tree { found, directories }) => {
            let processor = Processor::new(action, &arguments.default_version, directories);
            let report = process_all(found, &processor);
            let text = if arguments.json { format!("{}\n", report.to_json()) } else { report.describe(list_all) };
            print(&text, report.exit_status())
        }
        Err(message) => {
            complain(&message);
            UNREADABLE
        }
    }
}

fn process_all(found: Vec<Found>, processor: &Processor<'_>) -> Report {
    Report::new(map_all(found, |found| -> Record { processor.process(found) }))
}

/// In parallel, with a progress bar.
fn map_all<T: Send>(found: Vec<Found>, map: impl Fn(Found) -> T + Sync) -> Vec<T> {
    let bar = progress::bar(found.len() as u64, "{bar:40} {pos}/{len} files {eta}");
    let map = |found: Found| {
        let mapped = map(found);
        bar.inc(1);
        mapped
    };
    let mapped = found.into_par_iter().map(map).collect();
    bar.finish_and_clear();
    mapped
}
