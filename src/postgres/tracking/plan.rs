//! What a session knows of a tracked table, so that nothing is looked up for a row: made once for each relation whose rows
//! are written, and thrown away when Postgres says that the relation has changed.

use super::baselines;
use super::columns::{self, json_string, Column, Columns};
use super::horizon::Horizon;
use super::kinds;
use super::options::{tracked_root, Coverage, Options};
use super::primary_key;
use super::shape::Shape;
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
    /// What metadata says of the table, as JSON: its name, its id, the shape.
    pub names: [(Member, String); 3],
    /// Columns of the primary key, in the order of their numbers in the tracked table: those of a partition may differ.
    pub key: Columns,
    /// All columns that are covered, those of the key among them.
    pub columns: Columns,
    pub shape: Shape,
    /// A column that the options name, and the table does not have any more, or not as one that is stored.
    pub unknown_column: Option<UnknownColumn>,
    /// The tracked table.
    pub root: pg_sys::Oid,
    /// The relation is a partition of the tracked table.
    pub is_partition: bool,
    /// While rows from before it was tracked are being recorded: what tells them from others.
    pub baseline_horizon: Option<Horizon>,
}

pub struct UnknownColumn {
    pub name: String,
    /// There is another one of this name.
    pub is_another: bool,
}

thread_local! {
    static PLANS: RefCell<HashMap<pg_sys::Oid, Rc<Plan>>> = RefCell::new(HashMap::new());
    static IS_LISTENING: Cell<bool> = const { Cell::new(false) };
    /// A relation changed while the plans could not be touched.
    static ALL_STALE: Cell<bool> = const { Cell::new(false) };
}

/// The plan for rows of this relation, which is tracked with these options.
pub fn of(table: &Table, options: impl FnOnce() -> Result<Options, Failure>) -> Result<Rc<Plan>, Failure> {
    if ALL_STALE.take() {
        forget_all();
    }
    let oid = relation::oid(table);
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&oid).cloned()) {
        return Ok(plan);
    }
    listen();
    let plan = Rc::new(Plan::make(table, options()?)?);
    PLANS.with_borrow_mut(|plans| plans.insert(oid, plan.clone()));
    Ok(plan)
}

/// Forgets all plans: also those that rely on a shape whose transaction has been rolled back.
pub fn forget_all() {
    PLANS.with(|plans| match plans.try_borrow_mut() {
        Ok(mut plans) => plans.clear(),
        Err(_) => ALL_STALE.set(true),
    });
}

fn listen() {
    if !IS_LISTENING.replace(true) {
        let schemas = pg_sys::SysCacheIdentifier::NAMESPACEOID as i32;
        // SAFETY: registered once a process.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(forget), pg_sys::Datum::null());
            pg_sys::CacheRegisterSyscacheCallback(schemas, Some(forget_names), pg_sys::Datum::null());
        }
    }
}

/// A schema has been renamed, perhaps: of that its tables are told nothing.
#[pg_guard]
unsafe extern "C-unwind" fn forget_names(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    forget_all();
}

#[pg_guard]
unsafe extern "C-unwind" fn forget(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid {
        return forget_all();
    }
    PLANS.with(|plans| match plans.try_borrow_mut() {
        // A partition's plan has the name and the columns of its table.
        Ok(mut plans) => plans.retain(|oid, plan| *oid != relation && plan.root != relation),
        Err(_) => ALL_STALE.set(true),
    });
}

impl Plan {
    fn make(table: &Table, options: Options) -> Result<Plan, Failure> {
        kinds::check_heap(table)?;
        let root = tracked_root(table, &options);
        let root = root.as_ref().unwrap_or(table);
        refuse_copy(root, &options)?;
        let key_names = primary_key::key_of(table)?;
        let live = relation::live_columns(table);
        let memory = Rc::default();
        let encode = |column: &TableColumn| Column::new(&column.name, column.position(), column.type_oid, &memory);
        let of_root = relation::live_columns(root);
        let key_order = of_root.iter().filter(|column| key_names.contains(&column.name));
        let in_table = |column: &TableColumn| live.iter().find(|own| own.name == column.name);
        let key = Columns::new(key_order.filter_map(in_table).map(encode).collect::<Result<_, _>>()?);
        let covered = |column: &&TableColumn| is_covered(&options.coverage, &key_names, column);
        let columns = Columns::new(live.iter().filter(covered).map(encode).collect::<Result<_, _>>()?);
        let unknown_column = unknown_column(&options, root, &of_root);
        let shape = Shape::of(of_root.into_iter().filter(|column| covered(&column)))?;
        let baseline_horizon = baselines::pending_horizon(table, &options.table_id);
        let name = relation::qualified_name(root);
        let root = relation::oid(root);
        let is_partition = root != relation::oid(table);
        let names = [
            (Member::Table, json_string(&name)),
            (Member::TableId, json_string(&options.table_id)),
            (Member::Shape, json_string(&shape.id)),
        ];
        let table = name;
        Ok(Plan { options, table, names, key, columns, shape, unknown_column, root, is_partition, baseline_horizon })
    }
}

impl Plan {
    /// A row of the relation, as canonical JSON.
    pub fn image(&self, row: &Row) -> Result<String, Failure> {
        columns::object_of(&self.columns, row, || {
            let key = columns::object(&self.key, row).map_or("a row".to_owned(), |key| format!("row {key}"));
            format!("{key} of table {}", self.table)
        })
    }
}

/// What is written to a copy would be recorded of the table it is a copy of, and what is recorded of that, asked of the copy.
fn refuse_copy(table: &Table, options: &Options) -> Result<(), Failure> {
    let Some(original) = options.copied_from(table) else { return Ok(()) };
    let (name, call) = (relation::qualified_name(table), options.call(&relation::qualified_name(table)));
    let literal = relation::name_literal(table);
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("table {name} is a copy of tracked table {original}"),
    )
    .detail(
        "It was restored with the triggers of that one, and so with the id by which the ledger knows the rows there.",
    )
    .hint(format!(
        "{call} has it recorded as a table of its own; SELECT ledger.untrack({literal}) lets it go unrecorded."
    )))
}

/// The first of the columns that the options name which is not there, or is not the one that had this name when they were given: who
/// exchanges the names of two columns would have the one recorded in the place of the other.
fn unknown_column(options: &Options, table: &Table, live: &[TableColumn]) -> Option<UnknownColumn> {
    let is_only = matches!(options.coverage, Coverage::Only(_));
    let numbers = options.named_columns_of(table).unwrap_or_default();
    options.coverage.named().iter().enumerate().find_map(|(at, name)| {
        let now = live.iter().find(|column| column.name == *name && !(is_only && column.is_virtual));
        let is_another = now.is_some_and(|now| numbers.get(at).is_some_and(|number| *number != now.number));
        (now.is_none() || is_another).then(|| UnknownColumn { name: name.clone(), is_another })
    })
}

/// Columns that are computed when they are read are not stored.
fn is_covered(coverage: &Coverage, key: &[String], column: &TableColumn) -> bool {
    !column.is_virtual && (coverage.covers(&column.name) || key.contains(&column.name))
}
