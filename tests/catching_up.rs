//! What the file lacks is appended whole and once, whatever others do meanwhile: entries from before the file was there, those of
//! prepared transactions, and block lines, which never stand before their entries.
//!
//! Needs an extension that was built with the feature `fault-injection`.
#![cfg(feature = "cluster-tests")]

mod common;

use common::faults::*;
use common::ledger::*;
use common::{send, wait_until, Cluster, Options, Stop};
use postgres::Client;
use std::fs;
use std::thread;

const SEAL: &str = "SELECT * FROM ledger.commit_block()";

/// Sealing only where a test asks for it.
fn quiet(mode: &str) -> Options {
    let options = Options::new().conf("ledger.block_interval = 1h").conf("ledger.block_size = 10000");
    options.conf(&format!("ledger.mirror_mode = {mode}"))
}

fn prepare(cluster: &Cluster, gid: &str, entries: usize) {
    let mut session = cluster.connect("postgres");
    let insert = format!("{RECORD} FROM generate_series(1, {entries})");
    session.batch_execute(&format!("BEGIN; {insert}; PREPARE TRANSACTION '{gid}'")).unwrap();
}

fn syncs(client: &mut Client) -> i64 {
    number(client, "SELECT syncs FROM ledger.mirror_status")
}

#[test]
fn a_block_of_entries_that_have_no_lines_yet_has_its_line_behind_theirs() {
    let (cluster, mut client) = start(quiet("async"));
    record_many(&mut client, 3);
    let mut sealer = cluster.connect("postgres");
    // Its mode is what it was when it first recorded.
    sealer.batch_execute(&format!("BEGIN; {RECORD}")).unwrap();
    switch(&mut client, "sync");
    sealer.batch_execute(SEAL).unwrap();
    let mut other = cluster.connect("postgres");
    let pid = number(&mut other, "SELECT pg_backend_pid()");
    let waiting = thread::spawn(move || other.simple_query(SEAL).map(|_| ()));
    wait_for(&mut client, &format!("(SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid})"));
    sealer.batch_execute("COMMIT").unwrap();
    // It may be told to try again.
    waiting.join().unwrap().ok();
    wait_until_attached(&mut client);
    wait_until("sealing works", PATIENCE, || client.simple_query(SEAL).is_ok());
    assert_complete(&mut client);
}

#[test]
fn a_prepared_transaction_that_is_committed_while_the_file_is_brought_up_to_date_is_in_it() {
    let (cluster, mut client) = start(quiet("off"));
    record_many(&mut client, 3);
    prepare(&cluster, "without a file", 2);
    set_fault(&cluster, "before_write:hang");
    set(&mut client, "ledger.mirror_mode", "sync");
    let worker = worker_pid(&mut client);
    // Before Postgres 17 an extension cannot name its wait events.
    let waits = "(SELECT wait_event ~ '^(PgNotaryMirror.*|Extension)$' FROM pg_stat_activity WHERE pid";
    let is_repairing = "(SELECT state = 'repairing' FROM ledger.mirror_status)";
    wait_for(&mut client, &format!("{is_repairing} AND {waits} = {worker})"));
    client.batch_execute("COMMIT PREPARED 'without a file'").unwrap();
    clear_fault(&cluster);
    wait_until_attached(&mut client);
    assert_eq!(ids_in_table(&mut client).len(), 5);
    assert_complete(&mut client);
}

#[test]
fn the_lines_of_a_large_prepared_transaction_are_appended_together() {
    let (cluster, mut client) = start(quiet("off"));
    prepare(&cluster, "large", 3000);
    let before = syncs(&mut client);
    switch(&mut client, "sync");
    let taken = syncs(&mut client) - before;
    assert!(taken < 100, "{taken} syncs");
    prepare(&cluster, "small", 2);
    client.batch_execute("ROLLBACK PREPARED 'large'").unwrap();
    wait_until("the lines are voided", PATIENCE, || ids_in_file(&file(&mut client)).len() == 2);
    client.batch_execute("COMMIT PREPARED 'small'").unwrap();
    client.batch_execute(SEAL).unwrap();
    wait_until_sealed(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_file_that_was_caught_up_is_read_from_where_it_is_settled_itself() {
    let (cluster, mut client) = start(quiet("sync"));
    record(&mut client);
    let path = file(&mut client);
    let older = fs::read(&path).unwrap();
    // Lines that are not there any more when the file is caught up.
    for gid in ["a", "b"] {
        prepare(&cluster, gid, 20);
        client.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).unwrap();
        wait_until("the lines are voided", PATIENCE, || ids_in_file(&path).len() == 1);
    }
    client.batch_execute(SEAL).unwrap();
    let settled = "SELECT settled_bytes FROM ledger.log_state";
    wait_until("the place is settled", PATIENCE, || {
        record(&mut client);
        client.batch_execute(SEAL).unwrap();
        number(&mut client, settled) > 3 * older.len() as i64
    });
    let settled = number(&mut client, settled);
    drop(client);
    cluster.stop(Stop::Fast);
    fs::write(&path, &older).unwrap();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    client.simple_query("SELECT ledger.mirror_catch_up()").unwrap();
    wait_until_attached(&mut client);
    assert!((fs::metadata(&path).unwrap().len() as i64) < settled, "the file is as long as the one before");
    record(&mut client);
    drop(client);
    cluster.stop(Stop::Fast);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    assert_complete(&mut client);
}

#[test]
fn a_block_whose_line_is_in_the_file_survives_a_crash_whatever_synchronous_commit_was() {
    // So that nobody else writes the WAL.
    let (cluster, mut client) = start(quiet("sync").conf("wal_writer_delay = 10s"));
    record_many(&mut client, 3);
    let worker = worker_pid(&mut client);
    let mut sealer = cluster.connect("postgres");
    stop_between_transactions(&mut client, worker);
    sealer.batch_execute(&format!("SET synchronous_commit = off; {SEAL}")).unwrap();
    // The next one finds nothing to seal, and writes the line of the block before.
    client.batch_execute(SEAL).unwrap();
    assert_eq!(of_type(&lines(&file(&mut client)), "block").len(), 1);
    drop((client, sealer));
    cluster.kill9_everything();
    send(worker, libc::SIGCONT);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    record(&mut client);
    assert_complete(&mut client);
}
