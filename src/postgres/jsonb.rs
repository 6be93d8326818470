//! Converts jsonb from and to text. pgrx's own type goes through serde_json, which turns large numbers into doubles,
//! but what is hashed must keep every digit.

use super::encoding::{self, NOT_TEXT};
use super::errors::{or_raise, Failure};
use super::memory;
use crate::ledger::{ascii_text, canonical_json, jsonb, row_change};
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::nullable::Nullable;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{
    check_for_interrupts, direct_function_call_as_datum, pg_sys, FromDatum, IntoDatum, PgSqlErrorCode, PgTryBuilder,
};
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;
use uuid::Uuid;

/// The canonical text of a JSON text that Postgres has accepted.
pub fn canonical(json: &str) -> Result<String, Failure> {
    let canonical = canonical_json::canonical_pausing(json, &mut || {
        check_for_interrupts!();
    });
    canonical.map_err(|error| {
        Failure::new(PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION, "JSON value has no canonical form")
            .detail(format!("There is {error}."))
    })
}

/// A jsonb argument, detoasted.
#[derive(Clone, Copy)]
pub struct Jsonb(pg_sys::Datum);

impl Jsonb {
    pub fn datum(self) -> pg_sys::Datum {
        self.0
    }

    /// The text, as `jsonb::text` gives it. If the bytes are not sound it is [`NOT_TEXT`], which is not JSON: Postgres'
    /// own function checks nothing of what it reads. An ERROR if the text is longer than a value of Postgres can be.
    pub fn text(self) -> String {
        or_raise(encoding::require_utf8());
        if !jsonb::is_sound(self.bytes()) {
            return NOT_TEXT.to_owned();
        }
        // SAFETY: a detoasted jsonb: a header of four bytes, then the container. is_sound() has checked that all of it
        // is where it claims to be.
        unsafe {
            let varlena = self.0.cast_mut_ptr::<pg_sys::Jsonb>();
            let size = pgrx::varsize(varlena.cast()) as i32;
            let text = pg_sys::JsonbToCString(std::ptr::null_mut(), &raw mut (*varlena).root, size);
            let owned = CStr::from_ptr(text).to_str().unwrap_or(NOT_TEXT).to_owned();
            pg_sys::pfree(text.cast());
            owned
        }
    }

    /// The canonical text.
    pub fn canonical(self) -> Result<String, Failure> {
        let mut out = Vec::new();
        if self.write_canonical(&mut out).is_some() {
            return Ok(ascii_text(out));
        }
        // The buffer may have grown long.
        drop(out);
        self.canonical_by_text()
    }

    /// As [`Jsonb::canonical`], for values for which [`Jsonb::write_canonical`] returns `None`.
    pub fn canonical_by_text(self) -> Result<String, Failure> {
        let text = self.text();
        if text == NOT_TEXT {
            return Err(Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, "a jsonb value is damaged").detail(
                "Postgres stores no value as these bytes: a disk has damaged the value, or someone has written the \
                 bytes past all checks.",
            )
            .hint("If it is a value of the ledger, SELECT * FROM ledger.find_tampering() names the entry."));
        }
        canonical(&text)
    }

    /// Appends the canonical text. Returns `None`, after appending an undefined part, if only
    /// [`Jsonb::canonical_by_text`] can give it or say why there is none.
    pub fn write_canonical(self, out: &mut Vec<u8>) -> Option<jsonb::Written> {
        if !encoding::is_utf8() {
            return None;
        }
        let bytes = self.bytes();
        memory::reserve(out, bytes.len() + bytes.len() / 4);
        jsonb::write_canonical(out, bytes)
    }

    /// Its bytes without the varlena header, valid as long as the datum.
    fn bytes(&self) -> &[u8] {
        // SAFETY: a detoasted jsonb, which no code changes while it is read.
        unsafe { pgrx::varlena_to_byte_slice(self.0.cast_mut_ptr()) }
    }

    /// The ids of the rows that the entry of this type and metadata is about, as [`row_change::row_ids`] finds them, if
    /// that is quick.
    pub fn row_ids(&self, entry_type: &str) -> Option<[Option<Uuid>; 2]> {
        row_change::row_ids_of_jsonb(entry_type, self.bytes())
    }

    pub fn is_object(self) -> bool {
        // A damaged value may be too short for a header.
        let header = self.bytes().first_chunk().map(|header| u32::from_ne_bytes(*header));
        header.is_some_and(|header| header & pg_sys::JB_FOBJECT != 0)
    }
}

/// A stored jsonb, detoasted for as long as this lives. If many rows are read in one memory context, the copies would
/// take as much memory as all their TOASTed values together.
pub struct Detoasted {
    jsonb: Jsonb,
    is_copy: bool,
}

impl Detoasted {
    /// # Safety
    /// `stored` is a non-null jsonb datum. No code changes or frees it, or resets the memory context, while this value
    /// lives.
    pub unsafe fn of(stored: pg_sys::Datum) -> Self {
        let is_plain = pgrx::varatt_is_4b_u(stored.cast_mut_ptr::<pg_sys::varlena>());
        // Of what is plain it would make the same, but the call costs more than all else here.
        let detoasted = if is_plain { stored } else { pg_sys::pg_detoast_datum(stored.cast_mut_ptr()).into() };
        Detoasted { jsonb: Jsonb(detoasted), is_copy: detoasted != stored }
    }
}

impl std::ops::Deref for Detoasted {
    type Target = Jsonb;
    fn deref(&self) -> &Jsonb {
        &self.jsonb
    }
}

impl Drop for Detoasted {
    fn drop(&mut self) {
        if self.is_copy {
            // SAFETY: of() allocated the copy, and no reference to it outlives this value.
            unsafe { pg_sys::pfree(self.jsonb.0.cast_mut_ptr()) }
        }
    }
}

impl FromDatum for Jsonb {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _: pg_sys::Oid) -> Option<Self> {
        (!is_null).then(|| Jsonb(pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).into()))
    }
}

// SAFETY: unboxes a datum that the SQL declaration says is a jsonb.
unsafe impl<'fcx> ArgAbi<'fcx> for Jsonb {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        arg.unbox_arg_using_from_datum().expect("a strict function gets no null")
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        arg.unbox_arg_using_from_datum().into()
    }
}

// SAFETY: the mapping names a built-in type.
unsafe impl SqlTranslatable for Jsonb {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Jsonb);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

/// A jsonb result, given as JSON text.
pub struct JsonbText(pub String);

impl From<serde_json::Value> for JsonbText {
    fn from(value: serde_json::Value) -> Self {
        JsonbText(value.to_string())
    }
}

impl IntoDatum for JsonbText {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        let text = CString::new(self.0).expect("JSON text holds no NUL");
        // SAFETY: jsonb_in takes a C string, and `text` is NUL-terminated.
        unsafe { direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(text.as_ptr().into())]) }
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

// SAFETY: boxes a jsonb datum, as the mapping below declares.
unsafe impl BoxRet for JsonbText {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        match self.into_datum() {
            Some(datum) => fcinfo.return_raw_datum(datum),
            None => fcinfo.return_null(),
        }
    }
}

// SAFETY: the mapping names a built-in type.
unsafe impl SqlTranslatable for JsonbText {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(JsonbText);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}

/// A jsonb value with this canonical text, in the current memory context. An ERROR if no jsonb value has it: a line
/// that states what its row does not would make the ledger invalid for good.
pub fn datum_of_canonical(canonical: &str) -> pg_sys::Datum {
    match jsonb::encode(canonical) {
        Some(bytes) => copied(&bytes),
        None => {
            let text = canonical_json::for_decimals(canonical).into_owned();
            let convert = AssertUnwindSafe(|| JsonbText(text).into_datum().unwrap_or(pg_sys::Datum::null()));
            let is_too_long = PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED;
            let datum = PgTryBuilder::new(convert)
                .catch_when(is_too_long, |error| too_long(canonical, &Failure::caught(&error)).raise())
                .execute();
            if or_raise(Jsonb(datum).canonical()) != canonical {
                let code = PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE;
                Failure::new(code, format!("metadata has a number that jsonb cannot hold{}", about_row(canonical)))
                    .detail("A jsonb holds up to 131072 digits before the decimal point, and up to 16383 behind it.")
                    .raise();
            }
            datum
        }
    }
}

/// Postgres says which of its limits was exceeded. This adds what was to be recorded.
fn too_long(canonical: &str, error: &Failure) -> Failure {
    let message = format!("metadata of an entry is too long for jsonb{}", about_row(canonical));
    Failure::new(PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, message).detail(error.text()).hint(
        "A jsonb holds at most 256 MiB. If a table is tracked with keep_image, the metadata holds the image of the \
         row, and for an UPDATE both the image before and the image after. Without keep_image, only the row's hash \
         is recorded.",
    )
}

/// What metadata of an entry about a row says of its table, for a message; otherwise nothing.
fn about_row(canonical: &str) -> String {
    let table = canonical_json::member(canonical, "table").map(|table| format!(", about a row of table {table}"));
    table.unwrap_or_default()
}

/// A jsonb value of these bytes, which include its header. It is valid as long as they are, or as long as the current
/// memory context.
pub fn datum_of_bytes(jsonb: &[u8]) -> pg_sys::Datum {
    match jsonb.as_ptr().cast::<u32>().is_aligned() {
        true => jsonb.as_ptr().into(),
        false => copied(jsonb),
    }
}

/// A copy of a varlena with a header of four bytes, aligned as Postgres wants it.
fn copied(varlena: &[u8]) -> pg_sys::Datum {
    // SAFETY: copies exactly as many bytes as were allocated.
    unsafe {
        let copy = pg_sys::palloc(varlena.len()).cast::<u8>();
        std::ptr::copy_nonoverlapping(varlena.as_ptr(), copy, varlena.len());
        copy.into()
    }
}

/// The bytes of a varlena without its header.
///
/// # Safety
/// `datum` is a non-null varlena, which no code changes or frees while the bytes are used. If it must be detoasted, the
/// bytes are in the current memory context.
pub unsafe fn bytes_of<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    match bytes_in_place(datum) {
        Some(bytes) => bytes,
        None => pgrx::varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr())),
    }
}

/// The bytes of a varlena, if it is neither compressed nor stored elsewhere. Calling Postgres' own function for that
/// takes as long as everything else about a short value.
///
/// # Safety
/// `datum` is a non-null varlena, which no code changes or frees while the bytes are used.
pub unsafe fn bytes_in_place<'a>(datum: pg_sys::Datum) -> Option<&'a [u8]> {
    let varlena = datum.cast_mut_ptr::<pg_sys::varlena>().cast_const();
    let is_in_place = pgrx::varatt_is_4b_u(varlena) || pgrx::varatt_is_1b(varlena) && !pgrx::varatt_is_1b_e(varlena);
    is_in_place.then(|| pgrx::varlena_to_byte_slice(varlena))
}

/// Calls `see` with a jsonb of these bytes, which have no varlena header.
pub fn with_header<T>(bytes: &[u8], see: impl FnOnce(pg_sys::Datum) -> T) -> T {
    let length = pg_sys::VARHDRSZ + bytes.len();
    // SAFETY: a varlena with a header of four bytes, in memory that Postgres aligns; freed after its last use.
    unsafe {
        let varlena = pg_sys::MemoryContextAllocHuge(pg_sys::CurrentMemoryContext, length).cast::<pg_sys::varlena>();
        pgrx::set_varsize_4b(varlena, length as i32);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), pgrx::vardata_4b(varlena).cast_mut().cast(), bytes.len());
        let seen = see(varlena.into());
        pg_sys::pfree(varlena.cast());
        seen
    }
}

/// A json argument: its text, exactly as it was written.
pub struct Json(pub String);

impl FromDatum for Json {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, oid: pg_sys::Oid) -> Option<Self> {
        String::from_polymorphic_datum(datum, is_null, oid).map(Json)
    }
}

// SAFETY: json is stored as text is, and the SQL declaration says that this is one.
unsafe impl<'fcx> ArgAbi<'fcx> for Json {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        arg.unbox_arg_using_from_datum().expect("a strict function gets no null")
    }

    unsafe fn unbox_nullable_arg(arg: Arg<'_, 'fcx>) -> Nullable<Self> {
        arg.unbox_arg_using_from_datum().into()
    }
}

// SAFETY: the mapping names a built-in type.
unsafe impl SqlTranslatable for Json {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Json);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("json"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("json")));
}
