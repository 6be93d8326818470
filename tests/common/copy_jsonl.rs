//! What the tests of COPY in format jsonl have in common: a ledger with lines of every kind, its export, and the
//! import.

use super::ledger::*;
use super::{wait_until, Cluster};
use postgres::error::SqlState;
use postgres::{Client, Error};
use std::io::{Read, Write};
use std::path::Path;

pub const IMPORT: &str = "COPY ledger.entries FROM STDIN WITH (FORMAT jsonl)";

/// A ledger with sealed, pending and voided entries.
pub fn start_with_ledger() -> (Cluster, Client) {
    let (cluster, mut client) = start(quiet());
    for size in [3, 10, 1] {
        record_many(&mut client, size);
        seal(&mut client);
    }
    void_one(&cluster, &mut client);
    let metadata = "jsonb_build_object('text', E'é\\n\"', 'large', 123456789012345678901234.5, 'n', n)";
    let insert = format!(
        "INSERT INTO ledger.entries (entry_type, data_hash, metadata) \
         SELECT 'ümlaut', ledger.hash_data(to_jsonb(n)), {metadata} FROM generate_series(1, 5) n"
    );
    client.batch_execute(&insert).unwrap();
    seal(&mut client);
    void_one(&cluster, &mut client);
    client.batch_execute(&insert).unwrap();
    assert_intact(&mut client);
    (cluster, client)
}

/// Leaves the line of a transaction that fails only after its lines are in the file, and its void line.
fn void_one(cluster: &Cluster, client: &mut Client) {
    let path = file(client);
    let voids = |path: &Path| of_type(&lines(path), "void").len();
    let before = voids(&path);
    client.batch_execute("CREATE TABLE IF NOT EXISTS doctors (name text, on_call boolean)").unwrap();
    client.batch_execute("TRUNCATE doctors; INSERT INTO doctors VALUES ('a', true), ('b', true)").unwrap();
    let mut first = cluster.connect("postgres");
    let mut second = cluster.connect("postgres");
    for (session, name) in [(&mut first, "a"), (&mut second, "b")] {
        session
            .batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM doctors WHERE on_call")
            .unwrap();
        session.batch_execute(&format!("UPDATE doctors SET on_call = false WHERE name = '{name}'")).unwrap();
    }
    second.batch_execute(RECORD).unwrap();
    first.batch_execute("COMMIT").unwrap();
    assert_eq!(*error(&mut second, "COMMIT").code(), SqlState::T_R_SERIALIZATION_FAILURE);
    wait_until("the line is voided", PATIENCE, || voids(&path) > before);
}

pub fn import(path: &Path) -> String {
    format!("COPY ledger.entries FROM '{}' WITH (FORMAT jsonl)", path.display())
}

/// Imports these lines; gives how many it took.
pub fn import_lines(client: &mut Client, lines: &str) -> Result<u64, Error> {
    let mut writer = client.copy_in(IMPORT).unwrap();
    writer.write_all(lines.as_bytes()).unwrap();
    writer.finish()
}

pub fn export(client: &mut Client) -> String {
    let mut out = String::new();
    let mut reader = client.copy_out("COPY ledger.entries TO STDOUT WITH (FORMAT jsonl)").unwrap();
    reader.read_to_string(&mut out).unwrap();
    out
}
