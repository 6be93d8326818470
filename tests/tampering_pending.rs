//! What the file has the line of does not go unnoticed where the tables have another entry of that id, sealed or
//! pending.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tampering::{past_the_indexes, TRIGGERS_OFF};
use crate::common::tracking::all_valid;
use crate::common::{send, Cluster, Options};
use postgres::error::SqlState;
use postgres::Client;

fn start_quiet() -> (Cluster, Client) {
    let options = Options::new().conf("ledger.block_size = 100").conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(options);
    record_many(&mut client, 3);
    seal(&mut client);
    (cluster, client)
}

fn found(client: &mut Client) -> Vec<String> {
    column(client, "SELECT concat_ws(' ', source, problem, entry_id) FROM ledger.find_tampering()")
}

/// Stops the worker, so that it appends no line of a block.
#[track_caller]
fn stop_worker(client: &mut Client) -> u32 {
    let worker = worker_pid(client);
    stop_between_transactions(client, worker);
    worker
}

/// The block's line is not in the file: so it does not tell which entries it has.
#[test]
fn an_entry_changed_before_it_is_sealed_is_named_before_its_block_is_in_the_file() {
    let (_cluster, mut client) = start_quiet();
    let ids = record_many(&mut client, 2);
    let worker = stop_worker(&mut client);
    client.batch_execute(TRIGGERS_OFF).unwrap();
    let change = format!("UPDATE ledger.entries_pending SET entry_type = 'forged' WHERE id = '{}'", ids[0]);
    client.batch_execute(&change).unwrap();
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    let (is_valid, found) = (verdict(&mut client)["overall_valid"] == true, found(&mut client));
    send(worker, libc::SIGCONT);
    assert!(!is_valid);
    assert_eq!(found, [format!("postgres entry_differs {}", ids[0])]);
}

#[test]
fn an_entry_that_came_by_itself_and_was_sealed_is_named_before_its_block_is_in_the_file() {
    let (_cluster, mut client) = start_quiet();
    record_many(&mut client, 2);
    let worker = stop_worker(&mut client);
    client.batch_execute(TRIGGERS_OFF).unwrap();
    let insert = "INSERT INTO ledger.entries_pending (entry_type, data_hash) VALUES ('forged', ledger.hash_data('1'))";
    let forged = value(&mut client, &format!("{insert} RETURNING id"));
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    let (is_valid, found) = (verdict(&mut client)["overall_valid"] == true, found(&mut client));
    send(worker, libc::SIGCONT);
    assert!(!is_valid);
    assert_eq!(found, [format!("file entry_not_in_file {forged}")]);
}

/// The trigger that queues an entry for the file does not take it on trust that the other has checked it.
#[test]
fn without_the_trigger_that_checks_an_entry_the_file_gets_none_that_it_would_refuse() {
    let (_cluster, mut client) = start_quiet();
    client
        .batch_execute(
            "CREATE TABLE fg (id int PRIMARY KEY, amount int); SELECT ledger.track('fg'); INSERT INTO fg VALUES (1, 100);
             ALTER TABLE fg DISABLE TRIGGER ledger_record_change; UPDATE fg SET amount = 999 WHERE id = 1;
             ALTER TABLE fg ENABLE ALWAYS TRIGGER ledger_record_change;
             ALTER TABLE ledger.entries_pending DISABLE TRIGGER zz_complete_entry",
        )
        .unwrap();
    let about_row = "INSERT INTO ledger.entries_pending (id, entry_type, data_hash, metadata, signature, key_id, created_at)
         SELECT ledger.uuid_v7(), 'table_update', h, metadata || jsonb_build_object('previous_hash', data_hash, 'session_user', 'alice',
             'current_user', 'alice'), ledger.create_signature(h), 'default', created_at + interval '1 microsecond'
         FROM ledger.entries, ledger.hash_data('{\"id\": 1, \"amount\": 999}') AS h
         WHERE entry_type = 'table_insert' AND metadata->>'table' = 'public.fg'";
    let refused = error(&mut client, about_row);
    assert_eq!(*refused.code(), SqlState::INSUFFICIENT_PRIVILEGE);
    assert!(refused.message().contains("reserved for tracked tables"), "{refused:?}");
    let hash = "ledger.hash_data('1')";
    let not_completed = [
        // Signed by nobody, for another hash, and under a name that the key does not have.
        "NULL, NULL".to_owned(),
        "ledger.create_signature(ledger.hash_data('2')), 'default'".to_owned(),
        format!("ledger.create_signature({hash}), 'other'"),
        format!("ledger.create_signature({hash}), NULL"),
    ];
    let insert = |signature: &str| {
        let columns = "(entry_type, data_hash, signature, key_id)";
        format!("INSERT INTO ledger.entries_pending {columns} VALUES ('test', {hash}, {signature})")
    };
    for signature in not_completed {
        let refused = error(&mut client, &insert(&signature));
        assert!(refused.message().contains("zz_complete_entry"), "{signature}: {refused:?}");
    }
    let no_object = "INSERT INTO ledger.entries_pending (entry_type, data_hash, metadata) VALUES ('test', ledger.hash_data('1'), '[]')";
    assert!(error(&mut client, no_object).message().contains("metadata must be a JSON object"));
    // What the trigger would have let through is recorded, and in the file.
    client.batch_execute(&insert(&format!("ledger.create_signature({hash}), 'default'"))).unwrap();
    assert_intact(&mut client);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.history('fg', '{\"id\": 1}')"), 1);
    client.batch_execute("ALTER TABLE ledger.entries_pending ENABLE ALWAYS TRIGGER zz_complete_entry").unwrap();
    client.batch_execute(&insert("NULL, NULL")).unwrap();
    assert!(!all_valid(&mut client), "the row was changed without a record");
}

/// A transaction that has not ended excuses only a line that is the one of its row.
#[test]
fn a_pending_entry_in_whose_place_a_prepared_transaction_puts_another_is_named() {
    let (_cluster, mut client) = start_quiet();
    let id = record(&mut client);
    client.batch_execute(TRIGGERS_OFF).unwrap();
    let forged = format!("'{id}', 'forged', ledger.hash_data('2')");
    for statement in [
        "CREATE TABLE kept AS SELECT * FROM ledger.entries_pending",
        "DELETE FROM ledger.entries_pending",
        "BEGIN",
        &format!("INSERT INTO ledger.entries_pending (id, entry_type, data_hash) VALUES ({forged})"),
        "PREPARE TRANSACTION 'forged'",
    ] {
        client.batch_execute(statement).unwrap();
    }
    assert_eq!(verdict(&mut client)["overall_valid"], false);
    assert_eq!(found(&mut client), [format!("postgres entry_not_in_database {id}")]);
    client.batch_execute("ROLLBACK PREPARED 'forged'").unwrap();
    client.batch_execute("INSERT INTO ledger.entries_pending SELECT * FROM kept").unwrap();
    assert_intact(&mut client);
}

/// Whichever of the two were asked for, the other would be shown as well.
#[test]
fn an_entry_that_is_sealed_and_pending_once_more_is_not_verified() {
    let (_cluster, mut client) = start_quiet();
    let id = record(&mut client);
    seal(&mut client);
    let verify =
        |client: &mut Client, data: &str| json(client, &format!("SELECT ledger.verify_entry('{id}', '{data}')"));
    assert_eq!(verify(&mut client, r#"{"n": 1}"#)["verified"], true);
    client
        .batch_execute(&format!(
            "{TRIGGERS_OFF}; INSERT INTO ledger.entries_pending (id, entry_type, data_hash) \
             VALUES ('{id}', 'test', ledger.hash_data('{{\"n\": 2}}'))"
        ))
        .unwrap();
    let verdict = verify(&mut client, r#"{"n": 2}"#);
    assert_eq!((&verdict["verified"], &verdict["hash_valid"]), (&false.into(), &false.into()), "{verdict}");
    let verdict = verify(&mut client, r#"{"n": 1}"#);
    assert_eq!((&verdict["verified"], &verdict["hash_valid"]), (&false.into(), &true.into()), "{verdict}");
    assert_eq!((&verdict["included"], &verdict["block_number"]), (&true.into(), &2.into()), "{verdict}");
}

/// A query that reads the table shows it.
#[test]
fn a_pending_row_that_no_index_leads_to_is_named_if_its_id_is_that_of_another_entry() {
    let (_cluster, mut client) = start_quiet();
    let sealed = value(&mut client, "SELECT id FROM ledger.entries_sealed LIMIT 1");
    let pending = record(&mut client);
    client.batch_execute(TRIGGERS_OFF).unwrap();
    for mode in ["sync", "off"] {
        switch(&mut client, mode);
        for id in [&sealed, &pending] {
            let forge = format!(
                "INSERT INTO ledger.entries_pending (id, entry_type, data_hash) \
                 VALUES ('{id}', 'forged', ledger.hash_data('2'))"
            );
            client.batch_execute(&past_the_indexes("entries_pending", &forge)).unwrap();
            assert_eq!(verdict(&mut client)["overall_valid"], false);
            let found = found(&mut client);
            assert!(found.contains(&format!("postgres entry_repeated {id}")), "{mode}: {found:?}");
            client.batch_execute("DELETE FROM ledger.entries_pending WHERE entry_type = 'forged'").unwrap();
            assert_eq!(verdict(&mut client)["overall_valid"], true, "{mode}");
        }
    }
}

const USED_AGAIN: &str = "00000000-0000-0000-0000-000000000001";

fn insert_again(data: &str) -> String {
    format!(
        "INSERT INTO ledger.entries (id, entry_type, data_hash) VALUES ('{USED_AGAIN}', 'test', ledger.hash_data('{data}'))"
    )
}

/// Rolls an entry of that id back whose line is in the file, and stops the worker before it can void the line.
fn leave_a_line(cluster: &Cluster, client: &mut Client) -> u32 {
    let prepare = format!("BEGIN; {}; PREPARE TRANSACTION 'before'", insert_again("1"));
    cluster.connect("postgres").batch_execute(&prepare).unwrap();
    let worker = stop_worker(client);
    client.batch_execute("ROLLBACK PREPARED 'before'").unwrap();
    worker
}

/// Its line is still to be voided. The application may use its id for another entry.
#[test]
fn an_id_that_is_used_again_before_its_line_is_voided_is_not_taken_for_changed() {
    let (cluster, mut client) = start_quiet();
    let worker = leave_a_line(&cluster, &mut client);
    client.batch_execute(&format!("BEGIN; {}", insert_again("2"))).unwrap();
    let verdict = verdict(&mut client);
    send(worker, libc::SIGCONT);
    assert_eq!(verdict["overall_valid"], true, "{verdict:#}");
    client.batch_execute("COMMIT").unwrap();
    assert_intact(&mut client);
}

#[test]
fn an_id_that_is_used_again_without_the_file_before_its_line_is_voided_is_not_taken_for_changed() {
    let (cluster, mut client) = start_quiet();
    let worker = leave_a_line(&cluster, &mut client);
    for (mode, statement) in [("async", insert_again("2")), ("sync", "SELECT".to_owned())] {
        set(&mut client, "ledger.mirror_mode", mode);
        wait_for(&mut client, &format!("(SELECT current_setting('ledger.mirror_mode') = '{mode}')"));
        client.batch_execute(&statement).unwrap();
    }
    let verdict = verdict(&mut client);
    send(worker, libc::SIGCONT);
    assert_eq!(verdict["overall_valid"], true, "{verdict:#}");
    wait_until_file_has_followed(&mut client);
    assert_intact(&mut client);
}
