//! `history()`, `verify_row()` and `load_item()` go by `ledger.row_versions` and the list of its runs. What a superuser
//! changes there is found by `verify_all()` and `find_tampering()`, and nothing is found where nothing was changed.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tampering::TRIGGERS_OFF;
use crate::common::{Cluster, Options};
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;

/// Rows with entries in several runs, of which the long ones have filters.
fn start_with_runs() -> (Cluster, Client) {
    let options = quiet().conf("ledger.mirror_mode = off").env("PG_NOTARY_FAULT_SMALL_RUNS", "1");
    let (cluster, mut client) = start(options);
    client
        .batch_execute(
            "CREATE TABLE hi (id int PRIMARY KEY, amount int); SELECT ledger.track('hi', keep_image => true);
             INSERT INTO hi SELECT n, 100 FROM generate_series(1, 200) n; SELECT * FROM ledger.commit_block()",
        )
        .unwrap();
    (0..3).for_each(|number| change_and_seal(&mut client, number));
    (cluster, client)
}

fn change_and_seal(client: &mut Client, number: i32) {
    let change = format!("UPDATE hi SET amount = {number} WHERE id % 7 = {number} % 7");
    client.batch_execute(&format!("{change}; SELECT * FROM ledger.commit_block()")).unwrap();
}

/// What find_tampering() says; verify_all() must be of the same opinion.
#[track_caller]
fn found(client: &mut Client) -> Vec<String> {
    let found = column(client, "SELECT concat_ws(' ', source, problem, detail) FROM ledger.find_tampering()");
    let verdict = json(client, "SELECT ledger.verify_all()");
    let chain = &verdict["postgres_chain"];
    assert_eq!(verdict["overall_valid"] == true, found.is_empty(), "{found:#?}\n{verdict:#}");
    assert_eq!((chain["valid"] == true, chain["error_count"].as_u64()), (found.is_empty(), Some(found.len() as u64)));
    found
}

#[test]
fn a_version_that_was_cut_out_of_a_rows_history_is_found() {
    let (_cluster, mut client) = start(quiet());
    client
        .batch_execute(
            "CREATE TABLE hi (id int PRIMARY KEY, amount int); SELECT ledger.track('hi', keep_image => true);
             INSERT INTO hi VALUES (1, 100); UPDATE hi SET amount = 150 WHERE id = 1; UPDATE hi SET amount = 100 WHERE id = 1",
        )
        .unwrap();
    seal(&mut client);
    assert!(found(&mut client).is_empty());
    client
        .batch_execute(
            "BEGIN; ALTER TABLE ledger.row_versions DISABLE TRIGGER refuse_statement;
             CREATE TEMP TABLE pl AS SELECT rv.run, rv.first_row, rv.chunk, i, substr(rv.places, 1 + 40 * i, 40) p
                 FROM ledger.row_versions rv, generate_series(0, length(places) / 40 - 1) i WHERE rv.run > 0;
             UPDATE ledger.row_versions rv SET places = (SELECT string_agg(p, ''::bytea ORDER BY i) FROM pl
                 WHERE (pl.run, pl.first_row, pl.chunk) = (rv.run, rv.first_row, rv.chunk) AND substr(p, 25, 8) <>
                     (SELECT int8send(leaf_index) FROM ledger.entries WHERE metadata->>'table' = 'public.hi'
                      AND entry_type = 'table_update' AND metadata->'after'->>'amount' = '150')) WHERE run > 0;
             ALTER TABLE ledger.row_versions ENABLE ALWAYS TRIGGER refuse_statement; COMMIT",
        )
        .unwrap();
    let history = "SELECT after->>'amount' FROM ledger.history('hi', '{\"id\": 1}')";
    assert_eq!(column(&mut client, history), ["100", "100"], "the change that is to be found");
    let found = found(&mut client);
    // What the run says of itself, and what the entries say.
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with("postgres row_versions_mismatch ledger.row_versions: run 1: it has 2 places"),
        "{found:#?}"
    );
    let counts = "it has 2 places of entries about rows and items, and the entries give 3";
    assert!(
        found[1].starts_with(&format!("postgres row_versions_mismatch ledger.row_versions: {counts}")),
        "{found:#?}"
    );
}

/// Changes of the index. `one` is its longest chunk.
const CHANGES: &[&str] = &[
    "DELETE FROM ledger.row_versions",
    "DELETE FROM ledger.row_versions WHERE run = (SELECT min(run) FROM ledger.row_versions WHERE run > 0)",
    "UPDATE ledger.row_versions SET run = run + 1000",
    // One place less, one twice, another one, and as many as before in another order.
    "UPDATE ledger.row_versions SET places = substr(places, 41) WHERE (run, first_row) = (SELECT run, first_row FROM one)",
    "UPDATE ledger.row_versions SET places = substr(places, 1, 40) || places WHERE (run, first_row) = (SELECT run, first_row FROM one)",
    "UPDATE ledger.row_versions SET places = overlay(places placing '\\xff'::bytea from 32) WHERE (run, first_row) = (SELECT run, first_row FROM one)",
    "UPDATE ledger.row_versions SET places = substr(places, 41) || substr(places, 1, 40) WHERE (run, first_row) = (SELECT run, first_row FROM one)",
    "UPDATE ledger.row_versions SET places = places || '\\x00'::bytea WHERE (run, first_row) = (SELECT run, first_row FROM one)",
    // A look-up goes by the row that a chunk is stored under, and by filters.
    "UPDATE ledger.row_versions SET first_row = '00000000-0000-0000-0000-000000000000' WHERE (run, first_row) = (SELECT run, first_row FROM one)",
    "UPDATE ledger.row_versions SET places = decode(repeat('00', length(places)), 'hex') WHERE run < 0",
    // The list of runs.
    "UPDATE ledger.log_state SET version_runs = '{}'",
    "UPDATE ledger.log_state SET version_runs = '{77,1,0,0}'",
    "UPDATE ledger.log_state SET version_runs = '{NULL,-1,9223372036854775807,-1,-9223372036854775808,5,NULL,0,3}'",
    "UPDATE ledger.log_state SET version_runs = version_runs || version_runs",
    "UPDATE ledger.log_state SET version_runs = version_runs[5:]",
    "UPDATE ledger.log_state SET version_runs[2] = version_runs[2] - 1",
    "UPDATE ledger.log_state SET version_runs[4] = -1",
];

#[test]
fn a_changed_index_of_entries_about_rows_is_found_whatever_was_changed() {
    let (_cluster, mut client) = start_with_runs();
    assert!(found(&mut client).is_empty());
    assert!(is_true(&mut client, "EXISTS (SELECT FROM ledger.row_versions WHERE run < 0)"), "there are filters");
    let mut complaints = Vec::new();
    for change in CHANGES {
        client.batch_execute(&format!("BEGIN; {TRIGGERS_OFF}")).unwrap();
        client
            .batch_execute(
                "CREATE TEMP TABLE one AS SELECT run, first_row FROM ledger.row_versions
                 WHERE run > 0 ORDER BY length(places) DESC, run LIMIT 1",
            )
            .unwrap();
        client.batch_execute(change).unwrap();
        let named = "SELECT problem = 'row_versions_mismatch' AND source = 'postgres' FROM ledger.find_tampering()";
        let (named, valid) =
            (column(&mut client, named), json(&mut client, "SELECT ledger.verify_all() #> '{postgres_chain,valid}'"));
        client.batch_execute("ROLLBACK").unwrap();
        if named.is_empty() || named.iter().any(|is_so| is_so != "t") || valid != false {
            complaints.push(format!("{change}: {named:?}, valid: {valid}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(found(&mut client).is_empty(), "all of it was rolled back");
}

/// A filter that is gone costs time, and hides nothing.
#[test]
fn a_missing_filter_is_no_tampering() {
    let (_cluster, mut client) = start_with_runs();
    client.batch_execute(&format!("BEGIN; {TRIGGERS_OFF}; DELETE FROM ledger.row_versions WHERE run < 0")).unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.find_tampering()"), 0);
    client.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn nothing_is_found_while_others_seal_and_runs_are_merged() {
    let (cluster, mut client) = start_with_runs();
    let mut isolated = cluster.connect("postgres");
    isolated.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM ledger.entries").unwrap();
    let mut sealing = cluster.connect("postgres");
    let blocks = "SELECT count(*) FROM ledger.blocks";
    let before = number(&mut client, blocks);
    let verified_twice = Arc::new(AtomicBool::new(false));
    let is_enough = Arc::clone(&verified_twice);
    let sealer = thread::spawn(move || {
        let mut passes = 0;
        while passes < 80 || !is_enough.load(Ordering::Relaxed) {
            change_and_seal(&mut sealing, passes);
            passes += 1;
        }
        passes
    });
    let find = "SELECT detail FROM ledger.find_tampering()";
    let mut meanwhile = 0;
    while !sealer.is_finished() {
        for session in [&mut client, &mut isolated] {
            let found = column(session, find);
            assert!(found.is_empty(), "{found:#?}");
        }
        meanwhile += 1;
        verified_twice.store(meanwhile > 1, Ordering::Relaxed);
    }
    let passes = sealer.join().unwrap();
    assert_eq!(number(&mut client, blocks), before + i64::from(passes));
    for session in [&mut client, &mut isolated] {
        assert!(column(session, find).is_empty());
    }
    // What this transaction itself has sealed.
    client.batch_execute("BEGIN").unwrap();
    change_and_seal(&mut client, 3);
    assert!(column(&mut client, find).is_empty());
    client.batch_execute("ROLLBACK").unwrap();
    assert!(found(&mut client).is_empty());
}

#[test]
fn a_standby_finds_what_was_changed_on_its_primary() {
    let (primary, mut client) = start_with_runs();
    let standby =
        Options::new().conf("ledger.mirror_mode = off").env("PG_NOTARY_FAULT_SMALL_RUNS", "1").standby_of(&primary);
    let mut reader = standby.connect("postgres");
    let mut on_standby = |client: &mut Client| {
        catch_up(client, &mut reader);
        found(&mut reader)
    };
    change_and_seal(&mut client, 3);
    assert!(on_standby(&mut client).is_empty());
    client.batch_execute(&format!("{TRIGGERS_OFF}; DELETE FROM ledger.row_versions WHERE run > 1")).unwrap();
    let found = on_standby(&mut client);
    assert!(found.iter().any(|problem| problem.contains("row_versions_mismatch")), "{found:#?}");
}
