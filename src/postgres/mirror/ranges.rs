//! Parts of the file, as offsets.

/// A part of the file.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileRange {
    pub from: u64,
    pub to: u64,
}

impl FileRange {
    pub const NONE: FileRange = FileRange { from: 0, to: 0 };

    pub fn is_empty(self) -> bool {
        self.from >= self.to
    }

    pub fn has(self, offset: u64) -> bool {
        self.from <= offset && offset < self.to
    }

    /// Both, and what lies between them.
    pub fn and(self, other: FileRange) -> FileRange {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            _ => FileRange { from: self.from.min(other.from), to: self.to.max(other.to) },
        }
    }

    fn touches(self, other: FileRange) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// Parts that are kept apart. More are rare: lines are voided within milliseconds.
pub const MOST_RANGES: usize = 16;

/// Parts of the file, in its order, none of which touches another: what lies between two that are far apart is not read because
/// of them. Where there are too many, the nearest become one. It lies in shared memory, and allocates nothing.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct FileRanges {
    /// With a place for the one that is too many.
    ranges: [FileRange; MOST_RANGES + 1],
    count: usize,
}

impl FileRanges {
    pub const NONE: FileRanges = FileRanges { ranges: [FileRange::NONE; MOST_RANGES + 1], count: 0 };

    pub fn as_slice(&self) -> &[FileRange] {
        &self.ranges[..self.count]
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn has(&self, offset: u64) -> bool {
        self.as_slice().iter().any(|range| range.has(offset))
    }

    pub fn add(&mut self, range: FileRange) {
        if range.is_empty() {
            return;
        }
        let (mut added, mut kept) = (range, 0);
        for at in 0..self.count {
            let other = self.ranges[at];
            if other.touches(range) {
                added = added.and(other);
            } else {
                self.ranges[kept] = other;
                kept += 1;
            }
        }
        let place = self.ranges[..kept].partition_point(|other| other.from < added.from);
        self.ranges.copy_within(place..kept, place + 1);
        self.ranges[place] = added;
        self.count = kept + 1;
        if self.count > MOST_RANGES {
            self.join_nearest();
        }
    }

    pub fn add_all(&mut self, others: &FileRanges) {
        others.as_slice().iter().for_each(|range| self.add(*range));
    }

    fn join_nearest(&mut self) {
        let gap = |at: &usize| self.ranges[at + 1].from - self.ranges[*at].to;
        let Some(at) = (0..self.count - 1).min_by_key(gap) else { return };
        self.ranges[at].to = self.ranges[at + 1].to;
        self.ranges.copy_within(at + 2..self.count, at + 1);
        self.count -= 1;
    }
}
