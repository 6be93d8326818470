//! The lock under which one process seals, or opens the file, and those on the ledger's tables: a session that keeps
//! one holds up no more than it must, and is named to those who wait.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{wait_until, Cluster};
use postgres::error::SqlState;
use postgres::Client;

const APPEND: &str = "SELECT ledger.append_entry('test', '0188ffff-0000-7000-8000-000000000001', repeat('ab', 32))";

/// A session that has sealed and goes on with something else; and its pid.
#[track_caller]
fn idle_after_sealing(cluster: &Cluster) -> (Client, i64) {
    let mut holder = cluster.connect("postgres");
    let pid = number(&mut holder, "SELECT pg_backend_pid()");
    holder.batch_execute(&format!("BEGIN; {SEAL}")).unwrap();
    (holder, pid)
}

/// The view, those who record and those who ask the worker are told which session it is, and wait for nothing.
#[track_caller]
fn assert_named(cluster: &Cluster, client: &mut Client, holder: i64) {
    let named = format!("session {holder} holds the lock on extension pg_notary");
    assert_told(cluster, client, &named, "SELECT ledger.mirror_restart()");
}

#[track_caller]
fn assert_told(cluster: &Cluster, client: &mut Client, named: &str, request: &'static str) {
    wait_for(
        client,
        &format!("(SELECT state = 'failed' AND starts_with(problem, '{named}') FROM ledger.mirror_status)"),
    );
    for statement in [RECORD, request] {
        let mut other = cluster.connect("postgres");
        let refused = in_time(statement, move || error(&mut other, statement));
        assert_eq!(*refused.code(), SqlState::IO_ERROR, "{refused:?}");
        let text = all_text(&refused);
        assert!(text.contains(named) && text.contains("pg_terminate_backend()"), "{text}");
    }
    cluster.wait_for_log(&format!("cannot go on: {named}"));
}

#[test]
fn who_keeps_the_file_from_being_opened_is_named_until_its_transaction_ends() {
    let (cluster, mut client) = start(quiet());
    wait_until_attached(&mut client);
    for end in ["COMMIT", "ROLLBACK"] {
        switch_off(&mut client);
        record_many(&mut client, 3);
        let (mut holder, pid) = idle_after_sealing(&cluster);
        set(&mut client, "ledger.mirror_mode", "sync");
        assert_named(&cluster, &mut client, pid);
        holder.batch_execute(end).unwrap();
        // By itself: nobody records.
        wait_until_attached(&mut client);
        record(&mut client);
        seal(&mut client);
        assert_intact(&mut client);
    }
}

/// The worker waits for the first lock before it looks at the file, and for the second when it has brought the file up
/// to date.
#[test]
fn who_has_locked_a_table_of_the_ledger_does_not_keep_others_waiting_for_the_file() {
    let (cluster, mut client) = start(quiet());
    wait_until_attached(&mut client);
    for (table, mode, request) in [
        ("blocks", "ACCESS EXCLUSIVE", "SELECT ledger.mirror_catch_up()"),
        ("log_state", "SHARE", "SELECT ledger.mirror_restart()"),
    ] {
        switch_off(&mut client);
        record_many(&mut client, 3);
        let mut holder = cluster.connect("postgres");
        let pid = number(&mut holder, "SELECT pg_backend_pid()");
        holder.batch_execute(&format!("BEGIN; LOCK TABLE ledger.{table} IN {mode} MODE")).unwrap();
        set(&mut client, "ledger.mirror_mode", "sync");
        assert_told(&cluster, &mut client, &format!("session {pid} holds a lock on ledger.{table}"), request);
        holder.batch_execute("COMMIT").unwrap();
        // By itself: nobody records.
        wait_until_attached(&mut client);
        record(&mut client);
        seal(&mut client);
        assert_intact(&mut client);
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 8);
}

/// Behind one who only reads: who reads as well would not wait for that one.
#[test]
fn who_waits_for_a_table_of_the_ledger_and_keeps_all_others_waiting_is_named() {
    let (cluster, mut client) = start(quiet());
    wait_until_attached(&mut client);
    switch_off(&mut client);
    record(&mut client);
    let mut reader = cluster.connect("postgres");
    reader.batch_execute("BEGIN; SELECT FROM ledger.blocks").unwrap();
    let mut next = cluster.connect("postgres");
    let pid = number(&mut next, "SELECT pg_backend_pid()");
    let next = waiting(&cluster, next, "BEGIN; LOCK TABLE ledger.blocks; COMMIT");
    set(&mut client, "ledger.mirror_mode", "sync");
    let told = format!("session {pid} waits for a lock on ledger.blocks");
    assert_told(&cluster, &mut client, &told, "SELECT ledger.mirror_catch_up()");
    reader.batch_execute("COMMIT").unwrap();
    next.join().unwrap().unwrap();
    wait_until_attached(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_file_in_use_that_cannot_be_opened_anew_yet_is_used_until_then() {
    let (cluster, mut client) = start(quiet());
    wait_until_attached(&mut client);
    switch(&mut client, "async");
    let mut holder = cluster.connect("postgres");
    holder.batch_execute("BEGIN; LOCK TABLE ledger.log_state IN SHARE MODE").unwrap();
    set(&mut client, "ledger.mirror_mode", "sync");
    cluster.wait_for_log("holds a lock on ledger.log_state");
    let mut other = cluster.connect("postgres");
    in_time("a commit in the file that is there", move || record(&mut other));
    holder.batch_execute("COMMIT").unwrap();
    switch(&mut client, "sync");
    seal(&mut client);
    assert_intact(&mut client);
}

#[test]
fn who_keeps_a_new_worker_from_its_work_is_named_until_its_session_ends() {
    let (cluster, mut client) = start(quiet());
    record(&mut client);
    let (_holder, pid) = idle_after_sealing(&cluster);
    let worker = worker_pid(&mut client);
    client.batch_execute(&format!("SELECT pg_terminate_backend({worker})")).unwrap();
    assert_named(&cluster, &mut client, pid);
    client.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    wait_until_attached(&mut client);
    wait_for(&mut client, "(SELECT state = 'running' FROM ledger.workers)");
    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_prepared_transaction_that_keeps_the_file_from_being_opened_is_named() {
    let (cluster, mut client) = start(quiet());
    record(&mut client);
    switch_off(&mut client);
    let mut holder = cluster.connect("postgres");
    holder.batch_execute("BEGIN; COMMENT ON EXTENSION pg_notary IS 'held'; PREPARE TRANSACTION 'held'").unwrap();
    set(&mut client, "ledger.mirror_mode", "sync");
    let named = "problem LIKE 'a prepared transaction holds the lock on extension pg_notary%'";
    wait_for(&mut client, &format!("(SELECT {named} FROM ledger.mirror_status)"));
    client.batch_execute("ROLLBACK PREPARED 'held'").unwrap();
    wait_until_attached(&mut client);
    record(&mut client);
    assert_intact(&mut client);
}

/// DROP EXTENSION waits for whoever looks at the extension, and all who seal wait behind it.
#[test]
fn who_waits_for_a_stronger_lock_is_named_to_those_behind() {
    let (cluster, mut client) = start(quiet());
    record(&mut client);
    switch_off(&mut client);
    let mut other = cluster.connect("postgres");
    other.batch_execute("BEGIN; SELECT * FROM pg_get_object_address('extension', '{pg_notary}', '{}')").unwrap();
    let mut session = cluster.connect("postgres");
    let pid = number(&mut session, "SELECT pg_backend_pid()");
    let dropping = waiting(&cluster, session, "DROP EXTENSION pg_notary");
    set(&mut client, "ledger.mirror_mode", "sync");
    let named = format!("problem LIKE 'session {pid} waits for the lock on extension pg_notary%'");
    wait_for(&mut client, &format!("(SELECT {named} FROM ledger.mirror_status)"));
    client.batch_execute(&format!("SELECT pg_cancel_backend({pid})")).unwrap();
    assert_eq!(dropping.join().unwrap().unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    wait_until_attached(&mut client);
    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
}

/// The mode can be left again, which no longer asks for the file.
#[test]
fn a_worker_that_cannot_open_the_file_obeys_a_change_of_mode() {
    let (cluster, mut client) = start(quiet());
    // A worker that has just started needs the lock whatever the mode is.
    wait_until_attached(&mut client);
    switch_off(&mut client);
    let (mut holder, pid) = idle_after_sealing(&cluster);
    set(&mut client, "ledger.mirror_mode", "sync");
    assert_named(&cluster, &mut client, pid);
    switch_off(&mut client);
    record(&mut client);
    wait_for(&mut client, "(SELECT state = 'running' FROM ledger.workers)");
    holder.batch_execute("COMMIT").unwrap();
    switch(&mut client, "sync");
    assert_intact(&mut client);
}

/// A change out of mode async has the worker open the file anew.
#[test]
fn a_file_that_cannot_be_opened_anew_yet_is_written_and_voided_as_before() {
    let (cluster, mut client) = start(quiet().conf("ledger.mirror_mode = async"));
    client.batch_execute("CREATE TABLE skew (n int)").unwrap();
    wait_until_attachment_is_noted(&mut client);
    let before = value(&mut client, ATTACHMENT);
    let (mut holder, pid) = idle_after_sealing(&cluster);
    set(&mut client, "ledger.mirror_mode", "sync");
    cluster.wait_for_log(&format!("cannot go on: session {pid} holds the lock on extension pg_notary"));

    let mut sessions = [cluster.connect("postgres"), cluster.connect("postgres")];
    for (session, record) in sessions.iter_mut().zip([RECORD, APPEND]) {
        let sql = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(n) FROM skew; INSERT INTO skew VALUES (1)";
        session.batch_execute(&format!("{sql}; {record}")).unwrap();
    }
    let [mut first, mut second] = sessions;
    in_time("a commit", move || first.batch_execute("COMMIT").unwrap());
    assert_eq!(*error(&mut second, "COMMIT").code(), SqlState::T_R_SERIALIZATION_FAILURE);
    // It waits for the void line.
    in_time("an id used again", move || second.batch_execute(APPEND).unwrap());
    assert_eq!(value(&mut client, "SELECT state FROM ledger.mirror_status"), "attached");
    assert_eq!(value(&mut client, ATTACHMENT), before);

    holder.batch_execute("ROLLBACK").unwrap();
    wait_until("the file is opened anew", PATIENCE, || value(&mut client, ATTACHMENT) != before);
    wait_until_attached(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 2);
}
