//! Tables that a DROP takes without having named them: what depends on something else that is dropped (on a type, an
//! extension, a table that it inherits from), and what another session has given to the role of a DROP OWNED since its
//! tables were listed. The hook before the command does not find them. The object access hook does, once Postgres has
//! locked them.
//!
//! Postgres drops the triggers of a table before the table, and what it was tracked with is read from them as they go.
//! What is to be recorded is recorded when the command has ended: while it runs, the ledger itself may be half gone.

use super::catalog_triggers::CatalogTrigger;
use super::copies;
use super::manage;
use super::options::{is_function, Options, ROW_FUNCTION};
use crate::postgres::errorless;
use crate::postgres::errors::Failure;
use crate::postgres::memory::at_end_of_transaction;
use crate::postgres::relation;
use crate::postgres::schema;
use crate::postgres::tables::Table;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::cell::RefCell;
use std::collections::HashMap;

/// A table whose row trigger the command has dropped.
struct Tracked {
    options: Options,
    /// The table that was tracked: this one, or the one that it is a partition of.
    root: pg_sys::Oid,
}

/// A table that the command has dropped, of which nothing was recorded before.
struct Unrecorded {
    /// The level of the subtransaction that the command runs in.
    level: i32,
    name: String,
    table_id: String,
    /// The tracked table, if the dropped one is a partition.
    partition_of: Option<pg_sys::Oid>,
}

#[derive(Default)]
struct Drops {
    /// The tables of which the hook before a command has recorded what goes with them, and the level of the
    /// subtransaction that it did so in.
    recorded: HashMap<pg_sys::Oid, i32>,
    tracked: HashMap<pg_sys::Oid, Tracked>,
    unrecorded: Vec<Unrecorded>,
}

thread_local! {
    static DROPS: RefCell<Drops> = RefCell::default();
}

/// A DROP begins. A table that has lost its trigger before is not tracked.
pub fn begin() {
    DROPS.with_borrow_mut(|drops| drops.tracked.clear());
}

/// What goes with these tables has been recorded.
pub fn note_recorded(tables: &[pg_sys::Oid]) {
    let level = errorless::nest_level();
    DROPS.with_borrow_mut(|drops| drops.recorded.extend(tables.iter().map(|oid| (*oid, level))));
}

/// A trigger is about to be dropped.
///
/// # Safety
/// Called by the object access hook, with the Oid of the trigger.
pub unsafe fn trigger_dropped(trigger: pg_sys::Oid) {
    let Some(trigger) = CatalogTrigger::find(trigger).filter(|trigger| is_function(trigger.function, ROW_FUNCTION))
    else {
        return;
    };
    let Some(options) = trigger.options() else { return };
    let tracked = Tracked { options, root: trigger.topmost_relation() };
    DROPS.with_borrow_mut(|drops| drops.tracked.insert(trigger.relation, tracked));
}

/// A relation is about to be dropped. Its triggers are gone by now.
///
/// # Safety
/// Called by the object access hook, with the Oid of the relation, which is locked.
pub unsafe fn relation_dropped(relation: pg_sys::Oid) {
    let taken = DROPS.with_borrow_mut(|drops| {
        let is_recorded = drops.recorded.remove(&relation).is_some();
        drops.tracked.remove(&relation).filter(|_| !is_recorded)
    });
    let Some(tracked) = taken else { return };
    let table = Table::open_oid(relation, pg_sys::NoLock);
    let partition_of = Some(tracked.root).filter(|root| *root != relation);
    let is_nothing_lost = match partition_of {
        // Its rows are in its own partitions.
        Some(_) => table.is_partitioned(),
        None => copies::original_of(&table, &tracked.options).is_some(),
    };
    if !is_nothing_lost {
        let (level, name) = (errorless::nest_level(), table.qualified_name());
        let unrecorded = Unrecorded { level, name, table_id: tracked.options.table_id, partition_of };
        DROPS.with_borrow_mut(|drops| drops.unrecorded.push(unrecorded));
    }
}

/// A DROP has ended. Records the tracked tables that have gone with it.
///
/// # Errors
/// If a partition has gone with it whose rows are not recorded, while the table that they were rows of is still there.
pub fn record() -> Result<(), Failure> {
    let level = errorless::nest_level();
    let unrecorded: Vec<Unrecorded> = DROPS.with_borrow_mut(|drops| {
        // A command that an event trigger runs leaves those of the command that has fired it.
        let of_outer = drops.unrecorded.partition_point(|table| table.level < level);
        drops.unrecorded.split_off(of_outer)
    });
    // If the ledger has gone as well, there is nothing to record in.
    if unrecorded.is_empty() || schema::find().is_none() {
        return Ok(());
    }
    unrecorded.into_iter().try_for_each(|table| match table.partition_of {
        None => manage::note_untracked(&table.name, &table.table_id, false),
        Some(root) => relation::name_of(root).map_or(Ok(()), |root| Err(rows_lost(&table.name, &root))),
    })
}

fn rows_lost(partition: &str, table: &str) -> Failure {
    let message = format!("cannot drop partition {partition} of tracked table {table} by this command");
    Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .detail(
            "Its rows are recorded before it is dropped, but this command has found it only while it was dropping: it \
             depends on something else, or another session has just given it another owner.",
        )
        .hint("Repeat the command. If that does not help, drop or detach the partition by its name first.")
}

/// A subtransaction of this level has been rolled back. Cannot fail.
pub fn after_rollback(level: i32) {
    at_end_of_transaction(&DROPS, |drops| {
        drops.recorded.retain(|_, of| *of < level);
        drops.tracked.clear();
        drops.unrecorded.retain(|table| table.level < level);
    });
}

/// A transaction has ended. Cannot fail.
pub fn forget() {
    after_rollback(0);
}
