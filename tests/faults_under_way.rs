//! What is on its way to the mirror file when somebody gives up: a commit that is cancelled, a worker that is
//! terminated, a file that is begun anew. Nobody else's line is lost or there twice, and nobody waits for ever.
//!
//! Needs an extension that was built with the feature `fault-injection`.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::*;
use crate::common::ledger::*;
use crate::common::{send, wait_until};
use postgres::error::SqlState;
use std::fs;
use std::time::Duration;

/// Its line goes through the ring in many pieces.
const LONG: &str = "SELECT ledger.hash_and_record('long', '1', jsonb_build_object('pad', repeat('x', 3000000)))";

#[test]
fn a_line_that_is_cut_off_takes_no_line_before_it_along() {
    for (mount, mode) in [(Local, "sync"), (Local, "write"), (Network, "sync"), (Network, "write")] {
        let (cluster, mut client) = start_small(mount, mode);
        record(&mut client);
        set_fault(&cluster, "before_write:hang");
        let at_the_file = Background::waiting(&cluster, &mut client, RECORD);
        let in_between = Background::waiting(&cluster, &mut client, RECORD);
        Background::waiting(&cluster, &mut client, LONG).cancel(&mut client);
        clear_fault(&cluster);
        at_the_file.ends().unwrap();
        in_between.ends().unwrap();
        assert_eq!(ids_in_table(&mut client).len(), 3, "{mount:?}, {mode}");
        assert_whole(&cluster, &mut client);
    }
}

#[test]
fn a_long_line_whose_statement_runs_out_of_time_holds_nobody_up() {
    let (cluster, mut client) = start_small(Network, "sync");
    record(&mut client);
    set_fault(&cluster, "before_write:hang");
    let long = time_out_at_the_file(&cluster, LONG);
    let timed_out = in_time("a statement", move || long.join().unwrap().unwrap_err());
    assert_eq!(timed_out.code(), Some(&SqlState::QUERY_CANCELED));
    clear_fault(&cluster);
    assert_whole(&cluster, &mut client);
}

/// Who seals waits until the lines of others are written, and nobody relies on them: they can be cut off.
#[test]
fn a_sync_that_fails_after_somebody_has_sealed_beside_it_fails_nothing_but_its_commit() {
    let (cluster, mut client) = start_small(Network, "sync");
    record(&mut client);
    seal(&mut client);
    let attachment = value(&mut client, ATTACHMENT);
    set_fault(&cluster, "before_write:hang");
    // More than the ring holds: some of it is written before all of it is synced.
    let entry = "ledger.hash_and_record('large', '1', jsonb_build_object('pad', repeat('x', 1000)))";
    let large = format!("SELECT count({entry}) FROM generate_series(1, 1000)");
    let large = Background::waiting(&cluster, &mut client, &large);
    let sealer = Background::waiting(&cluster, &mut client, SEAL);
    set_fault(&cluster, "before_sync:hang");
    sealer.ends().unwrap();
    set_fault(&cluster, "sync:error");
    let failed = large.fails();
    assert!(failed.contains("could not sync mirror file"), "{failed}");
    assert!(is_true(&mut client, "(SELECT state = 'attached' FROM ledger.mirror_status)"));
    assert_whole(&cluster, &mut client);
    assert_eq!(value(&mut client, ATTACHMENT), attachment, "the file was opened again");
}

#[test]
fn what_is_acknowledged_of_the_file_ends_with_a_line() {
    let (cluster, mut client) = start_small(Local, "sync");
    record(&mut client);
    set_fault(&cluster, "before_sync:hang");
    let at_the_file = Background::waiting(&cluster, &mut client, RECORD);
    let next = Background::waiting(&cluster, &mut client, RECORD);
    // The round after this one takes what of it is in the ring, too.
    let long = Background::waiting(&cluster, &mut client, LONG);
    send(long.pid, libc::SIGSTOP);
    clear_fault(&cluster);
    at_the_file.ends().unwrap();
    next.ends().unwrap();
    let bytes = number(&mut client, "SELECT bytes FROM ledger.mirror_status") as usize;
    let content = fs::read(file(&mut client)).unwrap();
    assert!(content.len() > bytes, "nothing of the long line is in the file");
    assert_eq!(content[bytes - 1], b'\n', "acknowledged up to {bytes}");
    client.batch_execute(&format!("SELECT pg_cancel_backend({})", long.pid)).unwrap();
    send(long.pid, libc::SIGCONT);
    assert!(long.ends().is_err());
    assert_whole(&cluster, &mut client);
    drop(client);
    cluster.restart(crate::common::Stop::Immediate);
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    assert_whole(&cluster, &mut client);
}

#[test]
fn a_worker_that_is_cancelled_while_it_appends_a_block_does_not_append_it_twice() {
    for mount in [Local, Network] {
        let (cluster, mut client) = start_small(mount, "sync");
        record_many(&mut client, 4);
        set_fault(&cluster, "before_block_line:hang");
        record(&mut client);
        wait_for(&mut client, "(SELECT pending_count = 0 FROM ledger.chain_stats)");
        // It goes on, and then the writer hangs with its line.
        set_fault(&cluster, "before_sync:hang");
        let worker = worker_pid(&mut client);
        let writer = "(SELECT wait_event <> 'PgNotaryWriterMain' OR wait_event IS NULL FROM pg_stat_activity \
                      WHERE backend_type = 'pg_notary writer')";
        match crate::common::pg_major() >= 17 {
            true => wait_for(&mut client, writer),
            false => wait_until("the line is in the file", PATIENCE, || {
                let path = file(&mut client);
                of_type(&lines(&path), "block").len() == 1
            }),
        }
        client.batch_execute(&format!("SELECT pg_cancel_backend({worker})")).unwrap();
        wait_until("the worker has been cancelled", PATIENCE, || {
            cluster.log().contains("canceling statement due to user request")
        });
        clear_fault(&cluster);
        assert_whole(&cluster, &mut client);
        assert_eq!(of_type(&lines(&file(&mut client)), "block").len(), 2);
    }
}

#[test]
fn a_sealer_that_is_cancelled_while_it_appends_a_block_does_not_append_it_twice() {
    let (cluster, mut client) = start_small(Network, "sync");
    record_many(&mut client, 3);
    // Nobody appends the line of a block that was sealed by hand before the worker does, or the next who seals.
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    set_fault(&cluster, "before_sync:hang");
    let sealer = Background::waiting(&cluster, &mut client, "SELECT * FROM ledger.commit_block()");
    wait_until("the line is in the file", PATIENCE, || {
        let path = file(&mut client);
        of_type(&lines(&path), "block").len() == 1
    });
    sealer.cancel(&mut client);
    clear_fault(&cluster);
    send(worker, libc::SIGCONT);
    assert_whole(&cluster, &mut client);
    assert_eq!(of_type(&lines(&file(&mut client)), "block").len(), 2);
}

#[test]
fn a_worker_that_is_terminated_while_it_voids_leaves_that_to_the_next() {
    let (cluster, mut client) = start_small(Local, "sync");
    record(&mut client);
    set_fault(&cluster, "before_sync:hang");
    let at_the_file = Background::waiting(&cluster, &mut client, RECORD);
    let worker = worker_pid(&mut client);
    Background::waiting(&cluster, &mut client, RECORD).cancel(&mut client);
    if crate::common::pg_major() >= 17 {
        wait_for(&mut client, &waits_for_file(worker));
    }
    client.batch_execute(&format!("SELECT pg_terminate_backend({worker})")).unwrap();
    wait_for(&mut client, &format!("(SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {worker})"));
    clear_fault(&cluster);
    at_the_file.ends().unwrap();
    let insert = "INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('test', repeat('0', 64))";
    Background::run(&cluster, "SET statement_timeout = '25s'", insert).ends().unwrap();
    assert_whole(&cluster, &mut client);
}

/// A background worker of somebody else's may end in the handler of a signal.
#[test]
fn a_process_that_ends_while_it_is_at_the_file_keeps_nobody_else_from_it() {
    for place in ["before_write", "before_sync", "after_sync"] {
        let (cluster, mut client) = start_small(Local, "sync");
        record(&mut client);
        set_fault(&cluster, &format!("{place}:exit"));
        assert!(Background::run(&cluster, "", RECORD).ends().unwrap_err().is_closed(), "{place}");
        wait_until("recording works", PATIENCE, || client.simple_query(RECORD).is_ok());
        assert_whole(&cluster, &mut client);
    }
}

#[test]
fn the_worker_does_not_wait_for_a_line_that_is_cut_off() {
    let (cluster, mut client) = start_small(Network, "sync");
    record(&mut client);
    set_fault(&cluster, "before_write:hang");
    let first = Background::waiting(&cluster, &mut client, RECORD);
    let long = Background::waiting(&cluster, &mut client, LONG);
    // The worker is to void this one, and waits for all that stands in the ring by then.
    first.cancel(&mut client);
    let worker = worker_pid(&mut client);
    if crate::common::pg_major() >= 17 {
        wait_for(
            &mut client,
            &format!("(SELECT wait_event ~ '^PgNotaryMirror' FROM pg_stat_activity WHERE pid = {worker})"),
        );
    }
    long.cancel(&mut client);
    clear_fault(&cluster);
    let path = file(&mut client);
    wait_until("the line is voided", PATIENCE, || of_type(&lines(&path), "void").len() == 1);
    assert_whole(&cluster, &mut client);
}

#[test]
fn a_file_that_is_begun_anew_has_the_lines_of_those_who_were_about_to_commit() {
    let (cluster, mut client) = start_small(Local, "sync");
    record_many(&mut client, 2);
    set_fault(&cluster, "before_commit:hang");
    let commits = Background::run(&cluster, "", RECORD);
    let path = file(&mut client);
    wait_until("its line is in the file", PATIENCE, || of_type(&lines(&path), "entry").len() == 3);
    let restart = Background::run(&cluster, "", "SELECT ledger.mirror_restart()");
    wait_for(&mut client, "(SELECT state <> 'attached' FROM ledger.mirror_status)");
    clear_fault(&cluster);
    commits.ends().unwrap();
    restart.ends().unwrap();
    assert_eq!(ids_in_table(&mut client).len(), 3);
    assert_whole(&cluster, &mut client);
}

#[test]
fn in_mode_write_a_line_that_is_lost_while_its_transaction_commits_is_put_back() {
    let (cluster, mut client) = start_small(Local, "write");
    record_many(&mut client, 2);
    set_fault(&cluster, "before_commit:hang");
    let commits = Background::run(&cluster, "", RECORD);
    let path = file(&mut client);
    wait_until("its line is in the file", PATIENCE, || of_type(&lines(&path), "entry").len() == 3);
    commits.wait_until_hanging();
    send(commits.pid, libc::SIGSTOP);
    set_fault(&cluster, "sync:errors");
    wait_until("a sync fails", PATIENCE, || {
        client.simple_query(RECORD).ok();
        is_true(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)")
    });
    clear_fault(&cluster);
    // Nobody can say yet what the file is to have.
    wait_for(&mut client, "(SELECT problem LIKE '%are still committing%' FROM ledger.mirror_status)");
    let refused = error(&mut client, RECORD);
    assert!(all_text(&refused).contains("are still committing"), "{refused:?}");
    send(commits.pid, libc::SIGCONT);
    commits.ends().unwrap();
    wait_until_attached(&mut client);
    assert_whole(&cluster, &mut client);
}

#[test]
fn the_file_is_not_opened_again_and_again_while_a_transaction_of_another_mode_commits() {
    let (cluster, mut client) = start_small(Local, "async");
    seal_once_it_works(&mut client);
    wait_until_attachment_is_noted(&mut client);
    set_fault(&cluster, "before_commit:hang");
    let commits = Background::run(&cluster, "", RECORD);
    commits.wait_until_hanging();
    send(commits.pid, libc::SIGSTOP);
    clear_fault(&cluster);
    let before = value(&mut client, ATTACHMENT);
    set(&mut client, "ledger.mirror_mode", "sync");
    wait_until("the file is opened in the new mode", PATIENCE, || value(&mut client, ATTACHMENT) != before);
    let attachment = value(&mut client, ATTACHMENT);
    record_many(&mut client, 3);
    for _ in 0..50 {
        assert_eq!(value(&mut client, ATTACHMENT), attachment);
    }
    send(commits.pid, libc::SIGCONT);
    commits.ends().unwrap();
    assert_whole(&cluster, &mut client);
}

#[test]
fn a_commit_that_waits_for_room_needs_no_file_any_more_when_the_mirror_is_switched_off() {
    const LARGE: &str = "SELECT ledger.hash_and_record('large', '1', jsonb_build_object('pad', repeat('x', 60000)))";
    for mount in [Local, Network] {
        let (cluster, mut client) = start_small(mount, "sync");
        record_many(&mut client, 2);
        set_fault(&cluster, "before_write:hang");
        // Four of them fill the ring, and the others have nothing in it.
        let waiting: Vec<_> = (0..7).map(|_| Background::waiting(&cluster, &mut client, LARGE)).collect();
        set(&mut client, "ledger.mirror_mode", "off");
        wait_for(&mut client, "(SELECT state <> 'attached' FROM ledger.mirror_status)");
        clear_fault(&cluster);
        waiting.into_iter().for_each(|commit| commit.ends().unwrap());
        assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries WHERE entry_type = 'large'"), 7);
        set(&mut client, "ledger.mirror_mode", "sync");
        wait_until_attached(&mut client);
        assert_whole(&cluster, &mut client);
    }
}

/// How often a process has gone to sleep.
fn sleeps(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap().trim().parse().unwrap()
}

/// The worker lets running appends finish before it closes the file: for five seconds, during which it looks again and
/// again. Those in which nobody could run do not count.
#[test]
fn a_server_that_was_suspended_is_given_the_time_that_it_has_lost() {
    let (cluster, mut client) = start_small(Network, "sync");
    record(&mut client);
    let worker = worker_pid(&mut client);
    set_fault(&cluster, "before_sync:hang");
    let commits = Background::waiting(&cluster, &mut client, RECORD);
    let restart = Background::run(&cluster, "", "SELECT ledger.mirror_restart()");
    wait_for(&mut client, "(SELECT state = 'repairing' FROM ledger.mirror_status)");
    let mut resumed = None;
    cluster.suspend(Duration::from_secs(6), worker, || {
        let before = *resumed.get_or_insert_with(|| sleeps(worker));
        sleeps(worker) > before + 3
    });
    clear_fault(&cluster);
    commits.ends().unwrap();
    restart.ends().unwrap();
    assert_whole(&cluster, &mut client);
}
