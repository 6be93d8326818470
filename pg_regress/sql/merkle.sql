-- Merkle roots and proofs over data hashes.
\i pg_regress/fresh_ledger.sql

SELECT ledger.merkle_root('{}'), ledger.merkle_root('{}') = encode(sha256('empty'), 'hex') AS of_nothing;
SELECT ledger.merkle_root('{8f5bf818feb884eed8d7769f8e868044ad904f2fc936d54215b09f216ccfe644}');
SELECT ledger.merkle_root(ARRAY['8f5bf818feb884eed8d7769f8e868044ad904f2fc936d54215b09f216ccfe644',
                                'fbd273575f571ac4eea3f9259512808a93e6dd21577d23b771ef10254c5ea759',
                                'e127b9bed447d67c502646e24c6dfc31e68e5e39794d4f19039037b4588d2964']);
\set vectors `cat tests/vectors/merkle.json`
CREATE TABLE lists AS
SELECT number::int, ARRAY(SELECT jsonb_array_elements_text(v -> 'hashes')) AS hashes, v ->> 'root' AS root
FROM jsonb_array_elements(:'vectors') WITH ORDINALITY AS a (v, number);
SELECT count(*), bool_and(ledger.merkle_root(hashes) = root) AS roots FROM lists;

-- The aggregate: in the order that is asked for.
SELECT bool_and((SELECT ledger.merkle_root(h ORDER BY n) FROM unnest(hashes) WITH ORDINALITY AS u (h, n)) = root) AS aggregated,
       bool_and((SELECT ledger.merkle_root(h ORDER BY n DESC) FROM unnest(hashes) WITH ORDINALITY AS u (h, n)) = root) AS backwards
FROM lists WHERE cardinality(hashes) > 1;
SELECT ledger.merkle_root(h ORDER BY h) AS of_nothing FROM (SELECT '' AS h WHERE false) AS none;

-- A proof for every hash of every list; it leads to that root and no other.
SELECT count(*), bool_and(ledger.verify_merkle_proof(hashes[i + 1], ledger.merkle_proof(hashes, i), root)) AS proved,
       bool_or(ledger.verify_merkle_proof(hashes[i + 1], ledger.merkle_proof(hashes, i), encode(sha256('x'), 'hex'))) AS other_root,
       bool_or(ledger.verify_merkle_proof(encode(sha256('x'), 'hex'), ledger.merkle_proof(hashes, i), root)) AS other_hash
FROM lists, generate_series(0, cardinality(hashes) - 1) AS i;
SELECT jsonb_pretty(ledger.merkle_proof(hashes, 2)) FROM lists WHERE cardinality(hashes) = 3;
-- The only hash is the root.
SELECT ledger.merkle_proof(hashes, 0) FROM lists WHERE cardinality(hashes) = 1;

SELECT ledger.merkle_root(NULL::text[]), ledger.merkle_proof(NULL, 0), ledger.verify_merkle_proof(NULL, '[]', '');
SELECT ledger.merkle_root(ARRAY[NULL]::text[]);
\echo :SQLSTATE
SELECT ledger.merkle_root('{abc}');
\echo :SQLSTATE
SELECT ledger.merkle_root(h) FROM (VALUES (ledger.hash_data('1')), (NULL)) AS v (h);
\echo :SQLSTATE
SELECT ledger.merkle_proof(hashes, 3) FROM lists WHERE cardinality(hashes) = 3;
\echo :SQLSTATE
SELECT ledger.merkle_proof(hashes, -1) FROM lists WHERE cardinality(hashes) = 3;
\echo :SQLSTATE
SELECT ledger.merkle_proof('{}', 0);
\echo :SQLSTATE
SELECT ledger.verify_merkle_proof(ledger.hash_data('1'), '{"hash": "x"}', ledger.hash_data('1'));
\echo :SQLSTATE
SELECT ledger.verify_merkle_proof(ledger.hash_data('1'), '[{"hash": "x", "position": "up"}]', ledger.hash_data('1'));
\echo :SQLSTATE
-- What is no hash proves nothing, as nothing is proved of it.
SELECT ledger.verify_merkle_proof('zz', '[]', 'zz');
\echo :SQLSTATE
SELECT ledger.verify_merkle_proof(ledger.hash_data('1'), '[]', upper(ledger.hash_data('1')));
\echo :SQLSTATE
SELECT ledger.verify_merkle_proof(ledger.hash_data('1'), '[{"hash": "x", "position": "left"}]', ledger.hash_data('1'));
\echo :SQLSTATE
DROP TABLE lists;
