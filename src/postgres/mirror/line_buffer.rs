//! [`LineBuffer`]: the lines of one transaction, from when they are recorded until the commit appends them to the file.
//! The worker uses one for the lines that it appends itself.
//!
//! Few lines stay in memory. More go to a temporary file of Postgres, so that a transaction may record any number of
//! entries.

use crate::postgres::temporary_file::TemporaryFile;
use pgrx::check_for_interrupts;

/// What is kept in memory before it goes to the temporary file.
const MEMORY_BYTES: usize = 1 << 20;
/// Size of a piece when the lines are read back; a longer line makes a longer piece.
const PIECE_BYTES: usize = 1 << 20;

/// Lines in the order in which they were recorded, each ending in a newline.
pub struct LineBuffer {
    /// The lines behind those in the temporary file.
    memory: Vec<u8>,
    spill: Option<TemporaryFile>,
    /// How many bytes of the temporary file count. Behind them may be what was rolled back, or part of a failed write.
    spilled: u64,
}

impl LineBuffer {
    pub const fn new() -> Self {
        LineBuffer { memory: Vec::new(), spill: None, spilled: 0 }
    }

    pub fn len(&self) -> u64 {
        self.spilled + self.memory.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a line that `write` appends to the buffer it is given.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.memory);
        self.memory.push(b'\n');
        if self.memory.len() >= MEMORY_BYTES {
            self.spill_memory();
        }
    }

    /// Forgets everything behind the first `length` bytes. Cannot fail: it runs when a subtransaction aborts.
    pub fn truncate(&mut self, length: u64) {
        if length >= self.spilled {
            self.memory.truncate((length - self.spilled) as usize);
        } else {
            self.memory.clear();
            self.spilled = length;
        }
    }

    /// Forgets everything at the end of a transaction; Postgres has closed the temporary file or does so now.
    pub fn clear(&mut self) {
        self.memory.clear();
        self.memory.shrink_to(MEMORY_BYTES / 16);
        self.spill = None;
        self.spilled = 0;
    }

    /// The lines in pieces of whole lines, from the first.
    pub fn pieces(&mut self) -> Pieces<'_> {
        Pieces { lines: self, at: 0, memory_at: 0, piece: Vec::new(), rest: Vec::new() }
    }

    /// Closes the temporary file, which has to happen before COMMIT.
    pub fn close_spill(&mut self) {
        if let Some(spill) = self.spill.take() {
            spill.close();
        }
    }

    fn spill_memory(&mut self) {
        self.spill.get_or_insert_with(TemporaryFile::create).write(&self.memory, self.spilled);
        self.spilled += self.memory.len() as u64;
        self.memory.clear();
    }
}

/// Reads a [`LineBuffer`] back in bounded memory.
pub struct Pieces<'a> {
    lines: &'a mut LineBuffer,
    /// How much of the temporary file has been read.
    at: u64,
    /// How much of the memory has been given out.
    memory_at: usize,
    piece: Vec<u8>,
    /// The start of a line whose end was not in the last piece.
    rest: Vec<u8>,
}

impl Pieces<'_> {
    #[allow(clippy::should_implement_trait, reason = "a piece borrows from the reader, which Iterator cannot say")]
    pub fn next(&mut self) -> Option<&[u8]> {
        if self.at == self.lines.spilled {
            return self.next_from_memory();
        }
        self.piece.clear();
        self.piece.append(&mut self.rest);
        loop {
            check_for_interrupts!();
            let more = (self.lines.spilled - self.at).min(PIECE_BYTES as u64) as usize;
            let have = self.piece.len();
            self.piece.resize(have + more, 0);
            match &self.lines.spill {
                Some(spill) if more > 0 => spill.read(&mut self.piece[have..], self.at),
                _ => pgrx::error!("the last recorded line in the temporary file has no end"),
            }
            self.at += more as u64;
            // Only the new part can hold a newline. Searching all of a long line again for each part would take
            // quadratic time.
            if let Some(newline) = self.piece[have..].iter().rposition(|byte| *byte == b'\n') {
                let end = have + newline + 1;
                self.rest.extend_from_slice(&self.piece[end..]);
                self.piece.truncate(end);
                return Some(&self.piece);
            }
        }
    }

    fn next_from_memory(&mut self) -> Option<&[u8]> {
        let memory = &self.lines.memory[self.memory_at..];
        if memory.is_empty() {
            return None;
        }
        let within = &memory[..memory.len().min(PIECE_BYTES)];
        let length = match within.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => newline + 1,
            None => memory.iter().position(|byte| *byte == b'\n').map_or(memory.len(), |newline| newline + 1),
        };
        self.memory_at += length;
        Some(&memory[..length])
    }
}
