//! Whatever process is killed, and whenever: what was acknowledged is in the database and in the file, and both are
//! valid without anyone's help.
#![cfg(feature = "cluster-tests")]

mod common;

use common::ledger::*;
use common::{children_of, send, wait_until, Cluster, Options};
use postgres::Client;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Mutex;
use std::thread::{self, sleep};
use std::time::Duration;

const WRITERS: usize = 8;

/// What the writers share with who kills under them.
struct Load<'a> {
    cluster: &'a Cluster,
    stop: AtomicBool,
    acknowledged: Mutex<Vec<String>>,
    count: AtomicUsize,
}

impl Load<'_> {
    /// Records and reconnects until told to stop.
    fn write(&self) {
        while !self.stop.load(Ordering::Acquire) {
            match self.cluster.try_connect("postgres") {
                Ok(client) => self.write_until_killed(client),
                Err(_) => sleep(Duration::from_millis(20)),
            }
        }
    }

    fn write_until_killed(&self, mut client: Client) {
        let several = format!("BEGIN; {RECORD}; {RECORD}; COMMIT");
        for round in 0.. {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let outcome = match round % 8 {
                3 => client.simple_query(&several).map(|_| Vec::new()),
                5 => client.simple_query(&format!("BEGIN; {RECORD}; ROLLBACK")).map(|_| Vec::new()),
                _ => client.query(RECORD, &[]).map(|rows| rows.iter().map(|row| row.get(0)).collect()),
            };
            let Ok(mut ids) = outcome else { return };
            self.count.fetch_add(1, Ordering::AcqRel);
            self.acknowledged.lock().unwrap().append(&mut ids);
        }
    }

    /// Waits until the writers have got through that many transactions more.
    fn wait_for_progress(&self, transactions: usize) {
        let goal = self.count.load(Ordering::Acquire) + transactions;
        wait_until("the writers get on", PATIENCE, || self.count.load(Ordering::Acquire) >= goal);
    }
}

/// Kills with `kill` under load, several times, and looks at what is left.
fn survives(rounds: usize, kill: impl Fn(&Cluster, usize)) {
    let options = Options::new().conf("ledger.block_size = 20").conf("ledger.block_interval = 1s");
    let (cluster, client) = start(options);
    drop(client);
    let load = Load {
        cluster: &cluster,
        stop: AtomicBool::new(false),
        acknowledged: Mutex::new(Vec::new()),
        count: AtomicUsize::new(0),
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(|| load.write())).collect();
        for round in 0..rounds {
            load.wait_for_progress(150);
            kill(&cluster, round);
        }
        load.wait_for_progress(50);
        load.stop.store(true, Ordering::Release);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
    check(&cluster, &load.acknowledged.into_inner().unwrap());
}

fn check(cluster: &Cluster, acknowledged: &[String]) {
    let mut client = cluster.connect("postgres");
    wait_until_sealed(&mut client);
    let in_table = ids_in_table(&mut client);
    let in_file = ids_in_file(&file(&mut client));
    let lost = |ids: &std::collections::BTreeSet<String>| acknowledged.iter().filter(|id| !ids.contains(*id)).count();
    assert_eq!((lost(&in_table), lost(&in_file)), (0, 0), "lost in the table and in the file");
    assert_intact(&mut client);
    record(&mut client);
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    wait_until_sealed(&mut client);
    assert_intact(&mut client);
}

/// The processes of the server whose title contains this.
fn processes(cluster: &Cluster, title: &str) -> Vec<u32> {
    let has_title = |pid: &u32| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.contains(title)
    };
    children_of(cluster.postmaster()).into_iter().filter(has_title).collect()
}

/// Kills one process of that title, as soon as there is one, and waits until the postmaster has started all over.
fn kill_one(cluster: &Cluster, title: &str, which: usize) {
    let mut found = Vec::new();
    wait_until("there is a process to kill", PATIENCE, || {
        found = processes(cluster, title);
        !found.is_empty()
    });
    let restarts = || cluster.log().matches("all server processes terminated; reinitializing").count();
    let before = restarts();
    send(found[which % found.len()], libc::SIGKILL);
    wait_until("the server starts again", PATIENCE, || restarts() > before);
}

#[test]
fn nothing_acknowledged_is_lost_when_a_backend_is_killed() {
    survives(4, |cluster, round| kill_one(cluster, "postgres: postgres postgres", round * 3));
}

#[test]
fn nothing_acknowledged_is_lost_when_the_worker_is_killed() {
    survives(4, |cluster, _| kill_one(cluster, "pg_notary worker", 0));
}

#[test]
fn nothing_acknowledged_is_lost_when_the_postmaster_is_killed() {
    survives(4, |cluster, _| {
        cluster.kill9_postmaster();
        cluster.start_again();
    });
}

#[test]
fn nothing_acknowledged_is_lost_when_everything_is_killed_at_once() {
    survives(6, |cluster, _| {
        cluster.kill9_everything();
        cluster.start_again();
    });
}

#[test]
fn a_launcher_that_is_killed_comes_back() {
    survives(1, |cluster, _| kill_one(cluster, "pg_notary launcher", 0));
}
