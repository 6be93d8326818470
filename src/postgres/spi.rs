//! SQL from Rust. Plans are prepared once a process, so reading in chunks costs no parsing. Rows are handed out one by
//! one and freed with the result, whereas pgrx's own client keeps them until the transaction ends.
//!
//! Every statement here runs with the search_path `pg_catalog, pg_temp`, also one that a hook runs in a session with
//! objects of its own names. So what is Postgres' own stands in it without a schema, operators too, and the ledger's
//! tables and functions with theirs. (The views and functions in sql/ run with their callers' search_path: there all is
//! named with its schema.)

use super::errors::or_raise;
use super::local_settings::with_settings_of_statements;
use super::schema;
use super::tables::{RegisteredSnapshot, Row};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;

thread_local! {
    static PLANS: RefCell<HashMap<&'static str, pg_sys::SPIPlanPtr>> = RefCell::new(HashMap::new());
}

/// An SPI connection, closed when dropped.
struct Connection;

impl Connection {
    /// For queries on tables of the schema `ledger`: an ERROR if that schema is not the extension's.
    fn to_ledger() -> Self {
        or_raise(schema::require());
        Connection::open()
    }

    fn open() -> Self {
        // SAFETY: inside a transaction; failure is reported by the return value.
        let status = unsafe { pg_sys::SPI_connect() };
        assert_eq!(status, pg_sys::SPI_OK_CONNECT as i32);
        Connection
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: open() connected. If an ERROR unwinds, this may instead take off a level that a function of the query
        // has opened above. Nobody uses SPI between that and the end of the transaction or subtransaction, which takes
        // off what is left, and the levels below our own are not reached: no more are taken off than were opened here.
        unsafe { pg_sys::SPI_finish() };
    }
}

/// An argument of a statement.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    data_type: pg_sys::Oid,
    /// `None` is null.
    value: Option<pg_sys::Datum>,
}

impl Argument {
    /// The value is one of the type.
    pub fn new(data_type: pg_sys::Oid, value: Option<pg_sys::Datum>) -> Argument {
        Argument { data_type, value }
    }

    pub fn text(value: Option<&str>) -> Argument {
        Argument::new(pg_sys::TEXTOID, value.and_then(super::tables::text_datum))
    }
}

impl From<i64> for Argument {
    fn from(value: i64) -> Argument {
        Argument::new(pg_sys::INT8OID, Some(value.into()))
    }
}

/// What a statement may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Sees what the active snapshot sees.
    Read,
    /// Also sees what was committed meanwhile, unless the transaction is isolated.
    Write,
}

/// Runs a statement on the ledger's tables, and calls `each` with each row of its result. Values in a row are valid
/// until that returns.
pub fn run(statement: &'static str, arguments: &[Argument], access: Access, each: impl FnMut(&Row)) {
    execute(Connection::to_ledger(), statement, arguments, access, each);
}

/// As [`run`], for a query. It sees what is committed when it starts, or, if the transaction is isolated, what the
/// transaction sees.
pub fn for_each(query: &'static str, arguments: &[Argument], each: impl FnMut(&Row)) {
    execute(Connection::to_ledger(), query, arguments, Access::Write, each);
}

/// As [`for_each`], but as of now, whatever the transaction's isolation level. For rows that never change once they
/// exist and belong to others that are read as of now: an isolated transaction would miss what was sealed since it
/// began, and report it as missing.
pub fn for_each_as_of_now(query: &'static str, arguments: &[Argument], each: impl FnMut(&Row)) {
    let latest = RegisteredSnapshot::latest();
    latest.while_active(|| execute(Connection::to_ledger(), query, arguments, Access::Read, each));
}

/// As [`for_each`], for a query on Postgres' catalogs alone, which also works where there is no ledger.
pub fn for_each_in_catalogs(query: &'static str, arguments: &[Argument], each: impl FnMut(&Row)) {
    execute(Connection::open(), query, arguments, Access::Write, each);
}

/// As [`for_each_in_catalogs`], but as of now, whatever the transaction's isolation level, as Postgres' own commands
/// see the catalogs.
pub fn for_each_in_catalogs_as_of_now(query: &'static str, arguments: &[Argument], each: impl FnMut(&Row)) {
    let latest = RegisteredSnapshot::latest();
    latest.while_active(|| execute(Connection::open(), query, arguments, Access::Read, each));
}

fn execute(
    _connection: Connection,
    statement: &'static str,
    arguments: &[Argument],
    access: Access,
    mut each: impl FnMut(&Row),
) {
    let types: Vec<pg_sys::Oid> = arguments.iter().map(|argument| argument.data_type).collect();
    let mut values: Vec<pg_sys::Datum> =
        arguments.iter().map(|argument| argument.value.unwrap_or(pg_sys::Datum::null())).collect();
    let nulls: Vec<u8> = arguments.iter().map(|argument| if argument.value.is_some() { b' ' } else { b'n' }).collect();
    let read_only = access == Access::Read;
    let status = with_settings_of_statements(|| {
        let plan = plan(statement, types);
        // SAFETY: connected. The plan takes arguments of these types.
        unsafe { pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr().cast(), read_only, 0) }
    });
    // SAFETY: the result stays until it is freed below, or with the connection.
    unsafe {
        if status < 0 {
            pgrx::error!("unexpected result {status} of an internal statement");
        }
        // A statement that returns no rows has none.
        let result = pg_sys::SPI_tuptable;
        if result.is_null() {
            return;
        }
        for index in 0..pg_sys::SPI_processed as usize {
            each(&Row::deform(*(*result).vals.add(index), (*result).tupdesc));
        }
        pg_sys::SPI_freetuptable(result);
    }
}

/// Whether such queries see only what was committed when the transaction began.
pub fn is_isolated() -> bool {
    // SAFETY: reads a global of this process, which only its one thread writes.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

fn plan(query: &'static str, mut types: Vec<pg_sys::Oid>) -> pg_sys::SPIPlanPtr {
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(query).copied()) {
        return plan;
    }
    let text = CString::new(query).expect("our own queries hold no NUL");
    // SAFETY: connected. A kept plan outlives the connection, and Postgres plans it again when its tables change.
    let plan = unsafe {
        let plan = pg_sys::SPI_prepare(text.as_ptr(), types.len() as i32, types.as_mut_ptr());
        if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
            pgrx::error!("could not prepare an internal query");
        }
        plan
    };
    PLANS.with_borrow_mut(|plans| plans.insert(query, plan));
    plan
}

/// The first row of a query that is run once, with one parameter. The caller has checked the tables that it names. The
/// query sees what the running query sees.
pub fn first_row(query: &str, parameter_type: pg_sys::Oid, mut parameter: pg_sys::Datum) -> Option<Row> {
    // SAFETY: reads a global. The caller's context outlives the connection, whose own context goes with it.
    let caller = unsafe { pg_sys::CurrentMemoryContext };
    let _connection = Connection::open();
    let text = CString::new(query).unwrap_or_default();
    let mut parameter_type = parameter_type;
    // SAFETY: connected; one parameter of that type.
    let status = with_settings_of_statements(|| unsafe {
        let (types, values) = (&mut parameter_type, &mut parameter);
        pg_sys::SPI_execute_with_args(text.as_ptr(), 1, types, values, std::ptr::null(), true, 1)
    });
    // SAFETY: the result stays until the connection is closed, and what is read of it is copied before.
    unsafe {
        if status != pg_sys::SPI_OK_SELECT as i32 {
            pgrx::error!("unexpected result {status} of an internal query");
        }
        if pg_sys::SPI_processed == 0 {
            return None;
        }
        let result = pg_sys::SPI_tuptable;
        let previous = pg_sys::MemoryContextSwitchTo(caller);
        let tuple = pg_sys::heap_copytuple(*(*result).vals);
        let row = Row::deform(tuple, (*result).tupdesc);
        pg_sys::MemoryContextSwitchTo(previous);
        Some(row)
    }
}
