//! Verification of a ledger: of its tables, and of its file.
//!
//! Everything is recomputed from what is stored, in one pass and in bounded memory, block by block:
//!
//! - [`ChainVerifier`] checks blocks in order, wherever they come from: numbers, links, counts, leaf indexes, Merkle
//!   roots, the log tree, block hashes and signatures.
//! - [`FileVerifier`] reads a ledger file line by line, puts together the blocks it holds, and gives them to a
//!   `ChainVerifier`; [`verify_file`] drives it over a whole file, and has other threads read and hash the lines.
//! - [`EntryHasher`] makes of entries, as the tables have them, what the `ChainVerifier` needs.
//! - [`compare_blocks`] names what differs between a block of the tables and the same block of the file.
//!
//! Whatever is wrong is a [`Problem`]; [`Findings`] counts and lists them. What only follows from a problem already
//! named is not named again: after a wrong log tree root the true tree is not known, so roots are checked again only
//! from the next block on whose tree is known by its root alone, one with a power of two of leaves.
//!
//! # What a file alone cannot show
//!
//! - The order of entry lines before their block's line: transactions commit in any order, and the block's line states
//!   the order of the leaves.
//! - Entry lines that no block holds: one that is removed or added, or changed in what its signature does not cover,
//!   leaves a file that could have been written so. So does a void that is removed, as its entries are then pending, or
//!   changed in its reason or time, and so does a voided entry that is recorded again.
//! - The values of the header line.
//! - The removal of the last block, or of all lines after some line.
//!
//! A comparison with the database shows all of these, except in what the database does not have: the reason and the
//! time of a void, and the line of an entry that is voided, which may be another or one more.

mod chain;
mod compare;
mod file;
mod hasher;
mod line;
mod lines;
mod parallel;
mod pending;
mod problem;
mod reader;
mod sealed;
mod signatures;

#[cfg(test)]
mod tests;

pub use chain::{ChainVerifier, Computed};
pub use compare::compare_blocks;
pub use file::{FileBlock, FileReport, FileVerifier};
pub use hasher::{EntryHasher, HashedEntry, StoredEntry, StoredMetadata};
pub use lines::MAX_LINE;
pub use parallel::Helpers;
pub use pending::{PendingEntries, PendingEntry};
pub use problem::{Findings, Problem, ProblemKind, Source, MAX_LISTED};
pub use reader::{verify_file, FileOptions, Observer};
pub use sealed::{DataHash, SealedEntry};
pub use signatures::{check_signature, KeyCounts, MissingKey, SignatureCheck, SignatureCounts, WrongKey};
