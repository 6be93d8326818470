//! Workers seal what is to be sealed, are idle when there is nothing to do, and go on after whatever ends them.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{wait_until, wait_until_asleep, Options, Stop};
use postgres::error::SqlState;
use postgres::Client;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// Nothing of the ledger is new there.
#[test]
fn another_extension_that_is_created_keeps_nobody_from_recording() {
    let options = Options::new().conf("max_worker_processes = 1").conf("max_logical_replication_workers = 0");
    let cluster = options.conf("ledger.mirror_mode = async").start();
    let mut client = cluster.connect("postgres");
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    assert_eq!(number(&mut client, WORKERS), 0, "there is no room for one");
    client
        .batch_execute(&format!("BEGIN; DROP EXTENSION plpgsql; CREATE EXTENSION plpgsql; {RECORD}; COMMIT"))
        .unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 1);
    client.batch_execute("DROP EXTENSION pg_notary; BEGIN; CREATE EXTENSION pg_notary").unwrap();
    assert!(all_text(&error(&mut client, RECORD)).contains("the transaction that creates the extension"));
}

#[test]
fn a_verification_where_there_is_no_worker_does_not_wait_for_one() {
    let (cluster, mut client) = start(Options::new());
    record(&mut client);
    drop(client);
    cluster.add_conf("max_worker_processes = 2\nmax_logical_replication_workers = 0");
    cluster.restart(Stop::Fast);
    let mut client = cluster.connect("postgres");
    assert_eq!(number(&mut client, WORKERS), 0);
    client.batch_execute("SET statement_timeout = '25s'").unwrap();
    assert!(is_true(&mut client, "(ledger.verify_chain() ->> 'overall_valid')::bool"));
    assert!(is_true(&mut client, "(ledger.verify_all() ->> 'overall_valid')::bool"));
}

#[test]
fn who_waits_to_record_while_the_extension_is_dropped_is_told_that_it_is_gone() {
    let (cluster, mut client) = start(Options::new());
    let mut other = cluster.connect("postgres");
    record(&mut other);
    let pid = number(&mut other, "SELECT pg_backend_pid()");
    client.batch_execute("BEGIN; DROP EXTENSION pg_notary").unwrap();
    let waiting = thread::spawn(move || other.batch_execute(RECORD).unwrap_err());
    wait_for(&mut client, &format!("EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted)"));
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(waiting.join().unwrap().code(), Some(&SqlState::UNDEFINED_TABLE));
}

#[test]
fn a_full_block_is_sealed_at_once_and_the_rest_after_the_interval() {
    // Only a block that is full is sealed in less than this.
    let options = Options::new().conf("ledger.block_size = 10").conf("ledger.block_interval = 1h");
    let (_cluster, mut client) = start(options);
    wait_until_attached(&mut client);
    // One at a time, as an application does.
    for _ in 0..10 {
        record(&mut client);
    }
    wait_for(&mut client, "(SELECT block_count = 1 FROM ledger.chain_stats)");

    let recorded = Instant::now();
    record_many(&mut client, 25);
    wait_for(&mut client, "(SELECT block_count = 3 FROM ledger.chain_stats)");
    assert_eq!(number(&mut client, "SELECT pending_count FROM ledger.chain_stats"), 5);
    set(&mut client, "ledger.block_interval", "'4s'");
    wait_until_sealed(&mut client);
    let took = recorded.elapsed();
    assert!(took > Duration::from_millis(3500), "the rest took {took:?}");
    assert_eq!(
        column(&mut client, "SELECT data_count FROM ledger.blocks ORDER BY block_number"),
        ["10", "10", "10", "5"]
    );
    assert_intact(&mut client);
}

#[test]
fn a_new_block_interval_takes_effect_on_reload() {
    let options = Options::new().conf("ledger.block_interval = 1h");
    let (_cluster, mut client) = start(options);
    record_many(&mut client, 3);
    set(&mut client, "ledger.block_interval", "'1s'");
    wait_until_sealed(&mut client);
    assert_intact(&mut client);
}

#[test]
fn idle_workers_and_the_launcher_do_not_wake_up() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    let processes = [worker_pid(&mut client), number(&mut client, LAUNCHER) as u32];
    // Once with nothing to wait for, once with entries that are due much later.
    for _ in 0..2 {
        // What was begun is finished first.
        wait_until_asleep(&processes, PATIENCE);
        record_many(&mut client, 3);
    }
}

#[test]
fn a_large_backlog_is_sealed_in_several_transactions() {
    let options = Options::new().secret(None).conf("ledger.block_size = 1000").conf("ledger.block_interval = 1h");
    let (_cluster, mut client) = start(options);
    let insert = "INSERT INTO ledger.entries (entry_type, data_hash) SELECT 'backlog', \
                  encode(sha256(n::text::bytea), 'hex') FROM generate_series(1, 200500) n";
    client.batch_execute(insert).unwrap();
    wait_until("the full blocks are sealed", 3 * PATIENCE, || {
        is_true(&mut client, "(SELECT block_count >= 200 FROM ledger.chain_stats)")
    });
    let per_transaction = "SELECT count(*) FROM ledger.entries_sealed GROUP BY xmin::text";
    let counts: Vec<i64> = column(&mut client, per_transaction).iter().map(|count| count.parse().unwrap()).collect();
    assert!(counts.len() >= 5, "{counts:?}");
    assert!(counts.iter().all(|count| *count <= 50_000), "{counts:?}");
    assert_eq!(number(&mut client, "SELECT pending_count FROM ledger.chain_stats"), 500);
    seal(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_terminated_worker_comes_back_and_goes_on() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_size = 5"));
    for _ in 0..3 {
        let pid = worker_pid(&mut client);
        record_many(&mut client, 5);
        client.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
        wait_until("another worker is there", PATIENCE, || worker_pid(&mut client) != pid);
        record_many(&mut client, 5);
        wait_until_sealed(&mut client);
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.blocks"), 6);
    assert_intact(&mut client);
}

/// The ledger's processes, each with its kind.
const PROCESSES: &str =
    "SELECT backend_type || ' ' || pid FROM pg_stat_activity WHERE backend_type LIKE 'pg_notary%' ORDER BY 1";

#[test]
fn a_cancel_of_a_process_that_is_idle_does_nothing() {
    let (cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = write"));
    record(&mut client);
    seal(&mut client);
    // What sealing leaves to the worker is done, and it sleeps.
    wait_for(
        &mut client,
        "(SELECT mirror_block = (SELECT max(block_number) FROM ledger.blocks) FROM ledger.log_state)",
    );
    let worker = worker_pid(&mut client);
    wait_for(
        &mut client,
        &format!(
            "(SELECT xact_start IS NULL AND wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = {worker})"
        ),
    );
    let before = column(&mut client, PROCESSES);
    assert_eq!(before.len(), 3, "{before:?}");
    let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE backend_type LIKE 'pg_notary%'";
    for _ in 0..3 {
        assert_eq!(number(&mut client, cancel), 3);
        // Each has work to do now, and meets the signal before that: worker, writer and launcher.
        record(&mut client);
        seal(&mut client);
        let path = file(&mut client);
        wait_until("the state file is up to date", PATIENCE, || is_as_noted(&path));
        client.batch_execute("CREATE DATABASE other").unwrap();
        let mut other = cluster.connect("other");
        other.batch_execute("CREATE EXTENSION pg_notary").unwrap();
        worker_pid(&mut other);
        drop(other);
        client.batch_execute("DROP DATABASE other").unwrap();
        wait_until("the other worker has gone", PATIENCE, || number(&mut client, WORKERS) == 1);
    }
    assert_eq!(column(&mut client, PROCESSES), before);
    assert!(!cluster.log().contains("canceling statement due to user request"), "{}", cluster.log());
    assert_intact(&mut client);
}

#[test]
fn a_cancel_of_a_worker_stops_what_it_does_and_not_the_worker() {
    let options = Options::new().conf("ledger.block_size = 5").conf("ledger.block_interval = 1s");
    let (cluster, mut client) = start(options);
    record(&mut client);
    wait_until_attached(&mut client);
    let worker = worker_pid(&mut client);
    let mut locking = cluster.connect("postgres");
    locking.batch_execute("BEGIN; LOCK TABLE ledger.entries_sealed IN ACCESS EXCLUSIVE MODE").unwrap();
    record_many(&mut client, 5);
    // Each of its attempts waits for the lock.
    let cancel = format!(
        "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE pid = {worker} AND wait_event_type = 'Lock'"
    );
    wait_until("it is cancelled", PATIENCE, || {
        number(&mut client, &cancel);
        cluster.log().contains("cannot go on: canceling statement due to user request; it tries again by itself")
    });
    locking.batch_execute("COMMIT").unwrap();
    wait_until_sealed(&mut client);
    assert_eq!(worker_pid(&mut client), worker);
    assert_intact(&mut client);
}

/// The owner of a database may set this. Its sessions then act for another role; the worker never does.
#[test]
fn a_worker_keeps_its_rights_whatever_role_its_database_gives_to_sessions() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE ROLE app LOGIN").unwrap();
    for setting in ["role", "session_authorization"] {
        client.batch_execute(&format!("ALTER DATABASE postgres SET {setting} = 'app'")).unwrap();
        let pid = worker_pid(&mut client);
        client.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
        wait_until("there is another worker", PATIENCE, || ![0, pid].contains(&worker_pid(&mut client)));
        record(&mut client);
        seal(&mut client);
        client.batch_execute(&format!("ALTER DATABASE postgres RESET {setting}")).unwrap();
    }
    assert!(!cluster.log().contains("cannot go on"), "{}", cluster.log());
    assert_intact(&mut client);
}

/// What a savepoint has sealed, and its rollback has undone, is another's to seal, at once.
#[test]
fn a_block_that_a_savepoint_takes_back_leaves_sealing_as_it_was() {
    let options = Options::new().conf("ledger.block_size = 10").conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(options);
    let mut other = cluster.connect("postgres");
    let count = |client: &mut Client| number(client, "SELECT count(*) FROM ledger.commit_block()");
    let in_block =
        "DO $$ BEGIN PERFORM ledger.commit_block(); RAISE EXCEPTION 'no'; EXCEPTION WHEN raise_exception THEN END $$";
    let in_savepoint = "SAVEPOINT s; SELECT ledger.commit_block(); ROLLBACK TO s";
    for (blocks, undone) in (1..).step_by(2).zip([in_block, in_savepoint]) {
        record_many(&mut client, 6);
        client.batch_execute(&format!("BEGIN; {undone}")).unwrap();
        record_many(&mut other, 4);
        wait_for(&mut other, &format!("(SELECT block_count = {blocks} FROM ledger.chain_stats)"));
        client.batch_execute("COMMIT").unwrap();
        assert_eq!(number(&mut client, "SELECT pending_count FROM ledger.chain_stats"), 0);
        record_many(&mut client, 10);
        wait_for(&mut client, &format!("(SELECT block_count = {blocks} + 1 FROM ledger.chain_stats)"));
    }

    // The transaction has no part in sealing, and takes one when it seals after all.
    record_many(&mut client, 3);
    client.batch_execute(&format!("BEGIN; {in_savepoint}; PREPARE TRANSACTION 'p'")).unwrap();
    client.batch_execute("COMMIT PREPARED 'p'").unwrap();
    client.batch_execute(&format!("BEGIN; {in_savepoint}; SELECT ledger.mirror_catch_up()")).unwrap();
    assert_eq!(count(&mut client), 1);
    client.batch_execute(&format!("{in_savepoint}; SAVEPOINT r; SELECT ledger.commit_block(); RELEASE r")).unwrap();
    assert_eq!(count(&mut client), 0);
    client.batch_execute("COMMIT").unwrap();
    wait_until_sealed(&mut client);
    assert_eq!(number(&mut client, "SELECT block_count FROM ledger.chain_stats"), 5);
    assert_intact(&mut client);
}

/// Breaks sealing with one statement, repairs it with another: the log names the cause once, however often sealing was
/// tried, and sealing goes on by itself.
fn sealing_recovers(break_it: &str, repair_it: &str, cause: &str) {
    let options = Options::new().conf("ledger.block_size = 5").conf("ledger.block_interval = 1s");
    let (cluster, mut client) = start(options);
    record_many(&mut client, 5);
    wait_until_sealed(&mut client);
    client.batch_execute(break_it).unwrap();
    for _ in 0..3 {
        // Recording goes on.
        record_many(&mut client, 5);
    }
    cluster.wait_for_log("pg_notary worker of database \"postgres\" cannot go on");
    wait_for(&mut client, "(SELECT state = 'failing' FROM ledger.workers)");
    sleep(Duration::from_secs(3));
    let log = cluster.log();
    let complaints: Vec<&str> =
        log.lines().filter(|line| line.contains("pg_notary worker of database \"postgres\" cannot go on")).collect();
    assert!(complaints.len() == 1 && complaints[0].contains(cause), "{complaints:#?}");
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.blocks"), 1, "sealed although broken");

    client.batch_execute(repair_it).unwrap();
    wait_until_sealed(&mut client);
    cluster.wait_for_log("pg_notary worker of database \"postgres\" works again");
    wait_for(&mut client, "(SELECT state = 'running' FROM ledger.workers)");
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.blocks"), 4);
    assert_intact(&mut client);
}

#[test]
fn sealing_recovers_from_a_damaged_frontier() {
    sealing_recovers(
        "CREATE TABLE kept AS SELECT frontier FROM ledger.log_state; ALTER TABLE ledger.log_state DISABLE TRIGGER ALL; \
         UPDATE ledger.log_state SET frontier = '\\x00'",
        "UPDATE ledger.log_state SET frontier = (SELECT frontier FROM kept)",
        "frontier",
    );
}

#[test]
fn sealing_recovers_from_a_detached_partition() {
    let partition = "entries_sealed_1";
    sealing_recovers(
        &format!("ALTER TABLE ledger.entries_sealed DETACH PARTITION ledger.{partition}"),
        &format!(
            "ALTER TABLE ledger.entries_sealed ATTACH PARTITION ledger.{partition} FOR VALUES FROM (1) TO (2000001)"
        ),
        "partition",
    );
}

/// The worker leaves less than a block behind a full batch, and rests because others have written meanwhile. Nobody
/// wakes it afterwards.
#[test]
fn what_a_batch_leaves_is_sealed_after_the_interval_though_the_worker_rests() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 2s"));
    record(&mut client);
    wait_until_sealed(&mut client);
    let worker = worker_pid(&mut client);
    let mut holder = cluster.connect("postgres");
    holder.batch_execute("BEGIN; LOCK TABLE ledger.blocks IN SHARE MODE").unwrap();
    // Some more than a batch.
    let insert = "INSERT INTO ledger.entries (entry_type, data_hash) SELECT 'many', repeat('a', 64)";
    client.batch_execute(&format!("{insert} FROM generate_series(1, 16350)")).unwrap();
    wait_for(&mut client, &format!("(SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {worker})"));
    record(&mut client);
    holder.batch_execute("ROLLBACK").unwrap();
    wait_until_sealed(&mut client);
    assert_eq!(number(&mut client, "SELECT entry_count FROM ledger.chain_stats"), 16_352);
    assert_intact(&mut client);
}

#[test]
fn a_restart_continues_the_chain() {
    let options = Options::new().conf("ledger.block_size = 5").conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(options);
    for how in [Stop::Fast, Stop::Immediate, Stop::Fast] {
        let before = number(&mut client, "SELECT block_count FROM ledger.chain_stats");
        record_many(&mut client, 7);
        wait_for(&mut client, &format!("(SELECT block_count > {before} FROM ledger.chain_stats)"));
        drop(client);
        cluster.restart(how);
        client = cluster.connect("postgres");
        record(&mut client);
        wait_until_attached(&mut client);
    }
    seal(&mut client);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 24);
    assert_intact(&mut client);
}

#[test]
fn a_clean_shutdown_does_not_wait_for_the_workers() {
    let (cluster, mut client) = start(Options::new());
    // What would wait for the workers would do so each time; what else a busy machine is at may come once.
    let mut quickest = Duration::MAX;
    for _ in 0..4 {
        record_many(&mut client, 3);
        let since = Instant::now();
        cluster.stop(Stop::Fast);
        quickest = quickest.min(since.elapsed());
        if quickest < Duration::from_secs(5) {
            break;
        }
        cluster.start_again();
        client = cluster.connect("postgres");
    }
    assert!(quickest < Duration::from_secs(5), "{quickest:?}");
    // Who watches the log for such is called by no regular stop. (The worker may have been at something.)
    for idle in ["launcher", "writer"] {
        let fatal = format!("FATAL:  terminating background worker \"pg_notary {idle}\"");
        assert!(!cluster.log().contains(&fatal), "{}", cluster.log());
    }
}

#[test]
fn who_records_waits_for_the_worker_that_comes_after_one_that_was_told_to_end() {
    let (cluster, mut client) = start(Options::new());
    for _ in 0..8 {
        record(&mut client);
        let worker = worker_pid(&mut client);
        client.execute("SELECT pg_terminate_backend($1)", &[&(worker as i32)]).unwrap();
        wait_for(&mut client, &format!("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {worker})"));
    }
    record(&mut client);
    assert!(!cluster.log().contains("could not lock mirror file"), "{}", cluster.log());
    assert_intact(&mut client);
}
