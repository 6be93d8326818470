//! Memory that runs out ends the statement or the session that wanted it, and not the server.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{as_server, wait_until, Cluster, Options};
use postgres::error::SqlState;
use postgres::Client;
use std::collections::BTreeSet;
use std::fs;

/// Locks of sessions that have ended: nobody else uses the table. Those of a process that is gone show as another's,
/// which has its place now.
const ORPHANED: &str = "SELECT count(*) FROM pg_locks WHERE relation = 'rows'::regclass";

/// How a statement ended.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// ERROR of Postgres.
    Postgres,
    /// ERROR of pg_notary.
    Statement,
    /// FATAL of pg_notary.
    Session,
    Done,
}

/// Lets this process grow by at most that much. Not even root may limit the process of another user everywhere.
fn limit(pid: i64, kilobytes: u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let size = status.lines().find(|line| line.starts_with("VmSize:")).unwrap();
    let now: u64 = size.split_whitespace().nth(1).unwrap().parse().unwrap();
    let bytes = (now + kilobytes) * 1024;
    let status = as_server("prlimit").arg(format!("--pid={pid}")).arg(format!("--as={bytes}")).status();
    assert!(status.unwrap().success());
}

fn run_limited(cluster: &Cluster, statement: &str, megabytes: u64) -> Outcome {
    let mut session = cluster.connect("postgres");
    let pid = number(&mut session, "SELECT pg_backend_pid()");
    limit(pid, megabytes * 1024);
    let Err(error) = session.batch_execute(statement) else { return Outcome::Done };
    let Some(error) = error.as_db_error() else {
        // There was not even memory for the message.
        assert!(error.is_closed(), "with {megabytes} MB: {error:?}");
        let ready = "database system is ready to accept connections";
        wait_until("the server is up again", PATIENCE, || cluster.log().matches(ready).count() == 1 + aborts(cluster));
        return Outcome::Session;
    };
    assert_eq!(*error.code(), SqlState::OUT_OF_MEMORY, "{error:?}");
    match (error.severity(), error.detail().unwrap_or_default().contains("in pg_notary")) {
        ("ERROR", false) => Outcome::Postgres,
        ("ERROR", true) => Outcome::Statement,
        ("FATAL", true) => Outcome::Session,
        _ => panic!("{error:?}"),
    }
}

/// How many processes the C library has aborted because it had no memory for itself. Rare, because what it wants is
/// small: README says so.
fn aborts(cluster: &Cluster) -> usize {
    let log = cluster.log();
    ["Fatal glibc error", "cannot allocate memory for thread-local data: ABORT"]
        .map(|text| log.matches(text).count())
        .iter()
        .sum()
}

/// Runs it with more and more memory, until there is enough.
fn outcomes(cluster: &Cluster, statement: &str) -> BTreeSet<Outcome> {
    let mut all = BTreeSet::new();
    for megabytes in (7..1000).step_by(7) {
        all.insert(run_limited(cluster, statement, megabytes));
        if all.contains(&Outcome::Done) {
            return all;
        }
    }
    panic!("there is never enough: {all:?}");
}

fn start_with_bystander() -> (Cluster, Client) {
    // Sealed later, as a whole.
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    client.batch_execute("CREATE TABLE rows (id int PRIMARY KEY, content text)").unwrap();
    client.batch_execute("SELECT ledger.track('rows', keep_image => true)").unwrap();
    client.batch_execute("CREATE TEMPORARY TABLE of_this_session ()").unwrap();
    (cluster, client)
}

#[test]
fn a_session_that_gets_no_memory_ends_alone() {
    let (cluster, mut client) = start_with_bystander();
    let hash = outcomes(&cluster, "SELECT ledger.hash_data(to_jsonb(repeat('x', 20000000)))");
    assert!(hash.contains(&Outcome::Statement), "{hash:?}");
    let insert = outcomes(&cluster, "INSERT INTO rows VALUES (1, repeat('x', 20000000))");
    assert!(insert.contains(&Outcome::Session), "{insert:?}");
    cluster.connect("postgres").batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    let file = outcomes(&cluster, "SELECT ledger.verify_file_integrity()");
    assert!(file.contains(&Outcome::Session), "{file:?}");
    outcomes(&cluster, "SELECT ledger.verify_all()");

    let restarts = cluster.crash_count();
    assert!(restarts == aborts(&cluster) && restarts <= 1, "{}", cluster.log());
    match restarts {
        0 => client.batch_execute("SELECT FROM of_this_session").expect("the bystander's session lives"),
        _ => client = cluster.connect("postgres"),
    }
    wait_until("ended sessions have left no locks", PATIENCE, || number(&mut client, ORPHANED) == 0);
    record(&mut client);
    assert_intact(&mut client);
}

/// What a session keeps for its transaction grows in steps. The session may end in the middle of any of them.
#[test]
fn a_session_that_gets_no_memory_for_its_transaction_leaves_no_locks() {
    let (cluster, mut client) = start_with_bystander();
    let rows = "DO $$ BEGIN FOR i IN 1..%n LOOP INSERT INTO rows VALUES (%f + i, 'x'); END LOOP; END $$";
    let insert = |from: i32, count: i32| rows.replace("%n", &count.to_string()).replace("%f", &from.to_string());
    let mut ended = 0;
    // The list of its commands grows at 16,384 by 256 kB.
    for kilobytes in (64..768).step_by(64) {
        let mut session = cluster.connect("postgres");
        let pid = number(&mut session, "SELECT pg_backend_pid()");
        session.batch_execute(&format!("BEGIN; {}", insert(0, 16_300))).unwrap();
        limit(pid, kilobytes);
        ended += usize::from(session.batch_execute(&insert(20_000, 2_000)).is_err());
        drop(session);
        wait_until("it has left no locks", PATIENCE, || number(&mut client, ORPHANED) == 0);
    }
    assert!(ended > 0, "there was always enough");
    client.batch_execute("SELECT FROM of_this_session").expect("the bystander's session lives");
    record(&mut client);
    assert_intact(&mut client);
}
