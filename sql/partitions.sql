SELECT ledger.make_first_partition();
DROP FUNCTION ledger.make_first_partition();
