//! One row of a tracked table, found by the key that the caller gave.

use super::finding::Finding;
use super::given_key::{GivenKey, TypedKey};
use super::options::Options;
use super::partition_bounds;
use super::plan::{self, Plan};
use super::row_hashes::RowHashes;
use super::row_key::RowKey;
use super::rows::{self, RowLocation};
use super::targets::not_tracked;
use super::verify_row::{check_signature, presence, ByLedger, Comparer};
use super::versions::{self, Version};
use crate::ledger::row_change::row_id;
use crate::postgres::errors::Failure;
use crate::postgres::jsonb::Jsonb;
use crate::postgres::relation;
use crate::postgres::tables::{RegisteredSnapshot, Row, Table};
use pgrx::pg_sys;
use std::rc::Rc;
use uuid::Uuid;

pub struct OneRow {
    found: Found,
    plan: Rc<Plan>,
    snapshot: RegisteredSnapshot,
}

/// What a key leads to.
struct Found {
    /// Under which the row is recorded.
    row_id: Uuid,
    /// Where the row is stored, if it was found.
    location: Option<RowLocation>,
    absence: Absence,
}

/// What it means that the index does not lead to the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// It is not there.
    Certain,
    /// It is hardly there: what its types print, they may read as other values.
    Likely,
    /// Nothing: the values that are stored are not known, only what the ledger says of them, or would say.
    Unknown,
}

impl OneRow {
    /// `take` takes the snapshot, after the locks: no session can truncate or rewrite the table any more.
    pub fn of_key(target: pg_sys::Oid, key: Jsonb, take: fn() -> RegisteredSnapshot) -> Result<OneRow, Failure> {
        let table = Table::open_oid(target, pg_sys::AccessShareLock);
        let plan = plan_of(&table)?;
        let given = GivenKey::read(&table, &plan, key)?;
        if plan.is_partition || table.is_partitioned() {
            if let Some(row) = OneRow::by_bounds(&table, &plan, &given, take)? {
                return Ok(row);
            }
            relation::tree(&Table::open_oid(plan.root, pg_sys::AccessShareLock), pg_sys::AccessShareLock);
        }
        OneRow::of_locked(table, plan, &given, take())
    }

    /// The row, if it is where the bounds of the partitions put its key. Locks only what leads there: a table can have
    /// more partitions than a transaction can lock. What is not found there is looked for everywhere: the bounds may
    /// have been tampered with, and a row that is in the wrong partition is not missing.
    fn by_bounds(
        table: &Table,
        plan: &Rc<Plan>,
        given: &GivenKey,
        take: fn() -> RegisteredSnapshot,
    ) -> Result<Option<OneRow>, Failure> {
        let Ok(key) = &given.typed else { return Ok(None) };
        let from = std::iter::once(relation::oid(table)).chain(plan.is_partition.then_some(plan.root));
        // SAFETY: the values were made for the columns of these names.
        let paths: Vec<Table> =
            from.flat_map(|from| unsafe { partition_bounds::path(from, |name| key.value_of(name)) }).collect();
        let snapshot = take();
        let mut leaves = paths.iter().filter(|table| !table.is_partitioned());
        if let Some(location) = leaves.find_map(|leaf| location_in(leaf, key, &snapshot)) {
            let by_values = Found::at(Some(location), key, &snapshot);
            if by_values.is_ok() && stated_beside(given, &by_values, plan, &snapshot)?.is_none() {
                return Ok(Some(OneRow { found: by_values?, plan: Rc::clone(plan), snapshot }));
            }
        }
        drop(snapshot);
        // Or who locks the partitions in their order, and this session, which is about to do that, could wait for each
        // other.
        partition_bounds::unlock(paths);
        Ok(None)
    }

    /// Looks in all partitions. They are locked, and the snapshot is newer than their locks.
    fn of_locked(
        table: Table,
        plan: Rc<Plan>,
        given: &GivenKey,
        snapshot: RegisteredSnapshot,
    ) -> Result<OneRow, Failure> {
        let typed = given.typed.as_ref().map_err(Clone::clone);
        let by_values = typed.and_then(|key| Found::by_values(table, &plan, key, &snapshot));
        let found = match stated_beside(given, &by_values, &plan, &snapshot)? {
            Some(id) => Found { row_id: id, location: None, absence: Absence::Unknown },
            None => by_values_or_words(by_values?, given, &snapshot)?,
        };
        Ok(OneRow { found, plan, snapshot })
    }

    /// All entries about the row, the oldest first.
    pub fn versions(&self) -> Result<Vec<Version>, Failure> {
        versions::all(self.found.row_id, &self.snapshot)
    }

    /// The newest entry about the row, and what is wrong with it.
    pub fn check(&self) -> Result<(Option<Version>, Option<Finding>), Failure> {
        let row_id = self.found.row_id;
        let (newest, by_ledger) = by_ledger(row_id, &self.plan, &self.snapshot)?;
        let location = match self.found.location {
            None if self.may_be_there(newest.is_some(), by_ledger) => self.search()?,
            location => location,
        };
        let (Some(version), Some(RowLocation { relation, tid }), ByLedger::Exists) = (&newest, location, by_ledger)
        else {
            let finding = presence(newest.as_ref(), by_ledger, location.is_some());
            return Ok((newest, finding));
        };
        if let Some(finding) = check_signature(version)? {
            return Ok((newest, Some(finding)));
        }
        let table = Table::open_oid(relation, pg_sys::AccessShareLock);
        let plan = plan_of(&table)?;
        let comparer = Comparer::new(Table::open_oid(relation, pg_sys::NoLock), plan);
        let compare = |row: &Row| comparer.compare(row, version);
        let finding = table.fetch(tid, &self.snapshot, compare).unwrap_or(Ok(None))?;
        Ok((newest, finding))
    }

    /// Whether the row may be in the table, although the index did not lead to it.
    fn may_be_there(&self, has_entry: bool, by_ledger: ByLedger) -> bool {
        match self.found.absence {
            Absence::Certain => false,
            // To look for every row that was deleted would take too long.
            Absence::Likely => has_entry && by_ledger == ByLedger::Exists,
            Absence::Unknown => true,
        }
    }

    /// The location of the row, found by its id: reads the keys of the whole table.
    fn search(&self) -> Result<Option<RowLocation>, Failure> {
        for leaf in relation::leaves(Table::open_oid(self.plan.root, pg_sys::AccessShareLock)) {
            if let Some(tid) = RowHashes::of(&leaf, plan_of(&leaf)?, &self.snapshot).find(self.found.row_id)? {
                return Ok(Some(RowLocation { relation: relation::oid(&leaf), tid }));
            }
        }
        Ok(None)
    }
}

impl Found {
    /// What the index leads to.
    fn by_values(table: Table, plan: &Plan, key: &TypedKey, snapshot: &RegisteredSnapshot) -> Result<Found, Failure> {
        let mut location = location_of(table, key, snapshot);
        // Entries say which table a row is in, not which partition of it: the row may be in another one.
        if location.is_none() && plan.is_partition {
            location = location_of(Table::open_oid(plan.root, pg_sys::AccessShareLock), key, snapshot);
        }
        Found::at(location, key, snapshot)
    }

    fn at(location: Option<RowLocation>, key: &TypedKey, snapshot: &RegisteredSnapshot) -> Result<Found, Failure> {
        let row_id = location.map_or(Ok(key.row_id), |location| recorded_id(location, key, snapshot))?;
        let absence = if key.is_exact { Absence::Certain } else { Absence::Likely };
        Ok(Found { row_id, location, absence })
    }
}

fn location_of(table: Table, key: &TypedKey, snapshot: &RegisteredSnapshot) -> Option<RowLocation> {
    relation::leaves(table).iter().find_map(|leaf| location_in(leaf, key, snapshot))
}

fn location_in(leaf: &Table, key: &TypedKey, snapshot: &RegisteredSnapshot) -> Option<RowLocation> {
    // SAFETY: the values were made for these columns.
    let tid = unsafe { rows::find_by_key(leaf, |name| key.value_of(name), snapshot) };
    tid.map(|tid| RowLocation { relation: relation::oid(leaf), tid })
}

/// The id under which the row is recorded, which is that of the stored key. Equal values can be written in several ways
/// (intervals, say, and texts under some collations), and so have different ids.
fn recorded_id(location: RowLocation, key: &TypedKey, snapshot: &RegisteredSnapshot) -> Result<Uuid, Failure> {
    let table = Table::open_oid(location.relation, pg_sys::AccessShareLock);
    let plan = plan_of(&table)?;
    let id_of = |row: &Row| RowKey::id_of(&plan.options.table_id, &plan.key, row);
    table.fetch(location.tid, snapshot, id_of).unwrap_or(Ok(key.row_id))
}

/// What the key leads to if the ledger has no row under its words. There may be a row that nobody recorded, for which
/// it would state them.
fn by_values_or_words(by_values: Found, given: &GivenKey, snapshot: &RegisteredSnapshot) -> Result<Found, Failure> {
    match given.stated.filter(|_| !given.is_clear && by_values.location.is_none()) {
        Some(id) if versions::newest(by_values.row_id, snapshot)?.is_none() => {
            Ok(Found { row_id: id, location: None, absence: Absence::Unknown })
        }
        _ => Ok(by_values),
    }
}

/// The id of the row that the ledger has under the key's own words, if that is another one than the values lead to.
fn stated_beside(
    given: &GivenKey,
    by_values: &Result<Found, Failure>,
    plan: &Plan,
    snapshot: &RegisteredSnapshot,
) -> Result<Option<Uuid>, Failure> {
    let means_other = |id: &Uuid| match by_values {
        Ok(found) => found.row_id != *id || (found.location.is_none() && given.has_null_elements),
        Err(_) => true,
    };
    match given.stated.filter(means_other) {
        Some(id) if is_recorded_beside(by_values, id, plan, snapshot)? => Ok(Some(id)),
        _ => Ok(None),
    }
}

/// Whether the ledger has a row with this id, although the values of the key lead to another row or to none.
fn is_recorded_beside(
    by_values: &Result<Found, Failure>,
    id: Uuid,
    plan: &Plan,
    snapshot: &RegisteredSnapshot,
) -> Result<bool, Failure> {
    let exists = |id: Uuid| Ok(by_ledger(id, plan, snapshot)?.1 == ByLedger::Exists);
    match by_values {
        // That row may have had this id before: then its key was changed to an equal one, written in another way.
        Ok(Found { location: Some(_), .. }) => exists(id),
        // That the one row is gone, and should be, must not hide that the other is gone and should not.
        Ok(other) if other.row_id != id => {
            let (newest, state) = by_ledger(id, plan, snapshot)?;
            Ok(newest.is_some() && (state == ByLedger::Exists || !exists(other.row_id)?))
        }
        _ => Ok(versions::newest(id, snapshot)?.is_some()),
    }
}

/// The newest entry about a row, and what it and a `TRUNCATE` since say of the row.
pub fn by_ledger(id: Uuid, plan: &Plan, snapshot: &RegisteredSnapshot) -> Result<(Option<Version>, ByLedger), Failure> {
    let table_id = row_id(&plan.options.table_id, "");
    let [pending, pending_truncate] = versions::newest_pending([id, table_id], snapshot);
    let newest = versions::newest_with(pending, id, snapshot)?;
    let Some(version) = newest.as_ref().filter(|version| version.leaves_row(id)) else {
        return Ok((newest, ByLedger::Gone));
    };
    let truncate = versions::newest_with(pending_truncate, table_id, snapshot)?;
    let is_newer =
        |truncate: Version| (truncate.created_at, truncate.entry_id) > (version.created_at, version.entry_id);
    let state = if truncate.is_some_and(is_newer) { ByLedger::Truncated } else { ByLedger::Exists };
    Ok((newest, state))
}

pub fn plan_of(table: &Table) -> Result<Rc<Plan>, Failure> {
    plan::of(table, || Options::of(table).ok_or_else(|| not_tracked(table)))
}
