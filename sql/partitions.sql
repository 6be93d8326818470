-- A new partition is for those who may read this table.
GRANT SELECT ON ledger.entries_sealed TO ledger_auditor;
SELECT ledger.make_first_partition();
DROP FUNCTION ledger.make_first_partition();
