//! When a change is said to have happened. Triggers fire at the end of their command, in the order of their names: what an
//! application's own trigger (or a cascading foreign key) does to the same row may be recorded first, though it was done
//! later. Within a transaction the numbers of commands tell the order, and times must not contradict them.

use crate::ledger::record::Timestamp;
use crate::postgres::tables;
use pgrx::pg_sys::CommandId;
use std::cell::RefCell;

thread_local! {
    /// The commands of this transaction that have recorded something, by their numbers, with the earliest time of each.
    static COMMANDS: RefCell<Vec<(CommandId, i64)>> = const { RefCell::new(Vec::new()) };
}

/// The time of a change that was made by this command: now, or before that of any later command.
pub fn time_of(command: CommandId) -> Timestamp {
    let now = tables::now();
    let at = COMMANDS.with_borrow_mut(|commands| place(commands, command, now.micros()));
    Timestamp::from_micros(at).unwrap_or(now)
}

pub fn forget() {
    COMMANDS.with_borrow_mut(Vec::clear);
}

/// When a command records something, all later ones were part of it and are over: one time stands for them.
fn place(commands: &mut Vec<(CommandId, i64)>, command: CommandId, now: i64) -> i64 {
    let later = commands.partition_point(|(number, _)| *number <= command);
    let earliest = commands[later..].iter().map(|(_, at)| *at).min();
    if let Some(earliest) = earliest {
        commands[later].1 = earliest;
        commands.truncate(later + 1);
    }
    let at = earliest.map_or(now, |earliest| now.min(earliest - 1));
    match later.checked_sub(1).map(|own| &mut commands[own]) {
        Some((number, first)) if *number == command => *first = at.min(*first),
        _ => commands.insert(later, (command, at)),
    }
    at
}
