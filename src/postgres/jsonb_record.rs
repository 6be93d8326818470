//! The members of a jsonb object as values of SQL types, as `jsonb_to_record()` gives them.
//!
//! A query that calls that function has to name the types, and whoever runs it needs USAGE on their schemas. Here types
//! have numbers, as where a row is read or written.

use super::jsonb::Jsonb;
use super::tables::Row;
use pgrx::pg_sys;
use std::ffi::CString;

/// A member, and the type and type modifier that its value shall have.
pub type Member<'a> = (&'a str, (pg_sys::Oid, i32));

/// The values of these members, null where the object has none of that name. They are valid as long as the current
/// memory context.
///
/// An ERROR if a type's input function refuses a value. May run code of whoever owns one of the types.
pub fn values(object: Jsonb, members: &[Member]) -> Row {
    let descriptor = descriptor(members);
    // SAFETY: the function is Postgres' own, and gets what it gets in the FROM clause of a query: a jsonb, and a
    // descriptor of the row to make. All that it uses is alive until it returns. Its result is a composite value with
    // that descriptor.
    unsafe {
        let mut function = pg_sys::FmgrInfo::default();
        pg_sys::fmgr_info(pg_sys::Oid::from(pg_sys::F_JSONB_TO_RECORD), &mut function);
        let mut caller = pg_sys::ReturnSetInfo {
            type_: pg_sys::NodeTag::T_ReturnSetInfo,
            expectedDesc: descriptor,
            ..Default::default()
        };
        let size = size_of::<pg_sys::FunctionCallInfoBaseData>() + size_of::<pg_sys::NullableDatum>();
        let call = pg_sys::palloc0(size).cast::<pg_sys::FunctionCallInfoBaseData>();
        (*call).flinfo = &raw mut function;
        (*call).resultinfo = (&raw mut caller).cast();
        (*call).nargs = 1;
        let argument = (&raw mut (*call).args).cast::<pg_sys::NullableDatum>();
        argument.write(pg_sys::NullableDatum { value: object.datum(), isnull: false });
        let header = pg_sys::jsonb_to_record(call).cast_mut_ptr::<pg_sys::HeapTupleHeaderData>();
        let t_len = pgrx::varsize(header.cast()) as u32;
        let mut tuple = pg_sys::HeapTupleData { t_len, t_data: header, ..Default::default() };
        Row::deform(&mut tuple, descriptor)
    }
}

fn descriptor(members: &[Member]) -> pg_sys::TupleDesc {
    // SAFETY: catalog look-ups inside a transaction. The descriptor has one attribute for each member, and copies the
    // name of each.
    unsafe {
        let descriptor = pg_sys::CreateTemplateTupleDesc(members.len() as i32);
        for ((name, (type_oid, modifier)), number) in members.iter().zip(1..) {
            let name = CString::new(*name).expect("a column's name holds no NUL");
            pg_sys::TupleDescInitEntry(descriptor, number, name.as_ptr(), *type_oid, *modifier, 0);
        }
        pg_sys::BlessTupleDesc(descriptor)
    }
}
