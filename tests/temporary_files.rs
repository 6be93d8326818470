//! Lines that do not fit into memory go to a temporary file of Postgres. Where there is none to be had, the statement fails, and
//! nothing else.
#![cfg(feature = "cluster-tests")]

mod common;

use common::ledger::*;
use common::{give_to_server, Options};
use std::fs;

#[test]
fn a_table_is_not_tracked_where_its_lines_find_no_temporary_file_and_nobody_else_is_harmed() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    let server = cluster.postmaster();
    // Small enough that all rows are recorded at once, by this session.
    client
        .batch_execute(
            "CREATE TABLE accounts (id int PRIMARY KEY, note text); \
             INSERT INTO accounts SELECT n, 'x' FROM generate_series(1, 6000) AS n",
        )
        .unwrap();
    // Nobody can make a directory there now, nor a file in it.
    let directory = cluster.data_dir().join("base/pgsql_tmp");
    fs::remove_dir_all(&directory).ok();
    fs::write(&directory, "").unwrap();
    give_to_server(&directory);
    for _ in 0..2 {
        let refused = error(&mut client, "SELECT ledger.track('accounts')");
        assert!(all_text(&refused).contains("temporary"), "{refused:?}");
    }
    // A transaction goes on after it.
    client.batch_execute("BEGIN; SAVEPOINT before").unwrap();
    error(&mut client, "SELECT ledger.track('accounts')");
    client.batch_execute(&format!("ROLLBACK TO before; {RECORD}; COMMIT")).unwrap();
    fs::remove_file(&directory).unwrap();
    client.batch_execute("SELECT ledger.track('accounts')").unwrap();
    assert_complete(&mut client);
    assert!(number(&mut client, "SELECT count(*) FROM ledger.entries") > 6000);
    assert!(cluster.is_running() && cluster.postmaster() == server);
    assert!(!cluster.log().contains("terminated by signal"), "a session has crashed");
}
