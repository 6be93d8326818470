//! The partitions of `ledger.entries_sealed`: where a block's entries go, and finding an entry among them.
//!
//! Sealing [creates](creation) them, but a DBA may put others in their place: moved, merged, or with partitions of their
//! own. All of them are read. New entries go only into those that are as sealing would make them.

mod creation;

use super::errors::Failure;
use super::lists;
use super::relation;
use super::tables::{self, entry_column, RegisteredSnapshot, Table};
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
            let name = relation::qualified_name(&table);
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
    let name = relation::qualified_name(partition);
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
    sealed().iter().rev().find_map(|partition| find(&partition.open(), entry_id, snapshot.as_ptr(), &mut read))
}

/// What `read` returns for the entry's row in this block, as the snapshot sees it.
pub fn find_in_block<T>(
    block_number: i64,
    entry_id: Uuid,
    snapshot: pg_sys::Snapshot,
    mut read: impl FnMut(&tables::Row) -> T,
) -> Option<T> {
    holding(block_number).iter().find_map(|partition| find(&partition.open(), entry_id, snapshot, &mut read))
}

/// What `read` returns for the entry at this place of the log, as the snapshot sees it.
pub fn find_leaf<T>(
    block_number: i64,
    leaf_index: i64,
    snapshot: pg_sys::Snapshot,
    mut read: impl FnMut(&tables::Row) -> T,
) -> Option<T> {
    holding(block_number).iter().find_map(|partition| find_leaf_in(&partition.open(), leaf_index, snapshot, &mut read))
}

fn find_leaf_in<T>(
    table: &Table,
    leaf_index: i64,
    snapshot: pg_sys::Snapshot,
    read: impl FnOnce(&tables::Row) -> T,
) -> Option<T> {
    let mut read = Some(read);
    let mut found = None;
    // SAFETY: callers pass a snapshot that is registered or active; the tuple is read before the scan goes on.
    unsafe {
        scan_by_bigint(table, leaf_index_of(table), entry_column::LEAF_INDEX, leaf_index, snapshot, |tuple| {
            let row = table.deform(tuple);
            // A row that was changed in the data file has another place than the index says.
            if tables::leaf_index(&row) == leaf_index {
                found = read.take().map(|read| read(&row));
            }
            false
        });
    }
    found
}

/// Whether the index on this column, which is a bigint, leads from the value to the row at `tid`.
pub fn index_leads_to(
    table: &Table,
    index: pg_sys::Oid,
    column: usize,
    value: i64,
    tid: pg_sys::ItemPointerData,
    snapshot: &RegisteredSnapshot,
) -> bool {
    let mut found = false;
    // SAFETY: the snapshot is registered; a tuple is read before the next one is fetched.
    unsafe {
        scan_by_bigint(table, Some(index), column, value, snapshot.as_ptr(), |tuple| {
            found = tables::tid_of(tuple) == tables::tid(tid);
            !found
        });
    }
    found
}

/// Calls `each` with the tuples that an index on a bigint column leads to, until it returns false. Without the index
/// this takes longer.
///
/// # Safety
/// The snapshot is registered or active.
unsafe fn scan_by_bigint(
    table: &Table,
    index: Option<pg_sys::Oid>,
    column: usize,
    value: i64,
    snapshot: pg_sys::Snapshot,
    mut each: impl FnMut(pg_sys::HeapTuple) -> bool,
) {
    let mut key = pg_sys::ScanKeyData::default();
    pg_sys::ScanKeyInit(
        &mut key,
        table.attribute_number(column),
        pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
        pg_sys::Oid::from(pg_sys::F_INT8EQ),
        value.into(),
    );
    let (oid, has_index) = (index.unwrap_or(pg_sys::InvalidOid), index.is_some());
    let scan = pg_sys::systable_beginscan(table.relation(), oid, has_index, snapshot, 1, &mut key);
    loop {
        let tuple = pg_sys::systable_getnext(scan);
        if tuple.is_null() || !each(tuple) {
            break;
        }
    }
    pg_sys::systable_endscan(scan);
}

/// The index on leaf_index that every sealed partition has, unless a user has dropped it. An index in another order
/// than that of the numbers does not count.
pub fn leaf_index_of(table: &Table) -> Option<pg_sys::Oid> {
    let own = table.attribute_number(entry_column::LEAF_INDEX);
    // SAFETY: find_index() keeps the index open while the closure looks at it.
    find_index(table, |index| unsafe {
        let form = &*(*index).rd_index;
        let columns = form.indkey.values.as_slice(form.indnatts as usize);
        form.indisunique && columns == [own] && is_ascending(index)
    })
}

/// An index that leads from an id to its row: in a table that sealing has made, the one behind the primary key. In
/// others the key may be on other columns, or missing. Columns that the index only includes may come behind the id.
fn id_index_of(table: &Table) -> Option<pg_sys::Oid> {
    let own = table.attribute_number(entry_column::ID);
    // SAFETY: find_index() keeps the index open while the closure looks at it, and every index has a column.
    find_index(table, |index| unsafe {
        let first = (*(*index).rd_index).indkey.values.as_slice(1)[0];
        first == own && (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
    })
}

/// The first index that `is_wanted`, among those that are complete and hold all rows.
fn find_index(table: &Table, is_wanted: impl Fn(pg_sys::Relation) -> bool) -> Option<pg_sys::Oid> {
    // SAFETY: the relation is open, the list is a copy, and each index is open while it is looked at.
    unsafe {
        let list = pg_sys::RelationGetIndexList(table.relation());
        let found = lists::oids(list).find(|oid| {
            let index = pg_sys::index_open(*oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let form = &*(*index).rd_index;
            let is_whole = form.indisvalid && form.indisready && pg_sys::RelationGetIndexPredicate(index).is_null();
            let is_found = is_whole && is_wanted(index);
            pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            is_found
        });
        pg_sys::list_free(list);
        found
    }
}

/// Whether an index is in ascending order of its first column, as is the default for a bigint, with nulls at the end.
///
/// # Safety
/// The index is open, and has a column.
unsafe fn is_ascending(index: pg_sys::Relation) -> bool {
    (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
        && *(*index).rd_opfamily == pg_sys::INTEGER_BTREE_FAM_OID
        && *(*index).rd_indoption == 0
}

/// The block that holds the entry, if it is sealed as of now.
pub fn block_of(entry_id: Uuid) -> Option<i64> {
    find_sealed(entry_id, |row| row.get(entry_column::BLOCK_NUMBER).unwrap_or(0))
}

/// What `read` returns for the row with this id in one leaf partition. Without an index on the id this takes longer.
pub fn find<T>(
    table: &Table,
    entry_id: Uuid,
    snapshot: pg_sys::Snapshot,
    read: impl FnOnce(&tables::Row) -> T,
) -> Option<T> {
    // SAFETY: the key and the scan live until the scan ends. The tuple is read before that.
    unsafe {
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            table.attribute_number(entry_column::ID),
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from(pg_sys::F_UUID_EQ),
            tables::uuid_datum(&entry_id),
        );
        let index = id_index_of(table);
        let oid = index.unwrap_or(pg_sys::InvalidOid);
        let scan = pg_sys::systable_beginscan(table.relation(), oid, index.is_some(), snapshot, 1, &mut key);
        let tuple = pg_sys::systable_getnext(scan);
        let found = (!tuple.is_null()).then(|| read(&table.deform(tuple)));
        pg_sys::systable_endscan(scan);
        found
    }
}
