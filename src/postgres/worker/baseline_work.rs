//! Records the rows that were there before their table was tracked, in between the worker's other work. Each turn
//! records one batch, of the first table that can take a turn. A table that is locked, or cannot be recorded, does not
//! hold up others.
//!
//! What keeps a table from being recorded may take long to show: a type's output function may work for ten seconds
//! before it fails. So a turn that fails is a turn, after which the worker seals, and tables that have failed are tried
//! again in a small part of its time.

use super::transactions::{in_transaction, own_name};
use crate::postgres::database_slot::DatabaseSlot;
use crate::postgres::errors::Failure;
use crate::postgres::relation;
use crate::postgres::tracking::baseline::{self, Turn};
use crate::postgres::tracking::baseline_table;
use pgrx::pg_sys;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How soon a table that was locked is tried again.
const LOCKED_RETRY: Duration = Duration::from_secs(1);
/// How soon a table that could not be recorded is tried again: the first time, and at most.
const FIRST_RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How many times as long as a turn that failed the worker leaves all such tables alone.
const REST_FACTOR: u32 = 9;

pub(super) struct Baselines {
    slot: &'static DatabaseSlot,
    /// When to work again, if no session asks for it before.
    due: Option<Instant>,
    /// Tables that have to wait.
    waiting: HashMap<pg_sys::Oid, Wait>,
    /// Tables that could not be recorded are not tried again before this.
    rest_until: Instant,
}

struct Wait {
    until: Instant,
    /// How long to wait after the next failure.
    retry: Duration,
    /// Why it could not be recorded; `None` if it was locked.
    cause: Option<Failure>,
}

impl Baselines {
    pub fn new(slot: &'static DatabaseSlot) -> Baselines {
        // The previous worker may have ended in the middle of a table.
        slot.baselines.store(true, Ordering::Release);
        Baselines { slot, due: None, waiting: HashMap::new(), rest_until: Instant::now() }
    }

    /// Whether some table cannot be recorded.
    pub fn is_failing(&self) -> bool {
        self.waiting.values().any(|wait| wait.cause.is_some())
    }

    /// Milliseconds until there is something to do.
    pub fn until_next(&self) -> Option<i64> {
        self.due.map(|due| due.saturating_duration_since(Instant::now()).as_millis() as i64 + 1)
    }

    /// Records some rows, if any are left. Returns whether more can be done at once.
    pub fn work(&mut self) -> Result<bool, Failure> {
        let has_begun = self.slot.baselines.swap(false, Ordering::AcqRel);
        if !has_begun && self.due.is_none_or(|due| due > Instant::now()) {
            return Ok(false);
        }
        // It stays at this if what follows fails.
        self.due = Some(Instant::now() + LOCKED_RETRY);
        let left = in_transaction(baseline_table::all)?;
        self.waiting.retain(|relation, _| left.iter().any(|baseline| baseline.relation == *relation));
        let has_had_turn = left.iter().any(|baseline| self.give_turn(&baseline.table_id, baseline.relation));
        self.due = match has_had_turn {
            true => Some(Instant::now()),
            false => self.waiting.values().map(|wait| self.end_of(wait)).min(),
        };
        Ok(has_had_turn)
    }

    fn end_of(&self, wait: &Wait) -> Instant {
        match wait.cause {
            Some(_) => wait.until.max(self.rest_until),
            None => wait.until,
        }
    }

    /// Records a batch of the table, unless it has to wait. Returns whether it did, or tried to.
    fn give_turn(&mut self, table_id: &str, relation: pg_sys::Oid) -> bool {
        let before = self.waiting.get(&relation);
        if before.is_some_and(|wait| self.end_of(wait) > Instant::now()) {
            return false;
        }
        let before = self.waiting.remove(&relation);
        let began = Instant::now();
        let outcome = in_transaction(|| baseline::record_batch(table_id, relation));
        let now = Instant::now();
        match outcome {
            Ok(Turn::Taken) => true,
            Ok(Turn::Locked) => {
                let (retry, cause) = before.map_or((FIRST_RETRY, None), |wait| (wait.retry, wait.cause));
                self.waiting.insert(relation, Wait { until: now + LOCKED_RETRY, retry, cause });
                false
            }
            Err(cause) => {
                let said = before.as_ref().and_then(|wait| wait.cause.as_ref()).map(Failure::text);
                if said.as_ref() != Some(&cause.text()) {
                    let (own, table) = (own_name(), name_of(relation));
                    cause.log_retried(&format!("pg_notary worker of {own} cannot record the rows of {table}"));
                }
                let wait = before.map_or(FIRST_RETRY, |wait| wait.retry);
                let retry = (wait * 2).min(LONGEST_RETRY);
                self.waiting.insert(relation, Wait { until: now + wait, retry, cause: Some(cause) });
                self.rest_until = now + (now - began) * REST_FACTOR;
                true
            }
        }
    }
}

fn name_of(relation: pg_sys::Oid) -> String {
    match in_transaction(|| relation::name_of(relation)) {
        Ok(Some(name)) => format!("table {name}"),
        _ => format!("the table with oid {}", relation.to_u32()),
    }
}
