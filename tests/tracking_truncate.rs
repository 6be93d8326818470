//! TRUNCATE of a partitioned table says it of all its rows, and TRUNCATE of a partition of each of its own: whatever
//! else happens in between.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use postgres::Client;

/// Two tables with two partitions each, of which the second has keys to the first, and a table that notes what is done.
const TABLES: &str = "
CREATE TABLE accounts (id int PRIMARY KEY);
CREATE TABLE events (id int, day int, account int REFERENCES accounts, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE notes (id int, day int, account int REFERENCES accounts, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE notes_1 PARTITION OF notes FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
CREATE TABLE notes_2 PARTITION OF notes FOR VALUES IN (2);
CREATE TABLE log (what text);
SELECT ledger.track('accounts'), ledger.track('events'), ledger.track('notes');";

const ROWS: &str = "
INSERT INTO accounts SELECT generate_series(1, 4) ON CONFLICT DO NOTHING;
INSERT INTO events SELECT n, 1 + n % 2, n FROM generate_series(1, 4) n ON CONFLICT DO NOTHING;
INSERT INTO notes SELECT n, 1 + n % 2, n FROM generate_series(1, 4) n ON CONFLICT DO NOTHING;";

/// A function that runs these statements.
fn function(client: &mut Client, name: &str, body: &str) {
    let sql = format!(
        "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} RETURN NULL; END$$"
    );
    client.batch_execute(&sql).unwrap();
}

/// After each of these, which begin with all rows there, the tables are as they are recorded.
#[track_caller]
fn assert_recorded(client: &mut Client, statements: &[&str]) {
    for statement in statements {
        client.batch_execute(ROWS).unwrap();
        client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        for table in ["accounts", "events", "notes"] {
            let found = details(client, table);
            assert!(found.is_empty(), "{statement}: {table}: {found:#?}");
        }
    }
    assert_clean(client, "events");
}

#[test]
fn several_tables_truncated_by_one_command_are_recorded() {
    let (_cluster, mut client) = start_with(TABLES);
    assert_recorded(
        &mut client,
        &[
            "TRUNCATE events, notes",
            "TRUNCATE events_1, notes, events",
            "TRUNCATE notes_2, events, notes_1",
            "TRUNCATE events_1, events_2, notes_2",
            "TRUNCATE accounts CASCADE",
            "TRUNCATE accounts CASCADE; TRUNCATE events, notes",
            "BEGIN; TRUNCATE events, notes; INSERT INTO events VALUES (1, 1); INSERT INTO notes VALUES (1, 1); \
             TRUNCATE events_1, notes_1; COMMIT",
        ],
    );
}

#[test]
fn what_triggers_do_before_a_truncation_is_recorded_apart_from_it() {
    let (_cluster, mut client) = start_with(TABLES);
    // Its name comes after that of the ledger's trigger.
    let trigger = "CREATE OR REPLACE TRIGGER z BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION";
    for body in [
        "INSERT INTO log VALUES (tg_table_name);",
        "UPDATE notes SET account = 2 WHERE id = 1;",
        "TRUNCATE notes;",
        "TRUNCATE notes_1;",
        "TRUNCATE log; TRUNCATE notes_2, notes;",
    ] {
        function(&mut client, "meanwhile", body);
        client.batch_execute(&format!("{trigger} meanwhile()")).unwrap();
        assert_recorded(&mut client, &["TRUNCATE events", "TRUNCATE events_1, events", "TRUNCATE events_1"]);
    }
}

#[test]
fn what_triggers_do_after_a_truncation_is_recorded_apart_from_it() {
    let (_cluster, mut client) = start_with(TABLES);
    let trigger = "CREATE OR REPLACE TRIGGER a AFTER TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION";
    for body in ["TRUNCATE notes;", "TRUNCATE notes_1;", "INSERT INTO events VALUES (9, 1), (8, 2);"] {
        function(&mut client, "afterwards", body);
        client.batch_execute(&format!("{trigger} afterwards()")).unwrap();
        assert_recorded(&mut client, &["TRUNCATE events", "TRUNCATE events; TRUNCATE events_1"]);
    }
}

/// A TRUNCATE that comes to nothing stands for none of those that come after.
#[test]
fn a_truncation_that_is_rolled_back_says_nothing_of_the_next() {
    let (_cluster, mut client) = start_with(TABLES);
    function(&mut client, "refuse", "RAISE EXCEPTION 'not this one';");
    client
        .batch_execute(
            "CREATE TRIGGER z BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION refuse();
             ALTER TABLE events DISABLE TRIGGER z",
        )
        .unwrap();
    let tries = "DO $$BEGIN
        BEGIN TRUNCATE events; EXCEPTION WHEN raise_exception THEN NULL; END;
        TRUNCATE events_1;
        END$$";
    // What the session records of a table for the first time, and what it records later.
    for _ in 0..2 {
        client.batch_execute(ROWS).unwrap();
        client.batch_execute("ALTER TABLE events ENABLE TRIGGER z").unwrap();
        assert_recorded(&mut client, &[tries, "BEGIN; INSERT INTO events VALUES (7, 1)", tries, "COMMIT"]);
        client.batch_execute("ALTER TABLE events DISABLE TRIGGER z").unwrap();
        assert_recorded(
            &mut client,
            &[
                "BEGIN; SAVEPOINT a; TRUNCATE events; ROLLBACK TO a; TRUNCATE events_1; COMMIT",
                "BEGIN; SAVEPOINT a; TRUNCATE events; ROLLBACK TO a; TRUNCATE events_2; TRUNCATE events_1; COMMIT",
                "BEGIN; SAVEPOINT a; TRUNCATE events_1; ROLLBACK TO a; TRUNCATE events; COMMIT",
                "BEGIN; SAVEPOINT a; TRUNCATE events; RELEASE a; TRUNCATE events_1; COMMIT",
            ],
        );
    }
}

#[test]
fn a_truncation_inside_another_command_is_recorded() {
    let (_cluster, mut client) = start_with(TABLES);
    client
        .batch_execute(
            "CREATE FUNCTION empty(tables text) RETURNS int LANGUAGE plpgsql AS
             $$BEGIN EXECUTE 'TRUNCATE ' || tables; RETURN 5; END$$;
             CREATE FUNCTION empty_one_by_one() RETURNS int LANGUAGE plpgsql AS
             $$BEGIN TRUNCATE events; TRUNCATE events_1; TRUNCATE notes_1; TRUNCATE notes; RETURN 5; END$$",
        )
        .unwrap();
    assert_recorded(
        &mut client,
        &[
            "SELECT empty('events'), empty('notes_1'), empty('notes')",
            "INSERT INTO notes SELECT empty('events_1'), 1",
            "INSERT INTO accounts SELECT empty('events') ON CONFLICT DO NOTHING",
            "SELECT empty_one_by_one()",
            "WITH one AS (INSERT INTO accounts VALUES (6) RETURNING empty('notes')) SELECT * FROM one",
        ],
    );
}

/// The entry of a whole table says it of its partitions too: each is not recorded again, row by row.
#[test]
fn a_truncated_table_is_one_entry() {
    let (_cluster, mut client) = start_with(TABLES);
    client.batch_execute(ROWS).unwrap();
    let before = row_entries(&mut client, "events");
    client.batch_execute("TRUNCATE events, notes").unwrap();
    assert_eq!(row_entries(&mut client, "events"), before);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_truncate'"), 2);
}
