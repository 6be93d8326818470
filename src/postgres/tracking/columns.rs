//! One row of an application's table as JSON, whatever the session's settings. What takes more than the type's own text
//! is in [`row_value`](crate::ledger::row_value).
//!
//! | type | JSON |
//! |---|---|
//! | boolean, integers, oid | as such |
//! | float4, float8 | number, shortest; `"NaN"`, `"Infinity"`, `"-Infinity"` as strings |
//! | numeric | number; a string where it has a fraction and more than 15 digits, as a double would not keep them |
//! | json, jsonb | as such; a string with its text where a number in it would not be kept, or jsonb has no such character |
//! | date, time, timestamp, timestamptz | string, ISO 8601; timestamptz in UTC |
//! | bytea | string, `\x` and hex |
//! | "char" | string; a byte that is not ASCII as `\303`, as Postgres 15 and later print it |
//! | regclass and its like | the oid: their names change with the search_path, and with the object |
//! | money | the number behind it, in the smallest unit |
//! | arrays of one dimension counted from 1 | array |
//! | any other | string: what the type's output function prints under fixed settings |
//!
//! It is what `to_jsonb` gives for common types. Null columns are left out, so that a nullable column can be added
//! without changing what was recorded. Virtual generated columns are not stored, and not covered.

use super::fixed_settings::FixedSettings;
use super::output_function::{FunctionMemory, OutputFunction};
use crate::ledger::canonical_json::write_string;
use crate::ledger::record::MAX_METADATA;
use crate::ledger::row_value::{char_array_text, char_text, write_float, write_json, write_numeric};
use crate::ledger::{ascii_text, to_hex};
use crate::postgres::errors::Failure;
use crate::postgres::jsonb::{bytes_of, Jsonb};
use crate::postgres::tables::{uuid_from_datum, Row};
use pgrx::{pg_sys, FromDatum, PgSqlErrorCode};
use std::ffi::{c_char, CStr};
use std::ops::Deref;
use std::rc::Rc;
use uuid::Uuid;

// Of Postgres, and not among pgrx's declarations. They only write to the buffer that they are given, and raise no
// error.
extern "C" {
    fn double_to_shortest_decimal_buf(number: f64, text: *mut c_char) -> i32;
    fn float_to_shortest_decimal_buf(number: f32, text: *mut c_char) -> i32;
}

/// How a type's values become JSON.
enum Encoding {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric(OutputFunction),
    Json,
    Jsonb,
    Text,
    /// One byte, of type "char".
    Char,
    Uuid,
    Bytea,
    DateTime(pg_sys::Oid),
    Array(Box<Element>),
    Output(OutputFunction),
}

/// The elements of an array type.
struct Element {
    type_oid: pg_sys::Oid,
    length: i16,
    by_value: bool,
    align: c_char,
    encoding: Encoding,
    /// For arrays that no JSON array states.
    whole: OutputFunction,
}

/// A column that is recorded.
pub struct Column {
    pub name: String,
    /// From 0, in the relation whose rows are encoded.
    pub position: usize,
    /// The name as JSON, with what stands between it and the value.
    key: Vec<u8>,
    encoding: Encoding,
}

impl Column {
    /// A column that stands in the JSON under `name`. Looks the type up in the catalogs.
    pub fn new(
        name: &str,
        position: usize,
        type_oid: pg_sys::Oid,
        memory: &Rc<FunctionMemory>,
    ) -> Result<Column, Failure> {
        let mut key = Vec::with_capacity(name.len() + 4);
        write_string(&mut key, name);
        key.extend_from_slice(b": ");
        Ok(Column { name: name.to_owned(), position, key, encoding: Encoding::of(type_oid, memory)? })
    }

    /// The value of this column in a row as JSON text; `None` for null.
    pub fn json(&self, row: &Row) -> Result<Option<String>, Failure> {
        let Some(value) = row.datum(self.position) else { return Ok(None) };
        let mut out = Vec::new();
        let _fixed = self.encoding.depends_on_settings().then(FixedSettings::set);
        self.encoding.write(value, &mut out).map_err(|unfit| unfit.failure(SOME_ROW))?;
        Ok(Some(ascii_text(out)))
    }
}

/// Columns that are recorded together.
pub struct Columns {
    columns: Vec<Column>,
    /// Their places in it, in the order of the names.
    by_name: Vec<usize>,
    depend_on_settings: bool,
}

impl Columns {
    pub fn new(columns: Vec<Column>) -> Columns {
        let mut by_name: Vec<usize> = (0..columns.len()).collect();
        by_name.sort_by(|a, b| columns[*a].name.cmp(&columns[*b].name));
        let depend_on_settings = columns.iter().any(|column| column.encoding.depends_on_settings());
        Columns { columns, by_name, depend_on_settings }
    }

    /// Whether JSON states all their values exactly. What the output function of some type prints, its input function
    /// may read as another value.
    pub fn are_exact(&self) -> bool {
        let is_printed =
            |column: &Column| matches!(column.encoding, Encoding::Array(_) | Encoding::Output(_) | Encoding::Char);
        !self.iter().any(is_printed)
    }
}

impl Deref for Columns {
    type Target = [Column];

    fn deref(&self) -> &[Column] {
        &self.columns
    }
}

/// The canonical JSON object of these columns, nulls left out.
pub fn object(columns: &Columns, row: &Row) -> Result<String, Failure> {
    object_of(columns, row, || SOME_ROW.to_owned())
}

/// The same of a row that has a name, for errors.
pub fn object_of(columns: &Columns, row: &Row, name: impl FnOnce() -> String) -> Result<String, Failure> {
    members(columns, row).map_err(|unfit| unfit.failure(&name()))
}

fn members(columns: &Columns, row: &Row) -> Result<String, Unfit> {
    let mut out = Vec::with_capacity(512);
    out.push(b'{');
    let _fixed = columns.depend_on_settings.then(FixedSettings::set);
    for column in columns.by_name.iter().map(|place| &columns[*place]) {
        let Some(value) = row.datum(column.position) else { continue };
        if out.len() > 1 {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(&column.key);
        column.encoding.write(value, &mut out)?;
    }
    out.push(b'}');
    Ok(ascii_text(out))
}

/// The canonical JSON array of the values of these columns, which are not null.
pub fn array(columns: &Columns, row: &Row) -> Result<String, Failure> {
    elements(columns, row).map_err(|unfit| unfit.failure(SOME_ROW))
}

fn elements(columns: &Columns, row: &Row) -> Result<String, Unfit> {
    let mut out = Vec::with_capacity(64);
    out.push(b'[');
    let _fixed = columns.depend_on_settings.then(FixedSettings::set);
    for column in columns.iter() {
        let Some(value) = row.datum(column.position) else { continue };
        if out.len() > 1 {
            out.extend_from_slice(b", ");
        }
        column.encoding.write(value, &mut out)?;
    }
    out.push(b']');
    Ok(ascii_text(out))
}

/// One that nobody has named.
const SOME_ROW: &str = "a row";

/// Why a value cannot be recorded.
#[derive(Debug, Clone, Copy)]
enum Unfit {
    TooLong,
    NotText,
}

impl Unfit {
    /// `row` says which one it is.
    fn failure(self, row: &str) -> Failure {
        let (code, detail, hint) = match self {
            Unfit::TooLong => (
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!("As JSON it has more than {MAX_METADATA} bytes."),
                "Track the table without the large column: see argument excluded of ledger.track().",
            ),
            Unfit::NotText => (
                PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
                "It holds bytes that are not UTF-8 text.".to_owned(),
                "Postgres accepts no such text: it was written past the checks of Postgres, or is damaged. Track the \
                 table without the column (see argument excluded of ledger.track()), or stop tracking it, to set the \
                 column to another value.",
            ),
        };
        Failure::new(code, format!("{row} cannot be recorded")).detail(detail).hint(hint)
    }
}

/// A longer text of type json becomes a string, without being parsed: that takes many times its memory, and no jsonb
/// holds as much.
const LONGEST_JSON: usize = 256 << 20;

/// Elements of an array, and columns, are many, and each may be long: a numeric of a few bytes has up to 131,072
/// digits.
fn check_length(json: &[u8]) -> Result<(), Unfit> {
    match json.len() <= MAX_METADATA {
        true => Ok(()),
        false => Err(Unfit::TooLong),
    }
}

impl Encoding {
    fn of(type_oid: pg_sys::Oid, memory: &Rc<FunctionMemory>) -> Result<Encoding, Failure> {
        use pg_sys::*;
        // SAFETY: catalog look-ups inside a transaction. An array's elements can be a domain over an array, and so on.
        let base = unsafe {
            pg_sys::check_stack_depth();
            pg_sys::getBaseType(type_oid)
        };
        Ok(match base {
            BOOLOID => Encoding::Bool,
            INT2OID => Encoding::Int2,
            INT4OID => Encoding::Int4,
            INT8OID | MONEYOID => Encoding::Int8,
            OIDOID | REGPROCOID | REGPROCEDUREOID | REGOPEROID | REGOPERATOROID | REGCLASSOID | REGTYPEOID
            | REGCONFIGOID | REGDICTIONARYOID | REGNAMESPACEOID | REGROLEOID | REGCOLLATIONOID => Encoding::Oid,
            FLOAT4OID => Encoding::Float4,
            FLOAT8OID => Encoding::Float8,
            NUMERICOID => Encoding::Numeric(OutputFunction::of(base, memory)),
            JSONOID => Encoding::Json,
            JSONBOID => Encoding::Jsonb,
            TEXTOID | VARCHAROID | BPCHAROID => Encoding::Text,
            CHAROID => Encoding::Char,
            UUIDOID => Encoding::Uuid,
            BYTEAOID => Encoding::Bytea,
            DATEOID | TIMEOID | TIMETZOID | TIMESTAMPOID | TIMESTAMPTZOID => Encoding::DateTime(base),
            _ => match Element::of(base, memory)? {
                Some(element) => Encoding::Array(Box::new(element)),
                None => Encoding::Output(OutputFunction::of(base, memory)),
            },
        })
    }

    /// Whether what Postgres prints of such values depends on the session.
    fn depends_on_settings(&self) -> bool {
        matches!(self, Encoding::Array(_) | Encoding::Output(_))
    }

    /// Appends the value as canonical JSON.
    fn write(&self, value: pg_sys::Datum, out: &mut Vec<u8>) -> Result<(), Unfit> {
        // SAFETY: a datum that is not null, of the type that this encoding was made for, as all of these expect.
        unsafe {
            match self {
                Encoding::Bool => out.extend_from_slice(if value.value() & 0xff != 0 { b"true" } else { b"false" }),
                Encoding::Int2 => write_integer(out, value.value() as i16),
                Encoding::Int4 => write_integer(out, value.value() as i32),
                Encoding::Int8 => write_integer(out, i64::from_datum(value, false).unwrap_or_default()),
                Encoding::Oid => write_integer(out, value.value() as u32),
                Encoding::Float4 => write_float4(f32::from_bits(value.value() as u32), out),
                Encoding::Float8 => write_float8(f64::from_datum(value, false).unwrap_or_default(), out),
                Encoding::Numeric(function) => write_numeric(out, &printed(function, value)?),
                Encoding::Json => write_stored_json(value, out)?,
                Encoding::Jsonb => {
                    Jsonb::from_datum(value, false).into_iter().for_each(|value| write_jsonb(value, out))
                }
                Encoding::Text => write_text(value, out)?,
                Encoding::Char => write_string(out, &char_text(value.value() as u8)),
                Encoding::Uuid => write_uuid(uuid_from_datum(value), out),
                Encoding::Bytea => write_bytea(value, out)?,
                Encoding::DateTime(type_oid) => write_date_time(value, *type_oid, out)?,
                Encoding::Array(element) => element.write_array(value, out)?,
                Encoding::Output(function) => write_string(out, &printed(function, value)?),
            }
        }
        check_length(out)
    }
}

impl Element {
    /// If the type is a true array.
    fn of(array: pg_sys::Oid, memory: &Rc<FunctionMemory>) -> Result<Option<Element>, Failure> {
        // SAFETY: catalog look-ups inside a transaction.
        unsafe {
            let type_oid = pg_sys::get_element_type(array);
            if type_oid == pg_sys::InvalidOid {
                return Ok(None);
            }
            let (mut length, mut by_value, mut align) = (0, false, 0);
            pg_sys::get_typlenbyvalalign(type_oid, &mut length, &mut by_value, &mut align);
            let (encoding, whole) = (Encoding::of(type_oid, memory)?, OutputFunction::of(array, memory));
            Ok(Some(Element { type_oid, length, by_value, align, encoding, whole }))
        }
    }

    /// # Safety
    /// `value` is an array of such elements.
    unsafe fn write_array(&self, value: pg_sys::Datum, out: &mut Vec<u8>) -> Result<(), Unfit> {
        pg_sys::check_stack_depth();
        let array = pg_sys::pg_detoast_datum(value.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let lower_bound = || *array.cast::<u8>().add(size_of::<pg_sys::ArrayType>() + size_of::<i32>()).cast::<i32>();
        if (*array).ndim > 1 || ((*array).ndim == 1 && lower_bound() != 1) {
            write_string(out, &self.print_whole(value)?);
            return Ok(());
        }
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            self.type_oid,
            self.length.into(),
            self.by_value,
            self.align,
            &mut values,
            &mut nulls,
            &mut count,
        );
        out.push(b'[');
        for index in 0..count as usize {
            if index > 0 {
                out.extend_from_slice(b", ");
            }
            match *nulls.add(index) {
                true => out.extend_from_slice(b"null"),
                false => self.encoding.write(*values.add(index), out)?,
            }
        }
        out.push(b']');
        Ok(())
    }

    /// # Safety
    /// As for [`Element::write_array`].
    unsafe fn print_whole(&self, value: pg_sys::Datum) -> Result<String, Unfit> {
        match self.encoding {
            Encoding::Char => Ok(self.whole.print(value, char_array_text)),
            _ => printed(&self.whole, value),
        }
    }
}

fn write_integer(out: &mut Vec<u8>, number: impl std::fmt::Display) {
    use std::io::Write;
    // Infallible: a vector takes any text.
    let _ = write!(out, "{number}");
}

fn write_float4(number: f32, out: &mut Vec<u8>) {
    // SAFETY: writes at most 16 bytes (common/shortest_dec.h), of which the buffer has 32.
    let print = |text| unsafe { float_to_shortest_decimal_buf(number, text) };
    write_float(out, shortest(&mut [0; 32], print));
}

fn write_float8(number: f64, out: &mut Vec<u8>) {
    // SAFETY: writes at most 25 bytes (common/shortest_dec.h), of which the buffer has 32.
    let print = |text| unsafe { double_to_shortest_decimal_buf(number, text) };
    write_float(out, shortest(&mut [0; 32], print));
}

/// The text that `print` puts into the buffer, all of it ASCII.
fn shortest(buffer: &mut [u8; 32], print: impl FnOnce(*mut c_char) -> i32) -> &str {
    let length = print(buffer.as_mut_ptr().cast()) as usize;
    std::str::from_utf8(&buffer[..length]).unwrap_or_default()
}

fn write_uuid(id: Uuid, out: &mut Vec<u8>) {
    let mut buffer = Uuid::encode_buffer();
    let digits = id.hyphenated().encode_lower(&mut buffer);
    // They need no escapes.
    out.push(b'"');
    out.extend_from_slice(digits.as_bytes());
    out.push(b'"');
}

/// # Safety
/// `value` is not null, and of type text or stored like it.
unsafe fn write_text(value: pg_sys::Datum, out: &mut Vec<u8>) -> Result<(), Unfit> {
    // SAFETY: a varlena, as the caller says. What it belongs to stays in memory until this returns.
    let text = unsafe { bytes_of(value) };
    check_length(text)?;
    write_string(out, utf8(text)?);
    Ok(())
}

/// # Safety
/// `value` is not null, and of type bytea.
unsafe fn write_bytea(value: pg_sys::Datum, out: &mut Vec<u8>) -> Result<(), Unfit> {
    // SAFETY: as in write_text().
    let bytes = unsafe { bytes_of(value) };
    check_length(bytes)?;
    write_string(out, &format!("\\x{}", to_hex(bytes)));
    Ok(())
}

/// # Safety
/// `value` is not null, and of this type, which is one of those for dates and times.
unsafe fn write_date_time(value: pg_sys::Datum, type_oid: pg_sys::Oid, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let mut buffer = [0 as c_char; pg_sys::MAXDATELEN as usize + 1];
    let utc = 0;
    // SAFETY: the value is of a type that the function knows, as the caller says. It asks for a buffer of this size, in
    // which it leaves a text that ends with a NUL.
    let text = unsafe {
        pg_sys::JsonEncodeDateTime(buffer.as_mut_ptr(), value, type_oid, &utc);
        CStr::from_ptr(buffer.as_ptr())
    };
    write_string(out, utf8(text.to_bytes())?);
    Ok(())
}

/// A value of type json, which is stored as the text that it was given as.
///
/// # Safety
/// `value` is not null, and of type json.
unsafe fn write_stored_json(value: pg_sys::Datum, out: &mut Vec<u8>) -> Result<(), Unfit> {
    // SAFETY: as in write_text().
    let text = unsafe { bytes_of(value) };
    check_length(text)?;
    match text.len() <= LONGEST_JSON {
        true => write_json(out, utf8(text)?),
        false => write_string(out, utf8(text)?),
    }
    Ok(())
}

/// As [`write_json`]. Few values need the long way.
fn write_jsonb(value: Jsonb, out: &mut Vec<u8>) {
    let start = out.len();
    match value.write_canonical(out) {
        Some(written) if written.keeps_numbers && out[start] != b'"' => {}
        _ => {
            out.truncate(start);
            write_json(out, &value.text());
        }
    }
}

/// # Safety
/// `value` is of the type whose output function this is.
unsafe fn printed(function: &OutputFunction, value: pg_sys::Datum) -> Result<String, Unfit> {
    function.print(value, |text| utf8(text).map(str::to_owned))
}

/// Only a database whose encoding is UTF8 has a ledger.
fn utf8(text: &[u8]) -> Result<&str, Unfit> {
    std::str::from_utf8(text).map_err(|_| Unfit::NotText)
}
