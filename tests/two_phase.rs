//! Two-phase commit: PREPARE TRANSACTION puts the lines in the file, and there they stay as they are until it is
//! decided, whatever happens to the server in between. Then the entries are sealed, or a void line follows.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::two_phase::*;
use crate::common::{wait_until, Cluster, Options, Stop};
use postgres::error::SqlState;
use std::thread;

// ---- the decision -------------------------------------------------------------------------------------------------------

#[test]
fn prepared_entries_are_in_the_file_and_sealed_once_they_are_committed() {
    for meanwhile in MEANWHILE {
        let (cluster, mut client) = start_quiet();
        let before = record_many(&mut client, 2);
        let prepared = prepare(&mut client, "a", 3);
        assert_undecided(&mut client, &prepared);
        let mut client = meanwhile.happen(&cluster, client);
        assert_undecided(&mut client, &prepared);
        decide(&mut client, "COMMIT", "a");
        assert_eq!(number(&mut client, "SELECT pending_count FROM ledger.chain_stats"), 5, "{meanwhile:?}");
        assert_only_these_are_sealed(&mut client, &[&before, &prepared]);
        assert_eq!(lines_and_voids(&mut client), (5, 0), "{meanwhile:?}");
        assert_eq!(number(&mut client, "SELECT count(*) FROM app"), 1);
    }
}

#[test]
fn prepared_entries_that_are_rolled_back_are_voided() {
    for meanwhile in MEANWHILE {
        let (cluster, mut client) = start_quiet();
        let before = record_many(&mut client, 2);
        let prepared = prepare(&mut client, "a", 3);
        let mut client = meanwhile.happen(&cluster, client);
        assert_undecided(&mut client, &prepared);
        decide(&mut client, "ROLLBACK", "a");
        // At once, whether the worker has been there or not.
        assert_valid(&mut client);
        wait_for_voids(&mut client, 3);
        assert_only_these_are_sealed(&mut client, &[&before]);
        assert_eq!(lines_and_voids(&mut client), (5, 3), "{meanwhile:?}");
        assert_eq!(number(&mut client, "SELECT count(*) FROM app"), 0);
    }
}

#[test]
fn a_crash_right_after_the_decision_changes_nothing() {
    for end in ["COMMIT", "ROLLBACK"] {
        let (cluster, mut client) = start_quiet();
        let prepared = prepare(&mut client, "a", 3);
        decide(&mut client, end, "a");
        cluster.kill9_everything();
        cluster.start_again();
        let mut client = cluster.connect("postgres");
        assert_valid(&mut client);
        wait_until_attached(&mut client);
        let (kept, voids): (&[String], usize) = if end == "COMMIT" { (&prepared, 0) } else { (&[], 3) };
        wait_for_voids(&mut client, voids);
        assert_only_these_are_sealed(&mut client, &[kept]);
        assert_eq!(lines_and_voids(&mut client), (3, voids), "{end}");
    }
}

#[test]
fn others_record_and_seal_while_a_transaction_is_prepared() {
    for end in ["COMMIT", "ROLLBACK"] {
        let (cluster, mut client) = start_quiet();
        set(&mut client, "ledger.block_size", "4");
        let prepared = prepare(&mut client, "a", 3);
        let mut others = record_many(&mut client, 9);
        seal(&mut client);
        assert_undecided(&mut client, &prepared);
        // Over several restarts, with all that was sealed behind its lines.
        for meanwhile in [Meanwhile::Crash, Meanwhile::Restart, Meanwhile::Crash] {
            client = meanwhile.happen(&cluster, client);
            assert_undecided(&mut client, &prepared);
            others.extend(record_many(&mut client, 5));
            seal(&mut client);
            assert_undecided(&mut client, &prepared);
        }
        decide(&mut client, end, "a");
        let (kept, voids): (&[String], usize) = if end == "COMMIT" { (&prepared, 0) } else { (&[], 3) };
        wait_for_voids(&mut client, voids);
        assert_only_these_are_sealed(&mut client, &[&others, kept]);
        assert_eq!(lines_and_voids(&mut client), (27, voids), "{end}");
        // The next start finds nothing to be decided.
        let mut client = Meanwhile::Crash.happen(&cluster, client);
        assert_intact(&mut client);
        assert_eq!(lines_and_voids(&mut client), (27, voids), "{end}");
    }
}

#[test]
fn several_prepared_transactions_are_decided_in_any_order() {
    for meanwhile in MEANWHILE {
        let (cluster, mut client) = start_quiet();
        let prepared: Vec<Vec<String>> = ["a", "b", "c", "d"].iter().map(|gid| prepare(&mut client, gid, 2)).collect();
        let between = record_many(&mut client, 2);
        decide(&mut client, "COMMIT", "c");
        decide(&mut client, "ROLLBACK", "b");
        wait_for_voids(&mut client, 2);
        let mut client = meanwhile.happen(&cluster, client);
        assert_undecided(&mut client, &[&prepared[0][..], &prepared[3]].concat());
        seal(&mut client);
        // Each from another session.
        decide(&mut cluster.connect("postgres"), "ROLLBACK", "d");
        decide(&mut cluster.connect("postgres"), "COMMIT", "a");
        wait_for_voids(&mut client, 4);
        assert_only_these_are_sealed(&mut client, &[&prepared[0], &prepared[2], &between]);
        assert_eq!(lines_and_voids(&mut client), (10, 4), "{meanwhile:?}");
    }
}

#[test]
fn what_is_rolled_back_while_the_file_is_being_opened_is_voided() {
    let (cluster, mut client) = start(Options::new().conf("max_prepared_transactions = 10"));
    for _ in 0..8 {
        record(&mut client);
        client.batch_execute(&format!("BEGIN; {RECORD}; {RECORD}; PREPARE TRANSACTION 'undone'")).unwrap();
        drop(client);
        cluster.restart(Stop::Immediate);
        client = cluster.connect("postgres");
        client.batch_execute("ROLLBACK PREPARED 'undone'").unwrap();
        wait_until_attached(&mut client);
        wait_until("the file is valid", PATIENCE, || verdict(&mut client)["overall_valid"] == true);
    }
    let path = file(&mut client);
    wait_until("all lines are voided", PATIENCE, || voided_ids(&lines(&path)).len() == 16);
}

#[test]
fn a_crash_between_several_decisions_keeps_each() {
    let (cluster, mut client) = start_quiet();
    let mut kept = Vec::new();
    for round in 0..6 {
        let ids = prepare(&mut client, &format!("g{round}"), 2);
        if round % 2 == 0 {
            kept.extend(ids);
        }
    }
    for round in 0..6 {
        let end = if round % 2 == 0 { "COMMIT" } else { "ROLLBACK" };
        decide(&mut client, end, &format!("g{round}"));
        client = Meanwhile::Crash.happen(&cluster, client);
    }
    wait_for_voids(&mut client, 6);
    assert_only_these_are_sealed(&mut client, &[&kept]);
    assert_eq!(lines_and_voids(&mut client), (12, 6));
}

/// Prepares and decides from several sessions, with others' commits between; returns the ids of what was committed.
fn prepare_and_decide(cluster: &Cluster, writer: usize) -> Vec<String> {
    let (mut client, mut kept) = (cluster.connect("postgres"), Vec::new());
    for round in 0..25 {
        let gid = format!("{writer}.{round}");
        let ids = prepare(&mut client, &gid, 2);
        if round % 2 == 0 {
            kept.extend(record_many(&mut client, 1));
        }
        if (round + writer).is_multiple_of(3) {
            decide(&mut client, "ROLLBACK", &gid);
        } else {
            decide(&mut client, "COMMIT", &gid);
            kept.extend(ids);
        }
    }
    kept
}

fn many_sessions_prepare_and_decide_at_once(mode: &str) {
    let (cluster, mut client) = start_quiet();
    set(&mut client, "ledger.block_size", "10");
    set(&mut client, "ledger.mirror_mode", mode);
    let kept: Vec<String> = thread::scope(|scope| {
        let start = |writer| {
            let cluster = &cluster;
            scope.spawn(move || prepare_and_decide(cluster, writer))
        };
        let writers: Vec<_> = (0..6).map(start).collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            assert_valid(&mut client);
        }
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    assert_only_these_are_sealed(&mut client, &[&kept]);
    let (lines, voids) = lines_and_voids(&mut client);
    assert_eq!(lines, kept.len() + voids);
}

#[test]
fn many_sessions_prepare_and_decide_at_once_in_mode_sync() {
    many_sessions_prepare_and_decide_at_once("sync");
}

#[test]
fn many_sessions_prepare_and_decide_at_once_in_mode_write() {
    many_sessions_prepare_and_decide_at_once("write");
}

#[test]
fn many_sessions_prepare_and_decide_at_once_in_mode_async() {
    many_sessions_prepare_and_decide_at_once("async");
}

// ---- ids that are used again ----------------------------------------------------------------------------------------------

#[test]
fn an_id_that_is_prepared_can_be_used_again_once_it_is_rolled_back() {
    const APPEND: &str = "SELECT ledger.append_entry('test', '0188ffff-0000-7000-8000-000000000001', repeat('ab', 32))";
    for end in ["COMMIT", "ROLLBACK"] {
        let (cluster, mut client) = start_quiet();
        client.batch_execute(&format!("BEGIN; {APPEND}; PREPARE TRANSACTION 'a'")).unwrap();
        let mut waiting = cluster.connect("postgres");
        let pid = number(&mut waiting, "SELECT pg_backend_pid()");
        let appends = thread::spawn(move || waiting.simple_query(APPEND).map(drop));
        wait_for(&mut client, &format!("cardinality(pg_blocking_pids({pid})) > 0"));
        decide(&mut client, end, "a");
        let appended = in_time("who waits for the decision", || appends.join().unwrap());
        if end == "COMMIT" {
            assert_eq!(appended.unwrap_err().code(), Some(&SqlState::UNIQUE_VIOLATION));
        } else {
            appended.unwrap();
        }
        seal(&mut client);
        assert_valid(&mut client);
        let types: Vec<String> =
            lines(&file(&mut client)).iter().map(|line| line["record_type"].as_str().unwrap().to_owned()).collect();
        let expected: &[&str] = if end == "COMMIT" {
            &["ledger", "entry", "block"]
        } else {
            &["ledger", "entry", "void", "entry", "block"]
        };
        assert_eq!(types, expected, "{end}");
        assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries_sealed"), 1);
    }
}

// ---- a mirror that is off for a time --------------------------------------------------------------------------------------

#[test]
fn what_is_decided_while_the_mirror_is_off_is_settled_when_it_is_on() {
    for end in ["COMMIT", "ROLLBACK"] {
        let (cluster, mut client) = start_quiet();
        let prepared = prepare(&mut client, "a", 3);
        let stays = prepare(&mut client, "b", 2);
        set(&mut client, "ledger.mirror_mode", "off");
        drop(client);
        cluster.restart(Stop::Fast);
        let mut client = cluster.connect("postgres");
        let others = record_many(&mut client, 2);
        decide(&mut client, end, "a");
        assert_eq!(verdict(&mut client)["overall_valid"], true);
        client.batch_execute("ALTER SYSTEM SET ledger.mirror_mode = 'sync'").unwrap();
        drop(client);
        cluster.restart(Stop::Fast);
        let mut client = cluster.connect("postgres");
        wait_until_attached(&mut client);
        assert_undecided(&mut client, &stays);
        decide(&mut client, "COMMIT", "b");
        let (kept, voids): (&[String], usize) = if end == "COMMIT" { (&prepared, 0) } else { (&[], 3) };
        wait_for_voids(&mut client, voids);
        assert_only_these_are_sealed(&mut client, &[kept, &others, &stays]);
        assert_eq!(lines_and_voids(&mut client), (7, voids), "{end}");
    }
}

#[test]
fn what_is_prepared_while_the_mirror_is_off_is_in_the_file_once_it_is_committed() {
    for end in ["COMMIT", "ROLLBACK"] {
        let (cluster, mut client) = start_quiet();
        set(&mut client, "ledger.mirror_mode", "off");
        let prepared = prepare(&mut client, "a", 3);
        set(&mut client, "ledger.mirror_mode", "sync");
        wait_until_attached(&mut client);
        let others = record_many(&mut client, 2);
        decide(&mut client, end, "a");
        let kept: &[String] = if end == "COMMIT" { &prepared } else { &[] };
        assert_only_these_are_sealed(&mut client, &[kept, &others]);
        // The same over a crash before its decision.
        set(&mut client, "ledger.mirror_mode", "off");
        let late = prepare(&mut client, "b", 2);
        set(&mut client, "ledger.mirror_mode", "sync");
        let mut client = Meanwhile::Crash.happen(&cluster, client);
        decide(&mut client, end, "b");
        let late: &[String] = if end == "COMMIT" { &late } else { &[] };
        assert_only_these_are_sealed(&mut client, &[kept, &others, late]);
        // Once committed, a line each, and none twice.
        assert_eq!(ids_in_file(&file(&mut client)).len(), kept.len() + others.len() + late.len(), "{end}");
    }
}
