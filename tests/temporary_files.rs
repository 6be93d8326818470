//! Lines that do not fit into memory go to a temporary file of Postgres. Where there is none to be had, the statement
//! fails, and nothing else.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{as_server, give_to_server, succeed, Options};
use postgres::error::SqlState;
use postgres::Client;
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

const BLOCK: i64 = 8192;

/// The size that files of this session's process may have, in bytes, or `unlimited`.
fn limit_files(client: &mut Client, bytes: &str) {
    let pid = number(client, "SELECT pg_backend_pid()");
    succeed(as_server("prlimit").args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:")]));
}

/// What does not fit is not written at all, or in part: wherever it stops, a transaction that goes on without it
/// commits what it has recorded, and nothing else.
#[test]
fn a_transaction_that_finds_no_room_goes_on_from_a_savepoint_with_what_it_had_recorded() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    let mut session = cluster.connect("postgres");
    let record = |from: i64, count: i64| {
        let filler = "jsonb_build_object('filler', repeat('b', 7000))";
        format!(
            "SELECT count(ledger.hash_and_record('large', to_jsonb(n), {filler})) \
             FROM generate_series({from}, {from} + {count} - 1) AS n"
        )
    };
    session.batch_execute(&record(0, 1)).unwrap();
    let length = number(&mut session, "SELECT length(ledger.entry_line(e)) + 1 FROM ledger.entries AS e");
    // The lines go to the file in parts of a megabyte.
    let part = (1 << 20) / length + 1;
    // Limits larger than Postgres' own files: where a part ends and the block around it is half full, there or in
    // between.
    let is_within_block = |parts: &i64| parts * part * length % BLOCK > BLOCK / 2 + 100;
    let number_of_lines = part * (17..60).find(is_within_block).expect("some part ends there");
    let end = number_of_lines * length;
    for limit in [end / BLOCK * BLOCK + BLOCK / 2, end + 100, end + 300_000] {
        session.batch_execute(&format!("BEGIN; {}; SAVEPOINT s", record(0, number_of_lines))).unwrap();
        limit_files(&mut session, &limit.to_string());
        let refused = error(&mut session, &record(0, 2 * part));
        assert_eq!(refused.code(), &SqlState::DISK_FULL, "{refused:?}");
        assert!(refused.message().contains("temporary file: File too large"), "{refused:?}");
        session.batch_execute("ROLLBACK TO s").unwrap();
        limit_files(&mut session, "unlimited");
        session.batch_execute(&format!("{}; {}; COMMIT", record(0, 2 * part), record(0, 3))).unwrap();
    }
    seal(&mut client);
    assert_complete(&mut client);
    assert_intact(&mut client);
}

/// Another program, or a bad disk, has taken away what was written.
#[test]
fn a_transaction_whose_temporary_file_was_cut_off_fails_and_can_be_run_again() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    let mut session = cluster.connect("postgres");
    let prefix = format!("pgsql_tmp{}.", number(&mut session, "SELECT pg_backend_pid()"));
    let record =
        "SELECT count(ledger.hash_and_record('large', to_jsonb(n), jsonb_build_object('filler', repeat('b', 7000)))) \
                  FROM generate_series(1, 400) AS n";
    session.batch_execute(&format!("BEGIN; {record}")).unwrap();
    let files = fs::read_dir(cluster.data_dir().join("base/pgsql_tmp")).unwrap().map(|file| file.unwrap());
    let own: Vec<_> = files.filter(|file| file.file_name().to_string_lossy().starts_with(&prefix)).collect();
    assert!(!own.is_empty(), "the lines are in memory");
    for file in own {
        fs::OpenOptions::new().write(true).open(file.path()).unwrap().set_len(0).unwrap();
    }
    let refused = error(&mut session, "COMMIT");
    assert_eq!(refused.code(), &SqlState::IO_ERROR, "{refused:?}");
    assert!(refused.message().ends_with("temporary file: it is shorter than what was written"), "{refused:?}");
    assert!(refused.hint().unwrap().starts_with("Run the transaction again."), "{refused:?}");
    session.batch_execute(&format!("BEGIN; {record}; COMMIT")).unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 400);
    assert_complete(&mut client);
}

/// A FATAL unwinds nothing: what the session held would stay held until the server is started again.
#[test]
fn a_session_that_ends_where_its_lines_find_no_room_holds_nothing_any_more() {
    let (cluster, mut client) = start(Options::new().conf("temp_file_limit = '512kB'"));
    client
        .batch_execute(
            "CREATE TABLE accounts (id int PRIMARY KEY, note text); SELECT ledger.track('accounts');
             CREATE ROLE app LOGIN; GRANT ALL ON accounts TO app",
        )
        .unwrap();
    for _ in 0..3 {
        let mut session = cluster.connect("postgres");
        session.batch_execute("SET ROLE app; SET exit_on_error = on").unwrap();
        let fill = "INSERT INTO accounts SELECT n, repeat('x', 100) FROM generate_series(1, 20000) AS n";
        session.batch_execute(fill).unwrap_err();
    }
    assert_eq!(cluster.log().matches("FATAL:  temporary file size exceeds").count(), 3, "{}", cluster.log());
    client.batch_execute("SET lock_timeout = '10s'").unwrap();
    for table in ["accounts", "ledger.entries_pending"] {
        client.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; ROLLBACK")).unwrap();
    }
    client.batch_execute("SET statement_timeout = '30s'").unwrap();
    client.batch_execute("VACUUM (FREEZE) accounts").unwrap();
    assert!(!cluster.log().contains("already borrowed"), "{}", cluster.log());
    client.batch_execute("INSERT INTO accounts VALUES (1, 'y')").unwrap();
    assert_complete(&mut client);
}
