//! Whatever a superuser does to the rows of a tracked table, to the entries about them, or to both, is found, and the
//! rows are named.
//!
//! Each change is made in a transaction with the triggers off, looked at, and rolled back.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tampering::TRIGGERS_OFF;
use crate::common::tracking::*;
use crate::common::{Options, Stop};
use postgres::Client;

/// Looks at what the change gives: the problems of rows, and whether the whole is valid.
fn after(client: &mut Client, triggers_off: &str, change: &str) -> Result<(Vec<String>, bool), String> {
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(triggers_off).unwrap();
    let changed = client.batch_execute(change).map_err(|error| format!("{change}: {error:?}"));
    // Who does this behind the application's back puts them in order again.
    let changed = changed.and_then(|()| client.batch_execute(TRACKING_ON).map_err(|error| format!("{error:?}")));
    let seen = changed.map(|()| (problems(client, "memories"), all_valid(client)));
    client.batch_execute("ROLLBACK").unwrap();
    seen
}

/// Each change gives these problems, and no others.
#[track_caller]
fn assert_found(options: &str, triggers_off: &str, attacks: &[(&str, &[&str])]) {
    let (_cluster, mut client) = start_with_memories(options);
    let mut complaints = Vec::new();
    for (change, expected) in attacks {
        let seen = after(&mut client, triggers_off, change);
        let is_right = |seen: &(Vec<String>, bool)| seen.0 == *expected && seen.1 == expected.is_empty();
        if !seen.as_ref().is_ok_and(is_right) {
            complaints.push(format!("{change}\n  expected {expected:?}\n  {seen:?}"));
        }
    }
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), attacks.len(), complaints.join("\n"));
    // All of it was rolled back.
    assert_clean(&mut client, "memories");
}

/// Changes of the application's rows alone, and the problems that they give.
const ROW_ATTACKS: &[(&str, &[&str])] = &[
    // The control.
    ("SELECT 1", &[]),
    // T1: content.
    ("UPDATE memories SET content = 'forged' WHERE id = 1", &["{\"id\": 1} modified"]),
    ("UPDATE memories SET content = 'forged' WHERE id IN (2, 7)", &["{\"id\": 2} modified", "{\"id\": 7} modified"]),
    ("UPDATE memories SET seen = NULL WHERE id = 4", &["{\"id\": 4} modified"]),
    // T2: the end.
    ("DELETE FROM memories WHERE id = 7", &["{\"id\": 7} missing"]),
    // T3: the middle.
    ("DELETE FROM memories WHERE id = 3", &["{\"id\": 3} missing"]),
    // T4: order.
    (
        "UPDATE memories m SET agent = o.agent, content = o.content FROM memories o \
         WHERE m.id IN (1, 2) AND o.id IN (1, 2) AND m.id <> o.id",
        &["{\"id\": 1} modified", "{\"id\": 2} modified"],
    ),
    (
        "UPDATE memories SET id = -1 WHERE id = 1; UPDATE memories SET id = 1 WHERE id = 4; \
         UPDATE memories SET id = 4 WHERE id = -1",
        &["{\"id\": 1} modified", "{\"id\": 4} modified"],
    ),
    // T5: what was never there.
    ("INSERT INTO memories VALUES (100, 'agent 1', 'forged')", &["{\"id\": 100} unrecorded"]),
    // T6: a genuine row under another key.
    ("INSERT INTO memories SELECT 101, agent, content FROM memories WHERE id = 1", &["{\"id\": 101} unrecorded"]),
    (
        "UPDATE memories m SET agent = o.agent, content = o.content FROM memories o WHERE o.id = 1 AND m.id = 5",
        &["{\"id\": 5} modified"],
    ),
    ("UPDATE memories SET id = 102 WHERE id = 1", &["{\"id\": 102} unrecorded", "{\"id\": 1} missing"]),
    // T7: an older version of the row, and one that was deleted.
    ("UPDATE memories SET content = 'second version' WHERE id = 2", &["{\"id\": 2} modified"]),
    ("UPDATE memories SET content = 'memory 3' WHERE id = 3", &["{\"id\": 3} modified"]),
    ("INSERT INTO memories VALUES (6, 'agent 0', 'memory 6')", &["{\"id\": 6} resurrected"]),
    // All of it.
    (
        "TRUNCATE memories",
        &[
            "{\"id\": 1} missing",
            "{\"id\": 2} missing",
            "{\"id\": 3} missing",
            "{\"id\": 4} missing",
            "{\"id\": 5} missing",
            "{\"id\": 7} missing",
        ],
    ),
];

#[test]
fn rows_changed_behind_the_applications_back_are_named() {
    assert_found("", APPLICATION_TRIGGERS_OFF, ROW_ATTACKS);
}

#[test]
fn rows_are_named_whose_images_are_kept() {
    assert_found(", keep_image => true, with_signature => false", APPLICATION_TRIGGERS_OFF, ROW_ATTACKS);
}

/// Changes of the entries about the rows, and the problems of rows that they give. The chain is broken by each.
const ENTRY_ATTACKS: &[(&str, Option<&[&str]>)] = &[
    ("UPDATE ledger.entries SET data_hash = ledger.hash_data('1') WHERE metadata->'key'->>'id' = '1'", None),
    ("DELETE FROM ledger.entries WHERE metadata->'key'->>'id' = '1'", Some(&["{\"id\": 1} unrecorded"])),
    ("DELETE FROM ledger.entries WHERE metadata->'key'->>'id' = '7'", Some(&["{\"id\": 7} unrecorded"])),
    ("DELETE FROM ledger.entries_pending", None),
    ("DELETE FROM ledger.entries", None),
    // Two entries in each other's place.
    (
        "UPDATE ledger.entries e SET data_hash = o.data_hash, signature = o.signature, metadata = o.metadata \
         FROM ledger.entries o WHERE e.metadata->'key'->>'id' IN ('1', '4') AND o.metadata->'key'->>'id' IN ('1', '4') \
         AND e.id <> o.id",
        Some(&[]),
    ),
    (
        "UPDATE ledger.entries SET created_at = now() + interval '1 day' WHERE metadata->'key'->>'id' = '2' \
         AND entry_type = 'table_insert'",
        // The row, and two links: it was changed before it was there, and inserted when it was.
        Some(&["{\"id\": 2} missing", "{\"id\": 2} modified", "{\"id\": 2} unrecorded"]),
    ),
    // A genuine entry said to be about another row.
    (
        "UPDATE ledger.entries SET metadata = jsonb_set(metadata, '{key,id}', '50') || jsonb_build_object('row_id', \
         left(encode(sha256(convert_to(metadata->>'table_id', 'UTF8') || '\\x00'::bytea || '[50]'::bytea), 'hex'), 32)) \
         WHERE metadata->'key'->>'id' = '1'",
        Some(&["{\"id\": 1} unrecorded", "{\"id\": 50} missing"]),
    ),
    // Only the key that people read: the chain tells.
    (
        "UPDATE ledger.entries SET metadata = jsonb_set(metadata, '{key,id}', '50') WHERE metadata->'key'->>'id' = '1'",
        Some(&[]),
    ),
    ("UPDATE ledger.entries SET metadata = metadata || '{\"session_user\": \"nobody\"}' WHERE leaf_index = 4", Some(&[])),
    ("UPDATE ledger.entries SET metadata = metadata - 'session_user' WHERE leaf_index IS NULL", Some(&[])),
    (
        "UPDATE ledger.entries SET metadata = metadata || '{\"table_id\": \"0\"}' WHERE metadata->'key'->>'id' = '1'",
        Some(&["{\"id\": 1} unrecorded"]),
    ),
    ("UPDATE ledger.entries SET signature = 'aa' || substr(signature, 3) WHERE metadata->'key'->>'id' = '4'",
        Some(&["{\"id\": 4} signature"])),
    ("UPDATE ledger.entries SET entry_type = 'table_delete' WHERE metadata->'key'->>'id' = '1'",
        Some(&["{\"id\": 1} resurrected", "{\"id\": 1} unrecorded"])),
    (
        "INSERT INTO ledger.entries_pending (entry_type, data_hash, metadata, created_at) SELECT entry_type, data_hash, \
         jsonb_set(metadata, '{key,id}', '60'), now() FROM ledger.entries WHERE metadata->'key'->>'id' = '1'",
        None,
    ),
];

#[test]
fn entries_about_rows_that_are_changed_are_found() {
    let (_cluster, mut client) = start_with_memories("");
    let mut complaints = Vec::new();
    assert_eq!(after(&mut client, TRIGGERS_OFF, "SELECT 1").unwrap(), (vec![], true), "the control");
    for (change, expected) in ENTRY_ATTACKS {
        let seen = after(&mut client, TRIGGERS_OFF, change);
        let is_right =
            seen.as_ref().is_ok_and(|(found, is_valid)| !is_valid && expected.is_none_or(|expected| found == expected));
        if !is_right {
            complaints.push(format!("{change}\n  expected {expected:?}\n  {seen:?}"));
        }
    }
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), ENTRY_ATTACKS.len(), complaints.join("\n"));
    assert_clean(&mut client, "memories");
}

/// Who changes both so that they agree is found by the chain and by the file.
#[test]
fn a_row_changed_together_with_its_entries_is_found() {
    let (_cluster, mut client) = start_with_memories("");
    let forged = "ledger.hash_data(jsonb_strip_nulls(to_jsonb(m)))";
    let forge = |id: i32| {
        format!(
            "UPDATE memories SET content = 'forged' WHERE id = {id}; \
             UPDATE ledger.entries e SET data_hash = {forged}, signature = NULL, key_id = NULL FROM memories m \
             WHERE m.id = {id} AND e.id = (SELECT id FROM ledger.entries WHERE metadata->'key'->>'id' = '{id}' \
             ORDER BY created_at DESC LIMIT 1)"
        )
    };
    let erase = |id: i32| {
        format!(
            "DELETE FROM memories WHERE id = {id}; DELETE FROM ledger.entries WHERE metadata->'key'->>'id' = '{id}'"
        )
    };
    for change in [forge(1), forge(7), erase(1), erase(7)] {
        let (found, is_valid) = after(&mut client, TRIGGERS_OFF, &change).unwrap();
        assert!(found.is_empty(), "{change}: the two do not agree: {found:?}");
        assert!(!is_valid, "{change}");
    }
    assert_clean(&mut client, "memories");
}

/// T1 to T8 on the rows and on the entries about them, so that the two agree: the chain, or the file, shows it. The
/// control is the same with nothing changed.
#[test]
fn each_edit_at_rest_of_both_is_found() {
    let (_cluster, mut client) = start_with_memories("");
    let of = |id: i32| format!("metadata->'key'->>'id' = '{id}'");
    let newest = |id: i32| format!("(SELECT id FROM ledger.entries WHERE {} ORDER BY created_at DESC LIMIT 1)", of(id));
    let hash = "ledger.hash_data(jsonb_strip_nulls(to_jsonb(m)))";
    let copy_entry = |from: i32, to: i32| {
        format!(
            "INSERT INTO ledger.entries_pending (entry_type, data_hash, metadata, created_at) \
             SELECT e.entry_type, {hash}, jsonb_set(e.metadata, '{{key,id}}', '{to}') || jsonb_build_object('row_id', \
             left(encode(sha256(convert_to(e.metadata->>'table_id', 'UTF8') || '\\x00' || '[{to}]'), 'hex'), 32)), \
             e.created_at FROM ledger.entries e, memories m WHERE e.id = {} AND m.id = {to}",
            newest(from)
        )
    };
    let swap_entries = format!(
        "UPDATE ledger.entries e SET data_hash = {hash}, signature = NULL, key_id = NULL FROM memories m \
         WHERE e.metadata->'key'->>'id' = m.id::text AND m.id IN (1, 4)"
    );
    let attacks = [
        ("T1", format!("UPDATE memories SET content = 'forged' WHERE id = 1; UPDATE ledger.entries e SET data_hash = {hash}, \
                        signature = NULL, key_id = NULL FROM memories m WHERE m.id = 1 AND e.id = {}", newest(1))),
        ("T2", format!("DELETE FROM memories WHERE id = 7; DELETE FROM ledger.entries WHERE {}", of(7))),
        ("T3", format!("DELETE FROM memories WHERE id = 4; DELETE FROM ledger.entries WHERE {}", of(4))),
        ("T4", format!("UPDATE memories m SET agent = o.agent, content = o.content FROM memories o \
                        WHERE m.id IN (1, 4) AND o.id IN (1, 4) AND m.id <> o.id; {swap_entries}")),
        ("T7", format!("UPDATE memories SET content = 'second version' WHERE id = 2; DELETE FROM ledger.entries WHERE id = {}",
                       newest(2))),
        ("T8", format!("UPDATE ledger.entries SET metadata = metadata || '{{\"current_user\": \"nobody\"}}' WHERE id IN ({}, {})",
                       newest(1), newest(7))),
    ];
    let insertions = [
        ("T5", format!("INSERT INTO memories VALUES (100, 'agent 1', 'forged'); {}", copy_entry(1, 100))),
        (
            "T6",
            format!(
                "INSERT INTO memories SELECT 101, agent, content FROM memories WHERE id = 1; {}",
                copy_entry(1, 101)
            ),
        ),
    ];
    assert_eq!(after(&mut client, TRIGGERS_OFF, "SELECT 1").unwrap(), (vec![], true));
    for (name, change) in &attacks {
        let (found, is_valid) = after(&mut client, TRIGGERS_OFF, change).unwrap();
        assert!(found.is_empty(), "{name}: rows and entries do not agree, so this is no test of both: {found:?}");
        assert!(!is_valid, "{name} was not found: {change}");
    }
    assert_clean(&mut client, "memories");
    // An entry of one's own transaction need not be in the file yet: these are committed.
    for (name, change) in &insertions {
        let (_cluster, mut client) = start_with_memories("");
        client.batch_execute(&format!("BEGIN; {TRIGGERS_OFF}; {change}; {TRACKING_ON}; COMMIT")).unwrap();
        let found = problems(&mut client, "memories");
        assert!(found.is_empty(), "{name}: rows and entries do not agree, so this is no test of both: {found:?}");
        assert!(!all_valid(&mut client), "{name} was not found: {change}");
    }
}

/// A superuser can have replicas' triggers skipped, but these are not among them.
#[test]
fn session_replication_role_does_not_stop_recording() {
    let (_cluster, mut client) = start_with_memories("");
    let before = row_entries(&mut client, "memories");
    client.batch_execute("SET session_replication_role = replica").unwrap();
    client.batch_execute("UPDATE memories SET content = 'from a replica' WHERE id = 1").unwrap();
    assert_eq!(row_entries(&mut client, "memories"), before + 1);
    assert_clean(&mut client, "memories");
    client.batch_execute("DELETE FROM memories").unwrap();
    assert_clean(&mut client, "memories");
    client.batch_execute("INSERT INTO memories VALUES (1, 'agent', 'again'), (2, 'agent', 'again')").unwrap();
    client.batch_execute("TRUNCATE memories").unwrap();
    assert_clean(&mut client, "memories");
    let refused = error(&mut client, "UPDATE ledger.entries SET metadata = '{}'");
    assert_eq!(refused.message(), "cannot UPDATE \"ledger.entries\"");
}

#[test]
fn a_column_that_was_left_out_may_change_and_no_other() {
    assert_found(
        ", excluded => '{seen}'",
        APPLICATION_TRIGGERS_OFF,
        &[
            ("UPDATE memories SET seen = 42", &[]),
            ("UPDATE memories SET content = 'forged', seen = 42 WHERE id = 1", &["{\"id\": 1} modified"]),
        ],
    );
    assert_found(
        ", columns => '{content}'",
        APPLICATION_TRIGGERS_OFF,
        &[
            ("UPDATE memories SET seen = 42, agent = 'another'", &[]),
            ("UPDATE memories SET content = 'forged' WHERE id = 1", &["{\"id\": 1} modified"]),
            ("UPDATE memories SET id = 50 WHERE id = 1", &["{\"id\": 1} missing", "{\"id\": 50} unrecorded"]),
        ],
    );
}

#[test]
fn an_update_of_columns_that_were_left_out_makes_no_entry() {
    let (_cluster, mut client) = start_with_memories(", excluded => '{seen}'");
    let before = row_entries(&mut client, "memories");
    client.batch_execute("UPDATE memories SET seen = seen + 1").unwrap();
    assert_eq!(row_entries(&mut client, "memories"), before);
    assert_clean(&mut client, "memories");
}

/// Though the row is what the newest entry says.
#[test]
fn a_row_changed_behind_the_applications_back_and_then_by_it_is_named() {
    let (_cluster, mut client) = start_with_memories("");
    let off = "ALTER TABLE memories DISABLE TRIGGER ALL";
    let on = "ALTER TABLE memories ENABLE ALWAYS TRIGGER ledger_record_change";
    let forge = "UPDATE memories SET content = 'forged' WHERE id";
    for (id, then) in [(1, "UPDATE memories SET seen = 1 WHERE id = 1"), (4, "DELETE FROM memories WHERE id = 4")] {
        client.batch_execute(&format!("{off}; {forge} = {id}; {on}; {then}")).unwrap();
    }
    let found = details(&mut client, "memories");
    assert_eq!(found.len(), 2, "{found:?}");
    for id in [1, 4] {
        let named = format!("{{\"id\": {id}}} modified the row was changed without a record");
        assert!(found.iter().any(|problem| problem.starts_with(&named)), "{found:?}");
    }
    assert!(!all_valid(&mut client));
}

/// Deleted behind its back, and inserted again by the application; and the other way round.
#[test]
fn a_row_removed_or_added_behind_the_applications_back_is_named_afterwards() {
    let (_cluster, mut client) = start_with_memories("");
    let off = "ALTER TABLE memories DISABLE TRIGGER ALL";
    let on = "ALTER TABLE memories ENABLE ALWAYS TRIGGER ledger_record_change";
    let forgeries = [
        ("DELETE FROM memories WHERE id = 1", "INSERT INTO memories VALUES (1, 'agent', 'new')"),
        ("INSERT INTO memories VALUES (6, 'agent', 'new')", "UPDATE memories SET content = 'newer' WHERE id = 6"),
        ("INSERT INTO memories VALUES (200, 'agent', 'new')", "UPDATE memories SET content = 'newer' WHERE id = 200"),
        ("INSERT INTO memories VALUES (201, 'agent', 'new')", "DELETE FROM memories WHERE id = 201"),
    ];
    for (forgery, then) in forgeries {
        client.batch_execute(&format!("{off}; {forgery}; {on}; {then}")).unwrap();
    }
    let found = details(&mut client, "memories");
    for id in [1, 6, 200, 201] {
        assert!(found.iter().any(|problem| problem.starts_with(&format!("{{\"id\": {id}}} "))), "{id}: {found:#?}");
    }
    assert_eq!(found.len(), 4, "{found:#?}");
}

/// T9: the whole data directory is put back; only the file, which is elsewhere, knows better.
#[test]
fn a_store_put_back_to_an_older_state_is_found_by_the_file() {
    let options = || Options::new().conf("ledger.block_size = 4").conf("ledger.block_interval = 1h");
    let cluster = options().start();
    let directory = cluster.scratch_dir().join("mirror");
    crate::common::make_directory(&directory);
    let outside = format!("ledger.mirror_directory = '{}'", directory.display());
    cluster.add_conf(&outside);
    let mut client = cluster.connect("postgres");
    reload(&mut client);
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    client.batch_execute(MEMORIES).unwrap();
    client.batch_execute("SELECT ledger.track('memories')").unwrap();
    client.batch_execute(STORY).unwrap();
    seal(&mut client);
    drop(client);
    cluster.stop(Stop::Fast);
    let snapshot = cluster.scratch_dir().join("snapshot");
    crate::common::copy_directory(&cluster.data_dir(), &snapshot);
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    client.batch_execute(STORY_GOES_ON).unwrap();
    seal(&mut client);
    assert_clean(&mut client, "memories");
    drop(client);
    cluster.stop(Stop::Fast);

    let restored = options().conf(&outside).start_on_copy_of(&snapshot);
    let mut client = restored.connect("postgres");
    // The rows agree with the entries, as both are old.
    assert!(problems(&mut client, "memories").is_empty());
    assert!(!all_valid(&mut client));
    let refused = error(&mut client, "UPDATE memories SET seen = 1");
    assert_eq!(refused.message(), "could not record in the mirror file");
}

/// One row at a time.
#[test]
fn one_row_is_verified_by_its_key_and_given_back_only_if_it_is_what_was_recorded() {
    let (_cluster, mut client) = start_with_memories("");
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(APPLICATION_TRIGGERS_OFF).unwrap();
    let forge = "UPDATE memories SET content = 'forged' WHERE id = 1; DELETE FROM memories WHERE id = 5; \
                 INSERT INTO memories VALUES (6, 'agent 0', 'memory 6'), (100, 'agent', 'forged')";
    client.batch_execute(forge).unwrap();
    let expected =
        [(1, "modified"), (2, ""), (3, ""), (5, "missing"), (6, "resurrected"), (7, ""), (100, "unrecorded")];
    for (id, problem) in expected {
        let verdict = json(&mut client, &format!("SELECT ledger.verify_row('memories', '{{\"id\": {id}}}')"));
        assert_eq!(verdict["problem"].as_str().unwrap_or(""), problem, "{id}: {verdict}");
        assert_eq!(verdict["verified"], problem.is_empty(), "{id}: {verdict}");
    }
    let verified = |id: i32| format!("SELECT (ledger.verified(m)).content FROM memories m WHERE id = {id}");
    assert_eq!(value(&mut client, &verified(2)), "third version");
    for id in [1, 6, 100] {
        client.batch_execute("SAVEPOINT s").unwrap();
        let refused = error(&mut client, &verified(id));
        assert!(refused.message().contains("does not verify"), "{refused:?}");
        client.batch_execute("ROLLBACK TO s").unwrap();
    }
}
