-- The file, as far as SQL shows it.
\i pg_regress/fresh_ledger.sql

SELECT ledger.add_entry('note', '{"n": 1}') IS NOT NULL AS added;
SELECT array_agg(key ORDER BY key) AS header_keys FROM file_lines(), jsonb_object_keys(record) AS key WHERE number = 1;
SELECT record - 'timestamp' - 'ledger_id' AS header, record ->> 'ledger_id' = ledger_id::text AS ledger_id,
       (record ->> 'timestamp')::timestamptz = started_at AS timestamp, line = ledger.canonical_json(record) AS canonical
FROM file_lines(), ledger.log_state WHERE number = 1;
SELECT array_agg(key ORDER BY key) AS entry_keys FROM file_lines(), jsonb_object_keys(record) AS key WHERE number = 2;
-- Text beyond ASCII.
SELECT ledger.append_entry('é😀', '00000000-0000-0000-0000-000000000001', ledger.hash_data('1'), '{"é": "\\ \" \u007f 😀"}');
SELECT regexp_replace(regexp_replace(line, '"signature": "[0-9a-f]{64}"', '"signature": ...'), '"timestamp": ".{27}"', '"timestamp": ...') AS line
FROM file_lines() WHERE record ->> 'entry_id' = '00000000-0000-0000-0000-000000000001';
SELECT ledger.hash_and_record('unsigned', '1', '{}', false) IS NOT NULL AS recorded;
SELECT record -> 'signature' AS signature, record -> 'key_id' AS key_id FROM file_lines() WHERE record ->> 'entry_type' = 'unsigned';
-- A transaction's lines stand together, in its order, and are there when it has committed.
BEGIN;
SELECT count(ledger.add_entry('series', '1', NULL, jsonb_build_object('n', n))) FROM generate_series(1, 5) AS n;
SELECT count(*) FROM file_lines() WHERE record ->> 'entry_type' = 'series';
COMMIT;
SELECT array_agg((record #>> '{metadata,n}')::int ORDER BY number) AS n, max(number) - min(number) AS apart
FROM file_lines() WHERE record ->> 'entry_type' = 'series';
-- A transaction that is larger than any buffer.
INSERT INTO ledger.entries (entry_type, data_hash, metadata)
SELECT 'large', ledger.hash_data('1'), jsonb_build_object('n', n, 'text', repeat('x', 100000)) FROM generate_series(1, 50) AS n;
SELECT count(*), sum(length(line)) > 5000000 AS large FROM file_lines() WHERE record ->> 'entry_type' = 'large';
SELECT block_number, data_count FROM ledger.commit_block();
SELECT file_has_all_blocks();
SELECT * FROM ledger_state();

-- No mirror: nothing to compare with, which is no error.
ALTER SYSTEM SET ledger.mirror_mode = off;
\i pg_regress/reload.sql
SELECT r -> 'postgres_recorded' AS postgres_recorded, r -> 'file_recorded' AS file_recorded FROM ledger.hash_and_record('without mirror', '1') AS r;
SELECT mode, state, problem, bytes, last_block FROM ledger.mirror_status;
SELECT v -> 'file_chain' AS file_chain, v #> '{postgres_chain,valid}' AS postgres_valid, v -> 'overall_valid' AS overall_valid FROM ledger.verify_chain() AS v;
SELECT block_number, data_count FROM ledger.commit_block();
SELECT * FROM ledger_state();
-- When there is a mirror again, the missing lines are appended.
ALTER SYSTEM RESET ledger.mirror_mode;
\i pg_regress/reload.sql
SELECT r -> 'file_recorded' AS file_recorded FROM ledger.hash_and_record('with mirror', '1') AS r;
SELECT file_has_all_blocks();
SELECT record ->> 'entry_type' AS entry_type FROM file_lines() WHERE record ->> 'entry_type' ~ 'mirror' ORDER BY number;
SELECT * FROM ledger_state();
