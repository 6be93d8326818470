//! A valid file is found valid; a planted change is found, and where it is.

mod beside;
mod chain;
mod driven;
mod files;
mod parallel;
mod planted;

use super::*;
use crate::ledger::block::{seal, BlockHeader};
use crate::ledger::canonical_json::canonical;
use crate::ledger::log_tree::{leaf_hash, LogTree};
use crate::ledger::record::{Entry, Header, Timestamp, Void};
use crate::ledger::sha256_hex;
use crate::ledger::signature::Keyring;
use crate::ledger::test_support::Numbers;
use std::io::Cursor;
use uuid::Uuid;

pub(super) fn keyring() -> Keyring {
    Keyring::parse("default:test-secret-key-for-hmac\nold:k\n").unwrap()
}

fn timestamp(number: i64) -> Timestamp {
    Timestamp::from_micros(1_770_000_000_000_000 + number * 1_234_567).unwrap()
}

pub(super) fn entry(number: u64, keyring: &Keyring) -> Entry {
    let mut id = [0; 16];
    id.copy_from_slice(&crate::ledger::sha256(&number.to_be_bytes())[..16]);
    let data_hash = sha256_hex(format!("data {number}").as_bytes());
    let signed = (!number.is_multiple_of(3)).then(|| keyring.sign(&data_hash));
    let metadata = format!(r#"{{"n": {number}, "note": "é \" {}", "x": [1.5]}}"#, number % 7);
    Entry {
        entry_id: Uuid::from_bytes(id),
        entry_type: format!("type {}", number % 4),
        metadata: canonical(&metadata).unwrap(),
        key_id: signed.as_ref().map(|(key_id, _)| (*key_id).to_owned()),
        signature: signed.map(|(_, signature)| signature),
        created_at: timestamp(number as i64),
        data_hash,
    }
}

/// Writes a ledger file as a server would: entries of transactions in any order, voids, and blocks in between.
fn ledger(seed: u64, blocks: usize, block_size: usize) -> Vec<Vec<u8>> {
    let keyring = keyring();
    let mut numbers = Numbers(seed);
    let header =
        Header { database: "test \"é\"".to_owned(), ledger_id: Uuid::from_u128(seed.into()), timestamp: timestamp(0) };
    let mut lines = vec![header.line()];
    let mut pending: Vec<Entry> = Vec::new();
    let mut tree = LogTree::new();
    let mut last: Option<BlockHeader> = None;
    let mut sealed = 0;
    let mut count = seed << 20;
    while sealed < blocks || pending.len() < 2 {
        match numbers.below(8) {
            0 if !pending.is_empty() => {
                let voided = pending.remove(numbers.below(pending.len()));
                let entry_ids = vec![voided.entry_id];
                let reason = "rolled back".to_owned();
                let timestamp = timestamp(count as i64);
                lines.push(Void { entry_ids, reason, timestamp }.line());
            }
            1 | 2 if sealed < blocks && !pending.is_empty() => {
                let size = (1 + numbers.below(block_size)).min(pending.len());
                let entries: Vec<Entry> = pending.drain(..size).collect();
                let leaves: Vec<_> =
                    entries.iter().map(|entry| (leaf_hash(&entry.line()), entry.data_hash.as_str())).collect();
                let block = seal(last.as_ref(), &mut tree, &leaves, timestamp(count as i64), |_, _, _| {});
                let ids: Vec<Uuid> = entries.iter().map(|entry| entry.entry_id).collect();
                lines.push(block.line(&ids));
                last = Some(block);
                sealed += 1;
            }
            _ => {
                count += 1;
                let entry = entry(count, &keyring);
                lines.push(entry.line());
                pending.insert(numbers.below(pending.len() + 1), entry);
            }
        }
    }
    lines
}

fn join(lines: &[Vec<u8>]) -> Vec<u8> {
    let terminated = lines.iter().flat_map(|line| [line, &b"\n"[..]]);
    terminated.flatten().copied().collect()
}

fn verify(bytes: &[u8]) -> FileReport {
    let keyring = keyring();
    let options = FileOptions { keyring: Some(&keyring), ..FileOptions::default() };
    verify_file(Cursor::new(bytes), options, &mut ()).unwrap()
}

fn verify_lines(lines: &[Vec<u8>]) -> FileReport {
    verify(&join(lines))
}
