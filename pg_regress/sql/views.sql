-- The views for a DBA and for monitoring.
\i pg_regress/fresh_ledger.sql

SELECT c.relname AS view, string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) AS columns
FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0
WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'v' GROUP BY c.relname ORDER BY c.relname;

SELECT * FROM ledger.chain_stats;
BEGIN;
SELECT count(ledger.add_entry('note', to_jsonb(n))) FROM generate_series(1, 3) AS n;
SELECT block_count, entry_count, pending_count, oldest_pending = now() AS oldest_is_now, last_block_hash, last_block_at, tree_root FROM ledger.chain_stats;
COMMIT;
SELECT block_number, data_count FROM ledger.commit_block();
SELECT ledger.add_entry('note', '4') IS NOT NULL AS added;
SELECT s.block_count, s.entry_count, s.pending_count, s.last_block_hash = b.block_hash AS last_block_hash, s.last_block_at = b."timestamp" AS last_block_at,
       s.tree_root = b.tree_root AS tree_root
FROM ledger.chain_stats AS s, ledger.blocks AS b;

-- The mirror: attached once something was recorded.
SELECT wait_until('(SELECT last_block = 1 FROM ledger.mirror_status)') AS has_block_line;
SELECT mode, state, problem, bytes = (pg_stat_file(path)).size AS bytes, last_block, undecided_transactions, syncs > 0 AS syncs FROM ledger.mirror_status;
SELECT path ~ ('/pg_notary/' || current_database() || '\.' || left(ledger_id::text, 8) || '\.jsonl$') AS path FROM ledger.mirror_status, ledger.log_state;

-- One worker for this database.
SELECT wait_until('(SELECT count(*) = 1 FROM ledger.workers WHERE database = current_database() AND pid IN (SELECT pid FROM pg_stat_activity))') AS has_worker;
SELECT wait_until('(SELECT pending = 1 FROM ledger.workers WHERE database = current_database())') AS knows_pending;
-- Nothing is being verified.
SELECT count(*) FROM ledger.progress;
