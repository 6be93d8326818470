//! `pg_notary items sync` against a registry: every way in which files and registry can differ is told.
#![cfg(all(feature = "cluster-tests", feature = "cli"))]

mod common;

use common::ledger::*;
use common::{Cluster, Options};
use postgres::Client;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Registers a tool of one line.
fn create(client: &mut Client, id: &str, path: &str, version: &str) {
    let sql = format!(
        "SELECT ledger.create_item('tool', '{id}', '{version}', E'# version: {version}\\n{id}()\\n', '{path}')"
    );
    client.batch_execute(&sql).unwrap();
}

/// The file of that tool, as a person would have it.
fn write(project: &Path, id: &str, path: &str, version: &str) {
    let path = project.join(".ai/tools").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("# version: {version}\n{id}()\n")).unwrap();
}

fn sync(cluster: &Cluster, user: &str, more: &[&str], project: &Path) -> Output {
    let port = cluster.config("postgres").get_ports()[0];
    let sockets = cluster.socket().parent().unwrap().display().to_string();
    let database = format!("host={sockets} port={port} user={user} dbname=postgres");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pg_notary"));
    command.args(["items", "sync", "--database", &database]).args(more).arg(project);
    command.env_remove("PGPASSWORD").output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn every_way_to_differ_is_told() {
    let (cluster, mut client) = start(Options::new());
    let project = TempDir::new().unwrap();
    for id in ["same", "edited", "moved", "revoked", "gone"] {
        create(&mut client, id, &format!("core/{id}.py"), "1.0.0");
    }
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'revoked', '1.0.0', 'leaks keys')").unwrap();
    for id in ["same", "edited", "revoked", "new"] {
        write(project.path(), id, &format!("core/{id}.py"), "1.0.0");
    }
    write(project.path(), "moved", "elsewhere/moved.py", "1.0.0");
    let edited = project.path().join(".ai/tools/core/edited.py");
    fs::write(&edited, "# version: 1.0.0\nedited(1)\n").unwrap();

    let output = sync(&cluster, "postgres", &["--json"], project.path());
    let found = report(&output);
    assert_eq!((output.status.code(), found["in_sync"].as_bool()), (Some(1), Some(false)), "{found:#}");
    let mut states: Vec<String> = found["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| format!("{} {}", item["item_id"].as_str().unwrap(), item["status"].as_str().unwrap()))
        .collect();
    states.sort();
    let expected =
        ["edited differs", "gone missing_locally", "moved moved", "new missing_here", "revoked revoked", "same match"];
    assert_eq!(states, expected);

    let text = String::from_utf8(sync(&cluster, "postgres", &[], project.path()).stdout).unwrap();
    assert!(text.contains("differs") && text.contains("edited.py") && text.ends_with("NOT IN SYNC\n"), "{text}");
    assert!(!text.contains("same.py"), "{text}");
}

#[test]
fn a_tree_that_the_registry_has_is_in_sync() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE ROLE reader LOGIN IN ROLE ledger_auditor").unwrap();
    let project = TempDir::new().unwrap();
    for id in ["a", "b"] {
        create(&mut client, id, &format!("{id}.py"), "2.0.0");
        write(project.path(), id, &format!("{id}.py"), "2.0.0");
    }
    let output = sync(&cluster, "reader", &["--json"], project.path());
    assert_eq!((output.status.code(), report(&output)["counts"]["match"].as_i64()), (Some(0), Some(2)), "{output:?}");
}

#[test]
fn what_cannot_be_asked_exits_with_2_and_shows_no_password() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE ROLE nobody_here LOGIN").unwrap();
    let project = TempDir::new().unwrap();
    write(project.path(), "a", "a.py", "1.0.0");
    let refused = sync(&cluster, "nobody_here", &[], project.path());
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("cannot ask the registry: permission denied"), "{said}");

    let unreachable = Command::new(env!("CARGO_BIN_EXE_pg_notary"))
        .args(["items", "sync", "--database", "postgresql://u:hunter2@127.0.0.1:1/d"])
        .arg(project.path())
        .output()
        .unwrap();
    assert_eq!(unreachable.status.code(), Some(2));
    let said = String::from_utf8(unreachable.stderr).unwrap();
    assert!(said.contains("cannot connect to the database") && !said.contains("hunter2"), "{said}");
}
