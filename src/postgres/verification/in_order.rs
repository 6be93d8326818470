//! Reads a partition in the order of its table, as long as that is also the order of its index.
//!
//! Sealing appends, so pages hold entries in the order of the log. Reading them one after the other is much cheaper
//! than looking up row after row: pages come through a small ring of buffers, and their rows are examined together.
//!
//! The index is read alongside, without a visit to the table for each of its entries. As long as the two agree on every
//! row, the rows read are those that the index leads to, and no others lie between them. At the first row where they
//! disagree this ends, and reading by the index goes on and finds whatever is wrong.

use crate::postgres::errors::is_unwinding;
use crate::postgres::tables::{entry_column, tid, tid_of, RegisteredSnapshot, Row, Table, TableScan, Tid};
use pgrx::pg_sys;
use std::ptr;
use std::rc::Rc;

/// Rows that follow one another in a partition, all of which were read.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    pub partition: pg_sys::Oid,
    pub first: Tid,
    pub last: Tid,
    pub rows: u64,
    /// The highest block that one of them names.
    pub highest_block: i64,
}

impl Stretch {
    fn start(partition: pg_sys::Oid, first: Tid) -> Self {
        Stretch { partition, first, last: first, rows: 0, highest_block: i64::MIN }
    }

    fn add(&mut self, tid: Tid, row: &Row) {
        self.last = tid;
        self.rows += 1;
        // A row that names no block may belong to any.
        let block = row.get(entry_column::BLOCK_NUMBER).unwrap_or(i64::MAX);
        self.highest_block = self.highest_block.max(block);
    }
}

/// How far reading a partition has come. Its snapshot is from its beginning: rows that are sealed later end it.
pub struct InOrder {
    leaves: LeafIndex,
    scan: TableScan<Rc<Table>, Rc<RegisteredSnapshot>>,
    /// The row that the scan is at.
    tuple: Option<pg_sys::HeapTuple>,
    stretch: Stretch,
    /// The next leaf.
    next: i64,
}

impl InOrder {
    /// Starts with leaf `from`; `None` if the partition cannot be read in this way from there.
    pub fn start(partition: pg_sys::Oid, index: pg_sys::Oid, from: i64) -> Option<Self> {
        let table = Rc::new(Table::open_entries(partition, pg_sys::AccessShareLock));
        if !table.is_heap() {
            return None;
        }
        let snapshot = Rc::new(RegisteredSnapshot::latest());
        let mut leaves = LeafIndex::start(Rc::clone(&table), index, Rc::clone(&snapshot), from);
        leaves.advance();
        let (_, first) = leaves.at?;
        let (page, _) = first;
        if page >= table.pages() {
            return None;
        }
        let mut scan = TableScan::start(table, snapshot, page);
        let mut tuple = scan.next();
        while tuple.is_some_and(|tuple| tid_of(tuple) < first) {
            tuple = scan.next();
        }
        let stretch = Stretch::start(partition, first);
        Some(InOrder { leaves, scan, tuple, stretch, next: from })
    }

    /// Whether the next row of this reading is that leaf of that partition.
    pub fn continues(&self, partition: pg_sys::Oid, index: pg_sys::Oid, from: i64) -> bool {
        self.stretch.partition == partition && self.leaves.oid() == index && self.next == from
    }

    /// The next leaf.
    pub fn next_leaf(&self) -> i64 {
        self.next
    }

    /// What was read so far.
    pub fn stretch(&self) -> Option<Stretch> {
        (self.stretch.rows > 0).then_some(self.stretch)
    }

    /// Reads the row of the next leaf, if both the table and the index have it next.
    pub fn read(&self, row: &mut Row) -> Option<pg_sys::HeapTuple> {
        let tuple = self.tuple?;
        if self.leaves.at != Some((self.next, tid_of(tuple))) {
            return None;
        }
        self.scan.table().deform_into(tuple, row);
        (row.get(entry_column::LEAF_INDEX) == Some(self.next)).then_some(tuple)
    }

    /// Goes on behind the row that [`Self::read`] gave.
    pub fn advance(&mut self, row: &Row) {
        if let Some((_, tid)) = self.leaves.at {
            self.stretch.add(tid, row);
        }
        self.next += 1;
        self.tuple = self.scan.next();
        self.leaves.advance();
    }
}

/// What the index on leaf_index has from some leaf on, in order: leaves and the places of their rows, visible or not.
struct LeafIndex {
    scan: pg_sys::IndexScanDesc,
    index: pg_sys::Relation,
    /// The leaf and place that it is at; `None` at the end.
    at: Option<(i64, Tid)>,
    /// Dropped after the scan has ended.
    _lent: (Rc<Table>, Rc<RegisteredSnapshot>),
}

impl LeafIndex {
    /// `index` must be on leaf_index alone.
    fn start(table: Rc<Table>, index: pg_sys::Oid, snapshot: Rc<RegisteredSnapshot>, from: i64) -> Self {
        let mut key = pg_sys::ScanKeyData::default();
        // SAFETY: the scan copies the key, which is for the index's first column. This value holds the table
        // and the snapshot. Index tuples are requested before the scan starts, as the executor does for an index-only
        // scan.
        unsafe {
            pg_sys::ScanKeyInit(
                &mut key,
                1,
                pg_sys::BTGreaterEqualStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::Oid::from(pg_sys::F_INT8GE),
                from.into(),
            );
            let index = pg_sys::index_open(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let scan = begin_scan(table.relation(), index, snapshot.as_ptr());
            (*scan).xs_want_itup = true;
            pg_sys::index_rescan(scan, &mut key, 1, ptr::null_mut(), 0);
            LeafIndex { scan, index, at: None, _lent: (table, snapshot) }
        }
    }

    fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the index stays open until this value is dropped.
        unsafe { (*self.index).rd_id }
    }

    fn advance(&mut self) {
        // SAFETY: the scan is open. Together with the place it returns the index's tuple: a header, followed by the
        // only column. The scan key has made sure that this bigint is not null.
        self.at = unsafe {
            let found = pg_sys::index_getnext_tid(self.scan, pg_sys::ScanDirection::ForwardScanDirection);
            let tuple = (*self.scan).xs_itup;
            (!found.is_null() && !tuple.is_null()).then(|| (tuple.add(1).cast::<i64>().read_unaligned(), tid(*found)))
        };
    }
}

impl Drop for LeafIndex {
    fn drop(&mut self) {
        if is_unwinding() {
            return;
        }
        // SAFETY: start() opened both, and only this closes them.
        unsafe {
            pg_sys::index_endscan(self.scan);
            pg_sys::index_close(self.index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        }
    }
}

/// # Safety
/// As for `index_beginscan`: the table and the index are open, and the snapshot outlives the scan.
unsafe fn begin_scan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
) -> pg_sys::IndexScanDesc {
    #[cfg(feature = "pg18")]
    let scan = pg_sys::index_beginscan(table, index, snapshot, ptr::null_mut(), 1, 0);
    #[cfg(not(feature = "pg18"))]
    let scan = pg_sys::index_beginscan(table, index, snapshot, 1, 0);
    scan
}
