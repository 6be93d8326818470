//! The ids and hashes of all rows of a relation, some pages at a time.
//!
//! The owner of a table chooses the types of its columns, and their output functions may fail on a value; or a page of
//! the table may be damaged. That must not keep other tables from being verified. So rows are read and hashed in
//! subtransactions.

use super::columns;
use super::plan::Plan;
use super::row_key::RowKey;
use crate::ledger::{sha256, Hash};
use crate::postgres::errors::{sentence, Failure};
use crate::postgres::subtransaction::attempt;
use crate::postgres::tables::{self, RegisteredSnapshot, Row, Table, TableScan};
use pgrx::{check_for_interrupts, pg_sys, PgMemoryContexts};
use std::cell::Cell;
use std::rc::Rc;
use uuid::Uuid;

/// How many pages share a subtransaction.
const BATCH_PAGES: u32 = 128;

pub struct RowHash {
    pub row_id: Uuid,
    pub data_hash: Hash,
    pub tid: pg_sys::ItemPointerData,
}

pub struct RowHashes<'a> {
    table: &'a Table,
    plan: Rc<Plan>,
    snapshot: &'a RegisteredSnapshot,
    next_page: u32,
    /// The snapshot, which is older, sees no rows in pages that are added later.
    pages: u32,
    /// Holds what is allocated for one row.
    scratch: PgMemoryContexts,
}

impl<'a> RowHashes<'a> {
    pub fn of(table: &'a Table, plan: Rc<Plan>, snapshot: &'a RegisteredSnapshot) -> RowHashes<'a> {
        let scratch = PgMemoryContexts::new("pg_notary verification");
        RowHashes { table, plan, snapshot, next_page: 0, pages: table.pages(), scratch }
    }

    /// The next rows, perhaps none; `None` at the end of the table.
    pub fn next_batch(&mut self) -> Result<Option<Vec<RowHash>>, Failure> {
        let plan = Rc::clone(&self.plan);
        self.next_rows(|row, tid| {
            let image = plan.image(row)?;
            let row_id = RowKey::id_of(&plan.options.table_id, &plan.key, row)?;
            Ok(RowHash { row_id, data_hash: sha256(image.as_bytes()), tid })
        })
    }

    /// The place of the row with this id, of those that were not read yet. Reads nothing of a row but its key.
    pub fn find(&mut self, row_id: Uuid) -> Result<Option<pg_sys::ItemPointerData>, Failure> {
        let plan = Rc::clone(&self.plan);
        let id_of = |row: &Row| RowKey::id_of(&plan.options.table_id, &plan.key, row);
        while let Some(rows) = self.next_rows(|row, tid| Ok((id_of(row)? == row_id).then_some(tid)))? {
            if let Some(tid) = rows.into_iter().flatten().next() {
                return Ok(Some(tid));
            }
        }
        Ok(None)
    }

    /// What `read` makes of the next rows. What it allocates as Postgres does is freed after each row.
    fn next_rows<T>(
        &mut self,
        read: impl Fn(&Row, pg_sys::ItemPointerData) -> Result<T, Failure>,
    ) -> Result<Option<Vec<T>>, Failure> {
        if self.next_page >= self.pages {
            return Ok(None);
        }
        let count = BATCH_PAGES.min(self.pages - self.next_page);
        let at = Cell::new(None);
        let done = attempt(|| self.read_pages(count, &at, read));
        self.next_page += count;
        done.unwrap_or_else(|cause| Err(self.unverifiable(at.get(), cause))).map(Some)
    }

    /// `at` says which row is being read.
    fn read_pages<T>(
        &mut self,
        count: u32,
        at: &Cell<Option<pg_sys::ItemPointerData>>,
        read: impl Fn(&Row, pg_sys::ItemPointerData) -> Result<T, Failure>,
    ) -> Result<Vec<T>, Failure> {
        let mut scan = TableScan::start_pages(self.table, self.snapshot, self.next_page, count);
        let mut done = Vec::new();
        while let Some(tuple) = scan.next() {
            check_for_interrupts!();
            // SAFETY: the tuple is valid until the scan's next one is asked for.
            let tid = unsafe { (*tuple).t_self };
            at.set(Some(tid));
            let table = self.table;
            // SAFETY: nothing that is allocated for a row is used after the context is reset.
            let row = unsafe { self.scratch.switch_to(|_| read(&table.deform(tuple), tid))? };
            // SAFETY: what was allocated for this row is not used any more: what was made of it is not in the context.
            unsafe { self.scratch.reset() };
            at.set(None);
            done.push(row);
        }
        Ok(done)
    }

    /// The error where Postgres cannot read the table, or cannot print a value of a row.
    fn unverifiable(&self, row: Option<pg_sys::ItemPointerData>, cause: Failure) -> Failure {
        let Some(tid) = row else {
            let message = format!("the rows of table {} cannot be verified: {}", self.plan.table, cause.text());
            return cause.restated(message);
        };
        let key = |row: &_| columns::object(&self.plan.key, row);
        let key = attempt(|| self.table.fetch(tid, self.snapshot, key));
        // The value may be part of the key.
        let (page, number) = tables::tid(tid);
        let name = match key {
            Ok(Some(Ok(key))) => format!("row {key}"),
            _ => format!("the row with ctid ({page},{number})"),
        };
        unverifiable_row(&name, &self.plan, &cause)
    }
}

/// The error for a row of which Postgres cannot read or print a value.
pub fn unverifiable_row(row: &str, plan: &Plan, cause: &Failure) -> Failure {
    Failure::new(cause.code(), format!("{row} of table {} cannot be verified", plan.table))
        .detail(sentence(cause.text().trim_end_matches('.')))
        .hint(
            "Postgres cannot read or print a value of this row. Track the table without the column (see argument \
             excluded of ledger.track()), or stop tracking it, to set the column to another value or delete the row.",
        )
}
