//! The functions behind the views `mirror_status`, `workers` and `progress`.

use super::database;
use super::errors::or_raise;
use super::mirror::attach;
use super::mirror::shared::Attachment;
use super::settings::{self, MirrorMode};
use super::shared::shared;
use super::verification::progress;
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
        name!(syncs, i64),
    ),
> {
    let mirror = or_raise(database::mirror());
    let mode = settings::mirror_mode();
    let mode_name = if mode == MirrorMode::Sync { "sync" } else { "off" };
    let path = attach::configured_path(attach::Remembered::read().ledger_id).1.to_string_lossy().into_owned();
    let undecided = mirror.slot.undecided.load(Ordering::Acquire);
    let fields = mirror.slot.mirror.lock(mirror.shared, mirror.slot);
    let attached = fields.attachment == Attachment::Attached;
    let (attachment, cause, durable) = (fields.attachment, fields.cause, fields.durable);
    let (last_block, syncs) = (fields.last_block, fields.syncs);
    drop(fields);
    let state = if mode == MirrorMode::Off { "off" } else { attachment.name() };
    let problem = (attachment == Attachment::Failed && mode != MirrorMode::Off).then(|| cause.get());
    TableIterator::once((
        mode_name.to_owned(),
        state.to_owned(),
        path,
        problem,
        attached.then_some(durable as i64),
        attached.then_some(last_block),
        undecided,
        syncs as i64,
    ))
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
    let rows: Vec<_> = shared().map_or_else(Vec::new, |shared| {
        let slots = shared.slots();
        slots
            .map(|slot| {
                let pid = slot.worker.pid();
                (
                    slot.database(),
                    (pid != 0).then_some(pid),
                    slot.worker_state().name().to_owned(),
                    slot.pending.load(Ordering::Acquire).max(0),
                    slot.blocks_sealed.load(Ordering::Acquire),
                )
            })
            .collect()
    });
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
        )
    }))
}
