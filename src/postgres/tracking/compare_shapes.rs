//! Compares two entries about a row, of which one follows the other, where the table's columns were changed in between.
//! Their hashes cover different columns, or the same columns under other names. So only images tell whether the row is
//! the same: the columns are compared that both entries cover.

use super::finding::{quoted_columns, Finding, RowProblemKind};
use super::older_shape::{exchanged_names, unknown_columns, unknown_shape};
use super::shape::Shape;
use super::sorter::{shape_id, Record};
use super::versions::Version;
use crate::ledger::canonical_json::{self, member};
use crate::ledger::row_change::RowChange;
use crate::ledger::row_shape::{exchanged, shared, ShapeColumn, TableIdentity};
use crate::ledger::{sha256, Hash};
use pgrx::PgMemoryContexts;
use std::collections::HashMap;
use std::rc::Rc;

pub struct ShapeChanges {
    table: TableIdentity,
    /// By the two shapes.
    known: HashMap<(u128, u128), Rc<ShapeChange>>,
    context: PgMemoryContexts,
}

/// What became of the columns of a shape in a later one.
#[derive(Default)]
struct ShapeChange {
    exchanged: Vec<String>,
    /// The columns that both have, with the names that they have in each.
    /// `None` if it cannot be told which they are.
    shared: Option<Vec<(String, String)>>,
    /// A shape that is not stored.
    unknown: Option<String>,
}

impl ShapeChanges {
    pub fn new(table: TableIdentity) -> ShapeChanges {
        ShapeChanges { table, known: HashMap::new(), context: PgMemoryContexts::new("pg_notary comparison of images") }
    }

    /// What was done to the row between two entries without a record. `found` is the hash of the row as the later one
    /// found it; `read` gives the entry behind a record.
    pub fn compare(
        &mut self,
        left: &Record,
        entry: &Record,
        found: Hash,
        read: impl Fn(&Record) -> Option<Version>,
    ) -> Option<Finding> {
        let change = self.between(left.shape, entry.shape);
        if let Some(shape) = &change.unknown {
            return Some(unknown_shape(shape));
        }
        let when = format!("after this entry, and before entry {}", entry.entry_id);
        let exchanged = exchanged_names(&change.exchanged, &when);
        if exchanged.is_some() || !left.has_image || !entry.has_image {
            return exchanged;
        }
        let Some(shared) = &change.shared else { return Some(unknown_columns(&when)) };
        // There may be as many such pairs as there are rows.
        // SAFETY: a version is a copy, which is not in the context.
        let (earlier, later) = unsafe { self.context.switch_to(|_| (read(left), read(entry))) };
        // SAFETY: nothing that was allocated in the context is used any more.
        unsafe { self.context.reset() };
        let (earlier, later) = (earlier?, later?);
        let left_as = image_of(&earlier, left.data_hash, |change| change.after)?;
        let found_as = image_of(&later, found, as_found)?;
        let names = differences(shared, left_as, found_as);
        let verb = if names.len() == 1 { "was" } else { "were" };
        let detail = || format!("{} {verb} changed without a record {when}", quoted_columns(&names));
        (!names.is_empty()).then(|| (RowProblemKind::Modified, detail()))
    }

    fn between(&mut self, earlier: u128, later: u128) -> Rc<ShapeChange> {
        let change =
            self.known.entry((earlier, later)).or_insert_with(|| Rc::new(ShapeChange::of(earlier, later, self.table)));
        change.clone()
    }
}

/// An image of the row, if it is what was hashed.
fn image_of(version: &Version, hash: Hash, of: impl Fn(RowChange<'_>) -> Option<&str>) -> Option<&str> {
    version.change().and_then(of).filter(|image| sha256(image.as_bytes()) == hash)
}

fn as_found(change: RowChange<'_>) -> Option<&str> {
    if change.is_baseline {
        change.after
    } else {
        change.before
    }
}

impl ShapeChange {
    fn of(earlier: u128, later: u128, table: TableIdentity) -> ShapeChange {
        let ids = [shape_id(earlier), shape_id(later)];
        let [Some(earlier), Some(later)] = ids.each_ref().map(|id| Shape::find(id)) else {
            let unknown = ids.into_iter().find(|id| Shape::find(id).is_none());
            return ShapeChange { unknown, ..ShapeChange::default() };
        };
        let by_number: HashMap<i16, &ShapeColumn> = later.columns.iter().map(|now| (now.number, now)).collect();
        let now = |column: &ShapeColumn| by_number.get(&column.number);
        let exchanged = exchanged(&earlier.columns, table, |column| now(column).map(|now| now.name.as_str()));
        let names = |(column, now): (&ShapeColumn, &ShapeColumn)| (column.name.clone(), now.name.clone());
        let shared = shared(&earlier.columns, &later.columns, table);
        ShapeChange {
            exchanged: exchanged.into_iter().map(str::to_owned).collect(),
            shared: shared.map(|pairs| pairs.into_iter().map(names).collect()),
            unknown: None,
        }
    }
}

/// The columns that differ, under their later names.
fn differences(shared: &[(String, String)], earlier: &str, later: &str) -> Vec<String> {
    let differs = |(before, now): &&(String, String)| {
        member(earlier, &canonical_json::key(before)) != member(later, &canonical_json::key(now))
    };
    shared.iter().filter(differs).map(|(_, now)| now.clone()).collect()
}
