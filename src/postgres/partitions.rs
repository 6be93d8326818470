//! The partitions of `ledger.entries_sealed`: where a block's entries go, and finding an entry among them.

use super::settings;
use super::spi;
use super::tables::{self, entry_column, LatestSnapshot, Table};
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

/// All partitions, by ascending block number.
pub fn sealed() -> Vec<SealedPartition> {
    let parent = Table::open("entries_sealed", pg_sys::AccessShareLock);
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

/// The tables of all partitions, also of those that were not made by us. Asked of the catalog: what a session remembers
/// of a table that it has open may lack a partition to which others have sealed since.
pub fn all_sealed() -> Vec<pg_sys::Oid> {
    let mut oids = Vec::new();
    let query =
        "SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = 'ledger.entries_sealed'::pg_catalog.regclass";
    spi::for_each(query, &[], |row| oids.extend(row.get::<pg_sys::Oid>(0)));
    oids
}

/// Makes sure that blocks up to `block_number` have a partition, and that the next one is there before it is needed.
/// Runs DDL as the current user, who must own the ledger's tables.
pub fn ensure_for(first: i64, last: i64) {
    let span = (PARTITION_ENTRIES / settings::block_size() as i64).max(1);
    let partitions = sealed();
    let is_missing = !partitions.iter().any(|partition| (partition.from..partition.to).contains(&first));
    if first > 1 && is_missing {
        // It was made ahead of need, so somebody has taken it away: another in its place could never be attached again.
        return;
    }
    let mut end = partitions.iter().map(|partition| partition.to).max().unwrap_or(first);
    while end <= last + span / 10 {
        create(end, end + span);
        end += span;
    }
}

/// A table is made first and attached then: that waits for no writer, and no writer for it, where CREATE TABLE ...
/// PARTITION OF would lock the parent against everyone.
fn create(from: i64, to: i64) {
    let name = format!("entries_sealed_{from}");
    let statements = [
        format!("CREATE TABLE ledger.{name} (LIKE ledger.entries_sealed INCLUDING ALL, PRIMARY KEY (id), UNIQUE (leaf_index), CHECK (leaf_index IS NOT NULL)) USING heap"),
        format!("REVOKE ALL ON ledger.{name} FROM PUBLIC"),
        format!("GRANT SELECT ON ledger.{name} TO ledger_auditor, ledger_admin"),
        format!("CREATE TRIGGER refuse_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.{name} FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()"),
        format!("ALTER TABLE ledger.{name} ENABLE ALWAYS TRIGGER refuse_statement"),
        format!("ALTER TABLE ledger.entries_sealed ATTACH PARTITION ledger.{name} FOR VALUES FROM ({from}) TO ({to})"),
        // A member, as its parent is: pg_dump must not take the one without the other.
        format!("ALTER EXTENSION pg_notary ADD TABLE ledger.{name}"),
    ];
    for statement in &statements {
        Spi::run(statement).unwrap_or_else(|error| pgrx::error!("could not create partition ledger.{name}: {error}"));
    }
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
    // SAFETY: the key and the scan live until the scan ends; the tuple is read before that.
    unsafe {
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            (entry_column::LEAF_INDEX + 1) as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from(pg_sys::F_INT8EQ),
            leaf_index.into(),
        );
        let scan = pg_sys::systable_beginscan(table.relation(), index, true, snapshot, 1, &mut key);
        let tuple = pg_sys::systable_getnext(scan);
        let found = (!tuple.is_null()).then(|| read(&table.deform(tuple)));
        pg_sys::systable_endscan(scan);
        found
    }
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
