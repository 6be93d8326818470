//! Reads rows of `ledger.entries` and its partitions, and makes rows for sealing.

use super::{checked_timestamp, Row, Table};
use crate::ledger::ascii_text;
use crate::ledger::log_tree::leaf_hash;
use crate::ledger::record::{check_data_hash, check_entry_type, check_metadata, Entry, EntryLine};
use crate::ledger::row_change::{self, Operation};
use crate::ledger::verifier::{StoredEntry, StoredMetadata};
use crate::ledger::Hash;
use crate::postgres::encoding::NOT_TEXT;
use crate::postgres::errors::Failure;
use crate::postgres::jsonb::{self, Detoasted, Jsonb};
use pgrx::{pg_sys, FromDatum, PgMemoryContexts, PgSqlErrorCode, PgTryBuilder};
use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use uuid::Uuid;

/// Columns of `ledger.entries` and its partitions.
pub mod entry_column {
    use pgrx::pg_sys::{self, Oid};

    pub const ID: usize = 0;
    pub const BLOCK_NUMBER: usize = 1;
    pub const ENTRY_TYPE: usize = 2;
    pub const DATA_HASH: usize = 3;
    pub const METADATA: usize = 4;
    pub const SIGNATURE: usize = 5;
    pub const KEY_ID: usize = 6;
    pub const CREATED_AT: usize = 7;
    pub const LEAF_INDEX: usize = 8;
    pub const COUNT: usize = 9;
    pub const TYPES: [Oid; COUNT] = [
        pg_sys::UUIDOID,
        pg_sys::INT8OID,
        pg_sys::VARCHAROID,
        pg_sys::VARCHAROID,
        pg_sys::JSONBOID,
        pg_sys::VARCHAROID,
        pg_sys::VARCHAROID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::INT8OID,
    ];
    pub const NAMES: [&str; COUNT] = [
        "id",
        "block_number",
        "entry_type",
        "data_hash",
        "metadata",
        "signature",
        "key_id",
        "created_at",
        "leaf_index",
    ];
}

/// A query for sealed entries in leaf order, with the columns in the order of [`entry_column`].
pub fn sealed_where(condition: &str) -> String {
    let columns = entry_column::NAMES.join(", ");
    format!("SELECT {columns} FROM ledger.entries_sealed WHERE {condition} ORDER BY leaf_index")
}

/// The places of the columns of `ledger.entries` in a partition. `None` if they are the same there, and no column
/// stands or stood behind them. Only a partition that the ledger has not made can have another order, or have had more
/// columns.
pub(super) fn column_order(partition: &Table) -> Option<Box<[usize]>> {
    let place = |name| partition.position_of(name);
    // A partition that lacks one of them could not have been attached.
    let order: Option<Box<[usize]>> = entry_column::NAMES.into_iter().map(place).collect();
    let is_own = |order: &[usize]| order.iter().copied().eq(0..partition.column_count());
    order.filter(|order| !is_own(order))
}

/// Why the line of a row of `ledger.entries` is not a valid one: the row holds values that only a superuser, or a
/// faulty disk, can have put there. `line` is what the row reads as.
pub fn fault_of(row: &Row, line: &EntryLine) -> Option<&'static str> {
    if let Some(malformation) = malformation(row) {
        return Some(malformation);
    }
    if line.metadata == NOT_TEXT {
        return Some("its metadata is not a value that Postgres stores");
    }
    let texts = [Some(line.data_hash), Some(&line.entry_type), line.signature.as_deref(), line.key_id.as_deref()];
    if texts.contains(&Some(NOT_TEXT)) {
        return Some("one of its texts is not UTF-8, or holds a NUL");
    }
    let data_hash = check_data_hash(line.data_hash);
    let checked =
        data_hash.and_then(|()| check_entry_type(&line.entry_type)).and_then(|()| check_metadata(line.metadata));
    checked.err().map(|invalid| invalid.0)
}

/// Stands in place of the data hash of a row that holds a value no line can state; see [`malformation`]. What such a
/// value reads as (an epoch for a null time, say) could be what was recorded, and then the change would pass unnoticed.
/// This is longer than any data hash, so it never matches.
const MALFORMED: &str =
    "(a value of this row is none that the ledger writes, so this is not the data hash that was recorded)";
const _: () = assert!(MALFORMED.len() > 64);

/// What is wrong with a row of `ledger.entries` that holds a value no line can state. Only a superuser can have put it
/// there. [`fault_of`] finds other such values; in a sealed row they show as a leaf that is not that of the log tree.
pub fn malformation(row: &Row) -> Option<&'static str> {
    use entry_column::*;
    if [ID, ENTRY_TYPE, DATA_HASH, METADATA].iter().any(|column| row.is_null(*column)) {
        return Some("a column of the entry is null that must not be null");
    }
    let created_at = row.get::<i64>(CREATED_AT).and_then(checked_timestamp);
    created_at.is_none().then_some("the time of the entry is not one that a line can state")
}

fn data_hash(row: &Row) -> &str {
    match malformation(row) {
        None => row.text(entry_column::DATA_HASH).unwrap_or_default(),
        Some(_) => MALFORMED,
    }
}

/// The entry in a row of `ledger.entries`. A column that a superuser has emptied reads as empty, and its data hash as
/// [`MALFORMED`]: verification then finds that the line is not the recorded one.
pub fn entry_from_row(row: &Row) -> Entry {
    let metadata = detoasted_metadata(row).map(|jsonb| canonical_metadata(*jsonb)).unwrap_or_default();
    entry_with_metadata(row, metadata)
}

/// The leaf hash of the entry in a row of `ledger.entries`.
pub fn leaf_of(row: &Row) -> Hash {
    leaf_hash(&entry_from_row(row).line())
}

/// As [`entry_from_row`], but borrows what the row has as text. `metadata` is a buffer for what it does not have as
/// text.
pub fn entry_line<'r>(row: &'r Row, metadata: &'r mut String) -> EntryLine<'r> {
    entry_line_with(row, detoasted_metadata(row).as_deref(), metadata)
}

/// The same, for a caller that has the row's metadata already.
pub fn entry_line_with<'r>(row: &'r Row, jsonb: Option<&Jsonb>, metadata: &'r mut String) -> EntryLine<'r> {
    use entry_column::*;
    match jsonb {
        Some(jsonb) => replace_by_canonical(metadata, *jsonb),
        None => metadata.clear(),
    }
    EntryLine {
        entry_id: row.uuid(ID).unwrap_or_default(),
        entry_type: Cow::Borrowed(row.text(ENTRY_TYPE).unwrap_or_default()),
        data_hash: data_hash(row),
        metadata,
        signature: row.text(SIGNATURE).map(Cow::Borrowed),
        key_id: row.text(KEY_ID).map(Cow::Borrowed),
        created_at: row.timestamp(CREATED_AT).unwrap_or_default(),
    }
}

/// The metadata of a row of `ledger.entries`.
pub fn detoasted_metadata(row: &Row) -> Option<Detoasted> {
    // SAFETY: a non-null jsonb datum of a row that outlives what is made of it.
    row.datum(entry_column::METADATA).map(|stored| unsafe { Detoasted::of(stored) })
}

/// Whether the entry in this row of `ledger.entries` is about a row of a tracked table. Reads only its type.
pub fn is_about_rows(entry: &Row) -> bool {
    entry.text(entry_column::ENTRY_TYPE).is_some_and(|entry_type| Operation::from_entry_type(entry_type).is_some())
}

/// The ids of the rows, or of the item, that the entry in a row of `ledger.entries` is about, the quick way if there is
/// one.
pub fn row_ids(row: &Row) -> [Option<Uuid>; 2] {
    let Some(entry_type) = row.text(entry_column::ENTRY_TYPE) else { return [None, None] };
    let quick = detoasted_metadata(row).and_then(|metadata| metadata.row_ids(entry_type));
    quick.unwrap_or_else(|| row_change::row_ids(entry_type, &entry_from_row(row).metadata))
}

/// The entry in a row of `ledger.entries` as it is stored, for [`EntryHasher`](crate::ledger::verifier::EntryHasher).
pub fn stored_entry(row: &Row) -> StoredEntry<'_> {
    use entry_column::*;
    StoredEntry {
        entry_id: row.uuid(ID).unwrap_or_default(),
        entry_type: row.text(ENTRY_TYPE).unwrap_or_default(),
        data_hash: data_hash(row),
        metadata: row.datum(METADATA).map_or(StoredMetadata::Text(""), stored_metadata),
        signature: row.text(SIGNATURE),
        key_id: row.text(KEY_ID),
        created_at: row.timestamp(CREATED_AT).unwrap_or_default(),
        leaf_index: leaf_index(row),
        block_number: block_number(row),
    }
}

fn stored_metadata<'r>(jsonb: pg_sys::Datum) -> StoredMetadata<'r> {
    // SAFETY: a jsonb datum that is not null, and that is detoasted for as long as its row is read.
    StoredMetadata::Jsonb(unsafe { jsonb::bytes_of(jsonb) })
}

/// The metadata of a line for a jsonb given without its varlena header, by way of Postgres.
pub fn metadata_text(jsonb: &[u8]) -> String {
    // SAFETY: a jsonb with its header, which exists for as long as this closure runs.
    jsonb::with_header(jsonb, |jsonb| {
        unsafe { Jsonb::from_datum(jsonb, false) }.map(canonical_metadata).unwrap_or_default()
    })
}

pub fn leaf_index(row: &Row) -> i64 {
    row.get(entry_column::LEAF_INDEX).unwrap_or(-1)
}

pub fn block_number(row: &Row) -> i64 {
    row.get(entry_column::BLOCK_NUMBER).unwrap_or(0)
}

/// As [`canonical_metadata`], into a buffer that is used again.
fn replace_by_canonical(buffer: &mut String, jsonb: Jsonb) {
    let mut out = std::mem::take(buffer).into_bytes();
    out.clear();
    *buffer = match jsonb.write_canonical(&mut out) {
        Some(_) => ascii_text(out),
        None => {
            // Not kept for the next value: it may have grown long.
            drop(out);
            metadata_by_text(jsonb)
        }
    };
}

/// As [`entry_from_row`], for a row that is only now being recorded: its metadata must have a canonical form.
pub fn new_entry_from_row(row: &Row) -> Result<Entry, Failure> {
    let metadata: Option<Jsonb> = row.get(entry_column::METADATA);
    let metadata = metadata.map(Jsonb::canonical).transpose()?;
    Ok(entry_with_metadata(row, metadata.unwrap_or_default()))
}

fn entry_with_metadata(row: &Row, metadata: String) -> Entry {
    use entry_column::*;
    Entry {
        entry_id: row.uuid(ID).unwrap_or_default(),
        entry_type: row.text(ENTRY_TYPE).unwrap_or_default().to_owned(),
        data_hash: data_hash(row).to_owned(),
        metadata,
        signature: row.text(SIGNATURE).map(str::to_owned),
        key_id: row.text(KEY_ID).map(str::to_owned),
        created_at: row.timestamp(CREATED_AT).unwrap_or_default(),
    }
}

/// The canonical text of a jsonb, or what [`metadata_by_text`] gives.
fn canonical_metadata(jsonb: Jsonb) -> String {
    let mut metadata = String::new();
    replace_by_canonical(&mut metadata, jsonb);
    metadata
}

/// The canonical text of a jsonb that cannot be written the quick way, by way of Postgres's text. Otherwise:
/// - the text as it is, if it has no canonical form: recording did not put it there, and it is not what the line says;
/// - [`NOT_TEXT`], if the bytes are no jsonb;
/// - an empty text, if even the text is longer than a value of Postgres: verification goes on, and can say which entry
///   it is.
fn metadata_by_text(jsonb: Jsonb) -> String {
    let mut context = PgMemoryContexts::new("pg_notary metadata");
    let text = AssertUnwindSafe(|| {
        // SAFETY: the text that Postgres makes inside is copied before the context is dropped.
        unsafe { context.switch_to(|_| jsonb.canonical_by_text().unwrap_or_else(|_| jsonb.text())) }
    });
    let is_too_long = PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED;
    // After an ERROR the new context is still the current one, until it is dropped: that restores the one before.
    PgTryBuilder::new(text).catch_when(is_too_long, |_| String::new()).execute()
}

/// A tuple for a partition of `ledger.entries_sealed`, in the current memory context. Its place in the ledger is set
/// once it is known.
pub struct SealedTuple(pg_sys::HeapTuple);

impl SealedTuple {
    /// Makes the tuple from a row of `ledger.entries_pending`, which has an id.
    pub fn form(pending: &Table, row: &Row) -> SealedTuple {
        use entry_column::*;
        assert_eq!(pending.column_count(), COUNT);
        let mut values: [pg_sys::Datum; COUNT] = std::array::from_fn(|column| row.values[column]);
        let mut nulls: [bool; COUNT] = std::array::from_fn(|column| row.nulls[column]);
        for column in [BLOCK_NUMBER, LEAF_INDEX] {
            (values[column], nulls[column]) = (0_i64.into(), false);
        }
        // SAFETY: there are one value and one null flag for each column, of the types of `ledger.entries`.
        SealedTuple(unsafe { pg_sys::heap_form_tuple(pending.descriptor(), values.as_mut_ptr(), nulls.as_mut_ptr()) })
    }

    pub fn set_place(&self, block_number: i64, leaf_index: i64) {
        const BIGINT: usize = size_of::<i64>();
        // SAFETY: form() made the tuple: its data begin with the id and the block number, neither of which is null, and
        // end with the leaf index. Nothing else reads or writes it meanwhile.
        unsafe {
            let header = (*self.0).t_data;
            let (start, end) = (usize::from((*header).t_hoff), (*self.0).t_len as usize);
            let bytes = header.cast::<u8>();
            bytes.add(start + size_of::<Uuid>()).cast::<i64>().write_unaligned(block_number);
            bytes.add(end - BIGINT).cast::<i64>().write_unaligned(leaf_index);
        }
    }

    /// Valid as long as the memory context that the tuple was formed in.
    pub fn as_ptr(&self) -> pg_sys::HeapTuple {
        self.0
    }
}
