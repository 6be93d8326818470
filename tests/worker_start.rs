//! Which databases have a worker: each with a ledger has one, also where there was none before, where workers are held
//! up while they start, and once there is room for another process.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::*;
use crate::common::ledger::*;
use crate::common::{wait_until, wait_until_asleep, Cluster, Options, Stop};
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
    client.batch_execute(&format!("SELECT pg_terminate_backend(pid) FROM ({LAUNCHER}) AS launcher")).unwrap();
    wait_until("two workers are held up", PATIENCE, || number(&mut client, HELD_UP) == 2);
    locking.batch_execute("COMMIT").unwrap();
    assert_one_at_work(&cluster, &mut client);
}

#[test]
fn a_worker_that_ends_before_it_could_look_for_a_ledger_is_followed_by_another() {
    let (cluster, mut client) = start(Options::new());
    record(&mut client);
    drop(client);
    cluster.stop(Stop::Immediate);
    set_fault(&cluster, "look_for_ledger:error");
    cluster.start_again();
    cluster.wait_for_log("pg_notary could not look for a ledger in database");
    // Before any session uses the ledger.
    let mut client = cluster.connect("postgres");
    let at_work = "(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_notary worker' AND wait_event_type = 'Extension')";
    wait_for(&mut client, at_work);
    assert_intact(&mut client);
}

#[test]
fn create_extension_starts_a_worker_and_drop_extension_stops_it() {
    let (cluster, mut client) = start(Options::new());
    worker_pid(&mut client);
    client.batch_execute("CREATE DATABASE second").unwrap();
    let mut second = cluster.connect("second");
    second.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    worker_pid(&mut second);
    record(&mut second);
    let first_file = file(&mut second);
    wait_until("there are two workers", PATIENCE, || number(&mut client, WORKERS) == 2);

    second.batch_execute("DROP EXTENSION pg_notary").unwrap();
    wait_until("the second worker is gone", PATIENCE, || number(&mut client, WORKERS) == 1);
    assert!(first_file.exists(), "the file of a dropped ledger is evidence, and stays");

    second.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record(&mut second);
    let second_file = file(&mut second);
    assert_ne!(first_file, second_file, "another ledger has another file");
    seal(&mut second);
    assert_intact(&mut second);

    second.batch_execute("BEGIN; DROP EXTENSION pg_notary; CREATE EXTENSION pg_notary; COMMIT").unwrap();
    record(&mut second);
    let third_file = file(&mut second);
    assert_ne!(third_file, second_file);
    assert_intact(&mut second);

    // The first database never noticed.
    record(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_create_extension_that_is_rolled_back_leaves_no_worker() {
    let cluster = crate::common::Cluster::start();
    let mut client = cluster.connect("postgres");
    client.batch_execute("BEGIN; CREATE EXTENSION pg_notary; ROLLBACK").unwrap();
    // One may look for the ledger, and leave.
    wait_until("no worker is left", PATIENCE, || number(&mut client, WORKERS) == 0);
    client.batch_execute("BEGIN; CREATE EXTENSION pg_notary; COMMIT").unwrap();
    let worker = worker_pid(&mut client);
    client.batch_execute("BEGIN; DROP EXTENSION pg_notary; ROLLBACK").unwrap();
    record(&mut client);
    seal(&mut client);
    assert_eq!((number(&mut client, WORKERS), worker_pid(&mut client)), (1, worker));
    assert_intact(&mut client);
}

#[test]
fn a_worker_for_which_no_process_is_left_is_wanted_before_anybody_records() {
    let (cluster, client) = start(Options::new());
    drop(client);
    // One each for the launcher and the writer.
    cluster.add_conf("max_worker_processes = 2\nmax_logical_replication_workers = 0");
    cluster.restart(Stop::Fast);
    cluster.wait_for_log("could not look for a ledger in all databases: out of background worker slots");
    let mut client = cluster.connect("postgres");
    assert_eq!(value(&mut client, "SELECT (database, state) FROM ledger.workers"), "(postgres,wanted)");
    wait_for(&mut client, "(SELECT problem IS NOT NULL FROM ledger.mirror_status)");
    let problem = value(&mut client, "SELECT (state, problem) FROM ledger.mirror_status");
    assert!(problem.starts_with("(detached,\"The worker of this database does not run: "), "{problem}");
}

#[test]
fn a_ledger_whose_worker_is_on_its_way_has_no_problem() {
    let (cluster, mut client) = start(Options::new());
    let no_problem = "(SELECT problem IS NULL FROM ledger.mirror_status)";
    for name in ["second", "third", "fourth"] {
        client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        let mut other = cluster.connect(name);
        other.batch_execute("CREATE EXTENSION pg_notary").unwrap();
        assert!(is_true(&mut other, no_problem));
        wait_until_attached(&mut other);
    }
    let worker = worker_pid(&mut client);
    client.execute("SELECT pg_terminate_backend($1::bigint::int)", &[&i64::from(worker)]).unwrap();
    wait_until("there is another worker", PATIENCE, || {
        assert!(is_true(&mut client, no_problem));
        is_true(
            &mut client,
            &format!("(SELECT pid <> {worker} FROM ledger.workers WHERE database = current_database())"),
        )
    });
}

/// A database that is only looked into is no ledger without a worker, and one that has none is named.
#[test]
fn each_ledger_for_which_no_process_is_left_is_wanted_once_it_is_known() {
    let (cluster, mut client) = start(Options::new());
    for name in ["second", "third", "without_ledger"] {
        client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
    }
    for name in ["second", "third"] {
        cluster.connect(name).batch_execute("CREATE EXTENSION pg_notary").unwrap();
    }
    drop(client);
    cluster.add_conf("max_worker_processes = 3\nmax_logical_replication_workers = 0\nledger.mirror_mode = async");
    cluster.restart(Stop::Fast);
    cluster.wait_for_log("could not look for a ledger in");
    for name in ["postgres", "second", "third"] {
        record(&mut cluster.connect(name));
    }
    let mut client = cluster.connect("postgres");
    let states = "SELECT state FROM ledger.workers ORDER BY state";
    wait_until("two are wanted", PATIENCE, || column(&mut client, states) == ["running", "wanted", "wanted"]);
    cluster.wait_for_log("could not register a pg_notary worker for database");
    assert!(!cluster.log().contains(&format!("for database {}:", oid_of(&mut client, "without_ledger"))));
}

/// Only its log tells the administrator of a database in which nobody records yet.
#[test]
fn a_new_ledger_for_which_no_process_is_left_is_named_and_has_a_worker_once_there_is_room() {
    let options = Options::new().conf("max_worker_processes = 3").conf("max_logical_replication_workers = 0");
    let (cluster, mut client) = start(options);
    worker_pid(&mut client);
    client.batch_execute("CREATE DATABASE second").unwrap();
    let mut second = cluster.connect("second");
    second.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    let complaint = format!("could not register a pg_notary worker for database {}:", oid_of(&mut client, "second"));
    cluster.wait_for_log(&complaint);
    let launcher = number(&mut client, LAUNCHER) as u32;
    // It tries again ever more rarely.
    wait_until_asleep(&[launcher], 2 * PATIENCE);
    assert_eq!(cluster.log().matches(&complaint).count(), 1);
    client.batch_execute("DROP EXTENSION pg_notary").unwrap();
    worker_pid(&mut second);
    record(&mut second);
    assert_intact(&mut second);
}

fn oid_of(client: &mut Client, database: &str) -> i64 {
    number(client, &format!("SELECT oid::bigint FROM pg_database WHERE datname = '{database}'"))
}

/// The worker that was sent to look at a new database looks just before the ledger is there, and leaves just after.
#[test]
fn a_ledger_created_while_a_worker_finds_none_has_a_worker() {
    let (cluster, mut client) = start(Options::new());
    worker_pid(&mut client);
    set_fault(&cluster, "no_ledger:hang");
    client.batch_execute("CREATE DATABASE second").unwrap();
    let mut second = cluster.connect("second");
    let found_none = worker_pid(&mut second);
    // It has looked by then.
    wait_until_hanging(found_none);
    second.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    clear_fault(&cluster);
    wait_for(&mut client, &format!("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {found_none})"));
    worker_pid(&mut second);
    record(&mut second);
    assert_intact(&mut second);
}

/// Nothing tells the launcher of either, and what is recorded in mode async wakes it no more.
#[test]
fn a_database_that_had_no_worker_at_the_start_gets_one_once_it_can_have_one() {
    let (cluster, mut client) =
        start(Options::new().conf("ledger.mirror_mode = async").conf("ledger.block_interval = 1s"));
    for (name, closed, open) in [
        ("closed", "ALLOW_CONNECTIONS false", "ALLOW_CONNECTIONS true"),
        ("copied", "IS_TEMPLATE true", "IS_TEMPLATE false"),
    ] {
        client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        let mut other = cluster.connect(name);
        other.batch_execute("CREATE EXTENSION pg_notary").unwrap();
        record(&mut other);
        client.batch_execute(&format!("ALTER DATABASE {name} {closed}")).unwrap();
        drop(other);
        drop(client);
        cluster.restart(Stop::Fast);
        client = cluster.connect("postgres");
        wait_until_attached(&mut client);
        client.batch_execute(&format!("ALTER DATABASE {name} {open}")).unwrap();
        let mut other = cluster.connect(name);
        record(&mut other);
        // The launcher looks twice a minute.
        wait_until("it has a worker", 2 * PATIENCE, || {
            is_true(&mut other, "(SELECT state = 'attached' FROM ledger.mirror_status)")
        });
        wait_until_sealed(&mut other);
    }
}

/// Its sessions record on, into their own file.
#[test]
fn a_database_that_can_have_no_worker_keeps_its_place() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1s"));
    let mut inside = cluster.connect("postgres");
    record(&mut client);
    client.batch_execute("CREATE DATABASE other; ").unwrap();
    let mut other = cluster.connect("other");
    other.batch_execute("ALTER DATABASE postgres IS_TEMPLATE true").unwrap();
    let worker = worker_pid(&mut client);
    client.execute("SELECT pg_terminate_backend($1)", &[&(worker as i32)]).unwrap();
    cluster.wait_for_log("it is a template, does not allow connections, or was partly dropped");
    let waits = std::thread::spawn(move || inside.simple_query(RECORD).map(|_| ()));
    other.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record(&mut other);
    other.batch_execute("ALTER DATABASE postgres IS_TEMPLATE false").unwrap();
    in_time("the session that waits", || waits.join().unwrap()).ok();
    wait_until("it records again", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_intact(&mut client);
    assert_intact(&mut other);
    assert_eq!(cluster.log().matches("it is a template, does not allow connections, or was partly dropped").count(), 1);
}

/// A DROP DATABASE that was interrupted leaves a database that nobody can connect to.
#[test]
fn a_database_that_was_dropped_in_part_is_left_alone() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE DATABASE other").unwrap();
    let mut other = cluster.connect("other");
    other.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    let worker = worker_pid(&mut other);
    drop(other);
    client.batch_execute("UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'other'").unwrap();
    client.execute("SELECT pg_terminate_backend($1)", &[&(worker as i32)]).unwrap();
    cluster.wait_for_log("it is a template, does not allow connections, or was partly dropped");
    cluster.restart(Stop::Fast);
    let mut client = cluster.connect("postgres");
    record(&mut client);
    assert_intact(&mut client);
    assert!(!cluster.log().contains("cannot connect to invalid database"), "{}", cluster.log());
    client.batch_execute("DROP DATABASE other").unwrap();
}
