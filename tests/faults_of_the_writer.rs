//! The writer leaves the file as it should, whatever it is doing when it is told to end.
//!
//! Needs an extension that was built with the feature `fault-injection`.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::*;
use crate::common::ledger::*;
use crate::common::stop_at_end::StopAtEnd;
use crate::common::{send, wait_until, Stop};
use postgres::Client;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// DROP DATABASE waits until each process of the server has obeyed a signal.
#[test]
fn a_writer_that_sessions_keep_busy_obeys_signals_and_notes_where_the_file_ends() {
    let (cluster, mut client) = start_small(Network, "sync");
    client.batch_execute("CREATE DATABASE other").unwrap();
    record(&mut client);
    let path = file(&mut client);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop_at_end = StopAtEnd(&stop);
        for _ in 0..8 {
            scope.spawn(|| {
                let mut session = cluster.connect("postgres");
                while !stop.load(Ordering::Acquire) {
                    record(&mut session);
                }
            });
        }
        for _ in 0..2 {
            let noted = state_file(&path)["size"].clone();
            wait_until("the state file follows", PATIENCE, || {
                !state_file(&path).is_null() && state_file(&path)["size"] != noted
            });
        }
        let mut other = cluster.connect("postgres");
        in_time("DROP DATABASE", move || other.batch_execute("DROP DATABASE other").unwrap());
    });
    assert_intact(&mut client);
}

/// To log is to end, if the process was told to.
#[test]
fn a_server_that_stops_while_the_writer_logs_has_everything_on_disk_and_noted() {
    let (cluster, mut client) = start_small(Local, "write");
    record(&mut client);
    let path = file(&mut client);
    // Then a commit that fails takes nothing along.
    let is_on_disk = || is_as_noted(&path) && state_file(&path)["synced"] == state_file(&path)["size"];
    wait_until("all is on disk", PATIENCE, is_on_disk);
    set_fault(&cluster, "write:errors");
    client.simple_query(RECORD).unwrap_err();
    cluster.wait_for_log("pg_notary cannot record in a mirror file");
    set_fault(&cluster, "writer_log:hang");
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    let writer = writer_pid(&mut client);
    // It is about to say so.
    wait_until_hanging(writer);
    record_many(&mut client, 3);
    drop(client);
    thread::scope(|scope| {
        send(writer, libc::SIGTERM);
        let stopping = scope.spawn(|| cluster.stop(Stop::Fast));
        cluster.wait_for_log("received fast shutdown request");
        clear_fault(&cluster);
        stopping.join().unwrap();
    });
    assert!(cluster.log().contains("pg_notary writes mirror file"), "it has not logged");
    assert!(is_on_disk(), "{}", state_file(&path));
    cluster.start_again();
    assert_whole(&cluster, &mut cluster.connect("postgres"));
}

/// A shutdown is the last time that anyone can know of a failed sync.
#[test]
fn lines_that_cannot_be_synced_at_a_shutdown_are_cut_off_and_appended_again_after_the_start() {
    let (cluster, mut client) = start_small(Local, "write");
    record(&mut client);
    let path = file(&mut client);
    let length = || fs::metadata(&path).unwrap().len();
    let is_on_disk = || is_as_noted(&path) && state_file(&path)["synced"] == state_file(&path)["size"];
    wait_until("all is on disk", PATIENCE, is_on_disk);
    let on_disk = length();
    // Otherwise it may sync before the shutdown.
    let writer = stop_writer(&mut client);
    set_fault(&cluster, "sync:errors");
    record_many(&mut client, 3);
    assert!(length() > on_disk, "{}", length());
    drop(client);
    thread::scope(|scope| {
        let stopping = scope.spawn(|| cluster.stop(Stop::Fast));
        cluster.wait_for_log("received fast shutdown request");
        send(writer, libc::SIGCONT);
        stopping.join().unwrap();
    });
    assert_eq!(length(), on_disk);
    clear_fault(&cluster);
    cluster.start_again();
    assert_whole(&cluster, &mut cluster.connect("postgres"));
}

#[test]
fn a_writer_that_exits_in_the_middle_of_a_round_keeps_no_later_commit_waiting() {
    for (mount, mode) in [(Network, "sync"), (Local, "write")] {
        let (cluster, mut client) = start_small(mount, mode);
        let before = writer_pid(&mut client);
        set_fault(&cluster, "before_sync:exit");
        // In mode sync this commit waits for that round, and fails. In mode write the writer syncs later.
        client.simple_query(RECORD).ok();
        wait_until("another writer runs", PATIENCE, || writer_pid(&mut client) != before);
        wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
        assert_whole(&cluster, &mut client);
    }
}

/// 0 while there is none.
fn writer_pid(client: &mut Client) -> u32 {
    let writers = "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'pg_notary writer'";
    number(client, writers) as u32
}
