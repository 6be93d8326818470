//! A page that cannot be read any more is an error of whoever reads it, as it is everywhere in Postgres: it ends no
//! process, and the background processes go on with what can be read.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{wait_until, Cluster, Options, Stop};
use postgres::error::SqlState;
use postgres::Client;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

const PAGE: usize = 8192;

/// Has the server start with these pages of a table overwritten.
fn damage(cluster: &Cluster, mut client: Client, table: &str, pages: &[u64]) -> Client {
    client.batch_execute("CHECKPOINT").unwrap();
    let path = cluster.data_dir().join(value(&mut client, &format!("SELECT pg_relation_filepath('{table}')")));
    drop(client);
    cluster.stop(Stop::Fast);
    let file = OpenOptions::new().write(true).open(path).unwrap();
    for page in pages {
        file.write_all_at(&[0xa5; PAGE], page * PAGE as u64).unwrap();
    }
    cluster.start_again();
    cluster.connect("postgres")
}

#[track_caller]
fn assert_error_of_storage(client: &mut Client, statement: &str) {
    let refused = error(client, statement);
    assert_eq!(*refused.code(), SqlState::DATA_CORRUPTED, "{refused:?}");
    assert!(refused.message().contains("invalid page"), "{refused:?}");
}

#[track_caller]
fn assert_no_process_crashed(cluster: &Cluster) {
    let log = cluster.log();
    assert!(!log.contains("was terminated by signal") && !log.contains("non-unwinding panic"), "{log}");
}

#[test]
fn a_damaged_page_of_a_tracked_table_is_said_of_that_table() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE kept (id int PRIMARY KEY, note text); SELECT ledger.track('kept');
             INSERT INTO kept SELECT n, repeat('x', 500) FROM generate_series(1, 500) n",
        )
        .unwrap();
    let mut client = damage(&cluster, client, "kept", &[9, 11]);
    assert_error_of_storage(&mut client, "SELECT * FROM ledger.verify_table('kept')");
    // Of other tables it says what it finds.
    let verdict = json(&mut client, "SELECT ledger.verify_all()");
    let kept = &verdict["tables"][0];
    assert_eq!((&verdict["overall_valid"], &kept["valid"]), (&false.into(), &false.into()), "{verdict:#}");
    let message = kept["message"].as_str().unwrap();
    assert!(message.starts_with("the rows of table public.kept cannot be verified: invalid page"), "{message}");
    record(&mut client);
    assert_intact(&mut client);
    assert_no_process_crashed(&cluster);
}

#[test]
fn a_damaged_page_keeps_the_worker_from_that_table_alone() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1s"));
    client
        .batch_execute(
            "CREATE TABLE kept (id int PRIMARY KEY, note text); CREATE TABLE other (id int PRIMARY KEY, note text);
             INSERT INTO kept SELECT n, repeat('x', 900) FROM generate_series(1, 3000) n;
             INSERT INTO other SELECT n, repeat('x', 900) FROM generate_series(1, 3000) n",
        )
        .unwrap();
    let mut client = damage(&cluster, client, "kept", &[200, 203]);
    client.batch_execute("SELECT ledger.track('kept'), ledger.track('other')").unwrap();
    wait_until_tracked(&mut client, "other");
    wait_for(&mut client, "(SELECT state = 'failing' FROM ledger.workers)");
    cluster.wait_for_log("cannot record the rows of table public.kept: ");
    record(&mut client);
    wait_until_sealed(&mut client);
    assert_no_process_crashed(&cluster);
}

#[test]
fn a_damaged_page_that_keeps_the_file_from_being_opened_is_named() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    record(&mut client);
    seal(&mut client);
    client.batch_execute("CHECKPOINT").unwrap();
    let path = cluster.data_dir().join(value(&mut client, "SELECT pg_relation_filepath('ledger.blocks')"));
    let page = fs::read(&path).unwrap();
    let mut client = damage(&cluster, client, "ledger.blocks", &[0]);
    wait_for(&mut client, "(SELECT state = 'failed' AND problem LIKE 'invalid page%' FROM ledger.mirror_status)");
    let refused = all_text(&error(&mut client, RECORD));
    assert!(refused.contains("invalid page"), "{refused}");
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&page, 0).unwrap();
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    seal(&mut client);
    assert_intact(&mut client);
    assert_no_process_crashed(&cluster);
}

/// The worker looks at the newest entries when it starts.
#[test]
fn damaged_pages_of_the_ledger_leave_its_processes_running() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    record_many(&mut client, 400);
    seal(&mut client);
    let pages = number(&mut client, "SELECT pg_relation_size('ledger.entries_sealed_1') / 8192") as u64;
    let mut client = damage(&cluster, client, "ledger.entries_sealed_1", &[pages / 2, pages - 3]);
    cluster.wait_for_log("could not check the HMAC secrets: ");
    record(&mut client);
    assert_error_of_storage(&mut client, "SELECT ledger.verify_chain()");
    assert_error_of_storage(&mut client, "SELECT * FROM ledger.find_tampering()");
    record(&mut client);
    assert_no_process_crashed(&cluster);
}
