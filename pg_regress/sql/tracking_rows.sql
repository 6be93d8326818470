-- Every way to change a row becomes an entry, and what is asked of rows is answered from the entries.
\i pg_regress/fresh_ledger.sql
-- What was recorded since the last look, in order.
CREATE TABLE seen (id uuid);
CREATE FUNCTION recorded(OUT entry text, OUT in_table text, OUT key jsonb, OUT old_key jsonb, OUT before jsonb, OUT after jsonb, OUT signed boolean)
RETURNS SETOF record LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT e.entry_type::text, e.metadata ->> 'table', e.metadata -> 'key', e.metadata -> 'old_key', e.metadata -> 'before', e.metadata -> 'after', e.signature IS NOT NULL
    FROM ledger.entries AS e
    WHERE e.entry_type ~ '^table_(insert|update|delete|truncate)$' AND e.id NOT IN (SELECT s.id FROM seen AS s)
    ORDER BY e.created_at, e.id;
    INSERT INTO seen SELECT e.id FROM ledger.entries AS e;
END
$$;
CREATE TABLE items (id integer PRIMARY KEY, name text, price numeric(8,2));
SELECT ledger.track('items', keep_image => true) AS table_id \gset

-- Each statement that writes rows.
INSERT INTO items VALUES (1, 'one', 1.10), (2, 'two', NULL);
UPDATE items SET price = price + 1;
UPDATE items SET name = 'deux' WHERE id = 2;
DELETE FROM items WHERE id = 1;
SELECT * FROM recorded();
INSERT INTO items VALUES (2, 'twice', 2) ON CONFLICT (id) DO NOTHING;
INSERT INTO items VALUES (2, 'twice', 2), (3, 'three', 3) ON CONFLICT (id) DO UPDATE SET name = excluded.name;
SELECT * FROM recorded();
-- Postgres 14 has no MERGE.
SELECT current_setting('server_version_num')::int >= 150000 AS has_merge \gset
\if :has_merge
MERGE INTO items AS i USING (VALUES (2, 'merged'), (3, 'gone'), (4, 'new')) AS v (id, name) ON i.id = v.id
    WHEN MATCHED AND v.name = 'gone' THEN DELETE
    WHEN MATCHED THEN UPDATE SET name = v.name
    WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.name, 0);
\else
UPDATE items SET name = 'merged' WHERE id = 2; DELETE FROM items WHERE id = 3; INSERT INTO items VALUES (4, 'new', 0);
\endif
SELECT * FROM recorded();
COPY items FROM stdin;
5	five	5
6	\N	6
\.
WITH moved AS (DELETE FROM items WHERE id = 5 RETURNING *) INSERT INTO items SELECT 50, name, price FROM moved;
SELECT * FROM recorded();
-- A statement that changes nothing in a row still has changed it.
UPDATE items SET name = name WHERE id = 2;
SELECT entry, before = after AS unchanged FROM recorded();
-- The key: the entry is about both rows.
UPDATE items SET id = id + 100 WHERE id IN (2, 4);
SELECT * FROM recorded();
SELECT * FROM ledger.verify_table('items');
TRUNCATE items;
SELECT * FROM recorded();
SELECT * FROM ledger.verify_table('items');
INSERT INTO items VALUES (6, 'again', 6);
SELECT * FROM ledger.verify_table('items');
-- Entries that have gone with their partition are missed before rows are accused.
BEGIN;
SELECT count(*) FROM ledger.commit_block();
ALTER TABLE ledger.entries_sealed DETACH PARTITION ledger.entries_sealed_1;
SELECT row_key, problem FROM ledger.verify_table('items');
ROLLBACK;
DO $$ BEGIN INSERT INTO items VALUES (7, 'x', 7); RAISE EXCEPTION 'undo'; EXCEPTION WHEN OTHERS THEN INSERT INTO items VALUES (8, 'y', 8); END $$;
SELECT * FROM recorded();
-- Several changes of a row in one transaction, and its end.
BEGIN;
INSERT INTO items VALUES (9, 'a', 1);
UPDATE items SET name = 'b' WHERE id = 9;
SAVEPOINT s;
UPDATE items SET name = 'c' WHERE id = 9;
ROLLBACK TO s;
UPDATE items SET name = 'd' WHERE id = 9;
DELETE FROM items WHERE id = 9;
INSERT INTO items VALUES (9, 'e', 1);
COMMIT;
SELECT entry, before ->> 'name' AS before, after ->> 'name' AS after FROM recorded();
SELECT * FROM ledger.verify_table('items');
-- A cursor.
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM items WHERE id = 9 FOR UPDATE;
FETCH c;
UPDATE items SET name = 'f' WHERE CURRENT OF c;
COMMIT;
SELECT entry, after FROM recorded();
-- What BEFORE triggers make of a row is what is recorded; a row that they skip is not.
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.name = 'skip' THEN
        RETURN NULL;
    END IF;
    new.name := upper(new.name);
    RETURN new;
END
$$;
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION shout();
INSERT INTO items VALUES (10, 'quiet', 1), (11, 'skip', 1);
SELECT entry, after FROM recorded();
-- Replication roles are no way around.
SET session_replication_role = replica;
UPDATE items SET name = 'replica' WHERE id = 10;
RESET session_replication_role;
SELECT entry, after FROM recorded();

-- Who did it, and when, and from where.
SELECT jsonb_object_agg(key, jsonb_typeof(value)) AS members
FROM (SELECT metadata FROM ledger.entries WHERE entry_type = 'table_update' ORDER BY created_at DESC, id DESC LIMIT 1) AS e, jsonb_each(e.metadata);
BEGIN;
SET LOCAL application_name = 'tests of rows';
INSERT INTO items VALUES (12, 'who', 1);
SELECT e.metadata ->> 'session_user' = session_user AS session_user, e.metadata ->> 'current_user' = current_user AS current_user,
       e.metadata ->> 'application_name' AS application_name, (e.metadata ->> 'transaction_id')::bigint = pg_current_xact_id()::text::bigint AS transaction_id,
       e.metadata ->> 'table_id' = :'table_id' AS table_id, e.created_at BETWEEN now() AND clock_timestamp() AS created_at,
       e.data_hash = ledger.hash_data(jsonb_strip_nulls(to_jsonb(i))) AS data_hash, ledger.verify_signature(e.data_hash, e.signature, e.key_id) AS signed
FROM ledger.entries AS e, items AS i WHERE e.metadata -> 'key' = '{"id": 12}' AND i.id = 12;
COMMIT;
-- An update tells which row it found, also without images.
SELECT ledger.track('items') = :'table_id' AS same_id;
UPDATE items SET price = 2 WHERE id = 12;
SELECT count(*) AS entries, bool_and(u.metadata ->> 'previous_hash' = i.data_hash) AS linked, bool_or(u.metadata ?| '{before,after}') AS images
FROM ledger.entries AS u, ledger.entries AS i
WHERE u.entry_type = 'table_update' AND u.metadata -> 'key' = '{"id": 12}' AND i.entry_type = 'table_insert' AND i.metadata -> 'key' = '{"id": 12}';
SELECT count(*) FROM recorded();

-- Rows that come and go with others.
CREATE TABLE parents (id integer PRIMARY KEY);
CREATE TABLE children (id integer PRIMARY KEY, parent integer DEFAULT 0 REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE, other integer REFERENCES parents ON DELETE SET NULL);
SELECT ledger.track('children', keep_image => true) IS NOT NULL AS tracked, ledger.track('parents', keep_image => true, with_signature => false) IS NOT NULL AS tracked;
INSERT INTO parents VALUES (1), (2);
INSERT INTO children VALUES (1, 1, 2), (2, 2, NULL);
SELECT count(*) FROM recorded();
UPDATE parents SET id = 10 WHERE id = 1;
SELECT * FROM recorded();
DELETE FROM parents WHERE id = 2;
DELETE FROM parents;
SELECT * FROM recorded();
INSERT INTO parents VALUES (1);
INSERT INTO children VALUES (1, 1, 1);
TRUNCATE parents CASCADE;
SELECT entry, in_table FROM recorded() ORDER BY in_table, entry;
SELECT problem FROM ledger.verify_table('children') UNION ALL SELECT problem FROM ledger.verify_table('parents');

-- Columns that Postgres fills in.
CREATE TABLE computed (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n integer DEFAULT 7, twice integer GENERATED ALWAYS AS (n * 2) STORED);
SELECT ledger.track('computed', keep_image => true) IS NOT NULL AS tracked;
INSERT INTO computed DEFAULT VALUES;
UPDATE computed SET n = 8;
SELECT entry, before, after FROM recorded();
SELECT * FROM ledger.verify_table('computed');

-- A table that others inherit from: its own rows only.
CREATE TABLE base (id integer PRIMARY KEY, v text);
CREATE TABLE derived (extra text, PRIMARY KEY (id)) INHERITS (base);
INSERT INTO derived VALUES (1, 'of the child', 'x');
SELECT ledger.track('base', keep_image => true) IS NOT NULL AS tracked;
INSERT INTO base VALUES (1, 'own');
INSERT INTO derived VALUES (2, 'of the child', 'x');
UPDATE base SET v = 'changed';
SELECT entry, key, after FROM recorded();
SELECT * FROM ledger.verify_table('base');
SELECT ledger.verify_row('base', '{"id": 1}') -> 'verified' AS own, ledger.verify_row('base', '{"id": 2}') - 'entry_id' AS of_the_child;
SELECT (ledger.verified(b)).v FROM ONLY base AS b;
TRUNCATE ONLY base;
SELECT count(*) FROM recorded();
SELECT * FROM ledger.verify_table('base');

-- Some columns only.
CREATE TABLE partly (id integer, part integer, body text, secret text, seen integer, PRIMARY KEY (part, id));
SELECT ledger.track('partly', keep_image => true, columns => '{body}') AS partly_id \gset
INSERT INTO partly VALUES (1, 2, 'text', 'password', 0);
UPDATE partly SET seen = seen + 1;
SELECT * FROM recorded();
UPDATE partly SET body = 'other', secret = 'changed';
SELECT entry, before, after FROM recorded();
SELECT count(*) AS leaks FROM ledger.entries AS e WHERE e::text ~ 'password';
SELECT ledger.verify_row('partly', '{"id": 1, "part": 2}') -> 'verified' AS verified;
-- Other columns from now on. What was recorded of the former ones still verifies.
SELECT ledger.track('partly', keep_image => true, excluded => '{secret,seen}') = :'partly_id' AS same_id;
ALTER TABLE partly ADD COLUMN added text;
SELECT * FROM ledger.verify_table('partly');
UPDATE partly SET seen = 9;
UPDATE partly SET added = 'new';
SELECT entry, before, after FROM recorded();
SELECT * FROM ledger.verify_table('partly');
SELECT operation, before, after FROM ledger.history('partly', '{"id": 1, "part": 2}');

-- What is found when somebody went around the triggers, sealed or not.
CREATE TABLE proofs (id integer PRIMARY KEY, v text);
SELECT ledger.track('proofs') IS NOT NULL AS tracked;
INSERT INTO proofs SELECT n, 'recorded' FROM generate_series(1, 6) AS n;
DELETE FROM proofs WHERE id = 6;
SELECT count(*) > 0 AS sealed FROM ledger.commit_block();
UPDATE proofs SET v = 'again' WHERE id = 5;
ALTER TABLE proofs DISABLE TRIGGER ledger_record_change;
UPDATE proofs SET v = 'forged' WHERE id = 1;
DELETE FROM proofs WHERE id = 2;
INSERT INTO proofs VALUES (6, 'recorded'), (7, 'smuggled');
UPDATE proofs SET v = 'passing' WHERE id = 4;
ALTER TABLE proofs ENABLE ALWAYS TRIGGER ledger_record_change;
UPDATE proofs SET v = 'recorded' WHERE id = 4;
SELECT row_key, problem, entry_id IS NOT NULL AS entry, block_number IS NOT NULL AS sealed, regexp_replace(detail, '[0-9a-f-]{36}', 'ID') AS detail
FROM ledger.verify_table('proofs') ORDER BY row_key;
SELECT id, v - 'entry_id' - 'block_number' AS verdict FROM generate_series(1, 8) AS id, ledger.verify_row('proofs', jsonb_build_object('id', id)) AS v;
SELECT (ledger.verified(p)).* FROM proofs AS p WHERE id = 3;
SELECT v.* FROM proofs AS p, ledger.verified(p) AS v WHERE p.id IN (3, 5) ORDER BY v.id;
SELECT (ledger.verified(p)).* FROM proofs AS p WHERE id = 1;
\echo :SQLSTATE
SELECT (ledger.verified(p)).* FROM proofs AS p WHERE id = 6;
SELECT (ledger.verified(p)).* FROM proofs AS p WHERE id = 7;
-- Not the row as it is in the table, but as it is given.
SELECT ledger.verified(ROW(3, 'recorded')::proofs);
SELECT ledger.verified(ROW(3, 'made up')::proofs);
SELECT operation, block_number IS NOT NULL AS sealed FROM ledger.history('proofs', '{"id": 5}') ORDER BY version;
SELECT operation FROM ledger.history('proofs', '{"id": 6}') ORDER BY version;
SELECT history.version, history.transaction_id > 0 AS transaction, history.session_user_name = session_user AS by_session, history.data_hash ~ '^[0-9a-f]{64}$' AS data_hash
FROM ledger.history('proofs', '{"id": 5}');
SELECT r ->> 'table' AS table_name, r -> 'valid' AS valid, r -> 'row_count' AS rows, r -> 'entry_count' AS entries, r -> 'error_count' AS error_count,
       (SELECT jsonb_agg(e -> 'problem' ORDER BY e ->> 'problem') FROM jsonb_array_elements(r -> 'errors') AS e) AS problems
FROM jsonb_array_elements(ledger.verify_all() -> 'tables') AS r ORDER BY 1;
SELECT ledger.verify_all() -> 'overall_valid' AS overall_valid, ledger.verify_all() #> '{postgres_chain,valid}' AS chain;
-- Recorded anew, the rows are what they are now. The entries from before stay, but no row is compared with them.
SELECT ledger.untrack('proofs');
SELECT ledger.track('proofs') IS NOT NULL AS tracked;
SELECT * FROM ledger.verify_table('proofs');
SELECT operation FROM ledger.history('proofs', '{"id": 5}');
SELECT count(*) FROM ledger.entries WHERE metadata @> '{"table": "public.proofs", "key": {"id": 5}}';
SELECT ledger.verify_all() -> 'overall_valid' AS overall_valid;
SELECT count(*) > 0 AS sealed FROM ledger.commit_block();
SELECT file_has_all_blocks();
SELECT ledger.verify_all() -> 'overall_valid' AS overall_valid, count(*) AS problems FROM ledger.find_tampering();
SELECT (ledger.verified(p)).* FROM proofs AS p ORDER BY id;

-- A label of an enum that has another name now: with an image it is said so.
CREATE TYPE mood AS ENUM ('happy', 'sad');
CREATE DOMAIN lasting AS mood;
CREATE TABLE pictured (id integer PRIMARY KEY, m mood, l lasting, v text);
CREATE TABLE moods (id integer PRIMARY KEY, m mood);
SELECT ledger.track('pictured', keep_image => true) IS NOT NULL AS tracked, ledger.track('moods') IS NOT NULL AS tracked;
INSERT INTO pictured VALUES (1, 'happy', 'happy', 'a'), (2, 'sad', 'happy', 'a'), (3, 'happy', 'sad', 'a'), (4, 'sad', 'sad', 'a');
INSERT INTO moods VALUES (1, 'happy'), (2, 'sad');
ALTER TYPE mood ADD VALUE 'neither' BEFORE 'sad';
SELECT * FROM ledger.verify_table('pictured');
ALTER TYPE mood RENAME VALUE 'sad' TO 'blue';
ALTER TABLE pictured DISABLE TRIGGER ledger_record_change;
UPDATE pictured SET v = 'forged' WHERE id = 4;
UPDATE pictured SET m = 'blue' WHERE id = 1;
SELECT row_key, problem, detail FROM ledger.verify_table('pictured') ORDER BY row_key;
SELECT row_key, problem, detail FROM ledger.verify_table('moods') ORDER BY row_key;

-- Who takes the call that the report has keeps what the table was tracked with.
CREATE TABLE kept (id int PRIMARY KEY, body text, "Secret's" text);
SELECT ledger.track('kept', keep_image => true, with_signature => false, excluded => '{Secret''s}') IS NOT NULL AS tracked;
ALTER TABLE kept DISABLE TRIGGER ledger_record_change;
SELECT substring(error ->> 'detail' FROM 'SELECT .*\)') AS call
FROM jsonb_array_elements(ledger.verify_all() -> 'tables') AS t, jsonb_array_elements(t -> 'errors') AS error
WHERE t ->> 'table' = 'public.kept' AND error ->> 'problem' = 'disabled' \gset
\echo :call
SELECT table_id, state FROM ledger.tracked_tables WHERE table_name = 'kept'::regclass \gset
\echo :state
:call = :'table_id' AS same_id;
SELECT state, keep_image, with_signature, columns, excluded FROM ledger.tracked_tables WHERE table_name = 'kept'::regclass;
-- A row that comes back past the triggers after a TRUNCATE was not removed by its newest entry.
INSERT INTO kept VALUES (1, 'a', 'b');
TRUNCATE kept;
SET session_replication_role = replica;
ALTER TABLE kept DISABLE TRIGGER USER;
INSERT INTO kept VALUES (1, 'a', 'b');
ALTER TABLE kept ENABLE ALWAYS TRIGGER ledger_record_change;
ALTER TABLE kept ENABLE ALWAYS TRIGGER ledger_record_truncate;
RESET session_replication_role;
SELECT (ledger.verified(k)).* FROM kept AS k;
SELECT ledger.verify_row('kept', '{"id": 1}') ->> 'detail' AS detail;
SELECT ledger.track('kept', columns => '{id,NULL}');

SET client_min_messages = warning;
DROP TABLE pictured, moods;
DROP TYPE mood CASCADE;
DROP TABLE seen, items, parents, children, computed, base, derived, partly, proofs, kept;
DROP FUNCTION recorded(), shout();
SELECT count(*) FROM ledger.tracked_tables;
