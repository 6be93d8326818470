//! Tracked tables: every committed change of a row becomes an entry, without the application knowing.
//!
//! ```text
//!   ALWAYS trigger ──row──▶ record ──entry──▶ entries ──sealing──▶ row_versions (which entries are about a row)
//!                             │
//!                             └ plan: what a session knows of the table; shape: the columns that entries cover
//! ```
//!
//! | module | concern |
//! |---|---|
//! | [`manage`], [`locked_tree`] | track(), untrack(), and the triggers; a table with its partitions, locked for that |
//! | [`options`] | what a table is tracked with |
//! | [`own_triggers`], [`catalog_triggers`] | who may make such triggers, and what the catalog says of one |
//! | [`renamed_trigger`] | a trigger that has another name by now |
//! | [`copies`], [`recorded_tables`] | tables that were restored beside their original; which tables have one id |
//! | [`primary_key`], [`rows`] | what names a row, and finding it by that |
//! | [`plan`], [`shape`], [`columns`], [`output_function`], [`fixed_settings`] | which columns are recorded, and a row as JSON |
//! | [`row_key`] | how a row is named |
//! | [`record`], [`metadata`] | the triggers' functions, and what they say of a change |
//! | [`parallel_apply`] | what the worker of a subscription must not say meanwhile |
//! | [`command_order`] | the times of changes that one transaction makes to one row |
//! | [`baseline`], [`baseline_table`], [`horizon`] | recording the rows that were there before; what is left of it, and which rows they are |
//! | [`trackable`] | which tables can be recorded |
//! | [`partitions`] | rows that come and go with a partition |
//! | [`commands`], [`drops`], [`truncation`] | the commands that bring partitions, and take them away |
//! | [`dropped`] | tables that go with a DROP that does not name them |
//! | [`versions`], [`version_runs`], [`run_writer`] | the entries about one row, and how they are found |
//! | [`pending_list`] | which rows the pending entries are about, for many look-ups |
//! | [`finding`], [`verify_row`], [`older_shape`] | what is wrong with a row; one row against its entries, also those from before the table's columns changed |
//! | [`verify_tables`], [`targets`], [`row_hashes`], [`sorter`], [`compare_rows`] | all rows of one or more tables against all entries |
//! | [`compare_shapes`] | entries about a row from before and after a change of the table's columns |
//! | [`verify_all`] | all tables, and whether they are tracked as the ledger says |
//! | [`history`], [`readers`] | the functions for one row, and who may call them |
//! | [`mid_statement`] | verification in the midst of a statement that changes the table |
//! | [`given_key`], [`partition_bounds`], [`one_row`] | a key as a caller gives it, and the partition and the row that it leads to |
//! | [`key_types`] | whose code runs where a value of a key is read |
//! | [`lost`] | tables that are not tracked any more, though nobody has said so |

pub mod baseline;
pub mod baseline_table;
mod catalog_triggers;
pub mod columns;
pub mod command_order;
pub mod commands;
pub mod compare_rows;
mod compare_shapes;
mod copies;
pub mod dropped;
pub mod drops;
mod finding;
pub mod fixed_settings;
mod given_key;
pub mod history;
pub mod horizon;
mod key_types;
mod locked_tree;
pub mod lost;
pub mod manage;
pub mod metadata;
pub mod mid_statement;
mod older_shape;
mod one_row;
pub mod options;
mod output_function;
pub mod own_triggers;
pub mod parallel_apply;
mod partition_bounds;
pub mod partitions;
mod pending_list;
pub mod plan;
pub mod primary_key;
pub mod readers;
pub mod record;
mod recorded_tables;
mod renamed_trigger;
pub mod row_hashes;
pub mod row_key;
pub mod rows;
pub mod run_writer;
pub mod shape;
pub mod sorter;
pub mod targets;
pub mod trackable;
pub mod truncation;
pub mod verify_all;
pub mod verify_row;
pub mod verify_tables;
pub mod version_runs;
pub mod versions;

use std::cell::Cell;

thread_local! {
    static FORGETS_AT_ROLLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Plans rely on what this transaction has recorded. If it, or a part of it, is rolled back, they are made anew.
fn at_rollback_forget_plans() {
    FORGETS_AT_ROLLBACK.set(true);
}

/// A subtransaction of this level, or the transaction (1), has been rolled back. Cannot fail.
pub fn after_rollback(level: i32) {
    dropped::after_rollback(level);
    pending_list::forget();
    mid_statement::after_rollback(level);
    if FORGETS_AT_ROLLBACK.get() {
        plan::forget_all();
    }
}

/// A transaction has ended.
pub fn forget() {
    FORGETS_AT_ROLLBACK.set(false);
    command_order::forget();
    dropped::forget();
    pending_list::forget();
    mid_statement::after_rollback(0);
}
