//! What the file lacks is appended whole and once, whatever others do meanwhile: entries from before the file was
//! there, those of prepared transactions, and block lines, which never stand before their entries.
//!
//! Needs an extension that was built with the feature `fault-injection`.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::*;
use crate::common::ledger::*;
use crate::common::tampering::TRIGGERS_OFF;
use crate::common::{is_pending, send, wait_until, Cluster, Options, Stop};
use postgres::Client;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::thread;

/// Sealing only where a test asks for it.
fn quiet_in(mode: &str) -> Options {
    quiet().conf(&format!("ledger.mirror_mode = {mode}"))
}

fn prepare(cluster: &Cluster, gid: &str, entries: usize) {
    let mut session = cluster.connect("postgres");
    let insert = format!("{RECORD} FROM generate_series(1, {entries})");
    session.batch_execute(&format!("BEGIN; {insert}; PREPARE TRANSACTION '{gid}'")).unwrap();
}

fn syncs(client: &mut Client) -> i64 {
    number(client, "SELECT syncs FROM ledger.mirror_status")
}

#[test]
fn a_block_of_entries_that_have_no_lines_yet_has_its_line_behind_theirs() {
    let (cluster, mut client) = start(quiet_in("async"));
    record_many(&mut client, 3);
    let mut sealer = cluster.connect("postgres");
    // Its mode is what it was when it first recorded.
    sealer.batch_execute(&format!("BEGIN; {RECORD}")).unwrap();
    switch(&mut client, "sync");
    sealer.batch_execute(SEAL).unwrap();
    let mut other = cluster.connect("postgres");
    let pid = number(&mut other, "SELECT pg_backend_pid()");
    let waiting = thread::spawn(move || other.simple_query(SEAL).map(|_| ()));
    wait_for(&mut client, &format!("(SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid})"));
    sealer.batch_execute("COMMIT").unwrap();
    // It may be told to try again.
    waiting.join().unwrap().ok();
    wait_until_attached(&mut client);
    wait_until("sealing works", PATIENCE, || client.simple_query(SEAL).is_ok());
    assert_complete(&mut client);
}

#[test]
fn a_prepared_transaction_that_is_committed_while_the_file_is_brought_up_to_date_is_in_it() {
    let (cluster, mut client) = start(quiet_in("off"));
    record_many(&mut client, 3);
    prepare(&cluster, "without a file", 2);
    set_fault(&cluster, "before_write:hang");
    set(&mut client, "ledger.mirror_mode", "sync");
    let worker = worker_pid(&mut client);
    let is_repairing = "(SELECT state = 'repairing' FROM ledger.mirror_status)";
    wait_for(&mut client, &format!("{is_repairing} AND {}", waits_for_file(worker)));
    client.batch_execute("COMMIT PREPARED 'without a file'").unwrap();
    clear_fault(&cluster);
    wait_until_attached(&mut client);
    assert_eq!(ids_in_table(&mut client).len(), 5);
    assert_complete(&mut client);
}

#[test]
fn the_lines_of_a_large_prepared_transaction_are_appended_together() {
    let (cluster, mut client) = start(quiet_in("off"));
    prepare(&cluster, "large", 3000);
    let before = syncs(&mut client);
    switch(&mut client, "sync");
    let taken = syncs(&mut client) - before;
    assert!(taken < 100, "{taken} syncs");
    prepare(&cluster, "small", 2);
    client.batch_execute("ROLLBACK PREPARED 'large'").unwrap();
    wait_until("the lines are voided", PATIENCE, || ids_in_file(&file(&mut client)).len() == 2);
    client.batch_execute("COMMIT PREPARED 'small'").unwrap();
    seal(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_file_that_was_caught_up_is_read_from_where_it_is_settled_itself() {
    let (cluster, mut client) = start(quiet_in("sync"));
    record(&mut client);
    let path = file(&mut client);
    let older = fs::read(&path).unwrap();
    // Lines that are not there any more when the file is caught up.
    for gid in ["a", "b"] {
        prepare(&cluster, gid, 200);
        client.batch_execute(&format!("ROLLBACK PREPARED '{gid}'")).unwrap();
        wait_until("the lines are voided", PATIENCE, || ids_in_file(&path).len() == 1);
    }
    client.batch_execute(SEAL).unwrap();
    let settled = "SELECT settled_bytes FROM ledger.log_state";
    wait_until("the place is settled", PATIENCE, || {
        record(&mut client);
        client.batch_execute(SEAL).unwrap();
        number(&mut client, settled) > 3 * older.len() as i64
    });
    let settled = number(&mut client, settled);
    drop(client);
    cluster.stop(Stop::Fast);
    fs::write(&path, &older).unwrap();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    client.simple_query("SELECT ledger.mirror_catch_up()").unwrap();
    wait_until_attached(&mut client);
    assert!((fs::metadata(&path).unwrap().len() as i64) < settled, "the file is as long as the one before");
    record(&mut client);
    drop(client);
    cluster.stop(Stop::Fast);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    assert_complete(&mut client);
}

#[test]
fn a_block_whose_line_is_in_the_file_survives_a_crash_whatever_synchronous_commit_was() {
    // So that nobody else writes the WAL.
    let (cluster, mut client) = start(quiet_in("sync").conf("wal_writer_delay = 10s"));
    record_many(&mut client, 3);
    let worker = worker_pid(&mut client);
    let mut sealer = cluster.connect("postgres");
    stop_between_transactions(&mut client, worker);
    sealer.batch_execute(&format!("SET synchronous_commit = off; {SEAL}")).unwrap();
    // The next one finds nothing to seal, and writes the line of the block before.
    client.batch_execute(SEAL).unwrap();
    assert_eq!(of_type(&lines(&file(&mut client)), "block").len(), 1);
    drop((client, sealer));
    cluster.kill9_everything();
    send(worker, libc::SIGCONT);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    record(&mut client);
    assert_complete(&mut client);
}

// ---- ids that are used again ---------------------------------------------------------------------------------------------

/// An entry by its own id, which the same statement makes as the very same line each time.
fn insert(hash: char) -> String {
    let hash = hash.to_string().repeat(64);
    format!(
        "INSERT INTO ledger.entries (id, entry_type, data_hash, created_at) \
         VALUES ('01a20057-47fa-7376-9c1c-a0206f4cd8e1', 'again', '{hash}', '2026-01-01')"
    )
}

/// Leaves the line of a transaction that is rolled back when its line is in the file.
fn leave_a_line(client: &mut Client) {
    client.batch_execute(&format!("BEGIN; {}; PREPARE TRANSACTION 'gone'", insert('a'))).unwrap();
    client.batch_execute("ROLLBACK PREPARED 'gone'").unwrap();
}

/// Has such a line in the file, and the worker stopped before it could void it.
fn start_with_a_line() -> (Cluster, Client, u32) {
    let (cluster, mut client) = start(quiet_in("sync"));
    wait_until_attached(&mut client);
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    leave_a_line(&mut client);
    (cluster, client, worker)
}

/// The entry stands in the file twice, the first line voided, and all is sealed.
#[track_caller]
fn assert_recorded_again(client: &mut Client) {
    seal(client);
    let path = file(client);
    wait_until("the line of the block is there", PATIENCE, || {
        let kinds: Vec<String> = lines(&path).iter().map(|line| line["record_type"].as_str().unwrap().into()).collect();
        kinds.last().is_some_and(|kind| kind == "block")
    });
    assert_eq!((of_type(&lines(&path), "void").len(), ids_in_table(client).len()), (1, 1));
    assert_intact(client);
}

#[test]
fn an_entry_that_is_recorded_again_just_as_it_was_has_its_line_behind_the_void_one() {
    let (cluster, mut client, worker) = start_with_a_line();
    let mut again = cluster.connect("postgres");
    again.batch_execute(&format!("BEGIN; {}", insert('a'))).unwrap();
    // It waits for the line of before to be voided, and its row is there meanwhile.
    let commits = Background::run_in(again, "COMMIT");
    commits.wait_until_waiting(&mut client);
    send(worker, libc::SIGCONT);
    commits.ends().unwrap();
    assert_recorded_again(&mut client);
}

#[test]
fn a_row_that_uses_an_id_again_and_is_not_committed_is_no_divergence() {
    let (cluster, mut client, worker) = start_with_a_line();
    let mut again = cluster.connect("postgres");
    again.batch_execute(&format!("BEGIN; {}", insert('b'))).unwrap();
    // The file is opened anew.
    set(&mut client, "ledger.mirror_mode", "write");
    set(&mut client, "ledger.mirror_directory", "'pg_notary/../pg_notary'");
    wait_until("the worker is told to read its settings", PATIENCE, || is_pending(worker, libc::SIGHUP));
    send(worker, libc::SIGCONT);
    again.batch_execute("COMMIT").unwrap();
    assert_recorded_again(&mut client);
}

/// Its id is none that an application gives, so nobody has used it again.
#[test]
fn a_row_change_that_was_edited_beside_aborted_lines_is_a_divergence() {
    let (cluster, mut client) = start(quiet_in("sync"));
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT ledger.track('t')").unwrap();
    wait_until_attached(&mut client);
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    let aborted = format!("BEGIN; {RECORD}; PREPARE TRANSACTION 'gone'");
    for statement in
        [&aborted, "ROLLBACK PREPARED 'gone'", "INSERT INTO t VALUES (1)", &aborted, "ROLLBACK PREPARED 'gone'"]
    {
        client.batch_execute(statement).unwrap();
    }
    client.batch_execute(TRIGGERS_OFF).unwrap();
    let edit = "UPDATE ledger.entries_pending SET data_hash = repeat('e', 64) WHERE entry_type = 'table_insert'";
    client.batch_execute(edit).unwrap();
    set(&mut client, "ledger.mirror_directory", "'pg_notary/../pg_notary'");
    wait_until("the worker is told to read its settings", PATIENCE, || is_pending(worker, libc::SIGHUP));
    send(worker, libc::SIGCONT);
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    let problem = value(&mut client, "SELECT problem FROM ledger.mirror_status");
    assert!(problem.contains("differs from the one in the database"), "{problem}");
    assert!(of_type(&lines(&file(&mut client)), "void").is_empty(), "the line was voided");
    drop(cluster);
}

#[test]
fn in_mode_async_a_void_line_stands_before_the_entry_that_uses_the_id_again() {
    let (cluster, mut client) = start(quiet_in("async"));
    wait_until_attached(&mut client);
    let mut sealer = cluster.connect("postgres");
    sealer.batch_execute(&format!("BEGIN; {SEAL}")).unwrap();
    leave_a_line(&mut client);
    client.batch_execute(&insert('b')).unwrap();
    sealer.batch_execute("COMMIT").unwrap();
    assert_recorded_again(&mut client);
}

/// What must not wait for anything that lasts: as long as it would then, or for the 30 seconds after which a commit
/// gives up.
#[track_caller]
fn goes_through(cluster: &Cluster, statement: &str) {
    let mut session = cluster.connect("postgres");
    session.batch_execute("SET statement_timeout = '25s'").unwrap();
    session.batch_execute(statement).unwrap_or_else(|error| panic!("{error:?}\n{statement}"));
}

const PLAIN: &str = "INSERT INTO ledger.entries (entry_type, data_hash)";

#[test]
fn aborted_lines_are_voided_while_somebody_keeps_everyone_else_from_sealing() {
    for mode in ["sync", "async"] {
        let (cluster, mut client) = start(quiet_in(mode).conf("ledger.block_size = 3"));
        wait_until_attached(&mut client);
        let mut sealer = cluster.connect("postgres");
        sealer.batch_execute(&format!("BEGIN; {SEAL}")).unwrap();
        record_many(&mut client, 3);
        let worker = worker_pid(&mut client);
        wait_for(&mut client, &format!("(SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {worker})"));
        leave_a_line(&mut client);
        goes_through(&cluster, &format!("{PLAIN} VALUES ('plain', repeat('a', 64))"));
        goes_through(&cluster, &insert('b'));
        let path = file(&mut client);
        wait_until("the line is voided", PATIENCE, || of_type(&lines(&path), "void").len() == 1);
        sealer.batch_execute("COMMIT").unwrap();
        seal(&mut client);
        wait_until_file_has_followed(&mut client);
        assert_eq!(ids_in_table(&mut client).len(), 5, "{mode}");
        assert_intact(&mut client);
    }
}

#[test]
fn an_entry_whose_id_the_ledger_gives_waits_for_no_void_line() {
    let (cluster, mut client, worker) = start_with_a_line();
    goes_through(&cluster, &format!("{PLAIN} VALUES ('plain', repeat('a', 64)), ('plain', repeat('b', 64))"));
    let hashes = "SELECT 'plain', ledger.hash_data(to_jsonb(n)) FROM generate_series(1, 100) AS n";
    goes_through(&cluster, &format!("{PLAIN} {hashes}"));
    goes_through(&cluster, &format!("{PLAIN} {hashes} ORDER BY n DESC"));
    goes_through(
        &cluster,
        "INSERT INTO ledger.entries (id, entry_type, data_hash) VALUES (DEFAULT, 'plain', repeat('c', 64))",
    );
    let mut session = cluster.connect("postgres");
    session.batch_execute("SET statement_timeout = '25s'").unwrap();
    let mut copy = session.copy_in("COPY ledger.entries (entry_type, data_hash) FROM STDIN").unwrap();
    (0..100).for_each(|n| writeln!(copy, "plain\t{n:064x}").unwrap());
    copy.finish().unwrap();
    send(worker, libc::SIGCONT);
    wait_until_file_has_followed(&mut client);
    assert_eq!(ids_in_table(&mut client).len(), 303);
    seal(&mut client);
    assert_intact(&mut client);
}

#[test]
fn an_id_that_the_ledger_gave_waits_for_the_void_line_where_another_has_used_it_since() {
    let (cluster, mut client) = start(quiet_in("sync"));
    wait_until_attached(&mut client);
    let id = value(&mut client, "SELECT ledger.uuid_v7()");
    let by_id = |hash: char| {
        let hash = hash.to_string().repeat(64);
        format!("INSERT INTO ledger.entries (id, entry_type, data_hash) VALUES ('{id}', 'taken', '{hash}')")
    };
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    let mut other = cluster.connect("postgres");
    other.batch_execute(&format!("BEGIN; {}; PREPARE TRANSACTION 'gone'", by_id('a'))).unwrap();
    other.batch_execute("ROLLBACK PREPARED 'gone'").unwrap();
    client.batch_execute(&format!("BEGIN; {}", by_id('b'))).unwrap();
    let commits = Background::run_in(client, "COMMIT");
    commits.wait_until_waiting(&mut other);
    send(worker, libc::SIGCONT);
    commits.ends().unwrap();
    assert_recorded_again(&mut other);
}

#[test]
fn an_id_that_is_used_again_while_its_line_cannot_be_voided_is_no_divergence() {
    for (mode, seals) in [("off", false), ("off", true), ("async", false)] {
        let (cluster, mut client, worker) = start_with_a_line();
        let path = file(&mut client);
        // Refused, as others may write it.
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        send(worker, libc::SIGCONT);
        wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
        set(&mut client, "ledger.mirror_mode", mode);
        goes_through(&cluster, &insert('b'));
        if seals {
            client.batch_execute(SEAL).unwrap();
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        set(&mut client, "ledger.mirror_mode", "sync");
        wait_until_attached(&mut client);
        assert_recorded_again(&mut client);
    }
}

/// The transaction that uses the id again is prepared while there is no file, and decided once there is.
#[test]
fn an_id_that_a_prepared_transaction_uses_again_has_a_line_of_its_own() {
    let (cluster, mut client, worker) = start_with_a_line();
    let path = file(&mut client);
    // Refused, as others may write it.
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    send(worker, libc::SIGCONT);
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    set(&mut client, "ledger.mirror_mode", "off");
    goes_through(&cluster, &format!("BEGIN; {}; PREPARE TRANSACTION 'again'", insert('b')));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    set(&mut client, "ledger.mirror_mode", "sync");
    wait_until_attached(&mut client);
    client.batch_execute("COMMIT PREPARED 'again'").unwrap();
    assert_recorded_again(&mut client);
}
