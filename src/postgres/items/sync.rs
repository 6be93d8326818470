//! registry_sync(): compares files outside the database with the registry.

use super::rows;
use super::verifier::{with_latest_snapshot, Verifier};
use crate::items::item::{check_id, check_version};
use crate::items::location::check_location;
use crate::items::registration::{Event, ItemName, Registration};
use crate::ledger::parse_hash;
use crate::ledger::verifier::KeyCounts;
use crate::postgres::errors::{or_raise, required, Failure};
use crate::postgres::jsonb::Jsonb;
use crate::postgres::secrets;
use pgrx::prelude::*;
use pgrx::PgSqlErrorCode;
use serde_json::Value;
use std::collections::HashSet;

/// A file, as the caller describes it.
struct Local {
    name: ItemName,
    location: String,
    integrity: String,
    text_hash: String,
}

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
    TableIterator::new(with_latest_snapshot(|verifier| compare_all(&verifier, local)))
}

fn compare_all(verifier: &Verifier, local: Vec<Local>) -> Vec<SyncRow> {
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
    local: Option<Local>,
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
            ("revoked", Some(format!("reason: {reason}")))
        }
        (Some(Err(problem)), _) => ("differs", Some(format!("the ledger's entry about it does not verify: {problem}"))),
        (None, _) if has_row => ("differs", Some("the ledger has no entry about it".to_owned())),
        (None, _) => ("missing_here", Some("it is not registered".to_owned())),
        (Some(Ok(_)), Some(_)) if !has_row => ("missing_here", Some("its row in ledger.items is gone".to_owned())),
        (Some(Ok(_)), None) => ("missing_locally", Some("it is registered, but no such file was given".to_owned())),
        (Some(Ok(registered)), Some(local)) => difference(registered, local),
    };
    let registered = found.and_then(Result::ok);
    let (registry_path, registry_hash) = registered.map(|found| (found.location, found.integrity)).unzip();
    let (local_path, local_hash) = local.map(|local| (local.location, local.integrity)).unzip();
    let ItemName { item_type, id, version } = name.clone();
    let item_type = item_type.as_str().to_owned();
    (item_type, id, version, status.to_owned(), local_path, registry_path, local_hash, registry_hash, detail)
}

fn difference(registered: &Registration, local: &Local) -> (&'static str, Option<String>) {
    let is_same_text = registered.text_hash == local.text_hash;
    if registered.location != local.location && is_same_text {
        let detail = format!("signed at {}, found at {}", registered.location, local.location);
        return ("moved", Some(detail));
    }
    if !is_same_text {
        return ("differs", Some("the text differs from the text that was signed".to_owned()));
    }
    if registered.integrity != local.integrity {
        return ("differs", Some("the text is the same, but its metadata differs".to_owned()));
    }
    ("match", None)
}

fn read_local(local: Jsonb) -> Result<Vec<Local>, Failure> {
    let local: Value = serde_json::from_str(&local.text()).unwrap_or_default();
    let files = local.as_array().ok_or_else(|| bad_local("local must be a JSON array".to_owned()))?;
    let mut seen = HashSet::new();
    let mut read = Vec::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        let file = read_file(index, file)?;
        if !seen.insert(file.name.clone()) {
            let ItemName { item_type, .. } = &file.name;
            return Err(bad_local(format!("{item_type} {} is given twice", file.name)));
        }
        read.push(file);
    }
    Ok(read)
}

fn read_file(index: usize, file: &Value) -> Result<Local, Failure> {
    let text = |name: &str| {
        let value = file.get(name).and_then(Value::as_str);
        value.ok_or_else(|| bad_local(format!("local[{index}] has no string {name}")))
    };
    let hash = |name: &str| {
        let value = text(name)?;
        parse_hash(value).ok_or_else(|| bad_local(format!("{name} of local[{index}] is not a SHA-256 hash")))?;
        Ok(value.to_owned())
    };
    let item_type = text("item_type")?.parse().map_err(super::failure)?;
    check_id(text("item_id")?).map_err(super::failure)?;
    check_version(text("version")?).map_err(super::failure)?;
    check_location(item_type, text("location_path")?).map_err(super::failure)?;
    Ok(Local {
        name: ItemName { item_type, id: text("item_id")?.to_owned(), version: text("version")?.to_owned() },
        location: text("location_path")?.to_owned(),
        integrity: hash("integrity_hash")?,
        text_hash: hash("text_hash")?,
    })
}

fn bad_local(message: String) -> Failure {
    Failure::new(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, message).hint(
        "Each file is an object with the strings item_type, item_id, version, location_path, integrity_hash and text_hash.",
    )
}
