//! The partitions of `ledger.entries_sealed`: where a block's entries go, and finding an entry among them.

use super::settings;
use super::tables::{self, entry_column, LatestSnapshot, Table};
use pgrx::prelude::*;
use pgrx::{pg_sys, FromDatum, Spi};
use uuid::Uuid;

/// About how many entries one partition holds: large enough that looking an id up in every partition stays cheap, small
/// enough that one can be moved to other storage in reasonable time.
const PARTITION_ENTRIES: i64 = 10_000_000;

/// A partition holds blocks `from <= block_number < to`.
#[derive(Debug, Clone, Copy)]
pub struct SealedPartition {
    pub oid: pg_sys::Oid,
    pub from: i64,
    pub to: i64,
}

/// The table that the partitions are of, as it is now: where this transaction holds its lock already, opening it does not
/// look for news of it.
fn open_parent() -> Table {
    let parent = Table::open("entries_sealed", pg_sys::AccessShareLock);
    // SAFETY: inside a transaction, as for taking any lock.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    parent
}

/// All partitions, by ascending block number.
pub fn sealed() -> Vec<SealedPartition> {
    let parent = open_parent();
    // SAFETY: the descriptor belongs to the open relation. A range bound's datums are those of a bigint, except where
    // the kind says that it is unbounded; such a partition was not made by us and is passed over.
    unsafe {
        let descriptor = pg_sys::RelationGetPartitionDesc(parent.relation(), false);
        if (*descriptor).nparts == 0 {
            return Vec::new();
        }
        let bounds = &*(*descriptor).boundinfo;
        let bound = |at: i32| {
            let at = at as usize;
            let kind = **bounds.kind.add(at);
            let is_value = kind == pg_sys::PartitionRangeDatumKind::PARTITION_RANGE_DATUM_VALUE;
            is_value.then(|| i64::from_datum(**bounds.datums.add(at), false)).flatten()
        };
        (1..bounds.ndatums)
            .filter_map(|at| {
                let partition = *bounds.indexes.add(at as usize);
                let oid = (partition >= 0).then(|| *(*descriptor).oids.add(partition as usize))?;
                Some(SealedPartition { oid, from: bound(at - 1)?, to: bound(at)? })
            })
            .collect()
    }
}

/// The tables of all partitions, also of those that were not made by us.
pub fn all_sealed() -> Vec<pg_sys::Oid> {
    let parent = open_parent();
    // SAFETY: the descriptor belongs to the open relation.
    unsafe {
        let descriptor = pg_sys::RelationGetPartitionDesc(parent.relation(), false);
        (0..(*descriptor).nparts as usize).map(|at| *(*descriptor).oids.add(at)).collect()
    }
}

/// Makes sure that blocks up to `block_number` have a partition, and that the next one is there before it is needed.
/// Runs DDL as the current user, who must own the ledger's tables.
///
/// Before it is needed, because Postgres tells other sessions of a new partition only after the transaction that made it is
/// seen to have committed. Were it the same transaction that fills it, then whoever takes a snapshot in between would find
/// the new block's entries neither here nor where they were pending.
pub fn ensure_for(first: i64, last: i64) {
    let partitions = sealed();
    let last_end = partitions.iter().map(|partition| partition.to).max();
    let is_missing = |end| first < end && !partitions.iter().any(|own| (own.from..own.to).contains(&first));
    // Where somebody has taken one away, another in its place could never be attached again.
    let Some(mut end) = last_end.filter(|end| !is_missing(*end)) else { return };
    let span = span();
    while end <= last + span / 10 {
        create(end, end + span);
        // A member, as its parent is: pg_dump must not take the one without the other.
        run(&format!("ALTER EXTENSION pg_notary ADD TABLE ledger.{}", name(end)));
        end += span;
    }
}

/// Blocks of one partition.
fn span() -> i64 {
    (PARTITION_ENTRIES / settings::block_size() as i64).max(1)
}

fn name(from: i64) -> String {
    format!("entries_sealed_{from}")
}

/// A table is made first and attached then: that waits for no writer, and no writer for it, where CREATE TABLE ...
/// PARTITION OF would lock the parent against everyone.
fn create(from: i64, to: i64) {
    let name = name(from);
    let statements = [
        format!("CREATE TABLE ledger.{name} (LIKE ledger.entries_sealed INCLUDING ALL, PRIMARY KEY (id), UNIQUE (leaf_index), CHECK (leaf_index IS NOT NULL)) USING heap"),
        format!("REVOKE ALL ON ledger.{name} FROM PUBLIC"),
        format!("GRANT SELECT ON ledger.{name} TO ledger_auditor, ledger_admin"),
        format!("CREATE TRIGGER refuse_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.{name} FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()"),
        format!("ALTER TABLE ledger.{name} ENABLE ALWAYS TRIGGER refuse_statement"),
        format!("ALTER TABLE ledger.entries_sealed ATTACH PARTITION ledger.{name} FOR VALUES FROM ({from}) TO ({to})"),
    ];
    for statement in &statements {
        run(statement);
    }
}

fn run(statement: &str) {
    Spi::run(statement)
        .unwrap_or_else(|error| pgrx::error!("could not create a partition of ledger.entries_sealed: {error}"));
}

/// The partition for the first blocks, for the install script only, which makes it a member.
#[pg_extern(volatile, parallel_unsafe)]
fn make_first_partition() {
    create(1, 1 + span());
}

/// What `read` makes of the entry's row, if it is sealed as of now.
pub fn find_sealed<T>(entry_id: Uuid, mut read: impl FnMut(&tables::Row) -> T) -> Option<T> {
    let snapshot = LatestSnapshot::take();
    sealed().iter().rev().find_map(|partition| {
        let table = Table::open_oid(partition.oid, pg_sys::AccessShareLock);
        find(&table, entry_id, snapshot.as_ptr(), &mut read)
    })
}

/// What `read` makes of the entry at this place of the log, as the snapshot sees it.
pub fn find_leaf<T>(
    block_number: i64,
    leaf_index: i64,
    snapshot: pg_sys::Snapshot,
    read: impl FnOnce(&tables::Row) -> T,
) -> Option<T> {
    let all = sealed();
    let partition = all.iter().find(|partition| (partition.from..partition.to).contains(&block_number))?;
    let table = Table::open_oid(partition.oid, pg_sys::AccessShareLock);
    let index = leaf_index_of(&table)?;
    let mut read = Some(read);
    let mut found = None;
    // SAFETY: as the caller promises of the snapshot.
    unsafe {
        scan_by_bigint(&table, index, entry_column::LEAF_INDEX, leaf_index, snapshot, |tuple| {
            found = read.take().map(|read| read(&table.deform(tuple)));
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
    snapshot: &LatestSnapshot,
) -> bool {
    let place = |tid: pg_sys::ItemPointerData| (tid.ip_blkid.bi_hi, tid.ip_blkid.bi_lo, tid.ip_posid);
    let mut found = false;
    // SAFETY: the snapshot is registered; a tuple is looked at before the next is asked for.
    unsafe {
        scan_by_bigint(table, index, column, value, snapshot.as_ptr(), |tuple| {
            found = place((*tuple).t_self) == place(tid);
            !found
        });
    }
    found
}

/// Gives `each` the tuples that an index on a bigint column leads to, until it says false.
///
/// # Safety
/// The snapshot is registered or active.
unsafe fn scan_by_bigint(
    table: &Table,
    index: pg_sys::Oid,
    column: usize,
    value: i64,
    snapshot: pg_sys::Snapshot,
    mut each: impl FnMut(pg_sys::HeapTuple) -> bool,
) {
    let mut key = pg_sys::ScanKeyData::default();
    pg_sys::ScanKeyInit(
        &mut key,
        (column + 1) as pg_sys::AttrNumber,
        pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
        pg_sys::Oid::from(pg_sys::F_INT8EQ),
        value.into(),
    );
    let scan = pg_sys::systable_beginscan(table.relation(), index, true, snapshot, 1, &mut key);
    loop {
        let tuple = pg_sys::systable_getnext(scan);
        if tuple.is_null() || !each(tuple) {
            break;
        }
    }
    pg_sys::systable_endscan(scan);
}

/// The index on leaf_index that every sealed partition has, unless somebody has dropped it. One that holds only some rows
/// is not it.
pub fn leaf_index_of(table: &Table) -> Option<pg_sys::Oid> {
    let own = (entry_column::LEAF_INDEX + 1) as i16;
    // SAFETY: the relation is open; the list is a copy, and each index is open while it is looked at.
    unsafe {
        let list = pg_sys::RelationGetIndexList(table.relation());
        let length = if list.is_null() { 0 } else { (*list).length as usize };
        (0..length).map(|at| (*(*list).elements.add(at)).oid_value).find(|oid| {
            let index = pg_sys::index_open(*oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let form = &*(*index).rd_index;
            let is_whole = form.indisunique && form.indisvalid && pg_sys::RelationGetIndexPredicate(index).is_null();
            let is_own = is_whole && form.indkey.values.as_slice(form.indnatts as usize) == [own];
            pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            is_own
        })
    }
}

/// The block that holds the entry, if it is sealed as of now.
pub fn block_of(entry_id: Uuid) -> Option<i64> {
    find_sealed(entry_id, |row| row.get(entry_column::BLOCK_NUMBER).unwrap_or(0))
}

/// What `read` makes of the row with this id in one leaf partition, by its primary key.
pub fn find<T>(
    table: &Table,
    entry_id: Uuid,
    snapshot: pg_sys::Snapshot,
    read: impl FnOnce(&tables::Row) -> T,
) -> Option<T> {
    // SAFETY: the key and the scan live until the scan ends; the tuple is read before that.
    unsafe {
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            (entry_column::ID + 1) as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from(pg_sys::F_UUID_EQ),
            tables::uuid_datum(&entry_id),
        );
        let index = table.primary_key();
        let has_index = index != pg_sys::InvalidOid;
        let scan = pg_sys::systable_beginscan(table.relation(), index, has_index, snapshot, 1, &mut key);
        let tuple = pg_sys::systable_getnext(scan);
        let found = (!tuple.is_null()).then(|| read(&table.deform(tuple)));
        pg_sys::systable_endscan(scan);
        found
    }
}
