-- Which tables are tracked, how, and by whom.
\i pg_regress/fresh_ledger.sql
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_owner, regress_reader, regress_stranger, regress_auditor, regress_tracker;
RESET client_min_messages;
CREATE TABLE notes (id bigint PRIMARY KEY, body text, seen integer DEFAULT 0);
INSERT INTO notes VALUES (1, 'before');

-- What was there is recorded as it is, and what is done from now on.
SELECT ledger.track('notes') AS table_id \gset
SELECT :'table_id' ~ '^[0-9a-f]{16}$' AS is_table_id;
SELECT table_name, table_id = :'table_id' AS table_id, keep_image, with_signature, columns, excluded, state, baseline_pages_done, baseline_pages
FROM ledger.tracked_tables;
SHOW client_min_messages;
INSERT INTO notes VALUES (2, 'after');
SELECT entry_type, metadata - '{table_id,row_id,shape,transaction_id,session_user,current_user,application_name,client_address,options}'::text[] AS metadata,
       signature IS NOT NULL AS signed, metadata ->> 'table_id' = :'table_id' AS table_id
FROM ledger.entries ORDER BY created_at, id;
SELECT * FROM ledger.verify_table('notes');

-- Once more is no harm; other options take the place of the old ones, and the table stays what it was.
SELECT ledger.track('notes') = :'table_id' AS same_id;
SELECT ledger.track('notes', keep_image => true, with_signature => false, excluded => '{seen}') = :'table_id' AS same_id;
SELECT keep_image, with_signature, columns, excluded, state FROM ledger.tracked_tables;
SELECT ledger.track('notes', columns => '{body}') = :'table_id' AS same_id;
SELECT keep_image, with_signature, columns, excluded, state FROM ledger.tracked_tables;
SELECT entry_type, (metadata -> 'options') - text 'table_id' AS options FROM ledger.entries WHERE entry_type = 'table_tracked' ORDER BY created_at, id;
SELECT count(*) FROM notes;
SELECT * FROM ledger.verify_table('notes');
-- Triggers that were disabled show, and track() enables them again.
ALTER TABLE notes DISABLE TRIGGER ledger_record_change;
SELECT state FROM ledger.tracked_tables;
SELECT ledger.track('notes', columns => '{body}') = :'table_id' AS same_id;
SELECT state FROM ledger.tracked_tables;

-- The end. What was recorded stays; tracked once more, it is another table to the ledger.
SELECT ledger.untrack('notes');
SELECT count(*) FROM ledger.tracked_tables;
SELECT count(*) AS triggers FROM pg_trigger WHERE tgrelid = 'notes'::regclass;
SELECT entry_type, metadata ->> 'table_id' = :'table_id' AS table_id FROM ledger.entries WHERE entry_type = 'table_untracked';
SELECT ledger.untrack('notes');
INSERT INTO notes VALUES (3, 'not recorded');
SELECT * FROM ledger.verify_table('notes');
SELECT ledger.verify_row('notes', '{"id": 1}');
SELECT * FROM ledger.history('notes', '{"id": 1}');
SELECT ledger.verified(n) FROM notes AS n;
SELECT ledger.track('notes') <> :'table_id' AS other_id;
SELECT * FROM ledger.verify_table('notes');
SELECT operation, count(*) FROM generate_series(1, 3) AS id, ledger.history('notes', jsonb_build_object('id', id)) GROUP BY 1;
-- Rolled back, nothing was done.
BEGIN;
SELECT ledger.untrack('notes');
INSERT INTO notes VALUES (4, 'gone');
ROLLBACK;
BEGIN;
CREATE TABLE brief (id integer PRIMARY KEY);
SELECT ledger.track('brief') IS NOT NULL AS tracked;
INSERT INTO brief VALUES (1);
SELECT count(*) FROM ledger.tracked_tables;
ROLLBACK;
SELECT table_name, state FROM ledger.tracked_tables;
SELECT * FROM ledger.verify_table('notes');

-- What cannot be tracked.
CREATE TABLE no_key (id integer);
CREATE TABLE deferred (id integer PRIMARY KEY DEFERRABLE);
CREATE TABLE only_unique (id integer NOT NULL UNIQUE);
CREATE VIEW a_view AS SELECT 1 AS id;
CREATE MATERIALIZED VIEW a_matview AS SELECT 1 AS id;
CREATE FOREIGN DATA WRAPPER regress_wrapper;
CREATE SERVER regress_server FOREIGN DATA WRAPPER regress_wrapper;
CREATE FOREIGN TABLE a_foreign_table (id integer) SERVER regress_server;
CREATE TEMPORARY TABLE a_temporary (id integer PRIMARY KEY);
CREATE UNLOGGED TABLE an_unlogged (id integer PRIMARY KEY);
CREATE SEQUENCE a_sequence;
CREATE TYPE a_type AS (id integer);
CREATE TABLE parts (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
SELECT ledger.track('no_key');
\echo :SQLSTATE
SELECT ledger.track('deferred');
SELECT ledger.track('only_unique');
SELECT ledger.track('a_view');
\echo :SQLSTATE
SELECT ledger.track('a_matview');
SELECT ledger.track('a_foreign_table');
SELECT sqlstate_of('SELECT ledger.track(''a_temporary'')');
SELECT ledger.track('an_unlogged');
SELECT ledger.track('a_sequence');
\echo :SQLSTATE
SELECT sqlstate_of('SELECT ledger.track(''a_type'')'), sqlstate_of('SELECT ledger.track(''notes_pkey'')'), sqlstate_of('SELECT ledger.track(''no_such_table'')'), sqlstate_of('SELECT ledger.track(4242424242)');
SELECT ledger.track('pg_class');
SELECT ledger.track('pg_toast.pg_toast_1255');
\echo :SQLSTATE
SELECT ledger.track('ledger.entries');
SELECT ledger.track('ledger.blocks');
SELECT ledger.track('information_schema.tables');
SELECT ledger.track(NULL);
\echo :SQLSTATE
SELECT ledger.track('notes', keep_image => NULL);
SELECT ledger.track('notes', with_signature => NULL);
SELECT ledger.untrack(NULL);
SELECT ledger.untrack('a_view');
-- There is no such table.
SELECT ledger.track(99999999);
\echo :SQLSTATE
SELECT ledger.untrack(99999999);
SELECT * FROM ledger.verify_table(99999999);
SELECT ledger.verify_row(99999999, '{"id": 1}');
SELECT * FROM ledger.history(99999999, '{"id": 1}');
SELECT ledger.track('notes', columns => '{body}', excluded => '{seen}');
\echo :SQLSTATE
SELECT ledger.track('notes', columns => '{body,nonsense}');
\echo :SQLSTATE
SELECT ledger.track('notes', excluded => '{nonsense}');
SELECT ledger.track('notes', excluded => '{body,id}');
\echo :SQLSTATE
SELECT ledger.track('notes', excluded => '{ctid}');
SELECT ledger.track('notes', columns => ARRAY['body', NULL]);
\echo :SQLSTATE
SELECT table_name, columns, excluded FROM ledger.tracked_tables;
-- No column but the key, or none left out: as good as any.
SELECT ledger.track('notes', columns => '{}') IS NOT NULL AS tracked;
SELECT columns, excluded FROM ledger.tracked_tables;
SELECT ledger.track('notes', excluded => '{}') IS NOT NULL AS tracked;
SELECT columns, excluded FROM ledger.tracked_tables;
-- A listed column that is renamed or dropped stops the writers until the list is put right: it would silently drop out of
-- the record, or get into it.
SELECT ledger.track('notes', excluded => '{seen}') IS NOT NULL AS tracked;
ALTER TABLE notes RENAME seen TO looked_at;
UPDATE notes SET body = 'x';
\echo :SQLSTATE
SELECT * FROM ledger.verify_table('notes');
SELECT ledger.track('notes', excluded => '{looked_at}') IS NOT NULL AS tracked;
UPDATE notes SET body = 'x';
ALTER TABLE notes DROP looked_at;
DELETE FROM notes WHERE id = 3;
SELECT ledger.track('notes') IS NOT NULL AS tracked;
DELETE FROM notes WHERE id = 3;
SELECT * FROM ledger.verify_table('notes');
-- So does one that is recorded, also where nothing else that is recorded changes.
SELECT ledger.track('notes', columns => '{body}') IS NOT NULL AS tracked;
ALTER TABLE notes RENAME body TO note;
UPDATE notes SET note = 'unnoticed';
\echo :SQLSTATE
ALTER TABLE notes RENAME note TO body;
UPDATE notes SET body = 'noticed';
SELECT * FROM ledger.verify_table('notes');
SELECT ledger.track('notes') IS NOT NULL AS tracked;
-- A table that has lost its primary key can be let go, or be given one.
CREATE TABLE keyless (id integer PRIMARY KEY, v text);
SELECT ledger.track('keyless') IS NOT NULL AS tracked;
INSERT INTO keyless VALUES (1, 'a');
ALTER TABLE keyless DROP CONSTRAINT keyless_pkey;
INSERT INTO keyless VALUES (2, 'b');
SELECT * FROM ledger.verify_table('keyless');
SELECT r FROM jsonb_array_elements(ledger.verify_all() -> 'tables') AS r WHERE r ->> 'table' = 'public.keyless';
SELECT ledger.verify_all() -> 'overall_valid' AS overall_valid;
ALTER TABLE keyless ADD PRIMARY KEY (id);
SELECT * FROM ledger.verify_table('keyless');
ALTER TABLE keyless DROP CONSTRAINT keyless_pkey, ADD PRIMARY KEY (id) DEFERRABLE;
INSERT INTO keyless VALUES (2, 'b');
ALTER TABLE keyless DROP CONSTRAINT keyless_pkey;
SELECT ledger.untrack('keyless');
INSERT INTO keyless VALUES (2, 'b');
DROP TABLE keyless;
-- A partition is tracked with its table.
SELECT ledger.track('parts') IS NOT NULL AS tracked;
SELECT ledger.track('part_1');
\echo :SQLSTATE
SELECT ledger.untrack('part_1');
CREATE UNLOGGED TABLE part_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
INSERT INTO parts VALUES (1, 'a');
INSERT INTO part_1 VALUES (2, 'b');
SELECT * FROM ledger.verify_table('part_1');
\echo :SQLSTATE
SELECT * FROM ledger.verify_table('parts');
SELECT ledger.verify_row('part_1', '{"id": 1}') -> 'verified' AS verified, ledger.verify_row('parts', '{"id": 2}') -> 'verified' AS verified;
SELECT (ledger.verified(p)).* FROM part_1 AS p ORDER BY id;
-- A row of another partition is no row that is missing.
CREATE TABLE part_2 PARTITION OF parts FOR VALUES FROM (1000) TO (2000);
INSERT INTO parts VALUES (1001, 'elsewhere');
SELECT ledger.verify_row('part_1', '{"id": 1001}') -> 'verified' AS verified, ledger.verify_row('part_1', '{"id": 999}') -> 'problem' AS problem;
SELECT table_name FROM ledger.tracked_tables ORDER BY table_name::text;
-- A new name is the name in new entries, also where the rows stand in a partition.
ALTER TABLE parts RENAME TO pieces;
INSERT INTO pieces VALUES (3, 'c');
SELECT metadata ->> 'table' AS in_table FROM ledger.entries WHERE metadata -> 'key' = '{"id": 3}' ORDER BY created_at DESC, id DESC LIMIT 1;
ALTER TABLE pieces RENAME TO parts;
SELECT * FROM ledger.verify_table('parts');
-- An unlogged table that is logged now.
ALTER TABLE an_unlogged SET LOGGED;
SELECT ledger.track('an_unlogged') IS NOT NULL AS tracked;
DROP TABLE an_unlogged;
-- Nothing is written where nothing may be.
BEGIN READ ONLY;
SELECT ledger.track('only_unique');
ROLLBACK;
BEGIN READ ONLY;
SELECT ledger.untrack('notes');
ROLLBACK;

-- A key is asked for as an object with all its columns.
SELECT ledger.verify_row('notes', '1');
\echo :SQLSTATE
SELECT ledger.verify_row('notes', '{}');
SELECT ledger.verify_row('notes', '{"id": null}');
SELECT ledger.verify_row('notes', '{"id": 1, "body": "x"}');
SELECT ledger.verify_row('notes', '{"id": "one"}');
\echo :SQLSTATE
SELECT ledger.verify_row('notes', NULL);
SELECT ledger.verify_row(NULL, '{}');
SELECT * FROM ledger.history('notes', '[]');
SELECT * FROM ledger.history('notes', '{"id": 99}');
SELECT ledger.verify_row('notes', '{"id": 99}');
SELECT ledger.verify_row('notes', '{"id": "1"}') -> 'verified' AS verified;
SELECT ledger.verified(1);
\echo :SQLSTATE
SELECT ledger.verified(ROW(1, 'x'));
SELECT ledger.verified(NULL::notes);
SELECT ledger.verified(v) FROM a_view AS v;
SELECT * FROM ledger.verify_table('a_view');
SELECT * FROM ledger.verify_table(NULL);

-- The entry_types of tracking are its own.
SELECT ledger.hash_and_record('table_insert', '1');
\echo :SQLSTATE
SELECT ledger.add_entry('table_update', '1');
SELECT ledger.append_entry('table_delete', gen_random_uuid(), ledger.hash_data('1'));
INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('table_truncate', ledger.hash_data('1'));
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('table_shape', ledger.hash_data('1'));
COPY ledger.entries (entry_type, data_hash) FROM stdin;
table_tracked	4b227777d4dd1fc61c6f884f48641d02b4d121d3fd328cb08b5531fcacdabf8a
\.
SELECT ledger.hash_and_record('table_untracked', '1');
SELECT ledger.hash_and_record('table_inserted', '1') ? 'entry_id' AS recorded;

-- The triggers' functions serve no trigger but those that track() makes.
CREATE TRIGGER mine AFTER INSERT ON no_key FOR EACH ROW EXECUTE FUNCTION ledger.record_change();
INSERT INTO no_key VALUES (1);
\echo :SQLSTATE
DROP TRIGGER mine ON no_key;
CREATE TRIGGER mine AFTER INSERT ON no_key FOR EACH ROW EXECUTE FUNCTION ledger.record_change('{}');
INSERT INTO no_key VALUES (1);
DROP TRIGGER mine ON no_key;
-- Nor one beside the table's own, which would record each row twice.
CREATE TRIGGER mine AFTER INSERT ON notes FOR EACH ROW EXECUTE FUNCTION ledger.record_change();
INSERT INTO notes (id) VALUES (-1);
DROP TRIGGER mine ON notes;
SELECT ledger.record_change();
\echo :SQLSTATE

-- Who may what.
CREATE ROLE regress_owner;
CREATE ROLE regress_reader;
CREATE ROLE regress_stranger;
CREATE ROLE regress_auditor IN ROLE ledger_auditor;
CREATE ROLE regress_tracker IN ROLE ledger_admin;
CREATE TABLE owned (id integer PRIMARY KEY, v text);
ALTER TABLE owned OWNER TO regress_owner;
GRANT SELECT ON owned TO regress_reader;
SET ROLE regress_stranger;
SELECT ledger.track('owned');
\echo :SQLSTATE
SELECT ledger.untrack('owned');
SET ROLE regress_reader;
SELECT ledger.track('owned');
SET ROLE regress_auditor;
SELECT ledger.track('owned');
SET ROLE regress_tracker;
SELECT ledger.track('owned') IS NOT NULL AS tracked;
SELECT ledger.untrack('owned');
SET ROLE regress_owner;
SELECT ledger.track('owned', keep_image => true) IS NOT NULL AS tracked;
INSERT INTO owned VALUES (1, 'by the owner');
-- Its owner cannot make such triggers by hand, nor write the entries.
CREATE TRIGGER mine AFTER INSERT ON owned FOR EACH ROW EXECUTE FUNCTION ledger.record_change();
\echo :SQLSTATE
SELECT ledger.add_entry('note', '1');
\echo :SQLSTATE
SELECT * FROM ledger.verify_table('owned');
SELECT ledger.verify_row('owned', '{"id": 1}') -> 'verified' AS verified;
SELECT operation, session_user_name = session_user AS by_session, current_user_name, after FROM ledger.history('owned', '{"id": 1}');
SELECT (ledger.verified(o)).* FROM owned AS o;
SELECT ledger.verify_all();
\echo :SQLSTATE
SELECT * FROM ledger.tracked_tables;
SET ROLE regress_reader;
SELECT * FROM ledger.verify_table('owned');
SELECT ledger.verify_row('owned', '{"id": 1}') -> 'verified' AS verified;
SELECT operation FROM ledger.history('owned', '{"id": 1}');
SELECT (ledger.verified(o)).* FROM owned AS o;
SET ROLE regress_stranger;
SELECT * FROM ledger.verify_table('owned');
\echo :SQLSTATE
SELECT * FROM ledger.history('owned', '{"id": 1}');
\echo :SQLSTATE
SELECT ledger.verify_row('owned', '{"id": 1}');
\echo :SQLSTATE
SELECT (ledger.verified(o)).* FROM owned AS o;
\echo :SQLSTATE
SET ROLE regress_auditor;
SELECT * FROM ledger.verify_table('owned');
SELECT operation, after FROM ledger.history('owned', '{"id": 1}');
SELECT ledger.verify_row('owned', '{"id": 1}') -> 'verified' AS verified;
SELECT ledger.verify_all() -> 'overall_valid' AS overall_valid;
SELECT table_name FROM ledger.tracked_tables ORDER BY table_name::text;
SELECT sqlstate_of('INSERT INTO ledger.row_versions SELECT * FROM ledger.row_versions'), sqlstate_of('DELETE FROM ledger.baselines'), sqlstate_of('TRUNCATE ledger.table_shapes');
RESET ROLE;
SELECT sqlstate_of('DELETE FROM ledger.row_versions'), sqlstate_of('UPDATE ledger.table_shapes SET shape = shape'), sqlstate_of('TRUNCATE ledger.row_versions');
-- Who writes to a tracked table needs nothing of the ledger's.
GRANT INSERT ON owned TO regress_stranger;
SET ROLE regress_stranger;
INSERT INTO owned VALUES (2, 'by another');
RESET ROLE;
SELECT current_user_name FROM ledger.history('owned', '{"id": 2}');
-- Objects of the owner's do not get into what runs as the ledger's owner.
GRANT CREATE ON SCHEMA public TO regress_owner;
SET ROLE regress_owner;
-- Partitions of its table are its own to make and to attach: they get triggers like those of the table. By hand it makes none of them.
CREATE TABLE owned_parts (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE owned_parts_1 PARTITION OF owned_parts FOR VALUES IN (1);
SELECT ledger.track('owned_parts') IS NOT NULL AS tracked;
CREATE TABLE owned_parts_2 PARTITION OF owned_parts FOR VALUES IN (2);
CREATE TABLE owned_parts_3 (id int, k int NOT NULL, PRIMARY KEY (id, k));
ALTER TABLE owned_parts ATTACH PARTITION owned_parts_3 FOR VALUES IN (3);
ALTER TABLE owned_parts DETACH PARTITION owned_parts_1;
ALTER TABLE owned_parts ATTACH PARTITION owned_parts_1 FOR VALUES IN (1);
INSERT INTO owned_parts SELECT 1, k FROM generate_series(1, 3) AS k;
SELECT * FROM ledger.verify_table('owned_parts');
SELECT operation FROM ledger.history('owned_parts', '{"id": 1, "k": 2}');
CREATE CONSTRAINT TRIGGER mine AFTER INSERT ON owned FOR EACH ROW EXECUTE FUNCTION ledger.record_change();
\echo :SQLSTATE
CREATE OR REPLACE TRIGGER ledger_record_change AFTER INSERT ON owned FOR EACH ROW EXECUTE FUNCTION ledger.record_change('{}');
\echo :SQLSTATE
CREATE TRIGGER mine BEFORE TRUNCATE ON owned EXECUTE FUNCTION ledger.record_truncate('{}');
\echo :SQLSTATE
DROP TABLE owned_parts;
CREATE FUNCTION public.whose(text, text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE WARNING 'as %', current_user = session_user;
    RETURN true;
END
$$;
CREATE OPERATOR public.= (FUNCTION = public.whose, LEFTARG = text, RIGHTARG = text);
CREATE TABLE large (id integer PRIMARY KEY, v text);
INSERT INTO large SELECT n, repeat('x', 1000) FROM generate_series(1, 1000) AS n;
SET search_path = public, pg_catalog;
BEGIN;
SELECT ledger.track('large') IS NOT NULL AS tracked;
SELECT ledger.untrack('large');
COMMIT;
RESET search_path;
DROP OPERATOR public.= (text, text);
DROP FUNCTION public.whose(text, text);
DROP TABLE large;
RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM regress_owner;
-- Rows that a policy hides would seem to be missing.
ALTER TABLE owned ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON owned FOR SELECT USING (id = 1);
SET ROLE regress_reader;
SELECT ledger.verify_row('owned', '{"id": 2}');
\echo :SQLSTATE
RESET ROLE;
SELECT * FROM ledger.verify_table('owned');
SELECT r ->> 'table' AS table_name, r -> 'valid' AS valid, r -> 'row_count' AS row_count, r -> 'error_count' AS error_count
FROM jsonb_array_elements(ledger.verify_all() -> 'tables') AS r ORDER BY 1;

-- A session that knows the table goes on with its new name when its schema is renamed.
CREATE SCHEMA regress_before CREATE TABLE moved (id int PRIMARY KEY);
SELECT ledger.track('regress_before.moved') AS table_id \gset
INSERT INTO regress_before.moved VALUES (1);
ALTER SCHEMA regress_before RENAME TO regress_after;
INSERT INTO regress_after.moved VALUES (2);
SELECT metadata -> 'key' AS key, metadata -> 'table' AS table_name FROM ledger.entries
WHERE metadata ->> 'table_id' = :'table_id' AND entry_type = 'table_insert' ORDER BY created_at;
DROP TABLE regress_after.moved;
DROP SCHEMA regress_after;

-- A table that is restored beside the one it was dumped from has the triggers of that, and would be recorded as it.
CREATE SCHEMA regress_live CREATE TABLE twins (id int PRIMARY KEY, v text, secret text);
SELECT ledger.track('regress_live.twins', excluded => '{secret}') AS table_id \gset
INSERT INTO regress_live.twins VALUES (1, 'live'), (2, 'live');
CREATE SCHEMA regress_copy CREATE TABLE twins (id int PRIMARY KEY, v text, secret text);
INSERT INTO regress_copy.twins VALUES (1, 'older');
CREATE PROCEDURE restore_triggers() LANGUAGE plpgsql AS $$
DECLARE command text;
BEGIN
    FOR command IN SELECT format('%s; ALTER TABLE regress_copy.twins ENABLE ALWAYS TRIGGER %s', replace(pg_get_triggerdef(oid), 'regress_live.twins', 'regress_copy.twins'), tgname)
                   FROM pg_trigger WHERE tgrelid = 'regress_live.twins'::regclass LOOP
        EXECUTE command;
    END LOOP;
END
$$;
CALL restore_triggers();
SELECT table_name, state FROM ledger.tracked_tables WHERE table_id = :'table_id' ORDER BY 1;
UPDATE regress_copy.twins SET v = 'restored';
\echo :SQLSTATE
SELECT * FROM ledger.verify_table('regress_copy.twins');
SELECT * FROM ledger.verify_table('regress_live.twins');
SELECT r -> 'table' AS table_name, r -> 'valid' AS valid, r -> 'message' AS message FROM jsonb_array_elements(ledger.verify_all() -> 'tables') AS r
WHERE r ->> 'table' LIKE '%.twins' ORDER BY 1;
-- The ledger is not told that the other one were untracked, and the copy becomes a table of its own.
SELECT ledger.track('regress_copy.twins') <> :'table_id' AS has_own_id;
UPDATE regress_copy.twins SET v = 'restored';
SELECT table_name, state FROM ledger.tracked_tables WHERE table_name::text LIKE '%.twins' ORDER BY 1;
SELECT r -> 'table' AS table_name, r -> 'valid' AS valid, r -> 'error_count' AS errors FROM jsonb_array_elements(ledger.verify_all() -> 'tables') AS r
WHERE r ->> 'table' LIKE '%.twins' ORDER BY 1;
SELECT ledger.untrack('regress_copy.twins');
CALL restore_triggers();
SELECT ledger.untrack('regress_copy.twins');
SELECT count(*) AS noted FROM ledger.entries WHERE entry_type = 'table_untracked' AND metadata ->> 'table_id' = :'table_id';
SELECT table_name, state FROM ledger.tracked_tables WHERE table_name::text LIKE '%.twins' ORDER BY 1;
SET client_min_messages = warning;
DROP PROCEDURE restore_triggers();
DROP SCHEMA regress_copy, regress_live CASCADE;
DROP TABLE notes, no_key, deferred, only_unique, parts, owned;
DROP VIEW a_view;
DROP MATERIALIZED VIEW a_matview;
DROP SEQUENCE a_sequence;
DROP TYPE a_type;
DROP FOREIGN DATA WRAPPER regress_wrapper CASCADE;
DROP ROLE regress_owner, regress_reader, regress_stranger, regress_auditor, regress_tracker;

-- What has the name already is left alone, whatever it is.
CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE IF NOT EXISTS parted_pkey PARTITION OF parted FOR VALUES FROM (1) TO (2);
DROP TABLE parted;
