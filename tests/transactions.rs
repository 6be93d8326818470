//! Whatever the shape of a transaction, the file gets the lines of what it committed, and nothing of what it did not: what
//! is rolled back before the commit has no line at all, what fails in the commit itself is voided.
#![cfg(feature = "cluster-tests")]

mod common;

use common::ledger::*;
use common::random::Random;
use common::wire::Wire;
use common::{wait_until, Cluster, Options};
use postgres::error::SqlState;
use postgres::{Client, Error};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// `keep()` and `drop()` record what the transaction is to commit and what not.
const SCHEMA: &str = "
CREATE FUNCTION keep(n int DEFAULT 0) RETURNS int LANGUAGE sql AS $$
    SELECT n FROM (SELECT ledger.hash_and_record('keep', to_jsonb(n), jsonb_build_object('n', n))) AS recorded
$$;
CREATE FUNCTION drop(n int DEFAULT 0) RETURNS int LANGUAGE sql AS $$
    SELECT n FROM (SELECT ledger.hash_and_record('drop', to_jsonb(n), jsonb_build_object('n', n))) AS recorded
$$;
CREATE TABLE checked (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE skew (n int);";

/// Sealing only where a test asks for it.
fn start_quiet() -> (Cluster, Client) {
    let (cluster, mut client) =
        start(Options::new().conf("ledger.block_interval = 1h").conf("ledger.block_size = 10000"));
    client.batch_execute(SCHEMA).unwrap();
    wait_until_attached(&mut client);
    (cluster, client)
}

/// Table and file hold that many entries, all of them to be kept, and the same. Of what was dropped, `voided` entries
/// have a line; each of them is voided.
#[track_caller]
fn assert_recorded(client: &mut Client, kept: usize, voided: usize) {
    let path = file(client);
    wait_until("the void lines are there", PATIENCE, || voided_ids(&lines(&path)).len() >= voided);
    let lines = lines(&path);
    let ids = ids_in_file(&path);
    let (good, bad): (Vec<_>, Vec<_>) =
        of_type(&lines, "entry").into_iter().partition(|line| ids.contains(line["entry_id"].as_str().unwrap()));
    assert_eq!((good.len(), bad.len()), (kept, voided), "entries kept and voided: {lines:#?}");
    assert!(good.iter().all(|line| line["entry_type"] == "keep"), "{good:#?}");
    assert!(bad.iter().all(|line| line["entry_type"] == "drop"), "{bad:#?}");
    assert_intact(client);
}

/// The `n` of the entry lines of a file, in the order of the lines.
fn numbers_in_file(client: &mut Client) -> Vec<i64> {
    let lines = lines(&file(client));
    of_type(&lines, "entry").iter().map(|line| line["metadata"]["n"].as_i64().unwrap()).collect()
}

#[track_caller]
fn seal(client: &mut Client) {
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    wait_until_sealed(client);
    assert_intact(client);
}

// ---- savepoints -------------------------------------------------------------------------------------------------------

#[test]
fn three_levels_of_savepoints_leave_what_every_level_keeps() {
    let (_cluster, mut client) = start_quiet();
    let mut kept = 0;
    for ends in 0..16 {
        let stays = |level: usize| ends & 1 << level == 0;
        // What level 3 records stays if levels 1 to 3 are released and the transaction is committed, and so on.
        let record = |level: usize| if (0..=level).all(stays) { "keep()" } else { "drop()" };
        kept += (0..4).map(|level| 2 * usize::from((0..=level).all(stays))).sum::<usize>();
        let mut sql = format!("BEGIN; SELECT {};", record(0));
        for level in 1..=3 {
            sql += &format!("SAVEPOINT s{level}; SELECT {};", record(level));
        }
        for level in (1..=3).rev() {
            sql += &format!("SELECT {};", record(level));
            sql += &if stays(level) { format!("RELEASE s{level};") } else { format!("ROLLBACK TO s{level};") };
        }
        sql += &format!("SELECT {};", record(0));
        client.batch_execute(&(sql + if stays(0) { "COMMIT" } else { "ROLLBACK" })).unwrap();
    }
    assert_recorded(&mut client, kept, 0);
    seal(&mut client);
}

#[test]
fn what_a_savepoint_released_goes_with_the_one_around_it() {
    let (_cluster, mut client) = start_quiet();
    client
        .batch_execute(
            "BEGIN; SELECT keep(); SAVEPOINT a; SAVEPOINT b; SAVEPOINT c; SELECT drop(); RELEASE c; RELEASE b; \
             SELECT drop(); ROLLBACK TO a; SELECT drop(); ROLLBACK TO a; SELECT keep(); RELEASE a; COMMIT",
        )
        .unwrap();
    assert_recorded(&mut client, 2, 0);
}

/// A random transaction of savepoints: its statements, and the numbers of the entries that it commits. Names are used
/// more than once, as the latest of a name counts.
fn random_savepoints(random: &mut Random, next: &mut i64) -> (String, Vec<i64>) {
    let mut sql = String::from("BEGIN;");
    let mut kept: Vec<i64> = Vec::new();
    let mut savepoints: Vec<(usize, usize)> = Vec::new();
    for _ in 0..random.below(40) {
        let name = random.below(4);
        match random.below(6) {
            0 | 1 => {
                sql += &format!("SAVEPOINT s{name};");
                savepoints.push((name, kept.len()));
            }
            action @ (2 | 3) => {
                let Some(at) = savepoints.iter().rposition(|(other, _)| *other == name) else { continue };
                if action == 2 {
                    sql += &format!("RELEASE s{name};");
                    savepoints.truncate(at);
                } else {
                    sql += &format!("ROLLBACK TO s{name};");
                    kept.truncate(savepoints[at].1);
                    savepoints.truncate(at + 1);
                }
            }
            _ => {
                sql += &format!("SELECT keep({next});");
                kept.push(*next);
                *next += 1;
            }
        }
    }
    if random.one_in(5) {
        return (sql + "ROLLBACK", Vec::new());
    }
    (sql + "COMMIT", kept)
}

#[test]
fn any_sequence_of_savepoints_leaves_its_entries_in_their_order() {
    let (_cluster, mut client) = start_quiet();
    let mut random = Random::new("savepoints");
    let (mut next, mut expected) = (0, Vec::new());
    let mut transactions = Vec::new();
    for _ in 0..200 {
        let (sql, kept) = random_savepoints(&mut random, &mut next);
        client.batch_execute(&sql).unwrap();
        expected.extend(kept);
        transactions.push(sql);
    }
    assert!(expected.len() > 100 && expected.len() < next as usize, "{} of {next}", expected.len());
    assert!(numbers_in_file(&mut client) == expected, "{}", transactions.join("\n"));
    assert_recorded(&mut client, expected.len(), 0);
    seal(&mut client);
}

// ---- PL/pgSQL ---------------------------------------------------------------------------------------------------------

#[test]
fn exception_blocks_in_loops_leave_what_they_keep() {
    let (_cluster, mut client) = start_quiet();
    let sql = "DO $$ BEGIN
        FOR i IN 1..50 LOOP
            BEGIN
                PERFORM drop();
                BEGIN
                    PERFORM drop();
                EXCEPTION WHEN unique_violation THEN
                    PERFORM drop();
                END;
                RAISE division_by_zero;
            EXCEPTION WHEN division_by_zero THEN
                BEGIN
                    PERFORM keep();
                EXCEPTION WHEN others THEN
                    PERFORM drop();
                END;
            END;
        END LOOP;
    END $$";
    client.batch_execute(sql).unwrap();
    assert_recorded(&mut client, 50, 0);
    // The same, and then all of it fails.
    let failing = sql.replace("keep()", "drop()").replace("END LOOP;", "END LOOP; RAISE division_by_zero;");
    error(&mut client, &failing);
    assert_recorded(&mut client, 50, 0);
    seal(&mut client);
}

#[test]
fn more_subtransactions_than_shared_memory_lists_change_nothing() {
    let (cluster, mut client) = start_quiet();
    client.batch_execute("SELECT keep()").unwrap();
    // Each block that records has a transaction id of its own, of which a backend lists 64.
    let mut open = cluster.connect("postgres");
    open.batch_execute(
        "BEGIN; DO $$ BEGIN FOR i IN 1..200 LOOP \
             BEGIN PERFORM keep(); EXCEPTION WHEN others THEN END; \
             BEGIN PERFORM drop(); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN END; \
         END LOOP; END $$",
    )
    .unwrap();
    // To others they are neither committed nor gone.
    assert_recorded(&mut client, 1, 0);
    seal(&mut client);
    open.batch_execute("COMMIT").unwrap();
    assert_recorded(&mut client, 201, 0);
    seal(&mut client);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries_sealed"), 201);
}

#[test]
fn subtransactions_of_a_commit_that_fails_are_all_voided() {
    let (cluster, mut client) = start_quiet();
    let mut sessions = [cluster.connect("postgres"), cluster.connect("postgres")];
    for (session, record) in sessions.iter_mut().zip(["keep()", "drop()"]) {
        let sql = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(n) FROM skew; INSERT INTO skew VALUES (1); \
                   DO $$ BEGIN FOR i IN 1..100 LOOP \
                       BEGIN PERFORM RECORD; EXCEPTION WHEN others THEN END; \
                       BEGIN PERFORM drop(); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN END; \
                   END LOOP; END $$";
        session.batch_execute(&sql.replace("RECORD", record)).unwrap();
    }
    sessions[0].batch_execute("COMMIT").unwrap();
    assert_eq!(*error(&mut sessions[1], "COMMIT").code(), SqlState::T_R_SERIALIZATION_FAILURE);
    assert_recorded(&mut client, 100, 100);
    seal(&mut client);
}

const PROCEDURES: &str = "
CREATE PROCEDURE commits_and_rolls_back() LANGUAGE plpgsql AS $$
BEGIN
    PERFORM keep();
    COMMIT;
    PERFORM drop();
    ROLLBACK;
    FOR i IN 1..10 LOOP
        PERFORM CASE WHEN i % 2 = 0 THEN keep() ELSE drop() END;
        IF i % 2 = 0 THEN COMMIT; ELSE ROLLBACK; END IF;
    END LOOP;
    BEGIN
        PERFORM drop();
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        PERFORM keep();
    END;
    COMMIT AND CHAIN;
    PERFORM keep();
END $$;
-- A block that handles exceptions is a subtransaction, and cannot commit.
CREATE PROCEDURE commits_where_it_cannot() LANGUAGE plpgsql AS $$
BEGIN
    PERFORM keep();
    BEGIN
        PERFORM drop();
        COMMIT;
    EXCEPTION WHEN invalid_transaction_termination THEN
        PERFORM keep();
    END;
END $$;
CREATE PROCEDURE fails_after_its_commit() LANGUAGE plpgsql AS $$
BEGIN
    PERFORM keep();
    COMMIT;
    PERFORM drop();
    RAISE division_by_zero;
END $$;
-- A cursor that is open over a commit is held, which runs what it has left.
CREATE PROCEDURE commits_in_a_query() LANGUAGE plpgsql AS $$
DECLARE
    row record;
BEGIN
    FOR row IN SELECT keep(n) FROM generate_series(1, 5) n LOOP
        PERFORM keep();
        COMMIT;
    END LOOP;
END $$;
CREATE PROCEDURE calls() LANGUAGE plpgsql AS $$
BEGIN
    PERFORM keep();
    CALL commits_and_rolls_back();
    PERFORM drop();
    ROLLBACK;
END $$;";

#[test]
fn procedures_that_commit_and_roll_back_leave_what_they_committed() {
    let (_cluster, mut client) = start_quiet();
    client.batch_execute(PROCEDURES).unwrap();
    client.batch_execute("CALL commits_and_rolls_back()").unwrap();
    assert_recorded(&mut client, 8, 0);
    client.batch_execute("CALL commits_where_it_cannot()").unwrap();
    assert_recorded(&mut client, 10, 0);
    assert_eq!(*error(&mut client, "CALL fails_after_its_commit()").code(), SqlState::DIVISION_BY_ZERO);
    assert_recorded(&mut client, 11, 0);
    client.batch_execute("CALL commits_in_a_query()").unwrap();
    assert_recorded(&mut client, 21, 0);
    client.batch_execute("CALL calls()").unwrap();
    // The rollback is that of what the called procedure recorded last, too.
    assert_recorded(&mut client, 29, 0);
    // Within a transaction block they may do neither.
    error(&mut client, "BEGIN; CALL commits_and_rolls_back()");
    client.batch_execute("ROLLBACK").unwrap();
    seal(&mut client);
}

#[test]
fn chained_transactions_are_transactions_of_their_own() {
    let (_cluster, mut client) = start_quiet();
    client
        .batch_execute(
            "BEGIN; SELECT keep(); COMMIT AND CHAIN; SELECT drop(); ROLLBACK AND CHAIN; SELECT keep(); \
             SAVEPOINT a; SELECT drop(); ROLLBACK TO a; COMMIT AND CHAIN; SELECT drop(); ROLLBACK",
        )
        .unwrap();
    assert_recorded(&mut client, 2, 0);
}

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
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    wait_until_sealed(&mut client);
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
    seal(&mut client);
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
    seal(&mut client);
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
    seal(&mut client);
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

#[test]
fn a_copy_that_fails_on_its_last_row_leaves_no_line() {
    let (_cluster, mut client) = start_quiet();
    assert_eq!(copy(&mut client, "keep", 2000, "").unwrap(), 2000);
    for last in ["drop\tnot a hash\n", "drop\n", "drop\t\\N\n"] {
        assert!(copy(&mut client, "drop", 2000, last).is_err());
    }
    // The client gives up.
    let mut writer = client.copy_in(COPY).unwrap();
    writer.write_all(format!("drop\t{}\n", "ab".repeat(32)).as_bytes()).unwrap();
    drop(writer);
    assert_recorded(&mut client, 2000, 0);
    // A savepoint saves what was before.
    client.batch_execute("BEGIN; SELECT keep(); SAVEPOINT a").unwrap();
    assert!(copy(&mut client, "drop", 100, "drop\tnot a hash\n").is_err());
    client.batch_execute("ROLLBACK TO a").unwrap();
    copy(&mut client, "keep", 10, "").unwrap();
    client.batch_execute("COMMIT").unwrap();
    assert_recorded(&mut client, 2011, 0);
    seal(&mut client);
}

// ---- ended from outside ---------------------------------------------------------------------------------------------------

#[test]
fn a_statement_that_times_out_leaves_no_line() {
    let (_cluster, mut client) = start_quiet();
    client.batch_execute("SET statement_timeout = '100ms'").unwrap();
    assert_eq!(*error(&mut client, "SELECT drop(), pg_sleep(60)").code(), SqlState::QUERY_CANCELED);
    client.batch_execute("BEGIN; SELECT keep(); SAVEPOINT a").unwrap();
    error(&mut client, "SELECT drop(), pg_sleep(60)");
    client.batch_execute("ROLLBACK TO a; SELECT keep(); COMMIT").unwrap();
    client.batch_execute("RESET statement_timeout").unwrap();
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

/// Records until told to stop, whatever hits it. Returns the markers of what was acknowledged.
fn write_under_fire(cluster: &Cluster, writer: usize, stop: &AtomicBool) -> Vec<String> {
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
            Ok(()) => acknowledged.push(marker),
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
    let stop = &AtomicBool::new(false);
    let acknowledged: Vec<String> = thread::scope(|scope| {
        let start = |writer| {
            scope.spawn({
                let cluster = &cluster;
                move || write_under_fire(cluster, writer, stop)
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(start).collect();
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            let signal = if random.one_in(10) { "pg_terminate_backend" } else { "pg_cancel_backend" };
            let others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
            let hit = format!("SELECT {signal}(pid) {others} ORDER BY random() LIMIT 1");
            client.batch_execute(&hit).unwrap();
            thread::sleep(Duration::from_micros(random.below(5000) as u64));
        }
        stop.store(true, Ordering::Release);
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
    seal(&mut client);
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
