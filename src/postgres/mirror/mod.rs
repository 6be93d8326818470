//! The mirror: an append-only file that holds every line the ledger has, on disk before the transaction commits.
//!
//! | module | concern |
//! |---|---|
//! | [`shared`], [`handle`] | what all processes know of the file, and how they come by it |
//! | [`lines`] | the lines of one transaction |
//! | [`append`], [`rounds`], [`patience`] | putting lines into the ring, and waiting for them |
//! | [`under_way`], [`owners`] | giving up on the way; who has lines that are not decided |
//! | [`round`] | writing and syncing what is in the ring |
//! | [`lead`] | a commit that does so itself |
//! | [`writer`] | the process that does so otherwise |
//! | [`mod@file`] | the file: name, opening, checks, writing |
//! | [`last_change`] | how it is noticed that another program has changed it |
//! | [`state_file`] | what is noted beside it |
//! | [`attach`] | opening the file at start, and making it agree with the database |
//! | [`doubt`] | whether lines that are voided may have been acknowledged |
//! | [`unsynced`] | what can be read in it and may not be on disk |
//! | [`tail`], [`open_lines`] | reading what is not settled in it |
//! | [`remembered`], [`settled`] | how far the database knows it to agree |
//! | [`settle`] | voiding the lines of transactions that did not commit |
//! | [`repeats`], [`leaving`] | ids that are used again; transactions that have aborted |
//! | [`prepared`] | the lines of prepared transactions |
//! | [`catch_up`], [`block_lines`] | appending what the database has and the file lacks |
//! | [`requests`] | what an administrator asks for |
//! | [`advice`] | what to do next, in the hint of a transaction that could not record |

mod advice;
pub mod append;
pub mod attach;
pub mod block_lines;
pub mod catch_up;
pub mod doubt;
pub mod file;
pub mod handle;
pub mod last_change;
pub mod lead;
pub mod leaving;
pub mod lines;
pub mod open_lines;
pub mod owners;
pub mod patience;
pub mod prepared;
pub mod remembered;
pub mod repeats;
pub mod requests;
pub mod round;
pub mod rounds;
pub mod settle;
pub mod settled;
pub mod shared;
pub mod state_file;
pub mod tail;
pub mod under_way;
pub mod unsynced;
pub mod writer;
