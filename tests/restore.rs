//! COPY in format jsonl: the ledger written out, and rebuilt where it was lost.
#![cfg(feature = "cluster-tests")]

mod common;

use common::ledger::*;
use common::tampering::TRIGGERS_OFF;
use common::{copy_file, make_directory, pg_major, send, wait_until, write_file, Cluster, Options, Stop};
use pg_notary::ledger::block;
use pg_notary::ledger::log_tree::{leaf_hash, LogTree};
use pg_notary::ledger::record::{Entry, Header, Timestamp};
use postgres::error::SqlState;
use postgres::Client;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use uuid::Uuid;

/// A ledger with sealed, pending and voided entries.
fn start_with_ledger() -> (Cluster, Client) {
    let (cluster, mut client) = start(quiet());
    for size in [3, 10, 1] {
        record_many(&mut client, size);
        seal(&mut client);
    }
    void_one(&cluster, &mut client);
    let metadata = "jsonb_build_object('text', E'é\\n\"', 'large', 123456789012345678901234.5, 'n', n)";
    let insert = format!(
        "INSERT INTO ledger.entries (entry_type, data_hash, metadata) \
         SELECT 'ümlaut', ledger.hash_data(to_jsonb(n)), {metadata} FROM generate_series(1, 5) n"
    );
    client.batch_execute(&insert).unwrap();
    seal(&mut client);
    void_one(&cluster, &mut client);
    client.batch_execute(&insert).unwrap();
    assert_intact(&mut client);
    (cluster, client)
}

/// Leaves the line of a transaction that fails only after its lines are in the file, and its void line.
fn void_one(cluster: &Cluster, client: &mut Client) {
    let path = file(client);
    let voids = |path: &Path| of_type(&lines(path), "void").len();
    let before = voids(&path);
    client.batch_execute("CREATE TABLE IF NOT EXISTS doctors (name text, on_call boolean)").unwrap();
    client.batch_execute("TRUNCATE doctors; INSERT INTO doctors VALUES ('a', true), ('b', true)").unwrap();
    let mut first = cluster.connect("postgres");
    let mut second = cluster.connect("postgres");
    for (session, name) in [(&mut first, "a"), (&mut second, "b")] {
        session
            .batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM doctors WHERE on_call")
            .unwrap();
        session.batch_execute(&format!("UPDATE doctors SET on_call = false WHERE name = '{name}'")).unwrap();
    }
    second.batch_execute(RECORD).unwrap();
    first.batch_execute("COMMIT").unwrap();
    assert_eq!(*error(&mut second, "COMMIT").code(), SqlState::T_R_SERIALIZATION_FAILURE);
    wait_until("the line is voided", PATIENCE, || voids(&path) > before);
}

/// Copies a file to where the server of `cluster` can read it.
fn hand_over(from: &Path, cluster: &Cluster, name: &str) -> PathBuf {
    let to = cluster.scratch_dir().join(name);
    copy_file(from, &to);
    to
}

fn import(path: &Path) -> String {
    format!("COPY ledger.entries FROM '{}' WITH (FORMAT jsonl)", path.display())
}

fn export(client: &mut Client) -> String {
    let mut out = String::new();
    let mut reader = client.copy_out("COPY ledger.entries TO STDOUT WITH (FORMAT jsonl)").unwrap();
    reader.read_to_string(&mut out).unwrap();
    out
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
    new.restart(common::Stop::Immediate);
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
        error(&mut client, RECORD);
        error(&mut client, "SELECT ledger.mirror_catch_up()");
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

#[test]
fn an_export_rebuilds_the_same_ledger_through_the_protocol() {
    let (_old, mut client) = start_with_ledger();
    let (exported, head) = (export(&mut client), head(&mut client));
    let mirror = standing_lines(&file(&mut client));
    assert!(as_set(&exported) == mirror, "the lines are not those of the mirror file");

    let (new, mut client) = start(quiet());
    // In pieces that are no lines.
    let mut writer = client.copy_in("COPY ledger.entries FROM STDIN WITH (FORMAT jsonl)").unwrap();
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
fn the_database_is_free_for_others_as_soon_as_an_import_has_ended() {
    let (_old, mut client) = start_with_ledger();
    let exported = export(&mut client);
    let (new, mut client) = start(quiet());
    let copy = new.scratch_dir().join("copy.jsonl");
    write_file(&copy, exported);
    // Recording waits for the import, and then for its file.
    client.batch_execute(&format!("BEGIN; {}", import(&copy))).unwrap();
    let mut other = new.connect("postgres");
    let pid = number(&mut other, "SELECT pg_backend_pid()");
    let recording = thread::spawn(move || record(&mut other));
    wait_for(&mut new.connect("postgres"), &format!("EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted)"));
    client.batch_execute("COMMIT").unwrap();
    let id = recording.join().unwrap();
    assert!(ids_in_file(&file(&mut client)).contains(&id));
    assert_intact(&mut client);

    // And after one that was refused, what was recorded before stays where it was.
    assert_eq!(*error(&mut client, &import(&copy)).code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    record(&mut client);
    assert_intact(&mut client);
}

#[test]
fn what_is_rebuilt_is_sealed_by_the_worker() {
    let (_old, mut client) = start_with_ledger();
    let exported = export(&mut client);
    let (_new, mut client) = start(Options::new().conf("ledger.block_interval = 1s"));
    let mut writer = client.copy_in("COPY ledger.entries FROM STDIN WITH (FORMAT jsonl)").unwrap();
    writer.write_all(exported.as_bytes()).unwrap();
    writer.finish().unwrap();
    wait_until_sealed(&mut client);
    assert_eq!(number(&mut client, "SELECT block_count FROM ledger.chain_stats"), 5);
    assert_intact(&mut client);
}

#[test]
fn a_standby_exports_the_same_lines() {
    let (primary, mut client) = start_with_ledger();
    let standby = quiet().standby_of(&primary);
    let mut reader = standby.connect("postgres");
    record_many(&mut client, 3);
    let written = value(&mut client, "SELECT pg_current_wal_flush_lsn()");
    wait_for(&mut reader, &format!("pg_last_wal_replay_lsn() >= '{written}'"));
    assert!(export(&mut reader) == export(&mut client), "the standby exports something else");
    let refused = reader.copy_in("COPY ledger.entries FROM STDIN WITH (FORMAT jsonl)").err();
    assert_eq!(refused.unwrap().code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
}

#[test]
fn an_export_is_of_one_moment() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_size = 7").conf("ledger.block_interval = 1h"));
    let mut writer = cluster.connect("postgres");
    let writing = thread::spawn(move || {
        for _ in 0..40 {
            record_many(&mut writer, 10);
        }
    });
    let scratch = cluster.scratch_dir().join("export.jsonl");
    while !writing.is_finished() {
        let exported = export(&mut client);
        fs::write(&scratch, &exported).unwrap();
        let (status, report) = cli_verify(&scratch);
        assert_eq!(status, 0, "{report:#}");
        assert_eq!(ids_in_file(&scratch).len() % 10, 0, "a transaction was exported in part");
    }
    writing.join().unwrap();
}

/// Makes the export of a ledger that takes some seconds to import.
fn large_export() -> String {
    let (_cluster, mut client) = start(Options::new().secret(None));
    let insert = "INSERT INTO ledger.entries (entry_type, data_hash) SELECT 'many', \
                  encode(sha256(n::text::bytea), 'hex') FROM generate_series(1, 60000) n";
    client.batch_execute(insert).unwrap();
    seal(&mut client);
    export(&mut client)
}

/// A psql that has sent these lines, and waits for more.
fn start_import(cluster: &Cluster, lines: &[u8]) -> Child {
    let mut command = cluster.command("psql");
    command.args(["-X", "-c", "COPY ledger.entries FROM STDIN WITH (FORMAT jsonl)"]);
    let mut psql = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    psql.stdin.as_mut().unwrap().write_all(lines).unwrap();
    psql
}

#[test]
fn an_import_that_is_killed_leaves_an_empty_ledger_that_works() {
    let exported = large_export();
    let (new, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    let original = file(&mut client);
    for everything in [false, true] {
        let mut importing = start_import(&new, &exported.as_bytes()[..exported.len() / 2]);
        // Blocks have been written by then.
        let mut pid = 0;
        let copying = "SELECT coalesce((SELECT pid FROM pg_stat_progress_copy WHERE bytes_processed > 4000000), 0)";
        wait_until("half of the import is done", PATIENCE, || {
            pid = number(&mut client, copying) as u32;
            pid != 0
        });
        drop(client);
        if everything {
            new.kill9_everything();
            new.start_again();
        } else {
            let restarts = || new.log().matches("all server processes terminated; reinitializing").count();
            let before = restarts();
            send(pid, libc::SIGKILL);
            wait_until("the server starts again", PATIENCE, || restarts() > before);
            wait_until("the server is up", PATIENCE, || new.try_connect("postgres").is_ok());
        }
        assert!(!importing.wait().unwrap().success());
        client = new.connect("postgres");
        assert_eq!(number(&mut client, "SELECT block_count + pending_count FROM ledger.chain_stats"), 0);
        assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.log_nodes"), 0);
        assert_eq!(file(&mut client), original);
    }
    // And one that is broken off by the client.
    let mut writer = client.copy_in("COPY ledger.entries FROM STDIN WITH (FORMAT jsonl)").unwrap();
    writer.write_all(&exported.as_bytes()[..exported.len() / 2]).unwrap();
    drop(writer);
    assert_intact(&mut client);

    let mut writer = client.copy_in("COPY ledger.entries FROM STDIN WITH (FORMAT jsonl)").unwrap();
    writer.write_all(exported.as_bytes()).unwrap();
    writer.finish().unwrap();
    assert_intact(&mut client);
    assert!(export(&mut client) == exported);

    // What an import could not do for want of emptiness, it can do in an empty ledger that records.
    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
}

/// Runs of a ledger before would be taken for those of the one that is rebuilt.
#[test]
fn a_ledger_that_was_emptied_by_hand_is_not_rebuilt_on_what_is_left_of_it() {
    let (cluster, mut client) = start(quiet().conf("ledger.mirror_mode = off"));
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT ledger.track('t')").unwrap();
    client.batch_execute("INSERT INTO t SELECT generate_series(1, 300); SELECT ledger.commit_block()").unwrap();
    let exported = cluster.data_dir().join("exported.jsonl");
    client.batch_execute(&format!("COPY ledger.entries TO '{}' WITH (FORMAT jsonl)", exported.display())).unwrap();
    client.batch_execute(&format!("{TRIGGERS_OFF}; ALTER TABLE ledger.import ENABLE TRIGGER ALL")).unwrap();
    for empty in ["blocks, ledger.entries", "log_nodes", "row_versions"] {
        client.batch_execute(&format!("TRUNCATE ledger.{empty}")).unwrap();
        let found = error(&mut client, &import(&exported));
        assert_eq!(found.message(), "cannot rebuild the ledger: it is not empty");
    }
    client.batch_execute("UPDATE ledger.log_state SET version_runs = '{}', frontier = ''").unwrap();
    client.batch_execute(&import(&exported)).unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.history('t', '{\"id\": 7}')"), 1);
}

#[test]
fn a_ledger_that_has_only_begun_can_be_rebuilt_and_recorded_in() {
    let (_cluster, mut client) = start(quiet());
    let exported = export(&mut client);
    assert_eq!(exported.lines().count(), 1);
    let (_other, mut client) = start(quiet());
    let mut writer = client.copy_in("COPY ledger.entries FROM STDIN WITH (FORMAT jsonl)").unwrap();
    writer.write_all(exported.as_bytes()).unwrap();
    assert_eq!(writer.finish().unwrap(), 1);
    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
    assert!(export(&mut client).starts_with(&exported), "it is not the ledger that was exported");
}

#[test]
fn a_ledger_of_many_partitions_is_rebuilt_whatever_becomes_of_the_server_then() {
    const BLOCKS: i64 = 6000;
    let (_old, mut client) = start(Options::new().conf("ledger.block_size = 1"));
    let insert = "INSERT INTO ledger.entries (entry_type, data_hash) SELECT 'one a block', \
                  encode(sha256(n::text::bytea), 'hex') FROM generate_series(1, 6000) n";
    client.batch_execute(insert).unwrap();
    wait_until_sealed(&mut client);
    let exported = export(&mut client);

    // Where a block holds many entries, a partition holds few blocks.
    let (new, mut client) = start(quiet());
    let mut writer = client.copy_in("COPY ledger.entries FROM STDIN WITH (FORMAT jsonl)").unwrap();
    writer.write_all(exported.as_bytes()).unwrap();
    writer.finish().unwrap();
    drop(client);
    // The worker is about to make the file, or is writing it.
    new.kill9_everything();
    new.start_again();
    let mut client = new.connect("postgres");
    assert_eq!(number(&mut client, "SELECT block_count FROM ledger.chain_stats"), BLOCKS);
    let partitions = "SELECT count(DISTINCT tableoid) FROM ledger.entries_sealed";
    assert_eq!(number(&mut client, partitions), BLOCKS / 1000);
    assert!(export(&mut client) == exported, "the second export is not the first one");
    assert_intact(&mut client);
    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
}

/// A file, good in every hash, whose second block holds the entry of its first once more.
fn file_with_an_entry_in_two_blocks() -> String {
    let timestamp = Timestamp::from_micros(1_770_000_000_000_000).unwrap();
    let header = Header { database: "postgres".to_owned(), ledger_id: Uuid::from_u128(7), timestamp };
    let entry = Entry {
        entry_id: Uuid::from_u128(1),
        entry_type: "note".to_owned(),
        data_hash: "0".repeat(64),
        metadata: "{}".to_owned(),
        signature: None,
        key_id: None,
        created_at: timestamp,
    };
    let leaf = [(leaf_hash(&entry.line()), entry.data_hash.as_str())];
    let mut tree = LogTree::new();
    let first = block::seal(None, &mut tree, &leaf, timestamp, |_, _, _| {});
    let second = block::seal(Some(&first), &mut tree, &leaf, timestamp, |_, _, _| {});
    let ids = [entry.entry_id];
    let lines = [header.line(), entry.line(), first.line(&ids), entry.line(), second.line(&ids)];
    lines.iter().map(|line| format!("{}\n", std::str::from_utf8(line).unwrap())).collect()
}

#[test]
fn an_entry_that_two_blocks_hold_is_refused_even_where_all_hashes_are_right() {
    let (_cluster, mut client) = start(quiet());
    let mut writer = client.copy_in("COPY ledger.entries FROM STDIN WITH (FORMAT jsonl)").unwrap();
    writer.write_all(file_with_an_entry_in_two_blocks().as_bytes()).unwrap();
    let refused = writer.finish().unwrap_err();
    let detail = refused.as_db_error().and_then(|error| error.detail()).unwrap_or_default();
    assert!(detail.starts_with("line 4: repeats an entry that an earlier block holds"), "{refused:?}");
    assert_intact(&mut client);
}

/// The libraries in shared_preload_libraries that this installation has.
fn companions() -> Vec<&'static str> {
    let library = |name: &str| common::library_dir().join(format!("{name}.so")).exists();
    let (found, missing): (Vec<_>, Vec<_>) =
        ["pgaudit", "pg_stat_statements"].into_iter().partition(|name| library(name));
    if !missing.is_empty() {
        eprintln!("Postgres {} has no {}: tested without", pg_major(), missing.join(", "));
    }
    found
}

#[test]
fn copies_work_beside_other_hooks_in_either_load_order() {
    let found = companions();
    assert!(!found.is_empty(), "no other library with such a hook is installed");
    let (_old, mut client) = start_with_ledger();
    let exported = export(&mut client);
    let others = found.join(",");
    for preload in [format!("pg_notary,{others}"), format!("{others},pg_notary")] {
        let mut options = quiet().preload(&preload).conf("pg_stat_statements.track_utility = on");
        if found.contains(&"pgaudit") {
            options = options.conf("pgaudit.log = 'all'").conf("pgaudit.log_relation = on");
        }
        let (cluster, mut client) = start(options);
        for name in &found {
            client.batch_execute(&format!("CREATE EXTENSION {name}")).unwrap();
        }
        let mut writer = client.copy_in("COPY ledger.entries FROM STDIN WITH (FORMAT jsonl)").unwrap();
        writer.write_all(exported.as_bytes()).unwrap();
        assert_eq!(writer.finish().unwrap() as usize, exported.lines().count(), "{preload}");
        assert!(export(&mut client) == exported, "{preload}");
        let mut other = String::new();
        client.copy_out("COPY (SELECT 1) TO STDOUT").unwrap().read_to_string(&mut other).unwrap();
        assert_eq!(other, "1\n");
        record(&mut client);
        seal(&mut client);
        assert_intact(&mut client);
        let seen = "SELECT count(*) FROM pg_stat_statements WHERE query LIKE 'COPY ledger.entries%'";
        assert_eq!(number(&mut client, seen), 2, "{preload}");
        if found.contains(&"pgaudit") {
            cluster.wait_for_log("COPY ledger.entries FROM STDIN WITH (FORMAT jsonl)");
            assert!(cluster.log().contains("AUDIT: SESSION"), "{preload}");
        }
    }
}
