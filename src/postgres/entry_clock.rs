//! The times of blocks, and of entries about rows, tables and items: what the clock shows, but later than every time
//! that the ledger has given.
//!
//! The newest time given is in shared memory. After a start, a promotion or an import, the first process that asks
//! reads it from the ledger: that of the newest block, or of an entry that waits for one. Entries of transactions that
//! have not ended count as well: a prepared one can outlive the server.

use super::database;
use super::errorless;
use super::errors::Failure;
use super::faults;
use super::tables::{self, entry_column, RegisteredSnapshot, Row, Table, TableScan};
use super::wait_events;
use crate::ledger::entry_clock::{Given, NotYet, LIMIT_SECONDS};
use crate::ledger::record::Timestamp;
use crate::ledger::row_change;
use pgrx::{check_for_interrupts, pg_sys, PgSqlErrorCode};
use std::time::Duration;

/// How long to wait where times are far ahead of the clock.
const AHEAD_WAIT: Duration = Duration::from_millis(1);

/// A time later than all times that were given.
pub fn now() -> Timestamp {
    now_apart(1)
}

/// As [`now`], but later by this many microseconds if the clock is behind. Waits where others who ask for so many have
/// brought times far ahead of it.
pub fn now_apart(micros: i64) -> Timestamp {
    // Without a slot nothing is recorded, and the recording function says why.
    let Ok((_, slot)) = database::slot() else { return clock() };
    let mut refused = 0;
    let (clock, given) = loop {
        let clock = clock();
        match slot.entry_clock.next(clock.micros(), micros, refused) {
            Ok(given) => break (clock, given),
            Err(NotYet::Unknown(unknown)) => slot.entry_clock.learn(unknown, newest_in_ledger()),
            Err(NotYet::Ahead) => {
                check_for_interrupts!();
                let _waiting = wait_events::Shown::as_waiting_for(pg_sys::WaitEventTimeout::WAIT_EVENT_PG_SLEEP);
                std::thread::sleep(AHEAD_WAIT);
                refused += 1;
            }
        }
    };
    if let Some(newest) = given.given_up {
        warn_of(given, newest);
    }
    Timestamp::from_micros(given.at).unwrap_or(clock)
}

fn clock() -> Timestamp {
    tables::timestamp_from_postgres(errorless::clock() + faults::clock_offset())
}

/// The newest time that the ledger has given, by its tables; `None` if they have none.
fn newest_in_ledger() -> Option<i64> {
    // In this order: an entry that is sealed in between is older than its block.
    let pending = newest_pending();
    let block = tables::newest_block(&RegisteredSnapshot::latest());
    block.map(|block| block.timestamp.micros()).max(pending)
}

fn newest_pending() -> Option<i64> {
    let mut dirty = tables::dirty_snapshot();
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    // SAFETY: the snapshot outlives the scan, which is declared after it.
    let mut scan = unsafe { TableScan::start_with(&table, &mut dirty, 0) };
    let (mut row, mut newest) = (Row::default(), None);
    while let Some(tuple) = scan.next() {
        check_for_interrupts!();
        table.deform_into(tuple, &mut row);
        // Other entries may have any time, which the session that inserts them chooses.
        if row.text(entry_column::ENTRY_TYPE).is_some_and(row_change::is_reserved) {
            newest = newest.max(row.timestamp(entry_column::CREATED_AT).map(Timestamp::micros));
        }
    }
    newest
}

fn warn_of(given: Given, newest: i64) {
    let behind = (newest - given.at) / 1_000_000;
    let newest = Timestamp::from_micros(newest).unwrap_or_default();
    let message = format!("the server's clock is {behind} seconds behind the newest time in the ledger");
    Failure::new(PgSqlErrorCode::ERRCODE_WARNING, message)
        .detail(format!(
            "That is more than {LIMIT_SECONDS} seconds, so the ledger uses the clock again. If a row of a tracked \
             table was recorded with a later time than the clock shows now, and is written again or truncated before \
             {newest}, it will be reported as modified, missing or resurrected, although it is what was written."
        ))
        .hint(
            "If the clock is wrong, correct it before more is written. If it is right, track those tables anew that \
             were written to both before and after the clock went back: SELECT ledger.untrack('table'), then SELECT \
             ledger.track('table').",
        )
        .warn();
}
