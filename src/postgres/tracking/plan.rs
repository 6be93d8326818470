//! The plan of a tracked table: what a session knows about it, so that recording a row needs no look-up. It is made
//! once for each relation whose rows are written, and dropped when Postgres reports that the relation has changed.

use super::baseline_table;
use super::columns::{self, Column, Columns};
use super::copies;
use super::horizon::Horizon;
use super::older_shape::OlderShapes;
use super::options::{tracked_root, Coverage, Options};
use super::primary_key;
use super::shape::Shape;
use super::trackable;
use crate::ledger::canonical_json;
use crate::ledger::metadata::Member;
use crate::postgres::errors::Failure;
use crate::postgres::relation::{self, TableColumn};
use crate::postgres::tables::{Row, Table};
use pgrx::{pg_guard, pg_sys, PgSqlErrorCode};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// A relation whose rows are recorded: the tracked table itself, or one of its partitions.
pub struct Plan {
    pub options: Options,
    /// The tracked table's name, qualified and quoted.
    pub table: String,
    /// What metadata says of the table, as JSON: its name, its id, its shape.
    pub names: [(Member, String); 3],
    /// Columns of the primary key, in the order of their numbers in the tracked table when it was first tracked: a
    /// partition, and a table that was restored, may have other numbers.
    pub key: Columns,
    /// All covered columns, those of the key included.
    pub columns: Columns,
    pub shape: Shape,
    /// Shapes that the table had before, as far as entries about rows of this relation were met that have them.
    pub older: OlderShapes,
    /// A column that the options name, but that the table does not have any more, or does not store.
    pub unknown_column: Option<UnknownColumn>,
    /// The tracked table.
    pub root: pg_sys::Oid,
    /// The relation is a partition of the tracked table.
    pub is_partition: bool,
    /// Set while the baseline is being recorded: tells rows from before the table was tracked from later ones.
    pub baseline_horizon: Option<Horizon>,
}

pub struct UnknownColumn {
    pub name: String,
    /// The table has another column of this name.
    pub is_another: bool,
}

thread_local! {
    static PLANS: RefCell<HashMap<pg_sys::Oid, Rc<Plan>>> = RefCell::new(HashMap::new());
    static IS_LISTENING: Cell<bool> = const { Cell::new(false) };
    /// A relation changed while PLANS was borrowed: they are dropped when a plan is asked for next.
    static ALL_STALE: Cell<bool> = const { Cell::new(false) };
    /// How often plans were dropped, or would have been if there had been any.
    static CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// The plan for rows of this relation. `options`, which gives what it is tracked with, is called only to make a new
/// plan.
pub fn of(table: &Table, options: impl FnOnce() -> Result<Options, Failure>) -> Result<Rc<Plan>, Failure> {
    if ALL_STALE.take() {
        forget_all();
    }
    let oid = relation::oid(table);
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&oid).cloned()) {
        return Ok(plan);
    }
    listen();
    let changes = CHANGES.get();
    let plan = Rc::new(Plan::make(table, options()?)?);
    // What was reported meanwhile found no plan to drop, although this one may rely on what has changed. It is good for
    // the present use: the caller's lock keeps the table as it is, and what else has changed, such as a schema's name,
    // may be seen as it was until the next command.
    if CHANGES.get() == changes {
        PLANS.with_borrow_mut(|plans| plans.insert(oid, plan.clone()));
    }
    Ok(plan)
}

/// Drops all plans, also those that rely on a shape whose transaction was rolled back.
pub fn forget_all() {
    note_change();
    PLANS.with(|plans| match plans.try_borrow_mut() {
        Ok(mut plans) => plans.clear(),
        Err(_) => ALL_STALE.set(true),
    });
}

fn note_change() {
    CHANGES.set(CHANGES.get().wrapping_add(1));
}

fn listen() {
    if !IS_LISTENING.replace(true) {
        let schemas = pg_sys::SysCacheIdentifier::NAMESPACEOID as i32;
        // SAFETY: registered once per process, with functions that are never unloaded.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(forget), pg_sys::Datum::null());
            pg_sys::CacheRegisterSyscacheCallback(schemas, Some(forget_names), pg_sys::Datum::null());
        }
    }
}

/// A schema may have been renamed. Plans hold its name, and Postgres reports nothing about the tables in it.
///
/// # Safety
/// Called by Postgres, as registered in listen().
#[pg_guard]
unsafe extern "C-unwind" fn forget_names(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    forget_all();
}

/// A relation (InvalidOid: any) has changed.
///
/// # Safety
/// Called by Postgres, as registered in listen().
#[pg_guard]
unsafe extern "C-unwind" fn forget(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid {
        return forget_all();
    }
    note_change();
    PLANS.with(|plans| match plans.try_borrow_mut() {
        // A partition's plan holds the name and the columns of its table, so it goes when that changes.
        Ok(mut plans) => plans.retain(|oid, plan| *oid != relation && plan.root != relation),
        Err(_) => ALL_STALE.set(true),
    });
}

impl Plan {
    fn make(table: &Table, options: Options) -> Result<Plan, Failure> {
        trackable::check_heap(table)?;
        let root = tracked_root(table, &options);
        let root = root.as_ref().unwrap_or(table);
        // Not for each partition: it is the same for all of them.
        if !is_known(root, &options) {
            refuse_copy(root, &options)?;
        }
        let key_names = primary_key::key_of(table)?;
        let live = relation::live_columns(table);
        let memory = Rc::default();
        let encode = |column: &TableColumn| Column::new(&column.name, column.position(), column.type_oid, &memory);
        let of_root = relation::live_columns(root);
        let key_order = options.key_columns(root, &of_root, &key_names).into_iter();
        let in_table = |column: &TableColumn| live.iter().find(|own| own.name == column.name);
        let key = Columns::new(key_order.filter_map(in_table).map(encode).collect::<Result<_, _>>()?);
        let covered = |column: &&TableColumn| is_covered(&options.coverage, &key_names, column);
        let columns = Columns::new(live.iter().filter(covered).map(encode).collect::<Result<_, _>>()?);
        let unknown_column = unknown_column(&options, root, &of_root);
        let shape = Shape::of(of_root.into_iter().filter(|column| covered(&column)))?;
        let name = root.qualified_name();
        Ok(Plan {
            names: [
                (Member::Table, canonical_json::string(&name)),
                (Member::TableId, canonical_json::string(&options.table_id)),
                (Member::Shape, canonical_json::string(&shape.id)),
            ],
            table: name,
            key,
            columns,
            shape,
            older: OlderShapes::default(),
            unknown_column,
            root: relation::oid(root),
            is_partition: relation::oid(root) != relation::oid(table),
            baseline_horizon: baseline_table::pending_horizon(table, &options.table_id),
            options,
        })
    }

    /// A row of the relation, as canonical JSON.
    pub fn image(&self, row: &Row) -> Result<String, Failure> {
        columns::object_of(&self.columns, row, || {
            let key = columns::object(&self.key, row).map_or("a row".to_owned(), |key| format!("row {key}"));
            format!("{key} of table {}", self.table)
        })
    }
}

/// Whether there is a plan already of this table or of one of its partitions.
fn is_known(root: &Table, options: &Options) -> bool {
    let is_of_root = |plan: &Rc<Plan>| plan.root == relation::oid(root) && plan.options.table_id == options.table_id;
    PLANS.with_borrow(|plans| plans.values().any(is_of_root))
}

/// Refuses a copy of a tracked table. Changes of the copy would be recorded as changes of the original, and the ledger
/// would be asked about rows of the original when it is asked about the copy.
fn refuse_copy(table: &Table, options: &Options) -> Result<(), Failure> {
    let Some(original) = copies::original_of(table, options) else {
        // This very transaction may have dropped the original.
        super::at_rollback_forget_plans();
        return Ok(());
    };
    let (name, call) = (table.qualified_name(), options.call(&table.qualified_name()));
    let literal = relation::name_literal(table);
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("table {name} is a copy of tracked table {original}"),
    )
    .detail(
        "It was restored with the triggers of that table, and so with the id by which the ledger identifies the rows \
         of that table.",
    )
    .hint(format!(
        "To track it as a table of its own: {call}. To leave it untracked: SELECT ledger.untrack({literal})."
    )))
}

/// The first column named in the options that does not exist, or is not the one that had this name when they were
/// given. Otherwise a user who exchanges the names of two columns would have one recorded in place of the other.
fn unknown_column(options: &Options, table: &Table, live: &[TableColumn]) -> Option<UnknownColumn> {
    let is_only = matches!(options.coverage, Coverage::Only(_));
    let numbers = options.named_columns_of(table).unwrap_or_default();
    options.coverage.named().iter().enumerate().find_map(|(at, name)| {
        let now = live.iter().find(|column| column.name == *name && !(is_only && column.is_virtual));
        let is_another = now.is_some_and(|now| numbers.get(at).is_some_and(|number| *number != now.number));
        (now.is_none() || is_another).then(|| UnknownColumn { name: name.clone(), is_another })
    })
}

/// Virtual columns are not covered: they are computed when they are read, and not stored.
fn is_covered(coverage: &Coverage, key: &[String], column: &TableColumn) -> bool {
    !column.is_virtual && (coverage.covers(&column.name) || key.contains(&column.name))
}
