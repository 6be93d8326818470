//! All tracked tables are verified in one pass through the entries, and each is judged for itself.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{Cluster, Options};
use postgres::Client;
use serde_json::Value;

/// Tables `a_1`, `a_2` and so on, with the same three rows each, tracked and sealed.
fn track_more(client: &mut Client, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        let make = format!(
            "CREATE TABLE a_{number} (id int PRIMARY KEY, v text); SELECT ledger.track('a_{number}', keep_image => true); \
             INSERT INTO a_{number} VALUES (1, 'x'), (2, 'y'), (3, 'z'); UPDATE a_{number} SET v = 'w' WHERE id = 3"
        );
        client.batch_execute(&make).unwrap();
    }
    seal(client);
}

/// So that no other block changes what is sealed while it is counted.
fn start_quiet() -> (Cluster, Client) {
    start(Options::new().conf("ledger.block_interval = 1h"))
}

fn past_the_triggers(client: &mut Client, sql: &str) {
    client.batch_execute(&format!("{APPLICATION_TRIGGERS_OFF}; {sql}; {TRACKING_ON}")).unwrap();
}

/// What verify_all() says of tables, in its order.
fn verdicts(client: &mut Client) -> Vec<Value> {
    json(client, "SELECT ledger.verify_all()")["tables"].as_array().unwrap().clone()
}

/// Name, verdict and problems, as `NAME VALID KEY PROBLEM ...`.
fn summary(client: &mut Client) -> Vec<String> {
    let said = |verdict: &Value| {
        let mut words = vec![verdict["table"].as_str().unwrap().to_owned(), verdict["valid"].to_string()];
        for error in verdict["errors"].as_array().into_iter().flatten() {
            words.push(format!("{} {}", error["row_key"], error["problem"].as_str().unwrap()));
        }
        words.join(" ")
    };
    verdicts(client).iter().map(said).collect()
}

/// How many times verify_all() goes through the sealed entries from the first to the last, and how many rows it reads
/// then.
fn scans_of_entries(client: &mut Client) -> (i64, i64) {
    client.batch_execute("BEGIN").unwrap();
    let count = |client: &mut Client| {
        let read = |counter| format!("SELECT pg_stat_get_xact_{counter}('ledger.entries_sealed_1'::regclass)");
        (number(client, &read("numscans")), number(client, &read("tuples_returned")))
    };
    let before = count(client);
    assert_eq!(json(client, "SELECT ledger.verify_all()")["overall_valid"], true);
    let after = count(client);
    client.batch_execute("COMMIT").unwrap();
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn the_number_of_tables_does_not_multiply_what_is_read() {
    let (_cluster, mut client) = start_quiet();
    track_more(&mut client, 1..=1);
    let (scans, _) = scans_of_entries(&mut client);
    assert!(scans > 0, "no scan is counted");
    track_more(&mut client, 2..=20);
    let sealed = number(&mut client, "SELECT count(*) FROM ledger.entries_sealed_1");
    let (scans_of_many, rows) = scans_of_entries(&mut client);
    assert_eq!(scans_of_many, scans);
    assert!(rows <= scans * sealed, "{rows} rows were read of {sealed} in {scans} scans");
}

/// Autovacuum comes late to a catalog that a restore has filled.
#[test]
fn the_list_of_tracked_tables_does_not_read_the_catalog_once_for_each_table() {
    let (_cluster, mut client) = start(Options::new().conf("autovacuum = off").conf("ledger.mirror_mode = off"));
    let track = "DO $$ BEGIN FOR n IN 1..150 LOOP EXECUTE format('CREATE TABLE a_%s (id int PRIMARY KEY)', n); \
                 PERFORM ledger.track(format('a_%s', n)::regclass); END LOOP; END $$";
    client.batch_execute(track).unwrap();
    let triggers = number(&mut client, "SELECT count(*) FROM pg_trigger");
    client.batch_execute("BEGIN").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.tracked_tables WHERE state = 'tracked'"), 150);
    let read = number(&mut client, "SELECT pg_stat_get_xact_tuples_returned('pg_trigger'::regclass)");
    assert!(read <= 3 * triggers, "{read} of {triggers} rows were read");
    client.batch_execute("COMMIT").unwrap();
}

#[test]
fn a_wrong_row_is_reported_for_its_table_and_for_no_other() {
    let (_cluster, mut client) = start_quiet();
    track_more(&mut client, 1..=5);
    let parts = "CREATE TABLE b (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
                 CREATE TABLE b_1 PARTITION OF b FOR VALUES FROM (0) TO (10);
                 CREATE TABLE b_2 PARTITION OF b FOR VALUES FROM (10) TO (20);
                 SELECT ledger.track('b'); INSERT INTO b VALUES (1, 'x'), (11, 'x')";
    client.batch_execute(parts).unwrap();
    assert!(all_valid(&mut client));
    past_the_triggers(
        &mut client,
        "UPDATE a_1 SET v = 'forged' WHERE id = 3; DELETE FROM a_3 WHERE id = 1; INSERT INTO a_5 VALUES (4, 'new'); \
         UPDATE b_2 SET v = 'forged'",
    );
    let expected = [
        "public.a_1 false {\"id\":3} modified",
        "public.a_2 true",
        "public.a_3 false {\"id\":1} missing",
        "public.a_4 true",
        "public.a_5 false {\"id\":4} unrecorded",
        "public.b false {\"id\":11} modified",
    ];
    assert_eq!(summary(&mut client), expected);
    let counts =
        |verdict: &Value| ["row_count", "entry_count", "error_count"].map(|name| verdict[name].as_i64().unwrap());
    let counts: Vec<[i64; 3]> = verdicts(&mut client).iter().map(counts).collect();
    assert_eq!(counts, [[3, 4, 1], [3, 4, 0], [2, 4, 1], [3, 4, 0], [4, 4, 1], [2, 2, 1]]);
    for table in 1..=5 {
        let of_all =
            expected[table - 1].split_once(" {").map(|(_, problem)| format!("{{{}", problem.replace(':', ": ")));
        assert_eq!(problems(&mut client, &format!("a_{table}")), Vec::from_iter(of_all));
    }
    // They do not share the number of problems that are listed of each.
    past_the_triggers(
        &mut client,
        "INSERT INTO a_2 SELECT n, 'new' FROM generate_series(4, 200) n; INSERT INTO a_4 VALUES (4, 'new')",
    );
    let all = verdicts(&mut client);
    assert_eq!((&all[1]["error_count"], all[1]["errors"].as_array().unwrap().len()), (&Value::from(197), 100));
    assert_eq!((&all[3]["error_count"], all[3]["errors"].as_array().unwrap().len()), (&Value::from(1), 1));
}

#[test]
fn what_was_truncated_in_one_table_is_there_in_another() {
    let (_cluster, mut client) = start_quiet();
    track_more(&mut client, 1..=3);
    client.batch_execute("TRUNCATE a_1; TRUNCATE a_3; INSERT INTO a_3 VALUES (1, 'x')").unwrap();
    assert_eq!(summary(&mut client), ["public.a_1 true", "public.a_2 true", "public.a_3 true"]);
    past_the_triggers(&mut client, "INSERT INTO a_1 VALUES (2, 'y'); DELETE FROM a_2 WHERE id = 2");
    let expected =
        ["public.a_1 false {\"id\":2} resurrected", "public.a_2 false {\"id\":2} missing", "public.a_3 true"];
    assert_eq!(summary(&mut client), expected);
}

#[test]
fn tables_that_cannot_be_verified_hide_no_others() {
    let (_cluster, mut client) = start_quiet();
    track_more(&mut client, 1..=6);
    client.batch_execute("ALTER TABLE a_1 DROP CONSTRAINT a_1_pkey; ALTER TABLE a_4 DROP CONSTRAINT a_4_pkey").unwrap();
    past_the_triggers(
        &mut client,
        "UPDATE a_2 SET v = 'forged' WHERE id = 1; UPDATE a_5 SET v = 'forged' WHERE id = 2",
    );
    // As long as this is not committed, nobody else records the rows that were there before.
    client
        .batch_execute(
            "BEGIN; CREATE TABLE a_3_large (id int PRIMARY KEY, v text);
             INSERT INTO a_3_large SELECT n, repeat('x', 900) FROM generate_series(1, 2000) n; SELECT ledger.track('a_3_large')",
        )
        .unwrap();
    let expected = [
        "public.a_1 false",
        "public.a_2 false {\"id\":1} modified",
        "public.a_3 true",
        "public.a_3_large null",
        "public.a_4 false",
        "public.a_5 false {\"id\":2} modified",
        "public.a_6 true",
    ];
    assert_eq!(summary(&mut client), expected);
    let verdicts = verdicts(&mut client);
    for (at, message) in [(0, "has no primary key"), (3, "are still being recorded"), (4, "has no primary key")] {
        assert!(verdicts[at]["message"].as_str().unwrap().contains(message), "{}", verdicts[at]);
    }
    client.batch_execute("ROLLBACK").unwrap();
}

/// Whatever table its triggers say they were made for, and whatever is wrong with its rows.
#[test]
fn of_two_tables_with_one_id_the_original_alone_is_verified() {
    let (_cluster, mut client) = start_quiet();
    track_more(&mut client, 1..=2);
    client
        .batch_execute(
            "CREATE SCHEMA beside; CREATE TABLE beside.a_1 (LIKE a_1 INCLUDING ALL); INSERT INTO beside.a_1 SELECT * FROM a_1;
             DO $$
             DECLARE
                 t record;
             BEGIN
                 FOR t IN SELECT tgname, pg_get_triggerdef(oid) AS made FROM pg_trigger WHERE tgrelid = 'a_1'::regclass LOOP
                     EXECUTE replace(regexp_replace(t.made, '\"table\": ?[0-9]+', '\"table\":1'), 'public.a_1', 'beside.a_1');
                     EXECUTE format('ALTER TABLE beside.a_1 ENABLE ALWAYS TRIGGER %I', t.tgname);
                 END LOOP;
             END $$",
        )
        .unwrap();
    assert_eq!(number(&mut client, "SELECT count(DISTINCT table_id) FROM ledger.tracked_tables"), 2);
    assert_eq!(summary(&mut client), ["beside.a_1 false", "public.a_1 true", "public.a_2 true"]);
    past_the_triggers(
        &mut client,
        "ALTER TABLE beside.a_1 DISABLE TRIGGER ALL; UPDATE beside.a_1 SET v = 'forged' WHERE id = 2; \
         UPDATE a_1 SET v = 'forged' WHERE id = 1",
    );
    let expected = ["beside.a_1 false", "public.a_1 false {\"id\":1} modified", "public.a_2 true"];
    assert_eq!(summary(&mut client), expected);
    let verdicts = verdicts(&mut client);
    assert!(
        verdicts[0]["message"].as_str().unwrap().contains("is a copy of tracked table public.a_1"),
        "{}",
        verdicts[0]
    );
    assert_eq!((&verdicts[1]["row_count"], &verdicts[1]["entry_count"]), (&Value::from(3), &Value::from(4)));
}

/// It is one warning, not one for each table.
#[test]
fn entries_that_are_gone_are_missed_once() {
    let (cluster, mut client) = start_quiet();
    track_more(&mut client, 1..=3);
    client.batch_execute("ALTER TABLE ledger.entries_sealed DETACH PARTITION ledger.entries_sealed_1").unwrap();
    let verify = "SELECT ledger.verify_all()";
    assert_eq!(json(&mut client, verify)["overall_valid"], false);
    let log = cluster.log();
    assert_eq!(log.matches("sealed entries are gone from the ledger").count(), 1, "{log}");
}
