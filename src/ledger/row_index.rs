//! Finds the entries about one row among all that are sealed: their places stand in [runs](super::row_runs), each of
//! them sorted by row, in chunks.

use super::record::Timestamp;
use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Where an entry about a row stands in the log. Of two places for one row, that of the later change is greater; of two
/// with the same time, the one that was sealed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// The row's id, as a number.
    pub row: u128,
    pub created_at: Timestamp,
    pub leaf_index: i64,
    pub block_number: i64,
}

impl LogPosition {
    pub const BYTES: usize = 40;

    /// Appends the place to a chunk.
    pub fn write(&self, chunk: &mut Vec<u8>) {
        chunk.extend_from_slice(&self.row.to_be_bytes());
        chunk.extend_from_slice(&self.created_at.micros().to_be_bytes());
        chunk.extend_from_slice(&self.leaf_index.to_be_bytes());
        chunk.extend_from_slice(&self.block_number.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<LogPosition> {
        let (row, rest) = bytes.split_first_chunk()?;
        let (created_at, rest) = rest.split_first_chunk()?;
        let (leaf_index, rest) = rest.split_first_chunk()?;
        let (block_number, _) = rest.split_first_chunk()?;
        Some(LogPosition {
            row: u128::from_be_bytes(*row),
            created_at: Timestamp::from_micros(i64::from_be_bytes(*created_at)).unwrap_or_default(),
            leaf_index: i64::from_be_bytes(*leaf_index),
            block_number: i64::from_be_bytes(*block_number),
        })
    }
}

/// Sorts places that are in the order of the log.
pub fn sort(places: &mut Vec<LogPosition>) {
    // Numbers are sorted several times as fast as places. Places for one row are in order already, and stay so, unless
    // the log is out of order or two rows differ only in the lower bits.
    let mut keys: Vec<u128> =
        places.iter().zip(0_u32..).map(|(place, at)| place.row & !u128::from(u32::MAX) | u128::from(at)).collect();
    keys.sort_unstable();
    *places = keys.iter().map(|key| places[*key as u32 as usize]).collect();
    if !places.is_sorted() {
        places.sort_unstable();
    }
}

/// The place at position `at` of a chunk, if it has that many.
pub fn place_at(chunk: &[u8], at: usize) -> Option<LogPosition> {
    LogPosition::read(chunk.get(at * LogPosition::BYTES..)?)
}

/// All places of a chunk.
pub fn places_of(chunk: &[u8]) -> impl Iterator<Item = LogPosition> + '_ {
    let (places, _) = chunk.as_chunks::<{ LogPosition::BYTES }>();
    places.iter().filter_map(|place| LogPosition::read(place))
}

/// The positions of the places for `row` in a chunk, which is sorted.
pub fn positions_of(chunk: &[u8], row: u128) -> Range<usize> {
    let (places, _) = chunk.as_chunks::<{ LogPosition::BYTES }>();
    let row = row.to_be_bytes();
    let start = places.partition_point(|place| place[..16] < row[..]);
    let count = places[start..].partition_point(|place| place[..16] == row[..]);
    start..start + count
}

/// Gives `each` the places of all sources in their common order, but no more than `limit`. Each source is sorted.
/// Returns, for each source that is not at its end, its number and the place that was taken from it and not given.
pub fn merge<S: Iterator<Item = LogPosition>>(
    sources: &mut [S],
    limit: i64,
    mut each: impl FnMut(&LogPosition),
) -> Vec<(usize, LogPosition)> {
    let firsts = sources.iter_mut().enumerate().filter_map(|(source, places)| Some(Reverse((places.next()?, source))));
    let mut heads: BinaryHeap<_> = firsts.collect();
    let mut left = limit;
    while left > 0 {
        let Some(mut head) = heads.peek_mut() else { break };
        let Reverse((place, source)) = *head;
        each(&place);
        left -= 1;
        match sources[source].next() {
            Some(next) => *head = Reverse((next, source)),
            None => drop(PeekMut::pop(head)),
        }
    }
    heads.into_iter().map(|Reverse((place, source))| (source, place)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    fn place(row: u128, at: i64) -> LogPosition {
        let created_at = Timestamp::from_micros(at).unwrap();
        LogPosition { row, created_at, leaf_index: at + 1, block_number: at + 2 }
    }

    fn chunk_of(places: &[LogPosition]) -> Vec<u8> {
        let mut chunk = Vec::new();
        places.iter().for_each(|place| place.write(&mut chunk));
        chunk
    }

    #[test]
    fn a_chunk_gives_back_the_places_of_one_row() {
        let places = [place(1, 5), place(3, -2), place(3, 7), place(u128::MAX, 0)];
        let chunk = chunk_of(&places);
        assert_eq!(positions_of(&chunk, 3), 1..3);
        assert_eq!(positions_of(&chunk, u128::MAX), 3..4);
        assert!(positions_of(&chunk, 2).is_empty() && positions_of(&chunk, 0).is_empty());
        let read: Vec<_> = (0..5).map_while(|at| place_at(&chunk, at)).collect();
        assert_eq!(read, places);
    }

    #[test]
    fn places_are_sorted_whatever_their_order_was() {
        let row = |at: i64| u128::from(at as u64 % 7) << 100;
        let in_order: Vec<LogPosition> = (0..500).map(|at| place(row(at), at)).collect();
        let out_of_order = in_order.iter().rev().copied().collect();
        let alike = (0..500).map(|at| place(u128::from(at as u64 * 7919 % 500), at)).collect();
        for places in [in_order, out_of_order, alike, Vec::new()] {
            let (mut sorted, mut expected) = (places.clone(), places);
            sort(&mut sorted);
            expected.sort_unstable();
            assert_eq!(sorted, expected);
        }
    }

    #[test]
    fn bytes_that_are_no_places_are_none() {
        assert!(positions_of(&[7; LogPosition::BYTES - 1], 0).is_empty());
        assert_eq!(place_at(&[7; LogPosition::BYTES - 1], 0), None);
        assert_eq!(place_at(&[], 3), None);
    }

    #[test]
    fn merging_gives_all_places_in_order_however_often_it_is_left_off() {
        let sorted = |step: i64| (0..100).map(move |at| place(u128::from((at * step) as u64), at)).collect::<Vec<_>>();
        let lists = [sorted(1), sorted(3), Vec::new(), sorted(0), sorted(7)];
        let mut expected = lists.concat();
        expected.sort_unstable();
        for limit in [0, 1, 2, 99, 100, 399, 400, i64::MAX] {
            let (mut rest, mut given) = (lists.clone().map(VecDeque::from), Vec::new());
            while given.len() < expected.len() && limit > 0 {
                let before = given.len();
                let mut sources = rest.clone().map(VecDeque::into_iter);
                let heads = merge(&mut sources, limit, |place| given.push(*place));
                rest = sources.map(|source| source.collect());
                heads.iter().for_each(|(source, place)| rest[*source].push_front(*place));
                assert!(given.len() as i64 - before as i64 <= limit);
                assert_eq!(given.len() + rest.iter().map(VecDeque::len).sum::<usize>(), expected.len());
            }
            assert!(limit == 0 || given == expected, "{limit}");
        }
    }
}
