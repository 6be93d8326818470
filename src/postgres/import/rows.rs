//! What an import writes: blocks with their entries, in batches, and the entries that are left pending.

use super::progress::CopyProgress;
use crate::ledger::block::BlockHeader;
use crate::ledger::record::Entry;
use crate::ledger::row_change;
use crate::ledger::signature::MAX_KEY_ID;
use crate::ledger::Hash;
use crate::postgres::blocks;
use crate::postgres::bulk_insert::BulkInsert;
use crate::postgres::entries_pending;
use crate::postgres::errors::Failure;
use crate::postgres::jsonb;
use crate::postgres::partitions;
use crate::postgres::tables::{self, look_up, RegisteredSnapshot, Table};
use crate::postgres::tracking::shape;
use crate::postgres::tracking::versions::NewVersions;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{check_for_interrupts, pg_sys, IntoDatum, PgMemoryContexts, PgSqlErrorCode, PgTryBuilder};
use std::panic::AssertUnwindSafe;

/// Blocks are written as soon as they hold so many entries together, or lines of so many bytes.
const BATCH_ENTRIES: usize = 4096;
const BATCH_BYTES: usize = 16 << 20;
/// The widths of columns for texts that a line does not limit.
const MAX_SIGNATURE: usize = 256;
const REPEATED: &str = "repeats an entry that an earlier block holds";

/// An entry whose block has not come yet.
pub struct KeptEntry {
    pub entry: Entry,
    pub line_number: u64,
    pub bytes: usize,
}

/// Blocks to be written, and their entries in leaf order.
#[derive(Default)]
pub struct Batch {
    blocks: Vec<BlockHeader>,
    entries: Vec<KeptEntry>,
    bytes: usize,
}

/// Runs `work` in a memory context that is freed afterwards. Rows are made by the thousand, and COPY keeps what is
/// allocated for one line until the next.
pub fn in_own_context(work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let mut context = PgMemoryContexts::new("pg_notary import");
    // SAFETY: nothing allocated inside is used after the context is dropped, because `work` returns only Rust values.
    unsafe { context.switch_to(|_| work()) }
}

impl Batch {
    pub fn push_entry(&mut self, kept: KeptEntry) {
        self.bytes += kept.bytes;
        self.entries.push(kept);
    }

    /// Adds the block of the entries added last.
    pub fn push_block(&mut self, block: BlockHeader) {
        self.blocks.push(block);
    }

    pub fn is_full(&self) -> bool {
        self.entries.len() >= BATCH_ENTRIES || self.bytes >= BATCH_BYTES
    }

    pub fn write(&self, nodes: &[(u8, u64, Hash)]) -> Result<(), Failure> {
        blocks::insert_blocks(&self.blocks);
        let progress = CopyProgress::of_statement();
        if let (Some(first), Some(last)) = (self.blocks.first(), self.blocks.last()) {
            partitions::ensure_for_all(first.block_number, last.block_number);
        }
        self.write_entries()?;
        progress.restore();
        blocks::insert_nodes(nodes);
        // SAFETY: inside a transaction. Makes this batch, and partitions that it has created, visible to what follows.
        unsafe { pg_sys::CommandCounterIncrement() };
        self.check_other_partitions()
    }

    /// An id is unique in the whole ledger, but the key of a partition covers that partition alone.
    fn check_other_partitions(&self) -> Result<(), Failure> {
        let Some(last) = self.blocks.last() else { return Ok(()) };
        let mut filled = partitions::sealed();
        filled.retain(|partition| partition.from <= last.block_number);
        if filled.len() < 2 {
            return Ok(());
        }
        let filled: Vec<_> = filled.iter().map(|partition| (partition, partition.open())).collect();
        let snapshot = RegisteredSnapshot::latest();
        let of_blocks =
            self.blocks.iter().flat_map(|block| std::iter::repeat_n(block.block_number, block.data_count as usize));
        for (block_number, kept) in of_blocks.zip(&self.entries) {
            check_for_interrupts!();
            let mut others = filled.iter().filter(|(partition, _)| partition.to <= block_number);
            let is_in = |table: &Table| look_up::find_entry(table, kept.entry.entry_id, &snapshot, |_| ()).is_some();
            if others.any(|(_, table)| is_in(table)) {
                return Err(kept.refused(REPEATED));
            }
        }
        Ok(())
    }

    fn write_entries(&self) -> Result<(), Failure> {
        let mut entries = self.entries.iter();
        let mut versions = NewVersions::default();
        let mut outcome = Ok(());
        let insert = AssertUnwindSafe(|| {
            blocks::fill_partitions(&self.blocks, |block, bulk| {
                let first_leaf = block.tree_size - block.data_count;
                for (leaf_index, kept) in (first_leaf..block.tree_size).zip(&mut entries) {
                    if outcome.is_ok() {
                        outcome = kept.insert(bulk, Some((block.block_number, leaf_index)));
                        let entry = &kept.entry;
                        let row_ids = row_change::row_ids(&entry.entry_type, &entry.metadata);
                        versions.add(row_ids, entry.created_at, leaf_index, block.block_number);
                    }
                }
            });
        });
        PgTryBuilder::new(insert)
            .catch_when(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, |error| match error {
                CaughtError::PostgresError(report) => {
                    self.repeated(report.detail().unwrap_or(report.message())).raise()
                }
                other => other.rethrow(),
            })
            .execute();
        outcome?;
        versions.write_alone()
    }

    /// The error for an entry that an earlier block already holds: the verifier remembers only entries that no block
    /// holds yet.
    fn repeated(&self, detail: &str) -> Failure {
        let is_named = |kept: &&KeptEntry| detail.contains(&kept.entry.entry_id.to_string());
        match self.entries.iter().rev().find(is_named) {
            Some(kept) => kept.refused(REPEATED),
            None => refused(detail.to_owned()),
        }
    }
}

/// Writes the entries that no block holds. None can be sealed already: such a line would repeat an entry of a block.
pub fn write_pending(pending: &[KeptEntry]) -> Result<(), Failure> {
    let table = Table::open("entries_pending", pg_sys::RowExclusiveLock);
    let mut bulk = BulkInsert::new(&table);
    for kept in pending {
        check_for_interrupts!();
        let id = kept.entry.entry_id;
        if let Some(block) = partitions::block_of(id) {
            return Err(kept.refused(&format!("repeats an entry that block {block} holds")));
        }
        kept.insert(&mut bulk, None)?;
    }
    entries_pending::note(bulk.finish());
    Ok(())
}

impl KeptEntry {
    /// Inserts the row; `sealed` is its block and leaf index.
    fn insert(&self, bulk: &mut BulkInsert, sealed: Option<(i64, i64)>) -> Result<(), Failure> {
        check_for_interrupts!();
        let entry = &self.entry;
        self.check_widths()?;
        shape::restore(&entry.entry_type, &entry.metadata);
        bulk.insert(&[
            Some(tables::uuid_datum(&entry.entry_id)),
            sealed.and_then(|(block_number, _)| block_number.into_datum()),
            tables::text_datum(&entry.entry_type),
            tables::text_datum(&entry.data_hash),
            Some(self.metadata()?),
            entry.signature.as_deref().and_then(tables::text_datum),
            entry.key_id.as_deref().and_then(tables::text_datum),
            Some(tables::timestamp_to_postgres(entry.created_at).into()),
            sealed.and_then(|(_, leaf_index)| leaf_index.into_datum()),
        ]);
        Ok(())
    }

    /// A line can state texts that are too long for the columns.
    fn check_widths(&self) -> Result<(), Failure> {
        let entry = &self.entry;
        let (signature, key_id) = (entry.signature.as_deref(), entry.key_id.as_deref());
        let is_long = |text: Option<&str>, limit| text.is_some_and(|text| text.chars().count() > limit);
        if is_long(signature, MAX_SIGNATURE) || is_long(key_id, MAX_KEY_ID) {
            return Err(self.refused("its signature or key_id is longer than the database can hold"));
        }
        let texts = [Some(entry.entry_type.as_str()), signature, key_id];
        if texts.iter().flatten().any(|text| text.contains('\0')) {
            return Err(self.refused("it has a character that the database cannot hold"));
        }
        Ok(())
    }

    /// The metadata as a jsonb value from which the same line can be made again.
    fn metadata(&self) -> Result<pg_sys::Datum, Failure> {
        let metadata = &self.entry.metadata;
        let made = AssertUnwindSafe(|| Ok(Some(jsonb::datum_of_canonical(metadata))));
        let datum = PgTryBuilder::new(made)
            .catch_others(|error| match error {
                CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)
                    if is_about_data(report.sql_error_code()) =>
                {
                    let more =
                        report.detail().or(report.hint()).map(|more| format!(": {}", more.trim_end_matches('.')));
                    let (message, more) = (report.message(), more.unwrap_or_default());
                    Err(self.refused(&format!("its metadata cannot be stored: {message}{more}")))
                }
                other => other.rethrow(),
            })
            .execute()?;
        Ok(datum.unwrap_or(pg_sys::Datum::null()))
    }

    fn refused(&self, what: &str) -> Failure {
        refused(format!("line {}: {what} (entry {}).", self.line_number, self.entry.entry_id))
    }
}

/// Whether jsonb rejects the text itself, in contrast to running out of memory or a cancelled statement.
fn is_about_data(code: PgSqlErrorCode) -> bool {
    use PgSqlErrorCode::*;
    matches!(
        code,
        ERRCODE_UNTRANSLATABLE_CHARACTER
            | ERRCODE_INVALID_TEXT_REPRESENTATION
            | ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE
            | ERRCODE_PROGRAM_LIMIT_EXCEEDED
            | ERRCODE_STATEMENT_TOO_COMPLEX
            | ERRCODE_CHARACTER_NOT_IN_REPERTOIRE
    )
}

pub fn refused(detail: String) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, "cannot rebuild the ledger from this file")
        .detail(detail)
        .hint("Nothing was imported.")
}
