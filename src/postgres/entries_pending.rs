//! The table `ledger.entries_pending`, for inserting into it: what a session remembers of the table and its indexes.

use super::database;
use super::single_insert::Indexes;
use super::single_row;
use super::tables::{self, Table};
use pgrx::{pg_guard, pg_sys};
use std::cell::Cell;
use std::rc::Rc;

thread_local! {
    static IS_LISTENING: Cell<bool> = const { Cell::new(false) };
    /// Its oid, once it was looked up.
    static OID: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    /// Its indexes.
    static INDEXES: Cell<Option<Rc<Indexes>>> = const { Cell::new(None) };
}

/// Opens it for inserting.
pub fn open() -> Table {
    if !IS_LISTENING.replace(true) {
        // SAFETY: registered once a process. The callback lives as long as the library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget), pg_sys::Datum::null()) };
    }
    if OID.get() == pg_sys::InvalidOid {
        OID.set(tables::oid_of("entries_pending"));
    }
    Table::open_oid(OID.get(), pg_sys::RowExclusiveLock)
}

/// Inserts one row. [`open`] has locked the table, so what an insert has to do does not change until the transaction
/// ends.
pub fn insert<const COLUMNS: usize>(table: &Table, row: &[Option<pg_sys::Datum>; COLUMNS]) {
    let page = match indexes(table) {
        Some(indexes) => indexes.insert(table, row),
        None => single_row::insert(table, row),
    };
    note(page);
}

/// Notes the lowest page on which this session has inserted rows.
pub fn note(page: u32) {
    // Without a slot nothing is recorded.
    if let Ok((_, slot)) = database::slot() {
        slot.pending_floor.note(page);
    }
}

/// `None` if there are indexes that only Postgres' executor knows how to insert into.
fn indexes(table: &Table) -> Option<Rc<Indexes>> {
    let known = INDEXES.take().or_else(|| {
        let oid = OID.get();
        let found = Indexes::of(table).map(Rc::new);
        // Not if the table has changed meanwhile.
        found.filter(|_| oid != pg_sys::InvalidOid && OID.get() == oid)
    });
    INDEXES.set(known.clone());
    known
}

#[pg_guard]
unsafe extern "C-unwind" fn forget(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid || relation == OID.get() {
        OID.set(pg_sys::InvalidOid);
        INDEXES.set(None);
    }
}
