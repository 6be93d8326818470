-- Recording by COPY FROM, and reading by COPY TO.
\i pg_regress/fresh_ledger.sql
\set QUIET off

COPY ledger.entries (entry_type, data_hash) FROM stdin;
note	6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b
note	d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35
\.
COPY ledger.entries (entry_type, data_hash, metadata) FROM stdin WITH (FORMAT csv, HEADER);
entry_type,data_hash,metadata
"csv, quoted",4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce,"{""n"": 3}"
"csv, quoted",4b227777d4dd1fc61c6f884f48641d02b4d121d3fd328cb08b5531fcacdabf8a,{}
\.
COPY ledger.entries (id, entry_type, data_hash, created_at) FROM stdin;
00000000-0000-0000-0000-000000000001	timed	ef2d127de37b942baad06145e54b0c619a1f22327b2ebbcfbec78f5564afe39d	2101-02-03 04:05:06+00
\.
COPY ledger.entries_pending (entry_type, data_hash) FROM stdin;
into the partition	e7f6c011776e8db7cd330b54174fd76f7d0216b612387a5ffcfb81e6f0919683
\.
SELECT entry_type, metadata, ledger.verify_signature(data_hash, signature, key_id) AS signed FROM ledger.entries ORDER BY entry_type, data_hash;

-- One bad row, and nothing of the whole COPY is recorded.
COPY ledger.entries (entry_type, data_hash) FROM stdin;
note	7902699be42c8a8e46fbbb4501726517e86b22c56a189f7625a6da49081b2451
note	no hash
\.
COPY ledger.entries (id, entry_type, data_hash) FROM stdin;
00000000-0000-0000-0000-000000000001	again	ef2d127de37b942baad06145e54b0c619a1f22327b2ebbcfbec78f5564afe39d
\.
SELECT * FROM ledger_state();
-- An id is unique over the whole ledger, sealed or not, and nobody claims to be sealed.
SELECT block_number, data_count FROM ledger.commit_block();
COPY ledger.entries (id, entry_type, data_hash) FROM stdin;
00000000-0000-0000-0000-000000000001	again	ef2d127de37b942baad06145e54b0c619a1f22327b2ebbcfbec78f5564afe39d
\.
COPY ledger.entries (entry_type, data_hash, block_number) FROM stdin;
note	7902699be42c8a8e46fbbb4501726517e86b22c56a189f7625a6da49081b2451	1
\.
SELECT file_has_all_blocks();
SELECT * FROM ledger_state();

-- Many rows: COPY inserts in batches.
CREATE TABLE hashes AS SELECT 'bulk' AS entry_type, ledger.hash_data(to_jsonb(n)) AS data_hash FROM generate_series(1, 60) AS n;
SELECT current_setting('data_directory') || '/pg_notary_regress.csv' AS file \gset
COPY hashes TO :'file' WITH (FORMAT csv);
COPY ledger.entries (entry_type, data_hash) FROM :'file' WITH (FORMAT csv);
COPY (SELECT 'binary'::varchar, data_hash::varchar, '{"b": 1}'::jsonb FROM hashes LIMIT 30) TO :'file' WITH (FORMAT binary);
COPY ledger.entries (entry_type, data_hash, metadata) FROM :'file' WITH (FORMAT binary);
\set remove 'cat >/dev/null; rm -f "' :file '"'
COPY (SELECT) TO PROGRAM :'remove';
DROP TABLE hashes;
COPY (SELECT entry_type, count(*) FROM ledger.entries GROUP BY 1 ORDER BY 1) TO stdout;
SELECT count(*) AS entries, count(record) AS lines FROM ledger.entries LEFT JOIN file_lines() ON record ->> 'entry_id' = id::text;
SELECT record ->> 'record_type' AS record_type, count(*) FROM file_lines() GROUP BY 1 ORDER BY 1;
SELECT * FROM ledger_state();
