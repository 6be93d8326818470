//! A ledger that is dropped, created anew or rebuilt while others wait for it: nothing of the old one gets into the
//! new.
#![cfg(feature = "cluster-tests")]

use crate::common::copy_jsonl::*;
use crate::common::ledger::*;
use crate::common::{send, wait_until, Options};
use std::fs;
use std::thread;

const RENEW: &str = "DROP EXTENSION pg_notary; CREATE EXTENSION pg_notary";

/// Whether the worker waits for the lock that only one sealer has.
fn waits_to_seal(worker: u32) -> String {
    format!("EXISTS (SELECT FROM pg_locks WHERE pid = {worker} AND locktype = 'object' AND NOT granted)")
}

/// The lock that the worker waits for is that of a ledger that is dropped meanwhile.
#[test]
fn a_worker_that_waited_for_a_dropped_ledger_waits_for_the_one_created_in_its_place() {
    let (cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = off"));
    record_many(&mut client, 3);
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    let exported = export(&mut client);
    let worker = worker_pid(&mut client);
    let waits = waits_to_seal(worker);

    // It must not be at work on what was sealed, where it would wait for the lock on a table.
    stop_between_transactions(&mut client, worker);
    client.batch_execute(&format!("BEGIN; {RENEW}")).unwrap();
    send(worker, libc::SIGCONT);
    let mut other = cluster.connect("postgres");
    set(&mut other, "ledger.mirror_mode", "sync");
    // To open a file.
    wait_for(&mut other, &waits);
    send(worker, libc::SIGSTOP);
    client.batch_execute("COMMIT; BEGIN").unwrap();
    import_lines(&mut client, &exported).unwrap();
    send(worker, libc::SIGCONT);
    wait_for(&mut other, &waits);
    client.batch_execute("COMMIT").unwrap();
    wait_until_attached(&mut client);
    record(&mut client);
    assert_intact(&mut client);
}

/// It has an entry to append, and waits to be the only one that seals.
#[test]
fn a_worker_in_mode_async_notes_nothing_of_the_old_file_in_the_new_ledger() {
    let (cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = async"));
    let worker = worker_pid(&mut client);
    record(&mut client);
    wait_for(&mut client, "(SELECT lag_entries = 0 FROM ledger.mirror_status)");
    let old = file(&mut client);
    stop_between_transactions(&mut client, worker);
    record(&mut client);
    client.batch_execute(&format!("BEGIN; {RENEW}")).unwrap();
    send(worker, libc::SIGCONT);
    let mut other = cluster.connect("postgres");
    wait_for(&mut other, &waits_to_seal(worker));
    client.batch_execute("COMMIT").unwrap();
    wait_until_attached(&mut client);
    assert_ne!(file(&mut client), old);
    record(&mut client);
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    wait_for(&mut client, "(SELECT last_block = 1 FROM ledger.mirror_status)");
    assert_intact(&mut client);
}

/// The rollback brings back the new ledger, and not the old one.
#[test]
fn a_drop_that_is_rolled_back_keeps_no_line_of_the_new_ledger_in_the_old_file() {
    let (cluster, mut client) = start(Options::new());
    let worker = worker_pid(&mut client);
    record(&mut client);
    let old = file(&mut client);
    let before = fs::read(&old).unwrap();
    stop_between_transactions(&mut client, worker);
    client
        .batch_execute(&format!("BEGIN; {RENEW}; SAVEPOINT s; DROP EXTENSION pg_notary; ROLLBACK TO s; COMMIT"))
        .unwrap();
    let mut other = cluster.connect("postgres");
    other.batch_execute("SET statement_timeout = '1s'").unwrap();
    error(&mut other, RECORD);
    assert!(fs::read(&old).unwrap() == before, "the old ledger's file was written to");
    send(worker, libc::SIGCONT);
    wait_until_attached(&mut client);
    record(&mut client);
    assert_intact(&mut client);
}

/// The worker that runs still has the old file open.
#[test]
fn nothing_is_recorded_in_the_transaction_that_replaces_the_ledger() {
    for mode in ["sync", "write", "async"] {
        let (_cluster, mut client) = start(quiet().conf(&format!("ledger.mirror_mode = {mode}")));
        client.batch_execute("CREATE TABLE t (i int PRIMARY KEY); INSERT INTO t VALUES (1)").unwrap();
        wait_until_attached(&mut client);
        record(&mut client);
        wait_until_file_has_followed(&mut client);
        let old = file(&mut client);
        let before = fs::read(&old).unwrap();
        client.batch_execute(&format!("BEGIN; {RENEW}; SAVEPOINT s")).unwrap();
        let insert = "INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('test', repeat('ab', 32))";
        for statement in [RECORD, insert, "SELECT ledger.track('t')"] {
            let refused = error(&mut client, statement);
            assert_eq!(refused.message(), "cannot record in the transaction that creates the extension", "{mode}");
            client.batch_execute("ROLLBACK TO s").unwrap();
        }
        client.batch_execute("COMMIT").unwrap();
        wait_until_attached(&mut client);
        assert_ne!(file(&mut client), old);
        assert!(fs::read(&old).unwrap() == before, "the old ledger's file was written to in mode {mode}");
        client.batch_execute("SELECT ledger.track('t')").unwrap();
        record(&mut client);
        seal(&mut client);
        assert_intact(&mut client);
    }
}

/// There, entries wait for a file of their own.
#[test]
fn in_mode_off_what_the_transaction_that_replaces_the_ledger_records_gets_into_the_new_file() {
    let (_cluster, mut client) = start(quiet());
    record(&mut client);
    let old = file(&mut client);
    switch_off(&mut client);
    let before = fs::read(&old).unwrap();
    client.batch_execute(&format!("BEGIN; {RENEW}; {RECORD}; COMMIT")).unwrap();
    switch(&mut client, "sync");
    record(&mut client);
    assert_ne!(file(&mut client), old);
    assert!(fs::read(&old).unwrap() == before, "the old ledger's file was written to");
    seal(&mut client);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 2);
    assert_intact(&mut client);
}

#[test]
fn who_asked_the_worker_of_a_dropped_ledger_is_told() {
    let (cluster, mut client) = start(Options::new());
    let worker = worker_pid(&mut client);
    record(&mut client);
    stop_between_transactions(&mut client, worker);
    let mut asking = cluster.connect("postgres");
    let pid = number(&mut asking, "SELECT pg_backend_pid()");
    let asked = thread::spawn(move || error(&mut asking, "SELECT ledger.mirror_restart()"));
    let is_asking =
        format!("EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Extension')");
    wait_for(&mut client, &is_asking);
    client.batch_execute("DROP EXTENSION pg_notary").unwrap();
    send(worker, libc::SIGCONT);
    wait_until("the worker is gone", PATIENCE, || {
        number(&mut client, &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {worker}")) == 0
    });
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    let error = in_time("it is told", move || asked.join().unwrap());
    assert!(all_text(&error).contains("The ledger was dropped."), "{error:?}");
    record(&mut client);
    assert_intact(&mut client);
}
