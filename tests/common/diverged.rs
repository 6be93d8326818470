//! A file that is not the database's, and what becomes of it.

use super::ledger::*;
use super::{make_directory, Cluster, Options};
use postgres::error::SqlState;
use postgres::Client;
use std::fs;
use std::path::{Path, PathBuf};

/// A ledger with its file in a directory outside the cluster's, with sealed and pending entries.
pub fn start_outside(options: Options) -> (Cluster, Client, PathBuf) {
    let cluster = options.conf("ledger.block_interval = 1h").start();
    let directory = cluster.scratch_dir().join("mirror");
    make_directory(&directory);
    let mut client = cluster.connect("postgres");
    set(&mut client, "ledger.mirror_directory", &format!("'{}'", directory.display()));
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record_many(&mut client, 5);
    seal(&mut client);
    record_many(&mut client, 3);
    let path = file(&mut client);
    (cluster, client, path)
}

/// Recording is refused with this cause, the view names it, and the file stays as it is.
#[track_caller]
pub fn assert_diverged(client: &mut Client, path: &Path, cause: &str) {
    wait_for(client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    let content = fs::read(path).ok();
    for _ in 0..2 {
        let refused = error(client, RECORD);
        assert_eq!(*refused.code(), SqlState::IO_ERROR);
        let text = all_text(&refused);
        assert!(text.contains(cause) && text.contains(path.to_str().unwrap()), "expected {cause:?} in {text}");
        // To try again would not help, and is not what is said.
        assert_eq!(text.contains("does not agree"), text.contains("ledger.find_tampering()"), "{text}");
    }
    let problem = value(client, "SELECT problem FROM ledger.mirror_status");
    assert!(problem.contains(cause), "expected {cause:?} in {problem}");
    assert!(fs::read(path).ok() == content, "the file was written to");
}

/// A new file is begun; the old one is kept as it was.
#[track_caller]
pub fn assert_restarts(client: &mut Client, path: &Path) {
    let before = fs::read(path).ok();
    let kept = value(client, "SELECT ledger.mirror_restart()");
    match before {
        Some(before) => assert!(fs::read(&kept).unwrap() == before, "the old file is not kept as it was"),
        None => assert_eq!(kept, "NULL"),
    }
    record(client);
    assert_intact(client);
    seal(client);
    assert_intact(client);
    assert_eq!(ids_in_file(path), ids_in_table(client));
}
