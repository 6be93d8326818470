//! The partitions of `ledger.entries_sealed`: where a block's entries go, and finding an entry among them.
//!
//! Sealing [creates](creation) them, but a DBA may put others in their place: moved, merged, or with partitions of
//! their own. All of them are read. New entries go only into those that are as sealing would make them.

mod creation;

use super::errors::Failure;
use super::relation;
use super::tables::{self, entry_column, look_up, RegisteredSnapshot, Table};
use pgrx::{pg_sys, FromDatum, PgSqlErrorCode};
use uuid::Uuid;

pub use creation::{ensure_for, ensure_for_all};

/// A table that holds sealed entries: a partition, or a partition of a partition. It may have the blocks `from <=
/// block_number < to`.
#[derive(Debug, Clone, Copy)]
pub struct SealedPartition {
    pub oid: pg_sys::Oid,
    pub from: i64,
    pub to: i64,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// All entries of its blocks are in it.
    Range,
    /// A partition of a partition: others may have entries of the same blocks.
    Nested,
    /// What no other partition takes.
    Default,
}

impl SealedPartition {
    pub fn may_hold(&self, block_number: i64) -> bool {
        (self.from..self.to).contains(&block_number)
    }

    /// Opens it for reading, whoever created it.
    pub fn open(&self) -> Table {
        let table = Table::open_entries(self.oid, pg_sys::AccessShareLock);
        // A scan of another kind of table would find nothing, without an error.
        if !table.is_plain() {
            let name = table.qualified_name();
            let message = format!("cannot read partition {name} of ledger.entries_sealed: it is not an ordinary table");
            Failure::new(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, message)
                .hint("Detach it, and attach a table with its rows.")
                .raise()
        }
        table
    }

    /// Opens it for the entries of `block_number`.
    pub fn open_for_sealing(&self, block_number: i64) -> Table {
        let table = Table::open_entries(self.oid, pg_sys::RowExclusiveLock);
        if !table.is_heap() {
            not_filled(&table, block_number, "it is not a table with access method heap").raise()
        }
        if !table.has_own_order() {
            let why =
                "its columns are not those of ledger.entries in the same order, or a column after them was dropped";
            not_filled(&table, block_number, why).raise()
        }
        table
    }
}

/// The partitioned table itself, as it is now. If this transaction already holds the lock, opening the table does not
/// look for changes by others.
fn open_parent() -> Table {
    let parent = Table::open("entries_sealed", pg_sys::AccessShareLock);
    // SAFETY: inside a transaction, where Postgres does the same whenever it takes a lock.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    parent
}

/// All tables that hold sealed entries: those of the default partition first, then by ascending block number.
pub fn sealed() -> Vec<SealedPartition> {
    partitions_that(|_| true)
}

/// The tables that may hold entries of the block.
fn holding(block_number: i64) -> Vec<SealedPartition> {
    partitions_that(|partition| partition.may_hold(block_number))
}

fn partitions_that(are_wanted: impl Fn(&SealedPartition) -> bool) -> Vec<SealedPartition> {
    let parent = open_parent();
    // SAFETY: the descriptor belongs to the relation, and is valid while that is open.
    let descriptor = unsafe { &*pg_sys::RelationGetPartitionDesc(parent.relation(), false) };
    if descriptor.nparts == 0 {
        return Vec::new();
    }
    // SAFETY: the descriptor belongs to the open relation, and has bounds because there are partitions.
    let bounds = unsafe { &*descriptor.boundinfo };
    let default = (bounds.default_index, i64::MIN, i64::MAX, Kind::Default);
    // SAFETY: `at` is a place in the arrays of the bounds.
    let range =
        |at: i32| unsafe { (*bounds.indexes.add(at as usize), bound(bounds, at - 1), bound(bounds, at), Kind::Range) };
    let all = std::iter::once(default).chain((1..bounds.ndatums).map(range));
    let mut partitions = Vec::new();
    for (index, from, to, kind) in all.filter(|(index, ..)| *index >= 0) {
        // SAFETY: `index` is a place in the descriptor's arrays.
        let (oid, is_leaf) = unsafe { (*descriptor.oids.add(index as usize), *descriptor.is_leaf.add(index as usize)) };
        let partition = SealedPartition { oid, from, to, kind };
        match is_leaf {
            _ if !are_wanted(&partition) => {}
            true => partitions.push(partition),
            false => partitions.extend(nested(&partition)),
        }
    }
    partitions
}

/// The bound at this place. A partition without a lower or an upper bound takes whatever there is.
///
/// # Safety
/// `at` is a place in the arrays of the bounds. Bounds are those of a bigint, unless the kind says that there is none.
unsafe fn bound(bounds: &pg_sys::PartitionBoundInfoData, at: i32) -> i64 {
    use pg_sys::PartitionRangeDatumKind::*;
    let at = at as usize;
    match **bounds.kind.add(at) {
        PARTITION_RANGE_DATUM_MINVALUE => i64::MIN,
        PARTITION_RANGE_DATUM_MAXVALUE => i64::MAX,
        _ => i64::from_datum(**bounds.datums.add(at), false).unwrap_or_default(),
    }
}

/// The tables that hold the rows of a partition which has partitions itself.
fn nested(partition: &SealedPartition) -> Vec<SealedPartition> {
    let kind = if partition.kind == Kind::Default { Kind::Default } else { Kind::Nested };
    let leaves = relation::leaves(Table::open_oid(partition.oid, pg_sys::AccessShareLock));
    leaves.iter().map(|leaf| SealedPartition { oid: relation::oid(leaf), kind, ..*partition }).collect()
}

/// The partition that the entries of this block go to.
pub fn to_fill(all: &[SealedPartition], block_number: i64) -> SealedPartition {
    let of_kind = |kind| all.iter().find(|partition| partition.kind == kind && partition.may_hold(block_number));
    if let Some(found) = of_kind(Kind::Range) {
        return *found;
    }
    if let Some(nested) = of_kind(Kind::Nested) {
        let table = Table::open_oid(nested.oid, pg_sys::AccessShareLock);
        not_filled(&table, block_number, "it is a partition of a partition").raise()
    }
    no_place(block_number).raise()
}

fn not_filled(partition: &Table, block_number: i64, why: &str) -> Failure {
    let name = partition.qualified_name();
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("cannot seal block {block_number} into partition {name} of ledger.entries_sealed: {why}"),
    )
    .hint("Detach it, and attach a table with its rows: CREATE TABLE ... (LIKE ledger.entries_sealed INCLUDING ALL, PRIMARY KEY (id), UNIQUE (leaf_index)) USING heap.")
}

fn no_place(block_number: i64) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("there is no partition of ledger.entries_sealed for block {block_number}"),
    )
    .detail("Sealing only fills partitions that have a range of block numbers, are not partitioned themselves, and have the columns of ledger.entries in the same order.")
    .hint("If a partition was detached or dropped, attach it again.")
}

/// What `read` returns for the entry's row, if it is sealed as of now.
pub fn find_sealed<T>(entry_id: Uuid, mut read: impl FnMut(&tables::Row) -> T) -> Option<T> {
    let snapshot = RegisteredSnapshot::latest();
    let find = |partition: &SealedPartition| look_up::find_entry(&partition.open(), entry_id, &snapshot, &mut read);
    sealed().iter().rev().find_map(find)
}

/// The block that holds the entry, if it is sealed as of now.
pub fn block_of(entry_id: Uuid) -> Option<i64> {
    find_sealed(entry_id, |row| row.get(entry_column::BLOCK_NUMBER).unwrap_or(0))
}

/// What `read` returns for the entry's row in this block, as the snapshot sees it.
pub fn find_in_block<T>(
    block_number: i64,
    entry_id: Uuid,
    snapshot: &RegisteredSnapshot,
    mut read: impl FnMut(&tables::Row) -> T,
) -> Option<T> {
    let find = |partition: &SealedPartition| look_up::find_entry(&partition.open(), entry_id, snapshot, &mut read);
    holding(block_number).iter().find_map(find)
}

/// What `read` returns for the entry at this place of the log, as the snapshot sees it.
pub fn find_leaf<T>(
    block_number: i64,
    leaf_index: i64,
    snapshot: &RegisteredSnapshot,
    mut read: impl FnMut(&tables::Row) -> T,
) -> Option<T> {
    let find = |partition: &SealedPartition| look_up::find_leaf_in(&partition.open(), leaf_index, snapshot, &mut read);
    holding(block_number).iter().find_map(find)
}
