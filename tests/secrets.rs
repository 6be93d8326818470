//! The HMAC secrets: needed for signatures, read from a private place, changed without a restart, and never shown.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::secrets::*;
use crate::common::{wait_until, Options, SECRET};
use postgres::error::SqlState;
use postgres::Client;
use std::fs;
use std::thread;

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
fn a_secret_that_cannot_be_used_is_an_error_and_not_none() {
    for (secret, why) in [(&b"not \xff text"[..], "UTF-8"), (&b"hunter2, of a file\n"[..], "contains a newline")] {
        let (_cluster, mut client) = start(Options::new().secret_of_bytes(secret));
        for statement in [RECORD, "SELECT ledger.add_entry('test', '1')"] {
            let refused = error(&mut client, statement);
            assert_eq!(*refused.code(), SqlState::CONFIG_FILE_ERROR);
            let text = all_text(&refused);
            assert!(text.contains("INTEGRITY_HMAC_SECRET") && text.contains(why), "{text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
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

fn key_of(client: &mut Client, id: &str) -> String {
    value(client, &format!("SELECT key_id FROM ledger.entries WHERE id = '{id}'"))
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
    let unknown = error(&mut client, &format!("SELECT {by_key} '{old}'"));
    assert_eq!(unknown.message(), "the server has no HMAC key with this key_id");
    write_secrets(&path, "two:second secret\none:another secret\n", 0o600);
    reload(&mut client);
    let problems =
        column(&mut client, "SELECT DISTINCT problem FROM ledger.find_tampering() WHERE source = 'postgres'");
    assert_eq!(problems, ["signature_invalid"]);
    assert!(!verifies(&mut client, &old) && verifies(&mut client, &new));
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

/// It has read the secrets, and waits for the pending entries. The entry that comes meanwhile is in the file that it
/// reads then.
#[test]
fn a_key_that_is_added_while_a_verification_runs_is_known_to_it() {
    let (cluster, mut client, path) = start_with_file(&format!("one:{OLD}\n"));
    record(&mut client);
    seal(&mut client);
    let mut recording = cluster.connect("postgres");
    recording.batch_execute("BEGIN; LOCK TABLE ledger.entries_pending IN ACCESS EXCLUSIVE MODE").unwrap();
    let mut verifying = cluster.connect("postgres");
    let pid = number(&mut verifying, "SELECT pg_backend_pid()");
    let verification = thread::spawn(move || verdict(&mut verifying));
    wait_for(&mut client, &format!("(SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid})"));
    write_secrets(&path, &format!("two:{NEW}\none:{OLD}\n"), 0o600);
    reload(&mut recording);
    let id = record(&mut recording);
    recording.batch_execute("COMMIT").unwrap();
    let verdict = in_time("the verification", || verification.join().unwrap());
    assert!(verdict["overall_valid"] == true && verdict["file_chain"]["valid"] == true, "{verdict:#}");
    let key_id = format!("SELECT key_id FROM ledger.entries WHERE id = '{id}'");
    assert_eq!(value(&mut client, &key_id), "two");
}
