//! Memory stays bounded, however much one transaction records and however long the chain is.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tampering::TRIGGERS_OFF;
use crate::common::tracking::APPLICATION_TRIGGERS_OFF;
use crate::common::{send, wait_until, Options, Stop};
use postgres::error::SqlState;
use postgres::Client;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

/// Private memory of a process in MB; shared memory does not count.
fn anonymous_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes / 1024)
}

/// The most memory that a process has had, in MB: what it has used of shared memory, some 50 MB, is in it.
fn highest_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// By how many MB the process grew at most while `work` ran.
fn growth(pid: u32, work: impl FnOnce()) -> u64 {
    let before = anonymous_memory(pid).expect("the process is there");
    let done = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = before;
            while !done.load(Ordering::Acquire) {
                most = most.max(anonymous_memory(pid).unwrap_or(0));
                sleep(Duration::from_millis(2));
            }
            most
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Release);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        watcher.join().unwrap()
    });
    most - before
}

fn own_pid(client: &mut Client) -> u32 {
    number(client, "SELECT pg_backend_pid()") as u32
}

fn wait_until_all_sealed(client: &mut Client, blocks: i64) {
    wait_until("all of it is sealed", 5 * PATIENCE, || {
        number(client, "SELECT last_block FROM ledger.mirror_status") == blocks
    });
}

#[test]
fn a_million_rows_in_one_transaction_take_bounded_memory() {
    const ROWS: i64 = 1_000_000;
    let (_cluster, mut client) = start(Options::new().secret(None).conf("ledger.block_size = 10000"));
    let pid = own_pid(&mut client);
    let worker = worker_pid(&mut client);
    let insert = format!(
        "INSERT INTO ledger.entries (entry_type, data_hash) \
         SELECT 'bulk', lpad(to_hex(n), 64, '0') FROM generate_series(1, {ROWS}) n"
    );
    let mut recorded = 0;
    let sealing = growth(worker, || {
        recorded = growth(pid, || client.batch_execute(&insert).unwrap());
        wait_until_all_sealed(&mut client, ROWS / 10_000);
    });
    assert!(recorded < 300, "recording took {recorded} MB");
    assert!(sealing < 300, "sealing took {sealing} MB");

    let mut verdict = serde_json::Value::Null;
    let verified = growth(pid, || verdict = self::verdict(&mut client));
    // The file has all the entries before the first block: each is kept, in some 150 bytes, until its block comes.
    assert!(verified < 256, "verifying took {verified} MB");
    assert_eq!(verdict["overall_valid"], true, "{verdict:#}");
    assert_eq!(verdict["postgres_chain"]["entry_count"], ROWS);
    assert_eq!(verdict["file_chain"]["entry_count"], ROWS);
    assert_eq!(cli_verify(&file(&mut client)).0, 0);
    eprintln!("recording {recorded} MB, sealing {sealing} MB, verifying {verified} MB");
}

#[test]
fn a_hundred_thousand_calls_in_one_transaction_take_bounded_memory() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_size = 1000"));
    let pid = own_pid(&mut client);
    let call = "SELECT count(ledger.hash_and_record('bulk', to_jsonb(n))) FROM generate_series(1, 100000) n";
    let recorded = growth(pid, || client.batch_execute(call).unwrap());
    assert!(recorded < 150, "recording took {recorded} MB");
    wait_until_all_sealed(&mut client, 100);
    let verified = growth(pid, || assert_eq!(verdict(&mut client)["overall_valid"], true));
    assert!(verified < 100, "verifying took {verified} MB");
    assert_intact(&mut client);
}

/// Sessions of a connection pool live for days.
#[test]
fn a_session_keeps_no_memory_of_its_verifications() {
    let (_cluster, mut client) = start(Options::new().secret(None).conf("ledger.block_size = 1000"));
    let pid = own_pid(&mut client);
    record_many_unsigned(&mut client, 100_000);
    wait_until_all_sealed(&mut client, 100);
    let kept = |client: &mut Client| {
        assert_eq!(verdict(client)["overall_valid"], true);
        anonymous_memory(pid).unwrap()
    };
    let first = kept(&mut client);
    let later: Vec<u64> = (0..4).map(|_| kept(&mut client)).collect();
    assert!(later.iter().all(|memory| *memory < first + 8), "after the first {first} MB, then {later:?}");
}

/// In transactions that are each sealed before the next. What is read ahead takes up to some 30 MB, and with fewer
/// entries than in the shorter of the two chains it does not come to that.
#[test]
fn verifying_takes_no_more_memory_for_a_longer_chain() {
    let (cluster, mut client) = start(Options::new().secret(None).conf("ledger.block_size = 1000"));
    let mut taken = Vec::new();
    for round in 1..=24 {
        record_many_unsigned(&mut client, 20_000);
        wait_until_all_sealed(&mut client, round * 20);
        if round == 8 || round == 24 {
            // A look at a process that is busy for a short time may miss the most it has; one of several does not.
            let verifying = (0..5).map(|_| {
                let mut session = cluster.connect("postgres");
                let pid = own_pid(&mut session);
                growth(pid, || assert_eq!(verdict(&mut session)["overall_valid"], true))
            });
            taken.push(verifying.max().unwrap());
        }
    }
    assert!(taken[1] < taken[0] + 15, "160,000 entries took {} MB, 480,000 took {} MB", taken[0], taken[1]);
}

/// Of each entry about an item, verification keeps only what the newest ones say.
#[test]
fn verifying_items_takes_no_more_memory_for_more_that_was_recorded_of_them() {
    let options = Options::new().secret(None).conf("ledger.block_interval = 1h").conf("ledger.mirror_mode = off");
    let (cluster, mut client) = start(options);
    let item = r#"{"item_type": "tool", "item_id": "a", "version": "1.0.0"}"#;
    client.batch_execute(TRIGGERS_OFF).unwrap();
    for _ in 0..20 {
        let insert = format!(
            "INSERT INTO ledger.entries_pending (entry_type, data_hash, metadata) SELECT 'item_signed', lpad(to_hex(n), 64, '0'), \
             jsonb_build_object('item', '{item}'::jsonb, 'note', repeat('x', 100000)) FROM generate_series(1, 100) n"
        );
        client.batch_execute(&insert).unwrap();
        client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    }
    let mut session = cluster.connect("postgres");
    let pid = own_pid(&mut session);
    let mut verdict = serde_json::Value::Null;
    let taken = growth(pid, || verdict = json(&mut session, "SELECT ledger.verify_all()"));
    assert_eq!(verdict["items"]["errors"][0]["problem"], "missing", "{verdict:#}");
    assert!(taken < 60, "200 MB of metadata took {taken} MB");
}

/// Without the index, entries are read by a query.
#[test]
fn verifying_large_entries_takes_no_more_memory_where_an_index_is_missing() {
    let options = Options::new().secret(None).conf("ledger.block_interval = 1h").conf("ledger.mirror_mode = off");
    let (cluster, mut client) = start(options);
    client.batch_execute(TRIGGERS_OFF).unwrap();
    let insert = "INSERT INTO ledger.entries_pending (entry_type, data_hash, metadata) SELECT 'test', lpad(to_hex(n), 64, '0'), \
                  jsonb_build_object('note', repeat('x', 1000000)) FROM generate_series(1, 300) n";
    client.batch_execute(insert).unwrap();
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    let constraint = value(
        &mut client,
        "SELECT conname FROM pg_constraint WHERE conrelid = 'ledger.entries_sealed_1'::regclass AND contype = 'u'",
    );
    let drop = format!("ALTER TABLE ledger.entries_sealed_1 DROP CONSTRAINT \"{constraint}\"");
    client.batch_execute(&drop).unwrap();
    let mut session = cluster.connect("postgres");
    let pid = own_pid(&mut session);
    let taken = growth(pid, || assert_eq!(verdict(&mut session)["overall_valid"], true));
    assert!(taken < 100, "300 MB of metadata took {taken} MB");
}

/// After a change of the columns each row is read again, and of each problem its entry.
#[test]
fn verifying_rows_takes_no_more_memory_for_more_that_have_to_be_read_again() {
    const ROWS: i64 = 60_000;
    let (cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = off"));
    client
        .batch_execute(&format!(
            "CREATE TABLE notes (id int PRIMARY KEY, a text, b text, c text, d text);
             SELECT ledger.track('notes', with_signature => false);
             INSERT INTO notes SELECT n, 'a', 'b', 'c', repeat('d', 500) FROM generate_series(1, {ROWS}) n;
             ALTER TABLE notes ADD COLUMN e int"
        ))
        .unwrap();
    let pid = own_pid(&mut client);
    let mut verify = |problems: i64| {
        let verify = "SELECT count(*) FROM ledger.verify_table('notes')";
        growth(pid, || assert_eq!(number(&mut client, verify), problems))
    };
    let of_earlier_columns = verify(0);
    assert!(of_earlier_columns < 40, "verifying rows of earlier columns took {of_earlier_columns} MB");
    let changing = cluster
        .connect("postgres")
        .batch_execute(&format!("{APPLICATION_TRIGGERS_OFF}; UPDATE notes SET a = 'forged'"));
    changing.unwrap();
    let changed = verify(ROWS);
    assert!(changed < 60, "verifying changed rows took {changed} MB");
}

/// Each time an entry says with what options.
#[test]
fn verifying_takes_no_more_memory_for_a_table_that_is_tracked_again_and_again() {
    let (cluster, mut client) = start(Options::new().secret(None).conf("ledger.mirror_mode = off"));
    client
        .batch_execute(
            "DO $$
             DECLARE names text[] := array_agg('column_' || n || repeat('x', 40)) FROM generate_series(1, 1500) n;
             BEGIN
                 EXECUTE 'CREATE TABLE wide (id int PRIMARY KEY, ' || array_to_string(names, ' int, ') || ' int)';
                 SET LOCAL client_min_messages = warning;
                 FOR n IN 1..300 LOOP
                     PERFORM ledger.track('wide', n % 2 = 0, false, NULL, names);
                 END LOOP;
             END $$",
        )
        .unwrap();
    let mut session = cluster.connect("postgres");
    let pid = own_pid(&mut session);
    let taken = growth(pid, || assert_eq!(json(&mut session, "SELECT ledger.verify_all()")["overall_valid"], true));
    assert!(taken < 30, "verifying took {taken} MB");
}

#[test]
fn a_large_transaction_that_is_rolled_back_leaves_nothing() {
    let (cluster, mut client) = start(Options::new().secret(None).conf("ledger.block_interval = 1h"));
    record_many_unsigned(&mut client, 3);
    let length = fs::metadata(file(&mut client)).unwrap().len();
    client.batch_execute("BEGIN").unwrap();
    record_many_unsigned(&mut client, 100_000);
    client.batch_execute("SAVEPOINT a").unwrap();
    record_many_unsigned(&mut client, 20_000);
    client.batch_execute("ROLLBACK TO a").unwrap();
    client.batch_execute("ROLLBACK").unwrap();
    assert_eq!(fs::metadata(file(&mut client)).unwrap().len(), length);
    let leftover = cluster.data_dir().join("base/pgsql_tmp");
    let files = fs::read_dir(leftover).map_or(0, |entries| entries.count());
    assert_eq!(files, 0, "temporary files are left");
    assert_intact(&mut client);
}

/// Lines past what is kept in memory, and a savepoint rolled back within them.
#[test]
fn a_large_transaction_with_savepoints_leaves_exactly_its_lines() {
    let (_cluster, mut client) = start(Options::new().secret(None).conf("ledger.block_size = 1000"));
    client.batch_execute("BEGIN").unwrap();
    record_many_unsigned(&mut client, 30_000);
    client.batch_execute("SAVEPOINT a").unwrap();
    record_many_unsigned(&mut client, 30_000);
    client.batch_execute("ROLLBACK TO a").unwrap();
    record_many_unsigned(&mut client, 10_000);
    client.batch_execute("COMMIT").unwrap();
    wait_until_all_sealed(&mut client, 40);
    assert_eq!(ids_in_file(&file(&mut client)).len(), 40_000);
    assert_intact(&mut client);
}

/// Stores so many numbers of 131,072 digits as `long.a`: a jsonb has each of them in 16 bytes. 8191 are nearly 1 GiB of
/// text, and 8192 more than any value of Postgres.
fn store_long(client: &mut Client, numbers: u32) {
    let array = format!("SELECT jsonb_agg('1e131071'::numeric) AS a FROM generate_series(1, {numbers})");
    client.batch_execute(&format!("DROP TABLE IF EXISTS long; CREATE TABLE long AS {array}")).unwrap();
}

#[track_caller]
fn assert_too_long(client: &mut Client, sql: &str, message: &str) {
    let found = error(client, sql);
    assert_eq!(*found.code(), SqlState::PROGRAM_LIMIT_EXCEEDED, "{found:?}");
    assert_eq!(found.message(), message, "{found:?}");
}

/// Each takes 4 MB, once it is detoasted, and little in the table.
fn record_large(client: &mut Client, count: usize) {
    let metadata = "jsonb_build_object('text', repeat('x', 4000000))";
    let insert = "INSERT INTO ledger.entries (entry_type, data_hash, metadata)";
    let entries = format!("{insert} SELECT 'large', repeat('ab', 32), {metadata} FROM generate_series(1, {count})");
    client.batch_execute(&entries).unwrap();
}

#[test]
fn recording_takes_no_more_memory_for_more_images_of_large_rows_in_a_statement() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.mirror_mode = off"));
    let pid = own_pid(&mut client);
    client
        .batch_execute(
            "CREATE TABLE documents (id int PRIMARY KEY, text text);
             SELECT ledger.track('documents', keep_image => true)",
        )
        .unwrap();
    let insert = "INSERT INTO documents SELECT n, repeat('x', 4000000) FROM generate_series(1, 100) n";
    let recording = growth(pid, || client.batch_execute(insert).unwrap());
    assert!(recording < 100, "recording took {recording} MB");
    // A large entry that is rolled back leaves the smaller ones waiting that were recorded outside.
    client
        .batch_execute(
            "CREATE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 BEGIN
                     UPDATE documents SET text = repeat('y', 4000000) WHERE id = NEW.id;
                     RAISE division_by_zero;
                 EXCEPTION WHEN division_by_zero THEN NULL;
                 END;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER rename AFTER INSERT ON documents FOR EACH ROW EXECUTE FUNCTION rename();
             INSERT INTO documents SELECT n, repeat('z', 10 * n) FROM generate_series(101, 120) n",
        )
        .unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_insert'"), 120);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_update'"), 0);
    client.batch_execute("SELECT ledger.commit_block()").unwrap();
    assert_eq!(verdict(&mut client)["overall_valid"], true);
}

#[test]
fn sealing_and_appending_takes_no_more_memory_for_more_large_entries() {
    let (_cluster, mut client) =
        start(Options::new().conf("ledger.block_interval = 1h").conf("ledger.mirror_mode = off"));
    let pid = own_pid(&mut client);
    record_large(&mut client, 50);
    let seal = "SELECT * FROM ledger.commit_block()";
    let sealing = growth(pid, || client.batch_execute(seal).unwrap());
    assert!(sealing < 60, "sealing took {sealing} MB");
    record_large(&mut client, 50);
    let worker = worker_pid(&mut client);
    // What the file lacks is appended from sealed entries, and from those that are pending.
    let appending = growth(worker, || switch(&mut client, "sync"));
    assert!(appending < 60, "appending took {appending} MB");
    client.batch_execute(seal).unwrap();
    wait_until_sealed(&mut client);
    assert_intact(&mut client);
}

/// What a crash has left in the file without a block is compared with what is pending.
#[test]
fn recovery_takes_no_more_memory_for_more_large_entries() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    record_large(&mut client, 50);
    drop(client);
    cluster.kill9_everything();
    cluster.start_again();
    let mut client = cluster.connect("postgres");
    wait_for(&mut client, "(SELECT state = 'attached' FROM ledger.mirror_status)");
    let worker = worker_pid(&mut client);
    let most = highest_memory(worker);
    assert!(most < 150, "the worker took {most} MB");
}

#[test]
fn verifying_takes_no_more_memory_for_more_large_entries_that_are_pending() {
    let (cluster, mut client) =
        start(Options::new().conf("ledger.block_interval = 1h").conf("ledger.mirror_mode = off"));
    record_large(&mut client, 50);
    let mut session = cluster.connect("postgres");
    let pid = own_pid(&mut session);
    let taken = growth(pid, || assert_eq!(verdict(&mut session)["overall_valid"], true));
    assert!(taken < 100, "verifying took {taken} MB");
}

/// Verifying refuses a line of more than 1 GiB, so one that is recorded would make the ledger invalid for ever.
#[test]
fn an_entry_whose_line_nobody_could_read_is_not_recorded() {
    let (_cluster, mut client) = start(Options::new().conf("ledger.block_interval = 1h"));
    record(&mut client);
    let hash = value(&mut client, "SELECT ledger.hash_data('1')");
    store_long(&mut client, 8191);
    let metadata = "jsonb_build_object('a', a, 'b', repeat('x', 70000))";
    let message = "metadata of an entry is too long";
    let call = format!("SELECT ledger.hash_and_record('x', '{{}}', {metadata}, false) FROM long");
    assert_too_long(&mut client, &call, message);
    let insert = format!(
        "INSERT INTO ledger.entries (entry_type, data_hash, metadata) SELECT 'x', '{hash}', {metadata} FROM long"
    );
    assert_too_long(&mut client, &insert, message);

    // The rows as they were before and after are half of that each.
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, a jsonb); SELECT ledger.track('t')").unwrap();
    client.batch_execute("INSERT INTO t SELECT 1, jsonb_path_query_array(a, '$[0 to 4200]') FROM long").unwrap();
    client.batch_execute("SELECT ledger.track('t', keep_image => true)").unwrap();
    assert_too_long(&mut client, "UPDATE t SET id = 2", message);
    let table = "CREATE TABLE many (id int PRIMARY KEY, n numeric[]); SELECT ledger.track('many')";
    client.batch_execute(table).unwrap();
    let numbers = "INSERT INTO many SELECT 1, array_fill('1e131071'::numeric, ARRAY[10000])";
    assert_too_long(&mut client, numbers, "row {\"id\": 1} of table public.many cannot be recorded");
    seal(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_text_that_is_too_long_takes_bounded_memory_and_is_found_where_it_was_put() {
    let (_cluster, mut client) = start(Options::new());
    let id = record(&mut client);
    seal(&mut client);
    store_long(&mut client, 20_000);
    let pid = own_pid(&mut client);
    let taken = growth(pid, || {
        let found = error(&mut client, "SELECT ledger.hash_data(a) FROM long");
        assert_eq!(*found.code(), SqlState::PROGRAM_LIMIT_EXCEEDED, "{found:?}");
    });
    assert!(taken < 2500, "hashing took {taken} MB");

    client.batch_execute(TRIGGERS_OFF).unwrap();
    let metadata = format!("(SELECT jsonb_build_object('a', a) FROM long) WHERE id = '{id}'");
    client.batch_execute(&format!("UPDATE ledger.entries SET metadata = {metadata}")).unwrap();
    let mut found = Vec::new();
    let all = "SELECT entry_id::text || ' ' || problem FROM ledger.find_tampering()";
    let taken = growth(pid, || found = column(&mut client, all));
    assert!(found.iter().any(|problem| problem.starts_with(&id)), "{found:?}");
    assert!(taken < 3500, "verifying took {taken} MB");
}

fn record_many_unsigned(client: &mut Client, count: usize) {
    let insert = format!(
        "INSERT INTO ledger.entries (entry_type, data_hash) \
         SELECT 'bulk', lpad(to_hex(n), 64, '0') FROM generate_series(1, {count}) n"
    );
    client.batch_execute(&insert).unwrap();
}

#[test]
fn to_void_the_lines_of_two_distant_transactions_takes_no_memory_for_what_lies_between() {
    const ROWS: i64 = 400_000;
    let (_cluster, mut client) = start(Options::new().secret(None).conf("ledger.block_size = 10000"));
    let worker = worker_pid(&mut client);
    let prepare = |client: &mut Client, gid| {
        client.batch_execute("BEGIN").unwrap();
        record_many_unsigned(client, 1);
        client.batch_execute(&format!("PREPARE TRANSACTION '{gid}'")).unwrap();
    };
    prepare(&mut client, "old");
    record_many_unsigned(&mut client, ROWS as usize);
    wait_until_all_sealed(&mut client, ROWS / 10_000);
    prepare(&mut client, "new");
    stop_between_transactions(&mut client, worker);
    client.batch_execute("ROLLBACK PREPARED 'old'").unwrap();
    client.batch_execute("ROLLBACK PREPARED 'new'").unwrap();
    let path = file(&mut client);
    let length = fs::metadata(&path).unwrap().len();
    let voiding = growth(worker, || {
        send(worker, libc::SIGCONT);
        wait_until("the lines are voided", 5 * PATIENCE, || fs::metadata(&path).unwrap().len() > length);
    });
    assert!(voiding < 20, "voiding took {voiding} MB");
    assert_eq!(verdict(&mut client)["overall_valid"], true);
    eprintln!("voiding {voiding} MB");
}

/// A pool keeps its sessions for weeks, and after each change of a table's definition they look everything up again.
#[test]
fn a_session_keeps_nothing_of_tables_as_they_were_before() {
    const CHANGES: usize = 200;
    // New statistics would be counted.
    let (_cluster, mut client) = start(Options::new().conf("autovacuum = off"));
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('calm', 'busy');
             CREATE TABLE visits (id int PRIMARY KEY, span int4range, moods mood[], place point);
             SELECT ledger.track('visits')",
        )
        .unwrap();
    let change = |client: &mut Client, id: usize| {
        let insert = format!(
            "INSERT INTO visits VALUES ({id}, '[1,5)', '[2:2]={{busy}}', '(1,2)'); ALTER TABLE visits SET (fillfactor = {})",
            50 + id % 50
        );
        client.batch_execute(&insert).unwrap();
    };
    let kept = "SELECT sum(used_bytes)::bigint FROM pg_backend_memory_contexts WHERE name NOT IN ('ExecutorState', 'PortalContext')";
    (0..20).for_each(|id| change(&mut client, id));
    let before = number(&mut client, kept);
    (20..20 + CHANGES).for_each(|id| change(&mut client, id));
    let grown = number(&mut client, kept) - before;
    assert!(grown < 50 * CHANGES as i64, "{grown} bytes more after {CHANGES} changes");
}

/// If the worker kept all its entries in memory, the system could end it for lack of memory, at each start again.
#[test]
fn a_large_prepared_transaction_takes_bounded_memory_when_the_server_starts() {
    const ROWS: usize = 400_000;
    let (cluster, mut client) = start(Options::new().secret(None).conf("max_prepared_transactions = 2"));
    client
        .batch_execute(&format!(
            "BEGIN;
             INSERT INTO ledger.entries (entry_type, data_hash, metadata)
             SELECT 'bulk', lpad(to_hex(n), 64, '0'), jsonb_build_object('text', repeat('x', 500)) FROM generate_series(1, {ROWS}) n;
             PREPARE TRANSACTION 'large'"
        ))
        .unwrap();
    drop(client);
    cluster.restart(Stop::Immediate);
    let mut client = cluster.connect("postgres");
    wait_until_attached(&mut client);
    let most = highest_memory(worker_pid(&mut client));
    assert!(most < 200, "opening the file took {most} MB");
    client.batch_execute("COMMIT PREPARED 'large'").unwrap();
    wait_until("all of it is sealed", 5 * PATIENCE, || {
        number(&mut client, "SELECT coalesce(sum(data_count), 0)::bigint FROM ledger.blocks") == ROWS as i64
    });
    assert_eq!(verdict(&mut client)["overall_valid"], true);
    eprintln!("opening the file {most} MB");
}
