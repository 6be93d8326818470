//! [`LineBuffer`]: the lines of one transaction, from when they are recorded until the commit appends them to the file.
//! The worker uses one for the lines that it appends itself.
//!
//! Few lines stay in memory. More go to a temporary file of Postgres, so that a transaction may record any number of
//! entries.

use pgrx::{check_for_interrupts, pg_sys};
use std::ffi::c_void;

/// What is kept in memory before it goes to the temporary file.
const MEMORY_BYTES: usize = 1 << 20;
/// Size of a piece when the lines are read back; a longer line makes a longer piece.
const PIECE_BYTES: usize = 1 << 20;
/// Postgres splits temporary files into segments of this size, and seeks by segment and offset.
const SEGMENT_BYTES: u64 = 1 << 30;

/// Lines in the order in which they were recorded, each ending in a newline.
pub struct LineBuffer {
    /// The lines behind those in the temporary file.
    memory: Vec<u8>,
    spill: *mut pg_sys::BufFile,
    spilled: u64,
}

impl LineBuffer {
    pub const fn new() -> Self {
        LineBuffer { memory: Vec::new(), spill: std::ptr::null_mut(), spilled: 0 }
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
        self.spill = std::ptr::null_mut();
        self.spilled = 0;
    }

    /// The lines in pieces of whole lines, from the first.
    pub fn pieces(&mut self) -> Pieces<'_> {
        Pieces { lines: self, at: 0, memory_at: 0, piece: Vec::new(), rest: Vec::new() }
    }

    /// Closes the temporary file: at COMMIT Postgres would take an open one for a leak.
    pub fn close_spill(&mut self) {
        if !self.spill.is_null() {
            let _owned = Owned::by_transaction();
            // SAFETY: spill_memory() created the file in this transaction, which still runs, and it has not been closed
            // since.
            unsafe { pg_sys::BufFileClose(self.spill) }
            self.spill = std::ptr::null_mut();
        }
    }

    fn spill_memory(&mut self) {
        let _owned = Owned::by_transaction();
        // SAFETY: a transaction is open, and `_owned` makes it the owner of the file. The memory stays in place during
        // the write.
        unsafe {
            if self.spill.is_null() {
                self.spill = pg_sys::BufFileCreateTemp(false);
            }
            self.seek(self.spilled);
            pg_sys::BufFileWrite(self.spill, self.memory.as_mut_ptr() as *mut c_void as *mut _, self.memory.len());
        }
        self.spilled += self.memory.len() as u64;
        self.memory.clear();
    }

    fn seek(&self, offset: u64) {
        let (segment, within) = ((offset / SEGMENT_BYTES) as i32, (offset % SEGMENT_BYTES) as i64);
        // SAFETY: the file is open; seeking to or before its end is always possible.
        unsafe { pg_sys::BufFileSeek(self.spill, segment, within, libc::SEEK_SET) };
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        // Seeking may first write out what is buffered.
        let _owned = Owned::by_transaction();
        self.seek(offset);
        // SAFETY: the file is open and `into` has room for that many bytes.
        let read = unsafe { pg_sys::BufFileRead(self.spill, into.as_mut_ptr().cast(), into.len()) };
        if read != into.len() {
            pgrx::error!("could not read back temporary file of recorded entries: {read} of {} bytes", into.len());
        }
    }
}

/// While this value lives, what Postgres allocates belongs to the whole transaction: it outlives subtransactions and
/// portals, and goes when the transaction aborts.
///
/// An ERROR drops this value too, and so restores the previous owner. Postgres leaves the temporary file's owner in
/// place then, as none of its code runs before the abort. But here destructors run, and one that releases a buffer of
/// another owner would raise a second ERROR.
struct Owned {
    context: pg_sys::MemoryContext,
    owner: pg_sys::ResourceOwner,
}

impl Owned {
    fn by_transaction() -> Owned {
        // SAFETY: globals of this process. Inside a transaction its own context and owner exist.
        unsafe {
            let owned = Owned { context: pg_sys::CurrentMemoryContext, owner: pg_sys::CurrentResourceOwner };
            pg_sys::CurrentMemoryContext = pg_sys::TopTransactionContext;
            pg_sys::CurrentResourceOwner = pg_sys::TopTransactionResourceOwner;
            owned
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: restores what was current when this value was made, which outlives the call that made it.
        unsafe {
            pg_sys::CurrentMemoryContext = self.context;
            pg_sys::CurrentResourceOwner = self.owner;
        }
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
            self.lines.read(self.at, &mut self.piece[have..]);
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
