CREATE FUNCTION ledger.header_line(state ledger.log_state) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'ledger_header_line';
CREATE FUNCTION ledger.entry_line(entry ledger.entries) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'ledger_entry_line';
CREATE FUNCTION ledger.block_line(block ledger.blocks, entry_ids uuid[]) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'ledger_block_line';

-- The whole ledger as the lines of its file, in an order in which it can be read back. It streams: block by block, each
-- block's entries by the index on leaf_index of the one partition that holds them. Rows are put together from their
-- columns because pg_upgrade makes this view before it attaches the partitions, whose rows cannot be cast to those of
-- the table until then.
CREATE VIEW ledger.lines AS
SELECT ledger.header_line(s) AS line FROM ledger.log_state AS s
UNION ALL
SELECT sealed.line
FROM (SELECT b AS block, b.block_number, b.tree_size - b.data_count AS first_leaf, b.tree_size AS end_leaf
      FROM ledger.blocks AS b ORDER BY b.block_number) AS block
CROSS JOIN LATERAL (
    SELECT entry.line
    FROM (SELECT ledger.entry_line(ROW(e.id, e.block_number, e.entry_type, e.data_hash, e.metadata, e.signature, e.key_id,
                                   e.created_at, e.leaf_index)::ledger.entries) AS line
          FROM ledger.entries_sealed AS e
          WHERE e.block_number = block.block_number
            AND e.leaf_index >= block.first_leaf AND e.leaf_index < block.end_leaf
          ORDER BY e.leaf_index) AS entry
    UNION ALL
    SELECT ledger.block_line(block.block, ARRAY(
        SELECT e.id FROM ledger.entries_sealed AS e
        WHERE e.block_number = block.block_number
          AND e.leaf_index >= block.first_leaf AND e.leaf_index < block.end_leaf
        ORDER BY e.leaf_index))
) AS sealed
UNION ALL
SELECT pending.line
FROM (SELECT ledger.entry_line(ROW(e.id, e.block_number, e.entry_type, e.data_hash, e.metadata, e.signature, e.key_id,
                               e.created_at, e.leaf_index)::ledger.entries) AS line
      FROM ledger.entries_pending AS e ORDER BY e.created_at, e.id) AS pending;

-- Always empty: the lines of a ledger file are inserted here, and the triggers take them.
CREATE TABLE ledger.import (line TEXT) USING heap;

-- Runs as the caller, which must be an administrator.
CREATE FUNCTION ledger.begin_import() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'ledger_begin_import';
-- Runs as the owner, which alone may make partitions.
CREATE FUNCTION ledger.import_line() RETURNS trigger LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ledger_import_line';
CREATE FUNCTION ledger.finish_import() RETURNS trigger LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ledger_finish_import';

CREATE TRIGGER begin_import BEFORE INSERT ON ledger.import
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.begin_import();
CREATE TRIGGER import_line BEFORE INSERT ON ledger.import
    FOR EACH ROW EXECUTE FUNCTION ledger.import_line();
CREATE TRIGGER finish_import AFTER INSERT ON ledger.import
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.finish_import();
ALTER TABLE ledger.import ENABLE ALWAYS TRIGGER begin_import;
ALTER TABLE ledger.import ENABLE ALWAYS TRIGGER import_line;
ALTER TABLE ledger.import ENABLE ALWAYS TRIGGER finish_import;

COMMENT ON VIEW ledger.lines IS 'the whole ledger as the lines of its file; read by COPY ledger.entries TO ... (FORMAT jsonl)';
COMMENT ON TABLE ledger.import IS 'receives the lines of a ledger file, and stays empty; used by COPY ledger.entries FROM ... (FORMAT jsonl)';
