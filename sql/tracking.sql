CREATE FUNCTION ledger.record_change() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'ledger_record_change';
CREATE FUNCTION ledger.record_truncate() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'ledger_record_truncate';

-- The options that a table is tracked with are the argument of its triggers.
CREATE VIEW ledger.tracked_tables AS
SELECT t.tgrelid::pg_catalog.regclass AS table_name,
       o.options OPERATOR(pg_catalog.->>) 'table_id' AS table_id,
       (o.options OPERATOR(pg_catalog.->>) 'keep_image')::boolean AS keep_image,
       (o.options OPERATOR(pg_catalog.->>) 'with_signature')::boolean AS with_signature,
       o.options OPERATOR(pg_catalog.->) 'columns' AS columns,
       o.options OPERATOR(pg_catalog.->) 'excluded' AS excluded,
       CASE WHEN c.is_copy THEN 'copy'
            WHEN s.is_altered THEN 'altered'
            WHEN s.is_disabled THEN 'disabled'
            WHEN s.is_not_always THEN 'not always'
            WHEN b.pages IS NOT NULL THEN 'recording baseline'
            ELSE 'tracked' END AS state,
       b.pages_done AS baseline_pages_done, b.pages AS baseline_pages
FROM pg_catalog.pg_trigger AS t
CROSS JOIN LATERAL (
    SELECT pg_catalog.convert_from(pg_catalog.substring(t.tgargs, 1, pg_catalog.length(t.tgargs) OPERATOR(pg_catalog.-) 1),
                                   pg_catalog.getdatabaseencoding())::pg_catalog.jsonb AS options
) AS o
CROSS JOIN LATERAL (
    -- The triggers of the table and of each of its partitions. tgtype 29 is AFTER INSERT OR UPDATE OR DELETE FOR EACH
    -- ROW, and 34 is BEFORE TRUNCATE. OFFSET 0 keeps Postgres from reading the catalogs once from their first row to
    -- their last for each tracked table, which it takes for cheaper as long as they have no statistics.
    WITH RECURSIVE tree AS (
        SELECT t.tgrelid AS relation
        UNION ALL
        SELECT partition.oid FROM tree
        CROSS JOIN LATERAL (
            SELECT c.oid FROM pg_catalog.pg_inherits AS i
            JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid AND c.relispartition
            WHERE i.inhparent OPERATOR(pg_catalog.=) tree.relation OFFSET 0
        ) AS partition
    )
    SELECT pg_catalog.bool_or(
               -- Postgres fires no trigger of such a table, and record_change() takes no such options.
               NOT relation.relhastriggers
               OR pg_catalog.jsonb_typeof(o.options OPERATOR(pg_catalog.->) 'table_id') IS DISTINCT FROM 'string'
               OR pg_catalog.jsonb_typeof(o.options OPERATOR(pg_catalog.->) 'keep_image') IS DISTINCT FROM 'boolean'
               OR pg_catalog.jsonb_typeof(o.options OPERATOR(pg_catalog.->) 'with_signature') IS DISTINCT FROM 'boolean'
               OR by_row.oid IS NULL OR by_row.tgname OPERATOR(pg_catalog.<>) 'ledger_record_change'
               OR by_row.tgtype OPERATOR(pg_catalog.<>) 29
               OR by_row.tgqual IS NOT NULL OR by_row.tgattr::pg_catalog.text OPERATOR(pg_catalog.<>) ''
               OR by_row.tgargs OPERATOR(pg_catalog.<>) t.tgargs
               OR truncates.oid IS NULL OR truncates.tgname OPERATOR(pg_catalog.<>) 'ledger_record_truncate'
               OR truncates.tgtype OPERATOR(pg_catalog.<>) 34
               OR truncates.tgqual IS NOT NULL OR truncates.tgargs OPERATOR(pg_catalog.<>) t.tgargs) AS is_altered,
           pg_catalog.bool_or(by_row.tgenabled OPERATOR(pg_catalog.=) 'D' OR truncates.tgenabled OPERATOR(pg_catalog.=) 'D') AS is_disabled,
           pg_catalog.bool_or(by_row.tgenabled OPERATOR(pg_catalog.<>) 'A' OR truncates.tgenabled OPERATOR(pg_catalog.<>) 'A') AS is_not_always
    FROM tree
    CROSS JOIN LATERAL (
        SELECT c.relhastriggers FROM pg_catalog.pg_class AS c
        WHERE c.oid OPERATOR(pg_catalog.=) tree.relation OFFSET 0
    ) AS relation
    LEFT JOIN LATERAL (
        SELECT own.* FROM pg_catalog.pg_trigger AS own
        WHERE own.tgrelid OPERATOR(pg_catalog.=) tree.relation AND own.tgfoid OPERATOR(pg_catalog.=) t.tgfoid OFFSET 0
    ) AS by_row ON true
    LEFT JOIN LATERAL (
        SELECT own.* FROM pg_catalog.pg_trigger AS own
        WHERE own.tgrelid OPERATOR(pg_catalog.=) tree.relation
          AND own.tgfoid OPERATOR(pg_catalog.=) 'ledger.record_truncate'::pg_catalog.regproc OFFSET 0
    ) AS truncates ON true
) AS s
CROSS JOIN LATERAL (
    -- Whether the options were given for this table, of this database.
    SELECT coalesce((o.options OPERATOR(pg_catalog.#>>) '{made_for,table}') OPERATOR(pg_catalog.=) t.tgrelid::pg_catalog.text
                    AND ((o.options OPERATOR(pg_catalog.#>>) '{made_for,cluster}') OPERATOR(pg_catalog.=)
                             (SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system())
                         OR (o.options OPERATOR(pg_catalog.#>>) '{made_for,installation}') OPERATOR(pg_catalog.=)
                             (SELECT installation::pg_catalog.text FROM ledger.log_state)), false) AS is_original
) AS m
CROSS JOIN LATERAL (
    -- Whether the table is a copy: it was restored beside the table that it has the id of. As Options::copied_from().
    SELECT CASE WHEN m.is_original THEN false ELSE t.tgrelid OPERATOR(pg_catalog.=) ANY (
        SELECT ranked.tgrelid
        FROM (
            SELECT same.tgrelid, same.is_original,
                   pg_catalog.rank() OVER (PARTITION BY same.table_id ORDER BY same.is_original DESC, same.tgrelid) AS place
            FROM (
                SELECT other.tgrelid, a.options OPERATOR(pg_catalog.->>) 'table_id' AS table_id,
                       coalesce((a.options OPERATOR(pg_catalog.#>>) '{made_for,table}') OPERATOR(pg_catalog.=) other.tgrelid::pg_catalog.text
                                AND ((a.options OPERATOR(pg_catalog.#>>) '{made_for,cluster}') OPERATOR(pg_catalog.=)
                                         (SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system())
                                     OR (a.options OPERATOR(pg_catalog.#>>) '{made_for,installation}') OPERATOR(pg_catalog.=)
                                         (SELECT installation::pg_catalog.text FROM ledger.log_state)), false) AS is_original
                FROM pg_catalog.pg_trigger AS other
                CROSS JOIN LATERAL (
                    SELECT pg_catalog.convert_from(pg_catalog.substring(other.tgargs, 1, pg_catalog.length(other.tgargs) OPERATOR(pg_catalog.-) 1),
                                                   pg_catalog.getdatabaseencoding())::pg_catalog.jsonb AS options
                ) AS a
                WHERE other.tgfoid OPERATOR(pg_catalog.=) 'ledger.record_change'::pg_catalog.regproc
                  AND other.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid AND other.tgnargs OPERATOR(pg_catalog.=) 1
            ) AS same
        ) AS ranked
        WHERE ranked.place OPERATOR(pg_catalog.>) 1
    ) END AS is_copy
) AS c
LEFT JOIN LATERAL (
    SELECT pg_catalog.sum(next_page)::pg_catalog.int8 AS pages_done, pg_catalog.sum(page_count)::pg_catalog.int8 AS pages
    FROM ledger.baselines AS b
    WHERE b.table_id OPERATOR(pg_catalog.=) (o.options OPERATOR(pg_catalog.->>) 'table_id')
) AS b ON true
WHERE t.tgfoid OPERATOR(pg_catalog.=) 'ledger.record_change'::pg_catalog.regproc
  AND t.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid AND t.tgnargs OPERATOR(pg_catalog.=) 1;

COMMENT ON VIEW ledger.tracked_tables IS 'tracked tables, with their options and state';
COMMENT ON FUNCTION ledger.record_change() IS 'trigger: records the change of a row of a tracked table';
COMMENT ON FUNCTION ledger.record_truncate() IS 'trigger: records that a tracked table is truncated';
