//! Finds rows of an application's table by their primary key.

use crate::postgres::relation;
use crate::postgres::tables::{RegisteredSnapshot, Row, Table};
use pgrx::pg_sys;

/// Where a row version is stored.
#[derive(Clone, Copy, Default)]
pub struct RowLocation {
    pub relation: pg_sys::Oid,
    pub tid: pg_sys::ItemPointerData,
}

/// The place of the row with this key, as the snapshot sees it. Uses the index and not a query: a query would need
/// privileges on the table, and a caller with more privileges than the table's owner would run the owner's code.
///
/// # Safety
/// `value_of` gives values of the types of the key's columns, by their names.
pub unsafe fn find_by_key(
    table: &Table,
    value_of: impl Fn(&str) -> Option<pg_sys::Datum>,
    snapshot: &RegisteredSnapshot,
) -> Option<pg_sys::ItemPointerData> {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    let index = pg_sys::index_open(table.primary_key(), lock);
    let conditions = conditions(table, index, value_of);
    let tid = conditions.and_then(|conditions| find_by_index(table, index, conditions, snapshot));
    pg_sys::index_close(index, lock);
    tid
}

/// The condition that a column of the key equals a value.
struct Condition {
    /// The number of the column in the table.
    attribute: i16,
    key: pg_sys::ScanKeyData,
}

/// # Safety
/// `index` is the table's primary key, open; `value_of` gives values of the types of the key's columns, by their names.
unsafe fn conditions(
    table: &Table,
    index: pg_sys::Relation,
    value_of: impl Fn(&str) -> Option<pg_sys::Datum>,
) -> Option<Vec<Condition>> {
    let form = &*(*index).rd_index;
    let numbers = form.indkey.values.as_slice(form.indnkeyatts as usize);
    let condition = |(at, number): (usize, &i16)| {
        let name = relation::text(&table.attribute(*number as usize - 1).attname);
        let (family, of_type) = (*(*index).rd_opfamily.add(at), *(*index).rd_opcintype.add(at));
        let strategy = equality_strategy((*(*index).rd_rel).relam, family);
        let operator = pg_sys::get_opfamily_member(family, of_type, of_type, strategy as i16);
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyEntryInitialize(
            &mut key,
            0,
            at as pg_sys::AttrNumber + 1,
            strategy,
            pg_sys::InvalidOid,
            *(*index).rd_indcollation.add(at),
            pg_sys::get_opcode(operator),
            value_of(&name)?,
        );
        Some(Condition { attribute: *number, key })
    };
    numbers.iter().enumerate().map(condition).collect()
}

/// The number of the equality strategy in an index of this access method. From Postgres 18 on, a key WITHOUT OVERLAPS
/// has a GiST index.
///
/// # Safety
/// `family` is an operator family of the access method; inside a transaction.
unsafe fn equality_strategy(access_method: pg_sys::Oid, family: pg_sys::Oid) -> pg_sys::StrategyNumber {
    #[cfg(feature = "pg18")]
    return pg_sys::IndexAmTranslateCompareType(pg_sys::CompareType::COMPARE_EQ, access_method, family, false);
    #[cfg(not(feature = "pg18"))]
    {
        let _ = (access_method, family);
        pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber
    }
}

/// Gives `each` the header of every row version with this key, whichever transaction made it, dead or alive.
///
/// # Safety
/// `value_of` gives values of the types of the key's columns, by their names.
pub unsafe fn each_version_of_key(
    table: &Table,
    value_of: impl Fn(&str) -> Option<pg_sys::Datum>,
    mut each: impl FnMut(pg_sys::HeapTupleHeader),
) {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    let index = pg_sys::index_open(table.primary_key(), lock);
    if let Some(conditions) = conditions(table, index, value_of) {
        scan_index(table, index, conditions, &raw mut pg_sys::SnapshotAnyData, |slot| {
            let mut is_copy = false;
            let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, false, &mut is_copy);
            each((*tuple).t_data);
            true
        });
    }
    pg_sys::index_close(index, lock);
}

/// # Safety
/// `index` is one of the table's, open; the conditions are on its columns.
unsafe fn find_by_index(
    table: &Table,
    index: pg_sys::Relation,
    conditions: Vec<Condition>,
    snapshot: &RegisteredSnapshot,
) -> Option<pg_sys::ItemPointerData> {
    let mut tid = None;
    scan_index(table, index, conditions, snapshot.as_ptr(), |slot| {
        tid = Some((*slot).tts_tid);
        false
    });
    tid
}

/// Gives `each` the row versions that meet the conditions, until it returns false.
///
/// # Safety
/// `index` is one of the table's, open; the conditions are on its columns, and the snapshot is registered or static.
unsafe fn scan_index(
    table: &Table,
    index: pg_sys::Relation,
    mut conditions: Vec<Condition>,
    snapshot: pg_sys::Snapshot,
    mut each: impl FnMut(*mut pg_sys::TupleTableSlot) -> bool,
) {
    let count = conditions.len() as i32;
    let mut keys: Vec<pg_sys::ScanKeyData> = conditions.iter().map(|condition| condition.key).collect();
    #[cfg(feature = "pg18")]
    let scan = pg_sys::index_beginscan(table.relation(), index, snapshot, std::ptr::null_mut(), count, 0);
    #[cfg(not(feature = "pg18"))]
    let scan = pg_sys::index_beginscan(table.relation(), index, snapshot, count, 0);
    pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
    let slot = pg_sys::table_slot_create(table.relation(), std::ptr::null_mut());
    while pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot) {
        // Some indexes (on network addresses, for example) also return rows that only may be equal: these are compared
        // here.
        let is_it = !(*scan).xs_recheck || conditions.iter_mut().all(|condition| condition.holds(slot));
        if is_it && !each(slot) {
            break;
        }
    }
    pg_sys::ExecDropSingleTupleTableSlot(slot);
    pg_sys::index_endscan(scan);
}

impl Condition {
    /// # Safety
    /// The slot holds a row of the table.
    unsafe fn holds(&mut self, slot: *mut pg_sys::TupleTableSlot) -> bool {
        if (*slot).tts_nvalid < self.attribute {
            pg_sys::slot_getsomeattrs_int(slot, self.attribute.into());
        }
        let value = *(*slot).tts_values.add(self.attribute as usize - 1);
        let key = &mut self.key;
        pg_sys::FunctionCall2Coll(&mut key.sk_func, key.sk_collation, value, key.sk_argument).value() != 0
    }
}

/// The columns of a composite value of the table's row type.
///
/// # Safety
/// The value is of that type.
pub unsafe fn composite_row(value: pg_sys::Datum, table: &Table) -> Row {
    let header = pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
    let mut tuple =
        pg_sys::HeapTupleData { t_len: pgrx::varsize(header.cast()) as u32, t_data: header, ..Default::default() };
    Row::deform(&mut tuple, (*table.relation()).rd_att)
}
