//! Rows that were there before their table was tracked are recorded as they are, each once, while the application goes
//! on.
#![cfg(feature = "cluster-tests")]

use crate::common::faults::{clear_fault, set_fault};
use crate::common::ledger::*;
use crate::common::stop_at_end::StopAtEnd;
use crate::common::tracking::*;
use crate::common::{send, succeed, wait_until, Cluster, Options, Stop};
use postgres::error::SqlState;
use postgres::Client;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const ACCOUNTS: &str = "CREATE TABLE accounts (id int PRIMARY KEY, amount int NOT NULL, note text)";

/// After this long the worker begins no other row in the same turn.
const TURN: Duration = Duration::from_secs(1);

/// A table of more than 64 pages, which the worker records.
fn start_large(rows: usize) -> (Cluster, Client) {
    let settings = Options::new().conf("ledger.block_size = 500").conf("ledger.block_interval = 1s");
    let (cluster, mut client) = start(settings);
    client.batch_execute(ACCOUNTS).unwrap();
    let fill = format!("INSERT INTO accounts SELECT n, n, repeat('x', 900) FROM generate_series(1, {rows}) n");
    client.batch_execute(&fill).unwrap();
    // Nobody records with a worker that is stopped before.
    wait_until_attached(&mut client);
    (cluster, client)
}

const TRACK: &str = "SELECT ledger.track('accounts', with_signature => false)";

/// Tracks the large table, and locks it in a transaction of this session when the worker has recorded its first pages
/// and no more.
#[track_caller]
fn track_and_interrupt(cluster: &Cluster, mut client: Client, track: &str) -> Client {
    let (worker, pid) = (worker_pid(&mut client), number(&mut client, "SELECT pg_backend_pid()"));
    stop_between_transactions(&mut client, worker);
    client.batch_execute(track).unwrap();
    // The worker waits in its first batch, and stands aside afterwards from who wants the table for himself.
    let mut holding = cluster.connect("postgres");
    holding.batch_execute("BEGIN; LOCK TABLE ledger.entries_pending IN SHARE MODE").unwrap();
    send(worker, libc::SIGCONT);
    let waits = |pid: i64| format!("EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted)");
    let is_at_it =
        format!("EXISTS (SELECT FROM pg_locks WHERE pid = {worker} AND relation = 'accounts'::regclass AND granted)");
    wait_for(&mut holding, &format!("{is_at_it} AND {}", waits(worker.into())));
    let locking = thread::spawn(move || {
        client.batch_execute("BEGIN; LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").unwrap();
        client
    });
    wait_for(&mut holding, &waits(pid));
    holding.batch_execute("COMMIT").unwrap();
    let mut client = locking.join().unwrap();
    let is_interrupted = is_true(&mut client, "(SELECT next_page BETWEEN 1 AND page_count - 1 FROM ledger.baselines)");
    assert!(is_interrupted, "the baseline has not begun, or is complete");
    client
}

#[test]
fn rows_that_were_there_before_are_recorded_while_writers_go_on() {
    let (cluster, mut client) = start_large(3000);
    client.batch_execute("CREATE TABLE written (id int, kind text)").unwrap();
    client.batch_execute(TRACK).unwrap();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..4 {
            let (cluster, is_done) = (&cluster, &is_done);
            scope.spawn(move || {
                let mut client = cluster.connect("postgres");
                for round in 0.. {
                    let (update, delete) = (round * 8 + writer + 1, 3000 - round * 8 - writer);
                    let sql = format!(
                        "WITH u AS (UPDATE accounts SET amount = 0 WHERE id = {update} RETURNING id),
                         d AS (DELETE FROM accounts WHERE id = {delete} AND id > {update} RETURNING id),
                         i AS (INSERT INTO accounts VALUES ({}, 0) RETURNING id)
                         INSERT INTO written SELECT id, 'u' FROM u UNION ALL SELECT id, 'd' FROM d
                         UNION ALL SELECT id, 'i' FROM i",
                        10_000 + round * 4 + writer
                    );
                    client.batch_execute(&sql).unwrap();
                    if is_done.load(Ordering::Relaxed) || round > 300 {
                        break;
                    }
                }
            });
        }
        let _stop_at_end = StopAtEnd(&is_done);
        wait_until_tracked(&mut client, "accounts");
    });
    assert_clean(&mut client, "accounts");
    // Each row has one entry for each time it was written, and one of the baseline if it was not written before that.
    let wrong = "SELECT concat_ws(' ', id, w.n, e.changes, e.baselines, e.found) FROM \
                 (SELECT (metadata->'key'->>'id')::int AS id, count(*) FILTER (WHERE metadata ? 'baseline') AS baselines, \
                  count(*) FILTER (WHERE NOT metadata ? 'baseline') AS changes, \
                  bool_or(metadata ? 'precedes_baseline') AS found FROM ledger.entries WHERE metadata ? 'key' GROUP BY 1) AS e \
                 FULL JOIN (SELECT id, count(*) AS n FROM written GROUP BY 1) AS w USING (id) \
                 WHERE coalesce(w.n, 0) <> e.changes OR e.baselines > 1 \
                 OR e.baselines = 0 AND NOT (id >= 10000 OR e.found) OR e.baselines = 1 AND id >= 10000";
    let wrong = column(&mut client, wrong);
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.baselines"), 0);
}

#[test]
fn a_baseline_goes_on_after_a_crash() {
    let (cluster, client) = start_large(20_000);
    // It does not get to the end before the crash.
    drop(track_and_interrupt(&cluster, client, TRACK));
    cluster.kill9_everything();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    client.batch_execute("UPDATE accounts SET amount = -1 WHERE id IN (1, 20000)").unwrap();
    wait_until_tracked(&mut client, "accounts");
    assert_clean(&mut client, "accounts");
    assert_eq!(row_entries(&mut client, "accounts") - number(&mut client, "SELECT count(*) FROM accounts"), {
        let updated = "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_update' AND NOT metadata ? 'precedes_baseline'";
        let redone = "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_update' AND metadata ? 'precedes_baseline' \
                      AND EXISTS (SELECT FROM ledger.entries b WHERE b.metadata ? 'baseline' AND b.metadata->'key' = entries.metadata->'key')";
        number(&mut client, updated) + number(&mut client, redone)
    });
}

#[test]
fn a_baseline_does_not_lose_rows_that_are_moved_meanwhile() {
    let (_cluster, mut client) = start_large(5000);
    client.batch_execute("DELETE FROM accounts WHERE id % 3 = 0").unwrap();
    client.batch_execute(TRACK).unwrap();
    // Rows stand elsewhere now.
    client.batch_execute("VACUUM FULL accounts").unwrap();
    wait_until_tracked(&mut client, "accounts");
    assert_clean(&mut client, "accounts");
}

/// A transaction has a number from before, and writes to the table only afterwards.
#[test]
fn a_transaction_that_was_running_when_a_table_was_tracked_is_recorded_once() {
    let (cluster, mut client) = start_large(3000);
    client.batch_execute("CREATE TABLE elsewhere (n int)").unwrap();
    let mut running = cluster.connect("postgres");
    running
        .batch_execute("BEGIN; INSERT INTO elsewhere VALUES (1); SAVEPOINT s; INSERT INTO elsewhere VALUES (2)")
        .unwrap();
    client.batch_execute("UPDATE accounts SET amount = 1 WHERE id = 9").unwrap();
    client.batch_execute(TRACK).unwrap();
    running
        .batch_execute(
            "UPDATE accounts SET amount = -1 WHERE id IN (3000, 2999); INSERT INTO accounts VALUES (9000, 1); RELEASE s;
             UPDATE accounts SET amount = -2 WHERE id IN (2998, 2999); DELETE FROM accounts WHERE id = 2997;
             INSERT INTO accounts VALUES (9001, 1); COMMIT",
        )
        .unwrap();
    wait_until_tracked(&mut client, "accounts");
    assert_clean(&mut client, "accounts");
    let inserts =
        "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_insert' AND metadata->'key'->>'id' = '900";
    assert_eq!(number(&mut client, &format!("{inserts}0'")), 1);
    assert_eq!(number(&mut client, &format!("{inserts}1'")), 1);
}

#[test]
fn a_table_is_verified_only_when_its_baseline_is_complete() {
    let (_cluster, mut client) = start_large(5000);
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(TRACK).unwrap();
    let state = "SELECT state FROM ledger.tracked_tables";
    assert_eq!(value(&mut client, state), "recording baseline");
    for verification in [
        "SELECT * FROM ledger.verify_table('accounts')",
        "SELECT ledger.verify_row('accounts', '{\"id\": 5}')",
        "SELECT ledger.verified(a) FROM accounts AS a WHERE id = 5",
    ] {
        client.batch_execute("SAVEPOINT s").unwrap();
        let refused = error(&mut client, verification);
        assert_eq!(*refused.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{verification}: {refused:?}");
        client.batch_execute("ROLLBACK TO s").unwrap();
    }
    client.batch_execute("ROLLBACK").unwrap();
    // Nothing is left of it.
    assert!(column(&mut client, state).is_empty());
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 0);
}

#[test]
fn a_table_that_a_prepared_transaction_tracks_is_recorded_once_that_is_committed() {
    let (_cluster, mut client) = start_large(3000);
    client.batch_execute(&format!("BEGIN; {TRACK}; PREPARE TRANSACTION 'track'")).unwrap();
    // The worker has looked, and has seen nothing yet.
    record(&mut client);
    seal(&mut client);
    client.batch_execute("COMMIT PREPARED 'track'").unwrap();
    wait_for(&mut client, "(SELECT state = 'tracked' FROM ledger.tracked_tables)");
    assert!(column(&mut client, "SELECT * FROM ledger.verify_table('accounts')").is_empty());
}

#[test]
fn the_transaction_that_tracks_a_table_may_write_to_it() {
    for rows in [20, 3000] {
        let (_cluster, mut client) = start_large(rows);
        client.batch_execute("BEGIN; UPDATE accounts SET amount = 7 WHERE id = 3").unwrap();
        client.batch_execute(TRACK).unwrap();
        client
            .batch_execute(
                "UPDATE accounts SET amount = 8 WHERE id IN (3, 4); DELETE FROM accounts WHERE id = 5;
                 INSERT INTO accounts VALUES (5, 1), (9000, 1); UPDATE accounts SET amount = 2 WHERE id = 9000;
                 SAVEPOINT s; UPDATE accounts SET amount = 9 WHERE id = 6; RELEASE s;
                 SAVEPOINT s; UPDATE accounts SET amount = 9 WHERE id = 7; ROLLBACK TO s; COMMIT",
            )
            .unwrap();
        wait_until_tracked(&mut client, "accounts");
        assert_clean(&mut client, "accounts");
    }
}

// ---- who wrote a row version -----------------------------------------------------------------------------------------------

/// No row was recorded twice as one that was there before.
#[track_caller]
fn assert_no_second_baseline(client: &mut Client) {
    let twice =
        "SELECT metadata->>'key' FROM ledger.entries WHERE metadata ? 'baseline' GROUP BY 1 HAVING count(*) > 1";
    let twice = column(client, twice);
    assert!(twice.is_empty(), "{twice:?}");
}

/// Hands out transaction ids from `next` on, once all that is in the cluster is frozen.
fn jump_to_transaction(cluster: &Cluster, next: &str) {
    cluster.run("vacuumdb", &["--all", "--freeze", "--quiet"]);
    cluster.stop(Stop::Fast);
    let data_dir = cluster.data_dir();
    succeed(cluster.command("pg_resetwal").args(["-x", next]).arg("-D").arg(data_dir));
    cluster.start_again();
}

/// The number of the transaction that wrote a row stays in it, and after two billion others looks like one to come.
#[test]
fn rows_of_transactions_long_ago_are_recorded() {
    for rows in [20, 3000] {
        let (cluster, mut client) = start_large(rows);
        cluster.add_conf("autovacuum = off");
        client.batch_execute("UPDATE pg_database SET datallowconn = true").unwrap();
        drop(client);
        // Where pages of pg_xact begin.
        jump_to_transaction(&cluster, "0x60000000");
        jump_to_transaction(&cluster, "0xA0000000");
        let mut client = cluster.connect("postgres");
        assert_eq!(number(&mut client, "SELECT count(*) FROM accounts WHERE xmin::text::bigint > 100000"), 0);
        wait_until_attached(&mut client);
        let worker = worker_pid(&mut client);
        stop_between_transactions(&mut client, worker);
        client.batch_execute(TRACK).unwrap();
        client
            .batch_execute("UPDATE accounts SET amount = -1 WHERE id = 2; DELETE FROM accounts WHERE id = 3")
            .unwrap();
        send(worker, libc::SIGCONT);
        wait_until_tracked(&mut client, "accounts");
        assert_clean(&mut client, "accounts");
        assert_no_second_baseline(&mut client);
    }
}

/// After four billion transactions, a row may be much older than the number that it has from its transaction.
#[test]
fn a_row_from_before_a_column_was_left_out_is_recorded_whatever_number_its_transaction_had() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE notes (id int PRIMARY KEY, seen int); SELECT ledger.track('notes');
             INSERT INTO notes VALUES (1, 0), (2, 0)",
        )
        .unwrap();
    client.batch_execute("SELECT ledger.track('notes', excluded => '{seen}')").unwrap();
    drop(client);
    cluster.run("vacuumdb", &["--all", "--freeze", "--quiet"]);
    cluster.stop(Stop::Fast);
    succeed(cluster.command("pg_resetwal").args(["-e", "1"]).arg("-D").arg(cluster.data_dir()));
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    client.batch_execute("UPDATE notes SET seen = 1 WHERE id = 1").unwrap();
    assert_clean(&mut client, "notes");
}

#[test]
fn rows_that_are_frozen_before_they_have_their_turn_are_recorded_once() {
    let (_cluster, mut client) = start_large(3000);
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute(TRACK).unwrap();
    client
        .batch_execute(
            "UPDATE accounts SET amount = -1 WHERE id % 10 = 1; DELETE FROM accounts WHERE id % 10 = 2;
             INSERT INTO accounts SELECT n, n FROM generate_series(9001, 9100) n; UPDATE accounts SET id = 9101 WHERE id = 3",
        )
        .unwrap();
    client.batch_execute("VACUUM FREEZE accounts").unwrap();
    send(worker, libc::SIGCONT);
    wait_until_tracked(&mut client, "accounts");
    assert_clean(&mut client, "accounts");
    let changed = "SELECT count(*) FROM ledger.entries WHERE metadata ? 'baseline' AND ((metadata->'key'->>'id')::int % 10 IN (1, 2) \
                   OR (metadata->'key'->>'id')::int IN (3, 9101))";
    assert_eq!(number(&mut client, changed), 0);
}

/// All rows stand elsewhere then, and with ALTER TABLE they have other numbers of transactions, and other columns.
#[test]
fn a_baseline_goes_on_in_a_table_that_is_written_anew() {
    for rewrite in [
        "ALTER TABLE accounts ALTER COLUMN amount TYPE bigint",
        "ALTER TABLE accounts ADD COLUMN made timestamptz NOT NULL DEFAULT clock_timestamp()",
        "CLUSTER accounts USING accounts_pkey",
        "TRUNCATE accounts; INSERT INTO accounts SELECT n, n FROM generate_series(1, 100) n",
    ] {
        let (cluster, client) = start_large(20_000);
        let track = "SELECT ledger.track('accounts', with_signature => false, keep_image => true)";
        let mut client = track_and_interrupt(&cluster, client, track);
        client.batch_execute(rewrite).unwrap();
        let changes = "UPDATE accounts SET note = 'changed' WHERE id IN (1, 2, 20000); DELETE FROM accounts WHERE id IN (3, 19999); \
                       UPDATE accounts SET id = id + 30000 WHERE id IN (4, 19998); INSERT INTO accounts VALUES (40000, 1)";
        client.batch_execute(changes).unwrap();
        client.batch_execute("COMMIT").unwrap();
        client
            .batch_execute(
                &changes.replace("2, 20000", "5, 19997").replace("4, 19998", "6, 19996").replace("40000", "40001"),
            )
            .unwrap();
        wait_until_tracked(&mut client, "accounts");
        assert_clean(&mut client, "accounts");
        assert_no_second_baseline(&mut client);
    }
}

/// A row that takes little room on its page can be a long text, and more than a hundred have room on one.
#[test]
fn a_turn_of_the_worker_ends_in_the_midst_of_a_page_whose_rows_take_long() {
    let (cluster, mut client) = start_large(3000);
    set_fault(&cluster, "baseline_row:hang");
    client.batch_execute(TRACK).unwrap();
    let (worker, pid) = (worker_pid(&mut client), number(&mut client, "SELECT pg_backend_pid()"));
    let mut other = cluster.connect("postgres");
    let has = |pid: i64, granted: bool| {
        format!("EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND relation = 'accounts'::regclass AND granted = {granted})")
    };
    wait_for(&mut other, &has(worker.into(), true));
    let begun = Instant::now();
    let locking = thread::spawn(move || {
        client.batch_execute("BEGIN; LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE").unwrap();
        client
    });
    wait_for(&mut other, &has(pid, false));
    wait_until("the first row has taken longer than a turn", 2 * TURN, || begun.elapsed() > TURN);
    clear_fault(&cluster);
    let mut client = locking.join().unwrap();
    assert_eq!(
        column(&mut client, "SELECT (next_page, next_item, row_count)::text FROM ledger.baselines"),
        ["(0,2,1)"]
    );
    client
        .batch_execute(
            "UPDATE accounts SET amount = 0 WHERE id IN (1, 2, 5); DELETE FROM accounts WHERE id IN (3, 4); COMMIT",
        )
        .unwrap();
    wait_until_tracked(&mut client, "accounts");
    assert_clean(&mut client, "accounts");
    assert_no_second_baseline(&mut client);
}

/// Until they are recorded, nobody could write to the table.
#[test]
fn a_table_of_few_rows_with_long_texts_is_left_to_the_worker() {
    let (_cluster, mut client) = start_large(1);
    client
        .batch_execute(
            "TRUNCATE accounts; ALTER TABLE accounts ALTER note SET STORAGE EXTERNAL;
             INSERT INTO accounts SELECT n, n, repeat('x', 1000000) FROM generate_series(1, 3) n",
        )
        .unwrap();
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute(TRACK).unwrap();
    assert_eq!(column(&mut client, "SELECT state FROM ledger.tracked_tables"), ["recording baseline"]);
    send(worker, libc::SIGCONT);
    wait_until_tracked(&mut client, "accounts");
    assert_clean(&mut client, "accounts");
}

// ---- tables that have to wait -----------------------------------------------------------------------------------------------

/// Processor time of a process, in clock ticks of 10 ms.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

const OTHERS: &str = "CREATE TABLE others AS SELECT * FROM accounts; ALTER TABLE others ADD PRIMARY KEY (id)";

/// The row version that is left was written after the table was tracked, as if it had an entry.
#[test]
fn a_column_that_is_left_out_may_change_while_the_worker_records() {
    let (_cluster, mut client) = start_large(3000);
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client
        .batch_execute(
            "BEGIN; SELECT ledger.track('accounts', excluded => '{note}'); UPDATE accounts SET note = 'y' WHERE id < 1000;
             UPDATE accounts SET note = 'z' WHERE id < 10; COMMIT; UPDATE accounts SET note = 'w' WHERE id BETWEEN 900 AND 1100",
        )
        .unwrap();
    send(worker, libc::SIGCONT);
    wait_until_tracked(&mut client, "accounts");
    assert_clean(&mut client, "accounts");
    let before = row_entries(&mut client, "accounts");
    client.batch_execute("UPDATE accounts SET note = 'v'").unwrap();
    assert_eq!(row_entries(&mut client, "accounts"), before);
    assert_clean(&mut client, "accounts");
}

#[test]
fn a_locked_table_keeps_neither_sealing_nor_other_tables_waiting() {
    for lock in [
        "LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE",
        "REINDEX TABLE accounts",
        "ALTER INDEX accounts_pkey SET TABLESPACE pg_default",
    ] {
        let (cluster, mut client) = start_large(3000);
        client.batch_execute(OTHERS).unwrap();
        let worker = worker_pid(&mut client);
        stop_between_transactions(&mut client, worker);
        client.batch_execute(TRACK).unwrap();
        client.batch_execute("SELECT ledger.track('others')").unwrap();
        let mut locking = cluster.connect("postgres");
        locking.batch_execute(&format!("BEGIN; {lock}")).unwrap();
        send(worker, libc::SIGCONT);
        wait_for(&mut client, "(SELECT count(*) = 1 FROM ledger.baselines)");
        assert_eq!(value(&mut client, "SELECT relation::regclass FROM ledger.baselines"), "accounts");
        seal(&mut client);
        record(&mut client);
        wait_until_sealed(&mut client);
        let before = cpu_ticks(worker);
        std::thread::sleep(std::time::Duration::from_secs(2));
        let ticks = cpu_ticks(worker) - before;
        assert!(ticks < 40, "the worker was busy for {ticks}0 ms of two seconds ({lock})");
        locking.batch_execute("COMMIT").unwrap();
        wait_until_tracked(&mut client, "accounts");
        assert_clean(&mut client, "accounts");
        assert_clean(&mut client, "others");
    }
}

/// Which only shows when the first value is printed.
#[test]
fn a_table_whose_columns_type_is_locked_keeps_nothing_from_being_sealed() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE part (a int); CREATE TABLE wholes (id int PRIMARY KEY, part part, padding text);
             INSERT INTO wholes SELECT n, ROW(n)::part, repeat('x', 900) FROM generate_series(1, 3000) n",
        )
        .unwrap();
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute("SELECT ledger.track('wholes')").unwrap();
    let mut locking = cluster.connect("postgres");
    locking.batch_execute("BEGIN; LOCK TABLE part IN ACCESS EXCLUSIVE MODE").unwrap();
    send(worker, libc::SIGCONT);
    for _ in 0..3 {
        record_many(&mut client, 100);
        wait_for(&mut client, "(SELECT pending_count < 100 FROM ledger.chain_stats)");
    }
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.baselines"), 1);
    locking.batch_execute("COMMIT").unwrap();
    wait_until_tracked(&mut client, "wholes");
    assert_clean(&mut client, "wholes");
}

#[test]
fn a_table_that_cannot_be_recorded_keeps_neither_sealing_nor_other_tables_waiting() {
    let (cluster, mut client) = start_large(3000);
    client.batch_execute(OTHERS).unwrap();
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute("SELECT ledger.track('accounts', columns => '{note}')").unwrap();
    client.batch_execute("SELECT ledger.track('others')").unwrap();
    client.batch_execute("ALTER TABLE accounts RENAME COLUMN note TO remark").unwrap();
    send(worker, libc::SIGCONT);
    wait_until_tracked(&mut client, "others");
    wait_for(&mut client, "(SELECT state = 'failing' FROM ledger.workers)");
    record(&mut client);
    wait_until_sealed(&mut client);
    assert_clean(&mut client, "others");
    cluster.wait_for_log(
        "cannot record the rows of table public.accounts: \
         table public.accounts is tracked with a list of columns that names \"note\"",
    );
    cluster.wait_for_log("Call ledger.track() again with the present names of the columns.");
    client.batch_execute("SELECT ledger.track('accounts', columns => '{remark}')").unwrap();
    wait_until_tracked(&mut client, "accounts");
    assert_clean(&mut client, "accounts");
    wait_until("the worker is well again", PATIENCE, || {
        is_true(&mut client, "(SELECT state = 'running' FROM ledger.workers)")
    });
}

/// Whatever of Postgres raises the error, in a catalog that is locked for one.
#[test]
fn an_error_while_a_table_is_looked_up_ends_its_turn_and_not_the_worker() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    client
        .batch_execute(
            "CREATE TABLE parts (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
             CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10000);
             INSERT INTO parts SELECT n, repeat('x', 900) FROM generate_series(1, 3000) n",
        )
        .unwrap();
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute("SELECT ledger.track('parts', with_signature => false)").unwrap();
    let mut locking = cluster.connect("postgres");
    locking.batch_execute("BEGIN; LOCK TABLE pg_inherits IN ACCESS EXCLUSIVE MODE").unwrap();
    send(worker, libc::SIGCONT);
    wait_for(&mut client, &format!("(SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {worker})"));
    client.batch_execute(&format!("SELECT pg_cancel_backend({worker})")).unwrap();
    cluster.wait_for_log("cannot record the rows of table public.part: canceling statement due to user request");
    locking.batch_execute("COMMIT").unwrap();
    assert_eq!(worker_pid(&mut client), worker);
    wait_until_tracked(&mut client, "parts");
    assert_clean(&mut client, "parts");
}

// ---- who may say what is to be recorded -------------------------------------------------------------------------------------

/// The worker signs what it finds in a table that is said to have been there before: nobody but track() says that.
#[test]
fn nobody_has_the_worker_record_what_was_not_recorded() {
    let (cluster, mut client) = start_large(3000);
    client.batch_execute(TRACK).unwrap();
    wait_until_tracked(&mut client, "accounts");
    client.batch_execute("CREATE ROLE loader LOGIN IN ROLE pg_write_all_data, ledger_auditor").unwrap();
    client
        .batch_execute(
            "BEGIN; ALTER TABLE accounts DISABLE TRIGGER ALL; UPDATE accounts SET amount = 1000000 WHERE id = 5;
             INSERT INTO accounts VALUES (9000, 1000000); ALTER TABLE accounts ENABLE ALWAYS TRIGGER ledger_record_change;
             ALTER TABLE accounts ENABLE ALWAYS TRIGGER ledger_record_truncate; COMMIT",
        )
        .unwrap();
    let mut loader = cluster.connect_as("loader", "postgres");
    let forged = "INSERT INTO ledger.baselines (table_id, relation, horizon, tracked_by, tracked_at, next_page, next_item, page_count, row_count, \
                  file_node, oldest_running) SELECT t.table_id, t.table_name, 4000000000, 1, now(), 0, 0, 10000, 0, c.relfilenode, 0 \
                  FROM (SELECT DISTINCT metadata->>'table_id' AS table_id, 'accounts'::regclass AS table_name \
                        FROM ledger.entries WHERE entry_type = 'table_tracked') AS t JOIN pg_class AS c ON c.oid = t.table_name";
    for (user, sql) in [
        ("loader", forged),
        ("loader", "UPDATE ledger.baselines SET tracked_at = now()"),
        ("loader", "DELETE FROM ledger.baselines"),
        ("postgres", forged),
        ("postgres", "TRUNCATE ledger.baselines"),
    ] {
        let session = if user == "loader" { &mut loader } else { &mut client };
        let outcome = session.batch_execute(sql);
        let code = outcome.as_ref().err().and_then(|error| error.code().cloned());
        assert_eq!(code, Some(SqlState::INSUFFICIENT_PRIVILEGE), "{user}: {sql}: {outcome:?}");
    }
    assert_eq!(problems(&mut client, "accounts"), ["{\"id\": 5} modified", "{\"id\": 9000} unrecorded"]);
}

/// The worker records as what was there whatever it finds in a row that nobody has recorded.
#[test]
fn nothing_is_changed_past_the_triggers_before_the_worker_has_recorded_what_was_there() {
    let (_cluster, mut client) = start_large(3000);
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute(TRACK).unwrap();
    client
        .batch_execute(
            "CREATE ROLE owner; ALTER TABLE accounts OWNER TO owner; CREATE TABLE parent (amount int);
             ALTER TABLE parent OWNER TO owner; SET ROLE owner; ALTER TABLE accounts INHERIT parent",
        )
        .unwrap();
    let by_parent = all_text(&error(&mut client, "ALTER TABLE parent ALTER COLUMN amount TYPE int USING 1000000"));
    assert!(by_parent.contains("table public.accounts while the rows"), "{by_parent}");
    client.batch_execute("ALTER TABLE accounts NO INHERIT parent").unwrap();
    for command in [
        "DISABLE TRIGGER ledger_record_change",
        "DISABLE TRIGGER ALL",
        "DISABLE TRIGGER USER",
        "ENABLE TRIGGER ledger_record_change",
        "ENABLE TRIGGER ALL",
        "ENABLE TRIGGER USER",
        "ENABLE REPLICA TRIGGER ledger_record_change",
        "ALTER COLUMN amount TYPE bigint USING 1000000",
        "ADD COLUMN other int, DISABLE TRIGGER ALL",
    ] {
        let refused = all_text(&error(&mut client, &format!("ALTER TABLE accounts {command}")));
        assert!(refused.contains("are still being recorded"), "{command}: {refused}");
    }
    client.batch_execute("RESET ROLE").unwrap();
    send(worker, libc::SIGCONT);
    wait_until_tracked(&mut client, "accounts");
    assert_clean(&mut client, "accounts");
    client.batch_execute("ALTER TABLE accounts DISABLE TRIGGER ALL").unwrap();
}

/// While rows wait for their turn, what is said of a made-up row does not tell which of them have had it.
#[test]
fn who_may_not_see_a_row_is_not_told_whether_it_had_its_turn() {
    let (cluster, mut client) = start_large(3000);
    let worker = worker_pid(&mut client);
    stop_between_transactions(&mut client, worker);
    client.batch_execute(TRACK).unwrap();
    client
        .batch_execute(
            "CREATE ROLE reader LOGIN; GRANT SELECT ON accounts TO reader; ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
             UPDATE accounts SET amount = 0 WHERE id = 5",
        )
        .unwrap();
    let mut reader = cluster.connect_as("reader", "postgres");
    let mut told = |id: i32| {
        let refused = error(&mut reader, &format!("SELECT ledger.verified(ROW({id}, 1, 'guess')::accounts)"));
        (refused.code().clone(), all_text(&refused))
    };
    let (recorded, waiting) = (told(5), told(6));
    send(worker, libc::SIGCONT);
    assert_eq!(recorded, waiting);
}
