//! Reads the rows of `ledger.blocks`.

use super::look_up::equality_key;
use super::{checked_timestamp, RegisteredSnapshot, Row, Table};
use crate::ledger::block::BlockHeader;
use pgrx::pg_sys;

/// Columns of `ledger.blocks`.
pub mod block_column {
    pub const BLOCK_NUMBER: usize = 0;
    pub const PREVIOUS_HASH: usize = 1;
    pub const BLOCK_HASH: usize = 2;
    pub const MERKLE_ROOT: usize = 3;
    pub const TIMESTAMP: usize = 4;
    pub const DATA_COUNT: usize = 5;
    pub const TREE_SIZE: usize = 6;
    pub const TREE_ROOT: usize = 7;
    pub const COUNT: usize = 8;
}

/// `$2` blocks from number `$1` on, with the columns in the order of [`block_column`].
pub const BLOCKS_FROM: &str =
    "SELECT block_number, previous_hash, block_hash, merkle_root, \"timestamp\", data_count, tree_size, tree_root \
     FROM ledger.blocks WHERE block_number >= $1 ORDER BY block_number LIMIT $2";

/// What is wrong with a row of `ledger.blocks` that holds a value no line can state. Only a superuser can have put it
/// there.
pub fn block_malformation(row: &Row) -> Option<&'static str> {
    if (0..block_column::COUNT).any(|column| row.is_null(column)) {
        return Some("a column of the block is null");
    }
    let timestamp = row.get::<i64>(block_column::TIMESTAMP).and_then(checked_timestamp);
    timestamp.is_none().then_some("the time of the block is not one that a line can state")
}

/// The header in a row of `ledger.blocks`. A column that a superuser has emptied reads as empty, and fails
/// verification.
pub fn header_from_row(row: &Row) -> BlockHeader {
    use block_column::*;
    let text = |column| row.text(column).unwrap_or_default().to_owned();
    BlockHeader {
        block_number: row.get(BLOCK_NUMBER).unwrap_or_default(),
        previous_hash: text(PREVIOUS_HASH),
        block_hash: text(BLOCK_HASH),
        merkle_root: text(MERKLE_ROOT),
        timestamp: row.timestamp(TIMESTAMP).unwrap_or_default(),
        data_count: row.get::<i32>(DATA_COUNT).unwrap_or_default().into(),
        tree_size: row.get(TREE_SIZE).unwrap_or_default(),
        tree_root: text(TREE_ROOT),
    }
}

/// The newest block that the snapshot sees, if there is one.
pub fn newest_block(snapshot: &RegisteredSnapshot) -> Option<BlockHeader> {
    last_of_blocks(snapshot, &mut [])
}

/// Its number, 0 if there is none.
pub fn head_number(snapshot: &RegisteredSnapshot) -> i64 {
    newest_block(snapshot).map_or(0, |head| head.block_number)
}

/// The block with this number, if the snapshot sees it.
pub fn block(block_number: i64, snapshot: &RegisteredSnapshot) -> Option<BlockHeader> {
    let attribute = (block_column::BLOCK_NUMBER + 1) as pg_sys::AttrNumber;
    last_of_blocks(snapshot, &mut [equality_key(attribute, pg_sys::F_INT8EQ, block_number.into())])
}

/// The last of the blocks that these keys on the block number leave.
fn last_of_blocks(snapshot: &RegisteredSnapshot, keys: &mut [pg_sys::ScanKeyData]) -> Option<BlockHeader> {
    let table = Table::open("blocks", pg_sys::AccessShareLock);
    let key = table.primary_key();
    if key == pg_sys::InvalidOid {
        return last_without_key(&table, snapshot, keys);
    }
    let (count, keys) = (keys.len() as i32, keys.as_mut_ptr());
    // SAFETY: table, index, keys and snapshot outlive the scan, and the tuple is read before the scan ends.
    unsafe {
        let index = pg_sys::index_open(key, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let scan = pg_sys::systable_beginscan_ordered(table.relation(), index, snapshot.as_ptr(), count, keys);
        let tuple = pg_sys::systable_getnext_ordered(scan, pg_sys::ScanDirection::BackwardScanDirection);
        let last = (!tuple.is_null()).then(|| header_from_row(&table.deform(tuple)));
        pg_sys::systable_endscan_ordered(scan);
        pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        last
    }
}

/// A superuser has dropped the primary key. Verification must be able to say what else is wrong.
fn last_without_key(
    table: &Table,
    snapshot: &RegisteredSnapshot,
    keys: &mut [pg_sys::ScanKeyData],
) -> Option<BlockHeader> {
    let mut last: Option<BlockHeader> = None;
    // SAFETY: table, keys and snapshot outlive the scan, and each tuple is read before the next one is asked for.
    unsafe {
        let (none, count) = (pg_sys::InvalidOid, keys.len() as i32);
        let scan =
            pg_sys::systable_beginscan(table.relation(), none, false, snapshot.as_ptr(), count, keys.as_mut_ptr());
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let block = header_from_row(&table.deform(tuple));
            if last.as_ref().is_none_or(|last| last.block_number < block.block_number) {
                last = Some(block);
            }
        }
        pg_sys::systable_endscan(scan);
    }
    last
}
