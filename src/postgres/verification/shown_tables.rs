//! Whether queries show the same tables that are verified.
//!
//! Verification reads sealed entries from `ledger.entries_sealed`, however its partitions are arranged, and pending
//! ones from `ledger.entries_pending`. Queries read `ledger.entries`, which should have exactly these two as its
//! partitions. If it is a view or another table, or has other partitions, queries show something else. A query on
//! `ledger.blocks`, `ledger.items` or another table would also show the rows of tables that inherit from it.

use crate::ledger::verifier::{Findings, Problem, ProblemKind, Source};
use crate::postgres::errors::Failure;
use crate::postgres::spi;
use pgrx::PgSqlErrorCode;

/// Finds what is not as the extension made it: a table's name, whether the chain can be verified nevertheless, and what
/// is wrong.
const QUERY: &str = "
    WITH RECURSIVE named (name, kind, is_read) AS (
        VALUES ('blocks', 'r', true), ('log_nodes', 'r', true), ('log_state', 'r', true), ('entries_pending', 'r', true),
               ('entries_sealed', 'p', true), ('entries', 'p', false), ('items', 'r', false), ('row_versions', 'r', false),
               ('table_shapes', 'r', false), ('baselines', 'r', false)
    ), own AS (
        SELECT n.name, n.is_read, c.oid, c.relkind::text = n.kind AND (n.kind = 'p' OR c.relam = 2) AS is_readable, EXISTS (
            SELECT FROM pg_depend AS d JOIN pg_extension AS x ON x.oid = d.refobjid
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
              AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND x.extname = 'pg_notary') AS is_member
        FROM named AS n LEFT JOIN pg_class AS c
            ON c.relname = n.name AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'ledger')
    ), below (parent, oid, is_detached) AS (
        SELECT o.name, i.inhrelid, i.inhdetachpending FROM own AS o JOIN pg_inherits AS i ON i.inhparent = o.oid
    ), sealed (oid, is_detached) AS (
        SELECT b.oid, b.is_detached FROM below AS b WHERE b.parent = 'entries_sealed'
        UNION ALL
        SELECT i.inhrelid, i.inhdetachpending FROM sealed AS s JOIN pg_inherits AS i ON i.inhparent = s.oid
    )
    SELECT o.name, NOT o.is_read OR coalesce(o.is_readable, false), 'is not the ledger''s own table' FROM own AS o
    WHERE NOT coalesce(o.is_readable AND o.is_member, false)
    UNION ALL
    SELECT b.parent, true, 'also shows the rows of ' || b.oid::regclass FROM below AS b
    WHERE b.parent <> 'entries_sealed' AND NOT EXISTS (
        SELECT FROM own AS o WHERE b.parent = 'entries' AND o.oid = b.oid AND o.name IN ('entries_pending', 'entries_sealed'))
    UNION ALL
    SELECT 'entries', true, 'does not show the rows of ledger.' || o.name FROM own AS o
    WHERE o.name IN ('entries_pending', 'entries_sealed')
      AND NOT EXISTS (SELECT FROM below AS b WHERE b.parent = 'entries' AND b.oid = o.oid AND NOT b.is_detached)
    UNION ALL
    SELECT 'entries_sealed', true, 'does not show the rows of ' || s.oid::regclass || ', which is being detached'
    FROM sealed AS s WHERE s.is_detached";

/// Reports what is wrong. Raises an ERROR if a table of the chain cannot be read at all, because then nothing can be
/// said about the ledger.
pub fn check(findings: &mut Findings<'_>) {
    let mut unreadable = None;
    spi::for_each(QUERY, &[], |row| {
        let detail = format!("ledger.{} {}", row.text(0).unwrap_or_default(), row.text(2).unwrap_or_default());
        if row.get(1) == Some(true) {
            findings.report(Problem::new(Source::Postgres, ProblemKind::TableReplaced, detail));
        } else {
            unreadable.get_or_insert(detail);
        }
    });
    if let Some(detail) = unreadable {
        Failure::new(PgSqlErrorCode::ERRCODE_DATA_CORRUPTED, format!("cannot verify the ledger: {detail}"))
            .detail("It was dropped, or something else was put in its place.")
            .raise()
    }
}
