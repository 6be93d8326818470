-- What which role may do.
\i pg_regress/fresh_ledger.sql
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_writer, regress_auditor, regress_admin, regress_nobody, regress_monitor;
RESET client_min_messages;
CREATE ROLE regress_nobody;
CREATE ROLE regress_writer IN ROLE ledger_writer;
CREATE ROLE regress_auditor IN ROLE ledger_auditor;
CREATE ROLE regress_admin IN ROLE ledger_admin;
CREATE ROLE regress_monitor IN ROLE pg_monitor;
SELECT ledger.append_entry('sealed', '00000000-0000-0000-0000-000000000001', ledger.hash_data('1')) IS NOT NULL AS appended;
SELECT block_number, data_count FROM ledger.commit_block();
SELECT ledger.append_entry('pending', '00000000-0000-0000-0000-000000000002', ledger.hash_data('2')) IS NOT NULL AS appended;
SELECT file_has_all_blocks();

-- Each command as each role, undone again: its SQLSTATE, or ok.
CREATE FUNCTION attempt(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RAISE EXCEPTION USING errcode = 'ZZ999';
EXCEPTION
    WHEN SQLSTATE 'ZZ999' THEN RETURN 'ok';
    WHEN OTHERS THEN RETURN sqlstate;
END
$$;
CREATE TABLE commands (number serial, command text);
GRANT SELECT ON commands TO PUBLIC;
INSERT INTO commands (command) VALUES
    ('SELECT ledger.hash_data(''1'')'), ('SELECT ledger.merkle_root(ARRAY[ledger.hash_data(''1'')])'),
    ('SELECT ledger.create_signature(ledger.hash_data(''1''), ''k'')'), ('SELECT ledger.create_signature(ledger.hash_data(''1''))'),
    ('SELECT ledger.verify_signature(ledger.hash_data(''1''), '''')'),
    ('SELECT ledger.hash_and_record(''note'', ''1'')'), ('SELECT ledger.add_entry(''note'', ''1'')'),
    ('SELECT ledger.append_entry(''note'', gen_random_uuid(), ledger.hash_data(''1''))'),
    ('INSERT INTO ledger.entries (entry_type, data_hash) VALUES (''note'', ledger.hash_data(''1''))'),
    ('INSERT INTO ledger.entries (entry_type, data_hash) VALUES (''note'', ledger.hash_data(''1'')) RETURNING id, data_hash, signature'),
    ('INSERT INTO ledger.entries_pending (entry_type, data_hash) VALUES (''note'', ledger.hash_data(''1''))'),
    ('INSERT INTO ledger.entries_sealed_1 (entry_type, data_hash, block_number, leaf_index) VALUES (''note'', ledger.hash_data(''1''), 1, 1)'),
    ('INSERT INTO ledger.blocks SELECT * FROM ledger.blocks'),
    ('SELECT * FROM ledger.commit_block()'),
    ('SELECT id, data_hash FROM ledger.entries'), ('SELECT metadata FROM ledger.entries'), ('SELECT * FROM ledger.entries'),
    ('SELECT id FROM ledger.entries_pending'), ('SELECT id FROM ledger.entries_sealed'), ('SELECT id FROM ledger.entries_sealed_1'),
    ('SELECT * FROM ledger.blocks'), ('SELECT * FROM ledger.log_nodes'), ('SELECT * FROM ledger.log_state'),
    ('UPDATE ledger.entries SET entry_type = ''x'''), ('DELETE FROM ledger.entries'), ('TRUNCATE ledger.entries'),
    ('UPDATE ledger.blocks SET data_count = 1'), ('DELETE FROM ledger.blocks'), ('TRUNCATE ledger.blocks CASCADE'),
    ('UPDATE ledger.log_state SET mirror_bytes = 0'), ('DELETE FROM ledger.log_nodes'),
    ('ALTER TABLE ledger.entries DISABLE TRIGGER ALL'), ('DROP TABLE ledger.blocks CASCADE'), ('CREATE TABLE ledger.mine ()'),
    ('SELECT ledger.verify_entry(''00000000-0000-0000-0000-000000000001'', ''1'')'), ('SELECT ledger.verify_chain()'),
    ('SELECT ledger.verify_file_integrity()'), ('SELECT ledger.verify_file_integrity(''/etc/hostname'')'), ('SELECT * FROM ledger.find_tampering()'),
    ('SELECT * FROM ledger.chain_stats'), ('SELECT * FROM ledger.mirror_status'), ('SELECT * FROM ledger.workers'), ('SELECT * FROM ledger.progress');
CREATE TABLE outcomes (role text, number int, outcome text);
GRANT INSERT ON outcomes TO PUBLIC;
SET ROLE regress_nobody;
INSERT INTO outcomes SELECT 'nobody', number, attempt(command) FROM commands;
SET ROLE regress_writer;
INSERT INTO outcomes SELECT 'writer', number, attempt(command) FROM commands;
SET ROLE regress_auditor;
INSERT INTO outcomes SELECT 'auditor', number, attempt(command) FROM commands;
SET ROLE regress_admin;
INSERT INTO outcomes SELECT 'admin', number, attempt(command) FROM commands;
SET ROLE regress_monitor;
INSERT INTO outcomes SELECT 'monitor', number, attempt(command) FROM commands;
RESET ROLE;
SELECT string_agg(outcome, '' ORDER BY role) FILTER (WHERE role = 'nobody') AS nobody, string_agg(outcome, '' ORDER BY role) FILTER (WHERE role = 'writer') AS writer,
       string_agg(outcome, '' ORDER BY role) FILTER (WHERE role = 'auditor') AS auditor, string_agg(outcome, '' ORDER BY role) FILTER (WHERE role = 'admin') AS admin,
       string_agg(outcome, '' ORDER BY role) FILTER (WHERE role = 'monitor') AS monitor, command
FROM commands JOIN outcomes USING (number) GROUP BY number, command ORDER BY number;

-- What a writer writes is really there.
SET ROLE regress_writer;
SELECT ledger.hash_and_record('by writer', '3') ->> 'postgres_recorded' AS recorded;
INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('by writer', ledger.hash_data('4')) RETURNING entry_type;
SELECT block_number, data_count FROM ledger.commit_block();
COPY ledger.entries (entry_type, data_hash) FROM stdin;
by writer	4b227777d4dd1fc61c6f884f48641d02b4d121d3fd328cb08b5531fcacdabf8a
\.
SELECT entry_type, count(*) FROM ledger.entries GROUP BY entry_type ORDER BY entry_type;
SELECT metadata FROM ledger.entries;
SELECT ledger.verify_chain();
RESET ROLE;
SELECT file_has_all_blocks();
SET ROLE regress_auditor;
SELECT ledger.verify_chain() -> 'overall_valid' AS overall_valid;
SELECT ledger.verify_file_integrity() -> 'valid' AS valid;
SELECT count(*) FROM ledger.entries;
SELECT ledger.add_entry('by auditor', '1');
-- A file of the server's other than the ledger's own takes more.
SELECT ledger.verify_file_integrity('/etc/hostname');
\echo :SQLSTATE
SELECT ledger.verify_file_integrity((SELECT path FROM ledger.mirror_status)) -> 'valid' AS own_path;
RESET ROLE;
GRANT pg_read_server_files TO regress_auditor;
SET ROLE regress_auditor;
SELECT ledger.verify_file_integrity('/nonexistent');
\echo :SQLSTATE
RESET ROLE;
-- Objects of the caller's do not get into functions that run as their owner.
GRANT CREATE ON SCHEMA public TO regress_auditor;
SET ROLE regress_auditor;
CREATE FUNCTION public.sum(bigint, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 0::bigint';
CREATE OPERATOR public.= (FUNCTION = pg_catalog.int8ne, LEFTARG = bigint, RIGHTARG = bigint);
SET search_path = public, pg_catalog;
SELECT ledger.verify_chain() ->> pg_catalog.text('overall_valid') AS overall_valid;
RESET search_path;
DROP OPERATOR public.= (bigint, bigint);
DROP FUNCTION public.sum(bigint, bigint);
RESET ROLE;
REVOKE CREATE ON SCHEMA public FROM regress_auditor;
SELECT * FROM ledger_state();
DROP TABLE commands, outcomes;
DROP FUNCTION attempt(text);
DROP ROLE regress_writer, regress_auditor, regress_admin, regress_nobody, regress_monitor;
