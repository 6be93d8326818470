//! A file that differs from the database is not read again for each session that tries to record. It may be large, and
//! applications try all the time.

use super::cause::CauseKind;
use super::last_change::FileStamp;
use super::refused::Refused;
use super::state_file;
use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How many times as long as it took to read them the files are left alone, if nobody changes them.
const RESTS: u32 = 9;
/// Somebody may repair the database instead, and only reading the file shows that.
const LONGEST_REST: Duration = Duration::from_secs(60);

thread_local! {
    static LAST: RefCell<Option<Differing>> = const { RefCell::new(None) };
}

/// What was found the last time.
struct Differing {
    /// As they were before: who changed one meanwhile may have repaired it.
    files: Files,
    rests_until: Instant,
    refused: Refused,
}

/// The mirror file and its state file; `None` if one cannot be examined.
type Files = [Option<FileState>; 2];

/// What a change of a file changes.
#[derive(PartialEq, Eq)]
struct FileState {
    device: u64,
    inode: u64,
    size: u64,
    stamp: FileStamp,
}

/// Reads the opened file, unless a short time ago it was found to differ, and is as it was then.
pub fn read_unless_refused<T>(
    file: &File,
    path: &Path,
    read: impl FnOnce() -> Result<T, Refused>,
) -> Result<T, Refused> {
    let files = files(file, path);
    let last = LAST.take().filter(|last| Instant::now() < last.rests_until && last.files == files);
    if let Some(last) = last {
        let refused = last.refused.clone();
        LAST.set(Some(last));
        return Err(refused);
    }
    let since = Instant::now();
    let outcome = read();
    if let Some(refused) = outcome.as_ref().err().filter(|refused| refused.kind == CauseKind::Diverged) {
        let rests_until = Instant::now() + (RESTS * since.elapsed()).min(LONGEST_REST);
        LAST.set(Some(Differing { files, rests_until, refused: refused.clone() }));
    }
    outcome
}

fn files(file: &File, path: &Path) -> Files {
    let state = state_file::path_of(path).symlink_metadata();
    [file.metadata(), state].map(|metadata| metadata.ok().map(|metadata| FileState::of(&metadata)))
}

impl FileState {
    fn of(metadata: &Metadata) -> FileState {
        FileState {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            stamp: FileStamp::of(metadata),
        }
    }
}
