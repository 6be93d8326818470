//! `pg_notary`: verifies ledger files, and signs and verifies items, without a server.

mod closed_output;
mod items;
mod ledger_file;
mod noted_blocks;
mod output;
mod progress;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// All is as it was recorded or signed.
const VALID: u8 = 0;
/// Something was changed, moved, or never signed.
const INVALID: u8 = 1;
/// Something cannot be read or written; also wrong usage.
const UNREADABLE: u8 = 2;

/// Verifies ledger files and signs items, without Postgres.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Verify a ledger file. Exits with 0 if it is valid, 1 if it is not (it was tampered with, or the secret file
    /// lacks a key or has a wrong one), 2 if it cannot be verified: it cannot be read, or has a later format.
    Verify(verify::VerifyArguments),
    /// Sign and verify the items of a project: tools, directives and knowledge.
    #[command(subcommand)]
    Items(items::ItemsCommand),
}

fn main() -> ExitCode {
    let status = match Arguments::parse().command {
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Items(command) => items::run(&command),
    };
    ExitCode::from(status)
}
