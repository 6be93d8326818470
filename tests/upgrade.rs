//! pg_upgrade takes the ledger along, with what is tracked and the registry of items, and it goes on in the same file.
//! What is done here is what the README tells to do.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::{assert_clean, row_entries};
use crate::common::{make_directory, pg_major, wait_until, Cluster, Options, Stop};
use postgres::Client;
use std::fs;
use std::path::Path;

/// Sealing only where a test asks for it, and a log that names the workers that a server starts.
fn quiet_with_log() -> Options {
    quiet().conf("log_min_messages = debug1")
}

fn set_directory(cluster: &Cluster, directory: &Path) {
    cluster.add_conf(&format!("ledger.mirror_directory = '{}'", directory.display()));
}

/// A ledger with everything in it, whose file is in that directory: entries that are sealed, and some that are not.
fn fill(cluster: &Cluster, directory: &Path) -> Client {
    make_directory(directory);
    set_directory(cluster, directory);
    cluster.restart(Stop::Fast);
    let mut client = cluster.connect("postgres");
    client
        .batch_execute(
            "CREATE EXTENSION pg_notary;
             CREATE ROLE reader;
             GRANT ledger_auditor TO reader;
             GRANT INSERT ON ledger.entries TO reader;
             CREATE TABLE accounts (id int PRIMARY KEY, amount numeric NOT NULL);
             CREATE TABLE moves (id int, day date, amount numeric, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
             CREATE TABLE moves_old PARTITION OF moves FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
             CREATE TABLE moves_new PARTITION OF moves DEFAULT;
             CREATE TABLE people (id int PRIMARY KEY, full_name text, name text, note text)",
        )
        .unwrap();
    client
        .batch_execute(
            "SELECT ledger.track('accounts', keep_image => true), ledger.track('moves'),
                    ledger.track('people', excluded => '{note}');
             INSERT INTO people VALUES (1, 'Ada Lovelace');
             INSERT INTO accounts SELECT n, n FROM generate_series(1, 20) n;
             INSERT INTO moves SELECT n, date '2025-12-20' + n, n FROM generate_series(1, 20) n;
             SELECT ledger.create_item('tool', 'api', '1.0.0', E'call()\n', 'api.py')",
        )
        .unwrap();
    record_many(&mut client, 20);
    seal(&mut client);
    client.batch_execute("UPDATE accounts SET amount = 0 WHERE id = 1; DELETE FROM moves WHERE id = 2").unwrap();
    record(&mut client);
    client
}

/// What one can see of the ledger and must see afterwards.
fn seen(client: &mut Client) -> Vec<String> {
    [
        "SELECT ledger_id FROM ledger.log_state",
        "SELECT row(block_count, pending_count, last_block_hash) FROM ledger.chain_stats",
        "SELECT array_agg(e ORDER BY id) FROM ledger.entries e",
        "SELECT array_agg(h ORDER BY version) FROM ledger.history('accounts', '{\"id\": 1}') h",
        "SELECT array_agg(t ORDER BY table_name::text) FROM ledger.tracked_tables t",
        "SELECT ledger.load_item('tool', 'api', '1.0.0')",
        "SELECT path FROM ledger.mirror_status",
        "SELECT row(pg_has_role('reader', 'ledger_auditor', 'MEMBER'),
                    has_table_privilege('reader', 'ledger.entries', 'INSERT'))",
        "SELECT array_agg(row(tgrelid::regclass, tgname, tgenabled) ORDER BY tgrelid::regclass::text, tgname::text)
         FROM pg_trigger WHERE NOT tgisinternal",
    ]
    .map(|sql| value(client, sql))
    .into()
}

fn takes_the_ledger_along(transfer: &[&str]) {
    if pg_major() < 15 {
        // The databases get new oids, so the ledger counts as a copy.
        return;
    }
    let old = quiet_with_log().start();
    let directory = old.scratch_dir().join("mirror");
    let mut client = fill(&old, &directory);
    let before = seen(&mut client);
    drop(client);

    let new = quiet_with_log().lay_out();
    set_directory(&new, &directory);
    let log = old.upgrade_to(&new, transfer);
    assert!(log.contains("database system is ready"), "this is not the log of the servers:\n{log}");
    assert!(!log.contains("pg_notary launcher") && !log.contains("pg_notary w"), "a process was started:\n{log}");

    new.start_again();
    let mut client = new.connect("postgres");
    wait_until_attached(&mut client);
    assert_eq!(seen(&mut client), before);
    assert_clean(&mut client, "accounts");
    assert_clean(&mut client, "moves");
    assert_intact(&mut client);

    let rows = row_entries(&mut client, "moves");
    client
        .batch_execute("UPDATE moves SET amount = 7 WHERE id = 3; UPDATE accounts SET amount = 1 WHERE id = 1")
        .unwrap();
    assert_eq!(row_entries(&mut client, "moves"), rows + 1);
    client.batch_execute("SELECT ledger.sign_item('tool', 'api', '1.0.0', E'new()\n')").unwrap();
    record(&mut client);
    seal(&mut client);
    assert_eq!(number(&mut client, "SELECT block_count FROM ledger.chain_stats"), 2);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.history('accounts', '{\"id\": 1}')"), 3);
    assert_clean(&mut client, "accounts");
    assert_clean(&mut client, "moves");
    assert_intact(&mut client);
    assert_people_are_the_same_table(&mut client);
    assert_eq!(file(&mut client).parent(), Some(directory.as_path()));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2, "the file, and its state file");
}

/// Its columns have the numbers that they had, also once track() is called again. What is restored beside it is known
/// as a copy.
fn assert_people_are_the_same_table(client: &mut Client) {
    client
        .batch_execute(
            "CREATE SCHEMA beside; CREATE TABLE beside.people (LIKE people INCLUDING ALL);
             DO $$
             DECLARE
                 made text;
             BEGIN
                 FOR made IN SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'people'::regclass LOOP
                     EXECUTE replace(made, 'public.people', 'beside.people');
                 END LOOP;
             END $$",
        )
        .unwrap();
    let refused = error(client, "INSERT INTO beside.people VALUES (1, 'Eva')");
    assert!(refused.message().contains("is a copy of tracked table"), "{refused:?}");
    client.batch_execute("DROP SCHEMA beside CASCADE").unwrap();

    let exchange = "ALTER TABLE people RENAME note TO t; ALTER TABLE people RENAME name TO note; \
                    ALTER TABLE people RENAME t TO name";
    client.batch_execute(&format!("BEGIN; {exchange}")).unwrap();
    let refused = error(client, "UPDATE people SET note = 'x'");
    assert!(refused.message().ends_with("names \"note\", which is now another column"), "{refused:?}");
    client.batch_execute("ROLLBACK").unwrap();
    client.batch_execute("ALTER TABLE people DROP COLUMN name; ALTER TABLE people RENAME full_name TO name").unwrap();
    assert_clean(client, "people");
    client.batch_execute("SELECT ledger.track('people', excluded => '{note}')").unwrap();
    assert_clean(client, "people");
}

#[test]
fn an_upgrade_that_copies_takes_the_ledger_along() {
    takes_the_ledger_along(&[]);
}

#[test]
fn an_upgrade_that_links_takes_the_ledger_along() {
    takes_the_ledger_along(&["--link"]);
}

#[test]
fn a_server_that_pg_upgrade_runs_has_no_worker_and_records_nothing() {
    let (cluster, mut client) = start(quiet_with_log());
    record(&mut client);
    wait_until_attached(&mut client);
    let before = fs::read(file(&mut client)).unwrap();
    drop(client);
    cluster.stop(Stop::Fast);

    // As pg_upgrade starts it.
    let cluster = quiet_with_log().arg("-b").start_on_copy_of(&cluster.data_dir());
    let mut client = cluster.connect("postgres");
    let recordings =
        [RECORD, "INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('test', ledger.hash_data('1'))"];
    for statement in recordings.into_iter().chain(["SELECT * FROM ledger.commit_block()"]) {
        let refused = error(&mut client, statement);
        assert!(refused.message().contains("cannot be used while pg_upgrade runs the server"), "{refused:?}");
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 1);
    assert_eq!(number(&mut client, "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_notary%'"), 0);
    assert!(!cluster.log().contains("pg_notary launcher"));
    let mirror = fs::read_dir(cluster.data_dir().join("pg_notary")).unwrap().map(|entry| entry.unwrap().path());
    let mirror: Vec<_> = mirror.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
    assert_eq!(fs::read(&mirror[0]).unwrap(), before);
}

#[test]
fn a_file_in_the_old_data_directory_is_moved_by_hand() {
    if pg_major() < 15 {
        // The databases get new oids, so the ledger counts as a copy.
        return;
    }
    let (old, mut client) = start(quiet_with_log());
    record(&mut client);
    seal(&mut client);
    record(&mut client);
    let name = file(&mut client).file_name().unwrap().to_owned();
    drop(client);
    let new = quiet_with_log().lay_out();
    old.upgrade_to(&new, &[]);

    new.start_again();
    let mut client = new.connect("postgres");
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    assert!(all_text(&error(&mut client, RECORD)).contains("No such file"));
    let [from, to] = [&old, &new].map(|cluster| cluster.data_dir().join("pg_notary"));
    for name in [name.as_ref(), Path::new(&name).with_extension("state").as_path()] {
        fs::rename(from.join(name), to.join(name)).unwrap();
    }
    wait_until("recording goes on", PATIENCE, || client.simple_query(RECORD).is_ok());
    seal(&mut client);
    assert_intact(&mut client);
}
