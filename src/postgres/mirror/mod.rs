//! The mirror: an append-only file that holds every line the ledger has, on disk before the transaction commits.
//!
//! | module | concern |
//! |---|---|
//! | [`shared`] | what all processes know of the file |
//! | [`mod@file`] | the file: name, opening, checks, writing |
//! | [`lines`] | the lines of one transaction |
//! | [`append`] | many writers, one leader, shared syncs |
//! | [`attach`] | opening the file at start, and making it agree with the database |
//! | [`settle`] | voiding the lines of transactions that did not commit |
//! | [`block_lines`] | the lines of committed blocks |

pub mod append;
pub mod attach;
pub mod block_lines;
pub mod file;
pub mod lines;
pub mod settle;
pub mod shared;
