//! Rows of a tracked table that are changed past its triggers, in ways that leave them looking as they were recorded:
//! they are found all the same.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::Options;

/// Whichever of the two comes first where rows are sorted.
#[test]
fn a_second_row_with_the_key_of_another_is_found() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE dup (id int PRIMARY KEY, amount int); SELECT ledger.track('dup');
             INSERT INTO dup VALUES (1, 100), (2, 200)",
        )
        .unwrap();
    let switch = |on: bool| {
        format!("UPDATE pg_index SET indisready = {on}, indisvalid = {on} WHERE indexrelid = 'dup_pkey'::regclass")
    };
    let off = format!("BEGIN; ALTER TABLE dup DISABLE TRIGGER ledger_record_change; {}; COMMIT", switch(false));
    client.batch_execute(&off).unwrap();
    for (id, amount, is_before) in [(1, 100, ">="), (2, 200, "<")] {
        let forge = format!(
            "DO $$ DECLARE a int := 1000; BEGIN
             WHILE ledger.hash_data(jsonb_build_object('id', {id}, 'amount', a)) {is_before}
                   ledger.hash_data('{{\"id\": {id}, \"amount\": {amount}}}') LOOP a := a + 1; END LOOP;
             INSERT INTO dup VALUES ({id}, a); END $$"
        );
        client.batch_execute(&forge).unwrap();
    }
    let on = format!("BEGIN; {}; ALTER TABLE dup ENABLE ALWAYS TRIGGER ledger_record_change; COMMIT", switch(true));
    client.batch_execute(&on).unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM dup"), 4);
    assert_eq!(problems(&mut client, "dup"), ["{\"id\": 1} unrecorded", "{\"id\": 2} unrecorded"]);
    assert!(details(&mut client, "dup").iter().all(|problem| problem.ends_with("another row has this key")));
    assert!(!all_valid(&mut client));
}

/// The worker signs what it finds in a table that is said to have been there before it was tracked.
#[test]
fn a_change_that_a_superuser_has_the_worker_record_as_what_was_there_before_is_found() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE bl (id int PRIMARY KEY, amount int); INSERT INTO bl VALUES (1, 100);
             SELECT ledger.track('bl', keep_image => true); INSERT INTO bl VALUES (2, 200), (3, 300), (4, 400);
             DELETE FROM bl WHERE id = 3",
        )
        .unwrap();
    client
        .batch_execute(
            "BEGIN; ALTER TABLE bl DISABLE TRIGGER ledger_record_change; UPDATE bl SET amount = 999 WHERE id < 3;
             INSERT INTO bl VALUES (3, 300); ALTER TABLE bl ENABLE ALWAYS TRIGGER ledger_record_change; COMMIT;
             BEGIN; ALTER TABLE ledger.baselines DISABLE TRIGGER refuse_statement;
             INSERT INTO ledger.baselines SELECT table_id, 'bl'::regclass, 9e18::bigint,
                 (SELECT (metadata ->> 'transaction_id')::bigint FROM ledger.entries WHERE metadata ? 'baseline'),
                 clock_timestamp(), 0, 0, 1, 0, pg_relation_filenode('bl'), 9e18::bigint
                 FROM ledger.tracked_tables WHERE table_name = 'bl'::regclass;
             ALTER TABLE ledger.baselines ENABLE ALWAYS TRIGGER refuse_statement; COMMIT;
             SELECT pg_terminate_backend(pid) FROM ledger.workers",
        )
        .unwrap();
    wait_until_tracked(&mut client, "bl");
    let newest = "SELECT operation || ' ' || (after ->> 'amount') FROM ledger.history('bl', '{\"id\": 1}')";
    assert_eq!(column(&mut client, newest), ["baseline 100", "baseline 999"]);
    // Row 4 is what it was.
    let expected = ["{\"id\": 1} modified", "{\"id\": 2} modified", "{\"id\": 3} resurrected"];
    assert_eq!(problems(&mut client, "bl"), expected);
    assert!(!all_valid(&mut client));
}

/// A baseline that never ends, because its relation stays locked, takes a table out of no verification.
#[test]
fn a_change_is_found_though_a_superuser_has_the_table_recorded_anew_for_ever() {
    let (_cluster, mut client) = start(Options::new().conf("max_prepared_transactions = 5"));
    client
        .batch_execute(
            "CREATE TABLE bl (id int PRIMARY KEY, amount int); INSERT INTO bl VALUES (1, 100);
             SELECT ledger.track('bl'); INSERT INTO bl VALUES (2, 200), (3, 300); CREATE TABLE locked (i int)",
        )
        .unwrap();
    client.batch_execute("BEGIN; LOCK TABLE locked IN SHARE MODE; PREPARE TRANSACTION 'hold'").unwrap();
    client
        .batch_execute(
            "BEGIN; ALTER TABLE bl DISABLE TRIGGER ledger_record_change; UPDATE bl SET amount = 999 WHERE id = 1;
             DELETE FROM bl WHERE id = 3; ALTER TABLE bl ENABLE ALWAYS TRIGGER ledger_record_change; COMMIT;
             BEGIN; ALTER TABLE ledger.baselines DISABLE TRIGGER refuse_statement;
             INSERT INTO ledger.baselines SELECT table_id, 'locked'::regclass, 0, 0, now(), 0, 0, 1, 0, 0, 0
                 FROM ledger.tracked_tables WHERE table_name = 'bl'::regclass;
             ALTER TABLE ledger.baselines ENABLE ALWAYS TRIGGER refuse_statement; COMMIT",
        )
        .unwrap();
    let state = "(SELECT state = 'recording baseline' FROM ledger.tracked_tables WHERE table_name = 'bl'::regclass)";
    assert!(is_true(&mut client, state));
    let verdict = json(&mut client, "SELECT ledger.verify_all()");
    assert_eq!(verdict["overall_valid"], false);
    let errors = verdict["tables"][0]["errors"].as_array().unwrap();
    let mut problems: Vec<_> =
        errors.iter().map(|error| (error["row_key"]["id"].as_i64(), error["problem"].as_str())).collect();
    problems.sort_unstable();
    assert_eq!(problems, [(Some(1), Some("modified")), (Some(3), Some("missing"))]);
    client.batch_execute("ROLLBACK PREPARED 'hold'").unwrap();
}

/// The values are what they were, but who reads one by its name gets another.
#[test]
fn columns_that_exchange_their_names_are_found_before_and_after_the_row_is_recorded_anew() {
    for keep_image in [false, true] {
        let (_cluster, mut client) = start(Options::new());
        client
            .batch_execute(&format!(
                "CREATE TABLE sw (id int PRIMARY KEY, paid int, due int, note text);
                 SELECT ledger.track('sw', keep_image => {keep_image}); INSERT INTO sw VALUES (1, 100, 0), (2, 200, 0)"
            ))
            .unwrap();
        let rename = |names: &[(&str, &str)]| -> String {
            names.iter().map(|(from, to)| format!("ALTER TABLE sw RENAME {from} TO {to};")).collect()
        };
        let exchange = rename(&[("paid", "t"), ("due", "paid"), ("t", "due")]);
        let exchanged = "columns \"paid\", \"due\" exchanged their names";
        client.batch_execute(&exchange).unwrap();
        assert_eq!(problems(&mut client, "sw"), ["{\"id\": 1} modified", "{\"id\": 2} modified"]);
        let found = details(&mut client, "sw");
        assert!(found.iter().all(|problem| problem.contains(exchanged)), "{found:#?}");
        let verdict = json(&mut client, "SELECT ledger.verify_row('sw', '{\"id\": 1}')");
        assert_eq!(verdict["problem"], "modified", "{verdict}");
        let refused = error(&mut client, "SELECT ledger.verified(s) FROM sw s WHERE id = 1");
        assert!(all_text(&refused).contains("exchanged their names"), "{refused:?}");
        // An update records the row under the names of now.
        client.batch_execute("UPDATE sw SET note = 'x' WHERE id = 1").unwrap();
        assert_eq!(problems(&mut client, "sw"), ["{\"id\": 1} modified", "{\"id\": 2} modified"]);
        assert!(!all_valid(&mut client));
        // With their names back, the rows are what was recorded, unless they were recorded otherwise meanwhile.
        client.batch_execute(&exchange).unwrap();
        assert!(problems(&mut client, "sw").iter().all(|problem| problem == "{\"id\": 1} modified"));
        // As the docs say.
        client
            .batch_execute(&format!("SELECT ledger.untrack('sw'), ledger.track('sw', keep_image => {keep_image})"))
            .unwrap();
        assert_clean(&mut client, "sw");
        // Migrations give a name to another column too, and do not change what is read by the names that stay.
        for migration in [
            format!(
                "ALTER TABLE sw ADD paid_new bigint; UPDATE sw SET paid_new = paid; {}",
                rename(&[("paid", "paid_old"), ("paid_new", "paid")])
            ),
            format!("{} ALTER TABLE sw ADD due int", rename(&[("due", "due_old")])),
            "UPDATE sw SET due = due_old; ALTER TABLE sw DROP paid_old, DROP due_old".to_owned(),
            "UPDATE sw SET due = 1".to_owned(),
        ] {
            client.batch_execute(&migration).unwrap();
            let found = problems(&mut client, "sw");
            let is_expected = |problem: &String| !keep_image && problem.ends_with(" unverifiable");
            assert!(found.iter().all(is_expected), "{migration}: {found:?}");
        }
        assert_clean(&mut client, "sw");
    }
}

const ACCOUNTS: &str = "
CREATE TABLE accounts (junk int, id int PRIMARY KEY, owner text, amount int, note text);
SELECT ledger.track('accounts', keep_image => true);
INSERT INTO accounts VALUES (7, 1, 'ada', 100, 'a'), (7, 2, 'bob', 200, 'b');";

/// Someone who owns the table disables no trigger for it.
#[test]
fn a_row_that_is_changed_together_with_its_table_and_then_recorded_is_found() {
    const USING: &str = "ALTER amount TYPE int USING CASE id WHEN 1 THEN 999999 ELSE amount END";
    const TRIGGER_OFF: &str = "ALTER TABLE accounts DISABLE TRIGGER ledger_record_change; \
                               UPDATE accounts SET amount = 999999 WHERE id = 1; \
                               ALTER TABLE accounts ENABLE ALWAYS TRIGGER ledger_record_change";
    let (_cluster, mut client) = start(Options::new());
    client.batch_execute(ACCOUNTS).unwrap();
    let changes = [
        format!("ALTER TABLE accounts {USING}, ADD COLUMN z int"),
        format!("{TRIGGER_OFF}; ALTER TABLE accounts ADD COLUMN z int"),
        format!("{TRIGGER_OFF}; ALTER TABLE accounts ADD COLUMN z int DEFAULT 1"),
        format!("ALTER TABLE accounts {USING}, DROP COLUMN note"),
        format!("ALTER TABLE accounts {USING}; ALTER TABLE accounts RENAME amount TO balance"),
        format!("ALTER TABLE accounts {USING}, DROP COLUMN note; ALTER TABLE accounts RENAME amount TO balance"),
        format!(
            "ALTER TABLE accounts {USING}; ALTER TABLE accounts RENAME junk TO j; ALTER TABLE accounts RENAME amount TO junk"
        ),
        format!("{TRIGGER_OFF}; SELECT ledger.track('accounts', keep_image => true, excluded => '{{note}}')"),
    ];
    for change in &changes {
        for record in ["UPDATE accounts SET owner = owner", "DELETE FROM accounts WHERE id = 1"] {
            client.batch_execute(&format!("BEGIN; {change}; {record}")).unwrap();
            let found = details(&mut client, "accounts");
            assert_eq!(found.len(), 1, "{change}; {record}: {found:#?}");
            assert!(found[0].starts_with("{\"id\": 1} modified column "), "{change}; {record}: {found:#?}");
            assert!(found[0].contains(" was changed without a record after this entry"), "{found:#?}");
            // The columns of before do not make it good.
            client.batch_execute("ALTER TABLE accounts DROP COLUMN IF EXISTS z").unwrap();
            assert_eq!(problems(&mut client, "accounts"), ["{\"id\": 1} modified"], "{change}; {record}");
            client.batch_execute("ROLLBACK").unwrap();
        }
    }
    assert_clean(&mut client, "accounts");
}

/// What is compared is the same in both entries, and no more than that.
#[test]
fn a_row_that_is_recorded_anew_after_a_change_of_its_table_is_as_it_was() {
    let (_cluster, mut client) = start(Options::new());
    client.batch_execute(ACCOUNTS).unwrap();
    for change in [
        "ALTER TABLE accounts ADD COLUMN z int DEFAULT 5",
        "ALTER TABLE accounts ADD COLUMN at timestamptz NOT NULL DEFAULT clock_timestamp()",
        "ALTER TABLE accounts ALTER z TYPE text USING 'z' || z, ALTER amount TYPE bigint",
        "ALTER TABLE accounts RENAME amount TO balance; ALTER TABLE accounts ALTER balance TYPE numeric(12, 2)",
        "ALTER TABLE accounts DROP COLUMN note; ALTER TABLE accounts ADD COLUMN note text DEFAULT 'other'",
        "SELECT ledger.track('accounts', keep_image => true, excluded => '{note}'); UPDATE accounts SET note = 'n'",
        "UPDATE accounts SET note = 'm'; SELECT ledger.track('accounts', keep_image => true)",
        "SELECT ledger.track('accounts')",
        "ALTER TABLE accounts DROP COLUMN z; SELECT ledger.track('accounts', keep_image => true)",
        "ALTER TABLE accounts RENAME owner TO person; ALTER TABLE accounts ADD COLUMN owner text",
        "ALTER TABLE accounts DROP COLUMN junk; ALTER TABLE accounts RENAME person TO junk",
    ] {
        let write = "UPDATE accounts SET id = id; INSERT INTO accounts (id) VALUES (3) ON CONFLICT DO NOTHING; \
                     UPDATE accounts SET id = 4 WHERE id = 2; UPDATE accounts SET id = 2 WHERE id = 4; \
                     DELETE FROM accounts WHERE id = 3";
        client.batch_execute(change).unwrap();
        client.batch_execute(write).unwrap();
        assert_clean(&mut client, "accounts");
    }
}
