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
