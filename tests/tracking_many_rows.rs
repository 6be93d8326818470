//! A query that looks up many rows does not read all pending entries for each of them. What it finds is the same all
//! the same: whatever the transaction, its savepoints and others do between two queries.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{Cluster, Options};
use postgres::Client;

const ROWS: i64 = 300;

/// All rows are pending, and sealed ones were in the table before them.
fn start_tracked() -> (Cluster, Client) {
    let (cluster, mut client) = start(quiet().conf("ledger.mirror_mode = off"));
    client
        .batch_execute(&format!(
            "CREATE TABLE items (id int PRIMARY KEY, note text); SELECT ledger.track('items');
             INSERT INTO items SELECT n, 'sealed' FROM generate_series(1, 2000) n; SELECT FROM ledger.commit_block();
             DELETE FROM items; SELECT FROM ledger.commit_block();
             INSERT INTO items SELECT n, 'new' FROM generate_series(1, {ROWS}) n"
        ))
        .unwrap();
    (cluster, client)
}

#[track_caller]
fn assert_verified(client: &mut Client) {
    assert_eq!(number(client, "SELECT count(ledger.verified(i)) FROM items AS i"), ROWS);
}

/// How often this transaction has read the pending entries, from one to the last. What the transaction before did may
/// be counted, too, if there was one in the last second.
fn passes(client: &mut Client) -> i64 {
    let sql = "SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_xact_user_tables
               WHERE relid = 'ledger.entries_pending'::regclass";
    number(client, sql)
}

/// In how many passes `work` is done, in one transaction.
fn passes_of(client: &mut Client, work: impl FnOnce(&mut Client)) -> i64 {
    let before = passes(client);
    work(client);
    passes(client) - before
}

fn begin(client: &mut Client, level: &str) {
    client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}")).unwrap();
}

fn commit(client: &mut Client) {
    client.batch_execute("COMMIT").unwrap();
}

#[test]
fn any_number_of_rows_is_looked_up_in_two_passes_through_the_pending_entries() {
    let (_cluster, mut client) = start_tracked();
    begin(&mut client, "READ COMMITTED");
    assert_eq!(passes_of(&mut client, assert_verified), 2);
    // Nothing has happened since.
    assert_eq!(passes_of(&mut client, assert_verified), 0);
    let of_all = |call: &str| format!("SELECT count(*) FROM items, {call}");
    let history = of_all("ledger.history('items', jsonb_build_object('id', id))");
    assert_eq!(passes_of(&mut client, |client| assert_eq!(number(client, &history), 3 * ROWS)), 0);
    let rows = of_all("ledger.verify_row('items', jsonb_build_object('id', id)) AS v WHERE (v->>'verified')::boolean");
    assert_eq!(passes_of(&mut client, |client| assert_eq!(number(client, &rows), ROWS)), 0);
    commit(&mut client);
    begin(&mut client, "READ COMMITTED");
    let one = "SELECT count(ledger.verified(i)) FROM items AS i WHERE id = 7";
    assert_eq!(passes_of(&mut client, |client| assert_eq!(number(client, one), 1)), 1);
    commit(&mut client);
}

#[test]
fn where_a_list_of_the_pending_entries_would_take_too_much_memory_they_are_read_for_each_row() {
    let (_cluster, mut client) = start_tracked();
    client.batch_execute("CREATE TABLE more (id int PRIMARY KEY); SELECT ledger.track('more')").unwrap();
    client.batch_execute("INSERT INTO more SELECT generate_series(1, 9000); SET maintenance_work_mem = '1MB'").unwrap();
    let few = "SELECT count(ledger.verified(i)) FROM items AS i WHERE id <= 20";
    begin(&mut client, "READ COMMITTED");
    assert!(passes_of(&mut client, |client| assert_eq!(number(client, few), 20)) >= 20);
    commit(&mut client);
    client.batch_execute("SET maintenance_work_mem = '4MB'").unwrap();
    begin(&mut client, "READ COMMITTED");
    assert_eq!(passes_of(&mut client, assert_verified), 2);
    commit(&mut client);
}

/// Whatever is pending about a row: several versions, also of one time, another key, nothing.
#[test]
fn the_same_entries_are_found_as_by_a_search_of_all() {
    let (_cluster, mut client) = start_tracked();
    for change in [
        "UPDATE items SET note = 'a' WHERE id % 2 = 0",
        "SELECT FROM ledger.commit_block()",
        "UPDATE items SET note = 'b' WHERE id % 3 = 0",
        "UPDATE items SET id = id + 1000 WHERE id % 10 = 0",
        "DELETE FROM items WHERE id % 11 = 0",
        "DO $$ BEGIN FOR i IN 1..50 LOOP UPDATE items SET note = i WHERE id = 1; END LOOP; END $$",
    ] {
        client.batch_execute(change).unwrap();
    }
    assert_history_is_whole(&mut client);
    let newest = "WITH judged AS (
            SELECT ledger.verify_row('items', jsonb_build_object('id', i.id)) AS v, s.id AS entry
            FROM items AS i, LATERAL (
                SELECT e.id FROM ledger.entries AS e WHERE i.id::text IN (metadata->'key'->>'id', metadata->'old_key'->>'id')
                ORDER BY created_at DESC, e.id DESC LIMIT 1) AS s)
        SELECT count(*) FROM judged WHERE NOT (v->>'verified')::boolean OR (v->>'entry_id')::uuid <> entry";
    assert_eq!(number(&mut client, newest), 0);
    assert_clean(&mut client, "items");
}

#[test]
fn a_row_that_does_not_verify_is_found_among_many() {
    let (_cluster, mut client) = start_tracked();
    let off = APPLICATION_TRIGGERS_OFF;
    client.batch_execute(&format!("{off}; UPDATE items SET note = 'forged' WHERE id = 77; {TRACKING_ON}")).unwrap();
    let refused = error(&mut client, "SELECT count(ledger.verified(i)) FROM items AS i");
    assert!(all_text(&refused).contains("{\"id\": 77} of table public.items does not verify: modified"));
    let wrong = "SELECT id || ' ' || (v->>'problem')
        FROM items, ledger.verify_row('items', jsonb_build_object('id', id)) AS v
        WHERE v->>'problem' IS NOT NULL ORDER BY id";
    assert_eq!(column(&mut client, wrong), ["77 modified"]);
    client.batch_execute("TRUNCATE items").unwrap();
    client
        .batch_execute(&format!("{off}; INSERT INTO items SELECT n, 'new' FROM generate_series(1, 4) n; {TRACKING_ON}"))
        .unwrap();
    assert_eq!(column(&mut client, wrong), ["1 resurrected", "2 resurrected", "3 resurrected", "4 resurrected"]);
}

#[test]
fn a_transaction_finds_what_it_has_written_since_it_last_looked() {
    let (_cluster, mut client) = start_tracked();
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        begin(&mut client, level);
        for note in ["one", "two"] {
            assert_verified(&mut client);
            client.batch_execute(&format!("UPDATE items SET note = '{note}' WHERE id % 7 = 0")).unwrap();
        }
        assert_verified(&mut client);
        // What it seals is not pending any more.
        client.batch_execute("SELECT FROM ledger.commit_block()").unwrap();
        assert_verified(&mut client);
        commit(&mut client);
    }
    let function = "DO $$ BEGIN FOR i IN 1..20 LOOP
        UPDATE items SET note = i WHERE id <= 3;
        PERFORM ledger.verified(t) FROM items AS t WHERE id <= 5;
        END LOOP; END $$";
    client.batch_execute(function).unwrap();
    assert_verified(&mut client);
}

/// A rollback to a savepoint does not change the number of the next command, nor the rest of the snapshot.
#[test]
fn what_a_savepoint_has_taken_back_is_not_found_any_more() {
    let (_cluster, mut client) = start_tracked();
    for level in ["READ COMMITTED", "REPEATABLE READ"] {
        begin(&mut client, level);
        assert_verified(&mut client);
        client.batch_execute("SAVEPOINT s; UPDATE items SET note = 'undone' WHERE id % 7 = 0").unwrap();
        assert_verified(&mut client);
        client.batch_execute("ROLLBACK TO s").unwrap();
        assert_verified(&mut client);
        client.batch_execute("SELECT FROM ledger.commit_block()").unwrap();
        assert_verified(&mut client);
        client.batch_execute("ROLLBACK TO s").unwrap();
        assert_verified(&mut client);
        client.batch_execute("UPDATE items SET note = 'kept' WHERE id % 5 = 0; RELEASE s").unwrap();
        assert_verified(&mut client);
        commit(&mut client);
        assert_verified(&mut client);
    }
}

#[test]
fn a_query_finds_what_others_have_committed_before_it() {
    let (cluster, mut client) = start_tracked();
    let mut reader = cluster.connect("postgres");
    begin(&mut reader, "READ COMMITTED");
    for note in ["one", "two", "three"] {
        assert_verified(&mut reader);
        client.batch_execute(&format!("UPDATE items SET note = '{note}' WHERE id % 7 = 0")).unwrap();
        assert_verified(&mut reader);
        client.batch_execute("SELECT FROM ledger.commit_block()").unwrap();
        client.batch_execute("VACUUM ledger.entries_pending").unwrap();
    }
    // One that was running when it looked, and a later one that had ended: then only the former tells the snapshots
    // apart.
    client.batch_execute("BEGIN; UPDATE items SET note = 'four' WHERE id % 7 = 0").unwrap();
    cluster.connect("postgres").batch_execute("SELECT pg_current_xact_id()").unwrap();
    assert_verified(&mut reader);
    commit(&mut client);
    assert_verified(&mut reader);
    commit(&mut reader);
}

#[test]
fn a_transaction_with_one_snapshot_finds_what_others_have_sealed_and_vacuumed_since() {
    let (cluster, mut client) = start_tracked();
    let mut reader = cluster.connect("postgres");
    begin(&mut reader, "REPEATABLE READ");
    assert_verified(&mut reader);
    client.batch_execute("UPDATE items SET note = 'later'; SELECT FROM ledger.commit_block()").unwrap();
    client.batch_execute("VACUUM ledger.entries_pending").unwrap();
    client.batch_execute("UPDATE items SET note = 'latest'").unwrap();
    assert_eq!(passes_of(&mut reader, assert_verified), 0);
    let versions = "SELECT operation FROM ledger.history('items', '{\"id\": 7}') ORDER BY version";
    assert_eq!(column(&mut reader, versions), ["insert", "delete", "insert"]);
    commit(&mut reader);
    assert_eq!(column(&mut reader, versions), ["insert", "delete", "insert", "update", "update"]);
    assert_verified(&mut reader);
}

#[test]
fn a_cursor_finds_what_its_query_sees_whatever_is_written_between_its_rows() {
    let (_cluster, mut client) = start_tracked();
    let declare = "DECLARE c CURSOR FOR SELECT (ledger.verified(i)).note FROM items AS i ORDER BY id";
    begin(&mut client, "READ COMMITTED");
    client.batch_execute(declare).unwrap();
    let read = passes_of(&mut client, |client| {
        for number in 1..=10 {
            assert_eq!(column(client, "FETCH 20 FROM c"), ["new"; 20]);
            if number == 5 {
                client.batch_execute("UPDATE items SET note = 'written'").unwrap();
            }
            assert_verified(client);
        }
    });
    // Two for each snapshot: the cursor's, which is also that of queries before the change, and that of those after it.
    assert_eq!(read, 4);
    client.batch_execute("SAVEPOINT s; UPDATE items SET note = 'undone'; ROLLBACK TO s").unwrap();
    assert_eq!(column(&mut client, "FETCH 50 FROM c"), ["new"; 50]);
    commit(&mut client);
    assert_verified(&mut client);
}

/// A DBA may do so. The cursor's snapshot is the same before and after.
#[test]
fn entries_are_found_where_they_stand_after_their_table_was_rewritten() {
    let (_cluster, mut client) = start_tracked();
    begin(&mut client, "READ COMMITTED");
    client.batch_execute("DECLARE c CURSOR FOR SELECT (ledger.verified(i)).note FROM items AS i").unwrap();
    assert_eq!(column(&mut client, "FETCH 20 FROM c"), ["new"; 20]);
    let place = "SELECT min(ctid)::text FROM ledger.entries_pending";
    let before = value(&mut client, place);
    client.batch_execute("CLUSTER ledger.entries_pending USING entries_pending_pkey").unwrap();
    assert_ne!(value(&mut client, place), before);
    assert_eq!(column(&mut client, "FETCH 20 FROM c"), ["new"; 20]);
    commit(&mut client);
    assert_verified(&mut client);
}

#[test]
fn a_standby_finds_what_it_has_replayed() {
    let (primary, mut client) = start_tracked();
    let standby = Options::new().conf("ledger.mirror_mode = off").standby_of(&primary);
    let mut reader = standby.connect("postgres");
    catch_up(&mut client, &mut reader);
    begin(&mut reader, "READ COMMITTED");
    assert_eq!(passes_of(&mut reader, assert_verified), 2);
    for note in ["one", "two"] {
        client.batch_execute(&format!("UPDATE items SET note = '{note}' WHERE id % 7 = 0")).unwrap();
        catch_up(&mut client, &mut reader);
        assert_verified(&mut reader);
        client.batch_execute("SELECT FROM ledger.commit_block()").unwrap();
        catch_up(&mut client, &mut reader);
        assert_verified(&mut reader);
    }
    commit(&mut reader);
    assert_eq!(value(&mut reader, "SELECT pg_promote()"), "t");
    assert_verified(&mut reader);
}
