//! Whatever anyone does to the file is found, by the server and, where the file contradicts itself, by the command line
//! too, and the first bad place is named. Once the file is as it was, the running server goes on.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::{wait_until, Cluster, Options};
use postgres::error::SqlState;
use postgres::Client;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Who finds a change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// The server, which has the tables beside it.
    Server,
    /// The command line too.
    Both,
}

struct Ledger {
    cluster: Cluster,
    client: Client,
    path: PathBuf,
    /// The lines of the untouched file, each with its end.
    lines: Vec<String>,
}

/// Puts a void line in the file: of two serialisable transactions one fails after its lines were written.
fn void_one(cluster: &Cluster, client: &mut Client) {
    let mut sessions = [cluster.connect("postgres"), cluster.connect("postgres")];
    for session in &mut sessions {
        session.batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(n) FROM skew").unwrap();
    }
    for session in &mut sessions {
        session.batch_execute(&format!("INSERT INTO skew VALUES (1); {RECORD}")).unwrap();
    }
    sessions[0].batch_execute("COMMIT").unwrap();
    assert_eq!(*error(&mut sessions[1], "COMMIT").code(), SqlState::T_R_SERIALIZATION_FAILURE);
    let path = file(client);
    wait_until("the void line is there", PATIENCE, || of_type(&lines(&path), "void").len() == 1);
}

impl Ledger {
    /// Line 1 is the header; 2 to 5 entries; 6 the line of block 1; 7 and 8 an entry and one that is voided by 9; 10 to
    /// 12 entries, 13 the line of block 2; 14 to 18 those of block 3; 19 to 21 pending.
    fn start() -> Ledger {
        let options = Options::new().conf("ledger.block_size = 4").conf("ledger.block_interval = 1h");
        let (cluster, mut client) = start(options);
        client.batch_execute("CREATE TABLE skew (n int)").unwrap();
        let record = "SELECT ledger.hash_and_record('test', to_jsonb(n), '{}', n % 3 > 0) FROM generate_series";
        client.batch_execute(&format!("{record} (1, 4) n")).unwrap();
        wait_until_sealed(&mut client);
        void_one(&cluster, &mut client);
        client.batch_execute(&format!("{record} (5, 7) n")).unwrap();
        wait_until_sealed(&mut client);
        client.batch_execute(&format!("{record} (8, 11) n")).unwrap();
        wait_until_sealed(&mut client);
        client.batch_execute(&format!("{record} (12, 14) n")).unwrap();
        let path = file(&mut client);
        let text = fs::read_to_string(&path).unwrap();
        let ledger = Ledger { cluster, client, path, lines: text.split_inclusive('\n').map(str::to_owned).collect() };
        let types: String =
            lines(&ledger.path).iter().map(|line| line["record_type"].as_str().unwrap()[..1].to_owned()).collect();
        assert_eq!(types, "leeeebeeveeebeeeebeee");
        ledger
    }

    /// Writes other content into the file and sees who finds it; then puts the content back.
    fn complaint(&mut self, name: &str, content: &str, by: By, block: Option<i64>) -> Option<String> {
        fs::write(&self.path, content).unwrap();
        let verdict = verdict(&mut self.client);
        let found = column(&mut self.client, "SELECT to_jsonb(t) FROM ledger.find_tampering() t");
        let (status, _) = cli_verify(&self.path);
        fs::write(&self.path, self.lines.concat()).unwrap();

        let found: Vec<Value> = found.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        let first = found.iter().filter_map(|problem| problem["block_number"].as_i64()).min();
        let is_reported = verdict["overall_valid"] == false && !found.is_empty();
        let is_named = block.is_none() || first == block;
        let cli_is_right = (by == By::Both) == (status != 0);
        let is_right = is_reported && is_named && cli_is_right;
        (!is_right)
            .then(|| format!("{name}: block {block:?}, first {first:?}, {by:?}, exit status {status}\n  {found:?}"))
    }
}

/// Changes the file in each of these ways.
#[track_caller]
fn assert_found(changes: impl Fn(&[String]) -> Vec<(String, String, By, Option<i64>)>) {
    let mut ledger = Ledger::start();
    assert_intact(&mut ledger.client);
    let changes = changes(&ledger.lines);
    let mut complaints = Vec::new();
    for (name, content, by, block) in &changes {
        assert_ne!(*content, ledger.lines.concat(), "{name} changes nothing");
        complaints.extend(ledger.complaint(name, content, *by, *block));
    }
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), changes.len(), complaints.join("\n"));
    assert_intact(&mut ledger.client);
    // The server goes on with the file as it is again, once it has looked at all of it.
    let client = &mut ledger.client;
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    seal(&mut ledger.client);
    assert_intact(&mut ledger.client);
    assert!(ledger.cluster.is_running());
}

/// The file with line `number`, from 1, changed.
fn with_line(lines: &[String], number: usize, change: impl Fn(&str) -> String) -> String {
    let mut changed = lines.to_vec();
    changed[number - 1] = change(&lines[number - 1]);
    changed.concat()
}

/// Another value of the same kind and length for a string or a number of a line.
fn flipped(line: &str, key: &str) -> String {
    let marker = format!("\"{key}\": ");
    let value_at = line.find(&marker).unwrap_or_else(|| panic!("no {key} in {line}")) + marker.len();
    let offset = line[value_at..].find(|c: char| c.is_ascii_alphanumeric()).unwrap();
    let at = value_at + offset;
    let flip = if &line[at..=at] == "1" { "2" } else { "1" };
    format!("{}{flip}{}", &line[..at], &line[at + 1..])
}

#[test]
fn a_flipped_byte_in_any_field_of_any_kind_of_line_is_found() {
    assert_found(|lines| {
        let mut changes = Vec::new();
        let mut flip = |number: usize, keys: &[&str], by: By, block: Option<i64>| {
            for key in keys {
                let content = with_line(lines, number, |line| flipped(line, key));
                changes.push((format!("{key} in line {number}"), content, by, block));
            }
        };
        flip(1, &["record_type", "format"], By::Both, None);
        flip(1, &["ledger_id", "timestamp"], By::Server, None);
        flip(2, &["data_hash", "entry_id", "entry_type", "key_id", "signature", "timestamp"], By::Both, Some(1));
        flip(2, &["record_type"], By::Both, Some(1));
        flip(15, &["data_hash", "entry_id", "timestamp"], By::Both, Some(3));
        flip(9, &["record_type"], By::Both, None);
        let fields = ["block_hash", "data_count", "entry_ids", "merkle_root", "timestamp", "tree_root", "tree_size"];
        flip(13, &fields, By::Both, Some(2));
        flip(13, &["previous_hash"], By::Both, Some(2));
        flip(18, &["block_hash"], By::Both, Some(3));
        // It is in the file under the number that it states now.
        flip(18, &["block_number"], By::Both, Some(1));
        // Nothing in the file itself vouches for what is not sealed.
        flip(20, &["data_hash", "entry_id", "entry_type", "signature", "timestamp"], By::Server, None);
        changes
    });
}

#[test]
fn lines_dropped_repeated_swapped_or_inserted_are_found() {
    assert_found(|lines| {
        let mut changes = Vec::new();
        let mut change = |name: String, by: By, block: Option<i64>, change: &dyn Fn(&mut Vec<String>)| {
            let mut changed = lines.to_vec();
            change(&mut changed);
            changes.push((name, changed.concat(), by, block));
        };
        for (number, by, block) in [(1, By::Both, None), (3, By::Both, Some(1)), (6, By::Both, None)] {
            change(format!("line {number} dropped"), by, block, &|lines| drop(lines.remove(number - 1)));
        }
        change("void line dropped".into(), By::Server, None, &|lines| drop(lines.remove(8)));
        change("pending line dropped".into(), By::Server, None, &|lines| drop(lines.remove(19)));
        change("last block line dropped".into(), By::Server, None, &|lines| drop(lines.remove(17)));
        for (number, block) in [(1, None), (3, None), (9, None), (13, Some(2)), (20, None)] {
            let name = format!("line {number} repeated");
            change(name.clone(), By::Both, block, &|lines| lines.insert(number, lines[number - 1].clone()));
            change(name + " at the end", By::Both, None, &|lines| lines.push(lines[number - 1].clone()));
        }
        change("entry behind its block".into(), By::Both, Some(1), &|lines| lines.swap(4, 5));
        change("blocks swapped".into(), By::Both, Some(2), &|lines| lines.swap(12, 17));
        change("header not first".into(), By::Both, None, &|lines| lines.swap(0, 1));
        let forged = lines[19].replace("\"entry_type\": \"test\"", "\"entry_type\": \"more\"").replacen(
            "\"entry_id\": \"01",
            "\"entry_id\": \"02",
            1,
        );
        change("a forged entry".into(), By::Server, None, &|lines| lines.push(forged.clone()));
        change("a line of something else".into(), By::Both, None, &|lines| lines.insert(7, "{\"a\": 1}\n".into()));
        change("an empty line".into(), By::Both, None, &|lines| lines.insert(7, "\n".into()));
        change("not canonical".into(), By::Both, None, &|lines| lines[2] = lines[2].replace("\": \"", "\":\""));
        changes
    });
}

#[test]
fn a_file_cut_anywhere_is_found() {
    assert_found(|lines| {
        let mut changes = Vec::new();
        for kept in [0, 1, 4, 6, 13, 17, 18, 20] {
            let by = if kept == 0 { By::Both } else { By::Server };
            changes.push((format!("cut after line {kept}"), lines[..kept].concat(), by, None));
        }
        let text = lines.concat();
        changes.push(("cut within the last line".into(), text[..text.len() - 5].into(), By::Server, None));
        let inside = lines[..10].concat().len() + 7;
        changes.push(("cut within line 11".into(), text[..inside].into(), By::Server, None));
        changes
    });
}

#[test]
fn another_ledgers_file_is_found() {
    let mut ledger = Ledger::start();
    let other = Ledger::start();
    assert_eq!(cli_verify(&other.path).0, 0);
    let text = other.lines.concat();
    let complaint = ledger.complaint("another ledger", &text, By::Server, Some(1));
    assert_eq!(complaint, None);
    // Its entries under this ledger's header.
    let text = format!("{}{}", ledger.lines[0], other.lines[1..].concat());
    let complaint = ledger.complaint("another ledger's entries", &text, By::Server, Some(1));
    assert_eq!(complaint, None);
    assert_intact(&mut ledger.client);
}

/// Which is not to say that it was changed.
#[test]
fn a_file_of_a_later_format_is_one_that_this_server_cannot_verify() {
    let mut ledger = Ledger::start();
    let later = with_line(&ledger.lines, 1, |line| line.replace("\"format\": 1", "\"format\": 2"));
    fs::write(&ledger.path, &later).unwrap();
    let expected = "it has format 2, and this server knows only format 1";
    let refused = error(&mut ledger.client, "SELECT ledger.verify_file_integrity()");
    assert_eq!(*refused.code(), SqlState::FEATURE_NOT_SUPPORTED);
    assert!(all_text(&refused).contains(expected), "{refused:?}");
    let found = column(&mut ledger.client, "SELECT problem || ' ' || detail FROM ledger.find_tampering()");
    assert!(found.len() == 1 && found[0].starts_with("file_unreadable ") && found[0].contains(expected), "{found:?}");
    fs::write(&ledger.path, ledger.lines.concat()).unwrap();
    let client = &mut ledger.client;
    wait_until("recording works again", PATIENCE, || client.simple_query(RECORD).is_ok());
    assert_intact(&mut ledger.client);
}

#[test]
fn verify_file_integrity_reads_any_file_it_is_given_and_says_the_same() {
    let mut ledger = Ledger::start();
    let verdict_on = |client: &mut Client, path: &Path| {
        json(client, &format!("SELECT ledger.verify_file_integrity('{}')", path.display()))
    };
    let copy = ledger.cluster.scratch_dir().join("copy.jsonl");
    crate::common::write_file(&copy, ledger.lines.concat());
    assert_eq!(verdict_on(&mut ledger.client, &copy)["valid"], true);
    fs::write(&copy, with_line(&ledger.lines, 3, |line| flipped(line, "data_hash"))).unwrap();
    let verdict = verdict_on(&mut ledger.client, &copy);
    assert_eq!(verdict["valid"], false);
    assert_eq!(verdict["errors"][0]["block_number"], 1, "{verdict:#}");
    // Its own file, cut at the end, is not what it was; a copy of it is just a shorter ledger.
    fs::write(&copy, ledger.lines[..13].concat()).unwrap();
    assert_eq!(verdict_on(&mut ledger.client, &copy)["valid"], true);
    fs::write(&ledger.path, ledger.lines[..13].concat()).unwrap();
    assert_eq!(json(&mut ledger.client, "SELECT ledger.verify_file_integrity()")["valid"], false);
    let missing = error(&mut ledger.client, "SELECT ledger.verify_file_integrity('/nowhere/at/all')");
    assert_eq!(*missing.code(), SqlState::UNDEFINED_FILE);
}
