//! What the tests of two-phase commit have in common: preparing, deciding, and what must hold before and after.

use super::ledger::*;
use super::{wait_until, Cluster, Stop};
use postgres::Client;

/// Sealing only where a test asks for it.
pub fn start_quiet() -> (Cluster, Client) {
    let (cluster, mut client) = start(quiet());
    client.batch_execute("CREATE TABLE app (n int); CREATE TABLE skew (n int)").unwrap();
    wait_until_attached(&mut client);
    (cluster, client)
}

/// Prepares a transaction that records that many entries; returns their ids.
#[track_caller]
pub fn prepare(client: &mut Client, gid: &str, entries: usize) -> Vec<String> {
    client.batch_execute("BEGIN; INSERT INTO app VALUES (1)").unwrap();
    let ids = record_many(client, entries);
    client.batch_execute(&format!("PREPARE TRANSACTION '{gid}'")).unwrap();
    ids
}

#[track_caller]
pub fn decide(client: &mut Client, end: &str, gid: &str) {
    client.batch_execute(&format!("{end} PREPARED '{gid}'")).unwrap();
}

/// What may happen between PREPARE and the decision.
#[derive(Clone, Copy, Debug)]
pub enum Meanwhile {
    Nothing,
    Restart,
    Crash,
}

pub const MEANWHILE: [Meanwhile; 3] = [Meanwhile::Nothing, Meanwhile::Restart, Meanwhile::Crash];

impl Meanwhile {
    /// Lets it happen, and gives a session of afterwards.
    pub fn happen(self, cluster: &Cluster, client: Client) -> Client {
        match self {
            Meanwhile::Nothing => return client,
            Meanwhile::Restart => {
                drop(client);
                cluster.restart(Stop::Fast);
            }
            Meanwhile::Crash => {
                cluster.kill9_everything();
                cluster.start_again();
            }
        }
        let mut client = cluster.connect("postgres");
        // Before recovery has looked at the file, too.
        assert_valid(&mut client);
        wait_until_attached(&mut client);
        client
    }
}

#[track_caller]
pub fn assert_valid(client: &mut Client) {
    let verdict = verdict(client);
    assert!(verdict["overall_valid"] == true && verdict["file_chain"]["valid"] == true, "{verdict:#}");
    let (status, report) = cli_verify(&file(client));
    assert_eq!(status, 0, "{report:#}");
}

/// The lines are there once, no void line names them, nobody sees the rows, and all is valid.
#[track_caller]
pub fn assert_undecided(client: &mut Client, ids: &[String]) {
    let (in_file, in_table) = (ids_in_file(&file(client)), ids_in_table(client));
    for id in ids {
        assert!(in_file.contains(id), "the line of {id} is not there, or voided");
        assert!(!in_table.contains(id), "{id} is not decided, and seen");
    }
    assert_valid(client);
}

/// All entries recorded are these, in table and file, and sealing takes them in.
#[track_caller]
pub fn assert_only_these_are_sealed(client: &mut Client, ids: &[&[String]]) {
    wait_until_file_has_followed(client);
    assert_valid(client);
    seal(client);
    let ids = ids.concat().into_iter().collect();
    assert_eq!(ids_in_table(client), ids);
    assert_eq!(number(client, "SELECT count(*) FROM ledger.entries_sealed"), ids.len() as i64);
    assert_intact(client);
}

/// The number of lines of the file that are an entry's, and of ids that are voided.
pub fn lines_and_voids(client: &mut Client) -> (usize, usize) {
    let lines = lines(&file(client));
    (of_type(&lines, "entry").len(), voided_ids(&lines).len())
}

#[track_caller]
pub fn wait_for_voids(client: &mut Client, count: usize) {
    let path = file(client);
    wait_until("the void lines are there", PATIENCE, || voided_ids(&lines(&path)).len() == count);
}
