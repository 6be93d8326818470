//! What `ledger.entries`, `ledger.blocks` and other tables show is what verification reads, whatever tables a superuser
//! makes them of.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tampering::TRIGGERS_OFF;
use crate::common::{Cluster, Options};
use postgres::Client;

/// Two blocks of four entries, and two pending entries.
fn ledger() -> (Cluster, Client) {
    let options = Options::new().conf("ledger.block_size = 100").conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(options);
    for _ in 0..2 {
        record_many(&mut client, 4);
        seal(&mut client);
    }
    record_many(&mut client, 2);
    assert_intact(&mut client);
    (cluster, client)
}

/// What `find_tampering()` says after a change that is rolled back.
#[track_caller]
fn found_after(client: &mut Client, change: &str) -> Vec<String> {
    client.batch_execute(&format!("BEGIN; {TRIGGERS_OFF}; {change}")).unwrap_or_else(|e| panic!("{change}: {e:?}"));
    let is_valid = verdict(client)["overall_valid"] == true;
    let found = column(client, "SELECT problem || ': ' || detail FROM ledger.find_tampering()");
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(is_valid, found.is_empty(), "{change}: {found:#?}");
    found
}

/// Another table in the place of the partition with the sealed entries, with as many rows.
const FORGED: &str = "ALTER TABLE ledger.entries DETACH PARTITION ledger.entries_sealed;
    CREATE TABLE forged (LIKE ledger.entries);
    INSERT INTO forged SELECT id, block_number, 'forged', data_hash, metadata, signature, key_id, created_at, leaf_index
        FROM ledger.entries_sealed;";

#[test]
fn what_entries_shows_is_what_was_verified() {
    let (_cluster, mut client) = ledger();
    let own_rows =
        "SELECT id, block_number, CASE WHEN leaf_index = 3 THEN 'forged' ELSE entry_type END AS entry_type, \
                    data_hash, metadata, signature, key_id, created_at, leaf_index FROM ledger.true_entries";
    let changes = [
        (
            "another table for sealed entries",
            format!("{FORGED} ALTER TABLE ledger.entries ATTACH PARTITION forged DEFAULT"),
        ),
        (
            "another table for one block",
            "CREATE TABLE forged (LIKE ledger.entries);
             ALTER TABLE ledger.entries ATTACH PARTITION forged FOR VALUES IN (77);
             ALTER TABLE forged DISABLE TRIGGER ALL;
             INSERT INTO forged SELECT id, 77, entry_type, data_hash, metadata, signature, key_id, created_at, 100
                 FROM ledger.entries_sealed LIMIT 1"
                .to_owned(),
        ),
        ("no table for sealed entries", "ALTER TABLE ledger.entries DETACH PARTITION ledger.entries_sealed".to_owned()),
        (
            "no table for pending entries",
            "ALTER TABLE ledger.entries DETACH PARTITION ledger.entries_pending".to_owned(),
        ),
        (
            "another table for pending entries",
            "ALTER TABLE ledger.entries DETACH PARTITION ledger.entries_pending;
             CREATE TABLE forged (LIKE ledger.entries);
             INSERT INTO forged SELECT * FROM ledger.entries_pending;
             ALTER TABLE ledger.entries ATTACH PARTITION forged FOR VALUES IN (NULL)"
                .to_owned(),
        ),
        (
            "a view",
            format!("ALTER TABLE ledger.entries RENAME TO true_entries; CREATE VIEW ledger.entries AS {own_rows}"),
        ),
        (
            "an ordinary table",
            format!("ALTER TABLE ledger.entries RENAME TO true_entries; CREATE TABLE ledger.entries AS {own_rows}"),
        ),
        (
            "another partitioned table",
            "ALTER TABLE ledger.entries RENAME TO true_entries;
             CREATE TABLE ledger.entries (LIKE ledger.true_entries) PARTITION BY LIST (block_number);
             ALTER TABLE ledger.true_entries DETACH PARTITION ledger.entries_pending;
             ALTER TABLE ledger.true_entries DETACH PARTITION ledger.entries_sealed;
             ALTER TABLE ledger.entries ATTACH PARTITION ledger.entries_sealed DEFAULT;
             ALTER TABLE ledger.entries ATTACH PARTITION ledger.entries_pending FOR VALUES IN (NULL)"
                .to_owned(),
        ),
    ];
    for (what, change) in changes {
        let found = found_after(&mut client, &change);
        assert!(found.iter().any(|problem| problem.contains("ledger.entries")), "{what}: {found:#?}");
    }
    assert_intact(&mut client);
}

/// A query on a table shows the rows of its inheritance children, too.
#[test]
fn what_other_tables_show_is_what_was_verified() {
    let (_cluster, mut client) = ledger();
    for table in ["blocks", "log_nodes", "log_state"] {
        let child = format!(
            "CREATE TABLE child () INHERITS (ledger.{table});
             INSERT INTO child SELECT * FROM ONLY ledger.{table} LIMIT 1"
        );
        let found = found_after(&mut client, &child);
        assert!(found.iter().any(|problem| problem.contains(&format!("ledger.{table}"))), "{found:#?}");
        let copy = format!(
            "ALTER TABLE ledger.{table} RENAME TO true_{table};
             CREATE TABLE ledger.{table} (LIKE ledger.true_{table} INCLUDING ALL);
             INSERT INTO ledger.{table} SELECT * FROM ledger.true_{table}"
        );
        let found = found_after(&mut client, &copy);
        assert!(found.iter().any(|problem| problem.contains(&format!("ledger.{table}"))), "{found:#?}");
    }
    for table in ["items", "row_versions", "table_shapes", "baselines"] {
        let found = found_after(&mut client, &format!("CREATE TABLE child () INHERITS (ledger.{table})"));
        assert!(found.iter().any(|problem| problem.contains(&format!("ledger.{table}"))), "{found:#?}");
    }
    let found = found_after(&mut client, "ALTER TABLE ledger.items RENAME TO true_items");
    assert!(found.iter().any(|problem| problem.contains("ledger.items is not the ledger's own")), "{found:#?}");
    for table in ["blocks", "log_nodes", "log_state", "entries_pending", "entries_sealed"] {
        let detach = match table.starts_with("entries") {
            true => format!("ALTER TABLE ledger.entries DETACH PARTITION ledger.{table};"),
            false => String::new(),
        };
        client
            .batch_execute(&format!(
                "BEGIN; {detach} ALTER TABLE ledger.{table} RENAME TO true_{table};
                 CREATE VIEW ledger.{table} AS SELECT * FROM ledger.true_{table}"
            ))
            .unwrap();
        let error = error(&mut client, "SELECT ledger.verify_chain()");
        client.batch_execute("ROLLBACK").unwrap();
        let text = all_text(&error);
        assert!(text.contains(&format!("ledger.{table}")) && text.contains("is not the ledger's own"), "{text}");
    }
    assert_intact(&mut client);
}

/// Postgres leaves such a partition when a session ends in the middle of DETACH PARTITION CONCURRENTLY.
#[test]
fn a_partition_that_no_query_sees_any_more_is_named() {
    let (cluster, mut client) = ledger();
    let detach = "UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'ledger.entries_sealed_1'::regclass";
    client.batch_execute(&format!("SET allow_system_table_mods = on; {detach}")).unwrap();
    // Another session has not looked at the partitions before.
    let mut other = cluster.connect("postgres");
    assert_eq!(number(&mut other, "SELECT count(*) FROM ledger.entries WHERE block_number > 0"), 0);
    let found = column(&mut other, "SELECT detail FROM ledger.find_tampering()");
    assert!(found.iter().any(|detail| detail.contains("entries_sealed_1")), "{found:#?}");
    client.batch_execute(&detach.replace("true", "false")).unwrap();
    assert_intact(&mut cluster.connect("postgres"));
}

/// An index can be read in its order only if that is the order of the numbers.
#[test]
fn an_index_in_another_order_raises_no_false_alarm() {
    let (_cluster, mut client) = ledger();
    let without = "ALTER TABLE ledger.entries_sealed_1 DROP CONSTRAINT entries_sealed_1_leaf_index_key";
    for index in ["(leaf_index DESC)", "(leaf_index NULLS FIRST)", "(leaf_index) INCLUDE (id)", "(abs(leaf_index))"] {
        let change = format!("{without}; CREATE UNIQUE INDEX other ON ledger.entries_sealed_1 {index}");
        let found = found_after(&mut client, &change);
        assert!(found.is_empty(), "{index}: {found:#?}");
    }
}
