//! The items part of verify_all(): checks that the registry is what the ledger says. An item that was revoked, or that
//! calls one that has been signed again since, must not be used. But it was not tampered with, so it is no problem
//! here.

use super::entries::ItemEntry;
use super::rows::{self, Repeated};
use super::verifier::{with_latest_snapshot, Alone, Verifier};
use crate::items::registration::{pins_json, Event, ItemName, Registration};
use crate::items::verifier::Status;
use crate::ledger::row_change::{ITEM_MOVED, ITEM_REVOKED, ITEM_SIGNED};
use crate::postgres::all_entries;
use crate::postgres::errors::or_raise;
use crate::postgres::jsonb::Jsonb;
use crate::postgres::tables::{entry_column, RegisteredSnapshot, Row};
use pgrx::pg_sys::TimestampTz;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use uuid::Uuid;

/// How many problems are listed; all are counted.
const MAX_LISTED: usize = 100;

/// An entry, by its time and id. Of two about one item, the later one is greater.
type At = (TimestampTz, Uuid);

/// The newest entries about an item.
#[derive(Default)]
struct NewestOfItem {
    signed: Option<At>,
    revoked: Option<At>,
}

#[derive(Default)]
struct Audit {
    items: usize,
    revoked: usize,
    problems: usize,
    listed: Vec<Value>,
}

pub fn verify_registry() -> (bool, Value) {
    let audit = with_latest_snapshot(|mut verifier| {
        let mut audit = Audit::default();
        let mut recorded = newest_entries(verifier.entries().snapshot());
        for name in rows::all_names() {
            let newest = recorded.remove(&name).unwrap_or_default();
            let registration = audit.check(&mut verifier, &name);
            audit.check_entries(&verifier, &name, &newest, registration);
        }
        for name in recorded.keys() {
            audit.add(name, "missing", "it was registered, and its row in ledger.items is gone");
        }
        audit
    });
    let verdict = json!({
        "valid": audit.problems == 0,
        "item_count": audit.items,
        "revoked_count": audit.revoked,
        "error_count": audit.problems,
        "errors": audit.listed,
    });
    (audit.problems == 0, verdict)
}

impl Audit {
    /// Verifies the item; gives what the ledger has of it.
    fn check(&mut self, verifier: &mut Verifier, name: &ItemName) -> Option<Registration> {
        let row = rows::find(name)?;
        self.items += 1;
        let Alone { verification, registration, .. } = verifier.verify_alone(&row);
        let revoked = registration.as_ref().is_some_and(|found| matches!(found.event, Event::Revoked { .. }));
        match verification.status {
            Status::Valid => {}
            Status::Revoked if revoked && row.revoked.is_some() => self.revoked += 1,
            Status::Revoked if revoked => {
                self.add(name, "revoked", "the ledger says that it is revoked, its row does not")
            }
            Status::Revoked => self.add(name, "revoked", "its row says that it is revoked, the ledger does not"),
            status => {
                let error = verification.error.unwrap_or_default();
                let detail = verification.detail.map(|detail| format!(": {detail}")).unwrap_or_default();
                self.add(name, status.as_str(), &format!("{error}{detail}"));
            }
        }
        registration
    }

    /// Compares the columns of the row that repeat the newest entries with these.
    fn check_entries(
        &mut self,
        verifier: &Verifier,
        name: &ItemName,
        newest: &NewestOfItem,
        registration: Option<Registration>,
    ) {
        let Some((_, entry_id)) = newest.signed.max(newest.revoked) else { return };
        let found = verifier.entries().newest(name);
        if found.as_ref().is_some_and(ItemEntry::is_gone) {
            // Verification has already reported this.
            return;
        }
        if found.and_then(|entry| entry.id()) != Some(entry_id) {
            let detail = format!("its newest entry is {entry_id}, but ledger.row_versions does not lead to that entry");
            return self.add(name, "unproven", &detail);
        }
        let Some((row, registration)) = rows::repeated(name).zip(registration) else { return };
        for difference in differences(&row, newest, entry_id, &registration) {
            self.add(name, "differs", &difference);
        }
    }

    fn add(&mut self, name: &ItemName, problem: &str, detail: &str) {
        self.problems += 1;
        if self.listed.len() < MAX_LISTED {
            let ItemName { item_type, id, version } = name;
            let item_type = item_type.as_str();
            self.listed.push(json!({
                "item_type": item_type, "item_id": id, "version": version, "problem": problem, "detail": detail
            }));
        }
    }
}

/// Where the row differs from the entries about the item, by columns.
fn differences(row: &Repeated, newest: &NewestOfItem, entry_id: Uuid, registration: &Registration) -> Vec<String> {
    let mut found = Vec::new();
    if row.entry_id != Some(entry_id) {
        found.push(format!("entry_id is not {entry_id}, which is the newest entry about it"));
    }
    if row.depends_on != pins_json(&registration.depends_on) {
        found.push(format!("depends_on is not what entry {entry_id} says"));
    }
    // An item that was revoked without ever being signed has no such entry.
    if let Some((_, signed)) = newest.signed.filter(|(time, _)| row.signed_at != Some(*time)) {
        found.push(format!("signed_at is not the time of entry {signed}"));
    }
    // Verification compares whether the item is revoked at all.
    let (Event::Revoked { reason }, Some(revoked_at)) = (&registration.event, row.revoked_at) else { return found };
    if newest.revoked.is_some_and(|(time, _)| revoked_at != time) {
        found.push(format!("revoked_at is not the time of entry {entry_id}"));
    }
    // Of an item that is not revoked, verification has compared its place and its language.
    for (column, is_same) in [
        ("revoked_reason", row.revoked_reason.as_ref() == Some(reason)),
        ("location_path", row.location.as_ref() == Some(&registration.location)),
        ("language", row.language == registration.language),
    ] {
        if !is_same {
            found.push(format!("{column} is not what entry {entry_id} says"));
        }
    }
    found
}

/// Reads all entries: an attacker could hide one from the index. Metadata is parsed here and not by Postgres, whose
/// functions trust that a stored value is sound.
fn newest_entries(snapshot: &RegisteredSnapshot) -> BTreeMap<ItemName, NewestOfItem> {
    let mut found: BTreeMap<ItemName, NewestOfItem> = BTreeMap::new();
    let note = |row: &Row| {
        note_entry(row, &mut found);
        Ok(())
    };
    or_raise(all_entries::for_each(snapshot, note));
    found
}

fn note_entry(row: &Row, found: &mut BTreeMap<ItemName, NewestOfItem>) {
    let is_revoked = match row.text(entry_column::ENTRY_TYPE) {
        Some(ITEM_SIGNED | ITEM_MOVED) => false,
        Some(ITEM_REVOKED) => true,
        _ => return,
    };
    // An entry that cannot be read is a problem of the chain.
    let metadata = row.get::<Jsonb>(entry_column::METADATA);
    let Some(name) = metadata.and_then(|metadata| name_in(&metadata.text())) else { return };
    let newest = found.entry(name).or_default();
    let newest = if is_revoked { &mut newest.revoked } else { &mut newest.signed };
    *newest = (*newest).max(row.get(entry_column::CREATED_AT).zip(row.uuid(entry_column::ID)));
}

/// Which item an entry is about.
fn name_in(metadata: &str) -> Option<ItemName> {
    let metadata: Value = serde_json::from_str(metadata).ok()?;
    let text = |key| metadata["item"][key].as_str();
    let item_type = text("item_type")?.parse().ok()?;
    Some(ItemName { item_type, id: text("item_id")?.to_owned(), version: text("version")?.to_owned() })
}
