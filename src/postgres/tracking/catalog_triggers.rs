//! Triggers as `pg_trigger` has them: the one whose Oid the object access hook is given, and those that record a table.

use super::options::{is_function, Options, ROW_FUNCTION};
use crate::postgres::tables::look_up::equality_key;
use crate::postgres::tables::Row;
use pgrx::pg_sys;
use std::collections::HashMap;

pub struct CatalogTrigger {
    pub function: pg_sys::Oid,
    pub relation: pg_sys::Oid,
    /// The trigger that it is a copy of, if its relation is a partition.
    pub parent: Option<pg_sys::Oid>,
    /// What it gives to the function, each ended by a zero byte.
    arguments: Vec<u8>,
}

impl CatalogTrigger {
    /// Reads the trigger with SnapshotSelf: a new snapshot does not see one that the command which creates it has made.
    ///
    /// # Safety
    /// Inside a transaction; any Oid may be given.
    pub unsafe fn find(trigger: pg_sys::Oid) -> Option<CatalogTrigger> {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let catalog = pg_sys::table_open(pg_sys::TriggerRelationId, lock);
        let mut key = equality_key(pg_sys::Anum_pg_trigger_oid as pg_sys::AttrNumber, pg_sys::F_OIDEQ, trigger.into());
        let as_of_now = &raw mut pg_sys::SnapshotSelfData;
        let index = pg_sys::Oid::from(pg_sys::TriggerOidIndexId);
        let scan = pg_sys::systable_beginscan(catalog, index, true, as_of_now, 1, &mut key);
        let tuple = pg_sys::systable_getnext(scan);
        let found = (!tuple.is_null()).then(|| CatalogTrigger::of(tuple, (*catalog).rd_att));
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, lock);
        found
    }

    /// Calls `each` with the triggers that record rows, without their copies on partitions: those of one table, or of
    /// all.
    pub fn for_each_that_records(table: Option<pg_sys::Oid>, mut each: impl FnMut(CatalogTrigger)) {
        // Each partition has a trigger for TRUNCATE that is no copy, and its argument can be long.
        let mut functions = HashMap::new();
        let (column, value) = match table {
            Some(table) => (pg_sys::Anum_pg_trigger_tgrelid, table),
            None => (pg_sys::Anum_pg_trigger_tgparentid, pg_sys::InvalidOid),
        };
        // SAFETY: inside a transaction; the catalog, and the key, outlive the scan, and a tuple is read before the next
        // one is fetched.
        unsafe {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let catalog = pg_sys::table_open(pg_sys::TriggerRelationId, lock);
            let mut key = equality_key(column as pg_sys::AttrNumber, pg_sys::F_OIDEQ, value.into());
            let index = pg_sys::Oid::from(pg_sys::TriggerRelidNameIndexId);
            let scan = pg_sys::systable_beginscan(catalog, index, table.is_some(), std::ptr::null_mut(), 1, &mut key);
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_trigger>();
                let (function, is_copy) = (form.tgfoid, form.tgparentid != pg_sys::InvalidOid);
                let mut is_ours = || *functions.entry(function).or_insert_with(|| is_function(function, ROW_FUNCTION));
                if !is_copy && is_ours() {
                    each(CatalogTrigger::of(tuple, (*catalog).rd_att));
                }
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(catalog, lock);
        }
    }

    /// # Safety
    /// The tuple is one of pg_trigger, whose descriptor is given.
    unsafe fn of(tuple: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc) -> CatalogTrigger {
        let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_trigger>();
        let arguments = Row::deform(tuple, descriptor).get(pg_sys::Anum_pg_trigger_tgargs as usize - 1);
        CatalogTrigger {
            function: form.tgfoid,
            relation: form.tgrelid,
            parent: (form.tgparentid != pg_sys::InvalidOid).then_some(form.tgparentid),
            arguments: arguments.unwrap_or_default(),
        }
    }

    /// What the table is tracked with, if it is a trigger that track() has made.
    pub fn options(&self) -> Option<Options> {
        Options::parse(std::str::from_utf8(self.arguments.strip_suffix(b"\0")?).ok()?)
    }

    /// The relation whose trigger this one is a copy of, or a copy of a copy; its own if it is no copy.
    ///
    /// # Safety
    /// Inside a transaction.
    pub unsafe fn topmost_relation(&self) -> pg_sys::Oid {
        let (mut relation, mut parent) = (self.relation, self.parent);
        while let Some(above) = parent.and_then(|parent| CatalogTrigger::find(parent)) {
            (relation, parent) = (above.relation, above.parent);
        }
        relation
    }
}
