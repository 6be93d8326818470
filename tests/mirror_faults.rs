//! What happens when the mirror file cannot be written: recording fails and says why, nothing is half recorded, and
//! once the cause is gone everything goes on by itself.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::{clear_fault, set_fault};
use crate::common::ledger::*;
use crate::common::{
    as_server, children_of, give_to_server, make_directory, send, wait_until, write_file, Cluster, Options, Stop,
};
use postgres::error::{DbError, SqlState};
use postgres::Client;
use std::ffi::CString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// A ledger whose file is in a directory of its own, `mirror` in the scratch directory.
fn start_in_own_directory(options: Options) -> (Cluster, Client) {
    let cluster = options.conf("ledger.block_interval = 1h").start();
    make_directory(&directory_of(&cluster));
    let mut client = cluster.connect("postgres");
    set(&mut client, "ledger.mirror_directory", &format!("'{}'", directory_of(&cluster).display()));
    client.batch_execute("CREATE EXTENSION pg_notary; CREATE TABLE app (n int)").unwrap();
    record(&mut client);
    (cluster, client)
}

fn directory_of(cluster: &Cluster) -> PathBuf {
    cluster.scratch_dir().join("mirror")
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Puts a new file in place of another.
fn replace(path: &Path, content: &[u8]) {
    let new = path.with_extension("new");
    write_file(&new, content);
    fs::rename(&new, path).unwrap();
}

/// A transaction of the application that also records must fail as a whole, and name path and cause.
#[track_caller]
fn assert_refused(client: &mut Client, path: &Path, cause: &str) {
    assert_refused_for_one_of(client, path, &[cause]);
}

#[track_caller]
fn assert_refused_for_one_of(client: &mut Client, path: &Path, causes: &[&str]) {
    let before = number(client, "SELECT (SELECT count(*) FROM app) + (SELECT count(*) FROM ledger.entries)");
    let refused = error(client, &format!("BEGIN; INSERT INTO app VALUES (1); {RECORD}; COMMIT"));
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(*refused.code(), SqlState::IO_ERROR, "{refused:?}");
    let text = all_text(&refused);
    let is_named = text.contains(path.to_str().unwrap()) && causes.iter().any(|cause| text.contains(cause));
    assert!(is_named, "expected {causes:?} in {text}");
    let is_gone = text.contains("mirror file \"") && text.contains("No such file");
    assert_eq!(is_gone, text.contains("put the file back with its .state file"), "{text}");
    let after = number(client, "SELECT (SELECT count(*) FROM app) + (SELECT count(*) FROM ledger.entries)");
    assert_eq!(before, after, "half recorded");
}

/// Breaks the file of a ledger that is sealed to the end, sees recording fail at first with `at_once` and then, after
/// the worker has had a look, with `then`; repairs it and sees recording go on by itself.
fn survives(at_once: &str, then: &str, break_it: impl Fn(&Path, &mut Client), repair_it: impl Fn(&Path)) {
    let (cluster, mut client) = start_in_own_directory(Options::new());
    record_many(&mut client, 3);
    seal(&mut client);
    let path = file(&mut client);
    let server = cluster.postmaster();

    break_it(&path, &mut client);
    let named = if path.exists() { path.clone() } else { path.parent().unwrap().to_owned() };
    // The worker may have had its look already.
    assert_refused_for_one_of(&mut client, &named, &[at_once, then]);
    for _ in 0..3 {
        assert_refused(&mut client, &named, then);
    }
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    let problem = value(&mut client, "SELECT problem FROM ledger.mirror_status");
    assert!(problem.contains(then) && problem.contains(named.to_str().unwrap()), "{problem}");

    repair_it(&path);
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    wait_for(&mut client, "(SELECT state = 'attached' AND problem IS NULL FROM ledger.mirror_status)");
    seal(&mut client);
    assert_intact(&mut client);
    assert!(cluster.is_running() && cluster.postmaster() == server);
    assert!(!cluster.log().contains("PANIC") && !cluster.log().contains("terminated by signal"));
}

/// The path of the file is looked at again once the last look is 10 ms old.
fn wait_until_refused(client: &mut Client) {
    wait_until("recording is refused", PATIENCE, || client.simple_query(RECORD).is_err());
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("aside")
}

/// Keeps a copy of the file before it is changed.
fn keep(path: &Path) {
    fs::copy(path, aside(path)).unwrap();
}

/// Writes the copy back into the same file.
fn put_back(path: &Path) {
    fs::write(path, fs::read(aside(path)).unwrap()).unwrap();
}

#[test]
fn a_missing_directory_is_reported_and_its_return_noticed() {
    let moved = |path: &Path| path.parent().unwrap().with_extension("unmounted");
    survives(
        "No such file or directory",
        "No such file or directory",
        |path, client| {
            fs::rename(path.parent().unwrap(), moved(path)).unwrap();
            wait_until_refused(client);
        },
        |path| fs::rename(moved(path), path.parent().unwrap()).unwrap(),
    );
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    let (_cluster, mut client) = start_in_own_directory(Options::new());
    let path = file(&mut client);
    let directory = path.parent().unwrap();
    client.simple_query(RECORD).unwrap();
    set_mode(directory, 0o777);
    wait_until_refused(&mut client);
    assert_refused(&mut client, directory, "its mode 0777 lets others write it");
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    // Nor is it accepted by a worker that opens the file anew.
    let worker = worker_pid(&mut client);
    client.batch_execute(&format!("SELECT pg_terminate_backend({worker})")).unwrap();
    wait_until("another worker runs", PATIENCE, || worker_pid(&mut client) != worker);
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    assert_refused(&mut client, directory, "its mode 0777 lets others write it");
    set_mode(directory, 0o700);
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_intact(&mut client);
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    let cause = "its mode 0666 lets others write it";
    survives(cause, cause, |path, _| set_mode(path, 0o666), |path| set_mode(path, 0o600));
}

#[test]
fn a_symbolic_link_is_not_followed() {
    survives(
        "was replaced by another file",
        "symbolic link",
        |path, _| {
            fs::rename(path, aside(path)).unwrap();
            symlink(aside(path), path).unwrap();
        },
        |path| fs::rename(aside(path), path).unwrap(),
    );
}

#[test]
fn a_deleted_file_is_not_made_again() {
    survives(
        "No such file or directory",
        "No such file or directory",
        |path, _| {
            keep(path);
            fs::remove_file(path).unwrap();
        },
        |path| replace(path, &fs::read(aside(path)).unwrap()),
    );
}

#[test]
fn a_file_put_in_its_place_is_refused() {
    survives(
        "was replaced by another file",
        "does not agree with the database",
        |path, _| {
            keep(path);
            replace(path, b"");
        },
        |path| replace(path, &fs::read(aside(path)).unwrap()),
    );
}

#[test]
fn lines_of_another_program_are_refused() {
    survives(
        "was changed by another program",
        "unknown record_type",
        |path, _| {
            keep(path);
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(b"{\"record_type\": \"hello\"}\n").unwrap();
        },
        put_back,
    );
}

#[test]
fn a_truncated_file_is_refused() {
    survives(
        "was changed by another program",
        "does not agree with the database",
        |path, _| {
            keep(path);
            let length = fs::metadata(path).unwrap().len();
            OpenOptions::new().write(true).open(path).unwrap().set_len(length - 10).unwrap();
        },
        put_back,
    );
}

#[test]
fn what_is_put_back_while_the_server_is_down_is_accepted() {
    let (cluster, mut client) = start_in_own_directory(Options::new());
    let path = file(&mut client);
    record_many(&mut client, 3);
    drop(client);
    cluster.stop(Stop::Fast);
    replace(&path, &fs::read(&path).unwrap());
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    record(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_new_file_is_not_used_before_its_name_is_on_disk() {
    let cluster = quiet().start();
    let mut client = cluster.connect("postgres");
    set_fault(&cluster, "sync_directory:errors");
    client.batch_execute("CREATE EXTENSION pg_notary; CREATE TABLE app (n int)").unwrap();
    let directory = cluster.data_dir();
    // The file is there from the first attempt on.
    for _ in 0..3 {
        assert_refused(&mut client, &directory, "could not sync directory");
    }
    clear_fault(&cluster);
    wait_until("recording works", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_intact(&mut client);
}

#[test]
fn commit_block_and_the_writers_do_not_wait_for_a_file_that_is_gone() {
    let (_cluster, mut client) = start_in_own_directory(Options::new());
    let path = file(&mut client);
    fs::rename(&path, aside(&path)).unwrap();
    // Who waited would do so each time; what else a busy machine is at may come once.
    let took = (0..4).map(|_| {
        let since = Instant::now();
        assert_refused(&mut client, &path, "No such file");
        // What it would seal could not be written either.
        error(&mut client, "SELECT * FROM ledger.commit_block()");
        since.elapsed()
    });
    let quickest = took.min().unwrap();
    assert!(quickest < Duration::from_secs(5), "{quickest:?}");
    fs::rename(aside(&path), &path).unwrap();
    wait_until("sealing works again", PATIENCE, || client.simple_query("SELECT * FROM ledger.commit_block()").is_ok());
    wait_until_sealed(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_writer_that_waits_for_the_file_can_be_cancelled() {
    let (cluster, mut client) = start_in_own_directory(Options::new());
    let path = file(&mut client);
    let worker = worker_pid(&mut client);
    fs::rename(&path, aside(&path)).unwrap();
    stop_between_transactions(&mut client, worker);
    // The first finds the file gone; the next waits for the worker to look.
    assert_refused(&mut client, &path, "No such file");
    let mut waiting = cluster.connect("postgres");
    let pid = number(&mut waiting, "SELECT pg_backend_pid()");
    let refused = thread::spawn(move || error(&mut waiting, RECORD));
    wait_for(
        &mut client,
        &format!("(SELECT wait_event IS NOT NULL AND state = 'active' FROM pg_stat_activity WHERE pid = {pid})"),
    );
    client.batch_execute(&format!("SELECT pg_cancel_backend({pid})")).unwrap();
    let refused = in_time("the cancelled writer", || refused.join().unwrap());
    assert_eq!(*refused.code(), SqlState::QUERY_CANCELED);

    send(worker, libc::SIGCONT);
    fs::rename(aside(&path), &path).unwrap();
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 2);
    assert_intact(&mut client);
}

// ---- no room ------------------------------------------------------------------------------------------------------------

const PADDED: &str = "SELECT ledger.hash_and_record('padded', '1', jsonb_build_object('pad', repeat('x', 200000)))";

/// Records until there is no room. Returns the error.
fn fill(client: &mut Client) -> DbError {
    let failed = (0..1000).find_map(|_| client.simple_query(PADDED).err()).expect("the disk never was full");
    failed.as_db_error().expect("the server is up").clone()
}

/// No line lost, none there twice, whether there was room or not.
fn goes_on_when_there_is_room(cluster: &Cluster, client: &mut Client, cause: &str, make_room: impl FnOnce()) {
    let path = file(client);
    let refused = fill(client);
    let text = all_text(&refused);
    assert!(text.contains(path.to_str().unwrap()) && text.contains(cause), "{text}");
    let (code, repair) = match cause {
        "No space left on device" => (SqlState::DISK_FULL, "Make room"),
        _ => (SqlState::IO_ERROR, "Repair the cause"),
    };
    assert!(*refused.code() == code && text.contains(repair), "{refused:?}");
    let entries = number(client, "SELECT count(*) FROM ledger.entries");
    for _ in 0..5 {
        assert!(client.simple_query(PADDED).is_err());
    }
    assert_eq!(number(client, "SELECT count(*) FROM ledger.entries"), entries);
    let mut other = cluster.connect("postgres");
    assert!(other.simple_query("SELECT 1").is_ok(), "the server is down");

    make_room();
    wait_until("recording works again", PATIENCE, || client.simple_query(PADDED).is_ok());
    client.simple_query("SELECT * FROM ledger.commit_block()").unwrap();
    wait_until_sealed(client);
    assert_eq!(number(client, "SELECT count(*) FROM ledger.entries"), entries + 1);
    assert_intact(client);
}

/// Sets the soft limit on the size of files for all processes of the server; those they start inherit it.
fn limit_files(cluster: &Cluster, bytes: &str) {
    let mut processes = children_of(cluster.postmaster());
    processes.push(cluster.postmaster());
    for pid in processes {
        let status =
            as_server("prlimit").args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:")]).status().unwrap();
        assert!(status.success() || !Path::new(&format!("/proc/{pid}")).exists(), "{status}");
    }
}

#[test]
fn a_file_that_may_not_grow_fails_the_transaction_until_it_may() {
    let (cluster, mut client) = start_in_own_directory(Options::new());
    // More than Postgres' own files need; then the mirror is the only one in the way.
    limit_files(&cluster, "20000000");
    goes_on_when_there_is_room(&cluster, &mut client, "File too large", || limit_files(&cluster, "unlimited"));
}

struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts a small file system, where that is allowed.
    fn mount(path: &Path) -> Option<Tmpfs> {
        let name = CString::new(path.to_str().unwrap()).unwrap();
        let options = c"size=3m,mode=700";
        // SAFETY: NUL-terminated strings that outlive the call.
        let result =
            unsafe { libc::mount(c"tmpfs".as_ptr(), name.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast()) };
        (result == 0).then(|| Tmpfs(path.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let name = CString::new(self.0.to_str().unwrap()).unwrap();
        // SAFETY: as above. Lazily: a server may still have its file open.
        unsafe { libc::umount2(name.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_full_disk_fails_the_transaction_until_there_is_room() {
    let cluster = Options::new().conf("ledger.block_interval = 1h").start();
    let directory = directory_of(&cluster);
    make_directory(&directory);
    let Some(mounted) = Tmpfs::mount(&directory) else {
        // What a full disk says is also had without one: see tests/faults.rs.
        eprintln!("skipped: no right to mount a small file system");
        return;
    };
    give_to_server(&directory);
    let ballast = directory.join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let mut client = cluster.connect("postgres");
    set(&mut client, "ledger.mirror_directory", &format!("'{}'", directory.display()));
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    goes_on_when_there_is_room(&cluster, &mut client, "No space left on device", || {
        fs::remove_file(&ballast).unwrap();
    });
    // Before the directory it is in is removed.
    drop(mounted);
}

// ---- a second server ----------------------------------------------------------------------------------------------------

#[test]
fn a_second_server_on_the_same_file_is_kept_out() {
    let (cluster, mut client) = start_in_own_directory(Options::new());
    record_many(&mut client, 3);
    let path = file(&mut client);
    let backup = cluster.scratch_dir().join("backup");
    cluster.base_backup(&backup, &[]);
    let copy = Options::new().start_on_copy_of(&backup);
    let mut second = copy.connect("postgres");
    assert_eq!(file(&mut second), path);
    wait_for(&mut second, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    assert_refused(&mut second, &path, "another server, or another database of this one, writes it");
    assert!(all_text(&error(&mut second, RECORD)).contains("give one of them another ledger.mirror_directory"));

    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);

    // The first has gone on: the file is ahead of the second, which must not touch it, lock or no lock.
    let content = fs::read(&path).unwrap();
    cluster.stop(Stop::Fast);
    wait_until("the lock is free", PATIENCE, || {
        second
            .simple_query(RECORD)
            .is_err_and(|error| all_text(error.as_db_error().unwrap()).contains("does not agree"))
    });
    assert_refused_for_one_of(&mut second, &path, &["which the database does not have", "put back to an older state"]);
    assert!(fs::read(&path).unwrap() == content, "the second server has written the file");
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    record(&mut client);
    assert_intact(&mut client);
}

/// An editor, too, writes a copy and renames it.
#[test]
fn an_edited_copy_in_place_of_the_file_is_compared_with_what_is_pending() {
    let (_cluster, mut client) = start(quiet());
    let id = record(&mut client);
    let path = file(&mut client);
    let content = fs::read_to_string(&path).unwrap();
    let found = |client: &mut Client| {
        column(client, "SELECT concat_ws(' ', source, problem, entry_id) FROM ledger.find_tampering()")
    };
    replace(&path, content.replace("\"entry_type\": \"test\"", "\"entry_type\": \"tost\"").as_bytes());
    assert_eq!(verdict(&mut client)["overall_valid"], false);
    assert_eq!(found(&mut client), [format!("postgres entry_differs {id}")]);
    let without: Vec<&str> = content.split_inclusive('\n').filter(|line| !line.contains(&id)).collect();
    replace(&path, without.concat().as_bytes());
    assert_eq!(verdict(&mut client)["overall_valid"], false);
    assert!(found(&mut client).contains(&format!("file entry_not_in_file {id}")));
    replace(&path, content.as_bytes());
    assert_intact(&mut client);
}

/// The server knows that the file lacks them, and will append them.
#[test]
fn while_the_file_cannot_be_opened_again_entries_recorded_without_it_are_not_called_missing() {
    let (_cluster, mut client) = start_in_own_directory(quiet());
    let path = file(&mut client);
    switch_off(&mut client);
    let ids = record_many(&mut client, 3);
    set_mode(&path, 0o400);
    set(&mut client, "ledger.mirror_mode", "sync");
    wait_for(&mut client, "(SELECT state = 'failed' FROM ledger.mirror_status)");
    let verdict = verdict(&mut client);
    assert_eq!(verdict["overall_valid"], true, "{verdict:#}");
    set_mode(&path, 0o600);
    wait_until_attached(&mut client);
    assert_complete(&mut client);
    assert!(ids.iter().all(|id| ids_in_file(&path).contains(id)));
}
