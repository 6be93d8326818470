-- What is refused leaves nothing behind: no row, no line.
\i pg_regress/fresh_ledger.sql
\set hash 6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b
\set id '\'00000000-0000-0000-0000-000000000001\''
\set sealed_id '\'00000000-0000-0000-0000-000000000002\''

SELECT ledger.append_entry('sealed', :sealed_id, :'hash');
SELECT block_number, data_count FROM ledger.commit_block();
SELECT ledger.append_entry('pending', :id, :'hash');
SELECT file_has_all_blocks();
SELECT * FROM ledger_state();

-- data_hash.
SELECT ledger.append_entry('note', gen_random_uuid(), '');
\echo :SQLSTATE
SELECT ledger.append_entry('note', gen_random_uuid(), substr(:'hash', 2));
\echo :SQLSTATE
SELECT ledger.append_entry('note', gen_random_uuid(), :'hash' || '0');
\echo :SQLSTATE
SELECT ledger.append_entry('note', gen_random_uuid(), upper(:'hash'));
\echo :SQLSTATE
SELECT ledger.append_entry('note', gen_random_uuid(), 'g' || substr(:'hash', 2));
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('note', substr(:'hash', 2));
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('note', upper(:'hash'));
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('note', 'g' || substr(:'hash', 2));
\echo :SQLSTATE
-- The column's own limit.
SELECT sqlstate_of(format('INSERT INTO ledger.entries (entry_type, data_hash) VALUES (%L, %L)', 'note', :'hash' || '0'));

-- entry_type.
SELECT ledger.add_entry('', '1');
\echo :SQLSTATE
SELECT ledger.add_entry(repeat('x', 101), '1');
\echo :SQLSTATE
SELECT ledger.hash_and_record('', '1');
\echo :SQLSTATE
SELECT ledger.hash_and_record(repeat('x', 101), '1');
\echo :SQLSTATE
SELECT ledger.append_entry('', gen_random_uuid(), :'hash');
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash) VALUES ('', :'hash');
\echo :SQLSTATE
SELECT sqlstate_of(format('INSERT INTO ledger.entries (entry_type, data_hash) VALUES (%L, %L)', repeat('x', 101), :'hash'));

-- Nulls.
SELECT ledger.hash_and_record(NULL, '1');
\echo :SQLSTATE
SELECT ledger.hash_and_record('note', NULL);
\echo :SQLSTATE
SELECT ledger.hash_and_record('note', '1', NULL);
\echo :SQLSTATE
SELECT ledger.hash_and_record('note', '1', '{}', NULL);
\echo :SQLSTATE
SELECT ledger.add_entry('note', NULL);
\echo :SQLSTATE
SELECT ledger.append_entry('note', NULL, :'hash');
\echo :SQLSTATE
SELECT ledger.append_entry('note', gen_random_uuid(), NULL);
\echo :SQLSTATE
INSERT INTO ledger.entries (id, entry_type, data_hash) VALUES (NULL, 'note', :'hash');
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type) VALUES ('note');
\echo :SQLSTATE
INSERT INTO ledger.entries (data_hash) VALUES (:'hash');
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash, metadata) VALUES ('note', :'hash', NULL);
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash, created_at) VALUES ('note', :'hash', NULL);
\echo :SQLSTATE

-- metadata.
SELECT ledger.add_entry('note', '1', metadata => '[]');
\echo :SQLSTATE
SELECT ledger.hash_and_record('note', '1', '"text"');
\echo :SQLSTATE
SELECT ledger.append_entry('note', gen_random_uuid(), :'hash', 'null');
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash, metadata) VALUES ('note', :'hash', '1');
\echo :SQLSTATE
-- No line can hold this number.
SELECT ledger.add_entry('note', '1', metadata => format('{"n": 1%s.5}', repeat('0', 400))::jsonb);
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash, metadata) VALUES ('note', :'hash', format('{"n": 1%s.5}', repeat('0', 400))::jsonb);
\echo :SQLSTATE

-- An id is used once in the whole ledger, pending or sealed.
SELECT ledger.append_entry('again', :id, :'hash');
\echo :SQLSTATE
SELECT ledger.append_entry('again', :sealed_id, :'hash');
\echo :SQLSTATE
INSERT INTO ledger.entries (id, entry_type, data_hash) VALUES (:id, 'again', :'hash');
\echo :SQLSTATE
INSERT INTO ledger.entries (id, entry_type, data_hash) VALUES (:sealed_id, 'again', :'hash');
\echo :SQLSTATE
INSERT INTO ledger.entries (id, entry_type, data_hash) VALUES (:sealed_id, 'again', :'hash') ON CONFLICT DO NOTHING;
\echo :SQLSTATE
INSERT INTO ledger.entries (id, entry_type, data_hash)
VALUES ('00000000-0000-0000-0000-000000000003', 'twice', :'hash'), ('00000000-0000-0000-0000-000000000003', 'twice', :'hash');
\echo :SQLSTATE

-- Times that no line can state.
INSERT INTO ledger.entries (entry_type, data_hash, created_at) VALUES ('note', :'hash', 'infinity');
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash, created_at) VALUES ('note', :'hash', '-infinity');
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash, created_at) VALUES ('note', :'hash', '10000-01-01 00:00:00+00');
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash, created_at) VALUES ('note', :'hash', '0001-12-31 00:00:00+00 BC');
\echo :SQLSTATE

-- Nobody claims to be sealed.
INSERT INTO ledger.entries (entry_type, data_hash, block_number, leaf_index) VALUES ('note', :'hash', 1, 1);
\echo :SQLSTATE
INSERT INTO ledger.entries (entry_type, data_hash, leaf_index) VALUES ('note', :'hash', 1);
\echo :SQLSTATE
SET session_replication_role = replica;
INSERT INTO ledger.entries (entry_type, data_hash, block_number, leaf_index) VALUES ('note', :'hash', 1, 1);
\echo :SQLSTATE
RESET session_replication_role;
-- Of no block at all.
SELECT sqlstate_of(format('INSERT INTO ledger.entries (entry_type, data_hash, block_number) VALUES (%L, %L, -1)', 'note', :'hash')) IN ('23514', '42501') AS refused;

-- The signature.
INSERT INTO ledger.entries (entry_type, data_hash, signature) VALUES ('note', :'hash', repeat('0', 64));
\echo :SQLSTATE
SELECT sqlstate_of(format('INSERT INTO ledger.entries (entry_type, data_hash, signature) VALUES (%L, %L, %L)', 'note', :'hash', repeat('0', 257)));

-- The line of a block names all of its entries.
SELECT ledger.block_line(b, ARRAY[:sealed_id, NULL]::uuid[]) FROM ledger.blocks AS b;
\echo :SQLSTATE
-- The triggers' functions are nothing else.
SELECT sqlstate_of('SELECT ledger.complete_entry()'), sqlstate_of('SELECT ledger.queue_entry()'), sqlstate_of('SELECT ledger.refuse_change()');

SELECT entry_type, count(*) FROM ledger.entries GROUP BY entry_type ORDER BY entry_type;
SELECT record ->> 'record_type' AS record_type, count(*) FROM file_lines() GROUP BY 1 ORDER BY 1;
SELECT * FROM ledger_state();
