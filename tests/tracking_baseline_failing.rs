//! Tables whose rows cannot be recorded take little of the worker's time.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{send, wait_until, Options};

/// What keeps a table from being recorded may take long to show. Here it is a lock on a catalog in which the worker
/// looks up whose partition it is to record, until it is cancelled.
#[test]
fn between_two_tables_that_cannot_be_recorded_the_worker_seals() {
    let options = Options::new().conf("ledger.block_size = 10").conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(options);
    for table in ["one", "two"] {
        client
            .batch_execute(&format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
                 CREATE TABLE {table}_1 PARTITION OF {table} FOR VALUES FROM (0) TO (10000);
                 INSERT INTO {table} SELECT n, repeat('x', 900) FROM generate_series(1, 1000) n"
            ))
            .unwrap();
    }
    let is_sealed = |blocks: i64| format!("(SELECT block_count >= {blocks} FROM ledger.chain_stats)");
    // Whoever seals, records and looks has then read what it needs.
    record_many(&mut client, 10);
    wait_for(&mut client, &is_sealed(1));
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute("SELECT ledger.track('one'), ledger.track('two')").unwrap();
    record_many(&mut client, 10);
    let mut locking = cluster.connect("postgres");
    locking.batch_execute("BEGIN; LOCK TABLE pg_inherits IN ACCESS EXCLUSIVE MODE").unwrap();
    send(worker, libc::SIGCONT);
    wait_for(&mut client, &format!("(SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {worker})"));
    assert!(!is_true(&mut client, &is_sealed(2)));
    client.batch_execute(&format!("SELECT pg_cancel_backend({worker})")).unwrap();
    cluster.wait_for_log("cannot record the rows of table public.one_1: canceling statement due to user request");
    wait_for(&mut client, &is_sealed(2));
    // Then it has turned to the other table.
    wait_for(&mut client, &format!("(SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {worker})"));
    locking.batch_execute("COMMIT").unwrap();
    for table in ["one", "two"] {
        wait_until_tracked(&mut client, table);
        assert_clean(&mut client, table);
    }
}

/// Rows that take little room, and are recorded as 50 MB each.
#[test]
fn a_table_whose_rows_take_long_to_record_does_not_keep_the_worker_from_sealing() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1s"));
    client
        .batch_execute(
            "CREATE TABLE wide (id int PRIMARY KEY, numbers numeric[]) WITH (fillfactor = 10);
             INSERT INTO wide SELECT n, array_fill(1e131071::numeric, ARRAY[400]) FROM generate_series(1, 1200) n;
             SELECT ledger.track('wide', with_signature => false)",
        )
        .unwrap();
    let done = "SELECT baseline_pages_done FROM ledger.tracked_tables";
    wait_until("it has begun", PATIENCE, || number(&mut client, done) > 0);
    let entry = record(&mut client);
    wait_for(&mut client, &format!("(SELECT block_number IS NOT NULL FROM ledger.entries WHERE id = '{entry}')"));
    assert!(is_true(&mut client, "(SELECT state = 'recording baseline' FROM ledger.tracked_tables)"));
}
