//! Sealed entries in the order of the log.

use crate::postgres::partitions;
use crate::postgres::spi;
use crate::postgres::tables::{entry_column, LatestSnapshot, Row, Table};
use pgrx::{check_for_interrupts, pg_sys, PgMemoryContexts};

/// In bytes.
const CACHE_LINE: usize = 64;
const MAX_PREFETCHED: usize = 2048;

/// Reads entries by their index on leaf_index, below the executor: a query would copy each row twice.
pub struct Leaves {
    /// For what one row takes.
    context: PgMemoryContexts,
}

impl Leaves {
    pub fn new() -> Self {
        Leaves { context: PgMemoryContexts::new("pg_notary verification") }
    }

    /// Gives `each` the rows with `from <= leaf_index < to`, as they are committed now, in order.
    pub fn each(&mut self, from: i64, to: i64, mut each: impl FnMut(&Row)) {
        let snapshot = LatestSnapshot::take();
        // SAFETY: nothing that is allocated here is used after it.
        let indexed = unsafe { self.context.switch_to(|_| indexed_partitions()) };
        let scans = indexed.iter().flatten().map(|(table, index)| LeafScan::start(table, *index, &snapshot, from, to));
        let mut scans: Vec<LeafScan> = scans.filter_map(LeafScan::with_rows).collect();
        match (&indexed, &mut scans[..]) {
            (Some(_), []) => {}
            (Some(_), [scan]) => self.each_row(scan, each),
            // At the border of two partitions, or where somebody has put rows into a partition that they do not belong to
            // or dropped an index.
            _ => spi::for_each(
                "SELECT id, block_number, entry_type, data_hash, metadata, signature, key_id, created_at, leaf_index \
                 FROM ledger.entries_sealed WHERE leaf_index >= $1 AND leaf_index < $2 ORDER BY leaf_index",
                &[from.into(), to.into()],
                |row| {
                    check_for_interrupts!();
                    each(row);
                },
            ),
        }
    }

    fn each_row(&mut self, scan: &mut LeafScan<'_>, mut each: impl FnMut(&Row)) {
        let mut row = Row::default();
        while let Some(tuple) = scan.tuple {
            check_for_interrupts!();
            prefetch_next(tuple);
            scan.table.deform_into(tuple, &mut row);
            // SAFETY: nothing that is allocated for one row is used after it.
            unsafe {
                self.context.switch_to(|_| each(&row));
                if !(*self.context.value()).isReset {
                    self.context.reset();
                }
            }
            scan.advance();
        }
    }
}

/// Asks for the memory of the row that is likely to be next: rows are stored in the order of the log, and a page is filled
/// from its end. Most of what reading a row takes is waiting for its memory.
fn prefetch_next(tuple: pg_sys::HeapTuple) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        // SAFETY: the scan's tuple is good until the next.
        let (start, length) = unsafe { ((*tuple).t_data.cast::<i8>(), (*tuple).t_len as usize) };
        for back in (0..length.min(MAX_PREFETCHED)).step_by(CACHE_LINE) {
            // SAFETY: only a hint, whatever is there.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_sub(back + CACHE_LINE)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = tuple;
}

/// All partitions with their index on leaf_index; `None` if one has none.
fn indexed_partitions() -> Option<Vec<(Table, pg_sys::Oid)>> {
    let sealed = partitions::sealed().into_iter();
    let tables = sealed.map(|partition| Table::open_entries(partition.oid, pg_sys::AccessShareLock));
    tables
        .map(|table| {
            let index = table.is_plain().then(|| partitions::leaf_index_of(&table)).flatten()?;
            Some((table, index))
        })
        .collect()
}

/// The rows of one partition in a range of leaves.
struct LeafScan<'a> {
    scan: pg_sys::SysScanDesc,
    index: pg_sys::Relation,
    table: &'a Table,
    /// The tuple where it stands; `None` at the end.
    tuple: Option<pg_sys::HeapTuple>,
}

impl<'a> LeafScan<'a> {
    fn start(table: &'a Table, index: pg_sys::Oid, snapshot: &LatestSnapshot, from: i64, to: i64) -> Self {
        let column = table.attribute_number(entry_column::LEAF_INDEX);
        let bounds = [
            (pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_INT8GE, from),
            (pg_sys::BTLessStrategyNumber, pg_sys::F_INT8LT, to),
        ];
        let mut keys = [pg_sys::ScanKeyData::default(); 2];
        // SAFETY: the scan copies the keys; it ends before the table is closed and the snapshot is given up.
        unsafe {
            for (key, (strategy, function, bound)) in keys.iter_mut().zip(bounds) {
                let strategy = strategy as pg_sys::StrategyNumber;
                pg_sys::ScanKeyInit(key, column, strategy, pg_sys::Oid::from(function), bound.into());
            }
            let index = pg_sys::index_open(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let scan =
                pg_sys::systable_beginscan_ordered(table.relation(), index, snapshot.as_ptr(), 2, keys.as_mut_ptr());
            let mut scan = LeafScan { scan, index, table, tuple: None };
            scan.advance();
            scan
        }
    }

    fn with_rows(self) -> Option<Self> {
        self.tuple.is_some().then_some(self)
    }

    fn advance(&mut self) {
        // SAFETY: the scan is open. The tuple before is used no more.
        let tuple = unsafe { pg_sys::systable_getnext_ordered(self.scan, pg_sys::ScanDirection::ForwardScanDirection) };
        self.tuple = (!tuple.is_null()).then_some(tuple);
    }
}

impl Drop for LeafScan<'_> {
    fn drop(&mut self) {
        // SAFETY: opened in start() and closed only here.
        unsafe {
            pg_sys::systable_endscan_ordered(self.scan);
            pg_sys::index_close(self.index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        }
    }
}
