//! What the tests of the ledger have in common: recording, reading the file, and the verdicts on both.

use super::program::program;
use super::{has_open, send, wait_until, Cluster, Options};
use postgres::error::{DbError, SqlState};
use postgres::{Client, Error, SimpleQueryMessage};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, sleep, JoinHandle};
use std::time::{Duration, Instant};

/// How long anything may take that has no reason to take long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What another program changes in the file without changing its length is noticed by the next write where the one
/// before is as old as docs/mirror.md says: a tick of the clock that files take their times from, 10 ms at most. Here,
/// twice as old.
pub fn let_a_tick_pass() {
    sleep(Duration::from_millis(20));
}

/// Sealing only where a test asks for it.
pub fn quiet() -> Options {
    Options::new().conf("ledger.block_interval = 1h").conf("ledger.block_size = 10000")
}

/// A cluster with a ledger in the database `postgres`, and a session there.
pub fn start(options: Options) -> (Cluster, Client) {
    let cluster = options.start();
    let mut client = cluster.connect("postgres");
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    (cluster, client)
}

/// The same, with these tables there.
pub fn start_with(tables: &str) -> (Cluster, Client) {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute(tables).unwrap();
    (cluster, client)
}

/// Closes a session, and waits until the server has ended it too.
#[track_caller]
pub fn close(mut session: Client, client: &mut Client) {
    let pid = number(&mut session, "SELECT pg_backend_pid()");
    drop(session);
    wait_for(client, &format!("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})"));
}

// ---- SQL ------------------------------------------------------------------------------------------------------------

/// The first column of all rows, as text.
#[track_caller]
pub fn column(client: &mut Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
    let texts = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    texts.collect()
}

/// The one value that a query gives, as text.
#[track_caller]
pub fn value(client: &mut Client, sql: &str) -> String {
    let mut values = column(client, sql);
    assert_eq!(values.len(), 1, "rows of {sql}");
    values.remove(0)
}

#[track_caller]
pub fn number(client: &mut Client, sql: &str) -> i64 {
    let text = value(client, sql);
    text.parse().unwrap_or_else(|_| panic!("{text} is no number: {sql}"))
}

#[track_caller]
pub fn is_true(client: &mut Client, condition: &str) -> bool {
    value(client, &format!("SELECT coalesce({condition}, false)")) == "t"
}

#[track_caller]
pub fn json(client: &mut Client, sql: &str) -> Value {
    serde_json::from_str(&value(client, sql)).unwrap()
}

/// The error that a statement must give.
#[track_caller]
pub fn error(client: &mut Client, sql: &str) -> DbError {
    match client.simple_query(sql) {
        Ok(_) => panic!("this should have failed: {sql}"),
        Err(error) => error.as_db_error().unwrap_or_else(|| panic!("{error:?}\n{sql}")).clone(),
    }
}

/// Everything an error says.
pub fn all_text(error: &DbError) -> String {
    format!("{}\n{}\n{}", error.message(), error.detail().unwrap_or(""), error.hint().unwrap_or(""))
}

/// Changes a setting and waits until this session has it.
#[track_caller]
pub fn set(client: &mut Client, name: &str, setting: &str) {
    client.batch_execute(&format!("ALTER SYSTEM SET {name} = {setting}")).unwrap();
    reload(client);
}

/// Has the server read its settings again, and waits until this session has.
#[track_caller]
pub fn reload(client: &mut Client) {
    let before = value(client, "SELECT pg_conf_load_time()");
    client.simple_query("SELECT pg_reload_conf()").unwrap();
    wait_until("the settings are read again", PATIENCE, || value(client, "SELECT pg_conf_load_time()") != before);
}

/// Waits until the standby has replayed all that the primary has written.
#[track_caller]
pub fn catch_up(primary: &mut Client, standby: &mut Client) {
    let written = value(primary, "SELECT pg_current_wal_flush_lsn()");
    wait_for(standby, &format!("pg_last_wal_replay_lsn() >= '{written}'"));
}

/// Waits for a condition in SQL.
#[track_caller]
pub fn wait_for(client: &mut Client, condition: &str) {
    wait_until(condition, PATIENCE, || is_true(client, condition));
}

/// Runs a statement that has to wait for a lock. Returns when it waits.
#[track_caller]
pub fn waiting(cluster: &Cluster, mut session: Client, statement: &'static str) -> JoinHandle<Result<(), Error>> {
    let pid = number(&mut session, "SELECT pg_backend_pid()");
    let waiting = thread::spawn(move || session.batch_execute(statement));
    let mut watching = cluster.connect("postgres");
    wait_for(&mut watching, &format!("(SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid})"));
    waiting
}

/// Runs something that must not hang: 20 seconds are enough, less than the server waits for anything before it gives
/// up. Counted are those in which this process runs; in others the server may not run either. Should it hang, this
/// panics; the thread ends when the cluster does.
#[track_caller]
pub fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()).ok());
    for _ in 0..200 {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Err(RecvTimeoutError::Timeout) => {}
            outcome => return outcome.unwrap_or_else(|error| panic!("{what}: {error}")),
        }
    }
    panic!("{what}: it hangs")
}

// ---- recording and sealing ------------------------------------------------------------------------------------------

/// Changes whenever the worker opens the file.
pub const ATTACHMENT: &str = "SELECT mirror_attachment FROM ledger.log_state";

pub const RECORD: &str = "SELECT ledger.hash_and_record('test', '{\"n\": 1}')->>'entry_id'";

pub const SEAL: &str = "SELECT * FROM ledger.commit_block()";

/// Records one entry and returns its id.
#[track_caller]
pub fn record(client: &mut Client) -> String {
    value(client, RECORD)
}

/// Records that many entries in one transaction.
#[track_caller]
pub fn record_many(client: &mut Client, count: usize) -> Vec<String> {
    let call = "ledger.hash_and_record('test', jsonb_build_object('n', n))->>'entry_id'";
    column(client, &format!("SELECT {call} FROM generate_series(1, {count}) n"))
}

/// Has one of two serialisable transactions fail in its commit, after its lines were written; gives the ids that it
/// recorded. Needs a table `skew (n int)`.
#[track_caller]
pub fn fail_a_commit(cluster: &Cluster, entries: usize) -> Vec<String> {
    let mut sessions = [cluster.connect("postgres"), cluster.connect("postgres")];
    for sql in ["BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(n) FROM skew", "INSERT INTO skew VALUES (1)"] {
        sessions.iter_mut().for_each(|session| session.batch_execute(sql).unwrap());
    }
    let ids = record_many(&mut sessions[1], entries);
    sessions[0].batch_execute("COMMIT").unwrap();
    assert_eq!(*error(&mut sessions[1], "COMMIT").code(), SqlState::T_R_SERIALIZATION_FAILURE);
    ids
}

/// Seals all that is pending.
#[track_caller]
pub fn seal(client: &mut Client) {
    client.batch_execute(SEAL).unwrap();
    wait_until_sealed(client);
}

/// Waits until nothing is pending and the lines of all blocks are in the file.
#[track_caller]
pub fn wait_until_sealed(client: &mut Client) {
    wait_for(client, "(SELECT pending_count = 0 FROM ledger.chain_stats)");
    wait_for(client, "(SELECT last_block = block_count FROM ledger.mirror_status, ledger.chain_stats)");
}

/// How many workers there are, of all databases.
pub const WORKERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_notary worker'";

/// The launcher's pid.
pub const LAUNCHER: &str = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_notary launcher'";

/// The worker of this session's database, once it is there.
#[track_caller]
pub fn worker_pid(client: &mut Client) -> u32 {
    let sql =
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_notary worker' AND datname = current_database()";
    let mut pids = Vec::new();
    wait_until("there is a worker", PATIENCE, || {
        pids = column(client, sql);
        !pids.is_empty()
    });
    pids[0].parse().unwrap()
}

/// Stops the worker between two transactions, where it waits and holds no lock that anyone else waits for.
#[track_caller]
pub fn stop_between_transactions(client: &mut Client, worker: u32) {
    stop_where(client, worker, "xact_start IS NULL AND wait_event_type = 'Extension'");
}

/// Stops the writer where it has nothing to do; gives its pid.
#[track_caller]
pub fn stop_writer(client: &mut Client) -> u32 {
    let writer = number(client, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_notary writer'") as u32;
    // Before Postgres 17 an extension cannot name its wait events.
    stop_where(client, writer, "wait_event ~ '^(PgNotaryWriterMain|Extension)$'");
    writer
}

/// Stops a process where pg_stat_activity shows this of it.
#[track_caller]
fn stop_where(client: &mut Client, pid: u32, is_there: &str) {
    let is_there = format!("(SELECT {is_there} FROM pg_stat_activity WHERE pid = {pid})");
    wait_until("the process is stopped there", PATIENCE, || {
        // Elsewhere it may hold a lock that the look below would wait for.
        if !is_true(client, &is_there) {
            return false;
        }
        send(pid, libc::SIGSTOP);
        let is_stopped = is_true(client, &is_there);
        if !is_stopped {
            send(pid, libc::SIGCONT);
        }
        is_stopped
    });
}

#[track_caller]
pub fn wait_until_attached(client: &mut Client) {
    wait_for(client, "(SELECT state = 'attached' FROM ledger.mirror_status)");
}

/// Waits until the worker has noted in the database which file it has opened. Sessions record into it a little earlier.
#[track_caller]
pub fn wait_until_attachment_is_noted(client: &mut Client) {
    wait_for(client, "(SELECT mirror_attachment IS NOT NULL FROM ledger.log_state)");
}

/// Switches the mode and waits until this session has it, and the file is attached if there is to be one. The worker
/// may learn of it later.
#[track_caller]
pub fn switch(client: &mut Client, mode: &str) {
    set(client, "ledger.mirror_mode", mode);
    let state = if mode == "off" { "off" } else { "attached" };
    wait_for(client, &format!("(SELECT mode = '{mode}' AND state = '{state}' FROM ledger.mirror_status)"));
}

/// Switches to mode off and waits until the worker has let the file go, so that the next mode has it open the file
/// again.
#[track_caller]
pub fn switch_off(client: &mut Client) {
    switch(client, "off");
    let (path, worker) = (file(client), worker_pid(client));
    wait_until("the worker has let the file go", PATIENCE, || !has_open(worker, &path));
}

// ---- the file ---------------------------------------------------------------------------------------------------------

/// The mirror file of this session's database.
#[track_caller]
pub fn file(client: &mut Client) -> PathBuf {
    value(client, "SELECT path FROM ledger.mirror_status").into()
}

/// The whole lines of a file.
pub fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

pub fn of_type<'a>(lines: &'a [Value], record_type: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["record_type"] == record_type).collect()
}

/// What the state file beside a file says. Null where it is just being written.
pub fn state_file(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path.with_extension("state")).unwrap()).unwrap_or_default()
}

/// Puts zeros there, as a loss of power does where it undoes a write.
pub fn zero(path: &Path, range: Range<u64>) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0; (range.end - range.start) as usize], range.start).unwrap();
}

/// Whether the state file beside a file says how it is left.
pub fn is_as_noted(path: &Path) -> bool {
    let (found, state) = (fs::metadata(path).unwrap(), state_file(path));
    let times = [("modified", found.mtime(), found.mtime_nsec()), ("changed", found.ctime(), found.ctime_nsec())];
    state["size"] == found.len() && times.iter().all(|(name, s, ns)| state[*name] == s * 1_000_000_000 + ns)
}

/// The ids of the entries of a file that are not voided; none may be there twice.
#[track_caller]
pub fn ids_in_file(path: &Path) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    // In order: an id may be used again once its line is voided.
    for line in lines(path) {
        match line["record_type"].as_str().unwrap() {
            "entry" => assert!(ids.insert(text_of(&line["entry_id"])), "an entry is in the file twice"),
            "void" => line["entry_ids"].as_array().unwrap().iter().for_each(|id| {
                assert!(ids.remove(&text_of(id)), "a void line for an entry that is not there");
            }),
            _ => {}
        }
    }
    ids
}

/// The ids that the void lines of a file name.
pub fn voided_ids(lines: &[Value]) -> Vec<String> {
    let ids = of_type(lines, "void").into_iter().flat_map(|void| void["entry_ids"].as_array().unwrap());
    ids.map(text_of).collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

pub fn ids_in_table(client: &mut Client) -> BTreeSet<String> {
    column(client, "SELECT id FROM ledger.entries").into_iter().collect()
}

/// Waits until the file holds exactly the entries of the table, once what was rolled back is voided.
#[track_caller]
pub fn wait_until_file_has_followed(client: &mut Client) {
    let path = file(client);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (table, file) = (ids_in_table(client), ids_in_file(&path));
        if table == file {
            return;
        }
        let (lost, more): (Vec<_>, Vec<_>) = (table.difference(&file).collect(), file.difference(&table).collect());
        assert!(Instant::now() < deadline, "not in the file: {lost:?}; not in the table: {more:?}");
        sleep(Duration::from_millis(20));
    }
}

// ---- verdicts ---------------------------------------------------------------------------------------------------------

pub fn verdict(client: &mut Client) -> Value {
    json(client, "SELECT ledger.verify_chain()")
}

/// What the command line says of a file: exit status and report.
pub fn cli_verify(path: &Path) -> (i32, Value) {
    cli_verify_with(path, &[])
}

/// The same with further options.
pub fn cli_verify_with(path: &Path, options: &[&str]) -> (i32, Value) {
    let output = program().arg("verify").arg(path).arg("--json").args(options).output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().expect("the program was not killed"), report)
}

/// Both copies are valid, in SQL and offline, hold the same entries, and neither blocks nor leaves have a gap.
#[track_caller]
pub fn assert_intact(client: &mut Client) {
    let verdict = verdict(client);
    assert!(verdict["overall_valid"] == true && verdict["file_chain"]["valid"] == true, "{verdict:#}");
    let path = file(client);
    let (status, report) = cli_verify(&path);
    assert_eq!(status, 0, "{report:#}");
    assert!(ids_in_table(client) == ids_in_file(&path), "the table and the file hold different entries");
    assert_no_gaps(client);
}

/// Everything is sealed, in the file, and in it once.
#[track_caller]
pub fn assert_complete(client: &mut Client) {
    seal(client);
    wait_for(client, "(SELECT last_block = (SELECT max(block_number) FROM ledger.blocks) FROM ledger.mirror_status)");
    let path = file(client);
    assert_eq!(ids_in_file(&path), ids_in_table(client));
    assert_eq!(of_type(&lines(&path), "entry").len(), ids_in_table(client).len(), "an entry stands in the file twice");
    assert_intact(client);
}

/// Block numbers and leaf indexes are 1, 2, 3 ... and 0, 1, 2 ..., and blocks follow each other.
#[track_caller]
pub fn assert_no_gaps(client: &mut Client) {
    let numbers = "SELECT count(*) = coalesce(max(block_number), 0) AND coalesce(min(block_number), 1) = 1 \
                   FROM ledger.blocks";
    assert_eq!(value(client, numbers), "t", "block numbers have a gap");
    let leaves = "SELECT count(*) = coalesce(max(leaf_index) + 1, 0) AND count(*) = count(DISTINCT leaf_index) \
                  AND coalesce(min(leaf_index), 0) = 0 FROM ledger.entries_sealed";
    assert_eq!(value(client, leaves), "t", "leaf indexes have a gap");
    let links = "SELECT count(*) FROM (SELECT *, lag(block_hash) OVER w AS hash_before, lag(tree_size) OVER w AS \
                 size_before FROM ledger.blocks WINDOW w AS (ORDER BY block_number)) AS b \
                 WHERE previous_hash <> coalesce(hash_before, repeat('0', 64)) \
                 OR tree_size - data_count <> coalesce(size_before, 0)";
    assert_eq!(number(client, links), 0, "blocks do not follow each other");
    let counts = "SELECT count(*) FROM ledger.blocks b WHERE data_count <> \
                  (SELECT count(*) FROM ledger.entries_sealed e WHERE e.block_number = b.block_number)";
    assert_eq!(number(client, counts), 0, "a block does not hold what it counts");
}
