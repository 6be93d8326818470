//! Which partition takes a row, by the bounds of the partitions: what get_partition_for_tuple() of Postgres does, which
//! it keeps to itself.

use crate::postgres::relation;
use crate::postgres::tables::Table;
use pgrx::pg_sys;
use std::slice;

/// The beginning of PartitionKeyData (utils/partcache.h), which pgrx does not declare. So far it is the same in all
/// versions, but for the type of the first field.
#[repr(C)]
struct PartitionKey {
    _strategy: Strategy,
    partnatts: i16,
    partattrs: *const pg_sys::AttrNumber,
    _partexprs: *const pg_sys::List,
    _partopfamily: *const pg_sys::Oid,
    _partopcintype: *const pg_sys::Oid,
    partsupfunc: *mut pg_sys::FmgrInfo,
    partcollation: *mut pg_sys::Oid,
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
type Strategy = std::ffi::c_char;
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
type Strategy = pg_sys::PartitionStrategy::Type;

extern "C-unwind" {
    /// Not declared by pgrx, so its errors have to be caught. The result is valid as long as the relation is open, and
    /// null if its row in pg_partitioned_table was deleted.
    fn RelationGetPartitionKey(relation: pg_sys::Relation) -> *const PartitionKey;
}

/// This table, the partition of it that takes a row with these values, the partition of that one, and so on. Each is
/// locked after its parent. The last one is partitioned, too, if none of its partitions takes the row.
///
/// # Safety
/// `value_of` gives values of the types of the columns, by their names.
pub unsafe fn path(from: pg_sys::Oid, value_of: impl Fn(&str) -> Option<pg_sys::Datum>) -> Vec<Table> {
    let open = |oid| Table::open_oid(oid, pg_sys::AccessShareLock);
    let next = |table: &Table| if table.is_partitioned() { partition_for(table, &value_of) } else { None };
    let mut path = vec![open(from)];
    while let Some(partition) = path.last().and_then(next) {
        path.push(open(partition));
    }
    path
}

/// Gives back the locks of a path before the transaction ends. Nothing relies on them.
pub fn unlock(path: Vec<Table>) {
    for table in path.into_iter().rev() {
        let oid = relation::oid(&table);
        drop(table);
        relation::unlock(oid, pg_sys::AccessShareLock);
    }
}

/// `None` also if the key of the partitions is not made of columns that have values. It is for a table with a primary
/// key, unless its catalog was tampered with.
///
/// # Safety
/// As for [`path`]; the table is partitioned.
unsafe fn partition_for(table: &Table, value_of: impl Fn(&str) -> Option<pg_sys::Datum>) -> Option<pg_sys::Oid> {
    let relation = table.relation();
    let key = pg_sys::ffi::pg_guard_ffi_boundary(|| RelationGetPartitionKey(relation)).as_ref()?;
    let value = |number: &pg_sys::AttrNumber| {
        // An expression has the number 0.
        let position = usize::try_from(*number - 1).ok()?;
        value_of(&relation::text(&table.attribute(position).attname))
    };
    let numbers = slice::from_raw_parts(key.partattrs, key.partnatts as usize);
    let mut values: Vec<pg_sys::Datum> = numbers.iter().map(value).collect::<Option<_>>()?;
    let descriptor = &*pg_sys::RelationGetPartitionDesc(relation, false);
    // Null if there are no partitions.
    let bounds = descriptor.boundinfo.as_ref()?;
    let place = place_in_bounds(key, descriptor.boundinfo, &mut values);
    let index = place.map(|place| *bounds.indexes.add(place)).filter(|index| *index >= 0);
    let index = index.unwrap_or(bounds.default_index);
    usize::try_from(index).ok().map(|index| *descriptor.oids.add(index))
}

/// Where in the bounds' list of partitions the one for these values stands; `None` if only the default partition may
/// take them.
///
/// # Safety
/// The bounds are those of the table with this partition key, and there is one value for each of its columns.
unsafe fn place_in_bounds(
    key: &PartitionKey,
    bounds: pg_sys::PartitionBoundInfo,
    values: &mut [pg_sys::Datum],
) -> Option<usize> {
    let (functions, collations, count) = (key.partsupfunc, key.partcollation, values.len() as i32);
    let mut is_equal = false;
    match (*bounds).strategy as u8 {
        b'h' => {
            let mut nulls = vec![false; values.len()];
            let (values, nulls) = (values.as_mut_ptr(), nulls.as_mut_ptr());
            let hash = pg_sys::compute_partition_hash_value(count, functions, collations, values, nulls);
            Some((hash % (*bounds).nindexes as u64) as usize)
        }
        b'l' => {
            let at = pg_sys::partition_list_bsearch(functions, collations, bounds, values[0], &mut is_equal);
            is_equal.then_some(at as usize)
        }
        _ => {
            let values = values.as_mut_ptr();
            let at = pg_sys::partition_range_datum_bsearch(functions, collations, bounds, count, values, &mut is_equal);
            // Of the bound below the values, or -1. What comes after it is theirs.
            Some((at + 1) as usize)
        }
    }
}
