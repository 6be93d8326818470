//! A command that has waited for a lock goes by the names, places and owners that tables have then, as Postgres does.
#![cfg(feature = "cluster-tests")]

mod common;

use common::ledger::*;
use common::tracking::*;
use common::{Cluster, Options};
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
