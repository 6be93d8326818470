-- What CREATE EXTENSION makes.
\i pg_regress/fresh_ledger.sql

SELECT extnamespace::regnamespace AS schema, extrelocatable AS relocatable, extversion = default_version AS current
FROM pg_extension JOIN pg_available_extensions ON name = extname
WHERE extname = 'pg_notary';
SELECT superuser, trusted, relocatable, schema FROM pg_available_extension_versions WHERE name = 'pg_notary' AND installed;

-- The schema is fixed.
SELECT sqlstate_of('ALTER EXTENSION pg_notary SET SCHEMA public');
DROP EXTENSION pg_notary;
SELECT sqlstate_of('CREATE EXTENSION pg_notary SCHEMA public');
SELECT to_regclass('ledger.entries') IS NULL AS dropped;
-- The roles may hold privileges elsewhere: they stay, and are taken as they are.
SELECT rolname, rolcanlogin, rolsuper, rolinherit FROM pg_roles WHERE rolname ~ '^ledger_' ORDER BY rolname COLLATE "C";
CREATE EXTENSION pg_notary;
SELECT m.rolname AS member, r.rolname AS of
FROM pg_auth_members JOIN pg_roles r ON r.oid = roleid JOIN pg_roles m ON m.oid = member
WHERE m.rolname ~ '^ledger_' ORDER BY 2;

-- Tables and columns.
SELECT c.relname, c.relkind, a.attname, format_type(atttypid, atttypmod) AS type, attnotnull AS not_null
FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
WHERE c.oid IN ('ledger.entries'::regclass, 'ledger.blocks'::regclass) AND attnum > 0
ORDER BY c.relname, attnum;
SELECT inhrelid::regclass AS partition, inhparent::regclass AS of, pg_get_expr(relpartbound, oid) AS bound, relkind
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'ledger.entries'::regclass ORDER BY inhrelid::regclass::text COLLATE "C";
-- The first partition is there before the first block: whoever sees the block sees the partition.
SELECT inhrelid::regclass AS partition, pg_get_expr(relpartbound, oid) AS bound FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'ledger.entries_sealed'::regclass;

-- Functions: what the planner may do with them.
SELECT p.oid::regprocedure::text AS function, provolatile AS volatility, proparallel AS parallel, proisstrict AS strict,
       prosecdef AS security_definer
FROM pg_proc p
WHERE pronamespace = 'ledger'::regnamespace
ORDER BY p.oid::regprocedure::text COLLATE "C";
-- What runs with its owner's rights has a search_path of its own, without schemas of the caller.
SELECT p.oid::regprocedure::text AS function, proconfig
FROM pg_proc p
WHERE pronamespace = 'ledger'::regnamespace AND prosecdef
  AND (proconfig IS NULL OR NOT proconfig @> ARRAY['search_path=pg_catalog, pg_temp']);
-- What PUBLIC may call only computes.
SELECT p.oid::regprocedure::text AS function
FROM pg_proc p
WHERE pronamespace = 'ledger'::regnamespace AND EXISTS (SELECT FROM aclexplode(COALESCE(proacl, acldefault('f', proowner))) WHERE grantee = 0)
ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT c.oid::regclass AS granted_to_public
FROM pg_class c
WHERE relnamespace = 'ledger'::regnamespace AND EXISTS (SELECT FROM aclexplode(relacl) WHERE grantee = 0);

-- Every object has its comment.
SELECT pg_describe_object(classid, objid, 0) AS without_comment
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_notary')
  AND deptype = 'e' AND classid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_type'::regclass)
  AND NOT (classid = 'pg_class'::regclass AND objid IN (SELECT oid FROM pg_class WHERE relispartition AND relname ~ '^entries_sealed_'))
  AND NOT (classid = 'pg_type'::regclass AND objid IN (SELECT oid FROM pg_type WHERE typrelid <> 0 OR typelem <> 0))
  AND obj_description(objid, classid::regclass::name) IS NULL
ORDER BY pg_describe_object(classid, objid, 0) COLLATE "C";

-- The triggers fire under every session_replication_role.
SELECT tgrelid::regclass AS table, tgname AS trigger, tgenabled AS enabled
FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid
WHERE relname IN ('blocks', 'entries', 'entries_pending', 'entries_sealed') AND relnamespace = 'ledger'::regnamespace AND NOT tgisinternal
ORDER BY tgrelid::regclass::text COLLATE "C", tgname;

-- Settings: none that a session could change for itself.
SELECT name, context, vartype, unit, boot_val, min_val, max_val FROM pg_settings WHERE name ~ '^ledger\.' ORDER BY name;
SELECT sqlstate_of('SET ledger.block_size = 1');
SELECT current_setting('server_version_num')::int < 150000 OR sqlstate_of('SET ledger.blocksize = 1') = '42602' AS prefix_reserved;
