//! Which entries are about a row is noted in runs that sealing merges as they become many. Whatever passes have sealed the
//! entries about a row, and whatever has been merged since, they are all found, in their order.
#![cfg(feature = "cluster-tests")]

mod common;

use common::ledger::*;
use common::tracking::*;
use common::{Cluster, Options, Stop};
use postgres::Client;

fn start_tracked() -> (Cluster, Client) {
    let settings = Options::new().conf("ledger.block_size = 10000").conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(settings.conf("ledger.mirror_mode = off"));
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
    let noted = "SELECT sum(length)::bigint FROM ledger.log_state,
        unnest(version_runs) WITH ORDINALITY AS r(length, at) WHERE at % 2 = 0";
    let places = number(client, "SELECT sum(length(places) / 40)::bigint FROM ledger.row_versions");
    assert_eq!(number(client, noted), places);
    let entries = "SELECT count(*) + count(metadata->'old_key') FROM ledger.entries_sealed WHERE metadata ? 'key'";
    assert_eq!(number(client, entries), places);
    number(client, "SELECT (cardinality(version_runs) / 2)::bigint FROM ledger.log_state")
}

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

/// Two changes of a row in one microsecond, of which the later one is sealed first: which row it is is told by the later one.
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
