//! A server that does not load the extension at its start, as README says of it.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::Options;

const WANTED: &str = "pg_notary must be loaded via shared_preload_libraries";

#[test]
fn without_preloading_what_only_computes_works_and_recording_fails() {
    let (_cluster, mut client) = start(Options::new().preload(""));
    assert_eq!(value(&mut client, "SELECT ledger.canonical_json('{\"b\": 1, \"a\": 2}')"), r#"{"a": 2, "b": 1}"#);
    assert_eq!(value(&mut client, "SELECT ledger.hash_data('1') = ledger.hash_data('1.0')"), "f");
    let insert = "INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('test', ledger.hash_data('1'))";
    for statement in [RECORD, insert, "SELECT * FROM ledger.commit_block()", "SELECT ledger.mirror_catch_up()"] {
        assert_eq!(error(&mut client, statement).message(), WANTED, "{statement}");
    }
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").unwrap();
    assert_eq!(error(&mut client, "SELECT ledger.track('t')").message(), WANTED);
}

#[test]
fn without_preloading_a_ledger_is_verified_and_copies_in_format_jsonl_are_unknown() {
    let (cluster, mut client) = start(quiet());
    record_many(&mut client, 5);
    seal(&mut client);
    drop(client);
    cluster.add_conf("shared_preload_libraries = ''");
    cluster.restart(crate::common::Stop::Fast);
    let mut client = cluster.connect("postgres");
    let verdict = verdict(&mut client);
    let chain = &verdict["postgres_chain"];
    assert!(chain["valid"] == true && chain["entry_count"] == 5, "{verdict:#}");
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.find_tampering()"), 0);
    let from = error(&mut client, "COPY ledger.entries FROM '/dev/null' WITH (FORMAT jsonl)");
    assert_eq!(from.message(), "COPY format \"jsonl\" not recognized");
    let to = error(&mut client, "COPY ledger.entries TO '/dev/null' WITH (FORMAT jsonl)");
    assert_eq!(to.message(), "cannot copy from partitioned table \"entries\"");
}
