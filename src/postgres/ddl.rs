//! DDL that the ledger does by itself, with the rights of its owner: triggers of tracked tables, and partitions of its
//! own.
//!
//! Event triggers do not fire for it. They would run with these rights: what they call, or the triggers of a table that
//! they write to, may be the code of any role. They would also run with the ledger's search_path, and under a
//! restriction which keeps them from creating temporary tables. And one that refuses all DDL knows nothing of the
//! ledger.

use super::lists::pointers;
use super::tables::RegisteredSnapshot;
use pgrx::{pg_sys, PgBox, PgMemoryContexts};
use std::ffi::{CStr, CString};
use std::ptr;

/// Runs one command. A part of another command, as it is called here, fires no event triggers of its own. The hooks of
/// other extensions are called; that of pgaudit logs no such parts.
pub fn run(command: &str) {
    let text = CString::new(command).expect("no command has a zero byte");
    let mut context = PgMemoryContexts::new("pg_notary command");
    // SAFETY: inside a transaction. The text outlives what is parsed from it, which is in that context.
    unsafe {
        context.switch_to(|_| {
            pointers(pg_sys::pg_parse_query(text.as_ptr())).for_each(|parsed| execute(&*parsed.cast(), &text));
        });
    }
}

/// # Safety
/// Inside a transaction. The command was parsed from the text.
unsafe fn execute(parsed: &pg_sys::RawStmt, text: &CStr) {
    let mut command = PgBox::<pg_sys::PlannedStmt>::alloc_node(pg_sys::NodeTag::T_PlannedStmt);
    command.commandType = pg_sys::CmdType::CMD_UTILITY;
    command.utilityStmt = parsed.stmt;
    (command.stmt_location, command.stmt_len) = (parsed.stmt_location, parsed.stmt_len);
    pg_sys::PushActiveSnapshot(RegisteredSnapshot::latest().as_ptr());
    pg_sys::ProcessUtility(
        command.into_pg(),
        text.as_ptr(),
        false,
        pg_sys::ProcessUtilityContext::PROCESS_UTILITY_SUBCOMMAND,
        ptr::null_mut(),
        ptr::null_mut(),
        pg_sys::None_Receiver,
        ptr::null_mut(),
    );
    pg_sys::PopActiveSnapshot();
    pg_sys::CommandCounterIncrement();
}
