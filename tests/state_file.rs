//! The state file beside the mirror is current, whatever becomes of it while the server runs.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{copy_file, make_directory, wait_until, write_file, Cluster, Stop};
use postgres::Client;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn wait_until_noted(path: &Path) {
    let is_noted = || path.with_extension("state").exists() && is_as_noted(path);
    wait_until("the state file says how the file is left", PATIENCE, is_noted);
}

/// A ledger whose file was opened twice, with the file and what its state file said the first time.
fn start_twice() -> (Cluster, Client, PathBuf, Vec<u8>) {
    let (cluster, mut client) = start(quiet());
    record(&mut client);
    let path = file(&mut client);
    wait_until_noted(&path);
    let older = fs::read(path.with_extension("state")).unwrap();
    drop(client);
    cluster.restart(Stop::Fast);
    let mut client = cluster.connect("postgres");
    record(&mut client);
    wait_until_noted(&path);
    (cluster, client, path, older)
}

/// Puts another state file in place of the one that the server has open.
fn replace_state(path: &Path, content: &[u8]) {
    let new = path.with_extension("new");
    write_file(&new, content);
    fs::rename(&new, path.with_extension("state")).unwrap();
}

#[track_caller]
fn assert_records_after(how: Stop, cluster: &Cluster, client: Client) {
    drop(client);
    cluster.restart(how);
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    record(&mut client);
    assert_intact(&mut client);
}

#[test]
fn an_older_state_file_that_is_put_in_its_place_is_made_current() {
    let (cluster, mut client, path, older) = start_twice();
    replace_state(&path, &older);
    record(&mut client);
    wait_until_noted(&path);
    // The stop writes nothing more.
    assert_records_after(Stop::Immediate, &cluster, client);
}

#[test]
fn a_regular_stop_makes_it_current_even_if_nothing_was_recorded_since() {
    let (cluster, client, path, older) = start_twice();
    replace_state(&path, &older);
    assert_records_after(Stop::Fast, &cluster, client);
}

#[test]
fn it_is_current_after_the_files_were_moved_with_the_mirror_file_first_even_if_nobody_records() {
    let (cluster, mut client, path, older) = start_twice();
    let directory = cluster.scratch_dir().join("mirror");
    make_directory(&directory);
    set(&mut client, "ledger.mirror_directory", &format!("'{}'", directory.display()));
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    let moved = directory.join(path.file_name().unwrap());
    fs::rename(&path, &moved).unwrap();
    wait_until("the writer has the file", PATIENCE, || {
        moved.with_extension("state").exists() && state_file(&moved)["is_remembered"] == true
    });
    replace_state(&moved, &older);
    assert_records_after(Stop::Fast, &cluster, client);
}

#[test]
fn a_state_file_that_is_deleted_is_made_again() {
    let (cluster, mut client, path, _) = start_twice();
    fs::remove_file(path.with_extension("state")).unwrap();
    record(&mut client);
    wait_until_noted(&path);
    assert_eq!(fs::metadata(path.with_extension("state")).unwrap().mode() & 0o7777, 0o600);
    assert_records_after(Stop::Immediate, &cluster, client);
}

#[test]
fn none_is_made_beside_a_file_that_the_server_has_not_opened() {
    let (cluster, client, path, _) = start_twice();
    let directory = path.parent().unwrap();
    let away = directory.with_extension("away");
    fs::rename(directory, &away).unwrap();
    make_directory(directory);
    let moved = away.join(path.file_name().unwrap());
    copy_file(&moved, &path);
    drop(client);
    cluster.stop(Stop::Fast);
    assert!(!path.with_extension("state").exists());
    assert_eq!(state_file(&moved)["is_closed"], true, "the state file that was moved with its directory");
}
