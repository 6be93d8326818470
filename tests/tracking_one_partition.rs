//! `verify_row()` and `history()` look for a row where the bounds of the partitions put its key, and lock nothing else.
//! A row that is not there is looked for everywhere.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use postgres::Client;

/// Tables with many partitions each, of every kind. Every column but `v` is part of the key.
const TABLES: &str = "
CREATE TABLE ranges (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE ranges_default PARTITION OF ranges DEFAULT;
CREATE TABLE pairs (a numeric, b text COLLATE \"C\", v text, PRIMARY KEY (b, a)) PARTITION BY RANGE (a, b);
CREATE TABLE lists (region text, id int, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE lists_default PARTITION OF lists DEFAULT;
CREATE TABLE hashes (id bigint, tenant uuid, span interval, v text, PRIMARY KEY (span, tenant, id))
    PARTITION BY HASH (tenant, span);
CREATE TABLE levels (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
DO $$ BEGIN
    FOR n IN 1..24 LOOP
        EXECUTE format('CREATE TABLE ranges_%s PARTITION OF ranges FOR VALUES FROM (%L) TO (%L)', n,
                       date '2020-01-01' + n * 10, date '2020-01-11' + n * 10);
        EXECUTE format('CREATE TABLE pairs_%1$s PARTITION OF pairs FOR VALUES FROM (%1$s, MINVALUE) TO (%1$s, %2$L)', n, 'm');
        EXECUTE format('CREATE TABLE pairs_%1$sb PARTITION OF pairs FOR VALUES FROM (%1$s, %2$L) TO (%1$s, MAXVALUE)', n, 'm');
        EXECUTE format('CREATE TABLE lists_%s PARTITION OF lists FOR VALUES IN (%L, %L)', n, 'r' || n, 's' || n);
        EXECUTE format('CREATE TABLE hashes_%s PARTITION OF hashes FOR VALUES WITH (MODULUS 24, REMAINDER %s)', n, n - 1);
        EXECUTE format('CREATE TABLE levels_%s (v text, day int NOT NULL, gone int, id int NOT NULL) PARTITION BY %s', n,
                       CASE n % 3 WHEN 0 THEN 'HASH (id)' WHEN 1 THEN 'LIST (id)' ELSE 'RANGE (day, id)' END);
        EXECUTE format('ALTER TABLE levels_%s DROP COLUMN gone', n);
        EXECUTE format('ALTER TABLE levels ATTACH PARTITION levels_%1$s FOR VALUES FROM (%1$s) TO (%2$s)', n, n + 1);
        EXECUTE format('CREATE TABLE levels_%1$s_a PARTITION OF levels_%1$s FOR VALUES %2$s', n,
                       CASE n % 3 WHEN 0 THEN 'WITH (MODULUS 2, REMAINDER 0)' WHEN 1 THEN 'IN (1, 2)'
                                  ELSE format('FROM (%1$s, 1) TO (%1$s, 3)', n) END);
        EXECUTE format('CREATE TABLE levels_%1$s_b PARTITION OF levels_%1$s %2$s', n,
                       CASE n % 3 WHEN 0 THEN 'FOR VALUES WITH (MODULUS 2, REMAINDER 1)' ELSE 'DEFAULT' END);
    END LOOP;
END $$;
SELECT ledger.track('ranges'), ledger.track('pairs'), ledger.track('lists'), ledger.track('hashes'),
       ledger.track('levels');
INSERT INTO ranges SELECT n, date '2019-12-20' + n * 9, 'x' FROM generate_series(1, 30) n;
INSERT INTO pairs SELECT n, word, 'x' FROM generate_series(1, 24) n, unnest('{a,m,z}'::text[]) word;
INSERT INTO lists SELECT n, n, 'x' FROM generate_series(1, 3) n;
INSERT INTO lists SELECT kind || n, n, 'x' FROM generate_series(1, 26) n, unnest('{r,s}'::text[]) kind;
INSERT INTO hashes SELECT n, md5(n::text)::uuid, make_interval(hours => n), 'x' FROM generate_series(1, 40) n;
INSERT INTO levels SELECT id, day, 'x' FROM generate_series(1, 4) id, generate_series(1, 24) day;";

const NAMES: [&str; 5] = ["ranges", "pairs", "lists", "hashes", "levels"];

/// Which of the table and its partitions this transaction has locked.
#[track_caller]
fn locked(client: &mut Client, table: &str) -> String {
    let sql = format!(
        "SELECT string_agg(DISTINCT relname, ' ' ORDER BY relname) FROM pg_locks JOIN pg_class c ON c.oid = relation \
         WHERE pid = pg_backend_pid() AND relkind IN ('r', 'p') AND relname LIKE '{table}%'"
    );
    value(client, &sql)
}

/// The keys of the rows, and the names of the partition that each is in, of those above it, and of the table.
#[track_caller]
fn keys(client: &mut Client, table: &str) -> Vec<(String, String)> {
    let sql = format!(
        "SELECT concat_ws('|', to_jsonb(t) - 'v', (SELECT string_agg(relname, ' ' ORDER BY relname) \
             FROM pg_class WHERE oid IN (SELECT relid FROM pg_partition_ancestors(t.tableoid)))) FROM {table} t"
    );
    let rows = column(client, &sql);
    rows.iter().map(|row| row.split_once('|').unwrap()).map(|(key, names)| (key.to_owned(), names.to_owned())).collect()
}

#[track_caller]
fn verdict_of(client: &mut Client, table: &str, key: &str) -> String {
    value(client, &format!("SELECT v->>'verified' || coalesce(' ' || (v->>'problem'), '') FROM ledger.verify_row('{table}', '{key}') v"))
}

#[track_caller]
fn operations(client: &mut Client, table: &str, key: &str) -> String {
    column(client, &format!("SELECT operation FROM ledger.history('{table}', '{key}')")).join(" ")
}

#[test]
fn a_look_up_of_a_row_locks_only_the_partition_of_the_row() {
    let (_cluster, mut client) = start_with(TABLES);
    for table in NAMES {
        let keys = keys(&mut client, table);
        assert!(keys.len() >= 30, "{table}");
        for (key, names) in keys {
            client.batch_execute("BEGIN").unwrap();
            assert_eq!(verdict_of(&mut client, table, &key), "true", "{table} {key}");
            assert_eq!(locked(&mut client, table), names, "{table} {key}");
            client.batch_execute("COMMIT; BEGIN").unwrap();
            assert_eq!(operations(&mut client, table, &key), "insert", "{table} {key}");
            assert_eq!(locked(&mut client, table), names, "{table} {key}");
            client.batch_execute("COMMIT").unwrap();
        }
    }
    // However the key is written.
    for (table, key) in [
        ("ranges", r#"{"id": "7", "at": "20200221"}"#),
        ("pairs", r#"{"a": 3.000, "b": "m"}"#),
        ("hashes", r#"{"id": 36, "tenant": "19CA14E7EA6328A42E0EB13D585E4C22", "span": "1 day 12:00"}"#),
    ] {
        client.batch_execute("BEGIN").unwrap();
        assert_eq!(verdict_of(&mut client, table, key), "true", "{table} {key}");
        assert!(locked(&mut client, table).split(' ').count() == 2, "{table} {key}: {}", locked(&mut client, table));
        client.batch_execute("COMMIT").unwrap();
    }
}

#[test]
fn a_row_that_is_nowhere_is_said_to_be_what_it_is() {
    let (_cluster, mut client) = start_with(TABLES);
    client
        .batch_execute(
            "DELETE FROM ranges WHERE id = 3; UPDATE ranges SET at = date '2020-03-03' WHERE id = 4;
             UPDATE ranges SET at = date '1999-09-09' WHERE id = 5; DELETE FROM levels WHERE (id, day) = (1, 9);
             UPDATE levels SET day = 9 WHERE (id, day) = (1, 2)",
        )
        .unwrap();
    let cases = [
        // Never there; the last two are keys that no partition takes.
        ("ranges", r#"{"id": 99, "at": "2020-03-03"}"#, "false", ""),
        ("ranges", r#"{"id": 99, "at": "1999-09-09"}"#, "false", ""),
        ("lists", r#"{"id": 99, "region": "r7"}"#, "false", ""),
        ("hashes", r#"{"id": 1, "tenant": "19ca14e7ea6328a42e0eb13d585e4c22", "span": "7 days"}"#, "false", ""),
        ("levels", r#"{"id": 1, "day": 99}"#, "false", ""),
        ("pairs", r#"{"a": 99, "b": "m"}"#, "false", ""),
        // Deleted, and moved from one partition to another.
        ("ranges", r#"{"id": 3, "at": "2020-01-16"}"#, "true", "insert delete"),
        ("ranges", r#"{"id": 4, "at": "2020-01-25"}"#, "true", "insert delete"),
        ("ranges", r#"{"id": 4, "at": "2020-03-03"}"#, "true", "insert"),
        ("ranges", r#"{"id": 5, "at": "1999-09-09"}"#, "true", "insert"),
        ("levels", r#"{"id": 1, "day": 2}"#, "true", "insert delete"),
        ("levels", r#"{"id": 1, "day": 9}"#, "true", "insert delete insert"),
    ];
    for (table, key, verdict, history) in cases {
        assert_eq!(verdict_of(&mut client, table, key), verdict, "{table} {key}");
        assert_eq!(operations(&mut client, table, key), history, "{table} {key}");
    }
    client.batch_execute(APPLICATION_TRIGGERS_OFF).unwrap();
    client
        .batch_execute(
            "UPDATE ranges SET v = 'forged' WHERE id = 5; DELETE FROM ranges WHERE id = 6;
             INSERT INTO ranges VALUES (3, '2020-01-16', 'x'), (99, '1999-09-09', 'x');
             UPDATE levels SET v = 'forged' WHERE (id, day) = (4, 5)",
        )
        .unwrap();
    for (table, key, problem) in [
        ("ranges", r#"{"id": 5, "at": "1999-09-09"}"#, "modified"),
        ("ranges", r#"{"id": 6, "at": "2020-02-12"}"#, "missing"),
        ("ranges", r#"{"id": 3, "at": "2020-01-16"}"#, "resurrected"),
        ("ranges", r#"{"id": 99, "at": "1999-09-09"}"#, "unrecorded"),
        ("levels", r#"{"id": 4, "day": 5}"#, "modified"),
    ] {
        assert_eq!(verdict_of(&mut client, table, key), format!("false {problem}"), "{table} {key}");
    }
}

const EVENTS: &str = "
CREATE TABLE events (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
CREATE TABLE events_3 PARTITION OF events FOR VALUES IN (3);
SELECT ledger.track('events');
INSERT INTO events SELECT n, 1 + n % 3, 'x' FROM generate_series(1, 15) n;
DELETE FROM events WHERE id = 14;";

/// Two partitions have exchanged their bounds, by the catalog.
const EXCHANGED: &str = "
UPDATE pg_class AS c SET relpartbound = o.relpartbound FROM pg_class AS o
    WHERE (c.relname, o.relname) IN (('events_2', 'events_3'), ('events_3', 'events_2'));
UPDATE pg_class SET relname = relname WHERE relname = 'events'";

#[test]
fn a_row_in_a_partition_that_does_not_take_it_is_found() {
    let (cluster, mut client) = start_with(EVENTS);
    client.batch_execute(EXCHANGED).unwrap();
    let mut client_of_before = client;
    let mut client = cluster.connect("postgres");
    assert_eq!(number(&mut client, "SELECT count(*) FROM events WHERE day = 2"), 0);
    for client in [&mut client_of_before, &mut client] {
        for table in ["events", "events_1", "events_2", "events_3"] {
            assert_eq!(verdict_of(client, table, r#"{"id": 4, "day": 2}"#), "true", "{table}");
            assert_eq!(operations(client, table, r#"{"id": 4, "day": 2}"#), "insert", "{table}");
        }
    }
    client.batch_execute(EXCHANGED).unwrap();
    client.batch_execute(APPLICATION_TRIGGERS_OFF).unwrap();
    client
        .batch_execute(
            "UPDATE events SET v = 'forged' WHERE id = 4; DELETE FROM events WHERE id = 5;
             INSERT INTO events VALUES (14, 3, 'x'), (17, 3, 'x')",
        )
        .unwrap();
    client.batch_execute(EXCHANGED).unwrap();
    for (key, problem) in [
        (r#"{"id": 4, "day": 2}"#, "modified"),
        (r#"{"id": 5, "day": 3}"#, "missing"),
        (r#"{"id": 14, "day": 3}"#, "resurrected"),
        (r#"{"id": 17, "day": 3}"#, "unrecorded"),
    ] {
        for table in ["events", "events_1", "events_2", "events_3"] {
            assert_eq!(verdict_of(&mut client, table, key), format!("false {problem}"), "{table} {key}");
        }
    }
    // A second row with the key of a forged one, as it was recorded, where queries look for it.
    client.batch_execute("INSERT INTO events VALUES (4, 2, 'x')").unwrap();
    assert_eq!(verdict_of(&mut client, "events", r#"{"id": 4, "day": 2}"#), "true");
    assert_eq!(verdict_of(&mut client, "events_2", r#"{"id": 4, "day": 2}"#), "false modified");
    assert!(problems(&mut client, "events").iter().any(|problem| problem.starts_with(r#"{"id": 4, "day": 2}"#)));
}

#[test]
fn a_look_up_of_a_row_waits_for_no_other_partition() {
    let (cluster, mut client) = start_with(EVENTS);
    let mut holding = cluster.connect("postgres");
    holding.batch_execute("BEGIN; LOCK TABLE events_1, events_3").unwrap();
    client.batch_execute("SET lock_timeout = '10s'").unwrap();
    for table in ["events", "events_2"] {
        assert_eq!(verdict_of(&mut client, table, r#"{"id": 4, "day": 2}"#), "true");
        assert_eq!(operations(&mut client, table, r#"{"id": 4, "day": 2}"#), "insert");
    }
}

/// Partitions are locked in the order of their oids. A row that is in none of them was looked for in one of them
/// before.
#[test]
fn who_looks_for_a_row_that_is_nowhere_does_not_deadlock_with_who_locks_the_partitions_in_their_order() {
    let (cluster, mut client) = start_with(EVENTS);
    client.batch_execute("BEGIN; LOCK TABLE events_1").unwrap();
    let statement = "SELECT ledger.verify_row('events', '{\"id\": 99, \"day\": 2}')";
    let looking = waiting(&cluster, cluster.connect("postgres"), statement);
    client.batch_execute("SET lock_timeout = '10s'; LOCK TABLE events_2, events_3; COMMIT").unwrap();
    in_time("the look-up", || looking.join().unwrap()).unwrap();
}
