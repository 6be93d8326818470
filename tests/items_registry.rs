//! The registry of items in whole clusters: what a superuser does to it behind its back, other sessions, large numbers,
//! restarts, and a ledger that is rebuilt.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::secrets::{start_with_file, write_secrets, NEW, OLD};
use crate::common::tampering::TRIGGERS_OFF;
use crate::common::{copy_file, wait_until, Cluster, Options, Stop};
use postgres::error::SqlState;
use postgres::Client;

const LOAD: &str = "SELECT ledger.load_item('tool', 'api', '1.0.0')";

/// An item, and one that calls it.
const REGISTER: &str = r#"
    SELECT ledger.create_item('tool', 'base', '1.0.0', E'base()\n', 'base.py');
    SELECT ledger.create_item('tool', 'api', '1.0.0', E'old()\n', 'core/api.py',
        depends_on => '[{"item_type": "tool", "item_id": "base", "version": "1.0.0"}]')"#;

/// An item that calls another, signed twice and sealed: the newest entry and an older one, both found by index.
fn registry() -> (Cluster, Client) {
    let (cluster, mut client) = start(quiet());
    client.batch_execute(REGISTER).unwrap();
    client
        .batch_execute(
            r#"CREATE TABLE older AS SELECT * FROM ledger.items;
               SELECT ledger.sign_item('tool', 'api', '1.0.0', E'call()\n');"#,
        )
        .unwrap();
    seal(&mut client);
    assert!(value(&mut client, LOAD).contains("call()"));
    (cluster, client)
}

/// What is a comment to one language is a part of the program to another.
#[test]
fn a_signature_line_in_the_comments_of_another_language_than_was_recorded_is_a_change() {
    let (_cluster, mut client) = start(quiet());
    let create = r"SELECT ledger.create_item('tool', 'q', '1.0.0', E'SET ROLE reader;\nDELETE FROM t;\n', 'bin/q', language => 'sql')";
    client.batch_execute(create).unwrap();
    let status = |client: &mut Client, content: &str, language: &str| {
        let call = format!("ledger.verify_single_file('tool', 'q', '1.0.0', {content}, 'bin/q'{language})");
        value(client, &format!("SELECT {call} ->> 'status' FROM ledger.items"))
    };
    assert_eq!(status(&mut client, "content", ", language => 'sql'"), "valid");
    assert_eq!(status(&mut client, "overlay(content placing '# ' from 1 for 3)", ""), "modified");
}

#[test]
fn a_called_item_whose_row_was_deleted_is_said_to_have_been_registered() {
    let (_cluster, mut client) = registry();
    client.batch_execute(TRIGGERS_OFF).unwrap();
    client.batch_execute("DELETE FROM ledger.items WHERE item_id = 'base'").unwrap();
    let refused = all_text(&error(&mut client, LOAD));
    assert!(refused.contains("was registered, and its row in ledger.items is gone"), "{refused}");
}

/// Its entry is signed with a key that is gone, so it proves nothing. What is not given stays as registered all the
/// same.
#[test]
fn an_item_that_is_signed_again_because_its_entry_does_not_verify_keeps_what_it_calls() {
    let (_cluster, mut client, path) = start_with_file(&format!("one:{OLD}\n"));
    client.batch_execute(REGISTER).unwrap();
    let replace_key = |client: &mut Client, key_id: &str| {
        write_secrets(&path, &format!("{key_id}:{NEW}\n"), 0o600);
        reload(client);
        wait_until("the entry does not verify", PATIENCE, || {
            let refused = client.query_one(LOAD, &[]).err();
            refused.is_some_and(|refused| all_text(refused.as_db_error().unwrap()).contains("which is not known"))
        });
    };
    replace_key(&mut client, "two");
    client.batch_execute("SELECT ledger.sign_item('tool', 'base', '1.0.0')").unwrap();
    client.batch_execute("SELECT ledger.sign_item('tool', 'api', '1.0.0')").unwrap();
    assert_eq!(value(&mut client, "SELECT depends_on->0->>'item_id' FROM ledger.items WHERE item_id = 'api'"), "base");
    client.query_one(LOAD, &[]).unwrap();
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'base', '1.0.0', 'leaks')").unwrap();
    assert!(error(&mut client, LOAD).message().starts_with("Dependency api@1.0.0 -> base@1.0.0"));

    replace_key(&mut client, "three");
    let unreadable = "UPDATE ledger.items SET depends_on = '[1]' WHERE item_id = 'api'";
    client.batch_execute(&format!("BEGIN; {TRIGGERS_OFF}; {unreadable}; COMMIT")).unwrap();
    let refused = error(&mut client, "SELECT ledger.sign_item('tool', 'api', '1.0.0')");
    assert_eq!(refused.message(), "cannot tell what api@1.0.0 depends on");
}

/// The entry of the revocation now says what the older one does, with its signature. Only the log tree knows.
#[test]
fn a_revocation_that_was_rewritten_is_seen_by_all_and_undone_by_no_signer() {
    let (cluster, mut client) = registry();
    client.batch_execute("CREATE ROLE signer LOGIN IN ROLE ledger_writer").unwrap();
    let entry = "SELECT entry_id FROM ledger.items WHERE item_id = 'api'";
    let signed = value(&mut client, entry);
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'api', '1.0.0', 'leaks')").unwrap();
    seal(&mut client);
    let revoked = value(&mut client, entry);
    let rewrite = format!(
        "UPDATE ledger.entries AS n SET entry_type = o.entry_type, data_hash = o.data_hash, metadata = o.metadata,
             signature = o.signature, key_id = o.key_id
         FROM ledger.entries AS o WHERE n.id = '{revoked}' AND o.id = '{signed}'"
    );
    client.batch_execute(&format!("BEGIN; {TRIGGERS_OFF}; {rewrite}; COMMIT")).unwrap();
    let status = "SELECT status || ': ' || detail FROM ledger.registry_sync('[]') WHERE item_id = 'api'";
    assert_eq!(
        value(&mut client, status),
        "differs: the ledger's entry about it does not verify: the log tree does not include it"
    );
    let mut signer = cluster.connect_as("signer", "postgres");
    let refused = error(&mut signer, "SELECT ledger.sign_item('tool', 'api', '1.0.0')");
    assert_eq!(refused.message(), "only members of ledger_admin may sign api@1.0.0 again");
    let calls = r#"'[{"item_type": "tool", "item_id": "api", "version": "1.0.0"}]'"#;
    let caller =
        format!("SELECT ledger.create_item('tool', 'caller', '1.0.0', 'x', 'caller.py', depends_on => {calls})");
    assert!(all_text(&error(&mut signer, &caller)).contains("the log tree does not include it"));
    // What a revocation keeps is the row's then.
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'api', '1.0.0', 'still')").unwrap();
    let kept =
        "SELECT metadata->'item'->>'integrity_hash' = (SELECT integrity_hash FROM ledger.items WHERE item_id = 'api') \
                FROM ledger.entries WHERE entry_type = 'item_revoked' ORDER BY created_at DESC LIMIT 1";
    assert_eq!(value(&mut client, kept), "t");
    client.batch_execute("SELECT ledger.sign_item('tool', 'api', '1.0.0')").unwrap();
}

/// As after a restore of the table into a new ledger.
#[test]
fn an_item_that_the_ledger_has_no_entry_about_keeps_what_it_calls_when_it_is_signed() {
    let (_cluster, mut client) = start(quiet());
    client.batch_execute(REGISTER).unwrap();
    let remove = "DELETE FROM ledger.entries_pending WHERE metadata->'item'->>'item_id' = 'api'";
    client.batch_execute(&format!("BEGIN; {TRIGGERS_OFF}; {remove}; COMMIT")).unwrap();
    client.batch_execute("SELECT ledger.sign_item('tool', 'api', '1.0.0')").unwrap();
    assert_eq!(value(&mut client, "SELECT depends_on->0->>'item_id' FROM ledger.items WHERE item_id = 'api'"), "base");
}

/// All but its place in the log is that of an entry which the session has verified and remembers.
#[test]
fn a_session_that_has_loaded_an_item_is_not_deceived_by_a_replay_of_its_entry() {
    let (_cluster, mut client) = registry();
    client.query_one(LOAD, &[]).unwrap();
    let entry = "SELECT entry_id FROM ledger.items WHERE item_id = 'api'";
    let signed = value(&mut client, entry);
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'api', '1.0.0', 'leaks')").unwrap();
    seal(&mut client);
    let revoked = value(&mut client, entry);
    let replay = format!(
        "ALTER TABLE ledger.entries_sealed_1 DROP CONSTRAINT entries_sealed_1_pkey;
         UPDATE ledger.entries_sealed_1 AS n SET id = o.id, entry_type = o.entry_type, data_hash = o.data_hash,
             metadata = o.metadata, signature = o.signature, key_id = o.key_id, created_at = o.created_at
         FROM ledger.entries AS o WHERE n.id = '{revoked}' AND o.id = '{signed}';
         UPDATE ledger.items SET revoked_at = NULL, revoked_reason = NULL, entry_id = '{signed}' WHERE item_id = 'api'"
    );
    client.batch_execute(&format!("BEGIN; {TRIGGERS_OFF}; {replay}; COMMIT")).unwrap();
    assert_eq!(error(&mut client, LOAD).message(), "The ledger's entry about api@1.0.0 does not verify");
}

/// What the gate says after a change, which is then rolled back: the error, and whether verify_all() sees it as well.
fn refusal(client: &mut Client, change: &str) -> (String, bool) {
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(change).unwrap();
    let items_valid = json(client, "SELECT ledger.verify_all() -> 'items' -> 'valid'") == true;
    let error = client.query_one(LOAD, &[]).err().map(|error| error.as_db_error().unwrap().message().to_owned());
    client.batch_execute("ROLLBACK").unwrap();
    (error.unwrap_or_default(), !items_valid)
}

#[test]
fn a_superuser_who_edits_the_registry_consistently_is_caught() {
    let (_cluster, mut client) = registry();
    let forge = "WITH forged AS (SELECT ledger.sign_content('tool', 'api', '1.0.0', E'hack()\\n', 'core/api.py') AS content)
        UPDATE ledger.items SET content = forged.content,
            integrity_hash = (SELECT hash FROM ledger.get_signature('tool', forged.content)) FROM forged WHERE item_id = 'api'";
    let older =
        "UPDATE ledger.items AS i SET content = o.content, integrity_hash = o.integrity_hash, entry_id = o.entry_id,
        signed_at = o.signed_at FROM older AS o WHERE i.item_id = 'api' AND o.item_id = 'api'";
    let hidden = format!(
        "{TRIGGERS_OFF}; UPDATE ledger.row_versions SET places = (SELECT string_agg(place, '' ORDER BY at)
             FROM (SELECT at, substr(places, at, 40) AS place FROM generate_series(1, length(places), 40) AS at) AS p
             WHERE substr(place, 25, 8) <> (SELECT int8send(leaf_index) FROM ledger.entries
                 WHERE id = (SELECT entry_id FROM ledger.items WHERE item_id = 'api'))); {older}"
    );
    let rewritten = format!(
        "{TRIGGERS_OFF}; {forge}; UPDATE ledger.entries AS e SET metadata = jsonb_set(jsonb_set(e.metadata,
             '{{item,integrity_hash}}', to_jsonb(i.integrity_hash)),
             '{{item,text_hash}}', to_jsonb(encode(sha256(E'hack()\\n'), 'hex')))
         FROM ledger.items AS i WHERE i.item_id = 'api' AND i.entry_id = e.id"
    );
    let rehashed = format!(
        "{rewritten}; UPDATE ledger.entries SET data_hash = ledger.hash_data(metadata -> 'item')
         WHERE id = (SELECT entry_id FROM ledger.items WHERE item_id = 'api')"
    );
    let newest = "WHERE id = (SELECT entry_id FROM ledger.items WHERE item_id = 'api')";
    let unsigned = format!("{rehashed}; UPDATE ledger.entries SET signature = NULL, key_id = NULL {newest}");
    // A superuser can have anything signed; the log tree has not got it.
    let signed_anew =
        format!("{rehashed}; UPDATE ledger.entries SET signature = ledger.create_signature(data_hash) {newest}");
    let appended = format!(
        "CREATE TEMP TABLE genuine AS SELECT * FROM ledger.entries {newest}; {unsigned};
         CREATE TEMP TABLE forged AS SELECT * FROM ledger.entries {newest};
         UPDATE ledger.entries AS e SET metadata = g.metadata, data_hash = g.data_hash, signature = g.signature,
             key_id = g.key_id FROM genuine AS g WHERE e.id = g.id;
         INSERT INTO ledger.entries_pending (id, entry_type, data_hash, metadata, created_at)
         SELECT ledger.uuid_v7(), entry_type, data_hash, metadata, created_at + interval '1 second' FROM forged;
         DROP TABLE genuine, forged"
    );
    for (change, expected) in [
        ("SELECT 1", ""),
        (
            "UPDATE ledger.items SET content = replace(content, 'call', 'hack') WHERE item_id = 'api'",
            "Content has been modified since last validation",
        ),
        (
            "UPDATE ledger.items SET content = ledger.remove_signature('tool', content) WHERE item_id = 'api'",
            "Tool has no signature",
        ),
        (forge, "Integrity mismatch for api@1.0.0: computed="),
        (older, "Integrity mismatch for api@1.0.0: computed="),
        (
            "UPDATE ledger.items SET integrity_hash = repeat('0', 64) WHERE item_id = 'api'",
            "Integrity mismatch for api@1.0.0: computed=",
        ),
        (
            "UPDATE ledger.items SET location_path = 'other/api.py' WHERE item_id = 'api'",
            "Not signed for this location",
        ),
        (
            "UPDATE ledger.items SET location_path = '/evil/.ai/tools/core/api.py' WHERE item_id = 'api'",
            "Not signed for this location",
        ),
        (
            "UPDATE ledger.items SET language = ';', content = replace(content, '# kiwi', '; kiwi') WHERE item_id = 'api'",
            "Content has been modified since last validation",
        ),
        (
            "UPDATE ledger.items SET location_path = '/evil/.ai/tools/base.py' WHERE item_id = 'base'",
            "Dependency api@1.0.0 -> base@1.0.0: Not signed for this location",
        ),
        (
            "UPDATE ledger.items SET metadata = '{\"timeout\": 0}' WHERE item_id = 'api'",
            "Content has been modified since last validation",
        ),
        (
            "UPDATE ledger.items SET content = replace(content, 'base', 'hack') WHERE item_id = 'base'",
            "Dependency api@1.0.0 -> base@1.0.0: Content has been modified since last validation",
        ),
        (
            "DELETE FROM ledger.items WHERE item_id = 'base'",
            "Dependency api@1.0.0 -> base@1.0.0: No integrity hash found for base@1.0.0 - cannot verify integrity",
        ),
        ("DELETE FROM ledger.items WHERE item_id = 'api'", "tool api@1.0.0 has no row in ledger.items"),
        (&rewritten, "The ledger's entry about api@1.0.0 does not verify"),
        (&rehashed, "The ledger's entry about api@1.0.0 does not verify"),
        (&unsigned, "The ledger's entry about api@1.0.0 does not verify"),
        (&signed_anew, "The ledger's entry about api@1.0.0 does not verify"),
        (&appended, "The ledger's entry about api@1.0.0 does not verify"),
    ] {
        let (error, is_seen) = refusal(&mut client, change);
        assert!(error.starts_with(expected) && error.is_empty() == expected.is_empty(), "{change}: {error:?}");
        assert_eq!(is_seen, !expected.is_empty(), "verify_all() after {change}");
    }
    // The gate goes by the index, which is emptied here; verify_all() reads all entries.
    assert_eq!(refusal(&mut client, &hidden), (String::new(), true), "a hidden entry");
    // What was not recorded cannot be made to look so by a row.
    let invented = "INSERT INTO ledger.items SELECT 'tool', 'new', '1.0.0', location_path, content, metadata, language,
        integrity_hash, signed_at, entry_id FROM ledger.items WHERE item_id = 'api'";
    assert!(refusal(&mut client, invented).1, "an invented item");
}

#[test]
fn a_column_that_says_otherwise_than_the_ledger_is_named() {
    let (_cluster, mut client) = registry();
    let mut edits = vec![
        ("depends_on", "'[]'"),
        ("depends_on", "jsonb_set(depends_on, '{0,integrity_hash}', to_jsonb(repeat('0', 64)))"),
        ("depends_on", "jsonb_set(depends_on, '{0,note}', '1')"),
        ("depends_on", "'1'"),
        ("signed_at", "signed_at - interval '1 microsecond'"),
        ("signed_at", "'infinity'"),
        ("entry_id", "(SELECT entry_id FROM older WHERE item_id = 'api')"),
        ("entry_id", "ledger.uuid_v7()"),
    ];
    // Signed and sealed; moved and pending; revoked.
    let revoke = "SELECT ledger.revoke_signature('tool', 'api', '1.0.0', 'leaks')";
    let steps = ["SELECT 1", "SELECT ledger.move_item('tool', 'api', '1.0.0', 'net/api.py')", revoke];
    for step in steps {
        client.batch_execute(step).unwrap();
        if step == revoke {
            edits.extend([("revoked_at", "revoked_at + interval '1 second'"), ("revoked_reason", "'none'")]);
            edits.extend([("location_path", "'/srv/.ai/tools/net/api.py'"), ("language", "'py'")]);
        }
        assert_eq!(items_problems(&mut client, "SELECT 1"), [""; 0], "{step}");
        for (column, edit) in &edits {
            let found = items_problems(
                &mut client,
                &format!("{TRIGGERS_OFF}; UPDATE ledger.items SET {column} = {edit} WHERE item_id = 'api'"),
            );
            let expected = format!("api differs: {column} is not ");
            assert!(found.len() == 1 && found[0].starts_with(&expected), "{step}: {column} = {edit}: {found:?}");
        }
    }
    // What is revoked as its row has it, since the ledger proves nothing of it, agrees with its row from then on.
    let unproven = format!(
        "{TRIGGERS_OFF}; UPDATE ledger.entries SET signature = NULL, key_id = NULL WHERE id =
             (SELECT entry_id FROM ledger.items WHERE item_id = 'api'); {revoke}"
    );
    assert_eq!(items_problems(&mut client, &unproven), [""; 0]);
}

/// What verify_all() says of items after a change, which is then rolled back.
fn items_problems(client: &mut Client, change: &str) -> Vec<String> {
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(change).unwrap();
    let problem = "e ->> 'item_id' || ' ' || (e ->> 'problem') || ': ' || (e ->> 'detail')";
    let errors = "jsonb_array_elements(ledger.verify_all() -> 'items' -> 'errors') AS e";
    let problems = column(client, &format!("SELECT {problem} FROM {errors}"));
    client.batch_execute("ROLLBACK").unwrap();
    problems
}

#[test]
fn a_revocation_that_is_undone_in_the_table_still_holds() {
    let (_cluster, mut client) = registry();
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'api', '1.0.0', 'leaks')").unwrap();
    for sealed in [false, true] {
        let undo = "UPDATE ledger.items AS i SET revoked_at = NULL, revoked_reason = NULL, entry_id = o.entry_id
            FROM older AS o WHERE i.item_id = o.item_id";
        assert_eq!(refusal(&mut client, undo), ("Signature revoked".to_owned(), true), "sealed: {sealed}");
        seal(&mut client);
    }
    assert_eq!(refusal(&mut client, "SELECT 1"), ("Signature revoked".to_owned(), false));
}

#[test]
fn a_revocation_holds_also_where_the_row_is_gone() {
    let (_cluster, mut client) = registry();
    client.batch_execute("CREATE ROLE writer IN ROLE ledger_writer").unwrap();
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'api', '1.0.0', 'leaks')").unwrap();
    for sealed in [false, true] {
        client.batch_execute("BEGIN; DELETE FROM ledger.items WHERE item_id = 'api'; SET LOCAL ROLE writer").unwrap();
        let create = "SELECT ledger.create_item('tool', 'api', '1.0.0', E'hack()\\n', 'core/api.py')";
        assert_eq!(error(&mut client, create).message(), "the signature of api@1.0.0 was revoked", "sealed: {sealed}");
        client.batch_execute("ROLLBACK").unwrap();
        seal(&mut client);
    }
}

#[test]
fn the_cache_is_not_served_across_what_another_session_does() {
    let (cluster, mut client) = registry();
    let mut other = cluster.connect("postgres");
    // Also in a transaction that began before.
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").unwrap();
    value(&mut client, LOAD);
    let hits = number(&mut client, "SELECT hits FROM ledger.verifier_cache");
    value(&mut client, LOAD);
    assert_eq!(number(&mut client, "SELECT hits FROM ledger.verifier_cache"), hits + 2);
    other.batch_execute("SELECT ledger.sign_item('tool', 'api', '1.0.0', E'better()\\n')").unwrap();
    assert!(value(&mut client, LOAD).contains("better()"));
    other.batch_execute("SELECT ledger.sign_item('tool', 'base', '1.0.0', E'better()\\n')").unwrap();
    assert!(error(&mut client, LOAD).message().starts_with("Dependency api@1.0.0 -> base@1.0.0: Integrity mismatch"));
    client.batch_execute("ROLLBACK").unwrap();
    other.batch_execute("SELECT ledger.sign_item('tool', 'api', '1.0.0')").unwrap();
    assert!(value(&mut client, LOAD).contains("better()"));
    other.batch_execute("SELECT ledger.revoke_signature('tool', 'api', '1.0.0', 'leaks')").unwrap();
    assert_eq!(error(&mut client, LOAD).message(), "Signature revoked");
}

#[test]
fn what_is_sealed_while_an_isolated_transaction_runs_verifies_in_it() {
    let (cluster, mut client) = registry();
    let mut other = cluster.connect("postgres");
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let id = level[..1].to_owned();
        let create = format!("SELECT ledger.create_item('tool', '{id}', '1.0.0', E'x\\n', '{id}.py') ->> 'entry_id'");
        let entry = value(&mut other, &create);
        // So many that the proof takes nodes that are stored.
        record_many(&mut other, 600);
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}; SELECT 1")).unwrap();
        other.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
        let load = format!("SELECT ledger.load_item('tool', '{id}', '1.0.0')");
        assert!(value(&mut client, &load).ends_with("\nx\n"), "{level}");
        let report = json(&mut client, "SELECT ledger.verify_items()");
        assert_eq!(report["success"], true, "{level}: {report}");
        let data = format!("SELECT metadata -> 'item' FROM ledger.entries WHERE id = '{entry}'");
        let found = json(&mut client, &format!("SELECT ledger.verify_entry('{entry}', ({data}))"));
        assert_eq!((&found["included"], &found["verified"]), (&true.into(), &true.into()), "{level}: {found}");
        let moving = format!("SELECT ledger.move_item('tool', '{id}', '1.0.0', 'elsewhere/{id}.py')");
        client.batch_execute(&moving).unwrap();
        client.batch_execute("COMMIT").unwrap();
        seal(&mut other);
    }
}

#[test]
fn known_bad_results_are_remembered_until_the_content_is_repaired() {
    let (_cluster, mut client) = registry();
    client.batch_execute("CREATE TABLE good AS SELECT content FROM ledger.items WHERE item_id = 'api'").unwrap();
    client.batch_execute("UPDATE ledger.items SET content = 'hack()' WHERE item_id = 'api'").unwrap();
    client.batch_execute("SELECT ledger.invalidate_verifier_cache()").unwrap();
    for _ in 0..2 {
        assert_eq!(error(&mut client, LOAD).message(), "Tool has no signature");
    }
    let cache = json(&mut client, "SELECT to_jsonb(c) FROM ledger.verifier_cache AS c");
    assert_eq!((&cache["invalid"], &cache["hits"], &cache["misses"]), (&1.into(), &1.into(), &1.into()));
    client.batch_execute("UPDATE ledger.items SET content = (SELECT content FROM good) WHERE item_id = 'api'").unwrap();
    assert!(value(&mut client, LOAD).contains("call()"));
    assert_eq!(number(&mut client, "SELECT invalid FROM ledger.verifier_cache"), 0);
}

#[test]
fn the_cache_is_bounded() {
    let (_cluster, mut client) = registry();
    let verify =
        "SELECT count(ledger.verify_single_file('tool', 'x', '1.0.0', n::text)) FROM generate_series(1, 10100) AS n";
    client.batch_execute(verify).unwrap();
    assert_eq!(number(&mut client, "SELECT entries FROM ledger.verifier_cache"), 10_000);
    assert_eq!(number(&mut client, "SELECT ledger.invalidate_verifier_cache()"), 10_000);
    assert_eq!(number(&mut client, "SELECT entries + hits + misses FROM ledger.verifier_cache"), 0);
}

#[test]
fn ten_thousand_items_and_a_chain_of_a_thousand_verify() {
    let (cluster, mut client) = registry();
    let create = "SELECT count(ledger.create_item('tool', 't' || n, '1.0.0', n::text, 't/' || n || '.py'))
        FROM generate_series(1, 10000) AS n";
    client.batch_execute(create).unwrap();
    let chain = "DO $$ BEGIN
        PERFORM ledger.create_item('tool', 'c0', '1.0.0', 'x', 'c/0.py');
        FOR n IN 1..1000 LOOP
            PERFORM ledger.create_item('tool', 'c' || n, '1.0.0', n::text, 'c/' || n || '.py', depends_on => jsonb_build_array(
                jsonb_build_object('item_type', 'tool', 'item_id', 'c' || n - 1, 'version', '1.0.0')));
        END LOOP;
    END $$";
    seal(&mut client);
    client.batch_execute(chain).unwrap();
    let batch =
        "SELECT ledger.verify_items((SELECT jsonb_agg(jsonb_build_object('item_type', item_type, 'item_id', item_id,
        'version', version, 'file_content', content, 'file_path', location_path, 'stored_hash', integrity_hash))
        FROM ledger.items WHERE item_id LIKE 't%'))";
    let report = json(&mut client, batch);
    assert_eq!((&report["success"], &report["verified_count"]), (&true.into(), &10_000.into()), "{report}");
    let leaf = r#"SELECT ledger.verify_item_chain('[{"item_type": "tool", "item_id": "c1000", "version": "1.0.0"}]')"#;
    let report = json(&mut client, leaf);
    assert_eq!((&report["success"], &report["verified_count"]), (&true.into(), &1_001.into()), "{report}");
    client.batch_execute("UPDATE ledger.items SET content = 'y' WHERE item_id = 'c0'").unwrap();
    let report = json(&mut client, leaf);
    assert_eq!(report["failed_item_id"], "c0");
    let error = report["error"].as_str().unwrap();
    assert!(error.starts_with("Dependency c1000@1.0.0 -> c999@1.0.0 -> ") && error.len() < 1_000, "{error}");

    // It is the same after a crash.
    drop(client);
    cluster.restart(Stop::Immediate);
    let mut client = cluster.connect("postgres");
    assert!(value(&mut client, LOAD).contains("call()"));
    let report = json(&mut client, batch);
    assert_eq!((&report["success"], &report["verified_count"]), (&true.into(), &10_000.into()), "{report}");
}

#[test]
fn an_item_with_a_language_of_its_own_is_loaded_by_that_alone() {
    let (_cluster, mut client) = registry();
    let create = "SELECT ledger.create_item('tool', 'q', '1.0.0', E'SELECT 1\\n', 'bin/q', language => 'sql')";
    client.batch_execute(create).unwrap();
    let load = "SELECT ledger.load_item('tool', 'q', '1.0.0')";
    assert!(value(&mut client, load).starts_with("-- kiwi-mcp:validated:"));
    let recorded =
        "SELECT metadata #>> '{item,language}' FROM ledger.entries WHERE metadata #>> '{item,item_id}' = 'q'";
    assert_eq!(value(&mut client, recorded), "sql");
    for language in ["'lua'", "NULL"] {
        client
            .batch_execute(&format!("BEGIN; UPDATE ledger.items SET language = {language} WHERE item_id = 'q'"))
            .unwrap();
        assert_eq!(*error(&mut client, load).code(), SqlState::DATA_CORRUPTED, "{language}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    client.batch_execute("SELECT ledger.move_item('tool', 'q', '1.0.0', 'bin/q2')").unwrap();
    client.batch_execute("SELECT ledger.sign_item('tool', 'q', '1.0.0', language => 'sh')").unwrap();
    let signed = value(&mut client, load);
    assert!(signed.starts_with("# kiwi-mcp:validated:") && signed.lines().count() == 2, "{signed}");
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'q', '1.0.0', 'leaks')").unwrap();
    assert_eq!(json(&mut client, "SELECT ledger.verify_all()")["overall_valid"], true);
}

/// Were the location of a row converted as a path is, what reads the table would be led elsewhere.
#[test]
fn a_row_that_was_moved_behind_the_ledgers_back_is_put_back_or_signed_where_it_is() {
    const SIGN: &str = "SELECT ledger.sign_item('tool', 'api', '1.0.0')";
    let (_cluster, mut client) = registry();
    let put = |client: &mut Client, location: &str| {
        let update = format!("UPDATE ledger.items SET location_path = '{location}' WHERE item_id = 'api'");
        client.batch_execute(&update).unwrap();
    };
    let with_path = "SELECT ledger.load_item('tool', 'api', '1.0.0', 'core/api.py')";
    let with_move = "SELECT ledger.move_item('tool', 'api', '1.0.0', 'lib/api.py')";
    for (location, can_be_signed) in [("/evil/.ai/tools/core/api.py", false), ("evil/.ai/tools/core/api.py", true)] {
        put(&mut client, location);
        for load in [LOAD, with_path, with_move] {
            let error = error(&mut client, load);
            assert_eq!(error.message(), "Not signed for this location");
            let expected = format!("signed at core/api.py, and its row in ledger.items is at {location}");
            assert!(all_text(&error).contains(&expected), "{error:?}");
            let hint = error.hint().unwrap();
            assert!(hint.starts_with("Set location_path in ledger.items back to core/api.py"), "{error:?}");
            assert_eq!(hint.contains("ledger.sign_item(...)"), can_be_signed, "{error:?}");
        }
    }
    put(&mut client, "/evil/.ai/tools/core/api.py");
    let refused = error(&mut client, SIGN);
    assert!(refused.message().contains("is not the location of a tool"), "{refused:?}");
    put(&mut client, "core/api.py");
    assert!(value(&mut client, LOAD).contains("call()"));
    put(&mut client, "evil/.ai/tools/core/api.py");
    client.batch_execute(SIGN).unwrap();
    assert!(value(&mut client, LOAD).contains("call()"));
    let location = value(&mut client, "SELECT location_path FROM ledger.items WHERE item_id = 'api'");
    assert_eq!(location, "evil/.ai/tools/core/api.py");
}

#[test]
fn calls_that_lead_in_a_circle_are_refused_also_where_signing_did_not_see_it() {
    let (cluster, mut client) = registry();
    client.batch_execute("SELECT ledger.create_item('tool', 'a', '1.0.0', 'a', 'a.py'), ledger.create_item('tool', 'b', '1.0.0', 'b', 'b.py')").unwrap();
    let sign = |id: &str, calls: &str| {
        format!(
            r#"SELECT ledger.sign_item('tool', '{id}', '1.0.0', depends_on => '[{{"item_type": "tool", "item_id": "{calls}", "version": "1.0.0"}}]')"#
        )
    };
    // Two sessions that do not see each other.
    let mut other = cluster.connect("postgres");
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(&sign("a", "b")).unwrap();
    other.batch_execute(&sign("b", "a")).unwrap();
    client.batch_execute("COMMIT").unwrap();
    let message = error(&mut client, "SELECT ledger.load_item('tool', 'a', '1.0.0')").message().to_owned();
    assert_eq!(message, "Dependency a@1.0.0 -> b@1.0.0 -> a@1.0.0: it calls itself");
    assert_eq!(error(&mut client, &sign("a", "b")).message(), "a@1.0.0 cannot depend on itself");
}

#[test]
fn a_large_manifest_is_signed_and_one_that_is_too_large_is_refused() {
    let (_cluster, mut client) = registry();
    let create = |id: &str, bytes: usize| {
        format!("SELECT ledger.create_item('tool', '{id}', '1.0.0', 'x', '{id}.py', jsonb_build_object('a', repeat('x', {bytes})))")
    };
    client.batch_execute(&create("large", 10_000_000)).unwrap();
    value(&mut client, "SELECT ledger.load_item('tool', 'large', '1.0.0')");
    let refused = error(&mut client, &create("larger", 17_000_000));
    assert!(refused.message().starts_with("the metadata has 17000009 bytes"), "{refused:?}");
}

#[test]
fn items_verify_in_a_ledger_that_was_rebuilt_from_its_file() {
    let (old, mut client) = registry();
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'base', '1.0.0', 'leaks')").unwrap();
    seal(&mut client);
    let written = old.scratch_dir().join("ledger.jsonl");
    let items = old.scratch_dir().join("items");
    client.batch_execute(&format!("COPY ledger.entries TO '{}' WITH (FORMAT jsonl)", written.display())).unwrap();
    let columns = "item_type, item_id, version, location_path, content, metadata, language, integrity_hash, signed_at, entry_id, \
        depends_on, revoked_at, revoked_reason";
    client.batch_execute(&format!("COPY ledger.items ({columns}) TO '{}'", items.display())).unwrap();

    let (new, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    let hand_over = |from: &std::path::Path, name: &str| {
        let to = new.scratch_dir().join(name);
        copy_file(from, &to);
        to.display().to_string()
    };
    let (ledger, items) = (hand_over(&written, "ledger.jsonl"), hand_over(&items, "items"));
    client.batch_execute(&format!("COPY ledger.entries FROM '{ledger}' WITH (FORMAT jsonl)")).unwrap();
    client.batch_execute(&format!("COPY ledger.items ({columns}) FROM '{items}'")).unwrap();
    assert_eq!(error(&mut client, LOAD).message(), "Dependency api@1.0.0 -> base@1.0.0: Signature revoked");
    client.batch_execute("SELECT ledger.sign_item('tool', 'base', '1.0.0')").unwrap();
    assert!(value(&mut client, LOAD).contains("call()"));
    assert!(json(&mut client, "SELECT ledger.verify_all()")["overall_valid"] == true);
    assert!(refusal(&mut client, "UPDATE ledger.items SET content = 'x' WHERE item_id = 'api'").1);
}
