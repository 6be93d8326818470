//! Compares two entries about a row, of which one follows the other, where the table's columns were changed in between.
//! Their hashes cover different columns, or the same columns under other names.

use super::shape::Shape;
use super::sorter::{shape_id, Record};
use super::verify_row::{exchanged_names, unknown_shape, Finding};
use crate::ledger::row_shape::exchanged;
use std::collections::HashMap;
use std::rc::Rc;

/// What became of the columns of one shape in another, for the pairs of shapes that were met.
#[derive(Default)]
pub struct ShapeChanges(HashMap<(u128, u128), Rc<ShapeChange>>);

/// What became of the columns of a shape in a later one.
struct ShapeChange {
    exchanged: Vec<String>,
    /// A shape that is not stored.
    unknown: Option<String>,
}

impl ShapeChanges {
    /// What is wrong with the row between the two entries.
    pub fn compare(&mut self, left: &Record, entry: &Record) -> Option<Finding> {
        let change = self.between(left.shape, entry.shape);
        if let Some(shape) = &change.unknown {
            return Some(unknown_shape(shape));
        }
        let when = format!("after this entry, and before entry {}", entry.entry_id);
        exchanged_names(&change.exchanged, &when)
    }

    fn between(&mut self, earlier: u128, later: u128) -> Rc<ShapeChange> {
        let change = self.0.entry((earlier, later)).or_insert_with(|| Rc::new(ShapeChange::of(earlier, later)));
        change.clone()
    }
}

impl ShapeChange {
    fn of(earlier: u128, later: u128) -> ShapeChange {
        let ids = [shape_id(earlier), shape_id(later)];
        let [Some(earlier), Some(later)] = ids.each_ref().map(|id| Shape::find(id)) else {
            let unknown = ids.into_iter().find(|id| Shape::find(id).is_none());
            return ShapeChange { exchanged: Vec::new(), unknown };
        };
        let now = |number: i16| later.columns.iter().find(|column| column.number == number);
        let exchanged = exchanged(&earlier.columns, |column| now(column.number).map(|now| now.name.as_str()));
        ShapeChange { exchanged: exchanged.into_iter().map(str::to_owned).collect(), unknown: None }
    }
}
