//! Something that is no regular file in the place of a file holds nobody up: opening a FIFO waits for its other end,
//! and no cancel ends that.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{as_server, succeed, Cluster, Options, Stop};
use std::fs;
use std::path::Path;

#[track_caller]
fn put_fifo(path: &Path) {
    fs::rename(path, path.with_extension("aside")).unwrap();
    succeed(as_server("mkfifo").arg(path));
}

/// What `sql` gives in another session, or its error.
#[track_caller]
fn ask(cluster: &Cluster, sql: &'static str) -> Result<String, String> {
    let mut client = cluster.connect("postgres");
    in_time(sql, move || {
        let rows = client.query(&format!("SELECT ({sql})::text"), &[]);
        rows.map(|rows| rows[0].get(0)).map_err(|error| all_text(error.as_db_error().unwrap()))
    })
}

#[test]
fn a_fifo_in_the_place_of_the_file_is_named() {
    let (cluster, mut client) = start(Options::new());
    record(&mut client);
    seal(&mut client);
    let path = file(&mut client);
    put_fifo(&path);
    let verdict = ask(&cluster, "ledger.verify_chain()").unwrap();
    assert!(verdict.contains("file_unreadable") && verdict.contains("not a regular file"), "{verdict}");
    let refused = ask(&cluster, "ledger.verify_file_integrity()").unwrap_err();
    assert!(refused.contains("not a regular file"), "{refused}");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(path.with_extension("aside"), &path).unwrap();
    let verdict = ask(&cluster, "ledger.verify_chain()").unwrap();
    assert!(verdict.contains("file_unreadable"), "{verdict}");
    fs::rename(path.with_extension("aside"), &path).unwrap();
    assert_eq!(ask(&cluster, "ledger.verify_chain()->'overall_valid'").unwrap(), "true");
}

#[test]
fn a_fifo_that_is_to_be_verified_is_refused() {
    let (cluster, _client) = start(Options::new());
    let path = cluster.data_dir().join("fifo");
    succeed(as_server("mkfifo").arg(&path));
    let refused = ask(&cluster, "ledger.verify_file_integrity('fifo')").unwrap_err();
    assert!(refused.contains("not a regular file"), "{refused}");
}

#[test]
fn a_fifo_in_the_place_of_the_state_file_does_not_keep_the_server_from_recording() {
    let (cluster, mut client) = start(Options::new());
    record(&mut client);
    let path = file(&mut client);
    drop(client);
    cluster.stop(Stop::Fast);
    put_fifo(&path.with_extension("state"));
    cluster.start_again();
    // It cannot be written either, so nothing is recorded until it is away. But nobody hangs.
    let mut client = cluster.connect("postgres");
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    fs::remove_file(path.with_extension("state")).unwrap();
    wait_until_attached(&mut client);
    record(&mut client);
    assert_intact(&mut client);
}
