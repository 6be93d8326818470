//! A ledger is in UTF-8: databases in other encodings are refused, before anything is recorded that could not be read
//! again.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{Cluster, Options, Stop};
use postgres::error::{DbError, SqlState};

const OTHER_ENCODINGS: [&str; 3] = ["LATIN1", "EUC_JP", "SQL_ASCII"];

#[track_caller]
fn assert_refused(error: &DbError, encoding: &str) {
    assert_eq!(error.code(), &SqlState::FEATURE_NOT_SUPPORTED, "{error:?}");
    assert_eq!(error.message(), format!("pg_notary does not support server encoding \"{encoding}\""));
    assert_eq!(
        error.detail(),
        Some("Ledger lines are UTF-8, and recorded data must read the same in the file and in the database.")
    );
    let hint = "Create a database in UTF-8, for example with: createdb --encoding UTF8 --template template0 NAME";
    assert_eq!(error.hint(), Some(hint));
}

#[test]
fn the_extension_is_refused_where_texts_are_not_utf8() {
    let cluster = Cluster::start();
    let mut client = cluster.connect("postgres");
    for encoding in OTHER_ENCODINGS {
        let name = encoding.to_lowercase();
        let create = format!("CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        client.batch_execute(&create).unwrap();
        let mut other = cluster.connect(&name);
        assert_refused(&error(&mut other, "CREATE EXTENSION pg_notary"), encoding);
        assert_eq!(number(&mut other, "SELECT count(*) FROM pg_namespace WHERE nspname = 'ledger'"), 0);
    }
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    record(&mut client);
    assert_intact(&mut client);
}

/// As an older version of the extension would have left one.
#[test]
fn a_ledger_in_another_encoding_neither_records_nor_verifies() {
    let (cluster, mut client) = start(Options::new());
    record(&mut client);
    client.batch_execute("CREATE DATABASE other").unwrap();
    let mut other = cluster.connect("other");
    other.batch_execute("CREATE EXTENSION pg_notary; CREATE TABLE t (id int PRIMARY KEY)").unwrap();
    wait_until_attached(&mut other);
    drop(other);
    for encoding in OTHER_ENCODINGS {
        let set =
            format!("UPDATE pg_database SET encoding = pg_char_to_encoding('{encoding}') WHERE datname = 'other'");
        client.batch_execute(&set).unwrap();
        drop(client);
        cluster.restart(Stop::Fast);
        client = cluster.connect("postgres");
        let mut other = cluster.connect("other");
        for sql in [
            "SELECT ledger.hash_and_record('test', '1')",
            "INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('test', repeat('ab', 32))",
            "SELECT ledger.track('t')",
            "SELECT * FROM ledger.commit_block()",
            "SELECT ledger.verify_entry(gen_random_uuid(), '1')",
            "SELECT ledger.verify_chain()",
            "SELECT * FROM ledger.find_tampering()",
            "SELECT ledger.verify_all()",
            "SELECT ledger.hash_data('\"é\"')",
        ] {
            assert_refused(&error(&mut other, sql), encoding);
        }
        // Others are not concerned.
        record(&mut client);
        assert_intact(&mut client);
    }
}
