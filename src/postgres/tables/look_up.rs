//! Finds the rows of a table that have a given value in one column: by an index, or, if a user has dropped that,
//! without one.

use super::{entry_column, tid_of, uuid_datum, RegisteredSnapshot, Row, Table};
use crate::postgres::lists;
use pgrx::pg_sys;
use uuid::Uuid;

/// The condition that a column equals the value. The function is that of the operator = of the column's type. Texts are
/// compared with the collation of the catalogs.
pub fn equality_key(attribute: pg_sys::AttrNumber, function: u32, value: pg_sys::Datum) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    let strategy = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
    // SAFETY: fills in the key, without reading the value; an ERROR if there is no such function.
    unsafe { pg_sys::ScanKeyInit(&mut key, attribute, strategy, pg_sys::Oid::from(function), value) };
    key
}

/// Calls `each` with the tuples that meet the condition, until it returns false. Without an index on the column this
/// takes longer.
///
/// # Safety
/// The key's function and value are of the column's type. The value, and the snapshot, outlive the call.
unsafe fn scan_by(
    table: &Table,
    index: Option<pg_sys::Oid>,
    mut key: pg_sys::ScanKeyData,
    snapshot: pg_sys::Snapshot,
    mut each: impl FnMut(pg_sys::HeapTuple) -> bool,
) {
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

fn bigint_key(table: &Table, column: usize, value: i64) -> pg_sys::ScanKeyData {
    equality_key(table.attribute_number(column), pg_sys::F_INT8EQ, value.into())
}

/// Calls `each` with the rows whose first column is this uuid, by an index that begins with it, until it returns false.
pub fn scan_by_uuid(
    table: &Table,
    index: pg_sys::Oid,
    id: Uuid,
    snapshot: &RegisteredSnapshot,
    mut each: impl FnMut(&Row) -> bool,
) {
    let key = equality_key(1, pg_sys::F_UUID_EQ, uuid_datum(&id));
    // SAFETY: the column is a uuid, and so is the value. A tuple is read before the next one is fetched.
    unsafe { scan_by(table, Some(index), key, snapshot.as_ptr(), |tuple| each(&table.deform(tuple))) }
}

/// What `read` returns for the row with this id in one table of entries, as the snapshot sees it. Without an index on
/// the id this takes longer.
pub fn find_entry<T>(
    table: &Table,
    entry_id: Uuid,
    snapshot: &RegisteredSnapshot,
    read: impl FnOnce(&Row) -> T,
) -> Option<T> {
    // SAFETY: the snapshot is registered, and borrowed for the call.
    unsafe { find_entry_with(table, entry_id, snapshot.as_ptr(), read) }
}

/// As [`find_entry`], with a snapshot that cannot be registered, as a dirty one cannot.
///
/// # Safety
/// The snapshot outlives the call.
pub unsafe fn find_entry_with<T>(
    table: &Table,
    entry_id: Uuid,
    snapshot: pg_sys::Snapshot,
    read: impl FnOnce(&Row) -> T,
) -> Option<T> {
    let key = equality_key(table.attribute_number(entry_column::ID), pg_sys::F_UUID_EQ, uuid_datum(&entry_id));
    let (mut read, mut found) = (Some(read), None);
    scan_by(table, id_index_of(table), key, snapshot, |tuple| {
        found = read.take().map(|read| read(&table.deform(tuple)));
        false
    });
    found
}

/// What `read` returns for the entry at this place of the log in one partition, as the snapshot sees it.
pub fn find_leaf_in<T>(
    table: &Table,
    leaf_index: i64,
    snapshot: &RegisteredSnapshot,
    read: impl FnOnce(&Row) -> T,
) -> Option<T> {
    let key = bigint_key(table, entry_column::LEAF_INDEX, leaf_index);
    let (mut read, mut found) = (Some(read), None);
    // SAFETY: the column is a bigint; the tuple is read before the scan goes on.
    unsafe {
        scan_by(table, leaf_index_of(table), key, snapshot.as_ptr(), |tuple| {
            let row = table.deform(tuple);
            // A row that was changed in the data file has another place than the index says.
            if super::leaf_index(&row) == leaf_index {
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
    // SAFETY: the column is a bigint; a tuple is read before the next one is fetched.
    unsafe {
        scan_by(table, Some(index), bigint_key(table, column, value), snapshot.as_ptr(), |tuple| {
            found = tid_of(tuple) == super::tid(tid);
            !found
        });
    }
    found
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
