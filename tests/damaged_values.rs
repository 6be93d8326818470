//! Metadata that a disk, or a superuser, has damaged where it is stored: it is found and named, whatever its bytes are,
//! and takes nobody else down. What Postgres itself stores is never taken for damaged.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{Cluster, Stop};
use postgres::error::SqlState;
use postgres::Client;

/// Makes a jsonb of any bytes, past all checks, and shows those of one.
const CASTS: &str = "CREATE CAST (bytea AS jsonb) WITHOUT FUNCTION; CREATE CAST (jsonb AS bytea) WITHOUT FUNCTION";

const RECORD: &str =
    r#"SELECT ledger.append_entry('test', $1::text::uuid, repeat('ab', 32), '{"aa": "one", "bb": "two", "num": 1.5}')"#;

/// Without the varlena's header: a header, the entries of aa, bb, num, one, two and 1.5 from byte 4 on, their bytes
/// from 28 on, the number's header at 48 and its digits at 50 and 52. From where to overwrite, counted from 1, and with
/// what.
const DAMAGES: [(&str, &[(u32, &str)]); 8] = [
    ("a container with more children than there is memory", &[(17, "03000050"), (37, "ffffff4f")]),
    ("members in another order", &[(29, "62626161")]),
    ("the same key twice", &[(31, "6161")]),
    ("a key that is no text", &[(29, "ffff")]),
    ("a digit that prints as another", &[(51, "1127")]),
    ("decimals behind the scale", &[(53, "ec13")]),
    ("a zero digit in front", &[(51, "0000")]),
    ("padding that is not zero", &[(42, "ff")]),
];

fn damage(edits: &[(u32, &str)]) -> String {
    edits.iter().fold("metadata::bytea".to_owned(), |bytes, (from, hex)| {
        format!("overlay({bytes} PLACING '\\x{hex}'::bytea FROM {from})")
    })
}

fn start_with_casts() -> (Cluster, Client) {
    let (cluster, mut client) = start(quiet());
    client.batch_execute(CASTS).unwrap();
    wait_until_attached(&mut client);
    (cluster, client)
}

fn id(number: usize) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}

fn record_as(client: &mut Client, number: usize) {
    client.execute(RECORD, &[&id(number)]).unwrap();
}

fn commit_block(client: &mut Client) {
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
}

fn is_named(client: &mut Client, entry_id: &str) -> bool {
    let problems = column(client, "SELECT concat_ws(' ', entry_id, problem, detail) FROM ledger.find_tampering()");
    problems.iter().any(|problem| problem.starts_with(entry_id))
}

fn overwrite(number: usize, value: &str, table: &str) -> String {
    format!(
        "ALTER TABLE ledger.{table} DISABLE TRIGGER ALL; \
         UPDATE ledger.{table} SET metadata = ({value})::jsonb WHERE id = '{}'",
        id(number)
    )
}

#[test]
fn damaged_metadata_is_named_wherever_it_is() {
    let (cluster, mut client) = start_with_casts();
    record_as(&mut client, 1);
    record_as(&mut client, 2);
    commit_block(&mut client);
    record_as(&mut client, 3);
    assert_intact(&mut client);
    for (what, edits) in DAMAGES {
        for (number, table) in [(2, "entries_sealed_1"), (3, "entries_pending")] {
            client.batch_execute("BEGIN").unwrap();
            client.batch_execute(&overwrite(number, &damage(edits), table)).unwrap();
            assert!(is_named(&mut client, &id(number)), "{what} in {table} is not found");
            assert!(verdict(&mut client)["overall_valid"] == false, "{what} in {table}");
            let verify = format!("ledger.verify_entry('{}', '1')->>'included'", id(number));
            assert_eq!(value(&mut client, &format!("SELECT {verify}")), "false", "{what} in {table}");
            client.batch_execute("ROLLBACK").unwrap();
        }
        client.batch_execute("BEGIN").unwrap();
        client.batch_execute(&overwrite(3, &damage(edits), "entries_pending")).unwrap();
        let refused = error(&mut client, "SELECT * FROM ledger.commit_block()");
        assert_eq!(refused.code(), &SqlState::DATA_CORRUPTED, "{what}");
        let named =
            format!("cannot seal: entry {} is damaged: its metadata is not a value that Postgres stores", id(3));
        assert_eq!(refused.message(), named, "{what}");
        client.batch_execute("ROLLBACK").unwrap();
    }
    assert_intact(&mut client);
    assert!(!cluster.log().contains("was terminated by signal"), "{}", cluster.log());
}

#[test]
fn a_server_starts_and_works_with_a_damaged_entry() {
    let (cluster, mut client) = start_with_casts();
    record_as(&mut client, 1);
    commit_block(&mut client);
    // Else the start would look at entry 1 first.
    wait_until_sealed(&mut client);
    record_as(&mut client, 2);
    let (_, edits) = DAMAGES[0];
    // The worker does not read it before the restart.
    client.batch_execute(&overwrite(2, &damage(edits), "entries_pending")).unwrap();
    client.batch_execute(&overwrite(1, &damage(edits), "entries_sealed_1")).unwrap();
    drop(client);
    cluster.restart(Stop::Fast);
    let mut client = cluster.connect("postgres");
    // The worker goes on only with a file that agrees.
    cluster.wait_for_log(&format!("does not agree with the database: entry {}", id(2)));
    for number in [1, 2] {
        assert!(is_named(&mut client, &id(number)), "entry {number}");
    }
    // Whoever has the old value puts it back.
    let old = r#"'{"aa": "one", "bb": "two", "num": 1.5}'"#;
    for (number, table) in [(1, "entries_sealed_1"), (2, "entries_pending")] {
        client.batch_execute(&overwrite(number, old, table)).unwrap();
    }
    wait_until_attached(&mut client);
    commit_block(&mut client);
    assert_intact(&mut client);
    assert!(!cluster.log().contains("was terminated by signal"), "{}", cluster.log());
}

/// Values that a row can be given past all checks, by column, and that no line can state.
fn unstatable() -> [(&'static str, String); 7] {
    [
        ("metadata", format!("({})::jsonb", damage(DAMAGES[0].1))),
        ("entry_type", r"'\x80'::bytea::varchar".to_owned()),
        ("entry_type", "''".to_owned()),
        ("key_id", r"'\xff'::bytea::varchar".to_owned()),
        ("created_at", "'infinity'".to_owned()),
        ("created_at", "NULL".to_owned()),
        ("data_hash", "upper(data_hash)".to_owned()),
    ]
}

/// Else what stands in the place of a text that cannot be read would be signed, and written over it.
#[test]
fn an_item_whose_text_is_damaged_is_signed_only_with_its_content() {
    let (_cluster, mut client) = start_with_casts();
    client
        .batch_execute(
            r"CREATE CAST (bytea AS text) WITHOUT FUNCTION;
             SELECT ledger.create_item('tool', 'hello', '1.0.0', 'hello()', 'hello.py');
             UPDATE ledger.items SET content = '\x68ff'::bytea::text",
        )
        .unwrap();
    for call in ["sign_item('tool', 'hello', '1.0.0')", "sign_item('tool', 'hello', '1.0.0', language => 'js')"] {
        let refused = error(&mut client, &format!("SELECT ledger.{call}"));
        assert_eq!(refused.message(), "the row of hello@1.0.0 in ledger.items is damaged", "{call}");
    }
    error(&mut client, "SELECT ledger.load_item('tool', 'hello', '1.0.0')");
    client.batch_execute("SELECT ledger.sign_item('tool', 'hello', '1.0.0', 'hello()')").unwrap();
    client.batch_execute("SELECT ledger.load_item('tool', 'hello', '1.0.0')").unwrap();
    assert_intact(&mut client);
}

/// A line that is none would make the file invalid for good.
#[test]
fn the_line_of_a_damaged_entry_is_not_written() {
    let (cluster, mut client) = start_with_casts();
    client
        .batch_execute(
            "CREATE CAST (bytea AS varchar) WITHOUT FUNCTION; SET allow_system_table_mods = on;
             UPDATE pg_attribute SET attnotnull = false WHERE attname = 'created_at'
                 AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'ledger'::regnamespace)",
        )
        .unwrap();
    let mut number = 0;
    for (name, value) in unstatable() {
        for table in ["entries_pending", "entries_sealed_1"] {
            number += 1;
            let update = |value: &str| {
                format!(
                    "ALTER TABLE ledger.{table} DISABLE TRIGGER ALL;
                     UPDATE ledger.{table} SET {name} = {value} WHERE id = '{}'",
                    id(number)
                )
            };
            set(&mut client, "ledger.mirror_mode", "off");
            record_as(&mut client, number);
            client.batch_execute(&format!("CREATE TABLE kept_{number} AS SELECT * FROM ledger.entries")).unwrap();
            if table == "entries_pending" {
                client.batch_execute(&update(&value)).unwrap();
                let malformed = "SELECT entry_id FROM ledger.find_tampering() WHERE problem = 'row_malformed'";
                assert_eq!(column(&mut client, malformed), [id(number)], "{name} = {value}");
                let refused = error(&mut client, "SELECT * FROM ledger.commit_block()");
                assert!(
                    refused.message().starts_with(&format!("cannot seal: entry {} is damaged: ", id(number))),
                    "{refused:?}"
                );
            } else {
                commit_block(&mut client);
                client.batch_execute(&update(&value)).unwrap();
            }
            set(&mut client, "ledger.mirror_mode", "sync");
            cluster.wait_for_log(&format!("cannot write the line of entry {}: ", id(number)));
            let kept = format!("(SELECT {name} FROM kept_{number} WHERE id = '{}')", id(number));
            client.batch_execute(&update(&kept)).unwrap();
            wait_until_attached(&mut client);
            assert_intact(&mut client);
        }
    }
}

#[test]
fn a_damaged_entry_about_an_item_is_found_and_takes_nobody_down() {
    let (_cluster, mut client) = start_with_casts();
    client.batch_execute("SELECT ledger.create_item('tool', 'a', '1.0.0', 'x', 'a.py')").unwrap();
    commit_block(&mut client);
    let (_, edits) = DAMAGES[0];
    let damaged = damage(edits).replace("metadata", r#"'{"aa": "one", "bb": "two", "num": 1.5}'::jsonb"#);
    client
        .batch_execute(&format!(
            "ALTER TABLE ledger.entries_sealed_1 DISABLE TRIGGER ALL;
             UPDATE ledger.entries_sealed_1 SET metadata = ({damaged})::jsonb"
        ))
        .unwrap();
    let verdict = json(&mut client, "SELECT ledger.verify_all()");
    for part in ["postgres_chain", "items"] {
        assert!(verdict[part]["valid"] == false, "{verdict:#}");
    }
    let refused = error(&mut client, "SELECT ledger.load_item('tool', 'a', '1.0.0')");
    assert_eq!(*refused.code(), SqlState::DATA_CORRUPTED, "{refused:?}");
}

/// jsonb that came about in other ways than by reading a text.
const MADE: [&str; 22] = [
    "to_jsonb(1.50)",
    "to_jsonb(0.00)",
    "to_jsonb(-0.5::float8)",
    "to_jsonb(1e-300::float8)",
    "to_jsonb(1e-100::numeric)",
    "to_jsonb(repeat('9', 300)::numeric)",
    "to_jsonb(1::numeric / 3)",
    "to_jsonb('NaN'::numeric)",
    "to_jsonb(sqrt(2::numeric))",
    "to_jsonb(round(10000.00005, 4))",
    "jsonb_path_query('{\"a\": 1.50}', '$.a / 4')",
    "jsonb_path_query('[3, -0.0, 10000]', '$[1].double()')",
    "jsonb_path_query('[1]', '-$[0] * 0.0')",
    "'{\"b\": 1, \"aa\": {\"c\": [1, {}]}}'::jsonb || '{\"b\": 2, \"a\": 10000.0001}'",
    "jsonb_set('{\"bb\": {\"c\": 1}, \"a\": []}', '{bb,d}', '\"é\"')",
    "'[1, \"a\", 2.5, {\"x\": 1}]'::jsonb - 0",
    "'{\"bb\": [\"a\", 5], \"c\": 1}'::jsonb -> 'bb'",
    "jsonb_strip_nulls('{\"bb\": null, \"c\": \"d\", \"a\": 1.0}')",
    "(SELECT jsonb_object_agg('key' || n, n * 1.25) FROM generate_series(1, 100) n)",
    "(SELECT jsonb_agg(jsonb_build_object(md5(n::text), n, n, null) ORDER BY n) FROM generate_series(1, 70) n)",
    "to_jsonb(ROW(1, 'x', ARRAY[1.10, null], '{\"k\": -0.0}'::json, '\"s\"'::jsonb))",
    "jsonb_build_object('t', true, 'f', false, '', '', 'nested', jsonb_build_array(jsonb_build_array()))",
];

#[test]
fn what_postgres_makes_itself_is_never_damaged() {
    let (_cluster, mut client) = start_with_casts();
    for made in MADE {
        // Alone, it may be a scalar.
        client.batch_execute(&format!("SELECT ledger.canonical_json({made})")).unwrap();
        let sql = format!(
            "SELECT ledger.append_entry('test', gen_random_uuid(), repeat('ab', 32), jsonb_build_object('v', {made}))"
        );
        client.batch_execute(&sql).unwrap_or_else(|error| panic!("{made}: {error:?}"));
    }
    // Numerics of many sizes and scales, by arithmetic.
    let numbers = "SELECT jsonb_build_object('a', x, 'bb', -x, 'c', x * x, 'd', round(x, 3), 'e', trunc(x, 1), 'f', x / 7, 'g', x % 1, \
                   'h', x - x, 'i', jsonb_build_array(x, 'z', x * 0, trim_scale(x), floor(x), power(10, mod(n, 60) - 30) * x)) AS m \
                   FROM (SELECT n, (random() * 10 ^ (n % 20 - 5))::numeric AS x FROM generate_series(1, 500) n) AS s";
    client
        .batch_execute(&format!(
            "SELECT ledger.append_entry('test', gen_random_uuid(), repeat('ab', 32), m) FROM ({numbers}) AS made"
        ))
        .unwrap();
    assert_intact(&mut client);
    commit_block(&mut client);
    assert_intact(&mut client);
}
