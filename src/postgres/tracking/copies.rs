//! Tables that were restored beside the one that they are a copy of.

use super::catalog_triggers::CatalogTrigger;
use super::options::Options;
use crate::postgres::relation;
use crate::postgres::tables::Table;
use pgrx::pg_sys;

/// The name of the table that this one is a copy of: what is done to its rows would be recorded of the rows there. Both
/// are tracked with the same id. The original is the table that the options were given for. If none is, as in a
/// database that was restored itself, it is the one with the lowest oid, which was there first.
pub fn original_of(table: &Table, options: &Options) -> Option<String> {
    let own = relation::oid(table);
    if options.is_made_for(own) {
        return None;
    }
    let others = CatalogTrigger::that_record(&options.table_id).into_iter().filter(|other| other.relation != own);
    let rank = |other: &CatalogTrigger| {
        let is_original = other.options().is_some_and(|options| options.is_made_for(other.relation));
        (!is_original, other.relation.to_u32())
    };
    let (_, first) = others.map(|other| rank(&other)).min().filter(|first| *first < (true, own.to_u32()))?;
    Some(relation::shown_name(pg_sys::Oid::from(first)))
}
