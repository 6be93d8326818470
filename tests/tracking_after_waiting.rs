//! A command that has waited for a lock goes by the names, places and owners that tables have then, as Postgres does.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{Cluster, Options};
use postgres::error::SqlState;
use postgres::{Client, Error};

/// Runs `command` in another session while this one is in a transaction that has done `first`, which is committed when
/// the command waits for it.
#[track_caller]
fn after_waiting(cluster: &Cluster, client: &mut Client, first: &str, command: &'static str) -> Result<(), Error> {
    client.batch_execute(&format!("BEGIN; {first}")).unwrap();
    let command = waiting(cluster, cluster.connect("postgres"), command);
    client.batch_execute("COMMIT").unwrap();
    in_time("the command", || command.join().unwrap())
}

// ---- DETACH PARTITION and ATTACH PARTITION ----------------------------------------------------------------------------

const EVENTS: &str = "
CREATE TABLE events (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
INSERT INTO events VALUES (1, 1), (2, 1), (3, 2);
CREATE TABLE more (id int, day int, PRIMARY KEY (id, day));
CREATE UNLOGGED TABLE unlogged (id int, day int, PRIMARY KEY (id, day));
SELECT ledger.track('events');";

#[test]
fn the_partition_is_recorded_that_has_the_name_when_it_is_detached() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute(EVENTS).unwrap();
    let rename = "ALTER TABLE events_1 RENAME TO events_old; ALTER TABLE events_2 RENAME TO events_1";
    let detach = "ALTER TABLE events DETACH PARTITION events_1";
    after_waiting(&cluster, &mut client, rename, detach).unwrap();
    assert_eq!(column(&mut client, "SELECT DISTINCT day FROM events"), ["1"]);
    assert_clean(&mut client, "events");
}

#[test]
fn the_table_is_checked_that_has_the_name_when_it_is_attached() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute(EVENTS).unwrap();
    let rename = "ALTER TABLE more RENAME TO more_old; ALTER TABLE unlogged RENAME TO more";
    let attach = "ALTER TABLE events ATTACH PARTITION more FOR VALUES IN (3)";
    let refused = after_waiting(&cluster, &mut client, rename, attach).unwrap_err();
    let message = refused.as_db_error().unwrap().message();
    assert_eq!(message, "cannot attach public.more as a partition of tracked table public.events");
}

// ---- DROP SCHEMA and DROP OWNED -----------------------------------------------------------------------------------------

/// Of two tables the older one is locked first.
const SCHEMAS: &str = "
CREATE ROLE bob; CREATE SCHEMA s; CREATE SCHEMA other;
CREATE TABLE s.t1 (id int PRIMARY KEY);
CREATE TABLE s.t2 (id int PRIMARY KEY);
CREATE TABLE other.t3 (id int PRIMARY KEY);
INSERT INTO s.t1 VALUES (1); INSERT INTO s.t2 VALUES (1); INSERT INTO other.t3 VALUES (1);
ALTER TABLE s.t1 OWNER TO bob; ALTER TABLE s.t2 OWNER TO bob;
SELECT ledger.track('s.t1'), ledger.track('s.t2'), ledger.track('other.t3');";

const UNTRACKED: &str = "SELECT metadata->>'table' FROM ledger.entries WHERE entry_type = 'table_untracked' ORDER BY 1";

/// While the command waits for the first table, `change` takes the second one out of its reach.
#[track_caller]
fn assert_spared(command: &'static str, change: &str, spared: &str) {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute(SCHEMAS).unwrap();
    client.batch_execute("BEGIN; LOCK TABLE s.t1 IN ACCESS SHARE MODE").unwrap();
    let dropping = waiting(&cluster, cluster.connect("postgres"), command);
    cluster.connect("postgres").batch_execute(change).unwrap();
    client.batch_execute("COMMIT").unwrap();
    in_time("the command", || dropping.join().unwrap()).unwrap();
    assert_eq!(column(&mut client, UNTRACKED), ["s.t1"], "{command}");
    let before = row_entries(&mut client, spared);
    client.batch_execute(&format!("INSERT INTO {spared} VALUES (2)")).unwrap();
    assert_eq!(row_entries(&mut client, spared) - before, 1, "{command}");
    assert_clean(&mut client, spared);
}

#[test]
fn a_table_that_leaves_a_schema_before_it_is_dropped_stays_tracked() {
    let change = "ALTER TABLE s.t2 SET SCHEMA other";
    assert_spared("DROP SCHEMA s CASCADE", change, "other.t2");
    // An isolated transaction drops what is there when it does, too.
    assert_spared("BEGIN ISOLATION LEVEL REPEATABLE READ; DROP SCHEMA s CASCADE; COMMIT", change, "other.t2");
}

#[test]
fn a_table_that_is_given_away_before_the_rest_is_dropped_stays_tracked() {
    assert_spared("DROP OWNED BY bob CASCADE", "ALTER TABLE s.t2 OWNER TO postgres", "s.t2");
}

#[test]
fn a_table_that_comes_into_a_schema_before_it_is_dropped_is_said_to_be_gone() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute(SCHEMAS).unwrap();
    let change = "ALTER TABLE other.t3 SET SCHEMA s";
    after_waiting(&cluster, &mut client, change, "DROP SCHEMA s CASCADE").unwrap();
    assert_eq!(column(&mut client, UNTRACKED), ["s.t1", "s.t2", "s.t3"]);
    assert!(all_valid(&mut client));
}

/// The command finds the table locked, and without a trigger.
#[test]
fn a_table_that_is_tracked_for_the_first_time_before_it_is_dropped_is_said_to_be_gone() {
    for command in ["DROP SCHEMA s CASCADE", "DROP OWNED BY bob CASCADE"] {
        let (cluster, mut client) = start(Options::new());
        client.batch_execute(SCHEMAS).unwrap();
        client.batch_execute("CREATE TABLE s.t4 (id int PRIMARY KEY); ALTER TABLE s.t4 OWNER TO bob").unwrap();
        after_waiting(&cluster, &mut client, "SELECT ledger.track('s.t4')", command).unwrap();
        assert_eq!(column(&mut client, UNTRACKED), ["s.t1", "s.t2", "s.t4"], "{command}");
        assert!(all_valid(&mut client), "{command}");
    }
}

#[test]
fn the_rows_of_a_partition_are_recorded_if_its_table_is_tracked_for_the_first_time_before_it_is_dropped() {
    for command in ["DROP SCHEMA s CASCADE", "DROP OWNED BY bob CASCADE"] {
        let (cluster, mut client) = start(Options::new());
        client
            .batch_execute(
                "CREATE ROLE bob; CREATE SCHEMA s;
                 CREATE TABLE events (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
                 CREATE TABLE s.events_1 PARTITION OF events FOR VALUES IN (1);
                 CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
                 ALTER TABLE s.events_1 OWNER TO bob;
                 INSERT INTO events VALUES (1, 1), (2, 1), (3, 2)",
            )
            .unwrap();
        after_waiting(&cluster, &mut client, "SELECT ledger.track('events')", command).unwrap();
        assert_eq!(column(&mut client, "SELECT id FROM events"), ["3"], "{command}");
        let deleted = "SELECT metadata->'key'->>'id' FROM ledger.entries WHERE entry_type = 'table_delete' ORDER BY 1";
        assert_eq!(column(&mut client, deleted), ["1", "2"], "{command}");
        assert_clean(&mut client, "events");
    }
}

/// Runs DROP OWNED, and makes a change after it has listed bob's tables, when it is going to record that they go.
fn drop_owned_while_listed(cluster: &Cluster, client: &mut Client, change: &str) -> Result<(), Error> {
    client.batch_execute("BEGIN; LOCK TABLE ledger.entries_pending IN EXCLUSIVE MODE").unwrap();
    let dropping = waiting(cluster, cluster.connect("postgres"), DROP_OWNED);
    cluster.connect("postgres").batch_execute(change).unwrap();
    client.batch_execute("COMMIT").unwrap();
    in_time("the command", || dropping.join().unwrap())
}

const DROP_OWNED: &str = "DROP OWNED BY bob CASCADE";

#[test]
fn a_table_that_is_given_to_a_role_when_the_others_are_listed_is_said_to_be_gone() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute(SCHEMAS).unwrap();
    drop_owned_while_listed(&cluster, &mut client, "ALTER TABLE other.t3 OWNER TO bob").unwrap();
    assert_eq!(column(&mut client, UNTRACKED), ["other.t3", "s.t1", "s.t2"]);
    assert!(all_valid(&mut client));
}

#[test]
fn a_partition_that_is_given_to_a_role_when_the_others_are_listed_does_not_go_without_its_rows() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute(SCHEMAS).unwrap();
    client.batch_execute(EVENTS).unwrap();
    let change = "ALTER TABLE events_1 OWNER TO bob";
    let refused = drop_owned_while_listed(&cluster, &mut client, change).unwrap_err();
    let message = refused.as_db_error().unwrap().message();
    assert_eq!(message, "cannot drop partition public.events_1 of tracked table public.events by this command");
    assert!(column(&mut client, UNTRACKED).is_empty());
    // As the hint says.
    client.batch_execute(DROP_OWNED).unwrap();
    assert_eq!(column(&mut client, UNTRACKED), ["s.t1", "s.t2"]);
    assert_eq!(column(&mut client, "SELECT DISTINCT day FROM events"), ["2"]);
    assert_clean(&mut client, "events");
}

// ---- track() and untrack() ----------------------------------------------------------------------------------------------

#[test]
fn a_former_owner_neither_ends_nor_changes_the_tracking_of_a_table() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE ROLE alice LOGIN; CREATE ROLE bob; CREATE TABLE jobs (id int PRIMARY KEY); INSERT INTO jobs VALUES (1);
             SELECT ledger.track('jobs')",
        )
        .unwrap();
    for call in ["SELECT ledger.untrack('jobs')", "SELECT ledger.track('jobs', keep_image => true)"] {
        client.batch_execute("ALTER TABLE jobs OWNER TO alice").unwrap();
        client.batch_execute("BEGIN; ALTER TABLE jobs OWNER TO bob").unwrap();
        let calling = waiting(&cluster, cluster.connect_as("alice", "postgres"), call);
        client.batch_execute("COMMIT").unwrap();
        let refused = in_time("the call", || calling.join().unwrap()).unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{call}: {refused:?}");
    }
    assert!(column(&mut client, UNTRACKED).is_empty());
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_tracked'"), 1);
    assert_clean(&mut client, "jobs");
}

// ---- a row that is recorded -----------------------------------------------------------------------------------------------

/// The session has looked up the columns' types when it waits, and must not remember them as they were.
#[test]
fn rows_are_recorded_under_the_name_that_a_type_was_given_while_the_first_one_waited() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE SCHEMA early; CREATE TYPE early.mood AS ENUM ('good');
             CREATE TABLE days (id int PRIMARY KEY, mood early.mood); SELECT ledger.track('days')",
        )
        .unwrap();
    let rename = "LOCK TABLE ledger.baselines IN ACCESS EXCLUSIVE MODE; ALTER SCHEMA early RENAME TO late";
    let inserts = "INSERT INTO days VALUES (1, 'good'); INSERT INTO days VALUES (2, 'good')";
    after_waiting(&cluster, &mut client, rename, inserts).unwrap();
    let columns = value(
        &mut client,
        "SELECT s.definition::text FROM ledger.entries AS e \
         JOIN ledger.table_shapes AS s ON replace(s.shape::text, '-', '') = e.metadata->>'shape' \
         WHERE e.entry_type = 'table_insert' AND (e.metadata->'key'->>'id')::int = 2",
    );
    assert!(columns.contains("late.mood"), "{columns}");
    assert_clean(&mut client, "days");
}
