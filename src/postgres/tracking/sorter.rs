//! Sorts entries and rows together: those of one table stand together, and among them those about one row, in the order
//! in which it was changed, and the row itself last.

use super::rows::RowLocation;
use crate::ledger::Hash;
use crate::postgres::errors::is_unwinding;
use pgrx::pg_sys;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An entry after which the row exists.
    Exists,
    /// An entry after which it does not.
    Gone,
    /// The row itself. It comes after all entries.
    Live,
}

/// An entry about a row, or the row.
#[derive(Clone, Copy)]
pub struct Record {
    /// The number of the table in this verification. Two tables can have the same row ids, such as copies that were
    /// restored in another cluster.
    pub table: u32,
    pub row_id: Uuid,
    pub at: i64,
    pub entry_id: Uuid,
    pub kind: Kind,
    pub data_hash: Hash,
    pub previous: Option<Hash>,
    pub shape: u128,
    /// 0 for a pending entry.
    pub block: i64,
    pub transaction: u64,
    pub is_baseline: bool,
    pub precedes_baseline: bool,
    pub has_bad_signature: bool,
    /// The entry keeps an image of the row.
    pub has_image: bool,
    pub location: RowLocation,
}

pub fn shape_number(shape: &str) -> u128 {
    u128::from_str_radix(shape, 16).unwrap_or_default()
}

/// The shape with this number.
pub fn shape_id(number: u128) -> String {
    format!("{number:032x}")
}

impl Record {
    pub fn live(table: u32, row_id: Uuid, data_hash: Hash, shape: u128, location: RowLocation) -> Record {
        Record {
            table,
            row_id,
            at: i64::MAX,
            entry_id: Uuid::nil(),
            kind: Kind::Live,
            data_hash,
            previous: None,
            shape,
            block: 0,
            transaction: 0,
            is_baseline: false,
            precedes_baseline: false,
            has_bad_signature: false,
            has_image: false,
            location,
        }
    }

    /// Appends bytes that sort as the record does: by table, by row, then by time.
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.table.to_be_bytes());
        bytes.extend_from_slice(self.row_id.as_bytes());
        // The sign bit is flipped, so that the bytes sort as the numbers do.
        bytes.extend_from_slice(&((self.at as u64) ^ (1 << 63)).to_be_bytes());
        bytes.extend_from_slice(self.entry_id.as_bytes());
        let flags =
            [self.previous.is_some(), self.is_baseline, self.precedes_baseline, self.has_bad_signature, self.has_image];
        bytes.push(self.kind as u8);
        bytes.extend(flags.map(u8::from));
        bytes.extend_from_slice(&self.data_hash);
        bytes.extend_from_slice(&self.previous.unwrap_or_default());
        bytes.extend_from_slice(&self.shape.to_be_bytes());
        bytes.extend_from_slice(&self.block.to_be_bytes());
        bytes.extend_from_slice(&self.transaction.to_be_bytes());
        bytes.extend_from_slice(&self.location.relation.to_u32().to_be_bytes());
        let tid = self.location.tid;
        for part in [tid.ip_blkid.bi_hi, tid.ip_blkid.bi_lo, tid.ip_posid] {
            bytes.extend_from_slice(&part.to_be_bytes());
        }
    }

    fn parse(bytes: &[u8]) -> Option<Record> {
        let mut rest = bytes;
        let table = u32::from_be_bytes(take(&mut rest)?);
        let row_id = Uuid::from_bytes(take(&mut rest)?);
        let at = (u64::from_be_bytes(take(&mut rest)?) ^ (1 << 63)) as i64;
        let entry_id = Uuid::from_bytes(take(&mut rest)?);
        let [kind, has_previous, is_baseline, precedes_baseline, has_bad_signature, has_image] = take(&mut rest)?;
        let (data_hash, previous) = (take(&mut rest)?, take(&mut rest)?);
        let shape = u128::from_be_bytes(take(&mut rest)?);
        let block = i64::from_be_bytes(take(&mut rest)?);
        let transaction = u64::from_be_bytes(take(&mut rest)?);
        let relation = pg_sys::Oid::from(u32::from_be_bytes(take(&mut rest)?));
        let mut part = || take(&mut rest).map(u16::from_be_bytes);
        let tid = pg_sys::ItemPointerData {
            ip_blkid: pg_sys::BlockIdData { bi_hi: part()?, bi_lo: part()? },
            ip_posid: part()?,
        };
        Some(Record {
            table,
            row_id,
            at,
            entry_id,
            kind: [Kind::Exists, Kind::Gone, Kind::Live].into_iter().find(|known| *known as u8 == kind)?,
            data_hash,
            previous: (has_previous != 0).then_some(previous),
            shape,
            block,
            transaction,
            is_baseline: is_baseline != 0,
            precedes_baseline: precedes_baseline != 0,
            has_bad_signature: has_bad_signature != 0,
            has_image: has_image != 0,
            location: RowLocation { relation, tid },
        })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, others) = rest.split_first_chunk::<N>()?;
    *rest = others;
    Some(*first)
}

/// Postgres' external sort, of byte strings.
pub struct Sorter {
    state: *mut pg_sys::Tuplesortstate,
    /// A record that was read, but is of another table than the one that was asked for.
    ahead: Option<Record>,
    /// A record on its way to the sort.
    varlena: Vec<u8>,
}

impl Sorter {
    pub fn new() -> Sorter {
        // SAFETY: inside a transaction. The operator is one of bytea, which has no collation. Null and no options: no
        // coordination with other processes, no random access.
        let state = unsafe {
            pg_sys::tuplesort_begin_datum(
                pg_sys::BYTEAOID,
                pg_sys::Oid::from(pg_sys::ByteaLessOperator),
                pg_sys::InvalidOid,
                false,
                pg_sys::maintenance_work_mem,
                std::ptr::null_mut(),
                NO_OPTIONS,
            )
        };
        Sorter { state, ahead: None, varlena: Vec::new() }
    }

    pub fn put(&mut self, record: &Record) {
        let varlena = &mut self.varlena;
        varlena.clear();
        varlena.extend_from_slice(&[0; pg_sys::VARHDRSZ]);
        record.write(varlena);
        // SAFETY: the tuplesort is open. It copies the varlena, which begins with room for a four-byte header; an
        // allocation of this size is aligned for it.
        unsafe {
            pgrx::set_varsize_4b(varlena.as_mut_ptr().cast(), varlena.len() as i32);
            pg_sys::tuplesort_putdatum(self.state, pg_sys::Datum::from(varlena.as_ptr()), false);
        }
    }

    pub fn sort(&mut self) {
        // SAFETY: the tuplesort is open; performsort is called once, after the last put.
        unsafe { pg_sys::tuplesort_performsort(self.state) }
    }

    /// The next record, if it is of this table.
    pub fn next_of(&mut self, table: u32) -> Option<Record> {
        let next = self.ahead.take().or_else(|| self.next())?;
        if next.table == table {
            return Some(next);
        }
        self.ahead = Some(next);
        None
    }

    fn next(&mut self) -> Option<Record> {
        let (mut value, mut is_null) = (pg_sys::Datum::null(), false);
        // SAFETY: the sort was performed. get_datum() gives a copy, a varlena, which is read before it is freed.
        unsafe {
            if !get_datum(self.state, &mut value, &mut is_null) {
                return None;
            }
            let record = Record::parse(pgrx::varlena_to_byte_slice(value.cast_mut_ptr()));
            pg_sys::pfree(value.cast_mut_ptr());
            record
        }
    }
}

impl Drop for Sorter {
    fn drop(&mut self) {
        if is_unwinding() {
            return;
        }
        // SAFETY: begun in new(), ended only here.
        unsafe { pg_sys::tuplesort_end(self.state) }
    }
}

#[cfg(feature = "pg14")]
const NO_OPTIONS: bool = false;
#[cfg(not(feature = "pg14"))]
const NO_OPTIONS: i32 = 0;

/// The next datum, as a copy.
///
/// # Safety
/// `state` is an open tuplesort that has been performed.
unsafe fn get_datum(state: *mut pg_sys::Tuplesortstate, value: &mut pg_sys::Datum, is_null: &mut bool) -> bool {
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    return pg_sys::tuplesort_getdatum(state, true, value, is_null, std::ptr::null_mut());
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    return pg_sys::tuplesort_getdatum(state, true, true, value, is_null, std::ptr::null_mut());
}
