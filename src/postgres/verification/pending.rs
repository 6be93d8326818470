//! What is not sealed yet, in the tables and in the file.
//!
//! Both go on changing while they are read. The pending rows are read first: what is committed then has its line before
//! the end of the file that is read afterwards. A line without a row is an error only if its transaction has ended and
//! the worker has had time to void it.

use super::opened_file::OpenedFile;
use super::table_blocks::{self, Buffers};
use crate::ledger::record::Record;
use crate::ledger::signature::Keyring;
use crate::ledger::verifier::{
    FileReport, Findings, KeyCounts, PendingEntry, Problem, ProblemKind, SealedEntry, Source,
};
use crate::ledger::Hash;
use crate::postgres::database;
use crate::postgres::entries_pending;
use crate::postgres::mirror::prepared;
use crate::postgres::mirror::remembered;
use crate::postgres::mirror::shared::Attachment;
use crate::postgres::mirror::voiding;
use crate::postgres::partitions;
use crate::postgres::settings::{self, MirrorMode};
use crate::postgres::tables::{entry_column, look_up, tid_of, RegisteredSnapshot, Row, Table, TableScan};
use crate::postgres::transaction;
use crate::regular_file;
use pgrx::{check_for_interrupts, pg_sys, PgMemoryContexts};
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use uuid::Uuid;

/// How often to look whether the worker has voided the lines of a transaction that has aborted: for ten seconds at
/// least. Looks are counted, and not seconds, because in a machine that was suspended the worker has not run either.
const VOID_LOOKS: usize = 500;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The pending rows as they were before the file was read.
pub struct PendingComparison {
    rows: HashMap<Uuid, PendingRow>,
    /// What their signatures are worth.
    by_key: KeyCounts,
    /// The attachment of the file that had the lines of all entries by then, if there was one.
    complete: Option<u64>,
    /// The file may have lacked lines of what was committed by then: the worker had yet to append them.
    may_lack: bool,
}

struct PendingRow {
    leaf_hash: Hash,
    tid: pg_sys::ItemPointerData,
    /// Written by the verifying transaction itself: its lines are appended only when it commits.
    is_uncommitted: bool,
    in_block: InBlock,
}

impl PendingRow {
    fn is_sealed_since(&self) -> bool {
        matches!(self.in_block, InBlock::Since(_))
    }
}

/// Whether a block that was verified has the entry of a pending row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InBlock {
    No,
    /// It was sealed after the pending rows were read, in this one.
    Since(i64),
    /// It was sealed before, so it should not have been pending any more. This is reported.
    Before,
}

/// The pending rows that have been read so far.
struct Reading<'a> {
    keyring: Option<&'a Keyring>,
    rows: HashMap<Uuid, PendingRow>,
    by_key: KeyCounts,
    buffers: Buffers,
}

impl Reading<'_> {
    fn take(&mut self, row: &Row, tid: pg_sys::ItemPointerData, is_uncommitted: bool, findings: &mut Findings<'_>) {
        let (entry, fault) = table_blocks::entry_and_fault(row, self.keyring, &mut self.buffers);
        if let Some(fault) = fault {
            let mut problem = Problem::new(Source::Postgres, ProblemKind::RowMalformed, fault);
            problem.entry_id = row.uuid(entry_column::ID);
            findings.report(problem);
            if row.is_null(entry_column::ID) {
                return;
            }
        }
        let of_entry = |kind, detail: &str| Problem::new(Source::Postgres, kind, detail).of_entry(entry.entry_id);
        self.by_key.note(entry.signature);
        if let Some((kind, detail)) = entry.signature.problem() {
            findings.report(of_entry(kind, detail));
        }
        if row.datum(entry_column::LEAF_INDEX).is_some() || row.datum(entry_column::BLOCK_NUMBER).is_some() {
            findings.report(of_entry(ProblemKind::RowMalformed, "a pending entry claims to be sealed"));
        }
        let pending = PendingRow { leaf_hash: entry.leaf_hash, tid, is_uncommitted, in_block: InBlock::No };
        if self.rows.insert(entry.entry_id, pending).is_some() {
            findings.report(of_entry(ProblemKind::EntryRepeated, "more than one pending entry has this id"));
        }
    }
}

/// How many pending entries the worker knows of.
fn counted() -> i64 {
    database::slot().map_or(i64::MAX, |(_, slot)| slot.pending.load(Ordering::Acquire))
}

/// Has the worker count the pending entries again: those that were put back past the triggers would not be sealed.
fn have_them_counted() {
    let Ok((_, slot)) = database::slot() else { return };
    slot.recount.store(true, Ordering::Release);
    slot.worker.wake();
}

impl PendingComparison {
    /// Reads the pending rows, and checks each by itself.
    pub fn read(keyring: Option<&Keyring>, findings: &mut Findings<'_>) -> Self {
        let complete = complete_attachment();
        let snapshot = RegisteredSnapshot::latest();
        // At once: what is sealed while the rows are read is off the count.
        let counted = counted();
        let may_lack = may_lack_lines();
        let table = Table::open("entries_pending", pg_sys::AccessShareLock);
        let mut scan = TableScan::start(&table, &snapshot, 0);
        let mut reading =
            Reading { keyring, rows: HashMap::new(), by_key: KeyCounts::default(), buffers: Buffers::default() };
        // A row's metadata may be as large as the row. This context frees its copy before the next row is read.
        let mut context = PgMemoryContexts::new("pg_notary verification");
        while let Some(tuple) = scan.next() {
            check_for_interrupts!();
            // An administrator who puts a lost row back does so with the table's triggers off, and nothing notes it.
            // Now the worker finds it.
            entries_pending::note(tid_of(tuple).0);
            // SAFETY: the scan's tuple is valid until the next one is fetched.
            let (tid, is_uncommitted) = unsafe {
                let inserted_by = (*(*tuple).t_data).t_choice.t_heap.t_xmin;
                ((*tuple).t_self, pg_sys::TransactionIdIsCurrentTransactionId(inserted_by))
            };
            // SAFETY: the context belongs to this function, and nothing that is kept of a row is allocated in it.
            unsafe {
                context.switch_to(|_| reading.take(&table.deform(tuple), tid, is_uncommitted, findings));
                context.reset();
            }
        }
        let found = reading.rows.values().filter(|row| !row.is_uncommitted).count();
        if found as i64 > counted {
            have_them_counted();
        }
        PendingComparison { rows: reading.rows, by_key: reading.by_key, complete, may_lack }
    }

    pub fn by_key(&self) -> &KeyCounts {
        &self.by_key
    }

    /// Notes entries of a block that was sealed after the pending rows were read. They count as sealed, and no longer
    /// as pending too.
    pub fn note_sealed(&mut self, entries: &[SealedEntry]) {
        for entry in entries {
            if let Some(row) = self.rows.get_mut(&entry.entry_id).filter(|row| row.in_block == InBlock::No) {
                row.in_block = InBlock::Since(entry.block_number);
            }
        }
    }

    /// Reports entries of a block that was sealed before the pending rows were read, if they are still among these.
    pub fn check_sealed_before(&mut self, entries: &[SealedEntry], findings: &mut Findings<'_>) {
        if self.rows.is_empty() {
            return;
        }
        for entry in entries {
            if let Some(row) = self.rows.get_mut(&entry.entry_id).filter(|row| row.in_block != InBlock::Before) {
                row.in_block = InBlock::Before;
                findings.report(also_pending(entry.entry_id));
            }
        }
    }

    /// Reports entries that were sealed since and whose pending rows are still there. The commit that seals an entry
    /// removes its row.
    pub fn check_sealed_since(&self, findings: &mut Findings<'_>) {
        for (entry_id, row) in self.rows.iter().filter(|(_, row)| row.is_sealed_since()) {
            check_for_interrupts!();
            if is_still_there(*entry_id, row) {
                findings.report(also_pending(*entry_id));
            }
        }
    }

    /// How many were not sealed since.
    pub fn count(&self) -> u64 {
        self.rows.values().filter(|row| !row.is_sealed_since()).count() as u64
    }

    /// Compares the rows with the lines that no block of the file holds.
    pub fn compare(
        &self,
        opened: &OpenedFile,
        report: &FileReport,
        last_block: i64,
        tables: &mut Findings<'_>,
        file: &mut Findings<'_>,
    ) {
        // Another file has come in place of this one, and has the lines of what was committed or voided since.
        if opened.is_replaced() {
            return;
        }
        settle_decided();
        let differing = self.rows_without_line(report, last_block, tables, file);
        let without_row = lines_without_row(report);
        let vanished = still_without_row(opened, report, without_row);
        let mut vanished: Vec<(&Uuid, &PendingEntry)> =
            vanished.iter().filter_map(|id| Some((id, report.pending.get(id)?))).collect();
        // After a failed sync the server cuts off lines whose transactions fail with it.
        if opened.has_failed_since() {
            vanished.retain(|(_, line)| voiding::leaf_at(&opened.path, line.offset) == Some(line.leaf_hash));
        }
        vanished.sort_by_key(|(_, line)| line.line_number);
        for (entry_id, line) in vanished {
            if differing.contains(entry_id) {
                continue;
            }
            if self.rows.get(entry_id).is_some_and(|row| row.leaf_hash != line.leaf_hash) {
                tables.report(differs(*entry_id, line));
                continue;
            }
            let (kind, detail) = match is_pending(*entry_id) || partitions::block_of(*entry_id).is_some() {
                true => (ProblemKind::EntryDiffers, "the entry is not the same in the database and in the file"),
                false => (ProblemKind::EntryNotInDatabase, not_in_database()),
            };
            tables.report(Problem::new(Source::Postgres, kind, detail).of_entry(*entry_id).on_line(line.line_number));
        }
    }

    /// Checks a block that was sealed before the file was read, and whose line is still on its way. If the file is not
    /// behind, the lines of its entries were in it before they were sealed. Whether they are equal, [`Self::compare`]
    /// checks.
    pub fn sealed_without_line(&self, report: &FileReport, entries: &[SealedEntry], file: &mut Findings<'_>) {
        if self.complete.is_none() || self.complete != complete_attachment() {
            return;
        }
        for entry in entries.iter().filter(|entry| report.pending.get(&entry.entry_id).is_none()) {
            let detail = "the file has no line of this entry, and its block is sealed";
            let problem = Problem::new(Source::File, ProblemKind::EntryNotInFile, detail).of_entry(entry.entry_id);
            file.report(problem.in_block(entry.block_number).at_leaf(entry.leaf_index));
        }
    }

    /// Reports rows that have no line, or another one. Returns those that have another.
    fn rows_without_line(
        &self,
        report: &FileReport,
        last_block: i64,
        tables: &mut Findings<'_>,
        file: &mut Findings<'_>,
    ) -> HashSet<Uuid> {
        // In mode async, and right after it, lines come after their commit.
        let is_behind = settings::mirror_mode() == MirrorMode::Async
            || database::mirror().is_ok_and(|mirror| mirror.slot.is_behind());
        // A standby may lag behind the file; or what it reads of the file may, on a network mount or in a copy, lag
        // behind it.
        let lags = database::is_in_recovery() || is_behind || self.may_lack || has_lost_lines();
        let mut differing = HashSet::new();
        for (entry_id, row) in &self.rows {
            check_for_interrupts!();
            match report.pending.get(entry_id) {
                Some(line) if line.leaf_hash == row.leaf_hash => {}
                // The id was that of an entry that was rolled back, and its line is still to be voided.
                Some(line) if row.is_uncommitted || may_be_aborted(line) => {}
                Some(line) => {
                    differing.insert(*entry_id);
                    tables.report(differs(*entry_id, line));
                }
                // Reported before; or compared with its block in the file.
                None if row.in_block == InBlock::Before => {}
                None if matches!(row.in_block, InBlock::Since(block) if block <= last_block) => {}
                // In one that this transaction does not see yet, so it was not verified.
                None if partitions::block_of(*entry_id).is_some_and(|block| block <= last_block) => {
                    if is_still_there(*entry_id, row) {
                        tables.report(also_pending(*entry_id));
                    }
                }
                None if row.is_uncommitted || lags => {}
                None => {
                    let detail = "the file has no line of this pending entry";
                    let problem = Problem::new(Source::File, ProblemKind::EntryNotInFile, detail);
                    file.report(problem.of_entry(*entry_id));
                }
            }
        }
        differing
    }
}

fn differs(entry_id: Uuid, line: &PendingEntry) -> Problem {
    let detail =
        "the pending entry is not the same in the database and in the file; no block holds it yet, so either may \
                  have been changed";
    Problem::new(Source::Postgres, ProblemKind::EntryDiffers, detail).of_entry(entry_id).on_line(line.line_number)
}

fn also_pending(entry_id: Uuid) -> Problem {
    let detail = "the entry is sealed, but is also still pending";
    Problem::new(Source::Postgres, ProblemKind::EntryRepeated, detail).of_entry(entry_id)
}

/// What is said of a line whose entry the database does not have.
fn not_in_database() -> &'static str {
    let is_undecided = database::mirror().is_ok_and(|mirror| {
        let fields = mirror.lock();
        fields.attachment == Attachment::Failed && !fields.was_attached
    });
    match is_undecided {
        true => {
            "the database does not have this entry, which is in no block and not voided; the server has not opened the \
             file since it started; lines that a crash has left are voided only when it opens it"
        }
        false => "the database does not have this entry, which is in no block and not voided",
    }
}

/// Whether the worker may have yet to append lines of what is committed by now. Once the file is attached, it has them.
fn may_lack_lines() -> bool {
    let standby = database::is_in_recovery();
    database::mirror().is_ok_and(|mirror| {
        // In this order: an attempt to attach the file begins by noting in the fields what it takes from there.
        let is_behind = mirror.slot.is_behind();
        let has_worker = mirror.slot.worker.pid() != 0;
        let fields = mirror.lock();
        let is_to_be_attached = match fields.attachment {
            Attachment::Attached | Attachment::Failed => false,
            Attachment::Repairing | Attachment::Off => true,
            // A template has no worker, for example: nothing will be appended.
            Attachment::Detached => has_worker,
        };
        is_behind || !standby && (is_to_be_attached || fields.reopening.may_miss_lines())
    })
}

/// Whether a failed sync has lost lines, which the worker appends again when it has opened the file anew.
fn has_lost_lines() -> bool {
    database::mirror().is_ok_and(|mirror| mirror.lock().reopening.may_miss_lines())
}

/// The attachment of the file, if it has the lines of all committed entries: in the modes `sync` and `write`, once what
/// it lacked has been appended. A standby does not know. Entries that this transaction itself has recorded and sealed
/// get their lines only when it commits.
fn complete_attachment() -> Option<u64> {
    let standby = database::is_in_recovery();
    let is_waited_for = settings::mirror_mode().waits_for_file();
    if standby || !is_waited_for || transaction::has_sealed() {
        return None;
    }
    let mirror = database::mirror().ok().filter(|mirror| !mirror.slot.is_behind())?;
    let own_file = remembered::own_file();
    let fields = mirror.lock();
    // The attached file may still be that of a ledger that was dropped.
    let is_own = matches!(fields.attachment, Attachment::Attached) && Path::new(&fields.path.get()) == own_file;
    is_own.then_some(fields.identity.generation)
}

/// Whether the row is where it was read. No index may lead to it, if a superuser has inserted it.
fn is_still_there(entry_id: Uuid, row: &PendingRow) -> bool {
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    let snapshot = RegisteredSnapshot::latest();
    let found = table.fetch(row.tid, &snapshot, |row| row.uuid(entry_column::ID));
    // Another row may have been put there.
    found.flatten() == Some(entry_id)
}

/// Whether the pending table has the entry now.
fn is_pending(entry_id: Uuid) -> bool {
    let table = Table::open("entries_pending", pg_sys::AccessShareLock);
    let snapshot = RegisteredSnapshot::latest();
    look_up::find_entry(&table, entry_id, &snapshot, |_| ()).is_some()
}

/// Entries that are in the file but in no block, and whose row is not in the tables, committed or inserted by a running
/// transaction. A row with other content does not count, even if it has the same id.
fn lines_without_row(report: &FileReport) -> HashSet<Uuid> {
    let lines = report.pending.iter();
    lines.filter(|(id, line)| voiding::recorded_leaf(*id) != Some(line.leaf_hash)).map(|(id, _)| id).collect()
}

/// Those that still have no row and are not voided, once the worker has dealt with all transactions that have ended by
/// now.
fn still_without_row(opened: &OpenedFile, report: &FileReport, mut entries: HashSet<Uuid>) -> HashSet<Uuid> {
    if entries.is_empty() || database::is_in_recovery() {
        // A standby normally lags behind the file.
        return HashSet::new();
    }
    for look in 0.. {
        check_for_interrupts!();
        let waiting = is_void_waiting();
        for voided in voided_after(&opened.path, report.bytes) {
            entries.remove(&voided);
        }
        if opened.is_replaced() {
            return HashSet::new();
        }
        let is_over = look >= VOID_LOOKS;
        if is_over {
            entries.retain(|id| !is_to_be_voided(report, id));
        }
        if entries.is_empty() || !waiting || is_over {
            break;
        }
        wake_worker();
        std::thread::sleep(LOOK_INTERVAL);
    }
    entries
}

/// Whether lines of aborted transactions wait to be voided, transactions that wrote lines have not ended, or the worker
/// has yet to look at what a crash left.
fn is_void_waiting() -> bool {
    settle_decided();
    database::mirror().is_ok_and(|mirror| {
        // In this order: a transaction says that its lines are to be voided before it counts as decided.
        let undecided = mirror.slot.undecided() > 0;
        let fields = mirror.lock();
        let recovers = matches!(fields.attachment, Attachment::Detached | Attachment::Repairing);
        undecided || recovers || fields.has_aborted()
    })
}

/// ROLLBACK PREPARED does not say itself that lines are to be voided.
fn settle_decided() {
    let standby = database::is_in_recovery();
    if let Some(mirror) = database::mirror().ok().filter(|_| !standby) {
        prepared::settle_decided(&mirror);
    }
}

/// Whether the line is known to belong to an aborted transaction, and only waits for the worker to void it.
fn is_to_be_voided(report: &FileReport, entry_id: &Uuid) -> bool {
    report.pending.get(entry_id).is_some_and(may_be_aborted)
}

fn may_be_aborted(line: &PendingEntry) -> bool {
    database::mirror().is_ok_and(|mirror| mirror.lock().may_be_aborted(line.offset))
}

fn wake_worker() {
    if let Ok(mirror) = database::mirror() {
        mirror.slot.worker.wake();
    }
}

/// The entries that void lines behind this offset name. A file that cannot be read any more counts as having none.
fn voided_after(path: &Path, from: u64) -> Vec<Uuid> {
    let Ok(mut file) = regular_file::open_own(path) else { return Vec::new() };
    if file.seek(SeekFrom::Start(from)).is_err() {
        return Vec::new();
    }
    let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
    lines
        .filter_map(|line| match Record::parse(&line) {
            Ok(Record::Void(void)) => Some(void.entry_ids),
            _ => None,
        })
        .flatten()
        .collect()
}
