//! A ledger that was lost is rebuilt, with COPY, from its file or an export: it is the same as before, and goes on.
#![cfg(feature = "cluster-tests")]

use crate::common::copy_jsonl::*;
use crate::common::ledger::*;
use crate::common::{copy_file, make_directory, wait_until, write_file, Cluster, Options, Stop};
use postgres::Client;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Copies a file to where the server of `cluster` can read it.
fn hand_over(from: &Path, cluster: &Cluster, name: &str) -> PathBuf {
    let to = cluster.scratch_dir().join(name);
    copy_file(from, &to);
    to
}

/// The lines of a file but its void lines and the lines that they name.
fn standing_lines(path: &Path) -> BTreeSet<String> {
    let standing = ids_in_file(path);
    let text = fs::read_to_string(path).unwrap();
    let stands = |line: &&str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        match record["record_type"].as_str().unwrap() {
            "entry" => standing.contains(record["entry_id"].as_str().unwrap()),
            kind => kind != "void",
        }
    };
    text.lines().filter(stands).map(str::to_owned).collect()
}

fn as_set(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

fn head(client: &mut Client) -> String {
    value(client, "SELECT last_block_hash FROM ledger.chain_stats")
}

/// What must hold of a ledger rebuilt from one whose head was `head` and whose standing lines are `lines`.
fn check_rebuilt(client: &mut Client, head_before: &str, lines: &BTreeSet<String>) {
    assert_eq!(head(client), head_before);
    assert!(as_set(&export(client)) == *lines, "the export differs");
    assert_intact(client);
    let leaves = number(client, "SELECT tree_size FROM ledger.blocks ORDER BY block_number DESC LIMIT 1");
    let pending = number(client, "SELECT pending_count FROM ledger.chain_stats");
    assert_eq!(pending, 5);
    record_many(client, 4);
    seal(client);
    let next = "SELECT previous_hash FROM ledger.blocks ORDER BY block_number DESC LIMIT 1";
    assert_eq!(value(client, next), head_before);
    let first =
        "SELECT min(leaf_index) FROM ledger.entries WHERE block_number = (SELECT max(block_number) FROM ledger.blocks)";
    assert_eq!(number(client, first), leaves);
    assert_intact(client);
}

#[test]
fn a_lost_database_is_rebuilt_from_its_file_in_a_new_cluster() {
    let (old, mut client) = start_with_ledger();
    let (path, head) = (file(&mut client), head(&mut client));
    let lines = standing_lines(&path);
    drop(client);
    old.kill9_everything();

    let (new, mut client) = start(quiet());
    let copy = hand_over(&path, &new, "copy.jsonl");
    let count = client.execute(&import(&copy), &[]).unwrap();
    assert_eq!(count as usize, fs::read_to_string(&copy).unwrap().lines().count());
    assert_eq!(file(&mut client).file_name(), path.file_name());
    check_rebuilt(&mut client, &head, &lines);

    // It is the same after a restart.
    drop(client);
    new.restart(crate::common::Stop::Immediate);
    let mut client = new.connect("postgres");
    wait_until_attached(&mut client);
    record(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_rebuilt_ledger_goes_on_in_the_file_that_survived() {
    let (old, mut client) = start_with_ledger();
    let (path, head) = (file(&mut client), head(&mut client));
    let lines = standing_lines(&path);
    drop(client);
    old.kill9_everything();

    let new = quiet().start();
    let directory = new.scratch_dir().join("mirror");
    make_directory(&directory);
    let survivor = hand_over(&path, &new, &format!("mirror/{}", path.file_name().unwrap().to_str().unwrap()));
    let before = fs::read(&survivor).unwrap();
    let mut client = new.connect("postgres");
    set(&mut client, "ledger.mirror_directory", &format!("'{}'", directory.display()));
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    client.batch_execute(&import(&survivor)).unwrap();
    wait_until_attached(&mut client);
    assert_eq!(file(&mut client), survivor);
    assert!(fs::read(&survivor).unwrap() == before, "nothing was missing in the file, and it was written to");
    check_rebuilt(&mut client, &head, &lines);
    assert!(fs::read(&survivor).unwrap().starts_with(&before), "the file was not gone on with");
}

/// Its file has what was recorded since, and is all that is left of it.
#[test]
fn a_ledger_rebuilt_from_an_older_export_does_not_void_what_its_file_has_besides() {
    let (old, mut client) = start_with_ledger();
    let exported = export(&mut client);
    let newer = record_many(&mut client, 6);
    let path = file(&mut client);
    wait_for(&mut client, "(SELECT undecided_transactions = 0 FROM ledger.mirror_status)");
    drop(client);
    old.stop(Stop::Fast);

    let new = quiet().start();
    let directory = new.scratch_dir().join("mirror");
    make_directory(&directory);
    let name = format!("mirror/{}", path.file_name().unwrap().to_str().unwrap());
    for state in [true, false] {
        let survivor = hand_over(&path, &new, &name);
        if state {
            let name = format!("mirror/{}", path.with_extension("state").file_name().unwrap().to_str().unwrap());
            hand_over(&path.with_extension("state"), &new, &name);
        } else {
            fs::remove_file(survivor.with_extension("state")).unwrap();
        }
        let before = fs::read(&survivor).unwrap();
        let export = new.scratch_dir().join("export.jsonl");
        write_file(&export, &exported);
        let mut client = new.connect("postgres");
        set(&mut client, "ledger.mirror_directory", &format!("'{}'", directory.display()));
        client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
        client.batch_execute(&import(&export)).unwrap();
        wait_for(&mut client, "(SELECT problem ~ '6 of its entries are not in this ledger' FROM ledger.mirror_status)");
        for refused in [RECORD, "SELECT ledger.mirror_catch_up()"] {
            let refused = all_text(&error(&mut client, refused));
            assert!(refused.contains("6 of its entries are not in this ledger"), "{refused}");
        }
        assert!(fs::read(&survivor).unwrap() == before, "the file was written to");
        // What it tells to do.
        client.batch_execute("DROP EXTENSION pg_notary CASCADE; CREATE EXTENSION pg_notary").unwrap();
        client.batch_execute(&import(&survivor)).unwrap();
        wait_until_attached(&mut client);
        assert_eq!(file(&mut client), survivor);
        assert!(ids_in_table(&mut client).is_superset(&newer.iter().cloned().collect()));
        record(&mut client);
        assert_intact(&mut client);
        client.batch_execute("DROP EXTENSION pg_notary CASCADE").unwrap();
    }
}

#[test]
fn an_import_that_no_worker_has_seen_was_compared_with_no_file() {
    let (_old, mut client) = start_with_ledger();
    let exported = export(&mut client);
    let new = quiet().conf("max_worker_processes = 1").conf("max_logical_replication_workers = 0").start();
    let copy = new.scratch_dir().join("export.jsonl");
    write_file(&copy, exported);
    let mut client = new.connect("postgres");
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    client.batch_execute(&import(&copy)).unwrap();
    let verdict = verdict(&mut client);
    assert_eq!(verdict["postgres_chain"]["valid"], true, "{verdict:#}");
    let warning = verdict["file_chain"]["warnings"][0].as_str().unwrap_or_default();
    assert!(warning.contains("there is no mirror file yet"), "{verdict:#}");
}

/// A copy of a database becomes a ledger of its own once it has a worker, but what was imported before is no copy.
#[test]
fn a_ledger_rebuilt_in_a_copied_database_stays_that_ledger() {
    let (_old, mut client) = start_with_ledger();
    let exported = export(&mut client);
    let new = quiet().conf("max_worker_processes = 1").conf("max_logical_replication_workers = 0").start();
    let mut client = new.connect("template1");
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    drop(client);
    let mut client = new.connect("postgres");
    wait_until("nobody is connected", PATIENCE, || client.batch_execute("CREATE DATABASE shop").is_ok());
    let mut shop = new.connect("shop");
    import_lines(&mut shop, &exported).unwrap();
    drop(shop);
    set(&mut client, "max_worker_processes", "8");
    drop(client);
    new.restart(Stop::Fast);
    let mut shop = new.connect("shop");
    wait_until_attached(&mut shop);
    // Its header names the database.
    assert!(export(&mut shop) == exported.replacen("\"postgres\"", "\"shop\"", 1), "it is another ledger");
    assert_intact(&mut shop);
}

/// As doubles, these are negative zeros, which jsonb does not have.
#[test]
fn numbers_that_are_too_small_for_a_double_can_be_rebuilt() {
    let (_old, mut client) = start(quiet());
    for number in ["-1e-400", "-1e-324", "1e-400", "-4e-320"] {
        let record = format!("SELECT ledger.hash_and_record('small', '1', '{{\"v\": [{number}, 1]}}')");
        client.batch_execute(&record).unwrap();
    }
    seal(&mut client);
    let exported = export(&mut client);
    assert!(exported.contains(r#"{"v": [-0.0, 1]}"#), "{exported}");
    let (_new, mut client) = start(quiet());
    import_lines(&mut client, &exported).unwrap();
    assert!(export(&mut client) == exported, "the second export is not the first one");
    assert_intact(&mut client);
}

#[test]
fn an_export_rebuilds_the_same_ledger_through_the_protocol() {
    let (_old, mut client) = start_with_ledger();
    let (exported, head) = (export(&mut client), head(&mut client));
    let mirror = standing_lines(&file(&mut client));
    assert!(as_set(&exported) == mirror, "the lines are not those of the mirror file");

    let (new, mut client) = start(quiet());
    // In pieces that are no lines.
    let mut writer = client.copy_in(IMPORT).unwrap();
    for piece in exported.as_bytes().chunks(1000) {
        writer.write_all(piece).unwrap();
    }
    let count = writer.finish().unwrap();
    assert_eq!(count as usize, exported.lines().count());
    assert!(export(&mut client) == exported, "the second export is not the first one");
    check_rebuilt(&mut client, &head, &mirror);
    drop(new);
}

#[test]
fn what_is_rebuilt_is_sealed_by_the_worker() {
    let (_old, mut client) = start_with_ledger();
    let exported = export(&mut client);
    let (_new, mut client) = start(Options::new().conf("ledger.block_interval = 1s"));
    import_lines(&mut client, &exported).unwrap();
    wait_until_sealed(&mut client);
    assert_eq!(number(&mut client, "SELECT block_count FROM ledger.chain_stats"), 5);
    assert_intact(&mut client);
}

#[test]
fn a_ledger_that_has_only_begun_can_be_rebuilt_and_recorded_in() {
    let (_cluster, mut client) = start(quiet());
    let exported = export(&mut client);
    assert_eq!(exported.lines().count(), 1);
    let (_other, mut client) = start(quiet());
    assert_eq!(import_lines(&mut client, &exported).unwrap(), 1);
    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
    assert!(export(&mut client).starts_with(&exported), "it is not the ledger that was exported");
}

#[test]
fn a_ledger_of_several_partitions_is_rebuilt_whatever_becomes_of_the_server_then() {
    const BLOCKS: i64 = 6000;
    let (_old, mut client) = start(Options::new().conf("ledger.block_size = 1"));
    let insert = "INSERT INTO ledger.entries (entry_type, data_hash) SELECT 'one a block', \
                  encode(sha256(n::text::bytea), 'hex') FROM generate_series(1, 6000) n";
    client.batch_execute(insert).unwrap();
    let blocks = "SELECT block_count FROM ledger.chain_stats";
    wait_until("all blocks are sealed", 5 * PATIENCE, || number(&mut client, blocks) == BLOCKS);
    wait_until_sealed(&mut client);
    let exported = export(&mut client);

    // Where a block can hold many entries, the first partition is for few blocks. Later ones are for more, as the
    // blocks have one entry each.
    let (new, mut client) = start(quiet());
    import_lines(&mut client, &exported).unwrap();
    drop(client);
    // The worker is about to make the file, or is writing it.
    new.kill9_everything();
    new.start_again();
    let mut client = new.connect("postgres");
    assert_eq!(number(&mut client, "SELECT block_count FROM ledger.chain_stats"), BLOCKS);
    let partitions = "SELECT count(DISTINCT tableoid) FROM ledger.entries_sealed";
    assert!(number(&mut client, partitions) > 2);
    assert!(export(&mut client) == exported, "the second export is not the first one");
    assert_intact(&mut client);
    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
}
