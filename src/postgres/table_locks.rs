//! Refuses the commands by which a role without any right in the ledger could hold up all who record. Postgres waits
//! for a strong lock on the table before it looks whether the role may run the command, and while it waits, all others
//! wait behind it. What it waits for, any role can hold: a statement that is only prepared locks its tables until the
//! transaction ends.
//!
//! Most commands look first, such as ALTER TABLE, CREATE INDEX, CREATE POLICY, DROP, TRUNCATE and LOCK. Others do not,
//! but get by with a lock that is in the way of nobody who records, seals or reads: COMMENT, SECURITY LABEL, CREATE
//! STATISTICS, INHERIT, CREATE PUBLICATION.
//!
//! # Safety
//!
//! The unsafe functions here run inside a transaction, within the hook. They take parts of the statement that
//! ProcessUtility was called with.

use super::database;
use super::errorless;
use super::errors::Failure;
use super::lists;
use super::own_tables::is_of_ledger;
use super::ownership::Object;
use super::privileges::{has_on_a_column, has_privilege};
use super::relation;
use pgrx::{pg_guard, pg_sys, PgSqlErrorCode};
use std::ffi::CStr;

/// What a command asks for once it has its lock.
#[derive(Clone, Copy)]
enum Right {
    Ownership,
    Trigger,
    References,
    Maintain,
}

/// A table that a command locks, and what it then asks for.
type Locked = (*mut pg_sys::RangeVar, Right);

/// Refuses the command if a table of the ledger is among those that it locks, and the role lacks the right.
///
/// # Safety
/// A statement that ProcessUtility was called with.
#[pg_guard]
pub unsafe extern "C-unwind" fn before_utility(statement: *mut pg_sys::Node) {
    for (name, right) in locked(statement) {
        if let Some(relation) = of_ledger(name).filter(|relation| !right.is_granted(*relation)) {
            refusal(relation, right).raise();
        }
    }
}

unsafe fn locked(statement: *mut pg_sys::Node) -> Vec<Locked> {
    use pg_sys::NodeTag::*;
    match (*statement).type_ {
        T_RuleStmt => vec![((*statement.cast::<pg_sys::RuleStmt>()).relation, Right::Ownership)],
        T_CreateTrigStmt => vec![((*statement.cast::<pg_sys::CreateTrigStmt>()).relation, Right::Trigger)],
        T_CreateStmt | T_CreateForeignTableStmt => locked_by_create(&*statement.cast()),
        T_AlterTableStmt => locked_by_alter(&*statement.cast()),
        T_AlterObjectDependsStmt => locked_by_depends(&*statement.cast()),
        T_VacuumStmt => locked_by_vacuum(&*statement.cast()),
        _ => Vec::new(),
    }
}

/// Its foreign keys come here again, as an ALTER TABLE.
unsafe fn locked_by_create(create: &pg_sys::CreateStmt) -> Vec<Locked> {
    if create.partbound.is_null() {
        return Vec::new();
    }
    lists::pointers(create.inhRelations).map(|parent| (parent.cast(), Right::Ownership)).collect()
}

unsafe fn locked_by_alter(alter: &pg_sys::AlterTableStmt) -> Vec<Locked> {
    let mut locked = Vec::new();
    lists::pointers(alter.cmds).for_each(|command| add_locked(&*command.cast(), &mut locked));
    // Who owns a table of the ledger may detach its partitions, whoever owns those.
    let is_own = |relation| Object::Relation(relation).is_own();
    if !locked.is_empty() && of_ledger(alter.relation).is_some_and(is_own) {
        locked.clear();
    }
    locked
}

/// Adds what a part of an ALTER TABLE, or an ALTER INDEX, locks besides its own table.
unsafe fn add_locked(command: &pg_sys::AlterTableCmd, locked: &mut Vec<Locked>) {
    use pg_sys::AlterTableType as Kind;
    match command.subtype {
        Kind::AT_AttachPartition | Kind::AT_DetachPartition | Kind::AT_DetachPartitionFinalize => {
            locked.push(((*command.def.cast::<pg_sys::PartitionCmd>()).name, Right::Ownership));
        }
        Kind::AT_AddConstraint => locked.extend(referenced(command.def.cast())),
        Kind::AT_AddColumn => {
            let constraints = lists::pointers((*command.def.cast::<pg_sys::ColumnDef>()).constraints);
            locked.extend(constraints.filter_map(|constraint| referenced(constraint.cast())));
        }
        _ => {}
    }
}

/// The table that a foreign key refers to.
unsafe fn referenced(constraint: *mut pg_sys::Constraint) -> Option<Locked> {
    let is_foreign = (*constraint).contype == pg_sys::ConstrType::CONSTR_FOREIGN;
    is_foreign.then(|| ((*constraint).pktable, Right::References))
}

/// A table is locked before Postgres sees that it is no index, and no materialized view.
unsafe fn locked_by_depends(depends: &pg_sys::AlterObjectDependsStmt) -> Vec<Locked> {
    use pg_sys::ObjectType::*;
    match depends.objectType {
        OBJECT_INDEX | OBJECT_MATVIEW => vec![(depends.relation, Right::Ownership)],
        _ => Vec::new(),
    }
}

/// VACUUM FULL of a partitioned table looks whether the role may vacuum a partition only once it has the partition's
/// lock.
unsafe fn locked_by_vacuum(vacuum: &pg_sys::VacuumStmt) -> Vec<Locked> {
    let options = lists::pointers(vacuum.options).map(|option| option.cast::<pg_sys::DefElem>());
    // The last one counts.
    let full = options.filter(|option| CStr::from_ptr((**option).defname) == c"full").last();
    if !vacuum.is_vacuumcmd || !full.is_some_and(|full| pg_sys::defGetBoolean(full)) {
        return Vec::new();
    }
    let named = lists::pointers(vacuum.rels).map(|named| (*named.cast::<pg_sys::VacuumRelation>()).relation);
    let is_partitioned = |name: *mut pg_sys::RangeVar| {
        !name.is_null() && kind_of(relation::named(name)) == pg_sys::RELKIND_PARTITIONED_TABLE
    };
    named.filter(|name| is_partitioned(*name)).map(|name| (name, Right::Maintain)).collect()
}

/// The relation with this name, if it is one of the ledger.
unsafe fn of_ledger(name: *mut pg_sys::RangeVar) -> Option<pg_sys::Oid> {
    let relation = relation::named(name);
    let table = match kind_of(relation) {
        pg_sys::RELKIND_INDEX | pg_sys::RELKIND_PARTITIONED_INDEX => pg_sys::IndexGetRelation(relation, true),
        _ => relation,
    };
    is_of_ledger(table).then_some(relation)
}

fn kind_of(relation: pg_sys::Oid) -> u8 {
    // SAFETY: a catalog look-up inside a transaction; any oid may be asked for.
    unsafe { pg_sys::get_rel_relkind(relation) as u8 }
}

impl Right {
    fn is_granted(self, relation: pg_sys::Oid) -> bool {
        let (user, references) = (errorless::user(), pg_sys::ACL_REFERENCES);
        match self {
            Right::Ownership => Object::Relation(relation).is_own(),
            Right::Trigger => has_privilege(relation, user, pg_sys::ACL_TRIGGER),
            Right::References => {
                has_privilege(relation, user, references) || has_on_a_column(relation, user, references)
            }
            Right::Maintain => may_maintain(relation),
        }
    }
}

fn may_maintain(relation: pg_sys::Oid) -> bool {
    let database = Object::Database(database::own_oid());
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    if has_privilege(relation, errorless::user(), pg_sys::ACL_MAINTAIN) {
        return true;
    }
    Object::Relation(relation).is_own() || database.is_own()
}

/// With the message of Postgres.
fn refusal(relation: pg_sys::Oid, right: Right) -> Failure {
    let kind = match kind_of(relation) {
        pg_sys::RELKIND_VIEW => "view",
        pg_sys::RELKIND_INDEX | pg_sys::RELKIND_PARTITIONED_INDEX => "index",
        _ => "table",
    };
    let name = relation::bare_name(relation);
    let denied = format!("permission denied for {kind} {name}");
    let (message, privilege) = match right {
        Right::Ownership => (format!("must be owner of {kind} {name}"), ""),
        Right::Trigger => (denied, ", or to grant the privilege TRIGGER"),
        Right::References => (denied, ", or to grant the privilege REFERENCES"),
        Right::Maintain if cfg!(any(feature = "pg17", feature = "pg18")) => {
            (denied, ", or to grant the privilege MAINTAIN")
        }
        Right::Maintain => (format!("must be owner of {kind} {name}"), ""),
    };
    Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, message)
        .detail(format!(
            "The {kind} belongs to the ledger. The command would wait for a lock on it before it asks for this right, \
             and all who record, seal or verify would wait behind it."
        ))
        .hint(format!("Ask the owner of the {kind} to run the command{privilege}."))
}
