-- A fresh ledger, whatever ran before, and what several tests use. Read by \i from the root of the source tree.
\set ECHO none
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS pg_notary CASCADE;
CREATE EXTENSION pg_notary;

-- Waits for what happens in another process; a minute is for a very slow machine.
CREATE OR REPLACE FUNCTION wait_until(condition text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + interval '60 s';
    met boolean;
BEGIN
    LOOP
        EXECUTE 'SELECT ' || condition INTO met;
        IF met THEN
            RETURN true;
        ELSIF clock_timestamp() > deadline THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;

-- The block lines come after the commit; this waits for the last of them.
CREATE OR REPLACE FUNCTION file_has_all_blocks() RETURNS boolean LANGUAGE sql AS $$
    SELECT wait_until('(ledger.verify_file_integrity() ->> ''block_count'')::bigint = (SELECT count(*) FROM ledger.blocks)')
$$;

-- What there is, and whether it is as it should be.
CREATE OR REPLACE FUNCTION ledger_state(OUT blocks bigint, OUT sealed bigint, OUT pending bigint, OUT valid boolean)
LANGUAGE sql AS $$
    SELECT (SELECT count(*) FROM ledger.blocks), (SELECT count(*) FROM ledger.entries_sealed),
           (SELECT count(*) FROM ledger.entries_pending), (ledger.verify_chain() ->> 'overall_valid')::boolean
$$;

-- The lines of the mirror file.
CREATE OR REPLACE FUNCTION file_lines(OUT number bigint, OUT line text, OUT record jsonb) RETURNS SETOF record
LANGUAGE sql AS $$
    SELECT number, line, line::jsonb
    FROM regexp_split_to_table(rtrim(pg_read_file((SELECT path FROM ledger.mirror_status)), E'\n'), E'\n')
        WITH ORDINALITY AS split (line, number)
$$;

-- For errors of Postgres itself, whose wording is another one from version to version.
CREATE OR REPLACE FUNCTION sqlstate_of(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    RETURN sqlstate;
END
$$;

RESET client_min_messages;
\set ECHO all
