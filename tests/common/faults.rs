//! The server with faults on purpose: see src/postgres/faults.rs for the places.

use super::ledger::*;
use super::{wait_until, write_file, Cluster, Options};
use postgres::error::SqlState;
use postgres::{Client, Error};
use std::fs;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

pub fn fault_file(cluster: &Cluster) -> PathBuf {
    cluster.data_dir().join("pg_notary.fault")
}

pub fn set_fault(cluster: &Cluster, fault: &str) {
    let new = cluster.scratch_dir().join("fault");
    write_file(&new, fault);
    fs::rename(&new, fault_file(cluster)).unwrap();
}

pub fn clear_fault(cluster: &Cluster) {
    fs::remove_file(fault_file(cluster)).ok();
}

/// On what the mirror's directory is: a commit writes a file on a local file system itself, and leaves one on a network
/// mount to the writer.
#[derive(Clone, Copy, Debug)]
pub enum Mount {
    Local,
    Network,
}

pub use Mount::{Local, Network};

pub fn start_small(mount: Mount, mode: &str) -> (Cluster, Client) {
    let options = Options::new().conf("ledger.block_interval = 1h").conf("ledger.block_size = 5");
    let options = options.conf(&format!("ledger.mirror_mode = {mode}"));
    start(match mount {
        Local => options,
        Network => options.env("PG_NOTARY_FAULT_NETWORK_MOUNT", "1"),
    })
}

/// Seals all that is pending, where sealing may be refused for a time.
#[track_caller]
pub fn seal_once_it_works(client: &mut Client) {
    wait_until("sealing works", PATIENCE, || client.simple_query(SEAL).is_ok());
    wait_until_sealed(client);
}

/// A session that commits while the file hangs, and its pid.
pub fn commit_in_background(cluster: &Cluster) -> (JoinHandle<Result<(), Error>>, i64) {
    let mut session = cluster.connect("postgres");
    let pid = number(&mut session, "SELECT pg_backend_pid()");
    let statement = format!("/* waits */ {RECORD}");
    (thread::spawn(move || session.simple_query(&statement).map(|_| ())), pid)
}

/// A statement whose statement_timeout runs out while its commit waits for the file. Should it run out before, on a
/// busy machine, the statement is given more time.
pub fn time_out_at_the_file(cluster: &Cluster, statement: &'static str) -> JoinHandle<Result<(), Error>> {
    let mut session = cluster.connect("postgres");
    let is_early = |error: &Error| {
        let error = error.as_db_error().expect("the session lives");
        // Who waited for the file says so in the detail.
        *error.code() == SqlState::QUERY_CANCELED && error.detail().is_none()
    };
    thread::spawn(move || {
        let mut limit = 300;
        loop {
            // For the statement alone: nothing else is to run out of time.
            let limited = format!("SET LOCAL statement_timeout = {limit}; {statement}");
            match session.simple_query(&limited).map(|_| ()) {
                Err(error) if is_early(&error) => limit *= 2,
                outcome => return outcome,
            }
        }
    })
}

/// Waits until a process hangs where a fault says.
#[track_caller]
pub fn wait_until_hanging(pid: u32) {
    let place = format!("/proc/{pid}/wchan");
    wait_until("it hangs", PATIENCE, || fs::read_to_string(&place).is_ok_and(|place| place.contains("nanosleep")));
}

/// The condition that a process waits for the file, or hangs at it.
pub fn waits_for_file(pid: u32) -> String {
    // Before Postgres 17 an extension cannot name its wait events.
    format!("(SELECT wait_event ~ '^(PgNotaryMirror.*|Extension)$' FROM pg_stat_activity WHERE pid = {pid})")
}

/// A session that runs a statement in the background.
pub struct Background {
    pub pid: u32,
    running: JoinHandle<Result<(), Error>>,
}

impl Background {
    pub fn run(cluster: &Cluster, before: &str, statement: &str) -> Background {
        let mut session = cluster.connect("postgres");
        session.batch_execute(before).unwrap();
        Background::run_in(session, statement)
    }

    pub fn run_in(mut session: Client, statement: &str) -> Background {
        let pid = number(&mut session, "SELECT pg_backend_pid()") as u32;
        let statement = statement.to_owned();
        Background { pid, running: thread::spawn(move || session.batch_execute(&statement)) }
    }

    /// One that waits for the file, or hangs at it.
    #[track_caller]
    pub fn waiting(cluster: &Cluster, client: &mut Client, statement: &str) -> Background {
        let background = Background::run(cluster, "", statement);
        background.wait_until_waiting(client);
        background
    }

    #[track_caller]
    pub fn wait_until_waiting(&self, client: &mut Client) {
        wait_for(client, &waits_for_file(self.pid));
    }

    /// Hangs where the fault says: whoever is stopped there is not stopped on the way there.
    #[track_caller]
    pub fn wait_until_hanging(&self) {
        wait_until_hanging(self.pid);
    }

    pub fn is_over(&self) -> bool {
        self.running.is_finished()
    }

    #[track_caller]
    pub fn ends(self) -> Result<(), Error> {
        in_time("a statement", move || self.running.join().unwrap())
    }

    #[track_caller]
    pub fn cancel(self, client: &mut Client) {
        client.batch_execute(&format!("SELECT pg_cancel_backend({})", self.pid)).unwrap();
        assert_eq!(self.ends().unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    }

    /// What the error says that it ends with.
    #[track_caller]
    pub fn fails(self) -> String {
        all_text(self.ends().unwrap_err().as_db_error().expect("the session lives"))
    }
}

/// Recording and sealing work, nothing is in the file but lines, and it and the tables agree.
#[track_caller]
pub fn assert_whole(cluster: &Cluster, client: &mut Client) {
    Background::run(cluster, "SET statement_timeout = '25s'", RECORD).ends().unwrap();
    seal_once_it_works(client);
    assert!(!fs::read(file(client)).unwrap().contains(&0), "zeros in the file");
    assert_intact(client);
    assert!(ids_in_table(client).is_subset(&ids_in_file(&file(client))), "an entry without its line");
}

/// Ends the worker, and waits until it is gone.
#[track_caller]
pub fn terminate_worker(client: &mut Client) {
    let worker = worker_pid(client);
    client.batch_execute(&format!("SELECT pg_terminate_backend({worker})")).unwrap();
    wait_for(client, &format!("(SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {worker})"));
}
