//! Parts of the mirror file, as byte offsets.

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

    /// One range of both, and what lies between them.
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

/// How many parts are kept apart. More are rare: lines are voided within milliseconds.
pub const MOST_RANGES: usize = 16;

/// Parts of the file, in file order, none of which touches another. They are kept apart so that what lies between two
/// distant ones need not be read. Where there are too many, the nearest two become one. This lies in shared memory, and
/// allocates nothing.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct FileRanges {
    /// With room for the one that is too many.
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

    /// Whether one of them begins before this offset.
    pub fn begins_before(&self, offset: u64) -> bool {
        self.as_slice().first().is_some_and(|range| range.from < offset)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(from: u64, to: u64) -> FileRange {
        FileRange { from, to }
    }

    fn of(parts: &[FileRange]) -> FileRanges {
        let mut ranges = FileRanges::NONE;
        parts.iter().for_each(|part| ranges.add(*part));
        ranges
    }

    fn bytes(ranges: &FileRanges) -> u64 {
        ranges.as_slice().iter().map(|range| range.to - range.from).sum()
    }

    #[test]
    fn what_lies_between_two_distant_parts_is_none_of_them() {
        let ranges = of(&[range(9_000_000, 9_000_100), range(100, 400)]);
        assert_eq!(ranges.as_slice(), [range(100, 400), range(9_000_000, 9_000_100)]);
        assert!(ranges.has(100) && ranges.has(399) && !ranges.has(400) && !ranges.has(8_999_999));
    }

    #[test]
    fn one_range_of_two_has_both_and_an_empty_one_adds_nothing() {
        assert_eq!(range(10, 20).and(range(40, 50)), range(10, 50));
        assert_eq!(range(40, 50).and(range(10, 20)), range(10, 50));
        for empty in [FileRange::NONE, range(90, 90)] {
            assert_eq!(empty.and(range(40, 50)), range(40, 50));
            assert_eq!(range(40, 50).and(empty), range(40, 50));
        }
    }

    #[test]
    fn parts_that_touch_are_one() {
        assert_eq!(of(&[range(10, 20), range(30, 40), range(20, 30)]).as_slice(), [range(10, 40)]);
        assert!(of(&[range(10, 10)]).is_empty() && !of(&[range(10, 11)]).is_empty());
        assert_eq!(
            of(&[range(5, 8), range(10, u64::MAX), range(20, 30)]).as_slice(),
            [range(5, 8), range(10, u64::MAX)]
        );
    }

    #[test]
    fn where_there_are_too_many_the_nearest_become_one() {
        let count = MOST_RANGES as u64;
        let mut ranges = of(&(1..=count).map(|n| range(n * 1000, n * 1000 + 10)).collect::<Vec<_>>());
        ranges.add(range(3500, 3995));
        assert_eq!(ranges.as_slice().len(), MOST_RANGES);
        assert!(ranges.as_slice().contains(&range(3500, 4010)));
        assert_eq!(bytes(&ranges), count * 10 + 500);
    }

    proptest! {
        #[test]
        fn every_part_is_kept_in_order_and_apart(parts in prop::collection::vec((0u64..5000, 0u64..200), 0..60)) {
            let parts: Vec<FileRange> = parts.into_iter().map(|(from, length)| range(from, from + length)).collect();
            let mut joined = of(&parts[..parts.len() / 2]);
            joined.add_all(&of(&parts[parts.len() / 2..]));
            for ranges in [of(&parts), joined] {
                prop_assert!(ranges.as_slice().len() <= MOST_RANGES);
                prop_assert!(ranges.as_slice().windows(2).all(|pair| pair[0].to < pair[1].from));
                for part in parts.iter().filter(|part| !part.is_empty()) {
                    let holds = |range: &FileRange| range.from <= part.from && part.to <= range.to;
                    prop_assert!(ranges.as_slice().iter().any(holds), "{:?} is not in {:?}", part, ranges.as_slice());
                }
            }
        }
    }
}
