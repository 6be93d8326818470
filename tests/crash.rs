//! Whatever process is killed, and whenever: what was acknowledged is in the database and in the file, nothing is half
//! there, and both are valid without anyone's help. Looked at after every restart, not only at the end. The same while
//! the mirror's mode changes, and processes end in the regular way.
//!
//! Each test has `PG_NOTARY_TEST_CRASH_ROUNDS` rounds, 12 unless set. The moments are random; a test that fails shows
//! its `PG_NOTARY_TEST_SEED`, which repeats them as far as a race can be repeated.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::random::Random;
use crate::common::stop_at_end::StopAtEnd;
use crate::common::{children_of, kill, send, wait_until, Cluster, Options, Stop};
use postgres::error::SqlState;
use postgres::{Client, Error, SimpleQueryMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, sleep};
use std::time::Duration;

const WRITERS: usize = 8;

/// Whether the writers also commit in two phases. What they record then may be prepared when the server is killed; the
/// check decides it.
const TWO_PHASE: bool = true;

fn rounds() -> usize {
    let rounds = std::env::var("PG_NOTARY_TEST_CRASH_ROUNDS").map(|text| text.parse().expect("a number of rounds"));
    rounds.unwrap_or(12)
}

// ---- the mirror's modes -------------------------------------------------------------------------------------------------

/// A mirror mode, and what is promised of the file in it.
#[derive(Clone, Copy)]
struct Mode {
    setting: &'static str,
    /// In SQL: when the file must hold all that is committed. In sync mode that is always.
    is_caught_up: &'static str,
    /// Whether it changes. Then the lag does not count what was committed without a file.
    changes: bool,
}

const SYNC: Mode = Mode { setting: "sync", is_caught_up: "true", changes: false };
const WRITE: Mode = Mode { setting: "write", is_caught_up: "true", changes: false };
const ASYNC: Mode =
    Mode { setting: "async", is_caught_up: "(SELECT lag_entries = 0 FROM ledger.mirror_status)", changes: false };
/// Begins in mode sync, and ends each round in any mode that has a file.
const CHANGING: Mode = Mode { setting: "sync", changes: true, ..ASYNC };

// ---- what the writers do ------------------------------------------------------------------------------------------------

/// Every transaction inserts the row (marker, entries) into the tracked table `app` and records as many entries that
/// have its marker in their metadata. What it rolls back has the marker `dropped`.
const SCHEMA: &str = "
CREATE TABLE app (marker text PRIMARY KEY, entries int NOT NULL);
SELECT ledger.track('app');
CREATE TABLE skew (n int);
CREATE FUNCTION app(marker text, entries int) RETURNS void LANGUAGE sql AS $$INSERT INTO app VALUES ($1, $2)$$;
CREATE FUNCTION rec(marker text, entries int) RETURNS void LANGUAGE sql AS $$
    SELECT ledger.hash_and_record('test', to_jsonb(n), jsonb_build_object('marker', marker))
    FROM generate_series(1, entries) n
$$;
CREATE FUNCTION rec_and_drop(marker text, entries int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..entries LOOP
        PERFORM rec(marker, 1);
        BEGIN
            PERFORM rec('dropped', 2);
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN
        END;
    END LOOP;
END $$;";

/// The transactions of the writers, each in one or more round trips. `:M` is the marker, `:N` a number of entries.
const SHAPES: [&[&str]; 9] = [
    &["SELECT app(:M, :N), rec(:M, :N)"],
    &["BEGIN; SELECT app(:M, :N); SELECT rec(:M, :N); COMMIT"],
    &["BEGIN", "SELECT rec(:M, :N)", "SELECT app(:M, :N)", "COMMIT"],
    &[
        "BEGIN; SELECT app(:M, :N); SAVEPOINT a; SELECT rec('dropped', 3); ROLLBACK TO a",
        "SAVEPOINT b; SELECT rec(:M, :N); SAVEPOINT c; SELECT rec('dropped', 2); ROLLBACK TO c; RELEASE b; COMMIT",
    ],
    &["SELECT app(:M, :N), rec_and_drop(:M, :N)"],
    &["BEGIN; SELECT app('dropped', 4), rec('dropped', 4)", "ROLLBACK"],
    // Of several of these at once all but one fail, most of them at their commit, after their lines were written.
    &[
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(n) FROM skew; INSERT INTO skew VALUES (1)",
        "SELECT app(:M, :N), rec(:M, :N)",
        "COMMIT",
    ],
    &["WITH recorded AS (INSERT INTO ledger.entries (entry_type, data_hash, metadata) \
       SELECT 'test', ledger.hash_data(to_jsonb(n)), jsonb_build_object('marker', :M) \
       FROM generate_series(1, 10 * :N) n RETURNING id) SELECT app(:M, count(*)::int) FROM recorded"],
    &["BEGIN; SELECT app(:M, :N), rec(:M, :N); SELECT ledger.commit_block(); COMMIT"],
];

/// One more, if [`TWO_PHASE`]. The prepared transaction has the marker's name.
const TWO_PHASE_SHAPE: &[&str] =
    &["BEGIN; SELECT app(:M, :N), rec(:M, :N)", "PREPARE TRANSACTION :M", "COMMIT PREPARED :M"];

/// Markers of transactions, by what the server has said of them. Of others it may have done either.
#[derive(Default)]
struct Told {
    committed: Vec<String>,
    prepared: Vec<String>,
    failed: Vec<String>,
}

/// What the writers share with who kills under them.
struct Load {
    cluster: Cluster,
    mode: Mode,
    random: Mutex<Random>,
    told: Mutex<Told>,
    /// Transactions begun, and ended one way or the other.
    begun: AtomicUsize,
    ended: AtomicUsize,
    /// From before the kill on.
    is_killed: AtomicBool,
    stop: AtomicBool,
}

impl Load {
    fn start(test: &str, mode: Mode) -> Load {
        let options = Options::new().conf("ledger.block_size = 20").conf("ledger.block_interval = 1s");
        let (cluster, mut client) = start(options.conf(&format!("ledger.mirror_mode = {}", mode.setting)));
        client.batch_execute(SCHEMA).unwrap();
        Load {
            cluster,
            mode,
            random: Mutex::new(Random::new(test)),
            told: Mutex::default(),
            begun: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            is_killed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    fn random(&self) -> MutexGuard<'_, Random> {
        self.random.lock().unwrap()
    }

    /// Writes until it is told to stop, in a new session whenever one has ended.
    fn write(&self) {
        let mut random = self.random().split();
        let goes_on = || !self.stop.load(Ordering::Acquire);
        while goes_on() {
            let Ok(mut client) = self.cluster.try_connect("postgres") else {
                sleep(Duration::from_millis(5));
                continue;
            };
            while goes_on() && self.run_one(&mut client, &mut random).is_ok() {
                self.ended.fetch_add(1, Ordering::AcqRel);
            }
        }
    }

    /// Runs one transaction; an error if that has cost the session.
    fn run_one(&self, client: &mut Client, random: &mut Random) -> Result<(), Error> {
        let shape = if TWO_PHASE && random.one_in(8) { TWO_PHASE_SHAPE } else { *random.pick(&SHAPES) };
        let marker = format!("m{}", self.begun.fetch_add(1, Ordering::AcqRel));
        let entries = (1 + random.below(4)).to_string();
        for step in shape {
            let sql = step.replace(":M", &format!("'{marker}'")).replace(":N", &entries);
            match client.batch_execute(&sql) {
                Ok(()) if sql.starts_with("PREPARE") => self.told.lock().unwrap().prepared.push(marker.clone()),
                Ok(()) => {}
                Err(error) if self.may_fail(&error) => {
                    self.told.lock().unwrap().failed.push(marker);
                    return client.batch_execute("ROLLBACK");
                }
                Err(error) => {
                    assert!(is_end_of_session(&error), "{error:?}\n{sql}");
                    return Err(error);
                }
            }
        }
        let mut told = self.told.lock().unwrap();
        let list = if shape.last() == Some(&"ROLLBACK") { &mut told.failed } else { &mut told.committed };
        list.push(marker);
        Ok(())
    }

    /// Whether a transaction may be refused so, and the session go on: in an orphan of the postmaster that has sealed,
    /// for one, which nobody opens the file for any more; or where it would seal what was recorded in another mode, and
    /// the file has not got it yet.
    fn may_fail(&self, error: &Error) -> bool {
        let is_killed = self.is_killed.load(Ordering::Acquire);
        let of_the_file = [SqlState::IO_ERROR, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE];
        error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE)
            || is_killed && error.code().is_some_and(|code| of_the_file.contains(code))
    }

    /// Waits until the writers have got through some transactions, or in later rounds none, and a little longer.
    fn wait_for_random_moment(&self) {
        let (transactions, delay) = {
            let mut random = self.random();
            let is_first = self.ended.load(Ordering::Acquire) == 0;
            let transactions = if !is_first && random.one_in(4) { 0 } else { 1 + random.below(150) };
            (transactions, Duration::from_micros(random.below(20_000) as u64))
        };
        self.wait_for_transactions(transactions);
        sleep(delay);
    }

    fn wait_for_transactions(&self, number: usize) {
        let goal = self.ended.load(Ordering::Acquire) + number;
        wait_until("the writers get on", PATIENCE, || self.ended.load(Ordering::Acquire) >= goal);
    }
}

/// A killed server ends a session; it does not give an error of another kind.
fn is_end_of_session(error: &Error) -> bool {
    let ends = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
    error.code().is_none_or(|code| ends.contains(code))
}

/// Kills with `kill` under load, and looks at what is left each time.
fn survives(test: &str, mode: Mode, rounds: usize, kill: impl Fn(&Load, &mut Random)) {
    let load = Load::start(test, mode);
    for _ in 0..rounds {
        thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(|| load.write())).collect();
            let stop_at_end = StopAtEnd(&load.stop);
            load.wait_for_random_moment();
            load.is_killed.store(true, Ordering::Release);
            // Its own: a writer that has still to begin would wait for the common one as long as this waits for a
            // writer.
            let mut random = load.random().split();
            kill(&load, &mut random);
            drop(stop_at_end);
            writers.into_iter().for_each(|writer| writer.join().unwrap());
        });
        load.is_killed.store(false, Ordering::Release);
        load.stop.store(false, Ordering::Release);
        load.check();
    }
    load.finish();
}

// ---- what must hold after each restart ----------------------------------------------------------------------------------

/// What the server says when it opens the file and finds that somebody has removed a row, or put one in.
const TAKEN_FOR_TAMPERING: [&str; 2] = ["although its transaction was not rolled back", "that should have had one"];

/// How many entries each transaction has, by its marker.
type Counts = BTreeMap<String, i64>;

impl Load {
    /// Looks at everything, with no writer about.
    fn check(&self) {
        let mut client = self.cluster.reconnect();
        // At once: what recovery has still to do is no tampering.
        assert_valid(&mut client);
        wait_until_attached(&mut client);
        self.decide_prepared(&mut client);
        wait_for(&mut client, self.mode.is_caught_up);
        if self.mode.changes {
            wait_until_file_has_followed(&mut client);
        }

        // The row itself is one more entry.
        let app = counts(&mut client, "SELECT marker, entries + 1 FROM app");
        let marker = "coalesce(metadata->>'marker', metadata->'key'->>'marker')";
        let table = counts(&mut client, &format!("SELECT {marker}, count(*) FROM ledger.entries GROUP BY 1"));
        assert_same("table app", &app, "ledger.entries", &table);
        let path = file(&mut client);
        assert_same("ledger.entries", &table, "the file", &counts_in_file(&path));
        self.assert_as_told(&app);
        assert_intact(&mut client);
    }

    /// Ends what was prepared when the server was killed, and waits until the file has followed.
    fn decide_prepared(&self, client: &mut Client) {
        let prepared = column(client, "SELECT gid FROM pg_prepared_xacts");
        let committed: BTreeSet<String> = column(client, "SELECT marker FROM app").into_iter().collect();
        let told = std::mem::take(&mut self.told.lock().unwrap().prepared);
        let lost: Vec<_> = told.iter().filter(|gid| !prepared.contains(gid) && !committed.contains(*gid)).collect();
        assert!(lost.is_empty(), "prepared, and gone: {lost:?}");
        for gid in &prepared {
            let end = if self.random().one_in(2) { "COMMIT" } else { "ROLLBACK" };
            client.batch_execute(&format!("{end} PREPARED '{gid}'")).unwrap();
        }
        if !prepared.is_empty() {
            wait_until_file_has_followed(client);
        }
    }

    fn assert_as_told(&self, app: &Counts) {
        let told = self.told.lock().unwrap();
        let lost: Vec<_> = told.committed.iter().filter(|marker| !app.contains_key(*marker)).collect();
        assert!(lost.is_empty(), "acknowledged, and gone: {lost:?}");
        let risen: Vec<_> = told.failed.iter().filter(|marker| app.contains_key(*marker)).collect();
        assert!(risen.is_empty(), "failed, and there: {risen:?}");
    }

    /// The server goes on, and in the end everything is sealed.
    fn finish(&self) {
        let mut client = self.cluster.reconnect();
        record(&mut client);
        seal(&mut client);
        assert_intact(&mut client);
        let told = self.told.lock().unwrap();
        let voids = of_type(&lines(&file(&mut client)), "void").len();
        eprintln!("{} transactions committed, {} failed, {voids} void lines", told.committed.len(), told.failed.len());
        assert!(!told.committed.is_empty(), "nothing was put to the test");
        let log = self.cluster.log();
        assert!(!TAKEN_FOR_TAMPERING.iter().any(|text| log.contains(text)) && !log.contains("PANIC"), "{log}");
    }
}

#[track_caller]
fn assert_valid(client: &mut Client) {
    let verdict = verdict(client);
    assert!(verdict["overall_valid"] == true, "{verdict:#}");
}

fn counts(client: &mut Client, sql: &str) -> Counts {
    let rows = client.simple_query(sql).unwrap();
    let rows = rows.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1)?.parse().unwrap())),
        _ => None,
    });
    rows.collect()
}

/// The same of the lines of a file that are not voided. What was rolled back before its commit has no line at all.
fn counts_in_file(path: &Path) -> Counts {
    let (ids, lines) = (ids_in_file(path), lines(path));
    let mut counts = Counts::new();
    for entry in of_type(&lines, "entry") {
        let metadata = &entry["metadata"];
        let Some(marker) = metadata["marker"].as_str().or(metadata["key"]["marker"].as_str()) else { continue };
        assert_ne!(marker, "dropped", "{entry}");
        if ids.contains(entry["entry_id"].as_str().unwrap()) {
            *counts.entry(marker.to_owned()).or_default() += 1;
        }
    }
    counts
}

#[track_caller]
fn assert_same(name: &str, counts: &Counts, other_name: &str, others: &Counts) {
    let differs = |(marker, count): &(&String, &i64)| others.get(*marker) != Some(count);
    let ours: Counts = counts.iter().filter(differs).map(|(marker, count)| (marker.clone(), *count)).collect();
    let differs = |(marker, count): &(&String, &i64)| counts.get(*marker) != Some(count);
    let theirs: Counts = others.iter().filter(differs).map(|(marker, count)| (marker.clone(), *count)).collect();
    assert!(ours.is_empty() && theirs.is_empty(), "{name} has {ours:?}, {other_name} has {theirs:?}");
}

// ---- killing ------------------------------------------------------------------------------------------------------------

/// The processes of the server whose title contains this.
fn processes(cluster: &Cluster, title: &str) -> Vec<u32> {
    let has_title = |pid: &u32| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.contains(title)
    };
    children_of(cluster.postmaster()).into_iter().filter(has_title).collect()
}

/// Kills one process of that title, as soon as there is one, and waits until the postmaster has started all over.
fn kill_one(Load { cluster, .. }: &Load, title: &str, random: &mut Random) {
    let before = cluster.crash_count();
    // A session that has just been closed may end before it is killed, which leaves the server as it was.
    wait_until("a process is killed", PATIENCE, || {
        let found = processes(cluster, title);
        !found.is_empty() && kill(*random.pick(&found))
    });
    wait_until("the server starts again", PATIENCE, || cluster.crash_count() > before);
}

/// Starts the server, and once in a while kills it again while it recovers.
fn start_again(Load { cluster, .. }: &Load, random: &mut Random) {
    cluster.start_again();
    if random.one_in(3) {
        sleep(Duration::from_micros(random.below(50_000) as u64));
        cluster.kill9_everything();
        cluster.start_again();
    }
}

fn kill_backend(load: &Load, random: &mut Random) {
    kill_one(load, "postgres: postgres postgres", random);
}

/// Kills the worker, and once in a while the next one too, while it recovers.
fn kill_worker(load: &Load, random: &mut Random) {
    kill_one(load, "pg_notary worker", random);
    if random.one_in(3) {
        kill_one(load, "pg_notary worker", random);
    }
}

fn kill_postmaster(load: &Load, random: &mut Random) {
    load.cluster.kill9_postmaster();
    start_again(load, random);
}

fn kill_everything(load: &Load, random: &mut Random) {
    load.cluster.kill9_everything();
    start_again(load, random);
}

#[test]
fn nothing_acknowledged_is_lost_when_a_backend_is_killed() {
    survives("backend", SYNC, rounds(), kill_backend);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_worker_is_killed() {
    survives("worker", SYNC, rounds(), kill_worker);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_postmaster_is_killed() {
    survives("postmaster", SYNC, rounds(), kill_postmaster);
}

#[test]
fn nothing_acknowledged_is_lost_when_everything_is_killed_at_once() {
    survives("everything", SYNC, rounds(), kill_everything);
}

#[test]
fn a_launcher_that_is_killed_comes_back() {
    survives("launcher", SYNC, 2, |load, random| kill_one(load, "pg_notary launcher", random));
}

/// Each way of killing in turn.
fn kill_something(load: &Load, random: &mut Random) {
    random.pick(&[kill_backend, kill_worker, kill_postmaster, kill_everything])(load, random);
}

#[test]
fn nothing_acknowledged_is_lost_in_mode_write() {
    survives("write", WRITE, rounds(), kill_something);
}

#[test]
fn nothing_acknowledged_is_lost_in_mode_async() {
    survives("async", ASYNC, rounds(), kill_something);
}

// ---- changes that kill nothing ------------------------------------------------------------------------------------------

/// Ends a process of that title in the regular way, if there is one.
fn end_one(load: &Load, title: &str, random: &mut Random) {
    let found = processes(&load.cluster, title);
    if !found.is_empty() {
        send(*random.pick(&found), libc::SIGTERM);
    }
}

fn end_worker(load: &Load, random: &mut Random) {
    end_one(load, "pg_notary worker", random);
}

fn end_writer(load: &Load, random: &mut Random) {
    end_one(load, "pg_notary writer", random);
}

fn end_backend(load: &Load, random: &mut Random) {
    end_one(load, "postgres: postgres postgres", random);
}

fn restart(load: &Load, _: &mut Random) {
    load.cluster.restart(Stop::Fast);
}

fn change_mode(load: &Load, random: &mut Random) {
    set_mode(&load.cluster, random.pick::<&str>(&["sync", "write", "async", "off"]));
}

fn set_mode(cluster: &Cluster, mode: &str) {
    cluster.add_conf(&format!("ledger.mirror_mode = {mode}"));
    cluster.reload();
}

/// Some changes, one after the other, while the writers go on; in the end there is a file.
fn change_something(load: &Load, random: &mut Random) {
    for _ in 0..1 + random.below(6) {
        random.pick(&[change_mode, end_worker, end_writer, end_backend, restart])(load, random);
        // At once, or when the writers have got through some.
        load.wait_for_transactions(random.below(3) * random.below(50));
    }
    set_mode(&load.cluster, random.pick::<&str>(&["sync", "write", "async"]));
}

#[test]
fn nothing_acknowledged_is_lost_while_the_mode_changes_and_processes_end() {
    survives("changes", CHANGING, rounds(), change_something);
}

#[test]
fn nothing_acknowledged_is_lost_when_processes_are_killed_while_the_mode_changes() {
    survives("changes and kills", CHANGING, rounds(), |load, random| {
        change_something(load, random);
        kill_something(load, random);
    });
}
