//! What a row is recorded as depends on the row alone: not on the settings of a session, nor on how the row came about.
//! And what is recorded of a table comes from the table alone.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::tracking::*;
use crate::common::Options;
use postgres::error::SqlState;
use postgres::Client;

const TYPES: &str = r#"
CREATE TYPE mood AS ENUM ('happy', 'sad');
CREATE TYPE pair AS (at timestamptz, what text, amount float8, raw bytea);
CREATE DOMAIN short AS text CHECK (length(value) < 10);
CREATE TABLE everything (
    id numeric(10,2), at timestamptz, PRIMARY KEY (id, at),
    b bool, i int2, o oid, f4 float4, f8 float8, n numeric, m money, t text, c char(5), v varchar, name name, "Ünï ""q"" \ x" text,
    raw bytea, d date, ts timestamp, tm time, tmz timetz, span interval, u uuid, j json, jb jsonb, x xml, bits bit(3),
    net inet, mac macaddr, p point, box box, r tstzrange, mr int4multirange, e mood, k pair, s short, rel regclass,
    ai int[], at2 text[][], af float8[], ak pair[], ae mood[], ats timestamptz[], vec tsvector, l lseg, rp regproc, ar regclass[], ar2 regclass[][]
);
CREATE FUNCTION fill(n int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO everything VALUES (n + 0.5, '2024-03-01 12:00:00.123456+02', n % 2 = 0, -3, 4000000000, 0.1::float4, 1e300 / 3,
        123456789012345678901234567890.123456789, 12.34, E'line\nbreak \u00e9 "q" \\', 'ab', 'v', 'nm', 'quoted', '\x00ff',
        '0044-03-15 BC', 'infinity', '24:00', '12:00+05:30', '1 year -2 days 03:04:05.678', gen_random_uuid(),
        '{"a": 1e400, "a": 2, "b": 0.10}', '{"z": 1.00, "a": [null, 12345678901234567890]}', NULL, B'101',
        '10.0.0.1/8', '08:00:2b:01:02:03', '(0.1,2)', '((0,0),(1e10,1))', '[2024-01-01, 2024-06-01 12:00+02)', '{[1,3),[5,8)}',
        'sad', ROW('2024-01-01 00:00+00', 'a, b', 0.1, '\xff'), 'short', 'everything', '{1,NULL,3}', '{{a,"b c"},{NULL,"d\"e"}}',
        '{NaN,-Infinity,0.1,-0}', ARRAY[ROW('2024-01-01 00:00+00', '"', 1e-7, '\x01')::pair], '{happy,sad}',
        '{2024-01-01 00:00+00,infinity}', 'a:1A fat:2', '[(0,0),(1,1)]', 'now', ARRAY['everything'::regclass, 'pg_type'], ARRAY[['pg_type'::regclass]]);
    INSERT INTO everything (id, at, f8, n, ai) VALUES (n + 0.25, '-infinity', 'NaN', 'NaN', '[0:1]={1,2}'), (n, 'infinity', '-0', '-0.00', '{}');
$$;
SELECT fill(1);
"#;

const SETTINGS: [&str; 3] = [
    "RESET ALL",
    "SET DateStyle = 'German, DMY'; SET TimeZone = 'Asia/Kolkata'; SET IntervalStyle = 'sql_standard'; SET bytea_output = 'escape'; \
     SET extra_float_digits = -10; SET search_path = ''; SET xmloption = document; SET quote_all_identifiers = on; \
     SET backslash_quote = off; SET standard_conforming_strings = off; SET escape_string_warning = off",
    "SET DateStyle = 'Postgres, MDY'; SET TimeZone = 'America/St_Johns'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = 3; \
     SET search_path = pg_catalog, public; SET array_nulls = off; SET client_encoding = 'LATIN1'",
];

#[test]
fn the_settings_of_a_session_do_not_change_what_a_row_is_recorded_as() {
    let (_cluster, mut client) = start(Options::new());
    client.batch_execute(TYPES).unwrap();
    client.batch_execute("SELECT ledger.track('everything', keep_image => true)").unwrap();
    for (number, settings) in (2..).zip(SETTINGS) {
        // The values are made under the same settings each time.
        client.batch_execute(&format!("BEGIN; SELECT fill({number}); COMMIT")).unwrap();
        client.batch_execute(settings).unwrap();
        client.batch_execute("UPDATE public.everything SET v = v || 'x', i = i + 1").unwrap();
        for others in SETTINGS {
            client.batch_execute(others).unwrap();
            let found = details(&mut client, "public.everything");
            assert!(found.is_empty(), "recorded under {settings}, verified under {others}: {found:#?}");
        }
        client.batch_execute("RESET ALL").unwrap();
    }
    assert_clean(&mut client, "everything");
    let one = "SELECT ledger.verify_row('everything', '{\"id\": 1.50, \"at\": \"2024-03-01 10:00:00.123456Z\"}')->>'verified'";
    assert_eq!(value(&mut client, one), "true");
    assert_eq!(number(&mut client, "SELECT count((ledger.verified(one)).t) FROM everything AS one"), 4);
}

/// Whatever its columns are called, and whatever they require.
#[test]
fn one_row_is_found_by_a_key_of_any_type() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE DOMAIN required AS text NOT NULL; CREATE TYPE mood AS ENUM ('happy', 'sad');
             CREATE TABLE t (k char(5), t timestamptz, \"row\" mood, bits varbit, n numeric(6,2), v varchar(9), r required,
                 PRIMARY KEY (v, k, t, \"row\", bits, n));
             SELECT ledger.track('t');
             INSERT INTO t VALUES ('ab', '2024-01-01 00:00+00', 'sad', B'101', 1.50, 'vvv', 'x')",
        )
        .unwrap();
    let key = r#"{"k": "ab", "t": "2024-01-01 01:00+01", "row": "sad", "bits": "101", "n": "1.5", "v": "vvv"}"#;
    assert_eq!(value(&mut client, &format!("SELECT ledger.verify_row('t', '{key}')->>'verified'")), "true");
    assert_eq!(column(&mut client, &format!("SELECT operation FROM ledger.history('t', '{key}')")), ["insert"]);
    assert_eq!(value(&mut client, "SELECT (ledger.verified(x)).r FROM t AS x"), "x");
    assert_clean(&mut client, "t");
}

/// Whichever partition it is in, and however many other rows there are: the index does not lead to such a key, as the
/// null of jsonb looks like that of SQL.
#[test]
fn a_key_that_its_types_misread_leads_to_its_row() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE places (region text, k jsonb[], v int, PRIMARY KEY (region, k)) PARTITION BY LIST (region);
             CREATE TABLE east PARTITION OF places FOR VALUES IN ('east');
             CREATE TABLE west (v int, gone int, k jsonb[] NOT NULL, region text NOT NULL);
             ALTER TABLE west DROP COLUMN gone; ALTER TABLE places ATTACH PARTITION west FOR VALUES IN ('west');
             SELECT ledger.track('places');
             INSERT INTO places SELECT region, ARRAY['null', to_jsonb(n)], n
             FROM unnest('{east,west}'::text[]) AS region, generate_series(1, 12000) AS n",
        )
        .unwrap();
    let key = r#"{"region": "west", "k": [null, 11999]}"#;
    let assert_found = |client: &mut Client, verified: bool, problem: Option<&str>| {
        for table in ["places", "west", "east"] {
            let verdict = json(client, &format!("SELECT ledger.verify_row('{table}', '{key}')"));
            assert_eq!((&verdict["verified"], verdict["problem"].as_str()), (&verified.into(), problem), "{table}");
            let history = format!("SELECT operation FROM ledger.history('{table}', '{key}')");
            assert_eq!(column(client, &history), ["insert"], "{table}");
        }
    };
    assert_found(&mut client, true, None);
    seal(&mut client);
    assert_found(&mut client, true, None);
    client.batch_execute(APPLICATION_TRIGGERS_OFF).unwrap();
    client.batch_execute("UPDATE places SET v = -1 WHERE region = 'west' AND k[2] = '11999'").unwrap();
    assert_found(&mut client, false, Some("modified"));
    client.batch_execute("DELETE FROM places WHERE v = -1").unwrap();
    assert_found(&mut client, false, Some("missing"));
}

/// How many times verify_row() reads the whole table.
fn scans_of_table(client: &mut Client, table: &str, key: &str) -> i64 {
    client.batch_execute("BEGIN").unwrap();
    let count = format!("SELECT pg_stat_get_xact_numscans('{table}'::regclass)");
    let before = number(client, &count);
    json(client, &format!("SELECT ledger.verify_row('{table}', '{key}')"));
    let after = number(client, &count);
    client.batch_execute("COMMIT").unwrap();
    after - before
}

#[test]
fn a_whole_table_is_read_for_one_row_only_if_its_index_cannot_tell() {
    let (_cluster, mut client) = start_with(
        "CREATE TABLE documents (k jsonb PRIMARY KEY); CREATE TABLE parts (k jsonb[] PRIMARY KEY);
         CREATE TABLE labels (k text[] PRIMARY KEY);
         SELECT ledger.track('documents'), ledger.track('parts'), ledger.track('labels');
         INSERT INTO documents VALUES ('null'), ('1'), ('[null]'); DELETE FROM documents WHERE k = '[null]';
         INSERT INTO parts VALUES (ARRAY['null']::jsonb[]), (ARRAY['1']::jsonb[]);
         INSERT INTO labels VALUES ('{a}'), ('{NULL}'); DELETE FROM labels WHERE k = '{NULL}'",
    );
    let of_documents = ["null", "1", "2", "[null]", "[null, 1]"].map(|key| ("documents", key));
    let of_labels = [r#"["a"]"#, "[null]", r#"["null"]"#].map(|key| ("labels", key));
    for (table, key) in of_documents.into_iter().chain(of_labels).chain([("parts", "[1]"), ("parts", "[2]")]) {
        assert_eq!(scans_of_table(&mut client, table, &format!("{{\"k\": {key}}}")), 0, "{key} in {table}");
    }
    assert_eq!(scans_of_table(&mut client, "documents", r#"{"k": "a"}"#), 0);
    assert_eq!(scans_of_table(&mut client, "documents", r#"{"k": "12"}"#), 1);
    assert_eq!(scans_of_table(&mut client, "parts", r#"{"k": [null]}"#), 1);
}

#[test]
fn large_values_are_compared_in_full() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE TABLE large (id int PRIMARY KEY, body text, raw bytea);
             ALTER TABLE large ALTER raw SET STORAGE EXTERNAL;
             SELECT ledger.track('large');
             INSERT INTO large SELECT n, (SELECT string_agg(md5(n * g || ''), '') FROM generate_series(1, 2000) g),
                 decode(repeat('00ff', 20000), 'hex') FROM generate_series(1, 3) n;
             UPDATE large SET id = id + 10",
        )
        .unwrap();
    assert_clean(&mut client, "large");
    client.batch_execute(APPLICATION_TRIGGERS_OFF).unwrap();
    client.batch_execute("UPDATE large SET body = left(body, -1) || 'g' WHERE id = 12").unwrap();
    assert_eq!(problems(&mut client, "large"), ["{\"id\": 12} modified"]);
}

/// Who may use the ledger cannot make entries that look as if a trigger had made them.
#[test]
fn nobody_forges_what_a_trigger_would_record() {
    let (cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app; GRANT ledger_writer TO app;
             CREATE TABLE accounts (id int PRIMARY KEY, amount int); GRANT ALL ON accounts TO app;
             SELECT ledger.track('accounts');",
        )
        .unwrap();
    let options = value(
        &mut client,
        "SELECT convert_from(substring(tgargs, 1, length(tgargs) - 1), 'UTF8') FROM pg_trigger WHERE tgname = 'ledger_record_change'",
    );
    let mut app = cluster.connect_as("app", "postgres");
    app.batch_execute("INSERT INTO accounts VALUES (1, 1); CREATE TABLE mine (id int PRIMARY KEY, amount int)")
        .unwrap();
    let metadata = value(&mut client, "SELECT metadata FROM ledger.entries WHERE entry_type = 'table_insert'");
    let forgeries = [
        format!("CREATE TRIGGER ledger_record_change AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION ledger.record_change('{options}')"),
        format!("SELECT ledger.add_entry('table_insert', '1', '{metadata}')"),
        format!("SELECT ledger.hash_and_record('table_insert', '1', '{metadata}')"),
        format!("INSERT INTO ledger.entries (entry_type, data_hash, metadata) VALUES ('table_insert', ledger.hash_data('1'), '{metadata}')"),
        "SELECT ledger.track('accounts')".to_owned(),
        "SELECT ledger.untrack('accounts')".to_owned(),
        "ALTER TABLE accounts DISABLE TRIGGER ALL".to_owned(),
        "SELECT ledger.record_change()".to_owned(),
    ];
    for forgery in &forgeries {
        let refused = error(&mut app, forgery);
        let codes = [
            SqlState::INSUFFICIENT_PRIVILEGE,
            SqlState::E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
            SqlState::FEATURE_NOT_SUPPORTED,
        ];
        assert!(codes.contains(refused.code()), "{forgery}: {refused:?}");
    }
    // What is one's own one may have tracked.
    app.batch_execute("SELECT ledger.track('mine'); INSERT INTO mine VALUES (1, 1)").unwrap();
    assert_clean(&mut client, "mine");
    assert_clean(&mut client, "accounts");
}

/// A superuser, or a disk, may have put any bytes there.
#[test]
fn a_value_that_is_no_text_is_refused_and_its_row_is_named() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            "CREATE CAST (bytea AS text) WITHOUT FUNCTION; CREATE CAST (bytea AS json) WITHOUT FUNCTION;
             CREATE TABLE notes (id int PRIMARY KEY, t text, j json, a text[]); SELECT ledger.track('notes')",
        )
        .unwrap();
    for row in
        [r"1, '\x61ff'::bytea::text", r#"1, '', '\x22ff22'::bytea::json"#, r"1, '', '1', ARRAY['\xff'::bytea::text]"]
    {
        let refused = error(&mut client, &format!("INSERT INTO notes VALUES ({row})"));
        assert_eq!(*refused.code(), SqlState::CHARACTER_NOT_IN_REPERTOIRE, "{row}: {refused:?}");
        assert_eq!(refused.message(), "row {\"id\": 1} of table public.notes cannot be recorded", "{row}: {refused:?}");
        assert_eq!(refused.detail(), Some("It holds bytes that are not UTF-8 text."), "{row}: {refused:?}");
    }
    assert_clean(&mut client, "notes");
}

/// Postgres' own error says nothing of a ledger, a table or a way out.
#[test]
fn images_that_no_jsonb_holds_are_refused_by_the_name_of_their_table() {
    let (_cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE TABLE scans (id int PRIMARY KEY, page bytea)").unwrap();
    client.batch_execute("SELECT ledger.track('scans', keep_image => true)").unwrap();
    let refused = error(&mut client, "INSERT INTO scans VALUES (1, convert_to(repeat('x', 140000000), 'UTF8'))");
    assert_eq!(refused.code(), &SqlState::PROGRAM_LIMIT_EXCEEDED);
    assert_eq!(refused.message(), "metadata of an entry is too long for jsonb, about a row of table \"public.scans\"");
    assert!(refused.hint().unwrap().contains("Without keep_image"), "{refused:?}");
    assert!(is_true(&mut client, "NOT EXISTS (SELECT FROM scans)"));
}

/// Else the links between a row's entries would be those of two shapes, and not be compared.
#[test]
fn how_a_session_quotes_names_is_no_part_of_what_is_recorded() {
    let (_cluster, mut client) = start(Options::new());
    let setup = "CREATE TABLE bills (id int PRIMARY KEY, note text, n int); SELECT ledger.track('bills')";
    client.batch_execute(setup).unwrap();
    client
        .batch_execute(
            "SET quote_all_identifiers = on; INSERT INTO bills VALUES (1, 'paid 10', 0); RESET quote_all_identifiers",
        )
        .unwrap();
    assert_eq!(column(&mut client, "SELECT DISTINCT metadata->>'table' FROM ledger.entries"), ["public.bills"]);
    client.batch_execute("INSERT INTO bills VALUES (2, 'paid 20', 0)").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries WHERE entry_type = 'table_shape'"), 1);
    assert_clean(&mut client, "bills");
    client
        .batch_execute(
            "ALTER TABLE bills DISABLE TRIGGER USER; UPDATE bills SET note = 'paid 99' WHERE id = 1;
             ALTER TABLE bills ENABLE ALWAYS TRIGGER ledger_record_change;
             ALTER TABLE bills ENABLE ALWAYS TRIGGER ledger_record_truncate",
        )
        .unwrap();
    assert_eq!(problems(&mut client, "bills"), [r#"{"id": 1} modified"#]);
    client.batch_execute("SET quote_all_identifiers = on").unwrap();
    assert_eq!(problems(&mut client, "bills"), [r#"{"id": 1} modified"#]);
    client.batch_execute("UPDATE bills SET n = 1; RESET quote_all_identifiers").unwrap();
    assert_eq!(problems(&mut client, "bills"), [r#"{"id": 1} modified"#]);
}

/// Programs do not agree on which of two members with one key counts, and some show the sign of a zero.
#[test]
fn a_value_that_some_programs_read_as_what_was_recorded_is_found() {
    for (type_name, recorded, changed) in [
        ("json", r#"{"role": "user"}"#, r#"{"role": "admin", "role": "user"}"#),
        ("json[]", r#"{"{\"a\": [{\"b\": 1}]}"}"#, r#"{"{\"a\": [{\"b\": 0, \"b\": 1}]}"}"#),
        ("float8", "0", "-0"),
        ("real", "-0", "0"),
        ("float8[]", "{1,0}", "{1,-0}"),
    ] {
        let (_cluster, mut client) = start(Options::new());
        for keep_image in [false, true] {
            client
                .batch_execute(&format!(
                    "DROP TABLE IF EXISTS one; CREATE TABLE one (id int PRIMARY KEY, v {type_name});
                     SELECT ledger.track('one', keep_image => {keep_image}); INSERT INTO one VALUES (1, '{recorded}');
                     ALTER TABLE one DISABLE TRIGGER ledger_record_change; UPDATE one SET v = '{changed}';
                     ALTER TABLE one ENABLE ALWAYS TRIGGER ledger_record_change"
                ))
                .unwrap();
            assert_eq!(problems(&mut client, "one"), ["{\"id\": 1} modified"], "{type_name}");
        }
    }
}

/// They are an error, and do not take the server down.
#[test]
fn arrays_nested_deeper_than_the_stack_allows_are_refused() {
    let (_cluster, mut client) = start(quiet());
    client
        .batch_execute(
            "CREATE DOMAIN d0 AS int;
             DO $$ BEGIN FOR n IN 1..200 LOOP EXECUTE format('CREATE DOMAIN d%s AS d%s[]', n, n - 1); END LOOP; END $$;
             CREATE TABLE deep (id int PRIMARY KEY, v d200); SELECT ledger.track('deep'); SET max_stack_depth = '100kB'",
        )
        .unwrap();
    let refused = error(&mut client, "INSERT INTO deep VALUES (1, NULL)");
    assert_eq!(*refused.code(), SqlState::STATEMENT_TOO_COMPLEX, "{refused:?}");
    client.batch_execute("RESET max_stack_depth; INSERT INTO deep VALUES (1, NULL)").unwrap();
    assert_clean(&mut client, "deep");
}

/// Before Postgres 15, its output function prints a byte that is no text.
#[test]
fn a_char_of_any_byte_is_recorded_as_newer_versions_of_postgres_print_it() {
    let (_cluster, mut client) = start(Options::new());
    client
        .batch_execute(
            r#"CREATE DOMAIN byte AS "char";
               CREATE TABLE bytes (c "char" PRIMARY KEY, one "char"[], two "char"[][], from_0 byte[]);
               SELECT ledger.track('bytes', keep_image => true);
               INSERT INTO bytes SELECT c, ARRAY[c, NULL], ARRAY[ARRAY[c, 'x'], ARRAY['"', c]], array_fill(c::byte, '{1}', '{0}')
               FROM (SELECT n::"char" AS c FROM generate_series(-128, 127) AS n) AS all_bytes"#,
        )
        .unwrap();
    assert_clean(&mut client, "bytes");
    let image = |byte: i8| {
        let of_row = format!("metadata->'after'->>'c' = ledger_text({byte})");
        format!("SELECT metadata->'after' FROM ledger.entries WHERE entry_type = 'table_insert' AND {of_row}")
    };
    client
        .batch_execute(
            r"CREATE FUNCTION ledger_text(byte int) RETURNS text LANGUAGE sql AS $$
                  SELECT CASE WHEN byte < 0 THEN '\' || to_char(((byte + 256) / 64) * 100 + ((byte + 256) / 8 % 8) * 10 + (byte + 256) % 8, 'FM000')
                              WHEN byte = 0 THEN '' ELSE chr(byte) END $$",
        )
        .unwrap();
    for byte in [-128, -61, -1] {
        let text = format!("\\{:03o}", byte as u8);
        let quoted = format!("\"\\{text}\"");
        let image = json(&mut client, &image(byte));
        assert_eq!(image["one"], serde_json::json!([text, null]), "{image}");
        assert_eq!(image["two"], format!("{{{{{quoted},x}},{{\"\\\"\",{quoted}}}}}"), "{image}");
        assert_eq!(image["from_0"], format!("[0:0]={{{quoted}}}"), "{image}");
    }
    assert_eq!(json(&mut client, &image(b'a' as i8))["one"], serde_json::json!(["a", null]));
    // The row is found by what the ledger states, which the type reads as another value before Postgres 15.
    let verify = r#"SELECT ledger.verify_row('bytes', '{"c": "\\303"}')->>'verified'"#;
    assert_eq!(value(&mut client, verify), "true");
    assert_eq!(number(&mut client, r#"SELECT count((ledger.verified(b)).c) FROM bytes AS b"#), 256);
}

/// What the ledger states of it leads the column's type to another value, and no entry says that there is a row.
#[test]
fn a_row_that_nobody_recorded_is_found_by_the_key_that_verify_table_states() {
    let (_cluster, mut client) = start_with(
        "CREATE TABLE numbers (k jsonb PRIMARY KEY); CREATE TABLE lists (k jsonb[] PRIMARY KEY);
         CREATE TABLE prices (k money[] PRIMARY KEY);
         SELECT ledger.track('numbers'), ledger.track('lists'), ledger.track('prices');",
    );
    for (table, value) in [
        ("numbers", "'0.12345678901234567890'"),
        ("numbers", "'[1.00000000000000000001]'"),
        ("lists", "ARRAY['null'::jsonb, NULL, '1']"),
        ("lists", "ARRAY['0.12345678901234567890'::jsonb]"),
        ("prices", "ARRAY[1.50::money]"),
    ] {
        client.batch_execute("BEGIN").unwrap();
        client.batch_execute(&format!("{APPLICATION_TRIGGERS_OFF}; INSERT INTO {table} VALUES ({value})")).unwrap();
        let found = format!(
            "SELECT problem || ' ' || (ledger.verify_row('{table}', row_key) ->> 'problem') FROM ledger.verify_table('{table}')"
        );
        assert_eq!(column(&mut client, &found), ["unrecorded unrecorded"], "{value}");
        client.batch_execute("ROLLBACK").unwrap();
    }
}
