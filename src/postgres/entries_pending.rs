//! The table `ledger.entries_pending`, as those who record insert into it: what a session knows of it.

use super::single_insert::Indexes;
use super::single_row;
use super::tables::{self, Table};
use pgrx::{pg_guard, pg_sys};
use std::cell::Cell;
use std::rc::Rc;

thread_local! {
    static IS_LISTENING: Cell<bool> = const { Cell::new(false) };
    /// Its Oid, once it was looked up.
    static OID: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    /// Its indexes.
    static INDEXES: Cell<Option<Rc<Indexes>>> = const { Cell::new(None) };
}

/// Opens it for inserting.
pub fn open() -> Table {
    if !IS_LISTENING.replace(true) {
        // SAFETY: registered once a process.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget), pg_sys::Datum::null()) };
    }
    if OID.get() == pg_sys::InvalidOid {
        OID.set(tables::oid_of("entries_pending"));
    }
    Table::open_oid(OID.get(), pg_sys::RowExclusiveLock)
}

/// Inserts one row. The table has been locked by [`open`]: until the transaction ends nobody changes what an insert has to do.
pub fn insert<const COLUMNS: usize>(table: &Table, row: &[Option<pg_sys::Datum>; COLUMNS]) {
    match indexes(table) {
        Some(indexes) => indexes.insert(table, row),
        None => single_row::insert(table, row),
    }
}

/// `None` where there are indexes that only Postgres itself knows how to insert into.
fn indexes(table: &Table) -> Option<Rc<Indexes>> {
    let known = INDEXES.take().or_else(|| {
        let oid = OID.get();
        let found = Indexes::of(table).map(Rc::new);
        // Not if they have changed meanwhile.
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
