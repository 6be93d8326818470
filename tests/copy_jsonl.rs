//! COPY in format jsonl as a command among others: what it writes is of one moment, what it reads is taken whole or not
//! at all, and it works on a standby and beside the hooks of other libraries. What is rebuilt with it is in restore.rs.
#![cfg(feature = "cluster-tests")]

use crate::common::copy_jsonl::*;
use crate::common::ledger::*;
use crate::common::tampering::TRIGGERS_OFF;
use crate::common::{pg_major, send, wait_until, write_file, Cluster, Options};
use pg_notary::ledger::block;
use pg_notary::ledger::log_tree::{leaf_hash, LogTree};
use pg_notary::ledger::record::{Entry, Header, Timestamp};
use postgres::error::SqlState;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use uuid::Uuid;

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
fn a_standby_exports_the_same_lines() {
    let (primary, mut client) = start_with_ledger();
    let standby = quiet().standby_of(&primary);
    let mut reader = standby.connect("postgres");
    record_many(&mut client, 3);
    catch_up(&mut client, &mut reader);
    assert!(export(&mut reader) == export(&mut client), "the standby exports something else");
    let refused = reader.copy_in(IMPORT).err();
    assert_eq!(refused.unwrap().code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
}

#[test]
fn an_export_is_of_one_moment() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_size = 7").conf("ledger.block_interval = 1h"));
    let mut writer = cluster.connect("postgres");
    let is_over = Arc::new(AtomicBool::new(false));
    let goes_on = Arc::clone(&is_over);
    let writing = thread::spawn(move || {
        while !goes_on.load(Ordering::Acquire) {
            record_many(&mut writer, 10);
        }
    });
    let scratch = cluster.scratch_dir().join("export.jsonl");
    let mut lengths = BTreeSet::new();
    // Until that many were of a ledger that was just being written.
    wait_until("some exports of different length", PATIENCE, || {
        let exported = export(&mut client);
        fs::write(&scratch, &exported).unwrap();
        let (status, report) = cli_verify(&scratch);
        assert_eq!(status, 0, "{report:#}");
        let length = ids_in_file(&scratch).len();
        assert_eq!(length % 10, 0, "a transaction was exported in part");
        lengths.insert(length);
        lengths.len() > 5
    });
    is_over.store(true, Ordering::Release);
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
    command.args(["-X", "-c", IMPORT]);
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
            let before = new.crash_count();
            send(pid, libc::SIGKILL);
            wait_until("the server starts again", PATIENCE, || new.crash_count() > before);
        }
        assert!(!importing.wait().unwrap().success());
        client = new.reconnect();
        assert_eq!(number(&mut client, "SELECT block_count + pending_count FROM ledger.chain_stats"), 0);
        assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.log_nodes"), 0);
        assert_eq!(file(&mut client), original);
    }
    // And one that is broken off by the client.
    let mut writer = client.copy_in(IMPORT).unwrap();
    writer.write_all(&exported.as_bytes()[..exported.len() / 2]).unwrap();
    drop(writer);
    assert_intact(&mut client);

    import_lines(&mut client, &exported).unwrap();
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

/// A file, good in every hash, whose last block holds the entry of its first once more. So many blocks stand between
/// them.
fn file_with_an_entry_in_two_blocks(between: u128) -> String {
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
    let others = (0..between).map(|n| Entry { entry_id: Uuid::from_u128(2 + n), ..entry.clone() });
    let mut tree = LogTree::new();
    let mut head = None;
    let mut lines = vec![header.line()];
    for entry in std::iter::once(entry.clone()).chain(others).chain([entry.clone()]) {
        let leaf = [(leaf_hash(&entry.line()), entry.data_hash.as_str())];
        let block = block::seal(head.as_ref(), &mut tree, &leaf, timestamp, |_, _, _| {});
        lines.extend([entry.line(), block.line(&[entry.entry_id])]);
        head = Some(block);
    }
    lines.iter().map(|line| format!("{}\n", std::str::from_utf8(line).unwrap())).collect()
}

#[test]
fn an_entry_that_two_blocks_hold_is_refused_even_where_all_hashes_are_right() {
    let (_cluster, mut client) = start(quiet());
    // The second time, they are in two partitions.
    for between in [0, 999] {
        let refused = import_lines(&mut client, &file_with_an_entry_in_two_blocks(between)).unwrap_err();
        let detail = refused.as_db_error().and_then(|error| error.detail()).unwrap_or_default();
        let expected = format!("line {}: repeats an entry that an earlier block holds", 2 * between + 4);
        assert!(detail.starts_with(&expected), "{refused:?}");
        assert_intact(&mut client);
    }
}

/// An administrator may give the command in the wrong database.
#[test]
fn an_import_into_a_ledger_in_use_is_refused_and_waits_for_nobody() {
    let (old, mut client) = start_with_ledger();
    let copy = old.scratch_dir().join("copy.jsonl");
    write_file(&copy, export(&mut client));
    let mut busy = old.connect("postgres");
    busy.batch_execute("BEGIN").unwrap();
    record(&mut busy);
    client.batch_execute("SET lock_timeout = '5s'").unwrap();
    assert_eq!(error(&mut client, &import(&copy)).message(), "cannot rebuild the ledger: it is not empty");
    busy.batch_execute("COMMIT").unwrap();
    assert_intact(&mut client);
}

/// The libraries in shared_preload_libraries that this installation has.
fn companions() -> Vec<&'static str> {
    let library = |name: &str| crate::common::library_dir().join(format!("{name}.so")).exists();
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
        let count = import_lines(&mut client, &exported).unwrap();
        assert_eq!(count as usize, exported.lines().count(), "{preload}");
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
            cluster.wait_for_log(IMPORT);
            assert!(cluster.log().contains("AUDIT: SESSION"), "{preload}");
        }
    }
}
