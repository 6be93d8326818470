//! What the verifier reports of a file, whatever it is and however it is read.

use super::planted::Valid;
use super::*;
use crate::ledger::test_support::vector_text;
use proptest::prelude::*;
use std::io::{BufReader, ErrorKind};
use std::ops::ControlFlow;

#[test]
fn the_vector_file_is_valid_with_its_secret_and_not_with_another() {
    let text = vector_text("ledger.jsonl");
    let report = verify(text.as_bytes());
    assert!(report.valid() && report.signatures.is_some());
    assert_eq!(report.header.unwrap().database, "vectors");
    assert_eq!((report.block_count, report.entry_count), (4, 109));
    assert_eq!((report.void_count, report.pending.len()), (6, 1));
    assert_eq!(report.bytes, text.len() as u64);
    assert_eq!(report.last_block.unwrap().block_number, 4);
    let signed = text.matches("\"key_id\": \"default\"").count() as u64;
    for (ring, kind) in [("default:other", ProblemKind::SignatureInvalid), ("other:k", ProblemKind::UnknownKey)] {
        let ring = Keyring::parse(ring).unwrap();
        let options = FileOptions { keyring: Some(&ring), ..FileOptions::default() };
        let report = verify_file(Cursor::new(&text), options, &mut ()).unwrap();
        assert_eq!(report.error_count, signed);
        assert_eq!(report.errors.len(), MAX_LISTED.min(signed as usize));
        assert!(report.errors.iter().all(|error| error.problem == kind));
    }
    let report = verify_file(Cursor::new(&text), FileOptions::default(), &mut ()).unwrap();
    assert!(report.valid() && report.signatures.is_none());
}

#[test]
fn a_half_signed_entry_is_a_problem_with_and_without_secrets() {
    let valid = Valid::generated(13);
    for ring in [None, Some(keyring())] {
        let mut lines = valid.lines.clone();
        let mut half = entry(1 << 30, &keyring());
        half.key_id = None;
        half.signature = Some("ab".repeat(32));
        lines.push(half.line());
        let options = FileOptions { keyring: ring.as_ref(), ..FileOptions::default() };
        let report = verify_file(Cursor::new(join(&lines)), options, &mut ()).unwrap();
        assert_eq!(report.errors.len(), 1);
        assert_eq!(report.errors[0].problem, ProblemKind::SignatureIncomplete);
        assert_eq!(report.errors[0].entry_id, Some(half.entry_id));
    }
}

#[test]
fn a_last_line_without_an_end_is_a_warning() {
    let valid = Valid::generated(14);
    let bytes = join(&valid.lines);
    let whole = bytes.len() - valid.lines.last().unwrap().len() - 1;
    for end in whole + 1..bytes.len() {
        let report = verify(&bytes[..end]);
        assert_eq!(report.errors, []);
        assert_eq!(report.warnings.len(), 1);
        assert_eq!(report.bytes, whole as u64);
    }
}

#[test]
fn carriage_returns_are_found() {
    let text = vector_text("ledger.jsonl").replace('\n', "\r\n");
    let report = verify(text.as_bytes());
    assert_eq!(report.error_count, 127);
    assert_eq!(report.errors[0].line_number, Some(1));
    assert_eq!(report.errors[1].problem, ProblemKind::LineNotCanonical);
}

#[test]
fn an_empty_file_is_not_a_ledger() {
    let report = verify(b"");
    assert_eq!(report.errors[0].problem, ProblemKind::HeaderMissing);
    assert_eq!(report.record_count, 0);
}

#[test]
fn the_report_does_not_depend_on_buffers() {
    let text = vector_text("ledger.jsonl").replacen("\"n\": 40", "\"n\": 41", 1);
    let expected = verify(text.as_bytes());
    for capacity in [1, 7, 100, 4096] {
        let reader = BufReader::with_capacity(capacity, Cursor::new(&text));
        let ring = keyring();
        let report =
            verify_file(reader, FileOptions { keyring: Some(&ring), ..FileOptions::default() }, &mut ()).unwrap();
        assert_eq!(report.to_json(), expected.to_json());
    }
}

/// Hears everything, and breaks off after some bytes.
#[derive(Default)]
struct Listener {
    limit: Option<u64>,
    progress: Vec<u64>,
    blocks: Vec<FileBlock>,
    problems: Vec<Problem>,
}

impl Observer for Listener {
    fn progress(&mut self, bytes: u64) -> ControlFlow<()> {
        self.progress.push(bytes);
        match self.limit {
            Some(limit) if bytes >= limit => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    fn block(&mut self, block: FileBlock) {
        self.blocks.push(block);
    }

    fn problem(&mut self, problem: &Problem) {
        self.problems.push(problem.clone());
    }
}

#[test]
fn an_observer_hears_of_every_block_and_problem_and_can_break_off() {
    let lines = ledger(15, 300, 20);
    let bytes = join(&lines);
    let ring = Keyring::parse("default:wrong\n").unwrap();
    let options = FileOptions { keyring: Some(&ring), ..FileOptions::default() };
    let mut listener = Listener::default();
    let report = verify_file(Cursor::new(&bytes), options, &mut listener).unwrap();
    assert_eq!(listener.blocks.len(), 300);
    let entries: usize = listener.blocks.iter().map(|block| block.entries.len()).sum();
    assert_eq!(entries as u64, report.entry_count);
    assert!(listener.problems.len() > MAX_LISTED);
    assert_eq!(listener.problems.len() as u64, report.error_count);
    assert_eq!(listener.problems[..MAX_LISTED], report.errors);
    assert!(!listener.progress.is_empty());
    let mut listener = Listener { limit: Some(1), ..Listener::default() };
    let reader = BufReader::with_capacity(1000, Cursor::new(&bytes));
    let error = verify_file(reader, options, &mut listener).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert_eq!(listener.progress.len(), 1);
}

#[test]
fn a_file_is_verified_from_where_the_reader_stands() {
    let bytes = join(&Valid::generated(16).lines);
    let mut prefixed = b"something else\n".to_vec();
    prefixed.extend_from_slice(&bytes);
    let mut cursor = Cursor::new(prefixed);
    cursor.set_position(15);
    let report = verify_file(cursor, FileOptions::default(), &mut ()).unwrap();
    assert_eq!(report.errors, []);
    assert_eq!(report.bytes, bytes.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_however_odd_stop_the_verifier(lines in prop::collection::vec(any::<(u16, Vec<u8>)>(), 0..6)) {
        let mut file = ledger(17, 3, 3);
        for (at, line) in lines {
            let at = usize::from(at) % file.len();
            file.insert(at, line);
        }
        verify_lines(&file);
    }
}

/// Anyone who can write the file can add such a line, which needs no secret.
#[test]
fn a_forged_block_before_all_others_hides_nothing_that_was_done_to_them() {
    let text = vector_text("ledger.jsonl");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let is_block = |line: &&String| line.contains("\"record_type\": \"block\"");
    let last = lines.iter().rfind(is_block).unwrap().clone();
    let hash = |line: &str, name: &str| {
        let start = line.find(&format!("\"{name}\": \"")).unwrap() + name.len() + 5;
        line[start..start + 64].to_owned()
    };
    let changed = hash(&lines[1], "data_hash");
    lines[1] = lines[1].replace(&changed, &"a".repeat(64));
    let second = lines.iter().position(|line| line.contains("\"block_number\": 2,")).unwrap();
    let stated = hash(&lines[second], "block_hash");
    lines[second] = lines[second].replace(&stated, &"b".repeat(64));
    let forged = last.replace("\"block_number\": 4", &format!("\"block_number\": {}", i64::MAX));
    for line in [last, forged] {
        let mut lines = lines.clone();
        lines.insert(1, line);
        let report = verify((lines.join("\n") + "\n").as_bytes());
        let found =
            |kind, block| report.errors.iter().any(|error| error.problem == kind && error.block_number == Some(block));
        assert!(found(ProblemKind::SignatureInvalid, 1), "{:#?}", report.errors);
        assert!(found(ProblemKind::MerkleRootMismatch, 1), "{:#?}", report.errors);
        assert!(found(ProblemKind::BlockHashMismatch, 2), "{:#?}", report.errors);
    }
}
