//! Whom track() and untrack() wait for, and whom they hold up.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;

const TABLES: &str = "
CREATE TABLE jobs (id int PRIMARY KEY, tries int);
INSERT INTO jobs VALUES (1, 0), (2, 0);
CREATE TABLE events (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
INSERT INTO events VALUES (1, 1, 'x');";

#[test]
fn a_call_that_changes_nothing_waits_for_nobody_and_holds_nobody_up() {
    let (cluster, mut client) = start_with(TABLES);
    client.batch_execute("SELECT ledger.track('jobs'), ledger.track('events', excluded => '{note}')").unwrap();
    let mut writer = cluster.connect("postgres");
    writer.batch_execute("BEGIN; UPDATE jobs SET tries = 1; INSERT INTO events VALUES (2, 1, 'y')").unwrap();
    client.batch_execute("SET lock_timeout = '10s'; BEGIN").unwrap();
    client.batch_execute("SELECT ledger.track('jobs'), ledger.track('events', excluded => '{note}')").unwrap();
    writer.batch_execute("SET lock_timeout = '10s'; UPDATE jobs SET tries = 2; DELETE FROM events; COMMIT").unwrap();
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_tracked'"), 2);
}

/// With other options, the second call has to change what the first has made.
#[test]
fn two_who_track_a_table_at_once_do_not_deadlock_with_who_reads_it_for_update() {
    for again in ["SELECT ledger.track('jobs')", "SELECT ledger.track('jobs', keep_image => true)"] {
        let (cluster, mut client) = start_with(TABLES);
        let mut reader = cluster.connect("postgres");
        reader.batch_execute("BEGIN; SELECT FROM jobs WHERE id = 1 FOR UPDATE").unwrap();
        client.batch_execute("BEGIN; SELECT ledger.track('jobs')").unwrap();
        let second = waiting(&cluster, cluster.connect("postgres"), again);
        let change = waiting(&cluster, reader, "UPDATE jobs SET tries = 7 WHERE id = 1; COMMIT");
        client.batch_execute("COMMIT").unwrap();
        in_time("the update", || change.join().unwrap()).unwrap();
        in_time("the second call", || second.join().unwrap()).unwrap();
        assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.verify_table('jobs')"), 0, "{again}");
    }
}

#[test]
fn who_tracks_a_table_with_other_options_or_ends_it_does_not_deadlock_with_who_reads_it_for_update() {
    let (cluster, mut client) = start_with(TABLES);
    client.batch_execute("SELECT ledger.track('jobs')").unwrap();
    for change in ["SELECT ledger.track('jobs', columns => '{tries}')", "SELECT ledger.untrack('jobs')"] {
        client.batch_execute("BEGIN; SELECT FROM jobs WHERE id = 1 FOR UPDATE").unwrap();
        let changing = waiting(&cluster, cluster.connect("postgres"), change);
        client.batch_execute("UPDATE jobs SET tries = tries + 1 WHERE id = 1; COMMIT").unwrap();
        in_time("the change", || changing.join().unwrap()).unwrap();
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.tracked_tables"), 0);
}

/// The call waits for the migration's locks, and holds none on the table meanwhile.
#[test]
fn a_migration_that_goes_on_while_options_are_to_change_does_not_deadlock_with_that() {
    let (cluster, mut client) = start_with(TABLES);
    client.batch_execute("SELECT ledger.track('jobs')").unwrap();
    client.batch_execute("BEGIN; UPDATE jobs SET tries = 3").unwrap();
    let changing = waiting(&cluster, cluster.connect("postgres"), "SELECT ledger.track('jobs', keep_image => true)");
    client.batch_execute("ALTER TABLE jobs ADD COLUMN note text; CREATE INDEX ON jobs (note); COMMIT").unwrap();
    in_time("the change", || changing.join().unwrap()).unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.verify_table('jobs')"), 0);
}

/// The entry about the row covers the column that is left out from then on, so the first change to it is still
/// recorded.
#[test]
fn a_row_that_is_written_to_a_partition_while_a_column_is_to_be_left_out_is_clean() {
    let (cluster, mut client) = start_with(TABLES);
    client.batch_execute("SELECT ledger.track('events')").unwrap();
    // A session that knows the partition already locks nothing else when it writes to it.
    client.batch_execute("INSERT INTO events_1 VALUES (6, 1, 'x')").unwrap();
    client.batch_execute("BEGIN; LOCK TABLE events_1 IN ROW EXCLUSIVE MODE").unwrap();
    let change = "SELECT ledger.track('events', excluded => '{note}')";
    let changing = waiting(&cluster, cluster.connect("postgres"), change);
    client.batch_execute("INSERT INTO events_1 VALUES (7, 1, 'before'); COMMIT").unwrap();
    in_time("the change", || changing.join().unwrap()).unwrap();
    client.batch_execute("UPDATE events SET note = 'after' WHERE id = 7").unwrap();
    assert_eq!(column(&mut client, "SELECT problem FROM ledger.verify_table('events')"), Vec::<String>::new());
}
