//! The server with faults on purpose: see src/postgres/faults.rs for the places.

use super::ledger::*;
use super::{give_to_server, wait_until, Cluster, Options};
use postgres::Client;
use std::fs;
use std::path::PathBuf;
use std::thread;

pub fn fault_file(cluster: &Cluster) -> PathBuf {
    cluster.data_dir().join("pg_notary.fault")
}

pub fn set_fault(cluster: &Cluster, fault: &str) {
    let new = cluster.scratch_dir().join("fault");
    fs::write(&new, fault).unwrap();
    give_to_server(&new);
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

pub fn seal(client: &mut Client) {
    wait_until("sealing works", PATIENCE, || client.simple_query("SELECT * FROM ledger.commit_block()").is_ok());
    wait_until_sealed(client);
}

/// A session that commits while the file hangs, and its pid.
pub fn commit_in_background(cluster: &Cluster, before: &str) -> (thread::JoinHandle<Result<(), postgres::Error>>, i64) {
    let mut session = cluster.connect("postgres");
    session.batch_execute(before).unwrap();
    let pid = number(&mut session, "SELECT pg_backend_pid()");
    let statement = format!("/* waits */ {RECORD}");
    (thread::spawn(move || session.simple_query(&statement).map(|_| ())), pid)
}
