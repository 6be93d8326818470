//! A DBA may move sealed entries about with what Postgres has for that: whatever partitions `ledger.entries_sealed` is
//! made of, all that reads entries reads those in every one, and sealing spoils none.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{wait_until, Cluster, Options};
use postgres::Client;

/// Takes the one partition that holds entries away, and keeps it as `public.taken`.
pub const TAKE: &str = "ALTER TABLE ledger.entries_sealed DETACH PARTITION ledger.entries_sealed_1;
                    ALTER TABLE ledger.entries_sealed_1 RENAME TO taken;
                    ALTER EXTENSION pg_notary DROP TABLE ledger.taken;
                    ALTER TABLE ledger.taken SET SCHEMA public;";

/// Ways to put the entries of [`TAKE`] back.
pub const ARRANGEMENTS: &[(&str, &str)] = &[
    ("under another name", "ALTER TABLE ledger.entries_sealed ATTACH PARTITION taken FOR VALUES FROM (1) TO (50)"),
    (
        "without bounds",
        "ALTER TABLE ledger.entries_sealed ATTACH PARTITION taken FOR VALUES FROM (MINVALUE) TO (MAXVALUE)",
    ),
    ("as the default partition", "ALTER TABLE ledger.entries_sealed ATTACH PARTITION taken DEFAULT"),
    (
        "in copies without indexes",
        "CREATE TABLE copy_1 (LIKE ledger.entries); INSERT INTO copy_1 SELECT * FROM taken WHERE block_number < 3;
         CREATE TABLE copy_2 (LIKE ledger.entries); INSERT INTO copy_2 SELECT * FROM taken WHERE block_number >= 3;
         ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy_2 FOR VALUES FROM (3) TO (MAXVALUE);
         ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy_1 FOR VALUES FROM (MINVALUE) TO (3)",
    ),
    (
        "with columns in another order",
        "CREATE TABLE copy (gone text, leaf_index bigint UNIQUE, created_at timestamptz NOT NULL, block_number bigint,
             metadata jsonb NOT NULL, signature varchar(256), key_id varchar(64), data_hash varchar(64) NOT NULL,
             entry_type varchar(100) NOT NULL, id uuid PRIMARY KEY);
         ALTER TABLE copy DROP COLUMN gone;
         INSERT INTO copy (id, block_number, entry_type, data_hash, metadata, signature, key_id, created_at, leaf_index)
             SELECT * FROM taken;
         ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy FOR VALUES FROM (1) TO (50)",
    ),
    (
        "with a primary key on another column",
        "CREATE TABLE copy (LIKE ledger.entries, PRIMARY KEY (leaf_index)); INSERT INTO copy SELECT * FROM taken;
         ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy FOR VALUES FROM (1) TO (50)",
    ),
    (
        "with a primary key that includes the id",
        "CREATE TABLE copy (LIKE ledger.entries, PRIMARY KEY (leaf_index) INCLUDE (id)); INSERT INTO copy SELECT * FROM taken;
         ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy FOR VALUES FROM (1) TO (50)",
    ),
    (
        "with indexes on the id that hold some rows, or are of another kind",
        "CREATE TABLE copy (LIKE ledger.entries, UNIQUE (id, leaf_index)); INSERT INTO copy SELECT * FROM taken;
         CREATE UNIQUE INDEX ON copy (id) WHERE block_number = 1; CREATE INDEX ON copy USING hash (id);
         ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy FOR VALUES FROM (1) TO (50)",
    ),
    (
        "with a column that was dropped behind the others",
        "CREATE TABLE copy (LIKE ledger.entries INCLUDING ALL, gone int); INSERT INTO copy SELECT * FROM taken;
         ALTER TABLE copy DROP COLUMN gone;
         ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy FOR VALUES FROM (1) TO (50)",
    ),
    (
        "with another access method",
        "CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler;
         CREATE TABLE copy (LIKE ledger.entries, PRIMARY KEY (id), UNIQUE (leaf_index)) USING other;
         INSERT INTO copy SELECT * FROM taken;
         ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy FOR VALUES FROM (1) TO (50)",
    ),
    (
        "in partitions of a partition",
        "CREATE TABLE copy (LIKE ledger.entries) PARTITION BY HASH (id);
         CREATE TABLE copy_0 PARTITION OF copy (PRIMARY KEY (id), UNIQUE (leaf_index)) FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE copy_1 PARTITION OF copy FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO copy SELECT * FROM taken;
         ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy FOR VALUES FROM (1) TO (50)",
    ),
    (
        "in partitions of the default partition",
        "CREATE TABLE copy (LIKE ledger.entries) PARTITION BY RANGE (leaf_index);
         CREATE TABLE copy_0 PARTITION OF copy FOR VALUES FROM (0) TO (7);
         CREATE TABLE copy_1 PARTITION OF copy DEFAULT;
         INSERT INTO copy SELECT * FROM taken;
         ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy DEFAULT",
    ),
];

/// Five blocks with entries about three rows and others, and a row of which one version is still pending.
pub fn ledger() -> (Cluster, Client, Vec<String>) {
    let options = Options::new().conf("ledger.block_size = 100").conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(options);
    client.batch_execute("CREATE TABLE notes (id int PRIMARY KEY, body text); SELECT ledger.track('notes')").unwrap();
    client.batch_execute("INSERT INTO notes VALUES (1, 'first'), (2, 'second'), (3, 'third')").unwrap();
    let mut ids = Vec::new();
    for change in ["UPDATE notes SET body = body || '.'", "SELECT 1", "UPDATE notes SET id = id + 10", "SELECT 2"] {
        seal(&mut client);
        client.batch_execute(change).unwrap();
        ids.extend(record_many(&mut client, 2));
    }
    seal(&mut client);
    client.batch_execute("UPDATE notes SET body = 'pending' WHERE id = 13").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.blocks"), 5);
    (cluster, client, ids)
}

/// What all that reads entries says of this ledger and its rows.
#[track_caller]
fn everything_said(client: &mut Client, ids: &[String]) -> Vec<String> {
    let mut said = details(client, "notes");
    let verdict = json(client, "SELECT ledger.verify_all()");
    said.push(format!("{verdict:#}"));
    said.extend(column(
        client,
        "SELECT concat_ws(' ', source, block_number, problem, detail) FROM ledger.find_tampering()",
    ));
    for id in [1, 2, 3, 11, 12, 13] {
        let history = format!("SELECT concat_ws(' ', h) FROM ledger.history('notes', '{{\"id\": {id}}}') h");
        said.extend(column(client, &history));
        said.push(value(client, &format!("SELECT ledger.verify_row('notes', '{{\"id\": {id}}}')")));
    }
    said.push(value(client, "SELECT count(ledger.verified(n)) FROM notes n"));
    for (id, n) in ids.iter().zip([1, 2].into_iter().cycle()) {
        said.push(value(client, &format!("SELECT ledger.verify_entry('{id}', '{{\"n\": {n}}}')")));
    }
    said
}

#[test]
fn entries_are_read_from_every_partition_whoever_has_made_it() {
    let (_cluster, mut client, ids) = ledger();
    let before = everything_said(&mut client, &ids);
    assert_clean(&mut client, "notes");
    for (what, arrange) in ARRANGEMENTS {
        client.batch_execute(&format!("BEGIN; {TAKE}")).unwrap();
        client.batch_execute(arrange).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries WHERE block_number > 0"), 19, "{what}");
        assert_eq!(everything_said(&mut client, &ids), before, "{what}");
        // An id that is there is not taken again.
        let again = format!("SELECT ledger.append_entry('test', '{}', repeat('0', 64))", ids[0]);
        assert_eq!(error(&mut client, &again).code().code(), "23505", "{what}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    assert_intact(&mut client);
}

/// An older entry is not taken for the newest, nor a part of a history for the whole.
#[test]
fn what_is_asked_of_a_row_is_refused_while_entries_about_it_are_away() {
    let (_cluster, mut client, _) = ledger();
    client.batch_execute("INSERT INTO notes VALUES (4, 'fourth')").unwrap();
    let arrange = ARRANGEMENTS.iter().find(|(what, _)| what.contains("copies")).unwrap().1;
    client.batch_execute(&format!("{TAKE}{arrange}")).unwrap();
    client.batch_execute("ALTER TABLE ledger.entries_sealed DETACH PARTITION copy_2").unwrap();
    client.batch_execute(APPLICATION_TRIGGERS_OFF).unwrap();
    // As it was in the blocks before.
    client.batch_execute("UPDATE notes SET id = 1, body = 'first.' WHERE id = 11").unwrap();
    let row = r#"'notes', '{"id": 1}'"#;
    for asked in [
        format!("SELECT ledger.verify_row({row})"),
        format!("SELECT * FROM ledger.history({row})"),
        "SELECT ledger.verified(n) FROM notes n WHERE id = 1".to_owned(),
    ] {
        let error = error(&mut client, &asked);
        assert_eq!(error.code().code(), "XX001", "{asked}");
        assert!(all_text(&error).contains("attach it again"), "{asked}: {error:?}");
    }
    let verified =
        |client: &mut Client| json(client, "SELECT ledger.verify_row('notes', '{\"id\": 4}')")["verified"].clone();
    assert_eq!(verified(&mut client), true, "no entry about it is away");
    client
        .batch_execute("ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy_2 FOR VALUES FROM (3) TO (MAXVALUE)")
        .unwrap();
    assert_eq!(json(&mut client, &format!("SELECT ledger.verify_row({row})"))["problem"], "resurrected");
}

/// What was revoked does not come back by an older state of the item, because the partition with the revocation is
/// away.
#[test]
fn an_item_is_refused_while_entries_about_it_are_away() {
    let (_cluster, mut client, _) = ledger();
    let item = "'tool', 'api', '1.0.0'";
    client
        .batch_execute(&format!(
            "CREATE ROLE writer IN ROLE ledger_writer;
             SELECT ledger.create_item({item}, E'call()\\n', 'api.py');
             SELECT ledger.create_item('tool', 'other', '1.0.0', E'other()\\n', 'other.py')"
        ))
        .unwrap();
    seal(&mut client);
    client
        .batch_execute(&format!(
            "CREATE TABLE older AS SELECT * FROM ledger.items; SELECT ledger.revoke_signature({item}, 'sends keys')"
        ))
        .unwrap();
    seal(&mut client);
    let in_block = "SELECT max(block_number) FROM ledger.entries WHERE entry_type = 'item_revoked'";
    assert_eq!(number(&mut client, in_block), 7);
    client
        .batch_execute(&format!(
            "{TAKE}
             CREATE TABLE copy_1 (LIKE ledger.entries); INSERT INTO copy_1 SELECT * FROM taken WHERE block_number < 7;
             CREATE TABLE copy_2 (LIKE ledger.entries); INSERT INTO copy_2 SELECT * FROM taken WHERE block_number >= 7;
             ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy_1 FOR VALUES FROM (MINVALUE) TO (7);
             UPDATE ledger.items AS i SET revoked_at = NULL, revoked_reason = NULL, entry_id = o.entry_id
             FROM older AS o WHERE i.item_id = 'api' AND o.item_id = 'api'"
        ))
        .unwrap();
    let load = format!("SELECT ledger.load_item({item})");
    let refused = error(&mut client, &load);
    assert!(all_text(&refused).contains("attach it again"), "{refused:?}");
    let items = json(&mut client, "SELECT ledger.verify_all() -> 'items'");
    assert_eq!((&items["valid"], &items["errors"][0]["problem"]), (&false.into(), &"unproven".into()), "{items}");
    // Nobody signs it again but an administrator, as if it had never been revoked; what calls it is not signed at all.
    let sign = format!("SELECT ledger.sign_item({item})");
    let as_writer = |statement: &str| format!("SET LOCAL ROLE writer; {statement}");
    client.batch_execute("BEGIN").unwrap();
    let refused = error(&mut client, &as_writer(&sign));
    assert!(all_text(&refused).contains("attach it again"), "{refused:?}");
    client.batch_execute("ROLLBACK").unwrap();
    let calls = r#"'[{"item_type": "tool", "item_id": "api", "version": "1.0.0"}]'"#;
    let calling = format!("SELECT ledger.sign_item('tool', 'other', '1.0.0', depends_on => {calls})");
    assert!(all_text(&error(&mut client, &calling)).contains("attach it again"));
    assert!(value(&mut client, "SELECT ledger.load_item('tool', 'other', '1.0.0')").contains("other()"));

    client
        .batch_execute("ALTER TABLE ledger.entries_sealed ATTACH PARTITION copy_2 FOR VALUES FROM (7) TO (MAXVALUE)")
        .unwrap();
    assert!(all_text(&error(&mut client, &load)).contains("revoked"));
}

/// The file would tell of an entry without a row, were recovery not to find the rows there are.
#[test]
fn recovery_and_export_know_entries_of_every_partition() {
    for (what, arrange) in ARRANGEMENTS {
        let (cluster, mut client, _) = ledger();
        client.batch_execute(&format!("{TAKE}{arrange}")).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        drop(client);
        cluster.restart(crate::common::Stop::Immediate);
        let mut client = cluster.connect("postgres");
        wait_until_attached(&mut client);
        assert_intact(&mut client);
        assert_clean(&mut client, "notes");
        let path = cluster.scratch_dir().join("export.jsonl");
        client.batch_execute(&format!("COPY ledger.entries TO '{}' WITH (FORMAT jsonl)", path.display())).unwrap();
        let (status, report) = cli_verify(&path);
        assert_eq!(status, 0, "{what}: {report:#}");
        let import = format!("COPY ledger.entries FROM '{}' WITH (FORMAT jsonl)", path.display());
        assert!(all_text(&error(&mut client, &import)).contains("it is not empty"), "{what}");
    }
}

/// Sealing writes below the executor, which would send rows where they belong.
#[test]
fn sealing_goes_on_in_partitions_that_are_as_it_makes_them_and_spoils_no_others() {
    for (what, arrange) in ARRANGEMENTS {
        let (_cluster, mut client, _) = ledger();
        client.batch_execute(&format!("{TAKE}{arrange}")).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let indexes_differ = what.contains("index") || what.contains("primary key");
        let goes_on = indexes_differ || ["under another name", "without bounds"].contains(what);
        if goes_on {
            seal(&mut client);
            record_many(&mut client, 3);
            seal(&mut client);
        } else {
            let error = error(&mut client, "SELECT * FROM ledger.commit_block()");
            let expected = match what.contains("default") {
                true => "there is no partition of ledger.entries_sealed for block 6",
                false => "cannot seal block 6 into partition public.copy",
            };
            assert!(error.message().starts_with(expected), "{what}: {error:?}");
            record(&mut client);
        }
        assert_intact(&mut client);
        assert_clean(&mut client, "notes");
    }
}

#[test]
fn a_block_whose_entries_were_taken_away_before_its_line_was_written_says_to_attach_them_again() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    record(&mut client);
    client.batch_execute(&format!("BEGIN; SELECT ledger.commit_block(); {TAKE} COMMIT")).unwrap();
    let refused = error(&mut client, "SELECT ledger.commit_block()");
    let hint = refused.hint().unwrap();
    assert!(hint.starts_with("If a partition of ledger.entries_sealed was detached, attach it again."), "{refused:?}");
    client.batch_execute(ARRANGEMENTS[0].1).unwrap();
    record(&mut client);
    client.batch_execute("SELECT ledger.commit_block()").unwrap();
    wait_until_sealed(&mut client);
    assert_intact(&mut client);
}

/// Whether an entry is sealed is looked up in every partition. Who rewrites an old one locks it for as long as that
/// takes.
#[test]
fn a_locked_partition_of_old_entries_keeps_lines_from_being_voided_and_blocks_not_from_being_sealed() {
    let options = Options::new().conf("ledger.block_size = 10").conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(options);
    client.batch_execute("CREATE TABLE skew (n int)").unwrap();
    record_many(&mut client, 10);
    wait_until_sealed(&mut client);
    client
        .batch_execute(
            "ALTER TABLE ledger.entries_sealed DETACH PARTITION ledger.entries_sealed_1;
             ALTER TABLE ledger.entries_sealed ATTACH PARTITION ledger.entries_sealed_1 FOR VALUES FROM (1) TO (2)",
        )
        .unwrap();
    record_many(&mut client, 10);
    wait_until_sealed(&mut client);
    let mut locking = cluster.connect("postgres");
    locking.batch_execute("BEGIN; LOCK TABLE ledger.entries_sealed_1 IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut rolled_back = fail_a_commit(&cluster, 2);
    for blocks in 3..6 {
        record_many(&mut client, 10);
        wait_for(&mut client, &format!("(SELECT count(*) = {blocks} FROM ledger.blocks)"));
    }
    cluster.wait_for_log("a lock on ledger.entries_sealed_1");
    cluster.wait_for_log("Lines of transactions that were rolled back cannot be voided until the lock is released");
    let path = file(&mut client);
    assert!(voided_ids(&lines(&path)).is_empty());
    locking.batch_execute("COMMIT").unwrap();
    wait_until("they are voided", PATIENCE, || voided_ids(&lines(&path)).len() == 2);
    let mut voided = voided_ids(&lines(&path));
    voided.sort();
    rolled_back.sort();
    assert_eq!(voided, rolled_back);
    assert_intact(&mut client);
}
