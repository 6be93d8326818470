//! An HMAC secret that is wrong, missing or too short is said to be so: in the log before anybody verifies, and by what
//! verifies.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::secrets::*;
use crate::common::{wait_until, Cluster, Options, Stop, SECRET};
use postgres::NoTls;
use std::sync::{Arc, Mutex};

#[test]
fn a_secret_file_that_cannot_be_used_is_in_the_log_before_anybody_records() {
    let (cluster, mut client, path) = start_with_file("one:first secret\n");
    assert!(!cluster.log().contains("cannot use HMAC secret file"));
    let warnings =
        || cluster.log().matches(&format!("WARNING:  cannot use HMAC secret file \"{}\"", path.display())).count();
    write_secrets(&path, "just confidential words\n", 0o600);
    reload(&mut client);
    // Once for each look at the file; a worker that has just started may look twice.
    wait_until("the log says so after a reload", PATIENCE, || warnings() >= 1);
    cluster.wait_for_log("DETAIL:  In line 1 there is no colon: write it as key_id:secret.");
    drop(client);
    cluster.stop(Stop::Fast);
    let before = warnings();
    cluster.start_again();
    wait_until("the log says so after a start", PATIENCE, || warnings() == before + 1);
    assert!(!cluster.log().contains("confidential"));

    let mut client = cluster.connect("postgres");
    write_secrets(&path, "one:first secret\n", 0o600);
    reload(&mut client);
    record(&mut client);
    assert_eq!(warnings(), before + 1);
}

#[test]
fn what_verifies_without_a_secret_says_that_signatures_were_not_checked() {
    let (cluster, mut client) = start(Options::new().secret(None));
    let path = cluster.scratch_dir().join("secrets");
    write_secrets(&path, "one:first secret\n", 0o600);
    set(&mut client, "ledger.hmac_secret_file", &format!("'{}'", path.display()));
    record(&mut client);
    client
        .batch_execute(
            "CREATE TABLE signed (id int PRIMARY KEY); CREATE TABLE unsigned (id int PRIMARY KEY);
             SELECT ledger.track('signed'), ledger.track('unsigned', with_signature => false);
             INSERT INTO signed VALUES (1); INSERT INTO unsigned VALUES (1)",
        )
        .unwrap();
    let expected = "signatures were not checked: the server has no HMAC secret";
    let statements = [
        ("SELECT ledger.verify_chain()", true),
        ("SELECT ledger.verify_file_integrity()", true),
        ("SELECT * FROM ledger.find_tampering()", true),
        ("SELECT ledger.verify_all()", true),
        ("SELECT * FROM ledger.verify_table('signed')", true),
        ("SELECT ledger.verify_row('signed', '{\"id\": 1}')", true),
        ("SELECT * FROM ledger.verify_table('unsigned')", false),
        ("SELECT ledger.verify_row('unsigned', '{\"id\": 1}')", false),
        ("SELECT ledger.verify_items()", true),
        ("SELECT ledger.verify_item_chain('[]')", true),
        ("SELECT * FROM ledger.registry_sync('[]')", true),
    ];
    assert_eq!(notices(&cluster, statements[0].0), Vec::<String>::new());
    set(&mut client, "ledger.hmac_secret_file", "''");
    for (statement, is_told) in statements {
        let expected = if is_told { vec![expected.to_owned()] } else { vec![] };
        assert_eq!(notices(&cluster, statement), expected, "{statement}");
    }
}

/// Otherwise each entry alone would be called tampered with, and nobody would think of the secret.
#[test]
fn a_secret_that_nearly_no_signature_verifies_with_is_named_by_what_verifies() {
    let (cluster, mut client, path) = start_with_file(&format!("one:{OLD}\n"));
    client
        .batch_execute(
            "CREATE TABLE kept (id int PRIMARY KEY); SELECT ledger.track('kept'); INSERT INTO kept VALUES (1);
             SELECT ledger.create_item('tool', 'a', '1.0.0', 'a', 'a.py')",
        )
        .unwrap();
    seal(&mut client);
    let entry = record(&mut client);
    let verify_entry = format!("SELECT ledger.verify_entry('{entry}', '{{\"n\": 1}}')");
    let of_many = [
        "SELECT ledger.verify_chain()",
        "SELECT ledger.verify_file_integrity()",
        "SELECT * FROM ledger.find_tampering()",
        "SELECT ledger.verify_all()",
        "SELECT * FROM ledger.verify_table('kept')",
        "SELECT ledger.verify_items()",
        "SELECT * FROM ledger.registry_sync('[]')",
    ];
    let of_one = [&verify_entry, "SELECT ledger.verify_row('kept', '{\"id\": 1}')"];
    for statement in of_many.iter().chain(&of_one) {
        assert_eq!(notices(&cluster, statement), Vec::<String>::new(), "{statement}");
    }
    write_secrets(&path, &format!("one:{OLD} \n"), 0o600);
    reload(&mut client);
    for statement in of_many {
        let expected = "HMAC secret with key_id \"one\" seems to be wrong";
        assert_eq!(notices(&cluster, statement), [expected], "{statement}");
    }
    for statement in of_one {
        let said = notices(&cluster, statement);
        assert!(said.len() == 1 && said[0].starts_with("the signature is invalid; if other signatures"), "{said:?}");
    }
    let refused = error(&mut client, "SELECT ledger.verified(k) FROM kept AS k");
    assert!(refused.hint().unwrap().contains("begins or ends with a space"), "{refused:?}");
    let verdict = json(&mut client, "SELECT ledger.verify_chain()");
    for side in ["postgres_chain", "file_chain"] {
        let warning = verdict[side]["warnings"][0].as_str().unwrap_or_default();
        assert!(warning.contains(" signatures with key_id \"one\" are not those that its secret makes"), "{verdict:#}");
    }
    assert!(!cluster.log().contains(OLD), "the log shows a secret");
}

/// What a statement says beside its result.
fn notices(cluster: &Cluster, statement: &str) -> Vec<String> {
    let said = Arc::new(Mutex::new(Vec::new()));
    let heard = said.clone();
    let mut config = cluster.config("postgres");
    config.notice_callback(move |notice| heard.lock().unwrap().push(notice.message().to_owned()));
    config.connect(NoTls).unwrap().simple_query(statement).unwrap();
    let said = said.lock().unwrap();
    said.clone()
}

/// How often the log has said that the secret of a key does not verify what was signed with it.
fn complaints(cluster: &Cluster, key_id: &str) -> usize {
    let warning =
        format!("WARNING:  HMAC secret with key_id \"{key_id}\" does not verify what was signed with that key_id");
    cluster.log().matches(&warning).count()
}

#[test]
fn a_key_id_that_was_given_another_secret_is_in_the_log_before_anybody_verifies() {
    let (cluster, mut client, path) = start_with_file(&format!("one:{OLD}\n"));
    client.batch_execute("CREATE DATABASE unsigned").unwrap();
    cluster.connect("unsigned").batch_execute("CREATE EXTENSION pg_notary").unwrap();
    let entry = record(&mut client);
    write_secrets(&path, &format!("one:{NEW}\n"), 0o600);
    reload(&mut client);
    wait_until("the log says so after a reload", PATIENCE, || complaints(&cluster, "one") == 1);
    cluster.wait_for_log(
        "HINT:  If the secret was changed, put the old secret back under this key_id in ledger.hmac_secret_file,",
    );
    cluster.wait_for_log(&format!(
        "DETAIL:  Of 1 such entries of database \"postgres\" that were looked at, 1 have a signature that this \
         secret does not make, one of them entry {entry}."
    ));

    // Nobody is kept from recording, and what is recorded with the new one does not hide it.
    for _ in 0..20 {
        record(&mut client);
    }
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    record(&mut client);
    drop(client);
    cluster.restart(Stop::Fast);
    wait_until("the log says so after a start", PATIENCE, || complaints(&cluster, "one") == 2);
    cluster.wait_for_log("Of 22 such entries of database \"postgres\" that were looked at, 1 have a signature that this secret does not make");
    assert!(!cluster.log().contains("secret of many bytes"), "the log shows a secret");
}

/// Where many entries were pending, the newest is on the first page again, of those that sealing has emptied.
#[test]
fn a_secret_that_was_changed_right_after_a_rotation_is_in_the_log() {
    let (cluster, mut client, path) = start_with_file(&format!("one:{OLD}\n"));
    record_many(&mut client, 900);
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    wait_for(&mut client, "(SELECT count(*) = 0 FROM ledger.entries_pending)");
    client.batch_execute("VACUUM ledger.entries_pending").unwrap();
    write_secrets(&path, &format!("two:{NEW}\none:{OLD}\n"), 0o600);
    reload(&mut client);
    record(&mut client);
    write_secrets(&path, &format!("two:{NEW} and more\none:{OLD}\n"), 0o600);
    reload(&mut client);
    wait_until("the log says so after a reload", PATIENCE, || complaints(&cluster, "two") == 1);
}

#[test]
fn a_key_id_that_was_taken_away_is_in_the_log_before_anybody_verifies() {
    let (cluster, mut client, path) = start_with_file(&format!("one:{OLD}\n"));
    let entry = record(&mut client);
    write_secrets(&path, &format!("two:{NEW}\n"), 0o600);
    reload(&mut client);
    cluster.wait_for_log("WARNING:  HMAC secret with key_id \"one\" is missing, and entries were signed with it");
    cluster.wait_for_log(&format!(
        "DETAIL:  1 entries of database \"postgres\" that were looked at have this key_id, one of them entry {entry}."
    ));
    record(&mut client);
    let problems = column(&mut client, "SELECT problem FROM ledger.find_tampering() WHERE source = 'postgres'");
    assert_eq!(problems, ["unknown_key"]);
    // The way out that the hint names.
    write_secrets(&path, &format!("two:{NEW}\none:{OLD}\n"), 0o600);
    reload(&mut client);
    assert_intact(&mut client);
}

#[test]
fn a_server_that_has_lost_its_only_secret_says_so_in_the_log_at_the_start() {
    let (cluster, mut client) = start(Options::new());
    let entry = record(&mut client);
    drop(client);
    cluster.stop(Stop::Fast);
    let other = Options::new().secret(None).start_on_copy_of(&cluster.data_dir());
    other.wait_for_log("WARNING:  HMAC secret with key_id \"default\" is missing, and entries were signed with it");
    other.wait_for_log(&format!("one of them entry {entry}."));
}

#[test]
fn another_secret_in_the_environment_is_in_the_log_at_the_start() {
    let (cluster, mut client) = start(Options::new());
    let entry = record(&mut client);
    seal(&mut client);
    drop(client);
    cluster.restart(Stop::Fast);
    record(&mut cluster.connect("postgres"));
    cluster.stop(Stop::Fast);
    assert_eq!(complaints(&cluster, "default"), 0);
    let other = Options::new().secret(Some(NEW)).start_on_copy_of(&cluster.data_dir());
    wait_until("the log says so", PATIENCE, || complaints(&other, "default") == 1);
    other.wait_for_log("Of 2 such entries of database \"postgres\" that were looked at, 2 have a signature that this secret does not make");
    record(&mut other.connect("postgres"));
    // The way out that the hint names.
    let path = other.scratch_dir().join("secrets");
    write_secrets(&path, &format!("key2:{NEW}\ndefault:{SECRET}\n"), 0o600);
    let mut client = other.connect("postgres");
    set(&mut client, "ledger.hmac_secret_file", &format!("'{}'", path.display()));
    let verdict = json(&mut client, &format!("SELECT ledger.verify_entry('{entry}', '{{\"n\": 1}}')"));
    assert_eq!(verdict["signature_valid"], true);
}

#[test]
fn a_secret_under_its_own_key_id_is_no_news_and_an_old_one_is_looked_at_as_well() {
    let (cluster, mut client, path) = start_with_file(&format!("one:{OLD}\n"));
    record_many(&mut client, 2000);
    client.batch_execute("SELECT * FROM ledger.commit_block()").unwrap();
    write_secrets(&path, &format!("two:{NEW}\none:{OLD}\n"), 0o600);
    cluster.restart(Stop::Fast);
    // Whoever can record, the worker has read the secrets.
    let mut client = cluster.connect("postgres");
    record_many(&mut client, 1000);
    seal(&mut client);

    let wrong = format!("two:{NEW}\none:yet another secret of many bytes\n");
    write_secrets(&path, &wrong, 0o600);
    for _ in 0..3 {
        reload(&mut client);
        wait_until("the log says so", PATIENCE, || complaints(&cluster, "one") == 1);
    }
    write_secrets(&path, &format!("two:{NEW}\none:{OLD}\n"), 0o600);
    drop(client);
    cluster.restart(Stop::Fast);
    let mut client = cluster.connect("postgres");
    record(&mut client);
    write_secrets(&path, &wrong, 0o600);
    reload(&mut client);
    wait_until("the log says so again", PATIENCE, || complaints(&cluster, "one") >= 2);
    assert_eq!((complaints(&cluster, "one"), complaints(&cluster, "two")), (2, 0));
}

#[test]
fn looking_whether_secrets_verify_waits_for_nobody() {
    let (cluster, mut client, path) = start_with_file(&format!("one:{OLD}\n"));
    record_many(&mut client, 10);
    seal(&mut client);
    record(&mut client);
    for (round, table) in ["ledger.entries_sealed_1", "ONLY ledger.entries_sealed"].into_iter().enumerate() {
        let mut other = cluster.connect("postgres");
        other.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).unwrap();
        write_secrets(&path, &format!("one:{NEW}{round}\n"), 0o600);
        reload(&mut client);
        wait_until("the log says so of the pending one", PATIENCE, || complaints(&cluster, "one") == round + 1);
        let pending = || cluster.log().matches("Of 1 such entries").count();
        wait_until("and has not waited for the sealed ones", PATIENCE, || pending() == round + 1);
    }
    record(&mut client);
}

/// How often the log has said that the secret of a key is too short.
fn called_short(cluster: &Cluster, key_id: &str) -> usize {
    let warning = format!("WARNING:  HMAC secret with key_id \"{key_id}\" is shorter than 16 bytes");
    cluster.log().matches(&warning).count()
}

#[test]
fn a_short_secret_is_in_the_log_once_and_signs_all_the_same() {
    let (cluster, mut client) = start(Options::new().secret(Some("fifteen letters")));
    wait_until("the log says so", PATIENCE, || called_short(&cluster, "default") == 1);
    record(&mut client);
    let path = cluster.scratch_dir().join("secrets");
    write_secrets(&path, "short:hunter2\nsixteen:sixteen letters.\n", 0o600);
    set(&mut client, "ledger.hmac_secret_file", &format!("'{}'", path.display()));
    wait_until("the log says so of the file", PATIENCE, || called_short(&cluster, "short") == 1);
    let entry = record(&mut client);
    assert!(verifies(&mut client, &entry));
    for _ in 0..2 {
        reload(&mut client);
    }
    write_secrets(&path, "other:short\n", 0o600);
    reload(&mut client);
    wait_until("the log says so after a change", PATIENCE, || called_short(&cluster, "other") == 1);
    let counts = ["default", "short", "sixteen"].map(|key_id| called_short(&cluster, key_id));
    assert_eq!(counts, [1, 1, 0]);
    let log = cluster.log();
    assert!(!log.contains("hunter2") && !log.contains("fifteen letters"), "the log shows a secret");
}
