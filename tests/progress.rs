//! A running verification shows what it has done, and can be cancelled.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{wait_until, Options};
use postgres::error::SqlState;
use std::fs;
use std::thread;

const ENTRIES: i64 = 150_000;

#[test]
fn a_running_verification_shows_its_progress_and_can_be_cancelled() {
    let (cluster, mut client) = start(Options::new().secret(None).conf("ledger.block_size = 100"));
    let insert = "INSERT INTO ledger.entries (entry_type, data_hash) SELECT 'many', \
                  encode(sha256(n::text::bytea), 'hex') FROM generate_series(1, 150000) n";
    client.batch_execute(insert).unwrap();
    seal(&mut client);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.progress"), 0);

    let mut verifying = cluster.connect("postgres");
    let pid = number(&mut verifying, "SELECT pg_backend_pid()");
    let verification = thread::spawn(move || {
        // One after the other, so that one is always running until it is cancelled.
        loop {
            if let Err(error) = verifying.simple_query("SELECT ledger.verify_chain()") {
                return (error.code().cloned(), verifying);
            }
        }
    });
    let mine = format!("FROM ledger.progress WHERE pid = {pid} AND database = 'postgres'");
    let under_way = format!(
        "SELECT count(*) {mine} AND phase = 'verifying blocks' AND blocks_done BETWEEN 1 AND blocks_total \
         AND entries_done BETWEEN 1 AND {ENTRIES} AND bytes_done BETWEEN 1 AND bytes_total AND started_at <= clock_timestamp()"
    );
    wait_until("the verification is seen under way", PATIENCE, || number(&mut client, &under_way) == 1);
    let blocks = number(&mut client, "SELECT count(*) FROM ledger.blocks");
    wait_until("it knows how much there is", PATIENCE, || {
        number(&mut client, &format!("SELECT count(*) {mine} AND blocks_total = {blocks}")) == 1
    });

    // Again and again: between two verifications there is nothing to cancel.
    wait_until("the cancelled verification ends", PATIENCE, || {
        number(&mut client, &format!("SELECT count(pg_cancel_backend({pid}))"));
        verification.is_finished()
    });
    let (code, mut verifying) = verification.join().unwrap();
    assert_eq!(code, Some(SqlState::QUERY_CANCELED));
    // The kernel shows a thread for a moment after it has been waited for.
    wait_until("the threads that read and hash have ended", PATIENCE, || {
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() == 1
    });
    assert!(is_true(&mut verifying, "(ledger.verify_chain() -> 'overall_valid')::boolean"));
    assert_eq!(number(&mut client, &format!("SELECT count(*) {mine}")), 0);
}

/// A process that is terminated drops nothing on its way out.
#[test]
fn a_terminated_verification_is_not_shown_any_more() {
    let (cluster, mut client) = start(Options::new().secret(None).conf("ledger.block_size = 100"));
    let insert = "INSERT INTO ledger.entries (entry_type, data_hash) SELECT 'many', \
                  encode(sha256(n::text::bytea), 'hex') FROM generate_series(1, 100000) n";
    client.batch_execute(insert).unwrap();
    seal(&mut client);
    let mut verifying = cluster.connect("postgres");
    let pid = number(&mut verifying, "SELECT pg_backend_pid()");
    let verification = thread::spawn(move || while verifying.simple_query("SELECT ledger.verify_chain()").is_ok() {});
    let terminate =
        format!("SELECT count(pg_terminate_backend(pid)) FROM ledger.progress WHERE pid = {pid} AND blocks_done > 0");
    wait_until("it is terminated while it is shown", PATIENCE, || number(&mut client, &terminate) == 1);
    verification.join().unwrap();
    let ended = format!("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})");
    wait_for(&mut client, &ended);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.progress"), 0);
}
