//! `ledger.log_state`, a table of one row: which ledger this is, and from where sealing, its look-up of rows and the
//! mirror go on.

use super::database;
use super::errors::{or_raise, Failure};
use super::single_row;
use super::tables::{self, RegisteredSnapshot, Row, Table, TableScan};
use crate::ledger::block::BlockHeader;
use crate::ledger::file_ranges::FileRange;
use crate::ledger::log_tree::LogTree;
use crate::ledger::record::Timestamp;
use crate::ledger::row_runs::Run;
use crate::ledger::wal::WalPosition;
use crate::ledger::{parse_hash, Hash};
use pgrx::{pg_sys, IntoDatum, PgSqlErrorCode};
use uuid::Uuid;

/// Columns of `ledger.log_state`, a table of one row.
mod column {
    pub const LEDGER_ID: usize = 0;
    pub const STARTED_AT: usize = 1;
    pub const FRONTIER: usize = 2;
    pub const MIRROR_BYTES: usize = 3;
    pub const SETTLED_BYTES: usize = 4;
    pub const SETTLED_BLOCK: usize = 5;
    pub const MIRROR_BLOCK: usize = 6;
    pub const DATABASE_OID: usize = 7;
    pub const MIRROR_ATTACHMENT: usize = 8;
    pub const OPEN_RANGES: usize = 9;
    pub const VERSION_RUNS: usize = 10;
    pub const START_TIMELINE: usize = 11;
    pub const START_LOCATION: usize = 12;
    pub const INSTALLATION: usize = 13;
}

/// A place in the mirror file. Every entry line before it stands in a block, is voided, or belongs to a transaction in
/// `open`, so recovery reads only what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    pub bytes: u64,
    /// A block that is known to have its line in the file, as all blocks before it have.
    pub block: i64,
    /// Where lines of prepared transactions stand.
    pub open: Vec<FileRange>,
}

/// Ranges as the database stores them: offsets, each range's start and end.
pub fn ranges_from(offsets: &[i64]) -> Vec<FileRange> {
    let ranges = offsets.chunks_exact(2);
    ranges.map(|range| FileRange { from: range[0].max(0) as u64, to: range[1].max(0) as u64 }).collect()
}

fn offsets_of(ranges: &[FileRange]) -> Vec<i64> {
    ranges.iter().flat_map(|range| [range.from as i64, range.to as i64]).collect()
}

/// Notes how far the mirror file is acknowledged (bytes, and the last block), how far it is settled if that is new, and
/// its attachment if that is new.
pub fn remember_mirror(acknowledged: (u64, i64), settled: Option<&Settled>, attachment: Option<Uuid>) {
    change_log_state(|row| {
        row[column::MIRROR_BYTES] = (acknowledged.0 as i64).into_datum();
        row[column::MIRROR_BLOCK] = acknowledged.1.into_datum();
        if let Some(settled) = settled {
            row[column::SETTLED_BYTES] = (settled.bytes as i64).into_datum();
            row[column::SETTLED_BLOCK] = settled.block.into_datum();
            row[column::OPEN_RANGES] = offsets_of(&settled.open).into_datum();
        }
        if let Some(attachment) = &attachment {
            row[column::MIRROR_ATTACHMENT] = Some(tables::uuid_datum(attachment));
            forget_start(row);
        }
    });
}

/// Notes where the WAL ended when a server first started after the file was attached.
pub fn remember_start(wal: WalPosition) {
    change_log_state(|row| {
        row[column::START_TIMELINE] = i64::from(wal.timeline).into_datum();
        row[column::START_LOCATION] = (wal.location as i64).into_datum();
    });
}

fn forget_start(row: &mut [Option<pg_sys::Datum>]) {
    row[column::START_TIMELINE..=column::START_LOCATION].fill(None);
}

/// Forgets the mirror file: the next one that is attached may be new.
pub fn forget_mirror() {
    change_log_state(forget_file);
}

fn forget_file(row: &mut [Option<pg_sys::Datum>]) {
    row[column::MIRROR_BYTES..=column::MIRROR_BLOCK].fill(0_i64.into_datum());
    row[column::OPEN_RANGES] = Vec::<i64>::new().into_datum();
    row[column::MIRROR_ATTACHMENT] = None;
    forget_start(row);
}

/// Makes the ledger of a copied database one of its own, with an id of its own, from now.
pub fn become_own_ledger(ledger_id: Uuid) {
    change_log_state(|row| make_own(row, &ledger_id, tables::now()));
}

/// Makes it a ledger of this database, which has no file yet. The row borrows the id.
fn make_own(row: &mut [Option<pg_sys::Datum>], ledger_id: &Uuid, started_at: Timestamp) {
    forget_file(row);
    row[column::LEDGER_ID] = Some(tables::uuid_datum(ledger_id));
    row[column::STARTED_AT] = tables::timestamp_to_postgres(started_at).into_datum();
    row[column::DATABASE_OID] = database::own_oid().into_datum();
}

fn change_log_state(change: impl FnOnce(&mut [Option<pg_sys::Datum>])) {
    let snapshot = RegisteredSnapshot::latest();
    let mut state = or_raise(LogState::read(&snapshot));
    change(&mut state.row);
    single_row::update(&state.table, &mut state.tid, &state.row);
}

/// Makes this ledger the one that these blocks were taken from, with no mirror file yet.
pub fn restore_state(ledger_id: Uuid, started_at: Timestamp, tree: &LogTree) -> Result<(), Failure> {
    let mut state = LogState::read(&RegisteredSnapshot::latest())?;
    // Also in a copy of a database whose worker has not seen yet that it is one: it would make another ledger of this.
    make_own(&mut state.row, &ledger_id, started_at);
    state.update(tree);
    Ok(())
}

/// The row of `ledger.log_state`.
pub struct LogState {
    row: Vec<Option<pg_sys::Datum>>,
    frontier: Vec<u8>,
    pub version_runs: Vec<Run>,
    tid: pg_sys::ItemPointerData,
    table: Table,
}

impl LogState {
    pub fn read(snapshot: &RegisteredSnapshot) -> Result<Self, Failure> {
        let table = Table::open("log_state", pg_sys::RowExclusiveLock);
        let (row, tid) = {
            let mut scan = TableScan::start(&table, snapshot, 0);
            let tuple = scan.last().ok_or_else(|| damaged("ledger.log_state has no row"))?;
            // SAFETY: the copy lives in the batch's memory context, and the row points into it.
            unsafe {
                let tuple = pg_sys::heap_copytuple(tuple);
                (table.deform(tuple), (*tuple).t_self)
            }
        };
        let frontier = row.get::<Vec<u8>>(column::FRONTIER).unwrap_or_default();
        let version_runs = runs_of(&row);
        Ok(LogState { row: row.columns(), frontier, version_runs, tid, table })
    }

    /// The log tree to go on from. It must be that of the head block, or the chain would go on from something else than
    /// it states.
    pub fn tree(&self, head: Option<&BlockHeader>) -> Result<LogTree, Failure> {
        let size = head.map_or(0, |head| head.tree_size);
        let hashes: Vec<Hash> = self.frontier.chunks(32).filter_map(|hash| hash.try_into().ok()).collect();
        let tree = u64::try_from(size).ok().and_then(|size| LogTree::from_frontier(size, hashes));
        let root = head.and_then(|head| parse_hash(&head.tree_root));
        match tree {
            Some(tree) if head.is_none() || root == Some(tree.root()) => Ok(tree),
            _ => Err(damaged("the stored frontier of the log tree does not have the tree_root of the newest block")),
        }
    }

    pub fn update(&mut self, tree: &LogTree) {
        let frontier: Vec<u8> = tree.frontier().concat();
        self.row[column::FRONTIER] = frontier.into_datum();
        self.update_version_runs();
    }

    /// As [`LogState::update`], if the log tree has not grown.
    pub fn update_version_runs(&mut self) {
        self.row[column::VERSION_RUNS] = numbers_of(&self.version_runs).into_datum();
        single_row::update(&self.table, &mut self.tid, &self.row);
    }
}

/// The runs of `ledger.row_versions`.
pub fn version_runs(snapshot: &RegisteredSnapshot) -> Vec<Run> {
    let table = Table::open("log_state", pg_sys::AccessShareLock);
    let mut scan = TableScan::start(&table, snapshot, 0);
    scan.last().map(|tuple| runs_of(&table.deform(tuple))).unwrap_or_default()
}

/// The id that CREATE EXTENSION has made. `None` only if somebody has changed the table.
pub fn installation() -> Option<Uuid> {
    let table = Table::open("log_state", pg_sys::AccessShareLock);
    let snapshot = RegisteredSnapshot::latest();
    let mut scan = TableScan::start(&table, &snapshot, 0);
    scan.last().and_then(|tuple| table.deform(tuple).uuid(column::INSTALLATION))
}

fn runs_of(row: &Row) -> Vec<Run> {
    // Only a superuser can have put a null there. Read as 0, it shows when the ledger is verified.
    let numbers = row.get::<Vec<Option<i64>>>(column::VERSION_RUNS).unwrap_or_default();
    let numbers: Vec<i64> = numbers.into_iter().map(Option::unwrap_or_default).collect();
    let (runs, _) = numbers.as_chunks();
    runs.iter().map(|numbers| Run::from_numbers(*numbers)).collect()
}

fn numbers_of(runs: &[Run]) -> Vec<i64> {
    runs.iter().flat_map(Run::numbers).collect()
}

/// The error if what sealing goes on from was changed.
pub fn damaged(what: &str) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, format!("cannot seal: {what}"))
        .detail("A new block would build on data that was changed outside of the ledger.")
        .hint("Run SELECT * FROM ledger.find_tampering() to see where, and restore that row from a backup or the mirror file.")
}
