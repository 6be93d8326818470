//! Records the rows that were there before their table was tracked, in between the worker's other work. Each turn
//! records one batch, of the first table that can take a turn. A table that is locked, or cannot be recorded, does not
//! hold up others.
//!
//! What keeps a table from being recorded may take long to show: a type's output function may work for ten seconds
//! before it fails. So a turn that fails is a turn, after which the worker seals, and tables that have failed are tried
//! again in a small part of its time.

use super::transactions::{in_transaction, own_name};
use crate::postgres::background_process::rounded_up_ms;
use crate::postgres::database_slot::DatabaseSlot;
use crate::postgres::errors::Failure;
use crate::postgres::lock_limit::LockLimit;
use crate::postgres::relation;
use crate::postgres::tracking::baseline::{self, Turn};
use crate::postgres::tracking::baseline_table;
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long the worker goes by the list that it has read, unless a session says that there is more to do. A table may
/// have thousands of partitions, each of which takes a turn: to read the list for every turn would take far longer than
/// to record them.
const LIST_LIFETIME: Duration = Duration::from_secs(1);
/// How soon a table that was locked is tried again.
const LOCKED_RETRY: Duration = Duration::from_secs(1);
/// How long a turn waits for a lock that it has not asked for first. Meanwhile nothing is sealed, and the session that
/// holds the lock may itself wait for the worker.
const LONGEST_LOCK_WAIT: Duration = Duration::from_millis(500);
/// How soon a table that could not be recorded is tried again: the first time, and at most.
const FIRST_RETRY: Duration = Duration::from_secs(10);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How many times as long as a turn that failed the worker leaves all such tables alone.
const REST_FACTOR: u32 = 9;

pub(super) struct Baselines {
    slot: &'static DatabaseSlot,
    /// When to work again, if no session asks for it before.
    due: Option<Instant>,
    /// Tables, and partitions, that have rows left to record, in the order of their turns: as of when the list was
    /// read, without those that were completed since.
    left: VecDeque<Part>,
    read_at: Instant,
    /// Tables that have to wait.
    waiting: HashMap<pg_sys::Oid, Wait>,
    /// Tables that could not be recorded are not tried again before this.
    rest_until: Instant,
}

/// What has a turn: the id of a tracked table, and a relation that holds rows of it.
type Part = (String, pg_sys::Oid);

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
        let now = Instant::now();
        Baselines { slot, due: None, left: VecDeque::new(), read_at: now, waiting: HashMap::new(), rest_until: now }
    }

    /// Whether some table cannot be recorded.
    pub fn is_failing(&self) -> bool {
        self.waiting.values().any(|wait| wait.cause.is_some())
    }

    /// Milliseconds until there is something to do.
    pub fn until_next(&self) -> Option<i64> {
        self.due.map(|due| rounded_up_ms(due.saturating_duration_since(Instant::now())))
    }

    /// Records some rows, if any are left. Returns whether more can be done at once.
    pub fn work(&mut self) -> Result<bool, Failure> {
        let has_begun = self.slot.baselines.swap(false, Ordering::AcqRel);
        if !has_begun && self.due.is_none_or(|due| due > Instant::now()) {
            return Ok(false);
        }
        // It stays at this if what follows fails.
        self.due = Some(Instant::now() + LOCKED_RETRY);
        if has_begun || self.read_at.elapsed() >= LIST_LIFETIME {
            self.left.clear();
        }
        if self.left.is_empty() {
            self.read()?;
        }
        let has_had_turn = self.give_first_turn();
        self.due = match has_had_turn {
            true => Some(Instant::now()),
            false => self.waiting.values().map(|wait| self.end_of(wait)).min(),
        };
        Ok(has_had_turn)
    }

    fn read(&mut self) -> Result<(), Failure> {
        let all = in_transaction(baseline_table::all)?;
        self.left = all.into_iter().map(|baseline| (baseline.table_id, baseline.relation)).collect();
        self.read_at = Instant::now();
        let relations: HashSet<pg_sys::Oid> = self.left.iter().map(|(_, relation)| *relation).collect();
        self.waiting.retain(|relation, _| relations.contains(relation));
        Ok(())
    }

    /// Gives a turn to the first that can take one. Returns whether there was one.
    fn give_first_turn(&mut self) -> bool {
        let mut at = 0;
        while let Some((table_id, relation)) = self.left.get(at) {
            if self.has_to_wait(*relation) {
                at += 1;
                continue;
            }
            let (table_id, relation) = (table_id.clone(), *relation);
            match self.give_turn(&table_id, relation) {
                Turn::Taken => return true,
                Turn::Done => return self.left.remove(at).is_some(),
                Turn::Gone => drop(self.left.remove(at)),
                Turn::Locked => at += 1,
            }
        }
        false
    }

    fn has_to_wait(&self, relation: pg_sys::Oid) -> bool {
        self.waiting.get(&relation).is_some_and(|wait| self.end_of(wait) > Instant::now())
    }

    fn end_of(&self, wait: &Wait) -> Instant {
        match wait.cause {
            Some(_) => wait.until.max(self.rest_until),
            None => wait.until,
        }
    }

    /// Records a batch of the table, or tries to.
    fn give_turn(&mut self, table_id: &str, relation: pg_sys::Oid) -> Turn {
        let before = self.waiting.remove(&relation);
        let began = Instant::now();
        let outcome = in_transaction(|| {
            // It asks only for locks that are free, but the type of a column, say, may have a table that is locked.
            let _limit = LockLimit::set(LONGEST_LOCK_WAIT);
            baseline::record_batch(table_id, relation)
        });
        let now = Instant::now();
        match outcome {
            Ok(Turn::Locked) => {
                let (retry, cause) = before.map_or((FIRST_RETRY, None), |wait| (wait.retry, wait.cause));
                self.waiting.insert(relation, Wait { until: now + LOCKED_RETRY, retry, cause });
                Turn::Locked
            }
            Ok(turn) => turn,
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
                Turn::Taken
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
