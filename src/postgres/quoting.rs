//! Names, types and texts as SQL has them, the same in every session.

use pgrx::pg_sys;
use std::ffi::CStr;

// A variable of Postgres that pgrx does not declare.
extern "C" {
    static mut quote_all_identifiers: bool;
}

/// Until dropped, quotes only names that need quotes. Any session may set quote_all_identifiers for itself, but what is
/// recorded and hashed must not depend on it.
pub struct PlainQuotes {
    quotes_all: bool,
}

impl PlainQuotes {
    pub fn set() -> PlainQuotes {
        // SAFETY: a global of this process, which only its one thread uses.
        unsafe {
            let saved = PlainQuotes { quotes_all: quote_all_identifiers };
            quote_all_identifiers = false;
            saved
        }
    }
}

impl Drop for PlainQuotes {
    fn drop(&mut self) {
        // SAFETY: restores a global of this process, also when an error of a look-up unwinds through here.
        unsafe { quote_all_identifiers = self.quotes_all };
    }
}

/// A name, quoted where it needs quotes.
pub fn identifier(name: &CStr) -> String {
    let _quotes = PlainQuotes::set();
    // SAFETY: the result is the name itself or a palloc'd copy; both are NUL-terminated.
    unsafe { CStr::from_ptr(pg_sys::quote_identifier(name.as_ptr())) }.to_string_lossy().into_owned()
}

/// A text as a literal. A session may have standard_conforming_strings off, so only one that begins with `E` has
/// backslashes.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// A type, as `pg_catalog.integer`, whatever the search_path.
pub fn type_name(type_oid: pg_sys::Oid) -> String {
    let _quotes = PlainQuotes::set();
    // SAFETY: a catalog look-up inside a transaction; the result is a palloc'd, NUL-terminated string.
    unsafe { CStr::from_ptr(pg_sys::format_type_be_qualified(type_oid)) }.to_string_lossy().into_owned()
}

/// As [`type_name`], with the modifier, as `pg_catalog.numeric(10,2)`.
pub fn type_with_modifier(type_oid: pg_sys::Oid, modifier: i32) -> String {
    let _quotes = PlainQuotes::set();
    let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
    // SAFETY: as in type_name().
    unsafe { CStr::from_ptr(pg_sys::format_type_extended(type_oid, modifier, flags as pg_sys::bits16)) }
        .to_string_lossy()
        .into_owned()
}
