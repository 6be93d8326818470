//! `pg_notary items sync` against a registry: every way in which files and registry can differ is told.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::program::*;
use crate::common::{wait_until, Cluster, Options};
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
    sync_command(&database(cluster, user)).args(more).arg(project).output().unwrap()
}

fn database(cluster: &Cluster, user: &str) -> String {
    let port = cluster.config("postgres").get_ports()[0];
    let sockets = cluster.socket().parent().unwrap().display().to_string();
    format!("host={sockets} port={port} user={user} dbname=postgres")
}

fn sync_command(database: &str) -> Command {
    let mut command = program();
    command.args(["items", "sync", "--database", database]).env_remove("PGPASSWORD");
    command
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
    // But nobody has been told so if the output is closed.
    let output = run_without_stdout(sync_command(&database(&cluster, "reader")).arg(project.path()));
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(stderr(&output), "pg_notary: cannot write the report: standard output is closed\n");
}

#[test]
fn what_the_server_says_beside_its_answer_is_printed() {
    let (cluster, _client) = start(Options::new().secret(None));
    let project = TempDir::new().unwrap();
    write(project.path(), "a", "a.py", "1.0.0");
    let output = sync(&cluster, "postgres", &[], project.path());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(stderr(&output), "pg_notary: NOTICE: signatures were not checked: the server has no HMAC secret\n");
}

/// The registry keeps every version, and a tree of files has one of each item.
#[test]
fn a_tree_stays_in_sync_when_the_registry_has_older_and_revoked_versions_as_well() {
    let (cluster, mut client) = start(Options::new());
    let project = TempDir::new().unwrap();
    for (id, version) in [("a", "1.9.0"), ("a", "1.10.0"), ("b", "1.0.0"), ("c", "1.0.0")] {
        create(&mut client, id, &format!("{id}.py"), version);
    }
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'b', '1.0.0', 'leaks keys')").unwrap();
    write(project.path(), "a", "a.py", "1.10.0");
    write(project.path(), "c", "c.py", "1.0.0");
    let output = sync(&cluster, "postgres", &["--json"], project.path());
    let found = report(&output);
    assert_eq!((output.status.code(), found["in_sync"].as_bool()), (Some(0), Some(true)), "{found:#}");
    let count = |name: &str| found["counts"][name].as_i64().unwrap();
    assert_eq!((count("match"), count("superseded"), count("revoked"), count("missing_locally")), (2, 1, 1, 0));
    let text = String::from_utf8(sync(&cluster, "postgres", &[], project.path()).stdout).unwrap();
    assert_eq!(text, "4 items: 2 match, 1 revoked, 1 superseded\n\nIN SYNC\n");
    // A newer version in the registry than in the files is missing; and what was revoked is, where a file has it.
    create(&mut client, "c", "c.py", "2.0.0");
    write(project.path(), "b", "b.py", "1.0.0");
    let output = sync(&cluster, "postgres", &[], project.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("2 match, 1 revoked, 1 missing_locally, 1 superseded"), "{text}");
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

    let unreachable = program()
        .args(["items", "sync", "--database", "postgresql://u:hunter2@127.0.0.1:1/d"])
        .arg(project.path())
        .output()
        .unwrap();
    assert_eq!(unreachable.status.code(), Some(2));
    let said = String::from_utf8(unreachable.stderr).unwrap();
    assert!(said.contains("cannot connect to the database") && !said.contains("hunter2"), "{said}");
}

#[test]
fn each_state_follows_what_was_done_to_the_item() {
    let (cluster, mut client) = start(Options::new());
    let project = TempDir::new().unwrap();
    let state = || {
        let output = sync(&cluster, "postgres", &["--json"], project.path());
        let found = report(&output);
        assert_eq!(found["item_count"], 1, "{found:#}");
        let item = &found["items"][0];
        let text = |key: &str| item[key].as_str().unwrap_or("-").to_owned();
        (output.status.code().unwrap(), text("status"), text("local_path"), text("registry_path"), text("detail"))
    };
    let expect = |code, status: &str, local: &str, registry: &str, detail: &str| {
        assert_eq!(state(), (code, status.to_owned(), local.to_owned(), registry.to_owned(), detail.to_owned()));
    };
    write(project.path(), "a", "core/a.py", "1.0.0");
    expect(1, "missing_here", "core/a.py", "-", "it is not registered");
    create(&mut client, "a", "core/a.py", "1.0.0");
    expect(0, "match", "core/a.py", "core/a.py", "-");
    client.batch_execute("SELECT ledger.sign_item('tool', 'a', '1.0.0', E'# version: 1.0.0\\na(1)\\n')").unwrap();
    expect(1, "differs", "core/a.py", "core/a.py", "the text differs from the text that was signed");
    let signed = value(&mut client, "SELECT ledger.load_item('tool', 'a', '1.0.0')");
    fs::write(project.path().join(".ai/tools/core/a.py"), &signed).unwrap();
    expect(0, "match", "core/a.py", "core/a.py", "-");
    client.batch_execute("SELECT ledger.move_item('tool', 'a', '1.0.0', 'net/a.py')").unwrap();
    expect(1, "moved", "core/a.py", "net/a.py", "signed at net/a.py, found at core/a.py");
    fs::create_dir(project.path().join(".ai/tools/net")).unwrap();
    fs::rename(project.path().join(".ai/tools/core/a.py"), project.path().join(".ai/tools/net/a.py")).unwrap();
    expect(0, "match", "net/a.py", "net/a.py", "-");
    client.batch_execute("SELECT ledger.revoke_signature('tool', 'a', '1.0.0', 'leaks keys')").unwrap();
    expect(1, "revoked", "net/a.py", "net/a.py", "reason: leaks keys");
    client.batch_execute("SELECT ledger.sign_item('tool', 'a', '1.0.0')").unwrap();
    expect(0, "match", "net/a.py", "net/a.py", "-");
    fs::remove_file(project.path().join(".ai/tools/net/a.py")).unwrap();
    expect(1, "missing_locally", "-", "net/a.py", "it is registered, but no such file was given");
}

#[test]
fn directives_and_knowledge_are_compared_by_all_of_their_text() {
    let (cluster, mut client) = start(Options::new());
    let project = TempDir::new().unwrap();
    let directive = "# Title\n\n<directive name=\"deploy\" version=\"2.0.0\">\n  <a/>\n</directive>\n";
    let knowledge = "---\nzettel_id: z1\nversion: 1.0.0\ncategory: c\nentry_type: e\ntags: [a, b]\n---\n\nText\n";
    let items = [("directive", "directives", "deploy.md", directive), ("knowledge", "knowledge", "p/z1.md", knowledge)];
    for (item_type, folder, location, text) in items {
        let path = project.path().join(".ai").join(folder).join(location);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        client.execute("SELECT ledger.create_item($1, NULL, NULL, $2, $3)", &[&item_type, &text, &location]).unwrap();
    }
    let output = sync(&cluster, "postgres", &["--json"], project.path());
    assert_eq!((output.status.code(), report(&output)["counts"]["match"].as_i64()), (Some(0), Some(2)), "{output:?}");
    // The integrity hash does not cover this: what the ledger recorded of the whole text does.
    let path = project.path().join(".ai/directives/deploy.md");
    fs::write(&path, directive.replace("Title", "Other")).unwrap();
    let found = report(&sync(&cluster, "postgres", &["--json"], project.path()));
    let deploy = &found["items"].as_array().unwrap()[0];
    assert_eq!((deploy["item_id"].as_str(), deploy["status"].as_str()), (Some("deploy"), Some("differs")), "{found:#}");
    assert_eq!(deploy["local_hash"], deploy["registry_hash"]);
}

#[test]
fn files_that_are_no_items_are_named_and_the_rest_is_compared() {
    let (cluster, mut client) = start(Options::new());
    let project = TempDir::new().unwrap();
    for id in ["a", "b"] {
        create(&mut client, id, &format!("{id}.py"), "1.0.0");
        write(project.path(), id, &format!("{id}.py"), "1.0.0");
    }
    write(project.path(), "a", "copy/a.py", "1.0.0");
    fs::write(project.path().join(".ai/tools/latin1.py"), b"caf\xe9\n").unwrap();
    let smuggled = "# kiwi-mcp:validated:coding:raw_unicode_escape\nx()\n";
    fs::write(project.path().join(".ai/tools/odd.py"), smuggled).unwrap();
    fs::write(project.path().join(".ai/tools/data.json"), "{}").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", project.path().join(".ai/tools/link.py")).unwrap();
    let output = sync(&cluster, "postgres", &["--json"], project.path());
    assert_eq!(output.status.code(), Some(1));
    let found = report(&output);
    let count = |name: &str| found["counts"][name].as_i64().unwrap();
    assert_eq!((count("match"), count("invalid"), count("refused")), (2, 3, 1), "{found:#}");
    assert_eq!(found["skipped"].as_array().unwrap().len(), 1);
    let text = String::from_utf8(sync(&cluster, "postgres", &[], project.path()).stdout).unwrap();
    for expected in [
        "copy/a.py: the same id and version as ",
        "latin1.py: line 1: not UTF-8 text",
        "link.py: a symbolic link",
        "odd.py: what stands in the place of its signature line is none: sign it again",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
}

#[test]
fn a_password_is_taken_from_string_or_environment_and_never_shown() {
    let (cluster, mut client) = start(Options::new());
    client.batch_execute("CREATE ROLE reader LOGIN PASSWORD 'hunter2' IN ROLE ledger_auditor").unwrap();
    let project = TempDir::new().unwrap();
    create(&mut client, "a", "a.py", "1.0.0");
    write(project.path(), "a", "a.py", "1.0.0");
    fs::write(cluster.data_dir().join("pg_hba.conf"), "local all postgres trust\nlocal all all scram-sha-256\n")
        .unwrap();
    cluster.reload();
    let database = database(&cluster, "reader");
    let run = |database: &str, environment: Option<&str>| {
        let mut command = sync_command(database);
        command.envs(environment.map(|password| ("PGPASSWORD", password))).arg(project.path());
        command.output().unwrap()
    };
    wait_until("a password is asked for", PATIENCE, || run(&database, None).status.code() == Some(2));
    let with_password = format!("{database} password=hunter2");
    for (database, environment) in [(&with_password, None), (&database, Some("hunter2"))] {
        let output = run(database, environment);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let wrong = run(&format!("{database} password=hunter3"), None);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("password authentication failed for user \"reader\""), "{}", stderr(&wrong));
    let encrypted = run(&format!("{with_password} sslmode=require"), None);
    assert_eq!(encrypted.status.code(), Some(2));
    assert!(stderr(&encrypted).contains("TLS"), "{}", stderr(&encrypted));
    for output in [wrong, encrypted] {
        assert!(!stderr(&output).contains("hunter") && output.stdout.is_empty(), "{output:?}");
    }
}

/// As paths, these locations lead elsewhere or nowhere.
#[test]
fn a_file_is_at_its_location_whatever_that_looks_like() {
    let (cluster, mut client) = start(Options::new());
    let project = TempDir::new().unwrap();
    for (id, path) in [("nested", "q/.ai/tools/nested.py"), ("home", "~/home.py"), ("Q: why", "Q: why.py")] {
        create(&mut client, id, &format!("/srv/.ai/tools/{path}"), "1.0.0");
        write(project.path(), id, path, "1.0.0");
    }
    // A directory that is hidden is looked into if it is named.
    let hidden = project.path().join(".ai/tools/q/.ai/tools");
    let output = sync(&cluster, "postgres", &["--json", hidden.to_str().unwrap()], project.path());
    let found = report(&output);
    assert_eq!((output.status.code(), found["in_sync"].as_bool()), (Some(0), Some(true)), "{found:#}");
    assert_eq!(found["item_count"], 3, "{found:#}");
}

#[test]
fn a_database_without_a_registry_exits_with_2() {
    let cluster = Cluster::start();
    let project = TempDir::new().unwrap();
    write(project.path(), "a", "a.py", "1.0.0");
    let output = sync(&cluster, "postgres", &[], project.path());
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("cannot ask the registry: database \"postgres\" has no extension pg_notary"), "{said}");
}

#[test]
fn metadata_that_no_file_holds_is_said_to_differ() {
    let (cluster, mut client) = start(Options::new());
    let project = TempDir::new().unwrap();
    let text = "# version: 1.0.0\na()\n";
    let create = "SELECT ledger.create_item('tool', 'a', '1.0.0', $1, 'a.py', '{\"timeout\": 5}')";
    client.execute(create, &[&text]).unwrap();
    write(project.path(), "a", "a.py", "1.0.0");
    let output = sync(&cluster, "postgres", &[], project.path());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.starts_with("differs ") && said.contains(": the text is the same, but its metadata differs\n"),
        "{said}"
    );
}
