//! Entries that are sealed while they are verified are counted once.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::Options;
use std::thread;

#[test]
fn what_is_sealed_during_a_verification_is_counted_as_sealed_and_not_as_pending_too() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    // As many as have a stored node, which the verification reads, and sealing a few more does not.
    record_many(&mut client, 256);
    seal(&mut client);
    record_many(&mut client, 20);
    let mut holder = cluster.connect("postgres");
    holder.batch_execute("BEGIN; LOCK TABLE ledger.log_nodes IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut verifying = cluster.connect("postgres");
    let pid = number(&mut verifying, "SELECT pg_backend_pid()");
    let verification = thread::spawn(move || verdict(&mut verifying));
    wait_for(&mut client, &format!("EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted)"));
    seal(&mut client);
    record_many(&mut client, 3);
    holder.batch_execute("ROLLBACK").unwrap();
    let verdict = verification.join().unwrap();
    assert_eq!(verdict["overall_valid"], true, "{verdict}");
    assert_eq!(verdict["postgres_chain"]["entry_count"], 276, "{verdict}");
    assert_eq!(verdict["postgres_chain"]["pending_count"], 0, "{verdict}");
    assert_intact(&mut client);
}
