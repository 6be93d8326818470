//! The offline verifier as its users run it.

use crate::common::program::*;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SECRET: &str = "default:test-secret-key-for-hmac\n";

/// A directory of its own for one test, removed when the test is over.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let name = format!("pg_notary-{test}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn secret(&self, text: &str, mode: u32) -> PathBuf {
        let path = self.write("secret", text);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn vector_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/ledger.jsonl")
}

fn vector_text() -> String {
    fs::read_to_string(vector_file()).unwrap()
}

/// The vector file with the metadata of its 41st entry changed, which is in block 2.
fn tampered_text() -> String {
    let text = vector_text();
    let changed = text.replacen("\"metadata\": {\"n\": 3,", "\"metadata\": {\"n\": 4,", 1);
    assert_ne!(changed, text);
    changed
}

fn run(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    program().args(arguments).output().unwrap()
}

#[test]
fn a_valid_file_exits_with_0_and_says_what_it_holds() {
    let output = run(&[&"verify", &vector_file()]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for expected in [
        "6f1c0a52-3c1e-4c57-9a53-0b1f9d1e7a10",
        "vectors",
        "blocks      4\n",
        "entries     109\n",
        "pending     1\n",
        "voided      6\n",
        "last block  4:8f438109a7e801a916e1ac64d42398c16ef71ce4db3c4f3173752c4c014f1216\n",
        "not checked (--secret-file",
        "\nVALID\n",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_tampered_file_exits_with_1_and_names_the_first_bad_place() {
    let directory = Directory::new("tampered");
    let file = directory.write("ledger.jsonl", tampered_text());
    let output = run(&[&"verify", &file]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("\nTAMPERED: 1 problem\n"), "{text}");
    assert!(text.contains("  tree_root_mismatch block 2: line 9: "), "{text}");
}

#[test]
fn the_json_verdict_has_the_keys_of_the_sql_function() {
    let directory = Directory::new("json");
    let secret = directory.secret(SECRET, 0o600);
    let file = directory.write("ledger.jsonl", tampered_text());
    let output = run(&[&"verify", &file, &"--json", &"--secret-file", &secret]);
    assert_eq!(output.status.code(), Some(1));
    let verdict: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let keys: Vec<&String> = verdict.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "block_count",
            "database",
            "entry_count",
            "error_count",
            "errors",
            "last_block",
            "ledger_id",
            "pending_count",
            "signatures",
            "signatures_checked",
            "valid",
            "void_count",
            "warnings",
        ]
    );
    assert_eq!(verdict["valid"], false);
    assert_eq!(verdict["error_count"], 1);
    assert_eq!(verdict["signatures_checked"], true);
    assert_eq!(verdict["last_block"]["block_number"], 4);
    let error = &verdict["errors"][0];
    assert_eq!(error["source"], "file");
    assert_eq!(error["block_number"], 2);
    assert_eq!(error["leaf_index"], Value::Null);
    assert_eq!(error["entry_id"], Value::Null);
    assert_eq!(error["problem"], "tree_root_mismatch");
    let valid = run(&[&"verify", &vector_file(), &"--json"]);
    let verdict: Value = serde_json::from_str(&stdout(&valid)).unwrap();
    assert_eq!(verdict["valid"], true);
    assert_eq!(verdict["signatures_checked"], false);
}

/// Who can write the file can make all of it anew, but for a hash that is not in it.
#[test]
fn a_file_must_have_the_blocks_whose_hashes_were_noted() {
    const LAST: &str = "4:8f438109a7e801a916e1ac64d42398c16ef71ce4db3c4f3173752c4c014f1216";
    let noted = |blocks: &[&str]| {
        let options = blocks.iter().flat_map(|block| ["--noted-block", block]);
        let arguments: Vec<&str> = ["verify"].into_iter().chain(options).collect();
        let file = vector_file();
        let mut all: Vec<&dyn AsRef<std::ffi::OsStr>> =
            arguments.iter().map(|argument| argument as &dyn AsRef<std::ffi::OsStr>).collect();
        all.push(&file);
        run(&all)
    };
    assert_eq!(noted(&[LAST]).status.code(), Some(0));
    let other = LAST.replace("4:", "2:");
    let output = noted(&[LAST, &other]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("but {} was noted", &other[2..]);
    assert!(
        stdout(&output).contains("  noted_hash_mismatch block 2: ") && stdout(&output).contains(&expected),
        "{}",
        stdout(&output)
    );
    let output = noted(&[&LAST.replace("4:", "5:")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains(
        "noted_hash_mismatch block 5: a hash was noted for this block, but the file does not have the block"
    ));
    // A hash is the same in either case, and so is another one.
    assert_eq!(noted(&[&LAST.to_uppercase()]).status.code(), Some(0));
    let output = noted(&[&other.to_uppercase()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains(&expected), "{}", stdout(&output));
    for wrong in ["4", "x:ab", "0:ab", &LAST[..20], &LAST.replace("8f", "8g")] {
        let output = noted(&[wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        assert!(stderr(&output).contains("write it as NUMBER:HASH"), "{}", stderr(&output));
    }
}

#[test]
fn signatures_are_checked_with_a_secret_file() {
    let directory = Directory::new("secret");
    let secret = directory.secret(SECRET, 0o600);
    let output = run(&[&"verify", &vector_file(), &"--secret-file", &secret]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("signatures  checked: 88 valid, 28 unsigned\n"), "{}", stdout(&output));
    let secret = directory.secret("default:hunter2\n", 0o400);
    let output = run(&[&"verify", &vector_file(), &"--secret-file", &secret]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("signature_invalid block 1 leaf 0 entry 892f902b-"), "{text}");
    assert!(text.contains("  and "), "{text}");
    assert!(!text.contains("hunter2") && !text.contains("Add these keys"), "{text}");
    // Nearly always it is the secret that is wrong.
    let hint = "88 of 88 signatures with key_id \"default\" are not those that its secret makes: \
                perhaps that is another secret, or begins or ends with a space or line end that does not belong to it";
    assert!(text.ends_with(&format!("\n{hint}.\n")), "{text}");
    let output = run(&[&"verify", &vector_file(), &"--secret-file", &secret, &"--json"]);
    let verdict: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(verdict["warnings"], serde_json::json!([hint]));
    // A key that is missing is no proof of anything, and says so.
    let secret = directory.secret("other:another secret\n", 0o400);
    let output = run(&[&"verify", &vector_file(), &"--secret-file", &secret]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("\nNOT VERIFIED: ") && !text.contains("TAMPERED"), "{text}");
    assert!(text.contains("unknown_key block 1") && text.contains("Add these keys to the secret file"), "{text}");
    assert!(text.contains("\n  default (88 entries, the first on line "), "{text}");
}

#[test]
fn a_secret_file_may_have_the_line_ends_of_either_kind() {
    let directory = Directory::new("line-ends");
    let secret = directory.secret(&format!("# keys\r\n\r\n{}\r\n", SECRET.trim_end()), 0o600);
    let output = run(&[&"verify", &vector_file(), &"--secret-file", &secret]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("signatures  checked: 88 valid, 28 unsigned\n"), "{}", stdout(&output));
}

#[test]
fn a_secret_file_that_others_can_use_is_refused() {
    let directory = Directory::new("mode");
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o777] {
        let secret = directory.secret(SECRET, mode);
        let output = run(&[&"verify", &vector_file(), &"--secret-file", &secret]);
        assert_eq!(output.status.code(), Some(2), "{mode:o}");
        assert!(stderr(&output).contains(&format!("mode 0{mode:o}")));
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn a_bad_secret_file_exits_with_2_and_shows_no_secret() {
    let directory = Directory::new("bad-secret");
    let secret = directory.secret("default:a\nhunter2\n", 0o600);
    let output = run(&[&"verify", &vector_file(), &"--secret-file", &secret]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("line 2"));
    assert!(!stderr(&output).contains("hunter2"));
    let secret = directory.secret(&format!("default:a\n{}", "# comment\n".repeat(1 << 17)), 0o600);
    let output = run(&[&"verify", &vector_file(), &"--secret-file", &secret]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("larger than 1 MiB"), "{}", stderr(&output));
    let secret = directory.secret("\u{feff}default:hunter2\n", 0o600);
    let output = run(&[&"verify", &vector_file(), &"--secret-file", &secret]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("it begins with a byte order mark"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("hunter2"));
    let missing = directory.0.join("missing");
    let output = run(&[&"verify", &vector_file(), &"--secret-file", &missing]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn what_is_not_a_ledger_exits_with_2() {
    let directory = Directory::new("unreadable");
    let missing = directory.0.join("missing");
    let empty = directory.write("empty", "");
    let gzip = directory.write("gzip", [0x1f, 0x8b, 8, 0]);
    let converted = directory.write("converted", vector_text().replace('\n', "\r\n"));
    let text = directory.write("text", "hello\nworld\n");
    let binary = directory.write("binary", [0_u8, 159, 146, 150]);
    for file in [&missing, &empty, &text, &binary, &gzip, &converted, &directory.0] {
        let output = run(&[&"verify", file]);
        assert_eq!(output.status.code(), Some(2), "{}", file.display());
        assert_eq!(stdout(&output), "");
        assert!(stderr(&output).contains(&file.display().to_string()));
    }
    let output = run(&[&"verify", &empty]);
    assert!(stderr(&output).contains("the file is empty"), "{}", stderr(&output));
    for (file, why) in [
        (&text, "not a ledger file: line 1: "),
        (&gzip, "gunzip"),
        (&converted, "its lines end with CR LF"),
        (&directory.0, "is a directory"),
    ] {
        let output = run(&[&"verify", file]);
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
    }
    // A pipe can be read once; its other end may never come.
    let pipe = directory.0.join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let output = run(&[&"verify", &pipe]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("save it to a file first"), "{}", stderr(&output));
}

#[test]
fn a_name_that_holds_control_characters_writes_no_lines_of_its_own() {
    let directory = Directory::new("names");
    let file = directory.write("evil\nVALID\n\u{1b}[31m.jsonl", tampered_text());
    let output = run(&[&"verify", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!stdout(&output).contains("\nVALID") && !stdout(&output).contains('\u{1b}'), "{}", stdout(&output));
    let output = run(&[&"verify", &directory.0.join("evil\nVALID\n")]);
    assert!(!stderr(&output).contains("\nVALID"), "{}", stderr(&output));
}

#[test]
fn a_report_that_cannot_be_written_is_not_taken_for_one_that_was() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let output = program().arg("verify").arg(vector_file()).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("cannot write the report"), "{}", stderr(&output));
    let output = program().args(["verify", "missing"]).stderr(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "nobody can be told, and it must not panic");
}

/// Rust opens /dev/null in place of a closed output.
#[test]
fn a_report_for_a_closed_output_is_not_taken_for_one_that_was_written() {
    for options in [&[][..], &["--json"]] {
        let output = run_without_stdout(program().arg("verify").arg(vector_file()).args(options));
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(stderr(&output), "pg_notary: cannot write the report: standard output is closed\n");
    }
    // Who opens /dev/null, in whatever way, wants the exit status alone.
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let output = program().arg("verify").arg(vector_file()).stdout(null).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

/// An entry signed with a missing key is one problem, and a ledger has many such entries.
#[test]
fn a_missing_key_hides_no_change() {
    let directory = Directory::new("flood");
    let secret = directory.secret("other:another secret\n", 0o600);
    let (_, lines) = vector_text().split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let more = |text: &str| {
        // Voided lines whose signatures nobody can check.
        let signed = lines.lines().find(|line| line.contains("\"key_id\": \"default\"")).unwrap();
        let id = &signed[signed.find("\"entry_id\": \"").unwrap() + 13..][..36];
        let ids: Vec<String> = (0..200).map(|n| format!("{n:08x}-0000-4000-8000-000000000000")).collect();
        let copies: String = ids.iter().map(|new| signed.replace(id, new) + "\n").collect();
        let (header, rest) = text.split_once('\n').unwrap();
        format!("{header}\n{copies}{rest}")
    };
    let file = directory.write("unknown.jsonl", more(&vector_text()));
    let output = run(&[&"verify", &file, &"--secret-file", &secret]);
    assert!(stdout(&output).contains("\nNOT VERIFIED: 288 problems\n"), "{}", stdout(&output));
    let file = directory.write("changed.jsonl", more(&tampered_text()));
    let output = run(&[&"verify", &file, &"--secret-file", &secret]);
    assert!(
        stdout(&output).contains("\nTAMPERED: 289 problems\n  tree_root_mismatch block 2: "),
        "{}",
        stdout(&output)
    );
    let output = run(&[&"verify", &file, &"--secret-file", &secret, &"--json"]);
    assert!(stdout(&output).contains("tree_root_mismatch"), "{}", stdout(&output));
}

#[test]
fn a_ledger_without_its_header_exits_with_1() {
    let directory = Directory::new("headless");
    let (_, rest) = vector_text().split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let file = directory.write("ledger.jsonl", rest);
    let output = run(&[&"verify", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("header_missing: line 1: "));
}

/// Nothing that the ledger has written was changed, but it is no file that it has written.
#[test]
fn a_file_that_an_editor_has_saved_with_a_byte_order_mark_exits_with_1_and_is_named_as_such() {
    let directory = Directory::new("editor");
    let file = directory.write("ledger.jsonl", format!("\u{feff}{}", vector_text()));
    let output = run(&[&"verify", &file]);
    assert_eq!(output.status.code(), Some(1));
    let expected =
        ": 1 problem\n  header_missing: line 1: begins with a byte order mark: an editor or another program has \
                    saved the file\n";
    assert!(stdout(&output).contains(expected), "{}", stdout(&output));
}

#[test]
fn a_file_of_a_later_format_needs_a_later_program_and_exits_with_2() {
    let directory = Directory::new("later");
    let (header, rest) = vector_text().split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let later = header.replace("\"format\": 1", "\"format\": 2");
    assert_ne!(later, header);
    for header in [&later, &later.replace("\"record_type\"", "\"more\": null, \"record_type\"")] {
        let file = directory.write("ledger.jsonl", format!("{header}\n{rest}"));
        for options in [&[][..], &["--json"]] {
            let output = program().arg("verify").arg(&file).args(options).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
            assert_eq!(stdout(&output), "");
            let said = stderr(&output);
            assert!(said.contains("it has format 2, and this program knows only format 1: take"), "{said}");
        }
    }
    // No version writes such a format.
    let file = directory.write("ledger.jsonl", header.replace("\"format\": 1", "\"format\": 0") + "\n" + &rest);
    let output = run(&[&"verify", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("TAMPERED: 1 problem\n  header_missing: line 1: "), "{}", stdout(&output));
}

#[test]
fn a_last_line_without_an_end_is_a_warning_and_exits_with_0() {
    let directory = Directory::new("torn");
    let file = directory.write("ledger.jsonl", vector_text() + "{\"data_hash\": \"ab");
    let output = run(&[&"verify", &file]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("warning     line 128: "));
}

#[test]
fn the_help_says_what_the_program_does() {
    let output = run(&[&"--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with("Verifies ledger files and signs items, without Postgres\n"), "{output:?}");
}

#[test]
fn bad_usage_exits_with_2() {
    for arguments in [&[][..], &["verify"], &["check", "x"], &["verify", "x", "--what"]] {
        let output = program().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
