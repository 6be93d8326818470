//! What Postgres cannot print of one table says nothing about the others, and a verification is ended by who may end
//! it.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::Options;
use postgres::error::SqlState;
use postgres::Client;
use serde_json::Value;

/// Any owner of a table can have a value that an output function fails on: a composite type in another, and so on,
/// doubles its quotes at each level. This is quicker.
fn damage(client: &mut Client) {
    client.batch_execute("DELETE FROM pg_enum WHERE enumlabel = 'bad' AND enumtypid = 'mood'::regtype").unwrap();
}

const TABLES: &str = "
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE days (id int PRIMARY KEY, mood mood);
CREATE TABLE moods (mood mood PRIMARY KEY);
CREATE TABLE others (id int PRIMARY KEY);
SELECT ledger.track('days'), ledger.track('moods'), ledger.track('others');
INSERT INTO days SELECT n, CASE n WHEN 700 THEN 'bad' ELSE 'good' END::mood FROM generate_series(1, 1000) n;
INSERT INTO moods VALUES ('good'), ('bad');
INSERT INTO others SELECT generate_series(1, 10);";

#[track_caller]
fn of_table(verdict: &Value, name: &str) -> Value {
    let tables = verdict["tables"].as_array().unwrap();
    tables
        .iter()
        .find(|table| table["table"] == format!("public.{name}"))
        .unwrap_or_else(|| panic!("no {name}: {verdict:#}"))
        .clone()
}

#[test]
fn a_value_that_cannot_be_printed_keeps_no_other_table_from_being_verified() {
    let (_cluster, mut client) = start_with(TABLES);
    assert_clean(&mut client, "days");
    damage(&mut client);
    let verdict = json(&mut client, "SELECT ledger.verify_all()");
    assert_eq!(verdict["overall_valid"], false);
    for (table, row) in [("days", "row {\"id\": 700}"), ("moods", "the row with ctid (0,2)")] {
        let found = of_table(&verdict, table);
        assert_eq!(found["valid"], false, "{found}");
        let message = found["message"].as_str().unwrap();
        let expected = format!("{row} of table public.{table} cannot be verified: Invalid internal value for enum: ");
        assert!(message.starts_with(&expected), "{message}");
        let refused = error(&mut client, &format!("SELECT * FROM ledger.verify_table('{table}')"));
        assert_eq!(refused.code(), &SqlState::INVALID_BINARY_REPRESENTATION);
        assert_eq!(refused.message(), format!("{row} of table public.{table} cannot be verified"));
    }
    let others = of_table(&verdict, "others");
    assert_eq!((&others["valid"], &others["row_count"]), (&true.into(), &10.into()), "{others}");
    assert!(problems(&mut client, "others").is_empty());
}

#[test]
fn whoever_cannot_record_what_was_there_says_at_which_row() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('good', 'bad');
             CREATE TABLE days (id int PRIMARY KEY, mood mood);
             INSERT INTO days SELECT n, CASE n WHEN 3 THEN 'bad' ELSE 'good' END::mood FROM generate_series(1, 5) n;
             CREATE TABLE many (id int PRIMARY KEY, mood mood, filler text DEFAULT repeat('x', 1000));
             INSERT INTO many SELECT n, CASE n WHEN 3 THEN 'bad' ELSE 'good' END::mood FROM generate_series(1, 1000) n",
        )
        .unwrap();
    damage(&mut client);
    let refused = error(&mut client, "SELECT ledger.track('days')");
    assert_eq!(refused.code(), &SqlState::INVALID_BINARY_REPRESENTATION);
    assert_eq!(refused.detail(), Some("The row has ctid (0,3) in table public.days."));
    client.batch_execute("SELECT ledger.track('many')").unwrap();
    cluster.wait_for_log("The row has ctid (0,3) in table public.many.");
}

/// The session goes on, in the same transaction, with all that it had open.
#[test]
fn a_verification_that_meets_such_a_value_leaves_the_transaction_as_it_was() {
    let (_cluster, mut client) = start_with(TABLES);
    damage(&mut client);
    client
        .batch_execute(
            "BEGIN; INSERT INTO others VALUES (11); DECLARE c CURSOR FOR SELECT id FROM others ORDER BY id; MOVE 5 IN c",
        )
        .unwrap();
    let verdict = json(&mut client, "SELECT ledger.verify_all()");
    assert_eq!(of_table(&verdict, "others")["row_count"], 11);
    assert_eq!(value(&mut client, "FETCH c"), "6");
    client.batch_execute("INSERT INTO others VALUES (12); COMMIT").unwrap();
    assert!(problems(&mut client, "others").is_empty());
    assert_eq!(row_entries(&mut client, "others"), 12);
    assert_intact(&mut client);
}

#[test]
fn a_verification_of_rows_that_is_cancelled_ends() {
    let (_cluster, mut client) = start_with("CREATE TABLE texts (id int PRIMARY KEY, body text)");
    client
        .batch_execute(
            "SELECT ledger.track('texts');
             INSERT INTO texts SELECT n, repeat('x', 100000) FROM generate_series(1, 5000) n",
        )
        .unwrap();
    for verification in ["SELECT ledger.verify_all()", "SELECT * FROM ledger.verify_table('texts')"] {
        client.batch_execute("BEGIN; SAVEPOINT s; SET LOCAL statement_timeout = '150ms'").unwrap();
        assert_eq!(error(&mut client, verification).code(), &SqlState::QUERY_CANCELED, "{verification}");
        client.batch_execute("ROLLBACK TO s; INSERT INTO texts VALUES (0, 'y'); ROLLBACK").unwrap();
    }
    assert!(problems(&mut client, "texts").is_empty());
}

/// One row is looked for among all others, of which nothing but the key matters.
#[test]
fn a_row_is_found_beside_one_that_cannot_be_printed() {
    let (_cluster, mut client) = start_with(
        "CREATE TYPE mood AS ENUM ('good', 'bad');
         CREATE TABLE notes (k jsonb[] PRIMARY KEY, mood mood);
         CREATE TABLE words (k jsonb[], mood mood, PRIMARY KEY (k, mood));
         SELECT ledger.track('notes'), ledger.track('words');
         INSERT INTO notes VALUES (ARRAY['1']::jsonb[], 'bad'), (ARRAY['null']::jsonb[], 'good');
         INSERT INTO words TABLE notes",
    );
    damage(&mut client);
    let verdict = json(&mut client, r#"SELECT ledger.verify_row('notes', '{"k": [null]}')"#);
    assert_eq!(verdict["verified"], true, "{verdict}");
    let refused = error(&mut client, r#"SELECT ledger.verify_row('words', '{"k": [null], "mood": "good"}')"#);
    assert_eq!(refused.code(), &SqlState::INVALID_BINARY_REPRESENTATION);
    assert_eq!(refused.message(), "the row with ctid (0,1) of table public.words cannot be verified");
}
