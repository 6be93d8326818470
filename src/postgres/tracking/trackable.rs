//! Which tables can be tracked: those whose rows change only through statements, and otherwise stay as they are. Of a
//! partitioned table, each partition that holds rows must be such a table.

use super::options::{is_row_trigger, triggers_of};
use crate::postgres::errors::Failure;
use crate::postgres::relation;
use crate::postgres::tables::Table;
use pgrx::{pg_sys, PgSqlErrorCode};

/// Why the rows of a relation cannot be recorded (as the end of a sentence about it), and what to do about it.
pub struct Obstacle {
    pub why: &'static str,
    pub hint: &'static str,
}

const OTHER_METHOD: &str = "has an access method other than heap";
const UNLOGGED: &str =
    "is unlogged: a crash empties it, while the ledger keeps what was recorded, so every row would be reported missing";

/// What prevents recording the rows of a relation, whatever role owns it.
pub fn obstacle(table: &Table) -> Option<Obstacle> {
    let class = table.pg_class();
    let obstacle = |why, hint| Some(Obstacle { why, hint });
    let tables_only = "Track the tables that hold the rows.";
    match class.relkind as u8 {
        pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE => {}
        pg_sys::RELKIND_VIEW => return obstacle("is a view and holds no rows", tables_only),
        pg_sys::RELKIND_MATVIEW => return obstacle("is a materialized view: its rows are computed", tables_only),
        pg_sys::RELKIND_FOREIGN_TABLE => {
            return obstacle("is a foreign table: its rows can change where no trigger sees it", tables_only)
        }
        _ => return obstacle("is not a table", tables_only),
    }
    match class.relpersistence as u8 {
        pg_sys::RELPERSISTENCE_PERMANENT => {}
        _ if is_unlogged(table) => return obstacle(UNLOGGED, "ALTER TABLE ... SET LOGGED first."),
        _ => return obstacle("is temporary: its rows are gone with the session", "Track a permanent table."),
    }
    match table.is_plain() && !table.is_heap() {
        true => obstacle(OTHER_METHOD, "Tables with another access method cannot be tracked yet."),
        false => None,
    }
}

pub fn is_unlogged(table: &Table) -> bool {
    table.pg_class().relpersistence as u8 == pg_sys::RELPERSISTENCE_UNLOGGED
}

/// Refuses a table with another access method: rows are read with the functions of a heap, and of nothing else.
pub fn check_heap(table: &Table) -> Result<(), Failure> {
    if !table.is_plain() || table.is_heap() {
        return Ok(());
    }
    let message = format!("cannot read the rows of table {}", table.qualified_name());
    Err(Failure::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, message)
        .detail(format!("The table {OTHER_METHOD}."))
        .hint("ALTER TABLE ... SET ACCESS METHOD heap."))
}

/// Checks that rows of each of these partitions, which are locked, can be recorded as rows of their table. Otherwise
/// fails with `refusal()` as the message.
pub fn check_partitions(partitions: &[pg_sys::Oid], refusal: impl Fn() -> String) -> Result<(), Failure> {
    let refuse = |partition: &Table, why: &str, hint: &str| {
        let detail = format!("Partition {} {why}.", partition.qualified_name());
        let failure = Failure::new(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, refusal());
        Err(failure.detail(detail).hint(hint))
    };
    for oid in partitions {
        let partition = Table::open_oid(*oid, pg_sys::NoLock);
        if has_own_trigger(&partition) {
            return refuse(
                &partition,
                "is tracked itself",
                &format!("SELECT ledger.untrack({}) first.", relation::name_literal(&partition)),
            );
        }
        if relation::is_leaving(&partition) {
            return refuse(&partition, "is being detached", "ALTER TABLE ... DETACH PARTITION ... FINALIZE first.");
        }
        match obstacle(&partition) {
            // A partitioned table holds no rows itself, so neither a crash nor another access method can harm them.
            Some(Obstacle { why, hint }) if !partition.is_partitioned() => return refuse(&partition, why, hint),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the table is tracked, and not merely as a partition of one that is.
fn has_own_trigger(table: &Table) -> bool {
    // SAFETY: the relation is open.
    unsafe { triggers_of(table.relation()) }.iter().any(|trigger| {
        // SAFETY: `trigger` belongs to the open relation.
        !trigger.tgisclone && unsafe { is_row_trigger(trigger) }
    })
}
