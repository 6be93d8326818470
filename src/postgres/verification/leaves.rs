//! Reads sealed entries by ranges of leaf_index, over all partitions, in the order of the log.

use super::in_order::{InOrder, Stretch};
use crate::postgres::errors::is_unwinding;
use crate::postgres::partitions;
use crate::postgres::relation;
use crate::postgres::spi;
use crate::postgres::tables::{self, entry_column, look_up, prefetch_next, RegisteredSnapshot, Row, Table};
use pgrx::{check_for_interrupts, pg_sys, PgMemoryContexts};
use std::sync::LazyLock;

/// The entries of a range of leaves, where their index cannot be used.
static ENTRIES: LazyLock<String> = LazyLock::new(|| tables::sealed_where("leaf_index >= $1 AND leaf_index < $2"));

/// Reads entries by their index on leaf_index. It does not use the executor, because a query would copy each row twice.
pub struct Leaves {
    /// Memory for what one row needs.
    context: PgMemoryContexts,
    /// The reading in order that is under way.
    in_order: Option<InOrder>,
    /// What was read in order before that.
    stretches: Vec<Stretch>,
}

impl Leaves {
    pub fn new() -> Self {
        let context = PgMemoryContexts::new("pg_notary verification");
        Leaves { context, in_order: None, stretches: Vec::new() }
    }

    /// Calls `each` with the rows of `from <= leaf_index < to`, in order, as they are committed now.
    pub fn each(&mut self, from: i64, to: i64, each: impl FnMut(&Row)) {
        self.each_of(from, to, false, each);
    }

    /// As [`Self::each`], for a caller whose next call goes on at `to`. As long as rows stand in the order of the log,
    /// they are read in the order of the table.
    pub fn each_next(&mut self, from: i64, to: i64, each: impl FnMut(&Row)) {
        self.each_of(from, to, true, each);
    }

    /// What [`Self::each_next`] has read in the order of the table.
    pub fn stretches(&self) -> Vec<Stretch> {
        let current = self.in_order.as_ref().and_then(InOrder::stretch);
        self.stretches.iter().copied().chain(current).collect()
    }

    fn each_of(&mut self, from: i64, to: i64, goes_on: bool, mut each: impl FnMut(&Row)) {
        let snapshot = RegisteredSnapshot::latest();
        // SAFETY: the closure returns only Rust values. What Postgres allocates in the context is not used after it.
        let indexed = unsafe { self.context.switch_to(|_| indexed_partitions()) };
        let scans = indexed.iter().flatten().map(|(table, index)| LeafScan::start(table, *index, &snapshot, from, to));
        let mut scans: Vec<LeafScan> = scans.filter_map(LeafScan::with_rows).collect();
        match (&indexed, &mut scans[..]) {
            (Some(_), []) => {}
            (Some(_), [scan]) => {
                let next = if goes_on { self.each_in_order(scan, from, to, &mut each) } else { from };
                if next > from {
                    *scan = LeafScan::start(scan.table, scan.index_oid(), &snapshot, next, to);
                }
                self.each_row(scan, each);
            }
            // The range crosses the border of two partitions, or a user has put rows into the wrong partition or
            // dropped an index.
            _ => spi::for_each_as_of_now(&ENTRIES, &[from.into(), to.into()], |row| {
                check_for_interrupts!();
                in_context(&mut self.context, || each(row));
            }),
        }
    }

    /// Calls `each` with rows in the order of the partition's table, as long as that is their order. Returns the leaf
    /// at which this ended.
    fn each_in_order(&mut self, scan: &LeafScan<'_>, from: i64, to: i64, mut each: impl FnMut(&Row)) -> i64 {
        let (partition, index) = (relation::oid(scan.table), scan.index_oid());
        if !self.in_order.as_ref().is_some_and(|reading| reading.continues(partition, index, from)) {
            self.end_in_order();
            self.in_order = InOrder::start(partition, index, from);
        }
        let Leaves { context, in_order: Some(reading), .. } = self else { return from };
        let mut row = Row::default();
        while reading.next_leaf() < to {
            check_for_interrupts!();
            let Some(tuple) = reading.read(&mut row) else { break };
            prefetch_next(tuple);
            in_context(context, || each(&row));
            reading.advance(&row);
        }
        let next = reading.next_leaf();
        if next < to {
            self.end_in_order();
        }
        next
    }

    fn end_in_order(&mut self) {
        self.stretches.extend(self.in_order.take().and_then(|reading| reading.stretch()));
    }

    fn each_row(&mut self, scan: &mut LeafScan<'_>, mut each: impl FnMut(&Row)) {
        let mut row = Row::default();
        while let Some(tuple) = scan.tuple {
            check_for_interrupts!();
            prefetch_next(tuple);
            scan.table.deform_into(tuple, &mut row);
            in_context(&mut self.context, || each(&row));
            scan.advance();
        }
    }
}

/// Runs `each` and frees what it allocated. `each` must not keep anything that it allocated in the current context.
fn in_context(context: &mut PgMemoryContexts, each: impl FnOnce()) {
    // SAFETY: callers use nothing that `each` allocates here after it. The borrowed context still exists.
    unsafe {
        context.switch_to(|_| each());
        if !(*context.value()).isReset {
            context.reset();
        }
    }
}

/// All partitions, each with its index on leaf_index; `None` if one lacks that index.
fn indexed_partitions() -> Option<Vec<(Table, pg_sys::Oid)>> {
    let sealed = partitions::sealed().into_iter();
    let tables = sealed.map(|partition| Table::open_entries(partition.oid, pg_sys::AccessShareLock));
    tables
        .map(|table| {
            let index = table.is_plain().then(|| look_up::leaf_index_of(&table)).flatten()?;
            Some((table, index))
        })
        .collect()
}

/// The rows of one partition in a range of leaves.
struct LeafScan<'a> {
    scan: pg_sys::SysScanDesc,
    index: pg_sys::Relation,
    table: &'a Table,
    /// The tuple that the scan is at; `None` at the end.
    tuple: Option<pg_sys::HeapTuple>,
}

impl<'a> LeafScan<'a> {
    fn start(table: &'a Table, index: pg_sys::Oid, snapshot: &RegisteredSnapshot, from: i64, to: i64) -> Self {
        let column = table.attribute_number(entry_column::LEAF_INDEX);
        let bounds = [
            (pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_INT8GE, from),
            (pg_sys::BTLessStrategyNumber, pg_sys::F_INT8LT, to),
        ];
        let mut keys = [pg_sys::ScanKeyData::default(); 2];
        // SAFETY: the scan copies the keys. It ends before the table is closed and the snapshot is released.
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

    fn index_oid(&self) -> pg_sys::Oid {
        // SAFETY: the index stays open until this value is dropped.
        unsafe { (*self.index).rd_id }
    }

    fn advance(&mut self) {
        // SAFETY: the scan is open. The previous tuple is not used any more.
        let tuple = unsafe { pg_sys::systable_getnext_ordered(self.scan, pg_sys::ScanDirection::ForwardScanDirection) };
        self.tuple = (!tuple.is_null()).then_some(tuple);
    }
}

impl Drop for LeafScan<'_> {
    fn drop(&mut self) {
        if is_unwinding() {
            return;
        }
        // SAFETY: start() opened both, and only this closes them.
        unsafe {
            pg_sys::systable_endscan_ordered(self.scan);
            pg_sys::index_close(self.index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        }
    }
}
