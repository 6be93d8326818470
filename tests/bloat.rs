//! What a large transaction, an old snapshot or a dropped database leaves behind costs nothing for good.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{wait_until, Cluster, Options};
use postgres::Client;
use std::fs;

/// How many pages of the table `statement` looks at, in a transaction that is rolled back.
fn pages_read(client: &mut Client, table: &str, statement: &str) -> i64 {
    // What earlier transactions have read and not reported yet is in it.
    let fetched = format!("SELECT pg_stat_get_xact_blocks_fetched('{table}'::regclass)");
    client.batch_execute("BEGIN").unwrap();
    let before = number(client, &fetched);
    client.simple_query(statement).unwrap();
    let read = number(client, &fetched) - before;
    client.batch_execute("ROLLBACK").unwrap();
    read
}

fn pages(client: &mut Client, table: &str) -> i64 {
    number(client, &format!("SELECT pg_relation_size('{table}') / 8192"))
}

fn start_sealing_by_hand() -> (Cluster, Client) {
    start(Options::new().conf("ledger.block_interval = 1h").conf("autovacuum = off"))
}

#[test]
fn sealing_finds_few_entries_in_a_table_that_a_large_transaction_has_made_large() {
    let (_cluster, mut client) = start_sealing_by_hand();
    let table = "ledger.entries_pending";
    client
        .batch_execute(
            "INSERT INTO ledger.entries (entry_type, data_hash, metadata)
             SELECT 'bulk', lpad(to_hex(n), 64, '0'), jsonb_build_object('text', repeat('x', 300)) FROM generate_series(1, 60000) n;
             SELECT ledger.commit_block()",
        )
        .unwrap();
    wait_until_sealed(&mut client);
    let size = pages(&mut client, table);
    assert!(size > 2000, "only {size} pages");
    let ids: Vec<String> = (0..20).map(|_| record(&mut client)).collect();
    // The first scan marks the dead entries of the key, and later scans skip them.
    pages_read(&mut client, table, "SELECT count(*) FROM ledger.commit_block()");
    let read = pages_read(&mut client, table, "SELECT count(*) FROM ledger.commit_block()");
    assert!(read < 100, "{read} of {size} pages were read for {} entries", ids.len());
    client.batch_execute("SELECT ledger.commit_block()").unwrap();
    assert_eq!(number(&mut client, "SELECT data_count FROM ledger.blocks ORDER BY block_number DESC LIMIT 1"), 20);
    assert_intact(&mut client);
}

#[test]
fn what_an_old_snapshot_has_kept_of_the_state_is_not_read_again() {
    let (cluster, mut client) = start_sealing_by_hand();
    let table = "ledger.log_state";
    let mut old = cluster.connect("postgres");
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ledger.entries").unwrap();
    for _ in 0..200 {
        record(&mut client);
        client.batch_execute("SELECT ledger.commit_block()").unwrap();
    }
    let size = pages(&mut client, table);
    assert!(size > 10, "only {size} pages");
    record(&mut client);
    // A change that finds no room on the page of the row looks for it elsewhere, which reads some pages too. It does so
    // once: what is rolled back leaves its page behind.
    let fewest = |client: &mut Client| {
        let reads = (0..3).map(|_| pages_read(client, table, "SELECT count(*) FROM ledger.commit_block()"));
        reads.min().unwrap()
    };
    let read = fewest(&mut client);
    assert!(read < size / 2, "{read} of {size} pages were read");
    old.batch_execute("ROLLBACK").unwrap();
    client.batch_execute("VACUUM ledger.log_state").unwrap();
    let read = fewest(&mut client);
    assert!(read < size / 2, "{read} of {size} pages were read once the snapshot was gone");
    client.batch_execute("SELECT ledger.commit_block()").unwrap();
    assert_intact(&mut client);
}

/// The mirror files that a process has open.
fn open_files(pid: i64) -> Vec<String> {
    let links =
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    links.map(|path| path.display().to_string()).filter(|path| path.contains(".jsonl")).collect()
}

#[test]
fn the_writer_lets_go_of_the_file_of_a_dropped_database() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE DATABASE other").unwrap();
    let mut other = cluster.connect("other");
    other.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    let writer = number(&mut client, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_notary writer'");
    wait_until("the writer has both files open", PATIENCE, || {
        record(&mut client);
        record(&mut other);
        open_files(writer).len() == 2
    });
    drop(other);
    client.batch_execute("DROP DATABASE other WITH (FORCE)").unwrap();
    wait_until("the writer has the dropped database's file closed", PATIENCE, || open_files(writer).len() == 1);
    record(&mut client);
    assert_intact(&mut client);
}
