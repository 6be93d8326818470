//! Entries of one statement are put into their table together. Nobody is to notice: what a statement has recorded can
//! be seen when it has ended, what is rolled back is gone, and the bytes are those that Postgres itself would have
//! made.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{Cluster, Options};
use postgres::error::SqlState;
use postgres::Client;
use std::io::Write;

fn start_tracked() -> (Cluster, Client) {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1s"));
    client
        .batch_execute(
            "CREATE TABLE items (id int PRIMARY KEY, note text); CREATE TABLE log (note text);
             SELECT ledger.track('items')",
        )
        .unwrap();
    (cluster, client)
}

/// Entries about rows, as the current transaction sees them.
fn entries(client: &mut Client) -> i64 {
    number(client, "SELECT count(*) FROM ledger.entries WHERE metadata ? 'key'")
}

#[test]
fn what_a_statement_has_recorded_is_there_when_it_has_ended() {
    let (_cluster, mut client) = start_tracked();
    client.batch_execute("BEGIN; INSERT INTO items SELECT n, 'a' FROM generate_series(1, 1500) n").unwrap();
    assert_eq!(entries(&mut client), 1500);
    let mut copy = client.copy_in("COPY items FROM STDIN").unwrap();
    copy.write_all(b"2001\tb\n2002\tb\n").unwrap();
    copy.finish().unwrap();
    assert_eq!(entries(&mut client), 1502);
    client
        .batch_execute("WITH gone AS (DELETE FROM items WHERE id < 11 RETURNING id) SELECT count(*) FROM gone")
        .unwrap();
    assert_eq!(entries(&mut client), 1512);
    client.batch_execute("DO $$ BEGIN UPDATE items SET note = 'c' WHERE id BETWEEN 100 AND 199; END $$").unwrap();
    assert_eq!(entries(&mut client), 1612);
    client.batch_execute("COMMIT").unwrap();
    seal(&mut client);
    assert_clean(&mut client, "items");
}

#[test]
fn what_is_rolled_back_is_not_recorded() {
    let (_cluster, mut client) = start_tracked();
    let insert = |from: i32, to: i32| format!("INSERT INTO items SELECT n, 'a' FROM generate_series({from}, {to}) n");
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(&insert(1, 700)).unwrap();
    client.batch_execute("SAVEPOINT s").unwrap();
    client.batch_execute(&insert(701, 1400)).unwrap();
    client.batch_execute("ROLLBACK TO s").unwrap();
    client.batch_execute("SAVEPOINT t").unwrap();
    // The last of many rows is refused, after its entries have begun to be inserted.
    let refused = error(&mut client, &format!("{} UNION ALL SELECT 700, 'again'", insert(2001, 2700)));
    assert_eq!(*refused.code(), SqlState::UNIQUE_VIOLATION, "{refused:?}");
    client.batch_execute("ROLLBACK TO t").unwrap();
    client.batch_execute(&insert(3001, 3010)).unwrap();
    client.batch_execute("RELEASE t; COMMIT").unwrap();
    assert_eq!(entries(&mut client), 710);
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(&insert(4001, 4700)).unwrap();
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(entries(&mut client), 710);
    seal(&mut client);
    assert_clean(&mut client, "items");
    assert_intact(&mut client);
}

/// A trigger of the application's runs between ours, row by row, each time in a subtransaction that it rolls back or
/// keeps, and writes to the tracked table in it.
#[test]
fn subtransactions_between_the_rows_of_a_statement_take_only_their_own() {
    let (_cluster, mut client) = start_tracked();
    client
        .batch_execute(
            "CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.id >= 1000 THEN RETURN NULL; END IF;
                 BEGIN
                     INSERT INTO items VALUES (NEW.id + 1000, 'follows'), (NEW.id + 2000, 'follows');
                     IF NEW.id % 3 = 0 THEN RAISE EXCEPTION 'no'; END IF;
                 EXCEPTION WHEN raise_exception THEN
                     INSERT INTO log VALUES ('not ' || NEW.id);
                 END;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER a_follow AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION follow();
             CREATE TRIGGER z_follow AFTER UPDATE ON items FOR EACH ROW EXECUTE FUNCTION follow();
             INSERT INTO items SELECT n, 'a' FROM generate_series(1, 600) n",
        )
        .unwrap();
    assert_eq!(entries(&mut client), 600 + 2 * 400);
    client
        .batch_execute(
            "DELETE FROM items WHERE id >= 1000; UPDATE items SET note = 'b' WHERE id < 1000;
             DELETE FROM items WHERE id >= 1000",
        )
        .unwrap();
    assert_eq!(entries(&mut client), 600 + 800 + 800 + 600 + 800 + 800);
    seal(&mut client);
    assert_clean(&mut client, "items");
    assert_intact(&mut client);
}

/// The image of a row is its bytes.
#[test]
fn metadata_is_stored_as_postgres_would_store_it() {
    let (_cluster, mut client) = start_tracked();
    client
        .batch_execute(
            r#"SET application_name = 'é "quoted" \ ';
               CREATE TABLE wide (id bigint, "kéy" text, n numeric, d double precision, j jsonb, a int[], t timestamptz,
                                  b bytea, u uuid, PRIMARY KEY (id, "kéy"));
               SELECT ledger.track('wide', keep_image => true);
               INSERT INTO wide
               SELECT n::bigint * 1000000007, repeat(chr(233), n) || '"\' || chr(128512),
                      CASE n % 4 WHEN 0 THEN n WHEN 1 THEN -n / 7.0 WHEN 2 THEN n * 10000 ELSE round(n / 1000.0, 6) END,
                      CASE n % 5 WHEN 0 THEN 'NaN' WHEN 1 THEN 1e300 WHEN 2 THEN -0.0 WHEN 3 THEN n / 3.0 ELSE 1e-9 END,
                      jsonb_build_object('a', n, repeat('k', n), jsonb_build_array(n, null, true, -n * 0.25, '{}'::jsonb)),
                      array_fill(n, ARRAY[n]), now() + n * interval '1 day', decode(repeat('ab', n), 'hex'), gen_random_uuid()
               FROM generate_series(1, 80) n;
               UPDATE wide SET j = (SELECT jsonb_object_agg('m' || i, i) FROM generate_series(1, 100) i) WHERE id % 2 = 0;
               DELETE FROM wide WHERE id % 3 = 0"#,
        )
        .unwrap();
    let differing = "SELECT count(*) FROM ledger.entries \
                     WHERE NOT record_image_eq(ROW(metadata), ROW(metadata::text::jsonb))";
    assert_eq!(number(&mut client, differing), 0);
    assert!(entries(&mut client) > 140);
    seal(&mut client);
    assert_eq!(number(&mut client, differing), 0);
    assert_clean(&mut client, "wide");
    assert_intact(&mut client);
}
