//! Which parts of the file are looked at for lines of aborted transactions: all of theirs, and little else.

#[path = "../src/postgres/mirror/ranges.rs"]
mod ranges;

use proptest::prelude::*;
use ranges::{FileRange, FileRanges, MOST_RANGES};

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
fn parts_that_touch_are_one() {
    assert_eq!(of(&[range(10, 20), range(30, 40), range(20, 30)]).as_slice(), [range(10, 40)]);
    assert!(of(&[range(10, 10)]).is_empty());
    assert_eq!(of(&[range(5, 8), range(10, u64::MAX), range(20, 30)]).as_slice(), [range(5, 8), range(10, u64::MAX)]);
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
