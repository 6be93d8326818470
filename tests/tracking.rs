//! Tracked tables under load: whatever writes to them, and whatever happens to the server, every committed change of a
//! row is recorded once, and nothing that was rolled back is.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::random::Random;
use crate::common::tracking::*;
use crate::common::{wait_until, Cluster, Options, Stop};
use postgres::error::SqlState;
use postgres::Client;
use std::thread;

const ACCOUNTS: &str = "CREATE TABLE accounts (id int PRIMARY KEY, amount int NOT NULL, note text)";

fn start_tracked(options: &str) -> (Cluster, Client) {
    let settings = Options::new().conf("ledger.block_size = 50").conf("ledger.block_interval = 1s");
    let (cluster, mut client) = start(settings.conf("deadlock_timeout = 50ms"));
    client.batch_execute(ACCOUNTS).unwrap();
    client.batch_execute(&format!("SELECT ledger.track('accounts'{options})")).unwrap();
    (cluster, client)
}

// ---- many writers -------------------------------------------------------------------------------------------------------

/// One statement of a writer, on one of few keys.
fn statement(random: &mut Random, has_merge: bool) -> String {
    let (key, other, amount) = (random.below(8), random.below(8), random.below(1000));
    let insert = format!("INSERT INTO accounts VALUES ({key}, {amount}, 'inserted')");
    match random.below(if has_merge { 9 } else { 8 }) {
        0 => format!("{insert} ON CONFLICT DO NOTHING"),
        1 | 2 => format!("{insert} ON CONFLICT (id) DO UPDATE SET amount = accounts.amount + 1, note = 'upserted'"),
        3 => format!("UPDATE accounts SET amount = amount + {amount} WHERE id = {key}"),
        4 => format!("UPDATE accounts SET note = 'both' WHERE id IN ({key}, {other})"),
        5 => format!("DELETE FROM accounts WHERE id = {key}"),
        6 => format!("UPDATE accounts SET id = {other} WHERE id = {key}"),
        7 => insert,
        _ => format!(
            "MERGE INTO accounts a USING (VALUES ({key}, {amount})) AS s (id, amount) ON a.id = s.id \
             WHEN MATCHED AND s.amount < 300 THEN DELETE WHEN MATCHED THEN UPDATE SET amount = s.amount \
             WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.amount, 'merged')"
        ),
    }
}

/// A transaction of some statements, with savepoints, in either isolation level, committed or not. Errors end it.
fn transaction(client: &mut Client, random: &mut Random, has_merge: bool) -> Result<(), postgres::Error> {
    let level = random.pick(&["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]);
    client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"))?;
    for _ in 0..=random.below(3) {
        if random.one_in(3) {
            client.batch_execute("SAVEPOINT s")?;
            let done = client.batch_execute(&statement(random, has_merge));
            if done.is_err() || random.one_in(2) {
                client.batch_execute("ROLLBACK TO s")?;
            }
        } else {
            client.batch_execute(&statement(random, has_merge))?;
        }
    }
    client.batch_execute(if random.one_in(5) { "ROLLBACK" } else { "COMMIT" })
}

/// Writes until it has ended that many transactions.
fn write(cluster: &Cluster, mut random: Random, transactions: usize, has_merge: bool) {
    let mut client = cluster.connect("postgres");
    let allowed = [
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::UNIQUE_VIOLATION,
        SqlState::CARDINALITY_VIOLATION,
    ];
    for _ in 0..transactions {
        if let Err(error) = transaction(&mut client, &mut random, has_merge) {
            assert!(error.code().is_some_and(|code| allowed.contains(code)), "{error:?}");
            client.batch_execute("ROLLBACK").unwrap();
        }
    }
}

fn write_with_many(cluster: &Cluster, test: &str, transactions: usize) {
    let mut random = Random::new(test);
    let has_merge = crate::common::pg_major() >= 15;
    thread::scope(|scope| {
        for _ in 0..16 {
            let random = random.split();
            scope.spawn(move || write(cluster, random, transactions, has_merge));
        }
    });
}

#[test]
fn what_many_writers_do_to_few_rows_is_recorded_in_the_order_in_which_it_was_done() {
    let (cluster, mut client) = start_tracked(", keep_image => true");
    write_with_many(&cluster, "what_many_writers_do", 40);
    assert_clean(&mut client, "accounts");
    assert_history_agrees(&mut client, "accounts");
    seal(&mut client);
    assert!(number(&mut client, "SELECT block_count FROM ledger.chain_stats") > 3);
    assert_clean(&mut client, "accounts");
    assert_history_agrees(&mut client, "accounts");
    assert_intact(&mut client);
}

/// The file holds what a table of changes would, made in the same transactions by the application's own trigger.
#[test]
fn every_change_is_recorded_once() {
    let (cluster, mut client) = start_tracked("");
    client
        .batch_execute(
            "CREATE TABLE changes (operation text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO changes VALUES ('table_' || lower(tg_op)); RETURN NULL; END $$;
             CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .unwrap();
    write_with_many(&cluster, "every_change_is_recorded_once", 25);
    let differing = "SELECT count(*) FROM (SELECT operation, count(*) FROM changes GROUP BY 1) AS c \
                     FULL JOIN (SELECT entry_type AS operation, count(*) FROM ledger.entries \
                     WHERE metadata ? 'key' GROUP BY 1) AS e USING (operation, count) \
                     WHERE c.operation IS NULL OR e.operation IS NULL";
    assert_eq!(number(&mut client, differing), 0);
    assert!(number(&mut client, "SELECT count(*) FROM changes") > 100);
    assert_clean(&mut client, "accounts");
}

#[test]
fn a_verification_beside_writers_reports_nothing() {
    let (cluster, mut client) = start_tracked("");
    thread::scope(|scope| {
        let writers = scope.spawn(|| write_with_many(&cluster, "a_verification_beside_writers", 15));
        while !writers.is_finished() {
            let found = details(&mut client, "accounts");
            assert!(found.is_empty(), "{found:#?}");
        }
    });
    assert_clean(&mut client, "accounts");
}

// ---- commands within commands -------------------------------------------------------------------------------------------

/// An application's own trigger, whose name comes before the ledger's, changes the row once more.
#[test]
fn changes_that_the_applications_triggers_make_are_recorded_in_their_order() {
    let (_cluster, mut client) = start_tracked(", keep_image => true");
    client
        .batch_execute(
            "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 UPDATE accounts SET amount = amount - 1 WHERE id = new.id AND amount > 0;
                 UPDATE accounts SET note = 'other' WHERE id = new.id + 1 AND note IS NULL;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER again AFTER INSERT OR UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION again();
             INSERT INTO accounts VALUES (1, 5);
             INSERT INTO accounts SELECT n, 3 FROM generate_series(2, 6) n;
             UPDATE accounts SET amount = 4 WHERE id IN (2, 3);
             BEGIN; UPDATE accounts SET amount = 2; UPDATE accounts SET id = id + 10; DELETE FROM accounts WHERE id = 12;
             INSERT INTO accounts VALUES (12, 9); COMMIT;",
        )
        .unwrap();
    assert_clean(&mut client, "accounts");
    assert_history_agrees(&mut client, "accounts");
    let amounts = "SELECT string_agg(coalesce(after->>'amount', '-'), ' ' ORDER BY version) \
                   FROM ledger.history('accounts', '{\"id\": 1}')";
    assert_eq!(value(&mut client, amounts), "5 4 3 2 1 0 2 1 0 0");
}

/// Triggers write before the row is changed, and wait there for others; and after it, to the same row and before the
/// ledger's.
#[test]
fn what_many_writers_triggers_do_is_recorded_in_the_order_in_which_it_was_done() {
    let (cluster, mut client) = start_tracked(", keep_image => true");
    client
        .batch_execute(
            "CREATE TABLE log (id bigserial PRIMARY KEY, what text);
             CREATE TABLE shared (id int PRIMARY KEY, n int);
             INSERT INTO shared SELECT n, 0 FROM generate_series(0, 2) n;
             SELECT ledger.track('log'), ledger.track('shared');
             CREATE FUNCTION before() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO log (what) VALUES (tg_op);
                 IF random() < 0.3 THEN UPDATE shared SET n = n + 1 WHERE id = floor(random() * 3); END IF;
                 RETURN coalesce(new, old);
             END $$;
             CREATE FUNCTION after() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF random() < 0.5 OR pg_trigger_depth() > 2 THEN RETURN NULL; END IF;
                 IF tg_op = 'INSERT' AND random() < 0.3 THEN
                     DELETE FROM accounts WHERE id = new.id;
                 ELSIF tg_op <> 'DELETE' THEN
                     UPDATE accounts SET amount = amount + 1 WHERE id = new.id;
                 END IF;
                 IF tg_op = 'DELETE' OR tg_op = 'UPDATE' AND new.id <> old.id THEN
                     INSERT INTO accounts VALUES (old.id, 1, 'kept') ON CONFLICT DO NOTHING;
                 END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER a_statement BEFORE INSERT OR UPDATE OR DELETE ON accounts EXECUTE FUNCTION before();
             CREATE TRIGGER a_row BEFORE INSERT OR UPDATE OR DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION before();
             CREATE TRIGGER a_after AFTER INSERT OR UPDATE OR DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION after()",
        )
        .unwrap();
    write_with_many(&cluster, "what_many_writers_triggers_do", 25);
    for table in ["accounts", "log", "shared"] {
        assert_clean(&mut client, table);
    }
    assert_history_agrees(&mut client, "accounts");
}

#[test]
fn a_key_that_a_row_refers_to_in_itself_changes_in_order() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON UPDATE CASCADE ON DELETE CASCADE);
             SELECT ledger.track('tree', keep_image => true);
             INSERT INTO tree VALUES (1, 1), (2, 1), (3, 2), (4, 4);
             UPDATE tree SET id = 10 WHERE id = 1;
             UPDATE tree SET id = 110 WHERE id = 10;
             UPDATE tree SET id = 104 WHERE id = 4",
        )
        .unwrap();
    assert_clean(&mut client, "tree");
    assert_history_agrees(&mut client, "tree");
    client.batch_execute("DELETE FROM tree WHERE id = 110").unwrap();
    assert_eq!(column(&mut client, "SELECT id FROM tree"), ["104"]);
    assert_clean(&mut client, "tree");
}

#[test]
fn changes_that_cascade_into_a_tracked_table_are_recorded() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE agents (id int PRIMARY KEY);
             CREATE TABLE memories (id int PRIMARY KEY, agent int REFERENCES agents ON UPDATE CASCADE ON DELETE CASCADE,
                 friend int REFERENCES agents ON DELETE SET NULL ON UPDATE CASCADE);
             SELECT ledger.track('memories');
             INSERT INTO agents SELECT generate_series(1, 4);
             INSERT INTO memories SELECT n, n, 4 FROM generate_series(1, 3) n;
             UPDATE agents SET id = id + 10;
             DELETE FROM agents WHERE id = 14;
             DELETE FROM agents WHERE id = 11",
        )
        .unwrap();
    assert_eq!(row_entries(&mut client, "memories"), 3 + 6 + 3 + 1);
    assert_clean(&mut client, "memories");
    client.batch_execute("TRUNCATE agents CASCADE").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM memories"), 0);
    assert_clean(&mut client, "memories");
    client.batch_execute("INSERT INTO agents VALUES (1); INSERT INTO memories VALUES (2, 1)").unwrap();
    client.batch_execute("BEGIN; TRUNCATE agents CASCADE; ROLLBACK").unwrap();
    assert_clean(&mut client, "memories");
    assert_eq!(number(&mut client, "SELECT count(*) FROM memories"), 1);
}

#[test]
fn rows_that_are_copied_in_are_recorded() {
    let (cluster, mut client) = start_tracked("");
    cluster.psql("postgres", "COPY (SELECT n, n, NULL FROM generate_series(1, 500) n) TO '/dev/null'");
    client
        .batch_execute(
            "CREATE TABLE source AS SELECT n AS id, n AS amount, 'copied' AS note FROM generate_series(1, 500) n",
        )
        .unwrap();
    let file = cluster.scratch_dir().join("rows");
    client.batch_execute(&format!("COPY source TO '{}'", file.display())).unwrap();
    client.batch_execute(&format!("COPY accounts FROM '{}'", file.display())).unwrap();
    assert_eq!(row_entries(&mut client, "accounts"), 500);
    assert_clean(&mut client, "accounts");
}

// ---- operations ---------------------------------------------------------------------------------------------------------

#[test]
fn prepared_transactions_record_when_they_are_committed() {
    let (cluster, mut client) = start_tracked("");
    client.batch_execute("INSERT INTO accounts VALUES (1, 1), (2, 2), (3, 3)").unwrap();
    client
        .batch_execute(
            "BEGIN; UPDATE accounts SET amount = 10 WHERE id = 1; DELETE FROM accounts WHERE id = 2; \
                          PREPARE TRANSACTION 'kept'",
        )
        .unwrap();
    client
        .batch_execute(
            "BEGIN; UPDATE accounts SET amount = 30 WHERE id = 3; INSERT INTO accounts VALUES (4, 4); \
                          PREPARE TRANSACTION 'dropped'",
        )
        .unwrap();
    assert!(details(&mut client, "accounts").is_empty());
    drop(client);
    cluster.restart(Stop::Immediate);
    let mut client = cluster.connect("postgres");
    client.batch_execute("COMMIT PREPARED 'kept'").unwrap();
    client.batch_execute("ROLLBACK PREPARED 'dropped'").unwrap();
    client.batch_execute("UPDATE accounts SET amount = 11 WHERE id = 1").unwrap();
    assert_clean(&mut client, "accounts");
    seal(&mut client);
    assert_clean(&mut client, "accounts");
    assert_eq!(row_entries(&mut client, "accounts"), 6);
}

/// The triggers are restored and nothing is recorded at restore: the rows are there, and the new ledger has no entry.
#[test]
fn a_dump_restores_the_tracking_and_not_the_ledger() {
    let (cluster, mut client) = start_tracked("");
    client.batch_execute("INSERT INTO accounts SELECT n, n, 'x' FROM generate_series(1, 3) n").unwrap();
    client.batch_execute("SELECT ledger.create_item('tool', 'dumped', '1.0.0', E'call()\\n', 'dumped.py')").unwrap();
    client.batch_execute("CREATE DATABASE other").unwrap();
    let dump = cluster.scratch_dir().join("dump");
    cluster.run("pg_dump", &["-Fc", "-f", dump.to_str().unwrap(), "postgres"]);
    cluster.run("pg_restore", &["-d", "other", "--exit-on-error", dump.to_str().unwrap()]);
    let mut other = cluster.connect("other");
    assert_eq!(value(&mut other, "SELECT state FROM ledger.tracked_tables"), "tracked");
    for table in ["entries", "items"] {
        assert_eq!(number(&mut other, &format!("SELECT count(*) FROM ledger.{table}")), 0, "{table}");
    }
    assert_eq!(
        problems(&mut other, "accounts"),
        ["{\"id\": 1} unrecorded", "{\"id\": 2} unrecorded", "{\"id\": 3} unrecorded"]
    );
    // The way on: a table that is tracked anew has its rows recorded.
    other.batch_execute("SELECT ledger.untrack('accounts')").unwrap();
    other.batch_execute("SELECT ledger.track('accounts')").unwrap();
    assert_clean(&mut other, "accounts");
    assert_clean(&mut client, "accounts");
}

#[test]
fn a_standby_verifies_tracked_tables() {
    let (primary, mut client) = start_tracked("");
    client.batch_execute("INSERT INTO accounts SELECT n, n, 'x' FROM generate_series(1, 5) n").unwrap();
    seal(&mut client);
    let elsewhere = primary.scratch_dir().join("elsewhere");
    crate::common::make_directory(&elsewhere);
    let directory = format!("ledger.mirror_directory = '{}'", elsewhere.display());
    let standby = Options::new().conf(&directory).standby_of(&primary);
    let mut reader = standby.connect("postgres");
    client.batch_execute("UPDATE accounts SET amount = 0 WHERE id = 1").unwrap();
    catch_up(&mut client, &mut reader);
    assert_clean(&mut reader, "accounts");
    assert_eq!(value(&mut reader, "SELECT ledger.verify_row('accounts', '{\"id\": 1}')->>'verified'"), "true");
    assert_eq!(
        column(&mut reader, "SELECT operation FROM ledger.history('accounts', '{\"id\": 1}')"),
        ["insert", "update"]
    );
    assert_eq!(value(&mut reader, "SELECT (ledger.verified(a)).amount FROM accounts a WHERE id = 1"), "0");
    client.batch_execute(&format!("{APPLICATION_TRIGGERS_OFF}; DELETE FROM accounts WHERE id = 3")).unwrap();
    catch_up(&mut client, &mut reader);
    assert_eq!(problems(&mut reader, "accounts"), ["{\"id\": 3} missing"]);
    let refused = error(&mut reader, "SELECT ledger.track('accounts')");
    assert_eq!(*refused.code(), SqlState::READ_ONLY_SQL_TRANSACTION);
}

#[test]
fn a_running_verification_of_a_table_shows_its_progress_and_can_be_cancelled() {
    let (cluster, mut client) = start_tracked(", with_signature => false");
    client.batch_execute("INSERT INTO accounts SELECT n, n, 'x' FROM generate_series(1, 6000) n").unwrap();
    let mut verifying = cluster.connect("postgres");
    let pid = number(&mut verifying, "SELECT pg_backend_pid()");
    let verification = thread::spawn(move || loop {
        if let Err(error) = verifying.simple_query("SELECT * FROM ledger.verify_table('accounts')") {
            return error.code().cloned();
        }
    });
    let mine = format!("SELECT count(*) FROM ledger.progress WHERE pid = {pid}");
    for phase in ["reading entries about rows", "reading rows"] {
        wait_until(phase, PATIENCE, || number(&mut client, &format!("{mine} AND phase = '{phase}'")) == 1);
    }
    wait_until("the cancelled verification ends", PATIENCE, || {
        number(&mut client, &format!("SELECT count(pg_cancel_backend({pid}))"));
        verification.is_finished()
    });
    assert_eq!(verification.join().unwrap(), Some(SqlState::QUERY_CANCELED));
    assert_eq!(number(&mut client, &mine), 0);
}
