//! Functions that only compute can be cancelled while they do.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use postgres::error::SqlState;

#[test]
fn a_function_that_computes_for_long_ends_when_it_is_cancelled() {
    let (_cluster, mut client) = start_with(
        "CREATE TABLE long_values AS SELECT ('[' || repeat('1.5,', 10000000) || '1]')::json AS value;
         CREATE TABLE long_lists AS SELECT array_agg(ledger.hash_data(to_jsonb(n))) AS hashes FROM generate_series(1, 1000000) n;
         CREATE SEQUENCE finished",
    );
    for function in [
        "hash_json(value) FROM long_values",
        "merkle_root(hashes) FROM long_lists",
        "merkle_proof(hashes, 7) FROM long_lists",
    ] {
        let (call, table) = function.split_once(" FROM ").unwrap();
        // Nothing looks for a cancel between the two: who has finished is counted.
        let count = format!("SELECT CASE WHEN ledger.{call} IS NOT NULL THEN nextval('finished') END FROM {table}");
        client.batch_execute("SET statement_timeout = '50ms'").unwrap();
        let cancelled = error(&mut client, &count);
        assert_eq!(*cancelled.code(), SqlState::QUERY_CANCELED, "{function}");
        client.batch_execute("SET statement_timeout = 0").unwrap();
        assert!(is_true(&mut client, "(SELECT NOT is_called FROM finished)"), "{function} went on to its end");
    }
}
