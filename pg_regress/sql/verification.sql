-- Verification of what is as it should be. What is not: tampering.sql.
\i pg_regress/fresh_ledger.sql

-- An empty ledger is in order.
SELECT ledger.verify_chain() -> 'postgres_chain' AS postgres_chain, ledger.verify_chain() -> 'overall_valid' AS overall_valid;
SELECT * FROM ledger.find_tampering();
SELECT ledger.verify_chain(1) -> 'overall_valid' AS overall_valid;

SELECT ledger.add_entry('signed', '{"amount": 1, "to": "a"}') AS signed \gset
SELECT ledger.hash_and_record('unsigned', '{"amount": 2, "to": "b"}', '{}', false) ->> 'entry_id' AS unsigned \gset
SELECT block_number, data_count FROM ledger.commit_block();
SELECT ledger.add_entry('signed', '3') AS pending \gset
SELECT file_has_all_blocks();

-- One entry.
SELECT ledger.verify_entry(:'signed', '{"to": "a", "amount": 1}') AS right_data;
SELECT ledger.verify_entry(:'signed', '{"amount": 10, "to": "a"}') AS wrong_data;
SELECT ledger.verify_entry(:'unsigned', '{"amount": 2, "to": "b"}') AS unsigned;
SELECT ledger.verify_entry(:'unsigned', '{}') AS unsigned_wrong_data;
SELECT ledger.verify_entry(:'pending', '3') AS pending;
SELECT ledger.verify_entry(:'pending', '4') AS pending_wrong_data;
SELECT ledger.verify_entry('00000000-0000-0000-0000-000000000000', '1') AS unknown;
SELECT ledger.verify_entry(NULL, '1');
\echo :SQLSTATE
SELECT ledger.verify_entry(:'pending', NULL);
\echo :SQLSTATE

-- The whole ledger.
SELECT jsonb_pretty(ledger.verify_chain());
SELECT part, array_agg(key ORDER BY key) AS keys
FROM jsonb_each(ledger.verify_chain()) AS v (part, value), jsonb_object_keys(value) AS key
WHERE jsonb_typeof(value) = 'object' GROUP BY part ORDER BY part;
SELECT ledger.verify_file_integrity() = ledger.verify_chain() -> 'file_chain' AS same;
SELECT * FROM ledger.find_tampering();

-- What this transaction has recorded is as well in order as what others have.
BEGIN;
SELECT ledger.add_entry('uncommitted', '4') IS NOT NULL AS added;
SELECT ledger.verify_chain() -> 'overall_valid' AS overall_valid, ledger.verify_chain() #> '{postgres_chain,pending_count}' AS pending_count;
SELECT source, problem, detail FROM ledger.find_tampering();
SELECT block_number, data_count FROM ledger.commit_block();
SELECT ledger.verify_chain() -> 'overall_valid' AS overall_valid, ledger.verify_chain() #> '{postgres_chain,block_count}' AS block_count;
SELECT source, problem, detail FROM ledger.find_tampering();
ROLLBACK;
SELECT * FROM ledger_state();
-- In a transaction of one snapshot, too, and where nothing may be written.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT ledger.verify_chain() -> 'overall_valid' AS overall_valid;
SELECT ledger.verify_file_integrity() -> 'valid' AS valid;
COMMIT;

-- Ranges of blocks.
SELECT block_number, data_count FROM ledger.commit_block();
SELECT count(ledger.add_entry('more', to_jsonb(n))) FROM generate_series(1, 5) AS n;
SELECT block_number, data_count FROM ledger.commit_block();
SELECT ledger.add_entry('pending', '1') IS NOT NULL AS added;
SELECT file_has_all_blocks();
SELECT name, v #> '{postgres_chain,valid}' AS valid, v #> '{postgres_chain,block_count}' AS blocks, v #> '{postgres_chain,entry_count}' AS entries,
       v -> 'overall_valid' AS overall_valid
FROM (VALUES ('all', ledger.verify_chain(NULL, NULL)), ('from 1', ledger.verify_chain(1)), ('from 2', ledger.verify_chain(2)),
             ('from 3', ledger.verify_chain(from_block => 3)), ('to 2', ledger.verify_chain(to_block => 2)),
             ('2 to 2', ledger.verify_chain(2, 2)), ('3 to 100', ledger.verify_chain(3, 100)), ('4', ledger.verify_chain(4))) AS of (name, v);
SELECT ledger.verify_chain(0);
\echo :SQLSTATE
SELECT ledger.verify_chain(-1, 2);
\echo :SQLSTATE
SELECT ledger.verify_chain(3, 2);
\echo :SQLSTATE
SELECT ledger.verify_chain(1, 0);
\echo :SQLSTATE

-- Files: the own one by its path, a copy of it, and copies that were changed.
SELECT path, current_setting('data_directory') || '/pg_notary_regress.jsonl' AS copy FROM ledger.mirror_status \gset
SELECT ledger.verify_file_integrity(:'path') = ledger.verify_file_integrity() AS own_path;
\set command 'cat >/dev/null; cp "' :path '" "' :copy '"'
COPY (SELECT) TO PROGRAM :'command';
SELECT ledger.verify_file_integrity(:'copy');
SELECT ledger.verify_file_integrity('pg_notary_regress.jsonl') -> 'valid' AS below_the_data_directory;
-- A reader of a live file may see half a line.
\set command 'cat >/dev/null; printf \'{"half\' >>"' :copy '"'
COPY (SELECT) TO PROGRAM :'command';
SELECT v -> 'valid' AS valid, v -> 'block_count' AS blocks, v -> 'entry_count' AS entries, jsonb_array_length(v -> 'warnings') AS warnings
FROM ledger.verify_file_integrity(:'copy') AS v;
\set command 'cat >/dev/null; sed 2d "' :path '" >"' :copy '"'
COPY (SELECT) TO PROGRAM :'command';
SELECT v -> 'valid' AS valid, v -> 'error_count' AS error_count, error ->> 'problem' AS problem, error -> 'block_number' AS block_number,
       error -> 'leaf_index' AS leaf_index
FROM ledger.verify_file_integrity(:'copy') AS v, jsonb_array_elements(v -> 'errors') AS error;
\set command 'cat >/dev/null; sed \'s/"data_count": 5/"data_count": 6/\' "' :path '" >"' :copy '"'
COPY (SELECT) TO PROGRAM :'command';
SELECT v -> 'valid' AS valid, error ->> 'source' AS source, error ->> 'problem' AS problem, error -> 'block_number' AS block_number
FROM ledger.verify_file_integrity(:'copy') AS v, jsonb_array_elements(v -> 'errors') AS error;
\set command 'cat >/dev/null; printf \'not a ledger\\n\' >"' :copy '"'
COPY (SELECT) TO PROGRAM :'command';
SELECT v -> 'valid' AS valid, error ->> 'problem' AS problem
FROM ledger.verify_file_integrity(:'copy') AS v, jsonb_array_elements(v -> 'errors') AS error;
\set command 'cat >/dev/null; rm "' :copy '"'
COPY (SELECT) TO PROGRAM :'command';
SELECT ledger.verify_file_integrity('/nonexistent/ledger.jsonl');
\echo :SQLSTATE
SELECT ledger.verify_file_integrity('/dev');
\echo :SQLSTATE
SELECT * FROM ledger_state();
