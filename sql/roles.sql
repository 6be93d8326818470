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
                  HINT = 'Rename or drop it: CREATE EXTENSION pg_notary makes its own. Restore a dump in which it belongs to that role with pg_restore --no-owner.';
    END IF;
END
$schema$;

-- What others have made there would be taken for the ledger's, and could stand in for its functions and for operators
-- that this script uses.
DO $contents$
DECLARE
    found text;
BEGIN
    SELECT COALESCE(pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid), 'an object') INTO found
    FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) d.refobjid
    WHERE n.nspname OPERATOR(pg_catalog.=) 'ledger'
        AND d.refclassid OPERATOR(pg_catalog.=) CAST('pg_catalog.pg_namespace' AS pg_catalog.regclass)
        AND d.classid OPERATOR(pg_catalog.<>) CAST('pg_catalog.pg_extension' AS pg_catalog.regclass)
        AND d.classid OPERATOR(pg_catalog.<>) CAST('pg_catalog.pg_default_acl' AS pg_catalog.regclass)
    LIMIT 1;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'schema "ledger" is not empty'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = pg_catalog.format('Among what is in it is %s.', found),
                  HINT = 'Move what is in it to another schema, or rename the schema: it is to hold the ledger alone.';
    END IF;
END
$contents$;

-- Nor may anybody make something there afterwards, whoever was granted that on the schema or by ALTER DEFAULT PRIVILEGES.
DO $privileges$
DECLARE
    grantee text;
BEGIN
    FOR grantee IN
        SELECT DISTINCT CASE a.grantee WHEN CAST(0 AS pg_catalog.oid) THEN 'PUBLIC' ELSE CAST(CAST(a.grantee AS pg_catalog.regrole) AS text) END
        FROM pg_catalog.pg_namespace AS n, pg_catalog.aclexplode(n.nspacl) AS a
        WHERE n.nspname OPERATOR(pg_catalog.=) 'ledger' AND a.grantee OPERATOR(pg_catalog.<>) n.nspowner
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA ledger FROM %s CASCADE', grantee);
    END LOOP;
END
$privileges$;

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
