//! Who keeps others from the locks that sealing needs, and by what: as a message begins.

use super::spi;

/// Who has the lock `l`, a row of `pg_locks`, or waits for it: arguments of concat().
macro_rules! holder {
    () => {
        "CASE WHEN l.pid IS NULL THEN 'a prepared transaction' ELSE concat('session ', l.pid) END, \
         CASE WHEN l.granted THEN ' holds' ELSE ' waits for' END"
    };
}

/// Who keeps others from taking the sealing lock, which is one on the extension; `None` if nobody does any more. It may
/// be who holds it, or who waits for a stronger one: others wait behind that.
pub fn of_extension() -> Option<String> {
    first(concat!(
        "SELECT concat(",
        holder!(),
        ", ' the lock on extension pg_notary') FROM pg_locks AS l \
         WHERE l.locktype = 'object' AND l.classid = 'pg_extension'::regclass \
         AND l.objid = (SELECT oid FROM pg_extension WHERE extname = 'pg_notary') \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND CASE WHEN l.granted THEN l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock') \
         ELSE l.mode = 'AccessExclusiveLock' END ORDER BY l.granted DESC, l.waitstart LIMIT 1"
    ))
}

/// Who holds a lock on a table of the ledger against those who read or write it, or else who waits for one: all others
/// wait behind that. Who has locked `ledger.blocks` to write to it keeps a new partition from being attached.
pub fn of_table() -> Option<String> {
    first(concat!(
        "SELECT concat(",
        holder!(),
        ", ' a lock on ledger.', c.relname) \
         FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation \
         WHERE l.locktype = 'relation' \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND c.relnamespace = (SELECT extnamespace FROM pg_extension WHERE extname = 'pg_notary') \
         AND (l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') \
         OR l.mode = 'RowExclusiveLock' AND c.relname = 'blocks') \
         ORDER BY l.mode = 'RowExclusiveLock', l.granted DESC, l.mode = 'AccessExclusiveLock' DESC, c.relkind = 'i', \
         l.waitstart LIMIT 1"
    ))
}

fn first(query: &'static str) -> Option<String> {
    let mut first = None;
    spi::for_each_in_catalogs(query, &[], |row| first = row.get::<String>(0));
    first
}
