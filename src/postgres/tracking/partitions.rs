//! Rows that come and go with a partition, without any statement that names them: ATTACH, DETACH, DROP and TRUNCATE of a
//! partition. They are recorded one by one, as they would be if they were inserted or deleted: an entry for the whole would
//! say nothing of a row.

use super::manage;
use super::options::Options;
use super::plan::{self, Plan};
use super::record;
use super::relation;
use crate::postgres::errors::{or_raise, Failure};
use crate::postgres::roles::as_ledger_owner;
use crate::postgres::schema;
use crate::postgres::spi;
use crate::postgres::tables::{LatestSnapshot, Row, Table, TableScan};
use pgrx::{check_for_interrupts, pg_guard, pg_sys, PgMemoryContexts, PgSqlErrorCode};
use std::cell::RefCell;

thread_local! {
    /// The table that was truncated as a whole, and by which command: its partitions' triggers come after.
    static TRUNCATED: RefCell<Option<(String, u64, pg_sys::CommandId)>> = const { RefCell::new(None) };
}

fn command(plan: &Plan) -> (String, u64, pg_sys::CommandId) {
    // SAFETY: inside a transaction that writes.
    let (transaction, command) =
        unsafe { (pg_sys::GetTopFullTransactionId().value, pg_sys::GetCurrentCommandId(false)) };
    (plan.options.table_id.clone(), transaction, command)
}

pub fn note_truncated(plan: &Plan) {
    let command = command(plan);
    TRUNCATED.with_borrow_mut(|truncated| *truncated = Some(command));
}

/// A partition is truncated: with its table, which says it all, or alone.
pub fn record_truncate(plan: &Plan, partition: Table) -> Result<(), Failure> {
    let command = command(plan);
    if TRUNCATED.with_borrow(|truncated| truncated.as_ref() == Some(&command)) {
        return Ok(());
    }
    // One that has partitions itself is truncated by way of them.
    // SAFETY: the relation is open.
    if unsafe { (*(*partition.relation()).rd_rel).relkind } as u8 == pg_sys::RELKIND_PARTITIONED_TABLE {
        return Ok(());
    }
    record_all(&partition, &plan.options, Passage::Departure)
}

/// What happens to the rows of a partition.
#[derive(Clone, Copy)]
enum Passage {
    Arrival,
    Departure,
}

impl Passage {
    /// # Safety
    /// The header of the row's version.
    unsafe fn record(self, plan: &Plan, row: &Row, header: pg_sys::HeapTupleHeader) -> Result<(), Failure> {
        match self {
            Passage::Arrival => record::record_arrival(plan, row),
            Passage::Departure => record::record_departure(plan, row, plan.precedes_baseline(header)),
        }
    }
}

/// Records every row of a partition, and of its partitions.
fn record_all(partition: &Table, options: &Options, what: Passage) -> Result<(), Failure> {
    for leaf in relation::leaves(Table::open_oid(relation::oid(partition), pg_sys::NoLock)) {
        let plan = plan::of(&leaf, || Ok(options.clone()))?;
        let mut context = PgMemoryContexts::new("pg_notary partition");
        let snapshot = LatestSnapshot::take();
        let mut scan = TableScan::start(&leaf, &snapshot, 0);
        while let Some(tuple) = scan.next() {
            check_for_interrupts!();
            // SAFETY: the scan's tuple is good until the next; nothing allocated for a row is used after it.
            unsafe {
                context.switch_to(|_| what.record(&plan, &leaf.deform(tuple), (*tuple).t_data))?;
                context.reset();
            }
        }
    }
    Ok(())
}

// ---- commands -----------------------------------------------------------------------------------------------------------

/// Whether the command can concern partitions of a tracked table, in a database that has the ledger.
///
/// # Safety
/// A statement that ProcessUtility was called with.
pub unsafe fn concerns(statement: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag::{T_AlterTableStmt, T_CreateStmt, T_DropStmt};
    matches!((*statement).type_, T_AlterTableStmt | T_CreateStmt | T_DropStmt)
        && pg_sys::IsTransactionState()
        && schema::find().is_some()
}

/// Records rows that the command takes away, while they are there.
///
/// # Safety
/// A statement that ProcessUtility was called with.
#[pg_guard]
pub unsafe extern "C-unwind" fn before_utility(statement: *mut pg_sys::Node) {
    match (*statement).type_ {
        pg_sys::NodeTag::T_AlterTableStmt => {
            let alter = &*statement.cast::<pg_sys::AlterTableStmt>();
            for (command, partition) in partition_commands(alter) {
                if (*command).subtype == pg_sys::AlterTableType::AT_DetachPartition {
                    or_raise(before_detach(alter, partition));
                }
            }
        }
        pg_sys::NodeTag::T_DropStmt => {
            let drop = &*statement.cast::<pg_sys::DropStmt>();
            let objects = list_of(drop.objects);
            match drop.removeType {
                pg_sys::ObjectType::OBJECT_TABLE => objects.for_each(|names| or_raise(before_drop(names.cast()))),
                pg_sys::ObjectType::OBJECT_SCHEMA => objects.for_each(|name| or_raise(before_schema_drop(name.cast()))),
                _ => {}
            }
        }
        _ => {}
    }
}

/// Records rows that the command has brought, and has new partitions watched.
///
/// # Safety
/// As [`before_utility`].
#[pg_guard]
pub unsafe extern "C-unwind" fn after_utility(statement: *mut pg_sys::Node) {
    match (*statement).type_ {
        pg_sys::NodeTag::T_AlterTableStmt => {
            let alter = &*statement.cast::<pg_sys::AlterTableStmt>();
            for (command, partition) in partition_commands(alter) {
                match (*command).subtype == pg_sys::AlterTableType::AT_AttachPartition {
                    true => or_raise(after_attach(partition, true)),
                    false => or_raise(after_detach(partition)),
                }
            }
        }
        pg_sys::NodeTag::T_CreateStmt => {
            let create = &*statement.cast::<pg_sys::CreateStmt>();
            if !create.partbound.is_null() {
                or_raise(after_attach(create.relation, false));
            }
        }
        _ => {}
    }
}

unsafe fn list_of(list: *mut pg_sys::List) -> impl Iterator<Item = *mut std::ffi::c_void> {
    let length = if list.is_null() { 0 } else { (*list).length as usize };
    (0..length).map(move |at| (*(*list).elements.add(at)).ptr_value)
}

/// The parts of ALTER TABLE that concern a partition, with its name.
unsafe fn partition_commands(
    alter: &pg_sys::AlterTableStmt,
) -> impl Iterator<Item = (*mut pg_sys::AlterTableCmd, *mut pg_sys::RangeVar)> {
    let is_table = alter.objtype == pg_sys::ObjectType::OBJECT_TABLE;
    let commands = list_of(if is_table { alter.cmds } else { std::ptr::null_mut() });
    commands.map(|command| command.cast::<pg_sys::AlterTableCmd>()).filter_map(|command| {
        let kinds = [pg_sys::AlterTableType::AT_AttachPartition, pg_sys::AlterTableType::AT_DetachPartition];
        let concerns = kinds.contains(&(*command).subtype);
        let definition = (*command).def.cast::<pg_sys::PartitionCmd>();
        concerns.then(|| (command, (*definition).name))
    })
}

/// The table with this name, locked, if the caller may change it.
unsafe fn own_table(name: *mut pg_sys::RangeVar, lock: u32) -> Option<Table> {
    let oid = pg_sys::RangeVarGetRelidExtended(
        name,
        pg_sys::NoLock as pg_sys::LOCKMODE,
        pg_sys::RVROption::RVR_MISSING_OK,
        None,
        std::ptr::null_mut(),
    );
    if oid == pg_sys::InvalidOid || !manage::owns(oid, pg_sys::GetUserId()) {
        // The command itself says what is wrong.
        return None;
    }
    pg_sys::LockRelationOid(oid, lock as pg_sys::LOCKMODE);
    let relation = pg_sys::try_relation_open(oid, pg_sys::NoLock as pg_sys::LOCKMODE);
    if relation.is_null() {
        return None;
    }
    let kind = (*(*relation).rd_rel).relkind as u8;
    pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
    let is_table = matches!(kind, pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE);
    is_table.then(|| Table::open_oid(oid, pg_sys::NoLock))
}

unsafe fn before_detach(alter: &pg_sys::AlterTableStmt, partition: *mut pg_sys::RangeVar) -> Result<(), Failure> {
    let parent = own_table(alter.relation, pg_sys::AccessShareLock);
    let Some(options) = parent.as_ref().and_then(|parent| Options::of_relation(parent.relation())) else {
        return Ok(());
    };
    let command = list_of(alter.cmds).next().map(|command| command.cast::<pg_sys::AlterTableCmd>());
    let definition = command.map(|command| (*command).def.cast::<pg_sys::PartitionCmd>());
    if definition.is_some_and(|definition| (*definition).concurrent) {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            "cannot detach a partition of a tracked table concurrently",
        )
        .detail("The rows that leave the table are recorded in the transaction that detaches them.")
        .hint("Use ALTER TABLE ... DETACH PARTITION without CONCURRENTLY."));
    }
    // The lock that detaching takes: nobody writes between the record and the end.
    match own_table(partition, pg_sys::AccessExclusiveLock) {
        Some(partition) if is_partition_of(&partition, &options) => {
            record_all(&partition, &options, Passage::Departure)
        }
        _ => Ok(()),
    }
}

unsafe fn before_drop(names: *mut pg_sys::List) -> Result<(), Failure> {
    let name = pg_sys::makeRangeVarFromNameList(names);
    let Some(partition) = own_table(name, pg_sys::AccessShareLock) else { return Ok(()) };
    let Some(options) = Options::of_relation(partition.relation()) else { return Ok(()) };
    pg_sys::LockRelationOid(relation::oid(&partition), pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE);
    match is_partition_of(&partition, &options) {
        true => record_all(&partition, &options, Passage::Departure),
        false => manage::note_dropped(&partition, &options),
    }
}

/// Tracked tables go with their schema. Whether they do, the command itself decides.
unsafe fn before_schema_drop(name: *mut pg_sys::Node) -> Result<(), Failure> {
    let schema = pg_sys::get_namespace_oid(schema_name(name), true);
    // Who may not gets no lock either: the command itself says what is wrong.
    if schema == pg_sys::InvalidOid || !owns_schema(schema, pg_sys::GetUserId()) {
        return Ok(());
    }
    let mut tracked: Vec<pg_sys::Oid> = Vec::new();
    let take = |row: &Row| tracked.extend(row.get::<pg_sys::Oid>(0));
    as_ledger_owner(|| spi::for_each("SELECT table_name::pg_catalog.oid FROM ledger.tracked_tables", &[], take));
    tracked.retain(|oid| pg_sys::get_rel_namespace(*oid) == schema);
    for oid in tracked {
        let table = Table::open_oid(oid, pg_sys::AccessExclusiveLock);
        if let Some(options) = Options::of_relation(table.relation()) {
            manage::note_dropped(&table, &options)?;
        }
    }
    Ok(())
}

/// # Safety
/// Inside a transaction.
unsafe fn owns_schema(schema: pg_sys::Oid, user: pg_sys::Oid) -> bool {
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    return pg_sys::pg_namespace_ownercheck(schema, user);
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    return pg_sys::object_ownercheck(pg_sys::NamespaceRelationId, schema, user);
}

/// # Safety
/// A node of type String.
unsafe fn schema_name(name: *mut pg_sys::Node) -> *const std::ffi::c_char {
    #[cfg(feature = "pg14")]
    return (*name.cast::<pg_sys::Value>()).val.str_;
    #[cfg(not(feature = "pg14"))]
    return (*name.cast::<pg_sys::String>()).sval;
}

/// Whether the table's rows are recorded as those of another one.
unsafe fn is_partition_of(partition: &Table, options: &Options) -> bool {
    relation::ancestors(partition).into_iter().any(|oid| {
        let ancestor = Table::open_oid(oid, pg_sys::AccessShareLock);
        Options::of_relation(ancestor.relation()).is_some_and(|other| other.table_id == options.table_id)
    })
}

unsafe fn after_attach(partition: *mut pg_sys::RangeVar, has_rows: bool) -> Result<(), Failure> {
    let Some(partition) = own_table(partition, pg_sys::AccessShareLock) else { return Ok(()) };
    let Some(options) = Options::of_relation(partition.relation()) else { return Ok(()) };
    if !is_partition_of(&partition, &options) {
        return Ok(());
    }
    let oid = relation::oid(&partition);
    drop(partition);
    as_ledger_owner(|| manage::make_truncate_triggers(oid, &options));
    let partition = Table::open_oid(oid, pg_sys::NoLock);
    match has_rows {
        true => record_all(&partition, &options, Passage::Arrival),
        false => Ok(()),
    }
}

unsafe fn after_detach(partition: *mut pg_sys::RangeVar) -> Result<(), Failure> {
    let Some(partition) = own_table(partition, pg_sys::AccessShareLock) else { return Ok(()) };
    let is_tracked = Options::of_relation(partition.relation()).is_some();
    let oid = relation::oid(&partition);
    drop(partition);
    if !is_tracked {
        as_ledger_owner(|| manage::drop_truncate_triggers(oid));
    }
    Ok(())
}
