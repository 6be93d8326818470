//! Signing many items in one transaction: it does not look through all that it has recorded for each of them, and
//! misses nothing that others, or it itself, have done in between.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::{clear_fault, set_fault, Background};
use crate::common::ledger::*;
use crate::common::Cluster;
use postgres::Client;

const ITEMS: i64 = 600;

/// So many items, sealed: `t1`, `t2` and so on.
fn registry() -> (Cluster, Client) {
    let options = quiet().conf("max_prepared_transactions = 5").conf("autovacuum = off");
    let (cluster, mut client) = start(options);
    let create = each("ledger.create_item('tool', 't' || n, '1.0.0', n::text, 't/' || n || '.py')");
    client.batch_execute("CREATE ROLE writer IN ROLE ledger_writer; CREATE ROLE admin IN ROLE ledger_admin").unwrap();
    client.batch_execute(&create).unwrap();
    seal(&mut client);
    client.batch_execute("CREATE TABLE elsewhere (n int)").unwrap();
    (cluster, client)
}

/// Commits what is not recorded.
fn commit_elsewhere(other: &mut Client) {
    other.batch_execute("INSERT INTO elsewhere VALUES (1)").unwrap();
}

fn each(call: &str) -> String {
    format!("SELECT count({call}) FROM generate_series(1, {ITEMS}) AS n")
}

fn sign(id: &str) -> String {
    format!("SELECT ledger.sign_item('tool', '{id}', '1.0.0')")
}

fn sign_calling(id: &str, called: &str) -> String {
    format!(
        r#"SELECT ledger.sign_item('tool', '{id}', '1.0.0', depends_on => '[{{"item_type": "tool", "item_id": "{called}", "version": "1.0.0"}}]')"#
    )
}

fn revoke(id: &str) -> String {
    format!("SELECT ledger.revoke_signature('tool', '{id}', '1.0.0', 'leaks')")
}

/// The session's counter of pending entries fetched. The server empties it now and then, but never in the midst of a
/// transaction, so that a difference within one counts.
fn fetched(client: &mut Client) -> i64 {
    number(
        client,
        "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_all_tables WHERE relid = 'ledger.entries_pending'::regclass",
    )
}

#[track_caller]
fn assert_revoked(client: &mut Client, id: &str) {
    assert_eq!(error(client, &sign(id)).message(), format!("the signature of {id}@1.0.0 was revoked"));
}

#[test]
fn many_items_in_one_transaction_cost_no_more_each_than_few() {
    let (_cluster, mut client) = registry();
    let calls = "ledger.create_item('tool', 'n' || n, '1.0.0', n::text, 'n/' || n || '.py',
        depends_on => '[{\"item_type\": \"tool\", \"item_id\": \"t1\", \"version\": \"1.0.0\"}]')";
    for call in [
        "ledger.sign_item('tool', 't' || n, '1.0.0')",
        "ledger.move_item('tool', 't' || n, '1.0.0', 'u/' || n || '.py')",
        "ledger.revoke_signature('tool', 't' || n, '1.0.0', 'old')",
        calls,
        "ledger.create_item('tool', 'n' || n, '1.0.0', n::text, 'n/' || n || '.py')",
    ] {
        // One that is signed before: there is something pending.
        client.batch_execute(&format!("BEGIN; {}", sign("t1"))).unwrap();
        let before = fetched(&mut client);
        client.batch_execute(&each(call)).unwrap();
        let after = fetched(&mut client);
        // Looking through all for each would be some 180,000. Whatever else ends meanwhile has it looked through again.
        assert!(after - before < 20 * ITEMS, "{call}: {}", after - before);
        let all = number(&mut client, "SELECT count(*) FROM ledger.entries_pending");
        assert!(all > ITEMS, "{call}: {all}");
        assert_eq!(fetched(&mut client) - after, all, "the counter counts what is looked through");
        client.batch_execute("ROLLBACK").unwrap();
    }
}

#[test]
fn what_others_commit_elsewhere_does_not_have_everything_looked_through_again() {
    let (cluster, mut client) = registry();
    let mut other = cluster.connect("postgres");
    client.batch_execute(&revoke("t500")).unwrap();
    // One that stays prepared does not either.
    other.batch_execute(&format!("BEGIN; {}; PREPARE TRANSACTION 'open'", revoke("t600"))).unwrap();
    client.batch_execute(&format!("BEGIN; SET LOCAL ROLE writer; {}; RESET ROLE", sign("t1"))).unwrap();
    let before = fetched(&mut client);
    for n in 2..=ITEMS / 2 {
        commit_elsewhere(&mut other);
        client.batch_execute(&sign(&format!("t{n}"))).unwrap();
    }
    let after = fetched(&mut client);
    // Looking through all for each would be some 45,000.
    assert!(after - before < 2 * ITEMS, "{}", after - before);
    // Nor does a savepoint that is rolled back because an item is refused.
    for n in ITEMS / 2..ITEMS / 2 + 100 {
        commit_elsewhere(&mut other);
        client.batch_execute("SET LOCAL ROLE writer; SAVEPOINT s").unwrap();
        assert_revoked(&mut client, "t500");
        client.batch_execute(&format!("ROLLBACK TO s; RESET ROLE; {}", sign(&format!("t{n}")))).unwrap();
    }
    assert!(fetched(&mut client) - after < 2 * ITEMS, "{}", fetched(&mut client) - after);
    client.batch_execute("COMMIT").unwrap();
    other.batch_execute("ROLLBACK PREPARED 'open'").unwrap();
    assert_eq!(json(&mut client, "SELECT ledger.verify_all()")["overall_valid"], true);
}

#[test]
fn a_revocation_that_is_committed_between_two_calls_is_seen_by_the_next() {
    let (cluster, mut client) = registry();
    let mut other = cluster.connect("postgres");
    // Prepared before the first call, or after it.
    other.batch_execute(&format!("BEGIN; {}; PREPARE TRANSACTION 'before'", revoke("t3"))).unwrap();
    for (isolation, revoked) in [("READ COMMITTED", "t4"), ("REPEATABLE READ", "t5"), ("SERIALIZABLE", "t6")] {
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}; SET LOCAL ROLE writer")).unwrap();
        for id in ["t1", "t2"] {
            client.batch_execute(&sign(id)).unwrap();
            commit_elsewhere(&mut other);
        }
        other.batch_execute(&revoke(revoked)).unwrap();
        // Not signed itself: its row has changed, which these levels refuse.
        let refused = error(&mut client, &sign_calling("t1", revoked));
        let reason = format!("t1@1.0.0 cannot depend on tool {revoked}@1.0.0: its signature was revoked");
        assert_eq!(refused.message(), reason, "{isolation}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    let prepare_after = format!("BEGIN; {}; PREPARE TRANSACTION 'after'", revoke("t7"));
    for (prepare, prepared, revoked) in [("SELECT 1", "before", "t3"), (&prepare_after, "after", "t7")] {
        client.batch_execute(&format!("BEGIN; SET LOCAL ROLE writer; {}", sign("t1"))).unwrap();
        other.batch_execute(prepare).unwrap();
        client.batch_execute(&sign("t2")).unwrap();
        other.batch_execute(&format!("COMMIT PREPARED '{prepared}'")).unwrap();
        assert_revoked(&mut client, revoked);
        client.batch_execute("ROLLBACK").unwrap();
    }
}

#[test]
fn a_revocation_that_is_about_to_be_committed_at_the_first_call_is_seen_by_the_next() {
    let (cluster, mut client) = registry();
    client.batch_execute("BEGIN; SET LOCAL ROLE writer").unwrap();
    set_fault(&cluster, "before_commit:hang");
    let commits = Background::run(&cluster, "", &revoke("t2"));
    commits.wait_until_hanging();
    client.batch_execute(&sign("t1")).unwrap();
    clear_fault(&cluster);
    commits.ends().unwrap();
    assert_revoked(&mut client, "t2");
}

#[test]
fn a_revocation_that_an_import_brings_between_two_calls_is_seen_by_the_next() {
    let (cluster, mut client) = registry();
    client.batch_execute(&revoke("t2")).unwrap();
    let export = cluster.scratch_dir().join("export.jsonl");
    client.batch_execute(&format!("COPY ledger.entries TO '{}' WITH (FORMAT jsonl)", export.display())).unwrap();
    client.batch_execute("CREATE DATABASE other").unwrap();
    let mut other = cluster.connect("other");
    other.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    other
        .batch_execute(&format!("BEGIN; COPY ledger.entries FROM '{}' WITH (FORMAT jsonl)", export.display()))
        .unwrap();
    let create = |id: &str| format!("SELECT ledger.create_item('tool', '{id}', '1.0.0', '1', 't/{id}.py')");
    let calls = format!("BEGIN; SET LOCAL ROLE writer; {}; {}", create("new"), create("t2"));
    let signs = Background::run_in(cluster.connect("other"), &calls);
    wait_for(
        &mut client,
        &format!("(SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {})", signs.pid),
    );
    other.batch_execute("COMMIT").unwrap();
    let refused = signs.fails();
    assert!(refused.starts_with("the signature of t2@1.0.0 was revoked"), "{refused}");
}

#[test]
fn a_revocation_is_seen_whether_it_was_sealed_or_is_pending_again() {
    let (cluster, mut client) = registry();
    let mut other = cluster.connect("postgres");
    other.batch_execute(&revoke("t2")).unwrap();
    // Sealed in a subtransaction of the same transaction that is rolled back, or whose parent is.
    for (begin, end) in [("SAVEPOINT s", ""), ("SAVEPOINT s; SAVEPOINT i", "RELEASE i;")] {
        client.batch_execute(&format!("BEGIN; {begin}; {SEAL}; {}", sign("t1"))).unwrap();
        client.batch_execute(&format!("{end} ROLLBACK TO s; SET LOCAL ROLE writer")).unwrap();
        assert_revoked(&mut client, "t2");
        client.batch_execute("ROLLBACK").unwrap();
    }
    client.batch_execute(&format!("BEGIN; SET LOCAL ROLE writer; {}", sign("t1"))).unwrap();
    other.batch_execute(SEAL).unwrap();
    assert_revoked(&mut client, "t2");
}

#[test]
fn what_others_commit_in_between_is_seen() {
    let (cluster, mut client) = registry();
    let mut other = cluster.connect("postgres");
    other.batch_execute(&format!("BEGIN; {}; PREPARE TRANSACTION 'revoked'", revoke("t3"))).unwrap();
    let callee =
        "SELECT metadata #>> '{item,depends_on,0,integrity_hash}' FROM ledger.entries ORDER BY created_at DESC LIMIT 1";
    for isolation in ["READ COMMITTED", "REPEATABLE READ"] {
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {isolation}; SET LOCAL ROLE writer")).unwrap();
        client.batch_execute(&sign_calling("t1", "t4")).unwrap();
        let content = format!("E'{isolation}\\n'");
        other.batch_execute(&format!("SELECT ledger.sign_item('tool', 't4', '1.0.0', {content})")).unwrap();
        client.batch_execute(&sign_calling("t1", "t4")).unwrap();
        client.batch_execute("RESET ROLE").unwrap();
        let hash = "SELECT integrity_hash FROM ledger.items WHERE item_id = 't4'";
        assert_eq!(value(&mut client, callee), value(&mut other, hash), "{isolation}");
        client.batch_execute("COMMIT").unwrap();
    }
    client.batch_execute("BEGIN; SET LOCAL ROLE writer").unwrap();
    client.batch_execute(&sign("t1")).unwrap();
    other.batch_execute(&revoke("t2")).unwrap();
    other.batch_execute("COMMIT PREPARED 'revoked'").unwrap();
    for id in ["t2", "t3"] {
        client.batch_execute("SAVEPOINT s").unwrap();
        assert_revoked(&mut client, id);
        client.batch_execute("ROLLBACK TO s").unwrap();
    }
    client.batch_execute(&sign("t5")).unwrap();
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(json(&mut client, "SELECT ledger.verify_all()")["overall_valid"], true);
}

#[test]
fn what_the_transaction_itself_has_done_and_taken_back_is_seen() {
    let (_cluster, mut client) = registry();
    client.batch_execute(&revoke("t1")).unwrap();
    // Signed again by an administrator, but that was taken back: revoked it is.
    client.batch_execute(&format!("BEGIN; {}; SAVEPOINT s; SET LOCAL ROLE admin; {}", sign("t9"), sign("t1"))).unwrap();
    client.batch_execute("ROLLBACK TO s; SET LOCAL ROLE writer").unwrap();
    assert_revoked(&mut client, "t1");
    client.batch_execute("ROLLBACK").unwrap();
    // The same where a savepoint is released, and only one further out is taken back.
    let inner = "SAVEPOINT o; SAVEPOINT s; SET LOCAL ROLE admin";
    client.batch_execute(&format!("BEGIN; {}; {inner}; {}; RELEASE s", sign("t9"), sign("t1"))).unwrap();
    client.batch_execute(&format!("{}; ROLLBACK TO o; SET LOCAL ROLE writer", sign("t8"))).unwrap();
    assert_revoked(&mut client, "t1");
    client.batch_execute("ROLLBACK").unwrap();
    // Revoked in the same transaction, also if it is sealed in there.
    for seal in ["SELECT 1", "SELECT * FROM ledger.commit_block()"] {
        client
            .batch_execute(&format!("BEGIN; {}; {}; {seal}; SET LOCAL ROLE writer", sign("t2"), revoke("t2")))
            .unwrap();
        assert_revoked(&mut client, "t2");
        client.batch_execute("ROLLBACK").unwrap();
    }
    // What is left of a transaction that has failed is not used by the next.
    client.batch_execute(&format!("BEGIN; {}; ROLLBACK; SET ROLE writer", sign("t1"))).unwrap();
    assert_revoked(&mut client, "t1");
    client.batch_execute("RESET ROLE").unwrap();

    // Signed often in one transaction, the entries are in order.
    client.batch_execute("BEGIN").unwrap();
    for n in 0..5 {
        let content = format!("SELECT ledger.sign_item('tool', 't7', '1.0.0', E'{n}\\n')");
        client.batch_execute(&content).unwrap();
        client.batch_execute("SELECT ledger.move_item('tool', 't7', '1.0.0', 't/7.py')").unwrap();
        assert!(value(&mut client, "SELECT ledger.load_item('tool', 't7', '1.0.0')").ends_with(&format!("{n}\n")));
    }
    client.batch_execute("COMMIT").unwrap();
    let in_order =
        "SELECT count(*) FILTER (WHERE later) FROM (SELECT created_at > lag(created_at) OVER (ORDER BY id) AS later
        FROM ledger.entries_pending WHERE metadata #>> '{item,item_id}' = 't7') AS e";
    assert_eq!(number(&mut client, in_order), 9);
    assert_eq!(json(&mut client, "SELECT ledger.verify_all()")["overall_valid"], true);
}
