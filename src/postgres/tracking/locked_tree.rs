//! A table with its partitions, locked to look at its triggers or to change them.

use super::options::Options;
use crate::postgres::relation;
use crate::postgres::tables::Table;
use pgrx::pg_sys;

pub struct LockedTree {
    pub table: Table,
    /// The table, then its partitions and theirs.
    pub oids: Vec<pg_sys::Oid>,
    /// The lock that each of them has.
    pub lock: u32,
}

impl LockedTree {
    /// For a look at what they have now. It holds up no session that reads or writes rows, and triggers may still be
    /// made.
    pub fn to_read(target: pg_sys::Oid) -> LockedTree {
        LockedTree::lock(target, pg_sys::AccessShareLock)
    }

    /// Takes the lock that making or dropping the triggers needs, on all of them at once: with one that keeps out
    /// writers and is to become one that keeps out readers, a session that has read with FOR UPDATE and is going to
    /// write would wait for the caller, and the caller for that session.
    pub fn to_change_triggers(target: pg_sys::Oid) -> LockedTree {
        loop {
            let seen = LockedTree::to_read(target);
            let lock = seen.needed();
            seen.unlock();
            let tree = LockedTree::lock(target, lock);
            if tree.needed() <= lock {
                return tree;
            }
            // Another session has made the table a tracked one while this one waited.
            tree.unlock();
        }
    }

    fn lock(target: pg_sys::Oid, lock: u32) -> LockedTree {
        let table = Table::open_oid(target, lock);
        let oids = relation::tree(&table, lock);
        LockedTree { table, oids, lock }
    }

    /// The partitions, without the table itself.
    pub fn partitions(&self) -> &[pg_sys::Oid] {
        &self.oids[1..]
    }

    /// The lock that a change of the triggers needs.
    fn needed(&self) -> u32 {
        match Options::of(&self.table) {
            Some(_) => pg_sys::AccessExclusiveLock,
            None => pg_sys::ShareRowExclusiveLock,
        }
    }

    /// Gives the locks back before the transaction ends. Nothing was changed under them.
    pub fn unlock(self) {
        let LockedTree { table, oids, lock } = self;
        drop(table);
        oids.into_iter().rev().for_each(|oid| relation::unlock(oid, lock));
    }
}
