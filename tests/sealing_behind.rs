//! Sealing that has fallen behind comes before what would make it fall behind further.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::wait_until;
use postgres::Client;

/// Commits so many entries while nobody can seal them.
fn record_much(client: &mut Client, count: usize) {
    let entries = format!("SELECT 'much', repeat('0', 64) FROM generate_series(1, {count})");
    client.batch_execute(&format!("INSERT INTO ledger.entries (entry_type, data_hash) {entries}")).unwrap();
}

/// Waits until the worker has looked what there is to do, and has done it or tried to.
fn wait_for_round(client: &mut Client) {
    let mut look = || {
        let ends = "SELECT state_change::text FROM pg_stat_activity WHERE backend_type LIKE 'pg_notary worker%'";
        column(client, ends)
    };
    // The round that it is in may have begun before.
    for _ in 0..2 {
        let before = look();
        wait_until("the worker has looked", PATIENCE, || look() != before);
    }
}

#[test]
fn a_baseline_waits_until_sealing_is_not_behind_any_more() {
    let (cluster, mut client) = start(quiet());
    client
        .batch_execute(
            "CREATE TABLE accounts (id int PRIMARY KEY, note text);
             INSERT INTO accounts SELECT n, repeat('x', 900) FROM generate_series(1, 3000) n",
        )
        .unwrap();
    switch_off(&mut client);
    let mut holder = cluster.connect("postgres");
    holder.batch_execute(&format!("BEGIN; {SEAL}")).unwrap();
    record_much(&mut client, 110_000);
    client.batch_execute("SELECT ledger.track('accounts')").unwrap();
    wait_for_round(&mut client);
    assert_eq!(number(&mut client, "SELECT baseline_pages_done::bigint FROM ledger.tracked_tables"), 0);
    holder.batch_execute("COMMIT").unwrap();
    wait_for(&mut client, "(SELECT state = 'tracked' FROM ledger.tracked_tables)");
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries WHERE metadata ? 'baseline'"), 3000);
}
