//! An id of a transaction that has failed may be used again, at any time and by anybody: its line of before is voided
//! first, and the line that uses it again never is.
//!
//! Needs an extension that was built with the feature `fault-injection`.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::*;
use crate::common::ledger::*;
use crate::common::{send, wait_until, Cluster, Stop};
use postgres::Client;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const ID: &str = "01a20057-47fa-7376-9c1c-a0206f4cd8e1";
const SERIALIZABLE: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(n) FROM skew; INSERT INTO skew VALUES (1)";

/// Sealing only where a test asks for it.
fn start_in(mount: Mount, mode: &str) -> (Cluster, Client) {
    let options = quiet().conf(&format!("ledger.mirror_mode = {mode}"));
    let (cluster, mut client) = start(match mount {
        Local => options,
        Network => options.env("PG_NOTARY_FAULT_NETWORK_MOUNT", "1"),
    });
    client.batch_execute("CREATE TABLE skew (n int)").unwrap();
    wait_until_attached(&mut client);
    (cluster, client)
}

fn insert_as(id: &str, hash: char) -> String {
    let hash = hash.to_string().repeat(64);
    format!("INSERT INTO ledger.entries (id, entry_type, data_hash) VALUES ('{id}', 'again', '{hash}')")
}

fn insert(hash: char) -> String {
    insert_as(ID, hash)
}

/// What the file has, in order.
fn kinds(path: &Path) -> Vec<String> {
    lines(path).iter().map(|line| line["record_type"].as_str().unwrap().to_owned()).collect()
}

/// The id stands in the file twice, the first line voided, and all is sealed and agrees.
#[track_caller]
fn assert_recorded_again(client: &mut Client) {
    seal_once_it_works(client);
    let path = file(client);
    wait_until("the line of the block is there", PATIENCE, || kinds(&path).last().is_some_and(|kind| kind == "block"));
    assert_eq!(kinds(&path), ["ledger", "entry", "void", "entry", "block"]);
    assert_eq!(ids_in_table(client).len(), 1);
    assert_intact(client);
}

// ---- a transaction that is just aborting ----------------------------------------------------------------------------------

/// How a transaction comes to abort whose lines are in the file, or in the way there.
#[derive(Clone, Copy, Debug)]
enum Abort {
    /// Refused behind its own part in the commit.
    Serialization,
    /// The same, when it is prepared.
    Prepare,
    Cancel,
    Terminate,
}

/// Has a transaction leave a line, and holds it up when others can use its ids and it has not said so.
#[track_caller]
fn abort_and_hold(cluster: &Cluster, client: &mut Client, how: Abort, statement: &str) -> Background {
    let mut session = cluster.connect("postgres");
    let path = file(client);
    let held = match how {
        Abort::Serialization | Abort::Prepare => {
            session.batch_execute(&format!("{SERIALIZABLE}; {statement}")).unwrap();
            client.batch_execute(&format!("{SERIALIZABLE}; COMMIT")).unwrap();
            set_fault(cluster, "after_abort:hang");
            let end = if matches!(how, Abort::Prepare) { "PREPARE TRANSACTION 'a'" } else { "COMMIT" };
            Background::run_in(session, end)
        }
        Abort::Cancel | Abort::Terminate => {
            let writer = stop_writer(client);
            let waits = Background::run_in(session, statement);
            waits.wait_until_waiting(client);
            set_fault(cluster, "after_abort:hang");
            let end = if matches!(how, Abort::Cancel) { "pg_cancel_backend" } else { "pg_terminate_backend" };
            client.batch_execute(&format!("SELECT {end}({})", waits.pid)).unwrap();
            waits.wait_until_hanging();
            send(writer, libc::SIGCONT);
            waits
        }
    };
    held.wait_until_hanging();
    wait_until("its line is in the file", PATIENCE, || of_type(&lines(&path), "entry").len() == 1);
    held
}

/// As long as nobody can know what is to be voided, nothing that uses the id again gets into the file.
#[track_caller]
fn assert_not_in_file(client: &mut Client) {
    let path = file(client);
    for _ in 0..20 {
        sleep(Duration::from_millis(25));
        assert_eq!(of_type(&lines(&path), "entry").len(), 1, "the id stands in the file twice");
    }
}

#[test]
fn an_id_is_not_used_again_before_the_transaction_that_aborts_has_said_what_it_leaves() {
    for how in [Abort::Serialization, Abort::Cancel, Abort::Terminate] {
        for mode in ["sync", "write"] {
            let mount = if matches!(how, Abort::Serialization) { Local } else { Network };
            let (cluster, mut client) = start_in(mount, mode);
            let held = abort_and_hold(&cluster, &mut client, how, &insert('a'));
            let again = Background::run(&cluster, "", &insert('b'));
            again.wait_until_waiting(&mut client);
            assert_not_in_file(&mut client);
            clear_fault(&cluster);
            assert!(held.ends().is_err(), "{how:?}");
            again.ends().unwrap();
            assert_recorded_again(&mut client);
        }
    }
}

/// Who uses it waits until the transaction has said what it leaves.
#[test]
fn an_id_of_a_prepare_that_fails_can_be_used_again() {
    let (cluster, mut client) = start_in(Local, "sync");
    let held = abort_and_hold(&cluster, &mut client, Abort::Prepare, &insert('a'));
    let again = Background::run(&cluster, "", &insert('b'));
    // For the transaction itself, or for what it has to say.
    let waits =
        format!("(SELECT wait_event_type IN ('Lock', 'Extension') FROM pg_stat_activity WHERE pid = {})", again.pid);
    wait_for(&mut client, &waits);
    clear_fault(&cluster);
    assert!(held.ends().is_err());
    again.ends().unwrap();
    assert_recorded_again(&mut client);
}

#[test]
fn an_id_that_is_used_again_by_several_at_once_is_recorded_once() {
    let (cluster, mut client) = start_in(Local, "sync");
    let held = abort_and_hold(&cluster, &mut client, Abort::Serialization, &insert('a'));
    // Where the test is too slow to see one wait, the next has more time.
    let given_up = [1, 2, 4, 8].into_iter().find_map(|seconds| {
        let limited = format!("SET statement_timeout = '{seconds}s'; {}", insert('b'));
        let given_up = Background::run(&cluster, "", &limited);
        let is_waiting = waits_for_file(given_up.pid);
        wait_until("it waits", PATIENCE, || given_up.is_over() || is_true(&mut client, &is_waiting));
        (!given_up.is_over()).then_some(given_up)
    });
    let given_up = given_up.expect("none was seen while it waited");
    let again = Background::run(&cluster, "", &insert('c'));
    // The second goes on with the id when the first, which has nothing in the file yet, runs out of time.
    assert!(given_up.ends().is_err());
    assert_not_in_file(&mut client);
    clear_fault(&cluster);
    assert!(held.ends().is_err());
    again.ends().unwrap();
    assert_recorded_again(&mut client);
}

#[test]
fn an_id_that_the_ledger_gave_waits_as_well_where_another_has_used_it_and_aborts() {
    let (cluster, mut client) = start_in(Local, "sync");
    let mut owner = cluster.connect("postgres");
    let id = value(&mut owner, "SELECT ledger.uuid_v7()");
    let held = abort_and_hold(&cluster, &mut client, Abort::Serialization, &insert_as(&id, 'a'));
    let again = Background::run_in(owner, &insert_as(&id, 'b'));
    again.wait_until_waiting(&mut client);
    assert_not_in_file(&mut client);
    clear_fault(&cluster);
    assert!(held.ends().is_err());
    again.ends().unwrap();
    assert_recorded_again(&mut client);
}

#[test]
fn entries_whose_ids_the_ledger_gives_wait_for_no_transaction_that_aborts() {
    let (cluster, mut client) = start_in(Local, "sync");
    let held = abort_and_hold(&cluster, &mut client, Abort::Serialization, &insert('a'));
    let plain = "INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('plain', repeat('a', 64))";
    for statement in [RECORD, plain] {
        Background::run(&cluster, "", statement).ends().unwrap();
    }
    clear_fault(&cluster);
    assert!(held.ends().is_err());
    wait_until_file_has_followed(&mut client);
    assert_eq!(ids_in_table(&mut client).len(), 2);
}

#[test]
fn in_mode_async_the_worker_waits_for_a_transaction_that_aborts() {
    let (cluster, mut client) = start_in(Local, "sync");
    let mut session = cluster.connect("postgres");
    // It keeps the mode of its first entry.
    session.batch_execute(&format!("{SERIALIZABLE}; {}", insert('a'))).unwrap();
    client.batch_execute(&format!("{SERIALIZABLE}; COMMIT")).unwrap();
    switch(&mut client, "async");
    set_fault(&cluster, "after_abort:hang");
    let held = Background::run_in(session, "COMMIT");
    held.wait_until_hanging();
    client.batch_execute(&insert('b')).unwrap();
    assert_not_in_file(&mut client);
    clear_fault(&cluster);
    assert!(held.ends().is_err());
    wait_until_file_has_followed(&mut client);
    assert_recorded_again(&mut client);
}

// ---- prepared transactions ------------------------------------------------------------------------------------------------

fn prepare(cluster: &Cluster, gid: &str, statement: &str) {
    let mut session = cluster.connect("postgres");
    session.batch_execute(&format!("BEGIN; {statement}; PREPARE TRANSACTION '{gid}'")).unwrap();
}

#[track_caller]
fn roll_back(client: &mut Client, gid: &str, voided: usize) {
    client.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).unwrap();
    let path = file(client);
    wait_until("its lines are voided", PATIENCE, || voided_ids(&lines(&path)).len() == voided);
}

/// Records and seals until recovery would begin behind what is there now, with that many prepared transactions before.
#[track_caller]
fn settle(client: &mut Client, prepared: i64) {
    let length = fs::metadata(file(client)).unwrap().len();
    wait_until("the place is settled", PATIENCE, || {
        record(client);
        client.batch_execute(SEAL).unwrap();
        is_true(client, &format!("(SELECT settled_bytes >= {length} FROM ledger.log_state)"))
    });
    assert_eq!(number(client, "SELECT cardinality(open_ranges) / 2 FROM ledger.log_state"), prepared);
}

#[track_caller]
fn assert_overall_valid(client: &mut Client) {
    let verdict = verdict(client);
    assert_eq!(verdict["overall_valid"], true, "{verdict:#}");
}

#[test]
fn the_line_of_a_prepared_entry_whose_id_was_voided_before_is_not_appended_again_after_a_crash() {
    let (cluster, mut client) = start_in(Local, "sync");
    prepare(&cluster, "other", RECORD);
    prepare(&cluster, "before", &insert('a'));
    roll_back(&mut client, "before", 1);
    prepare(&cluster, "again", &insert('b'));
    settle(&mut client, 2);
    // So that the file is not read as a whole.
    wait_until_sealed(&mut client);
    let path = file(&mut client);
    wait_until("the state file says how the file is left", PATIENCE, || is_as_noted(&path));
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute("ROLLBACK PREPARED 'other'").unwrap();
    drop(client);
    cluster.kill9_everything();
    send(worker, libc::SIGCONT);
    assert!(is_as_noted(&path), "the file will be read as a whole");
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    assert!(ids_in_file(&file(&mut client)).contains(ID));
    assert_overall_valid(&mut client);
    client.batch_execute("COMMIT PREPARED 'again'").unwrap();
    seal_once_it_works(&mut client);
    assert_intact(&mut client);
}

/// Has a large transaction prepared, with the line of another inside its lines; that one is rolled back.
fn prepare_around_a_line(cluster: &Cluster, client: &mut Client) {
    prepare_around(cluster, client, &format!("BEGIN; {}; PREPARE TRANSACTION 'inside'", insert('a')));
    roll_back(client, "inside", 1);
}

/// Prepares the transaction `around`, and runs a statement whose line stands in between the lines of that.
fn prepare_around(cluster: &Cluster, client: &mut Client, statement: &str) {
    // Of these a piece holds one each, and the ring six.
    let large = "SELECT ledger.hash_and_record('large', '1', jsonb_build_object('pad', repeat('x', 40000)))";
    set_fault(cluster, "before_write:hang");
    let around = Background::run(
        cluster,
        "",
        &format!("BEGIN; {large} FROM generate_series(1, 12); PREPARE TRANSACTION 'around'"),
    );
    around.wait_until_waiting(client);
    let inside = Background::run(cluster, "", statement);
    inside.wait_until_waiting(client);
    clear_fault(cluster);
    around.ends().unwrap();
    inside.ends().unwrap();
    let types: Vec<String> = of_type(&lines(&file(client)), "entry")
        .iter()
        .map(|line| line["entry_type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((&types[0][..], &types[types.len() - 1][..]), ("large", "large"), "the other line is not inside");
}

#[test]
fn an_entry_inside_those_of_a_prepared_transaction_is_not_voided_with_them_while_its_partition_is_detached() {
    for restarts in [false, true] {
        let (cluster, mut client) = start_in(Network, "sync");
        prepare_around(&cluster, &mut client, RECORD);
        client.batch_execute(SEAL).unwrap();
        let path = file(&mut client);
        wait_until("its block has a line", PATIENCE, || of_type(&lines(&path), "block").len() == 1);
        let bounds = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'entries_sealed_1'";
        let bounds = value(&mut client, bounds);
        let partition =
            |command: &str| format!("ALTER TABLE ledger.entries_sealed {command} PARTITION ledger.entries_sealed_1");
        client.batch_execute(&partition("DETACH")).unwrap();
        if restarts {
            drop(client);
            cluster.restart(Stop::Fast);
            client = cluster.connect("postgres");
            wait_until_attached(&mut client);
        }
        roll_back(&mut client, "around", 12);
        client.batch_execute(&format!("{} {bounds}", partition("ATTACH"))).unwrap();
        seal_once_it_works(&mut client);
        assert_intact(&mut client);
    }
}

#[test]
fn a_voided_line_inside_those_of_a_prepared_transaction_is_no_divergence_when_its_id_is_used_again() {
    for is_prepared in [false, true] {
        let (cluster, mut client) = start_in(Network, "sync");
        prepare_around_a_line(&cluster, &mut client);
        match is_prepared {
            true => prepare(&cluster, "again", &insert('b')),
            false => client.batch_execute(&insert('b')).unwrap(),
        }
        settle(&mut client, 1 + i64::from(is_prepared));
        drop(client);
        cluster.restart(Stop::Fast);
        let mut client = cluster.connect("postgres");
        wait_until_attached(&mut client);
        assert_overall_valid(&mut client);
        if is_prepared {
            client.batch_execute("COMMIT PREPARED 'again'").unwrap();
        }
        client.batch_execute("ROLLBACK PREPARED 'around'").unwrap();
        wait_until_file_has_followed(&mut client);
        seal_once_it_works(&mut client);
        assert_intact(&mut client);
    }
}
