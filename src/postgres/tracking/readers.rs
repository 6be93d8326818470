//! Which roles may learn what the ledger says of a table.

use crate::postgres::errors::Failure;
use crate::postgres::privileges::{has_on_all_columns, has_privilege, has_usage};
use crate::postgres::relation;
use crate::postgres::roles;
use crate::postgres::tables::Table;
use pgrx::{pg_sys, PgSqlErrorCode};

/// Whether the user could name the table in a query: otherwise a privilege on it is of no use.
fn reaches(target: pg_sys::Oid, user: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside a transaction; any oid may be asked for.
    has_usage(unsafe { pg_sys::get_rel_namespace(target) }, user)
}

/// What check_enable_rls() says where policies apply.
const RLS_ENABLED: i32 = pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32;

/// Whether the user may see every row that the ledger can tell about when asked about a row of this table. Asked about
/// a partition's row, it answers for the row of the whole table.
pub fn sees_whole_table(table: &Table, user: pg_sys::Oid) -> bool {
    let mut tables = std::iter::once(relation::oid(table)).chain(relation::ancestors(table));
    tables.all(|oid| sees_all(oid, user) && check_selects(oid, user).is_ok())
}

/// Whether no policy hides rows of the table from the user.
fn sees_all(target: pg_sys::Oid, user: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups inside a transaction; an Oid that does not exist raises an ERROR.
    unsafe { pg_sys::check_enable_rls(target, user, true) != RLS_ENABLED }
}

/// Refuses a user who may SELECT neither the table nor each of its columns: whole rows are returned.
pub fn check_selects(target: pg_sys::Oid, user: pg_sys::Oid) -> Result<(), Failure> {
    let select = pg_sys::ACL_SELECT;
    match has_privilege(target, user, select) || has_on_all_columns(target, user, select) {
        true => Ok(()),
        false => Err(denied(target)
            .detail("Only roles that may SELECT the rows of the table may pass them to ledger.verified().")),
    }
}

/// What the ledger says of a table is for auditors, and for roles that may read all of the table.
pub fn check_reader(target: pg_sys::Oid, user: pg_sys::Oid) -> Result<(), Failure> {
    check_reader_of(target, user)?;
    // Asked about a partition, the ledger answers for the whole table: see sees_whole_table().
    let table = Table::open_oid(target, pg_sys::AccessShareLock);
    relation::ancestors(&table).into_iter().try_for_each(|ancestor| check_reader_of(ancestor, user))
}

fn check_reader_of(target: pg_sys::Oid, user: pg_sys::Oid) -> Result<(), Failure> {
    // A role under row security is refused: policies would have to be evaluated for rows that do not exist any more.
    let reads_all =
        || has_privilege(target, user, pg_sys::ACL_SELECT) && reaches(target, user) && sees_all(target, user);
    match roles::is_member(user, &roles::AUDITOR) || reads_all() {
        true => Ok(()),
        false => Err(denied(target).detail(
            "Only members of ledger_auditor, and roles that have USAGE on the table's schema and may SELECT every row of the table, may verify it.",
        )),
    }
}

fn denied(target: pg_sys::Oid) -> Failure {
    let message = format!("permission denied for table {}", relation::shown_name(target));
    Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
}
