//! When a change is said to have happened. Triggers fire at the end of their command, in the order of their names: what an
//! application's own trigger (or a cascading foreign key) does to the same row may be recorded first, though it was done
//! later. Times must not contradict the order in which the row was changed.
//!
//! So a change is dated back where a later one of the same row has been recorded, and never else: what a command does to other rows
//! before it gets at this one (in a BEFORE trigger, say, or while it waits for another transaction) says nothing of this one's order.
//!
//! Which change came next tells the row version that is left, by the number of the command that has ended it. What that command and
//! later ones have recorded of any row was done when this change had been: commands run within others, each to its end. A time just
//! before all of that is after whatever other transactions did to the row, for which this change has waited.
//!
//! This takes 16 bytes for each command that records, until the transaction ends: 16 MB for a million of them. Those from before all
//! commands that are still under way could go, but which are is not known here.

use super::rows;
use crate::ledger::record::Timestamp;
use crate::postgres::entry_clock;
use crate::postgres::tables::{Row, Table};
use pgrx::pg_sys::{self, CommandId};
use std::cell::RefCell;

/// As many as most transactions have.
const KEPT: usize = 64;

thread_local! {
    /// When commands of this transaction have recorded something: of each that stands here it is the earliest time of it and all
    /// later ones. Commands whose time is that of a later one are left out, so both ascend.
    static COMMANDS: RefCell<Vec<(CommandId, i64)>> = const { RefCell::new(Vec::new()) };
}

/// The time of a change that was made by this command: now, or before that of the change that came next, if `next` is the command
/// that made that.
pub fn time_of(command: CommandId, next: Option<CommandId>) -> Timestamp {
    let now = entry_clock::now_apart(1 + unrecorded_before(command));
    let at = COMMANDS.with_borrow_mut(|commands| place(commands, command, next, now.micros()));
    Timestamp::from_micros(at).unwrap_or(now)
}

/// How many commands of this transaction may have changed something before this one, and not recorded it yet. Each of them may yet be
/// dated back by a microsecond from this one's time; where the clock is behind, as many must lie between that and what other transactions
/// recorded of the row before.
fn unrecorded_before(command: CommandId) -> i64 {
    let recorded = COMMANDS.with_borrow(|commands| commands.last().map_or(0, |(last, _)| *last));
    command.saturating_sub(recorded).into()
}

pub fn forget() {
    COMMANDS.with_borrow_mut(|commands| {
        commands.clear();
        // A session does not keep what its longest transaction took.
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

/// Where those of this command and later ones begin.
fn first_from(commands: &[(CommandId, i64)], command: CommandId) -> usize {
    commands.partition_point(|(number, _)| *number < command)
}

/// The command of this transaction that has updated or deleted a row version, if one has.
///
/// # Safety
/// The header of a row version that this transaction has made.
pub unsafe fn ended_by(header: pg_sys::HeapTupleHeader) -> Option<CommandId> {
    let infomask = u32::from((*header).t_infomask);
    if infomask & (pg_sys::HEAP_XMAX_INVALID | pg_sys::HEAP_XMAX_LOCK_ONLY) != 0 {
        return None;
    }
    let updater = match infomask & pg_sys::HEAP_XMAX_IS_MULTI {
        0 => (*header).t_choice.t_heap.t_xmax,
        _ => pg_sys::HeapTupleGetUpdateXid(header),
    };
    // Not if a savepoint was rolled back.
    pg_sys::TransactionIdIsCurrentTransactionId(updater).then(|| pg_sys::HeapTupleHeaderGetCmax(header))
}

/// The first command that has put a row back under its key, if one has, after this command took it away.
///
/// # Safety
/// A row of the table that this transaction has deleted, or given another key.
pub unsafe fn put_back_by(table: &Table, row: &Row, command: CommandId) -> Option<CommandId> {
    // Mostly nothing of a later command has been recorded, and so nothing been put back.
    if COMMANDS.with_borrow(|commands| commands.last().is_none_or(|(last, _)| *last <= command)) {
        return None;
    }
    let mut first = None;
    let value_of = |name: &str| table.position_of(name).and_then(|position| row.datum(position));
    rows::each_version_of_key(table, value_of, |header| {
        let writer = (*header).t_choice.t_heap.t_xmin;
        if pg_sys::TransactionIdIsCurrentTransactionId(writer) {
            // One that the same command has put there comes next as well, and is dated before what has ended it.
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
