//! Tracked tables that a subscription writes to.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{pg_major, wait_until, Cluster, Options};
use postgres::Client;

const ACCOUNTS: &str = "CREATE TABLE accounts (id int PRIMARY KEY, amount int)";

fn start_publisher() -> (Cluster, Client) {
    start_publisher_with("")
}

fn start_publisher_with(setting: &str) -> (Cluster, Client) {
    let (publisher, mut source) = start(Options::new().conf("wal_level = logical").conf(setting));
    source.batch_execute(&format!("{ACCOUNTS}; CREATE PUBLICATION p FOR TABLE accounts")).unwrap();
    (publisher, source)
}

fn start_subscriber() -> (Cluster, Client) {
    let options = Options::new().conf("ledger.block_size = 50").conf("ledger.block_interval = 1s");
    let (subscriber, mut client) = start(options);
    client.batch_execute(&format!("{ACCOUNTS}; SELECT ledger.track('accounts')")).unwrap();
    (subscriber, client)
}

fn subscribe(client: &mut Client, publisher: &Cluster, options: &str) {
    let socket = publisher.socket();
    let (name, directory) = (socket.file_name().unwrap().to_string_lossy().into_owned(), socket.parent().unwrap());
    let port = name.rsplit('.').next().unwrap();
    let from = format!("host={} port={port} user=postgres dbname=postgres", directory.display());
    client.batch_execute(&format!("CREATE SUBSCRIPTION s CONNECTION '{from}' PUBLICATION p {options}")).unwrap();
}

#[test]
fn changes_that_a_subscription_applies_are_recorded() {
    let (publisher, mut source) = start_publisher();
    source.batch_execute("INSERT INTO accounts VALUES (1, 1), (2, 2), (3, 3)").unwrap();
    let (_subscriber, mut client) = start_subscriber();
    subscribe(&mut client, &publisher, "");
    wait_for(&mut client, "(SELECT count(*) = 3 FROM accounts)");
    source.batch_execute("UPDATE accounts SET amount = 10 WHERE id = 1; DELETE FROM accounts WHERE id = 2").unwrap();
    source.batch_execute("INSERT INTO accounts VALUES (4, 4); UPDATE accounts SET id = 5 WHERE id = 4").unwrap();
    wait_for(&mut client, "EXISTS (SELECT FROM accounts WHERE id = 5)");
    assert_eq!(row_entries(&mut client, "accounts"), 7);
    assert_clean(&mut client, "accounts");
    source.batch_execute("TRUNCATE accounts").unwrap();
    wait_for(&mut client, "NOT EXISTS (SELECT FROM accounts)");
    assert_clean(&mut client, "accounts");
}

/// Postgres warns of each row that it routes to a partition with a trigger. A parallel apply worker would send that to
/// its leader, which does not read it while it waits for the end of the commit, and both would wait for ever.
#[test]
fn rows_that_a_subscription_routes_to_partitions_are_recorded() {
    assert_recorded_in_partitions("postgres");
}

/// The apply worker changes to the role for each row, and then puts settings back.
#[test]
fn rows_that_a_subscription_routes_to_partitions_of_another_role_are_recorded() {
    assert_recorded_in_partitions("app");
}

fn assert_recorded_in_partitions(owner: &str) {
    let (publisher, mut source) = start_publisher_with("logical_decoding_work_mem = 64kB");
    let options = Options::new().conf("ledger.block_size = 50").conf("ledger.block_interval = 1s");
    let (_subscriber, mut client) = start(options);
    client
        .batch_execute(&format!(
            "{ACCOUNTS} PARTITION BY RANGE (id);
             CREATE TABLE low PARTITION OF accounts FOR VALUES FROM (MINVALUE) TO (1000);
             CREATE TABLE high PARTITION OF accounts FOR VALUES FROM (1000) TO (MAXVALUE);
             SELECT ledger.track('accounts'); CREATE ROLE app;
             ALTER TABLE accounts OWNER TO {owner}; ALTER TABLE low OWNER TO {owner}; ALTER TABLE high OWNER TO {owner}"
        ))
        .unwrap();
    let streaming = if pg_major() < 16 { "on" } else { "parallel" };
    subscribe(&mut client, &publisher, &format!("WITH (streaming = {streaming})"));
    wait_for(&mut client, "(SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel)");
    // The apply worker learns that from the next transaction, and only then starts parallel ones.
    source.batch_execute("INSERT INTO accounts VALUES (-1, 0)").unwrap();
    wait_for(&mut client, "EXISTS (SELECT FROM accounts WHERE id = -1)");
    source
        .batch_execute(
            "BEGIN; INSERT INTO accounts SELECT n, 1 FROM generate_series(1, 3000) AS n;
             SAVEPOINT s; UPDATE accounts SET amount = 2; ROLLBACK TO s;
             SAVEPOINT s; UPDATE accounts SET amount = 3 WHERE id % 2 = 0; RELEASE s;
             DELETE FROM accounts WHERE id % 3 = 0; UPDATE accounts SET id = id + 1000 WHERE id BETWEEN 998 AND 999;
             COMMIT",
        )
        .unwrap();
    source.batch_execute("INSERT INTO accounts VALUES (0, 0)").unwrap();
    wait_for(&mut client, "EXISTS (SELECT FROM accounts WHERE id = 0)");
    assert_eq!(row_entries(&mut client, "accounts"), 5504);
    assert_clean(&mut client, "accounts");
    assert_intact(&mut client);
}

/// The process that applies them decides without a command. Places in shared memory are few, so they must become free;
/// what is committed must be sealed, and what is rolled back voided.
#[test]
fn prepared_transactions_of_a_subscription_are_settled_like_others() {
    if pg_major() < 15 {
        // Subscriptions apply them only once they are committed.
        return;
    }
    let (publisher, mut source) = start_publisher();
    let (_subscriber, mut client) = start_subscriber();
    subscribe(&mut client, &publisher, "WITH (two_phase = on)");
    wait_for(&mut client, "(SELECT bool_and(subtwophasestate = 'e') FROM pg_subscription)");
    for (ids, end) in [(1..=300, "COMMIT"), (301..=320, "ROLLBACK")] {
        for n in ids {
            source.batch_execute(&format!("BEGIN; INSERT INTO accounts VALUES ({n}, 1)")).unwrap();
            source.batch_execute(&format!("PREPARE TRANSACTION '{end}{n}'")).unwrap();
            source.batch_execute(&format!("{end} PREPARED '{end}{n}'")).unwrap();
        }
    }
    source.batch_execute("INSERT INTO accounts VALUES (0, 0)").unwrap();
    wait_for(&mut client, "EXISTS (SELECT FROM accounts WHERE id = 0)");
    wait_for(&mut client, "(SELECT prepared_transactions = 0 FROM ledger.mirror_status)");
    wait_for(&mut client, "(SELECT pending_count = 0 FROM ledger.chain_stats)");
    assert_eq!(row_entries(&mut client, "accounts"), 301);
    let path = file(&mut client);
    wait_until("what was rolled back is voided", PATIENCE, || voided_ids(&lines(&path)).len() == 20);
    assert_clean(&mut client, "accounts");
    assert_intact(&mut client);
}
