//! The mirror: an append-only file that holds every line of the ledger. In mode `sync` the lines are on disk before the
//! transaction commits.
//!
//! | module | concern |
//! |---|---|
//! | [`shared`], [`handle`] | what all processes know of the file, in shared memory, and how a process reaches it |
//! | [`line_buffer`] | the lines of one transaction until they are appended |
//! | [`append`] | copying lines into the ring, and waiting until they are written or synced |
//! | [`round_waiters`], [`bounded_wait`] | how such a wait sleeps and is woken, and when it gives up |
//! | [`under_way`] | what this process must end if its append fails |
//! | [`owners`] | which running transactions have lines in the file |
//! | [`round`] | one round: writing and syncing what is in the ring |
//! | [`round_leader`] | a committing session that does a round itself |
//! | [`writer`] | the process that does all other rounds |
//! | [`mod@file`], [`file_identity`] | the file: name, opening, checks, writing; which file it is |
//! | [`last_change`] | how the server notices that another program has changed the file |
//! | [`state_file`] | the state file beside it |
//! | [`opening`] | creating the file, or renaming it after its database |
//! | [`attach`], [`take_over`], [`refused`] | opening the file, and making it agree with the database; why that failed |
//! | [`set_aside`] | renaming the file, so that a new one is begun |
//! | [`differing`] | how often a file is read that differs from the database |
//! | [`lost`], [`lost_commits`] | what of its commits the database may have lost, so whether lines that are voided may have been acknowledged |
//! | [`reopening`] | what one attempt to open the file must know of the time since the last |
//! | [`hole`] | what a loss of power leaves at the end |
//! | [`unexpected`] | entries that should have had a line when the file was opened |
//! | [`unsynced`] | what can be read in the file but may not be on disk |
//! | [`tail`], [`open_lines`] | reading what is not settled in the file |
//! | [`remembered`], [`settled_mark`] | how far the database knows the file to agree |
//! | [`voiding`] | which lines count, and voiding the others |
//! | [`id_reuse`], [`aborting`] | ids that are reused; transactions that have aborted and not said which lines to void |
//! | [`prepared`] | the lines of prepared transactions |
//! | [`catch_up`], [`block_lines`] | appending what the database has and the file lacks |
//! | [`requests`] | what an administrator asks for |
//! | [`cause`], [`fixed_text`] | why the file cannot be used, in shared memory |
//! | [`hang`] | a file that does not answer |
//! | [`advice`] | what to do next: the hint for a transaction that could not record |

pub mod aborting;
mod advice;
pub mod append;
pub mod attach;
pub mod block_lines;
pub mod bounded_wait;
pub mod catch_up;
pub mod cause;
mod differing;
pub mod file;
pub mod file_identity;
pub mod fixed_text;
pub mod handle;
pub mod hang;
mod hole;
pub mod id_reuse;
pub mod last_change;
pub mod line_buffer;
pub mod lost;
pub mod lost_commits;
pub mod open_lines;
mod opening;
pub mod owners;
pub mod prepared;
pub mod refused;
pub mod remembered;
mod reopening;
pub mod requests;
pub mod round;
pub mod round_leader;
pub mod round_waiters;
pub mod set_aside;
pub mod settled_mark;
pub mod shared;
pub mod state_file;
pub mod tail;
mod take_over;
pub mod under_way;
mod unexpected;
pub mod unsynced;
pub mod voiding;
pub mod writer;
