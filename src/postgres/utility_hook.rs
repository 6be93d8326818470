//! The ProcessUtility hook: runs for every command that is not a query.

use super::copy_hook;
use super::own_tables;
use super::queue;
use super::sealing_lock;
use super::table_locks;
use super::tracking;
use super::worker;
use pgrx::pg_sys;
use std::ffi::c_char;

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

pub fn init() {
    copy_hook::init();
    // SAFETY: _PG_init runs in the postmaster's only thread; the hook is chained.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

extern "C-unwind" {
    /// Postgres' own function, not pgrx's wrapper. The wrapper turns an error into a panic and back, and the error
    /// loses its cursor position, its context, and the names of constraint, table and column.
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        query: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Not guarded as a whole: an error of the command passes through this frame as through a frame of C, and nothing in it
/// has a destructor. So each function that is called here and can raise an error is guarded itself: no frame above
/// would catch its panic, and the server would abort.
#[allow(clippy::too_many_arguments, reason = "the hook's signature")]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    worker::commands::before_utility((*statement).utilityStmt);
    own_tables::before_utility((*statement).utilityStmt);
    sealing_lock::before_utility((*statement).utilityStmt);
    table_locks::before_utility((*statement).utilityStmt);
    let is_tracking = tracking::commands::concerns((*statement).utilityStmt);
    let before = tracking::mid_statement::ahead();
    let mut noted = std::ptr::null_mut();
    if is_tracking {
        noted = tracking::commands::before_utility((*statement).utilityStmt);
    }
    let next = PREVIOUS.unwrap_or(standard_ProcessUtility);
    let rewritten = copy_hook::rewrite(statement);
    let statement = if rewritten.is_null() { statement } else { rewritten };
    next(statement, query, read_only_tree, context, parameters, environment, destination, completion);
    if !rewritten.is_null() {
        copy_hook::count_lines(rewritten, completion);
    }
    if is_tracking {
        tracking::commands::after_utility((*statement).utilityStmt, noted);
    }
    tracking::mid_statement::command_ended(before);
    // COPY fires triggers without the executor.
    if !queue::is_empty() {
        queue::flush_guarded();
    }
}
