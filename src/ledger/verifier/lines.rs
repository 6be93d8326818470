//! Splits what is read into chunks of whole lines.

use memchr::{memchr_iter, memrchr};
use std::io::{self, Read};
use std::ops::ControlFlow;

/// The longest line that is read, in bytes. Recording refuses an entry whose line would be longer; see
/// [`MAX_METADATA`](crate::ledger::record::MAX_METADATA).
pub const MAX_LINE: usize = 1 << 30;

/// How much is read at once, in bytes.
pub(super) const CHUNK: usize = 1 << 18;

pub(super) enum Line<'l> {
    Whole(&'l [u8]),
    TooLong,
}

/// Whole lines that follow each other in a file.
#[derive(Default)]
pub(super) struct Chunk {
    /// Each with its newline.
    text: Vec<u8>,
    /// How much of the first line is left out, as it was too long to be kept.
    skipped: u64,
    /// Bytes read up to here, with what of the next line is read already.
    pub(super) read: u64,
    /// Bytes up to the end of the last line.
    pub(super) terminated: u64,
}

impl Chunk {
    /// Whether it holds a line that is much longer than what is read at once, and so takes memory that is better given
    /// back than used again.
    pub(super) fn is_large(&self) -> bool {
        self.text.len() > 4 * CHUNK
    }

    /// Calls `each` for each line, without its newline, until it breaks.
    pub(super) fn each_line(
        &self,
        max_line: usize,
        mut each: impl FnMut(Line<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut start = 0;
        let mut skipped = self.skipped;
        for end in memchr_iter(b'\n', &self.text) {
            let raw = &self.text[start..end];
            start = end + 1;
            let length = std::mem::take(&mut skipped) + raw.len() as u64;
            let line = if length > max_line as u64 { Line::TooLong } else { Line::Whole(raw) };
            each(line)?;
        }
        ControlFlow::Continue(())
    }
}

pub(super) enum Step {
    /// The chunk is filled.
    Chunk,
    /// A part of a long line was read; there is more.
    Part,
    End,
}

/// Reads chunks, and never holds more than one line that is longer than what is read at once.
pub(super) struct Chunks<R> {
    reader: R,
    chunk_size: usize,
    /// The longest line that is kept.
    max_line: usize,
    /// The beginning of a line.
    carried: Vec<u8>,
    /// How much of that beginning is left out.
    skipped: u64,
    /// Bytes read.
    read: u64,
}

impl<R: Read> Chunks<R> {
    pub(super) fn new(reader: R, chunk_size: usize, max_line: usize) -> Self {
        Chunks { reader, chunk_size, max_line, carried: Vec::new(), skipped: 0, read: 0 }
    }

    pub(super) fn max_line(&self) -> usize {
        self.max_line
    }

    /// The length of the line whose end was not read.
    pub(super) fn unterminated(&self) -> u64 {
        self.skipped + self.carried.len() as u64
    }

    pub(super) fn next(&mut self, chunk: &mut Chunk) -> io::Result<Step> {
        let from = self.carried.len();
        self.carried.reserve(self.chunk_size);
        let count = self.reader.by_ref().take(self.chunk_size as u64).read_to_end(&mut self.carried)?;
        self.read += count as u64;
        if count == 0 {
            return Ok(Step::End);
        }
        let Some(end) = memrchr(b'\n', &self.carried[from..]) else {
            if self.skipped > 0 || self.carried.len() > self.max_line {
                self.skipped += self.carried.len() as u64;
                // Too long already: the memory is given back.
                self.carried = Vec::new();
            }
            return Ok(Step::Part);
        };
        self.fill(chunk, from + end + 1);
        Ok(Step::Chunk)
    }

    /// Hands over what was read up to `end`, and takes the chunk's buffer in exchange.
    fn fill(&mut self, chunk: &mut Chunk, end: usize) {
        std::mem::swap(&mut chunk.text, &mut self.carried);
        self.carried.clear();
        self.carried.extend_from_slice(&chunk.text[end..]);
        chunk.text.truncate(end);
        chunk.skipped = std::mem::take(&mut self.skipped);
        chunk.read = self.read;
        chunk.terminated = self.read - self.carried.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn lines(text: &[u8], chunk_size: usize, max_line: usize) -> Vec<String> {
        // A reader that gives little at a time.
        let mut chunks = Chunks::new(BufReader::with_capacity(3, text), chunk_size, max_line);
        let (mut chunk, mut seen) = (Chunk::default(), Vec::new());
        let mut terminated = 0;
        loop {
            match chunks.next(&mut chunk).unwrap() {
                Step::End => break,
                Step::Part => continue,
                Step::Chunk => terminated = chunk.terminated,
            }
            let all = chunk.each_line(max_line, |line| {
                seen.push(match line {
                    Line::Whole(raw) => String::from_utf8_lossy(raw).into_owned(),
                    Line::TooLong => "too long".to_owned(),
                });
                ControlFlow::Continue(())
            });
            assert!(all.is_continue());
        }
        if chunks.unterminated() > 0 {
            seen.push(format!("{} left", chunks.unterminated()));
        }
        assert_eq!(chunks.read, text.len() as u64);
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        assert_eq!(terminated, whole as u64);
        seen
    }

    #[test]
    fn lines_are_the_same_however_they_fall_into_chunks() {
        for size in 1..30 {
            assert_eq!(lines(b"ab\n\nlonger line\r\nx\nrest", size, 100), ["ab", "", "longer line\r", "x", "4 left"]);
            assert_eq!(lines(b"", size, 100), [""; 0]);
            assert_eq!(lines(b"\n", size, 100), [""]);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_not_kept_in_memory() {
        for size in 1..30 {
            assert_eq!(lines(b"four\nfives\nsixsix\nfour", size, 4), ["four", "too long", "too long", "4 left"]);
            assert_eq!(lines(b"fives and more", size, 4), ["14 left"]);
        }
        let endless = io::repeat(b'a').take(1 << 20);
        let mut chunks = Chunks::new(endless, 1000, 5000);
        while !matches!(chunks.next(&mut Chunk::default()).unwrap(), Step::End) {
            assert!(chunks.carried.capacity() <= 20_000);
        }
        assert_eq!(chunks.unterminated(), 1 << 20);
    }
}
