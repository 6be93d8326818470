//! What the tests of transactions have in common: what is to be committed and what not is told apart by its type.

use super::ledger::*;
use super::{wait_until, Cluster};
use postgres::Client;

/// `keep()` and `drop()` record what the transaction is to commit and what not.
const SCHEMA: &str = "
CREATE FUNCTION keep(n int DEFAULT 0) RETURNS int LANGUAGE sql AS $$
    SELECT n FROM (SELECT ledger.hash_and_record('keep', to_jsonb(n), jsonb_build_object('n', n))) AS recorded
$$;
CREATE FUNCTION drop(n int DEFAULT 0) RETURNS int LANGUAGE sql AS $$
    SELECT n FROM (SELECT ledger.hash_and_record('drop', to_jsonb(n), jsonb_build_object('n', n))) AS recorded
$$;
CREATE TABLE checked (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE skew (n int);";

/// Sealing only where a test asks for it.
pub fn start_quiet() -> (Cluster, Client) {
    let (cluster, mut client) = start(quiet());
    client.batch_execute(SCHEMA).unwrap();
    wait_until_attached(&mut client);
    (cluster, client)
}

/// Table and file hold that many entries, all of them to be kept, and the same. Of what was dropped, `voided` entries
/// have a line; each of them is voided.
#[track_caller]
pub fn assert_recorded(client: &mut Client, kept: usize, voided: usize) {
    let path = file(client);
    wait_until("the void lines are there", PATIENCE, || voided_ids(&lines(&path)).len() >= voided);
    let lines = lines(&path);
    let ids = ids_in_file(&path);
    let (good, bad): (Vec<_>, Vec<_>) =
        of_type(&lines, "entry").into_iter().partition(|line| ids.contains(line["entry_id"].as_str().unwrap()));
    assert_eq!((good.len(), bad.len()), (kept, voided), "entries kept and voided: {lines:#?}");
    assert!(good.iter().all(|line| line["entry_type"] == "keep"), "{good:#?}");
    assert!(bad.iter().all(|line| line["entry_type"] == "drop"), "{bad:#?}");
    assert_intact(client);
}

/// The `n` of the entry lines of a file, in the order of the lines.
pub fn numbers_in_file(client: &mut Client) -> Vec<i64> {
    let lines = lines(&file(client));
    of_type(&lines, "entry").iter().map(|line| line["metadata"]["n"].as_i64().unwrap()).collect()
}

/// Seals all, and both copies are valid.
#[track_caller]
pub fn seal_and_verify(client: &mut Client) {
    seal(client);
    assert_intact(client);
}
