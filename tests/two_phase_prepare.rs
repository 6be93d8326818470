//! PREPARE TRANSACTION: what of a transaction it puts in the file, what it refuses, and what becomes of the lines where
//! it fails.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::two_phase::*;
use crate::common::wait_until;
use postgres::error::SqlState;
use postgres::Client;

// ---- what is prepared ---------------------------------------------------------------------------------------------------

#[test]
fn savepoints_that_were_rolled_back_are_not_prepared() {
    for (end, meanwhile) in
        [("COMMIT", Meanwhile::Nothing), ("COMMIT", Meanwhile::Crash), ("ROLLBACK", Meanwhile::Crash)]
    {
        let (cluster, mut client) = start_quiet();
        client.batch_execute("BEGIN").unwrap();
        let mut prepared = record_many(&mut client, 1);
        client.batch_execute("SAVEPOINT a").unwrap();
        record_many(&mut client, 2);
        client.batch_execute("ROLLBACK TO a; SAVEPOINT b").unwrap();
        prepared.extend(record_many(&mut client, 2));
        client.batch_execute("SAVEPOINT c").unwrap();
        record_many(&mut client, 2);
        client.batch_execute("ROLLBACK TO c; RELEASE b; PREPARE TRANSACTION 'a'").unwrap();
        assert_undecided(&mut client, &prepared);
        let mut client = meanwhile.happen(&cluster, client);
        decide(&mut client, end, "a");
        let (kept, voids): (&[String], usize) = if end == "COMMIT" { (&prepared, 0) } else { (&[], 3) };
        wait_for_voids(&mut client, voids);
        assert_only_these_are_sealed(&mut client, &[kept]);
        assert_eq!(lines_and_voids(&mut client), (3, voids), "{end} {meanwhile:?}");
    }
}

#[test]
fn a_large_prepared_transaction_is_kept_over_a_crash() {
    let (cluster, mut client) = start_quiet();
    let prepared = prepare(&mut client, "a", 5000);
    let dropped = prepare(&mut client, "b", 3000);
    let mut client = Meanwhile::Crash.happen(&cluster, client);
    assert_undecided(&mut client, &prepared);
    assert_undecided(&mut client, &dropped);
    decide(&mut client, "ROLLBACK", "b");
    decide(&mut client, "COMMIT", "a");
    wait_for_voids(&mut client, 3000);
    assert_only_these_are_sealed(&mut client, &[&prepared]);
}

#[test]
fn a_prepared_transaction_without_entries_leaves_no_line() {
    let (_cluster, mut client) = start_quiet();
    client.batch_execute("BEGIN; INSERT INTO app VALUES (1); PREPARE TRANSACTION 'a'").unwrap();
    // Nor does one that took back all it had recorded.
    client.batch_execute(&format!("BEGIN; SAVEPOINT a; {RECORD}; ROLLBACK TO a; PREPARE TRANSACTION 'b'")).unwrap();
    let id = record(&mut client);
    decide(&mut client, "COMMIT", "a");
    decide(&mut client, "ROLLBACK", "b");
    assert_only_these_are_sealed(&mut client, &[&[id]]);
    assert_eq!(lines_and_voids(&mut client), (1, 0));
}

#[test]
fn a_transaction_that_sealed_cannot_be_prepared() {
    let (_cluster, mut client) = start_quiet();
    let before = record_many(&mut client, 2);
    for record in ["", RECORD] {
        client.batch_execute(&format!("BEGIN; {record}; SELECT * FROM ledger.commit_block()")).unwrap();
        let refused = error(&mut client, "PREPARE TRANSACTION 'sealed'");
        assert_eq!(*refused.code(), SqlState::FEATURE_NOT_SUPPORTED);
        assert!(
            refused.message().contains("cannot PREPARE") && all_text(&refused).contains("commit_block"),
            "{refused:?}"
        );
        assert!(refused.hint().is_some());
    }
    // It is rolled back, and nobody waits for it.
    assert_eq!(number(&mut client, "SELECT count(*) FROM pg_prepared_xacts"), 0);
    assert_only_these_are_sealed(&mut client, &[&before]);
}

/// It would keep the lock that the worker needs, to open the file too.
#[test]
fn a_transaction_that_found_nothing_to_seal_cannot_be_prepared_either() {
    let (_cluster, mut client) = start_quiet();
    client.batch_execute("BEGIN; SELECT * FROM ledger.commit_block()").unwrap();
    let refused = error(&mut client, "PREPARE TRANSACTION 'sealed'");
    assert_eq!(*refused.code(), SqlState::FEATURE_NOT_SUPPORTED);
    let recorded = record_many(&mut client, 2);
    assert_only_these_are_sealed(&mut client, &[&recorded]);
}

#[test]
fn a_transaction_that_dropped_the_extension_cannot_be_prepared() {
    let (cluster, mut client) = start_quiet();
    let before = record_many(&mut client, 2);
    for drop in ["DROP EXTENSION pg_notary", "DROP EXTENSION pg_notary; CREATE EXTENSION pg_notary"] {
        client.batch_execute(&format!("BEGIN; {drop}")).unwrap();
        let refused = error(&mut client, "PREPARE TRANSACTION 'dropped'");
        assert_eq!(*refused.code(), SqlState::FEATURE_NOT_SUPPORTED);
        assert!(refused.message().contains("has dropped the extension pg_notary"), "{refused:?}");
    }
    let mut other = cluster.connect("template1");
    other.batch_execute("BEGIN; CREATE EXTENSION pg_notary").unwrap();
    let refused = error(&mut other, "PREPARE TRANSACTION 'created'");
    assert!(refused.message().contains("has created the extension pg_notary"), "{refused:?}");
    // What is rolled back to a savepoint does not count.
    client.batch_execute("BEGIN; SAVEPOINT here; DROP EXTENSION pg_notary; ROLLBACK TO here").unwrap();
    let after = record_many(&mut client, 1);
    client.batch_execute("PREPARE TRANSACTION 'kept'").unwrap();
    decide(&mut client, "COMMIT", "kept");
    assert_only_these_are_sealed(&mut client, &[&before, &after]);
}

// ---- where PREPARE fails --------------------------------------------------------------------------------------------------

/// After a PREPARE that failed: nothing is prepared but `prepared` transactions, and no line is left that is not
/// voided.
#[track_caller]
fn assert_prepare_failed(client: &mut Client, prepared: i64) {
    assert_eq!(number(client, "SELECT count(*) FROM pg_prepared_xacts"), prepared);
    assert_valid(client);
    let path = file(client);
    let undecided = prepared as usize;
    wait_until("what was not prepared is voided", PATIENCE, || {
        ids_in_file(&path).len() == ids_in_table(client).len() + undecided
    });
    assert_valid(client);
}

#[test]
fn a_prepare_with_a_name_that_is_taken_is_voided() {
    let (_cluster, mut client) = start_quiet();
    let prepared = prepare(&mut client, "a", 1);
    for _ in 0..3 {
        client.batch_execute(&format!("BEGIN; {RECORD}")).unwrap();
        assert_eq!(*error(&mut client, "PREPARE TRANSACTION 'a'").code(), SqlState::DUPLICATE_OBJECT);
        assert_prepare_failed(&mut client, 1);
    }
    assert_undecided(&mut client, &prepared);
    decide(&mut client, "COMMIT", "a");
    assert_only_these_are_sealed(&mut client, &[&prepared]);
}

#[test]
fn a_prepare_beyond_the_number_allowed_is_voided() {
    let (_cluster, mut client) = start_quiet();
    let allowed = number(&mut client, "SHOW max_prepared_transactions");
    let mut kept: Vec<String> = (0..allowed).flat_map(|n| prepare(&mut client, &format!("g{n}"), 1)).collect();
    client.batch_execute(&format!("BEGIN; {RECORD}")).unwrap();
    assert_eq!(*error(&mut client, "PREPARE TRANSACTION 'more'").code(), SqlState::OUT_OF_MEMORY);
    assert_prepare_failed(&mut client, allowed);
    decide(&mut client, "COMMIT", "g0");
    kept.extend(prepare(&mut client, "more", 1));
    (1..allowed).for_each(|n| decide(&mut client, "COMMIT", &format!("g{n}")));
    decide(&mut client, "COMMIT", "more");
    assert_only_these_are_sealed(&mut client, &[&kept]);
}

/// In mode off no line is in the way, and nobody counts. The limit is met once the file is opened.
#[test]
fn who_has_prepared_too_many_in_mode_off_is_told_which_to_decide() {
    let (_cluster, mut client) =
        start(quiet().conf("ledger.mirror_mode = off").conf("max_prepared_transactions = 300"));
    client.batch_execute("CREATE TABLE app (n int)").unwrap();
    let mut kept: Vec<Vec<String>> = (0..258).map(|n| prepare(&mut client, &format!("g{n}"), 1)).collect();
    set(&mut client, "ledger.mirror_mode", "sync");
    let too_many = "too many prepared transactions with ledger entries";
    let is_refused =
        format!("(SELECT state = 'failed' AND starts_with(problem, '{too_many}') FROM ledger.mirror_status)");
    wait_for(&mut client, &is_refused);
    let refused = error(&mut client, RECORD);
    assert_eq!(*refused.code(), SqlState::IO_ERROR, "{refused:?}");
    assert!(refused.detail().unwrap_or("").starts_with(too_many), "{refused:?}");
    let hint = refused.hint().unwrap_or("");
    assert!(hint.contains("Commit or roll back") && hint.contains("pg_prepared_xacts"), "{refused:?}");

    decide(&mut client, "ROLLBACK", "g0");
    decide(&mut client, "COMMIT", "g1");
    wait_until_attached(&mut client);
    kept.remove(0);
    client.batch_execute(&format!("BEGIN; {RECORD}")).unwrap();
    let refused = error(&mut client, "PREPARE TRANSACTION 'more'");
    assert_eq!(*refused.code(), SqlState::CONFIGURATION_LIMIT_EXCEEDED, "{refused:?}");
    (2..258).for_each(|n| decide(&mut client, "COMMIT", &format!("g{n}")));
    assert_only_these_are_sealed(&mut client, &[&kept.concat()]);
}

#[test]
fn a_prepare_that_postgres_refuses_is_voided() {
    let (cluster, mut client) = start_quiet();
    client.batch_execute(&format!("BEGIN; CREATE TEMP TABLE t (); {RECORD}")).unwrap();
    assert_eq!(*error(&mut client, "PREPARE TRANSACTION 'a'").code(), SqlState::FEATURE_NOT_SUPPORTED);
    assert_prepare_failed(&mut client, 0);
    client.batch_execute(&format!("BEGIN; LISTEN something; {RECORD}")).unwrap();
    assert_eq!(*error(&mut client, "PREPARE TRANSACTION 'a'").code(), SqlState::FEATURE_NOT_SUPPORTED);
    assert_prepare_failed(&mut client, 0);

    let mut other = cluster.connect("postgres");
    let serializable = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(n) FROM skew; INSERT INTO skew VALUES (1)";
    client.batch_execute(&format!("{serializable}; {RECORD}")).unwrap();
    other.batch_execute(&format!("{serializable}; {RECORD}; COMMIT")).unwrap();
    assert_eq!(*error(&mut client, "PREPARE TRANSACTION 'a'").code(), SqlState::T_R_SERIALIZATION_FAILURE);
    assert_prepare_failed(&mut client, 0);
    seal(&mut client);
    assert_intact(&mut client);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 1);
}
