//! Compares one row with the newest entry about it, and says what is wrong.

use super::columns::{self, Column};
use super::finding::{quoted_columns, Finding, RowProblemKind};
use super::older_shape::OlderShape;
use super::plan::Plan;
use super::sorter::shape_id;
use super::versions::Version;
use crate::ledger::canonical_json::{self, member};
use crate::ledger::sha256_hex;
use crate::ledger::verifier::SignatureCheck;
use crate::postgres::errors::Failure;
use crate::postgres::relation;
use crate::postgres::secrets;
use crate::postgres::tables::{Row, Table};
use pgrx::pg_sys;
use std::rc::Rc;

/// Compares rows of one relation with entries, also with those from before the table's columns changed.
pub struct Comparer {
    table: Table,
    /// The tracked table, of which `table` may be a partition.
    root: Table,
    pub plan: Rc<Plan>,
}

impl Comparer {
    pub fn new(table: Table, plan: Rc<Plan>) -> Comparer {
        let root = Table::open_oid(plan.root, pg_sys::AccessShareLock);
        Comparer { table, root, plan }
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What the columns of an older shape are now; `None` for the present shape, and where rows cannot be compared.
    pub fn older_shape(&self, shape: u128) -> Result<Option<Rc<OlderShape>>, Failure> {
        let id = shape_id(shape);
        if id == self.plan.shape.id {
            return Ok(None);
        }
        Ok(self.plan.older.of(&id, &self.plan.options, &self.root, &self.table)?.ok())
    }

    /// Compares the row with what the entry says of it.
    pub fn compare(&self, row: &Row, version: &Version) -> Result<Option<Finding>, Failure> {
        let shape = version.change().map(|change| change.shape.to_owned()).unwrap_or_default();
        if shape == self.plan.shape.id {
            let image = self.plan.image(row)?;
            if sha256_hex(image.as_bytes()) == version.data_hash {
                return Ok(None);
            }
            let found = differences(self.plan.columns.iter(), row, version)?;
            return Ok(Some(judged(found, &self.plan.columns, &self.table, version)));
        }
        match self.plan.older.of(&shape, &self.plan.options, &self.root, &self.table)? {
            Ok(older) => compare_older(&older, &self.table, row, version),
            Err(finding) => Ok(Some(finding)),
        }
    }
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
            RowProblemKind::Unverifiable,
            format!("{changed}; without an image of the row there is nothing left to compare"),
        ))),
        // A retyped column may print an unchanged value in another way.
        Differences::None => Ok(reworded(&retyped, row, version)?.map(|names| {
            (
                RowProblemKind::Unverifiable,
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
        if now.as_deref().map(plain) != member(image, &canonical_json::key(&column.name)).map(plain) {
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
        if column.json(row)?.as_deref() != member(image, &canonical_json::key(&column.name)) {
            names.push(column.name.clone());
        }
    }
    Ok(if names.is_empty() { Differences::None } else { Differences::Columns(names) })
}

/// What differences mean. Renaming a label of an enum (`ALTER TYPE ... RENAME VALUE`) makes unchanged values look
/// changed. An attacker can hide a change behind such a renaming, so it is not passed over either.
fn judged(found: Differences, columns: &[Column], table: &Table, version: &Version) -> Finding {
    let Differences::Columns(names) = &found else { return (RowProblemKind::Modified, modified(found)) };
    let image = member(&version.metadata, "after").unwrap_or_default();
    let unknown = |name: &String| {
        let column = columns.iter().find(|column| column.name == *name)?;
        let label = plain(member(image, &canonical_json::key(name))?);
        let type_name = relation::enum_without_label(table, column.position, &label)?;
        Some(format!("column \"{name}\" had \"{label}\", which type {type_name} does not have any more"))
    };
    match names.iter().map(unknown).collect::<Option<Vec<String>>>() {
        Some(details) => (RowProblemKind::Unverifiable, details.join("; ")),
        None => (RowProblemKind::Modified, modified(found)),
    }
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
    Ok(Some((RowProblemKind::Signature, detail)))
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
            Some((RowProblemKind::Resurrected, "the table was truncated, and the row is there".to_owned()))
        }
        (None, _, true) => Some((RowProblemKind::Unrecorded, "no entry is about this row".to_owned())),
        (Some(_), ByLedger::Exists, false) => {
            Some((RowProblemKind::Missing, "the row was recorded and is gone".to_owned()))
        }
        (Some(version), ByLedger::Gone, true) => {
            let what = version.operation.entry_type();
            Some((RowProblemKind::Resurrected, format!("the newest entry about it ({what}) says that the row is gone")))
        }
        _ => None,
    }
}
