//! Finds the entries about one row: sealed ones through `ledger.row_versions`, which sealing fills, and pending ones by
//! reading all that is pending, which is little while sealing keeps up. For further rows there is a
//! [list](pending_list) of what was read.

use super::pending_list::{self, PendingList, Place};
use super::run_writer;
use super::version_runs::{RowPlaces, VersionTable};
use crate::ledger::record::Timestamp;
use crate::ledger::row_change::{self, Operation, RowChange};
use crate::ledger::row_index::LogPosition;
use crate::ledger::row_runs::Run;
use crate::postgres::errors::Failure;
use crate::postgres::log_state::{self, LogState};
use crate::postgres::partitions;
use crate::postgres::pending_scan;
use crate::postgres::tables::{self, entry_column, RegisteredSnapshot, Row, Table};
use pgrx::{pg_sys, PgSqlErrorCode};
use std::borrow::Cow;
use std::collections::HashSet;
use uuid::Uuid;

/// An entry about a row.
#[derive(Debug, Clone)]
pub struct Version {
    pub entry_id: Uuid,
    pub operation: Operation,
    pub created_at: Timestamp,
    pub data_hash: String,
    pub signature: Option<String>,
    pub key_id: Option<String>,
    /// `None` while the entry is pending.
    pub block_number: Option<i64>,
    /// Canonical JSON.
    pub metadata: String,
}

impl Version {
    pub fn from_row(row: &Row) -> Option<Version> {
        let entry = tables::entry_from_row(row);
        Some(Version {
            operation: Operation::from_entry_type(&entry.entry_type)?,
            entry_id: entry.entry_id,
            created_at: entry.created_at,
            data_hash: entry.data_hash,
            signature: entry.signature,
            key_id: entry.key_id,
            block_number: row.get(entry_column::BLOCK_NUMBER),
            metadata: entry.metadata,
        })
    }

    /// What the entry says of the row; `None` if its metadata is not of the form that recording gives it.
    pub fn change(&self) -> Option<RowChange<'_>> {
        RowChange::parse(self.operation.entry_type(), &self.metadata)
    }

    /// Whether the row with this id exists after this change.
    pub fn leaves_row(&self, row_id: Uuid) -> bool {
        self.operation.leaves_row() && self.change().is_some_and(|change| change.row_id == row_id)
    }

    /// Of two changes of a row, the later one is greater.
    fn order(&self) -> (Timestamp, Uuid) {
        (self.created_at, self.entry_id)
    }
}

/// The entry that was recorded last about the row, if there is one.
///
/// # Errors
/// If an entry is gone that could be the newest.
pub fn newest(row_id: Uuid, snapshot: &RegisteredSnapshot) -> Result<Option<Version>, Failure> {
    let [pending] = newest_pending([row_id], snapshot);
    newest_with(pending, row_id, snapshot)
}

/// The same for a caller that has the newest pending entry about the row from [`newest_pending`].
///
/// # Errors
/// If an entry is gone that could be the newest.
pub fn newest_with(
    pending: Option<Version>,
    row_id: Uuid,
    snapshot: &RegisteredSnapshot,
) -> Result<Option<Version>, Failure> {
    let (sealed, lost) = newest_sealed(row_id, snapshot, Version::from_row, Version::order);
    require_none(lost)?;
    Ok(pending.into_iter().chain(sealed).max_by_key(Version::order))
}

/// The newest pending entry about each of the rows, found by the list or in one pass.
pub fn newest_pending<const N: usize>(row_ids: [Uuid; N], snapshot: &RegisteredSnapshot) -> [Option<Version>; N] {
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    if let Some(list) = pending_list::of(&table, snapshot) {
        return row_ids.map(|row_id| newest_listed(&list, row_id, &table, snapshot));
    }
    let mut newest = [const { None }; N];
    each_pending_about(&row_ids, snapshot, |version| {
        for (_, newest) in row_ids.iter().zip(&mut newest).filter(|(row_id, _)| version.is_about(**row_id)) {
            *newest = newest.take().into_iter().chain([version.clone()]).max_by_key(Version::order);
        }
    });
    newest
}

/// The list is of the table as the snapshot sees it.
fn newest_listed(list: &PendingList, row_id: Uuid, table: &Table, snapshot: &RegisteredSnapshot) -> Option<Version> {
    let mut newest: Option<Version> = None;
    for place in list.about(row_id).iter().rev() {
        if newest.as_ref().is_some_and(|newest| newest.created_at != place.created_at) {
            break;
        }
        newest = newest.into_iter().chain(listed(place, row_id, table, snapshot)).max_by_key(Version::order);
    }
    newest
}

/// The entry that stands in the list, if it is about the row: the list has only a part of a row's id.
/// The place is of the table as the snapshot sees it.
fn listed(place: &Place, row_id: Uuid, table: &Table, snapshot: &RegisteredSnapshot) -> Option<Version> {
    let found = table.fetch(place.tid, snapshot, Version::from_row);
    let version = found.unwrap_or_else(|| {
        // Without it, an older one would be taken for the newest.
        let message = "a pending entry is gone that the same snapshot has seen";
        Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message)
            .hint("Run SELECT * FROM ledger.find_tampering() to see what is wrong.")
            .raise()
    });
    version.filter(|version| version.is_about(row_id))
}

/// All entries about the row, the oldest first.
///
/// # Errors
/// If an entry about the row is gone.
pub fn all(row_id: Uuid, snapshot: &RegisteredSnapshot) -> Result<Vec<Version>, Failure> {
    let mut versions = Vec::new();
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    match pending_list::of(&table, snapshot) {
        Some(list) => {
            versions.extend(list.about(row_id).iter().filter_map(|place| listed(place, row_id, &table, snapshot)));
        }
        None => each_pending_about(&[row_id], snapshot, |version| {
            if version.is_about(row_id) {
                versions.push(version);
            }
        }),
    }
    let lost = scan_sealed(row_id, snapshot, Version::from_row, |version| {
        versions.push(version);
        true
    });
    require_none(lost)?;
    versions.sort_by_key(Version::order);
    Ok(versions)
}

/// Gives `each` the pending entries about the rows, and perhaps others.
fn each_pending_about(row_ids: &[Uuid], snapshot: &RegisteredSnapshot, each: impl FnMut(Version)) {
    each_pending(snapshot, |entry| may_be_about(entry, row_ids), Version::from_row, each);
}

/// False only if the pending entry is about none of the rows. Nearly all pending entries are about others, and to make
/// a [`Version`] of an entry takes many times as long as to find this.
fn may_be_about(entry: &Row, row_ids: &[Uuid]) -> bool {
    let entry_type =
        entry.text(entry_column::ENTRY_TYPE).filter(|entry_type| Operation::from_entry_type(entry_type).is_some());
    entry_type.is_some_and(|entry_type| {
        let quick = tables::detoasted_metadata(entry).and_then(|metadata| metadata.row_ids(entry_type));
        quick.is_none_or(|ids| ids.iter().flatten().any(|id| row_ids.contains(id)))
    })
}

/// The rows that pending entries are about.
pub fn pending_rows(snapshot: &RegisteredSnapshot) -> HashSet<Uuid> {
    let mut rows = HashSet::new();
    let read = |entry: &Row| Some(tables::row_ids(entry));
    each_pending(snapshot, tables::is_about_rows, read, |ids| rows.extend(ids.into_iter().flatten()));
    rows
}

/// Whether a sealed entry is about the row.
pub fn has_sealed(row_id: Uuid, snapshot: &RegisteredSnapshot) -> bool {
    let mut found = false;
    scan_sealed(row_id, snapshot, Version::from_row, |_| {
        found = true;
        false
    });
    found
}

/// Gives `each` what `read` makes of every pending entry for which `is_wanted` holds, in no particular order.
pub fn each_pending<T>(
    snapshot: &RegisteredSnapshot,
    is_wanted: impl Fn(&Row) -> bool,
    read: fn(&Row) -> Option<T>,
    mut each: impl FnMut(T),
) {
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    pending_scan::each(&table, snapshot, |_, row| {
        if is_wanted(row) {
            read(row).into_iter().for_each(&mut each);
        }
        true
    });
}

impl Version {
    fn is_about(&self, row_id: Uuid) -> bool {
        self.row_ids().any(|id| id == row_id)
    }

    fn row_ids(&self) -> impl Iterator<Item = Uuid> {
        row_change::row_ids(self.operation.entry_type(), &self.metadata).into_iter().flatten()
    }
}

/// Refuses to go on without a sealed entry that is gone: an older one would be taken for the newest, and part of a
/// history for all of it.
fn require_none(lost: Option<LogPosition>) -> Result<(), Failure> {
    let Some(place) = lost else { return Ok(()) };
    let message = "an entry about the row is gone from the ledger";
    Err(Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message)
        .detail(format!("It was sealed in block {}, with leaf_index {}.", place.block_number, place.leaf_index))
        .hint(
            "If a partition of ledger.entries_sealed was detached, attach it again. \
             SELECT * FROM ledger.find_tampering() shows what is missing.",
        ))
}

/// What `read` makes of the newest of the sealed entries about the row. `order` tells which of them is newer.
///
/// Of two entries with the same time, the one that was sealed later stands later in the runs, whatever their ids. Also
/// returns the place of an entry that is gone, if that could be the newest.
pub fn newest_sealed<T>(
    row_id: Uuid,
    snapshot: &RegisteredSnapshot,
    read: fn(&Row) -> Option<T>,
    order: fn(&T) -> (Timestamp, Uuid),
) -> (Option<T>, Option<LogPosition>) {
    let (mut newest, mut lost): (Option<(Timestamp, T)>, _) = (None, None);
    let runs = log_state::version_runs(snapshot);
    let versions = VersionTable::open(pg_sys::AccessShareLock);
    for place in RowPlaces::of(&row_id, &runs, &versions, snapshot) {
        if newest.as_ref().is_some_and(|(time, _)| *time != place.created_at) {
            break;
        }
        let version = partitions::find_leaf(place.block_number, place.leaf_index, snapshot, read);
        if version.is_none() {
            lost = lost.or(Some(place));
        }
        let found = newest.into_iter().chain(version.flatten().map(|version| (place.created_at, version)));
        newest = found.max_by_key(|(_, version)| order(version));
    }
    (newest.map(|(_, version)| version), lost)
}

/// Gives `each` what `read` makes of the sealed entries about the row, until it returns false. The newest comes first;
/// of entries of one time, the one that was sealed last. Returns the place of the first of these entries that is gone,
/// if one is.
pub fn scan_sealed<T>(
    row_id: Uuid,
    snapshot: &RegisteredSnapshot,
    read: fn(&Row) -> Option<T>,
    mut each: impl FnMut(T) -> bool,
) -> Option<LogPosition> {
    let mut lost = None;
    let runs = log_state::version_runs(snapshot);
    let versions = VersionTable::open(pg_sys::AccessShareLock);
    for place in RowPlaces::of(&row_id, &runs, &versions, snapshot) {
        let version = partitions::find_leaf(place.block_number, place.leaf_index, snapshot, read);
        if version.is_none() {
            lost = lost.or(Some(place));
        }
        if version.flatten().is_some_and(|version| !each(version)) {
            break;
        }
    }
    lost
}

/// The places of entries about rows, as sealing notes them.
#[derive(Default)]
pub struct NewVersions(Vec<LogPosition>);

impl NewVersions {
    /// Notes an entry that is put into a block.
    pub fn add(&mut self, row_ids: [Option<Uuid>; 2], created_at: Timestamp, leaf: i64, block: i64) {
        self.0.extend(row_ids.into_iter().flatten().map(|row_id| LogPosition {
            row: row_id.as_u128(),
            created_at,
            leaf_index: leaf,
            block_number: block,
        }));
    }

    /// Writes the places of entries that are sealed without [`LogState::update`], and the list of runs.
    pub fn write_alone(self) -> Result<(), Failure> {
        let snapshot = RegisteredSnapshot::latest();
        let mut state = LogState::read(&snapshot)?;
        self.write(&mut state.version_runs, &snapshot);
        state.update_version_runs();
        Ok(())
    }

    /// Writes all places, and notes in `runs` where they are. The snapshot sees all that this transaction has sealed
    /// before.
    pub fn write(self, runs: &mut Vec<Run>, snapshot: &RegisteredSnapshot) {
        run_writer::write(self.0, runs, snapshot);
    }
}

/// A member of the metadata that is a string.
pub fn text_member(metadata: &str, name: &str) -> Option<String> {
    let value = crate::ledger::canonical_json::member(metadata, name)?;
    serde_json::from_str::<Cow<'_, str>>(value).ok().map(Cow::into_owned)
}
