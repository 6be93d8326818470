//! How an entry names a row: by its key, as JSON for people, and by its id, a hash of fixed length for look-ups.

use super::columns::{self, Columns};
use super::options::Options;
use super::plan::Plan;
use super::shape::Shape;
use crate::ledger::canonical_json::{self, member, write_string};
use crate::ledger::row_change::row_id;
use crate::ledger::row_shape::ShapeColumn;
use crate::postgres::errors::Failure;
use crate::postgres::jsonb;
use crate::postgres::relation;
use crate::postgres::tables::{Row, Table};
use uuid::Uuid;

/// The key of a row.
#[derive(Debug, PartialEq, Eq)]
pub struct RowKey {
    pub row_id: Uuid,
    /// Canonical JSON object.
    pub json: String,
}

impl RowKey {
    /// The key of a row of the plan's relation.
    pub fn of(plan: &Plan, row: &Row) -> Result<RowKey, Failure> {
        Ok(RowKey {
            row_id: RowKey::id_of(&plan.options.table_id, &plan.key, row)?,
            json: columns::object(&plan.key, row)?,
        })
    }

    /// The id as metadata has it: 32 hex digits.
    pub fn digits<'a>(&self, buffer: &'a mut [u8]) -> &'a str {
        self.row_id.simple().encode_lower(buffer)
    }

    /// A buffer for [`RowKey::digits`].
    pub fn buffer() -> [u8; uuid::fmt::Simple::LENGTH] {
        [0; uuid::fmt::Simple::LENGTH]
    }

    /// The id alone. `key` holds the columns of the key in the order of their numbers in the tracked table.
    pub fn id_of(table_id: &str, key: &Columns, row: &Row) -> Result<Uuid, Failure> {
        Ok(row_id(table_id, &columns::array(key, row)?))
    }
}

/// A key from an entry of this shape, with the names that its columns have in the tracked table now. A column that is
/// gone keeps its name, and so do all where it cannot be told which columns they are now.
pub fn renamed(key: &str, shape: &str, table: &Table, options: &Options) -> Result<String, Failure> {
    let Some(shape) = Shape::find(shape) else { return Ok(key.to_owned()) };
    let live = relation::live_columns(table);
    let Some(columns) = shape.columns_in(&live, options.table_since(table)) else { return Ok(key.to_owned()) };
    let value_of = |column: &ShapeColumn| member(key, &canonical_json::key(&column.name));
    let values =
        columns.iter().filter_map(|(column, now)| Some((now.map_or(&column.name, |now| &now.name), value_of(column)?)));
    let mut json = vec![b'{'];
    for (at, (name, value)) in values.enumerate() {
        if at > 0 {
            json.extend_from_slice(b", ");
        }
        write_string(&mut json, name);
        json.extend_from_slice(b": ");
        json.extend_from_slice(value.as_bytes());
    }
    json.push(b'}');
    jsonb::canonical(&String::from_utf8_lossy(&json))
}
