//! Whose code runs where a value of a type is made from text: the CHECK of each domain in it. Only a superuser can have
//! a type run other code.

use crate::postgres::tables::attribute;
use pgrx::{check_for_interrupts, pg_sys};

/// Whether every domain in the type is of this role or of a superuser.
///
/// # Safety
/// Inside a transaction.
pub unsafe fn runs_only_code_of(role: pg_sys::Oid, type_oid: pg_sys::Oid) -> bool {
    // Types can be nested as deep as their owner likes.
    pg_sys::check_stack_depth();
    let (mut type_oid, mut form) = match type_form(type_oid) {
        Some(form) => (type_oid, form),
        None => return false,
    };
    while form.typtype as u8 == pg_sys::TYPTYPE_DOMAIN {
        check_for_interrupts!();
        if form.typowner != role && !pg_sys::superuser_arg(form.typowner) {
            return false;
        }
        type_oid = form.typbasetype;
        form = match type_form(type_oid) {
            Some(form) => form,
            None => return false,
        };
    }
    let is_of = |part: pg_sys::Oid| runs_only_code_of(role, part);
    match form.typtype as u8 {
        pg_sys::TYPTYPE_COMPOSITE => column_types(type_oid).into_iter().all(is_of),
        pg_sys::TYPTYPE_RANGE => is_of(pg_sys::get_range_subtype(type_oid)),
        pg_sys::TYPTYPE_MULTIRANGE => is_of(pg_sys::get_multirange_range(type_oid)),
        _ => match pg_sys::get_element_type(type_oid) {
            pg_sys::InvalidOid => true,
            element => is_of(element),
        },
    }
}

/// # Safety
/// Inside a transaction.
unsafe fn type_form(type_oid: pg_sys::Oid) -> Option<pg_sys::FormData_pg_type> {
    let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::TYPEOID as i32, type_oid.into());
    if tuple.is_null() {
        return None;
    }
    let form = *pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>();
    pg_sys::ReleaseSysCache(tuple);
    Some(form)
}

/// # Safety
/// The type is a composite one; inside a transaction.
unsafe fn column_types(type_oid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let descriptor = pg_sys::lookup_rowtype_tupdesc(type_oid, -1);
    let columns = (0..(*descriptor).natts as usize).map(|position| attribute(descriptor, position));
    let types = columns.filter(|column| !column.attisdropped).map(|column| column.atttypid).collect();
    if (*descriptor).tdrefcount >= 0 {
        pg_sys::DecrTupleDescRefCount(descriptor);
    }
    types
}
