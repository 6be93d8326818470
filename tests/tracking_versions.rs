//! Which entries are about a row is noted in runs that sealing merges as they become many. Whatever passes have sealed
//! the entries about a row, and whatever has been merged since, they are all found, in their order.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tampering::TRIGGERS_OFF;
use crate::common::tracking::*;
use crate::common::{Cluster, Options, Stop};
use postgres::Client;
use std::collections::HashSet;

fn start_tracked() -> (Cluster, Client) {
    let (cluster, mut client) = start(quiet().conf("ledger.mirror_mode = off"));
    client.batch_execute("CREATE TABLE items (id int PRIMARY KEY, note text); SELECT ledger.track('items')").unwrap();
    (cluster, client)
}

fn pass(client: &mut Client, changes: &str) {
    client.batch_execute(&format!("{changes}; SELECT * FROM ledger.commit_block()")).unwrap();
}

/// A pass each, of different sizes.
fn many_passes(client: &mut Client, count: i32) {
    for number in 0..count {
        let some = format!("id % {} = 0 OR id = 1", 1 + number * 7 % 50);
        pass(client, &format!("UPDATE items SET note = '{number}' WHERE {some}"));
    }
}

/// What history() says of the rows is what a search of all entries says.
#[track_caller]
fn assert_found(client: &mut Client, ids: &[i32]) {
    for id in ids {
        let by_history =
            format!("SELECT entry_id FROM ledger.history('items', jsonb_build_object('id', {id})) ORDER BY version");
        let by_search = format!(
            "SELECT id FROM ledger.entries WHERE metadata->'key'->>'id' = '{id}' OR metadata->'old_key'->>'id' = '{id}'
             ORDER BY created_at, id"
        );
        let ids = |client: &mut Client, sql: &str| column(client, &format!("SELECT q::text FROM ({sql}) AS r(q)"));
        assert_eq!(ids(client, &by_history), ids(client, &by_search), "row {id}");
    }
}

/// The runs are as many places as there are entries about rows; gives how many runs there are.
#[track_caller]
fn runs(client: &mut Client) -> i64 {
    let noted = format!("SELECT sum(length)::bigint FROM ({RUNS}) r");
    let places = number(client, "SELECT sum(length(places) / 40)::bigint FROM ledger.row_versions WHERE run > 0");
    assert_eq!(number(client, &noted), places);
    let entries = "SELECT count(*) + count(metadata->'old_key') FROM ledger.entries_sealed WHERE metadata ? 'key'";
    assert_eq!(number(client, entries), places);
    let unknown = format!(
        "SELECT count(*) FROM ledger.row_versions
         WHERE abs(run) NOT IN (SELECT number FROM ({RUNS}) r WHERE length > 0)"
    );
    assert_eq!(number(client, &unknown), 0);
    let mismatch = "SELECT count(*) FROM ledger.find_tampering() WHERE problem = 'row_versions_mismatch'";
    assert_eq!(number(client, mismatch), 0);
    number(client, &format!("SELECT count(*) FROM ({RUNS}) r"))
}

/// What is noted of each run.
const RUNS: &str =
    "SELECT n[4 * i + 1] AS number, n[4 * i + 2] AS length, n[4 * i + 3] AS target, n[4 * i + 4] AS moved
    FROM (SELECT version_runs AS n FROM ledger.log_state) AS l, generate_series(0, cardinality(n) / 4 - 1) AS i";

#[test]
fn the_history_of_a_row_is_whole_however_many_passes_have_sealed_it() {
    let (cluster, mut client) = start_tracked();
    pass(&mut client, "INSERT INTO items SELECT n, 'new' FROM generate_series(1, 500) n");
    many_passes(&mut client, 90);
    // More than a chunk holds, of one row, and a row that moves.
    pass(&mut client, "DO $$ BEGIN FOR i IN 1..700 LOOP UPDATE items SET note = i WHERE id = 2; END LOOP; END $$");
    pass(&mut client, "UPDATE items SET id = 1000 WHERE id = 3");
    pass(&mut client, "DELETE FROM items WHERE id = 4");
    let ids = [1, 2, 3, 4, 7, 49, 250, 499, 500, 1000];
    assert_found(&mut client, &ids);
    // Four sizes, each eight times the one before, and less than eight runs of each.
    let runs_now = runs(&mut client);
    assert!(runs_now <= 28, "{runs_now} runs");
    many_passes(&mut client, 20);
    cluster.restart(Stop::Immediate);
    let mut client = cluster.connect("postgres");
    assert_found(&mut client, &ids);
    runs(&mut client);
    let verified =
        "SELECT bool_and((ledger.verify_row('items', jsonb_build_object('id', id))->>'verified')::boolean) FROM items";
    assert!(is_true(&mut client, &format!("({verified})")));
    assert_clean(&mut client, "items");
}

/// Two changes of a row in one microsecond, of which the later one is sealed first: which row it is is told by the
/// later one.
#[test]
fn of_changes_of_the_same_time_the_newest_is_told_by_its_id_whatever_was_sealed_first() {
    let (_cluster, mut client) = start_tracked();
    pass(&mut client, "INSERT INTO items SELECT n, 'new' FROM generate_series(1, 3) n");
    let change = "UPDATE items SET note = 'a' WHERE id = 2; UPDATE items SET note = 'b' WHERE id = 2";
    client.batch_execute(&format!("{change}; {TRIGGERS_OFF}")).unwrap();
    let same_time =
        "UPDATE ledger.entries_pending SET created_at = (SELECT max(created_at) FROM ledger.entries_pending)";
    let take_out = "CREATE TABLE earlier AS SELECT * FROM ledger.entries_pending ORDER BY id LIMIT 1; \
        DELETE FROM ledger.entries_pending WHERE id = (SELECT id FROM earlier)";
    pass(&mut client, &format!("{same_time}; {take_out}"));
    pass(&mut client, "INSERT INTO ledger.entries_pending SELECT * FROM earlier");
    let sealed = "SELECT DISTINCT block_number FROM ledger.entries_sealed WHERE metadata->'key'->>'id' = '2'";
    assert_eq!(column(&mut client, sealed).len(), 3);
    client.batch_execute(TRACKING_ON).unwrap();
    assert_found(&mut client, &[2]);
    let verified = "(ledger.verify_row('items', '{\"id\": 2}')->>'verified')::boolean";
    assert!(
        is_true(&mut client, verified),
        "{}",
        value(&mut client, "SELECT ledger.verify_row('items', '{\"id\": 2}')")
    );
    client.batch_execute("SELECT ledger.verified(items) FROM items WHERE id = 2").unwrap();
}

#[test]
fn a_transaction_finds_the_entries_of_its_snapshot_while_runs_are_merged() {
    let (cluster, mut client) = start_tracked();
    pass(&mut client, "INSERT INTO items SELECT n, 'new' FROM generate_series(1, 300) n");
    many_passes(&mut client, 6);
    let mut reader = cluster.connect("postgres");
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    let history = "SELECT entry_id::text FROM ledger.history('items', '{\"id\": 1}') ORDER BY version";
    let before = column(&mut reader, history);
    many_passes(&mut client, 40);
    client.batch_execute("VACUUM ledger.row_versions").unwrap();
    assert_eq!(column(&mut reader, history), before);
    assert_found(&mut reader, &[1, 2, 300]);
    reader.batch_execute("COMMIT").unwrap();
    assert_eq!(column(&mut reader, history).len(), before.len() + 40);
}

#[test]
fn a_pass_that_is_rolled_back_leaves_the_runs_as_they_were() {
    let (_cluster, mut client) = start_tracked();
    pass(&mut client, "INSERT INTO items SELECT n, 'new' FROM generate_series(1, 300) n");
    many_passes(&mut client, 7);
    let runs_before = value(&mut client, "SELECT version_runs::text FROM ledger.log_state");
    for _ in 0..3 {
        client.batch_execute("BEGIN").unwrap();
        pass(&mut client, "UPDATE items SET note = 'undone'");
        pass(&mut client, "UPDATE items SET note = 'undone, too'");
        client.batch_execute("ROLLBACK").unwrap();
    }
    assert_eq!(value(&mut client, "SELECT version_runs::text FROM ledger.log_state"), runs_before);
    assert_found(&mut client, &[1, 100]);
    many_passes(&mut client, 3);
    assert_found(&mut client, &[1, 100, 300]);
    runs(&mut client);
    assert_clean(&mut client, "items");
}

// ---- long runs --------------------------------------------------------------------------------------------------------------

/// With sizes of runs by which a small ledger has merges under way, and filters.
fn start_tracked_with_long_runs() -> (Cluster, Client) {
    let settings = Options::new().conf("ledger.block_size = 1000").conf("ledger.block_interval = 1h");
    let settings = settings.conf("ledger.mirror_mode = off").env("PG_NOTARY_FAULT_SMALL_RUNS", "1");
    let (cluster, mut client) = start(settings);
    client.batch_execute("CREATE TABLE items (id int PRIMARY KEY, note text); SELECT ledger.track('items')").unwrap();
    pass(&mut client, "INSERT INTO items SELECT n, 'new' FROM generate_series(1, 400) n");
    (cluster, client)
}

/// Passes until a merge is under way of which some places have been moved and some have not.
fn pass_until_midway(client: &mut Client) {
    let midway = format!("(SELECT count(*) FILTER (WHERE target > 0 AND moved <> 0) > 0 FROM ({RUNS}) r)");
    let mut number = 0;
    while !is_true(client, &midway) {
        number += 1;
        assert!(number < 200, "no merge has come halfway");
        pass(client, &format!("UPDATE items SET note = '{number}' WHERE id % 7 = {number} % 7"));
    }
}

/// A row at a time, as many as there are: those that have been moved, those that have not, and some that never were.
#[track_caller]
fn assert_all_found(client: &mut Client) {
    assert_history_is_whole(client);
    let verified = "SELECT bool_and((ledger.verify_row('items', jsonb_build_object('id', id))->>'verified')::boolean)
        FROM items WHERE id <= 2000";
    assert!(is_true(client, &format!("({verified})")));
    runs(client);
}

#[test]
fn every_row_is_found_at_each_step_of_a_merge() {
    let (_cluster, mut client) = start_tracked_with_long_runs();
    // With that of the first rows, as many runs as become one.
    (0..7).for_each(|number| pass(&mut client, &format!("UPDATE items SET note = 'all {number}'")));
    let mut steps = HashSet::new();
    for number in 0..300 {
        // Some of all rows, single ones, one that has more versions than a step moves, and rows that come, go and move.
        let changes = match number % 6 {
            0 => format!("UPDATE items SET note = '{number}' WHERE id % 9 = {number} % 9"),
            1 => format!("UPDATE items SET note = '{number}' WHERE id = {number}"),
            2 => format!("INSERT INTO items SELECT 500 + n, '' FROM generate_series({number}, {number} + 3) n"),
            3 => format!("DELETE FROM items WHERE id = {number} + 1"),
            4 => format!("UPDATE items SET id = id + 1000 WHERE id BETWEEN {number} AND {number} + 1"),
            _ => "DO $$ BEGIN FOR i IN 1..30 LOOP UPDATE items SET note = i WHERE id = 5; END LOOP; END $$".to_owned(),
        };
        pass(&mut client, &changes);
        let under_way =
            format!("SELECT array_agg((number, target, moved))::text FROM ({RUNS}) r WHERE target > 0 AND moved <> 0");
        if is_true(&mut client, &format!("(({under_way}) IS NOT NULL)")) && steps.insert(value(&mut client, &under_way))
        {
            assert_all_found(&mut client);
        }
    }
    assert!(steps.len() > 15, "{} steps", steps.len());
    assert_clean(&mut client, "items");
    let filters = number(&mut client, "SELECT count(*) FROM ledger.row_versions WHERE run < 0");
    assert!(filters > 20, "{filters} filters");
}

#[test]
fn a_merge_that_is_under_way_goes_on_after_a_crash() {
    let (cluster, mut client) = start_tracked_with_long_runs();
    for _ in 0..3 {
        pass_until_midway(&mut client);
        client.batch_execute("BEGIN").unwrap();
        pass(&mut client, "UPDATE items SET note = 'lost'");
        cluster.kill9_everything();
        cluster.start_again();
        client = cluster.connect("postgres");
        assert_all_found(&mut client);
        pass(&mut client, "UPDATE items SET note = 'after the crash'");
        assert_all_found(&mut client);
        many_passes(&mut client, 8);
    }
    assert_clean(&mut client, "items");
}

#[test]
fn a_pass_that_is_rolled_back_takes_its_steps_with_it() {
    let (_cluster, mut client) = start_tracked_with_long_runs();
    pass_until_midway(&mut client);
    let all = format!("SELECT array_agg(r)::text FROM ({RUNS}) r");
    let before = value(&mut client, &all);
    for _ in 0..3 {
        client.batch_execute("BEGIN").unwrap();
        for _ in 0..4 {
            pass(&mut client, "UPDATE items SET note = 'undone'");
        }
        assert_ne!(value(&mut client, &all), before);
        assert_all_found(&mut client);
        client.batch_execute("ROLLBACK").unwrap();
        assert_eq!(value(&mut client, &all), before);
        assert_all_found(&mut client);
    }
    // Several passes in one transaction go on from one another.
    client.batch_execute("BEGIN").unwrap();
    for _ in 0..10 {
        pass(&mut client, "UPDATE items SET note = 'kept'");
    }
    client.batch_execute("COMMIT").unwrap();
    assert_all_found(&mut client);
}

#[test]
fn a_transaction_finds_the_entries_of_its_snapshot_while_places_are_moved() {
    let (cluster, mut client) = start_tracked_with_long_runs();
    pass_until_midway(&mut client);
    let mut reader = cluster.connect("postgres");
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    assert_all_found(&mut reader);
    for _ in 0..5 {
        many_passes(&mut client, 10);
        client.batch_execute("VACUUM ledger.row_versions").unwrap();
        assert_all_found(&mut reader);
    }
    reader.batch_execute("COMMIT").unwrap();
    assert_all_found(&mut reader);
}

#[test]
fn passes_without_entries_about_rows_leave_a_merge_where_it_is() {
    let (_cluster, mut client) = start_tracked_with_long_runs();
    pass_until_midway(&mut client);
    let all = format!("SELECT array_agg(r)::text FROM ({RUNS}) r");
    let before = value(&mut client, &all);
    for _ in 0..5 {
        pass(
            &mut client,
            "SELECT ledger.hash_and_record('other', jsonb_build_object('n', n)) FROM generate_series(1, 300) n",
        );
    }
    assert_eq!(value(&mut client, &all), before);
    pass(&mut client, "UPDATE items SET note = 'on'");
    assert_ne!(value(&mut client, &all), before);
    assert_all_found(&mut client);
}

/// A filter that is gone costs time, and hides nothing.
#[test]
fn a_row_is_found_without_a_filter() {
    let (_cluster, mut client) = start_tracked_with_long_runs();
    many_passes(&mut client, 60);
    client
        .batch_execute(&format!("{TRIGGERS_OFF}; DELETE FROM ledger.row_versions WHERE run < 0; {TRACKING_ON}"))
        .unwrap();
    assert_all_found(&mut client);
    many_passes(&mut client, 60);
    assert_all_found(&mut client);
}

/// An import seals some thousands of entries at a time, in whole blocks.
#[test]
fn every_row_is_found_after_an_import_that_ends_in_the_middle_of_a_merge() {
    let (cluster, mut client) = start_tracked_with_long_runs();
    many_passes(&mut client, 3);
    // With those before, eight times what an import seals at once, and a bit more.
    pass(&mut client, "INSERT INTO items SELECT n, 'many' FROM generate_series(2001, 44000) n");
    let exported = cluster.data_dir().join("exported.jsonl");
    client.batch_execute(&format!("COPY ledger.entries TO '{}' WITH (FORMAT jsonl)", exported.display())).unwrap();
    client.batch_execute(&format!("{TRIGGERS_OFF}; ALTER TABLE ledger.import ENABLE TRIGGER ALL")).unwrap();
    client.batch_execute("TRUNCATE ledger.blocks, ledger.entries, ledger.log_nodes, ledger.row_versions").unwrap();
    client.batch_execute("UPDATE ledger.log_state SET version_runs = '{}', frontier = ''").unwrap();
    client.batch_execute(&format!("COPY ledger.entries FROM '{}' WITH (FORMAT jsonl)", exported.display())).unwrap();
    client.batch_execute(TRACKING_ON).unwrap();
    assert!(number(&mut client, &format!("SELECT count(*) FROM ({RUNS}) r WHERE target > 0")) > 0);
    assert_all_found(&mut client);
    pass_until_midway(&mut client);
    assert_all_found(&mut client);
    many_passes(&mut client, 20);
    assert_all_found(&mut client);
}
