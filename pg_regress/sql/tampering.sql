-- What a superuser changes behind the triggers' back is found, and named.
\i pg_regress/fresh_ledger.sql
\set id 00000000-0000-0000-0000-00000000000

-- Two blocks of three entries, two pending ones; n is the last digit of the id, and leaf_index + 1.
SELECT count(ledger.append_entry('entry', ('00000000-0000-0000-0000-00000000000' || n)::uuid, ledger.hash_data(to_jsonb(n)), jsonb_build_object('n', n)))
FROM generate_series(1, 3) AS n;
SELECT block_number, data_count, tree_size FROM ledger.commit_block();
SELECT file_has_all_blocks();
SELECT count(ledger.append_entry('entry', ('00000000-0000-0000-0000-00000000000' || n)::uuid, ledger.hash_data(to_jsonb(n)), jsonb_build_object('n', n)))
FROM generate_series(4, 6) AS n;
SELECT block_number, data_count, tree_size FROM ledger.commit_block();
SELECT file_has_all_blocks();
SELECT count(ledger.append_entry('entry', ('00000000-0000-0000-0000-00000000000' || n)::uuid, ledger.hash_data(to_jsonb(n)), jsonb_build_object('n', n)))
FROM generate_series(7, 8) AS n;
SELECT * FROM ledger.find_tampering();

-- What is found after some commands, which are then undone.
CREATE FUNCTION tamper(VARIADIC commands text[], OUT source text, OUT block bigint, OUT leaf bigint, OUT entry text, OUT problem text, OUT detail text)
RETURNS SETOF record LANGUAGE plpgsql AS $$
DECLARE
    command text;
    found record;
    rows jsonb;
BEGIN
    BEGIN
        FOREACH command IN ARRAY ARRAY['entries_sealed_1', 'entries_pending', 'blocks', 'log_nodes', 'log_state'] LOOP
            EXECUTE format('ALTER TABLE ledger.%I DISABLE TRIGGER ALL', command);
        END LOOP;
        FOREACH command IN ARRAY commands LOOP
            EXECUTE command;
        END LOOP;
        SELECT jsonb_agg(f) INTO rows FROM ledger.find_tampering() AS f;
        RAISE EXCEPTION USING errcode = 'ZZ999';
    EXCEPTION WHEN SQLSTATE 'ZZ999' THEN
        NULL;
    END;
    RETURN QUERY
        SELECT f ->> 'source', (f ->> 'block_number')::bigint, (f ->> 'leaf_index')::bigint, right(f ->> 'entry_id', 2), f ->> 'problem',
               regexp_replace(regexp_replace(f ->> 'detail', '[0-9a-f]{64}', '<hash>', 'g'), '\d{4}-\d\d-\d\dT[0-9:.]+Z', '<time>', 'g')
        FROM jsonb_array_elements(rows) AS f;
END
$$;
SELECT * FROM tamper('SELECT 1');

-- Every column of a sealed entry.
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET data_hash = ledger.hash_data(''0'') WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET entry_type = ''changed'' WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET metadata = ''{"n": 50}'' WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET signature = repeat(''0'', 64) WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET signature = NULL WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET signature = NULL, key_id = NULL WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET key_id = ''other'' WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET key_id = NULL WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET created_at = created_at + interval ''1 microsecond'' WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET created_at = ''infinity'' WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET id = ''00000000-0000-0000-0000-000000000099'' WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET block_number = 1 WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET leaf_index = 100 WHERE leaf_index = 4');
-- Nodes that the tree has not come to, and another row of what sealing goes on from.
SELECT * FROM tamper('INSERT INTO ledger.log_nodes VALUES (8, 0, sha256(''x'')), (1, 0, sha256(''y''))');
SELECT * FROM tamper('INSERT INTO ledger.log_state SELECT * FROM ledger.log_state');
-- The data with a new signature of the right key is a lie all the same.
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET data_hash = ledger.hash_data(''0''), signature = ledger.create_signature(ledger.hash_data(''0'')) WHERE leaf_index = 4');
-- In the first block: what comes after it is not blamed.
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET entry_type = ''changed'' WHERE leaf_index = 0');
-- Two places.
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET entry_type = ''changed'' WHERE leaf_index IN (1, 5)');

-- Rows that go, come, or change their places.
SELECT * FROM tamper('DELETE FROM ledger.entries_sealed_1 WHERE leaf_index = 4');
SELECT * FROM tamper('DELETE FROM ledger.entries_sealed_1 WHERE leaf_index = 5');
SELECT * FROM tamper('DELETE FROM ledger.entries_sealed_1 WHERE block_number = 1');
SELECT * FROM tamper('TRUNCATE ledger.entries_sealed_1');
SELECT * FROM tamper('INSERT INTO ledger.entries_sealed_1 SELECT ''00000000-0000-0000-0000-000000000099'', block_number, entry_type, data_hash, metadata, signature, key_id, created_at, 6 FROM ledger.entries_sealed_1 WHERE leaf_index = 4');
SELECT * FROM tamper('INSERT INTO ledger.entries_sealed_1 SELECT ''00000000-0000-0000-0000-000000000099'', block_number, entry_type, data_hash, metadata, signature, key_id, created_at, -1 FROM ledger.entries_sealed_1 WHERE leaf_index = 4');
SELECT * FROM tamper('UPDATE ledger.entries_sealed_1 SET leaf_index = -leaf_index WHERE leaf_index IN (4, 5)',
                     'UPDATE ledger.entries_sealed_1 SET leaf_index = 9 + leaf_index WHERE leaf_index < 0');
SELECT * FROM tamper('ALTER TABLE ledger.entries_sealed_1 DROP CONSTRAINT entries_sealed_1_leaf_index_key',
                     'INSERT INTO ledger.entries_sealed_1 SELECT ''00000000-0000-0000-0000-000000000099'', block_number, entry_type, data_hash, metadata, signature, key_id, created_at, leaf_index FROM ledger.entries_sealed_1 WHERE leaf_index = 4');
-- The same entry pending and sealed.
SELECT * FROM tamper('INSERT INTO ledger.entries_pending SELECT id, NULL, entry_type, data_hash, metadata, signature, key_id, created_at, NULL FROM ledger.entries_sealed_1 WHERE leaf_index = 4');

-- Every column of a block.
SELECT * FROM tamper('UPDATE ledger.blocks SET previous_hash = repeat(''a'', 64) WHERE block_number = 2');
SELECT * FROM tamper('UPDATE ledger.blocks SET block_hash = repeat(''a'', 64) WHERE block_number = 1');
SELECT * FROM tamper('UPDATE ledger.blocks SET block_hash = repeat(''a'', 64) WHERE block_number = 2');
SELECT * FROM tamper('UPDATE ledger.blocks SET merkle_root = repeat(''a'', 64) WHERE block_number = 1');
SELECT * FROM tamper('UPDATE ledger.blocks SET "timestamp" = "timestamp" + interval ''1 microsecond'' WHERE block_number = 1');
SELECT * FROM tamper('UPDATE ledger.blocks SET data_count = 2 WHERE block_number = 1');
SELECT * FROM tamper('UPDATE ledger.blocks SET data_count = -1 WHERE block_number = 1');
SELECT * FROM tamper('UPDATE ledger.blocks SET tree_size = 4 WHERE block_number = 1');
SELECT * FROM tamper('UPDATE ledger.blocks SET tree_size = 9223372036854775807 WHERE block_number = 2');
SELECT * FROM tamper('UPDATE ledger.blocks SET tree_root = repeat(''a'', 64) WHERE block_number = 1');
SELECT * FROM tamper('UPDATE ledger.blocks SET tree_root = repeat(''a'', 64) WHERE block_number = 2');
SELECT * FROM tamper('UPDATE ledger.blocks SET block_number = 3 WHERE block_number = 2');
SELECT * FROM tamper('UPDATE ledger.blocks SET block_number = 0 WHERE block_number = 1');
-- Deleted blocks, with and without their entries.
SELECT * FROM tamper('DELETE FROM ledger.blocks WHERE block_number = 1');
SELECT * FROM tamper('DELETE FROM ledger.blocks WHERE block_number = 2');
SELECT * FROM tamper('DELETE FROM ledger.blocks WHERE block_number = 2', 'DELETE FROM ledger.entries_sealed_1 WHERE block_number = 2');
SELECT * FROM tamper('DELETE FROM ledger.blocks', 'DELETE FROM ledger.entries_sealed_1', 'DELETE FROM ledger.entries_pending');
-- A forged block that agrees with itself in everything, but holds nothing.
SELECT * FROM tamper('INSERT INTO ledger.blocks SELECT 3, block_hash, ledger.hash_data(jsonb_build_object(''block_number'', 3, ''data_count'', 0,
    ''merkle_root'', ledger.merkle_root(''{}''::text[]), ''previous_hash'', block_hash, ''timestamp'', ''2026-01-01T00:00:00.000000Z'',
    ''tree_root'', tree_root, ''tree_size'', tree_size)), ledger.merkle_root(''{}''::text[]), ''2026-01-01 00:00:00+00'', 0, tree_size, tree_root
    FROM ledger.blocks WHERE block_number = 2');
-- The frontier of the log tree, with which sealing goes on.
SELECT * FROM tamper('UPDATE ledger.log_state SET frontier = sha256(''forged'')');
-- An entry that is sealed and pending at once stops sealing, with a word on what to do.
BEGIN;
ALTER TABLE ledger.entries_pending DISABLE TRIGGER ALL;
INSERT INTO ledger.entries_pending (id, entry_type, data_hash) SELECT id, entry_type, data_hash FROM ledger.entries_sealed WHERE leaf_index = 0;
SELECT count(*) FROM ledger.commit_block();
ROLLBACK;
-- So does one whose text is none.
BEGIN;
CREATE CAST (bytea AS varchar) WITHOUT FUNCTION;
ALTER TABLE ledger.entries_pending DISABLE TRIGGER ALL;
UPDATE ledger.entries_pending SET entry_type = '\x80'::bytea::varchar WHERE id = '00000000-0000-0000-0000-000000000007';
SELECT problem, detail FROM ledger.find_tampering();
SELECT count(*) FROM ledger.commit_block();
ROLLBACK;
-- Every column of a pending entry.
SELECT * FROM tamper('UPDATE ledger.entries_pending SET data_hash = ledger.hash_data(''0'') WHERE id = ''00000000-0000-0000-0000-000000000007''');
SELECT * FROM tamper('UPDATE ledger.entries_pending SET entry_type = ''changed'' WHERE id = ''00000000-0000-0000-0000-000000000007''');
SELECT * FROM tamper('UPDATE ledger.entries_pending SET metadata = ''{}'' WHERE id = ''00000000-0000-0000-0000-000000000007''');
SELECT * FROM tamper('UPDATE ledger.entries_pending SET signature = repeat(''0'', 64) WHERE id = ''00000000-0000-0000-0000-000000000007''');
SELECT * FROM tamper('UPDATE ledger.entries_pending SET key_id = NULL WHERE id = ''00000000-0000-0000-0000-000000000007''');
SELECT * FROM tamper('UPDATE ledger.entries_pending SET signature = NULL, key_id = NULL WHERE id = ''00000000-0000-0000-0000-000000000007''');
SELECT * FROM tamper('UPDATE ledger.entries_pending SET created_at = ''2001-01-01 00:00:00+00'' WHERE id = ''00000000-0000-0000-0000-000000000007''');
SELECT * FROM tamper('UPDATE ledger.entries_pending SET leaf_index = 6 WHERE id = ''00000000-0000-0000-0000-000000000007''');
SELECT * FROM tamper('UPDATE ledger.entries_pending SET id = ''00000000-0000-0000-0000-000000000099'' WHERE id = ''00000000-0000-0000-0000-000000000007''') ORDER BY entry;
SELECT * FROM tamper('DELETE FROM ledger.entries_pending WHERE id = ''00000000-0000-0000-0000-000000000007''');
-- A forged one. While its transaction runs it cannot be told from one that will be in the file when it commits.
ALTER TABLE ledger.entries_pending DISABLE TRIGGER ALL;
INSERT INTO ledger.entries_pending (id, entry_type, data_hash) VALUES ('00000000-0000-0000-0000-000000000099', 'forged', ledger.hash_data('1'));
SELECT source, right(entry_id::text, 2) AS entry, problem, detail FROM ledger.find_tampering();
DELETE FROM ledger.entries_pending WHERE id = '00000000-0000-0000-0000-000000000099';
ALTER TABLE ledger.entries_pending ENABLE ALWAYS TRIGGER zz_complete_entry, ENABLE ALWAYS TRIGGER queue_entry,
    ENABLE ALWAYS TRIGGER refuse_row, ENABLE ALWAYS TRIGGER refuse_statement;
SELECT * FROM ledger.find_tampering();

-- The reports of verify_chain and verify_entry.
BEGIN;
ALTER TABLE ledger.entries_sealed_1 DISABLE TRIGGER ALL;
UPDATE ledger.entries_sealed_1 SET metadata = '{"n": 50}' WHERE leaf_index = 4;
SELECT v #> '{postgres_chain,valid}' AS postgres_valid, v #> '{postgres_chain,error_count}' AS postgres_errors, v #> '{file_chain,valid}' AS file_valid,
       v #> '{file_chain,error_count}' AS file_errors, v -> 'overall_valid' AS overall_valid
FROM ledger.verify_chain() AS v;
SELECT error ->> 'source' AS source, error -> 'block_number' AS block_number, error -> 'leaf_index' AS leaf_index, right(error ->> 'entry_id', 2) AS entry,
       error ->> 'problem' AS problem, array(SELECT jsonb_object_keys(error) AS key ORDER BY key) AS keys
FROM jsonb_array_elements(ledger.verify_chain() #> '{postgres_chain,errors}') AS error;
SELECT ledger.verify_chain(1, 1) -> 'overall_valid' AS first_block, ledger.verify_chain(2, 2) -> 'overall_valid' AS second_block;
SELECT ledger.verify_entry('00000000-0000-0000-0000-000000000005', '5') AS changed;
SELECT ledger.verify_entry('00000000-0000-0000-0000-000000000004', '4') AS beside_it;
UPDATE ledger.entries_sealed_1 SET signature = repeat('0', 64) WHERE leaf_index = 0;
SELECT ledger.verify_entry('00000000-0000-0000-0000-000000000001', '1') AS changed_signature;
ROLLBACK;
-- At most 100 are listed, all are counted.
BEGIN;
ALTER TABLE ledger.entries_pending DISABLE TRIGGER ALL;
INSERT INTO ledger.entries_pending (entry_type, data_hash, signature, key_id) SELECT 'forged', ledger.hash_data('1'), repeat('0', 64), 'default' FROM generate_series(1, 150);
SELECT v #> '{postgres_chain,error_count}' AS error_count, jsonb_array_length(v #> '{postgres_chain,errors}') AS listed FROM ledger.verify_chain() AS v;
SELECT problem, count(*) FROM ledger.find_tampering() GROUP BY problem ORDER BY problem;
ROLLBACK;

SELECT * FROM ledger.find_tampering();
SELECT * FROM ledger_state();
DROP FUNCTION tamper(text[]);
