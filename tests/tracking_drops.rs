//! A tracked table does not go without an entry, nor a row of it, whatever the command that takes it has named.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use postgres::error::SqlState;
use postgres::Client;

/// Each of the first three tables goes with something else.
const TABLES: &str = "
CREATE TYPE person AS (id int, name text);
CREATE TABLE people OF person (PRIMARY KEY (id));
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
CREATE TABLE member (id int PRIMARY KEY);
ALTER EXTENSION plpgsql ADD TABLE member;
CREATE TABLE events (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
INSERT INTO people VALUES (1, 'a'); INSERT INTO child VALUES (1); INSERT INTO member VALUES (1);
INSERT INTO events VALUES (1, 1), (2, 1), (3, 2);
SELECT ledger.track('people'), ledger.track('child'), ledger.track('member'), ledger.track('events');";

const UNTRACKED: &str = "SELECT metadata->>'table' FROM ledger.entries WHERE entry_type = 'table_untracked' ORDER BY 1";

/// Runs a command in a transaction that is rolled back. It drops these tracked tables, each of which has its entry.
#[track_caller]
fn assert_recorded(client: &mut Client, command: &str, dropped: &[&str]) {
    client.batch_execute(&format!("BEGIN; {command}")).unwrap_or_else(|error| panic!("{command}: {error:?}"));
    assert_eq!(column(client, UNTRACKED), dropped, "{command}");
    assert!(all_valid(client), "{command}");
    client.batch_execute("ROLLBACK").unwrap();
    assert!(all_valid(client), "after {command}");
}

#[test]
fn a_table_that_goes_with_something_else_is_said_to_be_gone() {
    let (_cluster, mut client) = start_with(TABLES);
    for (command, dropped) in [
        ("DROP TYPE person CASCADE", "public.people"),
        ("DROP TABLE parent CASCADE", "public.child"),
        ("DROP EXTENSION plpgsql", "public.member"),
    ] {
        assert_recorded(&mut client, command, &[dropped]);
        // Not what was untracked before.
        let before = format!("SELECT ledger.untrack('{dropped}'); {command}");
        assert_recorded(&mut client, &before, &[dropped]);
    }
}

/// What was recorded before a command is void if the command fails.
#[test]
fn a_table_that_goes_after_a_command_has_failed_is_said_to_be_gone_once() {
    let (_cluster, mut client) = start_with(TABLES);
    client.batch_execute("CREATE VIEW names AS SELECT name FROM people; BEGIN; SAVEPOINT s").unwrap();
    assert_eq!(*error(&mut client, "DROP TABLE people").code(), SqlState::DEPENDENT_OBJECTS_STILL_EXIST);
    client.batch_execute("ROLLBACK TO s; DROP TYPE person CASCADE; COMMIT").unwrap();
    assert_eq!(column(&mut client, UNTRACKED), ["public.people"]);
    assert!(all_valid(&mut client));
}

/// By another session, or by an event trigger.
#[test]
fn a_table_whose_name_becomes_that_of_another_one_while_it_is_dropped_is_not_said_to_be_gone() {
    let (_cluster, mut client) = start_with(TABLES);
    client
        .batch_execute(
            "CREATE SCHEMA nearer; SET search_path = nearer, public;
             CREATE FUNCTION public.come_between() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN
                 CREATE TABLE nearer.people (); CREATE TABLE nearer.events_1 ();
             END $$;
             CREATE EVENT TRIGGER before ON ddl_command_start WHEN TAG IN ('DROP TABLE')
             EXECUTE FUNCTION public.come_between()",
        )
        .unwrap();
    for table in ["people", "events_1"] {
        let refused = error(&mut client, &format!("DROP TABLE {table}"));
        assert_eq!(*refused.code(), SqlState::OBJECT_IN_USE, "{refused:?}");
        assert_eq!(refused.message(), format!("the command has not dropped table public.{table}"));
    }
    assert!(all_valid(&mut client));
    assert_recorded(&mut client, "DROP TABLE public.people", &["public.people"]);
    client.batch_execute("DROP TABLE public.events_1").unwrap();
    assert_eq!(column(&mut client, "SELECT id FROM events"), ["3"]);
    assert!(all_valid(&mut client));
}

/// They roll back a part of the transaction, before the command drops anything and after.
#[test]
fn event_triggers_keep_no_table_from_being_said_to_be_gone_and_none_is_twice() {
    let (_cluster, mut client) = start_with(TABLES);
    client
        .batch_execute(
            "ALTER EXTENSION plpgsql DROP TABLE member; CREATE SCHEMA tools;
             CREATE FUNCTION tools.fail() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN
                 CREATE SEQUENCE tools.used; DROP SEQUENCE tools.used; PERFORM 1 / 0;
             EXCEPTION WHEN division_by_zero THEN
             END $$;
             CREATE EVENT TRIGGER before ON ddl_command_start WHEN TAG IN ('DROP TYPE', 'DROP TABLE', 'DROP SCHEMA')
             EXECUTE FUNCTION tools.fail();
             CREATE EVENT TRIGGER after ON sql_drop WHEN TAG IN ('DROP TYPE', 'DROP TABLE', 'DROP SCHEMA')
             EXECUTE FUNCTION tools.fail()",
        )
        .unwrap();
    assert_recorded(&mut client, "DROP TYPE person CASCADE", &["public.people"]);
    let all = ["public.child", "public.events", "public.member", "public.people"];
    assert_recorded(&mut client, "DROP SCHEMA public CASCADE", &all);
    client.batch_execute("DROP TABLE events_1").unwrap();
    assert_clean(&mut client, "events");
}

/// Postgres drops such a partition when its rows can no longer be recorded.
#[test]
fn a_partition_does_not_go_with_something_else() {
    let (_cluster, mut client) = start_with(TABLES);
    client.batch_execute("ALTER EXTENSION plpgsql ADD TABLE events_1").unwrap();
    let refused = error(&mut client, "DROP EXTENSION plpgsql");
    assert_eq!(*refused.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    let message = "cannot drop partition public.events_1 of tracked table public.events by this command";
    assert_eq!(refused.message(), message);
    assert!(column(&mut client, UNTRACKED).is_empty());
    // As the hint says.
    client.batch_execute("ALTER TABLE events DETACH PARTITION events_1; DROP EXTENSION plpgsql").unwrap();
    assert_eq!(column(&mut client, UNTRACKED), ["public.member"]);
    assert_clean(&mut client, "events");
}
