//! Several threads report exactly what one reports, and end with it.

use super::*;
use crate::ledger::verifier::reader::verify_in_chunks;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::panic::{catch_unwind, AssertUnwindSafe};

fn helpers(count: usize) -> Helpers {
    Helpers { count, ..Helpers::none() }
}

/// All that an observer hears but progress.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    blocks: Vec<FileBlock>,
    problems: Vec<Problem>,
}

impl Observer for Heard {
    fn block(&mut self, block: FileBlock) {
        self.blocks.push(block);
    }

    fn problem(&mut self, problem: &Problem) {
        self.problems.push(problem.clone());
    }
}

/// What is found in the file: the report, its pending entries in order, and what an observer hears.
fn found(bytes: &[u8], helpers: Helpers, chunk_size: usize, max_line: usize) -> (String, Vec<PendingEntry>, Heard) {
    let keyring = keyring();
    let options = FileOptions { keyring: Some(&keyring), helpers };
    let mut heard = Heard::default();
    let report = verify_in_chunks(Cursor::new(bytes), options, &mut heard, chunk_size, max_line).unwrap();
    let mut pending: Vec<PendingEntry> = report.pending.iter().map(|(_, entry)| entry.clone()).collect();
    pending.sort_by_key(|entry| entry.line_number);
    let summary = format!("{} {} {} {:?}", report.to_json(), report.bytes, report.record_count, report.errors);
    (summary, pending, heard)
}

/// A file with some changes in it, often none.
fn changed_file(numbers: &mut Numbers) -> Vec<u8> {
    let mut lines = ledger(numbers.below(100) as u64, 1 + numbers.below(12), 1 + numbers.below(8));
    for _ in 0..numbers.below(4) {
        let at = numbers.below(lines.len());
        match numbers.below(6) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(numbers.below(lines.len()), lines[at].clone()),
            2 => lines.swap(at, 0),
            3 => lines.insert(at, vec![b'x'; numbers.below(5000)]),
            _ => {
                let byte = numbers.below(lines[at].len().max(1));
                if let Some(byte) = lines[at].get_mut(byte) {
                    *byte ^= 1;
                }
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    let mut bytes = join(&lines);
    if numbers.below(3) == 0 {
        bytes.truncate(bytes.len() - numbers.below(200).min(bytes.len()));
    }
    bytes
}

#[test]
fn several_threads_report_exactly_what_one_reports() {
    let mut numbers = Numbers(17);
    for _ in 0..300 {
        let bytes = changed_file(&mut numbers);
        let max_line = *numbers.one_of(&[&700, &4000, &MAX_LINE]);
        let expected = found(&bytes, Helpers::none(), 1 << 18, max_line);
        let chunk_size = 1 + numbers.below(3000);
        assert_eq!(found(&bytes, Helpers::none(), chunk_size, max_line), expected);
        assert_eq!(found(&bytes, helpers(1 + numbers.below(4)), chunk_size, max_line), expected);
    }
}

#[test]
fn more_lines_than_a_batch_are_all_taken_in_order() {
    let mut bytes = join(&ledger(18, 3, 3));
    bytes.extend_from_slice(&b"\n".repeat(5000));
    let expected = found(&bytes, Helpers::none(), 1 << 18, MAX_LINE);
    assert_eq!(expected.2.problems.len(), 5000);
    assert_eq!(found(&bytes, helpers(2), 1 << 18, MAX_LINE), expected);
}

#[test]
fn a_line_longer_than_many_chunks_is_read_whole() {
    let mut long = entry(1, &keyring());
    long.metadata = canonical(&format!(r#"{{"text": "{}"}}"#, "long ".repeat(1 << 19))).unwrap();
    let mut lines = ledger(19, 3, 3);
    for at in [1, 2, lines.len() + 1] {
        long.entry_id = Uuid::from_u128(at as u128);
        lines.insert(at, long.line());
    }
    let expected = found(&join(&lines), Helpers::none(), 1 << 18, MAX_LINE);
    assert_eq!(expected.2.problems, []);
    assert_eq!(expected.1.iter().filter(|entry| entry.line_number as usize <= 3).count(), 2);
    for count in 1..4 {
        assert_eq!(found(&join(&lines), helpers(count), 5000, MAX_LINE), expected);
    }
}

#[test]
fn where_no_thread_can_be_started_the_caller_does_the_work() {
    let bytes = join(&ledger(20, 5, 5));
    let expected = found(&bytes, Helpers::none(), 100, MAX_LINE);
    assert_eq!(found(&bytes, Helpers { count: 2, start: |_| () }, 100, MAX_LINE), expected);
}

/// Breaks off, or panics, at the first block.
struct Unwilling {
    panics: bool,
    has_seen: bool,
}

impl Observer for Unwilling {
    fn progress(&mut self, _bytes: u64) -> ControlFlow<()> {
        if self.has_seen {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn block(&mut self, _block: FileBlock) {
        self.has_seen = true;
        assert!(!self.panics, "unwilling");
    }
}

#[test]
fn a_break_and_a_panic_of_the_observer_end_all_threads() {
    let bytes = join(&ledger(21, 100, 5));
    let options = FileOptions { helpers: helpers(3), ..FileOptions::default() };
    let verify = |panics| {
        let mut observer = Unwilling { panics, has_seen: false };
        verify_in_chunks(Cursor::new(&bytes), options, &mut observer, 1000, MAX_LINE)
    };
    assert_eq!(verify(false).unwrap_err().kind(), ErrorKind::Interrupted);
    let panic = catch_unwind(AssertUnwindSafe(|| verify(true))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"unwilling"));
}

/// Gives what is in it, and then what `end` says.
struct Broken<'a> {
    text: Cursor<&'a [u8]>,
    end: fn(&mut [u8]) -> io::Result<usize>,
}

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.text.read(buffer)? {
            0 => (self.end)(buffer),
            count => Ok(count),
        }
    }
}

impl Seek for Broken<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.text.seek(to)
    }
}

#[test]
fn a_read_error_ends_it_after_the_chunks_before() {
    let bytes = join(&ledger(22, 50, 5));
    let expected = found(&bytes, Helpers::none(), 1 << 18, MAX_LINE).2.blocks.len();
    for count in 0..4 {
        let reader = Broken { text: Cursor::new(&bytes), end: |_| Err(ErrorKind::StorageFull.into()) };
        let options = FileOptions { helpers: helpers(count), ..FileOptions::default() };
        let mut heard = Heard::default();
        let error = verify_in_chunks(reader, options, &mut heard, 1, MAX_LINE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(heard.blocks.len(), expected);
    }
}

#[test]
fn a_line_that_never_ends_can_be_broken_off() {
    let bytes = join(&ledger(23, 1, 5));
    for count in 0..3 {
        let endless = |buffer: &mut [u8]| {
            buffer.fill(b'a');
            Ok(buffer.len())
        };
        let reader = Broken { text: Cursor::new(&bytes), end: endless };
        let options = FileOptions { helpers: helpers(count), ..FileOptions::default() };
        let mut observer = Unwilling { panics: false, has_seen: false };
        let error = verify_in_chunks(reader, options, &mut observer, 1000, 10_000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }
}

#[test]
fn a_panic_while_reading_is_not_taken_for_the_end_of_the_file() {
    let bytes = join(&ledger(24, 5, 5));
    let reader = Broken { text: Cursor::new(&bytes), end: |_| panic!("broken reader") };
    let options = FileOptions { helpers: helpers(2), ..FileOptions::default() };
    let verified = AssertUnwindSafe(|| verify_in_chunks(reader, options, &mut (), 1000, MAX_LINE));
    assert!(catch_unwind(verified).is_err());
}
