-- Recording by function.
\i pg_regress/fresh_ledger.sql

BEGIN;
SELECT ledger.hash_and_record('payment', '{"key": "value", "number": 42}') AS receipt \gset
SELECT array_agg(key ORDER BY key) AS keys FROM jsonb_object_keys(:'receipt') AS key;
SELECT r ->> 'data_hash' AS data_hash, r -> 'postgres_recorded' AS postgres_recorded, r -> 'file_recorded' AS file_recorded,
       ledger.verify_signature(r ->> 'data_hash', r ->> 'signature') AS signed
FROM CAST(:'receipt' AS jsonb) AS r;
-- The receipt is the row. The timestamp is in UTC with six digits, whatever TimeZone says.
SELECT entry_type, data_hash = r ->> 'data_hash' AS data_hash, signature = r ->> 'signature' AS signature, key_id, metadata,
       block_number, leaf_index, created_at = now() AS created_now,
       r ->> 'timestamp' = to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS timestamp,
       substr(id::text, 15, 1) AS uuid_version
FROM ledger.entries, CAST(:'receipt' AS jsonb) AS r
WHERE id = (r ->> 'entry_id')::uuid;
COMMIT;

SELECT ledger.hash_and_record('note', '"unsigned"', '{"by": "test"}', false) AS receipt \gset
SELECT r -> 'signature' AS signature, r -> 'postgres_recorded' AS postgres_recorded FROM CAST(:'receipt' AS jsonb) AS r;
SELECT signature IS NULL AND key_id IS NULL AS unsigned, metadata
FROM ledger.entries WHERE id = (CAST(:'receipt' AS jsonb) ->> 'entry_id')::uuid;
SELECT ledger.hash_and_record(data => '[1]', entry_type => 'named', with_signature => true, metadata => '{}') ? 'entry_id' AS named_notation;

-- add_entry: signed by the server, or with a signature that it checks.
SELECT ledger.add_entry('note', '{"key": "value", "number": 42}') AS id \gset
SELECT data_hash, ledger.verify_signature(data_hash, signature, key_id) AS signed, metadata FROM ledger.entries WHERE id = :'id';
SELECT ledger.add_entry('note', '2', ledger.create_signature(ledger.hash_data('2')), '{"n": 2}') AS id \gset
SELECT signature = ledger.create_signature(data_hash) AS given, key_id, metadata FROM ledger.entries WHERE id = :'id';
SELECT ledger.add_entry('note', '2', ledger.create_signature(ledger.hash_data('3')));
\echo :SQLSTATE
SELECT ledger.add_entry('note', '2', '');
\echo :SQLSTATE

-- append_entry: the caller has hashed, and names the entry.
SELECT ledger.append_entry('note', '00000000-0000-0000-0000-000000000001', encode(sha256('anything'), 'hex'), '{"n": 3}');
SELECT entry_type, data_hash = encode(sha256('anything'), 'hex') AS as_given, ledger.verify_signature(data_hash, signature, key_id) AS signed, metadata
FROM ledger.entries WHERE id = '00000000-0000-0000-0000-000000000001';

-- 100 characters, not bytes.
SELECT ledger.add_entry(repeat('é', 100), '1') AS id \gset
SELECT entry_type = repeat('é', 100) AS long_type FROM ledger.entries WHERE id = :'id';

-- Ids are new ones, in the order of time.
SELECT count(DISTINCT id), bool_and(id > previous) AS ascending
FROM (SELECT id, lag(id) OVER (ORDER BY n) AS previous FROM (SELECT n, ledger.uuid_v7() AS id FROM generate_series(1, 100) AS n) AS ids) AS pairs;

-- Each entry has one line in the file: the canonical JSON of the row.
SELECT count(*) AS entries, count(*) FILTER (WHERE line = ledger.canonical_json(jsonb_build_object(
           'record_type', 'entry', 'entry_id', id, 'entry_type', entry_type, 'data_hash', data_hash, 'metadata', metadata,
           'signature', signature, 'key_id', key_id,
           'timestamp', to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))) AS lines
FROM ledger.entries LEFT JOIN file_lines() ON record ->> 'entry_id' = id::text;
SELECT record ->> 'record_type' AS record_type, count(*) FROM file_lines() GROUP BY 1 ORDER BY 1;

-- What is rolled back is in neither.
BEGIN;
SELECT ledger.add_entry('rolled back', '1') IS NOT NULL AS added;
ROLLBACK;
SELECT count(*) FROM file_lines();
SELECT * FROM ledger_state();

-- Nothing may be recorded where nothing may be written.
BEGIN READ ONLY;
SELECT ledger.add_entry('note', '1');
ROLLBACK;
BEGIN READ ONLY;
SELECT ledger.hash_and_record('note', '1');
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM ledger.commit_block();
ROLLBACK;
SELECT * FROM ledger_state();
