//! Compares one row with the newest entry about it, and says what is wrong.

use super::columns::{self, json_name, Column, Columns};
use super::options::Options;
use super::plan::Plan;
use super::shape::Shape;
use super::versions::Version;
use crate::ledger::canonical_json::member;
use crate::ledger::row_shape::{exchanged, ShapeColumn};
use crate::ledger::sha256_hex;
use crate::ledger::verifier::SignatureCheck;
use crate::postgres::errors::Failure;
use crate::postgres::relation::{self, TableColumn};
use crate::postgres::secrets;
use crate::postgres::tables::{Row, Table};
use pgrx::pg_sys;
use std::collections::HashMap;
use std::rc::Rc;

/// What can be wrong with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It is not what was recorded.
    Modified,
    /// It was recorded, and is not there.
    Missing,
    /// It is there, and was never recorded.
    Unrecorded,
    /// It was deleted, and is there again.
    Resurrected,
    /// The entry's signature is not good.
    Signature,
    /// The table has changed since in a way that leaves nothing to compare.
    Unverifiable,
}

impl Problem {
    pub fn name(self) -> &'static str {
        match self {
            Problem::Modified => "modified",
            Problem::Missing => "missing",
            Problem::Unrecorded => "unrecorded",
            Problem::Resurrected => "resurrected",
            Problem::Signature => "signature",
            Problem::Unverifiable => "unverifiable",
        }
    }
}

/// A problem, and what there is to say about it.
pub type Finding = (Problem, String);

/// Compares rows of one relation with entries, also with those from before the table's columns changed.
pub struct Comparer {
    table: Table,
    /// The tracked table, of which `table` may be a partition.
    root: Table,
    pub plan: Rc<Plan>,
    /// Or why rows cannot be compared with entries of this shape.
    older: HashMap<String, Result<Rc<OlderShape>, Finding>>,
}

/// The columns of an older shape, as they are now.
struct OlderShape {
    columns: Columns,
    dropped: Vec<String>,
    retyped: Vec<String>,
}

impl Comparer {
    pub fn new(table: Table, plan: Rc<Plan>) -> Comparer {
        let root = Table::open_oid(plan.root, pg_sys::AccessShareLock);
        Comparer { table, root, plan, older: HashMap::new() }
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Compares the row with what the entry says of it.
    pub fn compare(&mut self, row: &Row, version: &Version) -> Result<Option<Finding>, Failure> {
        let shape = version.change().map(|change| change.shape.to_owned()).unwrap_or_default();
        if shape == self.plan.shape.id {
            let image = self.plan.image(row)?;
            if sha256_hex(image.as_bytes()) == version.data_hash {
                return Ok(None);
            }
            let found = differences(self.plan.columns.iter(), row, version)?;
            return Ok(Some(judged(found, &self.plan.columns, &self.table, version)));
        }
        match self.older(&shape)? {
            Ok(older) => compare_older(&older, &self.table, row, version),
            Err(finding) => Ok(Some(finding)),
        }
    }

    fn older(&mut self, id: &str) -> Result<Result<Rc<OlderShape>, Finding>, Failure> {
        if let Some(known) = self.older.get(id) {
            return Ok(known.clone());
        }
        let older = match Shape::find(id) {
            Some(shape) => OlderShape::of(&shape, &self.plan.options, &self.root, &self.table)?.map(Rc::new),
            None => Err(unknown_shape(id)),
        };
        self.older.insert(id.to_owned(), older.clone());
        Ok(older)
    }
}

impl OlderShape {
    /// What the shape's columns are in the table, or why they cannot be compared. A partition has a column under the same
    /// name as its parent.
    fn of(
        shape: &Shape,
        options: &Options,
        root: &Table,
        table: &Table,
    ) -> Result<Result<OlderShape, Finding>, Failure> {
        let (in_root, in_table) = (relation::live_columns(root), relation::live_columns(table));
        let now = |column: &ShapeColumn| in_root.iter().find(|now| now.number == column.number);
        let exchanged = exchanged(&shape.columns, |column| now(column).map(|now| now.name.as_str()));
        let exchanged: Vec<String> = exchanged.into_iter().map(str::to_owned).collect();
        if let Some(finding) = exchanged_names(&exchanged, SINCE) {
            return Ok(Err(finding));
        }
        let Some(columns_now) = shape.columns_in(&in_root, options.table_since(root)) else {
            return Ok(Err(unknown_columns(SINCE)));
        };
        let (mut columns, mut dropped, mut retyped) = (Vec::new(), Vec::new(), Vec::new());
        let memory = Rc::default();
        for (column, now) in columns_now {
            let now: Option<&TableColumn> = now.and_then(|now| in_table.iter().find(|own| own.name == now.name));
            let Some(now) = now else {
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
    (Problem::Unverifiable, detail)
}

/// The finding about a row of a table of which [`Shape::columns_in`] says nothing.
pub fn unknown_columns(when: &str) -> Finding {
    let detail = format!(
        "the table was restored, and columns of it were dropped or renamed {when}: it cannot be told which of its \
         columns the entry covers"
    );
    (Problem::Unverifiable, detail)
}

/// The finding about columns that have exchanged their names. Their values may be what was recorded, but who reads one of
/// them by its name gets what was recorded of another.
pub fn exchanged_names(names: &[String], when: &str) -> Option<Finding> {
    let detail = format!("{} exchanged their names {when}", quoted_columns(names));
    (!names.is_empty()).then_some((Problem::Modified, detail))
}

fn compare_older(older: &OlderShape, table: &Table, row: &Row, version: &Version) -> Result<Option<Finding>, Failure> {
    let image = columns::object(&older.columns, row)?;
    if sha256_hex(image.as_bytes()) == version.data_hash {
        return Ok(None);
    }
    let (retyped, kept): (Vec<&Column>, Vec<&Column>) =
        older.columns.iter().partition(|column| older.retyped.contains(&column.name));
    if older.dropped.is_empty() && retyped.is_empty() {
        let found = differences(kept, row, version)?;
        return Ok(Some(judged(found, &older.columns, table, version)));
    }
    let changed = [("dropped", &older.dropped), ("given another type", &older.retyped)];
    let changed: Vec<String> = changed
        .iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{} {what}", listed(names)))
        .collect();
    let changed = format!("since the entry was recorded: {}", changed.join(", "));
    match differences(kept, row, version)? {
        Differences::NoImage => Ok(Some((
            Problem::Unverifiable,
            format!("{changed}; without an image of the row there is nothing left to compare"),
        ))),
        // A retyped column may print an unchanged value in another way.
        Differences::None => Ok(reworded(&retyped, row, version)?.map(|names| {
            (
                Problem::Unverifiable,
                format!("{changed}; {names} differs from the image, because of that or because it was changed"),
            )
        })),
        found => Ok(Some(judged(found, &older.columns, table, version))),
    }
}

/// The columns whose text differs from that in the image, whatever their types.
fn reworded(columns: &[&Column], row: &Row, version: &Version) -> Result<Option<String>, Failure> {
    let image = member(&version.metadata, "after").unwrap_or_default();
    let mut names = Vec::new();
    for column in columns {
        let now = column.json(row)?;
        if now.as_deref().map(plain) != member(image, &json_name(&column.name)).map(plain) {
            names.push(format!("\"{}\"", column.name));
        }
    }
    Ok((!names.is_empty()).then(|| names.join(", ")))
}

/// A string's text, and any other JSON as it is.
fn plain(json: &str) -> String {
    serde_json::from_str(json).unwrap_or_else(|_| json.to_owned())
}

fn listed(names: &[String]) -> String {
    format!("{} {}", quoted_columns(names), if names.len() == 1 { "was" } else { "were" })
}

/// In which columns a row differs from the image that was kept.
enum Differences {
    /// The entry keeps no image, or one that is not what was hashed.
    NoImage,
    None,
    Columns(Vec<String>),
}

fn differences<'a>(
    columns: impl IntoIterator<Item = &'a Column>,
    row: &Row,
    version: &Version,
) -> Result<Differences, Failure> {
    let image = member(&version.metadata, "after").filter(|image| sha256_hex(image.as_bytes()) == version.data_hash);
    let Some(image) = image else { return Ok(Differences::NoImage) };
    let mut names = Vec::new();
    for column in columns {
        if column.json(row)?.as_deref() != member(image, &json_name(&column.name)) {
            names.push(column.name.clone());
        }
    }
    Ok(if names.is_empty() { Differences::None } else { Differences::Columns(names) })
}

/// What differences mean. Renaming a label of an enum (`ALTER TYPE ... RENAME VALUE`) makes unchanged values look
/// changed. An attacker can hide a change behind such a renaming, so it is not passed over either.
fn judged(found: Differences, columns: &[Column], table: &Table, version: &Version) -> Finding {
    let Differences::Columns(names) = &found else { return (Problem::Modified, modified(found)) };
    let image = member(&version.metadata, "after").unwrap_or_default();
    let unknown = |name: &String| {
        let column = columns.iter().find(|column| column.name == *name)?;
        let label = plain(member(image, &json_name(name))?);
        let type_name = relation::enum_without_label(table, column.position, &label)?;
        Some(format!("column \"{name}\" had \"{label}\", which type {type_name} does not have any more"))
    };
    match names.iter().map(unknown).collect::<Option<Vec<String>>>() {
        Some(details) => (Problem::Unverifiable, details.join("; ")),
        None => (Problem::Modified, modified(found)),
    }
}

/// As `columns "a", "b"`.
pub fn quoted_columns(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("{} {}", if names.len() == 1 { "column" } else { "columns" }, quoted.join(", "))
}

fn modified(differences: Differences) -> String {
    match differences {
        Differences::Columns(names) => {
            format!("{} differ{} from the image", quoted_columns(&names), if names.len() == 1 { "s" } else { "" })
        }
        Differences::NoImage | Differences::None => "the row is not what was recorded".to_owned(),
    }
}

/// What the entry's own signature is worth.
pub fn signature_of(version: &Version) -> Result<SignatureCheck, Failure> {
    let Some(signature) = &version.signature else { return Ok(SignatureCheck::Unsigned) };
    let Some(keyring) = secrets::verifying_keyring()? else { return Ok(SignatureCheck::NotChecked) };
    let key_id = version.key_id.as_deref().unwrap_or_default();
    Ok(SignatureCheck::of(&keyring, key_id, &version.data_hash, signature))
}

/// What is wrong with the entry's own signature.
pub fn check_signature(version: &Version) -> Result<Option<Finding>, Failure> {
    let key_id = version.key_id.as_deref().unwrap_or_default();
    let detail = match signature_of(version)? {
        SignatureCheck::UnknownKey => format!("the entry is signed with key \"{key_id}\", which is not known"),
        check if check.problem().is_some() => format!("the signature of the entry is not that of key \"{key_id}\""),
        _ => return Ok(None),
    };
    Ok(Some((Problem::Signature, detail)))
}

/// What the ledger says of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByLedger {
    Exists,
    /// The newest entry about it says so, or there is none.
    Gone,
    /// All rows were removed after the newest entry about it.
    Truncated,
}

/// The finding where row and entry do not both exist.
pub fn presence(version: Option<&Version>, by_ledger: ByLedger, is_there: bool) -> Option<Finding> {
    match (version, by_ledger, is_there) {
        (_, ByLedger::Truncated, true) => {
            Some((Problem::Resurrected, "the table was truncated, and the row is there".to_owned()))
        }
        (None, _, true) => Some((Problem::Unrecorded, "no entry is about this row".to_owned())),
        (Some(_), ByLedger::Exists, false) => Some((Problem::Missing, "the row was recorded and is gone".to_owned())),
        (Some(version), ByLedger::Gone, true) => {
            let what = version.operation.entry_type();
            Some((Problem::Resurrected, format!("the newest entry about it ({what}) says that the row is gone")))
        }
        _ => None,
    }
}
