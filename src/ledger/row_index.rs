//! How the entries about one row are found among all that are sealed: in runs.
//!
//! A sealing pass writes what its entries are about as one run, sorted by row, in chunks. So it appends, where an index on rows
//! would take every entry to a page of its own. When there are several runs of about one size, the next one is merged with
//! them, up to a size from which on a run stays as it is. So there are few runs to look into, an entry is written a few times,
//! and no pass takes long.

use super::record::Timestamp;
use std::ops::Range;

/// So many runs of about one size become one.
const FAN: usize = 8;
/// A run of this length is not merged any more.
const LARGEST: i64 = 1 << 20;

/// Where an entry about a row stands in the log. Of two places for one row, that of the later change is greater; of two of
/// the same time, that which was sealed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The row's id, as a number.
    pub row: u128,
    pub created_at: Timestamp,
    pub leaf_index: i64,
    pub block_number: i64,
}

impl Place {
    pub const BYTES: usize = 40;

    /// Appends it to a chunk.
    pub fn write(&self, chunk: &mut Vec<u8>) {
        chunk.extend_from_slice(&self.row.to_be_bytes());
        chunk.extend_from_slice(&self.created_at.micros().to_be_bytes());
        chunk.extend_from_slice(&self.leaf_index.to_be_bytes());
        chunk.extend_from_slice(&self.block_number.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Place> {
        let (row, rest) = bytes.split_first_chunk()?;
        let (created_at, rest) = rest.split_first_chunk()?;
        let (leaf_index, rest) = rest.split_first_chunk()?;
        let (block_number, _) = rest.split_first_chunk()?;
        Some(Place {
            row: u128::from_be_bytes(*row),
            created_at: Timestamp::from_micros(i64::from_be_bytes(*created_at)).unwrap_or_default(),
            leaf_index: i64::from_be_bytes(*leaf_index),
            block_number: i64::from_be_bytes(*block_number),
        })
    }
}

/// Sorts places that are in the order of the log.
pub fn sort(places: &mut Vec<Place>) {
    // Numbers are sorted several times as fast as places. Those for one row are in order already, and remain so, unless the
    // log is out of order or two rows differ in the lower bits alone.
    let mut keys: Vec<u128> =
        places.iter().zip(0_u32..).map(|(place, at)| place.row & !u128::from(u32::MAX) | u128::from(at)).collect();
    keys.sort_unstable();
    *places = keys.iter().map(|key| places[*key as u32 as usize]).collect();
    if !places.is_sorted() {
        places.sort_unstable();
    }
}

/// The place at position `at` of a chunk, if it has so many.
pub fn place_at(chunk: &[u8], at: usize) -> Option<Place> {
    Place::read(chunk.get(at * Place::BYTES..)?)
}

/// The positions of the places for `row` in a chunk, which is sorted.
pub fn positions_of(chunk: &[u8], row: u128) -> Range<usize> {
    let (places, _) = chunk.as_chunks::<{ Place::BYTES }>();
    let row = row.to_be_bytes();
    let start = places.partition_point(|place| place[..16] < row[..]);
    let count = places[start..].partition_point(|place| place[..16] == row[..]);
    start..start + count
}

/// A run: its number, and how many places it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub number: i64,
    pub length: i64,
}

/// How many of the runs, from the last one on, become one with a new one of `length` places.
pub fn runs_to_merge(runs: &[Run], length: i64) -> usize {
    let (mut taken, mut length) = (0, length);
    while length < LARGEST {
        let rest = &runs[..runs.len() - taken];
        let is_alike = |run: &&Run| run.length < LARGEST && size_class(run.length) <= size_class(length);
        let alike = rest.iter().rev().take_while(is_alike).count();
        if alike + 1 < FAN {
            break;
        }
        length += rest[rest.len() - alike..].iter().map(|run| run.length).sum::<i64>();
        taken += alike;
    }
    taken
}

fn size_class(length: i64) -> u32 {
    length.max(1).ilog(FAN as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(row: u128, at: i64) -> Place {
        let created_at = Timestamp::from_micros(at).unwrap();
        Place { row, created_at, leaf_index: at + 1, block_number: at + 2 }
    }

    fn chunk_of(places: &[Place]) -> Vec<u8> {
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
        let in_order: Vec<Place> = (0..500).map(|at| place(row(at), at)).collect();
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
        assert!(positions_of(&[7; Place::BYTES - 1], 0).is_empty());
        assert_eq!(place_at(&[7; Place::BYTES - 1], 0), None);
        assert_eq!(place_at(&[], 3), None);
    }

    /// Adds runs of these lengths; gives how many there were at most, and how often a place was written on average.
    fn grow(lengths: impl Iterator<Item = i64>) -> (usize, f64, Vec<Run>) {
        let (mut runs, mut most, mut written, mut all) = (Vec::<Run>::new(), 0, 0, 0);
        for (number, length) in (1..).zip(lengths) {
            let kept = runs.len() - runs_to_merge(&runs, length);
            let merged = length + runs.drain(kept..).map(|run| run.length).sum::<i64>();
            runs.push(Run { number, length: merged });
            (most, written, all) = (most.max(runs.len()), written + merged, all + length);
        }
        assert_eq!(runs.iter().map(|run| run.length).sum::<i64>(), all);
        (most, written as f64 / all as f64, runs)
    }

    #[test]
    fn there_are_few_runs_and_each_place_is_written_a_few_times() {
        // A backlog of fifty million entries, small passes, and both in turn.
        let (most, times, _) = grow(std::iter::repeat_n(32_768, 1526));
        assert!(most < 60 && times < 3.1, "{most} runs, {times} times");
        let (most, times, _) = grow(std::iter::repeat_n(100, 20_000));
        assert!(most < 40 && times < 6.5, "{most} runs, {times} times");
        let (most, times, _) = grow((0..20_000).map(|pass| if pass % 3 == 0 { 9000 } else { 1 + pass % 200 }));
        assert!(most < 200 && times < 8.0, "{most} runs, {times} times");
    }

    #[test]
    fn no_pass_merges_more_than_it_can_in_moments() {
        let (_, _, runs) = grow(std::iter::repeat_n(32_767, 3000));
        assert!(runs.iter().all(|run| run.length <= FAN as i64 * LARGEST));
    }
}
