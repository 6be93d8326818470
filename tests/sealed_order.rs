//! Sealed entries stand in their partitions in the order of the log, in which they are verified.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::Stop;
use postgres::Client;

/// Entries that are stored before one whose leaf comes earlier.
const OUT_OF_ORDER: &str = "SELECT count(*) FROM (
        SELECT ctid, lag(ctid) OVER (PARTITION BY tableoid ORDER BY leaf_index) AS before FROM ledger.entries_sealed
    ) AS stored WHERE ctid < before";
const EMPTY_PAGES: &str = "SELECT sum(pg_relation_size(tableoid) / current_setting('block_size')::int - pages)::bigint
    FROM (SELECT tableoid, count(DISTINCT (ctid::text::point)[0]) AS pages FROM ledger.entries_sealed GROUP BY tableoid) AS used";

/// Short ones would fit into what long ones leave of a page; the longest are stored outside of it.
#[test]
fn sealed_entries_of_any_length_stand_in_the_order_of_the_log() {
    let (cluster, mut client) = start(quiet());
    let record = "SELECT ledger.hash_and_record('test', to_jsonb(n), jsonb_build_object('text', left(
            (SELECT string_agg(md5((n * 1000 + k)::text), '') FROM generate_series(1, 200) AS k),
            CASE WHEN n % 97 = 0 THEN 6000 ELSE n % 11 * 180 END)))
        FROM generate_series(1, 2000) AS n";
    for round in 0..3 {
        client.batch_execute(record).unwrap();
        seal(&mut client);
        record_many(&mut client, 7);
        seal(&mut client);
        client.batch_execute("VACUUM ledger.entries_sealed").unwrap();
        if round == 1 {
            drop(client);
            cluster.restart(Stop::Fast);
            client = cluster.connect("postgres");
            wait_until_attached(&mut client);
        }
    }
    assert_eq!(number(&mut client, OUT_OF_ORDER), 0);
    let empty = number(&mut client, EMPTY_PAGES);
    assert!(empty <= 3, "{empty} pages were never filled");
    assert_intact(&mut client);
}

/// Postgres 16 and later make a table grow by many pages at once: by 64, if there are as many buffers for each
/// connection.
#[test]
fn no_page_of_a_partition_stays_empty_however_long_the_entries_are() {
    let (_cluster, mut client) = start(quiet().conf("ledger.block_size = 10000").conf("shared_buffers = 128MB"));
    for (count, length) in [(400, 1100), (1000, 1300), (300, 1700), (2000, 300)] {
        let record = format!(
            "SELECT ledger.hash_and_record('test', to_jsonb(n), jsonb_build_object('text', repeat('x', {length})))
             FROM generate_series(1, {count}) AS n"
        );
        client.batch_execute(&record).unwrap();
        seal(&mut client);
    }
    let empty = number(&mut client, EMPTY_PAGES);
    assert!(empty <= 4, "{empty} pages were never filled");
    assert_eq!(number(&mut client, OUT_OF_ORDER), 0);
    assert_intact(&mut client);
}

#[test]
fn sealed_entries_stand_in_order_whoever_has_sealed_them() {
    let (cluster, mut one) = start(quiet());
    let mut other = cluster.connect("postgres");
    let record = |client: &mut Client, count: usize, length: usize| {
        let record = format!(
            "SELECT ledger.hash_and_record('test', to_jsonb(n), jsonb_build_object('text', repeat('x', {length})))
             FROM generate_series(1, {count}) AS n"
        );
        client.batch_execute(&record).unwrap();
        seal(client);
    };
    for _ in 0..3 {
        record(&mut one, 41, 1500);
        record(&mut other, 100, 1500);
        record(&mut one, 3, 10);
        record(&mut other, 3, 10);
    }
    assert_eq!(number(&mut one, OUT_OF_ORDER), 0);
    assert_intact(&mut one);
}
