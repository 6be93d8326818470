//! The functions behind the views `mirror_status`, `workers` and `progress`.

use super::database;
use super::database_slot::{DatabaseSlot, WorkerState};
use super::errors::or_raise;
use super::mirror::cause::{self, Cause};
use super::mirror::handle::Mirror;
use super::mirror::hang::Hang;
use super::mirror::prepared;
use super::mirror::remembered::{self, Remembered};
use super::mirror::shared::{Attachment, MirrorFields};
use super::settings::{self, MirrorMode};
use super::shared::shared;
use super::verification::progress;
use crate::ledger::lag::Behind;
use pgrx::prelude::*;
use std::sync::atomic::Ordering;

/// A timestamptz; every value in shared memory came from the clock.
fn timestamp(value: pg_sys::TimestampTz) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(value).expect("the clock shows a valid time")
}

#[pg_extern(volatile, parallel_restricted, security_definer)]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "the columns of the view")]
fn mirror_state() -> TableIterator<
    'static,
    (
        name!(mode, String),
        name!(state, String),
        name!(path, String),
        name!(problem, Option<String>),
        name!(bytes, Option<i64>),
        name!(last_block, Option<i64>),
        name!(undecided_transactions, i64),
        name!(prepared_transactions, i64),
        name!(lag_entries, Option<i64>),
        name!(lag_bytes, Option<i64>),
        name!(lag_since, Option<TimestampWithTimeZone>),
        name!(recovery_bytes, Option<i64>),
        name!(syncs, i64),
    ),
> {
    let mirror = or_raise(database::mirror_if_left());
    let mode = settings::mirror_mode();
    let remembered = Remembered::read();
    let path = remembered::configured_path(remembered.ledger_id).path.to_string_lossy().into_owned();
    let Some(mirror) = mirror else { return TableIterator::once(without_slot(mode, path)) };
    let prepared = prepared::noted(&mirror).len() as i64;
    let fields = mirror.lock();
    let (attachment, durable, end) = (fields.attachment, fields.durable, fields.end());
    let (last_block, syncs, was_attached) = (fields.last_block, fields.syncs, fields.was_attached);
    let health = Health::of(&fields);
    drop(fields);
    let problem =
        health.problem().or_else(|| (attachment == Attachment::Detached).then(|| missing_worker(&mirror)).flatten());
    let is_off = mode == MirrorMode::Off;
    let is_attached = matches!(attachment, Attachment::Attached | Attachment::Repairing) && !is_off;
    let recovery = (durable as i64 - remembered.settled.bytes as i64).max(0);
    let lag = ShownLag::now(&mirror, mode, is_attached && durable == end);
    TableIterator::once((
        mode.as_str().to_owned(),
        if is_off { Attachment::Off.as_str() } else { attachment.as_str() }.to_owned(),
        path,
        problem.filter(|_| !is_off),
        is_attached.then_some(durable as i64),
        is_attached.then_some(last_block),
        mirror.slot.undecided(),
        prepared,
        // What the file lacked before this server started is known only once it has been opened.
        (!is_off && was_attached).then_some(lag.entries),
        (!is_off && was_attached).then_some(lag.bytes),
        lag.since,
        is_attached.then_some(recovery),
        syncs as i64,
    ))
}

/// A row of the view, in the columns of mirror_state().
type MirrorRow = (
    String,
    String,
    String,
    Option<String>,
    Option<i64>,
    Option<i64>,
    i64,
    i64,
    Option<i64>,
    Option<i64>,
    Option<TimestampWithTimeZone>,
    Option<i64>,
    i64,
);

/// The row of a database for which no slot is left.
fn without_slot(mode: MirrorMode, path: String) -> MirrorRow {
    let state = if mode == MirrorMode::Off { Attachment::Off } else { Attachment::Failed };
    let (mode, state) = (mode.as_str().to_owned(), state.as_str().to_owned());
    let problem = Some(database::too_many("this database").text());
    (mode, state, path, problem, None, None, 0, 0, None, None, None, None, 0)
}

/// What can be wrong with the file, copied while its fields are locked: text is made of it without the lock.
struct Health {
    has_cause: bool,
    cause: Cause,
    hang: Option<Hang>,
}

impl Health {
    fn of(fields: &MirrorFields) -> Health {
        Health {
            has_cause: fields.attachment == Attachment::Failed || fields.is_troubled,
            cause: fields.cause,
            hang: Hang::of(fields),
        }
    }

    /// What to report as wrong with the file now, if anything.
    fn problem(&self) -> Option<String> {
        if self.has_cause {
            return Some(self.cause.text());
        }
        self.hang.as_ref().map(Hang::text)
    }
}

/// Why the file of a database is not opened that has no worker. A standby needs none.
fn missing_worker(mirror: &Mirror) -> Option<String> {
    let is_missing = mirror.slot.lacks_worker() && !database::is_in_recovery();
    is_missing.then(|| cause::NO_WORKER.to_owned())
}

/// What is committed and not on disk in the file.
struct ShownLag {
    entries: i64,
    bytes: i64,
    since: Option<TimestampWithTimeZone>,
}

impl ShownLag {
    /// `is_synced` says that everything written is on disk. In mode write a commit may be counted after its sync, so
    /// the count does not matter then.
    fn now(mirror: &Mirror, mode: MirrorMode, is_synced: bool) -> ShownLag {
        let Behind { entries, bytes, since } = mirror.slot.lag.behind();
        let is_none = entries == 0 || (mode == MirrorMode::Write && is_synced);
        if is_none || mode == MirrorMode::Off {
            return ShownLag { entries: 0, bytes: 0, since: None };
        }
        ShownLag { entries, bytes, since: (since != 0).then(|| timestamp(since)) }
    }
}

#[pg_extern(volatile, parallel_restricted)]
fn worker_state() -> TableIterator<
    'static,
    (
        name!(database, pg_sys::Oid),
        name!(pid, Option<i32>),
        name!(state, String),
        name!(pending, i64),
        name!(blocks_sealed, i64),
    ),
> {
    let Some(shared) = shared() else { return TableIterator::empty() };
    let state_of = |slot: &DatabaseSlot| match shared.pauses.has(slot.database()) {
        true => "paused",
        false => slot.worker_state().as_str(),
    };
    let row_of = |slot: &DatabaseSlot| {
        let pid = slot.worker.pid();
        (
            slot.database(),
            (pid != 0).then_some(pid),
            state_of(slot).to_owned(),
            slot.pending.load(Ordering::Acquire).max(0),
            slot.blocks_sealed.load(Ordering::Acquire),
        )
    };
    let (own, is_primary) = (database::own_oid(), !database::is_in_recovery());
    // A worker that never started because no process was left for it has no slot. This database has a ledger, because
    // the caller runs a function of the extension.
    let is_missing = is_primary && shared.find(own).is_none();
    let missing = is_missing.then(|| (own, None, WorkerState::Wanted.as_str().to_owned(), 0, 0));
    let rows: Vec<_> = shared.slots().map(row_of).chain(missing).collect();
    TableIterator::new(rows)
}

#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity, reason = "the columns of the view")]
fn verification_progress() -> TableIterator<
    'static,
    (
        name!(pid, i32),
        name!(database, pg_sys::Oid),
        name!(phase, String),
        name!(started_at, TimestampWithTimeZone),
        name!(blocks_done, i64),
        name!(blocks_total, i64),
        name!(entries_done, i64),
        name!(bytes_done, i64),
        name!(bytes_total, i64),
        name!(rows_done, i64),
    ),
> {
    TableIterator::new(progress::rows().into_iter().map(|row| {
        (
            row.pid,
            row.database,
            row.phase.to_owned(),
            timestamp(row.started_at),
            row.blocks_done,
            row.blocks_total,
            row.entries_done,
            row.bytes_done,
            row.bytes_total,
            row.rows_done,
        )
    }))
}
