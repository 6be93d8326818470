//! Making the partitions of `ledger.entries_sealed`: how many blocks one is for, and when the next one is made.

use super::{no_place, open_parent, sealed, Kind, SealedPartition};
use crate::postgres::ddl;
use crate::postgres::errors::{with_place, Failure};
use crate::postgres::local_settings::with_setting;
use crate::postgres::lock_limit::LockLimit;
use crate::postgres::settings;
use crate::postgres::spi::{self, Argument};
use crate::postgres::subtransaction::attempt_unlocked;
use crate::postgres::tables::{self, RegisteredSnapshot};
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::time::{Duration, Instant};

/// About how many entries one partition holds: large enough that looking an id up in every partition stays cheap, small
/// enough that one can be moved to other storage in reasonable time.
const PARTITION_ENTRIES: i64 = 10_000_000;

/// A partition is for at most so many times the blocks that hold [`PARTITION_ENTRIES`] if they are full. Its end cannot
/// be moved once it is there: should blocks of few entries become full ones, it gets so many times the entries, which
/// can still be moved to other storage. And with the largest blocks, one every five minutes, a year makes seven
/// partitions instead of 105, so a larger factor would gain little.
const MOST_SPANS: i64 = 16;

/// How long a process leaves it at that, after it could not create the next partition in advance.
const ADVANCE_RETRY: Duration = Duration::from_secs(60);

/// How long to wait for a lock meanwhile. The new partition refers to `ledger.blocks`, which Postgres locks for that,
/// and any role can hold a lock on it that is in the way. Nobody else can seal while this waits. Longer than
/// deadlock_timeout, after which autovacuum gives way.
const LOCK_LIMIT: Duration = Duration::from_secs(2);

thread_local! {
    /// When this process last could not create the next partition in advance.
    static REFUSED_AT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Makes sure that block `first` has a partition, and that the next partition exists before it is needed by the blocks
/// up to `last`. Runs DDL as the current user, who must own the ledger's tables. Returns the first block behind those
/// that have a place now; what this has made in advance is for the next transaction to fill.
///
/// It must exist before it is needed, because Postgres tells other sessions of a new partition only after they can see
/// its transaction as committed. If the same transaction filled it, a session that takes a snapshot in between would
/// find the new block's entries neither there nor in the pending table.
pub fn ensure_for(first: i64, last: i64) -> i64 {
    let _limit = LockLimit::at_most(LOCK_LIMIT);
    place_for(first, last)
}

/// As [`ensure_for`], for blocks that one transaction writes or none. It waits for locks as its caller wants to.
pub fn ensure_for_all(first: i64, last: i64) {
    let mut next = first;
    while next <= last {
        next = place_for(next, last);
    }
}

fn place_for(first: i64, last: i64) -> i64 {
    let mut partitions = sealed();
    partitions.retain(|partition| partition.kind != Kind::Default);
    let last_end = partitions.iter().map(|partition| partition.to).max();
    let end = end_of_places(&partitions, first);
    if end == first {
        // If a DBA has taken a partition away, another one in its place would keep it from being attached again.
        if last_end != Some(first) {
            no_place(first).raise()
        }
        return add_needed(first);
    }
    if last_end == Some(end) && end <= last + full_span() / 10 && !was_refused_lately() {
        add_in_advance(end);
    }
    end
}

/// The first block from `first` on that has no partition.
fn end_of_places(partitions: &[SealedPartition], first: i64) -> i64 {
    let mut end = first;
    while let Some(partition) = partitions.iter().find(|partition| partition.may_hold(end)) {
        end = partition.to;
    }
    end
}

/// Adds the partition without which the block `from` cannot be sealed. Returns its end.
fn add_needed(from: i64) -> i64 {
    let adding = || {
        let to = from + span();
        add(from, to);
        Ok(to)
    };
    let place = || {
        let name = name(from);
        Some(format!("Sealing was creating ledger.{name}, the partition of ledger.entries_sealed for block {from}."))
    };
    with_place(adding, place)
}

/// Adds a partition while there is still room in the one before. If that fails, sealing goes on.
fn add_in_advance(from: i64) {
    let _limit = LockLimit::at_most(LOCK_LIMIT);
    let Err(failure) = attempt_unlocked(|| add(from, from + span())) else { return };
    REFUSED_AT.set(Some(Instant::now()));
    let message = format!("could not create ledger.{} in advance: {}", name(from), failure.text());
    Failure::new(failure.code(), message)
        .detail(format!("It is the next partition of ledger.entries_sealed. Without it, sealing goes on until block {}.", from - 1))
        .hint("Remove what keeps it from being created: for example, a relation with its name, or a transaction that has locked ledger.blocks. Sealing tries again by itself, at most once a minute in each process.")
        .warn();
}

fn was_refused_lately() -> bool {
    REFUSED_AT.get().is_some_and(|at| at.elapsed() < ADVANCE_RETRY)
}

fn add(from: i64, to: i64) {
    create(from, to);
    // A member of the extension, as its parent is: pg_dump must not dump one without the other.
    ddl::run(&format!("ALTER EXTENSION pg_notary ADD TABLE ledger.{}", name(from)));
}

/// How many blocks a new partition is for. They are as many as hold [`PARTITION_ENTRIES`] if they have as many entries
/// as blocks have had lately. Most are far from full where `ledger.block_interval` ends them, and each partition takes
/// time of every statement that records and of every look-up.
fn span() -> i64 {
    let full = full_span();
    blocks_of(PARTITION_ENTRIES, full).unwrap_or(full).clamp(full, full * MOST_SPANS)
}

/// How many blocks hold [`PARTITION_ENTRIES`] if all of them are full.
fn full_span() -> i64 {
    (PARTITION_ENTRIES / settings::block_size() as i64).max(1)
}

/// How many blocks hold `entries` if they are like the newest ones, of which up to `sample` are looked at. Two rows of
/// `ledger.blocks` say how many entries these have. `None` if there are no blocks.
fn blocks_of(entries: i64, sample: i64) -> Option<i64> {
    let snapshot = RegisteredSnapshot::latest();
    let head = tables::newest_block(&snapshot)?;
    let sample = sample.min(head.block_number);
    let size_before = match head.block_number - sample {
        0 => 0,
        before => tables::block(before, &snapshot)?.tree_size,
    };
    Some(entries * sample / (head.tree_size - size_before).max(1))
}

fn name(from: i64) -> String {
    format!("entries_sealed_{from}")
}

/// Creates a table and then attaches it. That neither waits for sessions that record nor holds them up. CREATE TABLE
/// ... PARTITION OF would lock the parent against all others. The table is stored where its parent is, and not where
/// the caller's `default_tablespace` points to: no tablespace asks whether the caller may create anything there.
///
/// Autovacuum freezes the rows as soon as it comes, because they never change. Otherwise it would write every page
/// again after 50 million transactions, to freeze them then.
fn create(from: i64, to: i64) {
    let name = name(from);
    let make = [
        format!("CREATE TABLE ledger.{name} (LIKE ledger.entries_sealed INCLUDING ALL, PRIMARY KEY (id), UNIQUE (leaf_index), CHECK (leaf_index IS NOT NULL)) USING heap WITH (autovacuum_freeze_min_age = 0)"),
        format!("CREATE TRIGGER refuse_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.{name} FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()"),
        format!("ALTER TABLE ledger.{name} ENABLE ALWAYS TRIGGER refuse_statement"),
        format!("ALTER TABLE ledger.entries_sealed ATTACH PARTITION ledger.{name} FOR VALUES FROM ({from}) TO ({to})"),
    ];
    with_setting(c"default_tablespace", &tablespace(), || make.iter().for_each(|statement| ddl::run(statement)));
    take_away_privileges(&name);
}

/// Whatever ALTER DEFAULT PRIVILEGES gives, nobody may do anything with a partition alone: who may read its table reads
/// it there. A grant would become part of the extension, so that a dump would name a role that is dropped later.
fn take_away_privileges(partition: &str) {
    ddl::run(&format!("REVOKE ALL ON ledger.{partition} FROM PUBLIC"));
    let query = "SELECT string_agg(DISTINCT a.grantee::regrole::text, ', ') \
         FROM pg_class AS c, aclexplode(c.relacl) AS a \
         WHERE c.oid = $1::regclass AND a.grantee NOT IN (0, c.relowner)";
    let mut grantees = None;
    let name = format!("ledger.{partition}");
    spi::for_each_in_catalogs(query, &[Argument::text(Some(&name))], |row| grantees = row.get::<String>(0));
    if let Some(grantees) = grantees {
        ddl::run(&format!("REVOKE ALL ON ledger.{partition} FROM {grantees}"));
    }
}

/// The tablespace of the partitioned table, as a setting names it: empty for that of the database.
fn tablespace() -> CString {
    let parent = open_parent();
    // SAFETY: a catalog look-up inside a transaction. It gives a copy, or null where the relation states no tablespace.
    unsafe {
        let name = pg_sys::get_tablespace_name(parent.pg_class().reltablespace);
        if name.is_null() {
            CString::default()
        } else {
            CStr::from_ptr(name).to_owned()
        }
    }
}

/// Creates the partition for the first blocks. Only the install script calls this; it makes the table a member.
#[pg_extern(volatile, parallel_unsafe)]
#[search_path(pg_catalog, pg_temp)]
fn make_first_partition() {
    create(1, 1 + full_span());
}
