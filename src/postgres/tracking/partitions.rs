//! Records rows that come and go with their partition, without a statement that names them: ATTACH, DETACH, DROP and
//! TRUNCATE of a partition. Each row gets an entry, as if it were inserted or deleted: one entry for the partition
//! would say nothing about a row.

use super::mid_statement;
use super::options::Options;
use super::plan::{self, Plan};
use super::record;
use crate::postgres::errors::Failure;
use crate::postgres::relation;
use crate::postgres::tables::{RegisteredSnapshot, Row, Table, TableScan};
use pgrx::{check_for_interrupts, pg_sys, PgMemoryContexts};

/// What happens to the rows of a partition.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    Arrival,
    Departure,
}

impl Passage {
    /// # Safety
    /// `header` points to the header of the row's version.
    unsafe fn record(self, plan: &Plan, row: &Row, header: pg_sys::HeapTupleHeader) -> Result<(), Failure> {
        match self {
            Passage::Arrival => record::record_arrival(plan, row),
            Passage::Departure => record::record_departure(plan, row, plan.precedes_baseline(header)),
        }
    }
}

/// Records every row of a partition, and of its partitions. The caller has locked all of them, so that no session
/// writes to them until the command that brings them or takes them away has ended.
pub fn record_all(partition: &Table, options: &Options, what: Passage) -> Result<(), Failure> {
    if what == Passage::Departure {
        mid_statement::note_ahead();
    }
    for leaf in relation::leaves(Table::open_oid(relation::oid(partition), pg_sys::NoLock)) {
        let plan = plan::of(&leaf, || Ok(options.clone()))?;
        let mut context = PgMemoryContexts::new("pg_notary partition");
        let snapshot = RegisteredSnapshot::latest();
        let mut scan = TableScan::start(&leaf, &snapshot, 0);
        while let Some(tuple) = scan.next() {
            check_for_interrupts!();
            // SAFETY: the tuple is valid until the scan's next one is asked for. Nothing that is allocated for a row is
            // used after the context is reset.
            unsafe {
                context.switch_to(|_| what.record(&plan, &leaf.deform(tuple), (*tuple).t_data))?;
                context.reset();
            }
        }
    }
    Ok(())
}
