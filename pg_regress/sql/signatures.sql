-- HMAC signatures, with a secret at hand and with the server's.
\i pg_regress/fresh_ledger.sql

SELECT ledger.create_signature('cb8ae809def24febd91f2e04ec52a326e7f4c4b428e49ce0956482373d70edfa', 'test-secret-key-for-hmac');
SELECT ledger.verify_signature('cb8ae809def24febd91f2e04ec52a326e7f4c4b428e49ce0956482373d70edfa',
    '727e5fcb6bebcec87d850f933ac00780d729ba48d213fc8b4ef11b84daedd8a7', 'test-secret-key-for-hmac'::bytea);
-- Keys of any bytes and any length.
SELECT ledger.create_signature('74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b', '\xd0bad0bbd18ed187');
SELECT ledger.create_signature('74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b', 'k');
\set vectors `cat tests/vectors/signature.json`
SELECT count(*), bool_and(ledger.create_signature(v ->> 'data_hash', convert_to(v ->> 'secret', 'UTF8')) = v ->> 'signature') AS created,
       bool_and(ledger.verify_signature(v ->> 'data_hash', v ->> 'signature', convert_to(v ->> 'secret', 'UTF8'))) AS verified
FROM jsonb_array_elements(:'vectors') AS v;

\set hash cb8ae809def24febd91f2e04ec52a326e7f4c4b428e49ce0956482373d70edfa
\set good 727e5fcb6bebcec87d850f933ac00780d729ba48d213fc8b4ef11b84daedd8a7
\set secret '\'test-secret-key-for-hmac\'::bytea'
-- Anything else is not the signature, and no error.
SELECT ledger.verify_signature(:'hash', '0' || substr(:'good', 2), :secret) AS other,
       ledger.verify_signature(:'hash', upper(:'good'), :secret) AS upper_case,
       ledger.verify_signature(:'hash', substr(:'good', 1, 63), :secret) AS shorter,
       ledger.verify_signature(:'hash', :'good' || '0', :secret) AS longer,
       ledger.verify_signature(:'hash', '', :secret) AS empty,
       ledger.verify_signature(:'hash', 'no signature', :secret) AS no_hex,
       ledger.verify_signature(:'hash', :'good', 'test-secret-key-for-hmad'::bytea) AS other_key,
       ledger.verify_signature(ledger.hash_data('1'), :'good', :secret) AS other_hash;
SELECT ledger.create_signature(NULL, 'k'), ledger.verify_signature(:'hash', NULL, :secret), ledger.create_signature(NULL),
       ledger.verify_signature(:'hash', NULL), ledger.verify_signature(NULL, :'good');

-- Only a hash is signed.
SELECT ledger.create_signature('data', 'k');
\echo :SQLSTATE
SELECT ledger.create_signature(upper(:'hash'), 'k');
\echo :SQLSTATE
SELECT ledger.create_signature('data');
\echo :SQLSTATE

-- The server's key.
SELECT ledger.create_signature(:'hash') ~ '^[0-9a-f]{64}$' AS hex, ledger.create_signature(:'hash') = ledger.create_signature(:'hash') AS stable;
SELECT ledger.verify_signature(:'hash', ledger.create_signature(:'hash')) AS own,
       ledger.verify_signature(:'hash', ledger.create_signature(:'hash'), 'default') AS by_name,
       ledger.verify_signature(:'hash', :'good') AS foreign_signature,
       ledger.verify_signature(ledger.hash_data('1'), ledger.create_signature(:'hash')) AS other_hash;
SELECT ledger.verify_signature(:'hash', :'good', 'no-such-key');
\echo :SQLSTATE
SELECT ledger.verify_signature(:'hash', :'good', repeat('x', 200));
\echo :SQLSTATE
