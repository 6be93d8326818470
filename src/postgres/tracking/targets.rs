//! The tables that a verification covers, and the snapshot that it reads with.
//!
//! The tables are locked before the snapshot is taken. That keeps other sessions from dropping, detaching, truncating
//! or rewriting them, but not from `ATTACH PARTITION`. Of a partition that is attached after the snapshot, the snapshot
//! sees rows but no entries; one that is attached before it must not be missed. So the snapshot itself is asked which
//! partitions there are. If those are not the ones that are locked, another snapshot is taken.

use super::options::Options;
use super::plan;
use crate::postgres::errors::Failure;
use crate::postgres::relation;
use crate::postgres::spi;
use crate::postgres::subtransaction::attempt;
use crate::postgres::tables::{RegisteredSnapshot, Table};
use pgrx::{check_for_interrupts, pg_sys, PgSqlErrorCode};
use std::collections::HashMap;

/// A tracked table that is to be verified, locked until the transaction ends, and its partitions with it.
pub struct Target {
    oid: pg_sys::Oid,
    pub options: Options,
    /// The table, its partitions, and their partitions.
    tree: Vec<pg_sys::Oid>,
}

/// The direct partitions of tables, as a snapshot sees them.
type Partitions = HashMap<pg_sys::Oid, Vec<pg_sys::Oid>>;

impl Target {
    /// Locks the partitions of a table that is tracked with these options.
    pub fn lock(table: &Table, options: Options) -> Result<Target, Failure> {
        check_whole(table, &options)?;
        let tree = relation::tree(table, pg_sys::AccessShareLock);
        Ok(Target { oid: relation::oid(table), options, tree })
    }

    pub fn oid(&self) -> pg_sys::Oid {
        self.oid
    }

    pub fn open(&self) -> Table {
        Table::open_oid(self.oid, pg_sys::AccessShareLock)
    }

    /// The relations that hold its rows.
    pub fn leaves(&self) -> impl Iterator<Item = Table> + '_ {
        let opened = self.tree.iter().map(|oid| Table::open_oid(*oid, pg_sys::AccessShareLock));
        opened.filter(|table| !table.is_partitioned())
    }

    /// Locks the partitions that a snapshot sees. Returns whether they differ from those that were locked.
    fn follow(&mut self, partitions: &Partitions) -> bool {
        let tree = tree_of(self.oid, partitions);
        if self.tree == tree {
            return false;
        }
        // The next snapshot does not see a partition that is gone meanwhile.
        tree.iter().for_each(|oid| relation::lock(*oid, pg_sys::AccessShareLock));
        self.tree = tree;
        true
    }
}

/// A snapshot that is newer than the locks of the targets, and sees the partitions that are locked and no others.
pub fn snapshot_of(targets: &mut [Target]) -> RegisteredSnapshot {
    let mut partitioned: Vec<&mut Target> =
        targets.iter_mut().filter(|target| target.open().is_partitioned()).collect();
    loop {
        check_for_interrupts!();
        let snapshot = RegisteredSnapshot::latest();
        if partitioned.is_empty() {
            return snapshot;
        }
        let partitions = partitions_as_of(&snapshot);
        let mut is_settled = true;
        for target in &mut partitioned {
            is_settled &= !target.follow(&partitions);
        }
        if is_settled {
            return snapshot;
        }
    }
}

/// All partitions in the database, by the table that they are a partition of.
fn partitions_as_of(snapshot: &RegisteredSnapshot) -> Partitions {
    let mut partitions = Partitions::new();
    let query = "SELECT i.inhparent, i.inhrelid FROM pg_inherits AS i \
                 JOIN pg_class AS c ON c.oid = i.inhrelid WHERE c.relispartition";
    snapshot.while_active(|| {
        spi::run(query, &[], spi::Access::Read, |row| {
            let (Some(parent), Some(partition)) = (row.get(0), row.get::<pg_sys::Oid>(1)) else { return };
            partitions.entry(parent).or_default().push(partition);
        });
    });
    partitions.values_mut().for_each(|oids| oids.sort_unstable_by_key(|oid| oid.to_u32()));
    partitions
}

/// The table and its partitions, in the order of [`relation::tree`].
fn tree_of(root: pg_sys::Oid, partitions: &Partitions) -> Vec<pg_sys::Oid> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(parent) = all.get(next) {
        all.extend_from_slice(partitions.get(parent).map_or(&[], Vec::as_slice));
        next += 1;
    }
    all
}

/// Refuses a partition: entries say which table a row is in, not which partition of it.
fn check_whole(table: &Table, options: &Options) -> Result<(), Failure> {
    // A type may be damaged: that is an error of this table alone.
    let plan = attempt(|| plan::of(table, || Ok(options.clone())))??;
    if !plan.is_partition {
        return Ok(());
    }
    let (name, whole) = (table.qualified_name(), &plan.table);
    Err(Failure::new(PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE, format!("cannot verify table {name} alone"))
        .detail(format!("It is a partition of {whole}, which is tracked together with the rows of its partitions."))
        .hint(format!("Call the function for {whole}.")))
}

pub fn not_tracked(table: &Table) -> Failure {
    let message = format!("table {} is not tracked", table.qualified_name());
    let to_track = match table.is_plain() || table.is_partitioned() {
        true => format!("To track it: SELECT ledger.track({}). ", relation::name_literal(table)),
        false => String::new(),
    };
    Failure::new(PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .hint(format!("{to_track}View ledger.tracked_tables lists the tracked tables."))
}
