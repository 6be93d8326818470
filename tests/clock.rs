//! The server's clock is set back: entries about a row stay in the order in which it was changed, in one server and
//! from one to the next, unless it is set back by so much that the ledger follows it.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::{clear_fault, set_fault};
use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{send, Cluster, Options, Stop};
use postgres::Client;
use std::thread;

const FAR_BEHIND: &str = "seconds behind the newest time in the ledger";

/// Has the server's clock go wrong by so many seconds, or right.
fn set_clock(cluster: &Cluster, seconds: i64) {
    match seconds {
        0 => clear_fault(cluster),
        _ => set_fault(cluster, &format!("clock:{seconds}")),
    }
}

/// The table `accounts` is tracked, and rows 1 to 9 are written after that.
fn start_tracked(mode: &str) -> (Cluster, Client) {
    let options = Options::new().conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(options.conf(&format!("ledger.mirror_mode = {mode}")));
    client
        .batch_execute(
            "CREATE TABLE accounts (id int PRIMARY KEY, amount int NOT NULL);
             SELECT ledger.track('accounts', keep_image => true);
             INSERT INTO accounts SELECT n, 0 FROM generate_series(1, 9) n",
        )
        .unwrap();
    (cluster, client)
}

/// Changes, removes and puts back rows 1 to 9, each in its own transaction, and leaves them there.
const CHANGE_ROWS: &str = "
UPDATE accounts SET amount = amount + 1 WHERE id <= 3;
DELETE FROM accounts WHERE id BETWEEN 4 AND 6;
INSERT INTO accounts SELECT n, 10 FROM generate_series(4, 6) n;
UPDATE accounts SET id = id + 100 WHERE id > 6;
UPDATE accounts SET id = id - 100, amount = amount + 1 WHERE id > 100";

const TRUNCATE: &str = "TRUNCATE accounts; INSERT INTO accounts SELECT n, 20 FROM generate_series(1, 9) n";

fn change_rows(client: &mut Client) {
    CHANGE_ROWS.split(';').for_each(|statement| client.batch_execute(statement).unwrap());
}

/// Whoever judges the rows finds them right: verify_table() and verify_all(), history() and verified().
#[track_caller]
fn assert_right(client: &mut Client) {
    assert_clean(client, "accounts");
    assert_history_agrees(client, "accounts");
    let verified = number(client, "SELECT count((ledger.verified(a)).id) FROM accounts AS a");
    assert_eq!(verified, number(client, "SELECT count(*) FROM accounts"));
    let blocks = "SELECT coalesce(bool_and(timestamp > before), true) \
                  FROM (SELECT timestamp, lag(timestamp) OVER (ORDER BY block_number) AS before FROM ledger.blocks) AS b";
    assert_eq!(value(client, blocks), "t", "the times of blocks go back");
}

#[test]
fn rows_verify_that_are_written_before_and_after_the_clock_is_set_back() {
    let (cluster, mut client) = start_tracked("sync");
    set_clock(&cluster, 20);
    change_rows(&mut client);
    seal(&mut client);
    change_rows(&mut client);
    set_clock(&cluster, 0);
    change_rows(&mut client);
    assert_right(&mut client);
    client.batch_execute(TRUNCATE).unwrap();
    assert_right(&mut client);
    set_clock(&cluster, -20);
    client.batch_execute("UPDATE accounts SET amount = 7").unwrap();
    seal(&mut client);
    client.batch_execute("DELETE FROM accounts WHERE id = 2").unwrap();
    assert_right(&mut client);
    assert_intact(&mut client);
    assert!(!cluster.log().contains(FAR_BEHIND));
}

#[test]
fn rows_verify_that_are_written_before_and_after_the_clock_is_set_back_while_the_server_is_down() {
    let cases = [("sync", true, Stop::Fast), ("sync", false, Stop::Immediate), ("off", true, Stop::Immediate)];
    for (mode, is_sealed, stop) in cases.into_iter().chain([("async", false, Stop::Fast), ("off", false, Stop::Fast)]) {
        let (cluster, mut client) = start_tracked(mode);
        set_clock(&cluster, 20);
        change_rows(&mut client);
        if is_sealed {
            client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
        }
        set_clock(&cluster, 0);
        cluster.restart(stop);
        let mut client = cluster.connect("postgres");
        change_rows(&mut client);
        assert_right(&mut client);
        client.batch_execute(TRUNCATE).unwrap();
        client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
        change_rows(&mut client);
        assert_right(&mut client);
    }
}

#[test]
fn a_row_that_a_prepared_transaction_has_written_verifies_though_the_clock_is_set_back_before_it_commits() {
    let (cluster, mut client) = start_tracked("sync");
    set_clock(&cluster, 20);
    client.batch_execute("BEGIN; UPDATE accounts SET amount = 5 WHERE id = 1; PREPARE TRANSACTION 'p'").unwrap();
    set_clock(&cluster, 0);
    cluster.restart(Stop::Fast);
    let mut client = cluster.connect("postgres");
    for statement in
        ["UPDATE accounts SET amount = 6 WHERE id = 2", "COMMIT PREPARED 'p'", "DELETE FROM accounts WHERE id = 1"]
    {
        client.batch_execute(statement).unwrap();
    }
    assert_right(&mut client);
}

#[test]
fn rows_verify_that_are_written_on_both_sides_of_a_promotion_to_a_host_whose_clock_is_behind() {
    let (primary, mut client) = start_tracked("off");
    let standby = Options::new().conf("ledger.mirror_mode = off").standby_of(&primary);
    set_clock(&primary, 20);
    change_rows(&mut client);
    let mut reader = standby.connect("postgres");
    catch_up(&mut client, &mut reader);
    primary.stop(Stop::Immediate);
    assert_eq!(value(&mut reader, "SELECT pg_promote()"), "t");
    change_rows(&mut reader);
    assert_right(&mut reader);
    reader.batch_execute(TRUNCATE).unwrap();
    reader.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    assert_right(&mut reader);
}

#[test]
fn rows_verify_that_two_sessions_write_in_turns_after_the_clock_is_set_back() {
    let (cluster, mut client) = start_tracked("off");
    set_clock(&cluster, 20);
    client.batch_execute("UPDATE accounts SET amount = 1").unwrap();
    set_clock(&cluster, 0);
    let writers = [0; 4].map(|_| {
        let mut client = cluster.connect("postgres");
        thread::spawn(move || {
            for _ in 0..150 {
                client.batch_execute("UPDATE accounts SET amount = amount + 1 WHERE id IN (1, 2)").unwrap();
            }
        })
    });
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    assert_right(&mut client);
    let different = "count(*) = count(DISTINCT created_at) AND count(*) > 1200";
    let of_rows = "FROM ledger.entries WHERE entry_type = 'table_update'";
    assert_eq!(value(&mut client, &format!("SELECT {different} {of_rows}")), "t", "two entries have one time");
}

/// The trigger's name sorts before the one that records: the last change is recorded first, and those before are dated
/// back from it.
#[test]
fn changes_that_triggers_make_to_a_row_come_after_what_others_did_to_it_though_the_clock_is_behind() {
    let (cluster, mut client) = start_tracked("off");
    client
        .batch_execute(
            "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN UPDATE accounts SET amount = amount + 1 WHERE id = new.id; RETURN NULL; END $$;
             CREATE TRIGGER a_more AFTER UPDATE ON accounts FOR EACH ROW WHEN (new.amount < 8) EXECUTE FUNCTION more()",
        )
        .unwrap();
    set_clock(&cluster, 20);
    client.batch_execute("UPDATE accounts SET amount = 100").unwrap();
    set_clock(&cluster, 0);
    for amount in [1, 100, 2, 3, 100] {
        client.batch_execute(&format!("UPDATE accounts SET amount = {amount} WHERE id = 1")).unwrap();
    }
    let other = "UPDATE accounts SET amount = 50 WHERE id IN (2, 3)";
    client.batch_execute(&format!("{other}; BEGIN; UPDATE accounts SET amount = 0 WHERE id IN (2, 3)")).unwrap();
    client.batch_execute("UPDATE accounts SET amount = -5 WHERE id = 3; COMMIT").unwrap();
    assert_right(&mut client);
}

/// A session in another database, with a ledger that is empty and a table; and the command that imports a ledger there
/// whose newest time is ahead of the clock.
fn start_import() -> (Cluster, Client, String) {
    let (cluster, mut client) = start_tracked("off");
    set_clock(&cluster, 20);
    change_rows(&mut client);
    set_clock(&cluster, 0);
    let exported = cluster.scratch_dir().join("exported.jsonl");
    client.batch_execute(&format!("COPY ledger.entries TO '{}' WITH (FORMAT jsonl)", exported.display())).unwrap();
    client.batch_execute("CREATE DATABASE other").unwrap();
    let mut other = cluster.connect("other");
    other.batch_execute("CREATE EXTENSION pg_notary; CREATE TABLE t (id int PRIMARY KEY)").unwrap();
    let import = format!("COPY ledger.entries FROM '{}' WITH (FORMAT jsonl)", exported.display());
    (cluster, other, import)
}

const NEWEST: &str = "SELECT max(created_at) FROM ledger.entries";

#[track_caller]
fn assert_tracked_after(client: &mut Client, newest: &str) {
    let tracked = "SELECT max(created_at) FROM ledger.entries WHERE entry_type = 'table_tracked'";
    assert!(is_true(client, &format!("({tracked}) > '{newest}'")), "tracked before {newest}");
}

#[test]
fn what_is_recorded_after_an_import_is_later_than_what_was_imported() {
    let (_cluster, mut client, import) = start_import();
    // So that times were given before the import.
    client.batch_execute("BEGIN; SELECT ledger.track('t'); ROLLBACK").unwrap();
    client.batch_execute(&import).unwrap();
    let newest = value(&mut client, NEWEST);
    client.batch_execute("SELECT ledger.track('t')").unwrap();
    assert_tracked_after(&mut client, &newest);
}

/// The session has found that nothing is pending, and waits to look for the newest block. It goes on after the import.
#[test]
fn what_a_session_has_read_of_the_ledger_before_an_import_does_not_count_after_it() {
    let (cluster, mut client, import) = start_import();
    let mut session = cluster.connect("other");
    // It is to be stopped where it holds no lock that others wait for, as it would while it looks for a deadlock.
    session.batch_execute("SET deadlock_timeout = '1h'").unwrap();
    let pid = number(&mut session, "SELECT pg_backend_pid()") as u32;
    client.batch_execute("BEGIN; LOCK TABLE ledger.blocks IN ACCESS EXCLUSIVE MODE").unwrap();
    let tracking = waiting(&cluster, session, "SELECT ledger.track('t')");
    send(pid, libc::SIGSTOP);
    client.batch_execute("COMMIT; SET lock_timeout = '20s'").unwrap();
    client.batch_execute(&import).unwrap();
    let newest = value(&mut client, NEWEST);
    send(pid, libc::SIGCONT);
    in_time("the call", || tracking.join().unwrap()).unwrap();
    assert_tracked_after(&mut client, &newest);
}

#[test]
fn a_clock_that_is_set_back_far_is_followed_and_the_log_says_so_once_and_what_to_do() {
    let (cluster, mut client) = start_tracked("sync");
    set_clock(&cluster, 3600);
    change_rows(&mut client);
    seal(&mut client);
    set_clock(&cluster, 0);
    let mut second = cluster.connect("postgres");
    for session in [&mut client, &mut second] {
        session.batch_execute("UPDATE accounts SET amount = 3 WHERE id < 4").unwrap();
    }
    let newest = "SELECT max(created_at) FROM (SELECT * FROM ledger.entries_pending) AS pending";
    assert!(is_true(&mut client, &format!("({newest}) <= clock_timestamp()")), "the clock is not followed");
    cluster.wait_for_log(FAR_BEHIND);
    assert!(!problems(&mut client, "accounts").is_empty(), "the test shows nothing");
    // As the hint says.
    client.batch_execute("SELECT ledger.untrack('accounts')").unwrap();
    client.batch_execute("SELECT ledger.track('accounts', keep_image => true)").unwrap();
    change_rows(&mut client);
    seal(&mut client);
    cluster.restart(Stop::Fast);
    let mut client = cluster.connect("postgres");
    change_rows(&mut client);
    assert_clean(&mut client, "accounts");
    client.batch_execute(TRUNCATE).unwrap();
    assert_clean(&mut client, "accounts");
    assert_eq!(cluster.log().matches(FAR_BEHIND).count(), 1, "{}", cluster.log());
}

#[test]
fn a_new_ledger_does_not_go_on_from_the_times_of_the_one_before() {
    let (cluster, mut client) = start_tracked("off");
    set_clock(&cluster, 3600);
    change_rows(&mut client);
    set_clock(&cluster, 0);
    client.batch_execute("BEGIN; DROP EXTENSION pg_notary CASCADE; CREATE EXTENSION pg_notary; COMMIT").unwrap();
    client.batch_execute("SELECT ledger.track('accounts', keep_image => true)").unwrap();
    change_rows(&mut client);
    assert_right(&mut client);
    assert!(!cluster.log().contains(FAR_BEHIND), "{}", cluster.log());
}
