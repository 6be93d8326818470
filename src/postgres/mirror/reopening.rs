//! What must be known of the time since the file was last opened, when it is opened again.

use super::lost::Lost;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// The part of a file that may not be on disk because a sync has failed: everything behind `from`. The kernel reports a
/// failed sync once, and the next one as successful. If nothing of the file is known to be on disk, `from` is 0.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsynced {
    device: u64,
    inode: u64,
    from: u64,
}

impl Unsynced {
    pub const NONE: Unsynced = Unsynced { device: 0, inode: 0, from: u64::MAX };

    /// Everything behind `from`, in the file with this device and inode number.
    pub fn behind(from: u64, device: u64, inode: u64) -> Unsynced {
        Unsynced { device, inode, from }
    }

    /// Where that part begins, if it is this file's, and can be cut off.
    pub fn from(&self, file: &Metadata) -> Option<u64> {
        let can_be_cut = (1..file.len()).contains(&self.from);
        (self.is_of(file) && can_be_cut).then_some(self.from)
    }

    /// Whether it is all of this file.
    pub fn is_all_of(&self, file: &Metadata) -> bool {
        self.is_of(file) && self.from == 0
    }

    fn is_of(&self, file: &Metadata) -> bool {
        (self.device, self.inode) == (file.dev(), file.ino())
    }
}

/// Kept in shared memory. Zeroes are a valid value, and know nothing.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Reopening {
    /// Lines that commits rely on may be missing from the file.
    pub has_lost: bool,
    /// Entries may have been committed without lines since the file had all. An attempt to open it that fails leaves it
    /// so.
    pub may_lack: bool,
    /// All lines of aborted transactions in the file are voided or noted in `void`, up to `uncut_from`: an attempt to
    /// open it has come to its end, and no other was needed since.
    pub knows_aborted: bool,
    /// From here on the file may hold what was given up and not cut off. 0: from nowhere.
    pub uncut_from: u64,
    /// What must be cut off before the file is read.
    pub unsynced: Unsynced,
    /// What the database may have lost before this server started. Noted by an attempt to open the file, until one has
    /// succeeded: the state file says no more than this one has written it.
    pub lost: Lost,
}

impl Reopening {
    pub const NOTHING_KNOWN: Reopening = Reopening {
        has_lost: false,
        may_lack: false,
        knows_aborted: false,
        uncut_from: 0,
        unsynced: Unsynced::NONE,
        lost: Lost::Nothing,
    };

    /// Whether lines of what is committed may be missing from the file.
    pub fn may_miss_lines(&self) -> bool {
        self.may_lack || self.has_lost
    }

    /// Notes that the file may hold something behind `keep` that was given up.
    pub fn note_uncut(&mut self, keep: u64) {
        self.uncut_from = match self.uncut_from {
            0 => keep,
            known => known.min(keep),
        };
    }

    /// Whether lines of aborted transactions at this offset are noted, if there are any.
    pub fn knows_aborted_at(&self, offset: u64) -> bool {
        self.knows_aborted && (self.uncut_from == 0 || offset < self.uncut_from)
    }

    /// The file was cut back to what is on disk. Void lines may have been cut off, and lines of entries that are
    /// committed.
    pub fn note_cut_off(&mut self) {
        (self.may_lack, self.knows_aborted) = (true, false);
    }

    /// What is left of it once the file has been read, when the worker begins to append what it lacks.
    pub fn taken_over(self) -> Reopening {
        // Lines behind that place were judged without knowing.
        let knows_aborted = self.knows_aborted && self.uncut_from == 0;
        Reopening { has_lost: false, knows_aborted, uncut_from: 0, unsynced: Unsynced::NONE, ..self }
    }

    /// File and database agree.
    pub fn end(&mut self) {
        (self.knows_aborted, self.lost) = (true, Lost::Nothing);
    }
}
