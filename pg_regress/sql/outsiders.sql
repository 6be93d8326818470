-- What a role gets that has been granted nothing: neither what is recorded of the tables of others, nor entries about them.
\i pg_regress/fresh_ledger.sql
\set VERBOSITY terse
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_outsider;
CREATE ROLE regress_outsider;
CREATE SCHEMA outside AUTHORIZATION regress_outsider;
CREATE SCHEMA inside;
RESET client_min_messages;
CREATE TABLE inside.accounts (id bigint PRIMARY KEY, owner text, balance int);
SELECT ledger.track('inside.accounts', with_signature => false, keep_image => true) IS NOT NULL AS tracked;
INSERT INTO inside.accounts VALUES (42, 'Ada', 100), (43, 'Bob', 200);
SELECT count(*) AS entries FROM ledger.entries \gset

-- A trigger of the same name, whose argument says that its table were the other one.
SELECT split_part(pg_get_triggerdef(oid), 'record_change(', 2) AS argument FROM pg_trigger
WHERE tgname = 'ledger_record_change' AND tgrelid = 'inside.accounts'::regclass \gset
SET ROLE regress_outsider;
CREATE TABLE outside.mine (id bigint PRIMARY KEY, owner text, balance int);
SELECT format('CREATE TRIGGER ledger_record_change BEFORE UPDATE ON outside.mine FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger(%s', :'argument') AS command \gset
:command;
SELECT count(*) FROM ledger.verify_table('outside.mine');
SELECT before, after FROM ledger.history('outside.mine', '{"id": 42}');
SELECT ledger.verify_row('outside.mine', '{"id": 42}');
SELECT ledger.untrack('outside.mine');
CREATE TABLE outside.parts (id bigint PRIMARY KEY, owner text, balance int) PARTITION BY RANGE (id);
SELECT format('CREATE TRIGGER ledger_record_change AFTER UPDATE ON outside.parts FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger(%s', :'argument') AS command \gset
:command;
CREATE TABLE outside.part (id bigint PRIMARY KEY, owner text, balance int);
INSERT INTO outside.part VALUES (42, 'forged', 1);
ALTER TABLE outside.parts ATTACH PARTITION outside.part FOR VALUES FROM (0) TO (1000);
ALTER TABLE outside.parts DETACH PARTITION outside.part;
DROP TABLE outside.mine, outside.parts, outside.part;
RESET ROLE;
SELECT count(*) - :entries AS forged FROM ledger.entries;
SELECT count(*) AS problems FROM ledger.verify_table('inside.accounts');

-- Rows that are made up to be compared with those that are recorded.
SET ROLE regress_outsider;
SELECT ledger.verified(ROW(42, 'guess', 100)::inside.accounts);
RESET ROLE;
GRANT USAGE ON SCHEMA inside TO regress_outsider;
SET ROLE regress_outsider;
SELECT ledger.verified(ROW(42, 'guess', 100)::inside.accounts);
SELECT ledger.verified(ROW(42, 'Ada', 100)::inside.accounts);
RESET ROLE;
-- Who may see some rows only is not told what is wrong with another.
GRANT SELECT ON inside.accounts TO regress_outsider;
ALTER TABLE inside.accounts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON inside.accounts FOR SELECT USING (id = 43);
SET ROLE regress_outsider;
SELECT (ledger.verified(a)).* FROM inside.accounts AS a;
\set VERBOSITY default
SELECT ledger.verified(ROW(42, 'guess', 100)::inside.accounts);
\set VERBOSITY terse
SELECT ledger.verify_row('inside.accounts', '{"id": 42}');
RESET ROLE;

-- One partition of several.
CREATE TABLE inside.parts (id bigint PRIMARY KEY, value text) PARTITION BY RANGE (id);
CREATE TABLE inside.part_1 PARTITION OF inside.parts FOR VALUES FROM (0) TO (10);
CREATE TABLE inside.part_2 PARTITION OF inside.parts FOR VALUES FROM (10) TO (20);
SELECT ledger.track('inside.parts', with_signature => false, keep_image => true) IS NOT NULL AS tracked;
INSERT INTO inside.parts VALUES (1, 'one'), (11, 'eleven');
GRANT SELECT ON inside.part_1 TO regress_outsider;
SET ROLE regress_outsider;
SELECT after FROM ledger.history('inside.part_1', '{"id": 11}');
SELECT ledger.verify_row('inside.part_1', '{"id": 11}');
RESET ROLE;

-- Commands that one may not run.
SET ROLE regress_outsider;
DROP SCHEMA inside CASCADE;
ALTER DATABASE contrib_regression RENAME TO other;
RESET ROLE;
SELECT state FROM ledger.workers WHERE database = current_database();

-- Any name of a column.
CREATE TABLE inside.names (id int PRIMARY KEY, "größe" int, "a""b" int, "a\b" int, "ключ" int);
SELECT ledger.track('inside.names', with_signature => false, excluded => ARRAY['größe', 'a"b', 'a\b', 'ключ']) IS NOT NULL AS tracked;
SELECT excluded FROM ledger.tracked_tables WHERE table_name = 'inside.names'::regclass;
SELECT ledger.verify_all() -> 'overall_valid' AS valid;

-- What only an administrator may, nobody does by having one call a function.
SELECT ledger.create_item('tool', 'hello', '1.0.0', E'print(1)\n', '.ai/tools/hello.py') ->> 'item_id' AS created;
SELECT ledger.revoke_signature('tool', 'hello', '1.0.0', 'broken') ->> 'item_id' AS revoked;
GRANT ledger_writer TO regress_outsider;
CREATE FUNCTION outside.sign() RETURNS text LANGUAGE sql SECURITY DEFINER
    AS $$ SELECT ledger.sign_item('tool', 'hello', '1.0.0') ->> 'item_id' $$;
ALTER FUNCTION outside.sign() OWNER TO regress_outsider;
SELECT outside.sign();
SELECT ledger.sign_item('tool', 'hello', '1.0.0') ->> 'item_id' AS signed;
SELECT outside.sign() AS signed;

-- Code of a table's owner does not run with the rights of who looks at what is recorded of the table.
SET ROLE regress_outsider;
CREATE TABLE outside.seen (who text);
GRANT INSERT ON outside.seen TO PUBLIC;
CREATE FUNCTION outside.spy(number int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outside.seen VALUES (current_user);
    PERFORM set_config('application_name', 'changed by ' || current_user, false);
    RETURN true;
END $$;
CREATE DOMAIN outside.number AS int CHECK (outside.spy(VALUE));
CREATE TYPE outside.pair AS (a outside.number, b int);
CREATE TABLE outside.numbers (id outside.number PRIMARY KEY);
CREATE TABLE outside.lists (id outside.number[] PRIMARY KEY);
CREATE TABLE outside.pairs (id outside.pair PRIMARY KEY);
SELECT count(ledger.track(name::regclass, with_signature => false)) AS tracked
FROM unnest(ARRAY['outside.numbers', 'outside.lists', 'outside.pairs']) AS name;
INSERT INTO outside.numbers VALUES (1);
INSERT INTO outside.lists VALUES (ARRAY[1]::outside.number[]);
INSERT INTO outside.pairs VALUES (ROW(1, 2));
RESET ROLE;
TRUNCATE outside.seen;
SET application_name = 'administrator';
SELECT operation FROM ledger.history('outside.numbers', '{"id": 1}');
SELECT operation FROM ledger.history('outside.lists', '{"id": [1]}');
SELECT operation FROM ledger.history('outside.pairs', '{"id": {"a": 1, "b": 2}}');
SELECT ledger.verify_row('outside.numbers', '{"id": 1}') -> 'verified' AS verified;
SELECT ledger.verify_row('outside.lists', '{"id": [1]}') -> 'verified' AS verified;
SELECT ledger.verify_row('outside.pairs', '{"id": {"a": 1, "b": 2}}') -> 'verified' AS verified;
SELECT count(*) AS with_other_rights FROM outside.seen WHERE who <> 'regress_outsider';
SHOW application_name;
-- Code of a domain's owner does not run with the rights of the owner of a table that uses the domain.
CREATE ROLE regress_user;
ALTER TABLE outside.lists OWNER TO regress_user;
TRUNCATE outside.seen;
SELECT operation FROM ledger.history('outside.lists', '{"id": [1]}');
SELECT ledger.verify_row('outside.lists', '{"id": [1]}') -> 'verified' AS verified;
\set VERBOSITY default
SELECT ledger.verify_row('outside.lists', '{"id": ["1"]}') -> 'verified' AS verified;
\set VERBOSITY terse
SELECT count(*) AS with_other_rights FROM outside.seen;
ALTER TABLE outside.lists OWNER TO regress_outsider;
DROP ROLE regress_user;
-- Nor can it keep anybody from looking, where the key is of a domain.
SET ROLE regress_outsider;
CREATE OR REPLACE FUNCTION outside.spy(number int) RETURNS boolean LANGUAGE sql AS 'SELECT false';
RESET ROLE;
SELECT operation FROM ledger.history('outside.numbers', '{"id": 1}');
SELECT operation FROM ledger.history('outside.lists', '{"id": [1]}');
SELECT ledger.verify_row('outside.lists', '{"id": [1]}') -> 'verified' AS verified;
RESET application_name;

-- A schema with the name of the ledger's that is none: nothing in it is run as the ledger's owner.
ALTER SCHEMA ledger RENAME TO regress_moved;
SELECT format('GRANT CREATE ON DATABASE %I TO regress_outsider', current_database()) AS command \gset
:command;
SET ROLE regress_outsider;
CREATE SCHEMA ledger;
CREATE SCHEMA own;
CREATE FUNCTION outside.intrude() RETURNS regclass LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outside.seen VALUES (current_user);
    RETURN 'outside.seen'::regclass;
END $$;
CREATE VIEW ledger.tracked_tables AS SELECT outside.intrude() AS table_name, 'x' AS table_id;
CREATE FUNCTION outside.intrude_text() RETURNS text LANGUAGE sql AS $$ SELECT outside.intrude()::text $$;
CREATE VIEW ledger.items AS SELECT 'tool'::text AS item_type, 'hello'::text AS item_id, '1.0.0'::text AS version,
    outside.intrude_text() AS content, ''::text AS location_path, '{}'::jsonb AS metadata, ''::text AS language,
    ''::text AS integrity_hash, NULL::timestamptz AS revoked_at, ''::text AS revoked_reason;
DROP SCHEMA own;
SELECT regress_moved.load_item('tool', 'hello', '1.0.0');
RESET ROLE;
SELECT count(*) AS with_other_rights FROM outside.seen WHERE who <> 'regress_outsider';
SET client_min_messages = warning;
DROP SCHEMA ledger CASCADE;
RESET client_min_messages;
ALTER SCHEMA regress_moved RENAME TO ledger;
SELECT format('REVOKE CREATE ON DATABASE %I FROM regress_outsider', current_database()) AS command \gset
:command;
SELECT ledger.verify_all() -> 'tables' IS NOT NULL AS answers;

-- A schema that somebody else has made for the extension.
SET client_min_messages = warning;
DROP SCHEMA inside, outside CASCADE;
DROP EXTENSION pg_notary;
DROP SCHEMA IF EXISTS ledger;
CREATE SCHEMA ledger AUTHORIZATION regress_outsider;
CREATE EXTENSION pg_notary;
DROP SCHEMA ledger;
-- One that is not empty: nothing in it is run.
CREATE SCHEMA ledger;
GRANT ALL ON SCHEMA ledger TO regress_outsider;
SET ROLE regress_outsider;
CREATE FUNCTION ledger.intrude(oid, integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'run as %', current_user; END $$;
CREATE OPERATOR ledger.<> (FUNCTION = ledger.intrude, LEFTARG = oid, RIGHTARG = integer);
RESET ROLE;
CREATE EXTENSION pg_notary;
DROP SCHEMA ledger CASCADE;
-- Nobody has rights there that were given before, or by default.
CREATE SCHEMA ledger;
GRANT ALL ON SCHEMA ledger TO regress_outsider;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_outsider;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_outsider;
CREATE EXTENSION pg_notary;
SELECT count(*) AS rights FROM
    (SELECT nspacl FROM pg_namespace WHERE nspname = 'ledger'
     UNION ALL SELECT relacl FROM pg_class WHERE relnamespace = 'ledger'::regnamespace
     UNION ALL SELECT proacl FROM pg_proc WHERE pronamespace = 'ledger'::regnamespace) AS object (acl), aclexplode(acl) AS a
WHERE a.grantee = 'regress_outsider'::regrole;
SELECT has_table_privilege('ledger_auditor', 'ledger.entries_sealed', 'SELECT') AS auditor_reads,
    has_table_privilege('ledger_auditor', 'ledger.entries_sealed', 'INSERT') AS auditor_writes;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM regress_outsider;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM regress_outsider;
DROP ROLE regress_outsider;
