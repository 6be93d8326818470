-- The secrets: from a file here, with more than one key. They never show.
\i pg_regress/fresh_ledger.sql
SELECT current_setting('data_directory') || '/pg_notary_regress_secrets' AS file \gset
-- What an error says, without the path.
CREATE FUNCTION error_of(command text, OUT code text, OUT message text, OUT detail text, OUT hint text) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    message := replace(message, current_setting('data_directory'), '...');
END
$$;
\x on
SELECT ledger.add_entry('environment', '1') IS NOT NULL AS added;
ALTER SYSTEM SET ledger.hmac_secret_file = :'file';
-- No file, one that others can read, one that is none, nonsense: refused, and the cause is named.
\i pg_regress/reload.sql
SELECT * FROM error_of('SELECT ledger.add_entry(''note'', ''1'')');
COPY (SELECT 'one:sesame-one') TO :'file';
SELECT * FROM error_of('SELECT ledger.add_entry(''note'', ''1'')');
\set command 'cat >/dev/null; rm "' :file '"; mkdir -m 700 "' :file '"'
COPY (SELECT) TO PROGRAM :'command';
SELECT * FROM error_of('SELECT ledger.add_entry(''note'', ''1'')');
\set command 'cat >/dev/null; rmdir "' :file '"'
COPY (SELECT) TO PROGRAM :'command';
\set write 'cat >"' :file '"; chmod 600 "' :file '"'
COPY (SELECT 'sesame-without-key-id') TO PROGRAM :'write';
SELECT * FROM error_of('SELECT ledger.add_entry(''note'', ''1'')');
COPY (SELECT E'\ufeffone:sesame-one') TO PROGRAM :'write' WITH (ENCODING 'UTF8');
SELECT * FROM error_of('SELECT ledger.add_entry(''note'', ''1'')');
COPY (SELECT WHERE false) TO PROGRAM :'write';
SELECT * FROM error_of('SELECT ledger.add_entry(''note'', ''1'')');
SELECT * FROM error_of('SELECT ledger.create_signature(ledger.hash_data(''1''))');
SELECT * FROM error_of('SELECT ledger.verify_signature(ledger.hash_data(''1''), '''')');
SELECT * FROM error_of('INSERT INTO ledger.entries (entry_type, data_hash) VALUES (''note'', ledger.hash_data(''1''))');

-- The first line signs.
COPY (SELECT 'one:sesame-one') TO PROGRAM :'write';
\i pg_regress/reload.sql
SELECT ledger.create_signature(ledger.hash_data('1')) = ledger.create_signature(ledger.hash_data('1'), 'sesame-one') AS signed_by_one;
-- Lines may end with CR LF: the secret is the same.
\set crlf '{ while read -r line; do printf "%s\\r\\n" "$line"; done; } >"' :file '"'
COPY (SELECT 'one:sesame-one') TO PROGRAM :'crlf';
\i pg_regress/reload.sql
SELECT ledger.create_signature(ledger.hash_data('1')) = ledger.create_signature(ledger.hash_data('1'), 'sesame-one') AS signed_by_one;
SELECT ledger.append_entry('note', '00000000-0000-0000-0000-000000000001', ledger.hash_data('1')) IS NOT NULL AS appended;
COPY (SELECT * FROM (VALUES ('two:sesame:two'), ('one:sesame-one')) AS lines) TO PROGRAM :'write';
-- Read again on reload, not before.
SELECT ledger.create_signature(ledger.hash_data('1')) = ledger.create_signature(ledger.hash_data('1'), 'sesame-one') AS signed_by_one;
\i pg_regress/reload.sql
SELECT ledger.create_signature(ledger.hash_data('1')) = ledger.create_signature(ledger.hash_data('1'), 'sesame:two') AS signed_by_two;
SELECT ledger.append_entry('note', '00000000-0000-0000-0000-000000000002', ledger.hash_data('2')) IS NOT NULL AS appended;
-- All verify, and a signature by an older key can be given.
SELECT ledger.verify_signature(ledger.hash_data('1'), ledger.create_signature(ledger.hash_data('1'), 'sesame-one'), 'one') AS by_one,
       ledger.verify_signature(ledger.hash_data('1'), ledger.create_signature(ledger.hash_data('1'), 'sesame:two'), 'two') AS by_two,
       ledger.verify_signature(ledger.hash_data('1'), ledger.create_signature(ledger.hash_data('1'), 'sesame:two'), 'one') AS by_the_other,
       ledger.verify_signature(ledger.hash_data('1'), ledger.create_signature(ledger.hash_data('1'), 'sesame:two')) AS by_the_first;
SELECT ledger.add_entry('given', '3', ledger.create_signature(ledger.hash_data('3'), 'sesame-one')) AS id \gset
\x off
SELECT entry_type, key_id FROM ledger.entries WHERE entry_type <> 'environment' ORDER BY entry_type, key_id;
SELECT ledger.verify_entry('00000000-0000-0000-0000-000000000001', '1') ->> 'signature_valid' AS one, ledger.verify_entry('00000000-0000-0000-0000-000000000002', '2') ->> 'signature_valid' AS two;
-- The environment's key is not in the file: what it signed cannot be verified now.
SELECT source, problem, detail FROM ledger.find_tampering() ORDER BY source, problem;
SELECT ledger.verify_entry(id, '1') ->> 'verified' AS verified FROM ledger.entries WHERE entry_type = 'environment';
-- A space too many makes another secret of it. Nearly always that is why nothing verifies.
COPY (SELECT * FROM (VALUES ('two:sesame:two '), ('one:sesame-one')) AS lines) TO PROGRAM :'write';
\i pg_regress/reload.sql
SELECT source, problem, count(*) FROM ledger.find_tampering() GROUP BY source, problem ORDER BY source, problem;
SELECT v #>> '{postgres_chain,warnings,0}' AS warning, jsonb_array_length(v #> '{file_chain,warnings}') AS of_file FROM ledger.verify_chain() AS v;
SELECT ledger.verify_entry('00000000-0000-0000-0000-000000000002', '2') ->> 'signature_valid' AS two;

-- Nowhere to be seen.
SELECT count(*) AS in_settings FROM pg_settings WHERE setting || COALESCE(boot_val, '') || COALESCE(reset_val, '') ~ 'sesame.';
SELECT count(*) AS in_file FROM file_lines() WHERE line ~ 'sesame.';
SELECT count(*) AS in_tables FROM ledger.entries AS e WHERE e::text ~ 'sesame.';
COPY (SELECT) TO PROGRAM 'cat >/dev/null; test -z "$INTEGRITY_HMAC_SECRET"';
CREATE ROLE regress_curious;
SET ROLE regress_curious;
SELECT sqlstate_of('SHOW ledger.hmac_secret_file'), sqlstate_of('SHOW ledger.mirror_directory');
RESET ROLE;
DROP ROLE regress_curious;

ALTER SYSTEM RESET ledger.hmac_secret_file;
\set command 'cat >/dev/null; rm "' :file '"'
COPY (SELECT) TO PROGRAM :'command';
\i pg_regress/reload.sql
DROP FUNCTION error_of(text);
