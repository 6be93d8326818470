-- What is rolled back is not recorded: savepoints, subtransactions of PL/pgSQL, failed statements.
\i pg_regress/fresh_ledger.sql

-- Which numbers the entries in the table have, and which those in the file.
CREATE FUNCTION recorded(OUT in_table text, OUT in_file text, OUT voids bigint) LANGUAGE sql AS $$
    SELECT (SELECT string_agg(metadata ->> 'n', ' ' ORDER BY (metadata ->> 'n')::int) FROM ledger.entries),
           (SELECT string_agg(record #>> '{metadata,n}', ' ' ORDER BY (record #>> '{metadata,n}')::int) FROM file_lines() WHERE record ->> 'record_type' = 'entry'),
           (SELECT count(*) FROM file_lines() WHERE record ->> 'record_type' = 'void')
$$;
CREATE FUNCTION record(n int) RETURNS void LANGUAGE sql AS $$
    SELECT ledger.add_entry('numbered', to_jsonb(n), NULL, jsonb_build_object('n', n));
$$;
CREATE FUNCTION insert_entry(n int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO ledger.entries (entry_type, data_hash, metadata) VALUES ('numbered', ledger.hash_data(to_jsonb(n)), jsonb_build_object('n', n));
$$;

BEGIN;
SELECT record(1);
SAVEPOINT a;
SELECT record(-1), insert_entry(-2);
ROLLBACK TO a;
SELECT record(2);
SAVEPOINT b;
SELECT insert_entry(3);
RELEASE b;
SAVEPOINT c;
SELECT record(-3);
SAVEPOINT d;
SELECT record(-4);
RELEASE d;
ROLLBACK TO c;
SELECT record(4);
ROLLBACK TO c;
SELECT record(5);
RELEASE a;
SELECT record(6);
COMMIT;
SELECT * FROM recorded();

-- Only in a savepoint, and nothing but what is rolled back.
BEGIN;
SAVEPOINT a;
SELECT record(7);
COMMIT;
BEGIN;
SAVEPOINT a;
SELECT record(-5);
ROLLBACK TO a;
COMMIT;
BEGIN;
SAVEPOINT a;
SELECT record(-6);
RELEASE a;
ROLLBACK;
SELECT * FROM recorded();

-- The levels of savepoints that record nothing themselves.
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SAVEPOINT c;
SELECT record(8);
RELEASE c;
SAVEPOINT d;
SELECT record(-7);
ROLLBACK TO d;
RELEASE b;
SELECT record(9);
SAVEPOINT e;
SELECT record(-8);
ROLLBACK TO e;
COMMIT;
BEGIN;
SELECT record(10);
SAVEPOINT a;
SAVEPOINT b;
SELECT record(-9);
RELEASE b;
ROLLBACK TO a;
SAVEPOINT b;
SELECT record(11);
RELEASE b;
COMMIT;
SELECT * FROM recorded();

-- A failed statement in a savepoint.
BEGIN;
SELECT record(12);
SAVEPOINT a;
SELECT record(-10), 1 / (1 - count(*)) FROM ledger.entries WHERE false;
SELECT record(-11), 1 / 0;
ROLLBACK TO a;
INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('good', ledger.hash_data('1')), ('bad', 'bad');
ROLLBACK TO a;
SELECT record(13);
COMMIT;
SELECT * FROM recorded();

-- Exception blocks.
DO $$
BEGIN
    PERFORM record(14);
    BEGIN
        PERFORM record(-12);
        RAISE EXCEPTION 'undone';
    EXCEPTION WHEN raise_exception THEN
        PERFORM insert_entry(15);
    END;
    FOR n IN 16..30 LOOP
        BEGIN
            PERFORM record(CASE WHEN n % 3 = 0 THEN n ELSE -n END);
            IF n % 3 <> 0 THEN
                PERFORM 1 / 0;
            END IF;
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
    END LOOP;
    BEGIN
        INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('bad', 'bad');
    EXCEPTION WHEN invalid_parameter_value THEN
        PERFORM record(31);
    END;
END
$$;
SELECT * FROM recorded();
-- Transactions in a procedure.
CREATE PROCEDURE in_transactions() LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 32..37 LOOP
        IF n % 2 = 0 THEN
            PERFORM record(n);
            COMMIT;
        ELSE
            PERFORM record(-n);
            ROLLBACK;
        END IF;
    END LOOP;
END
$$;
CALL in_transactions();
SELECT * FROM recorded();
-- A deferred check that fails at COMMIT, before anything is in the file.
CREATE TABLE checked (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
BEGIN;
SELECT record(-38);
INSERT INTO checked VALUES (1), (1);
COMMIT;
-- A deferred trigger that records at COMMIT.
CREATE FUNCTION record_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM record(NEW.n);
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER record_row AFTER INSERT ON checked DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION record_row();
INSERT INTO checked VALUES (39);
SELECT * FROM recorded();
DROP TABLE checked;

SELECT data_count, tree_size FROM ledger.commit_block();
SELECT file_has_all_blocks();
SELECT * FROM ledger_state();
DROP FUNCTION recorded(), record(int), insert_entry(int), record_row();
DROP PROCEDURE in_transactions();
