//! Random edits of the file: each is found, where it was made, by whoever can know.
//!
//! [`Ledger::expect`] says for each edited file who that is. Where the file contradicts itself, it is everybody who has
//! nothing but the file and the secret. A file that could have been written so by a server is found out beside the
//! database alone. And some edits change nothing that the ledger states: the order of entry lines before their block's,
//! the name of the database in the header, the reason and time of a void line, and what a voided entry said.
//!
//! There are `PG_NOTARY_TEST_EDITS` of them, 400 unless set. A test that fails shows its `PG_NOTARY_TEST_SEED`, which
//! makes the same edits again.
#![cfg(feature = "cluster-tests")]

use crate::common::ledger::*;
use crate::common::random::Random;
use crate::common::{wait_until, write_file, Cluster, SECRET};
use pg_notary::ledger::record::{BlockLine, EntryLine, Record};
use postgres::Client;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

fn edits() -> usize {
    std::env::var("PG_NOTARY_TEST_EDITS").map_or(400, |text| text.parse().expect("a number of edits"))
}

// ---- what must be found -------------------------------------------------------------------------------------------------

/// Who finds an edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Finders {
    /// The command line, and SQL with and without the database: the file contradicts itself.
    Everybody,
    /// SQL, with the database beside the file. The file alone could have been written so.
    Database,
    /// Nobody, as the edit changes nothing that the ledger states.
    Nobody,
}

/// Where an edit shows; what is found must name one of these places.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// A line of the edited file, from 1.
    Line(usize),
    Block(i64),
    Entry(Uuid),
    TheEnd,
    TheHeader,
}

impl Place {
    fn is_named_by(self, problem: &Value) -> bool {
        match self {
            Place::Line(number) => problem["detail"].as_str().unwrap().starts_with(&format!("line {number}: ")),
            Place::Block(number) => problem["block_number"] == number,
            Place::Entry(id) => problem["entry_id"] == id.to_string(),
            Place::TheEnd => problem["problem"] == "file_truncated",
            Place::TheHeader => ["other_ledger", "header_missing"].iter().any(|kind| problem["problem"] == *kind),
        }
    }
}

struct Expected {
    finders: Finders,
    places: Vec<Place>,
}

/// An untouched file and what belongs to it.
struct Ledger {
    cluster: Cluster,
    client: Client,
    path: PathBuf,
    text: Vec<u8>,
    /// The lines of the file, and those of another ledger that has the same secret.
    lines: Vec<Vec<u8>>,
    foreign: Vec<Vec<u8>>,
    /// What was really signed.
    signed: HashSet<Signature>,
    /// The lines of the pending entries.
    pending: BTreeMap<Uuid, Vec<u8>>,
    /// All entries of the database.
    rows: HashSet<Uuid>,
    blocks: i64,
}

type Signature = (String, Option<String>, Option<String>);

fn signature_of(entry: &EntryLine<'_>) -> Signature {
    let text = |text: &Cow<'_, str>| text.to_string();
    (entry.data_hash.to_owned(), entry.signature.as_ref().map(text), entry.key_id.as_ref().map(text))
}

fn split(text: &[u8]) -> Vec<Vec<u8>> {
    text.split_inclusive(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_suffix(b"\n"))
        .map(<[u8]>::to_vec)
        .collect()
}

fn join(lines: &[Vec<u8>]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line, &b"\n"[..]]).flatten().copied().collect()
}

/// An edited file, as far as its lines tell without computing a hash.
#[derive(Default)]
struct Reading<'t> {
    /// Where it contradicts itself.
    contradictions: Vec<Place>,
    /// Entries that no block and no void line has taken yet: line number, line, and whether its signature is good.
    open: HashMap<Uuid, (usize, &'t [u8], bool)>,
    /// Entries that some block names.
    held: HashSet<Uuid>,
    last_block: i64,
    has_header: bool,
}

impl Ledger {
    fn is_signed_well(&self, entry: &EntryLine<'_>) -> bool {
        let signature = signature_of(entry);
        (signature.1.is_none() && signature.2.is_none()) || self.signed.contains(&signature)
    }

    /// Whether this line stands in the untouched file.
    fn is_ours(&self, line: &[u8]) -> bool {
        self.lines.iter().any(|ours| ours == line)
    }

    fn read<'t>(&self, lines: &'t [Vec<u8>]) -> Reading<'t> {
        let mut reading = Reading::default();
        if lines.is_empty() {
            reading.contradictions.push(Place::TheHeader);
        }
        for (number, line) in (1..).zip(lines) {
            self.read_line(&mut reading, number, line);
        }
        for (id, (number, _, is_signed_well)) in &reading.open {
            if reading.held.contains(id) || !is_signed_well {
                reading.contradictions.push(Place::Line(*number));
            }
        }
        reading
    }

    fn read_line<'t>(&self, reading: &mut Reading<'t>, number: usize, line: &'t [u8]) {
        let here = Place::Line(number);
        let record = Record::parse(line);
        if number == 1 && !matches!(record, Ok(Record::Ledger(_))) {
            reading.contradictions.push(here);
        }
        match record {
            Err(_) => reading.contradictions.push(here),
            Ok(Record::Ledger(_)) => {
                if std::mem::replace(&mut reading.has_header, true) {
                    reading.contradictions.push(here);
                }
            }
            Ok(Record::Entry(entry)) => {
                let is_signed_well = self.is_signed_well(&entry);
                match reading.open.entry(entry.entry_id) {
                    Slot::Occupied(_) => reading.contradictions.push(here),
                    Slot::Vacant(slot) => drop(slot.insert((number, line, is_signed_well))),
                }
            }
            Ok(Record::Void(void)) => {
                for id in void.entry_ids {
                    match reading.open.remove(&id) {
                        Some((_, _, true)) => {}
                        Some((number, _, false)) => reading.contradictions.push(Place::Line(number)),
                        None => reading.contradictions.push(here),
                    }
                }
            }
            Ok(Record::Block(block)) => self.read_block(reading, number, line, &block),
        }
    }

    fn read_block(&self, reading: &mut Reading<'_>, number: usize, line: &[u8], block: &BlockLine) {
        let (here, block_number) = (Place::Line(number), block.header.block_number);
        let block_here = Place::Block(block_number);
        reading.held.extend(&block.entry_ids);
        let entries: Vec<_> = block.entry_ids.iter().map(|id| reading.open.remove(id)).collect();
        if block_number <= reading.last_block {
            reading.contradictions.push(here);
            return;
        }
        if block_number > reading.last_block + 1 {
            reading.contradictions.push(Place::Block(reading.last_block + 1));
        }
        // Its hash covers every byte of a block, and the log tree every byte of its entries.
        if !self.is_ours(line) {
            reading.contradictions.extend([here, block_here]);
        }
        for entry in entries {
            match entry {
                Some((_, line, _)) if self.is_ours(line) => {}
                Some((number, _, _)) => reading.contradictions.extend([Place::Line(number), block_here]),
                None => reading.contradictions.push(block_here),
            }
        }
        reading.last_block = block_number;
    }

    /// Where the database shows that this file, which does not contradict itself, is not the one that it wrote.
    fn differences(&self, text: &[u8], reading: &Reading<'_>) -> Vec<Place> {
        let mut places = Vec::new();
        if text.len() < self.text.len() {
            places.push(Place::TheEnd);
        }
        if has_other_identity(&self.lines[0], text) {
            places.push(Place::TheHeader);
        }
        if reading.last_block < self.blocks {
            places.push(Place::Block(reading.last_block + 1));
        }
        for (id, line) in &self.pending {
            if reading.open.get(id).is_none_or(|(_, open, _)| open != line) {
                places.push(Place::Entry(*id));
            }
        }
        places.extend(reading.open.keys().filter(|id| !self.rows.contains(id)).map(|id| Place::Entry(*id)));
        places
    }

    fn expect(&self, text: &[u8]) -> Expected {
        // A last line without its end may be one that is being written: not looked at, by anyone.
        let lines = split(text);
        let reading = self.read(&lines);
        if !reading.contradictions.is_empty() {
            return Expected { finders: Finders::Everybody, places: reading.contradictions };
        }
        let places = self.differences(text, &reading);
        let finders = if places.is_empty() { Finders::Nobody } else { Finders::Database };
        Expected { finders, places }
    }
}

/// Whether the file's header states another ledger or another start of it. The name of the database may change.
fn has_other_identity(header: &[u8], text: &[u8]) -> bool {
    let first = split(text).remove(0);
    match (Record::parse(header), Record::parse(&first)) {
        (Ok(Record::Ledger(ours)), Ok(Record::Ledger(theirs))) => {
            (ours.ledger_id, ours.timestamp) != (theirs.ledger_id, theirs.timestamp)
        }
        _ => true,
    }
}

// ---- the ledger -----------------------------------------------------------------------------------------------------------

/// Records entries of every kind: signed and not, with metadata and without.
fn record_some(client: &mut Client, entries: usize) {
    let sql = "SELECT ledger.hash_and_record('type ' || n % 3, to_jsonb(n), CASE WHEN n % 2 = 0 THEN '{}' ELSE \
               jsonb_build_object('n', n, 'note', 'é \" ' || n) END, n % 3 > 0) FROM generate_series(1, COUNT) n";
    client.batch_execute(&sql.replace("COUNT", &entries.to_string())).unwrap();
}

impl Ledger {
    /// Six blocks with void lines between them, and pending entries behind.
    fn start() -> Ledger {
        let (cluster, mut client) = start(quiet());
        client.batch_execute("CREATE TABLE skew (n int)").unwrap();
        wait_until_attached(&mut client);
        let path = file(&mut client);
        let mut voided = 0;
        for block in 1..=6 {
            record_some(&mut client, 3 + block % 3);
            if block % 2 == 0 {
                voided += fail_a_commit(&cluster, block).len();
                wait_until("the lines are voided", PATIENCE, || voided_ids(&lines(&path)).len() == voided);
            }
            record_some(&mut client, 1);
            seal(&mut client);
        }
        record_some(&mut client, 5);
        assert_intact(&mut client);

        let foreign = another_ledger(&cluster);
        let text = fs::read(&path).unwrap();
        let lines = split(&text);
        let entries = |lines: &[Vec<u8>]| -> Vec<(Uuid, Signature, Vec<u8>)> {
            let entry = |line: &Vec<u8>| match Record::parse(line).unwrap() {
                Record::Entry(entry) => Some((entry.entry_id, signature_of(&entry), line.clone())),
                _ => None,
            };
            lines.iter().filter_map(entry).collect()
        };
        let signed = entries(&lines).into_iter().chain(entries(&foreign)).map(|(_, signature, _)| signature).collect();
        let uuids = |ids: Vec<String>| -> HashSet<Uuid> { ids.iter().map(|id| id.parse().unwrap()).collect() };
        let pending_ids = uuids(column(&mut client, "SELECT id FROM ledger.entries_pending"));
        let pending = entries(&lines).into_iter().map(|(id, _, line)| (id, line));
        let pending = pending.filter(|(id, _)| pending_ids.contains(id)).collect();
        let rows = uuids(column(&mut client, "SELECT id FROM ledger.entries"));
        Ledger { cluster, client, path, text, lines, foreign, signed, pending, rows, blocks: 6 }
    }
}

/// The lines of a ledger in another database.
fn another_ledger(cluster: &Cluster) -> Vec<Vec<u8>> {
    let mut client = cluster.connect("postgres");
    client.batch_execute("CREATE DATABASE other").unwrap();
    let mut client = cluster.connect("other");
    client.batch_execute("CREATE EXTENSION pg_notary").unwrap();
    wait_until_attached(&mut client);
    for entries in [4, 3] {
        record_some(&mut client, entries);
        seal(&mut client);
    }
    record_some(&mut client, 3);
    assert_intact(&mut client);
    split(&fs::read(file(&mut client)).unwrap())
}

// ---- the edits --------------------------------------------------------------------------------------------------------------

const KINDS: [&str; 10] = [
    "a byte flipped",
    "a line cut short",
    "lines swapped",
    "a line moved",
    "a line repeated",
    "another ledger's line inserted",
    "another ledger's line in place of one",
    "lines removed",
    "a part in the middle cut out",
    "the end cut off",
];

/// A byte that often leaves the line well formed.
fn other_byte(byte: u8, random: &mut Random) -> u8 {
    let choices: &[u8] = match byte {
        b'0'..=b'9' => b"0123456789",
        b'a'..=b'f' => b"abcdef0123456789",
        b'g'..=b'z' => b"ghijklmnopqrstuvwxyz",
        _ => b" \",:{}[]\\\n\r\0\x7f\xffaA1",
    };
    *random.pick(choices)
}

impl Ledger {
    /// Edits the file in the way of this kind. Says where.
    fn edit(&self, kind: &str, random: &mut Random) -> (String, Vec<u8>) {
        let mut lines = self.lines.clone();
        let (at, to) = (random.below(lines.len()), random.below(lines.len()));
        let mut place = format!("line {}", at + 1);
        match kind {
            "a byte flipped" => {
                let byte = random.below(lines[at].len());
                lines[at][byte] = other_byte(lines[at][byte], random);
                place += &format!(" byte {byte}");
            }
            "a line cut short" => {
                let length = random.below(lines[at].len());
                lines[at].truncate(length);
                place += &format!(" after byte {length}");
            }
            "lines swapped" => lines.swap(at, to),
            "a line moved" => {
                let line = lines.remove(at);
                lines.insert(to, line);
            }
            "a line repeated" => lines.insert(to, lines[at].clone()),
            "another ledger's line inserted" => lines.insert(to, random.pick(&self.foreign).clone()),
            "another ledger's line in place of one" => lines[at].clone_from(random.pick(&self.foreign)),
            "lines removed" => {
                let count = 1 + random.below(3);
                lines.drain(at..(at + count).min(self.lines.len()));
                place += &format!(", {count} of them");
            }
            "a part in the middle cut out" => {
                let (from, length) = (random.below(self.text.len()), 1 + random.below(1500));
                let mut text = self.text.clone();
                text.drain(from..(from + length).min(self.text.len()));
                return (format!("{length} bytes from byte {from}"), text);
            }
            "the end cut off" => {
                let length = random.below(self.text.len());
                return (format!("after byte {length}"), self.text[..length].to_vec());
            }
            other => unreachable!("{other}"),
        }
        (format!("{place} to {}", to + 1), join(&lines))
    }

    /// What is wrong with what is found in this edited file, if anything.
    fn complaint(&mut self, text: &[u8], expected: &Expected, secret_file: &str, copy: &Path) -> Option<String> {
        fs::write(copy, text).unwrap();
        let (status, report) = cli_verify_with(copy, &["--secret-file", secret_file]);
        let alone = format!("SELECT ledger.verify_file_integrity('{}')", copy.display());
        let alone = json(&mut self.client, &alone);
        // In the ledger's own file.
        fs::write(&self.path, text).unwrap();
        let found = column(&mut self.client, "SELECT to_jsonb(t) FROM ledger.find_tampering() t");
        let verdict = verdict(&mut self.client);
        fs::write(&self.path, &self.text).unwrap();

        let found: Vec<Value> = found.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        let is_named = |problem: &Value| expected.places.iter().any(|place| place.is_named_by(problem));
        let everybody = expected.finders == Finders::Everybody;
        // No line at all is no report of the command line: not a ledger file.
        let same = report.is_null() && status == 2 || report["errors"] == alone["errors"];
        let complaints = [
            ("the command line is wrong", (status != 0) != everybody),
            ("SQL on the file alone is wrong", (alone["valid"] == false) != everybody),
            ("SQL and the command line differ", !same),
            ("the first problem is elsewhere", everybody && !is_named(&alone["errors"][0])),
            ("find_tampering is wrong", found.is_empty() != (expected.finders == Finders::Nobody)),
            ("verify_chain is wrong", (verdict["overall_valid"] == true) != (expected.finders == Finders::Nobody)),
            ("no row names the place", !found.is_empty() && !found.iter().any(is_named)),
        ];
        let complaints: Vec<&str> = complaints.iter().filter(|(_, wrong)| *wrong).map(|(text, _)| *text).collect();
        let places = &expected.places[..expected.places.len().min(5)];
        (!complaints.is_empty()).then(|| {
            format!(
                "{complaints:?}\n  expected {:?} {places:?}\n  {status} {}\n  {found:?}",
                expected.finders, alone["errors"]
            )
        })
    }
}

#[test]
fn every_random_edit_is_found_where_it_is_by_whoever_can_know() {
    let mut ledger = Ledger::start();
    let mut random = Random::new("file_edits");
    let secret_file = ledger.cluster.scratch_dir().join("secret");
    fs::write(&secret_file, format!("default:{SECRET}\n")).unwrap();
    fs::set_permissions(&secret_file, Permissions::from_mode(0o600)).unwrap();
    let copy = ledger.cluster.scratch_dir().join("copy.jsonl");
    write_file(&copy, "");

    let (mut complaints, mut counts) = (Vec::new(), BTreeMap::new());
    let edits = edits();
    for number in 0..edits {
        let kind = KINDS[number % KINDS.len()];
        let (place, text) = ledger.edit(kind, &mut random);
        let expected = ledger.expect(&text);
        *counts.entry(expected.finders).or_insert(0) += 1;
        let complaint = ledger.complaint(&text, &expected, secret_file.to_str().unwrap(), &copy);
        complaints.extend(complaint.map(|complaint| format!("{kind}, {place}: {complaint}")));
    }
    eprintln!("found by {counts:?}");
    assert!(complaints.is_empty(), "{} of {edits}:\n{}", complaints.len(), complaints.join("\n"));
    // Of each, enough to be worth the name of a test.
    let enough =
        [Finders::Everybody, Finders::Database, Finders::Nobody].iter().all(|finders| counts[finders] > edits / 50);
    assert!(enough, "{counts:?}");
    // The server goes on with the file as it is again, once it has seen that it is.
    wait_until("recording works again", PATIENCE, || ledger.client.simple_query(RECORD).is_ok());
    seal(&mut ledger.client);
    assert_intact(&mut ledger.client);
}
