//! Lines that are voided although somebody may have been told that their transactions had committed: of those the log
//! warns, and of no others. What a promoted standby lacks is in standby.rs.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{send, wait_until, Cluster, Options, Stop};
use std::fs;
use std::path::Path;

/// Its WAL locations only grow, so by them nothing is missing.
#[test]
fn what_a_reset_of_the_wal_has_lost_is_not_voided_in_silence() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    record(&mut client);
    let path = file(&mut client);
    wait_until_attachment_is_noted(&mut client);
    client.batch_execute("CHECKPOINT").unwrap();
    let lost = record_many(&mut client, 5);
    drop(client);
    cluster.kill9_everything();
    fs::remove_file(cluster.data_dir().join("postmaster.pid")).unwrap();
    cluster.run("pg_resetwal", &["-f", cluster.data_dir().to_str().unwrap()]);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    cluster.wait_for_log("WARNING:  pg_notary voids 5 lines of mirror file");
    cluster.wait_for_log("its WAL was reset (pg_resetwal)");
    let lines = lines(&path);
    let mut voided = voided_ids(&lines);
    voided.sort();
    let mut expected = lost;
    expected.sort();
    assert_eq!(voided, expected);
    assert!(of_type(&lines, "void")[0]["reason"].as_str().unwrap().contains("has not recovered from the crash"));
    record(&mut client);
    assert_intact(&mut client);
    // What a regular stop leaves is no such thing, nor is a crash.
    client.batch_execute("CREATE TABLE skew (n int)").unwrap();
    drop(client);
    cluster.restart(Stop::Fast);
    // A stop before the writer has the file may raise a doubt that is not warranted.
    record(&mut cluster.connect("postgres"));
    wait_until("the writer has the file", PATIENCE, || is_as_noted(&path));
    fail_a_commit(&cluster, 2);
    cluster.restart(Stop::Fast);
    cluster.restart(Stop::Immediate);
    // A stop while the file is being opened may raise a doubt that is not warranted.
    wait_until_attached(&mut cluster.connect("postgres"));
    cluster.restart(Stop::Fast);
    // Nor is what a process leaves behind that was killed in a server which was started after a regular stop.
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute("TRUNCATE skew").unwrap();
    fail_a_commit(&cluster, 2);
    let voided = || cluster.log().matches("voids 2 lines").count();
    let before = voided();
    send(worker, libc::SIGKILL);
    wait_until("the next worker voids them", PATIENCE, || voided() > before);
    wait_until("the server is up again", PATIENCE, || {
        cluster.try_connect("postgres").is_ok_and(|mut client| client.simple_query(RECORD).is_ok())
    });
    assert_eq!(cluster.log().matches("that this database does not have").count(), 1, "{}", cluster.log());
}

/// Why the WAL is reset: the server does not start. What it would have recovered is lost then.
#[test]
fn what_a_reset_of_the_wal_has_lost_after_a_start_that_failed_is_not_voided_in_silence() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    record(&mut client);
    wait_until_attachment_is_noted(&mut client);
    // What the reset begins with is then behind all that was written.
    client.batch_execute("SELECT pg_switch_wal()").unwrap();
    client.batch_execute("CHECKPOINT").unwrap();
    record_many(&mut client, 5);
    drop(client);
    cluster.kill9_everything();
    let data = cluster.data_dir();
    for segment in fs::read_dir(data.join("pg_wal")).unwrap().map(|entry| entry.unwrap().path()) {
        if segment.is_file() {
            fs::remove_file(segment).unwrap();
        }
    }
    assert!(cluster.try_start_again().is_err(), "a server without its WAL has started");
    fs::remove_file(data.join("postmaster.pid")).ok();
    cluster.run("pg_resetwal", &["-f", data.to_str().unwrap()]);
    cluster.start_again();
    wait_until_attached(&mut cluster.connect("postgres"));
    cluster.wait_for_log("WARNING:  pg_notary voids 5 lines of mirror file");
    cluster.wait_for_log("its WAL was reset (pg_resetwal)");
}

/// The server has recovered, and was stopped, before anybody could open the file: nothing is lost, and nothing says so.
#[test]
fn a_regular_stop_before_the_file_could_be_opened_after_a_crash_raises_no_doubt() {
    raises_no_doubt(|cluster, _, path, elsewhere| {
        cluster.kill9_everything();
        fs::rename(path, elsewhere).unwrap();
        cluster.start_again();
    });
}

/// The postmaster goes on.
#[test]
fn a_regular_stop_before_the_file_could_be_opened_after_a_crash_of_one_process_raises_no_doubt() {
    raises_no_doubt(|cluster, worker, path, elsewhere| {
        fs::rename(path, elsewhere).unwrap();
        send(worker, libc::SIGKILL);
        cluster.wait_for_log("all server processes terminated; reinitializing");
    });
}

/// It recovers in single-user mode, where nothing else runs.
#[test]
fn a_recovery_in_single_user_mode_raises_no_doubt() {
    raises_no_doubt(|cluster, _, path, elsewhere| {
        cluster.kill9_everything();
        fs::rename(path, elsewhere).unwrap();
        let data = cluster.data_dir();
        fs::remove_file(data.join("postmaster.pid")).ok();
        cluster.run("postgres", &["--single", "-D", data.to_str().unwrap(), "postgres"]);
        cluster.start_again();
    });
}

/// `crash` has the server crash, and moves the file away before it is opened.
fn raises_no_doubt(crash: impl FnOnce(&Cluster, u32, &Path, &Path)) {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    client.batch_execute("CREATE TABLE skew (n int)").unwrap();
    record(&mut client);
    let path = file(&mut client);
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    fail_a_commit(&cluster, 2);
    drop(client);
    let elsewhere = cluster.scratch_dir().join("elsewhere");
    crash(&cluster, worker, &path, &elsewhere);
    let mut client = cluster.reconnect();
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    drop(client);
    cluster.stop(Stop::Fast);
    fs::rename(&elsewhere, &path).unwrap();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    cluster.wait_for_log("voids 2 lines");
    assert!(!cluster.log().contains("that this database does not have"), "{}", cluster.log());
    record(&mut client);
    assert_intact(&mut client);
}
