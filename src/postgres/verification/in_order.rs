//! Reading a partition as it stands in its table, as long as that is also the order of its index.
//!
//! Sealing appends, so pages hold entries in the order of the log, and reading them one after the other is much cheaper
//! than looking up row after row: pages come through a small ring of buffers, and their rows are examined together. The index is
//! read beside them, without going to the table for each of its entries. As long as the two agree on every row, what is read is
//! what the index leads to, and there is no row between that it does not lead to. At the first row where they do not agree
//! this ends, and reading by the index goes on: whatever is wrong, it is found there.

use crate::postgres::errors::is_unwinding;
use crate::postgres::tables::{entry_column, tid, tid_of, RegisteredSnapshot, Row, Table, TableScan, Tid};
use pgrx::pg_sys;
use std::ptr;

/// Rows that stand one after the other in a partition, and were all read.
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
        // One that names no block may be in any.
        let block = row.get(entry_column::BLOCK_NUMBER).unwrap_or(i64::MAX);
        self.highest_block = self.highest_block.max(block);
    }
}

/// Where reading a partition has come to. Its snapshot is that of when it began: rows that are sealed since end it.
pub struct InOrder {
    leaves: LeafIndex,
    scan: TableScan<Table>,
    /// The row that the scan stands at.
    tuple: Option<pg_sys::HeapTuple>,
    stretch: Stretch,
    /// The next leaf.
    next: i64,
    /// Dropped after the scans have ended.
    _snapshot: RegisteredSnapshot,
}

impl InOrder {
    /// Starts with leaf `from`; `None` if it is not there to be read so.
    pub fn start(partition: pg_sys::Oid, index: pg_sys::Oid, from: i64) -> Option<Self> {
        let table = Table::open_entries(partition, pg_sys::AccessShareLock);
        if !table.is_heap() {
            return None;
        }
        let snapshot = RegisteredSnapshot::latest();
        let mut leaves = LeafIndex::start(&table, index, &snapshot, from);
        leaves.advance();
        let (_, first) = leaves.at?;
        let (page, _) = first;
        if page >= table.pages() {
            return None;
        }
        let mut scan = TableScan::start(table, &snapshot, page);
        let mut tuple = scan.next();
        while tuple.is_some_and(|tuple| tid_of(tuple) < first) {
            tuple = scan.next();
        }
        let stretch = Stretch::start(partition, first);
        Some(InOrder { leaves, scan, tuple, stretch, next: from, _snapshot: snapshot })
    }

    /// Whether this reads on there.
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

    /// Reads the row of the next leaf, if it stands where both the table and the index have it next.
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

/// What the index on leaf_index has from some leaf on, in its order: leaves, and where their rows stand, be they visible or not.
struct LeafIndex {
    scan: pg_sys::IndexScanDesc,
    index: pg_sys::Relation,
    /// Where it stands; `None` at the end.
    at: Option<(i64, Tid)>,
}

impl LeafIndex {
    /// The index is one on leaf_index alone. Table and snapshot outlive this.
    fn start(table: &Table, index: pg_sys::Oid, snapshot: &RegisteredSnapshot, from: i64) -> Self {
        let mut key = pg_sys::ScanKeyData::default();
        // SAFETY: the scan copies the key, which is on the index's first column. That index tuples are wanted is said
        // before the scan starts, as the executor does for scans of an index only.
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
            LeafIndex { scan, index, at: None }
        }
    }

    fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the index is open.
        unsafe { (*self.index).rd_id }
    }

    fn advance(&mut self) {
        // SAFETY: the scan is open. With the place comes the index's tuple: its header, and behind it the only column, a
        // bigint that the scan key has found not to be null.
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
        // SAFETY: opened in start() and closed only here.
        unsafe {
            pg_sys::index_endscan(self.scan);
            pg_sys::index_close(self.index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        }
    }
}

/// # Safety
/// As for `index_beginscan`: both are open, and the snapshot outlives the scan.
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
