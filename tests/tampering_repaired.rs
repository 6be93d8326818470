//! What a superuser has changed in the tables is put back as docs/mirror.md says.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{write_file, Options};
use std::fs;
use std::path::Path;

/// What the documentation tells an administrator to type, with this file in the place of the one there.
fn documented_way(path: &Path) -> String {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/mirror.md")).unwrap();
    let case = text.split("\n#### ").find(|case| case.starts_with("The tables were changed\n")).unwrap();
    let blocks = case.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap());
    let directory = path.parent().unwrap().to_str().unwrap();
    blocks
        .collect::<String>()
        .replace("/mnt/notary/shop.1da85c79.jsonl", path.to_str().unwrap())
        .replace("/mnt/notary", directory)
}

#[test]
fn the_documented_way_puts_back_entries_and_blocks_that_were_changed() {
    let cluster = Options::new().conf("ledger.block_interval = 1h").start();
    cluster.connect("postgres").batch_execute("CREATE DATABASE shop").unwrap();
    let mut client = cluster.connect("shop");
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    for _ in 0..2 {
        record_many(&mut client, 10);
        seal(&mut client);
    }
    let path = file(&mut client);
    let all = "SELECT e::text FROM ledger.entries AS e UNION ALL SELECT b::text FROM ledger.blocks AS b ORDER BY 1";
    let before = column(&mut client, all);
    client
        .batch_execute(
            "ALTER TABLE ledger.entries_sealed_1 DISABLE TRIGGER USER; ALTER TABLE ledger.blocks DISABLE TRIGGER USER;
             UPDATE ledger.entries_sealed_1 SET data_hash = repeat('0', 64) WHERE leaf_index = 3;
             DELETE FROM ledger.entries_sealed_1 WHERE leaf_index = 5;
             UPDATE ledger.blocks SET merkle_root = repeat('1', 64) WHERE block_number = 1;
             ALTER TABLE ledger.entries_sealed_1
                 ENABLE ALWAYS TRIGGER zz_complete_entry, ENABLE ALWAYS TRIGGER queue_entry,
                 ENABLE ALWAYS TRIGGER refuse_row, ENABLE ALWAYS TRIGGER refuse_statement;
             ALTER TABLE ledger.blocks ENABLE ALWAYS TRIGGER refuse_row, ENABLE ALWAYS TRIGGER refuse_statement",
        )
        .unwrap();
    let verdict = json(&mut client, "SELECT ledger.verify_chain()");
    assert_eq!((&verdict["postgres_chain"]["valid"], &verdict["file_chain"]["valid"]), (&false.into(), &true.into()));

    let script = cluster.scratch_dir().join("documented.sql");
    write_file(&script, documented_way(&path));
    let options = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "shop", "-f", script.to_str().unwrap()];
    // It ends with a query for what is still wrong.
    let found = cluster.run("psql", &options);
    assert!(found.contains("(0 rows)"), "{found}");
    assert_eq!(column(&mut client, all), before);
    let refused = error(&mut client, "DELETE FROM ledger.entries_sealed_1");
    assert!(refused.message().starts_with("cannot DELETE"), "{refused:?}");
    seal(&mut client);
    assert_intact(&mut client);
}

/// Nothing counts what is put back past the triggers.
#[test]
fn an_entry_that_was_put_back_is_sealed_by_the_worker_once_it_is_verified() {
    let (_cluster, mut client) = start(quiet());
    let id = record(&mut client);
    client
        .batch_execute(
            "CREATE TABLE kept AS SELECT * FROM ledger.entries_pending;
             ALTER TABLE ledger.entries_pending DISABLE TRIGGER USER; DELETE FROM ledger.entries_pending",
        )
        .unwrap();
    set(&mut client, "ledger.block_interval", "'1s'");
    wait_for(&mut client, "(SELECT pending = 0 FROM ledger.workers)");
    client
        .batch_execute(
            "INSERT INTO ledger.entries_pending SELECT * FROM kept;
             ALTER TABLE ledger.entries_pending
                 ENABLE ALWAYS TRIGGER zz_complete_entry, ENABLE ALWAYS TRIGGER queue_entry,
                 ENABLE ALWAYS TRIGGER refuse_row, ENABLE ALWAYS TRIGGER refuse_statement",
        )
        .unwrap();
    assert_eq!(verdict(&mut client)["overall_valid"], true);
    wait_for(&mut client, &format!("EXISTS (SELECT FROM ledger.entries_sealed WHERE id = '{id}')"));
    record(&mut client);
    wait_until_sealed(&mut client);
    assert_intact(&mut client);
}
