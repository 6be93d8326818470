//! Columns that Postgres computes: those that are stored are recorded like others; those that are not are none of a
//! row's record, and nobody is left to believe that they are.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{pg_major, Options};

#[test]
fn a_stored_generated_column_is_recorded_and_verified() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE prices (net int, gross int GENERATED ALWAYS AS (net * 2) STORED, id int PRIMARY KEY);
             INSERT INTO prices VALUES (10, DEFAULT, 1);
             SELECT ledger.track('prices', keep_image => true);
             INSERT INTO prices VALUES (20, DEFAULT, 2);
             UPDATE prices SET net = 30 WHERE id = 1",
        )
        .unwrap();
    assert_clean(&mut client, "prices");
    let images = "SELECT after FROM ledger.history('prices', '{\"id\": 1}')";
    assert_eq!(
        column(&mut client, images),
        [r#"{"id": 1, "net": 10, "gross": 20}"#, r#"{"id": 1, "net": 30, "gross": 60}"#]
    );
    if pg_major() < 17 {
        return;
    }
    // The values change, and no trigger sees it.
    client.batch_execute("ALTER TABLE prices ALTER COLUMN gross SET EXPRESSION AS (net * 3)").unwrap();
    assert_eq!(problems(&mut client, "prices"), [r#"{"id": 1} modified"#, r#"{"id": 2} modified"#]);
    assert!(details(&mut client, "prices")[0].contains(r#"column "gross""#));
}

#[test]
fn a_virtual_generated_column_changes_nothing_about_a_row() {
    if pg_major() < 18 {
        return;
    }
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE prices (net int, gross int GENERATED ALWAYS AS (net * 2), id int PRIMARY KEY, note text);
             INSERT INTO prices (net, id, note) VALUES (10, 1, 'a');
             SELECT ledger.track('prices', keep_image => true);
             INSERT INTO prices (net, id, note) VALUES (20, 2, 'b'), (30, 3, NULL);
             UPDATE prices SET net = 30 WHERE gross = 20;
             DELETE FROM prices WHERE gross = 40",
        )
        .unwrap();
    let assert_good = |client: &mut postgres::Client| {
        assert_clean(client, "prices");
        assert_eq!(number(client, "SELECT count(*) FROM prices p, ledger.verified(p)"), 2);
        assert_eq!(json(client, "SELECT ledger.verify_row('prices', '{\"id\": 1}')")["verified"], true);
    };
    assert_good(&mut client);
    assert_eq!(value(&mut client, "SELECT sum((ledger.verified(p)).gross) FROM prices p"), "120");
    let images = "SELECT after FROM ledger.history('prices', '{\"id\": 1}')";
    assert_eq!(
        column(&mut client, images),
        [r#"{"id": 1, "net": 10, "note": "a"}"#, r#"{"id": 1, "net": 30, "note": "a"}"#]
    );
    for alter in [
        "ALTER COLUMN gross SET EXPRESSION AS (net * 3)",
        "ADD COLUMN more text GENERATED ALWAYS AS (note || '!')",
        "DROP COLUMN gross",
    ] {
        client.batch_execute(&format!("ALTER TABLE prices {alter}")).unwrap();
        assert_good(&mut client);
    }
    client.batch_execute("UPDATE prices SET net = net + 1").unwrap();
    assert_good(&mut client);
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(&format!("{APPLICATION_TRIGGERS_OFF}; UPDATE prices SET note = 'c' WHERE id = 1")).unwrap();
    assert_eq!(problems(&mut client, "prices"), [r#"{"id": 1} modified"#]);
    client.batch_execute("ROLLBACK").unwrap();
}

/// The list says what is recorded.
#[test]
fn a_column_that_is_not_stored_cannot_be_named_as_one_to_record() {
    if pg_major() < 18 {
        return;
    }
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE prices (id int PRIMARY KEY, net int, gross int GENERATED ALWAYS AS (net * 2));
             INSERT INTO prices VALUES (1, 10)",
        )
        .unwrap();
    let refused = error(&mut client, "SELECT ledger.track('prices', columns => '{net, gross}')");
    assert!(all_text(&refused).contains("\"gross\""), "{refused:?}");
    assert!(all_text(&refused).contains("columns that it is computed from"), "{refused:?}");
    client.batch_execute("SELECT ledger.track('prices', excluded => '{gross}')").unwrap();
    client.batch_execute("SELECT ledger.track('prices', columns => '{net}')").unwrap();
    client.batch_execute("UPDATE prices SET net = 11").unwrap();
    assert_clean(&mut client, "prices");

    // Nor does one that is recorded become such a column unnoticed.
    client
        .batch_execute(
            "ALTER TABLE prices DROP COLUMN net CASCADE;
             ALTER TABLE prices ADD COLUMN net int GENERATED ALWAYS AS (id * 2)",
        )
        .unwrap();
    let refused = error(&mut client, "INSERT INTO prices VALUES (2)");
    assert!(all_text(&refused).contains("\"net\""), "{refused:?}");
}
