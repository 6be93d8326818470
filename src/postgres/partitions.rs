//! The partitions of `ledger.entries_sealed`: where a block's entries go, and finding an entry among them.
//!
//! Sealing creates them, but a DBA may put others in their place: moved, merged, or with partitions of their own. All
//! of them are read. New entries go only into those that are as sealing would make them.

use super::errors::{with_place, Failure};
use super::lists;
use super::local_settings::with_setting;
use super::relation;
use super::settings;
use super::subtransaction::attempt;
use super::tables::{self, entry_column, RegisteredSnapshot, Table};
use pgrx::prelude::*;
use pgrx::{pg_sys, FromDatum, PgSqlErrorCode, Spi};
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// About how many entries one partition holds: large enough that looking an id up in every partition stays cheap, small
/// enough that one can be moved to other storage in reasonable time.
const PARTITION_ENTRIES: i64 = 10_000_000;

/// How long a process leaves it at that, after it could not create the next partition in advance.
const ADVANCE_RETRY: Duration = Duration::from_secs(60);

thread_local! {
    /// When this process last could not create the next partition in advance.
    static REFUSED_AT: Cell<Option<Instant>> = const { Cell::new(None) };
}

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

/// Makes sure that blocks up to `last` have a partition, and that the next partition exists before it is needed. Runs
/// DDL as the current user, who must own the ledger's tables.
///
/// It must exist before it is needed, because Postgres tells other sessions of a new partition only after they can see
/// its transaction as committed. If the same transaction filled it, a session that takes a snapshot in between would
/// find the new block's entries neither there nor in the pending table.
pub fn ensure_for(first: i64, last: i64) {
    let mut partitions = sealed();
    partitions.retain(|partition| partition.kind != Kind::Default);
    let last_end = partitions.iter().map(|partition| partition.to).max();
    let is_there = |end| first == end || partitions.iter().any(|own| own.may_hold(first));
    // If a DBA has taken a partition away, another one in its place would keep it from being attached again.
    let Some(mut end) = last_end.filter(|end| is_there(*end)) else { return };
    let span = span();
    while end <= last {
        add_needed(end, end + span);
        end += span;
    }
    if end <= last + span / 10 && !was_refused_lately() {
        add_in_advance(end, end + span);
    }
}

/// Adds the partition without which the block `from` cannot be sealed.
fn add_needed(from: i64, to: i64) {
    let adding = || {
        add(from, to);
        Ok(())
    };
    let place = || {
        let name = name(from);
        Some(format!("Sealing was creating ledger.{name}, the partition of ledger.entries_sealed for block {from}."))
    };
    with_place(adding, place);
}

/// Adds a partition while there is still room in the one before. If that fails, sealing goes on.
fn add_in_advance(from: i64, to: i64) {
    let Err(failure) = attempt(|| add(from, to)) else { return };
    REFUSED_AT.set(Some(Instant::now()));
    let message = format!("could not create ledger.{} in advance: {}", name(from), failure.text());
    Failure::new(failure.code(), message)
        .detail(format!("It is the next partition of ledger.entries_sealed. Without it, sealing goes on until block {}.", from - 1))
        .hint("Remove what keeps it from being created: for example, an event trigger that refuses the command, or a relation with its name. Sealing tries again by itself, at most once a minute in each process.")
        .warn();
}

fn was_refused_lately() -> bool {
    REFUSED_AT.get().is_some_and(|at| at.elapsed() < ADVANCE_RETRY)
}

fn add(from: i64, to: i64) {
    without_event_triggers(|| {
        create(from, to);
        // A member of the extension, as its parent is: pg_dump must not dump one without the other.
        run(&format!("ALTER EXTENSION pg_notary ADD TABLE ledger.{}", name(from)));
    });
}

/// An event trigger of another application may refuse all DDL. It knows nothing of the ledger.
#[cfg(any(feature = "pg17", feature = "pg18"))]
fn without_event_triggers(work: impl FnOnce()) {
    with_setting(c"event_triggers", c"off", work);
}

/// Before version 17, Postgres has no setting for that.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
fn without_event_triggers(work: impl FnOnce()) {
    work();
}

/// How many blocks one partition holds.
fn span() -> i64 {
    (PARTITION_ENTRIES / settings::block_size() as i64).max(1)
}

fn name(from: i64) -> String {
    format!("entries_sealed_{from}")
}

/// Creates a table and then attaches it. That neither waits for sessions that record nor holds them up. CREATE TABLE
/// ... PARTITION OF would lock the parent against all others. The table is stored where its parent is, and not where
/// the caller's `default_tablespace` points to: no tablespace asks whether the caller may create anything there.
fn create(from: i64, to: i64) {
    let name = name(from);
    let grant = readers().map(|readers| format!("GRANT SELECT ON ledger.{name} TO {readers}"));
    let statements = [
        format!("CREATE TABLE ledger.{name} (LIKE ledger.entries_sealed INCLUDING ALL, PRIMARY KEY (id), UNIQUE (leaf_index), CHECK (leaf_index IS NOT NULL)) USING heap"),
        format!("REVOKE ALL ON ledger.{name} FROM PUBLIC"),
        format!("CREATE TRIGGER refuse_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.{name} FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()"),
        format!("ALTER TABLE ledger.{name} ENABLE ALWAYS TRIGGER refuse_statement"),
        format!("ALTER TABLE ledger.entries_sealed ATTACH PARTITION ledger.{name} FOR VALUES FROM ({from}) TO ({to})"),
    ];
    with_setting(c"default_tablespace", &tablespace(), || {
        statements.iter().chain(&grant).for_each(|statement| run(statement));
    });
}

/// The roles that were granted to read the partitioned table, as a list in SQL. Those of the ledger may have been renamed
/// or dropped.
fn readers() -> Option<String> {
    Spi::get_one(
        "SELECT pg_catalog.string_agg(DISTINCT CAST(CAST(a.grantee AS pg_catalog.regrole) AS pg_catalog.text), ', ') \
         FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS a \
         WHERE c.oid = CAST('ledger.entries_sealed' AS pg_catalog.regclass) AND a.privilege_type = 'SELECT' \
         AND a.grantee NOT IN (0, c.relowner)",
    )
    .unwrap_or_else(|error| pgrx::error!("could not read who may read ledger.entries_sealed: {error}"))
}

/// The tablespace of the partitioned table, as a setting names it: empty for that of the database.
fn tablespace() -> CString {
    let parent = open_parent();
    // SAFETY: the relation is open. The look-up gives a copy, or null where the relation states no tablespace.
    unsafe {
        let name = pg_sys::get_tablespace_name((*(*parent.relation()).rd_rel).reltablespace);
        if name.is_null() {
            CString::default()
        } else {
            CStr::from_ptr(name).to_owned()
        }
    }
}

fn run(statement: &str) {
    Spi::run(statement)
        .unwrap_or_else(|error| pgrx::error!("could not create a partition of ledger.entries_sealed: {error}"));
}

/// Creates the partition for the first blocks. Only the install script calls this; it makes the table a member.
#[pg_extern(volatile, parallel_unsafe)]
fn make_first_partition() {
    create(1, 1 + span());
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
