//! Commands that need a database for themselves (DROP, ALTER and CREATE DATABASE): its worker stays away meanwhile, and
//! comes back however they end.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::*;
use crate::common::ledger::*;
use crate::common::{send, wait_until, Cluster, Options};
use postgres::error::SqlState;
use postgres::Client;
use std::fs;
use std::thread;

/// A database with a ledger and its worker, and without a session.
fn create_with_ledger(cluster: &Cluster, client: &mut Client, name: &str) {
    client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    let mut session = cluster.connect(name);
    session.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record(&mut session);
    worker_pid(&mut session);
    close(session, client);
}

fn has_worker(client: &mut Client, database: &str) -> bool {
    number(client, &format!("{WORKERS} AND datname = '{database}'")) == 1
}

#[test]
fn a_worker_does_not_keep_its_database_from_being_dropped_renamed_or_copied() {
    let (cluster, mut client) = start(Options::new());
    create_with_ledger(&cluster, &mut client, "old");

    client.batch_execute("CREATE DATABASE copy TEMPLATE old").unwrap();
    wait_until("the worker of the template is back", PATIENCE, || has_worker(&mut client, "old"));
    client.batch_execute("ALTER DATABASE old RENAME TO renamed").unwrap();
    wait_until("the worker is back", PATIENCE, || has_worker(&mut client, "renamed"));
    client.batch_execute("DROP DATABASE renamed").unwrap();
    client.batch_execute("DROP DATABASE copy WITH (FORCE)").unwrap();
    wait_until("one worker is left", PATIENCE, || number(&mut client, WORKERS) == 1);
}

/// It has connected and has not found out yet that there is a ledger, so it is not known to be the database's worker.
#[test]
fn a_worker_that_is_just_starting_does_not_keep_its_database_from_being_dropped_renamed_or_copied() {
    let (cluster, mut client) = start(Options::new());
    worker_pid(&mut client);
    create_with_ledger(&cluster, &mut client, "old");
    // The launcher sends no worker to a template, so it sends one to the copy at once.
    client.batch_execute("ALTER DATABASE old IS_TEMPLATE true").unwrap();
    for command in ["ALTER DATABASE new RENAME TO renamed", "CREATE DATABASE copy TEMPLATE new", "DROP DATABASE new"] {
        client.batch_execute("DROP DATABASE IF EXISTS new").unwrap();
        set_fault(&cluster, "look_for_ledger:hang");
        client.batch_execute("CREATE DATABASE new TEMPLATE old").unwrap();
        wait_until("its worker has connected", PATIENCE, || has_worker(&mut client, "new"));
        let oid = number(&mut client, "SELECT oid::bigint FROM pg_database WHERE datname = 'new'");
        let mut session = cluster.connect("postgres");
        let running = thread::spawn(move || session.batch_execute(command));
        let needs_it = "classid = 'pg_database'::regclass AND mode IN ('ShareLock', 'AccessExclusiveLock')";
        wait_for(&mut client, &format!("EXISTS (SELECT FROM pg_locks WHERE objid = {oid} AND {needs_it})"));
        clear_fault(&cluster);
        running.join().unwrap().unwrap();
    }
    for database in ["renamed", "copy"] {
        record(&mut cluster.connect(database));
    }
    wait_for(&mut client, "(SELECT count(*) = 3 FROM ledger.workers WHERE state = 'running')");
}

/// CREATE DATABASE copies template1 unless it is told otherwise. The launcher leaves templates alone.
#[test]
fn a_worker_does_not_keep_template1_from_being_copied_without_being_named() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute("ALTER DATABASE template1 IS_TEMPLATE false").unwrap();
    let mut template = cluster.connect("template1");
    template.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record(&mut template);
    worker_pid(&mut template);
    close(template, &mut client);
    client.batch_execute("CREATE DATABASE plain").unwrap();
    wait_until("the worker of the template is back", PATIENCE, || has_worker(&mut client, "template1"));
}

#[test]
fn a_drop_that_a_savepoint_takes_back_leaves_worker_and_file_as_they_were() {
    let (_cluster, mut client) = start(Options::new());
    record(&mut client);
    wait_until_attachment_is_noted(&mut client);
    let worker = worker_pid(&mut client);
    let attachment = value(&mut client, ATTACHMENT);
    client
        .batch_execute(
            "BEGIN; SAVEPOINT s; DROP EXTENSION pg_notary CASCADE; ROLLBACK TO s; CREATE TABLE app (n int); COMMIT",
        )
        .unwrap();
    record(&mut client);
    seal(&mut client);
    assert_eq!((worker_pid(&mut client), value(&mut client, ATTACHMENT)), (worker, attachment));
    assert_intact(&mut client);
}

#[test]
fn a_command_that_one_may_not_run_keeps_no_worker_from_its_work() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE ROLE outsider LOGIN").unwrap();
    client.batch_execute("CREATE DATABASE other").unwrap();
    record(&mut client);
    wait_until_attached(&mut client);
    let worker = worker_pid(&mut client);
    let mut outsider = cluster.connect_as("outsider", "other");
    let commands = [
        "DROP DATABASE postgres",
        "ALTER DATABASE postgres RENAME TO mine",
        "ALTER DATABASE postgres CONNECTION LIMIT 1",
        "CREATE DATABASE mine TEMPLATE postgres",
    ];
    for command in commands {
        // What fails in a savepoint leaves the transaction open.
        outsider.batch_execute("BEGIN; SAVEPOINT here").unwrap();
        outsider.batch_execute(command).unwrap_err();
        outsider.batch_execute("ROLLBACK TO here").unwrap();
        assert_eq!(value(&mut client, "SELECT state FROM ledger.workers"), "running", "{command}");
        client.batch_execute(&format!("SET statement_timeout = '25s'; {RECORD}; RESET statement_timeout")).unwrap();
        outsider.batch_execute("ROLLBACK").unwrap();
        outsider.batch_execute(command).unwrap_err();
    }
    assert_eq!(worker_pid(&mut client), worker, "the worker has left");
}

#[test]
fn the_workers_of_all_databases_that_one_transaction_renames_come_back() {
    let (cluster, mut client) = start(Options::new());
    for database in ["one", "two"] {
        client.batch_execute(&format!("CREATE DATABASE {database}")).unwrap();
        let mut other = cluster.connect(database);
        other.batch_execute("CREATE EXTENSION pg_notary").unwrap();
        record(&mut other);
        close(other, &mut client);
    }
    let rename = |from: &str, to: &str| format!("ALTER DATABASE {from} RENAME TO {to}");
    client.batch_execute(&format!("BEGIN; {}; {}; COMMIT", rename("one", "three"), rename("two", "four"))).unwrap();
    for database in ["three", "four"] {
        record(&mut cluster.connect(database));
    }
    wait_for(&mut client, "(SELECT count(*) = 3 FROM ledger.workers WHERE state = 'running')");
}

/// A cluster with a ledger in the database `app` too, and a session there.
fn start_with_app(options: Options) -> (Cluster, Client, Client) {
    let (cluster, mut client) = start(options);
    client.batch_execute("CREATE DATABASE app").unwrap();
    let mut app = cluster.connect("app");
    app.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record(&mut app);
    (cluster, client, app)
}

/// The same with its worker stopped, whose pid this gives.
fn start_with_stopped_worker() -> (Cluster, Client, u32) {
    let (cluster, mut client, mut app) = start_with_app(Options::new());
    let worker = worker_pid(&mut app);
    close(app, &mut client);
    stop_between_transactions(&mut client, worker);
    (cluster, client, worker)
}

/// It tries again more and more seldom. In mode `async` nobody who records makes it try.
#[test]
fn a_worker_that_fails_and_waits_for_a_lock_when_it_is_called_leaves_at_once() {
    // A lock that it waits for no longer than this would still wake it afterwards.
    let (cluster, mut client, mut app) = start_with_app(Options::new().conf("deadlock_timeout = 1ms"));
    let path = file(&mut app);
    let worker = worker_pid(&mut app);
    app.batch_execute("BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'p'").unwrap();
    fs::rename(&path, path.with_extension("aside")).unwrap();
    for _ in 0..8 {
        error(&mut app, RECORD);
    }
    set(&mut app, "ledger.mirror_mode", "async");
    wait_for(&mut app, "(SELECT mode = 'async' AND state = 'failed' FROM ledger.mirror_status)");
    app.batch_execute("BEGIN; LOCK TABLE ledger.baselines IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut other = cluster.connect("app");
    other.batch_execute("ROLLBACK PREPARED 'p'").unwrap();
    close(other, &mut client);
    wait_for(&mut client, &format!("EXISTS (SELECT FROM pg_locks WHERE pid = {worker} AND NOT granted)"));
    let mut session = cluster.connect("postgres");
    let renaming = thread::spawn(move || session.batch_execute("ALTER DATABASE app RENAME TO renamed"));
    wait_for(&mut client, "(SELECT state = 'paused' FROM ledger.workers WHERE database = 'app')");
    drop(app);
    in_time("renaming the database", || renaming.join().unwrap()).unwrap();
}

/// Begins to copy `app`, which waits for its worker to leave; returns the session's pid.
fn begin_to_copy(cluster: &Cluster, client: &mut Client) -> (thread::JoinHandle<Result<(), postgres::Error>>, i64) {
    let mut session = cluster.connect("postgres");
    let pid = number(&mut session, "SELECT pg_backend_pid()");
    let copying = thread::spawn(move || session.batch_execute("CREATE DATABASE copy TEMPLATE app"));
    wait_for(client, "(SELECT state = 'paused' FROM ledger.workers WHERE database = 'app')");
    (copying, pid)
}

#[test]
fn a_command_that_fails_brings_no_worker_back_while_another_needs_the_database() {
    let (cluster, mut client, worker) = start_with_stopped_worker();
    let (copying, _) = begin_to_copy(&cluster, &mut client);
    let mut impatient = cluster.connect("postgres");
    impatient.batch_execute("SET statement_timeout = '300ms'").unwrap();
    let failed = error(&mut impatient, "ALTER DATABASE app SET TABLESPACE nowhere");
    assert_eq!(*failed.code(), SqlState::QUERY_CANCELED, "it waits for the worker as well");
    send(worker, libc::SIGCONT);
    in_time("copying the database", || copying.join().unwrap()).unwrap();
    for database in ["app", "copy"] {
        wait_until("there is a worker", PATIENCE, || has_worker(&mut client, database));
        record(&mut cluster.connect(database));
    }
}

#[test]
fn a_session_that_dies_while_it_keeps_a_worker_away_lets_it_go_on() {
    let (cluster, mut client, worker) = start_with_stopped_worker();
    for _ in 0..2 {
        let (copying, pid) = begin_to_copy(&cluster, &mut client);
        client.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
        in_time("the session that is terminated", || copying.join().unwrap()).unwrap_err();
        wait_for(&mut client, "(SELECT state <> 'paused' FROM ledger.workers WHERE database = 'app')");
    }
    send(worker, libc::SIGCONT);
    let mut app = cluster.connect("app");
    record(&mut app);
    seal(&mut app);
    close(app, &mut client);
    client.batch_execute("CREATE DATABASE copy TEMPLATE app").unwrap();
}

#[test]
fn a_worker_stays_away_when_only_a_later_savepoint_is_rolled_back() {
    let (cluster, mut client, worker) = start_with_stopped_worker();
    send(worker, libc::SIGCONT);
    let paused = "(SELECT state = 'paused' FROM ledger.workers WHERE database = 'app')";
    client.batch_execute("BEGIN; ALTER DATABASE app RENAME TO renamed").unwrap();
    client.batch_execute("SAVEPOINT here; SELECT 1; ROLLBACK TO here").unwrap();
    let mut other = cluster.connect("postgres");
    assert!(is_true(&mut other, paused));
    // Both of them are given back once: by the savepoint, and by the transaction that takes the other over.
    client.batch_execute("SAVEPOINT kept; ALTER DATABASE renamed RENAME TO app; RELEASE kept").unwrap();
    client.batch_execute("SAVEPOINT gone; ALTER DATABASE app RENAME TO renamed; ROLLBACK TO gone").unwrap();
    assert!(is_true(&mut other, paused));
    client.batch_execute("ROLLBACK").unwrap();
    wait_for(&mut other, "(SELECT state = 'running' FROM ledger.workers WHERE database = 'app')");
    record(&mut cluster.connect("app"));
}
