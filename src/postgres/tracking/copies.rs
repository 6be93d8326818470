//! Tables that were restored beside the one that they are a copy of.

use super::options::Options;
use super::recorded_tables::{self, Ranked};
use crate::postgres::relation;
use crate::postgres::tables::Table;
use pgrx::pg_sys;

/// The name of the table that this one is a copy of: what is done to its rows would be recorded of the rows there. Both
/// are tracked with the same id.
pub fn original_of(table: &Table, options: &Options) -> Option<String> {
    let own = relation::oid(table);
    if options.is_made_for(own) {
        return None;
    }
    let ranked = Ranked { is_restored: true, table: own.to_u32() };
    let first = recorded_tables::first_with_id(&options.table_id, ranked.table)?;
    (first < ranked).then(|| relation::shown_name(pg_sys::Oid::from(first.table)))
}
