//! Verification of one entry: its data, its signature, and that the log tree includes it.

use super::stored_tree::StoredNodes;
use super::table_blocks::{self, Buffers};
use crate::ledger::block::BlockHeader;
use crate::ledger::log_tree;
use crate::ledger::verifier::{SealedEntry, SignatureCheck};
use crate::ledger::{parse_hash, sha256_hex};
use crate::postgres::errors::{or_raise, required};
use crate::postgres::ids;
use crate::postgres::jsonb::{Jsonb, JsonbText};
use crate::postgres::partitions;
use crate::postgres::secrets;
use crate::postgres::tables::{look_up, RegisteredSnapshot, Table};
use pgrx::prelude::*;
use serde_json::json;
use uuid::Uuid;

#[pg_extern(volatile, parallel_unsafe, security_definer, cost = 1000, requires = ["tables"])]
#[search_path(pg_catalog, pg_temp)]
fn verify_entry(entry_id: Option<pgrx::Uuid>, original_data: Option<Jsonb>) -> JsonbText {
    let entry_id = ids::from_sql(required(entry_id, "entry_id"));
    let data = required(original_data, "original_data");
    let data_hash = sha256_hex(or_raise(data.canonical()).as_bytes());
    let Some(Found { entry, is_sealed, is_only }) = find(entry_id) else {
        pgrx::notice!("there is no entry {entry_id} in the ledger");
        return JsonbText::from(json!({
            "verified": false, "hash_valid": false, "signature_valid": null, "included": false, "block_number": null,
        }));
    };
    let hash_valid = entry.data_hash.text() == data_hash;
    let signature_valid = match entry.signature {
        SignatureCheck::Unsigned | SignatureCheck::NotChecked => None,
        signature => Some(matches!(signature, SignatureCheck::Valid { .. })),
    };
    let signature_checked = entry.signature != SignatureCheck::NotChecked;
    if !signature_checked {
        pgrx::notice!("the signature was not checked: the server has no HMAC secret");
    }
    if matches!(entry.signature, SignatureCheck::Invalid { .. }) {
        secrets::note_invalid_signature();
    }
    if !is_only {
        pgrx::notice!("there is more than one entry {entry_id} in the ledger");
    }
    let included = is_sealed && is_included(&entry, &StoredNodes::default());
    JsonbText::from(json!({
        "verified": is_only && hash_valid && signature_checked && signature_valid != Some(false) && (included || !is_sealed),
        "hash_valid": hash_valid,
        "signature_valid": signature_valid,
        "included": included,
        "block_number": is_sealed.then_some(entry.block_number),
    }))
}

struct Found {
    entry: SealedEntry,
    /// By the table that it was found in: what the row says of itself proves nothing.
    is_sealed: bool,
    /// No other table has an entry with this id. Only a superuser could have made a second one.
    is_only: bool,
}

/// The entry's row, wherever it is. If a sealed entry is pending as well, the sealed row is what was recorded.
fn find(entry_id: Uuid) -> Option<Found> {
    let keyring = or_raise(secrets::verifying_keyring());
    let snapshot = RegisteredSnapshot::latest();
    let mut buffers = Buffers::default();
    let pending = Table::open("entries_pending", pg_sys::AccessShareLock);
    let sealed = partitions::sealed();
    let tables = sealed.iter().rev().map(|partition| (partition.open(), true)).chain(std::iter::once((pending, false)));
    let mut found = tables.filter_map(|(table, is_sealed)| {
        let read = |row: &_| (table_blocks::sealed_entry(row, keyring.as_deref(), &mut buffers), is_sealed);
        look_up::find_entry(&table, entry_id, &snapshot, read)
    });
    let (entry, is_sealed) = found.next()?;
    Some(Found { entry, is_sealed, is_only: found.next().is_none() })
}

/// Whether the log tree of the entry's block includes the entry's line as it is now, and the block's hash covers that
/// tree.
pub fn is_included(entry: &SealedEntry, nodes: &StoredNodes) -> bool {
    let Some(block) = table_blocks::header_from(entry.block_number) else { return false };
    block.block_number == entry.block_number
        && is_of(entry, &block)
        && block.compute_hash() == block.block_hash
        && proves(entry, &block, nodes)
}

/// Whether the leaf is one of the block's own. Its log tree has those of all blocks before it, too.
fn is_of(entry: &SealedEntry, block: &BlockHeader) -> bool {
    (block.tree_size.saturating_sub(block.data_count)..block.tree_size).contains(&entry.leaf_index)
}

fn proves(entry: &SealedEntry, block: &BlockHeader, nodes: &StoredNodes) -> bool {
    let (Ok(index), Ok(size)) = (u64::try_from(entry.leaf_index), u64::try_from(block.tree_size)) else { return false };
    let Some(root) = parse_hash(&block.tree_root) else { return false };
    log_tree::inclusion_proof(index, size, nodes)
        .is_some_and(|proof| log_tree::verify_inclusion(&entry.leaf_hash, index, size, &proof, &root))
}
