//! The server fails at each place in the way of a commit, on purpose: it is killed there, the file fails there, or
//! hangs as one on a dead mount does. What was acknowledged is there, what was not is gone, and everything goes on by
//! itself.
//!
//! Needs an extension that was built with the feature `fault-injection`; see src/postgres/faults.rs for the places.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::*;
use crate::common::ledger::*;
use crate::common::{send, wait_until, Cluster, Options};
use postgres::error::SqlState;
use postgres::Client;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, SystemTime};

/// Where a commit in mode sync comes by, and whether it counts once it has got there.
const PLACES: [(&str, Fate); 7] = [
    ("before_write", Fate::Lost),
    ("mid_write", Fate::Lost),
    ("before_sync", Fate::Lost),
    ("after_sync", Fate::Lost),
    ("before_commit", Fate::Lost),
    ("after_commit", Fate::Kept),
    ("before_block_line", Fate::Kept),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Kept,
    Lost,
}

/// The server is killed at the place while a transaction commits; whatever became of that one, all is whole afterwards.
fn survives_kill_at(cluster: &Cluster, mut client: Client, place: &str, fate: Fate) -> Client {
    // Two more fill a block, so that its line is written too.
    record_many(&mut client, 3);
    // In mode write they are synced later, which is not to be what the fault hits.
    wait_for(&mut client, "(SELECT lag_entries = 0 FROM ledger.mirror_status)");
    let (before, crashes) = (ids_in_table(&mut client), cluster.crash_count());
    set_fault(cluster, &format!("{place}:kill"));
    let outcome = client.simple_query(&format!("{RECORD}; {RECORD}"));
    wait_until("the fault happens", PATIENCE, || !fault_file(cluster).exists() && cluster.crash_count() > crashes);
    drop(client);

    let mut client = cluster.reconnect();
    wait_until("the ledger is open again", PATIENCE, || {
        is_true(&mut client, "(SELECT state = 'attached' FROM ledger.mirror_status)")
    });
    let added = ids_in_table(&mut client).difference(&before).count();
    assert!(before.is_subset(&ids_in_table(&mut client)), "{place}: lost what was acknowledged");
    assert_eq!(added, if fate == Fate::Kept { 2 } else { 0 }, "{place}: {outcome:?}");
    assert!(fate == Fate::Kept || outcome.is_err(), "{place}: acknowledged and lost");
    seal_once_it_works(&mut client);
    assert_intact(&mut client);
    client
}

#[test]
fn killed_at_any_place_of_a_commit_the_server_recovers_to_what_was_acknowledged() {
    for mount in [Local, Network] {
        let (cluster, mut client) = start_small(mount, "sync");
        for (place, fate) in PLACES {
            client = survives_kill_at(&cluster, client, place, fate);
        }
    }
}

#[test]
fn killed_at_any_place_of_a_commit_in_mode_write_the_server_recovers_to_what_was_acknowledged() {
    for mount in [Local, Network] {
        let (cluster, mut client) = start_small(mount, "write");
        for (place, fate) in PLACES {
            // The commit does not wait for the sync; the block's line does.
            let fate = if matches!(place, "before_sync" | "after_sync") { Fate::Kept } else { fate };
            client = survives_kill_at(&cluster, client, place, fate);
        }
    }
}

/// The file fails once, or as long as the fault is set; recording goes on by itself afterwards, and nothing is there
/// twice.
fn survives_error_at(mount: Mount, mode: &str, place: &str, cause: &str) {
    let (cluster, mut client) = start_small(mount, mode);
    record_many(&mut client, 3);
    let before = ids_in_table(&mut client);
    for action in ["error", "errors"] {
        set_fault(&cluster, &format!("{place}:{action}"));
        for _ in 0..if action == "errors" { 4 } else { 1 } {
            let refused = error(&mut client, RECORD);
            assert_eq!(*refused.code(), SqlState::IO_ERROR);
            assert!(all_text(&refused).contains(cause), "{refused:?}");
        }
        clear_fault(&cluster);
        assert_eq!(ids_in_table(&mut client), before, "half recorded");
    }
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    seal_once_it_works(&mut client);
    assert_intact(&mut client);
    assert_eq!(ids_in_table(&mut client).len(), before.len() + 1);
    let entries = of_type(&lines(&file(&mut client)), "entry").len();
    assert_eq!(entries, before.len() + 1, "a line of what failed stayed in the file");
    assert!(cluster.is_running() && !cluster.log().contains("terminated by signal"));
}

#[test]
fn an_io_error_of_the_sync_fails_the_transaction_and_leaves_no_line() {
    for mount in [Local, Network] {
        survives_error_at(mount, "sync", "sync", "could not sync mirror file");
    }
}

#[test]
fn an_io_error_of_the_write_fails_the_transaction_and_leaves_no_line() {
    for mount in [Local, Network] {
        survives_error_at(mount, "sync", "write", "could not write to mirror file");
        survives_error_at(mount, "write", "write", "could not write to mirror file");
    }
}

#[test]
fn a_write_that_fails_half_way_fails_the_transaction_and_leaves_no_line() {
    let (cluster, mut client) = start_small(Local, "sync");
    record_many(&mut client, 2);
    set_fault(&cluster, "mid_write:error");
    assert!(all_text(&error(&mut client, RECORD)).contains("could not write to mirror file"));
    record_many(&mut client, 2);
    seal_once_it_works(&mut client);
    assert_intact(&mut client);
    assert_eq!(of_type(&lines(&file(&mut client)), "entry").len(), 4);
}

#[test]
fn in_mode_write_lines_that_a_failed_sync_has_lost_are_put_back_from_the_database() {
    let (cluster, mut client) = start_small(Local, "write");
    set_fault(&cluster, "sync:errors");
    let ids: Vec<String> = (0..4).filter_map(|_| client.query(RECORD, &[]).ok().map(|rows| rows[0].get(0))).collect();
    wait_for(&mut client, "(SELECT state = 'failed' AND problem LIKE '%could not sync%' FROM ledger.mirror_status)");
    clear_fault(&cluster);
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    seal_once_it_works(&mut client);
    assert!(!ids.is_empty(), "nothing was recorded before the sync failed");
    assert!(ids.iter().all(|id| ids_in_file(&file(&mut client)).contains(id)));
    assert_intact(&mut client);
}

// ---- who is at the file ---------------------------------------------------------------------------------------------------

/// With the writer stopped: whether a commit gets its lines into the file.
fn commits_without_the_writer(mount: Mount, mode: &str) -> bool {
    let (cluster, mut client) = start_small(mount, mode);
    record(&mut client);
    wait_for(&mut client, "(SELECT state = 'attached' FROM ledger.mirror_status)");
    let writer = stop_writer(&mut client);
    let mut session = cluster.connect("postgres");
    // Who needs the writer waits for ever, and who does not may have to wait for the processor.
    let limit = match mount {
        Local => "25s",
        Network => "2s",
    };
    session.batch_execute(&format!("SET statement_timeout = '{limit}'")).unwrap();
    let is_committed = session.simple_query(RECORD).is_ok();
    let in_file = of_type(&lines(&file(&mut client)), "entry").len();
    send(writer, libc::SIGCONT);
    assert_eq!(in_file, if is_committed { 2 } else { 1 }, "{mount:?}, {mode}");
    // What a commit has written itself is synced like everything else.
    wait_for(&mut client, "(SELECT lag_entries = 0 FROM ledger.mirror_status)");
    seal_once_it_works(&mut client);
    assert_intact(&mut client);
    is_committed
}

#[test]
fn a_commit_writes_a_local_file_itself_and_leaves_one_on_a_network_mount_to_the_writer() {
    for mode in ["sync", "write"] {
        assert!(commits_without_the_writer(Local, mode), "{mode}");
        assert!(!commits_without_the_writer(Network, mode), "{mode}");
    }
}

// ---- changes by others ------------------------------------------------------------------------------------------------------

/// The next transaction is refused, and the worker finds the file in order: nobody knows what was done to it in
/// between.
#[track_caller]
fn assert_noticed(client: &mut Client, change: impl Fn(&File)) {
    record(client);
    let path = file(client);
    let_a_tick_pass();
    change(&OpenOptions::new().read(true).write(true).open(path).unwrap());
    let refused = all_text(&error(client, RECORD));
    assert!(refused.contains("was changed by another program since it was last written"), "{refused}");
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
}

#[test]
fn a_file_that_was_changed_and_put_back_is_looked_at_before_the_next_write() {
    for mount in [Local, Network] {
        let (_cluster, mut client) = start_small(mount, "sync");
        assert_noticed(&mut client, |file| {
            let mut first = [0];
            file.read_exact_at(&mut first, 0).unwrap();
            file.write_all_at(b"#", 0).unwrap();
            file.write_all_at(&first, 0).unwrap();
        });
        // Whoever sets times cannot set that of the last change, and one that lies in the future is no reason to refuse
        // the file.
        let in_the_future = SystemTime::now() + Duration::from_secs(1 << 30);
        assert_noticed(&mut client, |file| file.set_modified(in_the_future).unwrap());
        for _ in 0..5 {
            record(&mut client);
            let_a_tick_pass();
        }
        seal_once_it_works(&mut client);
        assert_intact(&mut client);
    }
}

// ---- a mount that hangs -------------------------------------------------------------------------------------------------

#[track_caller]
fn wait_until_waiting(client: &mut Client, pid: i64) {
    // Before Postgres 17 an extension cannot name its wait events.
    let event = if crate::common::pg_major() >= 17 { "PgNotaryMirrorSync" } else { "Extension" };
    wait_for(
        client,
        &format!("(SELECT wait_event = '{event}' AND wait_event_type = 'Extension' AND state = 'active' FROM pg_stat_activity WHERE pid = {pid})"),
    );
}

#[test]
fn commits_that_wait_at_the_same_time_share_a_sync() {
    for options in [quiet(), quiet().env("PG_NOTARY_FAULT_NETWORK_MOUNT", "1")] {
        let (cluster, mut client) = start(options);
        record(&mut client);
        let syncs = "SELECT syncs FROM ledger.mirror_status";
        let before = number(&mut client, syncs);
        set_fault(&cluster, "before_sync:hang");
        let commits: Vec<_> = (0..16).map(|_| Background::waiting(&cluster, &mut client, RECORD)).collect();
        clear_fault(&cluster);
        commits.into_iter().for_each(|commit| commit.ends().unwrap());
        // That of the first, and one of the others; it may begin before the last of them has come.
        let syncs = number(&mut client, syncs) - before;
        assert!((2..=3).contains(&syncs), "{syncs} syncs for 16 commits");
        assert_whole(&cluster, &mut client);
    }
}

#[test]
fn a_commit_that_waits_for_a_hanging_mount_is_visible_and_can_be_cancelled_and_is_voided() {
    let (cluster, mut client) = start_small(Network, "sync");
    record(&mut client);
    set_fault(&cluster, "before_sync:hang");
    let (cancelled, pid) = commit_in_background(&cluster);
    wait_until_waiting(&mut client, pid);
    let timed_out = time_out_at_the_file(&cluster, RECORD);
    let (terminated, third) = commit_in_background(&cluster);
    wait_until_waiting(&mut client, third);
    // The writer shows what it waits for.
    wait_for(
        &mut client,
        "(SELECT wait_event IS NOT NULL FROM pg_stat_activity WHERE backend_type = 'pg_notary writer')",
    );

    wait_for(&mut client, "(SELECT problem LIKE '%does not answer%' FROM ledger.mirror_status)");
    // Who has only the log must see it, too.
    cluster.wait_for_log("does not answer: it has been written or synced for");

    client.batch_execute(&format!("SELECT pg_cancel_backend({pid}), pg_terminate_backend({third})")).unwrap();
    let ended: Vec<_> = [cancelled, timed_out, terminated]
        .into_iter()
        .map(|session| in_time("a commit that was cancelled", move || session.join().unwrap().unwrap_err()))
        .collect();
    let codes: Vec<_> = ended.iter().map(|error| error.code().cloned()).collect();
    assert_eq!(codes[0], Some(SqlState::QUERY_CANCELED));
    assert_eq!(codes[1], Some(SqlState::QUERY_CANCELED));
    assert!(codes[2].is_none() || codes[2] == Some(SqlState::ADMIN_SHUTDOWN), "{codes:?}");
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 1);

    clear_fault(&cluster);
    let path = file(&mut client);
    wait_until("the lines are voided", PATIENCE, || {
        of_type(&lines(&path), "void").iter().map(|void| void["entry_ids"].as_array().unwrap().len()).sum::<usize>()
            == 3
    });
    cluster.wait_for_log("answers again");
    record(&mut client);
    seal_once_it_works(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_line_longer_than_the_buffer_that_is_cancelled_half_way_leaves_no_part_of_it() {
    let (cluster, mut client) = start_small(Network, "sync");
    record(&mut client);
    for terminate in [false, true] {
        set_fault(&cluster, "before_write:hang");
        let mut session = cluster.connect("postgres");
        let pid = number(&mut session, "SELECT pg_backend_pid()");
        let long = "SELECT ledger.hash_and_record('long', '1', jsonb_build_object('pad', repeat('x', 3000000)))";
        let ended = thread::spawn(move || session.simple_query(long).map(|_| ()));
        let event = if crate::common::pg_major() >= 17 { "PgNotaryMirrorWrite" } else { "Extension" };
        wait_for(&mut client, &format!("(SELECT wait_event = '{event}' FROM pg_stat_activity WHERE pid = {pid})"));
        let end = if terminate { "pg_terminate_backend" } else { "pg_cancel_backend" };
        client.batch_execute(&format!("SELECT {end}({pid})")).unwrap();
        in_time("the cancelled commit", move || ended.join().unwrap().unwrap_err());
        clear_fault(&cluster);
        // Whoever comes next is not held up by the half line.
        record(&mut client);
    }
    client
        .simple_query("SELECT ledger.hash_and_record('long', '1', jsonb_build_object('pad', repeat('y', 3000000)))")
        .unwrap();
    seal_once_it_works(&mut client);
    assert_intact(&mut client);
    assert_eq!(of_type(&lines(&file(&mut client)), "entry").len(), 4);
}

#[test]
fn in_mode_async_nobody_waits_for_a_hanging_mount() {
    let (cluster, mut client) = start_small(Local, "async");
    record(&mut client);
    wait_for(&mut client, "(SELECT lag_entries = 0 FROM ledger.mirror_status)");
    set_fault(&cluster, "before_sync:hang");
    let mut session = cluster.connect("postgres");
    in_time("recording", move || (0..50).for_each(|_| drop(record(&mut session))));
    wait_for(&mut client, "(SELECT lag_entries > 0 FROM ledger.mirror_status)");
    clear_fault(&cluster);
    wait_for(&mut client, "(SELECT lag_entries = 0 AND state = 'attached' FROM ledger.mirror_status)");
    seal_once_it_works(&mut client);
    wait_for(
        &mut client,
        "(SELECT last_block = (SELECT max(block_number) FROM ledger.blocks) FROM ledger.mirror_status)",
    );
    assert_intact(&mut client);
}

#[test]
fn in_mode_async_entries_are_not_appended_again_once_the_line_of_their_block_has_failed() {
    let (cluster, mut client) = start_small(Local, "async");
    record_many(&mut client, 4);
    wait_for(&mut client, "(SELECT lag_entries = 0 FROM ledger.mirror_status)");
    let worker = worker_pid(&mut client);
    set_fault(&cluster, "before_block_line:hang");
    record(&mut client);
    wait_until_hanging(worker);
    set_fault(&cluster, "write:error");
    wait_until("the block line has failed", PATIENCE, || !fault_file(&cluster).exists());
    wait_until_sealed(&mut client);
    assert_eq!(ids_in_file(&file(&mut client)).len(), of_type(&lines(&file(&mut client)), "entry").len());
    assert_whole(&cluster, &mut client);
}

#[test]
fn in_mode_async_a_transaction_whose_lines_may_reach_the_file_is_not_prepared_without_them() {
    let options = Options::new().conf("ledger.block_interval = 1h").conf("ledger.mirror_mode = async");
    let options = options.conf("max_prepared_transactions = 5").env("PG_NOTARY_FAULT_NETWORK_MOUNT", "1");
    let (cluster, mut client) = start(options);
    record(&mut client);
    wait_for(&mut client, "(SELECT lag_entries = 0 FROM ledger.mirror_status)");
    set_fault(&cluster, "before_write:hang");
    client.batch_execute(&format!("BEGIN; {RECORD}; SET LOCAL statement_timeout = '1s'")).unwrap();
    let refused = client.batch_execute("PREPARE TRANSACTION 'prepared'").unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::QUERY_CANCELED));
    clear_fault(&cluster);
    assert_whole(&cluster, &mut client);
}

#[test]
fn in_mode_async_sealing_goes_on_while_the_mount_hangs() {
    let (cluster, mut client) = start_small(Local, "async");
    record(&mut client);
    wait_for(&mut client, "(SELECT lag_entries = 0 FROM ledger.mirror_status)");
    for place in ["before_sync", "before_write"] {
        set_fault(&cluster, &format!("{place}:hang\nclose:hang"));
        for round in 1..=3 {
            // The next worker finds the same file.
            if round == 3 {
                terminate_worker(&mut client);
            }
            record_many(&mut client, 10);
            wait_for(&mut client, "(SELECT pending_count < 5 FROM ledger.chain_stats)");
            record(&mut client);
            let mut other = cluster.connect("postgres");
            let sealed = in_time("sealing by hand", move || {
                other.batch_execute("SET statement_timeout = '25s'; SELECT * FROM ledger.commit_block()")
            });
            sealed.unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        }
        wait_for(
            &mut client,
            "(SELECT state = 'failed' AND problem LIKE '%does not answer%' FROM ledger.mirror_status)",
        );
        clear_fault(&cluster);
        wait_for(&mut client, "(SELECT lag_entries = 0 AND state = 'attached' FROM ledger.mirror_status)");
        wait_for(
            &mut client,
            "(SELECT last_block = (SELECT max(block_number) FROM ledger.blocks) FROM ledger.mirror_status)",
        );
        assert_intact(&mut client);
        assert_eq!(ids_in_file(&file(&mut client)), ids_in_table(&mut client));
    }
}

#[test]
fn the_mirror_can_be_switched_off_while_the_mount_hangs() {
    let (cluster, mut client) = start_small(Network, "sync");
    record(&mut client);
    set_fault(&cluster, "before_sync:hang\nclose:hang");
    let (waits, pid) = commit_in_background(&cluster);
    wait_until_waiting(&mut client, pid);
    set(&mut client, "ledger.mirror_mode", "off");
    let refused = in_time("the commit that waited", move || waits.join().unwrap().unwrap_err());
    assert!(refused.as_db_error().is_some_and(|error| all_text(error).contains("does not answer")), "{refused:?}");
    record_many(&mut client, 5);
    wait_for(&mut client, "(SELECT pending_count < 5 FROM ledger.chain_stats)");
    clear_fault(&cluster);
    set(&mut client, "ledger.mirror_mode", "sync");
    wait_for(&mut client, "(SELECT state = 'attached' FROM ledger.mirror_status)");
    seal_once_it_works(&mut client);
    assert_intact(&mut client);
    assert_eq!(ids_in_file(&file(&mut client)), ids_in_table(&mut client));
    assert_eq!(ids_in_table(&mut client).len(), 6);
}

#[test]
fn the_mode_can_be_changed_while_the_worker_waits_for_a_hanging_mount_to_void_lines() {
    for mode in ["off", "async"] {
        let (cluster, mut client) = start_small(Network, "sync");
        record(&mut client);
        set_fault(&cluster, "before_sync:hang");
        let timed_out = time_out_at_the_file(&cluster, RECORD);
        in_time("the commit that timed out", move || timed_out.join().unwrap().unwrap_err());
        // It is at the void line, in a transaction.
        wait_for(
            &mut client,
            "(SELECT xact_start < now() - interval '0.5s' FROM pg_stat_activity WHERE backend_type = 'pg_notary worker')",
        );
        let (waits, pid) = commit_in_background(&cluster);
        wait_until_waiting(&mut client, pid);
        set(&mut client, "ledger.mirror_mode", mode);
        let refused = in_time("the commit that waited", move || waits.join().unwrap().unwrap_err());
        assert!(refused.as_db_error().is_some_and(|error| all_text(error).contains("does not answer")), "{refused:?}");
        record(&mut client);
        clear_fault(&cluster);
        set(&mut client, "ledger.mirror_mode", "sync");
        wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
        seal_once_it_works(&mut client);
        assert_intact(&mut client);
    }
}

#[test]
fn an_id_that_is_used_again_while_the_mount_hangs_is_no_divergence() {
    let by_id = |hash: &str| {
        let values = format!("('01a20057-47fa-7376-9c1c-a0206f4cd8e1', 'again', repeat('{hash}', 64))");
        format!("INSERT INTO ledger.entries (id, entry_type, data_hash) VALUES {values}")
    };
    for mode in ["off", "async"] {
        let (cluster, mut client) = start_small(Network, "sync");
        record(&mut client);
        set_fault(&cluster, "before_sync:hang");
        let mut session = cluster.connect("postgres");
        let pid = number(&mut session, "SELECT pg_backend_pid()");
        let first = by_id("a");
        let waits = thread::spawn(move || session.batch_execute(&first));
        wait_until_waiting(&mut client, pid);
        set(&mut client, "ledger.mirror_mode", mode);
        let refused = in_time("the commit that waited", move || waits.join().unwrap().unwrap_err());
        assert!(refused.as_db_error().is_some_and(|error| all_text(error).contains("does not answer")), "{refused:?}");
        client.batch_execute(&by_id("b")).unwrap();
        clear_fault(&cluster);
        set(&mut client, "ledger.mirror_mode", "sync");
        wait_for(&mut client, "(SELECT state = 'attached' FROM ledger.mirror_status)");
        seal_once_it_works(&mut client);
        assert_intact(&mut client);
        assert_eq!(ids_in_table(&mut client).len(), 2, "{mode}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_named_until_it_can_be_again() {
    let (cluster, mut client) = start_small(Local, "sync");
    record(&mut client);
    let problem = "SELECT problem FROM ledger.mirror_status";
    let places = [("sync", "could not sync mirror file"), ("write", "could not write to mirror file")];
    for (round, (place, what)) in (1..).zip(places) {
        set_fault(&cluster, &format!("{place}:errors"));
        error(&mut client, RECORD);
        error(&mut client, RECORD);
        assert!(value(&mut client, problem).contains(what), "{}", value(&mut client, problem));
        // What waits for the file is told before the log.
        let logged = || cluster.log().matches(&format!("pg_notary cannot record in a mirror file: {what}")).count();
        wait_until("the failure is logged", PATIENCE, || logged() > 0);
        assert_eq!(logged(), 1, "once in the log");
        clear_fault(&cluster);
        wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
        wait_for(&mut client, "(SELECT problem IS NULL FROM ledger.mirror_status)");
        let goes_on = || cluster.log().matches("pg_notary writes mirror file").count();
        wait_until("the end of it is logged", PATIENCE, || goes_on() == round);
    }
}

#[test]
fn a_full_disk_is_named_as_one_until_there_is_room() {
    for mount in [Local, Network] {
        let (cluster, mut client) = start_small(mount, "sync");
        record(&mut client);
        let path = file(&mut client);
        set_fault(&cluster, "write:no_space");
        for _ in 0..3 {
            let refused = error(&mut client, RECORD);
            let text = all_text(&refused);
            assert_eq!(*refused.code(), SqlState::DISK_FULL, "{mount:?}: {text}");
            assert!(text.contains(path.to_str().unwrap()) && text.contains("Make room"), "{mount:?}: {text}");
        }
        clear_fault(&cluster);
        wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
        seal_once_it_works(&mut client);
        assert_intact(&mut client);
        assert_eq!(of_type(&lines(&path), "entry").len(), 2, "{mount:?}");
    }
}

#[test]
fn a_file_system_that_turns_read_only_fails_the_transaction_until_it_can_be_written_again() {
    let (cluster, mut client) = start_small(Local, "sync");
    record(&mut client);
    let path = file(&mut client);
    // The kernel turns one read-only that has errors, but lets nobody do so while a file is open for writing.
    set_fault(&cluster, "write:read_only");
    for _ in 0..3 {
        let text = all_text(&error(&mut client, RECORD));
        assert!(text.contains(path.to_str().unwrap()) && text.contains("Read-only file system"), "{text}");
    }
    clear_fault(&cluster);
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    seal_once_it_works(&mut client);
    assert_intact(&mut client);
    assert_eq!(of_type(&lines(&path), "entry").len(), 2);
}
