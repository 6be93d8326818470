-- Writing the whole ledger out, and rebuilding an empty one: COPY in format jsonl.
\i pg_regress/fresh_ledger.sql
\set QUIET off
SELECT current_setting('data_directory') || '/pg_notary_regress.jsonl' AS file \gset

CREATE FUNCTION record_entries(first int, last int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO ledger.entries (id, entry_type, data_hash, metadata)
    SELECT lpad(n::text, 32, '0')::uuid, 'note', ledger.hash_data(to_jsonb(n)),
           jsonb_build_object('n', n, 'text', E'"é\\', 'large', 123456789012345678901234.5, 'small', 1e-7)
    FROM generate_series(first, last) AS n
$$;
-- The lines of a file, numbered, and the other way round.
CREATE FUNCTION lines_of(path text) RETURNS TABLE (line text, number bigint) LANGUAGE sql AS $$
    SELECT * FROM regexp_split_to_table(rtrim(pg_read_file(path), E'\n'), E'\n') WITH ORDINALITY
$$;
CREATE FUNCTION write_lines(path text, query text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format($copy$COPY (%s) TO %L WITH (FORMAT csv, DELIMITER E'\x01', QUOTE E'\x02')$copy$, query, path);
END
$$;

SELECT record_entries(1, 7);
SELECT block_number, data_count FROM ledger.commit_block();
SELECT record_entries(8, 20);
SELECT block_number, data_count FROM ledger.commit_block();
SELECT record_entries(21, 23);
SELECT file_has_all_blocks();

-- Out: the header, each block's entries before it, and what is pending.
COPY ledger.entries TO :'file' WITH (FORMAT jsonl);
SELECT string_agg(record ->> 'record_type', ' ' ORDER BY number)
FROM (SELECT line::jsonb AS record, number FROM lines_of(:'file')) AS exported;
SELECT count(*) AS lines, count(m.line) AS in_the_mirror FROM lines_of(:'file') AS o LEFT JOIN file_lines() AS m USING (line);
CREATE TABLE saved AS SELECT * FROM lines_of(:'file');
COPY ledger.entries TO PROGRAM 'cat >/dev/null' WITH (FORMAT jsonl);
COPY ledger.entries TO STDOUT WITH (FORMAT jsonl) \g target/pg_notary_regress.jsonl
\copy ledger.entries TO 'target/pg_notary_regress_2.jsonl' WITH (FORMAT 'jsonl')
\! cmp target/pg_notary_regress.jsonl target/pg_notary_regress_2.jsonl && rm target/pg_notary_regress_2.jsonl
SET search_path = ledger;
COPY entries TO STDOUT (FORMAT jsonl) \g /dev/null
RESET search_path;
BEGIN READ ONLY;
COPY ledger.entries TO STDOUT (FORMAT jsonl) \g /dev/null
COMMIT;

-- In: only into an empty ledger.
COPY ledger.entries FROM :'file' WITH (FORMAT jsonl);
\i pg_regress/fresh_ledger.sql
\set QUIET off
COPY ledger.entries FROM :'file' WITH (FORMAT jsonl);
SELECT * FROM ledger_state();
SELECT * FROM ledger.import;
SELECT count(*) AS differing FROM (SELECT line FROM saved EXCEPT SELECT line FROM ledger.lines) AS d;
-- The chain goes on, in the file that is still there.
SELECT record_entries(24, 30);
SELECT block_number, data_count, tree_size FROM ledger.commit_block();
SELECT file_has_all_blocks();
SELECT * FROM ledger_state();
SELECT record ->> 'record_type' AS record_type, count(*) FROM file_lines() GROUP BY 1 ORDER BY 1;
SELECT count(*) AS of_blocks_before FROM ledger.blocks WHERE previous_hash IN (SELECT block_hash FROM ledger.blocks);
COPY ledger.entries (id, entry_type, data_hash) FROM stdin;
00000000-0000-0000-0000-000000000005	again	ef2d127de37b942baad06145e54b0c619a1f22327b2ebbcfbec78f5564afe39d
\.

-- From the client, and from a program.
\i pg_regress/fresh_ledger.sql
\set QUIET off
\copy ledger.entries FROM 'target/pg_notary_regress.jsonl' WITH (FORMAT jsonl)
SELECT blocks, sealed, pending FROM ledger_state();
\i pg_regress/fresh_ledger.sql
\set QUIET off
\set program 'head -n 10 "' :file '"'
COPY ledger.entries FROM PROGRAM :'program' WITH (FORMAT jsonl);
-- The mirror file is ahead of what was imported, and is left alone.
SELECT wait_until('(SELECT state = ''failed'' FROM ledger.mirror_status)');
\set VERBOSITY terse
SELECT record_entries(24, 24);
\set VERBOSITY default

-- What is refused: everything but the whole ledger in its one form.
\i pg_regress/fresh_ledger.sql
\set QUIET off
COPY ledger.entries (id, entry_type) TO STDOUT WITH (FORMAT jsonl);
COPY ledger.entries (id) FROM '/dev/null' WITH (FORMAT jsonl);
COPY ledger.entries FROM '/dev/null' WITH (FORMAT jsonl) WHERE entry_type = 'note';
COPY ledger.entries TO STDOUT WITH (FORMAT jsonl, HEADER);
COPY ledger.entries FROM '/dev/null' WITH (ENCODING 'latin1', FORMAT jsonl);
COPY ledger.entries TO STDOUT WITH (FORMAT jsonl, FORMAT csv);
COPY ledger.entries_pending TO STDOUT WITH (FORMAT jsonl);
COPY ledger.blocks TO STDOUT WITH (FORMAT jsonl);
COPY (SELECT * FROM ledger.entries) TO STDOUT WITH (FORMAT jsonl);
COPY ledger.entries TO STDOUT WITH (FORMAT 'JSONL');
COPY saved FROM '/dev/null' WITH (FORMAT jsonl);
COPY (SELECT 'passed on') TO STDOUT WITH (FORMAT csv);
BEGIN READ ONLY;
COPY ledger.entries FROM :'file' WITH (FORMAT jsonl);
ROLLBACK;

-- Nothing is recorded or sealed beside an import, and no import beside a record.
BEGIN;
SELECT record_entries(1, 1);
SAVEPOINT recorded;
COPY ledger.entries FROM :'file' WITH (FORMAT jsonl);
ROLLBACK;
BEGIN;
COPY ledger.entries FROM :'file' WITH (FORMAT jsonl);
SAVEPOINT imported;
SELECT record_entries(24, 24);
ROLLBACK TO imported;
SELECT * FROM ledger.commit_block();
ROLLBACK TO imported;
COPY ledger.entries FROM :'file' WITH (FORMAT jsonl);
ROLLBACK TO imported;
PREPARE TRANSACTION 'import';
BEGIN;
SAVEPOINT before;
COPY ledger.entries FROM :'file' WITH (FORMAT jsonl);
ROLLBACK TO before;
SELECT record_entries(1, 1);
SELECT blocks, sealed, pending FROM ledger_state();
ROLLBACK;
BEGIN;
DROP EXTENSION pg_notary;
CREATE EXTENSION pg_notary;
COPY ledger.entries FROM :'file' WITH (FORMAT jsonl);
ROLLBACK;
SELECT * FROM ledger_state();

-- A file that is not as it was written: the first bad line is named, and nothing is imported.
CREATE FUNCTION attempt(query text, OUT detail text, OUT hint text) LANGUAGE plpgsql AS $$
DECLARE
    path text := current_setting('data_directory') || '/pg_notary_regress.jsonl';
BEGIN
    PERFORM write_lines(path, query);
    EXECUTE format('COPY ledger.entries FROM %L WITH (FORMAT jsonl)', path);
    detail := 'imported';
EXCEPTION WHEN data_corrupted THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    detail := regexp_replace(detail, '[0-9a-f]{64}', 'HASH', 'g');
END
$$;
CREATE FUNCTION changed(at int, becomes text) RETURNS text LANGUAGE sql AS $$
    SELECT format('SELECT CASE number WHEN %s THEN %s ELSE line END FROM saved ORDER BY number', at, becomes)
$$;
\pset format unaligned
\pset tuples_only
SELECT * FROM attempt('SELECT line FROM saved WHERE false');
SELECT * FROM attempt('SELECT line FROM saved WHERE number > 1 ORDER BY number');
SELECT * FROM attempt(changed(1, $$replace(line, '"format": 1', '"format": 2')$$));
SELECT * FROM attempt(changed(5, $$'{"no": "line"}'$$));
SELECT * FROM attempt(changed(5, $$''$$));
SELECT * FROM attempt(changed(5, $$replace(line, ': ', ':')$$));
SELECT * FROM attempt(changed(6, $$(SELECT line FROM saved WHERE number = 1)$$));
SELECT * FROM attempt(changed(26, $$left(line, 100)$$));
SELECT * FROM attempt(changed(26, $$(SELECT line FROM saved WHERE number = 25)$$));
SELECT * FROM attempt(changed(26, $$(SELECT line FROM saved WHERE number = 3)$$));
SELECT * FROM attempt('SELECT line FROM saved WHERE number <> 4 ORDER BY number');
SELECT * FROM attempt('SELECT line FROM saved WHERE number <> 9 ORDER BY number');
SELECT * FROM attempt('SELECT line FROM saved ORDER BY number <> 1, number NOT BETWEEN 10 AND 23, number');
SELECT * FROM attempt(changed(4, $$replace(line, '"note"', '"Note"')$$));
SELECT * FROM attempt(changed(4, $$overlay(line PLACING ledger.hash_data('"other"') FROM 16)$$));
SELECT * FROM attempt(changed(9, $$replace(line, '"data_count": 7', '"data_count": 8')$$));
SELECT * FROM attempt(changed(23, $$overlay(line PLACING ledger.hash_data('"other"') FROM 17)$$));
SELECT * FROM attempt(changed(26, $$replace(line, '"note"', '"Note\u0000"')$$));
SELECT * FROM attempt(changed(26, $$replace(line, '"n": 23', '"n": "\u0000"')$$));
SELECT * FROM attempt(changed(26, $$regexp_replace(line, '"metadata": \{.*?\}', '"metadata": {"n": "\\u0000"}')$$));
SELECT * FROM attempt(changed(26, $$regexp_replace(line, '"metadata": \{.*?\}', '"metadata": {"\\u0000": 1}')$$));
SELECT * FROM attempt(changed(26, $$replace(line, '"n": 23', '"n": 1' || repeat('0', 131072))$$));
SELECT * FROM attempt(changed(26, $$replace(line, '"default"', '"' || repeat('k', 65) || '"')$$));
SELECT * FROM ledger_state();
-- Void lines are read, and leave nothing behind. A key that the server does not have is no error.
SELECT * FROM attempt($$SELECT line FROM (
    SELECT number, CASE number WHEN 26 THEN replace(line, '"default"', '"elsewhere"') ELSE line END AS line FROM saved
    UNION ALL
    SELECT 27, '{"entry_ids": ["00000000-0000-0000-0000-000000000022"], "reason": "rolled back", "record_type": "void", "timestamp": "2026-01-01T00:00:00.000000Z"}'
) AS l ORDER BY number$$);
SELECT blocks, sealed, pending FROM ledger_state();
SELECT id, key_id FROM ledger.entries_pending ORDER BY id;
\pset format aligned
\pset tuples_only off

-- Who may.
\i pg_regress/fresh_ledger.sql
\set QUIET off
CREATE ROLE regress_writer;
CREATE ROLE regress_auditor;
CREATE ROLE regress_admin;
GRANT ledger_writer TO regress_writer;
GRANT ledger_auditor TO regress_auditor;
GRANT ledger_admin TO regress_admin;
GRANT EXECUTE ON FUNCTION sqlstate_of(text) TO PUBLIC;
\set to_file 'COPY ledger.entries TO ''' :file ''' WITH (FORMAT jsonl)'
\set from_file 'COPY ledger.entries FROM ''' :file ''' WITH (FORMAT jsonl)'
SET ROLE regress_writer;
COPY ledger.entries TO STDOUT WITH (FORMAT jsonl);
COPY ledger.entries FROM '/dev/null' WITH (FORMAT jsonl);
SELECT * FROM ledger.lines;
INSERT INTO ledger.import VALUES ('{}');
SET ROLE regress_auditor;
COPY ledger.entries TO STDOUT WITH (FORMAT jsonl) \g /dev/null
COPY ledger.entries FROM '/dev/null' WITH (FORMAT jsonl);
SELECT sqlstate_of(:'to_file'), sqlstate_of($$COPY ledger.entries TO PROGRAM 'true' WITH (FORMAT jsonl)$$);
RESET ROLE;
CREATE ROLE regress_backup;
GRANT pg_read_all_data, pg_write_all_data TO regress_backup;
SET ROLE regress_backup;
COPY ledger.entries TO STDOUT WITH (FORMAT jsonl) \g /dev/null
COPY ledger.entries FROM '/dev/null' WITH (FORMAT jsonl);
INSERT INTO ledger.import VALUES ('{}');
SET ROLE regress_admin;
SELECT sqlstate_of(:'from_file'), sqlstate_of($$COPY ledger.entries FROM PROGRAM 'true' WITH (FORMAT jsonl)$$);
INSERT INTO ledger.import VALUES ('{}');
\copy ledger.entries FROM 'target/pg_notary_regress.jsonl' WITH (FORMAT jsonl)
COPY ledger.entries TO STDOUT WITH (FORMAT jsonl) \g /dev/null
RESET ROLE;
SELECT blocks, sealed, pending FROM ledger_state();
DROP ROLE regress_writer, regress_auditor, regress_admin, regress_backup;
\! rm target/pg_notary_regress.jsonl
\set remove 'cat >/dev/null; rm -f "' :file '"'
COPY (SELECT) TO PROGRAM :'remove';
DROP TABLE saved;
DROP FUNCTION record_entries, lines_of, write_lines, attempt, changed;
