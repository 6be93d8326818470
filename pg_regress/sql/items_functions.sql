-- Items without the registry: hashes, signature lines, and what verification says of a text.
\i pg_regress/fresh_ledger.sql

-- The payload covers type, id, version, metadata, text and place.
SELECT ledger.compute_unified_integrity('tool', 'my_tool', '1.0.0', E'#!/usr/bin/env python3\nprint(\'hi\')\n') = '72bfd60c2115389fac1afb8cf0bfcbc32e38ee50a911d6286a44094ccc53f80a' AS as_in_the_vectors;
SELECT ledger.compute_unified_integrity('tool', 'my_tool', '1.0.0', E'#!/usr/bin/env python3\nprint(\'hi\')\n', metadata => '{}') = '72bfd60c2115389fac1afb8cf0bfcbc32e38ee50a911d6286a44094ccc53f80a' AS as_in_the_vectors;
SELECT count(DISTINCT ledger.compute_unified_integrity('tool', id, version, content, path, metadata)) AS hashes
FROM (VALUES ('a', '1.0.0', E'x\n', 'a.py', '{}'::jsonb), ('b', '1.0.0', E'x\n', 'a.py', '{}'), ('a', '1.0.1', E'x\n', 'a.py', '{}'),
             ('a', '1.0.0', E'y\n', 'a.py', '{}'), ('a', '1.0.0', E'x\n', 'b.py', '{}'), ('a', '1.0.0', E'x\n', 'd/a.py', '{}'),
             ('a', '1.0.0', E'x\n', 'a.py', '{"k": 1}'), ('a', '1.0.0', E'x\n', '/srv/.ai/tools/a.py', '{}')) AS v (id, version, content, path, metadata);

-- Signing puts the hash into the text: after a #! line, in the comments of the language, in place of what is there.
\set at '\'2026-01-02 03:04:05.678+00\''
SELECT ledger.sign_content('tool', 't', '1.0.0', E'#!/bin/sh\necho\n', signed_at => :at);
SELECT ledger.sign_content('tool', 't', '1.0.0', E'go()\n', 'x/t.js', signed_at => :at);
SELECT ledger.sign_content('tool', 't', '1.0.0', E'SELECT 1;\n', language => 'sql', signed_at => :at);
SELECT ledger.sign_content('tool', 't', '1.0.0', E'#!/usr/bin/env -S node\ngo()\n', 'bin/t', signed_at => :at) AS signed \gset
SELECT :'signed' AS by_interpreter, hash IS NOT NULL AS found, ledger.remove_signature('tool', :'signed', 'bin/t') AS removed FROM ledger.get_signature('tool', :'signed', 'bin/t');
SELECT ledger.sign_content('directive', 'd', '1.0.0', E'# Doc\n<directive name="d" version="1.0.0"></directive>\n', signed_at => :at);
SELECT ledger.sign_content('knowledge', 'k', '1.0.0', E'---\ntags: [a]\n---\ntext\n', signed_at => :at);
SELECT ledger.sign_content('tool', 't', '1.0.0', s, signed_at => :at) = s AS idempotent, ledger.remove_signature('tool', s) = E'echo\n' AS removed
FROM ledger.sign_content('tool', 't', '1.0.0', E'echo\n', signed_at => :at) AS s;
SELECT g.signed_at AT TIME ZONE 'UTC' AS signed_at, g.hash = ledger.compute_unified_integrity('tool', 't', '1.0.0', E'echo\n') AS hash
FROM ledger.get_signature('tool', ledger.sign_content('tool', 't', '1.0.0', E'echo\n', signed_at => :at)) AS g;
SELECT count(*) FROM ledger.get_signature('tool', E'echo\n');

-- Verification tells a good item from one that was changed, moved, or never signed.
CREATE FUNCTION brief(report jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_strip_nulls(report - '{duration_ms,signed_at,computed,stored}'::text[]) $$;
SELECT ledger.sign_content('tool', 't', '1.0.0', E'echo\n', 'core/t.sh', signed_at => :at) AS signed \gset
SELECT jsonb_object_agg(key, jsonb_typeof(value)) FROM jsonb_each(ledger.verify_single_file('tool', 't', '1.0.0', :'signed', 'core/t.sh'));
SELECT brief(ledger.verify_single_file('tool', 't', '1.0.0', :'signed', 'core/t.sh'));
SELECT brief(ledger.verify_single_file('tool', 't', '1.0.0', :'signed' || 'rm', 'core/t.sh'));
SELECT brief(ledger.verify_single_file('tool', 't', '1.0.1', :'signed', 'core/t.sh'));
SELECT brief(ledger.verify_single_file('tool', 't', '1.0.0', E'echo\n', 'core/t.sh'));
SELECT brief(ledger.verify_single_file('tool', 't', '1.0.0', ledger.sign_content('tool', 't', '1.0.0', E'echo\n', signed_at => :at), 'core/t.sh'));
SELECT brief(ledger.verify_single_file('tool', 't', '1.0.0', regexp_replace(:'signed', E'\n', E'\n# kiwi-mcp:validated:coding:raw_unicode_escape\n'), 'core/t.sh'));
SELECT brief(ledger.verify_single_file('directive', 'd', '1.0.0', '<directive></directive>'));
SELECT brief(ledger.verify_single_file('knowledge', 'k', '1.0.0', 'text'));
SELECT brief(ledger.verify_single_file('tool', 't', '1.0.0', :'signed', 'core/t.sh', stored_hash => repeat('0', 64)));
SELECT brief(ledger.verify_items('[{"item_type": "tool", "item_id": "t", "version": "1.0.0", "file_content": "x", "stored_hash": null}]'));
-- What is no item is a result too, so that one does not end a batch.
SELECT brief(ledger.verify_single_file('tool', 't', '1.0', :'signed', 'core/t.sh'));
SELECT brief(ledger.verify_single_file('tool', 't', '1.0.0', :'signed', '../t.sh'));
SELECT brief(ledger.verify_single_file('tool', 't', '1.0.0', '{}', 't.json'));
SELECT brief(ledger.verify_items(jsonb_build_array(
    jsonb_build_object('item_type', 'tool', 'item_id', 't', 'version', '1.0.0', 'file_content', :'signed', 'file_path', 'core/t.sh'),
    jsonb_build_object('item_type', 'script', 'item_id', 't', 'version', '1.0.0', 'file_content', 'x'),
    jsonb_build_object('item_type', 'tool', 'item_id', 't', 'version', '1.0.0', 'file_content', ''))));
-- A chain stops at the first that fails.
SELECT brief(ledger.verify_item_chain(jsonb_build_array(
    jsonb_build_object('item_type', 'tool', 'item_id', 't', 'version', '1.0.0', 'file_content', :'signed', 'file_path', 'core/t.sh'),
    jsonb_build_object('item_type', 'tool', 'item_id', 'u', 'version', '1.0.0', 'file_content', 'x'),
    jsonb_build_object('item_type', 'tool', 'item_id', 'v', 'version', '1.0.0', 'file_content', 'x'))));
SELECT brief(ledger.verify_item_chain('[]')), brief(ledger.verify_items('[]'));

-- What cannot be hashed is refused with what is wrong with it, and where.
SELECT ledger.compute_unified_integrity('script', 'x', '1.0.0', '');
SELECT ledger.compute_unified_integrity('tool', '', '1.0.0', '');
SELECT ledger.compute_unified_integrity('tool', 'x', '0.0.0', '');
SELECT ledger.compute_unified_integrity('tool', 'x', 'latest', '');
SELECT ledger.compute_unified_integrity('tool', 'x', '1.0.0', NULL);
SELECT ledger.compute_unified_integrity('tool', 'x', '1.0.0', '', '../../etc/passwd');
SELECT ledger.compute_unified_integrity('tool', 'x', '1.0.0', '', '/etc/passwd');
SELECT ledger.compute_unified_integrity('tool', 'x', '1.0.0', '', metadata => '[1]');
SELECT ledger.compute_unified_integrity('tool', 'x', '1.0.0', '', 'x.json');
SELECT ledger.compute_unified_integrity('tool', 'x', '1.0.0', '', language => 'klingon');
SELECT ledger.compute_unified_integrity('directive', 'x', '1.0.0', 'no XML');
SELECT ledger.compute_unified_integrity('directive', 'x', '1.0.0', E'<directive></directive>\n<directive></directive>');
SELECT ledger.compute_unified_integrity('directive', 'x', '1.0.0', E'<directive></directive>\n<directive>more</directive >');
SELECT ledger.compute_unified_integrity('knowledge', 'x', '1.0.0', E'---\ntags: [\n---\n');
SELECT ledger.compute_unified_integrity('tool', 'x', '1.0.0', '', metadata => jsonb_build_object('a', repeat('x', 17000000)));
SELECT ledger.compute_unified_integrity('tool', 'x', '1.0.0', '', metadata => jsonb_build_object('a', repeat('x', 1000000))) IS NOT NULL AS huge_metadata;
SELECT ledger.sign_content('tool', 'x', '1.0.0', '', signed_at => 'infinity');
SELECT ledger.verify_items('{}');
SELECT ledger.verify_items('[{"item_type": "tool", "item_id": "x"}]');
SELECT ledger.verify_items('[{"item_type": "tool", "item_id": "x", "version": "1.0.0", "content": "x"}]');
SELECT ledger.verify_item_chain(NULL);

-- What only computes is everyone's.
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_nobody;
CREATE ROLE regress_nobody;
RESET client_min_messages;
SET ROLE regress_nobody;
SELECT ledger.compute_unified_integrity('tool', 'x', '1.0.0', '') IS NOT NULL AS computes;
SELECT ledger.verify_single_file('tool', 'x', '1.0.0', '');
RESET ROLE;
DROP ROLE regress_nobody;
DROP FUNCTION brief;
