//! The mirror modes: what each promises of the file, and that the file holds everything once, whatever the mode was
//! when it was recorded.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::stop_at_end::StopAtEnd;
use crate::common::{send, wait_until, Options, Stop};
use postgres::Client;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[track_caller]
fn wait_for_no_lag(client: &mut Client) {
    wait_for(
        client,
        "(SELECT state = 'attached' AND lag_entries = 0 AND lag_bytes = 0 AND lag_age IS NULL FROM ledger.mirror_status)",
    );
}

#[test]
fn in_mode_write_a_commit_is_in_the_file_at_once_and_on_disk_within_a_second() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = write"));
    let first = record(&mut client);
    wait_for_no_lag(&mut client);
    let syncs = number(&mut client, "SELECT syncs FROM ledger.mirror_status");
    let writer = stop_writer(&mut client);
    let receipt = json(&mut client, "SELECT ledger.hash_and_record('test', '{}')");
    assert_eq!(receipt["file_recorded"], true);
    let ids = ids_in_file(&file(&mut client));
    assert!(ids.contains(&first) && ids.contains(receipt["entry_id"].as_str().unwrap()), "{ids:?}");
    // The commit did not wait for a sync; one follows by itself.
    assert_eq!(number(&mut client, "SELECT syncs FROM ledger.mirror_status"), syncs);
    send(writer, libc::SIGCONT);
    wait_for(&mut client, &format!("(SELECT syncs > {syncs} FROM ledger.mirror_status)"));
    wait_for_no_lag(&mut client);
    // What a busy machine is at may make some of them late; a longer delay would all of them.
    let is_in_time = (0..10).any(|_| time_until_synced(&mut client) < Duration::from_secs(1));
    assert!(is_in_time, "each line took a second or longer");
    assert_complete(&mut client);
}

/// How long it takes from a commit until its line is on disk.
fn time_until_synced(client: &mut Client) -> Duration {
    record(client);
    let since = Instant::now();
    wait_for_no_lag(client);
    since.elapsed()
}

#[test]
fn in_mode_write_a_crash_of_the_server_loses_nothing() {
    let (cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = write").conf("ledger.block_size = 7"));
    let ids: Vec<String> = (0..50).map(|_| record(&mut client)).collect();
    drop(client);
    cluster.kill9_everything();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    let in_file = ids_in_file(&file(&mut client));
    assert!(ids.iter().all(|id| in_file.contains(id)));
    assert_complete(&mut client);
}

/// Whose receipt says that the file has it must not be asked whether the session waited for the WAL.
#[test]
fn what_was_acknowledged_with_synchronous_commit_off_is_there_after_a_crash() {
    for mode in ["sync", "write"] {
        let options = Options::new().conf(&format!("ledger.mirror_mode = {mode}")).conf("wal_writer_delay = 10s");
        let (cluster, mut client) = start(options);
        client.batch_execute("SET synchronous_commit = off").unwrap();
        let receipt = json(&mut client, "SELECT ledger.hash_and_record('test', '{}')");
        assert_eq!(receipt["file_recorded"], true);
        drop(client);
        cluster.kill9_everything();
        cluster.start_again();
        let mut client = cluster.connect("postgres");
        let id = receipt["entry_id"].as_str().unwrap();
        assert!(is_true(&mut client, &format!("EXISTS (SELECT FROM ledger.entries WHERE id = '{id}')")), "{mode}");
        assert_complete(&mut client);
    }
}

/// How much of the file is on disk by the state beside it.
fn synced(path: &Path) -> u64 {
    state_file(path)["synced"].as_u64().unwrap()
}

#[test]
fn the_state_file_has_the_times_of_the_file_as_the_server_has_left_it() {
    for mode in ["sync", "write", "async"] {
        let (cluster, mut client) = start(Options::new().conf(&format!("ledger.mirror_mode = {mode}")));
        record_many(&mut client, 3);
        wait_for_no_lag(&mut client);
        let path = file(&mut client);
        wait_until("the state file is up to date", PATIENCE, || is_as_noted(&path));
        record(&mut client);
        drop(client);
        cluster.stop(Stop::Fast);
        assert!(is_as_noted(&path), "{mode}");
    }
}

#[test]
fn in_mode_write_what_a_crash_of_the_machine_took_from_the_file_is_put_back() {
    let (cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = write"));
    record_many(&mut client, 3);
    wait_for_no_lag(&mut client);
    seal(&mut client);
    let path = file(&mut client);
    wait_for(&mut client, "(SELECT bytes = (pg_stat_file(path)).size FROM ledger.mirror_status)");
    let durable = fs::metadata(&path).unwrap().len();
    wait_until("all is on disk", PATIENCE, || synced(&path) == durable);
    stop_writer(&mut client);
    let lost = record_many(&mut client, 2);
    drop(client);
    cluster.kill9_everything();
    // What was written and not synced is gone, but for a part of a line; the database has all of it.
    assert!(synced(&path) == durable && fs::metadata(&path).unwrap().len() > durable + 20, "nothing is lost");
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(durable + 20).unwrap();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_for_no_lag(&mut client);
    let in_file = ids_in_file(&path);
    assert!(lost.iter().all(|id| in_file.contains(id)));
    assert_complete(&mut client);
}

#[test]
fn in_mode_write_a_failure_to_write_still_fails_the_transaction() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = write"));
    record(&mut client);
    let path = file(&mut client);
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    for _ in 0..3 {
        assert!(all_text(&error(&mut client, RECORD)).contains("No such file"));
    }
    fs::rename(&aside, &path).unwrap();
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 2);
    assert_complete(&mut client);
}

#[test]
fn in_mode_async_the_file_follows_and_nobody_waits_for_it() {
    let (_cluster, mut client) =
        start(Options::new().conf("ledger.mirror_mode = async").conf("ledger.block_size = 10"));
    let receipt = json(&mut client, "SELECT ledger.hash_and_record('test', '{}')");
    assert_eq!(receipt["file_recorded"], false);
    record_many(&mut client, 95);
    wait_for_no_lag(&mut client);
    assert_complete(&mut client);

    // The file is gone: recording and sealing go on, and the lag shows what it lacks.
    let path = file(&mut client);
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    record_many(&mut client, 30);
    wait_for(
        &mut client,
        "(SELECT state = 'failed' AND problem LIKE '%No such file%' AND lag_entries = 30 AND lag_bytes > 30 * 300 \
          AND lag_age > '0' FROM ledger.mirror_status)",
    );
    wait_for(&mut client, "(SELECT entry_count >= 120 FROM ledger.chain_stats)");
    fs::rename(&aside, &path).unwrap();
    wait_for_no_lag(&mut client);
    assert_complete(&mut client);
}

#[test]
fn in_mode_async_a_crash_leaves_no_gap_in_the_file() {
    let (cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = async").conf("ledger.block_size = 7"));
    for _ in 0..5 {
        record_many(&mut client, 40);
        drop(client);
        cluster.kill9_everything();
        cluster.start_again();
        client = cluster.connect("postgres");
        record_many(&mut client, 3);
    }
    wait_for_no_lag(&mut client);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 5 * 43);
    assert_complete(&mut client);
}

#[test]
fn switching_between_all_modes_under_load_leaves_every_line_once() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_size = 20").conf("ledger.block_interval = 1s"));
    client.batch_execute("CREATE TABLE acknowledged (id text)").unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // The last one's transactions do not fit into the buffer.
        let stop = &stop;
        let cluster = &cluster;
        let writers: Vec<_> = [1, 1, 1, 1500]
            .into_iter()
            .map(|entries| {
                scope.spawn(move || {
                    let mut client = cluster.connect("postgres");
                    let insert = format!("INSERT INTO acknowledged {RECORD} FROM generate_series(1, {entries})");
                    while !stop.load(Ordering::Acquire) {
                        client.simple_query(&insert).unwrap();
                        client.simple_query(&format!("BEGIN; {RECORD}; ROLLBACK")).unwrap();
                    }
                })
            })
            .collect();
        let stop_at_end = StopAtEnd(stop);
        let modes = ["write", "async", "off", "async", "sync", "off", "write", "sync", "async", "write", "off", "sync"];
        for mode in modes {
            let goal = number(&mut client, "SELECT count(*) FROM acknowledged") + 60;
            switch(&mut client, mode);
            wait_for(&mut client, &format!("(SELECT count(*) > {goal} FROM acknowledged)"));
        }
        drop(stop_at_end);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    assert_eq!(
        number(&mut client, "SELECT count(*) FROM ledger.entries"),
        number(&mut client, "SELECT count(*) FROM acknowledged")
    );
    assert_complete(&mut client);
}

#[test]
fn a_transaction_that_began_without_the_file_is_in_it_after_the_switch() {
    let (cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = off"));
    let mut other = cluster.connect("postgres");
    other.batch_execute(&format!("BEGIN; {RECORD}")).unwrap();
    switch(&mut client, "sync");
    record(&mut client);
    other.batch_execute("COMMIT").unwrap();
    wait_until("its line is there", PATIENCE, || ids_in_file(&file(&mut client)).len() == 2);
    assert_complete(&mut client);
}

#[test]
fn what_was_owed_to_the_file_at_a_switch_and_appended_leaves_no_lag() {
    let (cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = async"));
    wait_for_no_lag(&mut client);
    let mut others = [2, 1].map(|entries| {
        let mut other = cluster.connect("postgres");
        other.batch_execute(&format!("BEGIN; {RECORD} FROM generate_series(1, {entries})")).unwrap();
        other
    });
    switch(&mut client, "sync");
    for (other, entries) in others.iter_mut().zip([2, 3]) {
        other.batch_execute("COMMIT").unwrap();
        wait_until("the lines are there", PATIENCE, || ids_in_file(&file(&mut client)).len() == entries);
        wait_for_no_lag(&mut client);
    }
    assert_complete(&mut client);
}

#[test]
fn recovery_reads_a_bounded_tail_also_under_load_and_with_an_open_prepared_transaction() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_size = 10"));
    client.batch_execute(&format!("BEGIN; {RECORD}; PREPARE TRANSACTION 'stays'")).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = cluster.connect("postgres");
                while !stop.load(Ordering::Acquire) {
                    client.simple_query(RECORD).unwrap();
                }
            });
        }
        let _stop_at_end = StopAtEnd(&stop);
        // The tail is a small part of the file while nobody ever pauses, and stays so.
        for bytes in [1 << 20, 2 << 20] {
            let is_bounded =
                format!("(SELECT bytes > {bytes} AND recovery_bytes < bytes / 4 FROM ledger.mirror_status)");
            wait_until("there is much more than the tail", 5 * PATIENCE, || is_true(&mut client, &is_bounded));
        }
    });
    drop(client);
    cluster.kill9_everything();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    record(&mut client);
    assert_eq!(number(&mut client, "SELECT prepared_transactions FROM ledger.mirror_status"), 1);
    client.batch_execute("COMMIT PREPARED 'stays'").unwrap();
    assert_complete(&mut client);
}

#[test]
fn in_mode_off_a_file_that_was_never_begun_is_neither_valid_nor_a_failure() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = off"));
    record(&mut client);
    client.batch_execute(SEAL).unwrap();
    let verdict = json(&mut client, "SELECT ledger.verify_file_integrity()");
    assert!(verdict["valid"].is_null() && verdict["message"].as_str().unwrap().contains("off"), "{verdict}");
    switch(&mut client, "sync");
    wait_until_file_has_followed(&mut client);
    switch_off(&mut client);
    let verdict = json(&mut client, "SELECT ledger.verify_file_integrity()");
    assert!(verdict["valid"] == true && verdict["entry_count"] == 1, "{verdict}");
}
