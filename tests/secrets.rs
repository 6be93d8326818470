//! The HMAC secrets: needed for signatures, read from a private place, changed without a restart, and never shown.
#![cfg(feature = "cluster-tests")]

mod common;

use common::ledger::*;
use common::{give_to_server, wait_until, Cluster, Options, Stop, SECRET};
use postgres::error::SqlState;
use postgres::{Client, NoTls};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const UNSIGNED: &str = "SELECT ledger.hash_and_record('test', '{\"n\": 1}', '{}', false)";

#[test]
fn without_a_secret_signing_is_an_error_and_recording_unsigned_works() {
    let (_cluster, mut client) = start(Options::new().secret(None));
    let refused = error(&mut client, RECORD);
    assert_eq!(*refused.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert_eq!(refused.message(), "no HMAC secret is configured");
    assert!(refused.hint().unwrap().contains("ledger.hmac_secret_file"));
    error(&mut client, "SELECT ledger.create_signature(ledger.hash_data('1'))");
    let receipt = json(&mut client, UNSIGNED);
    assert!(receipt["signature"].is_null() && receipt["file_recorded"] == true, "{receipt}");
    // Where a signature is only made if possible, none is.
    client.batch_execute("SELECT ledger.add_entry('test', '{\"n\": 1}')").unwrap();
    assert_eq!(number(&mut client, "SELECT count(*) FROM ledger.entries WHERE signature IS NULL"), 2);
    assert_intact(&mut client);
}

/// Whoever writes to it may not know that anything is recorded.
#[test]
fn where_a_change_of_a_tracked_table_cannot_be_signed_the_table_is_named() {
    let (_cluster, mut client, path) = start_with_file(&format!("one:{OLD}\n"));
    client.batch_execute("CREATE TABLE kept (id int PRIMARY KEY); SELECT ledger.track('kept')").unwrap();
    fs::remove_file(path).unwrap();
    reload(&mut client);
    let refused = error(&mut client, "INSERT INTO kept VALUES (1)");
    assert_eq!(*refused.code(), SqlState::CONFIG_FILE_ERROR);
    assert_eq!(refused.detail(), Some("No such file or directory. Table public.kept is tracked."));
}

#[test]
fn an_empty_secret_is_none() {
    let (_cluster, mut client) = start(Options::new().secret(Some("")));
    assert_eq!(error(&mut client, RECORD).message(), "no HMAC secret is configured");
}

#[test]
fn a_secret_that_is_no_text_is_an_error_and_not_none() {
    let options = Options::new().secret_of_bytes(b"not \xff text");
    let (_cluster, mut client) = start(options);
    for statement in [RECORD, "SELECT ledger.add_entry('test', '1')"] {
        let refused = error(&mut client, statement);
        assert_eq!(*refused.code(), SqlState::CONFIG_FILE_ERROR);
        let text = all_text(&refused);
        assert!(text.contains("INTEGRITY_HMAC_SECRET") && text.contains("UTF-8"), "{text}");
    }
}

#[test]
fn a_secret_file_that_is_too_large_is_refused_and_not_cut() {
    let mut text = "one:first secret\n".to_owned();
    let (_cluster, mut client, path) = start_with_file(&text);
    text.push_str(&"# a comment\n".repeat(1 << 17));
    write_secrets(&path, &text, 0o600);
    reload(&mut client);
    let refused = error(&mut client, RECORD);
    assert_eq!(*refused.code(), SqlState::CONFIG_FILE_ERROR);
    assert!(all_text(&refused).contains("larger than 1 MiB"), "{refused:?}");
}

#[test]
fn a_secret_file_that_cannot_be_used_is_in_the_log_before_anybody_records() {
    let (cluster, mut client, path) = start_with_file("one:first secret\n");
    assert!(!cluster.log().contains("cannot use HMAC secret file"));
    let warnings =
        || cluster.log().matches(&format!("WARNING:  cannot use HMAC secret file \"{}\"", path.display())).count();
    write_secrets(&path, "just confidential words\n", 0o600);
    reload(&mut client);
    wait_until("the log says so after a reload", PATIENCE, || warnings() == 1);
    cluster.wait_for_log("DETAIL:  In line 1 there is no colon: write it as key_id:secret.");
    drop(client);
    cluster.restart(Stop::Fast);
    wait_until("the log says so after a start", PATIENCE, || warnings() == 2);
    assert!(!cluster.log().contains("confidential"));

    let mut client = cluster.connect("postgres");
    write_secrets(&path, "one:first secret\n", 0o600);
    reload(&mut client);
    record(&mut client);
    assert_eq!(warnings(), 2);
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

/// Writes the secret file.
fn write_secrets(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    give_to_server(path);
}

/// A ledger that has its secrets from a file.
fn start_with_file(text: &str) -> (Cluster, Client, PathBuf) {
    let (cluster, mut client) = start(Options::new());
    let path = cluster.scratch_dir().join("secrets");
    write_secrets(&path, text, 0o600);
    set(&mut client, "ledger.hmac_secret_file", &format!("'{}'", path.display()));
    (cluster, client, path)
}

fn key_of(client: &mut Client, id: &str) -> String {
    value(client, &format!("SELECT key_id FROM ledger.entries WHERE id = '{id}'"))
}

#[track_caller]
fn verifies(client: &mut Client, id: &str) -> bool {
    let verdict = json(client, &format!("SELECT ledger.verify_entry('{id}', '{{\"n\": 1}}')"));
    verdict["signature_valid"].as_bool().unwrap() && verdict["verified"].as_bool().unwrap()
}

#[test]
fn a_secret_file_that_others_can_read_is_refused() {
    let (_cluster, mut client, path) = start_with_file("one:first secret\n");
    let recorded = record(&mut client);
    assert_eq!(key_of(&mut client, &recorded), "one");
    for mode in [0o640, 0o604, 0o620, 0o777] {
        write_secrets(&path, "one:first secret\n", mode);
        reload(&mut client);
        let refused = error(&mut client, RECORD);
        assert_eq!(*refused.code(), SqlState::CONFIG_FILE_ERROR);
        let text = all_text(&refused);
        assert!(text.contains(path.to_str().unwrap()) && text.contains(&format!("{mode:04o}")), "{text}");
        assert!(!text.contains("first secret"));
    }
    fs::remove_file(&path).unwrap();
    reload(&mut client);
    assert!(all_text(&error(&mut client, RECORD)).contains("No such file"));
    let of_editor = "\u{feff}one:confidential\n";
    for nonsense in ["", "just confidential words\n", ":confidential\n", "empty:\n", of_editor] {
        write_secrets(&path, nonsense, 0o600);
        reload(&mut client);
        let refused = all_text(&error(&mut client, RECORD));
        assert!(refused.contains(path.to_str().unwrap()), "{nonsense:?}: {refused}");
        assert!(!refused.contains("confidential"), "an error shows the file's content: {refused}");
    }
    // The same secret, with line ends of another kind.
    for text in ["one:first secret\n", "one:first secret\r\n"] {
        write_secrets(&path, text, 0o600);
        reload(&mut client);
        assert!(verifies(&mut client, &recorded), "{text:?}");
        record(&mut client);
    }
    assert_intact(&mut client);
}

#[test]
fn keys_are_rotated_by_a_reload_and_old_entries_still_verify() {
    let (cluster, mut client, path) = start_with_file("one:first secret\n");
    let old = record(&mut client);
    write_secrets(&path, "two:second secret\none:first secret\n", 0o600);
    assert_eq!(
        {
            let id = record(&mut client);
            key_of(&mut client, &id)
        },
        "one",
        "not before the reload"
    );
    reload(&mut client);
    let new = record(&mut client);
    assert_eq!(key_of(&mut client, &new), "two");
    // A session that was there before reloads too; a new one has it from the start.
    let mut session = cluster.connect("postgres");
    let id = record(&mut session);
    assert_eq!(key_of(&mut session, &id), "two");
    assert!(verifies(&mut client, &old) && verifies(&mut client, &new));
    seal(&mut client);
    assert_intact(&mut client);

    // A key that is gone is named, and so is one that was changed.
    write_secrets(&path, "two:second secret\n", 0o600);
    reload(&mut client);
    let problems =
        column(&mut client, "SELECT DISTINCT problem FROM ledger.find_tampering() WHERE source = 'postgres'");
    assert_eq!(problems, ["unknown_key"]);
    let entry = value(&mut client, "SELECT entry_id FROM ledger.find_tampering() WHERE source = 'postgres' LIMIT 1");
    assert_eq!(key_of(&mut client, &entry), "one");
    let by_key = "ledger.verify_signature(data_hash, signature, key_id) FROM ledger.entries WHERE id =";
    assert!(error(&mut client, &format!("SELECT {by_key} '{old}'")).message().contains("\"one\" is not known"));
    write_secrets(&path, "two:second secret\none:another secret\n", 0o600);
    reload(&mut client);
    let problems =
        column(&mut client, "SELECT DISTINCT problem FROM ledger.find_tampering() WHERE source = 'postgres'");
    assert_eq!(problems, ["signature_invalid"]);
    assert!(!verifies(&mut client, &old) && verifies(&mut client, &new));
}

const OLD: &str = "the old secret of many bytes";
const NEW: &str = "the new secret of many bytes";

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
        cluster.wait_for_log("Of 1 such entries");
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

/// Runs statements that might show a secret, failing ones too, and returns all they give.
fn everything_sql_shows(client: &mut Client) -> String {
    let queries = [
        "SELECT string_agg(s::text, ' ') FROM pg_settings s",
        "SELECT string_agg(f::text, ' ') FROM pg_file_settings f",
        "SELECT string_agg(a::text, ' ') FROM pg_stat_activity a",
        "SELECT string_agg(e::text, ' ') FROM ledger.entries e",
        "SELECT string_agg(w::text, ' ') FROM ledger.workers w",
        "SELECT string_agg(m::text, ' ') FROM ledger.mirror_status m",
        "SELECT string_agg(t::text, ' ') FROM ledger.find_tampering() t",
        "SELECT ledger.verify_chain()::text",
        "SELECT string_agg(pg_get_functiondef(oid), ' ') FROM pg_proc WHERE pronamespace = 'ledger'::regnamespace \
         AND prokind = 'f'",
    ];
    let mut shown: String = queries.iter().map(|sql| column(client, sql).join(" ")).collect();
    for sql in [
        "SELECT ledger.create_signature('nonsense')",
        "SELECT ledger.verify_signature(ledger.hash_data('1'), 'nonsense', 'nonsense')",
        "SELECT ledger.add_entry('test', '1', 'nonsense')",
    ] {
        shown += &all_text(&error(client, sql));
    }
    for message in client.simple_query("SHOW ALL").unwrap() {
        if let postgres::SimpleQueryMessage::Row(row) = message {
            shown += row.get(1).unwrap_or("");
        }
    }
    shown
}

#[test]
fn the_secret_shows_nowhere() {
    // From debug3 on Postgres itself logs its initial environment, before it loads any library.
    let settings = ["log_statement = 'all'", "log_min_messages = debug2", "log_error_verbosity = verbose"];
    let options = settings.into_iter().fold(Options::new(), Options::conf);
    let (cluster, mut client) = start(options);
    record(&mut client);
    assert!(!everything_sql_shows(&mut client).contains(SECRET));

    client.batch_execute("CREATE TABLE env (line text); COPY env FROM PROGRAM 'env'").unwrap();
    assert!(number(&mut client, "SELECT count(*) FROM env") > 0);
    let environment = column(&mut client, "SELECT line FROM env").join("\n");
    assert!(!environment.contains("INTEGRITY_HMAC") && !environment.contains(SECRET), "{environment}");

    let path = cluster.scratch_dir().join("secrets");
    write_secrets(&path, "one:first confidential text\nbroken", 0o600);
    set(&mut client, "ledger.hmac_secret_file", &format!("'{}'", path.display()));
    let refused = all_text(&error(&mut client, RECORD));
    assert!(!refused.contains("confidential"), "{refused}");
    write_secrets(&path, "one:first confidential text\n", 0o600);
    reload(&mut client);
    record(&mut client);
    assert!(!everything_sql_shows(&mut client).contains("confidential"));

    let log = cluster.log();
    assert!(!log.contains(SECRET) && !log.contains("confidential"), "the log shows a secret");
    let mirror = fs::read_to_string(file(&mut client)).unwrap();
    assert!(!mirror.contains(SECRET) && !mirror.contains("confidential"), "the file shows a secret");
}

#[test]
fn only_a_superuser_sees_where_the_secrets_are() {
    let (cluster, mut client, path) = start_with_file("one:first secret\n");
    client.batch_execute("CREATE ROLE app LOGIN; GRANT ledger_writer TO app").unwrap();
    let mut app = cluster.connect_as("app", "postgres");
    record(&mut app);
    assert_eq!(*error(&mut app, "SHOW ledger.hmac_secret_file").code(), SqlState::INSUFFICIENT_PRIVILEGE);
    assert_eq!(number(&mut app, "SELECT count(*) FROM pg_settings WHERE name = 'ledger.hmac_secret_file'"), 0);
    assert_eq!(
        *error(&mut app, "SET ledger.hmac_secret_file = '/tmp/mine'").code(),
        SqlState::CANT_CHANGE_RUNTIME_PARAM
    );
    // Nor by an error, also where a function of the owner's meets it: the server's log alone says which file it is.
    write_secrets(&path, "one:first secret\n", 0o640);
    reload(&mut client);
    client.batch_execute("GRANT ledger_auditor TO app").unwrap();
    let mut app = cluster.connect_as("app", "postgres");
    for statement in
        [RECORD, "SELECT ledger.verify_chain()", "SELECT ledger.create_item('tool', 'a', '1.0.0', 'a', 'a.py')"]
    {
        let refused = all_text(&error(&mut app, statement));
        assert!(refused.contains("0640"), "{statement}: {refused}");
        assert!(!refused.contains(path.to_str().unwrap()), "{statement}: {refused}");
    }
    assert!(all_text(&error(&mut client, RECORD)).contains(path.to_str().unwrap()));
    assert!(cluster.log().contains(&format!("HMAC secret file: \"{}\"", path.display())));
    write_secrets(&path, "one:first secret\n", 0o600);
    reload(&mut client);
    wait_until("the entry is there", PATIENCE, || number(&mut client, "SELECT count(*) FROM ledger.entries") == 1);
    assert!(path.exists());
}
