//! What a loss of power can leave in the file does not keep the next server from recording.
//!
//! Needs an extension that was built with the feature `fault-injection`.
#![cfg(feature = "cluster-tests")]

use crate::common::diverged::assert_diverged;
use crate::common::faults::*;
use crate::common::ledger::*;
use crate::common::{make_directory, wait_until, write_file, Cluster, Options, Stop};
use postgres::Client;
use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;

/// A stopped server, and its file.
struct Lost {
    cluster: Cluster,
    path: PathBuf,
    /// How much of the file was on disk; as much again is behind it.
    on_disk: u64,
    size: u64,
    ids: BTreeSet<String>,
}

/// A server that dies while the last commits of mode write are not on disk.
fn lose_power() -> Lost {
    let (cluster, mut client) = start(quiet().conf("ledger.mirror_mode = write"));
    record_many(&mut client, 20);
    let path = file(&mut client);
    let length = || fs::metadata(&path).unwrap().len();
    wait_until("all is on disk", PATIENCE, || is_as_noted(&path) && state_file(&path)["synced"] == length());
    let on_disk = length();
    set_fault(&cluster, "before_sync:hang");
    record_many(&mut client, 20);
    let (ids, size) = (ids_in_table(&mut client), length());
    drop(client);
    cluster.stop(Stop::Immediate);
    clear_fault(&cluster);
    assert_eq!(state_file(&path)["synced"], on_disk);
    Lost { cluster, path, on_disk, size, ids }
}

fn start_after(lost: &Lost) -> Client {
    lost.cluster.start_again();
    lost.cluster.connect("postgres")
}

#[test]
fn lines_that_are_zeros_after_a_loss_of_power_are_appended_again_with_all_behind_them() {
    let holes: [fn(&Lost) -> Range<u64>; 3] = [
        // In the midst of lines, up to a page.
        |lost| lost.on_disk + 1000..(lost.on_disk + 1001).next_multiple_of(4096),
        |lost| lost.on_disk..(lost.on_disk + 1).next_multiple_of(512),
        |lost| lost.size - 5..lost.size,
    ];
    for hole in holes {
        let lost = lose_power();
        assert!(hole(&lost).end <= lost.size, "{} of {}", hole(&lost).end, lost.size);
        zero(&lost.path, hole(&lost));
        let mut client = start_after(&lost);
        lost.cluster.wait_for_log("appends the rest again: zeros followed");
        wait_until_attached(&mut client);
        assert_eq!(ids_in_file(&lost.path), lost.ids);
        assert_whole(&lost.cluster, &mut client);
    }
}

#[test]
fn zeros_where_a_loss_of_power_leaves_none_are_refused() {
    let elsewhere: [fn(&Lost) -> Range<u64>; 2] = [
        |lost| lost.on_disk - 1000..(lost.on_disk - 999).next_multiple_of(512),
        // Not up to the end of a sector.
        |lost| lost.on_disk + 1000..(lost.on_disk + 1001).next_multiple_of(512) + 1,
    ];
    for zeros in elsewhere {
        let lost = lose_power();
        let left = fs::read(&lost.path).unwrap();
        zero(&lost.path, zeros(&lost));
        let mut client = start_after(&lost);
        assert_diverged(&mut client, &lost.path, "it is inconsistent in itself");
        fs::write(&lost.path, left).unwrap();
        wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
        assert_intact(&mut client);
    }
}

#[test]
fn a_file_that_has_not_got_its_whole_header_gets_it() {
    for left in ["", "{\"data", "\0\0\0\0\0\0\0\0"] {
        let (_cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = off"));
        let path = file(&mut client);
        let directory = path.parent().unwrap();
        if !directory.exists() {
            make_directory(directory);
        }
        write_file(&path, left);
        switch(&mut client, "sync");
        record(&mut client);
        assert_intact(&mut client);
    }
}
