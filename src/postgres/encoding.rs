//! The encoding of this database's texts, which must be UTF-8 as in lines and JSON; and what stands for bytes that are
//! not such a text.

use super::errorless;
use super::errors::Failure;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::ffi::CStr;

/// What bytes that are not valid text read as. No column of the ledger takes a text this long, so it never equals what
/// was recorded.
pub const NOT_TEXT: &str = "(these bytes are not UTF-8 text, or hold a NUL, or are no jsonb: the ledger never writes such, so \
    somebody has put them here past all checks, or a disk has lost what was here. This stands in their place, and is longer than any \
    text that could have been recorded, so that what is made of it is never what was made of the recorded text)";
const _: () = assert!(NOT_TEXT.len() > 256);

/// Whether the texts of this database are in UTF-8, as lines and JSON are.
pub fn is_utf8() -> bool {
    errorless::database_encoding() == pg_sys::pg_enc::PG_UTF8 as i32
}

/// The error of everything that records or verifies in another encoding. CREATE EXTENSION refuses such a database.
pub fn require_utf8() -> Result<(), Failure> {
    if is_utf8() {
        return Ok(());
    }
    // SAFETY: the name of an encoding is a NUL-terminated constant of the server.
    let name = unsafe { CStr::from_ptr(pg_sys::GetDatabaseEncodingName()) }.to_string_lossy();
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        format!("pg_notary does not support server encoding \"{name}\""),
    )
    .detail("Ledger lines are UTF-8, and recorded data must read the same in the file and in the database.")
    .hint("Create a database in UTF-8, for example with: createdb --encoding UTF8 --template template0 NAME"))
}
