//! Keys that hold for a time, of Postgres 18: a row is named by such a key like any other.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{pg_major, Options};
use postgres::Client;

/// Definitions of the table's columns, and three keys, of which the second takes the place of the first. The fourth is
/// another way to write the third.
type TemporalKey = (&'static str, &'static str, [&'static str; 4]);

const KEYS: &[TemporalKey] = &[
    (
        "two ranges, for which Postgres alone has what it takes",
        "id int4range, valid_at numrange, PRIMARY KEY (id, valid_at WITHOUT OVERLAPS)",
        [
            r#""[1.5,2)", "id": "[1,5)""#,
            r#""[1.5,3)", "id": "[1,5)""#,
            r#""[10.50,20)", "id": "[1,7)""#,
            r#""[10.5,20)", "id": "(0,6]""#,
        ],
    ),
    (
        "an integer and times",
        "id int, valid_at tstzrange, PRIMARY KEY (id, valid_at WITHOUT OVERLAPS)",
        [
            r#""[2026-01-01 00:00+00,2026-02-01 00:00+00)", "id": 1"#,
            r#""[2026-01-01 00:00+00,2026-03-01 00:00+00)", "id": 1"#,
            r#""[2026-04-01 00:00+00,)", "id": 1"#,
            r#""[2026-04-01 02:00+02,)", "id": 1"#,
        ],
    ),
    (
        "a big integer and several ranges",
        "id bigint, valid_at int4multirange, PRIMARY KEY (id, valid_at WITHOUT OVERLAPS)",
        [
            r#""{[1,3),[5,7)}", "id": 7"#,
            r#""{[1,3),[5,9)}", "id": 7"#,
            r#""{[3,4),[10,20)}", "id": 7"#,
            r#""{[3,4),[15,20),[10,15)}", "id": 7"#,
        ],
    ),
    (
        "an integer, a text, and dates",
        "id int, name text, valid_at daterange, PRIMARY KEY (id, name, valid_at WITHOUT OVERLAPS)",
        [
            r#""[2026-01-01,2026-02-01)", "id": 1, "name": "a""#,
            r#""[2026-01-01,2026-02-01)", "id": 1, "name": "b""#,
            r#""[2026-01-01,2026-02-01)", "id": 2, "name": "a""#,
            r#""[2026-01-01,2026-01-31]", "id": 2, "name": "a""#,
        ],
    ),
    (
        "an address, whose index finds more than it should",
        "id inet, valid_at int4range, PRIMARY KEY (id, valid_at WITHOUT OVERLAPS)",
        [
            r#""[1,5)", "id": "10.0.0.1""#,
            r#""[1,5)", "id": "10.0.0.2""#,
            r#""[1,5)", "id": "10.0.0.0/8""#,
            r#""[1,4]", "id": "10.0.0.0/8""#,
        ],
    ),
    (
        "an uuid, in a table with partitions",
        "id uuid, valid_at int4range, PRIMARY KEY (id, valid_at WITHOUT OVERLAPS)) PARTITION BY HASH (id",
        [
            r#""[1,5)", "id": "00000000-0000-0000-0000-000000000001""#,
            r#""[5,9)", "id": "00000000-0000-0000-0000-000000000001""#,
            r#""[1,5)", "id": "00000000-0000-0000-0000-000000000002""#,
            r#""[1,4]", "id": "00000000-0000-0000-0000-000000000002""#,
        ],
    ),
];

fn key(rest: &str) -> String {
    format!("'{{\"valid_at\": {rest}}}'")
}

/// Makes the table, tracked, with rows of the first and the third key; the first is then changed to the second.
#[track_caller]
fn make_bookings(client: &mut Client, what: &str, definition: &str, keys: &[&str; 4]) {
    client
        .batch_execute(&format!("CREATE TABLE bookings (what text, {definition})"))
        .unwrap_or_else(|e| panic!("{what}: {e:?}"));
    if definition.contains("PARTITION BY") {
        let partition =
            |n| format!("CREATE TABLE bookings_{n} PARTITION OF bookings FOR VALUES WITH (MODULUS 2, REMAINDER {n});");
        client.batch_execute(&format!("{}{}", partition(0), partition(1))).unwrap();
    }
    let row = |at: usize, what: &str| {
        format!(
            "SELECT * FROM jsonb_populate_record(null::bookings, '{{\"valid_at\": {}, \"what\": \"{what}\"}}')",
            keys[at]
        )
    };
    client.batch_execute(&format!("INSERT INTO bookings {}", row(2, "before"))).unwrap();
    client.batch_execute("SELECT ledger.track('bookings', keep_image => true)").unwrap();
    let columns =
        column(client, "SELECT attname FROM pg_attribute WHERE attrelid = 'bookings'::regclass AND attnum > 1");
    client
        .batch_execute(&format!(
            "INSERT INTO bookings {};
             UPDATE bookings SET ({columns}) = (SELECT {columns} FROM ({}) AS new) WHERE what = 'first';
             UPDATE bookings SET what = 'changed' WHERE what = 'before'",
            row(0, "first"),
            row(1, "second"),
            columns = columns.join(", ") + ", what",
        ))
        .unwrap_or_else(|e| panic!("{what}: {e:?}"));
}

#[test]
fn rows_whose_key_holds_for_a_time_are_recorded_and_verified() {
    if pg_major() < 18 {
        return;
    }
    let (_cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE EXTENSION btree_gist").unwrap();
    for (what, definition, keys) in KEYS {
        make_bookings(&mut client, what, definition, keys);
        assert_clean(&mut client, "bookings");
        assert_eq!(number(&mut client, "SELECT count(ledger.verified(b)) FROM bookings b"), 2, "{what}");
        let operations = |client: &mut Client, at: usize| {
            column(client, &format!("SELECT operation FROM ledger.history('bookings', {})", key(keys[at]))).join(" ")
        };
        assert_eq!(operations(&mut client, 0), "insert update", "{what}");
        assert_eq!(operations(&mut client, 1), "update", "{what}");
        assert_eq!(operations(&mut client, 2), "baseline update", "{what}");
        assert_eq!(operations(&mut client, 3), "baseline update", "{what}");
        let verdict = |client: &mut Client, at: usize| {
            json(client, &format!("SELECT ledger.verify_row('bookings', {})", key(keys[at])))
        };
        // By the first there is no row any more.
        for at in [0, 1, 2, 3] {
            let verdict = verdict(&mut client, at);
            assert!(verdict["verified"] == true, "{what}, {}: {verdict:#}", keys[at]);
        }

        client.batch_execute("BEGIN").unwrap();
        client.batch_execute(APPLICATION_TRIGGERS_OFF).unwrap();
        client.batch_execute("UPDATE bookings SET what = 'forged'").unwrap();
        assert_eq!(
            number(&mut client, "SELECT count(*) FROM ledger.verify_table('bookings') WHERE problem = 'modified'"),
            2
        );
        for at in [1, 2, 3] {
            assert_eq!(verdict(&mut client, at)["problem"], "modified", "{what}, {}", keys[at]);
        }
        client.batch_execute("DELETE FROM bookings").unwrap();
        assert_eq!(
            number(&mut client, "SELECT count(*) FROM ledger.verify_table('bookings') WHERE problem = 'missing'"),
            2
        );
        for at in [1, 2] {
            assert_eq!(verdict(&mut client, at)["problem"], "missing", "{what}, {}", keys[at]);
        }
        client.batch_execute("ROLLBACK").unwrap();

        client.batch_execute("DELETE FROM bookings").unwrap();
        assert_clean(&mut client, "bookings");
        client.batch_execute("DROP TABLE bookings").unwrap();
    }
}

/// Many rows with one id: what the index's search has to tell apart.
#[test]
fn a_row_is_found_among_others_of_its_time_and_its_id() {
    if pg_major() < 18 {
        return;
    }
    let (_cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE EXTENSION btree_gist").unwrap();
    client
        .batch_execute(
            "CREATE TABLE stays (room int, guest inet, at int4range, PRIMARY KEY (room, guest, at WITHOUT OVERLAPS));
             INSERT INTO stays SELECT r, ('10.0.' || g || '.0/24')::inet, int4range(10 * t, 10 * t + 10)
                 FROM generate_series(1, 5) r, generate_series(1, 20) g, generate_series(1, 20) t;
             SELECT ledger.track('stays')",
        )
        .unwrap();
    wait_until_tracked(&mut client, "stays");
    let unverified =
        "SELECT count(*) FROM stays AS s WHERE ledger.verify_row('stays', to_jsonb(s))->>'verified' <> 'true'";
    assert_eq!(number(&mut client, unverified), 0);
    client.batch_execute("UPDATE stays SET at = at - int4range(upper(at) - 5, NULL) WHERE room = 3").unwrap();
    assert_eq!(number(&mut client, unverified), 0);
    assert_clean(&mut client, "stays");
}
