//! Which tables are recorded under which id. More than one are where a table was restored beside its original.
//!
//! The catalog has no index by what triggers are for, so a session reads the triggers of all tables when it first asks.
//! From then on it reads those of the tables that Postgres reports as changed.

use super::catalog_triggers::CatalogTrigger;
use pgrx::{pg_guard, pg_sys};
use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

/// So many changed tables are noted. Where there are more, the triggers of all tables are read again.
const MAX_CHANGED: usize = 1024;

/// A table among those with its id. The one that the options were given for comes first. If there is none, as in a
/// database that was restored itself, it is the one with the lowest oid, which was there first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ranked {
    pub is_restored: bool,
    /// Its oid.
    pub table: u32,
}

#[derive(Default)]
struct RecordedTables {
    by_id: HashMap<String, BTreeSet<Ranked>>,
    by_table: HashMap<u32, Vec<(String, Ranked)>>,
}

/// The tables that have changed since their triggers were read.
enum Changed {
    Tables(Vec<pg_sys::Oid>),
    TooMany,
}

thread_local! {
    /// `None` if they are still to be read.
    static TABLES: Cell<Option<RecordedTables>> = const { Cell::new(None) };
    static CHANGED: RefCell<Changed> = const { RefCell::new(Changed::TooMany) };
    static IS_LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// The first of the tables that are recorded under this id, leaving out one.
pub fn first_with_id(table_id: &str, but: u32) -> Option<Ranked> {
    listen();
    // Before they are read: what changes meanwhile is read again the next time.
    let changed = CHANGED.replace(Changed::none());
    // An ERROR ends this with nothing known.
    let tables = match (TABLES.take(), changed) {
        (Some(mut known), Changed::Tables(changed)) => {
            changed.into_iter().for_each(|table| known.read_again(table));
            known
        }
        _ => RecordedTables::read(),
    };
    let first = tables.by_id.get(table_id).and_then(|ranked| ranked.iter().find(|ranked| ranked.table != but).copied());
    TABLES.set(Some(tables));
    first
}

fn listen() {
    if !IS_LISTENING.replace(true) {
        // SAFETY: registered once per process, with a function that is never unloaded.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(note_changed), pg_sys::Datum::null()) };
    }
}

/// A relation (InvalidOid: any) has changed. Cannot fail: it may run while a transaction aborts.
///
/// # Safety
/// Called by Postgres, as registered in listen().
#[pg_guard]
unsafe extern "C-unwind" fn note_changed(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    CHANGED.with_borrow_mut(|changed| match changed {
        Changed::Tables(tables) if relation != pg_sys::InvalidOid && tables.len() < tables.capacity() => {
            if tables.last() != Some(&relation) {
                tables.push(relation);
            }
        }
        changed => *changed = Changed::TooMany,
    });
}

impl Changed {
    /// Takes the room for those that come.
    fn none() -> Changed {
        Changed::Tables(Vec::with_capacity(MAX_CHANGED))
    }
}

impl RecordedTables {
    fn read() -> RecordedTables {
        let mut tables = RecordedTables::default();
        CatalogTrigger::for_each_that_records(None, |trigger| tables.add(&trigger));
        tables
    }

    fn read_again(&mut self, table: pg_sys::Oid) {
        for (table_id, ranked) in self.by_table.remove(&table.to_u32()).into_iter().flatten() {
            let Entry::Occupied(mut with_id) = self.by_id.entry(table_id) else { continue };
            with_id.get_mut().remove(&ranked);
            if with_id.get().is_empty() {
                with_id.remove();
            }
        }
        CatalogTrigger::for_each_that_records(Some(table), |trigger| self.add(&trigger));
    }

    fn add(&mut self, trigger: &CatalogTrigger) {
        let Some(options) = trigger.options() else { return };
        let table = trigger.relation.to_u32();
        let ranked = Ranked { is_restored: !options.is_made_for(trigger.relation), table };
        self.by_id.entry(options.table_id.clone()).or_default().insert(ranked);
        self.by_table.entry(table).or_default().push((options.table_id, ranked));
    }
}
