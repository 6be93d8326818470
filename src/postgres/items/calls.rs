//! The items that an item calls. The entry about an item has each of them with its integrity hash (a pin), so that an
//! item verifies only with what it called when it was signed.

use super::entries::{ItemEntries, ItemEntry};
use super::input::bad_list;
use super::rows;
use super::signing::Signing;
use crate::items::lists::{self, Call};
use crate::items::registration::{parse_pins, Event, ItemName, Pin};
use crate::postgres::errors::Failure;
use crate::postgres::jsonb::Jsonb;
use pgrx::{check_for_interrupts, PgSqlErrorCode};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

/// What an item calls.
pub enum Calls {
    /// The items that it has called so far, as they are now.
    Same,
    /// The items in this list.
    Given(Jsonb),
}

impl Calls {
    pub fn of(depends_on: Option<Jsonb>) -> Calls {
        depends_on.map_or(Calls::Same, Calls::Given)
    }

    /// What the item calls, each with its integrity hash. Refuses calls that lead back to it.
    pub fn pinned(
        self,
        entries: &ItemEntries,
        name: &ItemName,
        previous: Option<&ItemEntry>,
        signing: &Signing,
    ) -> Result<Vec<Pin>, Failure> {
        let pins = match (self, signing) {
            (Calls::Given(list), _) => pin(entries, name, read_calls(list)?)?,
            // A move leaves what is called as it is.
            (Calls::Same, Signing::Move { .. }) => before(entries, name, previous)?,
            (Calls::Same, Signing::First) if previous.is_none() => Vec::new(),
            (Calls::Same, Signing::First | Signing::Again) => {
                let calls = before(entries, name, previous)?.into_iter();
                pin(entries, name, calls.map(|pin| Call { name: pin.name, integrity: None }).collect())?
            }
        };
        // No item can call one that the ledger has no entry about, so a new item is in no cycle.
        if previous.is_some() {
            check_acyclic(entries, name, &pins)?;
        }
        Ok(pins)
    }
}

/// What the item has called so far. If its newest entry does not verify, for example because it was made before the
/// server had a secret, or if there is none, the row tells, like all else that stays as registered.
fn before(entries: &ItemEntries, name: &ItemName, previous: Option<&ItemEntry>) -> Result<Vec<Pin>, Failure> {
    let problem = match previous.map(|previous| entries.proved(previous, name)) {
        Some(Ok(before)) => return Ok(before.depends_on),
        Some(Err(problem)) => format!("Its newest entry does not verify: {problem}"),
        None => "The ledger has no entry about it".to_owned(),
    };
    rows::repeated(name).and_then(|row| parse_pins(&row.depends_on)).ok_or_else(|| {
        let message = format!("cannot tell what {name} depends on");
        Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, message)
            .detail(format!("{problem}. Nor does its row in ledger.items tell."))
            .hint("Pass depends_on, or '[]' if it depends on nothing.")
    })
}

fn read_calls(list: Jsonb) -> Result<Vec<Call>, Failure> {
    lists::read_calls(&list.text()).map_err(|error| {
        bad_list(
            error,
            "invalid depends_on: ",
            "Pass an array of objects with item_type, item_id and version, and with integrity_hash to require a certain hash.",
        )
    })
}

/// The items that are called, as the ledger has them now: each once, also if it is named repeatedly.
fn pin(entries: &ItemEntries, caller: &ItemName, calls: Vec<Call>) -> Result<Vec<Pin>, Failure> {
    let mut known: HashMap<ItemName, String> = HashMap::new();
    let mut pins = Vec::with_capacity(calls.len());
    for Call { name, integrity: wanted } in calls {
        check_for_interrupts!();
        let integrity = match known.entry(name.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let integrity = integrity_to_call(entries, caller, &name)?;
                pins.push(Pin { name: name.clone(), integrity: integrity.clone() });
                new.insert(integrity)
            }
        };
        if wanted.is_some_and(|wanted| wanted != *integrity) {
            let detail = format!("Its integrity hash is {integrity}.");
            return Err(cannot_call(caller, &name, "it has another integrity hash").detail(detail));
        }
    }
    Ok(pins)
}

/// The integrity hash that an item has now, if `caller` may call it.
fn integrity_to_call(entries: &ItemEntries, caller: &ItemName, name: &ItemName) -> Result<String, Failure> {
    let cannot = |reason: &str| cannot_call(caller, name, reason);
    if name == caller {
        return Err(cannot("an item cannot call itself"));
    }
    let create = "Register it first: SELECT ledger.create_item(...).";
    let entry = entries.newest(name).ok_or_else(|| cannot("it is not registered").hint(create))?;
    let registration = entries.proved(&entry, name).map_err(|problem| {
        let id = entry.id().map(|id| format!("Entry {id}: ")).unwrap_or_default();
        cannot("the ledger's entry about it does not verify").detail(format!("{id}{problem}."))
    })?;
    match registration.event {
        Event::Revoked { reason } => Err(cannot("its signature was revoked").detail(format!("Reason: {reason}."))),
        Event::Signed | Event::Moved { .. } => Ok(registration.integrity),
    }
}

fn cannot_call(caller: &ItemName, called: &ItemName, reason: &str) -> Failure {
    Failure::new(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("{caller} cannot depend on {} {called}: {reason}", called.item_type),
    )
}

/// Refuses calls that lead back to the caller.
fn check_acyclic(entries: &ItemEntries, caller: &ItemName, pins: &[Pin]) -> Result<(), Failure> {
    // Each is noted once, when it is first called: of many items that call the same ones, there may be any number of
    // calls.
    let mut open: Vec<ItemName> = pins.iter().map(|pin| pin.name.clone()).collect();
    let mut seen: HashSet<ItemName> = open.iter().cloned().collect();
    while let Some(name) = open.pop() {
        check_for_interrupts!();
        let registration = entries.newest(&name).and_then(|entry| entry.registration(&name).ok());
        let calls = registration.map(|registration| registration.depends_on).unwrap_or_default();
        if calls.iter().any(|pin| pin.name == *caller) {
            return Err(Failure::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("{caller} cannot depend on itself"),
            )
            .detail(format!("Its dependencies lead back to it: {name} calls {caller}.")));
        }
        open.extend(calls.into_iter().map(|pin| pin.name).filter(|name| seen.insert(name.clone())));
    }
    Ok(())
}
