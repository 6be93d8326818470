-- A row is named by the values of its key: columns of the key may be renamed, and given another type.
\i pg_regress/fresh_ledger.sql
SET client_min_messages = warning;
-- The name as anyone can compute it.
CREATE FUNCTION row_id(table_id text, key_values jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT left(encode(sha256(convert_to(table_id, 'UTF8') || '\x00' || convert_to(ledger.canonical_json(key_values), 'UTF8')), 'hex'), 32)
$$;

-- A key of one column.
CREATE TABLE notes (id integer PRIMARY KEY, body text);
INSERT INTO notes VALUES (1, 'before');
SELECT ledger.track('notes') AS table_id \gset
INSERT INTO notes VALUES (2, 'after'), (3, 'gone');
UPDATE notes SET id = 4 WHERE id = 2;
SELECT metadata -> 'key' AS key, metadata ->> 'row_id' = row_id(:'table_id', jsonb_build_array(metadata -> 'key' -> 'id')) AS row_id,
       metadata -> 'old_key' AS old_key, metadata ->> 'old_row_id' = row_id(:'table_id', jsonb_build_array(metadata -> 'old_key' -> 'id')) AS old_row_id
FROM ledger.entries WHERE metadata ? 'key' ORDER BY created_at, id;
ALTER TABLE notes RENAME COLUMN id TO "Number";
SELECT * FROM ledger.verify_table('notes');
ALTER TABLE notes ALTER COLUMN "Number" TYPE bigint;
SELECT * FROM ledger.verify_table('notes');
UPDATE notes SET body = 'renamed' WHERE "Number" = 1;
DELETE FROM notes WHERE "Number" = 3;
SELECT * FROM ledger.verify_table('notes');
SELECT count(*) > 0 AS sealed FROM ledger.commit_block();
SELECT * FROM ledger.verify_table('notes');
SELECT operation FROM ledger.history('notes', '{"Number": 1}');
SELECT operation FROM ledger.history('notes', '{"Number": 3}');
SELECT ledger.verify_row('notes', '{"Number": 4}') -> 'verified' AS verified;
SELECT count(*) FROM notes AS n, ledger.verified(n);
SELECT ledger.history('notes', '{"id": 1}');
-- A problem is reported under the names of now, whatever they were when the entry was made.
ALTER TABLE notes DISABLE TRIGGER ledger_record_change;
UPDATE notes SET body = 'forged' WHERE "Number" = 4;
DELETE FROM notes WHERE "Number" = 1;
INSERT INTO notes VALUES (3, 'gone'), (5, 'new');
SELECT row_key, problem FROM ledger.verify_table('notes') ORDER BY 1;
SELECT DISTINCT problem FROM ledger.verify_table('notes') AS v, ledger.history('notes', v.row_key) ORDER BY 1;
DROP TABLE notes;

-- Of several: the order is that of the columns' numbers, not of their names, nor that of the key.
CREATE TABLE pairs (b integer, v text, a integer, PRIMARY KEY (a, b));
INSERT INTO pairs VALUES (1, 'one and two', 2), (2, 'two and one', 1);
SELECT ledger.track('pairs', keep_image => true) AS table_id \gset
INSERT INTO pairs VALUES (3, 'three', 3), (1, 'one and four', 4);
SELECT metadata -> 'key' AS key, metadata ->> 'row_id' = row_id(:'table_id', jsonb_build_array(metadata -> 'key' -> 'b', metadata -> 'key' -> 'a')) AS row_id
FROM ledger.entries WHERE metadata ->> 'table_id' = :'table_id' AND metadata ? 'key' ORDER BY created_at, metadata ->> 'key';
ALTER TABLE pairs RENAME COLUMN a TO z;
SELECT * FROM ledger.verify_table('pairs');
ALTER TABLE pairs RENAME COLUMN b TO y;
SELECT * FROM ledger.verify_table('pairs');
ALTER TABLE pairs DROP CONSTRAINT pairs_pkey, ADD PRIMARY KEY (y, z);
SELECT * FROM ledger.verify_table('pairs');
UPDATE pairs SET v = 'renamed' WHERE y = 1 AND z = 2;
SELECT * FROM ledger.verify_table('pairs');
SELECT operation, after FROM ledger.history('pairs', '{"y": 1, "z": 2}');
SELECT operation, after FROM ledger.history('pairs', '{"z": 1, "y": 2}');
-- Two rows that exchange their contents, and one that is removed.
ALTER TABLE pairs DISABLE TRIGGER ledger_record_change;
UPDATE pairs SET v = CASE y WHEN 1 THEN 'two and one' ELSE 'renamed' END WHERE (y, z) IN ((1, 2), (2, 1));
DELETE FROM pairs WHERE y = 1 AND z = 4;
SELECT row_key, problem, detail FROM ledger.verify_table('pairs') ORDER BY row_key;
DROP TABLE pairs;

-- Values that are equal, written in another way.
CREATE TABLE spans (span interval PRIMARY KEY, v text);
SELECT ledger.track('spans') IS NOT NULL AS tracked;
INSERT INTO spans VALUES ('1 day', 'first');
UPDATE spans SET v = 'second';
SELECT ledger.verify_row('spans', jsonb_build_object('span', span)) -> 'verified' AS verified FROM unnest('{1 day,24:00,PT24H}'::text[]) AS span;
SELECT string_agg(operation, ' ') FROM ledger.history('spans', '{"span": "24:00"}');
UPDATE spans SET span = '24:00';
SELECT ledger.verify_row('spans', jsonb_build_object('span', span)) -> 'verified' AS verified FROM unnest('{1 day,24:00,PT24H}'::text[]) AS span;
SELECT * FROM ledger.verify_table('spans');
ALTER TABLE spans DISABLE TRIGGER ledger_record_change;
UPDATE spans SET v = 'forged';
SELECT ledger.verify_row('spans', '{"span": "1 day"}') -> 'problem' AS problem;
DELETE FROM spans;
SELECT ledger.verify_row('spans', '{"span": "24:00"}') -> 'problem' AS problem;
DROP TABLE spans;

-- Money is recorded as the number behind it, and a key that is given back names the same row.
CREATE DOMAIN price AS money;
CREATE TABLE prices (price price PRIMARY KEY, v text);
SELECT ledger.track('prices') IS NOT NULL AS tracked;
INSERT INTO prices VALUES ('1.00', 'one'), ('100.00', 'hundred');
ALTER TABLE prices DISABLE TRIGGER ledger_record_change;
UPDATE prices SET v = 'forged' WHERE price = '1.00'::money;
SELECT row_key, problem, ledger.verify_row('prices', row_key) -> 'problem' AS of_row FROM ledger.verify_table('prices');
SELECT key, ledger.verify_row('prices', key::jsonb) -> 'verified' AS verified FROM unnest('{"{\"price\": \"1.00\"}","{\"price\": \"100.00\"}","{\"price\": 10000}"}'::text[]) AS key;
DROP TABLE prices;
DROP DOMAIN price;

-- A key is found as the ledger states it, whatever its type reads from these words.
CREATE FUNCTION stated(tracked regclass) RETURNS TABLE (key jsonb, verified jsonb, problem text, is_it boolean, history text) LANGUAGE sql AS $$
    SELECT entry.metadata -> 'key', verdict -> 'verified', verdict ->> 'problem', verdict ->> 'entry_id' = entry.id::text,
           (SELECT string_agg(operation, ' ' ORDER BY version) FROM ledger.history(tracked, entry.metadata -> 'key'))
    FROM ledger.entries AS entry, ledger.verify_row(tracked, entry.metadata -> 'key') AS verdict
    WHERE entry.metadata ->> 'table' = 'public.' || tracked AND entry.metadata ? 'key' ORDER BY entry.created_at, entry.id
$$;
-- A string is the text of a number that JSON would not keep.
CREATE TABLE documents (k jsonb PRIMARY KEY, v text);
SELECT ledger.track('documents') IS NOT NULL AS tracked;
INSERT INTO documents VALUES ('1.00000000000000000000000001', 'number'), ('"1.00000000000000000000000001"', 'string'), ('1', 'one'), ('null', 'null');
SELECT * FROM stated('documents');
SELECT ledger.verify_row('documents', jsonb_build_object('k', k)) -> 'verified' AS verified FROM documents WHERE jsonb_typeof(k) = 'number';
SELECT ledger.verify_row('documents', '{"k": "2.00000000000000000000000001"}') -> 'problem' AS problem;
ALTER TABLE documents DISABLE TRIGGER ledger_record_change;
DELETE FROM documents WHERE k IN ('1.00000000000000000000000001', 'null');
UPDATE documents SET v = 'forged' WHERE k <> '1';
SELECT * FROM stated('documents');
DROP TABLE documents;
-- Numbers that no double holds, and values nested deep.
CREATE TABLE large (n numeric, d double precision, k jsonb, PRIMARY KEY (n, d, k));
SELECT ledger.track('large') IS NOT NULL AS tracked;
INSERT INTO large VALUES ('1e400', '1.7976931348623157e308', '[1e400]'), ('1e400'::numeric + 0.5, 1, (repeat('[', 200) || repeat(']', 200))::jsonb);
SELECT verified, is_it, history FROM stated('large');
SELECT ledger.verify_row('large', to_jsonb(large)) -> 'verified' AS verified FROM large;
DROP TABLE large;
-- The null of jsonb is a value of a key like any other: this is not the row that had the rest of it for its key.
CREATE TABLE revisions (n integer PRIMARY KEY, v text);
SELECT ledger.track('revisions') IS NOT NULL AS tracked;
INSERT INTO revisions VALUES (1, 'first');
ALTER TABLE revisions ADD COLUMN k jsonb NOT NULL DEFAULT 'null', DROP CONSTRAINT revisions_pkey, ADD PRIMARY KEY (n, k);
SELECT ledger.verify_row('revisions', '{"n": 1, "k": null}') -> 'problem' AS problem;
SELECT count(*) FROM ledger.history('revisions', '{"n": 1, "k": null}');
DROP TABLE revisions;
-- Money is a number of the smallest unit, and another one to its type.
CREATE TABLE price_lists (k money[] PRIMARY KEY, v text);
SELECT ledger.track('price_lists') IS NOT NULL AS tracked;
INSERT INTO price_lists VALUES ('{1.50}', 'small'), ('{150.00}', 'large');
SELECT * FROM stated('price_lists');
DELETE FROM price_lists WHERE v = 'large';
SELECT * FROM stated('price_lists');
SELECT ledger.verify_row('price_lists', '{"k": ["1.50"]}') -> 'verified' AS verified;
-- That the one is gone, and should be, does not hide that the other is gone and should not.
INSERT INTO price_lists VALUES ('{150.00}', 'large');
DELETE FROM price_lists WHERE v = 'small';
ALTER TABLE price_lists DISABLE TRIGGER USER;
DELETE FROM price_lists;
SELECT ledger.verify_row('price_lists', '{"k": [150]}') -> 'problem' AS problem;
DROP TABLE price_lists;
-- The null of jsonb looks like that of SQL.
CREATE TABLE parts_of_documents (k jsonb[] PRIMARY KEY, v text);
SELECT ledger.track('parts_of_documents') IS NOT NULL AS tracked;
INSERT INTO parts_of_documents VALUES (ARRAY['{"a": 1}', 'null']::jsonb[], 'one'), (ARRAY['2', NULL]::jsonb[], 'two');
SELECT * FROM stated('parts_of_documents');
DROP TABLE parts_of_documents;
-- An array whose elements are arrays is none of two dimensions.
CREATE DOMAIN steps AS integer[];
CREATE TABLE paths (k steps[] PRIMARY KEY, v text);
SELECT ledger.track('paths') IS NOT NULL AS tracked;
INSERT INTO paths VALUES (ARRAY['{1,2}', '{3}']::steps[], 'one');
SELECT * FROM stated('paths');
DROP TABLE paths;
DROP DOMAIN steps;
-- A label that the type does not have any more.
CREATE TYPE size AS ENUM ('s', 'l');
CREATE TABLE sizes (k size PRIMARY KEY, v text);
SELECT ledger.track('sizes') IS NOT NULL AS tracked;
INSERT INTO sizes VALUES ('s', 'one');
ALTER TYPE size RENAME VALUE 's' TO 'small';
SELECT * FROM stated('sizes');
SELECT row_key, problem, ledger.verify_row('sizes', row_key) -> 'problem' AS of_row FROM ledger.verify_table('sizes') ORDER BY problem;
SELECT ledger.verify_row('sizes', '{"k": "tiny"}');
DROP TABLE sizes;
DROP TYPE size;
-- A type that prints only part of its values.
CREATE TYPE lossy;
CREATE FUNCTION lossy_in(cstring) RETURNS lossy LANGUAGE internal IMMUTABLE STRICT AS 'int8in';
CREATE FUNCTION lossy_out(lossy) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
CREATE TYPE lossy (INPUT = lossy_in, OUTPUT = lossy_out, LIKE = int8);
CREATE CAST (lossy AS bigint) WITHOUT FUNCTION AS IMPLICIT;
CREATE TABLE printed (k lossy PRIMARY KEY, v text);
SELECT ledger.track('printed') IS NOT NULL AS tracked;
INSERT INTO printed VALUES ('4294967303', 'one');
SELECT * FROM stated('printed');
ALTER TABLE printed DISABLE TRIGGER ledger_record_change;
DELETE FROM printed;
SELECT * FROM stated('printed');
DROP TABLE printed;
DROP TYPE lossy CASCADE;

-- A partition whose columns have other numbers than those of its table.
CREATE TABLE parted (region text, n integer, v text, PRIMARY KEY (region, n)) PARTITION BY LIST (region);
CREATE TABLE part_west (v text, dropped integer, n integer NOT NULL, region text NOT NULL);
ALTER TABLE part_west DROP COLUMN dropped;
ALTER TABLE parted ATTACH PARTITION part_west FOR VALUES IN ('west');
CREATE TABLE part_east PARTITION OF parted FOR VALUES IN ('east');
INSERT INTO parted VALUES ('west', 1, 'first'), ('east', 1, 'first');
SELECT ledger.track('parted') AS table_id \gset
INSERT INTO parted VALUES ('west', 2, 'second'), ('east', 2, 'second');
INSERT INTO part_west (region, n, v) VALUES ('west', 3, 'third');
UPDATE parted SET region = 'east' WHERE region = 'west' AND n = 3;
SELECT bool_and(metadata ->> 'row_id' = row_id(:'table_id', jsonb_build_array(metadata -> 'key' -> 'region', metadata -> 'key' -> 'n'))) AS row_ids
FROM ledger.entries WHERE metadata ->> 'table_id' = :'table_id' AND metadata ? 'key';
SELECT * FROM ledger.verify_table('parted');
ALTER TABLE parted RENAME COLUMN region TO place;
ALTER TABLE parted RENAME COLUMN n TO number;
UPDATE parted SET v = 'renamed' WHERE number = 1;
SELECT * FROM ledger.verify_table('parted');
SELECT place, number, ledger.verify_row('parted', jsonb_build_object('place', place, 'number', number)) -> 'verified' AS verified FROM parted ORDER BY 1, 2;
SELECT operation FROM ledger.history('part_west', '{"place": "west", "number": 1}');
SELECT count(*) FROM part_west AS p, ledger.verified(p);
SELECT ledger.verify_chain() -> 'overall_valid' AS valid;
