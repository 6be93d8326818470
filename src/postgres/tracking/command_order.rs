//! The time that a change is recorded with. Times must not contradict the order in which a row was changed.
//!
//! Triggers fire at the end of their command, in the order of their names. So what an application's own trigger (or a
//! cascading foreign key) does to the same row may be recorded first, although it was done later.
//!
//! A change is therefore dated back where a later change of the same row has been recorded, and only there. What a
//! command does to other rows before it gets to this one (in a BEFORE trigger, or while it waits for another
//! transaction) says nothing about the order of changes to this row.
//!
//! The superseded row version records (as cmax) which command ended it; that tells which change came next. Commands run
//! within others, each to its end. So whatever that command and later ones recorded, of any row, was done after this
//! change. A time just before all of that is still after what other transactions did to the row, because this change
//! has waited for them.
//!
//! The list takes 16 bytes for each command that records something, until the transaction ends: 16 MB for a million
//! commands. Commands that are older than all that still run could be dropped, but this module does not know which
//! still run.

use super::rows;
use crate::ledger::record::Timestamp;
use crate::postgres::entry_clock;
use crate::postgres::memory::at_end_of_transaction;
use crate::postgres::tables::{Row, Table};
use pgrx::pg_sys::{self, CommandId};
use std::cell::RefCell;

/// Only commands within which others run have something left to record, each by a trigger or a function in the one
/// before: the stack has no room for more. All others of a long transaction have ended, and must not push the ledger's
/// clock ahead.
const MOST_OPEN: CommandId = 10_000;

/// The capacity that is kept after a transaction: enough for most.
const KEPT: usize = 64;

thread_local! {
    /// When commands of this transaction recorded something. Each command stands with the earliest time of it and all
    /// later ones. A command whose time is that of a later one is left out, so both numbers ascend.
    static COMMANDS: RefCell<Vec<(CommandId, i64)>> = const { RefCell::new(Vec::new()) };
}

/// The time for a change that `command` made: now, or, if command `next` made the next change of the row, a time before
/// all that `next` and later commands recorded.
pub fn time_of(command: CommandId, next: Option<CommandId>) -> Timestamp {
    let now = entry_clock::now_apart(1 + unrecorded_before(command));
    let at = COMMANDS.with_borrow_mut(|commands| place(commands, command, next, now.micros()));
    Timestamp::from_micros(at).unwrap_or(now)
}

/// How many commands of this transaction may have changed something before this one and not recorded it yet. Each of
/// them may still be dated back by a microsecond from this one's time. So, where the clock is behind, that many
/// microseconds must lie between this time and what other transactions recorded of the row before.
fn unrecorded_before(command: CommandId) -> i64 {
    let recorded = COMMANDS.with_borrow(|commands| commands.last().map_or(0, |(last, _)| *last));
    command.saturating_sub(recorded).min(MOST_OPEN).into()
}

/// A transaction has ended. Cannot fail.
pub fn forget() {
    at_end_of_transaction(&COMMANDS, |commands| {
        commands.clear();
        // Otherwise the session would keep the memory that its longest transaction took.
        commands.shrink_to(KEPT);
    });
}

fn place(commands: &mut Vec<(CommandId, i64)>, command: CommandId, next: Option<CommandId>, now: i64) -> i64 {
    let earliest = next.and_then(|next| commands.get(first_from(commands, next)));
    let at = earliest.map_or(now, |(_, earliest)| now.min(earliest - 1));
    let behind = first_from(commands, command);
    if commands.get(behind).is_some_and(|(_, known)| *known <= at) {
        return at;
    }
    let not_earlier = commands.partition_point(|(_, known)| *known < at);
    let own = commands.get(behind).is_some_and(|(number, _)| *number == command);
    commands.splice(not_earlier..behind + usize::from(own), [(command, at)]);
    at
}

/// The index of the first listed command that is this one or a later one.
fn first_from(commands: &[(CommandId, i64)], command: CommandId) -> usize {
    commands.partition_point(|(number, _)| *number < command)
}

/// The command of this transaction that updated or deleted a row version, if one did.
///
/// # Safety
/// `header` points to the header of a row version that this transaction made.
pub unsafe fn ended_by(header: pg_sys::HeapTupleHeader) -> Option<CommandId> {
    let infomask = u32::from((*header).t_infomask);
    if infomask & (pg_sys::HEAP_XMAX_INVALID | pg_sys::HEAP_XMAX_LOCK_ONLY) != 0 {
        return None;
    }
    let updater = match infomask & pg_sys::HEAP_XMAX_IS_MULTI {
        0 => (*header).t_choice.t_heap.t_xmax,
        _ => pg_sys::HeapTupleGetUpdateXid(header),
    };
    // The update does not count if it was rolled back to a savepoint.
    pg_sys::TransactionIdIsCurrentTransactionId(updater).then(|| pg_sys::HeapTupleHeaderGetCmax(header))
}

/// The first command that put a row back under its key, if one did, after this command took it away.
///
/// # Safety
/// `row` is a row of the table that this transaction deleted, or gave another key.
pub unsafe fn put_back_by(table: &Table, row: &Row, command: CommandId) -> Option<CommandId> {
    // Saves most index scans: where no later command has recorded anything, none has put the row back.
    if COMMANDS.with_borrow(|commands| commands.last().is_none_or(|(last, _)| *last <= command)) {
        return None;
    }
    let mut first = None;
    let value_of = |name: &str| table.position_of(name).and_then(|position| row.datum(position));
    rows::each_version_of_key(table, value_of, |header| {
        let writer = (*header).t_choice.t_heap.t_xmin;
        if pg_sys::TransactionIdIsCurrentTransactionId(writer) {
            // A version that the same command put there is dated before the command that ended it; so this change must
            // be, too.
            let next = match pg_sys::HeapTupleHeaderGetCmin(header) {
                made_by if made_by > command => Some(made_by),
                made_by if made_by == command => ended_by(header),
                _ => None,
            };
            first = first.into_iter().chain(next).min();
        }
    });
    first
}
