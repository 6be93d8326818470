//! Hot standbys: they verify and do not record; after promotion the chain goes on where it was, without a fork.
//!
//! Needs an extension that was built with the feature `fault-injection`.
#![cfg(feature = "cluster-tests")]

use crate::common::diverged::assert_diverged;
use crate::common::faults::{clear_fault, set_fault};
use crate::common::ledger::*;
use crate::common::{copy_file, make_directory, wait_until, Cluster, Options, Stop};
use postgres::error::SqlState;
use postgres::Client;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn directory_beside(cluster: &Cluster, name: &str) -> PathBuf {
    let path = cluster.scratch_dir().join(name);
    make_directory(&path);
    path
}

fn in_directory(path: &Path) -> Options {
    let directory = format!("ledger.mirror_directory = '{}'", path.display());
    Options::new().conf("ledger.block_size = 5").conf("ledger.block_interval = 1h").conf(&directory)
}

/// A primary whose file is outside its data directory, so that no base backup copies it.
fn start_primary() -> (Cluster, Client, PathBuf) {
    let cluster = Options::new().conf("ledger.block_size = 5").conf("ledger.block_interval = 1h").start();
    let directory = directory_beside(&cluster, "mirror");
    cluster.add_conf(&format!("ledger.mirror_directory = '{}'", directory.display()));
    let mut client = cluster.connect("postgres");
    reload(&mut client);
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record_many(&mut client, 12);
    wait_for(&mut client, "(SELECT last_block = 2 FROM ledger.mirror_status)");
    (cluster, client, directory)
}

/// A primary and a standby on the same directory, which gets nothing from it any more; each with a session.
fn start_with_standby_cut_off() -> (Cluster, Client, Cluster, Client) {
    let (primary, mut client, directory) = start_primary();
    let standby = in_directory(&directory).standby_of(&primary);
    let mut reader = standby.connect("postgres");
    catch_up(&mut client, &mut reader);
    cut_off(&mut reader);
    (primary, client, standby, reader)
}

fn cut_off(standby: &mut Client) {
    set(standby, "primary_conninfo", "''");
    wait_for(standby, "NOT EXISTS (SELECT FROM pg_stat_wal_receiver)");
}

fn promote(standby: &mut Client) {
    assert_eq!(value(standby, "SELECT pg_promote()"), "t");
}

#[test]
fn a_standby_verifies_and_does_not_record() {
    let (primary, mut client, _) = start_primary();
    let elsewhere = directory_beside(&primary, "elsewhere");
    let standby = in_directory(&elsewhere).standby_of(&primary);
    let mut reader = standby.connect("postgres");
    let sealed = value(&mut client, "SELECT id FROM ledger.entries WHERE leaf_index = 7");
    catch_up(&mut client, &mut reader);

    let verdict = verdict(&mut reader);
    assert_eq!(verdict["overall_valid"], true, "{verdict:#}");
    assert_eq!(verdict["postgres_chain"]["entry_count"], 10);
    assert_eq!(verdict["postgres_chain"]["pending_count"], 2);
    assert!(verdict["file_chain"]["valid"].is_null(), "{verdict:#}");
    assert!(verdict["file_chain"]["message"].as_str().unwrap().contains("standby"), "{verdict:#}");
    assert!(column(&mut reader, "SELECT problem FROM ledger.find_tampering()").is_empty());
    let alone = json(&mut reader, "SELECT ledger.verify_file_integrity()");
    assert_eq!(alone, verdict["file_chain"]);
    let entry = json(&mut reader, &format!("SELECT ledger.verify_entry('{sealed}', '{{\"n\": 8}}')"));
    assert_eq!(entry["verified"], true, "{entry}");
    assert_eq!(number(&mut reader, "SELECT block_count FROM ledger.chain_stats"), 2);
    // No worker is missing here.
    assert_eq!(column(&mut reader, "SELECT (state, problem) FROM ledger.mirror_status"), ["(detached,)"]);

    let insert = "INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('t', ledger.hash_data('1'))";
    for sql in [RECORD, insert, "SELECT * FROM ledger.commit_block()", "SELECT ledger.add_entry('t', '1')"] {
        assert_eq!(*error(&mut reader, sql).code(), SqlState::READ_ONLY_SQL_TRANSACTION, "{sql}");
    }
    let processes = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_notary%'";
    assert_eq!(number(&mut reader, processes), 0);
    assert!(fs::read_dir(&elsewhere).unwrap().next().is_none(), "the standby made a file");

    // What is tampered with on the primary shows here.
    client.batch_execute("ALTER TABLE ledger.entries_sealed_1 DISABLE TRIGGER ALL").unwrap();
    client.batch_execute("UPDATE ledger.entries_sealed_1 SET entry_type = 'forged' WHERE leaf_index = 6").unwrap();
    catch_up(&mut client, &mut reader);
    let found = column(&mut reader, "SELECT DISTINCT block_number FROM ledger.find_tampering()");
    assert_eq!(found, ["2"]);
}

#[test]
fn a_standby_does_not_compare_the_copy_of_the_file_that_came_with_its_base_backup() {
    let primary = Options::new().conf("ledger.block_size = 5").conf("ledger.block_interval = 1h").start();
    let mut client = primary.connect("postgres");
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record_many(&mut client, 5);
    wait_until_sealed(&mut client);
    let standby = Options::new().standby_of(&primary);
    let mut reader = standby.connect("postgres");
    // No block: the copy is no shorter than the standby knows the primary's file to be.
    record(&mut client);
    catch_up(&mut client, &mut reader);
    assert!(file(&mut reader).exists(), "the copy is there");
    let verdict = verdict(&mut reader);
    assert!(verdict["overall_valid"] == true && verdict["file_chain"]["valid"].is_null(), "{verdict:#}");
    assert!(column(&mut reader, "SELECT problem FROM ledger.find_tampering()").is_empty());
}

/// Registers `base`, and `api` which calls it; both are sealed.
fn register_items(client: &mut Client) {
    client
        .batch_execute(
            r#"SELECT ledger.create_item('tool', 'base', '1.0.0', E'base()\n', 'base.py');
               SELECT ledger.create_item('tool', 'api', '1.0.0', E'call()\n', 'core/api.py',
                   depends_on => '[{"item_type": "tool", "item_id": "base", "version": "1.0.0"}]');
               SELECT * FROM ledger.commit_block();"#,
        )
        .unwrap();
}

const LOAD: &str = "SELECT ledger.load_item('tool', 'api', '1.0.0')";

#[test]
fn a_standby_verifies_items() {
    let (primary, mut client, directory) = start_primary();
    register_items(&mut client);
    // Also one that no block holds yet.
    client.batch_execute("SELECT ledger.create_item('tool', 'new', '1.0.0', E'new()\\n', 'new.py')").unwrap();
    let standby = in_directory(&directory).standby_of(&primary);
    let mut reader = standby.connect("postgres");
    catch_up(&mut client, &mut reader);
    client.batch_execute("CREATE ROLE auditor IN ROLE ledger_auditor LOGIN").unwrap();
    catch_up(&mut client, &mut reader);

    for user in ["postgres", "auditor"] {
        let mut reader = standby.connect_as(user, "postgres");
        assert!(value(&mut reader, LOAD).ends_with("call()\n"));
        let content = "(SELECT content FROM ledger.items WHERE item_id = 'api')";
        let file = |content: &str| {
            format!("SELECT ledger.verify_single_file('tool', 'api', '1.0.0', {content}, 'core/api.py')")
        };
        let report = json(&mut reader, &file(content));
        assert_eq!((&report["status"], &report["verified_count"]), (&"valid".into(), &2.into()), "{report}");
        assert_eq!(report["registered"], true);
        let report = json(&mut reader, &file(&format!("{content} || 'hack()'")));
        assert_eq!(report["status"], "modified", "{report}");
        let forged = "ledger.sign_content('tool', 'api', '1.0.0', E'hack()\\n', 'core/api.py')";
        assert_eq!(json(&mut reader, &file(forged))["status"], "mismatch");

        let report = json(&mut reader, "SELECT ledger.verify_items()");
        assert_eq!((&report["success"], &report["item_count"]), (&true.into(), &3.into()), "{report}");
        let chain =
            r#"SELECT ledger.verify_item_chain('[{"item_type": "tool", "item_id": "api", "version": "1.0.0"}]')"#;
        assert_eq!(json(&mut reader, chain)["success"], true);
        let verdict = json(&mut reader, "SELECT ledger.verify_all()");
        assert_eq!(verdict["overall_valid"], true, "{verdict:#}");
        assert_eq!((&verdict["items"]["valid"], &verdict["items"]["item_count"]), (&true.into(), &3.into()));
        let status = column(&mut reader, "SELECT status FROM ledger.registry_sync('[]')");
        assert_eq!(status, ["missing_locally"; 3]);
        assert!(is_true(&mut reader, "(SELECT valid >= 3 AND hits > 0 FROM ledger.verifier_cache)"));
        assert!(number(&mut reader, "SELECT ledger.invalidate_verifier_cache()") > 0);
        assert_eq!(number(&mut reader, "SELECT entries FROM ledger.verifier_cache"), 0);
    }
}

/// Sessions then go on without it, and so does the worker.
#[test]
fn a_synchronous_standby_that_is_gone_holds_nobody_up_where_commits_do_not_wait_for_it() {
    for level in ["local", "off"] {
        let options = Options::new().conf("ledger.block_size = 5").conf("synchronous_standby_names = 'gone'");
        let (cluster, mut client) = start(options.conf(&format!("synchronous_commit = {level}")));
        record_many(&mut client, 5);
        wait_for(&mut client, "(SELECT last_block = 1 FROM ledger.mirror_status)");
        drop(client);
        cluster.restart(Stop::Fast);
        let mut client = cluster.connect("postgres");
        record_many(&mut client, 5);
        wait_for(&mut client, "(SELECT last_block = 2 FROM ledger.mirror_status)");
        assert_intact(&mut client);
    }
}

#[test]
fn a_standby_signs_and_revokes_nothing() {
    let (primary, mut client, directory) = start_primary();
    register_items(&mut client);
    let standby = in_directory(&directory).standby_of(&primary);
    let mut reader = standby.connect("postgres");
    catch_up(&mut client, &mut reader);
    for (what, sql) in [
        ("create_item()", "SELECT ledger.create_item('tool', 'new', '1.0.0', 'x', 'new.py')"),
        ("sign_item()", "SELECT ledger.sign_item('tool', 'api', '1.0.0')"),
        ("move_item()", "SELECT ledger.move_item('tool', 'api', '1.0.0', 'net/api.py')"),
        ("revoke_signature()", "SELECT ledger.revoke_signature('tool', 'api', '1.0.0', 'leaks')"),
        ("UPDATE", "UPDATE ledger.items SET content = 'x'"),
    ] {
        let refused = error(&mut reader, sql);
        assert_eq!(*refused.code(), SqlState::READ_ONLY_SQL_TRANSACTION, "{sql}");
        assert_eq!(refused.message(), format!("cannot execute {what} in a read-only transaction"));
    }
    assert!(value(&mut reader, LOAD).ends_with("call()\n"));
}

#[test]
fn a_standby_uses_no_item_that_was_revoked_signed_again_or_tampered_with() {
    let (primary, mut client, directory) = start_primary();
    register_items(&mut client);
    // Else replay waits for the long transaction here, and ends it at last.
    let standby = in_directory(&directory).conf("hot_standby_feedback = on").standby_of(&primary);
    let mut reader = standby.connect("postgres");
    catch_up(&mut client, &mut reader);
    // Remembered by this session, also in a transaction that goes on.
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    assert!(value(&mut reader, LOAD).ends_with("call()\n"));
    client.batch_execute("SELECT ledger.sign_item('tool', 'api', '1.0.0', E'better()\\n')").unwrap();
    let mut watcher = standby.connect("postgres");
    catch_up(&mut client, &mut watcher);
    assert!(value(&mut reader, LOAD).ends_with("better()\n"));
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    catch_up(&mut client, &mut watcher);
    assert!(value(&mut reader, LOAD).ends_with("better()\n"));
    client.batch_execute("SELECT ledger.sign_item('tool', 'base', '1.0.0', E'better()\\n')").unwrap();
    catch_up(&mut client, &mut watcher);
    assert!(error(&mut reader, LOAD).message().starts_with("Dependency api@1.0.0 -> base@1.0.0: Integrity mismatch"));
    reader.batch_execute("ROLLBACK").unwrap();
    client.batch_execute("SELECT ledger.sign_item('tool', 'api', '1.0.0')").unwrap();
    catch_up(&mut client, &mut watcher);
    assert!(value(&mut reader, LOAD).ends_with("better()\n"));
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'base', '1.0.0', 'leaks')").unwrap();
    catch_up(&mut client, &mut watcher);
    assert_eq!(error(&mut reader, LOAD).message(), "Dependency api@1.0.0 -> base@1.0.0: Signature revoked");
    assert_eq!(json(&mut reader, "SELECT ledger.verify_items()")["failed_count"], 2);
    assert_eq!(json(&mut reader, "SELECT ledger.verify_all() -> 'items'")["revoked_count"], 1);

    client.batch_execute("UPDATE ledger.items SET signed_at = now() WHERE item_id = 'api'").unwrap();
    catch_up(&mut client, &mut watcher);
    let items = json(&mut reader, "SELECT ledger.verify_all() -> 'items'");
    let problem = &items["errors"][0];
    assert_eq!((&problem["item_id"], &problem["problem"]), (&"api".into(), &"differs".into()), "{items}");
    client.batch_execute("UPDATE ledger.items SET content = 'hack()' WHERE item_id = 'api'").unwrap();
    catch_up(&mut client, &mut watcher);
    assert_eq!(error(&mut reader, LOAD).message(), "Tool has no signature");
}

#[test]
fn a_promoted_standby_goes_on_signing_items() {
    let (primary, mut client, directory) = start_primary();
    register_items(&mut client);
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'base', '1.0.0', 'leaks')").unwrap();
    let standby = in_directory(&directory).standby_of(&primary);
    let mut reader = standby.connect("postgres");
    catch_up(&mut client, &mut reader);
    // Remembered from before.
    assert!(all_text(&error(&mut reader, LOAD)).contains("revoked"));
    drop(client);
    primary.kill9_everything();
    promote(&mut reader);

    wait_until("signing works", PATIENCE, || {
        reader.simple_query("SELECT ledger.sign_item('tool', 'base', '1.0.0', E'better()\\n')").is_ok()
    });
    reader.batch_execute("SELECT ledger.sign_item('tool', 'api', '1.0.0')").unwrap();
    assert!(value(&mut reader, LOAD).ends_with("call()\n"));
    seal(&mut reader);
    let verdict = json(&mut reader, "SELECT ledger.verify_all()");
    assert!(verdict["overall_valid"] == true && verdict["items"]["item_count"] == 2, "{verdict:#}");
}

#[test]
fn a_standby_that_reaches_the_file_compares_it_while_the_primary_goes_on() {
    let (primary, mut client, directory) = start_primary();
    let standby = in_directory(&directory).standby_of(&primary);
    let mut reader = standby.connect("postgres");
    for _ in 0..10 {
        record_many(&mut client, 7);
        let verdict = verdict(&mut reader);
        assert!(verdict["overall_valid"] == true && verdict["file_chain"]["valid"] == true, "{verdict:#}");
    }
    // A file that is ahead of the standby must not be blamed for it.
    catch_up(&mut client, &mut reader);
    reader.batch_execute("SELECT pg_wal_replay_pause()").unwrap();
    wait_for(&mut reader, "pg_get_wal_replay_pause_state() = 'paused'");
    record_many(&mut client, 7);
    seal(&mut client);
    let ahead = verdict(&mut reader);
    assert!(ahead["overall_valid"] == true && ahead["file_chain"]["valid"] == true, "{ahead:#}");
    let entries = |chain: &str| ahead[chain]["entry_count"].as_i64().unwrap();
    assert!(entries("file_chain") > entries("postgres_chain"), "the file is not ahead: {ahead:#}");
    reader.batch_execute("SELECT pg_wal_replay_resume()").unwrap();
}

#[test]
fn a_standby_misses_a_block_that_it_knows_to_be_in_the_file() {
    let (primary, mut client, directory) = start_primary();
    wait_for(&mut client, "(SELECT mirror_block = 2 FROM ledger.log_state)");
    let standby = in_directory(&directory).standby_of(&primary);
    let mut reader = standby.connect("postgres");
    for table in ["entries", "entries_sealed", "entries_sealed_1", "blocks"] {
        client.batch_execute(&format!("ALTER TABLE ledger.{table} DISABLE TRIGGER ALL")).unwrap();
    }
    client.batch_execute("DELETE FROM ledger.entries WHERE block_number = 2").unwrap();
    client.batch_execute("DELETE FROM ledger.blocks WHERE block_number = 2").unwrap();
    catch_up(&mut client, &mut reader);
    let missing = "SELECT block_number FROM ledger.find_tampering() WHERE problem = 'block_not_in_database'";
    assert_eq!(column(&mut reader, missing), ["2"]);
}

/// What the worker writes after a block, or has written only the beginning of, a standby would lack that is promoted then.
/// It would be refused the file.
fn wait_until_the_primary_rests(client: &mut Client) {
    let mut unchanged = (String::new(), Instant::now());
    wait_until("the primary rests", PATIENCE, || {
        let now = value(client, "SELECT concat(pg_current_wal_insert_lsn(), ' ', pg_current_wal_flush_lsn())");
        if now != unchanged.0 {
            unchanged = (now, Instant::now());
        }
        let is_on_disk = unchanged.0.split_once(' ').is_some_and(|(inserted, flushed)| inserted == flushed);
        is_on_disk && unchanged.1.elapsed() > Duration::from_millis(500)
    });
}

#[test]
fn a_promoted_standby_continues_the_chain_in_the_same_file() {
    let (primary, mut client, directory) = start_primary();
    let standby = in_directory(&directory).standby_of(&primary);
    let mut reader = standby.connect("postgres");
    record_many(&mut client, 4);
    wait_for(&mut client, "(SELECT last_block = 3 FROM ledger.mirror_status)");
    wait_until_the_primary_rests(&mut client);
    catch_up(&mut client, &mut reader);
    let head = value(&mut client, "SELECT last_block_hash FROM ledger.chain_stats");
    drop(client);
    primary.kill9_everything();
    promote(&mut reader);

    worker_pid(&mut reader);
    record_many(&mut reader, 5);
    seal(&mut reader);
    assert_eq!(value(&mut reader, "SELECT previous_hash FROM ledger.blocks WHERE block_number = 4"), head);
    assert_eq!(number(&mut reader, "SELECT count(*) FROM ledger.entries"), 21);
    assert_intact(&mut reader);

    // The old primary comes back: the file is ahead of it now, and it keeps its hands off.
    let content = fs::read(file(&mut reader)).unwrap();
    primary.start_again();
    let mut old = primary.connect("postgres");
    assert!(all_text(&error(&mut old, RECORD)).contains("another server, or another database of this one, writes it"));
    drop(reader);
    standby.kill9_everything();
    wait_until("the lock is free", PATIENCE, || {
        all_text(&error(&mut old, RECORD)).contains("another copy of this database has written it")
    });
    assert!(fs::read(file(&mut old)).unwrap() == content, "the old primary has written the file");
    // It tries again and again, and holds the file's lock for that long.
    drop(old);
    primary.stop(Stop::Fast);
    standby.start_again();
    let mut reader = standby.connect("postgres");
    record(&mut reader);
    assert_intact(&mut reader);
}

#[test]
fn a_promoted_standby_without_the_file_says_so_and_goes_on_once_it_has_it() {
    let (primary, mut client, _) = start_primary();
    let elsewhere = directory_beside(&primary, "elsewhere");
    let standby = in_directory(&elsewhere).standby_of(&primary);
    let mut reader = standby.connect("postgres");
    catch_up(&mut client, &mut reader);
    let original = file(&mut client);
    drop(client);
    primary.kill9_everything();
    promote(&mut reader);

    let refused = error(&mut reader, RECORD);
    assert_eq!(*refused.code(), SqlState::IO_ERROR);
    let expected = elsewhere.join(original.file_name().unwrap());
    assert!(all_text(&refused).contains(expected.to_str().unwrap()), "{refused:?}");
    wait_for(&mut reader, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    assert_eq!(verdict(&mut reader)["overall_valid"], false, "a primary without its file is not well");

    copy_file(&original, &expected);
    wait_until("recording works", PATIENCE, || reader.simple_query(RECORD).is_ok());
    seal(&mut reader);
    assert_eq!(number(&mut reader, "SELECT count(*) FROM ledger.entries"), 13);
    assert_intact(&mut reader);
}

#[test]
fn blocks_that_never_reached_the_promoted_standby_are_not_forgotten() {
    let (primary, mut client, _standby, mut reader) = start_with_standby_cut_off();
    record_many(&mut client, 10);
    wait_for(&mut client, "(SELECT last_block = 4 FROM ledger.mirror_status)");
    drop(client);
    primary.kill9_everything();
    let content = fs::read(file(&mut reader)).unwrap();
    promote(&mut reader);

    wait_for(&mut reader, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    let refused = all_text(&error(&mut reader, RECORD));
    // By the state file beside it, or, if the primary had no time to write that, by the blocks.
    let reasons = ["lost what it had committed", "it holds block 3, which the database does not have"];
    assert!(reasons.iter().any(|reason| refused.contains(reason)), "{refused}");
    assert_eq!(verdict(&mut reader)["file_chain"]["valid"], false);
    let missing = "SELECT DISTINCT block_number FROM ledger.find_tampering() \
                   WHERE problem = 'block_not_in_database' ORDER BY 1";
    assert_eq!(column(&mut reader, missing), ["3", "4"]);
    assert!(fs::read(file(&mut reader)).unwrap() == content, "the promoted server has written the file");
}

/// The last second before a failover, of which the state file says nothing yet. Nobody can tell whether they were
/// acknowledged.
#[test]
fn lines_that_never_reached_the_promoted_standby_are_not_voided_in_silence() {
    let (primary, mut client, standby, mut reader) = start_with_standby_cut_off();
    stop_writer(&mut client);
    let lost = record_many(&mut client, 2);
    drop(client);
    primary.kill9_everything();
    // The first attempt to void them fails, after the state file says that this server has written the file.
    set_fault(&standby, "write:errors");
    promote(&mut reader);
    wait_for(&mut reader, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    clear_fault(&standby);
    wait_until_attached(&mut reader);
    standby.wait_for_log("WARNING:  pg_notary voids 2 lines of mirror file");
    standby.wait_for_log("The file was last written on timeline 1, and this server is on timeline 2");
    let lines = lines(&file(&mut reader));
    assert_eq!(voided_ids(&lines), lost);
    assert_eq!(of_type(&lines, "void")[0]["reason"], "not in the database that was promoted");
    record(&mut reader);
    assert_intact(&mut reader);
}

/// A loss of power leaves them, but what stands behind them may be all that is left of the primary's last commits.
#[test]
fn a_promoted_standby_does_not_cut_off_zeros_and_what_follows() {
    let (primary, mut client, directory) = start_primary();
    switch(&mut client, "write");
    let standby = in_directory(&directory).standby_of(&primary);
    let mut reader = standby.connect("postgres");
    let path = file(&mut client);
    wait_until("all is on disk", PATIENCE, || {
        is_as_noted(&path) && state_file(&path)["synced"] == state_file(&path)["size"]
    });
    // Or the state file says of WAL that the standby will not have.
    stop_writer(&mut client);
    catch_up(&mut client, &mut reader);
    cut_off(&mut reader);
    record_many(&mut client, 2);
    drop(client);
    primary.kill9_everything();
    let on_disk = state_file(&path)["synced"].as_u64().unwrap();
    let zeros = on_disk..(on_disk + 1).next_multiple_of(512);
    assert!(zeros.end < fs::metadata(&path).unwrap().len(), "nothing is behind the zeros");
    zero(&path, zeros);
    promote(&mut reader);
    assert_diverged(&mut reader, &path, "it is inconsistent in itself");
}
