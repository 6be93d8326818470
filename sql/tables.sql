CREATE TABLE ledger.blocks (
    block_number BIGINT PRIMARY KEY,
    previous_hash VARCHAR(64) NOT NULL,
    block_hash VARCHAR(64) UNIQUE NOT NULL,
    merkle_root VARCHAR(64) NOT NULL,
    "timestamp" TIMESTAMPTZ NOT NULL DEFAULT pg_catalog.now(),
    data_count INTEGER NOT NULL,
    tree_size BIGINT NOT NULL,
    tree_root VARCHAR(64) NOT NULL
) USING heap;

CREATE TABLE ledger.entries (
    id UUID NOT NULL DEFAULT ledger.uuid_v7(),
    block_number BIGINT REFERENCES ledger.blocks,
    entry_type VARCHAR(100) NOT NULL,
    data_hash VARCHAR(64) NOT NULL,
    metadata JSONB NOT NULL DEFAULT '{}',
    signature VARCHAR(256),
    key_id VARCHAR(64),
    created_at TIMESTAMPTZ NOT NULL DEFAULT pg_catalog.now(),
    leaf_index BIGINT
) PARTITION BY LIST (block_number);

-- The only table in which rows come and go all the time. It is vacuumed after a number of changes, not after a share of
-- its size, which changes all the time.
CREATE TABLE ledger.entries_pending PARTITION OF ledger.entries (PRIMARY KEY (id)) FOR VALUES IN (NULL) USING heap
    WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
          autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 1000000,
          autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000);

-- Sealing makes its partitions, ahead of need.
CREATE TABLE ledger.entries_sealed PARTITION OF ledger.entries DEFAULT PARTITION BY RANGE (block_number);

-- Perfect nodes of the log tree that cover 256 leaves (level 8) and more.
CREATE TABLE ledger.log_nodes (
    level SMALLINT NOT NULL,
    node_index BIGINT NOT NULL,
    hash BYTEA NOT NULL,
    PRIMARY KEY (level, node_index)
) USING heap;

-- One row: which ledger this is, and from where sealing and the mirror go on.
CREATE TABLE ledger.log_state (
    ledger_id UUID NOT NULL,
    started_at TIMESTAMPTZ NOT NULL,
    frontier BYTEA NOT NULL,
    mirror_bytes BIGINT NOT NULL,
    settled_bytes BIGINT NOT NULL,
    settled_block BIGINT NOT NULL,
    mirror_block BIGINT NOT NULL,
    database_oid OID NOT NULL,
    mirror_attachment UUID,
    open_ranges BIGINT[] NOT NULL,
    version_runs BIGINT[] NOT NULL,
    start_timeline BIGINT,
    start_location BIGINT,
    installation UUID NOT NULL
) USING heap WITH (fillfactor = 10);

INSERT INTO ledger.log_state
SELECT pg_catalog.gen_random_uuid(), pg_catalog.clock_timestamp(), '', 0, 0, 0, 0, d.oid, NULL, '{}', '{}', NULL, NULL,
       pg_catalog.gen_random_uuid()
FROM pg_catalog.pg_database AS d WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database();

-- Which sealed entries are about a row of a tracked table: runs, each sorted by row, in chunks of a page. A place is
-- row_id (16 bytes), created_at (microseconds since 1970), leaf_index and block_number (8 bytes each). The filters of a
-- long run stand under its number with a minus, each for thousands of its rows.
CREATE TABLE ledger.row_versions (
    run BIGINT NOT NULL,
    first_row UUID NOT NULL,
    chunk BIGINT NOT NULL,
    places BYTEA NOT NULL,
    PRIMARY KEY (run, first_row, chunk)
) USING heap;
ALTER TABLE ledger.row_versions ALTER COLUMN places SET STORAGE PLAIN;

-- Not unique: two transactions that are the first to see a new shape both record it, and neither waits for the other.
CREATE TABLE ledger.table_shapes (
    shape UUID NOT NULL,
    definition JSONB NOT NULL
) USING heap;
CREATE INDEX table_shapes_shape ON ledger.table_shapes (shape);

-- Rows of tracked tables that the worker has still to record.
CREATE TABLE ledger.baselines (
    table_id TEXT NOT NULL,
    relation OID NOT NULL,
    horizon BIGINT NOT NULL,
    tracked_by BIGINT NOT NULL,
    tracked_at TIMESTAMPTZ NOT NULL,
    next_page BIGINT NOT NULL,
    next_item BIGINT NOT NULL,
    page_count BIGINT NOT NULL,
    row_count BIGINT NOT NULL,
    file_node OID NOT NULL,
    oldest_running BIGINT NOT NULL,
    PRIMARY KEY (table_id, relation)
) USING heap;

COMMENT ON TABLE ledger.row_versions IS 'which sealed entries are about a row of a tracked table, or about an item';
COMMENT ON TABLE ledger.table_shapes IS 'the sets of columns that entries about rows cover';
COMMENT ON TABLE ledger.baselines IS 'tracked tables whose baseline, the rows from before they were tracked, is still being recorded';
COMMENT ON COLUMN ledger.row_versions.run IS 'the number of the run; negative if the row is a filter of that run';
COMMENT ON COLUMN ledger.row_versions.chunk IS 'how many places of the run precede this chunk';
COMMENT ON COLUMN ledger.row_versions.places IS 'sorted by row_id (the first 16 bytes of SHA-256 over the table_id, a zero byte and the values of the key in the order of its columns'' numbers, a canonical JSON array), created_at, leaf_index and block_number, 40 bytes a place; in a filter: the bits of a Bloom filter for the rows up to the next filter';
COMMENT ON COLUMN ledger.baselines.horizon IS 'row versions of transactions before this one have no entries yet';
COMMENT ON COLUMN ledger.baselines.next_item IS 'the row of next_page to go on with: the second number of its ctid, or 0';
COMMENT ON COLUMN ledger.baselines.oldest_running IS 'this transaction and later ones may have written after the triggers were created';
COMMENT ON TABLE ledger.blocks IS 'hash-chained blocks; only sealing and an import write here';
COMMENT ON TABLE ledger.entries IS 'all recorded entries; block_number is null until an entry is sealed';
COMMENT ON TABLE ledger.entries_pending IS 'entries that wait for their block';
COMMENT ON TABLE ledger.entries_sealed IS 'entries in blocks, in leaf order, partitioned by block_number';
COMMENT ON TABLE ledger.log_nodes IS 'upper nodes of the RFC 6962 log tree, so that proofs never read the whole log';
COMMENT ON TABLE ledger.log_state IS 'identity of the ledger, frontier of the log tree, and how far the mirror file is acknowledged';
COMMENT ON COLUMN ledger.log_state.mirror_bytes IS 'how many bytes of the mirror file are acknowledged';
COMMENT ON COLUMN ledger.log_state.settled_bytes IS 'recovery reads the mirror file from this offset on';
COMMENT ON COLUMN ledger.log_state.open_ranges IS 'the ranges before settled_bytes that hold lines of prepared transactions: starts and ends';
COMMENT ON COLUMN ledger.log_state.version_runs IS 'the runs of ledger.row_versions, four numbers for each: its number; how many places it has; the number of the run to which its places are being moved, or 0; the upper half, as a signed number, of the row_id up to which they have been moved (places below are no longer in this run)';
COMMENT ON COLUMN ledger.log_state.database_oid IS 'the database this ledger belongs to; in a copy of that database, the ledger becomes one of its own';
COMMENT ON COLUMN ledger.log_state.mirror_attachment IS 'the id of the server''s last attachment to the mirror file';
COMMENT ON COLUMN ledger.log_state.start_timeline IS 'the timeline of the first server start after that attachment; null until then';
COMMENT ON COLUMN ledger.log_state.start_location IS 'where the WAL ended at that start: shows whether the database has what the file was written with before, or was put back to an older state';
COMMENT ON COLUMN ledger.log_state.installation IS 'made by CREATE EXTENSION: a copy of the whole database by pg_upgrade, from a template or from a base backup has the same, a database that was restored from a dump has another';
COMMENT ON COLUMN ledger.entries.leaf_index IS '0-based position in the log tree';
COMMENT ON COLUMN ledger.blocks.tree_size IS 'leaves of the log tree after this block';
COMMENT ON COLUMN ledger.blocks.tree_root IS 'root of the log tree after this block';
