//! Sealing makes the partitions of `ledger.entries_sealed` in time, as large as they should be, where and for whom they
//! belong; what cannot have one waits, and nothing else does.
#![cfg(feature = "cluster-tests")]

use crate::common::copy_jsonl::{export, import};
use crate::common::faults::seal_once_it_works;
use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{as_server, wait_until, write_file, Options};
use crate::entry_partitions::{ledger, ARRANGEMENTS, TAKE};
use postgres::error::SqlState;
use postgres::Client;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Else the one that holds the newest blocks could not be attached again.
#[test]
fn sealing_makes_no_partition_in_the_place_of_one_that_was_taken_away() {
    let (_cluster, mut client, _) = ledger();
    client.batch_execute(&format!("{TAKE}{}", ARRANGEMENTS[0].1.replace("(50)", "(6)"))).unwrap();
    // The next one is made where this one ends.
    seal(&mut client);
    client
        .batch_execute(
            "ALTER TABLE ledger.entries_sealed DETACH PARTITION ledger.entries_sealed_6;
             ALTER TABLE ledger.entries_sealed_6 RENAME TO kept",
        )
        .unwrap();
    record(&mut client);
    let error = error(&mut client, "SELECT * FROM ledger.commit_block()");
    assert!(all_text(&error).contains("attach it again"), "{error:?}");
    client
        .batch_execute("ALTER TABLE ledger.entries_sealed ATTACH PARTITION ledger.kept FOR VALUES FROM (6) TO (100006)")
        .unwrap();
    seal(&mut client);
    assert_intact(&mut client);
    assert_clean(&mut client, "notes");
}

/// The first partition, `taken`, has its triggers from the installation, others from sealing.
#[test]
fn what_changes_entries_is_refused_in_a_new_partition_as_in_the_first() {
    let (_cluster, mut client, _) = ledger();
    end_at(&mut client, 6);
    record_many(&mut client, 3);
    seal(&mut client);
    let sealed = "SELECT count(*) FROM ledger.entries_sealed_6";
    assert!(number(&mut client, sealed) > 0);
    let triggers = |client: &mut Client, partition: &str| {
        let list = "SELECT (tgname, tgtype, tgenabled, tgfoid::regproc) FROM pg_trigger WHERE NOT tgisinternal";
        column(client, &format!("{list} AND tgrelid = '{partition}'::regclass ORDER BY tgname"))
    };
    assert_eq!(triggers(&mut client, "ledger.entries_sealed_6"), triggers(&mut client, "taken"));

    let before = value(&mut client, "SELECT array_agg(e ORDER BY leaf_index) FROM ledger.entries_sealed AS e");
    let columns = "id, block_number, entry_type, data_hash, leaf_index";
    let forged = "gen_random_uuid(), block_number, 'forged', data_hash, leaf_index + 100";
    for role in ["origin", "replica", "local"] {
        client.batch_execute(&format!("SET session_replication_role = {role}")).unwrap();
        for statement in [
            "UPDATE ledger.entries_sealed_6 SET entry_type = 'changed'".to_owned(),
            "DELETE FROM ledger.entries_sealed_6".to_owned(),
            "TRUNCATE ledger.entries_sealed_6".to_owned(),
            format!("INSERT INTO ledger.entries_sealed_6 ({columns}) SELECT {forged} FROM ledger.entries_sealed_6"),
        ] {
            let refused = error(&mut client, &statement);
            assert_eq!(*refused.code(), SqlState::INSUFFICIENT_PRIVILEGE, "{statement}: {refused:?}");
        }
    }
    client.batch_execute("RESET session_replication_role").unwrap();
    assert_eq!(value(&mut client, "SELECT array_agg(e ORDER BY leaf_index) FROM ledger.entries_sealed AS e"), before);
    assert_intact(&mut client);
}

/// Moves the end of the one partition that holds entries, so that the next one is to be made where it is.
fn end_at(client: &mut Client, block_number: i64) {
    let arrange = ARRANGEMENTS[0].1.replace("(50)", &format!("({block_number})"));
    client.batch_execute(&format!("{TAKE}{arrange}")).unwrap();
}

const HAS_NEXT: &str = "to_regclass('ledger.entries_sealed_9000') IS NOT NULL";

/// Has the worker seal one full block.
#[track_caller]
fn have_a_block_sealed(client: &mut Client) {
    let before = number(client, "SELECT block_count FROM ledger.chain_stats");
    record_many(client, 100);
    wait_for(client, &format!("(SELECT block_count > {before} FROM ledger.chain_stats)"));
}

/// What is in the way is looked at again after a minute.
#[test]
fn the_worker_seals_while_there_is_room_though_the_next_partition_cannot_be_made_and_makes_it_once_it_can() {
    let (cluster, mut client, _) = ledger();
    end_at(&mut client, 9000);
    client.batch_execute("CREATE VIEW ledger.entries_sealed_9000 AS SELECT 1").unwrap();
    let since = Instant::now();
    (0..5).for_each(|_| have_a_block_sealed(&mut client));
    let refused =
        "could not create ledger.entries_sealed_9000 in advance: relation \"entries_sealed_9000\" already exists";
    cluster.wait_for_log(refused);
    let log = cluster.log();
    assert!(log.contains("Without it, sealing goes on until block 8999."), "{log}");
    assert!(log.matches(refused).count() as u64 <= 1 + since.elapsed().as_secs() / 60, "{log}");
    assert_eq!(value(&mut client, "SELECT state FROM ledger.workers"), "running");

    client.batch_execute("DROP VIEW ledger.entries_sealed_9000").unwrap();
    wait_until("the worker makes the next partition", Duration::from_secs(60) + PATIENCE, || {
        have_a_block_sealed(&mut client);
        // So that it takes few blocks.
        sleep(Duration::from_secs(1));
        is_true(&mut client, HAS_NEXT)
    });
    assert_intact(&mut client);
}

/// A foreign key leads there, and any role can have the statement prepared.
#[test]
fn who_has_locked_the_blocks_keeps_the_next_partition_from_being_made_and_nothing_from_being_sealed() {
    let (cluster, mut client, _) = ledger();
    end_at(&mut client, 9000);
    client.batch_execute("CREATE ROLE app LOGIN").unwrap();
    let mut app = cluster.connect_as("app", "postgres");
    app.batch_execute("BEGIN; PREPARE p AS DELETE FROM ledger.blocks").unwrap();
    (0..3).for_each(|_| have_a_block_sealed(&mut client));
    cluster.wait_for_log(
        "could not create ledger.entries_sealed_9000 in advance: canceling statement due to lock timeout",
    );
    record(&mut client);
    seal(&mut client);
    assert!(!is_true(&mut client, HAS_NEXT));
    app.batch_execute("ROLLBACK").unwrap();
    // A session of its own tries at once.
    let mut other = cluster.connect("postgres");
    record(&mut other);
    seal(&mut other);
    assert!(is_true(&mut other, HAS_NEXT));
    assert_intact(&mut other);
}

/// A caller of commit_block() would hold the sealing lock meanwhile.
#[test]
fn who_has_locked_the_blocks_where_there_is_no_room_is_named_and_waited_for_by_no_caller() {
    let (cluster, mut client, _) = ledger();
    end_at(&mut client, 6);
    let mut other = cluster.connect("postgres");
    other.batch_execute("BEGIN; PREPARE p AS DELETE FROM ledger.blocks").unwrap();
    record(&mut client);
    assert_eq!(error(&mut client, SEAL).message(), "canceling statement due to lock timeout");
    record_many(&mut client, 100);
    cluster.wait_for_log(" holds a lock on ledger.blocks");
    other.batch_execute("ROLLBACK").unwrap();
    seal_once_it_works(&mut client);
    assert_intact(&mut client);
}

#[test]
fn the_next_partition_is_made_while_others_write_and_none_waits() {
    let (cluster, mut client, _) = ledger();
    end_at(&mut client, 9000);
    let mut writer = cluster.connect("postgres");
    writer.batch_execute(&format!("BEGIN; {RECORD}")).unwrap();
    in_time("sealing", move || {
        record(&mut client);
        client.batch_execute(SEAL).unwrap();
        assert!(is_true(&mut client, HAS_NEXT));
    });
    writer.batch_execute(&format!("{RECORD}; COMMIT")).unwrap();
    seal(&mut writer);
    assert_intact(&mut writer);
}

#[test]
fn an_event_trigger_that_refuses_all_commands_keeps_nothing_from_being_sealed() {
    let (cluster, mut client, _) = ledger();
    end_at(&mut client, 9000);
    client
        .batch_execute(
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no DDL today'; END $$;
             CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()",
        )
        .unwrap();
    seal(&mut client);
    assert!(is_true(&mut client, HAS_NEXT));
    assert!(!cluster.log().contains("could not create"), "{}", cluster.log());
    record_many(&mut client, 3);
    seal(&mut client);
    assert_eq!(error(&mut client, "CREATE TABLE other ()").message(), "no DDL today");
    client.batch_execute("DROP EVENT TRIGGER refuse").unwrap();
    assert_intact(&mut client);
}

#[test]
fn sealing_stops_where_there_is_no_room_and_goes_on_once_the_partition_can_be_made() {
    let (cluster, mut client, _) = ledger();
    end_at(&mut client, 7);
    client.batch_execute("CREATE VIEW ledger.entries_sealed_7 AS SELECT 1").unwrap();
    seal(&mut client);
    cluster.wait_for_log("Without it, sealing goes on until block 6.");
    record(&mut client);
    // That it was refused in advance does not count here.
    let refused = error(&mut client, SEAL);
    assert_eq!(refused.message(), "relation \"entries_sealed_7\" already exists");
    assert!(all_text(&refused).contains("the partition of ledger.entries_sealed for block 7"), "{refused:?}");
    client.batch_execute("DROP VIEW ledger.entries_sealed_7").unwrap();
    seal(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_new_partition_is_read_in_its_table_whatever_became_of_the_roles() {
    let (cluster, mut client, _) = ledger();
    end_at(&mut client, 9000);
    client
        .batch_execute(
            "ALTER ROLE ledger_auditor RENAME TO \"the auditors\"; DROP OWNED BY ledger_admin; DROP ROLE ledger_admin;
             CREATE ROLE archive; GRANT SELECT ON ledger.entries_sealed TO archive; CREATE ROLE stranger",
        )
        .unwrap();
    seal(&mut client);
    assert!(is_true(&mut client, HAS_NEXT));
    for (role, may_read) in [("archive", true), ("the auditors", true), ("stranger", false)] {
        client.batch_execute(&format!("SET ROLE \"{role}\"")).unwrap();
        let is_read = client.simple_query("SELECT FROM ledger.entries_sealed WHERE block_number >= 9000").is_ok();
        assert_eq!(is_read, may_read, "{role}");
        let alone = error(&mut client, "SELECT FROM ledger.entries_sealed_9000");
        assert_eq!(*alone.code(), SqlState::INSUFFICIENT_PRIVILEGE, "{role}");
        client.batch_execute("RESET ROLE").unwrap();
    }

    client
        .batch_execute(
            "ALTER TABLE ledger.entries_sealed DETACH PARTITION ledger.entries_sealed_9000;
             ALTER EXTENSION pg_notary DROP TABLE ledger.entries_sealed_9000; DROP TABLE ledger.entries_sealed_9000;
             DROP OWNED BY archive, \"the auditors\"; DROP ROLE archive, \"the auditors\"",
        )
        .unwrap();
    record(&mut client);
    seal(&mut client);
    assert!(is_true(&mut client, HAS_NEXT));
    assert!(!cluster.log().contains("in advance"), "{}", cluster.log());
    assert_intact(&mut client);
}

/// Postgres keeps what was granted on a member of an extension, and before version 17 also of a role that is gone. A
/// dump then names that by its number, and pg_upgrade stops there.
#[test]
fn a_dump_names_no_role_that_may_have_read_a_partition_once() {
    let (cluster, mut client, _) = ledger();
    end_at(&mut client, 9000);
    client
        .batch_execute(
            "CREATE ROLE archive; GRANT SELECT ON ledger.entries_sealed TO archive; CREATE ROLE app;
             ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO app",
        )
        .unwrap();
    seal(&mut client);
    assert!(is_true(&mut client, HAS_NEXT));
    client.batch_execute("DROP OWNED BY archive, app; DROP ROLE archive, app").unwrap();
    let dump = cluster.run("pg_dump", &["--schema-only", "postgres"]);
    let privileges: Vec<&str> =
        dump.lines().filter(|line| line.starts_with("GRANT ") || line.starts_with("REVOKE ")).collect();
    let is_of_partition = |line: &&&str| line.contains("entries_sealed_9000");
    assert_eq!(privileges.iter().find(is_of_partition), None);
    let is_number = |line: &&&str| line.contains(" \"1");
    assert_eq!(privileges.iter().find(is_number), None);
}

/// The tablespaces that the newest partition, its indexes and its TOAST table are in; empty for that of the database.
const TABLESPACES: &str = "
    SELECT DISTINCT coalesce(spcname, '') FROM pg_class c LEFT JOIN pg_tablespace t ON t.oid = reltablespace
    WHERE c.oid IN (SELECT 'ledger.entries_sealed_6'::regclass
                    UNION SELECT reltoastrelid FROM pg_class WHERE oid = 'ledger.entries_sealed_6'::regclass
                    UNION SELECT indexrelid FROM pg_index WHERE indrelid = 'ledger.entries_sealed_6'::regclass)";

/// Else whoever may seal could put entries of the ledger on storage of its own, or fill that of others.
#[test]
fn a_new_partition_goes_where_its_table_is_whatever_tablespace_the_caller_prefers() {
    for (is_by_worker, chosen) in [(false, ""), (false, "archive"), (true, "archive")] {
        let (cluster, mut client, _) = ledger();
        for name in ["own", "archive"] {
            let location = cluster.scratch_dir().join(name);
            crate::common::succeed(as_server("mkdir").arg(&location));
            client.batch_execute(&format!("CREATE TABLESPACE {name} LOCATION '{}'", location.display())).unwrap();
        }
        if !chosen.is_empty() {
            client.batch_execute(&format!("ALTER TABLE ledger.entries_sealed SET TABLESPACE {chosen}")).unwrap();
        }
        client.batch_execute(&format!("{TAKE}{}", ARRANGEMENTS[0].1.replace("(50)", "(6)"))).unwrap();
        client.batch_execute("CREATE ROLE app LOGIN IN ROLE ledger_writer").unwrap();
        if is_by_worker {
            record_many(&mut client, 100);
            wait_for(&mut client, "to_regclass('ledger.entries_sealed_6') IS NOT NULL");
        } else {
            client.batch_execute("GRANT CREATE ON TABLESPACE own TO app").unwrap();
            let mut app = cluster.connect_as("app", "postgres");
            app.batch_execute("SET default_tablespace = own; SELECT count(*) FROM ledger.commit_block()").unwrap();
            assert_eq!(value(&mut app, "SHOW default_tablespace"), "own");
        }
        assert_eq!(column(&mut client, TABLESPACES), [chosen], "by the worker: {is_by_worker}");
        seal(&mut client);
        assert_intact(&mut client);
    }
}

#[test]
fn a_batch_seals_the_blocks_that_have_a_place_though_those_behind_have_none() {
    let (cluster, mut client, _) = ledger();
    end_at(&mut client, 8);
    client.batch_execute("CREATE VIEW ledger.entries_sealed_8 AS SELECT 1").unwrap();
    record_many(&mut client, 1000);
    cluster.wait_for_log("Without it, sealing goes on until block 7.");
    wait_for(&mut client, "(SELECT state = 'failing' FROM ledger.workers)");
    assert_eq!(number(&mut client, "SELECT block_count FROM ledger.chain_stats"), 7);
    let refused = error(&mut client, SEAL);
    assert_eq!(refused.message(), "relation \"entries_sealed_8\" already exists");
    assert!(all_text(&refused).contains("the partition of ledger.entries_sealed for block 8"), "{refused:?}");
    client.batch_execute("DROP VIEW ledger.entries_sealed_8").unwrap();
    seal(&mut client);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries_sealed_8"), 1020 - 19 - 200);
    assert_intact(&mut client);
    assert_clean(&mut client, "notes");
}

#[test]
fn one_transaction_seals_blocks_of_several_partitions() {
    let (_cluster, mut client, _) = ledger();
    end_at(&mut client, 8);
    let entries = "SELECT 'many', repeat('0', 64) FROM generate_series(1, 999)";
    client.batch_execute(&format!("BEGIN; INSERT INTO ledger.entries (entry_type, data_hash) {entries}")).unwrap();
    assert_eq!(column(&mut client, SEAL).len(), 10);
    client.batch_execute("COMMIT").unwrap();
    wait_until_sealed(&mut client);
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries_sealed_8"), 800);
    assert_intact(&mut client);
    assert_clean(&mut client, "notes");
}

#[test]
fn an_import_makes_the_partitions_that_it_needs_or_says_which_one_it_cannot_make() {
    let exported = {
        let (_old, mut client, _) = ledger();
        export(&mut client)
    };
    let (new, mut client) = start(quiet());
    let copy = new.scratch_dir().join("copy.jsonl");
    write_file(&copy, exported);
    end_at(&mut client, 3);
    client.batch_execute("CREATE VIEW ledger.entries_sealed_3 AS SELECT 1").unwrap();
    let refused = error(&mut client, &import(&copy));
    assert!(all_text(&refused).contains("the partition of ledger.entries_sealed for block 3"), "{refused:?}");
    client.batch_execute("DROP VIEW ledger.entries_sealed_3").unwrap();
    client.batch_execute(&import(&copy)).unwrap();
    wait_until_attached(&mut client);
    assert_eq!(number(&mut client, "SELECT min(block_number) FROM ledger.entries_sealed_3"), 3);
    assert_intact(&mut client);
}

/// The blocks that a partition is for.
fn bounds(client: &mut Client, partition: &str) -> String {
    value(
        client,
        &format!("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = 'ledger.{partition}'::regclass"),
    )
}

/// Else there would be a partition every few days where `ledger.block_interval` ends blocks of few entries.
#[test]
fn a_new_partition_is_for_as_many_blocks_as_hold_ten_million_entries_if_they_go_on_as_before() {
    // Entries in a block, and the end of the partition from block 5 on.
    for (entries, end) in [(100, 100_005), (50, 200_005), (1, 1_600_005)] {
        let (_cluster, mut client) =
            start(Options::new().conf("ledger.block_size = 100").conf("ledger.block_interval = 1h"));
        assert_eq!(bounds(&mut client, "entries_sealed_1"), "FOR VALUES FROM ('1') TO ('100001')");
        end_at(&mut client, 5);
        for _ in 1..5 {
            record_many(&mut client, entries);
            seal(&mut client);
        }
        // Made in advance, from fewer blocks.
        client.batch_execute("ALTER TABLE ledger.entries_sealed DETACH PARTITION ledger.entries_sealed_5").unwrap();
        client
            .batch_execute(
                "ALTER EXTENSION pg_notary DROP TABLE ledger.entries_sealed_5; DROP TABLE ledger.entries_sealed_5",
            )
            .unwrap();
        record(&mut client);
        seal(&mut client);
        assert_eq!(bounds(&mut client, "entries_sealed_5"), format!("FOR VALUES FROM ('5') TO ('{end}')"));
        assert_intact(&mut client);
    }
}

#[test]
fn a_new_partition_holds_the_full_blocks_of_a_smaller_block_size() {
    let (_cluster, mut client) = start(quiet());
    record_many(&mut client, 500);
    seal(&mut client);
    end_at(&mut client, 2);
    set(&mut client, "ledger.block_size", "100");
    record(&mut client);
    seal(&mut client);
    assert_eq!(bounds(&mut client, "entries_sealed_2"), "FOR VALUES FROM ('2') TO ('100002')");
}
