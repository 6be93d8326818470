//! Drives a [`FileVerifier`] over a whole file.

use super::file::{FileBlock, FileReport, FileVerifier};
use super::problem::{Findings, Problem};
use crate::ledger::signature::Keyring;
use memchr::memchr;
use std::borrow::Cow;
use std::io::{self, BufRead, ErrorKind, Read, Seek, SeekFrom};
use std::ops::ControlFlow;

/// The longest line that is read, in bytes. No value in Postgres is longer than that, so no line of a ledger is.
pub const MAX_LINE: usize = 1 << 30;

/// How often an observer hears of progress, in bytes.
const PROGRESS_INTERVAL: u64 = 1 << 18;

/// What to check a file with.
#[derive(Debug, Default, Clone, Copy)]
pub struct FileOptions<'a> {
    /// Without one, signatures are not checked.
    pub keyring: Option<&'a Keyring>,
}

/// Hears of what goes on. `()` does not listen.
pub trait Observer {
    /// `bytes` of the file are done; a break ends the verification.
    fn progress(&mut self, bytes: u64) -> ControlFlow<()> {
        let _ = bytes;
        ControlFlow::Continue(())
    }

    /// The next block of the file, checked.
    fn block(&mut self, block: FileBlock) {
        let _ = block;
    }

    /// A problem, each as it is found.
    fn problem(&mut self, problem: &Problem) {
        let _ = problem;
    }
}

impl Observer for () {}

/// Verifies a ledger file from the reader's position to its end. Lines appended meanwhile may or may not be seen.
///
/// If entries are pending at the end, block lines are read a second time.
///
/// # Errors
/// If reading or seeking fails, or with [`ErrorKind::Interrupted`] if the observer breaks off.
pub fn verify_file(
    mut reader: impl BufRead + Seek,
    options: FileOptions<'_>,
    observer: &mut impl Observer,
) -> io::Result<FileReport> {
    let start = reader.stream_position()?;
    let observer = std::cell::RefCell::new(observer);
    let sink = |problem: &Problem| observer.borrow_mut().problem(problem);
    let mut verifier = FileVerifier::new(options.keyring.map(Cow::Borrowed), Findings::with_sink(sink));
    let mut bytes = 0;
    let mut progress = Progress::default();
    let mut lines = Lines::new(&mut reader, MAX_LINE);
    loop {
        let step = lines.next(|line| match line {
            Line::Whole(raw) => verifier.line(raw),
            Line::TooLong => {
                verifier.line_too_long();
                None
            }
            Line::Unterminated(length) => {
                verifier.unterminated_line(length);
                None
            }
        })?;
        match step {
            Step::Line(block) => {
                if let Some(block) = block {
                    observer.borrow_mut().block(block);
                }
                bytes = lines.terminated;
            }
            Step::Part => {}
            Step::End => break,
        }
        progress.report(lines.read, *observer.borrow_mut())?;
    }
    if verifier.has_pending() {
        reader.seek(SeekFrom::Start(start))?;
        look_again(&mut verifier, (&mut reader).take(bytes), || match observer.borrow_mut().progress(bytes) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ErrorKind::Interrupted.into()),
        })?;
    }
    Ok(verifier.finish(bytes))
}

fn look_again(
    verifier: &mut FileVerifier<'_>,
    reader: impl BufRead,
    mut go_on: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut lines = Lines::new(reader, MAX_LINE);
    let mut line_number = 0;
    let mut reported = 0;
    loop {
        let step = lines.next(|line| {
            line_number += 1;
            if let Line::Whole(raw) = line {
                verifier.look_again(line_number, raw);
            }
        })?;
        if matches!(step, Step::End) || !verifier.has_pending() {
            return Ok(());
        }
        if lines.read - reported >= PROGRESS_INTERVAL {
            reported = lines.read;
            go_on()?;
        }
    }
}

#[derive(Default)]
struct Progress {
    reported: u64,
}

impl Progress {
    fn report(&mut self, bytes: u64, observer: &mut impl Observer) -> io::Result<()> {
        if bytes - self.reported < PROGRESS_INTERVAL {
            return Ok(());
        }
        self.reported = bytes;
        match observer.progress(bytes) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ErrorKind::Interrupted.into()),
        }
    }
}

enum Line<'l> {
    Whole(&'l [u8]),
    TooLong,
    /// The rest of the file, of this many bytes.
    Unterminated(u64),
}

enum Step<T> {
    /// A line, and what was made of it.
    Line(T),
    /// A part of a line; there is more.
    Part,
    End,
}

/// Splits what is read into lines, without copying those that lie within the reader's buffer.
struct Lines<R> {
    reader: R,
    /// The longest line that is kept.
    max_line: usize,
    /// The beginning of a line that goes on in the next buffer.
    carried: Vec<u8>,
    /// The length of that beginning, also where it is too long to be kept.
    carried_length: u64,
    /// Bytes read.
    read: u64,
    /// Bytes up to the end of the last whole line.
    terminated: u64,
}

impl<R: BufRead> Lines<R> {
    fn new(reader: R, max_line: usize) -> Self {
        Lines { reader, max_line, carried: Vec::new(), carried_length: 0, read: 0, terminated: 0 }
    }

    fn next<T>(&mut self, handle: impl FnOnce(Line<'_>) -> T) -> io::Result<Step<T>> {
        let buffer = match self.reader.fill_buf() {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(Step::Part),
            other => other?,
        };
        if buffer.is_empty() {
            let length = std::mem::take(&mut self.carried_length);
            if length > 0 {
                handle(Line::Unterminated(length));
            }
            return Ok(Step::End);
        }
        let Some(end) = memchr(b'\n', buffer) else {
            let count = buffer.len();
            self.carried_length += count as u64;
            if self.carried_length <= self.max_line as u64 {
                self.carried.extend_from_slice(buffer);
            } else {
                // Too long already: give the memory back.
                self.carried = Vec::new();
            }
            self.consume(count);
            return Ok(Step::Part);
        };
        let length = self.carried_length + end as u64;
        let made = if length > self.max_line as u64 {
            handle(Line::TooLong)
        } else if self.carried_length == 0 {
            handle(Line::Whole(&buffer[..end]))
        } else {
            self.carried.extend_from_slice(&buffer[..end]);
            handle(Line::Whole(&self.carried))
        };
        self.carried.clear();
        self.carried_length = 0;
        self.consume(end + 1);
        self.terminated = self.read;
        Ok(Step::Line(made))
    }

    fn consume(&mut self, count: usize) {
        self.reader.consume(count);
        self.read += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], buffer: usize, max_line: usize) -> Vec<String> {
        let reader = io::BufReader::with_capacity(buffer, text);
        let mut lines = Lines::new(reader, max_line);
        let mut seen = Vec::new();
        loop {
            let step = lines.next(|line| match line {
                Line::Whole(raw) => seen.push(String::from_utf8_lossy(raw).into_owned()),
                Line::TooLong => seen.push("too long".to_owned()),
                Line::Unterminated(length) => seen.push(format!("{length} left")),
            });
            if matches!(step.unwrap(), Step::End) {
                assert_eq!(lines.read, text.len() as u64);
                let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                assert_eq!(lines.terminated, whole as u64);
                return seen;
            }
        }
    }

    #[test]
    fn lines_are_the_same_however_they_fall_into_buffers() {
        for buffer in 1..20 {
            assert_eq!(lines(b"ab\n\nlonger line\r\nx\nrest", buffer, 100), ["ab", "", "longer line\r", "x", "4 left"]);
            assert_eq!(lines(b"", buffer, 100), [""; 0]);
            assert_eq!(lines(b"\n", buffer, 100), [""]);
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_in_memory() {
        for buffer in 1..20 {
            assert_eq!(lines(b"four\nfives\nsixsix\nfour", buffer, 4), ["four", "too long", "too long", "4 left"]);
        }
        let mut long = Lines::new(io::BufReader::with_capacity(1000, io::repeat(b'a').take(1 << 20)), 5000);
        while !matches!(long.next(|_| ()).unwrap(), Step::End) {
            assert!(long.carried.capacity() <= 20_000);
        }
    }
}
