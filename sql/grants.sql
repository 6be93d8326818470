GRANT USAGE ON SCHEMA ledger TO PUBLIC;
-- Nobody has other rights than those below, whatever ALTER DEFAULT PRIVILEGES gives on new tables and functions.
DO $privileges$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN CAST(0 AS pg_catalog.oid) THEN 'PUBLIC' ELSE CAST(CAST(a.grantee AS pg_catalog.regrole) AS text) END
        FROM (SELECT COALESCE(c.relacl, pg_catalog.acldefault('r', c.relowner)) AS acl, c.relowner AS owner, c.relnamespace AS namespace
              FROM pg_catalog.pg_class AS c
              UNION ALL
              SELECT COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner)), p.proowner, p.pronamespace
              FROM pg_catalog.pg_proc AS p) AS object,
             pg_catalog.aclexplode(object.acl) AS a
        WHERE object.namespace OPERATOR(pg_catalog.=) CAST('ledger' AS pg_catalog.regnamespace)
            AND a.grantee OPERATOR(pg_catalog.<>) object.owner
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON ALL TABLES IN SCHEMA ledger FROM %s', grantee);
        EXECUTE pg_catalog.format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ledger FROM %s', grantee);
    END LOOP;
END
$privileges$;

-- Every role may call functions that only compute.
GRANT EXECUTE ON FUNCTION ledger.canonical_json(jsonb), ledger.hash_data(jsonb), ledger.hash_json(json),
    ledger.create_signature(text, bytea), ledger.verify_signature(text, text, bytea),
    ledger.merkle_root(text[]), ledger.merkle_root(text), ledger.merkle_proof(text[], integer),
    ledger.verify_merkle_proof(text, jsonb, text), ledger.uuid_v7(),
    ledger.compute_unified_integrity(text, text, text, text, text, jsonb, text),
    ledger.sign_content(text, text, text, text, text, jsonb, text, timestamptz),
    ledger.get_signature(text, text, text, text), ledger.remove_signature(text, text, text, text) TO PUBLIC;

GRANT INSERT, SELECT (id, block_number, entry_type, data_hash, signature, key_id, created_at, leaf_index)
    ON ledger.entries TO ledger_writer;
GRANT EXECUTE ON FUNCTION ledger.hash_and_record(text, jsonb, jsonb, boolean),
    ledger.add_entry(text, jsonb, text, jsonb), ledger.append_entry(text, uuid, text, jsonb),
    ledger.create_signature(text), ledger.verify_signature(text, text, text), ledger.commit_block(),
    ledger.verify_entry(uuid, jsonb) TO ledger_writer;

GRANT SELECT ON ledger.blocks, ledger.entries, ledger.entries_pending, ledger.entries_sealed, ledger.log_nodes, ledger.log_state,
    ledger.chain_stats, ledger.mirror_status, ledger.workers, ledger.progress
    TO ledger_auditor;
GRANT EXECUTE ON FUNCTION ledger.verify_signature(text, text, text), ledger.verify_entry(uuid, jsonb),
    ledger.verify_chain(bigint, bigint), ledger.verify_file_integrity(text), ledger.find_tampering(),
    ledger.mirror_state(), ledger.worker_state(), ledger.verification_progress() TO ledger_auditor;

-- A role that makes a partition of a tracked table must have this right. The library refuses other triggers with the
-- function.
GRANT EXECUTE ON FUNCTION ledger.record_change() TO PUBLIC;

-- These functions check for themselves which roles may call them: the owner of the table, and its readers.
GRANT EXECUTE ON FUNCTION ledger.track(regclass, boolean, boolean, text[], text[]), ledger.untrack(regclass),
    ledger.verify_table(regclass), ledger.verify_row(regclass, jsonb), ledger.history(regclass, jsonb),
    ledger.verified(anyelement) TO PUBLIC;
-- Not for every reader: rows that a policy hides would seem to be missing.
GRANT EXECUTE ON FUNCTION ledger.verify_all() TO ledger_auditor;
GRANT SELECT ON ledger.tracked_tables, ledger.row_versions, ledger.table_shapes, ledger.baselines TO ledger_auditor;
GRANT SELECT ON ledger.tracked_tables TO pg_monitor;

-- Items: writers sign, auditors verify, administrators revoke, and repair what a mistake has left in the table.
GRANT EXECUTE ON FUNCTION ledger.create_item(text, text, text, text, text, jsonb, jsonb, text),
    ledger.sign_item(text, text, text, text, jsonb, jsonb, text), ledger.move_item(text, text, text, text)
    TO ledger_writer;
GRANT EXECUTE ON FUNCTION ledger.load_item(text, text, text, text),
    ledger.verify_single_file(text, text, text, text, text, text, jsonb, text), ledger.verify_items(jsonb),
    ledger.verify_item_chain(jsonb), ledger.registry_sync(jsonb), ledger.verifier_cache_state(),
    ledger.invalidate_verifier_cache() TO ledger_writer, ledger_auditor;
GRANT EXECUTE ON FUNCTION ledger.revoke_signature(text, text, text, text) TO ledger_admin;
GRANT SELECT ON ledger.items TO ledger_auditor;
GRANT UPDATE ON ledger.items TO ledger_admin;
GRANT SELECT ON ledger.verifier_cache TO ledger_writer, ledger_auditor;
GRANT EXECUTE ON FUNCTION ledger.verifier_cache_state() TO pg_read_all_data;

GRANT SELECT ON ledger.lines TO ledger_auditor;
-- pg_read_all_data may read the views, which call these functions.
GRANT EXECUTE ON FUNCTION ledger.header_line(ledger.log_state), ledger.entry_line(ledger.entries),
    ledger.block_line(ledger.blocks, uuid[]) TO ledger_auditor, pg_read_all_data;

GRANT ledger_writer, ledger_auditor TO ledger_admin;
GRANT EXECUTE ON FUNCTION ledger.mirror_catch_up(), ledger.mirror_restart(), ledger.untrack_lost(text) TO ledger_admin;
GRANT INSERT ON ledger.import TO ledger_admin;

GRANT SELECT ON ledger.chain_stats, ledger.mirror_status, ledger.workers, ledger.progress TO pg_monitor;
GRANT EXECUTE ON FUNCTION ledger.mirror_state(), ledger.worker_state(), ledger.verification_progress()
    TO pg_monitor, pg_read_all_data;

COMMENT ON FUNCTION ledger.canonical_json(jsonb) IS 'the canonical text of a JSON value, which is what is hashed: keys sorted, ASCII only';
COMMENT ON FUNCTION ledger.hash_data(jsonb) IS 'hex SHA-256 of the canonical JSON';
COMMENT ON FUNCTION ledger.hash_json(json) IS 'hex SHA-256 of the canonical JSON, with numbers as written in the text';
COMMENT ON FUNCTION ledger.create_signature(text, bytea) IS 'hex HMAC-SHA256 of a data hash under the given secret';
COMMENT ON FUNCTION ledger.create_signature(text) IS 'hex HMAC-SHA256 of a data hash under the server''s signing key';
COMMENT ON FUNCTION ledger.verify_signature(text, text, bytea) IS 'whether this is the signature of the data hash under the given secret';
COMMENT ON FUNCTION ledger.verify_signature(text, text, text) IS 'whether this is the signature of the data hash under the server''s key of that name, by default its first';
COMMENT ON FUNCTION ledger.merkle_root(text[]) IS 'Merkle root of a list of hex hashes';
COMMENT ON AGGREGATE ledger.merkle_root(text) IS 'Merkle root of hex hashes; give the order with ORDER BY';
COMMENT ON FUNCTION ledger.merkle_proof(text[], integer) IS 'the steps from the hash at a 0-based index to the Merkle root';
COMMENT ON FUNCTION ledger.verify_merkle_proof(text, jsonb, text) IS 'whether the steps lead from the hash to the Merkle root';
COMMENT ON FUNCTION ledger.uuid_v7() IS 'a new time-ordered id';
COMMENT ON FUNCTION ledger.hash_and_record(text, jsonb, jsonb, boolean) IS 'hashes, signs and records data; returns the receipt';
COMMENT ON FUNCTION ledger.add_entry(text, jsonb, text, jsonb) IS 'hashes and records data, with the caller''s signature or the server''s; returns the entry''s id';
COMMENT ON FUNCTION ledger.append_entry(text, uuid, text, jsonb) IS 'records a hash that the caller has computed, under the caller''s id';
COMMENT ON FUNCTION ledger.commit_block() IS 'seals all pending entries; returns the new blocks';
COMMENT ON FUNCTION ledger.verify_entry(uuid, jsonb) IS 'whether an entry is of this data and as it was recorded, its signature is good, and the log tree of its block includes it; a pending entry is in no block yet';
COMMENT ON FUNCTION ledger.verify_chain(bigint, bigint) IS 'verifies the tables and the mirror file, and compares them';
COMMENT ON FUNCTION ledger.verify_file_integrity(text) IS 'verifies the mirror file, or the ledger file at a path on the server';
COMMENT ON FUNCTION ledger.find_tampering() IS 'one row for each problem of the ledger''s tables and of the mirror file; verify_all() also verifies tracked tables and items';
COMMENT ON FUNCTION ledger.track(regclass, boolean, boolean, text[], text[]) IS 'starts recording every change of the table''s rows; returns the table''s id in the ledger';
COMMENT ON FUNCTION ledger.untrack(regclass) IS 'stops recording changes of the table''s rows; what was recorded stays';
COMMENT ON FUNCTION ledger.untrack_lost(text) IS 'records that a table whose triggers were dropped is no longer tracked';
COMMENT ON FUNCTION ledger.verify_table(regclass) IS 'one row for each problem of a tracked table: rows that are not what was recorded, and recorded rows that are gone';
COMMENT ON FUNCTION ledger.verify_row(regclass, jsonb) IS 'whether one row is what was recorded';
COMMENT ON FUNCTION ledger.history(regclass, jsonb) IS 'what was recorded about one row, oldest first';
COMMENT ON FUNCTION ledger.verified(anyelement) IS 'returns a row of a tracked table if it is what was recorded; otherwise an error';
COMMENT ON FUNCTION ledger.verify_all() IS 'verifies the chain, the mirror file, every tracked table and every registered item';
COMMENT ON FUNCTION ledger.compute_unified_integrity(text, text, text, text, text, jsonb, text) IS 'the integrity hash of a tool, directive or knowledge';
COMMENT ON FUNCTION ledger.sign_content(text, text, text, text, text, jsonb, text, timestamptz) IS 'the text of an item with a new signature line';
COMMENT ON FUNCTION ledger.get_signature(text, text, text, text) IS 'what the signature line of an item says; no row if it has none';
COMMENT ON FUNCTION ledger.remove_signature(text, text, text, text) IS 'the text of an item without signature lines';
COMMENT ON FUNCTION ledger.verify_single_file(text, text, text, text, text, text, jsonb, text) IS 'whether an item is what was signed, in the place it was signed for; "registered" says whether the ledger has an entry about it; if the item is valid as well, its whole text is what was recorded';
COMMENT ON FUNCTION ledger.verify_items(jsonb) IS 'verifies all items of a list, or of the registry; "registered" says whether the ledger has an entry about each of them';
COMMENT ON FUNCTION ledger.verify_item_chain(jsonb) IS 'verifies items from leaf to primitive, and stops at the first that fails; "registered" says whether the ledger has an entry about each item up to there';
COMMENT ON FUNCTION ledger.create_item(text, text, text, text, text, jsonb, jsonb, text) IS 'signs and registers an item';
COMMENT ON FUNCTION ledger.sign_item(text, text, text, text, jsonb, jsonb, text) IS 'signs a registered item again; the given values replace the registered ones';
COMMENT ON FUNCTION ledger.move_item(text, text, text, text) IS 'signs a registered item for another place';
COMMENT ON FUNCTION ledger.load_item(text, text, text, text) IS 'the content of a registered item, if everything about it verifies; otherwise an error';
COMMENT ON FUNCTION ledger.revoke_signature(text, text, text, text) IS 'revokes a registered item: it must not be used any more';
COMMENT ON FUNCTION ledger.registry_sync(jsonb) IS 'compares files kept elsewhere with the registry';
COMMENT ON FUNCTION ledger.verifier_cache_state() IS 'supplies the view ledger.verifier_cache';
COMMENT ON FUNCTION ledger.invalidate_verifier_cache() IS 'removes all results from this session''s cache of verified items; returns how many there were';
COMMENT ON FUNCTION ledger.mirror_catch_up() IS 'appends what the mirror file lacks, however much, if the file is otherwise right; returns its new length';
COMMENT ON FUNCTION ledger.mirror_restart() IS 'begins a new mirror file with all that the database has; returns the name under which the old one is kept';
COMMENT ON FUNCTION ledger.mirror_state() IS 'supplies the view ledger.mirror_status';
COMMENT ON FUNCTION ledger.worker_state() IS 'supplies the view ledger.workers';
COMMENT ON FUNCTION ledger.verification_progress() IS 'supplies the view ledger.progress';
COMMENT ON FUNCTION ledger.complete_entry() IS 'trigger: checks and signs an inserted entry';
COMMENT ON FUNCTION ledger.queue_entry() IS 'trigger: hands an inserted entry to the mirror';
COMMENT ON FUNCTION ledger.refuse_change() IS 'trigger: refuses changes of what is recorded';
COMMENT ON FUNCTION ledger.header_line(ledger.log_state) IS 'the first line of the ledger''s file';
COMMENT ON FUNCTION ledger.entry_line(ledger.entries) IS 'the line of an entry, as it is in the ledger''s file';
COMMENT ON FUNCTION ledger.block_line(ledger.blocks, uuid[]) IS 'the line of a block that holds these entries, as it is in the ledger''s file';
COMMENT ON FUNCTION ledger.begin_import() IS 'trigger: makes sure that the ledger is empty, and keeps other sessions from recording';
COMMENT ON FUNCTION ledger.import_line() IS 'trigger: verifies and imports a line';
COMMENT ON FUNCTION ledger.finish_import() IS 'trigger: writes the last blocks, the pending entries and the state of the log';
