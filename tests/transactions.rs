//! Whatever the shape of a transaction, the file gets the lines of what it committed, and nothing of what it did not:
//! what is rolled back before the commit has no line at all, what fails in the commit itself is voided.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::random::Random;
use crate::common::stop_at_end::StopAtEnd;
use crate::common::transactions::*;
use crate::common::wire::Wire;
use crate::common::{Cluster, Options};
use postgres::error::SqlState;
use postgres::{Client, Error};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

// ---- what happens in a commit -------------------------------------------------------------------------------------------

#[test]
fn an_entry_recorded_again_after_its_commit_failed_is_there_once() {
    let (cluster, mut client) = start_quiet();
    let append = |entry_type: &str| {
        format!("SELECT ledger.append_entry('{entry_type}', '0188ffff-0000-7000-8000-000000000001', repeat('ab', 32))")
    };
    let mut sessions = [cluster.connect("postgres"), cluster.connect("postgres")];
    for (session, record) in sessions.iter_mut().zip(["SELECT keep()", &append("drop")]) {
        let sql = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(n) FROM skew; INSERT INTO skew VALUES (1)";
        session.batch_execute(&format!("{sql}; {record}")).unwrap();
    }
    sessions[0].batch_execute("COMMIT").unwrap();
    assert_eq!(*error(&mut sessions[1], "COMMIT").code(), SqlState::T_R_SERIALIZATION_FAILURE);
    sessions[1].batch_execute(&append("keep")).unwrap();
    let lines = lines(&file(&mut client));
    let types: Vec<&str> = lines.iter().map(|line| line["record_type"].as_str().unwrap()).collect();
    assert_eq!(types, ["ledger", "entry", "entry", "void", "entry"]);
    assert_eq!(lines[3]["entry_ids"], serde_json::json!([lines[2]["entry_id"]]));
    assert_eq!((&lines[2]["entry_type"], &lines[4]["entry_type"]), (&"drop".into(), &"keep".into()));
    seal(&mut client);
    assert_eq!(verdict(&mut client)["overall_valid"], true);
    assert_eq!(cli_verify(&file(&mut client)).0, 0);
    assert_no_gaps(&mut client);
}

#[test]
fn a_deferred_constraint_that_fails_leaves_no_line() {
    let (_cluster, mut client) = start_quiet();
    let twice = "BEGIN; SELECT drop(); INSERT INTO checked VALUES (1), (1); COMMIT";
    assert_eq!(*error(&mut client, twice).code(), SqlState::UNIQUE_VIOLATION);
    assert_recorded(&mut client, 0, 0);
    // One that is made to look earlier fails there, and a savepoint saves the rest.
    client
        .batch_execute("BEGIN; SELECT keep(); SAVEPOINT a; SELECT drop(); INSERT INTO checked VALUES (1), (1)")
        .unwrap();
    assert_eq!(*error(&mut client, "SET CONSTRAINTS ALL IMMEDIATE").code(), SqlState::UNIQUE_VIOLATION);
    client.batch_execute("ROLLBACK TO a; COMMIT").unwrap();
    assert_recorded(&mut client, 1, 0);
}

#[test]
fn what_a_deferred_trigger_records_in_the_commit_is_in_the_file() {
    let (_cluster, mut client) = start_quiet();
    client
        .batch_execute(
            "CREATE FUNCTION records() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 PERFORM keep(NEW.n); \
                 IF NEW.n < 0 THEN RAISE division_by_zero; END IF; \
                 RETURN NULL; \
             END $$; \
             CREATE TABLE watched (n int); \
             CREATE CONSTRAINT TRIGGER records AFTER INSERT ON watched DEFERRABLE INITIALLY DEFERRED \
                 FOR EACH ROW EXECUTE FUNCTION records()",
        )
        .unwrap();
    client.batch_execute("BEGIN; INSERT INTO watched VALUES (1), (2), (3); COMMIT").unwrap();
    client.batch_execute("INSERT INTO watched VALUES (4)").unwrap();
    assert_eq!(
        *error(&mut client, "BEGIN; SELECT drop(); INSERT INTO watched VALUES (5), (-1); COMMIT").code(),
        SqlState::DIVISION_BY_ZERO
    );
    assert_recorded(&mut client, 4, 0);
    assert_eq!(numbers_in_file(&mut client), [1, 2, 3, 4]);
}

#[test]
fn what_a_held_cursor_records_in_the_commit_is_in_the_file() {
    let (_cluster, mut client) = start_quiet();
    let declare = |hold: &str, record: &str| {
        format!(
            "BEGIN; DECLARE c NO SCROLL CURSOR {hold} FOR SELECT {record} FROM generate_series(1, 5) n; FETCH 2 FROM c"
        )
    };
    // The commit runs the rest of a query whose cursor is held.
    client.batch_execute(&declare("WITH HOLD", "keep(n)")).unwrap();
    client.batch_execute("COMMIT; FETCH ALL FROM c; CLOSE c").unwrap();
    assert_eq!(numbers_in_file(&mut client), [1, 2, 3, 4, 5]);
    client.batch_execute(&declare("", "keep(n)")).unwrap();
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(numbers_in_file(&mut client), [1, 2, 3, 4, 5, 1, 2]);
    client.batch_execute(&declare("WITH HOLD", "drop(n)")).unwrap();
    client.batch_execute("ROLLBACK").unwrap();
    // Where the rest fails, the commit does.
    client.batch_execute(&declare("WITH HOLD", "drop(n) / (3 - n)")).unwrap();
    assert_eq!(*error(&mut client, "COMMIT").code(), SqlState::DIVISION_BY_ZERO);
    assert_recorded(&mut client, 7, 0);
    seal_and_verify(&mut client);
}

// ---- implicit transactions ----------------------------------------------------------------------------------------------

#[test]
fn several_statements_in_one_message_are_one_transaction() {
    let (_cluster, mut client) = start_quiet();
    client.batch_execute("SELECT keep(); SELECT keep()").unwrap();
    error(&mut client, "SELECT drop(); SELECT drop(); SELECT 1 / 0");
    assert_recorded(&mut client, 2, 0);
    // A COMMIT within ends it, and the next begins.
    error(&mut client, "SELECT keep(); COMMIT; SELECT drop(); SELECT 1 / 0");
    assert_recorded(&mut client, 3, 0);
    error(&mut client, "SELECT drop(); ROLLBACK; SELECT keep(); COMMIT; SELECT drop(); SELECT 1 / 0");
    assert_recorded(&mut client, 4, 0);
    // What BEGIN finds is in its transaction too.
    client.batch_execute("SELECT drop(); BEGIN; SELECT drop(); ROLLBACK; SELECT keep()").unwrap();
    assert_recorded(&mut client, 5, 0);
    error(&mut client, "SELECT drop(); INSERT INTO checked VALUES (1), (1)");
    assert_recorded(&mut client, 5, 0);
}

#[test]
fn a_pipeline_is_committed_as_a_whole_by_its_sync() {
    let (cluster, mut client) = start_quiet();
    let mut wire = Wire::connect(&cluster, "postgres");
    assert_eq!(wire.pipeline(&["SELECT keep()", "SELECT keep()", "SELECT keep()"]), Ok(3));
    assert_recorded(&mut client, 3, 0);
    assert_eq!(
        wire.pipeline(&["SELECT drop()", "SELECT drop()", "SELECT 1 / 0", "SELECT drop()"]),
        Err("22012".into())
    );
    assert_recorded(&mut client, 3, 0);
    assert_eq!(wire.pipeline(&["SELECT keep()", "COMMIT", "SELECT drop()", "SELECT 1 / 0"]), Err("22012".into()));
    assert_recorded(&mut client, 4, 0);
    let block = ["BEGIN", "SELECT keep()", "SAVEPOINT a", "SELECT drop()", "ROLLBACK TO a", "SELECT keep()", "COMMIT"];
    assert_eq!(wire.pipeline(&block), Ok(block.len()));
    assert_recorded(&mut client, 6, 0);
    assert_eq!(wire.pipeline(&["SELECT drop()", "INSERT INTO checked VALUES (1), (1)"]), Err("23505".into()));
    assert_recorded(&mut client, 6, 0);
    // Without its sync it is not committed, though every statement has been answered.
    assert_eq!(wire.pipeline_without_sync(&["SELECT drop()", "SELECT drop()"]), Ok(2));
    drop(wire);
    wait_for(&mut client, "(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend')");
    assert_recorded(&mut client, 6, 0);
    seal_and_verify(&mut client);
}

#[test]
fn prepared_statements_record_each_time_they_run() {
    let (_cluster, mut client) = start_quiet();
    let record = "SELECT ledger.hash_and_record('keep', to_jsonb($1::int), jsonb_build_object('n', $1))->>'entry_id'";
    let record = client.prepare(record).unwrap();
    // More often than it takes for a generic plan.
    let mut ids: BTreeSet<String> =
        (0..20).map(|n| client.query_one(&record, &[&n]).unwrap().get::<_, String>(0)).collect();
    for (n, end) in [(20, "ROLLBACK"), (21, "COMMIT")] {
        client.batch_execute("BEGIN").unwrap();
        let id: String = client.query_one(&record, &[&n]).unwrap().get(0);
        client.batch_execute(end).unwrap();
        if end == "COMMIT" {
            ids.insert(id);
        }
    }
    client.batch_execute("PREPARE again AS SELECT keep($1); EXECUTE again (22); DEALLOCATE again").unwrap();
    assert_recorded(&mut client, 22, 0);
    assert!(ids.is_subset(&ids_in_file(&file(&mut client))));
    assert_eq!(numbers_in_file(&mut client), (0..23).filter(|n| *n != 20).collect::<Vec<_>>());
}

// ---- INSERT and COPY ----------------------------------------------------------------------------------------------------

#[test]
fn insert_returns_the_ids_that_are_in_the_file() {
    let (_cluster, mut client) = start_quiet();
    let insert = "INSERT INTO ledger.entries (entry_type, data_hash) SELECT 'keep', ledger.hash_data(to_jsonb(n)) \
                  FROM generate_series(1, 20) n RETURNING id";
    let ids: BTreeSet<String> = column(&mut client, insert).into_iter().collect();
    assert_eq!(ids, ids_in_file(&file(&mut client)));
    let nested = format!("WITH recorded AS ({insert}) SELECT id FROM recorded WHERE keep() = 0 LIMIT 1");
    column(&mut client, &nested);
    assert_recorded(&mut client, 41, 0);
}

/// Inserts that entry, or does nothing if it is there.
fn insert_unless_there(entry_type: &str, number: u32) -> String {
    format!(
        "INSERT INTO ledger.entries (id, entry_type, data_hash) \
         SELECT id, '{entry_type}', repeat('ab', 32) FROM unnest(ARRAY[{number}, {number}]) n, \
         LATERAL (SELECT lpad(n::text, 32, '0')::uuid AS id) AS ids ON CONFLICT DO NOTHING RETURNING id"
    )
}

#[test]
fn insert_on_conflict_do_nothing_leaves_a_line_where_it_did_something() {
    let (cluster, mut client) = start_quiet();
    // Twice in one statement, then in another.
    assert_eq!(column(&mut client, &insert_unless_there("keep", 1)).len(), 1);
    assert_eq!(column(&mut client, &insert_unless_there("drop", 1)).len(), 0);
    assert_recorded(&mut client, 1, 0);
    // While another transaction inserts the same, and then rolls back, or commits.
    for (number, end) in [(2, "ROLLBACK"), (3, "COMMIT")] {
        let commits = end == "COMMIT";
        let (first, second) = if commits { ("keep", "drop") } else { ("drop", "keep") };
        client.batch_execute(&format!("BEGIN; {}", insert_unless_there(first, number))).unwrap();
        let mut waiting = cluster.connect("postgres");
        let pid = number_of_backend(&mut waiting);
        let inserts = thread::spawn(move || column(&mut waiting, &insert_unless_there(second, number)).len());
        wait_until_blocked(&mut cluster.connect("postgres"), pid);
        client.batch_execute(end).unwrap();
        assert_eq!(in_time("the second insert", || inserts.join().unwrap()), usize::from(!commits));
    }
    assert_recorded(&mut client, 3, 0);
    // What is sealed is there too, if in another partition: an error, as for any other insert of its id.
    seal_and_verify(&mut client);
    assert_eq!(*error(&mut client, &insert_unless_there("drop", 1)).code(), SqlState::UNIQUE_VIOLATION);
    assert_recorded(&mut client, 3, 0);
}

fn number_of_backend(client: &mut Client) -> i64 {
    number(client, "SELECT pg_backend_pid()")
}

#[track_caller]
fn wait_until_blocked(client: &mut Client, pid: i64) {
    wait_for(client, &format!("cardinality(pg_blocking_pids({pid})) > 0"));
}

const COPY: &str = "COPY ledger.entries (entry_type, data_hash) FROM STDIN";

/// Copies that many rows, and then these.
fn copy(client: &mut Client, entry_type: &str, rows: usize, last: &str) -> Result<u64, Error> {
    let mut writer = client.copy_in(COPY).unwrap();
    for n in 0..rows {
        // The server may have answered with an error already; finish gives it.
        if writeln!(writer, "{entry_type}\t{n:064x}").is_err() {
            break;
        }
    }
    writer.write_all(last.as_bytes()).ok();
    writer.finish()
}

/// A copy whose last line is refused.
#[track_caller]
fn copy_fails_at_its_end(client: &mut Client, rows: usize, last: &str) {
    let refused = copy(client, "drop", rows, last).unwrap_err();
    let place = refused.as_db_error().and_then(|refused| refused.where_()).unwrap_or_default();
    assert!(place.contains(&format!("line {}", rows + 1)), "{refused:?}");
}

#[test]
fn a_copy_that_fails_on_its_last_row_leaves_no_line() {
    let (_cluster, mut client) = start_quiet();
    assert_eq!(copy(&mut client, "keep", 2000, "").unwrap(), 2000);
    for last in ["drop\tnot a hash\n", "drop\n", "drop\t\\N\n"] {
        copy_fails_at_its_end(&mut client, 2000, last);
    }
    // The client gives up.
    let mut writer = client.copy_in(COPY).unwrap();
    writer.write_all(format!("drop\t{}\n", "ab".repeat(32)).as_bytes()).unwrap();
    drop(writer);
    assert_recorded(&mut client, 2000, 0);
    // A savepoint saves what was before.
    client.batch_execute("BEGIN; SELECT keep(); SAVEPOINT a").unwrap();
    copy_fails_at_its_end(&mut client, 100, "drop\tnot a hash\n");
    client.batch_execute("ROLLBACK TO a").unwrap();
    copy(&mut client, "keep", 10, "").unwrap();
    client.batch_execute("COMMIT").unwrap();
    assert_recorded(&mut client, 2011, 0);
    seal_and_verify(&mut client);
}

// ---- ended from outside ---------------------------------------------------------------------------------------------------

#[test]
fn a_statement_that_times_out_leaves_no_line() {
    let (_cluster, mut client) = start_quiet();
    // Until it has failed: what comes before and after may take longer.
    let times_out = "SET LOCAL statement_timeout = '100ms'; SELECT drop(), pg_sleep(60)";
    assert_eq!(*error(&mut client, times_out).code(), SqlState::QUERY_CANCELED);
    client.batch_execute("BEGIN; SELECT keep(); SAVEPOINT a").unwrap();
    assert_eq!(*error(&mut client, times_out).code(), SqlState::QUERY_CANCELED);
    client.batch_execute("ROLLBACK TO a; SELECT keep(); COMMIT").unwrap();
    assert_recorded(&mut client, 2, 0);
}

#[test]
fn a_session_that_ends_in_the_middle_of_a_transaction_leaves_no_line() {
    let (cluster, mut client) = start_quiet();
    // Terminated while it waits for its client, while it works, and gone by itself.
    let mut idle = cluster.connect("postgres");
    idle.batch_execute("BEGIN; SELECT drop(); SAVEPOINT a; SELECT drop()").unwrap();
    let pid = number_of_backend(&mut idle);
    client.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    assert!(idle.batch_execute("COMMIT").is_err());

    let mut active = cluster.connect("postgres");
    let pid = number_of_backend(&mut active);
    let ends =
        thread::spawn(move || active.batch_execute("BEGIN; SELECT drop(); SELECT pg_sleep(60); COMMIT").is_err());
    wait_for(&mut client, &format!("(SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = {pid})"));
    client.batch_execute(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    assert!(in_time("the terminated session", || ends.join().unwrap()));

    let mut gone = cluster.connect("postgres");
    gone.batch_execute("BEGIN; SELECT drop()").unwrap();
    drop(gone);
    wait_for(&mut client, "(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend')");
    client.batch_execute("SELECT keep()").unwrap();
    assert_recorded(&mut client, 1, 0);
}

/// Records until told to stop, whatever hits it. Counts what was acknowledged, and returns its markers.
fn write_under_fire(cluster: &Cluster, writer: usize, count: &AtomicUsize, stop: &AtomicBool) -> Vec<String> {
    let (mut client, mut acknowledged) = (None, Vec::new());
    for round in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        // A cancel may also hit a session that is only starting.
        if client.is_none() {
            client = cluster.try_connect("postgres").ok();
        }
        let Some(session) = client.as_mut() else { continue };
        let marker = format!("{writer}.{round}");
        let record = "SELECT ledger.hash_and_record('keep', to_jsonb(n), jsonb_build_object('marker', ':M')) \
                      FROM generate_series(1, 5) n";
        let sql = match round % 3 {
            0 => record.to_owned(),
            1 => format!("BEGIN; {record}; SAVEPOINT a; SELECT drop(); ROLLBACK TO a; COMMIT"),
            _ => format!("BEGIN; SAVEPOINT a; {record}; RELEASE a; COMMIT"),
        };
        match session.batch_execute(&sql.replace(":M", &marker)) {
            Ok(()) => {
                acknowledged.push(marker);
                count.fetch_add(1, Ordering::AcqRel);
            }
            Err(_) if session.batch_execute("ROLLBACK").is_ok() => {}
            Err(_) => client = None,
        }
    }
    acknowledged
}

#[test]
fn cancels_and_terminations_at_any_moment_leave_nothing_half_there() {
    const WRITERS: usize = 4;
    let (cluster, mut client) = start_quiet();
    let mut random = Random::new("cancels");
    let (count, stop) = (&AtomicUsize::new(0), &AtomicBool::new(false));
    let acknowledged: Vec<String> = thread::scope(|scope| {
        let start = |writer| {
            scope.spawn({
                let cluster = &cluster;
                move || write_under_fire(cluster, writer, count, stop)
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(start).collect();
        let stop_at_end = StopAtEnd(stop);
        let begun = Instant::now();
        let is_enough = || begun.elapsed() > Duration::from_secs(2) && count.load(Ordering::Acquire) > 10;
        while !is_enough() && begun.elapsed() < PATIENCE {
            let signal = if random.one_in(10) { "pg_terminate_backend" } else { "pg_cancel_backend" };
            let others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
            let hit = format!("SELECT {signal}(pid) {others} ORDER BY random() LIMIT 1");
            client.batch_execute(&hit).unwrap();
            thread::sleep(Duration::from_micros(random.below(5000) as u64));
        }
        drop(stop_at_end);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    assert!(acknowledged.len() > 10, "only {acknowledged:?}");
    let path = file(&mut client);
    wait_until_file_has_followed(&mut client);
    let half = "SELECT metadata->>'marker' FROM ledger.entries GROUP BY 1 HAVING count(*) <> 5";
    assert_eq!(column(&mut client, half), [""; 0]);
    let there: BTreeSet<String> =
        column(&mut client, "SELECT DISTINCT metadata->>'marker' FROM ledger.entries").into_iter().collect();
    let lost: Vec<_> = acknowledged.iter().filter(|marker| !there.contains(*marker)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let is_drop = |line: &&Value| line["entry_type"] == "drop";
    assert!(!of_type(&lines(&path), "entry").iter().any(is_drop), "what was rolled back before its commit has a line");
    assert_intact(&mut client);
    seal_and_verify(&mut client);
}

#[test]
fn the_ids_of_a_session_ascend_and_are_of_version_7() {
    let (_cluster, mut client) = start(Options::new());
    let recorded = "SELECT ledger.add_entry('note', '{}')::text FROM generate_series(1, 500)";
    let ids = column(&mut client, recorded);
    assert_eq!(ids.len(), 500);
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    assert!(ids.iter().all(|id| id.as_bytes()[14] == b'7' && b"89ab".contains(&id.as_bytes()[19])), "{ids:?}");
    // The time they state, in milliseconds, is that of the clock.
    let millis = number(&mut client, "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint");
    let stated = i64::from_str_radix(&ids[499].replace('-', "")[..12], 16).unwrap();
    assert!((0..60_000).contains(&(millis - stated)), "{stated}, not {millis}");
}
