//! Numbers that JSON text can state and jsonb cannot hold: what is recorded of them stays what the line says.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::{all_valid, assert_clean};
use crate::common::Options;

#[test]
fn a_minus_zero_in_a_json_column_is_recorded_as_its_text() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    client
        .batch_execute(
            "CREATE TABLE app (id int PRIMARY KEY, doc json); SELECT ledger.track('app', keep_image => true);
             INSERT INTO app VALUES (1, '{\"t\": -0.0}'), (2, '[-0.0]'), (3, '-0.00'), (4, '[-0]'), (5, '{\"t\": 0.0}'), (6, '[-0.5]'), (7, '-0e5')",
        )
        .unwrap();
    let docs =
        "SELECT metadata->'after'->'doc' FROM ledger.entries WHERE metadata ? 'after' ORDER BY metadata->'after'->'id'";
    let expected = [r#""{\"t\": -0.0}""#, r#""[-0.0]""#, r#""-0.00""#, "[0]", r#"{"t": 0.0}"#, "[-0.5]", r#""-0e5""#];
    assert_eq!(column(&mut client, docs), expected);
    for _ in ["pending", "sealed"] {
        assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.find_tampering()"), 0);
        assert_clean(&mut client, "app");
        seal(&mut client);
    }
    // Another number is another row.
    client.batch_execute("UPDATE app SET doc = '[0.0]' WHERE id = 2").unwrap();
    assert_clean(&mut client, "app");
    client.batch_execute("ALTER TABLE app DISABLE TRIGGER ALL; UPDATE app SET doc = '[-0.0]' WHERE id = 2").unwrap();
    assert!(!all_valid(&mut client));
}
