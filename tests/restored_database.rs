//! A database that was put back to an older state lacks what its file has: it never writes to that file, whatever it
//! does meanwhile, and there is a documented way to bring it up to the file.
#![cfg(feature = "cluster-tests")]

use crate::common::diverged::*;
use crate::common::ledger::*;
use crate::common::tracking::problems;
use crate::common::{wait_until, Cluster, Options, Stop};
use postgres::Client;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn a_database_restored_from_an_older_backup_does_not_write_to_its_file() {
    let (cluster, mut client, path) = start_outside(Options::new());
    let backup = cluster.scratch_dir().join("backup");
    cluster.base_backup(&backup, &[]);
    // Nothing that a block holds: only pending entries are in the file and not in the backup.
    record_many(&mut client, 2);
    drop(client);
    cluster.stop(Stop::Fast);

    let restored = Options::new().conf("ledger.block_interval = 1h").start_on_copy_of(&backup);
    let mut client = restored.connect("postgres");
    assert_diverged(&mut client, &path, "put back to an older state");
    assert!(!verdict(&mut client)["overall_valid"].as_bool().unwrap());
    let refused = all_text(&error(&mut client, "SELECT ledger.mirror_catch_up()"));
    assert!(refused.contains("put back to an older state"), "{refused}");
    assert!(!restored.log().contains("pg_notary voids"), "the log tells of what was not done");
    assert_restarts(&mut client, &path);
}

/// What docs/mirror.md tells an administrator to type, with this file in the place of the one there.
fn documented_way_to_the_file(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/mirror.md")).unwrap();
    let from = text.find("CREATE TEMP TABLE triggers").unwrap();
    let block = &text[from..from + text[from..].find("```").unwrap()];
    let directory = path.parent().unwrap().to_str().unwrap();
    let block =
        block.replace("/mnt/notary/shop.1da85c79.jsonl", path.to_str().unwrap()).replace("/mnt/notary", directory);
    block.replace("\\gexec", " \\gexec;").split(';').map(|command| command.trim().to_owned()).collect()
}

/// As psql does it.
fn run(client: &mut Client, command: &str) {
    match command.strip_suffix("\\gexec") {
        None => client.batch_execute(command).unwrap(),
        Some(query) => column(client, query).iter().for_each(|made| client.batch_execute(made).unwrap()),
    }
}

#[test]
fn the_documented_way_brings_a_database_with_tracked_tables_and_items_up_to_its_file() {
    let (cluster, mut client, path) = start_outside(Options::new());
    let setup = "CREATE TABLE t (id int PRIMARY KEY, note text); CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (100);
         SELECT ledger.track('t'), ledger.track('parts');
         INSERT INTO t VALUES (1, 'old'), (2, 'same'); INSERT INTO parts VALUES (1);
         SELECT ledger.create_item('tool', 'kept', '1.0.0', 'x', 'kept.py')";
    client.batch_execute(setup).unwrap();
    let backup = cluster.scratch_dir().join("backup");
    cluster.base_backup(&backup, &[]);
    client.batch_execute("UPDATE t SET note = 'new' WHERE id = 1; INSERT INTO t VALUES (3, 'gone')").unwrap();
    seal(&mut client);
    let head = value(&mut client, "SELECT last_block_hash FROM ledger.chain_stats");
    drop(client);
    cluster.stop(Stop::Fast);

    let restored = Options::new().conf("ledger.block_interval = 1h").start_on_copy_of(&backup);
    let mut client = restored.connect("postgres");
    assert_diverged(&mut client, &path, "put back to an older state");
    for command in documented_way_to_the_file(&path) {
        run(&mut client, &command);
    }
    wait_until_attached(&mut client);
    assert_eq!(file(&mut client), path);
    assert_eq!(value(&mut client, "SELECT last_block_hash FROM ledger.chain_stats"), head);
    assert_eq!(column(&mut client, "SELECT DISTINCT state FROM ledger.tracked_tables"), ["tracked"]);
    assert_eq!(problems(&mut client, "t"), [r#"{"id": 1} modified"#, r#"{"id": 3} missing"#]);
    assert_eq!(problems(&mut client, "parts"), [""; 0]);
    client.batch_execute("UPDATE t SET note = 'new' WHERE id = 1; INSERT INTO t VALUES (3, 'gone')").unwrap();
    client.batch_execute("SELECT ledger.untrack('t'), ledger.track('t'); INSERT INTO parts VALUES (2)").unwrap();
    client.batch_execute("SELECT ledger.load_item('tool', 'kept', '1.0.0')").unwrap();
    let verdict = json(&mut client, "SELECT ledger.verify_all()");
    assert!(verdict["overall_valid"] == true, "{verdict:#}");
    assert_intact(&mut client);
}

/// Waits until the state file knows of all that is in the mirror file, which takes a second.
fn wait_for_state_file(path: &Path) {
    let state = path.with_extension("state");
    let size = fs::metadata(path).unwrap().len();
    wait_until("the state file knows of the last entry", PATIENCE, || {
        fs::read_to_string(&state).is_ok_and(|text| text.contains(&format!("\"size\":{size}")))
    });
}

/// A snapshot of the storage of a server whose file has two more entries than it; the server is stopped like this.
fn snapshot_behind_its_file(stop: Stop) -> (Cluster, PathBuf, PathBuf) {
    let (cluster, client, path) = start_outside(Options::new());
    drop(client);
    cluster.stop(Stop::Immediate);
    let snapshot = cluster.scratch_dir().join("snapshot");
    crate::common::copy_directory(&cluster.data_dir(), &snapshot);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    record_many(&mut client, 2);
    wait_for_state_file(&path);
    drop(client);
    cluster.stop(stop);
    (cluster, snapshot, path)
}

fn start_put_back(snapshot: &Path) -> Cluster {
    Options::new().conf("ledger.block_interval = 1h").start_on_copy_of(snapshot)
}

#[test]
fn a_database_rolled_back_by_a_snapshot_of_its_storage_does_not_write_to_its_file() {
    let (_cluster, snapshot, path) = snapshot_behind_its_file(Stop::Immediate);
    let restored = start_put_back(&snapshot);
    let mut client = restored.connect("postgres");
    assert_diverged(&mut client, &path, "put back to an older state");
    assert_restarts(&mut client, &path);
}

/// What a server writes after it was put back reaches further than what it has lost, and is none of that.
const WORK_ELSEWHERE: &str = "CREATE TABLE elsewhere AS SELECT n FROM generate_series(1, 20000) n";

#[test]
fn it_does_not_after_a_restart_or_a_crash_either() {
    let (cluster, snapshot, path) = snapshot_behind_its_file(Stop::Immediate);
    let restored = start_put_back(&snapshot);
    let mut client = restored.connect("postgres");
    assert_diverged(&mut client, &path, "put back to an older state");
    client.batch_execute(WORK_ELSEWHERE).unwrap();
    let before = fs::read(&path).unwrap();
    for stop in [Stop::Fast, Stop::Immediate] {
        drop(client);
        restored.restart(stop);
        client = restored.connect("postgres");
        assert_diverged(&mut client, &path, "put back to an older state");
        // In a mode that does not wait for the file it is not written to either.
        set(&mut client, "ledger.mirror_mode", "async");
        // In this mode the worker turns to the file before it seals.
        record_many(&mut client, 100);
        wait_for(&mut client, "(SELECT blocks_sealed > 0 FROM ledger.workers)");
        assert!(is_true(&mut client, "(SELECT problem ~ 'put back' FROM ledger.mirror_status)"));
        assert!(fs::read(&path).unwrap() == before, "the file was written to");
        set(&mut client, "ledger.mirror_mode", "sync");
    }
    assert!(!restored.log().contains("pg_notary voids"), "{}", restored.log());
    drop(client);
    restored.stop(Stop::Fast);
    // The right database is as it was.
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    record(&mut client);
    assert_intact(&mut client);
}

/// At its first start the file is out of reach.
#[test]
fn a_file_that_comes_back_later_is_not_taken_for_that_of_a_database_that_was_put_back() {
    for stop in [Stop::Immediate, Stop::Fast] {
        let (_cluster, snapshot, path) = snapshot_behind_its_file(stop);
        let away = path.with_extension("away");
        fs::rename(&path, &away).unwrap();
        let restored = start_put_back(&snapshot);
        let mut client = restored.connect("postgres");
        wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
        client.batch_execute(WORK_ELSEWHERE).unwrap();
        drop(client);
        restored.stop(Stop::Fast);
        fs::rename(&away, &path).unwrap();
        restored.start_again();
        let mut client = restored.connect("postgres");
        assert_diverged(&mut client, &path, "put back to an older state");
        assert_restarts(&mut client, &path);
        // That one is its own, whenever it comes back.
        drop(client);
        restored.stop(Stop::Immediate);
        fs::rename(&path, &away).unwrap();
        restored.start_again();
        let mut client = restored.connect("postgres");
        wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
        client.batch_execute("DROP TABLE elsewhere").unwrap();
        drop(client);
        restored.stop(Stop::Fast);
        fs::rename(&away, &path).unwrap();
        restored.start_again();
        let mut client = restored.connect("postgres");
        wait_until_attached(&mut client);
        record(&mut client);
        assert_intact(&mut client);
    }
}
