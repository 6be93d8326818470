//! An id is recorded once over the whole ledger. One that the ledger has just made need not be searched for among the
//! sealed entries; one that anybody else may have used by then is.
#![cfg(feature = "cluster-tests")]

use crate::common::copy_jsonl::{export, import};
use crate::common::ledger::*;
use crate::common::{write_file, Stop};
use postgres::Client;

const NEW: &str = "INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('new', repeat('a', 64))";

fn insert(id: &str) -> String {
    format!("INSERT INTO ledger.entries (id, entry_type, data_hash) VALUES ('{id}', 'given', repeat('b', 64))")
}

/// An id that the ledger gives to this session, which has not used it.
fn new_id(client: &mut Client) -> String {
    value(client, "SELECT ledger.uuid_v7()")
}

#[track_caller]
fn assert_is_taken(client: &mut Client, id: &str) {
    let refused = error(client, &insert(id));
    assert_eq!(refused.code().code(), "23505");
    assert!(refused.detail().unwrap().starts_with("It is sealed in block"), "{refused:?}");
}

/// Whether this transaction has read a partition of sealed entries.
fn has_searched(client: &mut Client) -> bool {
    is_true(
        client,
        "EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'ledger.entries_sealed_1'::regclass)",
    )
}

#[test]
fn entries_with_ids_that_the_ledger_has_just_made_are_not_searched_for() {
    for mode in ["sync", "async", "off"] {
        let (_cluster, mut client) = start(quiet().conf(&format!("ledger.mirror_mode = {mode}")));
        let rows = "SELECT 'new', repeat('a', 64) FROM generate_series(1, 1000)";
        for statement in [NEW.to_owned(), format!("INSERT INTO ledger.entries (entry_type, data_hash) {rows}")] {
            client.batch_execute(&format!("BEGIN; {statement}")).unwrap();
            assert!(!has_searched(&mut client), "{mode}: {statement}");
            // After a savepoint that is rolled back, too.
            client.batch_execute(&format!("SAVEPOINT s; {statement}; ROLLBACK TO s; {statement}")).unwrap();
            assert!(!has_searched(&mut client), "{mode}: {statement}");
            let id = new_id(&mut client);
            client.batch_execute(&insert(&id)).unwrap();
            assert!(!has_searched(&mut client), "{mode}: an id that nobody else has used");
            let id = value(&mut client, "SELECT gen_random_uuid()");
            client.batch_execute(&insert(&id)).unwrap();
            assert!(has_searched(&mut client), "{mode}: an id that the application gives");
            client.batch_execute("COMMIT").unwrap();
        }
    }
}

#[test]
fn an_id_that_the_ledger_gave_to_one_session_is_recorded_once_if_another_has_used_it() {
    let uses: [fn(&mut Client, &str); 3] = [
        |other, id| other.batch_execute(&insert(id)).unwrap(),
        |other, id| {
            other.batch_execute(&format!("SELECT ledger.append_entry('given', '{id}', repeat('b', 64))")).unwrap();
        },
        |other, id| {
            let prepared = format!("BEGIN; {}; PREPARE TRANSACTION 'a'", insert(id));
            other.batch_execute(&prepared).unwrap();
            other.batch_execute("COMMIT PREPARED 'a'").unwrap();
        },
    ];
    for mode in ["sync", "async", "off"] {
        let (cluster, mut client) = start(quiet().conf(&format!("ledger.mirror_mode = {mode}")));
        let mut other = cluster.connect("postgres");
        for used in uses {
            let id = new_id(&mut client);
            used(&mut other, &id);
            other.batch_execute(SEAL).unwrap();
            assert_is_taken(&mut client, &id);
        }
        // The other has given ids before it learns of this one.
        other.batch_execute(&format!("BEGIN; {}", insert("01a20057-47fa-7376-9c1c-a0206f4cd8e1"))).unwrap();
        let id = new_id(&mut client);
        other.batch_execute(&format!("{}; COMMIT", insert(&id))).unwrap();
        other.batch_execute(SEAL).unwrap();
        assert_is_taken(&mut client, &id);
    }
}

#[test]
fn an_id_that_the_ledger_gave_is_recorded_once_by_the_session_itself() {
    let (_cluster, mut client) = start(quiet());
    let id = new_id(&mut client);
    client.batch_execute(&format!("BEGIN; {}; {SEAL}", insert(&id))).unwrap();
    assert_eq!(error(&mut client, &insert(&id)).code().code(), "23505");
    client.batch_execute("ROLLBACK").unwrap();
    client.batch_execute(&insert(&id)).unwrap();
    client.batch_execute(SEAL).unwrap();
    assert_is_taken(&mut client, &id);

    let id = new_id(&mut client);
    client.batch_execute(&format!("SELECT ledger.append_entry('given', '{id}', repeat('b', 64))")).unwrap();
    client.batch_execute(SEAL).unwrap();
    assert_is_taken(&mut client, &id);

    // The first row is sealed before the statement ends.
    client
        .batch_execute(
            "CREATE FUNCTION hash_after_sealing() RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN PERFORM ledger.commit_block(); RETURN repeat('c', 64); END $$",
        )
        .unwrap();
    let rows = "SELECT 'new', hash_after_sealing() FROM generate_series(1, 2)";
    let refused = error(&mut client, &format!("INSERT INTO ledger.entries (entry_type, data_hash) {rows}"));
    assert_eq!(refused.code().code(), "23505");
}

/// A superuser can disable one of the two triggers, or have another change the row between them.
#[test]
fn an_id_that_was_not_seen_before_the_insert_is_searched_for_after_it() {
    let (_cluster, mut client) = start(quiet());
    let id = new_id(&mut client);
    let signed = format!(
        "INSERT INTO ledger.entries (id, entry_type, data_hash, signature, key_id) \
         VALUES ('{id}', 'given', repeat('b', 64), ledger.create_signature(repeat('b', 64)), 'default')"
    );
    let trigger = |what: &str| format!("ALTER TABLE ledger.entries_pending {what} TRIGGER zz_complete_entry");
    client.batch_execute(&format!("{}; {signed}", trigger("DISABLE"))).unwrap();
    client.batch_execute(SEAL).unwrap();
    assert_eq!(error(&mut client, &signed).code().code(), "23505");
    client.batch_execute(&trigger("ENABLE ALWAYS")).unwrap();
    assert_is_taken(&mut client, &id);

    client
        .batch_execute(&format!(
            "CREATE FUNCTION put_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id = '{id}'; RETURN NEW; END $$;
             CREATE TRIGGER zzz BEFORE INSERT ON ledger.entries_pending FOR EACH ROW EXECUTE FUNCTION put_back();
             ALTER TABLE ledger.entries_pending ENABLE ALWAYS TRIGGER zzz"
        ))
        .unwrap();
    assert_eq!(error(&mut client, NEW).code().code(), "23505");
}

#[test]
fn an_id_that_the_ledger_gave_is_recorded_once_if_a_file_that_was_imported_has_it() {
    let (new, mut client) = start(quiet());
    let id = new_id(&mut client);
    let exported = {
        let (_old, mut client) = start(quiet());
        client.batch_execute(&insert(&id)).unwrap();
        client.batch_execute(SEAL).unwrap();
        export(&mut client)
    };
    let copy = new.scratch_dir().join("copy.jsonl");
    write_file(&copy, exported);
    new.connect("postgres").batch_execute(&import(&copy)).unwrap();
    wait_until_attached(&mut client);
    assert_is_taken(&mut client, &id);
}

#[test]
fn an_id_that_a_standby_gave_is_recorded_once_if_the_primary_has_used_it() {
    let options = || quiet().conf("ledger.mirror_mode = off");
    let (primary, mut client) = start(options());
    let standby = options().standby_of(&primary);
    let mut reader = standby.connect("postgres");
    let id = new_id(&mut reader);
    client.batch_execute(&insert(&id)).unwrap();
    client.batch_execute(SEAL).unwrap();
    catch_up(&mut client, &mut reader);
    primary.stop(Stop::Fast);
    assert_eq!(value(&mut reader, "SELECT pg_promote()"), "t");
    assert_is_taken(&mut reader, &id);
}
