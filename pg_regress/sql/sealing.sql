-- Blocks: what is in them, and that they hang together.
\i pg_regress/fresh_ledger.sql

-- Nothing pending: no block.
SELECT * FROM ledger.commit_block();
SELECT * FROM ledger_state();

-- One block of the whole rest. Leaves are in the order of (created_at, id), not that of insertion. In one transaction,
-- as the worker does not wait with entries that old.
BEGIN;
INSERT INTO ledger.entries (id, entry_type, data_hash, created_at)
SELECT ('00000000-0000-0000-0000-00000000000' || 6 - n)::uuid, 'ordered', ledger.hash_data(to_jsonb(n)), '2001-01-01 00:00:00+00'
FROM generate_series(1, 5) AS n;
INSERT INTO ledger.entries (id, entry_type, data_hash, created_at)
VALUES ('00000000-0000-0000-0000-000000000009', 'earlier', ledger.hash_data('0'), '2000-12-31 23:59:59.999999+00'),
       ('00000000-0000-0000-0000-000000000000', 'later', ledger.hash_data('0'), '2001-01-01 00:00:00.000001+00');
SELECT block_number, data_count, tree_size, previous_hash FROM ledger.commit_block();
COMMIT;
SELECT id, entry_type, block_number, leaf_index, tableoid::regclass FROM ledger.entries ORDER BY leaf_index;
SELECT count(*) AS still_pending FROM ledger.entries_pending;
SELECT * FROM ledger.commit_block();

-- Rolled back: no block, and the entries wait as before.
SELECT count(ledger.add_entry('note', to_jsonb(n))) FROM generate_series(1, 4) AS n;
BEGIN;
SELECT block_number, data_count, tree_size FROM ledger.commit_block();
SELECT count(*) FROM ledger.entries_pending;
ROLLBACK;
SELECT file_has_all_blocks();
SELECT * FROM ledger_state();

-- Recorded and sealed in one transaction.
BEGIN;
SELECT count(ledger.add_entry('same transaction', to_jsonb(n))) FROM generate_series(1, 2) AS n;
SELECT block_number, data_count, tree_size FROM ledger.commit_block();
SELECT * FROM ledger.commit_block();
SELECT ledger.add_entry('after', '1') IS NOT NULL AS added;
SELECT block_number, data_count, tree_size FROM ledger.commit_block();
COMMIT;
-- In a savepoint that is rolled back.
BEGIN;
SELECT ledger.add_entry('before', '1') IS NOT NULL AS added;
SAVEPOINT s;
SELECT block_number, data_count, tree_size FROM ledger.commit_block();
ROLLBACK TO s;
COMMIT;
SELECT file_has_all_blocks();
SELECT * FROM ledger_state();
-- In REPEATABLE READ, what is committed meanwhile is sealed too.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT block_number, data_count, tree_size FROM ledger.commit_block();
COMMIT;

-- Blocks of at most block_size entries.
ALTER SYSTEM SET ledger.block_size = 3;
\i pg_regress/reload.sql
SHOW ledger.block_size;
BEGIN;
SELECT count(ledger.add_entry('three a block', to_jsonb(n))) FROM generate_series(1, 7) AS n;
SELECT block_number, data_count, tree_size FROM ledger.commit_block();
COMMIT;
-- The worker seals full blocks by itself, and leaves the rest.
BEGIN;
SELECT count(ledger.add_entry('by the worker', to_jsonb(n))) FROM generate_series(1, 8) AS n;
COMMIT;
SELECT wait_until('(SELECT count(*) = 2 FROM ledger.entries_pending)');
SELECT block_number, data_count, tree_size FROM ledger.blocks ORDER BY block_number DESC LIMIT 2;
SELECT block_number, data_count, tree_size FROM ledger.commit_block();
ALTER SYSTEM RESET ledger.block_size;
\i pg_regress/reload.sql

-- The chain, computed anew from the columns, as DESIGN says.
SELECT block_number,
       previous_hash = lag(block_hash, 1, repeat('0', 64)::varchar) OVER chain AS linked,
       block_hash = ledger.hash_data(jsonb_build_object('block_number', block_number, 'data_count', data_count,
           'merkle_root', merkle_root, 'previous_hash', previous_hash, 'tree_root', tree_root, 'tree_size', tree_size,
           'timestamp', to_char("timestamp" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))) AS hashed,
       tree_size = sum(data_count) OVER chain AS counted,
       data_count = (SELECT count(*) FROM ledger.entries AS e WHERE e.block_number = b.block_number) AS complete,
       merkle_root = (SELECT ledger.merkle_root(data_hash ORDER BY leaf_index) FROM ledger.entries AS e WHERE e.block_number = b.block_number) AS merkle,
       (SELECT min(leaf_index) = tree_size - data_count AND max(leaf_index) = tree_size - 1 FROM ledger.entries AS e WHERE e.block_number = b.block_number) AS leaves
FROM ledger.blocks AS b
WINDOW chain AS (ORDER BY block_number)
ORDER BY block_number;
SELECT count(*) = max(leaf_index) + 1 AND min(leaf_index) = 0 AND count(DISTINCT leaf_index) = count(*) AS no_gaps FROM ledger.entries_sealed;

-- The log tree by RFC 6962, from the lines of the file.
CREATE FUNCTION tree_root(leaves bytea[]) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    split int := 1;
BEGIN
    CASE cardinality(leaves)
        WHEN 0 THEN RETURN sha256('');
        WHEN 1 THEN RETURN sha256('\x00' || leaves[1]);
        ELSE
            WHILE split * 2 < cardinality(leaves) LOOP
                split := split * 2;
            END LOOP;
            RETURN sha256('\x01' || tree_root(leaves[:split]) || tree_root(leaves[split + 1:]));
    END CASE;
END
$$;
SELECT file_has_all_blocks();
SELECT count(*), bool_and(tree_root = encode(tree_root(ARRAY(
           SELECT convert_to(line, 'UTF8') FROM file_lines() JOIN ledger.entries ON id::text = record ->> 'entry_id'
           WHERE record ->> 'record_type' = 'entry' AND leaf_index < tree_size ORDER BY leaf_index)), 'hex')) AS tree_roots
FROM ledger.blocks;
DROP FUNCTION tree_root(bytea[]);

-- Each block has one line in the file, behind those of its entries.
SELECT count(*) AS blocks, count(*) FILTER (WHERE line = ledger.canonical_json(jsonb_build_object(
           'record_type', 'block', 'block_number', block_number, 'previous_hash', previous_hash, 'block_hash', block_hash,
           'merkle_root', merkle_root, 'data_count', data_count, 'tree_size', tree_size, 'tree_root', tree_root,
           'timestamp', to_char("timestamp" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
           'entry_ids', (SELECT jsonb_agg(id ORDER BY leaf_index) FROM ledger.entries AS e WHERE e.block_number = b.block_number)))) AS lines
FROM ledger.blocks AS b LEFT JOIN file_lines() ON record ->> 'record_type' = 'block' AND (record ->> 'block_number')::bigint = b.block_number;
SELECT bool_and(e.number < b.number) AS in_order, count(*)
FROM file_lines() AS b, jsonb_array_elements_text(b.record -> 'entry_ids') AS id, file_lines() AS e
WHERE b.record ->> 'record_type' = 'block' AND e.record ->> 'entry_id' = id;
SELECT * FROM ledger_state();
