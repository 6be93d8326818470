//! Values that no line can state do not read as others that a line can state.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tampering::TRIGGERS_OFF;
use crate::common::{Cluster, Options};
use postgres::Client;

const NIL: &str = "00000000-0000-0000-0000-000000000000";

/// A sealed entry with values that missing ones could read as, and a pending entry, whose id this gives.
fn ledger() -> (Cluster, Client, String) {
    let options = Options::new().conf("ledger.block_size = 100").conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(options);
    let insert = "INSERT INTO ledger.entries (id, entry_type, data_hash, metadata, created_at) VALUES";
    let values = format!("'{NIL}', 'test', ledger.hash_data('1'), '{{}}', '1970-01-01 00:00:00+00'");
    client.batch_execute(&format!("{insert} ({values})")).unwrap();
    seal(&mut client);
    let pending = record(&mut client);
    assert_intact(&mut client);
    (cluster, client, pending)
}

/// The entries of which `find_tampering()` says that a row is malformed, after a change that is rolled back, and what
/// `verify_entry()` says of the sealed entry then.
#[track_caller]
fn malformed_after(client: &mut Client, change: &str) -> (Vec<String>, bool) {
    client.batch_execute(&format!("BEGIN; {TRIGGERS_OFF}; {change}")).unwrap_or_else(|e| panic!("{change}: {e:?}"));
    let is_valid = verdict(client)["overall_valid"] == true;
    let malformed = "SELECT concat_ws(' ', block_number, leaf_index, entry_id) FROM ledger.find_tampering() \
                     WHERE problem = 'row_malformed'";
    let found = column(client, malformed);
    let entry = json(client, &format!("SELECT ledger.verify_entry('{NIL}', '1')"));
    client.batch_execute("ROLLBACK").unwrap();
    assert!(!is_valid, "{change}: {found:?}");
    (found, entry["verified"] == true)
}

#[test]
fn a_time_that_no_line_can_state_is_named() {
    let (_cluster, mut client, id) = ledger();
    for time in ["infinity", "-infinity", "10000-01-01 00:00:00+00", "0001-12-31 00:00:00+00 BC"] {
        let sealed = format!("UPDATE ledger.entries_sealed SET created_at = '{time}'");
        let (found, is_verified) = malformed_after(&mut client, &sealed);
        assert_eq!((found, is_verified), (vec![format!("1 0 {NIL}")], false), "{time}");
        let pending = format!("UPDATE ledger.entries_pending SET created_at = '{time}'");
        let (found, is_verified) = malformed_after(&mut client, &pending);
        assert_eq!((found, is_verified), (vec![id.clone()], true), "{time}");
        let block = format!("UPDATE ledger.blocks SET \"timestamp\" = '{time}'");
        assert_eq!(malformed_after(&mut client, &block).0, ["1"], "{time}");
    }
    assert_intact(&mut client);
}

#[test]
fn a_null_where_there_is_none_is_named() {
    let (_cluster, mut client, _) = ledger();
    for column in ["entry_type", "data_hash", "metadata", "created_at", "id"] {
        for (table, place) in [("entries_sealed", "1 0"), ("entries_pending", "")] {
            // A primary key's column, too.
            let change = format!(
                "SET LOCAL allow_system_table_mods = on;
                 UPDATE pg_attribute SET attnotnull = false WHERE attname = '{column}'
                     AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'ledger'::regnamespace);
                 UPDATE ledger.{table} SET {column} = NULL"
            );
            let (found, _) = malformed_after(&mut client, &change);
            assert!(found.len() == 1 && found[0].starts_with(place), "{table}.{column}: {found:?}");
        }
    }
    for column in ["previous_hash", "block_hash", "merkle_root", "timestamp", "data_count", "tree_size", "tree_root"] {
        let change = format!(
            "ALTER TABLE ledger.blocks ALTER \"{column}\" DROP NOT NULL; UPDATE ledger.blocks SET \"{column}\" = NULL"
        );
        assert_eq!(malformed_after(&mut client, &change).0, ["1"], "{column}");
    }
    assert_intact(&mut client);
}
