//! The file fails, or its worker goes, while others wait for it: nobody waits for what nobody does any more, the worker
//! comes back to open the file, and what a failed sync may have left off the disk is written again.
//!
//! Needs an extension that was built with the feature `fault-injection`.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::*;
use crate::common::ledger::*;
use crate::common::{copy_file, make_directory, send, wait_until, write_file, Cluster, Stop};
use postgres::Client;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

/// What a file system says that has turned read-only: it takes nothing, and cannot cut off what it has not taken.
const READ_ONLY: &str = "write:read_only\ncut:read_only";

#[track_caller]
fn wait_until_failed(client: &mut Client) {
    wait_for(client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
}

#[track_caller]
fn wait_until_recording_works(client: &mut Client) {
    client.batch_execute("SET statement_timeout = '5s'").unwrap();
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    client.batch_execute("RESET statement_timeout").unwrap();
}

// ---- waits that nobody ends ---------------------------------------------------------------------------------------------

/// The worker looks at the file when it has nothing else to do, and voids before each batch.
#[test]
fn a_file_that_fails_while_the_worker_is_at_something_else_is_opened_again() {
    let (cluster, mut client) = start_small(Local, "write");
    record(&mut client);
    wait_for(&mut client, "(SELECT state = 'attached' AND lag_entries = 0 FROM ledger.mirror_status)");
    let worker = worker_pid(&mut client);
    // What is written stays without a sync.
    let writer = stop_writer(&mut client);
    client.batch_execute("BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'p'").unwrap();
    let mut blocker = cluster.connect("postgres");
    blocker.batch_execute("BEGIN; LOCK TABLE ledger.baselines IN ACCESS EXCLUSIVE MODE").unwrap();
    client.batch_execute("ROLLBACK PREPARED 'p'").unwrap();
    wait_for(&mut client, &format!("EXISTS (SELECT FROM pg_locks WHERE pid = {worker} AND NOT granted)"));
    record_many(&mut client, 5);
    set_fault(&cluster, READ_ONLY);
    let refused = all_text(&error(&mut client, RECORD));
    assert!(refused.contains("Read-only file system"), "{refused}");
    wait_until_failed(&mut client);
    clear_fault(&cluster);
    send(writer, libc::SIGCONT);
    // It voids what has failed, and seals.
    blocker.batch_execute("ROLLBACK").unwrap();
    wait_until_recording_works(&mut client);
    assert_eq!(worker_pid(&mut client), worker, "it is another worker");
    assert_whole(&cluster, &mut client);
}

/// The worker that comes next needs the lock that whoever seals has, before it opens the file.
#[test]
fn whoever_seals_does_not_wait_for_a_file_whose_worker_has_gone() {
    let (cluster, mut client) = start_small(Local, "sync");
    record_many(&mut client, 2);
    let mut in_block = cluster.connect("postgres");
    for commits in [false, true] {
        if commits {
            in_block.batch_execute(&format!("BEGIN; {SEAL}; {RECORD}")).unwrap();
        }
        set_fault(&cluster, "before_sync:hang");
        let at_the_file = Background::waiting(&cluster, &mut client, RECORD);
        let behind_it = Background::waiting(&cluster, &mut client, RECORD);
        let sealer = match commits {
            true => Background::run_in(std::mem::replace(&mut in_block, cluster.connect("postgres")), "COMMIT"),
            false => Background::run(&cluster, "", SEAL),
        };
        sealer.wait_until_waiting(&mut client);
        terminate_worker(&mut client);
        // Even while the file hangs.
        let refused = sealer.fails();
        assert!(refused.contains("has closed the file"), "{refused}");
        clear_fault(&cluster);
        at_the_file.ends().unwrap();
        // Nobody writes what stands in the ring for the next round.
        let refused = behind_it.fails();
        assert!(refused.contains("closed the file") || refused.contains("opened again"), "{refused}");
        wait_until_recording_works(&mut client);
        assert_whole(&cluster, &mut client);
    }
}

/// So monitoring sees it between two commits. With `chattr +a` and a full disk, too, what was written can only be read
/// again.
#[test]
fn what_refuses_lines_is_a_problem_until_it_takes_them_however_often_the_file_is_opened() {
    let (cluster, mut client) = start_small(Local, "sync");
    record(&mut client);
    set_fault(&cluster, READ_ONLY);
    for _ in 0..2 {
        error(&mut client, RECORD);
        wait_for(&mut client, "(SELECT state = 'attached' FROM ledger.mirror_status)");
        let problem: String = client.query_one("SELECT problem FROM ledger.mirror_status", &[]).unwrap().get(0);
        assert!(problem.contains("could not write") && problem.contains("Read-only file system"), "{problem}");
    }
    clear_fault(&cluster);
    wait_until_recording_works(&mut client);
    wait_for(&mut client, "(SELECT problem IS NULL FROM ledger.mirror_status)");
    assert_whole(&cluster, &mut client);
}

// ---- what a failed sync leaves --------------------------------------------------------------------------------------------

/// Pages that were never on disk, as a crash of the machine shows them, before one that was.
fn lose(path: &Path, from: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let behind = file.metadata().unwrap().len() - from;
    assert!(behind > 1, "nothing stands behind what is on disk");
    file.write_all_at(&vec![0; behind as usize - 1], from).unwrap();
}

/// The file fails and cannot be cut back either; a sync that goes well later says nothing of what stands there since.
fn is_written_again(mode: &str, fault: &str) {
    let (cluster, mut client) = start_small(Local, mode);
    record(&mut client);
    wait_for(&mut client, "(SELECT state = 'attached' AND lag_entries = 0 FROM ledger.mirror_status)");
    let worker = worker_pid(&mut client);
    let writer = stop_writer(&mut client);
    stop_between_transactions(&mut client, worker);
    let on_disk = number(&mut client, "SELECT bytes FROM ledger.mirror_status") as u64;
    if mode == "write" {
        record_many(&mut client, 3);
    }
    set_fault(&cluster, fault);
    error(&mut client, RECORD);
    wait_until_failed(&mut client);
    lose(&file(&mut client), on_disk);
    clear_fault(&cluster);
    send(writer, libc::SIGCONT);
    send(worker, libc::SIGCONT);
    wait_until_recording_works(&mut client);
    let count = if mode == "write" { 5 } else { 2 };
    assert_eq!(ids_in_table(&mut client).len(), count);
    assert_whole(&cluster, &mut client);
    cluster.wait_for_log("may not be on disk");
}

#[test]
fn what_a_failed_sync_of_a_cut_may_have_left_off_the_disk_is_written_again() {
    is_written_again("write", "write:errors\ncut_sync:errors");
}

#[test]
fn what_cannot_be_cut_off_after_a_failed_sync_is_written_again() {
    is_written_again("sync", "sync:errors\ncut:errors");
}

#[test]
fn a_file_that_cannot_be_cut_back_to_what_is_on_disk_is_not_written() {
    let (cluster, mut client) = start_small(Local, "sync");
    record(&mut client);
    set_fault(&cluster, "sync:errors\ncut:errors");
    for _ in 0..3 {
        let refused = all_text(&error(&mut client, RECORD));
        assert!(refused.contains("could not truncate mirror file"), "{refused}");
    }
    set_fault(&cluster, "cut:errors");
    let refused = all_text(&error(&mut client, RECORD));
    assert!(refused.contains("could not truncate mirror file"), "{refused}");
    wait_for(&mut client, "(SELECT problem LIKE '%could not truncate%' FROM ledger.mirror_status)");
    clear_fault(&cluster);
    wait_until_recording_works(&mut client);
    assert_eq!(ids_in_file(&file(&mut client)).len(), 2, "a line of what failed stayed in the file");
    assert_whole(&cluster, &mut client);
}

/// Waits until the database remembers the file. Otherwise, after a crash, nothing of the file is known to be on disk.
fn wait_until_remembered(client: &mut Client) {
    wait_for(client, "(SELECT mirror_attachment IS NOT NULL FROM ledger.log_state)");
}

/// Has the state file say that no more is on disk than the database knows.
fn forget_what_is_on_disk(path: &Path) {
    let mut state = state_file(path);
    state["synced"] = 0.into();
    write_file(&path.with_extension("state"), state.to_string());
}

#[test]
fn what_is_found_at_the_start_and_cannot_be_synced_is_written_again() {
    let (cluster, mut client) = start_small(Local, "sync");
    wait_until_remembered(&mut client);
    let ids = record_many(&mut client, 3);
    let path = file(&mut client);
    drop(client);
    cluster.stop(Stop::Immediate);
    forget_what_is_on_disk(&path);
    set_fault(&cluster, "take_over:error");
    cluster.start_again();
    cluster.wait_for_log("may not be on disk");
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    assert!(ids.iter().all(|id| ids_in_file(&path).contains(id)));
    assert_whole(&cluster, &mut client);
}

#[test]
fn what_stands_before_a_torn_line_that_could_not_be_cut_off_for_good_is_written_again() {
    let (cluster, mut client) = start_small(Local, "sync");
    wait_until_remembered(&mut client);
    let ids = record_many(&mut client, 3);
    let path = file(&mut client);
    drop(client);
    cluster.stop(Stop::Immediate);
    forget_what_is_on_disk(&path);
    let mut left = fs::read(&path).unwrap();
    left.extend(b"{\"record_type\": \"ent");
    write_file(&path, &left);
    set_fault(&cluster, "cut_sync:error");
    cluster.start_again();
    cluster.wait_for_log("may not be on disk");
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    assert!(ids.iter().all(|id| ids_in_file(&path).contains(id)));
    assert_whole(&cluster, &mut client);
}

/// The server that met with the failed sync is gone, and with it who knew of it. What it has left in the file reads
/// well.
#[test]
fn what_a_server_may_have_left_off_the_disk_is_written_again_by_the_next() {
    let (cluster, mut client) = start_small(Local, "sync");
    record_many(&mut client, 3);
    set_fault(&cluster, "sync:errors\ncut:errors");
    error(&mut client, RECORD);
    let path = file(&mut client);
    drop(client);
    cluster.stop(Stop::Immediate);
    clear_fault(&cluster);
    let left = fs::read(&path).unwrap();
    cluster.start_again();
    cluster.wait_for_log("again: they may not have been on disk");
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    assert!(fs::read(&path).unwrap().starts_with(&left), "it is not what was read");
    assert_whole(&cluster, &mut client);
}

/// Waits until the file is open although the first attempt could not sync it.
#[track_caller]
fn wait_until_attached_again(cluster: &Cluster, client: &mut Client) {
    wait_until("the sync fails", PATIENCE, || !fault_file(cluster).exists());
    wait_until_attached(client);
}

/// How often the log says that a file was written again.
fn written_again(cluster: &Cluster, path: &Path) -> usize {
    cluster.log().matches(&format!("of mirror file \"{}\" again: they may not", path.display())).count()
}

/// Nothing of it need be on disk, whatever the state file that was copied along says of the file that it was made from.
#[test]
fn a_copy_that_cannot_be_synced_is_written_again_before_it_is_used() {
    for is_running in [true, false] {
        let (cluster, mut client) = start_small(Local, "sync");
        record_many(&mut client, 3);
        let path = file(&mut client);
        let is_on_disk = || is_as_noted(&path) && state_file(&path)["synced"] == state_file(&path)["size"];
        wait_until("all is on disk", PATIENCE, is_on_disk);
        let directory = cluster.scratch_dir().join("copy");
        make_directory(&directory);
        let copy = directory.join(path.file_name().unwrap());
        let copy_both = || {
            copy_file(&path, &copy);
            copy_file(&path.with_extension("state"), &copy.with_extension("state"));
            set_fault(&cluster, "take_over:error");
        };
        let setting = format!("'{}'", directory.display());
        if is_running {
            copy_both();
            set(&mut client, "ledger.mirror_directory", &setting);
        } else {
            drop(client);
            cluster.stop(Stop::Fast);
            copy_both();
            cluster.add_conf(&format!("ledger.mirror_directory = {setting}"));
            cluster.start_again();
            client = cluster.connect("postgres");
        }
        wait_until_attached_again(&cluster, &mut client);
        assert_eq!(written_again(&cluster, &copy), 2, "{}", cluster.log());
        assert_whole(&cluster, &mut client);
    }
}

/// Its content may have been put there since, in place.
#[test]
fn a_file_that_was_on_disk_and_cannot_be_synced_is_written_again() {
    let (cluster, mut client) = start_small(Local, "sync");
    record_many(&mut client, 3);
    let path = file(&mut client);
    drop(client);
    cluster.stop(Stop::Fast);
    set_fault(&cluster, "take_over:error");
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_attached_again(&cluster, &mut client);
    assert_eq!(written_again(&cluster, &path), 1, "{}", cluster.log());
    assert_whole(&cluster, &mut client);
}

/// After a regular stop all is known to be on disk, and nothing is written again.
#[test]
fn what_is_known_to_be_on_disk_is_not_written_again() {
    let (cluster, mut client) = start_small(Local, "sync");
    record_many(&mut client, 3);
    drop(client);
    cluster.restart(Stop::Fast);
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    record(&mut client);
    assert!(!cluster.log().contains("again: they may not have been"), "{}", cluster.log());
    assert_whole(&cluster, &mut client);
}

// ---- what verification says meanwhile ---------------------------------------------------------------------------------

#[test]
fn lines_that_a_failed_sync_has_lost_are_not_missed_before_they_are_appended_again() {
    let (cluster, mut client) = start_small(Local, "write");
    record(&mut client);
    wait_until_file_has_followed(&mut client);
    // Keeps the worker from opening the file anew.
    let mut sealer = cluster.connect("postgres");
    sealer.batch_execute(&format!("BEGIN; {SEAL}")).unwrap();
    set_fault(&cluster, "sync:error");
    let lost = record(&mut client);
    wait_until("the sync fails", PATIENCE, || !fault_file(&cluster).exists());
    let path = file(&mut client);
    wait_until("the line is cut off", PATIENCE, || !ids_in_file(&path).contains(&lost));
    let verdict = verdict(&mut client);
    assert!(verdict["overall_valid"] == true, "{verdict:#}");
    sealer.batch_execute("ROLLBACK").unwrap();
    wait_until_attached(&mut client);
    assert_whole(&cluster, &mut client);
}

#[test]
fn a_line_that_a_crash_has_left_is_said_to_be_undecided_while_the_file_cannot_be_opened() {
    let (cluster, mut client) = start_small(Local, "sync");
    record(&mut client);
    let path = file(&mut client);
    set_fault(&cluster, "before_commit:hang");
    let commit = Background::run(&cluster, "", RECORD);
    commit.wait_until_hanging();
    cluster.kill9_everything();
    assert!(commit.ends().is_err());
    clear_fault(&cluster);
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_failed(&mut client);
    let found =
        column(&mut client, "SELECT detail FROM ledger.find_tampering() WHERE problem = 'entry_not_in_database'");
    assert!(found.len() == 1 && found[0].contains("a crash has left are voided only when it opens it"), "{found:?}");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    wait_until_attached(&mut client);
    assert_whole(&cluster, &mut client);
}
