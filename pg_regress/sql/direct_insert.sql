-- Recording by INSERT.
\i pg_regress/fresh_ledger.sql
\set QUIET off

INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('note', ledger.hash_data('1'));
INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('note', ledger.hash_data('2'))
RETURNING id IS NOT NULL AS id, block_number, data_hash = ledger.hash_data('2') AS data_hash, metadata,
          ledger.verify_signature(data_hash, signature, key_id) AS signed, key_id, created_at = now() AS created_now, leaf_index;
INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('note', ledger.hash_data('3')), ('note', ledger.hash_data('4'));
INSERT INTO ledger.entries (entry_type, data_hash, metadata)
SELECT 'series', ledger.hash_data(to_jsonb(n)), jsonb_build_object('n', n) FROM generate_series(1, 10) AS n;
-- All columns but those of sealing can be given; what cannot be believed is checked.
INSERT INTO ledger.entries (id, entry_type, data_hash, metadata, signature, key_id, created_at)
VALUES ('00000000-0000-0000-0000-000000000001', 'given', ledger.hash_data('5'), '{"n": 5}', ledger.create_signature(ledger.hash_data('5')),
        'not this key', '2101-02-03 04:05:06.789+00')
RETURNING id, metadata, signature = ledger.create_signature(data_hash) AS given, key_id, created_at AT TIME ZONE 'UTC' AS created_at;
INSERT INTO ledger.entries (entry_type, data_hash, signature) VALUES ('note', ledger.hash_data('5'), ledger.create_signature(ledger.hash_data('6')));
\echo :SQLSTATE
WITH inserted AS (INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('note', ledger.hash_data('6')) RETURNING data_hash)
SELECT data_hash = ledger.hash_data('6') AS in_with FROM inserted;
INSERT INTO ledger.entries_pending (entry_type, data_hash) VALUES ('into the partition', ledger.hash_data('7'));
PREPARE record(text, jsonb) AS INSERT INTO ledger.entries (entry_type, data_hash) VALUES ($1, ledger.hash_data($2));
EXECUTE record('prepared', '1');
EXECUTE record('prepared', '2');
DEALLOCATE record;

-- Nothing is inserted, so nothing is recorded.
INSERT INTO ledger.entries (entry_type, data_hash) SELECT 'none', ledger.hash_data('1') WHERE false;
INSERT INTO ledger.entries_pending (id, entry_type, data_hash)
VALUES ('00000000-0000-0000-0000-000000000001', 'conflict', ledger.hash_data('8')),
       ('00000000-0000-0000-0000-000000000002', 'no conflict', ledger.hash_data('8'))
ON CONFLICT DO NOTHING;
INSERT INTO ledger.entries (id, entry_type, data_hash)
VALUES ('00000000-0000-0000-0000-000000000001', 'conflict', ledger.hash_data('8')) ON CONFLICT DO NOTHING;
SELECT entry_type, count(*) FROM ledger.entries GROUP BY entry_type ORDER BY entry_type;
-- An update by another name.
INSERT INTO ledger.entries_pending (id, entry_type, data_hash)
VALUES ('00000000-0000-0000-0000-000000000001', 'conflict', ledger.hash_data('8'))
ON CONFLICT (id) DO UPDATE SET entry_type = 'updated';
\echo :SQLSTATE

-- Triggers of the database's own are seen by the checks and by the record.
CREATE FUNCTION add_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.metadata := NEW.metadata || '{"by": "trigger"}';
    RETURN NEW;
END
$$;
CREATE TRIGGER add_user BEFORE INSERT ON ledger.entries FOR EACH ROW EXECUTE FUNCTION add_user();
INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('by trigger', ledger.hash_data('9')) RETURNING metadata;
DROP TRIGGER add_user ON ledger.entries;
DROP FUNCTION add_user();

SELECT count(*) AS entries, count(*) FILTER (WHERE line = ledger.canonical_json(jsonb_build_object(
           'record_type', 'entry', 'entry_id', id, 'entry_type', entry_type, 'data_hash', data_hash, 'metadata', metadata,
           'signature', signature, 'key_id', key_id,
           'timestamp', to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))) AS lines
FROM ledger.entries LEFT JOIN file_lines() ON record ->> 'entry_id' = id::text;
SELECT record ->> 'record_type' AS record_type, count(*) FROM file_lines() GROUP BY 1 ORDER BY 1;
SELECT * FROM ledger_state();

-- The mirror of a row from a writable view and from a function is the same.
CREATE VIEW notes AS SELECT entry_type, data_hash FROM ledger.entries WHERE entry_type = 'viewed';
INSERT INTO notes VALUES ('viewed', ledger.hash_data('10')) RETURNING data_hash = ledger.hash_data('10') AS by_view;
DROP VIEW notes;
-- Under session_replication_role = replica, what is inserted is recorded all the same.
SET session_replication_role = replica;
INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('replica', ledger.hash_data('11')) RETURNING signature IS NOT NULL AS signed;
RESET session_replication_role;
SELECT * FROM ledger_state();
SELECT sum(data_count) AS sealed FROM ledger.commit_block();
SELECT file_has_all_blocks();
SELECT * FROM ledger_state();
