//! The items part of verify_all(): whether the registry is what the ledger says. An item that was revoked, or that calls one
//! that has been signed again since, is not to be used; but nobody has tampered with it.

use super::rows;
use super::verify::{with_latest_snapshot, Verifier};
use crate::items::registration::{Event, ItemName};
use crate::items::verifier::Status;
use crate::postgres::spi::{self, Access};
use serde_json::{json, Value};
use std::collections::HashSet;
use uuid::Uuid;

/// Problems that are listed; all are counted.
const MAX_LISTED: usize = 100;

/// The newest entry about each item, by reading all entries: by the index alone, an entry could be hidden.
const NEWEST: &str = "SELECT DISTINCT ON (metadata->>'row_id') metadata->'item'->>'item_type', \
     metadata->'item'->>'item_id', metadata->'item'->>'version', id FROM ledger.entries \
     WHERE entry_type IN ('item_signed', 'item_moved', 'item_revoked') \
     ORDER BY metadata->>'row_id', created_at DESC, id DESC";

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
        let names = rows::all_names();
        for name in &names {
            audit.check(&mut verifier, name);
        }
        let names: HashSet<ItemName> = names.into_iter().collect();
        for (name, entry_id) in newest_entries() {
            audit.check_entry(&verifier, &names, name, entry_id);
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
    fn check(&mut self, verifier: &mut Verifier, name: &ItemName) {
        let Some(row) = rows::find(name) else { return };
        self.items += 1;
        let (verification, registration) = verifier.verify_alone(&row);
        let revoked = registration.as_ref().is_some_and(|found| matches!(found.event, Event::Revoked { .. }));
        match verification.status {
            Status::Valid => {}
            Status::Revoked if revoked && row.revoked.is_some() => self.revoked += 1,
            Status::Revoked if revoked => {
                self.add(name, "revoked", "by the ledger it is revoked, by its row it is not")
            }
            Status::Revoked => self.add(name, "revoked", "by its row it is revoked, by the ledger it is not"),
            status => {
                let error = verification.error.unwrap_or_default();
                let detail = verification.detail.map(|detail| format!(": {detail}")).unwrap_or_default();
                self.add(name, status.as_str(), &format!("{error}{detail}"));
            }
        }
    }

    fn check_entry(&mut self, verifier: &Verifier, names: &HashSet<ItemName>, name: ItemName, entry_id: Uuid) {
        if !names.contains(&name) {
            return self.add(&name, "missing", "it was registered, and its row in ledger.items is gone");
        }
        let found = verifier.entries().newest(&name).map(|entry| entry.id());
        if found != Some(entry_id) {
            let detail =
                format!("entry {entry_id} is the newest about it, and ledger.row_versions does not lead there");
            self.add(&name, "unproven", &detail);
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

fn newest_entries() -> Vec<(ItemName, Uuid)> {
    let mut newest = Vec::new();
    spi::run(NEWEST, &[], Access::Read, |row| {
        let item_type = row.get::<String>(0).and_then(|item_type| item_type.parse().ok());
        let name = item_type.zip(row.get(1)).zip(row.get(2));
        let name = name.map(|((item_type, id), version)| ItemName { item_type, id, version });
        newest.extend(name.zip(row.uuid(3)));
    });
    newest
}
