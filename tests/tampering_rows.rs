//! Rows and blocks that are hidden from who reads in order, and ranges of blocks: what a superuser does to them is
//! found.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tampering::*;
use crate::common::Options;
use postgres::Client;

#[test]
fn rows_that_no_index_leads_to_are_found() {
    let entry = |block: &str, leaf: &str, from: i64| {
        let insert = format!(
            "INSERT INTO ledger.entries_sealed_1 SELECT gen_random_uuid(), {block}, entry_type, data_hash, metadata, \
             signature, key_id, now(), {leaf} FROM ledger.entries WHERE leaf_index = {from}"
        );
        past_the_indexes("entries_sealed_1", &insert)
    };
    let block = |number: &str| {
        let insert = format!(
            "INSERT INTO ledger.blocks SELECT {number}, previous_hash, block_hash, merkle_root, \"timestamp\", data_count, \
             tree_size, tree_root FROM ledger.blocks WHERE block_number = 3"
        );
        // As a table of many blocks is read.
        format!("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; {}", past_the_indexes("blocks", &insert))
    };
    let beside = "CREATE TABLE ledger.beside PARTITION OF ledger.entries FOR VALUES IN (3000); \
                  ALTER TABLE ledger.beside DISABLE TRIGGER ALL; INSERT INTO ledger.beside SELECT gen_random_uuid(), 3000, entry_type, data_hash, metadata, signature, \
                  key_id, created_at, 9 FROM ledger.entries WHERE leaf_index = 9";
    assert_found(&[
        (entry("3", "9", 9), Place::Leaf(9)),
        (entry("1", "0", 19), Place::Leaf(0)),
        (entry("5", "1000", 3), Place::Block(5)),
        (entry("4000", "9", 9), Place::Block(4000)),
        (entry("4000", "20", 9), Place::Block(4000)),
        (block("3"), Place::Block(3)),
        (block("0"), Place::Block(0)),
        (block("4000"), Place::Block(4000)),
        (beside.into(), Place::Block(3000)),
    ]);
}

/// The row and its forged entry agree with each other, so only the count of all entries tells.
#[test]
fn a_changed_row_is_not_covered_by_an_entry_that_no_index_leads_to() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    client.batch_execute("CREATE TABLE paid (id int PRIMARY KEY, amount int); SELECT ledger.track('paid')").unwrap();
    client.batch_execute("INSERT INTO paid VALUES (1, 10), (2, 20); SELECT * FROM ledger.commit_block()").unwrap();
    wait_until_sealed(&mut client);
    assert!(is_true(&mut client, "(ledger.verify_all() -> 'overall_valid')::boolean"));
    // How the row would be recorded, from a change that is rolled back.
    client.batch_execute("BEGIN; UPDATE paid SET amount = 1000 WHERE id = 1").unwrap();
    let kept = value(&mut client, "SELECT to_jsonb(e) FROM ledger.entries_pending e WHERE entry_type = 'table_update'");
    client.batch_execute("ROLLBACK").unwrap();

    client.batch_execute(TRIGGERS_OFF).unwrap();
    client.batch_execute("UPDATE paid SET amount = 1000 WHERE id = 1").unwrap();
    let forge = format!(
        "INSERT INTO ledger.entries_sealed_1 SELECT id, 1, entry_type, data_hash, metadata, signature, key_id, created_at, 0 \
         FROM jsonb_populate_record(null::ledger.entries, '{}')",
        kept.replace('\'', "''")
    );
    client.batch_execute(&past_the_indexes("entries_sealed_1", &forge)).unwrap();
    client.batch_execute("ALTER TABLE paid ENABLE ALWAYS TRIGGER ledger_record_change").unwrap();
    client.batch_execute("ALTER TABLE paid ENABLE ALWAYS TRIGGER ledger_record_truncate").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.verify_table('paid')"), 0, "the entry covers the row");
    assert!(is_true(&mut client, "NOT (ledger.verify_all() -> 'overall_valid')::boolean"));
    let found = column(&mut client, "SELECT entry_id FROM ledger.find_tampering()");
    assert_eq!(found, column(&mut client, "SELECT id FROM ledger.entries WHERE entry_type = 'table_update'"));
}

/// A ledger of 5,000 sealed entries, on many pages, whose triggers are off.
fn large_ledger() -> (crate::common::Cluster, Client) {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    let record = "SELECT count(ledger.hash_and_record('test', to_jsonb(n))) FROM generate_series(1, 5000) n";
    client.batch_execute(&format!("{record}; SELECT * FROM ledger.commit_block()")).unwrap();
    wait_until_sealed(&mut client);
    client.batch_execute(TRIGGERS_OFF).unwrap();
    assert!(find_tampering(&mut client).is_empty());
    (cluster, client)
}

/// Whether rows were put into the room that others have left, and not at the end.
fn is_among_others(client: &mut Client, rows: &str) -> bool {
    let page = "(ctid::text::point)[0]";
    let sql = format!(
        "(SELECT bool_and({page} BETWEEN 20 AND (SELECT max({page}) - 20 FROM ledger.entries_sealed_1)) \
          FROM ledger.entries_sealed_1 WHERE {rows})"
    );
    is_true(client, &sql)
}

#[test]
fn a_row_that_no_index_leads_to_is_found_among_many() {
    let (_cluster, mut client) = large_ledger();
    let taken =
        "CREATE TEMP TABLE taken AS SELECT * FROM ledger.entries_sealed_1 WHERE leaf_index BETWEEN 2500 AND 2699; \
                 DELETE FROM ledger.entries_sealed_1 WHERE leaf_index BETWEEN 2500 AND 2699";
    client.batch_execute(taken).unwrap();
    client.batch_execute("VACUUM ledger.entries_sealed_1").unwrap();
    let stray =
        "INSERT INTO ledger.entries_sealed_1 SELECT gen_random_uuid(), block_number, 'stray', data_hash, metadata, \
                 signature, key_id, created_at, 7 FROM taken WHERE leaf_index = 2550";
    client.batch_execute(&past_the_indexes("entries_sealed_1", stray)).unwrap();
    client.batch_execute("INSERT INTO ledger.entries_sealed_1 SELECT * FROM taken ORDER BY leaf_index").unwrap();
    assert!(is_among_others(&mut client, "entry_type = 'stray'"));
    let found = find_tampering(&mut client);
    assert!(found.len() == 1 && found[0].leaf == Some(7), "{found:#?}");
}

#[test]
fn rows_that_stand_in_another_order_raise_no_false_alarm_and_hide_nothing() {
    let (_cluster, mut client) = large_ledger();
    let changes = [
        // Versions of rows that the index has no entries of its own for, and some that it has.
        "UPDATE ledger.entries_sealed_1 SET entry_type = entry_type WHERE leaf_index % 700 = 7",
        "UPDATE ledger.entries_sealed_1 SET leaf_index = leaf_index WHERE leaf_index BETWEEN 1990 AND 2010",
        "CREATE TEMP TABLE kept AS SELECT * FROM ledger.entries_sealed_1; TRUNCATE ledger.entries_sealed_1; \
         INSERT INTO ledger.entries_sealed_1 SELECT * FROM kept ORDER BY leaf_index / 1000 % 2, leaf_index",
        "TRUNCATE ledger.entries_sealed_1; INSERT INTO ledger.entries_sealed_1 SELECT * FROM kept ORDER BY leaf_index DESC",
    ];
    for change in changes {
        client.batch_execute(change).unwrap();
        let found = find_tampering(&mut client);
        assert!(found.is_empty(), "{change}: {found:#?}");
        client.batch_execute("BEGIN; DELETE FROM ledger.entries_sealed_1 WHERE leaf_index IN (100, 4000)").unwrap();
        let mut missing: Vec<_> = find_tampering(&mut client).iter().filter_map(|problem| problem.leaf).collect();
        missing.sort_unstable();
        missing.dedup();
        assert_eq!(missing, [100, 4000], "{change}");
        client.batch_execute("ROLLBACK").unwrap();
    }
}

/// Deletes a block with all that belongs to it.
fn delete_block(client: &mut Client, block: i64) {
    client.batch_execute(TRIGGERS_OFF).unwrap();
    for table in ["entries", "blocks"] {
        client.batch_execute(&format!("DELETE FROM ledger.{table} WHERE block_number = {block}")).unwrap();
    }
}

/// What the verification of some blocks finds, as `block_number problem`.
fn found_in_range(client: &mut Client, from: i64, to: i64) -> Vec<String> {
    let sql = format!(
        "SELECT concat_ws(' ', e ->> 'block_number', e ->> 'problem') FROM ledger.verify_chain({from}, {to}) AS v, \
         jsonb_array_elements(v #> '{{postgres_chain,errors}}') AS e"
    );
    column(client, &sql)
}

#[test]
fn a_range_whose_blocks_are_gone_is_not_valid_with_the_file_or_without_it() {
    let (_cluster, mut client) = ledger();
    for mode in ["sync", "off"] {
        set(&mut client, "ledger.mirror_mode", mode);
        client.batch_execute("BEGIN").unwrap();
        delete_block(&mut client, 2);
        for (from, to) in [(2, 2), (1, 2), (3, 3), (1, 3), (2, 9), (3, 9)] {
            assert_eq!(found_in_range(&mut client, from, to), ["2 block_missing"], "{mode}, blocks {from} to {to}");
        }
        // Nor where two are gone, of which one is before the range.
        delete_block(&mut client, 3);
        assert_eq!(found_in_range(&mut client, 3, 3), ["2 block_missing", "3 block_missing"], "{mode}");
        assert_eq!(found_in_range(&mut client, 2, 3), ["2 block_missing"], "{mode}");
        assert!(found_in_range(&mut client, 1, 1).is_empty(), "{mode}");
        client.batch_execute("ROLLBACK").unwrap();
        for (from, to) in [(2, 2), (5, 9), (6, 6), (6, 9), (8, 9)] {
            assert!(found_in_range(&mut client, from, to).is_empty(), "{mode}, blocks {from} to {to}");
        }
    }
}

/// One whose snapshot is older than the newest blocks.
#[test]
fn a_transaction_does_not_miss_blocks_that_came_after_its_snapshot() {
    let (cluster, mut client) = ledger();
    let mut old = cluster.connect("postgres");
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").unwrap();
    seal(&mut client);
    for (from, to) in [(1, 9), (5, 6), (6, 6), (7, 9)] {
        assert!(found_in_range(&mut old, from, to).is_empty(), "blocks {from} to {to}");
    }
    assert_eq!(verdict(&mut old)["overall_valid"], true);
}

#[test]
fn all_rows_outside_the_log_are_counted_however_many() {
    let (_cluster, mut client) = ledger();
    client.batch_execute(TRIGGERS_OFF).unwrap();
    let forge = "INSERT INTO ledger.entries_sealed_1 (id, block_number, entry_type, data_hash, leaf_index)
                 SELECT gen_random_uuid(), 1, 'forged', ledger.hash_data('1'), 1000000 + n FROM generate_series(1, 1500) n";
    client.batch_execute(forge).unwrap();
    assert_eq!(verdict(&mut client)["postgres_chain"]["error_count"], 1500);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.find_tampering()"), 1500);
}

/// What a row says of its own place proves nothing.
#[test]
fn a_sealed_entry_that_says_it_is_pending_does_not_verify() {
    let (_cluster, mut client) = start(quiet());
    let id = record(&mut client);
    seal(&mut client);
    let verify = format!("SELECT ledger.verify_entry('{id}', '{{\"n\": 1}}')");
    assert_eq!(json(&mut client, &verify)["verified"], true);
    let change = "UPDATE ledger.entries_sealed_1 SET leaf_index = -1, metadata = '{\"amount\": 1}'";
    client.batch_execute(&format!("BEGIN; {TRIGGERS_OFF}; {change}; COMMIT")).unwrap();
    let verdict = json(&mut client, &verify);
    assert!(verdict["verified"] == false && verdict["included"] == false && verdict["block_number"] == 1, "{verdict}");
}

/// The log tree of a later block has the leaf, too.
#[test]
fn an_entry_that_says_it_is_in_a_later_block_does_not_verify() {
    let (_cluster, mut client) = start(quiet());
    let id = record(&mut client);
    seal(&mut client);
    record(&mut client);
    seal(&mut client);
    let change = format!("UPDATE ledger.entries_sealed SET block_number = 2 WHERE id = '{id}'");
    client.batch_execute(&format!("BEGIN; {TRIGGERS_OFF}; {change}; COMMIT")).unwrap();
    let verdict = json(&mut client, &format!("SELECT ledger.verify_entry('{id}', '{{\"n\": 1}}')"));
    assert!(verdict["verified"] == false && verdict["included"] == false, "{verdict}");
}

/// As if the disk had changed it: the index still leads to the row. What comes after it is read all the same.
#[test]
fn a_row_that_claims_a_later_leaf_than_its_index_does_not_hide_those_after_it() {
    let (_cluster, mut client) = ledger();
    let index =
        "(SELECT indexrelid FROM pg_index WHERE indrelid = 'ledger.entries_sealed_1'::regclass AND NOT indisprimary)";
    let switch = |on: bool| {
        format!(
            "UPDATE pg_index SET indislive = {on} WHERE indexrelid = {index}; \
             ALTER TABLE ledger.entries_sealed_1 SET (autovacuum_enabled = true)"
        )
    };
    client.batch_execute(TRIGGERS_OFF).unwrap();
    for statement in [
        switch(false),
        "UPDATE ledger.entries_sealed_1 SET leaf_index = 1000000000000000 WHERE leaf_index = 2".to_owned(),
        switch(true),
        // In another block.
        "UPDATE ledger.entries_sealed_1 SET entry_type = 'forged' WHERE leaf_index = 9".to_owned(),
    ] {
        client.batch_execute(&statement).unwrap();
    }
    let by_index = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off";
    client.batch_execute(by_index).unwrap();
    let claimed = "SELECT leaf_index FROM ledger.entries_sealed_1 WHERE leaf_index >= 2 LIMIT 1";
    assert_eq!(number(&mut client, claimed), 1_000_000_000_000_000, "the index leads to the row");
    let found = column(
        &mut client,
        "SELECT DISTINCT concat_ws(' ', block_number, problem) FROM ledger.find_tampering() \
         WHERE source = 'file' AND leaf_index IS NOT NULL OR problem = 'row_malformed' ORDER BY 1",
    );
    assert_eq!(found, ["1 row_malformed"], "{:#}", verdict(&mut client));
}

#[test]
fn what_a_superuser_has_taken_from_the_tables_does_not_keep_the_rest_from_being_verified() {
    let (_cluster, mut client) = ledger();
    for change in [
        "ALTER TABLE ledger.blocks DROP CONSTRAINT blocks_pkey CASCADE",
        "UPDATE ledger.log_state SET open_ranges = '{NULL}'",
    ] {
        client.batch_execute(&format!("BEGIN; {TRIGGERS_OFF}; {change}")).unwrap();
        assert_eq!(verdict(&mut client)["overall_valid"], true, "{change}");
        client.batch_execute("UPDATE ledger.entries_sealed SET entry_type = 'forged' WHERE leaf_index = 9").unwrap();
        let found = column(&mut client, "SELECT DISTINCT block_number FROM ledger.find_tampering()");
        assert_eq!(found, ["3"], "{change}");
        client.batch_execute("ROLLBACK").unwrap();
    }
}
