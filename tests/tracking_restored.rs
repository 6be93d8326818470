//! In a table that was restored from a dump, columns can have other numbers than in the entries of before. What the
//! names tell is compared, and nothing is taken for something else; in a copy of the whole database a table is the
//! same.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{wait_until, write_file, Cluster, Options};
use postgres::Client;

/// A tracked table that had a column before its own was dropped; and the same one restored in another database,
/// together with the ledger. There its columns have other numbers: pg_dump leaves no gaps between them.
fn start_restored(options: &str) -> (Cluster, Client, Client) {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(&format!(
            "CREATE TABLE kept (gone int, id int PRIMARY KEY, a text, b text); ALTER TABLE kept DROP COLUMN gone;
             SELECT ledger.track('kept'{options}); INSERT INTO kept VALUES (1, 'a', 'b'), (2, 'c', 'd')"
        ))
        .unwrap();
    let mut other = restored(&cluster, &mut client);
    assert_eq!(value(&mut other, "SELECT max(attnum) FROM pg_attribute WHERE attrelid = 'kept'::regclass"), "3");
    (cluster, client, other)
}

/// All tables, restored in another database together with the ledger.
fn restored(cluster: &Cluster, client: &mut Client) -> Client {
    seal(client);
    let export = cluster.data_dir().join("export.jsonl");
    client.batch_execute(&format!("COPY ledger.entries TO '{}' WITH (FORMAT jsonl)", export.display())).unwrap();
    client.batch_execute("CREATE DATABASE other").unwrap();
    let dump = cluster.data_dir().join("dump");
    cluster.run("pg_dump", &["-Fc", "-f", dump.to_str().unwrap(), "postgres"]);
    cluster.run("pg_restore", &["-d", "other", dump.to_str().unwrap()]);
    let mut other = cluster.connect("other");
    other.batch_execute(&format!("COPY ledger.entries FROM '{}' WITH (FORMAT jsonl)", export.display())).unwrap();
    other
}

#[test]
fn a_restored_table_that_had_a_dropped_column_is_compared_by_its_columns_names() {
    let (_cluster, mut client, mut other) = start_restored("");
    assert_clean(&mut other, "kept");
    // Also if it was altered since.
    other.batch_execute("ALTER TABLE kept ALTER b TYPE varchar, ADD COLUMN c int").unwrap();
    assert_clean(&mut other, "kept");
    other.batch_execute("ALTER TABLE kept ALTER b TYPE text").unwrap();
    // Or tracked anew, which gives its columns other numbers than the entries of before state.
    other.batch_execute("SELECT ledger.track('kept')").unwrap();
    assert_clean(&mut other, "kept");
    other.batch_execute("SELECT ledger.verified(k) FROM kept k; ALTER TABLE kept DISABLE TRIGGER ALL").unwrap();
    other.batch_execute("UPDATE kept SET a = 'z' WHERE id = 1").unwrap();
    assert_eq!(problems(&mut other, "kept"), ["{\"id\": 1} modified"]);
    // A column that was added again is another one.
    client.batch_execute("ALTER TABLE kept DROP COLUMN b; ALTER TABLE kept ADD COLUMN b text").unwrap();
    assert_eq!(problems(&mut client, "kept"), ["{\"id\": 1} unverifiable", "{\"id\": 2} unverifiable"]);
}

/// Whether or not its numbers say which columns it has lost, and which have other names.
#[test]
fn a_row_is_named_by_the_columns_of_its_key_whatever_became_of_others() {
    let (_cluster, mut client, mut other) = start_restored("");
    for session in [&mut client, &mut other] {
        session.batch_execute("ALTER TABLE kept DISABLE TRIGGER ALL; DELETE FROM kept WHERE id = 1").unwrap();
        session.batch_execute("ALTER TABLE kept DROP COLUMN b").unwrap();
        assert_eq!(problems(session, "kept"), ["{\"id\": 1} missing", "{\"id\": 2} unverifiable"]);
    }
    client.batch_execute("ALTER TABLE kept RENAME COLUMN id TO number").unwrap();
    assert_eq!(problems(&mut client, "kept"), ["{\"number\": 1} missing", "{\"number\": 2} unverifiable"]);
}

/// Who calls track() in the restored database changes nothing about which entries are from before.
#[test]
fn a_restored_table_stays_one_that_was_restored_when_it_is_tracked_again() {
    let (_cluster, _client, mut other) = start_restored(", keep_image => true");
    wait_until("the ledger that was imported records", PATIENCE, || other.simple_query(RECORD).is_ok());
    let track = "SELECT ledger.track('kept', keep_image => true)";
    for call in ["SELECT ledger.track('kept', keep_image => true, excluded => '{b}')", track] {
        other.batch_execute(&format!("{call}; {call}")).unwrap();
        assert_clean(&mut other, "kept");
    }
    other.batch_execute("ALTER TABLE kept ADD COLUMN c int").unwrap();
    assert_clean(&mut other, "kept");
    // A change that comes with other names is never passed over, not even once the names are back and the rows
    // recorded.
    let expected = ["{\"id\": 1} unverifiable", "{\"id\": 2} unverifiable"];
    other.batch_execute("ALTER TABLE kept ALTER a TYPE text USING 'forged'").unwrap();
    other.batch_execute("ALTER TABLE kept DROP COLUMN b; ALTER TABLE kept RENAME a TO b").unwrap();
    assert_eq!(problems(&mut other, "kept"), expected);
    assert!(details(&mut other, "kept")[0].contains("the table was restored"));
    other.batch_execute("UPDATE kept SET c = 1").unwrap();
    assert_eq!(problems(&mut other, "kept"), expected);
    other.batch_execute(&format!("ALTER TABLE kept RENAME b TO a; UPDATE kept SET c = 2; {track}")).unwrap();
    assert_eq!(problems(&mut other, "kept"), expected);
    // The way on: nothing from before is compared any more.
    other.batch_execute(&format!("SELECT ledger.untrack('kept'); {track}")).unwrap();
    other.batch_execute("ALTER TABLE kept DROP COLUMN c; ALTER TABLE kept RENAME a TO c").unwrap();
    assert_clean(&mut other, "kept");
}

#[test]
fn in_a_database_that_was_copied_as_a_whole_a_table_is_the_same() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE DATABASE app").unwrap();
    let mut app = cluster.connect("app");
    app.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    app.batch_execute(
        "CREATE TABLE people (id int PRIMARY KEY, full_name text, name text, age int);
         SELECT ledger.track('people'); INSERT INTO people VALUES (1, 'Ada Lovelace', NULL, 36), (2, 'A', 'B', 1)",
    )
    .unwrap();
    drop(app);
    wait_until("nobody is connected", PATIENCE, || client.batch_execute("CREATE DATABASE copy TEMPLATE app").is_ok());
    for database in ["app", "copy"] {
        let mut client = cluster.connect(database);
        client
            .batch_execute("ALTER TABLE people DROP COLUMN name; ALTER TABLE people RENAME full_name TO name")
            .unwrap();
        assert_eq!(problems(&mut client, "people"), ["{\"id\": 2} unverifiable"], "{database}");
        assert!(details(&mut client, "people")[0].contains("column \"name\" was dropped"), "{database}");
    }
}

/// The table is restored once more, in another schema.
fn restore_beside(cluster: &Cluster, other: &mut Client, tables: &[&str]) {
    other.batch_execute("CREATE SCHEMA s2").unwrap();
    let pattern = format!("public.({})", tables.join("|"));
    let dump = cluster.run("pg_dump", &["-t", &pattern, "postgres"]);
    let script = cluster.data_dir().join("beside.sql");
    write_file(&script, dump.replace("public.", "s2."));
    cluster.run("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "other", "-f", script.to_str().unwrap()]);
}

/// What the triggers were made for is a table of the old database.
#[test]
fn a_table_that_is_restored_again_in_a_restored_database_is_a_copy_there() {
    let (cluster, _client, mut other) = start_restored("");
    wait_until("the ledger that was imported records", PATIENCE, || other.simple_query(RECORD).is_ok());
    // This session goes on with what it knows of the table.
    other.batch_execute("UPDATE kept SET a = 'x' WHERE id = 1").unwrap();
    restore_beside(&cluster, &mut other, &["kept"]);
    let states = "SELECT table_name || ' ' || state FROM ledger.tracked_tables ORDER BY table_name::text";
    assert_eq!(column(&mut other, states), ["kept tracked", "s2.kept copy"]);
    for statement in [
        "UPDATE s2.kept SET a = 'forged'",
        "TRUNCATE s2.kept",
        "SELECT * FROM ledger.verify_table('s2.kept')",
        "SELECT ledger.verified(k) FROM s2.kept k",
    ] {
        let refused = error(&mut other, statement);
        assert_eq!(refused.message(), "table s2.kept is a copy of tracked table public.kept", "{statement}");
    }
    let mut another = cluster.connect("other");
    another.batch_execute("INSERT INTO kept VALUES (3, 'e', 'f')").unwrap();
    assert_eq!(problems(&mut another, "kept"), [""; 0]);
    // Also once the original is tracked anew, and knows what it was made for.
    another.batch_execute("SELECT ledger.track('kept')").unwrap();
    assert_eq!(column(&mut other, states), ["kept tracked", "s2.kept copy"]);
    error(&mut other, "UPDATE s2.kept SET a = 'forged'");
    other.batch_execute("SELECT ledger.track('s2.kept'); UPDATE s2.kept SET a = 'own'").unwrap();
    assert_eq!(column(&mut other, states), ["kept tracked", "s2.kept tracked"]);
    assert_eq!(number(&mut other, "SELECT count(DISTINCT table_id) FROM ledger.tracked_tables"), 2);
    assert_clean(&mut other, "kept");
    assert_clean(&mut other, "s2.kept");
}

/// Its partitions have copies of its trigger, which make none of them a table of its own.
#[test]
fn a_partitioned_table_that_is_restored_again_in_a_restored_database_is_a_copy_there() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
             SELECT ledger.track('parts')",
        )
        .unwrap();
    let mut other = restored(&cluster, &mut client);
    wait_until("the ledger that was imported records", PATIENCE, || other.simple_query(RECORD).is_ok());
    restore_beside(&cluster, &mut other, &["parts", "parts_1"]);
    other.batch_execute("INSERT INTO parts VALUES (1, 'a'); UPDATE parts_1 SET v = 'b'").unwrap();
    for table in ["parts", "parts_1"] {
        let refused = error(&mut other, &format!("INSERT INTO s2.{table} VALUES (2, 'forged')"));
        assert_eq!(refused.message(), "table s2.parts is a copy of tracked table public.parts");
    }
    assert_eq!(problems(&mut other, "parts"), [""; 0]);
    // Once the original is gone, the copy is what is left of it; and is a copy again if the original comes back.
    other.batch_execute("BEGIN; DROP TABLE parts; INSERT INTO s2.parts VALUES (2, 'b'); ROLLBACK").unwrap();
    error(&mut other, "INSERT INTO s2.parts VALUES (2, 'forged')");
    other.batch_execute("DROP TABLE parts; INSERT INTO s2.parts VALUES (2, 'b')").unwrap();
    assert_eq!(column(&mut other, "SELECT state FROM ledger.tracked_tables"), ["tracked"]);
}

/// A restored table may be a copy, which the triggers of all tables say. No index leads to those that matter.
#[test]
fn a_session_reads_the_triggers_of_all_tables_once_for_all_restored_ones() {
    const TABLES: u32 = 12;
    let (cluster, mut client) = start(Options::new());
    for table in 1..=TABLES {
        let make = format!("CREATE TABLE a_{table} (id int PRIMARY KEY); SELECT ledger.track('a_{table}')");
        client.batch_execute(&make).unwrap();
    }
    let mut other = restored(&cluster, &mut client);
    wait_until("the ledger that was imported records", PATIENCE, || other.simple_query(RECORD).is_ok());
    let scans = "SELECT pg_stat_get_xact_numscans('pg_trigger'::regclass)";
    other.batch_execute("BEGIN").unwrap();
    for table in 1..=TABLES {
        other.batch_execute(&format!("INSERT INTO a_{table} VALUES (1)")).unwrap();
        assert_eq!(number(&mut other, scans), 1, "a_{table}");
    }
    other.batch_execute("COMMIT").unwrap();
}

/// In another cluster, it can get the oid that the table had where the triggers were made.
#[test]
fn a_restored_table_is_no_copy_of_its_own_partition() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
             SELECT ledger.track('parts');
             CREATE TABLE restored (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
             CREATE TABLE restored_1 PARTITION OF restored FOR VALUES FROM (0) TO (100);
             DO $$
             DECLARE
                 t record;
                 old_oid text := format('\"table\":%s', 'restored_1'::regclass::oid);
             BEGIN
                 FOR t IN SELECT format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', 'public.' || tgrelid::regclass, tgname) AS always,
                             pg_get_triggerdef(oid) AS made
                          FROM pg_trigger WHERE tgrelid IN ('parts'::regclass, 'parts_1'::regclass) AND tgparentid = 0 LOOP
                     EXECUTE replace(regexp_replace(t.made, '\"table\": ?[0-9]+', old_oid), 'public.parts', 'public.restored');
                     EXECUTE replace(t.always, 'public.parts', 'public.restored');
                 END LOOP;
             END $$;
             DROP TABLE parts;
             INSERT INTO restored VALUES (1, 'a')",
        )
        .unwrap();
    assert_clean(&mut client, "restored");
    assert_eq!(column(&mut client, "SELECT state FROM ledger.tracked_tables"), ["tracked"]);
}

/// A dump puts the columns first that are inherited, also those that the parent got later.
#[test]
fn a_restored_table_that_inherits_has_its_rows_whatever_the_order_of_its_columns() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE base (a int); CREATE TABLE child (b int PRIMARY KEY, c int) INHERITS (base);
             SELECT ledger.track('child', keep_image => true, with_signature => false); INSERT INTO child VALUES (1, 2, 3);
             ALTER TABLE base ADD COLUMN z int; INSERT INTO child VALUES (4, 5, 6, 7);
             CREATE TABLE tenants (tenant int);
             CREATE TABLE notes (id int, tenant int, note text, PRIMARY KEY (id, tenant)); ALTER TABLE notes INHERIT tenants;
             SELECT ledger.track('notes'); INSERT INTO notes VALUES (1, 2, 'x'), (2, 1, 'y');
             UPDATE notes SET note = 'z' WHERE id = 2",
        )
        .unwrap();
    // What was made before the order of the key was noted.
    client
        .batch_execute(
            "CREATE TABLE single (id int, tenant int, PRIMARY KEY (tenant, id)); SELECT ledger.track('single');
             DO $$
             DECLARE
                 t record;
             BEGIN
                 FOR t IN SELECT oid, tgname, pg_get_triggerdef(oid) AS made FROM pg_trigger WHERE tgrelid = 'single'::regclass LOOP
                     EXECUTE format('DROP TRIGGER %I ON single', t.tgname);
                     EXECUTE regexp_replace(t.made, '\"key\": ?\\[\\[.*?\\]\\], ?', '');
                     EXECUTE format('ALTER TABLE single ENABLE ALWAYS TRIGGER %I', t.tgname);
                 END LOOP;
             END $$;
             INSERT INTO single VALUES (1, 2)",
        )
        .unwrap();
    let with_order = "SELECT tgrelid::regclass FROM pg_trigger WHERE tgname = 'ledger_record_change' \
                      AND pg_get_triggerdef(oid) LIKE '%\"key\":%'";
    assert_eq!(column(&mut client, with_order), ["notes"]);
    assert_clean(&mut client, "single");

    let mut other = restored(&cluster, &mut client);
    wait_until("the ledger that was imported records", PATIENCE, || other.simple_query(RECORD).is_ok());
    let columns = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 AND attrelid = ";
    assert_eq!(value(&mut other, &format!("{columns} 'child'::regclass")), "a z b c");
    assert_eq!(value(&mut other, &format!("{columns} 'notes'::regclass")), "tenant id note");
    for table in ["child", "notes", "single"] {
        assert_clean(&mut other, table);
    }
    let verified = r#"SELECT ledger.verify_row('notes', '{"id": 1, "tenant": 2}')->>'verified'"#;
    assert_eq!(value(&mut other, verified), "true");
    other.batch_execute("SELECT ledger.verified(x) FROM child AS x; UPDATE child SET z = 8 WHERE b = 2").unwrap();
    other.batch_execute("UPDATE notes SET note = note || '!'; INSERT INTO notes VALUES (9, 9, 'new')").unwrap();
    // Tracked anew, it keeps what names its rows, whatever the columns of its key are called then.
    let track = "SELECT ledger.track('notes'), ledger.track('child', keep_image => true, with_signature => false)";
    other.batch_execute(track).unwrap();
    assert_clean(&mut other, "notes");
    assert_clean(&mut other, "child");
    let change = "UPDATE notes SET note = note || '?' WHERE id = 1";
    other.batch_execute(&format!("ALTER TABLE tenants RENAME tenant TO owner; {change}")).unwrap();
    assert_eq!(number(&mut other, "SELECT count(*) FROM ledger.history('notes', '{\"id\": 1, \"owner\": 2}')"), 3);
    other.batch_execute(&format!("ALTER TABLE tenants RENAME owner TO tenant; {change}")).unwrap();
    assert_clean(&mut other, "notes");
    // What was done past the triggers is found, and nothing is taken for something else.
    other.batch_execute("ALTER TABLE child DISABLE TRIGGER ALL; UPDATE child SET c = 9 WHERE b = 2").unwrap();
    assert_eq!(problems(&mut other, "child"), [r#"{"b": 2} modified"#]);
    other.batch_execute("ALTER TABLE child RENAME c TO d").unwrap();
    assert_eq!(problems(&mut other, "child"), [r#"{"b": 2} unverifiable"#, r#"{"b": 5} unverifiable"#]);
}
