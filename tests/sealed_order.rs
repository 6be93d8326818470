//! Sealed entries stand in their partitions in the order of the log, in which they are verified.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::Stop;

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
