CREATE VIEW ledger.chain_stats AS
SELECT COALESCE(head.block_number, 0) AS block_count,
       COALESCE(head.tree_size, 0) AS entry_count,
       pending.count AS pending_count,
       pending.oldest AS oldest_pending,
       head.block_hash AS last_block_hash,
       head."timestamp" AS last_block_at,
       head.tree_root
FROM (SELECT pg_catalog.count(*) AS count, pg_catalog.min(created_at) AS oldest FROM ledger.entries_pending) AS pending
LEFT JOIN (SELECT * FROM ledger.blocks ORDER BY block_number DESC LIMIT 1) AS head ON true;

CREATE VIEW ledger.mirror_status AS
SELECT mode, state, path, problem, bytes, last_block, undecided_transactions, prepared_transactions, lag_entries, lag_bytes,
       pg_catalog.clock_timestamp() - lag_since AS lag_age, recovery_bytes, syncs
FROM ledger.mirror_state();

CREATE VIEW ledger.workers AS
SELECT d.datname AS database, w.pid, w.state, w.pending, w.blocks_sealed
FROM ledger.worker_state() AS w JOIN pg_catalog.pg_database AS d ON d.oid = w.database;

CREATE VIEW ledger.progress AS
SELECT p.pid, d.datname AS database, p.phase, p.started_at, p.blocks_done, p.blocks_total, p.entries_done,
       p.bytes_done, p.bytes_total, p.rows_done
FROM ledger.verification_progress() AS p LEFT JOIN pg_catalog.pg_database AS d ON d.oid = p.database;

COMMENT ON VIEW ledger.chain_stats IS 'how many blocks and entries there are, what is pending, and the head of the chain';
COMMENT ON VIEW ledger.mirror_status IS 'the state of the mirror file, and what is wrong with it';
COMMENT ON VIEW ledger.workers IS 'the workers of all databases with a ledger';
COMMENT ON VIEW ledger.progress IS 'the progress of running verifications';
