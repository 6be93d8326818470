//! Shapes: which columns an entry's data covers. In an application's table columns come, go and are renamed. So an
//! entry names the shape that its table had. A shape is recorded once, before the first entry that names it.
//!
//! A shape's id is the beginning of its hash. So what is looked up in `ledger.table_shapes` is checked against the id,
//! and the table need not be trusted.

use crate::ledger::row_change::TABLE_SHAPE;
use crate::ledger::row_shape::{self, successors, ShapeColumn, Successors};
use crate::ledger::{canonical_json, sha256_hex};
use crate::postgres::entries::{self, OwnEntry};
use crate::postgres::errors::Failure;
use crate::postgres::jsonb::{self, Jsonb, JsonbText};
use crate::postgres::relation::TableColumn;
use crate::postgres::single_row;
use crate::postgres::tables::{self, look_up, RegisteredSnapshot, Table};
use pgrx::{pg_sys, FromDatum, IntoDatum};
use serde_json::{json, Value};
use std::cell::Cell;
use std::collections::HashMap;
use uuid::Uuid;

/// The columns of a tracked table that are recorded at some time.
pub struct Shape {
    /// 32 hex digits.
    pub id: String,
    pub columns: Vec<ShapeColumn>,
    /// Canonical JSON.
    text: String,
    is_recorded: Cell<bool>,
}

/// The columns of a shape, each with the column of the table that it is now.
pub type ColumnsNow<'a> = Vec<(&'a ShapeColumn, Option<&'a TableColumn>)>;

const ID_DIGITS: usize = 32;

impl Shape {
    pub fn of(columns: impl Iterator<Item = TableColumn>) -> Result<Shape, Failure> {
        let columns: Vec<ShapeColumn> = columns.map(|column| column.as_shape()).collect();
        let members: Vec<Value> = columns
            .iter()
            .map(|column| json!({"number": column.number, "name": column.name, "type": column.type_name}))
            .collect();
        let text = jsonb::canonical(&json!({ "columns": members }).to_string())?;
        Ok(Shape { id: id_of(&text), columns, text, is_recorded: Cell::new(false) })
    }

    /// The shape with this id, if it is stored and has this hash.
    pub fn find(id: &str) -> Option<Shape> {
        let text = stored(Uuid::try_parse(id).ok()?)?;
        let value: Value = serde_json::from_str(&text).ok()?;
        let members = value["columns"].as_array()?;
        let columns: Option<Vec<ShapeColumn>> = members
            .iter()
            .map(|column| {
                Some(ShapeColumn {
                    number: column["number"].as_i64()?.try_into().ok()?,
                    name: column["name"].as_str()?.to_owned(),
                    type_name: column["type"].as_str()?.to_owned(),
                })
            })
            .collect();
        let shape = Shape { id: id_of(&text), columns: columns?, text, is_recorded: Cell::new(true) };
        (shape.id == id).then_some(shape)
    }

    /// What the columns of the shape are in the table now, if that can be told.
    pub fn columns_in<'a>(
        &'a self,
        live: &'a [TableColumn],
        table: row_shape::TableIdentity,
    ) -> Option<ColumnsNow<'a>> {
        let later: Vec<ShapeColumn> = live.iter().map(TableColumn::as_shape).collect();
        let Successors::Known(successors) = successors(&self.columns, &later, table) else { return None };
        let by_number: HashMap<i16, &TableColumn> = live.iter().map(|now| (now.number, now)).collect();
        let of_table = |column: &ShapeColumn| by_number.get(&column.number).copied();
        let now = successors.into_iter().map(|successor| successor.and_then(of_table));
        Some(self.columns.iter().zip(now).collect())
    }

    /// Makes sure that the shape is in the ledger. Two transactions may both record a new one, so that neither waits
    /// for the other.
    pub fn ensure_recorded(&self, table: &str, table_id: &str) -> Result<(), Failure> {
        if self.is_recorded.get() {
            return Ok(());
        }
        let uuid = Uuid::try_parse(&self.id).unwrap_or_default();
        if stored(uuid).is_none() {
            self.record(uuid, table, table_id)?;
        }
        self.is_recorded.set(true);
        Ok(())
    }

    fn record(&self, uuid: Uuid, table: &str, table_id: &str) -> Result<(), Failure> {
        let columns = canonical_json::member(&self.text, "columns").unwrap_or_default();
        let names = json!({"shape": self.id, "table": table, "table_id": table_id}).to_string();
        let metadata = format!("{{\"columns\": {columns}, {}", &names[1..]);
        let data_hash = sha256_hex(self.text.as_bytes());
        entries::record_own(OwnEntry::now(TABLE_SHAPE, data_hash, jsonb::canonical(&metadata)?.into(), false))?;
        insert(uuid, &self.text);
        super::at_rollback_forget_plans();
        Ok(())
    }
}

/// Stores a shape that comes with an entry of a ledger that is being rebuilt.
pub fn restore(entry_type: &str, metadata: &str) {
    let columns = canonical_json::member(metadata, "columns").filter(|_| entry_type == TABLE_SHAPE);
    let Some(text) = columns.map(|columns| format!("{{\"columns\": {columns}}}")) else { return };
    let id = id_of(&text);
    if canonical_json::plain_member(metadata, "shape") == Some(&id) {
        insert(Uuid::try_parse(&id).unwrap_or_default(), &text);
    }
}

fn insert(id: Uuid, text: &str) {
    let shapes = Table::open("table_shapes", pg_sys::RowExclusiveLock);
    single_row::insert(&shapes, &[Some(tables::uuid_datum(&id)), JsonbText(text.to_owned()).into_datum()]);
}

fn id_of(text: &str) -> String {
    let mut id = sha256_hex(text.as_bytes());
    id.truncate(ID_DIGITS);
    id
}

/// The canonical text of a shape, as `ledger.table_shapes` has it.
fn stored(id: Uuid) -> Option<String> {
    let shapes = Table::open("table_shapes", pg_sys::AccessShareLock);
    let index = tables::oid_of("table_shapes_shape");
    let snapshot = RegisteredSnapshot::latest();
    let mut found = None;
    look_up::scan_by_uuid(&shapes, index, id, &snapshot, |row| {
        // SAFETY: column 1 of `ledger.table_shapes` is of type jsonb.
        let columns = row.datum(1).and_then(|datum| unsafe { Jsonb::from_datum(datum, false) });
        found = columns.and_then(|columns| columns.canonical().ok());
        found.is_none()
    });
    found
}
