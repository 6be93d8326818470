//! Of a transaction with savepoints, of exception blocks and of procedures that commit, the file gets what is
//! committed: what is rolled back before has no line at all.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::random::Random;
use crate::common::transactions::*;
use postgres::error::SqlState;

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
    seal_and_verify(&mut client);
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
    seal_and_verify(&mut client);
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
    seal_and_verify(&mut client);
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
    seal_and_verify(&mut client);
    open.batch_execute("COMMIT").unwrap();
    assert_recorded(&mut client, 201, 0);
    seal_and_verify(&mut client);
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
    seal_and_verify(&mut client);
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
    seal_and_verify(&mut client);
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
