//! The SQL functions that verify items, and the JSON that they return. The verifying itself is in
//! [`verifier`](super::verifier).

use super::input::{read_list, GivenItem, Listed, Stored};
use super::rows;
use super::verifier::{with_latest_snapshot, Outcome, Verifier};
use crate::items::verifier::Verification;
use crate::postgres::errors::{or_raise, required};
use crate::postgres::jsonb::{Jsonb, JsonbText};
use crate::postgres::secrets;
use pgrx::prelude::*;
use serde_json::{json, Value};
use std::time::Instant;

/// How many failures a batch lists; all are counted.
const MAX_LISTED: usize = 1_000;

#[pg_extern(volatile, parallel_unsafe, security_definer, requires = ["items"])]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::too_many_arguments, reason = "the parts of an item")]
fn verify_single_file(
    item_type: Option<String>,
    item_id: Option<String>,
    version: Option<String>,
    file_content: Option<String>,
    file_path: default!(Option<String>, "NULL"),
    stored_hash: default!(Option<String>, "NULL"),
    metadata: default!(Option<Jsonb>, "NULL"),
    language: default!(Option<String>, "NULL"),
) -> JsonbText {
    let started = Instant::now();
    let given = GivenItem {
        item_type: required(item_type, "item_type"),
        id: required(item_id, "item_id"),
        version: required(version, "version"),
        content: required(file_content, "file_content"),
        file_path,
        metadata: metadata.map(Jsonb::text),
        language,
        stored: stored_hash.map_or(Stored::InContent, |hash| Stored::Elsewhere(Some(hash))),
        registered_at: None,
        revoked: None,
    };
    let (outcome, counts) = with_latest_snapshot(|mut verifier| {
        let outcome = verifier.verify(&given);
        (outcome, Counts::of(&verifier))
    });
    let failed_at = outcome.failed_item.is_some().then_some(0);
    let mut report = outcome.verification.to_json();
    report["registered"] = json!(outcome.is_recorded);
    counts.add_to(&mut report, failed_at, outcome.failed_item, started);
    JsonbText::from(report)
}

/// Verifies all items: those of a list, or the whole registry.
#[pg_extern(volatile, parallel_unsafe, security_definer, requires = ["items"])]
#[search_path(pg_catalog, pg_temp)]
fn verify_items(items: default!(Option<Jsonb>, "NULL")) -> JsonbText {
    let items = items.map(|items| or_raise(read_list(items)));
    JsonbText::from(with_latest_snapshot(|verifier| verify_batch(verifier, items)))
}

fn verify_batch(mut verifier: Verifier, items: Option<Vec<Listed>>) -> Value {
    let started = Instant::now();
    secrets::note_unchecked_signatures();
    let items = items.unwrap_or_else(|| rows::all_names().into_iter().map(Listed::Registered).collect());
    let mut batch = Batch::new();
    for (index, item) in items.iter().enumerate() {
        let outcome = verify_listed(&mut verifier, item);
        batch.add(index, item, outcome);
    }
    secrets::warn_of_wrong_keys(&verifier.by_key);
    let mut report = batch.report(items.len());
    Counts::of(&verifier).add_to(&mut report, batch.failed_at, batch.failed_item.take(), started);
    report
}

/// Verifies the items of a chain from leaf to primitive, and stops at the first that fails.
#[pg_extern(volatile, parallel_unsafe, security_definer, requires = ["items"])]
#[search_path(pg_catalog, pg_temp)]
fn verify_item_chain(items: Option<Jsonb>) -> JsonbText {
    let items = or_raise(read_list(required(items, "items")));
    let started = Instant::now();
    secrets::note_unchecked_signatures();
    JsonbText::from(with_latest_snapshot(|mut verifier| {
        let mut all_recorded = true;
        for (index, item) in items.iter().enumerate() {
            let outcome = verify_listed(&mut verifier, item);
            all_recorded &= outcome.is_recorded;
            if outcome.failed_item.is_some() {
                let mut report = short_report(&outcome.verification);
                report["registered"] = json!(all_recorded);
                Counts::of(&verifier).add_to(&mut report, Some(index), outcome.failed_item, started);
                return report;
            }
        }
        let mut report = json!({"success": true, "status": "valid", "error": null, "solution": null, "detail": null});
        report["registered"] = json!(all_recorded);
        Counts::of(&verifier).add_to(&mut report, None, None, started);
        report
    }))
}

fn verify_listed(verifier: &mut Verifier, item: &Listed) -> Outcome {
    match item {
        Listed::Given(given) => verifier.verify(given),
        Listed::Registered(name) => verifier.verify_name(name, None).1,
    }
}

fn short_report(verification: &Verification) -> Value {
    json!({
        "success": verification.success(),
        "status": verification.status.as_str(),
        "error": verification.error,
        "solution": verification.solution,
        "detail": verification.detail,
    })
}

/// What failed in a batch of items.
struct Batch {
    failed_at: Option<usize>,
    failed_item: Option<String>,
    first: Option<Verification>,
    failed_count: usize,
    /// Whether the ledger has an entry about each of the items.
    all_recorded: bool,
    failures: Vec<Value>,
}

impl Batch {
    fn new() -> Batch {
        Batch {
            failed_at: None,
            failed_item: None,
            first: None,
            failed_count: 0,
            all_recorded: true,
            failures: Vec::new(),
        }
    }

    fn add(&mut self, index: usize, item: &Listed, outcome: Outcome) {
        let Outcome { verification, failed_item, is_recorded } = outcome;
        self.all_recorded &= is_recorded;
        let Some(failed_item) = failed_item else { return };
        self.failed_count += 1;
        if self.failures.len() < MAX_LISTED {
            let mut failure = short_report(&verification);
            failure["index"] = json!(index);
            failure["item"] = json!(item.shown());
            failure["failed_item_id"] = json!(failed_item);
            failure["registered"] = json!(is_recorded);
            self.failures.push(failure);
        }
        if self.first.is_none() {
            (self.failed_at, self.failed_item, self.first) = (Some(index), Some(failed_item), Some(verification));
        }
    }

    fn report(&mut self, item_count: usize) -> Value {
        let first = self.first.as_ref();
        json!({
            "success": first.is_none(),
            "error": first.and_then(|first| first.error.as_deref()),
            "solution": first.and_then(|first| first.solution.as_deref()),
            "registered": self.all_recorded,
            "item_count": item_count,
            "failed_count": self.failed_count,
            "failures": std::mem::take(&mut self.failures),
        })
    }
}

/// What every report ends with.
struct Counts {
    verified: u64,
    cached: u64,
}

impl Counts {
    fn of(verifier: &Verifier) -> Counts {
        Counts { verified: verifier.verified, cached: verifier.cached }
    }

    fn add_to(&self, report: &mut Value, failed_at: Option<usize>, failed_item: Option<String>, started: Instant) {
        report["failed_at"] = json!(failed_at);
        report["failed_item_id"] = json!(failed_item);
        report["verified_count"] = json!(self.verified);
        report["cached_count"] = json!(self.cached);
        report["duration_ms"] = json!((started.elapsed().as_secs_f64() * 1e6).round() / 1e3);
    }
}
