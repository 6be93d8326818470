//! The TRUNCATE trigger. A table that is truncated as a whole gets one entry, which speaks for all its rows. A
//! partition that is truncated alone is recorded row by row.
//!
//! The triggers of a truncated table and of its partitions are called one after another. Between them run triggers of
//! the application, whose commands may themselves truncate tables. What the triggers of one TRUNCATE have in common,
//! and share with no other, is the executor's state that they are called with. Its memory is released when that
//! TRUNCATE ends, whether it succeeds or fails, and what this module knows of the TRUNCATE is dropped with it.

use super::options::Options;
use super::partitions::{record_all, Passage};
use super::plan::{self, Plan};
use super::record::record_truncate;
use crate::postgres::errors::{or_raise, Failure};
use crate::postgres::memory::at_end_of_transaction;
use crate::postgres::tables::Table;
use crate::postgres::triggers::{trigger_data, version_1_function, Declared};
use pgrx::{pg_guard, pg_sys};
use std::cell::RefCell;
use std::ffi::c_void;

version_1_function!(pg_finfo_ledger_record_truncate);

const TRUNCATION: Declared =
    Declared { is_before: true, is_for_each_row: false, events: &[pg_sys::TRIGGER_EVENT_TRUNCATE] };

thread_local! {
    /// The ids of the tables that are being truncated as a whole, each with the memory of its TRUNCATE.
    static WHOLE: RefCell<Vec<(pg_sys::MemoryContext, String)>> = const { RefCell::new(Vec::new()) };
}

/// BEFORE TRUNCATE, once per statement: the rows are still there.
///
/// # Safety
/// Called by Postgres, as the function of a trigger.
#[no_mangle]
#[pg_guard]
#[doc(hidden)]
pub unsafe extern "C-unwind" fn ledger_record_truncate(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let data = trigger_data(fcinfo, &TRUNCATION);
    let table = Table::of_trigger(data);
    let plan = or_raise(plan::of(&table, || Options::of_trigger(&*data.tg_trigger)));
    or_raise(match plan.is_partition {
        true => record_partition(&plan, &table),
        false => {
            note_whole(&plan);
            record_truncate(&plan)
        }
    });
    pg_sys::Datum::null()
}

/// The memory of the TRUNCATE whose trigger is being called. Postgres calls it in the memory for one tuple, whose
/// parent that is.
///
/// # Safety
/// Called in a trigger function, in the memory context that Postgres called it in.
unsafe fn running() -> pg_sys::MemoryContext {
    (*pg_sys::CurrentMemoryContext).parent
}

/// Notes that the table is truncated as a whole. The triggers of its partitions come after.
///
/// # Safety
/// Called in a trigger function, in the memory context that Postgres called it in.
unsafe fn note_whole(plan: &Plan) {
    let context = running();
    let size = std::mem::size_of::<pg_sys::MemoryContextCallback>();
    let callback = pg_sys::MemoryContextAlloc(context, size).cast::<pg_sys::MemoryContextCallback>();
    callback.write(pg_sys::MemoryContextCallback {
        func: Some(forget),
        arg: context.cast(),
        next: std::ptr::null_mut(),
    });
    let table_id = plan.options.table_id.clone();
    WHOLE.with_borrow_mut(|whole| whole.push((context, table_id)));
    pg_sys::MemoryContextRegisterResetCallback(context, callback);
}

/// The TRUNCATE with this memory has ended. Cannot fail, not even in a session that ends because the list above found
/// no memory to grow.
///
/// # Safety
/// Called by Postgres when it releases `context`, as registered in note_whole().
#[pg_guard]
unsafe extern "C-unwind" fn forget(context: *mut c_void) {
    at_end_of_transaction(&WHOLE, |whole| whole.retain(|(of, _)| *of != context.cast()));
}

/// Records the rows of a partition that is truncated alone. They are still there.
///
/// # Safety
/// Called in a trigger function, in the memory context that Postgres called it in.
unsafe fn record_partition(plan: &Plan, partition: &Table) -> Result<(), Failure> {
    let context = running();
    let is_noted = |whole: &Vec<(pg_sys::MemoryContext, String)>| {
        whole.iter().any(|(of, table_id)| *of == context && *table_id == plan.options.table_id)
    };
    // A partition that has partitions itself holds no rows: their triggers record them.
    match WHOLE.with_borrow(is_noted) || !partition.is_plain() {
        true => Ok(()),
        false => record_all(partition, &plan.options, Passage::Departure),
    }
}
