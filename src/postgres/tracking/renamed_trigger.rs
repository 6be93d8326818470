//! The row trigger of a tracked table under another name, which somebody has given it. It records nothing, and so keeps
//! every change of a row out: beside a trigger that has the name it would record each row once more, as if the row had
//! been inserted or updated twice.

use super::options::{is_row_trigger, not_made_by_track, tracked_root, triggers_of, Options, ROW_TRIGGER};
use crate::postgres::errors::{sentence, Failure};
use crate::postgres::quoting::identifier;
use crate::postgres::tables::Table;
use pgrx::{pg_sys, PgSqlErrorCode};
use std::ffi::{CStr, CString};

pub struct RenamedTrigger {
    name: CString,
    /// The table that it is on.
    table: String,
    /// Another trigger has its name, which is not one of the ledger's.
    is_replaced: bool,
}

impl RenamedTrigger {
    /// `None` if the table has the trigger under its own name, or has none.
    pub fn of(table: &Table) -> Option<RenamedTrigger> {
        // SAFETY: the relation is open, and so are the triggers good; a trigger's name ends with a zero byte.
        unsafe {
            let triggers = triggers_of(table.relation());
            let is_named = |trigger: &&pg_sys::Trigger| CStr::from_ptr(trigger.tgname) == ROW_TRIGGER;
            let of_that_name = triggers.iter().find(is_named);
            if of_that_name.is_some_and(|trigger| is_row_trigger(trigger)) {
                return None;
            }
            let is_own = |trigger: &&pg_sys::Trigger| is_row_trigger(trigger) && Options::of_trigger(trigger).is_ok();
            triggers.iter().find(is_own).map(|trigger| RenamedTrigger {
                name: CStr::from_ptr(trigger.tgname).to_owned(),
                table: table.qualified_name(),
                is_replaced: of_that_name.is_some(),
            })
        }
    }

    /// What has happened, without a verb before it.
    pub fn what(&self) -> String {
        let RenamedTrigger { name, table, .. } = self;
        format!("trigger {} of table {table} was renamed to {}", shown(ROW_TRIGGER), shown(name))
    }

    /// What puts it right, where `call` is the call of track() that does.
    pub fn remedy(&self, call: &str) -> String {
        let RenamedTrigger { name, table, .. } = self;
        let own = ROW_TRIGGER.to_string_lossy();
        let first = match self.is_replaced {
            true => format!("DROP TRIGGER {own} ON {table} drops the other trigger that has its name; then "),
            false => String::new(),
        };
        let rename = format!("ALTER TRIGGER {} ON {table} RENAME TO {own}", identifier(name));
        format!("{first}{call} makes it anew, or {rename} renames it back")
    }
}

fn shown(name: &CStr) -> String {
    format!("\"{}\"", name.to_string_lossy())
}

/// Refuses to record for a trigger of another name.
///
/// # Safety
/// `trigger` is that of a trigger call, and of this table.
pub unsafe fn require_own_name(trigger: &pg_sys::Trigger, table: &Table) -> Result<(), Failure> {
    if CStr::from_ptr(trigger.tgname) == ROW_TRIGGER {
        return Ok(());
    }
    let options = Options::of_trigger(trigger)?;
    let root = tracked_root(table, &options);
    // With the trigger of a table, Postgres renames its copies in the partitions (before version 15 it does not).
    let renamed = root.as_ref().and_then(RenamedTrigger::of).or_else(|| RenamedTrigger::of(table));
    let renamed = renamed.ok_or_else(not_made_by_track)?;
    let call = options.call(&root.as_ref().unwrap_or(table).qualified_name());
    Err(Failure::new(PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, renamed.what())
        .detail("Under another name it records no change, so every change of a row is refused.")
        .hint(sentence(&renamed.remedy(&call))))
}
