//! A database has one worker, also where workers are held up while they start.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{wait_until, Cluster, Options};
use postgres::Client;
use std::thread::sleep;
use std::time::Duration;

/// Workers that wait for the catalog in which they look for the extension.
const HELD_UP: &str = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) \
                       WHERE relation = 'pg_extension'::regclass AND NOT granted AND backend_type = 'pg_notary worker'";

/// A ledger whose worker was ended, and whose next one waits for what the second session has locked.
fn start_with_worker_held_up() -> (Cluster, Client, Client) {
    let (cluster, mut client) = start(Options::new());
    record(&mut client);
    let worker = worker_pid(&mut client);
    let mut locking = cluster.connect("postgres");
    locking.batch_execute("BEGIN; LOCK TABLE pg_extension IN ACCESS EXCLUSIVE MODE").unwrap();
    client.batch_execute(&format!("SELECT pg_terminate_backend({worker})")).unwrap();
    wait_until("another worker is held up", PATIENCE, || number(&mut client, HELD_UP) == 1);
    (cluster, client, locking)
}

/// One worker is at work, and none has had to give way to another in the middle of its work.
fn assert_one_at_work(cluster: &Cluster, client: &mut Client) {
    wait_until("one worker is left", PATIENCE, || number(client, WORKERS) == 1);
    let worker = worker_pid(client);
    record(client);
    seal(client);
    assert_eq!(number(client, "SELECT pid FROM ledger.workers"), i64::from(worker));
    assert_eq!(value(client, "SELECT state FROM ledger.mirror_status"), "attached");
    let log = cluster.log();
    assert!(!log.contains("cannot go on") && !log.contains("cannot record in a mirror file"), "{log}");
    assert_intact(client);
}

#[test]
fn a_worker_that_is_held_up_when_it_starts_is_waited_for() {
    let (cluster, mut client, mut locking) = start_with_worker_held_up();
    // The launcher waits 10 seconds for it to come to work, and 5 more before it tries again what did not work.
    sleep(Duration::from_secs(20));
    assert_eq!(number(&mut client, WORKERS), 1);
    locking.batch_execute("COMMIT").unwrap();
    assert_one_at_work(&cluster, &mut client);
}

/// A new launcher does not know of the worker that the one before has started.
#[test]
fn of_several_workers_that_are_held_up_when_they_start_one_comes_to_work() {
    let (cluster, mut client, mut locking) = start_with_worker_held_up();
    client
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'pg_notary launcher'",
        )
        .unwrap();
    wait_until("two workers are held up", PATIENCE, || number(&mut client, HELD_UP) == 2);
    locking.batch_execute("COMMIT").unwrap();
    assert_one_at_work(&cluster, &mut client);
}
