//! What the catalogs say of a table.

use crate::ledger::row_shape::ShapeColumn;
use crate::postgres::errors::{required, Failure};
use crate::postgres::lists;
use crate::postgres::quoting::{identifier, literal, type_name, type_with_modifier};
use crate::postgres::tables::Table;
use pgrx::callconv::{Arg, ArgAbi};
use pgrx::nullable::Nullable;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{pg_sys, pg_sys::ffi::pg_guard_ffi_boundary, FromDatum, PgSqlErrorCode};
use std::ffi::CStr;

/// An argument of type regclass: a table, by its name or oid.
pub struct Regclass(pub pg_sys::Oid);

impl FromDatum for Regclass {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, oid: pg_sys::Oid) -> Option<Self> {
        pg_sys::Oid::from_polymorphic_datum(datum, is_null, oid).map(Regclass)
    }
}

// SAFETY: a regclass is passed as the oid it is.
unsafe impl<'fcx> ArgAbi<'fcx> for Regclass {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        arg.unbox_arg_using_from_datum().expect("a strict function gets no null")
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        arg.unbox_arg_using_from_datum().into()
    }
}

// SAFETY: the mapping names a built-in type.
unsafe impl SqlTranslatable for Regclass {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Regclass);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("regclass"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("regclass")));
}

/// The oid of the relation that a function is called for; an ERROR if there is none.
pub fn target(given: Option<Regclass>) -> pg_sys::Oid {
    let target = required(given, "target").0;
    // SAFETY: a catalog look-up inside a transaction.
    if unsafe { pg_sys::get_rel_relkind(target) } == 0 {
        let message = format!("relation with OID {} does not exist", target.to_u32());
        Failure::new(PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE, message).raise()
    }
    target
}

/// A column that is not dropped.
pub struct TableColumn {
    pub name: String,
    /// As in pg_attribute, from 1. It stays when the column is renamed.
    pub number: i16,
    pub type_oid: pg_sys::Oid,
    /// The length of a `char(5)`, say.
    type_modifier: i32,
    /// Computed when it is read, so nothing is stored that could be recorded.
    pub is_virtual: bool,
}

impl TableColumn {
    /// From 0, in a row of the table.
    pub fn position(&self) -> usize {
        self.number as usize - 1
    }

    /// Its type as SQL, with the modifier, as `pg_catalog.numeric(10,2)`, whatever the search_path. With another
    /// modifier, unchanged values can have another text.
    pub fn own_type(&self) -> String {
        type_with_modifier(self.type_oid, self.type_modifier)
    }

    /// As an entry about a shape states it.
    pub fn as_shape(&self) -> ShapeColumn {
        ShapeColumn { number: self.number, name: self.name.clone(), type_name: self.own_type() }
    }

    /// Its type and modifier; for a domain, those that it is based on.
    pub fn base_type(&self) -> (pg_sys::Oid, i32) {
        let mut modifier = self.type_modifier;
        // SAFETY: a catalog look-up inside a transaction.
        let base = unsafe { pg_sys::getBaseTypeAndTypmod(self.type_oid, &mut modifier) };
        (base, modifier)
    }

    /// Whether its values are arrays of this type, or arrays of such arrays.
    pub fn is_array_of(&self, type_oid: pg_sys::Oid) -> bool {
        let element_of = |array: &pg_sys::Oid| {
            // SAFETY: catalog look-ups inside a transaction; the second is made only for a type that there is.
            unsafe {
                let element = pg_sys::get_element_type(*array);
                (element != pg_sys::InvalidOid).then(|| pg_sys::getBaseType(element))
            }
        };
        std::iter::successors(element_of(&self.base_type().0), element_of).any(|element| element == type_oid)
    }
}

pub fn live_columns(table: &Table) -> Vec<TableColumn> {
    let attributes = (0..table.column_count()).map(|position| table.attribute(position));
    let live = attributes.filter(|attribute| !attribute.attisdropped);
    live.map(|attribute| TableColumn {
        name: text(&attribute.attname),
        number: attribute.attnum,
        type_oid: attribute.atttypid,
        type_modifier: attribute.atttypmod,
        is_virtual: attribute.attgenerated as u8 == b'v',
    })
    .collect()
}

pub fn text(name: &pg_sys::NameData) -> String {
    // SAFETY: a name is a fixed array that ends with a zero byte.
    unsafe { CStr::from_ptr(name.data.as_ptr()) }.to_string_lossy().into_owned()
}

/// Whether the relation is a table, and not a view, an index or the like; false if it does not exist.
pub fn is_table(relation: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside a transaction; any oid may be asked for.
    let kind = unsafe { pg_sys::get_rel_relkind(relation) } as u8;
    matches!(kind, pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE)
}

pub fn oid(table: &Table) -> pg_sys::Oid {
    // SAFETY: a `Table` keeps its relation open as long as it lives.
    unsafe { (*table.relation()).rd_id }
}

/// The file of its rows. If it is another one, the rows were rewritten.
pub fn file_node(table: &Table) -> pg_sys::Oid {
    table.pg_class().relfilenode
}

/// As [`Table::qualified_name`], of a relation that need not be open; `None` if it does not exist.
pub fn name_of(relation: pg_sys::Oid) -> Option<String> {
    // SAFETY: catalog look-ups inside a transaction; each returns a copy, or null.
    let [schema, name] = unsafe {
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation));
        [schema, pg_sys::get_rel_name(relation)]
    };
    // SAFETY: both names are NUL-terminated copies, and are checked for null before they are read.
    (!schema.is_null() && !name.is_null())
        .then(|| unsafe { format!("{}.{}", identifier(CStr::from_ptr(schema)), identifier(CStr::from_ptr(name))) })
}

/// Its name alone and not quoted, as Postgres' own messages have it; empty if it does not exist.
pub fn bare_name(relation: pg_sys::Oid) -> String {
    // SAFETY: a catalog look-up inside a transaction, which returns a NUL-terminated copy, or null.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() {
            String::new()
        } else {
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}

/// A name for a message, which may be about a relation that was dropped meanwhile: then its oid.
pub fn shown_name(relation: pg_sys::Oid) -> String {
    name_of(relation).unwrap_or_else(|| relation.to_u32().to_string())
}

/// The table as an argument of the ledger's functions, for a hint that can be pasted.
pub fn name_literal(table: &Table) -> String {
    literal(&table.qualified_name())
}

/// The name of the type of the column at this position, if it is an enum, or a domain over one, without such a label.
pub fn enum_without_label(table: &Table, position: usize, label: &str) -> Option<String> {
    let column = live_columns(table).into_iter().find(|column| column.position() == position)?;
    let label = std::ffi::CString::new(label).ok()?;
    // SAFETY: catalog look-ups inside a transaction.
    unsafe {
        let base = pg_sys::getBaseType(column.type_oid);
        let cache = pg_sys::SysCacheIdentifier::ENUMTYPOIDNAME as i32;
        let has_label = || pg_sys::SearchSysCacheExists(cache, base.into(), label.as_ptr().into(), 0.into(), 0.into());
        (pg_sys::type_is_enum(base) && !has_label()).then(|| type_name(base))
    }
}

extern "C-unwind" {
    /// Functions of Postgres that pgrx does not declare, so [`guarded`] catches their errors. This one lists the
    /// ancestors from the relation's parent up to the topmost table.
    fn get_partition_ancestors(relation: pg_sys::Oid) -> *mut pg_sys::List;
    /// The oid of the default partition, or InvalidOid if the partitioned table has none.
    fn get_default_partition_oid(relation: pg_sys::Oid) -> pg_sys::Oid;
    /// Whether a relation is a partition, or was made to inherit from others.
    fn has_superclass(relation: pg_sys::Oid) -> bool;
    /// Only for a partition.
    fn PartitionHasPendingDetach(partition: pg_sys::Oid) -> bool;
}

/// Turns an error of a Postgres function into a panic, as pgrx does for the functions that it declares. Otherwise the
/// error would jump over destructors, and past code that would catch it.
///
/// # Safety
/// Inside a transaction, and `function` may be called for this relation.
unsafe fn guarded<T>(function: unsafe extern "C-unwind" fn(pg_sys::Oid) -> T, relation: pg_sys::Oid) -> T {
    pg_sys::ffi::pg_guard_ffi_boundary(|| function(relation))
}

/// The tables that this one is a partition of, from its parent up.
pub fn ancestors(table: &Table) -> Vec<pg_sys::Oid> {
    ancestors_of(oid(table))
}

/// As [`ancestors`], of a relation that need not be open. Without a lock on it, it may have become a partition of
/// another table meanwhile.
pub fn ancestors_of(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: catalog look-ups inside a transaction; the list is in the current memory context.
    unsafe {
        if !pg_sys::get_rel_relispartition(relation) {
            return Vec::new();
        }
        let list = guarded(get_partition_ancestors, relation);
        lists::oids(list).collect()
    }
}

/// Whether the table inherits columns from others, and is no partition.
pub fn inherits(table: &Table) -> bool {
    // SAFETY: a catalog look-up inside a transaction; any oid may be given.
    !table.pg_class().relispartition && unsafe { guarded(has_superclass, oid(table)) }
}

/// As [`named`], but `None` if there is no such relation.
///
/// # Safety
/// As for [`named`].
pub unsafe fn find_named(name: *mut pg_sys::RangeVar) -> Option<pg_sys::Oid> {
    Some(named(name)).filter(|oid| *oid != pg_sys::InvalidOid)
}

/// The relation with this name now, without a lock, or InvalidOid.
///
/// # Safety
/// `name` is part of a parse tree that Postgres passed to a hook; inside a transaction.
pub unsafe fn named(name: *mut pg_sys::RangeVar) -> pg_sys::Oid {
    let lock = pg_sys::NoLock as pg_sys::LOCKMODE;
    pg_sys::RangeVarGetRelidExtended(name, lock, pg_sys::RVROption::RVR_MISSING_OK, None, std::ptr::null_mut())
}

/// Locks what has a name, if the caller `may`. Otherwise the caller gets no lock, and the command itself raises the
/// error. While this session waits for the lock, the name may become that of something else, and the command takes what
/// has it then: so that is looked up again.
pub fn lock_by_name<T: PartialEq>(
    find: impl Fn() -> Option<T>,
    may: impl Fn(&T) -> bool,
    lock: impl Fn(&T),
) -> Option<T> {
    loop {
        let found = find().filter(&may)?;
        lock(&found);
        if find().as_ref() == Some(&found) {
            return Some(found);
        }
    }
}

/// Locks a relation until the transaction ends.
pub fn lock(relation: pg_sys::Oid, mode: u32) {
    // SAFETY: inside a transaction. Any oid may be locked, whether or not a relation has it.
    unsafe { pg_sys::LockRelationOid(relation, mode as pg_sys::LOCKMODE) }
}

/// Gives a lock back before the transaction ends.
pub fn unlock(relation: pg_sys::Oid, mode: u32) {
    // SAFETY: inside a transaction. The caller has that lock; if it had not, there would only be a warning.
    unsafe { pg_sys::UnlockRelationOid(relation, mode as pg_sys::LOCKMODE) }
}

/// As [`lock`], unless it would have to wait: then false.
pub fn lock_if_free(relation: pg_sys::Oid, mode: u32) -> bool {
    // SAFETY: as in lock().
    unsafe { pg_sys::ConditionalLockRelationOid(relation, mode as pg_sys::LOCKMODE) }
}

/// The direct partitions of a table.
pub fn partitions(table: &Table) -> Vec<pg_sys::Oid> {
    if !table.is_partitioned() {
        return Vec::new();
    }
    // SAFETY: the relation is open, and its descriptor is valid as long as it is.
    unsafe {
        let descriptor = pg_sys::RelationGetPartitionDesc(table.relation(), false);
        (0..(*descriptor).nparts as usize).map(|at| *(*descriptor).oids.add(at)).collect()
    }
}

/// The partition for rows that no other partition takes.
pub fn default_partition(table: &Table) -> Option<pg_sys::Oid> {
    // SAFETY: a catalog look-up for the open relation.
    Some(unsafe { guarded(get_default_partition_oid, oid(table)) }).filter(|oid| *oid != pg_sys::InvalidOid)
}

/// Whether a DETACH ... CONCURRENTLY of the table has begun and is not finished.
pub fn is_leaving(table: &Table) -> bool {
    // SAFETY: a catalog look-up inside a transaction, for a partition only, as it requires.
    table.pg_class().relispartition && unsafe { guarded(PartitionHasPendingDetach, oid(table)) }
}

/// The partitions that hold rows, or the table itself where it has none.
pub fn leaves(table: Table) -> Vec<Table> {
    // SAFETY: raises an ERROR before the stack ends, however deep the partitions are.
    unsafe { pg_sys::check_stack_depth() };
    if !table.is_partitioned() {
        return vec![table];
    }
    let parts = partitions(&table).into_iter();
    parts.flat_map(|oid| leaves(Table::open_oid(oid, pg_sys::AccessShareLock))).collect()
}

/// Locks a relation for reading until the transaction ends, if there is one with that oid.
pub fn lock_if_there(oid: pg_sys::Oid) -> bool {
    // SAFETY: the result is null if there is no such relation. An opened one is closed, and its lock is kept.
    unsafe {
        let opened = pg_sys::try_relation_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        if !opened.is_null() {
            pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        }
        !opened.is_null()
    }
}

/// The table, its partitions, and theirs. Each is locked after its parent, in the order in which Postgres locks them:
/// level by level, by oid.
pub fn tree(table: &Table, lock: u32) -> Vec<pg_sys::Oid> {
    let mut all = vec![oid(table)];
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        let mut parts = partitions(&Table::open_oid(*parent, pg_sys::NoLock));
        parts.sort_unstable_by_key(|part| part.to_u32());
        parts.iter().for_each(|part| self::lock(*part, lock));
        all.append(&mut parts);
        next += 1;
    }
    all
}

extern "C-unwind" {
    // Not among pgrx's declarations.
    fn find_all_inheritors(
        parent: pg_sys::Oid,
        lock: pg_sys::LOCKMODE,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}

/// A table that is locked, and all that inherit from it: its partitions, and tables that were made with `INHERITS`.
/// They are locked in the order in which Postgres locks them.
pub fn with_heirs(table: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> Vec<pg_sys::Oid> {
    // SAFETY: inside a transaction; an error may jump out of the call, which has nothing with a destructor. The list is
    // a copy.
    unsafe {
        let list = pg_guard_ffi_boundary(|| find_all_inheritors(table, lock, std::ptr::null_mut()));
        let all = lists::oids(list).collect();
        pg_sys::list_free(list);
        all
    }
}
