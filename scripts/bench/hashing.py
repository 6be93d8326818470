"""hash_data against what a document's text costs to hash otherwise."""

from contenders import BODY, has_pgcrypto
from results import Workload

OURS = "hash_data(jsonb)"
DIGEST = "digest(jsonb::text)"
CORE = "sha256(jsonb::text)"
# Somebody has made the text already: what is left is SHA-256 alone, the limit of them all.
DIGEST_TEXT = "digest(text)"
CORE_TEXT = "sha256(bytea)"
CALLS = {
    OURS: "result := ledger.hash_data(document)",
    DIGEST: "result := encode(digest(document::text, 'sha256'), 'hex')",
    CORE: "result := encode(sha256(convert_to(document::text, 'UTF8')), 'hex')",
    DIGEST_TEXT: "result := encode(digest(body, 'sha256'), 'hex')",
    CORE_TEXT: "result := encode(sha256(bytes), 'hex')",
}
SIZES = {"100 B": 100, "1 KB": 1_000, "100 KB": 100_000, "10 MB": 10_000_000}

# Seconds a call. The loop's own cost is some 50 ns, the same for all.
FUNCTION = """
CREATE OR REPLACE FUNCTION time_{number}(document jsonb, calls int) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    body text := document::text;
    bytes bytea := convert_to(body, 'UTF8');
    result text;
    started timestamptz := clock_timestamp();
BEGIN
    FOR i IN 1..calls LOOP
        {call};
    END LOOP;
    RETURN extract(epoch FROM clock_timestamp() - started) / calls;
END $$
"""


def document(size):
    """An expression of a jsonb that is printed in about so many bytes."""
    if size <= 100:
        return """'{"name": "Ada Lovelace", "city": "Bergen", "total": 1250.5, "paid": true, "reference": "2026-0142"}'::jsonb"""
    item = len(BODY) + 22
    return (f"(SELECT jsonb_agg('{BODY}'::jsonb || jsonb_build_object('number', 1000000 + n)) "
            f"FROM generate_series(1, {max(1, size // item)}) AS n)")


def workload(size):
    return Workload(f"hash-{size}", f"hashing a document of {size}", "documents/s", DIGEST)


def make_document(session, size):
    """Once for all, since a large one takes longer to make than to hash. Returns the length of its text."""
    session.run("DROP TABLE IF EXISTS hashed")
    session.run(f"CREATE TEMP TABLE hashed AS SELECT {document(size)} AS document")
    return session.number("SELECT octet_length(document::text) FROM hashed")


def seconds_a_call(session, number, calls):
    """Of a value that is new in memory: what is hashed is never toasted."""
    return session.number(f"SELECT time_{number}(document - '', {calls}) FROM hashed")


def measure(results, server, scale, say):
    session = server.session
    there = has_pgcrypto(server)
    calls_made = {name: call for name, call in CALLS.items() if there or name not in (DIGEST, DIGEST_TEXT)}
    numbers = {name: number for number, name in enumerate(calls_made)}
    for name, call in calls_made.items():
        session.run(FUNCTION.format(number=numbers[name], call=call))
    for size, number_of_bytes in SIZES.items():
        length = make_document(session, number_of_bytes)
        calls = {}
        for number, _, name in scale.interleaved((None,), list(calls_made)):
            say(f"hashing {size}, round {number} of {scale.rounds}: {name}")
            if name not in calls:
                # As often as fits into the time, by what a few take.
                once = seconds_a_call(session, numbers[name], max(1, 100_000 // number_of_bytes))
                calls[name] = max(1, int(scale.hash_seconds / once))
            seconds = seconds_a_call(session, numbers[name], calls[name])
            results.add(workload(size), name, 1 / seconds, **{"MB/s of jsonb::text": length / seconds / 1e6})
