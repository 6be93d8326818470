//! DROP TABLE, DROP SCHEMA and DROP OWNED. The rows of a partition that is dropped are recorded; of a tracked table
//! that is dropped, an entry says so. What counts is whether Postgres lets the caller drop them, not who owns them. Of
//! tables that these commands do not name, [`dropped`] takes care.
//!
//! # Safety
//! Every `unsafe fn` here takes the statement that Postgres passed to the ProcessUtility hook, a part of it, or Oids
//! (any may be given), and runs inside a transaction.

use super::copies;
use super::dropped;
use super::manage;
use super::options::{tracked_root, Options};
use super::partitions::{record_all, Passage};
use crate::postgres::errorless;
use crate::postgres::errors::Failure;
use crate::postgres::lists;
use crate::postgres::ownership::Object;
use crate::postgres::relation;
use crate::postgres::roles::as_ledger_owner;
use crate::postgres::spi;
use crate::postgres::tables::{Row, Table};
use pgrx::{pg_sys, PgSqlErrorCode};
use std::ffi::CStr;

/// Returns the tables of which something was recorded, for [`after_drop`].
///
/// # Safety
/// `drop` is the statement that ProcessUtility was called with.
pub unsafe fn before_drop(drop: &pg_sys::DropStmt) -> Result<Vec<pg_sys::Oid>, Failure> {
    match drop.removeType {
        pg_sys::ObjectType::OBJECT_TABLE => {
            let locked = lists::pointers(drop.objects).filter_map(|names| lock_named(names.cast())).collect::<Vec<_>>();
            record(&locked)
        }
        // Without CASCADE a schema goes only if it is empty.
        pg_sys::ObjectType::OBJECT_SCHEMA if drop.behavior == pg_sys::DropBehavior::DROP_CASCADE => {
            let schemas =
                lists::pointers(drop.objects).filter_map(|name| lock_schema(lists::string(name))).collect::<Vec<_>>();
            record(&lock_all(IN_SCHEMA, &schemas))
        }
        _ => Ok(Vec::new()),
    }
}

/// As [`before_drop`].
///
/// # Safety
/// `drop` is the statement that ProcessUtility was called with.
pub unsafe fn before_drop_owned(drop: &pg_sys::DropOwnedStmt) -> Result<Vec<pg_sys::Oid>, Failure> {
    let mut roles = Vec::new();
    for role in lists::pointers(drop.roles) {
        let role = pg_sys::get_rolespec_oid(role.cast::<pg_sys::RoleSpec>(), true);
        // Postgres does not drop what the first role of a cluster owns.
        let is_first = role == pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID);
        if role != pg_sys::InvalidOid && !is_first && pg_sys::has_privs_of_role(errorless::user(), role) {
            roles.push(role);
        }
    }
    record(&lock_all(OF_OWNER, &roles))
}

/// # Errors
/// If one of the tables is still there of which it was recorded that they go. The command looks for the names once
/// more, and others may have created a table meanwhile that is found first.
pub fn after_drop(mut recorded: impl Iterator<Item = pg_sys::Oid>) -> Result<(), Failure> {
    let Some(left) = recorded.find_map(relation::name_of) else { return Ok(()) };
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        format!("the command has not dropped table {left}"),
    )
    .detail("It was recorded that it is dropped, and it is still there: while the command ran, its name has become that of another table.")
    .hint("Repeat the command, and name the table with its schema."))
}

/// The tables of a schema that can be tracked, or are partitions of such. Also those without triggers: another session
/// may just be tracking one of them, and commit while this one waits for its lock.
///
/// Found by their dependencies, as the command finds them: `pg_class` has no index by schema or owner, and all of it
/// would be read in a database with thousands of schemas.
const IN_SCHEMA: &str = "SELECT c.oid FROM pg_depend AS d JOIN pg_class AS c ON c.oid = d.objid \
    WHERE d.refclassid = 'pg_namespace'::regclass::oid AND d.refobjid = $1::oid \
    AND d.classid = 'pg_class'::regclass::oid \
    AND (c.relkind = 'p' OR c.relkind = 'r') AND c.relpersistence <> 't'";

/// The same for a role: its tables, and all tables in its schemas, because a dropped schema takes all its tables with
/// it, regardless of their owner.
const OF_OWNER: &str = "WITH owned AS MATERIALIZED (\
        SELECT s.classid, s.objid FROM pg_shdepend AS s \
        WHERE s.refclassid = 'pg_authid'::regclass::oid AND s.refobjid = $1::oid AND s.deptype = 'o' \
        AND s.dbid = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())), \
    found AS (\
        SELECT o.objid FROM owned AS o WHERE o.classid = 'pg_class'::regclass::oid \
        UNION ALL \
        SELECT d.objid FROM owned AS o JOIN pg_depend AS d ON d.refobjid = o.objid \
        WHERE o.classid = 'pg_namespace'::regclass::oid \
        AND d.refclassid = 'pg_namespace'::regclass::oid AND d.classid = 'pg_class'::regclass::oid) \
    SELECT c.oid FROM found AS f JOIN pg_class AS c ON c.oid = f.objid \
    WHERE (c.relkind = 'p' OR c.relkind = 'r') AND c.relpersistence <> 't'";

/// A table, and the tables that it is a partition of.
type WithAncestors = (pg_sys::Oid, Vec<pg_sys::Oid>);

fn with_ancestors(table: pg_sys::Oid) -> WithAncestors {
    (table, relation::ancestors_of(table))
}

/// What the query lists for these objects, as of now, and each table after those that it is a partition of.
fn tables_that(query: &'static str, objects: &[pg_sys::Oid]) -> Vec<WithAncestors> {
    let mut tables: Vec<pg_sys::Oid> = Vec::new();
    for object in objects {
        let take = |row: &Row| tables.extend(row.get::<pg_sys::Oid>(0));
        as_ledger_owner(|| spi::for_each_in_catalogs_as_of_now(query, &[i64::from(object.to_u32()).into()], take));
    }
    tables.sort_unstable_by_key(|oid| oid.to_u32());
    tables.dedup();
    let mut tables: Vec<_> = tables.into_iter().map(with_ancestors).collect();
    tables.sort_by_key(|(_, ancestors)| ancestors.len());
    tables
}

/// Locks what a command drops, and returns it. While this session waits for a lock, tables may come and go, so they are
/// listed again until all that is listed was locked before. A lock on one that is gone does no harm.
unsafe fn lock_all(query: &'static str, objects: &[pg_sys::Oid]) -> Vec<pg_sys::Oid> {
    let mut locked = Vec::new();
    loop {
        let tables = tables_that(query, objects);
        if tables == locked {
            return tables.into_iter().map(|(oid, _)| oid).collect();
        }
        tables.iter().for_each(|(oid, ancestors)| lock_with_ancestors(*oid, ancestors));
        locked = tables;
    }
}

/// Locks the schema that DROP SCHEMA names, if the caller may drop it. The command does so too before it locks a table,
/// and from then on nothing is created in the schema or moved into it.
unsafe fn lock_schema(name: &CStr) -> Option<pg_sys::Oid> {
    let find = || Some(pg_sys::get_namespace_oid(name.as_ptr(), true)).filter(|oid| *oid != pg_sys::InvalidOid);
    let mode = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
    let lock = |schema: &pg_sys::Oid| pg_sys::LockDatabaseObject(pg_sys::NamespaceRelationId, *schema, 0, mode);
    relation::lock_by_name(find, |schema| Object::Schema(*schema).is_own(), lock)
}

/// Locks as DROP TABLE does: first the parent of a partition, so that no session uses it meanwhile.
unsafe fn lock_with_ancestors(relation: pg_sys::Oid, ancestors: &[pg_sys::Oid]) {
    for (depth, ancestor) in ancestors.iter().enumerate().rev() {
        relation::lock(*ancestor, if depth == 0 { pg_sys::AccessExclusiveLock } else { pg_sys::AccessShareLock });
    }
    relation::lock(relation, pg_sys::AccessExclusiveLock);
}

/// Locks the table that DROP TABLE names, if the caller may drop it.
unsafe fn lock_named(names: *mut pg_sys::List) -> Option<pg_sys::Oid> {
    let name = pg_sys::makeRangeVarFromNameList(names);
    let find = || relation::find_named(name).map(with_ancestors);
    let lock = |(oid, ancestors): &WithAncestors| lock_with_ancestors(*oid, ancestors);
    relation::lock_by_name(find, |(oid, _)| may_drop(*oid), lock).map(|(oid, _)| oid)
}

unsafe fn may_drop(table: pg_sys::Oid) -> bool {
    let is_catalog = || table.to_u32() < pg_sys::FirstNormalObjectId;
    let user = errorless::user();
    relation::is_table(table)
        && !is_catalog()
        && (Object::Relation(table).is_owned_by(user)
            || Object::Schema(pg_sys::get_rel_namespace(table)).is_owned_by(user))
}

/// Records what is lost with these tables, which are locked, and with their partitions. Returns those of which
/// something was recorded.
fn record(dropped: &[pg_sys::Oid]) -> Result<Vec<pg_sys::Oid>, Failure> {
    let mut recorded = Vec::new();
    let open = |oid: &pg_sys::Oid| Table::open_oid(*oid, pg_sys::NoLock);
    let mut all: Vec<pg_sys::Oid> =
        dropped.iter().flat_map(|oid| relation::tree(&open(oid), pg_sys::AccessExclusiveLock)).collect();
    all.sort_unstable_by_key(|oid| oid.to_u32());
    all.dedup();
    for oid in &all {
        let table = open(oid);
        let Some(options) = Options::of(&table) else { continue };
        match tracked_root(&table, &options) {
            None if copies::original_of(&table, &options).is_some() => continue,
            None => manage::note_dropped(&table, &options)?,
            Some(root) if all.contains(&relation::oid(&root)) || table.is_partitioned() => continue,
            Some(_) => record_all(&table, &options, Passage::Departure)?,
        }
        recorded.push(*oid);
    }
    dropped::note_recorded(&all);
    Ok(recorded)
}
