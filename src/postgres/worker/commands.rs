//! Commands that concern the workers: those that create or drop extensions, and those that need a database for
//! themselves.
//!
//! DROP DATABASE, ALTER DATABASE ... RENAME TO or SET TABLESPACE, and CREATE DATABASE ... TEMPLATE fail while another
//! process is connected to the database, and a background worker counts. So the database's worker is paused before the
//! command, and wanted again after it.

use crate::postgres::database_slot::DatabaseSlot;
use crate::postgres::extension;
use crate::postgres::lists;
use crate::postgres::ownership::Object;
use crate::postgres::shared::shared;
use crate::postgres::spi;
use crate::postgres::timeout::Timeout;
use crate::postgres::transaction;
use crate::postgres::wait_events;
use pgrx::{check_for_interrupts, pg_guard, pg_sys};
use std::ffi::{c_char, CStr};
use std::time::Duration;

/// How long a command waits for the worker to leave. After that, Postgres itself complains.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Pauses the worker of the database that the command needs for itself.
///
/// # Safety
/// `statement` is the statement that ProcessUtility was called with.
#[pg_guard]
pub unsafe extern "C-unwind" fn before_utility(statement: *mut pg_sys::Node) {
    let (database, may): (_, fn(pg_sys::Oid) -> bool) = match (*statement).type_ {
        pg_sys::NodeTag::T_DropdbStmt if is_alone() => ((*statement.cast::<pg_sys::DropdbStmt>()).dbname, is_own),
        pg_sys::NodeTag::T_AlterDatabaseStmt if is_alone() => {
            let alter = &*statement.cast::<pg_sys::AlterDatabaseStmt>();
            if option(alter.options, c"tablespace").is_null() {
                return;
            }
            (alter.dbname, is_own)
        }
        pg_sys::NodeTag::T_RenameStmt => {
            let rename = &*statement.cast::<pg_sys::RenameStmt>();
            if rename.renameType != pg_sys::ObjectType::OBJECT_DATABASE {
                return;
            }
            (rename.subname, is_own)
        }
        pg_sys::NodeTag::T_TransactionStmt => {
            note_decision(&*statement.cast::<pg_sys::TransactionStmt>());
            return;
        }
        pg_sys::NodeTag::T_CreatedbStmt if is_alone() => {
            transaction::at_end_databases_changed();
            let template = option((*statement.cast::<pg_sys::CreatedbStmt>()).options, c"template");
            (if template.is_null() { c"template1".as_ptr().cast_mut() } else { template }, may_copy)
        }
        _ => return,
    };
    let database = if database.is_null() { pg_sys::InvalidOid } else { pg_sys::get_database_oid(database, true) };
    // A user who may not run the command must not stop a worker. The command itself says what is wrong.
    if database != pg_sys::InvalidOid && may(database) {
        pause_worker(database);
    }
}

/// Most of these commands refuse to run in a transaction block.
fn is_alone() -> bool {
    // SAFETY: reads the state of this session's transaction.
    unsafe { !pg_sys::IsTransactionBlock() && !pg_sys::IsSubTransaction() }
}

fn is_own(database: pg_sys::Oid) -> bool {
    Object::Database(database).is_own()
}

/// Whether the user may make a copy of the database.
fn may_copy(database: pg_sys::Oid) -> bool {
    let mut may = is_own(database);
    if !may {
        spi::for_each_in_catalogs(
            "SELECT FROM pg_roles AS r, pg_database AS d \
             WHERE r.rolname = current_user AND r.rolcreatedb \
             AND d.oid = $1::oid AND d.datistemplate",
            &[i64::from(database.to_u32()).into()],
            |_| may = true,
        );
    }
    may
}

/// No callback tells what becomes of a prepared transaction: only the command that decides it does. Whether there is a
/// worker to be told is looked up once it is decided: one may come meanwhile, and find the transaction undecided.
///
/// # Safety
/// As for [`before_utility`]: the statement is one that ProcessUtility was called with.
unsafe fn note_decision(statement: &pg_sys::TransactionStmt) {
    use pg_sys::TransactionStmtKind::{TRANS_STMT_COMMIT_PREPARED, TRANS_STMT_ROLLBACK_PREPARED};
    let decides = matches!(statement.kind, TRANS_STMT_COMMIT_PREPARED | TRANS_STMT_ROLLBACK_PREPARED);
    if decides {
        transaction::at_end_prepared_decided();
    }
}

/// The text of an option, or null.
///
/// # Safety
/// `options` is null or a list of DefElem nodes, as the grammar makes it.
unsafe fn option(options: *mut pg_sys::List, name: &CStr) -> *mut c_char {
    for option in lists::pointers(options) {
        let option = option.cast::<pg_sys::DefElem>();
        if CStr::from_ptr((*option).defname) == name && !(*option).arg.is_null() {
            return pg_sys::defGetString(option);
        }
    }
    std::ptr::null_mut()
}

/// Has the worker of `database` leave, and come back when this transaction has ended.
fn pause_worker(database: pg_sys::Oid) {
    let Some(shared) = shared() else { return };
    let Some(pause) = shared.pauses.begin(database) else { return };
    transaction::at_end_resume_worker(pause);
    // A worker that has no slot yet looks for the pause as soon as it has taken one.
    if let Some(slot) = shared.find(database) {
        wait_until_gone(slot);
    }
}

fn wait_until_gone(slot: &DatabaseSlot) {
    let mut timeout = Timeout::after(STOP_DEADLINE);
    while slot.worker.pid() != 0 && !timeout.is_over() {
        check_for_interrupts!();
        // Each time: if it waits for a lock or for the file, it is woken there, and not where it looks for a pause.
        slot.worker.wake();
        // SAFETY: MyLatch is this process's own latch, which exists as long as the process.
        unsafe {
            let events = (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32;
            pg_sys::WaitLatch(pg_sys::MyLatch, events, 10, wait_events::worker_stop());
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
}

/// An extension has been created. Which one it is cannot be looked up yet.
pub fn extension_created(extension: pg_sys::Oid) {
    transaction::at_end_extension_created(extension);
}

/// An extension is dropped.
pub fn extension_dropped(extension: pg_sys::Oid) {
    if extension == extension::oid() {
        transaction::at_end_extension_dropped(extension);
    }
}
