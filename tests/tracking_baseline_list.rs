//! The list of baselines that are not complete: what is read of it, and by which key.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::Options;

/// The statistics tell of the list of baselines without a look at it, which would count.
const ABOUT_BASELINES: &str = "FROM pg_stat_all_tables WHERE relid = 'ledger.baselines'::regclass";

/// A table may have thousands of them: their number must not multiply what is read.
#[test]
fn to_record_a_partition_the_others_are_not_looked_at() {
    const PARTITIONS: i64 = 300;
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(&format!(
            "CREATE TABLE parts (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
             DO $$ BEGIN FOR n IN 1..{PARTITIONS} LOOP
                 EXECUTE format('CREATE TABLE part_%s PARTITION OF parts FOR VALUES FROM (%s) TO (%s)', n, n * 2, n * 2 + 2);
             END LOOP; END $$;
             INSERT INTO parts SELECT n FROM generate_series(2, {PARTITIONS} * 2 + 1) n;
             SELECT ledger.track('parts', with_signature => false)"
        ))
        .unwrap();
    wait_for(&mut client, &format!("(SELECT n_tup_del = {PARTITIONS} {ABOUT_BASELINES})"));
    let counters = "coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)";
    let read = number(&mut client, &format!("SELECT {counters} {ABOUT_BASELINES}"));
    // If each partition were looked for among those that are left, it would be half as many squared, several times.
    assert!(read < PARTITIONS * PARTITIONS / 4, "{read} rows were read to record {PARTITIONS} partitions");
    // What needs one batch takes one transaction, which writes nothing about how far it has come.
    assert_eq!(number(&mut client, &format!("SELECT n_tup_upd {ABOUT_BASELINES}")), 0);
    assert_clean(&mut client, "parts");
}

/// An administrator may do without the key of a table of the ledger, or have another: then all rows are read.
#[test]
fn a_baseline_is_found_whatever_key_its_list_has() {
    for key in ["", ", ADD PRIMARY KEY (relation, table_id)", ", ADD PRIMARY KEY (table_id, page_count, relation)"] {
        let (_cluster, mut client) = start(Options::new().conf("ledger.block_size = 500"));
        client
            .batch_execute(&format!(
                "ALTER TABLE ledger.baselines DROP CONSTRAINT baselines_pkey{key};
                 CREATE TABLE small (id int PRIMARY KEY); INSERT INTO small VALUES (1); SELECT ledger.track('small');
                 CREATE TABLE large (id int PRIMARY KEY, note text);
                 INSERT INTO large SELECT n, repeat('x', 900) FROM generate_series(1, 3000) n;
                 CREATE TABLE others AS SELECT * FROM large; ALTER TABLE others ADD PRIMARY KEY (id)"
            ))
            .unwrap();
        client
            .batch_execute(
                "BEGIN; SELECT ledger.track('large'), ledger.track('others'); SELECT ledger.untrack('others')",
            )
            .unwrap();
        assert_eq!(value(&mut client, "SELECT relation::regclass FROM ledger.baselines"), "large");
        client.batch_execute("SELECT ledger.verify_row('small', '{\"id\": 1}'); SAVEPOINT s").unwrap();
        let refused = error(&mut client, "SELECT ledger.verify_row('large', '{\"id\": 5}')");
        assert!(refused.message().contains("are still being recorded"), "{refused:?}");
        client.batch_execute("ROLLBACK TO s; COMMIT").unwrap();
        wait_until_tracked(&mut client, "large");
        assert_clean(&mut client, "large");
    }
}
