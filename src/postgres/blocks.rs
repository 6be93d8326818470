//! Sealing: pending entries become blocks, in batches, one sealer at a time.
//!
//! A process that seals holds one heavyweight lock until its transaction ends. So the chain can neither fork nor have a
//! gap: the next sealer sees the committed head. Sessions that record never take that lock. Everything is read with a
//! snapshot taken after the lock, whatever the caller's isolation level.

use super::bulk_insert::BulkInsert;
use super::database;
use super::emptied_pages::Moved;
use super::entry_clock;
use super::errorless;
use super::errors::{or_raise, Failure};
use super::log_state::{damaged, LogState};
use super::mirror::block_lines::{self, SealedBlocks};
use super::partitions;
use super::pending_floor;
use super::pending_scan::{is_sparse, PendingScan};
use super::sealing_lock;
use super::settings;
use super::tables::{self, KeyScan, RegisteredSnapshot, Row, SealedTuple, Table, TableScan};
use super::tracking::version_runs::VersionTable;
use super::tracking::versions::NewVersions;
use super::transaction;
use crate::ledger::block::{self, BlockHeader};
use crate::ledger::log_tree::{self, STORED_LEVEL};
use crate::ledger::merkle::Digits;
use crate::ledger::record::Timestamp;
use crate::ledger::row_change;
use crate::ledger::Hash;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use pgrx::{check_for_interrupts, PgMemoryContexts, PgSqlErrorCode, PgTryBuilder};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// About how many entries one transaction of the worker seals: enough to make its fixed cost small, but few enough to
/// take a fraction of a second and little memory, which is then reused instead of going back to the system.
const BATCH_ENTRIES: usize = 16_384;

/// What to seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Only blocks that are full.
    FullBlocks,
    /// Everything; the last block may be of any size.
    Everything,
}

/// What a batch has done, and where the next one goes on.
pub struct Batch {
    pub sealed: SealedBlocks,
    /// Pending entries that were seen, how many of them were left, and the oldest of these.
    pub seen: i64,
    pub left: i64,
    pub oldest_left: Option<Timestamp>,
    /// The page of `entries_pending` to go on from, unless the scan has come to the end.
    pub next_page: Option<u32>,
    /// The scan has seen all pending entries.
    pub is_whole: bool,
    /// Pages the table had.
    pub pages: u32,
    pub moved: Moved,
}

/// A pending entry on its way into a block.
struct Candidate {
    created_at: Timestamp,
    entry_id: Uuid,
    leaf: Hash,
    data_hash: Digits,
    /// The rows of tracked tables that it is about.
    row_ids: [Option<Uuid>; 2],
    /// Where it is in the pending table.
    tid: pg_sys::ItemPointerData,
    /// The tuple to put into its partition.
    tuple: SealedTuple,
}

#[pg_extern(sql = r#"
CREATE FUNCTION ledger.commit_block() RETURNS SETOF ledger.blocks
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#, requires = ["tables"])]
#[allow(clippy::type_complexity, reason = "the columns of ledger.blocks")]
fn commit_block() -> TableIterator<
    'static,
    (
        name!(block_number, i64),
        name!(previous_hash, String),
        name!(block_hash, String),
        name!(merkle_root, String),
        name!(timestamp, TimestampWithTimeZone),
        name!(data_count, i32),
        name!(tree_size, i64),
        name!(tree_root, String),
    ),
> {
    or_raise(database::require_preloaded());
    database::require_writable(c"commit_block()");
    let mut sealed = Vec::new();
    let mut page = 0;
    loop {
        let pending = or_raise(database::mirror()).slot.pending.load(Ordering::Acquire) + transaction::entries();
        let batch = or_raise(seal_batch(Extent::Everything, page, pending));
        let finished = batch.next_page.is_none() && (batch.is_whole || batch.sealed.headers.is_empty());
        page = batch.next_page.unwrap_or(0);
        sealed.extend(batch.sealed.headers);
        if finished {
            break;
        }
    }
    TableIterator::new(sealed.into_iter().map(|block| {
        let timestamp = tables::timestamp_to_postgres(block.timestamp);
        (
            block.block_number,
            block.previous_hash,
            block.block_hash,
            block.merkle_root,
            TimestampWithTimeZone::try_from(timestamp).expect("the clock shows a valid time"),
            block.data_count as i32,
            block.tree_size,
            block.tree_root,
        )
    }))
}

/// Seals one batch in the current transaction, starting to look for entries at `from_page`. `pending` is how many there
/// are, as far as is known: if they are few for the number of pages, all of them are looked up by their key.
pub fn seal_batch(extent: Extent, from_page: u32, pending: i64) -> Result<Batch, Failure> {
    transaction::require_no_import()?;
    // Before the lock, which the worker needs to open the file.
    block_lines::wait_for_file()?;
    sealing_lock::take();
    if !transaction::has_sealed() {
        block_lines::append_missing(None)?;
    }
    let mut context = PgMemoryContexts::new("pg_notary sealing");
    let seal = AssertUnwindSafe(|| {
        // SAFETY: nothing allocated inside is used after the context is dropped: tuples and datums stay in the closure.
        unsafe { context.switch_to(|_| seal_candidates(extent, from_page, pending)) }
    });
    let batch = PgTryBuilder::new(seal)
        .catch_when(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, |error| match error {
            // An entry that is both pending and sealed, or a block or node that exists already.
            CaughtError::PostgresError(report) => Err(damaged(report.detail().unwrap_or(report.message()))),
            other => other.rethrow(),
        })
        .execute()?;
    if !batch.sealed.headers.is_empty() {
        transaction::note_sealed(batch.seen - batch.left);
        // SAFETY: inside a transaction. Makes this batch visible to the next one of the same transaction.
        unsafe { pg_sys::CommandCounterIncrement() };
        // The next sealer writes the blocks' lines as soon as it sees them committed. With synchronous_commit off, a
        // crash could still undo the blocks after that.
        errorless::force_sync_commit();
    }
    Ok(batch)
}

fn seal_candidates(extent: Extent, from_page: u32, count: i64) -> Result<Batch, Failure> {
    let snapshot = RegisteredSnapshot::latest();
    let pending = Table::open("entries_pending", pg_sys::RowExclusiveLock);
    let block_size = settings::block_size();
    let limit = (BATCH_ENTRIES / block_size).max(1) * block_size;
    // Behind an old snapshot the key has as many dead entries as the table; what is new is on the last pages.
    let start = from_page.max(pending_floor::first_page(&pending, &snapshot));
    let is_sparse = is_sparse(pending.pages().saturating_sub(start), count) && count < limit as i64;
    let scan = match is_sparse {
        true => PendingScan::Key(KeyScan::start(&pending, &snapshot)),
        false => PendingScan::Pages(TableScan::start_to_change(&pending, &snapshot, start)),
    };
    let (mut candidates, end) = collect(&pending, scan, limit)?;
    // Entries without a line become visible only after this check can see that the file is behind.
    block_lines::check_not_behind()?;
    candidates.sort_by_key(|candidate| (candidate.created_at, candidate.entry_id));
    let due = match extent {
        Extent::FullBlocks => candidates.len() / block_size * block_size,
        Extent::Everything => candidates.len(),
    };
    let headers =
        if due == 0 { Vec::new() } else { write_blocks(&candidates[..due], block_size, &pending, &snapshot)? };
    let count: i64 = headers.iter().map(|block| block.data_count).sum();
    let (sealed, left) = candidates.split_at(count as usize);
    Ok(Batch {
        sealed: SealedBlocks { headers, entry_ids: sealed.iter().map(|candidate| candidate.entry_id).collect() },
        seen: candidates.len() as i64,
        left: left.len() as i64,
        oldest_left: left.first().map(|candidate| candidate.created_at),
        next_page: match end {
            // The others have no partition yet.
            _ if sealed.len() < due => Some(from_page),
            End::Limit(page) if !is_sparse => Some(page),
            _ => None,
        },
        is_whole: end == End::Table && (is_sparse || from_page == 0),
        pages: pending.pages(),
        moved: moved(sealed),
    })
}

fn moved(candidates: &[Candidate]) -> Moved {
    let mut pages: Vec<u32> = candidates.iter().map(|candidate| tables::tid(candidate.tid).0).collect();
    pages.sort_unstable();
    pages.dedup();
    // Thousands of these are kept, each with the room for a page per entry, while an old snapshot is held.
    pages.shrink_to_fit();
    // Of the transaction itself, because the worker, which makes use of it, has no subtransactions.
    // SAFETY: reads the state of a transaction, which has an id if it has moved anything.
    let transaction = unsafe { pg_sys::GetTopFullTransactionIdIfAny() };
    Moved { transaction, pages }
}

/// Where a scan has ended.
#[derive(PartialEq, Eq)]
enum End {
    Table,
    /// On this page, because it had found as many entries as were wanted.
    Limit(u32),
}

/// Reads up to `limit` pending entries.
fn collect(pending: &Table, mut scan: PendingScan<'_>, limit: usize) -> Result<(Vec<Candidate>, End), Failure> {
    let mut candidates = Vec::new();
    let (mut row, mut metadata, mut line) = (Row::default(), String::new(), Vec::new());
    while let Some(tuple) = scan.next() {
        check_for_interrupts!();
        tables::prefetch_next(tuple);
        // The tuple stays in the table's page until the next one is fetched.
        pending.deform_into(tuple, &mut row);
        let jsonb = tables::detoasted_metadata(&row);
        let entry = tables::entry_line_with(&row, jsonb.as_deref(), &mut metadata);
        let is_damaged = |fault| damaged(&format!("entry {} is damaged: {fault}", entry.entry_id));
        if let Some(fault) = tables::fault_of(&row, &entry) {
            return Err(is_damaged(fault));
        }
        line.clear();
        entry.write_line(&mut line);
        let quick = jsonb.as_ref().and_then(|jsonb| jsonb.row_ids(&entry.entry_type));
        let row_ids = quick.unwrap_or_else(|| row_change::row_ids(&entry.entry_type, entry.metadata));
        // SAFETY: the scan's tuple is valid until the next one is fetched.
        let tid = unsafe { (*tuple).t_self };
        candidates.push(Candidate {
            created_at: entry.created_at,
            entry_id: entry.entry_id,
            leaf: log_tree::leaf_hash(&line),
            data_hash: Digits::copy(entry.data_hash).ok_or_else(|| is_damaged("its data hash has another length"))?,
            row_ids,
            tid,
            tuple: SealedTuple::form(pending, &row),
        });
        if candidates.len() == limit {
            return Ok((candidates, End::Limit(tables::tid(tid).0)));
        }
    }
    Ok((candidates, End::Table))
}

/// Writes the blocks for which there is a partition, of those that the candidates fill: at least the first.
fn write_blocks(
    candidates: &[Candidate],
    block_size: usize,
    pending: &Table,
    snapshot: &RegisteredSnapshot,
) -> Result<Vec<BlockHeader>, Failure> {
    let head = tables::newest_block(snapshot);
    let mut state = LogState::read(snapshot)?;
    let mut tree = state.tree(head.as_ref())?;
    let first = head.as_ref().map_or(1, |head| head.block_number + 1);
    let candidates = &candidates[..with_partition(candidates.len(), block_size, first)];
    lock_tables(candidates, head.as_ref().map_or(0, |head| head.tree_size));
    let mut nodes = Vec::new();
    let mut blocks: Vec<BlockHeader> = Vec::with_capacity(candidates.len() / block_size + 1);
    for entries in candidates.chunks(block_size) {
        let leaves: Vec<(Hash, &Digits)> = entries.iter().map(|entry| (entry.leaf, &entry.data_hash)).collect();
        let completed = |level, index, hash| {
            if level >= STORED_LEVEL {
                nodes.push((level, index, hash));
            }
        };
        let previous = blocks.last().or(head.as_ref());
        let block = block::seal(previous, &mut tree, &leaves, entry_clock::now(), completed);
        blocks.push(block);
    }
    insert_blocks(&blocks);
    let versions = move_entries(candidates, &blocks, pending);
    versions.write(&mut state.version_runs, snapshot);
    insert_nodes(&nodes);
    state.update(&tree);
    Ok(blocks)
}

/// Waits here for whoever has locked one of the tables that are written to after the partition, as far as that is
/// known. What is rolled back stays in the partition as a hole, and sealing tries again and again.
fn lock_tables(candidates: &[Candidate], tree_size: i64) {
    let stored_nodes = |size: i64| size >> STORED_LEVEL;
    if stored_nodes(tree_size + candidates.len() as i64) > stored_nodes(tree_size) {
        Table::open("log_nodes", pg_sys::RowExclusiveLock);
    }
    if candidates.iter().any(|candidate| candidate.row_ids[0].is_some()) {
        VersionTable::open(pg_sys::RowExclusiveLock);
    }
}

/// How many of so many entries go into blocks, from `first` on, that have a partition. The others wait for the next
/// batch. If that cannot have a partition made, it fails, and not the blocks before.
fn with_partition(entries: usize, block_size: usize, first: i64) -> usize {
    let blocks = entries.div_ceil(block_size) as i64;
    let with_partition = partitions::ensure_for(first, first + blocks - 1) - first;
    entries.min(with_partition.min(blocks) as usize * block_size)
}

pub(super) fn insert_blocks(blocks: &[BlockHeader]) {
    let table = Table::open("blocks", pg_sys::RowExclusiveLock);
    let mut bulk = BulkInsert::new(&table);
    for block in blocks {
        bulk.insert(&[
            block.block_number.into_datum(),
            tables::text_datum(&block.previous_hash),
            tables::text_datum(&block.block_hash),
            tables::text_datum(&block.merkle_root),
            tables::timestamp_to_postgres(block.timestamp).into_datum(),
            (block.data_count as i32).into_datum(),
            block.tree_size.into_datum(),
            tables::text_datum(&block.tree_root),
        ]);
    }
    bulk.finish();
}

/// Moves the entries of `blocks` into their partitions. `candidates` are all of these entries, in order. Returns what
/// to note about the rows that they are about.
fn move_entries(candidates: &[Candidate], blocks: &[BlockHeader], pending: &Table) -> NewVersions {
    let mut rest = candidates;
    let mut versions = NewVersions::default();
    let mut tids = Vec::new();
    fill_partitions(blocks, |block, bulk| {
        check_for_interrupts!();
        let (entries, others) = rest.split_at(block.data_count as usize);
        for (leaf_index, entry) in (block.tree_size - block.data_count..).zip(entries) {
            entry.tuple.set_place(block.block_number, leaf_index);
            // SAFETY: the tuple was made for a table of this shape, and is not used again.
            unsafe { bulk.insert_tuple(entry.tuple.as_ptr()) };
            versions.add(entry.row_ids, entry.created_at, leaf_index, block.block_number);
        }
        tids.clear();
        tids.extend(entries.iter().map(|entry| entry.tid));
        pending.delete_all(&mut tids);
        rest = others;
    });
    versions
}

/// Calls `insert` for each of the consecutive `blocks`, to put its entries into the partition that holds the block.
pub(super) fn fill_partitions(blocks: &[BlockHeader], mut insert: impl FnMut(&BlockHeader, &mut BulkInsert)) {
    let all = partitions::sealed();
    let mut blocks = blocks.iter().peekable();
    while let Some(block) = blocks.peek() {
        let partition = partitions::to_fill(&all, block.block_number);
        let table = partition.open_for_sealing(block.block_number);
        let mut bulk = BulkInsert::at_end(&table);
        while let Some(block) = blocks.next_if(|block| block.block_number < partition.to) {
            insert(block, &mut bulk);
        }
        bulk.finish();
    }
}

pub(super) fn insert_nodes(nodes: &[(u8, u64, Hash)]) {
    if nodes.is_empty() {
        return;
    }
    let table = Table::open("log_nodes", pg_sys::RowExclusiveLock);
    let mut bulk = BulkInsert::new(&table);
    for (level, index, hash) in nodes {
        bulk.insert(&[i16::from(*level).into_datum(), (*index as i64).into_datum(), hash.as_slice().into_datum()]);
    }
    bulk.finish();
}
