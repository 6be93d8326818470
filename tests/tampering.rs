//! Whatever a superuser does to the tables is found, and the first bad place is named.
//!
//! Each change is made in a transaction with the triggers off, looked at, and rolled back.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tampering::*;
use crate::common::Options;

const ANOTHER_HASH: &str = "'5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9'";
const SIGNATURE: &str = "'aa' || substr(signature, 3)";

#[test]
fn a_change_of_any_column_of_an_entry_is_found() {
    let mut changes = Vec::new();
    let columns = [
        ("id", "gen_random_uuid()"),
        ("entry_type", "'another'"),
        ("data_hash", ANOTHER_HASH),
        ("metadata", "'{\"n\": 0}'"),
        ("metadata", "metadata || '{\"more\": null}'"),
        ("signature", SIGNATURE),
        ("signature", "NULL"),
        ("signature", "'nonsense'"),
        ("key_id", "'another'"),
        ("key_id", "NULL"),
        ("created_at", "created_at + '1us'::interval"),
        ("created_at", "'infinity'"),
    ];
    for (column, value) in columns {
        for leaf in [0, 5, 19] {
            let sql = format!("UPDATE ledger.entries SET {column} = {value} WHERE leaf_index = {leaf}");
            changes.push((sql, Place::Leaf(leaf)));
        }
        let pending = "id = (SELECT min(id::text)::uuid FROM ledger.entries_pending)";
        // With another id it is one entry gone and another that came.
        changes
            .push((format!("UPDATE ledger.entries_pending SET {column} = {value} WHERE {pending}"), Place::Pending(0)));
    }
    // What is unsigned is not made signed.
    let forged = "signature = repeat('ab', 32), key_id = 'default'";
    changes.push((format!("UPDATE ledger.entries SET {forged} WHERE leaf_index = 2"), Place::Leaf(2)));
    changes.push((format!("UPDATE ledger.entries_pending SET {forged} WHERE signature IS NULL"), Place::Pending(1)));
    assert_found(&changes);
}

#[test]
fn a_change_of_an_entrys_place_is_found() {
    let update = |set: &str, leaf: i64| format!("UPDATE ledger.entries SET {set} WHERE leaf_index = {leaf}");
    let swap = |a: i64, b: i64| {
        [(a, 1000), (b, a), (1000, b)]
            .map(|(from, to)| format!("UPDATE ledger.entries_sealed SET leaf_index = {to} WHERE leaf_index = {from};"))
            .concat()
    };
    let swap_blocks = "UPDATE ledger.entries_sealed SET block_number = 5 - block_number WHERE leaf_index IN (5, 9)";
    let seal = "INSERT INTO ledger.entries_sealed SELECT id, 5, entry_type, data_hash, metadata, signature, key_id, \
                created_at, 20 FROM ledger.entries_pending LIMIT 1";
    assert_found(&[
        (update("leaf_index = 100", 5), Place::Leaf(5)),
        (update("leaf_index = -1", 5), Place::Leaf(5)),
        (update("leaf_index = 20", 19), Place::Leaf(19)),
        (update("block_number = 4", 5), Place::Block(2)),
        (update("block_number = 1", 5), Place::Leaf(5)),
        (update("block_number = 6", 19), Place::Block(5)),
        (swap(5, 6), Place::Leaf(5)),
        (swap(5, 9), Place::Leaf(5)),
        (format!("{}{swap_blocks}", swap(5, 9)), Place::Leaf(5)),
        // Sealed entries that are made pending again, and pending ones made sealed.
        (update("block_number = NULL, leaf_index = NULL", 19), Place::Block(5)),
        (update("block_number = NULL", 0), Place::Block(1)),
        (
            format!("{seal}; DELETE FROM ledger.entries_pending WHERE id IN (SELECT id FROM ledger.entries_sealed)"),
            Place::Block(5),
        ),
        (seal.into(), Place::Block(5)),
        ("UPDATE ledger.entries_pending SET leaf_index = 20 WHERE signature IS NULL".into(), Place::Pending(1)),
    ]);
}

#[test]
fn entries_deleted_or_added_are_found() {
    let copy = |block: i64, leaf: i64, from: i64| {
        format!(
            "INSERT INTO ledger.entries_sealed SELECT gen_random_uuid(), {block}, entry_type, data_hash, metadata, \
             signature, key_id, created_at, {leaf} FROM ledger.entries WHERE leaf_index = {from}"
        )
    };
    assert_found(&[
        ("DELETE FROM ledger.entries WHERE leaf_index = 0".into(), Place::Leaf(0)),
        ("DELETE FROM ledger.entries WHERE leaf_index = 6".into(), Place::Leaf(6)),
        ("DELETE FROM ledger.entries WHERE leaf_index = 19".into(), Place::Leaf(19)),
        ("DELETE FROM ledger.entries WHERE block_number = 3".into(), Place::Leaf(8)),
        ("DELETE FROM ledger.entries_sealed".into(), Place::Leaf(0)),
        (
            "DELETE FROM ledger.entries_pending WHERE id IN (SELECT id FROM ledger.entries_pending ORDER BY id LIMIT 1)"
                .into(),
            Place::Pending(0),
        ),
        ("DELETE FROM ledger.entries_pending".into(), Place::Pending(2)),
        (copy(5, 20, 3), Place::Block(5)),
        (copy(2, 1000, 3), Place::Block(2)),
        (copy(2, -5, 3), Place::Block(2)),
        (copy(7, 20, 3), Place::Block(7)),
        ("TRUNCATE ledger.entries_pending".into(), Place::Pending(0)),
    ]);
}

#[test]
fn a_change_of_any_column_of_a_block_is_found() {
    let columns = [
        ("previous_hash", ANOTHER_HASH),
        ("previous_hash", "'nonsense'"),
        ("block_hash", ANOTHER_HASH),
        ("merkle_root", ANOTHER_HASH),
        ("timestamp", "\"timestamp\" + '1us'::interval"),
        ("data_count", "5"),
        ("data_count", "3"),
        ("data_count", "-1"),
        ("tree_size", "tree_size + 1"),
        ("tree_size", "-1"),
        ("tree_size", "-9223372036854775808"),
        ("tree_size", "9223372036854775807"),
        ("data_count", "-2147483648"),
        ("tree_root", ANOTHER_HASH),
    ];
    let mut changes = Vec::new();
    for (column, value) in columns {
        for block in [1, 3, 5] {
            let sql = format!("UPDATE ledger.blocks SET \"{column}\" = {value} WHERE block_number = {block}");
            changes.push((sql, Place::Block(block)));
        }
    }
    changes.push(("UPDATE ledger.blocks SET block_number = 9 WHERE block_number = 3".into(), Place::Block(3)));
    changes.push(("UPDATE ledger.blocks SET block_number = 6 WHERE block_number = 5".into(), Place::Block(5)));
    changes.push(("UPDATE ledger.blocks SET block_number = 0 WHERE block_number = 1".into(), Place::Block(0)));
    assert_found(&changes);
}

#[test]
fn blocks_deleted_or_added_are_found() {
    let number_block = |number: &str| {
        format!(
            "INSERT INTO ledger.blocks SELECT {number}, previous_hash, ledger.hash_data('1'), merkle_root, \"timestamp\", \
             data_count, tree_size, tree_root FROM ledger.blocks WHERE block_number = 3"
        )
    };
    assert_found(&[
        ("DELETE FROM ledger.blocks WHERE block_number = 1".into(), Place::Block(1)),
        ("DELETE FROM ledger.blocks WHERE block_number = 3".into(), Place::Block(3)),
        ("DELETE FROM ledger.blocks WHERE block_number = 5".into(), Place::Block(5)),
        // The end, with everything that belongs to it: only the file knows.
        (
            "DELETE FROM ledger.entries WHERE block_number > 3; DELETE FROM ledger.blocks WHERE block_number > 3".into(),
            Place::Block(4),
        ),
        (
            "DELETE FROM ledger.entries; DELETE FROM ledger.blocks; DELETE FROM ledger.log_nodes; \
             UPDATE ledger.log_state SET frontier = ''"
                .into(),
            Place::Block(1),
        ),
        (
            "INSERT INTO ledger.blocks SELECT 6, block_hash, ledger.hash_data('1'), merkle_root, now(), 0, 20, tree_root \
             FROM ledger.blocks WHERE block_number = 5"
                .into(),
            Place::Block(6),
        ),
        (number_block("0"), Place::Block(0)),
        (number_block("-1"), Place::Block(-1)),
        (number_block("-9223372036854775808"), Place::Block(i64::MIN)),
        (number_block("9223372036854775807"), Place::Block(6)),
        ("UPDATE ledger.log_state SET frontier = '\\x00'".into(), Place::Ledger),
        ("UPDATE ledger.log_state SET ledger_id = gen_random_uuid()".into(), Place::Ledger),
    ]);
}

/// What a transaction has recorded itself has no line yet, so this one is committed.
#[test]
fn a_pending_entry_that_came_by_itself_is_found() {
    // With what is pending it must not fill a block, or it may be sealed before it is looked for.
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    record_many(&mut client, 3);
    client.batch_execute(TRIGGERS_OFF).unwrap();
    let insert = "INSERT INTO ledger.entries_pending (entry_type, data_hash) VALUES ('forged', ledger.hash_data('1'))";
    let forged = value(&mut client, &format!("{insert} RETURNING id"));
    assert_eq!(verdict(&mut client)["overall_valid"], false);
    let found = column(&mut client, "SELECT entry_id FROM ledger.find_tampering() WHERE problem = 'entry_not_in_file'");
    assert_eq!(found, [forged]);
    client.batch_execute("DELETE FROM ledger.entries_pending WHERE entry_type = 'forged'").unwrap();
    assert_intact(&mut client);
}

/// Someone who knows the format makes the tables agree with themselves again: another entry, and every hash after it
/// made anew by sealing it all once more. Only the file tells.
#[test]
fn a_history_rewritten_in_the_tables_is_found_by_the_file() {
    let (_cluster, mut client) = ledger();
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(TRIGGERS_OFF).unwrap();
    client
        .batch_execute(
            "CREATE TEMP TABLE kept AS SELECT * FROM ledger.entries WHERE leaf_index >= 4;
             DELETE FROM ledger.entries WHERE leaf_index >= 4;
             DELETE FROM ledger.blocks WHERE block_number >= 2;
             UPDATE ledger.log_state SET frontier = (SELECT decode(tree_root, 'hex') FROM ledger.blocks);
             UPDATE kept SET entry_type = 'forged' WHERE leaf_index = 6;
             INSERT INTO ledger.entries_pending SELECT id, NULL, entry_type, data_hash, metadata, signature, key_id,
                 created_at, NULL FROM kept",
        )
        .unwrap();
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    let verdict = verdict(&mut client);
    assert_eq!(verdict["overall_valid"], false, "{verdict:#}");
    let found = find_tampering(&mut client);
    assert!(found.iter().any(|problem| problem.leaf == Some(6)), "{found:?}");
    assert_eq!(found.iter().filter_map(|problem| problem.block).min(), Some(2), "{found:?}");
    client.batch_execute("ROLLBACK").unwrap();
    assert_intact(&mut client);
}

#[test]
fn metadata_that_is_long_or_deep_or_cannot_be_canonical_is_verified_like_any_other() {
    let options = Options::new().conf("ledger.block_size = 100").conf("ledger.block_interval = 1h");
    let (_cluster, mut client) = start(options);
    let metadata = "CASE n % 100 \
        WHEN 10 THEN jsonb_build_object('deep', (repeat('[', 100) || repeat(']', 100))::jsonb) \
        WHEN 20 THEN jsonb_build_object('compressed', repeat('long ', 5000)) \
        WHEN 30 THEN jsonb_build_object('elsewhere', \
            (SELECT string_agg(md5((n * i)::text), '') FROM generate_series(1, 2000) i)) \
        ELSE jsonb_build_object('n', n, 'é', '\"') END";
    let record =
        format!("SELECT ledger.hash_and_record('test', to_jsonb(n), {metadata}) FROM generate_series(1, 1000) n");
    client.batch_execute(&record).unwrap();
    wait_until_sealed(&mut client);
    assert_intact(&mut client);
    for (leaf, metadata) in [(0, r#"{"n": 1e400}"#), (509, r#"{"deep": 1}"#), (619, "{}"), (999, r#"{"n": -1e400}"#)] {
        client.batch_execute("BEGIN").unwrap();
        client.batch_execute(TRIGGERS_OFF).unwrap();
        let change = format!("UPDATE ledger.entries_sealed SET metadata = '{metadata}' WHERE leaf_index = {leaf}");
        client.batch_execute(&change).unwrap();
        let found = find_tampering(&mut client);
        client.batch_execute("ROLLBACK").unwrap();
        let blocks: Vec<Option<i64>> = found.iter().map(|problem| problem.block).collect();
        assert!(blocks.iter().all(|block| *block == Some(leaf / 100 + 1)), "{leaf}: {found:?}");
        assert!(found.iter().any(|problem| problem.leaf == Some(leaf)), "{leaf}: {found:?}");
    }
    assert_intact(&mut client);
}

/// What a superuser can put into a text past all of Postgres' checks.
const NO_TEXTS: &str = "CREATE CAST (bytea AS varchar) WITHOUT FUNCTION; CREATE CAST (bytea AS jsonb) WITHOUT FUNCTION";

#[test]
fn bytes_that_are_no_text_are_found_and_do_not_end_the_verification() {
    let mut changes = Vec::new();
    let with_casts = |update: String| format!("{NO_TEXTS}; {update}");
    for bytes in [r"'\x80'::bytea::varchar", r"'\x6100'::bytea::varchar", r"('\x' || repeat('ff', 64))::bytea::varchar"]
    {
        for column in ["entry_type", "data_hash", "signature", "key_id"] {
            // The entry with leaf_index 2 is unsigned.
            for leaf in [2, 5] {
                let update = format!("UPDATE ledger.entries SET {column} = {bytes} WHERE leaf_index = {leaf}");
                changes.push((with_casts(update), Place::Leaf(leaf)));
            }
            let pending = "id = (SELECT min(id::text)::uuid FROM ledger.entries_pending)";
            let update = format!("UPDATE ledger.entries_pending SET {column} = {bytes} WHERE {pending}");
            changes.push((with_casts(update), Place::Pending(0)));
        }
        for column in ["previous_hash", "block_hash", "merkle_root", "tree_root"] {
            let update = format!("UPDATE ledger.blocks SET {column} = {bytes} WHERE block_number = 3");
            changes.push((with_casts(update), Place::Block(3)));
        }
    }
    assert_found(&changes);
}

/// A byte that is no text is shown as U+FFFD by whatever is lenient, so it must not pass for one that was recorded.
#[test]
fn a_replacement_character_is_not_what_a_broken_one_reads_as() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    let metadata = r#"{"n": "\ufffd"}"#;
    client.batch_execute(&format!("SELECT ledger.add_entry('\u{fffd}', '1', NULL, '{metadata}')")).unwrap();
    seal(&mut client);
    assert_intact(&mut client);
    // An object of one member: its header, the lengths of two strings, and these.
    let jsonb = r"'\x0100002001000000010000006e80'::bytea::jsonb";
    for change in [format!("metadata = {jsonb}"), r"entry_type = '\x80'::bytea::varchar".into()] {
        client.batch_execute(&format!("BEGIN; {NO_TEXTS}")).unwrap();
        client.batch_execute(TRIGGERS_OFF).unwrap();
        client.batch_execute(&format!("UPDATE ledger.entries_sealed SET {change}")).unwrap();
        let found = find_tampering(&mut client);
        client.batch_execute("ROLLBACK").unwrap();
        assert!(found.iter().any(|problem| problem.leaf == Some(0)), "{change}: {found:?}");
    }
}
