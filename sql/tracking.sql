CREATE FUNCTION ledger.record_change() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'ledger_record_change';
CREATE FUNCTION ledger.record_truncate() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'ledger_record_truncate';

-- What a table is tracked with stands in the argument of its triggers.
CREATE VIEW ledger.tracked_tables AS
SELECT t.tgrelid::pg_catalog.regclass AS table_name,
       o.options OPERATOR(pg_catalog.->>) 'table_id' AS table_id,
       (o.options OPERATOR(pg_catalog.->>) 'keep_image')::boolean AS keep_image,
       (o.options OPERATOR(pg_catalog.->>) 'with_signature')::boolean AS with_signature,
       o.options OPERATOR(pg_catalog.->) 'columns' AS columns,
       o.options OPERATOR(pg_catalog.->) 'excluded' AS excluded,
       CASE WHEN t.tgenabled OPERATOR(pg_catalog.=) 'D' THEN 'disabled'
            WHEN t.tgenabled OPERATOR(pg_catalog.<>) 'A' THEN 'not always'
            WHEN b.pages IS NOT NULL THEN 'recording baseline'
            ELSE 'tracked' END AS state,
       b.pages_done AS baseline_pages_done, b.pages AS baseline_pages
FROM pg_catalog.pg_trigger AS t
CROSS JOIN LATERAL (
    SELECT pg_catalog.convert_from(pg_catalog.substring(t.tgargs, 1, pg_catalog.length(t.tgargs) OPERATOR(pg_catalog.-) 1),
                                   pg_catalog.getdatabaseencoding())::pg_catalog.jsonb AS options
) AS o
LEFT JOIN LATERAL (
    SELECT pg_catalog.sum(next_page)::pg_catalog.int8 AS pages_done, pg_catalog.sum(page_count)::pg_catalog.int8 AS pages
    FROM ledger.baselines AS b
    WHERE b.table_id OPERATOR(pg_catalog.=) (o.options OPERATOR(pg_catalog.->>) 'table_id')
) AS b ON true
WHERE t.tgfoid OPERATOR(pg_catalog.=) 'ledger.record_change'::pg_catalog.regproc
  AND t.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid AND t.tgnargs OPERATOR(pg_catalog.=) 1;

COMMENT ON VIEW ledger.tracked_tables IS 'tables whose rows are recorded, and what is recorded of them';
COMMENT ON FUNCTION ledger.record_change() IS 'trigger: records the change of a row of a tracked table';
COMMENT ON FUNCTION ledger.record_truncate() IS 'trigger: records that a tracked table is truncated';
