-- A row as JSON: every type, whatever the session's settings.
\i pg_regress/fresh_ledger.sql
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS "Odd ""schema""" CASCADE;
RESET client_min_messages;

-- What one value is recorded as: the image of a row that holds it.
CREATE DOMAIN tt_name AS text CHECK (length(VALUE) < 100);
CREATE DOMAIN tt_names AS tt_name[];
CREATE DOMAIN tt_positive AS numeric CHECK (VALUE > 0);
CREATE TYPE tt_mood AS ENUM ('sad', 'ok', 'very "happy"');
CREATE TYPE tt_point AS (x integer, "Y y" text, at timestamptz);
CREATE TYPE tt_span AS RANGE (subtype = timestamptz);
CREATE DOMAIN tt_point_domain AS tt_point;
CREATE FUNCTION recorded(type_name text, value text, OUT image jsonb, OUT verified boolean) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE tt_one (id integer PRIMARY KEY, v %s)', type_name);
    PERFORM ledger.track('tt_one', keep_image => true);
    EXECUTE format('INSERT INTO tt_one VALUES (1, %L)', value);
    SELECT h.after -> 'v' INTO image FROM ledger.history('tt_one', '{"id": 1}') AS h;
    verified := ledger.verify_row('tt_one', '{"id": 1}') -> 'verified';
    EXECUTE 'DROP TABLE tt_one';
END
$$;
CREATE TABLE tt_values (number serial, type_name text, value text);
INSERT INTO tt_values (type_name, value) VALUES
    ('boolean', 'true'), ('boolean', 'false'), ('smallint', '-32768'), ('integer', '-2147483648'), ('bigint', '9223372036854775807'),
    ('bigint', '-9223372036854775808'), ('oid', '4294967295'), ('xid', '4294967295'), ('tid', '(1,2)'), ('pg_lsn', '16/B374D848'),
    ('real', '0.1'), ('real', '1e-40'), ('real', '3e10'), ('real', '-1.5e-7'), ('float8', '1e23'), ('float8', '-1234.5e10'), ('real', '3.4e38'), ('real', 'NaN'), ('real', '-Infinity'), ('real', '-0'),
    ('float8', '0.1'), ('float8', '1e300'), ('float8', '5e-324'), ('float8', '123456789012345680'), ('float8', 'NaN'), ('float8', 'Infinity'), ('float8', '-Infinity'), ('float8', '-0'),
    ('numeric', '0'), ('numeric', '1.50'), ('numeric', '123456789.012345'), ('numeric', '123456789.0123456'), ('numeric', '123456789012345678901234567890'), ('numeric', '0.000000000000000000001'), ('numeric', '1e30'), ('numeric', 'NaN'), ('numeric', 'Infinity'), ('numeric', '-Infinity'), ('numeric(10,2)', '7'), ('tt_positive', '2.5'),
    ('money', '12.34'), ('money', '-0.01'),
    ('text', ''), ('text', E'quote " backslash \\ newline \n tab \t é \U0001F600'), ('varchar(5)', 'abc'), ('char(5)', 'ab'), ('"char"', 'x'), ('name', 'a name'), ('tt_name', 'a domain'),
    ('bytea', '\x00ff10'), ('bytea', ''),
    ('date', '2026-02-28'), ('date', 'infinity'), ('date', '0044-03-15 BC'), ('date', '12026-01-01'), ('time', '23:59:59.999999'), ('time', '24:00'), ('timetz', '12:00:00.5+05:30'),
    ('timestamp', '2026-02-28 12:00:00.123'), ('timestamp', '-infinity'), ('timestamp', '0044-03-15 12:00 BC'), ('timestamp', '294276-12-31 23:59:59'),
    ('timestamptz', '2026-02-28 12:00:00.123+01'), ('timestamptz', 'infinity'), ('timestamptz', '0044-03-15 12:00:00+00 BC'), ('timestamptz(0)', '2026-02-28 12:00:00.9+01'),
    ('interval', '1 year 2 mons -3 days 04:05:06.7'), ('interval', '0'),
    ('json', '{"b": 1, "a": 2, "b": 3}'), ('json', '{"n": 1e2}'), ('json', '{"n": 1.50, "m": -0}'), ('json', '["\ud800"]'), ('json', '["\u0000", "\\u0000"]'), ('json', '["\ud83d\ude00", "\u00e9"]'), ('json', '[123456789012345678901234567890]'), ('json', '[0.1234567890123456789]'), ('json', '"[0.1234567890123456789]"'), ('json', '"\"[0.1234567890123456789]\""'), ('json', '"[1, 2]"'), ('json', '"[draft]"'), ('json', '"2026-01-01"'), ('json', 'null'), ('json', '"text"'),
    ('jsonb', '{"b": 1, "a": [null, true, {}]}'), ('jsonb', '{"n": 1e2}'), ('jsonb', '[0.1234567890123456789]'), ('jsonb', '"[0.1234567890123456789]"'), ('jsonb', '"plain"'), ('jsonb', '[1e400]'), ('jsonb', 'null'), ('jsonpath', '$.a[*] ? (@ > 1)'),
    ('uuid', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'), ('inet', '10.1.2.3/8'), ('inet', '::1'), ('cidr', '10.0.0.0/8'), ('macaddr', '08-00-2b-01-02-03'), ('macaddr8', '08:00:2b:01:02:03:04:05'),
    ('bit(3)', '101'), ('varbit', '10'), ('tt_mood', 'very "happy"'),
    ('point', '(1.5,-2)'), ('lseg', '[(0,0),(1,1)]'), ('box', '(1,1),(0,0)'), ('path', '[(0,0),(1,1)]'), ('polygon', '((0,0),(1,1),(1,0))'), ('circle', '<(0,0),1.5>'), ('line', '{1,2,3}'),
    ('tsvector', 'a fat ''b c'':1A'), ('tsquery', 'fat & !rat'),
    ('int4range', '[1,5)'), ('int4range', 'empty'), ('numrange', '(,1.5]'), ('tstzrange', '[2026-01-01 00:00+00,)'), ('daterange', '[2026-01-01,2026-02-01)'), ('tt_span', '[2026-01-01 00:00+00,2026-01-02 00:00+00]'), ('int4multirange', '{[1,3),[5,7)}'), ('tstzmultirange', '{[2026-01-01 00:00+00,2026-01-02 00:00+00)}'),
    ('integer[]', '{1,NULL,3}'), ('integer[]', '{}'), ('integer[]', '{{1,2},{3,NULL}}'), ('integer[]', '[0:2]={1,2,3}'), ('integer[]', '[2:2]={5}'), ('text[]', '{a,"b, c","d\"e",NULL,"NULL"}'), ('float8[]', '{0.1,NaN}'), ('timestamptz[]', '{2026-01-01 12:00+01}'), ('timestamptz[]', '[3:3]={2026-01-01 12:00+01}'), ('bytea[]', '{"\\x01"}'), ('bytea[]', '[0:0]={"\\x01"}'), ('json[]', '{"{\"b\": 1, \"a\": 2}"}'), ('tt_name[]', '{a,b}'), ('tt_names', '{c,d}'), ('tt_mood[]', '{sad}'), ('money[]', '{1.5}'), ('int2vector', '1 2 3'), ('oidvector', '1 2'),
    ('tt_point', '(1,"a ""b""","2026-01-01 12:00+01")'), ('tt_point_domain', '(1,,)'), ('tt_point[]', '{"(1,a,)"}'),
    ('regclass', 'pg_class'), ('regtype', 'integer'), ('regproc', 'now'), ('regrole', 'pg_monitor'), ('regnamespace', 'pg_catalog'), ('regclass[]', '{pg_class,pg_type}');
-- Every one of them as canonical JSON, and null for nothing: the column is left out then.
SELECT v.type_name, v.value, CASE WHEN length(r.image::text) > 80 THEN left(r.image::text, 40) || '...' ELSE r.image::text END AS image, r.verified
FROM tt_values AS v, recorded(v.type_name, v.value) AS r ORDER BY number;
SELECT r.image, r.verified FROM recorded('text', NULL) AS r;
DROP FUNCTION recorded(text, text);

-- Whole numbers beyond what jsonb can hold are kept as text. The row is recorded all the same.
CREATE TABLE tt_huge (id integer PRIMARY KEY, j json, n numeric);
SELECT ledger.track('tt_huge', keep_image => true) IS NOT NULL AS tracked;
INSERT INTO tt_huge VALUES (1, ('[' || repeat('9', 140000) || ']')::json, repeat('9', 100000)::numeric), (2, (repeat('[', 2000) || repeat(']', 2000))::json, 1.5);
SELECT jsonb_typeof(after -> 'j') AS json_as, jsonb_typeof(after -> 'n') AS numeric_as, length(after ->> 'n') AS digits
FROM ledger.history('tt_huge', '{"id": 1}');
SELECT count(*) AS problems FROM ledger.verify_table('tt_huge');
SELECT (ledger.verified(t)).id FROM tt_huge AS t ORDER BY id;
-- Values that are stored out of line and compressed.
CREATE TABLE tt_long (id integer PRIMARY KEY, t text, b bytea, a text[]);
ALTER TABLE tt_long ALTER COLUMN t SET STORAGE EXTERNAL;
SELECT ledger.track('tt_long') IS NOT NULL AS tracked;
INSERT INTO tt_long SELECT 1, repeat('long ', 20000), convert_to(repeat('long ', 20000), 'UTF8'), array_agg(n::text) FROM generate_series(1, 5000) AS n;
UPDATE tt_long SET a = '{}';
SELECT count(*) AS problems FROM ledger.verify_table('tt_long');
SET bytea_output = 'hex';
SELECT ledger.verify_entry(entry_id, (SELECT jsonb_strip_nulls(to_jsonb(r)) FROM tt_long AS r)) -> 'hash_valid' AS hash_valid
FROM ledger.history('tt_long', '{"id": 1}') ORDER BY version;

-- Settings change nothing. Written under one set of them, verified under another.
CREATE TABLE tt_settings (
    id timestamptz, id2 date, id3 float8, id4 bytea, id5 interval, PRIMARY KEY (id, id2, id3, id4, id5),
    ts timestamp, tz timetz, m money, f real, spans tstzrange[], p tt_point, ps tt_point[], i interval[], r regclass, rs regtype[], b bytea[], ms tstzmultirange, fs float8[], pt point);
SELECT ledger.track('tt_settings', keep_image => true) IS NOT NULL AS tracked;
CREATE FUNCTION write_row(n integer) RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.tt_settings VALUES ('2026-07-01 12:00:00.5+00', '2026-02-03', 0.1 + n, '\xdead', '1 mon -2 days 03:04:05.6',
        '2026-02-03 04:05:06', '04:05:06+02', 12.34, 0.1, ARRAY[tstzrange('2026-07-01 00:00+00', NULL)], ROW(1, 'a', '2026-07-01 12:00+00'),
        ARRAY[ROW(1, 'a', '2026-07-01 12:00+00')::public.tt_point], '{1 mon -2 days 03:04:05.6}', 'public.tt_settings', '{integer}', ARRAY['\xdead'::bytea],
        '{[2026-07-01 00:00+00,2026-07-02 00:00+00)}', ARRAY[1.0 / 3, 1e-10], '(0.1,0.30000000000000004)')
$$;
SELECT write_row(0);
SET TimeZone = 'Asia/Kathmandu';
SET DateStyle = 'SQL, YMD';
SET IntervalStyle = 'iso_8601';
SET extra_float_digits = -5;
SET bytea_output = 'escape';
SET search_path = pg_catalog, public;
SELECT public.write_row(1);
SELECT problem, detail FROM ledger.verify_table('tt_settings');
SELECT count(ledger.verified(t)) FROM tt_settings AS t;
SET DateStyle = 'German, YMD';
SET IntervalStyle = 'sql_standard';
SET search_path = '';
SET extra_float_digits = 3;
SET TimeZone = 'America/St_Johns';
SELECT public.write_row(2);
SELECT problem, detail FROM ledger.verify_table('public.tt_settings');
-- They are the session's still.
SELECT timestamptz '2026-07-01 12:00+00' AS time, interval '1 mon -2 days' AS span, '\xdead'::bytea AS bytes, 0.1::real AS real;
RESET TimeZone;
RESET DateStyle;
RESET IntervalStyle;
RESET extra_float_digits;
RESET bytea_output;
RESET search_path;
SELECT problem, detail FROM ledger.verify_table('tt_settings');
-- But for the one column that was written as different, the rows are recorded alike.
SELECT count(*) AS images, sum(rows) AS rows FROM (
    SELECT count(*) AS rows FROM ledger.entries
    WHERE entry_type = 'table_insert' AND metadata ->> 'table' = 'public.tt_settings' GROUP BY metadata -> 'after' #- '{id3}') AS images;
-- A key is given as JSON; its values can be written in any way that their types read.
SELECT ledger.verify_row('tt_settings', '{"id": "2026-07-01T17:45:00.5+05:45", "id2": "20260203", "id3": "1e-1", "id4": "\\xDEAD", "id5": "P1M-2DT3H4M5.6S"}') -> 'verified' AS verified;
-- lc_monetary is part of money's text. So it is recorded as the number behind it.
SELECT after -> 'm' AS money FROM ledger.history('tt_settings', '{"id": "2026-07-01 12:00:00.5+00", "id2": "2026-02-03", "id3": 0.1, "id4": "\\xdead", "id5": "1 mon -2 days 03:04:05.6"}');
DROP FUNCTION write_row(integer);

-- For common types the data is what to_jsonb() gives, without nulls, under UTC.
SET TimeZone = 'UTC';
SET IntervalStyle = 'postgres';
CREATE TABLE tt_common (
    id bigserial PRIMARY KEY, uid uuid, name text, code varchar(10), pad char(4), flag boolean, small smallint, n integer, price numeric(12,2), ratio float8, single real,
    day date, clock time, made timestamp, changed timestamptz DEFAULT '2026-07-01 12:00:00.123456+00', body jsonb, raw json, tags text[], numbers integer[], data bytea, mood tt_mood, address inet, span int4range, kind tt_name, wait interval);
SELECT ledger.track('tt_common') IS NOT NULL AS tracked;
INSERT INTO tt_common (uid, name, code, pad, flag, small, n, price, ratio, single, day, clock, made, body, raw, tags, numbers, data, mood, address, span, kind, wait) VALUES
    ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'Møller "x" \ ', 'abc', 'ab', true, -1, 42, 1250.50, 0.1, 0.25, '2026-02-03', '04:05:06.7', '2026-02-03 04:05:06',
     '{"b": [1, 2.5, "x"], "a": {"c": true}}', '{"z": 1, "a": [1.5]}', '{a,"b c"}', '{1,2}', '\x00ff', 'ok', '10.0.0.1/24', '[1,5)', 'k', '1 day 02:03:04'),
    (NULL, '', NULL, NULL, NULL, NULL, NULL, NULL, 1e20, 3e10, '2026-02-03', NULL, NULL, '[]', NULL, '{}', NULL, '', NULL, NULL, 'empty', NULL, NULL);
SELECT t.id, ledger.verify_entry(h.entry_id, jsonb_strip_nulls(to_jsonb(t))) ->> 'verified' AS verified,
       ledger.hash_data(jsonb_strip_nulls(to_jsonb(t))) = h.data_hash AS same_hash
FROM tt_common AS t, ledger.history('tt_common', jsonb_build_object('id', t.id)) AS h ORDER BY t.id;
RESET TimeZone;
RESET IntervalStyle;
RESET bytea_output;

-- Any name.
CREATE SCHEMA "Odd ""schema""";
CREATE TABLE "Odd ""schema"""."Ünïcode 'table'; --" (
    "Select" integer, "a ""quoted"" \name" text, "k" text, "t" text, "ключ" integer, "__$1" integer, PRIMARY KEY ("ключ", "a ""quoted"" \name", "k"));
SELECT ledger.track('"Odd ""schema"""."Ünïcode ''table''; --"', excluded => ARRAY['Select'], keep_image => true) IS NOT NULL AS tracked;
SELECT table_name, excluded FROM ledger.tracked_tables WHERE excluded IS NOT NULL;
INSERT INTO "Odd ""schema"""."Ünïcode 'table'; --" VALUES (1, 'x', 'k', 't', 2, 3);
UPDATE "Odd ""schema"""."Ünïcode 'table'; --" SET "Select" = 2;
UPDATE "Odd ""schema"""."Ünïcode 'table'; --" SET "t" = 'u';
SELECT problem FROM ledger.verify_table('"Odd ""schema"""."Ünïcode ''table''; --"');
SELECT ledger.verify_row('"Odd ""schema"""."Ünïcode ''table''; --"', '{"ключ": 2, "k": "k", "a \"quoted\" \\name": "x"}') -> 'verified' AS verified;
SELECT operation, before, after FROM ledger.history('"Odd ""schema"""."Ünïcode ''table''; --"', '{"ключ": 2, "k": "k", "a \"quoted\" \\name": "x"}') ORDER BY version;
SELECT (ledger.verified(o)).t FROM "Odd ""schema"""."Ünïcode 'table'; --" AS o;
ALTER TABLE "Odd ""schema"""."Ünïcode 'table'; --" DISABLE TRIGGER ALL;
UPDATE "Odd ""schema"""."Ünïcode 'table'; --" SET "t" = 'v', "__$1" = 4;
SELECT row_key, problem, detail FROM ledger.verify_table('"Odd ""schema"""."Ünïcode ''table''; --"');
SELECT (ledger.verified(o)).t FROM "Odd ""schema"""."Ünïcode 'table'; --" AS o;
DROP SCHEMA "Odd ""schema""" CASCADE;

-- Columns named as the ledger's own queries name things.
CREATE TABLE k (k integer, t integer, row integer, PRIMARY KEY (k, t));
SELECT ledger.track('k') IS NOT NULL AS tracked;
INSERT INTO k VALUES (1, 2, 3);
SELECT ledger.verify_row('k', '{"k": 1, "t": 2}') -> 'verified' AS verified;
SELECT operation FROM ledger.history('k', '{"k": 1, "t": 2}');
-- A domain that refuses null, in a column that is not in the key.
CREATE DOMAIN tt_required AS text NOT NULL;
CREATE TABLE tt_domain (id numeric(6,2) PRIMARY KEY, v tt_required);
SELECT ledger.track('tt_domain') IS NOT NULL AS tracked;
INSERT INTO tt_domain VALUES (1, 'x');
SELECT ledger.verify_row('tt_domain', '{"id": 1}') -> 'verified' AS verified, ledger.verify_row('tt_domain', '{"id": "1.001"}') -> 'verified' AS rounded;

SELECT ledger.verify_all() -> 'overall_valid' AS overall_valid;
SELECT count(*) IS NOT NULL AS sealed FROM ledger.commit_block();
SELECT file_has_all_blocks();
SELECT ledger.verify_all() -> 'overall_valid' AS overall_valid;
SET client_min_messages = warning;
DROP TABLE tt_values, tt_huge, tt_long, tt_settings, tt_common, k, tt_domain;
DROP TYPE tt_name, tt_positive, tt_mood, tt_span, tt_point, tt_required CASCADE;
