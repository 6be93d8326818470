//! What a superuser does to pending entries does not go unnoticed once the file is opened again: the worker repairs the
//! file after crashes and aborts, and must not take a forgery for one of these, nor one of these for a forgery.
//!
//! Needs an extension that was built with the feature `fault-injection`.
#![cfg(feature = "cluster-tests")]

use crate::common::diverged::assert_diverged;
use crate::common::faults::set_fault;
use crate::common::ledger::*;
use crate::common::{make_directory, send, wait_until, Cluster, Stop};
use postgres::Client;
use std::fs;

const VANISHED: &str = "although its transaction was not rolled back";
const UNEXPECTED: &str = "that should have had one";

/// One pending entry about a row, one recorded by hand, and the ids of both.
fn start_with_pending() -> (Cluster, Client, [String; 2]) {
    let (cluster, mut client) = start(quiet());
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT ledger.track('t')").unwrap();
    seal(&mut client);
    let by_hand = record(&mut client);
    client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
    let of_row = value(&mut client, "SELECT id FROM ledger.entries_pending WHERE entry_type = 'table_insert'");
    (cluster, client, [of_row, by_hand])
}

/// Does something to the pending entries past their triggers, and puts these back.
fn past_the_triggers(client: &mut Client, sql: &str) {
    let of_table =
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'ledger.entries_pending'::regclass AND NOT tgisinternal";
    let enable: String = column(client, of_table)
        .iter()
        .map(|trigger| format!("ALTER TABLE ledger.entries_pending ENABLE ALWAYS TRIGGER {trigger};"))
        .collect();
    let disable = "ALTER TABLE ledger.entries_pending DISABLE TRIGGER ALL";
    client.batch_execute(&format!("BEGIN; {disable}; {sql}; {enable} COMMIT")).unwrap();
}

fn remove(client: &mut Client, id: &str) {
    let keep = format!("CREATE TABLE IF NOT EXISTS kept AS SELECT * FROM ledger.entries_pending WHERE id = '{id}'");
    client.batch_execute(&keep).unwrap();
    past_the_triggers(client, &format!("DELETE FROM ledger.entries_pending WHERE id = '{id}'"));
}

/// The row is named, and once it is back all is as it was.
#[track_caller]
fn assert_not_voided(client: &mut Client, id: &str) {
    let path = file(client);
    assert_diverged(client, &path, VANISHED);
    let problem = value(client, "SELECT problem FROM ledger.mirror_status");
    assert!(problem.contains(id), "{problem}");
    // Nor by an administrator who takes the file for one that is behind.
    let refused = error(client, "SELECT ledger.mirror_catch_up()");
    assert!(all_text(&refused).contains(VANISHED), "{refused:?}");
    assert!(ids_in_file(&path).contains(id), "it was voided");
    assert_eq!(verdict(client)["overall_valid"], false);
    past_the_triggers(client, "INSERT INTO ledger.entries_pending SELECT * FROM kept");
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_intact(client);
}

fn end_worker(client: &mut Client) {
    let worker = worker_pid(client);
    client.batch_execute(&format!("SELECT pg_terminate_backend({worker})")).unwrap();
    wait_until("another worker runs", PATIENCE, || worker_pid(client) != worker);
}

#[test]
fn a_pending_entry_that_was_removed_is_not_voided_by_the_next_worker() {
    for which in [0, 1] {
        let (_cluster, mut client, ids) = start_with_pending();
        remove(&mut client, &ids[which]);
        end_worker(&mut client);
        assert_not_voided(&mut client, &ids[which]);
    }
}

#[test]
fn a_pending_entry_that_was_removed_is_not_voided_when_the_mirror_is_switched_on_again() {
    let (_cluster, mut client, ids) = start_with_pending();
    remove(&mut client, &ids[1]);
    switch_off(&mut client);
    set(&mut client, "ledger.mirror_mode", "write");
    assert_not_voided(&mut client, &ids[1]);
}

/// The number of its transaction tells that it has committed.
#[test]
fn a_pending_entry_about_a_row_that_was_removed_is_not_voided_after_a_restart_either() {
    let (cluster, mut client, ids) = start_with_pending();
    remove(&mut client, &ids[0]);
    drop(client);
    cluster.restart(Stop::Fast);
    assert_not_voided(&mut cluster.connect("postgres"), &ids[0]);
}

/// Its line names the transaction that has tracked the table, and which has recorded it.
#[test]
fn a_pending_entry_about_a_row_that_was_there_before_is_not_voided_after_a_restart_either() {
    let (cluster, mut client, _) = start_with_pending();
    client.batch_execute("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)").unwrap();
    client.batch_execute("SELECT ledger.track('u')").unwrap();
    let baseline = value(&mut client, "SELECT id FROM ledger.entries_pending WHERE metadata ? 'baseline'");
    remove(&mut client, &baseline);
    drop(client);
    cluster.restart(Stop::Fast);
    assert_not_voided(&mut cluster.connect("postgres"), &baseline);
}

/// A transaction of which the crash has left nothing but the line loses its number to the next one.
#[test]
fn a_crash_before_the_commit_of_an_entry_about_a_row_is_no_removal() {
    let (cluster, mut client, _) = start_with_pending();
    for id in 2..5_usize {
        set_fault(&cluster, "before_commit:kill");
        client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).unwrap_err();
        wait_until("the server restarts", PATIENCE, || cluster.crash_count() == id - 1);
        wait_until("the server is back", PATIENCE, || cluster.try_connect("postgres").is_ok());
        client = cluster.connect("postgres");
        wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
        assert_intact(&mut client);
    }
}

/// Prepared transactions of an earlier run are noted only once the file is open.
#[test]
fn what_was_prepared_before_a_restart_and_is_rolled_back_before_the_file_is_open_is_voided() {
    let (cluster, mut client, _) = start_with_pending();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'p'").unwrap();
    let path = file(&mut client);
    drop(client);
    cluster.stop(Stop::Fast);
    // The worker opens the file, and cannot write the state file.
    let state = path.with_extension("state");
    fs::remove_file(&state).unwrap();
    make_directory(&state);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    client.batch_execute("ROLLBACK PREPARED 'p'").unwrap();
    fs::remove_dir(&state).unwrap();
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    wait_until_file_has_followed(&mut client);
    assert_intact(&mut client);
}

/// What this server had on disk counts, also if the last attempt to open the file has not come to its end.
#[test]
fn a_file_that_is_cut_between_two_attempts_to_open_it_is_refused() {
    let (_cluster, mut client, _) = start_with_pending();
    let path = file(&mut client);
    let state = path.with_extension("state");
    fs::remove_file(&state).unwrap();
    make_directory(&state);
    end_worker(&mut client);
    wait_for(&mut client, "(SELECT problem LIKE '%state file%' FROM ledger.mirror_status)");
    let whole = fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
    let noted = number(&mut client, "SELECT mirror_bytes FROM ledger.log_state");
    assert!(noted <= last as i64, "the database knows of all {} bytes: {noted}", whole.len());
    fs::write(&path, &whole[..=last]).unwrap();
    fs::remove_dir(&state).unwrap();
    assert_diverged(&mut client, &path, &format!("had at least {}", whole.len()));
}

/// What was rolled back is still voided by whichever worker comes to it.
#[test]
fn lines_of_what_was_rolled_back_are_voided_by_the_next_worker() {
    let (cluster, mut client, _) = start_with_pending();
    client.batch_execute("CREATE TABLE skew (n int)").unwrap();
    let path = file(&mut client);
    let mut undone = Vec::new();
    for n in 1..4 {
        let worker = worker_pid(&mut client);
        stop_between_transactions(&mut client, worker);
        let failed = fail_a_commit(&cluster, 2);
        assert!(failed.iter().all(|id| ids_in_file(&path).contains(id)), "it has left no lines");
        undone.extend(failed);
        let prepared = format!("BEGIN; INSERT INTO t VALUES (-{n}); PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'");
        for statement in prepared.split("; ") {
            client.batch_execute(statement).unwrap();
        }
        send(worker, libc::SIGTERM);
        send(worker, libc::SIGCONT);
        wait_until("another worker runs", PATIENCE, || worker_pid(&mut client) != worker);
        wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
        wait_until_file_has_followed(&mut client);
        assert_intact(&mut client);
    }
    let voided = voided_ids(&lines(&path));
    assert!(undone.iter().all(|id| voided.contains(id)) && voided.len() == undone.len() + 3, "{voided:?}");
}

#[test]
fn an_entry_that_was_inserted_past_the_triggers_is_named_when_the_file_gets_its_line() {
    let (cluster, mut client, _) = start_with_pending();
    let insert = "INSERT INTO ledger.entries_pending (entry_type, data_hash) VALUES ('forged', ledger.hash_data('1'))";
    past_the_triggers(&mut client, insert);
    let forged = value(&mut client, "SELECT id FROM ledger.entries_pending WHERE entry_type = 'forged'");
    end_worker(&mut client);
    cluster.wait_for_log(UNEXPECTED);
    assert!(cluster.log().contains(&forged));
}

#[test]
fn entries_that_lawfully_had_no_line_are_not_named_when_they_get_one() {
    let (cluster, mut client, _) = start_with_pending();
    for mode in ["off", "async"] {
        switch(&mut client, mode);
        record_many(&mut client, 3);
        switch(&mut client, "sync");
        wait_until_file_has_followed(&mut client);
        assert_intact(&mut client);
        end_worker(&mut client);
        wait_until_attached(&mut client);
        assert_intact(&mut client);
    }
    // A file that has lost its end, too.
    let path = file(&mut client);
    let whole = fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
    fs::write(&path, &whole[..=last]).unwrap();
    client.simple_query(RECORD).unwrap_err();
    client.simple_query("SELECT ledger.mirror_catch_up()").unwrap();
    assert_intact(&mut client);
    drop(client);
    cluster.restart(Stop::Immediate);
    wait_until_attached(&mut cluster.connect("postgres"));
    assert!(!cluster.log().contains(UNEXPECTED), "{}", cluster.log());
}
