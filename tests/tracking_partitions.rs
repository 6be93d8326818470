//! Rows of a partitioned table come and go in more ways than others: each is recorded.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{pg_major, Cluster, Options};
use postgres::Client;

/// Partitions by day, of which one has partitions itself and one has its columns in another order.
const EVENTS: &str = "
CREATE TABLE events (id int, day int, what text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (1) TO (2);
CREATE TABLE events_2 (what text, gone int, day int NOT NULL, id int NOT NULL);
ALTER TABLE events_2 DROP COLUMN gone;
ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES FROM (2) TO (3);
CREATE TABLE events_3 PARTITION OF events FOR VALUES FROM (3) TO (4) PARTITION BY HASH (id);
CREATE TABLE events_3a PARTITION OF events_3 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE events_3b PARTITION OF events_3 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO events SELECT n, 1 + n % 3, 'event ' || n FROM generate_series(1, 30) n;
SELECT ledger.track('events');";

fn start_tracked() -> (Cluster, Client) {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute(EVENTS).unwrap();
    assert_clean(&mut client, "events");
    assert_eq!(row_entries(&mut client, "events"), 30);
    (cluster, client)
}

/// Rows that come, go and move as the rows do that they refer to, and by what is no plain statement.
#[test]
fn rows_that_follow_others_are_recorded() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE days (day int PRIMARY KEY);
             INSERT INTO days SELECT generate_series(1, 9);
             CREATE TABLE events (id int, day int REFERENCES days ON DELETE CASCADE ON UPDATE CASCADE, what text,
                                  PRIMARY KEY (id, day)) PARTITION BY LIST (day);
             CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1, 11);
             CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2, 12) PARTITION BY LIST (day);
             CREATE TABLE events_2a PARTITION OF events_2 FOR VALUES IN (2);
             CREATE TABLE events_2b PARTITION OF events_2 DEFAULT;
             CREATE TABLE events_d PARTITION OF events DEFAULT;
             CREATE TABLE details (id int, day int, n int, PRIMARY KEY (n, id, day),
                                   FOREIGN KEY (id, day) REFERENCES events ON DELETE CASCADE ON UPDATE CASCADE)
                 PARTITION BY HASH (n);
             CREATE TABLE details_1 PARTITION OF details FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE details_2 PARTITION OF details FOR VALUES WITH (MODULUS 2, REMAINDER 1);
             SELECT ledger.track('events'), ledger.track('details')",
        )
        .unwrap();
    let fill = "INSERT INTO events SELECT n, day, 'event ' || n FROM generate_series(1, 12) n
                JOIN days ON day = 1 + n % 4 ON CONFLICT DO NOTHING;
                INSERT INTO details SELECT id, day, id FROM events ON CONFLICT DO NOTHING";
    let statements = [
        "DELETE FROM days WHERE day = 1",
        "UPDATE days SET day = 12 WHERE day = 2",
        "UPDATE days SET day = 2 WHERE day = 12",
        "UPDATE days SET day = 11 WHERE day = 3",
        "INSERT INTO days VALUES (1), (3)",
        "DELETE FROM events WHERE day IN (2, 3)",
        "UPDATE events SET id = id + 100",
        "UPDATE events_d SET what = 'changed'",
        "SET session_replication_role = replica; CREATE TABLE events_5 PARTITION OF events FOR VALUES IN (5); \
         INSERT INTO events VALUES (900, 5, 'replicated'); UPDATE events SET day = 2 WHERE id = 900; \
         RESET session_replication_role",
        "ALTER TABLE details DROP CONSTRAINT details_id_day_fkey",
        "BEGIN; CREATE TABLE events_6 (LIKE events); INSERT INTO events_6 VALUES (901, 6, 'x'), (902, 6, 'y'); \
         DELETE FROM events_6 WHERE id = 902; ALTER TABLE events ATTACH PARTITION events_6 FOR VALUES IN (6); \
         UPDATE events SET what = 'z' WHERE day = 6; COMMIT",
        "BEGIN; TRUNCATE events_6; COPY events FROM PROGRAM 'printf \"903\\t6\\tfrozen\\n\"'; COMMIT",
        "BEGIN; TRUNCATE events_6; COPY events_6 FROM PROGRAM 'printf \"904\\t6\\tfrozen\\n\"' WITH (FREEZE); \
         UPDATE events SET what = 'thawed' WHERE day = 6; COMMIT",
        "BEGIN; ALTER TABLE events DETACH PARTITION events_6; UPDATE events_6 SET what = 'apart'; \
         ALTER TABLE events ATTACH PARTITION events_6 FOR VALUES IN (6); COMMIT",
        "BEGIN; DELETE FROM events WHERE day = 6; DROP TABLE events_6; COMMIT",
        "BEGIN; SAVEPOINT a; DROP TABLE events_1; ROLLBACK TO a; UPDATE events SET what = 'kept' WHERE day = 1; COMMIT",
        "ALTER TABLE events_2 DETACH PARTITION events_2b; DROP TABLE events_2b",
    ];
    let merge =
        "MERGE INTO events USING (VALUES (1, 2), (1000, 4)) AS v (id, day) ON events.id = v.id AND events.day = v.day \
         WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.day, 'merged')";
    // Postgres 14 has no MERGE.
    let merge = (pg_major() >= 15).then_some(merge);
    for statement in statements.into_iter().chain(merge) {
        client.batch_execute(fill).unwrap_or_else(|error| panic!("before {statement}: {error:?}"));
        client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        for table in ["events", "details"] {
            let found = details(&mut client, table);
            assert!(found.is_empty(), "{statement}: {table}: {found:#?}");
        }
    }
    assert_clean(&mut client, "events");
}

/// Each of these leaves the table as it is recorded, with that many entries more.
#[track_caller]
fn assert_recorded(client: &mut Client, steps: &[(&str, i64)]) {
    for (statement, entries) in steps {
        let before = row_entries(client, "events");
        client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        let found = details(client, "events");
        assert!(found.is_empty(), "{statement}: {found:#?}");
        assert_eq!(row_entries(client, "events") - before, *entries, "{statement}");
    }
    assert_clean(client, "events");
}

#[test]
fn rows_are_recorded_by_whichever_partition_they_come() {
    let (_cluster, mut client) = start_tracked();
    assert_recorded(
        &mut client,
        &[
            ("INSERT INTO events SELECT n, 1 + n % 3, 'new' FROM generate_series(101, 109) n", 9),
            ("INSERT INTO events_2 (id, day, what) VALUES (200, 2, 'direct')", 1),
            ("INSERT INTO events_3b (id, day, what) SELECT id + 1000, day, what FROM events_3b LIMIT 0", 0),
            ("INSERT INTO events_3 VALUES (201, 3, 'direct')", 1),
            ("UPDATE events SET what = 'changed' WHERE id <= 6", 6),
            ("UPDATE events_2 SET what = 'changed directly' WHERE id = 200", 1),
            ("DELETE FROM events_1 WHERE id = 3", 1),
            ("DELETE FROM events WHERE id IN (4, 5)", 2),
            ("INSERT INTO events VALUES (200, 2, 'again') ON CONFLICT (id, day) DO UPDATE SET what = 'upserted'", 1),
        ],
    );
}

/// A move is a delete and an insert to the triggers of partitions.
#[test]
fn rows_that_move_between_partitions_are_recorded() {
    let (_cluster, mut client) = start_tracked();
    assert_recorded(
        &mut client,
        &[
            ("UPDATE events SET day = 2 WHERE id = 3", 2),
            ("UPDATE events SET day = 3, what = 'moved' WHERE id IN (1, 4, 7)", 6),
            ("UPDATE events SET day = 1 WHERE id = 3", 2),
            (
                "BEGIN; UPDATE events SET day = 2 WHERE id = 3; UPDATE events SET day = 3 WHERE id = 3; \
              UPDATE events SET day = 1 WHERE id = 3; ROLLBACK",
                0,
            ),
            (
                "BEGIN; UPDATE events SET day = 2 WHERE id = 3; UPDATE events SET day = 3 WHERE id = 3; \
              UPDATE events SET day = 1 WHERE id = 3; COMMIT",
                6,
            ),
        ],
    );
}

#[test]
fn rows_that_come_and_go_with_their_partition_are_recorded() {
    let (_cluster, mut client) = start_tracked();
    assert_recorded(
        &mut client,
        &[
            ("CREATE TABLE events_4 PARTITION OF events FOR VALUES FROM (4) TO (5)", 0),
            ("INSERT INTO events VALUES (400, 4, 'new')", 1),
            ("ALTER TABLE events DETACH PARTITION events_2", 10),
            // A table of its own now, which is not tracked.
            ("UPDATE events_2 SET what = 'not recorded'; DELETE FROM events_2 WHERE id = 1", 0),
            ("ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES FROM (2) TO (3)", 9),
            ("UPDATE events SET what = 'recorded' WHERE day = 2", 9),
            ("CREATE TABLE events_5 (LIKE events); INSERT INTO events_5 VALUES (500, 5, 'before'), (501, 5, 'before')", 0),
            ("ALTER TABLE events ATTACH PARTITION events_5 FOR VALUES FROM (5) TO (6)", 2),
            ("DROP TABLE events_5", 2),
            ("BEGIN; DROP TABLE events_1; ROLLBACK", 0),
            ("DROP TABLE events_4, events_1", 11),
            ("ALTER TABLE events DETACH PARTITION events_3", 10),
            ("ALTER TABLE events ATTACH PARTITION events_3 FOR VALUES FROM (3) TO (4)", 10),
            // Half of the ten rows of that day.
            ("ALTER TABLE events_3 DETACH PARTITION events_3a", 5),
        ],
    );
    // Everything that is left goes.
    client.batch_execute("DROP TABLE events_3").unwrap();
    assert_clean(&mut client, "events");
    client
        .batch_execute("CREATE TABLE events_9 PARTITION OF events DEFAULT; INSERT INTO events VALUES (1, 1, 'x')")
        .unwrap();
    client.batch_execute("TRUNCATE events_9").unwrap();
    assert_clean(&mut client, "events");
}

#[test]
fn truncating_the_table_or_a_partition_is_recorded() {
    let (_cluster, mut client) = start_tracked();
    assert_recorded(
        &mut client,
        &[
            ("TRUNCATE events_1", 10),
            ("INSERT INTO events VALUES (3, 1, 'again')", 1),
            ("TRUNCATE events_3", 10),
            ("BEGIN; TRUNCATE events; ROLLBACK", 0),
            // One entry says it of the table, and names no row.
            ("TRUNCATE events", 0),
            ("INSERT INTO events VALUES (3, 1, 'again'), (4, 2, 'again')", 2),
            ("TRUNCATE events_1, events_2", 2),
            ("BEGIN; INSERT INTO events VALUES (3, 1, 'again'); TRUNCATE events; INSERT INTO events VALUES (3, 1, 'b'); \
              TRUNCATE events_1; INSERT INTO events VALUES (3, 1, 'c'); COMMIT", 4),
        ],
    );
    let truncates = "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_truncate'";
    assert_eq!(number(&mut client, truncates), 2);
}

#[test]
fn rows_of_partitions_that_were_changed_behind_the_applications_back_are_named() {
    let (_cluster, mut client) = start_tracked();
    let attacks = [
        ("UPDATE events SET what = 'forged' WHERE id = 3", vec!["{\"id\": 3, \"day\": 1} modified"]),
        ("UPDATE events_2 SET what = 'forged' WHERE id = 4", vec!["{\"id\": 4, \"day\": 2} modified"]),
        ("DELETE FROM events_3 WHERE id = 5", vec!["{\"id\": 5, \"day\": 3} missing"]),
        (
            "UPDATE events SET day = 2 WHERE id = 3",
            vec!["{\"id\": 3, \"day\": 1} missing", "{\"id\": 3, \"day\": 2} unrecorded"],
        ),
        ("INSERT INTO events_1 VALUES (300, 1, 'forged')", vec!["{\"id\": 300, \"day\": 1} unrecorded"]),
    ];
    for (attack, expected) in attacks {
        client.batch_execute("BEGIN").unwrap();
        client.batch_execute(APPLICATION_TRIGGERS_OFF).unwrap();
        client.batch_execute(attack).unwrap();
        assert_eq!(problems(&mut client, "events"), expected, "{attack}");
        assert!(!all_valid(&mut client));
        client.batch_execute("ROLLBACK").unwrap();
    }
    assert_clean(&mut client, "events");
}

/// A partition whose trigger alone is off records nothing: what it lets through is named.
#[test]
fn a_partition_whose_triggers_are_off_hides_nothing() {
    let (_cluster, mut client) = start_tracked();
    client
        .batch_execute("ALTER TABLE events_2 DISABLE TRIGGER ALL; UPDATE events SET what = 'x' WHERE id IN (3, 4)")
        .unwrap();
    assert_eq!(problems(&mut client, "events"), ["{\"id\": 4, \"day\": 2} modified"]);
}

#[test]
fn a_detached_partition_keeps_no_triggers_and_may_be_tracked_itself() {
    let (_cluster, mut client) = start_tracked();
    client.batch_execute("ALTER TABLE events DETACH PARTITION events_2").unwrap();
    let triggers = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'events_2'::regclass";
    assert!(column(&mut client, triggers).is_empty());
    client.batch_execute("SELECT ledger.track('events_2')").unwrap();
    client.batch_execute("UPDATE events_2 SET what = 'x'").unwrap();
    assert_clean(&mut client, "events_2");
    assert_clean(&mut client, "events");
    // Tracked as two tables it cannot be.
    let again = "ALTER TABLE events ATTACH PARTITION events_2 FOR VALUES FROM (2) TO (3)";
    let refused = error(&mut client, again);
    assert_eq!(refused.message(), "cannot attach public.events_2 as a partition of tracked table public.events");
    assert_clean(&mut client, "events");
    assert_clean(&mut client, "events_2");
}

#[test]
fn a_large_partitioned_table_is_recorded_by_the_worker() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_size = 500"));
    client
        .batch_execute(
            "CREATE TABLE events (id int, day int, what text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
             CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
             CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
             CREATE TABLE events_3 PARTITION OF events FOR VALUES IN (3);
             INSERT INTO events SELECT n, 1 + n % 3, repeat('x', 900) FROM generate_series(1, 1500) n;
             SELECT ledger.track('events', with_signature => false);
             UPDATE events SET day = 2 WHERE id = 3;
             DELETE FROM events WHERE id = 4;
             ALTER TABLE events DETACH PARTITION events_3;
             TRUNCATE events_1",
        )
        .unwrap();
    wait_until_tracked(&mut client, "events");
    assert_clean(&mut client, "events");
}
