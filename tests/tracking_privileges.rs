//! Verification of a tracked table tells nobody what he may not see, and gives nobody what he may not do.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::Options;
use postgres::error::SqlState;

/// The caller need not be able to read the ledger, nor see it by row security.
#[test]
fn who_may_read_a_table_may_verify_it() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE ROLE app LOGIN; CREATE ROLE stranger LOGIN; CREATE ROLE auditor LOGIN; GRANT ledger_auditor TO auditor;
             GRANT USAGE ON SCHEMA ledger TO app, stranger;
             CREATE TABLE accounts (id int PRIMARY KEY, amount int); GRANT SELECT, INSERT, UPDATE, DELETE ON accounts TO app;
             SELECT ledger.track('accounts')",
        )
        .unwrap();
    let mut app = cluster.connect_as("app", "postgres");
    app.batch_execute("INSERT INTO accounts VALUES (1, 1), (2, 2); UPDATE accounts SET amount = 3 WHERE id = 1")
        .unwrap();
    let row = "SELECT ledger.verify_row('accounts', '{\"id\": 1}')->>'verified'";
    let mut auditor = cluster.connect_as("auditor", "postgres");
    assert!(problems(&mut app, "accounts").is_empty());
    assert!(problems(&mut auditor, "accounts").is_empty());
    for reader in [&mut app, &mut auditor] {
        assert_eq!(value(reader, row), "true");
    }
    // Though the auditor may not read the table.
    let rows = error(&mut auditor, "SELECT * FROM accounts");
    assert_eq!(*rows.code(), SqlState::INSUFFICIENT_PRIVILEGE);
    assert_eq!(value(&mut app, "SELECT (ledger.verified(a)).amount FROM accounts a WHERE id = 1"), "3");
    let mut stranger = cluster.connect_as("stranger", "postgres");
    for refused in [
        "SELECT * FROM ledger.verify_table('accounts')",
        row,
        "SELECT * FROM ledger.history('accounts', '{\"id\": 1}')",
    ] {
        assert_eq!(*error(&mut stranger, refused).code(), SqlState::INSUFFICIENT_PRIVILEGE, "{refused}");
    }
}

/// The administrator has renamed the ledger's roles, and a role that may create others takes their names.
#[test]
fn who_makes_a_role_of_a_name_that_the_ledger_knows_gains_nothing() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE ROLE maker LOGIN CREATEROLE; CREATE TABLE payroll (id int PRIMARY KEY, amount int);
             CREATE TABLE other (id int PRIMARY KEY); SELECT ledger.track('payroll', keep_image => true);
             INSERT INTO payroll VALUES (1, 1000); CREATE ROLE admin LOGIN IN ROLE ledger_admin",
        )
        .unwrap();
    let uses = [
        "SELECT ledger.track('other')",
        "SELECT * FROM ledger.history('payroll', '{\"id\": 1}')",
        "SELECT * FROM ledger.verify_table('payroll')",
    ];
    let mut admin = cluster.connect_as("admin", "postgres");
    for statement in uses {
        admin.batch_execute(statement).unwrap();
    }
    client
        .batch_execute("ALTER ROLE ledger_admin RENAME TO admins; ALTER ROLE ledger_auditor RENAME TO auditors")
        .unwrap();
    let mut maker = cluster.connect_as("maker", "postgres");
    maker
        .batch_execute(
            "CREATE ROLE ledger_admin; CREATE ROLE ledger_auditor; GRANT ledger_admin, ledger_auditor TO maker",
        )
        .unwrap();
    for statement in uses {
        assert_eq!(*error(&mut maker, statement).code(), SqlState::INSUFFICIENT_PRIVILEGE, "{statement}");
    }
}

/// A key is taken apart as the owner, and the row is looked up below the executor: the owner of a table gets no code of
/// his own run with an auditor's or the ledger's privileges.
#[test]
fn the_owner_of_a_table_gains_nothing_when_others_verify_it() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE ROLE mallory LOGIN; CREATE ROLE auditor LOGIN; GRANT ledger_auditor TO auditor;
             GRANT CREATE ON SCHEMA public TO mallory; GRANT USAGE ON SCHEMA ledger TO mallory",
        )
        .unwrap();
    let mut mallory = cluster.connect_as("mallory", "postgres");
    mallory
        .batch_execute(
            "CREATE TABLE seen (who text); GRANT INSERT ON seen TO PUBLIC;
             -- What is said to be immutable may write only by way of a function that is not.
             CREATE FUNCTION note_caller() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
             BEGIN
                 INSERT INTO public.seen VALUES (current_user);
             END $$;
             CREATE FUNCTION spy(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
             BEGIN
                 PERFORM public.note_caller();
                 RETURN true;
             END $$;
             CREATE TABLE trap (id int PRIMARY KEY, v int, CHECK (public.spy(v)));
             SELECT ledger.track('trap');
             INSERT INTO trap VALUES (1, 1);
             CREATE INDEX ON trap (v) WHERE public.spy(v);
             CREATE INDEX ON trap (public.spy(v))",
        )
        .unwrap();
    let mut auditor = cluster.connect_as("auditor", "postgres");
    // The control: the trap works, and for every role.
    assert!(is_true(&mut auditor, "public.spy(1)"));
    assert_eq!(column(&mut client, "SELECT DISTINCT who FROM seen ORDER BY who"), ["auditor", "mallory"]);
    mallory.batch_execute("TRUNCATE seen").unwrap();
    assert_eq!(value(&mut auditor, "SELECT ledger.verify_row('trap', '{\"id\": 1}')->>'verified'"), "true");
    assert!(problems(&mut auditor, "trap").is_empty());
    assert_eq!(column(&mut auditor, "SELECT operation FROM ledger.history('trap', '{\"id\": 1}')"), ["insert"]);
    assert!(all_valid(&mut auditor));
    assert!(column(&mut client, "SELECT who FROM seen").is_empty());
}

/// A type's schema matters to who names the type, not to who has values of it.
#[test]
fn a_row_is_looked_up_though_the_owner_may_not_use_the_schema_of_its_keys_types() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE ROLE app LOGIN; CREATE ROLE auditor LOGIN; GRANT ledger_auditor TO auditor; CREATE SCHEMA apart;
             GRANT USAGE ON SCHEMA ledger TO app;
             CREATE TYPE apart.state AS ENUM ('open', 'closed'); CREATE TYPE apart.pair AS (s apart.state, n int);
             CREATE DOMAIN apart.code AS varchar(4); CREATE TYPE apart.span AS RANGE (subtype = int);
             CREATE TABLE orders (s apart.state, a apart.state[], p apart.pair, c apart.code, r apart.span,
                 PRIMARY KEY (s, a, p, c, r));
             SELECT ledger.track('orders');
             INSERT INTO orders VALUES ('open', '{closed,open}', '(open,1)', 'abcd', '[1,5)');
             ALTER TABLE orders OWNER TO app",
        )
        .unwrap();
    let mut app = cluster.connect_as("app", "postgres");
    // The control: the owner may not name the types, but has the row.
    assert_eq!(*error(&mut app, "SELECT 'open'::apart.state").code(), SqlState::INSUFFICIENT_PRIVILEGE);
    assert_eq!(number(&mut app, "SELECT count(*) FROM orders"), 1);
    let mut auditor = cluster.connect_as("auditor", "postgres");
    let keys = [
        r#"{"s": "open", "a": ["closed", "open"], "p": "(open,1)", "c": "abcd", "r": "[1,5)"}"#,
        r#"{"s": "open", "a": "{closed,open}", "p": {"s": "open", "n": 1}, "c": "abcd", "r": "[1, 5)"}"#,
    ];
    for reader in [&mut client, &mut app, &mut auditor] {
        for key in keys {
            let verdict = json(reader, &format!("SELECT ledger.verify_row('orders', '{key}')"));
            assert_eq!(verdict["verified"], true, "{key}: {verdict}");
            let history = format!("SELECT operation FROM ledger.history('orders', '{key}')");
            assert_eq!(column(reader, &history), ["insert"], "{key}");
        }
    }
}

/// What was recorded of rows that a policy hides is hidden too.
#[test]
fn row_security_is_not_bypassed() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA ledger TO app; CREATE ROLE auditor LOGIN; GRANT ledger_auditor TO auditor;
             CREATE TABLE accounts (id int PRIMARY KEY, owner text); GRANT ALL ON accounts TO app;
             SELECT ledger.track('accounts', keep_image => true);
             ALTER TABLE accounts ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON accounts USING (owner = current_user);
             INSERT INTO accounts VALUES (1, 'app'), (2, 'other')",
        )
        .unwrap();
    let mut app = cluster.connect_as("app", "postgres");
    let history = "SELECT after FROM ledger.history('accounts', '{\"id\": 2}')";
    let row = "SELECT ledger.verify_row('accounts', '{\"id\": 2}')";
    for refused in ["SELECT * FROM ledger.verify_table('accounts')", history, row] {
        assert_eq!(*error(&mut app, refused).code(), SqlState::INSUFFICIENT_PRIVILEGE, "{refused}");
    }
    assert_eq!(value(&mut app, "SELECT (ledger.verified(a)).id FROM accounts a"), "1");
    let mut auditor = cluster.connect_as("auditor", "postgres");
    assert_eq!(column(&mut auditor, history).len(), 1);
    assert_eq!(value(&mut auditor, &format!("{row}->>'verified'")), "true");
    assert!(problems(&mut auditor, "accounts").is_empty());
}

/// What is wrong with a row that somebody has made up tells whether there is one with this key.
#[test]
fn who_may_not_see_a_row_is_not_told_whether_the_ledger_has_it() {
    let (cluster, mut client) = start_with_memories("");
    client
        .batch_execute(
            "CREATE ROLE reader LOGIN; GRANT SELECT ON memories TO reader;
             ALTER TABLE memories ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON memories FOR SELECT USING (id = 2)",
        )
        .unwrap();
    let mut reader = cluster.connect_as("reader", "postgres");
    assert_eq!(value(&mut reader, "SELECT (ledger.verified(m)).id FROM memories AS m"), "2");
    let mut told = |id: i32| {
        let guess = format!("SELECT ledger.verified(ROW({id}, 'agent', 'guess', 0)::memories)");
        let refused = error(&mut reader, &guess);
        (refused.code().clone(), all_text(&refused))
    };
    let none = told(999);
    assert_eq!(told(1), none);
    // All that was sealed is out of reach, and those who may see the row are told so.
    client.batch_execute("ALTER TABLE ledger.entries_sealed DETACH PARTITION ledger.entries_sealed_1").unwrap();
    assert_eq!(told(1), none);
    assert_eq!(told(6), none);
    assert_eq!(told(999), none);
    let refused = error(&mut client, "SELECT ledger.verified(m) FROM memories AS m WHERE id = 1");
    assert!(all_text(&refused).contains("It was sealed in block 1"), "{refused:?}");
    cluster.wait_for_log("an entry about the row is gone from the ledger: It was sealed in block 1");
}

#[test]
fn who_may_not_use_a_tables_schema_is_told_nothing_of_it() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE SCHEMA hidden; CREATE TABLE hidden.kept (id int PRIMARY KEY, note text); CREATE ROLE reader LOGIN;
             SELECT ledger.track('hidden.kept', keep_image => true); INSERT INTO hidden.kept VALUES (1, 'a secret');
             GRANT SELECT ON hidden.kept TO reader; GRANT USAGE ON SCHEMA ledger TO reader",
        )
        .unwrap();
    let oid = number(&mut client, "SELECT 'hidden.kept'::regclass::oid");
    let mut reader = cluster.connect_as("reader", "postgres");
    let ask = [
        format!("SELECT after FROM ledger.history({oid}, '{{\"id\": 1}}')"),
        format!("SELECT ledger.verify_row({oid}, '{{\"id\": 1}}')"),
        format!("SELECT count(*) FROM ledger.verify_table({oid})"),
    ];
    for ask in &ask {
        assert_eq!(*error(&mut reader, ask).code(), SqlState::INSUFFICIENT_PRIVILEGE, "{ask}");
    }
    client.batch_execute("GRANT USAGE ON SCHEMA hidden TO reader").unwrap();
    for ask in &ask {
        reader.simple_query(ask).unwrap_or_else(|error| panic!("{ask}: {error:?}"));
    }
}

/// A value of a partition's row type is one of the whole table, by its key.
#[test]
fn who_may_see_a_partition_only_is_not_told_of_rows_of_others() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE parts (id int PRIMARY KEY, value text) PARTITION BY RANGE (id);
             CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
             CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
             SELECT ledger.track('parts', keep_image => true); INSERT INTO parts VALUES (1, 'one'), (11, 'eleven');
             CREATE ROLE reader LOGIN; GRANT SELECT ON part_1 TO reader",
        )
        .unwrap();
    let mut reader = cluster.connect_as("reader", "postgres");
    assert_eq!(value(&mut reader, "SELECT (ledger.verified(p)).value FROM part_1 AS p"), "one");
    let mut told = |id: i32| {
        let refused = error(&mut reader, &format!("SELECT ledger.verified(ROW({id}, 'guess')::part_1)"));
        (refused.code().clone(), all_text(&refused))
    };
    assert_eq!(told(11), told(12));
}
