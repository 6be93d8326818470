//! The lines of committed blocks. A block's line follows its commit, and the next sealing waits for it. So the file
//! never holds a block that the database lacks, and lacks at most the blocks of the last batch.

use super::append::Goal;
use super::handle::Mirror;
use super::line_buffer::LineBuffer;
use super::shared::MirrorState;
use crate::ledger::block::BlockHeader;
use crate::postgres::database;
use crate::postgres::errors::Failure;
use crate::postgres::faults;
use crate::postgres::settings;
use crate::postgres::spi;
use crate::postgres::tables::{self, RegisteredSnapshot, BLOCKS_FROM};
use crate::postgres::timeout::Timeout;
use crate::postgres::wait_events;
use pgrx::{check_for_interrupts, PgSqlErrorCode};
use std::sync::LazyLock;
use std::time::Duration;
use uuid::Uuid;

/// Entries whose ids are read at once: those of many small blocks, or of one of the largest.
const CHUNK_ENTRIES: i64 = 20_000;

/// The most blocks whose headers are read at once.
const BLOCKS_AT_ONCE: i64 = 1_000;

/// The entries of consecutive blocks: see [`extent`].
static ENTRIES: LazyLock<String> =
    LazyLock::new(|| tables::sealed_where("block_number BETWEEN $1 AND $2 AND leaf_index >= $3 AND leaf_index < $4"));

/// How long a session that seals waits for the worker to append lines that the file lacks.
const BEHIND_DEADLINE: Duration = Duration::from_secs(30);

/// Waits until the file can be written and holds the lines of all that is committed; fails with the reason if it does
/// not.
pub fn wait_for_file() -> Result<(), Failure> {
    if !settings::mirror_mode().waits_for_file() {
        return Ok(());
    }
    let mirror = database::mirror()?;
    let mut timeout = Timeout::after(BEHIND_DEADLINE);
    loop {
        mirror.wait_for_file()?;
        if !mirror.slot.is_behind() || mirror.slot.worker.is_me() || timeout.is_over() {
            return check_not_behind();
        }
        mirror.slot.worker.wake();
        mirror.slot.mirror.sleep(100, wait_events::mirror_attach());
        MirrorState::stop_sleeping();
    }
}

/// In the modes that wait for the file, an entry must not be sealed before its line is in the file. Right after a time
/// in mode `off` or `async`, some entries may still lack their lines.
pub fn check_not_behind() -> Result<(), Failure> {
    if !settings::mirror_mode().waits_for_file() || !database::mirror()?.slot.is_behind() {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "cannot seal: entries were recorded without the mirror file, and it does not have their lines yet",
    )
    .hint(
        "The worker appends them by itself. View ledger.mirror_status shows its progress; try again when it is done.",
    ))
}

/// Blocks that this process has sealed.
#[derive(Default)]
pub struct SealedBlocks {
    pub headers: Vec<BlockHeader>,
    /// The ids of their entries, in leaf order.
    pub entry_ids: Vec<Uuid>,
}

impl SealedBlocks {
    /// Whether they are all the blocks after number `last`, up to `head`: the hash of `head` fixes all blocks before
    /// it.
    fn are_all_after(&self, last: i64, head: &BlockHeader) -> bool {
        self.headers.first().is_some_and(|first| first.block_number == last + 1) && self.headers.last() == Some(head)
    }
}

/// Appends the lines of all committed blocks that the file lacks. The blocks in `sealed`, which are committed, need not
/// be read from the tables. The caller holds the sealing lock and has not sealed in this transaction, so all that it
/// sees is committed.
pub fn append_missing(sealed: Option<&SealedBlocks>) -> Result<(), Failure> {
    if !settings::mirror_mode().waits_for_file() {
        return Ok(());
    }
    // While this process waited for the lock, another one may have sealed entries that have no line yet: a transaction
    // keeps the mode that it began in.
    check_not_behind()?;
    let mirror = database::mirror()?;
    // This also fails with what is wrong with the file, once the worker has tried to open it again.
    if !mirror.append(&mut LineBuffer::new(), Goal::Written)? {
        return Ok(());
    }
    let last = mirror.lock().last_block;
    let Some(head) = tables::newest_block(&RegisteredSnapshot::latest()).filter(|head| head.block_number > last) else {
        return Ok(());
    };
    match sealed.filter(|sealed| sealed.are_all_after(last, &head)) {
        Some(sealed) => {
            append_lines(&mirror, &sealed.headers, &sealed.entry_ids)?;
            mirror.lock().last_block = head.block_number;
        }
        None => append_after(&mirror, last, |_, _| Ok(()))?,
    }
    Ok(())
}

/// Appends the lines of the blocks after number `last`; `before` runs for each chunk of blocks before its lines are
/// written.
pub fn append_after(
    mirror: &Mirror,
    last: i64,
    mut before: impl FnMut(&[BlockHeader], &[Uuid]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut last = last;
    loop {
        check_for_interrupts!();
        let headers = next_headers(last);
        let Some(newest) = headers.last().map(|header| header.block_number) else {
            return Ok(());
        };
        let ids = entry_ids(&headers);
        before(&headers, &ids)?;
        append_lines(mirror, &headers, &ids)?;
        mirror.lock().last_block = newest;
        last = newest;
    }
}

fn append_lines(mirror: &Mirror, headers: &[BlockHeader], ids: &[Uuid]) -> Result<(), Failure> {
    let mut lines = LineBuffer::new();
    let mut rest = ids;
    for header in headers {
        let count = (header.data_count.max(0) as usize).min(rest.len());
        let (own, others) = rest.split_at(count);
        check_block(header, own)?;
        lines.push(|out| out.extend_from_slice(&header.line(own)));
        rest = others;
    }
    faults::at("before_block_line");
    mirror.append_now(lines)
}

/// Only what sealing wrote may enter the file. A block that a superuser put into the table, or changed before its line
/// was written, must not.
fn check_block(header: &BlockHeader, entry_ids: &[Uuid]) -> Result<(), Failure> {
    let number = header.block_number;
    let refused = |what: String, hint: &str| {
        let message = format!("{what}; its line is not written");
        Err(Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message).hint(hint))
    };
    if header.compute_hash() != header.block_hash {
        return refused(
            format!("block {number} in ledger.blocks is not what was sealed"),
            "Run SELECT * FROM ledger.find_tampering() to see what is wrong, and restore those rows from a backup.",
        );
    }
    if entry_ids.is_empty() || entry_ids.len() as i64 != header.data_count {
        return refused(
            format!("block {number} does not have the entries that were sealed in it"),
            "If a partition of ledger.entries_sealed was detached, attach it again. SELECT * FROM ledger.find_tampering() shows what is missing.",
        );
    }
    Ok(())
}

/// The next blocks after number `last`: as many as have [`CHUNK_ENTRIES`] entries together, but at least one.
fn next_headers(last: i64) -> Vec<BlockHeader> {
    let mut headers = Vec::new();
    let mut entries = 0;
    let Some(first) = last.checked_add(1) else { return headers };
    spi::for_each_as_of_now(BLOCKS_FROM, &[first.into(), BLOCKS_AT_ONCE.into()], |row| {
        let header = tables::header_from_row(row);
        entries += header.data_count;
        if headers.is_empty() || entries <= CHUNK_ENTRIES {
            headers.push(header);
        } else {
            entries = CHUNK_ENTRIES;
        }
    });
    headers
}

/// The blocks' numbers and leaf indexes, as arguments of a query for their entries.
fn extent(headers: &[BlockHeader]) -> Option<[spi::Argument; 4]> {
    let (first, last) = (headers.first()?, headers.last()?);
    let from = first.tree_size - first.data_count;
    Some([first.block_number.into(), last.block_number.into(), from.into(), last.tree_size.into()])
}

/// The ids of the entries of consecutive blocks, in leaf order.
fn entry_ids(headers: &[BlockHeader]) -> Vec<Uuid> {
    let mut ids = Vec::new();
    let Some(extent) = extent(headers) else { return ids };
    spi::for_each_as_of_now(
        "SELECT id FROM ledger.entries_sealed WHERE block_number BETWEEN $1 AND $2 \
         AND leaf_index >= $3 AND leaf_index < $4 ORDER BY leaf_index",
        &extent,
        |row| ids.extend(row.datum(0).map(tables::uuid_from_datum)),
    );
    ids
}

/// Gives each entry of consecutive blocks to `each`, in leaf order.
pub fn for_each_entry(headers: &[BlockHeader], mut each: impl FnMut(&tables::Row)) {
    let Some(extent) = extent(headers) else { return };
    spi::for_each_as_of_now(&ENTRIES, &extent, |row| each(row));
}
