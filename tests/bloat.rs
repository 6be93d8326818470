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

/// A ledger with a tracked table of one pending row, and a session whose snapshot sees it as pending.
fn with_old_snapshot() -> (Cluster, Client, Client) {
    let (cluster, mut client) = start_sealing_by_hand();
    client
        .batch_execute(
            "CREATE TABLE notes (id bigint PRIMARY KEY, text text); SELECT ledger.track('notes');
             INSERT INTO notes VALUES (0, 'pending')",
        )
        .unwrap();
    let mut old = cluster.connect("postgres");
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM notes").unwrap();
    (cluster, client, old)
}

const ENTRY_OF_ROW_0: &str = "SELECT block_number IS NULL FROM ledger.history('notes', '{\"id\": 0}')";
const LOOK_UP: &str = "SELECT ledger.verified(n) FROM notes AS n WHERE id = 1";

/// Records enough rows that the pending table keeps some thousand pages, all sealed.
fn leave_many_pages(client: &mut Client, first: i64) -> i64 {
    let rows = format!("SELECT n, repeat('x', 50) FROM generate_series({first}, {}) n", first + 29_999);
    client.batch_execute(&format!("INSERT INTO notes {rows}; SELECT ledger.commit_block()")).unwrap();
    let size = pages(client, "ledger.entries_pending");
    assert!(size > 1500, "only {size} pages");
    size
}

/// Waits until the worker has noted that only the last pages can have pending entries. It does so when it next looks
/// for entries to seal.
fn wait_until_few_are_read(client: &mut Client, statement: &str) {
    let mut read = 0;
    wait_until(&format!("few pages are read by {statement}"), PATIENCE, || {
        record_many(client, 100);
        wait_until_sealed(client);
        read = pages_read(client, "ledger.entries_pending", statement);
        read < 200
    });
}

#[test]
fn what_an_old_snapshot_has_kept_of_sealed_entries_is_not_read_again() {
    let (_cluster, mut client, mut old) = with_old_snapshot();
    leave_many_pages(&mut client, 1);
    wait_until_few_are_read(&mut client, LOOK_UP);
    record(&mut client);
    for statement in [
        "SELECT count(*) FROM ledger.commit_block()",
        "SELECT ledger.verify_row('notes', '{\"id\": 2}')",
        "SELECT count(*) FROM ledger.history('notes', '{\"id\": 3}')",
        LOOK_UP,
    ] {
        let read = pages_read(&mut client, "ledger.entries_pending", statement);
        assert!(read < 200, "{read} pages were read by {statement}");
    }
    old.batch_execute("COMMIT").unwrap();
    assert_intact(&mut client);
}

#[test]
fn an_old_snapshot_finds_the_entries_that_were_pending_when_it_was_taken() {
    let (_cluster, mut client, mut old) = with_old_snapshot();
    leave_many_pages(&mut client, 1);
    wait_until_few_are_read(&mut client, LOOK_UP);
    assert!(is_true(&mut old, &format!("({ENTRY_OF_ROW_0})")), "it is pending still");
    assert_eq!(number(&mut old, "SELECT count(ledger.verified(n)) FROM notes AS n"), 1);
    assert!(!is_true(&mut client, &format!("({ENTRY_OF_ROW_0})")), "it is sealed");
    old.batch_execute("COMMIT").unwrap();
    assert_intact(&mut client);
}

/// A snapshot does not list its own transaction among those that are running.
#[test]
fn a_cursor_finds_what_was_pending_although_its_transaction_has_taken_back_that_it_sealed() {
    let (cluster, mut client, mut old) = with_old_snapshot();
    let mut own = cluster.connect("postgres");
    own.batch_execute("BEGIN; SELECT pg_current_xact_id()").unwrap();
    record(&mut client);
    own.batch_execute(&format!("DECLARE from_before CURSOR FOR {ENTRY_OF_ROW_0}")).unwrap();
    leave_many_pages(&mut client, 1);
    own.batch_execute(
        "SAVEPOINT sealed; SELECT ledger.add_entry('x', '{}'); SELECT ledger.commit_block(); ROLLBACK TO sealed",
    )
    .unwrap();
    wait_until("the worker has looked for entries", PATIENCE, || {
        record(&mut client);
        pages_read(&mut client, "ledger.entries_pending", LOOK_UP) < 200
    });
    assert_eq!(column(&mut own, "FETCH from_before"), ["t"], "it is pending still");
    own.batch_execute("COMMIT").unwrap();
    old.batch_execute("COMMIT").unwrap();
    assert_intact(&mut client);
}

/// Only a superuser can put it back, with the table's triggers off. So nothing notes where its row is.
#[test]
fn a_lost_entry_that_was_put_back_on_a_skipped_page_is_sealed_once_it_is_verified() {
    let (cluster, mut client, mut old) = with_old_snapshot();
    let size = leave_many_pages(&mut client, 1);
    let entry = value(&mut client, RECORD);
    client
        .batch_execute(&format!(
            "CREATE TABLE saved AS SELECT * FROM ledger.entries_pending WHERE id = '{entry}';
             ALTER TABLE ledger.entries_pending DISABLE TRIGGER ALL;
             DELETE FROM ledger.entries_pending WHERE id = '{entry}'"
        ))
        .unwrap();
    wait_until_few_are_read(&mut client, LOOK_UP);
    old.batch_execute("COMMIT").unwrap();
    let mut last = cluster.connect("postgres");
    last.batch_execute("BEGIN; INSERT INTO notes VALUES (-2, 'keeps the last page')").unwrap();
    client.batch_execute("VACUUM ledger.entries_pending").unwrap();
    let mut other = cluster.connect("postgres");
    other.batch_execute("INSERT INTO ledger.entries_pending SELECT * FROM saved").unwrap();
    let page = "SELECT ((ctid::text::point)[0])::bigint FROM ledger.entries_pending";
    assert!(number(&mut client, page) < size / 2, "the row is on an earlier page");
    client.batch_execute("SELECT ledger.verify_chain(); SELECT ledger.commit_block()").unwrap();
    assert_eq!(number(&mut client, &format!("SELECT count(*) FROM ledger.entries_sealed WHERE id = '{entry}'")), 1);
    last.batch_execute("COMMIT").unwrap();
}

#[test]
fn entries_on_pages_that_are_mostly_skipped_are_found_and_sealed() {
    let (cluster, mut client, mut old) = with_old_snapshot();
    // The rows of this transaction are on the first pages, and nobody sees them yet.
    let mut open = cluster.connect("postgres");
    open.batch_execute("BEGIN; INSERT INTO notes VALUES (-1, 'open')").unwrap();
    let size = leave_many_pages(&mut client, 1);
    open.batch_execute("COMMIT").unwrap();
    assert_eq!(number(&mut client, "SELECT count(ledger.verified(n)) FROM notes AS n WHERE id = -1"), 1);
    client.batch_execute("SELECT ledger.commit_block()").unwrap();
    wait_until_few_are_read(&mut client, LOOK_UP);
    // Now rows come on pages before those that are read.
    old.batch_execute("COMMIT").unwrap();
    let mut last = cluster.connect("postgres");
    last.batch_execute("BEGIN; INSERT INTO notes VALUES (-2, 'keeps the last page')").unwrap();
    client.batch_execute("VACUUM ledger.entries_pending").unwrap();
    // A new session, as the others go on from the page that they have last inserted on.
    cluster.connect("postgres").batch_execute("INSERT INTO notes VALUES (-3, 'first page')").unwrap();
    let place = "SELECT ((ctid::text::point)[0])::bigint FROM ledger.entries_pending";
    assert!(number(&mut client, place) < size / 2, "the row is on an earlier page");
    assert_eq!(number(&mut client, "SELECT count(ledger.verified(n)) FROM notes AS n WHERE id = -3"), 1);
    client.batch_execute("SELECT ledger.commit_block()").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries_pending"), 0);
    last.batch_execute("COMMIT").unwrap();
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
    let kept = file(&mut other);
    drop(other);
    client.batch_execute("DROP DATABASE other WITH (FORCE)").unwrap();
    wait_until("the writer has the dropped database's file closed", PATIENCE, || open_files(writer).len() == 1);
    assert!(kept.exists(), "it is gone");
    record(&mut client);
    assert_intact(&mut client);
}
