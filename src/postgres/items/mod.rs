//! Items: signed tools, directives and knowledge. The registry of what was signed, and what an executor (a program that
//! runs tools) asks before it runs or reads an item.
//!
//! | module | concern |
//! |---|---|
//! | [`functions`] | hashing and signing a text |
//! | [`registry`] | signing, moving, revoking and loading what is registered |
//! | [`signing`], [`calls`] | why an item is signed, and what it calls then |
//! | [`rows`], [`entries`] | what `ledger.items`, and what the ledger, has of an item |
//! | [`pending`] | where the newest pending entry about an item is |
//! | [`verify_functions`] | the SQL functions that verify, and what they return |
//! | [`audit`] | the registry as a whole, for verify_all() |
//! | [`verifier`], [`cache`] | the verifier behind them, for an item and all that it calls; its results, kept for the session |
//! | [`input`] | items as callers give them |
//! | [`sync`] | comparing files outside the database with the registry |

pub mod audit;
mod cache;
mod calls;
mod entries;
mod functions;
mod input;
pub mod pending;
mod registry;
mod rows;
mod signing;
mod sync;
mod verifier;
mod verify_functions;

use super::errors::Failure;
use super::tables;
use crate::items::ItemError;
use crate::ledger::record::Timestamp;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::PgSqlErrorCode;

/// The error that a user gets for a text that is not an item.
fn failure(error: ItemError) -> Failure {
    let code = match error {
        ItemError::ContentTooLong(_) | ItemError::MetadataTooLong(_) => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        ItemError::Content(_) => PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
        ItemError::Unverifiable(_) => PgSqlErrorCode::ERRCODE_DATA_EXCEPTION,
        _ => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
    };
    let failure = Failure::new(code, error.to_string());
    match error {
        ItemError::Unverifiable(_) => {
            failure.detail("Nothing was recorded: the item could not be loaded.").hint(format!("{}.", error.solution()))
        }
        ItemError::NoLocation { .. } => failure.hint(format!("{}.", error.solution())),
        _ => failure,
    }
}

/// A time that a signature line can state.
fn timestamp(value: TimestampWithTimeZone) -> Result<Timestamp, Failure> {
    tables::checked_timestamp(value.into()).ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, "signed_at is out of range")
            .detail("A signature line states times from the year 0001 to 9999.")
    })
}
