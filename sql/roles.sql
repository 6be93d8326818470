-- Lines of the ledger are UTF-8, and what is recorded must read the same in the file and in the database.
DO $encoding$
BEGIN
    IF pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.<>) 'UTF8' THEN
        RAISE EXCEPTION 'pg_notary does not support server encoding "%"', pg_catalog.getdatabaseencoding()
            USING ERRCODE = 'feature_not_supported',
                  DETAIL = 'Ledger lines are UTF-8, and recorded data must read the same in the file and in the database.',
                  HINT = 'Create a database in UTF-8, for example with: createdb --encoding UTF8 --template template0 NAME';
    END IF;
END
$encoding$;

-- The owner of the schema could rename it and put another in its place, with other tables and functions under these
-- names.
DO $schema$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_namespace AS n JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
               WHERE n.nspname OPERATOR(pg_catalog.=) 'ledger' AND NOT r.rolsuper AND r.rolname OPERATOR(pg_catalog.<>) current_user) THEN
        RAISE EXCEPTION 'schema "ledger" belongs to another role'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Rename or drop it: CREATE EXTENSION pg_notary makes its own.';
    END IF;
END
$schema$;

-- Roles belong to the whole cluster: they may exist already, and they stay when the extension is dropped.
DO $roles$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['ledger_writer', 'ledger_auditor', 'ledger_admin'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
END
$roles$;
