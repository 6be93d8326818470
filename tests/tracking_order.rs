//! Entries about a row are in the order in which it was changed: where a command brings about others, and where another
//! transaction changes the row while one waits for it.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{Cluster, Options};
use postgres::Client;
use std::thread;

/// The table `accounts` is tracked, and so is `log`, to which whoever writes to `accounts` writes first.
fn start_logged(trigger: &str) -> (Cluster, Client) {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE accounts (id int PRIMARY KEY, amount int NOT NULL);
             CREATE TABLE log (id bigserial PRIMARY KEY, what text);
             SELECT ledger.track('accounts', keep_image => true), ledger.track('log');
             INSERT INTO accounts SELECT n, 0 FROM generate_series(1, 5) n;
             CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO log (what) VALUES (tg_op); RETURN coalesce(new, old); END $$",
        )
        .unwrap();
    client.batch_execute(&format!("CREATE TRIGGER log BEFORE {trigger} EXECUTE FUNCTION log()")).unwrap();
    (cluster, client)
}

/// One transaction has begun a statement, and waits for a row; `between` is done to it by the transaction that it waits
/// for.
fn interleave(cluster: &Cluster, before: &str, waits: &'static str, between: &str) {
    let mut client = cluster.connect("postgres");
    client.batch_execute(&format!("BEGIN; {before}")).unwrap();
    let mut waiting = cluster.connect("postgres");
    let pid = number(&mut waiting, "SELECT pg_backend_pid()");
    let waiting = thread::spawn(move || waiting.batch_execute(waits));
    let mut watching = cluster.connect("postgres");
    wait_for(&mut watching, &format!("(SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid})"));
    client.batch_execute(&format!("{between}; COMMIT")).unwrap();
    in_time("the statement", || waiting.join().unwrap()).unwrap();
}

#[test]
fn what_a_command_does_first_to_another_table_does_not_date_back_what_it_waits_for() {
    let lock = "SELECT FROM accounts WHERE id = 3 FOR UPDATE";
    let change = "UPDATE accounts SET amount = 7 WHERE id = 3";
    for trigger in ["INSERT OR UPDATE OR DELETE ON accounts", "INSERT OR UPDATE OR DELETE ON accounts FOR EACH ROW"] {
        let (cluster, mut client) = start_logged(trigger);
        interleave(&cluster, lock, "UPDATE accounts SET amount = amount + 1 WHERE id IN (1, 2, 3)", change);
        assert_clean(&mut client, "accounts");
        assert_history_agrees(&mut client, "accounts");
        interleave(&cluster, lock, "UPDATE accounts SET id = id + 10 WHERE id IN (1, 3)", change);
        assert_clean(&mut client, "accounts");
        interleave(
            &cluster,
            "SELECT FROM accounts WHERE id = 4 FOR UPDATE",
            "DELETE FROM accounts",
            "UPDATE accounts SET amount = 9 WHERE id = 4",
        );
        assert_clean(&mut client, "accounts");
        interleave(
            &cluster,
            "INSERT INTO accounts VALUES (1, 1)",
            "INSERT INTO accounts VALUES (1, 2)",
            "DELETE FROM accounts WHERE id = 1",
        );
        assert_clean(&mut client, "accounts");
        assert_history_agrees(&mut client, "accounts");
    }
}

#[test]
fn a_function_that_writes_to_another_table_does_not_date_back_the_command_that_calls_it() {
    let (cluster, mut client) = start_logged("TRUNCATE ON accounts");
    client
        .batch_execute(
            "CREATE FUNCTION logged(amount int) RETURNS int LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO log (what) VALUES ('called'); RETURN amount; END $$",
        )
        .unwrap();
    interleave(
        &cluster,
        "SELECT FROM accounts WHERE id = 5 FOR UPDATE",
        "UPDATE accounts SET amount = logged(amount + 1)",
        "UPDATE accounts SET amount = 7 WHERE id = 5",
    );
    assert_clean(&mut client, "accounts");
    assert_history_agrees(&mut client, "accounts");
}

#[test]
fn a_row_that_a_trigger_puts_back_comes_after_the_one_that_went() {
    let (cluster, mut client) = start_logged("INSERT OR UPDATE OR DELETE ON accounts");
    client
        .batch_execute(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 INSERT INTO accounts VALUES (old.id, old.amount - 1);
                 IF old.amount % 2 = 0 THEN DELETE FROM accounts WHERE id = old.id; END IF;
                 RETURN NULL;
             END $$;
             UPDATE accounts SET amount = 10 + id;
             CREATE TRIGGER keep AFTER DELETE ON accounts FOR EACH ROW WHEN (old.amount > 10) EXECUTE FUNCTION keep();
             CREATE TRIGGER keep_key AFTER UPDATE OF id ON accounts FOR EACH ROW WHEN (old.id < 6) EXECUTE FUNCTION keep();
             DELETE FROM accounts WHERE id = 1;
             UPDATE accounts SET id = id + 10 WHERE id = 2;
             BEGIN; SAVEPOINT s; DELETE FROM accounts WHERE id = 3; ROLLBACK TO s; DELETE FROM accounts WHERE id = 3; COMMIT",
        )
        .unwrap();
    assert_clean(&mut client, "accounts");
    assert_history_agrees(&mut client, "accounts");
    interleave(
        &cluster,
        "SELECT FROM accounts WHERE id = 5 FOR UPDATE",
        "DELETE FROM accounts WHERE id IN (4, 5)",
        "UPDATE accounts SET amount = 14 WHERE id = 5",
    );
    assert_clean(&mut client, "accounts");
    assert_history_agrees(&mut client, "accounts");
}

/// One command frees a key and takes it again, and a trigger goes on with the row that has it now.
#[test]
fn a_row_that_its_own_command_puts_back_comes_after_the_one_that_went() {
    let (_cluster, mut client) = start_logged("INSERT OR UPDATE OR DELETE ON accounts");
    client
        .batch_execute(
            "CREATE FUNCTION remove() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN DELETE FROM accounts WHERE id = old.id; RETURN NULL; END $$;
             CREATE TRIGGER a AFTER UPDATE OF id ON accounts FOR EACH ROW EXECUTE FUNCTION remove();
             UPDATE accounts SET id = id - 1;
             DROP TRIGGER a ON accounts;
             INSERT INTO accounts VALUES (1, 1), (2, 2) ON CONFLICT DO NOTHING;
             CREATE FUNCTION move_on() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN UPDATE accounts SET id = id + 100 WHERE id = old.id; RETURN NULL; END $$;
             CREATE TRIGGER a AFTER DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION move_on();
             WITH gone AS (DELETE FROM accounts WHERE id = 1 RETURNING *) INSERT INTO accounts SELECT id, amount + 1 FROM gone",
        )
        .unwrap();
    assert_clean(&mut client, "accounts");
    assert_history_agrees(&mut client, "accounts");
}

#[test]
fn a_row_that_a_trigger_makes_and_takes_away_before_comes_before() {
    let (_cluster, mut client) = start_logged("INSERT OR UPDATE OR DELETE ON accounts");
    client
        .batch_execute(
            "CREATE FUNCTION try() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF new.amount < 0 THEN RETURN new; END IF;
                 INSERT INTO accounts VALUES (new.id, -1);
                 DELETE FROM accounts WHERE id = new.id AND amount = -1;
                 UPDATE accounts SET amount = amount + 1 WHERE id = new.id - 1;
                 RETURN new;
             END $$;
             CREATE TRIGGER try BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION try();
             CREATE TRIGGER try_key BEFORE UPDATE OF id ON accounts FOR EACH ROW EXECUTE FUNCTION try();
             INSERT INTO accounts SELECT n, n FROM generate_series(11, 15) n;
             UPDATE accounts SET id = id + 10 WHERE id > 13;
             CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN UPDATE accounts SET amount = amount - 1 WHERE id = new.id AND amount > 16; RETURN NULL; END $$;
             CREATE TRIGGER a_more AFTER INSERT OR UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION more();
             INSERT INTO accounts SELECT n, 20 FROM generate_series(31, 35) n",
        )
        .unwrap();
    assert_clean(&mut client, "accounts");
    assert_history_agrees(&mut client, "accounts");
}

/// Each command of a transaction might have changed something that is yet to be recorded, but most have ended.
#[test]
fn a_transaction_of_many_commands_does_not_push_the_clock_of_the_ledger_ahead() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE scratch (n int); CREATE TABLE notes (id int PRIMARY KEY); SELECT ledger.track('notes')",
        )
        .unwrap();
    client
        .batch_execute(
            "BEGIN; INSERT INTO notes VALUES (1);
             DO $$ BEGIN FOR n IN 1..200000 LOOP UPDATE scratch SET n = 1 WHERE false; END LOOP; END $$",
        )
        .unwrap();
    // Right before it another session gives the ledger the time of now.
    cluster.connect("postgres").batch_execute("INSERT INTO notes VALUES (2)").unwrap();
    client.batch_execute("INSERT INTO notes VALUES (3)").unwrap();
    let ahead = "(SELECT max(created_at) > clock_timestamp() + interval '20 ms' FROM ledger.entries_pending)";
    assert!(!is_true(&mut client, ahead));
    client.batch_execute("COMMIT").unwrap();
    assert_clean(&mut client, "notes");
}
