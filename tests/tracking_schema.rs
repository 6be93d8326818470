//! An application's table changes its shape between a write and its verification: what can be compared is compared
//! exactly, what cannot is said to be so, and later writes are recorded in the new shape.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tampering::TRIGGERS_OFF;
use crate::common::tracking::*;
use crate::common::{Cluster, Options};
use postgres::Client;

const NOTES: &str = "
CREATE TABLE notes (id int PRIMARY KEY, title text, size int, body varchar(100), extra text);
INSERT INTO notes SELECT n, 'title ' || n, n, 'body ' || n, 'extra' FROM generate_series(1, 3) n;";

fn start_tracked(keep_image: bool) -> (Cluster, Client) {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute(NOTES).unwrap();
    client.batch_execute(&format!("SELECT ledger.track('notes', keep_image => {keep_image})")).unwrap();
    assert_clean(&mut client, "notes");
    (cluster, client)
}

/// What a change of the table lets a verification say of its rows from before.
#[derive(Clone, Copy, PartialEq, Debug)]
enum After {
    /// Each row is compared in full.
    Exact,
    /// The same; where a column that has another type differs, nobody can say whether that is the reason.
    Retyped,
    /// With images; without one nothing can be said.
    WithImage,
}

/// The change, what it leaves, an edit of a column that is still there, and a write by the application.
const CHANGES: &[(&str, After, &str, &str)] = &[
    ("ADD COLUMN more text", After::Exact, "title = 'forged'", "more = 'x'"),
    ("ADD COLUMN more int DEFAULT 7", After::Exact, "title = 'forged'", "more = 8"),
    ("ADD COLUMN more int NOT NULL DEFAULT 7", After::Exact, "title = 'forged'", "title = 'x'"),
    ("RENAME COLUMN title TO heading", After::Exact, "heading = 'forged'", "heading = 'x'"),
    ("ALTER COLUMN size TYPE bigint", After::Retyped, "size = 99", "size = 5"),
    ("ALTER COLUMN body TYPE text", After::Retyped, "body = 'forged'", "body = 'x'"),
    ("ALTER COLUMN title TYPE varchar(50)", After::Retyped, "title = 'forged'", "title = 'x'"),
    ("ALTER COLUMN size TYPE numeric", After::Retyped, "size = 99", "size = 5.5"),
    ("ALTER COLUMN size TYPE text", After::WithImage, "title = 'forged'", "size = 'many'"),
    ("DROP COLUMN extra", After::WithImage, "title = 'forged'", "title = 'x'"),
    ("DROP COLUMN extra, ADD COLUMN extra text DEFAULT 'extra'", After::WithImage, "title = 'forged'", "extra = 'x'"),
];

/// Complains of what is not as it should be.
fn complaints(client: &mut Client, keep_image: bool, change: &(&str, After, &str, &str)) -> Vec<String> {
    let (alter, after, edit, write) = *change;
    let unknown = if after == After::WithImage && !keep_image { "unverifiable" } else { "" };
    let edited = if after == After::Retyped { "unverifiable" } else { "modified" };
    let mut complaints = Vec::new();
    let mut expect = |client: &mut Client, what: &str, expected: [&str; 3]| {
        let expected: Vec<String> = (1..=3)
            .zip(expected)
            .filter(|(_, problem)| !problem.is_empty())
            .map(|(id, problem)| format!("{{\"id\": {id}}} {problem}"))
            .collect();
        let found = problems(client, "notes");
        if found != expected {
            complaints.push(format!("{alter}, {what}: expected {expected:?}: {:#?}", details(client, "notes")));
        }
    };
    client
        .batch_execute(&format!("BEGIN; ALTER TABLE notes {}", alter.replace(", ADD", "; ALTER TABLE notes ADD")))
        .unwrap();
    expect(client, "the rows", [unknown; 3]);
    client
        .batch_execute(&format!("SAVEPOINT s; {APPLICATION_TRIGGERS_OFF}; UPDATE notes SET {edit} WHERE id = 2"))
        .unwrap();
    expect(client, "an edit", [unknown, if unknown.is_empty() { edited } else { unknown }, unknown]);
    client.batch_execute("ROLLBACK TO s").unwrap();
    client
        .batch_execute(&format!("UPDATE notes SET {write} WHERE id = 1; INSERT INTO notes (id, body) VALUES (9, 't')"))
        .unwrap();
    expect(client, "a write", ["", unknown, unknown]);
    client.batch_execute(&format!("{APPLICATION_TRIGGERS_OFF}; UPDATE notes SET {edit} WHERE id = 1")).unwrap();
    expect(client, "an edit of what was written since", ["modified", unknown, unknown]);
    client.batch_execute("ROLLBACK").unwrap();
    complaints
}

fn assert_changes(keep_image: bool) {
    let (_cluster, mut client) = start_tracked(keep_image);
    let all: Vec<String> = CHANGES.iter().flat_map(|change| complaints(&mut client, keep_image, change)).collect();
    assert!(all.is_empty(), "{}", all.join("\n"));
    assert_clean(&mut client, "notes");
}

#[test]
fn rows_from_before_a_change_of_the_table_are_compared_where_they_can_be() {
    assert_changes(false);
}

#[test]
fn images_let_rows_be_compared_whatever_was_changed() {
    assert_changes(true);
}

#[test]
fn what_cannot_be_compared_is_said_with_its_reason() {
    let (_cluster, mut client) = start_tracked(false);
    client.batch_execute("ALTER TABLE notes DROP COLUMN extra; ALTER TABLE notes ALTER size TYPE text").unwrap();
    let found = details(&mut client, "notes");
    assert_eq!(found.len(), 3);
    assert!(found[0].contains("column \"extra\" was dropped, column \"size\" was given another type"), "{}", found[0]);
    let verdict = json(&mut client, "SELECT ledger.verify_row('notes', '{\"id\": 1}')");
    assert_eq!((&verdict["verified"], &verdict["problem"]), (&false.into(), &"unverifiable".into()));
    // The way on: each row that is written has an entry of the new shape.
    client.batch_execute("UPDATE notes SET id = id").unwrap();
    assert_clean(&mut client, "notes");
}

#[test]
fn a_table_that_is_renamed_or_moved_stays_the_same_table() {
    let (_cluster, mut client) = start_tracked(true);
    client.batch_execute("ALTER TABLE notes RENAME TO papers; CREATE SCHEMA \"Other Place\"").unwrap();
    assert_clean(&mut client, "papers");
    client.batch_execute("ALTER TABLE papers SET SCHEMA \"Other Place\"").unwrap();
    let name = "\"Other Place\".papers";
    client
        .batch_execute(&format!("UPDATE {name} SET title = 'x' WHERE id = 1; DELETE FROM {name} WHERE id = 2"))
        .unwrap();
    assert_clean(&mut client, name);
    assert_history_agrees(&mut client, name);
    let operations = format!("SELECT operation FROM ledger.history('{name}', '{{\"id\": 1}}')");
    assert_eq!(column(&mut client, &operations), ["baseline", "update"]);
    client
        .batch_execute(&format!(
            "{TRIGGERS_OFF}; ALTER TABLE {name} DISABLE TRIGGER ALL; DELETE FROM {name} WHERE id = 3"
        ))
        .unwrap();
    assert_eq!(problems(&mut client, name), ["{\"id\": 3} missing"]);
}

#[test]
fn a_change_of_the_table_that_is_rolled_back_leaves_no_shape_behind() {
    let (_cluster, mut client) = start_tracked(false);
    client
        .batch_execute(
            "BEGIN; ALTER TABLE notes ADD COLUMN more int; UPDATE notes SET more = 1 WHERE id = 1; ROLLBACK;
             UPDATE notes SET title = 'x' WHERE id = 1;
             BEGIN; SAVEPOINT s; ALTER TABLE notes ADD COLUMN more int; UPDATE notes SET more = 1; ROLLBACK TO s;
             UPDATE notes SET title = 'y' WHERE id = 2; COMMIT;
             ALTER TABLE notes ADD COLUMN more int; UPDATE notes SET more = 1 WHERE id = 3",
        )
        .unwrap();
    assert_clean(&mut client, "notes");
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.table_shapes"), 2);
    client
        .batch_execute(
            "BEGIN; SAVEPOINT s; ALTER TABLE notes ADD COLUMN even int; UPDATE notes SET even = 1; ROLLBACK TO s; \
                          ALTER TABLE notes ADD COLUMN even int; UPDATE notes SET even = 2; COMMIT",
        )
        .unwrap();
    assert_clean(&mut client, "notes");
}

/// Sessions with a plan of the old shape.
#[test]
fn other_sessions_record_in_the_new_shape() {
    let (cluster, mut client) = start_tracked(true);
    let mut other = cluster.connect("postgres");
    other.batch_execute("UPDATE notes SET title = 'x' WHERE id = 1").unwrap();
    client
        .batch_execute("ALTER TABLE notes ADD COLUMN more int DEFAULT 3; ALTER TABLE notes RENAME title TO heading")
        .unwrap();
    other.batch_execute("UPDATE notes SET heading = 'y' WHERE id = 1").unwrap();
    assert_clean(&mut client, "notes");
    assert_clean(&mut other, "notes");
    let newest = "SELECT after FROM ledger.history('notes', '{\"id\": 1}') ORDER BY version DESC LIMIT 1";
    let expected = r#"{"id": 1, "body": "body 1", "more": 3, "size": 1, "extra": "extra", "heading": "y"}"#;
    assert_eq!(value(&mut client, newest), expected);
}

/// A session keeps what it has found out about the columns that entries have.
#[test]
fn a_change_of_the_table_counts_for_entries_that_the_session_has_met_before_it() {
    let (cluster, mut client) = start_tracked(false);
    let mut other = cluster.connect("postgres");
    let verify = "SELECT ledger.verified(n) FROM notes AS n";
    other.batch_execute("ALTER TABLE notes ADD COLUMN more int").unwrap();
    client.batch_execute(verify).unwrap();
    other.batch_execute("ALTER TABLE notes RENAME title TO heading").unwrap();
    client.batch_execute(verify).unwrap();
    other.batch_execute("ALTER TABLE notes RENAME heading TO t").unwrap();
    other.batch_execute("ALTER TABLE notes RENAME extra TO title; ALTER TABLE notes RENAME t TO extra").unwrap();
    let refused = all_text(&error(&mut client, verify));
    assert!(refused.contains("Columns \"title\", \"extra\" exchanged their names"), "{refused}");
    other.batch_execute("ALTER TABLE notes RENAME title TO t; ALTER TABLE notes RENAME extra TO title").unwrap();
    other.batch_execute("ALTER TABLE notes RENAME t TO extra").unwrap();
    client.batch_execute(verify).unwrap();
    client.batch_execute("BEGIN; ALTER TABLE notes DROP COLUMN extra").unwrap();
    let refused = all_text(&error(&mut client, verify));
    assert!(refused.contains("column \"extra\" was dropped"), "{refused}");
    client.batch_execute("ROLLBACK").unwrap();
    client.batch_execute(verify).unwrap();
    assert_clean(&mut client, "notes");
}

#[test]
fn what_a_table_is_tracked_with_may_change() {
    let (_cluster, mut client) = start_tracked(false);
    client.batch_execute("SELECT ledger.track('notes', excluded => '{extra}', keep_image => true)").unwrap();
    client
        .batch_execute("UPDATE notes SET title = 'x' WHERE id = 1; UPDATE notes SET extra = 'y' WHERE id = 1")
        .unwrap();
    assert_clean(&mut client, "notes");
    client.batch_execute("SELECT ledger.track('notes')").unwrap();
    client.batch_execute("UPDATE notes SET extra = 'z' WHERE id IN (1, 3)").unwrap();
    assert_clean(&mut client, "notes");
    // What is tracked anew is another table: nobody knows what was done to it in between.
    client.batch_execute("SELECT ledger.untrack('notes'); DELETE FROM notes WHERE id = 1").unwrap();
    client.batch_execute("SELECT ledger.track('notes')").unwrap();
    assert_clean(&mut client, "notes");
}

/// Its newest entry covers the column: the first change of it is recorded, and no other.
#[test]
fn a_column_that_is_left_out_from_now_on_may_change() {
    for keep_image in [false, true] {
        let (_cluster, mut client) = start_tracked(keep_image);
        let narrow = format!("SELECT ledger.track('notes', excluded => '{{extra}}', keep_image => {keep_image})");
        client.batch_execute(&narrow).unwrap();
        let before = row_entries(&mut client, "notes");
        client.batch_execute("UPDATE notes SET extra = 'y' WHERE id < 3").unwrap();
        assert_clean(&mut client, "notes");
        client.batch_execute("SELECT ledger.verified(n) FROM notes n").unwrap();
        assert_eq!(row_entries(&mut client, "notes"), before + 2);
        // Called once more for another reason.
        client.batch_execute(&narrow.replace(")", ", with_signature => false)")).unwrap();
        client.batch_execute("UPDATE notes SET extra = 'z' WHERE id < 3").unwrap();
        assert_eq!(row_entries(&mut client, "notes"), before + 2);
        client
            .batch_execute("INSERT INTO notes VALUES (4, 'four'); UPDATE notes SET extra = 'z' WHERE id = 4")
            .unwrap();
        assert_eq!(row_entries(&mut client, "notes"), before + 3);
        assert_clean(&mut client, "notes");
        // All columns again, and others left out.
        client.batch_execute("SELECT ledger.track('notes'); UPDATE notes SET extra = 'u' WHERE id = 1").unwrap();
        assert_clean(&mut client, "notes");
        client.batch_execute("SELECT ledger.track('notes', columns => '{title}'); UPDATE notes SET size = 7").unwrap();
        assert_clean(&mut client, "notes");
        assert!(all_valid(&mut client));
    }
}

/// Else the one would be recorded in the place of the other, without anybody's notice.
#[test]
fn columns_that_exchange_their_names_are_not_recorded_one_for_the_other() {
    for list in ["columns => '{size}'", "excluded => '{extra,title,body}'"] {
        let (_cluster, mut client) = start(Options::new());
        client.batch_execute(NOTES).unwrap();
        client
            .batch_execute(&format!("ALTER TABLE notes ADD spare int; SELECT ledger.track('notes', {list})"))
            .unwrap();
        let swapped = if list.starts_with("columns") { ("size", "spare") } else { ("extra", "title") };
        let (one, other) = swapped;
        client
            .batch_execute(&format!(
                "ALTER TABLE notes RENAME {one} TO t; ALTER TABLE notes RENAME {other} TO {one}; ALTER TABLE notes RENAME t TO {other}"
            ))
            .unwrap();
        for write in [format!("UPDATE notes SET {one} = NULL"), format!("UPDATE notes SET {other} = NULL")] {
            let refused = error(&mut client, &write);
            assert!(
                refused.message().ends_with(&format!("names \"{one}\", which is now another column")),
                "{refused:?}"
            );
        }
        client.batch_execute(&format!("SELECT ledger.track('notes', {list}); UPDATE notes SET {one} = NULL")).unwrap();
        client.batch_execute(&format!("UPDATE notes SET {other} = NULL")).unwrap();
        assert_clean(&mut client, "notes");
        assert!(all_valid(&mut client));
    }
}

/// Values whose text another modifier of the same type changes: the entry is as good as it was, and says nothing of
/// them any more.
#[test]
fn another_modifier_of_a_columns_type_is_another_type() {
    for keep_image in [false, true] {
        let (_cluster, mut client) = start(Options::new());
        let table = format!(
            "CREATE TABLE sums (id int PRIMARY KEY, n numeric(30,4), c char(5), at timestamp, note text);
             SELECT ledger.track('sums', keep_image => {keep_image});
             INSERT INTO sums VALUES (1, 1234567890123456.5, 'a', '2026-01-01 12:00:00.5', 'x')"
        );
        client.batch_execute(&table).unwrap();
        for column in ["n TYPE numeric(30,10)", "c TYPE char(8)", "at TYPE timestamp(0)"] {
            client.batch_execute(&format!("ALTER TABLE sums ALTER {column}")).unwrap();
            assert_eq!(problems(&mut client, "sums"), ["{\"id\": 1} unverifiable"], "{column}");
            client.batch_execute("UPDATE sums SET note = note").unwrap();
            assert_clean(&mut client, "sums");
        }
        client.batch_execute("ALTER TABLE sums ALTER n TYPE numeric(31,10)").unwrap();
        assert_clean(&mut client, "sums");
    }
}

/// In a table that was never restored, a column keeps its number, whatever became of the names.
#[test]
fn ordinary_migrations_that_reuse_a_name_leave_rows_verifiable() {
    let (_cluster, mut client) = start(Options::new());
    for keep_image in [false, true] {
        client
            .batch_execute(&format!(
                "DROP SCHEMA IF EXISTS m CASCADE; CREATE SCHEMA m; SET search_path = m;
                 CREATE TABLE dropped (id int PRIMARY KEY, full_name text, name text, age int);
                 CREATE TABLE left_out (id int PRIMARY KEY, email_raw text, email text);
                 SELECT ledger.track('dropped', keep_image => {keep_image});
                 SELECT ledger.track('left_out', excluded => '{{email_raw}}', keep_image => {keep_image});
                 INSERT INTO dropped VALUES (1, 'Ada Lovelace', NULL, 36); INSERT INTO left_out VALUES (1, 'Raw', 'mail')"
            ))
            .unwrap();
        client
            .batch_execute(&format!(
                "BEGIN; ALTER TABLE dropped DROP COLUMN name; ALTER TABLE dropped RENAME full_name TO name;
                 ALTER TABLE left_out RENAME email TO email_old; ALTER TABLE left_out RENAME email_raw TO email;
                 SELECT ledger.track('left_out', excluded => '{{email}}', keep_image => {keep_image}); COMMIT"
            ))
            .unwrap();
        assert_clean(&mut client, "m.dropped");
        assert_clean(&mut client, "m.left_out");
        client
            .batch_execute(&format!(
                "SELECT ledger.track('left_out', keep_image => {keep_image});
                 UPDATE left_out SET email_old = 'new'; UPDATE dropped SET age = 37"
            ))
            .unwrap();
        assert_clean(&mut client, "m.dropped");
        assert_clean(&mut client, "m.left_out");
    }
}

#[test]
fn with_images_an_owner_hides_no_change_behind_names() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE acc (id int PRIMARY KEY, amount int, note int, age int);
             SELECT ledger.track('acc', keep_image => true); INSERT INTO acc VALUES (1, 100, 7, 36);
             ALTER TABLE acc ALTER amount TYPE int USING 999;
             ALTER TABLE acc DROP COLUMN note; ALTER TABLE acc RENAME amount TO note",
        )
        .unwrap();
    for update in ["", "UPDATE acc SET age = 37", "ALTER TABLE acc RENAME note TO amount; UPDATE acc SET age = 38"] {
        client.batch_execute(update).unwrap();
        assert_eq!(problems(&mut client, "acc"), ["{\"id\": 1} modified"], "{update}");
    }
    // Called again, track() changes nothing about that.
    client.batch_execute("SELECT ledger.track('acc', keep_image => true)").unwrap();
    assert_eq!(problems(&mut client, "acc"), ["{\"id\": 1} modified"]);
}

#[test]
fn a_column_that_was_left_out_is_not_compared_in_place_of_a_dropped_one_whose_name_it_took() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE mails (id int PRIMARY KEY, email_raw text, email text, x text);
             INSERT INTO mails VALUES (1, 'Raw', 'mail', 'x');
             SELECT ledger.track('mails', excluded => '{email_raw}', keep_image => true);
             INSERT INTO mails VALUES (2, 'Raw2', 'mail2', 'x')",
        )
        .unwrap();
    client
        .batch_execute(
            "BEGIN; ALTER TABLE mails DROP COLUMN email; ALTER TABLE mails RENAME email_raw TO email;
             SELECT ledger.track('mails', excluded => '{email}', keep_image => true); COMMIT",
        )
        .unwrap();
    assert_clean(&mut client, "mails");
    client.batch_execute("UPDATE mails SET x = 'y' WHERE id = 1").unwrap();
    assert_clean(&mut client, "mails");
    client.batch_execute(&format!("{APPLICATION_TRIGGERS_OFF}; UPDATE mails SET x = 'forged' WHERE id = 2")).unwrap();
    assert_eq!(problems(&mut client, "mails"), ["{\"id\": 2} modified"]);
}

/// The numbers 2 and 3 of the partition are those of other columns.
#[test]
fn a_column_of_a_partition_is_found_by_the_name_that_it_has_in_the_table() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE parts (id int PRIMARY KEY, full_name text, name text, age int) PARTITION BY RANGE (id);
             CREATE TABLE part (age int, gone int, name text, full_name text, id int NOT NULL);
             ALTER TABLE part DROP COLUMN gone; ALTER TABLE parts ATTACH PARTITION part DEFAULT;
             SELECT ledger.track('parts', keep_image => true);
             INSERT INTO parts VALUES (1, 'Ada Lovelace', 'Ada', 36), (2, 'Eva', NULL, 1)",
        )
        .unwrap();
    client.batch_execute("ALTER TABLE parts DROP COLUMN name; ALTER TABLE parts RENAME full_name TO name").unwrap();
    assert_clean(&mut client, "parts");
    client.batch_execute("UPDATE parts SET age = 37 WHERE id = 1").unwrap();
    assert_clean(&mut client, "parts");
    client.batch_execute(&format!("{APPLICATION_TRIGGERS_OFF}; UPDATE parts SET name = 'Eve' WHERE id = 2")).unwrap();
    assert_eq!(problems(&mut client, "parts"), ["{\"id\": 2} modified"]);
}

/// Unless an entry says that tracking has ended, a table that was tracked is to be there, and tracked.
#[test]
fn a_tracked_table_does_not_vanish_without_a_record() {
    let (_cluster, mut client) = start_tracked(false);
    for loss in [
        "DROP TRIGGER ledger_record_change ON notes",
        "SET LOCAL session_replication_role = replica; DELETE FROM pg_trigger WHERE tgrelid = 'notes'::regclass; \
         UPDATE pg_class SET relhastriggers = false WHERE oid = 'notes'::regclass",
        "DROP TRIGGER ledger_record_change ON notes; DROP TABLE notes; CREATE TABLE notes (id int PRIMARY KEY)",
    ] {
        client.batch_execute(&format!("BEGIN; SET allow_system_table_mods = on; {loss}")).unwrap();
        let verdict = json(&mut client, "SELECT ledger.verify_all()");
        assert_eq!(verdict["overall_valid"], false, "{loss}: {verdict:#}");
        assert_eq!(verdict["tables"][0]["table"], "public.notes", "{verdict:#}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    assert_clean(&mut client, "notes");
    let recorded = "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_untracked'";
    for end in ["SELECT ledger.untrack('notes')", "DROP TABLE notes", "DROP SCHEMA public CASCADE"] {
        client.batch_execute(&format!("BEGIN; {end}")).unwrap();
        assert!(all_valid(&mut client), "{end}");
        assert_eq!(number(&mut client, recorded), 1, "{end}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    assert_clean(&mut client, "notes");
}
