//! A key as a caller gives it, as JSON: in the words of the ledger, or in others that the types of its columns read.
//!
//! For most values both are the same. But the ledger states some values in words that mean another one to the type:
//! `[150]` for a `money[]` with 1.50, a string for a jsonb with a number of many digits. And there are words of the
//! ledger that no type reads any more, as a label of an enum that was renamed.

use super::columns::{Column, Columns};
use super::key_types;
use super::plan::Plan;
use super::row_key::RowKey;
use crate::ledger::canonical_json::{self, canonical, keeps_numbers, member};
use crate::ledger::row_change::row_id;
use crate::postgres::errors::Failure;
use crate::postgres::jsonb::{datum_of_canonical, Jsonb};
use crate::postgres::jsonb_record::{self, Member};
use crate::postgres::relation::{self, TableColumn};
use crate::postgres::roles::as_owner_of;
use crate::postgres::subtransaction::attempt;
use crate::postgres::tables::{Row, Table};
use pgrx::{pg_sys, PgSqlErrorCode};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::rc::Rc;
use uuid::Uuid;

pub struct GivenKey {
    /// The id of the row whose key the ledger states in these words, if it states any in them.
    pub stated: Option<Uuid>,
    /// An array of jsonb in it has elements that are null. The ledger states a null of jsonb like one of SQL.
    pub has_null_elements: bool,
    /// Whether the words hardly mean one row to the ledger and another one to the types.
    pub is_clear: bool,
    /// What the words mean to the types of the columns; or why they mean nothing.
    pub typed: Result<TypedKey, Failure>,
}

/// A key in the types of its columns, so that '42' and 42 are the same.
pub struct TypedKey {
    pub row_id: Uuid,
    /// Whether no other value has the same JSON.
    pub is_exact: bool,
    names: Vec<String>,
    values: Row,
}

impl GivenKey {
    pub fn read(table: &Table, plan: &Plan, key: Jsonb) -> Result<GivenKey, Failure> {
        let columns = key_columns(table, plan);
        let text = key.text();
        let given = check_key(plan, &columns, &text)?;
        // The word may stand in a string as well: then the table is perhaps read in vain.
        let has_null = |column: &TableColumn| given[&column.name].get().contains("null");
        let may_be_other = |column: &TableColumn| may_state_other(column, given[&column.name].get());
        let has_null_elements = columns.iter().any(|column| column.is_array_of(pg_sys::JSONBOID) && has_null(column));
        let is_clear = !has_null_elements && !columns.iter().any(may_be_other);
        Ok(GivenKey {
            stated: stated_id(plan, &text),
            has_null_elements,
            is_clear,
            typed: typed_key(table, &columns, key, &given).and_then(|values| TypedKey::of(plan, &columns, values)),
        })
    }
}

impl TypedKey {
    fn of(plan: &Plan, columns: &[TableColumn], values: Row) -> Result<TypedKey, Failure> {
        let memory = Rc::default();
        let encode = |(column, at): (&TableColumn, usize)| Column::new(&column.name, at, column.type_oid, &memory);
        let encoders = Columns::new(columns.iter().zip(0..).map(encode).collect::<Result<_, _>>()?);
        let names = columns.iter().map(|column| column.name.clone()).collect();
        let row_id = RowKey::id_of(&plan.options.table_id, &encoders, &values)?;
        Ok(TypedKey { row_id, is_exact: encoders.are_exact(), names, values })
    }

    /// Of the column of this name, in its type.
    pub fn value_of(&self, name: &str) -> Option<pg_sys::Datum> {
        self.values.datum(self.names.iter().position(|own| own == name)?)
    }
}

/// The ledger states no number that its canonical form would not keep. Such a number would only look like the key of
/// another row.
fn stated_id(plan: &Plan, key: &str) -> Option<Uuid> {
    let key = canonical(key).ok().filter(|_| keeps_numbers(key))?;
    let values: Option<Vec<&str>> =
        plan.key.iter().map(|column| member(&key, &canonical_json::key(&column.name))).collect();
    Some(row_id(&plan.options.table_id, &format!("[{}]", values?.join(", "))))
}

/// The columns of the key, in the plan's order.
fn key_columns(table: &Table, plan: &Plan) -> Vec<TableColumn> {
    let mut live = relation::live_columns(table);
    let mut take = |key: &Column| Some(live.swap_remove(live.iter().position(|column| column.name == key.name)?));
    plan.key.iter().filter_map(&mut take).collect()
}

/// The members of a key. Their values are texts: there are numbers in jsonb that no double holds, and values nested so
/// deep that serde_json does not read them.
type Given<'a> = HashMap<String, &'a RawValue>;

/// The values of a key, in the types of its columns. Does not build a whole row: a column outside the key may be of a
/// domain that refuses null.
///
/// The CHECK of a domain is code of the domain's owner. Where a column's own type is a domain, it does not run. For
/// elements of an array, fields of a composite type and bounds of a range it does, with the rights of the table's
/// owner: so these must not be domains of another role, who could have it run by asking for a row.
fn typed_key(table: &Table, columns: &[TableColumn], key: Jsonb, given: &Given) -> Result<Row, Failure> {
    let is_number = |json: &str| json.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    let typed = |column: &TableColumn| match column.base_type() {
        // Money is recorded as the number that it is stored as. Postgres would take such a number for whole dollars.
        (pg_sys::MONEYOID, _) if is_number(given[&column.name].get()) => (pg_sys::INT8OID, -1),
        base => base,
    };
    let members: Vec<Member> = columns.iter().map(|column| (column.name.as_str(), typed(column))).collect();
    let owner = table.pg_class().relowner;
    // SAFETY: inside a transaction.
    let is_foreign = |(_, (type_oid, _)): &&Member| unsafe { !key_types::runs_only_code_of(owner, *type_oid) };
    if let Some((name, _)) = members.iter().find(is_foreign) {
        return Err(foreign_type(table, name));
    }
    // SAFETY: the relation is open.
    let values = attempt(|| unsafe { as_owner_of(table.relation(), || jsonb_record::values(key, &members)) });
    values.map(|values| with_json_nulls(values, columns))
}

fn foreign_type(table: &Table, column: &str) -> Failure {
    let name = table.qualified_name();
    Failure::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        format!("values of column \"{column}\" of table {name} are not read"),
    )
    .detail("Its type has a domain that belongs neither to the owner of the table nor to a superuser.")
    .hint("Pass row_key as the ledger states it: see \"key\" in the metadata of an entry about the row. Or give the domain to the owner of the table.")
}

/// The null of jsonb is a value. Where the key has it, Postgres gives that of SQL.
fn with_json_nulls(mut values: Row, columns: &[TableColumn]) -> Row {
    for (at, column) in columns.iter().enumerate() {
        if values.is_null(at) && is_jsonb(column) {
            values.put(at, datum_of_canonical("null"));
        }
    }
    values
}

/// Of the types that a key can have, jsonb alone has a null that is a value.
fn is_jsonb(column: &TableColumn) -> bool {
    column.base_type().0 == pg_sys::JSONBOID
}

/// Whether the ledger may state another value in these words than the type reads: the text of a jsonb value with a
/// number that canonical JSON would not keep, which is a string, or in an array of money the numbers that are stored.
fn may_state_other(column: &TableColumn, json: &str) -> bool {
    let begins_value = |byte: u8| matches!(byte, b'-' | b'[' | b'{') || byte.is_ascii_digit();
    let is_text_of_value = |pair: &[u8]| pair[0] == b'"' && begins_value(pair[1]);
    let mut pairs = json.as_bytes().windows(2);
    if is_jsonb(column) {
        return pairs.next().is_some_and(is_text_of_value);
    }
    (column.is_array_of(pg_sys::JSONBOID) && pairs.any(is_text_of_value))
        || (column.is_array_of(pg_sys::MONEYOID) && json.contains(|c: char| c.is_ascii_digit()))
}

fn check_key<'a>(plan: &Plan, columns: &[TableColumn], key: &'a str) -> Result<Given<'a>, Failure> {
    let given: Given = serde_json::from_str(key).unwrap_or_default();
    let has =
        |column: &TableColumn| given.get(&column.name).is_some_and(|value| value.get() != "null" || is_jsonb(column));
    if given.len() == columns.len() && columns.iter().all(has) {
        return Ok(given);
    }
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let example: Vec<String> = names.iter().map(|name| format!("\"{name}\": ...")).collect();
    Err(Failure::new(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        "row_key must hold the columns of the primary key",
    )
    .detail(format!("The primary key of table {} is ({}).", plan.table, names.join(", ")))
    .hint(format!("Pass an object such as {{{}}}.", example.join(", "))))
}
