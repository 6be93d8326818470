//! In the midst of a statement, its rows are not taken for changed without a record.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use postgres::error::SqlState;
use postgres::Client;

const TABLES: &str = "
CREATE TABLE notes (id int PRIMARY KEY, body text);
CREATE TABLE events (id int PRIMARY KEY, body text) PARTITION BY RANGE (id);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (100);
SELECT ledger.track('notes'), ledger.track('events');
CREATE TABLE found (what text);
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE t regclass := TG_ARGV[1];
BEGIN
    IF TG_ARGV[0] = 'table' THEN
        INSERT INTO found SELECT problem FROM ledger.verify_table(t);
    ELSIF TG_ARGV[0] = 'row' THEN
        INSERT INTO found SELECT ledger.verify_row(t, jsonb_build_object('id', NEW.id)) ->> 'problem';
    ELSIF TG_ARGV[0] = 'history' THEN
        INSERT INTO found SELECT operation FROM ledger.history(t, jsonb_build_object('id', NEW.id));
    ELSIF TG_ARGV[0] = 'attempt' THEN
        BEGIN
            EXECUTE format('SELECT ledger.verified(t) FROM %s AS t WHERE id = $1', t) USING NEW.id;
        EXCEPTION WHEN data_corrupted THEN RAISE 'a false alarm';
        END;
    ELSE
        EXECUTE format('SELECT ledger.verified(t) FROM %s AS t WHERE id = $1', t) USING NEW.id;
    END IF;
    RETURN NULL;
END $$;";

/// Each way to look, and what it finds after the first INSERT and the first UPDATE of a row.
const WAYS: [(&str, &str, [&[&str]; 2]); 4] = [
    ("verified", "ROW", [&[], &[]]),
    ("row", "ROW", [&[""], &[""]]),
    ("history", "ROW", [&["insert"], &["insert", "update"]]),
    ("table", "STATEMENT", [&[], &[]]),
];

fn found(client: &mut Client) -> Vec<String> {
    column(client, "WITH gone AS (DELETE FROM found RETURNING what) SELECT coalesce(what, '') FROM gone")
}

#[test]
fn triggers_of_a_statement_verify_what_the_one_that_records_has_recorded_before_them() {
    let (_cluster, mut client) = start_with(TABLES);
    let mut id = 0;
    for table in ["notes", "events"] {
        for (way, level, [inserted, updated]) in WAYS {
            id += 1;
            client
                .batch_execute(&format!(
                    "CREATE TRIGGER zz AFTER INSERT OR UPDATE ON {table} FOR EACH {level} EXECUTE FUNCTION look({way}, {table})"
                ))
                .unwrap();
            client.batch_execute(&format!("INSERT INTO {table} VALUES ({id}, 'a')")).unwrap();
            assert_eq!(found(&mut client), inserted, "{way} of {table}");
            client.batch_execute(&format!("UPDATE {table} SET body = 'b' WHERE id = {id}")).unwrap();
            assert_eq!(found(&mut client), updated, "{way} of {table}");
            client.batch_execute(&format!("DROP TRIGGER zz ON {table}")).unwrap();
        }
    }
    assert!(all_valid(&mut client));
}

/// Not what has been changed past the triggers, which it would be said to be.
#[test]
fn what_is_not_recorded_yet_is_said_to_be_under_way() {
    let (_cluster, mut client) = start_with(TABLES);
    client
        .batch_execute(
            "INSERT INTO notes VALUES (1, 'a'); INSERT INTO events VALUES (1, 'a');
             CREATE TRIGGER zz AFTER INSERT OR UPDATE ON notes FOR EACH ROW WHEN (NEW.body = 'attempt')
             EXECUTE FUNCTION look(attempt, notes);
             CREATE TRIGGER aa AFTER INSERT OR UPDATE ON notes FOR EACH ROW WHEN (NEW.body = 'early')
             EXECUTE FUNCTION look('table', notes)",
        )
        .unwrap();
    for (sql, table) in [
        ("INSERT INTO notes VALUES (2, 'a') RETURNING ledger.verified(notes)", "notes"),
        ("UPDATE notes SET body = 'b' RETURNING ledger.verified(notes)", "notes"),
        ("UPDATE events SET body = 'b' RETURNING ledger.verified(events)", "events"),
        ("INSERT INTO notes VALUES (2, 'attempt')", "notes"),
        ("UPDATE notes SET body = 'early'", "notes"),
    ] {
        let refused = error(&mut client, sql);
        assert_eq!(*refused.code(), SqlState::OBJECT_IN_USE, "{sql}: {refused:?}");
        let message = format!("cannot verify table public.{table} because it has pending trigger events");
        assert_eq!(refused.message(), message, "{sql}");
    }
    // What it returns has not changed.
    client.batch_execute("UPDATE notes SET body = body RETURNING ledger.verified(notes)").unwrap();
    assert!(all_valid(&mut client));
}

#[test]
fn a_deferred_trigger_verifies_what_its_transaction_has_changed() {
    let (_cluster, mut client) = start_with(TABLES);
    client
        .batch_execute(
            "CREATE CONSTRAINT TRIGGER aa AFTER INSERT OR UPDATE ON notes DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION look(verified, notes);
             INSERT INTO notes VALUES (1, 'a'); BEGIN; UPDATE notes SET body = 'b'; INSERT INTO notes VALUES (2, 'a'); COMMIT",
        )
        .unwrap();
    assert!(all_valid(&mut client));
}

#[test]
fn a_row_changed_past_the_triggers_does_not_verify_in_a_trigger_either() {
    let (_cluster, mut client) = start_with(TABLES);
    forge(&mut client, "INSERT INTO notes VALUES (1, 'a')", "UPDATE notes SET body = 'forged'");
    client
        .batch_execute(
            "CREATE TABLE other (id int);
             CREATE TRIGGER look AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION look(verified, notes);
             CREATE FUNCTION look_at_first() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM ledger.verified(n) FROM notes n WHERE id = 1; RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER look AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION look_at_first()",
        )
        .unwrap();
    let refused = error(&mut client, "INSERT INTO other VALUES (1)");
    assert_eq!(*refused.code(), SqlState::DATA_CORRUPTED, "{refused:?}");
    assert!(refused.message().contains("does not verify: modified"), "{refused:?}");
    // Of the table itself it cannot be told whether the change is still to be recorded, but what was found is said.
    let refused = error(&mut client, "INSERT INTO notes VALUES (2, 'a')");
    assert_eq!(*refused.code(), SqlState::OBJECT_IN_USE, "{refused:?}");
    assert!(refused.detail().unwrap().contains("does not verify: modified"), "{refused:?}");
}

/// Runs the second command past the triggers.
fn forge(client: &mut Client, recorded: &str, forged: &str) {
    let past = format!("{recorded}; {APPLICATION_TRIGGERS_OFF}; {forged}; SET session_replication_role = origin");
    client.batch_execute(&past).unwrap();
}

/// They are recorded as gone before they are.
#[test]
fn rows_that_are_about_to_go_are_not_said_to_have_come_back() {
    let (_cluster, mut client) = start_with(TABLES);
    client
        .batch_execute(
            "INSERT INTO notes VALUES (1, 'a'); INSERT INTO events VALUES (1, 'a');
             CREATE FUNCTION look_before() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 BEGIN
                     PERFORM 1 / 0;
                 EXCEPTION WHEN division_by_zero THEN
                 END;
                 PERFORM FROM ledger.verify_table('notes');
                 IF FOUND THEN RAISE 'a false alarm'; END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER zz BEFORE TRUNCATE ON notes EXECUTE FUNCTION look_before();
             CREATE FUNCTION look_at_events() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM FROM ledger.verify_table('events');
                 IF FOUND THEN RAISE 'a false alarm'; END IF;
             END $$;
             CREATE EVENT TRIGGER look ON ddl_command_start WHEN TAG IN ('DROP TABLE', 'ALTER TABLE')
             EXECUTE FUNCTION look_at_events();
             TRUNCATE notes; ALTER TABLE events DETACH PARTITION events_1;
             ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES FROM (0) TO (100); DROP TABLE events_1",
        )
        .unwrap();
    assert!(all_valid(&mut client));
    client.batch_execute("INSERT INTO notes VALUES (1, 'a') RETURNING body").unwrap();
    forge(&mut client, "SELECT 1", "UPDATE notes SET body = 'forged'");
    let refused = error(&mut client, "SELECT ledger.verified(notes) FROM notes");
    assert_eq!(*refused.code(), SqlState::DATA_CORRUPTED, "{refused:?}");
}

/// It would be refused a row that it does not ask for.
#[test]
fn a_query_applies_its_own_conditions_before_it_verifies_rows() {
    let (_cluster, mut client) = start_with(TABLES);
    forge(&mut client, "INSERT INTO notes VALUES (1, 'ada'), (2, 'bob')", "INSERT INTO notes VALUES (3, 'bob')");
    let query = |of: &str| format!("SELECT id FROM notes WHERE ledger.verified(notes) IS NOT NULL AND body = '{of}'");
    assert_eq!(column(&mut client, &query("ada")), ["1"]);
    assert_eq!(*error(&mut client, &query("bob")).code(), SqlState::DATA_CORRUPTED);
}

#[test]
fn a_column_is_named_once() {
    let (_cluster, mut client) = start_with(TABLES);
    for parameter in ["columns", "excluded"] {
        let refused = error(&mut client, &format!("SELECT ledger.track('notes', {parameter} => '{{body,id,body}}')"));
        assert_eq!(*refused.code(), SqlState::DUPLICATE_COLUMN, "{refused:?}");
        assert_eq!(refused.message(), "column \"body\" specified more than once");
    }
}
