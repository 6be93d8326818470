//! Rows of a tracked table that are changed past its triggers, in ways that leave them looking as they were recorded: they
//! are found all the same.
#![cfg(feature = "cluster-tests")]

mod common;

use common::ledger::*;
use common::tracking::*;
use common::Options;

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
