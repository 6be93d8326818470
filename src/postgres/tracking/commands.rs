//! The hooks on commands that concern tracked tables and their partitions. Rows that a command brings are recorded
//! after it, and rows that it takes away before it. A command whose effect could not be recorded is refused.
//!
//! Locks are taken here as the command itself takes them, with the same strength and in the same order, only earlier:
//! two sessions that hold a weak lock and both wait for a stronger one deadlock. Before a table that a command names,
//! the tables that it is a partition of are locked, from the top down, as every session locks them that reaches a
//! partition through its table.
//!
//! # Safety
//! Every `unsafe fn` here takes the statement that Postgres passed to the ProcessUtility hook, or a part of it, and
//! runs inside a transaction.

use super::baseline_table;
use super::dropped;
use super::drops;
use super::manage;
use super::options::{self, tracked_root, Options};
use super::own_triggers;
use super::partitions::{record_all, Passage};
use super::primary_key;
use super::trackable;
use crate::postgres::errors::{or_raise, Failure};
use crate::postgres::lists;
use crate::postgres::ownership::Object;
use crate::postgres::quoting::literal;
use crate::postgres::relation;
use crate::postgres::roles::as_ledger_owner;
use crate::postgres::schema;
use crate::postgres::tables::Table;
use pgrx::{pg_guard, pg_sys, PgSqlErrorCode};

/// Whether the command can concern tracked tables, in a database that has the ledger. Guarded, because to look for the
/// ledger may wait for a lock on a catalog, and the wait may be cancelled.
///
/// # Safety
/// `statement` is the one that ProcessUtility was called with.
#[pg_guard]
pub unsafe extern "C-unwind" fn concerns(statement: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    let may = matches!(
        (*statement).type_,
        T_AlterTableStmt | T_CreateStmt | T_CreateForeignTableStmt | T_CreateTrigStmt | T_DropStmt | T_DropOwnedStmt
    );
    // In a read-only transaction the command itself raises the error.
    may && pg_sys::IsTransactionState() && !pg_sys::XactReadOnly && schema::find().is_some()
}

/// Records rows that the command takes away, while they are there. Returns what [`after_utility`] compares: the
/// [family] of a tracked table of which the command attaches or detaches a partition, or the tables of which it was
/// recorded that they are dropped.
///
/// [family]: family_of
///
/// # Safety
/// `statement` is the one that ProcessUtility was called with.
#[pg_guard]
pub unsafe extern "C-unwind" fn before_utility(statement: *mut pg_sys::Node) -> *mut pg_sys::List {
    if (*statement).type_ == pg_sys::NodeTag::T_AlterTableStmt {
        return or_raise(before_alter(&*statement.cast()));
    }
    let dropped = or_raise(match (*statement).type_ {
        pg_sys::NodeTag::T_CreateTrigStmt => own_triggers::check_replaced(&*statement.cast()).map(|()| Vec::new()),
        pg_sys::NodeTag::T_DropStmt => {
            dropped::begin();
            drops::before_drop(&*statement.cast())
        }
        pg_sys::NodeTag::T_DropOwnedStmt => {
            dropped::begin();
            drops::before_drop_owned(&*statement.cast())
        }
        _ => {
            let create = &*statement.cast::<pg_sys::CreateStmt>();
            if !create.partbound.is_null() {
                lists::pointers(create.inhRelations).for_each(|parent| lock_ancestors(parent.cast()));
            }
            Ok(Vec::new())
        }
    });
    list_of(dropped)
}

/// In Postgres' memory, because the hook's frame may hold nothing that has a destructor.
unsafe fn list_of(oids: impl IntoIterator<Item = pg_sys::Oid>) -> *mut pg_sys::List {
    oids.into_iter().fold(std::ptr::null_mut(), |list, oid| pg_sys::lappend_oid(list, oid))
}

/// Records rows that the command has brought, and tables that it has taken away without naming them. Gives new
/// partitions their triggers.
///
/// # Safety
/// `statement` is the one that ProcessUtility was called with, and `noted` what [`before_utility`] has returned.
#[pg_guard]
pub unsafe extern "C-unwind" fn after_utility(statement: *mut pg_sys::Node, noted: *mut pg_sys::List) {
    or_raise(match (*statement).type_ {
        pg_sys::NodeTag::T_AlterTableStmt => after_alter(noted),
        pg_sys::NodeTag::T_CreateTrigStmt => Ok(()),
        pg_sys::NodeTag::T_CreateStmt | pg_sys::NodeTag::T_CreateForeignTableStmt => {
            let create = &*statement.cast::<pg_sys::CreateStmt>();
            match create.partbound.is_null() {
                true => Ok(()),
                false => after_create(create),
            }
        }
        _ => drops::after_drop(lists::oids(noted)).and_then(|()| dropped::record()),
    });
}

/// The parts of an ALTER TABLE.
unsafe fn commands_of(alter: &pg_sys::AlterTableStmt) -> impl Iterator<Item = *mut pg_sys::AlterTableCmd> {
    let is_table = alter.objtype == pg_sys::ObjectType::OBJECT_TABLE;
    lists::pointers(if is_table { alter.cmds } else { std::ptr::null_mut() }).map(|command| command.cast())
}

/// The partition that such a part names.
unsafe fn partition_of(command: *mut pg_sys::AlterTableCmd) -> *mut pg_sys::RangeVar {
    (*(*command).def.cast::<pg_sys::PartitionCmd>()).name
}

/// Locks the tables that this one is a partition of, if the caller may change it.
unsafe fn lock_ancestors(name: *mut pg_sys::RangeVar) {
    let relation = relation::named(name);
    if relation != pg_sys::InvalidOid && Object::Relation(relation).is_own() {
        relation::ancestors_of(relation).into_iter().rev().for_each(|oid| relation::lock(oid, pg_sys::AccessShareLock));
    }
}

// ---- ALTER TABLE ----------------------------------------------------------------------------------------------------

unsafe fn before_alter(alter: &pg_sys::AlterTableStmt) -> Result<*mut pg_sys::List, Failure> {
    let mut family = std::ptr::null_mut();
    for command in commands_of(alter) {
        match (*command).subtype {
            pg_sys::AlterTableType::AT_AttachPartition => family = before_attach(alter, command)?,
            pg_sys::AlterTableType::AT_DetachPartition => family = before_detach(alter, command)?,
            _ => {
                check_storage(alter, command)?;
                check_baseline(alter, command)?;
            }
        }
    }
    Ok(family)
}

/// A table, the partition that the command has named, and all its partitions. What the command has attached or detached
/// is found by comparing them. The name that it gives may be that of another table by then: code that the command runs
/// may set another search_path, and others may create a table that is found first.
unsafe fn family_of(table: &Table, named: pg_sys::Oid) -> *mut pg_sys::List {
    list_of([relation::oid(table), named].into_iter().chain(relation::partitions(table)))
}

/// Takes care of what has come to the family, and what has left it.
unsafe fn after_alter(family: *mut pg_sys::List) -> Result<(), Failure> {
    let mut members = lists::oids(family);
    // An event trigger may have dropped it.
    let Some(parent) = members.next().filter(|parent| relation::lock_if_there(*parent)) else { return Ok(()) };
    let named = members.next();
    let before: Vec<pg_sys::Oid> = members.collect();
    let now = relation::partitions(&Table::open_oid(parent, pg_sys::NoLock));
    for oid in now.iter().filter(|oid| !before.contains(oid)) {
        match Some(*oid) == named {
            true => after_attach(*oid)?,
            // A command that an event trigger has run has taken care of it.
            false if options::has_truncate_trigger(&Table::open_oid(*oid, pg_sys::NoLock)) => {}
            false => return Err(exchanged(*oid)),
        }
    }
    let is_gone = |oid: &&pg_sys::Oid| !now.contains(oid) && relation::lock_if_there(**oid);
    for oid in before.iter().filter(is_gone) {
        if Some(*oid) != named {
            return Err(exchanged(*oid));
        }
        after_detach(*oid);
    }
    Ok(())
}

/// The command has taken another partition than the one that was looked at before it.
fn exchanged(partition: pg_sys::Oid) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
        "the name of the partition has become that of another table while the command ran",
    )
    .detail(format!(
        "It has then attached or detached {}, which had not been looked at.",
        relation::shown_name(partition)
    ))
    .hint("Repeat the command, and name the partition with its schema.")
}

/// The table of an ALTER TABLE, locked as the command does; an error if the caller may not change it.
unsafe fn target_of(alter: &pg_sys::AlterTableStmt, lock: u32) -> Option<Table> {
    lock_ancestors(alter.relation);
    let oid = pg_sys::AlterTableLookupRelation(std::ptr::from_ref(alter).cast_mut(), lock as pg_sys::LOCKMODE);
    if oid == pg_sys::InvalidOid {
        return None;
    }
    relation::is_table(oid).then(|| Table::open_oid(oid, pg_sys::NoLock))
}

unsafe fn before_attach(
    alter: &pg_sys::AlterTableStmt,
    command: *mut pg_sys::AlterTableCmd,
) -> Result<*mut pg_sys::List, Failure> {
    let tracked = |parent: &Table| Options::of(parent).is_some();
    let Some(parent) = target_of(alter, pg_sys::ShareUpdateExclusiveLock).filter(tracked) else {
        return Ok(std::ptr::null_mut());
    };
    let may_attach = |partition| Object::Relation(partition).is_own();
    let Some(partition) = lock_partition(&parent, partition_of(command), may_attach) else {
        return Ok(family_of(&parent, pg_sys::InvalidOid));
    };
    let family = family_of(&parent, partition);
    if !relation::is_table(partition) {
        return Ok(family);
    }
    let partition = Table::open_oid(partition, pg_sys::NoLock);
    trackable::check_partitions(&relation::tree(&partition, pg_sys::AccessExclusiveLock), || {
        let (partition, parent) = (partition.qualified_name(), parent.qualified_name());
        format!("cannot attach {partition} as a partition of tracked table {parent}")
    })?;
    Ok(family)
}

/// Locks the partition that the command names, if the command can concern it.
unsafe fn lock_partition(
    parent: &Table,
    name: *mut pg_sys::RangeVar,
    is_concerned: impl Fn(pg_sys::Oid) -> bool,
) -> Option<pg_sys::Oid> {
    let lock = |partition: &pg_sys::Oid| {
        lock_default(parent);
        relation::lock(*partition, pg_sys::AccessExclusiveLock);
    };
    relation::lock_by_name(|| relation::find_named(name), |partition| is_concerned(*partition), lock)
}

/// Locks the default partition, if there is one, because rows in it may belong to the new partition. The command locks
/// it before the partition that it names.
unsafe fn lock_default(parent: &Table) {
    if let Some(partition) = relation::default_partition(parent) {
        relation::lock(partition, pg_sys::AccessExclusiveLock);
    }
}

/// The command has attached this partition, and locked it.
unsafe fn after_attach(oid: pg_sys::Oid) -> Result<(), Failure> {
    let partition = Table::open_oid(oid, pg_sys::NoLock);
    let Some(options) = Options::of(&partition) else { return Ok(()) };
    if tracked_root(&partition, &options).is_none() {
        return Ok(());
    }
    drop(partition);
    as_ledger_owner(|| manage::make_truncate_triggers(oid, &options, pg_sys::AccessExclusiveLock));
    record_all(&Table::open_oid(oid, pg_sys::NoLock), &options, Passage::Arrival)
}

unsafe fn before_detach(
    alter: &pg_sys::AlterTableStmt,
    command: *mut pg_sys::AlterTableCmd,
) -> Result<*mut pg_sys::List, Failure> {
    let nothing = std::ptr::null_mut();
    let is_concurrent = (*(*command).def.cast::<pg_sys::PartitionCmd>()).concurrent;
    let lock_mode = if is_concurrent { pg_sys::ShareUpdateExclusiveLock } else { pg_sys::AccessExclusiveLock };
    let Some(parent) = target_of(alter, lock_mode) else { return Ok(nothing) };
    let Some(options) = Options::of(&parent) else { return Ok(nothing) };
    if is_concurrent {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot detach a partition of a tracked table concurrently",
        )
        .detail("The rows that leave the table are recorded in the transaction that detaches them.")
        .hint("Use ALTER TABLE ... DETACH PARTITION without CONCURRENTLY."));
    }
    // Who owns the partition does not matter: the owner of its table may detach it. Under the lock on the table, its
    // set of partitions does not change any more.
    let is_partition = |oid| relation::partitions(&parent).contains(&oid);
    let Some(partition) = lock_partition(&parent, partition_of(command), is_partition) else { return Ok(nothing) };
    let family = family_of(&parent, partition);
    let partition = Table::open_oid(partition, pg_sys::NoLock);
    let tree = relation::tree(&partition, pg_sys::AccessExclusiveLock);
    record_all(&partition, &options, Passage::Departure)?;
    // All rows have entries now. If the partition comes back, its rows have others, and are no rows from before.
    as_ledger_owner(|| tree.iter().for_each(|oid| baseline_table::forget_relation(&options.table_id, *oid)));
    Ok(family)
}

/// The command has detached this partition, and locked it.
unsafe fn after_detach(oid: pg_sys::Oid) {
    let partition = Table::open_oid(oid, pg_sys::NoLock);
    // drop_truncate_triggers() goes through the whole tree. If the partition was not tracked, its own partitions may be
    // tracked as tables of their own, and must keep their triggers.
    let was_tracked = options::has_truncate_trigger(&partition);
    if was_tracked && Options::of(&partition).is_none() {
        drop(partition);
        as_ledger_owner(|| manage::drop_truncate_triggers(oid));
    }
}

/// Refuses a change of storage after which the rows of a tracked table could not be recorded.
unsafe fn check_storage(alter: &pg_sys::AlterTableStmt, command: *mut pg_sys::AlterTableCmd) -> Result<(), Failure> {
    let is_unlogged = match (*command).subtype {
        pg_sys::AlterTableType::AT_SetUnLogged => true,
        #[cfg(not(feature = "pg14"))]
        pg_sys::AlterTableType::AT_SetAccessMethod if is_other_method((*command).name) => false,
        _ => return Ok(()),
    };
    let Some(table) = target_of(alter, pg_sys::AccessExclusiveLock) else { return Ok(()) };
    // A partitioned table has no rows: its access method is only what new partitions get, and those are checked when
    // they come.
    let has_rows = is_unlogged || !table.is_partitioned();
    if Options::of(&table).is_none() || !has_rows {
        return Ok(());
    }
    let name = table.qualified_name();
    let (message, detail) = match is_unlogged {
        true => (
            format!("cannot make tracked table {name} unlogged"),
            "A crash would then empty the table, while the ledger keeps what was recorded, so every row would be reported missing.",
        ),
        false => (
            format!("cannot change the access method of tracked table {name}"),
            "The rows of a tracked table can only be read if its access method is heap.",
        ),
    };
    // The hint names the tracked table: a partition is tracked for as long as its table is.
    let tracked = primary_key::tracked_name(&table).unwrap_or(name);
    Err(Failure::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message)
        .detail(detail)
        .hint(format!("To stop tracking the table instead: SELECT ledger.untrack({}).", literal(&tracked))))
}

/// Refuses what would let the table's owner change rows before the worker has recorded what was there: the change would
/// be recorded as what was there when tracking began.
unsafe fn check_baseline(alter: &pg_sys::AlterTableStmt, command: *mut pg_sys::AlterTableCmd) -> Result<(), Failure> {
    let what = match (*command).subtype {
        pg_sys::AlterTableType::AT_EnableTrig
        | pg_sys::AlterTableType::AT_EnableTrigAll
        | pg_sys::AlterTableType::AT_EnableTrigUser
        | pg_sys::AlterTableType::AT_EnableReplicaTrig
        | pg_sys::AlterTableType::AT_DisableTrig
        | pg_sys::AlterTableType::AT_DisableTrigAll
        | pg_sys::AlterTableType::AT_DisableTrigUser => "enable or disable triggers",
        pg_sys::AlterTableType::AT_AlterColumnType if has_using(command) => "change the values of a column",
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        pg_sys::AlterTableType::AT_SetExpression => "change the values of a column",
        _ => return Ok(()),
    };
    let lock = pg_sys::AlterTableGetLockLevel(alter.cmds);
    let Some(table) = target_of(alter, lock as u32) else { return Ok(()) };
    let mut complete = None;
    for oid in changed_with(&table, alter, command, lock) {
        let table = Table::open_oid(oid, pg_sys::NoLock);
        let Some(options) = Options::of(&table) else { continue };
        // The partitions of a tracked table all have its id.
        if complete.as_ref() == Some(&options.table_id) {
            continue;
        }
        if baseline_table::progress_of(&options.table_id).is_some() {
            return Err(before_its_baseline(&table, what));
        }
        complete = Some(options.table_id);
    }
    Ok(())
}

/// The tables that such a part changes, locked as the command does: a column's values also change in tables that
/// inherit the column, unless the command is for its table `ONLY`.
unsafe fn changed_with(
    table: &Table,
    alter: &pg_sys::AlterTableStmt,
    command: *mut pg_sys::AlterTableCmd,
    lock: pg_sys::LOCKMODE,
) -> Vec<pg_sys::Oid> {
    let own = relation::oid(table);
    let is_of_column = !(*command).def.is_null();
    match (*alter.relation).inh && (is_of_column || table.is_partitioned()) {
        true => relation::with_heirs(own, lock),
        false => vec![own],
    }
}

fn before_its_baseline(table: &Table, what: &str) -> Failure {
    let name = table.qualified_name();
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("cannot {what} of table {name} while the rows that it had are still being recorded"),
    )
    .detail("What is changed now would be recorded as what was there when tracking began.")
    .hint("Wait until view ledger.tracked_tables shows the state \"tracked\".")
}

/// Whether ALTER COLUMN ... TYPE says how the values are made.
unsafe fn has_using(command: *mut pg_sys::AlterTableCmd) -> bool {
    !(*(*command).def.cast::<pg_sys::ColumnDef>()).raw_default.is_null()
}

/// Whether the access method with this name (null: the default one) is not heap.
#[cfg(not(feature = "pg14"))]
unsafe fn is_other_method(name: *const std::ffi::c_char) -> bool {
    let name = if name.is_null() { pg_sys::default_table_access_method } else { name };
    let method = pg_sys::get_table_am_oid(name, true);
    method != pg_sys::InvalidOid && method != pg_sys::HEAP_TABLE_AM_OID
}

// ---- CREATE TABLE ... PARTITION OF ----------------------------------------------------------------------------------

unsafe fn after_create(create: &pg_sys::CreateStmt) -> Result<(), Failure> {
    // Looked up in the schema that it was created in: by name alone a temporary table would be found first.
    let schema = pg_sys::RangeVarGetCreationNamespace(create.relation);
    let oid = pg_sys::get_relname_relid((*create.relation).relname, schema);
    if oid == pg_sys::InvalidOid {
        return Ok(());
    }
    // With IF NOT EXISTS, it may be something else that has this name.
    if !relation::is_table(oid) {
        return Ok(());
    }
    let partition = Table::open_oid(oid, pg_sys::AccessShareLock);
    let Some(options) = Options::of(&partition) else { return Ok(()) };
    let root = tracked_root(&partition, &options);
    // With IF NOT EXISTS the partition may have existed before, and have its trigger.
    let (Some(root), false) = (root, options::has_truncate_trigger(&partition)) else { return Ok(()) };
    trackable::check_partitions(&[oid], || {
        let (partition, root) = (partition.qualified_name(), root.qualified_name());
        format!("cannot create {partition} as a partition of tracked table {root}")
    })
    .map_err(|failure| match hint_to_create(&partition) {
        Some(hint) => failure.hint(hint),
        None => failure,
    })?;
    drop(partition);
    as_ledger_owner(|| manage::make_truncate_triggers(oid, &options, pg_sys::ShareRowExclusiveLock));
    Ok(())
}

/// How to create a partition whose rows could be recorded. The usual hints are about tables that are there already.
/// Nobody may have asked for the access method: it can be that of default_table_access_method.
fn hint_to_create(partition: &Table) -> Option<&'static str> {
    match (trackable::is_unlogged(partition), partition.is_plain() && !partition.is_heap()) {
        (true, _) => Some("Create it without UNLOGGED."),
        (_, true) => Some("Create it USING heap."),
        _ => None,
    }
}
