//! Rebuilds an empty ledger from the lines of its file.
//!
//! The lines come as rows of `ledger.import`, a table that stays empty because its triggers take them. So core COPY
//! does the reading, and an error in a line aborts the statement like any other. Each line is verified before anything
//! of it is written. Blocks are written in batches; only entries that wait for their block are kept in memory.

mod progress;
mod rows;

use super::all_entries;
use super::database;
use super::errorless;
use super::errors::{or_raise, Failure};
use super::memory::at_end_of_transaction;
use super::roles;
use super::secrets;
use super::tables::{RegisteredSnapshot, Table, TableScan};
use super::transaction;
use super::triggers::{inserted_row, trigger_data, version_1_function, Declared};
use super::{log_state, sealing_lock};
use crate::ledger::record::{Header, Record};
use crate::ledger::signature::Keyring;
use crate::ledger::verifier::{FileBlock, FileVerifier, Findings, Problem, ProblemKind};
use pgrx::{pg_guard, pg_sys, PgSqlErrorCode};
use rows::{in_own_context, refused, Batch, KeptEntry};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;
use uuid::Uuid;

version_1_function!(pg_finfo_ledger_begin_import);
version_1_function!(pg_finfo_ledger_import_line);
version_1_function!(pg_finfo_ledger_finish_import);

/// What the verifier has reported.
#[derive(Default)]
struct Found {
    /// The first problem; it ends the import.
    problem: Option<Problem>,
    unknown_keys: u64,
}

struct Import {
    /// The level of the subtransaction in which it began.
    level: i32,
    verifier: FileVerifier<'static>,
    found: Rc<RefCell<Found>>,
    has_keyring: bool,
    header: Option<Header>,
    kept: HashMap<Uuid, KeptEntry>,
    batch: Batch,
    signatures_not_checked: u64,
}

thread_local! {
    static CURRENT: RefCell<Option<Import>> = const { RefCell::new(None) };
    /// The number of lines of the last import that finished.
    static LINES: Cell<u64> = const { Cell::new(0) };
}

pub fn init() {
    // SAFETY: _PG_init calls this once. The callbacks live as long as the library, which is never unloaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_transaction_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subtransaction_event), std::ptr::null_mut());
    }
}

/// How many lines the last import has read.
pub fn lines_read() -> u64 {
    LINES.get()
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction_event(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    if matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE) {
        at_end_of_transaction(&CURRENT, |current| *current = None);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_subtransaction_event(
    event: pg_sys::SubXactEvent::Type,
    _subtransaction: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        let level = errorless::nest_level();
        at_end_of_transaction(&CURRENT, |current| *current = current.take().filter(|import| import.level < level));
    }
}

// ---- the triggers of ledger.import ----------------------------------------------------------------------------------

const EACH_LINE: Declared =
    Declared { is_before: true, is_for_each_row: true, events: &[pg_sys::TRIGGER_EVENT_INSERT] };
const BEFORE_STATEMENT: Declared = Declared { is_for_each_row: false, ..EACH_LINE };
const AFTER_STATEMENT: Declared = Declared { is_before: false, ..BEFORE_STATEMENT };

/// BEFORE INSERT, once a statement.
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_begin_import(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    trigger_data(fcinfo, &BEFORE_STATEMENT);
    or_raise(begin());
    pg_sys::Datum::null()
}

/// BEFORE INSERT, for each row: takes the line and stores no row.
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_import_line(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let (_table, row) = inserted_row(trigger_data(fcinfo, &EACH_LINE), &[pg_sys::TEXTOID]);
    // COPY reads an empty line as a null.
    let line: Option<&str> = row.get(0);
    or_raise(with_current(|import| import.line(line.unwrap_or_default().as_bytes())));
    pg_sys::Datum::null()
}

/// AFTER INSERT, once a statement.
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_finish_import(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    trigger_data(fcinfo, &AFTER_STATEMENT);
    let import = CURRENT.take().unwrap_or_else(|| no_import().raise());
    or_raise(import.finish());
    pg_sys::Datum::null()
}

/// Takes the state out while it works, so that it is gone after a failure.
fn with_current(work: impl FnOnce(&mut Import) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut import = CURRENT.take().ok_or_else(no_import)?;
    work(&mut import)?;
    CURRENT.set(Some(import));
    Ok(())
}

fn no_import() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "no import of a ledger is running")
        .hint("Rebuild a ledger with COPY ledger.entries FROM ... WITH (FORMAT jsonl).")
}

/// Only administrators may rebuild a ledger, even if others may insert into every table.
pub fn require_admin() -> Result<(), Failure> {
    let user = errorless::user();
    // SAFETY: a catalog look-up inside a transaction.
    if unsafe { pg_sys::superuser_arg(user) } || roles::is_member(user, &roles::ADMIN) {
        return Ok(());
    }
    Err(Failure::new(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, "permission denied to rebuild the ledger")
        .detail("Only roles with the privileges of the role \"ledger_admin\" may rebuild it from a file."))
}

fn begin() -> Result<(), Failure> {
    database::mirror()?;
    require_admin()?;
    if CURRENT.with_borrow(Option::is_some) {
        return Err(Failure::new(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "an import of a ledger is already running in this session",
        )
        .hint("Wait until that COPY has ended."));
    }
    transaction::require_no_part()?;
    // Before the locks too, so that a ledger in use is left alone: while this waits for one, all who record would wait.
    require_empty_ledger()?;
    sealing_lock::take();
    // Waits for transactions that are recording, and keeps new ones out until this transaction has ended.
    drop(Table::open("entries_pending", pg_sys::ExclusiveLock));
    require_empty_ledger()?;
    let import = Import::begin()?;
    transaction::note_import();
    CURRENT.set(Some(import));
    Ok(())
}

fn require_empty_ledger() -> Result<(), Failure> {
    let snapshot = RegisteredSnapshot::latest();
    let is_empty = |table: Table| TableScan::start(&table, &snapshot, 0).next().is_none();
    // If blocks were removed, what sealing keeps beside them may still be there.
    let names = ["blocks", "log_nodes", "row_versions"];
    let tables = names.map(|name| Table::open(name, pg_sys::AccessShareLock));
    let has_runs = !log_state::version_runs(&snapshot).is_empty();
    if has_runs || !tables.into_iter().all(is_empty) {
        return Err(not_empty());
    }
    all_entries::for_each(&snapshot, |_| Err(not_empty()))
}

fn not_empty() -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "cannot rebuild the ledger: it is not empty")
        .detail("A ledger is rebuilt as a whole, from its first line on.")
        .hint("Rebuild it in a database where CREATE EXTENSION pg_notary has just been run.")
}

// ---- the import -----------------------------------------------------------------------------------------------------

impl Import {
    fn begin() -> Result<Self, Failure> {
        let keyring = secrets::keyring()?;
        let found = Rc::new(RefCell::new(Found::default()));
        let noted = Rc::clone(&found);
        let findings = Findings::with_sink(move |problem| noted.borrow_mut().note(problem));
        let has_keyring = keyring.is_some();
        let keyring = keyring.map(|keyring| Cow::Owned(Keyring::clone(&keyring)));
        let mut verifier = FileVerifier::new(keyring, findings);
        verifier.collect_nodes();
        Ok(Import {
            level: errorless::nest_level(),
            verifier,
            found,
            has_keyring,
            header: None,
            kept: HashMap::new(),
            batch: Batch::default(),
            signatures_not_checked: 0,
        })
    }

    fn line(&mut self, raw: &[u8]) -> Result<(), Failure> {
        let line_number = self.verifier.line_number() + 1;
        let (kept, header) = (&mut self.kept, &mut self.header);
        let mut signed = false;
        let block = self.verifier.line_seen(raw, |record| match record {
            Record::Ledger(of) => *header = Some(of.clone()),
            Record::Entry(entry) => {
                signed = entry.signature.is_some();
                let entry = entry.to_entry();
                kept.insert(entry.entry_id, KeptEntry { entry, line_number, bytes: raw.len() });
            }
            Record::Void(void) => void.entry_ids.iter().for_each(|id| drop(kept.remove(id))),
            Record::Block(_) => {}
        });
        self.check_found()?;
        self.signatures_not_checked += u64::from(signed && !self.has_keyring);
        if let Some(block) = block {
            self.gather(block);
        }
        if self.batch.is_full() {
            self.write_batch()?;
        }
        Ok(())
    }

    fn check_found(&self) -> Result<(), Failure> {
        match &self.found.borrow().problem {
            Some(problem) => Err(bad_line(problem, self.verifier.line_number())),
            None => Ok(()),
        }
    }

    /// Takes the entries of the block. All of them are there, as the verifier has found nothing wrong with it.
    fn gather(&mut self, block: FileBlock) {
        for sealed in &block.entries {
            if let Some(kept) = self.kept.remove(&sealed.entry_id) {
                self.batch.push_entry(kept);
            }
        }
        self.batch.push_block(block.header);
    }

    fn write_batch(&mut self) -> Result<(), Failure> {
        let batch = std::mem::take(&mut self.batch);
        let nodes = self.verifier.take_nodes();
        in_own_context(|| batch.write(&nodes))
    }

    fn finish(mut self) -> Result<(), Failure> {
        self.write_batch()?;
        let tree = self.verifier.tree().cloned();
        let lines = self.verifier.line_number();
        // Reports what shows only at the end: an empty file, and bad signatures of entries that no block holds.
        self.verifier.finish(0);
        let found = self.found.take();
        if let Some(problem) = &found.problem {
            return Err(bad_line(problem, lines));
        }
        let (Some(header), Some(tree)) = (self.header, tree) else {
            pgrx::error!("an import without problems has neither header nor log tree");
        };
        let mut pending: Vec<KeptEntry> = self.kept.into_values().collect();
        pending.sort_unstable_by_key(|kept| kept.line_number);
        in_own_context(|| rows::write_pending(&pending))?;
        in_own_context(|| log_state::restore_state(header.ledger_id, header.timestamp, &tree))?;
        LINES.set(lines);
        note_unchecked(found.unknown_keys + self.signatures_not_checked);
        Ok(())
    }
}

fn note_unchecked(signatures: u64) {
    if signatures > 0 {
        pgrx::notice!("signatures not checked because the server does not have their keys: {signatures}");
    }
}

impl Found {
    fn note(&mut self, problem: &Problem) {
        if problem.problem == ProblemKind::UnknownKey {
            self.unknown_keys += 1;
        } else if self.problem.is_none() {
            self.problem = Some(problem.clone());
        }
    }
}

// ---- what is wrong with a file --------------------------------------------------------------------------------------

/// The failure for a problem that the verifier found after it had read `line_number` lines.
fn bad_line(problem: &Problem, line_number: u64) -> Failure {
    let block = problem.block_number.map(|number| format!("block {number}"));
    let leaf = problem.leaf_index.map(|index| format!("leaf_index {index}"));
    let entry = problem.entry_id.map(|id| format!("entry {id}"));
    let place: Vec<String> = [block, leaf, entry].into_iter().flatten().collect();
    let detail = match place.is_empty() {
        true => format!("{}.", problem.detail),
        false => format!("{} ({}).", problem.detail, place.join(", ")),
    };
    let whole = line_number.saturating_sub(1);
    let advice = match problem.problem {
        ProblemKind::LineMalformed | ProblemKind::LineNotCanonical => {
            format!(" If this is the last line, torn by a crash, import the file without it: head -n {whole}.")
        }
        ProblemKind::SignatureInvalid => {
            " If the file was not changed, the server's key with this key_id is not the key that signed the entry. Give the \
             server that key, or take this key_id out of ledger.hmac_secret_file for the import: signatures of a key that \
             the server does not have are counted, and not checked."
                .to_owned()
        }
        _ => String::new(),
    };
    refused(detail).hint(format!("Nothing was imported.{advice}"))
}
