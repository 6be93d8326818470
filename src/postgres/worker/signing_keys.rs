//! Checks that the secrets are those that entries were signed with.
//!
//! If a key_id gets another secret, new signatures are good, but verification finds a bad signature on every older
//! entry, as if it had been tampered with. If a key_id is removed, its signatures cannot be checked at all. The log
//! should say so before a user verifies.

use super::transactions::in_transaction;
use crate::ledger::signature::Keyring;
use crate::postgres::errors::Failure;
use crate::postgres::mirror::remembered;
use crate::postgres::partitions;
use crate::postgres::relation::{self, lock_if_free};
use crate::postgres::tables::{self, entry_column, RegisteredSnapshot, Row, Table, TableScan};
use pgrx::{check_for_interrupts, pg_sys, PgSqlErrorCode};
use std::collections::BTreeMap;
use uuid::Uuid;

/// How many pages at the end of a table to read in full: its newest rows are most likely there.
const NEWEST_PAGES: u32 = 16;
/// How many pages to read in all. Each holds some 30 entries.
const MOST_PAGES: usize = 256;

/// What was found of one key.
#[derive(Default)]
struct Found {
    entries: u64,
    bad: u64,
    /// One whose signature is bad.
    example: Uuid,
    /// The server has no such key.
    is_unknown: bool,
}

/// Logs which secrets do not verify what was signed under their names, and which are missing: all, if there is no
/// keyring.
pub(super) fn check(keyring: Option<&Keyring>) {
    match in_transaction(|| (look(keyring), remembered::database_name())) {
        Ok((found, database)) => {
            let wrong = found.iter().filter(|(_, found)| found.bad > 0 || found.is_unknown);
            wrong.for_each(|(key_id, found)| found.complaint(key_id, &database).warn());
        }
        Err(failure) => pgrx::log!("pg_notary worker could not check the HMAC secrets: {}", failure.text()),
    }
}

impl Found {
    fn complaint(&self, key_id: &str, database: &str) -> Failure {
        let Found { entries, bad, example, is_unknown } = self;
        if *is_unknown {
            let message = format!("HMAC secret with key_id \"{key_id}\" is missing, and entries were signed with it");
            return Failure::new(PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR, message)
                .detail(format!(
                    "{entries} entries of database \"{database}\" that were looked at have this key_id, one of them entry {example}. \
                     Verification reports each as unknown_key."
                ))
                .hint(
                    "Put the line of this key_id back into ledger.hmac_secret_file, below the one that signs, and \
                     reload. The secret with key_id \"default\" may have been that of the variable \
                     INTEGRITY_HMAC_SECRET, which a server without a secret file takes from its environment.",
                );
        }
        let message = format!("HMAC secret with key_id \"{key_id}\" does not verify what was signed with that key_id");
        Failure::new(PgSqlErrorCode::ERRCODE_CONFIG_FILE_ERROR, message)
            .detail(format!(
                "Of {entries} such entries of database \"{database}\" that were looked at, {bad} have a signature \
                 that this secret does not make, one of them entry {example}."
            ))
            .hint(
                "If the secret was changed, put the old secret back under this key_id in ledger.hmac_secret_file, \
                 and give the new one a new key_id. If it was not changed, see ledger.find_tampering().",
            )
    }
}

/// Looks at some entries: those that are pending, the newest sealed ones, and ever fewer older ones, so that older keys
/// are found as well. The newest alone would not do: they may be signed with the current secret.
fn look(keyring: Option<&Keyring>) -> BTreeMap<String, Found> {
    let snapshot = RegisteredSnapshot::latest();
    let pending = tables::oid_of("entries_pending");
    let sealed = if lock_if_free(tables::oid_of("entries_sealed"), pg_sys::AccessShareLock) {
        partitions::sealed()
    } else {
        Vec::new()
    };
    let newest_first = sealed.iter().rev().map(|partition| partition.oid);
    let mut found = BTreeMap::new();
    let mut left = MOST_PAGES;
    for table in std::iter::once(pending).chain(newest_first).filter_map(open_unless_locked) {
        // Emptied pages of the pending table are used again, the first ones first.
        let first = if relation::oid(&table) == pending { table.pages().min(NEWEST_PAGES) } else { 0 };
        for page in (0..first).chain(sample(table.pages()).filter(|page| *page >= first)).take(left) {
            look_at(&table, page, &snapshot, keyring, &mut found);
            left -= 1;
        }
    }
    found
}

/// Does not wait: a table that others have locked exclusively is left out, and so is one that cannot be scanned.
fn open_unless_locked(oid: pg_sys::Oid) -> Option<Table> {
    lock_if_free(oid, pg_sys::AccessShareLock)
        .then(|| Table::open_entries(oid, pg_sys::AccessShareLock))
        .filter(Table::is_heap)
}

/// The last of so many pages, then pages that are each twice as far from the end as the one before.
fn sample(pages: u32) -> impl Iterator<Item = u32> {
    let farther = std::iter::successors(NEWEST_PAGES.checked_mul(2), |distance| distance.checked_mul(2));
    let distances = (1..=NEWEST_PAGES).chain(farther);
    distances.take_while(move |distance| *distance <= pages).map(move |distance| pages - distance)
}

fn look_at(
    table: &Table,
    page: u32,
    snapshot: &RegisteredSnapshot,
    keyring: Option<&Keyring>,
    found: &mut BTreeMap<String, Found>,
) {
    check_for_interrupts!();
    let mut scan = TableScan::start_pages(table, snapshot, page, 1);
    let mut row = Row::default();
    while let Some(tuple) = scan.next() {
        table.deform_into(tuple, &mut row);
        note(&row, keyring, found);
    }
}

fn note(row: &Row, keyring: Option<&Keyring>, found: &mut BTreeMap<String, Found>) {
    let text = |column| row.text(column);
    let (Some(key_id), Some(signature)) = (text(entry_column::KEY_ID), text(entry_column::SIGNATURE)) else { return };
    let data_hash = text(entry_column::DATA_HASH).unwrap_or_default();
    let is_good = keyring.and_then(|keyring| keyring.verify(key_id, data_hash, signature));
    let found = found.entry(key_id.to_owned()).or_default();
    found.entries += 1;
    found.is_unknown = is_good.is_none();
    found.bad += u64::from(is_good == Some(false));
    if is_good != Some(true) {
        found.example = row.uuid(entry_column::ID).unwrap_or_default();
    }
}
