//! Changes that a superuser makes to the tables, and whether they are found.

use super::ledger::*;
use super::{Cluster, Options};
use postgres::Client;

/// A ledger of 5 blocks of 4 entries, two of them unsigned, and 3 pending entries, one of them unsigned.
pub fn ledger() -> (Cluster, Client) {
    let options = Options::new().conf("ledger.block_size = 4").conf("ledger.block_interval = 1h");
    let (cluster, mut client) = start(options);
    let record = "SELECT ledger.hash_and_record('test', to_jsonb(n), jsonb_build_object('n', n), n NOT IN (3, 10, 22))";
    client.batch_execute(&format!("{record} FROM generate_series(1, 20) n")).unwrap();
    wait_until_sealed(&mut client);
    client.batch_execute(&format!("{record} FROM generate_series(21, 23) n")).unwrap();
    wait_for(&mut client, "(SELECT pending_count = 3 FROM ledger.chain_stats)");
    (cluster, client)
}

/// Turns off all that stands in a superuser's way: the triggers of the ledger and those of the application's tables.
pub const TRIGGERS_OFF: &str = "
DO $$
DECLARE
    t regclass;
BEGIN
    FOR t IN SELECT c.oid FROM pg_class c WHERE relnamespace IN ('ledger'::regnamespace, 'public'::regnamespace)
             AND relkind IN ('r', 'p') LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER ALL', t);
    END LOOP;
END $$";

/// Does something to a table while its indexes take no new rows.
pub fn past_the_indexes(table: &str, sql: &str) -> String {
    let switch = |on: bool| {
        format!("UPDATE pg_index SET indisready = {on}, indisvalid = {on} WHERE indrelid = 'ledger.{table}'::regclass")
    };
    // The last has the server look at the table's indexes again.
    format!("{}; {sql}; {}; ALTER TABLE ledger.{table} SET (autovacuum_enabled = true)", switch(false), switch(true))
}

/// What a problem says of its place.
#[derive(Debug)]
pub struct Found {
    pub block: Option<i64>,
    pub leaf: Option<i64>,
    pub entry: Option<String>,
}

pub fn find_tampering(client: &mut Client) -> Vec<Found> {
    let sql = "SELECT block_number, leaf_index, entry_id::text FROM ledger.find_tampering()";
    let rows = client.query(sql, &[]).unwrap();
    rows.iter().map(|row| Found { block: row.get(0), leaf: row.get(1), entry: row.get(2) }).collect()
}

/// Where a change must show.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// In this block, and in none before it.
    Block(i64),
    /// At this leaf, in no block before its own.
    Leaf(i64),
    /// At this pending entry.
    Pending(i64),
    /// Of the ledger as a whole: at no block, leaf or entry.
    Ledger,
}

pub fn is_named(place: Place, found: &[Found], pending: &[String]) -> bool {
    let first_block = found.iter().filter_map(|problem| problem.block).min();
    match place {
        Place::Block(block) => first_block == Some(block),
        Place::Leaf(leaf) => {
            first_block == Some(leaf / 4 + 1) && found.iter().any(|problem| problem.leaf == Some(leaf))
        }
        Place::Pending(number) => {
            first_block.is_none()
                && found.iter().any(|problem| problem.entry.as_ref() == Some(&pending[number as usize]))
        }
        Place::Ledger => {
            let has_place =
                |problem: &Found| problem.block.is_some() || problem.leaf.is_some() || problem.entry.is_some();
            !found.is_empty() && !found.iter().any(has_place)
        }
    }
}

/// Makes the change, and returns what is wrong with how it was reported.
pub fn complaint(client: &mut Client, pending: &[String], sql: &str, place: Place) -> Option<String> {
    client.batch_execute("BEGIN").unwrap();
    client.batch_execute(TRIGGERS_OFF).unwrap();
    if let Err(error) = client.batch_execute(sql) {
        client.batch_execute("ROLLBACK").unwrap();
        return Some(format!("{sql}: {error:?}"));
    }
    let valid = verdict(client)["overall_valid"] == true;
    let found = find_tampering(client);
    client.batch_execute("ROLLBACK").unwrap();
    let is_reported = !valid && is_named(place, &found, pending);
    (!is_reported).then(|| format!("{sql}\n  {place:?}, valid: {valid}\n  {found:?}"))
}

#[track_caller]
pub fn assert_found(changes: &[(String, Place)]) {
    let (_cluster, mut client) = ledger();
    assert_intact(&mut client);
    assert!(find_tampering(&mut client).is_empty());
    let pending = column(&mut client, "SELECT id FROM ledger.entries_pending ORDER BY id");
    let complaints: Vec<String> =
        changes.iter().filter_map(|(sql, place)| complaint(&mut client, &pending, sql, *place)).collect();
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), changes.len(), complaints.join("\n"));
    // All of it was rolled back.
    assert_intact(&mut client);
}
