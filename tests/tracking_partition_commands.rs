//! Commands that take a partition from a tracked table, or bring one: whoever gives them, the rows are recorded; they
//! wait for others as Postgres would; and a partition whose rows cannot be recorded is refused.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{pg_major, send, wait_until, Cluster, Options};
use postgres::error::SqlState;
use postgres::Client;
use std::thread;

/// The table is alice's, and all but the first partition are bob's, as is their schema.
const EVENTS: &str = "
CREATE ROLE alice; CREATE ROLE bob;
CREATE SCHEMA parts AUTHORIZATION bob;
GRANT CREATE, USAGE ON SCHEMA public, parts TO alice, bob;
CREATE TABLE events (id int, day int, what text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE parts.events_2 PARTITION OF events FOR VALUES IN (2);
CREATE TABLE parts.events_3 PARTITION OF events FOR VALUES IN (3, 4) PARTITION BY LIST (day);
CREATE TABLE events_3a PARTITION OF parts.events_3 FOR VALUES IN (3);
CREATE TABLE parts.events_3b PARTITION OF parts.events_3 FOR VALUES IN (4);
CREATE TABLE parts.events_4 PARTITION OF events DEFAULT;
INSERT INTO events SELECT n, 1 + n % 5, 'event ' || n FROM generate_series(1, 20) n;
ALTER TABLE events OWNER TO alice;
ALTER TABLE events_1 OWNER TO alice;
ALTER TABLE parts.events_2 OWNER TO bob;
ALTER TABLE parts.events_3 OWNER TO bob;
ALTER TABLE events_3a OWNER TO alice;
ALTER TABLE parts.events_3b OWNER TO bob;
ALTER TABLE parts.events_4 OWNER TO bob;
SELECT ledger.track('events');";

fn start_tracked(options: Options) -> (Cluster, Client) {
    let (cluster, mut client) = start(options);
    client.batch_execute(EVENTS).unwrap();
    assert_clean(&mut client, "events");
    (cluster, client)
}

fn as_role(role: &str, statement: &str) -> String {
    format!("SET ROLE {role}; {statement}; RESET ROLE")
}

// ---- who gives them -----------------------------------------------------------------------------------------------------

#[test]
fn a_partition_is_recorded_whoever_takes_it_away() {
    let (_cluster, mut client) = start_tracked(Options::new());
    let cases = [
        ("alice", "ALTER TABLE events DETACH PARTITION parts.events_2", 4),
        ("alice", "ALTER TABLE events DETACH PARTITION parts.events_3", 8),
        ("alice", "ALTER TABLE events DETACH PARTITION parts.events_4", 4),
        ("bob", "ALTER TABLE parts.events_3 DETACH PARTITION events_3a", 4),
        ("bob", "DROP TABLE parts.events_2", 4),
        ("bob", "DROP TABLE parts.events_2, parts.events_4", 8),
        ("bob", "DROP TABLE parts.events_3", 8),
        ("bob", "DROP TABLE IF EXISTS parts.nothing, parts.events_3b", 4),
        ("alice", "DROP TABLE events_1", 4),
        ("alice", "DROP TABLE events_3a", 4),
        // A superuser owns nothing of it.
        ("postgres", "DROP TABLE events_1, parts.events_3", 12),
        ("postgres", "ALTER TABLE events DETACH PARTITION parts.events_3", 8),
    ];
    for (role, statement, entries) in cases {
        let before = row_entries(&mut client, "events");
        client.batch_execute("BEGIN").unwrap();
        client.batch_execute(&as_role(role, statement)).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        let found = details(&mut client, "events");
        assert!(found.is_empty(), "{role}: {statement}: {found:#?}");
        assert_eq!(row_entries(&mut client, "events") - before, entries, "{role}: {statement}");
        client.batch_execute("ROLLBACK").unwrap();
    }
}

/// With IF EXISTS, a table that is not there is no error. Nobody has been asked then whether the caller may do anything
/// with the partition.
#[test]
fn a_command_for_a_table_that_is_not_there_does_nothing_to_the_partition_that_it_names() {
    let (cluster, mut client) = start_tracked(Options::new());
    client.batch_execute("CREATE ROLE stranger LOGIN").unwrap();
    let mut stranger = cluster.connect_as("stranger", "postgres");
    let pid = number(&mut stranger, "SELECT pg_backend_pid()");
    let before = row_entries(&mut client, "events");
    for command in ["ATTACH PARTITION events_1 DEFAULT", "DETACH PARTITION events_1"] {
        stranger.batch_execute(&format!("BEGIN; ALTER TABLE IF EXISTS nothing {command}")).unwrap();
        let locks = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND relation = 'events_1'::regclass");
        assert_eq!(number(&mut client, &locks), 0, "{command}");
        stranger.batch_execute("COMMIT").unwrap();
        assert_eq!(row_entries(&mut client, "events"), before, "{command}");
    }
    assert_clean(&mut client, "events");
}

/// A function in the command may set another search_path, under which another table has the name.
#[test]
fn what_is_attached_is_found_whatever_its_name_means_by_then() {
    let (cluster, mut client) = start_tracked(Options::new());
    client
        .batch_execute(
            "CREATE ROLE mallory LOGIN; CREATE SCHEMA m AUTHORIZATION mallory;
             CREATE TABLE mine (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
             ALTER TABLE mine OWNER TO mallory; SELECT ledger.track('mine')",
        )
        .unwrap();
    let before = row_entries(&mut client, "events");
    let mut mallory = cluster.connect_as("mallory", "postgres");
    mallory
        .batch_execute(
            "CREATE FUNCTION m.go(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
                 $$ BEGIN PERFORM set_config('search_path', 'public', false); RETURN $1; END $$;
             CREATE TABLE m.p (a int) PARTITION BY LIST ((m.go(a)));
             CREATE TABLE m.events_1 (a int);
             INSERT INTO m.events_1 VALUES (1);
             SET search_path = m, public;
             ALTER TABLE m.p ATTACH PARTITION events_1 FOR VALUES IN (1)",
        )
        .unwrap();
    assert_eq!(row_entries(&mut client, "events"), before, "rows of another table were recorded");
    assert_clean(&mut client, "events");
    // Nor does what is attached to an own table go unrecorded.
    mallory
        .batch_execute(
            "CREATE TABLE m.rows (id int NOT NULL, day int NOT NULL, PRIMARY KEY (id, day), CHECK (m.go(1) > 0));
             INSERT INTO m.rows VALUES (1, 1), (2, 1);
             SET search_path = m, public;
             ALTER TABLE public.mine ATTACH PARTITION rows FOR VALUES IN (1)",
        )
        .unwrap();
    assert_eq!(row_entries(&mut client, "mine"), 2);
    assert_clean(&mut client, "mine");
    assert_clean(&mut client, "events");
}

#[test]
fn who_may_create_triggers_does_not_replace_those_that_record() {
    let (cluster, mut client) = start_tracked(Options::new());
    client
        .batch_execute(
            "CREATE ROLE app LOGIN; GRANT ALL ON events TO app; CREATE SCHEMA app AUTHORIZATION app;
             CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        )
        .unwrap();
    let triggers = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'events'::regclass AND NOT tgisinternal ORDER BY 1";
    let mut app = cluster.connect_as("app", "postgres");
    for name in column(&mut client, triggers) {
        for (event, level) in [("AFTER INSERT OR UPDATE OR DELETE", "ROW"), ("BEFORE TRUNCATE", "STATEMENT")] {
            let replace = format!("CREATE OR REPLACE TRIGGER {name} {event} ON events FOR EACH {level}");
            let refused = error(&mut app, &format!("{replace} EXECUTE FUNCTION app.nothing()"));
            assert!(refused.message().starts_with("cannot replace trigger"), "{refused:?}");
        }
    }
    app.batch_execute("UPDATE events SET what = 'changed'").unwrap();
    assert_clean(&mut client, "events");
    // Nor by way of a table that is not tracked, of which a tracked one is a partition.
    client
        .batch_execute(
            "CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE part PARTITION OF whole FOR VALUES FROM (1) TO (100);
             SELECT ledger.track('part'); GRANT ALL ON whole, part TO app",
        )
        .unwrap();
    let replace =
        "CREATE OR REPLACE TRIGGER ledger_record_change AFTER INSERT OR UPDATE OR DELETE ON whole FOR EACH ROW";
    let refused = error(&mut app, &format!("{replace} EXECUTE FUNCTION app.nothing()"));
    assert!(refused.message().starts_with("cannot replace trigger"), "{refused:?}");
    app.batch_execute("INSERT INTO part VALUES (1)").unwrap();
    assert_clean(&mut client, "part");
}

/// The owner of a partition's schema may drop it, and who drops a schema, or what a role owns, drops what is in it.
#[test]
fn partitions_that_go_with_their_schema_or_their_owner_are_recorded() {
    let (_cluster, mut client) = start_tracked(Options::new());
    client.batch_execute("ALTER TABLE parts.events_2 OWNER TO alice").unwrap();
    let cases = [
        ("bob", "DROP TABLE parts.events_2", 4),
        ("bob", "DROP SCHEMA parts CASCADE", 16),
        ("postgres", "DROP SCHEMA parts CASCADE", 16),
        ("bob", "DROP OWNED BY bob CASCADE", 16),
        ("postgres", "DROP OWNED BY bob CASCADE", 16),
        ("bob", "DROP OWNED BY CURRENT_USER CASCADE", 16),
    ];
    for (role, statement, entries) in cases {
        let before = row_entries(&mut client, "events");
        client.batch_execute("BEGIN").unwrap();
        client.batch_execute(&as_role(role, statement)).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        let found = details(&mut client, "events");
        assert!(found.is_empty(), "{role}: {statement}: {found:#?}");
        assert_eq!(row_entries(&mut client, "events") - before, entries, "{role}: {statement}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    // A command that Postgres refuses has changed nothing, and says what Postgres says.
    for (role, statement) in [
        ("alice", "DROP SCHEMA parts CASCADE"),
        ("alice", "DROP OWNED BY bob"),
        ("bob", "DROP SCHEMA parts"),
        ("bob", "ALTER TABLE events DETACH PARTITION parts.events_2"),
        ("alice", "DROP TABLE parts.events_4"),
    ] {
        let before = number(&mut client, "SELECT count(*) FROM ledger.entries");
        client.batch_execute(&format!("SET ROLE {role}")).unwrap();
        let error = error(&mut client, statement);
        let expected = [&SqlState::INSUFFICIENT_PRIVILEGE, &SqlState::DEPENDENT_OBJECTS_STILL_EXIST];
        assert!(expected.contains(&error.code()), "{statement}: {error:?}");
        client.batch_execute("RESET ROLE").unwrap();
        assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), before, "{statement}");
        assert_clean(&mut client, "events");
    }
}

#[test]
fn a_tracked_table_that_goes_is_said_to_be_gone_whoever_takes_it_away() {
    let (_cluster, mut client) = start_tracked(Options::new());
    client
        .batch_execute(
            "CREATE SCHEMA other AUTHORIZATION bob; CREATE TABLE other.t (id int PRIMARY KEY); ALTER TABLE other.t OWNER TO alice;
             CREATE TABLE whole (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
             CREATE TABLE other.part PARTITION OF whole FOR VALUES IN (1); CREATE TABLE other.second PARTITION OF whole FOR VALUES IN (2);
             INSERT INTO whole VALUES (1, 1), (2, 2);
             SELECT ledger.track('other.t'), ledger.track('other.part')",
        )
        .unwrap();
    for (role, statement, tables) in [
        ("bob", "DROP TABLE other.t", 1),
        ("bob", "DROP SCHEMA other CASCADE", 2),
        ("postgres", "DROP TABLE other.t, whole", 2),
        ("postgres", "DROP TABLE whole", 1),
        ("alice", "DROP OWNED BY alice", 2),
    ] {
        let untracked = "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_untracked'";
        client.batch_execute("BEGIN").unwrap();
        client.batch_execute(&as_role(role, statement)).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        assert_eq!(number(&mut client, untracked), tables, "{role}: {statement}");
        let verdict = json(&mut client, "SELECT ledger.verify_all()");
        assert!(verdict["overall_valid"] == true, "{statement}: {verdict:#}");
        client.batch_execute("ROLLBACK").unwrap();
    }
}

#[test]
fn a_partition_that_was_detached_by_the_tables_owner_keeps_no_triggers() {
    let (_cluster, mut client) = start_tracked(Options::new());
    client.batch_execute(&as_role("alice", "ALTER TABLE events DETACH PARTITION parts.events_3")).unwrap();
    let triggers = "SELECT tgrelid::regclass || ' ' || tgname FROM pg_trigger WHERE tgrelid IN \
                    ('parts.events_3'::regclass, 'events_3a'::regclass, 'parts.events_3b'::regclass)";
    assert!(column(&mut client, triggers).is_empty());
}

/// A temporary table of the same name is found first by whoever looks for one.
#[test]
fn a_new_partition_is_watched_also_behind_a_temporary_table_of_its_name() {
    let (_cluster, mut client) = start_tracked(Options::new());
    client
        .batch_execute(
            "ALTER TABLE events DETACH PARTITION events_1;
             CREATE TEMP TABLE events_9 (id int);
             CREATE TABLE events_9 PARTITION OF events FOR VALUES IN (1);
             INSERT INTO events VALUES (1, 1, 'new'); TRUNCATE public.events_9",
        )
        .unwrap();
    assert_clean(&mut client, "events");
}

// ---- whom they wait for -------------------------------------------------------------------------------------------------

/// Runs `command` in another session while this one is in a transaction that has done `first`; when it waits, does
/// `then` and commits. Neither is the victim of a deadlock.
#[track_caller]
fn assert_no_deadlock(cluster: &Cluster, client: &mut Client, first: &str, command: &str, then: &str) {
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(first).unwrap();
    let mut other = cluster.connect("postgres");
    let pid = number(&mut other, "SELECT pg_backend_pid()");
    let statement = command.to_owned();
    let running = thread::spawn(move || other.batch_execute(&statement));
    let waits = format!("EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted)");
    wait_until("the command waits", PATIENCE, || running.is_finished() || is_true(client, &waits));
    assert!(!running.is_finished(), "{command}: it did not wait");
    let then = client.batch_execute(then);
    let end = client.batch_execute(if then.is_ok() { "COMMIT" } else { "ROLLBACK" });
    let command_ended = running.join().unwrap();
    then.unwrap_or_else(|error| panic!("{command}: this session: {error:?}"));
    end.unwrap_or_else(|error| panic!("{command}: this session: {error:?}"));
    command_ended.unwrap_or_else(|error| panic!("{command}: {error:?}"));
    let found = details(client, "events");
    assert!(found.is_empty(), "{command}: {found:#?}");
}

#[test]
fn taking_a_partition_away_waits_for_others_in_the_order_of_postgres() {
    let (cluster, mut client) = start_tracked(Options::new().conf("deadlock_timeout = 50ms"));
    let (insert_1, insert_2) = ("INSERT INTO events VALUES (101, 1, 'x')", "INSERT INTO events VALUES (102, 2, 'x')");
    let c = &mut client;
    assert_no_deadlock(&cluster, c, insert_1, "ALTER TABLE events DETACH PARTITION parts.events_2", insert_2);
    client
        .batch_execute(
            "TRUNCATE parts.events_2, events_1;
             ALTER TABLE events ATTACH PARTITION parts.events_2 FOR VALUES IN (2)",
        )
        .unwrap();
    assert_no_deadlock(&cluster, &mut client, insert_1, "DROP TABLE parts.events_2", insert_2);
}

/// Rows that are written into a partition's partition directly, until it is taken away.
#[test]
fn a_partition_of_a_partition_is_not_written_to_while_it_is_taken_away() {
    let (cluster, mut client) = start_tracked(Options::new().conf("deadlock_timeout = 50ms"));
    // A session that has written there before looks no table above up again.
    client.batch_execute("INSERT INTO events_3a VALUES (3, 3, 'x')").unwrap();
    let insert = "INSERT INTO events_3a VALUES (103, 3, 'x')";
    let detach = "ALTER TABLE events DETACH PARTITION parts.events_3";
    assert_no_deadlock(&cluster, &mut client, insert, detach, "INSERT INTO events_3a VALUES (203, 3, 'x')");
    client.batch_execute("ALTER TABLE events ATTACH PARTITION parts.events_3 FOR VALUES IN (3, 4)").unwrap();
    let insert = "INSERT INTO events_3a VALUES (303, 3, 'x')";
    let drop = "DROP TABLE parts.events_3";
    assert_no_deadlock(&cluster, &mut client, insert, drop, "INSERT INTO events_3a VALUES (403, 3, 'x')");
}

#[test]
fn bringing_a_partition_waits_for_others_from_the_top_down() {
    let (cluster, mut client) = start_tracked(Options::new().conf("deadlock_timeout = 50ms"));
    client
        .batch_execute(
            "ALTER TABLE parts.events_3 DETACH PARTITION events_3a;
             ALTER TABLE parts.events_3 DETACH PARTITION parts.events_3b",
        )
        .unwrap();
    let lock = |table: &str| format!("LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE");
    for command in [
        "ALTER TABLE parts.events_3 ATTACH PARTITION events_3a FOR VALUES IN (3)",
        "CREATE TABLE events_3c PARTITION OF parts.events_3 FOR VALUES IN (4)",
        "ALTER TABLE parts.events_3 DETACH PARTITION events_3a",
        "DROP TABLE events_3c",
    ] {
        assert_no_deadlock(&cluster, &mut client, &lock("events"), command, &lock("parts.events_3"));
    }
}

/// The worker that records what was there before is in nobody's way, and nobody in its.
#[test]
fn the_worker_locks_a_partition_after_its_table() {
    let options = Options::new().conf("deadlock_timeout = 50ms").conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(options);
    client
        .batch_execute(
            "CREATE TABLE t (id int, what text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
             CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (1) TO (1000);
             CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (1000) TO (3000);
             INSERT INTO t SELECT n, repeat('x', 900) FROM generate_series(1, 2000) n",
        )
        .unwrap();
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute("SELECT ledger.track('t', with_signature => false)").unwrap();
    let mut other = cluster.connect("postgres");
    // While the table is locked, and its partitions are not, for longer than a batch takes to begin.
    client.batch_execute("BEGIN; LOCK TABLE ONLY t IN ACCESS EXCLUSIVE MODE").unwrap();
    send(worker, libc::SIGCONT);
    client.batch_execute("SELECT pg_sleep(1)").unwrap();
    assert_eq!(number(&mut other, "SELECT count(*) FROM pg_locks WHERE NOT granted"), 0);
    assert_eq!(number(&mut other, "SELECT count(*) FROM ledger.entries WHERE metadata ? 'key'"), 0);
    client.batch_execute("LOCK TABLE t_1, t_2 IN ACCESS EXCLUSIVE MODE; COMMIT").unwrap();
    wait_until_tracked(&mut client, "t");
    assert_clean(&mut client, "t");
}

/// Who reads a row to change it, and then does.
#[test]
fn tracking_anew_and_no_more_waits_for_others_too() {
    let (cluster, mut client) = start_tracked(Options::new().conf("deadlock_timeout = 50ms"));
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); SELECT ledger.track('t')")
        .unwrap();
    for (table, command) in [
        ("events", "SELECT ledger.track('events', keep_image => true)"),
        ("t", "SELECT ledger.track('t', keep_image => true)"),
        ("t", "SELECT ledger.untrack('t')"),
    ] {
        let reads = format!("SELECT FROM {table} WHERE id = 1 FOR UPDATE");
        assert_no_deadlock(&cluster, &mut client, &reads, command, &format!("UPDATE {table} SET id = id WHERE id = 1"));
    }
}

// ---- which partitions are refused ---------------------------------------------------------------------------------------

const OTHER_METHOD: &str = "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler";

/// The statement is refused, and what is said names the partition.
#[track_caller]
fn assert_refused(client: &mut Client, statement: &str, partition: &str) {
    let error = error(client, statement);
    let code = error.code();
    let expected = [&SqlState::WRONG_OBJECT_TYPE, &SqlState::FEATURE_NOT_SUPPORTED];
    assert!(expected.contains(&code), "{statement}: {error:?}");
    assert!(error.hint().is_some(), "{statement}: {error:?}");
    assert!(all_text(&error).contains(partition), "{statement}: {error:?}");
}

#[test]
fn a_table_with_partitions_that_cannot_be_recorded_is_not_tracked() {
    let (_cluster, mut client) = start(Options::new());
    client.batch_execute(OTHER_METHOD).unwrap();
    client
        .batch_execute(
            "CREATE TABLE t (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
             CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1);
             CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2) PARTITION BY LIST (id)",
        )
        .unwrap();
    client.batch_execute("CREATE UNLOGGED TABLE t_2a PARTITION OF t_2 FOR VALUES IN (1)").unwrap();
    assert_refused(&mut client, "SELECT ledger.track('t')", "public.t_2a");
    client.batch_execute("DROP TABLE t_2a; CREATE TABLE t_2a PARTITION OF t_2 FOR VALUES IN (1) USING heap2").unwrap();
    assert_refused(&mut client, "SELECT ledger.track('t')", "public.t_2a");
    client.batch_execute("DROP TABLE t_2a; SELECT ledger.track('t_1')").unwrap();
    assert_refused(&mut client, "SELECT ledger.track('t')", "public.t_1");
    client.batch_execute("SELECT ledger.untrack('t_1'), ledger.track('t')").unwrap();
    assert_clean(&mut client, "t");
}

/// Nobody has asked for the access method in that command, and the partition is not there to be altered.
#[test]
fn a_partition_that_the_default_access_method_keeps_from_being_recorded_is_to_be_created_with_heap() {
    let (_cluster, mut client) = start_tracked(Options::new());
    let create = "CREATE TABLE events_5 PARTITION OF events FOR VALUES IN (9)";
    client.batch_execute(&format!("{OTHER_METHOD}; SET default_table_access_method = heap2")).unwrap();
    assert_eq!(error(&mut client, create).hint(), Some("Create it USING heap."));
    client.batch_execute(&format!("{create} USING heap; INSERT INTO events VALUES (99, 9, 'new')")).unwrap();
    assert_clean(&mut client, "events");
}

/// Each row has an entry then, and once it is back another one.
#[test]
fn a_partition_that_comes_back_has_no_rows_left_from_before_it_was_tracked() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
             CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (100000) PARTITION BY RANGE (id);
             CREATE TABLE p_1a PARTITION OF p_1 FOR VALUES FROM (0) TO (100000);
             CREATE TABLE p_2 PARTITION OF p FOR VALUES FROM (100000) TO (200000);
             INSERT INTO p SELECT n * 10, n FROM generate_series(1, 19999) n",
        )
        .unwrap();
    client
        .batch_execute(
            "BEGIN; SELECT ledger.track('p', with_signature => false);
             ALTER TABLE p DETACH PARTITION p_1;
             ALTER TABLE p_1 DROP COLUMN v; ALTER TABLE p_1 ADD COLUMN v int DEFAULT 5;
             ALTER TABLE p ATTACH PARTITION p_1 FOR VALUES FROM (0) TO (100000); COMMIT",
        )
        .unwrap();
    wait_until_tracked(&mut client, "p");
    let of_baseline = "SELECT count(*) FROM ledger.entries WHERE metadata->'baseline' = 'true'";
    assert_eq!(number(&mut client, of_baseline), 10_000);
    assert_clean(&mut client, "p");
}

/// It is still a partition to some, and will not be to anyone when the command is brought to its end.
#[test]
fn a_table_with_a_partition_that_is_being_detached_is_not_tracked() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY LIST (id);
             CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1);
             CREATE TABLE t_2 PARTITION OF t FOR VALUES IN (2);
             INSERT INTO t VALUES (1), (2)",
        )
        .unwrap();
    let mut reader = cluster.connect("postgres");
    reader.batch_execute("BEGIN; SELECT FROM t").unwrap();
    client.batch_execute("SET lock_timeout = '200ms'").unwrap();
    error(&mut client, "ALTER TABLE t DETACH PARTITION t_1 CONCURRENTLY");
    client.batch_execute("RESET lock_timeout").unwrap();
    reader.batch_execute("COMMIT").unwrap();
    assert_refused(&mut client, "SELECT ledger.track('t')", "public.t_1");
    client.batch_execute("ALTER TABLE t DETACH PARTITION t_1 FINALIZE").unwrap();
    client.batch_execute("SELECT ledger.track('t')").unwrap();
    assert_clean(&mut client, "t");
}

#[test]
fn partitions_that_cannot_be_recorded_are_refused() {
    let (_cluster, mut client) = start_tracked(Options::new());
    client.batch_execute(OTHER_METHOD).unwrap();
    client
        .batch_execute(
            "ALTER TABLE events DETACH PARTITION events_1;
             CREATE UNLOGGED TABLE unlogged (LIKE events INCLUDING ALL);
             CREATE TABLE other (LIKE events INCLUDING ALL) USING heap2;
             CREATE TABLE tree (LIKE events INCLUDING ALL) PARTITION BY LIST (id);
             CREATE UNLOGGED TABLE tree_1 PARTITION OF tree FOR VALUES IN (1);
             CREATE TABLE watched (LIKE events INCLUDING ALL);
             SELECT ledger.track('watched')",
        )
        .unwrap();
    for (statement, partition) in [
        ("ALTER TABLE events ATTACH PARTITION unlogged FOR VALUES IN (1)", "public.unlogged"),
        ("ALTER TABLE events ATTACH PARTITION other FOR VALUES IN (1)", "public.other"),
        ("ALTER TABLE events ATTACH PARTITION tree FOR VALUES IN (1)", "public.tree_1"),
        ("CREATE UNLOGGED TABLE events_1x PARTITION OF events FOR VALUES IN (1)", "public.events_1x"),
        ("CREATE TABLE events_1x PARTITION OF events FOR VALUES IN (1) USING heap2", "public.events_1x"),
        ("CREATE UNLOGGED TABLE events_3c PARTITION OF parts.events_3 FOR VALUES IN (NULL)", "public.events_3c"),
        ("ALTER TABLE parts.events_2 SET UNLOGGED", "parts.events_2"),
        ("ALTER TABLE parts.events_2 SET ACCESS METHOD heap2", "parts.events_2"),
        ("ALTER TABLE events_3a ADD COLUMN IF NOT EXISTS id int, SET UNLOGGED", "public.events_3a"),
        ("ALTER TABLE watched SET UNLOGGED", "public.watched"),
        ("ALTER TABLE watched SET ACCESS METHOD heap2", "public.watched"),
        ("ALTER TABLE events ATTACH PARTITION watched FOR VALUES IN (1)", "public.watched"),
    ] {
        // Postgres 14 has no such command.
        if pg_major() >= 15 || !statement.contains("SET ACCESS METHOD") {
            assert_refused(&mut client, statement, partition);
        }
        assert_clean(&mut client, "events");
    }
    // What is to be untracked is the table, as a partition of it cannot be.
    let refused = error(&mut client, "ALTER TABLE parts.events_2 SET UNLOGGED");
    assert!(refused.hint().unwrap().ends_with("SELECT ledger.untrack('public.events')."), "{refused:?}");
    assert_eq!(
        error(&mut client, "SELECT ledger.untrack('parts.events_2')").message(),
        "cannot untrack parts.events_2"
    );
    client
        .batch_execute(
            "SET default_table_access_method = heap2;
             CREATE TABLE tree_2 PARTITION OF tree FOR VALUES IN (2) USING heap;
             RESET default_table_access_method;
             DROP TABLE tree_1;
             ALTER TABLE events ATTACH PARTITION tree FOR VALUES IN (1);
             ALTER TABLE parts.events_2 SET LOGGED;
             INSERT INTO events VALUES (2, 1, 'new')",
        )
        .unwrap();
    if pg_major() >= 15 {
        client.batch_execute("ALTER TABLE parts.events_2 SET ACCESS METHOD heap").unwrap();
    }
    assert_clean(&mut client, "events");
}

/// Without the library nothing is refused. What is there then is not read as what it is not.
#[test]
fn a_partition_that_was_changed_past_the_library_is_neither_read_nor_written() {
    let (cluster, mut client) = start_tracked(Options::new());
    client
        .batch_execute(&format!(
            "{OTHER_METHOD}; SET allow_system_table_mods = on;
             UPDATE pg_class SET relam = (SELECT oid FROM pg_am WHERE amname = 'heap2') WHERE relname = 'events_2'"
        ))
        .unwrap();
    let mut client = cluster.connect("postgres");
    for statement in [
        "SELECT * FROM ledger.verify_table('events')",
        "SELECT ledger.verify_row('events', '{\"id\": 1, \"day\": 2}')",
        "INSERT INTO events VALUES (9, 2, 'x')",
        "UPDATE events SET what = 'x' WHERE day = 2",
        "TRUNCATE parts.events_2",
        "ALTER TABLE events DETACH PARTITION parts.events_2",
    ] {
        assert_refused(&mut client, statement, "parts.events_2");
    }
    assert!(!all_valid(&mut client));
}
