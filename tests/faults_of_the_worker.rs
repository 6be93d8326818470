//! What the worker is told to do is done, also where its first attempt fails; and what it has been asked and has not
//! begun is not done any more once whoever asked has gone.
//!
//! Needs an extension that was built with the feature `fault-injection`.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::*;
use crate::common::ledger::*;
use crate::common::two_phase::prepare;
use crate::common::{send, wait_until, Options, Stop};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

const RESTART: &str = "SELECT ledger.mirror_restart()";

#[test]
fn what_was_rolled_back_is_voided_though_the_worker_fails_at_the_first_look() {
    let (cluster, mut client) = start_small(Local, "sync");
    record(&mut client);
    let path = file(&mut client);
    client.batch_execute(&format!("BEGIN; {RECORD}; PREPARE TRANSACTION 'p'")).unwrap();
    set_fault(&cluster, "settle_prepared:error");
    client.batch_execute("ROLLBACK PREPARED 'p'").unwrap();
    wait_until("the fault happens", PATIENCE, || !fault_file(&cluster).exists());
    wait_until("the line is voided", PATIENCE, || of_type(&lines(&path), "void").len() == 1);
    assert_whole(&cluster, &mut client);
}

/// The worker counts what is pending before the transaction is decided, and must count again.
#[test]
fn what_is_decided_while_the_worker_comes_is_sealed() {
    let options = Options::new().conf("ledger.block_interval = 1h").conf("ledger.block_size = 3");
    // Others do not wait for a standby that does not come.
    let (cluster, mut client) = start(options.conf("synchronous_commit = local"));
    client.batch_execute("CREATE TABLE app (n int)").unwrap();
    prepare(&mut client, "p", 3);
    drop(client);
    cluster.stop(Stop::Fast);
    cluster.add_conf("synchronous_standby_names = 'nobody'");
    set_fault(&cluster, "look_for_ledger:hang");
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    let decides = Background::run(&cluster, "SET synchronous_commit = on", "COMMIT PREPARED 'p'");
    let waits = format!("(SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = {})", decides.pid);
    wait_for(&mut client, &waits);
    let worker = worker_pid(&mut client);
    clear_fault(&cluster);
    wait_until_attached(&mut client);
    stop_between_transactions(&mut client, worker);
    send(worker, libc::SIGCONT);
    set(&mut client, "synchronous_standby_names", "''");
    decides.ends().unwrap();
    wait_for(&mut client, "(SELECT count(*) = 3 FROM ledger.entries_sealed)");
    assert_whole(&cluster, &mut client);
}

#[test]
fn a_worker_whose_ledger_was_dropped_leaves_though_it_fails_at_the_first_look() {
    let (cluster, mut client) = start_small(Local, "off");
    record(&mut client);
    let worker = worker_pid(&mut client);
    wait_for(&mut client, "(SELECT state = 'off' FROM ledger.mirror_status)");
    set_fault(&cluster, "look_for_extension:error");
    client.batch_execute("DROP EXTENSION pg_notary CASCADE").unwrap();
    wait_until("the fault happens", PATIENCE, || !fault_file(&cluster).exists());
    wait_for(&mut client, &format!("(SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {worker})"));
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record_many(&mut client, 5);
    wait_for(&mut client, "(SELECT pending_count = 0 FROM ledger.chain_stats)");
}

/// The drop waits for the sessions that record, these wait for the worker, and the worker must not wait for the drop.
#[test]
fn a_commit_that_a_drop_of_the_ledger_holds_up_says_whose_it_is() {
    let (cluster, mut client) = start_small(Local, "write");
    record(&mut client);
    set_fault(&cluster, "look_for_extension:hang");
    client.batch_execute("DROP EXTENSION pg_notary CASCADE").unwrap();
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    client.batch_execute(&format!("BEGIN; {RECORD}")).unwrap();
    let drops = Background::run(&cluster, "", "DROP EXTENSION pg_notary CASCADE");
    let waits = format!("EXISTS (SELECT FROM pg_locks WHERE pid = {} AND NOT granted)", drops.pid);
    wait_for(&mut cluster.connect("postgres"), &waits);
    clear_fault(&cluster);
    let failed = error(&mut client, "COMMIT");
    let named = format!("session {} holds the lock on extension pg_notary", drops.pid);
    assert!(all_text(&failed).contains(&named), "{failed:?}");
    drops.ends().unwrap();
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record(&mut client);
    assert_whole(&cluster, &mut client);
}

/// Files beside the mirror that mirror_restart() has put aside.
fn put_aside(path: &Path) -> Vec<PathBuf> {
    let name = format!("{}.", path.file_name().unwrap().to_str().unwrap());
    let beside = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    beside.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&name)).collect()
}

#[test]
fn a_restart_that_is_given_up_before_the_worker_begins_is_not_done() {
    let (cluster, mut client) = start_small(Local, "sync");
    record_many(&mut client, 2);
    let path = file(&mut client);
    for terminate in [false, true] {
        let worker = worker_pid(&mut client);
        stop_between_transactions(&mut client, worker);
        let restart = Background::waiting(&cluster, &mut client, RESTART);
        match terminate {
            true => {
                let pid = restart.pid;
                client.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
                restart.ends().unwrap_err();
                // It is told before it takes back what it has asked for.
                wait_for(&mut client, &format!("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})"));
            }
            false => restart.cancel(&mut client),
        }
        send(worker, libc::SIGCONT);
        assert_whole(&cluster, &mut client);
        assert_eq!(put_aside(&path), Vec::<PathBuf>::new(), "terminate: {terminate}");
    }
    // Nor does it keep others from asking.
    client.batch_execute(RESTART).unwrap();
    assert_eq!(put_aside(&path).len(), 1);
    assert_whole(&cluster, &mut client);
}

#[test]
fn a_restart_that_is_given_up_after_the_worker_has_begun_is_done_and_logged() {
    let (cluster, mut client) = start_small(Local, "sync");
    record_many(&mut client, 2);
    let path = file(&mut client);
    set_fault(&cluster, "before_commit:hang");
    let commits = Background::run(&cluster, "", RECORD);
    wait_until("its line is in the file", PATIENCE, || of_type(&lines(&path), "entry").len() == 3);
    let restart = Background::run(&cluster, "", RESTART);
    // The new file waits for the one who is about to commit.
    wait_until("the old file is put aside", PATIENCE, || put_aside(&path).len() == 1);
    restart.cancel(&mut client);
    clear_fault(&cluster);
    commits.ends().unwrap();
    let kept = put_aside(&path).remove(0);
    cluster.wait_for_log(&format!("the old file is kept as \"{}\"", kept.display()));
    assert_whole(&cluster, &mut client);
    assert_eq!(put_aside(&path), [kept]);
}

/// Entries of a baseline name the transaction that has tracked the table, and which committed long before the one that
/// records them.
#[test]
fn a_stop_while_the_worker_records_what_a_table_had_leaves_lines_that_are_voided() {
    let (cluster, mut client) = start_small(Network, "sync");
    record(&mut client);
    let path = file(&mut client);
    client
        .batch_execute(
            "CREATE TABLE large (id int PRIMARY KEY, note text) WITH (fillfactor = 10);
             INSERT INTO large SELECT n, repeat('x', 500) FROM generate_series(1, 1000) n",
        )
        .unwrap();
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute("SELECT ledger.track('large')").unwrap();
    set_fault(&cluster, "before_sync:hang");
    send(worker, libc::SIGCONT);
    wait_until("its lines are in the file", PATIENCE, || fs::metadata(&path).unwrap().len() > 20_000);
    drop(client);
    thread::scope(|scope| {
        scope.spawn(|| cluster.stop(Stop::Fast));
        wait_until("the worker has ended", PATIENCE, || !Path::new(&format!("/proc/{worker}")).exists());
        clear_fault(&cluster);
    });
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    assert!(!of_type(&lines(&path), "void").is_empty(), "the stop has come too late");
    wait_for(&mut client, "(SELECT state = 'tracked' FROM ledger.tracked_tables)");
    assert_whole(&cluster, &mut client);
}
