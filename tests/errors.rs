//! Errors as their readers see them.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::Options;
use postgres::error::SqlState;

/// A server may have the variable in its environment for the sake of another extension.
#[test]
fn errors_are_the_same_where_backtraces_of_rust_are_asked_for() {
    let texts = |options: Options| {
        let (_cluster, mut client) = start(options);
        client
            .batch_execute(
                "CREATE TABLE t (id int PRIMARY KEY); SELECT ledger.track('t'); INSERT INTO t VALUES (1);
                 CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a trigger' USING detail = 'its detail'; END $$;
                 CREATE TABLE failing (id int PRIMARY KEY, other int); SELECT ledger.track('failing');
                 CREATE TRIGGER fail BEFORE INSERT ON failing FOR EACH ROW EXECUTE FUNCTION fail()",
            )
            .unwrap();
        let append = "SELECT ledger.append_entry('test', '00000000-0000-7000-8000-000000000001', repeat('a', 64))";
        client.batch_execute(append).unwrap();
        [
            append,
            "INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('test', 'no hash')",
            "INSERT INTO t VALUES (1)",
            "INSERT INTO failing VALUES (1)",
            "SELECT ledger.track('pg_class')",
            "SELECT ledger.verify_file_integrity('/nowhere')",
            "DELETE FROM ledger.entries",
            "SELECT ledger.hash_and_record('item_signed', '{}')",
            "COPY ledger.entries FROM '/nowhere' WITH (FORMAT jsonl)",
        ]
        .map(|statement| (statement, all_text(&error(&mut client, statement))))
    };
    let [usual, asked_for] = ["0", "1"].map(|backtrace| texts(Options::new().env("RUST_BACKTRACE", backtrace)));
    for (usual, asked_for) in usual.iter().zip(&asked_for) {
        assert_eq!(usual, asked_for);
    }
}

/// VACUUM FULL of a catalog holds such a lock. Each command first looks whether its database has the ledger.
#[test]
fn a_command_that_gives_up_its_wait_for_a_catalog_ends_only_itself() {
    let (cluster, mut bystander) = start(Options::new());
    bystander
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE nobody; CREATE TEMP TABLE mine ()")
        .unwrap();
    bystander.batch_execute("CREATE DATABASE plain").unwrap();
    for (database, catalog) in [("postgres", "pg_extension"), ("postgres", "pg_namespace"), ("plain", "pg_namespace")] {
        for command in ["CREATE TABLE n ()", "ALTER TABLE t ADD n int", "DROP TABLE t", "DROP OWNED BY nobody"] {
            let mut client = cluster.connect(database);
            client.batch_execute("SET lock_timeout = '100ms'").unwrap();
            let mut holder = cluster.connect(database);
            holder.batch_execute(&format!("BEGIN; LOCK TABLE pg_catalog.{catalog} IN ACCESS EXCLUSIVE MODE")).unwrap();
            let refused = error(&mut client, command);
            assert_eq!(*refused.code(), SqlState::LOCK_NOT_AVAILABLE, "{database} {catalog} {command}: {refused:?}");
            holder.batch_execute("ROLLBACK").unwrap();
            client.batch_execute("CREATE TABLE IF NOT EXISTS n ()").unwrap();
        }
    }
    bystander.batch_execute("TABLE mine").expect("the bystander's session lives");
}
