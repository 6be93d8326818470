//! The ledger's own tables: their columns stay as they are, and the rest of them is the administrator's.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::wait_until_tracked;
use crate::common::{as_server, Cluster, Options};
use crate::entry_partitions::{ledger, ARRANGEMENTS, TAKE};
use postgres::error::SqlState;
use postgres::Client;

/// With the table that the message names.
const REFUSED: [(&str, &str); 16] = [
    ("ALTER TABLE ledger.entries ADD COLUMN more int", "entries"),
    ("ALTER TABLE ledger.entries ADD COLUMN IF NOT EXISTS more int DEFAULT 5", "entries"),
    ("ALTER TABLE IF EXISTS ledger.entries SET LOGGED, ADD COLUMN more int", "entries"),
    ("ALTER TABLE ledger.entries DROP COLUMN key_id", "entries"),
    ("ALTER TABLE ledger.entries ALTER COLUMN entry_type TYPE text", "entries"),
    ("ALTER TABLE ledger.entries RENAME COLUMN metadata TO meta", "entries"),
    ("ALTER TABLE ledger.entries RENAME metadata TO meta", "entries"),
    ("ALTER TABLE ledger.blocks ADD COLUMN more int", "blocks"),
    ("ALTER TABLE ledger.blocks DROP COLUMN tree_root CASCADE", "blocks"),
    ("ALTER TABLE ledger.log_nodes ADD more int", "log_nodes"),
    ("ALTER TABLE ledger.log_state ADD COLUMN more int", "log_state"),
    ("ALTER TABLE ledger.row_versions ALTER run TYPE int", "row_versions"),
    ("ALTER TABLE ledger.table_shapes RENAME shape TO form", "table_shapes"),
    ("ALTER TABLE ledger.baselines ADD COLUMN more int", "baselines"),
    ("ALTER TABLE ledger.items ADD COLUMN more int", "items"),
    ("SET search_path = ledger; ALTER TABLE entries ADD COLUMN more int", "entries"),
];

/// With the table that the message names. After a crash it would be empty.
const EMPTY_AFTER_A_CRASH: [(&str, &str); 3] = [
    ("ALTER TABLE ledger.log_state SET UNLOGGED", "log_state"),
    ("ALTER TABLE ledger.entries_pending SET (fillfactor = 90), SET UNLOGGED", "entries_pending"),
    ("ALTER TABLE ledger.entries_sealed_1 SET UNLOGGED", "entries_sealed_1"),
];

const ALLOWED: [&str; 12] = [
    "ALTER TABLE ledger.entries_sealed_1 SET TABLESPACE elsewhere",
    "ALTER TABLE ledger.blocks SET TABLESPACE elsewhere",
    "CREATE INDEX ON ledger.entries (entry_type)",
    "ALTER TABLE ledger.entries_sealed_1 ALTER COLUMN entry_type SET STATISTICS 500",
    "ALTER TABLE ledger.entries_pending ALTER COLUMN metadata SET STORAGE EXTERNAL",
    "ALTER TABLE ledger.entries_pending SET (autovacuum_vacuum_threshold = 1000)",
    "ALTER TABLE ledger.entries_sealed_1 DISABLE TRIGGER USER",
    "ALTER TABLE ledger.entries_sealed_1 ENABLE TRIGGER USER",
    "ALTER TABLE ledger.blocks OWNER TO keeper",
    "ALTER TABLE ledger.entries_sealed_1 REPLICA IDENTITY FULL",
    "ALTER TABLE ledger.entries_sealed DETACH PARTITION ledger.entries_sealed_1; \
     ALTER TABLE ledger.entries_sealed ATTACH PARTITION ledger.entries_sealed_1 BOUNDS",
    "CREATE TABLE ledger_notes (entry_id uuid); ALTER TABLE ledger_notes ADD COLUMN note text; \
     ALTER TABLE ledger_notes RENAME note TO notes; ALTER TABLE ledger_notes DROP COLUMN notes",
];

#[test]
fn what_the_ledgers_tables_cannot_bear_is_refused() {
    let (_cluster, mut client) = start(Options::new());
    record(&mut client);
    seal(&mut client);
    for (sql, table) in REFUSED {
        let refused = error(&mut client, sql);
        assert_eq!(refused.code(), &SqlState::FEATURE_NOT_SUPPORTED, "{sql}: {refused:?}");
        assert_eq!(refused.message(), format!("cannot change the columns of table \"ledger.{table}\""), "{sql}");
        assert!(refused.detail().is_some() && refused.hint().is_some(), "{sql}");
    }
    for (sql, table) in EMPTY_AFTER_A_CRASH {
        let refused = error(&mut client, sql);
        assert_eq!(refused.code(), &SqlState::FEATURE_NOT_SUPPORTED, "{sql}: {refused:?}");
        assert_eq!(refused.message(), format!("cannot make table \"ledger.{table}\" unlogged"), "{sql}");
    }
    // Whoever may not is told that.
    client.batch_execute("CREATE ROLE nobody; SET ROLE nobody").unwrap();
    let refused = error(&mut client, "ALTER TABLE ledger.entries ADD COLUMN more int");
    assert_eq!(refused.code(), &SqlState::INSUFFICIENT_PRIVILEGE, "{refused:?}");
    client.batch_execute("RESET ROLE").unwrap();
    let absent = error(&mut client, "ALTER TABLE ledger.absent ADD COLUMN more int");
    assert_eq!(absent.code(), &SqlState::UNDEFINED_TABLE);
    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
}

/// The trigger is the first that pg_repack does to a table. Without what the ledger writes past it, the copy that takes
/// the table's place would lack entries.
#[test]
fn pg_repack_can_process_tracked_tables_and_none_of_the_ledger() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE SCHEMA repack;
             CREATE FUNCTION repack.repack_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TABLE people (id int PRIMARY KEY); SELECT ledger.track('people')",
        )
        .unwrap();
    let trigger = |table: &str| {
        format!(
            "CREATE TRIGGER repack_trigger AFTER INSERT OR DELETE OR UPDATE ON {table}
             FOR EACH ROW EXECUTE PROCEDURE repack.repack_trigger('INSERT INTO repack.log_1', 'id')"
        )
    };
    let tables = "SELECT oid::regclass::text FROM pg_class
                  WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r' AND relname <> 'import'";
    for table in column(&mut client, tables) {
        let refused = error(&mut client, &trigger(&table));
        assert_eq!(refused.code(), &SqlState::FEATURE_NOT_SUPPORTED, "{table}: {refused:?}");
        assert_eq!(refused.message(), format!("pg_repack cannot process table \"{table}\""));
        assert!(refused.hint().unwrap().contains("--exclude-extension=pg_notary"), "{refused:?}");
    }
    client.batch_execute(&trigger("people")).unwrap();
    client.batch_execute("INSERT INTO people VALUES (1)").unwrap();
    assert_intact(&mut client);
}

#[test]
fn what_administrators_do_to_the_ledgers_tables_still_works() {
    let (cluster, mut client) = start(Options::new());
    let location = cluster.scratch_dir().join("elsewhere");
    crate::common::succeed(as_server("mkdir").arg(&location));
    client.batch_execute(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", location.display())).unwrap();
    client.batch_execute("CREATE ROLE keeper SUPERUSER").unwrap();
    record(&mut client);
    seal(&mut client);
    let bounds = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = 'ledger.entries_sealed_1'::regclass";
    let bounds = value(&mut client, bounds);
    for sql in ALLOWED {
        client.batch_execute(&sql.replace("BOUNDS", &bounds)).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        record(&mut client);
    }
    seal(&mut client);
    assert_intact(&mut client);
}

/// With a condition that each of them answers.
const INDEXES: [(&str, &str); 6] = [
    ("CREATE INDEX added ON ledger.entries_pending (entry_type)", "entry_type = 'note'"),
    ("CREATE INDEX CONCURRENTLY added ON ledger.entries_pending (data_hash, created_at)", "data_hash > ''"),
    ("CREATE INDEX added ON ledger.entries_pending USING hash (entry_type)", "entry_type = 'note'"),
    ("CREATE INDEX added ON ledger.entries_pending USING gin (metadata)", "metadata @> '{\"n\": 1}'"),
    ("CREATE INDEX added ON ledger.entries_pending USING brin (created_at)", "created_at > '2000-01-01'"),
    ("REINDEX INDEX CONCURRENTLY ledger.entries_pending_pkey", "id > '00000000-0000-0000-0000-000000000000'"),
];

/// What the indexes find, and what is there.
fn assert_all_indexed(client: &mut Client, condition: &str) {
    let sql = format!("SELECT count(*) FROM ledger.entries_pending WHERE {condition}");
    client.batch_execute("SET enable_seqscan = off").unwrap();
    let indexed = number(client, &sql);
    client.batch_execute("RESET enable_seqscan; SET enable_indexscan = off; SET enable_bitmapscan = off").unwrap();
    client.batch_execute("SET enable_indexonlyscan = off").unwrap();
    assert_eq!(indexed, number(client, &sql), "{condition}");
    assert_eq!(indexed, number(client, "SELECT count(*) FROM ledger.entries_pending"), "{condition}");
    client.batch_execute("RESET enable_indexscan; RESET enable_bitmapscan; RESET enable_indexonlyscan").unwrap();
}

#[test]
fn an_index_that_comes_while_a_session_records_finds_what_it_records() {
    let (cluster, mut client) = start(Options::new());
    let mut session = cluster.connect("postgres");
    let mut record_one = |sql: &str| session.batch_execute(sql).unwrap();
    let note = "SELECT ledger.hash_and_record('note', '{}', '{\"n\": 1}')";
    for (sql, condition) in INDEXES {
        record_one(note);
        client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        record_one(note);
        assert_all_indexed(&mut client, condition);
        client.batch_execute("DROP INDEX IF EXISTS ledger.added").unwrap();
    }
    // One's own, in a transaction that comes to nothing.
    record_one(&format!("BEGIN; {note}; {}; {note}; ROLLBACK", INDEXES[0].0));
    record_one(note);
    assert_all_indexed(&mut client, INDEXES[5].1);
    record_one(&format!("BEGIN; {note}; SAVEPOINT s; {}; {note}; ROLLBACK TO s; {note}; COMMIT", INDEXES[2].0));
    record_one(&format!("BEGIN; {note}; {}; {note}; COMMIT", INDEXES[0].0));
    record_one(note);
    assert_all_indexed(&mut client, INDEXES[0].1);
    assert_all_indexed(&mut client, INDEXES[5].1);
    seal(&mut client);
    assert_intact(&mut client);
}

/// On expressions, and on some of the rows: such as an application makes for what it looks for in metadata.
#[test]
fn indexes_of_any_kind_have_what_is_recorded_and_sealed() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    let record = "SELECT count(ledger.hash_and_record('Note', to_jsonb(n), jsonb_build_object('n', n, 'text', \
                  (SELECT string_agg(md5((n * i)::text), '') FROM generate_series(1, CASE WHEN n % 9 = 0 THEN 400 ELSE 1 END) i)))) \
                  FROM generate_series(1, 100) n";
    for sql in [
        record,
        "CREATE INDEX ON ledger.entries (lower(entry_type))",
        "CREATE INDEX ON ledger.entries ((metadata->>'n')) WHERE entry_type = 'Note'",
        "CREATE INDEX ON ledger.blocks ((block_number % 10))",
        record,
        "SELECT * FROM ledger.commit_block()",
        record,
    ] {
        client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    client.batch_execute("SET enable_seqscan = off").unwrap();
    for (condition, found) in [
        ("lower(entry_type) = 'note'", 300),
        ("entry_type = 'Note' AND metadata->>'n' = '9'", 3),
        ("entry_type = 'Note' AND metadata->>'n' = '10'", 3),
    ] {
        let sql = format!("SELECT count(*) FROM ledger.entries WHERE {condition}");
        let plan = column(&mut client, &format!("EXPLAIN {sql}")).join("\n");
        assert!(plan.contains("Index Scan"), "{plan}");
        assert_eq!(number(&mut client, &sql), found, "{condition}");
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.blocks WHERE block_number % 10 = 1"), 1);
    seal(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_constraint_that_can_be_deferred_holds_at_once() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    let constraint =
        "ALTER TABLE ledger.entries_pending ADD CONSTRAINT once UNIQUE (data_hash) DEFERRABLE INITIALLY DEFERRED";
    client.batch_execute(constraint).unwrap();
    let note = "SELECT ledger.hash_and_record('note', '{\"n\": 1}')";
    client.batch_execute(note).unwrap();
    let refused = error(&mut client, note);
    assert_eq!(refused.message(), "a new row violates deferrable constraint \"once\"");
    client.batch_execute("ALTER TABLE ledger.entries_pending DROP CONSTRAINT once").unwrap();
    client.batch_execute(note).unwrap();
    seal(&mut client);
    assert_intact(&mut client);
}

/// In tables whose rows are changed as well.
#[test]
fn indexes_of_any_kind_have_what_the_ledger_notes_of_itself() {
    let options = Options::new().conf("ledger.block_size = 500").conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(options);
    for sql in [
        "CREATE INDEX ON ledger.log_state ((mirror_block % 10))",
        "CREATE INDEX ON ledger.log_state (upper(ledger_id::text)) WHERE abs(mirror_bytes) > 0",
        "CREATE INDEX ON ledger.log_state USING brin (mirror_bytes)",
        "CREATE INDEX ON ledger.log_state USING gin (version_runs)",
        "CREATE INDEX ON ledger.baselines ((next_page + 1)) WHERE lower(table_id) <> ''",
        "CREATE TABLE large (id int PRIMARY KEY, note text)",
        "INSERT INTO large SELECT n, repeat('x', 900) FROM generate_series(1, 5000) n",
        "SELECT ledger.track('large')",
    ] {
        client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    wait_until_tracked(&mut client, "large");
    for _ in 0..12 {
        record(&mut client);
        seal(&mut client);
    }
    let head = number(&mut client, "SELECT max(block_number) FROM ledger.blocks");
    wait_for(&mut client, &format!("(SELECT mirror_block = {head} FROM ledger.log_state)"));
    let run = number(&mut client, "SELECT max(run) FROM ledger.row_versions");
    client.batch_execute("SET enable_seqscan = off").unwrap();
    for condition in [
        format!("mirror_block % 10 = {}", head % 10),
        "upper(ledger_id::text) > '' AND abs(mirror_bytes) > 0".to_owned(),
        "mirror_bytes > 1000".to_owned(),
        format!("version_runs @> ARRAY[{run}]::bigint[]"),
    ] {
        let sql = format!("SELECT count(*) FROM ledger.log_state WHERE {condition}");
        let plan = column(&mut client, &format!("EXPLAIN {sql}")).join("\n");
        assert!(plan.contains("Index Scan"), "{plan}");
        assert_eq!(number(&mut client, &sql), 1, "{condition}");
    }
    assert!(!cluster.log().contains("was terminated by signal"));
    assert_intact(&mut client);
}

/// A table of the ledger may have been given to another role, as REASSIGN OWNED does. What that role's indexes run has
/// the role's rights, and not those of the worker or of a superuser who records.
#[test]
fn an_index_of_a_tables_owner_is_evaluated_with_the_owners_rights() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    client
        .batch_execute(
            "CREATE ROLE boss SUPERUSER; CREATE ROLE team LOGIN; CREATE SCHEMA work AUTHORIZATION team;
             GRANT USAGE, CREATE ON SCHEMA ledger TO team",
        )
        .unwrap();
    for table in ["blocks", "entries_pending", "entries_sealed", "entries_sealed_1", "log_state"] {
        client.batch_execute(&format!("ALTER TABLE ledger.{table} OWNER TO boss")).unwrap();
    }
    client.batch_execute("REASSIGN OWNED BY boss TO team").unwrap();
    let mut team = cluster.connect_as("team", "postgres");
    // A function that the planner does not find to be other than it says.
    team.batch_execute(
        "CREATE TABLE work.seen (name text, place text);
         CREATE FUNCTION work.note(place text) RETURNS void LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO work.seen VALUES (current_user, place); END $$;
         CREATE FUNCTION work.noted(value text, place text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
             $$ BEGIN PERFORM work.note(place); RETURN value; END $$;
         CREATE INDEX ON ledger.blocks (work.noted(block_hash, 'blocks'));
         CREATE INDEX ON ledger.entries_pending (work.noted(data_hash, 'entries_pending'));
         CREATE INDEX ON ledger.entries_sealed_1 (work.noted(data_hash, 'entries_sealed_1'));
         CREATE INDEX ON ledger.log_state (work.noted(mirror_block::text, 'log_state'))",
    )
    .unwrap();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT ledger.track('t'); INSERT INTO t VALUES (1)")
        .unwrap();
    record_many(&mut client, 200);
    wait_for(&mut client, "(SELECT last_block = 2 FROM ledger.mirror_status)");
    wait_for(&mut client, "(SELECT mirror_block = 2 FROM ledger.log_state)");
    seal(&mut client);
    let places = column(&mut client, "SELECT DISTINCT place FROM work.seen ORDER BY 1");
    assert_eq!(places, ["blocks", "entries_pending", "entries_sealed_1", "log_state"]);
    assert_eq!(column(&mut client, "SELECT DISTINCT name FROM work.seen"), ["team"]);
    assert_intact(&mut client);
}

/// The command locks the extension until its transaction ends, which may be a prepared one, and so would hold up
/// sealing and the worker's start.
#[test]
fn only_the_owner_of_the_extension_can_make_an_object_depend_on_it() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app").unwrap();
    let depend = "ALTER FUNCTION f() DEPENDS ON EXTENSION";
    let mut app = cluster.connect_as("app", "postgres");
    app.batch_execute("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; BEGIN; SAVEPOINT s").unwrap();
    let refused = error(&mut app, &format!("{depend} pg_notary"));
    assert_eq!(*refused.code(), SqlState::INSUFFICIENT_PRIVILEGE, "{refused:?}");
    app.batch_execute("ROLLBACK TO s").unwrap();
    record(&mut client);
    seal(&mut client);
    app.batch_execute(&format!("{depend} plpgsql; COMMIT")).unwrap();
    let missing = error(&mut app, &format!("{depend} nowhere"));
    assert_eq!(*missing.code(), SqlState::UNDEFINED_OBJECT);
    client.batch_execute(&format!("{depend} pg_notary")).unwrap();
}

/// Statements that a role may prepare without any right, and with them hold locks that are in the way of the commands
/// below.
const IN_THE_WAY: &str =
    "BEGIN; PREPARE read AS SELECT 1 FROM ledger.entries_pending, ledger.entries_sealed, ledger.chain_stats; \
                          PREPARE change AS DELETE FROM ledger.entries_pending";

/// With what Postgres itself says, once it has waited for its lock.
const LOCKING: [(&str, &str); 13] = [
    ("CREATE RULE r AS ON INSERT TO ledger.entries_pending DO ALSO NOTHING", "must be owner of table entries_pending"),
    ("CREATE RULE r AS ON DELETE TO ledger.chain_stats DO INSTEAD NOTHING", "must be owner of view chain_stats"),
    (
        "CREATE TRIGGER t BEFORE INSERT ON ledger.entries_pending FOR EACH STATEMENT EXECUTE FUNCTION f()",
        "permission denied for table entries_pending",
    ),
    (
        "CREATE TABLE part PARTITION OF ledger.entries_sealed FOR VALUES FROM (900000000) TO (MAXVALUE)",
        "must be owner of table entries_sealed",
    ),
    (
        "ALTER TABLE parted ATTACH PARTITION ledger.entries_pending FOR VALUES FROM (1) TO (2)",
        "must be owner of table entries_pending",
    ),
    ("ALTER TABLE parted DETACH PARTITION ledger.entries_pending", "must be owner of table entries_pending"),
    ("ALTER TABLE parted DETACH PARTITION ledger.entries_pending FINALIZE", "must be owner of table entries_pending"),
    (
        "ALTER INDEX parted_n ATTACH PARTITION ledger.entries_pending_pkey",
        "must be owner of index entries_pending_pkey",
    ),
    (
        "ALTER TABLE plain ADD FOREIGN KEY (id) REFERENCES ledger.entries_pending",
        "permission denied for table entries_pending",
    ),
    (
        "ALTER TABLE plain ADD COLUMN entry uuid REFERENCES ledger.entries_pending",
        "permission denied for table entries_pending",
    ),
    ("CREATE TABLE more (id uuid REFERENCES ledger.entries_pending)", "permission denied for table entries_pending"),
    (
        "ALTER MATERIALIZED VIEW ledger.entries_pending DEPENDS ON EXTENSION plpgsql",
        "must be owner of table entries_pending",
    ),
    (
        "DO $$ BEGIN EXECUTE 'CREATE RULE r AS ON UPDATE TO ledger.entries_pending DO ALSO NOTHING'; END $$",
        "must be owner of table entries_pending",
    ),
];

/// A role `app` with tables of its own in its own schema.
fn connect_app(cluster: &Cluster, client: &mut Client) -> Client {
    client.batch_execute("CREATE ROLE app LOGIN; CREATE SCHEMA app AUTHORIZATION app").unwrap();
    let mut app = cluster.connect_as("app", "postgres");
    app.batch_execute(
        "CREATE TABLE plain (id uuid); CREATE TABLE parted (n int) PARTITION BY RANGE (n);
         CREATE INDEX parted_n ON parted (n);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    )
    .unwrap();
    app
}

/// It would wait for whoever has locked the table, as any role can, and all who record for it.
#[test]
fn whoever_may_not_change_a_table_of_the_ledger_does_not_wait_to_lock_it() {
    let (cluster, mut client) = start(Options::new());
    let mut app = connect_app(&cluster, &mut client);
    app.batch_execute("SET lock_timeout = '10s'").unwrap();
    let mut other = cluster.connect_as("app", "postgres");
    other.batch_execute(IN_THE_WAY).unwrap();
    for (sql, message) in LOCKING {
        let refused = error(&mut app, sql);
        assert_eq!(*refused.code(), SqlState::INSUFFICIENT_PRIVILEGE, "{sql}: {refused:?}");
        assert_eq!(refused.message(), message, "{sql}");
        assert!(refused.detail().is_some() && refused.hint().is_some(), "{sql}");
    }
    for table in ["entries", "entries_sealed"] {
        let refused = error(&mut app, &format!("VACUUM (VERBOSE, FULL) ledger.{table}"));
        assert_eq!(*refused.code(), SqlState::INSUFFICIENT_PRIVILEGE, "{table}: {refused:?}");
    }
    // These lock nobody out, or look at the rights first.
    for sql in ["VACUUM ledger.entries", "VACUUM (FULL, FULL off) ledger.entries", "VACUUM FULL plain, ledger.blocks"] {
        app.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
    drop(other);
    client.batch_execute("VACUUM FULL ledger.entries").unwrap();
    assert_intact(&mut client);
}

#[test]
fn a_partition_that_an_administrator_has_attached_is_not_unlogged() {
    let (_cluster, mut client, _) = ledger();
    client.batch_execute(&format!("{TAKE}{}", ARRANGEMENTS[0].1)).unwrap();
    for sql in ["ALTER TABLE taken SET UNLOGGED", "ALTER TABLE taken DROP COLUMN IF EXISTS nope, SET UNLOGGED"] {
        assert_eq!(error(&mut client, sql).message(), "cannot make table \"public.taken\" unlogged", "{sql}");
    }
    client
        .batch_execute("ALTER TABLE ledger.entries_sealed DETACH PARTITION taken; ALTER TABLE taken SET UNLOGGED")
        .unwrap();
    // A session may mean something else by a name of the catalogs, or by an operator.
    client
        .batch_execute(
            "CREATE SCHEMA mine; CREATE VIEW mine.pg_class AS SELECT * FROM pg_class LIMIT 0;
             CREATE FUNCTION mine.never(oid, oid) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT false';
             CREATE OPERATOR mine.= (FUNCTION = mine.never, LEFTARG = oid, RIGHTARG = oid)",
        )
        .unwrap();
    for search_path in ["mine, pg_catalog, public", "DEFAULT"] {
        client.batch_execute(&format!("SET search_path TO {search_path}")).unwrap();
        let refused = error(&mut client, ARRANGEMENTS[0].1);
        assert_eq!(
            refused.message(),
            "cannot attach unlogged table \"public.taken\" as a partition of \"ledger.entries_sealed\""
        );
    }
    client.batch_execute(&format!("ALTER TABLE taken SET LOGGED; {}", ARRANGEMENTS[0].1)).unwrap();
    client
        .batch_execute(
            "CREATE TABLE more (LIKE ledger.entries) PARTITION BY HASH (id);
             CREATE UNLOGGED TABLE part PARTITION OF more FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        )
        .unwrap();
    let attach = "ALTER TABLE ledger.entries_sealed ATTACH PARTITION more FOR VALUES FROM (900000000) TO (MAXVALUE)";
    let refused = error(&mut client, attach);
    assert!(refused.message().starts_with("cannot attach unlogged table \"public.part\""), "{refused:?}");
    client.batch_execute("DROP TABLE more").unwrap();
    let created =
        "CREATE UNLOGGED TABLE more PARTITION OF ledger.entries_sealed FOR VALUES FROM (900000000) TO (MAXVALUE)";
    let refused = error(&mut client, created);
    assert_eq!(refused.message(), "cannot create unlogged table \"more\" as a partition of \"ledger.entries_sealed\"");
    assert_intact(&mut client);
}

/// Each is rolled back.
#[test]
fn whoever_has_been_granted_the_right_may_lock_a_table_of_the_ledger() {
    let (cluster, mut client) = start(Options::new());
    let mut app = connect_app(&cluster, &mut client);
    record(&mut client);
    seal(&mut client);
    let granted = [
        (
            "GRANT TRIGGER ON ledger.entries_pending TO app",
            "CREATE TRIGGER t BEFORE INSERT ON ledger.entries_pending FOR EACH STATEMENT EXECUTE FUNCTION f()",
        ),
        (
            "GRANT REFERENCES (id) ON ledger.entries_pending TO app",
            "CREATE TABLE more (id uuid REFERENCES ledger.entries_pending (id))",
        ),
        (
            "GRANT REFERENCES ON ledger.entries_pending TO app",
            "ALTER TABLE plain ADD COLUMN entry uuid REFERENCES ledger.entries_pending",
        ),
        (
            "ALTER TABLE ledger.entries_sealed OWNER TO app",
            "ALTER TABLE ledger.entries_sealed DETACH PARTITION ledger.entries_sealed_1",
        ),
    ];
    for (grant, sql) in granted {
        client.batch_execute(grant).unwrap();
        app.batch_execute(&format!("BEGIN; {sql}; ROLLBACK")).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    client.batch_execute("ALTER TABLE ledger.entries_sealed OWNER TO CURRENT_USER").unwrap();
    record(&mut client);
    seal(&mut client);
    assert_intact(&mut client);
}

/// It would wait for whoever looks at the extension or its schema in an open transaction, as any role can, and all who
/// seal for it.
#[test]
fn whoever_does_not_own_the_extension_does_not_wait_to_drop_it_or_its_schema() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE ROLE app LOGIN").unwrap();
    let mut other = cluster.connect_as("app", "postgres");
    other
        .batch_execute(
            "BEGIN; SELECT * FROM pg_get_object_address('extension', '{pg_notary}', '{}');
             SELECT * FROM pg_get_object_address('schema', '{ledger}', '{}')",
        )
        .unwrap();
    let mut app = cluster.connect_as("app", "postgres");
    app.batch_execute("SET lock_timeout = '10s'").unwrap();
    for (drop, what) in [
        ("DROP EXTENSION pg_notary", "extension pg_notary"),
        ("DROP EXTENSION IF EXISTS nowhere, pg_notary CASCADE", "extension pg_notary"),
        ("DROP SCHEMA IF EXISTS nowhere, ledger CASCADE", "schema ledger"),
    ] {
        let refused = error(&mut app, drop);
        assert_eq!(*refused.code(), SqlState::INSUFFICIENT_PRIVILEGE, "{refused:?}");
        assert_eq!(refused.message(), format!("must be owner of {what}"));
    }
    record(&mut client);
    seal(&mut client);
    other.batch_execute("COMMIT").unwrap();
    client.batch_execute("DROP EXTENSION pg_notary").unwrap();
}
