//! Items: what an executor asks before it runs or reads anything, and the registry of what was signed.
//!
//! | module | concern |
//! |---|---|
//! | [`functions`] | hashing and signing a text |
//! | [`registry`] | signing, moving, revoking and loading what is registered |
//! | [`rows`], [`entries`] | what the table and what the ledger have of an item |
//! | [`pending`] | where the newest pending entry about an item is |
//! | [`verification`] | SQL functions that verify |
//! | [`audit`] | the registry as a whole, for verify_all() |
//! | [`verify`], [`cache`] | verifying items and what they call, and remembering it |
//! | [`given`] | items as callers give them |
//! | [`sync`] | files elsewhere compared with the registry |

pub mod audit;
mod cache;
mod entries;
mod functions;
mod given;
pub mod pending;
mod registry;
mod rows;
mod sync;
mod verification;
mod verify;

use super::errors::Failure;
use super::tables;
use crate::items::ItemError;
use crate::ledger::record::Timestamp;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::PgSqlErrorCode;

/// What an item that is none is to a user.
fn failure(error: ItemError) -> Failure {
    let code = match error {
        ItemError::ContentTooLong(_) | ItemError::MetadataTooLong(_) => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        ItemError::Content(_) => PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
        _ => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
    };
    Failure::new(code, error.to_string())
}

/// A time that a signature line can state.
fn timestamp(value: TimestampWithTimeZone) -> Result<Timestamp, Failure> {
    tables::checked_timestamp(value.into()).ok_or_else(|| {
        Failure::new(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, "signed_at is out of range")
            .detail("A signature line states times from the year 0001 to 9999.")
    })
}
