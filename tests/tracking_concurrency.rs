//! What others do to a tracked table while somebody verifies it, or one of its rows, makes nothing look changed that is
//! not.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::Cluster;
use std::thread;

const EVENTS: &str = "
CREATE TABLE events (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
SELECT ledger.track('events');
INSERT INTO events SELECT n, 1 + n % 2, 'x' FROM generate_series(1, 10) n;
CREATE TABLE jobs (id int PRIMARY KEY, tries int);
SELECT ledger.track('jobs');
INSERT INTO jobs VALUES (1, 0), (2, 0);";

/// What the statement gives that waits for a transaction which does this.
#[track_caller]
fn meanwhile(cluster: &Cluster, done: &str, before: &str, waits: &'static str) -> Vec<String> {
    let mut client = cluster.connect("postgres");
    let mut waiting = cluster.connect("postgres");
    waiting.batch_execute(before).unwrap();
    client.batch_execute(&format!("BEGIN; {done}")).unwrap();
    let pid = number(&mut waiting, "SELECT pg_backend_pid()");
    let waiting = thread::spawn(move || column(&mut waiting, waits));
    let mut watching = cluster.connect("postgres");
    wait_for(&mut watching, &format!("(SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid})"));
    client.batch_execute("COMMIT").unwrap();
    in_time("the statement", || waiting.join().unwrap())
}

const CHANGES: [&str; 6] = [
    "ALTER TABLE events ALTER note TYPE varchar(10)",
    "ALTER TABLE events DETACH PARTITION events_2",
    "DROP TABLE events_1",
    "CREATE TABLE events_3 PARTITION OF events FOR VALUES IN (3); INSERT INTO events VALUES (1, 3, 'y'); LOCK TABLE events",
    "TRUNCATE events; INSERT INTO events VALUES (2, 3, 'z')",
    "TRUNCATE events",
];

#[test]
fn a_table_that_is_changed_while_it_is_to_be_verified_is_verified_as_it_is_then() {
    let (cluster, mut client) = start_with(EVENTS);
    for change in CHANGES {
        let found = meanwhile(&cluster, change, "", "SELECT detail FROM ledger.verify_table('events')");
        assert!(found.is_empty(), "{change}: {found:?}");
        assert_clean(&mut client, "events");
    }
}

#[test]
fn so_it_is_for_a_transaction_that_began_before() {
    let (cluster, mut client) = start_with(EVENTS);
    let before = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ledger.entries";
    for change in CHANGES {
        let found = meanwhile(&cluster, change, before, "SELECT detail FROM ledger.verify_table('events')");
        assert!(found.is_empty(), "{change}: {found:?}");
        assert_clean(&mut client, "events");
    }
}

#[test]
fn a_row_of_a_table_that_is_truncated_meanwhile_is_gone_and_not_missing() {
    let (cluster, _client) = start_with(EVENTS);
    let verify = "SELECT ledger.verify_row('events', '{\"id\": 1, \"day\": 2}') ->> 'problem'";
    for truncate in ["TRUNCATE events_2", "TRUNCATE events"] {
        assert_eq!(meanwhile(&cluster, truncate, "", verify), ["NULL"], "{truncate}");
    }
}

/// Who attaches a partition takes no lock that a reader of the table waits for, or holds up. Here verification has its
/// snapshot, and waits for the entries.
#[test]
fn a_partition_that_is_attached_meanwhile_is_not_unrecorded() {
    let (cluster, mut client) = start_with(EVENTS);
    let rows = "INSERT INTO events_3 VALUES (1, 3, 'x'), (2, 3, 'y')";
    client.batch_execute(&format!("CREATE TABLE events_3 (LIKE events INCLUDING ALL); {rows}")).unwrap();
    seal(&mut client);
    let mut holding = cluster.connect("postgres");
    holding.batch_execute("BEGIN; LOCK TABLE ledger.entries_sealed_1").unwrap();
    let mut verifying = cluster.connect("postgres");
    let pid = number(&mut verifying, "SELECT pg_backend_pid()");
    let verification =
        thread::spawn(move || column(&mut verifying, "SELECT detail FROM ledger.verify_table('events')"));
    wait_for(
        &mut client,
        &format!("EXISTS (SELECT FROM ledger.progress WHERE pid = {pid} AND phase = 'reading entries about rows')"),
    );
    client
        .batch_execute("SET lock_timeout = '10s'; ALTER TABLE events ATTACH PARTITION events_3 FOR VALUES IN (3)")
        .unwrap();
    holding.batch_execute("COMMIT").unwrap();
    let found = in_time("the verification", || verification.join().unwrap());
    assert!(found.is_empty(), "{found:?}");
    assert_clean(&mut client, "events");
}

/// It waits for the table that comes first, and finds another one gone, one not tracked any more, and one tracked.
#[test]
fn tables_that_come_and_go_while_all_are_verified_are_not_lost() {
    let (cluster, mut client) = start_with(EVENTS);
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE x (id int PRIMARY KEY); CREATE TABLE y (id int PRIMARY KEY);
             CREATE TABLE z (id int PRIMARY KEY); INSERT INTO x VALUES (1); INSERT INTO y VALUES (1); INSERT INTO z VALUES (1);
             SELECT ledger.track('a'), ledger.track('y'), ledger.track('z')",
        )
        .unwrap();
    let found = meanwhile(
        &cluster,
        "LOCK TABLE a; DROP TABLE z; SELECT ledger.untrack('y'); SELECT ledger.track('x'); DELETE FROM x",
        "",
        "SELECT ledger.verify_all() ->> 'overall_valid'",
    );
    assert_eq!(found, ["true"]);
    assert!(all_valid(&mut client));
}

/// It gets the row as it is when it has the lock, and its query does not see the entry about that.
#[test]
fn a_row_that_was_changed_while_it_was_waited_for_is_what_was_recorded() {
    let (cluster, mut client) = start_with(EVENTS);
    let tries = "SELECT (ledger.verified(j)).tries FROM jobs j WHERE id = 1 FOR UPDATE";
    assert_eq!(meanwhile(&cluster, "UPDATE jobs SET tries = 1 WHERE id = 1", "", tries), ["1"]);
    let more = "UPDATE jobs j SET tries = (ledger.verified(j)).tries + 1 WHERE id = 1 RETURNING tries";
    assert_eq!(meanwhile(&cluster, "UPDATE jobs SET tries = 2 WHERE id = 1", "", more), ["3"]);
    client.batch_execute(&format!("{APPLICATION_TRIGGERS_OFF}; UPDATE jobs SET tries = 7; {TRACKING_ON}")).unwrap();
    assert!(all_text(&error(&mut client, tries)).contains("does not verify: modified"));
}
