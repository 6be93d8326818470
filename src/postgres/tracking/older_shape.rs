//! Shapes that a table had before: what their columns are in it now.

use super::columns::{Column, Columns};
use super::finding::{quoted_columns, Finding, RowProblemKind};
use super::options::Options;
use super::shape::Shape;
use crate::ledger::row_shape::{exchanged, ShapeColumn};
use crate::postgres::errors::Failure;
use crate::postgres::relation::{self, TableColumn};
use crate::postgres::tables::Table;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// An older shape, or why rows cannot be compared with entries of it.
type Known = Result<Rc<OlderShape>, Finding>;

/// The older shapes that a session has met in entries about the rows of a relation. They belong to its plan, as what is
/// known of each depends on the columns that the relation and its table have now.
#[derive(Default)]
pub struct OlderShapes(RefCell<HashMap<String, Known>>);

impl OlderShapes {
    /// The shape with this id. `table` is the plan's relation, and `root` the tracked table.
    pub fn of(&self, id: &str, options: &Options, root: &Table, table: &Table) -> Result<Known, Failure> {
        if let Some(known) = self.0.borrow().get(id) {
            return Ok(known.clone());
        }
        // That it is not stored is not noted: it may be stored later.
        let Some(shape) = Shape::find(id) else { return Ok(Err(unknown_shape(id))) };
        let known = OlderShape::of(&shape, options, root, table)?.map(Rc::new);
        self.0.borrow_mut().insert(id.to_owned(), known.clone());
        Ok(known)
    }
}

/// The columns of an older shape, as they are now.
pub struct OlderShape {
    pub columns: Columns,
    pub dropped: Vec<String>,
    pub retyped: Vec<String>,
}

impl OlderShape {
    /// What the shape's columns are in the table, or why they cannot be compared. A partition has a column under the
    /// same name as its parent.
    fn of(
        shape: &Shape,
        options: &Options,
        root: &Table,
        table: &Table,
    ) -> Result<Result<OlderShape, Finding>, Failure> {
        let (in_root, in_table) = (relation::live_columns(root), relation::live_columns(table));
        let by_number: HashMap<i16, &TableColumn> = in_root.iter().map(|now| (now.number, now)).collect();
        let by_name: HashMap<&str, &TableColumn> = in_table.iter().map(|own| (own.name.as_str(), own)).collect();
        let now = |column: &ShapeColumn| by_number.get(&column.number);
        let identity = options.table_since(root);
        let exchanged = exchanged(&shape.columns, identity, |column| now(column).map(|now| now.name.as_str()));
        let exchanged: Vec<String> = exchanged.into_iter().map(str::to_owned).collect();
        if let Some(finding) = exchanged_names(&exchanged, SINCE) {
            return Ok(Err(finding));
        }
        let Some(columns_now) = shape.columns_in(&in_root, identity) else {
            return Ok(Err(unknown_columns(SINCE)));
        };
        let (mut columns, mut dropped, mut retyped) = (Vec::new(), Vec::new(), Vec::new());
        let memory = Rc::default();
        for (column, now) in columns_now {
            let Some(now) = now.and_then(|now| by_name.get(now.name.as_str())) else {
                dropped.push(column.name.clone());
                continue;
            };
            if now.own_type() != column.type_name {
                retyped.push(column.name.clone());
            }
            columns.push(Column::new(&column.name, now.position(), now.type_oid, &memory)?);
        }
        Ok(Ok(OlderShape { columns: Columns::new(columns), dropped, retyped }))
    }
}

const SINCE: &str = "since the entry was recorded";

pub fn unknown_shape(shape: &str) -> Finding {
    let detail = format!("the entry covers the columns of shape {shape}, which ledger.table_shapes does not have");
    (RowProblemKind::Unverifiable, detail)
}

/// The finding about a row of a table of which [`Shape::columns_in`] says nothing.
pub fn unknown_columns(when: &str) -> Finding {
    let detail = format!(
        "the table was restored, and columns of it were dropped or renamed {when}: it cannot be told which of its \
         columns the entry covers"
    );
    (RowProblemKind::Unverifiable, detail)
}

/// The finding about columns that have exchanged their names. Their values may be what was recorded, but who reads one
/// of them by its name gets what was recorded of another.
pub fn exchanged_names(names: &[String], when: &str) -> Option<Finding> {
    let detail = format!("{} exchanged their names {when}", quoted_columns(names));
    (!names.is_empty()).then_some((RowProblemKind::Modified, detail))
}
