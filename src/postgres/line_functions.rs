//! The SQL functions behind the view `lines`: they turn the ledger's rows into the lines of its file. (The lines of a
//! transaction on their way to the file are in `mirror/line_buffer.rs`.)
//!
//! They take whole rows, so that the view reads every table with the one snapshot of its query.

use super::errors::{or_raise, Failure};
use super::ids;
use super::mirror::remembered;
use super::tables::{self, Row};
use super::triggers::version_1_function;
use crate::ledger::record::Header;
use pgrx::{pg_guard, pg_sys, FromDatum, IntoDatum, PgSqlErrorCode};

version_1_function!(pg_finfo_ledger_header_line);
version_1_function!(pg_finfo_ledger_entry_line);
version_1_function!(pg_finfo_ledger_block_line);

/// `ledger.header_line(ledger.log_state)`
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_header_line(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let line = with_row(argument(fcinfo, 0), |row| {
        let header = Header {
            database: remembered::database_name(),
            ledger_id: row.uuid(0).unwrap_or_default(),
            timestamp: row.timestamp(1).unwrap_or_default(),
        };
        header.line()
    });
    text(line)
}

/// `ledger.entry_line(ledger.entries)`
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_entry_line(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    text(with_row(argument(fcinfo, 0), |row| tables::entry_from_row(row).line()))
}

/// `ledger.block_line(ledger.blocks, uuid[])`
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_block_line(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let ids = Vec::<Option<pgrx::Uuid>>::from_datum(argument(fcinfo, 1), false).unwrap_or_default();
    let ids: Option<Vec<_>> = ids.into_iter().map(|id| id.map(ids::from_sql)).collect();
    let ids = or_raise(ids.ok_or_else(null_id));
    text(with_row(argument(fcinfo, 0), |row| tables::header_from_row(row).line(&ids)))
}

fn null_id() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "entry_ids must not hold nulls")
        .hint("Give the ids of all entries of the block, in leaf order.")
}

/// An argument of a strict function.
///
/// # Safety
/// `fcinfo` is what Postgres passed, for a function of more than `number` arguments.
unsafe fn argument(fcinfo: pg_sys::FunctionCallInfo, number: usize) -> pg_sys::Datum {
    (*fcinfo).args.as_slice((*fcinfo).nargs as usize)[number].value
}

/// Splits a composite value into its columns.
///
/// # Safety
/// The datum is a non-null value of a composite type.
unsafe fn with_row<T>(composite: pg_sys::Datum, read: impl FnOnce(&Row) -> T) -> T {
    let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(composite.cast_mut_ptr()).cast();
    let of_type = (*header).t_choice.t_datum;
    let descriptor = pg_sys::lookup_rowtype_tupdesc(of_type.datum_typeid, of_type.datum_typmod);
    let mut tuple =
        pg_sys::HeapTupleData { t_len: pgrx::varsize(header.cast()) as u32, t_data: header, ..Default::default() };
    let result = read(&Row::deform(&mut tuple, descriptor));
    if (*descriptor).tdrefcount >= 0 {
        pg_sys::DecrTupleDescRefCount(descriptor);
    }
    result
}

fn text(line: Vec<u8>) -> pg_sys::Datum {
    // Lines are ASCII.
    String::from_utf8_lossy(&line).as_ref().into_datum().unwrap_or(pg_sys::Datum::null())
}
