//! The triggers of a tracked table, and what they are to record, are as `track` made them: of the table and of each
//! partition. Where somebody has changed that, verification says so, whatever the rows are.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::{pg_major, Cluster, Options};
use postgres::error::SqlState;
use postgres::Client;
use serde_json::Value;

const TABLES: &str = "
CREATE ROLE shop LOGIN;
CREATE SCHEMA shop AUTHORIZATION shop;
SET ROLE shop;
CREATE TABLE shop.accounts (id int PRIMARY KEY, amount int, note int);
CREATE TABLE shop.events (id int PRIMARY KEY, what text) PARTITION BY RANGE (id);
CREATE TABLE shop.events_1 PARTITION OF shop.events FOR VALUES FROM (0) TO (100);
CREATE TABLE shop.events_2 PARTITION OF shop.events FOR VALUES FROM (100) TO (200);
RESET ROLE;
SELECT ledger.track('shop.accounts', columns => '{amount}'), ledger.track('shop.events');
INSERT INTO shop.accounts VALUES (1, 100, 1);
INSERT INTO shop.events VALUES (1, 'a'), (101, 'b');";

fn start_tracked() -> (Cluster, Client, Client) {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute(TABLES).unwrap();
    let owner = cluster.connect_as("shop", "postgres");
    (cluster, client, owner)
}

/// What verify_all() says of the table as a whole, and the call that it names to make it good.
fn fault(client: &mut Client, table: &str) -> Option<(String, String)> {
    let verdict = json(client, "SELECT ledger.verify_all()");
    let of_table = |element: &&Value| element["table"] == table && element.get("row_count").is_none();
    let found = verdict["tables"].as_array().unwrap().iter().find(of_table)?;
    assert_eq!((&verdict["overall_valid"], &found["valid"]), (&Value::from(false), &Value::from(false)));
    let detail = found["errors"][0]["detail"].as_str().unwrap();
    let call = detail.split_once("SELECT ledger.track(").map(|(_, call)| format!("SELECT ledger.track({call}"));
    let call = call.unwrap().split(" makes ").next().unwrap().split(" enables ").next().unwrap().to_owned();
    let call = call.split(" restores ").next().unwrap().to_owned();
    Some((found["errors"][0]["problem"].as_str().unwrap().to_owned(), call))
}

fn state(client: &mut Client, table: &str) -> String {
    value(client, &format!("SELECT state FROM ledger.tracked_tables WHERE table_name = '{table}'::regclass"))
}

/// What a table's owner can do, the table that it is about, and its state then.
const BY_THE_OWNER: [(&str, &str, &str); 8] = [
    ("ALTER TABLE shop.accounts DISABLE TRIGGER ledger_record_change", "shop.accounts", "disabled"),
    ("ALTER TABLE shop.accounts DISABLE TRIGGER ledger_record_truncate", "shop.accounts", "disabled"),
    ("ALTER TABLE shop.events_1 DISABLE TRIGGER ledger_record_change", "shop.events", "disabled"),
    ("ALTER TABLE shop.events_2 DISABLE TRIGGER ledger_record_truncate", "shop.events", "disabled"),
    ("ALTER TRIGGER ledger_record_change ON shop.accounts RENAME TO other", "shop.accounts", "altered"),
    ("ALTER TRIGGER ledger_record_truncate ON shop.events_1 RENAME TO other", "shop.events", "altered"),
    ("DROP TRIGGER ledger_record_truncate ON shop.events_1", "shop.events", "altered"),
    ("DROP TRIGGER ledger_record_truncate ON shop.accounts", "shop.accounts", "altered"),
];

#[test]
fn what_an_owner_does_to_the_triggers_is_said_and_made_good_by_the_call_that_is_named() {
    let (_cluster, mut client, mut owner) = start_tracked();
    for (command, table, expected) in BY_THE_OWNER {
        assert!(all_valid(&mut client));
        owner.batch_execute(command).unwrap_or_else(|error| panic!("{command}: {error:?}"));
        assert_eq!(state(&mut client, table), expected, "{command}");
        let (problem, call) = fault(&mut client, table).unwrap_or_else(|| panic!("nothing is said of {command}"));
        assert_eq!(problem, expected, "{command}");
        client.batch_execute(&call).unwrap_or_else(|error| panic!("{call}: {error:?}"));
        assert_eq!(state(&mut client, table), "tracked", "{command}: {call}");
        assert_eq!(number(&mut client, "SELECT count(columns) FROM ledger.tracked_tables"), 1, "{call}");
        assert_eq!(
            number(&mut client, "SELECT count(*) FROM pg_trigger WHERE tgfoid = 'ledger.record_change'::regproc"),
            4
        );
    }
    client.batch_execute("UPDATE shop.accounts SET amount = 7; UPDATE shop.events SET what = 'c'").unwrap();
    assert!(all_valid(&mut client));
}

/// He enables it only while somebody looks.
#[test]
fn a_renamed_trigger_hides_nothing() {
    let (_cluster, mut client, mut owner) = start_tracked();
    owner
        .batch_execute(
            "ALTER TRIGGER ledger_record_change ON shop.accounts RENAME TO other;
             ALTER TABLE shop.accounts DISABLE TRIGGER other; UPDATE shop.accounts SET amount = 999;
             ALTER TABLE shop.accounts ENABLE ALWAYS TRIGGER other",
        )
        .unwrap();
    assert_eq!(problems(&mut client, "shop.accounts"), ["{\"id\": 1} modified"]);
    assert_eq!(fault(&mut client, "shop.accounts").unwrap().0, "altered");
    let refused = error(&mut owner, "UPDATE shop.accounts SET amount = 1");
    assert_eq!(*refused.code(), SqlState::E_R_I_E_TRIGGER_PROTOCOL_VIOLATED);
}

const RENAMES: [(&str, &str); 2] = [
    ("shop.accounts", "UPDATE shop.accounts SET amount = amount + 1"),
    ("shop.events", "UPDATE shop.events_1 SET what = what || 'x'"),
];

/// Who changes a row is told, and so is who verifies.
#[test]
fn a_renamed_trigger_is_said_to_be_renamed_and_either_of_the_two_ways_that_are_named_makes_it_good() {
    let (_cluster, mut client, mut owner) = start_tracked();
    // Postgres 14 renames no triggers of partitions, which go on recording.
    let renames = RENAMES.into_iter().filter(|(table, _)| pg_major() >= 15 || *table != "shop.events");
    for (table, change) in renames {
        for is_renamed_back in [false, true] {
            owner.batch_execute(&format!("ALTER TRIGGER ledger_record_change ON {table} RENAME TO \"Other\"")).unwrap();
            let refused = error(&mut owner, change);
            let what = format!("trigger \"ledger_record_change\" of table {table} was renamed to \"Other\"");
            assert_eq!(refused.message(), what);
            let ways = refused.hint().unwrap().strip_suffix(" renames it back.").unwrap();
            let verdict = json(&mut client, "SELECT ledger.verify_all()");
            let detail = verdict["tables"][0]["errors"][0]["detail"].as_str().unwrap();
            assert!(detail.contains(&what) && detail.contains(ways), "{verdict:#}");
            let (call, rename) = ways.split_once(" makes it anew, or ").unwrap();
            owner.batch_execute(if is_renamed_back { rename } else { call }).unwrap();
            owner.batch_execute(change).unwrap();
            assert_eq!(state(&mut client, table), "tracked", "{ways}");
            assert_eq!(number(&mut client, "SELECT count(columns) FROM ledger.tracked_tables"), 1, "{ways}");
            assert!(all_valid(&mut client), "{ways}");
        }
    }
}

#[test]
fn a_renamed_trigger_whose_name_another_has_is_made_good_as_the_hint_says() {
    let (_cluster, mut client, mut owner) = start_tracked();
    owner
        .batch_execute(
            "ALTER TRIGGER ledger_record_change ON shop.accounts RENAME TO other;
             CREATE TRIGGER ledger_record_change BEFORE UPDATE ON shop.accounts FOR EACH ROW
             EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        )
        .unwrap();
    let change = "UPDATE shop.accounts SET amount = amount + 1";
    let refused = error(&mut owner, change);
    let hint = refused.hint().unwrap();
    let (drop, rest) = hint.split_once(" drops the other trigger that has its name; then ").unwrap();
    owner.batch_execute(drop).unwrap();
    owner.batch_execute(rest.split_once(" makes it anew").unwrap().0).unwrap();
    owner.batch_execute(change).unwrap();
    assert!(all_valid(&mut client));
}

/// What the catalogs say of a trigger only a superuser can change, and the ledger knows what a table is tracked with.
#[test]
fn triggers_that_a_superuser_has_changed_are_said_to_be_others() {
    let (cluster, mut client, _owner) = start_tracked();
    let options = "convert_from(substring(tgargs, 1, length(tgargs) - 1), 'UTF8')";
    let arguments = value(
        &mut client,
        &format!("SELECT {options} FROM pg_trigger WHERE tgrelid = 'shop.accounts'::regclass LIMIT 1"),
    );
    let anew = |events: &str, condition: &str| {
        format!(
            "DROP TRIGGER ledger_record_change ON shop.accounts;
             CREATE TRIGGER ledger_record_change AFTER {events} ON shop.accounts FOR EACH ROW {condition}
             EXECUTE FUNCTION ledger.record_change('{arguments}');
             ALTER TABLE shop.accounts ENABLE ALWAYS TRIGGER ledger_record_change"
        )
    };
    for command in [
        anew("INSERT OR UPDATE OR DELETE", "WHEN (current_user <> 'postgres')"),
        anew("INSERT", ""),
        anew("INSERT OR UPDATE OF note OR DELETE", ""),
        format!(
            "UPDATE pg_trigger SET tgargs = convert_to(replace({options}, '\"amount\"', '\"note\"'), 'UTF8') || '\\x00'
             WHERE tgrelid = 'shop.accounts'::regclass"
        ),
    ] {
        client.batch_execute(&command).unwrap_or_else(|error| panic!("{command}: {error:?}"));
        // Another session does not know the trigger from before.
        let mut other = cluster.connect("postgres");
        let (problem, call) =
            fault(&mut other, "shop.accounts").unwrap_or_else(|| panic!("nothing is said of {command}"));
        assert_eq!(problem, "altered", "{command}");
        other.batch_execute(&call).unwrap_or_else(|error| panic!("{call}: {error:?}"));
        assert!(all_valid(&mut other), "{command}: {call}");
    }
}

/// Postgres then fires none of them, and nothing of what is done to the rows is recorded.
#[test]
fn a_table_whose_triggers_a_superuser_hides_from_postgres_is_not_left_out() {
    let (_cluster, mut client, _owner) = start_tracked();
    let changes = [
        ("shop.accounts", "shop.accounts", "UPDATE shop.accounts SET amount = 999 WHERE id = 1"),
        (
            "shop.events",
            "shop.events_2",
            "DELETE FROM shop.events WHERE id = 101; INSERT INTO shop.events VALUES (102, 'x')",
        ),
    ];
    for (table, hidden, change) in changes {
        let hide = format!("UPDATE pg_class SET relhastriggers = false WHERE oid = '{hidden}'::regclass");
        client.batch_execute(&hide).unwrap();
        client.batch_execute(change).unwrap();
        assert_eq!(state(&mut client, table), "altered");
        let verdict = json(&mut client, "SELECT ledger.verify_all()");
        assert_eq!(verdict["overall_valid"], false, "{verdict:#}");
        let of_table: Vec<&Value> =
            verdict["tables"].as_array().unwrap().iter().filter(|element| element["table"] == table).collect();
        // What is wrong with its tracking, and with its rows.
        assert!(of_table.len() == 2 && of_table.iter().all(|element| element["valid"] == false), "{verdict:#}");
        assert_eq!(of_table[0]["errors"][0]["problem"], "altered");
        let detail = of_table[0]["errors"][0]["detail"].as_str().unwrap();
        let (_, remedy) = detail.split_once("; ").unwrap();
        client.batch_execute(remedy.strip_suffix(" puts that right").unwrap()).unwrap();
        assert_eq!(state(&mut client, table), "tracked");
    }
    assert_eq!(problems(&mut client, "shop.accounts"), ["{\"id\": 1} modified"]);
    assert_eq!(problems(&mut client, "shop.events"), ["{\"id\": 101} missing", "{\"id\": 102} unrecorded"]);
}

#[test]
fn a_table_whose_trigger_says_what_track_does_not_is_not_left_out() {
    let (cluster, mut client, _owner) = start_tracked();
    client
        .batch_execute(
            "UPDATE pg_trigger SET tgargs = convert_to(replace(convert_from(substring(tgargs, 1, length(tgargs) - 1), 'UTF8'),
                 '\"keep_image\":false', '\"keep_image\":\"false\"'), 'UTF8') || '\\x00'
             WHERE tgrelid = 'shop.accounts'::regclass",
        )
        .unwrap();
    // Another session does not know the trigger from before.
    let mut client = cluster.connect("postgres");
    assert_eq!(
        number(
            &mut client,
            "SELECT count(*) FROM pg_trigger WHERE tgargs::text LIKE '%22' || encode('false\"', 'hex') || '%'"
        ),
        2
    );
    assert_eq!(fault(&mut client, "shop.accounts").unwrap().0, "altered");
    let verdict = json(&mut client, "SELECT ledger.verify_all()");
    let said = |element: &Value| element["table"] == "shop.accounts" && element.get("message").is_some();
    assert!(verdict["tables"].as_array().unwrap().iter().any(said), "{verdict:#}");
}

/// Only a superuser, or who has been granted them, can make such triggers.
#[test]
fn functions_of_the_ledgers_triggers_refuse_others() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE texts (a int, b text, c text, d text, e text, f text, g text, h text, i text);
             CREATE TABLE numbers (a int, b int, c int, d int, e int, f int, g int, h int, i int);
             CREATE TABLE entries (LIKE ledger.entries INCLUDING DEFAULTS); CREATE TABLE keyed (id int PRIMARY KEY)",
        )
        .unwrap();
    let fill = [
        "INSERT INTO texts VALUES (1)",
        "INSERT INTO numbers VALUES (1)",
        "INSERT INTO entries (entry_type, data_hash) VALUES ('x', repeat('ab', 32))",
        "INSERT INTO keyed VALUES (1)",
    ];
    fill.iter().for_each(|fill| client.batch_execute(fill).unwrap());
    let options = r#"{"table_id":"0123456789abcdef","keep_image":true,"with_signature":true}"#;
    let mut tried = 0;
    for function in [
        "complete_entry",
        "queue_entry",
        "begin_import",
        "import_line",
        "finish_import",
        "record_change",
        "record_truncate",
    ] {
        let argument = if function.starts_with("record") { format!("'{options}'") } else { String::new() };
        for (table, fill) in ["texts", "numbers", "entries", "keyed"].iter().zip(fill) {
            for timing in ["BEFORE", "AFTER"] {
                for event in ["INSERT", "UPDATE", "DELETE", "TRUNCATE"] {
                    for level in ["ROW", "STATEMENT"] {
                        let trigger = format!(
                            "BEGIN; CREATE TRIGGER ledger_record_change {timing} {event} ON {table} FOR EACH {level}
                             EXECUTE FUNCTION ledger.{function}({argument})"
                        );
                        if client.batch_execute(&trigger).is_ok() {
                            let statement = match event {
                                "INSERT" => fill.to_owned(),
                                "UPDATE" => format!(
                                    "UPDATE {table} SET {0} = {0}",
                                    if *table == "keyed" || *table == "entries" { "id" } else { "a" }
                                ),
                                "DELETE" => format!("DELETE FROM {table}"),
                                _ => format!("TRUNCATE {table}"),
                            };
                            let outcome = client.batch_execute(&statement);
                            assert!(
                                !client.is_closed(),
                                "the session has gone with {trigger}: {statement}: {outcome:?}"
                            );
                            tried += 1;
                        }
                        client.batch_execute("ROLLBACK").unwrap_or_else(|error| panic!("{trigger}: {error:?}"));
                    }
                }
            }
        }
    }
    assert!(tried > 300, "only {tried}");
    assert!(!cluster.log().contains("was terminated by signal"));
}

/// They would run with the rights of the ledger's owner, and a table that they write to may have triggers of any role.
#[test]
fn event_triggers_do_not_fire_for_what_the_ledger_does_to_tracked_tables_itself() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE ROLE shop LOGIN; CREATE SCHEMA shop AUTHORIZATION shop; SET ROLE shop;
             CREATE TABLE shop.commands (role text, command text);
             CREATE FUNCTION shop.rise() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 BEGIN
                     ALTER ROLE shop SUPERUSER;
                 EXCEPTION WHEN insufficient_privilege THEN
                 END;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER rise BEFORE INSERT ON shop.commands FOR EACH ROW EXECUTE FUNCTION shop.rise();
             RESET ROLE; ALTER DATABASE postgres SET search_path = public, shop; SET search_path = public, shop;
             CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO commands VALUES (current_user, tg_event || ' ' || tg_tag); END $$;
             GRANT EXECUTE ON FUNCTION note() TO shop;
             CREATE EVENT TRIGGER before ON ddl_command_start EXECUTE FUNCTION note();
             CREATE EVENT TRIGGER after ON ddl_command_end EXECUTE FUNCTION note();
             CREATE EVENT TRIGGER dropped ON sql_drop EXECUTE FUNCTION note()",
        )
        .unwrap();
    let mut owner = cluster.connect_as("shop", "postgres");
    let mut commands = |sql: &str| {
        owner.batch_execute(&format!("DELETE FROM shop.commands; {sql}")).unwrap();
        column(&mut owner, "SELECT DISTINCT role || ': ' || command FROM shop.commands ORDER BY 1")
    };
    let create = "CREATE TABLE shop.events (id int PRIMARY KEY) PARTITION BY RANGE (id)";
    assert_eq!(commands(create), ["shop: ddl_command_end CREATE TABLE", "shop: ddl_command_start CREATE TABLE"]);
    assert!(commands("SELECT ledger.track('shop.events', with_signature => false)").is_empty());
    for (sql, command) in [
        ("CREATE TABLE shop.events_1 PARTITION OF shop.events FOR VALUES FROM (1) TO (9)", "CREATE TABLE"),
        ("ALTER TABLE shop.events DETACH PARTITION shop.events_1", "ALTER TABLE"),
        ("ALTER TABLE shop.events ATTACH PARTITION shop.events_1 FOR VALUES FROM (1) TO (9)", "ALTER TABLE"),
    ] {
        let fired = commands(sql);
        let is_of_it = |fired: &String| fired.starts_with("shop: ") && fired.ends_with(command);
        assert!(fired.iter().filter(|fired| !fired.contains("sql_drop")).all(is_of_it), "{sql}: {fired:?}");
        assert!(fired.len() >= 2, "{sql}: {fired:?}");
    }
    assert!(commands("SELECT ledger.track('shop.events', with_signature => false, keep_image => true)").is_empty());
    assert_eq!(state(&mut client, "shop.events"), "tracked");
    client.batch_execute("INSERT INTO shop.events VALUES (1)").unwrap();
    assert!(all_valid(&mut client));
    assert!(commands("SELECT ledger.untrack('shop.events')").is_empty());
    assert!(!is_true(&mut client, "(SELECT rolsuper FROM pg_roles WHERE rolname = 'shop')"));
}
