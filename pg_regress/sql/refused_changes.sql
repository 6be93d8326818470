-- What is recorded is never changed or removed by SQL, not even by a superuser.
\i pg_regress/fresh_ledger.sql
SELECT count(ledger.add_entry('sealed', to_jsonb(n))) FROM generate_series(1, 3) AS n;
SELECT block_number, data_count FROM ledger.commit_block();
-- From here on the worker has nothing to do, and no lock that TRUNCATE could wait for.
SELECT wait_until('(SELECT last_block = 1 FROM ledger.mirror_status)') AS has_block_line;
SELECT count(ledger.add_entry('pending', to_jsonb(n))) FROM generate_series(1, 2) AS n;
CREATE TABLE before AS
SELECT (SELECT array_agg(e ORDER BY id) FROM ledger.entries AS e) AS entries, (SELECT array_agg(b ORDER BY block_number) FROM ledger.blocks AS b) AS blocks;
SELECT current_setting('is_superuser') AS superuser;

UPDATE ledger.entries SET entry_type = 'changed';
\echo :SQLSTATE
DELETE FROM ledger.entries;
\echo :SQLSTATE
TRUNCATE ledger.entries;
\echo :SQLSTATE
INSERT INTO ledger.blocks SELECT 2, block_hash, merkle_root, merkle_root, now(), 0, 3, tree_root FROM ledger.blocks;
\echo :SQLSTATE

-- Every table, every partition, every way; also what would find no row.
CREATE TABLE commands (number serial, command text);
INSERT INTO commands (command)
SELECT format(command, target)
FROM unnest(ARRAY['ledger.entries', 'ledger.entries_pending', 'ledger.entries_sealed', 'ledger.entries_sealed_1']) AS target,
     unnest(ARRAY['UPDATE %s SET entry_type = ''changed''', 'UPDATE %s SET metadata = metadata WHERE false',
                  'UPDATE %s SET block_number = 1', 'DELETE FROM %s', 'DELETE FROM %s WHERE false', 'TRUNCATE %s', 'TRUNCATE %s CASCADE']) AS command;
INSERT INTO commands (command) VALUES
    ('UPDATE ledger.blocks SET data_count = 1'), ('UPDATE ledger.blocks SET "timestamp" = now() WHERE false'),
    ('DELETE FROM ledger.blocks'), ('DELETE FROM ledger.blocks WHERE false'), ('TRUNCATE ledger.blocks CASCADE'),
    ('INSERT INTO ledger.blocks SELECT * FROM ledger.blocks'), ('INSERT INTO ledger.blocks SELECT * FROM ledger.blocks WHERE false'),
    ('INSERT INTO ledger.entries_sealed SELECT * FROM ledger.entries_sealed'),
    ('INSERT INTO ledger.entries_sealed_1 SELECT * FROM ledger.entries_sealed'),
    ('INSERT INTO ledger.entries_sealed_1 (id, block_number, entry_type, data_hash, leaf_index) SELECT gen_random_uuid(), 1, ''forged'', data_hash, 3 FROM ledger.entries_pending LIMIT 1'),
    ('INSERT INTO ledger.entries SELECT * FROM ledger.entries_sealed'),
    ('WITH gone AS (DELETE FROM ledger.entries_pending RETURNING id) SELECT count(*) FROM gone');
CREATE FUNCTION refusals(OUT sqlstate text, OUT message text, OUT commands bigint) RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    each text;
BEGIN
    CREATE TEMP TABLE outcome (sqlstate text, message text, command text);
    FOR each IN SELECT command FROM commands ORDER BY number LOOP
        BEGIN
            EXECUTE each;
            INSERT INTO outcome VALUES ('00000', each);
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO outcome VALUES (sqlstate, sqlerrm);
        END;
    END LOOP;
    RETURN QUERY SELECT o.sqlstate, o.message, count(*) FROM outcome AS o GROUP BY 1, 2 ORDER BY o.message COLLATE "C";
    DROP TABLE outcome;
END
$$;
-- TRUNCATE ... CASCADE says what it is going to truncate.
SET client_min_messages = warning;
SELECT * FROM refusals();
SET session_replication_role = replica;
SELECT * FROM refusals();
SET session_replication_role = local;
SELECT DISTINCT sqlstate FROM refusals();
RESET session_replication_role;
-- Row locks change nothing, and are not refused.
SELECT count(*) FROM (SELECT FROM ledger.entries FOR UPDATE) AS locked;

-- ON DELETE and ON UPDATE actions of other tables do not come by either.
CREATE TABLE about_block (block_number bigint REFERENCES ledger.blocks ON DELETE CASCADE);
DELETE FROM ledger.blocks;
\echo :SQLSTATE
DROP TABLE about_block;
-- Copying blocks in.
COPY ledger.blocks FROM stdin;
\.
COPY ledger.entries_sealed FROM stdin;
\.

SELECT before.entries = (SELECT array_agg(e ORDER BY id) FROM ledger.entries AS e) AS same_entries,
       before.blocks = (SELECT array_agg(b ORDER BY block_number) FROM ledger.blocks AS b) AS same_blocks,
       cardinality(before.entries) AS entries, cardinality(before.blocks) AS blocks
FROM before;
SELECT file_has_all_blocks();
SELECT * FROM ledger_state();
DROP FUNCTION refusals();
DROP TABLE before, commands;

-- A partition that an administrator has attached has no trigger of its own for TRUNCATE.
CREATE TABLE attached (LIKE ledger.entries_sealed INCLUDING ALL, PRIMARY KEY (id), UNIQUE (leaf_index)) USING heap;
ALTER TABLE ledger.entries_sealed ATTACH PARTITION attached FOR VALUES FROM (9223372036854775000) TO (9223372036854775001);
TRUNCATE before, attached;
TRUNCATE attached CASCADE;
ALTER TABLE ledger.entries_sealed DETACH PARTITION attached;
TRUNCATE attached;
DROP TABLE attached;
