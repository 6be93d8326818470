//! registry_sync(): compares files outside the database with the registry.

use super::input::bad_list;
use super::rows;
use super::verifier::{with_latest_snapshot, Verifier};
use crate::items::comparison::{difference, read_local_items, LocalItem, SyncStatus};
use crate::items::registration::{Event, ItemName, Registration};
use crate::ledger::verifier::KeyCounts;
use crate::postgres::errors::{or_raise, required, Failure};
use crate::postgres::jsonb::Jsonb;
use crate::postgres::secrets;
use pgrx::prelude::*;
use std::collections::HashSet;

type SyncRow =
    (String, String, String, String, Option<String>, Option<String>, Option<String>, Option<String>, Option<String>);

#[pg_extern(volatile, parallel_unsafe, security_definer, requires = ["items"])]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "one column for each part of a comparison")]
fn registry_sync(
    local: Option<Jsonb>,
) -> TableIterator<
    'static,
    (
        name!(item_type, String),
        name!(item_id, String),
        name!(version, String),
        name!(status, String),
        name!(local_path, Option<String>),
        name!(registry_path, Option<String>),
        name!(local_hash, Option<String>),
        name!(registry_hash, Option<String>),
        name!(detail, Option<String>),
    ),
> {
    let local = or_raise(read_local(required(local, "local")));
    secrets::note_unchecked_signatures();
    TableIterator::new(with_latest_snapshot(|verifier| compare_all(&verifier, local)))
}

fn compare_all(verifier: &Verifier, local: Vec<LocalItem>) -> Vec<SyncRow> {
    let registered = rows::all_names();
    let known: HashSet<&ItemName> = registered.iter().collect();
    let here: HashSet<ItemName> = local.iter().map(|file| file.name.clone()).collect();
    let mut compared = Vec::with_capacity(local.len());
    let mut by_key = KeyCounts::default();
    for file in local {
        let has_row = known.contains(&file.name);
        let name = file.name.clone();
        compared.push(compare(verifier, &name, Some(file), has_row, &mut by_key));
    }
    for name in registered.iter().filter(|name| !here.contains(name)) {
        compared.push(compare(verifier, name, None, true, &mut by_key));
    }
    secrets::warn_of_wrong_keys(&by_key);
    compared
}

fn compare(
    verifier: &Verifier,
    name: &ItemName,
    local: Option<LocalItem>,
    has_row: bool,
    by_key: &mut KeyCounts,
) -> SyncRow {
    check_for_interrupts!();
    // Compared with what the ledger says of the item; a row of the registry alone proves nothing.
    let entries = verifier.entries();
    let found = entries.newest(name).map(|entry| {
        let registration = entry.registration_counted(name, by_key)?;
        entries.check_tree(&entry).map(|()| registration)
    });
    let (status, detail) = match (&found, &local) {
        (Some(Ok(Registration { event: Event::Revoked { reason }, .. })), _) => {
            (SyncStatus::Revoked, Some(format!("reason: {reason}")))
        }
        (Some(Err(problem)), _) => {
            (SyncStatus::Differs, Some(format!("the ledger's entry about it does not verify: {problem}")))
        }
        (None, _) if has_row => (SyncStatus::Differs, Some("the ledger has no entry about it".to_owned())),
        (None, _) => (SyncStatus::MissingHere, Some("it is not registered".to_owned())),
        (Some(Ok(_)), Some(_)) if !has_row => {
            (SyncStatus::MissingHere, Some("its row in ledger.items is gone".to_owned()))
        }
        (Some(Ok(_)), None) => {
            (SyncStatus::MissingLocally, Some("it is registered, but no such file was given".to_owned()))
        }
        (Some(Ok(registered)), Some(local)) => difference(registered, local),
    };
    let registered = found.and_then(Result::ok);
    let (registry_path, registry_hash) = registered.map(|found| (found.location, found.integrity)).unzip();
    let (local_path, local_hash) = local.map(|local| (local.location, local.integrity)).unzip();
    let ItemName { item_type, id, version } = name.clone();
    let item_type = item_type.as_str().to_owned();
    (item_type, id, version, status.as_str().to_owned(), local_path, registry_path, local_hash, registry_hash, detail)
}

fn read_local(local: Jsonb) -> Result<Vec<LocalItem>, Failure> {
    read_local_items(&local.text()).map_err(|error| {
        bad_list(
            error,
            "",
            "Each file is an object with the strings item_type, item_id, version, location_path, integrity_hash and \
             text_hash.",
        )
    })
}
