//! The glue between the domain and Postgres, one concern a file. All unsafe code of the project is here.
//!
//! | module | concern |
//! |---|---|
//! | [`settings`], [`secrets`] | what is configured |
//! | [`hashing`] | SQL functions that only compute |
//! | [`entries`], [`triggers`] | recording, by function and by INSERT |
//! | [`entries_pending`], [`queue`] | the table where entries wait; entries that are inserted together |
//! | [`transaction`] | what happens when a transaction ends |
//! | [`mirror`] | the JSONL file |
//! | [`blocks`], [`log_state`], [`partitions`], [`vacated`] | sealing |
//! | [`copy_hook`], [`lines`], [`import`] | writing a ledger out, and rebuilding one |
//! | [`utility_hook`], [`executor_hook`] | where commands and queries come by |
//! | [`items`] | signed files, and their registry |
//! | [`tracking`] | application tables whose rows are recorded |
//! | [`verification`] | SQL functions that verify |
//! | [`worker`] | launcher and workers |
//! | [`shared`], [`database`] | shared memory, and this process's part of it |
//! | [`install`] | the SQL of the install script |
//! | [`faults`] | failing on purpose, in tests |
//! | [`roles`], [`schema`] | whose rights work is done with, and which schema is the extension's |
//! | [`tables`], [`bulk_insert`], [`single_insert`], [`spi`], [`jsonb`], [`errors`], [`errorless`], [`wait_events`] | how Postgres is talked to |
//! | [`ids`] | new ids |
//! | [`regular_file`] | opening files that somebody else may have put there |
//! | [`helper_threads`] | what must not talk to Postgres |

mod all_entries;
mod blocks;
mod bulk_insert;
mod copy_hook;
mod database;
mod entries;
mod entries_pending;
mod errorless;
mod errors;
mod executor_hook;
mod faults;
mod hashing;
mod helper_threads;
mod ids;
mod import;
mod install;
mod items;
mod jsonb;
mod lines;
mod log_state;
mod mirror;
mod own_tables;
mod partitions;
mod queue;
mod regular_file;
mod roles;
mod schema;
mod secrets;
mod settings;
mod shared;
mod single_insert;
mod spi;
mod tables;
mod tracking;
mod transaction;
mod triggers;
mod utility_hook;
mod vacated;
mod verification;
mod views;
mod wait_events;
mod worker;

use pgrx::{pg_guard, pg_sys};

::pgrx::pg_module_magic!();

#[pg_guard]
#[doc(hidden)]
pub extern "C-unwind" fn _PG_init() {
    errors::init();
    settings::init();
    // SAFETY: plain globals, set by the postmaster before and while it loads libraries.
    let (is_preloading, is_upgrade) =
        unsafe { (pg_sys::process_shared_preload_libraries_in_progress, pg_sys::IsBinaryUpgrade) };
    // pg_upgrade moves the tables of a ledger: nobody may record, seal or write to the file meanwhile.
    if is_preloading && !is_upgrade {
        secrets::init();
        shared::init();
        transaction::init();
        worker::commands::init();
        utility_hook::init();
        executor_hook::init();
        worker::launcher::init();
        mirror::writer::init();
        mirror::doubt::init();
    }
}
