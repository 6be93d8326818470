//! Does the work on the lines of a file that needs nothing but the line in several threads. One thread takes what is
//! made of each line, in the order of the file.
//!
//! Helpers take turns at reading a chunk. The lock that they read under also orders them: within it, a helper queues
//! where the results of its chunk will come from. All queues are short, so memory is bounded however slow the consumer
//! is, and a queue without a receiver ends the helper that sends to it.

use super::lines::{Chunk, Chunks, Line, Step};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{sync_channel, Receiver, RecvTimeoutError, SyncSender};
use std::sync::Mutex;
use std::thread::{self, Builder, Scope};
use std::time::Duration;

/// More lines than a chunk has unless they are very short.
const BATCH: usize = 1024;

/// How many chunks may have results that wait to be taken. The consumer takes the lines of a large transaction quickly,
/// but not the blocks that follow them, so helpers go on while it is busy with blocks. These are some megabytes; a
/// helper waits sooner where lines are short.
const QUEUED: usize = 128;

/// How often the consumer hears that nothing has come.
const PATIENCE: Duration = Duration::from_millis(100);

/// Threads that read and hash lines.
#[derive(Debug, Clone, Copy)]
pub struct Helpers {
    /// How many; with none, the caller's thread does all the work.
    pub count: usize,
    /// Calls what it is given, which starts the threads. In a server, no signal must ever be delivered to one of them.
    pub start: fn(&mut dyn FnMut()),
}

impl Default for Helpers {
    fn default() -> Self {
        Helpers::none()
    }
}

impl Helpers {
    /// The caller's thread does all the work.
    pub fn none() -> Self {
        Helpers { count: 0, start: |start| start() }
    }

    /// At most `most`, and none where there is only one processor for this process.
    pub fn up_to(most: usize) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Helpers { count: if processors > 1 { processors.min(most) } else { 0 }, ..Helpers::none() }
    }
}

/// Takes what was made of each line, in order.
pub(super) trait Consumer<T> {
    /// What was made of the next line; a break ends it all without an error.
    fn line(&mut self, made: T) -> ControlFlow<()>;

    /// All lines of a chunk were taken. `read` bytes of the file were read up to there, `terminated` of them lines.
    fn chunk(&mut self, read: u64, terminated: u64) -> io::Result<()>;

    /// There was nothing to be taken for a while.
    fn wait(&mut self) -> io::Result<()>;
}

/// Reads all lines. Each helper works with what `worker` makes for it.
pub(super) fn each_line<R: Read + Send, T: Send, W: FnMut(Line<'_>) -> T>(
    chunks: &mut Chunks<R>,
    helpers: Helpers,
    worker: impl Fn() -> W + Sync,
    consumer: &mut impl Consumer<T>,
) -> io::Result<()> {
    if helpers.count == 0 {
        return alone(chunks, worker, consumer);
    }
    prepare_to_wait();
    let max_line = chunks.max_line();
    let source = Mutex::new(&mut *chunks);
    let stop = AtomicBool::new(false);
    let started = thread::scope(|scope| {
        // Dropped before the threads are waited for, on every way out.
        let _stop = StopOnDrop(&stop);
        let (queue, results) = sync_channel(QUEUED);
        let shared = Shared { source: &source, stop: &stop, worker: &worker, max_line };
        let mut count = 0;
        (helpers.start)(&mut || count = start_threads(scope, helpers.count, &shared, &queue));
        drop(queue);
        (count > 0).then(|| take_all(&results, consumer))
    });
    // No thread could be started.
    started.unwrap_or_else(|| alone(chunks, worker, consumer))
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn alone<R: Read, T, W: FnMut(Line<'_>) -> T>(
    chunks: &mut Chunks<R>,
    new_worker: impl Fn() -> W,
    consumer: &mut impl Consumer<T>,
) -> io::Result<()> {
    let max_line = chunks.max_line();
    let (mut worker, mut chunk) = (new_worker(), Chunk::default());
    loop {
        match chunks.next(&mut chunk)? {
            Step::End => return Ok(()),
            Step::Part => {
                consumer.wait()?;
                continue;
            }
            Step::Chunk => {}
        }
        if chunk.each_line(max_line, |line| consumer.line(worker(line))).is_break() {
            return Ok(());
        }
        consumer.chunk(chunk.read, chunk.terminated)?;
        if chunk.is_large() {
            (worker, chunk) = (new_worker(), Chunk::default());
        }
    }
}

/// What the consumer finds in its queue.
enum Next<T> {
    Chunk { read: u64, terminated: u64, batches: Receiver<Batch<T>> },
    Failed(io::Error),
}

struct Batch<T> {
    made: Vec<T>,
    is_last: bool,
}

/// Gives the consumer all there is, until the helpers have ended.
fn take_all<T>(results: &Receiver<Next<T>>, consumer: &mut impl Consumer<T>) -> io::Result<()> {
    while let Some(next) = receive(results, consumer)? {
        let (read, terminated, batches) = match next {
            Next::Failed(error) => return Err(error),
            Next::Chunk { read, terminated, batches } => (read, terminated, batches),
        };
        loop {
            let Some(batch) = receive(&batches, consumer)? else {
                // The helper has panicked, and waiting for it makes that known.
                return Ok(());
            };
            for made in batch.made {
                if consumer.line(made).is_break() {
                    return Ok(());
                }
            }
            if batch.is_last {
                break;
            }
        }
        consumer.chunk(read, terminated)?;
    }
    Ok(())
}

/// `None` once nothing more can come.
fn receive<M, T>(receiver: &Receiver<M>, consumer: &mut impl Consumer<T>) -> io::Result<Option<M>> {
    loop {
        match receiver.recv_timeout(PATIENCE) {
            Ok(message) => return Ok(Some(message)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => consumer.wait()?,
        }
    }
}

struct Shared<'env, R, F> {
    source: &'env Mutex<&'env mut Chunks<R>>,
    stop: &'env AtomicBool,
    worker: &'env F,
    max_line: usize,
}

impl<R, F> Clone for Shared<'_, R, F> {
    fn clone(&self) -> Self {
        Shared { ..*self }
    }
}

/// Waits for a channel once, for no time. With the first wait in a thread, the standard library registers what is to be
/// freed at the thread's end, and glibc aborts the process where it has no memory for that. So memory that is enough is
/// asked for before, of the allocator, which can say so in its own way.
pub(super) fn prepare_to_wait() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(4096)));
    let (_sender, nothing) = sync_channel::<()>(0);
    let _ = nothing.recv_timeout(Duration::ZERO);
}

/// Gives how many could be started.
fn start_threads<'scope, 'env, R: Read + Send, T: Send + 'scope, W: FnMut(Line<'_>) -> T, F: Fn() -> W + Sync>(
    scope: &'scope Scope<'scope, 'env>,
    count: usize,
    shared: &Shared<'env, R, F>,
    queue: &SyncSender<Next<T>>,
) -> usize {
    (0..count)
        .take_while(|_| {
            let (shared, queue) = (shared.clone(), queue.clone());
            let name = "pg_notary reader".to_owned();
            Builder::new().name(name).spawn_scoped(scope, move || help(&shared, &queue)).is_ok()
        })
        .count()
}

/// Reads chunks and works on their lines until the end of the file, or until the consumer is gone.
fn help<R: Read, T, W: FnMut(Line<'_>) -> T, F: Fn() -> W>(shared: &Shared<'_, R, F>, queue: &SyncSender<Next<T>>) {
    prepare_to_wait();
    let (mut worker, mut chunk) = ((shared.worker)(), Chunk::default());
    loop {
        let Ok(mut source) = shared.source.lock() else {
            return;
        };
        let (sender, batches) = sync_channel(1);
        let next = match read_chunk(&mut source, &mut chunk, shared.stop) {
            Ok(true) => Next::Chunk { read: chunk.read, terminated: chunk.terminated, batches },
            Ok(false) => return,
            Err(error) => Next::Failed(error),
        };
        let has_failed = matches!(next, Next::Failed(_));
        if queue.send(next).is_err() || has_failed {
            return;
        }
        // A long line takes much memory: no other helper reads on meanwhile, and perhaps another such line.
        let alone = chunk.is_large().then_some(source);
        if !work(&chunk, shared.max_line, &mut worker, &sender) {
            return;
        }
        if alone.is_some() {
            (worker, chunk) = ((shared.worker)(), Chunk::default());
        }
    }
}

/// False at the end of the file, and when reading is to stop.
fn read_chunk<R: Read>(source: &mut Chunks<R>, chunk: &mut Chunk, stop: &AtomicBool) -> io::Result<bool> {
    while !stop.load(Ordering::Relaxed) {
        match source.next(chunk)? {
            Step::Chunk => return Ok(true),
            Step::End => return Ok(false),
            Step::Part => {}
        }
    }
    Ok(false)
}

/// Sends what is made of the lines of a chunk; false if the consumer is gone.
fn work<T, W: FnMut(Line<'_>) -> T>(
    chunk: &Chunk,
    max_line: usize,
    worker: &mut W,
    results: &SyncSender<Batch<T>>,
) -> bool {
    let mut made = Vec::with_capacity(BATCH);
    let sent = chunk.each_line(max_line, |line| {
        if made.len() == BATCH {
            let full = std::mem::replace(&mut made, Vec::with_capacity(BATCH));
            if results.send(Batch { made: full, is_last: false }).is_err() {
                return ControlFlow::Break(());
            }
        }
        made.push(worker(line));
        ControlFlow::Continue(())
    });
    sent.is_continue() && results.send(Batch { made, is_last: true }).is_ok()
}
