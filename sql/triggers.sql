CREATE FUNCTION ledger.complete_entry() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'ledger_complete_entry';
CREATE FUNCTION ledger.queue_entry() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'ledger_queue_entry';
CREATE FUNCTION ledger.refuse_change() RETURNS trigger LANGUAGE c AS 'MODULE_PATHNAME', 'ledger_refuse_change';

-- Row triggers on a partitioned table apply to every partition, now and later. The name zz_complete_entry sorts last,
-- so that it also checks what other BEFORE triggers make of the row.
CREATE TRIGGER zz_complete_entry BEFORE INSERT ON ledger.entries
    FOR EACH ROW EXECUTE FUNCTION ledger.complete_entry();
CREATE TRIGGER queue_entry AFTER INSERT ON ledger.entries
    FOR EACH ROW EXECUTE FUNCTION ledger.queue_entry();
CREATE TRIGGER refuse_row BEFORE UPDATE OR DELETE ON ledger.entries
    FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER refuse_row BEFORE INSERT OR UPDATE OR DELETE ON ledger.blocks
    FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.entries ENABLE ALWAYS TRIGGER zz_complete_entry;
ALTER TABLE ledger.entries ENABLE ALWAYS TRIGGER queue_entry;
ALTER TABLE ledger.entries ENABLE ALWAYS TRIGGER refuse_row;
ALTER TABLE ledger.blocks ENABLE ALWAYS TRIGGER refuse_row;

-- Statement triggers apply to one table alone, so each table has its own. They also refuse statements that find no row,
-- and TRUNCATE.
CREATE TRIGGER refuse_statement BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER refuse_statement BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.entries_pending
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER refuse_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.entries_sealed
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER refuse_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.blocks
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER refuse_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.log_nodes
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER refuse_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.log_state
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER refuse_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.row_versions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER refuse_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.table_shapes
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER refuse_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.baselines
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();
ALTER TABLE ledger.row_versions ENABLE ALWAYS TRIGGER refuse_statement;
ALTER TABLE ledger.table_shapes ENABLE ALWAYS TRIGGER refuse_statement;
ALTER TABLE ledger.baselines ENABLE ALWAYS TRIGGER refuse_statement;
ALTER TABLE ledger.log_nodes ENABLE ALWAYS TRIGGER refuse_statement;
ALTER TABLE ledger.log_state ENABLE ALWAYS TRIGGER refuse_statement;
ALTER TABLE ledger.entries ENABLE ALWAYS TRIGGER refuse_statement;
ALTER TABLE ledger.entries_pending ENABLE ALWAYS TRIGGER refuse_statement;
ALTER TABLE ledger.entries_sealed ENABLE ALWAYS TRIGGER refuse_statement;
ALTER TABLE ledger.blocks ENABLE ALWAYS TRIGGER refuse_statement;
