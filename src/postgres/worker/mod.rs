//! The background workers: one launcher for each cluster, one worker for each database that has the extension.
//!
//! ```text
//!   launcher ──starts──▶ worker (database) ──no extension──▶ exits, slot given back
//!      ▲                    │  ▲
//!      │ wakes on exit      │  │ latch: block_size reached, block_interval over, transaction aborted,
//!      └────────────────────┘  │        extension dropped, settings reloaded
//! ```
//!
//! CREATE EXTENSION takes a slot and wakes the launcher when it commits. DROP EXTENSION wakes the worker, which looks
//! and leaves. Commands that need a database for themselves pause its worker first (see [`commands`]).
//!
//! | module | concern |
//! |---|---|
//! | [`launcher`] | finding the databases that have a ledger, and starting their workers |
//! | [`main_loop`] | the worker of one database: what it does, and in which order |
//! | [`keeper`] | its part in the mirror |
//! | [`sealing`] | when it seals, and how much at a time |
//! | [`pace`] | how much of its time it spends on sealing, and in mode `async` on the file |
//! | [`baseline_work`] | recording rows that were there before their table was tracked |
//! | [`transactions`] | its transactions, in which an ERROR becomes a failure, and how long they wait for locks |
//! | [`pinned_settings`] | settings that are meant for clients, and not for it |
//! | [`signing_keys`] | whether the secrets are those that entries were signed with |
//! | [`commands`] | commands that pause or stop workers |

mod baseline_work;
pub mod commands;
mod keeper;
pub mod launcher;
pub mod main_loop;
mod pace;
mod pinned_settings;
mod sealing;
mod signing_keys;
mod transactions;
