//! The lines of committed blocks. They follow the commit, and sealing waits for them: so the file never holds a block
//! that the database does not, and lacks at most those of the last batch.

use super::append::Mirror;
use super::lines::LineBuffer;
use super::shared::Attachment;
use crate::ledger::block::BlockHeader;
use crate::postgres::database;
use crate::postgres::errors::Failure;
use crate::postgres::settings::{self, MirrorMode};
use crate::postgres::spi;
use crate::postgres::tables;
use pgrx::{check_for_interrupts, PgSqlErrorCode};
use uuid::Uuid;

/// Entries whose ids are read at once: those of many small blocks, or of one of the largest.
const CHUNK_ENTRIES: i64 = 20_000;

/// Waits until the file can be written, or raises why it cannot.
pub fn wait_for_file() -> Result<(), Failure> {
    if settings::mirror_mode() == MirrorMode::Off {
        return Ok(());
    }
    database::mirror()?.wait_until_attached()
}

/// Appends the lines of all committed blocks that the file lacks. The caller holds the sealing lock and has not sealed
/// in this transaction: what it sees is committed.
pub fn append_missing() -> Result<(), Failure> {
    if settings::mirror_mode() == MirrorMode::Off {
        return Ok(());
    }
    let mirror = database::mirror()?;
    let (attachment, last) = {
        let fields = mirror.slot.mirror.lock(mirror.shared, mirror.slot);
        (fields.attachment, fields.last_block)
    };
    let last = match attachment {
        Attachment::Attached => last,
        // The append raises what is wrong with the file, once the worker has tried it again.
        _ => {
            mirror.append(&mut LineBuffer::new(), &mut Vec::new())?;
            mirror.slot.mirror.lock(mirror.shared, mirror.slot).last_block
        }
    };
    append_after(&mirror, last, |_| Ok(()))
}

/// Appends the lines of the blocks after number `last`; `before` runs for each chunk of blocks before its lines are
/// written.
pub fn append_after(
    mirror: &Mirror,
    last: i64,
    mut before: impl FnMut(&[Uuid]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut last = last;
    loop {
        check_for_interrupts!();
        let headers = next_headers(last);
        let Some(newest) = headers.last().map(|header| header.block_number) else {
            return Ok(());
        };
        let ids = entry_ids(&headers);
        before(&ids)?;
        append_lines(mirror, &headers, &ids)?;
        mirror.slot.mirror.lock(mirror.shared, mirror.slot).last_block = newest;
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
    let appended = mirror.append(&mut lines, &mut Vec::new());
    lines.close_spill();
    appended
}

/// What goes into the file is what sealing wrote: a block that a superuser has put into the table, or changed before its
/// line was written, does not.
fn check_block(header: &BlockHeader, entry_ids: &[Uuid]) -> Result<(), Failure> {
    let is_whole = !entry_ids.is_empty() && entry_ids.len() as i64 == header.data_count;
    if is_whole && header.compute_hash() == header.block_hash {
        return Ok(());
    }
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        format!("block {} in ledger.blocks is not as it was sealed; its line is not written", header.block_number),
    )
    .hint("Run SELECT * FROM ledger.find_tampering() to see what is wrong, and restore those rows from a backup."))
}

/// The next blocks after number `last`: as many as hold [`CHUNK_ENTRIES`] together, but at least one.
fn next_headers(last: i64) -> Vec<BlockHeader> {
    let mut headers = Vec::new();
    let mut entries = 0;
    spi::for_each(
        "SELECT block_number, previous_hash, block_hash, merkle_root, \"timestamp\", data_count, tree_size, tree_root \
         FROM ledger.blocks WHERE block_number > $1 ORDER BY block_number LIMIT 1000",
        &[last.into()],
        |row| {
            let header = tables::header_from_row(row);
            entries += header.data_count;
            if headers.is_empty() || entries <= CHUNK_ENTRIES {
                headers.push(header);
            } else {
                entries = CHUNK_ENTRIES;
            }
        },
    );
    headers
}

/// The ids of the entries of consecutive blocks, in leaf order.
fn entry_ids(headers: &[BlockHeader]) -> Vec<Uuid> {
    let (Some(first), Some(last)) = (headers.first(), headers.last()) else {
        return Vec::new();
    };
    let from = first.tree_size - first.data_count;
    let mut ids = Vec::with_capacity((last.tree_size - from).max(0) as usize);
    spi::for_each(
        "SELECT id FROM ledger.entries_sealed WHERE block_number BETWEEN $1 AND $2 \
         AND leaf_index >= $3 AND leaf_index < $4 ORDER BY leaf_index",
        &[first.block_number.into(), last.block_number.into(), from.into(), last.tree_size.into()],
        |row| ids.extend(row.datum(0).map(tables::uuid_from_datum)),
    );
    ids
}
