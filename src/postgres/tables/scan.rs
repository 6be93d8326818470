//! Reads rows of a table: by scans of its pages or of its primary key, and one by its place.

use super::{RegisteredSnapshot, Row, Table};
use crate::postgres::errors::is_unwinding;
use pgrx::pg_sys;
use std::borrow::Borrow;
use std::marker::PhantomData;

/// In bytes.
const CACHE_LINE: usize = 64;
const MAX_PREFETCHED: usize = 2048;

/// A scan of a whole table, in the order of its pages. It holds or borrows the table and the snapshot.
pub struct TableScan<T: Borrow<Table>, S> {
    scan: pg_sys::TableScanDesc,
    /// Both are dropped after the scan has ended.
    table: T,
    _snapshot: S,
}

impl<T: Borrow<Table>, S: Borrow<RegisteredSnapshot>> TableScan<T, S> {
    /// Scans from page `from` to the end of the table.
    pub fn start(table: T, snapshot: S, from: u32) -> Self {
        Self::start_as(table, snapshot, from, pg_sys::ScanOptions::SO_ALLOW_STRAT)
    }

    /// The same for a caller that will change the rows it reads: pages of a large table, too, stay in memory, so they
    /// are not read twice.
    pub fn start_to_change(table: T, snapshot: S, from: u32) -> Self {
        Self::start_as(table, snapshot, from, 0)
    }

    /// Scans `count` pages from page `from` on.
    pub fn start_pages(table: T, snapshot: S, from: u32, count: u32) -> Self {
        let scan = Self::start(table, snapshot, 0);
        // SAFETY: the scan is open, and has not begun to read.
        unsafe { pg_sys::heap_setscanlimits(scan.scan, from, count) };
        scan
    }

    fn start_as(table: T, snapshot: S, from: u32, strategy: u32) -> Self {
        // SAFETY: the snapshot is registered, and the scan holds or borrows it.
        let scan = unsafe { begin_scan(table.borrow(), snapshot.borrow().as_ptr(), from, strategy) };
        TableScan { scan, table, _snapshot: snapshot }
    }
}

impl<T: Borrow<Table>> TableScan<T, ()> {
    /// # Safety
    /// The snapshot outlives the scan.
    pub unsafe fn start_with(table: T, snapshot: pg_sys::Snapshot, from: u32) -> Self {
        let scan = begin_scan(table.borrow(), snapshot, from, pg_sys::ScanOptions::SO_ALLOW_STRAT);
        TableScan { scan, table, _snapshot: () }
    }
}

/// # Safety
/// Table and snapshot outlive the scan.
unsafe fn begin_scan(table: &Table, snapshot: pg_sys::Snapshot, from: u32, strategy: u32) -> pg_sys::TableScanDesc {
    use pg_sys::ScanOptions::*;
    table.require_heap();
    // Without SO_ALLOW_SYNC, the scan starts at the page that is given.
    let flags = SO_TYPE_SEQSCAN | SO_ALLOW_PAGEMODE | strategy;
    let scan = pg_sys::heap_beginscan(table.relation, snapshot, 0, std::ptr::null_mut(), std::ptr::null_mut(), flags);
    let pages = table.pages();
    if from > 0 && from < pages {
        pg_sys::heap_setscanlimits(scan, from, pages - from);
    }
    scan
}

impl<T: Borrow<Table>, S> TableScan<T, S> {
    pub fn table(&self) -> &Table {
        self.table.borrow()
    }

    /// The next tuple, good until the one after it is asked for.
    pub fn next(&mut self) -> Option<pg_sys::HeapTuple> {
        // SAFETY: the scan is open.
        let tuple = unsafe { pg_sys::heap_getnext(self.scan, pg_sys::ScanDirection::ForwardScanDirection) };
        (!tuple.is_null()).then_some(tuple)
    }

    /// The last tuple of the table. For a table of one row, it is that row. If an old snapshot keeps many pages with
    /// what the row was before, the row is most likely on the last page: a change stays on the page of the row, or
    /// makes a new page.
    pub fn last(&mut self) -> Option<pg_sys::HeapTuple> {
        // SAFETY: the scan is open, and has read nothing.
        let tuple = unsafe { pg_sys::heap_getnext(self.scan, pg_sys::ScanDirection::BackwardScanDirection) };
        (!tuple.is_null()).then_some(tuple)
    }
}

impl<T: Borrow<Table>, S> Drop for TableScan<T, S> {
    fn drop(&mut self) {
        if is_unwinding() {
            return;
        }
        // SAFETY: begin_scan() opened it, and only this closes it.
        unsafe { pg_sys::heap_endscan(self.scan) }
    }
}

/// A scan of a table by its primary key. The time depends on the number of rows, however many pages the table has.
pub struct KeyScan<'a> {
    scan: pg_sys::SysScanDesc,
    /// Table and snapshot outlive the scan.
    lends: PhantomData<(&'a Table, &'a RegisteredSnapshot)>,
}

/// What a column is to be equal to, and the function that compares it.
pub type KeyValue = (pg_sys::Datum, u32);

impl<'a> KeyScan<'a> {
    /// All rows.
    pub fn start(table: &'a Table, snapshot: &'a RegisteredSnapshot) -> Self {
        // SAFETY: there are no values.
        unsafe { Self::begin(table, snapshot, &mut []) }
    }

    /// Only the rows whose first columns have these values.
    ///
    /// # Safety
    /// The values are of the types of the columns, and outlive the scan.
    pub unsafe fn start_at(table: &'a Table, snapshot: &'a RegisteredSnapshot, values: &[KeyValue]) -> Self {
        let conditions = values.iter().enumerate().map(|(column, value)| condition(table, column, value));
        Self::begin(table, snapshot, &mut conditions.collect::<Vec<_>>())
    }

    /// # Safety
    /// The values of the conditions are of the types of the columns, and outlive the scan.
    unsafe fn begin(
        table: &'a Table,
        snapshot: &'a RegisteredSnapshot,
        conditions: &mut [pg_sys::ScanKeyData],
    ) -> Self {
        let (count, first) = (conditions.len(), conditions.as_mut_ptr());
        // A superuser may have dropped the key, or put another in its place: then all pages are read.
        let key = table.primary_key();
        let has_key = key != pg_sys::InvalidOid && begins_with_first_columns(key, count);
        let (relation, snapshot) = (table.relation(), snapshot.as_ptr());
        let scan = pg_sys::systable_beginscan(relation, key, has_key, snapshot, count as i32, first);
        KeyScan { scan, lends: PhantomData }
    }

    /// The next tuple, good until the one after it is asked for.
    pub fn next(&mut self) -> Option<pg_sys::HeapTuple> {
        // SAFETY: the scan is open.
        let tuple = unsafe { pg_sys::systable_getnext(self.scan) };
        (!tuple.is_null()).then_some(tuple)
    }
}

impl Drop for KeyScan<'_> {
    fn drop(&mut self) {
        if is_unwinding() {
            return;
        }
        // SAFETY: opened in begin() and closed only here.
        unsafe { pg_sys::systable_endscan(self.scan) }
    }
}

/// The condition that the column has the value. The collation is the column's, by which its primary key is ordered:
/// with that of the catalogs, a search in the index would take a wrong turn.
///
/// # Safety
/// The value is of the type of the column.
unsafe fn condition(table: &Table, column: usize, (value, equality): &KeyValue) -> pg_sys::ScanKeyData {
    let mut key = pg_sys::ScanKeyData::default();
    pg_sys::ScanKeyEntryInitialize(
        &mut key,
        0,
        (column + 1) as pg_sys::AttrNumber,
        pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
        pg_sys::InvalidOid,
        table.attribute(column).attcollation,
        pg_sys::Oid::from(*equality),
        *value,
    );
    key
}

/// Whether an index has the first columns of its table as its first ones, in their order.
///
/// # Safety
/// `index` is an index of a table that is locked.
unsafe fn begins_with_first_columns(index: pg_sys::Oid, columns: usize) -> bool {
    let index = pg_sys::index_open(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
    let form = &*(*index).rd_index;
    let numbers = form.indkey.values.as_slice(form.indnkeyatts as usize);
    let is_so = numbers.len() >= columns && (1..).zip(&numbers[..columns]).all(|(column, number)| *number == column);
    pg_sys::index_close(index, pg_sys::NoLock as pg_sys::LOCKMODE);
    is_so
}

/// Prefetches the memory of the row that most likely comes next, of a table whose rows are in the order in which they
/// came: a page is filled from its end. Most of the time for a row is spent waiting for its memory.
pub fn prefetch_next(tuple: pg_sys::HeapTuple) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        // SAFETY: the scan's tuple is valid until the next one is fetched.
        let (start, length) = unsafe { ((*tuple).t_data.cast::<i8>(), (*tuple).t_len as usize) };
        for back in (0..length.min(MAX_PREFETCHED)).step_by(CACHE_LINE) {
            // SAFETY: a prefetch is only a hint, and never faults at any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_sub(back + CACHE_LINE)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = tuple;
}

/// Where a row version stands in its table: the page, and its number on it. Ordered as the table is.
pub type Tid = (pg_sys::BlockNumber, pg_sys::OffsetNumber);

/// The place of a tuple of a scan.
pub fn tid_of(tuple: pg_sys::HeapTuple) -> Tid {
    // SAFETY: the tuple is valid until the scan's next one is asked for.
    tid(unsafe { (*tuple).t_self })
}

pub fn tid(tid: pg_sys::ItemPointerData) -> Tid {
    let pg_sys::BlockIdData { bi_hi, bi_lo } = tid.ip_blkid;
    (u32::from(bi_hi) << 16 | u32::from(bi_lo), tid.ip_posid)
}

impl Table {
    /// What `read` makes of the row at this place, as the snapshot sees it; `None` if it sees no row there.
    pub fn fetch<T>(
        &self,
        tid: pg_sys::ItemPointerData,
        snapshot: &RegisteredSnapshot,
        read: impl FnOnce(&Row) -> T,
    ) -> Option<T> {
        self.require_heap();
        let mut tuple = pg_sys::HeapTupleData { t_self: tid, ..Default::default() };
        let mut buffer = pg_sys::InvalidBuffer as pg_sys::Buffer;
        // SAFETY: the table is a heap, and the snapshot is registered. The tuple is copied while its buffer is held.
        let copy = unsafe {
            #[cfg(feature = "pg14")]
            let found = pg_sys::heap_fetch(self.relation, snapshot.as_ptr(), &mut tuple, &mut buffer);
            #[cfg(not(feature = "pg14"))]
            let found = pg_sys::heap_fetch(self.relation, snapshot.as_ptr(), &mut tuple, &mut buffer, false);
            if !found {
                return None;
            }
            let copy = pg_sys::heap_copytuple(&mut tuple);
            pg_sys::ReleaseBuffer(buffer);
            copy
        };
        Some(read(&self.deform(copy)))
    }
}
