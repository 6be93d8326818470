//! The glue between the domain and Postgres, one concern a file. All unsafe code of the project is here.
//!
//! ```text
//! session: INSERT, SQL function, trigger of a tracked table
//!    │
//!    ├─ row ──▶ entries_pending ── worker, or commit_block() ──▶ entries_sealed + blocks
//!    │                                                                  │ block lines, after the commit
//!    └─ line ─▶ LineBuffer ── PRE_COMMIT (modes sync, write) ──▶ shared ring ◀── worker: block and void lines;
//!                                                                       │        entry lines in mode async
//!                                                         writer, or a leading session
//!                                                                       ▼
//!                                                          mirror file, and its state file
//! ```
//!
//! | module | concern |
//! |---|---|
//! | [`settings`], [`secrets`] | what is configured |
//! | [`hashing`] | SQL functions that only compute |
//! | [`entries`], [`triggers`] | recording, by function and by INSERT |
//! | [`entry_clock`] | the times of entries that the ledger makes by itself |
//! | [`queued_entry`], [`queue`], [`entries_pending`] | the ledger's own entries before their insert; those that are inserted together; the table where entries wait |
//! | [`transaction`], [`transaction_end`] | what a transaction has recorded, and what happens when it ends |
//! | [`subtransaction`] | work whose failure must not end the transaction |
//! | [`prepared_transactions`] | which transactions are prepared |
//! | [`mirror`] | the JSONL file |
//! | [`blocks`], [`pending_scan`], [`pending_floor`], [`shared_floor`], [`log_state`], [`partitions`], [`emptied_pages`], [`sealing_lock`], [`lock_holders`] | sealing |
//! | [`copy_hook`], [`line_functions`], [`import`] | writing a ledger out, and rebuilding one |
//! | [`utility_hook`], [`executor_hook`], [`object_access_hook`] | hooks for commands, for queries, and for what they create or drop |
//! | [`own_tables`], [`table_locks`], [`ownership`], [`privileges`] | commands that are refused on the ledger's own tables; who owns an object, and who has which privileges |
//! | [`items`] | signed files, and their registry |
//! | [`tracking`] | application tables whose rows are recorded |
//! | [`verification`], [`all_entries`] | SQL functions that verify; going through all entries, pending or sealed |
//! | [`views`] | the functions behind the views for monitoring |
//! | [`worker`], [`background_process`] | launcher and workers; what they have in common with the mirror's writer |
//! | [`shared`], [`database_slot`], [`pauses`], [`locks`], [`database`] | shared memory, and this process's part of it |
//! | [`relation`], [`quoting`] | what the catalogs say of a table, the ledger's or an application's, and how it is named; names, types and texts as SQL |
//! | [`install`] | the SQL of the install script |
//! | [`faults`] | failing on purpose, in tests |
//! | [`roles`], [`schema`], [`extension`] | with whose rights work is done, and which schema and extension are the ledger's |
//! | [`ddl`] | commands that the ledger runs by itself |
//! | [`local_settings`], [`lock_limit`], [`timeout`] | what holds for a piece of work: settings of Postgres, and how long it waits |
//! | [`tables`], [`bulk_insert`], [`single_insert`], [`single_row`], [`spi`], [`jsonb`], [`jsonb_record`], [`lists`], [`temporary_file`], [`encoding`], [`errors`], [`errorless`], [`wait_events`] | access to Postgres' own functions |
//! | [`ids`], [`new_ids`] | new ids, and ids in SQL; which new ones need not be searched for |
//! | [`helper_threads`] | threads that must not call Postgres |
//! | [`memory`] | what happens if there is none left |

mod all_entries;
mod background_process;
mod blocks;
mod bulk_insert;
mod copy_hook;
mod database;
mod database_slot;
mod ddl;
mod emptied_pages;
mod encoding;
mod entries;
mod entries_pending;
mod entry_clock;
mod errorless;
mod errors;
mod executor_hook;
mod extension;
mod faults;
mod hashing;
mod helper_threads;
mod ids;
mod import;
mod install;
mod items;
mod jsonb;
mod jsonb_record;
mod line_functions;
mod lists;
mod local_settings;
mod lock_holders;
mod lock_limit;
mod locks;
mod log_state;
mod memory;
mod mirror;
mod new_ids;
mod object_access_hook;
mod own_tables;
mod ownership;
mod partitions;
mod pauses;
mod pending_floor;
mod pending_scan;
mod prepared_transactions;
mod privileges;
mod queue;
mod queued_entry;
mod quoting;
mod relation;
mod roles;
mod schema;
mod sealing_lock;
mod secrets;
mod settings;
mod shared;
mod shared_floor;
mod single_insert;
mod single_row;
mod spi;
mod subtransaction;
mod table_locks;
mod tables;
mod temporary_file;
mod timeout;
mod tracking;
mod transaction;
mod transaction_end;
mod triggers;
mod utility_hook;
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
    memory::init();
    settings::init();
    // SAFETY: plain globals, set by the postmaster before and while it loads libraries.
    let (is_preloading, is_upgrade) =
        unsafe { (pg_sys::process_shared_preload_libraries_in_progress, pg_sys::IsBinaryUpgrade) };
    // pg_upgrade moves the tables of a ledger, so no process may record, seal or write to the file meanwhile.
    if is_preloading && !is_upgrade {
        secrets::init();
        shared::init();
        transaction_end::init();
        object_access_hook::init();
        utility_hook::init();
        executor_hook::init();
        worker::launcher::init();
        mirror::writer::init();
        mirror::lost_commits::init();
    }
}
