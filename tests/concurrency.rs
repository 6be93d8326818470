//! Many sessions at once: nothing is lost, the chain neither forks nor has gaps, and sealing holds nobody up.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::stop_at_end::StopAtEnd;
use crate::common::{wait_until, Cluster, Options};
use postgres::error::SqlState;
use postgres::Client;
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const WRITERS: usize = 16;

/// How long to write: 30 s, or as many as `PG_NOTARY_TEST_SECONDS` says.
fn duration() -> Duration {
    let seconds = std::env::var("PG_NOTARY_TEST_SECONDS").map_or(30, |text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds)
}

/// Records until the deadline: mostly single entries, some transactions of several, some rolled back. Returns the ids
/// of what was acknowledged.
fn write_until(deadline: Instant, mut client: Client) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for round in 0.. {
        if Instant::now() > deadline {
            break;
        }
        match round % 10 {
            3 => acknowledged.extend(record_many(&mut client, 5)),
            7 => {
                client.batch_execute(&format!("BEGIN; {RECORD}; ROLLBACK")).unwrap();
            }
            _ => acknowledged.push(record(&mut client)),
        }
    }
    acknowledged
}

fn write_with(cluster: &Cluster, writers: usize, deadline: Instant) -> BTreeSet<String> {
    thread::scope(|scope| {
        let start = |_| scope.spawn(move || write_until(deadline, cluster.connect("postgres")));
        let writers: Vec<_> = (0..writers).map(start).collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    })
}

#[test]
fn sixteen_clients_lose_nothing_and_everything_is_sealed() {
    let options = Options::new().conf("ledger.block_size = 50").conf("ledger.block_interval = 1s");
    let (cluster, mut client) = start(options);
    let acknowledged = write_with(&cluster, WRITERS, Instant::now() + duration());
    assert!(acknowledged.len() > 1000, "only {} entries", acknowledged.len());

    wait_until_sealed(&mut client);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), acknowledged.len() as i64);
    assert!(ids_in_table(&mut client) == acknowledged, "the table does not hold what was acknowledged");
    let path = file(&mut client);
    assert!(ids_in_file(&path) == acknowledged, "the file does not hold what was acknowledged");
    assert!(of_type(&lines(&path), "void").is_empty(), "a transaction rolled back before its commit left a line");
    assert_eq!(number(&mut client, "SELECT max(data_count) FROM ledger.blocks"), 50);
    assert_intact(&mut client);
}

/// Seals as fast as it can, in each isolation level, and gives some of it up again. Returns the blocks it committed.
fn seal_until(stop: &AtomicBool, mut client: Client) -> Vec<String> {
    let mut committed = Vec::new();
    let levels = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];
    for round in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let give_up = round % 5 == 4;
        let end = if give_up { "ROLLBACK" } else { "COMMIT" };
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {}; SELECT 1", levels[round % 3])).unwrap();
        match try_to_seal(&mut client, end) {
            Ok(blocks) if !give_up => committed.extend(blocks),
            Ok(_) => {}
            // A serializable transaction may always be told to try again.
            Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => {
                client.batch_execute("ROLLBACK").unwrap();
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    committed
}

fn try_to_seal(client: &mut Client, end: &str) -> Result<Vec<String>, postgres::Error> {
    let rows = client.query("SELECT block_hash FROM ledger.commit_block()", &[])?;
    client.batch_execute(end)?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[test]
fn sealing_from_many_sessions_neither_forks_nor_skips() {
    let options = Options::new().conf("ledger.block_size = 7").conf("ledger.block_interval = 1s");
    let (cluster, mut client) = start(options);
    let stop = &AtomicBool::new(false);
    let (acknowledged, sealed) = thread::scope(|scope| {
        let start = |_| scope.spawn(|| seal_until(stop, cluster.connect("postgres")));
        let sealers: Vec<_> = (0..4).map(start).collect();
        let stop_at_end = StopAtEnd(stop);
        let acknowledged = write_with(&cluster, 6, Instant::now() + Duration::from_secs(6));
        drop(stop_at_end);
        let sealed: Vec<String> = sealers.into_iter().flat_map(|sealer| sealer.join().unwrap()).collect();
        (acknowledged, sealed)
    });
    wait_until_sealed(&mut client);
    let hashes: BTreeSet<String> = column(&mut client, "SELECT block_hash FROM ledger.blocks").into_iter().collect();
    assert!(!sealed.is_empty() && sealed.iter().all(|hash| hashes.contains(hash)), "a committed block is gone");
    assert_eq!(sealed.iter().collect::<BTreeSet<_>>().len(), sealed.len(), "a block was given out twice");
    assert!(ids_in_table(&mut client) == acknowledged, "the table does not hold what was acknowledged");
    assert_intact(&mut client);
}

/// Each way of recording, each in a session of its own that must come back in time.
fn record_in_every_way(cluster: &Cluster) {
    let insert = "INSERT INTO ledger.entries (entry_type, data_hash) SELECT 't', ledger.hash_data('1') \
                  FROM generate_series(1, 30)";
    let copy = "COPY ledger.entries (entry_type, data_hash) FROM PROGRAM \
                'printf \"t\\\\t%064d\\\\n\" 1'";
    for sql in [RECORD, insert, copy] {
        let mut session = cluster.connect("postgres");
        in_time(sql, move || session.simple_query(sql).map(drop)).unwrap();
    }
}

#[test]
fn an_open_transaction_that_sealed_holds_no_writer_up() {
    let options = Options::new().conf("ledger.block_size = 10").conf("ledger.block_interval = 1s");
    let (cluster, mut client) = start(options);
    for end in ["COMMIT", "ROLLBACK"] {
        let mut sealer = cluster.connect("postgres");
        sealer.batch_execute(&format!("BEGIN; {RECORD}; SELECT * FROM ledger.commit_block()")).unwrap();
        // The worker waits for the sealer now, or will once these are in.
        record_in_every_way(&cluster);
        record_in_every_way(&cluster);
        assert!(number(&mut client, "SELECT pending_count FROM ledger.chain_stats") >= 60, "somebody else sealed");
        sealer.batch_execute(end).unwrap();
        wait_until_sealed(&mut client);
    }
    // Two rounds of twice 32, and the entry that the first sealer recorded and committed.
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries"), 2 * 2 * 32 + 1);
    assert_intact(&mut client);
}

/// The worker seals, and it opens the file: it must not wait for the one while the other is wanted.
#[test]
fn who_locks_a_table_of_sealed_entries_holds_up_nothing_but_sealing() {
    let (cluster, mut client) =
        start(Options::new().conf("ledger.block_size = 5").conf("max_prepared_transactions = 5"));
    record_many(&mut client, 5);
    wait_until_sealed(&mut client);
    let path = file(&mut client);
    let mut holder = cluster.connect("postgres");
    let holder_pid = number(&mut holder, "SELECT pg_backend_pid()");
    for lock in [
        "CREATE INDEX ON ledger.entries_sealed ((metadata->>'order'))",
        "LOCK TABLE ledger.row_versions IN ACCESS EXCLUSIVE MODE",
    ] {
        holder.batch_execute(&format!("BEGIN; {lock}")).unwrap();
        client
            .batch_execute("CREATE TABLE IF NOT EXISTS held (id int PRIMARY KEY); SELECT ledger.track('held')")
            .unwrap();
        let named = format!("session {holder_pid} holds a lock on ledger.");
        let times_said = || cluster.log().matches(&named).count();
        let before = times_said();
        let partition = "SELECT pg_relation_size('ledger.entries_sealed_1')";
        let size = number(&mut client, partition);
        client.batch_execute("TRUNCATE held; INSERT INTO held SELECT generate_series(1, 300)").unwrap();
        wait_until("the log says what is locked", PATIENCE, || times_said() > before);
        // Its lines are voided, and the id can be used again.
        let own_id = "SELECT ledger.append_entry('x', 'b7a0f2c4-0000-4000-8000-000000000001', repeat('a', 64))";
        client.batch_execute(&format!("BEGIN; {own_id}; PREPARE TRANSACTION 'g'")).unwrap();
        client.batch_execute("ROLLBACK PREPARED 'g'").unwrap();
        client.batch_execute(&format!("BEGIN; {own_id}; ROLLBACK")).unwrap();
        client.batch_execute("SELECT ledger.append_entry('x', gen_random_uuid(), repeat('a', 64))").unwrap();
        // The file is opened again.
        fs::set_permissions(&path, Permissions::from_mode(0o660)).unwrap();
        error(&mut client, RECORD);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
        client.batch_execute("SELECT ledger.mirror_restart()").unwrap();
        assert_eq!(number(&mut client, partition), size, "each attempt to seal leaves a hole in the partition");
        holder.batch_execute("ROLLBACK").unwrap();
        wait_for(&mut client, "(SELECT pending_count < 5 FROM ledger.chain_stats)");
        assert_intact(&mut client);
    }
}

#[test]
fn a_writer_that_stays_open_holds_no_sealing_up() {
    let options = Options::new().conf("ledger.block_size = 10").conf("ledger.block_interval = 1s");
    let (cluster, mut client) = start(options);
    let mut slow = cluster.connect("postgres");
    slow.batch_execute(&format!("BEGIN; {RECORD}")).unwrap();
    record_many(&mut client, 25);
    wait_until_sealed(&mut client);
    slow.batch_execute("COMMIT").unwrap();
    wait_for(&mut client, "(SELECT entry_count = 26 FROM ledger.chain_stats)");
    wait_until_sealed(&mut client);
    assert_intact(&mut client);
}

#[test]
fn verifying_while_others_record_and_seal_raises_no_false_alarm() {
    let options = Options::new().conf("ledger.block_size = 3").conf("ledger.block_interval = 1s");
    let (cluster, mut client) = start(options);
    record(&mut client);
    thread::scope(|scope| {
        let load = scope.spawn(|| write_with(&cluster, 4, Instant::now() + Duration::from_secs(8)));
        while !load.is_finished() {
            let verdict = verdict(&mut client);
            assert_eq!(verdict["overall_valid"], true, "{verdict:#}");
            // Also where the tables stand still for the verifier, while the file goes on.
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1").unwrap();
            let (blocks, path) = (number(&mut client, "SELECT count(*) FROM ledger.blocks"), file(&mut client));
            wait_until("more is sealed", PATIENCE, || {
                load.is_finished() || of_type(&lines(&path), "block").len() as i64 > blocks
            });
            let verdict = self::verdict(&mut client);
            assert_eq!(verdict["overall_valid"], true, "REPEATABLE READ: {verdict:#}");
            client.batch_execute("COMMIT").unwrap();
            let (status, report) = cli_verify(&file(&mut client));
            assert_eq!(status, 0, "{report:#}");
        }
    });
    wait_until_sealed(&mut client);
    assert_intact(&mut client);
}

/// Postgres tells other sessions of a new partition only after it can be seen: a transaction that has the partitions'
/// parent open already must ask for such news. Here all of a block's entries are in a partition that is attached since
/// it verified. The file is put aside and written anew in the midst of it, and what is rolled back meanwhile is voided
/// in the new one.
#[test]
fn verifying_while_the_file_is_replaced_raises_no_false_alarm() {
    let (cluster, mut client) = start(Options::new().conf("max_prepared_transactions = 5"));
    let many = "INSERT INTO ledger.entries (entry_type, data_hash, metadata)
                SELECT 'many', ledger.hash_data('1'), jsonb_build_object('text', repeat('x', 300)) FROM generate_series(1, 60000)";
    client.batch_execute(many).unwrap();
    client.batch_execute("SELECT count(*) FROM ledger.commit_block()").unwrap();
    wait_until_sealed(&mut client);
    for delay in [0, 10, 20, 40, 80, 160, 320] {
        client.batch_execute(&format!("BEGIN; {RECORD}; PREPARE TRANSACTION 'undecided'")).unwrap();
        let mut other = cluster.connect("postgres");
        let verifying = thread::spawn(move || {
            column(
                &mut other,
                "SELECT DISTINCT source || ' ' || problem || ' ' || detail FROM ledger.find_tampering() LIMIT 5",
            )
        });
        // Whatever it hits, it is to find nothing.
        thread::sleep(Duration::from_millis(delay));
        let mut third = cluster.connect("postgres");
        let restarting = thread::spawn(move || third.batch_execute("SELECT ledger.mirror_restart()").unwrap());
        thread::sleep(Duration::from_millis(50));
        client.batch_execute("ROLLBACK PREPARED 'undecided'").unwrap();
        restarting.join().unwrap();
        assert_eq!(verifying.join().unwrap(), Vec::<String>::new(), "a restart {delay} ms after it began");
    }
    assert_intact(&mut client);
}

#[test]
fn a_transaction_that_has_verified_before_verifies_what_is_in_a_partition_attached_since() {
    let (cluster, mut client) = start(Options::new().conf("ledger.block_size = 10"));
    let mut other = cluster.connect("postgres");
    // A partition that was never attached has no foreign key of its own: dropping one takes a lock that waits for
    // readers.
    let detach = "ALTER TABLE ledger.entries_sealed DETACH PARTITION ledger.entries_sealed_1;
                  ALTER TABLE ledger.entries_sealed_1 DROP CONSTRAINT entries_block_number_fkey";
    other.batch_execute(detach).unwrap();
    client.batch_execute("BEGIN").unwrap();
    let before = verdict(&mut client);
    let attach =
        "ALTER TABLE ledger.entries_sealed ATTACH PARTITION ledger.entries_sealed_1 FOR VALUES FROM (1) TO (1000001)";
    in_time("ATTACH PARTITION", {
        let mut other = cluster.connect("postgres");
        move || other.batch_execute(attach)
    })
    .unwrap();
    record_many(&mut other, 20);
    wait_until_sealed(&mut other);
    let after = verdict(&mut client);
    client.batch_execute("COMMIT").unwrap();
    assert_eq!(before["overall_valid"], true, "{before:#}");
    assert_eq!(after["overall_valid"], true, "{after:#}");
    assert_eq!(after["postgres_chain"]["entry_count"], 20);
}

/// Processes are forked of one that has made random numbers, and must not go on with the same.
#[test]
fn no_two_sessions_make_ids_of_the_same_random_numbers() {
    let (cluster, _client) = start(Options::new());
    const SESSIONS: usize = 4;
    let first_id = |_| record(&mut cluster.connect("postgres"));
    // The bits behind time and count.
    let random_bits: BTreeSet<String> = (0..SESSIONS).map(first_id).map(|id| id[id.len() - 8..].to_owned()).collect();
    assert_eq!(random_bits.len(), SESSIONS, "{random_bits:?}");
}
