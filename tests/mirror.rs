//! The mirror file holds what is committed, before it is committed, and nothing else that is not marked as void.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{send, wait_until};
use postgres::error::SqlState;
use postgres::Client;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[test]
fn the_file_is_named_after_database_and_ledger_and_is_private() {
    let (cluster, mut client) = start(quiet());
    record(&mut client);
    let path = file(&mut client);
    let id = value(&mut client, "SELECT ledger_id FROM ledger.log_state");
    assert_eq!(path, cluster.data_dir().join("pg_notary").join(format!("postgres.{}.jsonl", &id[..8])));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
    let header = &lines(&path)[0];
    assert_eq!(header["record_type"], "ledger");
    assert_eq!(header["ledger_id"], id);
    assert_eq!(header["database"], "postgres");
    assert_eq!(header["format"], 1);

    // A name that would leave the directory does not.
    client.batch_execute("CREATE DATABASE \"../odd/näme\"").unwrap();
    let mut odd = cluster.connect("../odd/näme");
    odd.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record(&mut odd);
    assert_eq!(file(&mut odd).parent(), path.parent());
    assert_intact(&mut odd);
}

#[test]
fn what_is_acknowledged_survives_a_crash_of_everything() {
    let (cluster, mut client) = start(quiet());
    let path = file(&mut client);
    for _ in 0..5 {
        let mut acknowledged = record_many(&mut client, 3);
        cluster.kill9_everything();
        let ids = ids_in_file(&path);
        assert!(acknowledged.drain(..).all(|id| ids.contains(&id)), "an acknowledged entry is not in the file");
        cluster.start_again();
        client = cluster.connect("postgres");
        wait_until_attached(&mut client);
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 15);
    assert_intact(&mut client);
}

#[test]
fn what_is_rolled_back_before_its_commit_leaves_no_line() {
    let (_cluster, mut client) = start(quiet());
    client.batch_execute("CREATE TABLE checked (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)").unwrap();
    client.batch_execute(&format!("BEGIN; {RECORD}; ROLLBACK")).unwrap();
    client.batch_execute("BEGIN").unwrap();
    record(&mut client);
    error(&mut client, "SELECT 1 / 0");
    client.batch_execute("COMMIT").unwrap();
    // Deferred constraints are checked at commit, but before the lines are written.
    client.batch_execute(&format!("BEGIN; {RECORD}; INSERT INTO checked VALUES (1), (1)")).unwrap();
    assert_eq!(*error(&mut client, "COMMIT").code(), SqlState::UNIQUE_VIOLATION);
    let kept = record(&mut client);

    let lines = lines(&file(&mut client));
    assert_eq!(lines.len(), 2, "the header and one entry: {lines:#?}");
    assert_eq!(lines[1]["entry_id"], kept);
    assert_intact(&mut client);
}

/// Has one of two serialisable transactions fail after its lines were written; returns the entry it recorded.
fn fail_at_commit(first: &mut Client, second: &mut Client) -> String {
    let mut failing = String::new();
    for client in [&mut *first, &mut *second] {
        client.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(n) FROM skew").unwrap();
    }
    for client in [&mut *first, &mut *second] {
        client.batch_execute("INSERT INTO skew VALUES (1)").unwrap();
        failing = record(client);
    }
    first.batch_execute("COMMIT").unwrap();
    assert_eq!(*error(second, "COMMIT").code(), SqlState::T_R_SERIALIZATION_FAILURE);
    failing
}

#[test]
fn a_transaction_that_fails_at_its_commit_is_voided() {
    let (cluster, mut client) = start(quiet());
    client.batch_execute("CREATE TABLE skew (n int)").unwrap();
    let path = file(&mut client);
    let (mut first, mut second) = (cluster.connect("postgres"), cluster.connect("postgres"));
    for round in 1..=5 {
        let failed = fail_at_commit(&mut first, &mut second);
        // At once, whether the worker has been there or not.
        assert_eq!(verdict(&mut client)["overall_valid"], true);
        wait_until("the line is voided", PATIENCE, || !ids_in_file(&path).contains(&failed));
        let lines = lines(&path);
        assert!(of_type(&lines, "entry").iter().any(|line| line["entry_id"] == failed), "it never was in the file");
        assert_eq!(of_type(&lines, "void").len(), round);
        assert!(!ids_in_table(&mut client).contains(&failed));
    }
    assert_intact(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
}

/// Kept and dropped entries in every kind of subtransaction.
const SUBTRANSACTIONS: &str = "
CREATE FUNCTION rec(t text) RETURNS void LANGUAGE sql AS $$SELECT ledger.hash_and_record(t, '1')$$;
CREATE PROCEDURE several() LANGUAGE plpgsql AS $$
BEGIN
    PERFORM rec('keep');
    COMMIT;
    PERFORM rec('drop');
    ROLLBACK;
    FOR i IN 1..3 LOOP
        PERFORM rec('keep');
        BEGIN
            PERFORM rec('drop');
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN
            PERFORM rec('keep');
        END;
        COMMIT;
    END LOOP;
END $$;
BEGIN;
SELECT rec('keep');
SAVEPOINT a;
SELECT rec('keep');
SAVEPOINT b;
SELECT rec('drop');
SAVEPOINT c;
SELECT rec('drop');
RELEASE c;
ROLLBACK TO b;
SELECT rec('keep');
RELEASE a;
SAVEPOINT d;
SELECT rec('drop');
ROLLBACK TO d;
SELECT rec('drop');
ROLLBACK TO d;
SELECT rec('keep');
COMMIT;
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SAVEPOINT c;
SELECT rec('drop');
RELEASE c;
RELEASE b;
ROLLBACK TO a;
SAVEPOINT e;
SELECT rec('keep');
RELEASE e;
COMMIT;
BEGIN;
SAVEPOINT a;
SELECT rec('drop');
ROLLBACK;
DO $$
BEGIN
    FOR i IN 1..5 LOOP
        BEGIN
            PERFORM rec('keep');
            BEGIN
                PERFORM rec('drop');
                PERFORM 1 / 0;
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
        END;
    END LOOP;
END $$;
CALL several();
";

#[test]
fn subtransactions_leave_exactly_the_lines_of_what_is_kept() {
    let (cluster, mut client) = start(quiet());
    let script = cluster.scratch_dir().join("script.sql");
    fs::write(&script, SUBTRANSACTIONS).unwrap();
    cluster.run("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", script.to_str().unwrap()]);

    let lines = lines(&file(&mut client));
    let types: Vec<_> = of_type(&lines, "entry").iter().map(|line| line["entry_type"].clone()).collect();
    assert_eq!(types, vec!["keep"; 4 + 1 + 5 + 1 + 6]);
    assert!(of_type(&lines, "void").is_empty());
    seal(&mut client);
    assert_intact(&mut client);
}

#[test]
fn block_lines_follow_the_lines_of_their_entries() {
    let (_cluster, mut client) = start(quiet().conf("ledger.block_size = 4"));
    record_many(&mut client, 9);
    seal(&mut client);
    let lines = lines(&file(&mut client));
    let place = |id: &serde_json::Value| lines.iter().position(|line| line["entry_id"] == *id).unwrap();
    let blocks = of_type(&lines, "block");
    assert_eq!(blocks.len(), 3);
    for (number, block) in (1..).zip(blocks) {
        let at = lines.iter().position(|line| line == block).unwrap();
        assert_eq!(block["block_number"], number);
        let ids = block["entry_ids"].as_array().unwrap();
        assert!(ids.iter().all(|id| place(id) < at));
        let sql = format!("SELECT json_agg(id ORDER BY leaf_index) FROM ledger.entries WHERE block_number = {number}");
        assert_eq!(json(&mut client, &sql), block["entry_ids"]);
    }
    assert_intact(&mut client);
}

/// Of blocks, the file lacks no more than those of the last batch.
#[test]
fn whoever_seals_first_writes_the_lines_of_earlier_blocks_even_of_those_that_its_snapshot_does_not_see() {
    let (cluster, mut client) = start(quiet());
    record(&mut client);
    seal(&mut client);
    let path = file(&mut client);
    let blocks = || of_type(&lines(&path), "block").len();
    for (earlier, level) in (1..).step_by(2).zip(["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]) {
        let mut session = cluster.connect("postgres");
        session.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class")).unwrap();
        // The worker would write it.
        let worker = worker_pid(&mut client);
        stop_between_transactions(&mut client, worker);
        record(&mut client);
        client.batch_execute(SEAL).unwrap();
        assert_eq!(blocks(), earlier, "{level}");
        record(&mut session);
        session.batch_execute(SEAL).unwrap();
        assert_eq!(blocks(), earlier + 1, "{level}");
        session.batch_execute("COMMIT").unwrap();
        send(worker, libc::SIGCONT);
        wait_until_sealed(&mut client);
        assert_intact(&mut client);
    }
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn an_unterminated_last_line_is_a_warning_and_the_next_start_cuts_it_off() {
    let (cluster, mut client) = start(quiet());
    record_many(&mut client, 3);
    seal(&mut client);
    record(&mut client);
    let path = file(&mut client);
    let length = fs::metadata(&path).unwrap().len();
    append(&path, "{\"data_hash\": \"00");

    let verdict = verdict(&mut client);
    assert_eq!(verdict["overall_valid"], true, "{verdict:#}");
    assert_eq!(verdict["file_chain"]["warnings"].as_array().unwrap().len(), 1, "{verdict:#}");
    assert_eq!(cli_verify(&path).0, 0);

    drop(client);
    cluster.kill9_everything();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
}

#[test]
fn without_a_mirror_nothing_claims_to_be_in_the_file_and_later_it_is_filled_up() {
    let (_cluster, mut client) = start(quiet().conf("ledger.block_size = 5"));
    record_many(&mut client, 7);
    wait_for(&mut client, "(SELECT last_block = 1 FROM ledger.mirror_status)");
    set(&mut client, "ledger.mirror_mode", "off");
    let receipt = json(&mut client, "SELECT ledger.hash_and_record('test', '1')");
    assert_eq!(receipt["file_recorded"], false);
    record_many(&mut client, 7);
    wait_for(&mut client, "(SELECT block_count = 3 FROM ledger.chain_stats)");
    let off = verdict(&mut client);
    assert_eq!(off["overall_valid"], true);
    assert!(off["file_chain"]["valid"].is_null(), "{off:#}");
    assert!(off["file_chain"]["message"].as_str().unwrap().contains("off"));
    assert_eq!(value(&mut client, "SELECT state FROM ledger.mirror_status"), "off");

    set(&mut client, "ledger.mirror_mode", "sync");
    wait_until_attached(&mut client);
    let receipt = json(&mut client, "SELECT ledger.hash_and_record('test', '1')");
    assert_eq!(receipt["file_recorded"], true);
    assert_intact(&mut client);
    seal(&mut client);
    assert_eq!(ids_in_file(&file(&mut client)).len(), 16);
    assert_intact(&mut client);
}

#[test]
fn entries_of_any_size_are_sealed_and_found_again() {
    let (_cluster, mut client) = start(quiet());
    let kinds = "SELECT ledger.hash_and_record('sized', to_jsonb(n), jsonb_build_object('pad', CASE WHEN n % 2 = 0 \
                 THEN repeat('x', n) ELSE (SELECT string_agg(md5((n + i)::text), '') FROM generate_series(0, n / 32) i) \
                 END))->>'entry_id' FROM unnest(ARRAY[1, 100, 1601, 1700, 1801, 1900, 1951, 2000, 2051, 2100, 2201, \
                 5000, 5001, 300000, 300001]) n";
    let ids = column(&mut client, kinds);
    seal(&mut client);
    let unsound = "SELECT count(*) FROM ledger.entries WHERE block_number IS NULL OR id NOT IN \
                   (SELECT e.id FROM ledger.entries e WHERE e.leaf_index BETWEEN 0 AND 1000)";
    assert_eq!(number(&mut client, unsound), 0);
    client.batch_execute("SET enable_seqscan = off").unwrap();
    for id in &ids {
        assert_eq!(number(&mut client, &format!("SELECT count(*) FROM ledger.entries WHERE id = '{id}'")), 1);
    }
    assert_eq!(ids_in_table(&mut client).len(), ids.len());
    assert_intact(&mut client);
}
