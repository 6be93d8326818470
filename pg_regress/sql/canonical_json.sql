-- The one text of a JSON value that is hashed.
\i pg_regress/fresh_ledger.sql

SELECT ledger.canonical_json('{"b":1,"a":{"d":4,"c":3}}');
SELECT ledger.canonical_json('{"key":"value","number":42}'), ledger.hash_data('{"key":"value","number":42}');
-- The order of the keys and white space do not count.
SELECT ledger.hash_data('{"number": 42, "key": "value"}') = ledger.hash_data('{"key":"value","number":42}') AS same;
SELECT ledger.canonical_json(v::jsonb)
FROM unnest(ARRAY['null', 'true', '[]', '{}', '""', ' [ 1 , 2 ] ', '{"":0," ":1}', '"\/"', '"\u00e9\u007f\b\u001f"',
                  '"\ud83d\ude00"', '{"a": 1, "a": 2}']) AS v;
-- Keys by code point, not by length as jsonb has them, and not by UTF-16 unit.
SELECT ledger.canonical_json('{"\u00e9": 1, "z": 2, "Z": 3, "aa": 4, "a": 5, "\ud83d\ude00": 6, "\uffff": 7}');
-- Integers of any size are exact, anything else is a double.
SELECT ledger.canonical_json('[12345678901234567890123, -0, 1.0, 1.10, 1e-7, 0.1, 1e16, 123456789012345678.5]');
-- jsonb has normalised its numbers; json has the text's own.
SELECT ledger.canonical_json('[1e2, -0.0]'), ledger.hash_data('[1e2, -0.0]') = ledger.hash_json('[100, 0.0]') AS as_jsonb,
       ledger.hash_json('[1e2, -0.0]') = encode(sha256('[100.0, -0.0]'), 'hex') AS as_json;
-- What jsonb cannot hold, json can.
SELECT ledger.hash_json('"\u0000"') = encode(sha256(convert_to('"\u0000"', 'UTF8')), 'hex') AS nul;

SELECT ledger.canonical_json(NULL), ledger.hash_data(NULL), ledger.hash_json(NULL);
-- JSON null is a value.
SELECT ledger.hash_data('null'), ledger.hash_json('null');

-- No double is that large.
SELECT ledger.hash_json('[1, 1e999]');
\echo :SQLSTATE
SELECT ledger.canonical_json('1.5e400') = '15' || repeat('0', 399) AS integer_in_jsonb;
SELECT ledger.canonical_json(('1' || repeat('0', 400) || '.5')::jsonb);
\echo :SQLSTATE

-- All vectors, through both types. A jsonb stands for what jsonb has made of the text.
\set vectors `cat tests/vectors/canonical_json.json`
SELECT count(*) > 400 AS many, count(*) = count(*) FILTER (WHERE ledger.hash_json((v ->> 'json')::json) = v ->> 'sha256') AS as_json
FROM jsonb_array_elements(:'vectors') AS v;
CREATE FUNCTION as_jsonb(text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN $1::jsonb;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;
SELECT v ->> 'json' AS json, ledger.canonical_json(as_jsonb(v ->> 'json')) AS as_jsonb, v ->> 'canonical' AS as_json
FROM jsonb_array_elements(:'vectors') AS v
WHERE ledger.canonical_json(as_jsonb(v ->> 'json')) IS DISTINCT FROM v ->> 'canonical'
  AND v ->> 'json' !~ '[0-9]e[+-]?[0-9]';
SELECT count(*) > 400 AS many, count(*) = count(*) FILTER (
    WHERE ledger.hash_data(j) = encode(sha256(convert_to(ledger.canonical_json(j), 'UTF8')), 'hex')) AS hashed
FROM jsonb_array_elements(:'vectors') AS v, as_jsonb(v ->> 'json') AS j WHERE j IS NOT NULL;
DROP FUNCTION as_jsonb;
