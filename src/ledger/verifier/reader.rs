//! Drives a [`FileVerifier`] over a whole file.

use super::file::{FileBlock, FileReport, FileVerifier};
use super::line::{block_line, ReadLine};
use super::lines::{Chunks, Line, CHUNK, MAX_LINE};
use super::parallel::{each_line, Consumer, Helpers};
use super::problem::{Findings, Problem};
use crate::ledger::record::{BlockLine, LineParser};
use crate::ledger::signature::Keyring;
use std::borrow::Cow;
use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::ControlFlow;

/// What to check a file with.
#[derive(Debug, Default, Clone, Copy)]
pub struct FileOptions<'a> {
    /// Without one, signatures are not checked.
    pub keyring: Option<&'a Keyring>,
    /// Threads that read and hash the lines.
    pub helpers: Helpers,
}

/// Is told what happens, on the thread that verifies. `()` ignores it.
pub trait Observer {
    /// `bytes` of the file are done; a break ends the verification. Also called when there is no progress for a while.
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
    reader: impl Read + Seek + Send,
    options: FileOptions<'_>,
    observer: &mut impl Observer,
) -> io::Result<FileReport> {
    verify_in_chunks(reader, options, observer, CHUNK, MAX_LINE)
}

/// The same in chunks of another size, with another longest line.
pub(super) fn verify_in_chunks(
    mut reader: impl Read + Seek + Send,
    options: FileOptions<'_>,
    observer: &mut impl Observer,
    chunk_size: usize,
    max_line: usize,
) -> io::Result<FileReport> {
    let FileOptions { keyring, helpers } = options;
    let start = reader.stream_position()?;
    let observer = RefCell::new(observer);
    let sink = |problem: &Problem| observer.borrow_mut().problem(problem);
    let verifier = FileVerifier::new(keyring.map(Cow::Borrowed), Findings::with_sink(sink));

    let mut chunks = Chunks::new(&mut reader, chunk_size, max_line);
    let mut lines = Lines { verifier, observer: &observer, read: 0, terminated: 0 };
    let read_line = || {
        let mut parser = LineParser::default();
        move |line: Line<'_>| ReadLine::new(line, &mut parser, keyring)
    };
    each_line(&mut chunks, helpers, read_line, &mut lines)?;
    let Lines { mut verifier, terminated, .. } = lines;
    if chunks.unterminated() > 0 {
        verifier.unterminated_line(chunks.unterminated());
    }
    if verifier.has_pending() {
        reader.seek(SeekFrom::Start(start))?;
        let mut chunks = Chunks::new(reader.take(terminated), chunk_size, max_line);
        let mut blocks = BlockLines { verifier: &mut verifier, observer: &observer, bytes: terminated, line_number: 0 };
        let read_block = || {
            let mut parser = LineParser::default();
            move |line: Line<'_>| block_line(line, &mut parser)
        };
        each_line(&mut chunks, helpers, read_block, &mut blocks)?;
    }
    Ok(verifier.finish(terminated))
}

/// Takes all lines.
struct Lines<'v, 'o, O> {
    verifier: FileVerifier<'v>,
    observer: &'v RefCell<&'o mut O>,
    read: u64,
    terminated: u64,
}

impl<O: Observer> Consumer<ReadLine> for Lines<'_, '_, O> {
    fn line(&mut self, line: ReadLine) -> ControlFlow<()> {
        if let Some(block) = self.verifier.read_line(line) {
            self.observer.borrow_mut().block(block);
        }
        ControlFlow::Continue(())
    }

    fn chunk(&mut self, read: u64, terminated: u64) -> io::Result<()> {
        (self.read, self.terminated) = (read, terminated);
        report(self.observer, read)
    }

    fn wait(&mut self) -> io::Result<()> {
        report(self.observer, self.read)
    }
}

/// Takes block lines a second time, as long as there are pending entries.
struct BlockLines<'v, 'f, 'o, O> {
    verifier: &'v mut FileVerifier<'f>,
    observer: &'v RefCell<&'o mut O>,
    bytes: u64,
    line_number: u64,
}

impl<O: Observer> Consumer<Option<Box<BlockLine>>> for BlockLines<'_, '_, '_, O> {
    fn line(&mut self, block: Option<Box<BlockLine>>) -> ControlFlow<()> {
        self.line_number += 1;
        if let Some(block) = block {
            self.verifier.look_again(self.line_number, &block);
        }
        match self.verifier.has_pending() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }

    fn chunk(&mut self, _read: u64, _terminated: u64) -> io::Result<()> {
        self.wait()
    }

    fn wait(&mut self) -> io::Result<()> {
        report(self.observer, self.bytes)
    }
}

fn report<O: Observer>(observer: &RefCell<&mut O>, bytes: u64) -> io::Result<()> {
    match observer.borrow_mut().progress(bytes) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ErrorKind::Interrupted.into()),
    }
}
