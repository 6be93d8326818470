//! Rows that were there before their table was tracked are recorded as they are, each once, while the application goes on.
#![cfg(feature = "cluster-tests")]

mod common;

use common::ledger::*;
use common::tracking::*;
use common::{Cluster, Options};
use postgres::error::SqlState;
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const ACCOUNTS: &str = "CREATE TABLE accounts (id int PRIMARY KEY, amount int NOT NULL, note text)";

/// A table of more than 64 pages, which the worker records.
fn start_large(rows: usize) -> (Cluster, Client) {
    let settings = Options::new().conf("ledger.block_size = 500").conf("ledger.block_interval = 200ms");
    let (cluster, mut client) = start(settings);
    client.batch_execute(ACCOUNTS).unwrap();
    let fill = format!("INSERT INTO accounts SELECT n, n, repeat('x', 900) FROM generate_series(1, {rows}) n");
    client.batch_execute(&fill).unwrap();
    (cluster, client)
}

const TRACK: &str = "SELECT ledger.track('accounts', with_signature => false)";

#[test]
fn rows_that_were_there_before_are_recorded_while_writers_go_on() {
    let (cluster, mut client) = start_large(3000);
    client.batch_execute("CREATE TABLE written (id int, kind text)").unwrap();
    client.batch_execute(TRACK).unwrap();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..4 {
            let (cluster, is_done) = (&cluster, &is_done);
            scope.spawn(move || {
                let mut client = cluster.connect("postgres");
                for round in 0.. {
                    let (update, delete) = (round * 8 + writer + 1, 3000 - round * 8 - writer);
                    let sql = format!(
                        "WITH u AS (UPDATE accounts SET amount = 0 WHERE id = {update} RETURNING id),
                         d AS (DELETE FROM accounts WHERE id = {delete} AND id > {update} RETURNING id),
                         i AS (INSERT INTO accounts VALUES ({}, 0) RETURNING id)
                         INSERT INTO written SELECT id, 'u' FROM u UNION ALL SELECT id, 'd' FROM d
                         UNION ALL SELECT id, 'i' FROM i",
                        10_000 + round * 4 + writer
                    );
                    client.batch_execute(&sql).unwrap();
                    if is_done.load(Ordering::Relaxed) || round > 300 {
                        break;
                    }
                }
            });
        }
        wait_until_tracked(&mut client, "accounts");
        is_done.store(true, Ordering::Relaxed);
    });
    assert_clean(&mut client, "accounts");
    // Each row has one entry for each time it was written, and one of the baseline if it was not written before that.
    let wrong = "SELECT concat_ws(' ', id, w.n, e.changes, e.baselines, e.found) FROM \
                 (SELECT (metadata->'key'->>'id')::int AS id, count(*) FILTER (WHERE metadata ? 'baseline') AS baselines, \
                  count(*) FILTER (WHERE NOT metadata ? 'baseline') AS changes, \
                  bool_or(metadata ? 'precedes_baseline') AS found FROM ledger.entries WHERE metadata ? 'key' GROUP BY 1) AS e \
                 FULL JOIN (SELECT id, count(*) AS n FROM written GROUP BY 1) AS w USING (id) \
                 WHERE coalesce(w.n, 0) <> e.changes OR e.baselines > 1 \
                 OR e.baselines = 0 AND NOT (id >= 10000 OR e.found) OR e.baselines = 1 AND id >= 10000";
    let wrong = column(&mut client, wrong);
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.baselines"), 0);
}

#[test]
fn a_baseline_goes_on_after_a_crash() {
    let (cluster, mut client) = start_large(20_000);
    client.batch_execute(TRACK).unwrap();
    wait_for(&mut client, "(SELECT max(next_page) > 0 FROM ledger.baselines)");
    // The worker stands aside from who wants the table for himself, and does not get to the end before the crash.
    client.batch_execute("BEGIN; LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").unwrap();
    let is_complete = number(&mut client, "SELECT count(*) FROM ledger.baselines") == 0;
    assert!(!is_complete, "the baseline was complete before it could be interrupted");
    drop(client);
    cluster.kill9_everything();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    client.batch_execute("UPDATE accounts SET amount = -1 WHERE id IN (1, 20000)").unwrap();
    wait_until_tracked(&mut client, "accounts");
    assert_clean(&mut client, "accounts");
    assert_eq!(row_entries(&mut client, "accounts") - number(&mut client, "SELECT count(*) FROM accounts"), {
        let updated = "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_update' AND NOT metadata ? 'precedes_baseline'";
        let redone = "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_update' AND metadata ? 'precedes_baseline' \
                      AND EXISTS (SELECT FROM ledger.entries b WHERE b.metadata ? 'baseline' AND b.metadata->'key' = entries.metadata->'key')";
        number(&mut client, updated) + number(&mut client, redone)
    });
}

#[test]
fn a_baseline_does_not_lose_rows_that_are_moved_meanwhile() {
    let (_cluster, mut client) = start_large(5000);
    client.batch_execute("DELETE FROM accounts WHERE id % 3 = 0").unwrap();
    client.batch_execute(TRACK).unwrap();
    // Rows stand elsewhere now.
    client.batch_execute("VACUUM FULL accounts").unwrap();
    wait_until_tracked(&mut client, "accounts");
    assert_clean(&mut client, "accounts");
}

/// A transaction has a number from before, and writes to the table only afterwards.
#[test]
fn a_transaction_that_was_running_when_a_table_was_tracked_is_recorded_once() {
    let (cluster, mut client) = start_large(3000);
    client.batch_execute("CREATE TABLE elsewhere (n int)").unwrap();
    let mut running = cluster.connect("postgres");
    running
        .batch_execute("BEGIN; INSERT INTO elsewhere VALUES (1); SAVEPOINT s; INSERT INTO elsewhere VALUES (2)")
        .unwrap();
    client.batch_execute("UPDATE accounts SET amount = 1 WHERE id = 9").unwrap();
    client.batch_execute(TRACK).unwrap();
    running
        .batch_execute(
            "UPDATE accounts SET amount = -1 WHERE id IN (3000, 2999); INSERT INTO accounts VALUES (9000, 1); RELEASE s;
             UPDATE accounts SET amount = -2 WHERE id IN (2998, 2999); DELETE FROM accounts WHERE id = 2997;
             INSERT INTO accounts VALUES (9001, 1); COMMIT",
        )
        .unwrap();
    wait_until_tracked(&mut client, "accounts");
    assert_clean(&mut client, "accounts");
    let inserts =
        "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_insert' AND metadata->'key'->>'id' = '900";
    assert_eq!(number(&mut client, &format!("{inserts}0'")), 1);
    assert_eq!(number(&mut client, &format!("{inserts}1'")), 1);
}

#[test]
fn a_table_is_verified_only_when_its_baseline_is_complete() {
    let (_cluster, mut client) = start_large(5000);
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(TRACK).unwrap();
    let state = "SELECT state FROM ledger.tracked_tables";
    assert_eq!(value(&mut client, state), "recording baseline");
    for verification in [
        "SELECT * FROM ledger.verify_table('accounts')",
        "SELECT ledger.verify_row('accounts', '{\"id\": 5}')",
        "SELECT ledger.verified(a) FROM accounts AS a WHERE id = 5",
    ] {
        client.batch_execute("SAVEPOINT s").unwrap();
        let refused = error(&mut client, verification);
        assert_eq!(*refused.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{verification}: {refused:?}");
        client.batch_execute("ROLLBACK TO s").unwrap();
    }
    client.batch_execute("ROLLBACK").unwrap();
    // Nothing is left of it.
    assert!(column(&mut client, state).is_empty());
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 0);
}

#[test]
fn the_transaction_that_tracks_a_table_may_write_to_it() {
    for rows in [20, 3000] {
        let (_cluster, mut client) = start_large(rows);
        client.batch_execute("BEGIN; UPDATE accounts SET amount = 7 WHERE id = 3").unwrap();
        client.batch_execute(TRACK).unwrap();
        client
            .batch_execute(
                "UPDATE accounts SET amount = 8 WHERE id IN (3, 4); DELETE FROM accounts WHERE id = 5;
                 INSERT INTO accounts VALUES (5, 1), (9000, 1); UPDATE accounts SET amount = 2 WHERE id = 9000;
                 SAVEPOINT s; UPDATE accounts SET amount = 9 WHERE id = 6; RELEASE s;
                 SAVEPOINT s; UPDATE accounts SET amount = 9 WHERE id = 7; ROLLBACK TO s; COMMIT",
            )
            .unwrap();
        wait_until_tracked(&mut client, "accounts");
        assert_clean(&mut client, "accounts");
    }
}
