//! A file that is not the database's is noticed at the start or at the next write, named, and never written to; and
//! there is a way on from each.
#![cfg(feature = "cluster-tests")]

use crate::common::diverged::*;
use crate::common::ledger::*;
use crate::common::{children_of, copy_file, give_to_server, send, wait_until, write_file, Options, Stop};
use postgres::error::SqlState;
use postgres::Client;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Flips a bit in the middle of the line with this number, from 0.
fn edit_line(path: &Path, number: usize) {
    let_a_tick_pass();
    let text = fs::read(path).unwrap();
    let start: usize = text.split(|byte| *byte == b'\n').take(number).map(|line| line.len() + 1).sum();
    let at = start + b"{\"data_hash\": \"".len() + 3;
    let flipped = if text[at] == b'0' { b'1' } else { b'0' };
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[flipped], at as u64).unwrap();
}

#[test]
fn a_file_edited_in_the_middle_is_noticed_at_the_next_write() {
    // A sealed entry, and one that is pending.
    for line in [2, 8] {
        let (_cluster, mut client, path) = start_outside(Options::new());
        let whole = fs::read(&path).unwrap();
        edit_line(&path, line);
        client.simple_query(RECORD).unwrap_err();
        assert_diverged(&mut client, &path, "does not agree with");
        fs::write(&path, &whole).unwrap();
        wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
        assert!(fs::read(&path).unwrap().starts_with(&whole));
        assert_intact(&mut client);
    }
}

/// How many bytes a process has read so far, from whatever file.
fn bytes_read(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).unwrap()
}

#[test]
fn a_large_file_that_differs_is_not_read_for_each_who_tries_to_record() {
    let (_cluster, mut client, path) = start_outside(Options::new().conf("ledger.block_size = 1000"));
    record_many(&mut client, 60_000);
    wait_for(&mut client, "(SELECT pending_count < 1000 FROM ledger.chain_stats)");
    let worker = worker_pid(&mut client);
    let whole = fs::read(&path).unwrap();
    let size = whole.len() as u64;
    edit_line(&path, 2);
    let before = bytes_read(worker);
    for _ in 0..20 {
        client.simple_query(RECORD).unwrap_err();
    }
    let read = bytes_read(worker) - before;
    assert!(read >= size, "the worker has read {read} of {size} bytes");
    assert!(read < 12 * size, "the worker has read {read} bytes, where the file has {size}");
    assert_diverged(&mut client, &path, "does not agree with");
    // Who repairs is not kept waiting.
    let before = bytes_read(worker);
    let refused = error(&mut client, "SELECT ledger.mirror_catch_up()");
    assert!(all_text(&refused).contains("does not agree with"), "{refused:?}");
    let read = bytes_read(worker) - before;
    assert!(read >= size, "the worker has read {read} of {size} bytes");
    fs::write(&path, &whole).unwrap();
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_intact(&mut client);
}

#[test]
fn a_file_edited_while_the_server_was_down_is_noticed_at_the_start() {
    for how in [Stop::Fast, Stop::Immediate] {
        let (cluster, client, path) = start_outside(Options::new());
        drop(client);
        cluster.stop(how);
        let whole = fs::read(&path).unwrap();
        edit_line(&path, 2);
        cluster.start_again();
        let mut client = cluster.connect("postgres");
        assert_diverged(&mut client, &path, "is inconsistent in itself");
        fs::write(&path, &whole).unwrap();
        wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
        assert_intact(&mut client);
    }
}

#[test]
fn a_second_primary_that_has_written_the_file_is_noticed_by_the_first() {
    let (cluster, mut client, path) = start_outside(Options::new());
    let backup = cluster.scratch_dir().join("backup");
    cluster.base_backup(&backup, &[]);
    record(&mut client);
    drop(client);
    cluster.stop(Stop::Fast);
    // It has the same file, its place beside it, and no lock in its way; it begins a new one.
    let second = Options::new().conf("ledger.block_interval = 1h").start_on_copy_of(&backup);
    let mut client = second.connect("postgres");
    assert_diverged(&mut client, &path, "put back to an older state");
    assert_restarts(&mut client, &path);
    drop(client);
    second.stop(Stop::Fast);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    assert_diverged(&mut client, &path, "another copy of this database has written it");
}

#[test]
fn a_file_of_another_ledger_is_refused() {
    let (_cluster, mut client, path) = start_outside(Options::new());
    let (_other, mut theirs) = start(Options::new());
    record(&mut theirs);
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    copy_file(&file(&mut theirs), &path);
    client.simple_query(RECORD).unwrap_err();
    assert_diverged(&mut client, &path, "it belongs to ledger");
    fs::rename(&aside, &path).unwrap();
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_intact(&mut client);
}

#[test]
fn a_first_line_that_is_no_header_of_this_version_is_said_to_be_what_it_is() {
    let (_cluster, mut client, path) = start_outside(Options::new());
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    let whole = fs::read_to_string(&aside).unwrap();
    for (edited, what) in [
        (format!("\u{feff}{whole}"), "its first line is not the header of a ledger (begins with a byte order mark"),
        (whole.replacen(r#""format": 1"#, r#""format": 2"#, 1), "it has format 2, and this server knows only format 1"),
        (whole.replacen(r#""format": 1"#, r#""format": 0"#, 1), "not the header of a ledger (invalid format"),
    ] {
        write_file(&path, &edited);
        client.simple_query(RECORD).unwrap_err();
        assert_diverged(&mut client, &path, what);
        fs::remove_file(&path).unwrap();
    }
    fs::rename(&aside, &path).unwrap();
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_intact(&mut client);
}

#[test]
fn a_live_file_that_was_cut_behind_its_last_block_is_not_filled_again() {
    let (cluster, mut client, path) = start_outside(Options::new());
    let whole = fs::read(&path).unwrap();
    // The last pending entry's line, whole.
    let cut = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    fs::write(&path, &whole[..cut]).unwrap();
    client.simple_query(RECORD).unwrap_err();
    assert_diverged(&mut client, &path, &format!("it has {cut} bytes, and had at least {}", whole.len()));
    cluster.wait_for_log("worker of database \"postgres\" cannot go on");
    cluster.wait_for_log("ledger.mirror_catch_up() repairs a file that is only behind");
    client.batch_execute("SELECT ledger.mirror_catch_up()").unwrap();
    assert!(fs::read(&path).unwrap().starts_with(&whole));
    record(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_file_that_was_cut_while_the_server_was_down_is_not_filled_again() {
    let (cluster, mut client, path) = start_outside(Options::new());
    // The state beside it is brought up to date within a second.
    let synced = || {
        let state = fs::read_to_string(path.with_extension("state")).unwrap_or_default();
        state.contains(&format!("\"synced\":{},", fs::metadata(&path).unwrap().len()))
    };
    record(&mut client);
    wait_until("the state file is up to date", PATIENCE, synced);
    drop(client);
    cluster.stop(Stop::Fast);
    let whole = fs::read(&path).unwrap();
    let cut = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    fs::write(&path, &whole[..cut]).unwrap();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    assert_diverged(&mut client, &path, &format!("it has {cut} bytes, and had at least {}", whole.len()));
    fs::write(&path, &whole).unwrap();
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_intact(&mut client);
}

#[test]
fn mirror_restart_leaves_the_file_of_another_server_alone() {
    let (_cluster, mut client, path) = start_outside(Options::new());
    // The other server's: it took the name while this one had no file there.
    let content = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, &content).unwrap();
    give_to_server(&path);
    let other = fs::File::open(&path).unwrap();
    other.lock().unwrap();
    let refused = error(&mut client, "SELECT ledger.mirror_restart()");
    assert!(all_text(&refused).contains("another server, or another database of this one, writes it"), "{refused:?}");
    assert!(fs::read(&path).unwrap() == content);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "the file and its state");
}

#[test]
fn a_file_that_was_emptied_is_called_empty() {
    let (_cluster, mut client, path) = start_outside(Options::new());
    let whole = fs::read(&path).unwrap();
    fs::write(&path, "").unwrap();
    // The first that records finds that it was changed, and the worker what has become of it.
    error(&mut client, RECORD);
    assert_diverged(&mut client, &path, "it is empty");
    fs::write(&path, &whole).unwrap();
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_intact(&mut client);
}

#[test]
fn a_restart_that_fails_says_whether_the_old_file_was_renamed() {
    let (_cluster, mut client, path) = start_outside(Options::new());
    let directory = path.parent().unwrap();
    let elsewhere = directory.with_extension("away");
    fs::rename(directory, &elsewhere).unwrap();
    let refused = error(&mut client, "SELECT ledger.mirror_restart()");
    assert!(refused.detail().unwrap().contains("No such file or directory"), "{refused:?}");
    assert!(refused.hint().unwrap().starts_with("Nothing was renamed."), "{refused:?}");
    fs::rename(&elsewhere, directory).unwrap();
    // The new state file cannot be made, as a directory has its name; the mirror file has been renamed by then.
    let state = path.with_extension("state");
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    let refused = error(&mut client, "SELECT ledger.mirror_restart()");
    let detail = refused.detail().unwrap();
    let kept = detail.strip_prefix("the old file is kept as \"").and_then(|rest| rest.split_once('"')).unwrap().0;
    assert!(Path::new(kept).exists() && kept.starts_with(path.to_str().unwrap()), "{refused:?}");
    fs::remove_dir(&state).unwrap();
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_intact(&mut client);
}

#[test]
fn a_file_that_is_merely_behind_is_caught_up_on_demand() {
    let (_cluster, mut client, path) = start_outside(Options::new());
    seal(&mut client);
    let whole = fs::read(&path).unwrap();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    for keep in [1, 3, 6, 8, lines.len() - 1] {
        // Also torn in the middle of the next line.
        let mut cut = lines[..keep].concat();
        cut.extend_from_slice(&lines[keep][..lines[keep].len() / 2]);
        fs::write(&path, &cut).unwrap();
        client.simple_query(RECORD).unwrap_err();
        assert_diverged(&mut client, &path, "bytes, and had at least");
        client.simple_query("SELECT ledger.mirror_catch_up()").unwrap();
        assert_intact(&mut client);
        assert_eq!(ids_in_file(&path), ids_in_table(&mut client));
        record(&mut client);
        assert_intact(&mut client);
        fs::write(&path, &whole).unwrap();
        client.simple_query(RECORD).unwrap_err();
        client.simple_query("SELECT ledger.mirror_catch_up()").unwrap();
    }
    // One that holds what the database does not is no such file.
    edit_line(&path, 2);
    client.simple_query(RECORD).unwrap_err();
    let refused = error(&mut client, "SELECT ledger.mirror_catch_up()");
    assert!(all_text(&refused).contains("is inconsistent in itself"), "{refused:?}");
    assert_restarts(&mut client, &path);
}

#[test]
fn an_older_copy_of_the_file_is_caught_up_with_whatever_state_file_stands_beside_it() {
    let (cluster, mut client, path) = start_outside(Options::new());
    seal(&mut client);
    let state = path.with_extension("state");
    let backup = [&path, &state].map(|file| fs::read(file).unwrap());
    drop(client);
    // Each start attaches the file anew.
    cluster.stop(Stop::Fast);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    record_many(&mut client, 3);
    drop(client);
    cluster.stop(Stop::Fast);
    fs::write(&path, &backup[0]).unwrap();
    fs::write(&state, &backup[1]).unwrap();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    assert_diverged(&mut client, &path, "put back to an older state");
    client.simple_query("SELECT ledger.mirror_catch_up()").unwrap();
    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
    assert_eq!(ids_in_file(&path), ids_in_table(&mut client));
}

#[test]
fn a_deleted_file_is_begun_anew_on_demand() {
    let (_cluster, mut client, path) = start_outside(Options::new());
    fs::remove_file(&path).unwrap();
    client.simple_query(RECORD).unwrap_err();
    assert_diverged(&mut client, &path, "No such file");
    let refused = error(&mut client, "SELECT ledger.mirror_catch_up()");
    assert!(all_text(&refused).contains("No such file"), "{refused:?}");
    assert!(refused.hint().unwrap().ends_with("ledger.mirror_restart() begins a new file."), "{refused:?}");
    assert_restarts(&mut client, &path);
}

#[test]
fn sessions_that_have_the_old_file_open_write_to_the_new_one() {
    let (cluster, mut client, path) = start_outside(Options::new());
    let mut sessions: Vec<Client> = (0..3).map(|_| cluster.connect("postgres")).collect();
    sessions.iter_mut().for_each(|session| drop(record(session)));
    let before = fs::read(&path).unwrap();
    let kept = value(&mut client, "SELECT ledger.mirror_restart()");
    let recorded: Vec<String> = sessions.iter_mut().map(record).collect();
    assert!(fs::read(&kept).unwrap() == before, "the old file was written to");
    let in_file = ids_in_file(&path);
    assert!(recorded.iter().all(|id| in_file.contains(id)), "{recorded:?} in {in_file:?}");
    assert_intact(&mut client);
}

#[test]
fn a_new_file_has_the_lines_of_prepared_transactions_too() {
    let (_cluster, mut client, path) = start_outside(Options::new());
    for name in ["kept", "dropped"] {
        client.batch_execute(&format!("BEGIN; {RECORD}; PREPARE TRANSACTION '{name}'")).unwrap();
    }
    value(&mut client, "SELECT ledger.mirror_restart()");
    assert_eq!(verdict(&mut client)["overall_valid"], true);
    assert_eq!(ids_in_file(&path).len(), ids_in_table(&mut client).len() + 2);
    client.batch_execute("COMMIT PREPARED 'kept'; ").unwrap();
    client.batch_execute("ROLLBACK PREPARED 'dropped'").unwrap();
    wait_until("the line is voided", PATIENCE, || of_type(&lines(&path), "void").len() == 1);
    seal(&mut client);
    assert_intact(&mut client);
    assert_eq!(ids_in_file(&path), ids_in_table(&mut client));
}

#[test]
fn mirror_restart_and_catch_up_are_the_admins_alone_and_have_a_transaction_of_their_own() {
    let (_cluster, mut client, _) = start_outside(Options::new());
    client.batch_execute("CREATE ROLE writer IN ROLE ledger_writer; CREATE ROLE admin IN ROLE ledger_admin").unwrap();
    for function in ["mirror_restart", "mirror_catch_up"] {
        client.batch_execute("SET ROLE writer").unwrap();
        let refused = error(&mut client, &format!("SELECT ledger.{function}()"));
        assert_eq!(*refused.code(), SqlState::INSUFFICIENT_PRIVILEGE);
        client.batch_execute("SET ROLE admin").unwrap();
        let refused = error(&mut client, &format!("BEGIN; {RECORD}; SELECT ledger.{function}()"));
        assert_eq!(*refused.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{refused:?}");
        client.batch_execute("ROLLBACK").unwrap();
        client.simple_query(&format!("SELECT ledger.{function}()")).unwrap();
    }
    client.batch_execute("RESET ROLE").unwrap();
    set(&mut client, "ledger.mirror_mode", "off");
    assert!(all_text(&error(&mut client, "SELECT ledger.mirror_restart()")).contains("the mirror is off"));
}

#[test]
fn a_database_made_from_a_template_gets_a_ledger_and_a_file_of_its_own() {
    let (cluster, mut client, path) = start_outside(Options::new());
    client.batch_execute("CREATE DATABASE other").unwrap();
    let mut other = cluster.connect("other");
    other.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record_many(&mut other, 5);
    seal(&mut other);
    record_many(&mut other, 3);
    let original = file(&mut other);
    let before = (ids_in_table(&mut other), fs::read(&original).unwrap());
    close(other, &mut client);
    client.batch_execute("CREATE DATABASE copy TEMPLATE other").unwrap();
    let mut copy = cluster.connect("copy");
    wait_until("the copy records", PATIENCE, || copy.simple_query(RECORD).is_ok());
    let (own, id) = (file(&mut copy), value(&mut copy, "SELECT ledger_id FROM ledger.log_state"));
    assert!(own != original && own != path);
    assert_eq!(lines(&own)[0]["ledger_id"], *id);
    assert_eq!(lines(&own)[0]["database"], "copy");
    seal(&mut copy);
    assert_intact(&mut copy);
    assert_eq!(ids_in_file(&own), ids_in_table(&mut copy));

    let mut other = cluster.connect("other");
    assert_ne!(value(&mut other, "SELECT ledger_id FROM ledger.log_state"), id);
    assert_eq!((ids_in_table(&mut other), fs::read(&original).unwrap()), before);
    wait_until("the original records", PATIENCE, || other.simple_query(RECORD).is_ok());
    assert_intact(&mut other);
}

#[test]
fn the_file_of_a_renamed_database_is_renamed_with_it() {
    let (cluster, mut client, _) = start_outside(Options::new());
    client.batch_execute("CREATE DATABASE before").unwrap();
    let mut other = cluster.connect("before");
    other.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record_many(&mut other, 3);
    let old = file(&mut other);
    close(other, &mut client);
    client.batch_execute("ALTER DATABASE before RENAME TO \"after\"").unwrap();
    let mut other = cluster.connect("after");
    wait_until("it records", PATIENCE, || other.simple_query(RECORD).is_ok());
    let new = file(&mut other);
    assert!(new.file_name().unwrap().to_str().unwrap().starts_with("after."));
    assert!(!old.exists() && !old.with_extension("state").exists());
    seal(&mut other);
    assert_intact(&mut other);
    assert_eq!(ids_in_file(&new), ids_in_table(&mut other));
}

/// A database that was filled from an export of another is the same ledger, with a file of its own.
#[test]
fn the_file_of_another_database_of_the_same_ledger_is_left_alone() {
    let (cluster, mut client, path) = start_outside(Options::new());
    record_many(&mut client, 3);
    seal(&mut client);
    let export = path.with_extension("export");
    client.batch_execute(&format!("COPY ledger.entries TO '{}' (FORMAT jsonl)", export.display())).unwrap();
    client.batch_execute("CREATE DATABASE restored").unwrap();
    let mut other = cluster.connect("restored");
    other.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    other.batch_execute(&format!("COPY ledger.entries FROM '{}' (FORMAT jsonl)", export.display())).unwrap();
    wait_until("the copy records", PATIENCE, || other.simple_query(RECORD).is_ok());
    let others = file(&mut other);
    drop((client, other));
    for with_state in [true, false] {
        cluster.stop(Stop::Fast);
        fs::remove_file(&path).ok();
        if !with_state {
            fs::remove_file(path.with_extension("state")).ok();
            fs::remove_file(others.with_extension("state")).unwrap();
        }
        let before = fs::read(&others).unwrap();
        cluster.start_again();
        let mut client = cluster.connect("postgres");
        assert_diverged(&mut client, &path, "which belongs to the same ledger, is not used in its place");
        let mut other = cluster.connect("restored");
        wait_until_attached(&mut other);
        assert_eq!(fs::read(&others).unwrap(), before);
        assert_eq!(verdict(&mut other)["overall_valid"], true);
    }
}

#[test]
fn a_writer_process_that_is_terminated_comes_back_and_loses_nothing() {
    // Where commits leave the file to the writer.
    let options = Options::new().env("PG_NOTARY_FAULT_NETWORK_MOUNT", "1");
    let (cluster, mut client, _) = start_outside(options);
    let mut last = 0;
    for _ in 0..4 {
        let title = |pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().contains("pg_notary writer")
        };
        let mut writer = None;
        wait_until("there is another writer", PATIENCE, || {
            writer = children_of(cluster.postmaster()).into_iter().find(title).filter(|pid| *pid != last);
            writer.is_some()
        });
        last = writer.unwrap();
        send(last, libc::SIGTERM);
        record_many(&mut client, 3);
    }
    seal(&mut client);
    assert_intact(&mut client);
}

/// Its state file was written since the server started, and by this server.
#[test]
fn a_database_that_was_closed_for_a_while_goes_on_in_its_file() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE DATABASE closed").unwrap();
    let mut closed = cluster.connect("closed");
    closed.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record(&mut closed);
    let worker = worker_pid(&mut closed);
    drop(closed);
    client.batch_execute("ALTER DATABASE closed ALLOW_CONNECTIONS false").unwrap();
    client.batch_execute(&format!("SELECT pg_terminate_backend({worker})")).unwrap();
    // It keeps its place in shared memory: a session that is in it may record.
    wait_for(&mut client, "(SELECT pid IS NULL AND state = 'wanted' FROM ledger.workers WHERE database = 'closed')");
    client.batch_execute("CREATE DATABASE other").unwrap();
    let mut other = cluster.connect("other");
    other.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record(&mut other);
    client.batch_execute("ALTER DATABASE closed ALLOW_CONNECTIONS true").unwrap();
    let mut closed = cluster.connect("closed");
    record(&mut closed);
    wait_until_attached(&mut closed);
    assert_intact(&mut closed);
    assert_intact(&mut other);
}
