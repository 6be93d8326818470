//! `COPY ledger.entries TO` and `FROM` with `FORMAT jsonl`.
//!
//! The statement is rewritten to one that core COPY runs, on the view `ledger.lines` or the table `ledger.import`, and
//! handed on. So privileges, files, programs, the protocol and progress stay with core, and other extensions see an
//! ordinary COPY. A line of the ledger is ASCII without control characters, so CSV with control characters as delimiter
//! and quote is the line as it is.
//!
//! # Safety
//!
//! The unsafe functions here run inside a transaction, within the hook. Those that take a statement, a clause or an
//! option get a node that Postgres passed to the hook, or a part of one, as the grammar makes it. The others only build
//! nodes in the current memory context.

use super::errorless;
use super::errors::{or_raise, Failure};
use super::import;
use super::lists;
use super::privileges::has_privilege;
use super::relation;
use super::schema;
use pgrx::{pg_guard, pg_sys, PgBox, PgSqlErrorCode};
use std::ffi::CStr;

pub fn init() {
    import::init();
}

/// The statement for core COPY to run in place of this one; null if this is not about a ledger file.
#[pg_guard]
pub unsafe extern "C-unwind" fn rewrite(statement: *mut pg_sys::PlannedStmt) -> *mut pg_sys::PlannedStmt {
    let utility = (*statement).utilityStmt;
    if (*utility).type_ != pg_sys::NodeTag::T_CopyStmt {
        return std::ptr::null_mut();
    }
    let copy = utility.cast::<pg_sys::CopyStmt>();
    if (*copy).relation.is_null() || !has_ledger_format(&*copy) || !is_of_ledger(&*copy) {
        return std::ptr::null_mut();
    }
    or_raise(check_clauses(&*copy));
    check_privileges(&*copy);
    let rewritten = pg_sys::copyObjectImpl(statement.cast()).cast::<pg_sys::PlannedStmt>();
    let copy = (*rewritten).utilityStmt.cast::<pg_sys::CopyStmt>();
    (*copy).options = line_options();
    if (*copy).is_from {
        (*copy).relation = relation(c"import");
    } else {
        (*copy).relation = std::ptr::null_mut();
        (*copy).query = select_lines();
    }
    rewritten
}

/// COPY does not count rows that a trigger takes, so this sets the count to that of the lines.
#[pg_guard]
pub unsafe extern "C-unwind" fn count_lines(
    statement: *mut pg_sys::PlannedStmt,
    completion: *mut pg_sys::QueryCompletion,
) {
    let copy = (*statement).utilityStmt.cast::<pg_sys::CopyStmt>();
    if (*copy).is_from && !completion.is_null() {
        (*completion).nprocessed = import::lines_read();
    }
}

// ---- what the statement is ------------------------------------------------------------------------------------------

/// The options of a COPY.
unsafe fn options(copy: &pg_sys::CopyStmt) -> impl Iterator<Item = *mut pg_sys::DefElem> + '_ {
    lists::pointers(copy.options).map(|option| option.cast())
}

unsafe fn name_of(option: *mut pg_sys::DefElem) -> &'static CStr {
    CStr::from_ptr((*option).defname)
}

unsafe fn has_ledger_format(copy: &pg_sys::CopyStmt) -> bool {
    options(copy).any(|option| {
        // SAFETY: an option of the statement. Only an option with a value has a text, which is checked first.
        unsafe {
            name_of(option) == c"format"
                && !(*option).arg.is_null()
                && CStr::from_ptr(pg_sys::defGetString(option)) == c"jsonl"
        }
    })
}

/// Whether this database has the extension, and the statement is about its entries.
unsafe fn is_of_ledger(copy: &pg_sys::CopyStmt) -> bool {
    let named = relation::named(copy.relation);
    named != pg_sys::InvalidOid && named == entries()
}

/// The oid of `ledger.entries`, if this database has the extension.
unsafe fn entries() -> pg_sys::Oid {
    let named = |schema| pg_sys::get_relname_relid(c"entries".as_ptr(), schema);
    schema::find().map_or(pg_sys::InvalidOid, named)
}

/// Refuses clauses: a ledger is copied whole, as it is.
unsafe fn check_clauses(copy: &pg_sys::CopyStmt) -> Result<(), Failure> {
    let refuse = |what: &str| {
        Failure::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, format!("COPY in format jsonl takes no {what}"))
            .detail("A ledger can only be copied as a whole, in the format of its file.")
    };
    if !copy.attlist.is_null() {
        return Err(refuse("column list"));
    }
    if !copy.whereClause.is_null() {
        return Err(refuse("WHERE clause"));
    }
    let mut others = options(copy).filter(|option| name_of(*option) != c"format");
    if let Some(other) = others.next() {
        return Err(refuse(&format!("option \"{}\"", name_of(other).to_string_lossy())));
    }
    if options(copy).count() > 1 {
        return Err(refuse("second format"));
    }
    Ok(())
}

// ---- who may --------------------------------------------------------------------------------------------------------

/// Requires the privileges of core COPY on `ledger.entries`. Core COPY itself checks those on files and programs.
unsafe fn check_privileges(copy: &pg_sys::CopyStmt) {
    let user = errorless::user();
    let needed = if copy.is_from { pg_sys::ACL_INSERT } else { pg_sys::ACL_SELECT };
    if !has_privilege(entries(), user, needed) {
        let denied = pg_sys::AclResult::ACLCHECK_NO_PRIV;
        pg_sys::aclcheck_error(denied, pg_sys::ObjectType::OBJECT_TABLE, c"entries".as_ptr());
    }
    if copy.is_from {
        or_raise(import::require_admin());
    }
}

// ---- what core COPY runs --------------------------------------------------------------------------------------------

/// CSV without quoting: a line has none of these characters.
unsafe fn line_options() -> *mut pg_sys::List {
    let options =
        [(c"format", c"csv"), (c"delimiter", c"\x01"), (c"quote", c"\x02"), (c"escape", c"\x02"), (c"null", c"")];
    options.iter().fold(std::ptr::null_mut(), |list, (name, value)| {
        // SAFETY: names and values are static and NUL-terminated, and Postgres only reads them.
        unsafe {
            let option = pg_sys::makeDefElem(name.as_ptr().cast_mut(), string(value), -1);
            pg_sys::lappend(list, option.cast())
        }
    })
}

unsafe fn string(value: &'static CStr) -> *mut pg_sys::Node {
    pg_sys::makeString(value.as_ptr().cast_mut()).cast()
}

unsafe fn relation(name: &'static CStr) -> *mut pg_sys::RangeVar {
    pg_sys::makeRangeVar(c"ledger".as_ptr().cast_mut(), name.as_ptr().cast_mut(), -1)
}

unsafe fn list_of<T>(node: *mut T) -> *mut pg_sys::List {
    pg_sys::lappend(std::ptr::null_mut(), node.cast())
}

/// `SELECT line FROM ledger.lines`. Built by hand and not parsed, because it has no place in the text of the query.
unsafe fn select_lines() -> *mut pg_sys::Node {
    let mut column = PgBox::<pg_sys::ColumnRef>::alloc_node(pg_sys::NodeTag::T_ColumnRef);
    column.fields = list_of(string(c"line"));
    column.location = -1;
    let mut target = PgBox::<pg_sys::ResTarget>::alloc_node(pg_sys::NodeTag::T_ResTarget);
    target.val = column.into_pg().cast();
    target.location = -1;
    let mut select = PgBox::<pg_sys::SelectStmt>::alloc_node(pg_sys::NodeTag::T_SelectStmt);
    select.targetList = list_of(target.into_pg());
    select.fromClause = list_of(relation(c"lines"));
    select.into_pg().cast()
}
