//! The state file beside the mirror is current, whatever becomes of it while the server runs.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::{clear_fault, set_fault};
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

fn directory_for(cluster: &Cluster) -> PathBuf {
    let directory = cluster.scratch_dir().join("mirror");
    make_directory(&directory);
    directory
}

/// Moves the files as they are to be moved: the state file first.
fn move_files(path: &Path, directory: &Path) -> PathBuf {
    let moved = directory.join(path.file_name().unwrap());
    fs::rename(path.with_extension("state"), moved.with_extension("state")).unwrap();
    fs::rename(path, &moved).unwrap();
    moved
}

/// The worker would make a state file in the old place, and the database remember what only that says.
#[test]
fn a_file_that_is_moved_while_it_is_being_opened_is_taken_where_it_is_then() {
    let (cluster, mut client) = start(quiet());
    record(&mut client);
    let path = file(&mut client);
    wait_until_noted(&path);
    set_fault(&cluster, "take_over:hang");
    let before = worker_pid(&mut client);
    client.batch_execute("SELECT pg_terminate_backend(pid) FROM ledger.workers").unwrap();
    let is_at_it = "EXISTS (SELECT FROM ledger.workers JOIN pg_stat_activity USING (pid) \
                    WHERE now() - xact_start > '200 ms'";
    wait_for(&mut client, &format!("{is_at_it} AND pid <> {before})"));
    let directory = directory_for(&cluster);
    set(&mut client, "ledger.mirror_directory", &format!("'{}'", directory.display()));
    let moved = move_files(&path, &directory);
    clear_fault(&cluster);
    wait_until_attached(&mut client);
    record(&mut client);
    assert_eq!(file(&mut client), moved);
    assert!(!path.with_extension("state").exists());
    assert_records_after(Stop::Fast, &cluster, client);
}

/// As if the new one had stayed behind in the place that the mirror file has left.
#[test]
fn the_state_file_of_before_beside_the_file_that_the_server_itself_has_written_is_no_reason_to_refuse_that() {
    let (cluster, mut client) = start(quiet());
    record(&mut client);
    let path = file(&mut client);
    wait_until_noted(&path);
    let older = fs::read(path.with_extension("state")).unwrap();
    client.batch_execute("SELECT pg_terminate_backend(pid) FROM ledger.workers").unwrap();
    wait_until("the file was opened again", PATIENCE, || {
        state_file(&path)["attachment"] != serde_json::from_slice::<serde_json::Value>(&older).unwrap()["attachment"]
            && state_file(&path)["is_remembered"] == true
    });
    let directory = directory_for(&cluster);
    set(&mut client, "ledger.mirror_directory", &format!("'{}'", directory.display()));
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    write_file(&directory.join(path.file_name().unwrap()).with_extension("state"), &older);
    fs::rename(&path, directory.join(path.file_name().unwrap())).unwrap();
    wait_until_attached(&mut client);
    record(&mut client);
    assert_records_after(Stop::Fast, &cluster, client);
}

#[test]
fn a_state_file_that_cannot_be_written_is_named_in_the_log_and_recording_goes_on() {
    let (cluster, mut client) = start(quiet());
    record(&mut client);
    let path = file(&mut client);
    wait_until_noted(&path);
    fs::remove_file(path.with_extension("state")).unwrap();
    fs::create_dir(path.with_extension("state")).unwrap();
    record(&mut client);
    cluster.wait_for_log("could not open state file");
    record(&mut client);
    fs::remove_dir(path.with_extension("state")).unwrap();
    record(&mut client);
    cluster.wait_for_log("writes the state file of mirror file");
    wait_until_noted(&path);
    assert_records_after(Stop::Fast, &cluster, client);
}
